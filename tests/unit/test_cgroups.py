# SPDX-License-Identifier: GPL-3.0-or-later
"""What is read of a container: recorded files of both versions of cgroups, in a tree of their own."""

from __future__ import annotations

from pathlib import Path
from typing import Dict, Optional, Tuple

import pytest

from ansible_collections.multibase.supabase.plugins.module_utils import _cgroups
from ansible_collections.multibase.supabase.plugins.module_utils._cgroups import Cgroups, Counters

ID = "5ab73b2eab5977d348b3d360011c406c8b26b1f2ae8d42091187b8e00a8adb35"
NETWORK = """Inter-|   Receive                                                |  Transmit
 face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs drop fifo colls carrier
    lo: 9000 10 0 0 0 0 0 0 9000 10 0 0 0 0 0 0
  eth0:  796 10 0 0 0 0 0 0  120  2 0 0 0 0 0 0
  eth1:    4  1 0 0 0 0 0 0    5  1 0 0 0 0 0 0
"""
NO_LIMIT = "9223372036854771712\n"
STAT_1 = "cache 500\nrss 700\ninactive_file 10\ntotal_cache 500\ntotal_inactive_file 200\n"
BLOCKS_1 = "254:0 Read 4096\n254:0 Write 8192\n254:0 Total 12288\n254:16 Read 1\n254:16 Write 2\nTotal 12291\n"
FILES_1 = {
    "cpuacct": {"cpuacct.usage": "26164462990\n"},
    "memory": {"memory.usage_in_bytes": "1000\n", "memory.limit_in_bytes": NO_LIMIT, "memory.stat": STAT_1},
    "blkio": {"blkio.throttle.io_service_bytes_recursive": BLOCKS_1},
    "pids": {"pids.current": "36\n"},
}  # fmt: skip
FILES_2 = {
    "cpu.stat": "usage_usec 26164462\nuser_usec 20000000\nsystem_usec 6164462\n",
    "memory.current": "1000\n",
    "memory.max": "4194304\n",
    "memory.stat": "anon 700\nfile 500\ninactive_file 200\n",
    "io.stat": "254:0 rbytes=4096 wbytes=8192 rios=1 wios=2 dbytes=0 dios=0\n254:16 rbytes=1 wbytes=2\n",
    "pids.current": "36\n",
}


def place(tmp_path: Path, mounts: str, membership: str, files: Dict[str, Dict[str, str]]) -> str:
    """Make a tree of ``/proc`` with one container, process 690, and of cgroup files; return the first's path."""
    proc = tmp_path / "proc"
    (proc / "self").mkdir(parents=True)
    (proc / "self" / "mountinfo").write_text(mounts.replace("ROOT", str(tmp_path)))
    (proc / "690" / "net").mkdir(parents=True)
    (proc / "690" / "net" / "dev").write_text(NETWORK)
    (proc / "690" / "cgroup").write_text(membership)
    for directory, contents in files.items():
        (tmp_path / directory).mkdir(parents=True)
        for name, text in contents.items():
            (tmp_path / directory / name).write_text(text)
    return str(proc)


def version_1(tmp_path: Path, path: str = "/docker/" + ID, root: str = "/") -> str:
    controllers = ["cpuacct", "memory", "blkio", "pids"]
    mounts = "".join(f"1 2 0:30 {root} ROOT/{name} rw - cgroup cgroup rw,{name}\n" for name in controllers)
    membership = "".join(f"2:{name}:{path}\n" for name in controllers) + "0::/\n"
    inner = path[len(root) :] if root != "/" else path
    return place(tmp_path, mounts, membership, {name + inner: FILES_1[name] for name in controllers})


def version_2(tmp_path: Path, path: str = f"/system.slice/docker-{ID}.scope") -> str:
    mounts = "1 2 0:38 / ROOT/unified rw - cgroup2 cgroup2 rw\n"
    return place(tmp_path, mounts, f"0::{path}\n", {"unified" + path: FILES_2})


def expected(limit: Optional[int], cpu: int) -> Counters:
    return Counters(cpu, 800, 1000, limit, 800, 125, 4097, 8194, 36)


def test_version_1(tmp_path: Path) -> None:
    assert Cgroups(version_1(tmp_path)).read(ID, 690) == expected(None, 26164462990)


def test_version_2(tmp_path: Path) -> None:
    assert Cgroups(version_2(tmp_path)).read(ID, 690) == expected(4194304, 26164462000)


def test_an_engine_in_a_container_sees_its_own_part_of_the_tree(tmp_path: Path) -> None:
    proc = version_1(tmp_path, f"/docker/outer/docker/{ID}", root="/docker/outer")
    assert Cgroups(proc).read(ID, 690) == expected(None, 26164462990)


def test_controllers_that_are_mounted_together() -> None:
    mounts = _cgroups.parse_mounts("1 2 0:3 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n")
    memberships = _cgroups.parse_memberships(f"3:cpu,cpuacct:/docker/{ID}\n")
    assert _cgroups.directory_of(mounts, memberships, "cpuacct") == f"/sys/fs/cgroup/cpu,cpuacct/docker/{ID}"
    assert _cgroups.directory_of(mounts, memberships, "memory") == ""


def test_a_process_that_is_another_containers_by_now_is_not_read(tmp_path: Path) -> None:
    assert Cgroups(version_1(tmp_path)).read("0" * 64, 690) == Counters()


@pytest.mark.parametrize("pid", [0, -1, 12345])
def test_what_does_not_run_is_not_known(tmp_path: Path, pid: int) -> None:
    counters = Cgroups(version_1(tmp_path)).read(ID, pid)
    assert counters == Counters() and not counters.known


def test_files_that_go_meanwhile_are_not_known_and_never_zero(tmp_path: Path) -> None:
    cgroups = Cgroups(version_2(tmp_path))
    cgroups.read(ID, 690)
    for path in (tmp_path / "unified").rglob("*"):
        if path.is_file():
            path.unlink()
    assert cgroups.read(ID, 690) == Counters(received=800, sent=125)


@pytest.mark.parametrize(
    ("text", "found"),
    [("Total 0\n", (None, None)), ("", (None, None)), ("8:0 Read 5\n8:0 Write 0\nTotal 5\n", (5, 0))],
)
def test_blocks_of_which_the_kernel_counts_none(text: str, found: Tuple[Optional[int], Optional[int]]) -> None:
    assert _cgroups.parse_blocks_1(text) == found


def test_cache_that_is_larger_than_all_is_none_of_it(tmp_path: Path) -> None:
    proc = version_2(tmp_path)
    (next((tmp_path / "unified").rglob("memory.stat"))).write_text("inactive_file 5000\n")
    assert Cgroups(proc).read(ID, 690).memory == 1000


def test_others_are_forgotten(tmp_path: Path) -> None:
    cgroups = Cgroups(version_1(tmp_path))
    cgroups.read(ID, 690)
    cgroups.forget_others([])
    (tmp_path / "proc" / "690" / "cgroup").write_text("2:memory:/docker/other\n")
    assert cgroups.read(ID, 690) == Counters()
