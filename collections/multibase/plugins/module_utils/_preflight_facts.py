# SPDX-License-Identifier: GPL-3.0-or-later
# This file is private to the multibase.supabase collection; it may change at any time.
"""Reads the facts that ``_preflight`` judges: small readers, each of one thing, none of which changes anything.

Only the standard library is used, and no program is started, so that a host with nothing but Python can be looked at.
What may not be read becomes None or stays empty. ``top`` stands in front of every path, for tests with recorded files.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import gzip
import http.client
import ipaddress
import json
import os
import re
import shlex
import socket
import struct
import sys
import threading
import time
from dataclasses import dataclass
from typing import Any, Callable, Dict, FrozenSet, Iterable, Iterator, List, Mapping, Optional, Set, Tuple

from . import _registry
from ._engine import DEFAULT_HOST
from ._errors import MultibaseError
from ._host import HostView, listening_ports
from ._layout import Layout
from ._ports import block_of
from ._preflight import EngineFacts, Facts, Filesystem, Listener, Wanted, version_of
from ._sizes import Size

DNS_SECONDS = 5.0
_DNS_THREADS = 32
_ENGINE_SECONDS = 3.0
_DEFAULT_DATA_ROOT = "/var/lib/docker"
_LISTEN = "0A"
_TIME_ERROR = 5
_PROBE_ATTRIBUTE = "user.multibase.preflight"
_ENGINE_PROGRAMS = ("/usr/bin/dockerd", "/usr/sbin/dockerd", "/usr/local/bin/dockerd", "/usr/local/sbin/dockerd")


@dataclass(frozen=True)
class Place:
    """Where to read: ``top`` in front of all paths, where the Engine listens, where Docker's data would go."""

    top: str = ""
    docker_host: str = DEFAULT_HOST
    data_root: str = ""

    def path(self, path: str) -> str:
        return self.top + path

    def read(self, path: str) -> str:
        """Return a file's text, empty when there is none or it may not be read."""
        try:
            with open(self.path(path), encoding="utf-8", errors="replace") as stream:
                return stream.read()
        except OSError:
            return ""

    def exists(self, path: str) -> bool:
        return os.path.lexists(self.path(path))

    def names(self, path: str) -> List[str]:
        try:
            return sorted(os.listdir(self.path(path)))
        except OSError:
            return []


# --- texts of files --------------------------------------------------------------------------------------------------


def parse_os_release(text: str) -> Dict[str, str]:
    """Read os-release(5): shell assignments."""
    values: Dict[str, str] = {}
    for line in text.splitlines():
        name, equals, value = line.strip().partition("=")
        if equals and not name.startswith("#"):
            try:
                values[name] = "".join(shlex.split(value))
            except ValueError:
                values[name] = value.strip("\"'")
    return values


def parse_kernel_config(text: str) -> Dict[str, str]:
    """Return option -> y or m of a kernel's configuration; what is off is left out."""
    return dict(re.findall(r"^CONFIG_(\w+)=([ym])$", text, re.MULTILINE))


def parse_modules(text: str) -> FrozenSet[str]:
    """Return the names at the beginning of each line of modules.dep or modules.builtin."""
    names = re.findall(r"^(?:\S*/)?([^/\s:]+)\.ko(?:\.\w+)?(?::|\s*$)", text, re.MULTILINE)
    return frozenset(name.replace("-", "_") for name in names)


def parse_mounts(text: str) -> List[Tuple[str, str, FrozenSet[str]]]:
    """Return (mount point, type, options) of each line of /proc/PID/mountinfo (proc_pid_mountinfo(5))."""
    mounts = []
    for line in text.splitlines():
        before, separator, after = line.partition(" - ")
        fields, more = before.split(), after.split()
        if separator and len(fields) > 5 and len(more) > 2:
            point = re.sub(r"\\([0-7]{3})", lambda found: chr(int(found.group(1), 8)), fields[4])
            # ro of the mount, or of the filesystem itself; the other words of the latter are the filesystem's own.
            options = set(fields[5].split(",")) | ({"ro"} & set(more[2].split(",")))
            mounts.append((point, more[0], frozenset(options)))
    return mounts


def mount_of(path: str, mounts: Iterable[Tuple[str, str, FrozenSet[str]]]) -> Tuple[str, str, FrozenSet[str]]:
    """Return the mount that a path is on; of several at one point, the last covers the others."""
    best: Tuple[str, str, FrozenSet[str]] = ("", "", frozenset())
    for mount in mounts:
        point = mount[0].rstrip("/")
        if (path == point or path.startswith(point + "/")) and len(mount[0]) >= len(best[0]):
            best = mount
    return best


