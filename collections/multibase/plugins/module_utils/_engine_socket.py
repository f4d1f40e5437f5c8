# SPDX-License-Identifier: GPL-3.0-or-later
# This file is private to the multibase.supabase collection; it may change at any time.
"""Reads from the Docker Engine of this machine with the standard library alone.

For who asks every few seconds: the Docker SDK brings requests and urllib3 along, some 20 MB and a quarter of a second
(measured), for five kinds of questions. What acts on containers goes on using the SDK, and so does who asks an Engine
elsewhere.
"""

from __future__ import annotations

import json
import os
import socket
import urllib.parse
from typing import Any, List, Mapping, Optional

from . import _engine
from ._engine import Engine, socket_path
from ._errors import EngineUnavailable


class NotFound(Exception):
    """There is no such container. ``_engine`` knows it by this name, as that of the SDK."""


class SocketClient:
    """Answers like ``docker.APIClient``, as far as ``_engine.Engine`` reads.

    Paths have no version of the API: each Engine answers in its newest, and what is read is in all since 1.41.
    """

    def __init__(self, path: str, timeout: float) -> None:
        self._path, self._timeout = path, timeout
        self._version: Any = None

    def version(self) -> Any:
        """Return versions of the Engine. Asked once: it takes 8 ms, and an Engine that is back gets a new client."""
        if self._version is None:
            self._version = self._get("/version")
        return self._version

    def info(self) -> Any:
        """Return what the Engine tells of itself and its machine."""
        return self._get("/info")

    def containers(self, all: bool = False, filters: Optional[Mapping[str, List[str]]] = None) -> Any:
        """Return the list of containers, as Docker's command ``ps`` has it."""
        query = urllib.parse.urlencode({"all": int(all), "filters": json.dumps(filters or {})})
        return self._get("/containers/json?" + query)

    def inspect_container(self, container: str) -> Any:
        """Return all about a container. Raises NotFound."""
        return self._get("/containers/{0}/json".format(urllib.parse.quote(container, safe="")))

    def stats(self, container: str, stream: bool = False) -> Any:
        """Return one sample of a container's counters; an Engine of 20.10 takes a second for it."""
        path = "/containers/{0}/stats?stream={1:d}&one-shot=1"
        return self._get(path.format(urllib.parse.quote(container, safe=""), stream))

    def _get(self, path: str) -> Any:
        """Return the answer to a question, asked over a connection of its own.

        To connect to a socket of this machine takes some 50 µs, and what is asked in HTTP/1.0 comes in one piece: no
        answer is ever taken for another one's, and an Engine that was restarted has nothing to be noticed.
        """
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
            connection.settimeout(self._timeout)
            connection.connect(self._path)
            connection.sendall("GET {0} HTTP/1.0\r\nHost: localhost\r\n\r\n".format(path).encode("ascii"))
            with connection.makefile("rb") as stream:
                return parse_answer(stream.read())


def parse_answer(answer: bytes) -> Any:
    """Return the JSON in an answer of HTTP. Raises NotFound, and ValueError for every other that is not one of 200."""
    head, blank, body = answer.partition(b"\r\n\r\n")
    words = head.split(b"\r\n", 1)[0].split(None, 2)
    if not blank or len(words) < 2 or not words[0].startswith(b"HTTP/"):
        raise ValueError("what it said is no answer")
    if words[1] == b"404":
        raise NotFound(body.decode("utf-8", "replace"))
    if words[1] != b"200":
        raise ValueError("it said {0}".format(b" ".join(words[1:]).decode("utf-8", "replace")))
    return json.loads(body)


def connect(docker_host: str, timeout: float) -> Engine:
    """Return the Engine at ``docker_host`` for reading: the one of this machine without the SDK.

    ``timeout`` is how many seconds it may take for an answer. Raises EngineUnavailable with the way to get one.
    """
    path = socket_path(docker_host)
    if path is None or not os.path.exists(path):
        # The SDK's for others; and for one that is not there the words about it.
        return _engine.connect(docker_host, timeout)
    engine = Engine(SocketClient(path, timeout))
    try:
        engine.require()
    except EngineUnavailable as error:
        if isinstance(error.__cause__, ConnectionRefusedError):
            raise EngineUnavailable(
                "the Docker Engine at {0} does not run: systemctl status docker".format(docker_host)
            ) from error
        raise
    return engine
