# SPDX-License-Identifier: GPL-3.0-or-later
"""What is refused in a dump of unknown origin, how a scratch server is shut in, and how databases are compared."""

from __future__ import annotations

import copy
import gzip
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any, Dict, List, Mapping, Tuple
from unittest import mock

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ansible_collections.multibase.supabase.plugins.module_utils import (
    _archive,
    _catalogue,
    _database,
    _fingerprint,
    _materialise,
)
from ansible_collections.multibase.supabase.plugins.module_utils._catalogue import Backup
from ansible_collections.multibase.supabase.plugins.module_utils._engine import Engine
from ansible_collections.multibase.supabase.plugins.module_utils._errors import IntegrityFailed, Refused
from unit.support import PROPERTY

STEM = "20261125T023000123Z"
VERIFIER = "SCRAM-SHA-256$4096:c2FsdA==$c3RvcmVk:c2VydmVy"


def scan(directory: Path, text: str) -> None:
    path = directory / "dump.sql.gz"
    path.write_bytes(gzip.compress(text.encode("utf-8"), 1))
    _materialise.scan(str(path))


HARMLESS = {
    "nothing": "",
    "plain": "CREATE TABLE public.t (a text);\nINSERT INTO t VALUES ('x');\n",
    "the dump's own guard": "\\restrict abc\nSELECT 1;\n\\unrestrict abc\n",
    "rows": "COPY public.t (a) FROM stdin;\nCOPY x FROM PROGRAM 'id'\n\\\\! id\n\\N\nALTER SYSTEM SET a = b\n\\.\n",
    "rows that look like an end": "COPY public.t (a) FROM stdin;\n\\\\.\nlo_import\n\\.\nSELECT 1;\n",
    "no rows": "COPY public.t (a) FROM stdin;\n\\.\n",
    "words that are part of others": "SELECT a_lo_import, program, my_alter_system FROM programs;\n",
    "plpgsql": "CREATE FUNCTION f() RETURNS int LANGUAGE plpgsql AS $$BEGIN RETURN 1; END$$;\n",
    "sql": "CREATE FUNCTION f() RETURNS int\n    LANGUAGE sql\n    AS 'SELECT 1';\n",
    "regular expression": "SELECT 'a' ~ '^\\d+$';\n",
}

HOSTILE = {
    "program": "COPY t FROM PROGRAM 'id';",
    "program in lower case": "copy t from program 'id';",
    "to program": "COPY t TO PROGRAM 'sh';",
    "spaces": "COPY t FROM \t PROGRAM 'id';",
    "in a function": "DO $$ BEGIN COPY t FROM PROGRAM 'id'; END $$;",
    "over two lines": "COPY t FROM\nPROGRAM 'id';",
    "with a comment between": "COPY t FROM /* x */ PROGRAM 'id';",
    "import": "SELECT lo_import('/etc/passwd');",
    "export": "SELECT pg_catalog.lo_export(1, '/tmp/x');",
    "alter system": "ALTER SYSTEM SET archive_command = 'id';",
    "alter system over two lines": "ALTER\nSYSTEM SET archive_command = 'id';",
    "read": "SELECT pg_read_file('/etc/passwd');",
    "read server": "SELECT pg_read_server_file('/etc/passwd');",
    "read binary": "SELECT pg_read_binary_file('/etc/passwd');",
    "copy from a file": "COPY t FROM '/etc/passwd';",
    "copy to a file": "COPY t TO '/var/lib/postgresql/x';",
    "language": "CREATE OR REPLACE TRUSTED PROCEDURAL LANGUAGE plx HANDLER h;",
    "in C": "CREATE FUNCTION f() RETURNS int LANGUAGE c AS '/tmp/x.so', 'f';",
    "in quoted C": "CREATE FUNCTION f() RETURNS int LANGUAGE \"c\" AS '/tmp/x.so', 'f';",
    "in C as a text": "CREATE FUNCTION f() RETURNS int LANGUAGE 'C' AS '/tmp/x.so', 'f';",
    "in Python": "CREATE FUNCTION f() RETURNS int LANGUAGE plpython3u AS $$return 1$$;",
    "in Perl": "CREATE FUNCTION f() RETURNS int LANGUAGE plperlu AS $$1$$;",
    "shell": "\\! id",
    "output to a program": "\\o |sh",
    "another file": "\\i /etc/passwd",
    "copy by psql": "\\copy t from program 'id'",
    "shell after a statement": "SELECT 1; \\! id",
    "result to a program": "SELECT 1 \\g |sh",
    "set": "\\set x `id`",
}


