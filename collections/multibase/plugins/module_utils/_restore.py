# SPDX-License-Identifier: GPL-3.0-or-later
# This file is private to the multibase.supabase collection; it may change at any time.
"""Restoring a backup: into the instance itself, into another one, and back again.

Everything new is complete, compared with the manifest and on the disk before anything old is touched; then the services
that use it stop, directories are renamed, the services start, and the gateway is asked. What was there is kept beside.
"""

from __future__ import annotations

import contextlib
import os
import time
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, Callable, Dict, Iterator, List, Mapping, NoReturn, Optional, Sequence

from . import _backup, _catalogue, _lock, _materialise, _restore_journal
from ._compose import Compose
from ._database import DatabaseFailed, Server
from ._engine import Container, Engine
from ._errors import (
    DatabaseDown,
    LockTimeout,
    ManualActionNeeded,
    MultibaseError,
    Refused,
    RestoreFailed,
)
from ._health import service_health
from ._layout import Layout
from ._restore_journal import Exchange, Journal
from ._stacks import Stack, load_stack, redact

_POLL_SECONDS = 0.3
_STOP_SECONDS = 15.0
# What holds directories of an instance open, and has to let go of them before they are renamed.
_USERS = {
    # These read or make what they need of the database only when they start.
    "data": ("db", "analytics", "auth", "realtime", "storage", "supavisor"),
    "custom": ("db",),
    "storage": ("storage", "imgproxy"),
    "functions": ("functions", "studio"),
    "snippets": ("studio",),
}
# What services keep in a database encrypted with secrets of their own instance; they make it anew at their start.
_TENANTS = (
    ("postgres", "_realtime", "extensions"),
    ("postgres", "_realtime", "tenants"),
    ("_supabase", "_supavisor", "users"),
    ("_supabase", "_supavisor", "tenants"),
)


@dataclass(frozen=True)
class Options:
    """How a restore is done. Times in seconds; ``keep_days`` is how long the replaced data is kept."""

    scope: str = "full"
    trust_unsigned: bool = False
    keep_days: float = 7.0
    timeout: float = 4 * 3600.0
    start_timeout: float = 300.0
    lock_timeout: float = 60.0
    check_mode: bool = False


@dataclass
class Restored:
    """What came of a restore. ``pause_seconds`` is how long the database could not be reached."""

    name: str
    changed: bool = False
    backup: str = ""
    source: str = ""
    action: str = ""
    seconds: float = 0.0
    pause_seconds: float = 0.0
    kept: List[str] = field(default_factory=list)
    kept_until: str = ""
    held: List[str] = field(default_factory=list)
    notes: List[str] = field(default_factory=list)

    def as_dict(self) -> Dict[str, Any]:
        """Return what a module returns of it."""
        return {
            **self.__dict__,
            "seconds": round(self.seconds, 1),
            "pause_seconds": round(self.pause_seconds, 2),
        }


