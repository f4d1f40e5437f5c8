# SPDX-License-Identifier: GPL-3.0-or-later
# This file is private to the multibase.supabase collection; it may change at any time.
"""Whether a host can carry Multibase and the instances declared for it: facts in, findings out.

Nothing here reads the host; ``_preflight_facts`` does. A fact that could not be read is None (or empty) and never makes
a failure. A failure is what cannot work, a warning what works worse than it looks.
"""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass, field
from typing import AbstractSet, Any, Callable, Dict, FrozenSet, Iterator, List, Mapping, Optional, Sequence, Tuple

from ._errors import MultibaseError
from ._ports import BLOCK_SIZE, DEFAULT_RANGE, PortRange, block_of, parse_port_range
from ._sizes import SIZES, Capacity, Demand, Size, overcommitment, parse_size

MINIMUM_PYTHON = (3, 9)
MINIMUM_ENGINE = (20, 10)
# The oldest release of each distribution with a Python and an Engine that are new enough.
MINIMUM_RELEASES: Dict[str, Tuple[int, ...]] = {"debian": (12,), "ubuntu": (22, 4)}
# What upstream publishes images for, by the names that the kernel and people have for it.
ARCHITECTURES = {"x86_64": "x86_64", "amd64": "x86_64", "aarch64": "aarch64", "arm64": "aarch64"}
# The kernel of Debian 11; and the first with all that the storage driver overlay2 asks for.
RECOMMENDED_KERNEL = (5, 10)
MINIMUM_KERNEL = (4, 0)
# A clock before this is wrong whatever time it is: no certificate is valid then.
EARLIEST_TIME = 1735689600
TOLERATED_SKEW = 30.0
# Options of the kernel that the Engine's networks and its storage need. Of several, one is enough.
KERNEL_FEATURES: Tuple[Tuple[str, Tuple[str, ...]], ...] = (
    ("overlay filesystem", ("OVERLAY_FS",)),
    ("bridges", ("BRIDGE",)),
    ("bridge netfilter", ("BRIDGE_NETFILTER",)),
    ("veth", ("VETH",)),
    ("address translation", ("NF_NAT",)),
    ("packet filter", ("NF_TABLES", "IP_NF_IPTABLES")),
)
# Modules that carry those options where they are not built in.
KERNEL_MODULES = {
    "OVERLAY_FS": "overlay",
    "BRIDGE": "bridge",
    "BRIDGE_NETFILTER": "br_netfilter",
    "VETH": "veth",
    "NF_NAT": "nf_nat",
    "NF_TABLES": "nf_tables",
    "IP_NF_IPTABLES": "ip_tables",
}
NETWORK_FILESYSTEMS = frozenset(("nfs", "nfs4", "cifs", "smb3", "smbfs", "ceph", "glusterfs", "9p", "virtiofs", "afs"))
FOREIGN_FILESYSTEMS = frozenset(("vfat", "msdos", "exfat", "ntfs", "ntfs3", "hfs", "hfsplus", "vboxsf", "squashfs"))
TIME_PROGRAMS = {
    # The kernel cuts the names of processes after 15 bytes.
    "systemd-timesyn": "systemd-timesyncd",
    "chronyd": "chrony",
    "ntpd": "ntp",
    "ptp4l": "linuxptp",
}
GIB = 1 << 30
_DEFAULT_PORTS = parse_port_range(DEFAULT_RANGE)


@dataclass(frozen=True)
class Finding:
    """What one check says about one thing. ``level`` is ok, warning or failure; ``remedy`` is empty when it is ok."""

    check: str
    level: str
    found: str
    needed: str
    remedy: str = ""

    def as_dict(self) -> Dict[str, str]:
        """Return the finding as a module returns it."""
        return {
            "check": self.check,
            "level": self.level,
            "found": self.found,
            "needed": self.needed,
            "remedy": self.remedy,
        }


@dataclass(frozen=True)
class Declared:
    """An instance as the inventory declares it, as far as the host must know beforehand.

    ``storage`` tells whether files of its users lie on the host's own filesystem.
    """

    name: str
    size: Size
    hostnames: Tuple[str, ...] = ()
    storage: bool = True


@dataclass(frozen=True)
class Wanted:
    """What the inventory wants of the host. Space and memory are in GiB.

    ``problems`` are mistakes in what was declared that keep a check from knowing what is wanted.
    """

    root: str
    instances: Tuple[Declared, ...] = ()
    proxy: bool = False
    proxy_ports: Tuple[int, ...] = (80, 443)
    addresses: FrozenSet[str] = frozenset()
    dns_required: bool = False
    ports: PortRange = _DEFAULT_PORTS
    cpu_factor: float = 8.0
    memory_factor: float = 2.0
    minimum_cpus: int = 2
    minimum_memory: float = 2.0
    image_space: float = 10.0
    data_space: float = 2.0
    problems: Tuple[str, ...] = ()


@dataclass(frozen=True)
class Filesystem:
    """The filesystem that a directory is, or will be, on.

    ``use`` is data (what lies below multibase_root) or docker. ``device`` tells filesystems apart. ``problem`` is why
    a file could not be written and brought to the disk, ``xattrs`` whether it takes extended attributes; both are known
    only where that was tried.
    """

    use: str
    path: str
    mount: str
    kind: str
    options: FrozenSet[str]
    device: int
    total: int
    free: int
    inodes: int
    free_inodes: int
    problem: Optional[str] = None
    xattrs: Optional[bool] = None


@dataclass(frozen=True)
class Listener:
    """A listening TCP socket. ``program`` is empty when its process may not be looked at."""

    address: str
    port: int
    program: str = ""


