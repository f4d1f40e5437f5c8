# SPDX-License-Identifier: GPL-3.0-or-later
"""What is read on a host: parsers on recorded files, readers on a made-up root, and the module on this machine."""

from __future__ import annotations

import errno
import gzip
import http.server
import json
import os
import socket
import socketserver
import stat
import threading
import time
from pathlib import Path
from typing import Any, Dict, Iterator, List, Optional, Tuple
from unittest import mock

import pytest
import yaml
from ansible.module_utils.testing import patch_module_args

from ansible_collections.multibase.supabase.plugins.filter.preflight_instances import FilterModule, preflight_instances
from ansible_collections.multibase.supabase.plugins.module_utils import _preflight_facts as facts
from ansible_collections.multibase.supabase.plugins.module_utils._layout import Layout
from ansible_collections.multibase.supabase.plugins.module_utils._preflight import NAMES, EngineFacts, Listener, Wanted
from ansible_collections.multibase.supabase.plugins.module_utils._sizes import SIZES, Size, parse_size
from ansible_collections.multibase.supabase.plugins.modules import preflight
from unit.support import REPOSITORY, converge, item

# Parsers

OS_RELEASES = {
    "debian12": (
        'PRETTY_NAME="Debian GNU/Linux 12 (bookworm)"\nNAME="Debian GNU/Linux"\nVERSION_ID="12"\n'
        'VERSION="12 (bookworm)"\nVERSION_CODENAME=bookworm\nID=debian\nHOME_URL="https://www.debian.org/"\n',
        ("debian", "12", "Debian GNU/Linux 12 (bookworm)"),
    ),
    "debian13": (
        'PRETTY_NAME="Debian GNU/Linux 13 (trixie)"\nVERSION_ID="13"\nDEBIAN_VERSION_FULL=13.8\nID=debian\n',
        ("debian", "13", "Debian GNU/Linux 13 (trixie)"),
    ),
    "sid": (
        'PRETTY_NAME="Debian GNU/Linux forky/sid"\nNAME="Debian GNU/Linux"\nVERSION_CODENAME=forky\nID=debian\n',
        ("debian", None, "Debian GNU/Linux forky/sid"),
    ),
    "ubuntu22": (
        'PRETTY_NAME="Ubuntu 22.04.5 LTS"\nNAME="Ubuntu"\nVERSION_ID="22.04"\nVERSION="22.04.5 LTS (Jammy Jellyfish)"\n'
        "ID=ubuntu\nID_LIKE=debian\nUBUNTU_CODENAME=jammy\n",
        ("ubuntu", "22.04", "Ubuntu 22.04.5 LTS"),
    ),
    "ubuntu24": (
        'PRETTY_NAME="Ubuntu 24.04.3 LTS"\nVERSION_ID="24.04"\nID=ubuntu\nID_LIKE=debian\n',
        ("ubuntu", "24.04", "Ubuntu 24.04.3 LTS"),
    ),
    "fedora": (
        'NAME="Fedora Linux"\nVERSION="42 (Server Edition)"\nID=fedora\nVERSION_ID=42\n'
        'PRETTY_NAME="Fedora Linux 42 (Server Edition)"\nANSI_COLOR="0;38;2;60;110;180"\n',
        ("fedora", "42", "Fedora Linux 42 (Server Edition)"),
    ),
    "alpine": (
        'NAME="Alpine Linux"\nID=alpine\nVERSION_ID=3.22.1\nPRETTY_NAME="Alpine Linux v3.22"\n',
        ("alpine", "3.22.1", "Alpine Linux v3.22"),
    ),
    "odd": ("# a comment\n\nID='debian'\nVERSION_ID=\"12\nPRETTY_NAME=a\\ b\nnonsense\n", ("debian", "12", "a b")),
}


@pytest.mark.parametrize("name", OS_RELEASES)
def test_os_release(name: str) -> None:
    text, expected = OS_RELEASES[name]
    read = facts.parse_os_release(text)
    assert (read.get("ID"), read.get("VERSION_ID"), read.get("PRETTY_NAME")) == expected


