# SPDX-License-Identifier: GPL-3.0-or-later
"""The service of the records: what the role writes, who may do what, and the upkeep on a real database of ARA's.

What systemd, nginx and PostgreSQL make of it is in tests/e2e/test_ara.py.
"""

from __future__ import annotations

import gzip
import importlib.metadata
import json
import os
import re
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Any, Dict, List, Optional, Set

import pytest
import yaml
from ansible.parsing.dataloader import DataLoader
from ansible.template import Templar, trust_as_template
from packaging.requirements import Requirement

from unit.support import REPOSITORY

ROLE = REPOSITORY / "roles" / "multibase_ara"
FILES = ROLE / "files"
sys.path.insert(0, str(FILES))
from multibase_ara import serve, upkeep  # noqa: E402

POSTGRESQL = {"host": "db.example.com", "name": "runs"}


def trusted(value: Any) -> Any:
    """Mark every string of a role's file as a template, as Ansible does when it reads the file.

    In this process Ansible's loader of collections is not in charge (it would hide ours from the other tests), so its
    own lookups go by their short names.
    """
    if isinstance(value, str):
        return trust_as_template(value.replace("'ansible.builtin.", "'"))
    if isinstance(value, dict):
        return {key: trusted(item) for key, item in value.items()}
    return [trusted(item) for item in value] if isinstance(value, list) else value


def expand(text: str, seen: Optional[Dict[str, Any]] = None, **variables: Any) -> Any:
    """Let Ansible expand a template with the role's variables, as on a host with Python 3.13."""
    known: Dict[str, Any] = {}
    for name in ("defaults", "vars"):
        known.update(trusted(yaml.safe_load((ROLE / name / "main.yml").read_text(encoding="utf-8"))))
    said = {
        "python": {"stdout": "3.13"}, "packages": {"stdout_lines": ["installed python3-venv"]},
        "environments": {"stdout_lines": []}, "members": {"stdout": ""}, **(seen or {}),
    }  # fmt: skip
    known.update({"role_path": str(ROLE), "__multibase_ara_seen": {"said": said}, **variables})
    return Templar(loader=DataLoader(), variables=known).template(trust_as_template(text))


def written(name: str, **variables: Any) -> str:
    """What a template becomes; what it includes is put into it first, as its own loader would."""
    text = (ROLE / "templates" / name).read_text(encoding="utf-8")
    hardening = (ROLE / "templates" / "hardening.j2").read_text(encoding="utf-8")
    return str(expand(text.replace("{% include 'hardening.j2' %}", hardening), **variables))


# --- what is installed -----------------------------------------------------------------------------------------------


def plain(name: str) -> str:
    """A package's name as indexes know it, without extras."""
    return re.sub(r"[-_.]+", "-", re.sub(r"\[.*\]", "", name)).lower()


def pins(path: Path) -> Dict[str, str]:
    """Name in small letters -> version of a list of packages."""
    lines = [line for line in path.read_text(encoding="utf-8").splitlines() if "==" in line and line[0] != "#"]
    return {plain(name): version for name, version in (line.split("==") for line in lines)}


def closure(wanted: List[str]) -> Set[str]:
    """Names of all that these packages need on a host, as those installed here say."""
    found: Set[str] = set()
    todo = [Requirement(text) for text in wanted]
    while todo:
        one = todo.pop()
        key = "{0}[{1}]".format(one.name.lower(), ",".join(sorted(one.extras)))
        if key in found:
            continue
        found.add(key)
        for text in importlib.metadata.requires(one.name) or []:
            needed = Requirement(text)
            pythons = ("3.10", "3.11", "3.13")
            places = [{"extra": extra, "python_version": it} for extra in ("", *one.extras) for it in pythons]
            if needed.marker is None or any(needed.marker.evaluate(place) for place in places):
                todo.append(needed)
    return {plain(key) for key in found}


def test_hosts_get_the_versions_that_the_repository_pins_and_all_that_they_need() -> None:
    base, more = (pins(FILES / name) for name in ("requirements.txt", "requirements-postgresql.txt"))
    ours = pins(REPOSITORY / "requirements.txt")
    for name, version in {**base, **more}.items():
        assert ours[name] == version, name
    assert set(base) == closure(["ara[server]", "gunicorn"])
    assert set(base) | set(more) == closure(["ara[server]", "gunicorn", "psycopg[binary]"])


def test_another_list_or_python_is_another_environment() -> None:
    places = {
        str(expand("{{ __multibase_ara_environment }}", seen={"python": {"stdout": python}}, **given))
        for python in ("3.12", "3.13")
        for given in ({}, {"multibase_ara_database": POSTGRESQL})
    }
    assert len(places) == 4
    assert all(re.fullmatch(r"/opt/multibase/ara/venv-[0-9a-f]{12}", place) for place in places)


