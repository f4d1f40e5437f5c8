#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-3.0-or-later
"""What `make demo` does once there is an environment: an engine, images, a test host, two instances, a web view.

Each step says what it does and how long it took. Everything can be run again: what is there is used, and the second
run of the playbook reports changed=0. tests/able.sh said before whether this machine can do it at all.
"""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from contextlib import contextmanager
from pathlib import Path
from typing import Iterator, List, Optional

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv" / "bin"
STATE = ROOT / ".demo"
RECORDS = ROOT / ".ara"
SANDBOX = ROOT / "tests" / "sandbox" / "sandbox.py"
# The ports of the first two instances of the test host, published on this machine's loopback.
PUBLISH = "127.0.0.1:20000-20019"
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
            return response.status == 200
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
            run(*sandbox, "host", "up", "demo", "--publish", PUBLISH)
        with step("The playbook site.yml on it: ./multibase -i sandbox site"):
            changed = converge()
        with step("The web view of every run (ARA)"):
            address = start_view()
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
All runs, with every task and result: {address}
{again} ({time.monotonic() - started:.0f} s in all)

Try next:
  ./multibase -i sandbox status
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
