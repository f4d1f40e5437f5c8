#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-3.0-or-later
"""Benchmarks: what Multibase costs, beside what one would otherwise do, measured in the same run.

    .venv/bin/python tests/bench/bench.py                       every benchmark
    .venv/bin/python tests/bench/bench.py --only create         one of them
    .venv/bin/python tests/bench/bench.py --only create --n 1,10,100,1000

Results are JSON lines on stdout, progress goes to stderr. A figure never makes a run fail; the exit code is 1 when a
measured run failed or did not do what it is measured for, 2 for a wrong command line. See README.md beside this file.
"""

from __future__ import annotations

import argparse
import configparser
import json
import os
import re
import signal
import stat
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List, Mapping, NamedTuple, Optional, Sequence, Tuple

HERE = Path(__file__).resolve().parent
REPOSITORY = HERE.parents[1]
COLLECTIONS = REPOSITORY / "collections"
TEMPLATE_ROOT = REPOSITORY / "compose_templates"

MAXIMUM_N = 1000
# Above this many instances the baseline takes many minutes: one round of it has to do.
_FEW = 10
_RECAP = re.compile(r"^\S+ +: ok=(\d+) +changed=(\d+) +unreachable=(\d+) +failed=(\d+) ", re.MULTILINE)


class BenchError(Exception):
    """A measured run failed, or did something else than what is measured. The message says which, with its output."""


class Run(NamedTuple):
    """One finished process: wall time and processor time (its children's included) in seconds, memory in MiB."""

    seconds: float
    cpu_seconds: float
    peak_rss_mb: float
    changed: int


@dataclass
class Series:
    """The runs of one case, one side."""

    runs: List[Run] = field(default_factory=list)

    def median(self, what: str) -> float:
        return float(statistics.median(getattr(run, what) for run in self.runs))

    def minimum(self) -> float:
        return min(run.seconds for run in self.runs)


# Running Ansible


def ansible_config(repository: Path) -> str:
    """Return the repository's ansible.cfg with absolute paths, and without ARA and every other callback plugin."""
    config = configparser.ConfigParser(interpolation=None)
    config.read_string((repository / "ansible.cfg").read_text(encoding="utf-8"))
    config.remove_section("ara")
    defaults = config["defaults"]
    defaults.pop("callback_plugins", None)
    # The play names localhost and its connection itself.
    defaults.pop("inventory", None)
    for key in ("collections_path", "roles_path"):
        if key in defaults:
            defaults[key] = ":".join(str(repository / part) for part in defaults[key].split(":"))
    lines = []
    for section in config.sections():
        lines.append("[{0}]".format(section))
        lines += ["{0} = {1}".format(key, value) for key, value in config[section].items()]
    return "\n".join(lines) + "\n"


