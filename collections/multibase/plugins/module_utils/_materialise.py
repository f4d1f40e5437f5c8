# SPDX-License-Identifier: GPL-3.0-or-later
# This file is private to the multibase.supabase collection; it may change at any time.
"""The one way from a backup to data: into fresh directories, by a scratch container, compared with the manifest.

The scratch container is of the instance's own database image with the instance's own settings, without any network,
with limits. It creates a cluster as a new instance would (so that the passwords of the services are those of the
target), then each database is made anew from ``template0``, where rights that the owner had revoked stay revoked, and
loaded. Nothing that runs is touched. Verifying a backup ends here; a restore goes on with the directories.
"""

from __future__ import annotations

import contextlib
import gzip
import io
import os
import re
import secrets
import subprocess
import tarfile
import tempfile
import threading
import time
import zlib
from dataclasses import dataclass, field
from typing import Any, Callable, Dict, Iterable, Iterator, List, Mapping, Optional, Sequence, Tuple, cast

from . import _archive, _catalogue, _database, _fingerprint
from ._compose import Compose
from ._database import SUPERUSER, DatabaseFailed, Server, end, quote_identifier, quote_literal
from ._engine import SCRATCH_LABEL, Engine
from ._errors import ComposeFailed, EngineUnavailable, IntegrityFailed, NoSpace, Refused, VerificationFailed
from ._publish import sync_filesystem, write_new
from ._sql_lines import Scanner
from ._stacks import Stack, redact

DATABASES = ("postgres", "_supabase")
# Roles that services log in with; a new cluster gives them the password of the instance's .env.
SERVICE_ROLES = (
    "authenticator", "pgbouncer", "postgres", "supabase_admin", "supabase_auth_admin", "supabase_functions_admin",
    "supabase_storage_admin",
)  # fmt: skip
# Parts that nothing executes: roles' passwords are read line by line, the others are unpacked.
_NO_SQL = ("passwords", "storage", "functions", "config")
DATA_TARGET = "/var/lib/postgresql/data"
CUSTOM_TARGET = "/etc/postgresql-custom"
_KEY_FILE = "pgsodium_root.key"
# Where the key of an unsigned backup waits to be looked at, in the directory that is not in use yet.
_INCOMING_KEY = ".multibase-incoming.key"
_KEY = re.compile(rb"[0-9A-Fa-f]{64}\Z")
_POLL_SECONDS = 0.3
_STOP_SECONDS = 300
# About four times max_wal_size, which the server may exceed.
_MAXIMUM_LOG = 4 << 30
# A server that has less room than one file of its log cannot write.
_SEGMENT = 16 << 20
# What a new cluster gave its roles: settings and memberships. The backup says which there are.
_RESET_ROLES = r"""
DO $multibase$
DECLARE
  one record;
BEGIN
  FOR one IN SELECT rolname FROM pg_roles WHERE rolname NOT LIKE 'pg\_%' LOOP
    EXECUTE format('ALTER ROLE %I RESET ALL', one.rolname);
  END LOOP;
  FOR one IN
    SELECT m.roleid::regrole AS granted, m.member::regrole AS member, m.grantor::regrole AS grantor
    FROM pg_auth_members m JOIN pg_roles r ON r.oid = m.member WHERE r.rolname NOT LIKE 'pg\_%'
  LOOP
    IF current_setting('server_version_num')::int >= 160000 THEN
      EXECUTE format('REVOKE %s FROM %s GRANTED BY %s CASCADE', one.granted, one.member, one.grantor);
    ELSE
      EXECUTE format('REVOKE %s FROM %s CASCADE', one.granted, one.member);
    END IF;
  END LOOP;
END
$multibase$;
"""
_START_SECONDS = 180.0
# What keeps a load from being slow or from doing something: it is thrown away or synced whole when it is done.
_SETTINGS = (
    "fsync=off", "full_page_writes=off", "synchronous_commit=off", "autovacuum=off", "max_wal_size=1GB",
    "archive_mode=off", "cron.launch_active_jobs=off",
)  # fmt: skip
_PASSWORD = re.compile(
    r"^((?:ALTER|CREATE) ROLE (?:\"(?:[^\"]|\"\")+\"|\w+) WITH [A-Z0-9 -]*?) PASSWORD '(?:[^']|'')*'"
)
_ROLE_PASSWORD = re.compile(r"ALTER ROLE (?:\"((?:[^\"]|\"\")+)\"|(\w+)) PASSWORD '((?:[^']|'')*)';")
# What runs programs, reads or writes files of the server, or changes how it, or psql, reads what follows. White space
# is one blank each, and comments are gone.
_HOSTILE = re.compile(
    rb"(?i)\b(?:FROM|TO) PROGRAM\b|\bCOPY\b[^;]*?\b(?:FROM|TO) ?(?:E?'|\$)"
    rb"|\blo_(?:import|export)\b|\bALTER SYSTEM\b|\bpg_(?:read|write)_\w*file\b|\bpg_ls_\w+"
    rb"|\bCREATE (?:OR REPLACE )?(?:TRUSTED )?(?:PROCEDURAL )?LANGUAGE\b"
    rb"|\bLANGUAGE ?'?\"?(?:c|internal|plpython\w*|plperlu)\b"
    rb"|\bstandard_conforming_strings\b(?! = on\b)|\bCREATE SUBSCRIPTION\b|\bLOAD ?'"
)
_COMMENTS = re.compile(rb"--[^\n]*|/\*.*?\*/", re.DOTALL)
_BLANKS = re.compile(rb"\s+")
_OWN_COMMAND = re.compile(rb"\\(?:un)?restrict [A-Za-z0-9]+\s*$")

