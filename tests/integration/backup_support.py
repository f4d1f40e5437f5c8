# SPDX-License-Identifier: GPL-3.0-or-later
"""An instance on the machine's own Engine with everything in it that a backup could lose, for the tests of backups.

What a test claims is read with psql, from the files or from the Engine. The tool runs as a process of its own, as cron
starts it, so that it can be killed.
"""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List, Mapping, Optional, Sequence

import docker

from ansible_collections.multibase.supabase.plugins.action.instance import read_release
from ansible_collections.multibase.supabase.plugins.module_utils import (
    _backup,
    _backup_job,
    _catalogue,
    _engine,
    _restore,
)
from ansible_collections.multibase.supabase.plugins.module_utils._compose import Compose
from ansible_collections.multibase.supabase.plugins.module_utils._engine import DEFAULT_HOST
from ansible_collections.multibase.supabase.plugins.module_utils._envfile import parse
from ansible_collections.multibase.supabase.plugins.module_utils._instances import Converger, Request
from ansible_collections.multibase.supabase.plugins.module_utils._layout import Layout
from ansible_collections.multibase.supabase.plugins.module_utils._ports import parse_port_range
from ansible_collections.multibase.supabase.plugins.module_utils._release import release_from_bundle
from ansible_collections.multibase.supabase.plugins.module_utils._sizes import Capacity
from ansible_collections.multibase.supabase.plugins.module_utils._spec import Layers
from ansible_collections.multibase.supabase.plugins.module_utils._stacks import Runner, Settings
from ansible_collections.multibase.supabase.plugins.module_utils._subnets import parse_pool

REPOSITORY = Path(__file__).resolve().parents[2]
MODULE_UTILS = REPOSITORY / "collections" / "multibase" / "plugins" / "module_utils"
RELEASE = release_from_bundle("0.8.2", read_release(str(REPOSITORY / "compose_templates" / "0.8.2")))
OFF = ("studio", "meta", "realtime", "imgproxy", "supavisor", "auth")
SMALL = {
    "image_set": "sandbox",
    "size": "small",
    "health_interval": "1s",
    "services": {name: False for name in OFF},
}
PROGRAM = (
    "import sys; sys.path.insert(0, sys.argv.pop(1)); from multibase._tool import main; sys.exit(main(sys.argv[1:]))"
)

