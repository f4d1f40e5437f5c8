# SPDX-License-Identifier: GPL-3.0-or-later
# This file is private to the multibase.supabase collection; it may change at any time.
"""Retention: which backups are kept and why, which are removed, and when nothing may be removed at all."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, fields
from datetime import datetime, timezone
from typing import AbstractSet, Any, Callable, Dict, List, Mapping, Optional, Sequence, Set, Tuple

from ._errors import InvalidInput

# One verified backup is none: the day it is needed is the day its disk turns out to be broken.
MINIMUM_VERIFIED = 2
# What two hosts' clocks may differ by before a backup from the future means that one of them is wrong.
FUTURE_SECONDS = 300
# A host whose newest backup is older than this has been asleep, or its clock has jumped. Either way a person decides.
STALE_DAYS = 400
DAY = 86400
# Of two backups in a row: how many of the usual pauses may lie between them.
_USUAL_PAUSES = 3
# The seconds that datetime can name: 1970 up to the end of the year 9999.
_LAST_SECOND = 253402300799.0


@dataclass(frozen=True)
class Policy:
    """What to keep. Zero turns a rule off, except that ``minimum_verified`` is never taken for less than two.

    ``keep_hourly`` to ``keep_yearly`` count periods in UTC that hold a backup, ``keep_within_days`` is in days before
    the newest backup, ``max_bytes`` bounds the sum of all that is kept.
    """

    keep_last: int = 0
    keep_hourly: int = 0
    keep_daily: int = 0
    keep_weekly: int = 0
    keep_monthly: int = 0
    keep_yearly: int = 0
    keep_within_days: float = 0
    max_bytes: int = 0
    minimum_verified: int = MINIMUM_VERIFIED


@dataclass(frozen=True)
class Entry:
    """A backup: ``time`` in seconds since 1970 (UTC), ``size`` in bytes, ``id`` unique among those planned together."""

    id: str
    time: float
    verified: bool
    size: int
    pinned: bool = False


@dataclass(frozen=True)
class Plan:
    """What becomes of every backup: each is either in ``keep``, with its reasons, or in ``remove``, oldest first.

    ``refused`` says why nothing is removed although there may be something to remove; None when nothing was wrong.
    ``doubtful`` says that it is refused because the last run failed or the clock cannot be believed: then nothing else
    is removed by its age either. ``directories`` are those with data that a restore kept for its days, and ``orphans``
    files of ours that no manifest names; the caller fills them in, and ``notes`` on what the user should know.
    """

    keep: Dict[str, List[str]]
    remove: List[str]
    refused: Optional[str]
    doubtful: bool = False
    directories: List[str] = field(default_factory=list)
    orphans: List[str] = field(default_factory=list)
    notes: List[str] = field(default_factory=list)


_PERIODS: Sequence[Tuple[str, Callable[[datetime], str]]] = (
    ("hourly", "{0:%Y-%m-%d %H}:00".format),
    ("daily", "{0:%Y-%m-%d}".format),
    # The year of a week is not that of its days: 1 January 2027 is in week 53 of 2026.
    ("weekly", lambda at: "{0:04d}-W{1:02d}".format(*at.isocalendar()[:2])),
    ("monthly", "{0:%Y-%m}".format),
    ("yearly", "{0:%Y}".format),
)
_OPTIONS = tuple(one.name for one in fields(Policy))
_KEEPING = tuple(name for name in _OPTIONS if name.startswith("keep_"))


def policy_problems(options: Mapping[str, Any]) -> List[str]:
    """Return a sentence for every mistake in a policy as a user gave it; none when ``read_policy`` takes it."""
    problems: List[str] = []
    for name in sorted(options, key=str):
        value = options[name]
        if name not in _OPTIONS:
            problems.append("retention: there is no {0!r}; there are {1}".format(name, ", ".join(_OPTIONS)))
        elif name == "keep_within_days":
            if not _is_number(value) or value < 0:
                problems.append("retention.{0} {1!r} is no number of days from 0, for example 7".format(name, value))
        elif isinstance(value, bool) or not isinstance(value, int) or value < 0:
            problems.append("retention.{0} {1!r} is no whole number from 0, for example 7".format(name, value))
        elif name == "minimum_verified" and value < MINIMUM_VERIFIED:
            problems.append("retention.{0} {1} is under {2}".format(name, value, MINIMUM_VERIFIED))
    # A rule with a wrong value is reported above; it was meant to keep something.
    if not any(options.get(name, 0) != 0 for name in _KEEPING):
        problems.append("retention keeps nothing; set at least one of {0}".format(", ".join(_KEEPING)))
    return problems


def read_policy(options: Mapping[str, Any]) -> Policy:
    """Read a policy from a user's options, named as the fields of Policy. Raises InvalidInput with all mistakes."""
    problems = policy_problems(options)
    if problems:
        raise InvalidInput(problems)
    return Policy(**options)