# Restricted, psql runs no meta command, as \\! is one. It takes no second such line, so that of the dump itself goes,
# and its counterpart at the end: by the dump's own random key, which no row, comment or function body can have.
_LOAD_PLAIN = r"""
set -o pipefail
{{ printf '%s\n' '{guard}'
   gzip -dc | sed -e '1,{head}{{/^\\restrict {key}$/d}}' -e '/^\\unrestrict {key}$/d'
}} | {psql} --single-transaction
"""
# The same for a dump in pg_restore's format, which is told the key that it restricts psql with.
_LOAD_AS_TEXT = r"""
set -o pipefail
{{ printf '%s\n' '{guard}'
   pg_restore --restrict-key={key} -f - | sed -e '1,{head}{{/^\\restrict {key}$/d}}' -e '/^\\unrestrict {key}$/d'
}} | {psql} --single-transaction
"""
_HEAD_LINES = 10
_OWN_KEY = re.compile(rb"\\restrict ([A-Za-z0-9]{16,})\n")

Progress = Callable[[str], None]
# What is switched off in a copy: in words, and the statement that switches it on.
Held = Tuple[str, str]


@dataclass(frozen=True)
class Target:
    """The instance that a backup is materialised for, and the directories that it is materialised into.

    ``custom`` is filled from the backup when it holds one and this host signed it, else copied from ``live_custom`` of
    the instance, else from the image, as Docker does with a named volume. ``same_instance`` says whether the backup is
    of this very instance: only then do passwords of further roles come from it. ``settle`` is done to the new databases
    after they were compared; it returns what it held back.
    """

    stack: Stack
    data: str
    custom: str
    live_custom: str
    storage: Optional[str] = None
    functions: Optional[str] = None
    snippets: Optional[str] = None
    same_instance: bool = True
    settle: Optional[Callable[[Server], List[Held]]] = None


@dataclass
class Outcome:
    """What came of it: evidence for the manifest, differences (none, if all is well), notes for the user."""

    differences: List[str] = field(default_factory=list)
    notes: List[str] = field(default_factory=list)
    evidence: Dict[str, Any] = field(default_factory=dict)
    held: List[Held] = field(default_factory=list)


def part_of(database: str) -> str:
    """Return what the part of a backup is called that holds a database."""
    return database if database in DATABASES else "database " + database


