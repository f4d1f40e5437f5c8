# SPDX-License-Identifier: GPL-3.0-or-later
"""Has ARA record a run beside the run, in a process of its own.

ARA's callback asks its API for every task and every result, and goes on when it has the answer: some 0.15 s each, in
the process that all tasks wait for. What it needs of the answers is the number of what was made, to name it in later
calls, and what it sent itself. So ``DeferredClient`` answers at once, with a mark in place of the number, and hands
the call on through a pipe; this file, started as a program, is the other end: it makes the calls in their order and
puts numbers in place of the marks. At the end of the run the client waits until all is recorded, and says what was
not. Nothing is lost when the run is interrupted or killed: the recorder goes on until the pipe is closed and empty.

Only ARA's own database (``api_client: offline``) is recorded to in this way.
"""

from __future__ import annotations

import atexit
import io
import json
import os
import subprocess
import sys
from typing import Any, Callable, Dict, List, Mapping, Optional, Tuple, cast

# In front of the number of a call; its answer's id stands there in the recorder. Recorded text is never looked through
# for it: only these members of a call are numbers.
MARK = "multibase-call-"
NUMBERED = ("playbook", "play", "task", "host", "file", "delegated_to")
# What ARA's callback reads of an answer beside what it sent.
NEW: Dict[str, Dict[str, Any]] = {"playbooks": {"name": None, "labels": []}}


class NotRecorded(Exception):
    """The recorder died, or calls failed in it. Ansible shows it as a warning."""


# --- in the process of ansible-playbook ------------------------------------------------------------------------------


