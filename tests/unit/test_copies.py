# SPDX-License-Identifier: GPL-3.0-or-later
"""What leaves the host: nothing that holds secrets unencrypted, and only what can come back.

The target is a directory: a stand-in for rclone and restic, which tests/offsite has for real. age is the real program.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any, Dict, List

import pytest

import engine
from ansible_collections.multibase.supabase.plugins.module_utils import _catalogue, _copies, _offsite
from ansible_collections.multibase.supabase.plugins.module_utils._errors import (
    IntegrityFailed,
    InvalidInput,
    StateCorrupt,
    UnknownInstance,
)
from ansible_collections.multibase.supabase.plugins.module_utils._layout import Layout
from ansible_collections.multibase.supabase.plugins.module_utils._offsite import Target
from ansible_collections.multibase.supabase.plugins.module_utils._retention import Policy

STEM = "20261125T023000123Z"
S3: Dict[str, Any] = {
    "name": "bucket",
    "kind": "s3",
    "options": {
        "endpoint": "https://s3.example.net", "bucket": "backups", "access_key_id": "id4711",
        "secret_access_key": "very-secret",
    },
}  # fmt: skip
SECRET_FILES = [STEM + ".config.tar.gz", STEM + ".passwords.sql.gz"]


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    return Layout(str(tmp_path / "host"))


@pytest.fixture
def away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The target: a directory with one directory per instance."""
    top = tmp_path / "away"

    def upload(_target: Target, directory: str, name: str, files: List[str], manifest: str, _timeout: float) -> Any:
        (top / name).mkdir(parents=True, exist_ok=True)
        for file in [*files, manifest]:
            shutil.copy(os.path.join(directory, file), top / name / file)
        return {"seconds": 1.0}

    def fetch(_target: Target, name: str, stem: str, directory: str, _timeout: float) -> None:
        for path in (top / name).glob(stem + ".*"):
            shutil.copy(path, directory)

    def listing(_target: Target, name: str, _timeout: float) -> Any:
        return [{"stem": stem, "files": []} for stem in _catalogue.stems(str(top / name))]

    def remove(_target: Target, name: str, stem: str, _timeout: float) -> None:
        for path in (top / name).glob(stem + ".*"):
            path.unlink()

    for function in (upload, fetch, listing, remove):
        monkeypatch.setattr(_offsite, function.__name__, function)
    monkeypatch.setattr(_offsite, "prune", lambda *_arguments: None)
    return top / "acme"


def backup(layout: Layout, stem: str = STEM) -> _catalogue.Backup:
    """A backup with the parts that a real one has, as far as copying goes."""
    directory = Path(layout.backups("acme"))
    directory.mkdir(parents=True, exist_ok=True)
    parts = {}
    for part, suffix, secret in (
        ("postgres", ".sql.gz", False),
        ("globals", ".globals.sql.gz", False),
        ("passwords", ".passwords.sql.gz", True),
        ("config", ".config.tar.gz", True),
    ):
        path = directory / (stem + suffix + _catalogue.PARTIAL)
        path.write_text("CANARY " + part if secret else part)
        size, digest = path.stat().st_size, _catalogue.file_sha256(str(path))
        parts[stem + suffix] = {"part": part, "secret": secret, "size": size, "sha256": digest}
    manifest = {"schema": _catalogue.SCHEMA, "stem": stem, "instance": "acme", "parts": parts, "verified": {"at": "x"}}
    _catalogue.publish(layout, str(directory), manifest)
    return _catalogue.read(layout, str(directory), stem)


def leave(layout: Layout) -> None:
    """Lose the backups that the host has."""
    shutil.rmtree(layout.backups("acme"))


@pytest.fixture
def identity(tmp_path: Path) -> Path:
    """A private key of age."""
    if shutil.which("age-keygen") is None:
        engine.apt_install(["age"], "encrypting copies of backups")
    subprocess.run(["age-keygen", "-o", str(tmp_path / "key")], check=True, capture_output=True)
    return tmp_path / "key"


def recipient(identity: Path) -> str:
    done = subprocess.run(["age-keygen", "-y", str(identity)], check=True, capture_output=True, text=True)
    return done.stdout.strip()


def test_what_holds_secrets_stays_and_the_copy_says_so(layout: Layout, away: Path) -> None:
    made = backup(layout)
    copied = _copies.send(layout, _copies.Destination(Target("bucket", "s3", S3["options"])), made, 60)
    assert copied.left_out == SECRET_FILES
    assert "CANARY" not in "".join(path.read_text() for path in away.iterdir())
    manifest = json.loads((away / (STEM + _catalogue.MANIFEST)).read_text())
    assert manifest["left_out"] == SECRET_FILES
    assert sorted(manifest["parts"]) == [STEM + ".globals.sql.gz", STEM + ".sql.gz"]
    local = _catalogue.read(layout, layout.backups("acme"), STEM)
    assert local.signed and local.manifest["offsite"]["bucket"]["left_out"] == SECRET_FILES
    assert sorted(os.listdir(local.directory)) == sorted([*made.manifest["parts"], STEM + _catalogue.MANIFEST])


