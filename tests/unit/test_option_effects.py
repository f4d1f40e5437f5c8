# SPDX-License-Identifier: GPL-3.0-or-later
"""Every option of an instance has an effect that Compose sees: in a container's environment, image, limits, ports...

What is looked at is the output of `docker compose config`, which needs no Docker Engine, and the files that it mounts.
The table is in ``option_effects``.
"""

from __future__ import annotations

import functools
import json
import os
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List, Mapping, Sequence, Set, Tuple
from unittest import mock

import pytest
from ansible.module_utils.common.arg_spec import ArgumentSpecValidator
from ansible.module_utils.testing import patch_module_args
from ansible.parsing.dataloader import DataLoader

from ansible_collections.multibase.supabase.plugins.action import instance as action
from ansible_collections.multibase.supabase.plugins.module_utils import _engine
from ansible_collections.multibase.supabase.plugins.module_utils._errors import InvalidInput
from ansible_collections.multibase.supabase.plugins.module_utils._options import common_options, instance_options
from ansible_collections.multibase.supabase.plugins.module_utils._release import release_from_bundle
from ansible_collections.multibase.supabase.plugins.modules import instance as module
from unit.option_effects import EFFECTS, GATEWAY_EFFECTS, GROUPS, HARD, HOOKS, PROVIDERS, Effect, View, merged
from unit.support import RELEASE_DIRECTORY, TEMPLATES, converge, item, manifest_of, quiet_host, release

# Options that the table cannot hold, and the test that shows what each does.
BY_TEST = {
    "name": "test_the_name_is_the_projects_and_the_default_of_others",
    "state": "test_an_absent_instance_is_nothing_that_compose_could_run",
    "release": "test_a_release_brings_its_own_images",
    "blueprint": "test_a_blueprint_lies_under_the_options_given",
    "secrets_from": "test_secrets_from_a_file",
}


# The completeness of the table


def flattened(options: Mapping[str, Any], group: str = "") -> Iterator[Tuple[str, Mapping[str, Any]]]:
    """The options of an argument spec that have a value of their own, as ``group.name``."""
    for name, entry in options.items():
        if "options" in entry:
            yield from flattened(entry["options"], group + name + ".")
        else:
            yield group + name, entry


def test_every_option_has_its_row() -> None:
    in_spec = {name for name, _entry in flattened(instance_options())}
    assert in_spec >= {name for name, _entry in flattened(common_options())}
    in_table = {effect.option for effect in [*EFFECTS, *GATEWAY_EFFECTS]}
    assert in_spec - in_table - set(BY_TEST) == set(), "options whose effect is not shown"
    assert in_table | set(BY_TEST) == in_spec, "rows without an option"
    assert {name for name in BY_TEST.values() if not callable(globals().get(name))} == set()


def test_every_secret_option_is_known_to_secrets() -> None:
    in_spec = {name for name, entry in flattened(instance_options()) if entry.get("no_log")}
    assert {effect.option for effect in EFFECTS if effect.secret} == in_spec - {"secrets", "database.password"}


def typed(options: Mapping[str, Any]) -> Dict[str, Any]:
    """Options as Ansible hands them to the module: those that are not given are None, and the values as they were."""
    result = ArgumentSpecValidator(instance_options()).validate(dict(options))
    assert result.error_messages == []
    taken = dict(result.validated_parameters)
    assert without_none(taken) == {"state": "present", **options}
    return taken


def without_none(tree: Mapping[str, Any]) -> Dict[str, Any]:
    stripped = {key: without_none(value) if isinstance(value, Mapping) else value for key, value in tree.items()}
    return {key: value for key, value in stripped.items() if value is not None}


# Through Compose


def compose_environment() -> Dict[str, str]:
    """Nothing of the caller's environment that Compose would take for a variable."""
    return {name: os.environ[name] for name in ("PATH", "HOME", "DOCKER_CONFIG") if name in os.environ}


def once(tree: Any) -> Any:
    """``config`` writes a literal dollar doubled, as its output is a Compose file again."""
    if isinstance(tree, str):
        return tree.replace("$$", "$")
    if isinstance(tree, list):
        return [once(value) for value in tree]
    if isinstance(tree, dict):
        return {key: once(value) for key, value in tree.items()}
    return tree


