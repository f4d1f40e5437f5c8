# SPDX-License-Identifier: GPL-3.0-or-later
# This file is private to the multibase.supabase collection; it may change at any time.
"""A report as tables for spreadsheets: a row for each instance, service, backup, alert or certificate.

CSV of RFC 4180 in UTF-8 with a heading. What is not known is an empty cell; times are UTC, as 2026-09-21T14:13:20Z.
Text that a spreadsheet would take for a formula begins with an apostrophe.
"""

from __future__ import annotations

import csv
import io
import time
from typing import Any, Callable, Dict, Iterator, List, Mapping, Sequence, Tuple

from ._report import backup_problem, plain_text

_Row = Mapping[str, Any]
# A column: its name, and what is in it of a row's {host, instance, about}.
_Column = Tuple[str, Callable[[_Row], Any]]


def moment(seconds: Any) -> str:
    """Return a time (seconds since 1970) as UTC in the form of ISO 8601; empty when there is none."""
    try:
        return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds)) if seconds is not None else ""
    except (ValueError, OverflowError, OSError):
        # A clock of a host that says anything.
        return ""


def _at(*path: str) -> Callable[[_Row], Any]:
    """Return what follows a path through dictionaries; None where there is nothing on the way."""

    def look(row: _Row) -> Any:
        value: Any = row
        for key in path:
            value = value.get(key) if value is not None else None
        return value

    return look


def _time_at(*path: str) -> Callable[[_Row], Any]:
    look = _at(*path)
    return lambda row: moment(look(row))


def _pairs(*path: str) -> Callable[[_Row], Any]:
    look = _at(*path)
    return lambda row: " ".join("{0}={1}".format(key, value) for key, value in (look(row) or {}).items())


def _services_well(row: _Row) -> int:
    return sum(service["health"] in ("healthy", "running") for service in row["instance"]["services"])


def _probes_failed(row: _Row) -> str:
    return " ".join(probe["name"] for probe in row["instance"]["probes"] if not probe["ok"])


def _connections(row: _Row) -> Any:
    database = row["instance"]["database"]
    return None if database is None else sum(database["connections"].values())


