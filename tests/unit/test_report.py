# SPDX-License-Identifier: GPL-3.0-or-later
"""The report of all hosts: it follows its schema whatever hosts say, and tells first what needs attention."""

from __future__ import annotations

import json
from typing import Any, Callable, Dict, List, Tuple

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ansible_collections.multibase.supabase.plugins.module_utils import _live_shape, _report
from ansible_collections.multibase.supabase.plugins.module_utils._alert_rules import RULES
from ansible_collections.multibase.supabase.plugins.module_utils._errors import StateCorrupt
from unit.report_support import (
    AWAY,
    HOSTILE,
    NOW,
    REPORT_SCHEMA,
    answer,
    hostile,
    live_documents,
    live_validator,
    report,
    report_validator,
    sample,
)

PROPERTY = settings(
    derandomize=True, max_examples=60, deadline=None, database=None, suppress_health_check=list(HealthCheck)
)


def findings(change: Callable[[Dict[str, Any]], Any]) -> List[Tuple[str, str, str]]:
    """What needs attention of the sample after a change, as (severity, kind, instance)."""
    live = sample()
    change(live)
    return [(one["severity"], one["kind"], one["instance"]) for one in report(answer(live=live))["attention"]]


# The form of live documents


def test_the_sample_follows_the_schema_and_is_taken_whole() -> None:
    live_validator.validate(sample())
    assert _live_shape.conform(sample()) == sample()


@PROPERTY
@given(live_documents)
def test_what_follows_the_schema_is_taken_whole(live: Dict[str, Any]) -> None:
    live_validator.validate(live)
    taken = _live_shape.conform(live)
    live_validator.validate(taken)
    # Only halves of surrogate pairs are replaced: no file can hold them.
    assert taken == json.loads(json.dumps(live, ensure_ascii=False).encode("utf-8", "replace"))


def places(value: Any, path: Tuple[Any, ...] = ()) -> List[Tuple[Any, ...]]:
    """The paths of all values in a JSON value."""
    below = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(found for key, one in below for found in places(one, (*path, key)))]


@PROPERTY
@given(st.data())
def test_the_form_is_the_schemas(data: st.DataObject) -> None:
    """One value of the sample replaced, or left out: whatever the schema says of it, the form says too."""
    live = sample()
    *way, last = data.draw(st.sampled_from(places(live)[1:]))
    holder: Any = live
    for step in way:
        holder = holder[step]
    if data.draw(st.booleans()):
        holder[last] = data.draw(
            st.sampled_from([None, True, 1, 1.5, "x", [], ["x"], {}, {"x": 1}, [1] * 61, [1, 2, 3]])
        )
    else:
        del holder[last]
    if live_validator.is_valid(live):
        assert _live_shape.conform(live) == live
    else:
        with pytest.raises(StateCorrupt):
            _live_shape.conform(live)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e19, 10**400, -(2**63)])
def test_numbers_that_are_none_are_refused_with_their_place(value: Any) -> None:
    live = sample()
    live["host"]["disks"][1]["used_percent"] = value
    with pytest.raises(StateCorrupt, match=r"^host\.disks\[1\]\.used_percent: a number out of range$"):
        _live_shape.conform(live)


def test_what_the_schema_does_not_name_is_left_out() -> None:
    live = sample()
    live["instances"][0]["password"] = live["secret"] = live["host"]["engine"]["token"] = "canary"
    assert "canary" not in json.dumps(report(answer(live=live)))


# The report


@PROPERTY
@given(live_documents, st.floats() | st.none() | st.text(), st.sampled_from(HOSTILE))
def test_every_report_follows_its_schema(live: Dict[str, Any], read_at: Any, word: str) -> None:
    made = report(answer(word, live, word, read_at), AWAY, answer())
    report_validator.validate(made)
    json.dumps(made, allow_nan=False, ensure_ascii=False).encode("utf-8")


@pytest.mark.parametrize("word", HOSTILE)
def test_hostile_words_stay_words(word: str) -> None:
    made = report(answer(live=hostile(word)))
    report_validator.validate(made)
    assert made["hosts"][0]["problem"] == ""