def loaded_parts(backup: _catalogue.Backup) -> List[str]:
    """Return the parts of a backup of unknown origin that are loaded as SQL, but for dumps in pg_restore's format.

    Raises IntegrityFailed for parts that no backup has, that it has twice, or without which it is none: what is loaded
    must be what was looked into.
    """
    manifest = backup.manifest
    databases = manifest.get("databases")
    if manifest.get("format") not in ("plain", "custom") or not isinstance(databases, dict):
        raise IntegrityFailed("the manifest of backup {0} does not say what it holds".format(backup.stem))
    dumps = [part_of(database) for database in databases]
    extensions = ["extensions of " + part for part in dumps]
    parts = [str(about["part"]) for about in manifest["parts"].values()]
    wrong = [
        "two files that are its {0}".format(part) for part in sorted({one for one in parts if parts.count(one) > 1})
    ]
    known = {"globals", *dumps, *extensions, *_NO_SQL}
    wrong += ["a part {0!r}, which no backup has".format(part) for part in sorted(set(parts) - known)]
    wrong += ["no {0}".format(part) for part in ("globals", *dumps) if part not in parts]
    if wrong:
        raise IntegrityFailed("the manifest of backup {0} names {1}".format(backup.stem, "; ".join(wrong)))
    loaded = ["globals", *(dumps if manifest["format"] == "plain" else []), *extensions]
    return [part for part in loaded if part in parts]


def discard_scratch(engine: Engine, name: str) -> int:
    """Remove the scratch containers that a killed run left for an instance; return how many there were."""
    found = engine.labelled("{0}={1}".format(SCRATCH_LABEL, name))
    for container in found:
        engine.remove(container)
    return len(found)


