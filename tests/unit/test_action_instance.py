# SPDX-License-Identifier: GPL-3.0-or-later
"""The action plugin of ``instance``: reads releases on the controller, finds mistakes early, passes nothing secret on.

The transport to the host is a stand-in: it runs the real module in this process.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any, Dict, List
from unittest import mock

import pytest
from ansible.errors import AnsibleError
from ansible.module_utils.testing import patch_module_args

from ansible_collections.multibase.supabase.plugins.action import instance as action
from ansible_collections.multibase.supabase.plugins.module_utils import _engine
from ansible_collections.multibase.supabase.plugins.modules import instance as module
from unit.support import RELEASE_DIRECTORY, TEMPLATES, one_problem, quiet_host, snapshot


class Transport:
    """Stands in for the connection: runs the module here and remembers what it was given."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self.capsys = capsys
        self.sent: List[Dict[str, Any]] = []

    def __call__(self, module_args: Dict[str, Any], task_vars: Any = None, **_options: Any) -> Dict[str, Any]:
        self.sent.append(module_args)
        self.capsys.readouterr()
        with (
            patch_module_args(json.loads(json.dumps(module_args))),
            quiet_host(),
            mock.patch.object(_engine, "connect_if_present", lambda _host="": None),
            pytest.raises(SystemExit),
        ):
            module.main()
        result = json.loads(self.capsys.readouterr().out)
        assert isinstance(result, dict)
        return result


