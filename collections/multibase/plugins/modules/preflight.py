#!/usr/bin/python
# Copyright: Multibase contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: preflight
short_description: Tell whether a host can carry Multibase and the instances declared for it
version_added: 0.1.0
description:
  - Looks at the system, the kernel, processors, memory, filesystems, clock, domains, ports and what Docker is there,
    and tells all it found, with a remedy for whatever is not as it should be.
  - It never changes anything, starts no program and needs nothing but Python, so that it runs on a host where nothing
    has been done yet. Without root it sees less, and says so.
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
      - The instances that the host shall carry. Those that it has besides are counted too, where they can be read.
      - The filter P(multibase.supabase.preflight_instances#filter) makes this of what an inventory declares.
    type: list
    elements: dict
    default: []
    suboptions:
      name:
        description: Name of the instance.
        type: str
        required: true
      size:
        description: Its size, V(small), V(medium), V(large) or a dictionary of C(cpus) and C(memory).
        type: raw
        default: medium
      domain:
        description: Name under which clients reach it.
        type: str
        default: ""
      public_url:
        description: Address under which clients reach it.
        type: str
        default: ""
      storage:
        description: Whether it keeps files of its users on the host's own filesystem.
        type: bool
        default: true
  docker_data_root:
    description:
      - Where Docker will keep images, if it is not there yet and no C(daemon.json) says so.
    type: str
    default: ""
  proxy:
    description: Whether the host shall have the proxy, which needs O(proxy_ports).
    type: bool
    default: false
  proxy_ports:
    description: Ports of the proxy.
    type: list
    elements: int
    default: [80, 443]
  addresses:
    description:
      - Addresses, and names that have some, that a domain may lead to besides the host's own, those of a load balancer
        for example.
    type: list
    elements: str
    default: []
  dns_required:
    description: Whether a domain that leads nowhere or elsewhere is a failure and no warning.
    type: bool
    default: false
  port_range:
    description: Where instances get their ports from.
    type: str
    default: 20000-32759
  overcommit_cpus:
    description: How many times over the processors may be promised to instances. V(0) is without limit.
    type: float
    default: 8
  overcommit_memory:
    description: How many times over the memory may be promised to instances. V(0) is without limit.
    type: float
    default: 2
  minimum_cpus:
    description: Fewer processors are a warning.
    type: int
    default: 2
  minimum_memory:
    description: Less memory, in GiB, is a warning.
    type: float
    default: 2
  image_space:
    description: Space in GiB that the images take before the first one is there.
    type: float
    default: 10
  data_space:
    description: Space in GiB for the data of a new instance, for each GiB of memory of its size.
    type: float
    default: 2
  reference_time:
    description: The controller's time in seconds since 1970, to compare the host's clock with.
    type: float
  strict:
    description: Whether warnings count as failures for RV(ok).
    type: bool
    default: false
  skip:
    description: Names of checks to leave out.
    type: list
    elements: str
    default: []
seealso:
  - module: multibase.supabase.instance
"""

EXAMPLES = r"""
- name: Look at a host that shall carry two instances
  multibase.supabase.preflight:
    instances:
      - name: acme
        size: large
        public_url: https://acme.example.com
      - name: beta
        size: {cpus: 0.5, memory: 1g}
  register: looked

- name: Say what is wrong
  ansible.builtin.debug:
    msg: "{{ looked.findings | rejectattr('level', 'equalto', 'ok') }}"
"""

RETURN = r"""
ok:
  description: Whether there is no failure, and with O(strict=true) no warning.
  type: bool
  returned: success
  sample: true
findings:
  description: What was found, in the order of the checks. A check tells one or several things.
  type: list
  elements: dict
  returned: success
  contains:
    check:
      description: Name of the check.
      type: str
      returned: success
      sample: memory
    level:
      description: V(ok), V(warning) or V(failure).
      type: str
      returned: success
      sample: warning
    found:
      description: What there is. What could not be read is V(ok) and says so.
      type: str
      returned: success
      sample: "3.8 GiB, promised to 2 instances: 6.0 GiB"
    needed:
      description: What there should be.
      type: str
      returned: success
      sample: 2 GiB or more
    remedy:
      description: What to do about it. Empty where it is V(ok).
      type: str
      returned: success
      sample: instances cannot all use what they may; watch the host, add memory or swap
"""

import os

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.multibase.supabase.plugins.module_utils import _engine, _preflight, _preflight_facts


def argument_spec():
    """Return the options of the module."""
    return {
        "root": {"type": "path", "default": "/opt/multibase"},
        "docker_host": {"type": "str", "default": _engine.DEFAULT_HOST},
        "instances": {
            "type": "list",
            "elements": "dict",
            "default": [],
            "options": {
                "name": {"type": "str", "required": True},
                "size": {"type": "raw", "default": "medium"},
                "domain": {"type": "str", "default": ""},
                "public_url": {"type": "str", "default": ""},
                "storage": {"type": "bool", "default": True},
            },
        },
        "docker_data_root": {"type": "str", "default": ""},
        "proxy": {"type": "bool", "default": False},
        "proxy_ports": {"type": "list", "elements": "int", "default": [80, 443]},
        "addresses": {"type": "list", "elements": "str", "default": []},
        "dns_required": {"type": "bool", "default": False},
        "port_range": {"type": "str", "default": "20000-32759"},
        "overcommit_cpus": {"type": "float", "default": 8},
        "overcommit_memory": {"type": "float", "default": 2},
        "minimum_cpus": {"type": "int", "default": 2},
        "minimum_memory": {"type": "float", "default": 2},
        "image_space": {"type": "float", "default": 10},
        "data_space": {"type": "float", "default": 2},
        "reference_time": {"type": "float"},
        "strict": {"type": "bool", "default": False},
        "skip": {"type": "list", "elements": "str", "default": []},
    }


def main():
    """Entry point of the module."""
    module = AnsibleModule(argument_spec=argument_spec(), supports_check_mode=True)
    params = module.params
    unknown = sorted(set(params["skip"]) - set(_preflight.NAMES))
    if unknown:
        module.fail_json(
            msg="skip: there is no check {0}; there are: {1}".format(", ".join(unknown), ", ".join(_preflight.NAMES))
        )
    wanted = _preflight.wanted_from(params, os.path.normpath(params["root"]), _preflight_facts.resolve)
    place = _preflight_facts.Place(docker_host=params["docker_host"], data_root=params["docker_data_root"])
    facts = _preflight_facts.gather(wanted, place, params["reference_time"])
    findings = _preflight.examine(facts, wanted, frozenset(params["skip"]))
    bad = ("failure", "warning") if params["strict"] else ("failure",)
    module.exit_json(
        changed=False,
        ok=not any(finding.level in bad for finding in findings),
        findings=[finding.as_dict() for finding in findings],
    )


if __name__ == "__main__":
    main()