@pytest.mark.parametrize("case", sorted(HARMLESS))
def test_what_is_harmless_passes(tmp_path: Path, case: str) -> None:
    scan(tmp_path, HARMLESS[case])


@pytest.mark.parametrize("case", sorted(HOSTILE))
def test_what_is_hostile_is_refused_with_its_line(tmp_path: Path, case: str) -> None:
    with pytest.raises(Refused, match=r"^dump\.sql\.gz, line [34]: "):
        scan(tmp_path, "SELECT 1;\n--\n" + HOSTILE[case] + "\nSELECT 2;\n")


@pytest.mark.parametrize("case", sorted(HOSTILE))
def test_what_is_hostile_is_refused_after_rows(tmp_path: Path, case: str) -> None:
    with pytest.raises(Refused):
        scan(tmp_path, "COPY public.t (a) FROM stdin;\nx\n\\.\n" + HOSTILE[case] + "\n")


@pytest.mark.parametrize(
    "opening",
    [
        "SELECT '\n{copy}\n';\n",
        "/*\n{copy}\n*/\n",
        "DO $x$\nBEGIN\n/*\n{copy}\n*/\nEND $x$;\n",
        'SELECT 1 AS "\n{copy}\n";\n',
        "SELECT $a$\n{copy}\n$a$;\n",
    ],
    ids=["text", "comment", "function", "name", "dollars"],
)
def test_a_line_that_only_looks_like_the_start_of_rows_hides_nothing(tmp_path: Path, opening: str) -> None:
    with pytest.raises(Refused):
        scan(tmp_path, opening.format(copy="COPY t FROM stdin;") + "COPY t FROM PROGRAM 'id';\n")


def test_the_end_of_rows_is_a_line_of_its_own(tmp_path: Path) -> None:
    scan(tmp_path, "COPY t FROM stdin;\nx\\.\n \\.\nALTER SYSTEM\n\\.\n")
    with pytest.raises(Refused):
        scan(tmp_path, "COPY t FROM stdin;\r\nx\r\n\\.\r\nALTER SYSTEM SET a = 1;\r\n")


def test_bytes_that_are_no_text_are_no_other_error(tmp_path: Path) -> None:
    path = tmp_path / "dump.sql.gz"
    path.write_bytes(gzip.compress(b"\xff\xfe ALTER SYSTEM \xff;\n"))
    with pytest.raises(Refused):
        _materialise.scan(str(path))


def test_a_damaged_dump_is_damaged_wherever_it_is(tmp_path: Path) -> None:
    whole = gzip.compress(("SELECT 'some words';\n" * 40).encode(), 6)
    path = tmp_path / "dump.sql.gz"
    escaped = set()
    for length in range(1, len(whole)):
        path.write_bytes(whole[:length])
        try:
            _materialise.scan(str(path))
            escaped.add("nothing")
        except IntegrityFailed:
            continue
        except Exception as error:
            escaped.add(type(error).__name__)
    for position in range(10, len(whole)):
        broken = whole[:position] + bytes([whole[position] ^ 0x10]) + whole[position + 1 :]
        path.write_bytes(broken)
        try:
            _materialise.scan(str(path))
            # Some bits only fill up the last byte.
            assert gzip.decompress(broken) == gzip.decompress(whole)
        except (IntegrityFailed, Refused):
            continue
        except Exception as error:
            escaped.add(type(error).__name__)
    assert not escaped


# What is looked into, and what is taken, of a backup that this host did not sign

HARMLESS_TEXT, HOSTILE_TEXT = "SELECT 1;\n", "ALTER SYSTEM SET archive_command = 'id';\n"


def unsigned(directory: Path, parts: Mapping[str, str], **more: Any) -> Backup:
    """A backup whose files are called as ``parts`` says, name to part; each is harmless SQL unless it is there."""
    manifest: Dict[str, Any] = {"format": "plain", "databases": {"postgres": {}, "own": {}}, "parts": {}, **more}
    for name, part in parts.items():
        path = directory / name
        if not path.exists():
            path.write_bytes(gzip.compress(HARMLESS_TEXT.encode()))
        size, digest = path.stat().st_size, _catalogue.file_sha256(str(path))
        manifest["parts"][name] = {"part": part, "size": size, "sha256": digest}
    return Backup(str(directory), STEM, manifest, False)


