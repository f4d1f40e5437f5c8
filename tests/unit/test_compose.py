# SPDX-License-Identifier: GPL-3.0-or-later
"""The adapter to Docker Compose: a test for each trap, on argument lists and environments. No Compose is run."""

from __future__ import annotations

import ast
import os
import re
import time
from pathlib import Path
from typing import Any, Dict, List, Mapping, Optional, Sequence, Tuple

import pytest

from ansible_collections.multibase.supabase.plugins.module_utils import _compose, _process
from ansible_collections.multibase.supabase.plugins.module_utils._compose import Compose, Project, compose_files
from ansible_collections.multibase.supabase.plugins.module_utils._errors import ComposeFailed
from ansible_collections.multibase.supabase.plugins.module_utils._process import Completed
from unit.support import PLUGINS, verb_of

Call = Tuple[List[str], str, Dict[str, str], float]


class Recorder:
    """Stands in for the process runner: records calls and answers with one result."""

    def __init__(self, answer: Optional[Completed] = None) -> None:
        self.answer = answer or Completed(0, "5.6.1\n", "")
        self.calls: List[Call] = []

    def __call__(self, argv: Sequence[str], cwd: str, environment: Mapping[str, str], timeout: float) -> Completed:
        self.calls.append((list(argv), cwd, dict(environment), timeout))
        return self.answer


def every_call(tmp_path: Path, purge: bool = False) -> Dict[str, Call]:
    runner = Recorder()
    compose, project = Compose(runner=runner), Project(str(tmp_path), {"COMPOSE_FILE": "docker-compose.yml"})
    compose.up(project, "missing", 60)
    compose.stop(project, 60)
    compose.restart(project, ["auth"], 60)
    compose.down(project, purge, 60)
    compose.services(project)
    return {verb_of(call[0]): call for call in runner.calls}


def words(call: Call) -> List[str]:
    return call[0]


# Argument lists


def test_every_argument_list() -> None:
    base = ["docker", "compose", "--ansi", "never", "--progress", "plain"]
    every = [*base, "--profile", "*"]
    assert _compose.up_argv("missing")[:6] == base
    assert _compose.stop_argv() == [*every, "stop"]
    assert _compose.restart_argv(["auth", "rest"]) == [*base, "restart", "auth", "rest"]
    assert _compose.down_argv(purge=False) == [*every, "down", "--remove-orphans"]
    assert _compose.down_argv(purge=True) == [*every, "down", "--remove-orphans", "--volumes"]
    assert _compose.services_argv() == [*base, "config", "--services"]


@pytest.mark.parametrize("pull", ["missing", "always", "never"])
def test_up_runs_in_the_background_and_builds_nothing(pull: str) -> None:
    argv = _compose.up_argv(pull)
    assert argv.count("up") == 1 and "--detach" in argv and "--no-build" in argv
    assert argv[argv.index("--pull") + 1] == pull


def test_stop_and_down_always_name_every_profile(tmp_path: Path) -> None:
    calls = every_call(tmp_path)
    for verb in ("stop", "down"):
        argv = words(calls[verb])
        assert argv[argv.index("--profile") + 1] == "*" and argv.index("--profile") < argv.index(verb)
    for verb in ("up", "config"):
        assert "--profile" not in words(calls[verb]), "what is switched off stays off"


def test_nothing_ever_says_yes(tmp_path: Path) -> None:
    for purge in (False, True):
        for call in every_call(tmp_path, purge).values():
            said = " ".join(words(call))
            assert not re.search(r"(^| )(-y|--yes|--assume\S*|--force\S*|-f|--renew-anon-volumes|-V)( |$)", said)


def test_volumes_go_only_in_a_confirmed_purge(tmp_path: Path) -> None:
    def with_volumes(calls: Dict[str, Call]) -> List[str]:
        return [verb for verb, call in calls.items() if {"-v", "--volumes", "--rmi"} & set(words(call))]

    assert with_volumes(every_call(tmp_path)) == []
    assert with_volumes(every_call(tmp_path, purge=True)) == ["down"]