# The schema public is where Supabase's default privileges give everything to anon.
SEED = r"""
create role bob login password 'first of bob' connection limit 7;
create role "Odd ""Role"" \ é" nologin noinherit;
grant authenticated to bob;
grant bob to "Odd ""Role"" \ é" with admin option;
alter role bob set statement_timeout = '7s';
alter role bob in database postgres set search_path = app, "we ird", public;
alter role "Odd ""Role"" \ é" in database postgres set "app.note" = E'it''s \\ "two"';
alter database postgres set "app.quoted" to E'a ''b'' "c" \\ d';
alter database postgres set "app.lines" to E'one\ntwo\ttabs';
create extension if not exists citext schema extensions;
create extension if not exists pg_cron;
create extension if not exists pg_net;
create schema app;
create schema "we ird" authorization postgres;
comment on schema "we ird" is 'a
\restrict x
\! touch /tmp/from-a-comment
COPY x FROM stdin;
end';
grant all on schema app, "we ird" to postgres;
set role postgres;
create type public.mood as enum ('glad', 'sad', 'it''s \ "odd"');
create domain public.positive as int check (value > 0);
create table public.teams(id int generated always as identity (start 5 increment 3) primary key,
  name extensions.citext unique, mood public.mood default 'glad');
create table public.members(
  id bigserial primary key, team int not null references public.teams on delete cascade deferrable,
  size public.positive default 1, note text, raw bytea, ratio float8, small float4, at timestamptz, span interval,
  plain json, doc jsonb, tags text[], moods public.mood[], money numeric(20, 5), address inet,
  twice int generated always as (team * 2) stored);
create table "we ird"."Ta""ble"(multibase_row text, "x;" int, "a
b" text);
create table public.nothing();
create table public.parted(k int, v text) partition by range (k);
create table public.parted_low partition of public.parted for values from (0) to (100);
create table public.parted_rest partition of public.parted default;
create table public.parent(a int);
create table public.child(b int) inherits (public.parent);
create unlogged table public.fleeting(a int);
create sequence public.counter start 7 increment 3;
create table public.worded(status varchar(9) check (status in ('new', 'done')), n int default (1 + 2) * 3,
  check (n between 1 and 20 and (n > 2 and n <> 15)), unique (status, n));
create index worded_some on public.worded (lower(status)) where status in ('new', 'x') and n > 1;
create policy worded on public.worded using (status in ('new', 'done') and (n > 1 or n < 0));
comment on table public.members is 'it''s
\restrict x
-- end';
comment on column public.members.note is E'tab\t \\ quote''';
alter table public.members enable row level security;
alter table public.teams enable row level security, force row level security;
create policy own on public.members for select to authenticated, bob using (note <> '\! no');
create policy everyone on public.teams for all using (true) with check (name is not null);
create materialized view public.sizes as select team, count(*) n from public.members group by team;
create materialized view public.sizes_of_sizes as select n, count(*) c from public.sizes group by n;
create view public.glad with (security_invoker = true) as select * from public.teams where mood = 'glad';
create function public.makes(a int default 1) returns text language plpgsql security definer set search_path = '' as $f$
begin
  return $body$
\restrict x
\unrestrict abcdefghijklmnopqrstuvwxyz0123456789
\! touch /tmp/from-a-function
\.
COPY x FROM stdin;
1
\.
$body$;
end
$f$;
create function public.stamp() returns trigger language plpgsql as $$
begin new.note := coalesce(new.note, 'stamped'); return new; end $$;
create trigger stamp before insert or update on public.members for each row execute function public.stamp();
create table public.secret(a int);
revoke all on function public.makes(int) from public, anon, authenticated;
revoke all on public.secret from anon, authenticated;
revoke all on public.members from anon;
grant select (id, note), update (note) on public.members to bob with grant option;
reset role;
alter default privileges for role postgres in schema public grant all on tables to anon;
alter default privileges for role postgres in schema public grant execute on functions to anon;
alter default privileges for role postgres in schema app grant select on tables to bob;
grant usage on schema app, "we ird" to bob;
create table app.of_admin(id int primary key);
revoke all on app.of_admin from anon;
create function app.noted() returns event_trigger language plpgsql as $$ begin null; end $$;
create event trigger noted on ddl_command_end when tag in ('CREATE TABLE') execute function app.noted();
create event trigger sleeping on ddl_command_end execute function app.noted();
alter event trigger sleeping disable;
create publication mine for table public.members, public.teams with (publish = 'insert, update');
select cron.schedule('nightly', '0 3 * * *', $$select 'it''s \ night'$$);
select cron.schedule('quiet', '5 4 1 1 *', 'select 1');
update cron.job set active = false where jobname = 'quiet';
create schema if not exists supabase_functions;
create or replace function supabase_functions.http_request() returns trigger language plpgsql as $$
begin return new; end $$;
create trigger hook after insert on public.teams for each row
  execute function supabase_functions.http_request('http://127.0.0.1/hook', 'POST', '{}', '{}', '1000');

insert into public.teams(name, mood) values ('One', 'glad'), ('Zwö', 'it''s \ "odd"'), (null, null);
insert into public.members(team, note, raw, ratio, small, at, span, plain, doc, tags, moods, money, address)
  select 5 + 3 * (n % 3), note, decode(md5(n::text), 'hex'), 0.1 + n / 3.0, 1e-7 * n,
    '2024-03-31 01:30:00.123456+00'::timestamptz + n * interval '1 hour', n * interval '1 mon -3 days 4:05:06.789',
    '{"b":  1, "a": [1,  2]}', jsonb_build_object('k', note), array[note, null, '\.', '{}"'], array['sad'::public.mood],
    n * 1234567.89012, '10.0.0.1/8'
  from generate_series(1, 30) n,
  unnest(array[
    '\!', '\.', '\N', '', null, E'tab\tcr\rnl\nvt\x0b', E'\\restrict x\n\\! touch /tmp/from-a-row\n\\.\n', 'é😀',
    '\unrestrict abcdefghijklmnopqrstuvwxyz0123456789',
    E'COPY "t" FROM stdin;\n1\n\\.\nDROP TABLE public.teams;']) note;
insert into public.members(team, ratio, small) values (5, 'NaN', '-Infinity'), (5, 'Infinity', '-0'), (5, -0.0, 1e38);
insert into "we ird"."Ta""ble" values (E'\\!', 1, 'CREATE TABLE "x"'), (null, 2, E'\\.'), ('same', 3, 'z');
insert into public.parted values (1, 'a'), (2, 'b'), (1000, 'rest'), (null, 'null');
insert into public.parent values (1), (2);
insert into public.child values (3, 4);
insert into public.fleeting values (1), (2);
insert into public.secret values (42);
insert into app.of_admin values (1), (2);
insert into auth.users(id, email) values ('00000000-0000-0000-0000-000000000001', 'u@x.test');
insert into storage.buckets(id, name) values ('avatars', 'avatars');
select lo_from_bytea(900001, decode(repeat('00ff5c', 4000), 'hex'));
select lo_from_bytea(900002, '');
grant select on large object 900001 to bob;
refresh materialized view public.sizes;
refresh materialized view public.sizes_of_sizes;
insert into cron.job_run_details(jobid, runid, database, command, status)
  values (1, 900, 'postgres', E'it''s\t\\.', 'ok');
select nextval('public.counter') from generate_series(1, 5);
select net.http_post('http://127.0.0.1/never', '{"a": 1}');
"""

