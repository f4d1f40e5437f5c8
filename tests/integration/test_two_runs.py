# SPDX-License-Identifier: GPL-3.0-or-later
"""Several runs of ansible-playbook at once on one root: whole processes, as two people start them.

No Engine is asked: the address given for it is that of a socket that is not there. Listening ports of this machine are
left out by the allocation itself, so blocks need not be dense.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Dict, Iterator, List, Mapping, NamedTuple, Optional, Sequence

import pytest

from ansible_collections.multibase.supabase.plugins.module_utils._envfile import parse
from ansible_collections.multibase.supabase.plugins.module_utils._lock import exclusive
from ansible_collections.multibase.supabase.plugins.module_utils._secrets import problems
from bench.bench import ansible_config, environment
from unit.support import REPOSITORY, TEMPLATES, manifest_of, registry_of, secrets_of, snapshot

EACH = 50
PORTS = "21000-31999"
PLAYBOOK = """
- name: Bring instances to what is declared
  hosts: localhost
  connection: local
  gather_facts: false
  tasks:
    - name: Call the module
      multibase.supabase.instance:
        root: "{{ test_root }}"
        template_root: "{{ test_template_root }}"
        docker_host: "{{ test_docker_host }}"
        port_range: "{{ test_ports }}"
        overcommit_cpus: 0
        overcommit_memory: 0
        lock_timeout: "{{ test_lock_timeout }}"
        instances: "{{ test_instances }}"
        confirmed: "{{ test_confirmed }}"
      register: test_results
    - name: Hand the results over
      ansible.builtin.copy:
        content: "{{ test_results | to_json }}"
        dest: "{{ test_answer }}"
        mode: "0600"
      changed_when: false