def parse_sockets(text: str) -> List[Tuple[str, int, str]]:
    """Return (address, port, inode) of the listening sockets in /proc/net/tcp or tcp6 (proc_net_tcp(5))."""
    found = []
    for line in text.splitlines()[1:]:
        fields = line.split()
        if len(fields) > 9 and fields[3] == _LISTEN:
            words, port = fields[1].split(":")
            # 32-bit words in the byte order of the machine.
            raw = b"".join(struct.pack("=I", int(words[at : at + 8], 16)) for at in range(0, len(words), 8))
            found.append((str(ipaddress.ip_address(raw)), int(port, 16), fields[9]))
    return found


def parse_local_addresses(fib_trie: str, if_inet6: str) -> FrozenSet[str]:
    """Return the host's addresses but for those of the loopback and of single links."""
    texts = re.findall(r"\|-- ([0-9.]+)\s+/32 host LOCAL", fib_trie)
    texts += [":".join(line[at : at + 4] for at in range(0, 32, 4)) for line in if_inet6.split("\n") if len(line) > 32]
    addresses = {ipaddress.ip_address(text) for text in texts}
    return frozenset(str(address) for address in addresses if not address.is_loopback and not address.is_link_local)


def parse_packages(text: str) -> Dict[str, str]:
    """Return name -> state of dpkg's packages, without those that are not installed or only configured once."""
    packages = {}
    for block in text.split("\n\n"):
        name = re.search(r"^Package: (\S+)", block, re.MULTILINE)
        state = re.search(r"^Status: \S+ \S+ (\S+)", block, re.MULTILINE)
        if name and state and state.group(1) not in ("not-installed", "config-files"):
            packages[name.group(1)] = state.group(1)
    return packages


def parse_controllers(text: str) -> FrozenSet[str]:
    """Return the enabled controllers in /proc/cgroups."""
    rows = [line.split() for line in text.splitlines() if not line.startswith("#")]
    return frozenset(row[0] for row in rows if len(row) == 4 and row[3] == "1")


# --- the kernel ------------------------------------------------------------------------------------------------------


def kernel_config(place: Place, release: str) -> Optional[Dict[str, str]]:
    """Return the configuration of the running kernel, or None when it lies nowhere."""
    with contextlib.suppress(OSError, EOFError), gzip.open(place.path("/proc/config.gz"), "rt") as stream:
        return parse_kernel_config(stream.read())
    for path in ("/boot/config-" + release, "/lib/modules/{0}/config".format(release)):
        text = place.read(path)
        if text:
            return parse_kernel_config(text)
    return None


def kernel_modules(place: Place, release: str) -> Optional[FrozenSet[str]]:
    """Return the modules that the running kernel could load or has built in, or None when its directory is missing."""
    directory = "/lib/modules/{0}/".format(release)
    texts = [place.read(directory + name) for name in ("modules.dep", "modules.builtin")]
    return parse_modules("\n".join(texts)) if any(texts) else None


def loaded_modules(place: Place) -> FrozenSet[str]:
    """Return what is loaded or has parameters of its own."""
    loaded = {line.split()[0] for line in place.read("/proc/modules").splitlines() if line.split()}
    return frozenset(loaded | set(place.names("/sys/module")))


def cgroups(place: Place) -> Tuple[int, FrozenSet[str], Optional[bool]]:
    """Return the version of control groups (0: none), their controllers, and whether swap can be limited."""
    base = "/sys/fs/cgroup"
    if place.exists(base + "/cgroup.controllers"):
        controllers = frozenset(place.read(base + "/cgroup.controllers").split())
        own = "".join(re.findall(r"^0::(/.*)$", place.read("/proc/self/cgroup"), re.MULTILINE)).rstrip("/")
        # The topmost group of all has no limits; any other shows whether there could be one.
        groups = [own, *("/" + name for name in place.names(base) if name.endswith((".slice", ".scope")))]
        known = [group for group in groups if place.exists("{0}{1}/memory.max".format(base, group))]
        swap = any(place.exists("{0}{1}/memory.swap.max".format(base, group)) for group in known) if known else None
        return 2, controllers, swap
    mounted = {part for name in place.names(base) for part in name.split(",")}
    controllers = parse_controllers(place.read("/proc/cgroups")) & mounted
    if not controllers:
        return 0, frozenset(), None
    if "memory" not in controllers:
        return 1, controllers, None
    return 1, controllers, place.exists(base + "/memory/memory.memsw.limit_in_bytes")


