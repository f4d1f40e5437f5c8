# SPDX-License-Identifier: GPL-3.0-or-later
# This file is private to the multibase.supabase collection; it may change at any time.
"""What the kernel counts of a container: its cgroup's files, versions 1 and 2, and its network's counters.

The files are found by the container's first process: ``/proc/<pid>/cgroup`` says where its cgroups are, and
``/proc/self/mountinfo`` where they are mounted; so it does not matter how the Engine names them, nor whether it runs
in a container itself. Formats: Documentation/admin-guide/cgroup-v1 and cgroup-v2.rst of the Linux kernel.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Dict, List, Mapping, Optional, Sequence, Tuple

# What version 1 shows for "no limit" is the largest multiple of a page; nobody has a petabyte.
_NO_LIMIT = 1 << 50


@dataclass(frozen=True)
class Counters:
    """What was read of one container; None is "not known", never 0.

    ``cpu_ns`` is the time of all its processors in nanoseconds, memory is in bytes: ``memory`` without page cache that
    can be given back, ``memory_raw`` as the kernel counts it. Network and blocks are bytes since the container
    started. ``processes`` are processes and threads.
    """

    cpu_ns: Optional[int] = None
    memory: Optional[int] = None
    memory_raw: Optional[int] = None
    memory_limit: Optional[int] = None
    received: Optional[int] = None
    sent: Optional[int] = None
    read: Optional[int] = None
    written: Optional[int] = None
    processes: Optional[int] = None

    @property
    def known(self) -> bool:
        """Whether the files said anything of what runs: nothing runs without memory."""
        return bool(self.cpu_ns) and bool(self.memory_raw)


@dataclass(frozen=True)
class Mounts:
    """Where cgroup hierarchies are mounted: (mount point, root of the mount) by controller; ``""`` is version 2."""

    points: Mapping[str, Tuple[str, str]]


def parse_mounts(mountinfo: str) -> Mounts:
    """Return the cgroup mounts in the text of ``/proc/self/mountinfo`` (proc_pid_mountinfo(5))."""
    points: Dict[str, Tuple[str, str]] = {}
    for line in mountinfo.splitlines():
        left, _dash, right = line.partition(" - ")
        fields, types = left.split(), right.split()
        if len(fields) < 5 or len(types) < 3:
            continue
        if types[0] == "cgroup2":
            points.setdefault("", (fields[4], fields[3]))
        elif types[0] == "cgroup":
            for option in types[2].split(","):
                points.setdefault(option, (fields[4], fields[3]))
    return Mounts(points)


def parse_memberships(text: str) -> Dict[str, str]:
    """Return the path of each controller in the text of ``/proc/<pid>/cgroup``; ``""`` is version 2."""
    paths: Dict[str, str] = {}
    for line in text.splitlines():
        _number, _colon, rest = line.partition(":")
        controllers, colon, path = rest.partition(":")
        if colon:
            for controller in controllers.split(","):
                paths[controller] = path
    return paths


def directory_of(mounts: Mounts, memberships: Mapping[str, str], controller: str) -> str:
    """Return the directory of a controller's files, empty when there is none."""
    if controller not in mounts.points or controller not in memberships:
        return ""
    point, root = mounts.points[controller]
    path = memberships[controller]
    if root != "/" and (path == root or path.startswith(root + "/")):
        path = path[len(root) :]
    return os.path.normpath(point + "/" + path)


def parse_number(text: str) -> Optional[int]:
    """Return the number that a file holds."""
    text = text.strip()
    return int(text) if text.isdigit() else None


def parse_table(text: str) -> Dict[str, int]:
    """Return the numbers of a file of ``name value`` lines, as memory.stat and cpu.stat are."""
    rows = [line.split() for line in text.splitlines()]
    return {row[0]: int(row[1]) for row in rows if len(row) == 2 and row[1].isdigit()}


def parse_limit(text: str) -> Optional[int]:
    """Return a limit in bytes, None for none."""
    value = parse_number(text)
    return None if value is None or value >= _NO_LIMIT else value


def parse_blocks_1(text: str) -> Tuple[Optional[int], Optional[int]]:
    """Return bytes read and written in the text of blkio.throttle.io_service_bytes."""
    sums = {"Read": 0, "Write": 0}
    found = False
    for row in (line.split() for line in text.splitlines()):
        if len(row) == 3 and row[1] in sums and row[2].isdigit():
            sums[row[1]] += int(row[2])
            found = True
    return (sums["Read"], sums["Write"]) if found else (None, None)


def parse_blocks_2(text: str) -> Tuple[Optional[int], Optional[int]]:
    """Return bytes read and written in the text of io.stat."""
    read = written = 0
    found = False
    for field in text.split():
        key, _equals, value = field.partition("=")
        if value.isdigit() and key in ("rbytes", "wbytes"):
            found = True
            if key == "rbytes":
                read += int(value)
            else:
                written += int(value)
    return (read, written) if found else (None, None)


