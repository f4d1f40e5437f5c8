# SPDX-License-Identifier: GPL-3.0-or-later
"""Reading from an Engine over its socket: a real socket with an HTTP server behind it that says what a test wants."""

from __future__ import annotations

import http.server
import json
import socketserver
import threading
from pathlib import Path
from typing import Any, Dict, Iterator, List, Tuple
from urllib.parse import parse_qs, urlsplit

import pytest

from ansible_collections.multibase.supabase.plugins.module_utils import _engine, _engine_socket
from ansible_collections.multibase.supabase.plugins.module_utils._errors import EngineUnavailable

VERSION = {"Version": "26.1.5+dfsg1"}


class Server(socketserver.ThreadingUnixStreamServer):
    """Answers as ``answers`` says: by path, status and body."""

    daemon_threads = True

    def __init__(self, path: str) -> None:
        self.answers: Dict[str, Tuple[int, Any]] = {"/version": (200, VERSION)}
        self.asked: List[str] = []
        super().__init__(path, Handler)

    def get_request(self) -> Tuple[Any, Any]:
        request, _address = super().get_request()
        return request, ("local", 0)


class Handler(http.server.BaseHTTPRequestHandler):
    """Speaks newer HTTP than it is spoken to, as Docker's does."""

    protocol_version = "HTTP/1.1"
    server: Server

    def do_GET(self) -> None:
        self.server.asked.append(self.path)
        status, body = self.server.answers.get(urlsplit(self.path).path, (404, {"message": "no such thing"}))
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_arguments: Any) -> None:
        return


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    with Server(str(tmp_path / "docker.sock")) as made:
        threading.Thread(target=made.serve_forever, daemon=True).start()
        yield made
        made.shutdown()


def address(server: Server) -> str:
    return "unix://" + str(server.server_address)


def test_what_is_asked_and_what_is_read(server: Server) -> None:
    labels = {_engine.PROJECT_LABEL: "multibase-acme", _engine.SERVICE_LABEL: "db"}
    server.answers["/containers/json"] = (
        200,
        [{"Id": "a1", "State": "running", "Labels": labels, "Names": ["/x" * 9999]}],
    )
    server.answers["/containers/a1/json"] = (200, {"RestartCount": 3})
    server.answers["/containers/a1/stats"] = (200, {"read": "now"})
    server.answers["/info"] = (200, {"DockerRootDir": "/data"})
    engine = _engine_socket.connect(address(server), 5)
    assert engine.version() == (26, 1, 5) and engine.data_root() == "/data"
    (container,) = engine.containers()
    assert (container.id, container.service, len(container.name)) == ("a1", "db", 2 * 9999 - 1)
    assert engine.inspect("a1") == {"RestartCount": 3} and engine.sample("a1") == {"read": "now"}
    listed = next(path for path in server.asked if path.startswith("/containers/json"))
    assert parse_qs(urlsplit(listed).query) == {"all": ["1"], "filters": ['{"label": ["com.docker.compose.project"]}']}
    assert server.asked.count("/version") == 1
    assert server.asked[-1] == "/containers/a1/stats?stream=0&one-shot=1"


def test_a_container_that_is_gone_tells_nothing(server: Server) -> None:
    engine = _engine_socket.connect(address(server), 5)
    assert engine.inspect("../../x") == {} and engine.sample("a1") == {}
    assert "/containers/..%2F..%2Fx/json" in server.asked


@pytest.mark.parametrize("answer", [(500, {"message": "x"}), (200, b""), (200, b'{"Version"'), (301, {})])
def test_an_answer_that_is_none_is_an_engine_that_is_away(server: Server, answer: Tuple[int, Any]) -> None:
    engine = _engine_socket.connect(address(server), 5)
    server.answers["/containers/json"] = answer
    with pytest.raises(EngineUnavailable, match="did not list containers"):
        engine.containers()
    server.answers["/containers/json"] = (200, [])
    assert engine.containers() == []


@pytest.mark.parametrize("answer", [b"", b"HTTP/1.0 200 OK\r\n", b"nonsense\r\n\r\n{}", b"HTTP/1.0\r\n\r\n{}"])
def test_what_is_no_http_is_no_answer(answer: bytes) -> None:
    with pytest.raises(ValueError, match="no answer"):
        _engine_socket.parse_answer(answer)


def test_an_engine_that_is_too_old_does_not_run_or_is_not_there(server: Server, tmp_path: Path) -> None:
    server.answers["/version"] = (200, {"Version": "19.3.1"})
    with pytest.raises(EngineUnavailable, match="too old"):
        _engine_socket.connect(address(server), 5)
    server.shutdown()
    server.server_close()
    with pytest.raises(EngineUnavailable, match="does not run"):
        _engine_socket.connect(address(server), 5)
    with pytest.raises(EngineUnavailable, match="there is no Docker Engine at"):
        _engine_socket.connect("unix://" + str(tmp_path / "none.sock"), 5)


def test_an_engine_that_hangs_is_not_waited_for(server: Server) -> None:
    hanging = threading.Event()

    class Hanging(dict):  # type: ignore[type-arg]
        def get(self, *_arguments: Any) -> Any:
            hanging.wait(5)
            return (200, [])

    engine = _engine_socket.connect(address(server), 0.3)
    server.answers = Hanging()
    with pytest.raises(EngineUnavailable, match="timed out"):
        engine.containers()
    hanging.set()
