# SPDX-License-Identifier: GPL-3.0-or-later
# This file is private to the multibase.supabase collection; it may change at any time.
"""Reads from the Docker Engine of this machine over one connection that stays open, with the standard library.

For who asks every few seconds: the Docker SDK brings requests and urllib3 along, some 20 MB and a quarter of a second
(measured), for five kinds of questions. What acts on containers goes on using the SDK, and so does who asks an Engine
elsewhere.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import socket
import urllib.parse
from typing import Any, Dict, List, Mapping, Optional

from . import _engine
from ._engine import Engine, socket_path
from ._errors import EngineUnavailable


class NotFound(Exception):
    """There is no such container. ``_engine`` knows it by this name, as that of the SDK."""


class _Connection(http.client.HTTPConnection):
    """HTTP over a socket of this machine."""

    def __init__(self, path: str, timeout: float) -> None:
        super().__init__("localhost", timeout=timeout)
        self._path = path

    def connect(self) -> None:
        """Connect to the socket."""
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


class SocketClient:
    """Answers like ``docker.APIClient``, as far as ``_engine.Engine`` reads. One thread uses it, but for ``stats``.

    Paths have no version of the API: each Engine answers in its newest, and what is read is in all since 1.41.
    """

    def __init__(self, path: str, timeout: float) -> None:
        self._path, self._timeout = path, timeout
        self._connection: Optional[_Connection] = None

    def version(self) -> Any:
        """Return versions of the Engine."""
        return self._get("/version")

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
        """Return one sample of a container's counters, over a connection of its own: it may take a second."""
        path = "/containers/{0}/stats?stream={1:d}&one-shot=1".format(urllib.parse.quote(container, safe=""), stream)
        with contextlib.closing(_Connection(self._path, self._timeout)) as connection:
            return _answer(connection, path)

    def close(self) -> None:
        """Close the connection; the next question opens another."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()

    def _get(self, path: str) -> Any:
        if self._connection is not None:
            try:
                return self._ask(self._connection, path)
            except (OSError, http.client.HTTPException):
                # An Engine that was restarted has closed it meanwhile: once more, with a new one.
                pass
        self._connection = _Connection(self._path, self._timeout)
        return self._ask(self._connection, path)

    def _ask(self, connection: _Connection, path: str) -> Any:
        try:
            return _answer(connection, path)
        except NotFound:
            raise
        except BaseException:
            # What is left of an answer would be taken for the next one.
            self.close()
            raise


def _answer(connection: _Connection, path: str) -> Any:
    connection.request("GET", path)
    response = connection.getresponse()
    content = response.read()
    if response.status == 404:
        raise NotFound(path)
    if response.status != 200:
        told: Dict[str, Any] = {}
        with contextlib.suppress(ValueError):
            told = json.loads(content)
        raise ValueError("status {0}: {1}".format(response.status, told.get("message") or response.reason))
    return json.loads(content)


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
