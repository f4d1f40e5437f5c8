# SPDX-License-Identifier: GPL-3.0-or-later
"""The table of options: consistent in itself, and the argument spec is what it says."""

from __future__ import annotations

import re
from collections import Counter
from typing import Any, Dict, Iterator, List, Tuple

import pytest
from ansible.module_utils.common.arg_spec import ArgumentSpecValidator

from ansible_collections.multibase.supabase.plugins.module_utils import (
    _envfile,
    _secrets,
    _settings,
    _spec,
    _values,
)
from ansible_collections.multibase.supabase.plugins.module_utils._options import (
    blueprint_options,
    common_options,
    instance_options,
)
from ansible_collections.multibase.supabase.plugins.module_utils._settings import BY_OPTION, DEFAULTS, SETTINGS, Setting
from ansible_collections.multibase.supabase.plugins.module_utils._spec import Layers
from unit.support import release

KINDS = {"bool", "int", "number", "str", "list", "dict", "raw"}


# The table


def test_there_are_many_and_each_is_there_once() -> None:
    assert len(SETTINGS) > 250
    assert [option for option, times in Counter(setting.option for setting in SETTINGS).items() if times > 1] == []
    assert set(BY_OPTION) == {setting.option for setting in SETTINGS}


def test_an_option_is_no_group_as_well() -> None:
    for setting in SETTINGS:
        for other in SETTINGS:
            assert not other.option.startswith(setting.option + "."), (setting.option, other.option)


def test_no_two_options_set_the_same_variable_at_the_same_place() -> None:
    places = Counter((setting.service, setting.variable) for setting in SETTINGS if setting.variable)
    assert [place for place, times in places.items() if times > 1] == []


def test_a_variable_of_a_service_is_not_one_that_its_compose_file_sets() -> None:
    # It would have no effect: what a Compose file sets goes before env files.
    for setting in SETTINGS:
        if setting.service:
            assert setting.service in release().weights, setting.option
            assert setting.variable not in release().environment[setting.service], setting.option


def test_each_is_told_completely() -> None:
    for setting in SETTINGS:
        name = setting.option
        assert re.fullmatch(r"[a-z][a-z0-9_]*(\.[a-z][a-z0-9_]*)*", name)
        assert setting.kind in KINDS, name
        assert setting.about and setting.about[0].isupper() and setting.about.strip().endswith((".", ")")), name
        assert not setting.otherwise.endswith("."), "the sentence goes on behind it: " + name
        if setting.variable:
            assert _envfile.name_problem(setting.variable) == "", name
        if setting.service:
            assert setting.variable and setting.default is None, "what is not given is not written: " + name


def test_every_low_has_a_high() -> None:
    for setting in SETTINGS:
        assert (setting.low is None) is (setting.high is None), setting.option
        if setting.low is not None and setting.high is not None:
            assert setting.kind in ("int", "number") and setting.low < setting.high, setting.option
        elif setting.kind in ("int", "number"):
            # Checked by what there is: two versions are no range.
            assert setting.option == "database.version"


def test_a_default_is_of_its_kind_and_among_the_choices() -> None:
    kinds: Dict[str, Any] = {"bool": bool, "int": int, "number": (int, float), "str": str, "list": list, "dict": dict}
    for setting in SETTINGS:
        value = setting.default
        if value is None:
            continue
        if setting.kind in kinds:
            assert isinstance(value, kinds[setting.kind]), setting.option
            assert (setting.kind == "bool") is isinstance(value, bool), setting.option
        if setting.choices:
            assert set(value if isinstance(value, list) else [value]) <= set(setting.choices), setting.option
        assert not setting.secret, "there is no secret that everybody has: " + setting.option


def test_defaults_pass_their_own_checks() -> None:
    assert _values.value_problems(DEFAULTS) == []
    assert _values.option_problems(DEFAULTS, frozenset(release().services)) == []
    assert _values.dependency_problems(DEFAULTS) == []
    assert _values.warnings_of(DEFAULTS) == []


def test_the_defaults_are_those_of_the_table() -> None:
    assert dict(_settings.leaves(DEFAULTS)) == {
        setting.option: setting.default for setting in SETTINGS if setting.default is not None
    }