PARTS = {
    STEM + ".sql.gz": "postgres",
    STEM + ".db-own.sql.gz": "database own",
    STEM + ".globals.sql.gz": "globals",
    STEM + ".extensions.sql.gz": "extensions of postgres",
    STEM + ".db-own.extensions.sql.gz": "extensions of database own",
    STEM + ".passwords.sql.gz": "passwords",
    STEM + ".storage.tar.gz": "storage",
    STEM + ".functions.tar.gz": "functions",
    STEM + ".config.tar.gz": "config",
}


def maker() -> _materialise.Materialiser:
    nothing: Any = None
    return _materialise.Materialiser(nothing, nothing, "", 60)


@pytest.mark.parametrize("part", ["postgres", "database own", "globals", "extensions of postgres",
                                  "extensions of database own"])  # fmt: skip
@pytest.mark.parametrize("suffix", [".sql.gz", ".gz", ".dump", ".x"])
def test_what_is_loaded_is_looked_into_whatever_its_file_is_called(tmp_path: Path, part: str, suffix: str) -> None:
    parts = {name: one for name, one in PARTS.items() if one != part}
    assert maker().check(unsigned(tmp_path, PARTS), True) is None  # type: ignore[func-returns-value]
    name = STEM + ".other" + suffix
    (tmp_path / name).write_bytes(gzip.compress(HOSTILE_TEXT.encode()))
    with pytest.raises(Refused, match="changes the server"):
        maker().check(unsigned(tmp_path, {**parts, name: part}), True)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({STEM + ".second": "postgres"}, "two files that are its postgres"),
        ({STEM + ".second": "globals"}, "two files that are its globals"),
        ({STEM + ".more": "database other"}, "a part 'database other', which no backup has"),
        ({STEM + ".more": "extensions of _supabase"}, "a part 'extensions of _supabase', which no backup has"),
        ({STEM + ".globals.sql.gz": "passwords", STEM + ".passwords.sql.gz": "config"}, "no globals"),
    ],
)
def test_parts_that_no_backup_has_are_refused(tmp_path: Path, change: Dict[str, str], said: str) -> None:
    with pytest.raises(IntegrityFailed, match=re.escape(said)):
        maker().check(unsigned(tmp_path, {**PARTS, **change}), True)


@pytest.mark.parametrize("more", [{"format": "other"}, {"format": None}, {"databases": ["postgres"]}])
def test_a_manifest_that_does_not_say_what_it_holds_is_refused(tmp_path: Path, more: Dict[str, Any]) -> None:
    with pytest.raises(IntegrityFailed, match="does not say what it holds"):
        maker().check(unsigned(tmp_path, PARTS, **more), True)


def test_a_dump_of_pg_restore_is_looked_into_later(tmp_path: Path) -> None:
    """By pg_restore in the scratch container; what else is loaded is looked into as ever."""
    (tmp_path / (STEM + ".sql.gz")).write_bytes(b"PGDMP")
    backup = unsigned(tmp_path, PARTS, format="custom")
    maker().check(backup, True)
    (tmp_path / (STEM + ".extensions.sql.gz")).write_bytes(gzip.compress(HOSTILE_TEXT.encode()))
    with pytest.raises(Refused):
        maker().check(unsigned(tmp_path, PARTS, format="custom"), True)


class Printing:
    """Stands in for a server: whatever is started in it prints the same, and ends with the same status."""

    def __init__(self, text: str, code: int = 0, seconds: float = 0) -> None:
        self.text, self.code, self.seconds = text, code, seconds
        self.asked: List[str] = []

    def popen(self, command: List[str], stdin: Any, stdout: Any, stderr: Any) -> subprocess.Popen[bytes]:
        self.asked = command
        line = ["sh", "-c", 'printf %s "$1"; echo why >&2; sleep {0}; exit {1}'.format(self.seconds, self.code)]
        return subprocess.Popen(
            [*line, "sh", self.text], stdin=stdin, stdout=stdout, stderr=stderr, start_new_session=True
        )


def look_into(directory: Path, server: Any, timeout: float = 60) -> None:
    path = directory / (STEM + ".dump")
    path.write_bytes(b"PGDMP")
    nothing: Any = None
    _materialise.Materialiser(nothing, nothing, "", timeout)._scan_custom(server, str(path))


def test_the_text_of_a_dump_of_pg_restore_is_looked_into(tmp_path: Path) -> None:
    server = Printing(HARMLESS_TEXT * 2000)
    look_into(tmp_path, server)
    assert server.asked == ["pg_restore", "-f", "-"]
    with pytest.raises(Refused, match="dump, line 2001: "):
        look_into(tmp_path, Printing(HARMLESS_TEXT * 2000 + HOSTILE_TEXT + HARMLESS_TEXT * 9000))
    with pytest.raises(_database.DatabaseFailed, match="why"):
        look_into(tmp_path, Printing(HARMLESS_TEXT, code=1))
    with pytest.raises(_database.DatabaseFailed):
        look_into(tmp_path, Printing(HARMLESS_TEXT, seconds=20), 0.2)


