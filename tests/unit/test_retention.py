# SPDX-License-Identifier: GPL-3.0-or-later
"""Retention: the policy's words, compared with a model that asks of each backup whether it has a reason to stay."""

from __future__ import annotations

import math
from dataclasses import replace
from datetime import datetime, timezone
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ansible_collections.multibase.supabase.plugins.module_utils._errors import InvalidInput
from ansible_collections.multibase.supabase.plugins.module_utils._retention import (
    Entry,
    Plan,
    Policy,
    plan,
    policy_problems,
    read_policy,
)
from unit.support import PROPERTY

HOUR, DAY = 3600, 86400
# Wednesday, 25 November 2026, 03:00 UTC.
NOW = datetime(2026, 11, 25, 3, tzinfo=timezone.utc).timestamp()


def nights(count: int, verified: bool = True, newest: float = NOW, size: int = 10) -> list[Entry]:
    """One backup a night, the newest first; named after their day."""
    return [
        Entry("{0:%Y-%m-%d}".format(datetime.fromtimestamp(at, timezone.utc)), at, verified, size)
        for at in (newest - DAY * n for n in range(count))
    ]


# --- The model. Every rule is a question about one backup and all the others.


def period(kind: str, at: float) -> Any:
    moment = datetime.fromtimestamp(at, timezone.utc)
    if kind == "weekly":
        # Days since a Monday.
        return (moment.date() - datetime(1969, 12, 29).date()).days // 7
    return moment.timetuple()[: {"yearly": 1, "monthly": 2, "daily": 3, "hourly": 4}[kind]]


def is_newer(one: Entry, other: Entry) -> bool:
    return one.time > other.time or (one.time == other.time and one.id > other.id)


def wanted(entry: Entry, entries: list[Entry], policy: Policy) -> bool:
    """Whether a rule other than max_bytes wants this backup."""
    newer = [e for e in entries if is_newer(e, entry)]
    newer_verified = [e for e in newer if e.verified]
    any_verified = any(e.verified for e in entries)
    if entry.pinned or len(newer) < policy.keep_last:
        return True
    newest = max(e.time for e in entries)
    if policy.keep_within_days and (newest - entry.time) / DAY < policy.keep_within_days:
        return True
    if not entry.verified and any_verified:
        return not newer_verified
    # From here on only verified ones compete, or all where none is verified.
    rivals = newer_verified if any_verified else newer
    if any_verified:
        if len(rivals) < max(policy.minimum_verified, policy.keep_last):
            return True
        newest_verified = max(e.time for e in entries if e.verified)
        if policy.keep_within_days and (newest_verified - entry.time) / DAY < policy.keep_within_days:
            return True
    for kind in ("hourly", "daily", "weekly", "monthly", "yearly"):
        own = period(kind, entry.time)
        others = {period(kind, e.time) for e in rivals}
        if own not in others and len(others) < getattr(policy, "keep_" + kind):
            return True
    return False


def unexplained(entry: Entry, verified: list[Entry], days: float) -> bool:
    """Whether too long a time without a backup comes before this one, which is within the days of the newest."""
    # How long before each there was one; of two at one moment, one is before the other.
    waited = {}
    for one in verified:
        before = [other.time for other in verified if is_newer(one, other)]
        if before:
            waited[one.id] = one.time - max(before)
    if entry.id not in waited or (max(e.time for e in verified) - entry.time) / DAY >= days:
        return False
    # The lower one of two medians.
    usual = next(w for w in sorted(waited.values()) if sum(v <= w for v in waited.values()) * 2 >= len(waited))
    return waited[entry.id] > days * DAY / 2 and waited[entry.id] > 3 * usual


def model(entries: list[Entry], policy: Policy, now: float) -> set[str] | None:
    """The ids that stay, or None when nothing may be removed."""
    verified = [e for e in entries if e.verified]
    if len(verified) < policy.minimum_verified:
        return None
    if any(e.time > now + 300 for e in entries) or all(e.time < now - 400 * DAY for e in entries):
        return None
    if policy.keep_within_days and any(unexplained(e, verified, policy.keep_within_days) for e in verified):
        return None
    kept = [e for e in entries if wanted(e, entries, policy)]
    while policy.max_bytes and sum(e.size for e in kept) > policy.max_bytes:
        may_go = [
            e
            for e in kept
            if not e.pinned
            and not (e.verified and sum(is_newer(v, e) for v in verified) < policy.minimum_verified)
        ]  # fmt: skip
        if not may_go:
            break
        kept.remove(next(e for e in may_go if not any(is_newer(e, other) for other in may_go)))
    return {e.id for e in kept}


