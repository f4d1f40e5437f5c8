#!/usr/bin/python
# Copyright: Multibase contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: remains_info
short_description: Tell what of Multibase is on a host
version_added: 0.1.0
description:
  - Tells which files, directories, units, rules, packages, containers, networks, volumes and images of Multibase a host
    has, for removing it and for saying what remains. It never changes anything.
  - Works on a host without Docker, where Multibase was never installed, or only half.
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
  sizes:
    description:
      - Whether the sizes of directories and volumes are measured. That takes as long as C(du) does.
    type: bool
    default: false
  packages:
    description:
      - Packages to look for.
    type: list
    elements: str
    default: []
seealso:
  - module: multibase.supabase.instance_info
"""

EXAMPLES = r"""
- name: What is left, and how large is it
  multibase.supabase.remains_info:
    sizes: true
    packages: [docker.io, nginx]
  register: left
"""

RETURN = r"""
remains:
  description: What the host has.
  returned: success
  type: dict
  contains:
    root:
      description: What lies directly below O(root), each with C(path) and, when asked for, C(bytes).
      type: list
      elements: dict
      returned: success
      sample: [{path: /opt/multibase/projects, bytes: 52428800}]
    data:
      description: Whether there are instances, backups or exports.
      type: bool
      returned: success
      sample: true
    mounts:
      description: Mount points at or below O(root).
      type: list
      elements: str
      returned: success
      sample: []
    files:
      description:
        - What lies elsewhere, each with C(path), C(kind) and C(kept). Kept is what does not say that it is ours, what
          a person may have put there, and what guards the host. C(lines) are those of C(nginx.conf) with our numbers.
        - Passwords of people below O(root) that nobody has taken yet are told here too.
      type: list
      elements: dict
      returned: success
      sample: [{path: /etc/cron.d/multibase, kind: cron, kept: false}]
    user:
      description: Whether there is a system user of ours.
      type: bool
      returned: success
      sample: true
    group:
      description: Whether there is a group of ours.
      type: bool
      returned: success
      sample: true
    table:
      description: Whether the packet filter has our table.
      type: bool
      returned: success
      sample: false
    packages:
      description: Those of O(packages) that are installed.
      type: list
      elements: str
      returned: success
      sample: [docker.io]
    engine:
      description: V(running), V(absent), or V(silent) for one that is installed and does not answer.
      type: str
      returned: success
      sample: running
    problem:
      description: Why the Engine does not answer.
      type: str
      returned: success
      sample: ""
    containers:
      description: Containers of instances, each with C(name) and C(instance).
      type: list
      elements: dict
      returned: success
      sample: [{name: multibase-acme-db-1, instance: acme, path: ""}]
    networks:
      description: Networks of instances.
      type: list
      elements: dict
      returned: success
      sample: [{name: multibase-acme_default, instance: acme, path: ""}]
    volumes:
      description: Volumes of instances, with C(path) and, when asked for, C(bytes).
      type: list
      elements: dict
      returned: success
      sample: [{name: multibase-acme_db-config, instance: acme, path: /var/lib/docker/volumes/config}]
    others:
      description: Names of containers that are of no instance.
      type: list
      elements: str
      returned: success
      sample: []
    images:
      description: All images of the Engine, each with C(name) and C(bytes).
      type: list
      elements: dict
      returned: success
      sample: [{name: "supabase/postgres:17.6.1", bytes: 1234567890}]
"""

import os
import shutil

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.multibase.supabase.plugins.module_utils import _engine, _process, _remains
from ansible_collections.multibase.supabase.plugins.module_utils._errors import EngineUnavailable, MultibaseError


def command(argv, timeout):
    """Run a program of the host without its words in another language."""
    return _process.run(argv, "/", _process.clean_environment(), timeout)


def of_engine(docker_host, sizes):
    """Return what the Engine has, and how it is."""
    told = {"engine": "running", "problem": ""}
    nothing = {kind: [] for kind in ("containers", "networks", "volumes", "others", "images")}
    try:
        return dict(told, **_remains.of_engine(_engine.connect(docker_host), sizes, command))
    except EngineUnavailable as error:
        installed = any(shutil.which("dockerd", path=path) for path in (None, "/usr/sbin:/usr/bin:/usr/local/bin"))
        state = "silent" if installed else "absent"
        return dict(nothing, engine=state, problem=str(error))


def survey(params):
    """Return all that is told."""
    root = os.path.abspath(params["root"])
    with open("/proc/self/mountinfo", encoding="utf-8", errors="replace") as stream:
        mounts = _remains.mounts_below(root, stream.read())
    paths = _remains.children(root)
    rows = [{"path": path} for path in paths]
    if params["sizes"]:
        known = _remains.sizes(paths, command)
        rows = [{"path": path, "bytes": known.get(path, 0)} for path in paths]
    return dict(
        of_engine(params["docker_host"], params["sizes"]),
        root=rows,
        data=_remains.holds_data(root),
        mounts=mounts,
        files=_remains.files() + _remains.untaken_passwords(root),
        table=_remains.has_table(command),
        packages=_remains.packages(params["packages"], command),
        **_remains.account(),
    )


def main():
    """Entry point of the module."""
    module = AnsibleModule(
        argument_spec={
            "root": {"type": "path", "default": "/opt/multibase"},
            "docker_host": {"type": "str", "default": _engine.DEFAULT_HOST},
            "sizes": {"type": "bool", "default": False},
            "packages": {"type": "list", "elements": "str", "default": []},
        },
        supports_check_mode=True,
    )
    try:
        remains = survey(module.params)
    except MultibaseError as error:
        module.fail_json(msg=str(error))
    except OSError as error:
        module.fail_json(msg="{0}: {1}".format(error.filename or "host", error.strerror or error))
    module.exit_json(changed=False, remains=remains)


if __name__ == "__main__":
    main()
