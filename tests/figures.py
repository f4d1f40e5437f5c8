# SPDX-License-Identifier: GPL-3.0-or-later
"""What tests measured, kept beside whether they passed.

A test calls ``record``; ``tests/all.py`` empties the file when it starts, and prints all as a table when it ends, which
it also keeps as Markdown. A figure says nothing of good or bad: what must hold is an assertion of the test.
"""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any, Dict, List, Union

REPORTS = Path(__file__).resolve().parent.parent / ".cache" / "reports"
LINES = "figures.jsonl"
PAGE = "figures.md"

Value = Union[int, float, str]


def record(name: str, value: Value, unit: str, source: str, reports: Path = REPORTS) -> None:
    """Add a figure: what it is, how much, of what, and which test or program says so."""
    reports.mkdir(parents=True, exist_ok=True)
    figure = {"name": name, "value": value, "unit": unit, "source": source, "at": round(time.time())}
    line = json.dumps(figure, ensure_ascii=False) + "\n"
    # One write to a file opened for appending: tests of several processes do not mix their lines.
    handle = os.open(reports / LINES, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    try:
        os.write(handle, line.encode("utf-8"))
    finally:
        os.close(handle)


def keep(name: str, text: str, reports: Path = REPORTS) -> Path:
    """Keep a page that explains figures, such as a table of checks; return where."""
    reports.mkdir(parents=True, exist_ok=True)
    path = reports / name
    path.write_text(text, encoding="utf-8")
    return path


def start(reports: Path = REPORTS) -> None:
    """Forget what earlier runs measured."""
    for name in (LINES, PAGE):
        (reports / name).unlink(missing_ok=True)


def read(reports: Path = REPORTS) -> List[Dict[str, Any]]:
    """Return the figures in the order in which they came; of those with one name, the last."""
    path = reports / LINES
    if not path.exists():
        return []
    figures: Dict[str, Dict[str, Any]] = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        figure = json.loads(line)
        figures.pop(figure["name"], None)
        figures[figure["name"]] = figure
    return list(figures.values())


def worded(value: Value) -> str:
    """Write a value as people do: 12.0 as 12, 0.123456 as 0.12."""
    return "{0:.2f}".format(value).rstrip("0").rstrip(".") if isinstance(value, float) else str(value)


def finish(reports: Path = REPORTS) -> str:
    """Keep the figures as Markdown and return them as a table for a terminal; empty if nothing was measured."""
    rows = [(one["name"], worded(one["value"]), one["unit"], one["source"]) for one in read(reports)]
    if not rows:
        return ""
    lines = ["# Figures of the last run of tests", "", "| what | value | unit | source |", "|---|---:|---|---|"]
    lines += ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows]
    keep(PAGE, "\n".join(lines) + "\n", reports)
    widths = [max(len(row[column]) for row in rows) for column in range(3)]
    return "\n".join(
        "{0}  {1}  {2}  {3}".format(
            row[0].ljust(widths[0]), row[1].rjust(widths[1]), row[2].ljust(widths[2]), row[3]
        ).rstrip()
        for row in rows
    )
