# SPDX-License-Identifier: GPL-3.0-or-later
# This file is private to the multibase.supabase collection; it may change at any time.
"""What the Engine says of all containers of a host, and what the kernel counts of them, look after look."""

from __future__ import annotations

import calendar
import contextlib
import json
import os
import re
import threading
import time
from concurrent.futures import Future, wait
from dataclasses import astuple
from typing import Any, Callable, Dict, List, Mapping, Optional, Sequence, Tuple

from . import _live, _registry, _usage
from ._cgroups import Cgroups
from ._engine import Container, Engine
from ._errors import EngineUnavailable, StateCorrupt
from ._publish import replace_file

_AT_ONCE = 64
# An Engine of version 20.10 takes a second for each, and two without its one-shot form.
SAMPLES_SECONDS = 4.0

Connect = Callable[[], Engine]


def seconds_of(text: str) -> Optional[float]:
    """Return the seconds since 1970 of a time in the Engine's words, None for its zero."""
    found = re.match(r"(\d{4})-(\d\d)-(\d\d)T(\d\d):(\d\d):(\d\d)", text)
    if not found or found.group(1) == "0001":
        return None
    return float(calendar.timegm((*(int(field) for field in found.groups()), 0, 0, 0)))


class Containers:
    """What the Engine says of containers, and what the kernel counts of them."""

    def __init__(self, connect: Connect, proc: str) -> None:
        self._connect = connect
        self._cgroups = Cgroups(proc)
        self._engine: Optional[Engine] = None
        self._facts: Dict[str, Tuple[object, _live.Running]] = {}
        self._before: Dict[str, _usage.Reading] = {}
        self.version = ""
        self.data_root = "/var/lib/docker"
        self.trouble = ""

    def look(self) -> Optional[List[Container]]:
        """Return all containers of all projects, None when the Engine cannot be reached: ``trouble`` says why."""
        try:
            if self._engine is None:
                engine = self._connect()
                self.version = ".".join(map(str, engine.version()))
                self.data_root = engine.data_root()
                self._engine = engine
            listed = self._engine.containers()
            self._inspect_changed(self._engine, listed)
        except EngineUnavailable as error:
            self._engine = None
            self.trouble = str(error)
            return None
        self.trouble = ""
        return listed

    def _inspect_changed(self, engine: Engine, listed: Sequence[Container]) -> None:
        kept: Dict[str, Tuple[object, _live.Running]] = {}
        for container in listed:
            known = self._facts.get(container.id)
            if known is None or known[0] != container.state or (known[1].pid and not _alive(known[1].pid)):
                known = (container.state, _running(engine.inspect(container.id)))
            kept[container.id] = known
        self._facts = kept
        self._cgroups.forget_others(list(kept))
        self._before = {identity: reading for identity, reading in self._before.items() if identity in kept}

    @property
    def running(self) -> Dict[str, _live.Running]:
        """What inspections told, by container."""
        return {identity: running for identity, (_state_then, running) in self._facts.items()}

    def uses(self, listed: Sequence[Container]) -> Dict[str, Dict[str, Any]]:
        """Return the use of each running container by its id."""
        wanted = [container.id for container in listed if container.state == "running"]
        read: Dict[str, _usage.Reading] = {}
        for identity in wanted:
            counters = self._cgroups.read(identity, self._facts[identity][1].pid)
            if counters.known:
                read[identity] = _usage.Reading(time.monotonic(), counters)
        missing = [identity for identity in wanted if identity not in read]
        for identity in missing if read else ():
            # Its first process may be another one by now, with the number of a process that there is.
            self._facts[identity] = ("unread", self._facts[identity][1])
        # One or two are just starting or ending; when no files can be read at all it is another machine's Engine.
        if missing and not read:
            read.update(self._samples(missing))
        uses = {identity: _usage.use(self._before.get(identity), reading) for identity, reading in read.items()}
        self._before.update(read)
        return uses

    def _samples(self, identities: Sequence[str]) -> Dict[str, _usage.Reading]:
        """Ask the Engine for samples, all at once: each takes it one to two seconds, however many are asked for.

        Those that do not answer in time, or are gone meanwhile, are left out.
        """

        def ask(identity: str) -> _usage.Reading:
            sample = self._connect().sample(identity)
            return _usage.Reading(time.monotonic(), _usage.counters_of_sample(sample))

        jobs: Dict[str, Future[_usage.Reading]] = {identity: Future() for identity in identities}
        waiting = list(identities)

        def work() -> None:
            while waiting:
                # One step of the interpreter: no two threads get the same.
                with contextlib.suppress(IndexError):
                    identity = waiting.pop()
                    try:
                        jobs[identity].set_result(ask(identity))
                    except Exception as error:  # it is not known; the others are
                        jobs[identity].set_exception(error)

        # Not of a pool: nobody may wait for one that hangs, also not at the end of the process.
        for _number in range(min(_AT_ONCE, len(waiting))):
            threading.Thread(target=work, daemon=True).start()
        done, _late = wait(jobs.values(), timeout=SAMPLES_SECONDS)
        waiting.clear()
        readings = {identity: job.result() for identity, job in jobs.items() if job in done and not job.exception()}
        return {identity: reading for identity, reading in readings.items() if reading.counters.known}

    def remember(self, path: str) -> None:
        """Keep the readings, and what inspections told, for who looks only once."""
        readings = {identity: _usage.reading_as_json(reading) for identity, reading in self._before.items()}
        facts = {identity: [state, *astuple(running)] for identity, (state, running) in self._facts.items()}
        content = json.dumps({"boot": _boot_id(), "readings": readings, "facts": facts}).encode("utf-8")
        replace_file(path, content, 0o600)

    def recall(self, path: str) -> None:
        """Take readings that were kept, if the host has not been started since: its clock begins anew then."""
        try:
            known = _registry.read_json(path)
        except (StateCorrupt, OSError):
            return
        if not isinstance(known, dict) or known.get("boot") != _boot_id():
            return
        for identity, value in (known.get("readings") or {}).items():
            reading = _usage.reading_from_json(value)
            if reading is not None:
                self._before.setdefault(str(identity), reading)
        for identity, fact in (known.get("facts") or {}).items():
            # Compared with the list and with the processes that there are, as those of the look before.
            if isinstance(fact, list) and len(fact) == 4 and isinstance(fact[1], int):
                self._facts.setdefault(str(identity), (fact[0], _live.Running(*fact[1:])))


def _alive(pid: int) -> bool:
    return os.path.exists("/proc/{0}".format(pid))


def _boot_id() -> str:
    try:
        with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as stream:
            return stream.read().strip()
    except OSError:
        return ""


def _running(inspected: Mapping[str, Any]) -> _live.Running:
    state = inspected.get("State") or {}
    running = bool(state.get("Running"))
    return _live.Running(
        pid=int(state.get("Pid") or 0) if running else 0,
        restarts=int(inspected["RestartCount"]) if "RestartCount" in inspected else None,
        started_at=seconds_of(str(state.get("StartedAt") or "")) if running else None,
    )