class DeferredClient:
    """Stands in for ARA's client: ``post`` and ``patch`` return at once."""

    def __init__(self, command: Optional[List[str]] = None) -> None:
        self._process = subprocess.Popen(
            command or [sys.executable, os.path.abspath(__file__)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            # Named, because Ansible keeps its own from programs.
            stderr=2,
            # Ctrl-C is for the run; what it says of its end is recorded yet.
            start_new_session=True,
        )
        self._owner = os.getpid()
        self._calls = 0
        self._known: Dict[str, Dict[str, Any]] = {}
        self._unsent = b""
        self._sending = False
        self._over = False
        atexit.register(self._finish)

    def post(self, endpoint: str, **members: Any) -> Dict[str, Any]:
        """Have something made, and return what is known of it."""
        kind = endpoint.strip("/").split("/")[-1]
        self._calls += 1
        number = self._calls
        answer = {**NEW.get(kind, {}), **members, "id": MARK + str(number)}
        self._known[answer["id"]] = answer
        self._send(number, "post", endpoint, members)
        return answer

    def patch(self, endpoint: str, **members: Any) -> Dict[str, Any]:
        """Have something changed, and return what is known of it."""
        answer = self._known.setdefault(endpoint.rsplit("/", 1)[-1], {})
        answer.update(members)
        if "labels" in members:
            answer["labels"] = [{"name": label} for label in members["labels"]]
        self._send(0, "patch", endpoint, members)
        if "/playbooks/" in endpoint and "ended" in members:
            self._finish()
        return dict(answer)

    def _send(self, number: int, method: str, endpoint: str, members: Mapping[str, Any]) -> None:
        # Workers are copies of this process, with its pipe and its handlers of signals; it is not theirs to write to.
        if os.getpid() != self._owner or self._over:
            return
        self._unsent += json.dumps([number, method, endpoint, members]).encode() + b"\n"
        # A handler of a signal may come in between; what it sends is sent by the call that it interrupted.
        if self._sending:
            return
        self._sending = True
        try:
            stream = cast(Any, self._process.stdin).fileno()
            while self._unsent:
                # In two steps: what a handler adds while this waits is there afterwards.
                written = os.write(stream, self._unsent)
                self._unsent = self._unsent[written:]
        except BrokenPipeError:
            self._finish()
        finally:
            self._sending = False

    def _finish(self) -> None:
        """Wait until all is recorded; raise what was not."""
        if os.getpid() != self._owner or self._over:
            return
        self._over = True
        try:
            answer, _nothing = self._process.communicate()
        except BrokenPipeError:
            answer = b""
        problems = [line for line in answer.decode(errors="replace").splitlines() if line]
        if self._process.returncode and not problems:
            problems = ["the recorder ended with exit status {0}".format(self._process.returncode)]
        if problems:
            shown = problems[:5] + (["and {0} more".format(len(problems) - 5)] if len(problems) > 5 else [])
            raise NotRecorded("ARA has not recorded all of this run: " + "; ".join(shown))


def defer(utils: Any) -> None:
    """Have the next client that ARA's ``ara.clients.utils`` makes be a deferred one, if it is to be an offline one."""
    original: Callable[..., Any] = utils.get_client

    def get_client(*arguments: Any, **options: Any) -> Any:
        # Once: actions of ARA's make clients of their own, and read through them.
        utils.get_client = original
        plain = not arguments and options.get("client") == "offline" and not options.get("username")
        return DeferredClient() if plain else original(*arguments, **options)

    utils.get_client = get_client


# --- in the recorder's own process -----------------------------------------------------------------------------------


def with_numbers(value: Any, numbers: Mapping[str, Any]) -> Any:
    """Return a member of a call with numbers for marks; a mark whose call failed raises ``KeyError``."""
    if isinstance(value, list):
        return [with_numbers(entry, numbers) for entry in value]
    return numbers[value] if isinstance(value, str) and value.startswith(MARK) else value


class Recorder:
    """Makes calls in their order. ``request`` makes one and returns status and answer."""

    def __init__(self, request: Callable[[str, str, Mapping[str, Any]], Tuple[int, Any]]) -> None:
        self._request = request
        self._numbers: Dict[str, Any] = {}
        self.problems: List[str] = []

    def take(self, line: bytes) -> None:
        """Make the call that a line describes."""
        call, method, endpoint, members = json.loads(line)
        try:
            head, _slash, last = endpoint.rpartition("/")
            path = "{0}/{1}".format(head, with_numbers(last, self._numbers))
            sent = {name: with_numbers(v, self._numbers) if name in NUMBERED else v for name, v in members.items()}
        except KeyError:
            self.problems.append("{0} {1}: what it belongs to was not recorded".format(method, endpoint))
            return
        # Of the members of a call nothing is told: they may be long, and are not for a terminal.
        try:
            status, answer = self._request(method, path, sent)
        except Exception as error:
            self.problems.append("{0} {1}: {2}: {3}".format(method, endpoint, type(error).__name__, error))
            return
        if status >= 400 or not isinstance(answer, dict) or "id" not in answer:
            self.problems.append("{0} {1}: status {2}".format(method, endpoint, status))
        elif method == "post":
            self._numbers[MARK + str(call)] = answer["id"]


def ara_requests() -> Callable[[str, str, Mapping[str, Any]], Tuple[int, Any]]:
    """Make ARA's database ready, and return what asks its API, without a network in between."""
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "ara.server.settings")
    import django
    from django.core.handlers.wsgi import WSGIHandler
    from django.core.management import call_command
    from django.db import connection

    django.setup()
    # One connection for all: that of a server would be made anew for each call.
    connection.settings_dict["CONN_MAX_AGE"] = None
    call_command("migrate", verbosity=0, interactive=False)
    handler = WSGIHandler()

    def request(method: str, path: str, members: Mapping[str, Any]) -> Tuple[int, Any]:
        body = json.dumps(members).encode()
        told: List[str] = []
        response = handler(
            {
                "REQUEST_METHOD": method.upper(),
                "PATH_INFO": path,
                "SCRIPT_NAME": "",
                "QUERY_STRING": "",
                "SERVER_NAME": "localhost",
                "SERVER_PORT": "80",
                "SERVER_PROTOCOL": "HTTP/1.1",
                "REMOTE_ADDR": "127.0.0.1",
                "CONTENT_TYPE": "application/json",
                "CONTENT_LENGTH": str(len(body)),
                "HTTP_ACCEPT": "application/json",
                "wsgi.input": io.BytesIO(body),
                "wsgi.errors": sys.stderr,
                "wsgi.url_scheme": "http",
                "wsgi.version": (1, 0),
                "wsgi.multithread": False,
                "wsgi.multiprocess": True,
                "wsgi.run_once": False,
            },
            lambda status, headers: told.append(status),
        )
        try:
            text = b"".join(response)
        finally:
            response.close()
        status = int(told[0].split()[0])
        return status, json.loads(text) if text and status < 400 else None

    return request


def main() -> int:
    """Record what comes in by standard input, and print a line for each call that failed."""
    # Whatever ARA or Django print is not an answer.
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    try:
        recorder = Recorder(ara_requests())
    except Exception as error:
        answers.write("{0}: {1}\n".format(type(error).__name__, " ".join(str(error).split())))
        return 1
    for line in sys.stdin.buffer:
        # Without an end: the run was killed in the middle of it.
        if line.endswith(b"\n"):
            recorder.take(line)
    answers.writelines(" ".join(problem.split()) + "\n" for problem in recorder.problems)
    answers.close()
    return 1 if recorder.problems else 0


if __name__ == "__main__":
    sys.exit(main())