# Mostly off: with many rules at once, one hides what another does.
COUNTS = st.sampled_from([0, 0, 0, 0, 0, 1, 2, 3, 5, 8])
POLICIES = st.builds(
    Policy,
    keep_last=COUNTS,
    keep_hourly=COUNTS,
    keep_daily=COUNTS,
    keep_weekly=COUNTS,
    keep_monthly=COUNTS,
    keep_yearly=COUNTS,
    keep_within_days=st.sampled_from([0, 0, 0.5, 1, 7, 30]),
    max_bytes=st.sampled_from([0, 0, 1, 50, 200]),
    minimum_verified=st.integers(2, 4),
)


@st.composite
def histories(draw: st.DrawFn) -> list[Entry]:
    """Backups of up to three years: runs that are minutes to months apart, with some at the same moment."""
    gaps = st.sampled_from([0, 60, HOUR, 6 * HOUR, DAY, DAY, DAY, DAY + 1800, 7 * DAY, 40 * DAY, 200 * DAY])
    mostly = draw(st.sampled_from([[True], [True, True, True, False], [True, False], [False]]))
    at, entries = NOW - draw(st.integers(0, 3 * DAY)), []
    for number, gap in enumerate(draw(st.lists(gaps, max_size=50))):
        at -= gap
        if at < NOW - 3 * 366 * DAY:
            break
        # Two digits that run against time, so that the ids' order is not that of the times.
        name = "b{0:02d}".format(number * 37 % 100)
        entries.append(Entry(name, at, draw(st.sampled_from(mostly)), draw(st.integers(0, 20)), draw(RARELY)))
    return draw(st.permutations(entries))


RARELY = st.sampled_from([False] * 9 + [True])


@settings(PROPERTY, max_examples=600)
@given(histories(), POLICIES)
def test_it_agrees_with_the_model(entries: list[Entry], policy: Policy) -> None:
    made = plan(entries, policy, NOW)
    expected = model(entries, policy, NOW)
    assert (made.refused is None) == (expected is not None)
    assert set(made.keep) == (expected if expected is not None else {e.id for e in entries})


@PROPERTY
@given(histories(), POLICIES, st.booleans())
def test_what_always_holds(entries: list[Entry], policy: Policy, failed: bool) -> None:
    made = plan(entries, policy, NOW, failed)
    by_id = {entry.id: entry for entry in entries}
    assert sorted([*made.keep, *made.remove]) == sorted(by_id)
    assert all(made.keep.values())
    assert made.remove == sorted(made.remove, key=lambda name: (by_id[name].time, name))
    assert not any(by_id[name].pinned for name in made.remove)
    if made.remove:
        assert made.refused is None and not failed
        kept = [entry for entry in by_id.values() if entry.id in made.keep]
        assert sum(entry.verified for entry in kept) >= policy.minimum_verified >= 2
        best = sorted((e for e in entries if e.verified), key=lambda e: (e.time, e.id))[-policy.minimum_verified :]
        assert {entry.id for entry in best} <= set(made.keep)
        assert plan(kept, policy, NOW).remove == []


@PROPERTY
@given(histories(), POLICIES)
def test_fifteen_failed_nights_lose_nothing(entries: list[Entry], policy: Policy) -> None:
    policy = replace(policy, max_bytes=0)
    kept = [entry for entry in entries if entry.id in plan(entries, policy, NOW).keep]
    good = {entry.id for entry in kept if entry.verified}
    for night in range(1, 16):
        now = NOW + night * DAY
        # No backup was made; the run says so, or says nothing.
        assert plan(kept, policy, now, last_run_failed=True).remove == []
        assert plan(kept, policy, now).remove == []
        # Backups were made that turned out to be broken.
        broken = [Entry("broken{0:02d}".format(n), NOW + n * DAY, False, 10) for n in range(1, night + 1)]
        assert plan(kept + broken, policy, now, last_run_failed=True).remove == []
        after = plan(kept + broken, policy, now)
        assert good <= set(after.keep)
        if good:
            assert {entry.id for entry in broken} <= set(after.keep)


def test_reasons() -> None:
    policy = Policy(keep_last=2, keep_daily=3, keep_weekly=2, keep_monthly=2, keep_yearly=1)
    entries = nights(40)
    entries[20] = replace(entries[20], pinned=True)
    made = plan(entries, policy, NOW)
    assert made.refused is None
    assert made.keep == {
        "2026-11-25": [
            "last 1", "daily 2026-11-25", "weekly 2026-W48", "monthly 2026-11", "yearly 2026", "newest verified",
        ],
        "2026-11-24": ["last 2", "daily 2026-11-24", "newest verified"],
        "2026-11-23": ["daily 2026-11-23"],
        "2026-11-22": ["weekly 2026-W47"],
        "2026-11-05": ["pinned"],
        "2026-10-31": ["monthly 2026-10"],
    }  # fmt: skip
    assert made.remove == [e.id for e in reversed(entries) if e.id not in made.keep]


