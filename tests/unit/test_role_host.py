# SPDX-License-Identifier: GPL-3.0-or-later
"""What the role gives to every host: its tool, its directories, the rotation of its logs, the unit for boots."""

from __future__ import annotations

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
from unit.support import PLUGINS, REPOSITORY, expand_for_role

ROLE = REPOSITORY / "roles" / "multibase_host"
SOURCES = PLUGINS / "module_utils"
ROOT = "/opt/multibase"


def load(name: str) -> Any:
    """Read a YAML file of the role."""
    return yaml.safe_load((ROLE / name).read_text(encoding="utf-8"))


def expand(directory: Path, texts: Sequence[str], **variables: Any) -> List[str]:
    """Have Ansible expand templates of the role, or expressions, in one run."""
    return expand_for_role(directory, ROLE, texts, {"multibase_host_tool_source": str(SOURCES), **variables})


# Directories


def test_other_users_list_nothing_but_what_is_served(tmp_path: Path) -> None:
    root = str(tmp_path / "else where")
    (told,) = expand(tmp_path, ["{{ __multibase_host_directories | to_json }}"], multibase_root=root)
    wanted = json.loads(told)
    assert wanted[0] == {"path": root, "state": "directory", "mode": "0711"}
    for entry in wanted:
        # The module's own default for owner and group is root.
        assert set(entry) == {"path", "state", "mode"} and entry["path"].startswith(root)
        assert entry["path"] == root + "/www" or not int(entry["mode"], 8) & 0o4, entry
        assert not int(entry["mode"], 8) & 0o022, entry


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
    library = tmp_path / "lib" / "multibase"
    shutil.copytree(SOURCES, library, ignore=shutil.ignore_patterns("__pycache__"))
    (library / "__init__.py").touch()
    commands = load("tasks/look.yml")[0]["multibase.supabase.look"]["commands"]

    def compare() -> Tuple[List[str], List[str]]:
        """What is wrong and what is stale, by what the role's own commands say of the library."""
        said: Dict[str, Any] = {}
        for name in ("sums", "modes"):
            argv = [*commands[name][:-1], str(library)]
            done = subprocess.run(argv, capture_output=True, text=True, check=False)
            said[name] = {"stdout_lines": done.stdout.splitlines()}
        # The files of a test are not root's.
        owners = " {0} {1}".format(os.getuid(), os.getgid())
        modes = said["modes"]["stdout_lines"]
        said["modes"]["stdout_lines"] = [line.replace(owners, " 0 0") for line in modes]
        texts = ["{{ __multibase_host_tool_" + which + " | sort | to_json }}" for which in ("wrong", "stale")]
        wrong, stale = expand(tmp_path, texts, __multibase_host_seen={"said": said})
        return json.loads(wrong), json.loads(stale)

    for source in library.iterdir():
        source.chmod(0o644)
    everything = sorted(source.name for source in SOURCES.glob("*.py") if source.name != "__init__.py")
    assert compare() == ([], [])
    (library / "_jwt.py").chmod(0o600)
    (library / "_kong.py").write_text("another\n")
    shutil.copy(SOURCES / "_tool.py", library / "_gone.py")
    assert compare() == (["_jwt.py", "_kong.py"], [ROOT + "/lib/multibase/_gone.py"])
    shutil.rmtree(library)
    assert compare() == (everything, [])


def test_only_named_files_are_packed_and_in_one_go(tmp_path: Path) -> None:
    tasks = load("tasks/copy_tool.yml")
    (block,) = [task["block"] for task in tasks if "block" in task]
    assert not any("loop" in task for task in block)
    (packs,) = [task["ansible.builtin.command"]["argv"] for task in block if "ansible.builtin.command" in task]
    expression = "{{ (" + packs.strip().strip("{}") + ") | to_json }}"
    (told,) = expand(tmp_path, [expression], __multibase_host_archive={"path": "/tmp/x.tar.gz"})
    argv = json.loads(told)
    names = argv[argv.index("--mode=0644") + 1 :]
    assert "_tool.py" in names and all(re.fullmatch(r"_\w+\.py", name) for name in names)


# The user


def test_the_user_is_left_alone_where_it_is_right(tmp_path: Path) -> None:
    """As the role's own command tells of a user: here of one that every system has."""
    (command,) = [load("tasks/look.yml")[0]["multibase.supabase.look"]["commands"]["user"]]
    argv = [part.replace("multibase", "nobody") for part in command]
    told = subprocess.run(argv, capture_output=True, text=True, check=False).stdout.splitlines()
    # Without root nobody is told whether a password is locked.
    assert told[0] == "nobody:nobody:/nonexistent:/usr/sbin/nologin" and told[1] == "nogroup"
    (wanted,) = expand(tmp_path, ["{{ __multibase_host_user_wanted | to_json }}"], multibase_root="/srv/mb")
    assert json.loads(wanted) == ["multibase:Multibase:/srv/mb:/usr/sbin/nologin", "multibase", "L"]


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
    write, enable = load("tasks/files.yml")
    assert "state" not in enable["ansible.builtin.systemd_service"]
    assert enable["ansible.builtin.systemd_service"]["enabled"] is True
    assert write["notify"] == load("handlers/main.yml")[0]["name"]


def test_the_user_has_no_login_and_no_rights() -> None:
    _group, user = load("tasks/user.yml")
    options = user["ansible.builtin.user"]
    assert options["shell"] == "/usr/sbin/nologin" and options["password_lock"] is True
    assert options["groups"] == [] and options["create_home"] is False and options["system"] is True
