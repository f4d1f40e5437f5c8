# SPDX-License-Identifier: GPL-3.0-or-later
"""The real playbooks and roles on made-up hosts: directories of this machine, and one host that does not answer.

Where a test is about what the playbooks make of their variables, modules that only write down how they were called
stand in for those of the collection. No test needs or touches an Engine.
"""

from __future__ import annotations

import base64
import json
import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Dict, List

import pytest
import yaml

from unit.support import PLUGINS, converge, item, secrets_of

ROOT = Path(__file__).resolve().parents[2]
DOCKER_ROLE = ROOT / "roles" / "multibase_docker"

# Stands in for a module: appends its parameters to calls.jsonl of the host's root, and tells what instances.json says.
FAKE_MODULE = """#!/usr/bin/python
# WANT_JSON
import json, os, sys
with open(sys.argv[1]) as stream:
    parameters = json.load(stream)
root = parameters["root"]
with open(os.path.join(root, "calls.jsonl"), "a") as stream:
    stream.write(json.dumps(dict(parameters, module={module!r})) + "\\n")
with open(os.path.join(root, "instances.json")) as stream:
    instances = [
        dict(more if isinstance(more, dict) else {{"state": more}}, name=name)
        for name, more in json.load(stream).items()
    ]
results = [{{"name": one["name"], "state": "present", "actions": []}} for one in instances]
print(json.dumps({{"changed": False, "instances": instances, "results": results}}))
"""


@dataclass
class Fleet:
    """Made-up hosts: each is a directory, and the one called away cannot be reached."""

    directory: Path
    fake: bool = False

    def root(self, host: str) -> Path:
        """Where everything of Multibase lies on a host."""
        return self.directory / host

    def has(self, host: str) -> List[str]:
        """Names of the instances whose files a host has."""
        return sorted(path.name for path in (self.root(host) / "projects").glob("*/"))

    def calls(self, host: str, module: str) -> List[Dict[str, Any]]:
        """How a stand-in was called on a host, oldest first."""
        lines = (self.root(host) / "calls.jsonl").read_text().splitlines()
        return [call for call in map(json.loads, lines) if call["module"] == module]

    def run(
        self, verb: str, variables: Dict[str, Any], declared: Dict[str, List[Any]], *options: str
    ) -> subprocess.CompletedProcess[str]:
        """Run a playbook on the hosts that ``declared`` names, with what it says they declare."""
        hosts: Dict[str, Dict[str, Any]] = {}
        for host, instances in declared.items():
            hosts[host] = {"multibase_instances": instances, "multibase_root": str(self.root(host))}
            hosts[host]["ansible_connection"] = "ssh" if host == "away" else "local"
            self.root(host).mkdir(exist_ok=True)
        common = {
            "ansible_become": False,
            "ansible_python_interpreter": sys.executable,
            "ansible_ssh_executable": str(self.directory / "ssh"),
        }
        inventory = {"multibase_hosts": {"hosts": hosts, "vars": common}}
        (self.directory / "inventory.yml").write_text(json.dumps(inventory))
        environment = {
            **os.environ,
            "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"),
            "ANSIBLE_CALLBACK_PLUGINS": str(ROOT / "playbooks" / "callback_plugins"),
            "MULTIBASE_FAILURES_FILE": str(self.directory / "failures.json"),
        }
        if self.fake:
            environment["ANSIBLE_COLLECTIONS_PATH"] = str(self.directory)
        extra = {"multibase_result_file": str(self.directory / "result.json"), **variables}
        command = [str(ROOT / ".venv" / "bin" / "ansible-playbook"), "-i", str(self.directory / "inventory.yml")]
        command += ["--extra-vars", json.dumps(extra), *options, str(ROOT / "playbooks" / f"{verb}.yml")]
        return subprocess.run(
            command,
            cwd=self.directory,
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )

    def failure(self) -> str:
        """The one thing that failed in the last run, but for hosts that could not be reached, on one line."""
        told = json.loads((self.directory / "failures.json").read_text())
        messages = {one["msg"] for one in told if not one["msg"].startswith("the host cannot be reached")}
        assert len(messages) == 1, told
        return " ".join(messages.pop().split())


