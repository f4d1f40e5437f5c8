# SPDX-License-Identifier: GPL-3.0-or-later
"""Handing credentials over: what is in the file, where it may be written, and that a secret is nowhere else.

The last part runs ansible-playbook on an instance below a temporary directory. A callback plugin of the tests records
everything that Ansible gives to callbacks, and ARA's own records beside it. One play shows that the recorder would see
a secret if there was one.
"""

from __future__ import annotations

import base64
import json
import os
import stat
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List, Optional
from unittest import mock
from urllib.parse import unquote, urlsplit

import pytest
import yaml
from ansible.errors import AnsibleActionFail
from ansible.parsing.vault import VaultLib, VaultSecret
from hypothesis import given, settings
from hypothesis import strategies as st

from ansible_collections.multibase.supabase.plugins.action.credentials import Destination, rendered
from ansible_collections.multibase.supabase.plugins.module_utils import _envfile, _sealed
from ansible_collections.multibase.supabase.plugins.module_utils._credentials import (
    FORMATS,
    Credential,
    as_table,
    collect,
    from_rows,
    with_password,
)
from ansible_collections.multibase.supabase.plugins.module_utils._errors import MultibaseError, StateCorrupt
from ansible_collections.multibase.supabase.plugins.modules.credentials import hand_over
from leaks import LeakScanner
from unit.support import PROPERTY, assert_no_secret, converge, item, manifest_of, secrets_of, snapshot

ROOT = Path(__file__).resolve().parents[2]
printable = st.text(st.characters(exclude_categories=("Cs", "Cc")), max_size=40)


# Sealing


@settings(PROPERTY, max_examples=25)
@given(st.binary(max_size=200))
def test_what_is_sealed_is_opened_by_its_receiver(content: bytes) -> None:
    receiver = _sealed.Receiver()
    sealed = _sealed.seal(content, receiver.address)
    assert receiver.open(json.loads(json.dumps(sealed))) == content


def test_sealed_is_different_each_time_and_opened_by_nobody_else() -> None:
    receiver, other = _sealed.Receiver(), _sealed.Receiver()
    one, two = (_sealed.seal(b"canary" * 100, receiver.address) for _again in range(2))
    assert one["text"] != two["text"] and "canary" not in json.dumps(one)
    with pytest.raises(MultibaseError):
        other.open(one)


@pytest.mark.parametrize("field", ["sender", "text"])
def test_what_came_damaged_is_not_opened(field: str) -> None:
    receiver = _sealed.Receiver()
    sealed = _sealed.seal(b"content of some length", receiver.address)
    text = sealed[field]
    for damaged in (text[:-4], "", ("A" if text[0] != "A" else "B") + text[1:], "no base64 at all"):
        with pytest.raises(MultibaseError):
            receiver.open({**sealed, field: damaged})
    with pytest.raises(MultibaseError):
        receiver.open({})


# A point of low order makes the shared secret zero, which everybody knows (RFC 7748, section 6.1).
@pytest.mark.parametrize("address", ["", "x", "AAAA", base64.b64encode(bytes(32)).decode(), "\u00e9"])
def test_an_address_that_gives_the_secret_away_is_refused(address: str) -> None:
    with pytest.raises(MultibaseError):
        _sealed.seal(b"content", address)
    receiver = _sealed.Receiver()
    with pytest.raises(MultibaseError):
        receiver.open({**_sealed.seal(b"content", receiver.address), "sender": address})


def test_a_host_without_the_library_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cryptography.hazmat.primitives.asymmetric.x25519", None)
    with pytest.raises(MultibaseError, match="python3-cryptography"):
        _sealed.seal(b"content", "x")


# What is handed over

