# SPDX-License-Identifier: GPL-3.0-or-later
"""Figures of tests are kept, by several processes at once, and told as a table."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import figures


def test_nothing_measured_is_no_table(tmp_path: Path) -> None:
    figures.start(tmp_path)
    assert figures.read(tmp_path) == [] and figures.finish(tmp_path) == ""
    assert not (tmp_path / figures.PAGE).exists()


def test_the_last_of_a_name_counts_and_the_order_is_theirs(tmp_path: Path) -> None:
    figures.record("open ports", "22, 80, 443", "IPv4", "full scan", tmp_path)
    figures.record("idle run", 31.5, "s", "test_server", tmp_path)
    figures.record("open ports", "22, 443", "IPv4", "full scan", tmp_path)
    figures.record("share", 2.0, "of 3 | 4", "test", tmp_path)
    table = figures.finish(tmp_path).splitlines()
    assert [line.split("  ")[0].strip() for line in table] == ["idle run", "open ports", "share"]
    assert " 22, 443  IPv4" in table[1] and "  2  of 3 | 4" in table[2]
    page = (tmp_path / figures.PAGE).read_text()
    assert "| idle run | 31.5 | s | test_server |\n" in page and "of 3 \\| 4" in page
    figures.start(tmp_path)
    assert figures.read(tmp_path) == []


def test_several_processes_do_not_mix_their_lines(tmp_path: Path) -> None:
    script = (
        "import sys; from pathlib import Path; import figures\n"
        "for n in range(200): figures.record('{}-{}'.format(sys.argv[1], n), n, 'x' * 500, 'y', Path(sys.argv[2]))"
    )
    tests = Path(figures.__file__).parent
    started = [
        subprocess.Popen([sys.executable, "-c", script, name, str(tmp_path)], cwd=tests) for name in ("one", "two")
    ]
    assert [process.wait() for process in started] == [0, 0]
    assert len(figures.read(tmp_path)) == 400