@pytest.fixture
def fleet(tmp_path: Path) -> Fleet:
    """Hosts with the real modules."""
    ssh = tmp_path / "ssh"
    ssh.write_text("#!/bin/sh\nexit 255\n")
    ssh.chmod(0o755)
    return Fleet(tmp_path)


@pytest.fixture
def told(fleet: Fleet) -> Fleet:
    """Host h1 has acme and beta, host h2 has none; stand-ins for the modules."""
    modules = fleet.directory / "ansible_collections" / "multibase" / "supabase" / "plugins" / "modules"
    modules.mkdir(parents=True)
    for module in sorted(path.stem for path in (PLUGINS / "modules").glob("*.py") if path.stem != "__init__"):
        (modules / f"{module}.py").write_text(FAKE_MODULE.format(module=module))
    for host, names in (("h1", ["acme", "beta"]), ("h2", [])):
        fleet.root(host).mkdir()
        (fleet.root(host) / "instances.json").write_text(json.dumps(dict.fromkeys(names, "running")))
    fleet.fake = True
    return fleet


@pytest.mark.parametrize("declared", [[{"name": "acme"}, {"size": "small"}], []])
def test_nothing_is_created_that_a_host_which_is_away_may_have(fleet: Fleet, declared: List[Any]) -> None:
    done = fleet.run("create", {"multibase_instance": {"name": "acme"}}, {"h1": [], "away": declared})
    assert done.returncode == 4, done.stdout
    message = fleet.failure()
    assert "Nothing was created" in message
    assert "not be asked: away." in message
    assert ("declared on away." if declared else "declared on none.") in message
    assert fleet.has("h1") == []


def test_an_instance_stays_on_the_host_that_has_it(told: Fleet) -> None:
    variables = {"multibase_instance": {"name": "acme", "size": "small"}, "multibase_start": False}
    declared: Dict[str, List[Any]] = {"h1": [], "h2": [{"name": "acme", "size": "large"}], "away": []}
    done = told.run("create", variables, declared)
    assert done.returncode == 4, done.stdout
    assert [call["instances"] for call in told.calls("h1", "instance")] == [[{"name": "acme", "size": "small"}]]

    done = told.run("create", {**variables, "multibase_target_host": "h2"}, declared)
    assert done.returncode == 4, done.stdout
    assert "acme is on h1 already, and multibase_target_host names h2." in told.failure()

    variables = {"multibase_instance": {"name": "gamma"}, "multibase_target_host": "h2", "multibase_start": False}
    done = told.run("create", variables, declared)
    assert done.returncode == 4, done.stdout
    assert [call["instances"] for call in told.calls("h2", "instance")] == [[{"name": "gamma"}]]
    assert len(told.calls("h1", "instance")) == 1


@pytest.mark.parametrize("limit", [" ,", ["", " , "]])
def test_a_blank_limit_is_no_limit_for_verbs_that_need_names(told: Fleet, limit: Any) -> None:
    done = told.run("stop", {"multibase_limit": limit}, {"h1": []})
    assert done.returncode == 2, done.stdout
    assert "Name the instances in multibase_limit" in told.failure()
    assert not (told.root("h1") / "calls.jsonl").exists()


def test_all_leaves_out_what_an_interrupted_deletion_left(told: Fleet) -> None:
    states = {"acme": "running", "gone": "deleting"}
    (told.root("h1") / "instances.json").write_text(json.dumps(states))
    done = told.run("stop", {"multibase_limit": "all"}, {"h1": []})
    assert done.returncode == 0, done.stdout
    assert told.calls("h1", "stack")[0]["instances"] == ["acme"]
    done = told.run("delete", {"multibase_limit": "gone", "multibase_confirm": "gone"}, {"h1": []})
    assert done.returncode == 0, done.stdout
    assert told.calls("h1", "stack")[-1]["instances"] == ["gone"]


def test_lists_may_be_written_as_text(told: Fleet) -> None:
    variables = {"multibase_limit": "beta, ,acme", "multibase_services": " auth,rest", "multibase_lock_timeout": 5}
    done = told.run("restart", variables, {"h1": []})
    assert done.returncode == 0, done.stdout
    (call,) = told.calls("h1", "stack")
    assert (call["instances"], call["state"], call["lock_timeout"]) == (["acme", "beta"], "restarted", 5)
    assert call["services"] == ["auth", "rest"]


