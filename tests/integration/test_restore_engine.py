# SPDX-License-Identifier: GPL-3.0-or-later
"""Restores of a real instance: what is there afterwards, and what is there when they are killed or refused.

The expected state is computed here, by own queries and from the files, when the backup is taken.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import shutil
import subprocess
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any, Dict, Iterator, List, NamedTuple, Tuple

import pytest

from ansible_collections.multibase.supabase.plugins.module_utils import _database, _engine, _materialise
from integration.backup_support import Ended, Machine, machine, new_name, rewrite_dump


class Expected(NamedTuple):
    """An instance, its backup, and what was there when it was taken."""

    name: str
    stem: str
    picture: Dict[str, str]
    storage: Dict[str, Any]
    functions: Dict[str, Any]


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    with machine(tmp_path_factory.mktemp("restores")) as made:
        yield made


@pytest.fixture(scope="module")
def taken(host: Machine) -> Expected:
    """An instance with everything in it and a verified backup, which was changed since in many ways."""
    name = new_name()
    host.create(name)
    host.seed(name)
    picture = host.picture(name)
    storage, functions = (host.files(host.volumes(name) / part) for part in ("storage", "functions"))
    stem = host.good("backup", name)["stem"]
    assert differing(picture, host.picture(name)) == {}, "taking a backup changed something"
    return Expected(name, stem, picture, storage, functions)


def differing(before: Dict[str, str], after: Dict[str, str]) -> Dict[str, Tuple[List[str], List[str]]]:
    """Return the lines that are only in one of two pictures, by what they are of.

    Conditions are compared without casts and parentheses: PostgreSQL writes some differently once they were dumped and
    loaded.
    """
    found = {}
    for key in sorted({*before, *after}):
        texts = [picture.get(key, "(none)") for picture in (before, after)]
        if key in ("constraints", "policies"):
            texts = [re.sub(r"::[a-z]+( varying)?(\[\])?|[() ]", "", text) for text in texts]
        one, two = (set(text.split("\n")) for text in texts)
        if one != two:
            found[key] = (sorted(one - two)[:5], sorted(two - one)[:5])
    return found


CHANGES = r"""
delete from public.members where id % 2 = 0;
update public.teams set name = 'changed' where name = 'One';
truncate public.parted;
drop table public.child;
drop function public.makes(int);
drop policy own on public.members;
grant all on public.secret to anon;
alter event trigger sleeping enable;
select cron.unschedule('nightly');
select lo_unlink(900001);
drop publication mine;
alter role bob reset all;
alter role bob connection limit 9;
alter role bob in database postgres set search_path = nowhere;
alter database postgres set "app.quoted" to 'other';
create table public.later(a int);
select net.http_post('http://127.0.0.1/later', '{}');
"""


def change(host: Machine, name: str) -> None:
    """Change the data, the files and the password of bob."""
    host.psql(name, CHANGES)
    host.psql(name, "alter role bob password 'second of bob'")
    shutil.rmtree(host.volumes(name) / "storage" / "stub")
    (host.volumes(name) / "storage" / "later").write_text("later")
    os.rename(host.volumes(name) / "functions" / "hello", host.volumes(name) / "functions" / "renamed")


def is_as_expected(host: Machine, expected: Expected) -> None:
    host.healthy(expected.name)
    assert differing(expected.picture, host.picture(expected.name)) == {}
    assert host.files(host.volumes(expected.name) / "storage") == expected.storage
    assert host.files(host.volumes(expected.name) / "functions") == expected.functions


def logs_in(host: Machine, name: str, role: str, password: str) -> bool:
    command = ["docker", "exec", "-i", "-e", "PGPASSWORD=" + password, host.container(name).id, "psql", "-X", "-h",
               "127.0.0.1", "-U", role, "-d", "postgres", "-c", "select 1"]  # fmt: skip
    return subprocess.run(command, capture_output=True, timeout=30).returncode == 0


def answers(host: Machine, name: str, key: str) -> int:
    """Ask REST through the gateway with a key; return the status."""
    url = "http://127.0.0.1:{0}/rest/v1/anything".format(host.variables(name)["API_GW_HTTP_PORT"])
    for _time in range(20):
        try:
            with urllib.request.urlopen(urllib.request.Request(url, headers={"apikey": key}), timeout=10) as answer:
                return int(answer.status)
        except urllib.error.HTTPError as error:
            if error.code != 503:
                return error.code
        time.sleep(0.2)
    return 503


def kept(host: Machine, name: str) -> List[str]:
    return sorted(path.name for path in (host.volumes(name) / "db").iterdir() if path.name.startswith("."))


class Writer(threading.Thread):
    """Inserts numbers as long as it may; what the server acknowledged is on the disk of this side."""

    def __init__(self, host: Machine, name: str, journal: Path) -> None:
        super().__init__(daemon=True)
        self._host, self._name, self._journal = host, name, journal
        self.ended = threading.Event()
        host.psql(name, "create table public.written(n int primary key)")

    def run(self) -> None:
        number = 0
        with self._journal.open("w") as stream:
            while not self.ended.is_set():
                box = self._host.container(self._name).id
                client = ["psql", "-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-h", "127.0.0.1", "-U"]
                command = ["docker", "exec", "-i", box, *client, "supabase_admin", "-d", "postgres"]
                process = subprocess.Popen(
                    command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
                )
                assert process.stdin is not None and process.stdout is not None
                try:
                    while not self.ended.is_set():
                        number += 1
                        process.stdin.write("insert into public.written values ({0}) returning n;\n".format(number))
                        process.stdin.flush()
                        answer = process.stdout.readline()
                        if not answer:
                            break
                        stream.write(answer)
                        stream.flush()
                        os.fsync(stream.fileno())
                except BrokenPipeError:
                    pass
                finally:
                    process.kill()
                    process.communicate()
                time.sleep(0.1)

    def acknowledged(self) -> List[str]:
        return self._journal.read_text().split()


def test_everything_is_back_and_rollback_brings_back_what_was(host: Machine, taken: Expected, tmp_path: Path) -> None:
    """A client writes all the while: what was acknowledged to it is in what is kept, and comes back."""
    change(host, taken.name)
    writer = Writer(host, taken.name, tmp_path / "acknowledged")
    changed = host.picture(taken.name)
    writer.start()
    try:
        result = host.good("restore", taken.name, taken.stem)
    finally:
        writer.ended.set()
        writer.join(timeout=30)
    is_as_expected(host, taken)
    assert 0 < result["pause_seconds"] < 30
    assert host.psql(taken.name, "select count(*) from net.http_request_queue") == "0"
    assert logs_in(host, taken.name, "bob", "second of bob") and not logs_in(host, taken.name, "bob", "first of bob")
    secret = host.variables(taken.name)["POSTGRES_PASSWORD"]
    for role in ("postgres", "authenticator", "supabase_storage_admin"):
        assert logs_in(host, taken.name, role, secret), role
    # What was planted as a link stays one, and what it leads to is nowhere.
    assert (host.volumes(taken.name) / "functions" / "planted").is_symlink()
    command = ["docker", "exec", host.container(taken.name).id, "sh", "-c", "ls /tmp/from-* 2>/dev/null"]
    assert subprocess.run(command, capture_output=True).stdout == b""
    assert answers(host, taken.name, host.variables(taken.name)["ANON_KEY"]) == 200
    host.nothing_left(taken.name)

    numbers = writer.acknowledged()
    assert len(numbers) > 100
    host.good("rollback", taken.name)
    host.healthy(taken.name)
    assert set(differing(changed, host.picture(taken.name))) <= {"rows of public.written"}
    found = set(host.psql(taken.name, "select n from public.written").split())
    assert [number for number in numbers if number not in found] == []
    assert (host.volumes(taken.name) / "storage" / "later").read_text() == "later"


LINES = [
    ("unpacking storage", 0.0),
    ("loading database postgres", 0.3),
    ("exchanging the data", 0.3),
    ("exchanging the data", 1.2),
]


def test_killed_at_every_step(host: Machine, taken: Expected) -> None:
    """The data is that from before or that of the backup, never anything between, and the next run is clean."""
    host.psql(taken.name, "create table public.mark(a int); insert into public.mark values (1)")
    before = host.picture(taken.name)
    for line, pause in LINES:
        run = host.start("restore", taken.name, taken.stem)
        assert run.said(line), run.lines
        time.sleep(pause)
        run.kill()
        host.good("recover", taken.name)
        host.healthy(taken.name)
        now = host.picture(taken.name)
        assert differing(before, now) == {} or differing(taken.picture, now) == {}, (line, pause)
        host.nothing_left(taken.name)
        if differing(before, now):
            host.good("rollback", taken.name)
            assert differing(before, host.picture(taken.name)) == {}
    # Without recovering: a backup refuses, a restore undoes it and goes on.
    run = host.start("restore", taken.name, taken.stem)
    assert run.said("exchanging the data"), run.lines
    run.kill()
    assert host.tool("backup", taken.name).code == 21
    host.good("restore", taken.name, taken.stem)
    is_as_expected(host, taken)
    host.nothing_left(taken.name)
    host.good("rollback", taken.name)
    assert differing(before, host.picture(taken.name)) == {}


def test_killed_rollback_loses_nothing(host: Machine, taken: Expected) -> None:
    """What a rollback would have brought back is still there when it is killed, or another restore is refused."""
    before = host.picture(taken.name)
    host.good("restore", taken.name, taken.stem)
    directory = Path(host.layout.backups(taken.name))
    manifest = (directory / (taken.stem + ".manifest.json")).read_bytes()
    host.resign(taken.name, taken.stem, lambda changed: changed.update(server_version_num=990000))
    refused(host.tool("restore", taken.name, taken.stem), 21)
    (directory / (taken.stem + ".manifest.json")).write_bytes(manifest)
    for pause in (0.0, 0.2, 0.5, 0.8, 1.2, 1.8):
        run = host.start("rollback", taken.name)
        assert run.said("exchanging the data"), run.lines
        time.sleep(pause)
        run.kill()
        host.good("recover", taken.name)
        host.healthy(taken.name)
        now = host.picture(taken.name)
        if differing(before, now) == {}:
            host.good("rollback", taken.name)
        else:
            assert differing(taken.picture, now) == {}
    host.good("rollback", taken.name)
    assert differing(before, host.picture(taken.name)) == {}


@pytest.fixture
def foreign(host: Machine, taken: Expected) -> Iterator[Path]:
    """The directory of the backups, put back afterwards as it was; its one backup may be changed."""
    directory = Path(host.layout.backups(taken.name))
    aside = directory.with_name("aside")
    shutil.copytree(directory, aside)
    started = {service: host.container(taken.name, service).attrs["State"]["StartedAt"] for service in ("db", "rest")}
    before, hidden = host.picture(taken.name), kept(host, taken.name)
    yield directory
    shutil.rmtree(directory)
    aside.rename(directory)
    after = {service: host.container(taken.name, service).attrs["State"]["StartedAt"] for service in ("db", "rest")}
    assert after == started, "services were restarted"
    assert differing(before, host.picture(taken.name)) == {}
    assert kept(host, taken.name) == hidden
    host.nothing_left(taken.name)


HEAD = b"--\n-- PostgreSQL database dump\n--\n\ncreate table public.secret(a int);\n"


def forged(host: Machine, taken: Expected, text: bytes, sign: bool = False) -> None:
    """Put text at the end of the dump, or in its stead when it is not signed, and make the manifest say it is right."""
    file = "{0}.sql.gz".format(taken.stem)
    directory = Path(host.layout.backups(taken.name))
    rewrite_dump(directory / file, lambda dump: dump + text if sign else HEAD + text)
    path = directory / (taken.stem + ".manifest.json")
    manifest = json.loads(path.read_text())
    data = (directory / file).read_bytes()
    manifest["parts"][file].update(size=len(data), sha256=hashlib.sha256(data).hexdigest())
    path.write_text(json.dumps(manifest))
    if sign:
        host.resign(taken.name, taken.stem, lambda _manifest: None)


def refused(ended: Ended, *codes: int) -> None:
    assert ended.code in codes, ended


@pytest.mark.parametrize(
    "text",
    [
        b"\\! touch /tmp/from-a-dump\n",
        b"COPY public.secret FROM PROGRAM 'touch /tmp/from-a-dump; echo 1';\n",
        b"copy public.secret\n  from  program 'touch /tmp/from-a-dump; echo 1';\n",
        b"ALTER SYSTEM SET archive_command = 'touch /tmp/from-a-dump';\n",
        b"SELECT pg_read_file('/etc/passwd');\n",
        b"\\copy public.secret from program 'touch /tmp/from-a-dump'\n",
    ],
)
def test_hostile_dump_is_not_run(host: Machine, taken: Expected, foreign: Path, text: bytes) -> None:
    forged(host, taken, text)
    refused(host.tool("restore", taken.name, taken.stem), 18)
    ended = host.tool("restore", "--trust-unsigned", taken.name, taken.stem)
    refused(ended, 21)
    assert "runs programs, reads files or changes the server" in ended.said


def test_hostile_dump_that_nobody_reads_runs_no_program(host: Machine, taken: Expected, foreign: Path) -> None:
    """A dump that was signed is not looked into: psql's own guard holds then."""
    witness = host.volumes(taken.name) / "db"
    text = b"/*\nCOPY x FROM stdin;\n*/\n\\! cd /etc/postgresql-custom; touch from-a-dump; sleep 30\n"
    forged(host, taken, text, sign=True)
    run = host.start("restore", taken.name, taken.stem)
    planted = []
    while run.process.poll() is None:
        # What is looked through may be removed meanwhile, which os.walk passes over.
        planted += [place for place, _below, files in os.walk(witness) if "from-a-dump" in files]
        time.sleep(0.1)
    ended = run.end()
    refused(ended, 16, 19)
    assert "restricted" in ended.said and planted == [], ended
    assert list(witness.rglob("from-a-dump")) == []