_OURS = "n.nspname !~ '^(pg_|information_schema$)'"
# What has to be the same before and after, each query one text.
PICTURE: Dict[str, str] = {
    "relations": """
        select string_agg(format('%s %s %s %s %s %s %s %s', c.oid::regclass, relkind, relpersistence, r.rolname,
        relrowsecurity, relforcerowsecurity, reloptions, obj_description(c.oid, 'pg_class')), e'\\n'
        order by c.oid::regclass::text) from pg_class c join pg_namespace n on n.oid = relnamespace
        join pg_roles r on r.oid = relowner where {ours}""",
    "columns": """
        select string_agg(format('%s %s %s %s %s %s %s %s', c.oid::regclass, attname, format_type(atttypid, atttypmod),
        attidentity, attgenerated, attnotnull, pg_get_expr(adbin, adrelid), col_description(c.oid, a.attnum)), e'\\n'
        order by c.oid::regclass::text, a.attnum) from pg_attribute a join pg_class c on c.oid = attrelid
        join pg_namespace n on n.oid = relnamespace left join pg_attrdef d on d.adrelid = c.oid and d.adnum = a.attnum
        where a.attnum > 0 and relkind <> 'i' and {ours}""",
    "functions": """
        select string_agg(concat_ws(' ', p.oid::regprocedure, proowner::regrole, prosecdef, provolatile,
        proconfig::text, prosrc, prosqlbody), e'\\n' order by p.oid::regprocedure::text)
        from pg_proc p join pg_namespace n on n.oid = pronamespace where {ours}""",
    "triggers": """
        select string_agg(pg_get_triggerdef(t.oid) || tgenabled::text, e'\\n' order by tgrelid::regclass::text, tgname)
        from pg_trigger t join pg_class c on c.oid = tgrelid join pg_namespace n on n.oid = relnamespace
        where not tgisinternal and {ours}""",
    "event triggers": """
        select string_agg(concat_ws(' ', evtname, evtevent, evtowner::regrole, evtfoid::regproc, evtenabled,
        evttags::text), e'\\n' order by evtname) from pg_event_trigger""",
    "constraints": """
        select string_agg(format('%s %s %s', conrelid::regclass, conname, pg_get_constraintdef(p.oid)), e'\\n'
        order by conrelid::regclass::text, conname) from pg_constraint p join pg_namespace n on n.oid = connamespace
        where {ours}""",
    "policies": "select string_agg(p::text, e'\\n' order by schemaname, tablename, policyname) from pg_policies p",
    "publications": """
        select string_agg(concat_ws(' ', p.pubname, pubowner::regrole, pubinsert, pubupdate, pubdelete, pubtruncate,
        (select string_agg(t::text, ',' order by t::text) from pg_publication_tables t where t.pubname = p.pubname)),
        e'\\n' order by p.pubname) from pg_publication p""",
    "extensions": """
        select string_agg(concat_ws(' ', extname, extversion, extnamespace::regnamespace, extowner::regrole), e'\\n'
        order by extname) from pg_extension""",
    "sequences": """
        select string_agg(concat_ws(' ', schemaname, sequencename, start_value, increment_by, last_value), e'\\n'
        order by schemaname, sequencename) from pg_sequences where schemaname <> 'net'""",
    "rights on relations": """
        select string_agg(concat_ws(' ', r.rolname, c.oid::regclass, w.word,
        has_table_privilege(r.oid, c.oid, w.word)), e'\\n' order by r.rolname, c.oid::regclass::text, w.word)
        from pg_class c join pg_namespace n on n.oid = relnamespace, pg_roles r,
        unnest(array['SELECT', 'INSERT', 'UPDATE', 'DELETE', 'TRUNCATE', 'REFERENCES', 'TRIGGER']) w(word)
        where relkind in ('r', 'p', 'v', 'm') and r.rolname !~ '^pg_' and {ours}""",
    "rights on columns": """
        select string_agg(concat_ws(' ', attrelid::regclass, attname, attacl::text), e'\\n' order by
        attrelid::regclass::text, attname) from pg_attribute join pg_class c on c.oid = attrelid
        join pg_namespace n on n.oid = relnamespace where attacl is not null and {ours}""",
    "rights on functions": """
        select string_agg(concat_ws(' ', r.rolname, p.oid::regprocedure,
        has_function_privilege(r.oid, p.oid, 'EXECUTE')), e'\\n' order by r.rolname, p.oid::regprocedure::text)
        from pg_proc p join pg_namespace n on n.oid = pronamespace, pg_roles r where r.rolname !~ '^pg_' and {ours}""",
    "rights on schemas": """
        select string_agg(concat_ws(' ', r.rolname, nspname, nspowner::regrole, has_schema_privilege(r.oid, n.oid,
        'USAGE'), has_schema_privilege(r.oid, n.oid, 'CREATE'), obj_description(n.oid, 'pg_namespace')), e'\\n'
        order by r.rolname, nspname) from pg_namespace n, pg_roles r where r.rolname !~ '^pg_' and {ours}""",
    "default rights": """
        select string_agg(concat_ws(' ', defaclrole::regrole, defaclnamespace::regnamespace, defaclobjtype, x), e'\\n'
        order by defaclrole::regrole::text, defaclnamespace::regnamespace::text, defaclobjtype, x::text)
        from pg_default_acl, unnest(defaclacl) x""",
    "large objects": """
        select string_agg(concat_ws(' ', m.oid, lomowner::regrole, lomacl::text, md5(lo_get(m.oid))), e'\\n'
        order by m.oid) from pg_largeobject_metadata m""",
    "roles": """
        select string_agg(to_jsonb(r) - 'oid' - 'rolpassword' #>> '{{}}', e'\\n' order by rolname) from pg_roles r""",
    "memberships": """
        select string_agg(concat_ws(' ', roleid::regrole, member::regrole, admin_option, inherit_option, set_option),
        e'\\n' order by roleid::regrole::text, member::regrole::text) from pg_auth_members""",
    "settings": """
        select string_agg(concat_ws(' ', datname, rolname, to_json(entry)), e'\\n' order by datname, rolname, entry)
        from pg_db_role_setting cross join unnest(setconfig) entry left join pg_roles r on r.oid = setrole
        left join pg_database d on d.oid = setdatabase""",
    "cron jobs": """
        select string_agg(concat_ws(' ', jobid, schedule, command, database, username, active, jobname), e'\\n'
        order by jobid) from cron.job""",
    "databases": """
        select string_agg(concat_ws(' ', datname, datdba::regrole, datcollate, encoding, datacl::text), e'\\n'
        order by datname) from pg_database""",
}
_TABLES = """
select coalesce(json_agg(format('%I.%I', nspname, relname) order by 1), '[]')
from (select nspname, relname from pg_class c join pg_namespace n on n.oid = relnamespace
  where relkind in ('r', 'm') and nspname !~ '^(pg_|information_schema$)'
  and (nspname, relname) not in (('net', 'http_request_queue'), ('net', '_http_response'),
    ('cron', 'job_run_details'))) t
"""


