# SPDX-License-Identifier: GPL-3.0-or-later
"""Recording beside the run: nothing is lost, nothing is taken for a number that is none, and what failed is said."""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Dict, List, Mapping, Tuple

import pytest

from unit.support import REPOSITORY

PATH = REPOSITORY / "playbooks" / "recording" / "recorder.py"
_spec = importlib.util.spec_from_file_location("multibase_recorder", PATH)
assert _spec is not None and _spec.loader is not None
recorder = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(recorder)

PLUGINS = f"{REPOSITORY / 'playbooks' / 'callback_plugins'}:{REPOSITORY / '.venv' / 'ara' / 'callback'}"
# Takes what it is sent, as the recorder does, and writes it to a file.
TAKER = "import sys; open({0!r}, 'wb').write(sys.stdin.buffer.read())"


def lines(path: Path) -> List[List[Any]]:
    """The calls that a taker was sent."""
    return [json.loads(line) for line in path.read_text().splitlines()]


class Api:
    """Stands in for ARA's API: numbers what is made from 41 on."""

    def __init__(self) -> None:
        self.calls: List[Tuple[str, str, Dict[str, Any]]] = []

    def __call__(self, method: str, path: str, members: Mapping[str, Any]) -> Tuple[int, Any]:
        self.calls.append((method, path, dict(members)))
        if members.get("status") == "bad":
            return 400, None
        if members.get("status") == "worse":
            raise OSError("disk full")
        return 201, {"id": 40 + len(self.calls), **members}


def test_marks_become_numbers_and_recorded_text_stays(tmp_path: Path) -> None:
    told = tmp_path / "told"
    client = recorder.DeferredClient([sys.executable, "-c", TAKER.format(str(told))])
    playbook = client.post("/api/v1/playbooks", path="/x")
    assert playbook["name"] is None and playbook["labels"] == [] and playbook["path"] == "/x"
    named = client.patch("/api/v1/playbooks/" + playbook["id"], labels=["a"])
    assert named["labels"] == [{"name": "a"}] and named["id"] == playbook["id"]
    task = client.post("/api/v1/tasks", playbook=playbook["id"], play=None, status="running", uuid="u")
    host = client.post("/api/v1/hosts", playbook=playbook["id"], name=task["id"])
    content = {"playbook": playbook["id"], "text": "multibase-call-9"}
    client.post(
        "/api/v1/results", task=task["id"], host=host["id"], delegated_to=[host["id"]], content=content, changed=False
    )
    failed = client.patch("/api/v1/tasks/" + task["id"], status="failed")
    assert (failed["status"], failed["uuid"], failed["id"]) == ("failed", "u", task["id"])
    client.patch("/api/v1/playbooks/" + playbook["id"], status="completed", ended="now")
    api = Api()
    at_work = recorder.Recorder(api)
    for line in told.read_bytes().splitlines(keepends=True):
        at_work.take(line)
    assert at_work.problems == []
    assert [call[:2] for call in api.calls] == [
        ("post", "/api/v1/playbooks"), ("patch", "/api/v1/playbooks/41"), ("post", "/api/v1/tasks"),
        ("post", "/api/v1/hosts"), ("post", "/api/v1/results"), ("patch", "/api/v1/tasks/43"),
        ("patch", "/api/v1/playbooks/41"),
    ]  # fmt: skip
    # A name and a content are text, whatever they look like.
    assert api.calls[3][2] == {"playbook": 41, "name": task["id"]}
    assert api.calls[4][2] == {
        "task": 43, "host": 44, "delegated_to": [44], "content": content, "changed": False,
    }  # fmt: skip


def test_calls_that_fail_are_told_without_what_they_held() -> None:
    at_work = recorder.Recorder(Api())
    for number, call in enumerate(
        [
            ["post", "/api/v1/playbooks", {"path": "/x"}],
            ["post", "/api/v1/tasks", {"status": "bad", "content": "canary"}],
            ["post", "/api/v1/results", {"task": "multibase-call-2", "content": "canary"}],
            ["patch", "/api/v1/tasks/multibase-call-2", {"status": "completed"}],
            ["post", "/api/v1/plays", {"status": "worse", "content": "canary"}],
            ["post", "/api/v1/files", {"playbook": "multibase-call-1"}],
        ],
        1,
    ):
        at_work.take(json.dumps([number, *call]).encode())
    assert at_work.problems == [
        "post /api/v1/tasks: status 400",
        "post /api/v1/results: what it belongs to was not recorded",
        "patch /api/v1/tasks/multibase-call-2: what it belongs to was not recorded",
        "post /api/v1/plays: OSError: disk full",
    ]


