# SPDX-License-Identifier: GPL-3.0-or-later
# This file is private to the multibase.supabase collection; it may change at any time.
"""What was seen before, in SQLite: a row for each subject and minute, averages of hours and of days.

A subject is an instance, ``_host``, or ``_disk:<path>``. Each resolution is kept for a number of days, and what is
older is deleted, so that the file stops growing. A row is lost at most when the host dies, never the file; one that is
damaged all the same is set aside, and a new one begun.
"""

# What is put into statements are names of tables and columns of this file.
# ruff: noqa: S608

from __future__ import annotations

import contextlib
import os
import sqlite3
import statistics
from dataclasses import dataclass
from typing import Any, Callable, Dict, Iterable, List, Mapping, Optional, Sequence, Tuple

from ._errors import MultibaseError

HOST = "_host"
DISK = "_disk:"
SHARED = (
    "cpu_percent", "memory_bytes", "network_received_rate", "network_sent_rate", "block_read_rate", "block_write_rate",
    "processes",
)  # fmt: skip
OF_INSTANCES = ("database_bytes", "storage_bytes", "backups_bytes", "connections", "latency_ms", "up")
OF_HOST = ("load", "data_used_percent")
COLUMNS = (*SHARED, *OF_INSTANCES, *OF_HOST)
MINUTE, HOUR, DAY = 60, 3600, 86400
SPARK_VALUES = 60
# Of each range: table, seconds between two values, and how far it goes back.
RANGES = {"day": ("raw", 300, DAY), "month": ("hourly", HOUR, 30 * DAY), "year": ("daily", DAY, 365 * DAY)}
# A trend of less than a day is the time of day; beyond ten years it is none.
_FORECAST_DAYS = 7
_SHORTEST_TREND_DAYS = 1.0
_LONGEST_FORECAST_DAYS = 3650.0

Row = Mapping[str, Optional[float]]


@dataclass(frozen=True)
class Retention:
    """For how many days each resolution is kept."""

    raw_days: float = 2
    hourly_days: float = 60
    daily_days: float = 1000

    @classmethod
    def read(cls, settings: Any) -> Retention:
        """Return what the settings say; what they do not say, or say wrongly, is as above."""
        known = cls().__dict__
        given = settings if isinstance(settings, dict) else {}
        usable = {name: given[name] for name in known if isinstance(given.get(name), (int, float)) and given[name] > 0}
        return cls(**{**known, **usable})


