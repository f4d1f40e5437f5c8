# Copyright: Multibase contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
name: overlapping
short_description: Which networks overlap with another one
version_added: 0.1.0
description:
  - Returns those of a list of networks that share addresses with another network, in their order.
author:
  - Multibase contributors (@multibase)
positional: _input, other
options:
  _input:
    description:
      - Networks in CIDR notation.
    type: list
    elements: str
    required: true
  other:
    description:
      - The network that they are compared with.
    type: str
    required: true
"""

EXAMPLES = r"""
- name: Refuse a pool that instances use
  ansible.builtin.assert:
    that: pools | multibase.supabase.overlapping('10.213.0.0/16') | length == 0
"""

RETURN = r"""
_value:
  description:
    - The networks that overlap.
  type: list
  elements: str
"""

import ipaddress
from typing import Any, Callable, Dict, Iterable, List

from ansible.errors import AnsibleFilterError


def overlapping(networks: Iterable[str], other: str) -> List[str]:
    """Return the networks that share addresses with ``other``. Raises AnsibleFilterError for what is no network."""
    try:
        second = ipaddress.ip_network(str(other))
        found = []
        for text in networks:
            first = ipaddress.ip_network(str(text))
            if first.version == second.version and first.overlaps(second):
                found.append(str(text))
        return found
    except ValueError as error:
        raise AnsibleFilterError("overlapping: {0}".format(error)) from None


class FilterModule:
    """The filters of this file."""

    def filters(self) -> Dict[str, Callable[..., Any]]:
        """Return the filters by their names."""
        return {"overlapping": overlapping}
