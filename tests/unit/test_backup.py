# SPDX-License-Identifier: GPL-3.0-or-later
"""A backup run without an Engine: room on the disk, programs that hang, ends at a bad moment, files of Storage.

The database container is a stand-in that runs the given commands on this machine; the rest is real.
"""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any, Dict, Iterator, List, Sequence
from unittest import mock

import pytest

from ansible_collections.multibase.supabase.plugins.module_utils import _backup, _catalogue, _database
from ansible_collections.multibase.supabase.plugins.module_utils._backup import BackupRun, Options, Taken
from ansible_collections.multibase.supabase.plugins.module_utils._database import DatabaseFailed, Server
from ansible_collections.multibase.supabase.plugins.module_utils._errors import BackupFailed, DatabaseDown, NoSpace
from ansible_collections.multibase.supabase.plugins.module_utils._layout import Layout

NOW = 1795608000.0
# Answers as psql does as far as a session goes: what is asked comes back, \echo says that the answer is whole.
PSQL = r"""
while read -r line; do
  case $line in
    "\\echo "*) echo "${line#?echo }" ;;
    sleep*) $line ;;
    fail) echo "ERROR: no such thing" >&2; exit 3 ;;
    long) head -c 300000 /dev/zero | tr '\0' x; echo ;;
    *) echo "$line" ;;
  esac
done
"""


class Here(Server):
    """Runs commands on this machine."""

    def _argv(self, command: Sequence[str]) -> List[str]:
        return ["bash", "-c", PSQL] if command[0] == "psql" else list(command)


@pytest.fixture
def server() -> Server:
    return Here("box", "unix:///nothing", "test")


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    found = Layout(str(tmp_path))
    Path(found.backups("acme")).mkdir(parents=True)
    return found


def runner(layout: Layout, **options: Any) -> BackupRun:
    engine = mock.Mock(state=mock.Mock(return_value="running"))
    return BackupRun(layout, engine, mock.Mock(), "unix:///nothing", Options(**options), clock=lambda: NOW)


# Sessions


def test_a_session_answers_question_by_question(server: Server) -> None:
    with server.session("postgres") as session:
        assert session.ask("one\ntwo") == ["one", "two"]
        assert session.ask("long") == ["x" * 300000]
    with server.session("postgres") as session, pytest.raises(DatabaseFailed, match="no such thing"):
        session.ask("fail")


def test_a_session_that_hangs_is_given_up(server: Server) -> None:
    """The container was paused: its psql neither answers nor ends, and we hold the lock of the data."""
    started = time.monotonic()
    with pytest.raises(DatabaseFailed, match="did not answer within 1 s; is its container paused"), server.session(
        "postgres", 1
    ) as session:
        session.ask("sleep 30")
    assert time.monotonic() - started < 10


# Streams


def stream(run: BackupRun, server: Server, layout: Layout, command: str) -> Dict[str, Any]:
    return run._stream(server, ["bash", "-c", command], os.path.join(layout.backups("acme"), "x"), [], "the dump")


def test_what_a_command_prints_is_written(layout: Layout, server: Server) -> None:
    part = stream(runner(layout), server, layout, "head -c 3000000 /dev/zero")
    path = os.path.join(layout.backups("acme"), "x.partial")
    assert part == {"size": 3000000, "sha256": _catalogue.file_sha256(path)}
    with pytest.raises(FileExistsError):
        stream(runner(layout), server, layout, "true")


