# SPDX-License-Identifier: GPL-3.0-or-later
"""Probes of instances, answered by a stand-in of a gateway; a real one is in tests/e2e/test_server.py."""

from __future__ import annotations

import http.server
import json
import threading
import time
from pathlib import Path
from typing import Any, Dict, Iterator, List, Optional, Tuple

import pytest

from ansible_collections.multibase.supabase.plugins.module_utils import _probe_watcher, _probes
from ansible_collections.multibase.supabase.plugins.module_utils._layout import Layout
from ansible_collections.multibase.supabase.plugins.module_utils._monitor_settings import parse
from ansible_collections.multibase.supabase.plugins.module_utils._probe_watcher import ProbeWatcher
from ansible_collections.multibase.supabase.plugins.module_utils._probes import Target
from unit.support import converge, env_of, item, manifest_of

ANON, SERVICE = "canary.anon.key", "canary.service.key"
ALL = ("auth", "rest", "storage", "realtime", "functions", "supavisor")


class Gateway(http.server.BaseHTTPRequestHandler):
    """Stands in for a gateway with services behind it; ``broken`` are paths and the statuses that they give instead."""

    broken: Dict[str, int]
    seen: List[Tuple[str, Dict[str, str]]]
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        path = self.path.split("?")[0]
        headers = {name.lower(): value for name, value in self.headers.items()}
        self.seen.append((self.path, headers))
        key = headers.get("apikey", "")
        status = 200 if key or path.endswith("jwks.json") else 401
        if path == "/realtime/v1/websocket":
            status = 101 if headers.get("upgrade") == "websocket" and key else 400
        if path == "/functions/v1/hello":
            status = 404
        status = self.broken.get(path, status)
        if status == 0:
            time.sleep(1)
        self.send_response(status or 200)
        if status == 101:
            self.send_header("Upgrade", "websocket")
            self.send_header("Connection", "Upgrade")
        else:
            self.send_header("Content-Length", "0")
        self.end_headers()
        self.close_connection = True

    def log_message(self, *_arguments: Any) -> None:
        """Say nothing."""


@pytest.fixture
def gateway() -> Iterator[Tuple[int, Any]]:
    handler: Any = type("Handler", (Gateway,), {"broken": {}, "seen": []})
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server.server_port, handler
    server.shutdown()
    server.server_close()


def target(port: int, services: Tuple[str, ...] = ALL) -> Target:
    return Target("acme", "http", "127.0.0.1", port, services, ANON, SERVICE)


def results(probes: List[Dict[str, Any]]) -> Dict[str, bool]:
    assert all(probe["latency_ms"] >= 0 and probe["checked_at"] > 0 for probe in probes)
    return {probe["name"]: probe["ok"] for probe in probes}


def test_an_instance_that_answers(gateway: Tuple[int, Any]) -> None:
    port, handler = gateway
    probes = _probes.run(target(port), 5)
    assert results(probes) == dict.fromkeys(
        ["auth", "jwks", "rest", "storage", "realtime", "functions", "no_key"], True
    )
    assert {probe["detail"] for probe in probes} == {""}
    # Keys are in headers, where no log has them.
    assert not [path for path, _headers in handler.seen if "canary" in path]
    sent = {path.split("?")[0]: headers.get("apikey") for path, headers in handler.seen[:-1]}
    assert sent["/rest/v1/"] == SERVICE and sent["/auth/v1/health"] == ANON
    assert handler.seen[-1][0] == "/rest/v1/" and "apikey" not in handler.seen[-1][1]


@pytest.mark.parametrize(
    ("path", "status", "probe"),
    [
        ("/auth/v1/health", 503, "auth"), ("/auth/v1/.well-known/jwks.json", 401, "jwks"),
        ("/storage/v1/status", 404, "storage"), ("/realtime/v1/websocket", 200, "realtime"),
        ("/functions/v1/hello", 502, "functions"),
    ],
)  # fmt: skip
def test_one_service_that_does_not_answer(gateway: Tuple[int, Any], path: str, status: int, probe: str) -> None:
    port, handler = gateway
    handler.broken[path] = status
    probes = _probes.run(target(port), 5)
    assert [one["name"] for one in probes if not one["ok"]] == [probe]
    assert [one["detail"] for one in probes if not one["ok"]] == [f"status {status}"]


def test_a_gateway_that_lets_everybody_in(gateway: Tuple[int, Any]) -> None:
    port, handler = gateway
    handler.broken["/rest/v1/"] = 200
    assert results(_probes.run(target(port), 5))["no_key"] is False


def test_a_service_that_hangs_is_given_up(gateway: Tuple[int, Any]) -> None:
    port, handler = gateway
    handler.broken["/auth/v1/health"] = 0
    auth = _probes.run(target(port), 0.2)[0]
    assert (auth["ok"], auth["detail"]) == (False, "no answer in time")


def test_nobody_there_tells_no_key() -> None:
    probes = _probes.run(target(1), 1)
    assert not any(probe["ok"] for probe in probes) and {probe["detail"] for probe in probes} == {"nobody listens"}
    assert "canary" not in json.dumps(probes) + repr(target(1))


