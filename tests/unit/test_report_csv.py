# SPDX-License-Identifier: GPL-3.0-or-later
"""A report as tables for spreadsheets, read back with a reader of CSV."""

from __future__ import annotations

import csv
import io
from typing import Any, Dict, List

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ansible_collections.multibase.supabase.plugins.module_utils import _report_csv
from unit.report_support import AWAY, HOSTILE, answer, hostile, live_documents, report, sample

PROPERTY = settings(
    derandomize=True, max_examples=40, deadline=None, database=None, suppress_health_check=list(HealthCheck)
)
TABLES = sorted(_report_csv.TABLES)
# What Excel, LibreOffice and Google Sheets take for the beginning of a formula.
FORMULA = ("=", "+", "-", "@", "\t", "\r", "\uff1d", "\uff0b", "\uff0d", "\uff20")


def read(text: str) -> List[Dict[str, str]]:
    """Read a table back; every row has as many cells as the heading."""
    table = list(csv.reader(io.StringIO(text, newline=""), strict=True))
    assert all(len(row) == len(table[0]) for row in table)
    assert text.count("\r\n") == len(table) and text.count("\n") == len(table)
    return [dict(zip(table[0], row)) for row in table[1:]]


def number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def test_one_row_for_each() -> None:
    counts = {table: len(read(_report_csv.render(report(), table))) for table in TABLES}
    assert counts == {"hosts": 2, "instances": 3, "services": 8, "backups": 3, "alerts": 4, "certificates": 2}


def test_the_row_of_an_instance() -> None:
    beta = read(_report_csv.render(report(), "instances"))[1]
    assert {key: beta[key] for key in ("host", "sampled_at", "stale", "instance", "labels", "state", "services")} == {
        "host": "h1", "sampled_at": "2026-09-21T14:13:20Z", "stale": "false", "instance": "beta",
        "labels": "team=data", "state": "degraded", "services": "3",
    }  # fmt: skip
    assert (beta["services_well"], beta["cpu_percent"], beta["memory_bytes"]) == ("2", "51.0", "1073741824")
    assert (beta["connections"], beta["cache_hit_ratio"], beta["probes_failed"]) == ("11", "0.81", "storage")
    assert (beta["backup_overdue"], beta["backup_verified_at"]) == ("true", "2026-09-18T12:14:20Z")
    gamma = read(_report_csv.render(report(), "instances"))[2]
    # What is not known is no zero.
    assert (gamma["cpu_percent"], gamma["memory_bytes"], gamma["backup_verified_at"]) == ("", "", "")


def test_rows_of_services_backups_alerts_hosts_and_certificates() -> None:
    tables = {table: read(_report_csv.render(report(), table)) for table in TABLES}
    storage = tables["services"][5]
    assert (storage["instance"], storage["service"], storage["health"], storage["restarts"]) == (
        "beta", "storage", "unhealthy", "7",
    )  # fmt: skip
    beta = tables["backups"][1]
    assert beta["last_exit_code"] == "16" and beta["problem"].startswith("a scheduled backup is overdue; the last")
    assert beta["newest"] != beta["newest_verified"] and beta["newest_verified_bytes"] == "50331648"
    assert [row["acknowledged_by"] for row in tables["alerts"]] == ["", "ann", "", ""]
    assert [(row["host"], row["problem"], row["cpus"]) for row in tables["hosts"]] == [
        ("h1", "", "4"), ("away", "the host cannot be reached: no route", ""),
    ]  # fmt: skip
    assert [row["days_left"] for row in tables["certificates"]] == ["60.0", "5.0"]


@pytest.mark.parametrize("table", TABLES)
@pytest.mark.parametrize("word", HOSTILE)
def test_no_cell_is_a_formula(table: str, word: str) -> None:
    for row in read(_report_csv.render(report(answer(word, hostile(word))), table)):
        for name, cell in row.items():
            assert number(cell) or not cell.strip().startswith(FORMULA), (name, cell)


@PROPERTY
@given(live_documents, st.sampled_from(TABLES))
def test_whatever_hosts_say_can_be_read(live: Dict[str, Any], table: str) -> None:
    text = _report_csv.render(report(answer(live=live), AWAY), table)
    text.encode("utf-8")
    for row in read(text):
        for name, cell in row.items():
            assert number(cell) or not cell.startswith(FORMULA), (name, cell)


def test_a_number_stays_a_number_and_a_word_that_looks_like_a_formula_is_readable() -> None:
    live = sample()
    live["certificates"][0]["days_left"] = -3.5
    live["certificates"][0]["issuer"] = "-3.5"
    row = read(_report_csv.render(report(answer(live=live)), "certificates"))[0]
    assert (row["days_left"], row["issuer"]) == ("-3.5", "'-3.5")


@pytest.mark.parametrize(("seconds", "text"), [(0, "1970-01-01T00:00:00Z"), (None, ""), (1e18, ""), (-1e18, "")])
def test_times(seconds: Any, text: str) -> None:
    assert _report_csv.moment(seconds) == text