def test_what_is_encrypted_comes_back_as_it_was(layout: Layout, away: Path, identity: Path, tmp_path: Path) -> None:
    made = backup(layout)
    before = {name: Path(made.directory, name).read_bytes() for name in made.manifest["parts"]}
    to = _copies.Destination(Target("bucket", "s3", S3["options"]), recipients=[recipient(identity)])
    assert _copies.send(layout, to, made, 60).left_out == []
    assert all(b"CANARY" not in path.read_bytes() for path in away.iterdir())
    with pytest.raises(InvalidInput, match="on this host already"):
        _copies.fetch(layout, to, "acme", STEM, str(identity), 60)
    leave(layout)
    with pytest.raises(InvalidInput, match="name the file with age's private key"):
        _copies.fetch(layout, to, "acme", STEM, None, 60)
    assert _catalogue.stems(layout.backups("acme")) == []
    back = _copies.fetch(layout, to, "acme", STEM, str(identity), 60)
    assert back.signed and back.verified
    _catalogue.check_files(back)
    assert {name: Path(back.directory, name).read_bytes() for name in before} == before
    assert all(Path(back.directory, name).stat().st_mode & 0o777 == 0o600 for name in os.listdir(back.directory))

    other = Layout(str(tmp_path / "other"))
    assert not _copies.fetch(other, to, "acme", STEM, str(identity), 60).signed


def test_a_copy_that_was_changed_is_not_signed_again(layout: Layout, away: Path) -> None:
    to = _copies.Destination(Target("bucket", "s3", S3["options"]))
    _copies.send(layout, to, backup(layout), 60)
    leave(layout)
    path = away / (STEM + _catalogue.MANIFEST)
    path.write_text(json.dumps({**json.loads(path.read_text()), "release": "x"}))
    assert not _copies.fetch(layout, to, "acme", STEM, None, 60).signed


def test_another_key_decrypts_nothing(layout: Layout, away: Path, identity: Path, tmp_path: Path) -> None:
    to = _copies.Destination(Target("bucket", "s3", S3["options"]), recipients=[recipient(identity)])
    _copies.send(layout, to, backup(layout), 60)
    leave(layout)
    subprocess.run(["age-keygen", "-o", str(tmp_path / "other")], check=True, capture_output=True)
    with pytest.raises(_offsite.OffsiteFailed, match="age ended with"):
        _copies.fetch(layout, to, "acme", STEM, str(tmp_path / "other"), 60)
    assert os.listdir(layout.backups("acme")) == []


def test_a_part_that_was_exchanged_is_found(layout: Layout, away: Path, identity: Path) -> None:
    key = recipient(identity)
    to = _copies.Destination(Target("bucket", "s3", S3["options"]), recipients=[key])
    _copies.send(layout, to, backup(layout), 60)
    leave(layout)
    for path in away.glob("*.sql.gz.age"):
        subprocess.run(["age", "-r", key, "-o", str(path), "-"], input=b"other", check=True)
    with pytest.raises(IntegrityFailed, match="is not what was backed up"):
        _copies.fetch(layout, to, "acme", STEM, str(identity), 60)


def test_the_policy_of_a_target_is_its_own(layout: Layout, away: Path) -> None:
    to = _copies.Destination(Target("bucket", "s3", S3["options"]), policy=Policy(keep_last=2))
    stems = [f"202611{day:02d}T023000123Z" for day in (20, 21, 22, 23)]
    for stem in stems:
        _copies.send(layout, to, backup(layout, stem), 60)
    assert _catalogue.stems(str(away)) == stems[2:]
    assert _catalogue.stems(layout.backups("acme")) == stems


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"name": "No"}, "name must be"),
        ({"kind": "ftp"}, "kind must be"),
        ({"more": 1}, "unknown key 'more'"),
        ({"recipients": ["ssh-rsa x"]}, "recipients must be"),
        ({"recipients": "age1x"}, "recipients must be"),
        ({"instances": "acme"}, "instances must be"),
        ({"retention": {"keep_last": -1}}, "retention: "),
        ({"retention": {"keep_last": 1, "max_bytes": 5}}, "max_bytes is for backups on the host"),
    ],
)
def test_mistakes_are_told_without_secrets(change: Dict[str, Any], words: str) -> None:
    (problem, *_more) = _copies.destination_problems([{**S3, **change}])
    assert words in problem
    assert "very-secret" not in problem
    assert _copies.destination_problems([S3]) == []
    assert "declared twice" in _copies.destination_problems([S3, S3])[0]


def test_targets_are_read_from_a_file_that_only_root_reads(layout: Layout) -> None:
    assert _copies.destinations(layout) == []
    path = Path(layout.state, _copies.TARGETS_FILE)
    path.parent.mkdir(parents=True)
    path.write_bytes(_copies.targets_bytes([{**S3, "retention": {"keep_last": 3}, "instances": ["acme"]}]))
    path.chmod(0o644)
    with pytest.raises(StateCorrupt, match="chmod 600"):
        _copies.destinations(layout)
    path.chmod(0o600)
    found = _copies.destination(layout, "bucket")
    assert (found.policy, found.instances, found.encrypted) == (Policy(keep_last=3), ("acme",), False)
    assert "very-secret" not in repr(found)
    with pytest.raises(UnknownInstance, match="there are: bucket"):
        _copies.destination(layout, "other")