@pytest.mark.parametrize(
    ("program", "said"),
    [
        ("import sys; sys.exit(3)", "exit status 3"),
        ("import sys; sys.stdin.read(); print('post x: status 500'); sys.exit(1)", "post x: status 500"),
    ],
)
def test_a_recorder_that_fails_is_told_at_the_end(program: str, said: str) -> None:
    client = recorder.DeferredClient([sys.executable, "-c", program])
    with pytest.raises(recorder.NotRecorded, match=said):
        for _number in range(1000):
            client.post("/api/v1/results", content="x" * 1000)
        client.patch("/api/v1/playbooks/1", ended="now")
    # Once: the run goes on without.
    client.post("/api/v1/results", content="x")


def test_workers_send_nothing(tmp_path: Path) -> None:
    told = tmp_path / "told"
    client = recorder.DeferredClient([sys.executable, "-c", TAKER.format(str(told))])
    child = os.fork()
    if not child:
        client.post("/api/v1/results", content="worker")
        client.patch("/api/v1/playbooks/1", ended="now")
        os._exit(0)
    os.waitpid(child, 0)
    client.post("/api/v1/results", content="run")
    client.patch("/api/v1/playbooks/1", ended="now")
    assert [call[3].get("content") for call in lines(told)] == ["run", None]


def test_a_signals_handler_may_send_while_a_call_is_sent(tmp_path: Path) -> None:
    """The pipe is full when the signal comes; what its handler sends comes after the whole of what it interrupted."""
    told = tmp_path / "told"
    slow = "import time; time.sleep(1); " + TAKER.format(str(told))
    client = recorder.DeferredClient([sys.executable, "-c", slow])
    before = signal.signal(signal.SIGALRM, lambda *_given: client.patch("/api/v1/plays/1", status="expired"))
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.2)
        client.post("/api/v1/results", content="x" * 1_000_000)
    finally:
        signal.signal(signal.SIGALRM, before)
    client.patch("/api/v1/playbooks/1", ended="now")
    assert [call[2] for call in lines(told)] == ["/api/v1/results", "/api/v1/plays/1", "/api/v1/playbooks/1"]


def test_only_ones_own_database_is_recorded_to_beside_the_run() -> None:
    class Utils:
        """Stands in for ``ara.clients.utils``."""

    def get_client(**options: Any) -> str:
        return "original"

    for options in ({"client": "http"}, {"client": "offline", "username": "ann"}):
        utils: Any = Utils()
        utils.get_client = get_client
        recorder.defer(utils)
        assert utils.get_client(**options) == "original" and utils.get_client is get_client


# With Ansible and ARA

PLAY = """---
- name: Test
  hosts: all
  gather_facts: false
  tasks:
    - name: Go over
      ansible.builtin.debug:
        msg: "{{ item }}"
      loop: [a, \u00e9]
    - name: Rescue
      block:
        - name: Fail
          ansible.builtin.fail:
            msg: for a reason
      rescue:
        - name: Ask the controller
          ansible.builtin.command:
            argv: [echo, "{{ inventory_hostname }}"]
          delegate_to: localhost
          notify: Tell
    - name: Skip
      ansible.builtin.debug:
      when: false
    - name: Wait
      ansible.builtin.command:
        argv: [sleep, "{{ seconds | default(0) }}"]
      changed_when: false
  handlers:
    - name: Tell
      ansible.builtin.debug:
        msg: told
"""


def command(directory: Path, *options: str) -> Tuple[List[str], Dict[str, str]]:
    """Argv and environment of a run on two hosts, which is recorded in ``directory``."""
    (directory / "play.yml").write_text(PLAY)
    environment = {
        **os.environ,
        "ANSIBLE_CONFIG": str(REPOSITORY / "ansible.cfg"),
        "ANSIBLE_CALLBACK_PLUGINS": PLUGINS,
        "ARA_BASE_DIR": str(directory / "ara"),
        "ANSIBLE_PYTHON_INTERPRETER": sys.executable,
    }
    ansible = str(REPOSITORY / ".venv" / "bin" / "ansible-playbook")
    return [ansible, "-i", "h1,h2,", "-c", "local", *options, str(directory / "play.yml")], environment