VARIABLES: Dict[str, str] = {
    "MULTIBASE_INSTANCE": "acme",
    "SUPABASE_PUBLIC_URL": "https://acme.example.com",
    "ANON_KEY": "an-anon-key",
    "SERVICE_ROLE_KEY": "a-service-key",
    "SUPABASE_PUBLISHABLE_KEY": "",
    "SUPABASE_SECRET_KEY": "",
    "ANON_KEY_ASYMMETRIC": "",
    "SERVICE_ROLE_KEY_ASYMMETRIC": "",
    "JWT_SECRET": "a-jwt-secret",
    "JWT_KEYS": "[]",
    "JWT_JWKS": '{"keys":[]}',
    "DASHBOARD_USERNAME": "supabase",
    "DASHBOARD_PASSWORD": "a-dashboard-password",
    "POSTGRES_DB": "postgres",
    "POSTGRES_PASSWORD": "p@ss/word:1",
    "REGION": "stub",
    "S3_PROTOCOL_ACCESS_KEY_ID": "an-id",
    "S3_PROTOCOL_ACCESS_KEY_SECRET": "a-secret",
    "LOGFLARE_PRIVATE_ACCESS_TOKEN": "a-token",
    "SECRET_KEY_BASE": "internal",
    "VAULT_ENC_KEY": "internal",
}
MANIFEST: Dict[str, Any] = {
    "services": ["db", "storage", "studio"],
    "urls": {
        "api": "https://acme.example.com",
        "studio": "https://acme.example.com/",
        "pooler_session": "postgresql://postgres.acme@127.0.0.1:20003/postgres",
        "pooler_transaction": "postgresql://postgres.acme@127.0.0.1:20004/postgres",
        "postgres": "postgresql://postgres@127.0.0.1:20005/postgres",
    },
}


def collected(manifest: Optional[Dict[str, Any]] = None, **variables: str) -> Dict[str, str]:
    found = collect({**MANIFEST, **(manifest or {})}, {**VARIABLES, **variables})
    assert len({credential.name for credential in found}) == len(found)
    return {credential.name: credential.value for credential in found}


def test_what_is_handed_over() -> None:
    found = collected()
    assert list(found) == [
        "MULTIBASE_INSTANCE", "SUPABASE_PUBLIC_URL", "ANON_KEY", "SERVICE_ROLE_KEY", "JWT_SECRET", "STUDIO_URL",
        "DASHBOARD_USERNAME", "DASHBOARD_PASSWORD", "POSTGRES_DB", "POSTGRES_PASSWORD", "POOLER_SESSION_URL",
        "POOLER_TRANSACTION_URL", "POSTGRES_URL", "POSTGRES_INTERNAL_URL", "S3_PROTOCOL_ENDPOINT", "REGION",
        "S3_PROTOCOL_ACCESS_KEY_ID", "S3_PROTOCOL_ACCESS_KEY_SECRET",
    ]  # fmt: skip
    assert found["POOLER_SESSION_URL"] == "postgresql://postgres.acme:p%40ss%2Fword%3A1@127.0.0.1:20003/postgres"
    assert found["POSTGRES_INTERNAL_URL"] == "postgresql://postgres:p%40ss%2Fword%3A1@db:5432/postgres"
    assert found["S3_PROTOCOL_ENDPOINT"] == "https://acme.example.com/storage/v1/s3"


def test_optional_keys_are_there_while_they_are_on() -> None:
    names = ["SUPABASE_PUBLISHABLE_KEY", "SUPABASE_SECRET_KEY", "ANON_KEY_ASYMMETRIC", "JWT_KEYS", "JWT_JWKS"]
    found = collected(**dict.fromkeys(names, "on"))
    assert [found.get(name) for name in names] == ["on"] * len(names)


def test_what_is_off_has_no_address() -> None:
    urls = {"api": "https://acme.example.com"}
    found = collected({"services": ["db", "analytics"], "urls": urls}, LOGFLARE_PUBLIC_ACCESS_TOKEN="")
    assert not {"STUDIO_URL", "POOLER_SESSION_URL", "POSTGRES_URL", "S3_PROTOCOL_ENDPOINT", "REGION"} & set(found)
    assert {"POSTGRES_INTERNAL_URL", "DASHBOARD_PASSWORD", "LOGFLARE_PRIVATE_ACCESS_TOKEN"} <= set(found)