def container(place: Place) -> str:
    """Return what kind of container this is, empty on a machine (systemd-detect-virt(1) looks at the same files)."""
    told = place.read("/run/systemd/container").strip()
    if told:
        return told
    if place.exists("/.dockerenv"):
        return "docker"
    if place.exists("/run/.containerenv"):
        return "podman"
    if place.exists("/proc/vz") and not place.exists("/proc/bc"):
        return "openvz"
    found = re.search(r"(?:^|\0)container=([\w-]+)", place.read("/proc/1/environ"))
    return found.group(1) if found else ""


class _Timex(ctypes.Structure):
    # Longer than struct timex on every machine; only the first member is set, and it says "change nothing".
    _fields_ = [("modes", ctypes.c_uint), ("rest", ctypes.c_long * 60)]


def clock_synchronized() -> Optional[bool]:
    """Ask the kernel whether a time service keeps its clock right (adjtimex(2)); needs no root. None: it won't say."""
    try:
        state = ctypes.CDLL(None, use_errno=True).adjtimex(ctypes.byref(_Timex()))
    except (OSError, AttributeError):
        return None
    return None if state < 0 else state != _TIME_ERROR


# --- filesystems -----------------------------------------------------------------------------------------------------


def existing_parent(path: str) -> str:
    """Return the path itself, or the nearest directory above it that exists, with links resolved."""
    path = os.path.realpath(path)
    while not os.path.isdir(path) and path != "/":
        path = os.path.dirname(path)
    return path


def probe(directory: str) -> Tuple[Optional[str], Optional[bool]]:
    """Write a file without a name, bring it to the disk, give it an extended attribute.

    Such a file is never seen and gone when it is closed, however this ends. Returns why writing failed, and whether
    attributes are taken; None for what could not be tried.
    """
    if not os.access(directory, os.W_OK):
        return None, None
    try:
        descriptor = os.open(directory, os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o600)
    except OSError:
        # Not every filesystem has files without names.
        return None, None
    try:
        try:
            os.write(descriptor, b"multibase\n")
            os.fsync(descriptor)
        except OSError as error:
            return error.strerror or str(error), None
        try:
            os.setxattr(descriptor, _PROBE_ATTRIBUTE, b"1")
        except OSError as error:
            return None, False if error.errno in (errno.ENOTSUP, errno.EOPNOTSUPP, errno.EPERM) else None
        return None, True
    finally:
        os.close(descriptor)


def filesystem(use: str, path: str, mounts: List[Tuple[str, str, FrozenSet[str]]]) -> Optional[Filesystem]:
    """Return the filesystem that a directory is or will be on, or None when nothing above it may be looked at."""
    there = existing_parent(path)
    try:
        space, device = os.statvfs(there), os.stat(there).st_dev
    except OSError:
        return None
    mount, kind, options = mount_of(there, mounts)
    problem, xattrs = probe(there) if use == "data" else (None, None)
    return Filesystem(
        use=use,
        path=path,
        mount=mount or there,
        kind=kind or "unknown",
        options=options,
        device=device,
        total=space.f_blocks * space.f_frsize,
        free=space.f_bavail * space.f_frsize,
        inodes=space.f_files,
        free_inodes=space.f_favail,
        problem=problem,
        xattrs=xattrs,
    )


# --- processes and sockets -------------------------------------------------------------------------------------------


def processes(place: Place) -> Dict[str, str]:
    """Return process id -> name of the program."""
    return {pid: place.read("/proc/{0}/comm".format(pid)).strip() for pid in place.names("/proc") if pid.isdigit()}


def socket_owners(place: Place, inodes: Set[str], programs: Mapping[str, str]) -> Dict[str, str]:
    """Return inode of a socket -> name of the program that has it open, as far as one may see."""
    owners: Dict[str, str] = {}
    for pid, program in programs.items():
        if len(owners) == len(inodes):
            break
        directory = place.path("/proc/{0}/fd".format(pid))
        try:
            descriptors = os.listdir(directory)
        except OSError:
            continue
        for descriptor in descriptors:
            with contextlib.suppress(OSError):
                target = os.readlink(os.path.join(directory, descriptor))
                if target.startswith("socket:[") and target[8:-1] in inodes:
                    owners[target[8:-1]] = program
    return owners


