# SPDX-License-Identifier: GPL-3.0-or-later
"""A release below compose_templates for tests: its files as data, and resolved by `docker compose config`.

No Docker Engine is needed, but the docker command with Compose.
"""

from __future__ import annotations

import itertools
import json
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any, Dict, FrozenSet, Iterator, List, Mapping, Optional, Sequence, Tuple

import yaml

TEMPLATES = Path(__file__).resolve().parents[2] / "compose_templates"
RELEASE = TEMPLATES / "0.8.2"
BASE_FILE = "docker-compose.yml"
VARIABLE = re.compile(r"\$\{([A-Z][A-Z0-9_]*)(:?\?)\}")


class Loader(yaml.SafeLoader):
    """A safe loader that reads Compose's !override and !reset as the plain value and refuses duplicate keys."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> Dict[Any, Any]:
        keys = [key.value for key, _value in node.value if key.tag != "tag:yaml.org,2002:merge"]
        doubles = {key for key in keys if keys.count(key) > 1}
        assert not doubles, "line {0}: duplicate {1}".format(node.start_mark.line + 1, doubles)
        return super().construct_mapping(node, deep)


def _plain(loader: Loader, node: yaml.Node) -> Any:
    if isinstance(node, yaml.MappingNode):
        return loader.construct_mapping(node, deep=True)
    if isinstance(node, yaml.SequenceNode):
        return loader.construct_sequence(node, deep=True)
    assert isinstance(node, yaml.ScalarNode)
    return loader.construct_scalar(node)


Loader.add_constructor("!override", _plain)
Loader.add_constructor("!reset", _plain)


def load(relative: str) -> Dict[str, Any]:
    """Return the data of a YAML file of the release."""
    data = yaml.load((RELEASE / relative).read_text(encoding="utf-8"), Loader)
    assert isinstance(data, dict)
    return data


def strings(value: Any) -> Iterator[str]:
    """Yield all strings in a tree, keys included."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield from strings(key)
            yield from strings(item)
    elif isinstance(value, Sequence):
        for item in value:
            yield from strings(item)


BASE = load(BASE_FILE)
DEFINITION = load("release.yml")
SERVICES: FrozenSet[str] = frozenset(DEFINITION["weights"])
ALWAYS = frozenset({"db", "api-gw"})
OVERLAYS: Tuple[str, ...] = tuple(DEFINITION["overlays"])


def variable(kind: str, service: str) -> str:
    """Return the name of a variable that every service has of its own."""
    return "MULTIBASE_{0}_{1}".format(kind, service.upper().replace("-", "_"))


def canary(name: str) -> str:
    """Return the value that stands for a variable: one that is nowhere by chance, and no other variable's."""
    return "canary-{0}-".format(name.lower())


def variables(overrides: Optional[Mapping[str, str]] = None) -> Dict[str, str]:
    """Return an `.env` of exactly the variables that release.yml names, and of the one that Compose itself reads.

    Values are canaries, except where Compose wants a number, a time or the like. All services are on. What may be empty
    is empty.
    """
    values = {name: canary(name) for name in DEFINITION["variables"]["with_value"]}
    values.update(dict.fromkeys(DEFINITION["variables"]["may_be_empty"], ""))
    values.update({port["variable"]: str(28000 + port["offset"]) for port in DEFINITION["ports"].values()})
    for service in SERVICES:
        values[variable("IMAGE", service)] = DEFINITION["image_sets"]["upstream"][service]
        values[variable("MEMORY", service)] = "512m"
        values[variable("CPUS", service)] = "1.50"
        values[variable("CPU_SHARES", service)] = "340"
    values.update(
        COMPOSE_PROJECT_NAME="multibase-acme",
        DOCKER_SOCKET_LOCATION="/run/canary.sock",
        MULTIBASE_INSTANCE="acme",
        MULTIBASE_PROJECT_DIR="/srv/acme",
        MULTIBASE_BIND_ADDRESS="127.0.0.1",
        MULTIBASE_SUBNET="10.213.0.0/26",
        MULTIBASE_HEALTH_INTERVAL="30s",
        COMPOSE_PROFILES=",".join(sorted(SERVICES - ALWAYS)),
    )
    values.update(overrides or {})
    return values


def may_meet(overlays: Sequence[str]) -> bool:
    """True when each overlay comes behind the one that it needs."""
    for position, overlay in enumerate(overlays):
        needed = DEFINITION["overlays"][overlay].get("needs")
        if needed and needed not in overlays[:position]:
            return False
    return True


def label(overlays: Sequence[str]) -> str:
    """Return a short name for a combination of overlays."""
    return "all" if tuple(overlays) == OVERLAYS else "+".join(Path(overlay).stem for overlay in overlays) or "base"


def pairs() -> List[Tuple[str, ...]]:
    """Return every overlay and every two of them, in their order, each with what it needs."""
    found: List[Tuple[str, ...]] = []
    for size in (1, 2):
        for chosen in itertools.combinations(OVERLAYS, size):
            wanted = set(chosen) | {DEFINITION["overlays"][overlay].get("needs") for overlay in chosen}
            combination = tuple(overlay for overlay in OVERLAYS if overlay in wanted)
            if combination not in found:
                found.append(combination)
    return found


def compose_environment(docker_config: Optional[Path] = None) -> Dict[str, str]:
    """Return an environment with nothing of the caller's that Compose would take for a variable.

    `docker_config` is the directory of Docker's settings, below which lies the Compose plugin to use.
    """
    environment = {name: os.environ[name] for name in ("PATH", "HOME", "DOCKER_CONFIG") if name in os.environ}
    if docker_config is not None:
        environment["DOCKER_CONFIG"] = str(docker_config)
    return environment


