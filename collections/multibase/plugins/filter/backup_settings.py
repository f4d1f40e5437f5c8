# Copyright: Multibase contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
name: backup_settings
short_description: Settings of the scheduled backups of instances
version_added: 0.1.0
description:
  - Lays the settings of each instance over those of all, checks them and brings them into the form in which the tool of
    a host reads them.
  - All mistakes are told together, and nothing is returned then.
author:
  - Multibase contributors (@multibase)
positional: _input, defaults, per_instance, declared
options:
  _input:
    description: Names of the instances that a host has.
    type: list
    elements: str
    required: true
  defaults:
    description:
      - The settings of all instances. All of C(schedule), C(scope), C(format), C(level), C(verify), C(timeout),
        C(jitter), C(retention) and C(log) are needed.
    type: dict
    required: true
  per_instance:
    description:
      - By name of an instance, the settings that it has instead. C(retention) is replaced as a whole.
      - A name that is neither in O(_input) nor in O(declared) is a mistake.
    type: dict
    default: {}
  declared:
    description:
      - Names that O(per_instance) may hold too, of instances that the host does not have yet. They are not returned.
    type: list
    elements: str
    default: []
"""

EXAMPLES = r"""
- name: Show when acme is backed up
  ansible.builtin.debug:
    msg: "{{ (['acme', 'beta'] | multibase.supabase.backup_settings(everyone, own)).acme.schedule }}"
  vars:
    own:
      acme: {schedule: "@hourly"}
    everyone:
      schedule: "@daily"
      scope: full
      format: plain
      level: 0
      verify: true
      timeout: 14400
      jitter: 1800
      retention: {keep_last: 7}
      log: ""
"""

RETURN = r"""
_value:
  description:
    - By name of an instance, its settings. C(schedule) is a cron expression of five fields, always the same for the
      same meaning, or empty for none.
  type: dict
  sample:
    acme:
      schedule: 0 * * * *
      scope: full
      format: plain
      level: 0
      verify: true
      timeout: 14400
      jitter: 1800
      retention: {keep_last: 7}
      log: ""