class History:
    """The file of the history. Not for several threads."""

    def __init__(self, path: str, say: Callable[[str], None]) -> None:
        self._path = path
        self._say = say
        self._connection = self._open()

    def _open(self) -> sqlite3.Connection:
        os.makedirs(os.path.dirname(self._path), mode=0o700, exist_ok=True)
        try:
            return self._connect()
        except sqlite3.DatabaseError as error:
            if isinstance(error, sqlite3.OperationalError):
                # Not the file's fault: no space, no rights, a lock.
                raise MultibaseError("{0} cannot be used: {1}".format(self._path, error)) from error
            self._set_aside(error)
            return self._connect()

    def _connect(self) -> sqlite3.Connection:
        connection = sqlite3.connect(self._path, timeout=10, isolation_level=None)
        try:
            # Before the first table: what is deleted later makes the file smaller.
            connection.execute("PRAGMA auto_vacuum=INCREMENTAL")
            # A row of a minute is no reason to wait for the disk; what the file holds is whole all the same.
            connection.execute("PRAGMA journal_mode=WAL")
            connection.execute("PRAGMA synchronous=NORMAL")
            (told,) = connection.execute("PRAGMA quick_check(1)").fetchone()
            if told != "ok":
                raise sqlite3.DatabaseError(told)
            columns = ", ".join(name + " REAL" for name in COLUMNS)
            for table in ("raw", "hourly", "daily"):
                connection.execute(
                    "CREATE TABLE IF NOT EXISTS {0} (subject TEXT, time INTEGER, {1}, PRIMARY KEY (subject, time))"
                    " WITHOUT ROWID".format(table, columns)
                )
                connection.execute("CREATE INDEX IF NOT EXISTS {0}_time ON {0} (time)".format(table))
        except BaseException:
            connection.close()
            raise
        os.chmod(self._path, 0o600)
        return connection

    def _set_aside(self, error: Exception) -> None:
        aside = self._path + ".damaged"
        os.replace(self._path, aside)
        for suffix in ("-wal", "-shm"):
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self._path + suffix)
        self._say("the history was damaged ({0}); it is kept as {1}, and a new one begins".format(error, aside))

    def close(self) -> None:
        """Close the file."""
        self._connection.close()

    def _execute(self, query: str, values: Sequence[Any] = ()) -> List[Tuple[Any, ...]]:
        try:
            return self._connection.execute(query, values).fetchall()
        except sqlite3.OperationalError as error:
            raise MultibaseError("{0} cannot be used: {1}".format(self._path, error)) from error
        except sqlite3.DatabaseError as error:
            # Found by a page that was read only now.
            self._connection.close()
            self._set_aside(error)
            self._connection = self._connect()
            return []

    def add(self, now: float, rows: Mapping[str, Row]) -> None:
        """Keep a value of each subject for the minute of ``now``."""
        names = ", ".join(("subject", "time", *COLUMNS))
        query = "INSERT OR REPLACE INTO raw ({0}) VALUES ({1})".format(names, ", ".join("?" * (len(COLUMNS) + 2)))
        self._execute("BEGIN")
        for subject, row in rows.items():
            self._execute(query, [subject, int(now), *(row.get(name) for name in COLUMNS)])
        self._execute("COMMIT")

    def tidy(self, now: float, retention: Retention) -> None:
        """Average what is complete, and delete what is too old.

        In the first hour of a run nothing is deleted: a clock that is years ahead after a boot would take everything.
        """
        self._roll("raw", "hourly", HOUR, now)
        self._roll("hourly", "daily", DAY, now)
        steady = "SELECT 1 FROM raw WHERE time BETWEEN ? AND ? LIMIT 1"
        if not self._execute(steady, [int(now) - 2 * HOUR, int(now) - HOUR]):
            return
        for table, days in (
            ("raw", retention.raw_days), ("hourly", retention.hourly_days), ("daily", retention.daily_days),
        ):  # fmt: skip
            self._execute("DELETE FROM {0} WHERE time < ?".format(table), [int(now - days * DAY)])
            # After the clock was set back, what was written before lies in the future.
            self._execute("DELETE FROM {0} WHERE time > ?".format(table), [int(now + DAY)])
        # As a script: of a single statement only one step would be taken, which is one page.
        self._connection.executescript("PRAGMA incremental_vacuum")

    def _roll(self, source: str, target: str, step: int, now: float) -> None:
        """Average the steps that are over and not there yet; the last of those again, for it may have grown."""
        # What was written while the clock was ahead is none of the last.
        ((last,),) = self._execute("SELECT max(time) FROM {0} WHERE time <= ?".format(target), [int(now)]) or [(None,)]
        first = int(last) if last is not None else 0
        end = int(now) // step * step
        names = ", ".join(COLUMNS)
        averages = ", ".join("avg({0})".format(name) for name in COLUMNS)
        self._execute(
            "INSERT OR REPLACE INTO {target} (subject, time, {names})"
            " SELECT subject, time / {step} * {step}, {averages} FROM {source}"
            " WHERE time >= ? AND time < ? GROUP BY subject, time / {step}".format(
                target=target, names=names, step=step, averages=averages, source=source
            ),
            [first, end],
        )

    def ranges(self, subject: str, now: float) -> Dict[str, Any]:
        """Return day, month and year of a subject as history.schema.json has them."""
        names = (*SHARED, *(OF_HOST if subject == HOST else OF_INSTANCES))
        averages = ", ".join("avg({0})".format(name) for name in names)
        told: Dict[str, Any] = {}
        for name, (table, step, seconds) in RANGES.items():
            rows = self._execute(
                "SELECT time / {0} * {0} AS start, {1} FROM {2} WHERE subject = ? AND time >= ? AND time <= ?"
                " GROUP BY start ORDER BY start".format(step, averages, table),
                [subject, int(now - seconds), int(now)],
            )
            columns = {column: [_rounded(row[number + 1]) for row in rows] for number, column in enumerate(names)}
            told[name] = {"step": step, "time": [row[0] for row in rows], "columns": columns}
        return told

    def sparklines(self, now: float, names: Iterable[str]) -> Dict[str, Dict[str, List[Optional[float]]]]:
        """Return the last hour of each subject, a value a minute, oldest first, by subject and name."""
        wanted = list(names)
        last = int(now) // MINUTE
        averages = ", ".join("avg({0})".format(name) for name in wanted)
        rows = self._execute(
            "SELECT subject, time / 60 AS minute, {0} FROM raw WHERE time >= ? AND time <= ?"
            " AND subject NOT LIKE '_disk:%' GROUP BY subject, minute".format(averages),
            [(last - SPARK_VALUES + 1) * MINUTE, int(now)],
        )
        told: Dict[str, Dict[str, List[Optional[float]]]] = {}
        for subject, minute, *values in rows:
            lines = told.setdefault(subject, {name: [None] * SPARK_VALUES for name in wanted})
            for name, value in zip(wanted, values):
                lines[name][minute - last - 1] = _rounded(value)
        return told

    def up_percent(self, now: float) -> Dict[str, Tuple[Optional[float], Optional[float]]]:
        """Return of each subject which share of the last day and of the last thirty days it was up, in percent."""
        day = dict(self._up("raw", now - DAY))
        month = dict(self._up("hourly", now - 30 * DAY))
        return {subject: (day.get(subject), month.get(subject, day.get(subject))) for subject in {*day, *month}}

    def _up(self, table: str, since: float) -> List[Tuple[str, float]]:
        rows = self._execute(
            "SELECT subject, avg(up) FROM {0} WHERE time >= ? AND up IS NOT NULL GROUP BY subject".format(table),
            [int(since)],
        )
        return [(subject, round(value * 100, 3)) for subject, value in rows]

    def full_in_days(self, subject: str, column: str, limit: float, now: float) -> Optional[float]:
        """Return in how many days a column reaches ``limit`` by the trend of the last week."""
        if column not in COLUMNS:
            raise ValueError(column)
        rows = self._execute(
            "SELECT time / 3600 * 3600 AS start, avg({0}) FROM raw WHERE subject = ? AND {0} IS NOT NULL GROUP BY start"
            " UNION SELECT time, {0} FROM hourly WHERE subject = ? AND {0} IS NOT NULL AND time >= ?"
            " ORDER BY 1".format(column),
            [subject, subject, int(now - _FORECAST_DAYS * DAY)],
        )
        return forecast([(float(time), float(value)) for time, value in rows], limit)