KEY, OTHER_KEY = "5a" * 32, "6b" * 32


def configuration(directory: Path, files: Mapping[str, str], signed: bool) -> Backup:
    """A backup of which the configuration holds these files of the server."""
    source = directory / "source"
    for name, text in files.items():
        path = source / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    path = directory / (STEM + ".config.tar.gz")
    with path.open("wb") as stream:
        contents = _archive.pack(stream, [("volumes/db/custom", str(source))])
    manifest = {
        "parts": {path.name: {"part": "config", "size": 0, "sha256": ""}},
        "archives": {"config": contents.as_dict()},
    }
    return Backup(str(directory), STEM, manifest, signed)


def prepared(directory: Path, backup: Backup) -> Tuple[Dict[str, str], _materialise.Outcome]:
    """What the directory of the server's configuration holds once it was filled, the instance having its own."""
    live, custom = directory / "live", directory / "custom"
    custom.mkdir()
    (live / "conf.d").mkdir(parents=True)
    (live / "conf.d" / "mine.conf").write_text("work_mem = 5MB\n")
    (live / "pgsodium_root.key").write_text(OTHER_KEY)
    os.chmod(live / "pgsodium_root.key", 0o400)
    place = _materialise.Target(mock.Mock(), str(directory / "data"), str(custom), str(live))
    outcome = _materialise.Outcome()
    one = maker()
    one._engine = mock.Mock(directory_of_image=lambda _image, _path: None)
    one._prepare_custom(backup, place, "image")
    one._unpack(backup, place, outcome)
    return {str(path.relative_to(custom)): path.read_text() for path in custom.rglob("*") if path.is_file()}, outcome


EVIL = {"conf.d/evil.conf": "archive_command = 'id'\n", "read-replica.conf": "x = y\n"}


def test_only_the_key_is_taken_from_the_configuration_of_an_unsigned_backup(tmp_path: Path) -> None:
    backup = configuration(tmp_path, {**EVIL, "pgsodium_root.key": KEY}, False)
    found, outcome = prepared(tmp_path, backup)
    assert found == {"conf.d/mine.conf": "work_mem = 5MB\n", "pgsodium_root.key": KEY}
    assert (tmp_path / "custom" / "pgsodium_root.key").stat().st_mode & 0o777 == 0o400
    assert outcome.differences == [] and "only the Vault root key was taken" in outcome.notes[0]


def test_the_configuration_of_a_signed_backup_comes_back(tmp_path: Path) -> None:
    files = {**EVIL, "pgsodium_root.key": KEY}
    found, outcome = prepared(tmp_path, configuration(tmp_path, files, True))
    assert found == files and outcome.differences == [] and outcome.notes == []


def test_an_unsigned_backup_without_a_key_leaves_the_one_that_is_there(tmp_path: Path) -> None:
    found, outcome = prepared(tmp_path, configuration(tmp_path, EVIL, False))
    assert found == {"conf.d/mine.conf": "work_mem = 5MB\n", "pgsodium_root.key": OTHER_KEY}
    assert outcome.differences == []


@pytest.mark.parametrize("text", ["", KEY + "\n", KEY[:-1], KEY + "0", "g" * 64, "$(id)", "é" * 32])
def test_what_is_no_key_is_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(IntegrityFailed, match="64 hexadecimal digits"):
        prepared(tmp_path, configuration(tmp_path, {"pgsodium_root.key": text}, False))


def test_a_directory_or_a_link_is_no_key(tmp_path: Path) -> None:
    with pytest.raises(IntegrityFailed):
        prepared(tmp_path, configuration(tmp_path, {"pgsodium_root.key/below": KEY}, False))
    for place in ("source", "live", "custom"):
        shutil.rmtree(tmp_path / place)
    (tmp_path / "source").mkdir()
    (tmp_path / "source" / "pgsodium_root.key").symlink_to("/etc/passwd")
    found, _outcome = prepared(tmp_path, configuration(tmp_path, {}, False))
    assert found["pgsodium_root.key"] == OTHER_KEY


