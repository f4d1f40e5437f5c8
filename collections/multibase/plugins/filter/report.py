# Copyright: Multibase contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
name: report
short_description: A report of what hosts told
version_added: 0.2.0
description:
  - Makes one report of what the module M(multibase.supabase.report) returned on each host, in the form that is asked
    for.
  - A host that could not be reached, or whose answer cannot be used, is in the report with the reason.
author:
  - Multibase contributors (@multibase)
positional: _input, form, made_at, only
options:
  _input:
    description:
      - What each host answered, as C(host) (its name) and C(answer) (what was registered of the task).
    type: list
    elements: dict
    required: true
  form:
    description:
      - V(document) is data that follows docs/schemas/report.schema.json, V(json) the same as text. V(html) is a page,
        V(prometheus) a textfile, V(text) a few lines. The others are tables as CSV.
    type: str
    choices: [document, json, html, prometheus, text, hosts, instances, services, backups, alerts, certificates]
    default: document
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
"""

EXAMPLES = r"""
- name: Write a page about one host
  ansible.builtin.copy:
    content: "{{ [{'host': 'h1', 'answer': told}] | multibase.supabase.report('html', now().timestamp()) }}"
    dest: report.html
    mode: "0600"
  delegate_to: localhost
"""

RETURN = r"""
_value:
  description:
    - The report; text, except for V(document).
  type: raw
"""

import json
from typing import Any, Callable, Dict, Mapping, Sequence

from ansible.errors import AnsibleFilterError

from ansible_collections.multibase.supabase.plugins.module_utils import (
    _report,
    _report_csv,
    _report_html,
    _report_prometheus,
    _report_text,
)
from ansible_collections.multibase.supabase.plugins.module_utils._errors import UnknownInstance
from ansible_collections.multibase.supabase.plugins.module_utils._live import VERSION

_RENDERERS: Dict[str, Callable[[Mapping[str, Any]], str]] = {
    "json": lambda made: json.dumps(made, indent=1, ensure_ascii=False) + "\n",
    "html": _report_html.render,
    "prometheus": _report_prometheus.render,
    "text": _report_text.render,
}


def report(
    answers: Sequence[Mapping[str, Any]], form: str = "document", made_at: Any = 0, only: Sequence[str] = ()
) -> Any:
    """Return the report of what hosts answered. Raises AnsibleFilterError for a form or an instance that is not."""
    told = [_report.answer_of(str(one["host"]), one.get("answer")) for one in answers]
    try:
        made = _report.build(told, float(made_at), VERSION, [str(name) for name in only])
    except UnknownInstance as error:
        raise AnsibleFilterError(str(error)) from None
    if form == "document":
        return made
    if form in _RENDERERS:
        return _RENDERERS[form](made)
    if form in _report_csv.TABLES:
        return _report_csv.render(made, form)
    known = ", ".join(["document", *_RENDERERS, *_report_csv.TABLES])
    raise AnsibleFilterError("report: there is no form {0!r}; there are {1}".format(form, known))


class FilterModule:
    """Offers the filter to Ansible."""

    def filters(self) -> Dict[str, Callable[..., Any]]:
        """Return the filters by name."""
        return {"report": report}
