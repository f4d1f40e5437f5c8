# SPDX-License-Identifier: GPL-3.0-or-later
"""Documentation that is made from the table of options: as Ansible shows it, and the page of options."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any, Dict, Iterator, Tuple

import pytest
import yaml

from ansible_collections.multibase.supabase.plugins.doc_fragments import instance_options as fragment
from ansible_collections.multibase.supabase.plugins.module_utils._options import (
    blueprint_options,
    common_options,
    instance_options,
)
from ansible_collections.multibase.supabase.plugins.module_utils._settings import (
    BY_OPTION,
    GROUPS,
    HOOKS,
    OAUTH_PROVIDERS,
    SETTINGS,
    group_about,
)
from unit.support import REPOSITORY

PAGE = REPOSITORY / "docs" / "options.md"
GENERATOR = REPOSITORY / "docs" / "generate_options.py"
SPECS = {"instances": instance_options(), "defaults": common_options(), "blueprints": blueprint_options()}


def generator(*arguments: str, script: Path = GENERATOR) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, str(script), *arguments], capture_output=True, text=True, check=False)


# As Ansible shows it


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory) -> Dict[str, Any]:
    """The options of the module ``instance`` as ``ansible-doc`` prints them."""
    environment = {
        **os.environ,
        "ANSIBLE_CONFIG": str(REPOSITORY / "ansible.cfg"),
        "ANSIBLE_CALLBACK_PLUGINS": "/nonexistent",
        "ANSIBLE_HOME": str(tmp_path_factory.mktemp("ansible")),
    }
    command = [str(Path(sys.executable).with_name("ansible-doc")), "--json", "multibase.supabase.instance"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment, cwd=REPOSITORY)
    options = json.loads(done.stdout)["multibase.supabase.instance"]["doc"]["options"]
    assert isinstance(options, dict)
    return options


def flat(options: Dict[str, Any], key: str, path: str = "") -> Iterator[Tuple[str, Dict[str, Any]]]:
    """All options with their paths; ``key`` is what nested ones are under."""
    for name, entry in options.items():
        yield path + name, entry
        yield from flat(entry.get(key) or {}, key, path + name + ".")


@pytest.mark.parametrize("place", sorted(SPECS))
def test_ansible_doc_shows_every_option_as_the_argument_spec_has_it(shown: Dict[str, Any], place: str) -> None:
    told = dict(flat(shown[place]["suboptions"], "suboptions"))
    spec = dict(flat(SPECS[place], "options"))
    assert set(told) == set(spec)
    for path, entry in spec.items():
        for key in ("type", "elements", "choices", "default"):
            assert told[path].get(key) == entry.get(key), (path, key)
        assert bool(told[path].get("required")) is bool(entry.get("required")), path
        assert all(sentence.strip() for sentence in told[path]["description"]), path


def test_ansible_doc_says_what_holds_when_an_option_is_not_given(shown: Dict[str, Any]) -> None:
    told = dict(flat(shown["defaults"]["suboptions"], "suboptions"))
    for setting in SETTINGS:
        description = told[setting.option]["description"]
        assert description[0] == setting.about, setting.option
        if setting.otherwise:
            assert setting.otherwise[1:] in description[1] and description[1].endswith("when not given.")
        elif setting.default not in (None, "", [], {}):
            value = setting.default
            text = (
                json.dumps(value) if isinstance(value, bool) else ", ".join(value) if isinstance(value, list) else value
            )
            assert str(text) in description[1], setting.option
        else:
            assert len(description) == 1, setting.option


def test_the_fragment_is_plain_yaml() -> None:
    assert set(yaml.safe_load(fragment.ModuleDocFragment.DOCUMENTATION)["options"]) == set(SPECS)


OWN = {
    "template_root",
    "bundles",
    "keep_unmentioned",
    "port_range",
    "subnet_pool",
    "confirmed",
    "defaults",
    "blueprints",
}


def test_what_a_text_refers_to_is_there() -> None:
    texts = {setting.option: "{0} {1}".format(setting.about, setting.otherwise) for setting in SETTINGS}
    texts.update(GROUPS)
    for path, text in texts.items():
        assert len(re.findall(r"[OVCIBMURLE]\(", text)) == len(re.findall(r"\b[OVC]\(", text)), path
        for name in re.findall(r"O\(([^)]*)\)", text):
            option, _equals, value = name.partition("=")
            if option.startswith("instances[]."):
                known = BY_OPTION[option[len("instances[].") :]]
                assert not value or value in known.choices, (path, name)
            else:
                assert option in OWN, (path, name)


def test_every_group_has_a_text_and_no_text_is_of_none() -> None:
    groups = {".".join(setting.path[:depth]) for setting in SETTINGS for depth in range(1, len(setting.path))}
    made = {
        kind + "." + name
        for kind, names in (("auth.providers", OAUTH_PROVIDERS), ("auth.hooks", HOOKS))
        for name in names
    }
    assert groups == set(GROUPS) | made
    for group in made:
        assert "C({0})".format(group.rsplit(".", 1)[1]) in group_about(group)


# The page of options


def test_the_page_of_options_is_up_to_date() -> None:
    done = generator("--check")
    assert done.returncode == 0, done.stdout


def test_a_page_that_is_out_of_date_is_told(tmp_path: Path) -> None:
    (tmp_path / "docs").mkdir()
    (tmp_path / "collections").symlink_to(REPOSITORY / "collections")
    copy = tmp_path / "docs" / "generate_options.py"
    copy.write_text(GENERATOR.read_text(encoding="utf-8"), encoding="utf-8")
    assert generator(script=copy).returncode == 0
    page = tmp_path / "docs" / "options.md"
    assert page.read_text(encoding="utf-8") == PAGE.read_text(encoding="utf-8")
    page.write_text(page.read_text(encoding="utf-8").replace("| `release` |", "| `releases` |"), encoding="utf-8")
    changed = page.read_bytes()
    done = generator("--check", script=copy)
    assert done.returncode == 1 and "out of date" in done.stdout
    assert page.read_bytes() == changed, "a check changes nothing"


def rows() -> Dict[str, Dict[str, str]]:
    """The options on the page, by path: type, default, text and target of each."""
    found: Dict[str, Dict[str, str]] = {}
    group = ""
    for line in PAGE.read_text(encoding="utf-8").splitlines():
        heading = re.fullmatch(r"## (?:`(.+)`|General)", line)
        if heading:
            group = heading.group(1) + "." if heading.group(1) else ""
        cells = [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
        if len(cells) == 5 and cells[0].startswith("`"):
            path = group + cells[0].strip("`")
            assert path not in found, path
            found[path] = dict(zip(("type", "default", "text", "target"), cells[1:]))
    return found


def test_every_option_is_on_the_page_with_where_it_ends() -> None:
    found = rows()
    general = {}
    for setting in SETTINGS:
        path, target = setting.option, setting.variable
        for kind, names in (("auth.providers", OAUTH_PROVIDERS), ("auth.hooks", HOOKS)):
            if path.startswith(kind + "."):
                # One row for all of a kind.
                member = path.split(".")[2]
                assert member in names
                path, target = path.replace(member, "NAME", 1), target.replace("_" + member.upper() + "_", "_NAME_", 1)
        expected = "`{0}`".format(": ".join(part for part in (setting.service, target) if part)) if target else ""
        assert found[path]["target"] == expected, path
        assert ("**Secret.**" in found[path]["text"]) is setting.secret, path
        if setting.choices:
            assert all("`{0}`".format(choice) in found[path]["type"] for choice in setting.choices), path
        if setting.low is not None:
            assert "{0} to {1}".format(setting.low, setting.high) in found[path]["type"], path
        general[path] = True
    assert set(found) == set(general)


def test_no_markup_of_ansible_is_left_on_the_page() -> None:
    assert not re.search(r"(?<![A-Za-z])[OVCIBMURLE]\(", PAGE.read_text(encoding="utf-8"))


def test_every_provider_hook_and_known_secret_is_named_on_the_page() -> None:
    text = PAGE.read_text(encoding="utf-8")
    for name in (*OAUTH_PROVIDERS, *HOOKS):
        assert "`{0}`".format(name) in text, name
    for setting in SETTINGS:
        if setting.secret and setting.variable and not setting.service:
            assert text.count("`{0}`".format(setting.variable)) >= 2, setting.variable
