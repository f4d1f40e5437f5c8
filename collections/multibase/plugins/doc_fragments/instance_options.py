# SPDX-License-Identifier: GPL-3.0-or-later
"""The documentation of an instance's options, made from the table that the argument spec is made from."""

from __future__ import annotations

import yaml

from ansible_collections.multibase.supabase.plugins.module_utils._options import (
    blueprint_options,
    common_options,
    instance_options,
)
from ansible_collections.multibase.supabase.plugins.module_utils._settings import BY_OPTION, group_about

_OWN = {
    "name": "Name of the instance, 1 to 40 lower-case letters, digits and single hyphens; a letter first.",
    "state": "V(absent) deletes the directory with all data. It needs the name in O(confirmed) and refuses while the "
    "Engine still has containers, networks or volumes of the instance.",
    "port_base": "First port of the block, when a certain one is wanted. Otherwise the first free block of "
    "O(port_range) is taken.",
}


def default_of(option: str) -> str:
    """Say what holds when an option is not given, empty when nothing does."""
    setting = BY_OPTION[option]
    if setting.otherwise:
        text = setting.otherwise
        return f"{text[0].upper()}{text[1:]} when not given." if text[1] != "(" else f"{text} when not given."
    if setting.default in (None, "", [], {}):
        return ""
    value = setting.default
    if isinstance(value, bool):
        value = "true" if value else "false"
    if isinstance(value, list):
        value = "[{0}]".format(", ".join(value))
    return f"V({value}) when not given."


def _documented(options: dict, own: dict, below: str = "") -> dict:
    result = {}
    for name, entry in options.items():
        path = below + name
        shown = {key: entry[key] for key in ("type", "elements", "required", "choices", "default") if key in entry}
        if "options" in entry:
            shown["description"] = [group_about(path)]
            shown["suboptions"] = _documented(entry["options"], own, path + ".")
        elif path in own:
            shown["description"] = [own[path]]
        else:
            shown["description"] = [sentence for sentence in (BY_OPTION[path].about, default_of(path)) if sentence]
        result[name] = shown
    return result


class ModuleDocFragment:
    """The options ``instances``, ``defaults`` and ``blueprints``."""

    # Annotated, because ansible-test's yamllint reads a plain assignment as a text and this one is computed.
    DOCUMENTATION: str = yaml.safe_dump(
        {
            "options": {
                "instances": {
                    "description": ["The instances."],
                    "type": "list",
                    "elements": "dict",
                    "required": True,
                    "suboptions": _documented(instance_options(), _OWN),
                },
                "defaults": {
                    "description": ["Options that lie under those of each instance."],
                    "type": "dict",
                    "default": {},
                    "suboptions": _documented(common_options(), {}),
                },
                "blueprints": {
                    "description": [
                        "Named sets of options. An instance that names one in O(instances[].blueprint) has it under "
                        "its own options and over O(defaults).",
                        "A dictionary of name to options is taken as well.",
                    ],
                    "type": "list",
                    "elements": "dict",
                    "default": [],
                    "suboptions": _documented(blueprint_options(), {"name": "Name of the blueprint."}),
                },
            }
        }
    )
