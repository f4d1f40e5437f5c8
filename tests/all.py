#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-3.0-or-later
"""What `make test` runs: every stage, the cheap ones first, up to the first that fails.

    tests/all.py [STAGE...]    lint, unit, faults, sanity, browser, integration, e2e, hosts; without any all but hosts,
                               which takes half an hour and is part of `make test-long`

Ends with what the tests measured, also kept in .cache/reports/figures.md, and one line of its own:
N passed, N failed (, N skipped).
"""

from __future__ import annotations

import re
import subprocess
import sys
import time
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Callable, List, NamedTuple

import figures

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv" / "bin"
REPORTS = ROOT / ".cache" / "reports"


class Count(NamedTuple):
    """How many tests of a stage did what."""

    passed: int = 0
    failed: int = 0
    skipped: int = 0

    def plus(self, other: Count) -> Count:
        """Return the sum."""
        return Count(*(mine + theirs for mine, theirs in zip(self, other)))


def command(*words: str) -> int:
    """Run a command at the top of the repository, its output for the reader; return its exit status."""
    return subprocess.run(words, cwd=ROOT, stdin=subprocess.DEVNULL, check=False).returncode


def counted(*words: str, passed: str, failed: str) -> Count:
    """Run a command, pass its output on, and count its lines by two patterns."""
    good = bad = 0
    with subprocess.Popen(
        words, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            print(line, end="", flush=True)
            good += bool(re.match(passed, line))
            bad += bool(re.match(failed, line))
    return Count(good, bad or int(process.returncode != 0))


def pytest(stage: str, *options: str) -> Count:
    """Run the tests of a directory and count them by pytest's own report."""
    REPORTS.mkdir(parents=True, exist_ok=True)
    report = REPORTS / f"{stage}.xml"
    report.unlink(missing_ok=True)
    code = command(str(VENV / "pytest"), f"tests/{stage}", "-q", f"--junitxml={report}", *options)
    if not report.exists():
        return Count(failed=1)
    suites = ElementTree.parse(report).getroot().iter("testsuite")
    total = Count()
    for suite in suites:
        number = {key: int(suite.get(key, "0")) for key in ("tests", "failures", "errors", "skipped")}
        bad = number["failures"] + number["errors"]
        total = total.plus(Count(number["tests"] - bad - number["skipped"], bad, number["skipped"]))
    return total if code == 0 or total.failed else total.plus(Count(failed=1))


def sandbox(*steps: str) -> bool:
    """Run commands of the sandbox: ``engine`` gives a Docker Engine with Compose, ``images`` images in a registry."""
    return all(command(sys.executable, str(ROOT / "tests" / "sandbox" / "sandbox.py"), step) == 0 for step in steps)


def lint() -> Count:
    """Linters and type checks."""
    return counted("tests/lint.sh", passed="ok  ", failed="FAILED  ")


def unit() -> Count:
    """Tests that need no daemon, but the docker command with Compose."""
    return pytest("unit", "-n", "auto") if sandbox("engine") else Count(failed=1)


def faults() -> Count:
    """Kills, power cuts and damaged files, with real processes; `make test-long` tries every moment there is."""
    return pytest("faults", "-n", "auto")


def sanity() -> Count:
    """ansible-test sanity on a copy of the collection."""
    ran = counted("tests/sanity.sh", passed="Running sanity test", failed=r"FATAL: The \d+ sanity|ERROR: Command")
    return Count(max(0, ran.passed - ran.failed), ran.failed)


def browser() -> Count:
    """The panel in a real Chromium, served by a real nginx: what it shows, how it is used, who it is for."""
    return pytest("browser")


def integration() -> Count:
    """Tests against real engines and programs."""
    return pytest("integration") if sandbox("engine", "images") else Count(failed=1)


def e2e() -> Count:
    """A whole server, provisioned by Molecule with the playbooks and looked at from outside; one audited by lynis."""
    if not sandbox("engine", "images"):
        return Count(failed=1)
    return pytest("e2e", *(f"--ignore={path}" for path in HOST_TESTS))


def hosts() -> Count:
    """Single roles on test hosts of their own: firewall, proxy, hardening, reboots and the way back, Debian 12."""
    if not sandbox("engine", "images"):
        return Count(failed=1)
    return pytest("e2e", *(f"--ignore={path}" for path in SERVER_TESTS))


SERVER_TESTS = ["tests/e2e/test_lynis.py", "tests/e2e/test_server.py"]
HOST_TESTS = [f"tests/e2e/test_{name}.py" for name in ("debian12", "firewall", "hardening", "host_life", "proxy")]
STAGES: List[Callable[[], Count]] = [lint, unit, faults, sanity, browser, integration, e2e, hosts]
# Only when they are named.
LONG = (hosts,)


def main(argv: List[str]) -> int:
    """Run the stages that were asked for; return the exit status."""
    known = [stage.__name__ for stage in STAGES]
    if any(name not in known for name in argv):
        print(f"tests/all.py: the stages are {', '.join(known)}", file=sys.stderr)
        return 2
    figures.start()
    total = Count()
    for stage in STAGES:
        if stage.__name__ not in argv if argv else stage in LONG:
            continue
        print(f"\n==> {stage.__name__}: {stage.__doc__}", flush=True)
        started = time.monotonic()
        count = stage()
        total = total.plus(count)
        print(
            f"==> {stage.__name__}: {count.passed} passed, {count.failed} failed, {count.skipped} skipped "
            f"in {time.monotonic() - started:.0f} s",
            flush=True,
        )
        if count.failed:
            print(f"==> stopped after {stage.__name__}; later stages did not run", flush=True)
            break
    measured = figures.finish()
    if measured:
        print(f"\n==> measured, also in {(figures.REPORTS / figures.PAGE).relative_to(ROOT)}:\n{measured}", flush=True)
    print(f"\n{total.passed} passed, {total.failed} failed, {total.skipped} skipped", flush=True)
    return 1 if total.failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
