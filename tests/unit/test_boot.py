# SPDX-License-Identifier: GPL-3.0-or-later
"""After a boot: who is brought up, who is left alone, what is told of it. Engine and Compose are stand-ins."""

from __future__ import annotations

import json
import threading
import time
from pathlib import Path
from typing import Any, Callable, Dict, List, Optional

import pytest

from ansible_collections.multibase.supabase.plugins.module_utils import _boot, _restore_journal, _stacks, _tool
from ansible_collections.multibase.supabase.plugins.module_utils._boot import Boot, Options, Report
from ansible_collections.multibase.supabase.plugins.module_utils._compose import Compose
from ansible_collections.multibase.supabase.plugins.module_utils._engine import Container, Engine
from ansible_collections.multibase.supabase.plugins.module_utils._errors import EngineUnavailable
from ansible_collections.multibase.supabase.plugins.module_utils._layout import Layout
from ansible_collections.multibase.supabase.plugins.module_utils._lock import exclusive
from ansible_collections.multibase.supabase.plugins.module_utils._process import Completed
from unit.support import FakeCompose, FakeDocker, converge, item

UNHEALTHY = "Up 1 minute (unhealthy)"
HELD = "driver failed programming external connectivity: Bind for 127.0.0.1:20000 failed: port is already allocated"


def container(service: str, state: str = "running", health: str = "healthy") -> Container:
    return Container(service, service, "multibase-acme", service, state, health, "i", "i", "h", 1, "")


# Decisions


@pytest.mark.parametrize(
    ("wanted", "phase", "states", "outcome"),
    [
        ("running", None, [], None),
        ("running", None, ["exited", "running"], None),
        ("running", None, ["running"], None),
        ("stopped", None, ["exited"], "stopped"),
        ("stopped", None, [], "stopped"),
        ("stopped", None, ["running"], "stopped"),
        (None, None, [], "never-started"),
        (None, None, ["exited"], None),
        ("running", "building", ["exited"], None),
        ("running", "swapping", ["exited"], "restore-interrupted"),
        ("running", "swapped", ["running"], "restore-interrupted"),
        ("stopped", "swapped", ["exited"], "restore-interrupted"),
        ("running", "undoing", ["exited"], "restore-interrupted"),
    ],
)
def test_who_is_brought_up(wanted: Optional[str], phase: Optional[str], states: List[str], outcome: Any) -> None:
    told = _boot.decide(wanted, phase, [container("s{0}".format(i), state) for i, state in enumerate(states)])
    assert told.outcome == outcome
    assert (told.exit_code == 20) is (outcome == "restore-interrupted")
    assert ("s0" in told.msg) is (wanted == "stopped" and phase is None and states == ["running"])


def test_only_what_is_unhealthy_beside_a_well_database_is_restarted() -> None:
    db, bad, good = container("db"), container("auth", health="unhealthy"), container("rest", health="starting")
    assert _boot.ailing([db, bad, good]) == ["auth"]
    assert _boot.ailing([container("rest"), bad]) == ["auth"], "the database may be elsewhere"
    for state, health in (("running", "unhealthy"), ("running", "starting"), ("exited", "none")):
        assert _boot.ailing([container("db", state, health), bad]) == [], "it may be recovering"
    assert _boot.ailing([db, container("auth", "restarting", "none")]) == ["auth"]
    assert _boot.ailing([db, container("auth", "exited", "none")]) == []


def test_production_comes_first() -> None:
    manifests: Dict[str, Dict[str, Any]] = {
        "a": {},
        "c": {"environment": "production"},
        "b": {"environment": "staging"},
    }
    assert _boot.in_order(manifests) == ["c", "a", "b"]


def test_ports_held_for_nobody() -> None:
    assert _boot.ports_held(HELD, {}) == [20000]
    assert _boot.ports_held(HELD, {20000: "other"}) == []
    assert _boot.ports_held("Bind for [::]:443 failed: port is already allocated", {}) == [443]
    assert _boot.ports_held("listen tcp 127.0.0.1:20000: bind: address already in use", {}) == []


# On a host


