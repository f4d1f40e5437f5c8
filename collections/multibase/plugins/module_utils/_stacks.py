# SPDX-License-Identifier: GPL-3.0-or-later
# This file is private to the multibase.supabase collection; it may change at any time.
"""The life cycle of instances: start, stop, restart, remove; several at once, each only where something differs."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import (
    Any,
    Callable,
    ContextManager,
    Dict,
    FrozenSet,
    Iterable,
    List,
    Mapping,
    Optional,
    Sequence,
    Set,
    Tuple,
)

from . import _lock, _registry, _restore_journal, _state
from ._compose import Compose, Project, last_lines
from ._engine import SCRATCH_LABEL, Container, Engine, services_of
from ._errors import ComposeFailed, InvalidInput, MultibaseError, StateCorrupt
from ._health import instance_health, instance_state, service_health
from ._instances import read_existing
from ._layout import Layout
from ._names import name_problem, project_name
from ._process import Completed
from ._publish import replace_file

_POLL_SECONDS = 0.5
_DOWN_ATTEMPTS = 3
_DOWN_PAUSE_SECONDS = 2.0
_LOG_LINES = 3
_EXPLAINED_SERVICES = 3


@dataclass(frozen=True)
class Settings:
    """What shall be done. ``timeout`` is in seconds and holds for each instance.

    ``unless_stopped`` is for who was not asked by the user: what was stopped in the meantime is left so.
    """

    state: str
    services: Tuple[str, ...] = ()
    parallel: int = 4
    timeout: float = 600.0
    pull: str = "missing"
    purge_volumes: bool = False
    confirmed: FrozenSet[str] = frozenset()
    lock_timeout: float = 60.0
    check_mode: bool = False
    unless_stopped: bool = False


@dataclass
class Result:
    """What was done, or in check mode would be done, to one instance."""

    name: str
    changed: bool = False
    state: str = ""
    health: str = ""
    actions: List[str] = field(default_factory=list)
    failed: bool = False
    msg: str = ""
    seconds: float = 0.0
    exit_code: int = 0

    def as_dict(self) -> Dict[str, Any]:
        """Return what a module returns of it."""
        return {
            "name": self.name,
            "changed": self.changed,
            "state": self.state,
            "health": self.health,
            "actions": self.actions,
            "failed": self.failed,
            "msg": self.msg,
            "seconds": round(self.seconds, 1),
        }


@dataclass(frozen=True)
class Stack:
    """An instance as far as its life cycle goes."""

    name: str
    project: str
    services: FrozenSet[str]
    managed: Tuple[str, ...]
    confidential: FrozenSet[str]
    compose: Project

    @property
    def variables(self) -> Mapping[str, str]:
        return self.compose.variables

    def holding(self, lock: int) -> Stack:
        """Return the same stack, whose Compose holds the lock as well."""
        return replace(self, compose=replace(self.compose, locks=(lock,)))


def load_stack(layout: Layout, name: str) -> Stack:
    """Read an instance from its directory. Raises StateCorrupt when it is damaged."""
    existing = read_existing(layout, name)
    return Stack(
        name=name,
        project=str(existing.manifest["project"]),
        services=frozenset(existing.manifest["services"]),
        managed=tuple(existing.manifest.get("managed") or ()),
        confidential=existing.confidential_texts(),
        compose=Project(layout.project(name), existing.variables),
    )


def redact(text: str, confidential: Iterable[str]) -> str:
    """Take the confidential texts of an instance out of what was printed."""
    for value in sorted(confidential, key=len, reverse=True):
        if len(value) >= 4:
            text = text.replace(value, "***")
    return text


def changes(before: Sequence[Container], after: Sequence[Container]) -> List[str]:
    """Word what happened to the containers of a project, one phrase per service that was touched."""
    actions: List[str] = []
    old: Dict[str, Set[str]] = {}
    for container in before:
        old.setdefault(container.service, set()).add(container.id)
    running = {container.id for container in before if container.state == "running"}
    for service in sorted(services_of(list(before)) | services_of(list(after))):
        now = [container for container in after if container.service == service]
        if not now:
            actions.append("removed " + service)
        elif service not in old:
            actions.append("created " + service)
        elif {container.id for container in now} != old[service]:
            actions.append("recreated " + service)
        elif any(container.state == "running" and container.id not in running for container in now):
            actions.append("started " + service)
        elif any(container.state != "running" and container.id in running for container in now):
            actions.append("stopped " + service)
    return actions


@dataclass(frozen=True)
class _Job:
    """One instance to be worked on: as found, until when (``time.monotonic``), and where what is done is told."""

    stack: Stack
    before: List[Container]
    image_ids: Mapping[str, str]
    deadline: float
    result: Result

    @property
    def seconds_left(self) -> float:
        return self.deadline - time.monotonic()


class Runner:
    """Carries out ``settings`` for instances of one host."""

    def __init__(
        self,
        layout: Layout,
        engine: Engine,
        compose: Compose,
        settings: Settings,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._layout = layout
        self._engine = engine
        self._compose = compose
        self._settings = settings
        self._sleep = sleep

    def run(self, names: Sequence[str]) -> List[Result]:
        """Do it for all ``names``, some at once; one that fails does not keep the others from being done.

        Returns one result each, in their order. Raises InvalidInput for names that are wrong or unknown before anything
        is done, ComposeFailed when Compose is missing or too old.
        """
        self._check(names)
        containers = self._engine.containers()
        image_ids = self._engine.image_ids() if self._settings.state in ("started", "restarted") else {}
        by_project: Dict[str, List[Container]] = {}
        for container in containers:
            by_project.setdefault(container.project, []).append(container)
        with ThreadPoolExecutor(max_workers=max(1, self._settings.parallel)) as pool:
            return list(pool.map(lambda name: self._one(name, by_project, image_ids), names))

    def _check(self, names: Sequence[str]) -> None:
        known = self._layout.instance_names()
        problems: List[str] = []
        for name in names:
            problem = name_problem(name)
            if problem:
                problems.append(problem)
            elif name not in known and self._settings.state != "absent":
                problems.append(
                    "instance {0}: there is none of this name here; there are: {1}".format(
                        name, ", ".join(known) or "none"
                    )
                )
            elif self._settings.purge_volumes and name not in self._settings.confirmed:
                problems.append("instance {0}: purge_volumes deletes data; name it in 'confirmed' as well".format(name))
        for name in sorted({name for name in names if list(names).count(name) > 1}):
            problems.append("instance {0}: named twice".format(name))
        if problems:
            raise InvalidInput(problems)

    def _one(self, name: str, by_project: Mapping[str, List[Container]], image_ids: Mapping[str, str]) -> Result:
        result = Result(name)
        started = time.monotonic()
        deadline = started + self._settings.timeout
        try:
            if name not in self._layout.instance_names():
                self._absent_already(name, result)
            else:
                stack = self._load(name)
                if stack is None:
                    self._by_label(name, result)
                else:
                    action = getattr(self, "_" + self._settings.state)
                    action(_Job(stack, by_project.get(stack.project, []), image_ids, deadline, result))
        except (MultibaseError, OSError) as error:
            result.failed = True
            result.msg = "instance {0}: {1}".format(name, error)
            result.exit_code = getattr(error, "exit_code", 1)
        result.seconds = time.monotonic() - started
        return result

    def _load(self, name: str) -> Optional[Stack]:
        """Read an instance; None for a damaged one that shall only be stopped or removed, which needs no files."""
        try:
            return load_stack(self._layout, name)
        except StateCorrupt:
            if self._settings.state in ("stopped", "absent"):
                return None
            raise

    def _by_label(self, name: str, result: Result) -> None:
        """Stop or remove a damaged instance through the Engine alone."""
        try:
            project = str(_registry.read_manifest(self._layout, name)["project"])
        except StateCorrupt:
            project = project_name(name)
        absent = self._settings.state == "absent"
        before = self._engine.containers(project)
        if self._settings.check_mode:
            result.changed = bool(before)
            result.actions = ["{0} {1}".format("removed" if absent else "stopped", box.service) for box in before]
            return
        with _lock.exclusive(self._layout.lock(name), self._settings.lock_timeout):
            if not absent:
                self._wish(name, _state.STOPPED)
            for container in before:
                if container.running:
                    self._engine.stop(container.id)
                if absent:
                    self._engine.remove(container.id)
            if absent:
                left = self._engine.left_of(project, name)
                for network in left["networks"]:
                    self._engine.remove_network(network)
                for volume in left["volumes"] if self._settings.purge_volumes else ():
                    self._engine.remove_volume(volume)
        after = self._engine.containers(project)
        result.actions = changes(before, after)
        result.changed = bool(result.actions)
        result.state, result.health = "absent" if absent else "stopped", "stopped"
        still = [container.name for container in after if absent or container.running]
        if still:
            raise ComposeFailed("still there: {0}".format(", ".join(still)))

    # States

    def _started(self, job: _Job) -> None:
        services, containers = self._bring_up(job)
        self._wait(job, services, containers)

    def _reasons(
        self, stack: Stack, containers: Sequence[Container], image_ids: Mapping[str, str]
    ) -> Tuple[str, List[str], List[str]]:
        """Return the digest of what decides, why containers are not as they should be, and the services recorded."""
        digest = _state.input_digest(stack.compose.directory, stack.variables, stack.managed)
        record = _state.read_record(self._layout.record(stack.name))
        reasons = _state.differences(record, digest, containers, image_ids)
        if self._settings.pull == "always" and not reasons:
            reasons = ["newer images may be there"]
        return digest, reasons, sorted(stack.services) if reasons else list(record["services"])

    def _bring_up(self, job: _Job) -> Tuple[List[str], List[Container]]:
        """Make the containers what the files say, where they are not; return services and containers as they are then.

        Does not wait for health.
        """
        stack, before, result = job.stack, job.before, job.result
        _digest, reasons, services = self._reasons(stack, before, job.image_ids)
        if not reasons:
            return services, before
        if self._settings.check_mode:
            result.changed, result.actions = True, reasons
            return services, before
        with self._locked(stack) as lock:
            phase = _restore_journal.pending(self._layout, stack.name)
            if phase in _restore_journal.EXCHANGING:
                # Started now, services could run on data of two kinds.
                raise ComposeFailed(
                    "a restore of it was interrupted; finish or undo that first: "
                    "./multibase restore {0} --recover".format(stack.name)
                )
            # Read again: whoever held the lock may have done it, changed the files, or deleted the instance.
            stack = load_stack(self._layout, stack.name).holding(lock)
            before = self._engine.containers(stack.project)
            digest, reasons, services = self._reasons(stack, before, self._engine.image_ids())
            if not reasons:
                return services, before
            if self._settings.unless_stopped and self._wanted(stack.name) == _state.STOPPED:
                raise ComposeFailed("it was stopped in the meantime")
            version = self._compose.version()
            self._wish(stack.name, _state.RUNNING)
            done = self._compose.up(stack.compose, self._settings.pull, max(1.0, job.seconds_left))
            if done.code == 0:
                services = self._active_services(stack)
                self._remove_switched_off(stack, services)
            after = self._engine.containers(stack.project)
            result.actions = changes(before, after)
            result.changed = bool(result.actions)
            if done.code != 0:
                self._describe(after, services, result)
                raise ComposeFailed(self._explain(stack, after, services, self._complaint(stack, "up", done)))
            record = _state.make_record(digest, version, services, after)
            replace_file(self._layout.record(stack.name), _state.record_bytes(record), 0o600)
        return services, after

    def _active_services(self, stack: Stack) -> List[str]:
        try:
            return self._compose.services(stack.compose)
        except ComposeFailed as error:
            raise ComposeFailed(redact(str(error), stack.confidential)) from None

    def _restarted(self, job: _Job) -> None:
        stack, result = job.stack, job.result
        unknown = sorted(set(self._settings.services) - stack.services)
        if unknown:
            raise InvalidInput(
                ["it has no service {0}; it has {1}".format(", ".join(unknown), ", ".join(sorted(stack.services)))]
            )
        if self._settings.check_mode:
            what = ", ".join(self._settings.services) or "all services"
            result.changed, result.actions = True, ["restarted " + what]
            self._describe(job.before, stack.services, result)
            return
        services, containers = self._bring_up(job)
        touched = {action.split(" ", 1)[1] for action in result.actions}
        wanted = sorted(set(self._settings.services or stack.services) - touched)
        if wanted:
            with self._locked(stack) as lock:
                done = self._compose.restart(stack.holding(lock).compose, wanted, max(1.0, job.seconds_left))
            if done.code != 0:
                raise ComposeFailed(self._complaint(stack, "restart", done))
            result.changed = True
            result.actions += ["restarted " + service for service in wanted]
            containers = self._engine.containers(stack.project)
        self._wait(job, services, containers)

    def _stopped(self, job: _Job) -> None:
        stack, result = job.stack, job.result
        before = job.before
        running = [container for container in before if container.running]
        # What is down by itself, and would come up with the next boot, can be stopped too.
        comes_back = self._wanted(stack.name) == _state.RUNNING
        if not running and not comes_back:
            self._describe(before, stack.services, result)
            return
        if self._settings.check_mode:
            what = [container.service for container in running] or ["what would come up with the next boot"]
            result.changed, result.actions = True, ["stopped " + service for service in what]
            self._describe(before, stack.services, result)
            return
        with self._locked(stack) as lock:
            # First: should the host go down now, what was stopped by then stays so, and boot tells of the rest.
            self._wish(stack.name, _state.STOPPED)
            done = self._compose.stop(stack.holding(lock).compose, max(1.0, job.seconds_left))
            for container in self._engine.containers(stack.project):
                if container.running:
                    self._engine.stop(container.id)
            after = self._engine.containers(stack.project)
            result.actions = changes(before, after)
            result.changed = bool(result.actions) or comes_back
            self._describe(after, stack.services, result)
            still = sorted(container.service for container in after if container.running)
            if still:
                raise ComposeFailed(
                    "still running after stop: {0}. {1}".format(", ".join(still), self._complaint(stack, "stop", done))
                )

    def _absent(self, job: _Job) -> None:
        stack, result = job.stack, job.result
        result.state, result.health = "absent", "stopped"
        there = self._left_over(stack.project, stack.name)
        if not there:
            return
        if self._settings.check_mode:
            result.changed, result.actions = True, ["removed " + what for what in there]
            return
        # Not while a backup or a restore is at work on its data.
        data_lock = _lock.exclusive(self._layout.data_lock(stack.name), self._settings.lock_timeout)
        with data_lock, self._locked(stack) as lock:
            for scratch in self._engine.labelled("{0}={1}".format(SCRATCH_LABEL, stack.name)):
                self._engine.remove(scratch)
            compose = stack.holding(lock).compose
            # The Engine may still count a container that is gone as an endpoint of the network, for a moment.
            for attempt in range(_DOWN_ATTEMPTS):
                if attempt:
                    self._sleep(_DOWN_PAUSE_SECONDS)
                done = self._compose.down(compose, self._settings.purge_volumes, max(1.0, job.seconds_left))
                left = self._left_over(stack.project, stack.name)
                if not left:
                    break
            result.actions = ["removed " + what for what in there if what not in left]
            result.changed = bool(result.actions)
            if left:
                result.state = "partial"
                complaint = "still there after down: {0}. {1}".format(
                    ", ".join(left), self._complaint(stack, "down", done)
                )
                if "active endpoints" in done.errors:
                    # Seen with Engine 20.10: it counts an endpoint that no container has, until it is restarted.
                    complaint += ". If no container uses the network, restart Docker and run this again"
                raise ComposeFailed(complaint)

    def _absent_already(self, name: str, result: Result) -> None:
        result.state, result.health = "absent", "stopped"
        left = self._left_over(project_name(name), name)
        if left:
            raise ComposeFailed(
                "it has no directory, but there is still {0}; remove them by hand with docker".format(", ".join(left))
            )

    # Steps

    def _wanted(self, name: str) -> Optional[str]:
        return _state.wanted(_state.read_record(self._layout.record(name)))

    def _wish(self, name: str, wish: str) -> None:
        """Record what an instance is meant to be from now on, before anything is done about it."""
        path = self._layout.record(name)
        record = _state.read_record(path)
        if _state.wanted(record) != wish:
            replace_file(path, _state.record_bytes(_state.wishing(record, wish)), 0o600)

    def _locked(self, stack: Stack) -> ContextManager[int]:
        return _lock.exclusive(self._layout.lock(stack.name), self._settings.lock_timeout)

    @staticmethod
    def _complaint(stack: Stack, verb: str, done: Completed) -> str:
        if done.code == 124:
            return "docker compose {0} did not end in time".format(verb)
        return "docker compose {0} ended with {1}: {2}".format(
            verb, done.code, last_lines(redact(done.errors, stack.confidential), 3)
        )

    def _left_over(self, project: str, name: str) -> List[str]:
        """Return what the Engine still has of an instance; its volumes count only when they are to go."""
        left = self._engine.left_of(project, name)
        kinds = ("containers", "networks", "volumes") if self._settings.purge_volumes else ("containers", "networks")
        return ["{0} {1}".format(kind[:-1], what) for kind in kinds for what in left[kind]]

    def _remove_switched_off(self, stack: Stack, services: Sequence[str]) -> None:
        """Remove containers of services that are no longer part of the instance; Compose leaves them running."""
        for container in self._engine.containers(stack.project):
            if container.service not in services:
                if container.running:
                    self._engine.stop(container.id)
                self._engine.remove(container.id)

    @staticmethod
    def _describe(containers: Sequence[Container], expected: Iterable[str], result: Result) -> None:
        result.health = instance_health(containers, expected)
        state = instance_state(containers, expected)
        result.state = "stopped" if state == "created" else state

    def _wait(self, job: _Job, services: Sequence[str], containers: List[Container]) -> None:
        """Wait until all services are healthy. Raises ComposeFailed naming those that are not when time is up.

        No lock is held meanwhile: an instance that does not come up can be stopped.
        """
        stack, result = job.stack, job.result
        while True:
            self._describe(containers, services, result)
            if result.health == "healthy" or self._settings.check_mode:
                return
            if job.seconds_left <= 0:
                complaint = "not healthy after {0:.0f} s".format(self._settings.timeout)
                raise ComposeFailed(self._explain(stack, containers, services, complaint))
            self._sleep(_POLL_SECONDS)
            containers = self._engine.containers(stack.project)

    def _explain(self, stack: Stack, containers: Sequence[Container], services: Sequence[str], complaint: str) -> str:
        """Name the services that are not healthy, with the last lines that they printed."""
        order = {"unhealthy": 0, "stopped": 1, "starting": 2}
        bad = sorted(
            (container for container in containers if service_health(container) != "healthy"),
            key=lambda container: (order[service_health(container)], container.service),
        )
        sentences = [complaint]
        present = services_of(list(containers))
        missing = sorted(set(services) - present)
        if missing:
            sentences.append("no container: {0}".format(", ".join(missing)))
        for container in bad[:_EXPLAINED_SERVICES]:
            printed = redact(self._engine.logs(container.id, _LOG_LINES), stack.confidential)
            sentences.append(
                "service {0} is {1} ({2}); it last printed: {3}".format(
                    container.service, service_health(container), container.status, last_lines(printed, _LOG_LINES)
                )
            )
        if len(bad) > _EXPLAINED_SERVICES:
            rest = ", ".join(container.service for container in bad[_EXPLAINED_SERVICES:])
            sentences.append("also not healthy: {0}".format(rest))
        return ". ".join(sentences)
