# SPDX-License-Identifier: GPL-3.0-or-later
"""Scheduled backups: the filter that checks their settings, and the files that the role writes to a host."""

from __future__ import annotations

import base64
import json
import re
from pathlib import Path
from typing import Any, Dict, List, Mapping, Sequence, Tuple

import pytest
import yaml
from ansible.errors import AnsibleFilterError

from ansible_collections.multibase.supabase.plugins.filter.backup_settings import FilterModule, backup_settings
from ansible_collections.multibase.supabase.plugins.module_utils import _backup_job, _backup_state, _schedule, _tool
from ansible_collections.multibase.supabase.plugins.module_utils._layout import Layout
from ansible_collections.multibase.supabase.plugins.module_utils._retention import Policy
from unit.support import PLUGINS, REPOSITORY, expand_for_role

ROLE = REPOSITORY / "roles" / "multibase_backup"
SOURCES = PLUGINS / "module_utils"
ROOT = "/opt/multibase"
EVERYONE: Dict[str, Any] = {
    "schedule": "@daily", "scope": "full", "format": "plain", "level": 0, "verify": True, "timeout": 14400,
    "jitter": 1800, "retention": {"keep_last": 7}, "log": "",
}  # fmt: skip
CANONICAL = {**EVERYONE, "schedule": "0 0 * * *"}


def load(name: str) -> Any:
    """Read a YAML file of the role."""
    return yaml.safe_load((ROLE / name).read_text(encoding="utf-8"))


def expand(directory: Path, found: Mapping[str, str], texts: Sequence[str], **variables: Any) -> List[str]:
    """Have Ansible expand templates of the role, or expressions, in one run. ``found`` is name and state of instances.

    Raises LookupError with what Ansible said when it fails.
    """
    instances = [{"name": name, "state": state} for name, state in found.items()]
    known = {"multibase_instances": [], "__multibase_instances_info": {"instances": instances}, **variables}
    return expand_for_role(directory, ROLE, texts, known)


def problems(*arguments: Any) -> List[str]:
    """What the filter tells, without its first line."""
    with pytest.raises(AnsibleFilterError) as caught:
        backup_settings(*arguments)
    return caught.value.message.splitlines()[1:]


# A reader of crontabs that knows nothing of the code under test.
Line = Tuple[str, str, str]


def read_crontab(text: str) -> Tuple[Dict[str, str], List[Line]]:
    """Return the variables of a system crontab, and of each entry when, who and what."""
    assert text.endswith("\n"), "cron ignores a last line without an end"
    variables: Dict[str, str] = {}
    entries: List[Line] = []
    for line in text.splitlines():
        if not line or line.startswith("#"):
            continue
        assert line == line.strip() and len(line) < 1000
        setting = re.fullmatch(r"([A-Z]+)=(.*)", line)
        if setting:
            variables[setting[1]] = setting[2].strip('"')
            continue
        words = 1 if line.startswith("@") else 5
        parts = line.split(" ", words + 1)
        when = " ".join(parts[:words])
        assert when == "@reboot" or all(re.fullmatch(r"[0-9*,/-]+", part) for part in parts[:words]), line
        entries.append((when, parts[words], parts[words + 1]))
    return variables, entries


# The filter


def test_the_filter_is_found_by_its_name() -> None:
    assert FilterModule().filters() == {"backup_settings": backup_settings}


@pytest.mark.parametrize(
    ("given", "written"),
    [
        ("@hourly", "0 * * * *"), ("@daily", "0 0 * * *"), ("@weekly", "0 0 * * 0"),
        ("0  3 * * MON-fri", "0 3 * * 1-5"), ("*/15 * * * 7", "*/15 * * * 0"), ("", ""), ("none", ""), (None, ""),
    ],
)  # fmt: skip
def test_schedules_are_five_fields_or_none(given: Any, written: str) -> None:
    assert backup_settings(["acme"], {**EVERYONE, "schedule": given})["acme"]["schedule"] == written
    assert backup_settings(["acme"], EVERYONE, {"acme": {"schedule": given}})["acme"]["schedule"] == written


