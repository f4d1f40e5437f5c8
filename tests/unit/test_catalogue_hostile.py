# SPDX-License-Identifier: GPL-3.0-or-later
"""Backups on the disk: killed for real at every step, foreign files, damaged manifests, two runs at once."""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
import time
from functools import partial
from pathlib import Path
from typing import Any, Dict, List

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ansible_collections.multibase.supabase.plugins.module_utils import _catalogue
from ansible_collections.multibase.supabase.plugins.module_utils._errors import IntegrityFailed, UnknownInstance
from ansible_collections.multibase.supabase.plugins.module_utils._layout import Layout
from unit.support import PROPERTY, count_operations, killed_at

STEM = "20261125T023000123Z"
LATER = "20261126T023000123Z"


def stage(layout: Layout, stem: str = STEM, **more: Any) -> Dict[str, Any]:
    directory = Path(layout.backups("acme"))
    directory.mkdir(parents=True, exist_ok=True)
    parts = {}
    for part, suffix in (("postgres", ".sql.gz"), ("globals", ".globals.sql.gz"), ("storage", ".storage.tar.gz")):
        path = directory / (stem + suffix + _catalogue.PARTIAL)
        path.write_bytes(part.encode() * 30)
        parts[stem + suffix] = {
            "part": part, "size": path.stat().st_size, "sha256": _catalogue.file_sha256(str(path)),
        }  # fmt: skip
    return {"schema": _catalogue.SCHEMA, "stem": stem, "instance": "acme", "parts": parts, "verified": None, **more}


def publish(layout: Layout, stem: str = STEM, **more: Any) -> _catalogue.Backup:
    _catalogue.publish(layout, layout.backups("acme"), stage(layout, stem, **more))
    return _catalogue.read(layout, layout.backups("acme"), stem)


def names(layout: Layout) -> List[str]:
    return sorted(os.listdir(layout.backups("acme")))


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    return Layout(str(tmp_path))


@PROPERTY
@given(now=st.floats(min_value=0, max_value=4e9))
def test_a_stem_is_its_time_cut_to_the_millisecond(now: float) -> None:
    stem = _catalogue.make_stem(now)
    assert _catalogue.STEM.match(stem)
    assert abs(_catalogue.stem_time(stem) - now) < 0.00101
    assert _catalogue.make_stem(_catalogue.stem_time(stem) + 0.00001) == stem


@PROPERTY
@given(st.lists(st.floats(min_value=0, max_value=4e9), min_size=2, max_size=5))
def test_stems_sort_as_their_times(times: List[float]) -> None:
    made = [_catalogue.make_stem(now) for now in sorted(times)]
    assert made == sorted(made)


def test_killed_while_publishing_there_is_a_whole_backup_or_none(layout: Layout) -> None:
    good = publish(layout, LATER)
    kept = {name: Path(good.directory, name).read_bytes() for name in names(layout)}

    def work() -> None:
        _catalogue.publish(layout, layout.backups("acme"), manifest)

    def reset() -> Dict[str, Any]:
        for name in names(layout):
            if name not in kept:
                os.unlink(os.path.join(good.directory, name))
        return stage(layout)

    manifest = reset()
    total = len(count_operations(work))
    assert total >= 8
    outcomes = []
    for number in range(1, total + 1):
        manifest = reset()
        killed_at(number, work)
        before_recover = _catalogue.stems(layout.backups("acme"))
        if STEM in before_recover:
            _catalogue.check_files(_catalogue.read(layout, layout.backups("acme"), STEM))
        # Recovering may be killed as well, and does not mind being done twice.
        state = {name: Path(good.directory, name).read_bytes() for name in names(layout)}
        for second in range(1, len(count_operations(lambda: _catalogue.recover(layout.backups("acme")))) + 1):
            for name in names(layout):
                os.unlink(os.path.join(good.directory, name))
            for name, content in state.items():
                Path(good.directory, name).write_bytes(content)
            killed_at(second, lambda: _catalogue.recover(layout.backups("acme")))
            _catalogue.recover(layout.backups("acme"))
            left = [name for name in names(layout) if name not in kept]
            if STEM in _catalogue.stems(layout.backups("acme")):
                _catalogue.check_files(_catalogue.read(layout, layout.backups("acme"), STEM))
                assert left == sorted([*manifest["parts"], STEM + _catalogue.MANIFEST])
            else:
                assert left == []
        outcomes.append(STEM in _catalogue.stems(layout.backups("acme")))
        assert {name: Path(good.directory, name).read_bytes() for name in kept} == kept
    assert outcomes == sorted(outcomes) and True in outcomes and False in outcomes


