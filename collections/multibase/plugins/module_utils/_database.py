# SPDX-License-Identifier: GPL-3.0-or-later
# This file is private to the multibase.supabase collection; it may change at any time.
"""Talking to the PostgreSQL server of a container, with that container's own programs.

Everything goes through ``docker exec``: statements by standard input, so that none stands in the list of processes, and
the password is the one that the container has in its environment already. The superuser of the images is
``supabase_admin``; the role ``postgres`` may not read the schemas of the services.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess
import tempfile
import time
from dataclasses import dataclass, field
from io import BufferedReader
from typing import IO, Any, Dict, Iterator, List, Optional, Sequence, cast

from ._errors import MultibaseError
from ._process import clean_environment

SUPERUSER = "supabase_admin"
APPLICATION_PREFIX = "multibase:"
# The same text of every value on both sides of a comparison, whatever the server, the database or the role has set.
FIXED_SETTINGS = """
SET search_path = pg_catalog;
SET TimeZone = 'UTC';
SET DateStyle = 'ISO, YMD';
SET IntervalStyle = 'postgres';
SET extra_float_digits = 3;
SET bytea_output = 'hex';
SET xmlbinary = 'base64';
SET lc_monetary = 'C';
SET lc_numeric = 'C';
SET row_security = off;
SET statement_timeout = 0;
SET idle_in_transaction_session_timeout = 0;
"""
_SENTINEL = "multibase-end-of-answer"
# Counting the rows of a large table takes hours; what takes longer hangs.
ANSWER_SECONDS = 4 * 3600.0
_CHUNK = 1 << 16
_ERROR_LINES = 5


class DatabaseFailed(MultibaseError):
    """A program in the database container ended with an error; ``lines`` is what it said last."""

    exit_code = 12


def quote_literal(text: str) -> str:
    """Return a text as an SQL literal, right whatever ``standard_conforming_strings`` says."""
    if "\x00" in text:
        raise ValueError("a NUL byte has no place in SQL")
    escaped = text.replace("'", "''")
    return " E'{0}'".format(escaped.replace("\\", "\\\\")) if "\\" in text else "'{0}'".format(escaped)


def quote_identifier(name: str) -> str:
    """Return a name as a quoted SQL identifier."""
    if "\x00" in name:
        raise ValueError("a NUL byte has no place in SQL")
    return '"{0}"'.format(name.replace('"', '""'))


def last_words(stream: IO[bytes]) -> str:
    """Return the last lines that a program wrote to its standard error."""
    size = stream.seek(0, os.SEEK_END)
    stream.seek(max(0, size - 4096))
    lines = [line.strip() for line in stream.read().decode("utf-8", "replace").splitlines() if line.strip()]
    return " / ".join(lines[-_ERROR_LINES:]) or "no output"


@dataclass(frozen=True)
class Server:
    """The server in a running container. ``purpose`` names our sessions in ``pg_stat_activity``."""

    container: str
    docker_host: str
    purpose: str

    @property
    def application(self) -> str:
        return APPLICATION_PREFIX + self.purpose

    def _argv(self, command: Sequence[str]) -> List[str]:
        return ["docker", "exec", "--interactive", "--env", "PGAPPNAME=" + self.application, self.container, *command]

    def popen(
        self,
        command: Sequence[str],
        stdin: Optional[int] = subprocess.DEVNULL,
        stdout: Optional[int] = subprocess.DEVNULL,
        stderr: Any = subprocess.DEVNULL,
    ) -> subprocess.Popen[bytes]:
        """Start a command in the container; ``command`` must not hold a secret."""
        return subprocess.Popen(
            self._argv(command),
            stdin=stdin,
            stdout=stdout,
            stderr=stderr,
            env=clean_environment({"DOCKER_HOST": self.docker_host}),
            start_new_session=True,
        )

    @staticmethod
    def psql(database: str) -> List[str]:
        """Return the argument list of a quiet psql that reads statements and stops at the first error."""
        return [
            "psql", "-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-h", "127.0.0.1", "-U", SUPERUSER, "-d", database,
        ]  # fmt: skip

    def script(self, database: str, sql: str, timeout: float = 60.0, stop_at_errors: bool = True) -> str:
        """Run statements and return what they print. Raises DatabaseFailed with psql's last words."""
        command = self.psql(database)
        if not stop_at_errors:
            command[command.index("ON_ERROR_STOP=1")] = "ON_ERROR_STOP=0"
        with tempfile.TemporaryFile() as errors:
            process = self.popen(command, subprocess.PIPE, subprocess.PIPE, errors)
            try:
                output, _errors = process.communicate(sql.encode("utf-8"), timeout=timeout)
            except subprocess.TimeoutExpired:
                end(process)
                raise DatabaseFailed(
                    "the database did not answer within {0:.0f} s; is its container paused or overloaded?".format(
                        timeout
                    )
                ) from None
            if process.returncode != 0:
                raise DatabaseFailed(last_words(errors))
            return output.decode("utf-8", "replace")

    def json(self, database: str, query: str, timeout: float = 60.0) -> Any:
        """Run one query whose only value is JSON and return it read."""
        return json.loads(self.script(database, FIXED_SETTINGS + query + ";\n", timeout) or "null")

    @contextlib.contextmanager
    def session(self, database: str, timeout: float = ANSWER_SECONDS) -> Iterator[Session]:
        """Keep one psql open, as for a snapshot that others share. ``timeout`` is for each answer."""
        with tempfile.TemporaryFile() as errors:
            process = self.popen(self.psql(database), subprocess.PIPE, subprocess.PIPE, errors)
            try:
                yield Session(process, errors, timeout)
            finally:
                end(process)


