# SPDX-License-Identifier: GPL-3.0-or-later
"""A portable export of a real PostgreSQL, loaded into a fresh one: everything of the user must be there again.

The image is the sandbox's (``make demo`` builds it). Containers carry a name of their own and are removed by it.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import subprocess
import time
from pathlib import Path
from typing import Dict, Iterable, Iterator, List, Sequence, Tuple, Union

import pytest

from ansible_collections.multibase.supabase.plugins.module_utils._portable import ExportedFile, export

IMAGE = "multibase-sandbox/db:17"
FILES = ("roles.sql", "schema.sql", "data.sql")

SEED = r"""
create role app_reader login password 'never-exported' valid until '2031-01-01';
create role "Odd ""Role" nologin noinherit;
alter role app_reader set statement_timeout = '7s';
alter role app_reader set "app.note" to 'two
CREATE ROLE "x";';
alter role anon set statement_timeout = '4s';
grant authenticated to app_reader;
grant app_reader to "Odd ""Role";

create extension citext schema extensions;
create extension pg_cron;
select cron.schedule('nightly', '0 3 * * *', 'select 1');

create schema app;
grant usage on schema app to app_reader, anon;
set role postgres;
create type public.mood as enum ('glad', 'sad', 'CREATE TABLE "x"');
create domain public.positive as int check (value > 0);
create table public.teams(
  id int generated always as identity primary key, name extensions.citext unique, mood public.mood default 'glad');
create table public.members(
  id bigserial primary key, team int not null references public.teams on delete cascade deferrable,
  chief bigint references public.members, owner uuid references auth.users, size public.positive default 1,
  note text, raw bytea, tags text[], doc jsonb, twice int generated always as (team * 2) stored);