def test_a_manifest_is_old_or_new_when_its_rewriting_is_killed(layout: Layout) -> None:
    backup = publish(layout)
    new = {**backup.manifest, "verified": {"at": "now"}}

    def work() -> None:
        _catalogue.rewrite_manifest(layout, backup, new)

    old = Path(backup.directory, STEM + _catalogue.MANIFEST).read_bytes()
    for number in range(1, len(count_operations(work)) + 1):
        Path(backup.directory, STEM + _catalogue.MANIFEST).write_bytes(old)
        killed_at(number, work)
        found = _catalogue.read(layout, backup.directory, STEM)
        assert found.signed and found.manifest["verified"] in (None, {"at": "now"})
        _catalogue.recover(backup.directory)
        assert names(layout) == sorted([*backup.manifest["parts"], STEM + _catalogue.MANIFEST])


def test_removing_killed_at_any_step_leaves_no_manifest_without_its_parts(layout: Layout) -> None:
    for number in range(1, 10):
        backup = publish(layout)
        total = len(count_operations(partial(_catalogue.remove, backup)))
        assert names(layout) == []
        if number > total:
            break
        backup = publish(layout)
        killed_at(number, partial(_catalogue.remove, backup))
        if _catalogue.stems(backup.directory):
            _catalogue.check_files(backup)
        _catalogue.remove(backup)
        assert names(layout) == []


@pytest.mark.parametrize(
    "name", ["x.sql.gz", STEM + "-copy.partial", "my" + STEM + ".a.partial", STEM + ".kept.sql.gz"]
)
@pytest.mark.parametrize("directory", [False, True])
def test_recovering_leaves_foreign_files_and_directories(layout: Layout, name: str, directory: bool) -> None:
    backup = publish(layout)
    path = Path(backup.directory, name)
    path.mkdir() if directory else path.write_text("foreign")
    before = names(layout)
    _catalogue.recover(backup.directory)
    _catalogue.remove(_catalogue.read(layout, backup.directory, STEM))
    assert path.exists() and set(names(layout)) == {name} and before


def test_a_deletion_that_was_killed_is_finished(layout: Layout) -> None:
    """Once the manifest is gone nothing else knows which files were its parts."""
    backup = publish(layout)
    total = len(count_operations(partial(_catalogue.remove, backup)))
    for number in range(1, total + 1):
        backup = publish(layout)
        other = publish(layout, LATER)
        Path(backup.directory, STEM + ".sql.gz.mine").write_text("foreign")
        killed_at(number, partial(_catalogue.remove, backup))
        _catalogue.recover(backup.directory)
        if STEM in _catalogue.stems(backup.directory):
            _catalogue.check_files(_catalogue.read(layout, backup.directory, STEM))
            _catalogue.remove(backup)
        assert set(names(layout)) == {*other.manifest["parts"], LATER + _catalogue.MANIFEST, STEM + ".sql.gz.mine"}
        _catalogue.remove(other)


@pytest.mark.parametrize("text", ["", "{", '{"parts": {"../x": {}}}', '{"parts": {"x": 1}}'])
def test_what_a_damaged_rest_of_a_deletion_names_is_not_removed(layout: Layout, text: str) -> None:
    backup = publish(layout)
    path = Path(backup.directory, LATER + _catalogue.MANIFEST + _catalogue.REMOVING)
    path.write_text(text)
    before = names(layout)
    _catalogue.recover(backup.directory)
    assert names(layout) == before


