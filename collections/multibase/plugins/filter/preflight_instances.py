# Copyright: Multibase contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
name: preflight_instances
short_description: What a host must know of instances before it has them
version_added: 0.1.0
description:
  - Lays the options of each declared instance over its blueprint and the defaults, and returns the few that
    M(multibase.supabase.preflight) takes. No secret is among them.
  - Entries without a name, and instances that shall be deleted, are left out. Mistakes are for
    M(multibase.supabase.instance) to tell.
author:
  - Multibase contributors (@multibase)
positional: _input, defaults, blueprints, only
options:
  _input:
    description: The declared instances.
    type: list
    elements: dict
    required: true
  defaults:
    description: Options that lie under those of each.
    type: dict
    default: {}
  blueprints:
    description: By name, options that lie under those of the instances that name them.
    type: dict
    default: {}
  only:
    description: Names of the instances that a run is about. All when empty.
    type: list
    elements: str
    default: []
"""

EXAMPLES = r"""
- name: Show what is looked at
  ansible.builtin.debug:
    msg: "{{ [{'name': 'acme'}, {'name': 'beta'}] | multibase.supabase.preflight_instances({'size': 'small'}) }}"
"""

RETURN = r"""
_value:
  description: The instances, each with C(name), C(size), C(domain), C(public_url) and C(storage).
  type: list
  elements: dict
  sample:
    - {name: acme, size: small, domain: "", public_url: "", storage: true}
    - {name: beta, size: small, domain: "", public_url: "", storage: true}
"""

from typing import Any, Callable, Dict, List, Mapping, Optional, Sequence

from ansible.errors import AnsibleFilterError
from ansible.module_utils.parsing.convert_bool import boolean


def _value(layers: Sequence[Mapping[str, Any]], *path: str) -> Any:
    """Return an option from the topmost layer that has it, None when none has."""
    for layer in layers:
        value: Any = layer
        for key in path:
            value = value.get(key) if isinstance(value, Mapping) else None
        if value is not None:
            return value
    return None


def _size(layers: Sequence[Mapping[str, Any]]) -> Any:
    """Return the size; dictionaries of several layers are merged, as they are for the instance itself."""
    size = _value(layers, "size")
    if not isinstance(size, Mapping):
        return "medium" if size is None else size
    return {key: _value(layers, "size", key) for key in ("cpus", "memory") if _value(layers, "size", key) is not None}


def _switched_off(value: Any) -> bool:
    try:
        return value is not None and not boolean(value)
    except TypeError:
        return False


def preflight_instances(
    instances: Sequence[Any],
    defaults: Optional[Mapping[str, Any]] = None,
    blueprints: Optional[Mapping[str, Any]] = None,
    only: Sequence[str] = (),
) -> List[Dict[str, Any]]:
    """See the module's text."""
    if not isinstance(instances, Sequence) or isinstance(instances, (str, bytes)):
        raise AnsibleFilterError("preflight_instances: multibase_instances is no list")
    found = []
    for own in instances:
        if not isinstance(own, Mapping) or not own.get("name") or own.get("state") == "absent":
            continue
        if only and own["name"] not in only:
            continue
        below: Mapping[str, Any] = defaults or {}
        blueprint = (blueprints or {}).get(own.get("blueprint", below.get("blueprint")))
        layers = [layer for layer in (own, blueprint, below) if isinstance(layer, Mapping)]
        on_host = not _switched_off(_value(layers, "services", "storage"))
        found.append(
            {
                "name": str(own["name"]),
                "size": _size(layers),
                "domain": str(_value(layers, "domain") or ""),
                "public_url": str(_value(layers, "public_url") or ""),
                "storage": on_host and _value(layers, "storage", "backend") != "s3",
            }
        )
    return found


class FilterModule:
    """Offers the filter to Ansible."""

    def filters(self) -> Dict[str, Callable[..., Any]]:
        """Return the filters by name."""
        return {"preflight_instances": preflight_instances}
