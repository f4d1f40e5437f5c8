# SPDX-License-Identifier: GPL-3.0-or-later
"""Checks of running containers in the manner of docker-bench-security, by the CIS Docker Benchmark 1.6.

What a container is comes from outside it and not from the tool that made it: from `docker inspect`, `docker top` and
`docker diff`, and from what the kernel says of its processes below /proc of the host. ``collect`` reads all of that,
``judge`` compares it, ``table`` tells the result. A finding is accepted only where ``ACCEPTED`` names its check, its
words and its service together with the reason; any other one is a failure.

Numbers are those of sections 4 and 5 of the benchmark; M.1 and so on are checks of our own. Left out are those that
speak of images alone (4.2 to 4.5 and 4.7 to 4.12: they are upstream's), of swarm (5.1), and of how people use
`docker exec` (5.23, 5.24).
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any, Callable, Dict, FrozenSet, Iterable, List, Mapping, NamedTuple, Sequence, Tuple

LABEL = "io.multibase.instance"
# Bit numbers of linux/capability.h, of those that an engine gives by default.
CAPABILITY_BITS = {
    "CHOWN": 0, "DAC_OVERRIDE": 1, "FOWNER": 3, "FSETID": 4, "KILL": 5, "SETGID": 6, "SETUID": 7, "SETPCAP": 8,
    "NET_BIND_SERVICE": 10, "NET_RAW": 13, "SYS_CHROOT": 18, "MKNOD": 27, "AUDIT_WRITE": 29, "SETFCAP": 31,
}  # fmt: skip
# What a container may have at most; those not named have nothing at all.
USUAL = frozenset(CAPABILITY_BITS) - {"NET_RAW", "MKNOD"}
CAPABILITIES: Dict[str, FrozenSet[str]] = {
    name: USUAL
    for name in (
        "analytics", "api-gw", "db", "functions", "meta", "realtime", "storage", "studio", "supavisor", "vector",
    )
}  # fmt: skip
# Ports inside that a service may publish.
PUBLISHED: Dict[str, FrozenSet[int]] = {
    "analytics": frozenset({4000}), "api-gw": frozenset({8000, 8443}), "db": frozenset({5432}),
    "pgbouncer": frozenset({6432}), "studio": frozenset({3000}), "supavisor": frozenset({5432, 6543}),
}  # fmt: skip
# Directories of the instance, below volumes/, that a service may write to.
WRITABLE: Dict[str, FrozenSet[str]] = {
    "db": frozenset({"db/data"}), "functions": frozenset({"functions"}), "storage": frozenset({"storage"}),
    "studio": frozenset({"snippets"}),
}  # fmt: skip
PROCESS = r"""
tell() {
  echo "process $id $1 $([ "$1" = "$main" ] && echo main || echo other)"
  sed -n 's/^\(Uid\|CapEff\|CapPrm\|CapBnd\|NoNewPrivs\|Seccomp\):[[:space:]]*/\1 /p' /proc/$1/status
  echo "args $(tr '\0\n' '  ' < /proc/$1/cmdline)"
  for kind in ipc mnt net pid user uts; do echo "ns $(readlink /proc/$1/ns/$kind)"; done
  echo "shared $(grep -c ' shared:' /proc/$1/mountinfo)"
  echo "cgroup $(grep -m1 -E '^([0-9]+:.*memory.*|0:):' /proc/$1/cgroup)"
}
for pair; do
  id=${pair%:*} main=${pair#*:}
  for pid in $(docker top "$id" -eo pid | tail -n +2); do
    # Of one that ended meanwhile, such as a health check, half would be missing.
    told=$(tell "$pid" 2>/dev/null)
    if [ -d "/proc/$pid" ]; then echo "$told"; fi
  done
  docker diff "$id" | sed "s/^/diff $id /"
done
for kind in cgroup ipc mnt net pid user uts; do echo "host $(readlink /proc/1/ns/$kind)"; done
echo "apparmor $(cat /sys/module/apparmor/parameters/enabled 2>/dev/null)"
"""


class Process(NamedTuple):
    """A process of a container, as the host's kernel tells of it."""

    pid: int
    main: bool
    users: FrozenSet[int]
    capabilities: int
    bounding: int
    no_new_privileges: bool
    seccomp: int
    arguments: str
    namespaces: FrozenSet[str]
    shared_mounts: int
    cgroup: str


@dataclass
class Container:
    """A container of an instance and what was found out about it."""

    inspected: Mapping[str, Any]
    processes: List[Process] = field(default_factory=list)
    # What `docker diff` lists: A, C or D and a path.
    changes: List[str] = field(default_factory=list)
    # Namespaces of the host itself.
    host: FrozenSet[str] = frozenset()
    apparmor: bool = False
    # Secrets of its instance: texts that must not be seen.
    secrets: FrozenSet[str] = frozenset()

    @property
    def settings(self) -> Mapping[str, Any]:
        return dict(self.inspected["HostConfig"])

    @property
    def config(self) -> Mapping[str, Any]:
        return dict(self.inspected["Config"])

    @property
    def labels(self) -> Mapping[str, str]:
        return dict(self.config["Labels"])

    @property
    def service(self) -> str:
        return self.labels["com.docker.compose.service"]

    @property
    def instance(self) -> str:
        return self.labels[LABEL]

    @property
    def directory(self) -> str:
        return self.labels["com.docker.compose.project.working_dir"]

    @property
    def options(self) -> List[str]:
        return list(self.settings.get("SecurityOpt") or [])

    def bound(self) -> Dict[str, bool]:
        """Mounted directories of the host and volumes that are one -> whether they can be written."""
        return {
            mount["Source"]: mount["RW"] for mount in self.inspected["Mounts"] if mount["Type"] in ("bind", "volume")
        }


def parse(inspected: str, told: str, secrets: Mapping[str, Iterable[str]]) -> List[Container]:
    """Make containers of what `docker inspect` and the script PROCESS print. ``secrets``: instance -> its secrets."""
    found = {one["Id"]: Container(one) for one in json.loads(inspected)}
    host: List[str] = []
    mandatory = False
    values: Dict[str, Any] = {}
    current = ""

    def done() -> None:
        if current and values:
            found[current].processes.append(Process(**values))

    for line in told.splitlines():
        kind, _, rest = line.partition(" ")
        if kind == "process":
            done()
            current, pid, which = rest.split()
            values = {
                "pid": int(pid), "main": which == "main", "users": frozenset(), "capabilities": 0, "bounding": 0,
                "no_new_privileges": False, "seccomp": 0, "arguments": "", "namespaces": frozenset(),
                "shared_mounts": 0, "cgroup": "",
            }  # fmt: skip
        elif kind == "Uid":
            values["users"] = frozenset(int(number) for number in rest.split())
        elif kind in ("CapEff", "CapPrm"):
            values["capabilities"] |= int(rest, 16)
        elif kind == "CapBnd":
            values["bounding"] = int(rest, 16)
        elif kind == "NoNewPrivs":
            values["no_new_privileges"] = rest == "1"
        elif kind == "Seccomp":
            values["seccomp"] = int(rest)
        elif kind == "args":
            values["arguments"] = rest
        elif kind == "ns":
            values["namespaces"] |= {rest}
        elif kind == "shared":
            values["shared_mounts"] = int(rest)
        elif kind == "cgroup":
            values["cgroup"] = rest
        elif kind == "diff":
            identity, _, change = rest.partition(" ")
            found[identity].changes.append(change)
        elif kind == "host":
            host.append(rest)
        elif kind == "apparmor":
            mandatory = rest == "Y"
    done()
    for container in found.values():
        container.host = frozenset(host)
        container.apparmor = mandatory
        container.secrets = frozenset(secrets.get(container.instance, ()))
    return sorted(found.values(), key=lambda one: (one.instance, one.service))


def collect(run: Callable[..., str], secrets: Mapping[str, Iterable[str]]) -> List[Container]:
    """Read all running containers of instances. ``run`` runs a command on the host and returns what it prints."""
    ids = run("docker", "ps", "--quiet", "--no-trunc", "--filter", "label=" + LABEL).split()
    inspected = run("docker", "inspect", *ids)
    pairs = ["{0}:{1}".format(one["Id"], one["State"]["Pid"]) for one in json.loads(inspected)]
    return parse(inspected, run("/bin/sh", "-c", PROCESS, "checks", *pairs), secrets)


# The checks. Each returns what is wrong with a container, in words that ACCEPTED may name.


def user(one: Container) -> List[str]:
    roots = [process for process in one.processes if 0 in process.users]
    if any(process.capabilities or process.bounding for process in roots):
        return ["a process runs as root"]
    return ["a process runs as root, without any capability"] if roots else []


def apparmor(one: Container) -> List[str]:
    profile = one.inspected.get("AppArmorProfile") or ""
    if "apparmor=unconfined" in one.options or profile == "unconfined":
        return ["AppArmor is switched off"]
    return ["no AppArmor profile"] if one.apparmor and not profile else []


def selinux(one: Container) -> List[str]:
    return ["SELinux is switched off"] if "label=disable" in one.options else []


def capabilities(one: Container) -> List[str]:
    allowed = CAPABILITIES.get(one.service, frozenset())
    mask = sum(1 << CAPABILITY_BITS[name] for name in allowed)
    found = ["adds " + name for name in one.settings.get("CapAdd") or []]
    for process in one.processes:
        if (process.capabilities | process.bounding) & ~mask:
            more = (process.capabilities | process.bounding) & ~mask
            names = [name for name, bit in CAPABILITY_BITS.items() if more >> bit & 1] or [hex(more)]
            found.append("a process has or can get " + ", ".join(names))
    return sorted(set(found))


def privileged(one: Container) -> List[str]:
    return ["privileged"] if one.settings["Privileged"] else []


def host_directories(one: Container) -> List[str]:
    """Stricter than the benchmark, which names /etc and the like: nothing but the instance's own and Docker's."""
    found = []
    for source, writable in one.bound().items():
        below = source.startswith(one.directory + "/volumes/") and ".." not in source
        if below or re.match(r"/var/lib/docker/volumes/multibase-{0}_[a-z-]+/_data$".format(one.instance), source):
            continue
        found.append("mounts {0}{1}".format(source, " to write" if writable else ""))
    return found


def writable_directories(one: Container) -> List[str]:
    place = one.directory + "/volumes/"
    written = {source[len(place) :] for source, rw in one.bound().items() if rw and source.startswith(place)}
    return ["can write to volumes/" + name for name in sorted(written - WRITABLE.get(one.service, frozenset()))]


def sshd(one: Container) -> List[str]:
    return ["runs sshd"] if any(re.search(r"\bsshd\b", process.arguments) for process in one.processes) else []


def published(one: Container) -> List[Tuple[int, str, int]]:
    """Return what is published: port inside, address and port outside; as asked for, and as it is."""
    found = set()
    for ports in (one.settings.get("PortBindings") or {}, one.inspected["NetworkSettings"].get("Ports") or {}):
        for target, places in ports.items():
            for place in places or []:
                found.add((int(target.partition("/")[0]), place["HostIp"], int(place["HostPort"] or 0)))
    return sorted(found)


def privileged_ports(one: Container) -> List[str]:
    return ["publishes on port {0}".format(outside) for _, _, outside in published(one) if outside < 1024]


def needed_ports(one: Container) -> List[str]:
    allowed = PUBLISHED.get(one.service, frozenset())
    found = ["publishes {0}".format(inside) for inside, _, _ in published(one) if inside not in allowed]
    return found + (["publishes all it exposes"] if one.settings.get("PublishAllPorts") else [])


def loopback(one: Container) -> List[str]:
    return sorted({"publishes on " + (at or "any address") for _, at, _ in published(one) if at not in LOOPBACK})


LOOPBACK = ("127.0.0.1", "::1")


def namespace(name: str, setting: str) -> Callable[[Container], List[str]]:
    """A namespace that must not be the host's: by the setting, and by what the processes are in."""

    def check(one: Container) -> List[str]:
        found = []
        if one.settings.get(setting) == "host":
            found.append("{0} is host".format(setting))
        own = {space for space in one.host if space.startswith(name + ":")}
        if any(process.namespaces & own for process in one.processes):
            found.append("a process is in the host's {0} namespace".format(name))
        return found

    return check


def user_namespace(one: Container) -> List[str]:
    """By the setting alone: unless the engine remaps users, all containers share the host's, and none has asked to."""
    return ["UsernsMode is host"] if one.settings.get("UsernsMode") == "host" else []


def memory(one: Container) -> List[str]:
    return [] if one.settings["Memory"] > 0 else ["memory is not limited"]


def processors(one: Container) -> List[str]:
    found = [] if one.settings["NanoCpus"] > 0 or one.settings["CpuQuota"] > 0 else ["processors are not limited"]
    return found + ([] if one.settings["CpuShares"] not in (0, 1024) else ["no share of the processors"])


def read_only(one: Container) -> List[str]:
    return [] if one.settings["ReadonlyRootfs"] else ["the root file system can be written"]


def restarts(one: Container) -> List[str]:
    policy = one.settings["RestartPolicy"]
    good = policy["Name"] == "on-failure" and 0 < policy["MaximumRetryCount"] <= 5
    return [] if good else ["restart policy is " + (policy["Name"] or "no")]


def devices(one: Container) -> List[str]:
    return ["has devices"] if one.settings.get("Devices") or one.settings.get("DeviceRequests") else []


def ulimits(one: Container) -> List[str]:
    return ["sets ulimit " + limit["Name"] for limit in one.settings.get("Ulimits") or []]


def propagation(one: Container) -> List[str]:
    found = ["mounts {0} shared".format(mount["Destination"]) for mount in one.inspected["Mounts"]
             if "shared" in mount.get("Propagation", "")]  # fmt: skip
    if any(process.shared_mounts for process in one.processes):
        found.append("a mount passes on what is mounted below it")
    return found


def seccomp(one: Container) -> List[str]:
    found = ["seccomp is " + option.partition("=")[2] for option in one.options if option.startswith("seccomp=")]
    return found + (["a process without seccomp"] if any(one.seccomp != 2 for one in one.processes) else [])


def cgroup(one: Container) -> List[str]:
    found = ["CgroupParent is " + one.settings["CgroupParent"]] if one.settings.get("CgroupParent") else []
    identity = one.inspected["Id"]
    return found + (["a process in another cgroup"] if any(identity not in p.cgroup for p in one.processes) else [])


def no_new_privileges(one: Container) -> List[str]:
    found = [] if {"no-new-privileges", "no-new-privileges:true"} & set(one.options) else ["may gain privileges"]
    return found + (["a process may"] if any(not process.no_new_privileges for process in one.processes) else [])


def health(one: Container) -> List[str]:
    test = (one.config.get("Healthcheck") or {}).get("Test") or ["NONE"]
    return ["no health check"] if test == ["NONE"] or "Health" not in one.inspected["State"] else []


def pinned(one: Container) -> List[str]:
    name = one.config["Image"]
    tag = name.rpartition("/")[2].partition("@")[0].partition(":")[2]
    return [] if "@sha256:" in name or tag not in ("", "latest") else ["image {0} has no tag of its own".format(name)]


def pids(one: Container) -> List[str]:
    return [] if (one.settings.get("PidsLimit") or 0) > 0 else ["processes are not limited"]


def networks(one: Container) -> List[str]:
    names = set(one.inspected["NetworkSettings"]["Networks"])
    return ["is in network " + name for name in sorted(names - {"multibase-{0}_default".format(one.instance)})]


def socket(one: Container) -> List[str]:
    return ["mounts " + source for source in one.bound() if "docker.sock" in source or "containerd.sock" in source]


def log_rotation(one: Container) -> List[str]:
    log = one.settings["LogConfig"]
    if log["Type"] in ("local", "journald"):
        return []
    return [] if {"max-size", "max-file"} <= set(log.get("Config") or {}) else ["logs are not rotated"]


def seen(one: Container, texts: Iterable[str]) -> bool:
    return any(secret in text for text in texts for secret in one.secrets)


def secrets_in_arguments(one: Container) -> List[str]:
    """Arguments of processes can be read by every user of the host, and labels and health checks by any collector."""
    words = [one.inspected.get("Path") or "", *(one.inspected.get("Args") or []), *(one.config.get("Cmd") or [])]
    test = (one.config.get("Healthcheck") or {}).get("Test") or []
    found = {
        "a secret among its arguments": [*words, *(process.arguments for process in one.processes)],
        "a secret in its health check": test,
        "a secret among its labels": one.labels.values(),
    }
    return [problem for problem, texts in found.items() if seen(one, texts)]


def secrets_in_environment(one: Container) -> List[str]:
    return ["secrets in its environment"] if seen(one, one.config.get("Env") or []) else []


def written(one: Container) -> List[str]:
    """Changes outside of where programs keep what may be lost, without the places that the engine mounts on."""
    usual = re.compile(r"/(dev|proc|run|sys|tmp|var/(cache|log|run|tmp)|usr/sbin/docker-init)(/|$)")
    mounted = [mount["Destination"] + "/" for mount in one.inspected["Mounts"]]
    paths = [change.partition(" ")[2] for change in one.changes]
    found = {
        path
        for path in paths
        if not usual.match(path)
        and not any(place.startswith(path + "/") for place in mounted)
        # A directory in which something else is listed.
        and not any(other.startswith(path + "/") for other in paths)
    }
    return ["wrote to " + directory for directory in sorted({path.rpartition("/")[0] or "/" for path in found})]


class Check(NamedTuple):
    """A check: number in the benchmark, what must hold, and what finds where it does not."""

    number: str
    title: str
    find: Callable[[Container], List[str]]


CHECKS: Tuple[Check, ...] = (
    Check("4.1", "processes do not run as root", user),
    Check("4.6 5.27", "health check, which the engine runs", health),
    Check("5.2", "AppArmor, where the kernel has it", apparmor),
    Check("5.3", "SELinux not switched off", selinux),
    Check("5.4", "no capabilities beyond those listed", capabilities),
    Check("5.5", "not privileged", privileged),
    Check("5.6", "no directories of the host but the instance's", host_directories),
    Check("5.7", "no SSH", sshd),
    Check("5.8", "no privileged port published", privileged_ports),
    Check("5.9", "no port published but those listed", needed_ports),
    Check("5.10", "not in the host's network namespace", namespace("net", "NetworkMode")),
    Check("5.11", "memory limited", memory),
    Check("5.12", "processors limited and shared", processors),
    Check("5.13", "root file system read-only", read_only),
    Check("5.14", "ports published on 127.0.0.1 only", loopback),
    Check("5.15", "restarts on failure, five times at most", restarts),
    Check("5.16", "not in the host's PID namespace", namespace("pid", "PidMode")),
    Check("5.17", "not in the host's IPC namespace", namespace("ipc", "IpcMode")),
    Check("5.18", "no devices of the host", devices),
    Check("5.19", "the engine's ulimits", ulimits),
    Check("5.20", "no shared mount propagation", propagation),
    Check("5.21", "not in the host's UTS namespace", namespace("uts", "UTSMode")),
    Check("5.22", "seccomp with the engine's profile", seccomp),
    Check("5.25", "in the cgroup that the engine made", cgroup),
    Check("5.26", "no new privileges", no_new_privileges),
    Check("5.28", "image pinned by a tag", pinned),
    Check("5.29", "processes limited", pids),
    Check("5.30", "not in the engine's default network", networks),
    Check("5.31", "not asked into the host's user namespace", user_namespace),
    Check("5.32", "no socket of the engine", socket),
    Check("M.1", "logs rotated", log_rotation),
    Check("M.2", "no secret in arguments, health check, labels", secrets_in_arguments),
    Check("M.3", "no secret in the environment", secrets_in_environment),
    Check("M.4", "writes to no directory but those listed", writable_directories),
    Check("M.5", "writes nothing lasting to its root file system", written),
)


class Accepted(NamedTuple):
    """A finding that stays, by check, its words and service (``*`` for anything), and why."""

    number: str
    finding: str
    service: str
    reason: str


_ROOT = "upstream's images set no user; with no privileges to gain and no raw sockets it is root of its own file system"
_SOCKET = "the collector of logs, off unless asked for, reads them through the engine's socket as upstream's does"
ACCEPTED: Tuple[Accepted, ...] = (
    *(
        Accepted("4.1", "a process runs as root", service, _ROOT)
        for service in ("analytics", "functions", "meta", "realtime", "storage", "studio", "supavisor", "vector")
    ),
    *(
        Accepted(
            "4.1", "a process runs as root, without any capability", service,
            "only in the sandbox's image; upstream's (gotrue, PostgREST, imgproxy) set a user by their Dockerfiles",
        )
        for service in ("auth", "imgproxy", "rest")
    ),
    Accepted("5.3", "SELinux is switched off", "vector", "SELinux keeps confined containers from the engine's socket"),
    Accepted("5.6", "mounts */docker.sock", "vector", _SOCKET),
    Accepted("5.32", "mounts */docker.sock", "vector", _SOCKET),
    Accepted(
        "5.13", "the root file system can be written", "*",
        "upstream's images could not be run here, and one that cannot write where it must does not start; see M.5",
    ),
    Accepted(
        "5.15", "restart policy is unless-stopped", "*",
        "an instance must come back after a reboot, and from a failure that lasts longer than five tries",
    ),
    Accepted("M.5", "wrote to /etc/pgbouncer", "pgbouncer", "its entry point writes its configuration there"),
    Accepted(
        "M.3", "secrets in its environment", "*",
        "upstream's images take them from nowhere else; who may ask the engine for it is root of the host anyway",
    ),
)  # fmt: skip


@dataclass
class Row:
    """What a check found: how many containers passed, which did not and why that may be, which must not."""

    check: Check
    passed: int = 0
    accepted: Dict[str, List[str]] = field(default_factory=dict)
    failed: List[str] = field(default_factory=list)


def reason_for(check: Check, service: str, finding: str) -> str:
    """Return why a finding is accepted; empty if it is not."""
    for one in ACCEPTED:
        if one.number == check.number and fnmatchcase(service, one.service) and fnmatchcase(finding, one.finding):
            return one.reason
    return ""


def judge(containers: Sequence[Container]) -> List[Row]:
    """Make every check on every container."""
    rows = []
    for check in CHECKS:
        row = Row(check)
        for one in containers:
            findings = check.find(one)
            reasons = [reason_for(check, one.service, finding) for finding in findings]
            name = "{0}/{1}".format(one.instance, one.service)
            row.failed += ["{0}: {1}".format(name, text) for text, why in zip(findings, reasons) if not why]
            if not findings:
                row.passed += 1
            elif all(reasons):
                row.accepted.setdefault(reasons[0], []).append(name)
        rows.append(row)
    return rows


def failures(rows: Sequence[Row]) -> List[str]:
    """Return all findings that nobody accepted."""
    return ["{0} {1}: {2}".format(row.check.number, row.check.title, text) for row in rows for text in row.failed]


def verdicts(rows: Sequence[Row], containers: int) -> Dict[str, int]:
    """Count verdicts, one for each check and container."""
    accepted = sum(len(names) for row in rows for names in row.accepted.values())
    passed = sum(row.passed for row in rows)
    return {"passed": passed, "accepted": accepted, "failed": len(rows) * containers - passed - accepted}


def table(rows: Sequence[Row], containers: int) -> str:
    """Tell all as a Markdown table."""
    lines = ["| CIS 1.6 | what | passed | failed, and why that is accepted |", "|---|---|---:|---|"]
    for row in rows:
        notes = []
        for reason, names in row.accepted.items():
            services = sorted({name.partition("/")[2] for name in names})
            all_of_them = len(names) == containers
            notes.append("{0}: {1}".format("all" if all_of_them else ", ".join(services), reason))
        notes += ["**{0}**".format(text) for text in row.failed]
        cells = (row.check.number, row.check.title, "{0}/{1}".format(row.passed, containers), "; ".join(notes))
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"
