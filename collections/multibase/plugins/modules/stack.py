#!/usr/bin/python
# Copyright: Multibase contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: stack
short_description: Start, stop, restart and remove the containers of instances
version_added: 0.1.0
description:
  - Brings the containers of any number of instances on one host to a state, several at once. Where nothing differs
    from what was
    recorded at the last start, nothing is run.
  - Waits until every service is healthy, and names the service and what it last printed when one does not become so.
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
    support: partial
    details:
      - Compares with the files that are there. What M(multibase.supabase.instance) would change of them in the same
        check run is not taken into account.
  diff_mode:
    support: none
    details:
      - Containers have no text to compare; RV(results[].actions) says what happens to each service.
  idempotent:
    support: partial
    details:
      - O(state=restarted) restarts each time. O(pull=always) asks the registry each time.
options:
  instances:
    description:
      - Names of the instances.
    type: list
    elements: str
    required: true
  state:
    description:
      - V(started) creates, recreates and starts whatever differs.
      - V(stopped) stops the containers and keeps them; it can never remove a volume.
      - V(restarted) starts what differs and restarts the rest.
      - V(absent) removes containers and networks, and volumes only with O(purge_volumes=true).
    type: str
    choices: [started, stopped, restarted, absent]
    default: started
  services:
    description:
      - Only these services, with O(state=restarted). All of the instance when empty.
    type: list
    elements: str
    default: []
  parallel:
    description:
      - How many instances are worked on at once.
    type: int
    default: 4
  timeout:
    description:
      - Seconds that each instance has to become what it should be, pulling included.
    type: int
    default: 600
  pull:
    description:
      - Which images are pulled before a start.
    type: str
    choices: [missing, always, never]
    default: missing
  purge_volumes:
    description:
      - Whether O(state=absent) removes the named volumes too. Each name must stand in O(confirmed).
    type: bool
    default: false
  confirmed:
    description:
      - Names of the instances whose volumes may be removed.
    type: list
    elements: str
    default: []
seealso:
  - module: multibase.supabase.instance
"""

EXAMPLES = r"""
- name: Start two instances
  multibase.supabase.stack:
    instances: [acme, beta]

- name: Restart one service of one
  multibase.supabase.stack:
    instances: [acme]
    services: [auth]
    state: restarted

- name: Stop one
  multibase.supabase.stack:
    instances: [beta]
    state: stopped
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
    state:
      description: V(running), V(stopped), V(partial) or V(absent).
      type: str
      returned: success
      sample: running
    health:
      description: V(healthy), V(starting), V(degraded), V(unhealthy) or V(stopped).
      type: str
      returned: success
      sample: healthy
    actions:
      description: What was done to each service, or in check mode why something would be done.
      type: list
      elements: str
      returned: success
      sample: [created db, created auth]
    failed:
      description: Whether this instance did not become what it should be.
      type: bool
      returned: success
      sample: false
    msg:
      description: Why it failed.
      type: str
      returned: success
      sample: ""
    seconds:
      description: How long it took.
      type: float
      returned: success
      sample: 8.1
"""

import os

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.multibase.supabase.plugins.module_utils import _engine
from ansible_collections.multibase.supabase.plugins.module_utils._compose import Compose
from ansible_collections.multibase.supabase.plugins.module_utils._errors import MultibaseError
from ansible_collections.multibase.supabase.plugins.module_utils._layout import Layout
from ansible_collections.multibase.supabase.plugins.module_utils._stacks import Runner, Settings


def argument_spec():
    """Return the argument spec of the module."""
    return {
        "root": {"type": "path", "default": "/opt/multibase"},
        "docker_host": {"type": "str", "default": _engine.DEFAULT_HOST},
        "lock_timeout": {"type": "int", "default": 60},
        "instances": {"type": "list", "elements": "str", "required": True},
        "state": {"type": "str", "choices": ["started", "stopped", "restarted", "absent"], "default": "started"},
        "services": {"type": "list", "elements": "str", "default": []},
        "parallel": {"type": "int", "default": 4},
        "timeout": {"type": "int", "default": 600},
        "pull": {"type": "str", "choices": ["missing", "always", "never"], "default": "missing"},
        "purge_volumes": {"type": "bool", "default": False},
        "confirmed": {"type": "list", "elements": "str", "default": [], "no_log": False},
    }


def run(params, check_mode):
    """Do what ``params`` say; return results as the module returns them."""
    if not params["instances"]:
        return []
    settings = Settings(
        state=params["state"],
        services=tuple(params["services"]),
        parallel=params["parallel"],
        timeout=params["timeout"],
        pull=params["pull"],
        purge_volumes=params["purge_volumes"],
        confirmed=frozenset(params["confirmed"]),
        lock_timeout=params["lock_timeout"],
        check_mode=check_mode,
    )
    docker_host = params["docker_host"]
    runner = Runner(
        Layout(os.path.abspath(params["root"])), _engine.connect(docker_host), Compose(docker_host), settings
    )
    return [result.as_dict() for result in runner.run(params["instances"])]


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
