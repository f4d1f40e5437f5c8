# SPDX-License-Identifier: GPL-3.0-or-later
"""Schedules: read as Debian's cron reads them, compared with a matcher that looks at every minute."""

from __future__ import annotations

import os
import time
from datetime import date, datetime, timedelta
from typing import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ansible_collections.multibase.supabase.plugins.module_utils._errors import InvalidInput
from ansible_collections.multibase.supabase.plugins.module_utils._schedule import (
    jitter_seconds,
    next_after,
    overdue,
    parse,
    previous,
)
from unit.support import PROPERTY

MONTHS = "jan feb mar apr may jun jul aug sep oct nov dec"
DAYS = "sun mon tue wed thu fri sat"
LOWEST, HIGHEST = (0, 0, 1, 1, 0), (59, 23, 31, 12, 7)


@pytest.fixture
def berlin() -> Iterator[None]:
    before = os.environ.get("TZ")
    os.environ["TZ"] = "CET-1CEST,M3.5.0,M10.5.0/3"
    time.tzset()
    yield
    if before is None:
        del os.environ["TZ"]
    else:
        os.environ["TZ"] = before
    time.tzset()


# --- The model: asks of one value at a time whether a field's text admits it.


def admits(text: str, value: int, position: int) -> bool:
    for item in text.lower().split(","):
        for names, first in ((MONTHS, 1), (DAYS, 0)):
            for number, name in enumerate(names.split(), first):
                item = item.replace(name, str(number))
        span, _, step = item.partition("/")
        if span == "*":
            span = "{0}-{1}".format(LOWEST[position], HIGHEST[position])
        low, _, high = span.partition("-")
        for candidate in (value, 7) if position == 4 and value == 0 else (value,):
            if int(low) <= candidate <= int(high or low) and (candidate - int(low)) % int(step or 1) == 0:
                return True
    return False


def day_is_due(expression: str, day: date) -> bool:
    _minute, _hour, of_month, month, of_week = expression.split()
    if not admits(month, day.month, 3):
        return False
    answers = [admits(of_month, day.day, 2), admits(of_week, (day.weekday() + 1) % 7, 4)]
    return all(answers) if of_month[0] == "*" or of_week[0] == "*" else any(answers)


def is_due(expression: str, at: datetime) -> bool:
    fields = expression.split()
    return day_is_due(expression, at.date()) and admits(fields[1], at.hour, 1) and admits(fields[0], at.minute, 0)


def minutes_of(expression: str) -> list[tuple[int, int]]:
    fields = expression.split()
    return [(h, m) for h in range(24) if admits(fields[1], h, 1) for m in range(60) if admits(fields[0], m, 0)]


def brute(expression: str, now: datetime, days: int, step: int) -> datetime | None:
    """The nearest due minute at or before (step -1) or after (1) now, looking at each minute of each due day."""
    times = minutes_of(expression)
    for offset in range(days + 1):
        day = now.date() + timedelta(days=offset * step)
        if day_is_due(expression, day):
            all_of_day = [datetime(day.year, day.month, day.day, h, m) for h, m in times]
            good = [at for at in all_of_day if (at <= now if step < 0 else at > now)]
            if good:
                return max(good) if step < 0 else min(good)
    return None


@st.composite
def items(draw: st.DrawFn, position: int) -> str:
    low, high = LOWEST[position], HIGHEST[position]
    first = draw(st.integers(low, high))
    last = draw(st.integers(first, high))
    step = draw(st.integers(1, 7))
    kinds = ["{0}".format(first), "{0:02d}".format(first), "{0}-{1}".format(first, last), "*", "*/{0}".format(step)]
    kinds.append("{0}-{1}/{2}".format(first, last, step))
    if position == 3:
        kinds.append(MONTHS.split()[first - 1].title())
    if position == 4:
        kinds.append(DAYS.split()[first % 7].upper())
    return draw(st.sampled_from(kinds))


@st.composite
def expressions(draw: st.DrawFn) -> str:
    return " ".join(",".join(draw(st.lists(items(position), min_size=1, max_size=3))) for position in range(5))


