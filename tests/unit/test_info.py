# SPDX-License-Identifier: GPL-3.0-or-later
"""What is told about instances: complete, from one call to the Engine, and never a secret.

``support.FakeDocker`` stands in for the Engine.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ansible_collections.multibase.supabase.plugins.module_utils._engine import Engine
from ansible_collections.multibase.supabase.plugins.module_utils._info import describe_all
from ansible_collections.multibase.supabase.plugins.module_utils._layout import Layout
from unit.support import SERVICES, FakeDocker, assert_no_secret, converge, item, secrets_of, snapshot

KEYS = {
    "name", "state", "health", "problem", "directory", "project", "release", "gateway", "size", "bind_address", "ports",
    "urls", "subnet", "services",
}  # fmt: skip


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
    text = json.dumps(describe_all(Layout(str(tmp_path)), ["acme"], Engine(docker)))
    assert_no_secret(text, {**secrets_of(tmp_path, "acme"), "mail": "canary password"}, "what is told")
    assert "fingerprint" not in text
    assert snapshot(tmp_path, times=True) == before
