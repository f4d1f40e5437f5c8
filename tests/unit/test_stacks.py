# SPDX-License-Identifier: GPL-3.0-or-later
"""The life cycle of stacks: Compose is called only where something differs, and believed only when the Engine agrees.

``support.FakeDocker`` and ``support.FakeCompose`` stand in for the Engine and for the ``docker compose`` command; the
instances below the root, the adapters and the record are real.
"""

from __future__ import annotations

import json
import os
import threading
import time
from pathlib import Path
from typing import Any, Callable, Dict, List, Optional

import pytest

from ansible_collections.multibase.supabase.plugins.module_utils import _stacks
from ansible_collections.multibase.supabase.plugins.module_utils._compose import Compose
from ansible_collections.multibase.supabase.plugins.module_utils._engine import Container, Engine
from ansible_collections.multibase.supabase.plugins.module_utils._errors import InvalidInput
from ansible_collections.multibase.supabase.plugins.module_utils._layout import Layout
from ansible_collections.multibase.supabase.plugins.module_utils._lock import exclusive
from ansible_collections.multibase.supabase.plugins.module_utils._process import Completed
from ansible_collections.multibase.supabase.plugins.module_utils._stacks import Result, Runner, Settings, load_stack
from unit.support import (
    SECRETS,
    SERVICES,
    FakeCompose,
    FakeDocker,
    assert_no_secret,
    converge,
    env_of,
    item,
    secrets_of,
    snapshot,
)

PROJECT = "multibase-acme"
UNHEALTHY = "Up 1 minute (unhealthy)"


class Host:
    """A root with instances, an Engine and a Compose, both stand-ins."""

    def __init__(self, root: Path, *items: Dict[str, Any]) -> None:
        self.root = root
        self.docker = FakeDocker()
        self.compose = FakeCompose(self.docker)
        self.slept: List[float] = []
        self.on_sleep: Optional[Callable[[], None]] = None
        converge(root, *(items or (item("acme"),)))

    def run(self, state: str, *names: str, **options: Any) -> List[Result]:
        self.compose.calls.clear()
        self.docker.calls.clear()
        options.setdefault("timeout", 0.0)

        def sleep(seconds: float) -> None:
            self.slept.append(seconds)
            if self.on_sleep:
                self.on_sleep()

        return Runner(
            Layout(str(self.root)),
            Engine(self.docker),
            Compose(runner=self.compose),
            Settings(state=state, **options),
            sleep,
        ).run(list(names or ("acme",)))

    def one(self, state: str, **options: Any) -> Result:
        return self.run(state, "acme", **options)[0]

    def verbs(self) -> List[str]:
        return [verb for verb in self.compose.verbs() if verb != "version"]

    def states(self, project: str = PROJECT) -> Dict[str, str]:
        return {
            row["Labels"]["com.docker.compose.service"]: row["State"]
            for row in self.docker.rows
            if row["Labels"]["com.docker.compose.project"] == project
        }

    def record(self, name: str = "acme") -> Path:
        return self.root / "state" / (name + ".json")


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return Host(tmp_path)


@pytest.fixture
def running(host: Host) -> Host:
    assert not host.one("started").failed
    return host


def no_volume_flag(host: Host) -> bool:
    return not any({"-v", "--volumes"} & set(call) for call in host.compose.calls)


# Started


def test_the_first_start(host: Host) -> None:
    result = host.one("started")
    assert (result.changed, result.failed, result.state, result.health) == (True, False, "running", "healthy")
    assert result.actions == ["created " + service for service in SERVICES]
    assert host.verbs()[0] == "up" and set(host.verbs()) <= {"up", "config"}
    record = json.loads(host.record().read_text())
    assert set(record["services"]) == set(SERVICES)
    assert oct(host.record().stat().st_mode)[-3:] == "600"
    assert_no_secret(host.record().read_text(), secrets_of(host.root, "acme"), "record")


