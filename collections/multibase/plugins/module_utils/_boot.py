# SPDX-License-Identifier: GPL-3.0-or-later
# This file is private to the multibase.supabase collection; it may change at any time.
"""After a boot: every instance that is meant to run is brought up, and what came of each is told.

The Engine starts containers by their restart policy, all at once, and looks at no order. What it leaves: containers
that an interrupted restart, restore or ``up`` had stopped, for it takes those for stopped by the user; containers that
could not start; and services that came up before their database and never got well. Here the same converge as in the
module ``stack`` puts right what is not as recorded, a few instances at a time, and restarts once what stays unhealthy
although its database is well. What was stopped with Multibase stays stopped.

After a power cut in the middle of a start, an Engine may hold ports for endpoints that no container has any more, so
that the containers that publish them cannot start (seen with 26.1; moby/libnetwork 2448). Its restart, once, puts that
right.
"""

from __future__ import annotations

import contextlib
import json
import re
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, Callable, Dict, List, Mapping, Optional, Sequence

from . import _registry, _restore_journal, _state
from ._compose import Compose
from ._engine import Container, Engine
from ._errors import EngineUnavailable, ManualActionNeeded, MultibaseError
from ._health import instance_health, instance_state, service_health
from ._layout import Layout
from ._publish import replace_file
from ._stacks import Result, Runner, Settings

SCHEMA = 1
# What came of an instance.
UP, BROUGHT_UP, STOPPED, NEVER_STARTED, INTERRUPTED_RESTORE, FAILED = (
    "up", "brought-up", "stopped", "never-started", "restore-interrupted", "failed",
)  # fmt: skip
DATABASE = "db"
_ENGINE_POLL_SECONDS = 1.0
# Between attempts, twice as long each time: one that fails at once must not be made all the time.
_FIRST_PAUSE_SECONDS, _LONGEST_PAUSE_SECONDS = 1.0, 30.0
_PORT_HELD = re.compile(r"Bind for \S*:([0-9]{1,5}) failed: port is already allocated")


class Interrupted(MultibaseError):
    """The work was ended, as by the host going down again."""

    exit_code = 143


@dataclass(frozen=True)
class Options:
    """How much at once, and how long. ``timeout`` is for all, ``patience`` for one service before it is restarted."""

    parallel: int = 4
    timeout: float = 1800.0
    instance_timeout: float = 600.0
    patience: float = 120.0
    engine_timeout: float = 300.0
    lock_timeout: float = 60.0


@dataclass(frozen=True)
class Decision:
    """What is done about an instance: an outcome that is certain already, or None: bring it up."""

    outcome: Optional[str]
    msg: str = ""
    exit_code: int = 0


@dataclass
class Report:
    """What came of an instance at boot."""

    name: str
    outcome: str
    state: str = ""
    health: str = ""
    actions: List[str] = field(default_factory=list)
    msg: str = ""
    seconds: float = 0.0
    exit_code: int = 0

    def as_dict(self) -> Dict[str, Any]:
        """Return it as JSON values."""
        return {**self.__dict__, "seconds": round(self.seconds, 1)}


def decide(wanted: Optional[str], phase: Optional[str], containers: Sequence[Container]) -> Decision:
    """Say what is to be done about an instance.

    ``wanted`` is what was recorded, ``phase`` that of an interrupted restore. An instance whose record was lost but
    which has containers was started once.
    """
    if phase in _restore_journal.EXCHANGING:
        return Decision(
            INTERRUPTED_RESTORE,
            "a restore was interrupted; nothing was done. Finish or undo it with: multibase-host recover, or "
            "./multibase restore NAME --recover",
            ManualActionNeeded.exit_code,
        )
    if wanted == _state.STOPPED:
        running = sorted(container.service for container in containers if container.running)
        return Decision(STOPPED, "it was stopped, but these run: {0}".format(", ".join(running)) if running else "")
    if wanted is None and not containers:
        return Decision(NEVER_STARTED)
    # A restore that was only building its new data had not touched the old.
    return Decision(None, "a restore was interrupted before it changed anything" if phase else "")