class Host:
    """A root with instances that were started, an Engine and a Compose, both stand-ins; time passes by sleeping."""

    def __init__(self, root: Path, *names: str) -> None:
        self.root, self.layout = root, Layout(str(root))
        self.docker = FakeDocker()
        self.compose = FakeCompose(self.docker)
        self.time = 0.0
        self.on_sleep: List[Callable[[], None]] = []
        self.lines: List[str] = []
        self.restarts = 0
        converge(root, *[item(name) for name in names])

    def sleep(self, seconds: float) -> None:
        # The stacks poll for health against a real deadline.
        if seconds < 1.0:
            time.sleep(0.01)
        else:
            self.time += seconds
        if self.on_sleep:
            self.on_sleep.pop(0)()

    def act(self, state: str, *names: str) -> None:
        settings = _stacks.Settings(state=state, timeout=30)
        runner = _stacks.Runner(self.layout, Engine(self.docker), Compose(runner=self.compose), settings)
        assert not any(result.failed for result in runner.run(names))

    def restart_engine(self) -> None:
        self.restarts += 1
        self.compose.answers.clear()

    def boot(self, connect: Optional[Callable[[], Engine]] = None, engine: bool = True, **options: Any) -> List[Report]:
        self.compose.calls.clear()
        made = Boot(
            self.layout,
            Compose(runner=self.compose),
            Options(**{"instance_timeout": 10.0, "patience": 3.0, "lock_timeout": 0.2, **options}),
            self.lines.append,
            self.restart_engine if engine else None,
            lambda: self.time,
            self.sleep,
        )
        return made.run(connect or (lambda: Engine(self.docker)))

    def crash(self, *names: str) -> None:
        """The Engine did not bring these back."""
        for row in self.docker.rows:
            if row["Labels"]["com.docker.compose.project"] in ["multibase-" + name for name in names]:
                row.update(State="exited", Status="Exited (255) 1 second ago")

    def states(self, name: str) -> set[str]:
        project = "multibase-" + name
        return {row["State"] for row in self.docker.rows if row["Labels"]["com.docker.compose.project"] == project}

    def published(self) -> Dict[str, Any]:
        path = Path(self.layout.boot_report)
        assert path.stat().st_mode & 0o777 == 0o600
        return dict(json.loads(path.read_text()))


