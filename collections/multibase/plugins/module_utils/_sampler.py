# SPDX-License-Identifier: GPL-3.0-or-later
# This file is private to the multibase.supabase collection; it may change at any time.
"""The sampler: looks at a host and its instances every few seconds, and keeps what it saw.

Its cost is what every look costs, so a look is one list of containers from the Engine and some files of the kernel for
each; a container is inspected when it is new or has changed. Everything that takes longer (databases, files, backups,
certificates) is asked in threads beside it, and a look takes what they know. Every part may fail without the others:
what is not known is None.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import select
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Callable, Dict, List, Mapping, Optional, Protocol, Sequence, Tuple

from . import (
    _backup_state,
    _catalogue,
    _database_figures,
    _disk_use,
    _envfile,
    _host_figures,
    _live,
    _registry,
    _state,
)
from ._container_readings import Connect, Containers
from ._database import SUPERUSER
from ._engine import Container
from ._errors import MultibaseError, StateCorrupt
from ._history import DISK, HOST, History
from ._layout import Layout
from ._monitor_settings import MonitorSettings, SettingsFile
from ._postgres import Login
from ._site_certificates import Certificates

BACKUPS_SECONDS = 60.0
CERTIFICATES_SECONDS = 600.0
HISTORY_FILES_SECONDS = 300.0
# An Engine that does not answer for so long is as good as away.
ENGINE_SECONDS = 10.0
_SPARKS = ("cpu_percent", "memory_bytes", "latency_ms")

Say = Callable[[str], None]


class Watcher(Protocol):
    """Fills a part of each live document in. ``look`` returns at once: work is done in threads of its own."""

    def look(self, live: Dict[str, Any], now: float) -> None:
        """Fill in what is known."""

    def close(self) -> None:
        """End the threads."""


class End(Protocol):
    """How the loop is told to end: a ``threading.Event``, or an ``Ending``."""

    def is_set(self) -> bool:
        """Whether it is to end."""

    def wait(self, seconds: float) -> Any:
        """Wait for it, ``seconds`` at most."""


class Ending:
    """An end that a signal's handler may set.

    A ``threading.Event`` is none: the handler runs in the thread that waits, and may need the lock that this thread
    holds at the moment.
    """

    def __init__(self) -> None:
        self._set = False
        self._read, self._write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)

    def set(self, *_signal: Any) -> None:
        """Have it end."""
        self._set = True
        with contextlib.suppress(BlockingIOError):
            os.write(self._write, b"x")

    def is_set(self) -> bool:
        """Whether it is to end."""
        return self._set

    def wait(self, seconds: float) -> bool:
        """Wait for it, ``seconds`` at most; return whether it is to end."""
        select.select([self._read], [], [], max(0.0, seconds))
        return self._set


def next_time(due: float, interval: float, now: float) -> float:
    """Return when to look next: the first time after ``now`` that is whole intervals after ``due``.

    So looks keep their pace, and those that were missed are not made up for.
    """
    return due + interval * (max(0, math.floor((now - due) / interval)) + 1)


class Beside:
    """Runs something in a thread, again and again; what it returned last is ``value``."""

    def __init__(self, what: str, work: Callable[[], Any], seconds: Callable[[], float], say: Say, value: Any) -> None:
        self.value = value
        self._what, self._work, self._seconds, self._say = what, work, seconds, say
        self._end = threading.Event()
        self._trouble = ""
        self._thread = threading.Thread(target=self._run, name=what, daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def once(self) -> None:
        """Do the work now, in the caller's thread."""
        try:
            self.value = self._work()
            self._trouble = ""
        except Exception as error:  # a thread that dies silently would leave old figures there for ever
            trouble = "{0}: {1}".format(type(error).__name__, error)
            # Once, not every minute.
            if trouble != self._trouble:
                self._say("{0} cannot be read: {1}".format(self._what, trouble))
            self._trouble = trouble

    def _run(self) -> None:
        while not self._end.is_set():
            self.once()
            self._end.wait(self._seconds())

    def ended(self) -> bool:
        """Whether the work is to be given up."""
        return self._end.is_set()

    def close(self) -> None:
        """Have the thread end; it is not waited for."""
        self._end.set()


