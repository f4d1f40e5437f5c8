# SPDX-License-Identifier: GPL-3.0-or-later
# This file is private to the multibase.supabase collection; it may change at any time.
"""A backup with all that belongs to it: retention afterwards, what is remembered, and what monitoring reads.

The module and the scheduled run on the host are both this. What came of it is in ``state/backup/<name>.json`` and,
for all instances together, in a Prometheus textfile.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import tempfile
import time
from dataclasses import dataclass, replace
from typing import IO, Any, Callable, Collection, Dict, Iterable, Iterator, List, Mapping, Optional, Sequence, cast

from . import _backup, _catalogue, _copies, _lock, _offsite, _portable, _restore_journal, _retention, _schedule
from ._backup import Options, Taken
from ._compose import Compose
from ._database import Server, end, last_words
from ._engine import Engine
from ._errors import BackupFailed, InvalidInput, LockTimeout, MultibaseError, Refused, StateCorrupt
from ._layout import Layout
from ._names import name_problem
from ._publish import replace_file
from ._registry import read_json
from ._stacks import load_stack, redact

SCHEMA = 1
# Written by the role multibase_backup: {name: {schedule, scope, format, level, verify, timeout, jitter, retention}}.
SETTINGS_FILE = "backup-settings.json"
METRICS_FILE = "metrics/backup.prom"
_GAUGES = (
    ("last_success_timestamp_seconds", "When the last backup was taken", "last_success"),
    ("last_verified_timestamp_seconds", "When the newest verified backup was begun", "last_verified"),
    ("size_bytes", "Size of the last backup", "size"),
    ("duration_seconds", "How long the last backup took, verification included", "seconds"),
    ("last_exit_code", "Exit code of the last attempt, 0 when it went well", "exit_code"),
    ("overdue", "1 when no verified backup came within 15 minutes of when it was due", "overdue"),
)


@dataclass(frozen=True)
class Host:
    """What a job works with on a host."""

    layout: Layout
    engine: Engine
    compose: Compose
    docker_host: str
    progress: Callable[[str], None] = lambda _text: None
    clock: Callable[[], float] = time.time


def read_state(layout: Layout, name: str) -> Dict[str, Any]:
    """Return what is remembered of an instance's backups; empty when there is nothing, or it is damaged."""
    try:
        state = read_json(layout.backup_state(name))
    except StateCorrupt:
        return {}
    return state if isinstance(state, dict) and state.get("schema") == SCHEMA else {}


def write_state(layout: Layout, name: str, state: Mapping[str, Any]) -> None:
    """Remember what came of an instance's backups."""
    path = layout.backup_state(name)
    os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
    replace_file(path, (json.dumps({**state, "schema": SCHEMA}, indent=1, sort_keys=True) + "\n").encode(), 0o600)


def run(host: Host, name: str, options: Options, policy: Optional[_retention.Policy]) -> Taken:
    """Take a backup, prune what the policy lets go, and remember both. Raises a MultibaseError with an exit code."""
    began = host.clock()
    started = time.monotonic()
    state = read_state(host.layout, name)
    runner = _backup.BackupRun(
        host.layout, host.engine, host.compose, host.docker_host, options, host.progress, host.clock
    )
    try:
        taken = runner.take(name)
    except LockTimeout:
        # Somebody else is at work on it: that is no failure of its backups.
        raise
    except (MultibaseError, OSError) as error:
        if name in host.layout.instance_names():
            failures = int(state.get("failures") or 0) + 1
            state.update(_backup.failure_record(error), failures=failures, last_attempt=began)
            write_state(host.layout, name, state)
            write_metrics(host.layout, host.clock())
        raise
    state.update(
        last_attempt=began, last_success=began, exit_code=0, reason="", failures=0, size=taken.size,
        seconds=round(time.monotonic() - started, 1), stem=taken.stem,
    )  # fmt: skip
    if taken.verified:
        state["last_verified"] = _catalogue.stem_time(taken.stem)
    write_state(host.layout, name, state)
    if policy is not None:
        try:
            plan = prune(host, name, policy, options.lock_timeout)
            taken.pruned = plan.remove
            if plan.refused:
                taken.notes.append("nothing was pruned: {0}".format(plan.refused))
        except (MultibaseError, OSError) as error:
            # The backup is good all the same.
            taken.notes.append("pruning failed: {0}".format(error))
    failure = _send_everywhere(host, taken, options)
    write_metrics(host.layout, host.clock())
    if failure is not None:
        # The backup on the host is good; but it is not said to be done before it is where it was to go.
        raise failure
    return taken


