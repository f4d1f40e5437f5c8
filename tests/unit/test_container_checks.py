# SPDX-License-Identifier: GPL-3.0-or-later
"""The checks of containers, on what a test host told of three of them once, and with one thing after another spoilt."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any, Callable, Dict, List, Optional

import pytest

import container_checks as checks

SAMPLES = Path(__file__).resolve().parent / "samples" / "containers"
INSPECTED: List[Dict[str, Any]] = json.loads((SAMPLES / "inspect.json").read_text())
TOLD = (SAMPLES / "processes.txt").read_text()
SECRET = "not-for-anybody-to-see"


def containers(
    inspected: Any = INSPECTED, told: str = TOLD, secrets: Optional[Dict[str, List[str]]] = None
) -> Dict[str, checks.Container]:
    parsed = checks.parse(json.dumps(inspected), told, secrets or {"acme": [SECRET]})
    return {one.service: one for one in parsed}


def spoilt(service: str, change: Callable[[Dict[str, Any]], Any]) -> List[str]:
    """Return the failures after a change to what `docker inspect` says of a service."""
    inspected = copy.deepcopy(INSPECTED)
    (one,) = [one for one in inspected if one["Config"]["Labels"]["com.docker.compose.service"] == service]
    change(one)
    return checks.failures(checks.judge(list(containers(inspected).values())))


def test_the_sample_passes() -> None:
    found = containers()
    assert set(found) == {"auth", "db", "supavisor"}
    assert all(one.processes and len(one.host) == 7 for one in found.values())
    assert [sum(process.main for process in one.processes) for one in found.values()] == [1, 1, 1]
    assert len(found["db"].processes) > 5
    rows = checks.judge(list(found.values()))
    assert checks.failures(rows) == []
    count = checks.verdicts(rows, len(found))
    assert count["failed"] == 0 and count["accepted"] > 0
    assert sum(count.values()) == len(checks.CHECKS) * len(found)


def test_the_table_says_what_is_accepted_and_why() -> None:
    rows = checks.judge(list(containers().values()))
    told = checks.table(rows, 3).splitlines()
    assert len(told) == len(checks.CHECKS) + 2
    assert "| 5.5 | not privileged | 3/3 |  |" in told
    (line,) = [line for line in told if line.startswith("| 5.15 |")]
    assert "| 0/3 | all: an instance must come back after a reboot" in line


def host_config(key: str, value: Any) -> Callable[[Dict[str, Any]], Any]:
    return lambda one: one["HostConfig"].update({key: value})


def mount(**values: Any) -> Callable[[Dict[str, Any]], Any]:
    entry = {"Type": "bind", "Source": "/etc", "Destination": "/x", "RW": False, "Propagation": "rprivate"}
    return lambda one: one["Mounts"].append({**entry, **values})


def config(key: str, value: Any) -> Callable[[Dict[str, Any]], Any]:
    return lambda one: one["Config"].update({key: value})


@pytest.mark.parametrize(
    ("number", "change"),
    [
        ("4.6 5.27", config("Healthcheck", {"Test": ["NONE"]})),
        ("4.6 5.27", config("Healthcheck", None)),
        ("5.2", host_config("SecurityOpt", ["no-new-privileges:true", "apparmor=unconfined"])),
        ("5.3", host_config("SecurityOpt", ["no-new-privileges:true", "label=disable"])),
        ("5.4", host_config("CapAdd", ["CAP_SYS_ADMIN"])),
        ("5.5", host_config("Privileged", True)),
        ("5.6", mount(Source="/")),
        ("5.6", mount(Source="/opt/multibase/projects/beta/volumes/storage")),
        ("5.6", mount(Source="/opt/multibase/projects/acme/.env")),
        ("5.6", mount(Source="/var/lib/docker/volumes/multibase-beta_deno-cache/_data", Type="volume")),
        ("5.8", host_config("PortBindings", {"9999/tcp": [{"HostIp": "127.0.0.1", "HostPort": "80"}]})),
        ("5.9", host_config("PortBindings", {"9999/tcp": [{"HostIp": "127.0.0.1", "HostPort": "20009"}]})),
        ("5.9", host_config("PublishAllPorts", True)),
        ("5.10", host_config("NetworkMode", "host")),
        ("5.11", host_config("Memory", 0)),
        ("5.12", host_config("NanoCpus", 0)),
        ("5.12", host_config("CpuShares", 0)),
        ("5.14", host_config("PortBindings", {"9999/tcp": [{"HostIp": "0.0.0.0", "HostPort": "20009"}]})),
        ("5.14", host_config("PortBindings", {"9999/tcp": [{"HostIp": "", "HostPort": "20009"}]})),
        ("5.15", host_config("RestartPolicy", {"Name": "no", "MaximumRetryCount": 0})),
        ("5.15", host_config("RestartPolicy", {"Name": "always", "MaximumRetryCount": 0})),
        ("5.16", host_config("PidMode", "host")),
        ("5.17", host_config("IpcMode", "host")),
        ("5.18", host_config("Devices", [{"PathOnHost": "/dev/sda"}])),
        ("5.19", host_config("Ulimits", [{"Name": "nofile", "Hard": 1, "Soft": 1}])),
        ("5.20", mount(Source="/opt/multibase/projects/acme/volumes/x", Propagation="rshared")),
        ("5.21", host_config("UTSMode", "host")),
        ("5.22", host_config("SecurityOpt", ["no-new-privileges:true", "seccomp=unconfined"])),
        ("5.25", host_config("CgroupParent", "/other")),
        ("5.26", host_config("SecurityOpt", [])),
        ("5.28", config("Image", "registry:5000/multibase/auth")),
        ("5.28", config("Image", "supabase/gotrue:latest")),
        ("5.29", host_config("PidsLimit", None)),
        ("5.30", lambda one: one["NetworkSettings"]["Networks"].update(bridge={})),
        ("5.31", host_config("UsernsMode", "host")),
        ("5.32", mount(Source="/run/docker.sock")),
        ("M.1", host_config("LogConfig", {"Type": "json-file", "Config": {}})),
        ("M.2", config("Cmd", ["auth", "--password=" + SECRET])),
        ("M.2", config("Healthcheck", {"Test": ["CMD", "curl", SECRET]})),
        ("M.2", lambda one: one["Config"]["Labels"].update(note=SECRET)),
        ("M.4", mount(Source="/opt/multibase/projects/acme/volumes/api", RW=True)),
    ],
)
def test_what_is_wrong_with_a_container_is_found(number: str, change: Callable[[Dict[str, Any]], Any]) -> None:
    found = spoilt("auth", change)
    assert any(line.startswith(number + " ") and "acme/auth" in line for line in found), found


@pytest.mark.parametrize(
    ("number", "old", "new"),
    [
        ("4.1", "CapBnd 0000000000000000", "CapBnd 0000000000000001"),
        ("5.4", "CapBnd 0000000000000000", "CapBnd 0000000000002000"),
        ("5.4", "CapEff 0000000000000000", "CapEff 0000000000200000"),
        ("5.7", "args ", "args /usr/sbin/sshd "),
        ("5.20", "shared 0", "shared 1"),
        ("5.22", "Seccomp 2", "Seccomp 0"),
        ("5.26", "NoNewPrivs 1", "NoNewPrivs 0"),
        ("M.2", "args ", "args --key " + SECRET + " "),
    ],
)
def test_what_is_wrong_with_a_process_is_found(number: str, old: str, new: str) -> None:
    """Whatever the settings say: it is what the kernel says of the process that counts."""
    identity = containers()["auth"].inspected["Id"]
    head, _, rest = TOLD.partition("process " + identity)
    own, mark, others = rest.partition("\nprocess ")
    assert old in own, own
    told = "".join((head, "process ", identity, own.replace(old, new), mark, others))
    found = checks.failures(checks.judge(list(containers(told=told).values())))
    assert any(line.startswith(number + " ") and "acme/auth" in line for line in found), found


@pytest.mark.parametrize(("number", "kind"), [("5.10", "net"), ("5.16", "pid"), ("5.17", "ipc"), ("5.21", "uts")])
def test_a_process_in_a_namespace_of_the_host_is_found(number: str, kind: str) -> None:
    (own,) = [space for space in containers()["auth"].host if space.startswith(kind + ":")]
    inside = next(space for space in containers()["auth"].processes[0].namespaces if space.startswith(kind + ":"))
    found = checks.failures(checks.judge(list(containers(told=TOLD.replace("ns " + inside, "ns " + own)).values())))
    assert any(line.startswith(number + " ") and "acme/auth" in line for line in found), found


def test_writes_to_the_root_file_system_are_told() -> None:
    identity = containers()["auth"].inspected["Id"]
    told = TOLD
    for change in ("A /tmp/x", "C /var", "C /var/log", "C /run", "C /usr", "C /usr/sbin", "A /usr/sbin/docker-init"):
        told += "diff {0} {1}\n".format(identity, change)
    assert checks.written(containers(told=told)["auth"]) == []
    # A mounted directory and those above it are the engine's doing.
    assert containers()["db"].changes and checks.written(containers()["db"]) == []
    told += "diff {0} C /usr/bin\ndiff {0} A /usr/bin/new\n".format(identity)
    assert checks.written(containers(told=told)["auth"]) == ["wrote to /usr/bin"]


def test_the_collector_of_logs_is_an_exception_by_name() -> None:
    socket = mount(Source="/var/run/docker.sock", Destination="/var/run/docker.sock")

    def vector(one: Dict[str, Any]) -> None:
        socket(one)
        one["Config"]["Labels"]["com.docker.compose.service"] = "vector"
        one["HostConfig"]["SecurityOpt"].append("label=disable")

    assert not [line for line in spoilt("auth", vector) if line.startswith(("5.3 ", "5.6 ", "5.32 "))]
    assert [line for line in spoilt("auth", socket) if line.startswith("5.32 ")]


def test_secrets_of_another_instance_are_not_looked_for() -> None:
    assert containers(secrets={"beta": ["x"]})["auth"].secrets == frozenset()
    leak = spoilt("auth", config("Env", ["PASSWORD=" + SECRET]))
    assert leak == [], "in the environment it is accepted"


def test_every_acceptance_has_a_check_and_a_reason() -> None:
    numbers = {check.number for check in checks.CHECKS}
    assert len(numbers) == len(checks.CHECKS)
    for one in checks.ACCEPTED:
        assert one.number in numbers and len(one.reason.split()) >= 6
