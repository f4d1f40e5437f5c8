# SPDX-License-Identifier: GPL-3.0-or-later
"""What the sampler says beside what Docker and PostgreSQL say themselves, on a real Engine.

Two containers of this test stand for an instance: a database of the sandbox, and one that is busy for a third of a
processor. The Engine that is away is one that was never there: that of the machine is shared.
"""

from __future__ import annotations

import json
import os
import signal
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Dict, Iterator, List

import docker
import pytest
from jsonschema import Draft202012Validator

from ansible_collections.multibase.supabase.plugins.module_utils import _engine_socket
from ansible_collections.multibase.supabase.plugins.module_utils._container_readings import Containers
from ansible_collections.multibase.supabase.plugins.module_utils._engine import DEFAULT_HOST
from ansible_collections.multibase.supabase.plugins.module_utils._layout import Layout
from ansible_collections.multibase.supabase.plugins.module_utils._sampler import Sampler
from unit.support import REPOSITORY, converge, env_of, item

LIVE = Draft202012Validator(json.loads((REPOSITORY / "docs" / "schemas" / "live.schema.json").read_text()))
MODULE_UTILS = REPOSITORY / "collections" / "multibase" / "plugins" / "module_utils"
BUSY = 0.3
LIMIT = 64 << 20
CANARY = "Canary47110815"


class Stack:
    """An instance's files, and two containers with its labels."""

    def __init__(self, root: Path) -> None:
        converge(root, item("statsprobe"))
        self.layout = Layout(str(root))
        self.client = docker.from_env()
        password = env_of(root, "statsprobe")["POSTGRES_PASSWORD"]
        self.containers: Dict[str, Any] = {}
        try:
            self.containers["db"] = self._run(
                "db", "multibase-sandbox/db:17", environment={"POSTGRES_PASSWORD": password, "PGPASSWORD": password}
            )
            self.containers["auth"] = self._run(
                "auth",
                "multibase-sandbox/standin:2",
                entrypoint=["sh", "-c", "while :; do :; done"],
                cpu_period=100_000,
                cpu_quota=int(BUSY * 100_000),
                mem_limit=LIMIT,
                init=True,
            )
        except BaseException:
            self.remove()
            raise

    def _run(self, service: str, image: str, **options: Any) -> Any:
        labels = {
            "com.docker.compose.project": "multibase-statsprobe",
            "com.docker.compose.service": service,
            "io.multibase.instance": "statsprobe",
        }
        return self.client.containers.run(image, labels=labels, detach=True, **options)

    def psql(self, sql: str) -> str:
        """Run SQL in the database container."""
        command = ["docker", "exec", "-i", self.containers["db"].id, "psql", "-qAt", "-h", "127.0.0.1"]
        command += ["-U", "supabase_admin", "-d", "postgres", "-v", "ON_ERROR_STOP=1"]
        return subprocess.run(command, input=sql, capture_output=True, text=True, check=True).stdout.strip()

    def ready(self) -> None:
        """Wait until the database answers over the network."""
        deadline = time.monotonic() + 60
        while True:
            try:
                self.psql("SELECT 1")
                return
            except subprocess.CalledProcessError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.5)

    def remove(self) -> None:
        """Remove the containers."""
        for container in self.containers.values():
            container.remove(force=True, v=True)


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    made = Stack(tmp_path_factory.mktemp("stats"))
    try:
        made.ready()
        yield made
    finally:
        made.remove()


def sampler(layout: Layout, docker_host: str = DEFAULT_HOST) -> Sampler:
    return Sampler(layout, lambda: _engine_socket.connect(docker_host, 10.0), print)


def services(live: Dict[str, Any]) -> Dict[str, Dict[str, Any]]:
    """The services of the instance that have a container, by name."""
    LIVE.validate(live)
    (instance,) = live["instances"]
    return {service["name"]: service for service in instance["services"] if service["container"]}


def docker_stats(stack: Stack) -> Dict[str, Dict[str, str]]:
    """What `docker stats` says of the containers, by service."""
    command = ["docker", "stats", "--no-stream", "--no-trunc", "--format", "{{json .}}"]
    command += [container.id for container in stack.containers.values()]
    rows = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    by_id = {row["ID"]: row for row in map(json.loads, rows)}
    return {service: by_id[container.id] for service, container in stack.containers.items()}


def test_figures_are_those_of_docker(stack: Stack) -> None:
    looking = sampler(stack.layout)
    looking.look(time.time())
    ours: List[float] = []
    theirs: List[float] = []
    for _number in range(5):
        told = docker_stats(stack)
        seen = services(looking.look(time.time()))
        ours.append(seen["auth"]["use"]["cpu_percent"])
        theirs.append(float(told["auth"]["CPUPerc"].rstrip("%")))
    assert statistics.median(ours) == pytest.approx(statistics.median(theirs), abs=2)
    for service, container in stack.containers.items():
        about = container.stats(stream=False)
        use = seen[service]["use"]
        assert use["processes"] == about["pids_stats"]["current"]
        assert use["memory_raw_bytes"] == pytest.approx(about["memory_stats"]["usage"], rel=0.2)
        assert 0 < use["memory_bytes"] <= use["memory_raw_bytes"]
        (network,) = about["networks"].values()
        assert use["network_received_bytes"] == pytest.approx(network["rx_bytes"], rel=0.2, abs=5000)
    assert seen["auth"]["use"]["memory_limit_bytes"] == LIMIT and seen["db"]["use"]["memory_limit_bytes"] is None
    assert seen["auth"]["health"] == seen["db"]["health"] == "running", "they have no health check"
    assert (seen["auth"]["restarts"], seen["auth"]["state"]) == (0, "running")


