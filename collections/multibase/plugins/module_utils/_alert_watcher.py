# SPDX-License-Identifier: GPL-3.0-or-later
# This file is private to the multibase.supabase collection; it may change at any time.
"""The part of the sampler that raises alerts, and the thread that tells of them."""

from __future__ import annotations

import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Callable, Dict, List, Mapping, Optional, Tuple

from . import _alerts, _notify, _registry
from ._alert_rules import Rules
from ._errors import MultibaseError, StateCorrupt
from ._layout import Layout
from ._monitor_settings import MonitorSettings

Say = Callable[[str], None]
Send = Callable[[Mapping[str, Any], Mapping[str, Any], float], None]
_AT_ONCE = 4
_POSTMAN_SECONDS = 2.0


class Channels:
    """The file of channels, read again when it changed."""

    def __init__(self, layout: Layout, say: Say) -> None:
        self._path = layout.channels
        self._say = say
        self._seen: object = None
        self._channels: List[Mapping[str, Any]] = []

    def current(self) -> List[Mapping[str, Any]]:
        """Return the channels; those that are wrong are told of and left out."""
        try:
            status = os.stat(self._path)
            seen: object = (status.st_ino, status.st_mtime_ns, status.st_size)
        except OSError:
            seen = "absent"
        if seen != self._seen:
            self._seen = seen
            self._channels = self._read()
        return self._channels

    def _read(self) -> List[Mapping[str, Any]]:
        try:
            found = _registry.read_json(self._path)
        except (StateCorrupt, OSError) as error:
            self._say("no alert can be told: {0}".format(error))
            return []
        problems = _notify.problems(found or [])
        if problems:
            self._say("no alert can be told: {0}".format("; ".join(problems)))
            return []
        return list(found or [])


class AlertWatcher:
    """Fills in alerts, and tells channels of what changes."""

    def __init__(self, layout: Layout, settings: MonitorSettings, say: Say, send: Send = _notify.send) -> None:
        self._layout, self._say, self._send = layout, say, send
        self._rules = Rules(settings.rules, settings.instance_rules)
        self._channels = Channels(layout, say)
        self._end = threading.Event()
        self._wake = threading.Event()
        self._thread = threading.Thread(target=self._run, name="alerts", daemon=True)
        self._thread.start()

    def look(self, live: Dict[str, Any], now: float) -> None:
        """Bring alerts up to date."""
        with _alerts.changing(self._layout, self._say) as state:
            events = _alerts.step(state, live, self._rules, now)
            _alerts.post(state, events, self._channels.current(), _notify.wants)
            live["alerts"] = _alerts.all_shown(state, now)
        for event in events:
            self._say("{0} ({1})".format(_notify.title(event.as_message()), event.alert["id"]))
        if events:
            self._wake.set()

    def close(self) -> None:
        """End the thread. What is not delivered yet is delivered by the next sampler."""
        self._end.set()
        self._wake.set()

    def _run(self) -> None:
        while not self._end.is_set():
            self._wake.wait(_POSTMAN_SECONDS)
            self._wake.clear()
            if self._end.is_set():
                break
            try:
                self.deliver(time.time())
            except (MultibaseError, OSError) as error:
                self._say("no alert could be told: {0}".format(error))
                self._end.wait(_POSTMAN_SECONDS * 5)

    def deliver(self, now: float) -> None:
        """Try everything in the outbox that is due. One channel that hangs does not keep the others waiting."""
        state = _alerts.load(self._layout, self._say)
        due = [one for one in state.outbox if one.next_at <= now]
        if not due:
            return
        by_channel: Dict[str, List[_alerts.Delivery]] = {}
        for delivery in due:
            by_channel.setdefault(delivery.channel, []).append(delivery)
        channels = {str(channel["name"]): channel for channel in self._channels.current()}
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            outcomes = list(pool.map(lambda name: self._deliver_to(channels.get(name), by_channel[name]), by_channel))
        done: Dict[Tuple[str, str], Optional[_alerts.Delivery]] = {}
        for outcome in outcomes:
            done.update(outcome)
        with _alerts.changing(self._layout, self._say) as state:
            kept: List[_alerts.Delivery] = []
            for one in state.outbox:
                key = (one.event.id, one.channel)
                if key not in done:
                    kept.append(one)
                elif done[key] is not None:
                    kept.append(done[key])  # type: ignore[arg-type]  # not None
            state.outbox = kept

    def _deliver_to(
        self, channel: Optional[Mapping[str, Any]], deliveries: List[_alerts.Delivery]
    ) -> Dict[Tuple[str, str], Optional[_alerts.Delivery]]:
        """Tell one channel, in order; after one that failed the rest waits as well."""
        done: Dict[Tuple[str, str], Optional[_alerts.Delivery]] = {}
        for delivery in deliveries:
            key = (delivery.event.id, delivery.channel)
            if channel is None:
                # It was taken out of the settings.
                done[key] = None
                continue
            try:
                self._send(channel, delivery.event.as_message(), time.time())
                done[key] = None
            except MultibaseError as error:
                again = _alerts.tried(delivery, time.time())
                done[key] = again
                end = "given up" if again is None else "tried again"
                self._say("{0} was not told ({1}): {2}".format(delivery.event.id, end, error))
                break
        return done
