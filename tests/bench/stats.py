# SPDX-License-Identifier: GPL-3.0-or-later
"""Samples of many containers, beside `docker stats --no-stream` in the same run; and what the sampler itself costs.

The containers are on this machine's own Engine, without a network, and gone afterwards. Measured are whole processes.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import secrets
import socket
import statistics
import struct
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Dict, Iterator, List, Optional, Sequence, Tuple

import docker

from ansible_collections.multibase.supabase.plugins.module_utils import _engine_socket
from ansible_collections.multibase.supabase.plugins.module_utils._container_readings import Containers
from ansible_collections.multibase.supabase.plugins.module_utils._engine import DEFAULT_HOST
from ansible_collections.multibase.supabase.plugins.module_utils._layout import Layout
from bench.bench import BenchError, Run, Series, progress, result_line

BASELINE = "docker stats --no-stream"
IMAGE = "multibase-sandbox/standin:2"
SIZES = [10, 50, 130]
SERVICES = 10
# Processors that a container uses all the time; the rest sleeps.
LOADS = (0.3, 0.15)
_IDLE_SECONDS = 120
_FEWEST_ROUNDS = 5
# What bin/multibase-host does with the word sample.
_PROGRAM = (
    "import sys; sys.path.insert(0, sys.argv.pop(1)); from multibase._sample import main; sys.exit(main(sys.argv[1:]))"
)
_MODULE_UTILS = Path(_engine_socket.__file__).parent


class Fleet:
    """Instances of ten services each in a root of their own, as far as sampling goes: manifests and containers."""

    def __init__(self, directory: Path) -> None:
        self.layout = Layout(str(directory / "root"))
        self.library = directory / "lib"
        self.library.mkdir()
        (self.library / "multibase").symlink_to(_MODULE_UTILS)
        self.token = "bench-" + secrets.token_hex(4)
        self._client = docker.APIClient(version="auto")
        self.ids: List[str] = []

    def grow(self, n: int) -> None:
        """Have ``n`` containers."""
        with ThreadPoolExecutor(4) as pool:
            self.ids += list(pool.map(self._start, range(len(self.ids), n)))

    def _start(self, number: int) -> str:
        name = "{0}-{1:03d}".format(self.token, number // SERVICES)
        service = "s{0}".format(number % SERVICES)
        if number % SERVICES == 0:
            self._declare(name)
        load = LOADS[number] if number < len(LOADS) else None
        limits: Dict[str, Any] = {"cpu_period": 100_000, "cpu_quota": int(load * 100_000)} if load else {}
        made = self._client.create_container(
            IMAGE,
            entrypoint=["sh", "-c", "while :; do :; done" if load else "exec sleep infinity"],
            labels={
                "com.docker.compose.project": name,
                "com.docker.compose.service": service,
                "io.multibase.bench": "1",
            },
            host_config=self._client.create_host_config(network_mode="none", **limits),
        )
        self._client.start(made["Id"])
        return str(made["Id"])

    def _declare(self, name: str) -> None:
        manifest = {
            "schema": 1, "name": name, "project": name, "release": "0.8.2", "gateway": "envoy", "port_base": 20000,
            "subnet": "", "bind_address": "127.0.0.1", "ports": {}, "urls": {}, "size": "small", "salt": "",
            "services": ["s{0}".format(number) for number in range(SERVICES)], "secrets": {}, "managed": [],
            "declared": {},
        }  # fmt: skip
        path = Path(self.layout.manifest(name))
        path.parent.mkdir(parents=True)
        path.write_text(json.dumps(manifest), encoding="utf-8")

    def remove(self) -> None:
        """Remove the containers."""

        def one(container: str) -> None:
            with contextlib.suppress(docker.errors.APIError):
                self._client.remove_container(container, force=True, v=True)

        with ThreadPoolExecutor(4) as pool:
            list(pool.map(one, self.ids))

    def sample(self, *words: str) -> List[str]:
        """Return the command line of `multibase-host sample`."""
        return [sys.executable, "-I", "-c", _PROGRAM, str(self.library), "--root", self.layout.root, *words]


def measured(command: Sequence[str]) -> Tuple[Run, str]:
    """Run a command; return what the whole process cost, and what it printed. Raises BenchError when it fails."""
    with tempfile.TemporaryFile() as output, tempfile.TemporaryFile() as errors:
        started = time.perf_counter()
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=errors)
        _pid, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - started
        process.returncode = os.waitstatus_to_exitcode(status)
        output.seek(0)
        if process.returncode != 0:
            errors.seek(0)
            raise BenchError("{0} ended with {1}:\n{2}".format(command[0], process.returncode, errors.read().decode()))
        return Run(seconds, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024, 0), output.read().decode()


def ours_of(printed: str) -> Dict[str, Optional[float]]:
    """Return processor use by service and instance in a live document; only of what runs."""
    live = json.loads(printed)
    return {
        "{0}/{1}".format(instance["name"], service["name"]): service["use"]["cpu_percent"]
        for instance in live["instances"]
        for service in instance["services"]
        if service["state"] == "running"
    }


def theirs_of(printed: str) -> Dict[str, float]:
    """Return processor use by id in what `docker stats` printed."""
    rows = [line.split() for line in printed.splitlines()]
    return {row[0]: float(row[1].rstrip("%")) for row in rows}


def look_seconds(rounds: int) -> float:
    """Return what one look costs a process that goes on: the list of containers and all counters."""
    containers = Containers(lambda: _engine_socket.connect(DEFAULT_HOST, 10.0), "/proc")
    costs = []
    for number in range(rounds + 1):
        started = time.perf_counter()
        listed = containers.look()
        if listed is None:
            raise BenchError(containers.trouble)
        containers.uses(listed)
        # The first one inspects every container.
        if number:
            costs.append(time.perf_counter() - started)
    return statistics.median(costs)


def sample_case(fleet: Fleet, rounds: int) -> Dict[str, Any]:
    """Measure both in turn; compare what they say of the containers that are busy all the time."""
    n = len(fleet.ids)
    ours, theirs = Series(), Series()
    docker_stats = ["docker", "stats", "--no-stream", "--no-trunc", "--format", "{{.ID}} {{.CPUPerc}}", *fleet.ids]
    load = os.getloadavg()[0]
    said: List[Dict[str, Optional[float]]] = []
    told: List[Dict[str, float]] = []
    # The first one has nothing to be compared with, and inspects every container.
    measured(fleet.sample("--once"))
    for _number in range(rounds):
        # Both look at the time in between: docker stats at its own second, ours at what passed since our last one.
        run, printed = measured(docker_stats)
        theirs.runs.append(run)
        told.append(theirs_of(printed))
        run, printed = measured(fleet.sample("--once"))
        ours.runs.append(run)
        said.append(ours_of(printed))
        progress("n={0}: {1:.3f} s beside {2:.3f} s".format(n, ours.runs[-1].seconds, theirs.runs[-1].seconds))
        if len(said[-1]) != n or len(told[-1]) != n or None in said[-1].values():
            raise BenchError("{0} containers run; ours tells of {1}, docker of {2}; ours knows no use of {3}".format(
                n, len(said[-1]), len(told[-1]), [name for name, value in said[-1].items() if value is None]
            ))  # fmt: skip
    compared = {}
    for number, cpus in enumerate(LOADS):
        name = "{0}-000/s{1}".format(fleet.token, number)
        mine = statistics.median(row[name] or 0.0 for row in said)
        other = statistics.median(row[fleet.ids[number]] for row in told)
        compared["{0:.0f} %".format(cpus * 100)] = [round(mine, 2), round(other, 2)]
    look = look_seconds(rounds)
    extra = {
        "look_ms": round(look * 1000, 1),
        "look_ratio": round(theirs.median("seconds") / look, 1),
        "cpu_percent": compared,
        "cpu_difference_points": round(max(abs(mine - other) for mine, other in compared.values()), 2),
        "load_average": round(load, 2),
        "cpus": os.cpu_count(),
    }
    return result_line("stats", "sample", n, ours, BASELINE, theirs, extra)


def engine_processes() -> List[int]:
    """Return the processes of this machine's Engine: dockerd, by its socket, and containerd beside it."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
        client.connect(DEFAULT_HOST[len("unix://") :])
        pid, _uid, _gid = struct.unpack("3i", client.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
    found = []
    for entry in os.listdir("/proc"):
        with contextlib.suppress(OSError):
            if entry.isdecimal() and os.readlink(f"/proc/{entry}/ns/pid") == os.readlink(f"/proc/{pid}/ns/pid"):
                command = Path(f"/proc/{entry}/comm").read_text(encoding="ascii").strip()
                if command in ("dockerd", "containerd"):
                    found.append(int(entry))
    if not found:
        raise BenchError("no process of the Docker Engine is to be seen from here")
    return found


def cpu_seconds(processes: Sequence[int]) -> float:
    """Return the processor time that processes used so far."""
    ticks = 0
    for pid in processes:
        words = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rsplit(")", 1)[1].split()
        ticks += int(words[11]) + int(words[12])
    return ticks / os.sysconf("SC_CLK_TCK")


def sampler_case(fleet: Fleet, seconds: int) -> Dict[str, Any]:
    """Let the sampler run with its defaults; return what it cost, and the Engine beyond what it costs idle."""
    processes = engine_processes()
    pause = min(seconds, _IDLE_SECONDS)
    progress("the Engine idle for {0} s, then the sampler for {1} s".format(pause, seconds))
    before = cpu_seconds(processes)
    time.sleep(pause)
    idle = 100.0 * (cpu_seconds(processes) - before) / pause
    Path(fleet.layout.state).mkdir(exist_ok=True)
    # No probes: nothing answers in these containers.
    Path(fleet.layout.monitor_settings).write_text(json.dumps({"probes": False}), encoding="utf-8")
    log = Path(fleet.layout.root, "sampler.log")
    with log.open("wb") as stream:
        started, before = time.perf_counter(), cpu_seconds(processes)
        process = subprocess.Popen(fleet.sample(), stdin=subprocess.DEVNULL, stdout=stream, stderr=stream)
        try:
            time.sleep(seconds)
            live = json.loads(Path(fleet.layout.live).read_text(encoding="utf-8"))
            asked = time.perf_counter()
            process.terminate()
            _pid, status, usage = os.wait4(process.pid, 0)
            end = time.perf_counter() - asked
        except BaseException:
            process.kill()
            process.wait()
            raise
        took = time.perf_counter() - started
        process.returncode = os.waitstatus_to_exitcode(status)
        engine = 100.0 * (cpu_seconds(processes) - before) / took
    running = [service for instance in live["instances"] for service in instance["services"]]
    known = [service for service in running if service["use"]["cpu_percent"] is not None]
    age = time.time() - live["sampled_at"]
    if process.returncode != 0 or len(known) != len(fleet.ids) or age > 3 * live["interval"]:
        raise BenchError("the sampler ended with {0}, knew {1} of {2} containers, {3:.0f} s ago:\n{4}".format(
            process.returncode, len(known), len(fleet.ids), age, log.read_text(encoding="utf-8", errors="replace")
        ))  # fmt: skip
    own = 100.0 * (usage.ru_utime + usage.ru_stime) / took
    ours = Series([Run(took, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024, 0)])
    extra = {
        "interval": live["interval"],
        "cpu_percent": round(own, 2),
        "engine_cpu_percent": round(engine, 2),
        "engine_idle_cpu_percent": round(idle, 2),
        "cpu_percent_together": round(own + max(0.0, engine - idle), 2),
        "end_seconds": round(end, 2),
        "live_file_kb": round(os.path.getsize(fleet.layout.live) / 1024, 1),
        "cpus": os.cpu_count(),
    }
    return result_line("stats", "sampler", len(fleet.ids), ours, "", None, extra)


def measure(options: argparse.Namespace) -> Iterator[Dict[str, Any]]:
    """Yield a line for each number of containers, and one for the sampler with the most of them."""
    with tempfile.TemporaryDirectory(prefix="multibase-bench-") as directory:
        fleet = Fleet(Path(directory).resolve())
        try:
            for n in options.given_n or SIZES:
                progress("starting containers, {0} altogether".format(n))
                fleet.grow(n)
                # What starting them costs is no part of it.
                time.sleep(3)
                yield sample_case(fleet, max(options.rounds, _FEWEST_ROUNDS))
            yield sampler_case(fleet, options.seconds)
        finally:
            fleet.remove()
