# SPDX-License-Identifier: GPL-3.0-or-later
# This file is private to the multibase.supabase collection; it may change at any time.
"""Schedules: cron expressions read as Debian's cron reads them, when they were due last, and what is overdue."""

from __future__ import annotations

import hashlib
import re
from calendar import monthrange
from dataclasses import dataclass
from datetime import date, datetime
from typing import Any, Dict, FrozenSet, Iterator, List, Optional, Tuple

from ._errors import InvalidInput

EXAMPLE = "for example '30 2 * * *' for half past two every night, or @daily"
NICKNAMES: Dict[str, str] = {
    "@hourly": "0 * * * *",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@weekly": "0 0 * * 0",
    "@monthly": "0 0 1 * *",
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
}
# 29 February is eight years apart around 2100, and a day of the week that must agree with it (29 2 */5: cron wants
# both where one begins with a star) forty.
SEARCH_YEARS = 41
_MONTH_NAMES = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_DAY_NAMES = ("sun", "mon", "tue", "wed", "thu", "fri", "sat")
_LONGEST_MONTHS = (31, 29, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31)
# Nine digits: more are no number of a clock or a calendar, and int() refuses some thousands of them.
_ITEM = re.compile(r"(?:(\*)|([0-9]{1,9}|[a-z]{3})(?:-([0-9]{1,9}|[a-z]{3}))?)(?:/([0-9]{1,9}))?\Z", re.IGNORECASE)


@dataclass(frozen=True)
class _Field:
    """One of the five fields: its numbers, the longest step that makes sense, and names of numbers from ``low`` on."""

    name: str
    low: int
    high: int
    longest_step: int
    names: Tuple[str, ...]
    example: str


_FIELDS: Tuple[_Field, ...] = (
    _Field("minute", 0, 59, 60, (), "0-59, */15 or 0,30"),
    _Field("hour", 0, 23, 24, (), "0-23, */6 or 2,14"),
    _Field("day of month", 1, 31, 31, (), "1-31, */2 or 1,15"),
    _Field("month", 1, 12, 12, _MONTH_NAMES, "1-12, */3 or jan,jul"),
    # Sunday is both 0 and 7, and a star stands for all eight.
    _Field("day of week", 0, 7, 7, _DAY_NAMES, "0-7, mon-fri or sat,sun"),
)


@dataclass(frozen=True)
class Schedule:
    """When something is due, in local time. Made by ``parse``.

    ``expression`` is canonical: five fields that cron takes, and the same text for the same meaning. Days of the week
    count from Sunday, 0, to Saturday, 6. ``either_day`` says that a day of the month or a day of the week suffices.
    """

    expression: str
    minutes: FrozenSet[int]
    hours: FrozenSet[int]
    days: FrozenSet[int]
    months: FrozenSet[int]
    weekdays: FrozenSet[int]
    either_day: bool

    def matches(self, local: datetime) -> bool:
        """Say whether it is due in the minute of ``local``; seconds do not count."""
        return local.minute in self.minutes and local.hour in self.hours and self.matches_day(local)

    def matches_day(self, day: date) -> bool:
        """Say whether it is due at any time of this day."""
        of_month, of_week = day.day in self.days, day.isoweekday() % 7 in self.weekdays
        return day.month in self.months and ((of_month or of_week) if self.either_day else (of_month and of_week))


