# Copyright: Multibase contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
name: instances
short_description: Offer Supabase instances as hosts
version_added: 0.1.0
description:
  - Makes every instance that C(./multibase list) knows a host of its own, named C(INSTANCE.HOST), for reports and
    ad-hoc work. What is run on such a host runs on the server that carries the instance.
  - All are in the group C(multibase_instances). Below it are groups for each environment, size, health, state and
    release, as C(environment_production), C(size_large), C(health_healthy), C(state_running), C(release_0_8_2).
  - What C(./multibase list --json) tells of an instance are variables of its host, with C(instance_) before their
    names, as C(instance_name), C(instance_urls), C(instance_directory). None of them is a secret.
  - Use a file whose name is C(multibase.yml) or ends with C(.multibase.yml) (or C(.yaml)).
author:
  - Multibase contributors (@multibase)
extends_documentation_fragment:
  - ansible.builtin.constructed
  - ansible.builtin.inventory_cache
options:
  plugin:
    description:
      - Must be V(multibase.supabase.instances).
    type: str
    required: true
    choices: [multibase.supabase.instances]
  inventory:
    description:
      - The inventory of the servers, one or more paths, relative to the directory of this file.
      - The instances are asked for by running C(playbooks/list.yml) against it (some seconds, which is what O(cache) is
        good for). The run is not recorded in ARA.
      - The variables with which Ansible connects to a server (C(ansible_host), C(ansible_user) and all others that
        begin with C(ansible_)) are copied to its instances. They are read each time and never cached, because there may
        be passwords among them.
      - May be the directory that this file lies in. The file is left out then while the servers are read.
    type: list
    elements: str
    default: []
  listing:
    description:
      - A file with the output of C(./multibase list --json), relative to the directory of this file. Nothing is run.
      - Without O(inventory), the variables for connecting come from the inventories that stand before this one on the
        command line. For a server that none of them knows, its name is the address.
    type: str
  project:
    description:
      - The directory of the project, which holds C(playbooks) and C(ansible.cfg), relative to the directory of this
        file.
      - Needed only for a collection that was installed apart from the project.
    type: str
notes:
  - An instance on a server that cannot be asked is missing; a warning names the server.
seealso:
  - module: multibase.supabase.instance_info
"""

EXAMPLES = r"""
# production.multibase.yml: everything below inventories/production of the project
plugin: multibase.supabase.instances
inventory: ../inventories/production

---
# Kept for ten minutes, with groups by label and a group of what needs a look
plugin: multibase.supabase.instances
inventory: ../inventories/production
cache: true
cache_plugin: ansible.builtin.jsonfile
cache_connection: ~/.cache/multibase
cache_timeout: 600
keyed_groups:
  - prefix: label
    key: instance_labels
    parent_group: multibase_instances
groups:
  needs_a_look: instance_health not in ["healthy", "stopped"]
compose:
  api_url: instance_urls.api