def _send_everywhere(host: Host, taken: Taken, options: Options) -> Optional[MultibaseError]:
    """Copy a backup to all targets that are for its instance; return the first failure, after trying all."""
    first: Optional[MultibaseError] = None
    state = read_state(host.layout, taken.name)
    told = dict(state.get("offsite") or {})
    try:
        targets = [to for to in _copies.destinations(host.layout) if not to.instances or taken.name in to.instances]
    except MultibaseError as error:
        return error
    if targets and not taken.verified:
        taken.notes.append("not copied anywhere: only what was verified is")
        return None
    for to in targets:
        name = to.target.name
        try:
            copied = send(host, taken.name, taken.stem, to, options.lock_timeout)
            taken.copied.append(name)
            if copied.left_out:
                taken.notes.append("{0} encrypts nothing; kept here: {1}".format(name, ", ".join(copied.left_out)))
            told[name] = {"last_success": host.clock(), "reason": ""}
        except (MultibaseError, OSError) as error:
            told[name] = {**(told.get(name) or {}), "reason": str(error)}
            if first is None:
                first = error if isinstance(error, MultibaseError) else _offsite.OffsiteFailed(str(error))
    if targets:
        write_state(host.layout, taken.name, {**read_state(host.layout, taken.name), "offsite": told})
    return first


def send(host: Host, name: str, stem: str, to: _copies.Destination, lock_timeout: float) -> _copies.Copied:
    """Copy one backup to one target and read it back. Raises Refused for one that was never verified."""
    with _lock.exclusive(host.layout.data_lock(name), lock_timeout):
        backup = _catalogue.choose(host.layout, name, stem)
        if not backup.verified:
            raise Refused("backup {0} was not verified; only what can be restored is copied".format(stem))
        host.progress("copying backup {0} to {1}".format(stem, to.target.name))
        return _copies.send(host.layout, to, backup, _offsite.HOUR)


def fetch(
    host: Host, name: str, stem: str, source: str, identity: Optional[str], lock_timeout: float
) -> _catalogue.Backup:
    """Bring a copy back to this host."""
    with _lock.exclusive(host.layout.data_lock(name), lock_timeout):
        host.progress("fetching backup {0} from {1}".format(stem, source))
        return _copies.fetch(host.layout, _copies.destination(host.layout, source), name, stem, identity, _offsite.HOUR)


def export(host: Host, name: str, lock_timeout: float, timeout: float) -> Dict[str, Any]:
    """Write roles, schema and data of an instance for moving to or from the cloud service, all of one snapshot."""
    host.layout.known(name)
    with _lock.exclusive(host.layout.data_lock(name), lock_timeout):
        stack = load_stack(host.layout, name)
        container = _backup.find_database(host.engine, stack)
        stem = _catalogue.make_stem(host.clock())
        server = Server(container.id, host.docker_host, "export " + stem)
        _backup.probe(server)
        directory = os.path.join(host.layout.root, "exports", name, stem)
        for path in (os.path.dirname(os.path.dirname(directory)), os.path.dirname(directory), directory):
            if not os.path.isdir(path):
                os.mkdir(path, 0o700)
        try:
            with server.session("postgres") as session:
                session.ask("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY;")
                snapshot = session.ask("SELECT pg_export_snapshot();")[0]
                host.progress("exporting to {0}".format(directory))
                files = _portable.export(lambda argv: _lines(server, argv, timeout), directory, snapshot)
        except MultibaseError as error:
            with contextlib.suppress(OSError):
                os.rmdir(directory)
            raise type(error)(redact(str(error), stack.confidential)) from None
    return {
        "name": name, "stem": stem, "directory": directory, "size": sum(file["size"] for file in files),
        "files": [file["file"] for file in files],
    }  # fmt: skip


@contextlib.contextmanager
def _lines(server: Server, argv: Sequence[str], timeout: float) -> Iterator[Iterable[bytes]]:
    """Run a program in the database container and yield what it prints. Raises BackupFailed when it fails."""
    with tempfile.TemporaryFile() as errors:
        command = ["timeout", str(int(timeout)), *argv]
        process = server.popen(command, subprocess.DEVNULL, subprocess.PIPE, errors)
        try:
            yield cast(IO[bytes], process.stdout)
            code = process.wait(timeout=60)
        finally:
            end(process)
        if code != 0:
            raise BackupFailed("{0} failed (exit status {1}): {2}".format(argv[0], code, last_words(errors)))


def prune(
    host: Host, name: str, policy: _retention.Policy, lock_timeout: float, check_mode: bool = False
) -> _retention.Plan:
    """Delete the backups that a policy lets go, and data that a restore kept for long enough."""
    with _lock.exclusive(host.layout.data_lock(name), lock_timeout):
        backups = _catalogue.listing(host.layout, name)
        entries = [
            _retention.Entry(
                backup.stem, backup.time, backup.verified and backup.signed, backup.size,
                bool(backup.manifest.get("pinned")),
            )
            for backup in backups
        ]  # fmt: skip
        failed = bool(read_state(host.layout, name).get("exit_code"))
        plan = _retention.plan(entries, policy, host.clock(), failed)
        plan = replace(plan, directories=_restore_journal.outdated(host.layout, name, host.clock()))
        if not check_mode:
            by_stem = {backup.stem: backup for backup in backups}
            for stem in plan.remove:
                _catalogue.remove(by_stem[stem])
            _restore_journal.discard_outdated(host.layout, name, host.clock())
        return plan


