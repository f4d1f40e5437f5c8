# SPDX-License-Identifier: GPL-3.0-or-later
"""Secrets of the user that come from a file: on the host (``host:/PATH``, JSON), or on the controller (YAML, Vault).

``support.Play`` stands in for a task: it runs the real action plugin and the real module in this process. Files of the
controller are encrypted and read by Ansible's own library.
"""

from __future__ import annotations

import json
import os
import socket
import threading
from pathlib import Path
from typing import Any, Callable, Dict

import pytest
from ansible.errors import AnsibleError
from ansible.parsing.dataloader import DataLoader
from ansible.parsing.vault import VaultLib, VaultSecret, VaultSecretsContext

from ansible_collections.multibase.supabase.plugins.module_utils import _host_secrets
from ansible_collections.multibase.supabase.plugins.module_utils._errors import MultibaseError
from unit.support import Play, assert_no_secret, env_of, manifest_of, one_problem, snapshot

SECRETS = {"SMTP_PASS": "canary of mail", "functions": {"STRIPE_KEY": "canary of stripe"}}
CANARIES = {"mail": "canary of mail", "stripe": "canary of stripe", "part": "canary"}
AS_ROOT = os.geteuid() == 0


def closed(path: Path, content: Any, mode: int = 0o600) -> Path:
    """Write a file of secrets as its owner would."""
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    path.chmod(mode)
    return path


@pytest.fixture
def play(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Play:
    return Play(tmp_path / "root", capsys)


# On the host


def test_a_file_of_the_host(tmp_path: Path) -> None:
    assert _host_secrets.read(str(closed(tmp_path / "s.json", SECRETS))) == SECRETS
    assert _host_secrets.read(str(closed(tmp_path / "r.json", SECRETS, 0o400))) == SECRETS


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o660, 0o604, 0o610, 0o777])
def test_one_that_others_may_read_is_refused(tmp_path: Path, mode: int) -> None:
    path = closed(tmp_path / "s.json", SECRETS, mode)
    with pytest.raises(MultibaseError, match="only its owner can read") as caught:
        _host_secrets.read(str(path))
    assert str(path) in str(caught.value)
    assert_no_secret(str(caught.value), CANARIES)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("canary", "is no JSON"), ("{canary", "is no JSON"), ("", "is no JSON"), ('{"A": "canary", }', "is no JSON"),
        ('["canary"]', "must hold names and values"), ('"canary"', "must hold names and values"),
        ("null", "must hold names and values"), ("A: canary\n", "is no JSON"), ("[" * 100000 + "canary", "is no JSON"),
    ],
    ids=lambda text: text[:12],
)  # fmt: skip
def test_what_is_no_json_object_is_refused_without_being_quoted(tmp_path: Path, content: str, said: str) -> None:
    with pytest.raises(MultibaseError, match=said) as caught:
        _host_secrets.read(str(closed(tmp_path / "s.json", content)))
    assert_no_secret(str(caught.value), CANARIES)
    assert str(tmp_path / "s.json") in str(caught.value)


def test_bytes_that_are_no_text_are_refused(tmp_path: Path) -> None:
    path = closed(tmp_path / "s.json", "")
    path.write_bytes(b'{"A": "\xff\xfe"}')
    with pytest.raises(MultibaseError, match="is no JSON"):
        _host_secrets.read(str(path))


def test_a_path_is_absolute_and_there(tmp_path: Path) -> None:
    for path in ("s.json", "./s.json", "~/s.json", ""):
        with pytest.raises(MultibaseError, match="absolute"):
            _host_secrets.read(path)
    with pytest.raises(MultibaseError, match="No such file"):
        _host_secrets.read(str(tmp_path / "nosuch.json"))
    with pytest.raises(MultibaseError, match="directory"):
        _host_secrets.read(str(tmp_path))


def test_a_file_of_another_user_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = closed(tmp_path / "s.json", SECRETS)
    if AS_ROOT:
        os.chown(path, 12345, 12345)
    else:
        monkeypatch.setattr(os, "geteuid", lambda: 12345)
    with pytest.raises(MultibaseError, match="belong to root"):
        _host_secrets.read(str(path))