def test_converged_means_two_calls_to_the_engine_and_no_compose_process(tmp_path: Path) -> None:
    names = ["i{0}".format(number) for number in range(6)]
    host = Host(tmp_path, *[item(name) for name in names])
    assert not any(result.failed for result in host.run("started", *names))
    before = snapshot(tmp_path, times=True)
    results = host.run("started", *names)
    assert not any(result.changed or result.failed for result in results)
    assert {result.health for result in results} == {"healthy"} and {result.state for result in results} == {"running"}
    assert host.compose.calls == [], "not even for its version"
    assert sorted(host.docker.calls) == ["containers", "images"]
    assert {path: row for path, row in snapshot(tmp_path, times=True).items() if "locks" not in path} == {
        path: row for path, row in before.items() if "locks" not in path
    }


def changed_option(host: Host) -> None:
    converge(host.root, item("acme", size="large"))


def changed_gateway(host: Host) -> None:
    converge(host.root, item("acme", cors_origins=["https://x.example"]))


def changed_compose_file(host: Host) -> None:
    path = host.root / "projects/acme/docker-compose.yml"
    path.write_text(path.read_text() + "# by hand\n")


def new_override(host: Host) -> None:
    (host.root / "projects/acme/docker-compose.override.yml").write_text("services: {}\n")


def changed_variable_of_a_service(host: Host) -> None:
    converge(host.root, item("acme", env={"functions": {"FLAGS": "a"}}))


def changed_secret_of_a_service(host: Host) -> None:
    converge(host.root, item("acme", secrets={"functions": {"STRIPE_KEY": "a"}}))


def environment_file_by_hand(host: Host) -> None:
    # Compose reads it as it reads ours.
    (host.root / "projects/acme/env/meta.env").write_text("PG_META_X=1\n")


def removed_container(host: Host) -> None:
    host.docker.rows.remove(host.docker.service(PROJECT, "rest"))


def stopped_container(host: Host) -> None:
    host.docker.service(PROJECT, "rest").update(State="exited", Status="Exited (1)")


def changed_label(host: Host) -> None:
    host.docker.service(PROJECT, "rest")["Labels"]["com.docker.compose.config-hash"] = "other"


def newer_image(host: Host) -> None:
    tag = host.docker.service(PROJECT, "rest")["Image"]
    for row in host.docker.image_rows:
        if tag in row["RepoTags"]:
            row["Id"] = "sha256:newer"


def lost_record(host: Host) -> None:
    host.record().unlink()


def damaged_record(host: Host) -> None:
    host.record().write_text('{"schema": 1, "dig')


def emptied_record(host: Host) -> None:
    host.record().write_text("")


def strange_record(host: Host) -> None:
    host.record().write_text("[1]")


def future_record(host: Host) -> None:
    host.record().write_text(json.dumps({**json.loads(host.record().read_text()), "schema": 99}))


DIFFERENCES = [
    changed_option, changed_gateway, changed_compose_file, new_override, changed_variable_of_a_service,
    changed_secret_of_a_service, environment_file_by_hand, removed_container, stopped_container,
    changed_label, newer_image, lost_record, damaged_record, emptied_record, strange_record, future_record,
]  # fmt: skip


@pytest.mark.parametrize("difference", DIFFERENCES, ids=lambda function: function.__name__)
def test_each_single_difference_leads_to_up(running: Host, difference: Callable[[Host], None]) -> None:
    difference(running)
    checked = running.one("started", check_mode=True)
    assert checked.changed and checked.actions and not checked.failed and running.compose.calls == []
    result = running.one("started")
    assert not result.failed and result.health == "healthy", result.msg
    assert running.verbs()[0] == "up"
    again = running.one("started")
    assert not again.changed and running.compose.calls == []


def test_what_changed_is_said_per_service(running: Host) -> None:
    changed_gateway(running)
    assert running.one("started").actions == ["recreated api-gw"]
    stopped_container(running)
    assert running.one("started").actions == ["started rest"]
    removed_container(running)
    assert running.one("started").actions == ["created rest"]
    lost_record(running)
    result = running.one("started")
    assert not result.changed and result.actions == []


def test_a_service_that_was_switched_off_is_removed(running: Host) -> None:
    converge(running.root, item("acme", services={"realtime": False}))
    result = running.one("started")
    assert not result.failed and "removed realtime" in result.actions
    assert set(running.states()) == set(SERVICES) - {"realtime"}
    assert not running.one("started").changed and running.compose.calls == []
    assert len(running.docker.volume_rows) == 2


