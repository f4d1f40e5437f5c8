# SPDX-License-Identifier: GPL-3.0-or-later
# This file is private to the multibase.supabase collection; it may change at any time.
"""How the host itself is: processors, memory, network and load, from ``/proc`` (proc(5))."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from typing import Any, Dict, Optional, Tuple

from . import _usage

# What these carry is carried by an interface of the outside once more.
_INNER = re.compile(r"(lo|docker\d+|br-[0-9a-f]+|veth\w+|virbr\d+|tap\w+|tun\w+)\Z")


@dataclass(frozen=True)
class HostReading:
    """What was counted at a moment: ``busy`` and ``total`` in ticks of all CPUs, network in bytes."""

    at: float
    busy: int
    total: int
    received: int
    sent: int


def parse_cpu(stat: str) -> Tuple[int, int]:
    """Return busy and all ticks in the text of ``/proc/stat``. Waiting for disks is idle."""
    for line in stat.splitlines():
        if line.startswith("cpu "):
            # user nice system idle iowait irq softirq steal; guests are in user already.
            ticks = [int(field) for field in line.split()[1:9]]
            ticks += [0] * (8 - len(ticks))
            return sum(ticks) - ticks[3] - ticks[4], sum(ticks)
    return 0, 0


def parse_memory(meminfo: str) -> Dict[str, int]:
    """Return the bytes in the text of ``/proc/meminfo`` by name."""
    found = re.findall(r"^(\w+):\s+(\d+) kB", meminfo, re.MULTILINE)
    return {name: int(number) * 1024 for name, number in found}


def parse_network(text: str) -> Tuple[int, int]:
    """Return bytes received and sent by interfaces to the outside, in the text of ``/proc/net/dev``."""
    received = sent = 0
    for line in text.splitlines():
        name, colon, rest = line.partition(":")
        fields = rest.split()
        if colon and len(fields) >= 16 and not _INNER.match(name.strip()):
            received += int(fields[0])
            sent += int(fields[8])
    return received, sent


def _text(*parts: str) -> str:
    try:
        with open(os.path.join(*parts), encoding="ascii", errors="replace") as stream:
            return stream.read()
    except OSError:
        return ""


def read(proc: str, at: float) -> HostReading:
    """Read the counters; ``at`` is the time of the monotonic clock."""
    busy, total = parse_cpu(_text(proc, "stat"))
    received, sent = parse_network(_text(proc, "net", "dev"))
    return HostReading(at, busy, total, received, sent)


def figures(proc: str, before: Optional[HostReading], now: HostReading) -> Dict[str, Any]:
    """Return the host's own figures as the live document has them; what needs two readings is None with one."""
    seconds = now.at - before.at if before is not None and now.at > before.at else None
    ticks = now.total - before.total if before is not None else 0
    busy = now.busy - before.busy if before is not None else 0
    memory = parse_memory(_text(proc, "meminfo"))
    total = memory.get("MemTotal", 0)
    load = _text(proc, "loadavg").split()[:3]
    swap = memory.get("SwapTotal")

    def grown(old: Optional[int], new: int) -> Optional[float]:
        value = _usage.rate(old, new, seconds)
        return None if value is None else round(value, 1)

    return {
        "cpus": os.cpu_count() or 1,
        "cpu_percent": round(100.0 * busy / ticks, 2) if ticks > 0 and busy >= 0 else None,
        "load": [float(value) for value in load] if len(load) == 3 else [0.0, 0.0, 0.0],
        "memory_total_bytes": total,
        "memory_used_bytes": total - memory.get("MemAvailable", total),
        "swap_used_bytes": None if swap is None else swap - memory.get("SwapFree", swap),
        "network_received_rate": grown(before.received if before else None, now.received),
        "network_sent_rate": grown(before.sent if before else None, now.sent),
        "uptime_seconds": float((_text(proc, "uptime").split() or ["0"])[0]),
    }
