# SPDX-License-Identifier: GPL-3.0-or-later
"""The page on reports says what the code does: findings, limits, settings, columns, metrics, examples."""

from __future__ import annotations

import re
import shlex
from typing import Any, Dict, List

import pytest
import yaml

from ansible_collections.multibase.supabase.plugins.filter.report_outputs import FILES
from ansible_collections.multibase.supabase.plugins.module_utils import (
    _mail,
    _report,
    _report_csv,
    _report_prometheus,
)
from unit.report_support import REPOSITORY
from unit.test_front import Front
from unit.test_report_front import front  # noqa: F401

PAGE = (REPOSITORY / "docs" / "reports.md").read_text()
DEFAULTS: Dict[str, Any] = yaml.safe_load((REPOSITORY / "roles/multibase_monitor/defaults/main.yml").read_text())


def table(section: str, part: int = 0) -> List[List[str]]:
    """The rows of a table below a heading."""
    text = PAGE.split("\n## " + section + "\n", 1)[1].split("\n## ")[0]
    rows = [line.strip("|").split("|") for line in text.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in row] for row in rows[2:]]


def code(language: str) -> List[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)


def test_metrics_are_those_of_the_code() -> None:
    expected = [
        [f"`{name}`", kind, " ".join(f"`{label}`" for label in ("host", *labels)), words]
        for name, kind, labels, words in _report_prometheus.FAMILIES
    ]
    assert table("Prometheus") == expected


def test_columns_are_those_of_the_code() -> None:
    expected = [
        [f"`{name}`", " ".join(f"`{column}`" for column in _report_csv.columns(name))] for name in _report_csv.TABLES
    ]
    assert table("CSV") == expected


def test_findings_and_their_limits_are_those_of_the_code() -> None:
    rows = {row[0].strip("`"): row[1:] for row in table("What needs attention")}
    assert tuple(rows) == _report.KINDS
    for kind, percent in (("disk", _report.DISK_PERCENT), ("memory", _report.MEMORY_PERCENT)):
        for place, cell in ((1, rows[kind][0]), (0, rows[kind][1])):
            assert re.findall(r"(\d+) (?:%|days)", cell) == [
                f"{percent[place]:.0f}", f"{_report.FULL_IN_DAYS[place]:.0f}",
            ]  # fmt: skip
    assert [re.findall(r"\d+", cell) for cell in rows["certificate"]] == [
        [f"{days:.0f}"] for days in reversed(_report.CERTIFICATE_DAYS)
    ]
    assert _report.STALE_INTERVALS == 3 and "older than three intervals" in PAGE


def test_settings_are_those_of_the_role() -> None:
    rows = {row[0].strip("`"): row[1] for row in table("Settings")}
    assert set(rows) == {name for name in DEFAULTS if name.startswith("multibase_report_")} | {"multibase_limit"}
    for name, cell in rows.items():
        shown = (
            "`[{0}]`".format(", ".join(DEFAULTS[name])) if DEFAULTS[name] and isinstance(DEFAULTS[name], list) else None
        )
        assert cell == (shown or (f"`{DEFAULTS[name]}`" if DEFAULTS[name] else cell))
        assert bool(DEFAULTS[name]) == cell.startswith("`")


def test_the_example_of_a_mail_is_taken() -> None:
    (settings,) = [
        found["multibase_report_mail"]
        for found in map(yaml.safe_load, code("yaml"))
        if "multibase_report_mail" in found
    ]
    assert _mail.problems(settings) == []
    assert set(settings) == {*_mail._NEEDED, *_mail._OPTIONAL}
    for security, port in _mail.SECURITY.items():
        assert f"{port} for {security}" in PAGE


def test_examples_of_rules_name_metrics_that_there_are() -> None:
    known = {name for name, _kind, _labels, _words in _report_prometheus.FAMILIES}
    rules = [
        rule for found in map(yaml.safe_load, code("yaml")) if "groups" in found for rule in found["groups"][0]["rules"]
    ]
    named = {word for rule in rules for word in re.findall(r"multibase_\w+", rule["expr"])}
    assert named and named <= known


def test_files_are_called_as_the_page_says() -> None:
    assert all(f"`{name}`" in PAGE for name in FILES.values())


@pytest.mark.parametrize(
    "line", [line for line in "".join(code("console")).splitlines() if line.startswith("./multibase")]
)
def test_examples_of_the_command_are_taken(front: Front, line: str) -> None:  # noqa: F811
    words = shlex.split(line.split("|")[0], comments=True)
    assert front.run(*words[1:]).returncode == 0 and front.called