def test_kernel_configuration() -> None:
    text = "CONFIG_OVERLAY_FS=m\nCONFIG_BRIDGE=y\n# CONFIG_VETH is not set\nCONFIG_HZ=250\nCONFIG_OVERLAY_FS_INDEX=y\n"
    assert facts.parse_kernel_config(text) == {"OVERLAY_FS": "m", "BRIDGE": "y", "OVERLAY_FS_INDEX": "y"}


def test_modules() -> None:
    text = (
        "kernel/fs/overlayfs/overlay.ko.xz: kernel/fs/exportfs.ko.xz\nkernel/net/bridge/br_netfilter.ko:\n"
        "kernel/net/netfilter/nf-nat.ko.zst:\nkernel/drivers/net/veth.ko\n"
    )
    assert facts.parse_modules(text) == {"overlay", "br_netfilter", "nf_nat", "veth"}


# Recorded in a test host, but for the last three.
MOUNTS = r"""246 171 0:108 / / rw,relatime master:9 - overlay overlay rw,lowerdir=/a:/b,upperdir=/c,workdir=/d
247 246 0:111 / /proc rw,nosuid,nodev,noexec,relatime - proc proc rw
255 246 0:116 / /run rw,nosuid,nodev,noexec,relatime - tmpfs tmpfs rw
272 246 254:0 /var/lib/docker/volumes/x/_data /var/lib/docker rw,relatime - ext4 /dev/vda rw,discard
300 246 8:1 / /opt/with\040space rw,relatime shared:1 - xfs /dev/sda1 ro,attr2
301 246 8:2 / /opt/multi rw,noexec - ext4 /dev/sda2 rw
302 246 8:3 / /var/lib/docker rw - btrfs /dev/sda3 rw
"""


@pytest.mark.parametrize(
    ("path", "point", "kind", "option"),
    [
        ("/opt/multibase", "/", "overlay", "relatime"),
        ("/opt/multi/base", "/opt/multi", "ext4", "noexec"),
        ("/opt/multi", "/opt/multi", "ext4", "noexec"),
        ("/opt/with space/x", "/opt/with space", "xfs", "ro"),
        ("/var/lib/docker", "/var/lib/docker", "btrfs", "rw"),
        ("/run/x", "/run", "tmpfs", "noexec"),
    ],
)
def test_the_mount_of_a_path(path: str, point: str, kind: str, option: str) -> None:
    found = facts.mount_of(path, facts.parse_mounts(MOUNTS))
    assert found[:2] == (point, kind) and option in found[2]


TCP = """  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 0B00007F:8C95 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 4599702 1 0 100 0 0 10 0
   1: 00000000:0050 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 77 1 0 100 0 0 10 0
   2: 0100007F:0050 0100007F:D431 01 00000000:00000000 00:00000000 00000000     0        0 78 1 0 100 0 0 10 0
"""
TCP6 = """  sl  local_address                         remote_address                        st tx_queue rx_queue
   0: 00000000000000000000000000000000:01BB 00000000000000000000000000000000:0000 0A 0:0 00:0 0     0        0 79 1 0
   1: 00000000000000000000000001000000:0051 00000000000000000000000000000000:0000 0A 0:0 00:0 0     0        0 80 1 0
"""


def test_listening_sockets() -> None:
    assert facts.parse_sockets(TCP) == [("127.0.0.11", 35989, "4599702"), ("0.0.0.0", 80, "77")]
    assert facts.parse_sockets(TCP6) == [("::", 443, "79"), ("::1", 81, "80")]
    assert facts.parse_sockets("") == []


FIB_TRIE = """Main:
  +-- 0.0.0.0/1 2 0 2
     |-- 10.212.0.3
        /32 host LOCAL
     |-- 10.212.0.255
        /32 link BROADCAST
     +-- 127.0.0.0/8 2 0 2
        |-- 127.0.0.1
           /32 host LOCAL
Local:
     |-- 10.212.0.3
        /32 host LOCAL
"""
IF_INET6 = (
    "00000000000000000000000000000001 01 80 10 80       lo\n"
    "20010db8000000000000000000000010 02 40 00 80     eth0\n"
    "fe80000000000000021122fffe334455 02 40 20 80     eth0\n"
)