def ailing(containers: Sequence[Container]) -> List[str]:
    """Return the services that a restart may heal: unhealthy ones, once their database is well.

    Never the database itself: it may be recovering from the crash, which a restart would begin anew.
    """
    if any(one.service == DATABASE and service_health(one) != "healthy" for one in containers):
        return []
    return sorted({one.service for one in containers if one.running and service_health(one) == "unhealthy"})


def ports_held(message: str, published: Mapping[int, str]) -> List[int]:
    """Return the ports that the Engine holds for nobody, by what it said: no container that runs publishes them."""
    return sorted({int(port) for port in _PORT_HELD.findall(message)} - set(published))


def in_order(manifests: Mapping[str, Mapping[str, Any]]) -> List[str]:
    """Return the names of instances in the order in which they are looked after: production first, then by name."""
    return sorted(manifests, key=lambda name: (manifests[name].get("environment") != "production", name))


def wait_for_engine(
    connect: Callable[[], Engine], timeout: float, sleep: Callable[[float], None], clock: Callable[[], float]
) -> Engine:
    """Return the Engine once it answers. Raises EngineUnavailable when it does not within ``timeout`` seconds."""
    deadline = clock() + timeout
    while True:
        try:
            return connect()
        except EngineUnavailable as error:
            if clock() >= deadline:
                raise EngineUnavailable("{0} (waited {1:.0f} s)".format(error, timeout)) from error
        sleep(_ENGINE_POLL_SECONDS)