MOMENTS = st.datetimes(datetime(1990, 1, 1), datetime(2090, 12, 31))


@PROPERTY
@given(expressions(), MOMENTS)
def test_it_agrees_with_looking_at_every_minute(expression: str, now: datetime) -> None:
    try:
        schedule = parse(expression)
    except InvalidInput as error:
        assert "never comes" in str(error)
        assert not any(day_is_due(expression, date(2024, 1, 1) + timedelta(days=n)) for n in range(366))
        return
    assert schedule.matches(now) == is_due(expression, now)
    for minute in range(0, 3000, 7):
        at = now + timedelta(minutes=minute)
        assert schedule.matches(at) == is_due(expression, at)
    days = 366 * 9
    for step, found in ((-1, previous(schedule, now)), (1, next_after(schedule, now))):
        expected = brute(expression, now, days, step)
        assert found == expected if expected else abs((found - now).days) > days
        assert is_due(expression, found)


@PROPERTY
@given(expressions(), MOMENTS)
def test_the_canonical_text_means_the_same_and_stays(expression: str, now: datetime) -> None:
    try:
        schedule = parse(expression)
    except InvalidInput:
        return
    assert parse(schedule.expression) == schedule
    assert [t.startswith("*") for t in schedule.expression.split()] == [t.startswith("*") for t in expression.split()]
    for day in range(400):
        at = now + timedelta(days=day)
        assert day_is_due(schedule.expression, at.date()) == day_is_due(expression, at.date())
    assert minutes_of(schedule.expression) == minutes_of(expression)


@PROPERTY
@given(expressions(), MOMENTS)
def test_previous_and_next_are_neighbours(expression: str, now: datetime) -> None:
    try:
        schedule = parse(expression)
    except InvalidInput:
        return
    before, after = previous(schedule, now), next_after(schedule, now)
    assert before <= now < after
    assert previous(schedule, after) == after
    assert next_after(schedule, before) == after
    assert previous(schedule, after - timedelta(microseconds=1)) == before


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        ("@hourly", "0 * * * *"),
        ("@daily", "0 0 * * *"),
        ("@midnight", "0 0 * * *"),
        ("@weekly", "0 0 * * 0"),
        ("@monthly", "0 0 1 * *"),
        ("@yearly", "0 0 1 1 *"),
        ("@annually", "0 0 1 1 *"),
        ("  30\t2 *  * * ", "30 2 * * *"),
        ("05 02 01 JAN Sun", "5 2 1 1 0"),
        ("0 0 * * 7", "0 0 * * 0"),
        ("0 0 * * 5-7", "0 0 * * 0,5,6"),
        ("0 0 * * Mon-Fri", "0 0 * * 1-5"),
        ("0 0 * * mon,wed,fri", "0 0 * * 1,3,5"),
        ("0 0 * feb-apr *", "0 0 * 2-4 *"),
        ("*/1 * * * *", "* * * * *"),
        ("*/20 */6 * * *", "*/20 */6 * * *"),
        ("0-59/20 1,2,3 * * *", "0,20,40 1-3 * * *"),
        # What does not begin with a star must not begin with one afterwards, and the other way round.
        ("0-59 0-23 1-31 1-12 0-6", "0-59 0-23 1-31 1-12 0-6"),
        ("0 0 5,* * 1", "0 0 1-31 * 1"),
        ("0 0 *,5 * 1", "0 0 * * 1"),
        ("0 0 */10,2 * 1", "0 0 */10,2 * 1"),
    ],
)
def test_canonical_text(text: str, canonical: str) -> None:
    assert parse(text).expression == canonical