def test_every_filesystem_is_synced_once(monkeypatch: pytest.MonkeyPatch) -> None:
    devices = {"/new/data": 1, "/new/custom": 1, "/disk/storage": 2, "/new/functions": 1, "/other/snippets": 3}
    synced: List[str] = []
    monkeypatch.setattr(_materialise, "sync_filesystem", synced.append)
    monkeypatch.setattr(os, "stat", lambda path: mock.Mock(st_dev=devices[path]))
    maker()._sync(target(storage="/disk/storage", functions="/new/functions", snippets="/other/snippets"))
    monkeypatch.undo()
    assert sorted(devices[path] for path in synced) == [1, 2, 3]


# Roles and passwords


def part_backup(directory: Path, part: str, text: str) -> Backup:
    name = "{0}.{1}.sql.gz".format(STEM, part)
    (directory / name).write_bytes(gzip.compress(text.encode("utf-8")))
    return Backup(str(directory), STEM, {"parts": {name: {"part": part, "size": 1, "sha256": ""}}}, True)


ROLES = (
    "\\restrict x\n"
    "SET standard_conforming_strings = on;\n"
    "CREATE ROLE anon;\n"
    "ALTER ROLE anon WITH NOSUPERUSER NOLOGIN;\n"
    "ALTER ROLE app WITH LOGIN PASSWORD '{0}' VALID UNTIL '2030-01-01 00:00:00+00';\n"
    'ALTER ROLE "a ""b"" c" WITH LOGIN PASSWORD \'{0}\';\n'
    "ALTER ROLE quoted WITH LOGIN PASSWORD 'it''s';\n"
    "ALTER ROLE app SET search_path TO 'a', 'b';\n"
    'GRANT "PASSWORD '
    "x"
    '" TO app;\n'
    "\\unrestrict x\n"
).format(VERIFIER)


def test_passwords_are_read_with_the_names_of_their_roles(tmp_path: Path) -> None:
    text = 'ALTER ROLE app PASSWORD \'{0}\';\nALTER ROLE "a ""b"" c" PASSWORD \'{0}\';\n'.format(VERIFIER)
    text += "ALTER ROLE quoted PASSWORD 'it''s';\n\n"
    found = _materialise.saved_passwords(part_backup(tmp_path, "passwords", text))
    assert found == {"app": VERIFIER, 'a "b" c': VERIFIER, "quoted": "it's"}
    assert _materialise.saved_passwords(part_backup(tmp_path, "globals", ROLES)) == {}


def test_passwords_are_taken_out_and_nothing_else(tmp_path: Path) -> None:
    text = _materialise.without_passwords(ROLES)
    assert VERIFIER not in text and "it''s" not in text and "\\" not in text
    assert "ALTER ROLE app WITH LOGIN VALID UNTIL '2030-01-01 00:00:00+00';\n" in text
    assert 'ALTER ROLE "a ""b"" c" WITH LOGIN;\n' in text
    kept = [line for line in ROLES.split("\n") if "PASSWORD" not in line and not line.startswith("\\")]
    assert [line for line in text.split("\n") if line in kept] == kept
    assert _materialise.without_passwords(text) == text


def test_settings_that_speak_of_passwords_stay() -> None:
    line = "ALTER ROLE app SET \"my.note\" TO 'the PASSWORD ''x'' is old';"
    assert _materialise.without_passwords(line) == line


_NAMES = st.text(st.characters(codec="utf-8", exclude_characters="\x00\n\r"), min_size=1, max_size=12)


@PROPERTY
@given(role=_NAMES, verifier=_NAMES)
def test_a_password_that_is_set_is_one_statement(role: str, verifier: str) -> None:
    statement = _materialise.password_sql(role, verifier)
    assert statement.endswith(";\n")
    assert strip_quoted(statement) == "ALTER ROLE  PASSWORD ;\n"


def strip_quoted(sql: str) -> str:
    """SQL without what is quoted; fails when a quote is left open."""
    found = re.sub(r"\s?E'(?:[^'\\]|''|\\.)*'|'(?:[^']|'')*'|\"(?:[^\"]|\"\")*\"", "", sql, flags=re.DOTALL)
    assert "'" not in found and '"' not in found
    return found


def test_what_psql_reads_is_restricted_with_another_key_each_time() -> None:
    first, second = _materialise.restricted("SELECT 1;"), _materialise.restricted("SELECT 1;")
    assert first != second
    assert re.fullmatch(r"\\restrict [0-9a-f]{32}\nSELECT 1;", first)


# The scratch container


