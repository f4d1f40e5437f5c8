# SPDX-License-Identifier: GPL-3.0-or-later
"""The modules as Ansible runs them: documentation and argument spec agree, results are lists, no traceback gets out.

Modules run in this process with their real argument handling; ``support.FakeDocker`` and ``support.FakeCompose`` stand
in for Docker.
"""

from __future__ import annotations

import ast
import errno
import functools
import importlib
import json
import re
import sys
from pathlib import Path
from typing import Any, Dict, List, Optional
from unittest import mock

import pytest
import yaml
from ansible.module_utils.testing import patch_module_args

from ansible_collections.multibase.supabase.plugins.module_utils import (
    _backup,
    _backup_job,
    _compose,
    _engine,
    _restore,
    _restore_journal,
)
from ansible_collections.multibase.supabase.plugins.module_utils._engine import Engine
from ansible_collections.multibase.supabase.plugins.module_utils._errors import EngineUnavailable, IntegrityFailed
from ansible_collections.multibase.supabase.plugins.module_utils._layout import Layout
from ansible_collections.multibase.supabase.plugins.module_utils._settings import SETTINGS
from unit.support import (
    PLUGINS,
    SERVICES,
    TEMPLATES,
    FakeCompose,
    FakeDocker,
    assert_no_secret,
    bundle,
    converge,
    item,
    leftovers,
    quiet_host,
    secrets_of,
    snapshot,
)

MODULES = ("instance", "instance_info", "stack")
DOCUMENTED = (*MODULES, "credentials")
PACKAGE = "ansible_collections.multibase.supabase.plugins."


def module(name: str) -> Any:
    return importlib.import_module(PACKAGE + "modules." + name)


class Ended(Exception):
    """A module ended with this result and exit code. In this process Ansible shows warnings on standard error."""

    def __init__(self, result: Dict[str, Any], code: int, warnings: str) -> None:
        super().__init__(code)
        self.result, self.code, self.warnings = result, code, warnings


def run(
    name: str,
    arguments: Dict[str, Any],
    capsys: pytest.CaptureFixture[str],
    docker: Optional[FakeDocker] = None,
    compose: Optional[FakeCompose] = None,
    check_mode: bool = False,
    diff: bool = False,
) -> Ended:
    """Run a module's ``main()`` and return how it ended. Anything but an orderly end is an error of the test."""
    engine = Engine(docker) if docker is not None else None

    def connect(_host: str = "", _timeout: float = 0) -> Engine:
        if engine is None:
            raise EngineUnavailable("there is no Docker Engine; playbooks/site.yml installs it")
        return engine

    given = {**arguments, "_ansible_check_mode": check_mode, "_ansible_diff": diff}
    capsys.readouterr()
    with (
        patch_module_args(given),
        mock.patch.object(_engine, "connect", connect),
        mock.patch.object(_engine, "connect_if_present", lambda _host="": engine),
        mock.patch.object(module("stack"), "Compose", functools.partial(_compose.Compose, runner=compose)),
        quiet_host(),
        pytest.raises(SystemExit) as caught,
    ):
        module(name).main()
    captured = capsys.readouterr()
    assert "Traceback" not in captured.err
    return Ended(json.loads(captured.out), int(str(caught.value.code)), captured.err)


def instance_arguments(root: Any, *items: Dict[str, Any], **options: Any) -> Dict[str, Any]:
    return {
        "root": str(root), "template_root": str(TEMPLATES), "bundles": {"0.8.2": bundle()}, "instances": list(items),
        # However small the machine is that runs the tests.
        "overcommit_cpus": 0, "overcommit_memory": 0, **options,
    }  # fmt: skip


# Documentation


def documented(name: str) -> Dict[str, Any]:
    data = yaml.safe_load(module(name).DOCUMENTATION)
    options = dict(data.get("options") or {})
    for fragment in data["extends_documentation_fragment"]:
        _namespace, _collection, name_of_fragment, *rest = fragment.split(".")
        holder = importlib.import_module(PACKAGE + "doc_fragments." + name_of_fragment).ModuleDocFragment
        attribute = rest[0].upper() if rest else "DOCUMENTATION"
        options.update(yaml.safe_load(getattr(holder, attribute)).get("options") or {})
    return {**data, "options": options}


