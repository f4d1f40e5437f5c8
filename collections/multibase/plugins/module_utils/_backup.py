# SPDX-License-Identifier: GPL-3.0-or-later
# This file is private to the multibase.supabase collection; it may change at any time.
"""Taking a backup of an instance, and restoring it once to know that it is one.

Dumps stream from the database container to the target filesystem, compressed inside it (what `docker exec` passes on is
the bottleneck otherwise), hashed on the way, in constant memory. Rows are counted and hashed in the snapshot of the
dump while it runs. The database comes first and the files after it: Storage writes a file before its row.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import re
import select
import shlex
import subprocess
import tempfile
import threading
import time
from dataclasses import dataclass, field
from io import BufferedReader
from typing import IO, Any, Callable, Dict, Iterator, List, Mapping, Tuple, cast

from . import _archive, _catalogue, _database, _fingerprint, _lock, _materialise, _registry, _restore_journal
from ._compose import Compose
from ._database import SUPERUSER, DatabaseFailed, Server, end
from ._engine import Container, Engine
from ._errors import BackupFailed, DatabaseDown, MultibaseError, NoSpace, Refused, VerificationFailed
from ._layout import ENV_FILE, ENVIRONMENT_DIRECTORY, MANIFEST_FILE, OVERRIDE_FILE, Layout
from ._stacks import Stack, load_stack, redact

_CHUNK = 1 << 18
# Hashes of passwords are a file of their own: it leaves the host only encrypted, roles may go anywhere.
_PASSWORDS = (
    "SELECT format($$ALTER ROLE %I PASSWORD %L;$$, rolname, rolpassword) FROM pg_catalog.pg_authid "
    "WHERE rolpassword IS NOT NULL ORDER BY rolname"
)
_PROBE_SECONDS = 30.0
# On the filesystem of the data, so that verifying finds out whether a restore would have room.
_WORK_PREFIX = ".verify-"
_PLAIN_NAME = re.compile(r"[A-Za-z0-9_]{1,63}\Z")
_LOCK_WAIT = "60s"
# The name of each format's file, and the programs that make it.
FORMATS = {
    "plain": (".sql.gz", "set -o pipefail; timeout {timeout} {dump} | gzip -{level}"),
    "custom": (".dump", "exec timeout {timeout} {dump} --format=custom --compress=zstd:{level}"),
}
# gzip at 5 takes a quarter less processor time than at its own default, 6, and makes files that are 0.6 % larger
# (measured on rows of text, numbers and JSON); it is what a backup waits for. zstd at its own default.
_LEVELS = {"plain": 5, "custom": 3}
# What stays free on the filesystem of backups, which may be that of the live databases: a server without room stops.
_RESERVE = 50  # one of so many parts
_ROOM_STEP = 1 << 20
# The status of a backup that is good as far as it goes.
INCOMPLETE = 3
# Ours is overlays/s3.yml, upstream's docker-compose.s3.yml.
_S3_FILE = re.compile(r"(?:.*[/.])?s3\.ya?ml\Z")
_STALL_SECONDS = 30.0
# Beyond the limit that holds in the container, which stands still while that is paused.
_GRACE_SECONDS = 120.0


@dataclass(frozen=True)
class Options:
    """How a backup is made. Times in seconds; ``timeout`` holds for one dump, and for loading one."""

    scope: str = "full"
    format: str = "plain"
    level: int = 0
    verify: bool = True
    timeout: float = 4 * 3600.0
    lock_timeout: float = 60.0
    pinned: bool = False


@dataclass
class Taken:
    """What came of one backup."""

    name: str
    stem: str = ""
    size: int = 0
    verified: bool = False
    seconds: float = 0.0
    verify_seconds: float = 0.0
    notes: List[str] = field(default_factory=list)
    directory: str = ""
    pruned: List[str] = field(default_factory=list)
    copied: List[str] = field(default_factory=list)
    exit_code: int = 0
    reason: str = ""

    def as_dict(self) -> Dict[str, Any]:
        """Return what a module returns of it."""
        return {
            "name": self.name,
            "stem": self.stem,
            "size": self.size,
            "verified": self.verified,
            "seconds": round(self.seconds, 1),
            "verify_seconds": round(self.verify_seconds, 1),
            "notes": self.notes,
            "directory": self.directory,
            "pruned": self.pruned,
            "copied": self.copied,
            "exit_code": self.exit_code,
        }


def find_database(engine: Engine, stack: Stack) -> Container:
    """Return the running database container of an instance. Raises DatabaseDown saying what it is instead."""
    if "db" not in stack.services:
        raise Refused("instance {0} has no database of its own: back it up where it is".format(stack.name))
    found = [container for container in engine.containers(stack.project) if container.service == "db"]
    if not found:
        raise DatabaseDown("instance {0} has no database container; start it first".format(stack.name))
    if found[0].state != "running":
        raise DatabaseDown(
            "the database container of instance {0} is {1}; start the instance first".format(stack.name, found[0].state)
        )
    return found[0]


def probe(server: Server) -> None:
    """Ask the server for an answer. Raises DatabaseDown when none comes, or when it is still recovering."""
    try:
        recovering = server.script("postgres", "SELECT pg_is_in_recovery();\n", _PROBE_SECONDS).strip()
    except DatabaseFailed as error:
        raise DatabaseDown("the database does not answer: {0}".format(error)) from None
    if recovering != "f":
        raise DatabaseDown("the database is in recovery; try again when it accepts writes")


@contextlib.contextmanager
def staged(path: str) -> Iterator[IO[bytes]]:
    """Write a new file that only root reads; it is synced at the end. The caller gives it its final name."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    with open(descriptor, "wb") as stream:
        yield stream
        stream.flush()
        os.fsync(descriptor)