def test_where_the_kernel_s_files_are_out_of_reach_the_engine_is_asked(stack: Stack, tmp_path: Path) -> None:
    elsewhere = Containers(lambda: _engine_socket.connect(DEFAULT_HOST, 10.0), str(tmp_path))
    here = Containers(lambda: _engine_socket.connect(DEFAULT_HOST, 10.0), "/proc")
    ids = {container.id for container in stack.containers.values()}
    figures = []
    for looking in (elsewhere, here):
        for _number in range(2):
            listed = [one for one in looking.look() or [] if one.id in ids]
            uses = looking.uses(listed)
            time.sleep(2)
        figures.append(uses)
    assert set(figures[0]) == set(figures[1]) == ids
    for container in ids:
        engines, kernels = (uses[container] for uses in figures)
        assert engines["cpu_percent"] == pytest.approx(kernels["cpu_percent"], abs=5)
        assert engines["memory_bytes"] == pytest.approx(kernels["memory_bytes"], rel=0.3)
        assert engines["processes"] == kernels["processes"]


def test_figures_of_the_database_and_no_secret_of_its_statements(stack: Stack) -> None:
    stack.psql("CREATE EXTENSION IF NOT EXISTS pg_stat_statements SCHEMA extensions")
    stack.psql(f"CREATE ROLE statsprobe LOGIN PASSWORD '{CANARY}'")
    stack.psql(f"ALTER ROLE statsprobe PASSWORD '{CANARY}'")
    stack.psql(f"/* {CANARY} */ SELECT count(*) /* {CANARY} */ FROM generate_series(1, 300000) -- {CANARY}\n")
    stack.psql(f"SELECT sum(n) /* {CANARY} */ FROM generate_series(1, 250000) n")
    stack.psql(f"SELECT max(n) FROM (SELECT '{CANARY}', n FROM generate_series(1, 200000) n) q")
    known = stack.psql("SELECT string_agg(query, ' ') FROM extensions.pg_stat_statements")
    assert CANARY in known, "else the test would show nothing"
    live = sampler(stack.layout).once(time.time())
    services(live)
    figures = live["instances"][0]["database"]
    size = int(stack.psql("SELECT sum(pg_database_size(oid)) FROM pg_database WHERE datallowconn"))
    assert figures["size_bytes"] == pytest.approx(size, rel=0.05)
    assert figures["max_connections"] == int(stack.psql("SHOW max_connections"))
    assert 0 < figures["cache_hit_ratio"] <= 1 and figures["wal_bytes"] > 0
    shown = [query["query"] for query in figures["slow_queries"]]
    assert "SELECT count(*) FROM generate_series($1, $2)" in shown and len(shown) <= 5
    assert not [query for query in shown if "multibase" in query], "it does not tell of itself"
    assert CANARY not in json.dumps(live)


def test_a_restart_between_two_looks_is_noticed(stack: Stack) -> None:
    looking = sampler(stack.layout)
    looking.look(time.time())
    time.sleep(1)
    before = services(looking.look(time.time()))["auth"]
    assert before["use"]["cpu_percent"] > 0
    stack.containers["auth"].restart(timeout=1)
    after = services(looking.look(time.time()))["auth"]
    assert after["started_at"] > before["started_at"]
    assert after["use"]["cpu_percent"] is None and after["use"]["memory_bytes"] > 0
    time.sleep(1)
    assert services(looking.look(time.time()))["auth"]["use"]["cpu_percent"] == pytest.approx(100 * BUSY, abs=15)


def test_an_engine_that_is_away_and_an_end_at_once(stack: Stack, tmp_path: Path) -> None:
    library = tmp_path / "lib"
    library.mkdir()
    (library / "multibase").symlink_to(MODULE_UTILS)
    program = "import sys; sys.path.insert(0, sys.argv.pop(1)); from multibase._sample import main; main(sys.argv[1:])"
    command = [sys.executable, "-I", "-c", program, str(library), "--root", stack.layout.root]
    command += ["--docker-host", f"unix://{tmp_path}/docker.sock"]
    Path(stack.layout.live).unlink(missing_ok=True)
    with open(tmp_path / "said", "wb") as said:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=said, stderr=said)
        try:
            deadline = time.monotonic() + 20
            while not os.path.exists(stack.layout.live) and time.monotonic() < deadline:
                time.sleep(0.1)
            live = json.loads(Path(stack.layout.live).read_text())
            asked = time.monotonic()
            process.send_signal(signal.SIGTERM)
            assert process.wait(timeout=10) == 0
            assert time.monotonic() - asked < 2
        finally:
            process.kill()
            process.wait()
    LIVE.validate(live)
    assert live["host"]["engine"]["reachable"] is False
    assert "there is no Docker Engine at" in live["host"]["engine"]["trouble"]
    assert live["instances"][0]["state"] == "unknown"
    assert {service["health"] for service in live["instances"][0]["services"]} == {"unknown"}
    assert (tmp_path / "said").read_text().count("there is no Docker Engine") == 1