@pytest.fixture(autouse=True)
def passing_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Deadlines of the stacks are real ones; they are short here."""
    monkeypatch.setattr(_boot, "Settings", lambda **given: _stacks.Settings(**{**given, "timeout": 0.2}))


@pytest.fixture
def host(tmp_path: Path) -> Host:
    made = Host(tmp_path, "acme", "beta")
    made.act("started", "acme", "beta")
    return made


def test_nothing_is_done_where_all_is_well(host: Host) -> None:
    reports = host.boot()
    assert [(one.name, one.outcome, one.health, one.actions) for one in reports] == [
        ("acme", "up", "healthy", []), ("beta", "up", "healthy", []),
    ]  # fmt: skip
    assert host.compose.calls == [] and _boot.exit_code(reports) == 0
    told = host.published()
    assert told["complete"] is True and [one["outcome"] for one in told["instances"]] == ["up", "up"]
    assert len(host.lines) == 2


def test_what_was_stopped_stays_so_and_the_rest_comes_up(host: Host) -> None:
    host.act("stopped", "beta")
    host.crash("acme")
    reports = host.boot()
    assert [(one.name, one.outcome) for one in reports] == [("acme", "brought-up"), ("beta", "stopped")]
    assert host.states("acme") == {"running"} and host.states("beta") == {"exited"}
    assert "started db" in reports[0].actions and _boot.exit_code(reports) == 0
    # Started again, it is one that comes up.
    host.act("started", "beta")
    host.crash("beta")
    assert host.boot()[1].outcome == "brought-up"


def test_what_is_down_by_itself_can_be_stopped_for_good(host: Host) -> None:
    host.crash("beta")
    host.act("stopped", "beta")
    assert host.boot()[1].outcome == "stopped" and host.states("beta") == {"exited"}


def test_a_start_that_never_ended_is_gone_on_with(tmp_path: Path) -> None:
    host = Host(tmp_path, "acme")
    assert host.boot()[0].outcome == "never-started" and host.docker.rows == []
    host.compose.answers["up"] = Completed(137, "", "killed")
    with pytest.raises(AssertionError):
        host.act("started", "acme")
    host.compose.answers.clear()
    assert host.boot()[0].outcome == "brought-up"


def test_an_interrupted_restore_is_told_and_left_alone(host: Host) -> None:
    host.crash("acme", "beta")
    _restore_journal.write(host.layout, _restore_journal.Journal("acme", "t", "building"), "swapping")
    acme, beta = host.boot()
    assert (acme.outcome, acme.exit_code, beta.outcome) == ("restore-interrupted", 20, "brought-up")
    assert host.states("acme") == {"exited"} and "--recover" in acme.msg
    assert _boot.exit_code([acme, beta]) == 20
    # Only building: the data in place is the old, whole.
    _restore_journal.write(host.layout, _restore_journal.Journal("acme", "t", "building"), "building")
    assert host.boot()[0].outcome == "brought-up"
    Path(host.layout.restore_journal("acme")).write_text("{")
    assert host.boot()[0].outcome == "failed", "nobody knows how far it came"


def test_one_that_is_damaged_or_locked_does_not_keep_the_others(host: Host) -> None:
    host.crash("acme", "beta")
    Path(host.layout.manifest("acme")).write_text("{")
    reports = host.boot()
    assert {one.name: one.outcome for one in reports} == {"beta": "brought-up", "acme": "failed"}
    assert _boot.exit_code(reports) == 1
    host.crash("beta")
    with exclusive(host.layout.lock("beta"), 1.0):
        (locked,) = [one for one in host.boot() if one.name == "beta"]
    assert (locked.outcome, locked.exit_code) == ("failed", 11)


def test_what_stays_unhealthy_is_restarted_once(host: Host) -> None:
    host.docker.service("multibase-acme", "auth")["Status"] = UNHEALTHY
    acme = host.boot()[0]
    assert acme.outcome == "brought-up" and acme.actions == ["restarted auth"]
    # It does not help: once is enough, and the database is never touched.
    host.docker.service("multibase-acme", "auth")["Status"] = UNHEALTHY
    host.compose.status["auth"] = UNHEALTHY
    acme = host.boot()[0]
    assert acme.outcome == "failed" and acme.actions.count("restarted auth") == 1 and "auth" in acme.msg
    assert host.compose.verbs().count("restart") == 1


def test_ports_that_the_engine_holds_for_nobody_are_freed_by_its_restart(host: Host) -> None:
    host.crash("acme", "beta")
    host.compose.answers["up"] = Completed(1, "", "Error response from daemon: " + HELD)
    reports = host.boot(parallel=1)
    assert [one.outcome for one in reports] == ["brought-up", "brought-up"] and host.restarts == 1
    assert any("held port 20000" in action for action in reports[0].actions)
    # Not without leave, and not where a container has the port.
    for engine, ports in ((False, []), (True, [{"PublicPort": 20000, "PrivatePort": 8000, "Type": "tcp"}])):
        host.crash("acme")
        host.docker.add("foreign", "web", Ports=ports)
        host.compose.answers["up acme"] = Completed(1, "", HELD)
        assert host.boot(engine=engine)[0].outcome == "failed" and host.restarts == 1
        host.compose.answers.clear()


def test_an_instance_that_is_stopped_while_it_is_looked_after_stays_so(host: Host) -> None:
    host.docker.service("multibase-acme", "auth")["Status"] = UNHEALTHY
    host.on_sleep = [lambda: host.act("stopped", "acme")]
    assert host.boot(parallel=1)[0].outcome == "stopped" and host.states("acme") == {"exited"}


def test_an_instance_that_is_stopped_while_we_wait_for_its_lock_stays_so(host: Host) -> None:
    host.crash("acme")
    held, stopped = threading.Event(), threading.Event()

    def stop() -> None:
        with exclusive(host.layout.lock("acme"), 1.0):
            held.set()
            stopped.wait(5)
            path = Path(host.layout.record("acme"))
            path.write_text(json.dumps({**json.loads(path.read_text()), "wanted": "stopped"}))

    thread = threading.Thread(target=stop)
    thread.start()
    held.wait(5)
    threading.Timer(0.3, stopped.set).start()
    reports = host.boot(lock_timeout=5.0, parallel=1)
    thread.join()
    assert reports[0].outcome == "stopped" and host.states("acme") == {"exited"}


def test_the_engine_is_waited_for_but_not_for_ever(host: Host) -> None:
    answers = [EngineUnavailable("no socket"), EngineUnavailable("no socket")]

    def connect() -> Engine:
        if answers:
            raise answers.pop()
        return Engine(host.docker)

    assert [one.outcome for one in host.boot(connect)] == ["up", "up"] and host.time == 2.0

    def never() -> Engine:
        raise EngineUnavailable("no socket")

    with pytest.raises(EngineUnavailable, match="waited 5 s"):
        host.boot(never, engine_timeout=5.0)
    told = host.published()
    assert told["complete"] is False and told["instances"] == [] and "no socket" in told["msg"]


def test_an_end_by_a_signal_is_published_too(host: Host) -> None:
    def end() -> Engine:
        raise SystemExit(143)

    with pytest.raises(SystemExit):
        host.boot(end)
    told = host.published()
    assert (told["complete"], told["msg"]) == (False, "interrupted")


def test_the_tool_ends_with_the_first_failure(
    host: Host, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(_tool, "connect", lambda _host: Engine(host.docker))
    monkeypatch.setattr(_tool, "Compose", lambda _host: Compose(runner=host.compose))
    assert _tool.main(["--root", str(host.root), "boot"]) == 0
    captured = capsys.readouterr()
    assert captured.out == "" and captured.err.count("\n") == 2
    Path(host.layout.manifest("acme")).unlink()
    _restore_journal.write(host.layout, _restore_journal.Journal("beta", "t", "building"), "swapped")
    assert _tool.main(["--root", str(host.root), "--json", "boot"]) == 20
    assert [one["outcome"] for one in json.loads(capsys.readouterr().out)] == ["restore-interrupted"]


def test_no_instance_can_take_the_name_of_the_report(tmp_path: Path) -> None:
    layout = Layout(str(tmp_path))
    assert layout.boot_report != layout.record("boot")