def spec_of(name: str) -> Dict[str, Any]:
    found: List[Dict[str, Any]] = []

    class Spy(Exception):
        pass

    def spy(argument_spec: Dict[str, Any], supports_check_mode: bool = False, **_options: Any) -> Any:
        assert supports_check_mode is True
        found.append(argument_spec)
        raise Spy

    with mock.patch.object(module(name), "AnsibleModule", spy), pytest.raises(Spy):
        module(name).main()
    return found[0]


def disagreements(spec: Dict[str, Any], options: Dict[str, Any], path: str = "") -> List[str]:
    found = [path + name + ": only documented" for name in sorted(set(options) - set(spec))]
    found += [path + name + ": not documented" for name in sorted(set(spec) - set(options))]
    for name in sorted(set(options) & set(spec)):
        given, told = spec[name], options[name]
        for key, fallback in (
            ("type", "str"),
            ("required", False),
            ("elements", None),
            ("choices", None),
            ("default", None),
        ):
            if given.get(key, fallback) != told.get(key, fallback):
                found.append("{0}{1}.{2}: {3!r} is not {4!r}".format(path, name, key, given.get(key), told.get(key)))
        if not told.get("description"):
            found.append(path + name + ": no description")
        if "options" in given or "suboptions" in told:
            found += disagreements(given.get("options") or {}, told.get("suboptions") or {}, path + name + ".")
    return found


@pytest.mark.parametrize("name", DOCUMENTED)
def test_documentation_and_argument_spec_agree(name: str) -> None:
    assert disagreements(spec_of(name), documented(name)["options"]) == []


@pytest.mark.parametrize("name", MODULES)
def test_documentation_is_complete(name: str) -> None:
    data = documented(name)
    assert data["module"] == name and data["short_description"] and data["author"] and data["version_added"]
    attributes = {key: value["support"] for key, value in data["attributes"].items()}
    # stack compares with the files that are there, not with those that instance would write in the same check run.
    assert attributes["check_mode"] == ("partial" if name == "stack" else "full")
    assert attributes["diff_mode"] == ("full" if name == "instance" else "none")
    examples = yaml.safe_load(module(name).EXAMPLES)
    assert examples and all("multibase.supabase." + name in example for example in examples)
    listed = "instances" if name == "instance_info" else "results"
    returned = yaml.safe_load(module(name).RETURN)
    assert returned[listed]["type"] == "list" and returned[listed]["elements"] == "dict"


