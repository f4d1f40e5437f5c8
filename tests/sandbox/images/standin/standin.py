# SPDX-License-Identifier: GPL-3.0-or-later
"""Stand-in for one service of a Supabase stack: auth, rest, realtime, storage, imgproxy, studio, analytics or vector.

Which one it plays it sees from the environment that the stack's compose file gives to that service. It listens on that
service's port and
- answers the service's documented health endpoint; for auth, rest, realtime, storage and analytics with 503 when no TCP
  connection to the database its environment names can be opened; realtime's wants a Bearer token signed (HS256) with
  API_JWT_SECRET and the seeded tenant's name, as the real one does (403, 404);
- answers every other request with JSON that repeats it: service, method, path, query, headers, body (the first 4 KiB);
- as realtime takes WebSocket connections, returns text and binary frames to their sender, and answers ping and close.

What it does not do: anything those services are for. No sign-in, no SQL, no files, no pictures, no pages, no channels;
it never logs in to the database, runs no migrations, writes nothing to disk. It checks no API keys and no passwords
(the gateway does). As vector it reads neither its configuration nor the engine's socket and sends nothing, as analytics
it forgets what it is sent. Every JSON answer says "standin": true.
"""

from __future__ import annotations

import binascii
import hashlib
import json
import os
import signal
import socket
import sys
import threading
import time
from contextlib import suppress

# service, the variable that gives it away, its port
ROLES = (
    ("studio", "STUDIO_PG_META_URL", 3000),
    ("auth", "GOTRUE_API_PORT", 9999),
    ("rest", "PGRST_DB_URI", 3000),
    ("realtime", "DB_AFTER_CONNECT_QUERY", 4000),
    ("storage", "FILE_STORAGE_BACKEND_PATH", 5000),
    ("storage", "STORAGE_BACKEND", 5000),
    ("imgproxy", "IMGPROXY_BIND", 5001),
    # Both have the public token.
    ("analytics", "LOGFLARE_SINGLE_TENANT", 4000),
    ("vector", "LOGFLARE_PUBLIC_ACCESS_TOKEN", 9001),
)
HEALTH = {
    "studio": "/api/platform/profile",
    "auth": "/health",
    "rest": "/ready",
    "realtime": "",
    "storage": "/status",
    "imgproxy": "/health",
    "analytics": "/health",
    "vector": "/health",
}
DATABASE_URL = {"auth": "GOTRUE_DB_DATABASE_URL", "rest": "PGRST_DB_URI", "storage": "DATABASE_URL"}
REASONS = {200: "OK", 400: "Bad Request", 403: "Forbidden", 404: "Not Found", 503: "Service Unavailable"}
WEBSOCKET_GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
MAX_HEAD = 65536
MAX_BODY = 1 << 30
MAX_FRAME = 1 << 20


def detect():
    """(service, port) from the environment. Exits with 2 when it fits none."""
    if os.environ.get("APP_NAME") == "realtime":
        return "realtime", int(os.environ.get("PORT") or 4000)
    for service, variable, port in ROLES:
        if variable in os.environ:
            if service == "auth":
                port = int(os.environ[variable])
            elif service == "imgproxy":
                port = int(os.environ[variable].rpartition(":")[2] or port)
            elif service == "realtime":
                port = int(os.environ.get("PORT") or port)
            return service, port
    print("standin: no variable in the environment says which service this is", file=sys.stderr)
    sys.exit(2)


SERVICE, PORT = detect()


def database():
    """(host, port) of the service's database, or None for services without one."""
    if SERVICE in ("realtime", "analytics"):
        name = "DB_HOST" if SERVICE == "realtime" else "DB_HOSTNAME"
        return os.environ.get(name, "db"), int(os.environ.get("DB_PORT") or 5432)
    if SERVICE not in DATABASE_URL:
        return None
    # scheme://user:password@host:port/name; the password may hold anything but '/' and '@'
    address = os.environ.get(DATABASE_URL[SERVICE], "").partition("://")[2].partition("/")[0].rpartition("@")[2]
    host, _, port = address.partition(":")
    return host or "db", int(port or 5432)


