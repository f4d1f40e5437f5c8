#!/usr/bin/python
# Copyright: Multibase contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: instance_info
short_description: Tell everything known about the instances of a host
version_added: 0.1.0
description:
  - Tells ports, addresses, release, services, state and health of instances. It never tells a secret and never
    changes anything.
author:
  - Multibase contributors (@multibase)
extends_documentation_fragment:
  - multibase.supabase._attributes
  - multibase.supabase._attributes.host
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
  instances:
    description:
      - Names of the instances to tell about. All on the host when empty.
      - A name that the host does not have is left out, so that one list serves several hosts.
    type: list
    elements: str
    default: []
  details:
    description:
      - Whether everything is told, what was declared and the names of variables and secrets included. Costs a few
        milliseconds for each instance, because its C(.env) is read and checked.
    type: bool
    default: false
seealso:
  - module: multibase.supabase.instance
"""

EXAMPLES = r"""
- name: Everything about all instances
  multibase.supabase.instance_info:
  register: known

- name: One of them in full
  multibase.supabase.instance_info:
    instances: [acme]
    details: true
  register: known
"""

RETURN = r"""
instances:
  description: One element per instance, sorted by name.
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
      description: V(running), V(partial), V(stopped), V(created) before the first start, V(damaged), V(deleting) when
        a deletion was interrupted, or V(unknown)
        without an Engine.
      type: str
      returned: success
      sample: running
    health:
      description: V(healthy), V(starting), V(degraded), V(unhealthy), V(stopped) or V(unknown).
      type: str
      returned: success
      sample: healthy
    problem:
      description: What is wrong with the instance, or why its state is unknown.
      type: str
      returned: success
      sample: ""
    environment:
      description: The environment it was declared for. Empty when it was declared for none.
      type: str
      returned: success
      sample: production
    labels:
      description: The labels it was declared with.
      type: dict
      returned: success
      sample: {team: web}
    blueprint:
      description: The blueprint it was made from. Empty when it was made from none.
      type: str
      returned: success
      sample: ""
    directory:
      description: Directory of the instance on the host.
      type: str
      returned: success
      sample: /opt/multibase/projects/acme
    project:
      description: Its Compose project.
      type: str
      returned: success
      sample: multibase-acme
    release:
      description: Release of its stack.
      type: str
      returned: success
      sample: 0.8.2
    gateway:
      description: Its gateway.
      type: str
      returned: success
      sample: envoy
    size:
      description: Its size.
      type: str
      returned: success
      sample: medium
    resources:
      description:
        - What all its services share, C(cpus) in cores and C(memory) in MiB. Empty for an instance that an older
          Multibase wrote.
        - With O(details=true) also C(services), what each of them gets of it.
      type: dict
      returned: success
      sample: {cpus: 2.0, memory: 4096}
    bind_address:
      description: Address that its ports are bound to.
      type: str
      returned: success
      sample: 127.0.0.1
    ports:
      description: Published ports by purpose.
      type: dict
      returned: success
      sample: {gateway_http: 20000}
    urls:
      description: Where it can be reached, without passwords.
      type: dict
      returned: success
      sample: {api: "http://127.0.0.1:20000"}
    subnet:
      description: Its network.
      type: str
      returned: success
      sample: 10.213.0.0/26
    services:
      description: Its services, each with name, state, health, status, image, container and published ports.
      type: list
      elements: dict
      returned: success
      sample: [{name: db, state: running, health: healthy}]
    declared:
      description: The options that were declared for it, without secrets.
      type: dict
      returned: when O(details=true)
      sample: {size: medium}
    env:
      description: Names of the variables that the user set with C(env), by service; those for all of them are below "".
      type: dict
      returned: when O(details=true)
      sample: {auth: [GOTRUE_LOG_LEVEL]}
    user_secrets:
      description: Names of the secrets that the user brought, by service. Those for all services are below "".
      type: dict
      returned: when O(details=true)
      sample: {"": [SMTP_PASS]}
    secrets:
      description: Fingerprints of the secrets that were generated for it, under a salt of its own.
      type: dict
      returned: when O(details=true)
      sample: {ANON_KEY: "fingerprint:0123456789ab"}
    edited_secrets:
      description: Generated secrets that were changed by hand. Services may not know the new value.
      type: list
      elements: str
      returned: when O(details=true)
      sample: []
    added_variables:
      description: Names of variables that were added to its C(.env) by hand.
      type: list
      elements: str
      returned: when O(details=true)
      sample: []
    compose_files:
      description: The Compose files that it is made of, in their order, relative to its directory.
      type: list
      elements: str
      returned: when O(details=true)
      sample: [docker-compose.yml]
"""

import os

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.multibase.supabase.plugins.module_utils import _engine
from ansible_collections.multibase.supabase.plugins.module_utils._errors import EngineUnavailable, MultibaseError
from ansible_collections.multibase.supabase.plugins.module_utils._info import describe_all, interrupted_deletions
from ansible_collections.multibase.supabase.plugins.module_utils._layout import Layout


def main():
    """Entry point of the module."""
    module = AnsibleModule(
        argument_spec={
            "root": {"type": "path", "default": "/opt/multibase"},
            "docker_host": {"type": "str", "default": _engine.DEFAULT_HOST},
            "instances": {"type": "list", "elements": "str", "default": []},
            "details": {"type": "bool", "default": False},
        },
        supports_check_mode=True,
    )
    layout = Layout(os.path.abspath(module.params["root"]))
    wanted = set(module.params["instances"])
    engine, trouble = None, "there is no Docker Engine on this host"
    try:
        there = sorted({*layout.instance_names(), *interrupted_deletions(layout)})
        names = [name for name in there if not wanted or name in wanted]
        try:
            engine = _engine.connect_if_present(module.params["docker_host"]) if names else None
        except EngineUnavailable as error:
            trouble = str(error)
        instances = describe_all(layout, names, engine, trouble, module.params["details"])
    except MultibaseError as error:
        module.fail_json(msg=str(error))
    except OSError as error:
        module.fail_json(msg="{0}: {1}".format(error.filename or layout.root, error.strerror or error))
    module.exit_json(changed=False, instances=instances)


if __name__ == "__main__":
    main()
