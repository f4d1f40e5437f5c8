# SPDX-License-Identifier: GPL-3.0-or-later
# This file is private to the multibase.supabase collection; it may change at any time.
"""Every error that the core raises on purpose. Modules turn them into one readable message."""

from __future__ import annotations

from typing import List, Sequence


class MultibaseError(Exception):
    """An error with a message for the user: what was found, where, and what to do about it."""


class InvalidInput(MultibaseError):
    """One or more mistakes in what the user declared, reported together.

    ``problems`` holds one sentence per mistake, each naming the instance it belongs to.
    """

    def __init__(self, problems: Sequence[str]) -> None:
        self.problems: List[str] = list(problems)
        super().__init__("\n".join(self.problems))


class LockTimeout(MultibaseError):
    """Somebody else held a lock for longer than the caller wanted to wait."""


class EngineUnavailable(MultibaseError):
    """The Docker Engine, or what is needed to talk to it, is not there."""


class ComposeFailed(MultibaseError):
    """Docker Compose is missing, too old, or ended with an error."""


class LibraryMissing(MultibaseError):
    """A Python library that an option needs is not installed on the host."""


class StateCorrupt(MultibaseError):
    """A file of ours on the host does not say what it must; it is never repaired by guessing."""