def test_the_schema_says_something_of_every_part() -> None:
    made = report()
    report_validator.validate(made)
    for path in places(made):
        if path and isinstance(path[-1], str) and path[0] != "hosts":
            holder: Any = json.loads(json.dumps(made))
            whole = holder
            for step in path[:-1]:
                holder = holder[step]
            del holder[path[-1]]
            assert not report_validator.is_valid(whole), path
    assert REPORT_SCHEMA["properties"]["attention"]["items"]["$ref"] == "#/$defs/finding"
    assert REPORT_SCHEMA["$defs"]["finding"]["properties"]["kind"]["enum"] == list(_report.KINDS)


def test_hosts_that_could_not_be_read_are_in_it_first_with_the_reason() -> None:
    broken = sample()
    broken["instances"][1]["use"]["cpu_percent"] = "many"
    made = report(answer("h1"), answer("h2", broken), AWAY)
    assert [host["host"] for host in made["hosts"]] == ["h1", "h2", "away"]
    assert [(one["host"], one["message"]) for one in made["attention"][:2]] == [
        ("away", "the host cannot be reached: no route"),
        ("h2", "its live document cannot be read: instances[1].use.cpu_percent: 'many' is none of number, null"),
    ]
    assert made["hosts"][1]["instances"] == [] and made["hosts"][1]["machine"] is None
    totals = made["totals"]
    assert (totals["hosts"], totals["hosts_unreadable"], totals["instances"], totals["cpus"]) == (3, 2, 3, 4)


def test_a_document_of_a_later_form_is_not_guessed_at() -> None:
    (host,) = report(answer(live={**sample(), "schema": 2}))["hosts"]
    assert host["problem"] == "its live document cannot be read: its form is 2, and this version reads form 1"


@pytest.mark.parametrize(
    ("answered", "problem"),
    [
        ({"unreachable": True, "msg": "no route"}, "the host cannot be reached: no route"),
        ({"failed": True, "msg": "MODULE FAILURE", "module_stderr": " sudo: no \n"}, "sudo: no"),
        ({"failed": True, "msg": "no root", "results": []}, "no root"),
        ({}, "no answer"),
        (None, "no answer"),
        ({"results": [{"live": None, "problem": "no sampler", "read_at": 5}]}, "no sampler"),
        ({"results": [{}]}, "the host told nothing"),
        ({"results": ["x"]}, "no answer"),
    ],
)
def test_why_a_host_told_nothing(answered: Any, problem: str) -> None:
    (host,) = report(_report.answer_of("h1", answered))["hosts"]
    assert (host["problem"], host["machine"]) == (problem, None)


@pytest.mark.parametrize(
    ("age", "stale"), [(0, False), (15, False), (15.5, True), (-15, False), (-16, True), (86400, True)]
)
def test_data_older_than_three_intervals_is_stale_by_the_hosts_own_clock(age: float, stale: bool) -> None:
    live = sample()
    made = report(answer(live=live, read_at=live["sampled_at"] + age))
    (host,) = made["hosts"]
    assert (host["stale"], host["age_seconds"], made["totals"]["hosts_stale"]) == (stale, age, int(stale))
    assert ("stale" in [one["kind"] for one in made["attention"]]) is stale
    if stale:
        assert made["attention"][0]["severity"] == "critical"


def test_what_was_never_sampled_is_stale() -> None:
    live = {**sample(), "sampled_at": None}
    made = report(answer(live=live))
    assert made["hosts"][0]["stale"] is True
    assert made["attention"][0]["message"] == "nothing was written yet: the sampler has stopped"


def test_a_host_that_was_read_past_its_sampler_says_so() -> None:
    made = report(answer(problem="the sampler stands still; read without it"))
    assert [(one["severity"], one["kind"]) for one in made["attention"]].count(("warning", "stale")) == 1


# What needs attention