---
# From a file that a pipeline wrote with ./multibase list --json
plugin: multibase.supabase.instances
listing: instances.json
"""

import contextlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

from ansible.errors import AnsibleError, AnsibleParserError
from ansible.inventory.helpers import get_group_vars, sort_groups
from ansible.inventory.manager import InventoryManager
from ansible.plugins.inventory import BaseInventoryPlugin, Cacheable, Constructable
from ansible.template import Templar
from ansible.utils.vars import combine_vars
from ansible.vars.plugins import get_vars_from_inventory_sources

PARENT_GROUP = "multibase_instances"
GROUPED_BY = ("environment", "size", "health", "state", "release")
VARIABLE_PREFIX = "instance_"
# Set while the servers' inventory is read, here and in the run of the playbook: this file may lie in it.
GUARD = "MULTIBASE_INSTANCES_INVENTORY"


@contextlib.contextmanager
def guarded() -> Iterator[None]:
    """Have sources of this plugin add nothing, here and in processes that are started."""
    os.environ[GUARD] = "reading"
    try:
        yield
    finally:
        del os.environ[GUARD]


@contextlib.contextmanager
def vault_arguments(secrets: list) -> Iterator[tuple[list[str], list[int]]]:
    """Give the vault secrets of this process to another one, through pipes: arguments, and descriptors to pass on."""
    arguments: list[str] = []
    descriptors: list[int] = []
    try:
        for vault_id, secret in secrets:
            reading, writing = os.pipe()
            descriptors.append(reading)
            # Shorter than what a pipe holds, so nobody has to be reading yet.
            with open(writing, "wb") as stream:
                stream.write(secret.bytes)
            arguments += ["--vault-id", f"{vault_id}@/dev/fd/{reading}"]
        yield arguments, descriptors
    finally:
        for descriptor in descriptors:
            os.close(descriptor)


def checked(listing: object, source: str) -> list[dict]:
    """Return the instances of a listing. Raises AnsibleParserError when it is none."""
    instances = listing.get("instances") if isinstance(listing, Mapping) else None
    if not isinstance(instances, list):
        raise AnsibleParserError(f"{source}: this is not the output of ./multibase list --json")
    for instance in instances:
        named = isinstance(instance, Mapping) and all(
            isinstance(instance.get(key), str) and instance[key] for key in ("name", "host")
        )
        if not named:
            raise AnsibleParserError(f"{source}: an instance without a name or a host")
    return [dict(instance) for instance in instances]


class InventoryModule(BaseInventoryPlugin, Constructable, Cacheable):
    """Instances as hosts."""

    NAME = "multibase.supabase.instances"

    def verify_file(self, path):
        """Whether the name of a file says that it is for this plugin."""
        named = re.search(r"(?:^|[/.])multibase\.ya?ml\Z", str(path))
        return bool(named) and super().verify_file(path)

    def parse(self, inventory, loader, path, cache=True):
        """Add the instances to the inventory."""
        super().parse(inventory, loader, path, cache)
        self._read_config_data(path)
        if os.environ.get(GUARD):
            return
        base = os.path.dirname(os.path.abspath(path))
        sources = [self._resolved(base, source) for source in self.get_option("inventory")]
        listing = self.get_option("listing")
        if not sources and not listing:
            raise AnsibleParserError("either inventory or listing must say where the instances are known from")
        if listing:
            instances = self._from_file(self._resolved(base, listing))
        else:
            instances = self._cached(path, cache, lambda: self._from_playbook(base, sources))
        self._populate(instances, self._connections(sources))

    @staticmethod
    def _resolved(base, path):
        """Return an absolute path; what is relative lies beside the configuration file."""
        return os.path.normpath(os.path.join(base, os.path.expanduser(path)))

    # Where the instances are known from

    @staticmethod
    def _from_file(path):
        try:
            with open(path, encoding="utf-8") as stream:
                return checked(json.load(stream), path)
        except OSError as error:
            raise AnsibleParserError(f"listing {path}: {error.strerror}") from error
        except ValueError as error:
            raise AnsibleParserError(f"listing {path}: {error}") from error

    def _cached(self, path, cache, read):
        """Return what ``read`` returns, from the cache where that is on and has it."""
        if not self.get_option("cache"):
            return read()
        key = self.get_cache_key(path)
        if cache:
            try:
                return checked(self._cache[key], "the cache")
            except KeyError:
                pass
        instances = read()
        self._cache[key] = {"instances": instances}
        return instances

    def _project(self, base):
        given = self.get_option("project")
        # collections/multibase/plugins/inventory, seen from the top of the project.
        project = Path(self._resolved(base, given)) if given else Path(__file__).resolve().parents[4]
        if not (project / "playbooks" / "list.yml").is_file():
            raise AnsibleParserError(f"{project} holds no playbooks/list.yml; say in project where the project is")
        return project

    def _from_playbook(self, base, sources):
        """Run list.yml and return its result. Servers that cannot be asked are warned of."""
        project = self._project(base)
        scratch = Path(tempfile.mkdtemp(prefix="multibase-"))
        try:
            result, failures = scratch / "result.json", scratch / "failures.json"
            done = self._run(project, sources, result, failures)
            failed = self._failures(failures)
            if not result.exists():
                lines = failed or done.stdout.strip().splitlines()[-10:]
                raise AnsibleParserError("playbooks/list.yml told nothing:\n" + "\n".join(lines))
            for line in failed:
                self.display.warning(f"instances may be missing: {line}")
            return self._from_file(str(result))
        finally:
            shutil.rmtree(scratch, ignore_errors=True)

    def _run(self, project, sources, result, failures):
        # Started as this interpreter's, because there may be no ansible-playbook on PATH.
        command = [sys.executable, "-m", "ansible", "playbook"]
        for source in sources:
            command += ["--inventory", source]
        command += ["--extra-vars", json.dumps({"multibase_result_file": str(result)})]
        with guarded(), vault_arguments(self.loader._vault.secrets or []) as (arguments, descriptors):
            environment = {
                **os.environ,
                "ANSIBLE_CONFIG": str(project / "ansible.cfg"),
                # Ours alone: ARA's would record the run.
                "ANSIBLE_CALLBACK_PLUGINS": str(project / "playbooks" / "callback_plugins"),
                "MULTIBASE_FAILURES_FILE": str(failures),
            }
            return subprocess.run(
                [*command, *arguments, str(project / "playbooks" / "list.yml")],
                cwd=project,
                env=environment,
                pass_fds=descriptors,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                encoding="utf-8",
                errors="replace",
                check=False,
            )

    @staticmethod
    def _failures(path):
        try:
            with open(path, encoding="utf-8") as stream:
                return [f"{failure['host']}: {failure['msg']}" for failure in json.load(stream)]
        except (OSError, ValueError):
            return []

    # How their servers are reached

    def _connections(self, sources):
        """Return a function from a server's name to the variables with which Ansible connects to it."""
        if sources:
            with guarded():
                servers = InventoryManager(self.loader, sources=sources)
            find, groups = servers.get_host, servers.groups
        else:
            find, groups, sources = self.inventory.get_host, self.inventory.groups, self.inventory.processed_sources
        known = {}

        def connection(name):
            if name not in known:
                host = find(name)
                known[name] = self._connection(host, groups["all"], sources) if host else {"ansible_host": name}
            return known[name]

        return connection

    def _connection(self, host, everything, sources):
        """Return the connection's variables of a server, worked out: what they refer to is not copied."""
        groups = sort_groups({everything, *host.get_groups()})
        variables: dict = {}
        # group_vars and host_vars beside an inventory are read by vars plugins, and are stronger than what it holds.
        for entities, own in ((groups, get_group_vars(groups)), ([host], host.get_vars())):
            variables = combine_vars(variables, own)
            variables = combine_vars(variables, get_vars_from_inventory_sources(self.loader, sources, entities, "task"))
        templar = Templar(loader=self.loader, variables=variables)
        found = {}
        for name in sorted(variables):
            if name.startswith("ansible_"):
                try:
                    found[name] = templar.template(variables[name])
                except AnsibleError as error:
                    self.display.warning(f"{name} of {host.name} is not copied to its instances: {error.message}")
        found.setdefault("ansible_host", host.name)
        return found

    # What they become

    def _populate(self, instances, connection):
        strict = self.get_option("strict")
        self.inventory.add_group(PARENT_GROUP)
        for instance in instances:
            name = f"{instance['name']}.{instance['host']}"
            self.inventory.add_host(name, group=PARENT_GROUP)
            variables = {
                VARIABLE_PREFIX + key: value for key, value in instance.items() if re.fullmatch(r"[a-z_]+", key)
            }
            for key, value in {**connection(instance["host"]), **variables}.items():
                self.inventory.set_variable(name, key, value)
            for key in GROUPED_BY:
                if instance.get(key):
                    group = self.inventory.add_group(self._sanitize_group_name(f"{key}_{instance[key]}"))
                    self.inventory.add_child(PARENT_GROUP, group)
                    self.inventory.add_child(group, name)
            self._set_composite_vars(self.get_option("compose"), variables, name, strict=strict)
            self._add_host_to_composed_groups(self.get_option("groups"), variables, name, strict=strict)
            self._add_host_to_keyed_groups(self.get_option("keyed_groups"), variables, name, strict=strict)
