# SPDX-License-Identifier: GPL-3.0-or-later
# This file is private to the multibase.supabase collection; it may change at any time.
"""The live document for who asks once: the sampler's, if it is fresh, else one of our own."""

from __future__ import annotations

from typing import Any, Callable, Dict, List, Mapping, Optional, Sequence, Tuple

from . import _live, _registry, _sampler
from ._container_readings import Connect
from ._errors import StateCorrupt, UnknownInstance
from ._layout import Layout

# What is older than so many intervals of the sampler is not what is now.
FRESH_INTERVALS = 3


def read_fresh(layout: Layout, now: float) -> Optional[Dict[str, Any]]:
    """Return what the sampler saw last, None when it does not run or has fallen behind."""
    try:
        live = _registry.read_json(layout.live)
    except (StateCorrupt, OSError):
        return None
    if not isinstance(live, dict) or live.get("schema") != _live.SCHEMA:
        return None
    sampled, interval = live.get("sampled_at"), live.get("interval")
    if not isinstance(sampled, (int, float)) or not isinstance(interval, (int, float)):
        return None
    return live if abs(now - sampled) <= FRESH_INTERVALS * max(float(interval), 1.0) else None


def current(
    layout: Layout, connect: Connect, now: float, say: Callable[[str], None], names: Sequence[str] = ()
) -> Tuple[Dict[str, Any], str]:
    """Return the live document, and where it is from: sampler or look.

    One that does not know all of ``names`` is too old: they were made meanwhile.
    """
    live = read_fresh(layout, now)
    if live is not None and {entry["name"] for entry in live["instances"]}.issuperset(names):
        return live, "sampler"
    return _sampler.Sampler(layout, connect, say).once(now), "look"


def results(live: Mapping[str, Any], names: Sequence[str]) -> List[Dict[str, Any]]:
    """Return a row for each instance, of those named when there are names. Raises UnknownInstance."""
    entries = {entry["name"]: entry for entry in live["instances"]}
    unknown = [name for name in names if name not in entries]
    if unknown:
        there = ", ".join(sorted(entries)) or "none"
        raise UnknownInstance("there is no instance {0} here; there are: {1}".format(", ".join(unknown), there))
    rows: List[Dict[str, Any]] = []
    for name in sorted(names or entries):
        entry = entries[name]
        rows.append(
            {
                "name": name,
                "changed": False,
                "state": entry["state"],
                "use": entry["use"],
                "restarts": sum(service["restarts"] or 0 for service in entry["services"]),
                "services": entry["services"],
                "database": entry["database"],
                "disk": entry["disk"],
            }
        )
    return rows
