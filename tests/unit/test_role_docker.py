# SPDX-License-Identifier: GPL-3.0-or-later
"""What the Docker role does on each distribution, expanded by Ansible from its variables; nothing is installed."""

from __future__ import annotations

import json
from typing import Any, Dict, List

import pytest
import yaml
from ansible.errors import AnsibleFilterError
from ansible.parsing.dataloader import DataLoader
from ansible.plugins.loader import filter_loader
from ansible.template import Templar, trust_as_template

from ansible_collections.multibase.supabase.plugins.filter.overlapping import overlapping
from unit.support import REPOSITORY

ROLE = REPOSITORY / "roles" / "multibase_docker"
NAMES = ["Debian 12", "Debian 13", "Ubuntu 22", "Ubuntu 24"]
SUM = "a" * 64
PLUGIN = {"multibase_docker_compose_plugin": "/c/docker-compose", "multibase_docker_compose_checksum": SUM}
UPSTREAM = ["apparmor", "containerd.io", "docker-ce", "docker-ce-cli", "docker-compose-plugin"]
SKIPPED = {"skipped": True, "changed": False}

# In this process Ansible's loader of collections is not in charge; the filters are found by their short names.
filter_loader.add_directory(str(REPOSITORY / "collections" / "multibase" / "plugins" / "filter"))


def trusted(value: Any) -> Any:
    """Mark texts as templates of ours, as Ansible does when it reads a role."""
    if isinstance(value, dict):
        return {key: trusted(entry) for key, entry in value.items()}
    if isinstance(value, list):
        return [trusted(entry) for entry in value]
    return trust_as_template(value.replace("multibase.supabase.", "")) if isinstance(value, str) else value


def variables(system: str, **given: Any) -> Dict[str, Any]:
    """The role's variables on a virgin host of a distribution; ``given`` goes before them."""
    distribution, version = system.split()
    loaded: Dict[str, Any] = {}
    for name in ("defaults", "vars"):
        loaded.update(yaml.safe_load((ROLE / name / "main.yml").read_text(encoding="utf-8")))
    found = {
        "ansible_facts": {"distribution": distribution, "distribution_major_version": version},
        "inventory_hostname": "server",
        "ansible_check_mode": False,
        "__multibase_docker_programs": [],
        "__multibase_docker_settings": {"content": "e30="},
        "__multibase_docker_query": {"stdout_lines": [], "rc": 1},
        "__multibase_docker_compose_before": SKIPPED,
        "__multibase_docker_engine_before": SKIPPED,
        "__multibase_docker_plugin_there": {"stat": {"exists": False}},
        "__multibase_docker_plugin_file": {"stat": {"exists": True, "checksum": SUM}},
        "__multibase_docker_repository_there": {"stat": {"exists": False}},
        "__multibase_docker_swarm": SKIPPED,
    }
    return {**trusted(loaded), **found, **given}


def engine(*packages: str, release: str = "20.10.24", compose: str = "") -> Dict[str, Any]:
    """What the role finds on a host that runs an Engine, with these packages."""
    asked = {"rc": 0, "stdout": compose} if compose else {"rc": 1, "stdout": ""}
    return {
        "__multibase_docker_programs": ["/usr/sbin/dockerd"],
        "__multibase_docker_query": {"stdout_lines": ["installed " + name for name in packages], "rc": 0},
        "__multibase_docker_compose_before": asked,
        "__multibase_docker_engine_before": {"rc": 0, "stdout": "Docker version {0}, build 1".format(release)},
    }


def expand(name: str, known: Dict[str, Any]) -> Any:
    """Have Ansible work out one of the role's variables."""
    return Templar(loader=DataLoader(), variables=known).template(trust_as_template("{{ " + name + " }}"))


def wanted(known: Dict[str, Any]) -> List[str]:
    return sorted(expand("__multibase_docker_wanted", known))


def wrong(known: Dict[str, Any]) -> str:
    return " ".join(expand("__multibase_docker_wrong", known))


@pytest.mark.parametrize(
    ("system", "source", "packages"),
    [
        ("Debian 12", "docker", UPSTREAM),
        ("Debian 13", "distribution", ["apparmor", "docker-cli", "docker-compose", "docker.io", "iptables"]),
        ("Ubuntu 22", "docker", UPSTREAM),
        ("Ubuntu 24", "distribution", ["apparmor", "docker-compose-v2", "docker.io", "iptables"]),
    ],
)
def test_auto_on_a_virgin_host(system: str, source: str, packages: List[str]) -> None:
    known = variables(system)
    assert expand("__multibase_docker_source", known) == source and wanted(known) == packages
    assert expand("__multibase_docker_repository_needed", known) is (source == "docker")
    assert wrong(known) == ""


@pytest.mark.parametrize("system", NAMES)
def test_a_given_plugin_takes_the_place_of_packages(system: str) -> None:
    known = variables(system, **PLUGIN)
    assert expand("__multibase_docker_source", known) == "distribution" and wrong(known) == ""
    assert not [name for name in wanted(known) if "compose" in name] and "docker.io" in wanted(known)
    assert expand("__multibase_docker_plugin_differs", known) is True
    there = {"__multibase_docker_plugin_there": {"stat": {"exists": True, "checksum": SUM}}}
    assert expand("__multibase_docker_plugin_differs", {**known, **there}) is False


