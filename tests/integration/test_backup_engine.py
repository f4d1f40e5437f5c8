# SPDX-License-Identifier: GPL-3.0-or-later
"""Backups of a real instance, looked at from outside: by their files, psql and the Engine."""

from __future__ import annotations

import gzip
import hashlib
import json
import random
import subprocess
import threading
import time
from pathlib import Path
from typing import Any, Iterator

import pytest

from ansible_collections.multibase.supabase.plugins.module_utils import _backup, _backup_job, _errors, _retention
from integration.backup_support import Machine, flip, machine, new_name


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    with machine(tmp_path_factory.mktemp("backups")) as made:
        yield made


@pytest.fixture(scope="module")
def name(host: Machine) -> str:
    """An instance with everything in it, and one good backup."""
    name = new_name()
    host.create(name)
    host.seed(name)
    host.good("backup", name)
    return name


def good_ones(host: Machine, name: str) -> Any:
    """Return the contents of the files that a run must never touch: those of the backups that are there."""
    host.nothing_left(name)
    return host.contents(name)


def untouched(host: Machine, name: str, before: Any) -> None:
    after = host.contents(name)
    assert {file: after.get(file) for file in before} == before


def test_files_are_whole_private_and_what_the_manifest_says(host: Machine, name: str) -> None:
    host.nothing_left(name)
    directory = Path(host.layout.backups(name))
    (stem,) = host.backups(name)
    manifest = json.loads((directory / (stem + ".manifest.json")).read_text())
    assert manifest["verified"]["rows"] > 300
    for file, about in manifest["parts"].items():
        data = (directory / file).read_bytes()
        assert (len(data), hashlib.sha256(data).hexdigest()) == (about["size"], about["sha256"]), file
    assert {oct(path.stat().st_mode & 0o7777) for path in directory.iterdir()} == {"0o600"}
    assert oct(directory.stat().st_mode & 0o7777) == "0o700"
    dump = gzip.decompress((directory / (stem + ".sql.gz")).read_bytes())
    assert b"PostgreSQL database dump complete" in dump[-300:]
    assert b"/never" not in dump and b"nightly" in dump


def test_plain_tools_load_the_file(host: Machine, name: str) -> None:
    """As a person does it who has neither this tool nor its manifest: gunzip | psql, objects of roles left aside."""
    (stem,) = host.backups(name)[:1]
    path = Path(host.layout.backups(name)) / (stem + ".sql.gz")
    host.psql(name, "create database plainly template template0;")
    try:
        command = ["docker", "exec", "-i", host.container(name).id, "psql", "-X", "-q", "-h", "127.0.0.1", "-U",
                   "supabase_admin", "-d", "plainly"]  # fmt: skip
        subprocess.run(command, input=gzip.decompress(path.read_bytes()), capture_output=True, check=True, timeout=60)
        for table in ("public.members", '"we ird"."Ta""ble"', "public.parted"):
            query = "select count(*), md5(string_agg((t.*)::text, '' order by (t.*)::text collate \"C\")) from {0} t"
            assert host.psql(name, query.format(table), "plainly") == host.psql(name, query.format(table))
    finally:
        host.psql(name, "drop database plainly with (force);")


def test_links_in_directories_of_containers_are_not_followed(host: Machine, name: str) -> None:
    (stem,) = host.backups(name)[:1]
    for part in ("storage", "functions"):
        packed = Path(host.layout.backups(name)) / "{0}.{1}.tar.gz".format(stem, part)
        listed = subprocess.run(["tar", "-tvzf", str(packed)], capture_output=True, text=True, check=True).stdout
        assert "planted -> /etc/shadow" in listed
        assert b"root:" not in gzip.decompress(packed.read_bytes())


def test_custom_format_with_zstd(host: Machine, name: str) -> None:
    stem = host.backup(name, format="custom")
    path = Path(host.layout.backups(name)) / (stem + ".dump")
    command = ["docker", "exec", "-i", host.container(name).id, "pg_restore", "--list"]
    listed = subprocess.run(command, input=path.read_bytes(), capture_output=True, check=True).stdout
    assert b"Compression: zstd" in listed
    assert host.read(name, stem).verified
    host.nothing_left(name)


def test_column_that_is_called_as_the_row_hides_no_change(host: Machine, name: str) -> None:
    """A change in any column is seen, also when another has the name that the query gives to the row."""
    from ansible_collections.multibase.supabase.plugins.module_utils import _fingerprint

    query = _fingerprint.table_query("we ird", 'Ta"ble')
    before = host.psql(name, query)
    changed = host.psql(name, 'begin; update "we ird"."Ta""ble" set "x;" = 9 where "x;" = 3;' + query + "; rollback;")
    assert changed != before


