# SPDX-License-Identifier: GPL-3.0-or-later
# This file is private to the multibase.supabase collection; it may change at any time.
"""Port blocks: every instance has ten consecutive ports that begin at a multiple of ten."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import AbstractSet, Dict, Iterator, Mapping, Optional

from ._errors import MultibaseError

BLOCK_SIZE = 10
# Below the ephemeral range of Linux, which begins at 32768.
DEFAULT_RANGE = "20000-32759"
# What each port of a block is for. +7 to +9 are reserved.
PORT_OFFSETS: Dict[str, int] = {
    "gateway_http": 0,
    "gateway_https": 1,
    "studio": 2,
    "pooler_session": 3,
    "pooler_transaction": 4,
    "postgres": 5,
    "analytics": 6,
}
_RANGE = re.compile(r"\s*(\d{1,5})\s*-\s*(\d{1,5})\s*\Z")


@dataclass(frozen=True)
class PortRange:
    """An inclusive range of TCP ports, ``low`` to ``high``."""

    low: int
    high: int

    def bases(self) -> Iterator[int]:
        """Yield the first port of each whole block in the range, in ascending order."""
        first = -(-self.low // BLOCK_SIZE) * BLOCK_SIZE
        return iter(range(first, self.high - BLOCK_SIZE + 2, BLOCK_SIZE))

    def __str__(self) -> str:
        return "{0}-{1}".format(self.low, self.high)


def parse_port_range(text: str) -> PortRange:
    """Read ``"20000-32759"``. Raises MultibaseError when it is no range, or holds no whole block."""
    found = _RANGE.match(text)
    if not found:
        raise MultibaseError("port_range: {0!r} is not of the form LOW-HIGH, for example 20000-32759".format(text))
    result = PortRange(int(found.group(1)), int(found.group(2)))
    if result.low < 1024 or result.high > 65535:
        raise MultibaseError("port_range: {0} reaches outside 1024-65535".format(result))
    if next(result.bases(), None) is None:
        raise MultibaseError(
            "port_range: {0} holds no whole block of {1} ports that begins at a multiple of {1}".format(
                result, BLOCK_SIZE
            )
        )
    return result


def block_of(base: int) -> range:
    """Return the ten ports of the block that begins at ``base``."""
    return range(base, base + BLOCK_SIZE)


def base_problem(base: int) -> Optional[str]:
    """Say what is wrong with a block's first port as a user gave it, or return None."""
    if base % BLOCK_SIZE:
        return "port_base {0} is not a multiple of {1}".format(base, BLOCK_SIZE)
    if base < 1024 or base + BLOCK_SIZE - 1 > 65535:
        return "port_base {0}: the block {0}-{1} reaches outside 1024-65535".format(base, base + BLOCK_SIZE - 1)
    return None


def allocate_block(
    allowed: PortRange, taken: Mapping[int, str], reserved: AbstractSet[int], wanted: Optional[int] = None
) -> int:
    """Return the first port of a free block.

    ``taken`` maps a port in use to what uses it, ``reserved`` holds the first ports of blocks given out already.
    With ``wanted`` only that block will do. Raises MultibaseError when there is none.
    """
    if wanted is not None:
        if wanted in reserved:
            raise MultibaseError("port block {0}-{1} belongs to another instance".format(wanted, wanted + 9))
        for port in block_of(wanted):
            if port in taken:
                raise MultibaseError(
                    "port block {0}-{1} is not free: {2} is taken by {3}".format(wanted, wanted + 9, port, taken[port])
                )
        return wanted
    for base in allowed.bases():
        if base not in reserved and not any(port in taken for port in block_of(base)):
            return base
    raise MultibaseError(
        "no free block of {0} ports is left in port_range {1}; widen it or delete instances".format(BLOCK_SIZE, allowed)
    )
