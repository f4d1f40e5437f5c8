# SPDX-License-Identifier: GPL-3.0-or-later
"""What the role gives to every host: its tool, its directories, the rotation of its logs, the unit for boots."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any, Dict, List, Sequence, Tuple

import yaml

from ansible_collections.multibase.supabase.plugins.module_utils import _backup_job, _tool
from unit.support import PLUGINS, REPOSITORY

ROLE = REPOSITORY / "roles" / "multibase_host"
SOURCES = PLUGINS / "module_utils"
ROOT = "/opt/multibase"


def load(name: str) -> Any:
    """Read a YAML file of the role."""
    return yaml.safe_load((ROLE / name).read_text(encoding="utf-8"))


def expand(directory: Path, texts: Sequence[str], **variables: Any) -> List[str]:
    """Have Ansible expand templates of the role, or expressions, in one run."""
    known = {
        **load("defaults/main.yml"),
        **load("vars/main.yml"),
        "multibase_host_tool_source": str(SOURCES),
        **variables,
    }
    tasks: List[Dict[str, Any]] = []
    for number, text in enumerate(texts):
        if text.endswith(".j2"):
            file = ROLE / "templates" / text
        else:
            file = directory / "{0}.j2".format(number)
            file.write_text(text)
        module = {"src": str(file), "dest": str(directory / str(number)), "mode": "0600"}
        tasks.append({"name": "Expand", "ansible.builtin.template": module})
    play = {"hosts": "localhost", "gather_facts": False, "vars": known, "tasks": tasks}
    (directory / "play.yml").write_text(yaml.safe_dump([play]))
    done = subprocess.run(
        [str(REPOSITORY / ".venv" / "bin" / "ansible-playbook"), "-i", "localhost,", "-c", "local", "play.yml"],
        env={
            **os.environ, "ANSIBLE_CONFIG": str(REPOSITORY / "ansible.cfg"), "ANSIBLE_CALLBACK_PLUGINS": "",
            "ANSIBLE_PYTHON_INTERPRETER": sys.executable,
        },
        cwd=directory, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return [(directory / str(number)).read_text() for number in range(len(texts))]


# Directories


def directories(tmp_path: Path, there: List[str], **variables: Any) -> Tuple[List[str], List[str]]:
    """What is wanted, and what of it is wrong when ``stat`` printed ``there``."""
    texts = ["{{ __multibase_host_directories_" + which + " | to_json }}" for which in ("wanted", "wrong")]
    found = {"stdout_lines": there}
    wanted, wrong = expand(tmp_path, texts, __multibase_host_directories_there=found, **variables)
    return json.loads(wanted), json.loads(wrong)


def test_directories_are_made_only_where_something_is_wrong(tmp_path: Path) -> None:
    wanted, wrong = directories(tmp_path, [])
    assert wrong == wanted and wanted[0] == "711 root root directory /opt/multibase"
    assert directories(tmp_path, wanted)[1] == []
    bad = [*wanted[:-1], wanted[-1].replace("root root", "root www-data")]
    assert directories(tmp_path, bad)[1] == wanted[-1:]


def test_other_users_list_nothing_but_what_is_served(tmp_path: Path) -> None:
    root = str(tmp_path / "else where")
    wanted, _wrong = directories(tmp_path, [], multibase_root=root)
    for line in wanted:
        mode, owner, group, _kind, path = line.split(" ", 4)
        assert (owner, group) == ("root", "root") and path.startswith(root)
        assert path == root + "/www" or not int(mode, 8) & 0o4, path
        assert not int(mode, 8) & 0o022, path
    # As GNU's stat prints them, byte for byte.
    (tmp_path / "else where").mkdir()
    (tmp_path / "else where").chmod(0o711)
    done = subprocess.run(
        ["stat", "--format=%a %U %G %F %n", root], capture_output=True, text=True, check=True
    ).stdout.splitlines()
    assert done[0].split(" ")[0] == "711" and done[0].endswith("directory " + root)


# Logs


def test_logs_are_rotated(tmp_path: Path) -> None:
    (text,) = expand(tmp_path, ["logrotate.j2"])
    pattern, _brace, rest = text.split("\n", 1)[1].partition(" {\n")
    assert pattern == "/opt/multibase/log/*.log"
    told = {line.strip() for line in rest.splitlines()} - {"}"}
    assert told == {"weekly", "rotate 8", "compress", "missingok", "notifempty", "create 0640 root root"}


# The tool


def test_the_launcher_runs_from_any_root(tmp_path: Path) -> None:
    root = tmp_path / "else where"
    shutil.copytree(SOURCES, root / "lib" / "multibase", ignore=shutil.ignore_patterns("__pycache__"))
    (root / "lib" / "multibase" / "__init__.py").touch()
    (root / "bin").mkdir()
    launcher = root / "bin" / "multibase-host"
    launcher.write_text(expand(tmp_path, ["multibase-host.j2"], multibase_root=str(root))[0])
    assert launcher.read_text().startswith("#!/usr/bin/python3 -I\n")

    def run(*arguments: str) -> str:
        command = [sys.executable, "-I", str(launcher), *arguments]
        done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path, timeout=60)
        assert done.returncode == 0, done.stderr
        return done.stdout

    assert "usage: multibase-host" in run("--help")
    run("metrics")
    assert (root / _backup_job.METRICS_FILE).is_file(), "the launcher hands its root on"


def test_the_host_is_compared_with_what_is_shipped(tmp_path: Path) -> None:
    library = ROOT + "/lib/multibase"
    there = [
        {
            "path": library + "/" + source.name, "checksum": hashlib.sha256(source.read_bytes()).hexdigest(),
            "mode": "0644", "uid": 0, "gid": 0,
        }
        for source in SOURCES.glob("*.py")
    ]  # fmt: skip
    empty = {"path": library + "/__init__.py", "checksum": hashlib.sha256(b"").hexdigest(), "mode": "0644"}
    there.append({**empty, "uid": 0, "gid": 0})

    def compare(files: List[Dict[str, Any]]) -> Tuple[List[str], List[str]]:
        texts = ["{{ __multibase_host_tool_" + which + " | sort | to_json }}" for which in ("wrong", "stale")]
        wrong, stale = expand(tmp_path, texts, __multibase_host_found={"files": files})
        return json.loads(wrong), json.loads(stale)

    everything = sorted(source.name for source in SOURCES.glob("*.py") if source.name != "__init__.py")
    assert compare(there) == ([], [])
    assert compare([]) == (everything, [])
    changed = [dict(one) for one in there]
    by_name = {Path(one["path"]).name: one for one in changed}
    by_name["_jwt.py"]["mode"] = "0600"
    by_name["_kong.py"]["checksum"] = "0" * 64
    changed.append({**by_name["_tool.py"], "path": library + "/_gone.py"})
    assert compare(changed) == (["_jwt.py", "_kong.py"], [library + "/_gone.py"])


def test_only_named_files_are_packed_and_in_one_go(tmp_path: Path) -> None:
    tasks = load("tasks/tool.yml")
    (block,) = [task["block"] for task in tasks if "block" in task]
    assert not any("loop" in task for task in block)
    (packs,) = [task["ansible.builtin.command"]["argv"] for task in block if "ansible.builtin.command" in task]
    expression = "{{ (" + packs.strip().strip("{}") + ") | to_json }}"
    (told,) = expand(tmp_path, [expression], __multibase_host_archive={"path": "/tmp/x.tar.gz"})
    argv = json.loads(told)
    names = argv[argv.index("--mode=0644") + 1 :]
    assert "_tool.py" in names and all(re.fullmatch(r"_\w+\.py", name) for name in names)


# The unit


def test_the_unit_calls_what_the_tool_knows(tmp_path: Path) -> None:
    (text,) = expand(
        tmp_path, ["multibase-stacks.service.j2"], multibase_root="/srv/mb", multibase_host_boot_timeout="90"
    )
    assert ROOT not in text
    rows = [line.partition("=") for line in text.splitlines() if "=" in line and not line.startswith("#")]
    unit: Dict[str, List[str]] = {}
    for key, _equals, value in rows:
        unit.setdefault(key, []).append(value)
    (command,) = unit["ExecStart"]
    tool, *words = command.split()
    assert tool == "/srv/mb/bin/multibase-host"
    args = _tool.build_parser().parse_args(words)
    assert (args.command, args.parallel, args.timeout) == ("boot", 4, 90.0)
    assert int(unit["TimeoutStartSec"][0]) > args.timeout + args.engine_timeout
    assert "docker.service" in unit["After"][0] and unit["WantedBy"] == ["multi-user.target"]
    # A restart of Docker is no boot.
    assert not {"PartOf", "Requires", "BindsTo"} & set(unit)
    assert unit["ReadWritePaths"] == ["/srv/mb/state"] and unit["NoNewPrivileges"] == ["yes"]


def test_the_unit_is_enabled_and_never_started() -> None:
    write, enable = load("tasks/boot.yml")
    assert "state" not in enable["ansible.builtin.systemd_service"]
    assert enable["ansible.builtin.systemd_service"]["enabled"] is True
    assert write["notify"] == load("handlers/main.yml")[0]["name"]


def test_the_user_has_no_login_and_no_rights() -> None:
    _group, user = load("tasks/user.yml")
    options = user["ansible.builtin.user"]
    assert options["shell"] == "/usr/sbin/nologin" and options["password_lock"] is True
    assert options["groups"] == [] and options["create_home"] is False and options["system"] is True