def test_an_instance_overrides_what_it_names_and_nothing_else() -> None:
    own = {"schedule": "0 3 * * *", "retention": {"keep_daily": 2}, "format": "custom", "level": 19, "verify": False}
    told = backup_settings(["beta", "acme", "gamma"], EVERYONE, {"acme": own, "gamma": None})
    assert told == {"acme": {**CANONICAL, **own}, "beta": CANONICAL, "gamma": CANONICAL}
    assert list(told) == ["acme", "beta", "gamma"], "the same order in every run"


def test_what_a_command_line_gives_as_text_is_taken_for_what_it_means() -> None:
    given = {**EVERYONE, "level": "3", "timeout": "60", "jitter": "0", "verify": "false", "retention": {}}
    (told,) = backup_settings(["acme"], given).values()
    assert told == {**CANONICAL, "level": 3, "timeout": 60, "jitter": 0, "verify": False, "retention": {}}


def test_instances_that_are_only_declared_are_known_and_not_returned() -> None:
    assert backup_settings([], EVERYONE, {"acme": {"jitter": 5}}, ["acme"]) == {}
    assert backup_settings([], EVERYONE) == {}


@pytest.mark.parametrize(
    ("setting", "value", "told"),
    [
        ("schedule", "61 * * * *", "the minute '61'"),
        ("schedule", "0 3 * * *\n* * * * * root reboot", "line break"),
        ("schedule", "0 3 * * * %", "% character"),
        ("schedule", False, "no text"),
        ("scope", "half", "none of full, database"),
        ("format", ["plain"], "none of plain, custom"),
        ("level", 23, "from 0 to 22"),
        ("level", 10, "over 9, the highest of format plain"),
        ("level", True, "no whole number"),
        ("timeout", 0, "from 1 to"),
        ("timeout", "1h", "no whole number"),
        ("jitter", -1, "from 0 to 86400"),
        ("verify", "perhaps", "neither true nor false"),
        ("retention", 7, "no dictionary"),
        ("retention", False, "no dictionary"),
        ("retention", {"keep_last": 0}, "keeps nothing"),
        ("retention", {"keep_last": "7"}, "retention.keep_last '7'"),
        ("log", "acme.log", "no absolute path"),
        ("log", "/var/log/a b", "no absolute path"),
        ("log", "/var/log/%Y", "no absolute path"),
        ("log", "/x;reboot", "no absolute path"),
        ("log", "/var/log/x\n", "no absolute path"),
        ("when", "@daily", "no setting 'when'; there are schedule"),
    ],
)
def test_each_mistake_is_told_once_with_whose_it_is(setting: str, value: Any, told: str) -> None:
    for whose, arguments in (
        ("all instances: ", (["acme", "beta"], {**EVERYONE, setting: value}, {"beta": {"jitter": 1}})),
        ("instance acme: ", (["acme", "beta"], EVERYONE, {"acme": {setting: value}})),
    ):
        (problem,) = problems(*arguments)
        assert problem.startswith(whose) and told in problem


def test_all_mistakes_are_told_together() -> None:
    own = {"acme": {"schedule": "@often", "retention": {"keep_lats": 1}}, "nil": {"timeout": -1}, "beta": "@daily"}
    told = problems(["acme", "beta"], {**EVERYONE, "scope": "some"}, own)
    assert [problem.split(": ")[0] for problem in told] == [
        "all instances", "instance acme", "instance acme", "instance acme", "instance beta", "instance nil",
        "instance nil",
    ]  # fmt: skip
    assert "there are acme, beta" in told[5]


def test_shapes_that_are_none() -> None:
    (problem,) = problems(["acme"], EVERYONE, ["acme"])
    assert "no dictionary by name" in problem
    (problem,) = problems(["acme"], {"schedule": "@daily"})
    assert problem == "all instances: no scope, format, level, verify, timeout, jitter, retention, log is set"
    assert "there are none" in problems([], EVERYONE, {"acme": {}})[0]