def quiet(live: Dict[str, Any]) -> None:
    """Leave only what is well."""
    live["instances"] = live["instances"][:1]
    live["alerts"] = []
    live["certificates"] = live["certificates"][:1]
    live["host"]["disks"] = live["host"]["disks"][:1]


def test_a_stopped_instance_of_a_host_that_does_not_say_what_was_meant_is_told() -> None:
    live = sample()
    quiet(live)
    live["instances"][0]["state"] = "stopped"
    del live["instances"][0]["wanted"]
    assert [(one["severity"], one["kind"]) for one in report(answer(live=live))["attention"]] == [
        ("warning", "instance")
    ]


def test_where_all_is_well_nothing_needs_attention() -> None:
    assert findings(quiet) == []


def test_the_sample_has_these_in_this_order() -> None:
    assert findings(lambda live: None) == [
        ("critical", "alert", "beta"),
        ("critical", "backup", "beta"),
        ("critical", "certificate", ""),
        ("warning", "probe", "beta"),
        ("warning", "backup", "gamma"),
        ("warning", "disk", ""),
    ]


def _set(*path: Any, **values: Any) -> Callable[[Dict[str, Any]], None]:
    def change(live: Dict[str, Any]) -> None:
        holder: Any = live
        for step in path:
            holder = holder[step]
        holder.update(values)

    return change


INSTANCE = ("instances", 0)
DISK, HOST, BACKUPS = ("host", "disks", 0), ("host",), ("instances", 0, "backups")
CASES: List[Tuple[Callable[[Dict[str, Any]], None], List[Tuple[str, str, str]]]] = [
    (_set(*INSTANCE, state="damaged"), [("critical", "instance", "acme")]),
    (_set(*INSTANCE, state="unhealthy"), [("critical", "instance", "acme")]),
    (_set(*INSTANCE, state="degraded"), [("warning", "instance", "acme")]),
    (_set(*INSTANCE, state="unknown"), [("warning", "instance", "acme")]),
    (_set(*INSTANCE, state="stopped", wanted="running"), [("critical", "instance", "acme")]),
    (_set(*INSTANCE, state="stopped", wanted="stopped"), []),
    (_set(*INSTANCE, state="stopped", wanted=""), []),
    (_set(*INSTANCE, state="degraded", wanted="stopped"), [("warning", "instance", "acme")]),
    (_set(*INSTANCE, state="starting"), []),
    (_set(*INSTANCE, problem="its .env was changed by hand"), [("warning", "instance", "acme")]),
    (_set(*INSTANCE, "probes", 0, ok=False), [("warning", "probe", "acme")]),
    (_set(*BACKUPS, overdue=True), [("critical", "backup", "acme")]),
    (_set(*BACKUPS, last_exit_code=14, reason="no room"), [("warning", "backup", "acme")]),
    (_set(*BACKUPS, newest_verified=None), [("warning", "backup", "acme")]),
    (_set(*BACKUPS, "newest", verified=False), [("warning", "backup", "acme")]),
    (_set(*BACKUPS, newest=None, newest_verified=None), []),
    (_set(*BACKUPS, newest=None, newest_verified=None, scheduled=False), [("warning", "backup", "acme")]),
    (_set(*DISK, used_percent=84.9), []),
    (_set(*DISK, used_percent=85.0), [("warning", "disk", "")]),
    (_set(*DISK, used_percent=95.0), [("critical", "disk", "")]),
    (_set(*DISK, full_in_days=14.0), [("warning", "disk", "")]),
    (_set(*DISK, full_in_days=14.1), []),
    (_set(*DISK, full_in_days=2.5), [("critical", "disk", "")]),
    (_set(*HOST, memory_used_bytes=16_000_000_000), [("warning", "memory", "")]),
    (_set(*HOST, memory_full_in_days=1), [("critical", "memory", "")]),
    (_set(*HOST, memory_total_bytes=0), []),
    (_set("host", "engine", reachable=False, trouble="refused"), [("critical", "engine", "")]),
    (_set("certificates", 0, days_left=21.0), [("warning", "certificate", "acme")]),
    (_set("certificates", 0, days_left=-1.0), [("critical", "certificate", "acme")]),
    (_set("certificates", 0, days_left=None), []),
]


