# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import os
from collections.abc import Mapping

import yaml
from ansible.errors import AnsibleActionFail
from ansible.module_utils.common.arg_spec import ArgumentSpecValidator
from ansible.plugins.action import ActionBase

from ansible_collections.multibase.supabase.plugins.module_utils._options import common_options, instance_options
from ansible_collections.multibase.supabase.plugins.module_utils._release import DEFINITION_FILE
from ansible_collections.multibase.supabase.plugins.module_utils._spec import DEFAULT_RELEASE

# Only what can be part of a release is sent to hosts; editors' backups and the like stay here.
_SUFFIXES = (".yml", ".sql", ".exs", ".ts", ".json", ".jsonc")


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


def option_problems(instances: object, defaults: object) -> list[str]:
    """Check all instances and the defaults against the argument spec; the module would stop at the first error."""
    problems = []
    if not isinstance(instances, list):
        return ["instances must be a list of dictionaries, each with a name"]
    validator = ArgumentSpecValidator(instance_options())
    for position, item in enumerate(instances, start=1):
        if not isinstance(item, Mapping):
            problems.append(f"instance number {position}: a dictionary with a name is needed, not {item!r:.60}")
            continue
        label = f"instance {item['name']}" if item.get("name") else f"instance number {position}"
        problems += [f"{label}: {message}" for message in validator.validate(dict(item)).error_messages]
    if isinstance(defaults, Mapping):
        messages = ArgumentSpecValidator(common_options()).validate(dict(defaults)).error_messages
        problems += [f"defaults: {message}" for message in messages]
    return problems


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
        problems = option_problems(arguments.get("instances"), arguments.get("defaults"))
        if problems:
            return {"failed": True, "msg": "\n".join(problems), "problems": problems}
        arguments["bundles"] = self._bundles(os.path.expanduser(str(template_root)), arguments)
        result = self._execute_module(module_args=arguments, task_vars=task_vars)
        result.pop("invocation", None)
        return result

    def _bundles(self, template_root: str, arguments: dict) -> dict:
        """Return the releases that are asked for; for those that do not exist, the module says so with the rest."""
        wanted = {str(item.get("release") or "") for item in arguments["instances"]}
        wanted.add(str((arguments.get("defaults") or {}).get("release") or ""))
        wanted = {name or DEFAULT_RELEASE for name in wanted}
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
