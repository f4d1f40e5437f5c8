#!/usr/bin/python
# Copyright: Multibase contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: restore
short_description: Restore a backup into an instance, or bring back what a restore replaced
version_added: 0.2.0
description:
  - Loads a backup into new directories by a scratch container, compares it with its manifest, and only then stops the
    database, renames the directories and starts it again. What was there is kept beside it for O(keep_days).
  - When the new data does not come up, what was there is put back by itself.
author:
  - Multibase contributors (@multibase)
requirements:
  - Docker Engine 20.10 or newer with the Compose plugin 2.24 or newer on the host
  - the Docker SDK for Python on the host (Debian's python3-docker)
extends_documentation_fragment:
  - multibase.supabase._attributes
  - multibase.supabase._attributes.host
  - multibase.supabase._attributes.lock
attributes:
  check_mode:
    support: full
    details:
      - Checks the files and the signature of the backup, and restores nothing.
  diff_mode:
    support: none
    details:
      - Data has no text to compare.
  idempotent:
    support: none
    details:
      - Each run restores anew; O(state=recovered) changes nothing when nothing was interrupted.
options:
  name:
    description:
      - Name of the instance that gets the data. It must exist.
    type: str
    required: true
  state:
    description:
      - V(restored) restores O(backup).
      - V(rolled_back) brings back what the last restore replaced; done twice, it is the restored data again.
      - V(recovered) ends a restore that was interrupted, if there is one. New data that is in place and works stays;
        otherwise what was there is put back. The other states do so first.
      - V(released) switches on the cron jobs and webhooks that are held in a copy.
    type: str
    choices: [restored, rolled_back, recovered, released]
    default: restored
  backup:
    description:
      - The time in the names of its files, or V(latest) for the newest that was verified.
    type: str
    default: latest
  source:
    description:
      - The instance that the backup is of, when it is another than O(name). Its cron jobs and webhooks are then held,
        and passwords and keys stay those of O(name).
    type: str
  scope:
    description:
      - V(full) restores files of Storage, functions and snippets with the database, V(database) only the database
        with the Vault root key.
    type: str
    choices: [full, database]
    default: full
  trust_unsigned:
    description:
      - Whether to restore a backup that was not signed by this host. Its statements run as a superuser of the new
        database.
    type: bool
    default: false
  keep_days:
    description:
      - For how many days what was replaced is kept.
    type: float
    default: 7
  timeout:
    description:
      - Seconds that loading one database may take.
    type: int
    default: 14400
  start_timeout:
    description:
      - Seconds that the services have to come up on the new data.
    type: int
    default: 300
seealso:
  - module: multibase.supabase.backup
"""

EXAMPLES = r"""
- name: Go back to the newest verified backup
  multibase.supabase.restore:
    name: acme

- name: That was a mistake
  multibase.supabase.restore:
    name: acme
    state: rolled_back

- name: Put the data of acme into an instance that was created for it
  multibase.supabase.restore:
    name: copy
    source: acme
"""

RETURN = r"""
results:
  description: One element.
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
      description: Whether anything was changed.
      type: bool
      returned: success
      sample: true
    action:
      description: What was done.
      type: str
      returned: success
      sample: restored
    backup:
      description: The backup that it is about.
      type: str
      returned: success
      sample: 20261125T023000123Z
    source:
      description: The instance that the backup is of.
      type: str
      returned: success
      sample: acme
    seconds:
      description: How long it took.
      type: float
      returned: success
      sample: 6.6
    pause_seconds:
      description: How long the database could not be reached.
      type: float
      returned: success
      sample: 1.7
    kept:
      description: The directories in which what was replaced is kept.
      type: list
      elements: str
      returned: success
      sample: []
    kept_until:
      description: Until when it is kept, in UTC.
      type: str
      returned: success
      sample: "2026-12-02T12:36:50Z"
    held:
      description: Cron jobs and webhooks that are switched off in a copy.
      type: list
      elements: str
      returned: success
      sample: []
    notes:
      description: What is worth knowing, as a newer version of an extension.
      type: list
      elements: str
      returned: success
      sample: []
exit_code:
  description: The exit status that the host's own tool would have.
  returned: failure
  type: int
  sample: 18
"""

import os

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.multibase.supabase.plugins.module_utils import _engine, _restore
from ansible_collections.multibase.supabase.plugins.module_utils._compose import Compose
from ansible_collections.multibase.supabase.plugins.module_utils._errors import MultibaseError, exit_code_of
from ansible_collections.multibase.supabase.plugins.module_utils._layout import Layout


def argument_spec():
    """Return the argument spec of the module."""
    return {
        "root": {"type": "path", "default": "/opt/multibase"},
        "docker_host": {"type": "str", "default": _engine.DEFAULT_HOST},
        "lock_timeout": {"type": "int", "default": 60},
        "name": {"type": "str", "required": True},
        "state": {
            "type": "str",
            "choices": ["restored", "rolled_back", "recovered", "released"],
            "default": "restored",
        },
        "backup": {"type": "str", "default": "latest"},
        "source": {"type": "str"},
        "scope": {"type": "str", "choices": ["full", "database"], "default": "full"},
        "trust_unsigned": {"type": "bool", "default": False},
        "keep_days": {"type": "float", "default": 7},
        "timeout": {"type": "int", "default": 14400},
        "start_timeout": {"type": "int", "default": 300},
    }


def run(params, check_mode):
    """Do what ``params`` say; return the result."""
    docker_host = params["docker_host"]
    options = _restore.Options(
        scope=params["scope"],
        trust_unsigned=params["trust_unsigned"],
        keep_days=params["keep_days"],
        timeout=params["timeout"],
        start_timeout=params["start_timeout"],
        lock_timeout=params["lock_timeout"],
        check_mode=check_mode,
    )
    runner = _restore.RestoreRun(
        Layout(os.path.abspath(params["root"])),
        _engine.connect(docker_host),
        Compose(docker_host),
        docker_host,
        options,
    )
    if params["state"] == "rolled_back":
        return runner.rollback(params["name"])
    if params["state"] == "released":
        return runner.release(params["name"])
    if params["state"] == "recovered":
        return runner.recover(params["name"])
    return runner.restore(params["name"], params["backup"], params["source"])


def main():
    """Entry point of the module."""
    module = AnsibleModule(argument_spec=argument_spec(), supports_check_mode=True)
    try:
        result = run(module.params, module.check_mode)
    except MultibaseError as error:
        module.fail_json(msg=str(error), results=[], exit_code=error.exit_code)
    except OSError as error:
        module.fail_json(
            msg="{0}: {1}".format(error.filename or "host", error.strerror or error),
            results=[],
            exit_code=exit_code_of(error),
        )
    module.exit_json(changed=result.changed, results=[result.as_dict()])


if __name__ == "__main__":
    main()
