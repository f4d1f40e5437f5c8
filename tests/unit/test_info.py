# SPDX-License-Identifier: GPL-3.0-or-later
"""What is told about instances: complete, from one call to the Engine, and never a secret.

``support.FakeDocker`` stands in for the Engine.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Mapping

import pytest

from ansible_collections.multibase.supabase.plugins.module_utils._engine import Engine
from ansible_collections.multibase.supabase.plugins.module_utils._info import describe_all
from ansible_collections.multibase.supabase.plugins.module_utils._layout import Layout
from unit.support import SERVICES, FakeDocker, assert_no_secret, converge, item, secrets_of, snapshot

KEYS = {
    "name", "state", "health", "problem", "environment", "labels", "blueprint", "directory", "project", "release",
    "gateway", "size", "resources", "bind_address", "ports", "urls", "subnet", "services",
}  # fmt: skip
DETAILS = {"declared", "env", "user_secrets", "secrets", "edited_secrets", "added_variables", "compose_files"}


def running(docker: FakeDocker, name: str) -> None:
    for service in SERVICES:
        docker.add("multibase-" + name, service, instance=name)


def test_a_running_instance(tmp_path: Path) -> None:
    converge(tmp_path, item("acme", size="large", expose=["postgres"], public_url="https://acme.example.com"))
    docker = FakeDocker()
    running(docker, "acme")
    row = docker.service("multibase-acme", "api-gw")
    row["Ports"] = [{"IP": "127.0.0.1", "PrivatePort": 8000, "PublicPort": 20000, "Type": "tcp"}]
    row["Image"] = "envoyproxy/envoy:v1.39.1"
    told = describe_all(Layout(str(tmp_path)), ["acme"], Engine(docker))[0]
    assert set(told) == KEYS
    assert (told["name"], told["state"], told["health"], told["problem"]) == ("acme", "running", "healthy", "")
    assert (told["release"], told["gateway"], told["size"]) == ("0.8.2", "envoy", "large")
    assert (told["project"], told["subnet"], told["bind_address"]) == ("multibase-acme", "10.213.0.0/26", "127.0.0.1")
    assert told["ports"] == {
        "gateway_http": 20000,
        "pooler_session": 20003,
        "pooler_transaction": 20004,
        "postgres": 20005,
    }
    assert told["urls"]["api"] == "https://acme.example.com"
    assert [service["name"] for service in told["services"]] == list(SERVICES)
    gateway = told["services"][0]
    assert gateway["ports"] == [{"address": "127.0.0.1", "host": 20000, "container": 8000}]
    assert gateway["image"] == "envoyproxy/envoy:v1.39.1" and gateway["health"] == "healthy"
    assert docker.calls == ["containers"]


def test_one_call_for_many_in_the_order_asked_for(tmp_path: Path) -> None:
    names = ["c", "a", "b"]
    converge(tmp_path, *[item(name) for name in names])
    docker = FakeDocker()
    running(docker, "a")
    told = describe_all(Layout(str(tmp_path)), names, Engine(docker))
    assert [entry["name"] for entry in told] == names and docker.calls == ["containers"]
    assert [entry["state"] for entry in told] == ["created", "running", "created"]
    assert [entry["health"] for entry in told] == ["stopped", "healthy", "stopped"]


def test_without_an_engine(tmp_path: Path) -> None:
    converge(tmp_path, item("acme"))
    told = describe_all(Layout(str(tmp_path)), ["acme"], None)[0]
    assert (told["state"], told["health"]) == ("unknown", "unknown")
    assert told["ports"]["gateway_http"] == 20000


def test_partial_stopped_and_unexpected(tmp_path: Path) -> None:
    converge(tmp_path, item("acme", services={"realtime": False}))
    docker = FakeDocker()
    running(docker, "acme")
    docker.service("multibase-acme", "auth").update(State="exited", Status="Exited (1)")
    told = describe_all(Layout(str(tmp_path)), ["acme"], Engine(docker))[0]
    assert (told["state"], told["health"]) == ("partial", "degraded")
    assert told["services"][-1]["name"] == "realtime", "what runs although it is off is told, at the end"
    for row in docker.rows:
        row.update(State="exited", Status="Exited (0)")
    told = describe_all(Layout(str(tmp_path)), ["acme"], Engine(docker))[0]
    assert (told["state"], told["health"]) == ("stopped", "stopped")


def test_names_that_begin_alike_are_not_confused(tmp_path: Path) -> None:
    converge(tmp_path, item("app"), item("app2"))
    docker = FakeDocker()
    running(docker, "app2")
    told = describe_all(Layout(str(tmp_path)), ["app", "app2"], Engine(docker))
    assert [entry["state"] for entry in told] == ["created", "running"]


@pytest.mark.parametrize(
    "damage", ["", "{", "null", "[]", "{}", '{"schema": 1, "name": "acme"}', '{"schema": 9, "name": "acme"}',
               '{"schema": 1, "name": "acme", "project": 5, "services": "x"}']
)  # fmt: skip
def test_a_damaged_instance_is_told_as_such_beside_the_others(tmp_path: Path, damage: str) -> None:
    converge(tmp_path, item("acme"), item("beta"))
    (tmp_path / "projects" / "acme" / "instance.json").write_text(damage)
    docker = FakeDocker()
    running(docker, "beta")
    told = describe_all(Layout(str(tmp_path)), ["acme", "beta"], Engine(docker))
    assert set(told[0]) == set(told[1]) == KEYS
    assert told[0]["state"] == "damaged" and "instance.json" in told[0]["problem"]
    assert told[1]["state"] == "running"


def test_never_a_secret_and_nothing_changed(tmp_path: Path) -> None:
    converge(tmp_path, item("acme", smtp={"host": "x", "password": "canary password"}))
    docker = FakeDocker()
    running(docker, "acme")
    before = snapshot(tmp_path, times=True)
    for details in (False, True):
        text = json.dumps(describe_all(Layout(str(tmp_path)), ["acme"], Engine(docker), details=details))
        assert_no_secret(text, {**secrets_of(tmp_path, "acme"), "mail": "canary password"}, "what is told")
        assert ("fingerprint" in text) is details
    assert snapshot(tmp_path, times=True) == before


# What a manifest says beside what every one says.
EXTENDED = {
    "environment": "production",
    "labels": {"team": "web"},
    "blueprint": "shop",
    "resources": {"cpus": 2.0, "memory": 4096, "services": {"db": {"cpus": "0.50", "memory": 512, "cpu_shares": 100}}},
    "env": {"auth": ["GOTRUE_LOG_LEVEL"]},
    "user_secrets": {"": ["SMTP_PASS"]},
}


def extend(root: Path, name: str, fields: Mapping[str, Any]) -> None:
    """Write fields into a manifest."""
    path = root / "projects" / name / "instance.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))


def test_environment_labels_blueprint_and_size(tmp_path: Path) -> None:
    converge(tmp_path, item("acme"))
    extend(tmp_path, "acme", EXTENDED)
    told = describe_all(Layout(str(tmp_path)), ["acme"], None)[0]
    assert set(told) == KEYS
    assert (told["environment"], told["labels"], told["blueprint"]) == ("production", {"team": "web"}, "shop")
    assert told["resources"] == {"cpus": 2.0, "memory": 4096}, "a list stays light"


@pytest.mark.parametrize("fields", [{}, dict.fromkeys(EXTENDED)], ids=["as written", "empty"])
def test_manifests_that_lack_the_newer_fields_can_be_read(tmp_path: Path, fields: Mapping[str, Any]) -> None:
    converge(tmp_path, item("acme"))
    path = tmp_path / "projects/acme/instance.json"
    manifest = json.loads(path.read_text())
    path.write_text(json.dumps({**{key: manifest[key] for key in manifest if key not in EXTENDED}, **fields}))
    (told,) = describe_all(Layout(str(tmp_path)), ["acme"], None, details=True)
    assert set(told) == KEYS | DETAILS
    assert (told["environment"], told["labels"], told["blueprint"], told["resources"]) == ("", {}, "", {})
    assert (told["env"], told["user_secrets"]) == ({}, {})


def test_details(tmp_path: Path) -> None:
    converge(tmp_path, item("acme", size="small", expose=["postgres"]))
    extend(tmp_path, "acme", EXTENDED)
    path = tmp_path / "projects" / "acme"
    secrets = secrets_of(tmp_path, "acme")
    text = (path / ".env").read_text().replace(secrets["DASHBOARD_PASSWORD"], "by-hand-0123456789")
    (path / ".env").write_text(text + "MY_OWN=canary value\n")
    (path / "docker-compose.override.yml").write_text("services: {}\n")
    docker = FakeDocker()
    running(docker, "acme")
    (told,) = describe_all(Layout(str(tmp_path)), ["acme"], Engine(docker), details=True)
    assert set(told) == KEYS | DETAILS
    assert (told["state"], told["problem"]) == ("running", "")
    assert told["declared"]["size"] == "small" and told["declared"]["expose"] == ["postgres"]
    assert told["resources"] == EXTENDED["resources"]
    assert (told["env"], told["user_secrets"]) == (EXTENDED["env"], EXTENDED["user_secrets"])
    assert (told["added_variables"], told["edited_secrets"]) == (["MY_OWN"], ["DASHBOARD_PASSWORD"])
    assert told["compose_files"][0] == "docker-compose.yml"
    assert "overlays/expose-postgres.yml" in told["compose_files"]
    assert told["compose_files"][-1] == "docker-compose.override.yml"
    assert told["secrets"]["ANON_KEY"].startswith("fingerprint:")
    assert "canary value" not in json.dumps(told)
    assert_no_secret(json.dumps(told), secrets, "what is told")
    assert docker.calls == ["containers"]


def test_details_say_what_is_wrong_with_the_env(tmp_path: Path) -> None:
    converge(tmp_path, item("acme"), item("beta"))
    extend(tmp_path, "acme", {"overlays": ["docker-compose.yml"]})
    (tmp_path / "projects/acme/.env").write_text("nothing\n")
    docker = FakeDocker()
    running(docker, "acme")
    names = ["acme", "beta"]
    told, other = describe_all(Layout(str(tmp_path)), names, Engine(docker), details=True)
    assert (told["state"], told["health"]) == ("running", "healthy")
    assert str(tmp_path / "projects/acme/.env") in told["problem"]
    assert told["compose_files"] == ["docker-compose.yml"]
    assert (other["state"], other["problem"]) == ("created", "")
    assert describe_all(Layout(str(tmp_path)), ["acme"], Engine(docker))[0]["problem"] == "", "a list does not read it"
    (told,) = describe_all(Layout(str(tmp_path)), ["acme"], None, "no Engine", details=True)
    assert told["problem"].startswith("no Engine; ")


def test_details_of_what_cannot_be_read_are_empty(tmp_path: Path) -> None:
    converge(tmp_path, item("acme"))
    (tmp_path / "projects/acme/instance.json").write_text("{")
    (tmp_path / "projects/.deleting-gone").mkdir()
    told = describe_all(Layout(str(tmp_path)), ["acme", "gone"], None, details=True)
    assert [entry["state"] for entry in told] == ["damaged", "deleting"]
    for entry in told:
        assert set(entry) == KEYS | DETAILS
        assert not any(entry[key] for key in DETAILS)
