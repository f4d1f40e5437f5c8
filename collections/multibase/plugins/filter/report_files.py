# Copyright: Multibase contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
name: report_files
short_description: The files of a report with their contents
version_added: 0.2.0
description:
  - Returns files as M(multibase.supabase.files) and M(multibase.supabase.mail) take them.
author:
  - Multibase contributors (@multibase)
positional: _input, answers, made_at, only, mode
options:
  _input:
    description:
      - What the filter P(multibase.supabase.report_outputs#filter) returns.
    type: list
    elements: dict
    required: true
  answers:
    description:
      - What each host answered, as the filter P(multibase.supabase.report#filter) takes it.
    type: list
    elements: dict
    required: true
  made_at:
    description:
      - When the report is made, in seconds since 1970.
    type: float
    required: true
  only:
    description:
      - Names of the instances that the report is about. All when empty.
    type: list
    elements: str
    default: []
  mode:
    description:
      - Permissions of the files.
    type: str
    default: "0600"
"""

EXAMPLES = r"""
- name: Write pages about each host on itself
  multibase.supabase.files:
    entries: >-
      {{ ['html'] | multibase.supabase.report_outputs('/srv/reports')
         | multibase.supabase.report_files([{'host': inventory_hostname, 'answer': told}], now().timestamp()) }}
"""

RETURN = r"""
_value:
  description: The files, each with C(path), C(content), C(mode), and C(diff), which is V(false).
  type: list
  elements: dict
"""

from typing import Any, Callable, Dict, List, Mapping, Sequence

from ansible_collections.multibase.supabase.plugins.filter.report import report


def report_files(
    outputs: Sequence[Mapping[str, Any]],
    answers: Sequence[Mapping[str, Any]],
    made_at: Any,
    only: Sequence[str] = (),
    mode: str = "0600",
) -> List[Dict[str, Any]]:
    """Return the files of a report. Raises AnsibleFilterError as the filter report does."""
    return [
        {"path": one["path"], "content": report(answers, one["form"], made_at, only), "mode": mode, "diff": False}
        for one in outputs
    ]


class FilterModule:
    """Offers the filter to Ansible."""

    def filters(self) -> Dict[str, Callable[..., Any]]:
        """Return the filters by name."""
        return {"report_files": report_files}
