# SPDX-License-Identifier: GPL-3.0-or-later
# This file is private to the multibase.supabase collection; it may change at any time.
"""Locks that die with their holder: ``flock`` on a file that is never rewritten."""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from typing import Iterator

from ._errors import LockTimeout

_POLL_SECONDS = 0.1


def _same_file(descriptor: int, path: str) -> bool:
    """Whether ``path`` still names the open file: its holder may have removed it while we waited."""
    try:
        there = os.stat(path)
    except FileNotFoundError:
        return False
    here = os.fstat(descriptor)
    return (there.st_dev, there.st_ino) == (here.st_dev, here.st_ino)


def _acquire(path: str, deadline: float) -> int:
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            while True:
                try:
                    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    if time.monotonic() >= deadline:
                        raise LockTimeout(
                            "another run holds {0}; wait for it to end, or give a longer lock_timeout".format(path)
                        ) from None
                    time.sleep(_POLL_SECONDS)
            if _same_file(descriptor, path):
                return descriptor
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)


@contextlib.contextmanager
def exclusive(path: str, timeout: float) -> Iterator[int]:
    """Hold the lock at ``path``, waiting up to ``timeout`` seconds for it. Raises LockTimeout.

    Yields the descriptor that holds it. A child that inherits it holds the lock too, also when we are killed.
    """
    directory = os.path.dirname(path)
    # One level after the other: the mode of makedirs holds for the last level only.
    os.makedirs(os.path.dirname(directory), mode=0o700, exist_ok=True)
    os.makedirs(directory, mode=0o700, exist_ok=True)
    descriptor = _acquire(path, time.monotonic() + timeout)
    try:
        yield descriptor
    finally:
        os.close(descriptor)
