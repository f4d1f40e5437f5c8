# SPDX-License-Identifier: GPL-3.0-or-later
"""Looks after ARA's database: a backup, then old records are deleted for good; and whether the service answers.

    python -m multibase_ara.upkeep --days N --backups N --socket PATH BACKUPS

ARA's own ``prune`` leaves the texts of files, which records share, and the room that rows had. Here what nothing refers
to is deleted too, and the database is rewritten without it. Prints one line of JSON. What goes wrong is told, the rest
is done all the same, and the exit status is 1.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import gzip
import http.client
import json
import os
import shutil
import socket
import sqlite3
import subprocess
import sys
import tempfile
import traceback
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List, Optional, Sequence

# A run that says nothing for so long is not at work any more.
SILENT = datetime.timedelta(days=1)
_STAMP = "%Y%m%dT%H%M%SZ"
_CHUNK = 1 << 20
_ANSWER_SECONDS = 60.0


class NotWell(Exception):
    """Something is not as it should be; the text says what."""


def now() -> datetime.datetime:
    """Return the time, with its zone."""
    return datetime.datetime.now(datetime.timezone.utc)


# --- backups ---------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def _staged(path: Path) -> Iterator[Path]:
    """Give a path beside ``path``; what is there at the end gets its place, or goes."""
    beside = path.with_name(".staged-" + path.name)
    try:
        yield beside
        with open(beside, "rb") as stream:
            os.fsync(stream.fileno())
        os.replace(beside, path)
        directory = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)
    finally:
        beside.unlink(missing_ok=True)


def back_up_sqlite(database: Path, path: Path) -> None:
    """Copy a database of SQLite that is in use to ``path``, with gzip; a copy that is not sound is none."""
    with tempfile.TemporaryDirectory(prefix=".copy-", dir=path.parent) as scratch:
        copy = Path(scratch) / "copy.sqlite"
        opened, made = sqlite3.connect(database, timeout=60), sqlite3.connect(copy)
        with contextlib.closing(opened) as source, contextlib.closing(made) as target:
            source.backup(target)
            (verdict,) = target.execute("PRAGMA integrity_check").fetchone()
        if verdict != "ok":
            raise NotWell("the copy of {0} is not sound: {1}".format(database, verdict))
        with _staged(path) as beside, open(copy, "rb") as plain, gzip.open(beside, "wb", 6) as packed:
            shutil.copyfileobj(plain, packed, _CHUNK)


def _pass_line(*fields: Any) -> str:
    """Return a line of libpq's file of passwords."""
    return ":".join(str(field).replace("\\", "\\\\").replace(":", "\\:") for field in fields) + "\n"


def back_up_postgresql(settings: Dict[str, Any], path: Path) -> None:
    """Dump a database of PostgreSQL to ``path``, as pg_restore reads it, and have it read once."""
    with tempfile.TemporaryDirectory(prefix="pass-") as scratch, _staged(path) as beside:
        passwords = Path(scratch) / "pass"
        passwords.touch(mode=0o600)
        passwords.write_text(_pass_line("*", "*", "*", settings["USER"], settings["PASSWORD"] or ""), encoding="utf-8")
        environment = {
            "PATH": os.environ.get("PATH", "/usr/bin:/bin"),
            "PGPASSFILE": str(passwords),
            "PGSSLMODE": str(settings["OPTIONS"].get("sslmode", "prefer")),
        }
        where = ["--host", str(settings["HOST"]), "--port", str(settings["PORT"]), "--username", str(settings["USER"])]
        dump = ["pg_dump", "--no-password", "--format=custom", *where, "--file", str(beside), str(settings["NAME"])]
        for command in (dump, ["pg_restore", "--list", str(beside)]):
            done = subprocess.run(
                command, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
            )
            if done.returncode:
                raise NotWell("{0}: {1}".format(command[0], done.stderr.strip()))


def back_up(directory: Path) -> Path:
    """Back the database up; return the file."""
    from django.db import connection

    settings = connection.settings_dict
    sqlite = connection.vendor == "sqlite"
    path = directory / "ara-{0}.{1}".format(now().strftime(_STAMP), "sqlite.gz" if sqlite else "dump")
    if sqlite:
        back_up_sqlite(Path(settings["NAME"]), path)
    else:
        back_up_postgresql(settings, path)
    return path


def thin_out(directory: Path, keep: int) -> List[str]:
    """Remove all backups but the newest ``keep``; return the names of those that are gone."""
    found = sorted(path for path in directory.glob("ara-*") if path.name.endswith((".sqlite.gz", ".dump")))
    # Of both kinds, by their time: the database may have moved.
    gone = sorted(found, key=lambda path: path.name.split(".")[0])[:-keep]
    for path in gone:
        path.unlink()
    return [path.name for path in gone]


# --- records ---------------------------------------------------------------------------------------------------------


