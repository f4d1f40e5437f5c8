# SPDX-License-Identifier: GPL-3.0-or-later
"""What ARA is told about a run: its name and labels, in real runs of ansible-playbook on this machine."""

from __future__ import annotations

import importlib.util
import json
import os
import sqlite3
import subprocess
from pathlib import Path
from typing import Any, Dict, List, Tuple

import pytest

ROOT = Path(__file__).resolve().parents[2]
PLUGINS = ROOT / "playbooks" / "callback_plugins"
_spec = importlib.util.spec_from_file_location("multibase_run", PLUGINS / "multibase_run.py")
assert _spec is not None and _spec.loader is not None
multibase_run = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(multibase_run)


def declaring(name: str) -> Dict[str, Any]:
    """The variables of a host that declares one instance."""
    return {"multibase_instances": [{"name": name}]}


@pytest.mark.parametrize(
    ("shared", "hosts", "expected"),
    [
        ({}, [], []),
        ({"multibase_limit": "beta, acme,"}, [], ["acme", "beta"]),
        ({"multibase_limit": ["beta", "acme"]}, [declaring("other")], ["acme", "beta"]),
        ({"multibase_limit": ["beta, acme", " "]}, [declaring("other")], ["acme", "beta"]),
        ({"multibase_limit": ["all"]}, [declaring("b"), declaring("a")], ["a", "b"]),
        ({"multibase_instance": {"name": "new"}, "multibase_limit": ["x"]}, [], ["new"]),
        ({"multibase_instances": [{"name": "a"}]}, [{}], ["a"]),
        ({"multibase_limit": 3, "multibase_instances": None, "multibase_instance": "text"}, [], []),
    ],
)
def test_which_instances_a_run_is_about(
    shared: Dict[str, Any], hosts: List[Dict[str, Any]], expected: List[str]
) -> None:
    assert multibase_run.run_instances(shared, hosts) == expected


def test_many_instances_become_a_number() -> None:
    names = [f"i{number}" for number in range(51)]
    assert multibase_run.labels_for("site", names, True) == ["verb:site", "check", "instances:51"]
    assert multibase_run.run_name("site", names).endswith("i4 (+46)")


def test_who_began_a_run_and_why_are_labels(monkeypatch: pytest.MonkeyPatch) -> None:
    labels = multibase_run.labels_for("stop", ["acme"], False, "alice", "OPS-12, 13")
    assert labels == ["verb:stop", "user:alice", "ticket:OPS-12 13", "instance:acme"]
    monkeypatch.setenv("SUDO_USER", "bob")
    assert multibase_run.user_name() == "bob"
    monkeypatch.setenv("ARA_RECORD_USER_NAME", "alice")
    assert multibase_run.user_name() == "alice"
    monkeypatch.setenv("MULTIBASE_TICKET", "OPS-1")
    assert multibase_run.ticket_of({}) == "OPS-1"
    assert multibase_run.ticket_of({"multibase_ticket": 12}) == "12"
    assert multibase_run.ticket_of({"multibase_ticket": ["x"]}) == "OPS-1"


@pytest.mark.parametrize(
    ("result", "expected"),
    [
        ({"msg": "no"}, "no"),
        ({}, "no message was given"),
        ({"_ansible_no_log": True, "msg": "canary"}, "no_log"),
        ({"msg": "One or more items failed", "results": [{"failed": True, "msg": "a"}, {"msg": "fine"}]}, "a"),
    ],
)
def test_what_is_said_of_a_failure(result: Dict[str, Any], expected: str) -> None:
    message = multibase_run.failure_message(result)
    assert expected in message
    assert "canary" not in message


def play(directory: Path, playbook: str, *options: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a playbook with the project's two plugins, ARA's records in ``directory``."""
    path = directory / "stop.yml"
    path.write_text(playbook)
    host = {"ansible_connection": "local", **declaring("shop")}
    (directory / "inventory.yml").write_text(json.dumps({"all": {"hosts": {"h1": host}}}))
    settings = {
        "ANSIBLE_CALLBACK_PLUGINS": f"{PLUGINS}:{ROOT / '.venv' / 'ara' / 'callback'}",
        "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"),
        "ARA_BASE_DIR": str(directory / "ara"),
        "MULTIBASE_FAILURES_FILE": str(directory / "failures.json"),
    }
    return subprocess.run(
        [str(ROOT / ".venv" / "bin" / "ansible-playbook"), "-i", str(directory / "inventory.yml"), *options, str(path)],
        env={**os.environ, **settings, **environment},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def recorded(directory: Path) -> Tuple[str, List[str], str]:
    """Name, labels and everything else that ARA recorded of the only run."""
    with sqlite3.connect(directory / "ara" / "ansible.sqlite") as database:
        (name,) = [row[0] for row in database.execute("SELECT name FROM playbooks")]
        labels = [row[0] for row in database.execute("SELECT name FROM labels ORDER BY name")]
        return name, labels, "\n".join(database.iterdump())


PLAY = """---
- name: Test
  hosts: all
  gather_facts: false
  tasks:
    - name: Fail
      ansible.builtin.fail:
        msg: for a reason
      when: multibase_limit is defined
"""


def test_runs_without_the_front_are_named_and_labelled(tmp_path: Path) -> None:
    done = play(tmp_path, PLAY, "--check", "--extra-vars", '{"secret_canary": "canary-in-extra-vars"}')
    assert done.returncode == 0, done.stdout + done.stderr
    name, labels, everything = recorded(tmp_path)
    assert name == "multibase stop shop"
    assert set(labels) == {"check", "instance:shop", "multibase", "verb:stop", "user:" + multibase_run.user_name()}
    assert "canary-in-extra-vars" not in everything
    assert json.loads((tmp_path / "failures.json").read_text()) == []


def test_the_instances_that_were_named_count_and_failures_are_told(tmp_path: Path) -> None:
    done = play(tmp_path, PLAY, "--extra-vars", "multibase_limit=acme,beta")
    assert done.returncode == 2
    name, labels, _everything = recorded(tmp_path)
    assert name == "multibase stop acme beta"
    assert set(labels) == {
        "instance:acme",
        "instance:beta",
        "multibase",
        "verb:stop",
        "user:" + multibase_run.user_name(),
    }
    told = json.loads((tmp_path / "failures.json").read_text())
    assert told == [{"host": "h1", "task": "Fail", "msg": "for a reason"}]


def test_ansible_runs_where_ara_is_not_installed(tmp_path: Path) -> None:
    done = play(tmp_path, PLAY, ANSIBLE_CALLBACK_PLUGINS=f"{PLUGINS}:{tmp_path / 'nothing'}")
    assert done.returncode == 0
    assert not (tmp_path / "ara").exists()