class RestoreRun:
    """Restores backups on one host. ``progress`` is told what is done."""

    def __init__(
        self,
        layout: Layout,
        engine: Engine,
        compose: Compose,
        docker_host: str,
        options: Options,
        progress: Callable[[str], None] = lambda _text: None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._layout = layout
        self._engine = engine
        self._compose = compose
        self._docker_host = docker_host
        self._options = options
        self._say = progress
        self._clock = clock

    # What can be asked for

    def restore(self, name: str, wanted: str, source: Optional[str] = None) -> Restored:
        """Restore backup ``wanted`` (a stem or ``latest``) of instance ``source`` (itself when None) into ``name``."""
        with self._data(name) as stack:
            self._recover(stack)
            backup = _catalogue.choose(self._layout, source or name, wanted)
            result = Restored(name, backup=backup.stem, source=source or name, action="restored")
            if self._options.check_mode:
                self._maker().check(backup, self._options.trust_unsigned)
                self._plan(stack, backup)
                result.changed = True
                return result
            return self._restore(stack, backup, result)

    def rollback(self, name: str) -> Restored:
        """Bring back what the last restore replaced; what it had put in place is kept in turn."""
        with self._data(name) as stack:
            self._recover(stack)
            journal = _restore_journal.read(self._layout, name)
            if journal is None or journal.phase != "done":
                raise Refused("there is no restore of instance {0} to roll back".format(name))
            missing = [exchange.old for exchange in journal.exchanges if not os.path.isdir(exchange.old)]
            if missing:
                raise Refused(
                    "the data that was replaced is no longer kept: {0} is not there".format(", ".join(missing))
                )
            result = Restored(name, changed=True, backup=journal.backup, source=name, action="rolled back")
            if self._options.check_mode:
                return result
            started = time.monotonic()
            back = Journal(
                name,
                journal.backup,
                "swapping",
                [exchange.reversed() for exchange in journal.exchanges],
                users(stack, journal),
                _iso(self._clock()),
                self._clock() + self._options.keep_days * 86400,
                rollback=True,
            )
            _restore_journal.succeeding(journal, back)
            self._exchange(stack, back, result)
            result.seconds = time.monotonic() - started
            return result

    def release(self, name: str) -> Restored:
        """Switch on what is held in a copy: cron jobs and webhooks. What is gone since is told and passed over."""
        with self._data(name) as stack:
            self._recover(stack)
            journal = _restore_journal.read(self._layout, name)
            if journal is None or not journal.held:
                return Restored(name, source=name, action="nothing is held")
            result = Restored(name, changed=True, backup=journal.backup, source=name, action="released")
            result.held = [words for words, _statement in journal.held]
            if self._options.check_mode:
                return result
            container = _backup.find_database(self._engine, stack)
            server = Server(container.id, self._docker_host, "release")
            _backup.probe(server)
            for words, statement in journal.held:
                try:
                    server.script("postgres", statement + "\n")
                except DatabaseFailed as error:
                    result.notes.append("{0}: {1}".format(words, error))
            journal.held = []
            _restore_journal.write(self._layout, journal, journal.phase)
            return result

    def recover(self, name: str) -> Restored:
        """Finish or undo a restore that was interrupted; nothing else."""
        with self._data(name) as stack:
            result = Restored(name, source=name, action="nothing to recover")
            phase = _restore_journal.pending(self._layout, name)
            finished = self._recover(stack)
            if phase:
                result.changed = True
                result.action = "{0} an interrupted restore ({1})".format("finished" if finished else "undid", phase)
            return result

    # Steps

    @contextlib.contextmanager
    def _data(self, name: str) -> Iterator[Stack]:
        """Hold the lock of an instance's data; errors leave without its secrets."""
        self._layout.known(name)
        with _lock.exclusive(self._layout.data_lock(name), self._options.lock_timeout):
            stack = load_stack(self._layout, name)
            if "db" not in stack.services:
                raise Refused("instance {0} has no database of its own: restore it where it is".format(name))
            try:
                yield stack
            except MultibaseError as error:
                raise type(error)(redact(str(error), stack.confidential)) from None

    def _maker(self) -> _materialise.Materialiser:
        return _materialise.Materialiser(
            self._engine, self._compose, self._docker_host, self._options.timeout, self._say
        )

    def _recover(self, stack: Stack) -> bool:
        """Finish or undo what an interrupted restore began; return whether it was finished. Check mode does nothing.

        New data that is in place and works stays: services may have run on it, and clients have written there, for as
        long as nobody looked.
        """
        if self._options.check_mode:
            return False
        _backup.discard_left_over(self._layout, self._engine, stack.name)
        journal = _restore_journal.read(self._layout, stack.name)
        if journal is None:
            return False
        if journal.phase not in _restore_journal.UNFINISHED:
            if journal.phase == "done":
                _restore_journal.let_go_of_previous(self._layout, journal)
            return False
        if journal.phase == "building":
            _restore_journal.undone(self._layout, journal)
            return False
        with _lock.exclusive(self._layout.lock(stack.name), self._options.lock_timeout):
            # What lies where is asked too: a journal could not be written when the disk was full.
            if journal.phase == "swapped" and _restore_journal.swapped(journal.exchanges):
                self._say("finishing an interrupted restore")
                try:
                    self._start(stack, journal.services)
                    self._probe(stack, [c.service for c in self._engine.containers(stack.project) if c.running])
                except (MultibaseError, OSError) as error:
                    self._say("the new data does not work: {0}".format(error))
                else:
                    _restore_journal.write(self._layout, journal, "done")
                    _restore_journal.let_go_of_previous(self._layout, journal)
                    return True
            self._say("undoing an interrupted restore")
            self._undo(stack, journal)
            _restore_journal.undone(self._layout, journal)
        return False

    def _undo(self, stack: Stack, journal: Journal) -> None:
        """Put the old data back, and start what ran on it.

        The journal says so first: killed halfway, some directories are new and some old, and whoever took that for an
        exchange that only waits to be proven would start the database on a mixture.
        """
        journal.ran = journal.ran or journal.phase == "swapped"
        # On a disk that is full nothing can be written, and going back is what gives room; what lies where tells then.
        with contextlib.suppress(OSError):
            _restore_journal.write(self._layout, journal, "undoing")
        self._stop(stack, users(stack, journal))
        _restore_journal.unswap(journal.exchanges)
        self._start(stack, journal.services)

    def _restore(self, stack: Stack, backup: _catalogue.Backup, result: Restored) -> Restored:
        started = time.monotonic()
        same = result.source == stack.name
        maker = self._maker()
        maker.check(backup, self._options.trust_unsigned)
        exchanges = self._plan(stack, backup)
        services = sorted({service for part in exchanges for service in _USERS[part]} & stack.services)
        journal = Journal(
            stack.name,
            backup.stem,
            "building",
            list(exchanges.values()),
            services,
            _iso(self._clock()),
            self._clock() + self._options.keep_days * 86400,
        )
        _restore_journal.succeeding(_restore_journal.read(self._layout, stack.name), journal)
        _restore_journal.write(self._layout, journal, "building")
        try:
            self._build(stack, backup, exchanges, same, maker, result, journal)
        except BaseException:
            _restore_journal.undone(self._layout, journal)
            raise
        try:
            now = load_stack(self._layout, stack.name)
            if now.variables.get("POSTGRES_PASSWORD") != stack.variables.get("POSTGRES_PASSWORD"):
                _restore_journal.undone(self._layout, journal)
                raise RestoreFailed("the password of the database was changed meanwhile; restore again")
            self._exchange(now, journal, result)
        except LockTimeout:
            _restore_journal.undone(self._layout, journal)
            raise
        result.seconds = time.monotonic() - started
        return result

    def _plan(self, stack: Stack, backup: _catalogue.Backup) -> Dict[str, Exchange]:
        """Return which directories are exchanged, by what they are."""
        volumes = os.path.join(self._layout.project(stack.name), "volumes")
        parts = {"data": os.path.join(volumes, "db", "data"), "custom": os.path.join(volumes, "db", "custom")}
        if self._options.scope == "full":
            if backup.has("storage"):
                parts["storage"] = os.path.join(volumes, "storage")
            if backup.has("functions"):
                parts.update({name: os.path.join(volumes, name) for name in ("functions", "snippets")})
        run = _catalogue.make_stem(self._clock())
        return {part: _restore_journal.plan(run, live) for part, live in parts.items()}

    def _build(
        self,
        stack: Stack,
        backup: _catalogue.Backup,
        exchanges: Mapping[str, Exchange],
        same: bool,
        maker: _materialise.Materialiser,
        result: Restored,
        journal: Journal,
    ) -> None:
        """Make the new directories, and check them. Raises RestoreFailed; nothing that is in use was touched."""
        for part, exchange in exchanges.items():
            # Each exchange has two sides, so that what lies where always tells how far it came.
            if not os.path.isdir(exchange.live):
                os.mkdir(exchange.live, 0o755)
            _restore_journal.remove_tree(exchange.new)
            os.mkdir(exchange.new, 0o700 if part == "data" else 0o755)
            if part not in ("data", "custom"):
                status = os.stat(exchange.live)
                os.chown(exchange.new, status.st_uid, status.st_gid)
                os.chmod(exchange.new, status.st_mode & 0o777)
        optional = {part: exchanges[part].new for part in ("storage", "functions", "snippets") if part in exchanges}
        target = _materialise.Target(
            stack=stack,
            data=exchanges["data"].new,
            custom=exchanges["custom"].new,
            live_custom=exchanges["custom"].live,
            same_instance=same,
            settle=_settle if same else _settle_copy,
            **optional,
        )
        outcome = maker.run(backup, target, self._passwords(stack, backup, same))
        result.notes += outcome.notes
        result.held = [words for words, _statement in outcome.held]
        journal.held = [list(one) for one in outcome.held]
        if outcome.differences:
            raise RestoreFailed(
                "backup {0} was loaded beside instance {1} and differs from its manifest; the instance was not "
                "touched: {2}".format(backup.stem, stack.name, "; ".join(outcome.differences[:20]))
            )

    def _passwords(self, stack: Stack, backup: _catalogue.Backup, same: bool) -> Dict[str, str]:
        """Return the verifiers that roles get: those that the instance has now; of its own backup, for the rest."""
        passwords: Dict[str, str] = _materialise.saved_passwords(backup) if same else {}
        # The services' own come from .env, as in a new instance.
        for role in _materialise.SERVICE_ROLES:
            passwords.pop(role, None)
        try:
            container = _backup.find_database(self._engine, stack)
            server = Server(container.id, self._docker_host, "restore")
            live = _backup.live_passwords(server)
        except (DatabaseDown, DatabaseFailed):
            return passwords
        for role in _materialise.SERVICE_ROLES:
            live.pop(role, None)
        return {**passwords, **live}

    def _exchange(self, stack: Stack, journal: Journal, result: Restored) -> None:
        """Stop, rename, start, ask. Goes back by itself when the new data does not come up, or when told to end."""
        with _lock.exclusive(self._layout.lock(stack.name), self._options.lock_timeout):
            running = [c.service for c in self._engine.containers(stack.project) if c.running]
            # What did not run before is not started, whichever way this ends.
            journal.services = [service for service in journal.services if service in running]
            _restore_journal.write(self._layout, journal, "swapping")
            self._say("exchanging the data")
            paused = time.monotonic()
            try:
                self._stop(stack, users(stack, journal))
                _restore_journal.swap(journal.exchanges)
                _restore_journal.write(self._layout, journal, "swapped")
                self._start(stack, journal.services)
                result.pause_seconds = time.monotonic() - paused
                self._probe(stack, running)
                if "db" not in running:
                    result.notes.append(
                        "the database did not run before and was not started: what was restored is as its manifest "
                        "says, but nobody has asked it for data through the gateway"
                    )
            except BaseException as error:
                self._go_back(stack, journal, error)
            _restore_journal.write(self._layout, journal, "done")
        _restore_journal.let_go_of_previous(self._layout, journal)
        result.changed = True
        result.kept = [exchange.old for exchange in journal.exchanges if os.path.isdir(exchange.old)]
        result.kept_until = _iso(journal.kept_until)

    def _go_back(self, stack: Stack, journal: Journal, error: BaseException) -> NoReturn:
        """Put the old data back and raise: RestoreFailed, or what ended us."""
        self._say("that did not work; going back")
        try:
            self._undo(stack, journal)
        except (MultibaseError, OSError) as second:
            raise ManualActionNeeded(
                "the restore of instance {0} failed ({1}) and so did going back ({2}). The data that it had is in "
                "{3}".format(stack.name, error, second, ", ".join(exchange.old for exchange in journal.exchanges))
            ) from second
        _restore_journal.undone(self._layout, journal)
        if not isinstance(error, (MultibaseError, OSError)):
            raise error
        raise RestoreFailed(
            "the restore of instance {0} failed and was undone; it has the data that it had: {1}".format(
                stack.name, error
            )
        ) from error

    def _containers(self, stack: Stack, services: List[str]) -> List[Container]:
        found = [c for c in self._engine.containers(stack.project) if c.service in services]
        return sorted(found, key=lambda container: container.service == "db")

    def _stop(self, stack: Stack, services: List[str]) -> None:
        """Stop what uses the directories, the others at once and the database last."""
        found = [container for container in self._containers(stack, services) if container.running]
        with ThreadPoolExecutor(max_workers=8) as pool:
            list(pool.map(self._engine.stop, [one.id for one in found if one.service != "db"]))
        for container in found:
            if container.service == "db":
                self._engine.stop(container.id)
        # The Engine may list a container as running for a moment after it has stopped it (seen with 26.1).
        deadline = time.monotonic() + _STOP_SECONDS
        while True:
            still = [c.service for c in self._containers(stack, services) if c.running]
            if not still:
                return
            if time.monotonic() > deadline:
                raise RestoreFailed("still running: {0}".format(", ".join(still)))
            time.sleep(_POLL_SECONDS)

    def _start(self, stack: Stack, services: List[str]) -> None:
        """Start the database, wait until it answers, then start the others."""
        containers = self._containers(stack, services)
        for container in reversed(containers):
            self._engine.start(container.id)
            if container.service == "db":
                self._answering(container)

    def _answering(self, container: Container) -> None:
        server = Server(container.id, self._docker_host, "restore")
        deadline = time.monotonic() + self._options.start_timeout
        while True:
            try:
                _backup.probe(server)
                return
            except DatabaseDown as error:
                if time.monotonic() > deadline:
                    raise RestoreFailed("the database did not come up: {0}".format(error)) from error
            time.sleep(_POLL_SECONDS)

    def _probe(self, stack: Stack, running: Sequence[str]) -> None:
        """Wait until the services are well, and ask for data through the gateway as a client does, where both ran.

        Nothing is asked where the database does not run: no service is well without it.
        """
        if "db" not in running:
            return
        deadline = time.monotonic() + self._options.start_timeout
        while True:
            found = self._engine.containers(stack.project)
            bad = sorted(
                c.service for c in found
                if c.running and c.service in (*_USERS["data"], "rest") and service_health(c) == "unhealthy"
            )  # fmt: skip
            said = _ask_gateway(stack) if {"rest", "api-gw"} <= set(running) else ""
            if not bad and not said:
                return
            if time.monotonic() > deadline:
                raise RestoreFailed(
                    "; ".join(["{0} is unhealthy".format(name) for name in bad] + ([said] if said else []))
                )
            time.sleep(_POLL_SECONDS)


def users(stack: Stack, journal: Journal) -> List[str]:
    """Return the services that use the directories of a journal: none may run while they are renamed."""
    parts = [os.path.basename(exchange.live) for exchange in journal.exchanges]
    return sorted({service for part in parts for service in _USERS[part]} & stack.services)


def _ask_gateway(stack: Stack) -> str:
    """Ask REST through the gateway; return what is wrong, empty when it answers."""
    address = stack.variables.get("MULTIBASE_BIND_ADDRESS", "127.0.0.1")
    # An address that stands for all of the host's is no address to call.
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(address, address)  # noqa: S104 - compared, not bound
    host = "[{0}]".format(host) if ":" in host else host
    url = "http://{0}:{1}/rest/v1/".format(host, stack.variables.get("API_GW_HTTP_PORT", ""))
    key = stack.variables.get("SERVICE_ROLE_KEY", "")
    request = urllib.request.Request(url, headers={"apikey": key})  # noqa: S310 - the scheme stands above
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(request, timeout=5):
            return ""
    except urllib.error.HTTPError as error:
        # An answer of the service behind it, even a refusal, is an answer; the gateway's own errors are not.
        return "" if error.code < 500 else "the gateway answers {0} for REST".format(error.code)
    except (OSError, ValueError) as error:
        return "the gateway does not answer at {0}: {1}".format(url, error)


def _settle_copy(server: Server) -> List[_materialise.Held]:
    """Make a copy of an instance harmless before it runs: nothing is sent, and no secret of the source stays.

    Returns what is held until ``release`` is asked for.
    """
    held: List[_materialise.Held] = []
    # Where older releases put the secret that signs tokens.
    server.script("postgres", 'ALTER DATABASE postgres RESET "app.settings.jwt_secret";\n')
    if server.json("postgres", "SELECT to_json(to_regclass('cron.job') IS NOT NULL)"):
        jobs = server.json("postgres", _CRON_JOBS)
        held += [
            ("cron job {0}".format(name), "UPDATE cron.job SET active = true WHERE jobid = {0:d};".format(int(number)))
            for number, name in jobs
        ]
        server.script("postgres", "UPDATE cron.job SET active = false;\n")
    for table, trigger, enabled in server.json("postgres", _WEBHOOKS):
        change = "ALTER TABLE {0} {{0}} TRIGGER {1};".format(table, trigger)
        server.script("postgres", change.format("DISABLE") + "\n")
        how = {"A": "ENABLE ALWAYS", "R": "ENABLE REPLICA"}.get(enabled, "ENABLE")
        held.append(("webhook {0} on {1}".format(trigger, table), change.format(how)))
    return held + _settle(server)


def _settle(server: Server) -> List[_materialise.Held]:
    """Let services make their tenants anew when they start: with the secrets that the instance has now."""
    for database, schema, table in _TENANTS:
        exists = "SELECT to_json(to_regclass('{0}.{1}') IS NOT NULL)".format(schema, table)
        if server.json(database, exists):
            server.script(database, "DELETE FROM {0}.{1};\n".format(schema, table))
    return []


_CRON_JOBS = """
SELECT coalesce(json_agg(json_build_array(jobid, coalesce(jobname, jobid::text)) ORDER BY jobid), '[]')
FROM cron.job WHERE active
"""
# Database webhooks are triggers that call supabase_functions.http_request.
_WEBHOOKS = """
SELECT coalesce(json_agg(json_build_array(t.tgrelid::regclass::text, quote_ident(t.tgname), t.tgenabled)
  ORDER BY t.tgrelid::regclass::text, t.tgname), '[]')
FROM pg_trigger t JOIN pg_proc p ON p.oid = t.tgfoid JOIN pg_namespace n ON n.oid = p.pronamespace
WHERE NOT t.tgisinternal AND t.tgenabled <> 'D' AND n.nspname = 'supabase_functions' AND p.proname = 'http_request'
"""


def _iso(now: float) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(now))