def test_shapes_are_known_and_every_one_is_used() -> None:
    used = {setting.shape for setting in SETTINGS if setting.shape}
    assert used == set(_values._SHAPES) | {"url", "hook", "link", "origin"}
    for setting in SETTINGS:
        assert not setting.shape or setting.kind in ("str", "list"), setting.option


def test_what_is_out_of_bounds_is_refused_with_the_path() -> None:
    for setting in SETTINGS:
        wrong: List[Any] = []
        if setting.low is not None and setting.high is not None:
            wrong = [setting.low - 1, setting.high + 1]
            for right in (setting.low, setting.high):
                assert problems_with(setting, right) == []
        elif setting.kind == "str":
            wrong = ["a\x00b"]
            wrong += ["nosuch"] if setting.choices else []
            wrong += ["a b", "a\nb", "\u00e9"] if setting.shape else []
        elif setting.kind == "list" and setting.shape:
            wrong = [["a b"], [""], ["a,b"], ["a\n"], ["\u00e9"]]
        for value in wrong:
            found = problems_with(setting, value)
            assert len(found) == 1 and found[0].startswith(setting.option), (setting.option, value, found)
            assert not setting.secret or ascii(value)[1:-1] not in found[0], setting.option


def problems_with(setting: Setting, value: Any) -> List[str]:
    """What is told of one value; a secret is looked at apart from the rest, so that it is never quoted."""
    given: Dict[str, Any] = {}
    _settings.put_at(given, setting.path, value)
    if setting.secret:
        problems = _spec.build({"name": "acme", **given}, Layers({}, {}), release())[1]
        return [problem for problem in problems if problem.startswith(setting.option + ":")]
    return _values.value_problems(given)


@pytest.mark.parametrize(
    ("shape", "good", "bad"),
    [
        ("bucket", ["stub", "my-bucket.1", "A_b"], ["a/b", ".a", "-a", "a b", "../x", "x" * 64]),
        ("duration", ["60s", "1m30s", "24h", "1.5h", "500ms"], ["60", "1d", "-1s", "s", "60 s", "60s\n"]),
        ("host", ["db", "db.example.com", "10.0.0.1"], ["-db", "db-", "db:5432", "a b", "a/b", "db\n"]),
        ("identifier", ["postgres", "_a", "a$1"], ["Postgres", "1a", "a-b", "a b", "a\n", "x" * 64]),
        ("interval", ["30s", "2m", "99999s"], ["0s", "30", "30h", "100000s", "30s\n"]),
        ("path", ["/", "/a/b.c", "/~x-_"], ["a", "/a b", "/a:b", "/a\n", "/$a"]),
        ("tenant", ["acme", "a.b-c_1"], ["a b", "", "a/b", "@a"]),
        ("username", ["supabase", "a.b_c@d-e"], ["a:b", "#a", "a b", "x" * 65, "a\n"]),
        ("url", ["https://x", "http://x:1/y", "http://[::1]:8000"], ["x", "ftp://x", "https://u:p@x", "https://x?y"]),
        ("hook", ["pg-functions://postgres/public/f", "https://x/y", "https://x/y?z=1", "http://localhost:9/x"],
         ["pg-functions://postgres/f", "pg-functions://a/b/c/d", "pg-functions://a/b/c;d", "x", "file:///etc/passwd",
          "http://elsewhere.example/x"]),
        ("link", ["https://x/y", "https://x/y?signature=a%2Fb&c=1"], ["x", "https://x/a b", "https://u:p@x/y", "ftp://x"]),
        ("origin", ["https://x", "http://localhost:3000"], ["https://x/", "https://x/y", "x", "*"]),
        ("schema", ["public", "_a1$"], ["Public", "a-b", "a b", "1a"]),
        ("base64", ["A" * 64, "Ab+/" * 30 + "=="], ["A" * 63, "A" * 64 + "===", "A" * 64 + "\n", "-----BEGIN"]),
        ("hook_secrets", ["v1,whsec_" + "A" * 16, "v1,whsec_{0}|v1a,whsec_{0}".format("b" * 40)],
         ["whsec_" + "A" * 16, "v1,whsec_short", "v1,whsec_" + "A" * 16 + "|"]),
    ],
)  # fmt: skip
def test_shapes(shape: str, good: List[str], bad: List[str]) -> None:
    for value in good:
        assert not _values.shape_problem(shape, value), value
    for value in bad:
        # An empty text is one that is not given.
        assert bool(_values.shape_problem(shape, value)) is bool(value), value


