# SPDX-License-Identifier: GPL-3.0-or-later
"""One stack with logs, S3, PgBouncer and a database outside of it, run on a real Engine from the sandbox's images.

The database outside is one more container on the stack's network, as a user's own docker-compose.override.yml would add
it. Analytics, Vector and Storage are stand-ins here (tests/sandbox/images/standin), PgBouncer, PostgreSQL and Envoy are
real. What is claimed is read from the Engine, by SQL or over HTTP.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
import subprocess
import time
import urllib.request
from pathlib import Path
from typing import Any, Dict, Iterator

import docker
import pytest

from ansible_collections.multibase.supabase.plugins.module_utils import _gateway
from contract.stack import DEFINITION, RELEASE, SERVICES, canary, compose_environment, variable, variables

OVERLAYS = (
    "overlays/logs.yml", "overlays/pgbouncer.yml", "overlays/s3.yml", "overlays/external-postgres.yml",
    "overlays/expose-analytics.yml",
)  # fmt: skip
ON = ("analytics", "auth", "meta", "pgbouncer", "rest", "storage", "studio", "vector")
PORT_BASE = 30900
SUBNET = "10.219.255.192/26"
PASSWORD = "pw" + secrets.token_hex(12)
# The place of a database that is somebody else's.
OVERRIDE = """
services:
  elsewhere:
    extends: {file: docker-compose.yml, service: db}
    env_file: !reset []
"""


class Stack:
    """The stack's directory and what runs of it."""

    def __init__(self, directory: Path) -> None:
        self.name = "itest-ovl-" + secrets.token_hex(3)
        self.directory = directory
        self.client = docker.from_env()
        shutil.copytree(RELEASE, directory)
        for path, mode in DEFINITION["directories"].items():
            (directory / path).mkdir(exist_ok=True)
            (directory / path).chmod(int(mode, 8))
        ports = {port["variable"]: str(PORT_BASE + port["offset"]) for port in DEFINITION["ports"].values()}
        images = {variable("IMAGE", name): DEFINITION["image_sets"]["sandbox"][name] for name in SERVICES}
        values = variables(
            {
                **ports,
                **images,
                "COMPOSE_PROJECT_NAME": self.name,
                "COMPOSE_FILE": ":".join(("docker-compose.yml", *OVERLAYS, "docker-compose.override.yml")),
                "COMPOSE_PROFILES": ",".join(ON),
                "DOCKER_SOCKET_LOCATION": "/var/run/docker.sock",
                "MULTIBASE_INSTANCE": self.name,
                "MULTIBASE_PROJECT_DIR": str(directory),
                "MULTIBASE_SUBNET": SUBNET,
                "MULTIBASE_HEALTH_INTERVAL": "1s",
                "POSTGRES_HOST": "elsewhere",
                "POSTGRES_PORT": "5432",
                "POSTGRES_DB": "postgres",
                "POSTGRES_PASSWORD": PASSWORD,
                "JWT_EXPIRY": "3600",
                "POOLER_DEFAULT_POOL_SIZE": "5",
                "POOLER_MAX_CLIENT_CONN": "20",
                "STORAGE_S3_ENDPOINT": "http://s3.example.org",
                variable("CPU_SHARES", "rest"): "77",
            }
        )
        (directory / ".env").write_text("".join("{0}='{1}'\n".format(*item) for item in values.items()))
        (directory / "docker-compose.override.yml").write_text(OVERRIDE)
        (directory / "env").mkdir(exist_ok=True)
        (directory / "env" / "auth.env").write_text("GOTRUE_SMS_PROVIDER=twilio\nGOTRUE_SITE_URL=lost\n")
        gateway = _gateway.GatewaySpec(
            services=frozenset(ON),
            anon_key="a" * 40,
            service_role_key="s" * 40,
            dashboard_username="admin",
            dashboard_password="p" * 32,
            public_url="http://127.0.0.1:8000",
            issuer="http://127.0.0.1:8000/auth/v1",
            cors_origins=("http://127.0.0.1:8000",),
        )
        (directory / "volumes" / "api" / "envoy.json").write_text(_gateway.render(gateway))

    def compose(self, *words: str) -> subprocess.CompletedProcess[str]:
        """Run Compose in the stack's directory."""
        return subprocess.run(
            ["docker", "compose", *words],
            cwd=self.directory, env=compose_environment(), capture_output=True, text=True, check=False, timeout=240,
        )  # fmt: skip

    def container(self, service: str) -> Any:
        """Return a service's container."""
        label = ["com.docker.compose.project=" + self.name, "com.docker.compose.service=" + service]
        (found,) = self.client.containers.list(all=True, filters={"label": label})
        return found

    def environment(self, service: str) -> Dict[str, str]:
        """Return the environment that a container was given."""
        return dict(entry.split("=", 1) for entry in self.container(service).attrs["Config"]["Env"])

    def sql(self, user: str, password: str, statement: str) -> subprocess.CompletedProcess[str]:
        """Run a statement through PgBouncer, as a client on its port."""
        words = ["psql", "-h", "127.0.0.1", "-p", "6432", "-U", user, "-d", "postgres", "-Atc", statement]
        return subprocess.run(
            ["docker", "exec", "-e", "PGPASSWORD", self.container("pgbouncer").id, *words],
            env=dict(os.environ, PGPASSWORD=password), capture_output=True, text=True, check=False, timeout=60,
        )  # fmt: skip


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    made = Stack(tmp_path_factory.mktemp("overlays") / "project")
    try:
        started = made.compose("up", "--detach", "--wait", "--pull", "never")
        # Nobody waits for the database outside, so a service may be unhealthy until it is there.
        deadline = time.monotonic() + 90
        while started.returncode and time.monotonic() < deadline:
            time.sleep(2)
            started = made.compose("up", "--detach", "--wait", "--pull", "never")
        assert started.returncode == 0, started.stderr
        # PgBouncer may have tried before the database was there, and repeats that error for a second.
        while made.sql("postgres", PASSWORD, "select 1").returncode and time.monotonic() < deadline:
            time.sleep(0.2)
        yield made
    finally:
        made.compose("--profile", "*", "down", "--volumes", "--timeout", "2")