def test_hours_and_iso_weeks_across_the_new_year() -> None:
    base = datetime(2027, 1, 3, 23, 30, tzinfo=timezone.utc).timestamp()
    entries = [Entry(str(n), base - n * 1200, True, 1) for n in range(4)]
    made = plan(entries, Policy(keep_hourly=5, keep_weekly=1), base)
    assert made.keep["0"][:2] == ["hourly 2027-01-03 23:00", "weekly 2026-W53"]
    assert made.keep["2"] == ["hourly 2027-01-03 22:00"]
    assert made.remove == ["3"]


@pytest.mark.parametrize(
    ("policy", "kept"),
    [
        (Policy(keep_last=1), 2),
        (Policy(keep_last=5), 5),
        (Policy(keep_daily=7), 7),
        (Policy(keep_daily=100), 30),
        (Policy(keep_within_days=7), 7),
        (Policy(keep_within_days=7.5), 8),
        (Policy(keep_yearly=3), 2),
        (Policy(keep_last=10, max_bytes=55), 5),
        (Policy(keep_last=10, max_bytes=1), 2),
        (Policy(keep_last=10, max_bytes=1, minimum_verified=4), 4),
        (Policy(keep_last=10, max_bytes=100), 10),
        # However it was made: two stay.
        (Policy(keep_last=1, minimum_verified=0), 2),
        (Policy(), 2),
    ],
)
@pytest.mark.parametrize("away", [0, 30, 399])
def test_thirty_nights(policy: Policy, kept: int, away: int) -> None:
    made = plan(nights(30), policy, NOW + away * DAY)
    assert list(made.keep) == [entry.id for entry in nights(30)[:kept]]
    assert len(made.remove) == 30 - kept


def test_a_gap_is_not_counted() -> None:
    old = nights(5, newest=NOW - 90 * DAY)
    made = plan(nights(2) + old, Policy(keep_daily=4), NOW)
    assert list(made.keep) == [entry.id for entry in nights(2) + old[:2]]


@pytest.mark.parametrize("away", [16, 31, 100, 1000])
@pytest.mark.parametrize("since", [1, 2, 10])
def test_a_clock_set_forward_and_a_host_that_was_off_lose_nothing(away: int, since: int) -> None:
    entries = nights(since, newest=NOW + (away + since) * DAY) + nights(30)
    made = plan(entries, Policy(keep_within_days=30), NOW + (away + since) * DAY)
    assert made.remove == [] and made.doubtful
    assert made.refused is not None and "between the backups 2026-11-25 and" in made.refused
    assert "clock" in made.refused


def test_a_jump_is_over_when_the_days_are_covered() -> None:
    entries = nights(31, newest=NOW + 131 * DAY) + nights(30)
    made = plan(entries, Policy(keep_within_days=30), NOW + 131 * DAY)
    assert made.refused is None and len(made.remove) == 31


def test_rare_backups_and_rules_that_count_backups_know_no_jump() -> None:
    monthly = [Entry(str(n), NOW - n * 30 * DAY, True, 1) for n in range(12)]
    assert len(plan(monthly, Policy(keep_within_days=30), NOW).remove) == 10
    entries = nights(1, newest=NOW + 100 * DAY) + nights(30)
    assert len(plan(entries, Policy(keep_daily=7), NOW + 100 * DAY).remove) == 24


def test_nights_that_were_not_verified_are_a_gap_too() -> None:
    entries = nights(40, verified=False)[1:] + nights(1) + nights(30, newest=NOW - 41 * DAY)
    assert plan(entries, Policy(keep_within_days=30), NOW).remove == []


def test_only_a_failed_run_and_the_clock_are_doubts() -> None:
    assert plan(nights(20), Policy(keep_last=1), NOW, True).doubtful
    assert plan(nights(20), Policy(keep_last=1), NOW - 301).doubtful
    assert not plan(nights(1), Policy(keep_last=1), NOW).doubtful
    assert not plan(nights(20), Policy(keep_last=1), NOW).doubtful


def test_unverified_backups() -> None:
    good, broken = nights(5, newest=NOW - 3 * DAY), nights(3, verified=False)
    made = plan(good + broken, Policy(keep_last=2), NOW)
    assert made.keep["2026-11-23"] == ["newer than the newest verified"]
    assert made.keep["2026-11-22"] == ["last 1 verified", "newest verified"]
    assert made.remove == ["2026-11-18", "2026-11-19", "2026-11-20"]
    older = [Entry("x", NOW - 3.5 * DAY, False, 10)]
    assert "x" in plan(good + older, Policy(keep_daily=5, keep_weekly=5), NOW).remove
    assert plan(good + older, Policy(keep_last=2), NOW).keep["x"] == ["last 2"]
    assert plan(good + older, Policy(keep_within_days=1), NOW).keep["x"] == ["within 1 days"]


