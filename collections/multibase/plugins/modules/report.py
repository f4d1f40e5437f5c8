#!/usr/bin/python
# Copyright: Multibase contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: report
short_description: Tell all that is known of a host and its instances now
version_added: 0.2.0
description:
  - Returns what the sampler of the host saw last, which is what the panel shows. Where that is old or missing, the
    module looks itself, and tells what is wrong with the sampler.
  - The filter P(multibase.supabase.report#filter) makes a report of what one or many hosts answered.
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
seealso:
  - module: multibase.supabase.stats
  - plugin: multibase.supabase.report
    plugin_type: filter
"""

EXAMPLES = r"""
- name: Ask the hosts
  multibase.supabase.report:
  register: told
"""

RETURN = r"""
results:
  description: One element, the host.
  returned: success
  type: list
  elements: dict
  contains:
    name:
      description: Name of the host as it knows it itself; empty when nothing could be read.
      type: str
      returned: success
      sample: alpha.example.com
    changed:
      description: Always V(false).
      type: bool
      returned: success
      sample: false
    live:
      description: The live document, as docs/schemas/live.schema.json describes it; empty when nothing could be read.
      type: dict
      returned: success
      sample: {}
    problem:
      description: Why nothing could be read, or what is wrong with the sampler; empty when all is well.
      type: str
      returned: success
      sample: ""
    read_at:
      description: When the host was asked, by its own clock, in seconds since 1970.
      type: float
      returned: success
      sample: 1795700000.0
"""

import os
import time

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.multibase.supabase.plugins.module_utils import _engine, _report_host, _sampler
from ansible_collections.multibase.supabase.plugins.module_utils._layout import Layout


def main():
    """Entry point of the module."""
    module = AnsibleModule(
        argument_spec={
            "root": {"type": "path", "default": "/opt/multibase"},
            "docker_host": {"type": "str", "default": _engine.DEFAULT_HOST},
        },
        supports_check_mode=True,
    )
    layout = Layout(os.path.abspath(module.params["root"]))
    docker_host = module.params["docker_host"]
    # A look of our own may take a while; its figures are of the time when it began.
    now = time.time()
    live, problem = _report_host.read(
        layout, lambda: _engine.connect(docker_host, _sampler.ENGINE_SECONDS), now, module.warn
    )
    result = {
        "name": live["host"]["name"] if live else "",
        "changed": False,
        "live": live or {},
        "problem": problem,
        "read_at": now,
    }
    module.exit_json(changed=False, results=[result])


if __name__ == "__main__":
    main()