def expire(at: datetime.datetime) -> int:
    """Say of runs whose end was never recorded that they are over; return how many there were."""
    from ara.api import models

    stuck = {"status": "running", "updated__lt": at - SILENT}
    for model in (models.Play, models.Task):
        model.objects.filter(**stuck).update(status="expired")
    return int(models.Playbook.objects.filter(**stuck).update(status="expired"))


def prune(days: int, at: datetime.datetime) -> int:
    """Delete the records of runs that began more than ``days`` ago; return how many there were. 0 days deletes none."""
    from ara.api import models, views
    from django.db import transaction

    if not days:
        return 0
    old = models.Playbook.objects.filter(started__lt=at - datetime.timedelta(days=days)).order_by("id")
    numbers = list(old.values_list("id", flat=True))
    # One by one: whoever records meanwhile waits for one of them only.
    for number in numbers:
        with transaction.atomic():
            views.PlaybookViewSet().perform_destroy(models.Playbook.objects.get(pk=number))
    return len(numbers)


def orphans() -> Dict[str, int]:
    """Delete texts of files and labels that no record refers to any more; return how many there were."""
    from ara.api import models
    from django.db import transaction

    gone = {}
    for name, query in (
        ("contents", models.FileContent.objects.filter(files__isnull=True)),
        ("labels", models.Label.objects.filter(playbook__isnull=True)),
    ):
        with transaction.atomic():
            gone[name] = query.count()
            query.delete()
    return gone


def rewrite() -> None:
    """Have the database give back the room of what was deleted."""
    from django.db import connection

    with connection.cursor() as cursor:
        if connection.vendor == "sqlite":
            cursor.execute("VACUUM")
            cursor.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        else:
            cursor.execute("VACUUM (FULL, ANALYZE)")


def size() -> int:
    """Return the bytes that the database takes."""
    from django.db import connection

    if connection.vendor == "sqlite":
        paths = [str(connection.settings_dict["NAME"]) + end for end in ("", "-wal")]
        return sum(os.path.getsize(path) for path in paths if os.path.exists(path))
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_database_size(current_database())")
        return int(cursor.fetchone()[0])


# --- the service -----------------------------------------------------------------------------------------------------


class _Connection(http.client.HTTPConnection):
    """HTTP by a socket of this host."""

    def __init__(self, path: str) -> None:
        super().__init__("localhost", timeout=_ANSWER_SECONDS)
        self._path = path

    def connect(self) -> None:
        """Open the socket."""
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(_ANSWER_SECONDS)
        self.sock.connect(self._path)


def ask(path: str) -> None:
    """Raise NotWell unless the service answers, can write to its database, and tells of its records."""
    for page in ("/healthcheck/", "/api/v1/playbooks?limit=1"):
        with contextlib.closing(_Connection(path)) as connection:
            try:
                connection.request("GET", page, headers={"Accept": "application/json"})
                answer = connection.getresponse()
                body = answer.read()
            except (OSError, http.client.HTTPException) as error:
                raise NotWell("the service does not answer at {0}: {1}".format(path, error)) from None
        if answer.status != 200:
            raise NotWell("{0} says {1}: {2!r}".format(page, answer.status, body[:300]))


def main(argv: Optional[Sequence[str]] = None) -> int:
    """Do all of it; return the exit status."""
    parser = argparse.ArgumentParser(prog="multibase_ara.upkeep")
    parser.add_argument("--days", type=int, required=True)
    parser.add_argument("--backups", type=int, required=True)
    parser.add_argument("--socket", required=True)
    parser.add_argument("directory", type=Path)
    given = parser.parse_args(argv)
    import django

    django.setup()
    at = now()
    told: Dict[str, Any] = {}
    troubles: List[str] = []

    def attempt(name: str, act: Callable[[], Any]) -> bool:
        try:
            told[name] = act()
            return True
        except NotWell as error:
            troubles.append("{0}: {1}".format(name, error))
        except Exception:
            troubles.append("{0}: {1}".format(name, traceback.format_exc(limit=3)))
        return False

    attempt("bytes_before", size)
    # Nothing is deleted that was not backed up once.
    if attempt("backup", lambda: back_up(given.directory).name):
        attempt("backups_removed", lambda: thin_out(given.directory, given.backups))
        attempt("expired", lambda: expire(at))
        attempt("pruned", lambda: prune(given.days, at))
        attempt("orphans", orphans)
        if told.get("pruned") or any(told.get("orphans", {}).values()):
            attempt("rewritten", rewrite)
    attempt("bytes_after", size)
    attempt("answers", lambda: ask(given.socket))
    told.pop("rewritten", None)
    told["answers"] = "answers" in told
    print(json.dumps(told, sort_keys=True))
    for trouble in troubles:
        print(trouble, file=sys.stderr)
    return 1 if troubles else 0


if __name__ == "__main__":
    sys.exit(main())
