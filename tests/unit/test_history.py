# SPDX-License-Identifier: GPL-3.0-or-later
"""The history: what is kept, averaged, deleted, and told of it."""

from __future__ import annotations

import json
import os
import sqlite3
from pathlib import Path
from typing import Iterator, List, Tuple

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from ansible_collections.multibase.supabase.plugins.module_utils._errors import MultibaseError
from ansible_collections.multibase.supabase.plugins.module_utils._history import (
    COLUMNS,
    DAY,
    HOST,
    HOUR,
    History,
    Retention,
    forecast,
)
from unit.support import REPOSITORY

SCHEMA = json.loads((REPOSITORY / "docs" / "schemas" / "history.schema.json").read_text())
# A midnight.
START = 1_795_651_200


@pytest.fixture
def said() -> List[str]:
    return []


@pytest.fixture
def history(tmp_path: Path, said: List[str]) -> Iterator[History]:
    made = History(str(tmp_path / "state" / "history.sqlite"), said.append)
    yield made
    made.close()


def rows(tmp_path: Path, table: str) -> List[Tuple[str, int, float]]:
    """What a table holds, read by another program's way."""
    with sqlite3.connect(tmp_path / "state" / "history.sqlite") as connection:
        query = "SELECT subject, time, cpu_percent FROM {0} ORDER BY time".format(table)
        return connection.execute(query).fetchall()


