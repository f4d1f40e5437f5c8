# SPDX-License-Identifier: GPL-3.0-or-later
# This file is private to the multibase.supabase collection; it may change at any time.
"""Running a program with a clean environment and a time limit.

``AnsibleModule.run_command`` can do neither, and the host's own tool has no AnsibleModule.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from dataclasses import dataclass
from typing import Dict, Mapping, Optional, Sequence, Tuple

_GRACE_SECONDS = 10.0


@dataclass(frozen=True)
class Completed:
    """How a program ended: its exit code (124 when it ran out of time), standard output and standard error."""

    code: int
    output: str
    errors: str


def clean_environment(extra: Optional[Mapping[str, str]] = None) -> Dict[str, str]:
    """Return PATH, HOME and the variables of the Docker client, and nothing else of ours.

    Compose lets variables of the environment override an instance's ``.env``: none may reach it by accident. Which
    Engine is meant is the caller's to say, so that Compose and we talk to the same one.
    """
    environment = {
        name: value
        for name, value in os.environ.items()
        if name in ("PATH", "HOME") or (name.startswith("DOCKER_") and name not in ("DOCKER_HOST", "DOCKER_CONTEXT"))
    }
    environment.setdefault("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
    environment.setdefault("HOME", "/root")
    environment["LC_ALL"] = "C.UTF-8"
    environment.update(extra or {})
    return environment


def _end(process: subprocess.Popen[bytes]) -> Tuple[bytes, bytes]:
    """End a process and its group, at once when it does not do so by itself; return what it printed."""
    for number, patience in ((signal.SIGTERM, _GRACE_SECONDS), (signal.SIGKILL, None)):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        try:
            return process.communicate(timeout=patience)
        except subprocess.TimeoutExpired:
            continue
    return b"", b""


def run(
    argv: Sequence[str], cwd: str, environment: Mapping[str, str], timeout: float, keep_open: Sequence[int] = ()
) -> Completed:
    """Run ``argv`` and wait for it, at most ``timeout`` seconds; then its whole process group is ended.

    It is asked to end first: Compose in the middle of recreating a container gets the time to finish that. It inherits
    the descriptors ``keep_open``.
    """
    process = subprocess.Popen(
        list(argv),
        cwd=cwd,
        env=dict(environment),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
        pass_fds=tuple(keep_open),
    )
    try:
        output, errors = process.communicate(timeout=timeout)
        code = process.returncode
    except subprocess.TimeoutExpired:
        output, errors = _end(process)
        code = 124
    except BaseException:
        _end(process)
        raise
    return Completed(code, output.decode("utf-8", "replace"), errors.decode("utf-8", "replace"))