@pytest.mark.parametrize(
    ("host", "url"),
    [
        ("pg.example.net", "postgresql://postgres:p%40ss%2Fword%3A1@pg.example.net:6432/postgres"),
        ("fd00::1", "postgresql://postgres:p%40ss%2Fword%3A1@[fd00::1]:6432/postgres"),
    ],
)
def test_a_database_elsewhere_is_reached_where_it_is(host: str, url: str) -> None:
    urls = {key: value for key, value in MANIFEST["urls"].items() if key != "postgres"}
    found = collected({"urls": urls}, POSTGRES_HOST=host, POSTGRES_PORT="6432")
    assert found["POSTGRES_URL"] == url
    assert "POSTGRES_INTERNAL_URL" not in found


@PROPERTY
@given(st.text(st.characters(exclude_categories=("Cs",)), min_size=1, max_size=40))
def test_any_password_can_be_part_of_a_connection_string(password: str) -> None:
    parts = urlsplit(with_password("postgresql://postgres.acme@127.0.0.1:20003/postgres", password))
    assert unquote(parts.password or "") == password
    assert (parts.username, parts.hostname, parts.port) == ("postgres.acme", "127.0.0.1", 20003)
    assert parts.path == "/postgres"


def test_secrets_are_marked() -> None:
    marked = {credential.name for credential in collect(MANIFEST, VARIABLES) if credential.secret}
    plain = set(collected()) - marked
    assert plain == {
        "MULTIBASE_INSTANCE", "SUPABASE_PUBLIC_URL", "STUDIO_URL", "DASHBOARD_USERNAME", "POSTGRES_DB",
        "S3_PROTOCOL_ENDPOINT", "REGION",
    }  # fmt: skip


def loaded(form: str, text: str) -> Dict[str, str]:
    """Read a file of credentials as its users do."""
    read: Dict[str, Callable[[str], Any]] = {
        "env": _envfile.parse, "json": json.loads, "yaml": yaml.safe_load, "table": table,
    }  # fmt: skip
    return dict(read[form](text))


def table(text: str) -> Dict[str, str]:
    return dict(line.split(maxsplit=1) for line in text.splitlines() if line.startswith("  "))


@pytest.mark.parametrize("form", FORMATS)
def test_every_format_says_the_same(form: str) -> None:
    assert loaded(form, rendered(collect(MANIFEST, VARIABLES), form)) == collected()


@PROPERTY
@given(st.lists(printable, min_size=1, max_size=5), st.sampled_from(["env", "json", "yaml"]))
def test_values_survive_every_format_for_programs(values: List[str], form: str) -> None:
    credentials = [Credential(f"NAME_{index}", value, "Heading", True) for index, value in enumerate(values)]
    expected = {credential.name: credential.value for credential in credentials}
    assert loaded(form, rendered(credentials, form)) == expected
    rows = json.dumps([credential.as_row() for credential in credentials]).encode()
    assert from_rows(rows) == credentials


def test_a_table_stays_one_line_a_value() -> None:
    text = as_table([Credential("A", "one\ntwo", "First", True), Credential("LONGER", "x", "Second", False)])
    assert text == 'First\n  A       "one\\ntwo"\n\nSecond\n  LONGER  x\n'


# Where the file may be


def write(path: Path, content: bytes = b"content", force: bool = False) -> None:
    destination = Destination(str(path), force)
    try:
        destination.write(content)
    finally:
        destination.close()


