# SPDX-License-Identifier: GPL-3.0-or-later
"""Exchanging directories: killed for real before every operation, and what nobody can tell apart."""

from __future__ import annotations

import os
import shutil
from functools import partial
from pathlib import Path
from typing import Any, List

import pytest

from ansible_collections.multibase.supabase.plugins.module_utils import _restore_journal
from ansible_collections.multibase.supabase.plugins.module_utils._errors import StateCorrupt
from ansible_collections.multibase.supabase.plugins.module_utils._restore_journal import Exchange
from unit.support import count_operations, killed_at

PARTS = ("data", "custom", "storage")


def make(directory: Path) -> List[Exchange]:
    exchanges = []
    shutil.rmtree(directory, ignore_errors=True)
    for part in PARTS:
        exchange = _restore_journal.plan("run", str(directory / part))
        for path, text in ((exchange.live, "old"), (exchange.new, "new")):
            os.makedirs(path)
            Path(path, "says").write_text(text + part)
        exchanges.append(exchange)
    return exchanges


def said(exchanges: List[Exchange]) -> List[List[str]]:
    return [
        [
            Path(place, "says").read_text() if os.path.exists(place) else ""
            for place in (exchange.live, exchange.new, exchange.old)
        ]
        for exchange in exchanges
    ]


OLD = [["old" + part, "new" + part, ""] for part in PARTS]
NEW = [["new" + part, "", "old" + part] for part in PARTS]


def test_killed_at_any_operation_it_is_undone_or_finished(tmp_path: Path) -> None:
    top = tmp_path / "x"
    exchanges = make(top)
    total = len(count_operations(partial(_restore_journal.swap, exchanges)))
    assert total == 3 * len(PARTS) and said(exchanges) == NEW
    for number in range(1, total + 1):
        exchanges = make(top)
        killed_at(number, partial(_restore_journal.swap, exchanges))
        _restore_journal.swap(exchanges)
        assert said(exchanges) == NEW
        exchanges = make(top)
        killed_at(number, partial(_restore_journal.swap, exchanges))
        steps = len(count_operations(partial(_restore_journal.unswap, exchanges)))
        assert said(exchanges) == OLD
        for second in range(1, steps + 1):
            exchanges = make(top)
            killed_at(number, partial(_restore_journal.swap, exchanges))
            killed_at(second, partial(_restore_journal.unswap, exchanges))
            _restore_journal.unswap(exchanges)
            assert said(exchanges) == OLD


def test_both_are_no_matter_when_done_twice(tmp_path: Path) -> None:
    exchanges = make(tmp_path / "x")
    for _time in range(2):
        _restore_journal.swap(exchanges)
        assert said(exchanges) == NEW
    for _time in range(2):
        _restore_journal.unswap(exchanges)
        assert said(exchanges) == OLD


def test_the_way_back_is_the_way_there(tmp_path: Path) -> None:
    exchanges = make(tmp_path / "x")
    _restore_journal.swap(exchanges)
    back = [exchange.reversed() for exchange in exchanges]
    total = len(count_operations(partial(_restore_journal.swap, back)))
    assert said(exchanges) == OLD
    for number in range(1, total + 1):
        exchanges = make(tmp_path / "x")
        _restore_journal.swap(exchanges)
        killed_at(number, partial(_restore_journal.swap, back))
        _restore_journal.swap(back)
        assert said(exchanges) == OLD
        assert [exchange.reversed() for exchange in back] == exchanges


@pytest.mark.parametrize("action", ["swap", "unswap"])
def test_three_directories_are_a_conflict_and_stay(tmp_path: Path, action: str) -> None:
    exchanges = make(tmp_path / "x")[:1]
    shutil.copytree(exchanges[0].live, exchanges[0].old)
    before = sorted(str(path) for path in tmp_path.rglob("*"))
    with pytest.raises(StateCorrupt):
        getattr(_restore_journal, action)(exchanges)
    assert sorted(str(path) for path in tmp_path.rglob("*")) == before


def test_a_link_in_place_of_what_is_removed_is_removed_itself(tmp_path: Path) -> None:
    (tmp_path / "keep").mkdir()
    (tmp_path / "keep" / "f").write_text("x")
    (tmp_path / "tree").mkdir()
    (tmp_path / "tree" / "l").symlink_to(tmp_path / "keep")
    _restore_journal.remove_tree(str(tmp_path / "tree"))
    (tmp_path / "link").symlink_to(tmp_path / "keep")
    _restore_journal.remove_tree(str(tmp_path / "link"))
    _restore_journal.remove_tree(str(tmp_path / "missing"))
    assert os.listdir(tmp_path) == ["keep"] and os.listdir(tmp_path / "keep") == ["f"]


def test_a_killed_write_leaves_the_old_journal_or_the_new(tmp_path: Path) -> None:
    layout: Any = _restore_journal.Layout(str(tmp_path))
    journal = _restore_journal.Journal("acme", "stem", "building", make(tmp_path / "x"))
    _restore_journal.write(layout, journal, "building")
    total = len(count_operations(lambda: _restore_journal.write(layout, journal, "swapping")))
    for number in range(1, total + 1):
        _restore_journal.write(layout, journal, "building")
        killed_at(number, lambda: _restore_journal.write(layout, journal, "swapping"))
        assert _restore_journal.pending(layout, "acme") in ("building", "swapping")
        journal.phase = "swapping"
        _restore_journal.write(layout, journal, "swapping")
        assert _restore_journal.read(layout, "acme") == journal
