# SPDX-License-Identifier: GPL-3.0-or-later
"""A fast directory for what is killed hundreds of times, how many points are tried, and the line that tells of it."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path
from typing import Any, Iterator, List

import pytest

from figures import record

# What `make test-long` sets: every point is tried.
EVERY_POINT = "MULTIBASE_TEST_LONG"
_MEMORY = Path("/dev/shm")


@pytest.fixture
def fast_path(tmp_path: Path) -> Iterator[Path]:
    """A directory in memory where there is one. What a killed process wrote stays, so a disk would only take longer."""
    if not os.access(_MEMORY, os.W_OK | os.X_OK):
        yield tmp_path
        return
    directory = Path(tempfile.mkdtemp(prefix="multibase-faults-", dir=_MEMORY))
    yield directory
    shutil.rmtree(directory)


@pytest.fixture
def most_points() -> int:
    """How many points of a case to try."""
    return 1_000_000 if os.environ.get(EVERY_POINT) else 45


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Say how many kills and power cuts were tried, and how many there are."""
    for kind in ("kill points", "power cuts"):
        parts: List[str] = []
        tried = there_are = 0
        for report in terminalreporter.stats.get("passed", []) + terminalreporter.stats.get("failed", []):
            for name, value in report.user_properties if report.when == "call" else ():
                if name.startswith(kind):
                    parts.append("{0} {1} of {2}".format(name[len(kind) + 2 :], *value))
                    tried, there_are = tried + value[0], there_are + value[1]
        if parts:
            listing = ", ".join(sorted(parts))
            terminalreporter.write_line("{0}: {1} of {2} ({3})".format(kind, tried, there_are, listing))
            record("{0} tried".format(kind), tried, "of {0}".format(there_are), "tests/faults")
