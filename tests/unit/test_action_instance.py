# SPDX-License-Identifier: GPL-3.0-or-later
"""The action plugin of ``instance``: reads releases on the controller, finds mistakes early, passes nothing secret on.

``support.Play`` stands in for a task and the transport to the host: it runs the real module in this process.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any, Dict, Set

import pytest
import yaml
from ansible.errors import AnsibleError

from ansible_collections.multibase.supabase.plugins.action import instance as action
from unit.support import RELEASE_DIRECTORY, Play, env_of, manifest_of, one_problem, snapshot


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
        defaults={"gateway": "traefik"},
        blueprints={"shop": {"health_interval": "5s", "colour": "red"}, "blog": {"cpu_burst": "perhaps"}},
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
    one_problem(problems, "defaults", "traefik", "envoy, kong")
    one_problem(problems, "blueprint shop", "colour", "public_url")
    one_problem(problems, "blueprint blog", "cpu_burst", "perhaps")
    assert result["msg"] == "\n".join(problems) and result.get("results") == []


def test_an_instance_without_a_name_is_told_by_its_place(play: Play) -> None:
    problems = play([{"name": "acme"}, {"health_interval": "soon"}])["problems"]
    assert any("number 2" in problem and "name" in problem for problem in problems)
    assert not any("None" in problem for problem in problems), problems


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


# Blueprints


BLUEPRINTS = {"shop": {"size": "large", "auth": {"jwt_expiry": 700}}, "empty": {}}


@pytest.mark.parametrize("form", ["dictionary", "list"])
def test_blueprints_may_be_a_dictionary_or_a_list(play: Play, form: str) -> None:
    blueprints: Any = BLUEPRINTS
    if form == "list":
        blueprints = [{"name": name, **options} for name, options in BLUEPRINTS.items()]
    instances = [{"name": "acme", "blueprint": "shop"}, {"name": "beta", "blueprint": "empty"}, {"name": "gamma"}]
    for changed in (True, False):
        result = play(instances, blueprints=blueprints, defaults={"size": "small"})
        assert result.get("failed") is not True, result["msg"]
        assert result["changed"] is changed
    assert [manifest_of(play.root, name)["size"] for name in ("acme", "beta", "gamma")] == ["large", "small", "small"]
    assert env_of(play.root, "acme")["JWT_EXPIRY"] == "700"


@pytest.mark.parametrize("blueprints", [None, [], {}])
def test_no_blueprints(play: Play, blueprints: Any) -> None:
    assert play([{"name": "acme"}], blueprints=blueprints)["changed"] is True
    result = play([{"name": "acme", "blueprint": "shop"}], blueprints=blueprints)
    one_problem(result["problems"], "instance acme", "unknown blueprint 'shop'", "none")


@pytest.mark.parametrize(
    "blueprints", ["shop", 5, [5], ["shop"], [{"size": "small"}], {"shop": "small"}, {"shop": ["small"]}, [[]], True]
)
def test_blueprints_of_the_wrong_shape(play: Play, blueprints: Any) -> None:
    result = play([{"name": "acme"}], blueprints=blueprints)
    assert result["failed"] is True and play.transport.sent == []
    assert "blueprints" in one_problem(result["problems"], "blueprints")


def test_two_blueprints_of_one_name_are_one_too_many(play: Play) -> None:
    blueprints = [{"name": "shop", "size": "small"}, {"name": "shop", "size": "large"}]
    result = play([{"name": "acme", "blueprint": "shop"}], blueprints=blueprints)
    assert result.get("failed") is True, "one of them was taken in silence"
    one_problem(result["problems"], "blueprint", "shop", "twice")


def test_an_unknown_blueprint_is_told_before_anything_is_sent(play: Play) -> None:
    result = play([{"name": "acme", "blueprint": "ship"}, {"name": "Bad"}], blueprints=BLUEPRINTS)
    one_problem(result["problems"], "instance acme", "'ship'", "empty, shop")
    assert len(result["problems"]) == 2 and play.transport.sent == []


def test_a_release_of_a_blueprint_is_sent(play: Play, tmp_path: Path) -> None:
    templates = tmp_path / "templates"
    for name in ("0.8.2", "0.9.0", "0.9.1"):
        shutil.copytree(RELEASE_DIRECTORY, templates / name)
    instances = [{"name": "acme", "blueprint": "next"}, {"name": "beta"}]
    result = play(instances, blueprints={"next": {"release": "0.9.0"}}, template_root=str(templates))
    assert result["changed"] is True, result
    assert sorted(play.transport.sent[0]["bundles"]) == ["0.8.2", "0.9.0"]
    assert manifest_of(play.root, "acme")["release"] == "0.9.0" and manifest_of(play.root, "beta")["release"] == "0.8.2"


# What Compose files set


class Tagged(yaml.SafeLoader):
    """Reads !override and !reset as what stands behind them."""


for tag in ("!override", "!reset"):
    Tagged.add_constructor(tag, lambda loader, node: getattr(loader, "construct_" + node.id)(node))


def test_the_names_that_compose_files_set_are_sent_with_the_release() -> None:
    told = action.read_release(str(RELEASE_DIRECTORY))["environment"]
    expected: Dict[str, Set[str]] = {}
    paths = [RELEASE_DIRECTORY / "docker-compose.yml", *sorted((RELEASE_DIRECTORY / "overlays").glob("*.yml"))]
    assert len(paths) > 8
    for path in paths:
        for service, definition in yaml.load(path.read_text(encoding="utf-8"), Tagged)["services"].items():
            expected.setdefault(service, set()).update(definition.get("environment") or {})
    assert told == {service: sorted(names) for service, names in expected.items()}
    assert "GOTRUE_SITE_URL" in told["auth"] and "KONG_DATABASE" in told["api-gw"] and "DB_HOST" in told["pgbouncer"]


def test_a_variable_without_effect_is_refused_on_the_controller(play: Play) -> None:
    result = play([{"name": "acme", "env": {"auth": {"GOTRUE_SITE_URL": "https://x"}}}])
    assert result["failed"] is True and play.transport.sent == []
    one_problem(result["problems"], "instance acme", "env.auth", "GOTRUE_SITE_URL", "Compose file")


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
    github = {"client_id": "x", "secret": "canary", "enabled": "perhaps"}
    for options in (
        {"auth": {"providers": {"github": github}}}, {"secrets": "canary"}, {"secrets": ["canary"]},
        {"secrets": {"SMTP_PASS": "canary", "NOSUCH": "canary"}}, {"database": {"password": "canary !"}},
        {"storage": {"s3": {"access_key_id": "canary", "nosuch": "canary"}}}, {"secrets": {"nosuch": {"A": "canary"}}},
    ):  # fmt: skip
        for arguments in ({}, {"defaults": options}, {"blueprints": {"b": options}}):
            own = options if not arguments else {"blueprint": "b"} if "blueprints" in arguments else {}
            result = play([{"name": "acme", **own}], **arguments)
            assert result["failed"] is True and "canary" not in json.dumps(result), (options, arguments)
    assert play([{"name": "acme", "smtp": smtp}])["changed"] is False


def test_nothing_on_the_controller_is_changed(play: Play) -> None:
    before = snapshot(RELEASE_DIRECTORY, times=True)
    play([{"name": "acme"}])
    assert snapshot(RELEASE_DIRECTORY, times=True) == before