def test_a_link_counts_as_what_it_leads_to(tmp_path: Path) -> None:
    link = tmp_path / "link.json"
    link.symlink_to(closed(tmp_path / "s.json", SECRETS))
    assert _host_secrets.read(str(link)) == SECRETS
    (tmp_path / "s.json").chmod(0o644)
    with pytest.raises(MultibaseError, match="only its owner"):
        _host_secrets.read(str(link))
    (tmp_path / "s.json").unlink()
    with pytest.raises(MultibaseError, match="No such file"):
        _host_secrets.read(str(link))


@pytest.mark.parametrize("kind", ["pipe", "socket"])
def test_what_is_no_file_is_refused_and_not_waited_for(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "s.json"
    listener = socket.socket(socket.AF_UNIX)
    if kind == "pipe":
        os.mkfifo(path, 0o600)
    else:
        listener.bind(str(path))
    answers = []

    def read() -> None:
        try:
            _host_secrets.read(str(path))
        except MultibaseError as error:
            answers.append(str(error))

    with listener:
        # A thread of its own, so that a read that waits for ever fails this test and not the run.
        reader = threading.Thread(target=read, daemon=True)
        reader.start()
        reader.join(5)
        waited = reader.is_alive()
        if waited:
            os.close(os.open(path, os.O_WRONLY | os.O_NONBLOCK))
            reader.join(5)
    assert not waited, "it waited for somebody to write to the pipe"
    assert len(answers) == 1 and str(path) in answers[0]


def test_options_are_filled_in_and_what_they_say_themselves_goes_before(tmp_path: Path) -> None:
    path = closed(tmp_path / "s.json", SECRETS)
    options = {
        "name": "a",
        "secrets_from": "host:{0}".format(path),
        "secrets": {"functions": {"STRIPE_KEY": "own", "B": "b"}},
    }
    before = json.dumps(options)
    filled, problems = _host_secrets.filled_in("instance a", options)
    assert problems == []
    assert filled["secrets"] == {"SMTP_PASS": "canary of mail", "functions": {"STRIPE_KEY": "own", "B": "b"}}
    assert json.dumps(options) == before
    for elsewhere in ({"name": "a"}, {"secrets_from": ""}, {"secrets_from": "file.yml", "secrets": {"A": "b"}}):
        assert _host_secrets.filled_in("x", elsewhere) == (elsewhere, [])


def test_a_mistake_is_told_with_whose_it_is(tmp_path: Path) -> None:
    options = {"secrets_from": "host:{0}".format(tmp_path / "nosuch.json")}
    filled, problems = _host_secrets.filled_in("blueprint b", options)
    assert filled == options
    one_problem(problems, "^blueprint b: secrets_from: ", "nosuch.json")


# On the host, through the module


@pytest.mark.parametrize("place", ["instance", "defaults", "blueprint"])
def test_secrets_of_the_host_reach_the_instance(play: Play, tmp_path: Path, place: str) -> None:
    source = {"secrets_from": "host:{0}".format(closed(tmp_path / "s.json", SECRETS))}
    instance: Dict[str, Any] = {"name": "acme"}
    more: Dict[str, Any] = {}
    if place == "instance":
        instance.update(source)
    elif place == "defaults":
        more = {"defaults": source}
    else:
        instance["blueprint"] = "b"
        more = {"blueprints": [{"name": "b", **source}]}
    for changed in (True, False):
        result = play([instance], **more)
        assert result.get("failed") is not True, result
        assert result["changed"] is changed
        assert_no_secret(json.dumps(result), CANARIES, "result")
    assert env_of(play.root, "acme")["SMTP_PASS"] == '"canary of mail"'
    assert env_of(play.root, "acme", "functions") == {"STRIPE_KEY": '"canary of stripe"'}
    assert "canary" not in json.dumps(manifest_of(play.root, "acme"))


def test_all_mistakes_of_files_come_with_the_others(play: Play, tmp_path: Path) -> None:
    broken = closed(tmp_path / "broken.json", "{canary")
    unknown = closed(tmp_path / "unknown.json", {"STRIPE_KEY": "canary"})
    result = play(
        [
            {"name": "one", "secrets_from": "host:{0}".format(broken)},
            {"name": "two", "secrets_from": "host:relative"},
            {"name": "three", "secrets_from": "host:{0}".format(unknown)},
        ],
        blueprints=[{"name": "b", "secrets_from": "host:/nowhere/at/all.json"}],
    )
    assert result["failed"] is True
    problems = result["problems"]
    one_problem(problems, "instance one", "no JSON")
    one_problem(problems, "instance two", "absolute")
    one_problem(problems, "instance three", "STRIPE_KEY")
    one_problem(problems, "blueprint b", "/nowhere/at/all.json")
    assert len(problems) == 4
    assert_no_secret(json.dumps(result), CANARIES, "result")
    assert not play.root.exists()


# On the controller


def encrypted(path: Path, text: str, password: str) -> Path:
    vault = VaultLib([("default", VaultSecret(password.encode()))])
    path.write_bytes(vault.encrypt(text.encode()))
    return path


@pytest.fixture
def loader(monkeypatch: pytest.MonkeyPatch) -> Callable[..., DataLoader]:
    """Makes what Ansible reads files with, for a run that was given these Vault passwords."""

    def make(*passwords: str) -> DataLoader:
        secrets = [("default", VaultSecret(password.encode())) for password in passwords]
        found = DataLoader()
        found.set_vault_secrets(secrets)
        monkeypatch.setattr(VaultSecretsContext, "_current", VaultSecretsContext(secrets))
        return found

    return make


YAML = "SMTP_PASS: canary of mail\nfunctions:\n  STRIPE_KEY: canary of stripe\n"


def plain(path: Path) -> Path:
    return closed(path, YAML)


def vaulted(path: Path) -> Path:
    return encrypted(path, YAML, "right")


def single_value(path: Path) -> Path:
    """A plain file in which one value is encrypted, as ``ansible-vault encrypt_string`` makes it."""
    vault = VaultLib([("default", VaultSecret(b"right"))])
    lines = vault.encrypt(b"canary of stripe").decode().splitlines()
    text = "SMTP_PASS: canary of mail\nfunctions:\n  STRIPE_KEY: !vault |\n" + "".join(
        "    " + line + "\n" for line in lines
    )
    return closed(path, text)


@pytest.mark.parametrize("make", [plain, vaulted, single_value], ids=lambda make: make.__name__)
@pytest.mark.parametrize("place", ["instance", "defaults", "blueprints"])
def test_secrets_of_the_controller_reach_the_instance(
    play: Play, loader: Callable[..., DataLoader], tmp_path: Path, make: Callable[[Path], Path], place: str
) -> None:
    source = {"secrets_from": str(make(tmp_path / "s.yml"))}
    play.loader = loader("wrong", "right")
    instance: Dict[str, Any] = {"name": "acme", "blueprint": "b", "secrets": {"functions": {"OTHER_KEY": "canary own"}}}
    layers: Dict[str, Dict[str, Any]] = {"defaults": {}, "blueprints": {}}
    (instance if place == "instance" else layers[place]).update(source)
    more = {"defaults": layers["defaults"], "blueprints": {"b": layers["blueprints"]}}
    for changed in (True, False):
        result = play([instance], **more)
        assert result.get("failed") is not True, result
        assert result["changed"] is changed
        assert_no_secret(json.dumps(result), CANARIES, "result")
    assert env_of(play.root, "acme")["SMTP_PASS"] == '"canary of mail"'
    assert env_of(play.root, "acme", "functions") == {
        "OTHER_KEY": '"canary own"', "STRIPE_KEY": '"canary of stripe"',
    }  # fmt: skip
    assert "canary" not in json.dumps(manifest_of(play.root, "acme"))


def test_a_path_is_looked_for_where_the_run_began(
    play: Play, loader: Callable[..., DataLoader], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain(tmp_path / "s.yml")
    monkeypatch.chdir(tmp_path)
    play.loader = loader()
    assert play([{"name": "acme", "secrets_from": "s.yml"}]).get("failed") is not True
    assert env_of(play.root, "acme")["SMTP_PASS"] == '"canary of mail"'


REFUSED: Dict[str, Any] = {
    "missing": (lambda path: path, "s.yml"),
    "wrong password": (lambda path: encrypted(path, YAML, "another"), "s.yml"),
    "list": (lambda path: closed(path, "- canary\n"), "names and values"),
    "text": (lambda path: closed(path, "canary\n"), "names and values"),
    "empty": (lambda path: closed(path, ""), "names and values"),
    "no YAML": (
        lambda path: closed(path, "SMTP_PASS: 'canary of mail\nfunctions: {STRIPE_KEY: canary of stripe\n"),
        "s.yml",
    ),
    "tabs": (lambda path: closed(path, "SMTP_PASS: canary of mail\n\tX: canary of stripe\n"), "s.yml"),
    "encrypted, no YAML": (lambda path: encrypted(path, "SMTP_PASS: 'canary of mail\nX: [canary\n", "right"), "s.yml"),
    "twice": (lambda path: closed(path, "A: &a canary\nB: *b\n"), "s.yml"),
    "damaged": (lambda path: closed(path, "$ANSIBLE_VAULT;1.1;AES256\ncanary\n"), "s.yml"),
    "directory": (lambda path: path.mkdir() or path, "s.yml"),
    "unknown name": (lambda path: closed(path, "STRIPE_KEY: canary\n"), "STRIPE_KEY"),
    "wrong value": (lambda path: closed(path, "functions: {A: [canary]}\n"), "A needs a text"),
}


@pytest.mark.parametrize("case", sorted(REFUSED))
def test_a_file_of_the_controller_that_is_none_is_told_without_its_content(
    play: Play, loader: Callable[..., DataLoader], tmp_path: Path, case: str
) -> None:
    make, said = REFUSED[case]
    make(tmp_path / "s.yml")
    play.loader = loader("right")
    result = play([{"name": "acme", "secrets_from": str(tmp_path / "s.yml")}, {"name": "Bad"}])
    assert result["failed"] is True and play.transport.sent == []
    problem = one_problem(result["problems"], "instance acme", said)
    assert "secrets" in problem
    one_problem(result["problems"], "Bad")
    assert_no_secret(json.dumps(result), CANARIES, "result")
    assert not play.root.exists()


def test_a_value_that_cannot_be_decrypted_is_an_error_without_it(
    play: Play, loader: Callable[..., DataLoader], tmp_path: Path
) -> None:
    single_value(tmp_path / "s.yml")
    play.loader = loader("wrong")
    try:
        result = play([{"name": "acme", "secrets_from": str(tmp_path / "s.yml")}])
    except AnsibleError as error:
        message = str(error)
    else:
        assert result["failed"] is True
        message = result["msg"]
    assert_no_secret(message, CANARIES, "message")
    assert play.transport.sent == [] and not play.root.exists()


def test_without_a_password_it_says_so(play: Play, loader: Callable[..., DataLoader], tmp_path: Path) -> None:
    vaulted(tmp_path / "s.yml")
    play.loader = loader()
    problem = one_problem(
        play([{"name": "acme", "secrets_from": str(tmp_path / "s.yml")}])["problems"], "instance acme"
    )
    assert "vault" in problem.lower() and "s.yml" in problem


def test_the_file_is_read_only_and_only_from_where_it_is(
    play: Play, loader: Callable[..., DataLoader], tmp_path: Path
) -> None:
    source = plain(tmp_path / "s.yml")
    before = snapshot(tmp_path, times=True)
    play.loader = loader()
    play([{"name": "acme", "secrets_from": str(source)}], check_mode=True)
    assert {path: row for path, row in snapshot(tmp_path, times=True).items() if path == "s.yml"} == {
        "s.yml": before["s.yml"]
    }
    sent = json.dumps(play.transport.sent[0]["instances"])
    assert "canary of mail" in sent, "the module gets them, under an option that is not logged"


def test_host_files_are_none_of_the_controllers_business(play: Play, tmp_path: Path) -> None:
    source = "host:{0}".format(closed(tmp_path / "s.json", SECRETS))
    play([{"name": "acme", "secrets_from": source}])
    assert "canary" not in json.dumps(play.transport.sent[0]["instances"])
