# SPDX-License-Identifier: GPL-3.0-or-later
# This file is private to the multibase.supabase collection; it may change at any time.
"""Sizes: the memory that all services of an instance share, and the processors that each may use."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Dict, Iterable, Mapping


@dataclass(frozen=True)
class Size:
    """Memory of all services together in MiB, cores that each of them may use at most."""

    memory: int
    cpus: float


SIZES: Dict[str, Size] = {
    "small": Size(memory=2048, cpus=1.0),
    "medium": Size(memory=4096, cpus=2.0),
    "large": Size(memory=8192, cpus=4.0),
}
# Docker refuses limits below 6 MiB; below this no service of the stack starts.
MINIMUM_MEMORY = 32


def memory_limits(total: int, weights: Mapping[str, int], enabled: Iterable[str]) -> Dict[str, int]:
    """Divide ``total`` MiB over the enabled services by weight. The parts add up to at most the total."""
    limits: Dict[str, int] = {}
    sharing, left = set(enabled), total
    while True:
        whole = sum(weights[service] for service in sharing)
        small = [service for service in sharing if left * weights[service] // whole < MINIMUM_MEMORY]
        if not small or len(small) == len(sharing):
            break
        limits.update({service: MINIMUM_MEMORY for service in small})
        left -= MINIMUM_MEMORY * len(small)
        sharing -= set(small)
    limits.update({service: max(MINIMUM_MEMORY, left * weights[service] // whole) for service in sharing})
    return {service: limits[service] for service in sorted(limits)}


def cpu_limit(wanted: float, available: int) -> float:
    """Return ``wanted`` cores, or all ``available`` ones where the host has fewer: Docker refuses more than it has."""
    return min(wanted, float(max(1, available)))