def target(**more: Any) -> _materialise.Target:
    stack = mock.Mock(confidential=frozenset())
    stack.name = "acme"
    return _materialise.Target(stack, "/new/data", "/new/custom", "/live/custom", **more)


SERVICE: Dict[str, Any] = {
    "image": "supabase/postgres:1",
    "command": ["postgres", "-c", "config_file=/etc/postgresql/postgresql.conf"],
    "environment": {"POSTGRES_PASSWORD": "p", "UNSET": None},
    "privileged": True,
    "network_mode": "host",
    "devices": ["/dev/x"],
    "cap_add": ["ALL"],
    "ports": [{"published": "5432"}],
    "mem_limit": "1073741824",
    "volumes": [
        {"type": "bind", "source": "/live/data", "target": "/var/lib/postgresql/data"},
        {"type": "bind", "source": "/live/init.sql", "target": "/docker-entrypoint-initdb.d/init.sql"},
        {"type": "bind", "source": "/live/roles.sql", "target": "/docker-entrypoint-initdb.d/roles.sql"},
        {"type": "volume", "source": "db-config", "target": "/etc/postgresql-custom"},
        {"type": "bind", "source": "/live/roles.sql", "target": "/second/place"},
    ],
}  # fmt: skip


def test_only_the_two_directories_are_writable_and_none_is_live() -> None:
    before = copy.deepcopy(SERVICE)
    options, host = _materialise.scratch_options(SERVICE, target(), 0)
    writable = {mount["Source"]: mount["Target"] for mount in host["mounts"] if not mount["ReadOnly"]}
    assert writable == {"/new/data": "/var/lib/postgresql/data", "/new/custom": "/etc/postgresql-custom"}
    assert not {"/live/data", "db-config"} & {mount["Source"] for mount in host["mounts"]}
    assert options["environment"] == {"POSTGRES_PASSWORD": "p"}
    assert options["labels"] == {_materialise.SCRATCH_LABEL: "acme"}
    assert options["command"][:3] == SERVICE["command"] and "fsync=off" in options["command"]
    assert "cron.launch_active_jobs=off" in options["command"]
    given_more = {"privileged", "network_mode", "devices", "cap_add", "port_bindings", "ports"}
    assert not given_more & (set(options) | set(host))
    assert host["security_opt"] == ["no-new-privileges:true"] and host["mem_limit"] == 1 << 30
    assert before == SERVICE, "the service is left as it is"


def test_a_file_that_is_mounted_twice_is_mounted_twice() -> None:
    _options, host = _materialise.scratch_options(SERVICE, target(), 0)
    assert {"/docker-entrypoint-initdb.d/roles.sql", "/second/place"} <= {m["Target"] for m in host["mounts"]}


@pytest.mark.parametrize(("limit", "asked", "expected"), [(None, 0, None), (None, 1 << 30, 1 << 30), (1, 0, 256 << 20)])
def test_memory(limit: Any, asked: int, expected: Any) -> None:
    _options, host = _materialise.scratch_options({"image": "x", "mem_limit": limit}, target(), asked)
    assert host.get("mem_limit") == expected


class Client:
    """Stands in for the Docker client: says what it is asked to create."""

    def __init__(self) -> None:
        self.created: Dict[str, Any] = {}
        self.started: List[str] = []

    def create_host_config(self, **options: Any) -> Mapping[str, Any]:
        return options

    def create_container(self, **options: Any) -> Mapping[str, str]:
        self.created = options
        return {"Id": "c1"}

    def start(self, container: str) -> None:
        self.started.append(container)


def test_a_scratch_container_has_no_network_whatever_the_service_has() -> None:
    client = Client()
    with mock.patch.object(Engine, "__init__", lambda self: None):
        engine = Engine()  # type: ignore[call-arg]
    engine._client = client
    engine._call = lambda _what, method, *args, **more: getattr(client, method)(*args, **more)  # type: ignore[method-assign]
    assert engine.create_isolated(*_materialise.scratch_options(SERVICE, target(), 0)) == "c1"
    assert client.created["host_config"]["network_mode"] == "none" and client.started == ["c1"]
    with pytest.raises(TypeError):
        engine.create_isolated({"image": "x"}, {"network_mode": "host"})


# What is compared


def fingerprint(**more: Any) -> Dict[str, Any]:
    found: Dict[str, Any] = {
        "tables": {"public.t": [3, "11", None], "(large objects)": [0, "0", None]},
        "sequences": {"public.s": [7, 3], "public.down": [-4, -1]},
        "rights": {"public": "r1"},
        "definitions": {"policy": "p1"},
        "extensions": {"pgcrypto": ["1.3", "extensions", "supabase_admin"]},
        "settings": [["", "search_path=public"]],
    }
    found.update(more)
    return found


