#!/usr/bin/python
# Copyright: Multibase contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: look
short_description: Ask a host several things in one task
version_added: 0.1.0
description:
  - Runs commands that only look, and returns what each of them said. A task costs a third of a second, and one more
    command in it some milliseconds. It does not matter how they end; in check mode they run as well.
author:
  - Multibase contributors (@multibase)
extends_documentation_fragment:
  - multibase.supabase._attributes
attributes:
  check_mode:
    support: full
  diff_mode:
    support: none
    details:
      - Nothing is changed.
  idempotent:
    support: full
options:
  commands:
    description:
      - Lists of a program and its arguments, by a name of the caller's. An empty list is not run.
    type: dict
    required: true
seealso:
  - module: ansible.builtin.command
"""

EXAMPLES = r"""
- name: See what is there
  multibase.supabase.look:
    commands:
      engine: [dockerd, --version]
      kernel: [uname, --kernel-release]
  register: seen
"""

RETURN = r"""
said:
  description:
    - What came of each of O(commands) that was run, by its name. C(rc) is 127 where there is no such program.
  returned: success
  type: dict
  sample: {kernel: {rc: 0, stdout: 6.12.0, stdout_lines: [6.12.0], stderr: ""}}
"""

from ansible.module_utils.basic import AnsibleModule


def argument_spec():
    """Return the argument spec of the module."""
    return {"commands": {"type": "dict", "required": True}}


def main():
    """Entry point of the module."""
    module = AnsibleModule(argument_spec=argument_spec(), supports_check_mode=True)
    said = {}
    for name, argv in module.params["commands"].items():
        if not isinstance(argv, list) or not all(isinstance(argument, str) for argument in argv):
            module.fail_json(msg="commands: {0} is no list of texts".format(name))
        if not argv:
            continue
        try:
            code, output, errors = module.run_command(argv, handle_exceptions=False, expand_user_and_vars=False)
        except OSError as error:
            code, output, errors = 127, "", error.strerror or str(error)
        # As ansible.builtin.command returns it.
        output, errors = output.rstrip("\r\n"), errors.rstrip("\r\n")
        said[name] = {"rc": code, "stdout": output, "stdout_lines": output.splitlines(), "stderr": errors}
    module.exit_json(changed=False, said=said)


if __name__ == "__main__":
    main()
