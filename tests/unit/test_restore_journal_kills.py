# SPDX-License-Identifier: GPL-3.0-or-later
"""Exchanging directories: killed for real before every operation, and what nobody can tell apart."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import tempfile
from functools import partial
from pathlib import Path
from typing import Any, Iterator, List, Tuple
from unittest import mock

import pytest

from ansible_collections.multibase.supabase.plugins.module_utils import _backup, _restore, _restore_journal
from ansible_collections.multibase.supabase.plugins.module_utils._errors import RestoreFailed, StateCorrupt
from ansible_collections.multibase.supabase.plugins.module_utils._layout import Layout
from ansible_collections.multibase.supabase.plugins.module_utils._restore_journal import Exchange, Journal
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
    layout = Layout(str(tmp_path))
    journal = Journal("acme", "stem", "building", make(tmp_path / "x"))
    _restore_journal.write(layout, journal, "building")
    total = len(count_operations(lambda: _restore_journal.write(layout, journal, "swapping")))
    for number in range(1, total + 1):
        _restore_journal.write(layout, journal, "building")
        killed_at(number, lambda: _restore_journal.write(layout, journal, "swapping"))
        assert _restore_journal.pending(layout, "acme") in ("building", "swapping")
        journal.phase = "swapping"
        _restore_journal.write(layout, journal, "swapping")
        assert _restore_journal.read(layout, "acme") == journal


# The journal and the directories together: what is done by RestoreRun, killed at every operation, and recovered


@pytest.fixture
def in_memory(tmp_path: Path) -> Iterator[Path]:
    """A directory in memory where there is one: what a killed process wrote stays, a disk would only take longer."""
    if not os.access("/dev/shm", os.W_OK | os.X_OK):
        yield tmp_path
        return
    with tempfile.TemporaryDirectory(prefix="multibase-unit-", dir="/dev/shm") as directory:
        yield Path(directory)


class Wrong(Exception):
    """What must never be: a service on data of two kinds."""


class Run(_restore.RestoreRun):
    """A run without an Engine: services are only said to start, on directories that must all be of one kind.

    ``works`` tells whether the data in place is good; ``refused`` is what it says then.
    """

    def __init__(self, layout: Layout, exchanges: List[Exchange], refused: str = "") -> None:
        engine: Any = mock.Mock(containers=lambda _project: [mock.Mock(service="db", running=True)])
        none: Any = None
        super().__init__(layout, engine, none, "", _restore.Options(lock_timeout=5))
        self._exchanges = exchanges
        self._refused = refused

    def _kind(self) -> str:
        kinds = {Path(exchange.live, "says").read_text()[:3] for exchange in self._exchanges}
        if len(kinds) != 1:
            raise Wrong("started on {0}".format(sorted(kinds)))
        return kinds.pop()

    def _stop(self, stack: Any, services: Any) -> None:
        pass

    def _start(self, stack: Any, services: Any) -> None:
        Path(self._layout.root, "ran-on-" + self._kind()).touch()

    def _probe(self, stack: Any, running: Any) -> None:
        if self._kind() == self._refused:
            raise RestoreFailed("it does not work")

    def exchange(self, journal: Journal) -> None:
        with contextlib.suppress(RestoreFailed):
            self._exchange(STACK, journal, _restore.Restored("acme"))

    def find_and_recover(self) -> None:
        with mock.patch.object(_backup, "discard_left_over"):
            self._recover(STACK)


STACK: Any = mock.Mock(project="multibase-acme", services=frozenset({"db", "storage"}))
STACK.name = "acme"


def begin(top: Path, rollback: bool) -> Tuple[Layout, Journal]:
    """Everything is ready to be exchanged; ``old`` is what is in place."""
    exchanges = make(top)
    layout = Layout(str(top / "root"))
    os.makedirs(os.path.dirname(layout.lock("acme")))
    if rollback:
        # As after a restore: what comes back lies where that restore had kept it.
        exchanges = [Exchange(one.live, one.new, one.old) for one in exchanges]
    journal = Journal("acme", "stem", "building", exchanges, ["db"], kept_until=7.0, rollback=rollback)
    _restore_journal.write(layout, journal, "building")
    return layout, journal


def check_whole(top: Path, layout: Layout, exchanges: List[Exchange], where: str) -> None:
    """All directories are of one kind, both kinds are there still where they must be, and nothing is pending."""
    places = [[row[index][:3] for row in said(exchanges)] for index in range(3)]
    journal = _restore_journal.read(layout, "acme")
    assert journal is not None and _restore_journal.pending(layout, "acme") is None, where
    assert len(set(places[0])) == 1 and places[0][0] in ("old", "new"), (where, places)
    if places[0][0] == "new":
        assert journal.phase == "done" and set(places[2]) == {"old"}, (where, places)
    elif journal.phase == "undone":
        ran = (top / "root" / "ran-on-new").exists()
        # What clients may have written stays and somebody knows of it; anything else is gone.
        assert set(places[1]) == ({"new"} if journal.failed else {""}), (where, places)
        assert not ran or sorted(journal.failed) == sorted(one.new for one in exchanges), (where, journal)
        assert all(journal.until[path] == 7.0 for path in journal.failed), where
    else:
        # A rollback that was undone: what it would have brought back waits where it was.
        assert journal.phase == "done" and set(places[1]) == {"new"}, (where, places)
        assert journal.exchanges == [one.reversed() for one in exchanges], where


@pytest.mark.parametrize("rollback", [False, True], ids=["restore", "rollback"])
@pytest.mark.parametrize("works", [True, False], ids=["works", "goes back"])
def test_a_restore_killed_at_any_operation_ends_with_one_kind_of_data(
    in_memory: Path, works: bool, rollback: bool
) -> None:
    """The one that recovers it may find that it works, or not, and may be killed before any rename as well."""
    top = in_memory / "x"
    refused = "" if works else "new"

    def exchanged(number: int) -> Tuple[Layout, List[Exchange]]:
        layout, journal = begin(top, rollback)
        run = Run(layout, journal.exchanges, refused)
        if number:
            killed_at(number, partial(run.exchange, journal))
        return layout, list(journal.exchanges)

    layout, journal = begin(top, rollback)
    exchanges = list(journal.exchanges)
    operations = count_operations(partial(Run(layout, exchanges, refused).exchange, journal))
    check_whole(top, layout, exchanges, "not killed")
    for number, operation in enumerate(operations, 1):
        for then in ("", "new"):
            layout, exchanges = exchanged(number)
            if _restore_journal.pending(layout, "acme") == "building" and rollback:
                continue
            steps = count_operations(Run(layout, exchanges, then).find_and_recover)
            check_whole(top, layout, exchanges, "killed at {0}, then {1!r}".format(number, then))
            for second, step in enumerate(steps, 1):
                if (operation, step) != ("rename", "rename"):
                    continue
                layout, exchanges = exchanged(number)
                killed_at(second, Run(layout, exchanges, then).find_and_recover)
                # By now it works, as it does when the database only took too long.
                Run(layout, exchanges).find_and_recover()
                check_whole(top, layout, exchanges, "killed at {0} and {1} after {2!r}".format(number, second, then))


def test_going_back_on_a_full_disk_is_never_taken_for_done(in_memory: Path) -> None:
    """The journal stays at what it said; what lies where tells that it is on its way back."""
    top = in_memory / "x"
    real = _restore_journal.write

    def full(layout: Layout, journal: Journal, phase: str) -> None:
        if phase == "undoing":
            journal.phase = phase
            raise OSError(errno.ENOSPC, "No space left on device")
        real(layout, journal, phase)

    for number in range(1, 40):
        layout, journal = begin(top, False)
        exchanges = list(journal.exchanges)
        with mock.patch.object(_restore_journal, "write", full):
            work = partial(Run(layout, exchanges, "new").exchange, journal)
            try:
                killed_at(number, work)
            except AssertionError:
                break
        Run(layout, exchanges).find_and_recover()
        check_whole(top, layout, exchanges, "killed at {0}".format(number))
    assert number > 20


@pytest.mark.parametrize(
    ("running", "started", "asked"),
    [
        (["db", "storage", "rest", "api-gw"], ["db", "storage"], True),
        (["storage", "rest", "api-gw"], ["storage"], False),
        ([], [], False),
    ],
)
def test_services_that_ran_run_again_also_without_a_database(
    tmp_path: Path, running: List[str], started: List[str], asked: bool
) -> None:
    """What does not run is not asked, and that it was not is told."""
    layout, journal = begin(tmp_path / "x", False)
    journal.services = ["db", "storage"]
    found = [mock.Mock(service=service, running=service in running) for service in ("db", "storage", "rest", "api-gw")]
    engine: Any = mock.Mock(containers=lambda _project: found)
    none: Any = None
    run = _restore.RestoreRun(layout, engine, none, "", _restore.Options(lock_timeout=5))
    result = _restore.Restored("acme")
    with mock.patch.object(run, "_stop"), mock.patch.object(run, "_start") as start, mock.patch.object(
        _restore, "_ask_gateway", return_value=""
    ) as ask, mock.patch.object(_restore, "service_health", return_value="healthy"):
        run._exchange(STACK, journal, result)
    assert start.call_args.args[1] == started
    assert ask.called is asked and bool(result.notes) is not asked
    assert said(journal.exchanges) == NEW and journal.phase == "done"


def test_only_what_is_wholly_in_place_is_swapped(tmp_path: Path) -> None:
    exchanges = make(tmp_path / "x")
    assert not _restore_journal.swapped(exchanges)
    _restore_journal.swap(exchanges)
    assert _restore_journal.swapped(exchanges)
    _restore_journal.unswap(exchanges[:1])
    assert not _restore_journal.swapped(exchanges)