@dataclass
class Session:
    """An open psql. Raises DatabaseFailed as soon as a statement fails: psql ends then."""

    process: subprocess.Popen[bytes]
    errors: IO[bytes]
    timeout: float = ANSWER_SECONDS
    _read: bytearray = field(default_factory=bytearray)

    def ask(self, sql: str) -> List[str]:
        """Run statements and return the lines that they print. Raises DatabaseFailed after ``timeout`` seconds."""
        statements, answers = cast("IO[bytes]", self.process.stdin), cast(BufferedReader, self.process.stdout)
        # A psql that has ended already is noticed below.
        with contextlib.suppress(BrokenPipeError):
            statements.write("{0}\n\\echo {1}\n".format(sql, _SENTINEL).encode("utf-8"))
            statements.flush()
        deadline = time.monotonic() + self.timeout
        lines: List[str] = []
        for raw in self._lines(answers, deadline):
            line = raw.decode("utf-8", "replace")
            if line == _SENTINEL:
                return lines
            lines.append(line)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(timeout=60)
        raise DatabaseFailed(last_words(self.errors))

    def _lines(self, answers: BufferedReader, deadline: float) -> Iterator[bytes]:
        """Yield the lines that psql prints until it ends; what was read beyond a line waits for the next question."""
        searched = 0
        while True:
            found = self._read.find(b"\n", searched)
            if found >= 0:
                line = bytes(self._read[:found])
                del self._read[: found + 1]
                searched = 0
                yield line
                continue
            searched = len(self._read)
            # A container that is paused prints nothing, and does not end: whoever waits holds locks.
            if not select.select([answers], [], [], max(0.0, deadline - time.monotonic()))[0]:
                raise DatabaseFailed(
                    "the database did not answer within {0:.0f} s; is its container paused or overloaded?".format(
                        self.timeout
                    )
                )
            # Not os.read(): another thread may close it, and the number be that of another file by then.
            chunk = answers.read1(_CHUNK)
            if not chunk:
                return
            self._read += chunk

    def json(self, query: str) -> Any:
        """Run one query whose only value is JSON and return it read."""
        return json.loads("\n".join(self.ask(query + ";")) or "null")


def end(process: subprocess.Popen[bytes]) -> None:
    """End a program of ours at once, and let go of its pipes."""
    if process.stdin is not None:
        with contextlib.suppress(OSError):
            process.stdin.close()
    if process.poll() is None:
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout=2)
    if process.poll() is None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    # Last: closing what another thread reads from waits for that thread.
    if process.stdout is not None:
        with contextlib.suppress(OSError):
            process.stdout.close()


def end_left_over_sessions(server: Server) -> int:
    """End the sessions that a killed run of ours left in the server; return how many there were.

    Killing ``docker exec`` leaves the program in the container running for some seconds, with its locks (measured). The
    caller holds the lock of the instance's data, so that none of these sessions belongs to anybody.
    """
    found = server.json(
        "postgres",
        "SELECT coalesce(json_agg(pg_terminate_backend(pid)), '[]') FROM pg_stat_activity "
        "WHERE starts_with(application_name, {0}) AND pid <> pg_backend_pid()".format(
            quote_literal(APPLICATION_PREFIX)
        ),
        30,
    )
    return len(found)


