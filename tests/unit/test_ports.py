# SPDX-License-Identifier: GPL-3.0-or-later
"""Port blocks: ten ports each, never shared, never over something that is in use."""

from __future__ import annotations

from typing import Dict, Set

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ansible_collections.multibase.supabase.plugins.module_utils._errors import MultibaseError
from ansible_collections.multibase.supabase.plugins.module_utils._ports import (
    PORT_OFFSETS,
    PortRange,
    allocate_block,
    base_problem,
    block_of,
    parse_port_range,
)
from unit.support import PROPERTY

DEFAULT = PortRange(20000, 32759)


def test_the_default_range_has_1276_blocks_below_the_ephemeral_ports() -> None:
    bases = list(DEFAULT.bases())
    assert len(bases) == 1276
    assert bases[0] == 20000 and bases[-1] == 32750
    assert max(block_of(bases[-1])) == 32759


def test_what_each_port_of_a_block_is_for() -> None:
    assert PORT_OFFSETS == {
        "gateway_http": 0, "gateway_https": 1, "studio": 2, "pooler_session": 3, "pooler_transaction": 4, "postgres": 5,
        "analytics": 6,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("low", "high", "bases"),
    [
        (20000, 20009, [20000]),
        (20000, 20019, [20000, 20010]),
        (20001, 20019, [20010]),
        (20000, 20018, [20000]),
        (20009, 20020, [20010]),
        (65520, 65535, [65520]),
        (20000, 20008, []),
        (20001, 20010, []),
        (30000, 20000, []),
    ],
)
def test_only_whole_blocks_at_multiples_of_ten(low: int, high: int, bases: list[int]) -> None:
    assert list(PortRange(low, high).bases()) == bases


@pytest.mark.parametrize("text", ["20000-32759", " 20000 - 32759 ", "20000 -32759"])
def test_a_range_is_read(text: str) -> None:
    assert parse_port_range(text) == DEFAULT
    assert str(parse_port_range(text)) == "20000-32759"


@pytest.mark.parametrize(
    "text",
    [
        "", "20000", "20000-", "-20000", "a-b", "20000-32759-5", "20000:32759", "20000-32759\nx", "2e4-3e4", "-5--1",
        "0-100", "1000-2000", "60000-65536", "60000-99999", "32759-20000", "20001-20010", "20000-20008",
        "20000-1000000",
    ],
)  # fmt: skip
def test_a_bad_range_is_refused_with_what_was_found_and_what_is_allowed(text: str) -> None:
    with pytest.raises(MultibaseError) as caught:
        parse_port_range(text)
    message = str(caught.value)
    assert "port_range" in message
    assert "20000-32759" in message or "1024-65535" in message or "whole block" in message


@pytest.mark.parametrize("base", [20000, 1030, 65520, 32760])
def test_a_good_base(base: int) -> None:
    assert base_problem(base) is None


@pytest.mark.parametrize("base", [20001, 20005, 1020, 0, -10, 65530, 65540, 100000])
def test_a_bad_base_is_named(base: int) -> None:
    assert str(base) in str(base_problem(base))


def test_the_first_free_block_is_taken() -> None:
    assert allocate_block(DEFAULT, {}, frozenset()) == 20000
    assert allocate_block(DEFAULT, {}, {20000, 20010}) == 20020


@pytest.mark.parametrize("offset", range(10))
def test_a_block_with_any_port_in_use_is_skipped(offset: int) -> None:
    assert allocate_block(DEFAULT, {20000 + offset: "somebody"}, frozenset()) == 20010


def test_ports_beside_a_block_do_not_matter() -> None:
    assert allocate_block(DEFAULT, {19999: "x", 20010: "y"}, frozenset()) == 20000


def test_the_last_block_is_used_and_then_none_is_left() -> None:
    allowed = PortRange(20000, 20019)
    assert allocate_block(allowed, {}, {20000}) == 20010
    with pytest.raises(MultibaseError) as caught:
        allocate_block(allowed, {20015: "x"}, {20000})
    assert "20000-20019" in str(caught.value)


def test_a_wanted_block() -> None:
    assert allocate_block(DEFAULT, {}, {20000}, wanted=25000) == 25000
    with pytest.raises(MultibaseError, match="20000-20009"):
        allocate_block(DEFAULT, {}, {20000}, wanted=20000)
    with pytest.raises(MultibaseError) as caught:
        allocate_block(DEFAULT, {25007: "container web"}, frozenset(), wanted=25000)
    assert "25007" in str(caught.value) and "container web" in str(caught.value)


@PROPERTY
@given(
    st.integers(1024, 65000),
    st.integers(0, 400),
    st.sets(st.integers(1024, 65535), max_size=60),
    st.integers(1, 45),
)
def test_blocks_are_disjoint_and_free(low: int, width: int, used: Set[int], count: int) -> None:
    allowed = PortRange(low, min(65535, low + width))
    taken: Dict[int, str] = {port: "somebody" for port in used}
    reserved: Set[int] = set()
    given_out: Set[int] = set()
    free = [base for base in range(0, 65536, 10) if base >= low and base + 9 <= allowed.high]
    free = [base for base in free if not used & set(range(base, base + 10))]
    for number in range(count):
        if number >= len(free):
            with pytest.raises(MultibaseError):
                allocate_block(allowed, taken, reserved)
            break
        base = allocate_block(allowed, taken, reserved)
        block = set(block_of(base))
        assert base == free[number], "the first free one"
        assert len(block) == 10 and not block & given_out and not block & used
        assert allowed.low <= min(block) and max(block) <= allowed.high
        reserved.add(base)
        given_out |= block
