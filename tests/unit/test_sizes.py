# SPDX-License-Identifier: GPL-3.0-or-later
"""Sizes: what the services of an instance get never adds up to more than the instance has, nor the instances of a host
to more than it may be promised.
"""

from __future__ import annotations

from typing import Any, Dict, List, Tuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ansible_collections.multibase.supabase.plugins.module_utils._errors import MultibaseError
from ansible_collections.multibase.supabase.plugins.module_utils._sizes import (
    MINIMUM_CPU,
    MINIMUM_MEMORY,
    SIZES,
    Capacity,
    Share,
    Size,
    divide,
    overcommitment,
    parse_size,
    shares,
)
from unit.support import PROPERTY, SERVICES, release

EVERYTHING = (*SERVICES, "analytics", "pgbouncer", "vector")
WEIGHTS = st.dictionaries(st.sampled_from(EVERYTHING), st.integers(1, 1000), min_size=1)


def test_the_sizes() -> None:
    assert {name: (size.memory, size.cpus) for name, size in SIZES.items()} == {
        "small": (2048, 1.0), "medium": (4096, 2.0), "large": (8192, 4.0),
    }  # fmt: skip
    for name, size in SIZES.items():
        assert parse_size(name) == size


@pytest.mark.parametrize(
    ("given", "memory", "cpus"),
    [
        ({"cpus": 1.5, "memory": "3g"}, 3072, 1.5), ({"cpus": "1.5", "memory": "3G"}, 3072, 1.5),
        ({"cpus": 1, "memory": "1536m"}, 1536, 1.0), ({"cpus": 1, "memory": "1.5GiB"}, 1536, 1.0),
        ({"cpus": 1, "memory": " 2 gb "}, 2048, 1.0), ({"cpus": 0.1, "memory": "512m"}, 512, 0.1),
        ({"cpus": 1024, "memory": "4096g"}, 4 * 1024 * 1024, 1024.0),
    ],
)  # fmt: skip
def test_a_size_of_ones_own(given: Dict[str, Any], memory: int, cpus: float) -> None:
    assert parse_size(given) == Size(memory=memory, cpus=cpus)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("huge", "small, medium, large"), ("", "small, medium, large"), (None, "small, medium, large"), (3, "small"),
        ({}, "cpus and memory"), ({"cpus": 1}, "cpus and memory"), ({"cpus": 1, "memory": "2g", "disk": 1}, "cpus and"),
        ({"cpus": "two", "memory": "2g"}, "size.cpus 'two'"), ({"cpus": 0, "memory": "2g"}, "from 0.1 to 1024"),
        ({"cpus": float("nan"), "memory": "2g"}, "size.cpus"), ({"cpus": float("inf"), "memory": "2g"}, "size.cpus"),
        ({"cpus": 1025, "memory": "2g"}, "size.cpus 1025"), ({"cpus": [1], "memory": "2g"}, "size.cpus"),
        ({"cpus": 1, "memory": 2048}, "size.memory 2048"), ({"cpus": 1, "memory": "511m"}, "at least 512m"),
        ({"cpus": 1, "memory": "-2g"}, "size.memory"), ({"cpus": 1, "memory": "2t"}, "size.memory"),
        ({"cpus": 1, "memory": "9999999g"}, "size.memory"),
    ],
)  # fmt: skip
def test_no_size_is_told_with_what_would_be_one(given: Any, said: str) -> None:
    with pytest.raises(MultibaseError) as caught:
        parse_size(given)
    assert said in str(caught.value)


# Dividing


def of_release(size: Size, enabled: Tuple[str, ...], burst: bool = True, available: int = 64) -> Dict[str, Share]:
    return shares(size, release().weights, release().cpu_weights, enabled, burst, available)


@pytest.mark.parametrize("size", sorted(SIZES))
@pytest.mark.parametrize(
    "enabled",
    [SERVICES, EVERYTHING, ("api-gw", "db"), ("api-gw", "db", "rest", "auth"), ("api-gw",)],
    ids=lambda enabled: str(len(enabled)),
)
def test_the_shipped_weights_fit(size: str, enabled: Tuple[str, ...]) -> None:
    total = SIZES[size]
    parts = of_release(total, enabled)
    assert set(parts) == set(enabled)
    memory = {service: share.memory for service, share in parts.items()}
    assert sum(memory.values()) <= total.memory
    assert min(memory.values()) >= MINIMUM_MEMORY
    # Rounding down leaves next to nothing unused.
    assert sum(memory.values()) > total.memory - len(enabled)
    weights = {service: share.cpu_shares for service, share in parts.items()}
    assert total.cpus * 1024 - len(enabled) < sum(weights.values()) <= total.cpus * 1024
    if "db" in enabled:
        assert max(memory, key=memory.__getitem__) == max(weights, key=weights.__getitem__) == "db"