# The files on a host


OWN: Dict[str, Any] = {
    "acme": {"schedule": "@hourly", "jitter": 60, "timeout": 100, "log": "/var/log/acme.log"},
    "demo": {"schedule": "none"},
}
FLEET = {"acme": "running", "beta": "stopped", "demo": "running", "leftover": "deleting"}


def test_the_crontab_has_one_line_for_each_instance_that_is_backed_up(tmp_path: Path) -> None:
    (text,) = expand(tmp_path, FLEET, ["cron.j2"], multibase_backup_instances=OWN)
    variables, entries = read_crontab(text)
    assert "%" not in text and "flock" not in text
    assert variables["SHELL"] == "/bin/sh" and variables["MAILTO"] == ""
    assert {"/usr/bin", "/usr/sbin", "/bin"} <= set(variables["PATH"].split(":"))
    assert {who for _when, who, _what in entries} == {"root"}
    backups = {}
    for when, _who, what in entries:
        found = re.fullmatch(
            r"timeout --kill-after=300 (\d+) /opt/multibase/bin/multibase-host backup (\S+) --scheduled >>(\S+) 2>&1",
            what,
        )
        if found:
            assert found[2] not in backups
            backups[found[2]] = (when, int(found[1]), found[3])
    assert backups == {
        "acme": ("0 * * * *", 60 + 4 * 100 + 3600, "/var/log/acme.log"),
        "beta": ("0 0 * * *", 1800 + 4 * 14400 + 3600, "/opt/multibase/log/backup-beta.log"),
    }
    others = [(when, what) for when, _who, what in entries if " backup " not in what]
    assert sorted(when for when, _what in others) == ["*/5 * * * *", "47 * * * *", "@reboot"]
    for when, what in others:
        assert "timeout " in what
        assert "multibase-host {0} >".format("metrics" if when == "*/5 * * * *" else "catch-up") in what


def test_a_host_without_instances_gets_good_files_too(tmp_path: Path) -> None:
    crontab, settings = expand(tmp_path, {}, ["cron.j2", "backup-settings.json.j2"])
    assert len(read_crontab(crontab)[1]) == 3
    assert json.loads(settings) == {}


def test_a_verb_schedules_what_is_new_and_leaves_the_rest_alone(tmp_path: Path) -> None:
    """After follow.yml read what the host has: beta as it was, acme as the inventory says."""
    there = {**CANONICAL, "schedule": "5 4 * * *", "log": "/var/log/beta.log"}
    text = base64.b64encode(json.dumps({"beta": there, "gone": CANONICAL, "leftover": CANONICAL}).encode()).decode()
    known = {"__multibase_backup_scheduled": {"content": text}, "__multibase_instances_limit": ["gone"]}
    own = {"acme": {"schedule": "@hourly"}, "beta": {"schedule": "none"}, "gone": {"schedule": "@hourly"}}
    names = ["cron.j2", "backup-settings.json.j2"]
    crontab, settings = expand(tmp_path, FLEET, names, multibase_backup_instances=own, **known)
    told = json.loads(settings)
    assert told["beta"] == there and sorted(told) == ["acme", "beta", "demo"]
    assert told["acme"]["schedule"] == "0 * * * *"
    (beta,) = [what for when, _who, what in read_crontab(crontab)[1] if when == "5 4 * * *"]
    assert " backup beta --scheduled >>/var/log/beta.log" in beta


def test_as_many_lines_as_instances_in_another_root(tmp_path: Path) -> None:
    fleet = {"t{0}".format(number): "running" for number in range(300)}
    (text,) = expand(tmp_path, fleet, ["cron.j2"], multibase_root="/srv/mb")
    assert len(read_crontab(text)[1]) == 300 + 3
    assert ROOT not in text