@dataclass(frozen=True)
class EngineFacts:
    """What a Docker Engine that is there says of itself. ``projects`` are Compose projects, each with its images."""

    version: Tuple[int, ...] = ()
    rootless: bool = False
    data_root: str = "/var/lib/docker"
    images: int = 0
    projects: Mapping[str, Tuple[str, ...]] = field(default_factory=dict)
    published: Mapping[int, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Facts:
    """What was read on a host. None, and an empty text, mean that it could not be read."""

    os_release: Mapping[str, str]
    architecture: str
    pointer_bits: int
    kernel: str
    kernel_config: Optional[Mapping[str, str]]
    kernel_modules: Optional[FrozenSet[str]]
    loaded_modules: FrozenSet[str]
    filesystems_known: FrozenSet[str]
    python: Tuple[int, ...]
    uid: int
    container: str
    systemd: bool
    cgroup_version: int
    cgroup_controllers: FrozenSet[str]
    swap_limit: Optional[bool]
    cpus: int
    memory: int
    filesystems: Tuple[Filesystem, ...]
    clock_synchronized: Optional[bool]
    time_programs: Tuple[str, ...]
    now: float
    reference_time: Optional[float]
    addresses: FrozenSet[str]
    resolved: Mapping[str, Tuple[str, ...]]
    listeners: Tuple[Listener, ...]
    own_proxy: bool
    taken_ports: Optional[Mapping[int, str]]
    reserved_blocks: FrozenSet[int]
    ephemeral: Optional[Tuple[int, int]]
    existing: Optional[Mapping[str, Size]]
    packages: Optional[Mapping[str, str]]
    engine: Optional[EngineFacts]
    engine_programs: Tuple[str, ...]
    rootless_engine: bool
    snap_engine: bool


# A level, what was found, what is needed, what to do about it.
Said = Tuple[str, str, str, str]


def _ok(found: str, needed: str) -> Said:
    return "ok", found, needed, ""


def _warning(found: str, needed: str, remedy: str) -> Said:
    return "warning", found, needed, remedy


def _failure(found: str, needed: str, remedy: str) -> Said:
    return "failure", found, needed, remedy


def version_of(text: str) -> Tuple[int, ...]:
    """Return the numbers that a text begins with: ``(6, 1, 0)`` of ``6.1.0-25-amd64``."""
    found = re.match(r"\d+(?:\.\d+)*", text)
    return tuple(int(part) for part in found.group().split(".")) if found else ()


def _dotted(version: Sequence[int]) -> str:
    return ".".join(str(part) for part in version)


def _gib(count: float) -> str:
    return "{0:.1f} GiB".format(count / GIB)


def _declared(_facts: Facts, wanted: Wanted) -> Iterator[Said]:
    needed = "sizes and ranges that can be read"
    for problem in wanted.problems:
        yield _warning(problem, needed, "correct it in the inventory")
    if not wanted.problems:
        yield _ok("{0} instances".format(len(wanted.instances)), needed)


# --- the machine and its system --------------------------------------------------------------------------------------


def _os(facts: Facts, _wanted: Wanted) -> Iterator[Said]:
    needed = "Debian 12 or later, or Ubuntu 22.04 or later"
    release = facts.os_release
    family, text = release.get("ID", ""), release.get("VERSION_ID", "")
    found = release.get("PRETTY_NAME") or " ".join(part for part in (family, text) if part) or "no /etc/os-release"
    version = version_of(text)
    least = MINIMUM_RELEASES.get(family)
    if least is None:
        near = sorted(set(release.get("ID_LIKE", "").split()) & set(MINIMUM_RELEASES))
        remedy = "use a supported system; packages and their names are those of Debian and Ubuntu"
        yield _failure(found + (" (like {0})".format(", ".join(near)) if near else ""), needed, remedy)
    elif family == "debian" and not version:
        yield _warning(found + ", which has no version (testing or unstable)", needed, "use a release of Debian")
    elif version < least:
        yield _failure(found, needed, "upgrade the system, or use another host")
    elif family == "ubuntu" and (len(version) < 2 or version[0] % 2 or version[1] != 4):
        yield _warning(found + ", no release with long support", needed, "use a release with long support (LTS)")
    else:
        yield _ok(found, needed)


def _architecture(facts: Facts, _wanted: Wanted) -> Iterator[Said]:
    needed = "x86_64 or aarch64, with 64-bit programs"
    if facts.architecture not in ARCHITECTURES:
        yield _failure(facts.architecture, needed, "use another machine: there are no images for this one")
    elif facts.pointer_bits != 64:
        found = "{0}, with {1}-bit programs".format(facts.architecture, facts.pointer_bits)
        yield _failure(found, needed, "install the 64-bit edition of the system")
    else:
        yield _ok(facts.architecture, needed)


def _python(facts: Facts, _wanted: Wanted) -> Iterator[Said]:
    needed = "{0} or later".format(_dotted(MINIMUM_PYTHON))
    found = _dotted(facts.python)
    if tuple(facts.python) < MINIMUM_PYTHON:
        yield _failure(found, needed, "install a newer python3 and name it in ansible_python_interpreter")
    else:
        yield _ok(found, needed)


def _privileges(facts: Facts, _wanted: Wanted) -> Iterator[Said]:
    needed = "root, by become or as the user who connects"
    if facts.uid != 0:
        remedy = "let the user become root (sudo), with --ask-become-pass or ansible_become_password where it asks"
        yield _failure("user id {0}; some checks saw only a part of the host".format(facts.uid), needed, remedy)
    else:
        yield _ok("root", needed)


def _init(facts: Facts, _wanted: Wanted) -> Iterator[Said]:
    needed = "systemd, on a machine or virtual machine of its own"
    if not facts.systemd:
        remedy = "install systemd: without it nothing starts the Engine and the instances after a reboot"
        yield _warning("no systemd runs", needed, remedy)
    elif facts.container:
        remedy = "fine for tests; in production use a machine, or see that the container may run Docker (nesting)"
        yield _warning("systemd in a container ({0})".format(facts.container), needed, remedy)
    else:
        yield _ok("systemd", needed)


def _packages(facts: Facts, _wanted: Wanted) -> Iterator[Said]:
    needed = "no package that is half installed"
    if facts.packages is None:
        yield _ok("not known: there is no database of dpkg to read", needed)
        return
    broken = sorted(name for name, state in facts.packages.items() if state not in ("installed", "triggers-awaited"))
    if broken:
        found = "half installed: {0}".format(_listed(broken))
        yield _failure(found, needed, "run `dpkg --configure -a` and `apt-get --fix-broken install`")
    else:
        yield _ok("{0} packages".format(len(facts.packages)), needed)


def _listed(names: Sequence[str], most: int = 5) -> str:
    more = " and {0} more".format(len(names) - most) if len(names) > most else ""
    return ", ".join(names[:most]) + more


# --- the kernel ------------------------------------------------------------------------------------------------------


def _kernel(facts: Facts, _wanted: Wanted) -> Iterator[Said]:
    needed = "{0} or later".format(_dotted(RECOMMENDED_KERNEL))
    version = version_of(facts.kernel)[:2]
    if version and version < MINIMUM_KERNEL:
        yield _failure(facts.kernel, needed, "install the kernel of the distribution and reboot")
    elif version and version < RECOMMENDED_KERNEL:
        yield _warning(facts.kernel, needed, "install the kernel of the distribution and reboot")
    else:
        yield _ok(facts.kernel, needed)


def _feature_state(facts: Facts, options: Sequence[str]) -> str:
    """Whether one of some options is there: yes, no, unloadable (its module is gone from the disk), or unknown."""
    states = []
    for option in options:
        module = KERNEL_MODULES[option]
        value = None if facts.kernel_config is None else facts.kernel_config.get(option, "n")
        here = module in facts.loaded_modules or (option == "OVERLAY_FS" and "overlay" in facts.filesystems_known)
        if value == "y" or here or module in (facts.kernel_modules or ()):
            states.append("yes")
        elif value == "m":
            # A container has no modules of its own, and nobody can say from inside what the machine loads.
            states.append("unknown" if facts.container else "unloadable")
        else:
            states.append("no" if value == "n" else "unknown")
    return next((state for state in ("yes", "unknown", "unloadable", "no") if state in states), "unknown")


def _kernel_features(facts: Facts, _wanted: Wanted) -> Iterator[Said]:
    needed = ", ".join(name for name, _options in KERNEL_FEATURES)
    if facts.engine is not None:
        yield _ok("a Docker Engine runs on this kernel", needed)
        return
    by_state: Dict[str, List[str]] = {}
    for name, options in KERNEL_FEATURES:
        by_state.setdefault(_feature_state(facts, options), []).append(name)
    if by_state.get("no"):
        found = "not in this kernel: {0}".format(", ".join(by_state["no"]))
        yield _failure(found, needed, "boot the kernel of the distribution, or one built with these options")
    if by_state.get("unloadable"):
        found = "modules of the running kernel {0} are not on the disk: {1}".format(
            facts.kernel, ", ".join(by_state["unloadable"])
        )
        yield _failure(found, needed, "reboot into the installed kernel (one was installed since the last boot)")
    if by_state.get("unknown"):
        yield _ok("not known (no configuration of this kernel): {0}".format(", ".join(by_state["unknown"])), needed)
    elif not by_state.get("no") and not by_state.get("unloadable"):
        yield _ok("all there", needed)


def _cgroups(facts: Facts, _wanted: Wanted) -> Iterator[Said]:
    needed = "version 2 with the controllers cpu, memory and pids, and a limit of swap"
    have = facts.cgroup_controllers
    if facts.cgroup_version == 0:
        yield _failure("no control groups are mounted", needed, "boot with systemd, or mount them (cgroupfs-mount)")
        return
    found = "version {0}: {1}".format(facts.cgroup_version, ", ".join(sorted(have)) or "no controllers")
    fatal = [name for name in ("cpu", *(["devices"] if facts.cgroup_version == 1 else [])) if name not in have]
    if fatal:
        remedy = "enable the controller {0} in the kernel: Docker refuses containers without it".format(
            " and ".join(fatal)
        )
        yield _failure(found, needed, remedy)
        return
    lacking = [name for name in ("memory", "pids") if name not in have]
    if lacking:
        remedy = (
            "boot with {0}: until then Docker drops the limits of instances, and one can take all of a host".format(
                " ".join("cgroup_enable=" + name for name in lacking)
            )
        )
        yield _warning(found, needed, remedy)
    elif facts.cgroup_version == 1:
        remedy = "boot with systemd.unified_cgroup_hierarchy=1: new releases of systemd and Docker give version 1 up"
        yield _warning(found, needed, remedy)
    elif facts.swap_limit is False:
        remedy = "boot with swapaccount=1: until then a limit of memory does not count what was swapped"
        yield _warning(found + ", no limit of swap", needed, remedy)
    else:
        yield _ok(found, needed)


# --- processors, memory, space ---------------------------------------------------------------------------------------


def _demands(facts: Facts, wanted: Wanted) -> Tuple[List[Demand], List[Demand]]:
    """Return what the host bears now, and what it is to bear: what is declared, and what it has besides."""
    before = dict(facts.existing or {})
    after = {**before, **{instance.name: instance.size for instance in wanted.instances}}
    return sorted(before.items()), sorted(after.items())


def _new(facts: Facts, wanted: Wanted) -> List[Declared]:
    return [instance for instance in wanted.instances if instance.name not in (facts.existing or {})]


def _cpus(facts: Facts, wanted: Wanted) -> Iterator[Said]:
    before, after = _demands(facts, wanted)
    promised = sum(size.cpus for _name, size in after)
    needed = "{0} or more".format(wanted.minimum_cpus)
    if wanted.cpu_factor:
        needed += ", and instances of at most {0:g} times as many".format(wanted.cpu_factor)
    found = "{0}, promised to {1} instances: {2:g}".format(facts.cpus, len(after), promised)
    if overcommitment(before, after, Capacity(facts.cpus, 1, wanted.cpu_factor, 0)):
        remedy = "make instances smaller, place some elsewhere, or raise multibase_overcommit_cpus"
        # Whether there are instances already is not known to everybody, and those are not refused.
        yield (_warning if facts.existing is None else _failure)(found, needed, remedy)
    elif facts.cpus < wanted.minimum_cpus:
        yield _warning(found, needed, "give the host more processors; starting an instance keeps two busy")
    else:
        yield _ok(found, needed)


def _memory(facts: Facts, wanted: Wanted) -> Iterator[Said]:
    before, after = _demands(facts, wanted)
    promised = sum(size.memory for _name, size in after)
    has = facts.memory / 1024.0
    needed = "{0:g} GiB or more".format(wanted.minimum_memory)
    if wanted.memory_factor:
        needed += ", and instances of at most {0:g} times as much".format(wanted.memory_factor)
    found = "{0:.1f} GiB, promised to {1} instances: {2:.1f} GiB".format(has, len(after), promised / 1024.0)
    if overcommitment(before, after, Capacity(1, facts.memory, 0, wanted.memory_factor)):
        remedy = "make instances smaller, place some elsewhere, or raise multibase_overcommit_memory"
        yield (_warning if facts.existing is None else _failure)(found, needed, remedy)
    # A machine of 2 GiB has a little less, because the kernel keeps some.
    elif has < wanted.minimum_memory * 0.9:
        yield _warning(found, needed, "give the host more memory")
    elif promised > facts.memory:
        remedy = "instances cannot all use what they may; watch the host, add memory or swap"
        yield _warning(found, needed + ", better no more than there is", remedy)
    else:
        yield _ok(found, needed)


def space_needed(facts: Facts, wanted: Wanted) -> Dict[str, Tuple[float, float]]:
    """Return by use what should be free, and what must be, in bytes.

    Instances that are there already have what they need; for each new one the data grows with its size, and Docker
    needs room for logs and layers. Without a single image the first pull comes on top.
    """
    new = _new(facts, wanted)
    no_images = facts.engine is None or facts.engine.images == 0
    memory = sum(instance.size.memory for instance in new) / 1024.0
    return {
        "data": ((1.0 + wanted.data_space * memory) * GIB, (0.25 + 0.5 * len(new)) * GIB),
        "docker": (
            ((wanted.image_space if no_images else 1.0) + 0.5 * len(new)) * GIB,
            (2.0 if no_images else 0.25) * GIB,
        ),
    }


def _by_device(facts: Facts) -> Iterator[Tuple[Filesystem, List[Filesystem]]]:
    """Yield each filesystem once, with all uses that it has."""
    seen: Dict[int, List[Filesystem]] = {}
    for filesystem in facts.filesystems:
        seen.setdefault(filesystem.device, []).append(filesystem)
    for uses in seen.values():
        yield uses[0], uses


def _paths(uses: Sequence[Filesystem]) -> str:
    return " and ".join(use.path for use in uses)


def _space(facts: Facts, wanted: Wanted) -> Iterator[Said]:
    wants = space_needed(facts, wanted)
    for filesystem, uses in _by_device(facts):
        should, must = (sum(wants[use.use][index] for use in uses) for index in (0, 1))
        found = "{0} free of {1} for {2}".format(_gib(filesystem.free), _gib(filesystem.total), _paths(uses))
        needed = "{0} free, for {1} new instances".format(_gib(should), len(_new(facts, wanted)))
        remedy = "free or add space on {0}, or put it elsewhere with {1}".format(
            filesystem.mount, " or ".join(_VARIABLE_OF_USE[use.use] for use in uses)
        )
        if filesystem.free < must:
            yield _failure(found, needed + ", {0} at least".format(_gib(must)), remedy)
        elif filesystem.free < should:
            yield _warning(found, needed, remedy)
        else:
            yield _ok(found, needed)


_VARIABLE_OF_USE = {"data": "multibase_root", "docker": "data-root in multibase_docker_daemon_options"}
# Files of all images of a stack, those of an instance, and the fewest with which a host does anything at all.
_IMAGE_INODES, _INSTANCE_INODES, _LEAST_INODES = 250000, 20000, 10000


def _inodes(facts: Facts, wanted: Wanted) -> Iterator[Said]:
    new = len(_new(facts, wanted))
    for filesystem, uses in _by_device(facts):
        # btrfs and others make them as they need them, and tell no number.
        if not filesystem.inodes:
            yield _ok("made as needed, for {0}".format(_paths(uses)), "enough inodes")
            continue
        should = _LEAST_INODES + sum(
            new * _INSTANCE_INODES
            if use.use == "data"
            else (_IMAGE_INODES if facts.engine is None or not facts.engine.images else 0)
            for use in uses
        )
        found = "{0:,} inodes free for {1}".format(filesystem.free_inodes, _paths(uses))
        needed = "{0:,} free".format(should)
        remedy = "remove small files on {0}, or make its filesystem anew with more inodes".format(filesystem.mount)
        if filesystem.free_inodes < _LEAST_INODES:
            yield _failure(found, needed, remedy)
        elif filesystem.free_inodes < should:
            yield _warning(found, needed, remedy)
        else:
            yield _ok(found, needed)


def _root_directory(_facts: Facts, wanted: Wanted) -> Iterator[Said]:
    needed = "an absolute path of its own, not / and no directory of the system"
    parts = [part for part in wanted.root.split("/") if part]
    lonely = len(parts) == 1 and parts[0] in _SYSTEM_DIRECTORIES
    if not wanted.root.startswith("/") or not parts or ".." in parts or lonely or parts[0] in ("proc", "sys", "dev"):
        yield _failure(wanted.root or "nothing", needed, "set multibase_root to a directory such as /opt/multibase")
    elif parts[0] in ("tmp", "run") or parts[:2] == ["var", "tmp"]:
        yield _warning(wanted.root, needed, "choose another multibase_root: this one is emptied at boot or by age")
    else:
        yield _ok(wanted.root, needed)


_SYSTEM_DIRECTORIES = frozenset(
    (
        "bin", "boot", "etc", "home", "lib", "lib64", "lost+found", "media", "mnt",
        "opt", "root", "run", "sbin", "srv", "tmp", "usr", "var",
    )
)  # fmt: skip


def _filesystem(facts: Facts, wanted: Wanted) -> Iterator[Said]:
    for filesystem in facts.filesystems:
        problems = list(_filesystem_problems(filesystem, wanted))
        yield from problems
        if not problems:
            yield _ok("{0} for {1}".format(filesystem.kind, filesystem.path), _FILESYSTEM_NEEDED)


_FILESYSTEM_NEEDED = "a local filesystem (ext4, xfs, btrfs) that is writable and runs programs"


def _filesystem_problems(filesystem: Filesystem, wanted: Wanted) -> Iterator[Said]:
    needed = _FILESYSTEM_NEEDED
    kind = filesystem.kind
    found = "{0} on {1} for {2}".format(kind, filesystem.mount, filesystem.path)
    elsewhere = "put it on a local disk with {0}".format(_VARIABLE_OF_USE[filesystem.use])
    docker = filesystem.use == "docker"
    if "ro" in filesystem.options:
        yield _failure(found + ", mounted read-only", needed, "mount {0} for writing".format(filesystem.mount))
        return
    if "noexec" in filesystem.options:
        what = "containers" if docker else "the host's own tool and so the scheduled backups"
        remedy = "mount {0} without noexec: {1} would not run".format(filesystem.mount, what)
        yield _failure(found + ", mounted noexec", needed, remedy)
    if "nosuid" in filesystem.options and docker:
        remedy = "mount {0} without nosuid: programs in images may need it".format(filesystem.mount)
        yield _warning(found + ", mounted nosuid", needed, remedy)
    if kind in FOREIGN_FILESYSTEMS:
        yield _failure(found, needed, elsewhere + ": it keeps no owners and modes")
    elif kind in NETWORK_FILESYSTEMS and docker:
        yield _failure(found, needed, elsewhere + ": the storage driver overlay2 does not work on it")
    elif kind in NETWORK_FILESYSTEMS or kind.startswith("fuse"):
        yield _warning(found, needed, elsewhere + ": a database wants a disk that keeps what was written")
    elif kind in ("overlay", "aufs"):
        why = "Docker falls back to copying whole images" if docker else "it goes with the container that it belongs to"
        yield _warning(found, needed, "{0}: {1}".format(elsewhere, why))
    elif kind in ("tmpfs", "ramfs"):
        yield _warning(found, needed, elsewhere + ": everything in memory is gone after a reboot")
    if docker:
        return
    if filesystem.problem:
        found_it = "{0}: writing a file and bringing it to the disk failed ({1})".format(found, filesystem.problem)
        yield _failure(found_it, needed, "repair or replace {0}".format(filesystem.mount))
    elif filesystem.xattrs is False:
        keeps = [instance.name for instance in wanted.instances if instance.storage]
        remedy = elsewhere + ": Storage keeps the type of each file in them, and uploads would fail"
        said = _failure if keeps else _warning
        yield said(found + ", without extended attributes", needed + ", with extended attributes", remedy)


# --- time and names --------------------------------------------------------------------------------------------------


def _time(facts: Facts, _wanted: Wanted) -> Iterator[Said]:
    needed = "a clock that a time service keeps right"
    if facts.now < EARLIEST_TIME:
        remedy = "set the clock (`timedatectl set-ntp true`): no certificate and no token is valid at that time"
        yield _failure("the clock is years behind", needed, remedy)
        return
    skew = 0.0 if facts.reference_time is None else facts.now - facts.reference_time
    if abs(skew) > TOLERATED_SKEW:
        found = "the clock is {0:.0f} s {1} the controller's".format(abs(skew), "before" if skew > 0 else "behind")
        yield _warning(found, needed, "find out which of the two is wrong; install systemd-timesyncd or chrony there")
        return
    programs = ", ".join(sorted(TIME_PROGRAMS[name] for name in facts.time_programs if name in TIME_PROGRAMS))
    if facts.clock_synchronized:
        yield _ok("synchronised" + (" by " + programs if programs else ""), needed)
    elif programs:
        remedy = "let its servers be reached (UDP port 123), or name others; `timedatectl timesync-status` tells more"
        yield _warning("{0} runs, but the clock is not synchronised".format(programs), needed, remedy)
    elif facts.container:
        remedy = "see that the machine of this container has a time service; the clock is that machine's"
        yield _warning("no time service, in a container", needed, remedy)
    else:
        yield _warning("no time service runs", needed, "apt-get install systemd-timesyncd (or chrony)")


def _is_loopback(address: str) -> bool:
    return ipaddress.ip_address(address.partition("%")[0]).is_loopback


def _dns(facts: Facts, wanted: Wanted) -> Iterator[Said]:
    needed = "every declared domain leads to an address of this host, or to one of multibase_preflight_addresses"
    domains = sorted({name for instance in wanted.instances for name in instance.hostnames})
    if not domains:
        yield _ok("no domains are declared", needed)
        return
    bad = _failure if wanted.dns_required else _warning
    ours = facts.addresses | wanted.addresses
    right = []
    for domain in domains:
        addresses = facts.resolved.get(domain, ())
        shown = "{0} -> {1}".format(domain, ", ".join(addresses) or "nothing")
        if not addresses:
            remedy = "add an A (or AAAA) record for it; a new record takes as long as the old answer was valid"
            yield bad(shown, needed, remedy)
        elif all(_is_loopback(address) for address in addresses):
            remedy = "remove it from /etc/hosts: this host finds itself there, and nobody else does"
            yield _warning(shown, needed, remedy)
        elif not set(addresses) & ours:
            remedy = (
                "change the record; or, behind a load balancer or address translation, name its addresses (or its own "
                "name) in multibase_preflight_addresses"
            )
            yield bad(shown, needed, remedy)
        elif not set(addresses) <= ours:
            strange = ", ".join(address for address in addresses if address not in ours)
            remedy = "remove the record of {0}, or add it to multibase_preflight_addresses".format(strange)
            yield _warning(shown, needed, remedy)
        else:
            right.append(domain)
    if right:
        yield _ok("{0} right: {1}".format(len(right), _listed(right)), needed)


# --- ports -----------------------------------------------------------------------------------------------------------


def _ports(facts: Facts, wanted: Wanted) -> Iterator[Said]:
    numbers = " and ".join(str(port) for port in wanted.proxy_ports)
    needed = "ports {0} free, or used by our nginx".format(numbers)
    if not wanted.proxy:
        yield _ok("not needed: multibase_proxy_enabled is false", needed)
        return
    strange = False
    for port in wanted.proxy_ports:
        here = [listener for listener in facts.listeners if listener.port == port]
        programs = sorted({listener.program for listener in here if listener.program not in ("", "nginx")})
        published = facts.engine.published.get(port) if facts.engine else None
        if published and (not programs or programs == ["docker-proxy"]):
            strange = True
            yield _failure("port {0}: {1}".format(port, published), needed, "stop it, or publish it on another port")
        elif programs:
            strange = True
            remedy = "stop and disable it, or set multibase_proxy_http_port and multibase_proxy_https_port"
            yield _failure("port {0}: {1}".format(port, ", ".join(programs)), needed, remedy)
        elif any(not listener.program for listener in here):
            strange = True
            found = "port {0}: a process of somebody else".format(port)
            yield _warning(found, needed, "run the check as root to see which")
        elif here and not facts.own_proxy:
            strange = True
            remedy = "its sites stay; check that none of them is the default server or has a domain of an instance"
            yield _warning("port {0}: an nginx that Multibase did not set up".format(port), needed, remedy)
    if not strange:
        yield _ok("both ours or free" if len(wanted.proxy_ports) == 2 else "ours or free", needed)


def free_blocks(allowed: PortRange, taken: AbstractSet[int], reserved: AbstractSet[int]) -> int:
    """Return how many blocks of a range could be given to instances."""
    busy = {port - port % BLOCK_SIZE for port in taken} | set(reserved)
    return sum(1 for base in allowed.bases() if base not in busy)


def _port_range(facts: Facts, wanted: Wanted) -> Iterator[Said]:
    new = _new(facts, wanted)
    needed = "{0} free blocks of {1} ports in {2}".format(len(new), BLOCK_SIZE, wanted.ports)
    if facts.taken_ports is None:
        yield _ok("not known without root", needed)
        return
    blocks = set(wanted.ports.bases())
    own = {port for base in facts.reserved_blocks for port in block_of(base)}
    strange = {
        port: who for port, who in facts.taken_ports.items() if port not in own and port - port % BLOCK_SIZE in blocks
    }
    free = free_blocks(wanted.ports, set(strange), facts.reserved_blocks)
    found = "{0} of {1} free".format(free, len(blocks))
    if strange:
        found += "; in use by others: " + _listed(
            ["{0} ({1})".format(port, who) for port, who in sorted(strange.items())], 3
        )
    if free < len(new):
        remedy = "widen multibase_port_range, or move what uses its ports"
        yield _failure(found, needed, remedy)
    elif facts.ephemeral and facts.ephemeral[0] <= wanted.ports.high and wanted.ports.low <= facts.ephemeral[1]:
        found += "; outgoing connections take ports {0}-{1}".format(*facts.ephemeral)
        remedy = "change multibase_port_range or the sysctl net.ipv4.ip_local_port_range so that they do not overlap"
        yield _warning(found, needed, remedy)
    else:
        yield _ok(found, needed)


# --- what is there already -------------------------------------------------------------------------------------------


_ENGINE_PACKAGES = frozenset(("docker.io", "docker-ce", "moby-engine"))


def _docker(facts: Facts, _wanted: Wanted) -> Iterator[Said]:
    needed = "none, or one Engine of {0} or later, run by root".format(_dotted(MINIMUM_ENGINE))
    packages = facts.packages or {}
    problems: List[Said] = []
    if facts.snap_engine:
        remedy = "`snap remove docker` (after saving what is in it): it cannot see directories such as multibase_root"
        problems.append(_failure("Docker as a snap", needed, remedy))
    if "podman-docker" in packages:
        remedy = "`apt-get remove podman-docker`: its command docker is Podman, which is no Docker Engine"
        problems.append(_failure("podman-docker", needed, remedy))
    if "docker.io" in packages and "docker-ce" in packages:
        remedy = "remove one of the two packages; `apt-get remove` keeps containers and images"
        problems.append(_failure("docker.io and docker-ce, both installed", needed, remedy))
    elif len(facts.engine_programs) > 1:
        remedy = "keep one of them: which one starts depends on the order of directories"
        problems.append(_failure("more than one: {0}".format(", ".join(facts.engine_programs)), needed, remedy))
    elif facts.engine_programs and facts.packages is not None and not _ENGINE_PACKAGES & set(packages):
        remedy = "keep it up to date by hand, or replace it by docker.io or docker-ce: apt does not know it"
        problems.append(_warning("{0}, of no package".format(facts.engine_programs[0]), needed, remedy))
    if facts.engine is not None and facts.engine.rootless:
        remedy = "unset DOCKER_HOST for root and start the ordinary service: instances need the Engine that root runs"
        problems.append(_failure("a rootless Engine at the socket of the system", needed, remedy))
    elif facts.rootless_engine:
        remedy = "nothing has to be done: it goes on beside ours, and its ports and memory are not counted here"
        problems.append(_warning("a rootless Engine of another user", needed, remedy))
    if facts.engine is not None and facts.engine.version and facts.engine.version < MINIMUM_ENGINE:
        found = "Engine {0}".format(_dotted(facts.engine.version))
        problems.append(_failure(found, needed, "upgrade it; docs/docker.md says from where"))
    yield from problems
    if not problems and facts.engine is not None:
        yield _ok("Engine {0}".format(_dotted(facts.engine.version)), needed)
    elif not problems and facts.engine_programs:
        yield _ok("{0}, not asked (it does not run, or wants root)".format(facts.engine_programs[0]), needed)
    elif not problems:
        yield _ok("none; site installs it", needed)


def _supabase(facts: Facts, _wanted: Wanted) -> Iterator[Said]:
    needed = "no other Supabase on the host"
    found = [
        name
        for name, images in sorted((facts.engine.projects if facts.engine else {}).items())
        if not name.startswith("multibase-") and any(re.search(r"(^|/)supabase/", image) for image in images)
    ]
    if found:
        remedy = "nothing of it is touched; it needs memory and space besides what is counted here"
        yield _warning("Compose projects {0}".format(_listed(found)), needed, remedy)
    else:
        yield _ok("none" if facts.engine else "not known: no Engine was asked", needed)


# --- all together ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Check:
    """One check, and its row in docs/preflight.md. ``warning`` and ``failure`` say when it is one; empty: never."""

    name: str
    needed: str
    warning: str
    failure: str
    remedy: str
    function: Callable[[Facts, Wanted], Iterator[Said]]


CHECKS: Tuple[Check, ...] = (
    Check(
        "declared", "sizes of instances and `multibase_port_range` that can be read",
        "one that cannot; a run refuses it, with all other mistakes", "", "Correct the inventory.", _declared,
    ),
    Check(
        "os", "Debian 12 or later, Ubuntu 22.04 or later", "testing or unstable; an Ubuntu without long support",
        "another or an older system", "Upgrade, or use another host.", _os,
    ),
    Check(
        "architecture", "x86_64 or aarch64, 64-bit programs", "", "anything else",
        "There are no images for other machines.", _architecture,
    ),
    Check(
        "python", "Python 3.9 or later", "", "older",
        "Install a newer one and name it in `ansible_python_interpreter`.", _python,
    ),
    Check("privileges", "root, by become or directly", "", "no root", "Let the user become root.", _privileges),
    Check(
        "init", "systemd, on a machine of its own", "no systemd; in a container", "",
        "Use a machine or a virtual machine for production.", _init,
    ),
    Check(
        "packages", "no package half installed", "", "packages that dpkg did not finish",
        "`dpkg --configure -a`, `apt-get --fix-broken install`.", _packages,
    ),
    Check(
        "kernel", "Linux 5.10 or later", "older than 5.10", "older than 4.0",
        "Install the kernel of the distribution, reboot.", _kernel,
    ),
    Check(
        "kernel_features", "overlay, bridge, bridge netfilter, veth, NAT, nf_tables or iptables", "",
        "not in the kernel's configuration; a module that is gone from the disk",
        "Boot the kernel of the distribution; reboot after a kernel upgrade. What cannot be read counts as there.",
        _kernel_features,
    ),
    Check(
        "cgroups", "version 2, controllers cpu, memory, pids, limit of swap",
        "version 1; memory or pids missing; swap not limited", "none mounted; no cpu (version 1: no devices)",
        "Boot with `systemd.unified_cgroup_hierarchy=1`, `cgroup_enable=memory`, `swapaccount=1`.", _cgroups,
    ),
    Check(
        "cpus", "`multibase_preflight_minimum_cpus` (2)", "fewer",
        "more promised to instances than `multibase_overcommit_cpus` allows",
        "Smaller or fewer instances, more processors.", _cpus,
    ),
    Check(
        "memory", "`multibase_preflight_minimum_memory` (2 GiB)", "less; more promised to instances than there is",
        "more promised than `multibase_overcommit_memory` allows", "Smaller or fewer instances, more memory.", _memory,
    ),
    Check(
        "space",
        "data: 1 GiB and, for each new instance, `multibase_preflight_data_space` (2) times the memory of its size; "
        "Docker: `multibase_preflight_image_space` (10 GiB) before the first image, then 1 GiB, and 0.5 GiB for each "
        "new instance; both, where one filesystem serves both", "less free",
        "data: less than 0.25 GiB and 0.5 GiB for each new instance; Docker: less than 2 GiB before the first image, "
        "then 0.25 GiB", "Free or add space, or move `multibase_root` or Docker's `data-root`.", _space,
    ),
    Check(
        "inodes", "10,000; Docker 250,000 before the first image; 20,000 for each new instance", "fewer free",
        "fewer than 10,000 free", "Remove small files, or make the filesystem with more inodes.", _inodes,
    ),
    Check(
        "root_directory", "`multibase_root`: an absolute path of its own", "below /tmp, /run or /var/tmp",
        "relative, /, or a directory of the system", "Choose a path such as `/opt/multibase`.", _root_directory,
    ),
    Check(
        "filesystem", "local, writable, runs programs, takes extended attributes (data)",
        "network or FUSE (data), overlay, tmpfs, nosuid (Docker)",
        "read-only, noexec, FAT and the like, network (Docker), no extended attributes where an instance has Storage, "
        "a file that cannot be written and synced", "Use ext4, xfs or btrfs on a local disk.", _filesystem,
    ),
    Check(
        "time", "systemd-timesyncd, chrony or ntp keeps the clock",
        "not synchronised; 30 s off the controller's; in a container without a time service", "a clock before 2025",
        "`apt-get install systemd-timesyncd`; open UDP port 123 outward.", _time,
    ),
    Check(
        "dns", "every `domain` and host of a `public_url` leads here",
        "it leads nowhere or elsewhere; to the loopback address; to more than here",
        "nowhere or elsewhere, with `multibase_preflight_dns_required`",
        "Change the record, or name a load balancer in `multibase_preflight_addresses`.", _dns,
    ),
    Check(
        "ports", "80 and 443 free or our nginx's, with `multibase_proxy_enabled`",
        "an nginx that is not ours; a process that only root sees", "another program, a published container",
        "Stop it, or choose other ports for the proxy.", _ports,
    ),
    Check(
        "port_range", "a free block of ten ports for each new instance in `multibase_port_range`",
        "the range overlaps that of outgoing connections", "too few free blocks",
        "Widen the range, or move what uses its ports.", _port_range,
    ),
    Check(
        "docker", "no Engine, or one of 20.10 or later that root runs",
        "of no package; a rootless one of another user",
        "a snap, podman-docker, docker.io and docker-ce together, two Engines, rootless at the system's socket, older",
        "Remove all but one; see [docker](docker.md).", _docker,
    ),
    Check(
        "supabase", "no other Supabase on the host", "Compose projects with its images", "",
        "Nothing of it is touched; count its memory and space in.", _supabase,
    ),
)  # fmt: skip
NAMES = tuple(check.name for check in CHECKS)


def examine(facts: Facts, wanted: Wanted, skip: AbstractSet[str] = frozenset()) -> List[Finding]:
    """Run all checks but those in ``skip`` and return what they found, in the order of ``CHECKS``."""
    return [
        Finding(check.name, *said)
        for check in CHECKS
        if check.name not in skip
        for said in check.function(facts, wanted)
    ]


def hostnames_of(domain: Any, public_url: Any) -> Tuple[str, ...]:
    """Return the names under which clients reach an instance; addresses and names of the loopback are none."""
    found = []
    for text in (domain, re.sub(r"^[a-z][a-z0-9+.-]*://", "", str(public_url or ""), flags=re.IGNORECASE)):
        name = re.split(r"[/?#]", str(text or ""))[0].rpartition("@")[2]
        # Without the port, if there is one: the colons of an IPv6 address are more than one.
        name = re.sub(r"^(\[.*\]|[^:]*):\d+$", r"\1", name).strip("[]").rstrip(".").lower()
        try:
            ipaddress.ip_address(name)
        except ValueError:
            if name and name != "localhost" and not name.endswith(".localhost") and name not in found:
                found.append(name)
    return tuple(found)


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


def wanted_from(
    params: Mapping[str, Any], root: str, resolve: Callable[[Sequence[str]], Mapping[str, Tuple[str, ...]]]
) -> Wanted:
    """Return what the options of the module preflight want; ``resolve`` finds the addresses of names.

    A mistake does not keep the rest from being checked: an instance whose size cannot be read counts as small.
    """
    problems: List[str] = []
    instances = []
    for given in params["instances"]:
        size = SIZES["small"]
        try:
            size = parse_size(given["size"])
        except MultibaseError as error:
            problems.append("instance {0}: {1}".format(given["name"], error))
        hostnames = hostnames_of(given["domain"], given["public_url"])
        instances.append(Declared(given["name"], size, hostnames, given["storage"]))
    ports = _DEFAULT_PORTS
    try:
        ports = parse_port_range(params["port_range"])
    except MultibaseError as error:
        problems.append(str(error))
    # 2001:DB8:0::1 and 2001:db8::1 are one address.
    addresses = {str(ipaddress.ip_address(text)) for text in params["addresses"] if _is_address(text)}
    names = [text for text in params["addresses"] if not _is_address(text)]
    addresses.update(address for found in (resolve(names) if names else {}).values() for address in found)
    return Wanted(
        root=root,
        instances=tuple(instances),
        proxy=params["proxy"],
        proxy_ports=tuple(params["proxy_ports"]),
        addresses=frozenset(addresses),
        dns_required=params["dns_required"],
        ports=ports,
        cpu_factor=params["overcommit_cpus"],
        memory_factor=params["overcommit_memory"],
        minimum_cpus=params["minimum_cpus"],
        minimum_memory=params["minimum_memory"],
        image_space=params["image_space"],
        data_space=params["data_space"],
        problems=tuple(problems),
    )