def test_services_that_are_off_by_default_start_when_they_are_switched_on(running: Host) -> None:
    converge(running.root, item("acme", services={"analytics": True, "vector": True}))
    result = running.one("started")
    assert not result.failed and {"created analytics", "created vector"} <= set(result.actions), result.msg
    assert set(running.states()) == {*SERVICES, "analytics", "vector"}
    converge(running.root, item("acme", services={"pgbouncer": True, "supavisor": False}))
    result = running.one("started")
    assert not result.failed, result.msg
    assert set(running.states()) == {*SERVICES, "pgbouncer"} - {"supavisor"}


def test_a_foreign_container_of_the_project_is_removed(running: Host) -> None:
    running.docker.add(PROJECT, "stranger", instance="acme")
    result = running.one("started")
    assert not result.failed and "stranger" not in running.states()


def test_containers_of_others_are_left_alone(tmp_path: Path) -> None:
    host = Host(tmp_path, item("app"), item("app2"))
    host.docker.add("foreign", "realtime")
    host.run("started", "app", "app2")
    others = [row["Id"] for row in host.docker.rows if row["Labels"]["com.docker.compose.project"] != "multibase-app"]
    converge(tmp_path, item("app", services={"realtime": False}), item("app2"))
    host.run("started", "app")
    host.run("stopped", "app")
    host.run("absent", "app")
    left = {row["Id"]: row["State"] for row in host.docker.rows}
    assert set(left) == set(others) and set(left.values()) == {"running"}


def test_services_of_the_users_override_stay(host: Host) -> None:
    host.compose.extra_services = ["mailhog"]
    host.one("started")
    assert host.states()["mailhog"] == "running"
    assert not host.one("started").changed


def test_pull_is_handed_on_and_always_asks_each_time(running: Host) -> None:
    result = running.one("started", pull="always")
    assert not result.changed and running.verbs()[0] == "up"
    assert "always" in running.compose.calls[[*running.compose.verbs()].index("up")]
    running.one("started", pull="never")
    assert running.compose.calls == []


# Health


def test_waiting_until_all_are_healthy(host: Host) -> None:
    host.compose.status["studio"] = "Up 1 second (health: starting)"

    def healthy_after_three() -> None:
        if len(host.slept) == 3:
            host.docker.service(PROJECT, "studio")["Status"] = "Up 3 seconds (healthy)"

    host.on_sleep = healthy_after_three
    result = host.one("started", timeout=30)
    assert not result.failed and result.health == "healthy" and len(host.slept) == 3


def test_an_unhealthy_service_is_named_with_its_last_lines_and_without_secrets(host: Host) -> None:
    host.compose.status["auth"] = UNHEALTHY
    values = secrets_of(host.root, "acme")

    def print_something() -> None:
        row = host.docker.service(PROJECT, "auth")
        host.docker.printed[row["Id"]] = "\n".join(
            ["too old", *["{0}: {1}".format(name, value) for name, value in values.items()][:1],
             "dialing postgres://supabase_auth_admin:{0}@db".format(values["POSTGRES_PASSWORD"]),
             "fatal: cannot start with {0}".format(values["JWT_SECRET"])]
        )  # fmt: skip

    host.on_sleep = print_something
    result = host.one("started", timeout=0.5)
    assert result.failed and result.changed and result.health == "degraded"
    assert "instance acme" in result.msg and "auth" in result.msg and "unhealthy" in result.msg
    assert "fatal: cannot start" in result.msg and "too old" not in result.msg
    assert_no_secret(result.msg, values, "message")
    # What was applied is recorded, healthy or not: the next start has nothing to apply and waits again.
    assert host.record().exists()
    assert "rest" not in result.msg.replace("restart", "")