def test_the_file_is_its_owners_alone_whatever_the_umask(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        write(tmp_path / "file")
    finally:
        os.umask(before)
    status = (tmp_path / "file").stat()
    assert (stat.S_IMODE(status.st_mode), status.st_nlink) == (0o600, 1)
    assert (tmp_path / "file").read_bytes() == b"content"
    assert os.listdir(tmp_path) == ["file"]


def test_a_file_that_is_there_is_replaced_on_purpose_only(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("old")
    path.chmod(0o644)
    with pytest.raises(AnsibleActionFail, match="there already"):
        write(path)
    assert path.read_text() == "old"
    write(path, force=True)
    assert (path.read_text(), stat.S_IMODE(path.stat().st_mode)) == ("content", 0o600)
    assert os.listdir(tmp_path) == ["file"]


def test_a_file_that_appears_in_the_meantime_is_not_replaced(tmp_path: Path) -> None:
    destination = Destination(str(tmp_path / "file"), False)
    (tmp_path / "file").write_text("somebody else's")
    with pytest.raises(AnsibleActionFail, match="exists"):
        destination.write(b"content")
    destination.close()
    assert (tmp_path / "file").read_text() == "somebody else's"
    assert os.listdir(tmp_path) == ["file"]


def test_a_directory_that_is_swapped_in_the_meantime_gets_nothing(tmp_path: Path) -> None:
    mine = tmp_path / "mine"
    mine.mkdir()
    destination = Destination(str(mine / "file"), False)
    mine.rename(tmp_path / "moved")
    mine.mkdir()
    destination.write(b"content")
    destination.close()
    assert list(mine.iterdir()) == []
    assert (tmp_path / "moved" / "file").read_bytes() == b"content"


@pytest.mark.parametrize("force", [False, True])
def test_what_is_no_plain_file_is_refused(tmp_path: Path, force: bool) -> None:
    (tmp_path / "target").write_text("untouched")
    (tmp_path / "link").symlink_to(tmp_path / "target")
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    (tmp_path / "directory").mkdir()
    os.mkfifo(tmp_path / "pipe")
    before = snapshot(tmp_path)
    for name in ("link", "dangling", "directory", "pipe"):
        with pytest.raises(AnsibleActionFail, match="no plain file"):
            write(tmp_path / name, force=force)
    assert snapshot(tmp_path) == before


@pytest.mark.parametrize(("mode", "refused"), [(0o777, True), (0o1777, False), (0o775, False), (0o702, True)])
def test_a_directory_that_everybody_may_write_to_needs_the_sticky_bit(tmp_path: Path, mode: int, refused: bool) -> None:
    directory = tmp_path / "shared"
    directory.mkdir()
    directory.chmod(mode)
    if refused:
        with pytest.raises(AnsibleActionFail, match="everybody may write"):
            write(directory / "file")
    else:
        write(directory / "file")
    assert list(directory.iterdir()) == ([] if refused else [directory / "file"])


@pytest.mark.parametrize("path", ["file", "./file", "", "/", "/tmp/", "/tmp/..", "/nonexistent/file", "/dev/null/file"])
def test_a_path_that_names_no_file_is_refused(path: str) -> None:
    with pytest.raises(AnsibleActionFail, match="path"):
        Destination(path, True)


def test_a_disk_that_is_full_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("old")
    with (
        mock.patch.object(os, "write", side_effect=OSError(28, "No space left on device")),
        pytest.raises(AnsibleActionFail, match="No space left"),
    ):
        write(tmp_path / "file", force=True)
    assert (tmp_path / "file").read_text() == "old"
    assert os.listdir(tmp_path) == ["file"]


def test_a_file_system_without_modes_is_refused(tmp_path: Path) -> None:
    """A stand-in for FAT: the mode of a new file cannot be changed."""
    real = os.open

    def open_for_all(path: Any, flags: int, _mode: int = 0, **more: Any) -> int:
        return real(path, flags, 0o666, **more)

    before = os.umask(0)
    try:
        with (
            mock.patch.object(os, "fchmod", lambda *_arguments: None),
            mock.patch.object(os, "open", open_for_all),
            pytest.raises(AnsibleActionFail, match="other users"),
        ):
            write(tmp_path / "file")
    finally:
        os.umask(before)
    assert list(tmp_path.iterdir()) == []


# The module


def parameters(root: Path, **changes: Any) -> Dict[str, Any]:
    values = {"root": str(root), "name": "acme", "path": "/x", "format": "env", "encrypt": False, "force": False}
    return {**values, "receiver": _sealed.Receiver().address, **changes}


def test_the_module_tells_names_and_fingerprints_and_seals_the_rest(tmp_path: Path) -> None:
    converge(tmp_path, item("acme", smtp={"host": "mail", "password": "canary password"}))
    receiver = _sealed.Receiver()
    result = hand_over(parameters(tmp_path, receiver=receiver.address), False)
    assert_no_secret(json.dumps(result), {**secrets_of(tmp_path, "acme"), "mail": "canary password"}, "the result")
    (told,) = result["instances"]
    found = {credential.name: credential.value for credential in from_rows(receiver.open(result["sealed"]))}
    assert list(found) == told["names"]
    secrets = secrets_of(tmp_path, "acme")
    for name in ("ANON_KEY", "SERVICE_ROLE_KEY", "JWT_SECRET", "DASHBOARD_PASSWORD", "POSTGRES_PASSWORD"):
        assert found[name] == secrets[name]
        assert told["fingerprints"][name] == manifest_of(tmp_path, "acme")["secrets"][name]
    assert told["edited"] == []
    assert "SMTP_PASS" not in found and "SECRET_KEY_BASE" not in found


def test_instances_of_other_kinds(tmp_path: Path) -> None:
    """What the variables and addresses of real instances amount to; those above are made up."""
    without = dict.fromkeys(("supavisor", "storage", "imgproxy"), False)
    options: Dict[str, Dict[str, Any]] = {
        "keys": {"keys": {"asymmetric": True, "opaque": True}, "expose": ["postgres"]},
        "bouncer": {"services": {**dict.fromkeys(("pgbouncer", "analytics"), True), **without}},
        "outside": {"database": {"host": "pg.example.net", "name": "shop", "password": "canary-password"}},
    }
    converge(tmp_path, *[item(name, **more) for name, more in options.items()])
    found: Dict[str, Dict[str, str]] = {}
    for name in options:
        receiver = _sealed.Receiver()
        result = hand_over(parameters(tmp_path, name=name, receiver=receiver.address), False)
        found[name] = {one.name: one.value for one in from_rows(receiver.open(result["sealed"]))}
    assert found["keys"]["SUPABASE_SECRET_KEY"].startswith("sb_secret_")
    assert json.loads(found["keys"]["JWT_JWKS"])["keys"] and found["keys"]["SERVICE_ROLE_KEY_ASYMMETRIC"]
    assert "SUPABASE_SECRET_KEY" not in found["bouncer"] and "JWT_KEYS" not in found["bouncer"]
    assert urlsplit(found["keys"]["POSTGRES_URL"]).password == found["keys"]["POSTGRES_PASSWORD"]
    assert urlsplit(found["keys"]["POOLER_SESSION_URL"]).username == "postgres.keys"
    assert urlsplit(found["bouncer"]["POOLER_TRANSACTION_URL"]).username == "postgres"
    assert "POOLER_SESSION_URL" not in found["bouncer"] and "S3_PROTOCOL_ENDPOINT" not in found["bouncer"]
    assert found["bouncer"]["LOGFLARE_PRIVATE_ACCESS_TOKEN"] and "LOGFLARE_PRIVATE_ACCESS_TOKEN" not in found["keys"]
    assert found["outside"]["POSTGRES_URL"] == "postgresql://postgres:canary-password@pg.example.net:5432/shop"
    assert "POSTGRES_INTERNAL_URL" in found["keys"] and "POSTGRES_INTERNAL_URL" not in found["outside"]


def test_in_check_mode_nothing_leaves_the_host(tmp_path: Path) -> None:
    converge(tmp_path, item("acme"))
    result = hand_over(parameters(tmp_path), True)
    assert set(result) == {"instances"} and "ANON_KEY" in result["instances"][0]["names"]


def test_a_secret_that_was_changed_by_hand_is_told(tmp_path: Path) -> None:
    converge(tmp_path, item("acme"))
    path = tmp_path / "projects/acme/.env"
    path.write_text(path.read_text().replace(secrets_of(tmp_path, "acme")["DASHBOARD_PASSWORD"], "by-hand-0123456789"))
    assert hand_over(parameters(tmp_path), False)["instances"][0]["edited"] == ["DASHBOARD_PASSWORD"]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"name": "nosuch"}, "no instance nosuch"), ({"name": "../acme"}, "no valid name"),
        ({"receiver": None}, "action plugin"), ({"receiver": "1"}, "address"),
    ],
)  # fmt: skip
def test_what_cannot_be_handed_over(tmp_path: Path, changes: Dict[str, Any], words: str) -> None:
    converge(tmp_path, item("acme"))
    with pytest.raises(MultibaseError, match=words):
        hand_over(parameters(tmp_path, **changes), False)


