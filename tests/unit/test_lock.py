# SPDX-License-Identifier: GPL-3.0-or-later
"""Locks: one holder at a time, and a holder that is killed holds nothing."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import List

import pytest

from ansible_collections.multibase.supabase.plugins.module_utils._errors import LockTimeout
from ansible_collections.multibase.supabase.plugins.module_utils._lock import exclusive
from unit.support import REPOSITORY

HOLDER = """
import sys, time
sys.path.insert(0, {0!r})
from ansible_collections.multibase.supabase.plugins.module_utils._lock import exclusive
with exclusive(sys.argv[1], 5):
    print("held", flush=True)
    time.sleep(60)
"""


def holder(path: Path) -> subprocess.Popen[str]:
    code = HOLDER.format(str(REPOSITORY / "collections"))
    process = subprocess.Popen([sys.executable, "-c", code, str(path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stdout.readline() == "held\n"
    return process


def test_a_held_lock_times_out_and_says_which(tmp_path: Path) -> None:
    path = tmp_path / "locks" / "x.lock"
    with exclusive(str(path), 0):
        started = time.monotonic()
        with pytest.raises(LockTimeout) as caught, exclusive(str(path), 0.3):
            pytest.fail("two holders")
        assert 0.25 <= time.monotonic() - started < 2
        assert str(path) in str(caught.value) and "lock_timeout" in str(caught.value)
        with pytest.raises(LockTimeout), exclusive(str(path), 0):
            pytest.fail("two holders")
    with exclusive(str(path), 0):
        pass


def test_it_is_let_go_on_error_and_its_file_is_closed_to_others(tmp_path: Path) -> None:
    path = tmp_path / "locks" / "x.lock"
    with pytest.raises(RuntimeError), exclusive(str(path), 0):
        raise RuntimeError
    with exclusive(str(path), 0):
        assert stat.S_IMODE(os.stat(path).st_mode) == 0o600
        assert stat.S_IMODE(os.stat(path.parent).st_mode) == 0o700


def test_one_holder_at_a_time(tmp_path: Path) -> None:
    inside: List[int] = []
    most: List[int] = []

    def work(number: int) -> None:
        for _index in range(3):
            with exclusive(str(tmp_path / "x.lock"), 20):
                inside.append(number)
                most.append(len(inside))
                time.sleep(0.002)
                inside.remove(number)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(most) == 12 and max(most) == 1


def test_a_killed_holder_holds_nothing(tmp_path: Path) -> None:
    path = tmp_path / "x.lock"
    process = holder(path)
    with pytest.raises(LockTimeout), exclusive(str(path), 0.1):
        pytest.fail("two holders")
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert process.stdout is not None
    process.stdout.close()
    with exclusive(str(path), 1):
        pass


def test_a_waiter_gets_it_when_the_holder_ends(tmp_path: Path) -> None:
    path = tmp_path / "x.lock"
    process = holder(path)
    timer = threading.Timer(0.3, process.kill)
    timer.start()
    with exclusive(str(path), 10):
        assert process.wait() == -signal.SIGKILL
    assert process.stdout is not None
    process.stdout.close()


def test_a_removed_lock_file_does_not_let_two_in(tmp_path: Path) -> None:
    path = tmp_path / "x.lock"
    entered: List[str] = []

    def wait_for_it() -> None:
        with exclusive(str(path), 10):
            entered.append("waiter")
            time.sleep(0.3)
            entered.append("waiter done")

    thread = threading.Thread(target=wait_for_it)
    with exclusive(str(path), 0):
        thread.start()
        time.sleep(0.3)
        os.unlink(path)
    while not entered:
        time.sleep(0.01)
    with exclusive(str(path), 10):
        entered.append("second")
    thread.join()
    assert entered == ["waiter", "waiter done", "second"]


def test_programs_that_are_started_do_not_inherit_it(tmp_path: Path) -> None:
    path = tmp_path / "x.lock"
    with exclusive(str(path), 0):
        sleeper = subprocess.Popen(["sleep", "30"], close_fds=False)
    try:
        with exclusive(str(path), 0):
            pass
    finally:
        sleeper.kill()
        sleeper.wait()


def test_a_child_that_inherits_the_lock_goes_on_holding_it(tmp_path: Path) -> None:
    path = str(tmp_path / "locks" / "acme.lock")
    with exclusive(path, 1) as descriptor:
        child = subprocess.Popen(["sleep", "30"], pass_fds=(descriptor,))
    try:
        with pytest.raises(LockTimeout), exclusive(path, 0.2):
            raise AssertionError("the lock was free")
    finally:
        child.kill()
        child.wait()
    with exclusive(path, 1):
        return
