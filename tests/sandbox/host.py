# SPDX-License-Identifier: GPL-3.0-or-later
"""Test hosts: containers that boot systemd and run a Docker Engine of their own, like a small Debian server.

Names and labels: container `multibase-sandbox-NAME`, volume `multibase-sandbox-NAME-docker` for /var/lib/docker, both
labelled io.multibase.sandbox=1 and io.multibase.sandbox.host=NAME. Removal goes by those labels and exact ids.
"""

from __future__ import annotations

import contextlib
import glob
import json
import os
import re
import time
from pathlib import Path
from typing import List

from common import LABEL, NETWORK, SandboxError, docker, ensure_network, is_root, run, say, step
from engine import cgroup_version, mount_v1_controllers

HOST_LABEL = LABEL + ".host"
IMAGE = "multibase-sandbox/host"
NAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,38}[a-z0-9])?")
RESERVED = ("registry",)
PUBLISH = re.compile(r"((?:\d{1,3}\.){3}\d{1,3}):(\d+)(?:-(\d+))?")
BOOT_SECONDS = 90
# Order of capability bits, linux/capability.h; only used to name the ones this machine lacks.
CAPABILITIES = re.findall(
    r"\w+",
    "CHOWN DAC_OVERRIDE DAC_READ_SEARCH FOWNER FSETID KILL SETGID SETUID SETPCAP LINUX_IMMUTABLE NET_BIND_SERVICE "
    "NET_BROADCAST NET_ADMIN NET_RAW IPC_LOCK IPC_OWNER SYS_MODULE SYS_RAWIO SYS_CHROOT SYS_PTRACE SYS_PACCT SYS_ADMIN "
    "SYS_BOOT SYS_NICE SYS_RESOURCE SYS_TIME SYS_TTY_CONFIG MKNOD LEASE AUDIT_WRITE AUDIT_CONTROL SETFCAP MAC_OVERRIDE "
    "MAC_ADMIN SYSLOG WAKE_ALARM BLOCK_SUSPEND AUDIT_READ PERFMON BPF CHECKPOINT_RESTORE",
)


def missing_capabilities() -> List[str]:
    """Capabilities that are not in this machine's bounding set; `docker run --privileged` fails if there are any."""
    found = re.search(r"^CapBnd:\s*([0-9a-f]+)", Path("/proc/self/status").read_text(encoding="ascii"), re.MULTILINE)
    bounding = int(found.group(1), 16) if found else 0
    last = int(Path("/proc/sys/kernel/cap_last_cap").read_text(encoding="ascii"))
    return [name for bit, name in enumerate(CAPABILITIES) if bit <= last and not bounding >> bit & 1]


def system_flags() -> List[str]:
    """Flags of `docker run` with which systemd and a nested Docker Engine work.

    Run for real: cgroup v1 without CAP_SYS_RESOURCE, engine 20.10 (the capability list, the host's cgroups). The
    other three combinations follow Docker's and systemd's documentation and have not been run.
    """
    missing = missing_capabilities()
    if missing:
        flags = ["--cap-add", "ALL", *(flag for name in missing for flag in ("--cap-drop", name))]
        for option in ("seccomp=unconfined", "apparmor=unconfined", "systempaths=unconfined"):
            flags += ["--security-opt", option]
    else:
        flags = ["--privileged"]
    if cgroup_version() == 2 and not missing:
        flags += ["--cgroupns=private"]
    else:
        flags += ["--cgroupns=host", "--volume", "/sys/fs/cgroup:/sys/fs/cgroup:rw"]
    if cgroup_version() == 1:
        flags += ["--env", "SYSTEMD_CGROUP_ENABLE_LEGACY_FORCE=1"]
    return flags


def check_name(name: str) -> None:
    if not NAME.fullmatch(name) or name in RESERVED:
        raise SandboxError(f"not a name for a test host: {name}", 2)


def port_mapping(publish: str) -> str:
    """'ADDRESS:PORTS' -> what `docker run --publish` wants, the same ports inside and outside."""
    found = PUBLISH.fullmatch(publish)
    if not found or not 1 <= int(found.group(2)) <= int(found.group(3) or found.group(2)) <= 65535:
        raise SandboxError(f"--publish wants ADDRESS:PORT or ADDRESS:FIRST-LAST, not {publish}", 2)
    return f"{publish}:{publish.partition(':')[2]}"


