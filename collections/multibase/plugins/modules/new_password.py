#!/usr/bin/python
# Copyright: Multibase contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: new_password
short_description: Make a password for a person, in a file on the controller
version_added: 0.1.0
description:
  - Writes a new password to a file on the controller that only its owner can read, and returns its bcrypt hash, which
    is all that hosts need. The password itself is nowhere else, and reaches no host.
  - This is an action; nothing runs on the host.
author:
  - Multibase contributors (@multibase)
extends_documentation_fragment:
  - multibase.supabase._attributes
attributes:
  check_mode:
    support: full
    details:
      - The place of the file is checked, and no password is made.
  diff_mode:
    support: none
    details:
      - A difference would show the password.
  idempotent:
    support: none
options:
  path:
    description:
      - The file on the controller, an absolute path. Its directory must exist.
    type: path
    required: true
  name:
    description:
      - Name of the person, which stands in the file too.
    type: str
    required: true
  force:
    description:
      - Whether a file that is there already is replaced.
    type: bool
    default: false
seealso:
  - module: multibase.supabase.people
"""

EXAMPLES = r"""
- name: Make a password for Ann
  multibase.supabase.new_password:
    name: ann
    path: /home/me/ann.txt
  register: made
  no_log: true
"""

RETURN = r"""
hash:
  description: bcrypt hash of the password. Empty in check mode.
  returned: success
  type: str
  sample: ""
path:
  description: The file.
  returned: success
  type: str
  sample: /home/me/ann.txt
"""

from ansible.module_utils.basic import AnsibleModule


def main():
    """Say that there is an action of this name: it runs in place of the module."""
    module = AnsibleModule(
        argument_spec={
            "path": {"type": "path", "required": True},
            "name": {"type": "str", "required": True},
            "force": {"type": "bool", "default": False},
        },
        supports_check_mode=True,
    )
    module.fail_json(msg="the action plugin of this module does its work, on the controller")


if __name__ == "__main__":
    main()