def test_secrets_are_taken_out_however_a_program_prints_them(tmp_path: Path) -> None:
    secrets = {"password": "first line\nsecond line of it"}
    host = Host(tmp_path, item("acme", smtp={"host": "mail", **secrets}))
    host.compose.status["auth"] = UNHEALTHY
    host.on_sleep = lambda: host.docker.printed.update(
        {host.docker.service(PROJECT, "auth")["Id"]: "login with first line\nsecond line of it failed"}
    )
    result = host.one("started", timeout=0.5)
    assert result.failed and "failed" in result.msg
    assert "second line of it" not in result.msg


@pytest.mark.parametrize("password", ["short", 'p$w"d#\\'])
def test_short_and_strange_mail_passwords_are_taken_out_too(tmp_path: Path, password: str) -> None:
    host = Host(tmp_path, item("acme", smtp={"host": "mail", "password": password}))
    host.compose.status["auth"] = UNHEALTHY
    host.on_sleep = lambda: host.docker.printed.update(
        {host.docker.service(PROJECT, "auth")["Id"]: "535 login with <{0}> failed".format(password)}
    )
    result = host.one("started", timeout=0.5)
    assert "535 login" in result.msg and "<{0}>".format(password) not in result.msg


@pytest.mark.parametrize("service", ["functions", "auth"])
def test_secrets_of_a_service_are_taken_out_too(tmp_path: Path, service: str) -> None:
    host = Host(tmp_path, item("acme", secrets={service: {"STRIPE_KEY": "canary of stripe"}}))
    host.compose.status[service] = UNHEALTHY
    host.on_sleep = lambda: host.docker.printed.update(
        {host.docker.service(PROJECT, service)["Id"]: "401 with <canary of stripe> failed"}
    )
    result = host.one("started", timeout=0.5)
    assert "401 with" in result.msg and "canary" not in result.msg
    host.compose.answers["up"] = Completed(1, "", "cannot use canary of stripe")
    host.record().unlink()
    result = host.one("started")
    assert result.failed and "cannot use" in result.msg and "canary" not in result.msg


def test_a_service_that_became_unhealthy_later_fails_without_compose(running: Host) -> None:
    running.docker.service(PROJECT, "auth")["Status"] = UNHEALTHY
    result = running.one("started")
    assert result.failed and not result.changed and running.compose.calls == [] and "auth" in result.msg
    checked = running.one("started", check_mode=True)
    assert not checked.changed and checked.health == "degraded"


def test_a_service_that_exited_makes_it_partial(host: Host) -> None:
    host.compose.status["auth"] = "Exited (1) 1 second ago"
    result = host.one("started")
    assert result.failed and result.state == "partial" and "auth" in result.msg


def test_many_bad_services_are_all_named(host: Host) -> None:
    for service in ("auth", "meta", "rest", "storage", "studio"):
        host.compose.status[service] = UNHEALTHY
    result = host.one("started")
    for service in ("auth", "meta", "rest", "storage", "studio"):
        assert service in result.msg


# Compose fails


def test_a_failing_up_is_told_with_its_last_lines_and_without_secrets(host: Host) -> None:
    values = secrets_of(host.root, "acme")
    host.compose.answers["up"] = Completed(
        1, "", "pulling\nError: no space for {0}\n".format(values["POSTGRES_PASSWORD"])
    )
    result = host.one("started")
    assert result.failed and "no space" in result.msg and "up" in result.msg
    assert_no_secret(result.msg, values, "message")
    # That it shall run is known, so that it comes up with the next boot; nothing else is.
    assert json.loads(host.record().read_text()) == {
        "schema": 1, "wanted": "running", "digest": "", "compose": "", "services": {}
    }  # fmt: skip


def test_a_failing_config_is_told_without_secrets(host: Host) -> None:
    values = secrets_of(host.root, "acme")
    host.compose.answers["config"] = Completed(15, "", "invalid port: {0}\n".format(values["JWT_SECRET"]))
    result = host.one("started")
    assert result.failed and "invalid port" in result.msg
    assert_no_secret(result.msg, values, "message")


def test_a_failing_up_is_not_hidden_by_a_failing_config(host: Host) -> None:
    host.compose.answers["up"] = Completed(1, "", "Error: the real reason\n")
    host.compose.answers["config"] = Completed(1, "", "Error: something else\n")
    assert "the real reason" in host.one("started").msg


