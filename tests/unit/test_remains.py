# SPDX-License-Identifier: GPL-3.0-or-later
"""What of Multibase is on a host: found by name and mark, sized, and never more than is ours."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any, Dict, List, Sequence

import pytest
import yaml

from ansible_collections.multibase.supabase.plugins.module_utils import _process, _remains
from ansible_collections.multibase.supabase.plugins.module_utils._engine import Engine
from ansible_collections.multibase.supabase.plugins.module_utils._process import Completed
from unit.support import FakeDocker

MODULE = importlib.import_module("ansible_collections.multibase.supabase.plugins.modules.remains_info")


def really(argv: Sequence[str], timeout: float) -> Completed:
    return _process.run(argv, "/", _process.clean_environment(), timeout)


def write(system: Path, path: str, text: str = "# Written by Multibase.\n") -> str:
    file = system / path.lstrip("/")
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)
    return str(file)


def test_files_are_ours_by_name_and_mark(tmp_path: Path) -> None:
    ours = [
        write(tmp_path, "/etc/systemd/system/multibase-stacks.service"),
        write(tmp_path, "/etc/systemd/system/multibase-firewall.service", "[Unit]\nDescription=Multibase firewall\n"),
        write(tmp_path, "/etc/systemd/system/nginx.service.d/multibase.conf"),
        write(tmp_path, "/etc/cron.d/multibase"),
        write(tmp_path, "/etc/logrotate.d/multibase"),
        write(tmp_path, "/etc/nginx/conf.d/multibase.conf"),
        write(tmp_path, "/etc/letsencrypt/renewal-hooks/deploy/multibase.sh"),
    ]
    write(tmp_path, "/etc/multibase/firewall.nft", "table inet multibase {}\n")
    write(tmp_path, "/etc/nginx/multibase/sites/acme.conf", "server {}\n")
    ours += [str(tmp_path / "etc/multibase"), str(tmp_path / "etc/nginx/multibase/sites")]
    kept = [
        # Somebody else's, whatever its name.
        write(tmp_path, "/etc/cron.d/multibase-mine", "0 0 * * * root true\n"),
        write(tmp_path, "/etc/nginx/conf.d/multibase-old.conf", "server {}\n"),
        write(tmp_path, "/etc/nginx/multibase/people.htpasswd", "admin:$2y$12$x\n"),
        write(tmp_path, "/etc/sysctl.d/90-multibase.conf"),
        write(tmp_path, "/etc/docker/daemon.json", "{}"),
    ]
    write(tmp_path, "/etc/nginx/multibase/own/acme/privkey.pem", "key")
    kept.append(str(tmp_path / "etc/nginx/multibase/own"))
    write(tmp_path, "/etc/cron.d/other", "# Multibase\n")
    write(tmp_path, "/etc/nginx/conf.d/default.conf")
    told = _remains.files(str(tmp_path))
    assert {row["path"] for row in told if not row["kept"]} == set(ours)
    assert {row["path"] for row in told if row["kept"]} == set(kept)
    assert [row["path"] for row in told] == sorted(row["path"] for row in told)


def test_nothing_is_found_where_nothing_is(tmp_path: Path) -> None:
    assert _remains.files(str(tmp_path)) == []
    assert _remains.children(str(tmp_path / "nothing")) == [] and not _remains.holds_data(str(tmp_path / "nothing"))

    def missing(_argv: Sequence[str], _timeout: float) -> Completed:
        raise FileNotFoundError("nft")

    assert _remains.has_table(missing) is False and _remains.packages(["nginx"], missing) == []


@pytest.mark.parametrize("kind", ["projects", "backups", "exports"])
def test_what_is_data(tmp_path: Path, kind: str) -> None:
    for name in ("projects", "backups", "state", "log"):
        (tmp_path / name).mkdir()
    (tmp_path / "state" / "acme.json").touch()
    assert not _remains.holds_data(str(tmp_path))
    (tmp_path / kind / "acme").mkdir(parents=True)
    assert _remains.holds_data(str(tmp_path))


def test_mounts_at_and_below_the_root() -> None:
    lines = [
        "22 1 8:1 / / rw,relatime - ext4 /dev/sda1 rw",
        "23 22 8:2 / /opt/multibase/backups rw - ext4 /dev/sdb1 rw",
        "24 22 8:3 / /opt/multibase/a\\040b rw - ext4 /dev/sdc1 rw",
        "25 22 8:4 / /opt/multibase2 rw - ext4 /dev/sdd1 rw",
    ]
    text = "\n".join(lines)
    assert _remains.mounts_below("/opt/multibase", text) == ["/opt/multibase/a b", "/opt/multibase/backups"]
    assert _remains.mounts_below("/opt/multibase/backups", text) == ["/opt/multibase/backups"]


def test_sizes_are_those_of_the_disk(tmp_path: Path) -> None:
    (tmp_path / "one two").mkdir()
    (tmp_path / "one two" / "file").write_bytes(b"x" * 100_000)
    told = _remains.sizes([str(tmp_path / "one two"), str(tmp_path / "gone")], really)
    assert list(told) == [str(tmp_path / "one two")] and told[str(tmp_path / "one two")] >= 100_000


def test_only_installed_packages_count() -> None:
    def dpkg(argv: Sequence[str], _timeout: float) -> Completed:
        assert argv[0] == "dpkg-query"
        return Completed(1, "installed nginx\nconfig-files docker.io\nnot-installed age\n", "no packages found")

    assert _remains.packages(["nginx", "docker.io", "age"], dpkg) == ["nginx"]


def test_what_the_engine_has_is_told_apart_by_label() -> None:
    docker = FakeDocker()
    docker.add("multibase-acme", "db", instance="acme")
    docker.add("blog", "web")
    mine: Dict[str, Any] = {"Labels": {"io.multibase.instance": "acme"}}
    docker.network_rows = [{"Name": "multibase-acme_default", **mine}, {"Name": "bridge", "Labels": None}]
    docker.volume_rows = [{"Name": "config", "Mountpoint": "/nowhere", **mine}, {"Name": "blog", "Labels": None}]
    docker.image_rows = [{"Id": "sha256:1", "RepoTags": ["db:17"], "Size": 7}, {"Id": "sha256:2", "RepoTags": None}]
    told = _remains.of_engine(Engine(docker), True, really)
    assert [row["name"] for row in told["containers"]] == ["multibase-acme-db-1"] and told["others"] == ["blog-web-1"]
    assert [(row["name"], row["instance"]) for row in told["networks"]] == [("multibase-acme_default", "acme")]
    assert [(row["name"], row["bytes"]) for row in told["volumes"]] == [("config", 0)]
    assert told["images"] == [{"name": "db:17", "bytes": 7}, {"name": "sha256:2", "bytes": 0}]


def test_the_module_documents_what_it_takes_and_tells(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    options = set(yaml.safe_load(MODULE.DOCUMENTATION)["options"]) | {"root", "docker_host"}
    params = {"root": str(tmp_path), "docker_host": "unix:///nowhere", "sizes": True, "packages": []}
    assert set(params) == options
    monkeypatch.setattr(MODULE.shutil, "which", lambda *_args, **_options: None)
    told = MODULE.survey(params)
    assert set(told) == set(yaml.safe_load(MODULE.RETURN)["remains"]["contains"])
    assert told["engine"] == "absent" and told["root"] == [] and "no Docker Engine" in told["problem"]


def test_the_role_keeps_what_the_survey_calls_data(tmp_path: Path) -> None:
    role = Path(__file__).resolve().parents[2] / "roles" / "multibase_uninstall"
    variables = yaml.safe_load((role / "vars" / "main.yml").read_text())
    known: List[str] = variables["__multibase_uninstall_known"]
    assert {"projects", "backups", "exports", "state"} <= set(known)
    for kind in ("projects", "backups", "exports", "state", "log", "registry.json"):
        assert repr(kind) in variables["__multibase_uninstall_keep"], kind
    # The order that loses nothing: look, back up, and only then remove.
    steps = [task["ansible.builtin.import_tasks"] for task in yaml.safe_load((role / "tasks" / "main.yml").read_text())]
    assert steps[:2] == ["preflight.yml", "backup.yml"]
