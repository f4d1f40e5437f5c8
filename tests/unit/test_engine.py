# SPDX-License-Identifier: GPL-3.0-or-later
"""What is read from the Engine: recorded answers, exact labels, and errors that name the way out.

``support.FakeDocker`` stands in for the client of the Docker SDK; no Engine is asked.
"""

from __future__ import annotations

import builtins
import ipaddress
import socket
from pathlib import Path
from typing import Any, Dict

import pytest

from ansible_collections.multibase.supabase.plugins.module_utils import _engine, _host
from ansible_collections.multibase.supabase.plugins.module_utils._engine import Engine, container_from_json
from ansible_collections.multibase.supabase.plugins.module_utils._errors import EngineUnavailable
from unit.support import FakeDocker

# As Docker 20.10 answers to /containers/json, shortened by what is not read.
RECORDED: Dict[str, Any] = {
    "Id": "8f3c" + "0" * 60,
    "Names": ["/multibase-acme-api-gw-1"],
    "Image": "envoyproxy/envoy:v1.39.1",
    "ImageID": "sha256:" + "ab" * 32,
    "Created": 1764000000,
    "Ports": [
        {"IP": "127.0.0.1", "PrivatePort": 8000, "PublicPort": 20000, "Type": "tcp"},
        {"PrivatePort": 10000, "Type": "tcp"},
        {"IP": "127.0.0.1", "PrivatePort": 53, "PublicPort": 20008, "Type": "udp"},
    ],
    "Labels": {
        "com.docker.compose.config-hash": "c0ffee",
        "com.docker.compose.oneoff": "False",
        "com.docker.compose.project": "multibase-acme",
        "com.docker.compose.service": "api-gw",
        "io.multibase.instance": "acme",
    },
    "State": "running",
    "Status": "Up 2 minutes (healthy)",
}


def test_a_recorded_container() -> None:
    container = container_from_json(RECORDED)
    assert container.name == "multibase-acme-api-gw-1"
    assert (container.project, container.service) == ("multibase-acme", "api-gw")
    assert (container.state, container.health, container.running) == ("running", "healthy", True)
    assert (container.config_hash, container.image) == ("c0ffee", "envoyproxy/envoy:v1.39.1")
    assert container.ports == (("127.0.0.1", 20000, 8000),)


@pytest.mark.parametrize(
    ("state", "status", "health", "running"),
    [
        ("running", "Up 2 minutes", "none", True),
        ("running", "Up 2 seconds (health: starting)", "starting", True),
        ("running", "Up 2 hours (unhealthy)", "unhealthy", True),
        ("restarting", "Restarting (1) 3 seconds ago", "none", True),
        ("paused", "Up 3 minutes (Paused)", "none", True),
        ("exited", "Exited (137) 2 days ago", "none", False),
        ("created", "Created", "none", False),
        ("dead", "Dead", "none", False),
        ("", "", "none", False),
    ],
)
def test_states(state: str, status: str, health: str, running: bool) -> None:
    container = container_from_json({**RECORDED, "State": state, "Status": status})
    assert (container.state, container.health, container.running) == (state, health, running)


@pytest.mark.parametrize("field", ["Labels", "Ports", "Names", "Status", "State", "Image", "ImageID", "Created"])
def test_absent_fields_are_no_error(field: str) -> None:
    container_from_json({**RECORDED, field: None})
    container_from_json({name: value for name, value in RECORDED.items() if name != field})


def test_containers_are_selected_by_exact_label() -> None:
    docker = FakeDocker()
    docker.add("multibase-app", "db")
    docker.add("multibase-app2", "db")
    docker.rows.append({"Id": "x", "Names": ["/multibase-app-fake"], "Labels": {}, "State": "running"})
    assert [container.project for container in Engine(docker).containers("multibase-app")] == ["multibase-app"]
    assert len(Engine(docker).containers()) == 2


def test_one_off_containers_are_not_counted() -> None:
    docker = FakeDocker()
    docker.add("multibase-app", "db")["Labels"]["com.docker.compose.oneoff"] = "True"
    assert Engine(docker).containers() == []


def test_what_is_left_is_found_by_project_and_by_instance_label() -> None:
    docker = FakeDocker()
    docker.add("multibase-app", "db", state="exited", status="Exited")
    docker.add("other", "scratch", instance="app")
    docker.add("multibase-app2", "db", instance="app2")
    labels = {"com.docker.compose.project": "multibase-app", "io.multibase.instance": "app"}
    docker.network_rows = [
        {"Name": "n", "Labels": labels},
        {"Name": "bridge", "Labels": {}},
        {"Name": "x", "Labels": None},
    ]
    docker.volume_rows = [{"Name": "v", "Labels": {"io.multibase.instance": "app"}}, {"Name": "w", "Labels": None}]
    left = Engine(docker).left_of("multibase-app", "app")
    assert left == {"containers": ["multibase-app-db-1", "other-scratch-1"], "networks": ["n"], "volumes": ["v"]}
    assert Engine(docker).left_of("multibase-ap", "ap") == {"containers": [], "networks": [], "volumes": []}


