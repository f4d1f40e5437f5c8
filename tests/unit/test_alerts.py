# SPDX-License-Identifier: GPL-3.0-or-later
"""Alerts: what every rule finds, when an alert begins and ends, and that each change is told once."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any, Callable, Dict, List, Tuple

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from ansible_collections.multibase.supabase.plugins.filter.alert_problems import alert_problems
from ansible_collections.multibase.supabase.plugins.module_utils import (
    _alert_acts,
    _alert_rules,
    _alerts,
    _live,
    _notify,
    _tool,
)
from ansible_collections.multibase.supabase.plugins.module_utils._alert_rules import RULES, Rules
from ansible_collections.multibase.supabase.plugins.module_utils._alert_watcher import AlertWatcher
from ansible_collections.multibase.supabase.plugins.module_utils._alerts import FIRING, PENDING, RESOLVED, State
from ansible_collections.multibase.supabase.plugins.module_utils._errors import InvalidInput
from ansible_collections.multibase.supabase.plugins.module_utils._layout import Layout
from ansible_collections.multibase.supabase.plugins.module_utils._monitor_settings import MonitorSettings, parse
from ansible_collections.multibase.supabase.plugins.module_utils._usage import NOTHING
from unit.support import REPOSITORY

SCHEMA = json.loads((REPOSITORY / "docs" / "schemas" / "live.schema.json").read_text())
PLAIN = Rules({}, {})
NOW = 1_795_700_000.0
MAIL = {"name": "ops", "kind": "mail", "host": "mail.example.com", "from": "m@example.com", "to": ["o@example.com"]}


def document() -> Dict[str, Any]:
    """A host on which everything is well."""
    backup = {"backup": "b", "finished_at": NOW, "bytes": 1, "verified": True, "scope": "full"}
    disk = {"path": "/data", "purpose": "data", "total_bytes": 100, "used_bytes": 10, "free_bytes": 90,
            "used_percent": 10.0, "full_in_days": None}  # fmt: skip
    service = {"name": "db", "container": "c", "state": "running", "health": "healthy", "restarts": 0,
               "started_at": NOW, "ports": [],
               "use": {**NOTHING, "memory_bytes": 10, "memory_limit_bytes": 100}}  # fmt: skip
    database = {"size_bytes": 1, "connections": {"idle": 1}, "max_connections": 100, "cache_hit_ratio": 1.0,
                "oldest_transaction_seconds": None, "wal_bytes": 1, "dead_tuples": 0, "slow_queries": [],
                "replication_slots": [{"name": "s", "active": True, "held_bytes": 0}], "checked_at": NOW}  # fmt: skip
    probe = {"name": "auth", "ok": True, "latency_ms": 5.0, "checked_at": NOW, "detail": ""}
    instance = {
        "name": "acme", "labels": {}, "state": "healthy", "wanted": "running", "problem": "", "release": "0.8.2",
        "urls": {}, "ports": {}, "use": {**NOTHING, "cpu_percent": 1.0}, "services": [service], "database": database,
        "disk": {"database_bytes": 1, "storage_bytes": 1, "backups_bytes": 1, "checked_at": NOW},
        "backups": {**_live.NO_BACKUPS, "count": 1, "newest": backup, "newest_verified": backup, "scheduled": True,
                    "last_exit_code": 0},
        "probes": [probe], "uptime": {"day_percent": 100, "month_percent": 100, "target_percent": 99.9}, "runs_url": "",
        "sparklines": {},
    }  # fmt: skip
    host = {
        "name": "h1", "labels": {}, "cpus": 2, "cpu_percent": 5.0, "load": [0.1, 0.1, 0.1], "memory_total_bytes": 100,
        "memory_used_bytes": 10, "memory_full_in_days": None, "swap_used_bytes": 0, "disks": [disk],
        "network_received_rate": 0.0, "network_sent_rate": 0.0, "uptime_seconds": 1.0,
        "engine": {"reachable": True, "version": "26", "trouble": ""}, "sparklines": {},
    }  # fmt: skip
    certificate = {"site": "acme", "domains": ["acme.example.com"], "not_after": NOW, "days_left": 60.0, "issuer": "i",
                   "kind": "acme"}  # fmt: skip
    return {
        "schema": 1, "version": "0.1.0", "sampled_at": NOW, "interval": 5, "host": host, "instances": [instance],
        "alerts": [], "certificates": [certificate],
    }  # fmt: skip


def changed(path: str, value: Any) -> Dict[str, Any]:
    """The document with one value changed; ``path`` is dotted, numbers are places in lists."""
    live = document()
    at: Any = live
    *parents, last = path.split(".")
    for part in parents:
        at = at[int(part)] if part.isdigit() else at[part]
    at[int(last) if last.isdigit() else last] = value
    return live


INSTANCE, SERVICE = "instances.0.", "instances.0.services.0."
# Of each rule: what makes it fire, what is too little for that, and instance and subject of the alert.
CASES: Dict[str, Tuple[str, Any, Any, str, str]] = {
    "host_cpu": ("host.cpu_percent", 90.0, 89.9, "", ""),
    "host_memory": ("host.memory_used_bytes", 92, 91, "", ""),
    "disk_used": ("host.disks.0.used_percent", 90.0, 89.0, "", "/data"),
    "disk_full_soon": ("host.disks.0.full_in_days", 7.0, 7.1, "", "/data"),
    "engine_unreachable": ("host.engine.reachable", False, True, "", ""),
    "instance_cpu": (INSTANCE + "use.cpu_percent", 160.0, 159.0, "acme", ""),
    "service_memory": (SERVICE + "use.memory_bytes", 90, 89, "acme", "db"),
    "instance_down": (INSTANCE + "state", "stopped", "degraded", "acme", ""),
    "service_down": (SERVICE + "health", "stopped", "starting", "acme", "db"),
    "service_unhealthy": (SERVICE + "health", "unhealthy", "starting", "acme", "db"),
    "service_restarts": (SERVICE + "restarts", 5, 4, "acme", "db"),
    "probe_failed": (INSTANCE + "probes.0.ok", False, True, "acme", "auth"),
    "probe_slow": (INSTANCE + "probes.0.latency_ms", 2000.0, 1999.0, "acme", "auth"),
    "backup_overdue": (INSTANCE + "backups.overdue", True, False, "acme", ""),
    "backup_failed": (INSTANCE + "backups.last_exit_code", 12, 0, "acme", ""),
    "backup_unverified": (INSTANCE + "backups.newest.verified", False, True, "acme", ""),
    "certificate_expiring": ("certificates.0.days_left", 14.0, 14.1, "acme", "acme.example.com"),
    "slot_lag": (INSTANCE + "database.replication_slots.0.held_bytes", 1 << 30, (1 << 30) - 1, "acme", "s"),
    "connections": (INSTANCE + "database.connections", {"idle": 80, "active": 5}, {"idle": 84}, "acme", ""),
    "long_transaction": (INSTANCE + "database.oldest_transaction_seconds", 3600.0, 3599.0, "acme", ""),
}


def test_every_rule_has_a_case_and_the_document_is_well() -> None:
    assert set(CASES) == set(RULES)
    Draft202012Validator(SCHEMA).validate(document())
    state = State()
    for second in range(0, 100000, 1000):
        assert _alerts.step(state, document(), PLAIN, NOW + second) == []
    assert state == State()


@pytest.mark.parametrize("name", sorted(CASES))
def test_every_rule_fires_and_resolves(name: str) -> None:
    path, bad, _good, instance, subject = CASES[name]
    rule, state = RULES[name].rule, State()
    assert _alerts.step(state, changed(path, bad), PLAIN, NOW) == [] or rule.wait == 0
    if rule.wait:
        assert _alerts.step(state, changed(path, bad), PLAIN, NOW + rule.wait - 1) == []
    fired = _alerts.step(state, changed(path, bad), PLAIN, NOW + rule.wait)
    if rule.wait == 0:
        fired = fired or [_alerts._event("firing", "h1", next(iter(state.alerts.values())), NOW)]
    (event,) = [one for one in fired if one.alert["rule"] == name]
    assert (event.change, event.alert["instance"], event.alert["subject"]) == ("firing", instance, subject)
    assert event.alert["severity"] == rule.severity and "{" not in event.alert["message"]
    # It is told once, however long it lasts.
    assert list(_alerts.step(state, changed(path, bad), PLAIN, NOW + rule.wait + 5)) == []
    since = NOW + rule.wait + 10
    for later in (0.0, rule.resolve_after):
        told = _alerts.step(state, document(), PLAIN, since + later)
    (event,) = [one for one in told if one.alert["rule"] == name]
    assert event.change == "resolved"
    shown = [one for one in _alerts.all_shown(state, since) if one["rule"] == name]
    live = document()
    live["alerts"] = shown
    Draft202012Validator(SCHEMA).validate(live)
    assert [one["state"] for one in shown] == [RESOLVED]
    _alerts.step(state, document(), PLAIN, since + rule.resolve_after + 3601)
    assert state.alerts == {}


@pytest.mark.parametrize("name", sorted(CASES))
def test_every_rule_leaves_what_is_nearly_bad_alone(name: str) -> None:
    path, _bad, good, _instance, _subject = CASES[name]
    state = State()
    for second in (0.0, 1e5):
        _alerts.step(state, changed(path, good), PLAIN, NOW + second)
    assert name not in {alert.rule for alert in state.alerts.values()}


def test_between_the_thresholds_an_alert_goes_on_and_none_begins() -> None:
    between = changed("host.cpu_percent", 85.0)
    state = State()
    _alerts.step(state, between, PLAIN, NOW)
    assert state.alerts == {}
    for second in (0, 600):
        _alerts.step(state, changed("host.cpu_percent", 95.0), PLAIN, NOW + second)
    assert _alerts.step(state, between, PLAIN, NOW + 10000) == []
    assert [alert.state for alert in state.alerts.values()] == [FIRING]


def test_what_flaps_is_one_alert() -> None:
    state, told = State(), []
    for second in range(0, 3600, 30):
        value = 95.0 if second < 620 or second // 30 % 2 else 50.0
        told += _alerts.step(state, changed("host.cpu_percent", value), PLAIN, NOW + second)
    assert [event.change for event in told] == ["firing"]


def test_what_ends_before_its_time_is_never_told_and_forgotten() -> None:
    state = State()
    _alerts.step(state, changed("host.cpu_percent", 95.0), PLAIN, NOW)
    assert [alert.state for alert in state.alerts.values()] == [PENDING]
    assert _alerts.step(state, document(), PLAIN, NOW + 5) == [] and state.alerts == {}


def firing(live: Dict[str, Any], seconds: float = 1e6) -> State:
    state = State()
    _alerts.step(state, live, PLAIN, NOW)
    _alerts.step(state, live, PLAIN, NOW + seconds)
    return state


def test_an_instance_that_was_stopped_on_purpose_is_no_alert() -> None:
    live = changed("instances.0.state", "stopped")
    live["instances"][0]["wanted"] = "stopped"
    live["instances"][0]["services"][0].update(state="exited", health="stopped")
    assert firing(live).alerts == {}


def test_an_instance_that_is_down_is_one_alert_and_not_one_for_each_service() -> None:
    live = changed("instances.0.state", "stopped")
    live["instances"][0]["services"][0].update(state="exited", health="stopped")
    assert [alert.rule for alert in firing(live).alerts.values()] == ["instance_down"]


def test_while_docker_is_away_alerts_stay_as_they_were() -> None:
    state = firing(changed(SERVICE + "health", "unhealthy"), 120)
    away = changed("host.engine.reachable", False)
    away["instances"][0].update(state="unknown")
    assert _alerts.step(state, away, PLAIN, NOW + 200) == []
    assert "service_unhealthy" in {alert.rule for alert in state.alerts.values()}


def test_what_is_gone_is_over() -> None:
    state = firing(changed(SERVICE + "health", "unhealthy"), 120)
    gone = document()
    gone["instances"] = []
    assert [event.change for event in _alerts.step(state, gone, PLAIN, NOW + 200)] == ["resolved"]


def test_a_rule_that_is_switched_off_ends_its_alerts() -> None:
    live = changed("host.cpu_percent", 95.0)
    state = firing(live, 700)
    assert [one.change for one in _alerts.step(state, live, Rules({"host_cpu": False}, {}), NOW + 800)] == ["resolved"]


# Silences and acknowledgements


def test_a_silence_keeps_an_alert_from_being_told_until_it_ends() -> None:
    live, state = changed(SERVICE + "health", "unhealthy"), State()
    _alerts.silence(state, "acme", "", "", 600, "alice", "upgrade", NOW)
    for second in (0, 120, 590):
        assert _alerts.step(state, live, PLAIN, NOW + second) == []
    (shown,) = _alerts.all_shown(state, NOW + 590)
    assert shown["state"] == FIRING and shown["silenced_until"] == NOW + 600
    assert [event.change for event in _alerts.step(state, live, PLAIN, NOW + 601)] == ["firing"]
    assert state.silences == []


def test_what_was_never_told_is_not_told_to_be_over() -> None:
    live, state = changed(SERVICE + "health", "unhealthy"), State()
    _alerts.silence(state, "", "service_unhealthy", "", 6000, "alice", "", NOW)
    for second in (0, 120):
        _alerts.step(state, live, PLAIN, NOW + second)
    assert [_alerts.step(state, document(), PLAIN, NOW + second) for second in (200, 300)] == [[], []]
    assert [alert.state for alert in state.alerts.values()] == [RESOLVED]


@pytest.mark.parametrize(
    ("instance", "rule", "subject", "covers"),
    [("", "", "", True), ("acme", "", "", True), ("acm", "", "", False), ("", "service_unhealthy", "db", True),
     ("", "host_cpu", "", False), ("", "", "auth", False)],
)  # fmt: skip
def test_whom_a_silence_covers(instance: str, rule: str, subject: str, covers: bool) -> None:
    (alert,) = firing(changed(SERVICE + "health", "unhealthy")).alerts.values()
    assert _alerts.silence(State(), instance, rule, subject, 60, "a", "", NOW).covers(alert) is covers


def test_an_acknowledgement_is_shown_and_ends_with_its_alert() -> None:
    state = firing(changed(SERVICE + "health", "unhealthy"), 120)
    (identity,) = state.alerts
    _alerts.acknowledge(state, identity, "alice", "on it", NOW)
    assert _alerts.all_shown(state, NOW)[0]["acknowledged"] == {"by": "alice", "at": NOW, "note": "on it"}
    for second in (200, 300):
        _alerts.step(state, document(), PLAIN, NOW + second)
    assert state.alerts[identity].acknowledged is None
    with pytest.raises(InvalidInput, match="none"):
        _alerts.acknowledge(state, identity, "alice", "", NOW)


def test_mistakes_of_people_are_named() -> None:
    with pytest.raises(InvalidInput, match=r"there is no rule cpu; there are .*host_cpu"):
        _alerts.silence(State(), "", "cpu", "", 60, "a", "", NOW)
    with pytest.raises(InvalidInput, match="a year"):
        _alerts.silence(State(), "", "", "", 0, "a", "", NOW)
    with pytest.raises(InvalidInput, match="there are: none"):
        _alerts.unsilence(State(), "abc")
    for text in ("", "2", "h", "2 h", "2y"):
        with pytest.raises(InvalidInput):
            _alert_acts.seconds_of(text)
    assert _alert_acts.seconds_of("1d12h") == 129600


@given(st.lists(st.tuples(st.sampled_from([0.0, 85.0, 95.0]), st.integers(1, 900), st.booleans()), max_size=60))
def test_firing_and_resolved_are_told_in_turn_whatever_happens(steps: List[Tuple[float, int, bool]]) -> None:
    state, told, now = State(), [], NOW
    for value, seconds, silenced in steps:
        now += seconds
        if silenced:
            _alerts.silence(state, "", "host_cpu", "", 700, "a", "", now)
        told += [event.change for event in _alerts.step(state, changed("host.cpu_percent", value), PLAIN, now)]
    assert told == [("firing", "resolved")[number % 2] for number in range(len(told))]


# Settings of rules


@pytest.mark.parametrize(
    ("rules", "instance_rules", "words"),
    [
        ({"cpu": False}, {}, ["rules: there is no rule 'cpu'"]),
        ({"host_cpu": {"limit": 1, "severity": "bad"}}, {}, ["rules.host_cpu.limit", "rules.host_cpu.severity"]),
        ({"host_cpu": {"threshold": "90"}}, {}, ["rules.host_cpu.threshold: must be a number"]),
        ({"host_cpu": {"for": -1}}, {}, ["rules.host_cpu.for"]),
        ({"host_cpu": {"threshold": 50, "resolve_threshold": 60}}, {}, ["must not be above threshold"]),
        ({"disk_full_soon": {"resolve_threshold": 3}}, {}, ["must not be below threshold"]),
        ({"host_cpu": 3}, {"acme": {"no": True}, "b": 1}, ["rules.host_cpu", "rules.acme", "rules.b"]),
        ([], {}, ["rules: must be"]),
        ({}, [], ["instance_rules: must be"]),
    ],
)  # fmt: skip
def test_what_is_wrong_with_rules_is_told_together(rules: Any, instance_rules: Any, words: List[str]) -> None:
    found = _alert_rules.problems(rules, instance_rules)
    assert len(found) == len(words)
    assert all(word in text for word, text in zip(words, found)), found


def test_good_settings_have_no_problems_and_hold() -> None:
    rules = {"host_cpu": {"threshold": 50, "for": 0}, "disk_used": False, "probe_slow": {"severity": "critical"}}
    own = {"acme": {"probe_slow": {"threshold": 100}, "disk_used": True}, "beta": {"probe_slow": False}}
    assert alert_problems(rules, own) == []
    found = Rules(rules, own)
    cpu, slow = found.of("host_cpu", ""), found.of("probe_slow", "acme")
    assert cpu and (cpu.threshold, round(cpu.resolve_threshold, 1), cpu.wait) == (50, 44.4, 0)
    assert slow and (slow.threshold, slow.resolve_threshold, slow.severity) == (100, 75, "critical")
    assert found.of("probe_slow", "beta") is None and found.of("disk_used", "") is None
    assert found.of("disk_used", "acme") == RULES["disk_used"].rule


def test_the_page_has_every_rule_with_its_defaults() -> None:
    page = (REPOSITORY / "docs" / "alerts.md").read_text()
    for row in _alert_rules.table():
        sign = "≤" if row["below"] else "≥"
        unit = f" {row['unit']}" if row["unit"] else ""
        begins = f"{sign} {_alert_rules.plain(row['threshold'])}{unit}" if row["unit"] else "yes"
        ends = f"{_alert_rules.plain(row['resolve_threshold'])}{unit}" if row["unit"] else "no"
        cells = [
            f"`{row['name']}`",
            row["meaning"],
            row["severity"],
            begins,
            ends,
            f"{row['wait']} s",
            f"{row['resolve_after']:.0f} s",
        ]
        assert f"| {' | '.join(cells)} |" in page, " | ".join(cells)


# The watcher and its file


class Post:
    """Takes messages, or fails as told."""

    def __init__(self) -> None:
        self.taken: List[Tuple[str, str, str]] = []
        self.broken = False

    def __call__(self, channel: Any, message: Any, _now: float) -> None:
        if self.broken:
            raise _notify.NotDelivered("channel {0}: away".format(channel["name"]))
        self.taken.append((channel["name"], message["change"], message["id"]))


@pytest.fixture
def watched(tmp_path: Path) -> Layout:
    layout = Layout(str(tmp_path))
    Path(layout.state).mkdir()
    Path(layout.channels).write_text(json.dumps([MAIL, {**MAIL, "name": "night", "severities": ["critical"]}]))
    return layout


def watcher(layout: Layout, post: Callable[..., None], said: List[str]) -> AlertWatcher:
    made = AlertWatcher(layout, parse({"rules": {"host_cpu": {"for": 0}}}), said.append, post)
    # Deliveries are made by the tests themselves.
    made.close()
    return made


def test_each_change_is_told_once_to_each_channel_that_wants_it(watched: Layout) -> None:
    post, said = Post(), []  # type: ignore[var-annotated]
    made = watcher(watched, post, said)
    bad = changed("host.cpu_percent", 95.0)
    made.look(bad, NOW)
    assert [alert["state"] for alert in bad["alerts"]] == [FIRING]
    made.deliver(NOW)
    # Another sampler, as after a restart: nothing is told twice.
    again = watcher(watched, post, said)
    again.look(copy.deepcopy(bad), NOW + 5)
    again.deliver(NOW + 5)
    for second in (10, 100):
        again.look(document(), NOW + second)
    again.deliver(NOW + 100)
    assert [(name, change) for name, change, _id in post.taken] == [("ops", "firing"), ("ops", "resolved")]
    assert any("WARNING h1: the host's processors are busy to 95 %" in text for text in said)


def test_a_channel_that_is_away_is_tried_again_until_it_takes_it(watched: Layout) -> None:
    post, said = Post(), []  # type: ignore[var-annotated]
    post.broken = True
    made = watcher(watched, post, said)
    made.look(changed("host.cpu_percent", 95.0), NOW)
    made.deliver(NOW)
    (waiting,) = _alerts.load(watched, said.append).outbox
    assert waiting.tries == 1 and waiting.next_at > NOW
    post.broken = False
    made.deliver(NOW)
    assert post.taken == [], "not before its time"
    made.deliver(waiting.next_at + 1)
    assert [name for name, _change, _id in post.taken] == ["ops"]
    assert _alerts.load(watched, said.append).outbox == []


def test_a_message_is_given_up_after_a_day() -> None:
    alert = _alerts.Alert("host_cpu", "warning", "", "", FIRING, NOW, NOW, 95, 90, "m")
    delivery = _alerts.Delivery(_alerts._event("firing", "h", alert, NOW), "ops", tries=3)
    later = _alerts.tried(delivery, NOW + 100)
    assert later is not None and later.next_at == NOW + 100 + 120
    assert _alerts.tried(delivery, NOW + 86401) is None


@pytest.mark.parametrize("text", ["{", "[]", '{"alerts": [{"rule": 1}], "outbox": [], "silences": []}'])
def test_a_damaged_file_is_set_aside(watched: Layout, text: str) -> None:
    said: List[str] = []
    path = Path(_alerts.path_of(watched))
    path.parent.mkdir()
    path.write_text(text)
    watcher(watched, Post(), said).look(document(), NOW)
    assert "damaged" in said[0] and path.with_name("alerts.json.damaged").exists()


def test_wrong_channels_are_named_and_nothing_else_fails(watched: Layout) -> None:
    said: List[str] = []
    Path(watched.channels).write_text('[{"name": "ops", "kind": "pigeon", "password": "canary-value"}]')
    watcher(watched, Post(), said).look(changed("host.cpu_percent", 95.0), NOW)
    assert "channels.ops.kind" in said[0] and "canary-value" not in "".join(said)


def test_values_alone_are_no_reason_to_write(watched: Layout) -> None:
    made = watcher(watched, Post(), [])
    made.look(changed("host.cpu_percent", 95.0), NOW)
    before = Path(_alerts.path_of(watched)).stat().st_ino
    made.look(changed("host.cpu_percent", 96.0), NOW + 5)
    assert Path(_alerts.path_of(watched)).stat().st_ino == before


def test_people_act_on_the_same_file(watched: Layout) -> None:
    made = watcher(watched, Post(), [])
    made.look(changed("host.cpu_percent", 95.0), NOW)
    (alert,) = _alert_acts.listing(watched, NOW, print)["alerts"]
    _alert_acts.acknowledge(watched, alert["id"], "alice", "", NOW, print, check=True)
    assert _alert_acts.listing(watched, NOW, print)["alerts"][0]["acknowledged"] is None
    _alert_acts.acknowledge(watched, alert["id"], "alice", "", NOW, print, check=False)
    assert _alert_acts.listing(watched, NOW, print)["alerts"][0]["acknowledged"]["by"] == "alice"
    wanted = {"instance": "", "rule": "host_cpu", "subject": "", "duration": "2h", "reason": "test"}
    made_one = _alert_acts.silence(watched, wanted, "alice", NOW, print, check=False)
    assert [one["id"] for one in _alert_acts.listing(watched, NOW, print)["silences"]] == [made_one["id"]]
    _alert_acts.unsilence(watched, made_one["id"], print, check=False)
    assert _alert_acts.listing(watched, NOW, print)["silences"] == []


def test_settings_of_the_role_reach_the_rules() -> None:
    settings: MonitorSettings = parse({"rules": {"host_cpu": False}})
    assert Rules(settings.rules, settings.instance_rules).of("host_cpu", "") is None


def test_commands_of_the_hosts_own_tool(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made = watcher(Layout(str(tmp_path)), Post(), [])
    made.look(changed("host.cpu_percent", 95.0), NOW)

    def run(*words: str) -> Tuple[int, Any]:
        code = _tool.main(["--root", str(tmp_path), "--json", *words])
        out = capsys.readouterr().out
        return code, json.loads(out) if out else None

    ((_code, (alert,)),) = [run("alerts")]
    assert (alert["rule"], alert["state"]) == ("host_cpu", FIRING)
    assert run("acknowledge", alert["id"], "--by", "alice")[1][0]["acknowledged"]["by"] == "alice"
    assert run("acknowledge", "nothing")[0] == 2
    (silence,) = run("silence", "--rule", "host_cpu", "--for", "2h", "--note", "test")[1]
    assert [row.get("silence") for row in run("alerts")[1]] == [None, silence["id"]]
    assert run("silence", "--for", "soon")[0] == 2
    assert run("unsilence", silence["id"])[0] == 0 and len(run("alerts")[1]) == 1
    assert run("notify-test")[0] != 0, "there is no channel"
