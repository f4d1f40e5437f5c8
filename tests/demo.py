#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-3.0-or-later
"""What `make demo` does once there is an environment: an engine, images, a test host, two instances, web views.

Each step says what it does and how long it took. Everything can be run again: what is there is used, and the second
run of the playbook reports changed=0. tests/able.sh said before whether this machine can do it at all.
"""

from __future__ import annotations

import base64
import http.client
import json
import os
import re
import socket
import ssl
import subprocess
import sys
import time
import urllib.error
import urllib.request
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Iterator, List, Optional, Tuple

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv" / "bin"
STATE = ROOT / ".demo"
RECORDS = ROOT / ".ara"
SANDBOX = ROOT / "tests" / "sandbox" / "sandbox.py"
# Names below localhost lead to the loopback in every browser (RFC 6761).
PANEL = "panel.localhost"
PANEL_PORT = 20443
# The ports of the first two instances of the test host, and of its panel, published on this machine's loopback.
PUBLISH = ("127.0.0.1:20000-20019", f"127.0.0.1:{PANEL_PORT}")
HOST = "multibase-sandbox-demo"
PASSWORD = "/opt/multibase/state/people/admin.password"
ARA_PORTS = range(8000, 8020)
# What ARA's offline client prints at each start about its database.
MIGRATIONS = ("Operations to perform:", "  Apply all migrations:", "Running migrations:", "  No migrations to apply.")


class Failed(Exception):
    """A step failed; it has said why."""


@contextmanager
def step(what: str) -> Iterator[None]:
    """Say what is done, and how long it took."""
    print(f"==> {what}", flush=True)
    started = time.monotonic()
    yield
    print(f"    done in {time.monotonic() - started:.1f} s", flush=True)


def run(*command: str) -> None:
    """Run a command whose output is for the user to see."""
    if subprocess.run(command, cwd=ROOT, stdin=subprocess.DEVNULL, check=False).returncode:
        raise Failed(" ".join(os.path.relpath(word, ROOT) if word.startswith("/") else word for word in command))