@pytest.mark.parametrize("name", MODULES)
def test_returned_fields_are_documented(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    converge(tmp_path, item("acme"))
    docker = FakeDocker()
    arguments: Dict[str, Any] = {"root": str(tmp_path), "instances": ["acme"]}
    if name == "instance":
        arguments = instance_arguments(tmp_path, {"name": "acme"})
    listed = "instances" if name == "instance_info" else "results"
    ended = run(name, arguments, capsys, docker, FakeCompose(docker))
    assert ended.code == 0
    contains = yaml.safe_load(module(name).RETURN)[listed]["contains"]
    if name == "instance_info":
        assert set(ended.result[listed][0]) == {key for key, told in contains.items() if told["returned"] == "success"}
        ended = run(name, {**arguments, "details": True}, capsys, docker)
    assert set(ended.result[listed][0]) == set(contains)
    types = {"str": str, "bool": bool, "list": list, "dict": dict, "float": (float, int), "int": int}
    for key, told in contains.items():
        assert isinstance(ended.result[listed][0][key], types[told["type"]]), key


def marked(spec: Dict[str, Any], value: Any, path: str = "") -> List[str]:
    """The paths of all options whose ``no_log`` is ``value``."""
    found = []
    for name, option in spec.items():
        if option.get("no_log") is value:
            found.append(path + name)
        found += marked(option.get("options") or {}, value, path + name + ".")
    return found


def test_options_with_secrets_are_marked() -> None:
    secret = {setting.option for setting in SETTINGS if setting.secret}
    assert {"smtp.password", "secrets", "database.password", "auth.providers.github.secret"} <= secret
    assert set(marked(spec_of("instance"), True)) == {
        "{0}.{1}".format(place, option) for place in ("instances", "defaults", "blueprints") for option in secret
    }
    for name in ("stack", "instance_info", "credentials"):
        assert marked(spec_of(name), True) == []


def test_examples_are_accepted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for example in yaml.safe_load(module("instance").EXAMPLES):
        arguments = {**example["multibase.supabase.instance"], "root": str(tmp_path), "bundles": {"0.8.2": bundle()}}
        assert run("instance", arguments, capsys).code == 0


# The code of the plugins


def module_utils() -> List[Path]:
    return sorted((PLUGINS / "module_utils").glob("*.py"))


# Not everywhere on a host, so asked for only where they are needed.
ASKED_FOR_LATE = {"docker", "cryptography"}


def test_what_runs_on_hosts_needs_the_standard_library_only() -> None:
    for path in module_utils():
        tree = ast.parse(path.read_text(encoding="utf-8"), feature_version=(3, 9))
        late = {
            id(node)
            for function in ast.walk(tree)
            if isinstance(function, (ast.FunctionDef, ast.If))
            for node in ast.walk(function)
        }
        for node in ast.walk(tree):
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.level == 0:
                names = [str(node.module)]
            else:
                continue
            for name in names:
                top = name.split(".")[0]
                where = "{0}: {1}".format(path.name, name)
                assert top != "ansible", where
                if top not in sys.stdlib_module_names:
                    assert top in ASKED_FOR_LATE and id(node) in late, where


def test_helpers_raise_and_only_main_ends_the_program() -> None:
    for path in module_utils():
        text = path.read_text(encoding="utf-8")
        assert not re.search(r"\bfail_json\b|\bexit_json\b|\bsys\.exit\b|\bprint\(", text), path.name
    for name in MODULES:
        tree = ast.parse((PLUGINS / "modules" / (name + ".py")).read_text(encoding="utf-8"), feature_version=(3, 9))
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef) and node.name != "main":
                assert "fail_json" not in ast.dump(node) and "exit_json" not in ast.dump(node), (name, node.name)