DIFFERENCES = {
    "table public.t has 2 rows instead of 3": {
        "tables": {"public.t": [2, "11", None], "(large objects)": [0, "0", None]}
    },
    "table public.t has other rows (hash 12 instead of 11)": {
        "tables": {"public.t": [3, "12", None], "(large objects)": [0, "0", None]}
    },
    "table public.t is missing": {"tables": {"(large objects)": [0, "0", None]}},
    "sequence public.s stands at 6 instead of 7": {"sequences": {"public.s": [6, 3], "public.down": [-4, -1]}},
    "sequence public.s stands at None instead of 7": {"sequences": {"public.down": [-5, -1]}},
    "sequence public.down stands at -3 instead of -4": {"sequences": {"public.s": [10, 3], "public.down": [-3, -1]}},
    "table x.y is not in the manifest": {"tables": {**fingerprint()["tables"], "x.y": [0, "0", None]}},
    "rights in public differ": {"rights": {}},
    "rights in more differ": {"rights": {"public": "r1", "more": "r2"}},
    "policy definitions differ": {"definitions": {"policy": "p2"}},
    "extension pgcrypto is missing": {"extensions": {}},
    "extension pgcrypto is of postgres in extensions, not of supabase_admin in extensions": {
        "extensions": {"pgcrypto": ["1.3", "extensions", "postgres"]}
    },
    "settings of the database or of roles in it differ": {"settings": []},
}


@pytest.mark.parametrize("said", sorted(DIFFERENCES))
def test_a_difference_is_said_by_itself(said: str) -> None:
    assert _fingerprint.differences(fingerprint(), fingerprint(**DIFFERENCES[said])) == [said]


def test_what_is_no_difference() -> None:
    assert _fingerprint.differences(fingerprint(), fingerprint()) == []
    newer = {"pgcrypto": ["1.4", "extensions", "supabase_admin"], "another": ["1", "x", "y"]}
    assert _fingerprint.differences(fingerprint(), fingerprint(extensions=newer)) == []
    # What belongs to an extension is another thing once the extension is another version.
    theirs = {
        "tables": {**fingerprint()["tables"], "x.lookup": [9, "9", "pgcrypto"]},
        "rights": {"public": "r1", "extension pgcrypto": "r9"},
        "definitions": {"policy": "p1", "extension pgcrypto": "d9"},
    }
    assert _fingerprint.differences(fingerprint(), fingerprint(extensions=newer, **theirs)) == []
    assert len(_fingerprint.differences(fingerprint(), fingerprint(**theirs))) == 3
    ahead = {"public.s": [10, 3], "public.down": [-9, -1], "public.new": [1, 1]}
    assert _fingerprint.differences(fingerprint(), fingerprint(sequences=ahead)) == []


def test_rows_of_an_extension_of_another_version_are_counted() -> None:
    """Their hash is another one when the columns are; rows that are missing are missing."""
    newer = {"pgcrypto": ["1.4", "extensions", "supabase_admin"]}

    def said(before: Any, after: Any) -> List[str]:
        expected, found = fingerprint(), fingerprint(extensions=newer)
        for one, row in ((expected, before), (found, after)):
            one["tables"] = {**one["tables"], **({} if row is None else {"x.jobs": [row, str(row) + "h", "pgcrypto"]})}
        found["tables"].get("x.jobs", [0, ""])[1] = "other"
        return _fingerprint.differences(expected, found)

    words = "table x.jobs of extension pgcrypto, which is another version now, "
    assert said(5, 5) == [] and said(0, 3) == [] and said(None, 3) == [] and said(0, None) == []
    assert said(5, 4) == [words + "has 4 rows instead of 5"]
    assert said(5, 6) == [words + "has 6 rows instead of 5"]
    assert said(5, None) == [words + "is missing"]


def test_all_differences_are_said() -> None:
    empty = {"tables": {}, "rights": {}, "definitions": {}, "extensions": {}, "settings": []}
    assert len(_fingerprint.differences(fingerprint(), empty)) == 8


def test_roles() -> None:
    assert _fingerprint.role_differences({"a": [1], "b": [2]}, {"a": [1], "b": [2], "c": [3]}) == []
    assert _fingerprint.role_differences({"a": [1], "b": [2]}, {"b": [3]}) == [
        "role a is missing",
        "role b has other attributes, settings or memberships",
    ]


