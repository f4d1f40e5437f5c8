# SPDX-License-Identifier: GPL-3.0-or-later
# This file is private to the multibase.supabase collection; it may change at any time.
"""Sizes: what the services of an instance share, how it is divided, and whether a host can bear all its instances."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Dict, Iterable, List, Mapping, Sequence, Tuple

from ._errors import MultibaseError


@dataclass(frozen=True)
class Size:
    """Memory of all services together in MiB, and processors of all together."""

    memory: int
    cpus: float


@dataclass(frozen=True)
class Share:
    """What one service gets.

    ``memory`` is its limit in MiB, ``cpus`` the processors that it may use at most, ``cpu_shares`` its weight against
    all other containers of the host when there are too few processors (Docker's unit: 1024 is one processor's worth).
    """

    memory: int
    cpus: float
    cpu_shares: int

    def as_dict(self) -> Dict[str, Any]:
        """Return the share as it is recorded."""
        return {"cpus": "{0:.2f}".format(self.cpus), "memory": self.memory, "cpu_shares": self.cpu_shares}


SIZES: Dict[str, Size] = {
    "small": Size(memory=2048, cpus=1.0),
    "medium": Size(memory=4096, cpus=2.0),
    "large": Size(memory=8192, cpus=4.0),
}
# Docker refuses limits below 6 MiB; below this no service of the stack starts.
MINIMUM_MEMORY = 32
# Hundredths of a processor: a service with less answers its own health check too late.
MINIMUM_CPU = 5
# Docker's smallest weight.
MINIMUM_SHARES = 2
_MEMORY = re.compile(r"([0-9]+(?:\.[0-9]+)?)\s*(m|g)(?:i?b)?\Z", re.IGNORECASE)
_LEAST, _MOST = Size(memory=512, cpus=0.1), Size(memory=4 * 1024 * 1024, cpus=1024.0)


def parse_size(value: Any) -> Size:
    """Read ``small``, ``medium``, ``large`` or ``{cpus: 1.5, memory: 3g}``. Raises MultibaseError for anything else."""
    if isinstance(value, str) and value in SIZES:
        return SIZES[value]
    if not isinstance(value, Mapping) or set(value) != {"cpus", "memory"}:
        raise MultibaseError(
            "size {0!r}: there are {1}, or a dictionary of cpus and memory such as {{cpus: 1.5, memory: 3g}}".format(
                value, ", ".join(SIZES)
            )
        )
    try:
        cpus = float(value["cpus"])
    except (TypeError, ValueError):
        cpus = -1.0
    found = _MEMORY.match(str(value["memory"]).strip())
    memory = int(float(found.group(1)) * (1024 if found.group(2).lower() == "g" else 1)) if found else -1
    if not _LEAST.cpus <= cpus <= _MOST.cpus:
        raise MultibaseError(
            "size.cpus {0!r} is no number from {1:g} to {2:g}".format(value["cpus"], _LEAST.cpus, _MOST.cpus)
        )
    if not _LEAST.memory <= memory <= _MOST.memory:
        raise MultibaseError(
            "size.memory {0!r} is nothing such as 1536m or 3g, of at least {1}m".format(value["memory"], _LEAST.memory)
        )
    return Size(memory=memory, cpus=cpus)


def divide(total: int, weights: Mapping[str, int], enabled: Iterable[str], minimum: int) -> Dict[str, int]:
    """Divide ``total`` over the enabled services by weight, none below ``minimum``.

    The parts add up to at most the total, unless it is too small to give every service its minimum.
    """
    parts: Dict[str, int] = {}
    sharing, left = set(enabled), total
    while True:
        whole = sum(weights[service] for service in sharing)
        small = [service for service in sharing if left * weights[service] // whole < minimum]
        if not small or len(small) == len(sharing):
            break
        parts.update({service: minimum for service in small})
        left -= minimum * len(small)
        sharing -= set(small)
    parts.update({service: max(minimum, left * weights[service] // whole) for service in sharing})
    return {service: parts[service] for service in sorted(parts)}


def shares(
    size: Size,
    memory_weights: Mapping[str, int],
    cpu_weights: Mapping[str, int],
    enabled: Iterable[str],
    burst: bool,
    available: int,
) -> Dict[str, Share]:
    """Divide a size over the enabled services.

    Memory limits add up to the size. With ``burst`` a service may use all processors of the instance while the others
    leave them idle, and its weight decides when they do not; without it the processor limits add up to the size too.
    ``available`` are the processors of the host: Docker refuses a limit above them.
    """
    services = sorted(enabled)
    memory = divide(size.memory, memory_weights, services, MINIMUM_MEMORY)
    cpus = divide(round(size.cpus * 100), cpu_weights, services, MINIMUM_CPU)
    weights = divide(round(size.cpus * 1024), cpu_weights, services, MINIMUM_SHARES)
    most = float(max(1, available))
    return {
        service: Share(
            memory=memory[service],
            cpus=min(most, size.cpus if burst else cpus[service] / 100.0),
            cpu_shares=weights[service],
        )
        for service in services
    }


@dataclass(frozen=True)
class Capacity:
    """What a host has, and how many times over it may be promised to instances (0: as often as one likes)."""

    cpus: int
    memory: int
    cpu_factor: float
    memory_factor: float


Demand = Tuple[str, Size]


def overcommitment(before: Sequence[Demand], after: Sequence[Demand], capacity: Capacity) -> str:
    """Say why the host cannot bear its instances, with a table of them; an empty string when it can.

    ``before`` and ``after`` name each instance with its size. A host that is promised too often already may be changed
    as long as it does not get worse.
    """
    reasons: List[str] = []
    for what, unit, of, has, factor in (
        ("processors", "", _cpus, float(capacity.cpus), capacity.cpu_factor),
        ("memory", " MiB", _memory, float(capacity.memory), capacity.memory_factor),
    ):
        wanted, had = sum(of(size) for _name, size in after), sum(of(size) for _name, size in before)
        if factor and wanted > has * factor and wanted > had:
            reasons.append(
                "{0}: {1:g}{2} wanted, {3:g}{2} there, which may be promised {4:g} times ({5:g}{2})".format(
                    what, wanted, unit, has, factor, has * factor
                )
            )
    if not reasons:
        return ""
    known = {name for name, _size in before}
    width = max(len("INSTANCE"), max(len(name) for name, _size in after))
    rows = ["{0}  {1:>6}  {2:>12}".format("INSTANCE".ljust(width), "CPUS", "MEMORY")]
    rows += [
        "{0}  {1:>6g}  {2:>8} MiB{3}".format(
            name.ljust(width), size.cpus, size.memory, "" if name in known else "  new"
        )
        for name, size in sorted(after, key=lambda demand: demand[0])
    ]
    total = Size(sum(size.memory for _n, size in after), sum(size.cpus for _n, size in after))
    rows.append("{0}  {1:>6g}  {2:>8} MiB".format("all".ljust(width), total.cpus, total.memory))
    return (
        "the host cannot bear these instances ({0}). Make some smaller, place some elsewhere, or raise "
        "overcommit_cpus or overcommit_memory.\n{1}".format("; ".join(reasons), "\n".join(rows))
    )


def _cpus(size: Size) -> float:
    return size.cpus


def _memory(size: Size) -> float:
    return float(size.memory)