def test_addresses_of_the_host() -> None:
    assert facts.parse_local_addresses(FIB_TRIE, IF_INET6) == {"10.212.0.3", "2001:db8::10"}
    assert facts.parse_local_addresses("", "") == frozenset()


def test_packages() -> None:
    text = (
        "Package: libc6\nStatus: install ok installed\nVersion: 2.41\nDescription: x\n Package: not me\n\n"
        "Package: gone\nStatus: deinstall ok config-files\n\nPackage: nginx\nStatus: install ok half-configured\n\n"
        "Package: kept\nStatus: hold ok installed\n\nPackage: never\nStatus: purge ok not-installed\n"
    )
    assert facts.parse_packages(text) == {"libc6": "installed", "nginx": "half-configured", "kept": "installed"}


def test_the_engines_answers() -> None:
    info = {
        "ServerVersion": "20.10.24+dfsg1", "Images": 69, "DockerRootDir": "/srv/docker",
        "SecurityOptions": ["name=seccomp,profile=default", "name=rootless"],
    }  # fmt: skip
    containers = [
        {"Id": "a" * 64, "Names": ["/web"], "Image": "caddy:2", "Labels": None,
         "Ports": [{"PrivatePort": 80, "PublicPort": 80, "Type": "tcp"}, {"PrivatePort": 1, "Type": "tcp"},
                   {"PrivatePort": 53, "PublicPort": 53, "Type": "udp"}]},
        {"Id": "b" * 64, "Names": ["/supabase-db"], "Image": "supabase/postgres:17", "Ports": [],
         "Labels": {"com.docker.compose.project": "supabase"}},
        {"Id": "c" * 64, "Names": None, "Image": "supabase/studio:1",
         "Labels": {"com.docker.compose.project": "supabase"}},
    ]  # fmt: skip
    read = facts.parse_engine(info, containers)
    assert (read.version, read.images, read.rootless, read.data_root) == ((20, 10, 24), 69, True, "/srv/docker")
    assert read.published == {80: "container web"}
    assert read.projects == {"web": ("caddy:2",), "supabase": ("supabase/postgres:17", "supabase/studio:1")}
    assert facts.parse_engine({}, []).data_root == "/var/lib/docker"


# Readers


def lay(top: Path, files: Dict[str, str]) -> facts.Place:
    """Write files below a directory and read there."""
    for path, text in files.items():
        place = top / path.lstrip("/")
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(text, encoding="utf-8")
    return facts.Place(top=str(top))


def test_the_kernels_configuration_is_looked_for(tmp_path: Path) -> None:
    assert facts.kernel_config(facts.Place(top=str(tmp_path)), "6.1.0") is None
    place = lay(tmp_path, {"/boot/config-6.1.0": "CONFIG_VETH=m\n", "/boot/config-6.2.0": "CONFIG_VETH=y\n"})
    assert facts.kernel_config(place, "6.1.0") == {"VETH": "m"}
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc" / "config.gz").write_bytes(gzip.compress(b"CONFIG_VETH=y\nCONFIG_BRIDGE=y\n"))
    assert facts.kernel_config(place, "6.1.0") == {"VETH": "y", "BRIDGE": "y"}
    (tmp_path / "proc" / "config.gz").write_bytes(b"damaged")
    assert facts.kernel_config(place, "6.1.0") == {"VETH": "m"}


def test_modules_that_can_be_loaded_and_that_are(tmp_path: Path) -> None:
    place = lay(tmp_path, {
        "/lib/modules/6.1.0/modules.dep": "kernel/drivers/net/veth.ko.xz:\n",
        "/lib/modules/6.1.0/modules.builtin": "kernel/net/bridge/bridge.ko\n",
        "/proc/modules": "overlay 159744 0 - Live 0x0\n", "/sys/module/nf_tables/refcnt": "0",
    })  # fmt: skip
    assert facts.kernel_modules(place, "6.1.0") == {"veth", "bridge"}
    assert facts.kernel_modules(place, "6.2.0") is None
    assert facts.loaded_modules(place) == {"overlay", "nf_tables"}