SETTINGS = [
    (["", "statement_timeout=5s"], 'ALTER DATABASE "d" SET "statement_timeout" TO \'5s\';\n'),
    (["r", "statement_timeout=5s"], 'ALTER ROLE "r" IN DATABASE "d" SET "statement_timeout" TO \'5s\';\n'),
    (['r"x', "a=b"], 'ALTER ROLE "r""x" IN DATABASE "d" SET "a" TO \'b\';\n'),
    (["", "app.settings.jwt=a=b"], 'ALTER DATABASE "d" SET "app"."settings"."jwt" TO \'a=b\';\n'),
    (["", "a=it's"], "ALTER DATABASE \"d\" SET \"a\" TO 'it''s';\n"),
    (["", "a=b\\c'"], "ALTER DATABASE \"d\" SET \"a\" TO  E'b\\\\c''';\n"),
    (["", "a="], 'ALTER DATABASE "d" SET "a" TO \'\';\n'),
    (["", "search_path="], 'ALTER DATABASE "d" SET "search_path" TO \'\';\n'),
]


@pytest.mark.parametrize(("entry", "expected"), SETTINGS)
def test_a_setting_is_one_statement(entry: List[str], expected: str) -> None:
    assert _fingerprint.settings_sql("d", [entry]) == expected


def test_a_list_stays_a_list() -> None:
    found = _fingerprint.settings_sql("d", [["", 'search_path="$user", public, "a ""b"" c"']])
    _, _, value = found.partition(" TO ")
    assert re.sub(r"['\s;]", "", value).replace('"', "") == "$user,public,abc"


@pytest.mark.parametrize(
    "value",
    [
        "public; DROP DATABASE x",
        "a', 'b'; SELECT 1",
        'a"; SELECT 1; --',
        "a\n; SELECT 1",
        "a; COPY t FROM PROGRAM 'id'",
    ],
)
def test_a_list_cannot_end_its_statement(value: str) -> None:
    """A manifest that was not signed brings its settings too, and scan() does not see them."""
    sql = _fingerprint.settings_sql("d", [["", "search_path=" + value]])
    assert strip_quoted(sql).count(";") == 1


@PROPERTY
@given(role=_NAMES, name=st.from_regex(r"[a-z_]+(\.[a-z_\"]+)?", fullmatch=True), value=_NAMES)
def test_any_setting_is_one_statement(role: str, name: str, value: str) -> None:
    sql = _fingerprint.settings_sql("d", [[role, name + "=" + value]])
    assert re.fullmatch(r"ALTER ROLE  IN DATABASE  SET \.? TO ?;\n", strip_quoted(sql).replace("..", "."))


@PROPERTY
@given(_NAMES)
def test_quoting_leaves_nothing_open(text: str) -> None:
    assert strip_quoted(_database.quote_literal(text)) == ""
    assert strip_quoted(_database.quote_identifier(text)) == ""


def test_a_nul_byte_is_never_quoted() -> None:
    for quote in (_database.quote_literal, _database.quote_identifier):
        with pytest.raises(ValueError, match="NUL"):
            quote("a\x00b")


def test_a_table_is_counted_by_its_quoted_name() -> None:
    assert 'FROM ONLY "a.b"."c""d" AS' in _fingerprint.table_query("a.b", 'c"d')


def test_requests_that_wait_are_not_counted() -> None:
    rows = [["net", name, "pg_net", True] for name in ("http_request_queue", "_http_response", "other")]
    assert [table.key for table in _fingerprint.tables(lambda _query: rows)] == ["net.other"]


def test_a_database_is_made_as_described() -> None:
    about = {
        "owner": 'o"',
        "encoding": "UTF8",
        "collate": "C",
        "ctype": "C",
        "provider": "c",
        "locale": None,
        "limit": -1,
    }
    sql = _database.create_sql('d"', {**about, "rights": None})
    assert strip_quoted(sql).count(";") == 2 and 'OWNER "o"""' in sql and "TEMPLATE template0" in sql
    assert _database.rights_sql("d", {**about, "rights": None}) == ""
    granted = _database.rights_sql("d", {**about, "rights": [["", "CONNECT", False], ['g"', "CREATE", True]]})
    assert 'GRANT CONNECT ON DATABASE "d" TO PUBLIC;\n' in granted
    assert 'GRANT CREATE ON DATABASE "d" TO "g""" WITH GRANT OPTION;\n' in granted
    with pytest.raises(_database.DatabaseFailed):
        _database.rights_sql("d", {**about, "rights": [["", "CONNECT; DROP", False]]})
