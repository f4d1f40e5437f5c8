# SPDX-License-Identifier: GPL-3.0-or-later
"""The inventory plugin, read by ansible-inventory itself: from a file, and from real instances on made-up hosts.

A made-up host is a directory of this machine; the one called away does not answer.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Dict, List

import pytest
import yaml
from ansible.errors import AnsibleParserError
from ansible.parsing.vault import VaultLib, VaultSecret

from ansible_collections.multibase.supabase.plugins.inventory.instances import InventoryModule, checked
from unit.support import converge, item

ROOT = Path(__file__).resolve().parents[2]
LISTING: List[Dict[str, Any]] = [
    {
        "name": "acme",
        "host": "h1",
        "state": "running",
        "health": "healthy",
        "environment": "production",
        "size": "large",
        "release": "0.8.2",
        "labels": {"team": "web", "note": "{{ 1 + 1 }}"},
        "urls": {"api": "https://acme.example.com"},
    },
    {
        "name": "beta",
        "host": "h2.example.net",
        "state": "stopped",
        "health": "stopped",
        "environment": "",
        "size": "1.5 CPU, 3072 MiB",
        "release": "0.8.2",
        "labels": {},
    },
]


@dataclass
class Place:
    """A directory with inventories, and ansible-inventory to read them."""

    directory: Path

    def configure(self, name: str = "x.multibase.yml", **options: Any) -> Path:
        """Write a file for the plugin."""
        path = self.directory / name
        path.write_text(yaml.safe_dump({"plugin": "multibase.supabase.instances", **options}))
        return path

    def listing(self, instances: Any = None) -> str:
        """Write what ./multibase list --json prints."""
        (self.directory / "listing.json").write_text(json.dumps({"instances": instances or LISTING}))
        return "listing.json"

    def servers(self, **hosts: Dict[str, Any]) -> Path:
        """Write an inventory of servers; their instances are below directories of their names."""
        path = self.directory / "servers" / "hosts.yml"
        path.parent.mkdir(exist_ok=True)
        common = {"ansible_become": False, "ansible_python_interpreter": sys.executable}
        rows = {
            name: {"ansible_connection": "local", "multibase_root": str(self.directory / name), **variables}
            for name, variables in hosts.items()
        }
        path.write_text(yaml.safe_dump({"multibase_hosts": {"hosts": rows, "vars": common}}))
        return path

    def run(self, program: str, *words: Any) -> subprocess.CompletedProcess[str]:
        """Run one of Ansible's programs, with the project's settings and nothing recorded of itself."""
        environment = {
            **os.environ,
            "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"),
            "ANSIBLE_CALLBACK_PLUGINS": str(self.directory / "none"),
            "ANSIBLE_INVENTORY_ANY_UNPARSED_IS_FAILED": "true",
            "ARA_BASE_DIR": str(self.directory / "ara"),
            "COLUMNS": "1000",
        }
        return subprocess.run(
            [str(ROOT / ".venv" / "bin" / program), *map(str, words)],
            cwd=self.directory,
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=180,
            check=False,
        )

    def read(self, *words: Any) -> Dict[str, Any]:
        """Return what ansible-inventory --list makes of inventories."""
        done = self.run("ansible-inventory", "--list", *words)
        assert done.returncode == 0, done.stderr
        return dict(json.loads(done.stdout, object_hook=unmarked))


def unmarked(value: Dict[str, Any]) -> Any:
    """Return a text that ansible-inventory marks as one that is not evaluated, without its mark."""
    return value["__ansible_unsafe"] if set(value) == {"__ansible_unsafe"} else value


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("multibase.yml", True), ("multibase.yaml", True), ("mine.multibase.yml", True), ("a.b.multibase.yaml", True),
        ("mymultibase.yml", False), ("multibase.json", False), ("multibase.yml.bak", False), ("hosts.yml", False),
        ("missing/multibase.yml", False),
    ],
)  # fmt: skip
def test_files_are_taken_by_their_name(tmp_path: Path, name: str, wanted: bool) -> None:
    if "/" not in name:
        (tmp_path / name).write_text("")
    assert InventoryModule().verify_file(str(tmp_path / name)) is wanted


@pytest.mark.parametrize(
    "listing",
    [None, [], {}, {"instances": None}, {"instances": ["acme"]}, {"instances": [{"name": "acme"}]},
     {"instances": [{"name": "", "host": "h1"}]}, {"instances": [{"name": "acme", "host": 5}]}],
)  # fmt: skip
def test_what_is_no_listing_is_refused(listing: Any) -> None:
    with pytest.raises(AnsibleParserError, match="the file"):
        checked(listing, "the file")


def test_instances_of_a_listing_are_hosts_in_groups(place: Place) -> None:
    path = place.configure(
        listing=place.listing(),
        keyed_groups=[{"prefix": "team", "key": "instance_labels.team"}],
        groups={"needs_a_look": "instance_health != 'healthy'"},
        compose={"api": "instance_urls.api"},
    )
    told = place.read("-i", path)
    everything = ["acme.h1", "beta.h2.example.net"]
    assert sorted(told["multibase_instances"]["hosts"]) == everything
    assert {name: group["hosts"] for name, group in told.items() if name not in ("_meta", "all")} == {
        "multibase_instances": everything,
        "environment_production": everything[:1],
        "size_large": everything[:1],
        "size_1_5_CPU__3072_MiB": everything[1:],
        "health_healthy": everything[:1],
        "health_stopped": everything[1:],
        "state_running": everything[:1],
        "state_stopped": everything[1:],
        "release_0_8_2": everything,
        "team_web": everything[:1],
        "needs_a_look": everything[1:],
    }
    below = {name for name in told if name.partition("_")[0] in ("environment", "size", "health", "state", "release")}
    assert set(told["multibase_instances"]["children"]) == below
    variables = told["_meta"]["hostvars"]["acme.h1"]
    assert variables["api"] == "https://acme.example.com"
    assert {f"instance_{key}": value for key, value in LISTING[0].items()}.items() <= variables.items()
    assert variables["instance_labels"]["note"] == "{{ 1 + 1 }}"
    # Nobody said how to reach the servers.
    assert [told["_meta"]["hostvars"][name]["ansible_host"] for name in everything] == ["h1", "h2.example.net"]


def test_what_an_instance_is_labelled_with_is_never_evaluated(place: Place) -> None:
    path = place.configure(listing=place.listing(), compose={"note": "instance_labels.note"})
    for variable in ("note", "instance_labels.note"):
        done = place.run("ansible", "-i", path, "acme.h1", "-m", "ansible.builtin.debug", "-a", f"var={variable}")
        assert done.returncode == 0, done.stderr
        assert "{{ 1 + 1 }}" in done.stdout


def test_a_server_is_reached_as_its_own_inventory_says(place: Place) -> None:
    servers = place.servers(
        h1={"ansible_host": "{{ inventory_hostname }}.{{ zone }}", "ansible_port": 2222, "other": 1},
        h3={},
    )
    (servers.parent / "group_vars").mkdir()
    (servers.parent / "group_vars" / "all.yml").write_text("ansible_user: from-all\n")
    (servers.parent / "group_vars" / "multibase_hosts.yml").write_text("zone: example.net\nansible_user: ops\n")
    path = place.configure(listing=place.listing())
    also = place.configure("with.multibase.yml", listing="listing.json", inventory="servers")
    for words in (("-i", servers, "-i", path), ("-i", also)):
        variables = place.read(*words)["_meta"]["hostvars"]
        acme = variables["acme.h1"]
        assert (acme["ansible_host"], acme["ansible_port"], acme["ansible_user"]) == ("h1.example.net", 2222, "ops")
        assert (acme["ansible_connection"], acme["ansible_become"]) == ("local", False)
        assert "zone" not in acme and "other" not in acme and "multibase_root" not in acme
        assert variables["beta.h2.example.net"]["ansible_host"] == "h2.example.net"
    assert "h1" not in variables, "servers are not added themselves"


def test_real_instances_are_asked_for_and_worked_on(place: Place) -> None:
    place.servers(h1={}, h2={})
    converge(place.directory / "h1", item("acme", size="large"), item("beta", size="small"))
    converge(place.directory / "h2", item("gamma", size="small"))
    path = place.configure(inventory="servers/hosts.yml")
    done = place.run("ansible-inventory", "-i", path, "--graph")
    assert done.returncode == 0, done.stderr
    for words in ("@multibase_instances", "@size_small", "@release_0_8_2", "--acme.h1", "--beta.h1", "--gamma.h2"):
        assert words in done.stdout
    work = ("-m", "ansible.builtin.command", "-a", "ls {{ instance_directory }}")
    done = place.run("ansible", "-i", path, "size_small", *work)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("instance.json") == 2
    assert not (place.directory / "ara").exists(), "nothing is recorded"


def test_it_may_lie_among_the_servers_whose_secrets_are_encrypted(place: Place) -> None:
    servers = place.servers(h1={})
    converge(place.directory / "elsewhere", item("acme"))
    vault = VaultLib([("prod", VaultSecret(b"the password"))])
    (servers.parent / "host_vars").mkdir()
    text = f"multibase_root: {place.directory / 'elsewhere'}\nansible_password: canary-of-ssh\n"
    (servers.parent / "host_vars" / "h1.yml").write_bytes(vault.encrypt(text, vault_id="prod"))
    (place.directory / "password").write_text("the password\n")
    place.configure("servers/own.multibase.yml", inventory=".")
    told = place.read("-i", servers.parent, "--vault-id", f"prod@{place.directory / 'password'}")
    assert sorted(told["_meta"]["hostvars"]) == ["acme.h1", "h1"]
    assert told["_meta"]["hostvars"]["acme.h1"]["ansible_password"] == "canary-of-ssh"
    assert told["multibase_hosts"]["hosts"] == ["h1"]


def test_a_server_that_does_not_answer_is_warned_of(place: Place) -> None:
    (place.directory / "ssh").write_text("#!/bin/sh\necho no route >&2\nexit 255\n")
    (place.directory / "ssh").chmod(0o755)
    away = {"ansible_connection": "ssh", "ansible_ssh_executable": str(place.directory / "ssh")}
    converge(place.directory / "h1", item("acme"))
    path = place.configure(inventory="servers")
    place.servers(h1={}, away=away)
    done = place.run("ansible-inventory", "-i", path, "--list")
    assert done.returncode == 0, done.stderr
    assert list(json.loads(done.stdout)["_meta"]["hostvars"]) == ["acme.h1"]
    assert "instances may be missing: away: the host cannot be reached" in " ".join(done.stderr.split())
    place.servers(away=away)
    done = place.run("ansible-inventory", "-i", path, "--list")
    assert done.returncode != 0
    assert "told nothing" in done.stderr and "away: the host cannot be reached" in " ".join(done.stderr.split())


def test_the_cache_keeps_instances_and_no_way_to_reach_them(place: Place) -> None:
    place.servers(h1={"ansible_password": "canary-of-ssh"})
    converge(place.directory / "h1", item("acme"))
    kept = {"cache_plugin": "ansible.builtin.jsonfile", "cache_connection": str(place.directory / "kept")}
    path = place.configure(inventory="servers", cache=True, **kept)
    first = place.read("-i", path)
    texts = [file.read_text() for file in (place.directory / "kept").iterdir()]
    assert len(texts) == 1 and "acme" in texts[0] and "canary-of-ssh" not in texts[0]
    converge(place.directory / "h1", item("beta"))
    assert place.read("-i", path) == first
    assert first["_meta"]["hostvars"]["acme.h1"]["ansible_password"] == "canary-of-ssh"
    told = place.read("-i", path, "--flush-cache")
    assert sorted(told["_meta"]["hostvars"]) == ["acme.h1", "beta.h1"]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({}, "either inventory or listing"),
        ({"listing": "missing.json"}, "No such file"),
        ({"listing": "x.multibase.yml"}, "listing"),
        ({"inventory": "servers", "project": "."}, "say in project where the project is"),
        ({"inventory": "missing"}, "told nothing"),
    ],
)
def test_what_is_wrong_is_told(place: Place, options: Dict[str, Any], words: str) -> None:
    done = place.run("ansible-inventory", "-i", place.configure(**options), "--list")
    assert done.returncode != 0
    assert words in done.stderr
    assert "Traceback" not in done.stderr