def parse(expression: Any) -> Schedule:
    """Read a cron expression of five fields or a name such as ``@daily``. Raises InvalidInput with every mistake.

    Stricter than cron where cron reads something else than was meant, and says nothing: ``5/10`` (5), ``sat-sun``
    (never), ``*/90`` for the minute (every hour), and dates that never come.
    """
    if not isinstance(expression, str):
        raise InvalidInput(["schedule {0!r} is no text; {1}".format(expression, EXAMPLE)])
    # Before anything is stripped: a line break would end the line in /etc/cron.d, and % is one to cron.
    for character, name in (("\n", "a line break"), ("\r", "a carriage return"), ("%", "a % character")):
        if character in expression:
            raise InvalidInput(["schedule {0!r} holds {1}; {2}".format(expression, name, EXAMPLE)])
    text = expression.strip(" \t")
    if text.startswith("@"):
        if text not in NICKNAMES:
            raise InvalidInput(["schedule {0!r} is none of {1}; {2}".format(expression, ", ".join(NICKNAMES), EXAMPLE)])
        text = NICKNAMES[text]
    # Cron's blanks are spaces and tabs; str.split() would take others for blanks too.
    texts = re.split(r"[ \t]+", text) if text else []
    if len(texts) != len(_FIELDS):
        raise InvalidInput(
            [
                "schedule {0!r} has {1} fields, not five (minute, hour, day of month, month, day of week); {2}".format(
                    expression, len(texts), EXAMPLE
                )
            ]
        )
    problems: List[str] = []
    values: List[FrozenSet[int]] = []
    for field, field_text in zip(_FIELDS, texts):
        found, problem = _read_field(field, field_text)
        values.append(found)
        if problem:
            problems.append("schedule {0!r}: {1}; for example {2}".format(expression, problem, field.example))
    if problems:
        raise InvalidInput(problems)
    # Cron looks at the first character only: */2 and *,5 are stars to it, 1-31 and 5,* are not.
    stars = [field_text.startswith("*") for field_text in texts]
    minutes, hours, days, months, weekdays = values
    either_day = not stars[2] and not stars[4]
    if not either_day and not any(day <= _LONGEST_MONTHS[month - 1] for month in months for day in days):
        raise InvalidInput(
            [
                "schedule {0!r} never comes: no month {1} has a day {2}; for example '0 3 28 2 *'".format(
                    expression, _ranges(months), _ranges(days)
                )
            ]
        )
    canonical = " ".join(_canonical(field, found, star) for field, found, star in zip(_FIELDS, values, stars))
    return Schedule(canonical, minutes, hours, days, months, weekdays, either_day)


def previous(schedule: Schedule, now: datetime) -> datetime:
    """Return the newest due time that is not after ``now``, a local time. Raises InvalidInput before the year 1."""
    for day in _days(schedule, now, -1):
        for hour in sorted(schedule.hours, reverse=True):
            for minute in sorted(schedule.minutes, reverse=True):
                due = datetime(day.year, day.month, day.day, hour, minute, tzinfo=now.tzinfo)
                if due <= now:
                    return due
    raise InvalidInput(["schedule {0!r} was never due before {1}".format(schedule.expression, now)])


def next_after(schedule: Schedule, now: datetime) -> datetime:
    """Return the first due time after ``now``, a local time. Raises InvalidInput after the year 9999."""
    for day in _days(schedule, now, 1):
        for hour in sorted(schedule.hours):
            for minute in sorted(schedule.minutes):
                due = datetime(day.year, day.month, day.day, hour, minute, tzinfo=now.tzinfo)
                if due > now:
                    return due
    raise InvalidInput(["schedule {0!r} is never due after {1}".format(schedule.expression, now)])


def overdue(schedule: Schedule, last_success: Optional[float], now: float, grace_seconds: float = 900) -> bool:
    """Say whether the newest due time, at least ``grace_seconds`` ago, has passed without a success since.

    Times are seconds since 1970 (UTC); the schedule is in the local time of this host. What never succeeded is overdue.
    In the hour that clocks repeat, only its first pass counts.
    """
    if last_success is None:
        return True
    due = previous(schedule, datetime.fromtimestamp(now - grace_seconds))
    # A time that the clock skipped in spring is run by cron just after the change; Python would name a later moment,
    # and a success at that point would look too early. Of a repeated hour this takes the first.
    return min(due.replace(fold=fold).timestamp() for fold in (0, 1)) > last_success


