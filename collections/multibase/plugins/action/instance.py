# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import os
from collections.abc import Mapping

import yaml
from ansible.errors import AnsibleActionFail
from ansible.module_utils.common.arg_spec import ArgumentSpecValidator
from ansible.module_utils.errors import UnsupportedError
from ansible.plugins.action import ActionBase

from ansible_collections.multibase.supabase.plugins.module_utils._errors import MultibaseError
from ansible_collections.multibase.supabase.plugins.module_utils._options import common_options, instance_options
from ansible_collections.multibase.supabase.plugins.module_utils._ports import DEFAULT_RANGE, parse_port_range
from ansible_collections.multibase.supabase.plugins.module_utils._release import (
    DEFINITION_FILE,
    release_from_bundle,
)
from ansible_collections.multibase.supabase.plugins.module_utils._spec import (
    DEFAULT_RELEASE,
    declaration_problems,
    name_problems,
    without_unset,
)
from ansible_collections.multibase.supabase.plugins.module_utils._subnets import DEFAULT_POOL, parse_pool

# Only what can be part of a release is sent to hosts; editors' backups and the like stay here.
_SUFFIXES = (".yml", ".sql", ".exs", ".ts", ".json", ".jsonc")
_RANGES = (
    (parse_port_range, "port_range", DEFAULT_RANGE),
    (parse_pool, "subnet_pool", DEFAULT_POOL),
)


def read_release(directory: str) -> dict:
    """Return a release as the module takes it: the data of its definition, and the texts of its files by path."""
    with open(os.path.join(directory, DEFINITION_FILE), encoding="utf-8") as stream:
        definition = yaml.safe_load(stream)
    files = {}
    for parent, directories, names in os.walk(directory):
        directories.sort()
        for name in sorted(names):
            path = os.path.join(parent, name)
            relative = os.path.relpath(path, directory)
            if relative != DEFINITION_FILE and name.endswith(_SUFFIXES):
                with open(path, encoding="utf-8") as stream:
                    files[relative] = stream.read()
    return {"definition": definition, "files": files}


def _messages(validator: ArgumentSpecValidator, options: Mapping) -> tuple[dict, list[str]]:
    """Return the options with their types put right, and what is wrong with them, one sentence each."""
    result = validator.validate(dict(options))
    messages = [error.msg for error in result.errors if not isinstance(error, UnsupportedError)]
    mistyped = bool(messages)
    for name in sorted(result.unsupported_parameters, key=str):
        *groups, option = name if isinstance(name, tuple) else (name,)
        known = validator.argument_spec
        for group in groups:
            known = known[group]["options"]
        where = f" in {'.'.join(groups)}" if groups else ""
        messages.append(f"unknown option {option}{where}; there are {', '.join(sorted(known))}")
    return {} if mistyped else result.validated_parameters, messages


def check_options(instances: object, defaults: object) -> tuple[list[dict], dict, list[str]]:
    """Check all instances and the defaults against the argument spec; the module would stop at the first error.

    Returns the instances and defaults with their types put right, and all problems.
    """
    if not isinstance(instances, list):
        return [], {}, ["instances must be a list of dictionaries, each with a name"]
    problems = []
    items = []
    validator = ArgumentSpecValidator(instance_options())
    for position, item in enumerate(instances, start=1):
        if not isinstance(item, Mapping):
            found = type(item).__name__
            problems.append(f"instance number {position}: a dictionary with a name is needed, not a {found}")
            continue
        label = f"instance {item['name']}" if item.get("name") else f"instance number {position}"
        typed, messages = _messages(validator, item)
        problems += [f"{label}: {message}" for message in messages]
        # What is of the wrong type cannot be looked at any further; its name still counts.
        items.append(typed or {"name": item.get("name"), "state": "present"})
    typed_defaults: dict = {}
    if isinstance(defaults, Mapping):
        typed_defaults, messages = _messages(ArgumentSpecValidator(common_options()), defaults)
        problems += [f"defaults: {message}" for message in messages]
    elif defaults is not None:
        problems.append(f"defaults must be a dictionary of options, not a {type(defaults).__name__}")
    return items, typed_defaults, problems


class ActionModule(ActionBase):
    """Reads the releases that the instances ask for on the controller and runs the module once with all of them."""

    _supports_check_mode = True
    _supports_async = False
    _requires_connection = True

    def run(self, tmp=None, task_vars=None):
        """Run the module. The result never holds ``invocation``: it would repeat everything that was declared."""
        super().run(tmp, task_vars)
        arguments = dict(self._task.args)
        template_root = arguments.get("template_root")
        if not template_root:
            raise AnsibleActionFail("template_root is needed: the directory that holds the releases")
        items, defaults, problems = check_options(arguments.get("instances"), arguments.get("defaults"))
        bundles = self._bundles(os.path.expanduser(str(template_root)), items, defaults, arguments)
        problems += self._declaration_problems(items, defaults, bundles, arguments) if items else []
        for parse, option, fallback in _RANGES:
            try:
                parse(str(arguments.get(option, fallback)))
            except MultibaseError as error:
                problems.append(str(error))
        if problems:
            problems = list(dict.fromkeys(problems))
            return {"failed": True, "msg": "\n".join(problems), "problems": problems, "results": []}
        arguments["bundles"] = bundles
        result = self._execute_module(module_args=arguments, task_vars=task_vars)
        result.pop("invocation", None)
        return result

    @staticmethod
    def _declaration_problems(items: list, defaults: dict, bundles: dict, arguments: dict) -> list[str]:
        """Return what the module itself would say, so that it is said together with mistakes of spelling and type.

        Where recorded options lie under those that are given, only the host knows what they amount to.
        """
        if arguments.get("keep_unmentioned"):
            return name_problems([item.get("name") for item in items])
        try:
            releases = {name: release_from_bundle(name, bundle) for name, bundle in bundles.items()}
            confirmed = arguments.get("confirmed") or []
            given = [without_unset(item) for item in items]
            return declaration_problems(given, without_unset(defaults), releases, confirmed)
        except MultibaseError as error:
            return [str(error)]
        except (TypeError, ValueError, AttributeError):
            # An option of the wrong type, which is among the problems already, or templated on the host only.
            return []

    def _bundles(self, template_root: str, items: list, defaults: dict, arguments: dict) -> dict:
        """Return the releases that are asked for; for those that do not exist, the module says so with the rest."""
        wanted = {str(options.get("release") or "") or DEFAULT_RELEASE for options in [*items, defaults]}
        if arguments.get("keep_unmentioned"):
            wanted |= set(os.listdir(template_root)) if os.path.isdir(template_root) else set()
        try:
            there = {name for name in os.listdir(template_root) if _is_release(os.path.join(template_root, name))}
            return {name: read_release(os.path.join(template_root, name)) for name in sorted(wanted & there)}
        except OSError as error:
            raise AnsibleActionFail(f"template_root: {error.filename}: {error.strerror}") from error
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            raise AnsibleActionFail(f"template_root {template_root}: {error}") from error


def _is_release(directory: str) -> bool:
    return os.path.isfile(os.path.join(directory, DEFINITION_FILE))