def test_a_host_without_the_instance_is_asked_for_nothing(tmp_path: Path) -> None:
    assert hand_over(parameters(tmp_path, name="", receiver=None), False) == {"instances": []}


def test_a_damaged_env_is_named_and_nothing_handed_over(tmp_path: Path) -> None:
    converge(tmp_path, item("acme"))
    secrets = secrets_of(tmp_path, "acme")
    path = tmp_path / "projects/acme/.env"
    whole = path.read_text()
    for text, word in (
        (whole.replace("\nJWT_SECRET=", "\n# JWT_SECRET="), "lacks JWT_SECRET"),
        (whole[: whole.index("\nANON_KEY=") + 1], "lacks"),
        (whole.replace("\nJWT_SECRET=", "\nJWT_SECRET"), "not of the form NAME=VALUE"),
        (whole.replace(secrets["ANON_KEY"], secrets["SERVICE_ROLE_KEY"]), "ANON_KEY"),
        ("", "lacks"),
    ):
        path.write_text(text)
        with pytest.raises(StateCorrupt, match=word) as caught:
            hand_over(parameters(tmp_path), False)
        assert str(path) in str(caught.value)
        assert_no_secret(str(caught.value), secrets, "the message")


# In a run of Ansible

RECORDER = '''
import os
from ansible.plugins.callback import CallbackBase

DOCUMENTATION = """
name: recorder
type: notification
short_description: Records everything that callbacks are given
description: Writes what can be reached from the arguments of every event to the file that RECORD names.
"""


class CallbackModule(CallbackBase):
    CALLBACK_VERSION = 2.0
    CALLBACK_TYPE = "notification"
    CALLBACK_NAME = "recorder"

    def v2_on_any(self, *args, **kwargs):
        with open(os.environ["RECORD"], "a", encoding="utf-8", errors="replace") as stream:
            waiting, seen = [(args, 0), (kwargs, 0)], set()
            while waiting:
                value, depth = waiting.pop()
                if isinstance(value, (str, bytes, int, float)):
                    stream.write(str(value) + "\\n")
                elif id(value) not in seen and depth < 12:
                    seen.add(id(value))
                    if isinstance(value, dict):
                        waiting += [(part, depth + 1) for pair in value.items() for part in pair]
                    elif isinstance(value, (list, tuple, set, frozenset)):
                        waiting += [(part, depth + 1) for part in value]
                    elif not isinstance(value, type) and hasattr(value, "__dict__"):
                        waiting.append((vars(value), depth + 1))
'''
# Stands in for ssh: runs the command on this machine.
SSH = """#!/bin/sh
for command; do :; done
exec /bin/sh -c "$command"
"""
VAULT_PASSWORD = "vault-password-of-the-test"