create index members_note on public.members using gin (to_tsvector('simple', note));
create table public."say ""hi"";" ("x;" int, "$$" text, "a
CREATE TABLE ""b" text);
create table public.nothing();
create table public.parted(k int, v text) partition by range (k);
create table public.parted_low partition of public.parted for values from (0) to (100);
comment on table public.members is 'it''s
CREATE EVENT TRIGGER "x" ON y;
SET transaction_timeout = 0;
-- end';
create sequence public.counter start 7 increment 3;
alter table public.members enable row level security;
alter table public.teams enable row level security, force row level security;
create policy own on public.members for all to authenticated, app_reader
  using (auth.uid() = owner) with check (note <> 'CREATE POLICY "x";');
create policy everyone on public.teams for select using (true);
create view public.glad with (security_invoker = true) as select * from public.teams where mood = 'glad';
create materialized view public.sizes as select team, count(*) n from public.members group by team;
create function public.makes(a int default 1, b text default 'x;
CREATE TABLE "y" (') returns int language plpgsql security definer set search_path = '' as $outer$
begin
  execute $$
CREATE TABLE "inside" (a int);
COPY "x" FROM stdin;
SET transaction_timeout = 0;
$$;
  return a;
end
$outer$;
create function public.atomic(a int) returns int language sql
begin atomic
  select case when a > 1 then 1 else 2 end;
  select a + 1;
end;
create function public.stamp() returns trigger language plpgsql as $$
begin new.note := coalesce(new.note, 'stamped'); return new; end $$;
create procedure public.call_me() language sql as $$ select 1 $$;
create trigger stamp before insert or update on public.members for each row execute function public.stamp();
revoke all on function public.makes(int, text) from public, anon;
grant execute on function public.makes(int, text) to app_reader;
revoke all on public.members from anon;
grant select (id, note), update (note) on public.members to app_reader with grant option;
reset role;
create table app.of_admin(id int primary key);
grant select on app.of_admin to postgres, app_reader;
alter default privileges for role postgres in schema app grant select on tables to app_reader;
create rule quiet as on delete to app.of_admin do instead nothing;
create function app.noted() returns event_trigger language plpgsql as $$ begin null; end $$;
create event trigger noted on ddl_command_end when tag in ('CREATE TABLE', 'CREATE VIEW')
  execute function app.noted();
comment on event trigger noted is 'stays at home;
really';
alter publication supabase_realtime add table public.members;

insert into auth.users(id, email, encrypted_password)
  select ('00000000-0000-0000-0000-00000000000' || n)::uuid, 'u' || n || '@x.test', 'hash' from generate_series(1, 3) n;
insert into auth.schema_migrations values ('20240101');
insert into storage.migrations(id, name) values (1, 'first');
insert into storage.buckets(id, name, public) values ('avatars', 'avatars', true);
insert into storage.objects(bucket_id, name, metadata) values ('avatars', 'a/b.png', '{"size": 3}');
insert into public.teams(name, mood) values ('One', 'glad'), ('Zwö', 'CREATE TABLE "x"'), (null, null);
insert into public.members(team, owner, note, raw, tags, doc)
  select 1 + n % 3, ('00000000-0000-0000-0000-00000000000' || 1 + n % 3)::uuid, note, decode(md5(n::text), 'hex'),
         array[note, null, '\.'], jsonb_build_object('k', note)
    from generate_series(1, 40) n, unnest(array[
      'CREATE EVENT TRIGGER "x" ON y;', E'\\restrict x\nSET transaction_timeout = 0;\n\\.\n', '\.', '\N', '', null,
      E'tab\tcr\rvt\x0b', '$$ '' " /* -- ;', 'é😀', E'COPY "t" FROM stdin;\n1\n\\.\nDROP TABLE public.teams;']) note;
update public.members set chief = id + 1 where id < 100;
insert into public."say ""hi"";" values (1, E'\\.', 'CREATE TABLE "x"');
insert into public.parted values (1, 'a'), (2, 'b');
insert into app.of_admin values (1), (2);
refresh materialized view public.sizes;
select nextval('public.counter') from generate_series(1, 5);
"""

# What must be the same on both sides; each query answers one text.
CHECKS: Dict[str, str] = {
    "relations": r"""
        select string_agg(format('%s %s %s %s %s %s %s', c.oid::regclass, c.relkind, r.rolname, c.relrowsecurity,
        c.relforcerowsecurity, c.reloptions, obj_description(c.oid)), e'\n' order by c.oid::regclass::text) from
        pg_class c join pg_namespace n on n.oid = relnamespace join pg_roles r on r.oid = relowner where n.nspname in
        ('public', 'app')
    """,
    "columns": r"""
        select string_agg(format('%s %s %s %s %s %s', c.oid::regclass, attname, format_type(atttypid, atttypmod),
        attidentity, attgenerated, attnotnull), e'\n' order by c.oid::regclass::text, attnum) from pg_attribute join
        pg_class c on c.oid = attrelid join pg_namespace n on n.oid = relnamespace where attnum > 0 and n.nspname in
        ('public', 'app')
    """,
    "constraints": r"""
        select string_agg(format('%s %s %s', conrelid::regclass, conname, pg_get_constraintdef(p.oid)), e'\n' order by
        conrelid::regclass::text, conname) from pg_constraint p join pg_namespace n on n.oid = connamespace where
        n.nspname in ('public', 'app')
    """,
    "indexes": r"""
        select string_agg(indexdef, e'\n' order by indexdef) from pg_indexes n(nspname) where n.nspname in ('public',
        'app')
    """,
    "functions": r"""
        select string_agg(pg_get_functiondef(p.oid) || proowner::regrole, e'\n' order by p.oid::regprocedure::text)
        from pg_proc p join pg_namespace n on n.oid = pronamespace where n.nspname in ('public', 'app')
    """,
    "triggers": r"""
        select string_agg(pg_get_triggerdef(t.oid), e'\n' order by tgname) from pg_trigger t join pg_class c on c.oid
        = tgrelid join pg_namespace n on n.oid = relnamespace where not tgisinternal and n.nspname in ('public',
        'app')
    """,
    "rules": r"""
        select string_agg(definition, e'\n' order by tablename, rulename) from pg_rules n(nspname) where n.nspname in
        ('public', 'app')
    """,
    "views": r"""
        select string_agg(viewname || definition, e'\n' order by viewname) from pg_views n(nspname) where n.nspname in
        ('public', 'app')
    """,
    "policies": r"""
        select string_agg(format('%s', p), e'\n' order by policyname) from pg_policies p where schemaname in
        ('public', 'app')
    """,
    "enums": r"""
        select string_agg(enumtypid::regtype || enumlabel, e'\n' order by enumtypid::regtype::text, enumsortorder)
        from pg_enum
    """,
    "publication": r"""
        select string_agg(format('%s', p), e'\n' order by tablename) from pg_publication_tables p
    """,
    "extensions": r"""
        select string_agg(extname || extnamespace::regnamespace, e'\n' order by extname) from pg_extension
    """,
    "sequences": r"""
        select string_agg(format('%s', s), e'\n' order by sequencename) from pg_sequences s where schemaname <> 'cron'
    """,
    "acl of relations": r"""
        select string_agg(format('%s %s', c.oid::regclass, x), e'\n' order by c.oid::regclass::text, x::text) from
        pg_class c join pg_namespace n on n.oid = relnamespace, unnest(coalesce(relacl, acldefault('r', relowner))) x
        where relkind <> 'i' and n.nspname in ('public', 'app')
    """,
    "acl of columns": r"""
        select string_agg(format('%s %s %s', attrelid::regclass, attname, x), e'\n' order by attname, x::text) from
        pg_attribute join pg_class c on c.oid = attrelid join pg_namespace n on n.oid = relnamespace, unnest(attacl) x
        where n.nspname in ('public', 'app')
    """,
    "acl of functions": r"""
        select string_agg(format('%s %s', p.oid::regprocedure, x), e'\n' order by p.oid::regprocedure::text, x::text)
        from pg_proc p join pg_namespace n on n.oid = pronamespace, unnest(coalesce(proacl, acldefault('f',
        proowner))) x where n.nspname in ('public', 'app')
    """,
    "acl of schemas": r"""
        select string_agg(format('%s %s %s', nspname, nspowner::regrole, x), e'\n' order by nspname, x::text) from
        pg_namespace, unnest(nspacl) x where nspname in ('public', 'app', 'auth', 'storage')
    """,
    "default acl": r"""
        select string_agg(format('%s %s %s %s', defaclrole::regrole, defaclnamespace::regnamespace, defaclobjtype, x),
        e'\n' order by defaclrole::regrole::text, defaclnamespace, defaclobjtype, x::text) from pg_default_acl,
        unnest(defaclacl) x
    """,
    "roles": r"""
        select string_agg(format('%s %s %s %s %s %s %s %s', rolname, rolinherit, rolcreaterole, rolcreatedb,
        rolcanlogin, rolbypassrls, rolvaliduntil, rolconfig), e'\n' order by rolname) from pg_roles where rolname !~
        '^(pg_|supabase_admin)'
    """,
    "memberships": r"""
        select string_agg(format('%s %s %s %s', roleid::regrole, member::regrole, admin_option, inherit_option), e'\n'
        order by roleid::regrole::text, member::regrole::text) from pg_auth_members where member::regrole::text !~
        '^(pg_|postgres|supabase|authenticator)'
    """,
}
TABLES = """
    select c.oid::regclass from pg_class c join pg_namespace n on n.oid = relnamespace where relkind in ('r', 'm')
    and (n.nspname in ('public', 'app') or c.oid::regclass::text in ('auth.users', 'storage.buckets',
    'storage.objects')) order by 1
"""


class Database:
    """A container of the sandbox's image, with PGPASSWORD in its environment as the stacks' Compose file has it."""

    def __init__(self) -> None:
        self.name = "multibase-test-portable-" + secrets.token_hex(4)
        self.password = secrets.token_hex(16)
        argv = ["docker", "run", "--detach", "--pull=never", "--name", self.name, "--env", "POSTGRES_PASSWORD"]
        environment = dict(os.environ, POSTGRES_PASSWORD=self.password, PGPASSWORD=self.password)
        subprocess.run([*argv, "--env", "PGPASSWORD", IMAGE], env=environment, check=True, stdout=subprocess.DEVNULL)

    def wait(self) -> None:
        deadline = time.monotonic() + 90
        argv = ["docker", "exec", self.name, "pg_isready", "-q", "-h", "127.0.0.1", "-U", "postgres"]
        while subprocess.run(argv, check=False).returncode != 0:
            assert time.monotonic() < deadline, subprocess.run(
                ["docker", "logs", "--tail=20", self.name], check=False, capture_output=True
            )
            time.sleep(0.2)

    def psql(self, text: Union[str, bytes], *options: str, user: str = "supabase_admin") -> str:
        argv = [
            "docker",
            "exec",
            "--interactive",
            self.name,
            "psql",
            "-XqAt",
            "-v",
            "ON_ERROR_STOP=1",
            "-h",
            "127.0.0.1",
        ]
        given = text.encode() if isinstance(text, str) else text
        done = subprocess.run([*argv, "-U", user, "-d", "postgres", *options], input=given, capture_output=True)
        assert done.returncode == 0, done.stderr.decode()
        return done.stdout.decode()

    @contextlib.contextmanager
    def stream(self, argv: Sequence[str]) -> Iterator[Iterable[bytes]]:
        process = subprocess.Popen(["docker", "exec", self.name, *argv], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        assert process.stdout is not None and process.stderr is not None
        with process:
            yield process.stdout
            errors = process.stderr.read()
        if process.returncode != 0:
            raise RuntimeError(errors.decode())

    def facts(self, without: Sequence[str] = ()) -> Dict[str, str]:
        found = {name: self.psql(query) for name, query in CHECKS.items() if name not in without}
        for table in self.psql(TABLES).splitlines():
            query = "select count(*), md5(string_agg(md5(t::text), '' order by t::text)) from {0} t".format(table)
            found["rows of " + table] = self.psql(query)
        return found

    def remove(self) -> None:
        subprocess.run(["docker", "rm", "--force", "--volumes", self.name], check=False, stdout=subprocess.DEVNULL)


@pytest.fixture(scope="module")
def databases() -> Iterator[List[Database]]:
    made: List[Database] = []
    try:
        for _number in range(3):
            made.append(Database())
        for database in made:
            database.wait()
        yield made
    finally:
        for database in made:
            database.remove()


@pytest.fixture(scope="module")
def exported(databases: List[Database], tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("export")
    databases[0].psql(SEED)
    written: List[ExportedFile] = export(databases[0].stream, str(directory))
    assert [item["file"] for item in written] == list(FILES)
    return directory


def load(database: Database, directory: Path, roles_as: str, schema_as: str, data_as: str = "supabase_admin") -> None:
    """Load the files, then refresh the materialized views, which pg_dump leaves empty when it dumps in two parts."""
    for name, user in zip(FILES, (roles_as, schema_as, data_as)):
        database.psql((directory / name).read_bytes(), "--single-transaction", user=user)
    database.psql("refresh materialized view public.sizes")


def differences(before: Dict[str, str], after: Dict[str, str]) -> Dict[str, Tuple[List[str], List[str]]]:
    different = [name for name in sorted({*before, *after}) if before.get(name) != after.get(name)]
    both = {name: (set(before.get(name, "").split("\n")), set(after.get(name, "").split("\n"))) for name in different}
    return {name: (sorted(one - two), sorted(two - one)) for name, (one, two) in both.items()}


def test_everything_of_the_user_is_there_again(databases: List[Database], exported: Path) -> None:
    source, target, _other = databases
    load(target, exported, "supabase_admin", "supabase_admin")
    before = source.facts()
    assert len(before) > len(CHECKS) + 8 and all(value.strip() for value in before.values()), before
    assert differences(before, target.facts()) == {}
    # What the platform owns stayed at home.
    assert target.psql("select count(*) from pg_event_trigger where evtname = 'noted'").strip() == "0"
    recorded = "select (select count(*) from auth.schema_migrations) + (select count(*) from storage.migrations)"
    assert target.psql(recorded).strip() == "0" and source.psql(recorded).strip() == "2"
    # Triggers are awake again, and identities go on where they were.
    assert target.psql("insert into public.members(team) values (1) returning note, id").strip() == "stamped|401"


def test_a_second_load_of_the_schema_stops_at_what_cannot_be_twice(databases: List[Database], exported: Path) -> None:
    text = (exported / "schema.sql").read_bytes()
    with pytest.raises(AssertionError, match="already exists"):
        databases[1].psql(text, "--single-transaction")


def test_no_secret_of_a_role_is_exported(exported: Path) -> None:
    roles = (exported / "roles.sql").read_text(encoding="utf-8")
    assert "never-exported" not in roles and "SCRAM" not in roles and "PASSWORD" not in roles
    assert 'CREATE ROLE "app_reader";' in roles.splitlines()
    for name in FILES:
        active = [line for line in (exported / name).read_bytes().split(b"\n") if line.startswith(b"\\")]
        # Rows of the seed begin like this; a command of psql would have no second backslash.
        assert all(line.startswith((b"\\\\", b"\\N", b"\\x")) or line == b"\\." for line in active), active


def test_postgres_who_is_no_superuser_loads_the_schema(databases: List[Database], tmp_path: Path) -> None:
    """Roles and rows need supautils for that, which lets postgres of the cloud do more; the image has none."""
    source, _target, other = databases
    source.psql("drop event trigger noted; drop schema app cascade; select cron.unschedule('nightly');"
                "drop extension pg_cron; revoke app_reader from \"Odd \"\"Role\"; ")  # fmt: skip
    export(source.stream, str(tmp_path))
    load(other, tmp_path, "supabase_admin", "postgres")
    ignored = ("memberships", "extensions")
    assert differences(source.facts(ignored), other.facts(ignored)) == {}