def test_guard_against_programs_is_always_set(host: Machine, taken: Expected) -> None:
    """psql can be restricted, and that is seen each time: a pipe that breaks is no answer."""
    server = _database.Server(host.container(taken.name).id, _engine.DEFAULT_HOST, "test")
    assert all(_materialise.Materialiser._restricting(server) for _ in range(30))


def test_dump_that_ends_in_an_error(host: Machine, taken: Expected, foreign: Path) -> None:
    forged(host, taken, b"select 1/0;\n", sign=True)
    refused(host.tool("restore", taken.name, taken.stem), 16, 19)


def test_dump_that_is_not_what_the_manifest_says(host: Machine, taken: Expected, foreign: Path) -> None:
    """A row more, an extension that the image has not, other code in a function: each is named."""
    text = b"""insert into "public"."secret" values (43);
        create or replace function "public"."stamp"() returns trigger language plpgsql as $$
        begin return null; end $$;\n"""
    forged(host, taken, text, sign=True)

    def add(manifest: Dict[str, Any]) -> None:
        manifest["databases"]["postgres"]["fingerprint"]["extensions"]["nowhere"] = ["1", "public", "postgres"]

    host.resign(taken.name, taken.stem, add)
    ended = host.tool("restore", taken.name, taken.stem)
    refused(ended, 16, 19)
    assert "public.secret has 2 rows instead of 1" in ended.said
    assert "extension nowhere is missing" in ended.said
    assert "function" in ended.said.split("differs from its manifest")[1], ended