@dataclass
class Site:
    """A host with an instance, and a way to run playbooks against it in which everything is recorded."""

    directory: Path
    secrets: Dict[str, str]

    @property
    def out(self) -> Path:
        """Where the tests have credentials written."""
        return self.directory / "acme.out"

    def play(self, tasks: List[Dict[str, Any]]) -> Path:
        """Write a playbook of a user, with none of the precautions of ours."""
        path = self.directory / "play.yml"
        path.write_text(json.dumps([{"hosts": "multibase_hosts", "gather_facts": False, "tasks": tasks}]))
        return path

    def run(
        self, playbook: Path, *options: str, connection: str = "local", ara: bool = False, **more: str
    ) -> subprocess.CompletedProcess[str]:
        """Run a playbook with our callback, the recorder and, if asked for, ARA's."""
        variables = {
            "ansible_connection": connection,
            "ansible_ssh_executable": str(self.directory / "ssh"),
            "ansible_become": False,
            "ansible_python_interpreter": sys.executable,
            "multibase_root": str(self.directory / "root"),
        }
        inventory = {"multibase_hosts": {"hosts": {"h1": variables}}}
        (self.directory / "hosts.yml").write_text(json.dumps(inventory))
        callbacks = [ROOT / "playbooks" / "callback_plugins", self.directory / "callbacks"]
        callbacks += [ROOT / ".venv" / "ara" / "callback"] if ara else []
        environment = {
            **os.environ,
            "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"),
            "ANSIBLE_CALLBACK_PLUGINS": ":".join(map(str, callbacks)),
            "ANSIBLE_LOG_PATH": str(self.directory / "log"),
            "ARA_BASE_DIR": str(self.directory / "ara"),
            "MULTIBASE_FAILURES_FILE": str(self.directory / "failures.json"),
            "RECORD": str(self.directory / "record"),
            **more,
        }
        command = [str(ROOT / ".venv" / "bin" / "ansible-playbook"), "-i", str(self.directory / "hosts.yml"), *options]
        (self.directory / "record").write_text("")
        return subprocess.run(
            [*command, str(playbook)],
            cwd=self.directory,
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=180,
            check=False,
        )

    def hand_over(self, *options: str, **more: Any) -> subprocess.CompletedProcess[str]:
        """Run our playbook; ``variables`` are its extra variables."""
        variables = {
            "multibase_limit": "acme",
            "multibase_credentials_file": str(self.out),
            "multibase_result_file": str(self.directory / "result.json"),
            **more.pop("variables", {}),
        }
        playbook = ROOT / "playbooks" / "credentials.yml"
        return self.run(playbook, "--extra-vars", json.dumps(variables), *options, **more)

    @property
    def result(self) -> Dict[str, Any]:
        """What the last run reported of the instance."""
        (told,) = json.loads((self.directory / "result.json").read_text())["instances"]
        return dict(told)

    @property
    def failure(self) -> str:
        """What the last run said that went wrong."""
        (told,) = json.loads((self.directory / "failures.json").read_text())
        return " ".join(str(told["msg"]).split())

    def leaks(self, done: subprocess.CompletedProcess[str]) -> List[str]:
        """Where of all that was printed and recorded a secret stands, as it is or in another form."""
        scanner = LeakScanner()
        scanner.add_canaries(self.secrets)
        found = scanner.search("output", (done.stdout + done.stderr).encode())
        # Everything below the directory but the instance, the file that was asked for, and records that are looked at.
        known = {self.out, self.directory / "ara" / "ansible.sqlite"}
        files = [
            path
            for path in self.directory.rglob("*")
            if path not in known and self.directory / "root" not in path.parents and path.is_file()
        ]
        assert self.directory / "record" in files
        found += scanner.search_files(files)
        if (self.directory / "ara" / "ansible.sqlite").exists():
            found += scanner.search_database(self.directory / "ara" / "ansible.sqlite")
        return found


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A host's directory with one instance, which no test changes."""
    path = tmp_path_factory.mktemp("host")
    converge(path / "root", item("acme", smtp={"host": "mail", "password": "canary-of-the-mail-server"}))
    return path / "root"


