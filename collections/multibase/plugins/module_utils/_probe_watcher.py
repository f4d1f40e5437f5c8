# SPDX-License-Identifier: GPL-3.0-or-later
# This file is private to the multibase.supabase collection; it may change at any time.
"""The part of the sampler that probes instances, a few at once, in threads beside the looks."""

from __future__ import annotations

import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Callable, Dict, List, Optional, Tuple

from . import _envfile, _probes, _registry
from ._errors import MultibaseError
from ._layout import Layout
from ._monitor_settings import MonitorSettings

Say = Callable[[str], None]
_AT_ONCE = 4
# States in which nothing is to be expected of an instance.
_SILENT = ("stopped", "unknown", "damaged")


class ProbeWatcher:
    """Fills in the probes that were made last, and begins those that are due."""

    def __init__(
        self,
        layout: Layout,
        settings: MonitorSettings,
        say: Say,
        run: Callable[[_probes.Target, float], List[Dict[str, Any]]] = _probes.run,
    ) -> None:
        self._layout, self._settings, self._say, self._run = layout, settings, say, run
        self._pool = ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="probe")
        self._done: Dict[str, List[Dict[str, Any]]] = {}
        self._due: Dict[str, float] = {}
        self._going: Dict[str, Future[None]] = {}
        self._lock = threading.Lock()
        self._said: Dict[str, str] = {}

    def look(self, live: Dict[str, Any], now: float) -> None:
        """Fill in what is known, and begin what is due. The clock of the due times is monotonic."""
        moment = time.monotonic()
        names = []
        for entry in live["instances"]:
            name = entry["name"]
            if entry["state"] in _SILENT or not self._settings.probes:
                continue
            names.append(name)
            with self._lock:
                entry["probes"] = [dict(probe) for probe in self._done.get(name, [])]
            going = self._going.get(name)
            if (going is None or going.done()) and moment >= self._due.get(name, 0.0):
                self._due[name] = moment + self._settings.probe_interval
                self._going[name] = self._pool.submit(self._probe, name)
        # One that is started again is not told of by what it was before.
        with self._lock:
            self._done = {name: probes for name, probes in self._done.items() if name in names}
        self._due = {name: due for name, due in self._due.items() if name in names}

    def _probe(self, name: str) -> None:
        problem, probes = self._made(name)
        if problem and problem != self._said.get(name):
            self._say("instance {0} cannot be probed: {1}".format(name, problem))
        self._said[name] = problem
        with self._lock:
            self._done[name] = probes

    def _made(self, name: str) -> Tuple[str, List[Dict[str, Any]]]:
        try:
            target = self._target(name)
            return "", [] if target is None else self._run(target, self._settings.probe_timeout)
        except (MultibaseError, OSError, ValueError, KeyError) as error:
            return "{0}: {1}".format(type(error).__name__, error), []

    def _target(self, name: str) -> Optional[_probes.Target]:
        manifest = _registry.read_manifest(self._layout, name)
        with open(self._layout.env(name), encoding="utf-8") as stream:
            return _probes.target_of(manifest, _envfile.parse(stream.read()))

    def close(self) -> None:
        """Begin nothing more; what goes on ends by itself within its time."""
        for going in self._going.values():
            going.cancel()
        self._pool.shutdown(wait=False)