@pytest.mark.parametrize(("change", "expected"), CASES)
def test_what_needs_attention(change: Callable[[Dict[str, Any]], None], expected: List[Tuple[str, str, str]]) -> None:
    def both(live: Dict[str, Any]) -> None:
        quiet(live)
        change(live)

    assert findings(both) == expected


def firing(**more: Any) -> Dict[str, Any]:
    """An alert about the backups of acme."""
    base = {
        "id": "a", "rule": "backup_overdue", "severity": "critical", "instance": "acme", "subject": "",
        "state": "firing", "since": 1, "value": None, "threshold": None, "message": "overdue", "acknowledged": None,
        "silenced_until": None,
    }  # fmt: skip
    return {**base, **more}


ANSWERED = {"by": "ann", "at": 1, "note": ""}


@pytest.mark.parametrize(
    ("alert", "told"),
    [
        (firing(), ["alert"]),
        # Somebody knows: neither the alert nor what it is about.
        (firing(acknowledged=ANSWERED), []),
        (firing(silenced_until=NOW + 60), []),
        (firing(silenced_until=5), ["alert"]),
        # It says nothing, or of something else, or of something less bad.
        (firing(state="pending"), ["backup"]),
        (firing(state="resolved"), ["backup"]),
        (firing(rule="cpu", acknowledged=ANSWERED), ["backup"]),
        (firing(instance="beta", acknowledged=ANSWERED), ["backup"]),
        (firing(severity="warning", acknowledged=ANSWERED), ["backup"]),
    ],
)
def test_what_an_alert_tells_is_told_once(alert: Dict[str, Any], told: List[str]) -> None:
    def change(live: Dict[str, Any]) -> None:
        quiet(live)
        live["instances"][0]["backups"]["overdue"] = True
        live["alerts"] = [alert]

    assert [kind for _severity, kind, _instance in findings(change)] == told


def test_rules_that_tell_the_same_as_a_finding_are_there() -> None:
    assert set(_report._COVERED_BY) == set(_report.KINDS) - {"unreadable", "stale", "alert"}
    for beginnings in _report._COVERED_BY.values():
        for beginning in beginnings:
            assert [rule for rule in RULES if rule.startswith(beginning)], beginning


def test_alerts_of_the_real_rules_name_the_same_as_our_findings() -> None:
    """What both measure of one document has the same instance and subject, or it would be told twice."""
    live = sample()
    live["certificates"][0]["days_left"], live["certificates"][1]["domains"] = 1.0, []
    live["host"]["disks"][0]["used_percent"] = 99.0
    live["instances"][0]["probes"][0]["ok"] = False
    live["alerts"] = []
    told = {(one["kind"], one["instance"], one["subject"]) for one in report(answer(live=live))["attention"]}
    for kind, rule in (("disk", "disk_used"), ("certificate", "certificate_expiring"), ("probe", "probe_failed")):
        about = RULES[rule]
        bad = {(one.instance, one.subject) for one in about.find(live) if about.rule.bad(one.value, False)}
        assert bad and bad <= {(instance, subject) for what, instance, subject in told if what == kind}, kind


def test_alerts_about_one_disk_leave_the_others_to_be_told() -> None:
    def change(live: Dict[str, Any]) -> None:
        live["instances"], live["certificates"] = [], []
        live["host"]["disks"][0]["used_percent"] = 99.0
        live["alerts"] = [firing(rule="disk_use", instance="", subject="/", message="full")]

    live = sample()
    change(live)
    told = [(one["kind"], one["subject"]) for one in report(answer(live=live))["attention"]]
    assert told == [("alert", "/"), ("disk", "/srv")]


def test_severities_to_fail_on() -> None:
    made = report()
    assert len(_report.needs(made, "warning")) == len(made["attention"])
    assert {one["severity"] for one in _report.needs(made, "critical")} == {"critical"}
    assert made["totals"]["attention"] == {"critical": 4, "warning": 3}