def test_with_bursts_a_service_may_use_all_that_the_instance_has() -> None:
    for size in SIZES.values():
        assert {share.cpus for share in of_release(size, SERVICES).values()} == {size.cpus}


@pytest.mark.parametrize("size", [*SIZES.values(), Size(memory=512, cpus=0.8), Size(memory=4096, cpus=3.33)])
@pytest.mark.parametrize("enabled", [SERVICES, EVERYTHING, ("api-gw", "db")], ids=lambda enabled: str(len(enabled)))
def test_without_bursts_the_limits_add_up_to_the_size(size: Size, enabled: Tuple[str, ...]) -> None:
    parts = of_release(size, enabled, burst=False)
    hundredths = [round(share.cpus * 100) for share in parts.values()]
    assert sum(hundredths) <= size.cpus * 100 and min(hundredths) >= MINIMUM_CPU
    with_bursts = of_release(size, enabled)
    assert {service: (share.memory, share.cpu_shares) for service, share in parts.items()} == {
        service: (share.memory, share.cpu_shares) for service, share in with_bursts.items()
    }


@PROPERTY
@given(WEIGHTS, st.integers(len(EVERYTHING) * MINIMUM_MEMORY, 16384))
def test_the_parts_never_exceed_the_total(weights: Dict[str, int], total: int) -> None:
    parts = divide(total, weights, weights, MINIMUM_MEMORY)
    assert sum(parts.values()) <= total
    assert all(part >= MINIMUM_MEMORY for part in parts.values())
    assert list(parts) == sorted(weights)
    # Nobody with more weight has less.
    ordered = sorted(weights, key=lambda service: (weights[service], parts[service]))
    assert [parts[service] for service in ordered] == sorted(parts.values())


@PROPERTY
@given(WEIGHTS, st.integers(1, 100), st.integers(0, 100))
def test_too_little_for_all_gives_each_its_minimum(weights: Dict[str, int], minimum: int, lacking: int) -> None:
    parts = divide(minimum * len(weights) - lacking, weights, weights, minimum)
    assert set(parts.values()) == {minimum}


def test_the_smallest_size_gives_everybody_the_least_that_works() -> None:
    parts = of_release(Size(memory=512, cpus=0.1), EVERYTHING, burst=False)
    assert min(share.memory for share in parts.values()) == 32
    assert min(share.cpu_shares for share in parts.values()) == 2
    assert {share.cpus for share in parts.values()} == {0.05}


@PROPERTY
@given(st.floats(0.1, 64), st.integers(512, 262144), st.sets(st.sampled_from(EVERYTHING), min_size=1), st.booleans())
def test_any_size_is_divided_into_what_docker_takes(cpus: float, memory: int, enabled: Any, burst: bool) -> None:
    size = Size(memory=memory, cpus=cpus)
    parts = of_release(size, tuple(enabled), burst=burst)
    for share in parts.values():
        # Docker takes no weight below 2; with less memory or time no service starts, or answers its health check.
        assert share.memory >= 32 and share.cpu_shares >= 2 and share.cpus >= 0.05
        assert float(share.as_dict()["cpus"]) > 0, "what is written is no zero"
    assert sum(share.memory for share in parts.values()) <= memory
    if not burst and cpus * 100 >= MINIMUM_CPU * len(parts):
        assert sum(share.cpus for share in parts.values()) <= cpus + 0.01


def test_a_service_more_never_gives_the_others_more() -> None:
    few, many = of_release(SIZES["medium"], ("api-gw", "db")), of_release(SIZES["medium"], SERVICES)
    assert many["db"].memory < few["db"].memory and many["db"].cpu_shares < few["db"].cpu_shares
    all_of_them = of_release(SIZES["medium"], EVERYTHING)
    assert all(all_of_them[service].memory <= many[service].memory for service in SERVICES)


@pytest.mark.parametrize(
    ("wanted", "available", "limit"), [(4.0, 2, 2.0), (1.0, 2, 1.0), (2.0, 2, 2.0), (4.0, 0, 1.0), (1.0, 1, 1.0)]
)
def test_never_more_processors_than_the_host_has(wanted: float, available: int, limit: float) -> None:
    parts = of_release(Size(memory=4096, cpus=wanted), SERVICES, available=available)
    assert {share.cpus for share in parts.values()} == {limit}
    alone = of_release(Size(memory=4096, cpus=wanted), ("db",), burst=False, available=available)
    assert alone["db"].cpus == limit


