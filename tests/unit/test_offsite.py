# SPDX-License-Identifier: GPL-3.0-or-later
"""Targets outside the host: what may be declared, and that no secret gets where others can read it."""

from __future__ import annotations

import os
import stat
import sys
import time
from pathlib import Path
from typing import Any, Dict, List

import pytest

from ansible_collections.multibase.supabase.plugins.module_utils import _offsite
from ansible_collections.multibase.supabase.plugins.module_utils._errors import InvalidInput
from ansible_collections.multibase.supabase.plugins.module_utils._offsite import (
    OffsiteFailed,
    Target,
    rclone_argv,
    rclone_config,
    restic_argv,
    target_of,
    target_problems,
)

SECRET = "s3cr3t/with+slash"
S3: Dict[str, Any] = {
    "endpoint": "https://s3.example.org", "bucket": "backups", "prefix": "/multibase/",
    "access_key_id": "AKIAEXAMPLE", "secret_access_key": SECRET,
}  # fmt: skip
SFTP: Dict[str, Any] = {
    "host": "backup.example.org", "user": "backup", "path": "/srv/backups/", "key_file": "/etc/multibase/key",
    "known_hosts_file": "/etc/multibase/known_hosts",
}  # fmt: skip
RESTIC: Dict[str, Any] = {"repository": "/srv/restic", "password": SECRET}
RESTIC_S3: Dict[str, Any] = {
    "repository": "s3:https://s3.example.org/backups/restic", "password": "restic-" + SECRET,
    "credentials": {"access_key_id": "AKIAEXAMPLE", "secret_access_key": SECRET},
}  # fmt: skip
RESTIC_SFTP: Dict[str, Any] = {
    "repository": "sftp:backup@backup.example.org:/srv/restic", "password": "restic-" + SECRET,
    "credentials": {"password": SECRET, "known_hosts_file": "/etc/multibase/known_hosts"},
}  # fmt: skip


def declared(kind: str, options: Dict[str, Any], **changed: Any) -> Dict[str, Any]:
    whole = {**options, **changed}
    return {"name": "far", "kind": kind, "options": {key: value for key, value in whole.items() if value is not None}}


@pytest.mark.parametrize(
    ("kind", "options"),
    [("s3", S3), ("sftp", SFTP), ("restic", RESTIC), ("restic", RESTIC_S3), ("restic", RESTIC_SFTP)],
)
def test_good_targets(kind: str, options: Dict[str, Any]) -> None:
    target = target_of(declared(kind, options))
    assert (target.name, target.kind) == ("far", kind)
    assert SECRET not in repr(target)


@pytest.mark.parametrize(
    ("kind", "options", "changed", "words"),
    [
        ("s3", S3, {"bucket": None, "endpoint": None, "colour": 1}, ["bucket is missing", "endpoint is", "colour"]),
        ("s3", S3, {"bucket": "No"}, ["bucket must have"]),
        ("s3", S3, {"endpoint": "http://s3.example.org"}, ["not encrypted"]),
        ("s3", S3, {"endpoint": "https://user:word@s3.example.org"}, ["must not hold credentials"]),
        ("s3", S3, {"endpoint": "s3.example.org"}, ["endpoint must be like"]),
        ("s3", S3, {"path_style": "yes"}, ["path_style must be true or false"]),
        ("s3", S3, {"secret_access_key": "x\nendpoint = http://evil"}, ["secret_access_key has a line break"]),
        ("s3", S3, {"secret_access_key": "`quoted"}, ["begin with a quote"]),
        ("s3", S3, {"secret_access_key": "a%(b)s"}, ["hold %("]),
        ("s3", S3, {"secret_access_key": "abc"}, ["shorter than 4"]),
        ("s3", S3, {"secret_access_key": 12345678}, ["must be a text"]),
        ("s3", S3, {"prefix": "a/../b"}, ["must not hold .."]),
        ("s3", S3, {"ca_file": "ca.pem"}, ["ca_file must be an absolute path"]),
        ("sftp", SFTP, {"known_hosts_file": None}, ["known_hosts_file is missing"]),
        ("sftp", SFTP, {"password": SECRET}, ["one of key_file and password"]),
        ("sftp", SFTP, {"key_file": None}, ["one of key_file and password"]),
        ("sftp", SFTP, {"port": "22"}, ["port must be a number"]),
        ("restic", RESTIC, {"password": None}, ["password is missing"]),
        ("restic", RESTIC, {"repository": "rest:https://x"}, ["must be an absolute path, or begin with"]),
        ("restic", RESTIC, {"repository": "relative"}, ["must be an absolute path"]),
        ("restic", RESTIC, {"credentials": {"access_key_id": "AKIA"}}, ["of no use"]),
        ("restic", RESTIC_S3, {"credentials": None}, ["credentials.access_key_id is missing"]),
        ("restic", RESTIC_S3, {"credentials": {"bucket": "x"}}, ["unknown option credentials.bucket"]),
        ("restic", RESTIC_S3, {"repository": "s3:http://s3.example.org/b12"}, ["not encrypted"]),
        ("restic", RESTIC_SFTP, {"repository": "sftp://u:p@h/x"}, ["must not hold a password"]),
        ("restic", RESTIC_SFTP, {"credentials": {}}, ["known_hosts_file is missing", "one of credentials."]),
        ("ftp", S3, {}, ["kind must be one of"]),
    ],
)  # fmt: skip
def test_problems(kind: str, options: Dict[str, Any], changed: Dict[str, Any], words: List[str]) -> None:
    problems = target_problems(declared(kind, options, **changed))
    assert problems and all(problem.startswith("offsite target far: ") for problem in problems)
    for word in words:
        assert any(word in problem for problem in problems), problems
    for value in (SECRET, "evil", "a%(b)s", "12345678", "u:p", "user:word"):
        assert value not in " ".join(problems)
    with pytest.raises(InvalidInput):
        target_of(declared(kind, options, **changed))