def test_published_ports_of_running_and_stopped_containers() -> None:
    docker = FakeDocker()
    docker.add("x", "on", Ports=[{"PrivatePort": 80, "PublicPort": 8080, "Type": "tcp"}, {"PrivatePort": 81}])
    off = docker.add("x", "off", state="exited", status="Exited")
    random = docker.add("x", "random", state="exited", status="Exited")
    docker.inspected[off["Id"]] = {
        "HostConfig": {"PortBindings": {"80/tcp": [{"HostPort": "8081"}, {"HostPort": "8082"}]}}
    }
    docker.inspected[random["Id"]] = {"HostConfig": {"PortBindings": {"80/tcp": [{"HostPort": ""}], "90/tcp": None}}}
    docker.add("x", "vanished", state="exited", status="Exited")
    ports = Engine(docker).published_ports()
    assert set(ports) == {8080, 8081, 8082}
    assert "x-on-1" in ports[8080] and "x-off-1" in ports[8081]


def test_images_by_tag() -> None:
    docker = FakeDocker()
    docker.image_rows = [{"Id": "sha256:1", "RepoTags": ["a:1", "b:1"]}, {"Id": "sha256:2", "RepoTags": None}]
    assert Engine(docker).image_ids() == {"a:1": "sha256:1", "b:1": "sha256:1"}


@pytest.mark.parametrize(
    ("text", "version"), [("20.10.24+dfsg1", (20, 10, 24)), ("29.1.2", (29, 1, 2)), ("26.1.5-ce", (26, 1, 5))]
)
def test_the_version(text: str, version: tuple[int, ...]) -> None:
    assert Engine(FakeDocker(text)).version() == version


def test_logs_are_text_and_a_container_that_is_gone_has_none() -> None:
    docker = FakeDocker()
    row = docker.add("x", "db")
    docker.printed[row["Id"]] = "one\ntwo\nthr\ufffdee"
    assert Engine(docker).logs(row["Id"], 2) == "two\nthr\ufffdee"

    class Gone(FakeDocker):
        def logs(self, container: str, tail: int = 0, timestamps: bool = False) -> bytes:
            raise type("NotFound", (Exception,), {})(container)

    assert Engine(Gone()).logs("x", 2) == ""


def test_containers_that_vanish_in_between_are_no_error() -> None:
    engine = Engine(FakeDocker())
    engine.stop("gone")
    engine.remove("gone")


def test_an_engine_that_fails_is_named_with_what_was_asked() -> None:
    class Broken(FakeDocker):
        def version(self) -> Dict[str, str]:
            raise ConnectionResetError("connection reset")

    with pytest.raises(EngineUnavailable) as caught:
        Engine(Broken()).version()
    assert "version" in str(caught.value) and "connection reset" in str(caught.value)


# Getting one


def test_no_engine_names_the_playbook(tmp_path: Path) -> None:
    address = "unix://{0}/docker.sock".format(tmp_path)
    assert _engine.connect_if_present(address) is None
    with pytest.raises(EngineUnavailable) as caught:
        _engine.connect(address)
    assert "playbooks/site.yml" in str(caught.value) and address in str(caught.value)


def test_a_missing_docker_library_names_the_playbook(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    original = builtins.__import__

    def without_docker(name: str, *more: Any, **options: Any) -> Any:
        if name == "docker" or name.startswith("docker."):
            raise ImportError(name)
        return original(name, *more, **options)

    monkeypatch.setattr(builtins, "__import__", without_docker)
    (tmp_path / "docker.sock").touch()
    for connect in (_engine.connect, _engine.connect_if_present):
        with pytest.raises(EngineUnavailable) as caught:
            connect("unix://{0}/docker.sock".format(tmp_path))
        assert "playbooks/site.yml" in str(caught.value) and "python3-docker" in str(caught.value)


def test_an_engine_that_does_not_answer(tmp_path: Path) -> None:
    path = str(tmp_path / "s")
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(path)
    listener.close()
    with pytest.raises(EngineUnavailable) as caught:
        _engine.connect("unix://" + path)
    assert path in str(caught.value)


# The rest of the host


PROC_TCP = """  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 0100007F:4E20 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 1 1 0 100 0 0 10 0
   1: 0100007F:4E21 0100007F:1234 01 00000000:00000000 00:00000000 00000000     0        0 1 1 0 100 0 0 10 0
   2: 00000000:0016 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 1 1 0 100 0 0 10 0
   3: 0100007F:4E22 0100007F:1234 06 00000000:00000000 00:00000000 00000000     0        0 0 3 0
"""
PROC_TCP6 = """  sl  local_address                         remote_address                        st
   0: 00000000000000000000000001000000:4E2A 00000000000000000000000000000000:0000 0A 0:0 0:0 0 0 0 1 1 0
"""
PROC_ROUTE = """Iface	Destination	Gateway 	Flags	RefCnt	Use	Metric	Mask		MTU	Window	IRTT
eth0	00000000	0100A8C0	0003	0	0	0	00000000	0	0	0
br-1	0000D50A	00000000	0001	0	0	0	C0FFFFFF	0	0	0
wg0	0010000A	00000000	0001	0	0	0	00F0FFFF	0	0	0
"""


def test_listening_sockets_of_the_kernels_tables() -> None:
    assert set(_host.listening_ports([PROC_TCP, PROC_TCP6, ""])) == {20000, 22, 20010}


def test_routes_of_the_kernels_table() -> None:
    assert _host.routed_networks(PROC_ROUTE) == [
        ipaddress.IPv4Network("10.213.0.0/26"), ipaddress.IPv4Network("10.0.16.0/20"),
    ]  # fmt: skip
    assert _host.routed_networks("") == []