def view_of(root: Path, name: str) -> View:
    """What Compose makes of the files of an instance."""
    directory = root / "projects" / name
    answer = subprocess.run(
        ["docker", "compose", "config", "--format", "json"],
        cwd=directory, env=compose_environment(), capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert answer.returncode == 0, "{0}: {1}".format(name, answer.stderr)
    assert answer.stderr == "", name
    return View(name, directory, once(json.loads(answer.stdout)), manifest_of(root, name))


def selections(number: int) -> List[Set[int]]:
    """Choose from ``number`` effects so that each is chosen at least once and no two are always chosen together.

    The effects are numbered from 1, and the n-th selection has those whose number has its n-th bit. More than one
    effect, and each of them is left out at least once as well.
    """
    if number == 1:
        return [{0}]
    bits = (number + 1).bit_length()
    return [{index for index in range(number) if (index + 1) >> bit & 1} for bit in range(bits)]


def test_selections_tell_effects_apart() -> None:
    for number in (1, 2, 3, 6, 7, 8, 100, 254, 255, 300):
        chosen = selections(number)
        patterns = [tuple(index in selection for selection in chosen) for index in range(number)]
        assert len(set(patterns)) == number
        assert all(any(pattern) for pattern in patterns)
        assert number == 1 or not any(all(pattern) for pattern in patterns)


def made(root: Path, group: str, effects: Sequence[Effect]) -> List[Tuple[Set[str], View]]:
    """Some instances, each with the options of the group that it was given."""
    assert len({effect.option for effect in effects}) == len(effects), "an option cannot have two values at once"
    items, given = [], []
    for number, selection in enumerate(selections(len(effects))):
        wanted: Dict[str, Any] = {"name": "acme-{0}".format(number), **GROUPS.get(group, {})}
        for index in selection:
            wanted = merged(wanted, effects[index].options())
        items.append(typed(wanted))
        given.append({effects[index].option for index in selection})
    converge(root, *items)
    with ThreadPoolExecutor(3) as threads:
        views = list(threads.map(lambda wanted: view_of(root, wanted["name"]), items))
    return list(zip(given, views))


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> View:
    """An instance without any option."""
    assert shutil.which("docker"), "no docker command; run tests/sandbox/sandbox.py engine"
    root = tmp_path_factory.mktemp("bare")
    converge(root, item("acme"))
    return view_of(root, "acme")


def misses(effect: Effect, given: bool, view: View) -> List[str]:
    """What is not seen in an instance that has the option, or is seen in one that has not."""
    problems = []
    for sight in effect.sights:
        found = sight.look(view)
        if given and found != sight.expected:
            problems.append("{0}: {1} is {2!r}, not {3!r}".format(effect.option, sight.what, found, sight.expected))
        if not given and found == sight.expected:
            problems.append("{0}: {1} is {2!r} without it, too".format(effect.option, sight.what, found))
    return problems


@pytest.mark.parametrize("group", sorted({effect.group for effect in EFFECTS}))
def test_effects(tmp_path: Path, bare: View, group: str) -> None:
    """Every value is seen in all instances that have the option, and in none that has not."""
    effects = [effect for effect in EFFECTS if effect.group == group]
    views = made(tmp_path, group, effects)
    problems = []
    for effect in effects:
        assert effect.sights
        assert any(effect.option in given for given, _view in views)
        for given, view in [*views, (frozenset(), bare)]:
            problems += misses(effect, effect.option in given, view)
    assert not problems, "\n".join(sorted(set(problems)))


# Options that are written into the file of the gateway


class Gateway:
    """One instance whose options change, so that its secrets stay the same and only the options matter."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def view(self, *options: Mapping[str, Any]) -> View:
        converge(self.root, typed(functools.reduce(merged, options, {"name": "acme"})))
        return view_of(self.root, "acme")


@pytest.fixture
def gateway(tmp_path: Path) -> Gateway:
    return Gateway(tmp_path)


def label(view: View) -> str:
    """The label whose change makes Compose replace the container of the gateway."""
    text = view.services["api-gw"]["labels"]["io.multibase.config"]
    assert isinstance(text, str) and text
    return text


@pytest.mark.parametrize("group", sorted({effect.group for effect in GATEWAY_EFFECTS}))
def test_effects_through_the_gateways_file(gateway: Gateway, group: str) -> None:
    """The container is replaced, and reads the value in the file that it mounts."""
    effects = [effect for effect in GATEWAY_EFFECTS if effect.group == group]
    kind = GROUPS[group].get("gateway", "envoy")
    before = gateway.view(GROUPS[group])
    problems = []
    for effect in effects:
        problems += misses(effect, False, before)
    for effect in effects:
        view = gateway.view(GROUPS[group], effect.options())
        assert label(view) != label(before), "{0}: the gateway goes on with the old file".format(effect.option)
        assert view.gateway()[0] == kind + ".json"
        assert {path.name for path in (view.directory / "volumes" / "api").iterdir()} == {kind + ".json"}
        problems += misses(effect, True, view)
    assert not problems, "\n".join(problems)
    unrelated = {"auth": {"jwt_expiry": 7200}}
    assert label(gateway.view(GROUPS[group], unrelated)) == label(before), "nothing else replaces the gateway"


def test_a_proxy_that_kong_trusts(gateway: Gateway) -> None:
    """Kong could have it in its environment or in its file; either replaces the container."""
    before = gateway.view(GROUPS["kong"])
    after = gateway.view(GROUPS["kong"], {"limits": {"trusted_proxies": 1}})
    replaced = after.services["api-gw"] != before.services["api-gw"]
    assert replaced


# Defaults that follow from other options


def test_a_provider_of_which_anything_is_given_is_enabled(tmp_path: Path) -> None:
    """Or refused, because Auth takes none without its id and secret; but never left out without a word."""
    names = []
    for option, value in {
        "client_id": "id",
        "secret": "word",
        "redirect_uri": "https://app.example.com/back",
        "url": "https://id.example.com",
        "skip_nonce_check": True,
        "email_optional": True,
    }.items():
        name = "with-" + option.replace("_", "-")
        try:
            converge(tmp_path, typed({"name": name, "auth": {"providers": {"google": {option: value}}}}))
        except InvalidInput as error:
            assert "auth.providers.google" in str(error)
        else:
            names.append(name)
    with ThreadPoolExecutor(3) as threads:
        views = list(threads.map(lambda name: view_of(tmp_path, name), names))
    found = {view.name: view.environment("auth").get("GOTRUE_EXTERNAL_GOOGLE_ENABLED") for view in views}
    assert found == dict.fromkeys(names, "true")


def test_defaults_of_providers_and_hooks(tmp_path: Path) -> None:
    auth = {
        "providers": {name: {"client_id": "id", "secret": "word"} for name in PROVIDERS},
        "hooks": {name: {"uri": "pg-functions://postgres/public/" + name} for name in HOOKS},
    }
    converge(tmp_path, typed({"name": "acme", "domain": "db.example.com", "auth": auth}))
    found = view_of(tmp_path, "acme").environment("auth")
    for name in PROVIDERS:
        prefix = "GOTRUE_EXTERNAL_" + name.upper()
        assert found[prefix + "_ENABLED"] == "true"
        assert found[prefix + "_REDIRECT_URI"] == "https://db.example.com/auth/v1/callback"
    assert {found["GOTRUE_HOOK_{0}_ENABLED".format(name.upper())] for name in HOOKS} == {"true"}


# Options that the table cannot hold


def test_the_name_is_the_projects_and_the_default_of_others(tmp_path: Path) -> None:
    converge(tmp_path, item("acme"), item("beta"))
    for name in ("acme", "beta"):
        view = view_of(tmp_path, name)
        assert view.resolved["name"] == "multibase-" + name
        assert {service["labels"]["io.multibase.instance"] for service in view.services.values()} == {name}
        assert view.environment("supavisor")["POOLER_TENANT_ID"] == name
        assert view.environment("studio")["DEFAULT_PROJECT_NAME"] == name
        assert view.environment("auth")["GOTRUE_SMTP_SENDER_NAME"] == name


def test_an_absent_instance_is_nothing_that_compose_could_run(tmp_path: Path) -> None:
    converge(tmp_path, item("acme"), item("beta"))
    converge(tmp_path, item("acme", state="absent"), confirmed=frozenset({"acme"}))
    assert not (tmp_path / "projects" / "acme").exists()
    assert view_of(tmp_path, "beta").services


def test_a_release_brings_its_own_images(tmp_path: Path) -> None:
    other = tmp_path / "9.9.9"
    shutil.copytree(RELEASE_DIRECTORY, other)
    definition = (other / "release.yml").read_text(encoding="utf-8")
    changed = definition.replace('release: "0.8.2"', 'release: "9.9.9"').replace("gotrue:v2.196.0", "gotrue:v9.9.9")
    (other / "release.yml").write_text(changed, encoding="utf-8")
    releases = {"0.8.2": release(), "9.9.9": release_from_bundle("9.9.9", action.read_release(str(other)))}
    root = tmp_path / "root"
    converge(root, item("acme"), item("beta", release="9.9.9"), releases=releases)
    assert view_of(root, "acme").services["auth"]["image"] == "supabase/gotrue:v2.196.0"
    assert view_of(root, "beta").services["auth"]["image"] == "supabase/gotrue:v9.9.9"


def test_a_blueprint_lies_under_the_options_given(tmp_path: Path) -> None:
    blueprints = {
        "shop": {"auth": {"jwt_expiry": 120, "disable_signup": True}, "rest": {"max_rows": 5}},
        "other": {"auth": {"jwt_expiry": 240}},
    }
    defaults = {"auth": {"jwt_expiry": 60}, "rest": {"max_rows": 4}, "smtp": {"port": 26}}
    converge(
        tmp_path,
        item("acme", blueprint="shop", auth={"disable_signup": False}),
        item("beta"),
        blueprints=blueprints,
        defaults=defaults,
    )
    names = ("GOTRUE_JWT_EXP", "GOTRUE_DISABLE_SIGNUP", "GOTRUE_SMTP_PORT")
    found = {}
    for name in ("acme", "beta"):
        view = view_of(tmp_path, name)
        auth = view.environment("auth")
        found[name] = [*(auth[variable] for variable in names), view.environment("rest")["PGRST_DB_MAX_ROWS"]]
        assert view.manifest["blueprint"] == ("shop" if name == "acme" else "")
    assert found == {"acme": ["120", "false", "26", "5"], "beta": ["60", "false", "26", "4"]}


def test_variables_for_the_users_own_compose_file(tmp_path: Path) -> None:
    options = {"env": {"MY_TAG": "v1 " + HARD}, "secrets": {"rest": {"MY_WORD": HARD}}}
    converge(tmp_path, item("acme", **options))
    override = tmp_path / "projects" / "acme" / "docker-compose.override.yml"
    override.write_text("services:\n  rest:\n    environment:\n      OWN: ${MY_TAG:-nothing}\n", encoding="utf-8")
    converge(tmp_path, item("acme", **options))
    found = view_of(tmp_path, "acme").environment("rest")
    assert (found["OWN"], found["MY_WORD"]) == ("v1 " + HARD, HARD)
    converge(tmp_path, item("acme"))
    found = view_of(tmp_path, "acme").environment("rest")
    assert found["OWN"] == "nothing" and "MY_WORD" not in found


Run = Callable[[Sequence[Mapping[str, Any]]], Dict[str, Any]]


@pytest.fixture
def run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Run:
    """The action plugin and behind it the module; what carries one to the other is a stand-in that runs it here."""

    def execute(module_args: Dict[str, Any], **_options: Any) -> Dict[str, Any]:
        capsys.readouterr()
        with (
            patch_module_args(json.loads(json.dumps(module_args))),
            quiet_host(),
            mock.patch.object(_engine, "connect_if_present", lambda _host="": None),
            pytest.raises(SystemExit),
        ):
            module.main()
        return dict(json.loads(capsys.readouterr().out))

    def call(wanted: Sequence[Mapping[str, Any]]) -> Dict[str, Any]:
        task = mock.Mock(async_val=0, check_mode=False, diff=False, action="multibase.supabase.instance")
        task.args = {"root": str(tmp_path / "root"), "template_root": str(TEMPLATES), "instances": list(wanted)}
        task.get_search_path.return_value = [str(tmp_path)]
        loader = DataLoader()
        plugin = action.ActionModule(task, mock.MagicMock(), mock.Mock(), loader, mock.Mock(), mock.Mock())
        with mock.patch.object(plugin, "_execute_module", execute):
            result = dict(plugin.run(None, {}))
        assert not result.get("failed"), result.get("msg")
        return result

    return call


def test_secrets_from_a_file(tmp_path: Path, run: Run) -> None:
    on_controller = tmp_path / "secrets.yml"
    on_controller.write_text(
        "SMTP_PASS: from the controller\nfunctions:\n  OTHER: below\n  STRIPE_KEY: {0}\n".format(json.dumps(HARD)),
        encoding="utf-8",
    )
    on_host = tmp_path / "secrets.json"
    on_host.write_text(json.dumps({"SMTP_PASS": HARD, "functions": {"STRIPE_KEY": "from the host"}}), encoding="utf-8")
    on_host.chmod(0o600)
    run(
        [
            {"name": "acme", "secrets_from": "secrets.yml", "secrets": {"functions": {"OTHER": "above"}}},
            {"name": "beta", "secrets_from": "host:{0}".format(on_host)},
            {"name": "gamma"},
        ]
    )
    found = {}
    for name in ("acme", "beta", "gamma"):
        view = view_of(tmp_path / "root", name)
        functions = view.environment("functions")
        found[name] = (
            view.environment("auth")["GOTRUE_SMTP_PASS"], functions.get("STRIPE_KEY"), functions.get("OTHER"),
        )  # fmt: skip
    assert found == {
        "acme": ("from the controller", HARD, "above"),
        "beta": (HARD, "from the host", None),
        "gamma": ("", None, None),
    }