def test_all_problems_at_once() -> None:
    assert len(target_problems({"name": "A B", "kind": "s3", "options": {}, "more": 1})) == 6
    assert len(target_problems({})) == 2


def test_what_is_not_encrypted_must_be_asked_for() -> None:
    assert target_problems(declared("s3", S3, endpoint="http://127.0.0.1:8333")) == []
    assert target_problems(declared("s3", S3, endpoint="http://s3.example.org", plain_http=True)) == []


def test_the_configuration_of_rclone() -> None:
    assert rclone_config("s3", {**S3, "path_style": False}).splitlines() == [
        "[target]",
        "type = s3",
        "provider = Other",
        "env_auth = false",
        "access_key_id = AKIAEXAMPLE",
        "secret_access_key = " + SECRET,
        "endpoint = https://s3.example.org",
        "force_path_style = false",
        "no_check_bucket = true",
    ]
    assert rclone_config("sftp", {**SFTP, "port": 2222}, "obscured").splitlines() == [
        "[target]",
        "type = sftp",
        "host = backup.example.org",
        "port = 2222",
        "user = backup",
        "key_file = /etc/multibase/key",
        "pass = obscured",
        "known_hosts_file = /etc/multibase/known_hosts",
        "shell_type = none",
        "disable_hashcheck = true",
    ]


@pytest.mark.parametrize(
    ("repository", "kind", "place"),
    [
        ("s3:s3.example.org/b12", "s3", "b12"),
        ("s3:https://s3.example.org:9000/b12/p/q/", "s3", "b12/p/q"),
        ("sftp:u@h:/srv/r", "sftp", "/srv/r"),
        ("sftp:u@h:r", "sftp", "r"),
        ("sftp://u@h:2222//srv/r/", "sftp", "/srv/r"),
        ("sftp://u@h/r", "sftp", "r"),
    ],
)
def test_addresses_of_restic(repository: str, kind: str, place: str) -> None:
    remote = Target("far", "restic", {"repository": repository, "password": SECRET}).remote()
    assert remote is not None and remote[0] == kind
    assert _offsite.base_path(*remote) == place


def test_calls_hold_no_secret() -> None:
    for call in (
        rclone_argv("/run/x/rclone.conf", "/etc/ca.pem", "cat", "target:backups/acme/x"),
        restic_argv("rclone:target:backups/restic", "snapshots"),
    ):
        assert SECRET not in " ".join(call)
    assert rclone_argv("/c", "/ca", "cat", "x")[:3] == ["rclone", "--config", "/c"]
    assert "--ca-cert" not in rclone_argv("/c", None, "cat", "x")


def fake(directory: Path, name: str, text: str) -> None:
    path = directory / name
    path.write_text("#!{0}\n{1}".format(sys.executable, text), encoding="utf-8")
    path.chmod(0o755)