def test_a_confirmation_may_be_written_as_text_and_is_no_list_of_letters(told: Fleet) -> None:
    done = told.run("delete", {"multibase_limit": "beta", "multibase_confirm": "alphabeta"}, {"h1": []})
    assert done.returncode == 2, done.stdout
    assert "(named: beta; confirmed: alphabeta)" in told.failure()
    assert told.calls("h1", "stack") == []

    variables = {"multibase_limit": ["beta"], "multibase_confirm": "acme,beta ", "multibase_lock_timeout": 5}
    done = told.run("delete", variables, {"h1": []})
    assert done.returncode == 0, done.stdout
    (stack,) = told.calls("h1", "stack")
    (instance,) = told.calls("h1", "instance")
    assert stack["instances"] == ["beta"]
    assert instance["instances"] == [{"name": "beta", "state": "absent"}]
    for call in (stack, instance):
        assert (call["confirmed"], call["lock_timeout"]) == (["acme", "beta"], 5)


def test_show_asks_for_everything_about_what_is_named_only(told: Fleet) -> None:
    done = told.run("show", {"multibase_limit": "beta"}, {"h1": [], "h2": []})
    assert done.returncode == 0, done.stdout
    for host in ("h1", "h2"):
        light, full = told.calls(host, "instance_info")
        assert not light.get("details") and not light.get("instances")
        assert (full["details"], full["instances"]) == (True, ["beta"])
    (shown,) = json.loads((told.directory / "result.json").read_text())["instances"]
    assert (shown["name"], shown["host"]) == ("beta", "h1")

    assert told.run("show", {}, {"h1": []}).returncode == 2
    assert "Name the instances in multibase_limit" in told.failure()


def test_credentials_of_a_name_that_two_hosts_have_are_not_handed_over(told: Fleet) -> None:
    (told.root("h2") / "instances.json").write_text(json.dumps({"acme": "running"}))
    file = str(told.directory / "acme.env")
    variables = {"multibase_limit": "acme", "multibase_credentials_file": file}
    done = told.run("credentials", variables, {"h1": [], "h2": []})
    assert done.returncode == 2, done.stdout
    assert "It is on several hosts, so choose one with --limit." in told.failure()
    assert not (told.directory / "acme.env").exists()


def test_credentials_come_from_the_host_that_has_the_instance(fleet: Fleet) -> None:
    converge(fleet.root("h2"), item("acme"))
    file = fleet.directory / "acme.env"
    variables = {"multibase_limit": "acme", "multibase_credentials_file": str(file)}
    done = fleet.run("credentials", {**variables, "multibase_credentials_format": "env"}, {"h1": [], "h2": []})
    assert done.returncode == 0, done.stdout
    assert f"ANON_KEY={secrets_of(fleet.root('h2'), 'acme')['ANON_KEY']}\n" in file.read_text()
    (told,) = json.loads((fleet.directory / "result.json").read_text())["instances"]
    assert (told["name"], told["host"], told["path"]) == ("acme", "h2", str(file))

    done = fleet.run("credentials", variables, {"h1": [], "h2": []})
    assert done.returncode == 2, done.stdout
    assert "it is there already" in fleet.failure()
    assert fleet.run("credentials", {**variables, "multibase_credentials_force": "true"}, {"h2": []}).returncode == 0
    assert file.read_text().startswith("Instance\n")


