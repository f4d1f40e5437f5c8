# SPDX-License-Identifier: GPL-3.0-or-later
"""A report as Prometheus reads it, read back with the parser of Prometheus' own client."""

from __future__ import annotations

import json
import re
from typing import Any, Dict, Tuple

import pytest
from hypothesis import HealthCheck, given, settings
from prometheus_client.parser import text_string_to_metric_families

from ansible_collections.multibase.supabase.plugins.module_utils import _backup_job, _report_prometheus
from unit.report_support import AWAY, HOSTILE, answer, hostile, live_documents, report, sample

PROPERTY = settings(
    derandomize=True, max_examples=40, deadline=None, database=None, suppress_health_check=list(HealthCheck)
)
LABELS = {name: ("host", *labels) for name, _kind, labels, _words in _report_prometheus.FAMILIES}
Series = Dict[Tuple[str, Tuple[Tuple[str, str], ...]], float]


def read(text: str) -> Series:
    """Read a textfile back, checking what Prometheus would refuse: every series once, no family twice, right types."""
    kinds = {name: kind for name, kind, _labels, _words in _report_prometheus.FAMILIES}
    assert text.endswith("\n") and "\r" not in text
    found: Series = {}
    seen = []
    for family in text_string_to_metric_families(text):
        # The parser takes _total off the names of counters, as the library has them.
        name = family.name + ("_total" if family.type == "counter" else "")
        seen.append(name)
        assert kinds[name] == family.type
        assert family.documentation.endswith(".")
        for one in family.samples:
            assert one.name == name and tuple(one.labels) == LABELS[name]
            key = (one.name, tuple(one.labels.items()))
            assert key not in found
            found[key] = one.value
    assert seen == list(kinds)
    return found


def value(series: Series, name: str, **labels: str) -> Any:
    """The one value of a series; None where there is none."""
    return series.get((name, tuple((key, labels.get(key, "h1")) for key in LABELS[name])))


def test_figures_of_the_sample_in_base_units() -> None:
    series = read(_report_prometheus.render(report()))
    of = {"instance_name": "beta"}
    db = {**of, "service": "db"}
    expected = [
        (("multibase_host_read", {}), 1),
        (("multibase_host_read", {"host": "away"}), 0),
        (("multibase_host_sampled_timestamp_seconds", {}), 1790000000),
        (("multibase_host_cpu_ratio", {}), 0.315),
        (("multibase_host_load", {"minutes": "15"}), 0.7),
        (("multibase_host_memory_used_bytes", {}), 6291456000),
        (("multibase_host_memory_full_seconds", {}), None),
        (("multibase_disk_full_seconds", {"path": "/srv", "purpose": "data"}), 9.5 * 86400),
        (("multibase_instance_state", {**of, "state": "degraded"}), 1),
        (("multibase_instance_state", {**of, "state": "healthy"}), 0),
        (("multibase_instance_disk_bytes", {**of, "part": "storage"}), 52428800),
        (("multibase_instance_uptime_ratio", {**of, "window": "month"}), 0.9942),
        (("multibase_instance_backups_overdue", of), 1),
        (("multibase_instance_newest_backup_timestamp_seconds", of), 1789820060),
        (("multibase_service_cpu_ratio", db), 0.48),
        (("multibase_service_memory_limit_bytes", db), 1073741824),
        (("multibase_service_up", {**of, "service": "storage"}), 0),
        (("multibase_service_restarts_total", {**of, "service": "storage"}), 7),
        (("multibase_service_memory_bytes", {"instance_name": "gamma", "service": "db"}), None),
        (("multibase_database_cache_hit_ratio", of), 0.81),
        (("multibase_database_connections", {**of, "state": "idle"}), 9),
        (("multibase_database_slot_held_bytes", {**of, "slot": "etl"}), 2147483648),
        (("multibase_probe_success", {**of, "probe": "storage"}), 0),
        (("multibase_probe_duration_seconds", {**of, "probe": "storage"}), None),
        (("multibase_alerts_firing", {"severity": "warning"}), 0),
        (("multibase_alerts_firing", {"severity": "critical"}), 1),
        (("multibase_host_attention", {"severity": "critical", "host": "away"}), 1),
    ]
    for (name, labels), wanted in expected:
        got = value(series, name, **labels)
        assert got == (wanted if wanted is None else pytest.approx(wanted)), (name, labels)
    assert [key for key, _value in series.items() if dict(key[1])["host"] == "away"] == [
        ("multibase_host_read", (("host", "away"),)),
        ("multibase_host_attention", (("host", "away"), ("severity", "warning"))),
        ("multibase_host_attention", (("host", "away"), ("severity", "critical"))),
    ]


def test_every_family_has_a_sample_in_some_report() -> None:
    live = sample()
    live["host"]["memory_full_in_days"] = 30.0
    names = {name for name, _labels in read(_report_prometheus.render(report(answer(live=live))))}
    assert names == set(LABELS)


@PROPERTY
@given(live_documents)
def test_whatever_hosts_say_can_be_read(live: Dict[str, Any]) -> None:
    read(_report_prometheus.render(report(answer(live=live), answer("h2", live), AWAY)))


@pytest.mark.parametrize("word", HOSTILE)
def test_hostile_words_are_labels_and_nothing_else(word: str) -> None:
    series = read(_report_prometheus.render(report(answer(word or "h", hostile(word)))))
    shown = "".join(letter if letter.isprintable() or letter == "\n" else " " for letter in word.replace("\ud800", "?"))
    assert value(series, "multibase_disk_size_bytes", host=shown or "h", path=shown, purpose=shown) == 107374182400


def test_names_and_units_keep_to_the_rules_of_prometheus() -> None:
    for name, kind, labels, _words in _report_prometheus.FAMILIES:
        assert re.fullmatch(r"multibase_[a-z_]+", name)
        assert name.endswith("_total") == (kind == "counter")
        assert not re.search(r"_(percent|ms|days|kib|mib|minutes)\b", name)
        assert all(re.fullmatch(r"[a-z_]+", label) for label in labels) and "instance" not in labels


def test_nothing_collides_with_the_textfile_of_backups() -> None:
    state = {"last_success": 1, "offsite": {"s3": {"last_success": 1, "missing": []}}}
    theirs = list(text_string_to_metric_families(_backup_job.metrics({"acme": state}, [])))
    assert theirs and all(family.name.startswith("multibase_backup_") for family in theirs)
    assert not [name for name in LABELS if name.startswith("multibase_backup_")]
    # The same instance is under the same label in both.
    assert {"instance_name"} <= set(theirs[0].samples[0].labels)
    assert all("instance_name" in LABELS[name] for name in LABELS if "_instance_" in name)


def test_queries_and_addresses_are_not_in_it() -> None:
    text = _report_prometheus.render(report())
    told = json.dumps(sample())
    for private in ("SELECT * FROM todos", "records.example.com", "127.0.0.1"):
        assert private in told and private not in text
