# SPDX-License-Identifier: GPL-3.0-or-later
"""The portable export: what is left out and rewritten, and that no row, text or body is touched."""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import stat
from pathlib import Path
from typing import Callable, Dict, Iterable, Iterator, List, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ansible_collections.multibase.supabase.plugins.module_utils import _portable
from ansible_collections.multibase.supabase.plugins.module_utils._portable import (
    ExportFailed,
    data_argv,
    export,
    filter_data,
    filter_roles,
    filter_schema,
    roles_argv,
    schema_argv,
)

Filter = Callable[[Iterable[bytes]], Iterator[bytes]]
RESET = "RESET ALL;\n"
REPLICA = "SET session_replication_role = replica;\n\n"


def lines(text: str) -> List[bytes]:
    """Cut as a pipe is read: behind line feeds only."""
    return list(io.BytesIO(text.encode("utf-8")))


def through(filtered: Filter, text: str) -> str:
    """Filter a text; what is always added is taken off."""
    result = b"".join(filtered(lines(text))).decode("utf-8")
    assert result.endswith(RESET)
    result = result[: -len(RESET)]
    if filtered is filter_data:
        assert result.startswith(REPLICA)
        result = result[len(REPLICA) :]
    return result


def active(text: str) -> List[str]:
    return [line for line in text.split("\n") if line.strip() and not line.startswith("--")]


# --- argv ------------------------------------------------------------------------------------------------------------


def test_programs_run_inside_the_container_and_carry_no_secret() -> None:
    for argv in (schema_argv(), data_argv(), roles_argv()):
        assert argv[0] in ("pg_dump", "pg_dumpall")
        assert {"--host=127.0.0.1", "--username=supabase_admin", "--no-password", "--encoding=UTF8"} <= set(argv)
        assert "--quote-all-identifiers" in argv
        assert not any("=postgres://" in argument or "PGPASSWORD" in argument for argument in argv)
    assert "--no-role-passwords" in roles_argv() and "--roles-only" in roles_argv()
    assert "--schema-only" in schema_argv() and "--data-only" in data_argv()
    assert not any(argument.startswith("--snapshot") for argument in schema_argv() + data_argv())
    assert "--snapshot=00000003-1" in schema_argv("00000003-1") and "--snapshot=00000003-1" in data_argv("00000003-1")


def test_rows_of_users_and_buckets_move_but_not_what_records_migrations() -> None:
    assert "--exclude-schema=auth" in schema_argv() and "--exclude-schema=storage" in schema_argv()
    assert "--exclude-schema=auth" not in data_argv() and "--exclude-schema=storage" not in data_argv()
    for table in ("auth.schema_migrations", "storage.migrations", "supabase_functions.migrations"):
        assert "--exclude-table=" + table in data_argv()
    for schema in ("vault", "pgsodium", "realtime", "_analytics"):
        assert "--exclude-schema=" + schema in data_argv() and "--exclude-schema=" + schema in schema_argv()


# --- statements ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "instead"),
    [
        ('CREATE SCHEMA "app";', 'CREATE SCHEMA IF NOT EXISTS "app";'),
        ('CREATE TABLE "public"."a b" (', 'CREATE TABLE IF NOT EXISTS "public"."a b" ('),
        ('CREATE SEQUENCE "public"."s"', 'CREATE SEQUENCE IF NOT EXISTS "public"."s"'),
        ('CREATE VIEW "public"."v" AS', 'CREATE OR REPLACE VIEW "public"."v" AS'),
        ('CREATE FUNCTION "public"."f"() RETURNS integer', 'CREATE OR REPLACE FUNCTION "public"."f"() RETURNS integer'),
        ('CREATE PROCEDURE "public"."p"()', 'CREATE OR REPLACE PROCEDURE "public"."p"()'),
        ('CREATE TRIGGER "t" BEFORE', 'CREATE OR REPLACE TRIGGER "t" BEFORE'),
        ('CREATE TYPE "public"."e" AS ENUM (', None),
        ('CREATE MATERIALIZED VIEW "public"."m" AS', None),
        ('CREATE CONSTRAINT TRIGGER "t" AFTER', None),
        ('CREATE PUBLICATION "mine"', None),
        ('ALTER PUBLICATION "supabase_realtime" ADD TABLE ONLY "public"."t"', None),
        ('ALTER DEFAULT PRIVILEGES FOR ROLE "postgres" IN SCHEMA "public" GRANT ALL ON TABLES TO "anon"', None),
        ('GRANT SELECT("a ON b"),UPDATE("c") ON TABLE "public"."t" TO "auth"', None),
        ('GRANT USAGE ON SCHEMA "authors" TO "anon"', None),
        ('REVOKE ALL ON FUNCTION "public"."auth"() FROM PUBLIC', None),
        ('CREATE POLICY "own" ON "public"."t" USING (true)', None),
    ],
)
def test_what_is_rewritten_and_what_stays(line: str, instead: str) -> None:
    end = " x);\n" if line.endswith("(") else ";\n" if not line.endswith(";") else "\n"
    assert through(filter_schema, line + end) == (instead or line) + end


