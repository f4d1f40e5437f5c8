# SPDX-License-Identifier: GPL-3.0-or-later
"""The verb report of ./multibase, with a program in the place of ansible-playbook."""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
import sys
from pathlib import Path
from typing import Any, Dict, List

import pytest

from unit.report_support import answer, hostile, report, sample
from unit.test_front import FAKE, ROOT, Front

# The stand-in writes the whole report, where other verbs have a list.
WHOLE = FAKE.replace('{{reply["key"]: reply["instances"]}}', 'reply["instances"]')


@pytest.fixture
def front(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Front:
    """The command with an environment and ARA's records, all of them made up."""
    for name in ("MULTIBASE_INVENTORY", "ANSIBLE_CALLBACK_PLUGINS", "ARA_BASE_DIR", "ARA_API_CLIENT"):
        monkeypatch.delenv(name, raising=False)
    shutil.copy(ROOT / "multibase", tmp_path)
    for directory in (".venv/bin", ".venv/ara/callback", ".ara", "inventories/local"):
        (tmp_path / directory).mkdir(parents=True)
    (tmp_path / ".venv/ara/callback/ara_default.py").touch()
    with sqlite3.connect(tmp_path / ".ara" / "ansible.sqlite") as database:
        database.execute("CREATE TABLE playbooks (id INTEGER PRIMARY KEY, name TEXT, status TEXT)")
    fake = tmp_path / ".venv" / "bin" / "ansible-playbook"
    fake.write_text(WHOLE.format(python=sys.executable, root=str(tmp_path)))
    fake.chmod(0o755)
    made = Front(tmp_path)
    made.reply(instances=report())  # type: ignore[arg-type]
    return made


QUIET: Dict[str, Any] = {"multibase_report_mail": {}}


def test_it_tells_what_needs_attention_first_and_writes_nothing(front: Front) -> None:
    done = front.run("report")
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert lines[0].split() == ["SEVERITY", "HOST", "INSTANCE", "ABOUT", "MESSAGE"]
    assert lines[1].split(None, 4) == ["critical", "away", "-", "unreadable", "the host cannot be reached: no route"]
    assert lines[2].split(None, 4) == ["critical", "h1", "beta", "storage", "storage of beta is unhealthy"]
    assert lines[8:] == [
        "",
        "totals",
        "  hosts      2, 1 not read",
        "  instances  1 healthy, 1 degraded, 1 stopped",
        "  services   5 of 8 are well",
        "  memory     5.9 GiB of 15.6 GiB",
        "  databases  740.0 MiB",
        "  backups    5, 1 overdue",
        "  alerts     3 fire, 2 acknowledged or silenced",
    ]
    assert front.variables == QUIET


def test_where_all_is_well_it_says_so_and_where_files_are(front: Front) -> None:
    live = sample()
    live["instances"], live["alerts"], live["certificates"] = live["instances"][:1], [], []
    live["host"]["disks"] = []
    made = {**report(answer(live=live)), "files": ["/srv/a.html", "/srv/b.csv"]}
    front.reply(instances=made)  # type: ignore[arg-type]
    lines = front.run("report").stdout.splitlines()
    assert lines[:3] == ["nothing needs attention", "", "totals"]
    assert lines[-3:] == ["", "written: /srv/a.html", "written: /srv/b.csv"]


def test_as_json_it_is_the_report(front: Front) -> None:
    assert json.loads(front.run("report", "--json").stdout) == report()


def test_words_of_hosts_do_not_drive_the_terminal(front: Front) -> None:
    front.reply(instances=report(answer(live=hostile("\x1b[2J\u202eevil\n"))))  # type: ignore[arg-type]
    done = front.run("report")
    assert "evil" in done.stdout and "\x1b" not in done.stdout and "\u202e" not in done.stdout


@pytest.mark.parametrize(
    ("words", "variables"),
    [
        (["--format", "html"], {"multibase_report_directory": ".", "multibase_report_format": ["html"]}),
        (["--output", "x.json"], {"multibase_report_file": "x.json", "multibase_report_format": ["json"]}),
        (["--output", "out"], {"multibase_report_directory": "out", "multibase_report_format": ["html"]}),
        (["--output", "there.html"], {"multibase_report_directory": "there.html", "multibase_report_format": ["html"]}),
        (["--output", "new.html/"], {"multibase_report_directory": "new.html", "multibase_report_format": ["html"]}),
        (
            ["--format", "html", "--format", "csv", "--table", "services", "--output", "out"],
            {
                "multibase_report_directory": "out",
                "multibase_report_format": ["html", "csv"],
                "multibase_report_tables": ["services"],
            },
        ),
        (
            ["--table", "backups", "--output", "b.csv"],
            {
                "multibase_report_file": "b.csv",
                "multibase_report_format": ["csv"],
                "multibase_report_tables": ["backups"],
            },
        ),
        (
            ["--table", "hosts"],
            {
                "multibase_report_directory": ".",
                "multibase_report_format": ["csv"],
                "multibase_report_tables": ["hosts"],
            },
        ),
        (["--fail-on", "critical"], {"multibase_report_fail_on": "critical"}),
        (["acme", "beta"], {"multibase_limit": ["acme", "beta"]}),
    ],
)
def test_what_is_asked_for(front: Front, words: List[str], variables: Dict[str, Any]) -> None:
    (front.root / "there.html").mkdir()
    for key in ("multibase_report_directory", "multibase_report_file"):
        if key in variables:
            variables = {**variables, key: os.path.abspath(front.root / variables[key])}
    assert front.run("report", *words).returncode == 0
    assert front.variables == {**QUIET, **variables}


def test_only_mail_mails(front: Front) -> None:
    front.run("report", "--mail")
    assert front.variables == {}


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--format", "json", "--output", "x.html"], "--output x.html is one file of format html"),
        (["--format", "html", "--format", "csv", "--output", "x.html"], "name a directory for several"),
        (["--table", "hosts", "--table", "alerts", "--output", "x.csv"], "name a directory for several"),
        (["--table", "hosts", "--format", "html"], "--table goes with --format csv"),
        (["--table", "hosts", "--output", "x.json"], "--table goes with --format csv"),
    ],
)
def test_what_does_not_go_together_is_refused(front: Front, words: List[str], told: str) -> None:
    done = front.run("report", *words)
    assert done.returncode == 2 and told in done.stderr and not front.called


def test_findings_that_fail_the_run_are_shown_all_the_same(front: Front) -> None:
    failure = {"host": "h1", "task": "Check that nothing needs attention", "msg": "3 findings are at least critical"}
    front.reply(instances=report(), code=2, failures=[failure])  # type: ignore[arg-type]
    done = front.run("report", "--fail-on", "critical")
    assert done.returncode == 2 and done.stdout.startswith("SEVERITY") and "3 findings" in done.stderr
