# SPDX-License-Identifier: GPL-3.0-or-later
"""Sizes: what the services of an instance get never adds up to more than the instance has."""

from __future__ import annotations

from typing import Dict

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ansible_collections.multibase.supabase.plugins.module_utils._sizes import (
    MINIMUM_MEMORY,
    SIZES,
    cpu_limit,
    memory_limits,
)
from unit.support import PROPERTY, SERVICES, release


def test_the_sizes() -> None:
    assert {name: (size.memory, size.cpus) for name, size in SIZES.items()} == {
        "small": (2048, 1.0), "medium": (4096, 2.0), "large": (8192, 4.0),
    }  # fmt: skip


@pytest.mark.parametrize("size", sorted(SIZES))
@pytest.mark.parametrize("enabled", [SERVICES, ("api-gw", "db"), ("api-gw", "db", "rest", "auth")])
def test_the_shipped_weights_fit(size: str, enabled: tuple[str, ...]) -> None:
    limits = memory_limits(SIZES[size].memory, release().weights, enabled)
    assert set(limits) == set(enabled)
    assert sum(limits.values()) <= SIZES[size].memory
    assert min(limits.values()) >= MINIMUM_MEMORY
    assert max(limits, key=limits.__getitem__) == "db"
    # Rounding down leaves next to nothing unused.
    assert sum(limits.values()) > SIZES[size].memory - len(enabled)


@PROPERTY
@given(
    st.dictionaries(st.sampled_from(SERVICES), st.integers(1, 1000), min_size=1),
    st.integers(len(SERVICES) * MINIMUM_MEMORY, 16384),
)
def test_the_parts_never_exceed_the_total(weights: Dict[str, int], total: int) -> None:
    limits = memory_limits(total, weights, weights)
    assert sum(limits.values()) <= total
    assert all(limit >= MINIMUM_MEMORY for limit in limits.values())


def test_a_service_more_never_gives_the_others_more() -> None:
    few = memory_limits(4096, release().weights, ("api-gw", "db"))
    many = memory_limits(4096, release().weights, SERVICES)
    assert many["db"] < few["db"]


@pytest.mark.parametrize(
    ("wanted", "available", "limit"), [(4.0, 2, 2.0), (1.0, 2, 1.0), (2.0, 2, 2.0), (4.0, 0, 1.0), (1.0, 1, 1.0)]
)
def test_never_more_processors_than_the_host_has(wanted: float, available: int, limit: float) -> None:
    assert cpu_limit(wanted, available) == limit
