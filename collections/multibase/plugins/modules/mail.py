#!/usr/bin/python
# Copyright: Multibase contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: mail
short_description: Send a mail from the controller
version_added: 0.2.0
description:
  - Sends a mail with attachments, by default over a connection that TLS protects. The certificate of the server is
    checked, and without a good one nothing is sent.
  - It works on the controller only; what it is given does not leave it but to the mail server. No result holds a
    password.
author:
  - Multibase contributors (@multibase)
extends_documentation_fragment:
  - multibase.supabase._attributes
attributes:
  check_mode:
    support: full
    details:
      - Checks the settings and sends nothing.
  diff_mode:
    support: none
    details:
      - There is nothing to compare.
  idempotent:
    support: none
    details:
      - Each call sends a mail.
options:
  settings:
    description:
      - How to send it; C(host), C(from) and C(to) (a list of addresses), and where wanted C(port), C(security),
        C(user), C(password), and C(ca_file) (certificates of authorities to trust instead of the system's).
      - C(security) is V(starttls), which is the default, V(tls) or V(none). With V(none) there can be no password.
    type: dict
    required: true
  subject:
    description:
      - Its subject.
    type: str
    required: true
  body:
    description:
      - Its text.
    type: str
    required: true
  attachments:
    description:
      - Files of text, each with C(path), whose last part is the name that it gets, and C(content).
    type: list
    elements: dict
    default: []
seealso:
  - plugin: multibase.supabase.report_files
    plugin_type: filter
"""

EXAMPLES = r"""
- name: Say that all is well
  multibase.supabase.mail:
    settings:
      host: mail.example.com
      user: multibase
      password: "{{ vault_mail_password }}"
      from: multibase@example.com
      to: [operators@example.com]
    subject: All is well
    body: Nothing needs attention.
  no_log: true
"""

RETURN = r"""
sent:
  description: Whether a mail was sent; V(false) in check mode.
  returned: success
  type: bool
  sample: true
"""

from ansible.module_utils.basic import AnsibleModule


def main():
    """Say that there is an action of this name: it runs in place of the module."""
    module = AnsibleModule(
        argument_spec={
            "settings": {"type": "dict", "required": True},
            "subject": {"type": "str", "required": True},
            "body": {"type": "str", "required": True},
            "attachments": {"type": "list", "elements": "dict", "default": []},
        },
        supports_check_mode=True,
    )
    module.fail_json(msg="the action plugin of this module does its work, on the controller")


if __name__ == "__main__":
    main()
