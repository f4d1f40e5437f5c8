# SPDX-License-Identifier: GPL-3.0-or-later
# This file is private to the multibase.supabase collection; it may change at any time.
"""Files of the host that roles write: compared and, where they differ, written together.

All are compared before anything is touched, and all that differ are staged and checked before one is renamed into its
place: a mistake in one keeps the others from being written.
"""

from __future__ import annotations

import contextlib
import os
import stat
from dataclasses import dataclass
from typing import Any, Callable, Dict, List, Optional, Sequence, Tuple

from ._errors import InvalidInput
from ._publish import sync_directory, write_new

FILE, DIRECTORY, ABSENT, OTHER = "file", "directory", "absent", "other"
_STAGED = ".multibase-new"
# Runs what checks a staged file; returns exit code and what it said.
Check = Callable[[Sequence[str]], Tuple[int, str]]


@dataclass(frozen=True)
class Wanted:
    """What a path is to be. An owner or group of None is one that this host does not have yet.

    ``validate`` is a command with ``%s`` for the staged file. With ``compare`` it is only told whether the path
    differs. Without ``show`` no difference is shown.
    """

    path: str
    state: str
    content: bytes = b""
    owner: Optional[int] = 0
    group: Optional[int] = 0
    mode: int = 0o644
    validate: Sequence[str] = ()
    compare: bool = False
    show: bool = True


@dataclass(frozen=True)
class There:
    """What a path is."""

    state: str
    content: bytes = b""
    owner: int = 0
    group: int = 0
    mode: int = 0


def look(path: str) -> There:
    """Return what a path is. A link counts as what it leads to; one that leads nowhere is something other."""
    try:
        status = os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        return There(OTHER if os.path.lexists(path) else ABSENT)
    state = DIRECTORY if stat.S_ISDIR(status.st_mode) else FILE if stat.S_ISREG(status.st_mode) else OTHER
    content = b""
    if state == FILE:
        with open(path, "rb") as stream:
            content = stream.read()
    return There(state, content, status.st_uid, status.st_gid, stat.S_IMODE(status.st_mode))


def differences(wanted: Wanted, there: There) -> List[str]:
    """Return in what a path is not what it is to be: state, content, owner, group, mode."""
    if wanted.state == ABSENT or there.state != wanted.state:
        return [] if there.state == wanted.state else ["state"]
    found = []
    if wanted.state == FILE and there.content != wanted.content:
        found.append("content")
    return found + [name for name in ("owner", "group", "mode") if getattr(there, name) != getattr(wanted, name)]


def problem(wanted: Wanted, there: There) -> Optional[str]:
    """Say why a path cannot become what it is to be, or return None. What is in the way is not ours to remove."""
    if wanted.state == FILE and there.state == DIRECTORY:
        return "{0}: it is a directory, and is to be a file".format(wanted.path)
    if wanted.state == DIRECTORY and there.state in (FILE, OTHER):
        return "{0}: it is no directory".format(wanted.path)
    if wanted.state == ABSENT and there.state == DIRECTORY:
        return "{0}: it is a directory, and is not removed".format(wanted.path)
    return None


def shown(wanted: Wanted, there: There) -> List[Dict[str, Any]]:
    """Return the difference as Ansible shows it: of attributes, and of content unless it is to stay hidden."""
    changed = differences(wanted, there)
    names = [name for name in changed if name != "content"]
    told: List[Dict[str, Any]] = []
    if names:

        def value(of: Any, name: str) -> Any:
            found = getattr(of, name)
            return "0{0:03o}".format(found) if name == "mode" else found

        told.append(
            {
                "before_header": wanted.path,
                "after_header": wanted.path,
                "before": {name: value(there, name) for name in names},
                "after": {name: value(wanted, name) for name in names},
            }
        )
    if wanted.state == FILE and wanted.show and there.content != wanted.content:
        text = [content.decode("utf-8", "replace") for content in (there.content, wanted.content)]
        told.append({"before_header": wanted.path, "after_header": wanted.path, "before": text[0], "after": text[1]})
    return told


def _own(path: str, wanted: Wanted) -> None:
    # ``bring`` has seen to it that there are both.
    os.chown(path, -1 if wanted.owner is None else wanted.owner, -1 if wanted.group is None else wanted.group)
    # After the owner, whose change takes special bits away.
    os.chmod(path, wanted.mode)


def _make_directory(wanted: Wanted) -> None:
    """Make a directory with every level above it that is missing, all with the same mode and owner."""
    missing = []
    path = wanted.path
    while not os.path.isdir(path):
        missing.append(path)
        path = os.path.dirname(path)
    for path in reversed(missing):
        os.mkdir(path, 0o700)
        _own(path, wanted)
    if not missing:
        _own(wanted.path, wanted)


def _discard(path: str) -> None:
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)


def _stage(wanted: Wanted, staged: str, check: Check) -> None:
    _discard(staged)
    write_new(staged, wanted.content, 0o600, sync=True)
    _own(staged, wanted)
    if wanted.validate:
        code, said = check([argument.replace("%s", staged) for argument in wanted.validate])
        if code:
            raise InvalidInput(["{0}: {1} refused it: {2}".format(wanted.path, wanted.validate[0], said.strip())])


def write(wanted: Sequence[Wanted], there: Sequence[There], check: Check) -> None:
    """Make paths that differ what they are to be. Raises before any file is touched where one cannot be."""
    pairs = [pair for pair in zip(wanted, there) if not pair[0].compare]
    for entry, _found in pairs:
        if entry.state == DIRECTORY:
            _make_directory(entry)
    staged: Dict[str, str] = {}
    try:
        for entry, found in pairs:
            if entry.state == FILE and {"state", "content"} & set(differences(entry, found)):
                staged[entry.path] = entry.path + _STAGED
                _stage(entry, staged[entry.path], check)
        for entry, _found in pairs:
            if entry.path in staged:
                os.rename(staged.pop(entry.path), entry.path)
                sync_directory(os.path.dirname(entry.path))
            elif entry.state == FILE:
                _own(entry.path, entry)
            elif entry.state == ABSENT:
                os.unlink(entry.path)
    finally:
        for path in staged.values():
            _discard(path)


def bring(wanted: Sequence[Wanted], check: Check, dry: bool) -> Tuple[List[bool], List[Dict[str, Any]]]:
    """Compare all, and write those that differ unless it is a dry run; return which differed, and the differences."""
    there = [look(entry.path) for entry in wanted]
    problems = [found for found in map(problem, wanted, there) if found]
    if not dry:
        problems += [
            "{0}: this host does not have its owner or its group".format(entry.path)
            for entry in wanted
            if entry.state != ABSENT and not entry.compare and None in (entry.owner, entry.group)
        ]
    if problems:
        raise InvalidInput(problems)
    changed = [bool(differences(entry, found)) for entry, found in zip(wanted, there)]
    told = [part for entry, found in zip(wanted, there) for part in shown(entry, found)]
    if not dry:
        todo = [number for number, differs in enumerate(changed) if differs]
        write([wanted[number] for number in todo], [there[number] for number in todo], check)
    return changed, told