@pytest.mark.parametrize(
    ("expression", "days"),
    [
        # November 2026 begins on a Sunday. Either day suffices when both are restricted,
        ("0 0 13 11 fri", [6, 13, 20, 27]),
        ("0 0 1,15 11 1", [1, 2, 9, 15, 16, 23, 30]),
        # also when a restriction admits everything;
        ("0 0 1-31 11 1", list(range(1, 31))),
        ("0 0 3 11 0-7", list(range(1, 31))),
        # both must agree when one begins with a star.
        ("0 0 */2 11 1", [9, 23]),
        ("0 0 *,3 11 1", [2, 9, 16, 23, 30]),
        ("0 0 1-15 11 */3", [1, 4, 7, 8, 11, 14, 15]),
        ("0 0 * 11 1", [2, 9, 16, 23, 30]),
        ("0 0 3 11 *", [3]),
    ],
)
def test_day_of_month_or_day_of_week(expression: str, days: list[int]) -> None:
    schedule = parse(expression)
    assert [day for day in range(1, 31) if schedule.matches(datetime(2026, 11, day))] == days


@pytest.mark.parametrize(
    ("expression", "now", "before", "after"),
    [
        ("30 2 * * *", (2026, 11, 25, 2, 30), (2026, 11, 25, 2, 30), (2026, 11, 26, 2, 30)),
        ("30 2 * * *", (2026, 11, 25, 2, 29, 59), (2026, 11, 24, 2, 30), (2026, 11, 25, 2, 30)),
        ("30 2 * * *", (2026, 1, 1, 0, 0), (2025, 12, 31, 2, 30), (2026, 1, 1, 2, 30)),
        ("0 0 31 * *", (2026, 5, 1), (2026, 3, 31), (2026, 5, 31)),
        ("0 0 29 2 *", (2100, 1, 1), (2096, 2, 29), (2104, 2, 29)),
        # Begins with a star, so cron wants a 29 February that is a Sunday: that takes up to forty years.
        ("0 0 29 2 */7", (2026, 1, 1), (2004, 2, 29), (2032, 2, 29)),
        ("0 0 29 2 */7", (2090, 1, 1), (2088, 2, 29), (2128, 2, 29)),
    ],
)
def test_previous_and_next(
    expression: str, now: tuple[int, ...], before: tuple[int, ...], after: tuple[int, ...]
) -> None:
    moment = datetime(*now)  # type: ignore[arg-type]
    assert previous(parse(expression), moment) == datetime(*before)  # type: ignore[arg-type]
    assert next_after(parse(expression), moment) == datetime(*after)  # type: ignore[arg-type]


def test_the_ends_of_the_calendar() -> None:
    with pytest.raises(InvalidInput, match="was never due before"):
        previous(parse("0 0 29 2 *"), datetime(1, 1, 1))
    with pytest.raises(InvalidInput, match="is never due after"):
        next_after(parse("0 0 1 1 *"), datetime(9999, 6, 1))


@pytest.mark.parametrize(
    ("text", "found"),
    [
        (None, "None is no text"),
        (5, "5 is no text"),
        ("", "has 0 fields"),
        ("* * * *", "has 4 fields"),
        ("* * * * * *", "has 6 fields"),
        ("0 0 * * *\u00a0", "'\\*\\\\xa0', no number"),
        ("0 0 * * *\n", "a line break"),
        ("0 0 * * *\r", "a carriage return"),
        ("0 0 * * %", "a % character"),
        ("@reboot", "'@reboot' is none of @hourly"),
        ("@Daily", "'@Daily' is none of"),
        ("@daily x", "is none of"),
        ("60 0 * * *", "minute '60' holds '60', outside 0-59"),
        ("0 24 * * *", "hour '24' holds '24', outside 0-23"),
        ("0 0 0 * *", "day of month '0' holds '0', outside 1-31"),
        ("0 0 32 * *", "outside 1-31"),
        ("0 0 * 0 *", "month '0' holds '0', outside 1-12"),
        ("0 0 * 13 *", "outside 1-12"),
        ("0 0 * * 8", "day of week '8' holds '8', outside 0-7"),
        ("0 0 * mon *", "'mon', outside 1-12"),
        ("jan 0 * * *", "'jan', outside 0-59"),
        ("0 0 * * sunday", "'sunday', no number"),
        ("0 0 * * sat-sun", "ends before it begins"),
        ("30-10 0 * * *", "ends before it begins"),
        ("5/10 0 * * *", "a step without a range \\(write 5-59/10\\)"),
        ("*/0 0 * * *", "a step of 0, outside 1-60"),
        ("*/90 0 * * *", "a step of 90, outside 1-60"),
        ("1-5/ 0 * * *", "no number, range or step"),
        ("*-5 0 * * *", "no number, range or step"),
        ("-1 0 * * *", "no number, range or step"),
        ("1,,2 0 * * *", "holds ''"),
        ("1, 0 * * *", "holds ''"),
        ("1-2-3 0 * * *", "no number, range or step"),
        ("? 0 * * *", "no number, range or step"),
        ("0 0 L * *", "no number, range or step"),
        ("\u0665 0 * * *", "no number, range or step"),
        ("9" * 5000 + " 0 * * *", "no number, range or step"),
        ("0 0 31 2 *", "never comes: no month 2 has a day 31"),
        ("0 0 30,31 feb */2", "never comes"),
        ("0 0 31 2,4,6,9,11 *", "never comes: no month 2,4,6,9,11 has a day 31"),
    ],
)
def test_what_is_refused(text: object, found: str) -> None:
    with pytest.raises(InvalidInput, match=found) as caught:
        parse(text)
    assert all("for example" in problem for problem in caught.value.problems)