def test_orphans_are_files_of_ours_alone(layout: Layout) -> None:
    backup = publish(layout)
    directory = Path(backup.directory)
    ours = [
        LATER + suffix
        for suffix in (
            ".sql.gz", ".dump", "._supabase.sql.gz", ".db-x.dump", ".db-x.extensions.sql.gz", ".extensions.sql.gz",
            ".globals.sql.gz", ".passwords.sql.gz", ".storage.tar.gz", ".functions.tar.gz", ".config.tar.gz",
        )
    ]  # fmt: skip
    foreign = [LATER + ".sql.gz.mine", LATER + ".notes", "x.sql.gz", LATER + ".db-a b.dump", LATER + ".sql.gz.partial"]
    for name in [*ours, *foreign]:
        (directory / name).write_text("x")
    (directory / (LATER + ".custom.dump")).mkdir()
    now = time.time()
    assert _catalogue.orphans(backup.directory, now) == []
    assert _catalogue.orphans(backup.directory, now + 8 * 86400) == sorted(ours)
    for state in (_catalogue.MANIFEST, _catalogue.MANIFEST + ".partial", _catalogue.MANIFEST + ".removing"):
        path = directory / (LATER + state)
        path.write_text("damaged")
        assert _catalogue.orphans(backup.directory, now + 8 * 86400) == []
        path.unlink()
    assert _catalogue.orphans(layout.backups("nobody"), now) == []


def test_a_backup_is_complete_when_every_part_has_its_size(layout: Layout) -> None:
    backup = publish(layout)
    assert _catalogue.complete(backup)
    path = Path(backup.path("globals"))
    content = path.read_bytes()
    path.write_bytes(content[:-1])
    assert not _catalogue.complete(backup)
    path.unlink()
    assert not _catalogue.complete(backup)
    path.mkdir()
    assert not _catalogue.complete(backup)


@pytest.mark.parametrize("name", [".x.partial", ".manifest.json.partial", ".sql.gz.multibase-new"])
def test_a_directory_with_a_name_of_ours_stops_no_backup(layout: Layout, name: str) -> None:
    directory = Path(layout.backups("acme"))
    (directory / (STEM + name)).mkdir(parents=True)
    assert _catalogue.recover(str(directory)) == []
    assert (directory / (STEM + name)).is_dir()


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", "null", "3", "{}", '{"parts": 3}', '{"parts": {}}', '{"parts": "ab"}', '{"parts": [1]}', "\ud800"],
)
def test_a_staged_manifest_that_says_nothing_is_discarded(layout: Layout, text: str) -> None:
    directory = Path(layout.backups("acme"))
    stage(layout)
    (directory / (STEM + ".manifest.json.partial")).write_bytes(text.encode("utf-8", "surrogatepass"))
    assert _catalogue.recover(str(directory)) == []
    assert names(layout) == []


def test_a_part_whose_manifest_is_lost_stays(layout: Layout) -> None:
    backup = publish(layout)
    os.unlink(os.path.join(backup.directory, STEM + _catalogue.MANIFEST))
    before = names(layout)
    assert before
    _catalogue.recover(backup.directory)
    assert names(layout) == before


def test_a_staged_backup_of_which_a_part_is_missing_is_not_published(layout: Layout) -> None:
    manifest = stage(layout)
    directory = Path(layout.backups("acme"))
    os.unlink(directory / (STEM + ".globals.sql.gz.partial"))
    (directory / (STEM + ".manifest.json.partial")).write_bytes(_catalogue.signed_bytes(layout, manifest))
    assert _catalogue.recover(str(directory)) == []
    assert names(layout) == []


def test_no_directory_is_no_backup(layout: Layout) -> None:
    assert _catalogue.recover(layout.backups("acme")) == []
    assert _catalogue.stems(layout.backups("acme")) == [] and _catalogue.listing(layout, "acme") == []


# Manifests of unknown origin

