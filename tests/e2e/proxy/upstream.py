#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-3.0-or-later
"""Stand-in for the gateway of an instance, on its port: what nginx sends is told back. Standard library only.

    upstream.py PORT...

Every request is answered with JSON of method, path, headers, the length of its body, and how much of the last upload
to Storage has come in; paths that end in /status/NNN with that status. A WebSocket sends back what it gets.
It checks no key and no login.
"""

from __future__ import annotations

import base64
import hashlib
import http.server
import json
import socketserver
import sys
import threading
from typing import Any

GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"


class Handler(http.server.BaseHTTPRequestHandler):
    """One connection."""

    protocol_version = "HTTP/1.1"
    server_version = "standin/1"
    received = 0

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing."""

    def do_GET(self) -> None:
        """Answer."""
        if self.headers.get("Upgrade", "").lower() == "websocket":
            self.echo_frames()
            return
        length = self.take_body()
        told = {
            "method": self.command, "path": self.path, "length": length, "received": Handler.received,
            "headers": {name.lower(): value for name, value in self.headers.items()},
        }  # fmt: skip
        body = json.dumps(told).encode("utf-8")
        last = self.path.partition("?")[0].rpartition("/status/")[2]
        status = int(last) if last.isdigit() else 200
        self.send_response(status)
        self.send_header("X-Powered-By", "standin")
        # 204 has no body: what was sent after it would be taken for the next answer.
        if status != 204:
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD" and status != 204:
            self.wfile.write(body)

    do_POST = do_PUT = do_PATCH = do_DELETE = do_HEAD = do_OPTIONS = do_GET

    def take_body(self) -> int:
        """Read the body and return its length; count an upload while it comes in."""
        counted = self.path.startswith("/storage/v1/")
        if counted:
            Handler.received = 0
        total, left = 0, int(self.headers.get("Content-Length") or 0)
        chunked = "chunked" in self.headers.get("Transfer-Encoding", "").lower()
        while left or chunked:
            if chunked and not left:
                left = int(self.rfile.readline().split(b";")[0], 16)
                if not left:
                    self.rfile.readline()
                    break
            piece = self.rfile.read(min(left, 65536))
            if not piece:
                break
            left -= len(piece)
            total += len(piece)
            if counted:
                Handler.received = total
            if chunked and not left:
                self.rfile.readline()
        return total

    def echo_frames(self) -> None:
        """Accept a WebSocket and send back small text frames."""
        key = self.headers["Sec-WebSocket-Key"].encode("ascii")
        accept = base64.b64encode(hashlib.sha1(key + GUID).digest()).decode("ascii")
        self.send_response(101)
        for name, value in (("Upgrade", "websocket"), ("Connection", "Upgrade"), ("Sec-WebSocket-Accept", accept)):
            self.send_header(name, value)
        self.end_headers()
        self.close_connection = True
        while True:
            head = self.rfile.read(2)
            if len(head) < 2 or head[0] & 15 == 8:
                return
            length = head[1] & 127
            mask = self.rfile.read(4)
            text = bytes(byte ^ mask[index % 4] for index, byte in enumerate(self.rfile.read(length)))
            self.wfile.write(bytes((0x81, length)) + text)


class Server(socketserver.ThreadingMixIn, http.server.HTTPServer):
    """A thread for each connection."""

    daemon_threads = True
    request_queue_size = 128


if __name__ == "__main__":
    servers = [Server(("127.0.0.1", int(port)), Handler) for port in sys.argv[1:]]
    for server in servers[1:]:
        threading.Thread(target=server.serve_forever, daemon=True).start()
    servers[0].serve_forever()