def test_database_that_does_not_come_up(host: Machine, taken: Expected) -> None:
    """A configuration that no server starts with: found before anything is touched, or undone."""
    before = host.picture(taken.name)
    custom = host.volumes(taken.name) / "db" / "custom" / "conf.d"
    custom.mkdir(exist_ok=True)
    (custom / "broken.conf").write_text("no_such_setting = 1\n")
    stem = host.backup(taken.name, verify=False)
    (custom / "broken.conf").unlink()
    refused(host.tool("restore", taken.name, stem), 16, 19)
    host.healthy(taken.name)
    assert differing(before, host.picture(taken.name)) == {}
    host.nothing_left(taken.name)
    for path in Path(host.layout.backups(taken.name)).glob(stem + "*"):
        path.unlink()


def test_into_another_instance(host: Machine, taken: Expected) -> None:
    """A copy has the data and its own secrets; nothing is sent from it until somebody says so."""
    other = new_name()
    host.create(other)
    host.psql(other, "create role bob login password 'bob of the other'")
    secrets_before = host.variables(other)
    result = host.good("restore", "--from", taken.name, other, taken.stem)
    host.healthy(other)
    picture = host.picture(other)
    same = {key for key in taken.picture if key not in ("cron jobs", "triggers", "roles")}
    assert differing({key: taken.picture[key] for key in same if not key.startswith("rows of cron")},
                     {key: picture[key] for key in same if not key.startswith("rows of cron")}) == {}  # fmt: skip
    assert host.psql(other, "select count(*) from cron.job where active") == "0"
    assert host.psql(other, "select tgenabled from pg_trigger where tgname = 'hook'") == "D"
    assert host.psql(other, "select tgenabled from pg_trigger where tgname = 'stamp'") == "O"
    assert host.psql(other, "select count(*) from net.http_request_queue") == "0"
    assert any("nightly" in held for held in result["held"]) and any("hook" in held for held in result["held"])
    key = "db/custom/pgsodium_root.key"
    assert (host.volumes(other) / key).read_bytes() == (host.volumes(taken.name) / key).read_bytes()
    assert host.variables(other) == secrets_before
    own, source = secrets_before["POSTGRES_PASSWORD"], host.variables(taken.name)["POSTGRES_PASSWORD"]
    for role in ("postgres", "authenticator"):
        assert logs_in(host, other, role, own) and not logs_in(host, other, role, source), role
    assert logs_in(host, other, "bob", "bob of the other")
    assert not logs_in(host, other, "bob", "first of bob")
    assert answers(host, other, secrets_before["ANON_KEY"]) == 200
    assert answers(host, other, host.variables(taken.name)["ANON_KEY"]) == 401
    assert host.files(host.volumes(other) / "storage") == taken.storage
    released = host.good("release", other)
    assert released["held"] == result["held"] and released["notes"] == []
    assert host.psql(other, "select tgenabled from pg_trigger where tgname = 'hook'") == "O"
    assert host.picture(other)["cron jobs"] == taken.picture["cron jobs"]
    assert host.good("release", other)["held"] == []
    host.nothing_left(other)
    host.nothing_left(taken.name)