def plan(entries: Sequence[Entry], policy: Policy, now: float, last_run_failed: bool = False) -> Plan:
    """Decide about every entry; ``now`` is in seconds since 1970 (UTC) and serves only to notice a wrong clock.

    Periods are filled from verified entries, and an unverified one never takes a verified one's place: ``keep_last``
    and ``keep_within_days`` are applied to all entries, and to the verified ones by themselves too. Were it otherwise,
    some nights of broken backups would push out the good ones. Only ``max_bytes`` counts them alike.

    Raises InvalidInput when ids are not unique, or when a time or a size can be none.
    """
    problems = _entry_problems(entries, now)
    if problems:
        raise InvalidInput(problems)
    least = max(MINIMUM_VERIFIED, policy.minimum_verified)
    newest_first = sorted(entries, key=_age, reverse=True)
    verified = [entry for entry in newest_first if entry.verified]
    reasons = _reasons(newest_first, verified, policy, least)
    doubt = _FAILED if last_run_failed else clock_doubt(newest_first, now)
    doubt = doubt or jump(verified, policy.keep_within_days)
    refused = doubt
    if refused is None and len(verified) < least:
        refused = "only {0} of at least {1} backups are verified; nothing is removed before".format(
            len(verified), least
        )
    if refused is not None:
        keep = {entry.id: reasons[entry.id] or ["nothing is removed now"] for entry in newest_first}
        return Plan(keep=keep, remove=[], refused=refused, doubtful=doubt is not None)
    kept = [entry for entry in newest_first if reasons[entry.id]]
    if policy.max_bytes:
        kept = _fit(kept, {entry.id for entry in verified[:least]}, policy.max_bytes)
    keep = {entry.id: reasons[entry.id] for entry in kept}
    return Plan(keep=keep, remove=[entry.id for entry in reversed(newest_first) if entry.id not in keep], refused=None)


def _reasons(
    newest_first: Sequence[Entry], verified: Sequence[Entry], policy: Policy, least: int
) -> Dict[str, List[str]]:
    """Return why each entry is kept, before ``max_bytes``; an empty list for one that is not."""
    reasons: Dict[str, List[str]] = {entry.id: [] for entry in newest_first}
    last = newest_first[: policy.keep_last]
    for number, entry in enumerate(last, 1):
        reasons[entry.id].append("last {0}".format(number))
    for number, entry in enumerate(verified[: policy.keep_last], 1):
        if entry not in last:
            reasons[entry.id].append("last {0} verified".format(number))
    for name, label_of in _PERIODS:
        # A dictionary keeps the first entry that is put in, the newest, and the order, newest period first.
        newest: Dict[str, Entry] = {}
        for entry in verified or newest_first:
            newest.setdefault(label_of(datetime.fromtimestamp(entry.time, timezone.utc)), entry)
        for label in list(newest)[: getattr(policy, "keep_" + name)]:
            reasons[newest[label].id].append("{0} {1}".format(name, label))
    if policy.keep_within_days:
        # From the newest entry and not from now: a host that was off for a month loses nothing when it comes back.
        span = policy.keep_within_days * DAY
        for entry in newest_first:
            anchor = verified[0] if entry.verified else newest_first[0]
            # Exactly the span apart is outside, as with restic: seven days of daily backups are seven, not eight.
            if anchor.time - entry.time < span:
                reasons[entry.id].append("within {0:g} days".format(policy.keep_within_days))
    for entry in newest_first:
        if entry.pinned:
            reasons[entry.id].append("pinned")
    for entry in verified[:least]:
        reasons[entry.id].append("newest verified")
    if verified:
        for entry in newest_first:
            if _age(entry) > _age(verified[0]):
                reasons[entry.id].append("newer than the newest verified")
    return reasons