class Manifests:
    """Manifests of instances, each read again when it changed."""

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        self._read: Dict[str, Tuple[object, Optional[Dict[str, Any]], str]] = {}

    def all(self) -> Dict[str, Tuple[Optional[Dict[str, Any]], str]]:
        """Return manifest and problem of each instance by name; a damaged one is None and says why."""
        kept: Dict[str, Tuple[object, Optional[Dict[str, Any]], str]] = {}
        for name in self._layout.instance_names():
            try:
                status = os.stat(self._layout.manifest(name))
                seen: object = (status.st_ino, status.st_mtime_ns, status.st_size)
            except OSError:
                continue
            known = self._read.get(name)
            if known is None or known[0] != seen:
                known = (seen, *self._read_one(name))
            kept[name] = known
        self._read = kept
        return {name: (manifest, problem) for name, (_seen, manifest, problem) in kept.items()}

    def _read_one(self, name: str) -> Tuple[Optional[Dict[str, Any]], str]:
        try:
            return _registry.read_manifest(self._layout, name), ""
        except (StateCorrupt, OSError) as error:
            return None, str(error)


class Means:
    """What looks found on average, by subject and column of the history; what was never known is None.

    One look of a minute says little: a cron job that runs for three seconds would be there for a minute or not at all.
    """

    def __init__(self) -> None:
        self._sums: Dict[str, Dict[str, Tuple[float, int]]] = {}

    def add(self, live: Mapping[str, Any]) -> None:
        """Add a look."""
        rows: Dict[str, Mapping[str, Optional[float]]] = {
            entry["name"]: _live.history_row(entry) for entry in live["instances"]
        }
        rows[HOST] = _live.host_row(live)
        for disk in live["host"]["disks"]:
            rows[DISK + disk["path"]] = {"data_used_percent": disk["used_percent"]}
        for subject, row in rows.items():
            sums = self._sums.setdefault(subject, {})
            for column, value in row.items():
                if value is not None:
                    total, count = sums.get(column, (0.0, 0))
                    sums[column] = (total + value, count + 1)

    def take(self) -> Dict[str, Dict[str, Optional[float]]]:
        """Return the averages, and begin anew."""
        taken: Dict[str, Dict[str, Optional[float]]] = {
            subject: {column: total / count for column, (total, count) in sums.items()}
            for subject, sums in self._sums.items()
        }
        self._sums = {}
        return taken