@pytest.fixture
def site(root: Path, tmp_path: Path) -> Iterator[Site]:
    (tmp_path / "root").symlink_to(root)
    (tmp_path / "callbacks").mkdir()
    (tmp_path / "callbacks" / "recorder.py").write_text(RECORDER)
    (tmp_path / "ssh").write_text(SSH)
    (tmp_path / "ssh").chmod(0o755)
    (tmp_path / "vault-password").write_text(VAULT_PASSWORD)
    before = snapshot(root)
    yield Site(tmp_path, {**secrets_of(root, "acme"), "mail": "canary-of-the-mail-server"})
    assert snapshot(root) == before


def test_our_playbook_hands_over_and_leaks_nothing_at_any_verbosity(site: Site) -> None:
    done = site.hand_over("-vvvvv", "--diff", variables={"multibase_credentials_format": "json"}, ara=True)
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(site.out.read_text())
    for name in ("ANON_KEY", "SERVICE_ROLE_KEY", "JWT_SECRET", "DASHBOARD_PASSWORD", "POSTGRES_PASSWORD"):
        assert found[name] == site.secrets[name]
    assert stat.S_IMODE(site.out.stat().st_mode) == 0o600
    assert site.result == {
        "name": "acme", "host": "h1", "path": str(site.out), "format": "json", "encrypted": False, "written": True,
        "names": list(found), "fingerprints": site.result["fingerprints"], "edited": [],
    }  # fmt: skip
    assert (site.directory / "ara" / "ansible.sqlite").exists(), "ARA recorded the run"
    assert site.leaks(done) == []


