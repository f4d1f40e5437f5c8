#!/usr/bin/python
# Copyright: Multibase contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: instance
short_description: Create, change and delete Supabase instances on a host
version_added: 0.1.0
description:
  - Makes the directories of any number of instances on one host what was declared, in one call. Each gets a block of
    ten ports, a
    subnet and secrets of its own when it is created, and keeps them.
  - Everything is validated before the first write, and all mistakes are reported together.
  - Containers are not touched; that is the business of M(multibase.supabase.stack).
  - The directory is complete when it appears. A run that is killed leaves the old state or the new one, and the next
    run finishes.
author:
  - Multibase contributors (@multibase)
extends_documentation_fragment:
  - multibase.supabase._attributes
  - multibase.supabase._attributes.host
  - multibase.supabase._attributes.lock
  - multibase.supabase.instance_options
attributes:
  check_mode:
    support: full
  diff_mode:
    support: full
    details:
      - Secrets are shown as fingerprints under a salt that each instance has of its own.
  idempotent:
    support: full
options:
  template_root:
    description:
      - Directory on the controller that holds one directory per release, as C(compose_templates) of this project does.
      - Read by the action plugin of the same name; there is no guess where it could be.
    type: path
    required: true
  bundles:
    description:
      - The releases as read from O(template_root). Filled in by the action plugin; do not set it.
    type: dict
  keep_unmentioned:
    description:
      - Whether options that are not given keep the value that was recorded for the instance, instead of their default.
    type: bool
    default: false
  port_range:
    description:
      - Range that port blocks are taken from.
    type: str
    default: 20000-32759
  subnet_pool:
    description:
      - Network that subnets (a /26 each) are taken from.
    type: str
    default: 10.213.0.0/16
  overcommit_cpus:
    description:
      - How many times over the processors of the host may be promised to instances. V(0) is without limit.
    type: float
    default: 8
  overcommit_memory:
    description:
      - How many times over its memory may be promised. V(0) is without limit.
    type: float
    default: 2
  confirmed:
    description:
      - Names of the instances that may be deleted.
    type: list
    elements: str
    default: []
seealso:
  - module: multibase.supabase.stack
  - module: multibase.supabase.instance_info
"""

EXAMPLES = r"""
- name: Two instances
  multibase.supabase.instance:
    template_root: "{{ playbook_dir }}/../compose_templates"
    instances:
      - name: acme
        public_url: https://acme.example.com
      - name: beta
        size: small
        services: {storage: false, imgproxy: false}

- name: Delete one
  multibase.supabase.instance:
    template_root: "{{ playbook_dir }}/../compose_templates"
    instances:
      - name: beta
        state: absent
    confirmed: [beta]
"""

RETURN = r"""
results:
  description: One element per instance, in the order of O(instances).
  returned: success
  type: list
  elements: dict
  contains:
    name:
      description: Name of the instance.
      type: str
      returned: success
      sample: acme
    state:
      description: V(present) or V(absent).
      type: str
      returned: success
      sample: present
    changed:
      description: Whether anything was changed.
      type: bool
      returned: success
      sample: true
    actions:
      description: What was done, or in check mode would be.
      type: list
      elements: str
      returned: success
      sample: [changed .env, changed volumes/api/envoy.json]
    ports:
      description: Published ports by purpose.
      type: dict
      returned: success
      sample: {gateway_http: 20000, pooler_session: 20003, pooler_transaction: 20004}
    urls:
      description: Where the instance can be reached, without passwords.
      type: dict
      returned: success
      sample: {api: "http://127.0.0.1:20000"}
    env:
      description: Names of variables that O(instances[].env) sets, by service; those of C(.env) under an empty name.
      type: dict
      returned: success
      sample: {functions: [FEATURE_FLAGS]}
    directory:
      description: Directory of the instance on the host.
      type: str
      returned: success
      sample: /opt/multibase/projects/acme
problems:
  description: Every mistake in what was declared, one sentence each.
  returned: when the declaration is refused
  type: list
  elements: str
  sample: ["instance acme: unknown service 'postgrest'; release 0.8.2 has api-gw, auth, db"]