def storage_backend(variables: Mapping[str, str]) -> str:
    """Return where the objects of Storage lie, ``file`` or ``s3``, by the variables of an instance's ``.env``."""
    files = str(variables.get("COMPOSE_FILE") or "").split(variables.get("COMPOSE_PATH_SEPARATOR") or ":")
    s3 = variables.get("STORAGE_BACKEND") == "s3" or any(_S3_FILE.match(file) for file in files)
    return "s3" if s3 else "file"


def free_and_reserve(place: Any) -> Tuple[int, int]:
    """Return the bytes that are free on the filesystem of a path or an open file, and how many have to stay free."""
    there = os.statvfs(place)
    return there.f_bavail * there.f_frsize, there.f_blocks * there.f_frsize // _RESERVE


def check_room(directory: str, needed: int, what: str) -> None:
    """Raise NoSpace unless there is room for ``needed`` bytes beside what stays free."""
    free, reserve = free_and_reserve(directory)
    if free < needed + reserve:
        raise NoSpace(
            "{0} has {1} MB free; a backup takes about {2} MB ({3}), and {4} MB stay free. Free some space, or let "
            "retention keep less".format(directory, free >> 20, needed >> 20, what, reserve >> 20)
        )


class _HashingWriter:
    """A file that is written while its content is hashed. Raises NoSpace when there is too little room for more."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream
        self.hash = hashlib.sha256()
        self.size = 0
        self._looked = 0

    def write(self, data: bytes) -> int:
        if not self.size or self.size - self._looked >= _ROOM_STEP:
            self._looked = self.size
            free, reserve = free_and_reserve(self._stream.fileno())
            if free < reserve:
                raise NoSpace(
                    "the disk of the backups has {0} MB free, and {1} MB stay free for what else uses it: nothing was "
                    "published. Free some space, or let retention keep less".format(free >> 20, reserve >> 20)
                )
        self._stream.write(data)
        self.hash.update(data)
        self.size += len(data)
        return len(data)

    def flush(self) -> None:
        self._stream.flush()


class BackupRun:
    """Takes backups on one host. ``progress`` is told what is done."""

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

    def take(self, name: str) -> Taken:
        """Back one instance up and, unless told otherwise, restore it once. Raises a MultibaseError."""
        self._layout.known(name)
        with _lock.exclusive(self._layout.data_lock(name), self._options.lock_timeout):
            stack = load_stack(self._layout, name)
            try:
                return self._take(stack)
            except OSError as error:
                if error.errno in (errno.ENOSPC, errno.EDQUOT):
                    raise NoSpace("no room on the disk for a backup of {0}: {1}".format(name, error)) from error
                raise
            except MultibaseError as error:
                raise type(error)(redact(str(error), stack.confidential)) from None

    def _take(self, stack: Stack) -> Taken:
        name = stack.name
        taken = Taken(name)
        started = time.monotonic()
        pending = _restore_journal.pending(self._layout, name)
        journal = _restore_journal.read(self._layout, name)
        if journal is not None and pending == "building":
            # Nothing that is in use was touched yet. Its scratch container goes first: it may be writing there still.
            discard_left_over(self._layout, self._engine, name)
            _restore_journal.undone(self._layout, journal)
        elif pending:
            raise Refused(
                "a restore of instance {0} was interrupted ({1}); finish or undo it first: multibase restore {0} "
                "--recover".format(name, pending)
            )
        directory = self._layout.backups(name)
        os.makedirs(os.path.dirname(directory), mode=0o700, exist_ok=True)
        os.makedirs(directory, mode=0o700, exist_ok=True)
        _catalogue.recover(directory)
        discard_left_over(self._layout, self._engine, name)
        container = find_database(self._engine, stack)
        stem = _catalogue.make_stem(self._clock())
        server = Server(container.id, self._docker_host, "backup " + stem)
        probe(server)
        _database.end_left_over_sessions(server)
        taken.stem, taken.directory = stem, directory
        made: List[str] = []
        try:
            manifest = self._make(stack, server, container, directory, stem, made)
            manifest["durations"]["backup"] = round(time.monotonic() - started, 1)
            self._say("publishing backup {0}".format(stem))
            _catalogue.publish(self._layout, directory, manifest)
        except BaseException:
            if os.path.lexists(os.path.join(directory, stem + _catalogue.MANIFEST + _catalogue.PARTIAL)):
                # Some parts may have their names already: whole, it is finished, else nothing of it stays.
                _catalogue.recover(directory)
            for path in made:
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(path)
            raise
        self._tell_of_storage(manifest, taken)
        backup = _catalogue.read(self._layout, directory, stem)
        taken.size = backup.size
        taken.seconds = time.monotonic() - started
        if self._options.verify:
            outcome = verify(self._layout, self._engine, self._compose, self._docker_host, stack, backup,
                             self._options.timeout, self._say, self._clock)  # fmt: skip
            taken.verified = True
            taken.notes += outcome.notes
            taken.verify_seconds = time.monotonic() - started - taken.seconds
        return taken

    @staticmethod
    def _tell_of_storage(manifest: Mapping[str, Any], taken: Taken) -> None:
        """Compare the objects that rows tell of, in the snapshot of the dump, with the files that were packed."""
        storage = manifest.get("storage") or {}
        objects = int(storage.get("objects") or 0)
        files = int((manifest["archives"].get("storage") or {}).get("files") or 0)
        if not objects:
            return
        if storage["backend"] != "file":
            taken.notes.append(
                "{0} objects of Storage lie in {1} and are not part of this backup; keep versions there, or copies of "
                "the bucket".format(objects, storage["backend"].upper())
            )
        elif manifest["scope"] == "full" and not files:
            taken.exit_code = INCOMPLETE
            taken.reason = (
                "the database lists {0} objects of Storage and its directory, volumes/storage, holds no file: the "
                "backup has none of them. Look where the files went".format(objects)
            )
            taken.notes.append(taken.reason)
        elif manifest["scope"] == "full" and files < objects:
            taken.notes.append(
                "the database lists {0} objects of Storage and there are {1} files: some were deleted while the backup "
                "was taken, or are missing".format(objects, files)
            )

    def _make(
        self, stack: Stack, server: Server, container: Container, directory: str, stem: str, made: List[str]
    ) -> Dict[str, Any]:
        options = self._options
        manifest: Dict[str, Any] = {
            "schema": _catalogue.SCHEMA,
            "instance": stack.name,
            "project": stack.project,
            "stem": stem,
            "created": _iso(self._clock()),
            "scope": options.scope,
            "format": options.format,
            "release": str(_registry.read_manifest(self._layout, stack.name)["release"]),
            "image": container.image,
            "image_id": container.image_id,
            "parts": {},
            "databases": {},
            "archives": {},
            "durations": {},
            "pinned": options.pinned,
            "verified": None,
        }
        # One session for all questions: starting a program in the container takes longer than most answers.
        with server.session("postgres", options.timeout) as session:
            session.ask(_database.FIXED_SETTINGS)
            manifest["server_version"] = session.ask("SHOW server_version;")[0]
            manifest["server_version_num"] = int(session.ask("SHOW server_version_num;")[0])
            manifest["roles"] = session.json(_fingerprint.ROLES)
            manifest["raw_bytes"] = int(session.ask("SELECT sum(pg_database_size(oid)) FROM pg_database;")[0])
            existing = session.json(
                "SELECT json_agg(datname) FROM pg_database WHERE datallowconn AND NOT datistemplate"
            )
        check_room(directory, *self._expected(manifest))
        odd = [database for database in existing if not _PLAIN_NAME.match(database)]
        if odd:
            raise Refused("the name of database {0} cannot be part of a file's name; rename it".format(", ".join(odd)))
        for database in sorted(existing, key=lambda name: (name != "postgres", name)):
            # The user's own databases are data as well.
            own = database not in _materialise.DATABASES
            base = stem if database == "postgres" else "{0}.{1}{2}".format(stem, "db-" if own else "", database)
            started = time.monotonic()
            self._say("dumping database {0}".format(database))
            about, parts = self._dump(server, database, os.path.join(directory, base), made)
            manifest["databases"][database] = about
            for path, part in parts.items():
                manifest["parts"][os.path.basename(path)] = {"secret": False, **part}
            manifest["durations"]["dump " + database] = round(time.monotonic() - started, 1)
        self._say("saving roles")
        for name, secret, command in (
            ("globals", False, "pg_dumpall -h 127.0.0.1 -U {0} --globals-only --no-role-passwords".format(SUPERUSER)),
            ("passwords", True, "{0} -c '{1}'".format(" ".join(Server.psql("postgres")), _PASSWORDS)),
        ):
            base = "{0}.{1}.sql.gz".format(stem, name)
            line = ["bash", "-c", "set -o pipefail; {0} | gzip".format(command)]
            part = self._stream(server, line, os.path.join(directory, base), made, name)
            manifest["parts"][base] = {"part": name, "secret": secret, **part}
        counted = manifest["databases"].get("postgres", {}).get("fingerprint", {}).get("tables", {})
        if "storage.objects" in counted:
            objects = int(counted["storage.objects"][0])
            manifest["storage"] = {"backend": storage_backend(stack.variables), "objects": objects}
        key = os.path.join(self._layout.project(stack.name), "volumes", "db", "custom", "pgsodium_root.key")
        manifest["vault_key_sha256"] = _catalogue.file_sha256(key) if os.path.isfile(key) else None
        if options.scope == "full":
            self._archives(stack, directory, manifest, made)
        return manifest

    def _expected(self, manifest: Mapping[str, Any]) -> Tuple[int, str]:
        """Return how many bytes a backup will take, and where that is known from."""
        for backup in reversed(_catalogue.listing(self._layout, manifest["instance"])):
            if all(backup.manifest.get(key) == manifest[key] for key in ("scope", "format")):
                return backup.size, "as the last one"
        return int(manifest["raw_bytes"]) // 2, "half of the databases' size"

    def _dump(
        self, server: Server, database: str, base: str, made: List[str]
    ) -> Tuple[Dict[str, Any], Dict[str, Dict[str, Any]]]:
        """Dump one database and take its fingerprint in the same snapshot, side by side.

        Returns what the manifest says of it, and the parts that were made, by the paths that they will have.
        """
        label = _materialise.part_of(database)
        with server.session(database, self._options.timeout) as session:
            session.ask("SET lock_timeout = '{0}';".format(_LOCK_WAIT))
            session.ask(_database.FIXED_SETTINGS + "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY;")
            snapshot = session.ask("SELECT pg_export_snapshot();")[0]
            if not all(character in "0123456789ABCDEF-" for character in snapshot):
                raise BackupFailed("the server gave no snapshot")
            about: Dict[str, Any] = {
                "create": _database.describe(session, database),
                "demoted_owners": _database.demoted_owners(session),
                "extension_functions": session.json(_fingerprint.EXTENSION_FUNCTIONS),
                "materialised_views": session.json(_fingerprint.MATERIALISED_VIEWS),
                "subscriptions": session.json(_fingerprint.SUBSCRIPTIONS),
            }
            sequences = session.json(_fingerprint.SEQUENCES)
            tables = _fingerprint.tables(session.json)
            fingerprint: Dict[str, Any] = {}
            failure: List[BaseException] = []

            def count() -> None:
                try:
                    fingerprint.update(_fingerprint.take(session.json))
                except BaseException as error:  # told by the thread that waits
                    failure.append(error)

            counting = threading.Thread(target=count, name="fingerprint of " + database, daemon=True)
            counting.start()
            suffix, template = FORMATS[self._options.format]
            line = template.format(
                timeout=int(self._options.timeout),
                dump=self._dump_command(database, snapshot, about["materialised_views"]),
                level=self._options.level or _LEVELS[self._options.format],
            )
            try:
                part = self._stream(
                    server, ["bash", "-c", line], base + suffix, made, "pg_dump of {0}".format(database)
                )
            except BackupFailed:
                # When the session that holds the snapshot ended, that is the reason, and pg_dump only suffered from it.
                if not failure:
                    raise
            counting.join()
            if failure:
                raise BackupFailed("counting the rows of {0} failed: {1}".format(database, failure[0]))
            parts = {base + suffix: {"part": label, **part}}
            about["fingerprint"] = {**fingerprint, "sequences": sequences}
            left_out = [table for table in tables if table.left_out and fingerprint["tables"][table.key][0]]
            if left_out:
                path = base + ".extensions.sql.gz"
                script = _fingerprint.copy_script(session.json, left_out, snapshot)
                command = "set -o pipefail; {0} | gzip".format(" ".join(Server.psql(database)))
                what = "rows of extensions in {0}".format(database)
                part = self._stream(server, ["bash", "-c", command], path, made, what, script)
                parts[path] = {"part": "extensions of " + label, **part}
        return about, parts

    @staticmethod
    def _dump_command(database: str, snapshot: str, materialised_views: List[List[str]]) -> str:
        """Return the command of pg_dump for a shell. Materialised views are refreshed once the rest is there."""
        excluded = [*_fingerprint.EXCLUDED_DATA, *(tuple(view) for view in materialised_views)]
        patterns = [".".join(_database.quote_identifier(word) for word in names) for names in excluded]
        return (
            "pg_dump -h 127.0.0.1 -U {0} -d {1} --snapshot={2} --lock-wait-timeout={3} --quote-all-identifiers{4}"
        ).format(
            SUPERUSER,
            database,
            snapshot,
            _LOCK_WAIT,
            "".join(" --exclude-table-data={0}".format(shlex.quote(pattern)) for pattern in patterns),
        )

    def _stream(
        self, server: Server, command: List[str], path: str, made: List[str], what: str, script: str = ""
    ) -> Dict[str, Any]:
        """Write what a command in the container prints to ``path`` + .partial; return its size and SHA-256.

        It reads ``script`` from its standard input.
        """
        made.append(path + _catalogue.PARTIAL)
        with contextlib.ExitStack() as open_files:
            errors = open_files.enter_context(tempfile.TemporaryFile())
            source = open_files.enter_context(tempfile.TemporaryFile())
            source.write(script.encode("utf-8"))
            source.seek(0)
            stream = open_files.enter_context(staged(path + _catalogue.PARTIAL))
            writer = _HashingWriter(stream)
            process = server.popen(command, source.fileno(), subprocess.PIPE, errors)
            output = cast(BufferedReader, process.stdout)
            try:
                for chunk in self._chunks(server, output, what):
                    writer.write(chunk)
                try:
                    code = process.wait(timeout=60)
                except subprocess.TimeoutExpired:
                    raise BackupFailed("{0} printed everything but did not end".format(what)) from None
            finally:
                end(process)
            if code != 0:
                # 124 is what GNU timeout says, 143 what busybox does.
                reason = "it took longer than it may" if code in (124, 143) else _database.last_words(errors)
                raise BackupFailed("{0} failed (exit status {1}): {2}".format(what, code, reason))
        return {"size": writer.size, "sha256": writer.hash.hexdigest()}

    def _chunks(self, server: Server, output: BufferedReader, what: str) -> Iterator[bytes]:
        """Yield what a command in the container prints. Raises BackupFailed, DatabaseDown when it hangs.

        In a container that is paused nothing ends, the timeout in it included, and this run holds the data's lock.
        """
        deadline = time.monotonic() + self._options.timeout + _GRACE_SECONDS
        while True:
            left = deadline - time.monotonic()
            if left <= 0:
                raise BackupFailed("{0} failed: it took longer than it may".format(what))
            if not select.select([output], [], [], min(left, _STALL_SECONDS))[0]:
                state = self._engine.state(server.container)
                if state != "running":
                    raise DatabaseDown("{0} stopped: the database container is {1}".format(what, state))
                continue
            chunk = output.read1(_CHUNK)
            if not chunk:
                return
            yield chunk

    def _archives(self, stack: Stack, directory: str, manifest: Dict[str, Any], made: List[str]) -> None:
        project = self._layout.project(stack.name)
        volumes = os.path.join(project, "volumes")
        configuration = [
            ENV_FILE, ENVIRONMENT_DIRECTORY, MANIFEST_FILE, OVERRIDE_FILE, "docker-compose.yml", "overlays",
            "volumes/db/custom", "volumes/api",
        ]  # fmt: skip
        parts = [
            ("storage", False, [("storage", os.path.join(volumes, "storage"))]),
            ("functions", False, [(name, os.path.join(volumes, name)) for name in ("functions", "snippets")]),
            (
                "config", True,
                [(name, os.path.join(project, name)) for name in configuration
                 if os.path.lexists(os.path.join(project, name))],
            ),
        ]  # fmt: skip
        sources_of_all = [path for _part, _secret, sources in parts for _prefix, path in sources]
        links = [path for path in sources_of_all if os.path.islink(path)]
        if links:
            raise Refused(
                "{0} is a link, and links are not followed: its data would be missing. Mount the data there".format(
                    ", ".join(links)
                )
            )
        for part, secret, sources in parts:
            self._say("packing {0}".format(part))
            base = "{0}.{1}.tar.gz".format(manifest["stem"], part)
            path = os.path.join(directory, base) + _catalogue.PARTIAL
            made.append(path)
            with staged(path) as stream:
                writer = _HashingWriter(stream)
                contents = _archive.pack(cast("IO[bytes]", writer), sources)
            manifest["archives"][part] = contents.as_dict()
            manifest["parts"][base] = {
                "part": part, "secret": secret, "size": writer.size, "sha256": writer.hash.hexdigest(),
            }  # fmt: skip


def discard_left_over(layout: Layout, engine: Engine, name: str) -> None:
    """Remove the scratch containers and work directories of runs that were killed; the caller holds the data lock."""
    _materialise.discard_scratch(engine, name)
    parent = os.path.join(layout.project(name), "volumes", "db")
    for entry in sorted(os.listdir(parent)) if os.path.isdir(parent) else []:
        if entry.startswith(_WORK_PREFIX):
            _restore_journal.remove_tree(os.path.join(parent, entry))


def verify(
    layout: Layout,
    engine: Engine,
    compose: Compose,
    docker_host: str,
    stack: Stack,
    backup: _catalogue.Backup,
    timeout: float,
    progress: Callable[[str], None],
    clock: Callable[[], float] = time.time,
) -> _materialise.Outcome:
    """Restore a backup into a scratch server, compare everything with the manifest, and record that it is so.

    The caller holds the lock of the instance's data. Raises VerificationFailed with all differences; the manifest then
    says ``verified: null`` and keeps the reason.
    """
    work = os.path.join(layout.project(stack.name), "volumes", "db", _WORK_PREFIX + backup.stem)
    discard_left_over(layout, engine, stack.name)
    os.mkdir(work, 0o700)
    manifest = dict(backup.manifest)
    try:
        target = _materialise.Target(
            stack=stack,
            data=os.path.join(work, "data"),
            custom=os.path.join(work, "custom"),
            live_custom=os.path.join(layout.project(stack.name), "volumes", "db", "custom"),
        )
        os.mkdir(target.data, 0o700)
        os.mkdir(target.custom, 0o755)
        maker = _materialise.Materialiser(engine, compose, docker_host, timeout, progress)
        maker.check(backup, trust_unsigned=False)
        outcome = maker.run(backup, target, {})
        if outcome.differences:
            raise VerificationFailed(
                "backup {0} of instance {1} was restored and differs from its manifest: {2}".format(
                    backup.stem, stack.name, "; ".join(outcome.differences[:20])
                )
            )
    except MultibaseError as error:
        manifest["verified"] = None
        manifest["verification_failed"] = {"at": _iso(clock()), "reason": redact(str(error), stack.confidential)}
        if backup.signed:
            _catalogue.rewrite_manifest(layout, backup, manifest)
        raise
    finally:
        _restore_journal.remove_tree(work)
    manifest.pop("verification_failed", None)
    manifest["verified"] = {"at": _iso(clock()), "image": manifest["image"], **outcome.evidence}
    _catalogue.rewrite_manifest(layout, backup, manifest)
    return outcome


def live_passwords(server: Server) -> Dict[str, str]:
    """Return the password verifiers of the roles that an instance has now."""
    found = server.json(
        "postgres",
        "SELECT coalesce(json_agg(json_build_array(rolname, rolpassword)), '[]') FROM pg_authid "
        "WHERE rolpassword IS NOT NULL AND rolname NOT LIKE 'pg\\_%'",
    )
    return {str(role): str(verifier) for role, verifier in found}


def _iso(now: float) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(now))


def failure_record(error: BaseException) -> Mapping[str, Any]:
    """Return how a failure is remembered in the state file."""
    if isinstance(error, (SystemExit, KeyboardInterrupt)):
        code = error.code if isinstance(error, SystemExit) and isinstance(error.code, int) else 130
        return {"reason": "it was ended by a signal", "exit_code": code}
    full = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
    return {"reason": str(error), "exit_code": int(getattr(error, "exit_code", NoSpace.exit_code if full else 1))}