CGROUPS = (
    "#subsys_name\thierarchy\tnum_cgroups\tenabled\ncpu\t1\t35\t1\nmemory\t4\t507\t1\ndevices\t5\t3\t1\npids\t8\t3\t0\n"
)


@pytest.mark.parametrize(
    ("files", "version", "controllers", "swap"),
    [
        ({}, 0, set(), None),
        ({"/sys/fs/cgroup/cgroup.controllers": "cpu memory pids\n", "/sys/fs/cgroup/system.slice/memory.max": "max",
          "/sys/fs/cgroup/system.slice/memory.swap.max": "max"}, 2, {"cpu", "memory", "pids"}, True),
        ({"/sys/fs/cgroup/cgroup.controllers": "cpu memory\n", "/sys/fs/cgroup/user.slice/memory.max": "max"},
         2, {"cpu", "memory"}, False),
        ({"/sys/fs/cgroup/cgroup.controllers": "cpu\n", "/proc/self/cgroup": "0::/\n"}, 2, {"cpu"}, None),
        ({"/sys/fs/cgroup/cgroup.controllers": "memory\n", "/proc/self/cgroup": "0::/a/b\n",
          "/sys/fs/cgroup/a/b/memory.max": "max", "/sys/fs/cgroup/a/b/memory.swap.max": "max"}, 2, {"memory"}, True),
        # pids is switched off, devices is not mounted.
        ({"/proc/cgroups": CGROUPS, "/sys/fs/cgroup/cpu,cpuacct/x": "", "/sys/fs/cgroup/pids/x": "",
          "/sys/fs/cgroup/memory/memory.memsw.limit_in_bytes": "0"}, 1, {"cpu", "memory"}, True),
        ({"/proc/cgroups": CGROUPS, "/sys/fs/cgroup/memory/x": "", "/sys/fs/cgroup/devices/x": ""},
         1, {"devices", "memory"}, False),
    ],
)  # fmt: skip
def test_control_groups(tmp_path: Path, files: Any, version: int, controllers: Any, swap: Optional[bool]) -> None:
    assert facts.cgroups(lay(tmp_path, files)) == (version, controllers, swap)


@pytest.mark.parametrize(
    ("files", "kind"),
    [
        ({}, ""),
        ({"/run/systemd/container": "lxc\n", "/.dockerenv": ""}, "lxc"),
        ({"/.dockerenv": ""}, "docker"),
        ({"/run/.containerenv": ""}, "podman"),
        ({"/proc/vz/x": ""}, "openvz"),
        ({"/proc/vz/x": "", "/proc/bc/x": ""}, ""),
        ({"/proc/1/environ": "PATH=/bin\0container=systemd-nspawn\0"}, "systemd-nspawn"),
        ({"/proc/1/environ": "my_container=x\0"}, ""),
    ],
)
def test_containers_are_recognised(tmp_path: Path, files: Any, kind: str) -> None:
    assert facts.container(lay(tmp_path, files)) == kind


def test_who_listens(tmp_path: Path) -> None:
    place = lay(tmp_path, {
        "/proc/net/tcp": TCP, "/proc/net/tcp6": TCP6, "/proc/100/comm": "nginx\n", "/proc/101/comm": "caddy\n",
        "/proc/self/comm": "python3\n",
    })  # fmt: skip
    for pid, target in ((100, "socket:[77]"), (101, "/dev/null")):
        (tmp_path / "proc" / str(pid) / "fd").mkdir()
        (tmp_path / "proc" / str(pid) / "fd" / "3").symlink_to(target)
    programs = facts.processes(place)
    assert programs == {"100": "nginx", "101": "caddy"}
    assert facts.listeners(place, (80, 443), programs) == (
        Listener("0.0.0.0", 80, "nginx"), Listener("::", 443, ""),
    )  # fmt: skip


def test_a_file_without_a_name_is_tried_and_nothing_stays(tmp_path: Path) -> None:
    before = os.stat(tmp_path).st_mtime_ns
    problem, xattrs = facts.probe(str(tmp_path))
    assert problem is None and xattrs in (True, False, None)
    assert os.listdir(tmp_path) == [] and os.stat(tmp_path).st_mtime_ns == before
    assert facts.probe(str(tmp_path / "not there")) == (None, None)