def verify(host: Host, name: str, wanted: Optional[str], lock_timeout: float) -> Dict[str, Any]:
    """Restore a backup once more, the newest when none is named, and compare it; return the evidence."""
    with _lock.exclusive(host.layout.data_lock(name), lock_timeout):
        found = _catalogue.listing(host.layout, name) if wanted is None else []
        backup = found[-1] if found else _catalogue.choose(host.layout, name, wanted or "latest")
        stack = load_stack(host.layout, name)
        try:
            outcome = _backup.verify(
                host.layout, host.engine, host.compose, host.docker_host, stack, backup, Options().timeout,
                host.progress, host.clock,
            )  # fmt: skip
        except MultibaseError as error:
            raise type(error)(redact(str(error), stack.confidential)) from None
        state = read_state(host.layout, name)
        if backup.time > float(state.get("last_verified") or 0):
            write_state(host.layout, name, {**state, "last_verified": backup.time})
    return {
        "name": name, "stem": backup.stem, "size": backup.size, "verified": True,
        "verify_seconds": outcome.evidence["seconds"], "notes": outcome.notes, "directory": backup.directory,
        "tables": outcome.evidence["tables"], "rows": outcome.evidence["rows"],
    }  # fmt: skip


def describe(layout: Layout, names: Sequence[str], now: float) -> List[Dict[str, Any]]:
    """Return what ``backup_info`` tells of instances: of those named, else of all that exist or have backups."""
    parent = os.path.join(layout.root, "backups")
    there = set(layout.instance_names())
    if os.path.isdir(parent):
        there.update(entry for entry in os.listdir(parent) if name_problem(entry) is None)
    told = []
    for name in sorted(there & set(names) if names else there):
        state = read_state(layout, name)
        backups = _catalogue.listing(layout, name)
        told.append(
            {
                "name": name,
                "changed": False,
                "overdue": overdue(layout, name, now),
                "exit_code": state.get("exit_code"),
                "reason": state.get("reason") or "",
                "backups": [_catalogue.summary(backup, now) for backup in reversed(backups)],
            }
        )
    return told


def read_settings(layout: Layout, name: str) -> Dict[str, Any]:
    """Return the backup settings of an instance that the controller left; empty without any."""
    try:
        known = read_json(os.path.join(layout.state, SETTINGS_FILE))
    except StateCorrupt:
        return {}
    found = known.get(name) if isinstance(known, dict) else None
    return dict(found) if isinstance(found, dict) else {}


def is_overdue(settings: Mapping[str, Any], state: Mapping[str, Any], since: float, now: float) -> bool:
    """Whether a scheduled backup did not come within 15 minutes, and its jitter, of when it was due.

    ``since`` is when the instance, or its schedule, began to be: nothing was due before. A backup counts when it was
    verified, where verifying is asked for.
    """
    expression = settings.get("schedule")
    if not expression:
        return False
    last = state.get("last_verified" if settings.get("verify", True) else "last_success") or since
    grace = 900.0 + float(settings.get("jitter") or 0)
    return _schedule.overdue(_schedule.parse(str(expression)), max(float(last), since), now, grace)


def overdue(layout: Layout, name: str, now: float) -> bool:
    """Whether a backup of an instance is overdue. Nothing is before its schedule was first seen."""
    state = read_state(layout, name)
    settings = read_settings(layout, name)
    if state.get("schedule") != settings.get("schedule"):
        return False
    try:
        return is_overdue(settings, state, float(state.get("scheduled_since") or 0), now)
    except InvalidInput:
        # Somebody edited the file; the other instances' backups must not suffer from it.
        return True


def note_schedules(layout: Layout, now: float) -> None:
    """Remember since when each instance has the schedule that it has."""
    for name in layout.instance_names():
        state, schedule = read_state(layout, name), read_settings(layout, name).get("schedule")
        if state.get("schedule") != schedule:
            write_state(layout, name, {**state, "schedule": schedule, "scheduled_since": now})


def metrics(states: Mapping[str, Mapping[str, Any]], late: Collection[str]) -> str:
    """Return the Prometheus textfile of the backups of all instances; those of ``late`` are overdue."""
    lines: List[str] = []
    for metric, words, key in _GAUGES:
        full = "multibase_backup_" + metric
        lines += ["# HELP {0} {1}.".format(full, words), "# TYPE {0} gauge".format(full)]
        for name in sorted(states):
            state = states[name]
            value = int(name in late) if key == "overdue" else state.get(key)
            if value is not None:
                lines.append('{0}{{instance_name="{1}"}} {2}'.format(full, name, value))
    return "\n".join(lines) + "\n"


def write_metrics(layout: Layout, now: float) -> None:
    """Write the Prometheus textfile; the instances are those that are there."""
    note_schedules(layout, now)
    path = os.path.join(layout.root, METRICS_FILE)
    os.makedirs(os.path.dirname(path), mode=0o755, exist_ok=True)
    states = {name: read_state(layout, name) for name in layout.instance_names()}
    late = [name for name in states if overdue(layout, name, now)]
    replace_file(path, metrics(states, late).encode("utf-8"), 0o644)


def due_now(layout: Layout, now: float) -> List[str]:
    """Return the instances whose scheduled backup was missed, as by a reboot."""
    return [name for name in layout.instance_names() if overdue(layout, name, now)]
