# SPDX-License-Identifier: GPL-3.0-or-later
"""Exchanging directories: killed after any step, nothing is lost and everything can be undone."""

from __future__ import annotations

import itertools
import json
import os
from pathlib import Path
from typing import Callable, List, Optional

import pytest

from ansible_collections.multibase.supabase.plugins.module_utils import _restore_journal
from ansible_collections.multibase.supabase.plugins.module_utils._errors import Refused, StateCorrupt
from ansible_collections.multibase.supabase.plugins.module_utils._layout import Layout
from ansible_collections.multibase.supabase.plugins.module_utils._restore_journal import Exchange, Journal

PARTS = ("data", "custom", "storage")


class Killed(Exception):
    """Stands for the end of the process."""


def make(directory: Path) -> List[Exchange]:
    """Make live directories that say old, and staged ones that say new."""
    exchanges = []
    for part in PARTS:
        exchange = _restore_journal.plan("run", str(directory / part))
        for path, text in ((exchange.live, "old"), (exchange.new, "new")):
            os.mkdir(path)
            Path(path, "says").write_text(text + part)
        exchanges.append(exchange)
    return exchanges


def found(exchanges: List[Exchange], place: str) -> List[str]:
    """What the directories of one kind say, empty for those that are not there."""
    paths = [Path(getattr(exchange, place), "says") for exchange in exchanges]
    return [path.read_text() if path.exists() else "" for path in paths]


OLD, NEW, NONE = ["old" + part for part in PARTS], ["new" + part for part in PARTS], [""] * len(PARTS)


def killed_after(steps: int, action: Callable[[], None], monkeypatch: pytest.MonkeyPatch) -> bool:
    """Do ``action`` with an end before rename number ``steps``; return whether it was reached."""
    counter = itertools.count()
    real = os.rename

    def rename(source: str, target: str) -> None:
        if next(counter) == steps:
            raise Killed
        real(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(os, "rename", rename)
        try:
            action()
        except Killed:
            return True
    return False


@pytest.mark.parametrize("steps", range(2 * len(PARTS)))
def test_a_swap_that_is_killed_can_be_undone_and_can_be_finished(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, steps: int
) -> None:
    for name in ("undone", "finished"):
        (tmp_path / name).mkdir()
        exchanges = make(tmp_path / name)
        assert killed_after(steps, lambda these=exchanges: _restore_journal.swap(these), monkeypatch)
        if name == "undone":
            _restore_journal.unswap(exchanges)
            assert (found(exchanges, "live"), found(exchanges, "new"), found(exchanges, "old")) == (OLD, NEW, NONE)
        else:
            _restore_journal.swap(exchanges)
            assert (found(exchanges, "live"), found(exchanges, "new"), found(exchanges, "old")) == (NEW, NONE, OLD)


@pytest.mark.parametrize("steps", range(2 * len(PARTS)))
def test_undoing_that_is_killed_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, steps: int) -> None:
    exchanges = make(tmp_path)
    _restore_journal.swap(exchanges)
    assert killed_after(steps, lambda: _restore_journal.unswap(exchanges), monkeypatch)
    _restore_journal.unswap(exchanges)
    assert (found(exchanges, "live"), found(exchanges, "new")) == (OLD, NEW)


def test_a_rollback_that_is_undone_keeps_what_it_would_have_brought_back(tmp_path: Path) -> None:
    layout = Layout(str(tmp_path / "root"))
    exchanges = make(tmp_path)
    _restore_journal.swap(exchanges)
    back = Journal("acme", "stem", "swapping", [one.reversed() for one in exchanges], rollback=True)
    _restore_journal.write(layout, back, "swapping")
    _restore_journal.swap(back.exchanges)
    _restore_journal.unswap(back.exchanges)
    _restore_journal.undone(layout, back)
    assert (found(exchanges, "live"), found(exchanges, "old")) == (NEW, OLD)
    journal = _restore_journal.read(layout, "acme")
    assert journal is not None
    assert (journal.phase, journal.rollback, journal.exchanges) == ("done", False, exchanges)


def test_a_restore_that_is_undone_leaves_the_one_before_to_be_rolled_back(tmp_path: Path) -> None:
    layout = Layout(str(tmp_path / "root"))
    before = make(tmp_path)
    _restore_journal.swap(before)
    first = Journal("acme", "first", "done", before)
    _restore_journal.write(layout, first, "done")
    (tmp_path / "new").mkdir()
    journal = Journal("acme", "second", "building", make(tmp_path / "new"), previous=_restore_journal.as_dict(first))
    _restore_journal.write(layout, journal, "building")
    assert _restore_journal.pending(layout, "acme") == "building"
    _restore_journal.undone(layout, journal)
    assert found(journal.exchanges, "new") == NONE
    assert found(before, "old") == OLD
    assert _restore_journal.read(layout, "acme") == first
    assert _restore_journal.pending(layout, "acme") is None


def restored(layout: Layout, directory: Path, now: float, last: Optional[Journal] = None) -> Journal:
    """A restore of which the new data is in place; what it replaced is kept for 7."""
    directory.mkdir()
    journal = Journal("acme", directory.name, "building", make(directory), kept_until=now + 7)
    _restore_journal.succeeding(last, journal)
    _restore_journal.swap(journal.exchanges)
    _restore_journal.write(layout, journal, "swapped")
    return journal


def gave_up(layout: Layout, journal: Journal) -> None:
    """The new data of a restore did not work: the old is in place again, what services ran on is kept."""
    journal.ran = True
    _restore_journal.unswap(journal.exchanges)
    _restore_journal.undone(layout, journal)


def last(layout: Layout) -> Journal:
    journal = _restore_journal.read(layout, "acme")
    assert journal is not None
    return journal


