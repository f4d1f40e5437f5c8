#!/usr/bin/python
# Copyright: Multibase contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: backup
short_description: Back instances up, and restore each backup once to know that it is one
version_added: 0.2.0
description:
  - Dumps the databases of instances with the programs of their own containers, packs their files, and publishes all
    with a signed manifest that comes last.
  - Then restores the backup into a scratch container without a network and compares every table, right, role and
    file with the manifest. Only then does it count as verified.
  - One instance that fails does not keep the others from being done; the module fails at the end and RV(results)
    tells which.
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
      - With O(state=pruned) it tells what would be deleted. Otherwise it tells that there would be a backup.
  diff_mode:
    support: none
    details:
      - A backup has no text to compare.
  idempotent:
    support: none
    details:
      - Each run takes a backup of its own.
options:
  instances:
    description:
      - Names of the instances.
    type: list
    elements: str
    required: true
  state:
    description:
      - V(taken) takes a backup.
      - V(verified) restores O(backup) once more and compares it with its manifest.
      - V(pruned) deletes the backups that O(retention) lets go.
      - V(exported) writes C(roles.sql), C(schema.sql) and C(data.sql) as C(supabase db dump) would, for moving
        to or from the cloud service, to a new directory below C(exports) of O(root).
    type: str
    choices: [taken, verified, pruned, exported]
    default: taken
  backup:
    description:
      - Which backup O(state=verified) is about, by the time in its file names; the newest one when it is not given.
    type: str
  scope:
    description:
      - V(full) takes databases, files of Storage, functions, snippets, configuration and the Vault root key.
      - V(database) takes databases and roles only.
    type: str
    choices: [full, database]
    default: full
  format:
    description:
      - V(plain) is SQL that any tool reads, compressed with gzip.
      - V(custom) is the format of C(pg_restore), compressed with zstd; it is several times faster.
    type: str
    choices: [plain, custom]
    default: plain
  level:
    description:
      - How hard to compress; V(0) is 5 for gzip and 3 for zstd.
      - gzip at 5 takes a quarter less processor time than at its own default 6, and makes files that are 0.6 % larger.
    type: int
    default: 0
  verify:
    description:
      - Whether the backup is restored once after it was taken.
    type: bool
    default: true
  pinned:
    description:
      - Whether the backup is never deleted by a policy.
    type: bool
    default: false
  retention:
    description:
      - Which backups are kept, with any of C(keep_last), C(keep_hourly), C(keep_daily), C(keep_weekly),
        C(keep_monthly), C(keep_yearly), C(keep_within_days), C(max_bytes), C(minimum_verified).
      - Nothing is deleted when it is empty. Never are there fewer than two verified backups afterwards.
    type: dict
    default: {}
  timeout:
    description:
      - Seconds that one dump, or loading one, may take.
    type: int
    default: 14400
seealso:
  - module: multibase.supabase.backup_info
  - module: multibase.supabase.restore
"""

EXAMPLES = r"""
- name: Back two instances up, and keep a week of daily backups
  multibase.supabase.backup:
    instances: [acme, beta]
    retention: {keep_daily: 7}

- name: Restore the newest backup once more, to see that it still can be
  multibase.supabase.backup:
    instances: [acme]
    state: verified
"""

RETURN = r"""
results:
  description: One element per instance, in the order of O(instances).
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
    stem:
      description: The time in the names of its files, in UTC with milliseconds.
      type: str
      returned: success
      sample: 20261125T023000123Z
    size:
      description: Bytes of all its files.
      type: int
      returned: success
      sample: 34164
    verified:
      description: Whether it was restored and is what its manifest says.
      type: bool
      returned: success
      sample: true
    seconds:
      description: How long it took, without verifying.
      type: float
      returned: success
      sample: 1.6
    verify_seconds:
      description: How long verifying took.
      type: float
      returned: success
      sample: 4.7
    pruned:
      description: The backups that were deleted.
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
    directory:
      description: Where it lies on the host.
      type: str
      returned: success
      sample: /opt/multibase/backups/acme
    failed:
      description: Whether it failed.
      type: bool
      returned: success
      sample: false
    exit_code:
      description: The exit status that the host's own tool would have.
      type: int
      returned: success
      sample: 0
    msg:
      description: Why it failed.
      type: str
      returned: success
      sample: ""