BAD: Dict[str, Any] = {
    "nothing": b"",
    "no JSON": b"{",
    "no text": b"\xff\xfe",
    "too deep": b"[" * 100_000,
    "a list": [],
    "a number": 3,
    "nothing in it": {},
    "another stem": {"stem": LATER},
    "no schema": {"schema": None},
    "schema from the future": {"schema": 99},
    "parts as list": {"parts": []},
    "part outside": {"parts": {"../x": {"part": "postgres", "size": 1, "sha256": ""}}},
    "part absolute": {"parts": {"/etc/passwd": {"part": "postgres", "size": 1, "sha256": ""}}},
    "part below": {"parts": {STEM + ".a/../../x": {"part": "postgres", "size": 1, "sha256": ""}}},
    "part of another": {"parts": {LATER + ".sql.gz": {"part": "postgres", "size": 1, "sha256": ""}}},
    "part without a name": {"parts": {"": {"part": "postgres", "size": 1, "sha256": ""}}},
    "part is a text": {"parts": {STEM + ".sql.gz": "postgres"}},
    "part is nothing": {"parts": {STEM + ".sql.gz": {}}},
    "size is a text": {"parts": {STEM + ".sql.gz": {"part": "postgres", "size": "big", "sha256": ""}}},
    "size is negative": {"parts": {STEM + ".sql.gz": {"part": "postgres", "size": -1, "sha256": ""}}},
}


@pytest.mark.parametrize("case", sorted(BAD))
def test_what_is_no_manifest_is_told_as_such_and_not_listed(layout: Layout, case: str) -> None:
    backup = publish(layout)
    content = BAD[case]
    if isinstance(content, dict) and content:
        content = {**backup.manifest, **content}
    if not isinstance(content, bytes):
        content = json.dumps(content).encode()
    Path(backup.directory, STEM + _catalogue.MANIFEST).write_bytes(content)
    with pytest.raises(IntegrityFailed, match=r"manifest\.json"):
        _catalogue.read(layout, backup.directory, STEM)
    assert _catalogue.listing(layout, "acme") == []


@pytest.mark.parametrize("given_signature", ["", "x", "\u00e4", None, 3, [], {}, "0" * 64])
def test_any_other_signature_is_none(layout: Layout, given_signature: Any) -> None:
    backup = publish(layout)
    Path(backup.directory, STEM + _catalogue.MANIFEST).write_text(
        json.dumps({**backup.manifest, "signature": given_signature})
    )
    assert not _catalogue.read(layout, backup.directory, STEM).signed


@pytest.mark.parametrize("stem", ["99999999T999999999Z", "20260230T023000123Z", "2026112\u0665T023000123Z"])
def test_a_stem_that_is_no_moment_does_not_break_the_listing(layout: Layout, stem: str) -> None:
    good = publish(layout)
    Path(good.directory, stem + _catalogue.MANIFEST).write_text(
        json.dumps({**good.manifest, "stem": stem, "parts": {}})
    )
    assert [backup.stem for backup in _catalogue.listing(layout, "acme") if backup.time > 0] == [STEM]


def test_a_backup_that_is_deleted_meanwhile_is_not_listed(layout: Layout, monkeypatch: pytest.MonkeyPatch) -> None:
    publish(layout)
    there = _catalogue.stems(layout.backups("acme"))
    monkeypatch.setattr(_catalogue, "stems", lambda _directory: [*there, LATER])
    assert [backup.stem for backup in _catalogue.listing(layout, "acme")] == [STEM]


def test_choosing(layout: Layout) -> None:
    with pytest.raises(UnknownInstance, match="no verified backup"):
        _catalogue.choose(layout, "acme", "latest")
    publish(layout, STEM, verified={"at": "now"})
    publish(layout, LATER)
    assert _catalogue.choose(layout, "acme", "latest").stem == STEM
    assert _catalogue.choose(layout, "acme", LATER).stem == LATER
    for wanted in ("", "newest", "../x", STEM + ".sql.gz", STEM + "\n"):
        with pytest.raises(UnknownInstance, match=LATER):
            _catalogue.choose(layout, "acme", wanted)
    with pytest.raises(UnknownInstance, match="20200101"):
        _catalogue.choose(layout, "acme", "20200101T000000000Z")


def test_latest_is_never_one_that_this_host_did_not_sign(layout: Layout) -> None:
    backup = publish(layout, STEM, verified={"at": "now"})
    os.unlink(layout.signing_key)
    assert not _catalogue.read(layout, backup.directory, STEM).signed
    with pytest.raises(UnknownInstance, match="not verified"):
        _catalogue.choose(layout, "acme", "latest")


