# SPDX-License-Identifier: GPL-3.0-or-later
# This file is private to the multibase.supabase collection; it may change at any time.
"""The portable export of a database: ``roles.sql``, ``schema.sql``, ``data.sql`` as ``supabase db dump`` means them.

It is for moving to or from the cloud service, where the schemas of the platform already exist and nobody is a
superuser. It is no backup: it leaves out those schemas, Vault, the passwords of roles, large objects and the tables of
extensions (the jobs of pg_cron too), and materialized views arrive empty: they want a REFRESH. Load the files in the
order roles, schema, data, each with ``psql -X -v ON_ERROR_STOP=1 --single-transaction``.

What is left out of a dump stays in the file as a comment, so that a reader sees what is missing. Where the CLI edits
lines with ``sed``, a scanner follows the statements here: rows of a table, texts and bodies of functions may contain
anything, and none of it is touched. Beyond the CLI's list:

* pg_dump runs as ``supabase_admin``, because ``postgres`` may not read everything on a self-hosted stack;
* ``transaction_timeout`` goes from ``data.sql`` too, so that a stack with PostgreSQL 15 can load it;
* a comment on an event trigger goes with the trigger, and the owner of the platform's publication is left alone;
* the roles of the API lose what the target's default privileges gave them on a new object, before the grants of the
  source follow: pg_dump writes no REVOKE for that, and what was closed to ``anon`` would be open after the move;
* a membership that ``supabase_admin`` granted names no grantor: nobody but a superuser may grant in its name.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
from typing import Callable, ContextManager, Iterable, Iterator, List, Optional, Pattern, Sequence, Tuple, TypedDict

from ._errors import MultibaseError
from ._publish import sync_directory
from ._sql_lines import Scanner

HOST = "127.0.0.1"
"""Where PostgreSQL listens inside the db container; the image asks for no password there."""
USER = "supabase_admin"
DATABASE = "postgres"

INTERNAL_SCHEMAS: Tuple[str, ...] = (
    "information_schema", "pg_*", "_analytics", "_realtime", "_supavisor", "auth", "etl", "extensions", "pgbouncer",
    "realtime", "storage", "supabase_functions", "supabase_migrations", "cron", "dbdev", "graphql", "graphql_public",
    "net", "pgmq", "pgsodium", "pgsodium_masks", "pgtle", "repack", "tiger", "tiger_data", "timescaledb_*",
    "_timescaledb_*", "topology", "vault",
)  # fmt: skip
"""Schemas that ``schema.sql`` leaves out. Source: ``InternalSchemas`` in pkg/migration/dump.go of supabase/cli."""

SCHEMAS_WITHOUT_DATA: Tuple[str, ...] = (
    "information_schema", "pg_*", "graphql", "graphql_public", "pgsodium", "pgsodium_masks", "pgtle", "repack", "tiger",
    "tiger_data", "timescaledb_*", "_timescaledb_*", "topology", "vault", "etl", "extensions", "pgbouncer", "realtime",
    "supabase_migrations", "_analytics", "_realtime", "_supavisor",
)  # fmt: skip
"""Schemas whose rows ``data.sql`` leaves out; auth and storage move. Source: ``excludedSchemas``, same file."""

TABLES_WITHOUT_DATA: Tuple[str, ...] = (
    "auth.schema_migrations",
    "storage.migrations",
    "supabase_functions.migrations",
)
"""Tables that record what the services did to their schemas. Source: pkg/migration/scripts/dump_data.sh, same place."""

RESERVED_ROLES: Tuple[str, ...] = (
    "anon", "authenticated", "authenticator", "cli_login_*", "dashboard_user", "pgbouncer", "postgres", "service_role",
    "supabase_*", "pgsodium_keyholder", "pgsodium_keyiduser", "pgsodium_keymaker", "pgtle_admin",
)  # fmt: skip
"""Roles that every stack has and nobody may change. Source: ``reservedRoles`` in pkg/migration/dump.go."""

ALLOWED_SETTINGS: Tuple[str, ...] = (
    "pgaudit.*",
    "pgrst.*",
    "session_replication_role",
    "statement_timeout",
    "track_io_timing",
)
"""Settings of reserved roles that may be changed all the same. Source: ``allowedConfigs``, same file."""

StreamCommand = Callable[[Sequence[str]], ContextManager[Iterable[bytes]]]
"""Runs argv in the db container and yields its standard output. It raises when the command fails, also after the last
line, on leaving the context."""


class ExportFailed(MultibaseError):
    """A dump ended early or is not what pg_dump writes."""


class ExportedFile(TypedDict):
    """One file of an export."""

    file: str
    size: int
    sha256: str


# --- What is run ---------------------------------------------------------------------------------------------------


def _dump_argv(snapshot: Optional[str]) -> List[str]:
    # --encoding: the filters compare bytes, which needs one in which a quote is always a quote.
    connection = ["--host=" + HOST, "--username=" + USER, "--no-password", "--dbname=" + DATABASE]
    shown = ["--snapshot=" + snapshot] if snapshot else []
    return ["pg_dump", *connection, "--encoding=UTF8", "--lock-wait-timeout=60s", "--quote-all-identifiers", *shown]


def schema_argv(snapshot: Optional[str] = None) -> List[str]:
    """Dump the definitions of everything but the internal schemas."""
    excluded = ["--exclude-schema=" + name for name in INTERNAL_SCHEMAS]
    return [*_dump_argv(snapshot), "--schema-only", *excluded]


def data_argv(snapshot: Optional[str] = None) -> List[str]:
    """Dump the rows, those of the users and buckets of the stack included."""
    # --schema=* is the CLI's: it leaves out large objects and what extensions keep in tables of theirs.
    excluded = ["--exclude-schema=" + name for name in SCHEMAS_WITHOUT_DATA]
    excluded += ["--exclude-table=" + name for name in TABLES_WITHOUT_DATA]
    return [*_dump_argv(snapshot), "--data-only", "--schema=*", *excluded]


def roles_argv() -> List[str]:
    """Dump the roles, their settings and memberships, without passwords."""
    connection = ["--host=" + HOST, "--username=" + USER, "--no-password", "--database=" + DATABASE]
    shape = ["--encoding=UTF8", "--quote-all-identifiers", "--no-role-passwords", "--no-comments"]
    return ["pg_dumpall", *connection, "--roles-only", *shape]


# --- Following the statements --------------------------------------------------------------------------------------

Decide = Callable[[bytes], Optional[bytes]]
"""Takes the line that begins a statement, or a command of psql; returns what is written instead, or None: left out."""


def _filtered(lines: Iterable[bytes], decide: Decide) -> Iterator[bytes]:
    scanner = Scanner()
    left_out = False
    for line in lines:
        if scanner.copying or not scanner.resting:
            row = scanner.copying
            scanner.read(line)
            yield line if row or not left_out else _commented(line)
            continue
        scanner.read(line)
        if not line.strip() or line.startswith(b"--"):
            yield line
            continue
        written = decide(line)
        left_out = written is None
        yield _commented(line) if written is None else written
    if scanner.copying or not scanner.resting:
        raise ExportFailed("the dump ends in the middle of a statement")
    yield b"RESET ALL;\n"


def _commented(line: bytes) -> bytes:
    # psql ends a comment at a carriage return as well: what follows one inside a name would be run.
    end = b"\n" if line.endswith(b"\n") else b""
    return b"-- " + line.rstrip(b"\r\n").replace(b"\r", b" ") + end


# --- What is left out and rewritten --------------------------------------------------------------------------------

_NAME = rb'"((?:[^"]|"")*)"'
_REWRITTEN: Tuple[Tuple[bytes, bytes], ...] = (
    (b'CREATE SCHEMA "', b'CREATE SCHEMA IF NOT EXISTS "'),
    (b'CREATE TABLE "', b'CREATE TABLE IF NOT EXISTS "'),
    (b'CREATE SEQUENCE "', b'CREATE SEQUENCE IF NOT EXISTS "'),
    (b'CREATE VIEW "', b'CREATE OR REPLACE VIEW "'),
    (b'CREATE FUNCTION "', b'CREATE OR REPLACE FUNCTION "'),
    (b'CREATE PROCEDURE "', b'CREATE OR REPLACE PROCEDURE "'),
    (b'CREATE TRIGGER "', b'CREATE OR REPLACE TRIGGER "'),
)
_LEFT_OUT = re.compile(
    rb"(?:CREATE|ALTER|COMMENT ON) EVENT TRIGGER "
    rb'|(?:CREATE|COMMENT ON) PUBLICATION "supabase_realtime'
    rb'|ALTER PUBLICATION "supabase_realtime(?:_|" OWNER TO )'
    rb'|ALTER DEFAULT PRIVILEGES FOR ROLE "supabase_admin"'
    rb"|ALTER FOREIGN DATA WRAPPER .+ OWNER TO "
    rb'|GRANT ALL ON FOREIGN DATA WRAPPER .+ TO "postgres" WITH GRANT OPTION'
    rb"|COMMENT ON EXTENSION "
    rb'|CREATE POLICY "cron_job_'
    rb'|ALTER TABLE (?:ONLY )?"cron"'
)
# These extensions choose their schema themselves, and refuse another one.
_OWN_SCHEMA = re.compile(rb'(CREATE EXTENSION IF NOT EXISTS "(?:pg_tle|pgsodium|pgmq)") WITH SCHEMA .*;')
_PRIVILEGE = re.compile(rb'(?:GRANT|REVOKE) (?:[A-Z ,]|\("(?:[^"]|"")*"\))+ ON (?:[A-Z ]+ )?' + _NAME)
# Defaults of the platform give these roles everything on whatever is created in public.
_API_ROLES = b'"anon", "authenticated", "service_role"'
_OWNED = re.compile(
    rb'ALTER (?:(FUNCTION|PROCEDURE|SEQUENCE)|(?:FOREIGN )?TABLE|(?:MATERIALIZED )?VIEW) (".+) OWNER TO '
    + _NAME
    + rb";$"
)
_SESSION = re.compile(rb"\\(?:un)?restrict\b|SET transaction_timeout ?=")


def _pattern(names: Sequence[str]) -> Pattern[bytes]:
    """Match what one of the names means, in which ``*`` stands for anything."""
    return re.compile("|".join(re.escape(name).replace(r"\*", ".*") for name in names).encode(), re.DOTALL)


_INTERNAL = _pattern(INTERNAL_SCHEMAS)
_RESERVED = _pattern(RESERVED_ROLES)
_ALLOWED = _pattern(ALLOWED_SETTINGS)


def _session_line(line: bytes) -> Optional[bytes]:
    return None if _SESSION.match(line) else line


def _schema_line(line: bytes) -> Optional[bytes]:
    if _SESSION.match(line) or _LEFT_OUT.match(line):
        return None
    privilege = _PRIVILEGE.match(line)
    if privilege and _INTERNAL.fullmatch(privilege.group(1)):
        return None
    owned = _OWNED.match(line)
    if owned:
        # Before the owner changes: until then the object belongs to whoever loads the file.
        kind, name = owned.group(1) or b"TABLE", owned.group(2)
        return b"REVOKE ALL ON " + kind + b" " + name + b" FROM " + _API_ROLES + b";\n" + line
    for beginning, instead in _REWRITTEN:
        if line.startswith(beginning):
            return instead + line[len(beginning) :]
    return _OWN_SCHEMA.sub(rb"\1;", line) if line.startswith(b"CREATE EXTENSION ") else line


def filter_schema(lines: Iterable[bytes]) -> Iterator[bytes]:
    """Make ``schema.sql`` of what ``schema_argv`` prints. Raises ExportFailed when it ends early."""
    return _filtered(lines, _schema_line)


_ROLE = re.compile(rb"(CREATE|ALTER) ROLE " + _NAME)
_ATTRIBUTES = re.compile(rb"(ALTER ROLE " + _NAME + rb" WITH)( .*)", re.DOTALL)
_PASSWORD = re.compile(rb" PASSWORD (?:'(?:[^']|'')*'|NULL)")
_SUPERUSER_ONLY = re.compile(rb" (?:NOSUPERUSER|NOREPLICATION)\b")
_SETTING = re.compile(rb"ALTER ROLE " + _NAME + rb" SET " + _NAME + rb" ")
_MEMBERSHIP = re.compile(rb"(GRANT " + _NAME + rb" TO " + _NAME + rb".*?)( GRANTED BY " + _NAME + rb")?;\s*$")
_PARAMETER = re.compile(rb"(?:GRANT|REVOKE) [A-Z ,]+ ON PARAMETER " + _NAME + rb" (?:TO|FROM) " + _NAME)


def _role_line(line: bytes) -> Optional[bytes]:
    role = _ROLE.match(line)
    if role and _RESERVED.fullmatch(role.group(2)):
        setting = _SETTING.match(line)
        return line if setting and _ALLOWED.fullmatch(setting.group(2)) else None
    attributes = _ATTRIBUTES.match(line)
    if attributes:
        return attributes.group(1) + _SUPERUSER_ONLY.sub(b"", _PASSWORD.sub(b"", attributes.group(3)))
    parameter = _PARAMETER.match(line)
    if parameter and _RESERVED.fullmatch(parameter.group(2)):
        return None
    membership = _MEMBERSHIP.match(line)
    if membership:
        if _RESERVED.fullmatch(membership.group(3)):
            return None
        if membership.group(5) == USER.encode():
            return membership.group(1) + b";\n"
    return _session_line(line)


def filter_roles(lines: Iterable[bytes]) -> Iterator[bytes]:
    """Make ``roles.sql`` of what ``roles_argv`` prints. Raises ExportFailed when it ends early."""
    return _filtered(lines, _role_line)


def filter_data(lines: Iterable[bytes]) -> Iterator[bytes]:
    """Make ``data.sql`` of what ``data_argv`` prints. Raises ExportFailed when it ends early.

    Triggers and foreign keys are asleep while it is loaded: rows come in no order that would satisfy them.
    """
    yield b"SET session_replication_role = replica;\n\n"
    yield from _filtered(lines, _session_line)


# --- Writing -------------------------------------------------------------------------------------------------------

_SUFFIX = ".partial"
_TRAILER = re.compile(rb"-- PostgreSQL database (?:cluster )?dump complete\s*")


def _whole_lines(chunks: Iterable[bytes]) -> Iterator[bytes]:
    """Yield lines, however the stream was cut. A carriage return ends none: it may stand in a name."""
    rest = b""
    for chunk in chunks:
        *lines, rest = (rest + chunk).split(b"\n")
        for line in lines:
            yield line + b"\n"
    if rest:
        yield rest


def _complete(lines: Iterable[bytes]) -> Iterator[bytes]:
    """Pass lines on. Raises ExportFailed when the line that pg_dump writes last was not among them."""
    seen = False
    for line in lines:
        seen = seen or bool(_TRAILER.fullmatch(line))
        yield line
    if not seen:
        raise ExportFailed("the dump lacks its last line: it was cut off")


def _write(lines: Iterable[bytes], path: str) -> Tuple[int, str]:
    """Write a new file that only its owner can read, to the disk; return size and SHA-256."""
    digest = hashlib.sha256()
    size = 0
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "wb", buffering=1 << 20) as stream:
        os.fchmod(descriptor, 0o600)
        for line in lines:
            stream.write(line)
            digest.update(line)
            size += len(line)
        stream.flush()
        os.fsync(descriptor)
    return size, digest.hexdigest()


def _discard(path: str) -> None:
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)


def export(stream_command: StreamCommand, directory: str, snapshot: Optional[str] = None) -> List[ExportedFile]:
    """Write ``roles.sql``, ``schema.sql`` and ``data.sql`` into ``directory``, which exists.

    They get their names when all three are complete and on the disk, so that no set is half old. When anything fails,
    what was there stays and nothing of ours is left. ``snapshot`` is the identifier of an exported snapshot whose
    session the caller keeps open: then the definitions and the rows are of the same moment.
    """
    plan: Tuple[Tuple[str, List[str], Callable[[Iterable[bytes]], Iterator[bytes]]], ...] = (
        ("roles.sql", roles_argv(), filter_roles),
        ("schema.sql", schema_argv(snapshot), filter_schema),
        ("data.sql", data_argv(snapshot), filter_data),
    )
    written: List[ExportedFile] = []
    paths = [os.path.join(directory, name) for name, _argv, _filter in plan]
    try:
        for path, (name, argv, filtered) in zip(paths, plan):
            _discard(path + _SUFFIX)
            with stream_command(argv) as output:
                size, digest = _write(filtered(_complete(_whole_lines(output))), path + _SUFFIX)
            written.append({"file": name, "size": size, "sha256": digest})
        for path in paths:
            os.rename(path + _SUFFIX, path)
    finally:
        for path in paths:
            _discard(path + _SUFFIX)
    sync_directory(directory)
    return written
