# SPDX-License-Identifier: GPL-3.0-or-later
"""Percentages and rates from two readings."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Dict, Optional

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ansible_collections.multibase.supabase.plugins.module_utils import _usage
from ansible_collections.multibase.supabase.plugins.module_utils._cgroups import Counters
from ansible_collections.multibase.supabase.plugins.module_utils._usage import Reading

FULL = Counters(5_000_000_000, 100, 200, 1000, 10, 20, 30, 40, 7)
numbers = st.none() | st.integers(0, 1 << 60)
counters = st.builds(Counters, *[numbers] * 9)
readings = st.builds(Reading, st.floats(0, 1e6), counters)


def later(seconds: float, **changes: Optional[int]) -> Reading:
    return Reading(100.0 + seconds, replace(FULL, **changes))


def test_processor_use_is_time_used_by_time_passed() -> None:
    use = _usage.use(Reading(100.0, FULL), later(5, cpu_ns=12_500_000_000))
    assert use["cpu_percent"] == 150.0


def test_rates_are_per_second() -> None:
    use = _usage.use(Reading(100.0, FULL), later(4, received=50, sent=20, read=130, written=48))
    assert [use[name] for name in ("network_received_rate", "network_sent_rate")] == [10.0, 0.0]
    assert [use[name] for name in ("block_read_rate", "block_write_rate")] == [25.0, 2.0]


@pytest.mark.parametrize("seconds", [0, -5, 0.01, 86400])
def test_readings_that_cannot_be_compared_give_no_rates(seconds: float) -> None:
    use = _usage.use(Reading(100.0, FULL), later(seconds, cpu_ns=6_000_000_000))
    assert use["cpu_percent"] is None and use["network_received_rate"] is None
    assert use["memory_bytes"] == 100


def test_a_container_that_was_started_anew_has_no_rate_and_no_negative_one() -> None:
    use = _usage.use(Reading(100.0, FULL), later(5, cpu_ns=1, received=0))
    assert use["cpu_percent"] is None and use["network_received_rate"] is None


@given(st.none() | readings, readings)
def test_whatever_was_read_nothing_is_negative(before: Optional[Reading], now: Reading) -> None:
    assert all(value is None or value >= 0 for value in _usage.use(before, now).values())


@given(st.lists(counters, max_size=5))
def test_a_total_is_the_sum_of_what_is_known(several: Any) -> None:
    rows = [_usage.use(None, Reading(0.0, one)) for one in several]
    total = _usage.total(rows)
    memory = [one.memory for one in several if one.memory is not None]
    assert total["memory_bytes"] == (sum(memory) if memory else None)
    limits = [one.memory_limit for one in several]
    assert total["memory_limit_bytes"] == (sum(limits) if limits and None not in limits else None)


def sample(**memory: Any) -> Dict[str, Any]:
    return {
        "cpu_stats": {"cpu_usage": {"total_usage": 7_000_000}, "online_cpus": 2},
        "memory_stats": {"usage": 1000, "limit": 4096, **memory},
        "networks": {"eth0": {"rx_bytes": 5, "tx_bytes": 6}, "eth1": {"rx_bytes": 1, "tx_bytes": 1}},
        "blkio_stats": {"io_service_bytes_recursive": [{"op": "Read", "value": 3}, {"op": "write", "value": 4}]},
        "pids_stats": {"current": 9},
    }


@pytest.mark.parametrize("name", ["total_inactive_file", "inactive_file"])
def test_samples_of_the_engine_with_either_version_of_cgroups(name: str) -> None:
    found = _usage.counters_of_sample(sample(stats={name: 300}))
    assert found == Counters(7_000_000, 700, 1000, 4096, 6, 7, 3, 4, 9)


def test_zeros_of_an_engine_that_cannot_read_are_not_known() -> None:
    nothing = {"cpu_stats": {"cpu_usage": {"total_usage": 0}}, "memory_stats": {}}
    assert _usage.counters_of_sample(nothing) == _usage.counters_of_sample({}) == Counters()


@given(readings)
def test_readings_are_kept_as_they_were(reading: Reading) -> None:
    assert _usage.reading_from_json(_usage.reading_as_json(reading)) == reading


@pytest.mark.parametrize("value", [{}, {"at": "soon"}, {"at": True}])
def test_what_is_no_reading_is_none(value: Dict[str, Any]) -> None:
    assert _usage.reading_from_json(value) is None
