# SPDX-License-Identifier: GPL-3.0-or-later
# This file is private to the multibase.supabase collection; it may change at any time.
"""The options of an instance as an Ansible argument spec, for the module and its action plugin.

No option has a default here: one that is not given must stay distinguishable, so that blueprints, ``defaults`` and what
was recorded earlier can lie under it. The values that apply in the end are in ``_settings``.
"""

from __future__ import annotations

from typing import Any, Dict

from ._settings import SETTINGS, Setting

Options = Dict[str, Dict[str, Any]]
_TYPES = {"number": "float"}


def _entry(setting: Setting) -> Dict[str, Any]:
    entry: Dict[str, Any] = {"type": _TYPES.get(setting.kind, setting.kind)}
    if setting.kind == "list":
        entry["elements"] = "str"
    if setting.choices:
        entry["choices"] = list(setting.choices)
    if setting.secret:
        entry["no_log"] = True
    elif setting.path[-1] in _LOOK_SECRET:
        entry["no_log"] = False
    return entry


# Ansible takes these for secrets by their name; what they hold is none.
_LOOK_SECRET = frozenset(
    {
        "password_min_length",
        "password_required_characters",
        "refresh_token_rotation",
        "refresh_token_reuse_interval",
        "reauthenticate_for_password",
        "secrets_from",
        "token_refresh",
        "custom_access_token",
        "password_verification_attempt",
        "keycloak",
        "keys",
    }
)


def common_options() -> Options:
    """Return the options that may stand in an instance, in a blueprint and in ``defaults``."""
    options: Options = {}
    for setting in SETTINGS:
        level = options
        for part in setting.path[:-1]:
            group = level.setdefault(part, {"type": "dict", "options": {}})
            if part in _LOOK_SECRET:
                group["no_log"] = False
            level = group["options"]
        level[setting.path[-1]] = _entry(setting)
    return options


def blueprint_options() -> Options:
    """Return the options of one entry of ``blueprints``."""
    return {"name": {"type": "str", "required": True}, **common_options()}


def instance_options() -> Options:
    """Return the options of one entry of ``instances``."""
    options: Options = {
        "name": {"type": "str", "required": True},
        "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
        "port_base": {"type": "int"},
    }
    options.update(common_options())
    return options
