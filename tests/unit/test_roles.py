# SPDX-License-Identifier: GPL-3.0-or-later
"""What holds for every role and playbook, read from their files."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Dict, Iterator, List, Tuple

import pytest
import yaml
from ansible.parsing.dataloader import DataLoader
from ansible.template import Templar, trust_as_template

from ansible_collections.multibase.supabase.plugins.modules import instance

ROOT = Path(__file__).resolve().parents[2]
ROLES = sorted(path for path in (ROOT / "roles").iterdir() if path.is_dir())
PLAYBOOKS = sorted((ROOT / "playbooks").glob("*.yml"))
VERBS = [
    "alerts", "backup", "backups", "bundle", "create", "credentials", "delete", "export", "list", "load", "preflight",
    "report", "restart", "restore", "show", "site", "sites", "start", "stats", "status", "stop", "uninstall", "user",
    "verify",
]  # fmt: skip
# Facts as variables of their own, which inject_facts_as_vars=false switches off. These are no facts.
MAGIC = re.compile(
    r"ansible_(facts|check_mode|play_hosts(_all)?|play_batch|connection|user|host|python_interpreter|become|ssh\w*|managed)\b"
)

by_role = pytest.mark.parametrize("role", ROLES, ids=lambda path: path.name)
by_playbook = pytest.mark.parametrize("playbook", PLAYBOOKS, ids=lambda path: path.stem)


def load(path: Path) -> Any:
    """Read a YAML file; an empty one is an empty dictionary."""
    return yaml.safe_load(path.read_text(encoding="utf-8")) or {}


def defaults(role: Path) -> Dict[str, Any]:
    """The public variables of a role."""
    return dict(load(role / "defaults" / "main.yml"))


def options(role: Path) -> Dict[str, Any]:
    """The options of a role's entry point main."""
    return dict(load(role / "meta" / "argument_specs.yml")["argument_specs"]["main"]["options"])


def tasks(value: Any) -> Iterator[Dict[str, Any]]:
    """All tasks in a list of tasks or plays, those in blocks too."""
    for entry in value or []:
        yield entry
        for key in ("tasks", "pre_tasks", "post_tasks", "block", "rescue", "always", "handlers"):
            yield from tasks(entry.get(key))


def sources() -> List[Tuple[str, str]]:
    """Path and text of every YAML file and template of roles and playbooks."""
    paths = [path for base in ("roles", "playbooks") for path in sorted((ROOT / base).rglob("*"))]
    return [
        (str(path.relative_to(ROOT)), path.read_text(encoding="utf-8"))
        for path in paths
        if path.suffix in (".yml", ".j2") and path.is_file()
    ]


@by_role
def test_defaults_are_what_the_argument_specs_say(role: Path) -> None:
    assert {name: option.get("default") for name, option in options(role).items()} == defaults(role)
    for name, option in options(role).items():
        assert option["description"], name


