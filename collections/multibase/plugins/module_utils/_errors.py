# SPDX-License-Identifier: GPL-3.0-or-later
# This file is private to the multibase.supabase collection; it may change at any time.
"""Every error that the core raises on purpose. Modules turn them into one readable message."""

from __future__ import annotations

import errno
from typing import List, Sequence


class MultibaseError(Exception):
    """An error with a message for the user: what was found, where, and what to do about it.

    ``exit_code`` is the status with which the host's own tool ends; docs/backup.md has the table.
    """

    exit_code = 1


class InvalidInput(MultibaseError):
    """One or more mistakes in what the user declared, reported together.

    ``problems`` holds one sentence per mistake, each naming the instance it belongs to.
    """

    exit_code = 2

    def __init__(self, problems: Sequence[str]) -> None:
        self.problems: List[str] = list(problems)
        super().__init__("\n".join(self.problems))


class LockTimeout(MultibaseError):
    """Somebody else held a lock for longer than the caller wanted to wait."""

    exit_code = 11


class EngineUnavailable(MultibaseError):
    """The Docker Engine, or what is needed to talk to it, is not there."""

    exit_code = 12


class ComposeFailed(MultibaseError):
    """Docker Compose is missing, too old, or ended with an error."""


class LibraryMissing(MultibaseError):
    """A Python library that an option needs is not installed on the host."""


class StateCorrupt(MultibaseError):
    """A file of ours on the host does not say what it must; it is never repaired by guessing."""


class UnknownInstance(MultibaseError):
    """There is no instance, or no backup of it, by that name."""

    exit_code = 10


class DatabaseDown(MultibaseError):
    """The database container does not run, is paused, or its server does not answer."""

    exit_code = 12


class BackupFailed(MultibaseError):
    """A part of a backup could not be made; nothing was published."""

    exit_code = 13


class NoSpace(MultibaseError):
    """The filesystem has, or will have, no room."""

    exit_code = 14


class PublishFailed(MultibaseError):
    """A finished file could not be given its name safely."""

    exit_code = 15


class VerificationFailed(MultibaseError):
    """A backup was restored and is not what its manifest says."""

    exit_code = 16


class IntegrityFailed(MultibaseError):
    """A file of a backup, or its manifest, was changed since it was written."""

    exit_code = 18


class RestoreFailed(MultibaseError):
    """A restore did not succeed; the instance has the data that it had before."""

    exit_code = 19


class ManualActionNeeded(MultibaseError):
    """A restore failed and so did undoing it; the message says where everything lies."""

    exit_code = 20


class Refused(MultibaseError):
    """What was asked for would lose data or trust what cannot be trusted."""

    exit_code = 21


def exit_code_of(error: BaseException) -> int:
    """Return the exit status that stands for an error, one of the system's included: a full disk is one of ours."""
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return NoSpace.exit_code
    return int(getattr(error, "exit_code", 1))