def test_pinned_backups_are_not_removed_for_space_and_do_not_stand_in_for_new_ones() -> None:
    entries = nights(6)
    entries[4], entries[5] = replace(entries[4], pinned=True), replace(entries[5], pinned=True)
    made = plan(entries, Policy(keep_last=6, max_bytes=1), NOW)
    assert made.remove == ["2026-11-22", "2026-11-23"]


@pytest.mark.parametrize(
    ("entries", "now", "failed", "why"),
    [
        (nights(20), NOW, True, "the last backup failed"),
        (nights(20), NOW - 301, False, "2026-11-25 is 301 seconds in the future"),
        ([*nights(20), Entry("x", NOW + 301, False, 1)], NOW, False, "x is 301 seconds in the future"),
        (nights(20), NOW + 400 * DAY + 1, False, "400 days old"),
        (nights(20, verified=False), NOW, False, "only 0 of at least 2"),
        (nights(1) + nights(20, verified=False, newest=NOW - DAY), NOW, False, "only 1 of at least 2"),
        ([], NOW, False, "only 0 of at least 2"),
        (nights(20), NOW - 300, False, None),
        (nights(20), NOW + 400 * DAY, False, None),
        (nights(2) + nights(18, verified=False, newest=NOW - 2 * DAY), NOW, False, None),
    ],
)
def test_when_nothing_is_removed(entries: list[Entry], now: float, failed: bool, why: str | None) -> None:
    made = plan(entries, Policy(keep_last=1), now, failed)
    if why is None:
        assert made.refused is None and len(made.remove) == 18
    else:
        assert made.refused is not None and why in made.refused
        assert made.remove == [] and set(made.keep) == {entry.id for entry in entries}
        assert all(made.keep.values())


def test_periods_are_shown_where_nothing_is_verified() -> None:
    made = plan(nights(3, verified=False), Policy(keep_daily=1), NOW)
    assert made.keep["2026-11-25"] == ["daily 2026-11-25"]
    assert made.keep["2026-11-24"] == ["nothing is removed now"]


def test_no_backups_give_an_empty_plan() -> None:
    made = plan([], Policy(keep_last=1), NOW)
    assert made == Plan(keep={}, remove=[], refused=made.refused)


@pytest.mark.parametrize(
    ("entries", "now", "found"),
    [
        ([Entry("a", 1, True, 1), Entry("a", 2, True, 1)], NOW, "two of this id"),
        ([Entry("a", math.nan, True, 1)], NOW, "nan is no time"),
        ([Entry("a", -1, True, 1)], NOW, "no time"),
        ([Entry("a", 1e18, True, 1)], NOW, "no time"),
        ([Entry("a", 1, True, -1)], NOW, "size is -1"),
        ([], math.nan, "now: nan is no time"),
    ],
)
def test_entries_that_can_be_none(entries: list[Entry], now: float, found: str) -> None:
    with pytest.raises(InvalidInput, match=found):
        plan(entries, Policy(keep_last=1), now)


def test_a_policy_is_read() -> None:
    options = {"keep_last": 3, "keep_within_days": 1.5, "max_bytes": 10**12, "minimum_verified": 3}
    assert policy_problems(options) == []
    assert read_policy(options) == Policy(keep_last=3, keep_within_days=1.5, max_bytes=10**12, minimum_verified=3)


@pytest.mark.parametrize(
    ("options", "found"),
    [
        ({}, ["retention keeps nothing"]),
        ({"keep_last": 0, "max_bytes": 5}, ["retention keeps nothing"]),
        ({"keep_last": -1}, ["keep_last -1 is no whole number"]),
        ({"keep_last": "3"}, ["keep_last '3' is no whole number"]),
        ({"keep_last": True}, ["keep_last True is no whole number"]),
        ({"keep_last": 1.5}, ["keep_last 1.5 is no whole number"]),
        ({"keep_within_days": -0.5}, ["keep_within_days -0.5 is no number of days"]),
        ({"keep_within_days": math.inf}, ["keep_within_days inf"]),
        ({"keep_within_days": "7d"}, ["keep_within_days '7d'"]),
        ({"keep_last": 1, "minimum_verified": 1}, ["minimum_verified 1 is under 2"]),
        ({"keep_last": 1, "max_bytes": -1}, ["max_bytes -1"]),
        ({"keep_lots": 1, "minimum_verified": 0}, ["no 'keep_lots'", "minimum_verified 0 is under", "keeps nothing"]),
    ],
)
def test_all_mistakes_of_a_policy(options: dict[str, Any], found: list[str]) -> None:
    with pytest.raises(InvalidInput) as caught:
        read_policy(options)
    assert caught.value.problems == policy_problems(options)
    assert len(caught.value.problems) == len(found)
    for problem, part in zip(caught.value.problems, found):
        assert part in problem
