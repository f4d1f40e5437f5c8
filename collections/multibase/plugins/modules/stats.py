#!/usr/bin/python
# Copyright: Multibase contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: stats
short_description: Tell what instances and their host use
version_added: 0.1.0
description:
  - Returns processor, memory, network, disks, processes, restarts and health of every instance and its services, and
    the host's own figures, in one call.
  - Where the sampler runs (the role multibase_monitor), what it saw last is returned. Elsewhere the module looks
    itself, and compares with what it saw the time before, which it keeps on the host; the first time there are no
    rates.
author:
  - Multibase contributors (@multibase)
extends_documentation_fragment:
  - multibase.supabase._attributes
attributes:
  check_mode:
    support: full
  diff_mode:
    support: none
    details:
      - Nothing is changed.
  idempotent:
    support: full
options:
  root:
    description:
      - Directory on the host below which everything of Multibase lies.
    type: path
    default: /opt/multibase
  docker_host:
    description:
      - Address of the Docker Engine.
    type: str
    default: unix:///var/run/docker.sock
  instances:
    description:
      - Names of the instances to tell about; all when there are none.
    type: list
    elements: str
    default: []
seealso:
  - module: multibase.supabase.instance_info
"""

EXAMPLES = r"""
- name: See what acme uses
  multibase.supabase.stats:
    instances: [acme]
  register: used
"""

RETURN = r"""
results:
  description:
    - The instances, sorted by name. Figures that are not known are null.
  returned: success
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
    state:
      description: How it is, V(healthy), V(degraded), V(starting), V(unhealthy), V(stopped), V(damaged) or V(unknown).
      type: str
      returned: success
      sample: healthy
    use:
      description: What its services use together, see docs/schemas/live.schema.json.
      type: dict
      returned: success
      sample: {cpu_percent: 3.2, memory_bytes: 412000000}
    restarts:
      description: How often containers were restarted by the Engine.
      type: int
      returned: success
      sample: 0
    services:
      description: Each service with C(name), C(state), C(health), C(restarts), C(use) and more.
      type: list
      elements: dict
      returned: success
      sample: []
    database:
      description: Figures of its database, null when it was not asked yet.
      type: dict
      returned: success
      sample: {size_bytes: 31000000}
    disk:
      description: Bytes of its database, its stored objects and its backups.
      type: dict
      returned: success
      sample: {database_bytes: 48000000}
host:
  description:
    - The host's own figures.
  returned: success
  type: dict
  sample: {cpus: 2, cpu_percent: 12.5}
sampled_at:
  description:
    - When this was seen, in seconds since 1970.
  returned: success
  type: float
  sample: 1795700000.0
source:
  description:
    - V(sampler), or V(look) when the module had to look itself.
  returned: success
  type: str
  sample: sampler
"""

import os
import time

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.multibase.supabase.plugins.module_utils import _sampler, _stats
from ansible_collections.multibase.supabase.plugins.module_utils._engine import DEFAULT_HOST, connect
from ansible_collections.multibase.supabase.plugins.module_utils._errors import MultibaseError
from ansible_collections.multibase.supabase.plugins.module_utils._layout import Layout


def main():
    """Entry point of the module."""
    module = AnsibleModule(
        argument_spec={
            "root": {"type": "path", "default": "/opt/multibase"},
            "docker_host": {"type": "str", "default": DEFAULT_HOST},
            "instances": {"type": "list", "elements": "str", "default": []},
        },
        supports_check_mode=True,
    )
    layout = Layout(os.path.abspath(module.params["root"]))
    docker_host = module.params["docker_host"]
    try:
        names = module.params["instances"]
        live, source = _stats.current(
            layout, lambda: connect(docker_host, _sampler.ENGINE_SECONDS), time.time(), module.warn, names
        )
        results = _stats.results(live, names)
    except MultibaseError as error:
        module.fail_json(msg=str(error), results=[])
    except OSError as error:
        module.fail_json(msg="{0}: {1}".format(error.filename or "host", error.strerror or error), results=[])
    module.exit_json(
        changed=False, results=results, host=live["host"], sampled_at=live["sampled_at"], source=source
    )


if __name__ == "__main__":
    main()
