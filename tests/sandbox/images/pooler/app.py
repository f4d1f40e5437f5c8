#!/usr/bin/python3 -IS
# SPDX-License-Identifier: GPL-3.0-or-later
"""Stand-in for Supavisor with PgBouncer behind it; called as migrate, supavisor or server.

The same: session pooling on 5432, transaction pooling on 6543, login as `<role>.<POOLER_TENANT_ID>` with the role's
own password (looked up with pgbouncer.get_auth as user pgbouncer), GET /api/health on 4000, the command line
`/app/bin/migrate && /app/bin/supavisor eval "..." && /app/bin/server`.
Not the same: tenants are not rows in _supabase (there is one, from the environment), so `supavisor eval` evaluates
nothing and changed settings hold at the next start; no cluster, no metrics, no REST interface beside the health check.
Health: 204 while both PgBouncer processes answer an SSLRequest, else 503.
"""

from __future__ import annotations

import os
import signal
import socket
import struct
import subprocess
import sys
import threading
import time

CONFIG_DIR = "/run/pgbouncer"
MODES = {"session": 5432, "transaction": 6543}
SSL_REQUEST = struct.pack("!II", 8, 80877103)
"""PostgreSQL's SSLRequest message; every server answers it with one byte, S or N."""


def log(text):
    print("supavisor (sandbox: PgBouncer): " + text, flush=True)


def database():
    """(host, port) of the database from the environment the stack gives to Supavisor."""
    return os.environ.get("POSTGRES_HOST", "db"), int(os.environ.get("POSTGRES_PORT", "5432"))


def migrate():
    """Supavisor would migrate its schema; here it is enough that the database accepts connections."""
    host, port = database()
    try:
        socket.create_connection((host, port), timeout=5).close()
    except OSError as exc:
        log(f"database {host}:{port} does not answer: {exc}")
        return 1
    log("nothing to migrate")
    return 0


def evaluate():
    log("eval: the tenant is taken from the environment, the script is not evaluated")
    return 0


def quoted(text):
    return "'" + text.replace("'", "''") + "'"


def write_config(mode, port):
    """Configuration of one PgBouncer process; returns its path. Holds no secret (the login file beside it does)."""
    host, db_port = database()
    suffix = "." + os.environ.get("POOLER_TENANT_ID", "")
    # PgBouncer asks with the name the client gave and goes on with the name it gets back: the suffix is cut off on
    # the way, and a name without it is unknown, as it is to Supavisor.
    plain = f"case when right($1, {len(suffix)}) = {quoted(suffix)} then left($1, -{len(suffix)}) end"
    query = f"select username, password from pgbouncer.get_auth({plain})"
    lines = [
        "[databases]",
        f"* = host={host} port={db_port} auth_user=pgbouncer",
        "[pgbouncer]",
        "listen_addr = *",
        f"listen_port = {port}",
        "unix_socket_dir =",
        "auth_type = scram-sha-256",
        f"auth_file = {CONFIG_DIR}/users",
        "auth_dbname = postgres",
        "auth_query = " + query,
        "pool_mode = " + mode,
        "default_pool_size = " + (os.environ.get("POOLER_DEFAULT_POOL_SIZE") or "20"),
        "max_client_conn = " + (os.environ.get("POOLER_MAX_CLIENT_CONN") or "100"),
        "max_prepared_statements = 100",
        "ignore_startup_parameters = extra_float_digits,options,search_path",
        "log_connections = 0",
        "log_disconnections = 0",
        "",
    ]
    path = f"{CONFIG_DIR}/{mode}.ini"
    with open(path, "w", encoding="utf-8") as file:
        file.write("\n".join(lines))
    return path


def write_login():
    """The file with the password of user pgbouncer, for the eyes of PgBouncer only."""
    path = CONFIG_DIR + "/users"
    password = os.environ.get("POSTGRES_PASSWORD", "")
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(handle, "w", encoding="utf-8") as file:
        escaped = password.replace('"', '""')
        file.write(f'"pgbouncer" "{escaped}"\n')
    os.chown(path, owner(), -1)


def owner():
    """User number of postgres, as which PgBouncer runs."""
    with open("/etc/passwd", encoding="utf-8") as file:
        for line in file:
            fields = line.split(":")
            if fields[0] == "postgres":
                return int(fields[2])
    raise SystemExit("no user postgres in this image")


def answers(port):
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=2) as conn:
            conn.settimeout(2)
            conn.sendall(SSL_REQUEST)
            return conn.recv(1) in (b"S", b"N")
    except OSError:
        return False


def reply(conn):
    with conn:
        try:
            conn.settimeout(5)
            data = b""
            while b"\r\n\r\n" not in data and len(data) < 16384:
                part = conn.recv(4096)
                if not part:
                    return
                data += part
            path = data.split(b" ", 2)[1].split(b"?")[0]
            if path != b"/api/health":
                status = b"404 Not Found"
            elif all(answers(port) for port in MODES.values()):
                status = b"204 No Content"
            else:
                status = b"503 Service Unavailable"
            extra = b"" if status.startswith(b"204") else b"content-length: 0\r\n"
            conn.sendall(b"HTTP/1.1 " + status + b"\r\n" + extra + b"connection: close\r\n\r\n")
        except (OSError, IndexError):
            pass


def serve_health(listener):
    while True:
        try:
            conn, _ = listener.accept()
        except OSError:
            time.sleep(0.1)
            continue
        threading.Thread(target=reply, args=(conn,), daemon=True).start()


def server():
    os.makedirs(CONFIG_DIR, exist_ok=True)
    write_login()
    children = {}
    for mode, port in MODES.items():
        children[mode] = subprocess.Popen(["pgbouncer", "-q", "-u", "postgres", write_config(mode, port)])
        log(f"{mode} pooling on port {port}")

    def stop(number, _frame):
        for child in children.values():
            child.terminate()
        os._exit(0)

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind(("0.0.0.0", int(os.environ.get("PORT", "4000"))))
    listener.listen(16)
    threading.Thread(target=serve_health, args=(listener,), daemon=True).start()
    while True:
        for mode, child in children.items():
            if child.poll() is not None:
                log(f"PgBouncer ({mode}) ended with status {child.returncode}")
                return 1
        time.sleep(0.5)


if __name__ == "__main__":
    commands = {"migrate": migrate, "supavisor": evaluate, "server": server}
    sys.exit(commands[os.path.basename(sys.argv[0])]())