class Materialiser:
    """Materialises backups on one host. ``timeout`` in seconds holds for loading one database."""

    def __init__(
        self,
        engine: Engine,
        compose: Compose,
        docker_host: str,
        timeout: float,
        progress: Progress = lambda _text: None,
        memory_bytes: int = 0,
    ) -> None:
        self._engine = engine
        self._compose = compose
        self._docker_host = docker_host
        self._timeout = timeout
        self._say = progress
        self._memory = memory_bytes

    def check(self, backup: _catalogue.Backup, trust_unsigned: bool) -> None:
        """Refuse what cannot be trusted, before anything is done: files, signature, contents, versions.

        Raises IntegrityFailed or Refused.
        """
        self._say("checking the files of backup {0}".format(backup.stem))
        if not backup.signed and not trust_unsigned:
            raise IntegrityFailed(
                "backup {0} was not signed by this host: it comes from elsewhere, or was changed. Restoring runs what "
                "is in it as a superuser of the new database; say trust_unsigned if you know its origin".format(
                    backup.stem
                )
            )
        _catalogue.check_files(backup)
        if not backup.signed:
            # By part, as it is loaded, and never by name: the manifest says what a file is called.
            for part in loaded_parts(backup):
                scan(backup.path(part))

    def run(self, backup: _catalogue.Backup, target: Target, passwords: Mapping[str, str]) -> Outcome:
        """Materialise a backup into the directories of ``target`` (which exist and are empty) and compare it.

        ``passwords`` maps roles to the verifiers that they get. The server is stopped in the end and everything is on
        the disk. Raises VerificationFailed when something cannot be loaded; differences are in the outcome.
        """
        started = time.monotonic()
        outcome = Outcome()
        self._room(backup, target)
        service = self._service(target.stack)
        self._prepare_custom(backup, target, str(service["image"]))
        self._unpack(backup, target, outcome)
        with self._server(target, backup, service) as server:
            version = int(server.script("postgres", "SHOW server_version_num;\n").strip()) // 10000
            recorded = int(backup.manifest["server_version_num"]) // 10000
            if recorded != version:
                raise Refused(
                    "the backup is of PostgreSQL {0}, the instance has {1}: another major version is an upgrade and no "
                    "restore".format(recorded, version)
                )
            self._load_all(backup, server, target, passwords, outcome)
            self._compare(backup, server, outcome)
            outcome.evidence["server_version"] = version
            if target.settle is not None and not outcome.differences:
                outcome.held = target.settle(server)
        self._sync(target)
        outcome.evidence["seconds"] = round(time.monotonic() - started, 1)
        return outcome

    # Steps

    @staticmethod
    def _sync(target: Target) -> None:
        """Bring everything to the disk before anything old is replaced: a part may lie on a filesystem of its own."""
        every = (target.data, target.custom, target.storage, target.functions, target.snippets)
        by_device = {os.stat(path).st_dev: path for path in every if path is not None}
        for path in by_device.values():
            sync_filesystem(path)

    def _service(self, stack: Stack) -> Dict[str, Any]:
        """Return the resolved Compose service of an instance's database. Raises Refused, ComposeFailed."""
        try:
            services = self._compose.config(stack.compose).get("services") or {}
        except ComposeFailed as error:
            raise ComposeFailed(redact(str(error), stack.confidential)) from None
        if "db" not in services:
            raise Refused("instance {0} has no database of its own".format(stack.name))
        return dict(services["db"])

    @staticmethod
    def _room(backup: _catalogue.Backup, target: Target) -> None:
        """Refuse what would not leave the live server room to write. Raises NoSpace."""
        there = os.statvfs(target.data)
        free = there.f_bavail * there.f_frsize
        raw = int(backup.manifest.get("raw_bytes") or 0)
        # The log of what is loaded, what building an index sorts, and files that are unpacked.
        needed = raw + min(raw, _MAXIMUM_LOG) + raw // 4 + (64 << 20)
        for part, place in (("storage", target.storage), ("functions", target.functions)):
            if place is not None and part in backup.manifest["archives"]:
                needed += int(backup.manifest["archives"][part]["bytes"])
        kept_free = there.f_blocks * there.f_frsize // 50
        if free < needed + kept_free:
            raise NoSpace(
                "{0} has {1} MB free; materialising backup {2} takes about {3} MB, and {4} MB stay free".format(
                    target.data, free >> 20, backup.stem, needed >> 20, kept_free >> 20
                )
            )

    def _prepare_custom(self, backup: _catalogue.Backup, target: Target, image: str) -> None:
        """Fill the directory of the server's own configuration where the backup does not; give it its owner."""
        fill = not _brings_configuration(backup)
        if fill and os.path.isdir(target.live_custom) and os.listdir(target.live_custom):
            command = ["cp", "--archive", target.live_custom + "/.", target.custom]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode != 0:
                raise NoSpace("copying {0} failed: {1}".format(target.live_custom, done.stderr.strip()))
            fill = False
        content = self._engine.directory_of_image(image, CUSTOM_TARGET)
        if content is None:
            return
        top = os.path.basename(CUSTOM_TARGET)
        with tarfile.open(fileobj=io.BytesIO(content)) as archive:
            about = archive.next()
        if about is not None:
            os.chown(target.custom, about.uid, about.gid)
            os.chmod(target.custom, about.mode & 0o777)
        if fill:
            _archive.unpack(io.BytesIO(gzip.compress(content)), {top: target.custom}, CUSTOM_TARGET + " of the image")

    def _unpack(self, backup: _catalogue.Backup, target: Target, outcome: Outcome) -> None:
        places: Dict[str, Dict[str, Optional[str]]] = {
            "storage": {"storage": target.storage},
            "functions": {"functions": target.functions, "snippets": target.snippets},
            "config": {"volumes/db/custom": target.custom},
        }
        for part, prefixes in places.items():
            if not backup.has(part):
                continue
            self._say("unpacking {0}".format(part))
            wanted = {prefix: path for prefix, path in prefixes.items() if path is not None}
            if part == "config" and not _brings_configuration(backup):
                wanted = {"volumes/db/custom/" + _KEY_FILE: os.path.join(target.custom, _INCOMING_KEY)}
            path = backup.path(part)
            with open(path, "rb") as stream:
                found = _archive.unpack(stream, wanted, os.path.basename(path))
            if found.as_dict() != backup.manifest["archives"][part]:
                outcome.differences.append("{0} holds other files than when it was written".format(part))
            outcome.evidence[part] = found.files
        if backup.has("config") and not _brings_configuration(backup):
            take_key(target.custom)
            outcome.notes.append(
                "this host did not sign the backup: of the configuration in it only the Vault root key was taken"
            )
        key = os.path.join(target.custom, _KEY_FILE)
        expected = backup.manifest.get("vault_key_sha256")
        if expected and (not os.path.exists(key) or _catalogue.file_sha256(key) != expected):
            if backup.has("config"):
                outcome.differences.append("the Vault root key is not the one that was backed up")
            else:
                outcome.notes.append(
                    "the backup holds no Vault root key and the instance has another: secrets in Vault cannot be read"
                )

    @contextlib.contextmanager
    def _server(self, target: Target, backup: _catalogue.Backup, service: Mapping[str, Any]) -> Iterator[Server]:
        """Run a scratch container on the directories of ``target``; it is gone afterwards."""
        discard_scratch(self._engine, target.stack.name)
        self._say("starting a scratch server")
        try:
            container = self._engine.create_isolated(*scratch_options(service, target, self._memory))
        except EngineUnavailable as error:
            raise VerificationFailed(redact(str(error), target.stack.confidential)) from None
        try:
            server = Server(container, self._docker_host, "materialise " + backup.stem)
            self._wait(server, target)
            yield server
            self._engine.stop(container, _STOP_SECONDS)
            if os.path.exists(os.path.join(target.data, "postmaster.pid")):
                raise DatabaseFailed("the scratch server did not end cleanly within {0} s".format(_STOP_SECONDS))
        except DatabaseFailed as error:
            state = self._engine.state(container)
            printed = (
                ""
                if state == "running"
                else "; the scratch server is {0}, it last printed: {1}".format(
                    state, " / ".join(self._engine.logs(container, 5).splitlines())
                )
            )
            told = redact(str(error) + printed, target.stack.confidential)
            there = os.statvfs(target.data)
            if there.f_bavail * there.f_frsize < _SEGMENT:
                raise NoSpace("{0} has no room left; the server said: {1}".format(target.data, told)) from None
            raise VerificationFailed(told) from None
        finally:
            self._engine.remove(container)

    def _wait(self, server: Server, target: Target) -> None:
        """Wait until the cluster is made and the server listens; its temporary first one does not on TCP."""
        deadline = time.monotonic() + _START_SECONDS
        while True:
            try:
                server.script("postgres", "SELECT 1;\n", 20)
                return
            except DatabaseFailed as error:
                state = self._engine.state(server.container)
                if state != "running" or time.monotonic() > deadline:
                    raise DatabaseFailed("the scratch server did not start: {0}".format(error)) from None
            time.sleep(_POLL_SECONDS)

    def _load_all(
        self,
        backup: _catalogue.Backup,
        server: Server,
        target: Target,
        passwords: Mapping[str, str],
        outcome: Outcome,
    ) -> None:
        if not backup.signed and not self._restricting(server):
            raise Refused(
                "the database image's psql cannot be kept from running programs that a dump names, so a backup that "
                "this host did not sign is not loaded with it"
            )
        if not backup.signed and backup.manifest["format"] == "custom":
            # All of them before any is loaded.
            for database in backup.manifest["databases"]:
                self._say("looking into the dump of database {0}".format(database))
                self._scan_custom(server, backup.path(part_of(database)))
        self._say("creating roles")
        with gzip.open(backup.path("globals"), "rb") as stream:
            text = stream.read().decode("utf-8")
        # What is there already is there; what is missing afterwards is found by comparing.
        # The image may have given its roles more than they had when the backup was made: a dump takes nothing away.
        server.script("postgres", _RESET_ROLES, 300)
        server.script("postgres", restricted(without_passwords(text)), self._timeout, stop_at_errors=False)
        for database, about in backup.manifest["databases"].items():
            self._say("loading database {0}".format(database))
            demoted = about["demoted_owners"]
            create = _database.superuser_sql(demoted, True) + _database.create_sql(database, about["create"])
            server.script("template1", create, 300)
            part = part_of(database)
            if backup.manifest["format"] == "custom" and backup.signed:
                self._load_custom(server, database, backup.path(part))
            elif backup.manifest["format"] == "custom":
                self._load_as_text(server, database, backup.path(part))
            else:
                self._load_plain(server, database, backup.path(part))
            if backup.has("extensions of " + part):
                self._load_plain(server, database, backup.path("extensions of " + part))
            server.script(database, _fingerprint.extension_owners_sql(about["fingerprint"]["extensions"]), 300)
            server.script(database, _fingerprint.extension_functions_sql(about["extension_functions"]), 300)
            after = _database.superuser_sql(demoted, False) + _database.rights_sql(database, about["create"])
            after += _fingerprint.settings_sql(database, about["fingerprint"]["settings"])
            server.script("template1", after, 300)
            outcome.notes += self._refresh(server, database, about["materialised_views"])
            outcome.notes += [
                "{0}: subscription {1} is disabled; enable it if its publisher is right".format(database, name)
                for name in about["subscriptions"]
            ]
            server.script(database, "ANALYZE;\n", self._timeout)
        if passwords:
            existing = set(server.json("postgres", "SELECT json_agg(rolname) FROM pg_roles"))
            server.script(
                "postgres",
                "".join(
                    password_sql(role, verifier) for role, verifier in sorted(passwords.items()) if role in existing
                ),
            )

    def _refresh(self, server: Server, database: str, views: Sequence[Sequence[str]]) -> List[str]:
        """Fill materialised views, each as soon as those that it reads are; return notes on those that cannot be.

        One may read a foreign table, which is out of reach here.
        """
        left, reasons = [tuple(view) for view in views], {}
        while left:
            again = []
            for view in left:
                name = ".".join(quote_identifier(word) for word in view)
                try:
                    server.script(database, "REFRESH MATERIALIZED VIEW {0};\n".format(name), self._timeout)
                except DatabaseFailed as error:
                    reasons[view] = str(error)
                    again.append(view)
            if len(again) == len(left):
                break
            left = again
        return [
            "{0}: materialised view {1} is empty, refresh it: {2}".format(database, ".".join(view), reasons[view])
            for view in left
        ]

    def _load_plain(self, server: Server, database: str, path: str) -> None:
        """Load a gzipped SQL file in one transaction; a line of ours before it keeps psql from running programs."""
        command = _LOAD_PLAIN.format(
            guard="\\restrict " + secrets.token_hex(16) if self._restricting(server) else "--",
            key=own_key(path),
            head=_HEAD_LINES,
            psql=" ".join(Server.psql(database)),
        )
        self._load(server, ["bash", "-c", command], path)

    @staticmethod
    def _restricting(server: Server) -> bool:
        """Whether the psql of the image can be kept from running meta commands (since 17.6, 16.10 and 15.14)."""
        process = server.popen(["psql", "--help=commands"], subprocess.DEVNULL, subprocess.PIPE)
        try:
            output, _errors = process.communicate(timeout=30)
        except subprocess.TimeoutExpired:
            raise DatabaseFailed("psql did not answer within 30 s") from None
        finally:
            end(process)
        return process.returncode == 0 and b"\\restrict" in output

    def _load_custom(self, server: Server, database: str, path: str) -> None:
        command = ["pg_restore", "-h", "127.0.0.1", "-U", SUPERUSER, "-d", database, "--exit-on-error",
                   "--single-transaction"]  # fmt: skip
        self._load(server, command, path)

    def _load_as_text(self, server: Server, database: str, path: str) -> None:
        """Load a dump in pg_restore's format as the text that was looked into, and as a plain one is loaded.

        Left to itself, pg_restore sends each entry of its list as it stands; one that begins a COPY would hide those
        that follow from whoever reads the text.
        """
        command = _LOAD_AS_TEXT.format(
            guard="\\restrict " + secrets.token_hex(16),
            key=secrets.token_hex(16),
            head=_HEAD_LINES,
            psql=" ".join(Server.psql(database)),
        )
        self._load(server, ["bash", "-c", command], path)

    def _scan_custom(self, server: Server, path: str) -> None:
        """Look into a dump in pg_restore's format, as ``scan`` does; it is taken apart in the scratch container.

        Raises Refused naming the line of the text that it is, DatabaseFailed when it is no such dump.
        """
        name = os.path.basename(path)
        with open(path, "rb") as source, tempfile.TemporaryFile() as errors:
            process = server.popen(["pg_restore", "-f", "-"], source.fileno(), subprocess.PIPE, errors)
            late = threading.Timer(self._timeout, process.kill)
            late.start()
            try:
                # To the end of what it prints, or it would wait for us.
                _scan(iter(cast(Any, process.stdout).readline, b""), name)
                code = process.wait()
            finally:
                late.cancel()
                end(process)
            if code != 0:
                raise DatabaseFailed("looking into {0}: {1}".format(name, _database.last_words(errors)))

    def _load(self, server: Server, command: Sequence[str], path: str) -> None:
        with open(path, "rb") as source, tempfile.TemporaryFile() as errors:
            process = server.popen(command, source.fileno(), subprocess.DEVNULL, errors)
            try:
                code = process.wait(timeout=self._timeout)
            except subprocess.TimeoutExpired:
                raise DatabaseFailed("loading did not end within {0:.0f} s".format(self._timeout)) from None
            finally:
                end(process)
            if code != 0:
                raise DatabaseFailed("loading {0}: {1}".format(os.path.basename(path), _database.last_words(errors)))

    def _compare(self, backup: _catalogue.Backup, server: Server, outcome: Outcome) -> None:
        tables = rows = 0
        for database in backup.manifest["databases"]:
            self._say("comparing database {0} with the manifest".format(database))
            expected = backup.manifest["databases"][database]["fingerprint"]
            with server.session(database) as session:
                session.ask(_database.FIXED_SETTINGS)
                found = {**_fingerprint.take(session.json), "sequences": session.json(_fingerprint.SEQUENCES)}
            said = _fingerprint.differences(expected, found)
            outcome.differences += ["{0}: {1}".format(database, text) for text in said]
            outcome.notes += [
                "{0}: extension {1} is version {2}, it was {3}".format(
                    database, name, found["extensions"][name][0], at[0]
                )
                for name, at in sorted(expected["extensions"].items())
                if name in found["extensions"] and found["extensions"][name][0] != at[0]
            ]
            tables += len(found["tables"])
            rows += sum(int(counted[0]) for counted in found["tables"].values())
        outcome.differences += _fingerprint.role_differences(
            backup.manifest["roles"], server.json("postgres", _fingerprint.ROLES)
        )
        outcome.evidence.update(tables=tables, rows=rows, databases=sorted(backup.manifest["databases"]))