def test_an_environment_that_is_not_whole_is_made_anew_and_others_go() -> None:
    place = str(expand("{{ __multibase_ara_environment }}"))
    other = "/opt/multibase/ara/venv-000000000000"
    lines = [other, other + "/complete", place]
    for complete in (False, True):
        seen = {"environments": {"stdout_lines": lines + ([place + "/complete"] if complete else [])}}
        assert expand("{{ __multibase_ara_complete }}", seen=seen) is complete
        assert expand("{{ __multibase_ara_stale }}", seen=seen) == [other]


# --- what is written -------------------------------------------------------------------------------------------------


def test_settings_hold_no_secret_and_the_right_names() -> None:
    given = {
        "multibase_ara_database": POSTGRESQL, "multibase_ara_database_password": "canary",
        "multibase_proxy_ara_domain": "ara.example.com", "multibase_ara_hosts": ["ara.internal"],
        "multibase_proxy_sites": {"_ara": {"aliases": ["runs.example.com"]}},
    }  # fmt: skip
    for more in ({}, {"multibase_ara_database": {}}):
        text = written("settings.json.j2", **{**given, **more})
        settings = json.loads(text)["default"]
        assert settings["ALLOWED_HOSTS"] == ["localhost", "ara.example.com", "runs.example.com", "ara.internal"]
        assert settings["DEBUG"] is False and settings["CORS_ORIGIN_WHITELIST"] == []
        assert settings["SECRET_KEY"].startswith("@read_file /opt/multibase/ara/etc/") and "canary" not in text
        assert settings["DATABASE_ENGINE"].endswith("sqlite3" if more else "postgresql")
    for name in ("multibase-ara.service.j2", "multibase-ara-upkeep.service.j2"):
        assert "canary" not in written(name, **given)
    entry = expand("{{ __multibase_ara_password_file }}", **given)
    assert (entry["mode"], entry["owner"], entry["diff"], entry["state"]) == ("0600", "multibase-ara", False, "file")
    assert expand("{{ __multibase_ara_password_file.state }}") == "absent"


def test_only_with_postgresql_there_is_a_network() -> None:
    for name in ("multibase-ara.service.j2", "multibase-ara-upkeep.service.j2"):
        closed, opened = written(name), written(name, multibase_ara_database=POSTGRESQL)
        assert "PrivateNetwork=yes" in closed and "RestrictAddressFamilies=AF_UNIX\n" in closed
        assert "PrivateNetwork" not in opened and "RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6\n" in opened
        for text in (closed, opened):
            assert {"User=multibase-ara", "ProtectSystem=strict", "NoNewPrivileges=yes"} <= set(text.splitlines())


def test_every_unit_says_whose_it_is() -> None:
    for path in expand("{{ __multibase_ara_unit_files }}"):
        assert written(os.path.basename(path) + ".j2").startswith("# Written by Multibase")


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ({}, []),
        ({"multibase_ara_database": {**POSTGRESQL, "sslmode": "verify-full"}, "multibase_ara_keep_days": 0}, []),
        ({"multibase_ara_database": {"password": "x"}}, ["multibase_ara_database: no key password", "host is needed"]),
        ({"multibase_ara_database": {**POSTGRESQL, "sslmode": "off"}}, ["sslmode"]),
        ({"multibase_ara_database_password": "a\nb"}, ["multibase_ara_database_password"]),
        ({"multibase_ara_index": "https://packages.example.com/simple"}, []),
        ({"multibase_ara_index": "https://a\n[global]"}, ["multibase_ara_index"]),
        ({"multibase_ara_upkeep_schedule": "daily\nExecStart=x"}, ["multibase_ara_upkeep_schedule"]),
        ({"multibase_ara_keep_backups": 0}, ["multibase_ara_keep_backups"]),
        ({"multibase_ara_keep_days": -1}, ["multibase_ara_keep_days"]),
        ({"multibase_ara_users": ["alice", "-x"]}, ["multibase_ara_users: -x"]),
        ({"multibase_proxy_ara_writers": ["a b"]}, ["multibase_proxy_ara_writers: a b"]),
        ({"multibase_root": "/opt/a b"}, ["multibase_root"]),
    ],
)
def test_mistakes_are_named(given: Dict[str, Any], named: List[str]) -> None:
    found = expand("{{ __multibase_ara_mistakes }}", **given)
    assert len(found) == len(named), found
    assert all(part in text for part, text in zip(named, found))


# --- who may do what -------------------------------------------------------------------------------------------------

PROXY, RECORD = "/run/multibase-ara/ara.sock", "/run/multibase-ara/record.sock"
JSON = "application/json"