@pytest.mark.parametrize("path", sorted(PLUGINS.rglob("*.py")), ids=lambda path: path.name)
def test_every_file_is_licensed_and_parses_with_the_oldest_python(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    if not text.strip():
        return
    assert "SPDX-License-Identifier: GPL-3.0-or-later" in "\n".join(text.splitlines()[:5])
    assert "from __future__ import annotations" in text
    ast.parse(text, feature_version=(3, 9))


# instance


def test_creating_through_the_module(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = instance_arguments(
        tmp_path, {"name": "acme", "smtp": {"host": "m", "password": "canary password"}},
        {"name": "beta", "size": "small"},
        defaults={"health_interval": "5s"},
    )  # fmt: skip
    checked = run("instance", arguments, capsys, check_mode=True, diff=True)
    assert checked.code == 0 and checked.result["changed"] is True and list(tmp_path.iterdir()) == []
    ended = run("instance", arguments, capsys, diff=True)
    assert ended.code == 0 and ended.result["changed"] is True
    assert [result["name"] for result in ended.result["results"]] == ["acme", "beta"]
    assert isinstance(ended.result["diff"], list)
    text = json.dumps({key: value for key, value in ended.result.items() if key != "invocation"})
    assert_no_secret(text, {**secrets_of(tmp_path, "acme"), "mail": "canary password"}, "result")
    assert "canary" not in json.dumps(ended.result)
    again = run("instance", arguments, capsys)
    assert again.code == 0 and again.result["changed"] is False and "diff" not in again.result


def test_a_host_that_cannot_bear_its_instances_is_one_failure_with_a_table(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = instance_arguments(tmp_path, {"name": "acme", "size": {"cpus": 1, "memory": "4096g"}})
    assert run("instance", arguments, capsys, check_mode=True).code == 0
    for check_mode in (True, False):
        ended = run("instance", {**arguments, "overcommit_memory": 2}, capsys, check_mode=check_mode)
        assert ended.code == 1 and ended.result["results"] == []
        assert "overcommit_memory" in ended.result["msg"] and "4194304 MiB" in ended.result["msg"]
        assert re.search(r"^INSTANCE +CPUS +MEMORY$", ended.result["msg"], re.MULTILINE)
    assert not (tmp_path / "projects").exists()
    # Eight times the processors and twice the memory when nothing is said.
    del arguments["overcommit_cpus"], arguments["overcommit_memory"]
    assert run("instance", arguments, capsys).code == 1
    spec = spec_of("instance")
    assert (spec["overcommit_cpus"]["default"], spec["overcommit_memory"]["default"]) == (8, 2)


def test_no_instances_is_an_empty_list(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ended = run("instance", instance_arguments(tmp_path), capsys)
    assert (ended.code, ended.result["changed"], ended.result["results"]) == (0, False, [])
    assert list(tmp_path.iterdir()) == []


def test_all_mistakes_are_one_failure(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = instance_arguments(
        tmp_path, {"name": "Bad"}, {"name": "acme", "services": {"nosuch": True}, "health_interval": "x"},
        {"name": "acme"}, {"name": "beta", "release": "9.9"}, {"name": "gone", "state": "absent"},
    )  # fmt: skip
    ended = run("instance", arguments, capsys)
    assert ended.code == 1 and ended.result["failed"] is True
    assert len(ended.result["problems"]) == 6
    assert ended.result["msg"] == "\n".join(ended.result["problems"])
    assert ended.result.get("results") == [], "results are a list, always"
    assert "Traceback" not in json.dumps(ended.result) and list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("option", "value", "named"),
    [("port_range", "20000", "port_range"), ("port_range", "1-5", "port_range"), ("subnet_pool", "x", "subnet_pool")],
)
def test_a_bad_range_is_told_together_with_the_rest(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], option: str, value: str, named: str
) -> None:
    arguments = instance_arguments(
        tmp_path, {"name": "Bad"}, {"name": "acme", "health_interval": "x"}, **{option: value}
    )
    ended = run("instance", arguments, capsys)
    assert ended.code == 1
    text = "\n".join(ended.result.get("problems", []))
    assert named in text and value in text and "Bad" in text and "health_interval" in text


@pytest.mark.parametrize(
    "options",
    [
        {"public_url": "https://my_host.example"}, {"public_url": "https://@x"}, {"site_url": "https://bücher.example"},
        {"cors_origins": ["https://x?"]}, {"redirect_urls": ["https://x\x00"]}, {"studio": {"project": "\x00"}},
        {"smtp": {"password": "canary\x00"}},
    ],
)  # fmt: skip
def test_bad_values_never_end_in_a_traceback(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], options: Dict[str, Any]
) -> None:
    ended = run("instance", instance_arguments(tmp_path, {"name": "acme", **options}), capsys)
    assert ended.code == 1 and "instance acme" in ended.result["msg"]
    assert "canary" not in ended.result["msg"]


@pytest.mark.parametrize(
    "options", [{"defaults": None}, {"bundles": None}, {"bundles": {"0.8.2": {}}}, {"bundles": {"0.8.2": 5}}]
)
def test_strange_arguments_never_end_in_a_traceback(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], options: Dict[str, Any]
) -> None:
    ended = run("instance", {**instance_arguments(tmp_path, {"name": "acme"}), **options}, capsys)
    assert ended.code in (0, 1)
    assert ended.code == 0 or "0.8.2" in ended.result["msg"] or "defaults" in ended.result["msg"]


def test_an_unknown_release_is_told_with_those_that_there_are(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ended = run("instance", instance_arguments(tmp_path, {"name": "acme", "release": "9.9.9"}), capsys)
    assert ended.code == 1 and "9.9.9" in ended.result["msg"] and "0.8.2" in ended.result["msg"]


def test_a_root_that_cannot_be_written_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("x")
    ended = run("instance", instance_arguments(tmp_path / "file" / "root", {"name": "acme"}), capsys)
    assert ended.code == 1 and str(tmp_path / "file") in ended.result["msg"] and "\n" not in ended.result["msg"]


@pytest.mark.parametrize("damage", ['{"schema": 1, "name": "acme"}', "{", ""])
def test_a_damaged_instance_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str], damage: str) -> None:
    converge(tmp_path, item("acme"))
    (tmp_path / "projects/acme/instance.json").write_text(damage)
    (tmp_path / "registry.json").unlink()
    ended = run("instance", instance_arguments(tmp_path, {"name": "acme"}), capsys)
    assert ended.code == 1 and "instance.json" in ended.result["msg"] and "\n" not in ended.result["msg"]


