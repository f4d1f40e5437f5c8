# SPDX-License-Identifier: GPL-3.0-or-later
"""A bare Debian 12 server with its own Engine 20.10 and a given Compose plugin, looked at from outside, in order."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import time
from datetime import datetime
from pathlib import Path
from typing import Dict, Iterator

import pytest

from e2e.server import REPOSITORY, ROOT, Server
from e2e.test_server import http, recap_changed
from leaks import LeakScanner

SCENARIO = REPOSITORY / "tests" / "molecule" / "debian12"
PLUGIN = "/usr/local/lib/docker/cli-plugins/docker-compose"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A host of Debian 12, bare at first. Removed at the end."""
    work = tmp_path_factory.mktemp("debian12")
    inventory = work / "inventory"
    shutil.copytree(SCENARIO / "inventory", inventory)
    (work / "ara").mkdir(mode=0o700)
    made = Server(
        inventory, work / "ara", LeakScanner(), {}, container="multibase-sandbox-molecule12", scenario=SCENARIO.name
    )
    made.molecule("destroy")
    try:
        made.molecule("create")
        yield made
    finally:
        made.command("molecule destroy", ["molecule", "destroy", "--scenario-name", SCENARIO.name], succeeds=False)


@pytest.fixture(scope="module")
def restarted(server: Server) -> int:
    """When the Engine was restarted under running containers. Their checks take half a minute to come round."""
    server.run("systemctl", "restart", "docker")
    return int(server.run("date", "+%s"))


def test_check_mode_on_a_bare_host_works_and_changes_nothing(server: Server) -> None:
    def fingerprint() -> str:
        # Ansible's own working directory is not meant: it keeps one wherever a file would be copied.
        places = "find /etc /opt /usr /root /var/lib/dpkg /srv -xdev -path /root/.ansible -prune -o ! -path /root"
        return server.run("sh", "-c", places + " -printf '%p %m %s %T@\\n' | sort | sha256sum")

    assert server.run("cat", "/etc/debian_version").startswith("12.")
    before = fingerprint()
    output = server.molecule("check", verbose=True)
    assert fingerprint() == before
    assert "acme" in output and "docker.io" in output


def test_site_and_again_without_a_change(server: Server) -> None:
    server.molecule("converge")
    assert recap_changed(server.molecule("idempotence"))[-1:] == [0]
    server.molecule("verify")


def test_engine_is_the_distributions_and_compose_the_given_one(server: Server) -> None:
    assert server.run("docker", "version", "--format", "{{.Server.Version}}").startswith("20.10.")
    assert server.run("docker", "compose", "version", "--short").strip().lstrip("v").startswith("2.26.1")
    assert server.run("stat", "--format", "%a %U", PLUGIN).strip() == "755 root"
    assert "docker-compose" not in server.run("dpkg-query", "--show", "--showformat", "${Package}\\n")
    settings = json.loads(server.run("cat", "/etc/docker/daemon.json"))
    assert settings["live-restore"] is True and settings["ip"] == "127.0.0.1"
    assert server.run("docker", "info", "--format", "{{.LiveRestoreEnabled}}").strip() == "true"


def test_gateway_lets_in_who_has_the_right_key(server: Server) -> None:
    variables = server.variables("acme")
    base = "http://127.0.0.1:" + variables["API_GW_HTTP_PORT"]
    keys = [{}, {"apikey": "wrong"}, {"apikey": variables["ANON_KEY"]}]
    answers = http(server, [{"url": base + "/rest/v1/table", "headers": headers} for headers in keys])
    assert [answer[0] for answer in answers] == [401, 401, 200]


def test_backup_is_taken_and_verified(server: Server) -> None:
    server.multibase("backup", "acme")
    manifests = server.run("sh", "-c", "cat {0}/backups/acme/*.manifest.json".format(ROOT))
    assert json.loads(manifests)["verified"]["rows"] > 0


def test_containers_survive_a_restart_of_the_engine(server: Server, restarted: int) -> None:
    form = "{{.Created}} {{.State.StartedAt}} {{.State.Running}}"
    for identity in server.containers("acme").values():
        created, started, running = server.run("docker", "inspect", "--format", form, identity).split()
        assert running == "true" and datetime.fromisoformat(started[:19] + "+00:00").timestamp() < restarted
        assert created < started


def test_images_travel_in_a_bundle(server: Server, tmp_path: Path) -> None:
    tag = "registry.multibase.test:5000/multibase-sandbox/pgbouncer:1"
    given = json.dumps({"multibase_bundle": str(tmp_path), "multibase_bundle_images": [tag]})

    def play(name: str, succeeds: bool = True) -> str:
        words = ["ansible-playbook", "-i", str(server.inventory), "playbooks/{0}.yml".format(name), "-e", given]
        done = server.command("playbook " + name, words, succeeds=succeeds)
        assert succeeds or done.returncode != 0
        return done.stdout + done.stderr

    play("bundle")
    subprocess.run(["sha256sum", "--check", "--strict", "SHA256SUMS"], cwd=tmp_path, check=True, capture_output=True)
    assert recap_changed(play("bundle"))[-1:] == [0]
    identity = server.run("docker", "image", "inspect", "--format", "{{.Id}}", tag)
    server.run("docker", "rmi", tag)
    (archive,) = tmp_path.glob("*.tar.gz")
    whole = archive.read_bytes()
    archive.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    assert "is damaged" in play("load", succeeds=False)
    assert not server.succeeds("docker", "image", "inspect", tag)
    archive.write_bytes(whole)
    play("load")
    assert server.run("docker", "image", "inspect", "--format", "{{.Id}}", tag) == identity
    assert recap_changed(play("load"))[-1:] == [0]
    # Another image under that name is not lost without a word.
    server.run("docker", "tag", "registry.multibase.test:5000/multibase-sandbox/standin:2", tag)
    assert tag in play("load", succeeds=False)
    assert server.run("docker", "image", "inspect", "--format", "{{.Id}}", tag) != identity
    assert server.run("sh", "-c", "ls -d /var/tmp/multibase-bundle-* || true") == ""


def test_health_checks_go_on_after_the_engine_restarted(server: Server, restarted: int) -> None:
    """Engine 20.10 forgets those of containers that it finds running; the role's drop-in starts them again."""
    containers = server.containers("acme")

    def last() -> Dict[str, int]:
        form = "{{range .State.Health.Log}}{{.Start.Unix}} {{end}}"
        found = {name: server.run("docker", "inspect", "--format", form, each) for name, each in containers.items()}
        return {name: int(times.split()[-1]) for name, times in found.items() if times.split()}

    deadline = time.monotonic() + 45
    while time.monotonic() < deadline and min(last().values()) < restarted:
        time.sleep(1)
    assert min(last().values()) >= restarted, last()


def test_another_compose_is_announced_before_it_recreates_anything(server: Server) -> None:
    given = str(REPOSITORY / ".cache" / "compose" / "docker-compose-5.6.1")
    before = server.containers("acme")
    words = ["ansible-playbook", "-i", str(server.inventory), "playbooks/site.yml", "--check", "--tags", "docker"]
    done = server.command("playbook site", [*words, "-e", "multibase_docker_compose_plugin=" + given])
    said = " ".join(done.stdout.split())
    assert re.search(r"2\.26\.1 would become 5\.6\.1\.", said) and "acme (2.26.1)" in said
    assert server.containers("acme") == before
    assert server.run("docker", "compose", "version", "--short").strip().lstrip("v").startswith("2.26.1")