@pytest.mark.parametrize(
    ("altered", "kind"),
    [("TABLE", "TABLE"), ("VIEW", "TABLE"), ("MATERIALIZED VIEW", "TABLE"), ("FUNCTION", "FUNCTION"),
     ("PROCEDURE", "PROCEDURE"), ("SEQUENCE", "SEQUENCE")],
)  # fmt: skip
def test_defaults_of_the_target_open_nothing(altered: str, kind: str) -> None:
    name = '"public"."a OWNER TO b"' + ('("x" "text")' if kind in ("FUNCTION", "PROCEDURE") else "")
    line = 'ALTER {0} {1} OWNER TO "postgres";\n'.format(altered, name)
    revoked = 'REVOKE ALL ON {0} {1} FROM "anon", "authenticated", "service_role";\n'.format(kind, name)
    assert through(filter_schema, line) == revoked + line


@pytest.mark.parametrize("name", ["pg_tle", "pgsodium", "pgmq"])
def test_extensions_that_choose_their_schema(name: str) -> None:
    line = 'CREATE EXTENSION IF NOT EXISTS "{0}" WITH SCHEMA "x";\n'.format(name)
    assert through(filter_schema, line) == 'CREATE EXTENSION IF NOT EXISTS "{0}";\n'.format(name)
    line = 'CREATE EXTENSION IF NOT EXISTS "pgcrypto" WITH SCHEMA "extensions";\n'
    assert through(filter_schema, line) == line


@pytest.mark.parametrize(
    "statement",
    [
        'CREATE EVENT TRIGGER "e" ON "ddl_command_end"\n         WHEN TAG IN (\'CREATE TABLE\')\n'
        '   EXECUTE FUNCTION "extensions"."grant_pg_net"();\n',
        'ALTER EVENT TRIGGER "e" OWNER TO "supabase_admin";\n',
        "COMMENT ON EVENT TRIGGER \"e\" IS 'two\n\nlines; here';\n",
        "CREATE PUBLICATION \"supabase_realtime\" WITH (publish = 'insert, update');\n",
        "CREATE PUBLICATION \"supabase_realtime_messages_publication\" WITH (publish = 'insert');\n",
        'ALTER PUBLICATION "supabase_realtime" OWNER TO "postgres";\n',
        'ALTER PUBLICATION "supabase_realtime_messages_publication" ADD TABLE ONLY "realtime"."messages";\n',
        'ALTER DEFAULT PRIVILEGES FOR ROLE "supabase_admin" IN SCHEMA "public" GRANT ALL ON TABLES TO "anon";\n',
        'ALTER FOREIGN DATA WRAPPER "w" OWNER TO "supabase_admin";\n',
        'GRANT ALL ON FOREIGN DATA WRAPPER "w" TO "postgres" WITH GRANT OPTION;\n',
        'GRANT USAGE ON SCHEMA "cron" TO "postgres" WITH GRANT OPTION;\n',
        'GRANT ALL ON FUNCTION "extensions"."armor"("bytea") TO "dashboard_user";\n',
        'REVOKE ALL ON TABLE "auth"."users" FROM "postgres";\n',
        'GRANT SELECT("x") ON TABLE "pg_catalog"."pg_shadow" TO "anon";\n',
        'REVOKE GRANT OPTION FOR ALL ON TABLE "_timescaledb_catalog"."x" FROM "anon";\n',
        "COMMENT ON EXTENSION \"pgcrypto\" IS 'cryptographic functions';\n",
        'CREATE POLICY "cron_job_policy" ON "cron"."job" USING (("username" = CURRENT_USER));\n',
        'ALTER TABLE "cron"."job" ENABLE ROW LEVEL SECURITY;\n',
        "SET transaction_timeout = 0;\n",
        "\\restrict 7qUvZ\n",
        "\\unrestrict 7qUvZ\n",
    ],
)
def test_what_the_platform_owns_becomes_a_comment_to_its_last_line(statement: str) -> None:
    around = 'CREATE TYPE "public"."t" AS ENUM (\'a\');\n'
    result = through(filter_schema, around + statement + around)
    assert active(result) == [around.rstrip()] * 2
    # Nothing is lost for a reader.
    assert result == around + "".join("-- " + line.decode() for line in lines(statement)) + around


