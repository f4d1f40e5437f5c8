# SPDX-License-Identifier: GPL-3.0-or-later
"""Backups on the disk: published whole or not at all, never deleted by mistake, known when they were changed."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import shutil
from pathlib import Path
from typing import Any, Dict, List

import pytest

from ansible_collections.multibase.supabase.plugins.module_utils import _catalogue
from ansible_collections.multibase.supabase.plugins.module_utils._errors import IntegrityFailed, UnknownInstance
from ansible_collections.multibase.supabase.plugins.module_utils._layout import Layout

STEM = "20261125T023000123Z"
LATER = "20261126T023000123Z"


class Killed(Exception):
    """Stands for the end of the process."""


def stage(layout: Layout, stem: str = STEM, **more: Any) -> Dict[str, Any]:
    """Stage the parts of a backup as a run does, and return its manifest."""
    directory = Path(layout.backups("acme"))
    directory.mkdir(parents=True, exist_ok=True)
    parts = {}
    for part, suffix in (("postgres", ".sql.gz"), ("globals", ".globals.sql.gz")):
        path = directory / (stem + suffix + _catalogue.PARTIAL)
        path.write_bytes(part.encode() * 50)
        parts[stem + suffix] = {
            "part": part,
            "size": path.stat().st_size,
            "sha256": _catalogue.file_sha256(str(path)),
        }
    return {"schema": _catalogue.SCHEMA, "stem": stem, "instance": "acme", "parts": parts, "verified": None, **more}


def publish(layout: Layout, stem: str = STEM, **more: Any) -> _catalogue.Backup:
    _catalogue.publish(layout, layout.backups("acme"), stage(layout, stem, **more))
    return _catalogue.read(layout, layout.backups("acme"), stem)


def names(layout: Layout) -> List[str]:
    return sorted(os.listdir(layout.backups("acme")))


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    return Layout(str(tmp_path))


def test_a_stem_says_when_to_the_millisecond() -> None:
    assert _catalogue.make_stem(_catalogue.stem_time(STEM)) == STEM
    assert _catalogue.make_stem(1764037800.0004) == "20251125T023000000Z"


@pytest.mark.parametrize("steps", range(20))
def test_a_kill_at_any_step_of_publishing_leaves_a_whole_backup_or_none(
    layout: Layout, monkeypatch: pytest.MonkeyPatch, steps: int
) -> None:
    good = publish(layout, LATER)
    before = {name: Path(good.directory, name).read_bytes() for name in names(layout)}
    manifest = stage(layout)
    counter = itertools.count()

    def counted(name: str) -> None:
        real = getattr(os, name)

        def call(*arguments: Any, **options: Any) -> Any:
            if next(counter) == steps:
                raise Killed
            return real(*arguments, **options)

        monkeypatch.setattr(os, name, call)

    with monkeypatch.context():
        for name in ("rename", "fsync", "open", "write"):
            counted(name)
        with contextlib.suppress(Killed):
            _catalogue.publish(layout, layout.backups("acme"), manifest)
    monkeypatch.undo()
    _catalogue.recover(layout.backups("acme"))
    assert not [name for name in names(layout) if name.endswith(_catalogue.PARTIAL)]
    stems = _catalogue.stems(layout.backups("acme"))
    assert stems in ([LATER], [STEM, LATER])
    if STEM in stems:
        _catalogue.check_files(_catalogue.read(layout, layout.backups("acme"), STEM))
    assert {name: Path(good.directory, name).read_bytes() for name in before} == before


def test_recovering_touches_nothing_but_staged_files_of_ours(layout: Layout) -> None:
    publish(layout)
    directory = Path(layout.backups("acme"))
    foreign = ["x.sql.gz", "x.partial", STEM + "x.partial", "20261125T0230.sql.gz.partial", LATER + ".sql.gz"]
    for name in foreign:
        (directory / name).write_text("not ours")
    (directory / (STEM + _catalogue.MANIFEST)).unlink()
    before = names(layout)
    (directory / (LATER + ".globals.sql.gz.partial")).write_text("half")
    assert _catalogue.recover(str(directory)) == []
    assert names(layout) == before


@pytest.mark.parametrize("position", range(0, 100, 7))
def test_a_flipped_bit_is_found(layout: Layout, position: int) -> None:
    backup = publish(layout)
    path = Path(backup.path("postgres"))
    content = bytearray(path.read_bytes())
    content[position] ^= 1
    path.write_bytes(content)
    with pytest.raises(IntegrityFailed, match=path.name):
        _catalogue.check_files(backup)


def test_all_that_is_wrong_with_files_is_told_together(layout: Layout) -> None:
    backup = publish(layout)
    Path(backup.path("postgres")).write_bytes(b"short")
    Path(backup.path("globals")).unlink()
    with pytest.raises(IntegrityFailed) as told:
        _catalogue.check_files(backup)
    assert "has 5 bytes instead of 400" in str(told.value)
    assert "is missing" in str(told.value)


def test_a_manifest_that_was_changed_is_not_signed(layout: Layout) -> None:
    backup = publish(layout)
    assert backup.signed
    path = Path(backup.directory, STEM + _catalogue.MANIFEST)
    manifest = json.loads(path.read_text())
    path.write_text(json.dumps({**manifest, "verified": {"at": "now"}}))
    assert not _catalogue.read(layout, backup.directory, STEM).signed
    assert not _catalogue.read(Layout(layout.root + "/other"), backup.directory, STEM).signed


@pytest.mark.parametrize(
    "change",
    [
        {"stem": LATER}, {"instance": None}, {"instance": "../acme"}, {"parts": []}, {"schema": 2},
        {"parts": {"../x": {}}}, {"parts": {LATER + ".sql.gz": {}}}, {"parts": {STEM + "./../../x": {}}},
    ],
)  # fmt: skip
def test_what_is_no_manifest_of_this_backup_is_refused(layout: Layout, change: Dict[str, Any]) -> None:
    backup = publish(layout)
    path = Path(backup.directory, STEM + _catalogue.MANIFEST)
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(IntegrityFailed):
        _catalogue.read(layout, backup.directory, STEM)
    assert _catalogue.listing(layout, "acme") == []


def test_a_backup_in_the_directory_of_another_instance_is_none_of_it(layout: Layout) -> None:
    """Signed by this host as it is. Where it was put by mistake it is told where it belongs."""
    backup = publish(layout, verified={"at": "then"})
    Path(layout.backups("beta")).parent.joinpath("beta").mkdir()
    for name in names(layout):
        shutil.copy2(Path(backup.directory, name), Path(layout.backups("beta"), name))
    told = "is of instance 'acme', not of beta: move the files of this backup to {0}".format(layout.backups("acme"))
    for act in (
        lambda: _catalogue.read(layout, layout.backups("beta"), STEM),
        lambda: _catalogue.choose(layout, "beta", STEM),
    ):
        with pytest.raises(IntegrityFailed, match=told):
            act()
    with pytest.raises(UnknownInstance):
        _catalogue.choose(layout, "beta", "latest")
    assert _catalogue.choose(layout, "acme", "latest").stem == STEM
    # A staging directory says whose it is.
    os.rename(layout.backups("beta"), layout.backups("acme") + "/.staging")
    assert _catalogue.read(layout, layout.backups("acme") + "/.staging", STEM, "acme").signed
    with pytest.raises(IntegrityFailed):
        _catalogue.read(layout, layout.backups("acme") + "/.staging", STEM, "beta")


def test_latest_is_the_newest_that_was_verified(layout: Layout) -> None:
    publish(layout, LATER)
    with pytest.raises(UnknownInstance, match=LATER):
        _catalogue.choose(layout, "acme", "latest")
    publish(layout, STEM, verified={"at": "then"})
    assert _catalogue.choose(layout, "acme", "latest").stem == STEM
    assert _catalogue.choose(layout, "acme", LATER).stem == LATER
    for wanted in ("../x", "yesterday", "20261125T023000124Z"):
        with pytest.raises(UnknownInstance):
            _catalogue.choose(layout, "acme", wanted)


def test_removing_leaves_no_backup_even_when_it_is_killed(layout: Layout, monkeypatch: pytest.MonkeyPatch) -> None:
    backup = publish(layout)
    publish(layout, LATER)
    real = os.unlink
    counter = itertools.count()

    def unlink(path: str) -> None:
        if next(counter) == 1:
            raise Killed
        real(path)

    with monkeypatch.context() as patch:
        patch.setattr(os, "unlink", unlink)
        with pytest.raises(Killed):
            _catalogue.remove(backup)
    assert _catalogue.stems(layout.backups("acme")) == [LATER]
    _catalogue.remove(_catalogue.read(layout, layout.backups("acme"), LATER))
    assert _catalogue.stems(layout.backups("acme")) == []
