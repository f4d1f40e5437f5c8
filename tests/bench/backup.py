# SPDX-License-Identifier: GPL-3.0-or-later
"""Backups and restores of a generated database, beside `docker exec pg_dump | gzip` in the same run.

The instance is one of the sandbox on this machine's own Engine, gone afterwards. Measured are whole processes.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any, Dict, Iterator, List, Sequence

from bench.bench import BenchError, Run, Series, progress, result_line
from integration import backup_support
from integration.backup_support import PROGRAM, Machine, new_name

BASELINE = "docker exec pg_dump | gzip"
# Case, format, and what of the two figures of the reference it is about.
CASES = (("gzip", "plain"), ("zstd", "custom"))
MEGABYTES = 600
# About 1 KB a row as a service would have it: numbers, times, words that compress, a token that does not, a document.
_ROWS = """
CREATE TABLE public.events AS
SELECT n AS id, now() - n * interval '1 second' AS at, (random() * 1e6)::int AS customer,
  repeat(md5((n % 5000)::text) || ' lorem ipsum dolor sit amet ', 6) AS words,
  md5(random()::text) || md5(random()::text) AS token,
  jsonb_build_object('path', '/api/items/' || n % 900, 'ms', (random() * 900)::int, 'tags', ARRAY['a', 'b']) AS document
FROM generate_series(1, {rows}) n;
ALTER TABLE public.events ADD PRIMARY KEY (id);
CREATE INDEX ON public.events (customer);
CREATE TABLE public.vectors AS
SELECT n AS id, (SELECT array_agg(random()::real) FROM generate_series(1, 384) WHERE n > 0) AS embedding
FROM generate_series(1, {vectors}) n;
CREATE TABLE public.acknowledged (n bigint PRIMARY KEY);
VACUUM ANALYZE;
"""


def measured(command: Sequence[str]) -> Run:
    """Run a command and measure the whole process. Raises BenchError with its output when it fails."""
    with tempfile.TemporaryFile() as log:
        started = time.perf_counter()
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT)
        _pid, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - started
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode != 0:
            log.seek(0)
            raise BenchError("{0} ended with {1}:\n{2}".format(command[0], process.returncode, log.read().decode()))
    return Run(seconds, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024, 1)


def tool(host: Machine, *words: str) -> List[str]:
    """Return the command line of the host's own tool."""
    return [sys.executable, "-c", PROGRAM, str(host.library), "--root", str(host.layout.root), "--json", *words]


def settings(host: Machine, name: str, kind: str) -> None:
    """Write what the role writes: databases only, as the baseline has it."""
    path = Path(host.layout.state, "backup-settings.json")
    path.write_text(json.dumps({name: {"scope": "database", "format": kind, "verify": False}}), encoding="utf-8")


class Writer:
    """A client that writes numbers one after the other, and knows which were acknowledged and how long it waited."""

    def __init__(self, host: Machine, name: str) -> None:
        self._host, self._name = host, name
        self.acknowledged: List[int] = []
        self.longest = 0.0
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._write, daemon=True)
        self._thread.start()

    def _write(self) -> None:
        # Larger than those of the writer before, whose rows came back with the rollback.
        number, last = time.time_ns(), time.monotonic()
        while not self._ended.is_set():
            number += 1
            # A container that is stopped, a server that shuts down or a table that went: it tries again.
            with contextlib.suppress(AssertionError, subprocess.TimeoutExpired):
                self._host.psql(self._name, "INSERT INTO public.acknowledged VALUES ({0})".format(number))
                self.acknowledged.append(number)
                self.longest = max(self.longest, time.monotonic() - last)
                last = time.monotonic()

    def end(self) -> None:
        """Let it finish what it does."""
        self._ended.set()
        self._thread.join(timeout=120)


def restored(host: Machine, name: str, stem: str) -> Dict[str, Any]:
    """Restore a backup under a writing client; return what it cost, and how many acknowledged rows were lost."""
    writer = Writer(host, name)
    time.sleep(2)
    done = subprocess.run(tool(host, "restore", name, stem), capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise BenchError("the restore ended with {0}:\n{1}".format(done.returncode, done.stderr))
    time.sleep(2)
    writer.end()
    (result,) = json.loads(done.stdout)
    here = set(host.psql(name, "SELECT n FROM public.acknowledged").split())
    back = subprocess.run(tool(host, "rollback", name), capture_output=True, text=True, check=False)
    if back.returncode != 0:
        raise BenchError("the rollback ended with {0}:\n{1}".format(back.returncode, back.stderr))
    kept = set(host.psql(name, "SELECT n FROM public.acknowledged").split())
    lost = [number for number in writer.acknowledged if str(number) not in here | kept]
    return {
        "restore_seconds": result["seconds"],
        "restore_pause_seconds": result["pause_seconds"],
        "longest_wait_of_a_client_seconds": round(writer.longest, 2),
        "acknowledged_rows": len(writer.acknowledged),
        "acknowledged_rows_lost": len(lost),
    }


def measure(options: argparse.Namespace) -> Iterator[Dict[str, Any]]:
    """Yield one result per case; in turn: ours, baseline, ours, ..."""
    with tempfile.TemporaryDirectory(prefix="multibase-bench-") as directory:
        host = Machine(Path(directory))
        # All processors for the database: the baseline's gzip runs outside of every limit.
        backup_support.SMALL["size"] = "large"
        name = new_name()
        try:
            progress("creating an instance and about {0} MB of data".format(MEGABYTES))
            host.create(name)
            host.psql(name, _ROWS.format(rows=MEGABYTES * 1300, vectors=MEGABYTES * 110), timeout=900)
            raw = int(host.psql(name, "SELECT pg_database_size('postgres')"))
            for case, kind in CASES:
                yield _case(host, name, case, kind, raw, options.rounds)
        finally:
            host.clean()


def _case(host: Machine, name: str, case: str, kind: str, raw: int, rounds: int) -> Dict[str, Any]:
    ours, baseline = Series(), Series()
    settings(host, name, kind)
    target = host.root / "baseline.sql.gz"
    container = host.container(name).id
    dump = "docker exec {0} pg_dump -h 127.0.0.1 -U supabase_admin postgres | gzip > {1}".format(container, target)
    load = os.getloadavg()[0]
    for _number in range(rounds):
        ours.runs.append(measured(tool(host, "backup", name)))
        baseline.runs.append(measured(["bash", "-o", "pipefail", "-c", dump]))
        progress("{0}: {1:.1f} s beside {2:.1f} s".format(case, ours.runs[-1].seconds, baseline.runs[-1].seconds))
    stem = host.backups(name)[-1]
    verify = measured(tool(host, "verify", name, stem))
    progress("{0}: verified in {1:.1f} s".format(case, verify.seconds))
    extra: Dict[str, Any] = {
        "database_mb": raw >> 20,
        "size_mb": round(host.read(name, stem).size / 1048576, 1),
        "baseline_size_mb": round(target.stat().st_size / 1048576, 1),
        "verify_seconds": round(verify.seconds, 1),
        "verify_peak_rss_mb": round(verify.peak_rss_mb, 1),
        **restored(host, name, stem),
        "load_average": round(load, 2),
        "cpus": os.cpu_count(),
    }
    return result_line("backup", case, 1, ours, BASELINE, baseline, extra)