def database_answers():
    where = database()
    if where is None:
        return True
    try:
        socket.create_connection(where, timeout=2).close()
    except OSError:
        return False
    return True


def unpadded(text):
    """Decode base64url without padding."""
    return binascii.a2b_base64(text.replace("-", "+").replace("_", "/") + "=" * (-len(text) % 4))


def hmac_sha256(key, message):
    if len(key) > 64:
        key = hashlib.sha256(key).digest()
    key = key.ljust(64, b"\0")
    inner = hashlib.sha256(bytes(byte ^ 0x36 for byte in key) + message).digest()
    return hashlib.sha256(bytes(byte ^ 0x5C for byte in key) + inner).digest()


def token_valid(authorization):
    """True for `Bearer <JWT>` signed with API_JWT_SECRET and not expired."""
    scheme, _, token = authorization.partition(" ")
    parts = token.strip().split(".")
    if scheme.lower() != "bearer" or len(parts) != 3:
        return False
    try:
        header = json.loads(unpadded(parts[0]))
        claims = json.loads(unpadded(parts[1]))
        signature = unpadded(parts[2])
        expires = float(claims.get("exp", time.time() + 60))
    except (ValueError, AttributeError, TypeError):
        return False
    secret = os.environ.get("API_JWT_SECRET", "").encode()
    expected = hmac_sha256(secret, (parts[0] + "." + parts[1]).encode())
    return header.get("alg") == "HS256" and signature == expected and expires > time.time()


def health(path, headers):
    """(status, body) when `path` is this service's health endpoint, else None."""
    if SERVICE == "realtime":
        if path == "/healthcheck":
            tenant = None
        elif path.startswith("/api/tenants/") and path.endswith("/health"):
            tenant = path[len("/api/tenants/") : -len("/health")]
        else:
            return None
        if tenant is not None:
            if not token_valid(headers.get("authorization", "")):
                return 403, {"error": "the token is missing, expired or not signed with API_JWT_SECRET"}
            if tenant != os.environ.get("SELF_HOST_TENANT_NAME", "realtime-dev"):
                return 404, {"error": "no such tenant"}
    elif path != HEALTH[SERVICE]:
        return None
    if not database_answers():
        return 503, {"error": "the database does not answer"}
    return 200, {"status": "ok"}


def send_json(conn, method, status, body):
    data = json.dumps(dict(body, standin=True, service=SERVICE)).encode()
    head = (
        f"HTTP/1.1 {status} {REASONS[status]}\r\nContent-Type: application/json\r\nContent-Length: {len(data)}\r\n"
        "Server: multibase-sandbox\r\nX-Powered-By: multibase-sandbox\r\nConnection: close\r\n\r\n"
    )
    conn.sendall(head.encode() + (b"" if method == "HEAD" else data))


class Reader:
    """Exact reads from a socket; raises EOFError when the other side is gone."""

    def __init__(self, conn):
        self.conn = conn
        self.data = b""

    def fill(self):
        part = self.conn.recv(65536)
        if not part:
            raise EOFError
        self.data += part

    def take(self, count):
        while len(self.data) < count:
            self.fill()
        result, self.data = self.data[:count], self.data[count:]
        return result

    def until(self, mark, limit):
        while mark not in self.data:
            if len(self.data) > limit:
                raise EOFError
            self.fill()
        result, _, self.data = self.data.partition(mark)
        return result


def read_body(reader, headers):
    """(size, first 4 KiB) of the request's body, by length or chunked."""
    kept, size = b"", 0

    def swallow(count):
        nonlocal kept, size
        size += count
        while count:
            part = reader.take(min(count, 65536))
            count -= len(part)
            if len(kept) < 4096:
                kept = (kept + part)[:4096]

    if "chunked" in headers.get("transfer-encoding", "").lower():
        while True:
            count = int(reader.until(b"\r\n", 1024).split(b";")[0], 16)
            if count == 0:
                while reader.until(b"\r\n", MAX_HEAD):
                    pass
                return size, kept
            swallow(count)
            reader.take(2)
    length = int(headers.get("content-length") or 0)
    if not 0 <= length <= MAX_BODY:
        raise ValueError
    swallow(length)
    return size, kept


