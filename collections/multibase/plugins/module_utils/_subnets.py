# SPDX-License-Identifier: GPL-3.0-or-later
# This file is private to the multibase.supabase collection; it may change at any time.
"""Subnets: every instance has a network of its own, because Docker's own pools end after about thirty networks."""

from __future__ import annotations

import ipaddress
from typing import Iterable, List, Optional, Tuple

from ._errors import MultibaseError

PREFIX_LENGTH = 26
DEFAULT_POOL = "10.213.0.0/16"


def parse_pool(text: str) -> ipaddress.IPv4Network:
    """Read the pool that subnets are taken from. Raises MultibaseError when it is no IPv4 network or too small."""
    try:
        pool = ipaddress.IPv4Network(text)
    except ValueError as error:
        raise MultibaseError(
            "subnet_pool: {0!r} is no IPv4 network such as 10.213.0.0/16 ({1})".format(text, error)
        ) from error
    if pool.prefixlen > PREFIX_LENGTH:
        raise MultibaseError("subnet_pool: {0} is smaller than one /{1}".format(pool, PREFIX_LENGTH))
    return pool


def parse_network(text: str) -> Optional[ipaddress.IPv4Network]:
    """Return ``text`` as a network, or None for anything that is no IPv4 network (IPv6, empty, malformed)."""
    try:
        return ipaddress.IPv4Network(text, strict=False)
    except ValueError:
        return None


class SubnetAllocator:
    """Hands out subnets of a pool that overlap nothing in ``taken``, in ascending order.

    It remembers where it stopped, so that allocating many is linear in the size of the pool.
    """

    def __init__(self, pool: ipaddress.IPv4Network, taken: Iterable[ipaddress.IPv4Network]) -> None:
        self._pool = pool
        self._candidates = pool.subnets(new_prefix=PREFIX_LENGTH)
        # Compared as integer ranges: IPv4Network.overlaps is several times slower, and there may be a thousand of each.
        self._taken: List[Tuple[int, int]] = [
            (int(network.network_address), int(network.broadcast_address))
            for network in taken
            if network.prefixlen and network.overlaps(pool)
        ]

    def allocate(self) -> str:
        """Return the next free subnet, for example ``10.213.0.64/26``. Raises MultibaseError when none is left."""
        for candidate in self._candidates:
            low, high = int(candidate.network_address), int(candidate.broadcast_address)
            if not any(start <= high and low <= end for start, end in self._taken):
                return str(candidate)
        raise MultibaseError(
            "no free /{0} is left in subnet_pool {1}; give a larger pool".format(PREFIX_LENGTH, self._pool)
        )
