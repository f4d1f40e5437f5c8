# SPDX-License-Identifier: GPL-3.0-or-later
# This file is private to the multibase.supabase collection; it may change at any time.
"""What one host tells for a report: what its sampler saw last or a look of our own, and what is wrong with that."""

from __future__ import annotations

from typing import Any, Callable, Dict, Optional, Tuple

from . import _live_shape, _sampler, _stats
from ._container_readings import Connect
from ._errors import MultibaseError, StateCorrupt
from ._layout import Layout
from ._registry import read_json

Told = Tuple[Optional[Dict[str, Any]], str]


def read(layout: Layout, connect: Connect, now: float, say: Callable[[str], None]) -> Told:
    """Return the live document of a host, and what is wrong with how it came about (empty: nothing).

    ``now`` is seconds since 1970. A sampler that has fallen behind is told even where a look of our own stands in for
    it: nobody watches that host. Where there is no sampler, none is missed. Nothing is raised: a host that cannot be
    read has no document, and the reason.
    """
    last, problem = _last(layout)
    if last is not None and _stats.read_fresh(layout, now) is not None:
        return last, ""
    if last is not None:
        problem = "the sampler (multibase-monitor.service) wrote last {0} s ago".format(_age(last, now))
    try:
        return _sampler.Sampler(layout, connect, say).once(now), problem
    except (MultibaseError, OSError) as error:
        looked = "looking without it failed: {0}".format(error)
    told = problem or "the sampler has not written {0}; switch multibase_monitor_enabled on".format(layout.live)
    return last, "{0}; {1}".format(told, looked)


def _last(layout: Layout) -> Told:
    """Return what the sampler wrote last, however old; what is wrong with the file, when something is."""
    try:
        found = read_json(layout.live)
        return (None if found is None else _live_shape.conform(found)), ""
    except StateCorrupt as error:
        return None, "{0} cannot be used: {1}".format(layout.live, error)
    except OSError as error:
        return None, "{0}: {1}".format(layout.live, error.strerror or error)


def _age(live: Dict[str, Any], now: float) -> str:
    sampled = live["sampled_at"]
    return "?" if sampled is None else "{0:.0f}".format(now - sampled)
