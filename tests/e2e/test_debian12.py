# SPDX-License-Identifier: GPL-3.0-or-later
"""A bare Debian 12 server with its own Engine 20.10 and a given Compose plugin, looked at from outside, in order."""

from __future__ import annotations

import json
import re
import shutil
from typing import Iterator

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


def test_check_mode_on_a_bare_host_works_and_changes_nothing(server: Server) -> None:
    def fingerprint() -> str:
        find = "find /etc /opt /usr /root /var/lib/dpkg /srv -xdev -printf '%p %m %s %T@\\n' | sort | sha256sum"
        return server.run("sh", "-c", find)

    assert server.run("cat", "/etc/debian_version").startswith("12.")
    before = fingerprint()
    output = server.molecule("check")
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


def test_another_compose_is_announced_before_it_recreates_anything(server: Server) -> None:
    given = str(REPOSITORY / ".cache" / "compose" / "docker-compose-5.6.1")
    before = server.containers("acme")
    done = server.multibase("site", "--check", "--", "-e", "multibase_docker_compose_plugin=" + given)
    assert re.search(r"2\.26\.1\S*\s+would become\s+5\.6\.1", done.stdout + done.stderr)
    assert "acme (2.26.1" in done.stdout + done.stderr
    assert server.containers("acme") == before
    assert server.run("docker", "compose", "version", "--short").strip().lstrip("v").startswith("2.26.1")