def parse_network(text: str) -> Tuple[Optional[int], Optional[int]]:
    """Return bytes received and sent by all interfaces but the loopback, in the text of ``/proc/<pid>/net/dev``."""
    received = sent = 0
    found = False
    for line in text.splitlines():
        name, colon, rest = line.partition(":")
        fields = rest.split()
        if colon and name.strip() != "lo" and len(fields) >= 16:
            found = True
            received += int(fields[0])
            sent += int(fields[8])
    return (received, sent) if found else (None, None)


def _without_cache(raw: Optional[int], cache: Optional[int]) -> Optional[int]:
    if raw is None:
        return None
    return raw if cache is None or cache > raw else raw - cache


class ContainerFiles:
    """The files of one container. ``read`` opens them anew: a descriptor that is kept would pin a removed cgroup."""

    def __init__(self, mounts: Mounts, memberships: Mapping[str, str], process: str) -> None:
        """``process`` is the directory of the container's first process below ``/proc``."""
        self._network = os.path.join(process, "net", "dev")
        self._version_2 = "memory" not in mounts.points and "" in mounts.points
        if self._version_2:
            base = directory_of(mounts, memberships, "")
            self._directories = dict.fromkeys(("cpu", "memory", "blocks", "pids"), base)
        else:
            self._directories = {
                "cpu": directory_of(mounts, memberships, "cpuacct"),
                "memory": directory_of(mounts, memberships, "memory"),
                "blocks": directory_of(mounts, memberships, "blkio"),
                "pids": directory_of(mounts, memberships, "pids"),
            }

    def _text(self, kind: str, name: str) -> str:
        directory = self._directories[kind]
        return _text(directory + "/" + name) if directory else ""

    def read(self) -> Counters:
        """Return what the files say; what cannot be read is None."""
        if self._version_2:
            cpu = parse_table(self._text("cpu", "cpu.stat")).get("usage_usec")
            cpu_ns = None if cpu is None else cpu * 1000
            raw = parse_number(self._text("memory", "memory.current"))
            cache = parse_table(self._text("memory", "memory.stat")).get("inactive_file")
            limit = parse_limit(self._text("memory", "memory.max"))
            read, written = parse_blocks_2(self._text("blocks", "io.stat"))
        else:
            cpu_ns = parse_number(self._text("cpu", "cpuacct.usage"))
            raw = parse_number(self._text("memory", "memory.usage_in_bytes"))
            cache = parse_table(self._text("memory", "memory.stat")).get("total_inactive_file")
            limit = parse_limit(self._text("memory", "memory.limit_in_bytes"))
            read, written = parse_blocks_1(self._text("blocks", "blkio.throttle.io_service_bytes_recursive"))
        received, sent = parse_network(_text(self._network))
        return Counters(
            cpu_ns=cpu_ns,
            memory=_without_cache(raw, cache),
            memory_raw=raw,
            memory_limit=limit,
            received=received,
            sent=sent,
            read=read,
            written=written,
            processes=parse_number(self._text("pids", "pids.current")),
        )


def _text(path: str) -> str:
    """Return the text of a file; one that is not there, or went while it was read, is empty."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return ""
    try:
        parts: List[bytes] = []
        while True:
            part = os.read(descriptor, 65536)
            if not part:
                break
            parts.append(part)
        return b"".join(parts).decode("ascii", "replace")
    except OSError:
        return ""
    finally:
        os.close(descriptor)


class Cgroups:
    """Finds and reads the files of containers. ``proc`` is where ``/proc`` is."""

    def __init__(self, proc: str = "/proc") -> None:
        self._proc = proc
        self._mounts = parse_mounts(_text(os.path.join(proc, "self", "mountinfo")))
        self._files: Dict[Tuple[str, int], ContainerFiles] = {}

    def read(self, container: str, pid: int) -> Counters:
        """Return the counters of a container (its full id) whose first process is ``pid`` (0: it does not run)."""
        if pid <= 0:
            return Counters()
        key = (container, pid)
        found = self._files.get(key)
        if found is None:
            process = os.path.join(self._proc, str(pid))
            text = _text(os.path.join(process, "cgroup"))
            # Process numbers are used again: only a cgroup that is named after the container is its own.
            if container not in text:
                return Counters()
            found = ContainerFiles(self._mounts, parse_memberships(text), process)
            self._files[key] = found
        return found.read()

    def forget_others(self, containers: Sequence[str]) -> None:
        """Forget the files of all containers but these."""
        kept = set(containers)
        self._files = {key: files for key, files in self._files.items() if key[0] in kept}
