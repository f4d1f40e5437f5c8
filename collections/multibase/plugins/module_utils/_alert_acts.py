# SPDX-License-Identifier: GPL-3.0-or-later
# This file is private to the multibase.supabase collection; it may change at any time.
"""What people do about alerts: list, acknowledge, silence, take a silence back, try a channel."""

from __future__ import annotations

import os
import re
from dataclasses import asdict
from typing import Any, Callable, Dict, List, Mapping, Optional

from . import _alerts, _notify
from ._alert_watcher import Channels
from ._errors import InvalidInput
from ._layout import Layout

Say = Callable[[str], None]
_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}


def seconds_of(text: str) -> float:
    """Return the seconds of a duration such as ``90m``, ``2h`` or ``1d12h``. Raises InvalidInput."""
    parts = re.findall(r"(\d+)([smhdw])", text)
    if not parts or "".join(number + unit for number, unit in parts) != text:
        raise InvalidInput(["{0!r} is no duration such as 90m, 2h or 1d12h".format(text)])
    return float(sum(int(number) * _UNITS[unit] for number, unit in parts))


def listing(layout: Layout, now: float, say: Say) -> Dict[str, List[Dict[str, Any]]]:
    """Return alerts and silences, without taking the lock: the file is replaced whole."""
    state = _alerts.load(layout, say) if os.path.exists(_alerts.path_of(layout)) else _alerts.State()
    silences = [asdict(silence) for silence in state.silences if silence.until > now]
    return {"alerts": _alerts.all_shown(state, now), "silences": silences}


def acknowledge(layout: Layout, identity: str, by: str, note: str, now: float, say: Say, check: bool) -> Dict[str, Any]:
    """Note that somebody knows of an alert, and return it. Raises InvalidInput."""
    if check:
        return _alerts.shown(_alerts.acknowledge(_alerts.load(layout, say), identity, by, note, now), None)
    with _alerts.changing(layout, say) as state:
        return _alerts.shown(_alerts.acknowledge(state, identity, by, note, now), None)


def silence(layout: Layout, wanted: Mapping[str, str], by: str, now: float, say: Say, check: bool) -> Dict[str, Any]:
    """Add a silence and return it. ``wanted`` has instance, rule, subject, duration and reason. Raises InvalidInput."""
    seconds = seconds_of(wanted["duration"])
    words = (wanted["instance"], wanted["rule"], wanted["subject"], seconds, by, wanted["reason"], now)
    if check:
        return asdict(_alerts.silence(_alerts.load(layout, say), *words))
    with _alerts.changing(layout, say) as state:
        return asdict(_alerts.silence(state, *words))


def unsilence(layout: Layout, identity: str, say: Say, check: bool) -> Dict[str, Any]:
    """Take a silence back and return it. Raises InvalidInput."""
    if check:
        return asdict(_alerts.unsilence(_alerts.load(layout, say), identity))
    with _alerts.changing(layout, say) as state:
        return asdict(_alerts.unsilence(state, identity))


def try_channels(layout: Layout, host: str, name: Optional[str], now: float, say: Say) -> List[Dict[str, Any]]:
    """Send a test message to a channel, or to all; return a row for each with what went wrong. Raises NotDelivered."""
    rows: List[Dict[str, Any]] = []
    alert = {
        "id": "test", "rule": "test", "severity": "warning", "instance": "", "subject": "", "state": "firing",
        "since": now, "value": 1, "threshold": 1, "message": "this is a test of the channel", "acknowledged": None,
        "silenced_until": None,
    }  # fmt: skip
    event = {"id": "test-{0:.0f}".format(now), "change": "test", "host": host, "alert": alert}
    for channel in _notify.choose(Channels(layout, say).current(), name):
        problem = ""
        try:
            _notify.send(channel, event, now)
        except _notify.NotDelivered as error:
            problem = str(error)
        rows.append({"channel": str(channel["name"]), "kind": str(channel["kind"]), "problem": problem})
    return rows