def test_all_mistakes_are_reported_together() -> None:
    with pytest.raises(InvalidInput) as caught:
        parse("60 24 32 13 8")
    assert len(caught.value.problems) == 5


def test_31_february_comes_when_a_day_of_the_week_suffices() -> None:
    assert next_after(parse("0 0 31 2 1"), datetime(2026, 1, 1)) == datetime(2026, 2, 2)


@pytest.mark.parametrize(
    ("last_success", "now", "late"),
    [
        (None, (2026, 11, 25, 12, 0), True),
        ((2026, 11, 25, 2, 31), (2026, 11, 25, 12, 0), False),
        ((2026, 11, 24, 2, 31), (2026, 11, 25, 12, 0), True),
        ((2026, 11, 24, 2, 31), (2026, 11, 25, 2, 44), False),
        ((2026, 11, 24, 2, 31), (2026, 11, 25, 2, 45), True),
        ((2026, 11, 25, 2, 30), (2026, 11, 25, 2, 45), False),
        # A success ahead of a clock that went back is one.
        ((2027, 11, 25, 2, 30), (2026, 11, 25, 2, 45), False),
        # The clock goes from 2:00 to 3:00, and cron runs at 3:00 what was due at 2:30.
        ((2026, 3, 29, 3, 1), (2026, 3, 29, 3, 20), False),
        ((2026, 3, 29, 3, 1), (2026, 3, 30, 2, 0), False),
        ((2026, 3, 28, 2, 31), (2026, 3, 29, 3, 50), True),
        # It goes from 3:00 back to 2:00; the first pass of 2:30 is what counts.
        ((2026, 10, 25, 2, 31), (2026, 10, 25, 12, 0), False),
        ((2026, 10, 24, 2, 31), (2026, 10, 25, 12, 0), True),
    ],
)
def test_overdue(berlin: None, last_success: tuple[int, ...] | None, now: tuple[int, ...], late: bool) -> None:
    success = datetime(*last_success).timestamp() if last_success else None  # type: ignore[arg-type]
    moment = datetime(*now).timestamp()  # type: ignore[arg-type]
    assert overdue(parse("30 2 * * *"), success, moment) is late


@PROPERTY
@given(st.text(), st.integers(1, 100000))
def test_jitter_is_stable_and_within_its_span(name: str, span: int) -> None:
    assert 0 <= jitter_seconds(name, span) < span
    assert jitter_seconds(name, span) == jitter_seconds(name, span)


def test_jitter_is_spread_and_the_same_on_every_host() -> None:
    found = [jitter_seconds("instance-{0}".format(number), 600) for number in range(600)]
    assert jitter_seconds("a", 600) == int("ca978112ca1bbdca", 16) % 600
    assert all(40 < sum(low <= value < low + 60 for value in found) < 90 for low in range(0, 600, 60))
    with pytest.raises(InvalidInput, match="under one"):
        jitter_seconds("a", 0)