def test_a_managed_file_that_became_a_directory_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    converge(tmp_path, item("acme"))
    path = tmp_path / "projects/acme/volumes/api/envoy.json"
    path.unlink()
    path.mkdir()
    before = snapshot(tmp_path)
    ended = run("instance", instance_arguments(tmp_path, {"name": "acme", "size": "large"}), capsys)
    assert ended.code == 1 and str(path) in ended.result["msg"]
    after = {name: row for name, row in snapshot(tmp_path).items() if "multibase-new" not in name}
    assert after == before, "no file has its new content yet"
    path.rmdir()
    assert run("instance", instance_arguments(tmp_path, {"name": "acme", "size": "large"}), capsys).result["changed"]
    assert leftovers(tmp_path) == []


def test_warnings_reach_the_user(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    converge(tmp_path, item("acme"))
    path = tmp_path / "projects/acme/.env"
    path.write_text(path.read_text().replace(secrets_of(tmp_path, "acme")["DASHBOARD_PASSWORD"], "by-hand-0123456789"))
    ended = run("instance", instance_arguments(tmp_path, {"name": "acme"}), capsys)
    assert ended.code == 0
    assert "DASHBOARD_PASSWORD" in " ".join([ended.warnings, *ended.result.get("warnings", [])])


# stack


def test_a_stack_through_the_module(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    converge(tmp_path, item("acme"), item("beta"))
    docker = FakeDocker()
    compose = FakeCompose(docker)
    arguments = {"root": str(tmp_path), "instances": ["beta", "acme"], "timeout": 5}
    ended = run("stack", arguments, capsys, docker, compose)
    assert ended.code == 0 and ended.result["changed"] is True
    assert [result["name"] for result in ended.result["results"]] == ["beta", "acme"]
    compose.calls.clear()
    again = run("stack", arguments, capsys, docker, compose)
    assert again.code == 0 and again.result["changed"] is False and compose.calls == []
    checked = run("stack", {**arguments, "state": "stopped"}, capsys, docker, compose, check_mode=True)
    assert checked.code == 0 and checked.result["changed"] is True and compose.calls == []


def test_one_failing_stack_fails_the_module_with_all_results(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    converge(tmp_path, item("acme"), item("beta"))
    (tmp_path / "projects/acme/.env").write_text("")
    docker = FakeDocker()
    arguments = {"root": str(tmp_path), "instances": ["acme", "beta"]}
    ended = run("stack", arguments, capsys, docker, FakeCompose(docker))
    assert ended.code == 1 and ended.result["changed"] is True and "instance acme" in ended.result["msg"]
    assert [result["failed"] for result in ended.result["results"]] == [True, False]
    assert len(docker.rows) == len(SERVICES)


def test_no_stacks_is_an_empty_list_even_without_docker(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ended = run("stack", {"root": str(tmp_path), "instances": []}, capsys)
    assert (ended.code, ended.result["changed"], ended.result["results"]) == (0, False, [])


def test_unknown_stacks_and_a_missing_docker_are_one_failure(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ended = run("stack", {"root": str(tmp_path), "instances": ["x", "Y"]}, capsys, FakeDocker())
    assert (
        ended.code == 1 and "x" in ended.result["msg"] and "Y" in ended.result["msg"] and ended.result["results"] == []
    )
    converge(tmp_path, item("acme"))
    ended = run("stack", {"root": str(tmp_path), "instances": ["acme"]}, capsys)
    assert ended.code == 1 and "playbooks/site.yml" in ended.result["msg"] and ended.result["results"] == []


# instance_info


def test_information_through_the_module(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    converge(tmp_path, item("beta"), item("acme"))
    for check_mode in (False, True):
        ended = run("instance_info", {"root": str(tmp_path)}, capsys, check_mode=check_mode)
        assert ended.code == 0 and ended.result["changed"] is False
        assert [entry["name"] for entry in ended.result["instances"]] == ["acme", "beta"]
    ended = run("instance_info", {"root": str(tmp_path), "instances": ["beta", "nosuch"]}, capsys)
    assert [entry["name"] for entry in ended.result["instances"]] == ["beta"]
    assert_no_secret(json.dumps(ended.result), secrets_of(tmp_path, "beta"), "result")


def test_information_about_an_empty_host(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ended = run("instance_info", {"root": str(tmp_path / "nothing")}, capsys)
    assert (ended.code, ended.result["instances"], ended.result["changed"]) == (0, [], False)
    assert not (tmp_path / "nothing").exists()


def test_information_about_a_damaged_instance(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    converge(tmp_path, item("acme"), item("beta"))
    (tmp_path / "projects/acme/instance.json").write_text('{"schema": 1, "name": "acme"}')
    ended = run("instance_info", {"root": str(tmp_path)}, capsys)
    assert ended.code == 0
    assert [entry["state"] for entry in ended.result["instances"]] == ["damaged", "unknown"]


# Backups and restores


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), 14),
        (OSError(errno.EDQUOT, "Disk quota exceeded"), 14),
        (OSError(errno.EACCES, "Permission denied"), 1),
        (IntegrityFailed("changed"), 18),
    ],
)
def test_modules_return_the_exit_status_of_the_hosts_tool(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], error: Exception, code: int
) -> None:
    docker = FakeDocker()
    for state, method in (("restored", "restore"), ("rolled_back", "rollback"), ("recovered", "recover")):
        with mock.patch.object(_restore.RestoreRun, method, side_effect=error):
            ended = run("restore", {"root": str(tmp_path), "name": "acme", "state": state}, capsys, docker)
        assert ended.code == 1 and ended.result["exit_code"] == code
    for state, function in (("verified", "verify"), ("taken", "run")):
        with mock.patch.object(_backup_job, function, side_effect=error), mock.patch.object(Layout, "known"):
            ended = run("backup", {"root": str(tmp_path), "instances": ["acme"], "state": state}, capsys, docker)
        (result,) = ended.result["results"]
        assert ended.code == 1 and result["failed"] and result["exit_code"] == code


def test_a_killed_restore_is_no_longer_written_to_when_its_directories_go(tmp_path: Path) -> None:
    """Its scratch container goes on by itself: it is removed first."""
    layout = Layout(str(tmp_path))
    journal = _restore_journal.Journal("acme", "stem", "building")
    _restore_journal.write(layout, journal, "building")
    nothing: Any = None
    done: List[str] = []

    class Enough(Exception):
        """The rest is about the backup itself."""

    def discard(*_arguments: Any) -> None:
        done.append(str(_restore_journal.pending(layout, "acme")))

    stack = mock.Mock()
    stack.name = "acme"
    with (
        mock.patch.object(_backup, "discard_left_over", discard),
        mock.patch.object(_backup, "find_database", side_effect=Enough),
        pytest.raises(Enough),
    ):
        _backup.BackupRun(layout, nothing, nothing, "", _backup.Options())._take(stack)
    assert done[0] == "building" and _restore_journal.pending(layout, "acme") is None
