# SPDX-License-Identifier: GPL-3.0-or-later
"""What a power cut may leave of recorded steps: a model of one file system, without its order.

``syncfs`` brings everything that was done before it to the disk, ``fsync`` the content of a file or the names in a
directory. Of what was done since then, a cut leaves any of these: nothing; all names, but no content (files are empty);
one rename or removal alone; all but one of them. Real file systems keep more order than that. Not modelled are disks
that lose what they reported as written, files torn within, and instances spread over several file systems.
"""

from __future__ import annotations

import copy
import hashlib
import os
import shutil
import stat
from pathlib import Path
from typing import Callable, Dict, FrozenSet, Iterator, List, NamedTuple, Optional, Sequence, Set, Tuple

from faults.steps import Step

_ENTRIES = frozenset({"open", "mkdir", "rename", "unlink", "rmdir"})
_TELLING = frozenset({"rename", "unlink", "rmdir"})


class Node:
    """A file (``content``) or a directory (``entries``)."""

    def __init__(self, mode: int, content: Optional[bytes] = None) -> None:
        self.mode = mode
        self.content = content
        self.entries: Dict[str, Node] = {}


class Image:
    """The files below a root, in memory."""

    def __init__(self, root: Path) -> None:
        self._root = str(root)
        self._top = self._read(root)

    def _read(self, path: Path) -> Node:
        status = path.lstat()
        mode = stat.S_IMODE(status.st_mode)
        if stat.S_ISDIR(status.st_mode):
            node = Node(mode)
            node.entries = {entry.name: self._read(entry) for entry in path.iterdir()}
            return node
        assert stat.S_ISREG(status.st_mode), path
        return Node(mode, path.read_bytes())

    def _find(self, path: str) -> Tuple[Optional[Node], str]:
        """Return the directory that a path is in, None when it is not there, and the last part of the path."""
        relative = os.path.relpath(path, self._root)
        *parents, name = relative.split("/")
        node: Optional[Node] = self._top
        for part in parents:
            node = node.entries.get(part) if node is not None else None
        return node, name

    def apply(self, step: Step) -> None:
        """Take a step. One in a directory that is not there, because what made it was left out, does nothing."""
        parent, name = self._find(step.path)
        if parent is None or parent.content is not None:
            return
        node = parent.entries.get(name)
        if step.call == "open":
            if node is None:
                parent.entries[name] = Node(step.mode, b"")
        elif step.call == "mkdir":
            parent.entries.setdefault(name, Node(step.mode))
        elif node is None or step.call in ("fsync", "syncfs"):
            return
        elif step.call == "chmod":
            node.mode = step.mode
        elif step.call == "write":
            node.content = (node.content or b"") + step.content
        elif step.call == "rename":
            target, new_name = self._find(step.target)
            if target is not None:
                target.entries[new_name] = parent.entries.pop(name)
        elif not node.entries:
            del parent.entries[name]

    def write_to(self, root: Path) -> None:
        """Make ``root``, which is emptied, what this image says."""
        shutil.rmtree(root)
        self._write(self._top, root)

    def _write(self, node: Node, path: Path) -> None:
        if node.content is not None:
            path.write_bytes(node.content)
        else:
            path.mkdir()
            for name, entry in node.entries.items():
                self._write(entry, path / name)
        path.chmod(node.mode)

    def digest(self) -> bytes:
        """Return what is the same for images that are the same."""
        found = hashlib.sha256()

        def add(node: Node, path: str) -> None:
            found.update("{0}\0{1:o}\0".format(path, node.mode).encode("utf-8"))
            found.update(b"directory" if node.content is None else hashlib.sha256(node.content).digest())
            for name in sorted(node.entries):
                add(node.entries[name], path + "/" + name)

        add(self._top, "")
        return found.digest()


class Cut(NamedTuple):
    """A power cut: after how many steps, what it left in words, and the image that it left.

    It is ``telling`` when something was renamed, removed or synced; others only left less of what is being filled.
    """

    after: int
    left: str
    image: Image
    telling: bool


def forced(steps: Sequence[Step], begin: int, end: int) -> FrozenSet[int]:
    """Return which of the steps from ``begin`` to ``end`` an ``fsync`` among them brought to the disk."""
    found: Set[int] = set()
    for number in range(begin, end):
        step = steps[number]
        if not step.done or step.call != "fsync":
            continue
        for earlier in range(begin, number):
            other = steps[earlier]
            directories = {os.path.dirname(path) for path in (other.path, other.target) if path}
            # A file that is renamed later is known by the name that it has when it is synced.
            if (other.call in _ENTRIES and step.path in directories) or (
                other.call in ("write", "chmod") and other.path == step.path
            ):
                found.add(earlier)
    return frozenset(found)


def last_sync(steps: Sequence[Step], end: int) -> int:
    """Return the number of the step behind the last ``syncfs`` before ``end``, 0 when there is none."""
    return max((number + 1 for number in range(end) if steps[number].call == "syncfs"), default=0)


def pending(steps: Sequence[Step], end: int) -> List[int]:
    """Return the numbers of the steps before ``end`` that need not be on the disk then."""
    begin = last_sync(steps, end)
    kept = forced(steps, begin, end)
    changing = _ENTRIES | {"write", "chmod"}
    return [
        number
        for number in range(begin, end)
        if number not in kept and steps[number].done and steps[number].call in changing
    ]


def _before(path: str, moves: Sequence[Tuple[str, str]]) -> str:
    """Return what a path is when these moves (new name, old name) did not happen."""
    for new, old in reversed(moves):
        if path.startswith(new + "/"):
            path = old + path[len(new) :]
    return path


def cuts(start: Image, steps: Sequence[Step]) -> Iterator[Cut]:
    """Return what power cuts during ``steps``, which begin with ``start``, may leave; each image once."""
    seen: Set[bytes] = set()
    base, begin = start, 0
    for after in range(len(steps) + 1):
        if last_sync(steps, after) != begin:
            new = last_sync(steps, after)
            base = copy.deepcopy(base)
            for step in steps[begin:new]:
                if step.done:
                    base.apply(step)
            begin = new
        waiting = pending(steps, after)
        on_disk = set(range(begin, after)) - set(waiting)
        named = [number for number in waiting if steps[number].call != "write"]
        telling = [number for number in named if steps[number].call in _TELLING]
        # Every one of them is the last once, and at the end of a stretch that is synced as a whole they are all there.
        whole = after == len(steps) or steps[after].call in ("syncfs", "fsync")
        candidates: List[Tuple[str, Callable[[int], bool], bool]] = [
            ("nothing that was not synced", lambda number: False, True),
            ("all names without content", lambda number: True, bool(telling)),
        ]
        candidates += [("one alone", lambda number, only=only: number == only, True) for only in telling[-1:]]
        if whole:
            candidates += [("all but one", lambda number, no=no: number != no, True) for no in telling]
        for left, keeps, tells in candidates:
            image = copy.deepcopy(base)
            # What happened in a directory that did not get its new name happened all the same, under the old one.
            moves: List[Tuple[str, str]] = []
            for number in range(begin, after):
                step = steps[number]
                if step.done and (number in on_disk or (number in named and keeps(number))):
                    image.apply(step._replace(path=_before(step.path, moves), target=_before(step.target, moves)))
                elif step.done and step.call == "rename":
                    moves.append((step.target, step.path))
            digest = image.digest()
            if digest not in seen:
                seen.add(digest)
                yield Cut(after, left, image, tells)