def test_what_runs(stack: Stack) -> None:
    found = stack.client.containers.list(all=True, filters={"label": "com.docker.compose.project=" + stack.name})
    services = {container.labels["com.docker.compose.service"]: container for container in found}
    assert set(services) == {"api-gw", "elsewhere", *ON}
    for name, container in services.items():
        assert container.attrs["State"]["Health"]["Status"] == "healthy", name
        assert container.labels["io.multibase.instance"] == stack.name
    assert services["rest"].attrs["HostConfig"]["CpuShares"] == 77
    assert services["vector"].labels["io.multibase.config"] == canary("MULTIBASE_CONFIG_VECTOR")


@pytest.mark.parametrize("role", ["postgres", "authenticator", "supabase_auth_admin"])
def test_every_role_logs_in_through_pgbouncer(stack: Stack, role: str) -> None:
    done = stack.sql(role, PASSWORD, "select current_user")
    assert done.stdout.strip() == role, done.stderr


def test_pgbouncer_checks_passwords(stack: Stack) -> None:
    done = stack.sql("postgres", "wrong", "select 1")
    assert done.returncode != 0
    assert "authentication failed" in done.stderr


def test_pgbouncer_is_told_how_to_pool(stack: Stack) -> None:
    text = stack.container("pgbouncer").exec_run(["cat", "/etc/pgbouncer/pgbouncer.ini"]).output.decode()
    wanted = {"pool_mode = transaction", "default_pool_size = 5", "max_client_conn = 20", "auth_type = scram-sha-256"}
    assert wanted <= set(text.splitlines())
    assert PASSWORD not in text


def test_storage_is_told_of_the_bucket(stack: Stack) -> None:
    environment = stack.environment("storage")
    assert environment["STORAGE_BACKEND"] == "s3"
    assert environment["GLOBAL_S3_ENDPOINT"] == "http://s3.example.org"
    assert environment["AWS_ACCESS_KEY_ID"] == ""


def test_logs(stack: Stack) -> None:
    assert stack.environment("studio")["ENABLED_FEATURES_LOGS_ALL"] == "true"
    mounts = {mount["Destination"]: mount for mount in stack.container("vector").attrs["Mounts"]}
    assert mounts["/var/run/docker.sock"]["RW"] is False
    assert mounts["/etc/vector"]["Source"] == str(stack.directory / "volumes" / "logs")
    assert not [mount for mount in stack.container("analytics").attrs["Mounts"] if "docker.sock" in mount["Source"]]
    url = "http://127.0.0.1:{0}/api/logs".format(PORT_BASE + DEFINITION["ports"]["analytics"]["offset"])
    with urllib.request.urlopen(url, timeout=10) as answer:
        assert json.load(answer)["service"] == "analytics"


def test_environment_file(stack: Stack) -> None:
    environment = stack.environment("auth")
    assert environment["GOTRUE_SMS_PROVIDER"] == "twilio"
    assert environment["GOTRUE_SITE_URL"] == canary("SITE_URL")
    assert "GOTRUE_SMS_PROVIDER" not in stack.environment("rest")
