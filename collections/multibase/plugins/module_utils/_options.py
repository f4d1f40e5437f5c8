# SPDX-License-Identifier: GPL-3.0-or-later
# This file is private to the multibase.supabase collection; it may change at any time.
"""The options of an instance as an Ansible argument spec, in one place for the module and its action plugin.

No option has a default here: one that is not given must stay distinguishable, so that ``defaults`` and what was
recorded earlier can lie under it. The values that apply in the end are in ``_spec``.
"""

from __future__ import annotations

from typing import Any, Dict

Options = Dict[str, Dict[str, Any]]


def common_options() -> Options:
    """Return the options that may stand in an instance and in ``defaults``."""
    return {
        "release": {"type": "str"},
        "image_set": {"type": "str", "choices": ["upstream", "sandbox"]},
        "image_registry": {"type": "str"},
        "images": {"type": "dict"},
        "services": {"type": "dict"},
        "size": {"type": "str", "choices": ["small", "medium", "large"]},
        "bind_address": {"type": "str"},
        "expose": {"type": "list", "elements": "str", "choices": ["postgres", "studio"]},
        "public_url": {"type": "str"},
        "site_url": {"type": "str"},
        "redirect_urls": {"type": "list", "elements": "str"},
        "cors_origins": {"type": "list", "elements": "str"},
        "dashboard_username": {"type": "str"},
        "health_interval": {"type": "str"},
        "auth": {
            "type": "dict",
            "options": {
                "disable_signup": {"type": "bool"},
                "email_signup": {"type": "bool"},
                "email_autoconfirm": {"type": "bool"},
                "anonymous_users": {"type": "bool"},
                "jwt_expiry": {"type": "int"},
            },
        },
        "smtp": {
            "type": "dict",
            "options": {
                "host": {"type": "str"},
                "port": {"type": "int"},
                "user": {"type": "str"},
                "password": {"type": "str", "no_log": True},
                "admin_email": {"type": "str"},
                "sender_name": {"type": "str"},
            },
        },
        "studio": {
            "type": "dict",
            "options": {"organization": {"type": "str"}, "project": {"type": "str"}},
        },
        "pooler": {
            "type": "dict",
            "options": {"pool_size": {"type": "int"}, "max_clients": {"type": "int"}},
        },
        "rest": {
            "type": "dict",
            "options": {"schemas": {"type": "list", "elements": "str"}, "max_rows": {"type": "int"}},
        },
        "storage": {"type": "dict", "options": {"file_size_limit": {"type": "int"}}},
        "functions": {"type": "dict", "options": {"verify_jwt": {"type": "bool"}}},
    }


def instance_options() -> Options:
    """Return the options of one entry of ``instances``."""
    options: Options = {
        "name": {"type": "str", "required": True},
        "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
        "port_base": {"type": "int"},
    }
    options.update(common_options())
    return options