def test_the_tool_reads_the_settings_that_are_written(tmp_path: Path) -> None:
    retention = {"keep_daily": 3, "max_bytes": 10**9}
    own = {**OWN, "beta": {"scope": "database", "format": "custom", "level": 3, "verify": "no", "retention": retention}}
    layout = Layout(str(tmp_path))
    (tmp_path / "state").mkdir()
    (written,) = expand(tmp_path, FLEET, ["backup-settings.json.j2"], multibase_backup_instances=own)
    (tmp_path / "state" / _backup_state.SETTINGS_FILE).write_text(written)
    keys = {"schedule", "scope", "format", "level", "verify", "timeout", "jitter", "retention", "log"}
    for name in ("acme", "beta", "demo"):
        settings = _backup_job.read_settings(layout, name)
        assert set(settings) == keys
        if settings["schedule"]:
            assert _schedule.parse(settings["schedule"]).expression == settings["schedule"]
        assert isinstance(_backup_state.is_overdue(settings, {}, 0.0, 1e9), bool)
    assert _backup_job.read_settings(layout, "leftover") == {}

    options = _tool.options_of(_backup_job.read_settings(layout, "beta"), 9.0)
    assert (options.scope, options.format, options.level, options.verify, options.timeout, options.lock_timeout) == (
        "database", "custom", 3, False, 14400, 9.0,
    )  # fmt: skip
    assert _tool.policy_of(_backup_job.read_settings(layout, "beta")) == Policy(**retention)
    default = load("defaults/main.yml")["multibase_backup_retention"]
    assert _tool.policy_of(_backup_job.read_settings(layout, "acme")) == Policy(**default)
    assert _tool.options_of(_backup_job.read_settings(layout, "acme"), 9.0).timeout == 100


def test_an_instance_that_is_only_declared_may_have_settings(tmp_path: Path) -> None:
    variables: Dict[str, Any] = {"multibase_backup_instances": {"zed": {"jitter": 1}}}
    with pytest.raises(LookupError, match="instance zed: there is none of this name on the host; there are acme"):
        expand(tmp_path, {"acme": "running"}, ["cron.j2"], **variables)
    declared = [{"size": "small"}, {"name": "zed"}]
    (text,) = expand(tmp_path, {"acme": "running"}, ["cron.j2"], **variables, multibase_instances=declared)
    assert "backup acme" in text and "zed" not in text


def test_everything_is_checked_before_anything_is_written() -> None:
    steps = [task["ansible.builtin.import_tasks"] for task in load("tasks/main.yml")]
    assert steps == ["preflight.yml", "packages.yml", "schedule.yml"]
    first, *checks = load("tasks/preflight.yml")
    role = {"name": "multibase_instances", "tasks_from": "read.yml", "public": True}
    assert first["ansible.builtin.include_role"] == role
    assert [key for check in checks for key in check if "." in key] == [
        "ansible.builtin.assert",
        "multibase.supabase.look",
        "ansible.builtin.assert",
    ]
    # What cron would call is there, but for a new host in check mode.
    there = "__multibase_backup_seen.said.tool.rc == 0 or ansible_check_mode"
    assert checks[-1]["ansible.builtin.assert"]["that"] == there


@pytest.mark.parametrize(
    ("there", "installed", "new"), [(True, "installed cron", False), (True, "", True), (False, "installed cron", True)]
)
def test_check_mode_skips_what_a_new_host_cannot_compare(
    tmp_path: Path, there: bool, installed: str, new: bool
) -> None:
    said = {"tool": {"rc": 0 if there else 1}, "packages": {"stdout_lines": installed.splitlines()}}
    (told,) = expand(
        tmp_path, {}, ["{{ __multibase_backup_new | to_json }}"], __multibase_backup_seen={"said": said}
    )
    assert json.loads(told) is new
    for task in load("tasks/schedule.yml"):
        assert task["when"] == "not (ansible_check_mode and __multibase_backup_new)"
