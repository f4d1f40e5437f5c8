# SPDX-License-Identifier: GPL-3.0-or-later
"""What of Multibase is on a host: found by name and mark, sized, and never more than is ours."""

from __future__ import annotations

import fnmatch
import importlib
import re
from pathlib import Path
from typing import Any, Dict, List, Sequence

import pytest
import yaml

from ansible_collections.multibase.supabase.plugins.module_utils import _nginx, _process, _remains
from ansible_collections.multibase.supabase.plugins.module_utils._engine import Engine
from ansible_collections.multibase.supabase.plugins.module_utils._process import Completed
from unit.support import REPOSITORY, FakeDocker

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


def test_every_file_that_a_role_puts_below_etc_is_known() -> None:
    patterns = [place.pattern for place in _remains.PLACES]
    named = set()
    for path in (REPOSITORY / "roles").rglob("*.yml"):
        if path.parent.name in ("tasks", "vars"):
            named |= set(re.findall(r"(?<![\w.])/etc/[\w./@-]*multibase[\w./@-]*", path.read_text(encoding="utf-8")))
    # Staged beside its place, and renamed.
    named -= {"/etc/ssh/multibase-new.conf"}
    assert len(named) > 10
    assert [one for one in sorted(named) if not any(fnmatch.fnmatch(one, p) or one.startswith(p + "/") or
            p.startswith(one + "/") for p in patterns)] == []  # fmt: skip


def test_what_the_proxy_uses_elsewhere_is_known(tmp_path: Path) -> None:
    patterns = [place.pattern for place in _remains.PLACES]
    used = (_nginx.LOGIN_SOCKET, _nginx.LOGIN_CACHE, _nginx.PEOPLE_FILE, _nginx.ACCESS_LOG, _nginx.ERROR_LOG)
    assert [path for path in used if not any(fnmatch.fnmatch(path, pattern) for pattern in patterns)] == []
    left = ["/run/multibase-proxy/ab", "/etc/nginx/multibase/.staged-1/site-acme.conf", "/etc/nginx/.multibase-1.conf"]
    for path in [*left, _nginx.ACCESS_LOG, _nginx.ACCESS_LOG + ".2.gz"]:
        write(tmp_path, path, "x")
    assert {row["path"][len(str(tmp_path)) :]: (row["kind"], row["kept"]) for row in _remains.files(str(tmp_path))} == {
        "/run/multibase-proxy": ("runtime", False),
        "/etc/nginx/multibase/.staged-1": ("nginx", False),
        "/etc/nginx/.multibase-1.conf": ("nginx", False),
        _nginx.ACCESS_LOG: ("logs", True),
        _nginx.ACCESS_LOG + ".2.gz": ("logs", True),
    }


def test_lines_of_nginx_conf_are_told_and_given_back(tmp_path: Path) -> None:
    main = "user www-data;\nevents {\n\tworker_connections 768;\n\tmulti_accept on;\n}\nhttp {\n}\n"
    roomy = _nginx.roomy_main(main)
    write(tmp_path, "/etc/nginx/nginx.conf", main)
    assert _remains.files(str(tmp_path)) == []
    path = write(tmp_path, "/etc/nginx/nginx.conf", roomy)
    lines = ["worker_rlimit_nofile 32768;", "worker_connections 8192;"]
    assert _remains.files(str(tmp_path)) == [{"path": path, "kind": "nginx.conf", "kept": True, "lines": lines}]

    role = yaml.safe_load((REPOSITORY / "roles" / "multibase_uninstall" / "vars" / "main.yml").read_text())
    given = [(row["regexp"], row["replace"]) for row in role["__multibase_uninstall_main_lines"]]
    assert given == [_nginx.RAISED, _nginx.ADDED]

    def given_back(text: str) -> str:
        for pattern, replacement in given:
            text = re.sub(pattern, replacement, text, flags=re.MULTILINE)
        return text

    assert given_back(roomy) == main and given_back(main) == main
    # A number that somebody else wrote since, or that nobody says anything of, stays.
    assert "\tworker_connections 9000;\n" in given_back(roomy.replace("8192;", "9000;"))
    unsaid = re.sub(r"[ \t]*# Multibase.*\n", "", roomy)
    assert "worker_connections 8192;" in unsaid and given_back(unsaid) == unsaid


def test_passwords_that_nobody_took_are_told_with_the_logins(tmp_path: Path) -> None:
    path = write(tmp_path, "/state/people/admin.password", "x")
    assert _remains.untaken_passwords(str(tmp_path)) == [{"path": path, "kind": "logins", "kept": True}]
    assert _remains.untaken_passwords(str(tmp_path / "nothing")) == []


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
    # What the proxy remembers is written anew; logins stay, and so do passwords that nobody has taken yet.
    assert "state/proxy" in variables["__multibase_uninstall_settings"]
    assert not [path for path in variables["__multibase_uninstall_settings"] if path.startswith("state/people")]
    # The order that loses nothing: look, back up, and only then remove.
    steps = [task["ansible.builtin.import_tasks"] for task in yaml.safe_load((role / "tasks" / "main.yml").read_text())]
    assert steps[:2] == ["preflight.yml", "backup.yml"]
