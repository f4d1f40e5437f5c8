# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import os
from collections.abc import Mapping

import yaml
from ansible.errors import AnsibleActionFail, AnsibleError
from ansible.module_utils.common.arg_spec import ArgumentSpecValidator
from ansible.module_utils.errors import UnsupportedError
from ansible.plugins.action import ActionBase

from ansible_collections.multibase.supabase.plugins.module_utils._errors import MultibaseError
from ansible_collections.multibase.supabase.plugins.module_utils._host_secrets import HOST_PREFIX
from ansible_collections.multibase.supabase.plugins.module_utils._options import common_options, instance_options
from ansible_collections.multibase.supabase.plugins.module_utils._ports import DEFAULT_RANGE, parse_port_range
from ansible_collections.multibase.supabase.plugins.module_utils._release import (
    DEFINITION_FILE,
    release_from_bundle,
)
from ansible_collections.multibase.supabase.plugins.module_utils._settings import DEFAULT_RELEASE
from ansible_collections.multibase.supabase.plugins.module_utils._spec import (
    Layers,
    declaration_problems,
    merge,
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
        definition = yaml.load(stream, Loader=_SafeLoader)  # noqa: S506 - one of PyYAML's safe loaders
    files = {}
    for parent, directories, names in os.walk(directory):
        directories.sort()
        for name in sorted(names):
            path = os.path.join(parent, name)
            relative = os.path.relpath(path, directory)
            if relative != DEFINITION_FILE and name.endswith(_SUFFIXES):
                with open(path, encoding="utf-8") as stream:
                    files[relative] = stream.read()
    return {"definition": definition, "files": files, "environment": set_variables(files)}


# libyaml's where PyYAML was built with it: ten times faster, and all Compose files are read in every run.
_SafeLoader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class _ComposeLoader(_SafeLoader):
    """Reads Compose files, whose tags !override and !reset mean nothing here."""


_ComposeLoader.add_multi_constructor("!", lambda loader, _suffix, node: _untagged(loader, node))


def _untagged(loader: _ComposeLoader, node: yaml.Node) -> object:
    if isinstance(node, yaml.MappingNode):
        return loader.construct_mapping(node, deep=True)
    if isinstance(node, yaml.SequenceNode):
        return loader.construct_sequence(node, deep=True)
    return loader.construct_scalar(node)


def set_variables(files: dict) -> dict:
    """Return the names of the variables that the Compose files of a release set, by service.

    A variable of the user with such a name would have no effect: what a Compose file sets goes before env files.
    """
    names: dict = {}
    for path, text in files.items():
        if os.path.dirname(path) not in ("", "overlays") or not path.endswith(".yml"):
            continue
        content = yaml.load(text, Loader=_ComposeLoader) or {}  # noqa: S506 - one of PyYAML's safe loaders
        for service, definition in content.get("services", {}).items():
            if definition:
                names.setdefault(service, set()).update(definition.get("environment") or {})
    return {service: sorted(found) for service, found in sorted(names.items())}


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


def check_options(instances: object, defaults: object, blueprints: list) -> tuple[list, dict, dict, list]:
    """Check all options against the argument spec; the module would stop at the first error.

    Returns the instances, the defaults and the blueprints with their types put right, and all problems.
    """
    if not isinstance(instances, list):
        return [], {}, {}, ["instances must be a list of dictionaries, each with a name"]
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
    common = ArgumentSpecValidator(common_options())
    typed_defaults, messages = _layer(common, "defaults", defaults)
    problems += messages
    typed_blueprints = {}
    for entry in blueprints:
        name = entry["name"]
        options = {key: value for key, value in entry.items() if key != "name"}
        typed_blueprints[name], messages = _layer(common, f"blueprint {name}", options)
        problems += messages
    return items, typed_defaults, typed_blueprints, problems


def as_list(blueprints: object) -> tuple[list[dict], list[str]]:
    """Return blueprints as the module takes them, whether they came as a list or as a dictionary, and what is wrong."""
    if isinstance(blueprints, Mapping):
        blueprints = [
            {**options, "name": name} if isinstance(options, Mapping) else options
            for name, options in blueprints.items()
        ]
    if not isinstance(blueprints or [], list):
        return [], [f"blueprints must be a dictionary of names and options, not a {type(blueprints).__name__}"]
    fit = [dict(entry) for entry in blueprints or [] if isinstance(entry, Mapping) and entry.get("name")]
    problems = [] if len(fit) == len(blueprints or []) else ["blueprints: each needs a name and options"]
    names = [entry["name"] for entry in fit]
    problems += [f"blueprint {name}: declared twice" for name in sorted({*names}) if names.count(name) > 1]
    return fit, problems


def _layer(validator: ArgumentSpecValidator, label: str, options: object) -> tuple[dict, list[str]]:
    """Check options that lie under those of instances."""
    if options is None:
        return {}, []
    if not isinstance(options, Mapping):
        return {}, [f"{label} must be a dictionary of options, not a {type(options).__name__}"]
    typed, messages = _messages(validator, options)
    return typed, [f"{label}: {message}" for message in messages]


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
        blueprints, problems = as_list(arguments.get("blueprints"))
        instances, defaults, blueprints, messages = self._with_secrets({**arguments, "blueprints": blueprints})
        problems += messages
        items, typed_defaults, typed_blueprints, messages = check_options(instances, defaults, blueprints)
        problems += messages
        layers = [typed_defaults, *typed_blueprints.values()]
        bundles = self._bundles(os.path.expanduser(str(template_root)), items, layers, arguments)
        if items:
            under = Layers(without_unset(typed_defaults), {k: without_unset(v) for k, v in typed_blueprints.items()})
            problems += self._declaration_problems(items, under, bundles, arguments)
        for parse, option, fallback in _RANGES:
            try:
                parse(str(arguments.get(option, fallback)))
            except MultibaseError as error:
                problems.append(str(error))
        if problems:
            problems = list(dict.fromkeys(problems))
            return {"failed": True, "msg": "\n".join(problems), "problems": problems, "results": []}
        arguments.update(instances=instances, defaults=defaults or {}, blueprints=blueprints, bundles=bundles)
        result = self._execute_module(module_args=arguments, task_vars=task_vars)
        result.pop("invocation", None)
        return result

    @staticmethod
    def _declaration_problems(items: list, layers: Layers, bundles: dict, arguments: dict) -> list[str]:
        """Return what the module itself would say, so that it is said together with mistakes of spelling and type.

        Where recorded options lie under those that are given, only the host knows what they amount to.
        """
        if arguments.get("keep_unmentioned"):
            return name_problems([item.get("name") for item in items])
        try:
            releases = {name: release_from_bundle(name, bundle) for name, bundle in bundles.items()}
            confirmed = arguments.get("confirmed") or []
            given = [without_unset(item) for item in items]
            return declaration_problems(given, layers, releases, confirmed)
        except MultibaseError as error:
            return [str(error)]
        except (TypeError, ValueError, AttributeError):
            # An option of the wrong type, which is among the problems already, or templated on the host only.
            return []

    def _with_secrets(self, arguments: dict) -> tuple[object, object, list, list[str]]:
        """Return instances, defaults and blueprints with what their ``secrets_from`` names on the controller."""
        problems: list[str] = []

        def filled(label: str, options: object) -> object:
            source = options.get("secrets_from") if isinstance(options, Mapping) else None
            if not isinstance(source, str) or not source or source.startswith(HOST_PREFIX):
                return options
            try:
                found = self._read_secrets(source)
            except (AnsibleError, OSError) as error:
                problems.append(f"{label}: secrets_from {source}: {getattr(error, 'strerror', None) or error}")
                return options
            if not isinstance(found, Mapping):
                problems.append(f"{label}: secrets_from {source}: it must hold names and values")
                return options
            given = options.get("secrets")
            return {**options, "secrets": merge(found, given if isinstance(given, Mapping) else {})}

        instances, defaults, blueprints = (arguments.get(key) for key in ("instances", "defaults", "blueprints"))
        if isinstance(instances, list):
            instances = [
                filled(f"instance {item.get('name')}" if isinstance(item, Mapping) else "instance", item)
                for item in instances
            ]
        blueprints = [filled(f"blueprint {entry['name']}", entry) for entry in blueprints]
        return instances, filled("defaults", defaults), blueprints, problems

    def _read_secrets(self, source: str) -> object:
        """Read a YAML file of the controller, decrypted when Ansible Vault encrypted it.

        A relative path is looked for in the working directory, then where Ansible looks for variables' files.
        """
        path = os.path.abspath(os.path.expanduser(source))
        if not os.path.isfile(path):
            path = self._find_needle("vars", source)
        return self._loader.load_from_file(path, cache="none")

    def _bundles(self, template_root: str, items: list, layers: list, arguments: dict) -> dict:
        """Return the releases that are asked for; for those that do not exist, the module says so with the rest."""
        wanted = {str(options.get("release") or "") or DEFAULT_RELEASE for options in [*items, *layers]}
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
