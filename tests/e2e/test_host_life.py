# SPDX-License-Identifier: GPL-3.0-or-later
"""A host is rebooted with a stack running, given back, taken again, and given back for good; seen from outside.

A reboot is `docker restart` or `docker kill` of the test host: systemd and the Engine in it end, in order or not, and
start again on the same disk. The tests build on each other, in order.
"""

from __future__ import annotations

import json
import random
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Dict, Iterator, List

import pytest
import yaml

from e2e.server import REPOSITORY, ROOT, SCENARIO, Server
from figures import record
from leaks import LeakScanner

NAME = "life"
SANDBOX = [sys.executable, str(REPOSITORY / "tests" / "sandbox" / "sandbox.py"), "host"]
BOOT_SECONDS = 120
OFF = ("functions", "imgproxy", "meta", "realtime", "storage", "studio", "supavisor")
HTTP = """
import urllib.request
with urllib.request.urlopen(urllib.request.Request(data["url"], headers=data["headers"]), timeout=15) as answer:
    result = answer.status
"""


@pytest.fixture(scope="module")
def life(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A host of its own, bare. Removed at the end."""
    work = tmp_path_factory.mktemp(NAME)
    inventory = work / "inventory"
    shutil.copytree(SCENARIO / "inventory", inventory)
    container = "multibase-sandbox-" + NAME
    hosts = inventory / "hosts.yml"
    hosts.write_text(hosts.read_text().replace("multibase-sandbox-molecule", container))
    path = inventory / "group_vars" / "multibase_hosts" / "main.yml"
    variables = yaml.safe_load(path.read_text())
    variables["multibase_instances"] = [{"name": "acme", "size": "small", "services": dict.fromkeys(OFF, False)}]
    path.write_text(yaml.safe_dump(variables))
    (work / "ara").mkdir(mode=0o700)
    subprocess.run([*SANDBOX, "down", NAME], check=True, capture_output=True)
    subprocess.run([*SANDBOX, "up", NAME], check=True, capture_output=True)
    try:
        yield Server(inventory, work / "ara", LeakScanner(), {}, container=container)
    finally:
        subprocess.run([*SANDBOX, "down", NAME], check=True, capture_output=True)


def changed(output: str) -> int:
    """How many tasks changed something, by Ansible's recap."""
    (number,) = re.findall(r"^server .*changed=(\d+)", output, re.MULTILINE)
    return int(number)


def uninstall(life: Server, *words: str, succeeds: bool = True) -> subprocess.CompletedProcess[str]:
    return life.multibase("uninstall", *words, "--json", succeeds=succeeds)


def health(life: Server) -> Dict[str, str]:
    """Service -> how the Engine words it."""
    rows = life.run("docker", "ps", "--all", "--format", '{{.Label "com.docker.compose.service"}} {{.Status}}')
    return dict(line.split(" ", 1) for line in rows.splitlines())


def reboot(life: Server, *kinds: str) -> Dict[str, Any]:
    """Reboot the host, several times in a row where told so; return what its unit reports after the last boot."""
    for kind in kinds:
        subprocess.run(["docker", kind, life.container], check=True, capture_output=True)
        if kind == "kill":
            subprocess.run(["docker", "start", life.container], check=True, capture_output=True)
        if kind is not kinds[-1]:
            # Anywhere in the boot before.
            time.sleep(random.uniform(0, 8))
    end = time.monotonic() + BOOT_SECONDS
    while time.monotonic() < end:
        # Of this boot alone, and with the end of the unit.
        lines = life.run("journalctl", "-b", "-u", "multibase-stacks", "-o", "cat", "--no-pager", check=False)
        if re.search(r"^(Finished|Failed to start) multibase-stacks", lines, re.MULTILINE):
            return dict(json.loads(life.run("cat", ROOT + "/state/_boot.json")))
        time.sleep(0.3)
    raise AssertionError("no report {0} s after the boot: {1}".format(BOOT_SECONDS, lines))


def assert_up(life: Server) -> None:
    """All services are healthy, and an API answers."""
    assert set(health(life)) == {"db", "api-gw", "auth", "rest"}
    assert not [status for status in health(life).values() if "unhealthy" in status or not status.startswith("Up")]
    variables = life.variables("acme")
    url = "http://127.0.0.1:{0}/rest/v1/table".format(variables["API_GW_HTTP_PORT"])
    assert life.inside(HTTP, {"url": url, "headers": {"apikey": variables["ANON_KEY"]}}) == 200


def sql(life: Server, query: str) -> str:
    psql = ["psql", "-U", "postgres", "-h", "localhost", "-Atc", query]
    return life.run("docker", "exec", life.containers("acme")["db"], *psql).strip()


def test_nothing_is_done_on_a_host_that_never_had_it(life: Server) -> None:
    done = uninstall(life, "--confirm", "server")
    assert changed(done.stderr) == 0
    (told,) = json.loads(done.stdout)["hosts"]
    assert told["paths"] == told["volumes"] == told["packages"] == [] and told["data"] is False


def test_site(life: Server) -> None:
    life.multibase("site")
    assert_up(life)
    sql(life, "create table public.kept (id int); insert into public.kept values (42)")
    user = life.run("getent", "passwd", "multibase").strip().split(":")
    assert user[-1] == "/usr/sbin/nologin" and life.run("id", "-Gn", "multibase").split() == ["multibase"]
    assert life.run("systemctl", "is-enabled", "multibase-stacks").strip() == "enabled"
    nobody = ("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups")
    for path in ("", "/state", "/projects", "/backups", "/lib", "/log"):
        assert not life.succeeds(*nobody, "ls", ROOT + path), path
    assert life.succeeds(*nobody, "ls", ROOT + "/www")


@pytest.mark.parametrize("kinds", [["restart"], ["kill"], ["kill", "restart"]], ids="-".join)
def test_all_is_healthy_again_after_a_reboot(life: Server, kinds: List[str]) -> None:
    # As an interrupted restart of the stack leaves it: the Engine takes it for stopped by the user.
    life.run("docker", "stop", life.containers("acme")["auth"])
    started = time.monotonic()
    told = reboot(life, *kinds)
    name = "all healthy again after {0} of the host".format(" and ".join(kinds))
    record(name, round(time.monotonic() - started, 1), "s", "test_host_life")
    assert told["complete"] is True
    assert [(one["name"], one["health"]) for one in told["instances"]] == [("acme", "healthy")]
    assert_up(life)
    assert sql(life, "select id from public.kept") == "42"


def test_what_was_stopped_stays_so(life: Server) -> None:
    life.multibase("stop", "acme")
    told = reboot(life, "restart")
    assert [one["outcome"] for one in told["instances"]] == ["stopped"]
    assert not [status for status in health(life).values() if not status.startswith("Exited")]
    life.multibase("start", "acme")


def test_nothing_is_removed_without_the_right_words(life: Server) -> None:
    before = life.run("sh", "-c", "ls -R /etc /opt/multibase/bin | sha256sum; docker ps --all --quiet --no-trunc")
    for words in (["--confirm", "other"], ["--confirm", "server", "--delete-data", "--confirm-data", "/opt"]):
        assert uninstall(life, *words, succeeds=False).returncode != 0
    uninstall(life, "--check", "--delete-data", "--confirm-data", ROOT)
    after = life.run("sh", "-c", "ls -R /etc /opt/multibase/bin | sha256sum; docker ps --all --quiet --no-trunc")
    assert after == before


def test_a_final_backup_that_fails_stops_all(life: Server) -> None:
    database = life.containers("acme")["db"]
    life.run("docker", "pause", database)
    try:
        assert uninstall(life, "--confirm", "server", succeeds=False).returncode != 0
    finally:
        life.run("docker", "unpause", database)
    assert life.succeeds("test", "-x", ROOT + "/bin/multibase-host") and len(health(life)) == 4


def test_given_back_with_its_data_and_taken_again(life: Server) -> None:
    volumes = life.volumes("acme")
    (told,) = json.loads(uninstall(life, "--confirm", "server").stdout)["hosts"]
    assert told["data"] is True and [one["verified"] for one in told["final_backups"]] == [True]
    kept = {Path(row["path"]).name for row in told["paths"]}
    assert kept == {"projects", "backups", "state", "log", "registry.json"}
    assert [row["name"] for row in told["volumes"]] == volumes == life.volumes("acme")
    assert told["containers"] == told["networks"] == [] and life.run("docker", "ps", "--all", "--quiet") == ""
    found = life.run("sh", "-c", "ls -d /etc/*/*multibase* /etc/systemd/system/multibase* 2>/dev/null || true")
    # Hardening stays, and with the data the logins.
    hardening = ["/etc/modprobe.d/60-multibase.conf", "/etc/sysctl.d/60-multibase.conf"]
    assert set(found.split()) == {*hardening, "/etc/nginx/multibase"}
    assert set(life.run("ls", "/etc/nginx/multibase").split()) <= {"own", "people.htpasswd"}
    assert not life.succeeds("getent", "passwd", "multibase")
    secrets = life.run("sh", "-c", "ls {0}/state/backup-*.json 2>/dev/null || true".format(ROOT))
    assert secrets == "", "what may hold secrets of targets is gone"
    assert changed(uninstall(life, "--confirm", "server").stderr) == 0
    life.multibase("site")
    assert_up(life)
    assert sql(life, "select id from public.kept") == "42"


def test_given_back_with_everything(life: Server) -> None:
    words = ("--confirm", "server", "--delete-data", "--confirm-data", ROOT)
    (told,) = json.loads(uninstall(life, *words).stdout)["hosts"]
    assert told["paths"] == told["volumes"] == [] and told["data"] is False
    assert "docker.io" in told["packages"] and told["images"]
    assert not life.succeeds("test", "-e", ROOT) and life.volumes("acme") == []
