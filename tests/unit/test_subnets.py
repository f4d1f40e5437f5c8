# SPDX-License-Identifier: GPL-3.0-or-later
"""Subnets: a /26 each, overlapping neither each other nor anything that the host has."""

from __future__ import annotations

import ipaddress
from typing import List

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ansible_collections.multibase.supabase.plugins.module_utils._errors import MultibaseError
from ansible_collections.multibase.supabase.plugins.module_utils._subnets import (
    SubnetAllocator,
    parse_network,
    parse_pool,
)
from unit.support import PROPERTY

POOL = parse_pool("10.213.0.0/16")


@pytest.mark.parametrize("text", ["", "x", "10.213.0.0/33", "10.213.0.1/16", "10.213.0.0/27", "fd00::/64", "10.213"])
def test_a_bad_pool_is_refused(text: str) -> None:
    with pytest.raises(MultibaseError, match="subnet_pool"):
        parse_pool(text)


def test_a_pool_of_one_subnet_will_do() -> None:
    allocator = SubnetAllocator(parse_pool("192.168.7.64/26"), [])
    assert allocator.allocate() == "192.168.7.64/26"
    with pytest.raises(MultibaseError, match=r"192\.168\.7\.64/26"):
        allocator.allocate()


def test_in_ascending_order() -> None:
    allocator = SubnetAllocator(POOL, [])
    assert [allocator.allocate() for _index in range(3)] == ["10.213.0.0/26", "10.213.0.64/26", "10.213.0.128/26"]


def test_the_default_pool_holds_1024() -> None:
    allocator = SubnetAllocator(POOL, [])
    assert len({allocator.allocate() for _index in range(1024)}) == 1024
    with pytest.raises(MultibaseError):
        allocator.allocate()


@pytest.mark.parametrize(
    "taken", ["10.213.0.0/26", "10.213.0.0/30", "10.213.0.63/32", "10.213.0.32/27", "10.212.0.0/15", "10.0.0.0/8"]
)
def test_whatever_overlaps_is_skipped(taken: str) -> None:
    network = ipaddress.IPv4Network(taken)
    allocator = SubnetAllocator(POOL, [network])
    try:
        found = ipaddress.IPv4Network(allocator.allocate())
    except MultibaseError:
        assert network.supernet_of(POOL)
    else:
        assert not found.overlaps(network)


def test_the_default_route_takes_nothing() -> None:
    assert SubnetAllocator(POOL, [ipaddress.IPv4Network("0.0.0.0/0")]).allocate() == "10.213.0.0/26"


def test_text_that_is_no_ipv4_network_is_left_out() -> None:
    assert parse_network("fd00::/64") is None
    assert parse_network("") is None
    assert parse_network("nonsense") is None
    assert parse_network("10.1.2.3/24") == ipaddress.IPv4Network("10.1.2.0/24")


networks = st.builds(
    lambda address, prefix: ipaddress.IPv4Network((address, prefix), strict=False),
    st.integers(int(ipaddress.IPv4Address("10.212.255.0")), int(ipaddress.IPv4Address("10.214.0.255"))),
    st.integers(18, 32),
)


@PROPERTY
@given(st.lists(networks, max_size=25), st.integers(1, 60))
def test_disjoint_and_never_over_what_is_taken(taken: List[ipaddress.IPv4Network], count: int) -> None:
    allocator = SubnetAllocator(POOL, taken)
    free = [
        str(subnet) for subnet in POOL.subnets(new_prefix=26) if not any(subnet.overlaps(network) for network in taken)
    ]
    found = []
    for _index in range(min(count, len(free))):
        found.append(allocator.allocate())
    assert found == free[: len(found)]
    assert len(set(found)) == len(found)
