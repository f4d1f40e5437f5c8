# SPDX-License-Identifier: GPL-3.0-or-later
"""What leaves the host: nothing that holds secrets unencrypted, and only what can come back.

The target is a directory: a stand-in for rclone and restic, which tests/offsite has for real. age is the real program.
"""

from __future__ import annotations

import gzip
import json
import os
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any, Dict, List

import pytest

import engine
from ansible_collections.multibase.supabase.plugins.module_utils import _catalogue, _copies, _offsite
from ansible_collections.multibase.supabase.plugins.module_utils._errors import (
    IntegrityFailed,
    InvalidInput,
    Refused,
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
SETTINGS_FILE = STEM + ".settings.json"
# What people put into settings, as Supabase's own documents did with the key that signs tokens.
KNOWN: Dict[str, Any] = {
    "databases": {
        "postgres": {
            "create": {"owner": "postgres"},
            "fingerprint": {
                "tables": {"public.t": [3, "7", None]},
                "settings": [["", "app.settings.jwt_secret=CANARY of all"], ["bob", "search_path=app"],
                             ["bob", "app.x=CANARY of bob"]],
            },
        },
        "_supabase": {"fingerprint": {"tables": {}, "settings": []}},
    },
    "roles": {
        "bob": [False, True, False, False, True, False, False, -1, ["app.key=CANARY 3", "statement_timeout=3s"], []],
        "anon": [False, True, False, False, False, False, False, -1, ["statement_timeout=3s"], []],
    },
}  # fmt: skip
GLOBALS = rb"""--
-- Roles
--
\restrict abc
SET standard_conforming_strings = on;
CREATE ROLE bob;
ALTER ROLE bob WITH NOSUPERUSER LOGIN;
COMMENT ON ROLE bob IS 'it''s
ALTER ROLE bob SET "app.key" TO ''no secret'';
end';
ALTER ROLE bob SET statement_timeout TO '3s';
ALTER ROLE bob SET "app.key" TO 'CANARY; of
ALTER ROLE x SET "a.b" TO ''role';
ALTER ROLE "odd ""x"" y" SET "App.key" TO E'CANARY\\n\'';
ALTER ROLE bob SET search_path TO 'app', 'x.y';
GRANT a TO bob;
"""


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
        content = b"CANARY " + part.encode() if secret else part.encode()
        path.write_bytes(gzip.compress(GLOBALS) if part == "globals" else content)
        size, digest = path.stat().st_size, _catalogue.file_sha256(str(path))
        parts[stem + suffix] = {"part": part, "secret": secret, "size": size, "sha256": digest}
    manifest = {"schema": _catalogue.SCHEMA, "stem": stem, "instance": "acme", "parts": parts, "verified": {"at": "x"}}
    manifest.update(json.loads(json.dumps(KNOWN)))
    _catalogue.publish(layout, str(directory), manifest)
    return _catalogue.read(layout, str(directory), stem)


def readable(path: Path) -> bytes:
    """What somebody reads in a file who has it."""
    content = path.read_bytes()
    return gzip.decompress(content) if content[:2] == b"\x1f\x8b" else content


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
    assert copied.left_out == [*SECRET_FILES, SETTINGS_FILE]
    assert b"CANARY" not in b"".join(readable(path) for path in away.iterdir())
    manifest = json.loads((away / (STEM + _catalogue.MANIFEST)).read_text())
    assert manifest["left_out"] == [*SECRET_FILES, SETTINGS_FILE]
    assert sorted(manifest["parts"]) == [STEM + ".globals.sql.gz", STEM + ".sql.gz"]
    local = _catalogue.read(layout, layout.backups("acme"), STEM)
    assert local.signed and local.manifest["offsite"]["bucket"]["left_out"] == [*SECRET_FILES, SETTINGS_FILE]
    assert {key: local.manifest[key] for key in KNOWN} == KNOWN
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
    assert {key: back.manifest[key] for key in KNOWN} == KNOWN
    assert back.manifest["parts"] == made.manifest["parts"]
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


def test_settings_that_cannot_be_secret_leave_with_the_copy(layout: Layout, away: Path) -> None:
    """Without them nothing works: the services find their schemas by search_path."""
    made = backup(layout)
    to = _copies.Destination(Target("bucket", "s3", S3["options"]))
    _copies.send(layout, to, made, 60)
    manifest = json.loads((away / (STEM + _catalogue.MANIFEST)).read_text())
    assert manifest["databases"]["postgres"]["fingerprint"]["settings"] == [["bob", "search_path=app"]]
    assert manifest["roles"]["bob"] == [*KNOWN["roles"]["bob"][:8], ["statement_timeout=3s"], []]
    assert manifest["roles"]["anon"] == KNOWN["roles"]["anon"]
    lines = GLOBALS.splitlines(keepends=True)
    assert readable(away / (STEM + ".globals.sql.gz")) == b"".join([*lines[:11], *lines[14:]])
    leave(layout)
    back = _copies.fetch(layout, to, "acme", STEM, None, 60)
    assert back.signed
    _catalogue.check_files(back)


def test_a_repository_of_restic_has_everything(layout: Layout, away: Path) -> None:
    to = _copies.Destination(Target("vault", "restic", {"repository": "/r", "password": "secret"}))
    made = backup(layout)
    assert _copies.send(layout, to, made, 60).left_out == []
    manifest = json.loads((away / (STEM + _catalogue.MANIFEST)).read_text())
    assert {key: manifest[key] for key in KNOWN} == KNOWN and manifest["parts"] == made.manifest["parts"]


def test_a_manifest_without_such_settings_is_as_it_was() -> None:
    """As those of earlier versions, and of other shapes."""
    for manifest in ({}, {"roles": {"a": []}, "databases": {"x": {}}}, {"databases": {"x": {"fingerprint": {}}}}):
        assert _copies.reduced(manifest) == (manifest, {})
    small, taken = _copies.reduced(KNOWN)
    assert "CANARY" not in json.dumps(small) and _copies.completed(small, taken) == KNOWN
    for wrong in (None, [], {}, {"databases": {"no": []}, "roles": {}}, {"databases": {}, "roles": {"no": []}}):
        with pytest.raises(IntegrityFailed):
            _copies.completed(small, wrong)


@pytest.mark.parametrize("encrypted", [False, True])
def test_a_damaged_file_does_not_replace_a_good_copy(
    layout: Layout, away: Path, identity: Path, encrypted: bool
) -> None:
    keys = [recipient(identity)] if encrypted else []
    to = _copies.Destination(Target("bucket", "s3", S3["options"]), recipients=keys)
    made = backup(layout)
    _copies.send(layout, to, made, 60)
    before = {path.name: path.read_bytes() for path in away.iterdir()}
    path = Path(made.path("postgres"))
    for damage in (b"postgreS", b"short"):
        path.write_bytes(damage)
        with pytest.raises(IntegrityFailed, match=path.name):
            _copies.send(layout, to, made, 60)
    path.unlink()
    with pytest.raises(IntegrityFailed, match=path.name):
        _copies.send(layout, to, made, 60)
    assert {path.name: path.read_bytes() for path in away.iterdir()} == before


def test_what_this_host_did_not_sign_or_verify_is_not_copied(layout: Layout, away: Path) -> None:
    """Its manifest may say what it likes; copied, it would be signed."""
    to = _copies.Destination(Target("bucket", "s3", S3["options"]))
    made = backup(layout)
    path = Path(made.directory, STEM + _catalogue.MANIFEST)
    content = {**json.loads(path.read_text()), "release": "x"}
    path.write_text(json.dumps(content))
    with pytest.raises(Refused, match="was not signed by this host"):
        _copies.send(layout, to, _catalogue.read(layout, made.directory, STEM), 60)
    assert not _catalogue.read(layout, made.directory, STEM).signed and not away.exists()
    path.write_bytes(_catalogue.signed_bytes(layout, {**content, "verified": None}))
    with pytest.raises(Refused, match="was not verified"):
        _copies.send(layout, to, _catalogue.read(layout, made.directory, STEM), 60)
    assert not away.exists()


def test_a_copy_of_another_host_is_not_verified_here(layout: Layout, away: Path, tmp_path: Path) -> None:
    to = _copies.Destination(Target("bucket", "s3", S3["options"]))
    _copies.send(layout, to, backup(layout), 60)
    back = _copies.fetch(Layout(str(tmp_path / "other")), to, "acme", STEM, None, 60)
    assert not back.signed and not back.verified and back.manifest["pinned"]


def test_a_target_is_not_pruned_after_a_jump_of_the_clock(layout: Layout, away: Path) -> None:
    to = _copies.Destination(Target("bucket", "s3", S3["options"]), policy=Policy(keep_within_days=2))
    stems = [f"202611{day:02d}T023000123Z" for day in (10, 11, 12, 13, 23)]
    copied = [_copies.send(layout, to, backup(layout, stem), 60) for stem in stems]
    assert "nothing was pruned on bucket: between the backups" in "".join(copied[-1].notes)
    assert copied[-1].removed == [] and stems[2] in _catalogue.stems(str(away))


def test_age_that_does_not_read_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "age").write_text("#!/bin/sh\nexec sleep 60\n")
    (tmp_path / "age").chmod(0o755)
    (tmp_path / "source").write_bytes(b"x" * 1000000)
    monkeypatch.setenv("PATH", str(tmp_path) + ":" + os.environ["PATH"])
    started = time.monotonic()
    with pytest.raises(_offsite.OffsiteFailed, match="did not end within 1 s"):
        _copies._age([], "x", 1, str(tmp_path / "source"))
    assert time.monotonic() - started < 15


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
