# SPDX-License-Identifier: GPL-3.0-or-later
"""Work on a directory, taken apart into its steps: recorded one by one, or killed (SIGKILL) at any of them.

A step is a system call that changes what lies below the directory or waits for the disk. The calls are caught in
Python, by functions around those of ``os``; an audit hook, which Python calls itself, sees to it that none is missed.
"""

from __future__ import annotations

import contextlib
import functools
import os
import pickle
import signal
import stat
import sys
import traceback
from pathlib import Path
from typing import Any, Callable, Iterator, List, NamedTuple, Optional, Sequence, Tuple

from ansible_collections.multibase.supabase.plugins.module_utils import _publish

_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
# Python's audit events for calls that change a file system. write, fsync and flock have none.
_EVENTS = frozenset({
    "os.chflags", "os.chmod", "os.chown", "os.link", "os.mkdir", "os.remove", "os.removexattr", "os.rename", "os.rmdir",
    "os.setxattr", "os.symlink", "os.truncate", "os.utime",
})  # fmt: skip
_SYNC_FUNCTIONS = frozenset({"syncfs"})


class Step(NamedTuple):
    """One step: the call, the path it is about (for a rename also the new one), and what it did.

    ``mode`` is that of the path after the call, ``content`` what was written. ``done`` is False when the call failed,
    as a ``mkdir`` of what exists does: then nothing changed.
    """

    call: str
    path: str
    target: str = ""
    mode: int = 0
    content: bytes = b""
    done: bool = True

    def shown(self, root: Path) -> str:
        """Word the step for a message."""
        names = [os.path.relpath(path, root) for path in (self.path, self.target) if path]
        return "{0} {1}".format(self.call, " to ".join(names))


# Gets a step before it is taken, and a function that takes it: the first so many bytes of a write, or all.
Watcher = Callable[[Step, Callable[[Optional[int]], Any]], Any]


class _Interception:
    """Functions around those of ``os`` that hand every step below ``root`` to ``watch``."""

    def __init__(self, root: Path, watch: Watcher) -> None:
        self._root = str(root)
        self._watch = watch
        self.inside = False

    def take(self, step: Step, call: Callable[..., Any], *args: Any, **options: Any) -> Any:
        if step.path != self._root and not step.path.startswith(self._root + "/"):
            return call(*args, **options)

        def perform(count: Optional[int] = None) -> Any:
            if count is not None:
                return call(args[0], step.content[:count])
            return call(*args, **options)

        # What is called within a step is part of it: sync_filesystem opens a directory.
        if self.inside:
            return perform()
        self.inside = True
        try:
            return self._watch(step, perform)
        finally:
            self.inside = False


def _path(path: Any, dir_fd: Optional[int] = None) -> str:
    if isinstance(path, int):
        return os.readlink("/proc/self/fd/{0}".format(path))
    base = os.getcwd() if dir_fd is None else os.readlink("/proc/self/fd/{0}".format(dir_fd))
    return os.path.normpath(os.path.join(base, os.fspath(path)))


@contextlib.contextmanager
def _watched(root: Path, watch: Watcher) -> Iterator[_Interception]:
    """Hand every step below ``root`` to ``watch``. For a process of its own: all of it is watched."""
    interception = _Interception(root, watch)
    saved: List[Tuple[Any, str, Any]] = []

    def around(owner: Any, name: str, step_of: Callable[..., Optional[Step]]) -> None:
        original = getattr(owner, name)
        saved.append((owner, name, original))

        @functools.wraps(original)
        def wrapper(*args: Any, **options: Any) -> Any:
            step = step_of(*args, **options)
            if step is None:
                return original(*args, **options)
            return interception.take(step, original, *args, **options)

        setattr(owner, name, wrapper)

    def opened(path: Any, flags: int, *_more: Any, dir_fd: Optional[int] = None) -> Optional[Step]:
        return Step("open", _path(path, dir_fd)) if flags & _WRITING else None

    def on_path(call: str) -> Callable[..., Step]:
        return lambda path, *_more, dir_fd=None, **_options: Step(call, _path(path, dir_fd))

    for name in ("rename", "replace"):
        around(os, name, lambda source, target, **_options: Step("rename", _path(source), _path(target)))
    for name, call in (("unlink", "unlink"), ("remove", "unlink"), ("rmdir", "rmdir"), ("mkdir", "mkdir")):
        around(os, name, on_path(call))
    for name, call in (("chmod", "chmod"), ("fchmod", "chmod"), ("fsync", "fsync"), ("fdatasync", "fsync")):
        around(os, name, on_path(call))
    around(os, "open", opened)
    around(os, "write", lambda descriptor, data: Step("write", _path(descriptor), content=bytes(data)))
    around(_publish, "sync_filesystem", on_path("syncfs"))
    try:
        yield interception
    finally:
        for owner, name, original in reversed(saved):
            setattr(owner, name, original)


