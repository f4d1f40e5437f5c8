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
  instances:
    description:
      - The instances.
    type: list
    elements: dict
    required: true
    suboptions: &instance
      name:
        description:
          - Name of the instance, 1 to 40 lower-case letters, digits and single hyphens; a letter first.
        type: str
        required: true
      state:
        description:
          - V(absent) deletes the directory with all data. It needs the name in O(confirmed) and refuses while the
            Engine still has
            containers, networks or volumes of the instance.
        type: str
        choices: [present, absent]
        default: present
      port_base:
        description:
          - First port of the block, when a certain one is wanted. Otherwise the first free block of O(port_range) is
            taken.
        type: int
      release: &release
        description:
          - Release of the stack, a directory of O(template_root). V(0.8.2) when not given.
        type: str
      image_set: &image_set
        description:
          - Which images run. V(upstream) when not given; V(sandbox) are those of this project's test hosts.
        type: str
        choices: [upstream, sandbox]
      image_registry: &image_registry
        description:
          - Registry or mirror to take all images from, C(host[:port][/path]).
        type: str
      images: &images
        description:
          - Image references of single services, by service.
        type: dict
      services: &services
        description:
          - Services to switch off or on, by service. All are on when not given.
            C(db) and C(api-gw)
            cannot be switched off.
        type: dict
      size: &size
        description:
          - Memory that all services share by weight, and cores that each of them may use at most. V(small) is 2 GiB and
            1 core, V(medium) 4 GiB and 2, V(large) 8 GiB and 4. V(medium) when not given.
        type: str
        choices: [small, medium, large]
      bind_address: &bind_address
        description:
          - Address of the host that the ports are bound to. V(127.0.0.1) when not given.
        type: str
      expose: &expose
        description:
          - Services to publish on a port of their own besides gateway and pooler. V(studio) has no login of its own
            there.
        type: list
        elements: str
        choices: [postgres, studio]
      public_url: &public_url
        description:
          - Address under which clients reach the gateway. The gateway's port on the loopback address when not given.
        type: str
      site_url: &site_url
        description:
          - Address of the application that users log in to. O(instances[].public_url) when not given.
        type: str
      redirect_urls: &redirect_urls
        description:
          - Further addresses that a login may return to.
        type: list
        elements: str
      cors_origins: &cors_origins
        description:
          - Origins that browsers may call the gateway from. Those of public and site URL when not given. V(*) allows
            every origin.
        type: list
        elements: str
      dashboard_username: &dashboard_username
        description:
          - User name of the dashboard. V(supabase) when not given.
        type: str
      health_interval: &health_interval
        description:
          - Time between two health checks of a running service. V(30s) when not given.
        type: str
      auth: &auth
        description:
          - Logins.
        type: dict
        suboptions:
          disable_signup:
            description: Whether nobody may sign up. V(false) when not given.
            type: bool
          email_signup:
            description: Whether users may sign up with an e-mail address. V(true) when not given.
            type: bool
          email_autoconfirm:
            description: Whether addresses count as confirmed at once. V(false) when not given.
            type: bool
          anonymous_users:
            description: Whether there are anonymous users. V(false) when not given.
            type: bool
          jwt_expiry:
            description: Seconds that an access token is valid. V(3600) when not given.
            type: int
      smtp: &smtp
        description:
          - The mail server that Auth sends through.
        type: dict
        suboptions:
          host:
            description: Name of the server. Without it no mail is sent.
            type: str
          port:
            description: Its port. V(587) when not given.
            type: int
          user:
            description: User to log in as.
            type: str
          password:
            description: Password of the user.
            type: str
          admin_email:
            description: Address that mails come from.
            type: str
          sender_name:
            description: Name that mails come from. The name of the instance when not given.
            type: str
      studio: &studio
        description:
          - What Studio shows.
        type: dict
        suboptions:
          organization:
            description: Name of the organization. V(Multibase) when not given.
            type: str
          project:
            description: Name of the project. The name of the instance when not given.
            type: str
      pooler: &pooler
        description:
          - The connection pooler.
        type: dict
        suboptions:
          pool_size:
            description: Connections to the database for each user and mode. V(20) when not given.
            type: int
          max_clients:
            description: Clients at a time. V(100) when not given.
            type: int
      rest: &rest
        description:
          - The REST interface.
        type: dict
        suboptions:
          schemas:
            description: Schemas that it offers. V([public, graphql_public]) when not given.
            type: list
            elements: str
          max_rows:
            description: Rows that an answer has at most. V(1000) when not given.
            type: int
      storage: &storage
        description:
          - The storage service.
        type: dict
        suboptions:
          file_size_limit:
            description: Bytes that an uploaded file has at most. V(52428800) when not given.
            type: int
      functions: &functions
        description:
          - Edge functions.
        type: dict
        suboptions:
          verify_jwt:
            description: Whether every call needs a valid token. V(false) when not given.
            type: bool
  defaults:
    description:
      - Options that lie under those of each instance.
    type: dict
    default: {}
    suboptions:
      release: *release
      image_set: *image_set
      image_registry: *image_registry
      images: *images
      services: *services
      size: *size
      bind_address: *bind_address
      expose: *expose
      public_url: *public_url
      site_url: *site_url
      redirect_urls: *redirect_urls
      cors_origins: *cors_origins
      dashboard_username: *dashboard_username
      health_interval: *health_interval
      auth: *auth
      smtp: *smtp
      studio: *studio
      pooler: *pooler
      rest: *rest
      storage: *storage
      functions: *functions
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
from ansible_collections.multibase.supabase.plugins.module_utils._instances import Converger, Request
from ansible_collections.multibase.supabase.plugins.module_utils._layout import Layout
from ansible_collections.multibase.supabase.plugins.module_utils._options import common_options, instance_options
from ansible_collections.multibase.supabase.plugins.module_utils._ports import DEFAULT_RANGE, parse_port_range
from ansible_collections.multibase.supabase.plugins.module_utils._release import release_from_bundle
from ansible_collections.multibase.supabase.plugins.module_utils._spec import without_unset
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

    request = Request(
        layout=Layout(os.path.abspath(params["root"])),
        releases={name: release_from_bundle(name, bundle) for name, bundle in (params["bundles"] or {}).items()},
        ports=parsed(parse_port_range, "port_range", DEFAULT_RANGE),
        subnet_pool=parsed(parse_pool, "subnet_pool", DEFAULT_POOL),
        defaults=without_unset(params["defaults"]),
        keep_unmentioned=params["keep_unmentioned"],
        confirmed=frozenset(params["confirmed"]),
        lock_timeout=params["lock_timeout"],
        check_mode=check_mode,
        with_diff=with_diff,
        # Not cpu_count: Docker too counts the processors that it may use, not those that there are.
        cpus=len(os.sched_getaffinity(0)),
        now=int(time.time()),
    )
    converger = Converger(request, lambda: _engine.connect_if_present(params["docker_host"]))
    results = converger.run(params["instances"], problems)
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