"""

import re
from typing import Any, Callable, Dict, List, Mapping, Sequence, Tuple

from ansible.errors import AnsibleFilterError
from ansible.module_utils.parsing.convert_bool import boolean

from ansible_collections.multibase.supabase.plugins.module_utils import _retention, _schedule
from ansible_collections.multibase.supabase.plugins.module_utils._errors import InvalidInput

# gzip's levels, and those of zstd that pg_dump takes; 0 is the default of either.
_HIGHEST_LEVEL = {"plain": 9, "custom": 22}
_WEEK = 7 * 86400
_DAY = 86400
# Goes into a crontab unquoted: nothing that cron or its shell reads as anything else.
_SAFE_PATH = re.compile(r"/[A-Za-z0-9._/+-]*[A-Za-z0-9._+-]\Z")

# What a reader returns: the value, and a sentence for each mistake.
Read = Tuple[Any, List[str]]


def _read_schedule(value: Any) -> Read:
    if value is None or value in ("", "none"):
        return "", []
    try:
        return _schedule.parse(value).expression, []
    except InvalidInput as error:
        return "", error.problems


def _read_retention(value: Any) -> Read:
    if not value and not isinstance(value, (bool, int, float)):
        return {}, []
    if not isinstance(value, Mapping):
        return {}, ["retention {0!r} is no dictionary; for example {{'keep_last': 7}}".format(value)]
    return dict(value), _retention.policy_problems(value)


def _read_verify(value: Any) -> Read:
    try:
        return boolean(value), []
    except TypeError:
        return True, ["verify {0!r} is neither true nor false".format(value)]


def _read_log(value: Any) -> Read:
    if value is None or value == "":
        return "", []
    if not isinstance(value, str) or not _SAFE_PATH.match(value):
        return "", ["log {0!r} is no absolute path of letters, digits and . _ + - /".format(value)]
    return str(value), []


def _choice(key: str, *choices: str) -> Callable[[Any], Read]:
    def read(value: Any) -> Read:
        if isinstance(value, str) and value in choices:
            return str(value), []
        return choices[0], ["{0} {1!r} is none of {2}".format(key, value, ", ".join(choices))]

    return read


def _whole(key: str, low: int, high: int) -> Callable[[Any], Read]:
    def read(value: Any) -> Read:
        # Text, because that is what -e and a survey give.
        if isinstance(value, str) and re.match(r"[0-9]{1,9}\Z", value):
            value = int(value)
        if isinstance(value, int) and not isinstance(value, bool) and low <= value <= high:
            return int(value), []
        return low, ["{0} {1!r} is no whole number from {2} to {3}".format(key, value, low, high)]

    return read


_READERS: Dict[str, Callable[[Any], Read]] = {
    "schedule": _read_schedule,
    "scope": _choice("scope", "full", "database"),
    "format": _choice("format", "plain", "custom"),
    "level": _whole("level", 0, max(_HIGHEST_LEVEL.values())),
    "verify": _read_verify,
    "timeout": _whole("timeout", 1, _WEEK),
    "jitter": _whole("jitter", 0, _DAY),
    "retention": _read_retention,
    "log": _read_log,
}


def _read(given: Any, whose: str, problems: List[str]) -> Dict[str, Any]:
    """Return the settings in ``given`` as they are meant; what is wrong with them is added to ``problems``."""
    if not isinstance(given, Mapping):
        problems.append("{0}: {1!r} is no dictionary of settings".format(whose, given))
        return {}
    settings: Dict[str, Any] = {}
    for key in given:
        if key not in _READERS:
            problems.append("{0}: there is no setting {1!r}; there are {2}".format(whose, key, ", ".join(_READERS)))
            continue
        settings[str(key)], wrong = _READERS[key](given[key])
        problems += ["{0}: {1}".format(whose, problem) for problem in wrong]
    return settings


def _level_problems(settings: Mapping[str, Any], whose: str) -> List[str]:
    """Say so when the level is one that the format does not have."""
    highest = _HIGHEST_LEVEL[settings["format"]]
    if settings["level"] <= highest:
        return []
    return ["{0}: level {1} is over {2}, the highest of format {3}".format(
        whose, settings["level"], highest, settings["format"]
    )]  # fmt: skip


def backup_settings(
    names: Sequence[str], defaults: Mapping[str, Any], per_instance: Any = None, declared: Sequence[str] = ()
) -> Dict[str, Dict[str, Any]]:
    """Return the checked settings of each instance. Raises AnsibleFilterError with every mistake."""
    problems: List[str] = []
    everyone = _read(defaults, "all instances", problems)
    missing = [key for key in _READERS if key not in everyone]
    if missing:
        problems.append("all instances: no {0} is set".format(", ".join(missing)))
    own: Mapping[str, Any] = {} if per_instance is None else per_instance
    if not isinstance(own, Mapping):
        problems.append("settings of single instances: {0!r} is no dictionary by name".format(own))
        own = {}
    known = sorted({*names, *declared})
    overrides: Dict[str, Dict[str, Any]] = {}
    for name in sorted(own, key=str):
        whose = "instance {0}".format(name)
        if name not in known:
            problems.append(
                "{0}: there is none of this name on the host; there are {1}".format(whose, ", ".join(known) or "none")
            )
        overrides[name] = _read({} if own[name] is None else own[name], whose, problems)
    if not missing:
        wrong = _level_problems(everyone, "all instances")
        problems += wrong
        for name in sorted(overrides):
            # Said once where it is of all.
            if not wrong or {"level", "format"} & set(overrides[name]):
                problems += _level_problems({**everyone, **overrides[name]}, "instance {0}".format(name))
    if problems:
        raise AnsibleFilterError("The settings of backups are wrong:\n" + "\n".join(problems))
    return {str(name): {**everyone, **overrides.get(name, {})} for name in sorted(names)}


class FilterModule:
    """What Ansible looks for in this file."""

    def filters(self) -> Dict[str, Callable[..., Any]]:
        """Return the filters by name."""
        return {"backup_settings": backup_settings}