def listeners(place: Place, ports: Iterable[int], programs: Mapping[str, str]) -> Tuple[Listener, ...]:
    """Return who listens on some ports, on any address."""
    wanted = set(ports)
    sockets = [
        found
        for name in ("tcp", "tcp6")
        for found in parse_sockets(place.read("/proc/net/" + name))
        if found[1] in wanted
    ]
    owners = socket_owners(place, {inode for _address, _port, inode in sockets}, programs) if sockets else {}
    return tuple(Listener(address, port, owners.get(inode, "")) for address, port, inode in sockets)


# --- the Engine ------------------------------------------------------------------------------------------------------


class _UnixConnection(http.client.HTTPConnection):
    """HTTP over a Unix socket: the Engine's API without its SDK, which a bare host lacks."""

    def __init__(self, path: str) -> None:
        super().__init__("localhost", timeout=_ENGINE_SECONDS)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


def parse_engine(info: Mapping[str, Any], containers: Iterable[Mapping[str, Any]]) -> EngineFacts:
    """Read the answers of the Engine to /info and /containers/json?all=1."""
    projects: Dict[str, Set[str]] = {}
    published: Dict[int, str] = {}
    for item in containers:
        labels = item.get("Labels") or {}
        name = str((item.get("Names") or ["/" + str(item.get("Id"))[:12]])[0]).lstrip("/")
        project = str(labels.get("com.docker.compose.project") or name)
        projects.setdefault(project, set()).add(str(item.get("Image") or ""))
        for port in item.get("Ports") or []:
            if port.get("PublicPort") and port.get("Type", "tcp") == "tcp":
                published[int(port["PublicPort"])] = "container " + name
    return EngineFacts(
        version=version_of(str(info.get("ServerVersion") or "")),
        rootless=any("rootless" in str(option) for option in info.get("SecurityOptions") or []),
        data_root=str(info.get("DockerRootDir") or _DEFAULT_DATA_ROOT),
        images=int(info.get("Images") or 0),
        projects={name: tuple(sorted(images)) for name, images in sorted(projects.items())},
        published=published,
    )


def engine(place: Place) -> Optional[EngineFacts]:
    """Ask the Engine, if there is one that may be asked."""
    scheme, _separator, path = place.docker_host.partition("://")
    if scheme != "unix" or not place.exists(path):
        return None
    connection = _UnixConnection(place.path(path))
    try:
        answers = []
        for call in ("/info", "/containers/json?all=1"):
            connection.request("GET", call)
            answers.append(json.loads(connection.getresponse().read()))
        return parse_engine(*answers)
    except (OSError, ValueError, TypeError, AttributeError, http.client.HTTPException):
        return None
    finally:
        connection.close()


def data_root(place: Place, found: Optional[EngineFacts]) -> str:
    """Return where Docker keeps images and containers, or will."""
    if found is not None:
        return found.data_root
    try:
        settings = json.loads(place.read("/etc/docker/daemon.json") or "{}")
    except ValueError:
        settings = {}
    told = settings.get("data-root") if isinstance(settings, dict) else None
    return place.data_root or (told if isinstance(told, str) and told else _DEFAULT_DATA_ROOT)


# --- names -----------------------------------------------------------------------------------------------------------