class Sampler:
    """Puts everything together. ``watchers`` fill in probes and alerts, in their order."""

    def __init__(
        self,
        layout: Layout,
        connect: Connect,
        say: Say,
        watchers: Callable[[MonitorSettings], Sequence[Watcher]] = lambda _settings: (),
        proc: str = "/proc",
    ) -> None:
        self._layout, self._say, self._proc = layout, say, proc
        self._settings_file = SettingsFile(layout, say)
        self._settings = self._settings_file.current()
        self._make_watchers = watchers
        self._watchers: Sequence[Watcher] = ()
        self._containers = Containers(connect, proc)
        self._manifests = Manifests(layout)
        self._certificates = Certificates()
        self._host_before: Optional[_host_figures.HostReading] = None
        self._listed: Optional[List[Container]] = None
        self._history: Optional[History] = None
        self._means = Means()
        self._uptime: Dict[str, Tuple[Optional[float], Optional[float]]] = {}
        self._sparklines: Dict[str, Dict[str, List[Optional[float]]]] = {}
        self._full: Dict[str, Optional[float]] = {}
        self._history_files_at = 0.0
        self._troubles: Dict[str, str] = {}
        self._databases = Beside(
            "figures of databases", self._ask_databases, lambda: self._settings.database_interval, say, {}
        )
        self._disks = Beside("the use of disks", self._add_up, lambda: self._settings.disk_interval, say, {})
        self._backups = Beside("backups", self._read_backups, lambda: BACKUPS_SECONDS, say, {})
        self._certificate_reader = Beside("certificates", self._certificates.all, lambda: CERTIFICATES_SECONDS, say, [])

    @property
    def _beside(self) -> Tuple[Beside, ...]:
        return (self._databases, self._disks, self._backups, self._certificate_reader)

    # --- one look ---

    def look(self, now: float) -> Dict[str, Any]:
        """Return the live document of ``now`` (seconds since 1970), as far as it is known without waiting."""
        self._listed = self._containers.look()
        return self._document(self._listed, now)

    def _document(self, listed: Optional[List[Container]], now: float) -> Dict[str, Any]:
        uses = self._containers.uses(listed) if listed is not None else {}
        reading = _host_figures.read(self._proc, time.monotonic())
        host = _host_figures.figures(self._proc, self._host_before, reading)
        self._host_before = reading
        live = {
            "schema": _live.SCHEMA,
            "version": _live.VERSION,
            "sampled_at": round(now, 3),
            "interval": self._settings.interval,
            "host": self._host(host, listed is not None),
            "instances": self._instances(listed, uses),
            "alerts": [],
            "certificates": [self._days_left(row, now) for row in self._certificate_reader.value],
        }
        for watcher in self._watchers:
            part, trouble = type(watcher).__name__, ""
            try:
                watcher.look(live, now)
            except Exception as error:  # one part may not take the rest with it
                trouble = "the part of {0} is missing: {1}: {2}".format(part, type(error).__name__, error)
            self._note(part, trouble)
        return live

    def _note(self, what: str, trouble: str) -> None:
        """Say what went wrong, once as long as it is the same; empty: nothing."""
        if trouble and trouble != self._troubles.get(what):
            self._say(trouble)
        self._troubles[what] = trouble

    @staticmethod
    def _days_left(row: Mapping[str, Any], now: float) -> Dict[str, Any]:
        end = row["not_after"]
        return {**row, "days_left": None if end is None else round((end - now) / 86400, 2)}

    def _host(self, figures: Dict[str, Any], reachable: bool) -> Dict[str, Any]:
        disks = _disk_use.disks(
            [("data", self._layout.root), ("docker", self._containers.data_root),
             ("backups", os.path.join(self._layout.root, "backups")), ("system", "/")]
        )  # fmt: skip
        for disk in disks:
            disk["full_in_days"] = self._full.get(DISK + disk["path"])
        lines = self._sparklines.get(HOST, {})
        return {
            "name": self._settings.host,
            "labels": dict(self._settings.labels),
            **figures,
            "memory_full_in_days": self._full.get(HOST),
            "disks": disks,
            "engine": {
                "reachable": reachable,
                "version": self._containers.version,
                "trouble": self._containers.trouble,
            },
            "sparklines": {name: lines[name] for name in _SPARKS[:2] if name in lines},
        }

    def _instances(
        self, listed: Optional[Sequence[Container]], uses: Mapping[str, Mapping[str, Any]]
    ) -> List[Dict[str, Any]]:
        by_project: Dict[str, List[Container]] = {}
        for container in listed or ():
            by_project.setdefault(container.project, []).append(container)
        running = self._containers.running
        told: List[Dict[str, Any]] = []
        for name, (manifest, problem) in self._manifests.all().items():
            known = _live.Known(
                name=name,
                manifest=manifest,
                problem=problem or ("" if listed is not None else self._containers.trouble),
                wanted=self._wanted(name),
                running=running,
                uses=uses,
                database=self._databases.value.get(name),
                disk=self._disks.value.get(name, _disk_use.UNKNOWN),
                backups=self._backups.value.get(name, _live.NO_BACKUPS),
                uptime=self._uptime.get(name, (None, None)),
                sparklines=self._sparklines.get(name, {}),
            )
            if listed is not None and manifest is not None:
                known.containers = by_project.get(manifest["project"], [])
            told.append(_live.instance(known, self._settings.slo_percent, self._settings.runs_url))
        return told

    def _wanted(self, name: str) -> Optional[str]:
        try:
            return _state.wanted(_state.read_record(self._layout.record(name)))
        except (MultibaseError, OSError):
            return None

    # --- beside the looks ---

    def _ask_databases(self) -> Dict[str, Dict[str, Any]]:
        told: Dict[str, Dict[str, Any]] = {}
        logins = self._logins()

        def ask(name: str) -> Optional[Dict[str, Any]]:
            # One that is starting, or is being restored, has no figures now.
            with contextlib.suppress(MultibaseError, OSError, ValueError):
                return _database_figures.read(logins[name], time.time())
            return None

        names = sorted(logins)
        with ThreadPoolExecutor(4) as pool:
            for name, figures in zip(names, pool.map(ask, names)):
                if figures is not None:
                    told[name] = figures
        return told

    def _logins(self) -> Dict[str, Login]:
        """Return how to log in to the databases whose containers run here."""
        manifests = {m["project"]: name for name, (m, _problem) in self._manifests.all().items() if m is not None}
        logins: Dict[str, Login] = {}
        for container in self._listed or ():
            name = manifests.get(container.project)
            if name and container.service == "db" and container.state == "running" and container.addresses:
                with contextlib.suppress(OSError, MultibaseError):
                    variables = _envfile.parse(_read_text(self._layout.env(name)))
                    password = variables.get("POSTGRES_PASSWORD", "")
                    logins[name] = Login(container.addresses[0], 5432, SUPERUSER, password)
        return logins

    def _add_up(self) -> Dict[str, Dict[str, Any]]:
        now = time.time()
        return {
            name: _disk_use.of_instance(self._layout, name, now, self._disks.ended)
            for name in self._layout.instance_names()
        }

    def _read_backups(self) -> Dict[str, Dict[str, Any]]:
        told: Dict[str, Dict[str, Any]] = {}
        names = set(self._layout.instance_names())
        for described in _backup_state.describe(self._layout, [], time.time()):
            name = described["name"]
            if name in names:
                scheduled = bool(_backup_state.read_settings(self._layout, name).get("schedule"))
                finished = {row["stem"]: _catalogue.stem_time(row["stem"]) for row in described["backups"]}
                told[name] = _live.backups_of(described, scheduled, finished)
        return told

    # --- what is kept ---

    def publish(self, live: Mapping[str, Any]) -> None:
        """Put the live document where the panel reads it.

        It is renamed into its place, but not synced: what a host saw before it died is of no use afterwards.
        """
        _replace(self._layout.live, json.dumps(live, ensure_ascii=False, separators=(",", ":")))

    def keep(self, live: Mapping[str, Any], now: float) -> None:
        """Add the looks since the last time to the history, and bring what comes of the history up to date."""
        if self._history is None:
            self._history = History(os.path.join(self._layout.monitor_state, "history.sqlite"), self._say)
        history = self._history
        history.add(now, self._means.take())
        self._uptime = history.up_percent(now)
        self._sparklines = history.sparklines(now, _SPARKS)
        self._containers.remember(os.path.join(self._layout.monitor_state, "readings.json"))
        if now - self._history_files_at >= HISTORY_FILES_SECONDS or now < self._history_files_at:
            self._history_files_at = now
            history.tidy(now, self._settings.retention)
            self._forecast(history, live, now)
            self._publish_history(history, live, now)

    def _forecast(self, history: History, live: Mapping[str, Any], now: float) -> None:
        total = live["host"]["memory_total_bytes"]
        self._full = {HOST: history.full_in_days(HOST, "memory_bytes", total, now) if total else None}
        for disk in live["host"]["disks"]:
            subject = DISK + disk["path"]
            self._full[subject] = history.full_in_days(subject, "data_used_percent", 100.0, now)

    def _publish_history(self, history: History, live: Mapping[str, Any], now: float) -> None:
        directory = self._layout.panel_history
        os.makedirs(directory, exist_ok=True)
        names = [HOST, *(entry["name"] for entry in live["instances"])]
        for name in names:
            document = {"schema": 1, "name": name, "written_at": round(now, 3), "ranges": history.ranges(name, now)}
            _replace(os.path.join(directory, name + ".json"), json.dumps(document, separators=(",", ":")))
        wanted = {name + ".json" for name in names}
        for entry in os.listdir(directory):
            if entry not in wanted:
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(os.path.join(directory, entry))

    # --- the loop ---

    def once(self, now: float) -> Dict[str, Any]:
        """Return one look with all that takes longer, for who does not want to wait for a second one."""
        self._containers.recall(os.path.join(self._layout.monitor_state, "readings.json"))
        self._host_before = _host_figures.read(self._proc, time.monotonic())
        self._listed = self._containers.look()
        last = _last_live(self._layout.live)
        known = {entry["name"]: entry["disk"] for entry in (last or {}).get("instances") or []}
        for work in self._beside:
            if work is self._disks and known.keys() >= set(self._layout.instance_names()):
                # As of when the sampler added it up: to walk over all files takes minutes.
                work.value = known
            else:
                work.once()
        live = self._document(self._listed, now)
        with contextlib.suppress(OSError):
            os.makedirs(self._layout.monitor_state, mode=0o700, exist_ok=True)
            self._containers.remember(os.path.join(self._layout.monitor_state, "readings.json"))
        return live

    def run(self, end: End) -> None:
        """Look until ``end`` is set. A look that came too late is left out, not made up for."""
        os.makedirs(self._layout.monitor_state, mode=0o700, exist_ok=True)
        os.makedirs(self._layout.panel, exist_ok=True)
        self._containers.recall(os.path.join(self._layout.monitor_state, "readings.json"))
        # The databases are asked where the containers are.
        self._listed = self._containers.look()
        self._watchers = self._make_watchers(self._settings)
        for work in self._beside:
            work.start()
        due = time.monotonic()
        kept = -1e9
        try:
            while not end.is_set():
                self._new_settings()
                now = time.time()
                keeping = due - kept >= self._settings.history_interval - 1e-6
                trouble = ""
                try:
                    live = self.look(now)
                    self._means.add(live)
                    if keeping:
                        kept = due
                        self.keep(live, now)
                    self.publish(live)
                except (OSError, MultibaseError) as error:
                    trouble = "a look was lost: {0}".format(error)
                self._note("look", trouble)
                self._note("engine", self._containers.trouble)
                due = next_time(due, self._settings.interval, time.monotonic())
                end.wait(due - time.monotonic())
        finally:
            for work in self._beside:
                work.close()
            for watcher in self._watchers:
                watcher.close()
            if self._history is not None:
                self._history.close()

    def _new_settings(self) -> None:
        settings = self._settings_file.current()
        if settings is not self._settings:
            self._settings = settings
            for watcher in self._watchers:
                watcher.close()
            self._watchers = self._make_watchers(settings)
            self._say("the settings were read again")


def _last_live(path: str) -> Any:
    """Return what the sampler published last, whenever that was; None when there is nothing of use."""
    try:
        found = _registry.read_json(path)
    except (StateCorrupt, OSError):
        return None
    return found if isinstance(found, dict) and found.get("schema") == _live.SCHEMA else None


def _read_text(path: str) -> str:
    with open(path, encoding="utf-8") as stream:
        return stream.read()


def _replace(path: str, text: str) -> None:
    """Write a file for nginx: it comes into the group of its directory, which has the set-group-ID bit."""
    staged = path + ".new"
    descriptor = os.open(staged, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o640)
    with os.fdopen(descriptor, "w", encoding="utf-8") as stream:
        os.fchmod(descriptor, 0o640)
        stream.write(text)
    os.rename(staged, path)