def test_secrets_with_a_variable_are_known_by_it() -> None:
    assert {setting.option for setting in _settings.USER_SECRETS.values()} == {
        setting.option for setting in SETTINGS if setting.secret
    } - {"secrets", "database.password"}
    # Those of the .env are kept there like ours.
    in_env = {name for name, setting in _settings.USER_SECRETS.items() if not setting.service}
    assert in_env == set(_secrets.USER_NAMES)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (True, "true"), (False, "false"), (0, "0"), (16.8, "16.8"), (20.0, "20"), ("a b", "a b"), ([], ""),
        (["a", "b"], "a,b"), (("a",), "a"),
    ],
)  # fmt: skip
def test_values_as_they_are_written(value: Any, text: str) -> None:
    assert _settings.as_text(value) == text


def test_leaves_end_at_options() -> None:
    given = {"smtp": {"host": "h", "port": 5}, "labels": {"a": {"b": "c"}}, "nosuch": {"x": 1}, "size": {"cpus": 1}}
    assert dict(_settings.leaves(given)) == {
        "smtp.host": "h", "smtp.port": 5, "labels": {"a": {"b": "c"}}, "nosuch.x": 1, "size": {"cpus": 1},
    }  # fmt: skip
    assert _settings.value_at(given, ("smtp", "host")) == "h"
    assert _settings.value_at(given, ("smtp", "host", "x")) is None and _settings.value_at({}, ("a", "b")) is None


# The argument spec


def entries(options: Dict[str, Any], path: str = "") -> Iterator[Tuple[str, Dict[str, Any]]]:
    """All entries of an argument spec with their paths, groups too."""
    for name, entry in options.items():
        yield path + name, entry
        yield from entries(entry.get("options", {}), path + name + ".")


TYPES = {"number": "float"}


def test_the_argument_spec_is_what_the_table_says() -> None:
    spec = dict(entries(common_options()))
    options = {path: entry for path, entry in spec.items() if "options" not in entry}
    assert set(options) == set(BY_OPTION)
    for path, entry in options.items():
        setting = BY_OPTION[path]
        assert entry["type"] == TYPES.get(setting.kind, setting.kind), path
        assert tuple(entry.get("choices", ())) == setting.choices, path
        assert entry.get("elements") == ("str" if setting.kind == "list" else None), path
        # One that is not given must stay distinguishable: something may lie under it.
        assert "default" not in entry and "required" not in entry, path
    for path, entry in spec.items():
        if "options" in entry:
            assert entry["type"] == "dict" and "default" not in entry
            assert _settings.group_about(path).endswith("."), path


def test_an_instance_and_a_blueprint_have_the_same_options_and_a_few_of_their_own() -> None:
    common = common_options()
    assert set(instance_options()) - set(common) == {"name", "state", "port_base"}
    assert set(blueprint_options()) - set(common) == {"name"}
    for own in (instance_options(), blueprint_options()):
        assert {name: own[name] for name in common} == common
        assert own["name"]["required"] is True


def test_every_secret_is_marked_and_nothing_else_is() -> None:
    spec = dict(entries(common_options()))
    assert {path for path, entry in spec.items() if entry.get("no_log") is True} == {
        setting.option for setting in SETTINGS if setting.secret
    }


def test_what_ansible_takes_for_a_secret_by_its_name_is_declared_to_be_none() -> None:
    # Its sanity test has these words. It lets names pass that end in _id and the like, and what has choices.
    suspicious = re.compile(r"pass|secret|token|key")
    for path, entry in entries(common_options()):
        name = path.split(".")[-1]
        if entry.get("no_log") is False:
            assert suspicious.search(name), "nothing made anybody ask: " + path
        elif entry.get("no_log") is None and entry["type"] != "bool":
            assert not suspicious.search(name) or name.endswith(("_id", "_sid")) or entry.get("choices"), path


def test_the_argument_spec_takes_what_the_defaults_are() -> None:
    validated = ArgumentSpecValidator(common_options()).validate(DEFAULTS)
    assert validated.error_messages == []
    taken = {
        setting.option: _settings.value_at(validated.validated_parameters, setting.path)
        for setting in SETTINGS
        if setting.default is not None
    }
    assert taken == {option: _settings.value_at(DEFAULTS, BY_OPTION[option].path) for option in taken}