@pytest.mark.parametrize(
    ("socket", "method", "path", "user", "kind", "status"),
    [
        (PROXY, "GET", "/", None, "", None),
        (PROXY, "HEAD", "/api/v1/playbooks", "alice", "", None),
        (PROXY, "GET", "/admin/", "ci", "", "404"),
        (PROXY, "GET", "/admin", "ci", "", "404"),
        (PROXY, "POST", "/admin/login/", "ci", JSON, "404"),
        (PROXY, "POST", "/api/v1/playbooks", None, JSON, "405"),
        (PROXY, "POST", "/api/v1/playbooks", "alice", JSON, "405"),
        (PROXY, "POST", "/api/v1/playbooks", "", JSON, "405"),
        (PROXY, "POST", "/api/v1/playbooks", "ci", JSON, None),
        (PROXY, "PATCH", "/api/v1/playbooks/7", "ci", JSON + "; charset=utf-8", None),
        (PROXY, "DELETE", "/api/v1/playbooks/7", "ci", JSON, "405"),
        (PROXY, "PUT", "/api/v1/playbooks/7", "ci", JSON, "405"),
        (PROXY, "POST", "/api/v1/labels", "ci", JSON, "405"),
        (PROXY, "POST", "/api/v1/playbooks/7/../../admin", "ci", JSON, "405"),
        # What a form on somebody else's site can send.
        (PROXY, "POST", "/api/v1/playbooks", "ci", "text/plain", "415"),
        (PROXY, "POST", "/api/v1/playbooks", "ci", "", "415"),
        (RECORD, "POST", "/api/v1/playbooks", None, "", None),
        (RECORD, "DELETE", "/api/v1/playbooks/7", None, "", None),
        # Any other socket is the proxy's.
        ("", "POST", "/api/v1/playbooks", None, JSON, "405"),
    ],
)
def test_who_may_do_what(
    socket: str, method: str, path: str, user: Optional[str], kind: str, status: Optional[str]
) -> None:
    environ = {"REQUEST_METHOD": method, "PATH_INFO": path, "CONTENT_TYPE": kind}
    if user is not None:
        environ["HTTP_X_REMOTE_USER"] = user
    refused = serve.refusal(environ, socket, ["ci"])
    assert (refused and refused[:3]) == status


# --- upkeep ----------------------------------------------------------------------------------------------------------

RECORDS = """
import datetime, os, sys
import django
django.setup()
from django.core.management import call_command
call_command("migrate", verbosity=0)
from ara.api import models
import hashlib, random, zlib
now = datetime.datetime.now(datetime.timezone.utc)
shared = None
for age in map(float, sys.argv[1:]):
    playbook = models.Playbook.objects.create(
        ansible_version="2", path="/p", arguments=b"", status="completed", started=now - datetime.timedelta(days=age)
    )
    playbook.labels.add(models.Label.objects.get_or_create(name="age:{0:g}".format(age))[0])
    for number in range(20):
        # The first file is the same in all runs.
        text = b"shared" if not number else random.randbytes(4000)
        content = models.FileContent.objects.get_or_create(
            sha1=hashlib.sha1(text).hexdigest(), defaults={"contents": text}
        )[0]
        models.File.objects.create(playbook=playbook, path=str(number), content=content)
    models.Host.objects.create(playbook=playbook, name="h1", facts=b"")
stuck = models.Playbook.objects.create(ansible_version="2", path="/p", arguments=b"", status="running", started=now)
models.Playbook.objects.filter(pk=stuck.pk).update(updated=now - datetime.timedelta(days=2))
"""


def ara(directory: Path, *argv: str) -> subprocess.CompletedProcess[str]:
    """Run Python as the service does, on a database in ``directory``."""
    settings = {
        "default": {
            "BASE_DIR": str(directory), "SECRET_KEY": "x", "LOG_LEVEL": "WARNING",
            "DATABASE_NAME": str(directory / "ansible.sqlite"),
            "DATABASE_OPTIONS": {"init_command": "PRAGMA journal_mode = WAL; PRAGMA secure_delete = ON;"},
        }
    }  # fmt: skip
    (directory / "settings.json").write_text(json.dumps(settings))
    environment = {
        **os.environ, "ARA_BASE_DIR": str(directory), "ARA_SETTINGS": str(directory / "settings.json"),
        "DJANGO_SETTINGS_MODULE": "ara.server.settings", "PYTHONPATH": str(FILES),
    }  # fmt: skip
    return subprocess.run([sys.executable, *argv], env=environment, capture_output=True, text=True, check=False)


def count(directory: Path, table: str) -> int:
    with sqlite3.connect(directory / "ansible.sqlite") as database:
        return int(database.execute("SELECT COUNT(*) FROM " + table).fetchone()[0])