class Ended:
    """How a run of the tool ended: its exit status and what it said."""

    def __init__(self, code: int, said: str, output: str, seconds: float) -> None:
        self.code, self.said, self.output, self.seconds = code, said, output, seconds

    def __repr__(self) -> str:
        return "exit status {0} after {1:.1f} s: {2}".format(self.code, self.seconds, self.said[-1500:])


class Running:
    """A run of the tool that goes on; what it says is collected line by line."""

    def __init__(self, command: Sequence[str]) -> None:
        self.started = time.monotonic()
        self.process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            start_new_session=True,
        )  # fmt: skip
        self.lines: List[str] = []
        self._news = threading.Condition()
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            with self._news:
                self.lines.append(line)
                self._news.notify_all()
        with self._news:
            self.lines.append("(end)")
            self._news.notify_all()

    def said(self, text: str, timeout: float = 120.0) -> bool:
        """Wait until it says something; False when it ended without."""
        with self._news:
            self._news.wait_for(lambda: any(text in line or line == "(end)" for line in self.lines), timeout)
            return any(text in line for line in self.lines)

    def kill(self) -> None:
        """Kill it as the kernel does when memory is short: it alone, and at once."""
        self.process.send_signal(signal.SIGKILL)
        self.end()

    def end(self, timeout: float = 240.0) -> Ended:
        """Wait for its end."""
        assert self.process.stdout is not None
        try:
            code = self.process.wait(timeout=timeout)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            code = -99
        output = self.process.stdout.read() if code >= 0 else ""
        self._thread.join(timeout=20)
        return Ended(code, "".join(self.lines), output, time.monotonic() - self.started)