def test_a_carriage_return_in_a_name_does_not_get_out_of_the_comment() -> None:
    result = through(filter_schema, 'CREATE EVENT TRIGGER "a\rDROP TABLE x;" ON "e";\n')
    assert "\r" not in result and not active(result)


BODIES = [
    "CREATE FUNCTION \"public\".\"f\"() RETURNS \"void\"\n    LANGUAGE \"plpgsql\"\n    AS $$\n"
    "begin\nCREATE TABLE \"x\" (a int);\nCREATE EVENT TRIGGER \"e\" ON ddl_command_end;\n"
    "SET transaction_timeout = 0;\n\\restrict x\nCOPY \"a\" FROM stdin;\nend\n$$;\n",
    "CREATE FUNCTION \"public\".\"f\"() RETURNS \"void\"\n    LANGUAGE \"plpgsql\"\n    AS $_$\n"
    "execute $$x$$;\nCREATE VIEW \"v\" AS select '$1';\n$_$;\n",
    # A text of the standard, a body with quotes in it, and one that says END inside CASE.
    "CREATE FUNCTION \"public\".\"f\"() RETURNS integer\n    LANGUAGE \"sql\"\n    BEGIN ATOMIC\n"
    " SELECT CASE WHEN true THEN 1 ELSE 2 END;\nCREATE TABLE \"x\";\nEND;\n",
    "CREATE FUNCTION \"public\".\"f\"(\"a\" \"text\" DEFAULT 'x;\nCREATE TABLE \"y\"'::\"text\") RETURNS integer\n"
    "    LANGUAGE \"sql\"\n    AS 'select 1;\nCREATE SCHEMA \"z\";\n''quoted\nCREATE SCHEMA \"z\"''';\n",
    "CREATE FUNCTION \"public\".\"f\"() RETURNS integer\n    LANGUAGE \"sql\"\n    AS E'a\\\\'';\n\\'\n"
    "CREATE SCHEMA \"z\";\n';\n",
    "CREATE FUNCTION \"public\".\"$$;\nCREATE TABLE \"\"\"() RETURNS integer\n    AS 'select 1';\n",
]  # fmt: skip


@pytest.mark.parametrize("body", BODIES)
def test_bodies_of_functions_are_not_touched(body: str) -> None:
    after = 'CREATE TABLE "public"."t" (\n    "a" integer\n);\n'
    result = through(filter_schema, body + "\n\n" + after)
    expected = body.replace("CREATE FUNCTION", "CREATE OR REPLACE FUNCTION", 1)
    assert result == expected + "\n\n" + after.replace("CREATE TABLE", "CREATE TABLE IF NOT EXISTS")


@pytest.mark.parametrize(
    "statement",
    [
        'COMMENT ON TABLE "public"."t" IS \'it\'\'s;\nCREATE TABLE "x"\n-- no comment\n\';\n',
        'CREATE RULE "r" AS\n    ON INSERT TO "public"."t" DO ( DELETE FROM "a";\nCREATE TABLE "x";\n);\n',
        'ALTER TABLE "public"."t" ALTER COLUMN "c" SET DEFAULT \'/*\';\n',
        'CREATE TYPE "public"."t" AS ENUM (\n    \'a\', /* ; /* \' */\nCREATE TABLE "x"\n */ \'b\'\n);\n',
        'CREATE OPERATOR "public".@> (\n    FUNCTION = "public"."f" -- \'\n);\n',
        'CREATE INDEX "a$$b" ON "public"."t" USING "btree" (a$$b);\n',
        'CREATE TYPE "public"."x\nCREATE TABLE "" y" AS ENUM ();\n',
    ],
)
def test_texts_comments_rules_and_names(statement: str) -> None:
    after = 'CREATE SCHEMA "z";\n'
    assert through(filter_schema, statement + after) == statement + 'CREATE SCHEMA IF NOT EXISTS "z";\n'