def test_out_of_time_says_so(host: Host) -> None:
    host.compose.answers["up"] = Completed(124, "", "")
    assert "in time" in host.one("started").msg


@pytest.mark.parametrize(
    "answer", [Completed(0, "2.23.3\n", ""), Completed(1, "", "'compose' is not a docker command")]
)
def test_without_a_usable_compose_nothing_is_started_and_the_playbook_is_named(host: Host, answer: Completed) -> None:
    host.compose.answers["version"] = answer
    result = host.one("started")
    assert result.failed and "playbooks/site.yml" in result.msg and host.verbs() == []


# Several


def test_results_in_input_order_and_one_failure_stops_no_other(tmp_path: Path) -> None:
    names = ["zeta", "bad", "alpha", "torn", "mid"]
    host = Host(tmp_path, *[item(name) for name in names])
    host.compose.answers["up bad"] = Completed(1, "", "Error: broken\n")
    (tmp_path / "projects" / "torn" / ".env").write_text("")
    results = host.run("started", *names, parallel=2)
    assert [result.name for result in results] == names
    assert [result.failed for result in results] == [False, True, False, True, False]
    assert "instance bad" in results[1].msg and "instance torn" in results[3].msg and ".env" in results[3].msg
    for name in ("zeta", "alpha", "mid"):
        assert len(host.states("multibase-" + name)) == len(SERVICES)
    assert host.states("multibase-torn") == {}


def unreadable_env(root: Path) -> None:
    (root / "projects" / "torn" / ".env").unlink()
    (root / "projects" / "torn" / ".env").mkdir()


def damaged_manifest(root: Path) -> None:
    (root / "projects" / "torn" / "instance.json").write_text('{"schema": 1, "name": "torn"}')


def record_is_a_directory(root: Path) -> None:
    (root / "state" / "torn.json").mkdir(parents=True)


def lock_is_a_directory(root: Path) -> None:
    (root / "state" / "locks" / "torn.lock").mkdir(parents=True)


@pytest.mark.parametrize(
    "damage", [unreadable_env, damaged_manifest, record_is_a_directory, lock_is_a_directory],
    ids=lambda function: function.__name__,
)  # fmt: skip
def test_whatever_is_wrong_with_one_the_others_are_done(tmp_path: Path, damage: Callable[[Path], None]) -> None:
    host = Host(tmp_path, item("good"), item("torn"), item("well"))
    damage(tmp_path)
    results = host.run("started", "good", "torn", "well")
    assert [result.failed for result in results] == [False, True, False]
    assert "instance torn" in results[1].msg and "torn" in results[1].msg.replace("instance torn", "")


def test_a_container_that_vanishes_in_between_is_no_failure(running: Host) -> None:
    converge(running.root, item("acme", services={"realtime": False}))
    remove = running.docker.remove_container

    def vanish(container: str, v: bool = False, force: bool = False) -> None:
        remove(container, v, force)
        raise type("NotFound", (Exception,), {})(container)

    running.docker.remove_container = vanish
    assert not running.one("started").failed
    assert "realtime" not in running.states()


@pytest.mark.parametrize(("parallel", "most"), [(1, 1), (3, 3)])
def test_as_many_at_once_as_asked_for(tmp_path: Path, parallel: int, most: int) -> None:
    names = ["i{0}".format(number) for number in range(6)]
    host = Host(tmp_path, *[item(name) for name in names])
    host.compose.seconds = 0.02
    host.run("started", *names, parallel=parallel)
    assert host.compose.most_active == most


def test_wrong_names_stop_everything_before_anything_is_done(running: Host) -> None:
    before = running.states()
    with pytest.raises(InvalidInput) as caught:
        running.run("stopped", "acme", "nosuch", "../x", "acme")
    problems = caught.value.problems
    assert len(problems) == 3
    assert any("nosuch" in problem and "acme" in problem for problem in problems), "what there is, is told"
    assert any("../x" in problem for problem in problems)
    assert any("acme" in problem and "twice" in problem for problem in problems)
    assert running.compose.calls == [] and running.states() == before


