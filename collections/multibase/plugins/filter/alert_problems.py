# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
name: alert_problems
short_description: Say what is wrong with rules and channels of alerts
version_added: 0.1.0
author: Multibase contributors (@multibase)
description:
  - Returns everything that is wrong with settings of rules and channels, each named by its path. Values are not shown,
    because those of channels may be secrets.
positional: instance_rules, channels
options:
  _input:
    description:
      - What differs from the rules, by the name of the rule.
    type: dict
    required: true
  instance_rules:
    description:
      - The same for single instances, by their name.
    type: dict
    default: {}
  channels:
    description:
      - Where alerts are told.
    type: list
    elements: dict
    default: []
"""

EXAMPLES = r"""
- name: Check the rules
  ansible.builtin.assert:
    that: multibase_monitor_rules | multibase.supabase.alert_problems | length == 0
"""

RETURN = r"""
_value:
  description:
    - What is wrong; nothing when all is well.
  type: list
  elements: str
"""

from ansible_collections.multibase.supabase.plugins.module_utils import _alert_rules, _notify


def alert_problems(rules, instance_rules=None, channels=None):
    """Return what is wrong with rules, rules of instances and channels."""
    return _alert_rules.problems(rules, instance_rules or {}) + _notify.problems(channels or [])


class FilterModule:
    """The filter for Ansible."""

    def filters(self):
        """Return the filter by its name."""
        return {"alert_problems": alert_problems}
