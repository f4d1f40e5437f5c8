# SPDX-License-Identifier: GPL-3.0-or-later
"""What lynis says of a host before and after it was hardened: the host's own idea of itself, as an auditor sees it."""

from __future__ import annotations

import re
import subprocess
import time
from pathlib import Path
from typing import Iterator, List, Tuple

import pytest

from e2e.guarded import Guarded
from figures import record

# The test hosts have no archive of security updates in their sources.
KNOWN = {"PKGS-7388"}


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Guarded]:
    """A host with SSH and a key, and Debian's lynis."""
    made = Guarded("lynis-e2e", tmp_path, {"multibase_hardening_enabled": True})
    made.up()
    try:
        made.shell("apt-get update -qq; apt-get install -qq openssh-server lynis > /dev/null 2>&1")
        key = made.work / "key"
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(key)], check=True)
        made.run("install", "-d", "-m", "700", "/root/.ssh")
        made.run("tee", "/root/.ssh/authorized_keys", text=key.with_suffix(".pub").read_text())
        yield made
    finally:
        made.down()


def audit(host: Guarded) -> Tuple[int, List[str], List[str]]:
    """Return the hardening index, the warnings and the suggestions."""
    host.shell("rm -f /var/log/lynis-report.dat; lynis audit system --quick --quiet > /dev/null 2>&1 || true")
    report = host.run("cat", "/var/log/lynis-report.dat")
    (index,) = re.findall(r"^hardening_index=(\d+)", report, re.MULTILINE)
    warnings, suggestions = (
        re.findall(r"^{0}\[\]=([^|]+)".format(kind), report, re.MULTILINE) for kind in ("warning", "suggestion")
    )
    return int(index), warnings, suggestions


def test_lynis_says_it_is_better(host: Guarded) -> None:
    started = time.monotonic()
    before, _, many = audit(host)
    print("lynis: {0:.0f} s".format(time.monotonic() - started))
    host.play("--tags", "hardening")
    after, warnings, fewer = audit(host)
    source = "lynis {0} of Debian, a container with SSH, test_lynis".format(host.run("lynis", "--version"))
    record("lynis, hardening index before", before, "of 100", source)
    record("lynis, hardening index after", after, "of 100", source)
    record("lynis, warnings after", len(set(warnings) - KNOWN), "beside {0}".format(", ".join(sorted(KNOWN))), source)
    record("lynis, suggestions after", len(fewer), "{0} before".format(len(many)), source)
    assert set(warnings) <= KNOWN
    assert after > before and len(fewer) < len(many)
    assert after >= 75