def test_somebody_else_at_work_is_waited_for_and_then_named(host: Host) -> None:
    with exclusive(Layout(str(host.root)).lock("acme"), 0):
        result = host.one("started", lock_timeout=0)
        assert result.failed and "acme.lock" in result.msg and host.verbs() == []
    assert not host.one("started", lock_timeout=5).failed


def test_two_runs_at_once_on_one_instance_do_not_overlap(host: Host) -> None:
    host.compose.seconds = 0.05
    results: List[Result] = []
    runners = [
        Runner(
            Layout(str(host.root)), Engine(host.docker), Compose(runner=host.compose), Settings("started", timeout=5)
        )
        for _index in range(2)
    ]
    threads = [
        threading.Thread(target=lambda runner=runner: results.extend(runner.run(["acme"]))) for runner in runners
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not any(result.failed for result in results) and host.compose.most_active == 1
    assert len(host.states()) == len(SERVICES)


# Stopped


def test_stopping(running: Host) -> None:
    volumes = json.dumps(running.docker.volume_rows)
    result = running.one("stopped")
    assert (result.changed, result.failed, result.state, result.health) == (True, False, "stopped", "stopped")
    assert result.actions == ["stopped " + service for service in SERVICES]
    assert set(running.states().values()) == {"exited"} and running.verbs() == ["stop"]
    assert no_volume_flag(running) and json.dumps(running.docker.volume_rows) == volumes
    again = running.one("stopped")
    assert not again.changed and running.compose.calls == []


def test_stopping_takes_services_that_are_switched_off_with_it(running: Host) -> None:
    converge(running.root, item("acme", services={"realtime": False}))
    assert not running.one("stopped").failed
    assert running.states()["realtime"] == "exited"


def test_exit_code_zero_with_a_container_still_running_is_a_failure(running: Host) -> None:
    running.docker.stubborn = {running.docker.service(PROJECT, "rest")["Id"]}
    result = running.one("stopped")
    assert result.failed and "rest" in result.msg and "still running" in result.msg
    assert "auth" not in result.msg and result.state != "stopped"


def test_a_failing_exit_code_with_everything_stopped_is_none(running: Host) -> None:
    for row in running.docker.rows[1:]:
        row.update(State="exited", Status="Exited (0)")
    running.compose.answers["stop"] = Completed(1, "", "no configuration file provided\n")
    result = running.one("stopped")
    assert not result.failed and result.changed, "the Engine was asked directly, and says that nothing runs"
    assert set(running.states().values()) == {"exited"}


@pytest.mark.parametrize("state", ["restarting", "paused"])
def test_restarting_and_paused_containers_are_stopped_too(running: Host, state: str) -> None:
    running.docker.service(PROJECT, "auth").update(State=state)
    assert not running.one("stopped").failed
    assert set(running.states().values()) == {"exited"}


@pytest.mark.parametrize("options", [{}, {"purge_volumes": True, "confirmed": frozenset({"acme"})}])
def test_stop_never_removes_a_volume(running: Host, options: Dict[str, Any]) -> None:
    for state in ("stopped", "started", "restarted"):
        running.one(state, **options)
        assert no_volume_flag(running) and "down" not in running.verbs()
    assert len(running.docker.volume_rows) == 2


def test_started_again_after_a_stop(running: Host) -> None:
    running.one("stopped")
    result = running.one("started")
    assert result.actions == ["started " + service for service in SERVICES] and result.health == "healthy"


# Restarted


def test_restarting_everything(running: Host) -> None:
    result = running.one("restarted")
    assert result.changed and not result.failed and result.health == "healthy"
    assert sorted(result.actions) == ["restarted " + service for service in SERVICES]
    assert running.verbs() == ["restart"]


def test_restarting_one_service(running: Host) -> None:
    result = running.one("restarted", services=("auth",))
    assert result.actions == ["restarted auth"]
    assert running.compose.calls[-1][-2:] == ["restart", "auth"]


def test_restarting_a_service_that_there_is_not(running: Host) -> None:
    result = running.one("restarted", services=("postgrest", "auth"))
    assert result.failed and "instance acme" in result.msg and "postgrest" in result.msg and "rest" in result.msg
    assert running.compose.calls == []


def test_what_was_recreated_is_not_restarted_once_more(running: Host) -> None:
    changed_gateway(running)
    result = running.one("restarted", services=("api-gw",))
    assert result.actions == ["recreated api-gw"] and "restart" not in running.verbs()


def test_a_failing_restart(running: Host) -> None:
    running.compose.answers["restart"] = Completed(1, "", "Error: broken\n")
    result = running.one("restarted")
    assert result.failed and "broken" in result.msg


def test_unhealthy_after_a_restart(running: Host) -> None:
    running.compose.status["auth"] = UNHEALTHY
    result = running.one("restarted")
    assert result.failed and "auth" in result.msg and result.changed


# Absent


def test_removing_keeps_volumes(running: Host) -> None:
    result = running.one("absent")
    assert (result.changed, result.failed, result.state) == (True, False, "absent")
    assert running.docker.rows == [] and running.docker.network_rows == [] and len(running.docker.volume_rows) == 2
    assert no_volume_flag(running) and running.verbs() == ["down"]
    assert "removed network multibase-acme_default" in result.actions
    again = running.one("absent")
    assert not again.changed and running.compose.calls == []


def test_purging_needs_the_name_again(running: Host) -> None:
    for confirmed in (frozenset(), frozenset({"other"})):
        with pytest.raises(InvalidInput) as caught:
            running.one("absent", purge_volumes=True, confirmed=confirmed)
        assert "acme" in str(caught.value) and "confirmed" in str(caught.value)
    assert running.compose.calls == [] and len(running.docker.volume_rows) == 2
    result = running.one("absent", purge_volumes=True, confirmed=frozenset({"acme"}))
    assert not result.failed and running.docker.volume_rows == []


def test_volumes_left_by_an_earlier_removal_can_still_be_purged(running: Host) -> None:
    running.one("absent")
    result = running.one("absent", purge_volumes=True, confirmed=frozenset({"acme"}))
    assert result.changed and not result.failed and running.docker.volume_rows == []


def test_what_is_still_there_after_down_is_named(running: Host) -> None:
    running.docker.stubborn = {running.docker.service(PROJECT, "rest")["Id"]}
    result = running.one("absent")
    assert result.failed and "multibase-acme-rest-1" in result.msg and result.state == "partial"


def test_removing_what_there_is_not(host: Host) -> None:
    result = host.run("absent", "nosuch")[0]
    assert (result.changed, result.failed, result.state) == (False, False, "absent")
    host.docker.add("multibase-nosuch", "db", instance="nosuch")
    result = host.run("absent", "nosuch")[0]
    assert result.failed and "multibase-nosuch-db-1" in result.msg


# Check mode


@pytest.mark.parametrize("state", ["started", "stopped", "restarted", "absent"])
@pytest.mark.parametrize("when", ["never started", "running", "stopped", "changed"])
def test_check_mode_runs_nothing_and_says_what_a_run_does(tmp_path: Path, state: str, when: str) -> None:
    host = Host(tmp_path)
    if when != "never started":
        host.one("started")
    if when == "stopped":
        host.one("stopped")
    if when == "changed":
        changed_gateway(host)
    docker, files = json.dumps(host.docker.rows), snapshot(tmp_path, times=True)
    checked = host.one(state, check_mode=True)
    assert host.compose.calls == [] and json.dumps(host.docker.rows) == docker
    assert not {"stop", "remove"} & set(host.docker.calls)
    assert snapshot(tmp_path, times=True) == files
    assert not checked.failed
    assert checked.changed == host.one(state).changed


def test_results_have_every_field_and_no_secret(running: Host) -> None:
    values = secrets_of(running.root, "acme")
    for state in ("started", "stopped", "restarted", "absent"):
        data = running.one(state).as_dict()
        assert set(data) == {"name", "changed", "state", "health", "actions", "failed", "msg", "seconds"}
        assert_no_secret(json.dumps(data), values, "result")


def test_time_is_limited_per_instance(host: Host) -> None:
    host.compose.status["auth"] = "Up 1 second (health: starting)"
    started = time.monotonic()
    result = host.one("started", timeout=0.3)
    assert result.failed and time.monotonic() - started < 5 and "starting" in result.msg


def test_no_secret_in_any_argument_or_environment(running: Host) -> None:
    values = secrets_of(running.root, "acme")
    for state in ("stopped", "started", "restarted", "absent"):
        running.one(state)
        assert_no_secret(json.dumps(running.compose.calls), values, "arguments")
    assert_no_secret(json.dumps(running.compose.environments), values, "environment")
    for directory, environment in zip(running.compose.directories, running.compose.environments):
        assert ("COMPOSE_FILE" in environment) is (directory != "/"), "all but the question for the version"
    assert {os.path.basename(path) for path in running.compose.directories} <= {"acme", ""}


def test_redaction_knows_every_secret_of_the_env(host: Host) -> None:
    own = {"smtp": {"password": "mailpassword"}, "secrets": {"functions": {"STRIPE_KEY": "sk-of-the-user"}}}
    converge(host.root, item("acme", **own))
    env = Path(host.root) / "projects" / "acme" / ".env"
    env.write_text(env.read_text(encoding="utf-8") + "BY_HAND=put-there-by-hand\n", encoding="utf-8")
    variables = {**env_of(host.root, "acme"), "STRIPE_KEY": "sk-of-the-user"}
    text = _stacks.redact(" ".join(variables.values()), load_stack(Layout(str(host.root)), "acme").confidential)
    values = {name: variables[name] for name in (*SECRETS, "STRIPE_KEY", "BY_HAND") if variables.get(name)}
    assert "mailpassword" in values.values()
    assert_no_secret(text, values, "text")


# What goes wrong in between


def test_restart_does_not_wait_for_the_unhealthy_first(running: Host) -> None:
    running.docker.service(PROJECT, "auth")["Status"] = UNHEALTHY
    result = running.one("restarted", services=("auth",))
    assert "restart" in running.verbs(), "nothing was restarted"
    assert result.actions == ["restarted auth"]


def test_a_start_that_waited_for_another_one_finds_nothing_to_do(running: Host) -> None:
    stale: List[Container] = []
    running.compose.calls.clear()
    runner = Runner(
        Layout(str(running.root)), Engine(running.docker), Compose(runner=running.compose), Settings(state="started")
    )
    result = Result("acme")
    stack = load_stack(Layout(str(running.root)), "acme")
    runner._started(_stacks._Job(stack, stale, {}, time.monotonic() + 5, result))
    assert running.verbs() == [] and not result.changed and result.health == "healthy"


def test_no_lock_is_held_while_waiting_for_health(host: Host) -> None:
    host.compose.status["auth"] = UNHEALTHY
    free: List[bool] = []

    def take_the_lock() -> None:
        with exclusive(str(host.root / "state" / "locks" / "acme.lock"), 0.1):
            free.append(True)

    host.on_sleep = take_the_lock
    assert host.one("started", timeout=0.3).failed
    assert free


def test_a_damaged_instance_can_be_stopped_and_removed(running: Host) -> None:
    path = running.root / "projects" / "acme" / ".env"
    path.write_text(path.read_text().replace("VAULT_ENC_KEY=", "VAULT_ENC_KEY=x"))
    assert running.one("started").failed
    stopped = running.one("stopped")
    assert not stopped.failed and stopped.changed, stopped.msg
    assert set(running.states().values()) == {"exited"} and running.verbs() == []
    removed = running.one("absent")
    assert not removed.failed and removed.changed, removed.msg
    assert running.states() == {}
    assert not [call for call in running.docker.calls if "volume" in str(call) and "remove" in str(call)]


def test_what_was_added_by_hand_is_taken_out_of_messages(host: Host) -> None:
    path = host.root / "projects" / "acme" / ".env"
    path.write_text(path.read_text() + "STRIPE_KEY=canary-by-hand\n")
    host.compose.answers["up"] = Completed(1, "", "cannot use canary-by-hand")
    result = host.one("started")
    assert result.failed and "cannot use ***" in result.msg and "canary" not in result.msg
