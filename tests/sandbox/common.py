# SPDX-License-Identifier: GPL-3.0-or-later
"""What every part of the sandbox needs: running commands, saying what happens, talking to Docker.

Nothing here knows an image or a host. All functions raise `SandboxError`; only `sandbox.py` exits.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from pathlib import Path
from typing import Dict, Iterator, List, Optional, Sequence, Tuple

LABEL = "io.multibase.sandbox"
"""Label of everything the sandbox creates; `down` removes nothing that lacks it."""

NETWORK = "multibase-sandbox"
SUBNET = "10.212.0.0/24"
HERE = Path(__file__).resolve().parent
STATE_DIR = Path("/var/lib/multibase-sandbox")
"""Log and pid file of an engine that the sandbox started itself (no systemd)."""


class SandboxError(Exception):
    """A step failed. `code` becomes the exit status: 1 = it failed, 3 = this machine lacks something."""

    def __init__(self, message: str, code: int = 1) -> None:
        super().__init__(message)
        self.code = code


def cache_dir() -> Path:
    """Directory for downloads and the base tarball: $MULTIBASE_CACHE or ~/.cache/multibase-sandbox."""
    path = Path(os.environ.get("MULTIBASE_CACHE") or Path.home() / ".cache" / "multibase-sandbox")
    path.mkdir(parents=True, exist_ok=True)
    return path


_print_lock = threading.Lock()


def say(text: str) -> None:
    """Print one whole line, also from several threads at once."""
    with _print_lock:
        print(text, flush=True)


@contextmanager
def step(text: str) -> Iterator[None]:
    """Print what is being done, and how long it took once it is done (both on one line on a terminal)."""
    started = time.monotonic()
    alone = sys.stdout.isatty() and threading.current_thread() is threading.main_thread()
    if alone:
        print(text, end=" ... ", flush=True)
    try:
        yield
    except BaseException:
        if alone:
            print("failed", flush=True)
        raise
    took = f"{time.monotonic() - started:.1f} s"
    if alone:
        print(took, flush=True)
    else:
        say(f"{text}: {took}")


def tail(text: str, lines: int = 15) -> str:
    """The last lines of a command's output, for an error message."""
    return "\n".join(text.strip().splitlines()[-lines:])


def run(
    argv: Sequence[str],
    *,
    check: bool = True,
    stdin: Optional[str] = None,
    env: Optional[Dict[str, str]] = None,
    cwd: Optional[Path] = None,
    timeout: float = 900,
) -> subprocess.CompletedProcess[str]:
    """Run a command and return it with `stdout` and `stderr` as text.

    env: additions to this process's environment. timeout: seconds.
    Raises SandboxError when the command is missing, takes too long, or (with `check`) fails.
    """
    full_env = dict(os.environ, **env) if env else None
    source = {"input": stdin} if stdin is not None else {"stdin": subprocess.DEVNULL}
    try:
        done = subprocess.run(
            list(argv),
            capture_output=True,
            text=True,
            env=full_env,
            cwd=str(cwd) if cwd else None,
            timeout=timeout,
            **source,
        )
    except FileNotFoundError as exc:
        raise SandboxError(f"command not found: {argv[0]}") from exc
    except subprocess.TimeoutExpired as exc:
        raise SandboxError(f"no end after {timeout:.0f} s: {' '.join(argv)}") from exc
    if check and done.returncode != 0:
        raise SandboxError(f"exit status {done.returncode}: {' '.join(argv)}\n{tail(done.stdout + done.stderr)}")
    return done


def is_root() -> bool:
    return os.geteuid() == 0


def root_prefix() -> List[str]:
    """What to put before a command that needs root: nothing, or `sudo -n`."""
    return [] if is_root() else ["sudo", "-n"]


def can_become_root() -> bool:
    """True as root, or when sudo works without a password."""
    if is_root():
        return True
    return bool(shutil.which("sudo")) and run(["sudo", "-n", "true"], check=False).returncode == 0


def docker(*args: str, check: bool = True, stdin: Optional[str] = None, timeout: float = 900) -> str:
    """Run the Docker CLI and return its standard output without the final newline."""
    done = run(["docker", *args], check=check, stdin=stdin, timeout=timeout)
    return done.stdout.rstrip("\n")


def engine_answers() -> bool:
    """True when the CLI is installed and an engine answers it within 20 seconds."""
    if not shutil.which("docker"):
        return False
    try:
        done = run(["docker", "info", "--format", "{{.ServerVersion}}"], check=False, timeout=20)
    except SandboxError:
        return False
    # CLI 28 exits 0 with an empty version for some unreachable daemons
    return done.returncode == 0 and bool(done.stdout.strip())


def version_tuple(text: str) -> Tuple[int, ...]:
    """'v2.26.1-ds1' -> (2, 26, 1); text without a number -> ()."""
    numbers = []
    for part in text.strip().lstrip("v").split("."):
        digits = ""
        for char in part:
            if not char.isdigit():
                break
            digits += char
        if not digits:
            break
        numbers.append(int(digits))
        if digits != part:
            break
    return tuple(numbers)


@contextmanager
def lock(name: str) -> Iterator[None]:
    """Let one process at a time do this (flock on a file in the cache directory)."""
    with open(str(cache_dir() / f"{name}.lock"), "w", encoding="ascii") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            with step(f"waiting for another sandbox.py ({name})"):
                fcntl.flock(file, fcntl.LOCK_EX)
        yield


def ensure_network() -> None:
    """The bridge network of registry and test hosts; its subnet is fixed so that it cannot meet an instance's."""
    with lock("network"):
        if run(["docker", "network", "inspect", NETWORK], check=False).returncode == 0:
            return
        with step(f"network {NETWORK} ({SUBNET})"):
            docker("network", "create", "--label", f"{LABEL}=1", "--subnet", SUBNET, NETWORK)