@pytest.mark.parametrize("system", NAMES)
@pytest.mark.parametrize(
    ("found", "source"),
    [(engine("docker-ce"), "docker"), (engine("docker.io", compose="2.26.1"), "distribution"), (engine(), "present")],
    ids=["docker-ce", "docker.io", "neither"],
)
def test_auto_keeps_the_engine_that_is_there(system: str, found: Dict[str, Any], source: str) -> None:
    known = variables(system, **found)
    assert expand("__multibase_docker_source", known) == source and wrong(known) == ""
    if source == "present":
        assert wanted(known) == []


def test_an_engine_from_elsewhere_is_never_replaced() -> None:
    for source, package in (("docker", "docker.io"), ("distribution", "docker-ce")):
        known = variables("Debian 13", multibase_docker_source=source, **engine(package, compose="2.26.1"))
        assert "would stop every container" in wrong(known)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"multibase_docker_source": "distribution"}, "has no Compose 2.24 or later"),
        ({"multibase_docker_source": "present"}, "has no Docker Engine"),
        ({**PLUGIN, "multibase_docker_compose_checksum": ""}, "64 hexadecimal digits"),
        ({**PLUGIN, "multibase_docker_compose_checksum": "sha256:" + "b" * 64}, "is not the file"),
        ({**PLUGIN, "__multibase_docker_plugin_file": {"stat": {"exists": False}}}, "there is no /c/docker-compose"),
        ({"multibase_docker_daemon_options": {"hosts": ["tcp://x"]}}, 'holds "hosts"'),
        ({"multibase_docker_address_pools": [{"base": "10.213.64.0/18", "size": 24}]}, "overlaps"),
    ],
)
def test_what_cannot_work_is_told(given: Dict[str, Any], message: str) -> None:
    assert message in wrong(variables("Debian 12", **given))


def test_all_mistakes_are_told_together() -> None:
    pools = [{"base": "10.213.0.0/17", "size": 24}]
    told = wrong(variables("Debian 12", multibase_docker_source="present", multibase_docker_address_pools=pools))
    assert "overlaps" in told and "no Docker Engine" in told


def test_an_unknown_system_gets_the_list() -> None:
    told = wrong(variables("Debian 11", multibase_docker_source="distribution"))
    assert all(name in told for name in NAMES)


def settings(content: Dict[str, Any]) -> Dict[str, Any]:
    from base64 import b64encode

    return {"content": b64encode(json.dumps(content).encode()).decode()}


def test_settings_are_merged() -> None:
    there = {"ip": "0.0.0.0", "log-opts": {"max-size": "1m"}, "features": {"x": True}}
    known = variables(
        "Debian 13",
        **engine("docker.io", compose="2.26.1"),
        __multibase_docker_settings=settings(there),
        multibase_docker_ulimits=[{"Name": "nofile", "Soft": 1, "Hard": 2}],
        multibase_docker_registry_mirrors=["https://mirror.example.net"],
        multibase_docker_address_pools=[{"base": "10.214.0.0/16", "size": 24}],
        multibase_docker_daemon_options={"features": {"y": True}},
    )
    assert expand("__multibase_docker_written", known) == {
        "ip": "0.0.0.0", "live-restore": True, "log-driver": "json-file",
        "log-opts": {"max-size": "1m", "max-file": "3"}, "features": {"x": True, "y": True},
        "default-ulimits": {"nofile": {"Name": "nofile", "Soft": 1, "Hard": 2}},
        "registry-mirrors": ["https://mirror.example.net"],
        "default-address-pools": [{"base": "10.214.0.0/16", "size": 24}],
    }  # fmt: skip


@pytest.mark.parametrize(("found", "address"), [({}, "127.0.0.1"), (engine("docker.io", compose="2.26.1"), None)])
def test_only_a_new_engine_publishes_on_loopback(found: Dict[str, Any], address: str) -> None:
    assert expand("__multibase_docker_written", variables("Debian 13", **found)).get("ip") == address


def test_a_new_engine_may_publish_everywhere() -> None:
    assert "ip" not in expand("__multibase_docker_written", variables("Debian 13", multibase_docker_publish_address=""))


@pytest.mark.parametrize(("release", "checked", "forgetful"), [("20.10.24", False, True), ("26.1.5", True, False)])
def test_what_depends_on_the_engines_release(release: str, checked: bool, forgetful: bool) -> None:
    known = variables("Debian 13", **engine("docker.io", release=release), __multibase_docker_engine_after=SKIPPED)
    command = expand("__multibase_docker_check_settings", known)
    assert command == (["/usr/sbin/dockerd", "--validate", "--config-file=%s"] if checked else [])
    assert expand("__multibase_docker_forgetful", known) is forgetful


def test_which_instances_another_compose_brought_up() -> None:
    brought_up = {"acme": "2.26.1", "b-c": "5.6.1"}
    lines = ['/opt/multibase/state/{0}.json:  "compose": "{1}"'.format(*pair) for pair in brought_up.items()]
    known = variables(
        "Debian 12",
        **engine("docker.io", compose="2.26.1-4"),
        __multibase_docker_records={"stdout_lines": lines},
        __multibase_docker_compose=SKIPPED,
    )
    assert expand("__multibase_docker_compose_version", known) == "2.26.1"
    assert expand("__multibase_docker_outdated", known) == [["b-c", "5.6.1"]]
    after = {**known, "__multibase_docker_compose": {"rc": 0, "stdout": "v5.6.1\n"}}
    assert expand("__multibase_docker_outdated", after) == [["acme", "2.26.1"]]


def test_overlapping() -> None:
    assert overlapping(["10.0.0.0/8", "192.168.0.0/16", "fd00::/8"], "10.213.0.0/16") == ["10.0.0.0/8"]
    with pytest.raises(AnsibleFilterError, match="overlapping"):
        overlapping(["10.0.0.1/8"], "10.213.0.0/16")
