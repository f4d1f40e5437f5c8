# SPDX-License-Identifier: GPL-3.0-or-later
"""The command ./multibase, with a program in the place of ansible-playbook that records how it was called."""

from __future__ import annotations

import json
import os
import pty
import runpy
import shutil
import sqlite3
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Dict, List, Optional

import pytest

from ansible_collections.multibase.supabase.plugins.module_utils._settings import SETTINGS

ROOT = Path(__file__).resolve().parents[2]
VERBS = [
    "preflight", "site", "create", "start", "stop", "restart", "status", "list", "show", "credentials", "backup",
    "report", "backups", "verify", "restore", "export", "delete", "sites", "user", "bundle", "load", "uninstall",
]  # fmt: skip
# What verbs need beside the name of an instance.
NEEDED = {
    "delete": ["--yes"], "credentials": ["--output", "acme.env"], "user": ["list"], "bundle": ["b"], "load": ["b"],
}  # fmt: skip
# Verbs about hosts.
UNNAMED = ("preflight", "site", "sites", "user", "bundle", "load", "uninstall")
ACME: Dict[str, Any] = {
    "name": "acme",
    "host": "h1",
    "state": "running",
    "health": "healthy",
    "gateway": "envoy",
    "release": "0.8.2",
    "ports": {"gateway_http": 20000, "postgres": 20005},
    "urls": {"api": "http://127.0.0.1:20000"},
    "services": [{"name": "db", "state": "running", "health": "healthy", "image": "postgres:17"}],
}

# Writes its arguments to call.json, what reply.json says to the files that it was asked to write, and ends as told.
FAKE = """#!{python}
import json, os, sqlite3, sys
root = {root!r}
reply = json.load(open(os.path.join(root, "reply.json")))
variables = json.loads(sys.argv[sys.argv.index("--extra-vars") + 1])
with open(os.path.join(root, "call.json"), "w") as stream:
    json.dump({{"argv": sys.argv[1:], "variables": variables, "cwd": os.getcwd(), "stdin": sys.stdin.read(),
               "config": os.environ.get("ANSIBLE_CONFIG"),
               "callbacks": os.environ.get("ANSIBLE_CALLBACK_PLUGINS")}}, stream)
if reply["record"]:
    with sqlite3.connect(os.path.join(root, ".ara", "ansible.sqlite")) as database:
        database.execute("INSERT INTO playbooks (name, status) VALUES ('x', ?)", (reply["record"],))
if reply["instances"] is not None:
    json.dump({{reply["key"]: reply["instances"]}}, open(variables["multibase_result_file"], "w"))
json.dump(reply["failures"], open(os.environ["MULTIBASE_FAILURES_FILE"], "w"))
print(reply["output"])
sys.exit(reply["code"])
"""


@dataclass
class Front:
    """A copy of the command in a directory of its own."""

    root: Path

    def reply(
        self,
        instances: Optional[List[Dict[str, Any]]] = None,
        code: int = 0,
        failures: Optional[List[Dict[str, str]]] = None,
        output: str = "PLAY RECAP",
        record: bool = True,
        key: str = "instances",
    ) -> None:
        """Say what the stand-in for ansible-playbook does."""
        reply = {
            "key": key,
            "instances": instances,
            "code": code,
            "failures": failures or [],
            "output": output,
            "record": record,
        }
        (self.root / "reply.json").write_text(json.dumps(reply))

    def run(self, *words: str, **more: Any) -> subprocess.CompletedProcess[str]:
        """Run the command without a terminal."""
        options: Dict[str, Any] = {"cwd": self.root, "stdin": subprocess.DEVNULL, **more}
        command = [sys.executable, str(self.root / "multibase"), *words]
        return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, **options)

    @property
    def call(self) -> Dict[str, Any]:
        """How ansible-playbook was called."""
        return dict(json.loads((self.root / "call.json").read_text()))

    @property
    def called(self) -> bool:
        """Whether ansible-playbook was called at all."""
        return (self.root / "call.json").exists()

    @property
    def variables(self) -> Dict[str, Any]:
        """The extra variables, but for the file for the result."""
        return {key: value for key, value in self.call["variables"].items() if key != "multibase_result_file"}


