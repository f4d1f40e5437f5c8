# SPDX-License-Identifier: GPL-3.0-or-later
# This file is private to the multibase.supabase collection; it may change at any time.
"""What a host is to watch, as the role left it in ``state/_monitor.json``."""

from __future__ import annotations

import os
import socket
from dataclasses import dataclass, field
from typing import Any, Callable, Dict, Mapping

from ._errors import StateCorrupt
from ._history import Retention
from ._layout import Layout
from ._registry import read_json


@dataclass(frozen=True)
class MonitorSettings:
    """Intervals are in seconds. ``rules`` and ``instance_rules`` are what differs from the rules of alerts."""

    host: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)
    interval: float = 5.0
    history_interval: float = 60.0
    database_interval: float = 60.0
    disk_interval: float = 900.0
    probes: bool = True
    probe_interval: float = 30.0
    probe_timeout: float = 5.0
    slo_percent: float = 99.9
    retention: Retention = field(default_factory=Retention)
    runs_url: str = ""
    rules: Mapping[str, Any] = field(default_factory=dict)
    instance_rules: Mapping[str, Any] = field(default_factory=dict)


# Shorter ones would keep the host busy with being watched.
_SHORTEST = {"interval": 1.0, "history_interval": 10.0, "database_interval": 10.0, "disk_interval": 60.0,
             "probe_interval": 5.0, "probe_timeout": 0.5, "slo_percent": 0.0}  # fmt: skip


def parse(data: Any) -> MonitorSettings:
    """Return settings from what the file holds; what is missing or of a wrong kind is as by default."""
    given: Dict[str, Any] = data if isinstance(data, dict) else {}
    values: Dict[str, Any] = {"host": str(given.get("host") or socket.gethostname())}
    for name, least in _SHORTEST.items():
        value = given.get(name)
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            values[name] = max(least, float(value))
    if isinstance(given.get("probes"), bool):
        values["probes"] = given["probes"]
    if isinstance(given.get("runs_url"), str):
        values["runs_url"] = given["runs_url"]
    for name in ("rules", "instance_rules"):
        if isinstance(given.get(name), dict):
            values[name] = given[name]
    labels = given.get("labels")
    if isinstance(labels, dict):
        values["labels"] = {str(name): str(value) for name, value in labels.items()}
    values["retention"] = Retention.read(given.get("retention"))
    return MonitorSettings(**values)


class SettingsFile:
    """The file, read again when it changed. One that is damaged leaves what was read before."""

    def __init__(self, layout: Layout, say: Callable[[str], None]) -> None:
        self._path = layout.monitor_settings
        self._say = say
        self._seen: object = None
        self._settings = parse(None)

    def current(self) -> MonitorSettings:
        """Return the settings as they are now."""
        try:
            status = os.stat(self._path)
            seen: object = (status.st_ino, status.st_mtime_ns, status.st_size)
        except OSError:
            seen = "absent"
        if seen != self._seen:
            self._seen = seen
            try:
                self._settings = parse(read_json(self._path))
            except (StateCorrupt, OSError) as error:
                self._say("the settings stay as they were: {0}".format(error))
        return self._settings