"""


class Ended(NamedTuple):
    """A run of ansible-playbook that ended: its exit status, what it printed, and what the module returned."""

    code: int
    output: str
    returned: Mapping[str, Any]

    def actions(self) -> Dict[str, List[str]]:
        return {result["name"]: result["actions"] for result in self.returned["results"]}


class Run:
    """One run of ansible-playbook, with everything that Ansible keeps in a directory of its own."""

    def __init__(self, place: Path, root: Path) -> None:
        self._place = place
        self._root = root
        place.mkdir()
        (place / "ansible.cfg").write_text(ansible_config(REPOSITORY), encoding="utf-8")
        (place / "play.yml").write_text(PLAYBOOK, encoding="utf-8")
        self._answer = place / "answer.json"
        self._log = place / "output.log"
        self.process: Optional[subprocess.Popen[bytes]] = None

    def start(self, items: Sequence[Mapping[str, Any]], confirmed: Sequence[str] = (), lock_timeout: int = 120) -> Run:
        variables = {
            "ansible_python_interpreter": sys.executable,
            "test_root": str(self._root),
            "test_template_root": str(TEMPLATES),
            "test_docker_host": "unix://{0}".format(self._place / "no-engine.sock"),
            "test_ports": PORTS,
            "test_lock_timeout": lock_timeout,
            "test_instances": items,
            "test_confirmed": confirmed,
            "test_answer": str(self._answer),
        }
        (self._place / "variables.json").write_text(json.dumps(variables), encoding="utf-8")
        program = Path(sys.executable).parent / "ansible-playbook"
        command = [str(program), "--inventory", "localhost,", "--extra-vars", "@variables.json", "play.yml"]
        with self._log.open("wb") as stream:
            self.process = subprocess.Popen(
                command,
                cwd=self._place,
                env=environment(self._place),
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=subprocess.STDOUT,
            )
        return self

    @property
    def running(self) -> bool:
        return self.process is not None and self.process.poll() is None

    def end(self) -> Ended:
        """Wait for the end and return it."""
        assert self.process is not None
        code = self.process.wait(timeout=300)
        returned = json.loads(self._answer.read_text(encoding="utf-8")) if self._answer.exists() else {}
        return Ended(code, self._log.read_text(encoding="utf-8"), returned)


class Runs:
    """Runs on one root, each killed at the end of the test if it still is there."""

    def __init__(self, place: Path) -> None:
        self.root = place / "root"
        self._place = place
        self._all: List[Run] = []

    def start(self, items: Sequence[Mapping[str, Any]], **more: Any) -> Run:
        run = Run(self._place / "run{0}".format(len(self._all)), self.root)
        self._all.append(run)
        return run.start(items, **more)

    def together(self, *starts: Mapping[str, Any]) -> List[Ended]:
        """Start runs, let none go on before all stand at the lock, and return how they ended, all well."""
        lock = self.root / "state" / "locks" / "_registry.lock"
        with exclusive(str(lock), 0):
            runs = [self.start(**start) for start in starts]
            deadline = time.monotonic() + 120
            while waiting_at(lock) < len(runs):
                assert all(run.running for run in runs) and time.monotonic() < deadline, "a run never came to the lock"
                time.sleep(0.05)
        return [self.well(run) for run in runs]

    @staticmethod
    def well(run: Run) -> Ended:
        """Return how a run ended, which is well."""
        ended = run.end()
        assert ended.code == 0, ended.output
        return ended

    def close(self) -> None:
        for run in self._all:
            if run.process is not None and run.running:
                run.process.kill()
                run.process.wait()


@pytest.fixture
def runs(tmp_path: Path) -> Iterator[Runs]:
    made = Runs(tmp_path)
    yield made
    made.close()


def waiting_at(lock: Path) -> int:
    """Return how many other processes have the file of a lock open."""
    count = 0
    for process in Path("/proc").iterdir():
        if process.name.isdigit() and int(process.name) != os.getpid():
            with contextlib.suppress(OSError):
                count += any(os.readlink(entry) == str(lock) for entry in (process / "fd").iterdir())
    return count


def present(*names: str) -> List[Dict[str, Any]]:
    return [{"name": name} for name in names]


def absent(*names: str) -> List[Dict[str, Any]]:
    return [{"name": name, "state": "absent"} for name in names]


def names_of(letter: str, count: int = EACH) -> List[str]:
    return ["{0}{1:02d}".format(letter, number) for number in range(count)]


def check(root: Path, names: Sequence[str]) -> None:
    """Check that exactly these instances are there, whole, none sharing anything, and nothing else is left."""
    rows = registry_of(root)
    assert sorted(rows) == sorted(names) == sorted(os.listdir(root / "projects"))
    seen: Dict[str, str] = {}
    for name, row in rows.items():
        manifest = manifest_of(root, name)
        assert {key: manifest[key] for key in row} == row, name
        variables = parse((root / "projects" / name / ".env").read_text(encoding="utf-8"))
        assert (variables["API_GW_HTTP_PORT"], variables["MULTIBASE_SUBNET"], variables["COMPOSE_PROJECT_NAME"]) == (
            str(row["port_base"]),
            row["subnet"],
            row["project"],
        )
        assert problems(variables) == [], name
        missing = [path for path in manifest["managed"] if not (root / "projects" / name / path).is_file()]
        assert missing == [], name
        own = {str(row["port_base"]), row["subnet"], manifest["salt"], *secrets_of(root, name).values()}
        assert row["port_base"] % 10 == 0 and 21000 <= row["port_base"] < 32000
        assert [value for value in own if value in seen] == [], "{0} shares something".format(name)
        seen.update({value: name for value in own})
    left = [
        path
        for path in snapshot(root)
        if path.endswith(".multibase-new") or "/.staging-" in path or "/.deleting-" in path
    ]
    assert left == []


def kept(root: Path, names: Sequence[str]) -> Dict[str, Any]:
    """Return what instances keep for life."""
    return {name: (registry_of(root)[name], secrets_of(root, name)) for name in names}


def test_two_runs_create_fifty_instances_each(runs: Runs) -> None:
    first, second = names_of("x"), names_of("y")
    ended = runs.together({"items": present(*first)}, {"items": present(*second)})
    for one, names in zip(ended, (first, second)):
        assert one.actions() == {name: ["created"] for name in names}
    check(runs.root, [*first, *second])
    before = snapshot(runs.root, times=True)
    again = runs.well(runs.start(present(*first, *second)))
    assert again.returned["changed"] is False and len(again.actions()) == 2 * EACH
    assert " changed=0 " in again.output
    assert snapshot(runs.root, times=True) == before


@pytest.mark.parametrize("seconds", [0.0, 0.2, 0.5])
def test_two_runs_that_nobody_holds_up(runs: Runs, seconds: float) -> None:
    """As they come: the one a little later, each from a bare root on."""
    first, second = names_of("x"), names_of("y")
    one = runs.start(present(*first))
    time.sleep(seconds)
    two = runs.start(present(*second))
    for ended, names in ((runs.well(one), first), (runs.well(two), second)):
        assert ended.actions() == {name: ["created"] for name in names}
    check(runs.root, [*first, *second])


def test_the_same_names_in_both_runs_are_created_once(runs: Runs) -> None:
    shared, first, second = names_of("s", 10), names_of("x", 10), names_of("y", 10)
    ended = runs.together({"items": present(*first, *shared)}, {"items": present(*shared, *second)})
    one, two = (run.actions() for run in ended)
    assert [one[name] for name in first] == [two[name] for name in second] == [["created"]] * 10
    # One of the runs came first and made all ten; the other found them as it wants them.
    assert sorted([[one[name] for name in shared], [two[name] for name in shared]]) == [[[]] * 10, [["created"]] * 10]
    told = [{result["name"]: result["ports"] for result in run.returned["results"]} for run in ended]
    assert {name: told[0][name] for name in shared} == {name: told[1][name] for name in shared}
    check(runs.root, [*shared, *first, *second])
    before = kept(runs.root, shared)
    assert runs.well(runs.start(present(*shared, *first, *second))).returned["changed"] is False
    assert kept(runs.root, shared) == before


def test_one_run_deletes_while_another_creates(runs: Runs) -> None:
    old, doomed, new = names_of("o", 10), names_of("d", 10), names_of("n", 20)
    runs.well(runs.start(present(*old, *doomed)))
    before = kept(runs.root, old)
    ended = runs.together(
        {"items": absent(*doomed), "confirmed": doomed},
        {"items": present(*new, *old)},
    )
    assert ended[0].actions() == {name: ["deleted"] for name in doomed}
    assert ended[1].actions() == {**{name: ["created"] for name in new}, **{name: [] for name in old}}
    check(runs.root, [*old, *new])
    assert kept(runs.root, old) == before


def test_one_run_deletes_what_another_wants(runs: Runs) -> None:
    """Whoever comes last is right; there is never half of an instance."""
    names = names_of("b", 5)
    runs.well(runs.start(present(*names)))
    before = kept(runs.root, names)
    ended = runs.together({"items": absent(*names), "confirmed": names}, {"items": present(*names)})
    assert ended[0].actions() == {name: ["deleted"] for name in names}
    if all(actions == [] for actions in ended[1].actions().values()):
        assert not (runs.root / "projects" / names[0]).exists()
        check(runs.root, [])
    else:
        assert ended[1].actions() == {name: ["created"] for name in names}
        check(runs.root, names)
        assert not set(secrets_of(runs.root, names[0]).values()) & set(before[names[0]][1].values())


HOLDER = """
import os, signal, sys
sys.path.insert(0, sys.argv[1])
from ansible_collections.multibase.supabase.plugins.module_utils._lock import exclusive
with exclusive(sys.argv[2], 5):
    os.kill(os.getpid(), signal.SIGSTOP)
"""


def test_a_stopped_holder_is_named_and_a_killed_one_forgotten(runs: Runs) -> None:
    lock = runs.root / "state" / "locks" / "_registry.lock"
    holder = subprocess.Popen([sys.executable, "-c", HOLDER, str(REPOSITORY / "collections"), str(lock)])
    try:
        _pid, status = os.waitpid(holder.pid, os.WUNTRACED)
        assert os.WIFSTOPPED(status)
        refused = runs.start(present("acme"), lock_timeout=1).end()
        assert refused.code == 2 and refused.returned == {}
        message = " ".join(refused.output.split())
        assert "another run holds {0}".format(lock) in message and "lock_timeout" in message
        assert "Traceback" not in refused.output
        assert not (runs.root / "projects").exists()
        waiting = runs.start(present("acme"))
        while waiting_at(lock) < 2:
            assert waiting.running
            time.sleep(0.05)
    finally:
        holder.send_signal(signal.SIGKILL)
        holder.wait()
    assert runs.well(waiting).actions() == {"acme": ["created"]}
    check(runs.root, ["acme"])
