# SPDX-License-Identifier: GPL-3.0-or-later
# This file is private to the multibase.supabase collection; it may change at any time.
"""From two readings of counters to use: percentages and rates. Pure.

Processor use of a container is the time that it used, divided by the time that passed; 100 is one CPU in full use. That
is what ``docker stats`` shows as well: the container's share of the time of all CPUs, times their number.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any, Dict, Iterable, List, Mapping, Optional

from ._cgroups import Counters

# Two readings that are closer say nothing: the counters of some kernels move every 10 ms.
_SHORTEST_SECONDS = 0.2
# After a pause of the machine an average over it would say nothing about now.
_LONGEST_SECONDS = 300.0
_COUNTERS = tuple(field.name for field in fields(Counters))


@dataclass(frozen=True)
class Reading:
    """Counters of a container, and when they were read (seconds of the monotonic clock)."""

    at: float
    counters: Counters


def elapsed(before: Optional[Reading], now: Reading) -> Optional[float]:
    """Return the seconds between two readings, None where they cannot be compared."""
    if before is None:
        return None
    seconds = now.at - before.at
    return seconds if _SHORTEST_SECONDS <= seconds <= _LONGEST_SECONDS else None


def rate(before: Optional[int], now: Optional[int], seconds: Optional[float]) -> Optional[float]:
    """Return how much a counter grew in a second. One that went back was set to 0 meanwhile: then nobody knows."""
    if before is None or now is None or not seconds or now < before:
        return None
    return (now - before) / seconds


def cpu_percent(before: Optional[int], now: Optional[int], seconds: Optional[float]) -> Optional[float]:
    """Return use of processors in percent from nanoseconds; 100 is one CPU."""
    grown = rate(before, now, seconds)
    return None if grown is None else grown / 1e7


def use(before: Optional[Reading], now: Reading) -> Dict[str, Any]:
    """Return the use of one container as the schema of the live file has it."""
    seconds = elapsed(before, now)
    new, old = now.counters, before.counters if before is not None else Counters()

    def grown(name: str) -> Optional[float]:
        value = rate(getattr(old, name), getattr(new, name), seconds)
        return None if value is None else round(value, 1)

    percent = cpu_percent(old.cpu_ns, new.cpu_ns, seconds)
    return {
        "cpu_percent": None if percent is None else round(percent, 2),
        "memory_bytes": new.memory,
        "memory_raw_bytes": new.memory_raw,
        "memory_limit_bytes": new.memory_limit,
        "network_received_bytes": new.received,
        "network_sent_bytes": new.sent,
        "network_received_rate": grown("received"),
        "network_sent_rate": grown("sent"),
        "block_read_bytes": new.read,
        "block_written_bytes": new.written,
        "block_read_rate": grown("read"),
        "block_write_rate": grown("written"),
        "processes": new.processes,
    }


NOTHING: Dict[str, Any] = use(None, Reading(0.0, Counters()))


def total(uses: Iterable[Mapping[str, Any]]) -> Dict[str, Any]:
    """Return the use of several together: sums of what is known, None where nothing is.

    Limits add up only where everyone has one: together they have none otherwise.
    """
    rows: List[Mapping[str, Any]] = list(uses)
    summed: Dict[str, Any] = {}
    for name in NOTHING:
        known = [row[name] for row in rows if row[name] is not None]
        if name == "memory_limit_bytes" and len(known) != len(rows):
            known = []
        value = sum(known) if known else None
        summed[name] = round(value, 2) if isinstance(value, float) else value
    return summed


def counters_of_sample(sample: Mapping[str, Any]) -> Counters:
    """Return the counters in one of the Engine's samples (``/containers/{id}/stats``, API 1.41 and later).

    An Engine that cannot read a container's files answers with zeros: then nothing is known.
    """
    cpu = _number(_part(sample, "cpu_stats", "cpu_usage").get("total_usage"))
    memory = _part(sample, "memory_stats")
    raw = _number(memory.get("usage"))
    if not cpu or not raw:
        return Counters()
    details = _part(sample, "memory_stats", "stats")
    cache = _number(details.get("total_inactive_file", details.get("inactive_file")))
    limit = _number(memory.get("limit"))
    networks = [entry for entry in (sample.get("networks") or {}).values() if isinstance(entry, dict)]
    blocks = _part(sample, "blkio_stats").get("io_service_bytes_recursive") or []

    def moved(operation: str) -> Optional[int]:
        values = [_number(row.get("value")) or 0 for row in blocks if str(row.get("op", "")).lower() == operation]
        return sum(values) if values else None

    return Counters(
        cpu_ns=cpu,
        memory=raw if cache is None or cache > raw else raw - cache,
        memory_raw=raw,
        memory_limit=limit or None,
        received=sum(_number(entry.get("rx_bytes")) or 0 for entry in networks) if networks else None,
        sent=sum(_number(entry.get("tx_bytes")) or 0 for entry in networks) if networks else None,
        read=moved("read"),
        written=moved("write"),
        processes=_number(_part(sample, "pids_stats").get("current")),
    )


def _part(value: Mapping[str, Any], *names: str) -> Dict[str, Any]:
    for name in names:
        found = value.get(name)
        value = found if isinstance(found, dict) else {}
    return dict(value)


def _number(value: Any) -> Optional[int]:
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else None


def reading_as_json(reading: Reading) -> Dict[str, Any]:
    """Return a reading as it is kept on the disk."""
    return {"at": reading.at, **{name: getattr(reading.counters, name) for name in _COUNTERS}}


def reading_from_json(value: Mapping[str, Any]) -> Optional[Reading]:
    """Return a reading that was kept, None when it is none."""
    at = value.get("at")
    if not isinstance(at, (int, float)) or isinstance(at, bool):
        return None
    return Reading(float(at), Counters(**{name: _number(value.get(name)) for name in _COUNTERS}))