def test_upkeep_deletes_for_good_what_is_old_and_nothing_else(tmp_path: Path) -> None:
    assert ara(tmp_path, "-c", RECORDS, "1", "40", "50", "60").returncode == 0
    assert (count(tmp_path, "file_contents"), count(tmp_path, "labels")) == (4 * 19 + 1, 4)
    backups = tmp_path / "backups"
    backups.mkdir()
    nowhere = tmp_path / "nowhere.sock"
    argv = ["-m", "multibase_ara.upkeep", "--days", "30", "--backups", "2", "--socket", str(nowhere), str(backups)]
    done = ara(tmp_path, *argv)
    # All is done, and it says that nobody answers.
    assert done.returncode == 1 and "does not answer at" in done.stderr
    told = json.loads(done.stdout)
    assert (told["pruned"], told["expired"], told["answers"]) == (3, 1, False)
    assert told["orphans"] == {"contents": 3 * 19, "labels": 3}
    assert told["bytes_before"] - told["bytes_after"] > 3 * 19 * 4000 * 0.9
    tables = ("playbooks", "files", "file_contents", "labels", "latest_hosts")
    assert [count(tmp_path, table) for table in tables] == [2, 20, 20, 1, 0]
    with sqlite3.connect(tmp_path / "ansible.sqlite") as database:
        assert {row[0] for row in database.execute("SELECT status FROM playbooks")} == {"completed", "expired"}
    # What was deleted is in the backup from before it.
    (path,) = backups.iterdir()
    assert path.stat().st_mode & 0o077 == 0 or os.umask(0o077) != 0o077
    copy = tmp_path / "copy.sqlite"
    copy.write_bytes(gzip.decompress(path.read_bytes()))
    with sqlite3.connect(copy) as database:
        assert database.execute("SELECT COUNT(*) FROM playbooks").fetchone() == (5,)
    again = json.loads(ara(tmp_path, *argv).stdout)
    assert (again["pruned"], again["expired"]) == (0, 0) and again["bytes_after"] == told["bytes_after"]


def test_nothing_is_deleted_without_a_backup_and_0_days_keep_all(tmp_path: Path) -> None:
    assert ara(tmp_path, "-c", RECORDS, "1", "4000").returncode == 0
    argv = ["-m", "multibase_ara.upkeep", "--backups", "2", "--socket", "/nowhere"]
    done = ara(tmp_path, *argv, "--days", "30", str(tmp_path / "missing"))
    assert done.returncode == 1 and "backup:" in done.stderr and count(tmp_path, "playbooks") == 3
    (tmp_path / "there").mkdir()
    assert json.loads(ara(tmp_path, *argv, "--days", "0", str(tmp_path / "there")).stdout)["pruned"] == 0


def test_a_copy_that_is_not_sound_is_no_backup(tmp_path: Path) -> None:
    database = tmp_path / "a.sqlite"
    with sqlite3.connect(database) as made:
        made.execute("CREATE TABLE t (x)")
        made.executemany("INSERT INTO t VALUES (?)", [(b"x" * 3000,)] * 50)
        made.execute("CREATE INDEX i ON t (x)")
    made.close()
    with open(database, "r+b") as stream:
        stream.seek(4096 * 40)
        stream.write(b"\xff" * 4096 * 3)
    with pytest.raises((upkeep.NotWell, sqlite3.DatabaseError)):
        upkeep.back_up_sqlite(database, tmp_path / "ara-1.sqlite.gz")
    assert [path.name for path in tmp_path.iterdir()] == ["a.sqlite"]


def test_the_newest_backups_are_kept_of_both_kinds(tmp_path: Path) -> None:
    names = ["ara-20260101T000000Z.dump", "ara-20260102T000000Z.sqlite.gz", "ara-20260103T000000Z.dump"]
    for name in [*names, "ara-notes.txt", ".staged-ara-20260104T000000Z.dump"]:
        (tmp_path / name).touch()
    assert upkeep.thin_out(tmp_path, 2) == names[:1]
    assert sorted(path.name for path in tmp_path.glob("ara-*")) == [*names[1:], "ara-notes.txt"]


def test_passwords_for_pg_dump_are_written_as_libpq_reads_them() -> None:
    assert upkeep._pass_line("*", "a:b", "c\\d") == "*:a\\:b:c\\\\d\n"


def test_a_service_that_is_ill_is_told(tmp_path: Path) -> None:
    import socketserver
    import threading

    class Ill(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            self.rfile.readline()
            self.wfile.write(b"HTTP/1.0 500 No\r\nContent-Length: 4\r\n\r\nill\n")

    path = str(tmp_path / "s.sock")
    with socketserver.UnixStreamServer(path, Ill) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            with pytest.raises(upkeep.NotWell, match=r"/healthcheck/ says 500: b'ill"):
                upkeep.ask(path)
        finally:
            server.shutdown()
            thread.join()