@pytest.fixture
def front(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Front:
    """The command with an environment, inventories and ARA's records, all of them made up."""
    for name in ("MULTIBASE_INVENTORY", "ANSIBLE_CALLBACK_PLUGINS", "ARA_BASE_DIR", "ARA_API_CLIENT"):
        monkeypatch.delenv(name, raising=False)
    shutil.copy(ROOT / "multibase", tmp_path)
    for directory in (".venv/bin", ".venv/ara/callback", ".ara", "inventories/sandbox", "inventories/local"):
        (tmp_path / directory).mkdir(parents=True)
    (tmp_path / ".venv/ara/callback/ara_default.py").touch()
    with sqlite3.connect(tmp_path / ".ara" / "ansible.sqlite") as database:
        database.execute("CREATE TABLE playbooks (id INTEGER PRIMARY KEY, name TEXT, status TEXT)")
    fake = tmp_path / ".venv" / "bin" / "ansible-playbook"
    fake.write_text(FAKE.format(python=sys.executable, root=str(tmp_path)))
    fake.chmod(0o755)
    made = Front(tmp_path)
    made.reply(instances=[ACME])
    return made


def test_every_verb_has_its_playbook_and_its_line_of_help() -> None:
    shown = subprocess.run([sys.executable, str(ROOT / "multibase"), "-h"], capture_output=True, text=True, check=True)
    for verb in VERBS:
        assert (ROOT / "playbooks" / f"{verb}.yml").is_file()
        assert f"    {verb} " in shown.stdout


def test_without_an_environment_it_names_the_command_that_makes_it(front: Front) -> None:
    (front.root / ".venv" / "bin" / "ansible-playbook").unlink()
    done = front.run("list")
    assert (done.returncode, done.stdout) == (2, "")
    assert "make setup" in done.stderr


def test_list_prints_a_table_and_nothing_else(front: Front) -> None:
    done = front.run("list")
    assert done.returncode == 0
    assert done.stderr == ""
    heading, row = done.stdout.splitlines()
    assert heading.split() == ["HOST", "NAME", "STATE", "HEALTH", "GATEWAY", "URL", "PORTS", "RELEASE"]
    assert row.split("  ")[0] == "h1"
    assert "http 20000, postgres 20005" in row
    assert heading.index("RELEASE") == row.index("0.8.2")


def test_list_as_json_is_exactly_the_contract(front: Front) -> None:
    done = front.run("list", "--json")
    assert json.loads(done.stdout) == {"instances": [ACME]}


def test_status_names_services(front: Front) -> None:
    done = front.run("status", "acme")
    assert "postgres:17" in done.stdout
    assert front.variables == {"multibase_limit": ["acme"]}


def test_the_environment_is_a_column_where_there_are_any(front: Front) -> None:
    front.reply(instances=[{**ACME, "environment": "production"}, {**ACME, "name": "beta", "environment": ""}])
    heading, acme, beta = front.run("list").stdout.splitlines()
    assert heading.split()[:4] == ["HOST", "NAME", "ENVIRONMENT", "STATE"]
    assert acme.split()[2] == "production" and beta.split()[2] == "-"
    assert heading.index("RELEASE") == acme.index("0.8.2") == beta.index("0.8.2")


DETAILED: Dict[str, Any] = {
    **ACME,
    "problem": "",
    "environment": "production",
    "labels": {"team": "web", "tier": "1"},
    "blueprint": "",
    "directory": "/opt/multibase/projects/acme",
    "size": "large",
    "resources": {"cpus": 4.0, "memory": 8192, "services": {"db": {"cpus": "1.50", "memory": 2048, "cpu_shares": 9}}},
    "declared": {"size": "large", "auth": {"disable_signup": True}, "expose": ["postgres"], "labels": {}},
    "env": {"": ["TZ"], "auth": ["GOTRUE_LOG_LEVEL", "GOTRUE_X"]},
    "user_secrets": {"": ["SMTP_PASS"], "rest": []},
    "secrets": {"ANON_KEY": "fingerprint:0123456789ab", "JWT_SECRET": "fingerprint:ba9876543210"},
    "edited_secrets": ["JWT_SECRET"],
    "added_variables": ["MY_OWN"],
    "compose_files": ["docker-compose.yml", "overlays/logs.yml"],
}


def test_show_tells_all_about_one(front: Front) -> None:
    front.reply(instances=[DETAILED])
    done = front.run("show", "acme")
    assert (done.returncode, done.stderr) == (0, "")
    assert front.variables == {"multibase_limit": ["acme"]}
    lines = [" ".join(line.split()) for line in done.stdout.splitlines()]
    for line in (
        "acme", "host h1", "state running, healthy", "environment production", "labels team=web, tier=1",
        "size large (4 CPU, 8192 MiB)", "directory /opt/multibase/projects/acme", "release 0.8.2", "gateway envoy",
        "compose files docker-compose.yml, overlays/logs.yml", "db running healthy 2048 MiB 1.50 postgres:17",
        "gateway_http 20000", "api http://127.0.0.1:20000", "size large", "auth.disable_signup true", "expose postgres",
        "all services TZ", "auth GOTRUE_LOG_LEVEL, GOTRUE_X", "added to .env by hand MY_OWN", "all services SMTP_PASS",
        "ANON_KEY fingerprint:0123456789ab", "JWT_SECRET fingerprint:ba9876543210 (changed by hand since)",
    ):  # fmt: skip
        assert lines.count(line) == 1, line
    for word in ("problem", "blueprint"):
        assert word not in done.stdout, "what is empty is left out"
    assert json.loads(front.run("show", "acme", "--json").stdout) == {"instances": [DETAILED]}


def test_show_says_what_little_is_known(front: Front) -> None:
    front.reply(instances=[{"name": "old", "host": "h1", "state": "damaged", "health": "unknown", "problem": "broken"}])
    shown = front.run("show", "old").stdout
    assert "damaged, unknown" in shown and "broken" in shown
    assert front.run("show").returncode == 2 and front.run("show", "a", "b").returncode == 2


HANDED: Dict[str, Any] = {
    "name": "acme", "host": "h1", "path": "/home/ann/acme.env", "format": "env", "encrypted": False, "written": True,
    "names": ["SUPABASE_PUBLIC_URL", "ANON_KEY"], "fingerprints": {"ANON_KEY": "fingerprint:0123456789ab"},
    "edited": [],
}  # fmt: skip


def test_credentials_go_to_a_file_and_never_to_the_terminal(front: Front, tmp_path: Path) -> None:
    front.reply(instances=[HANDED], record=False)
    directory = tmp_path / "shell"
    directory.mkdir()
    done = front.run("credentials", "acme", "--format", "env", "--output", "../acme.env", cwd=directory)
    assert (done.returncode, done.stderr) == (0, "")
    assert front.variables == {
        "multibase_limit": ["acme"],
        "multibase_credentials_file": str(tmp_path / "acme.env"),
        "multibase_credentials_format": "env",
        "multibase_credentials_vault": False,
        "multibase_credentials_force": False,
    }
    assert done.stdout.splitlines() == [
        "acme on h1: /home/ann/acme.env (env), written",
        "  SUPABASE_PUBLIC_URL",
        "  ANON_KEY             fingerprint:0123456789ab",
    ]
    assert front.run("credentials", "acme").returncode == 2, "there is no standard output to write to"


def test_credentials_encrypted_replaced_or_only_checked(front: Front) -> None:
    front.reply(instances=[{**HANDED, "encrypted": True, "written": False, "edited": ["ANON_KEY"]}])
    words = ("--vault", "--force", "--check", "--output", "/x/acme.yml", "--", "--vault-password-file", "p")
    done = front.run("credentials", "acme", *words)
    assert "(env, encrypted with Ansible Vault), not written" in done.stdout
    assert done.stdout.splitlines()[-1] == "changed by hand since they were made: ANON_KEY"
    assert front.variables["multibase_credentials_vault"] is True
    assert front.variables["multibase_credentials_force"] is True
    assert front.variables["multibase_credentials_format"] == "table"
    assert front.call["argv"][-3:-1] == ["--vault-password-file", "p"] and "--check" in front.call["argv"]


LOOKED: List[Dict[str, Any]] = [
    {"host": "h1", "ok": True, "findings": [
        {"check": "os", "level": "ok", "found": "Debian 13", "needed": "Debian 12", "remedy": ""},
        {"check": "space", "level": "ok", "found": "9 GiB", "needed": "2 GiB", "remedy": ""},
        {"check": "space", "level": "warning", "found": "1 GiB free", "needed": "2 GiB", "remedy": "add space"},
    ]},
    {"host": "h2", "ok": False, "findings": [
        {"check": "time", "level": "warning", "found": "no service", "needed": "one", "remedy": "install chrony"},
        {"check": "connection", "level": "failure", "found": "refused", "needed": "a host", "remedy": "ping it"},
    ]},
]  # fmt: skip


def test_preflight_tells_of_every_host_and_fails_with_the_playbook(front: Front) -> None:
    front.reply(instances=LOOKED, key="hosts", code=2, failures=[{"host": "h2", "task": "Verdict", "msg": "long text"}])
    done = front.run("preflight", "--strict", "--skip", "dns")
    assert done.returncode == 2
    assert front.variables == {"multibase_preflight_warnings_fail": True, "multibase_preflight_skip": ["dns"]}
    assert done.stdout.splitlines() == [
        "h1: ready (0 failures, 1 warning)",
        "  WARNING  space: 1 GiB free",
        "           needed: 2 GiB",
        "           remedy: add space",
        "  ok       os",
        "",
        "h2: not ready (1 failure, 1 warning)",
        "  FAILURE  connection: refused",
        "           needed: a host",
        "           remedy: ping it",
        "  WARNING  time: no service",
        "           needed: one",
        "           remedy: install chrony",
    ]
    assert done.stderr == "multibase: preflight failed (exit status 2)\n", "nothing is told twice"
    done = front.run("preflight", "--json")
    assert json.loads(done.stdout) == {"hosts": LOOKED} and front.variables == {}
    assert front.run("preflight", "acme").returncode == 2, "it is about hosts"


def test_preflight_that_reports_nothing_says_what_failed(front: Front) -> None:
    front.reply(instances=None, code=4, failures=[{"host": "h2", "task": "Look", "msg": "why"}])
    done = front.run("preflight")
    assert (done.returncode, done.stdout) == (4, "") and "why" in done.stderr


def test_credentials_are_kept_out_of_ara(front: Front, monkeypatch: pytest.MonkeyPatch) -> None:
    ours = str(front.root / "playbooks" / "callback_plugins")
    front.reply(instances=[HANDED], record=False)
    for elsewhere in (None, "/usr/share/ara"):
        if elsewhere:
            monkeypatch.setenv("ANSIBLE_CALLBACK_PLUGINS", elsewhere)
        assert "ARA" not in front.run("credentials", "acme", "--output", "x").stderr
        assert front.call["callbacks"] == ours
        front.run("show", "acme")
        assert front.call["callbacks"] == elsewhere


def test_no_instance_is_no_error(front: Front) -> None:
    front.reply(instances=[])
    done = front.run("list")
    assert (done.returncode, done.stdout) == (0, "")
    assert "no instance" in done.stderr
    assert json.loads(front.run("list", "--json").stdout) == {"instances": []}


def test_an_instance_of_which_little_is_known_is_shown(front: Front) -> None:
    front.reply(instances=[{"name": "old", "host": "h1", "state": "damaged", "ports": {}, "urls": {}, "services": []}])
    assert "damaged  -" in front.run("status").stdout


def test_long_verbs_keep_standard_output_for_the_result(front: Front) -> None:
    front.reply(instances=[ACME], output="PLAY RECAP of a long run")
    done = front.run("start", "acme", "--json")
    assert json.loads(done.stdout) == {"instances": [ACME]}
    assert "PLAY RECAP of a long run" in done.stderr


def test_common_options_stand_before_or_after_the_verb(front: Front) -> None:
    for words in (
        ("-i", "sandbox", "--limit", "h1", "--check", "--diff", "-vv", "list", "acme"),
        ("list", "acme", "-i", "sandbox", "--limit", "h1", "--check", "--diff", "-vv"),
    ):
        assert front.run(*words).returncode == 0
        argv = front.call["argv"]
        assert argv[:4] == ["--inventory", str(front.root / "inventories" / "sandbox"), "--limit", "h1"]
        assert argv[4:7] == ["--check", "--diff", "-vv"]
        assert argv[-1] == str(front.root / "playbooks" / "list.yml")


def test_words_after_two_hyphens_go_to_ansible(front: Front) -> None:
    assert front.run("list", "--", "--tags", "host", "-e", "a=b").returncode == 0
    assert front.call["argv"][-5:-1] == ["--tags", "host", "-e", "a=b"]


def test_nothing_can_wait_for_an_answer(front: Front) -> None:
    assert front.run("list", stdin=None, input="typed").returncode == 0
    assert front.call["stdin"] == ""


def test_it_runs_from_anywhere(front: Front, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    (elsewhere / "mine").mkdir(parents=True)
    assert front.run("-i", "mine", "list", cwd=elsewhere).returncode == 0
    assert front.call["cwd"] == str(front.root)
    assert front.call["config"] == str(front.root / "ansible.cfg")
    assert front.call["argv"][1] == str(elsewhere / "mine")


@pytest.mark.parametrize(
    ("given", "expected"),
    [("h1,h2", "h1,h2"), ("local", "inventories/local"), ("inventories/local", "inventories/local")],
)
def test_inventories_may_be_named(front: Front, given: str, expected: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MULTIBASE_INVENTORY", given)
    assert front.run("list").returncode == 0
    assert front.call["argv"][1] in (expected, str(front.root / expected))


def test_without_an_inventory_the_one_of_ansible_cfg_counts(front: Front) -> None:
    front.run("list")
    assert "--inventory" not in front.call["argv"]


def test_an_inventory_that_does_not_exist_is_named_with_those_that_do(front: Front) -> None:
    done = front.run("-i", "nowhere", "list")
    assert done.returncode == 2
    assert "nowhere" in done.stderr
    assert "local, sandbox" in done.stderr
    assert not front.called


def test_create_turns_options_into_an_instance(front: Front) -> None:
    done = front.run(
        "create", "acme", "--size", "small", "--public-url", "https://a.example.com", "--expose", "postgres",
        "--without", "storage", "--without", "imgproxy", "--with", "studio", "--image-set", "sandbox",
        "--port-base", "21000", "--set", "auth.disable_signup=true", "--set", "auth.jwt_expiry=60",
        "--set", "studio.project=My project", "--target-host", "h2", "--no-start", "--timeout", "30", "--parallel", "2",
        "--pull", "never",
    )  # fmt: skip
    assert done.returncode == 0
    assert front.variables == {
        "multibase_instance": {
            "name": "acme",
            "size": "small",
            "public_url": "https://a.example.com",
            "expose": ["postgres"],
            "services": {"storage": False, "imgproxy": False, "studio": True},
            "image_set": "sandbox",
            "port_base": 21000,
            "auth": {"disable_signup": True, "jwt_expiry": 60},
            "studio": {"project": "My project"},
        },
        "multibase_target_host": "h2",
        "multibase_start": False,
        "multibase_start_timeout": 30,
        "multibase_parallel": 2,
        "multibase_pull": "never",
    }


def test_create_says_nothing_of_what_was_not_given(front: Front) -> None:
    front.run("create", "acme")
    assert front.variables == {"multibase_instance": {"name": "acme"}}


@pytest.mark.parametrize(
    "setting",
    [
        "size", "=x", "auth..x=1", "size.x=1", "smtp.password=x", "a.api_key=x", "JWT_SECRET=x", "secrets.x=1",
        'smtp={"password":"x"}', 'a=[{"b":{"api_token":"x"}}]', "name=beta", "state=absent", "state.x=1",
    ],
)  # fmt: skip
def test_settings_that_cannot_be_or_should_not_be_are_refused(front: Front, setting: str) -> None:
    done = front.run("create", "acme", "--size", "small", "--set", setting)
    assert done.returncode == 2
    assert "--set" in done.stderr
    assert "Traceback" not in done.stderr
    assert not front.called


def test_settings_may_be_dictionaries(front: Front) -> None:
    front.run("create", "acme", "--set", 'smtp={"host":"mail.example.net","port":25}', "--set", "smtp.user=u")
    smtp = {"host": "mail.example.net", "port": 25, "user": "u"}
    assert front.variables == {"multibase_instance": {"name": "acme", "smtp": smtp}}


def test_verbs_that_write_take_a_time_to_wait_for_the_lock(front: Front) -> None:
    for verb in VERBS:
        words = [verb, *NEEDED.get(verb, [])] if verb in UNNAMED else [verb, "acme", *NEEDED.get(verb, [])]
        done = front.run(*words, "--lock-timeout", "5")
        if verb in ("list", "status", "show", "credentials", "backups", "preflight", "user"):
            assert done.returncode == 2
        else:
            assert front.variables["multibase_lock_timeout"] == 5, done.stderr


@pytest.mark.parametrize("verb", ["start", "stop", "restart"])
def test_all_instances_must_be_meant_on_purpose(front: Front, verb: str) -> None:
    assert front.run(verb).returncode == 2
    assert front.run(verb, "acme", "--all").returncode == 2
    assert not front.called
    assert front.run(verb, "--all").returncode == 0
    assert front.variables == {"multibase_limit": ["all"]}
    assert front.run(verb, "acme", "beta").returncode == 0
    assert front.variables == {"multibase_limit": ["acme", "beta"]}


def test_restart_of_single_services(front: Front) -> None:
    front.run("restart", "acme", "--service", "auth", "--service", "rest")
    assert front.variables == {"multibase_limit": ["acme"], "multibase_services": ["auth", "rest"]}


def test_uninstall_hands_on_what_is_confirmed_and_tells_what_remains(front: Front) -> None:
    assert front.run("uninstall", "acme").returncode == 2 and not front.called, "it is about hosts"
    front.run("uninstall", "--check")
    assert front.variables == {}
    front.run("uninstall", "--confirm", "h1,h2", "--delete-data", "--confirm-data", "/srv/mb", "--no-final-backup")
    assert front.variables == {
        "multibase_uninstall_confirm": "h1,h2", "multibase_uninstall_delete_data": True,
        "multibase_uninstall_confirm_data": "/srv/mb", "multibase_uninstall_final_backup": False,
    }  # fmt: skip
    left = {"name": "h1", "data": True, "paths": [{"path": "/srv/mb/projects", "bytes": 2048}], "packages": ["nginx"]}
    text = runpy.run_path(str(ROOT / "multibase"))["remains_text"]([left])
    assert text.splitlines() == ["h1: its data is kept", "  /srv/mb/projects  2.0 KiB", "  packages: nginx"]


def test_delete_without_a_terminal_needs_yes(front: Front) -> None:
    done = front.run("delete", "acme")
    assert done.returncode == 2
    assert "--yes" in done.stderr
    assert not front.called
    assert front.run("delete", "acme", "--yes").returncode == 0
    assert front.variables == {"multibase_limit": ["acme"], "multibase_confirm": ["acme"]}


@pytest.mark.parametrize(("typed", "code"), [("acme", 0), ("acm", 2), ("", 2), ("yes", 2)])
def test_delete_asks_for_the_name(front: Front, typed: str, code: int) -> None:
    ours, theirs = pty.openpty()
    os.write(ours, (typed + "\n").encode())
    try:
        done = front.run("delete", "acme", stdin=theirs)
    finally:
        os.close(ours)
        os.close(theirs)
    assert done.returncode == code
    assert front.called == (code == 0)


def test_a_failure_keeps_the_exit_status_and_says_what_why_and_where(front: Front) -> None:
    failures = [
        {"host": "h1", "task": "instances : Start", "msg": "db did not become healthy\nits last line"},
        {"host": "h2", "task": "instances : Start", "msg": "db did not become healthy\nits last line"},
    ]
    front.reply(code=2, failures=failures)
    done = front.run("start", "acme")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.splitlines()[-4:] == [
        "multibase: start failed (exit status 2)",
        "  on h1, h2, at “instances : Start”:",
        "    db did not become healthy",
        "    its last line",
    ]


def test_hosts_that_failed_do_not_hide_those_that_did_not(front: Front) -> None:
    front.reply(instances=[ACME], code=4, failures=[{"host": "h2", "task": "Find", "msg": "cannot be reached"}])
    done = front.run("list", "--json")
    assert done.returncode == 4
    assert json.loads(done.stdout) == {"instances": [ACME]}
    assert "on h2" in done.stderr


def test_what_ansible_says_before_any_task_is_shown(front: Front) -> None:
    front.reply(code=1, output="noise\n[ERROR]: the playbook could not be parsed")
    done = front.run("list")
    assert done.returncode == 1
    assert "[ERROR]: the playbook could not be parsed" in done.stderr
    assert "noise" not in done.stderr


def test_a_run_without_a_result_is_an_error(front: Front) -> None:
    front.reply(instances=None)
    done = front.run("list")
    assert done.returncode == 2
    assert "multibase_hosts" in done.stderr


def test_a_run_that_was_not_recorded_is_complained_about(front: Front) -> None:
    front.reply(instances=[ACME], record="completed")
    assert "recorded in ARA" not in front.run("list").stderr
    front.reply(instances=[ACME], record="running")
    assert "the end of this run was not recorded in ARA" in front.run("list").stderr
    front.reply(instances=[ACME], record="")
    assert "this run was not recorded in ARA" in front.run("list").stderr
    shutil.rmtree(front.root / ".venv" / "ara")
    front.reply(instances=[ACME])
    assert "not recorded in ARA" in front.run("list").stderr
    shutil.rmtree(front.root / ".ara")
    assert "not recorded in ARA" in front.run("list", env={**os.environ}).stderr


def test_records_kept_elsewhere_are_not_looked_for(front: Front, monkeypatch: pytest.MonkeyPatch) -> None:
    front.reply(instances=[ACME], record=False)
    monkeypatch.setenv("ARA_API_CLIENT", "http")
    assert front.run("list").stderr == ""


def test_mistakes_in_a_command_line_get_usage_and_no_traceback(front: Front) -> None:
    for words in ((), ("nonsense",), ("create",), ("create", "a", "b"), ("list", "--nonsense"), ("delete",)):
        done = front.run(*words)
        assert done.returncode == 2
        assert "Traceback" not in done.stderr
    assert not front.called


def test_clean_names_what_it_keeps_and_what_it_could_not_remove(tmp_path: Path) -> None:
    for directory in ("tests", "bin", ".ara", ".venv", ".demo", "cache"):
        (tmp_path / directory).mkdir()
    shutil.copy(ROOT / "tests" / "clean.sh", tmp_path / "tests")
    docker = tmp_path / "bin" / "docker"
    docker.write_text("#!/bin/sh\nexit 1\n")
    docker.chmod(0o755)
    environment = {"PATH": f"{docker.parent}:{os.environ['PATH']}", "MULTIBASE_CACHE": str(tmp_path / "cache")}
    done = subprocess.run(
        ["sh", "tests/clean.sh"], cwd=tmp_path, env=environment, capture_output=True, text=True, check=True
    )
    assert "no Docker Engine answers" in done.stderr
    for kept in (".ara", str(tmp_path / "cache"), "Docker Engine", "Debian packages"):
        assert kept in done.stdout
    assert sorted(path.name for path in tmp_path.iterdir()) == [".ara", "bin", "cache", "tests"]


def test_the_front_knows_every_option_that_holds_a_secret_and_no_other() -> None:
    """The front stands alone, so its words are compared here with the table of options."""
    module = runpy.run_path(str(ROOT / "multibase"), run_name="front")
    secret, unlike, pattern = (module[name] for name in ("SECRET_OPTIONS", "OPEN_WORDS", "SECRET_WORDS"))
    for setting in SETTINGS:
        if setting.secret:
            assert setting.path[-1] in secret, setting.option
        else:
            assert not secret.intersection(setting.path), setting.option
            assert not [word for word in setting.path if pattern.search(word) and word not in unlike], setting.option


@pytest.mark.parametrize("setting", ["auth.sms.test_otp=1:2", "auth.providers.google.secret=x", 'env={"A_TOKEN": "x"}'])
def test_secrets_are_refused_on_the_command_line(front: Front, setting: str) -> None:
    assert front.run("create", "acme", "--set", setting).returncode == 2


@pytest.mark.parametrize(
    "setting", ["keys.opaque=true", "auth.password_min_length=10", "auth.rate_limits.token_refresh=9"]
)
def test_what_only_looks_like_a_secret_is_taken(front: Front, setting: str) -> None:
    assert front.run("create", "acme", "--set", setting).returncode == 0