def test_a_play_without_precautions_leaks_nothing_either(site: Site) -> None:
    """Over SSH, whose connection shows a module's output at -vvv; with ANSIBLE_DEBUG everything is shown."""
    arguments = {"root": "{{ multibase_root }}", "name": "acme", "path": str(site.out)}
    tasks = [
        {"name": "Hand over", "multibase.supabase.credentials": arguments, "register": "told"},
        {"name": "Show", "ansible.builtin.debug": {"var": "told"}},
    ]
    done = site.run(site.play(tasks), "-vvvv", connection="ssh", ANSIBLE_DEBUG="1")
    assert done.returncode == 0, done.stdout + done.stderr
    assert site.secrets["JWT_SECRET"] in site.out.read_text()
    assert '"sealed"' in done.stdout.replace("\\", ""), "the module's output is shown"
    assert site.leaks(done) == []


def test_the_recorder_would_see_a_secret(site: Site) -> None:
    path = str(site.directory / "root" / "projects" / "acme" / ".env")
    tasks = [
        {"name": "Read", "ansible.builtin.slurp": {"src": path}, "register": "text", "no_log": True},
        {"name": "Show", "ansible.builtin.debug": {"msg": "{{ text.content | b64decode }}"}},
    ]
    done = site.run(site.play(tasks), connection="ssh", ara=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{site.directory / 'record'}: JWT_SECRET" in site.leaks(done)
    assert any(line.startswith("ansible.sqlite, table") for line in site.leaks(done))


def test_encrypted_with_the_vault_secret_of_the_run(site: Site) -> None:
    variables = {"multibase_credentials_format": "yaml", "multibase_credentials_vault": "true"}
    password = str(site.directory / "vault-password")
    done = site.hand_over("--vault-id", f"prod@{password}", "-vvvvv", variables=variables)
    assert done.returncode == 0, done.stdout + done.stderr
    encrypted = site.out.read_bytes()
    assert encrypted.startswith(b"$ANSIBLE_VAULT;1.2;AES256;prod\n")
    assert stat.S_IMODE(site.out.stat().st_mode) == 0o600
    text = VaultLib([("prod", VaultSecret(VAULT_PASSWORD.encode()))]).decrypt(encrypted)
    assert yaml.safe_load(text)["SERVICE_ROLE_KEY"] == site.secrets["SERVICE_ROLE_KEY"]
    assert site.result["encrypted"] is True
    assert site.leaks(done) == []
    assert_no_secret(encrypted.decode(), site.secrets, "the encrypted file")


def test_without_a_vault_secret_nothing_is_written(site: Site) -> None:
    done = site.hand_over(variables={"multibase_credentials_vault": True})
    assert done.returncode == 2
    assert "no vault secret" in site.failure
    assert not site.out.exists()


def test_check_mode_says_what_it_would_write(site: Site) -> None:
    done = site.hand_over("--check")
    assert done.returncode == 0, done.stdout + done.stderr
    assert not site.out.exists()
    assert (site.result["written"], site.result["path"]) == (False, str(site.out))
    assert "ANON_KEY" in site.result["names"]


@pytest.mark.parametrize(
    ("variables", "words"),
    [
        ({"multibase_limit": "all"}, "Name one instance"),
        ({"multibase_credentials_file": "relative.env", "multibase_credentials_format": "env"}, "an absolute path"),
        ({"multibase_credentials_format": "xml"}, "must be one of"),
    ],
)
def test_what_is_wrong_is_told_although_the_task_is_hidden(site: Site, variables: Dict[str, str], words: str) -> None:
    done = site.hand_over(variables=variables)
    assert done.returncode == 2, done.stdout
    assert words in site.failure
    assert not site.out.exists()


def test_a_damaged_env_is_told_by_the_playbook_too(site: Site, tmp_path: Path) -> None:
    (tmp_path / "root").unlink()
    converge(tmp_path / "root", item("acme"))
    path = tmp_path / "root" / "projects" / "acme" / ".env"
    path.write_text(path.read_text().replace("\nJWT_SECRET=", "\n# JWT_SECRET="))
    done = site.hand_over()
    assert done.returncode == 2, done.stdout
    assert f"{path} lacks JWT_SECRET" in site.failure
    assert not site.out.exists()