def records(directory: Path) -> Dict[str, List[Tuple[Any, ...]]]:
    """All that ARA keeps of runs but times, numbers of its own, and directories."""
    queries = {
        "playbooks": "SELECT name, status, ansible_version, arguments FROM playbooks",
        "plays": "SELECT name, status FROM plays",
        "tasks": "SELECT name, action, lineno, status, handler, tags, warnings FROM tasks ORDER BY id",
        "results": (
            "SELECT t.name, h.name, r.status, r.changed, r.ignore_errors, r.content,"
            " (SELECT COUNT(*) FROM results_delegated_to d WHERE d.result_id = r.id)"
            " FROM results r JOIN tasks t ON r.task_id = t.id JOIN hosts h ON r.host_id = h.id ORDER BY t.id, h.name"
        ),
        "hosts": "SELECT name, ok, changed, failed, skipped, unreachable FROM hosts ORDER BY name",
        "files": "SELECT f.path, c.sha1 FROM files f JOIN file_contents c ON f.content_id = c.id ORDER BY f.path",
        "labels": "SELECT name FROM labels ORDER BY name",
    }
    with sqlite3.connect(directory / "ara" / "ansible.sqlite") as database:
        return {name: database.execute(query).fetchall() for name, query in queries.items()}


def test_the_record_is_the_one_that_aras_own_client_makes(tmp_path: Path) -> None:
    argv, environment = command(tmp_path)
    made = []
    # Without our plugin ARA's callback has its own client. Names and labels are ours to give.
    own = PLUGINS.split(":")[1]
    for plugins in (PLUGINS, own):
        names = ["-e", "ara_playbook_name=n", "-e", "ara_playbook_labels=l"]
        done = subprocess.run(
            [*argv, *names],
            env={**environment, "ANSIBLE_CALLBACK_PLUGINS": plugins},
            check=True,
            capture_output=True,
            text=True,
        )
        assert "Callback dispatch" not in done.stdout + done.stderr
        made.append(records(tmp_path))
        (tmp_path / "ara").rename(tmp_path / ("ara-" + str(len(made))))
    assert made[0]["playbooks"][0][:2] == ("n", "completed") and len(made[0]["results"]) == 12
    for name, rows in made[0].items():
        if name == "results":
            # Results say how long a command took, and contents are compressed.
            import zlib

            volatile = ("start", "end", "delta")
            plain = []
            for found in (rows, made[1][name]):
                read = [(*row[:5], json.loads(zlib.decompress(row[5])), row[6]) for row in found]
                for row in read:
                    for key in volatile:
                        row[5].pop(key, None)
                plain.append(read)
            assert plain[0] == plain[1]
        else:
            assert rows == made[1][name], name


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_a_run_that_is_ended_is_recorded_up_to_there(tmp_path: Path, number: int) -> None:
    argv, environment = command(tmp_path, "-e", "seconds=60")
    with subprocess.Popen(
        argv, env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, start_new_session=True
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if "TASK [Wait]" in line:
                break
        time.sleep(1)
        # As a terminal does it, which has all of the foreground in mind.
        os.killpg(process.pid, number)
        process.stdout.read()
    expected = "running" if number == signal.SIGKILL else "expired"
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        try:
            found = records(tmp_path)
            if len(found["results"]) == 8 and found["playbooks"][0][1] == expected:
                break
        except (sqlite3.Error, IndexError):
            pass
        time.sleep(0.3)
    assert (len(found["results"]), found["playbooks"][0][1]) == (8, expected)


def test_where_ara_cannot_record_ansible_says_so_and_the_run_goes_on(tmp_path: Path) -> None:
    argv, environment = command(tmp_path)
    (tmp_path / "ara").mkdir()
    (tmp_path / "ara" / "ansible.sqlite").write_text("no database")
    done = subprocess.run(argv, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "ARA has not recorded all of this run" in " ".join((done.stdout + done.stderr).split())