@pytest.mark.parametrize(
    "rest", ['COPY "t" FROM stdin;\n1\n', "SELECT 'x\n", "CREATE FUNCTION f() AS $$ x\n", "SELECT 1\n"]
)
@pytest.mark.parametrize("filtered", [filter_schema, filter_data, filter_roles])
def test_a_dump_that_ends_inside_a_statement_is_refused(filtered: Filter, rest: str) -> None:
    with pytest.raises(ExportFailed):
        list(filtered(lines(rest)))


# --- data ------------------------------------------------------------------------------------------------------------

HEADER = "SET statement_timeout = 0;\n"
NASTY_ROWS = (
    "1\tCREATE EVENT TRIGGER\n"
    'CREATE EVENT TRIGGER "x" ON y;\n'
    "\\\\restrict x\n"
    "SET transaction_timeout = 0;\n"
    "-- PostgreSQL database dump complete\n"
    "'\t$$\t\"\t/*\t;\n"
    "\n"
    "\\N\t\\\\.\n"
    "\\.x\n"
    'COPY "t" FROM stdin;\n'
    "a\rb\x0bc\x1cd\u0085e\u2028f\n"
)


def test_rows_survive_whatever_they_look_like() -> None:
    names = ['"public"."t" ("a")', '"public"."say ""hi""" ("x;")', '"public"."two\nCREATE TABLE" ("$$", "\'")']
    blocks = ["COPY {0} FROM stdin;\n{1}\\.\n\n\n".format(name, NASTY_ROWS) for name in names]
    setval = 'SELECT pg_catalog.setval(\'"public"."t_id_seq"\', 5, true);\n'
    text = HEADER + setval.join(blocks)
    assert through(filter_data, text) == text
    shape = "SET transaction_timeout = 0;\n{0}SET transaction_timeout = 0;\n\\unrestrict x\n"
    assert through(filter_data, shape.format(text)) == (
        "-- SET transaction_timeout = 0;\n{0}-- SET transaction_timeout = 0;\n-- \\unrestrict x\n".format(text)
    )


def test_rows_written_as_inserts_survive_too() -> None:
    text = "INSERT INTO \"t\" VALUES ('a\nSET transaction_timeout = 0;\n\\restrict x\n''', E'\\\\\n\\restrict y\n');\n"
    assert through(filter_data, text + "SET transaction_timeout = 0;\n") == text + "-- SET transaction_timeout = 0;\n"


PIECES = st.sampled_from([
    b"'", b'"', b"$$", b"$a$", b"\\\\", b"\\N", b"\t", b"\r", b";", b"--", b"/*", b"(", b"CREATE EVENT TRIGGER ",
    b'CREATE TABLE "', b"\\\\.", b"COPY t FROM stdin;", b"\\\\restrict ", b"SET transaction_timeout = 0;", b"\xc3\xa9",
])  # fmt: skip
ROWS = st.lists(
    st.lists(PIECES | st.binary(max_size=6).map(lambda piece: piece.replace(b"\n", b"")), max_size=6)
    .map(b"".join)
    .filter(lambda row: row.rstrip(b"\r") != b"\\."),
    max_size=6,
)
NAMES = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1, max_size=8)


@given(tables=st.lists(st.tuples(NAMES, ROWS), max_size=4), size=st.integers(1, 40))
def test_every_row_survives_byte_for_byte(tables: List[tuple[str, List[bytes]]], size: int) -> None:
    """Property: blocks come out as they went in, in each filter, however the stream was cut."""
    text = b""
    for name, rows in tables:
        quoted = '"{0}"'.format(name.replace('"', '""')).encode("utf-8")
        block = b"COPY " + quoted + b" FROM stdin;\n" + b"".join(row + b"\n" for row in rows) + b"\\.\n"
        text += b"SET transaction_timeout = 0;\n" + block
    cut = [text[start : start + size] for start in range(0, len(text), size)]
    for filtered in (filter_data, filter_schema, filter_roles):
        result = b"".join(filtered(_portable._whole_lines(cut)))
        result = result[len(REPLICA) :] if filtered is filter_data else result
        assert result == text_with_comments(tables) + RESET.encode()