def fill(history: History, hours: int, subject: str = "acme", every: int = 60) -> int:
    """Keep a row every minute from START, with the hour's number as value; return the time after the last."""
    for time in range(START, START + hours * HOUR, every):
        history.add(time, {subject: {"cpu_percent": float((time - START) // HOUR), "up": 1.0}})
    return START + hours * HOUR


def test_it_is_for_root_only(history: History, tmp_path: Path) -> None:
    history.add(START, {"acme": {}})
    for path in (tmp_path / "state").iterdir():
        assert path.stat().st_mode & 0o077 == 0 or path.suffix != ".sqlite", path


def test_hours_and_days_are_averages_of_what_is_over(history: History, tmp_path: Path) -> None:
    end = fill(history, 25)
    history.tidy(end, Retention())
    assert rows(tmp_path, "hourly") == [("acme", START + n * HOUR, float(n)) for n in range(25)]
    assert rows(tmp_path, "daily") == [("acme", START, 11.5)]
    # The hour that is not over is not averaged yet, and a second time changes nothing.
    history.add(end + 10, {"acme": {"cpu_percent": 99.0}})
    history.tidy(end + 20, Retention())
    assert len(rows(tmp_path, "hourly")) == 25


def test_an_hour_in_which_the_sampler_was_away_is_averaged_from_what_there_is(history: History, tmp_path: Path) -> None:
    history.add(START + 60, {"acme": {"cpu_percent": 10.0}})
    history.tidy(START + 3 * HOUR, Retention())
    assert rows(tmp_path, "hourly") == [("acme", START, 10.0)]


def test_what_is_too_old_is_deleted_and_so_is_the_future(history: History, tmp_path: Path) -> None:
    end = fill(history, 5)
    history.add(end + 3 * DAY, {"acme": {"cpu_percent": 1.0}})
    history.tidy(end, Retention(raw_days=1 / 24, hourly_days=2 / 24, daily_days=1))
    assert {time for _subject, time, _value in rows(tmp_path, "raw")} == set(range(end - HOUR, end, 60))
    assert [time for _subject, time, _value in rows(tmp_path, "hourly")] == [end - 2 * HOUR, end - HOUR]


def test_nothing_is_deleted_while_the_clock_may_be_wrong(history: History, tmp_path: Path) -> None:
    end = fill(history, 5)
    ahead = end + 3000 * DAY
    history.add(ahead, {"acme": {"cpu_percent": 1.0}})
    history.tidy(ahead, Retention())
    assert len(rows(tmp_path, "raw")) == 5 * 60 + 1
    history.tidy(end, Retention())
    assert len(rows(tmp_path, "raw")) == 5 * 60, "the row of the future"


def test_hours_go_on_after_the_clock_was_ahead(history: History, tmp_path: Path) -> None:
    end = fill(history, 2)
    for time in range(end + 6 * HOUR, end + 8 * HOUR, 600):
        history.add(time, {"acme": {"cpu_percent": 9.0}})
    history.tidy(end + 8 * HOUR, Retention())
    for time in range(end, end + 2 * HOUR, 60):
        history.add(time, {"acme": {"cpu_percent": 5.0}})
    history.tidy(end + 2 * HOUR, Retention())
    values = {time: value for _subject, time, value in rows(tmp_path, "hourly")}
    assert (values[end], values[end + HOUR]) == (5.0, 5.0)


def test_what_is_deleted_makes_the_file_smaller(history: History, tmp_path: Path) -> None:
    end = fill(history, 24)
    path = tmp_path / "state" / "history.sqlite"

    def size() -> int:
        with sqlite3.connect(path) as connection:
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        return path.stat().st_size

    before = size()
    history.tidy(end, Retention(raw_days=1 / 24, hourly_days=1, daily_days=1))
    assert size() < before / 2


def test_the_file_does_not_grow_for_ever(history: History, tmp_path: Path) -> None:
    def size() -> int:
        return sum(path.stat().st_size for path in (tmp_path / "state").iterdir())

    retention, sizes = Retention(raw_days=0.5, hourly_days=1, daily_days=1), []
    for day in range(4):
        for time in range(START + day * DAY, START + (day + 1) * DAY, 120):
            history.add(time, {"acme": dict.fromkeys(COLUMNS, 1.0)})
            if time % HOUR == 0:
                history.tidy(time, retention)
        sizes.append(size())
    assert sizes[3] <= sizes[1] * 1.1


@pytest.mark.parametrize("subject", ["acme", HOST])
def test_ranges_are_as_the_schema_says(history: History, subject: str) -> None:
    end = fill(history, 3, subject)
    history.tidy(end, Retention())
    document = {"schema": 1, "name": subject, "written_at": end, "ranges": history.ranges(subject, end)}
    Draft202012Validator(SCHEMA).validate(document)
    day = document["ranges"]["day"]  # type: ignore[index]
    assert day["time"] == list(range(START, end, 300))
    assert day["columns"]["cpu_percent"] == [0.0] * 12 + [1.0] * 12 + [2.0] * 12
    assert set(map(len, day["columns"].values())) == {36}


def test_sparklines_are_the_last_hour_with_gaps(history: History) -> None:
    now = START + 10 * HOUR
    history.add(now - 59 * 60, {"acme": {"cpu_percent": 1.0}})
    history.add(now, {"acme": {"cpu_percent": 2.0}, "_disk:/": {"data_used_percent": 3.0}})
    history.add(now - HOUR, {"acme": {"cpu_percent": 9.0}})
    lines = history.sparklines(now, ["cpu_percent", "latency_ms"])
    assert lines == {"acme": {"cpu_percent": [1.0, *[None] * 58, 2.0], "latency_ms": [None] * 60}}


def test_the_share_of_time_that_an_instance_was_up(history: History) -> None:
    for minute in range(10):
        up = {"acme": {"up": float(minute != 3)}, "beta": {"up": None}}
        history.add(START + minute * 60, up)
    assert history.up_percent(START + 600) == {"acme": (90.0, 90.0)}


def test_a_damaged_file_is_set_aside(history: History, tmp_path: Path, said: List[str]) -> None:
    history.add(START, {"acme": {"cpu_percent": 1.0}})
    history.close()
    path = tmp_path / "state" / "history.sqlite"
    path.write_bytes(b"no database at all" * 500)
    again = History(str(path), said.append)
    again.add(START, {"acme": {"cpu_percent": 2.0}})
    assert rows(tmp_path, "raw") == [("acme", START, 2.0)]
    assert "damaged" in said[0] and (tmp_path / "state" / "history.sqlite.damaged").exists()
    again.close()


def test_a_directory_that_cannot_be_written_to_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises((MultibaseError, OSError)):
        History(str(tmp_path / "file" / "history.sqlite"), print)


def test_a_process_that_is_killed_loses_no_row_that_was_kept(tmp_path: Path) -> None:
    path = str(tmp_path / "state" / "history.sqlite")
    child = os.fork()
    if child == 0:
        made = History(path, print)
        made.add(START, {"acme": {"cpu_percent": 4.0}})
        os._exit(9)
    os.waitpid(child, 0)
    again = History(path, print)
    again.close()
    assert rows(tmp_path, "raw") == [("acme", START, 4.0)]


def line(days: float, slope: float, base: float = 10.0) -> List[Tuple[float, float]]:
    return [(START + hour * HOUR, base + slope * hour / 24) for hour in range(int(days * 24) + 1)]


def test_a_steady_growth_is_told_to_the_day() -> None:
    # Ten percent after a day less than three days ago, five more each day: 75 more are 15 days.
    assert forecast(line(3, 5.0), 100.0) == pytest.approx(15.0)


def test_a_file_that_came_and_went_does_not_count() -> None:
    points = line(4, 1.0)
    points[40:45] = [(time, 90.0) for time, _value in points[40:45]]
    assert forecast(points, 100.0) == pytest.approx(86.0, abs=0.5)


@pytest.mark.parametrize("points", [[], line(0.9, 5.0), line(3, 0.0), line(3, -1.0), line(3, 0.001)])
def test_what_does_not_grow_or_is_too_short_has_no_forecast(points: List[Tuple[float, float]]) -> None:
    assert forecast(points, 100.0) is None


@given(st.lists(st.floats(0, 100), min_size=30, max_size=120))
def test_a_forecast_is_never_in_the_past(values: List[float]) -> None:
    found = forecast([(START + number * HOUR, value) for number, value in enumerate(values)], 100.0)
    assert found is None or 0 <= found <= 3650
