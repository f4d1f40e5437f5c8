# Copyright: Multibase contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
name: report_outputs
short_description: Which files a report is written to
version_added: 0.2.0
description:
  - Returns a file for each format, and for CSV one for each table. All mistakes are told together.
author:
  - Multibase contributors (@multibase)
positional: _input, directory, tables, file
options:
  _input:
    description:
      - Formats, V(html), V(json), V(csv) and V(prometheus), as a list or as text with commas.
    type: raw
    required: true
  directory:
    description:
      - Directory of the files.
    type: str
    default: ""
  tables:
    description:
      - Tables to write as CSV, V(hosts), V(instances), V(services), V(backups), V(alerts) and V(certificates), as a
        list or as text with commas.
    type: raw
    default: [instances]
  file:
    description:
      - The one file, where there is only one; it goes before O(directory).
    type: str
    default: ""
"""

EXAMPLES = r"""
- name: Show them
  ansible.builtin.debug:
    msg: "{{ ['html', 'csv'] | multibase.supabase.report_outputs('/srv/reports', ['instances', 'services']) }}"
"""

RETURN = r"""
_value:
  description: The files, each with C(form), as the filter P(multibase.supabase.report#filter) takes it, and C(path).
  type: list
  elements: dict
  sample:
    - {form: html, path: /srv/reports/multibase-report.html}
"""

import os
from typing import Any, Callable, Dict, List

from ansible.errors import AnsibleFilterError

from ansible_collections.multibase.supabase.plugins.module_utils._report_csv import TABLES

FILES = {"html": "multibase-report.html", "json": "multibase-report.json", "prometheus": "multibase-report.prom"}
FORMATS = (*FILES, "csv")


def _words(value: Any) -> List[str]:
    """Return the words of a list, or of text with commas, each once."""
    given = value.split(",") if isinstance(value, str) else list(value or [])
    return list(dict.fromkeys(str(word).strip() for word in given if str(word).strip()))


def report_outputs(formats: Any, directory: str = "", tables: Any = ("instances",), file: str = "") -> List[Any]:
    """Return the files of a report. Raises AnsibleFilterError with every mistake."""
    wanted, chosen = _words(formats), _words(tables)
    problems = [
        "there is no {0} {1!r}; there are {2}".format(what, word, ", ".join(known))
        for what, words, known in (("format", wanted, FORMATS), ("table", chosen, TABLES))
        for word in words
        if word not in known
    ]
    outputs = []
    for form in wanted:
        if form == "csv":
            outputs += [
                {"form": table, "path": os.path.join(directory, "multibase-" + table + ".csv")} for table in chosen
            ]
        elif form in FILES:
            outputs.append({"form": form, "path": os.path.join(directory, FILES[form])})
    if file and len(outputs) != 1:
        problems.append("{0} is one file, and the report would be {1}: name a directory".format(file, len(outputs)))
    if problems:
        raise AnsibleFilterError("report_outputs: " + "; ".join(problems))
    return [{**outputs[0], "path": file}] if file else outputs


class FilterModule:
    """Offers the filter to Ansible."""

    def filters(self) -> Dict[str, Callable[..., Any]]:
        """Return the filters by name."""
        return {"report_outputs": report_outputs}
