# SPDX-License-Identifier: GPL-3.0-or-later
"""Runs that stand in each other's way: a holder of a lock that is killed, or stopped, at any moment of its work.

test_lock.py says what a lock is; here whole runs in processes of their own hold it.
"""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Iterator, List

import pytest

from ansible_collections.multibase.supabase.plugins.module_utils._errors import LockTimeout
from ansible_collections.multibase.supabase.plugins.module_utils._lock import exclusive
from faults.cases import facts, unfinished
from faults.steps import Point, ended, recorded, started, stopped_at
from unit.support import converge, item, registry_of, snapshot

FIRST = [item("acme"), item("beta")]
WAITERS = 3


@pytest.fixture
def children() -> Iterator[List[int]]:
    """Processes to be killed at the end, if they still are there."""
    found: List[int] = []
    yield found
    for child in found:
        try:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
        except (ProcessLookupError, ChildProcessError):
            continue


def moments(root: Path) -> List[Point]:
    """Return where to stop a run that creates ``FIRST``: while it stages, before and after it publishes, at its end."""
    trial = root / "trial"
    steps = recorded(trial, lambda: converge(trial, *FIRST))
    found = [len(steps) // 3]
    found += [number for number, step in enumerate(steps) if step.call in ("rename", "syncfs")]
    found += [len(steps) - 1]
    assert len(found) > 5
    return [Point(number, "after") for number in found]


def stopped(root: Path, point: Point, children: List[int]) -> int:
    child = stopped_at(root, point, lambda: converge(root, *FIRST, lock_timeout=0))
    children.append(child)
    return child


def lock_of(root: Path) -> str:
    return str(root / "state" / "locks" / "_registry.lock")


def test_a_stopped_run_is_waited_for_and_named(fast_path: Path, children: List[int]) -> None:
    for number, point in enumerate(moments(fast_path)):
        root = fast_path / str(number)
        child = stopped(root, point, children)
        before = snapshot(root, times=True)
        begin = time.monotonic()
        with pytest.raises(LockTimeout) as caught:
            converge(root, item("gamma"), lock_timeout=0.3)
        assert 0.25 <= time.monotonic() - begin < 10
        assert lock_of(root) in str(caught.value) and "lock_timeout" in str(caught.value)
        assert snapshot(root, times=True) == before, "who does not get the lock writes nothing"
        os.kill(child, signal.SIGCONT)
        assert ended(child) == 0
        assert converge(root, *FIRST, item("gamma"), lock_timeout=0)[2].ports["gateway_http"] == 20020
        assert len(registry_of(root)) == 3 and unfinished(root) == []


def test_a_killed_run_lets_go_at_once(fast_path: Path, children: List[int]) -> None:
    for number, point in enumerate(moments(fast_path)):
        root = fast_path / str(number)
        child = stopped(root, point, children)
        published = facts(root)
        os.kill(child, signal.SIGKILL)
        assert ended(child) == -signal.SIGKILL
        results = converge(root, *FIRST, item("gamma"), lock_timeout=0)
        assert [result.changed for result in results] == [name not in published for name in ("acme", "beta", "gamma")]
        found = facts(root)
        assert {name: found[name] for name in published} == published and len(registry_of(root)) == 3
        assert unfinished(root) == []


@pytest.mark.parametrize("sent", [signal.SIGKILL, signal.SIGCONT], ids=["killed", "continued"])
def test_those_who_wait_get_their_turn(fast_path: Path, children: List[int], sent: signal.Signals) -> None:
    root = fast_path / "root"
    synced = moments(fast_path)[1]
    child = stopped(root, synced, children)
    waiting = [
        started(
            lambda own=number: converge(
                root, *[item("w{0}{1}".format(own, index)) for index in range(5)], lock_timeout=60
            )
        )
        for number in range(WAITERS)
    ]
    children += waiting
    descriptor_of_each(waiting, lock_of(root))
    os.kill(child, sent)
    assert ended(child) == (0 if sent == signal.SIGCONT else -signal.SIGKILL)
    assert [ended(process) for process in waiting] == [0] * WAITERS
    rows = registry_of(root)
    # The killed one had published nothing yet.
    assert set(rows) == set(facts(root)) and len(rows) == 5 * WAITERS + (len(FIRST) if sent == signal.SIGCONT else 0)
    for key in ("port_base", "subnet"):
        assert len({row[key] for row in rows.values()}) == len(rows)
    assert unfinished(root) == []


def descriptor_of_each(processes: List[int], path: str) -> None:
    """Wait until each of the processes has the file open, which is to stand at the lock."""
    deadline = time.monotonic() + 60
    waiting = set(processes)
    while waiting:
        assert time.monotonic() < deadline, "some never came to the lock"
        for process in sorted(waiting):
            directory = Path("/proc/{0}/fd".format(process))
            if path in {os.path.realpath(entry) for entry in directory.iterdir()}:
                waiting.discard(process)
        time.sleep(0.02)


def test_an_instance_that_is_held_keeps_no_other_from_being_worked_on(fast_path: Path, children: List[int]) -> None:
    root = fast_path
    converge(root, item("acme"), item("beta"), item("gamma"))
    lock = str(root / "state" / "locks" / "beta.lock")
    begun = root / "begun"

    def hold() -> None:
        with exclusive(lock, 0):
            begun.write_text("")
            os.kill(os.getpid(), signal.SIGSTOP)

    child = started(hold)
    children.append(child)
    _pid, status = os.waitpid(child, os.WUNTRACED)
    assert os.WIFSTOPPED(status) and begun.exists()
    begun.unlink()
    before = facts(root)
    names = ["acme", "beta", "gamma"]
    work = [*[item(name, "absent") for name in names], item("delta")]
    with pytest.raises(LockTimeout) as caught:
        converge(root, *work, confirmed=frozenset(names), lock_timeout=0.3)
    assert lock in str(caught.value)
    found = facts(root)
    assert set(found) >= {"beta"} and found["beta"] == before["beta"], "nothing was done to the one that is held"
    os.kill(child, signal.SIGKILL)
    assert ended(child) == -signal.SIGKILL
    converge(root, *work, confirmed=frozenset(names), lock_timeout=0)
    assert list(registry_of(root)) == ["delta"] == list(facts(root)) and unfinished(root) == []