def frame(opcode, payload):
    """One unmasked WebSocket frame (RFC 6455, section 5.2)."""
    head = bytes([0x80 | opcode])
    if len(payload) < 126:
        head += bytes([len(payload)])
    elif len(payload) < 65536:
        head += bytes([126]) + len(payload).to_bytes(2, "big")
    else:
        head += bytes([127]) + len(payload).to_bytes(8, "big")
    return head + payload


def websocket(conn, reader, key):
    accept = binascii.b2a_base64(hashlib.sha1(key.encode() + WEBSOCKET_GUID).digest(), newline=False).decode()
    head = (
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        f"Sec-WebSocket-Accept: {accept}\r\n\r\n"
    )
    conn.sendall(head.encode())
    conn.settimeout(None)
    while True:
        first, second = reader.take(2)
        length = second & 0x7F
        if length > 125:
            length = int.from_bytes(reader.take(2 if length == 126 else 8), "big")
        if length > MAX_FRAME or not second & 0x80:
            conn.sendall(frame(8, (1002).to_bytes(2, "big")))
            return
        mask = reader.take(4)
        payload = bytes(byte ^ mask[place % 4] for place, byte in enumerate(reader.take(length)))
        opcode = first & 0x0F
        if opcode == 8:
            conn.sendall(frame(8, payload[:2]))
            return
        if opcode == 9:
            conn.sendall(frame(10, payload))
        elif opcode in (1, 2):
            conn.sendall(frame(opcode, payload))


def handle(conn, admin):
    reader = Reader(conn)
    head = reader.until(b"\r\n\r\n", MAX_HEAD).decode("latin-1").split("\r\n")
    method, target, _ = (head[0] + "  ").split(" ", 2)
    headers = {}
    for line in head[1:]:
        name, _, value = line.partition(":")
        headers[name.strip().lower()] = value.strip()
    path, _, query = target.partition("?")
    if admin:
        known = {"/ready": health("/ready", headers), "/live": (200, {"status": "ok"})}
        send_json(conn, method, *known.get(path, (404, {"error": "not found"})))
        return
    if SERVICE == "realtime" and headers.get("upgrade", "").lower() == "websocket":
        if "sec-websocket-key" not in headers:
            send_json(conn, method, 400, {"error": "no Sec-WebSocket-Key"})
            return
        websocket(conn, reader, headers["sec-websocket-key"])
        return
    if headers.get("expect", "").lower() == "100-continue":
        conn.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
    size, body = read_body(reader, headers)
    # PostgREST has its readiness on the admin port only; /ready on the public port is a path like any other
    special = None if SERVICE == "rest" else health(path, headers)
    if special:
        send_json(conn, method, *special)
        return
    echo = {"method": method, "path": path, "query": query, "headers": headers, "body_bytes": size}
    if size:
        echo["body"] = body.decode("utf-8", "replace")
    send_json(conn, method, 200, echo)


def guarded(conn, admin):
    with conn:
        conn.settimeout(30)
        with suppress(OSError, EOFError, ValueError):
            handle(conn, admin)


def listen(host, port):
    if host:
        listener = socket.socket()
    else:
        listener = socket.socket(socket.AF_INET6)
        listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind((host or "::", port))
    listener.listen(128)
    return listener


def accept_all(listener, admin=False):
    while True:
        try:
            conn, _ = listener.accept()
        except OSError:
            time.sleep(0.05)
            continue
        threading.Thread(target=guarded, args=(conn, admin), daemon=True).start()


def main():
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
    signal.signal(signal.SIGINT, lambda *_: os._exit(0))
    try:
        public = listen("", PORT)
    except OSError:  # no IPv6 here
        public = listen("0.0.0.0", PORT)
    if SERVICE == "rest" and os.environ.get("PGRST_ADMIN_SERVER_PORT"):
        private = listen("127.0.0.1", int(os.environ["PGRST_ADMIN_SERVER_PORT"]))
        threading.Thread(target=accept_all, args=(private, True), daemon=True).start()
    print(json.dumps({"msg": "listening", "standin": SERVICE, "port": PORT}), flush=True)
    accept_all(public)


if __name__ == "__main__":
    main()