def _brings_configuration(backup: _catalogue.Backup) -> bool:
    """Whether the server's own configuration comes from the backup.

    One setting in it, as ``archive_command``, runs programs in the live container: it is believed only when this host
    signed it.
    """
    return backup.signed and backup.has("config")


def take_key(custom: str) -> None:
    """Put the Vault root key of an unsigned backup in place: its digits and nothing else, with our owner and mode.

    Raises IntegrityFailed when what the backup has under this name is no such key.
    """
    incoming, key = os.path.join(custom, _INCOMING_KEY), os.path.join(custom, _KEY_FILE)
    if not os.path.lexists(incoming):
        return
    with open(incoming, "rb") as stream:
        digits = stream.read(65)
    os.unlink(incoming)
    if not _KEY.match(digits):
        raise IntegrityFailed(
            "the Vault root key in the backup is not 64 hexadecimal digits; nothing was taken from the backup"
        )
    owner, mode = os.stat(custom), 0o600
    if os.path.lexists(key):
        owner = os.lstat(key)
        mode = owner.st_mode & 0o777
        os.unlink(key)
    write_new(key, digits, mode)
    os.chown(key, owner.st_uid, owner.st_gid)


def scratch_options(
    service: Mapping[str, Any], target: Target, memory_bytes: int
) -> Tuple[Dict[str, Any], Dict[str, Any]]:
    """Return what the scratch container is created with, from the resolved Compose service of the database.

    Only what creates a cluster is mounted, read-only, beside the two directories of the target.
    """
    mounts = [_mount(target.data, DATA_TARGET, False), _mount(target.custom, CUSTOM_TARGET, False)]
    for mount in service.get("volumes") or []:
        if mount.get("type") == "bind" and mount["target"] not in (DATA_TARGET, CUSTOM_TARGET):
            mounts.append(_mount(mount["source"], mount["target"], True))
    # Compose writes a dollar sign twice.
    command = [str(word).replace("$$", "$") for word in service.get("command") or ["postgres"]]
    for setting in _SETTINGS:
        command += ["-c", setting]
    options = {
        "image": service["image"],
        "command": command,
        "environment": {
            name: str(value).replace("$$", "$")
            for name, value in (service.get("environment") or {}).items()
            if value is not None
        },
        "labels": {SCRATCH_LABEL: target.stack.name},
        "stop_signal": "SIGINT",
        "stop_timeout": _STOP_SECONDS,
    }
    host_options: Dict[str, Any] = {
        "mounts": mounts,
        "security_opt": ["no-new-privileges:true"],
        "pids_limit": 512,
        "shm_size": 256 << 20,
        "log_config": {"type": "json-file", "config": {"max-size": "10m", "max-file": "1"}},
    }
    memory = memory_bytes or int(service.get("mem_limit") or 0)
    if memory:
        host_options["mem_limit"] = max(memory, 256 << 20)
    return options, host_options