def text_with_comments(tables: Sequence[tuple[str, List[bytes]]]) -> bytes:
    """The same tables, with a comment where the line stood that is left out."""
    text = b""
    for name, rows in tables:
        quoted = '"{0}"'.format(name.replace('"', '""')).encode("utf-8")
        text += b"-- SET transaction_timeout = 0;\nCOPY " + quoted + b" FROM stdin;\n"
        text += b"".join(row + b"\n" for row in rows) + b"\\.\n"
    return text


@given(
    body=st.lists(
        st.sampled_from([
            "'", '"', "$", "$$", "$b$", "\\", "\n", "\n\n", ";", ";\n", "--", "/*", "(", ")", "begin", "end", "é",
            '\nCREATE TABLE "', "\nCREATE EVENT TRIGGER ", "\n\\restrict x\n", "COPY t FROM stdin;\n", "\n\\.\n",
        ]),
        max_size=12,
    ).map("".join)
)  # fmt: skip
def test_every_body_and_text_survives(body: str) -> None:
    """Property: whatever stands in quotes of any kind is text."""
    literal = "'{0}'".format(body.replace("'", "''"))
    escaped = "E'{0}'".format(body.replace("\\", "\\\\").replace("'", "''"))
    dollars = "$body${0}$body$".format(body)
    name = '"{0}"'.format(body.replace('"', '""'))
    text = "".join("SELECT {0};\n".format(quoted) for quoted in (literal, escaped, dollars, name))
    assert through(filter_schema, text + 'CREATE SCHEMA "z";\n') == text + 'CREATE SCHEMA IF NOT EXISTS "z";\n'


# --- roles -----------------------------------------------------------------------------------------------------------

ROLES = """\\restrict abc

SET default_transaction_read_only = off;

CREATE ROLE "anon";
ALTER ROLE "anon" WITH NOSUPERUSER NOINHERIT NOCREATEROLE NOCREATEDB NOLOGIN NOREPLICATION NOBYPASSRLS;
CREATE ROLE "app";
ALTER ROLE "app" WITH NOSUPERUSER INHERIT NOCREATEROLE NOCREATEDB LOGIN NOREPLICATION NOBYPASSRLS CONNECTION LIMIT 3;
CREATE ROLE "supabase_x";
CREATE ROLE "x NOSUPERUSER";
ALTER ROLE "x NOSUPERUSER" WITH NOSUPERUSER PASSWORD 'SCRAM-SHA-256$4096:a''b' VALID UNTIL '2030-01-01';
CREATE ROLE "anonymous";
ALTER ROLE "anon" SET "statement_timeout" TO '3s';
ALTER ROLE "anon" SET "search_path" TO 'x';
ALTER ROLE "authenticator" SET "pgrst.db_schemas" TO 'public';
ALTER ROLE "app" SET "app.note" TO 'a
CREATE ROLE "postgres";
';
GRANT "anon" TO "authenticator" WITH INHERIT FALSE GRANTED BY "supabase_admin";
GRANT "app" TO "postgres" WITH ADMIN OPTION, INHERIT FALSE, SET FALSE GRANTED BY "supabase_admin";
GRANT "authenticated" TO "app" WITH INHERIT TRUE GRANTED BY "supabase_admin";
GRANT "app" TO "anonymous" WITH INHERIT TRUE GRANTED BY "postgres";
GRANT SET ON PARAMETER "log_min_messages" TO "supabase_auth_admin";
GRANT SET ON PARAMETER "log_min_messages" TO "app";
\\unrestrict abc
"""