def test_what_is_recorded_of_a_share() -> None:
    assert Share(memory=512, cpus=1.5, cpu_shares=300).as_dict() == {"cpus": "1.50", "memory": 512, "cpu_shares": 300}


# What a host may be promised


HOST = Capacity(cpus=4, memory=8192, cpu_factor=2, memory_factor=1)
SMALL, MEDIUM, LARGE = SIZES["small"], SIZES["medium"], SIZES["large"]


def test_what_fits_is_no_matter() -> None:
    assert overcommitment([], [("a", LARGE)], HOST) == ""
    assert overcommitment([("a", MEDIUM)], [("a", MEDIUM), ("b", MEDIUM)], HOST) == ""
    assert overcommitment([], [], HOST) == ""


def test_what_does_not_is_told_with_a_table() -> None:
    told = overcommitment([("beta", MEDIUM)], [("much-longer-name", LARGE), ("beta", MEDIUM)], HOST)
    first, *rows = told.splitlines()
    assert "memory: 12288 MiB wanted, 8192 MiB there, which may be promised 1 times (8192 MiB)" in first
    assert "processors" not in first, "6 of 8 are no reason"
    assert "overcommit_memory" in first
    cells = [row.split() for row in rows]
    assert cells == [
        ["INSTANCE", "CPUS", "MEMORY"],
        ["beta", "2", "4096", "MiB"],
        ["much-longer-name", "4", "8192", "MiB", "new"],
        ["all", "6", "12288", "MiB"],
    ]
    # The columns stand below each other.
    assert len({row.index("MiB") for row in rows[1:]}) == 1
    assert len({row.rindex(" ", 0, row.index("MiB")) for row in rows[1:]}) == 1


def test_both_reasons_are_told() -> None:
    told = overcommitment([], [("a", Size(memory=9000, cpus=8.5))], HOST).splitlines()[0]
    assert "processors: 8.5 wanted, 4 there, which may be promised 2 times (8)" in told and "memory: 9000 MiB" in told


def test_a_host_that_is_promised_too_often_already_may_be_changed_while_it_gets_no_worse() -> None:
    before = [("a", LARGE), ("b", LARGE)]
    assert overcommitment(before, before, HOST) == ""
    assert overcommitment(before, [("a", LARGE), ("b", MEDIUM)], HOST) == "", "smaller, if still too much"
    assert overcommitment(before, [("a", LARGE), ("c", LARGE)], HOST) == "", "one for another"
    assert "memory" in overcommitment(before, [*before, ("c", SMALL)], HOST)
    # More processors are no reason as long as those are within bounds; the memory is none, as it stays.
    assert overcommitment(before, [("a", LARGE), ("b", Size(memory=8192, cpus=2.0))], HOST) == ""


@pytest.mark.parametrize(
    ("cpu_factor", "memory_factor", "reasons"),
    [(0, 0, []), (1, 0, ["processors"]), (0, 1, ["memory"]), (1, 1, ["processors", "memory"]), (8, 2, [])],
)
def test_factors(cpu_factor: float, memory_factor: float, reasons: List[str]) -> None:
    host = Capacity(cpus=4, memory=8192, cpu_factor=cpu_factor, memory_factor=memory_factor)
    told = overcommitment([], [("a", LARGE), ("b", LARGE)], host)
    assert bool(told) is bool(reasons)
    assert all(reason in told for reason in reasons)


@PROPERTY
@given(
    st.lists(st.tuples(st.integers(512, 9000), st.integers(1, 16)), max_size=4),
    st.lists(st.tuples(st.integers(512, 9000), st.integers(1, 16)), max_size=4),
)
def test_only_what_makes_it_worse_is_refused(before: Any, after: Any) -> None:
    def demands(rows: List[Tuple[int, int]]) -> List[Tuple[str, Size]]:
        return [("i{0}".format(number), Size(memory, float(cpus))) for number, (memory, cpus) in enumerate(rows)]

    refused = bool(overcommitment(demands(before), demands(after), HOST))
    worse = any(
        sum(row[index] for row in after) > max(limit, sum(row[index] for row in before))
        for index, limit in ((0, 8192), (1, 8))
    )
    assert refused is worse