def forecast(points: Sequence[Tuple[float, float]], limit: float) -> Optional[float]:
    """Return in how many days a value reaches ``limit``, None when it does not grow or too little is known.

    ``points`` are (seconds, value), rising. The trend is the median of the slopes between all pairs (Theil and Sen), so
    that a file which came and went does not count; the line goes through the medians. One point an hour is enough: more
    are thinned out to 100.
    """
    if len(points) < 3 or points[-1][0] - points[0][0] < _SHORTEST_TREND_DAYS * DAY:
        return None
    step = max(1, len(points) // 100)
    few = points[::step]
    slopes = [
        (after[1] - before[1]) / (after[0] - before[0])
        for number, before in enumerate(few)
        for after in few[number + 1 :]
        if after[0] > before[0]
    ]
    slope = statistics.median(slopes) * DAY
    if slope <= 0:
        return None
    now = points[-1][0]
    value = statistics.median(value + slope * (now - time) / DAY for time, value in few)
    days = max(0.0, (limit - value) / slope)
    return round(days, 1) if days <= _LONGEST_FORECAST_DAYS else None


def _rounded(value: Optional[float]) -> Optional[float]:
    """Return a value with six significant digits, which is what a chart shows."""
    return None if value is None else float("{0:.6g}".format(value))