"""

import os
import time

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.multibase.supabase.plugins.module_utils import _engine
from ansible_collections.multibase.supabase.plugins.module_utils._errors import InvalidInput, MultibaseError
from ansible_collections.multibase.supabase.plugins.module_utils._host_secrets import filled_in
from ansible_collections.multibase.supabase.plugins.module_utils._instances import Converger, Request
from ansible_collections.multibase.supabase.plugins.module_utils._layout import Layout
from ansible_collections.multibase.supabase.plugins.module_utils._options import (
    blueprint_options,
    common_options,
    instance_options,
)
from ansible_collections.multibase.supabase.plugins.module_utils._ports import DEFAULT_RANGE, parse_port_range
from ansible_collections.multibase.supabase.plugins.module_utils._release import release_from_bundle
from ansible_collections.multibase.supabase.plugins.module_utils._sizes import Capacity
from ansible_collections.multibase.supabase.plugins.module_utils._spec import Layers, without_unset
from ansible_collections.multibase.supabase.plugins.module_utils._subnets import DEFAULT_POOL, parse_pool


def argument_spec():
    """Return the argument spec of the module."""
    return {
        "root": {"type": "path", "default": "/opt/multibase"},
        "docker_host": {"type": "str", "default": _engine.DEFAULT_HOST},
        "lock_timeout": {"type": "int", "default": 60},
        "template_root": {"type": "path", "required": True},
        "bundles": {"type": "dict"},
        "instances": {"type": "list", "elements": "dict", "required": True, "options": instance_options()},
        "defaults": {"type": "dict", "default": {}, "options": common_options()},
        "keep_unmentioned": {"type": "bool", "default": False},
        "blueprints": {"type": "list", "elements": "dict", "default": [], "options": blueprint_options()},
        "overcommit_cpus": {"type": "float", "default": 8},
        "overcommit_memory": {"type": "float", "default": 2},
        "port_range": {"type": "str", "default": DEFAULT_RANGE},
        "subnet_pool": {"type": "str", "default": DEFAULT_POOL},
        "confirmed": {"type": "list", "elements": "str", "default": [], "no_log": False},
    }


def converge(params, check_mode, with_diff):
    """Do what ``params`` say; return results as the module returns them, diffs and warnings."""
    problems = []

    def parsed(parse, option, fallback):
        try:
            return parse(params[option])
        except MultibaseError as error:
            problems.append(str(error))
            return parse(fallback)

    def with_secrets(label, options):
        filled, found = filled_in(label, without_unset(options))
        problems.extend(found)
        return filled

    layers = Layers(
        with_secrets("defaults", params["defaults"]),
        {entry["name"]: with_secrets("blueprint " + entry["name"], entry) for entry in params["blueprints"]},
    )
    instances = [with_secrets("instance {0}".format(item["name"]), item) for item in params["instances"]]
    request = Request(
        layout=Layout(os.path.abspath(params["root"])),
        releases={name: release_from_bundle(name, bundle) for name, bundle in (params["bundles"] or {}).items()},
        ports=parsed(parse_port_range, "port_range", DEFAULT_RANGE),
        subnet_pool=parsed(parse_pool, "subnet_pool", DEFAULT_POOL),
        layers=layers,
        keep_unmentioned=params["keep_unmentioned"],
        confirmed=frozenset(params["confirmed"]),
        lock_timeout=params["lock_timeout"],
        check_mode=check_mode,
        with_diff=with_diff,
        capacity=Capacity(
            # Not cpu_count: Docker too counts the processors that it may use, not those that there are.
            cpus=len(os.sched_getaffinity(0)),
            memory=os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") >> 20,
            cpu_factor=params["overcommit_cpus"],
            memory_factor=params["overcommit_memory"],
        ),
        now=int(time.time()),
    )
    converger = Converger(request, lambda: _engine.connect_if_present(params["docker_host"]))
    results = converger.run(instances, problems)
    diff = [entry for result in results for entry in result.diff]
    warnings = converger.warnings + [warning for result in results for warning in result.warnings]
    return [result.as_dict() for result in results], diff, warnings


def main():
    """Entry point of the module."""
    module = AnsibleModule(argument_spec=argument_spec(), supports_check_mode=True)
    try:
        # _diff is how Ansible tells a module that the user asked for a diff.
        results, diff, warnings = converge(module.params, module.check_mode, module._diff)
    except InvalidInput as error:
        module.fail_json(msg=str(error), problems=error.problems, results=[])
    except MultibaseError as error:
        module.fail_json(msg=str(error), results=[])
    except OSError as error:
        place = error.filename or module.params["root"]
        module.fail_json(msg="{0}: {1}".format(place, error.strerror or error), results=[])
    for warning in warnings:
        module.warn(warning)
    returned = {"changed": any(result["changed"] for result in results), "results": results}
    if diff:
        returned["diff"] = diff
    module.exit_json(**returned)


if __name__ == "__main__":
    main()