def up(name: str, publish: List[str], debian: str = "13") -> None:
    """Create and start a test host, or start the one there is; wait until systemd has booted it.

    debian: the release of Debian that a new host runs; one that is there must run it.
    """
    check_name(name)
    mappings = [port_mapping(item) for item in publish]
    full = f"{NETWORK}-{name}"
    image = f"{IMAGE}:{debian}"
    wanted = run(["docker", "image", "inspect", "--format", "{{.Id}}", image], check=False).stdout.strip()
    if not wanted:
        option = "" if debian == "13" else f" --debian {debian}"
        raise SandboxError(f"{image} is missing: run `sandbox.py images{option}` first")
    done = run(["docker", "container", "inspect", full], check=False)
    if done.returncode == 0:
        existing = json.loads(done.stdout)[0]
        if existing["Config"]["Labels"].get(HOST_LABEL) != name:
            raise SandboxError(f"a container {full} exists that is no test host")
        recorded = existing["Config"]["Labels"].get(HOST_LABEL + ".publish", "")
        if recorded != " ".join(mappings):
            raise SandboxError(f"{full} publishes other ports ({recorded or 'none'}); `host down {name}` first")
        release = existing["Config"]["Labels"].get(HOST_LABEL + ".debian", "13")
        if release != debian:
            raise SandboxError(f"{full} runs Debian {release}; `host down {name}` first")
        if existing["Image"] != wanted:
            say(f"{full} runs an older image; `host down {name}` and `host up {name}` would renew it")
        if not existing["State"]["Running"]:
            with step(f"starting {full}"):
                docker("start", existing["Id"])
    else:
        ensure_network()
        mount_v1_controllers()
        labels = ["--label", f"{LABEL}=1", "--label", f"{HOST_LABEL}={name}"]
        volume = f"{full}-docker"
        argv = ["run", "--detach", "--name", full, "--hostname", name, *labels]
        argv += ["--label", f"{HOST_LABEL}.publish={' '.join(mappings)}", "--label", f"{HOST_LABEL}.debian={debian}"]
        argv += ["--network", NETWORK]
        argv += [*system_flags(), "--tmpfs", "/run", "--tmpfs", "/run/lock", "--tmpfs", "/tmp:exec,mode=1777"]
        argv += ["--volume", f"{volume}:/var/lib/docker", *(f"--publish={item}" for item in mappings)]
        with step(f"creating {full}"):
            docker("volume", "create", *labels, volume)
            docker(*argv, image)
    wait_for_boot(full)


def wait_for_boot(full: str) -> None:
    """Wait until systemd says running or degraded."""
    end = time.monotonic() + BOOT_SECONDS
    state = ""
    with step(f"waiting for systemd in {full}"):
        while True:
            state = run(["docker", "exec", full, "systemctl", "is-system-running"], check=False).stdout.strip()
            if state in ("running", "degraded"):
                break
            if time.monotonic() > end:
                raise SandboxError(f"systemd in {full} is '{state}' after {BOOT_SECONDS} s; see: docker logs {full}")
            time.sleep(0.2)
    address = docker("inspect", "--format", f'{{{{(index .NetworkSettings.Networks "{NETWORK}").IPAddress}}}}', full)
    say(f"{full}: {state}, {address}")


def ids(kind: str, label: str) -> List[str]:
    """Exact ids (of volumes: names) of what carries a label. kind: container, volume or network."""
    argv = {"container": ["ps", "--all"], "volume": ["volume", "ls"], "network": ["network", "ls"]}[kind]
    full = [] if kind == "volume" else ["--no-trunc"]
    return docker(*argv, "--quiet", *full, "--filter", f"label={label}").split()


def nested_containers(identity: str) -> List[str]:
    """Ids of the containers inside a test host; [] when it has no engine or does not run."""
    done = run(["docker", "exec", identity, "docker", "ps", "--all", "--quiet", "--no-trunc"], check=False, timeout=30)
    return re.findall(r"^[0-9a-f]{64}$", done.stdout, re.MULTILINE) if done.returncode == 0 else []


def remove_cgroups(nested: List[str]) -> None:
    """Remove the empty cgroup v1 directories that a killed nested engine leaves in the machine's hierarchy."""
    if cgroup_version() != 1 or not is_root():
        return
    for identity in nested:
        for directory in glob.glob(f"/sys/fs/cgroup/*/docker/{identity}"):
            for root, _, _ in os.walk(directory, topdown=False):
                with contextlib.suppress(OSError):
                    os.rmdir(root)


def down(name: str) -> None:
    """Remove a test host and its volume. No error when there is none."""
    check_name(name)
    remove(f"{HOST_LABEL}={name}", f"{NETWORK}-{name}")


def remove(label: str, what: str) -> None:
    containers, volumes = ids("container", label), ids("volume", label)
    if not containers and not volumes:
        say(f"{what}: nothing to remove")
        return
    with step(f"removing {what}"):
        nested = [inner for identity in containers for inner in nested_containers(identity)]
        for identity in containers:
            docker("rm", "--force", "--volumes", identity)
        for volume in volumes:
            docker("volume", "rm", volume)
        remove_cgroups(nested)


def down_all() -> None:
    """Remove every test host, the registry, their volumes and the network. Images and the engine stay."""
    remove(f"{LABEL}=1", "test hosts, registry and their volumes")
    for identity in ids("network", f"{LABEL}=1"):
        with step(f"removing network {NETWORK}"):
            docker("network", "rm", identity)