def _mount(source: str, inside: str, read_only: bool) -> Dict[str, Any]:
    return {"Type": "bind", "Source": source, "Target": inside, "ReadOnly": read_only}


def without_passwords(globals_sql: str) -> str:
    """Return the text of ``pg_dumpall --globals-only`` without passwords, and without meta commands."""
    lines = []
    for line in globals_sql.split("\n"):
        if line.startswith("\\"):
            continue
        lines.append(_PASSWORD.sub(r"\1", line))
    return "\n".join(lines)


def password_sql(role: str, verifier: str) -> str:
    """Return the statement that gives a role a password by its verifier."""
    return "ALTER ROLE {0} PASSWORD {1};\n".format(quote_identifier(role), quote_literal(verifier))


def restricted(sql: str) -> str:
    """Return SQL for psql before which a line keeps it from running meta commands, as ``\\!`` is one."""
    return "\\restrict {0}\n{1}".format(secrets.token_hex(16), sql)


def own_key(path: str) -> str:
    """Return the key with which a plain dump restricts psql, or a random one for a dump that does not."""
    try:
        with gzip.open(path, "rb") as stream:
            for _number in range(_HEAD_LINES):
                found = _OWN_KEY.match(stream.readline(200))
                if found:
                    return found.group(1).decode("ascii")
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise IntegrityFailed("{0} is damaged: {1}".format(os.path.basename(path), error)) from error
    return secrets.token_hex(32)