class Boot:
    """Looks after all instances of a host, once."""

    def __init__(
        self,
        layout: Layout,
        compose: Compose,
        options: Options,
        progress: Callable[[str], None] = lambda _text: None,
        restart_engine: Optional[Callable[[], None]] = None,
        clock: Callable[[], float] = time.monotonic,
        sleep: Optional[Callable[[float], None]] = None,
    ) -> None:
        self._layout = layout
        self._compose = compose
        self._options = options
        self._progress = progress
        # None when the Engine is not to be restarted; so it is afterwards.
        self._restart_engine = restart_engine
        self._engine_lock = threading.Lock()
        self._clock = clock
        self._ended = threading.Event()
        self._wait = sleep or self._pause
        self._reports: Dict[str, Report] = {}

    def _pause(self, seconds: float) -> None:
        """Sleep; whoever ends the work ends the sleep too, so that a host that goes down does not wait for us."""
        if self._ended.wait(seconds):
            raise Interrupted("interrupted")

    def run(self, connect: Callable[[], Engine]) -> List[Report]:
        """Do it; return a report for each instance, in order, and publish them. Raises EngineUnavailable."""
        started, clock = time.time(), self._clock()
        order: List[str] = []
        trouble = "interrupted"
        try:
            order = self._look()
            engine = wait_for_engine(connect, self._options.engine_timeout, self._wait, self._clock)
            self._bring_up(engine, order, self._clock() + self._options.timeout)
            trouble = ""
        except MultibaseError as error:
            trouble = str(error)
            raise
        finally:
            reports = [self._reports[name] for name in order if name in self._reports]
            self._publish(started, self._clock() - clock, reports, trouble)
        return reports

    def _look(self) -> List[str]:
        """Return the names of the instances in order. One whose manifest is damaged comes last; it is not left out."""
        manifests: Dict[str, Mapping[str, Any]] = {}
        damaged: List[str] = []
        for name in self._layout.instance_names():
            try:
                manifests[name] = _registry.read_manifest(self._layout, name)
            except MultibaseError as error:
                damaged.append(name)
                self._tell(Report(name, FAILED, msg=str(error), exit_code=error.exit_code))
        return in_order(manifests) + damaged

    def _bring_up(self, engine: Engine, order: Sequence[str], deadline: float) -> None:
        left = [name for name in order if name not in self._reports]
        with ThreadPoolExecutor(max_workers=max(1, self._options.parallel)) as pool:
            try:
                for report in pool.map(lambda name: self._one(engine, name, deadline), left):
                    self._tell(report)
            except BaseException:
                self._ended.set()
                raise

    def _tell(self, report: Report) -> None:
        self._reports[report.name] = report
        what = [report.health, ", ".join(report.actions), report.msg]
        self._progress("instance {0}: {1}".format(report.name, "; ".join(filter(None, [report.outcome, *what]))))

    def _one(self, engine: Engine, name: str, deadline: float) -> Report:
        started = self._clock()
        deadline = min(deadline, started + self._options.instance_timeout)
        actions: List[str] = []
        while True:
            try:
                report = self._looked_after(engine, name, deadline, actions)
            except (MultibaseError, OSError) as error:
                # The Engine may be away for a moment, as when it is restarted for the sake of another instance.
                if isinstance(error, EngineUnavailable) and self._clock() < deadline and not self._ended.is_set():
                    with contextlib.suppress(Interrupted):
                        self._wait(_ENGINE_POLL_SECONDS)
                    continue
                report = Report(name, FAILED, actions=actions, msg=str(error), exit_code=getattr(error, "exit_code", 1))
            report.seconds = self._clock() - started
            return report

    def _looked_after(self, engine: Engine, name: str, deadline: float, actions: List[str]) -> Report:
        """Bring an instance up and wait for its health; restart each service that stays unhealthy once."""
        manifest = _registry.read_manifest(self._layout, name)
        project, expected = str(manifest["project"]), list(manifest["services"])
        restarted: List[str] = []
        services: List[str] = []
        result: Optional[Result] = None
        pause = _FIRST_PAUSE_SECONDS
        while True:
            containers = engine.containers(project)
            # Asked in each round: somebody may stop the instance while we wait for it.
            wanted = _state.wanted(_state.read_record(self._layout.record(name)))
            decision = decide(wanted, _restore_journal.pending(self._layout, name), containers)
            if decision.outcome is not None:
                state, health = instance_state(containers, expected), instance_health(containers, expected)
                return Report(
                    name, decision.outcome, state, health, actions, decision.msg, exit_code=decision.exit_code
                )
            # Without health, what failed was not health: a damaged file, a lock that somebody holds.
            if result is not None and (
                not result.failed or not result.health or self._clock() >= deadline or self._ended.is_set()
            ):
                outcome = FAILED if result.failed else BROUGHT_UP if actions else UP
                msg = result.msg or decision.msg
                return Report(name, outcome, result.state, result.health, actions, msg, exit_code=result.exit_code)
            if result is not None:
                freed = self._freed(engine, result.msg)
                actions += freed
                if not freed:
                    self._wait(pause)
                    pause = min(2 * pause, _LONGEST_PAUSE_SECONDS)
                services = [one for one in ailing(containers) if one not in restarted]
                restarted += services
            result = self._round(engine, name, services, deadline)
            actions += result.actions
            if result.failed and result.exit_code == EngineUnavailable.exit_code:
                raise EngineUnavailable(result.msg)

    def _freed(self, engine: Engine, message: str) -> List[str]:
        """Restart the Engine, once in all, when it holds ports for nobody; return what was done."""
        with self._engine_lock:
            ports = ports_held(message, engine.ports_in_use()) if _PORT_HELD.search(message) else []
            if not ports or self._restart_engine is None:
                return []
            what = ", ".join(map(str, ports))
            self._progress("the Engine holds port {0} although no container has it; restarting it".format(what))
            restart, self._restart_engine = self._restart_engine, None
            restart()
            return ["restarted the Engine, which held port {0} for nobody".format(what)]

    def _round(self, engine: Engine, name: str, services: Sequence[str], deadline: float) -> Result:
        left = max(1.0, deadline - self._clock())
        settings = Settings(
            state="restarted" if services else "started",
            services=tuple(services),
            parallel=1,
            timeout=min(left, self._options.patience),
            lock_timeout=min(left, self._options.lock_timeout),
            unless_stopped=True,
        )
        (result,) = Runner(self._layout, engine, self._compose, settings, self._wait).run([name])
        return result

    def _publish(self, started: float, seconds: float, reports: Sequence[Report], trouble: str) -> None:
        document = {
            "schema": SCHEMA,
            "started": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(started)),
            "seconds": round(seconds, 1),
            "complete": not trouble,
            "msg": trouble,
            "instances": [report.as_dict() for report in reports],
        }
        text = json.dumps(document, indent=1) + "\n"
        replace_file(self._layout.boot_report, text.encode("utf-8"), 0o600)


def exit_code(reports: Sequence[Report]) -> int:
    """Return the exit status that tells of the first instance that is not as it was meant to be, else 0."""
    return next((report.exit_code or 1 for report in reports if report.exit_code or report.outcome == FAILED), 0)