@pytest.mark.parametrize("state", ["paused", "stopped"])
def test_database_that_does_not_run(host: Machine, name: str, state: str) -> None:
    before = good_ones(host, name)
    container = host.container(name)
    container.pause() if state == "paused" else container.stop(timeout=20)
    try:
        ended = host.tool("backup", name)
        assert ended.code == 12 and ended.seconds < 10, ended
    finally:
        container.unpause() if state == "paused" else container.start()
    host.healthy(name)
    host.nothing_left(name)
    assert host.contents(name) == before


MOMENTS = [
    ("dumping database postgres", 0.0),
    ("dumping database postgres", 0.4),
    ("saving roles", 0.0),
    ("packing config", 0.0),
    ("publishing backup", 0.0),
    ("publishing backup", 0.02),
    ("starting a scratch server", 0.0),
    ("starting a scratch server", 1.5),
    ("loading database postgres", 0.2),
]


def test_killed_at_any_moment(host: Machine, name: str) -> None:
    """Whatever is published then is whole, what was there before stays, and the next run leaves nothing of it."""
    before = good_ones(host, name)
    for line, pause in MOMENTS:
        run = host.start("backup", name)
        assert run.said(line), run.lines
        time.sleep(pause)
        run.kill()
        untouched(host, name, before)
        for stem in host.backups(name):
            for file, about in host.read(name, stem).manifest["parts"].items():
                assert host.contents(name)[file] == about["sha256"], (line, pause)
    try:
        host.good("backup", name)
        host.nothing_left(name)
    finally:
        host.sweep(name)
    untouched(host, name, before)


@pytest.mark.parametrize("how", ["pg_dump", "session", "both"])
def test_dump_that_is_killed_in_the_container(host: Machine, name: str, how: str) -> None:
    before = good_ones(host, name)
    host.psql(
        name, "create table public.slow as select n, repeat(md5(n::text), 40) t from generate_series(1, 200000) n"
    )
    try:
        run = host.start("backup", name)
        assert run.said("dumping database postgres"), run.lines
        victim = "select pid from pg_stat_activity where application_name like 'multibase:%' and query like 'COPY %'"
        deadline = time.monotonic() + 20
        while not host.psql(name, victim):
            assert time.monotonic() < deadline
        if how == "both":
            run.kill()
        if how == "session":
            host.psql(name, "select pg_terminate_backend(pid) from ({0}) s".format(victim))
        else:
            host.container(name).exec_run(["pkill", "-KILL", "-x", "pg_dump"])
        if how != "both":
            ended = run.end()
            assert ended.code == 13, ended
            host.nothing_left(name)
    finally:
        host.psql(name, "drop table public.slow")
    untouched(host, name, before)
    if how == "both":
        host.good("backup", name)
        host.nothing_left(name)


def test_full_disk(host: Machine, name: str) -> None:
    host.psql(name, "create table public.big as select n, gen_random_uuid() from generate_series(1, 60000) n")
    directory = Path(host.layout.backups(name))
    aside = directory.with_name(directory.name + ".aside")
    directory.rename(aside)
    directory.mkdir(mode=0o700)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m,mode=700", "tmpfs", str(directory)], check=True)
    try:
        (directory / "of somebody else").write_bytes(b"x")
        ended = host.tool("backup", name)
        assert ended.code == 14, ended
        assert [path.name for path in directory.iterdir()] == ["of somebody else"]
    finally:
        subprocess.run(["umount", str(directory)], check=True)
        directory.rmdir()
        aside.rename(directory)
        host.psql(name, "drop table public.big")
    host.nothing_left(name)


def test_table_that_somebody_else_locks(host: Machine, name: str) -> None:
    before = good_ones(host, name)
    lock = "begin; lock table public.teams in access exclusive mode; select pg_sleep(25);"
    holder = threading.Thread(target=host.psql, args=(name, lock, "postgres", False))
    holder.start()
    try:
        while not host.psql(name, "select 1 from pg_locks where mode = 'AccessExclusiveLock' and granted "
                            "and relation = 'public.teams'::regclass"):  # fmt: skip
            time.sleep(0.1)
        ended = host.tool("backup", name, constants={"_backup._LOCK_WAIT": "'2s'"})
        assert ended.code == 13, ended
        assert ended.seconds < 12, ended
    finally:
        held = "pid <> pg_backend_pid() and query like '%pg_sleep(25)%'"
        host.psql(name, "select pg_terminate_backend(pid) from pg_stat_activity where " + held)
        holder.join()
    host.nothing_left(name)
    assert host.contents(name) == before


def test_two_at_once(host: Machine, name: str) -> None:
    before = host.backups(name)
    first = host.start("backup", name)
    assert first.said("dumping database postgres"), first.lines
    waits = host.start("backup", name, "--no-verify")
    refused = host.tool("--lock-timeout", "0.5", "backup", name)
    assert refused.code == 11, refused
    assert (first.end().code, waits.end().code) == (0, 0), (first.lines, waits.lines)
    assert len(host.backups(name)) == len(before) + 2
    host.nothing_left(name)


