# SPDX-License-Identifier: GPL-3.0-or-later
# This file is private to the multibase.supabase collection; it may change at any time.
"""Where things are below the root directory of a host."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import List

from ._errors import UnknownInstance
from ._names import name_problem

ENV_FILE = ".env"
MANIFEST_FILE = "instance.json"
OVERRIDE_FILE = "docker-compose.override.yml"
STAGING_PREFIX = ".staging-"
REMOVAL_PREFIX = ".deleting-"
ENVIRONMENT_DIRECTORY = "env"


def environment_file(service: str) -> str:
    """Return where the optional variables of a service lie, relative to the directory of the instance."""
    return os.path.join(ENVIRONMENT_DIRECTORY, service + ".env")


@dataclass(frozen=True)
class Layout:
    """Paths of a host, all below ``root`` (an absolute path)."""

    root: str

    @property
    def projects(self) -> str:
        return os.path.join(self.root, "projects")

    @property
    def state(self) -> str:
        return os.path.join(self.root, "state")

    @property
    def registry(self) -> str:
        return os.path.join(self.root, "registry.json")

    def project(self, name: str) -> str:
        """The directory that holds all of an instance."""
        return os.path.join(self.projects, name)

    def env(self, name: str) -> str:
        return os.path.join(self.project(name), ENV_FILE)

    def manifest(self, name: str) -> str:
        return os.path.join(self.project(name), MANIFEST_FILE)

    def record(self, name: str) -> str:
        """What ``stack`` recorded after it last brought the instance up."""
        return os.path.join(self.state, name + ".json")

    def lock(self, name: str) -> str:
        """The lock file of one instance."""
        return os.path.join(self.state, "locks", name + ".lock")

    def data_lock(self, name: str) -> str:
        """The lock of an instance's data: backup, restore and deletion hold it, starting and stopping do not.

        No instance can have this name: a name holds no dot.
        """
        return os.path.join(self.state, "locks", name + ".data.lock")

    def backups(self, name: str) -> str:
        """The directory of an instance's backups."""
        return os.path.join(self.root, "backups", name)

    def restore_journal(self, name: str) -> str:
        """What the last restore of an instance did, or was doing when it was killed."""
        return os.path.join(self.state, "restore", name + ".json")

    def backup_state(self, name: str) -> str:
        """What came of the last backups of an instance."""
        return os.path.join(self.state, "backup", name + ".json")

    def backup_state_lock(self, name: str) -> str:
        """Held while what is remembered of an instance's backups is changed; for a moment only."""
        return os.path.join(self.state, "locks", name + ".backup-state.lock")

    @property
    def metrics_lock(self) -> str:
        """Held while the textfiles for monitoring are written."""
        return os.path.join(self.state, "locks", "_metrics.lock")

    @property
    def signing_key(self) -> str:
        """The key that signs the manifests of this host's backups."""
        return os.path.join(self.state, "backup.key")

    @property
    def catch_up_lock(self) -> str:
        """Held while missed backups are taken, so that two runs do not take them twice."""
        return os.path.join(self.state, "locks", "_catch-up.lock")

    @property
    def boot_report(self) -> str:
        """What came of the instances after the host was started last. No instance has a name with an underscore."""
        return os.path.join(self.state, "_boot.json")

    @property
    def boot_lock(self) -> str:
        """Held while instances are looked after at boot."""
        return os.path.join(self.state, "locks", "_boot.lock")

    @property
    def monitor_settings(self) -> str:
        """What the sampler is to do, as the controller left it."""
        return os.path.join(self.state, "_monitor.json")

    @property
    def channels(self) -> str:
        """Where alerts are told. It holds secrets."""
        return os.path.join(self.state, "_channels.json")

    @property
    def monitor_state(self) -> str:
        """The directory of what the sampler keeps: history, its last readings, alerts."""
        return os.path.join(self.state, "_monitor")

    @property
    def alerts_lock(self) -> str:
        """Held while alerts change; for a moment only."""
        return os.path.join(self.state, "locks", "_alerts.lock")

    @property
    def panel(self) -> str:
        """What nginx serves as the panel."""
        return os.path.join(self.root, "www", "panel")

    @property
    def live(self) -> str:
        """What the sampler saw last."""
        return os.path.join(self.panel, "live.json")

    @property
    def panel_history(self) -> str:
        return os.path.join(self.panel, "history")

    @property
    def registry_lock(self) -> str:
        # No instance can have this name: a name begins with a letter.
        return os.path.join(self.state, "locks", "_registry.lock")

    def known(self, name: str) -> None:
        """Raise UnknownInstance, naming those that there are, unless there is a published instance of this name."""
        names = self.instance_names()
        if name not in names:
            there = ", ".join(names) or "none"
            raise UnknownInstance("there is no instance {0} here; there are: {1}".format(name, there))

    def instance_names(self) -> List[str]:
        """Names of the directories that hold a published instance, sorted."""
        try:
            entries = os.listdir(self.projects)
        except FileNotFoundError:
            return []
        return sorted(
            entry for entry in entries if name_problem(entry) is None and os.path.isfile(self.manifest(entry))
        )