def _fit(newest_first: Sequence[Entry], protected: AbstractSet[str], most: int) -> List[Entry]:
    """Drop the oldest entries that are neither pinned nor protected until the rest has at most ``most`` bytes."""
    total = sum(entry.size for entry in newest_first)
    dropped: Set[str] = set()
    for entry in reversed(newest_first):
        if total <= most:
            break
        if not entry.pinned and entry.id not in protected:
            dropped.add(entry.id)
            total -= entry.size
    return [entry for entry in newest_first if entry.id not in dropped]


_FAILED = "the last backup failed; nothing is removed until one succeeds"


def clock_doubt(entries: Sequence[Entry], now: float) -> Optional[str]:
    """Say why ``now`` cannot be believed, given the backups that there are, or return None."""
    if not entries:
        return None
    newest = max(entries, key=_age)
    ahead = newest.time - now
    if ahead > FUTURE_SECONDS:
        return "backup {0} is {1:.0f} seconds in the future; check the clock of this host".format(newest.id, ahead)
    if -ahead > STALE_DAYS * DAY:
        return "the newest backup, {0}, is {1:.0f} days old, more than {2}; check the clock of this host".format(
            newest.id, -ahead / DAY, STALE_DAYS
        )
    return None


def jump(entries: Sequence[Entry], days: float) -> Optional[str]:
    """Say where the time between two backups is longer than rules that count days can explain, or return None.

    A clock that was set forward, and a host that was off for long, look alike: most backups are older than ``days`` at
    once, although nothing came in their stead. That is so when the pause is longer than half of the days and than
    three of the usual ones (the median), and until backups after it cover the days. Zero days: nothing counts days.
    """
    times = sorted(((entry.time, entry.id) for entry in entries), reverse=True)
    pauses = [newer[0] - older[0] for newer, older in zip(times, times[1:])]
    if not pauses or not days:
        return None
    usual = sorted(pauses)[(len(pauses) - 1) // 2]
    longest = max(days * DAY / 2, _USUAL_PAUSES * usual)
    for (at, newer), (_at, older), pause in zip(times, times[1:], pauses):
        if times[0][0] - at >= days * DAY:
            break
        if pause > longest:
            return (
                "between the backups {0} and {1} lie {2:.0f} days: the clock of this host was wrong, or it was off. "
                "Nothing is removed until the backups since then cover {3:g} days; if one has a wrong time, remove its "
                "files".format(older, newer, pause / DAY, days)
            )
    return None


def _entry_problems(entries: Sequence[Entry], now: float) -> List[str]:
    problems: List[str] = []
    seen: Set[str] = set()
    if not math.isfinite(now):
        problems.append("now: {0!r} is no time".format(now))
    for entry in entries:
        if entry.id in seen:
            problems.append("backup {0}: there are two of this id".format(entry.id))
        seen.add(entry.id)
        # Written so that a time that is not a number fails too.
        if not 0 <= entry.time <= _LAST_SECOND:
            problems.append("backup {0}: {1!r} is no time in seconds since 1970".format(entry.id, entry.time))
        if entry.size < 0:
            problems.append("backup {0}: its size is {1} bytes".format(entry.id, entry.size))
    return problems


def _age(entry: Entry) -> Tuple[float, str]:
    """Return what entries are sorted by; the id decides between two of the same moment, always the same way."""
    return (entry.time, entry.id)


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