def test_failed_backup_prunes_nothing(host: Machine, name: str) -> None:
    for _time in range(3):
        host.backup(name, verify=False)
    before = host.contents(name)
    policy = _retention.Policy(keep_last=1)
    host.container(name).pause()
    try:
        with pytest.raises(_errors.DatabaseDown):
            _backup_job.run(host.job(), name, _backup.Options(), policy)
        _backup_job.prune(host.job(), name, policy, 5)
    finally:
        host.container(name).unpause()
    host.healthy(name)
    assert host.contents(name) == before


def test_verified_backups_stay_whatever_is_pruned(host: Machine, name: str) -> None:
    verified = [stem for stem in host.backups(name) if host.read(name, stem).verified]
    taken = _backup_job.run(host.job(), name, _backup.Options(verify=False), _retention.Policy(keep_last=1))
    assert taken.pruned
    assert set(verified[-2:]) <= set(host.backups(name))
    host.nothing_left(name)


def test_damage_is_noticed_before_anything_is_touched(host: Machine, name: str) -> None:
    """One bit, a cut, files of two backups exchanged, an edited manifest: neither verified nor restored."""
    one = host.backup(name, verify=False)
    two = host.backup(name, verify=False)
    directory = Path(host.layout.backups(name))
    chance = random.Random(7)
    started = host.container(name).attrs["State"]["StartedAt"]
    runner = host.restorer()

    def refused() -> None:
        with pytest.raises(_errors.IntegrityFailed):
            _backup_job.verify(host.job(), name, one, 5)
        with pytest.raises(_errors.IntegrityFailed):
            runner.restore(name, one)

    for file in [*host.read(name, one).manifest["parts"]]:
        path = directory / file
        data = path.read_bytes()
        for _time in range(3):
            flip(path, chance.randrange(len(data)), chance.randrange(8))
            refused()
            path.write_bytes(data)
        path.write_bytes(data[: chance.randrange(len(data))])
        refused()
        other = directory / file.replace(one, two)
        path.write_bytes(other.read_bytes())
        if path.read_bytes() != data:
            refused()
        path.unlink()
        refused()
        path.write_bytes(data)
        path.chmod(0o600)
    manifest = directory / (one + ".manifest.json")
    data = manifest.read_bytes()
    for before, after in ((b'"pinned": false', b'"pinned": true'), (b'"scope": "full"', b'"scope": "database"'),
                          (b"{", b"["), (b'"signature": "', b'"signature": "0')):  # fmt: skip
        assert before in data
        manifest.write_bytes(data.replace(before, after, 1))
        refused()
    manifest.write_bytes((directory / (two + ".manifest.json")).read_bytes())
    refused()
    manifest.write_bytes(data)
    ended = host.tool("verify", name, one)
    assert ended.code == 0, ended
    flip(directory / (one + ".sql.gz"), 1000, 3)
    assert host.tool("verify", name, one).code == host.tool("restore", name, one).code == 18
    assert host.container(name).attrs["State"]["StartedAt"] == started
    host.nothing_left(name)


def test_databases_of_the_user_are_part_of_it(host: Machine, name: str) -> None:
    host.psql(name, "create database warehouse owner postgres")
    host.psql(name, "create table facts(a int, b text); insert into facts values (1, 'x'), (2, null)", "warehouse")
    (result,) = json.loads(host.tool("backup", name).output)
    manifest = json.loads((Path(result["directory"]) / (result["stem"] + ".manifest.json")).read_text())
    assert sorted(manifest["databases"]) == ["_supabase", "postgres", "warehouse"]
    assert manifest["databases"]["warehouse"]["fingerprint"]["tables"]["public.facts"][0] == 2
    assert manifest["verified"]["databases"] == ["_supabase", "postgres", "warehouse"]
    assert manifest["databases"]["postgres"]["fingerprint"]["tables"]["cron.job_run_details"][0] >= 1
    assert result["notes"] == []
    host.nothing_left(name)
    host.psql(name, "drop database warehouse")


def test_rows_that_a_dump_leaves_out_are_kept_and_their_loss_is_told(host: Machine, name: str) -> None:
    """A table that an extension was given later: pg_dump has neither it nor its rows, CREATE EXTENSION makes none."""
    host.psql(name, "alter extension citext add table app.of_admin")
    good, before = host.backups(name), good_ones(host, name)
    ended = host.tool("backup", name)
    assert ended.code == 16 and "app.of_admin" in ended.said, ended
    (stem,) = set(host.backups(name)) - set(good)
    kept = Path(host.layout.backups(name)) / (stem + ".extensions.sql.gz")
    text = gzip.decompress(kept.read_bytes()).decode()
    assert 'DELETE FROM "app"."of_admin";\nCOPY "app"."of_admin" ("id") FROM stdin;\n' in text
    assert "\n1\n2\n\\.\n" in text
    host.psql(name, "alter extension citext drop table app.of_admin")
    untouched(host, name, before)
