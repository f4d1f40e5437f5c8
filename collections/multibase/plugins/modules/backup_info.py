#!/usr/bin/python
# Copyright: Multibase contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: backup_info
short_description: Tell which backups there are of the instances of a host
version_added: 0.2.0
description:
  - Tells age, size and place of backups, and whether each was verified by restoring it. It needs no Docker Engine, and
    also tells of backups whose instance was deleted.
author:
  - Multibase contributors (@multibase)
extends_documentation_fragment:
  - multibase.supabase._attributes
attributes:
  check_mode:
    support: full
    details:
      - This module changes nothing.
  diff_mode:
    support: none
    details:
      - This module changes nothing.
  idempotent:
    support: full
options:
  root:
    description:
      - Directory on the host below which everything of Multibase lies.
    type: path
    default: /opt/multibase
  instances:
    description:
      - Names of the instances to tell about. All that have backups when empty.
    type: list
    elements: str
    default: []
seealso:
  - module: multibase.supabase.backup
"""

EXAMPLES = r"""
- name: All backups of the host
  multibase.supabase.backup_info:
  register: known
"""

RETURN = r"""
results:
  description: One element per instance, by name.
  returned: always
  type: list
  elements: dict
  contains:
    name:
      description: Name of the instance.
      type: str
      returned: success
      sample: acme
    changed:
      description: Always V(false).
      type: bool
      returned: success
      sample: false
    overdue:
      description: Whether a scheduled backup did not come within 15 minutes, and its jitter, of when it was due.
      type: bool
      returned: success
      sample: false
    exit_code:
      description: How the last attempt ended; V(0) is well, absent when there was none.
      type: int
      returned: success
      sample: 0
    reason:
      description: Why the last attempt failed.
      type: str
      returned: success
      sample: ""
    backups:
      description:
        - Its backups, the newest first, each with C(stem), C(created), C(age_seconds), C(size), C(scope), C(format),
          C(verified), C(verified_at), C(signed), C(pinned), C(release), C(server_version), C(directory), C(where).
      type: list
      elements: dict
      returned: success
      sample: []
"""

import os
import time

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.multibase.supabase.plugins.module_utils import _backup_state
from ansible_collections.multibase.supabase.plugins.module_utils._errors import MultibaseError
from ansible_collections.multibase.supabase.plugins.module_utils._layout import Layout


def main():
    """Entry point of the module."""
    module = AnsibleModule(
        argument_spec={
            "root": {"type": "path", "default": "/opt/multibase"},
            "instances": {"type": "list", "elements": "str", "default": []},
        },
        supports_check_mode=True,
    )
    layout = Layout(os.path.abspath(module.params["root"]))
    try:
        results = _backup_state.describe(layout, module.params["instances"], time.time())
    except MultibaseError as error:
        module.fail_json(msg=str(error), results=[])
    except OSError as error:
        module.fail_json(msg="{0}: {1}".format(error.filename or "host", error.strerror or error), results=[])
    module.exit_json(changed=False, results=results)


if __name__ == "__main__":
    main()
