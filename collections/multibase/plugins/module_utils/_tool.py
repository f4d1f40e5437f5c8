# SPDX-License-Identifier: GPL-3.0-or-later
# This file is private to the multibase.supabase collection; it may change at any time.
"""The host's own tool, ``multibase-host``: what cron and systemd run, so that a host goes on without the controller.

The same code as the modules: this directory, copied to ``lib/multibase`` of the root directory, is its package.
"""

from __future__ import annotations

import argparse
import contextlib
import errno
import json
import os
import signal
import sys
import time
from typing import Any, Dict, Iterator, List, Optional, Sequence, Tuple

from . import (
    _backup,
    _backup_job,
    _backup_state,
    _boot,
    _catalogue,
    _copies,
    _lock,
    _monitor_settings,
    _offsite,
    _process,
    _restore,
    _retention,
    _sample,
    _schedule,
)
from ._compose import Compose
from ._engine import DEFAULT_HOST, connect
from ._errors import EngineUnavailable, MultibaseError, NoSpace
from ._layout import Layout

_ENGINE_RESTART_SECONDS = 180.0


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = argparse.ArgumentParser(prog="multibase-host", description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--root", default="/opt/multibase", help="where everything of Multibase lies")
    parser.add_argument("--docker-host", default=DEFAULT_HOST)
    parser.add_argument("--lock-timeout", type=float, default=60.0, metavar="SECONDS")
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
    commands = parser.add_subparsers(dest="command", required=True)
    backup = commands.add_parser("backup", help="back one instance up, with the settings that the controller left")
    backup.add_argument("name")
    backup.add_argument("--scheduled", action="store_true", help="wait for the jitter of this instance first")
    backup.add_argument("--no-verify", action="store_true", help="do not restore it once")
    commands.add_parser("backups", help="list backups").add_argument("names", nargs="*")
    verify = commands.add_parser("verify", help="restore a backup once, into nothing, and compare it")
    verify.add_argument("name")
    verify.add_argument("backup", nargs="?", help="the newest one when it is not given")
    restore = commands.add_parser("restore", help="restore a backup into its instance")
    restore.add_argument("name")
    restore.add_argument("backup", nargs="?", default="latest")
    restore.add_argument("--from", dest="source", help="the instance that the backup is of, when it is another")
    restore.add_argument("--scope", choices=["full", "database"], default="full")
    restore.add_argument("--trust-unsigned", action="store_true")
    commands.add_parser("rollback", help="bring back what the last restore replaced").add_argument("name")
    commands.add_parser("release", help="switch on what is held in a copy").add_argument("name")
    commands.add_parser("recover", help="undo a restore that was interrupted").add_argument("name")
    prune = commands.add_parser("prune", help="delete the backups that the policy lets go")
    prune.add_argument("name")
    prune.add_argument("--check", action="store_true", help="say what would be deleted")
    send = commands.add_parser("send", help="copy a backup to a target outside the host, and read it back")
    send.add_argument("name")
    send.add_argument("target")
    send.add_argument("backup", nargs="?", default="latest")
    fetch = commands.add_parser("fetch", help="bring a copy back to this host")
    fetch.add_argument("name")
    fetch.add_argument("target")
    fetch.add_argument("backup")
    fetch.add_argument("--identity", metavar="FILE", help="the file with age's private key")
    commands.add_parser("copies", help="list the copies outside the host").add_argument("name")
    commands.add_parser("export", help="write roles, schema and data for the cloud service").add_argument("name")
    commands.add_parser("catch-up", help="take the backups that were missed, as by a reboot")
    boot = commands.add_parser("boot", help="bring up what is meant to run, as after a reboot")
    chosen = _boot.Options()
    boot.add_argument("--parallel", type=int, default=chosen.parallel, metavar="N", help="instances at once")
    boot.add_argument("--timeout", type=float, default=chosen.timeout, metavar="SECONDS", help="for all instances")
    boot.add_argument("--engine-timeout", type=float, default=chosen.engine_timeout, metavar="SECONDS")
    boot.add_argument(
        "--restart-engine", action="store_true", help="restart Docker, once, when it holds ports that no container has"
    )
    _sample.add_options(commands.add_parser("sample", help=_sample.HELP))
    commands.add_parser("alerts", help="list what is wrong, and what is silenced")
    acknowledge = commands.add_parser("acknowledge", help="say that somebody knows of an alert")
    unsilence = commands.add_parser("unsilence", help="take a silence back")
    silence = commands.add_parser("silence", help="keep alerts from being told for a while")
    for command in (acknowledge, unsilence):
        command.add_argument("id")
    for command in (acknowledge, silence):
        command.add_argument("--by", default=os.environ.get("SUDO_USER") or "root", help="who does it")
        command.add_argument("--note", default="", help="why")
    for word in ("instance", "rule", "subject"):
        silence.add_argument("--" + word, default="", help="only alerts of this {0}".format(word))
    silence.add_argument("--for", dest="duration", required=True, metavar="TIME", help="as 90m, 2h or 1d12h")
    tested = commands.add_parser("notify-test", help="send a message to a channel, or to all")
    tested.add_argument("channel", nargs="?")
    commands.add_parser("metrics", help="write the Prometheus textfile anew")
    return parser


def options_of(chosen: Dict[str, Any], lock_timeout: float) -> _backup.Options:
    """Return the options of a backup from its settings."""
    known = {key: chosen[key] for key in ("scope", "format", "level", "verify", "timeout") if key in chosen}
    return _backup.Options(lock_timeout=lock_timeout, **known)


def policy_of(chosen: Dict[str, Any]) -> Optional[_retention.Policy]:
    """Return the retention policy in backup settings, None when nothing is to be deleted."""
    return _retention.read_policy(chosen["retention"]) if chosen.get("retention") else None


@contextlib.contextmanager
def ended_by_signals() -> Iterator[None]:
    """Turn SIGTERM and SIGHUP into an orderly end: what was staged is removed, locks are let go."""

    def stop(number: int, _frame: Any) -> None:
        raise SystemExit(128 + number)

    before = {number: signal.signal(number, stop) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def main(argv: Sequence[str]) -> int:
    """Run one command line; return the exit status (the table is in docs/backup.md)."""
    args = build_parser().parse_args(argv)
    os.umask(0o077)

    def say(text: str) -> None:
        sys.stderr.write("{0}  {1}\n".format(time.strftime("%Y-%m-%dT%H:%M:%S%z"), text))
        sys.stderr.flush()

    code = 0
    try:
        with ended_by_signals():
            if args.command == "sample":
                return _sample.run(args.root, args.docker_host, args.once, say)
            if args.command == "boot":
                result, code = _boot_up(args, say)
            else:
                result = _run(args, say)
                if args.command in ("backup", "catch-up"):
                    # A backup that is good as far as it goes; whatever is worse was raised.
                    code = max([0, *(int(row.get("exit_code") or 0) for row in result)])
    except MultibaseError as error:
        say("failed: {0}".format(error))
        return error.exit_code
    except OSError as error:
        say("failed: {0}: {1}".format(error.filename or "host", error.strerror or error))
        return NoSpace.exit_code if error.errno in (errno.ENOSPC, errno.EDQUOT) else 1
    except KeyboardInterrupt:
        return 130
    # What came of a boot was told line by line already, and goes to the journal.
    if args.json or args.command != "boot":
        sys.stdout.write((json.dumps(result, indent=1) if args.json else _text(result)) + "\n")
    return code


def _run(args: argparse.Namespace, say: Any) -> List[Dict[str, Any]]:
    layout = Layout(os.path.abspath(args.root))
    now = time.time()
    if args.command == "backups":
        names = args.names or layout.instance_names()
        return [_catalogue.summary(backup, now) for name in names for backup in _catalogue.listing(layout, name)]
    if args.command == "metrics":
        _backup_job.write_metrics(layout, now)
        return []
    if args.command in ("alerts", "acknowledge", "silence", "unsilence", "notify-test"):
        return _alert_command(layout, args, say, now)
    host = _backup_job.Host(layout, connect(args.docker_host), Compose(args.docker_host), args.docker_host, say)
    if args.command == "backup":
        return [_backup_of(host, args.name, args, say)]
    if args.command == "catch-up":
        with _lock.exclusive(layout.catch_up_lock, args.lock_timeout):
            _backup_job.discard_all_kept(host)
            return _catch_up(host, _backup_job.due_now(layout, now), args, say)
    if args.command == "prune":
        chosen = _backup_state.read_settings(layout, args.name)
        policy = policy_of(chosen) or _retention.Policy(keep_last=7)
        plan = _backup_job.prune(host, args.name, policy, args.lock_timeout, args.check)
        return [{"name": args.name, "kept": sorted(plan.keep), "removed": plan.remove, "refused": plan.refused,
                 "orphans": plan.orphans, "notes": plan.notes}]  # fmt: skip
    if args.command == "copies":
        return _copies.listing(layout, args.name, _offsite.HOUR)
    if args.command == "send":
        to = _copies.destination(layout, args.target)
        return [dict(_backup_job.send(host, args.name, args.backup, to, args.lock_timeout).__dict__)]
    if args.command == "fetch":
        backup = _backup_job.fetch(host, args.name, args.backup, args.target, args.identity, args.lock_timeout)
        return [_catalogue.summary(backup, now)]
    if args.command == "export":
        return [_backup_job.export(host, args.name, args.lock_timeout, _backup.Options().timeout)]
    if args.command == "verify":
        return [_backup_job.verify(host, args.name, args.backup, args.lock_timeout)]
    options = _restore.Options(
        lock_timeout=args.lock_timeout,
        scope=getattr(args, "scope", "full"),
        trust_unsigned=getattr(args, "trust_unsigned", False),
    )
    runner = _restore.RestoreRun(layout, host.engine, host.compose, host.docker_host, options, say)
    if args.command == "restore":
        return [runner.restore(args.name, args.backup, args.source).as_dict()]
    return [getattr(runner, args.command)(args.name).as_dict()]


def _alert_command(layout: Layout, args: argparse.Namespace, say: Any, now: float) -> List[Dict[str, Any]]:
    """Do what is asked about alerts; return rows about it."""
    # Mail and web clients take as long to load as all else together; a sample is often all that is wanted.
    from . import _alert_acts

    if args.command == "acknowledge":
        return [_alert_acts.acknowledge(layout, args.id, args.by, args.note, now, say, check=False)]
    if args.command == "silence":
        wanted = {name: getattr(args, name) for name in ("instance", "rule", "subject", "duration")}
        return [_alert_acts.silence(layout, {**wanted, "reason": args.note}, args.by, now, say, check=False)]
    if args.command == "unsilence":
        return [_alert_acts.unsilence(layout, args.id, say, check=False)]
    if args.command == "notify-test":
        host = _monitor_settings.SettingsFile(layout, say).current().host
        rows = _alert_acts.try_channels(layout, host, args.channel, now, say)
        if any(row["problem"] for row in rows):
            raise MultibaseError("; ".join(row["problem"] for row in rows if row["problem"]))
        return rows
    told = _alert_acts.listing(layout, now, say)
    return [*told["alerts"], *({"silence": one.pop("id"), **one} for one in told["silences"])]


def _restart_engine() -> None:
    """Restart Docker and wait until it answers, as far as systemd knows; with live-restore containers go on."""
    argv = ["systemctl", "restart", "docker.service"]
    done = _process.run(argv, "/", _process.clean_environment(), _ENGINE_RESTART_SECONDS)
    if done.code != 0:
        raise EngineUnavailable("{0} ended with {1}: {2}".format(" ".join(argv), done.code, done.errors.strip()))


def _boot_up(args: argparse.Namespace, say: Any) -> Tuple[List[Dict[str, Any]], int]:
    """Look after all instances; return a row for each, and the exit status."""
    layout = Layout(os.path.abspath(args.root))
    options = _boot.Options(
        parallel=args.parallel,
        timeout=args.timeout,
        engine_timeout=args.engine_timeout,
        lock_timeout=args.lock_timeout,
    )
    with _lock.exclusive(layout.boot_lock, args.lock_timeout):
        restart = _restart_engine if args.restart_engine else None
        boot = _boot.Boot(layout, Compose(args.docker_host), options, say, restart)
        reports = boot.run(lambda: connect(args.docker_host))
    return [report.as_dict() for report in reports], _boot.exit_code(reports)


def _catch_up(host: _backup_job.Host, names: List[str], args: argparse.Namespace, say: Any) -> List[Dict[str, Any]]:
    """Take the backups that were missed; one that fails does not keep the others from being taken."""
    done: List[Dict[str, Any]] = []
    first: Optional[Exception] = None
    for name in names:
        try:
            # A run that began at its own time may have taken it meanwhile.
            if _backup_job.missed(host.layout, name, time.time()):
                done.append(_backup_of(host, name, args, say))
        except (MultibaseError, OSError) as error:
            say("instance {0}: {1}".format(name, error))
            first = first or error
    if first is not None:
        raise first
    return done


def _backup_of(host: _backup_job.Host, name: str, args: argparse.Namespace, say: Any) -> Dict[str, Any]:
    chosen = _backup_state.read_settings(host.layout, name)
    if getattr(args, "no_verify", False):
        chosen["verify"] = False
    if getattr(args, "scheduled", False):
        pause = _schedule.jitter_seconds(name, int(chosen.get("jitter", 0)) or 1)
        if pause:
            say("waiting {0} s, so that not all instances begin at once".format(pause))
            time.sleep(pause)
    return _backup_job.run(host, name, options_of(chosen, args.lock_timeout), policy_of(chosen)).as_dict()


def _text(result: List[Dict[str, Any]]) -> str:
    """Return a result for people: one line an element."""
    return "\n".join(
        "  ".join("{0}={1}".format(key, value) for key, value in row.items() if value not in ("", [], None))
        for row in result
    )