class Play:
    """Runs the action with arguments as a task would give them."""

    def __init__(self, root: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.root = root
        self.transport = Transport(capsys)

    def __call__(self, instances: Any, **options: Any) -> Dict[str, Any]:
        task = mock.Mock(async_val=0, check_mode=False, diff=False, action="multibase.supabase.instance")
        task.args = {"root": str(self.root), "template_root": str(TEMPLATES), "instances": instances, **options}
        task.args = {name: value for name, value in task.args.items() if value is not Play}
        given = json.dumps(task.args)
        plugin = action.ActionModule(task, mock.MagicMock(), mock.Mock(), mock.Mock(), mock.Mock(), mock.Mock())
        with mock.patch.object(plugin, "_execute_module", self.transport):
            result = plugin.run(None, {})
        assert json.dumps(task.args) == given, "the task's own arguments are left as they are"
        assert isinstance(result, dict) and "invocation" not in result
        return result


@pytest.fixture
def play(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Play:
    return Play(tmp_path / "root", capsys)


def test_one_module_call_with_the_release(play: Play) -> None:
    result = play([{"name": "acme"}, {"name": "beta"}])
    assert result["changed"] is True and [entry["name"] for entry in result["results"]] == ["acme", "beta"]
    assert len(play.transport.sent) == 1
    assert list(play.transport.sent[0]["bundles"]) == ["0.8.2"]
    assert play([{"name": "acme"}, {"name": "beta"}])["changed"] is False


def test_the_release_is_read_completely_and_nothing_else(tmp_path: Path) -> None:
    copy = tmp_path / "0.8.2"
    shutil.copytree(RELEASE_DIRECTORY, copy)
    for junk in (".docker-compose.yml.swp", "docker-compose.yml~", "notes.txt", "volumes/x.bin"):
        (copy / junk).write_bytes(b"\xff\xfe")
    read = action.read_release(str(copy))
    assert read == action.read_release(str(RELEASE_DIRECTORY))
    assert read["definition"]["release"] == "0.8.2"
    mounted = {path for paths in read["definition"]["mounted"].values() for path in paths}
    needed = {"docker-compose.yml", *read["definition"]["seed_files"], *mounted} - set(
        read["definition"]["generated_files"]
    )
    assert needed <= set(read["files"]) and "release.yml" not in read["files"]
    assert all(not path.startswith(("/", "..")) for path in read["files"])


def test_mistakes_in_options_name_instance_found_and_allowed(play: Play) -> None:
    result = play(
        [
            {"name": "acme", "size": "huge"},
            {"name": "beta", "image_set": "downstream"},
            {"name": "gamma", "colour": "red"},
            {"name": "delta", "auth": {"colour": "red"}},
            {"name": "epsilon", "port_base": "many"},
            {"name": "zeta", "state": "gone"},
            {"size": "small"},
            "eta",
            {"name": "theta", "expose": ["auth"]},
        ],
        defaults={"size": "tiny"},
    )
    assert result["failed"] is True and play.transport.sent == []
    problems = result["problems"]
    one_problem(problems, "instance acme", "huge", "small, medium, large")
    one_problem(problems, "instance beta", "downstream", "upstream, sandbox")
    one_problem(problems, "instance gamma", "colour", "services", "public_url")
    one_problem(problems, "instance delta", "auth", "colour", "jwt_expiry")
    one_problem(problems, "instance epsilon", "port_base", "many")
    one_problem(problems, "instance zeta", "gone", "present, absent")
    assert any("number 7" in problem and "name" in problem for problem in problems)
    one_problem(problems, "number 8", "a dictionary", "str")
    # The value is not quoted: a password may be anywhere in it.
    assert "eta" not in next(problem for problem in problems if "number 8" in problem).split("not a")[1]
    one_problem(problems, "instance theta", "auth", "postgres, studio")
    one_problem(problems, "defaults", "tiny", "small, medium, large")
    assert result["msg"] == "\n".join(problems) and result.get("results") == []


def test_two_unknown_options_are_each_told_with_what_is_allowed_there(play: Play) -> None:
    problems = play([{"name": "acme", "colour": "red", "auth": {"shape": "round"}}])["problems"]
    one_problem(problems, "instance acme", "colour", "public_url")
    one_problem(problems, "instance acme", "auth", "shape", "jwt_expiry")


def test_mistakes_of_every_kind_come_at_once(play: Play) -> None:
    result = play(
        [{"name": "acme", "colour": "red"}, {"name": "Bad Name"}, {"name": "beta", "services": {"nosuch": False}},
         {"name": "gamma", "release": "9.9.9"}, {"name": "gamma"},
         {"name": "delta", "port_base": "many"}],
        port_range="20000", subnet_pool="nowhere",
    )  # fmt: skip
    assert result["failed"] is True
    problems = result["problems"]
    one_problem(problems, "instance acme", "colour")
    one_problem(problems, "Bad Name")
    one_problem(problems, "instance beta", "nosuch")
    one_problem(problems, "instance gamma", r"9\.9\.9")
    one_problem(problems, "instance gamma", "twice")
    one_problem(problems, "instance delta", "port_base", "many")
    one_problem(problems, "port_range", "20000")
    one_problem(problems, "subnet_pool", "nowhere")
    assert not (play.root).exists()


def test_an_unknown_release_is_told_with_those_that_there_are(play: Play) -> None:
    result = play([{"name": "acme", "release": "9.9.9"}])
    assert result["failed"] is True
    one_problem(result["problems"], "instance acme", r"9\.9\.9", r"0\.8\.2")


@pytest.mark.parametrize("release", ["../0.8.2", "/etc", ".", "..", "0.8.2/../0.8.2", "0.8.2/volumes"])
def test_a_release_is_a_name_and_no_path(play: Play, release: str) -> None:
    result = play([{"name": "acme", "release": release}])
    assert result["failed"] is True and "instance acme" in result["msg"]


def test_a_recorded_release_is_sent_when_options_are_kept(play: Play) -> None:
    play([{"name": "acme", "size": "large"}])
    result = play([{"name": "acme", "health_interval": "5s"}], keep_unmentioned=True)
    assert result["changed"] is True and "failed" not in result


@pytest.mark.parametrize("instances", [None, "acme", {"name": "acme"}, 5])
def test_instances_that_are_no_list(play: Play, instances: Any) -> None:
    result = play(instances)
    assert result["failed"] is True and "instances" in result["msg"] and play.transport.sent == []


@pytest.mark.parametrize("defaults", ["size=small", [], 5, "nonsense", ["x"]])
def test_defaults_that_are_no_dictionary_never_end_in_a_traceback(play: Play, defaults: Any) -> None:
    result = play([{"name": "acme"}], defaults=defaults)
    if result.get("failed"):
        assert "defaults" in result["msg"]


def test_empty_values_are_as_not_given(play: Play) -> None:
    result = play([{"name": "acme", "release": None, "public_url": None, "smtp": None}], defaults={"release": None})
    assert result.get("failed") is not True, result["msg"]


def test_no_template_root_is_one_line(play: Play, tmp_path: Path) -> None:
    for template_root in (Play, "", str(tmp_path / "nowhere")):
        try:
            result = play([{"name": "acme"}], template_root=template_root)
        except AnsibleError as error:
            message = str(error)
        else:
            assert result["failed"] is True
            message = result["msg"]
        assert "template_root" in message and "\n" not in message


@pytest.mark.parametrize("text", ["a: [", "[]", "text", "", "a: 1", "\t"])
def test_a_damaged_definition_is_named(play: Play, tmp_path: Path, text: str) -> None:
    shutil.copytree(RELEASE_DIRECTORY, tmp_path / "templates" / "0.8.2")
    (tmp_path / "templates" / "0.8.2" / "release.yml").write_text(text)
    try:
        result = play([{"name": "acme"}], template_root=str(tmp_path / "templates"))
    except AnsibleError as error:
        message = str(error)
    else:
        assert result["failed"] is True
        message = result["msg"]
    assert "0.8.2" in message and "release.yml" in message


def test_secrets_stay_out_of_everything_that_is_told(play: Play) -> None:
    smtp = {"host": "mail", "password": "canary password"}
    assert "canary" not in json.dumps(play([{"name": "acme", "smtp": smtp}]))
    for wrong in ({"port": "many"}, {"passwort": "canary too"}):
        result = play([{"name": "acme", "smtp": {**smtp, **wrong}}])
        assert result["failed"] is True and "canary" not in json.dumps(result)
    result = play([{"name": "acme", "smtp": "canary"}])
    assert result["failed"] is True and "canary" not in json.dumps(result)
    assert play([{"name": "acme", "smtp": smtp}])["changed"] is False


def test_nothing_on_the_controller_is_changed(play: Play) -> None:
    before = snapshot(RELEASE_DIRECTORY, times=True)
    play([{"name": "acme"}])
    assert snapshot(RELEASE_DIRECTORY, times=True) == before