def test_custom_format_comes_back_as_plain_does(host: Machine, taken: Expected) -> None:
    # A dump holds their definition: what is loaded is fresh.
    host.psql(taken.name, "refresh materialized view public.sizes; refresh materialized view public.sizes_of_sizes")
    before = host.picture(taken.name)
    stem = host.backup(taken.name, format="custom")
    assert (Path(host.layout.backups(taken.name)) / (stem + ".dump")).exists()
    host.psql(taken.name, "drop table public.teams cascade; create table public.after_it(a int)")
    host.good("restore", taken.name, stem)
    host.healthy(taken.name)
    assert differing(before, host.picture(taken.name)) == {}
    host.nothing_left(taken.name)


def unsign(host: Machine, name: str, stem: str) -> None:
    """Make a backup one of another host."""
    path = Path(host.layout.backups(name)) / (stem + ".manifest.json")
    path.write_text(json.dumps({**json.loads(path.read_text()), "signature": "0" * 64}))


def test_unsigned_backup_in_custom_format_is_looked_into_and_comes_back(host: Machine, taken: Expected) -> None:
    """All the data does, large objects and odd names included; of the server's configuration nothing but the key."""
    host.psql(taken.name, "refresh materialized view public.sizes; refresh materialized view public.sizes_of_sizes")
    settings = host.volumes(taken.name) / "db" / "custom" / "conf.d" / "foreign.conf"
    settings.parent.mkdir(exist_ok=True)
    settings.write_text("archive_command = 'touch /tmp/from-a-dump'\n")
    before = host.picture(taken.name)
    stem = host.backup(taken.name, verify=False, format="custom")
    settings.unlink()
    unsign(host, taken.name, stem)
    refused(host.tool("restore", taken.name, stem), 18)
    host.psql(taken.name, "drop table public.teams cascade; create table public.after_it(a int)")
    result = host.good("restore", "--trust-unsigned", taken.name, stem)
    host.healthy(taken.name)
    assert differing(before, host.picture(taken.name)) == {}
    assert not settings.exists() and any("only the Vault root key" in note for note in result["notes"])
    host.nothing_left(taken.name)

    host.psql(taken.name, "create function public.evil() returns void language plpgsql as "
                          "$$ begin alter system set archive_command = 'touch /tmp/from-a-dump'; end $$")  # fmt: skip
    before = host.picture(taken.name)
    evil = host.backup(taken.name, verify=False, format="custom")
    unsign(host, taken.name, evil)
    ended = host.tool("restore", "--trust-unsigned", taken.name, evil)
    refused(ended, 21)
    assert "runs programs, reads files or changes the server" in ended.said and ".dump, line " in ended.said
    assert differing(before, host.picture(taken.name)) == {}
    host.nothing_left(taken.name)
    host.psql(taken.name, "drop function public.evil()")
    for path in Path(host.layout.backups(taken.name)).glob("*"):
        if path.name.startswith((stem, evil)):
            path.unlink()