class Machine:
    """The machine's own Engine as a Multibase host, with a root directory of its own."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.layout = Layout(str(root / "root"))
        self.engine = _engine.connect()
        self.client = docker.from_env()
        self.names: List[str] = []
        self.library = root / "lib"
        shutil.copytree(MODULE_UTILS, self.library / "multibase", ignore=shutil.ignore_patterns("__pycache__"))
        (self.library / "multibase" / "__init__.py").write_text("")

    # Instances

    def create(self, *names: str) -> None:
        """Create instances and start them."""
        request = Request(
            layout=self.layout,
            releases={"0.8.2": RELEASE},
            ports=parse_port_range("28000-28990"),
            subnet_pool=parse_pool("10.216.0.0/16"),
            layers=Layers(SMALL, {}),
            keep_unmentioned=True,
            confirmed=frozenset(),
            lock_timeout=10,
            check_mode=False,
            with_diff=False,
            capacity=Capacity(os.cpu_count() or 1, memory=0, cpu_factor=0, memory_factor=0),
            now=int(time.time()),
        )
        self.names += names
        items = tuple({"state": "present", "name": name} for name in names)
        failed = [
            result for result in Converger(request, lambda: self.engine).run(items) if result.as_dict().get("failed")
        ]
        assert not failed, failed
        self.up(*names)

    def up(self, *names: str) -> None:
        settings = Settings(state="started", timeout=120.0, pull="never")
        for result in Runner(self.layout, self.engine, Compose(), settings).run(list(names)):
            assert not result.failed and result.health == "healthy", result.msg

    def container(self, name: str, service: str = "db") -> Any:
        label = ["com.docker.compose.project=multibase-" + name, "com.docker.compose.service=" + service]
        (found,) = self.client.containers.list(all=True, filters={"label": label})
        return found

    def healthy(self, name: str, timeout: float = 60.0) -> None:
        """Wait until every container of an instance runs and is healthy."""
        deadline = time.monotonic() + timeout
        while True:
            found = self.client.containers.list(
                all=True, filters={"label": "com.docker.compose.project=multibase-" + name}
            )
            states = {
                box.labels["com.docker.compose.service"]: (
                    box.attrs["State"]["Status"], box.attrs["State"].get("Health", {}).get("Status", "healthy")
                )
                for box in found
            }  # fmt: skip
            if states and all(state == ("running", "healthy") for state in states.values()):
                return
            assert time.monotonic() < deadline, states
            time.sleep(0.3)

    def project(self, name: str) -> Path:
        return Path(self.layout.project(name))

    def volumes(self, name: str) -> Path:
        return self.project(name) / "volumes"

    def variables(self, name: str) -> Dict[str, str]:
        return parse((self.project(name) / ".env").read_text())

    def clean(self) -> None:
        """Remove everything that the tests made, by label and id."""
        for name in self.names:
            labels = ("io.multibase.instance=", "com.docker.compose.project=multibase-", "io.multibase.scratch=")
            for label in [prefix + name for prefix in labels]:
                for container in self.client.containers.list(all=True, filters={"label": label}):
                    container.remove(force=True, v=True)
                for volume in self.client.volumes.list(filters={"label": label}):
                    volume.remove()
                for network in self.client.networks.list(filters={"label": label}):
                    try:
                        network.remove()
                    except docker.errors.APIError as error:
                        print("left behind:", network.name, error, file=sys.stderr)

    # The tool

    def start(self, *arguments: str, constants: Optional[Mapping[str, str]] = None) -> Running:
        """Start the tool; ``constants`` are set in its modules first, ``module.name`` -> a Python literal."""
        program = PROGRAM
        for place, value in (constants or {}).items():
            module, _dot, constant = place.partition(".")
            patch = "from multibase import {0}; {0}.{1} = {2}; ".format(module, constant, value)
            program = program.replace("from multibase._tool", patch + "from multibase._tool")
        command = [sys.executable, "-c", program, str(self.library), "--root", self.layout.root, "--json", *arguments]
        return Running(command)

    def tool(self, *arguments: str, **more: Any) -> Ended:
        return self.start(*arguments, **more).end()

    def good(self, *arguments: str, **more: Any) -> Any:
        """Run the tool, which must succeed; return what it printed, read."""
        ended = self.tool(*arguments, **more)
        assert ended.code == 0, ended
        return json.loads(ended.output)[0]

    def job(self) -> _backup_job.Host:
        return _backup_job.Host(self.layout, self.engine, Compose(), DEFAULT_HOST)

    def backup(self, name: str, **options: Any) -> str:
        """Take a backup in this process; return its stem."""
        return _backup_job.run(self.job(), name, _backup.Options(lock_timeout=10, **options), None).stem

    def restorer(self, **options: Any) -> _restore.RestoreRun:
        chosen = _restore.Options(lock_timeout=10, **options)
        return _restore.RestoreRun(self.layout, self.engine, Compose(), DEFAULT_HOST, chosen)

    def read(self, name: str, stem: str) -> _catalogue.Backup:
        return _catalogue.read(self.layout, self.layout.backups(name), stem)

    def resign(self, name: str, stem: str, change: Callable[[Dict[str, Any]], None]) -> None:
        """Change a manifest and sign it with the host's own key."""
        backup = self.read(name, stem)
        change(backup.manifest)
        _catalogue.rewrite_manifest(self.layout, backup, backup.manifest)

    # The database, from outside

    def psql(self, name: str, sql: str, database: str = "postgres", check: bool = True, timeout: float = 120.0) -> str:
        command = [
            "docker", "exec", "-i", self.container(name).id, "psql", "-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1",
            "-h", "127.0.0.1", "-U", "supabase_admin", "-d", database,
        ]  # fmt: skip
        done = subprocess.run(command, input=sql, capture_output=True, text=True, timeout=timeout)
        assert done.returncode == 0 or not check, done.stderr
        return done.stdout.rstrip("\n")

    def seed(self, name: str) -> None:
        self.psql(name, SEED)
        storage = self.volumes(name) / "storage"
        for path, content, attributes in FILES:
            file = storage / path
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(content)
            for key, value in attributes.items():
                os.setxattr(file, key, value)
        with open(os.fsencode(storage) + b"/stub/not \xff utf-8", "wb") as stream:
            stream.write(b"latin")
        (storage / "stub" / "empty directory").mkdir()
        for service in ("functions", "storage"):
            (self.volumes(name) / service / "planted").symlink_to("/etc/shadow")

    def picture(self, name: str) -> Dict[str, str]:
        """Return all that a database holds, by own queries."""
        fixed = (
            "set search_path = pg_catalog; set timezone = 'UTC'; set extra_float_digits = 3; set row_security = off;"
        )
        queries = {key: query.format(ours=_OURS) for key, query in PICTURE.items()}
        tables = json.loads(self.psql(name, _TABLES + ";"))
        for table in tables:
            queries["rows of " + table] = (
                "select count(*) || ' ' || coalesce(md5(string_agg(t, e'\\n' order by t collate \"C\")), '') "
                "from (select (r.*)::text as t from only {0} r) x".format(table)
            )
        keys = list(queries)
        script = "begin isolation level repeatable read read only;\n" + "".join(
            "\\echo <<{0}>>\n{1};\n".format(number, queries[key]) for number, key in enumerate(keys)
        )
        printed = self.psql(name, fixed + "\n" + script + "\\echo <<end>>\n")
        found = {}
        for number, key in enumerate(keys):
            after = "<<{0}>>".format(number + 1) if number + 1 < len(keys) else "<<end>>"
            found[key] = printed.split("<<{0}>>\n".format(number), 1)[1].split(after, 1)[0]
        return found

    def files(self, directory: Path) -> Dict[str, Any]:
        """Return what lies below a directory: kinds, modes, owners, contents, attributes."""
        found: Dict[str, Any] = {}
        for top, directories, files in os.walk(directory):
            for entry in [*directories, *files]:
                path = os.path.join(top, entry)
                status = os.lstat(path)
                key = os.path.relpath(path, directory)
                if os.path.islink(path):
                    found[key] = ("link", os.readlink(path))
                elif os.path.isdir(path):
                    found[key] = ("directory", oct(status.st_mode), status.st_uid, status.st_gid)
                else:
                    attributes = {name: os.getxattr(path, name) for name in sorted(os.listxattr(path))}
                    content = hashlib.sha256(Path(path).read_bytes()).hexdigest()
                    found[key] = (oct(status.st_mode), status.st_uid, status.st_gid, content, attributes)
        return found

    def sweep(self, name: str) -> None:
        """Remove what a run must not leave, so that a fault fails one test and not all that follow."""
        for path in self.volumes(name).rglob(".verify-*"):
            shutil.rmtree(path)

    # What has to be so whenever nothing runs

    def backups(self, name: str) -> List[str]:
        return _catalogue.stems(self.layout.backups(name))

    def contents(self, name: str) -> Dict[str, str]:
        """Return the SHA-256 of every file of the backups."""
        directory = Path(self.layout.backups(name))
        found = sorted(directory.iterdir()) if directory.is_dir() else []
        return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in found}

    def nothing_left(self, name: str, running: bool = True) -> None:
        """Check that no run left anything but whole backups."""
        directory = Path(self.layout.backups(name))
        entries = sorted(path.name for path in directory.iterdir()) if directory.is_dir() else []
        stems = self.backups(name)
        assert [entry for entry in entries if entry.split(".")[0] not in stems or entry.endswith(".partial")] == []
        for stem in stems:
            manifest = json.loads((directory / (stem + ".manifest.json")).read_text())
            assert {*manifest["parts"], stem + ".manifest.json"} == {e for e in entries if e.startswith(stem)}
        assert self.client.containers.list(all=True, filters={"label": "io.multibase.scratch=" + name}) == []
        hidden = {str(path) for path in self.volumes(name).rglob(".verify-*")}
        hidden |= {str(path) for path in self.volumes(name).rglob(".restore-*")}
        journal = Path(self.layout.restore_journal(name))
        if journal.exists():
            told = json.loads(journal.read_text())
            assert told["phase"] in ("done", "undone")
            hidden -= {exchange["old"] for exchange in told["exchanges"]}
            hidden -= set(told["failed"])
        assert hidden == set()
        if running:
            query = "select count(*) from pg_stat_activity where application_name like 'multibase:%'"
            deadline = time.monotonic() + 5
            while self.psql(name, query) != "0":
                assert time.monotonic() < deadline, "a session was left"
                time.sleep(0.2)