@pytest.mark.parametrize(
    ("call", "number", "expected"),
    [
        ("setxattr", errno.ENOTSUP, (None, False)), ("setxattr", errno.ENOSPC, (None, None)),
        ("fsync", errno.EIO, ("Input/output error", None)), ("write", errno.ENOSPC, ("No space left on device", None)),
        ("open", errno.EOPNOTSUPP, (None, None)),
    ],
)  # fmt: skip
def test_what_a_filesystem_refuses(tmp_path: Path, call: str, number: int, expected: Any) -> None:
    if facts.probe(str(tmp_path))[1] is None:
        pytest.skip("this filesystem has no files without names")

    def refuse(*_arguments: Any) -> None:
        raise OSError(number, os.strerror(number))

    with mock.patch.object(facts.os, call, refuse):
        assert facts.probe(str(tmp_path)) == expected


def test_a_directory_that_is_not_there_yet_is_on_the_filesystem_above(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    assert facts.existing_parent(str(tmp_path / "a" / "b")) == str(tmp_path)
    assert facts.existing_parent(str(tmp_path / "link" / "b")) == str(tmp_path / "real")
    found = facts.filesystem("data", str(tmp_path / "a" / "b"), [("/", "ext4", frozenset({"rw"}))])
    assert found is not None and found.device == os.stat(tmp_path).st_dev
    assert (found.path, found.kind, found.mount) == (str(tmp_path / "a" / "b"), "ext4", "/")
    assert 0 < found.free <= found.total


class Answers(http.server.BaseHTTPRequestHandler):
    """The two calls of an Engine's API."""

    protocol_version = "HTTP/1.1"
    body: Dict[str, Any] = {"/info": {"ServerVersion": "27.0.1"}, "/containers/json?all=1": []}

    def do_GET(self) -> None:
        text = json.dumps(self.body[self.path]).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def address_string(self) -> str:
        return "unix"

    def log_message(self, *_arguments: Any) -> None:
        pass


@pytest.fixture
def engine_socket(tmp_path: Path) -> Iterator[str]:
    path = str(tmp_path / "docker.sock")
    with socketserver.ThreadingUnixStreamServer(path, Answers) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield "unix://" + path
        server.shutdown()
        thread.join()


def test_the_engine_is_asked_over_its_socket(engine_socket: str) -> None:
    found = facts.engine(facts.Place(docker_host=engine_socket))
    assert found is not None and found.version == (27, 0, 1)


def test_no_engine_and_one_that_does_not_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = str(tmp_path / "docker.sock")
    place = facts.Place(docker_host="unix://" + path)
    assert facts.engine(place) is None
    assert facts.engine(facts.Place(docker_host="tcp://127.0.0.1:2375")) is None
    monkeypatch.setattr(facts, "_ENGINE_SECONDS", 0.1)
    with socket.socket(socket.AF_UNIX) as silent:
        silent.bind(path)
        assert facts.engine(place) is None, "nobody listens"
        silent.listen(1)
        assert facts.engine(place) is None, "it is silent"


@pytest.mark.parametrize(
    ("settings", "told", "expected"),
    [
        ("", "", "/var/lib/docker"), ('{"data-root": "/srv/d"}', "", "/srv/d"), ("damaged", "", "/var/lib/docker"),
        ('{"data-root": "/srv/d"}', "/data", "/data"), ("[]", "", "/var/lib/docker"),
        ('{"data-root": 1}', "", "/var/lib/docker"),
    ],
)  # fmt: skip
def test_where_docker_will_keep_its_data(tmp_path: Path, settings: str, told: str, expected: str) -> None:
    place = facts.Place(top=lay(tmp_path, {"/etc/docker/daemon.json": settings}).top, data_root=told)
    assert facts.data_root(place, None) == expected
    assert facts.data_root(place, EngineFacts(data_root="/live")) == "/live", "one that runs knows best"


def test_names_are_resolved_side_by_side_and_not_for_ever() -> None:
    stuck = threading.Event()

    def ask(name: str) -> Tuple[str, ...]:
        if name == "stuck.example.com":
            stuck.wait(10)
        return ("192.0.2.1",) if name != "no.example.com" else ()

    names = ["stuck.example.com", "no.example.com", *("n{0}.example.com".format(number) for number in range(100))]
    started = time.monotonic()
    found = facts.resolve(names, seconds=0.5, ask=ask)
    stuck.set()
    assert time.monotonic() - started < 5
    assert len(found) == 101 and found["n7.example.com"] == ("192.0.2.1",) and found["no.example.com"] == ()
    assert "stuck.example.com" not in found
    assert facts.resolve([]) == {}


def test_a_name_that_is_none_has_no_address() -> None:
    assert facts.addresses_of("a..b" + "x" * 70) == ()
    assert "127.0.0.1" in facts.addresses_of("127.0.0.1")


def test_the_clock_is_asked_without_a_program() -> None:
    assert facts.clock_synchronized() in (True, False, None)


def test_instances_that_are_there(tmp_path: Path) -> None:
    assert facts.existing_instances(Layout(str(tmp_path))) == {}
    converge(tmp_path, item("acme", size="large"), item("beta", size={"cpus": 1.5, "memory": "3g"}))
    there = facts.existing_instances(Layout(str(tmp_path)))
    assert there == {"acme": SIZES["large"], "beta": Size(3072, 1.5)}
    ports, reserved = facts.taken_ports(facts.Place(), Layout(str(tmp_path)), None)
    assert ports is not None and reserved == {20000, 20010}
    (tmp_path / "projects" / "beta" / "instance.json").write_text("damaged")
    assert facts.existing_instances(Layout(str(tmp_path))) == {"acme": SIZES["large"]}


def test_what_may_not_be_read_is_not_known(tmp_path: Path) -> None:
    layout = Layout(str(tmp_path))
    (tmp_path / "projects").mkdir()

    def refuse(_path: str) -> List[str]:
        raise PermissionError(errno.EACCES, "Permission denied")

    with mock.patch.object(facts.os, "listdir", refuse):
        assert facts.existing_instances(layout) is None
        assert facts.taken_ports(facts.Place(), layout, None) == (None, frozenset())
        assert facts.processes(facts.Place()) == {}


def test_an_empty_machine_is_read_without_an_error(tmp_path: Path) -> None:
    read = facts.gather(Wanted(root="/opt/multibase", proxy=True), facts.Place(top=str(tmp_path)))
    assert read.os_release == {} and read.cgroup_version == 0 and read.packages is None and read.engine is None
    assert read.engine_programs == () and read.listeners == () and read.existing == {} and not read.systemd


def test_a_program_behind_a_link_is_one_program(tmp_path: Path) -> None:
    place = lay(tmp_path, {"/usr/bin/dockerd": ""})
    (tmp_path / "usr" / "sbin").symlink_to("bin")
    assert len(facts.gather(Wanted(root="/opt/multibase"), place).engine_programs) == 1
    lay(tmp_path, {"/usr/local/bin/dockerd": ""})
    assert len(facts.gather(Wanted(root="/opt/multibase"), place).engine_programs) == 2


# The module


def run(capsys: pytest.CaptureFixture[str], **arguments: Any) -> Tuple[Dict[str, Any], int]:
    """Run the module on this machine and return its result and exit code."""
    with patch_module_args({**arguments, "_ansible_check_mode": True}), pytest.raises(SystemExit) as ended:
        preflight.main()
    return json.loads(capsys.readouterr().out), int(str(ended.value.code))


def snapshot(directory: Path) -> List[Tuple[str, int]]:
    return [(str(path), stat.S_IMODE(path.stat().st_mode)) for path in sorted(directory.rglob("*"))]


def test_the_module_tells_all_checks_and_changes_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = snapshot(tmp_path)
    nowhere = "unix://" + str(tmp_path / "docker.sock")
    result, code = run(capsys, root=str(tmp_path / "multibase"), docker_host=nowhere, instances=[{"name": "acme"}])
    assert code == 0 and result["changed"] is False
    assert list(dict.fromkeys(finding["check"] for finding in result["findings"])) == list(NAMES)
    assert result["ok"] == all(finding["level"] != "failure" for finding in result["findings"])
    assert snapshot(tmp_path) == before


def test_strict_counts_warnings(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    skip = [name for name in NAMES if name != "cpus"]
    arguments = {"root": str(tmp_path), "skip": skip, "minimum_cpus": 100000}
    assert run(capsys, **arguments)[0]["ok"] is True
    result = run(capsys, **arguments, strict=True)[0]
    assert result["ok"] is False and [finding["level"] for finding in result["findings"]] == ["warning"]


def test_a_check_that_does_not_exist_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    result, code = run(capsys, skip=["dsn"])
    assert code == 1 and "no check dsn" in result["msg"] and "dns" in result["msg"]


def test_a_bad_size_is_one_finding_among_others(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    result, code = run(capsys, root=str(tmp_path), instances=[{"name": "acme", "size": "huge"}])
    assert code == 0 and len(result["findings"]) > len(NAMES) - 1
    assert result["findings"][0]["level"] == "warning"
    assert "instance acme: size 'huge'" in result["findings"][0]["found"]


def test_documentation_and_argument_spec_agree() -> None:
    def compare(documented: Dict[str, Any], spec: Dict[str, Any]) -> None:
        assert set(documented) == set(spec)
        for name, option in spec.items():
            for key in ("type", "elements", "default", "required"):
                assert documented[name].get(key) == option.get(key), name
            assert documented[name]["description"]
            if "options" in option:
                compare(documented[name]["suboptions"], option["options"])

    documented = yaml.safe_load(preflight.DOCUMENTATION)["options"]
    # Those two come from a fragment.
    spec = {name: option for name, option in preflight.argument_spec().items() if name not in ("root", "docker_host")}
    compare(documented, spec)


def test_the_role_hands_every_option_on() -> None:
    tasks = yaml.safe_load((REPOSITORY / "roles/multibase_preflight/tasks/check.yml").read_text(encoding="utf-8"))
    first, second = tasks[0]["block"][0], tasks[0]["rescue"][0]
    assert set(first["multibase.supabase.preflight"]) == set(preflight.argument_spec()) - {"docker_host"}
    assert second["multibase.supabase.preflight"] == first["multibase.supabase.preflight"]
    assert second["become"] is False and tasks[0]["ignore_unreachable"] is True


# What is taken of the inventory


def test_options_lie_over_blueprints_and_defaults() -> None:
    defaults = {
        "size": "large",
        "domain": "all.example.com",
        "services": {"storage": True},
        "smtp": {"password": "canary"},
    }
    blueprints = {"api": {"size": {"cpus": 1, "memory": "1g"}, "services": {"storage": False}}}
    declared = [
        {"name": "a", "secrets": {"X": "canary"}, "public_url": "https://a.example.com"},
        {"name": "b", "blueprint": "api", "size": {"memory": "2g"}},
        {"name": "c", "blueprint": "unknown", "storage": {"backend": "s3"}},
        {"name": "d", "state": "absent"}, {"size": "small"}, "nonsense",
    ]  # fmt: skip
    found = preflight_instances(declared, defaults, blueprints)
    domain = "all.example.com"
    assert found == [
        {"name": "a", "size": "large", "domain": domain, "public_url": "https://a.example.com", "storage": True},
        {"name": "b", "size": {"cpus": 1, "memory": "2g"}, "domain": domain, "public_url": "", "storage": False},
        {"name": "c", "size": "large", "domain": domain, "public_url": "", "storage": False},
    ]
    assert "canary" not in str(found)
    assert parse_size(found[1]["size"]) == Size(2048, 1.0)
    assert preflight_instances(declared, defaults, blueprints, ["b", "z"]) == [found[1]]


def test_nothing_declared_is_nothing() -> None:
    assert preflight_instances([]) == []
    assert preflight_instances([{"name": "a"}])[0]["size"] == "medium"
    assert preflight_instances([{"name": "a", "services": {"storage": "odd"}}])[0]["storage"] is True
    assert FilterModule().filters() == {"preflight_instances": preflight_instances}
    with pytest.raises(Exception, match="no list"):
        preflight_instances("acme")
