# SPDX-License-Identifier: GPL-3.0-or-later
"""The sampler on a host of files, with a stand-in of an Engine; test_stats_engine.py has a real one."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from pathlib import Path
from typing import Any, Dict, List, Optional, Tuple

import pytest
from jsonschema import Draft202012Validator

from ansible_collections.multibase.supabase.plugins.module_utils import (
    _container_readings,
    _live,
    _monitor_settings,
    _sampler,
    _stats,
)
from ansible_collections.multibase.supabase.plugins.module_utils._container_readings import seconds_of
from ansible_collections.multibase.supabase.plugins.module_utils._engine import Container, Engine
from ansible_collections.multibase.supabase.plugins.module_utils._errors import EngineUnavailable, UnknownInstance
from ansible_collections.multibase.supabase.plugins.module_utils._layout import Layout
from ansible_collections.multibase.supabase.plugins.module_utils._monitor_settings import MonitorSettings
from ansible_collections.multibase.supabase.plugins.module_utils._sampler import Sampler, Watcher
from ansible_collections.multibase.supabase.plugins.module_utils._site_certificates import parse_certificate
from unit.support import REPOSITORY, converge, item

LIVE = Draft202012Validator(json.loads((REPOSITORY / "docs" / "schemas" / "live.schema.json").read_text()))
HISTORY = Draft202012Validator(json.loads((REPOSITORY / "docs" / "schemas" / "history.schema.json").read_text()))


class StandIn(Engine):
    """An Engine that has what a test says; it counts what it is asked."""

    def __init__(self) -> None:
        super().__init__(None)
        self.there: List[Container] = []
        self.asked: List[str] = []
        self.away = ""

    def _answer(self, what: str) -> None:
        self.asked.append(what)
        if self.away:
            raise EngineUnavailable(self.away)

    def version(self) -> Tuple[int, ...]:
        self._answer("version")
        return (26, 1, 5)

    def data_root(self) -> str:
        return "/"

    def containers(self, project: Optional[str] = None) -> List[Container]:
        self._answer("list")
        return self.there

    def inspect(self, container: str) -> Dict[str, Any]:
        self._answer("inspect " + container)
        state = {"Running": True, "Pid": os.getpid(), "StartedAt": "2026-11-26T10:00:00.123Z"}
        return {"State": state, "RestartCount": 2}

    def sample(self, container: str) -> Dict[str, Any]:
        self._answer("sample " + container)
        used = len(self.asked) * 1_000_000_000
        return {"cpu_stats": {"cpu_usage": {"total_usage": used}}, "memory_stats": {"usage": 1000, "limit": 5000}}


def container(
    service: str, state: str = "running", health: str = "healthy", project: str = "multibase-acme"
) -> Container:
    identity = (project + service).encode().hex().ljust(64, "0")[:64]
    ports = (("127.0.0.1", 20000, 8000),) if service == "api-gw" else ()
    return Container(identity, project + "-" + service, project, service, state, health, "i", "i", "h", 0, "", ports)


@pytest.fixture
def host(tmp_path: Path) -> Layout:
    """A host with two instances, of which one was never started."""
    converge(tmp_path, item("acme", labels={"team": "web", "year": 2026}), item("beta"))
    layout = Layout(str(tmp_path))
    os.makedirs(layout.panel)
    return layout


def services(layout: Layout, name: str = "acme") -> List[str]:
    return list(json.loads(Path(layout.manifest(name)).read_text())["services"])


def everything(layout: Layout) -> List[Container]:
    return [container(service) for service in services(layout)]


def by_name(live: Dict[str, Any]) -> Dict[str, Dict[str, Any]]:
    LIVE.validate(live)
    return {entry["name"]: entry for entry in live["instances"]}


def test_a_host_without_docker_and_without_instances(tmp_path: Path) -> None:
    def connect() -> Engine:
        raise EngineUnavailable("there is none")

    live = Sampler(Layout(str(tmp_path)), connect, print).once(time.time())
    LIVE.validate(live)
    assert live["host"]["engine"] == {"reachable": False, "version": "", "trouble": "there is none"}
    assert live["host"]["cpus"] > 0 and live["host"]["memory_total_bytes"] > 0


def test_what_is_seen_of_instances(host: Layout) -> None:
    engine = StandIn()
    engine.there = everything(host)
    sampler = Sampler(host, lambda: engine, print)
    sampler.look(time.time())
    time.sleep(0.3)
    found = by_name(sampler.look(time.time()))
    acme = found["acme"]
    assert (acme["state"], found["beta"]["state"]) == ("healthy", "stopped")
    assert acme["labels"] == {"team": "web", "year": "2026"}
    assert acme["use"]["memory_bytes"] == 1000 * len(services(host))
    assert acme["use"]["cpu_percent"] > 0
    gateway = next(service for service in acme["services"] if service["name"] == "api-gw")
    assert gateway["ports"] == [{"address": "127.0.0.1", "host": 20000, "container": 8000}]
    assert (gateway["restarts"], gateway["started_at"]) == (2, seconds_of("2026-11-26T10:00:00Z"))
    assert {service["state"] for service in found["beta"]["services"]} == {"absent"}


def test_a_container_is_inspected_when_it_is_new_or_changed(host: Layout) -> None:
    engine = StandIn()
    engine.there = everything(host)
    sampler = Sampler(host, lambda: engine, print)
    for _ in range(3):
        sampler.look(time.time())
    inspected = [call for call in engine.asked if call.startswith("inspect")]
    assert len(inspected) == len(engine.there)
    engine.asked.clear()
    engine.there = [container(engine.there[0].service, "exited"), *engine.there[1:]]
    found = by_name(sampler.look(time.time()))["acme"]
    assert [call for call in engine.asked if call.startswith("inspect")] == ["inspect " + engine.there[0].id]
    assert found["state"] == "degraded"
    assert engine.asked.count("list") == 1


def test_an_engine_that_goes_and_comes_back(host: Layout) -> None:
    engine = StandIn()
    engine.there = everything(host)
    sampler = Sampler(host, lambda: engine, print)
    sampler.look(time.time())
    engine.away = "it restarts"
    live = sampler.look(time.time())
    found = by_name(live)["acme"]
    assert live["host"]["engine"]["trouble"] == found["problem"] == "it restarts"
    assert found["state"] == "unknown" and {service["health"] for service in found["services"]} == {"unknown"}
    engine.away = ""
    assert by_name(sampler.look(time.time()))["acme"]["state"] == "healthy"


def test_a_damaged_manifest_is_told_and_the_others_are_seen(host: Layout) -> None:
    Path(host.manifest("beta")).write_text("{")
    engine = StandIn()
    engine.there = everything(host)
    found = by_name(Sampler(host, lambda: engine, print).look(time.time()))
    assert found["beta"]["state"] == "damaged" and "damaged" in found["beta"]["problem"]
    assert found["acme"]["state"] == "healthy"


def test_no_secret_is_in_what_the_panel_gets(host: Layout) -> None:
    engine = StandIn()
    engine.there = everything(host)
    text = json.dumps(Sampler(host, lambda: engine, print).look(time.time()))
    environment = Path(host.env("acme")).read_text()
    secrets = [line.split("=", 1)[1] for line in environment.splitlines() if "PASSWORD=" in line or "_KEY=" in line]
    assert len(secrets) > 3 and not [secret for secret in secrets if secret and secret in text]


class Probing(Watcher):
    """Fills a probe in, and notes that it was closed."""

    def __init__(self) -> None:
        self.closed = False

    def look(self, live: Dict[str, Any], now: float) -> None:
        live["instances"][0]["probes"] = [
            {"name": "auth", "ok": True, "latency_ms": 12.0, "checked_at": now, "detail": ""}
        ]

    def close(self) -> None:
        self.closed = True


class Failing(Watcher):
    def look(self, live: Dict[str, Any], now: float) -> None:
        raise RuntimeError("broken")


def run_for(sampler: Sampler, seconds: float) -> None:
    end = threading.Event()
    thread = threading.Thread(target=sampler.run, args=(end,))
    thread.start()
    time.sleep(seconds)
    end.set()
    thread.join(5)
    assert not thread.is_alive()


def test_the_loop_publishes_keeps_and_ends(host: Layout) -> None:
    engine = StandIn()
    engine.there = everything(host)
    said: List[str] = []
    probing = Probing()
    os.makedirs(host.panel_history)
    (Path(host.panel_history) / "gone.json").write_text("{}")
    settings = {"interval": 1, "host": "h1", "labels": {"zone": 1}}
    Path(host.monitor_settings).write_text(json.dumps(settings))
    sampler = Sampler(host, lambda: engine, said.append, lambda _settings: [Failing(), probing])
    run_for(sampler, 2.5)
    live = json.loads(Path(host.live).read_text())
    LIVE.validate(live)
    assert live["host"]["name"] == "h1" and live["host"]["labels"] == {"zone": "1"} and live["interval"] == 1
    assert live["instances"][0]["probes"][0]["name"] == "auth"
    assert probing.closed and len([text for text in said if "broken" in text]) == 1
    assert engine.asked.count("list") in (3, 4), "one list at the start, and one each second"
    assert sorted(os.listdir(host.panel_history)) == ["_host.json", "acme.json", "beta.json"]
    for path in Path(host.panel_history).iterdir():
        HISTORY.validate(json.loads(path.read_text()))
    columns = json.loads((Path(host.panel_history) / "acme.json").read_text())["ranges"]["day"]["columns"]
    assert columns["latency_ms"] == [12.0] and columns["up"] == [1.0]
    assert Path(host.live).stat().st_mode & 0o777 == 0o640
    assert {path.stat().st_mode & 0o077 for path in Path(host.monitor_state).iterdir() if path.suffix == ".json"} == {0}


def test_new_settings_are_read_while_it_runs(host: Layout) -> None:
    made: List[MonitorSettings] = []

    def watchers(settings: MonitorSettings) -> List[Watcher]:
        made.append(settings)
        return []

    Path(host.monitor_settings).write_text('{"interval": 1}')
    sampler = Sampler(host, StandIn, print, watchers)
    threading.Timer(0.5, lambda: Path(host.monitor_settings).write_text('{"interval": 1, "slo_percent": 50}')).start()
    run_for(sampler, 2.2)
    assert [settings.slo_percent for settings in made] == [99.9, 50.0]


def test_a_full_disk_is_told_once_and_the_loop_goes_on(host: Layout, monkeypatch: pytest.MonkeyPatch) -> None:
    said: List[str] = []
    Path(host.monitor_settings).write_text('{"interval": 1}')
    sampler = Sampler(host, StandIn, said.append)

    def full(_live: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(sampler, "publish", full)
    run_for(sampler, 2.5)
    assert len([text for text in said if "No space" in text]) == 1


@pytest.mark.parametrize(
    "text", ["", "[]", "{", '{"interval": "often", "labels": 3, "rules": []}', '{"interval": 0, "probes": "no"}']
)
def test_settings_that_are_none_are_the_defaults(tmp_path: Path, text: str) -> None:
    layout = Layout(str(tmp_path))
    os.makedirs(layout.state)
    Path(layout.monitor_settings).write_text(text)
    found = _monitor_settings.SettingsFile(layout, lambda _text: None).current()
    assert found.probes is True and found.labels == {} and found.interval >= 1.0


# Who asks once


def test_a_fresh_look_of_the_sampler_is_taken(host: Layout) -> None:
    engine = StandIn()
    engine.there = everything(host)
    sampler = Sampler(host, lambda: engine, print)
    now = time.time()
    sampler.publish(sampler.look(now))
    engine.asked.clear()
    live, source = _stats.current(host, lambda: engine, now + 14, print)
    assert source == "sampler" and not engine.asked
    (row,) = _stats.results(live, ["acme"])
    assert (row["state"], row["restarts"]) == ("healthy", 2 * len(services(host)))
    assert _stats.current(host, lambda: engine, now + 16, print)[1] == "look"
    assert _stats.current(host, lambda: engine, now, print, ["gamma"])[1] == "look"
    with pytest.raises(UnknownInstance, match="acme, beta"):
        _stats.results(live, ["gamma"])


def test_without_a_sampler_the_second_look_knows_rates(host: Layout) -> None:
    engine = StandIn()
    engine.there = everything(host)
    first = Sampler(host, lambda: engine, print).once(time.time())
    time.sleep(0.3)
    second = Sampler(host, lambda: engine, print).once(time.time())
    assert by_name(first)["acme"]["use"]["cpu_percent"] is None
    assert by_name(second)["acme"]["use"]["cpu_percent"] > 0


@pytest.mark.parametrize("text", ["", "{", '{"schema": 2}', '{"schema": 1, "sampled_at": null, "interval": 5}'])
def test_a_live_file_that_is_none_is_not_taken(host: Layout, text: str) -> None:
    Path(host.live).write_text(text)
    assert _stats.read_fresh(host, time.time()) is None


# Parts


@pytest.mark.parametrize(
    ("entry", "up"),
    [
        ({"state": "healthy", "wanted": "running", "probes": []}, 1.0),
        ({"state": "degraded", "wanted": "running", "probes": []}, 0.0),
        ({"state": "degraded", "wanted": "running", "probes": [{"ok": True}]}, 1.0),
        ({"state": "healthy", "wanted": "running", "probes": [{"ok": True}, {"ok": False}]}, 0.0),
        ({"state": "stopped", "wanted": "stopped", "probes": []}, None),
        ({"state": "stopped", "wanted": "running", "probes": []}, 0.0),
        ({"state": "unknown", "wanted": "running", "probes": []}, None),
    ],
)
def test_when_an_instance_counts_as_up(entry: Dict[str, Any], up: Optional[float]) -> None:
    assert _live.is_up(entry) == up


def test_the_version_is_the_collections() -> None:
    text = (REPOSITORY / "collections" / "multibase" / "galaxy.yml").read_text()
    assert "\nversion: {0}\n".format(_live.VERSION) in text


def test_what_openssl_says_of_a_certificate() -> None:
    text = "notAfter=Feb  3 10:20:30 2027 GMT\nissuer=CN=Fake CA,O=Lab\n"
    assert parse_certificate(text) == (1801650030.0, "CN=Fake CA,O=Lab")
    assert parse_certificate("unable to load certificate") == (None, "")


@pytest.mark.parametrize(
    ("text", "found"), [("0001-01-01T00:00:00Z", None), ("", None), ("1970-01-02T00:00:01.5Z", 86401.0)]
)
def test_times_in_the_engines_words(text: str, found: Optional[float]) -> None:
    assert seconds_of(text) == found


# The pace, the end, averages


@pytest.mark.parametrize(
    ("due", "now", "following"),
    [
        (100.0, 100.0, 105.0),
        (100.0, 100.3, 105.0),
        (100.0, 104.999, 105.0),
        (100.0, 105.0, 110.0),
        # A look that took long, a machine that slept: one look at once would be no second reading.
        (100.0, 131.0, 135.0),
        (100.0, 99.0, 105.0),
    ],
)
def test_looks_keep_their_pace_and_are_not_made_up_for(due: float, now: float, following: float) -> None:
    assert _sampler.next_time(due, 5.0, now) == following


def test_a_signal_ends_the_wait_at_once() -> None:
    end = _sampler.Ending()
    before = signal.signal(signal.SIGUSR1, end.set)
    try:
        started = time.monotonic()
        assert end.wait(0.05) is False and not end.is_set()
        threading.Timer(0.1, lambda: os.kill(os.getpid(), signal.SIGUSR1)).start()
        assert end.wait(20) is True and end.is_set()
        assert end.wait(20) is True
        assert time.monotonic() - started < 5
    finally:
        signal.signal(signal.SIGUSR1, before)


def test_a_row_of_the_history_is_the_average_of_its_looks(host: Layout) -> None:
    engine = StandIn()
    engine.there = everything(host)
    live = Sampler(host, lambda: engine, print).look(time.time())
    means = _sampler.Means()
    for percent, load in ((None, 1.0), (10.0, 2.0), (30.0, 3.0)):
        live["instances"][0]["use"]["cpu_percent"] = percent
        live["host"]["load"] = [load, 0.0, 0.0]
        means.add(live)
    taken = means.take()
    assert taken["acme"]["cpu_percent"] == 20.0 and taken["_host"]["load"] == 2.0
    assert "latency_ms" not in taken["acme"], "it was never known"
    assert any(subject.startswith("_disk:") for subject in taken) and means.take() == {}


class Slow(StandIn):
    """An Engine elsewhere: one container is gone meanwhile, and one does not answer."""

    def sample(self, container: str) -> Dict[str, Any]:
        if container == self.there[0].id:
            raise EngineUnavailable("the connection was closed")
        if container == self.there[1].id:
            time.sleep(2)
        return super().sample(container)


def test_samples_of_the_engine_are_not_waited_for_longer_than_a_while(
    host: Layout, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_container_readings, "SAMPLES_SECONDS", 0.5)
    engine = Slow()
    engine.there = everything(host)
    started = time.monotonic()
    found = by_name(Sampler(host, lambda: engine, print).look(time.time()))["acme"]
    assert time.monotonic() - started < 1.5
    known = {service["name"]: service["use"]["memory_bytes"] is not None for service in found["services"]}
    assert sorted(name for name, there in known.items() if not there) == sorted(one.service for one in engine.there[:2])


def test_inspections_are_remembered_for_who_looks_once(host: Layout) -> None:
    engine = StandIn()
    engine.there = everything(host)
    Sampler(host, lambda: engine, print).once(time.time())
    engine.asked.clear()
    found = by_name(Sampler(host, lambda: engine, print).once(time.time()))["acme"]
    assert [call for call in engine.asked if call.startswith("inspect")] == []
    assert {service["restarts"] for service in found["services"]} == {2}
    engine.there[0] = container(engine.there[0].service, "exited")
    Sampler(host, lambda: engine, print).once(time.time())
    assert [call for call in engine.asked if call.startswith("inspect")] == ["inspect " + engine.there[0].id]


def test_who_looks_once_does_not_walk_over_all_files_again(host: Layout) -> None:
    live = Sampler(host, StandIn, print).look(time.time())
    for entry in live["instances"]:
        entry["disk"]["database_bytes"] = 4711
    Path(host.live).write_text(json.dumps(live))
    found = Sampler(host, StandIn, print).once(time.time())
    assert [entry["disk"]["database_bytes"] for entry in found["instances"]] == [4711, 4711]
    live["instances"].pop()
    Path(host.live).write_text(json.dumps(live))
    found = Sampler(host, StandIn, print).once(time.time())
    assert 4711 not in [entry["disk"]["database_bytes"] for entry in found["instances"]]
