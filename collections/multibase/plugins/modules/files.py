#!/usr/bin/python
# Copyright: Multibase contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: files
short_description: Write many files of a host in one task
version_added: 0.1.0
description:
  - Compares files and directories with what they are to be, and writes those that differ. A task costs a third of a
    second, and one more file in it a millisecond.
  - All are compared, and all new files are staged and checked, before one of them is renamed into its place.
  - Templates are expanded on the controller, as M(ansible.builtin.template) does it. Contents are in no result and no
    log, except in differences, which O(entries[].diff=false) leaves out.
author:
  - Multibase contributors (@multibase)
extends_documentation_fragment:
  - multibase.supabase._attributes
attributes:
  check_mode:
    support: full
  diff_mode:
    support: full
  idempotent:
    support: full
options:
  entries:
    description:
      - What is to be where.
    type: list
    elements: dict
    required: true
    suboptions:
      path:
        description:
          - Absolute path on the host.
        type: path
        required: true
      state:
        description:
          - V(directory) makes the directories above it too, with the same owner and mode. V(absent) removes a file or a
            link, and no directory.
        type: str
        choices: [file, directory, absent]
        default: file
      src:
        description:
          - Template on the controller, looked for as M(ansible.builtin.template) looks for it.
        type: str
      content:
        description:
          - The file's content, instead of O(entries[].src).
        type: str
      owner:
        description:
          - Name of the owner.
        type: str
        default: root
      group:
        description:
          - Name of the group.
        type: str
        default: root
      mode:
        description:
          - Permissions as an octal number; V(0644) for files and V(0755) for directories unless given.
        type: str
      validate:
        description:
          - Program and arguments that check a new file before it gets its place. V(%s) stands for its path.
        type: list
        elements: str
        default: []
      compare:
        description:
          - Only tell whether the path differs; never write it.
        type: bool
        default: false
      diff:
        description:
          - Whether differences of content may be shown.
        type: bool
        default: true
seealso:
  - module: ansible.builtin.template
"""

EXAMPLES = r"""
- name: Write a unit and the settings that it reads
  multibase.supabase.files:
    entries:
      - {path: /etc/example, state: directory}
      - {path: /etc/systemd/system/example.service, src: example.service.j2}
      - {path: /etc/example/key, content: "{{ example_key }}", mode: "0600", diff: false}
  register: written
"""

RETURN = r"""
results:
  description: One element for each of O(entries), in their order; C(name) is its path.
  returned: success
  type: list
  elements: dict
  sample: [{name: /etc/example, changed: false}]
changed_paths:
  description: Paths of those that differed.
  returned: success
  type: list
  elements: str
  sample: [/etc/systemd/system/example.service]
"""

import base64
import grp
import pwd

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.multibase.supabase.plugins.module_utils import _files
from ansible_collections.multibase.supabase.plugins.module_utils._errors import InvalidInput, MultibaseError


def argument_spec():
    """Return the argument spec of the module."""
    entry = {
        "path": {"type": "path", "required": True},
        "state": {"type": "str", "choices": ["file", "directory", "absent"], "default": "file"},
        "src": {"type": "str"},
        "content": {"type": "str", "no_log": True},
        "owner": {"type": "str", "default": "root"},
        "group": {"type": "str", "default": "root"},
        "mode": {"type": "str"},
        "validate": {"type": "list", "elements": "str", "default": []},
        "compare": {"type": "bool", "default": False},
        "diff": {"type": "bool", "default": True},
    }
    return {"entries": {"type": "list", "elements": "dict", "required": True, "options": entry}}


def _id(look_up, name):
    """Return the number of a user or group; in check mode a new host may not have it yet."""
    try:
        return look_up(name)[2]
    except KeyError:
        return None


def wanted(entry):
    """Return what an entry asks for. Its content comes in Base64 from the action plugin, so that it is in no log."""
    path, state = entry["path"], entry["state"]
    if not path.startswith("/"):
        raise InvalidInput(["path {0!r}: an absolute path is needed".format(path)])
    if state == "file" and entry["content"] is None:
        raise InvalidInput(["{0}: a file needs src or content".format(path)])
    mode = entry["mode"] or ("0755" if state == "directory" else "0644")
    try:
        bits = int(mode, 8)
    except ValueError:
        raise InvalidInput(["{0}: mode {1!r} is no octal number".format(path, mode)]) from None
    return _files.Wanted(
        path=path,
        state=state,
        content=base64.b64decode(entry["content"] or ""),
        owner=_id(pwd.getpwnam, entry["owner"]),
        group=_id(grp.getgrnam, entry["group"]),
        mode=bits,
        validate=tuple(entry["validate"]),
        compare=entry["compare"],
        show=entry["diff"],
    )


def main():
    """Entry point of the module."""
    module = AnsibleModule(argument_spec=argument_spec(), supports_check_mode=True)

    def check(argv):
        code, output, errors = module.run_command(list(argv))
        return code, errors or output

    try:
        entries = [wanted(entry) for entry in module.params["entries"]]
        changed, told = _files.bring(entries, check, module.check_mode)
    except MultibaseError as error:
        module.fail_json(msg=str(error))
    except OSError as error:
        module.fail_json(msg="{0}: {1}".format(error.filename, error.strerror or error))
    results = [{"name": entry.path, "changed": differs} for entry, differs in zip(entries, changed)]
    answer = {
        "changed": any(changed),
        "results": results,
        "changed_paths": [result["name"] for result in results if result["changed"]],
    }
    if module._diff:
        answer["diff"] = told
    module.exit_json(**answer)


if __name__ == "__main__":
    main()