def jitter_seconds(name: str, span: int) -> int:
    """Return seconds from 0 up to, not including, ``span``: always the same for a name, spread evenly over names.

    Raises InvalidInput when the span is not at least one second.
    """
    if span < 1:
        raise InvalidInput(["jitter: a span of {0} seconds is under one, for example 600".format(span)])
    return int.from_bytes(hashlib.sha256(name.encode("utf-8")).digest()[:8], "big") % span


def _days(schedule: Schedule, start: date, step: int) -> Iterator[date]:
    """Yield days it is due on, from the day of ``start`` on, forwards (``step`` 1) or backwards (-1)."""
    first = start.year * 12 + start.month - 1
    for number in range(first, first + step * (SEARCH_YEARS * 12 + 1), step):
        year, month = number // 12, number % 12 + 1
        if not 1 <= year <= 9999:
            return
        if month not in schedule.months:
            continue
        for day_of_month in range(1, monthrange(year, month)[1] + 1)[::step]:
            if number == first and (day_of_month - start.day) * step < 0:
                continue
            day = date(year, month, day_of_month)
            if schedule.matches_day(day):
                yield day


def _read_field(field: _Field, text: str) -> Tuple[FrozenSet[int], str]:
    """Return the numbers of a field and what is wrong with it, which is empty when nothing is."""
    values: List[int] = []
    for item in text.split(","):
        found = _ITEM.match(item)
        if not found:
            return frozenset(), "the {0} {1!r} holds {2!r}, no number, range or step".format(field.name, text, item)
        star, first, last, step = found.groups()
        if step is not None and not star and last is None:
            return frozenset(), "the {0} {1!r} has a step without a range (write {2}-{3}/{4})".format(
                field.name, text, first, field.high, step
            )
        if step is not None and not 1 <= int(step) <= field.longest_step:
            return frozenset(), "the {0} {1!r} has a step of {2}, outside 1-{3}".format(
                field.name, text, step, field.longest_step
            )
        low, high = field.low, field.high
        if not star:
            numbers = [_number(field, word) for word in (first, first if last is None else last)]
            if None in numbers:
                return frozenset(), "the {0} {1!r} holds {2!r}, outside {3}-{4}".format(
                    field.name, text, item, field.low, field.high
                )
            low, high = (number for number in numbers if number is not None)
        if low > high:
            return frozenset(), "the {0} {1!r} holds the range {2!r}, which ends before it begins".format(
                field.name, text, item
            )
        values += range(low, high + 1, int(step or 1))
    return _folded(field, values), ""


def _number(field: _Field, word: str) -> Optional[int]:
    """Return the number that a word stands for, or None when the field has none such."""
    if word.lower() in field.names:
        return field.names.index(word.lower()) + field.low
    number = int(word) if word.isdigit() else -1
    return number if field.low <= number <= field.high else None


def _folded(field: _Field, values: List[int]) -> FrozenSet[int]:
    """Return the numbers of a field as a set in which Sunday is 0 only."""
    return frozenset(value % 7 if field.high == 7 else value for value in values)


def _canonical(field: _Field, values: FrozenSet[int], star: bool) -> str:
    """Write a field so that it begins with a star only if it did: its meaning may depend on that."""
    if not star:
        return _ranges(values)
    for step in range(1, field.longest_step + 1):
        covered = _folded(field, list(range(field.low, field.high + 1, step)))
        if covered <= values:
            rest = _ranges(values - covered)
            return ("*" if step == 1 else "*/{0}".format(step)) + ("," + rest if rest else "")
    raise AssertionError("a field that begins with a star holds its first number")


def _ranges(values: FrozenSet[int]) -> str:
    """Write numbers in ascending order, three or more in a row as a range: ``1,2,5-9``."""
    parts: List[str] = []
    ordered = sorted(values)
    while ordered:
        length = 1
        while length < len(ordered) and ordered[length] == ordered[0] + length:
            length += 1
        run, ordered = ordered[:length], ordered[length:]
        parts += ["{0}-{1}".format(run[0], run[-1])] if length > 2 else [str(value) for value in run]
    return ",".join(parts)