@by_role
def test_readme_names_every_variable_and_no_other(role: Path) -> None:
    rows = re.findall(r"^\| `(\w+)` \|", (role / "README.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert rows == list(defaults(role))


@by_role
def test_names_of_variables(role: Path) -> None:
    assert all(name.startswith("multibase_") for name in defaults(role))
    own = "__" + role.name + "_"
    assert all(name.startswith(own) for name in load(role / "vars" / "main.yml"))
    for path in [*(role / "tasks").glob("*.yml"), *(role / "handlers").glob("*.yml")]:
        for task in tasks(load(path)):
            assert str(task.get("register", own)).startswith(own), task["name"]
            # What a task hands to another role are that role's own variables.
            hers = "multibase_" if "ansible.builtin.include_role" in task else own
            assert all(name.startswith((own, hers)) for name in task.get("vars", {})), task["name"]
            assert "ansible.builtin.set_fact" not in task, task["name"]


def test_a_variable_of_several_roles_has_one_default() -> None:
    seen: Dict[str, Any] = {}
    for role in ROLES:
        for name, value in defaults(role).items():
            assert seen.setdefault(name, value) == value, name


@by_role
def test_metadata(role: Path) -> None:
    info = load(role / "meta" / "main.yml")["galaxy_info"]
    assert info["license"] == "GPL-3.0-or-later"
    assert info["min_ansible_version"] == "2.19"
    names = [task["name"] for path in (role / "tasks").glob("*.yml") for task in tasks(load(path))]
    assert all(names)


def test_facts_are_read_from_ansible_facts_only() -> None:
    for path, text in sources():
        for found in re.findall(r"\bansible_\w+", text):
            assert MAGIC.match(found), f"{path}: {found}"


def test_no_task_loops_over_instances_and_none_ignores_errors() -> None:
    for path, _text in sources():
        if path.endswith(".yml"):
            for task in tasks(load(ROOT / path) if isinstance(load(ROOT / path), list) else []):
                loop = str(task.get("loop", "")) + "".join(str(task[key]) for key in task if key.startswith("with_"))
                assert "instance" not in loop, f"{path}: {task['name']}"
                assert "ignore_errors" not in task, f"{path}: {task['name']}"


def test_there_is_a_playbook_for_each_verb_and_no_other() -> None:
    assert [path.stem for path in PLAYBOOKS] == VERBS


@by_playbook
def test_playbooks_ask_nothing_and_target_the_group(playbook: Path) -> None:
    plays = load(playbook)
    assert len(plays) == 1
    play = plays[0]
    assert play["hosts"] == "multibase_hosts"
    assert play["become"] is True
    assert play["gather_facts"] is False
    assert "vars_prompt" not in play
    assert "pause" not in playbook.read_text(encoding="utf-8")
    # Only roles: what they do is in one place, and there are as many tasks for one instance as for a thousand.
    for task in play["tasks"]:
        assert set(task) <= {"name", "ansible.builtin.import_role", "tags", "vars"}
    # What fails because of a site comes after the report, or there would be none.
    steps = [task["ansible.builtin.import_role"].get("tasks_from") for task in play["tasks"]]
    assert (steps[:-1] if steps[-1] == "verify.yml" else steps)[-1].startswith("publish")


def test_verbs_for_certain_instances_need_names() -> None:
    for verb in ("start", "stop", "restart", "delete", "show", "credentials", "backup", "verify", "restore", "export"):
        first = load(ROOT / "playbooks" / f"{verb}.yml")[0]["tasks"][0]
        assert first["ansible.builtin.import_role"]["tasks_from"] == "named.yml"


def converging() -> Dict[str, Any]:
    """What the role hands to the module that makes instances."""
    found = load(ROOT / "roles" / "multibase_instances" / "tasks" / "converge.yml")
    return dict(found[0]["multibase.supabase.instance"])


def test_every_option_of_the_module_is_handed_on() -> None:
    # The bundles are the action plugin's, and the role works on the host's own engine.
    assert set(converging()) == set(instance.argument_spec()) - {"bundles", "docker_host"}


@pytest.mark.parametrize(
    ("smtp", "given", "expected"),
    [
        ({}, {}, {"smtp": {}}),
        ({"host": "m", "password": "p"}, {"size": "small"}, {"size": "small", "smtp": {"host": "m", "password": "p"}}),
        ({"host": "m", "port": 25}, {"smtp": {"port": 587}}, {"smtp": {"host": "m", "port": 587}}),
    ],
)
def test_the_mail_server_of_all_lies_under_the_defaults(
    smtp: Dict[str, Any], given: Dict[str, Any], expected: Dict[str, Any]
) -> None:
    templar = Templar(loader=DataLoader(), variables={"multibase_smtp": smtp, "multibase_defaults": given})
    assert templar.template(trust_as_template(converging()["defaults"])) == expected


def test_minimum_versions_are_those_of_every_release() -> None:
    variables = load(ROOT / "roles" / "multibase_docker" / "vars" / "main.yml")
    releases = sorted((ROOT / "compose_templates").glob("*/release.yml"))
    assert releases
    for release in releases:
        minimum = load(release)["minimum"]
        assert str(minimum["engine"]) == variables["__multibase_docker_minimum_engine"]
        assert str(minimum["compose"]) == variables["__multibase_docker_minimum_compose"]


def test_requirements_of_galaxy_cover_what_the_environment_has() -> None:
    wanted = {entry["name"]: entry["version"] for entry in load(ROOT / "requirements.yml")["collections"]}
    assert sorted(wanted) == ["ansible.posix", "community.crypto", "community.docker", "community.general"]
    for name, text in wanted.items():
        lowest, highest = (tuple(map(int, part.lstrip("<>=").split("."))) for part in text.split(","))
        collection = "ansible_collections/" + name.replace(".", "/")
        manifests = list(ROOT.glob(f".venv/lib/python3*/site-packages/{collection}/MANIFEST.json"))
        assert len(manifests) == 1
        found = tuple(map(int, load(manifests[0])["collection_info"]["version"].split(".")))
        assert lowest <= found < highest, name