def test_services_that_are_switched_off_are_not_probed(gateway: Tuple[int, Any]) -> None:
    assert results(_probes.run(target(gateway[0], ("rest",)), 5)) == {"rest": True, "no_key": True}


def test_a_pooler_is_logged_in_to() -> None:
    from ansible_collections.multibase.supabase.plugins.module_utils._postgres import Login

    pooler = Login("127.0.0.1", 1, "postgres.acme", "canary-password")
    (probe,) = _probes.run(Target("acme", "http", "127.0.0.1", 1, (), ANON, SERVICE, pooler), 1)
    assert (probe["name"], probe["ok"]) == ("pooler", False) and "canary" not in probe["detail"]


def test_a_target_is_made_of_an_instances_own_files(tmp_path: Path) -> None:
    converge(tmp_path, item("acme"), item("beta", services={"supavisor": False, "pgbouncer": True}))
    for name, user in (("acme", "postgres.acme"), ("beta", "postgres")):
        variables = env_of(tmp_path, name)
        found = _probes.target_of(manifest_of(tmp_path, name), variables)
        assert found is not None and found.pooler is not None
        assert (found.scheme, found.host, str(found.port)) == ("http", "127.0.0.1", variables["API_GW_HTTP_PORT"])
        assert (found.anon_key, found.service_key) == (variables["ANON_KEY"], variables["SERVICE_ROLE_KEY"])
        assert (found.pooler.user, found.pooler.password) == (user, variables["POSTGRES_PASSWORD"])
        assert str(found.pooler.port) == variables["POOLER_PROXY_PORT_TRANSACTION"]


@pytest.mark.parametrize(("address", "host"), [("0.0.0.0", "127.0.0.1"), ("::", "::1"), ("10.1.2.3", "10.1.2.3")])
def test_where_an_instance_is_asked(address: str, host: str) -> None:
    manifest = {"name": "acme", "services": [], "bind_address": address, "ports": {"gateway_https": 20001}}
    found = _probes.target_of(manifest, {})
    assert found is not None and (found.scheme, found.host, found.port) == ("https", host, 20001)
    assert _probes.target_of({"name": "acme", "services": [], "ports": {}}, {}) is None


# The watcher


class Run:
    """Probes that are a stand-in."""

    def __init__(self) -> None:
        self.calls: List[str] = []
        self.error: Optional[Exception] = None

    def __call__(self, wanted: Target, _timeout: float) -> List[Dict[str, Any]]:
        self.calls.append(wanted.name)
        if self.error:
            raise self.error
        return [{"name": "auth", "ok": True, "latency_ms": 1.0, "checked_at": 1.0, "detail": ""}]


def live(state: str = "healthy") -> Dict[str, Any]:
    return {"instances": [{"name": name, "state": state, "probes": []} for name in ("acme", "beta")]}


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    converge(tmp_path, item("acme"), item("beta"))
    return Layout(str(tmp_path))


def settled(watcher: ProbeWatcher) -> None:
    for going in list(watcher._going.values()):
        going.result(10)


def test_each_instance_is_probed_when_it_is_due(layout: Layout, monkeypatch: pytest.MonkeyPatch) -> None:
    run, clock = Run(), [1000.0]
    monkeypatch.setattr(_probe_watcher.time, "monotonic", lambda: clock[0])
    watcher = ProbeWatcher(layout, parse({"probe_interval": 30}), print, run)
    first = live()
    watcher.look(first, 0)
    assert first["instances"][0]["probes"] == [], "a look waits for nothing"
    settled(watcher)
    second = live()
    watcher.look(second, 0)
    assert [len(entry["probes"]) for entry in second["instances"]] == [1, 1] and sorted(run.calls) == ["acme", "beta"]
    clock[0] += 31
    watcher.look(live(), 0)
    settled(watcher)
    assert sorted(run.calls) == ["acme", "acme", "beta", "beta"]
    watcher.close()


@pytest.mark.parametrize("state", ["stopped", "unknown", "damaged"])
def test_of_what_does_not_run_nothing_is_expected(layout: Layout, state: str) -> None:
    run = Run()
    watcher = ProbeWatcher(layout, parse(None), print, run)
    watcher.look(live(), 0)
    settled(watcher)
    stopped = live(state)
    watcher.look(stopped, 0)
    assert [entry["probes"] for entry in stopped["instances"]] == [[], []] and len(run.calls) == 2
    again = live()
    watcher.look(again, 0)
    assert again["instances"][0]["probes"] == [], "what was before it stopped tells nothing"
    watcher.close()


def test_probes_that_are_switched_off(layout: Layout) -> None:
    run = Run()
    ProbeWatcher(layout, parse({"probes": False}), print, run).look(live(), 0)
    assert run.calls == []


def test_what_keeps_an_instance_from_being_probed_is_said_once(layout: Layout) -> None:
    said: List[str] = []
    Path(layout.env("acme")).unlink()
    watcher = ProbeWatcher(layout, parse({"probe_interval": 5}), said.append, Run())
    for _ in range(3):
        watcher.look(live(), 0)
        settled(watcher)
        watcher._due.clear()
    assert len(said) == 1 and "acme cannot be probed" in said[0]
    watcher.close()
