# SPDX-License-Identifier: GPL-3.0-or-later
# This file is private to the multibase.supabase collection; it may change at any time.
"""A backup with all that belongs to it: retention afterwards, what is remembered, and what monitoring reads.

The module and the scheduled run on the host are both this. What came of it is in ``state/backup/<name>.json`` and,
for all instances together, in a Prometheus textfile.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import tempfile
import time
from dataclasses import dataclass
from typing import IO, Any, Callable, Collection, Dict, Iterable, Iterator, List, Mapping, Optional, Sequence, cast

from . import _backup, _catalogue, _copies, _lock, _offsite, _portable, _restore_journal, _retention, _schedule
from ._backup import Options, Taken
from ._backup_state import STATE_LOCK_SECONDS, overdue, read_settings, read_state, update_state
from ._compose import Compose
from ._database import Server, end, last_words
from ._engine import Engine
from ._errors import (
    BackupFailed,
    IntegrityFailed,
    InvalidInput,
    LockTimeout,
    MultibaseError,
    Refused,
    VerificationFailed,
)
from ._layout import Layout
from ._publish import make_directories, replace_file
from ._stacks import load_stack, redact

METRICS_FILE = "metrics/backup.prom"
_GAUGES = (
    ("last_success_timestamp_seconds", "When the last backup was taken", "last_success"),
    ("last_verified_timestamp_seconds", "When the newest verified backup was begun", "last_verified"),
    ("size_bytes", "Size of the last backup", "size"),
    ("duration_seconds", "How long the last backup took, verification included", "seconds"),
    ("last_exit_code", "Exit code of the last attempt, 0 when it went well", "exit_code"),
    ("overdue", "1 when no verified backup came within 15 minutes of when it was due", "overdue"),
)
_COPY_GAUGES = (
    ("last_success_timestamp_seconds", "When a backup was copied to the target and read back last", "last_success"),
    ("missing", "Backups that could not be copied to the target", "missing"),
)
_LISTED_COPIES = 100
# What ends with these is a good backup on the host: one of which something outside is missing, or which could not be
# copied.
_GOOD = (0, _backup.INCOMPLETE, _offsite.OffsiteFailed.exit_code)
# A backup was published and is not what its manifest says.
_LEAVES_FILES = VerificationFailed.exit_code
_HOUR, _DAY = 3600.0, 86400.0
_READABLE = 0o755
# Days that a restore keeps what was there, unless told otherwise.
_KEEP_DAYS = 7.0


@dataclass(frozen=True)
class Host:
    """What a job works with on a host."""

    layout: Layout
    engine: Engine
    compose: Compose
    docker_host: str
    progress: Callable[[str], None] = lambda _text: None
    clock: Callable[[], float] = time.time


def run(host: Host, name: str, options: Options, policy: Optional[_retention.Policy]) -> Taken:
    """Take a backup, prune what the policy lets go, and remember both. Raises a MultibaseError with an exit code."""
    began = host.clock()
    started = time.monotonic()
    runner = _backup.BackupRun(
        host.layout, host.engine, host.compose, host.docker_host, options, host.progress, host.clock
    )
    try:
        taken = runner.take(name)
    except LockTimeout:
        # Somebody else is at work on it: that is no failure of its backups.
        raise
    except (MultibaseError, OSError, SystemExit, KeyboardInterrupt) as error:
        if name in host.layout.instance_names():
            # Whatever cannot be written now, as on a full disk, is not what the user has to hear of.
            with contextlib.suppress(MultibaseError, OSError):
                _note_failure(host.layout, name, error, began)
                write_metrics(host.layout, host.clock())
        raise
    seconds = round(time.monotonic() - started, 1)

    def succeeded(state: Dict[str, Any]) -> Mapping[str, Any]:
        state.update(
            last_attempt=began, last_success=began, exit_code=taken.exit_code, reason=taken.reason, failures=0,
            size=taken.size, seconds=seconds, stem=taken.stem,
        )  # fmt: skip
        if taken.verified:
            state["last_verified"] = _catalogue.stem_time(taken.stem)
        return state

    try:
        update_state(host.layout, name, succeeded)
    except (MultibaseError, OSError) as error:
        taken.notes.append("the backup is good, and what came of it could not be written down: {0}".format(error))
    _clean_up(host, taken, policy, options.lock_timeout)
    failure = _send_everywhere(host, taken, options)
    try:
        write_metrics(host.layout, host.clock())
    except (MultibaseError, OSError) as error:
        taken.notes.append("metrics were not written: {0}".format(error))
    if failure is not None:
        # The backup on the host is good; but it is not said to be done before it is where it was to go.
        raise failure
    return taken


def _note_failure(layout: Layout, name: str, error: BaseException, began: float) -> None:
    def failed(state: Dict[str, Any]) -> Mapping[str, Any]:
        failures = int(state.get("failures") or 0) + 1
        return {**state, **_backup.failure_record(error), "failures": failures, "last_attempt": began}

    update_state(layout, name, failed)


def _clean_up(host: Host, taken: Taken, policy: Optional[_retention.Policy], lock_timeout: float) -> None:
    """Delete what a policy lets go, and what a restore kept for long enough; the backup is good whatever happens."""
    try:
        if policy is None:
            discard_kept(host, taken.name, lock_timeout)
            return
        plan = prune(host, taken.name, policy, lock_timeout)
        taken.pruned = plan.remove
        taken.notes += plan.notes
        if plan.refused:
            taken.notes.append("nothing was pruned: {0}".format(plan.refused))
    except (MultibaseError, OSError) as error:
        taken.notes.append("pruning failed: {0}".format(error))


def _send_everywhere(host: Host, taken: Taken, options: Options) -> Optional[MultibaseError]:
    """Copy a backup to all targets that are for its instance; return the first failure, after trying all.

    What an earlier run could not copy is tried again. What failed is in the state, and with it in monitoring.
    """
    first: Optional[MultibaseError] = None
    try:
        targets = [to for to in _copies.destinations(host.layout) if not to.instances or taken.name in to.instances]
    except MultibaseError as error:
        first, targets = error, []
    if targets and not taken.verified:
        taken.notes.append("not copied anywhere: only what was verified is")
        return None
    told = read_state(host.layout, taken.name).get("offsite") or {}
    for to in targets:
        name = to.target.name
        missing = _still_there(host.layout, taken.name, (told.get(name) or {}).get("missing") or [], taken.stem)
        lacking: List[str] = []
        failure: Optional[Exception] = None
        # The newest first: it must not wait for one that can never be copied.
        for stem in [taken.stem, *reversed(missing)]:
            try:
                copied = send(host, taken.name, stem, to, options.lock_timeout)
            except (IntegrityFailed, Refused) as error:
                # Trying again would not help.
                failure = failure or error
                continue
            except (MultibaseError, OSError) as error:
                lacking = [*missing, taken.stem]
                failure = failure or error
                break
            taken.notes += copied.notes
            if stem != taken.stem:
                taken.notes.append("backup {0} was copied to {1} later than it was taken".format(stem, name))
                continue
            taken.copied.append(name)
            if copied.left_out:
                taken.notes.append("{0} encrypts nothing; kept here: {1}".format(name, ", ".join(copied.left_out)))
        if failure is not None:
            first = first or _as_offsite(failure)
            with contextlib.suppress(MultibaseError, OSError):
                _note_uncopied(host.layout, taken.name, name, lacking, str(failure))
    if first is not None:
        noted = {"exit_code": _offsite.OffsiteFailed.exit_code, "reason": str(first)}
        with contextlib.suppress(MultibaseError, OSError):
            update_state(host.layout, taken.name, lambda state: {**state, **noted})
    return first


def _as_offsite(error: Exception) -> MultibaseError:
    return error if isinstance(error, MultibaseError) else _offsite.OffsiteFailed(str(error))


def _still_there(layout: Layout, name: str, stems: Iterable[Any], newest: str) -> List[str]:
    """Return those of the backups that may still be copied."""
    good = {backup.stem for backup in _catalogue.listing(layout, name) if backup.verified and backup.signed}
    return sorted(good & {str(stem) for stem in stems} - {newest})


def _note_uncopied(layout: Layout, name: str, target: str, stems: Sequence[str], reason: str) -> None:
    """Remember which backups a target lacks: of ``stems`` those that did not reach it."""

    def failed(state: Dict[str, Any]) -> Mapping[str, Any]:
        offsite = dict(state.get("offsite") or {})
        known = dict(offsite.get(target) or {})
        done = set(known.get("sent") or ())
        lacking = [stem for stem in stems if stem not in done]
        offsite[target] = {**known, "reason": reason, "missing": lacking[-_LISTED_COPIES:]}
        return {**state, "offsite": offsite}

    update_state(layout, name, failed)


def _note_copied(layout: Layout, name: str, target: str, stem: str, now: float) -> None:
    """Remember that a target has a backup, and that all is well again when no target lacks any."""

    def copied(state: Dict[str, Any]) -> Mapping[str, Any]:
        offsite = {key: dict(about) for key, about in (state.get("offsite") or {}).items()}
        known = offsite.get(target) or {}
        missing = [one for one in known.get("missing") or [] if one != stem]
        sent = [*(one for one in known.get("sent") or [] if one != stem), stem]
        offsite[target] = {
            "last_success": now, "reason": known.get("reason", "") if missing else "", "missing": missing,
            "sent": sent[-_LISTED_COPIES:],
        }  # fmt: skip
        changed = {**state, "offsite": offsite}
        lacking = any(about.get("missing") for about in offsite.values())
        if state.get("exit_code") == _offsite.OffsiteFailed.exit_code and not lacking:
            changed.update(exit_code=0, reason="")
        return changed

    update_state(layout, name, copied)


def send(host: Host, name: str, stem: str, to: _copies.Destination, lock_timeout: float) -> _copies.Copied:
    """Copy one backup to one target and read it back. Raises Refused unless this host verified and signed it."""
    with _lock.exclusive(host.layout.data_lock(name), lock_timeout):
        backup = _catalogue.choose(host.layout, name, stem)
        host.progress("copying backup {0} to {1}".format(backup.stem, to.target.name))
        copied = _copies.send(host.layout, to, backup, _offsite.HOUR)
    try:
        _note_copied(host.layout, name, to.target.name, backup.stem, host.clock())
    except (MultibaseError, OSError) as error:
        copied.notes.append("the copy is good, and could not be written down: {0}".format(error))
    return copied


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
    """Delete the backups that a policy lets go, and data that a restore kept for long enough.

    With them go files of backups that killed runs of earlier versions left, once two later backups are verified.
    """
    with _lock.exclusive(host.layout.data_lock(name), lock_timeout):
        now = host.clock()
        directory = host.layout.backups(name)
        if not check_mode:
            # What a deletion left that was killed.
            _catalogue.recover(directory)
        backups = _catalogue.listing(host.layout, name)
        entries = _entries(backups)
        plan = _retention.plan(entries, policy, now, _last_run_failed(host.layout, name))
        lacking = [backup.stem for backup in backups if backup.verified and not _catalogue.complete(backup)]
        if lacking:
            plan.notes.append(
                "not counted as verified, because files are missing or have another size: {0}".format(
                    ", ".join(lacking)
                )
            )
        if plan.refused is None:
            verified = sorted(entry.time for entry in entries if entry.verified)
            plan.orphans.extend(
                file
                for file in _catalogue.orphans(directory, now)
                if _catalogue.stem_time(file.split(".", 1)[0]) < verified[-_retention.MINIMUM_VERIFIED]
            )
        if not plan.doubtful and _kept_doubt(host.layout, name, now, entries) is None:
            plan.directories.extend(_restore_journal.outdated(host.layout, name, now))
        if not check_mode:
            by_stem = {backup.stem: backup for backup in backups}
            for stem in plan.remove:
                _catalogue.remove(by_stem[stem])
            for file in plan.orphans:
                os.unlink(os.path.join(directory, file))
            if plan.directories:
                _restore_journal.discard_outdated(host.layout, name, now)
        if plan.orphans:
            plan.notes.append("files of backups without a manifest: {0}".format(", ".join(plan.orphans)))
        return plan


def _entries(backups: Iterable[_catalogue.Backup]) -> List[_retention.Entry]:
    """Return what retention decides about. One that lacks a file, or a part of one, restores nothing."""
    return [
        _retention.Entry(
            backup.stem, backup.time, backup.verified and backup.signed and _catalogue.complete(backup), backup.size,
            bool(backup.manifest.get("pinned")),
        )
        for backup in backups
    ]  # fmt: skip


def _last_run_failed(layout: Layout, name: str) -> bool:
    return (read_state(layout, name).get("exit_code") or 0) not in _GOOD


def _kept_doubt(layout: Layout, name: str, now: float, entries: Sequence[_retention.Entry]) -> Optional[str]:
    """Say why what a restore kept is not deleted by its age now, or return None. No policy is asked."""
    if _last_run_failed(layout, name):
        return "the last backup failed"
    verified = [entry for entry in entries if entry.verified]
    return _retention.clock_doubt(entries, now) or _retention.jump(verified, _KEEP_DAYS)


def discard_kept(host: Host, name: str, lock_timeout: float) -> List[str]:
    """Delete the data that a restore kept for its days, policy or not; return the directories."""
    # Most instances have none: they are not locked for it.
    if not _restore_journal.outdated(host.layout, name, host.clock()):
        return []
    with _lock.exclusive(host.layout.data_lock(name), lock_timeout):
        now = host.clock()
        if _kept_doubt(host.layout, name, now, _entries(_catalogue.listing(host.layout, name))) is not None:
            return []
        return _restore_journal.discard_outdated(host.layout, name, now)


def discard_all_kept(host: Host) -> None:
    """Delete the data that restores of any instance kept for their days: not every instance has a schedule."""
    for name in host.layout.instance_names():
        try:
            for path in discard_kept(host, name, 0.0):
                host.progress("instance {0}: no longer kept of a restore: {1}".format(name, path))
        except (MultibaseError, OSError) as error:
            host.progress("instance {0}: what a restore kept stays for now: {1}".format(name, error))


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
        update_state(
            host.layout, name,
            lambda state: {**state, "last_verified": backup.time}
            if backup.time > float(state.get("last_verified") or 0) else None,
        )  # fmt: skip
    return {
        "name": name, "stem": backup.stem, "size": backup.size, "verified": True,
        "verify_seconds": outcome.evidence["seconds"], "notes": outcome.notes, "directory": backup.directory,
        "tables": outcome.evidence["tables"], "rows": outcome.evidence["rows"],
    }  # fmt: skip


def note_schedules(layout: Layout, now: float) -> None:
    """Remember since when each instance has the schedule that it has."""
    for name in layout.instance_names():
        schedule = read_settings(layout, name).get("schedule")
        if read_state(layout, name).get("schedule") != schedule:
            noted = {"schedule": schedule, "scheduled_since": now}
            update_state(layout, name, lambda state, noted=noted: {**state, **noted})  # type: ignore[misc]


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
    for metric, words, key in _COPY_GAUGES:
        full = "multibase_backup_offsite_" + metric
        lines += ["# HELP {0} {1}.".format(full, words), "# TYPE {0} gauge".format(full)]
        for name in sorted(states):
            for target, about in sorted((states[name].get("offsite") or {}).items()):
                value = len(about.get("missing") or ()) if key == "missing" else about.get(key)
                if value is not None:
                    lines.append('{0}{{instance_name="{1}",target="{2}"}} {3}'.format(full, name, target, value))
    return "\n".join(lines) + "\n"


def write_metrics(layout: Layout, now: float) -> None:
    """Write the Prometheus textfile; the instances are those that are there."""
    note_schedules(layout, now)
    path = os.path.join(layout.root, METRICS_FILE)
    directory = os.path.dirname(path)
    # Whoever collects it is not root, and the tool's umask would keep others out.
    make_directories(layout.root, os.path.relpath(directory, layout.root), _READABLE)
    mode = os.stat(directory).st_mode & 0o7777
    if mode | _READABLE != mode:
        os.chmod(directory, mode | _READABLE)
    with _lock.exclusive(layout.metrics_lock, STATE_LOCK_SECONDS):
        states = {name: read_state(layout, name) for name in layout.instance_names()}
        late = [name for name in states if overdue(layout, name, now)]
        replace_file(path, metrics(states, late).encode("utf-8"), 0o644)


def missed(layout: Layout, name: str, now: float) -> bool:
    """Whether the scheduled backup of an instance is to be made up for now.

    It is when none was begun since it was due, as after a reboot. One that failed is tried again after an hour, then
    after two, four, ... up to a day, until the next time: unless it left files, as one that was taken and could not be
    verified does. Made again each hour, those would fill the disk that the databases use.
    """
    if not overdue(layout, name, now):
        return False
    state, settings = read_state(layout, name), read_settings(layout, name)
    begun = [float(state.get("last_attempt") or 0), float(state.get("scheduled_since") or 0)]
    # A run that was killed wrote no state, but what it published is there.
    begun += [_catalogue.stem_time(stem) for stem in _catalogue.stems(layout.backups(name))[-1:]]
    attempt = max(one for one in [0.0, *begun] if one <= now + _retention.FUTURE_SECONDS)
    grace = 900.0 + float(settings.get("jitter") or 0)
    try:
        if _schedule.overdue(_schedule.parse(str(settings.get("schedule"))), attempt, now, grace):
            return True
    except InvalidInput:
        return False
    if attempt > float(state.get("last_attempt") or 0) or (state.get("exit_code") or 0) in (*_GOOD, _LEAVES_FILES):
        return False
    return bool(now >= attempt + min(_DAY, _HOUR * 2 ** min(int(state.get("failures") or 1) - 1, 10)))


def due_now(layout: Layout, now: float) -> List[str]:
    """Return the instances whose scheduled backup was missed, as by a reboot, or may be tried again."""
    return [name for name in layout.instance_names() if missed(layout, name, now)]