def test_directories_of_failed_restores_go_when_their_own_days_are_over(tmp_path: Path) -> None:
    """Whatever comes after them: restores that succeed, fail too, or are rolled back. None is forgotten or kept on."""
    layout = Layout(str(tmp_path / "root"))
    first = restored(layout, tmp_path / "first", 0)
    gave_up(layout, first)
    assert last(layout).phase == "undone"
    second = restored(layout, tmp_path / "second", 3, last(layout))
    _restore_journal.write(layout, second, "done")
    third = restored(layout, tmp_path / "third", 5, last(layout))
    gave_up(layout, third)
    assert (last(layout).backup, last(layout).phase) == ("second", "done")
    back = Journal("acme", "second", "swapping", [one.reversed() for one in second.exchanges], kept_until=100.0)
    back.rollback = True
    _restore_journal.write(layout, _restore_journal.succeeding(last(layout), back), "done")
    assert _restore_journal.discard_outdated(layout, "acme", 6.9) == []
    assert _restore_journal.discard_outdated(layout, "acme", 7.1) == [one.new for one in first.exchanges]
    assert found(first.exchanges, "new") == NONE and found(third.exchanges, "new") == NEW
    assert last(layout).phase == "done", "what a rollback brings back is still kept"
    fourth = restored(layout, tmp_path / "fourth", 8, last(layout))
    gave_up(layout, fourth)
    assert _restore_journal.discard_outdated(layout, "acme", 12.1) == [one.new for one in third.exchanges]
    assert _restore_journal.discard_outdated(layout, "acme", 15.1) == [one.new for one in fourth.exchanges]
    assert last(layout).failed == [] and last(layout).until == {}
    assert _restore_journal.outdated(layout, "acme", 99.0) == []


def test_a_deletion_that_was_interrupted_is_gone_on_with_after_another_restore(tmp_path: Path) -> None:
    layout = Layout(str(tmp_path / "root"))
    first = restored(layout, tmp_path / "first", 0)
    _restore_journal.write(layout, first, "expired")
    _restore_journal.remove_tree(first.exchanges[0].old)
    second = restored(layout, tmp_path / "second", 8, last(layout))
    assert second.previous is None, "nobody rolls back to what is half deleted"
    _restore_journal.write(layout, second, "done")
    assert _restore_journal.discard_outdated(layout, "acme", 8.1) == [one.old for one in first.exchanges[1:]]
    assert last(layout).phase == "done" and found(second.exchanges, "old") == OLD


def test_what_is_held_stays_with_the_data_that_it_is_held_in(tmp_path: Path) -> None:
    """A rollback brings back data in which nothing is held; another one the copy, in which it still is."""
    layout = Layout(str(tmp_path / "root"))
    held = [["cron job x", "UPDATE cron.job ..."]]
    copy = restored(layout, tmp_path / "copy", 0)
    copy.held = held
    _restore_journal.write(layout, copy, "done")
    back = Journal("acme", "copy", "swapping", [one.reversed() for one in copy.exchanges], rollback=True)
    _restore_journal.succeeding(last(layout), back)
    assert (back.held, back.held_kept) == ([], held)
    _restore_journal.write(layout, back, "swapped")
    # Undone, it is as it was.
    _restore_journal.undone(layout, back)
    assert (last(layout).held, last(layout).held_kept, last(layout).phase) == (held, [], "done")
    again = Journal("acme", "copy", "swapping", [one.reversed() for one in back.exchanges], rollback=True)
    _restore_journal.write(layout, back, "done")
    back.held, back.held_kept = [], held
    _restore_journal.succeeding(back, again)
    assert (again.held, again.held_kept) == (held, [])


@pytest.mark.parametrize("phase", ["done", "undone"])
def test_a_restore_that_is_undone_leaves_what_was_held_before(tmp_path: Path, phase: str) -> None:
    layout = Layout(str(tmp_path / "root"))
    held = [["cron job x", "UPDATE cron.job ..."]]
    copy = restored(layout, tmp_path / "copy", 0)
    copy.held = held
    _restore_journal.write(layout, copy, phase)
    journal = restored(layout, tmp_path / "next", 1, last(layout))
    journal.held = [["cron job y", "..."]]
    gave_up(layout, journal)
    assert last(layout).held == held


def test_a_journal_of_an_older_version_is_read(tmp_path: Path) -> None:
    layout = Layout(str(tmp_path))
    journal = Journal("acme", "stem", "done", make(tmp_path), kept_until=7.0, failed=["x"])
    values = _restore_journal.as_dict(journal)
    for field in ("ran", "held_kept", "until"):
        del values[field]
    path = Path(layout.restore_journal("acme"))
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps(values))
    assert last(layout) == journal


def test_what_cannot_be_told_apart_is_left_alone(tmp_path: Path) -> None:
    exchanges = make(tmp_path)
    os.mkdir(exchanges[0].old)
    with pytest.raises(StateCorrupt, match="nobody can say"):
        _restore_journal.unswap(exchanges)
    assert (found(exchanges, "live"), found(exchanges, "new")) == (OLD, NEW)


def test_a_mount_point_is_refused() -> None:
    with pytest.raises(Refused, match="is a mount point"):
        _restore_journal.plan("run", "/proc")


@pytest.mark.parametrize("text", ["", "{", "[]", '{"schema": 99}', '{"schema": 1, "exchanges": [{"live": 1}]}'])
def test_a_damaged_journal_is_no_missing_one(tmp_path: Path, text: str) -> None:
    layout = Layout(str(tmp_path))
    path = Path(layout.restore_journal("acme"))
    path.parent.mkdir(parents=True)
    path.write_text(text)
    with pytest.raises(StateCorrupt, match="may be half done"):
        _restore_journal.read(layout, "acme")