def test_a_dump_stops_before_the_disk_is_full(
    layout: Layout, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    left = iter([500, 300, 100])
    monkeypatch.setattr(_backup, "free_and_reserve", lambda _place: (next(left), 200))
    with pytest.raises(NoSpace, match="stay free"):
        stream(runner(layout), server, layout, "cat /dev/zero")
    assert os.stat(os.path.join(layout.backups("acme"), "x.partial")).st_size < 4 << 20


def test_a_dump_in_a_container_that_is_paused_is_given_up(
    layout: Layout, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_backup, "_STALL_SECONDS", 0.2)
    run = runner(layout)
    run._engine.state = mock.Mock(side_effect=["running", "paused"])
    with pytest.raises(DatabaseDown, match="the dump stopped: the database container is paused"):
        stream(run, server, layout, "echo begins; sleep 60")


def test_a_dump_that_never_ends_is_given_up(layout: Layout, server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_backup, "_GRACE_SECONDS", 0.1)
    with pytest.raises(BackupFailed, match="the dump failed: it took longer than it may"):
        stream(runner(layout, timeout=0.3), server, layout, "while sleep 0.05; do echo x; done")


# Room


@pytest.mark.parametrize(("needed", "fits"), [(0, True), (799, True), (800, True), (801, False)])
def test_room_is_asked_for_before_a_dump(
    needed: int, fits: bool, layout: Layout, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_backup, "free_and_reserve", lambda _place: (1000 << 20, 200 << 20))
    if fits:
        _backup.check_room(layout.root, needed << 20, "as the last one")
        return
    with pytest.raises(NoSpace, match=r"1000 MB free; a backup takes about 801 MB \(as the last one\), and 200 MB"):
        _backup.check_room(layout.root, needed << 20, "as the last one")


def test_two_of_a_hundred_parts_stay_free(layout: Layout) -> None:
    there = os.statvfs(layout.root)
    free, reserve = _backup.free_and_reserve(layout.root)
    assert reserve == there.f_blocks * there.f_frsize // 50
    assert abs(free - there.f_bavail * there.f_frsize) < 1 << 30


def published(layout: Layout, at: float, size: int, **more: Any) -> None:
    stem = _catalogue.make_stem(at)
    path = Path(layout.backups("acme"), stem + ".sql.gz" + _catalogue.PARTIAL)
    path.write_bytes(b"x" * size)
    parts = {stem + ".sql.gz": {"part": "postgres", "size": size, "sha256": _catalogue.file_sha256(str(path))}}
    manifest = {"schema": 1, "stem": stem, "instance": "acme", "parts": parts, "verified": None, **more}
    _catalogue.publish(layout, layout.backups("acme"), manifest)


def test_a_backup_is_expected_to_be_as_large_as_the_last_of_its_kind(layout: Layout) -> None:
    manifest = {"instance": "acme", "scope": "full", "format": "plain", "raw_bytes": 5000}
    expected = runner(layout)._expected
    assert expected(manifest) == (2500, "half of the databases' size")
    published(layout, NOW, 70, scope="full", format="plain")
    published(layout, NOW + 1, 80, scope="full", format="plain")
    published(layout, NOW + 2, 5, scope="database", format="plain")
    assert expected(manifest) == (80, "as the last one")
    assert expected({**manifest, "scope": "database"})[0] == 5


# Ends


@pytest.fixture
def bare(layout: Layout, monkeypatch: pytest.MonkeyPatch) -> Iterator[BackupRun]:
    """A run whose parts are made by a stand-in: two files, staged."""
    run = runner(layout, verify=False)
    for name in ("find_database", "probe", "discard_left_over"):
        monkeypatch.setattr(_backup, name, mock.Mock())
    monkeypatch.setattr(_database, "end_left_over_sessions", mock.Mock())

    def make(
        _stack: Any, _server: Any, _container: Any, directory: str, stem: str, made: List[str]
    ) -> Dict[str, Any]:
        parts = {}
        for suffix in (".globals.sql.gz", ".sql.gz"):
            path = os.path.join(directory, stem + suffix)
            Path(path + _catalogue.PARTIAL).write_bytes(b"data")
            made.append(path + _catalogue.PARTIAL)
            digest = _catalogue.file_sha256(path + _catalogue.PARTIAL)
            parts[stem + suffix] = {"part": suffix, "size": 4, "sha256": digest}
        whose = {"schema": 1, "stem": stem, "instance": "acme", "scope": "full"}
        return {**whose, "parts": parts, "durations": {}, "archives": {}}

    monkeypatch.setattr(run, "_make", make)
    yield run


@pytest.mark.parametrize("number", range(1, 7))
def test_a_signal_while_names_are_given_leaves_a_whole_backup_or_nothing(
    bare: BackupRun, layout: Layout, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    real, left = os.rename, [number]

    def rename(source: Any, target: Any) -> None:
        left[0] -= 1
        if left[0] == 0:
            raise SystemExit(143)
        real(source, target)
        left[0] -= 1
        if left[0] == 0:
            raise SystemExit(143)

    monkeypatch.setattr(os, "rename", rename)
    with pytest.raises(SystemExit):
        stack = mock.Mock(project="p", confidential=frozenset())
        stack.name = "acme"
        bare._take(stack)
    monkeypatch.undo()
    names = os.listdir(layout.backups("acme"))
    stems = _catalogue.stems(layout.backups("acme"))
    assert len(names) == 3 * len(stems), names
    for stem in stems:
        _catalogue.check_files(_catalogue.read(layout, layout.backups("acme"), stem))


# Files of Storage


@pytest.mark.parametrize(
    ("storage", "files", "scope", "code", "words"),
    [
        (None, 0, "full", 0, None),
        ({"backend": "file", "objects": 0}, 0, "full", 0, None),
        ({"backend": "file", "objects": 3}, 3, "full", 0, None),
        ({"backend": "file", "objects": 3}, 9, "full", 0, None),
        ({"backend": "file", "objects": 3}, 0, "full", 3, "lists 3 objects of Storage and its directory"),
        ({"backend": "file", "objects": 3}, 2, "full", 0, "lists 3 objects of Storage and there are 2 files"),
        ({"backend": "file", "objects": 3}, 0, "database", 0, None),
        ({"backend": "s3", "objects": 3}, 0, "full", 0, "3 objects of Storage lie in S3 and are not part"),
        ({"backend": "s3", "objects": 0}, 0, "full", 0, None),
    ],
)
def test_rows_of_storage_without_files_are_told(storage: Any, files: int, scope: str, code: int, words: Any) -> None:
    manifest: Dict[str, Any] = {"scope": scope, "archives": {"storage": {"files": files}} if scope == "full" else {}}
    if storage is not None:
        manifest["storage"] = storage
    taken = Taken("acme")
    BackupRun._tell_of_storage(manifest, taken)
    assert (taken.exit_code, bool(taken.reason)) == (code, code == 3)
    assert taken.as_dict()["exit_code"] == code
    assert (words in "".join(taken.notes)) if words else taken.notes == []


@pytest.mark.parametrize(
    ("variables", "backend"),
    [
        ({}, "file"),
        ({"COMPOSE_FILE": "docker-compose.yml:overlays/logs.yml"}, "file"),
        ({"COMPOSE_FILE": "docker-compose.yml:overlays/s3.yml"}, "s3"),
        ({"COMPOSE_FILE": "docker-compose.yml:docker-compose.s3.yml"}, "s3"),
        ({"COMPOSE_FILE": "a.yml,s3.yml", "COMPOSE_PATH_SEPARATOR": ","}, "s3"),
        ({"STORAGE_BACKEND": "s3"}, "s3"),
        ({"COMPOSE_FILE": "not-s3.yml"}, "file"),
    ],
)
def test_where_objects_lie(variables: Dict[str, str], backend: str) -> None:
    assert _backup.storage_backend(variables) == backend