"""

import os

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.multibase.supabase.plugins.module_utils import _backup, _backup_job, _engine, _retention
from ansible_collections.multibase.supabase.plugins.module_utils._compose import Compose
from ansible_collections.multibase.supabase.plugins.module_utils._errors import MultibaseError, exit_code_of
from ansible_collections.multibase.supabase.plugins.module_utils._layout import Layout


def argument_spec():
    """Return the argument spec of the module."""
    return {
        "root": {"type": "path", "default": "/opt/multibase"},
        "docker_host": {"type": "str", "default": _engine.DEFAULT_HOST},
        "lock_timeout": {"type": "int", "default": 60},
        "instances": {"type": "list", "elements": "str", "required": True},
        "state": {"type": "str", "choices": ["taken", "verified", "pruned", "exported"], "default": "taken"},
        "backup": {"type": "str"},
        "scope": {"type": "str", "choices": ["full", "database"], "default": "full"},
        "format": {"type": "str", "choices": ["plain", "custom"], "default": "plain"},
        "level": {"type": "int", "default": 0},
        "verify": {"type": "bool", "default": True},
        "pinned": {"type": "bool", "default": False},
        "retention": {"type": "dict", "default": {}},
        "timeout": {"type": "int", "default": 14400},
    }


def one(host, name, params, policy, check_mode):
    """Do what ``params`` say for one instance; return its result."""
    if params["state"] == "pruned":
        plan = _backup_job.prune(host, name, policy, params["lock_timeout"], check_mode)
        notes = ["nothing was pruned: " + plan.refused] if plan.refused else []
        notes += ["no longer kept of a restore: " + path for path in plan.directories]
        return {"changed": bool(plan.remove or plan.directories), "pruned": plan.remove, "notes": notes}
    host.layout.known(name)
    if check_mode:
        return {"changed": True}
    if params["state"] == "verified":
        return {"changed": True, **_backup_job.verify(host, name, params["backup"], params["lock_timeout"])}
    if params["state"] == "exported":
        return {"changed": True, **_backup_job.export(host, name, params["lock_timeout"], params["timeout"])}
    options = _backup.Options(
        scope=params["scope"],
        format=params["format"],
        level=params["level"],
        verify=params["verify"],
        timeout=params["timeout"],
        lock_timeout=params["lock_timeout"],
        pinned=params["pinned"],
    )
    return {"changed": True, **_backup_job.run(host, name, options, policy).as_dict()}


def run(params, check_mode):
    """Do what ``params`` say; return results as the module returns them."""
    policy = _retention.read_policy(params["retention"]) if params["retention"] else None
    if params["state"] == "pruned" and policy is None:
        raise MultibaseError("state=pruned needs a retention policy")
    if not params["instances"]:
        return []
    docker_host = params["docker_host"]
    host = _backup_job.Host(
        Layout(os.path.abspath(params["root"])), _engine.connect(docker_host), Compose(docker_host), docker_host
    )
    results = []
    for name in params["instances"]:
        result = {"name": name, "changed": False, "failed": False, "msg": "", "exit_code": 0}
        try:
            result.update(one(host, name, params, policy, check_mode))
        except MultibaseError as error:
            result.update(failed=True, msg="instance {0}: {1}".format(name, error), exit_code=error.exit_code)
        except OSError as error:
            result.update(failed=True, msg="instance {0}: {1}".format(name, error), exit_code=exit_code_of(error))
        results.append(result)
    return results


def main():
    """Entry point of the module."""
    module = AnsibleModule(argument_spec=argument_spec(), supports_check_mode=True)
    try:
        results = run(module.params, module.check_mode)
    except MultibaseError as error:
        module.fail_json(msg=str(error), results=[])
    except OSError as error:
        module.fail_json(msg="{0}: {1}".format(error.filename or "host", error.strerror or error), results=[])
    changed = any(result["changed"] for result in results)
    failures = [result["msg"] for result in results if result["failed"]]
    if failures:
        module.fail_json(msg="\n".join(failures), changed=changed, results=results)
    module.exit_json(changed=changed, results=results)


if __name__ == "__main__":
    main()