def check_compose() -> None:
    """Fail with a hint when there is no Compose."""
    hint = "run tests/sandbox/sandbox.py engine"
    assert shutil.which("docker"), "no docker command; " + hint
    answer = subprocess.run(
        ["docker", "compose", "version"], env=compose_environment(), capture_output=True, check=False
    )
    assert answer.returncode == 0, "no Compose plugin; " + hint


def run_config(
    project: Path, overlays: Sequence[str], values: Mapping[str, str], docker_config: Optional[Path] = None
) -> subprocess.CompletedProcess[str]:
    """Run `docker compose config` in `project`, a copy of the release, with these overlays and this `.env`."""
    lines = dict(values, COMPOSE_FILE=":".join((BASE_FILE, *overlays)))
    (project / ".env").write_text(
        "".join("{0}='{1}'\n".format(name, value) for name, value in lines.items()), encoding="utf-8"
    )
    return subprocess.run(
        ["docker", "compose", "config", "--format", "json"],
        cwd=project, env=compose_environment(docker_config), capture_output=True, text=True, check=False,
    )  # fmt: skip


def config(
    project: Path, overlays: Sequence[str], values: Mapping[str, str], docker_config: Optional[Path] = None
) -> Dict[str, Any]:
    """Return what Compose makes of the files; it must have nothing to complain about."""
    answer = run_config(project, overlays, values, docker_config)
    assert answer.returncode == 0, answer.stderr
    assert answer.stderr == ""
    data = json.loads(answer.stdout)
    assert isinstance(data, dict)
    return data


VOLUME_NAMES = {"db-config": "multibase-acme_db-config", "deno-cache": "multibase-acme_deno-cache"}
NETWORK = {"name": "multibase-acme_default", "ipam": {"config": [{"subnet": "10.213.0.0/26"}]}}


def check_resolved(data: Mapping[str, Any], overlays: Sequence[str], values: Mapping[str, str]) -> None:
    """Check what must hold of a resolved stack whatever overlays made it.

    Every container has the instance's label and Compose's own name; what is published is bound to the one address;
    nobody depends on a service that is not there; volumes and networks are as ever; probes are quick at the start if
    and only if start-interval.yml is among the overlays.
    """
    assert data["name"] == "multibase-acme"
    services = data["services"]
    assert set(services) == expected_services(overlays)
    for name, service in services.items():
        assert service["labels"]["io.multibase.instance"] == "acme", name
        assert "container_name" not in service, name
        assert service["restart"] == "unless-stopped", name
        assert "no-new-privileges:true" in service["security_opt"], name
        assert int(service["mem_limit"]) == 512 * 1024 * 1024, name
        assert float(service["cpus"]) == 1.5, name
        assert int(service["cpu_shares"]) == 340, name
        assert service["healthcheck"]["interval"] == "30s", name
        quick = "overlays/start-interval{0}.yml".format(
            {"analytics": "-logs", "vector": "-logs", "pgbouncer": "-pgbouncer"}.get(name, "")
        )
        assert service["healthcheck"].get("start_interval") == ("1s" if quick in overlays else None), name
        for port in service.get("ports", []):
            assert port["host_ip"] == "127.0.0.1", name
        for other, dependency in service.get("depends_on", {}).items():
            assert other in services or dependency["required"] is False, (name, other)
        for mount in service.get("volumes", []):
            # Compose 2 prints {} for false, Compose 5 the value itself.
            assert mount.get("bind", {}).get("create_host_path", False) is False, (name, mount)
    assert published(services) == expected_ports(overlays)

    volumes = {name: volume["name"] for name, volume in data["volumes"].items()}
    assert volumes == {
        name: full for name, full in VOLUME_NAMES.items() if name != "db-config" or "db" in services
    }  # fmt: skip
    assert set(data["networks"]) == {"default"}
    labels = {"io.multibase.instance": "acme"}
    assert data["networks"]["default"] == {**NETWORK, "labels": labels}
    for name, volume in data["volumes"].items():
        wanted: Dict[str, Any] = {"name": VOLUME_NAMES[name], "labels": labels}
        if name == "db-config":
            device = values["MULTIBASE_PROJECT_DIR"] + "/volumes/db/custom"
            wanted.update(driver="local", driver_opts={"type": "none", "o": "bind", "device": device})
        assert volume == wanted


def expected_services(overlays: Sequence[str]) -> FrozenSet[str]:
    """Return the services that a stack with all profiles on has."""
    services = set(SERVICES)
    if "overlays/logs.yml" not in overlays:
        services -= {"analytics", "vector"}
    if "overlays/pgbouncer.yml" not in overlays:
        services -= {"pgbouncer"}
    if "overlays/external-postgres.yml" in overlays:
        services -= {"db"}
    return frozenset(services)


def expected_ports(overlays: Sequence[str]) -> Dict[str, FrozenSet[str]]:
    """Return what release.yml says is published: service -> "host port:container port"."""
    found: Dict[str, FrozenSet[str]] = {}
    for port in DEFINITION["ports"].values():
        if port["service"] in expected_services(overlays) and port.get("overlay", BASE_FILE) in (BASE_FILE, *overlays):
            text = "{0}:{1}".format(28000 + port["offset"], port["target"])
            found[port["service"]] = found.get(port["service"], frozenset()) | {text}
    return found


def published(services: Mapping[str, Any]) -> Dict[str, FrozenSet[str]]:
    """Return what resolved services publish: service -> "host port:container port"."""
    return {
        name: frozenset("{0}:{1}".format(port["published"], port["target"]) for port in service["ports"])
        for name, service in services.items()
        if service.get("ports")
    }