def test_restore_of_an_instance_whose_database_is_stopped(host: Machine, taken: Expected) -> None:
    """What ran beside it runs again, and that nobody was asked is told."""
    host.container(taken.name).stop()
    result = host.good("restore", taken.name, taken.stem)
    assert any("did not run before" in note for note in result["notes"])
    assert host.container(taken.name).status == "exited"
    assert host.container(taken.name, "storage").status == "running"
    host.container(taken.name).start()
    is_as_expected(host, taken)
    host.nothing_left(taken.name)


@contextlib.contextmanager
def small_disk(directory: Path, megabytes: int) -> Iterator[Path]:
    """A filesystem of its own, from a file."""
    image, mounted = directory / "disk.img", directory / "disk"
    with image.open("wb") as stream:
        stream.truncate(megabytes << 20)
    mounted.mkdir()
    subprocess.run(["mkfs.ext4", "-q", "-F", "-m", "0", str(image)], check=True)
    subprocess.run(["mount", "-o", "loop", str(image), str(mounted)], check=True)
    try:
        yield mounted
    finally:
        subprocess.run(["umount", "--lazy", str(mounted)], check=True)


def test_disk_that_fills_up_while_data_is_loaded(tmp_path: Path) -> None:
    """Somebody else takes the room that was there at first: nothing is exchanged, the next restore is clean."""
    with small_disk(tmp_path, 900) as mounted:
        host = Machine(mounted)
        try:
            name = new_name()
            host.create(name)
            rows = "select n, md5(n::text) || repeat(md5((n * 7)::text), 5) as words from generate_series(1, 250000) n"
            host.psql(name, "create table public.big as " + rows)
            stem = host.backup(name)
            host.psql(name, "delete from public.big where n > 200000; checkpoint")
            look = "select count(*), md5(string_agg(words, '' order by n)) from public.big"
            before, contents = host.psql(name, look), host.contents(name)
            filler = mounted / "of somebody else"
            run = host.start("restore", name, stem)
            assert run.said("loading database postgres"), run.lines
            # At once, as writing would not: the room is taken before the rows have come.
            with filler.open("wb") as stream:
                status = os.statvfs(mounted)
                os.posix_fallocate(stream.fileno(), 0, (status.f_bavail - 64) * status.f_frsize)
            ended = run.end()
            filler.unlink()
            assert ended.code == 14 and "has no room left" in ended.said, ended
            host.healthy(name)
            assert host.psql(name, look) == before and host.contents(name) == contents
            host.nothing_left(name)
            host.good("restore", name, stem)
            assert host.psql(name, "select count(*) from public.big") == "250000"
            host.nothing_left(name)
        finally:
            host.clean()


def test_killed_while_a_copy_is_made(host: Machine, taken: Expected) -> None:
    """The copy is what it was or has the data; the source knows nothing of it."""
    other = new_name()
    host.create(other)
    host.psql(other, "create extension pg_cron; create table public.own(a int)")
    source = host.picture(taken.name)
    before = host.picture(other)
    for line, pause in LINES[1:3]:
        run = host.start("restore", "--from", taken.name, other, taken.stem)
        assert run.said(line), run.lines
        time.sleep(pause)
        run.kill()
        host.good("recover", other)
        host.healthy(other)
        now = host.picture(other)
        if differing(before, now):
            assert host.psql(other, "select count(*) from public.teams") == host.psql(
                taken.name, "select count(*) from public.teams"
            )
            # Held already, before anything could have run.
            assert host.psql(other, "select count(*) from cron.job where active") == "0"
            host.good("rollback", other)
            assert differing(before, host.picture(other)) == {}
        host.nothing_left(other)
    assert differing(source, host.picture(taken.name)) == {}
