# SPDX-License-Identifier: GPL-3.0-or-later
# This file is private to the multibase.supabase collection; it may change at any time.
"""The one place that calls Docker Compose. Every argument list is built here, by pure functions.

What each rule is there for (measured with Compose 2.26 and 5.6):

* the environment is cleaned, because its variables override an instance's ``.env``;
* ``stop``, ``down`` and ``ps`` always name all profiles: a service whose profile was switched off would go on running;
* an exit code says nothing about what runs: callers read the result from the Engine, by label;
* ``-y``, ``--yes`` and the like never appear: with a changed volume label they delete the volume;
* ``--volumes`` appears only in ``down_argv(purge=True)``, which is for a removal that was confirmed;
* ``COMPOSE_FILE`` switches off the automatic override file, and a listed file that is missing is an error: the list is
  made from the ``.env`` and from what is there.
"""

from __future__ import annotations

import json
import os
import re
from dataclasses import dataclass
from typing import Any, Dict, List, Mapping, Optional, Protocol, Sequence, Tuple

from ._engine import INSTALL_HINT
from ._errors import ComposeFailed
from ._layout import OVERRIDE_FILE
from ._process import Completed, clean_environment, run

MINIMUM_VERSION = (2, 24)
_BASE = ("docker", "compose", "--ansi", "never", "--progress", "plain")
_EVERY_PROFILE = ("--profile", "*")


class Runner(Protocol):
    """Runs a program: argv, working directory, environment, seconds, descriptors to inherit."""

    def __call__(
        self,
        argv: Sequence[str],
        cwd: str,
        environment: Mapping[str, str],
        timeout: float,
        keep_open: Sequence[int] = (),
    ) -> Completed: ...


def up_argv(pull: str) -> List[str]:
    """Create what is missing, recreate what changed, start what stands. ``pull`` is missing, always or never."""
    return [*_BASE, "up", "--detach", "--no-build", "--pull", pull]


def stop_argv() -> List[str]:
    """Stop every container of the project; nothing is removed."""
    return [*_BASE, *_EVERY_PROFILE, "stop"]


def restart_argv(services: Sequence[str]) -> List[str]:
    """Restart the given services, or all that run when none is given."""
    return [*_BASE, "restart", *services]


def down_argv(purge: bool) -> List[str]:
    """Remove containers and networks; with ``purge`` the named volumes too."""
    return [*_BASE, *_EVERY_PROFILE, "down", "--remove-orphans", *(["--volumes"] if purge else [])]


def services_argv() -> List[str]:
    """List the services of the active profiles, one per line."""
    return [*_BASE, "config", "--services"]


def config_argv() -> List[str]:
    """Print the resolved files as JSON, services of all profiles included."""
    return [*_BASE, *_EVERY_PROFILE, "config", "--format", "json"]


def version_argv() -> List[str]:
    """Print the version of Compose alone."""
    return ["docker", "compose", "version", "--short"]


def compose_files(variables: Mapping[str, str], directory: str) -> List[str]:
    """Return the Compose files of an instance, relative to its directory.

    That is what ``COMPOSE_FILE`` lists, with the user's own override file at the end exactly when it exists.
    """
    listed = [path for path in variables.get("COMPOSE_FILE", "docker-compose.yml").split(":") if path]
    files = [path for path in listed if path != OVERRIDE_FILE]
    if os.path.isfile(os.path.join(directory, OVERRIDE_FILE)):
        files.append(OVERRIDE_FILE)
    return files


def parse_version(text: str) -> Tuple[int, ...]:
    """Read ``2.26.1-4`` or ``v5.6.1`` as numbers. Raises ComposeFailed when there are none."""
    found = re.match(r"\s*v?(\d+)\.(\d+)(?:\.(\d+))?", text)
    if not found:
        raise ComposeFailed("docker compose version answered {0!r}".format(text.strip()[:80]))
    return tuple(int(part or 0) for part in found.groups())


@dataclass(frozen=True)
class Project:
    """A Compose project on the host: its directory and the variables of its ``.env``.

    ``locks`` are descriptors that hold its lock. Compose inherits them: should we be killed, the next run waits for the
    Compose that goes on without us.
    """

    directory: str
    variables: Mapping[str, str]
    locks: Tuple[int, ...] = ()


class Compose:
    """Docker Compose on this host, talking to the Engine at ``docker_host``."""

    def __init__(self, docker_host: Optional[str] = None, runner: Runner = run) -> None:
        self._runner = runner
        self._environment = clean_environment({"DOCKER_HOST": docker_host} if docker_host else None)
        self._version: Optional[str] = None

    def version(self) -> str:
        """Return the version as text. Raises ComposeFailed when Compose is missing or too old."""
        if self._version is None:
            try:
                done = self._runner(version_argv(), "/", self._environment, 30)
            except FileNotFoundError as error:
                raise ComposeFailed("the docker command is missing; {0}".format(INSTALL_HINT)) from error
            if done.code != 0:
                raise ComposeFailed(
                    "the Compose plugin of docker is missing ({0}); {1}".format(
                        last_lines(done.errors, 1), INSTALL_HINT
                    )
                )
            numbers = parse_version(done.output)
            if numbers[:2] < MINIMUM_VERSION:
                raise ComposeFailed(
                    "Docker Compose {0} is too old: {1}.{2} or newer is needed; {3}".format(
                        done.output.strip(), MINIMUM_VERSION[0], MINIMUM_VERSION[1], INSTALL_HINT
                    )
                )
            self._version = ".".join(str(number) for number in numbers)
        return self._version

    def _run(self, project: Project, argv: Sequence[str], timeout: float) -> Completed:
        environment: Dict[str, str] = dict(self._environment)
        environment["COMPOSE_FILE"] = ":".join(compose_files(project.variables, project.directory))
        if project.locks:
            return self._runner(argv, project.directory, environment, timeout, project.locks)
        return self._runner(argv, project.directory, environment, timeout)

    def up(self, project: Project, pull: str, timeout: float) -> Completed:
        return self._run(project, up_argv(pull), timeout)

    def stop(self, project: Project, timeout: float) -> Completed:
        return self._run(project, stop_argv(), timeout)

    def restart(self, project: Project, services: Sequence[str], timeout: float) -> Completed:
        return self._run(project, restart_argv(services), timeout)

    def down(self, project: Project, purge: bool, timeout: float) -> Completed:
        return self._run(project, down_argv(purge), timeout)

    def config(self, project: Project) -> Dict[str, Any]:
        """Return the resolved configuration. It holds secrets: it is for use in memory only. Raises ComposeFailed."""
        done = self._run(project, config_argv(), 60)
        if done.code != 0:
            raise ComposeFailed("docker compose config failed: {0}".format(last_lines(done.errors, 5)))
        return dict(json.loads(done.output))

    def services(self, project: Project) -> List[str]:
        """Return the services of the active profiles, the user's override file included. Raises ComposeFailed."""
        done = self._run(project, services_argv(), 60)
        if done.code != 0:
            raise ComposeFailed("docker compose config failed: {0}".format(last_lines(done.errors, 5)))
        return sorted(line.strip() for line in done.output.splitlines() if line.strip())


def last_lines(text: str, count: int) -> str:
    """Return the last lines of a program's output that are not empty, joined by `` / ``."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return " / ".join(lines[-count:]) or "no output"