def scan(path: str) -> None:
    """Read a plain dump of unknown origin for what runs programs, reads files or changes the server.

    Raises Refused naming the line. It is one defence of three: what it cannot see, as SQL that a function puts
    together, runs in a container without a network that reaches nothing but the new data, under a psql that runs no
    programs.
    """
    with gzip.open(path, "rb") as stream:
        try:
            _scan(stream, os.path.basename(path))
        except (EOFError, gzip.BadGzipFile, zlib.error) as error:
            raise IntegrityFailed("{0} is damaged: {1}".format(os.path.basename(path), error)) from error


def _scan(lines: Iterable[bytes], name: str) -> None:
    scanner = Scanner()
    statement: List[bytes] = []
    first = 0
    for number, line in enumerate(lines, 1):
        row, begins = scanner.copying, scanner.resting
        scanner.read(line)
        if row:
            continue
        if begins and not statement:
            first = number
        if scanner.command and not _OWN_COMMAND.match(line):
            raise Refused(_REFUSAL.format(name, number, _shown(line)))
        statement.append(line)
        if scanner.resting:
            _check_statement(b"".join(statement), name, first)
            statement = []
    _check_statement(b"".join(statement), name, first)
    if scanner.copying or not scanner.resting:
        raise Refused("{0} ends in the middle of a statement".format(name))


_REFUSAL = "{0}, line {1}: {2!r} runs programs, reads files or changes the server"


def _check_statement(statement: bytes, name: str, number: int) -> None:
    """Refuse a statement that is hostile as it stands, or once its comments are out; those may stand in a text."""
    for text in (statement, _COMMENTS.sub(b" ", statement)):
        found = _HOSTILE.search(_BLANKS.sub(b" ", text))
        if found:
            raise Refused(_REFUSAL.format(name, number, _shown(found.group())))


def _shown(text: bytes) -> str:
    return text[:120].decode("utf-8", "replace").strip()


def saved_passwords(backup: _catalogue.Backup) -> Dict[str, str]:
    """Return the verifiers of roles that a backup holds; a copy that was not encrypted holds none."""
    found: Dict[str, str] = {}
    if not backup.has("passwords"):
        return found
    with gzip.open(backup.path("passwords"), "rt", encoding="utf-8") as stream:
        for line in stream:
            match = _ROLE_PASSWORD.match(line)
            if match:
                role = match.group(1).replace('""', '"') if match.group(1) is not None else match.group(2)
                found[role] = match.group(3).replace("''", "'")
    return found