FILES = (
    ("stub/avatars/a b é😀.png", b"\x89PNG" + bytes(range(256)) * 40, {"user.supabase.content-type": b"image/png"}),
    (
        "stub/avatars/deep/er/empty",
        b"",
        {"user.supabase.cache-control": b"max-age=3600", "user.supabase.raw": b"\xff\x00"},
    ),
    ("stub/" + "long" * 40 + "/" + "name" * 50, b"long", {"user.supabase.etag": b"x=y\n12 z"}),
)


@contextlib.contextmanager
def machine(directory: Path) -> Iterator[Machine]:
    """A host that is gone afterwards."""
    made = Machine(directory)
    try:
        yield made
    finally:
        made.clean()
        shutil.rmtree(directory, ignore_errors=True)


def new_name() -> str:
    return "btest-" + secrets.token_hex(3)


def flip(path: Path, at: int, bit: int) -> None:
    """Change one bit of a file."""
    with path.open("r+b") as stream:
        stream.seek(at)
        (value,) = stream.read(1)
        stream.seek(at)
        stream.write(bytes([value ^ (1 << bit)]))


def rewrite_dump(path: Path, change: Callable[[bytes], bytes]) -> None:
    """Change the text of a plain dump."""
    path.write_bytes(gzip.compress(change(gzip.decompress(path.read_bytes()))))