def environment(workspace: Path) -> Dict[str, str]:
    """Return this process's environment without settings of Ansible and ARA, and with those of ``workspace``."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("ANSIBLE_", "ARA_"))}
    kept.update(
        ANSIBLE_CONFIG=str(workspace / "ansible.cfg"),
        ANSIBLE_HOME=str(workspace / "ansible"),
        ANSIBLE_LOCAL_TEMP=str(workspace / "ansible" / "tmp"),
        ANSIBLE_REMOTE_TEMP=str(workspace / "ansible" / "tmp"),
        ANSIBLE_NOCOLOR="1",
        ANSIBLE_LOCALHOST_WARNING="0",
    )
    return kept


def changed_tasks(output: str) -> int:
    """Return ``changed`` of the one host in a play recap. Raises BenchError when there is no good one."""
    found = _RECAP.findall(output)
    if len(found) != 1:
        raise BenchError("the output has {0} recaps of hosts, not one:\n{1}".format(len(found), output))
    _ok, changed, unreachable, failed = map(int, found[0])
    if unreachable or failed:
        raise BenchError("the play failed:\n" + output)
    return changed


def run_playbook(workspace: Path, playbook: str, variables: Mapping[str, Any]) -> Run:
    """Run one of playbooks/ and measure the whole process. Raises BenchError with its output when it fails."""
    variables_file = workspace / "variables.json"
    variables_file.write_text(json.dumps({"ansible_python_interpreter": sys.executable, **variables}), encoding="utf-8")
    program = Path(sys.executable).parent / "ansible-playbook"
    if not program.exists():
        raise BenchError("there is no {0}; use .venv/bin/python, which `make setup` makes".format(program))
    command = [str(program), "--inventory", "localhost,", "--extra-vars", "@{0}".format(variables_file)]
    command.append(str(HERE / "playbooks" / playbook))
    log = workspace / "output.log"
    with log.open("wb") as stream:
        started = time.perf_counter()
        process = subprocess.Popen(
            command,
            cwd=workspace,
            env=environment(workspace),
            stdin=subprocess.DEVNULL,
            stdout=stream,
            stderr=subprocess.STDOUT,
        )
        try:
            # Unlike Popen.wait, it says what this one process and its children used.
            _pid, status, usage = os.wait4(process.pid, 0)
        except BaseException:
            process.terminate()
            process.wait()
            raise
        seconds = time.perf_counter() - started
        process.returncode = os.waitstatus_to_exitcode(status)
    output = log.read_text(encoding="utf-8", errors="replace")
    if process.returncode != 0:
        raise BenchError("{0} ended with {1}:\n{2}".format(playbook, process.returncode, output))
    return Run(seconds, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024, changed_tasks(output))


# Results


def rounded(value: Optional[float], digits: int = 3) -> Optional[float]:
    return None if value is None else round(value, digits)


def slope_ms(first: Tuple[int, float], last: Tuple[int, float]) -> Optional[float]:
    """Return the milliseconds that each added instance costs between two (n, seconds), None for the same n."""
    if first[0] == last[0]:
        return None
    return 1000 * (last[1] - first[1]) / (last[0] - first[0])


def result_line(
    bench: str,
    case: str,
    n: int,
    ours: Series,
    baseline_name: str,
    baseline: Optional[Series],
    extra: Mapping[str, Any],
) -> Dict[str, Any]:
    """Return one result: the keys that every benchmark has, then figures of the runs, then ``extra``."""
    seconds = ours.median("seconds")
    other = baseline.median("seconds") if baseline and baseline.runs else None
    line: Dict[str, Any] = {
        "bench": bench,
        "case": case,
        "n": n,
        "seconds": rounded(seconds),
        "baseline": baseline_name,
        "baseline_seconds": rounded(other),
        "ratio": rounded(None if other is None else other / seconds, 2),
        "rounds": len(ours.runs),
        "seconds_min": rounded(ours.minimum()),
        "cpu_seconds": rounded(ours.median("cpu_seconds")),
        "peak_rss_mb": rounded(ours.median("peak_rss_mb"), 1),
    }
    if baseline and baseline.runs:
        line["baseline_rounds"] = len(baseline.runs)
        line["baseline_seconds_min"] = rounded(baseline.minimum())
        line["baseline_cpu_seconds"] = rounded(baseline.median("cpu_seconds"))
    line.update(extra)
    return line


def progress(text: str) -> None:
    print("bench: " + text, file=sys.stderr, flush=True)


# create: render n new instances in one play (nothing is started), and run the same play again


CREATE_CASES = ("create", "unchanged")
BASELINE = "loop role"
# Files that hold what only their own instance has: secrets, digests of them, the fingerprints' salt.
_OWN_FILES = {".env", "instance.json", "volumes/api/envoy.json"}


def gateway_template(release_directory: Path) -> str:
    """Return the gateway configuration that Multibase builds, as a template for the baseline's role.

    It is rendered once with recognisable values, which are then replaced by expressions of Jinja2.
    """
    # Here, so that --help and the checks of the command line work without the environment.
    import yaml

    if str(COLLECTIONS) not in sys.path:
        sys.path.insert(0, str(COLLECTIONS))
    from ansible_collections.multibase.supabase.plugins.module_utils import _gateway

    release = yaml.safe_load((release_directory / "release.yml").read_text(encoding="utf-8"))
    # A number that the configuration has for no other reason.
    port = "59999"
    url = "http://127.0.0.1:" + port
    text = _gateway.render(
        _gateway.GatewaySpec(
            services=frozenset(release["weights"]),
            anon_key="anon-key-to-replace",
            service_role_key="service-key-to-replace",
            dashboard_username="supabase",
            dashboard_password="password-to-replace",
            public_url=url,
            issuer=url + "/auth/v1",
            cors_origins=(url,),
        )
    )
    digest = re.search(r"supabase:\{SHA\}([A-Za-z0-9+/=]{28})", text)
    expressions = {
        "anon-key-to-replace": 'jwt_secret | api_key("anon", loop_role_issued_at)',
        "service-key-to-replace": 'jwt_secret | api_key("service_role", loop_role_issued_at)',
        port: "loop_role_port_first + 10 * loop_role_index",
    }
    if digest is not None:
        expressions[digest.group(1)] = "password | sha_password"
    for value, expression in expressions.items():
        text = text.replace(value, "{% endraw %}{{ " + expression + " }}{% raw %}")
    head = ""
    for variable, secret in (("jwt_secret", "JWT_SECRET"), ("password", "DASHBOARD_PASSWORD")):
        head += (
            '{{% set {0} = lookup("ansible.builtin.password", loop_role_root ~ "/credentials/" ~ item.name ~ "/{1}", '
            'length=loop_role_secret_lengths.{1}, chars=["ascii_letters", "digits"]) %}}\n'
        ).format(variable, secret)
    return head + "{% raw %}" + text + "{% endraw %}"


def instance_names(n: int) -> List[str]:
    return ["bench{0:04d}".format(number) for number in range(1, n + 1)]


def env_variables(path: Path) -> Dict[str, str]:
    """Return the variables of a ``.env`` file as they stand there, quotes included."""
    lines = path.read_text(encoding="utf-8").splitlines()
    return dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))


def check_projects(root: Path, names: Sequence[str]) -> None:
    """Raise BenchError unless exactly these instances are there, complete, each with a port block of its own."""
    found = sorted(path.name for path in (root / "projects").iterdir())
    if found != sorted(names):
        raise BenchError("{0} projects were asked for, {1} are there".format(len(names), len(found)))
    bases = set()
    for name in names:
        directory = root / "projects" / name
        manifest = json.loads((directory / "instance.json").read_text(encoding="utf-8"))
        base = manifest["port_base"]
        variables = env_variables(directory / ".env")
        if variables["API_GW_HTTP_PORT"] != str(base) or base % 10:
            raise BenchError("{0}: port block {1}, but API_GW_HTTP_PORT is another".format(name, base))
        if not variables["ANON_KEY"] or variables["ANON_KEY"] not in (directory / "volumes/api/envoy.json").read_text():
            raise BenchError("{0}: the gateway does not know the anon key".format(name))
        bases.add(base)
    if len(bases) != len(names):
        raise BenchError("{0} instances have {1} port blocks".format(len(names), len(bases)))


def tree(directory: Path) -> Dict[str, Tuple[str, Optional[bytes]]]:
    """Return the mode of everything below a directory, and the content of files that are the same everywhere."""
    result: Dict[str, Tuple[str, Optional[bytes]]] = {}
    for path in directory.rglob("*"):
        relative = str(path.relative_to(directory))
        shared = path.is_file() and relative not in _OWN_FILES
        result[relative] = (stat.filemode(path.stat().st_mode), path.read_bytes() if shared else None)
    return result


def compare_projects(ours: Path, baseline: Path) -> None:
    """Raise BenchError unless the baseline wrote what we wrote: same paths, modes, shared files, names of variables."""
    mine, other = tree(ours), tree(baseline)
    differing = sorted(path for path in set(mine) | set(other) if mine.get(path) != other.get(path))
    names = set(env_variables(ours / ".env")) ^ set(env_variables(baseline / ".env"))
    # Equal but for keys and ports: as many lines say that both gateways have the same routes.
    gateways = [(root / "volumes/api/envoy.json").read_text(encoding="utf-8") for root in (ours, baseline)]
    if gateways[0].count("\n") != gateways[1].count("\n"):
        differing.append("volumes/api/envoy.json")
    if differing or names:
        raise BenchError(
            "the baseline did something else; files: {0}; variables: {1}".format(
                differing or "none", sorted(names) or "none"
            )
        )


def create_once(workspace: Path, playbook: str, names: Sequence[str], series: Mapping[str, Series]) -> Path:
    """Create all in a new root, run again, check both; append to ``series``. Returns the root."""
    root = Path(tempfile.mkdtemp(prefix="root-", dir=workspace))
    variables = {
        "bench_root": str(root),
        "bench_template_root": str(TEMPLATE_ROOT),
        "bench_gateway_template": str(workspace / "envoy.json.j2"),
        # No Engine is asked, whether this machine has one or not: figures of two machines stay comparable.
        "bench_docker_host": "unix://{0}".format(workspace / "no-engine.sock"),
        "bench_instances": [{"name": name} for name in names],
    }
    for case in CREATE_CASES:
        run = run_playbook(workspace, playbook, variables)
        if (run.changed > 0) != (case == "create"):
            raise BenchError("{0}, case {1}: the recap says changed={2}".format(playbook, case, run.changed))
        progress("{0}, n={1}, {2}: {3:.2f} s".format(playbook, len(names), case, run.seconds))
        series[case].runs.append(run)
    check_projects(root, names)
    return root


def bench_create(options: argparse.Namespace) -> Iterator[Dict[str, Any]]:
    """One module call beside a role that loops; per n, in turn: ours, baseline, ours, baseline, ..."""
    smallest: Dict[str, Tuple[int, Series, Series]] = {}
    with tempfile.TemporaryDirectory(prefix="multibase-bench-") as directory:
        workspace = Path(directory).resolve()
        (workspace / "ansible.cfg").write_text(ansible_config(REPOSITORY), encoding="utf-8")
        (workspace / "envoy.json.j2").write_text(gateway_template(TEMPLATE_ROOT / "0.8.2"), encoding="utf-8")
        for n in options.n:
            names = instance_names(n)
            ours = {case: Series() for case in CREATE_CASES}
            baseline = {case: Series() for case in CREATE_CASES}
            baseline_rounds = 0
            if n <= options.baseline_max:
                baseline_rounds = options.rounds if n <= _FEW else 1
            load = os.getloadavg()[0]
            for number in range(options.rounds):
                root = create_once(workspace, "create_ours.yml", names, ours)
                if ours["create"].runs[-1].changed != 1:
                    raise BenchError("ours took more than one task to create {0} instances".format(n))
                if number < baseline_rounds:
                    other = create_once(workspace, "create_baseline.yml", names, baseline)
                    compare_projects(root / "projects" / names[-1], other / "projects" / names[-1])
            for case in CREATE_CASES:
                first_n, first_ours, first_baseline = smallest.setdefault(case, (n, ours[case], baseline[case]))
                extra: Dict[str, Any] = {
                    "per_added_instance_ms": rounded(
                        slope_ms((first_n, first_ours.median("seconds")), (n, ours[case].median("seconds"))), 1
                    )
                }
                if baseline[case].runs and first_baseline.runs:
                    extra["baseline_per_added_instance_ms"] = rounded(
                        slope_ms((first_n, first_baseline.median("seconds")), (n, baseline[case].median("seconds"))), 1
                    )
                extra.update(load_average=round(load, 2), cpus=os.cpu_count())
                yield result_line("create", case, n, ours[case], BASELINE, baseline[case], extra)


def bench_backup(options: argparse.Namespace) -> Iterator[Dict[str, Any]]:
    """Backups and restores of a database of some hundred megabytes; needs a Docker Engine with the sandbox's images."""
    from bench import backup

    yield from backup.measure(options)