def describe(session: Session, database: str) -> Dict[str, Any]:
    """Return what is needed to create a database like this one from ``template0``."""
    described = session.json(
        "SELECT json_build_object('owner', pg_get_userbyid(datdba), 'encoding', pg_encoding_to_char(encoding), "
        "'collate', datcollate, 'ctype', datctype, 'provider', to_jsonb(d) ->> 'datlocprovider', "
        "'locale', coalesce(to_jsonb(d) ->> 'datlocale', to_jsonb(d) ->> 'daticulocale'), "
        "'limit', datconnlimit, 'rights', (SELECT json_agg(json_build_array(CASE x.grantee WHEN 0 THEN '' ELSE "
        "pg_get_userbyid(x.grantee) END, x.privilege_type, x.is_grantable)) FROM aclexplode(datacl) x)) "
        "FROM pg_database d WHERE datname = {0}".format(quote_literal(database)),
    )
    if not isinstance(described, dict):
        raise DatabaseFailed("there is no database {0}".format(database))
    return described


# Objects that only a superuser may own. Their owners may have lost that right since, as the role postgres does at the
# end of an instance's first start; a dump cannot be loaded without giving it back meanwhile.
_DEMOTED_OWNERS = """
SELECT coalesce(json_agg(DISTINCT r.rolname), '[]') FROM pg_roles r WHERE NOT r.rolsuper AND r.oid IN (
  SELECT evtowner FROM pg_event_trigger UNION SELECT fdwowner FROM pg_foreign_data_wrapper
  UNION SELECT subowner FROM pg_subscription)
"""


def demoted_owners(session: Session) -> List[str]:
    """Return the roles that own what only superusers may own in the session's database, and are none."""
    return [str(role) for role in session.json(_DEMOTED_OWNERS)]


def superuser_sql(roles: Sequence[str], superuser: bool) -> str:
    """Return the statements that make roles superusers, or no longer."""
    word = "SUPERUSER" if superuser else "NOSUPERUSER"
    return "".join("ALTER ROLE {0} {1};\n".format(quote_identifier(role), word) for role in roles)


def create_sql(database: str, described: Dict[str, Any]) -> str:
    """Return the statements that create an empty database like the described one.

    From ``template0``: rights that the image's own template grants by default would be given to what is loaded.
    """
    name, literal = quote_identifier(database), quote_literal
    options = ["ENCODING {0}".format(literal(described["encoding"]))]
    provider = {"i": "icu", "b": "builtin"}.get(described.get("provider") or "c", "libc")
    options.append("LOCALE_PROVIDER {0}".format(provider))
    options += [
        "LC_COLLATE {0}".format(literal(described["collate"])),
        "LC_CTYPE {0}".format(literal(described["ctype"])),
    ]
    if provider != "libc" and described.get("locale"):
        word = "ICU_LOCALE" if provider == "icu" else "BUILTIN_LOCALE"
        options.append("{0} {1}".format(word, literal(described["locale"])))
    return (
        "DROP DATABASE IF EXISTS {0} WITH (FORCE);\n"
        "CREATE DATABASE {0} TEMPLATE template0 OWNER {1} CONNECTION LIMIT {2} {3};\n"
    ).format(name, quote_identifier(described["owner"]), int(described["limit"]), " ".join(options))


def rights_sql(database: str, described: Dict[str, Any]) -> str:
    """Return the statements that give a new database the rights of the described one."""
    if described.get("rights") is None:
        return ""
    name, owner = quote_identifier(database), quote_identifier(described["owner"])
    statements = ["REVOKE ALL ON DATABASE {0} FROM PUBLIC;\nREVOKE ALL ON DATABASE {0} FROM {1};\n".format(name, owner)]
    for grantee, privilege, grantable in described["rights"]:
        if privilege not in ("CREATE", "CONNECT", "TEMPORARY"):
            raise DatabaseFailed("unknown right {0!r} on database {1}".format(privilege, database))
        statements.append(
            "GRANT {0} ON DATABASE {1} TO {2}{3};\n".format(
                privilege,
                name,
                quote_identifier(grantee) if grantee else "PUBLIC",
                " WITH GRANT OPTION" if grantable else "",
            )
        )
    return "".join(statements)