def _guard(root: Path, interception: _Interception, missed: List[str]) -> None:
    """Note every change below ``root`` that is no step, for good: an audit hook cannot be taken away again."""

    def hook(event: str, args: Tuple[Any, ...]) -> None:
        if interception.inside:
            return
        if event == "ctypes.dlsym" and args[1] not in _SYNC_FUNCTIONS:
            missed.append("{0} {1}".format(event, args[1]))
        changes = event in _EVENTS or (event == "open" and _opens_for_writing(args))
        # A descriptor or a relative path may be anywhere.
        if changes and (isinstance(args[0], int) or not os.fsdecode(args[0]).startswith("/") or _below(args[0], root)):
            missed.append("{0} {1}".format(event, args[0]))

    sys.addaudithook(hook)


def _below(path: Any, root: Path) -> bool:
    return os.fsdecode(path).startswith(str(root))


def _opens_for_writing(args: Tuple[Any, ...]) -> bool:
    _path_or_descriptor, mode, flags = args
    if isinstance(mode, str):
        return any(letter in mode for letter in "wax+")
    return bool(flags & _WRITING)


def recorded(root: Path, work: Callable[[], Any]) -> List[Step]:
    """Do ``work`` in a process of its own and return its steps below ``root``. Fails when something changed unseen."""
    reader, writer = os.pipe()
    steps: List[Step] = []
    missed: List[str] = []

    def record(step: Step, perform: Callable[[Optional[int]], Any]) -> Any:
        steps.append(step._replace(done=False))
        value = perform(None)
        mode = stat.S_IMODE(os.lstat(step.path).st_mode) if os.path.lexists(step.path) else 0
        steps[-1] = step._replace(mode=mode)
        return value

    def child() -> None:
        os.close(reader)
        with _watched(root, record) as interception:
            _guard(root, interception, missed)
            work()
        # Written first: the hook sees the pipe too.
        data = pickle.dumps((steps, missed))
        with os.fdopen(writer, "wb") as stream:
            stream.write(data)

    process = started(child)
    os.close(writer)
    with os.fdopen(reader, "rb") as stream:
        data = stream.read()
    assert ended(process) == 0, "the work that was to be recorded failed"
    steps, missed = pickle.loads(data)
    assert missed == [], "changes that are no steps: {0}".format(missed)
    return steps


class Point(NamedTuple):
    """Where to kill: which step (from 0), and whether before it, after it, or halfway through what it writes."""

    number: int
    moment: str


def points(steps: Sequence[Step]) -> List[Point]:
    """Return every point at which work with these steps can be killed. What failed changed nothing and is none."""
    found = []
    for number, step in enumerate(steps):
        if step.done:
            moments = ("before", "half", "after") if step.call == "write" else ("before", "after")
            found += [Point(number, moment) for moment in moments]
    return found


def chosen(found: Sequence[Point], steps: Sequence[Step], most: int) -> List[Point]:
    """Return about ``most`` of the points: the first and last ten, those at every rename, and every so manieth."""
    always = {*found[:10], *found[-10:], *(point for point in found if steps[point.number].call == "rename")}
    others = [point for point in found if point not in always]
    room = max(1, most - len(always))
    stride = max(1, -(-len(others) // room))
    return sorted(always | set(others[::stride]), key=found.index)


def killed_at(root: Path, point: Point, work: Callable[[], Any]) -> None:
    """Do ``work`` in a process of its own that is killed at ``point``. Fails when it never gets there."""
    code = ended(_started(root, point, work, signal.SIGKILL))
    assert code == -signal.SIGKILL, "the work ended with {0} before {1}".format(code, point)


def stopped_at(root: Path, point: Point, work: Callable[[], Any]) -> int:
    """Do ``work`` in a process of its own that is stopped (SIGSTOP) at ``point``. Returns its id, for who wakes it."""
    child = _started(root, point, work, signal.SIGSTOP)
    _pid, status = os.waitpid(child, os.WUNTRACED)
    assert os.WIFSTOPPED(status), "the work ended before {0}".format(point)
    return child


def ended(child: int) -> int:
    """Wait for a process and return how it ended, as ``os.waitstatus_to_exitcode`` says it."""
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def started(work: Callable[[], Any]) -> int:
    """Do ``work`` in a fork of this process, which ends with 1 when it raises. Returns its id."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            work()
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)
    return child


def _started(root: Path, point: Point, work: Callable[[], Any], sent: signal.Signals) -> int:
    """Start ``work`` in a process that sends itself a signal at ``point``."""
    count = [0]

    def watch(step: Step, perform: Callable[[Optional[int]], Any]) -> Any:
        here = count[0] == point.number
        count[0] += 1
        if here and point.moment == "before":
            os.kill(os.getpid(), sent)
        if here and point.moment == "half":
            # Only killed: what goes on afterwards would write the first half again.
            perform(len(step.content) // 2)
            os.kill(os.getpid(), signal.SIGKILL)
        try:
            return perform(None)
        finally:
            if here and point.moment == "after":
                os.kill(os.getpid(), sent)

    def child() -> None:
        with _watched(root, watch):
            work()

    return started(child)