def bench_stats(options: argparse.Namespace) -> Iterator[Dict[str, Any]]:
    """Samples of up to 130 containers, and the sampler's own cost; needs a Docker Engine with the sandbox's images."""
    from bench import stats

    yield from stats.measure(options)


# The command line


class Bench(NamedTuple):
    """A benchmark: what it measures, in a few words, and what yields its results."""

    summary: str
    run: Callable[[argparse.Namespace], Iterator[Dict[str, Any]]]


BENCHES: Dict[str, Bench] = {
    "create": Bench("render n new instances in one play, and run it again", bench_create),
    "backup": Bench("dump, verify and restore a database of 600 MB", bench_backup),
    "stats": Bench("sample n containers, and let the sampler run for a while", bench_stats),
}


def numbers(text: str) -> List[int]:
    """Read ``1,10,100``: ascending, each once."""
    try:
        values = sorted({int(part) for part in text.split(",")})
    except ValueError:
        raise argparse.ArgumentTypeError("{0!r} is no list of numbers such as 1,10,100".format(text)) from None
    if values[0] < 1 or values[-1] > MAXIMUM_N:
        raise argparse.ArgumentTypeError("{0!r}: 1 to {1} instances can be measured".format(text, MAXIMUM_N))
    return values


def positive(text: str) -> int:
    """Read a whole number of at least one."""
    try:
        value = int(text)
    except ValueError:
        value = 0
    if value < 1:
        raise argparse.ArgumentTypeError("{0!r} is no whole number of at least 1".format(text))
    return value


