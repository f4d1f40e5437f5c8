#!/usr/bin/python
# Copyright: Multibase contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: credentials
short_description: Hand the credentials of an instance over, to a file on the controller
version_added: 0.1.0
description:
  - Writes what a user of an instance needs to connect (addresses, API keys, passwords, connection strings) to a file on
    the controller, readable by its owner only, or encrypted with Ansible Vault.
  - Secrets are nowhere but in that file. They are not in the result, and not in Ansible's output at any verbosity,
    because they leave the host encrypted for the one run that asked.
  - The file is there completely or not at all. What is there already is not replaced unless O(force=true).
  - An instance whose C(.env) is damaged hands nothing over; the message says what is wrong with it.
author:
  - Multibase contributors (@multibase)
extends_documentation_fragment:
  - multibase.supabase._attributes
attributes:
  check_mode:
    support: full
    details:
      - Everything is checked, the place for the file and the vault secret included, and no secret leaves the host.
  diff_mode:
    support: none
    details:
      - A difference would show secrets.
  idempotent:
    support: none
    details:
      - The file is written each time, and only with O(force=true) a second time.
options:
  root:
    description:
      - Directory on the host below which everything of Multibase lies.
    type: path
    default: /opt/multibase
  name:
    description:
      - Name of the instance.
      - Nothing is done when it is empty, so that a play may run on hosts that do not have the instance.
    type: str
    required: true
  path:
    description:
      - The file on the controller, an absolute path. Its directory must exist.
      - It is refused where it is a link, a directory or no plain file, and in a directory that everybody may write to,
        unless that has the sticky bit as C(/tmp) has.
    type: path
    required: true
  format:
    description:
      - V(table) is for people, V(env) for Compose and shells, V(json) and V(yaml) for programs.
    type: str
    choices: [table, env, json, yaml]
    default: table
  encrypt:
    description:
      - Whether the file is encrypted with Ansible Vault, with the vault secret that Ansible was given
        (C(--vault-password-file), C(--vault-id), C(--ask-vault-pass)).
      - Of several secrets the first one is used, or the one that E(ANSIBLE_VAULT_ENCRYPT_IDENTITY) names.
    type: bool
    default: false
  force:
    description:
      - Whether a file that is there already is replaced.
    type: bool
    default: false
  receiver:
    description:
      - Who may read the answer. Filled in by the action plugin; do not set it.
    type: str
seealso:
  - module: multibase.supabase.instance_info
"""

EXAMPLES = r"""
- name: Hand over the credentials of acme
  multibase.supabase.credentials:
    name: acme
    path: "{{ lookup('ansible.builtin.env', 'HOME') }}/acme.env"
    format: env
  no_log: true

- name: Keep them as an encrypted file of variables
  multibase.supabase.credentials:
    name: acme
    path: /srv/secrets/acme.yml
    format: yaml
    encrypt: true
    force: true
  no_log: true
"""

RETURN = r"""
instances:
  description: What was handed over, or in check mode would be. Empty when O(name) is.
  returned: success
  type: list
  elements: dict
  contains:
    name:
      description: Name of the instance.
      type: str
      returned: success
      sample: acme
    path:
      description: The file on the controller.
      type: str
      returned: success
      sample: /home/ann/acme.env
    format:
      description: Its format.
      type: str
      returned: success
      sample: env
    encrypted:
      description: Whether it is encrypted with Ansible Vault.
      type: bool
      returned: success
      sample: false
    written:
      description: Whether the file was written. It is not in check mode.
      type: bool
      returned: success
      sample: true
    names:
      description: What is in it.
      type: list
      elements: str
      returned: success
      sample: [SUPABASE_PUBLIC_URL, ANON_KEY]
    fingerprints:
      description: What may be shown of the secrets in it, as M(multibase.supabase.instance_info) shows them.
      type: dict
      returned: success
      sample: {ANON_KEY: "fingerprint:0123456789ab"}
    edited:
      description: Secrets that were changed by hand since Multibase made them. Services may not know the new value.
      type: list
      elements: str
      returned: success
      sample: []
"""

import json
import os

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.multibase.supabase.plugins.module_utils import _secrets
from ansible_collections.multibase.supabase.plugins.module_utils._credentials import FORMATS, collect
from ansible_collections.multibase.supabase.plugins.module_utils._errors import InvalidInput, MultibaseError
from ansible_collections.multibase.supabase.plugins.module_utils._instances import edited_secrets, read_existing
from ansible_collections.multibase.supabase.plugins.module_utils._layout import Layout
from ansible_collections.multibase.supabase.plugins.module_utils._names import name_problem
from ansible_collections.multibase.supabase.plugins.module_utils._sealed import seal


def argument_spec():
    """Return the argument spec of the module."""
    return {
        "root": {"type": "path", "default": "/opt/multibase"},
        "name": {"type": "str", "required": True},
        "path": {"type": "path", "required": True},
        "format": {"type": "str", "choices": list(FORMATS), "default": "table"},
        "encrypt": {"type": "bool", "default": False},
        "force": {"type": "bool", "default": False},
        "receiver": {"type": "str"},
    }


def hand_over(params, check_mode):
    """Return what the action plugin makes a file of: what may be shown, and sealed what may not."""
    name = params["name"]
    if not name:
        return {"instances": []}
    if not params["receiver"]:
        raise InvalidInput(["the credentials of an instance are handed over by the action plugin of this module only"])
    problem = name_problem(name)
    if problem:
        raise InvalidInput([problem])
    layout = Layout(os.path.abspath(params["root"]))
    if not os.path.lexists(layout.project(name)):
        raise InvalidInput(["there is no instance {0} below {1}".format(name, layout.root)])
    existing = read_existing(layout, name)
    credentials = collect(existing.manifest, existing.variables)
    salt = str(existing.manifest["salt"])
    told = {
        "name": name,
        "names": [credential.name for credential in credentials],
        "fingerprints": {
            credential.name: _secrets.fingerprint(credential.value, salt)
            for credential in credentials
            if credential.secret
        },
        "edited": edited_secrets(existing),
    }
    result = {"instances": [told]}
    if not check_mode:
        rows = json.dumps([credential.as_row() for credential in credentials])
        result["sealed"] = seal(rows.encode("utf-8"), params["receiver"])
    return result


def main():
    """Entry point of the module."""
    module = AnsibleModule(argument_spec=argument_spec(), supports_check_mode=True)
    try:
        result = hand_over(module.params, module.check_mode)
    except MultibaseError as error:
        module.fail_json(msg=str(error))
    except OSError as error:
        module.fail_json(msg="{0}: {1}".format(error.filename or module.params["root"], error.strerror or error))
    module.exit_json(changed=False, **result)


if __name__ == "__main__":
    main()