@pytest.mark.parametrize(
    ("host", "target", "record", "told_of"),
    [
        ("h1", "running", {"digest": "abc"}, "beta is on h1 already"),
        ("h1", "created", None, "beta is on h1 already"),
        ("h2", "running", None, "beta is on h2 already"),
        ("h1", {"state": "created", "labels": {"copy-of": "other"}}, None, "beta is on h1 already"),
        ("h2", {"state": "created", "labels": {"copy-of": "acme"}}, None, "beta is on h2 already"),
        ("h1", {"state": "running", "labels": {"copy-of": "acme"}}, {"digest": "abc"}, "beta is on h1 already"),
        ("h1", {"state": "created", "labels": {"copy-of": "acme"}}, None, ""),
        ("h1", {"state": "stopped", "labels": {"copy-of": "acme"}}, {"digest": "", "wanted": "running"}, ""),
        ("h1", None, None, ""),
    ],
)
def test_a_copy_replaces_no_instance_but_what_an_interrupted_run_of_it_left(
    told: Fleet, host: str, target: Any, record: Any, told_of: str
) -> None:
    for one in ("h1", "h2"):
        known: Dict[str, Any] = {"acme": "running"} if one == "h1" else {}
        if one == host and target is not None:
            known["beta"] = target
        (told.root(one) / "instances.json").write_text(json.dumps(known))
        (told.root(one) / "state").mkdir()
    if record is not None:
        (told.root(host) / "state" / "beta.json").write_text(json.dumps(record))
    done = told.run("restore", {"multibase_limit": "acme", "multibase_restore_into": "beta"}, {"h1": [], "h2": []})
    created, restored = told.calls("h1", "instance"), told.calls("h1", "restore")
    if told_of:
        assert done.returncode == 2, done.stdout
        assert told_of + ", and a copy replaces nothing" in told.failure()
        assert created == restored == []
        return
    assert [(call["name"], call["source"]) for call in restored] == [("beta", "acme")], done.stdout
    (instance,) = created[0]["instances"]
    assert (instance["name"], instance["labels"]) == ("beta", {"copy-of": "acme"})


def test_a_copy_of_an_instance_into_itself_is_none(told: Fleet) -> None:
    done = told.run("restore", {"multibase_limit": "acme", "multibase_restore_into": "acme"}, {"h1": [], "h2": []})
    assert done.returncode == 2, done.stdout
    assert "acme is the source itself: leave multibase_restore_into out to restore it" in told.failure()
    assert told.calls("h1", "instance") == told.calls("h1", "restore") == []


def test_an_instance_without_a_name_is_one_of_the_mistakes_that_are_told(fleet: Fleet) -> None:
    declared: Dict[str, List[Any]] = {"h1": [{"size": "small"}, {"name": "acme", "size": "huge"}]}
    done = fleet.run("site", {}, declared, "--tags", "instances")
    assert done.returncode == 2, done.stdout
    message = fleet.failure()
    assert "name" in message
    assert "huge" in message
    assert fleet.has("h1") == []

    done = fleet.run("site", {"multibase_limit": "acme,nil"}, declared, "--tags", "instances")
    assert done.returncode == 2, done.stdout
    assert "multibase_limit names nil, which no targeted host declares" in fleet.failure()


def test_site_knows_what_a_host_that_is_away_declares_and_passes_on_how_long_to_wait_for_locks(told: Fleet) -> None:
    declared: Dict[str, List[Any]] = {"h1": [{"name": "acme"}], "away": [{"name": "gamma"}]}
    variables = {"multibase_limit": "acme,gamma", "multibase_lock_timeout": 5}
    done = told.run("site", variables, declared, "--tags", "instances")
    assert done.returncode == 4, done.stdout
    assert [told.calls("h1", module)[0]["lock_timeout"] for module in ("instance", "stack")] == [5, 5]
    # What was declared, whatever the stand-in says that there is.
    assert told.calls("h1", "stack")[0]["instances"] == ["acme"]


LOGS = {"max-size": "10m", "max-file": "3"}
OURS = {"log-driver": "json-file", "log-opts": LOGS, "live-restore": True}
# What daemon.json says, the variable, the state of the swarm; what is written, and which settings are changed by that.
SETTINGS: List[Any] = [
    ({}, {}, "inactive", OURS, ["live-restore", "log-driver", "log-opts"]),
    (OURS, {}, "", OURS, []),
    (
        {"log-driver": "local", "live-restore": False, "debug": True},
        {},
        "inactive",
        {"log-driver": "local", "live-restore": False, "debug": True},
        [],
    ),
    (
        {"log-opts": {"max-size": "50m"}},
        {},
        "",
        {**OURS, "log-opts": {"max-size": "50m", "max-file": "3"}},
        ["live-restore", "log-driver", "log-opts"],
    ),
    (
        {"live-restore": False, "log-driver": "json-file"},
        {"live-restore": True, "log-driver": "journald", "log-opts": {"tag": "x"}},
        "",
        {"live-restore": True, "log-driver": "journald", "log-opts": {"tag": "x"}},
        ["live-restore", "log-driver", "log-opts"],
    ),
    (OURS, {"insecure-registries": ["a:1"]}, "", {**OURS, "insecure-registries": ["a:1"]}, ["insecure-registries"]),
    ({}, {}, "active", {"log-driver": "json-file", "log-opts": LOGS}, ["log-driver", "log-opts"]),
]