def converge() -> int:
    """Run site.yml on the sandbox; show all of it, and return how many tasks changed something."""
    command = [str(ROOT / "multibase"), "-i", "sandbox", "site"]
    changed = 0
    with subprocess.Popen(
        command, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if not line.startswith(MIGRATIONS):
                print("    " + line if line.strip() else line, end="", flush=True)
            found = re.match(r"\S+\s+: ok=\d+\s+changed=(\d+)", line)
            changed += int(found.group(1)) if found else 0
    if process.returncode:
        raise Failed("./multibase -i sandbox site")
    return changed


def answers(address: str) -> bool:
    """Whether ARA's web view answers there."""
    try:
        with urllib.request.urlopen(address + "/healthcheck/", timeout=10) as response:
            return bool(response.status == 200)
    except (urllib.error.URLError, OSError):
        return False


def running_view() -> Optional[str]:
    """Return the address of the web view that an earlier run left, if it is ours and answers."""
    try:
        pid = int((STATE / "ara.pid").read_text(encoding="ascii"))
        address = (STATE / "ara.address").read_text(encoding="ascii").strip()
        command = Path(f"/proc/{pid}/cmdline").read_bytes().decode("utf-8", "replace")
    except (OSError, ValueError):
        return None
    return address if str(VENV / "gunicorn") in command and answers(address) else None


def password() -> str:
    """Return the password of the panel's first person. It is for this demonstration only, so it is shown."""
    done = subprocess.run(["docker", "exec", HOST, "cat", PASSWORD], capture_output=True, text=True, check=False)
    return done.stdout.strip() or "(taken from the host already)"


def live() -> Tuple[int, bytes]:
    """Ask the panel for what the sampler saw last; return status and body. Raises OSError where it does not answer."""
    context = ssl.create_default_context()
    # The certificate is the test host's own.
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    connection = http.client.HTTPConnection(PANEL)
    with closing(connection):
        # Not every machine's resolver knows names below localhost.
        plain = socket.create_connection(("127.0.0.1", PANEL_PORT), timeout=10)
        connection.sock = context.wrap_socket(plain, server_hostname=PANEL)
        login = base64.b64encode(f"admin:{password()}".encode()).decode()
        connection.request("GET", "/live.json", headers={"Authorization": "Basic " + login})
        answer = connection.getresponse()
        return answer.status, answer.read()


def check_panel() -> str:
    """Wait until the panel shows what the sampler saw; return its address."""
    address = f"https://{PANEL}:{PANEL_PORT}/"
    problem = ""
    for _ in range(60):
        try:
            status, body = live()
            # A person who took the password away from the host took the means to look further with it.
            if status == 401 or (status == 200 and json.loads(body)["instances"]):
                return address
            problem = f"status {status}, and no instances yet"
        except (OSError, ValueError, http.client.HTTPException) as error:
            problem = str(error)
        time.sleep(0.5)
    raise Failed(f"the panel at {address}: {problem}")


def free_port() -> int:
    """Return the first port that nothing on this machine's loopback listens on."""
    for port in ARA_PORTS:
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise Failed(f"no free port from {ARA_PORTS.start} to {ARA_PORTS.stop - 1} for the web view of ARA")


def start_view() -> str:
    """Start ARA's web view in the background, or find the one that runs; return its address."""
    address = running_view()
    if address:
        return address
    port = free_port()
    address = f"http://127.0.0.1:{port}"
    environment = {**os.environ, "ARA_BASE_DIR": str(RECORDS), "DJANGO_SETTINGS_MODULE": "ara.server.settings"}
    command = [
        str(VENV / "gunicorn"),
        "--bind",
        f"127.0.0.1:{port}",
        "--workers",
        "1",
        "--threads",
        "4",
        "--no-control-socket",
    ]
    with open(STATE / "ara.log", "ab") as log:
        process = subprocess.Popen(
            [*command, "ara.server.wsgi"],
            cwd=ROOT,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    (STATE / "ara.pid").write_text(f"{process.pid}\n", encoding="ascii")
    (STATE / "ara.address").write_text(address + "\n", encoding="ascii")
    for _ in range(100):
        if answers(address):
            return address
        if process.poll() is not None:
            break
        time.sleep(0.2)
    raise Failed("gunicorn ara.server.wsgi (its log is .demo/ara.log)")


def main() -> int:
    """Run all steps; return the exit status."""
    started = time.monotonic()
    STATE.mkdir(mode=0o700, exist_ok=True)
    sandbox: List[str] = [sys.executable, str(SANDBOX)]
    try:
        with step("A Docker Engine on this machine"):
            run(*sandbox, "engine")
        with step("Images built from packages, and a registry that serves them"):
            run(*sandbox, "images")
        with step("A test host: Debian with systemd, without Docker"):
            run(*sandbox, "host", "up", "demo", *(word for item in PUBLISH for word in ("--publish", item)))
        with step("The playbook site.yml on it: ./multibase -i sandbox site"):
            changed = converge()
        with step("The web view of every run (ARA)"):
            address = start_view()
        with step("The panel of the test host"):
            panel = check_panel()
        with step("A backup of acme, restored once to know that it is one: ./multibase -i sandbox backup acme"):
            run(str(ROOT / "multibase"), "-i", "sandbox", "backup", "acme")
        print("==> The instances: ./multibase -i sandbox list\n", flush=True)
        run(str(ROOT / "multibase"), "-i", "sandbox", "list")
    except Failed as failure:
        print(f"demo: this step failed: {failure}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    (STATE / "done").touch()
    again = "changed=0: everything was as it should be" if changed == 0 else f"changed={changed}; run it again for 0"
    print(f"""
The panel: {panel}
    user admin, password {password()} (the certificate is the test host's own: the browser asks once)
All runs, with every task and result: {address}
{again} ({time.monotonic() - started:.0f} s in all)

Try next:
  ./multibase -i sandbox status
  ./multibase -i sandbox stats
  curl -i http://127.0.0.1:20000/rest/v1/        401, because a key is missing; read one with
    docker exec multibase-sandbox-demo grep ^ANON_KEY= /opt/multibase/projects/acme/.env
  ./multibase -i sandbox stop beta
  ./multibase -i sandbox start beta
  ./multibase -i sandbox restore acme            the backup that was just made; --rollback takes it back
  ./multibase -i sandbox create gamma --size small
Remove the test host, its instances, the registry and the web view (it names what it keeps, as the Engine and images):
  make clean""")
    return 0


if __name__ == "__main__":
    sys.exit(main())