@pytest.fixture
def private(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where private directories are made, and programs of the test come before others."""
    place = tmp_path / "run"
    place.mkdir()
    monkeypatch.setattr(_offsite, "_private_parent", lambda: str(place))
    monkeypatch.setenv("PATH", "{0}:{1}".format(tmp_path, os.environ["PATH"]))
    return place


def test_messages_are_redacted_and_files_private(tmp_path: Path, private: Path) -> None:
    seen = tmp_path / "seen"
    fake(
        tmp_path,
        "rclone",
        """
import os, sys
config = sys.argv[sys.argv.index("--config") + 1]
modes = [oct(os.stat(p).st_mode & 0o777) for p in (config, os.path.dirname(config))]
open({0!r}, "w").write(" ".join(modes) + "\\n" + repr(sys.argv) + repr(dict(os.environ)))
sys.stderr.write("x" * 70000 + "\\nfirst\\n" + open(config).read() + "s3cr3t%2Fwith%2Bslash\\n")
sys.exit(7)
""".format(str(seen)),
    )
    with pytest.raises(OffsiteFailed) as caught:
        _offsite.listing(target_of(declared("s3", S3)), "acme")
    message = str(caught.value)
    assert message.startswith("offsite target far: acme: could not be listed (rclone ended with 7): ")
    assert SECRET not in message and "AKIAEXAMPLE" not in message and "%2F" not in message and "***" in message
    lines = seen.read_text().splitlines()
    assert lines[0] == "0o600 0o700" and SECRET not in lines[1]
    assert os.listdir(private) == []


def test_passwords_reach_their_programs_in_files(tmp_path: Path, private: Path) -> None:
    seen = tmp_path / "seen"
    fake(
        tmp_path,
        "rclone",
        """
import os, sys
if "obscure" in sys.argv:
    assert sys.stdin.read() == {0!r} + "\\n"
    print("0bscur3d")
    sys.exit(0)
assert "pass = 0bscur3d" in open(sys.argv[sys.argv.index("--config") + 1]).read()
print('[{{"Name": "config", "Size": 1}}]')
""".format(SECRET),
    )
    fake(
        tmp_path,
        "restic",
        """
import os, sys
path = os.environ["RESTIC_PASSWORD_FILE"]
open({0!r}, "w").write(oct(os.stat(path).st_mode & 0o777) + repr(sys.argv) + repr(dict(os.environ)))
sys.stderr.write("0bscur3d " + open(path).read())
sys.exit(1)
""".format(str(seen)),
    )
    with pytest.raises(OffsiteFailed) as caught:
        _offsite.listing(target_of(declared("restic", RESTIC_SFTP)), "acme")
    assert "0bscur3d" not in str(caught.value) and SECRET not in str(caught.value) and "***" in str(caught.value)
    text = seen.read_text()
    assert text.startswith("0o600") and SECRET not in text and "0bscur3d" not in text
    assert os.listdir(private) == []


def test_a_program_that_hangs_is_ended_with_its_children(tmp_path: Path, private: Path) -> None:
    fake(
        tmp_path,
        "rclone",
        "import subprocess\nopen({0!r}, 'w').write(str(subprocess.Popen(['sleep', '60']).pid))\n"
        "import time\ntime.sleep(60)\n".format(str(tmp_path / "child")),
    )
    started = time.monotonic()
    with pytest.raises(OffsiteFailed, match="within 1 seconds"):
        _offsite.listing(target_of(declared("s3", S3)), "acme", timeout=1)
    assert time.monotonic() - started < 10
    child = Path("/proc") / (tmp_path / "child").read_text() / "status"
    deadline = time.monotonic() + 5
    while child.exists() and "State:\tZ" not in child.read_text():
        assert time.monotonic() < deadline, "a child was left behind"
        time.sleep(0.05)


def test_a_program_that_is_missing(private: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(private))
    with pytest.raises(OffsiteFailed, match="rclone is not installed"):
        _offsite.listing(target_of(declared("s3", S3)), "acme")


def test_what_a_killed_run_left_is_removed(private: Path) -> None:
    old, young, other = private / "multibase-offsite-a", private / "multibase-offsite-b", private / "other"
    for path in (old, young, other):
        path.mkdir()
        (path / "rclone.conf").write_text(SECRET)
    for path in (old, other):
        os.utime(path, (0, 0))
    _offsite._sweep(str(private))
    assert sorted(os.listdir(private)) == ["multibase-offsite-b", "other"]


def test_names_are_checked_before_anything_is_done(tmp_path: Path, private: Path) -> None:
    target = target_of(declared("s3", S3))
    for name, stem in (("../x", "20261125T0230"), ("acme", "2026/.."), ("acme", ""), ("acme", "a.b")):
        with pytest.raises(InvalidInput):
            _offsite.remove(target, name, stem)
    for file in ("x.sql.gz", "s/../x", "s.manifest.json", "s.sql.gz.partial"):
        with pytest.raises(InvalidInput):
            _offsite.upload(target, str(tmp_path), "acme", [file], "s.manifest.json")
    with pytest.raises(OffsiteFailed, match="cannot be read here"):
        _offsite.upload(target, str(tmp_path), "acme", ["s.sql.gz"], "s.manifest.json")


def test_a_manifest_names_no_other_file(tmp_path: Path) -> None:
    target = target_of(declared("s3", S3))
    for text in ("{}", "[]", "no", '{"parts": {"../s.x": {"size": 1, "sha256": ""}}}', '{"parts": {"t.x": {}}}'):
        with pytest.raises(OffsiteFailed, match="no manifest of ours"):
            _offsite._manifest_parts(target, "s", text.encode())


def test_staged_files_are_private(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        with _offsite._staged(str(tmp_path / "f")) as stream:
            stream.write(b"x")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "f.partial").stat().st_mode) == 0o600
