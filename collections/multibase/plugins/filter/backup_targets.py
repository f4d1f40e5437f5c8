# Copyright: Multibase contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
name: backup_targets
short_description: Where copies of backups go, as the tool of a host reads it
version_added: 0.2.0
description:
  - Checks declared targets and returns the text of the file that holds them on a host. It holds secrets.
  - All mistakes are told together, without any value of a secret, and nothing is returned then.
author:
  - Multibase contributors (@multibase)
positional: _input
options:
  _input:
    description:
      - The targets, each with C(name), C(kind) (V(s3), V(sftp) or V(restic)) and C(options), and where wanted
        C(recipients) (public keys of age), C(retention) (a policy of its own) and C(instances) (names; all when empty).
    type: list
    elements: dict
    required: true
"""

EXAMPLES = r"""
- name: Write the targets to the host
  ansible.builtin.copy:
    content: "{{ targets | multibase.supabase.backup_targets }}"
    dest: /opt/multibase/state/backup-targets.json
    mode: "0600"
  no_log: true
"""

RETURN = r"""
_value:
  description:
    - The content of the file, JSON.
  type: str
"""

from typing import Any, Dict

from ansible.errors import AnsibleFilterError

from ansible_collections.multibase.supabase.plugins.module_utils._copies import targets_bytes
from ansible_collections.multibase.supabase.plugins.module_utils._errors import InvalidInput


def backup_targets(declared: Any) -> str:
    """Return the text of the file of targets. Raises AnsibleFilterError with every mistake."""
    try:
        return targets_bytes(declared).decode("utf-8")
    except InvalidInput as error:
        raise AnsibleFilterError(str(error)) from None


class FilterModule:
    """The filters of this file."""

    def filters(self) -> Dict[str, Any]:
        """Return them by name."""
        return {"backup_targets": backup_targets}