def natural(text: str) -> int:
    """Read a whole number of at least zero."""
    if not text.isdecimal():
        raise argparse.ArgumentTypeError("{0!r} is no whole number of at least 0".format(text))
    return int(text)


def parse_arguments(arguments: Sequence[str]) -> argparse.Namespace:
    """Read the command line; ``benches`` is what is to be run, in the order of the table."""
    listing = "\n".join("  {0:<10} {1}".format(name, bench.summary) for name, bench in BENCHES.items())
    parser = argparse.ArgumentParser(
        prog="bench.py",
        description="Measure Multibase beside what one would otherwise do; JSON lines on stdout.",
        epilog="benchmarks:\n" + listing,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("names", nargs="*", metavar="BENCH", help="the same as --only")
    parser.add_argument("--only", action="append", default=[], metavar="BENCH", help="run this benchmark only")
    parser.add_argument(
        "--n", type=numbers, metavar="N,...", help="sizes (default 1,10,100 instances; stats: 10,50,130 containers)"
    )
    parser.add_argument(
        "--seconds", type=positive, default=600, metavar="N", help="stats: how long the sampler runs (default 600)"
    )
    parser.add_argument("--rounds", type=positive, default=3, help="runs of each; medians are given (default 3)")
    parser.add_argument(
        "--baseline-max",
        type=natural,
        default=_FEW,
        metavar="N",
        help="largest n that the baseline is measured for (default %(default)s); above 10 it has one round",
    )
    options = parser.parse_args(arguments)
    options.given_n, options.n = options.n, options.n or [1, 10, 100]
    chosen = set(options.names) | set(options.only)
    unknown = sorted(chosen - set(BENCHES))
    if unknown:
        parser.error("there is no benchmark {0}; there are: {1}".format(", ".join(unknown), ", ".join(BENCHES)))
    options.benches = [name for name in BENCHES if name in chosen or not chosen]
    return options


def main(arguments: Sequence[str]) -> int:
    """Entry point; returns the exit code."""
    options = parse_arguments(arguments)
    # Ends the measured process and removes what was written, as an interrupt does.
    signal.signal(signal.SIGTERM, lambda _number, _frame: sys.exit(143))
    try:
        for name in options.benches:
            for line in BENCHES[name].run(options):
                print(json.dumps(line), flush=True)
    except BenchError as error:
        print("bench: {0}".format(error), file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("bench: interrupted", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    # As the module that other files here import from: each class exists once then.
    sys.path[:1] = [str(REPOSITORY / "tests"), str(COLLECTIONS)]
    from bench.bench import main as run

    sys.exit(run(sys.argv[1:]))