_HOST: List[_Column] = [
    ("host", _at("host", "host")), ("sampled_at", _time_at("host", "sampled_at")), ("stale", _at("host", "stale")),
]  # fmt: skip
_OF_INSTANCE: List[_Column] = [*_HOST, ("instance", _at("instance", "name"))]
_USE = (
    "cpu_percent", "memory_bytes", "memory_limit_bytes", "network_received_bytes", "network_sent_bytes",
    "block_read_bytes", "block_written_bytes", "processes",
)  # fmt: skip
TABLES: Mapping[str, List[_Column]] = {
    "hosts": [
        *_HOST,
        ("problem", _at("host", "problem")),
        ("version", _at("host", "version")),
        ("engine_version", _at("host", "machine", "engine", "version")),
        ("labels", _pairs("host", "machine", "labels")),
        ("instances", lambda row: len(row["host"]["instances"])),
        *(
            (key, _at("host", "machine", key))
            for key in (
                "cpus",
                "cpu_percent",
                "memory_total_bytes",
                "memory_used_bytes",
                "memory_full_in_days",
                "swap_used_bytes",
                "uptime_seconds",
            )
        ),
    ],
    "instances": [
        *_OF_INSTANCE,
        ("labels", _pairs("instance", "labels")),
        ("state", _at("instance", "state")),
        ("problem", _at("instance", "problem")),
        ("release", _at("instance", "release")),
        ("url", _at("instance", "urls", "api")),
        ("services", lambda row: len(row["instance"]["services"])),
        ("services_well", _services_well),
        *((key, _at("instance", "use", key)) for key in _USE),
        *((key, _at("instance", "disk", key)) for key in ("database_bytes", "storage_bytes", "backups_bytes")),
        ("connections", _connections),
        *(
            (key, _at("instance", "database", key))
            for key in ("max_connections", "cache_hit_ratio", "oldest_transaction_seconds", "dead_tuples")
        ),
        ("probes_failed", _probes_failed),
        *((key, _at("instance", "uptime", key)) for key in ("day_percent", "month_percent", "target_percent")),
        ("backups", _at("instance", "backups", "count")),
        ("backup_verified_at", _time_at("instance", "backups", "newest_verified", "finished_at")),
        ("backup_overdue", _at("instance", "backups", "overdue")),
    ],
    "services": [
        *_OF_INSTANCE,
        *((key, _at("about", key)) for key in ("container",)),
        ("service", _at("about", "name")),
        *((key, _at("about", key)) for key in ("state", "health", "restarts")),
        ("started_at", _time_at("about", "started_at")),
        *((key, _at("about", "use", key)) for key in _USE),
    ],
    "backups": [
        *_OF_INSTANCE,
        ("count", _at("about", "count")),
        ("bytes_in_all", _at("instance", "disk", "backups_bytes")),
        ("scheduled", _at("about", "scheduled")),
        ("overdue", _at("about", "overdue")),
        ("last_exit_code", _at("about", "last_exit_code")),
        *(
            column
            for kind in ("newest", "newest_verified")
            for column in (
                (kind, _at("about", kind, "backup")),
                (kind + "_finished_at", _time_at("about", kind, "finished_at")),
                (kind + "_bytes", _at("about", kind, "bytes")),
                (kind + "_scope", _at("about", kind, "scope")),
            )
        ),
        ("problem", lambda row: backup_problem(row["about"])),
    ],
    "alerts": [
        *_HOST,
        ("instance", _at("about", "instance")),
        *((key, _at("about", key)) for key in ("rule", "severity", "state", "subject")),
        ("since", _time_at("about", "since")),
        *((key, _at("about", key)) for key in ("value", "threshold", "message")),
        ("acknowledged_by", _at("about", "acknowledged", "by")),
        ("silenced_until", _time_at("about", "silenced_until")),
    ],
    "certificates": [
        *_HOST,
        ("site", _at("about", "site")),
        ("domains", lambda row: " ".join(row["about"]["domains"])),
        ("not_after", _time_at("about", "not_after")),
        *((key, _at("about", key)) for key in ("days_left", "issuer", "kind")),
    ],
}


def columns(table: str) -> List[str]:
    """Return the heading of a table."""
    return [name for name, _look in TABLES[table]]


def rows(report: Mapping[str, Any], table: str) -> List[List[Any]]:
    """Return the rows of a table, as values: None, truth, number or text."""
    return [[look(row) for _name, look in TABLES[table]] for row in _rows(report["hosts"], table)]


def _rows(hosts: Sequence[Mapping[str, Any]], table: str) -> Iterator[Dict[str, Any]]:
    for host in hosts:
        if table == "hosts":
            yield {"host": host}
        elif table in ("alerts", "certificates"):
            yield from ({"host": host, "about": one} for one in host[table])
        else:
            for instance in host["instances"]:
                about = {"services": instance["services"], "backups": [instance["backups"]]}.get(table, [None])
                yield from ({"host": host, "instance": instance, "about": one} for one in about)


def render(report: Mapping[str, Any], table: str) -> str:
    """Return a table of a report (as ``_report.build`` returns it) as CSV."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\r\n")
    writer.writerow(columns(table))
    writer.writerows([_cell(value) for value in row] for row in rows(report, table))
    return stream.getvalue()


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if not isinstance(value, str):
        return repr(value)
    # A line in a cell is a line to whoever reads the file without a reader of CSV.
    text = plain_text(value).replace("\n", " ")
    return (
        "'" + text if text.lstrip().startswith(("=", "+", "-", "@", "\uff1d", "\uff0b", "\uff0d", "\uff20")) else text
    )
