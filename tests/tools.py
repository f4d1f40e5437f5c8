# SPDX-License-Identifier: GPL-3.0-or-later
"""Programs from PyPI that tests run and that cannot share an environment with ours: each in one of its own."""

from __future__ import annotations

import fcntl
import hashlib
import subprocess
import sys
from pathlib import Path

CACHE = Path(__file__).resolve().parent.parent / ".cache" / "tools"
# gixy-next and gixy-ng install the same command and break each other; sslyze wants an older cryptography than ours.
REQUIREMENTS = {"gixy": "gixy-next==0.9.0", "sslyze": "sslyze==6.3.1"}


def tool(name: str) -> str:
    """Return the path of a program, after installing it when that was not done yet."""
    requirement = REQUIREMENTS[name]
    home = CACHE / (name + "-" + hashlib.sha256((requirement + sys.version).encode()).hexdigest()[:12])
    CACHE.mkdir(parents=True, exist_ok=True)
    with open(CACHE / (name + ".lock"), "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (home / "complete").exists():
            subprocess.run([sys.executable, "-m", "venv", "--clear", str(home)], check=True)
            install = [str(home / "bin" / "python"), "-m", "pip", "--disable-pip-version-check", "install", "--quiet"]
            subprocess.run([*install, requirement], check=True, capture_output=True)
            (home / "complete").touch()
    return str(home / "bin" / name)