def addresses_of(name: str) -> Tuple[str, ...]:
    """Return the addresses of a name, as every program of the host finds them."""
    try:
        found = socket.getaddrinfo(name, None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        return ()
    return tuple(sorted({str(entry[4][0]).partition("%")[0] for entry in found}))


def resolve(
    names: Iterable[str],
    seconds: float = DNS_SECONDS,
    ask: Callable[[str], Tuple[str, ...]] = addresses_of,
) -> Dict[str, Tuple[str, ...]]:
    """Resolve names side by side and wait at most some seconds for all; those without an answer are left out."""
    waiting: Iterator[str] = iter(sorted(set(names)))
    lock = threading.Lock()
    answers: Dict[str, Tuple[str, ...]] = {}

    def work() -> None:
        while True:
            with lock:
                name = next(waiting, None)
            if name is None:
                return
            found = ask(name)
            with lock:
                answers[name] = found

    count = len(set(names))
    # Daemons: a resolver that does not answer must not keep the process.
    threads = [threading.Thread(target=work, daemon=True) for _number in range(min(count, _DNS_THREADS))]
    end = time.monotonic() + seconds
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(max(0.0, end - time.monotonic()))
    with lock:
        return dict(answers)


# --- what is below the root ------------------------------------------------------------------------------------------


def existing_instances(layout: Layout) -> Optional[Dict[str, Size]]:
    """Return the sizes of the instances that the host has, or None when they may not be looked at."""
    sizes = {}
    try:
        os.listdir(layout.projects)
    except FileNotFoundError:
        return {}
    except OSError:
        return None
    for name in layout.instance_names():
        with contextlib.suppress(MultibaseError, OSError, KeyError, TypeError, ValueError):
            resources = _registry.read_manifest(layout, name).get("resources") or {}
            sizes[name] = Size(int(resources.get("memory", 0)), float(resources.get("cpus", 0)))
    return sizes


def taken_ports(
    place: Place, layout: Layout, found: Optional[EngineFacts]
) -> Tuple[Optional[Dict[int, str]], FrozenSet[int]]:
    """Return port -> what uses it, and the first ports of the blocks of our instances; None when that takes root."""
    try:
        reserved = frozenset(allocation.port_base for allocation in _registry.load(layout).values())
        ports = HostView(layout, lambda: None).taken_ports(layout.instance_names())
    except (OSError, MultibaseError):
        return None, frozenset()
    if place.top:
        ports = listening_ports(place.read("/proc/net/" + name) for name in ("tcp", "tcp6"))
    own = {port for base in reserved for port in block_of(base)}
    ports.update({port: who for port, who in (found.published if found else {}).items() if port not in own})
    return ports, reserved


# --- all together ----------------------------------------------------------------------------------------------------


def gather(wanted: Wanted, place: Place, reference_time: Optional[float] = None) -> Facts:
    """Read everything that the checks want to know."""
    now = time.time()
    uname = os.uname()
    release = place.read("/proc/sys/kernel/osrelease").strip() or uname.release
    programs = processes(place)
    found = engine(place)
    layout = Layout(place.path(wanted.root))
    taken, reserved = taken_ports(place, layout, found)
    mounts = parse_mounts(place.read("/proc/self/mountinfo"))
    filesystems = [
        filesystem(use, path, mounts)
        for use, path in (("data", wanted.root), ("docker", data_root(place, found)))
        if path.startswith("/")
    ]
    cgroup_version, controllers, swap = cgroups(place)
    ephemeral = place.read("/proc/sys/net/ipv4/ip_local_port_range").split()
    packages = place.read("/var/lib/dpkg/status")
    hostnames = {name for instance in wanted.instances for name in instance.hostnames}
    dockerds = {os.path.realpath(place.path(path)): path for path in _ENGINE_PROGRAMS if place.exists(path)}
    return Facts(
        os_release=parse_os_release(place.read("/etc/os-release") or place.read("/usr/lib/os-release")),
        architecture=uname.machine,
        pointer_bits=struct.calcsize("P") * 8,
        kernel=release,
        kernel_config=kernel_config(place, release) if found is None else None,
        kernel_modules=kernel_modules(place, release) if found is None else None,
        loaded_modules=loaded_modules(place),
        filesystems_known=frozenset(place.read("/proc/filesystems").split()),
        python=tuple(sys.version_info[:3]),
        uid=os.geteuid(),
        container=container(place),
        systemd=place.exists("/run/systemd/system"),
        cgroup_version=cgroup_version,
        cgroup_controllers=controllers,
        swap_limit=swap,
        # As the module instance counts them.
        cpus=len(os.sched_getaffinity(0)),
        memory=os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") >> 20,
        filesystems=tuple(entry for entry in filesystems if entry is not None),
        clock_synchronized=clock_synchronized(),
        time_programs=tuple(sorted(set(programs.values()))),
        now=now,
        reference_time=reference_time,
        addresses=parse_local_addresses(place.read("/proc/net/fib_trie"), place.read("/proc/net/if_inet6")),
        resolved=resolve(hostnames),
        listeners=listeners(place, wanted.proxy_ports, programs) if wanted.proxy else (),
        own_proxy=place.exists("/etc/nginx/multibase"),
        taken_ports=taken,
        reserved_blocks=reserved,
        ephemeral=(int(ephemeral[0]), int(ephemeral[1])) if len(ephemeral) == 2 else None,
        existing=existing_instances(layout),
        packages=parse_packages(packages) if packages else None,
        engine=found,
        engine_programs=tuple(dockerds.values()),
        rootless_engine="rootlesskit" in programs.values(),
        snap_engine=place.exists("/snap/bin/docker") or place.exists("/snap/docker"),
    )