def test_no_other_file_builds_a_compose_command() -> None:
    for path in sorted(PLUGINS.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, (ast.List, ast.Tuple)):
                literal = [element.value for element in node.elts if isinstance(element, ast.Constant)]
                if literal[:2] == ["docker", "compose"]:
                    assert path.name == "_compose.py"


@pytest.mark.parametrize("word", ["assume_yes", "assume-yes", "shell=True", "os.system", "os.popen"])
def test_words_that_no_plugin_has_in_its_code(word: str) -> None:
    for path in sorted(PLUGINS.rglob("*.py")):
        assert word not in path.read_text(encoding="utf-8"), path


# Environment and files


def test_the_environment_is_clean(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hostile = {
        "POSTGRES_PASSWORD": "shell", "COMPOSE_PROFILES": "shell", "COMPOSE_PROJECT_NAME": "shell",
        "COMPOSE_FILE": "shell",
        "COMPOSE_ENV_FILES": "shell", "API_GW_HTTP_PORT": "1", "MULTIBASE_INSTANCE": "x", "COMPOSE_ASSUME_YES": "1",
        "COMPOSE_REMOVE_ORPHANS": "1", "COMPOSE_IGNORE_ORPHANS": "1", "COMPOSE_DISABLE_ENV_FILE": "1", "REGION": "x",
    }  # fmt: skip
    for name, value in hostile.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("DOCKER_CONFIG", "/somewhere")
    for call in every_call(tmp_path).values():
        environment = call[2]
        assert {name for name in environment if name not in ("PATH", "HOME", "LC_ALL")} - {
            name for name in environment if name.startswith("DOCKER_")
        } == {"COMPOSE_FILE"}
        assert environment["COMPOSE_FILE"] == "docker-compose.yml"
        assert environment["DOCKER_CONFIG"] == "/somewhere"
        assert call[1] == str(tmp_path)


def test_path_and_home_are_there_even_without_any(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PATH")
    monkeypatch.delenv("HOME")
    environment = _process.clean_environment()
    assert "/usr/bin" in environment["PATH"] and environment["HOME"]


def test_another_engine(tmp_path: Path) -> None:
    runner = Recorder()
    Compose("unix:///run/other.sock", runner).up(Project(str(tmp_path), {}), "missing", 60)
    assert runner.calls[0][2]["DOCKER_HOST"] == "unix:///run/other.sock"


def test_the_override_file_is_last_exactly_when_it_exists(tmp_path: Path) -> None:
    variables = {"COMPOSE_FILE": "docker-compose.yml:overlays/a.yml"}
    listed = {"COMPOSE_FILE": "docker-compose.yml:docker-compose.override.yml:overlays/a.yml"}
    without = ["docker-compose.yml", "overlays/a.yml"]
    for values in (variables, listed):
        assert compose_files(values, str(tmp_path)) == without
    (tmp_path / "docker-compose.override.yml").write_text("services: {}\n")
    for values in (variables, listed):
        assert compose_files(values, str(tmp_path)) == [*without, "docker-compose.override.yml"]
        runner = Recorder()
        Compose(runner=runner).up(Project(str(tmp_path), values), "missing", 60)
        assert runner.calls[0][2]["COMPOSE_FILE"].split(":") == [*without, "docker-compose.override.yml"]
    (tmp_path / "docker-compose.override.yml").unlink()
    (tmp_path / "docker-compose.override.yml").mkdir()
    assert compose_files(variables, str(tmp_path)) == without
    assert compose_files({}, str(tmp_path)) == ["docker-compose.yml"]


# Versions


@pytest.mark.parametrize(
    ("text", "version"),
    [
        ("2.26.1-4\n", (2, 26, 1)), ("v5.6.1", (5, 6, 1)), ("2.24.0", (2, 24, 0)), ("5.0\n", (5, 0, 0)),
        ("2.40.3+ds1-0ubuntu1", (2, 40, 3)), ("v2.24.0-rc.1", (2, 24, 0)), ("10.0.0", (10, 0, 0)),
    ],
)  # fmt: skip
def test_versions_are_read(text: str, version: Tuple[int, ...]) -> None:
    assert _compose.parse_version(text) == version


@pytest.mark.parametrize("text", ["", "unknown", "dev", "v", "five.six"])
def test_what_is_no_version(text: str) -> None:
    with pytest.raises(ComposeFailed):
        _compose.parse_version(text)


@pytest.mark.parametrize("text", ["2.24.0", "2.24.7", "2.26.1-4", "3.0.0", "5.6.1", "10.0.0"])
def test_new_enough(text: str) -> None:
    assert Compose(runner=Recorder(Completed(0, text, ""))).version()


@pytest.mark.parametrize("text", ["2.23.9", "2.9.0", "1.29.2", "v2.5.0"])
def test_too_old_says_which_which_is_needed_and_who_installs_it(text: str) -> None:
    with pytest.raises(ComposeFailed) as caught:
        Compose(runner=Recorder(Completed(0, text, ""))).version()
    message = str(caught.value)
    assert text in message and "2.24" in message and "playbooks/site.yml" in message


def test_a_missing_plugin_or_command_names_the_playbook() -> None:
    missing = Recorder(Completed(1, "", "docker: 'compose' is not a docker command.\nSee 'docker --help'\n"))
    with pytest.raises(ComposeFailed, match=r"playbooks/site\.yml"):
        Compose(runner=missing).version()

    def no_docker(*_args: Any) -> Completed:
        raise FileNotFoundError("docker")

    with pytest.raises(ComposeFailed, match=r"playbooks/site\.yml"):
        Compose(runner=no_docker).version()


def test_the_version_is_asked_for_once() -> None:
    runner = Recorder()
    compose = Compose(runner=runner)
    assert compose.version() == compose.version() == "5.6.1"
    assert len(runner.calls) == 1


def test_services_of_a_project(tmp_path: Path) -> None:
    runner = Recorder(Completed(0, "db\n\n auth\n", "warning\n"))
    assert Compose(runner=runner).services(Project(str(tmp_path), {})) == ["auth", "db"]
    failing = Recorder(Completed(15, "", "required variable X is missing\n"))
    with pytest.raises(ComposeFailed, match="required variable X"):
        Compose(runner=failing).services(Project(str(tmp_path), {}))


def test_last_lines() -> None:
    assert _compose.last_lines("a\n\n b \nc\n", 2) == "b / c"
    assert _compose.last_lines("\n \n", 2) == "no output"


# Processes


def run(*argv: str, timeout: float = 20, cwd: str = "/") -> Completed:
    return _process.run(argv, cwd, _process.clean_environment(), timeout)


def test_a_program_and_how_it_ended(tmp_path: Path) -> None:
    done = run("/bin/sh", "-c", "pwd; echo problem >&2; exit 7", cwd=str(tmp_path))
    assert (done.code, done.output, done.errors) == (7, str(tmp_path) + "\n", "problem\n")


def test_output_that_is_no_text_is_no_error() -> None:
    assert run("/bin/sh", "-c", r"printf '\377\376x'").output.endswith("x")


def test_nothing_can_be_asked() -> None:
    assert run("/bin/cat").output == "", "standard input is closed"


def test_out_of_time_ends_the_whole_group(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # The program does not listen to the request to end, and has less than the usual time to do so.
    monkeypatch.setattr(_process, "_GRACE_SECONDS", 0.3)
    pids = tmp_path / "pids"
    script = "sleep 60 & echo $! $$ > {0}; trap '' TERM; echo before; wait; sleep 60".format(pids)
    started = time.monotonic()
    done = run("/bin/sh", "-c", script, timeout=0.7)
    assert time.monotonic() - started < 5
    assert done.code == 124 and done.output == "before\n"
    for pid in pids.read_text().split():
        deadline = time.monotonic() + 5
        while _runs(int(pid)) and time.monotonic() < deadline:
            time.sleep(0.02)
        assert not _runs(int(pid)), "process {0} still runs".format(pid)


def _runs(pid: int) -> bool:
    """Whether a process runs; one that is dead but not yet waited for does not."""
    try:
        with open("/proc/{0}/stat".format(pid), encoding="ascii") as stream:
            return stream.read().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_a_signal_to_us_is_not_one_to_the_program() -> None:
    # A session of its own: Ctrl-C in the terminal of a host does not end Compose half-way.
    done = run("/bin/sh", "-c", "cut -d' ' -f6 /proc/self/stat")
    assert int(done.output) != os.getsid(0)