def test_roles_of_the_user_move_without_passwords() -> None:
    result = through(filter_roles, ROLES)
    assert active(result) == [
        "SET default_transaction_read_only = off;",
        'CREATE ROLE "app";',
        'ALTER ROLE "app" WITH INHERIT NOCREATEROLE NOCREATEDB LOGIN NOBYPASSRLS CONNECTION LIMIT 3;',
        'CREATE ROLE "x NOSUPERUSER";',
        "ALTER ROLE \"x NOSUPERUSER\" WITH VALID UNTIL '2030-01-01';",
        'CREATE ROLE "anonymous";',
        'ALTER ROLE "anon" SET "statement_timeout" TO \'3s\';',
        'ALTER ROLE "authenticator" SET "pgrst.db_schemas" TO \'public\';',
        'ALTER ROLE "app" SET "app.note" TO \'a',
        'CREATE ROLE "postgres";',
        "';",
        'GRANT "authenticated" TO "app" WITH INHERIT TRUE;',
        'GRANT "app" TO "anonymous" WITH INHERIT TRUE GRANTED BY "postgres";',
        'GRANT SET ON PARAMETER "log_min_messages" TO "app";',
    ]
    assert "SCRAM" not in result


# --- files -----------------------------------------------------------------------------------------------------------

OUTPUTS: Dict[str, str] = {
    "--roles-only": 'CREATE ROLE "app";\n-- PostgreSQL database cluster dump complete\n',
    "--schema-only": 'CREATE SCHEMA "app";\n-- PostgreSQL database dump complete\n',
    "--data-only": 'COPY "t" FROM stdin;\n1\n\\.\n-- PostgreSQL database dump complete\n',
}


class Database:
    """Answers as the container would, in pieces of three bytes; one command can be cut short or fail at its end."""

    def __init__(self, cut: str = "", fails: str = "") -> None:
        self.cut = cut
        self.fails = fails

    @contextlib.contextmanager
    def __call__(self, argv: Sequence[str]) -> Iterator[Iterable[bytes]]:
        kind = next(kind for kind in OUTPUTS if kind in argv)
        output = OUTPUTS[kind].encode()
        output = output.split(b"-- Post")[0] if kind == self.cut else output
        yield (output[start : start + 3] for start in range(0, len(output), 3))
        if kind == self.fails:
            raise RuntimeError("pg_dump ended with 1")


@pytest.mark.parametrize("umask", [0o000, 0o077, 0o777])
def test_three_files_that_only_their_owner_reads(tmp_path: Path, umask: int) -> None:
    (tmp_path / "data.sql.partial").write_bytes(b"of a run that was killed")
    (tmp_path / "roles.sql").write_bytes(b"old")
    before = os.umask(umask)
    try:
        written = export(Database(), str(tmp_path))
    finally:
        os.umask(before)
    assert [item["file"] for item in written] == ["roles.sql", "schema.sql", "data.sql"]
    assert sorted(os.listdir(str(tmp_path))) == ["data.sql", "roles.sql", "schema.sql"]
    for item in written:
        content = (tmp_path / item["file"]).read_bytes()
        assert item["size"] == len(content) and item["sha256"] == hashlib.sha256(content).hexdigest()
        assert stat.S_IMODE(os.stat(tmp_path / item["file"]).st_mode) == 0o600
        assert content.endswith(RESET.encode())
    assert (tmp_path / "data.sql").read_bytes().startswith(REPLICA.encode() + b'COPY "t" FROM stdin;\n1\n')
    assert b'CREATE SCHEMA IF NOT EXISTS "app"' in (tmp_path / "schema.sql").read_bytes()


@pytest.mark.parametrize("kind", list(OUTPUTS))
@pytest.mark.parametrize("how", ["cut", "fails"])
def test_a_failure_leaves_what_was_there_and_nothing_else(tmp_path: Path, kind: str, how: str) -> None:
    (tmp_path / "roles.sql").write_bytes(b"old")
    with pytest.raises(ExportFailed if how == "cut" else RuntimeError):
        export(Database(**{how: kind}), str(tmp_path))
    assert os.listdir(str(tmp_path)) == ["roles.sql"] and (tmp_path / "roles.sql").read_bytes() == b"old"


def test_names_are_given_when_everything_is_on_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done: List[str] = []
    for name in ("fsync", "rename"):
        original = getattr(os, name)

        def spy(*args: object, name: str = name, original: Callable[..., None] = original) -> None:
            done.append(name)
            original(*args)

        monkeypatch.setattr(os, name, spy)
    export(Database(), str(tmp_path))
    assert done == ["fsync"] * 3 + ["rename"] * 3 + ["fsync"]