def test_settings_of_the_engine_keep_what_an_administrator_chose(tmp_path: Path) -> None:
    """The role's own expressions, all cases in one run."""
    right = ["__multibase_docker_written == written", "__multibase_docker_changes | sort == changes"]
    steps = []
    for found, options, swarm, written, changes in SETTINGS:
        encoded = base64.b64encode(json.dumps(found).encode()).decode() if found else ""
        variables: Dict[str, Any] = {
            "multibase_docker_daemon_options": options,
            "__multibase_docker_programs": ["/usr/sbin/dockerd"],
            "__multibase_docker_settings": {"content": encoded},
            "__multibase_docker_swarm": {"stdout": swarm},
            "written": written,
            "changes": changes,
        }
        told = "found {{ __multibase_docker_written | to_json }}, changed {{ __multibase_docker_changes | to_json }}"
        steps.append(
            {"name": "Compare", "ansible.builtin.assert": {"that": right, "fail_msg": told}, "vars": variables}
        )
    files = [str(DOCKER_ROLE / kind / "main.yml") for kind in ("defaults", "vars")]
    play = {"hosts": "localhost", "gather_facts": False, "vars_files": files}
    (tmp_path / "play.yml").write_text(yaml.safe_dump([{**play, "tasks": steps}]))
    done = subprocess.run(
        [str(ROOT / ".venv" / "bin" / "ansible-playbook"), "-i", "localhost,", str(tmp_path / "play.yml")],
        env={**os.environ, "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"), "ANSIBLE_CALLBACK_PLUGINS": ""},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"ok={len(SETTINGS)} " in done.stdout


def test_the_engine_is_reloaded_before_it_is_restarted_and_waited_for_in_between() -> None:
    handlers = yaml.safe_load((DOCKER_ROLE / "handlers" / "main.yml").read_text(encoding="utf-8"))
    # The first one reads the units of systemd anew, before any of them is restarted.
    assert handlers.pop(0)["ansible.builtin.systemd_service"] == {"daemon_reload": True}
    states = [handler.get("ansible.builtin.service", {}).get("state") for handler in handlers]
    assert states == ["reloaded", None, "restarted"]
    assert "LiveRestoreEnabled" in str(handlers[1]["ansible.builtin.command"]["argv"])
    assert "__multibase_docker_reloadable" in " ".join(handlers[2]["when"])
    (notice,) = {handler["listen"] for handler in handlers}
    assert f"notify: {notice}\n" in (DOCKER_ROLE / "tasks" / "configure.yml").read_text(encoding="utf-8")


def test_an_engine_is_found_where_debian_and_where_others_put_it(tmp_path: Path) -> None:
    tasks = yaml.safe_load((DOCKER_ROLE / "tasks" / "preflight.yml").read_text(encoding="utf-8"))
    (looks,) = [task["multibase.supabase.look"]["commands"] for task in tasks if "multibase.supabase.look" in task]
    assert {"/usr/bin", "/usr/sbin"} <= set(looks["programs"])
    done = subprocess.run([*looks["programs"], str(tmp_path)], capture_output=True, text=True, check=True)
    assert str(tmp_path) not in done.stdout
    (tmp_path / "dockerd").touch()
    done = subprocess.run([*looks["programs"], str(tmp_path)], capture_output=True, text=True, check=True)
    assert f"{tmp_path}/dockerd" in done.stdout.splitlines()


def test_callbacks_run_in_the_same_order_in_awx() -> None:
    ours = re.search(r"^callback_plugins = (.*)$", (ROOT / "ansible.cfg").read_text(), re.MULTILINE)
    steps = yaml.safe_load((ROOT / "execution-environment.yml").read_text())["additional_build_steps"]["append_final"]
    (theirs,) = [step.split("=", 1)[1] for step in steps if step.startswith("ENV ANSIBLE_CALLBACK_PLUGINS=")]
    assert ours is not None
    for places in (ours.group(1).split(":"), theirs.split(":")):
        assert places[0] == "playbooks/callback_plugins"
        assert len(places) == 2