def test_every_flip_and_every_cut_is_found(layout: Layout) -> None:
    backup = publish(layout)
    for name in backup.manifest["parts"]:
        path = Path(backup.directory, name)
        whole = path.read_bytes()
        for position in range(len(whole)):
            path.write_bytes(whole[:position] + bytes([whole[position] ^ 1]) + whole[position + 1 :])
            with pytest.raises(IntegrityFailed, match=name):
                _catalogue.check_files(backup)
            path.write_bytes(whole[:position])
            with pytest.raises(IntegrityFailed, match=name):
                _catalogue.check_files(backup)
        path.unlink()
        with pytest.raises(IntegrityFailed, match="is missing"):
            _catalogue.check_files(backup)
        path.write_bytes(whole)
    _catalogue.check_files(backup)


@pytest.mark.parametrize("instead", ["directory", "link to nothing"])
def test_something_else_in_place_of_a_part_is_told(layout: Layout, instead: str) -> None:
    backup = publish(layout)
    path = Path(backup.directory, STEM + ".sql.gz")
    path.unlink()
    if instead == "directory":
        path.mkdir()
    else:
        path.symlink_to("nothing")
    with pytest.raises(IntegrityFailed):
        _catalogue.check_files(backup)


# The key


def _ask_key(root: str, start: Any, answers: Any) -> None:
    start.wait()
    try:
        answers.put(_catalogue.signing_key(Layout(root)).hex())
    except Exception as error:
        answers.put(repr(error))


def test_processes_that_make_the_key_at_once_get_the_same(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    for number in range(5):
        root = str(tmp_path / str(number))
        start, answers = context.Barrier(4), context.Queue()
        processes = [context.Process(target=_ask_key, args=(root, start, answers)) for _ in range(4)]
        for process in processes:
            process.start()
        found = {answers.get(timeout=20) for _ in processes}
        for process in processes:
            process.join()
        assert len(found) == 1 and len(bytes.fromhex(found.pop())) == 32
        assert os.listdir(os.path.dirname(Layout(root).signing_key)) == ["backup.key"]


def test_a_key_that_was_killed_while_it_was_made_is_made(layout: Layout) -> None:
    total = len(count_operations(lambda: _catalogue.signing_key(layout)))
    assert os.stat(layout.signing_key).st_mode & 0o777 == 0o600
    for number in range(1, total + 1):
        shutil.rmtree(layout.state)
        killed_at(number, lambda: _catalogue.signing_key(layout))
        assert len(_catalogue.signing_key(layout)) == 32


def test_the_rest_of_a_killed_process_with_our_number_is_no_obstacle(layout: Layout) -> None:
    os.makedirs(layout.state)
    Path("{0}.{1}".format(layout.signing_key, os.getpid())).write_bytes(b"half")
    assert len(_catalogue.signing_key(layout)) == 32


@pytest.mark.parametrize("content", [b"", b"short"])
def test_a_key_that_is_none_signs_nothing(layout: Layout, content: bytes) -> None:
    """An empty key would make a signature that anybody can make."""
    os.makedirs(layout.state)
    Path(layout.signing_key).write_bytes(content)
    with pytest.raises(Exception, match=r"backup\.key"):
        _catalogue.signing_key(layout)


@PROPERTY
@given(st.dictionaries(st.text(max_size=5), st.one_of(st.text(max_size=5), st.integers(), st.none(), st.booleans())))
def test_a_signature_holds_for_its_content_and_its_key(manifest: Dict[str, Any]) -> None:
    made = _catalogue.signature(manifest, b"k" * 32)
    assert made == _catalogue.signature({**manifest, "signature": "any"}, b"k" * 32)
    assert made == _catalogue.signature(json.loads(json.dumps(manifest)), b"k" * 32)
    assert made != _catalogue.signature(manifest, b"l" * 32)
    assert made != _catalogue.signature({**manifest, "another": 1}, b"k" * 32)
