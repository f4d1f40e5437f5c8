# SPDX-License-Identifier: GPL-3.0-or-later
"""What the unit tests share: short ways to converge instances in a directory, and stand-ins for Docker.

``FakeDocker`` and ``FakeCompose`` are stand-ins: they keep containers, networks and volumes in memory, filter by label
as the Engine does, and start nothing. The code above them (``_engine.Engine``, ``_compose.Compose``) is the real one.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import os
import re
import stat
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List, Mapping, Optional, Sequence, Tuple
from unittest import mock

import pytest
import yaml
from ansible.module_utils.testing import patch_module_args
from ansible.parsing.dataloader import DataLoader
from hypothesis import settings

from ansible_collections.multibase.supabase.plugins.action import instance as action_plugin
from ansible_collections.multibase.supabase.plugins.module_utils import _engine, _host, _publish
from ansible_collections.multibase.supabase.plugins.module_utils._engine import Engine
from ansible_collections.multibase.supabase.plugins.module_utils._instances import Converger, Request, Result
from ansible_collections.multibase.supabase.plugins.module_utils._layout import Layout
from ansible_collections.multibase.supabase.plugins.module_utils._ports import parse_port_range
from ansible_collections.multibase.supabase.plugins.module_utils._process import Completed
from ansible_collections.multibase.supabase.plugins.module_utils._release import Release, release_from_bundle
from ansible_collections.multibase.supabase.plugins.module_utils._settings import Setting
from ansible_collections.multibase.supabase.plugins.module_utils._sizes import Capacity
from ansible_collections.multibase.supabase.plugins.module_utils._spec import Layers
from ansible_collections.multibase.supabase.plugins.module_utils._subnets import parse_pool
from ansible_collections.multibase.supabase.plugins.modules import instance as instance_module

REPOSITORY = Path(__file__).resolve().parents[2]
PLUGINS = REPOSITORY / "collections" / "multibase" / "plugins"
TEMPLATES = REPOSITORY / "compose_templates"
RELEASE_DIRECTORY = TEMPLATES / "0.8.2"
SERVICES = (
    "api-gw", "auth", "db", "functions", "imgproxy", "meta", "realtime", "rest", "storage", "studio", "supavisor",
)  # fmt: skip
NOW = 1_700_000_000
# The same examples in every run, and no database of earlier ones.
PROPERTY = settings(derandomize=True, max_examples=150, deadline=None, database=None)
# What an instance has in its .env that nobody else may see.
SECRETS = (
    "POSTGRES_PASSWORD", "JWT_SECRET", "ANON_KEY", "SERVICE_ROLE_KEY", "DASHBOARD_PASSWORD", "SECRET_KEY_BASE",
    "REALTIME_DB_ENC_KEY", "VAULT_ENC_KEY", "PG_META_CRYPTO_KEY", "S3_PROTOCOL_ACCESS_KEY_ID",
    "S3_PROTOCOL_ACCESS_KEY_SECRET", "SMTP_PASS", "OPENAI_API_KEY", "PGRST_JWT_SECRET",
    "LOGFLARE_PUBLIC_ACCESS_TOKEN", "LOGFLARE_PRIVATE_ACCESS_TOKEN",
)  # fmt: skip


@functools.cache
def bundle() -> Dict[str, Any]:
    """The shipped release, read as the action plugin reads it."""
    return dict(action_plugin.read_release(str(RELEASE_DIRECTORY)))


@functools.cache
def release() -> Release:
    return release_from_bundle("0.8.2", bundle())


def item(name: str, state: str = "present", **options: Any) -> Dict[str, Any]:
    """One entry of ``instances`` after Ansible's argument spec."""
    return {"name": name, "state": state, **options}


def request(root: Any, **changes: Any) -> Request:
    """A request; ``defaults`` and ``blueprints`` are what lies under instances, ``cpus`` those of the host.

    Its memory may be promised without limit unless ``capacity`` says otherwise.
    """
    layers = Layers(changes.pop("defaults", {}), changes.pop("blueprints", {}))
    capacity = Capacity(cpus=changes.pop("cpus", 4), memory=16384, cpu_factor=0, memory_factor=0)
    values: Dict[str, Any] = {
        "layout": Layout(str(root)),
        "releases": {"0.8.2": release()},
        "ports": parse_port_range("20000-32759"),
        "subnet_pool": parse_pool("10.213.0.0/16"),
        "layers": layers,
        "keep_unmentioned": False,
        "confirmed": frozenset(),
        "lock_timeout": 30,
        "check_mode": False,
        "with_diff": False,
        "capacity": capacity,
        "now": NOW,
    }
    values.update(changes)
    return Request(**values)


@contextlib.contextmanager
def quiet_host() -> Iterator[None]:
    """A host on which nothing listens and that routes nowhere, whatever this machine is busy with."""
    with (
        mock.patch.object(_host, "listening_ports", lambda _tables: {}),
        mock.patch.object(_host, "routed_networks", lambda _table: []),
    ):
        yield


def converge(
    root: Any, *items: Mapping[str, Any], engine: Optional[Engine] = None, real_host: bool = False, **changes: Any
) -> List[Result]:
    """Run the convergence of ``instance`` below ``root``, on a quiet host without an Engine unless one is given."""
    with contextlib.nullcontext() if real_host else quiet_host():
        return Converger(request(root, **changes), lambda: engine).run(list(items))


def env_of(root: Any, name: str, service: str = "") -> Dict[str, str]:
    """The variables of an instance, or those of a service's own file (none when there is no such file).

    They are read without the code under test (generated values are bare).
    """
    path = Path(root) / "projects" / name / ("env/{0}.env".format(service) if service else ".env")
    variables: Dict[str, str] = {}
    if service and not path.exists():
        return variables
    for line in path.read_text(encoding="utf-8").splitlines():
        if line and not line.startswith("#"):
            key, _separator, value = line.partition("=")
            variables[key] = value
    return variables


def a_secret(setting: Setting, word: str = "canary") -> str:
    """A value of a secret option that has the shape it must have, with ``word`` in it."""
    shapes = {"base64": word * 20, "hook_secrets": "v1,whsec_" + word * 4}
    return shapes.get(setting.shape, word + "-0123")


def secrets_of(root: Any, name: str) -> Dict[str, str]:
    variables = env_of(root, name)
    return {key: variables[key] for key in SECRETS if variables.get(key)}


def manifest_of(root: Any, name: str) -> Dict[str, Any]:
    data = json.loads((Path(root) / "projects" / name / "instance.json").read_text(encoding="utf-8"))
    assert isinstance(data, dict)
    return data


def registry_of(root: Any) -> Dict[str, Any]:
    data = json.loads((Path(root) / "registry.json").read_text(encoding="utf-8"))
    rows = data["instances"]
    assert isinstance(rows, dict)
    return rows


def snapshot(root: Any, times: bool = False) -> Dict[str, Tuple[Any, ...]]:
    """Every path below ``root`` with its kind, mode and content; with ``times`` also inode and change time."""
    found: Dict[str, Tuple[Any, ...]] = {}
    for parent, directories, files in os.walk(str(root)):
        for name in sorted(directories + files):
            path = os.path.join(parent, name)
            status = os.lstat(path)
            content = b""
            if stat.S_ISREG(status.st_mode):
                content = hashlib.sha256(Path(path).read_bytes()).digest()
            elif stat.S_ISLNK(status.st_mode):
                content = os.readlink(path).encode()
            row: Tuple[Any, ...] = (oct(status.st_mode), content)
            if times:
                row += (status.st_ino, status.st_ctime_ns)
            found[os.path.relpath(path, str(root))] = row
    return found


def leftovers(root: Any) -> List[str]:
    """Paths of unfinished work: staging and removal directories, temporary files."""
    return [
        path
        for path in snapshot(root)
        if "multibase-new" in path or "/.staging-" in "/" + path or "/.deleting-" in "/" + path
    ]


# The action plugin and the module of ``instance`` together


class Transport:
    """Stands in for the connection: runs the module here and remembers what it was given."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self.capsys = capsys
        self.sent: List[Dict[str, Any]] = []

    def __call__(self, module_args: Dict[str, Any], task_vars: Any = None, **_options: Any) -> Dict[str, Any]:
        self.sent.append(module_args)
        self.capsys.readouterr()
        with (
            # Values that Vault encrypted are decrypted on their way, as Ansible does it.
            patch_module_args(json.loads(json.dumps(module_args, default=str))),
            quiet_host(),
            mock.patch.object(_engine, "connect_if_present", lambda _host="": None),
            pytest.raises(SystemExit),
        ):
            instance_module.main()
        result = json.loads(self.capsys.readouterr().out)
        assert isinstance(result, dict)
        return result


class Play:
    """Runs the action with arguments as a task would give them. ``loader`` reads the controller's files."""

    def __init__(self, root: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.root = root
        self.transport = Transport(capsys)
        self.loader = DataLoader()

    def __call__(self, instances: Any, **options: Any) -> Dict[str, Any]:
        task = mock.Mock(async_val=0, check_mode=False, diff=False, action="multibase.supabase.instance")
        task.get_search_path.return_value = [str(self.root.parent / "playbooks")]
        # However small the machine is that runs the tests.
        task.args = {"overcommit_cpus": 0, "overcommit_memory": 0, "root": str(self.root), "instances": instances}
        task.args.update({"template_root": str(TEMPLATES), **options})
        task.args = {name: value for name, value in task.args.items() if value is not Play}
        given = json.dumps(task.args)
        plugin = action_plugin.ActionModule(task, mock.MagicMock(), mock.Mock(), self.loader, mock.Mock(), mock.Mock())
        with mock.patch.object(plugin, "_execute_module", self.transport):
            result = plugin.run(None, {})
        assert json.dumps(task.args) == given, "the task's own arguments are left as they are"
        assert isinstance(result, dict) and "invocation" not in result
        return result


# Dying at a chosen moment


KILLED = 86


@contextlib.contextmanager
def _counted(hook: Callable[[str], None]) -> Iterator[None]:
    """Call ``hook`` before every operation that changes names or waits for the disk."""
    saved: List[Tuple[Any, str, Any]] = []

    def replace(owner: Any, name: str, condition: Callable[..., bool] = lambda *_args, **_options: True) -> None:
        original = getattr(owner, name)
        saved.append((owner, name, original))

        @functools.wraps(original)
        def wrapper(*args: Any, **options: Any) -> Any:
            if condition(*args, **options):
                hook(name)
            return original(*args, **options)

        setattr(owner, name, wrapper)

    for name in ("rename", "replace", "mkdir", "fsync", "unlink", "rmdir"):
        replace(os, name)
    replace(os, "open", lambda _path, flags, *_args, **_options: bool(flags & os.O_CREAT))
    replace(_publish, "sync_filesystem")
    try:
        yield
    finally:
        for owner, name, original in reversed(saved):
            setattr(owner, name, original)


def count_operations(work: Callable[[], Any]) -> List[str]:
    """Do ``work`` and return the operations that it can be killed at."""
    done: List[str] = []
    with _counted(done.append):
        work()
    return done


def killed_at(number: int, work: Callable[[], Any]) -> None:
    """Do ``work`` in a process that dies, as by SIGKILL, just before its ``number``-th operation (from 1)."""
    child = os.fork()
    if child == 0:
        left = [number]

        def hook(_name: str) -> None:
            left[0] -= 1
            if left[0] == 0:
                os._exit(KILLED)

        try:
            with _counted(hook):
                work()
        finally:
            os._exit(0)
    _pid, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == KILLED, "the work has fewer than {0} operations".format(number)


# Stand-ins for Docker


class NotFound(Exception):
    """Named like the error of the Docker SDK, which the adapter knows by name."""


class FakeDocker:
    """Stands in for ``docker.APIClient``: containers, networks, volumes and images are lists in memory."""

    def __init__(self, version: str = "20.10.24") -> None:
        self.version_text = version
        self.rows: List[Dict[str, Any]] = []
        self.network_rows: List[Dict[str, Any]] = []
        self.volume_rows: List[Dict[str, Any]] = []
        self.image_rows: List[Dict[str, Any]] = []
        self.inspected: Dict[str, Dict[str, Any]] = {}
        self.printed: Dict[str, str] = {}
        self.stubborn: set[str] = set()
        self.calls: List[str] = []
        self.number = 0
        self.lock = threading.RLock()

    def add(
        self,
        project: str,
        service: str,
        state: str = "running",
        status: str = "Up 5 minutes (healthy)",
        instance: Optional[str] = None,
        **more: Any,
    ) -> Dict[str, Any]:
        self.number += 1
        labels = {
            "com.docker.compose.project": project,
            "com.docker.compose.service": service,
            "com.docker.compose.oneoff": "False",
            "com.docker.compose.config-hash": "hash",
        }
        if instance:
            labels["io.multibase.instance"] = instance
        row = {
            "Id": "{0:064x}".format(self.number),
            "Names": ["/{0}-{1}-1".format(project, service)],
            "State": state,
            "Status": status,
            "Image": service + ":1",
            "ImageID": "sha256:" + service,
            "Labels": labels,
            "Ports": [],
            "Created": 1,
        }
        row.update(more)
        self.rows.append(row)
        return row

    @staticmethod
    def _matching(rows: Sequence[Mapping[str, Any]], filters: Optional[Mapping[str, Any]]) -> List[Dict[str, Any]]:
        wanted = [label.partition("=") for label in (filters or {}).get("label", [])]
        return [
            json.loads(json.dumps(row))
            for row in rows
            if all(
                key in (row.get("Labels") or {}) and (not separator or row["Labels"][key] == value)
                for key, separator, value in wanted
            )
        ]

    def version(self) -> Dict[str, str]:
        return {"Version": self.version_text}

    def containers(self, all: bool = False, filters: Optional[Mapping[str, Any]] = None) -> List[Dict[str, Any]]:
        with self.lock:
            self.calls.append("containers")
            assert all, "stopped containers count too"
            return self._matching(self.rows, filters)

    def images(self) -> List[Dict[str, Any]]:
        self.calls.append("images")
        return list(self.image_rows)

    def networks(self, filters: Optional[Mapping[str, Any]] = None) -> List[Dict[str, Any]]:
        return self._matching(self.network_rows, filters)

    def volumes(self, filters: Optional[Mapping[str, Any]] = None) -> Dict[str, Any]:
        return {"Volumes": self._matching(self.volume_rows, filters) or None}

    def inspect_container(self, container: str) -> Dict[str, Any]:
        if container not in self.inspected:
            raise NotFound(container)
        return self.inspected[container]

    def logs(self, container: str, tail: int = 0, timestamps: bool = False) -> bytes:
        lines = self.printed.get(container, "").splitlines()[-tail:]
        return "\n".join(lines).encode()

    def find(self, container: str) -> Dict[str, Any]:
        for row in self.rows:
            if row["Id"] == container:
                return row
        raise NotFound(container)

    def service(self, project: str, service: str) -> Dict[str, Any]:
        for row in self.rows:
            labels = row["Labels"]
            if (labels["com.docker.compose.project"], labels["com.docker.compose.service"]) == (project, service):
                return row
        raise KeyError(service)

    def stop(self, container: str, timeout: int = 10) -> None:
        with self.lock:
            self.calls.append("stop")
            row = self.find(container)
            if container not in self.stubborn:
                row.update(State="exited", Status="Exited (0) 1 second ago")

    def remove_network(self, name: str) -> None:
        self.calls.append("remove_network")
        self.network_rows = [row for row in self.network_rows if row["Name"] != name]

    def remove_volume(self, name: str) -> None:
        self.calls.append("remove_volume")
        self.volume_rows = [row for row in self.volume_rows if row["Name"] != name]

    def remove_container(self, container: str, v: bool = False, force: bool = False) -> None:
        with self.lock:
            self.calls.append("remove")
            assert v is False, "volumes are never removed with a container"
            self.rows.remove(self.find(container))


class FakeCompose:
    """Stands in for the ``docker compose`` command: does to a ``FakeDocker`` what the verbs do, with their traps.

    ``up`` leaves services alone whose profile is off, and every verb ends with exit code 0 unless ``answers`` (verb ->
    Completed) says otherwise; then nothing is done. ``status`` says per service how a new container is.
    """

    def __init__(self, docker: FakeDocker) -> None:
        self.docker = docker
        self.calls: List[List[str]] = []
        self.environments: List[Dict[str, str]] = []
        self.directories: List[str] = []
        self.answers: Dict[str, Completed] = {}
        self.status: Dict[str, str] = {}
        self.extra_services: List[str] = []
        self.seconds = 0.0
        self.active = 0
        self.most_active = 0

    def verbs(self) -> List[str]:
        return [verb_of(call) for call in self.calls]

    def __call__(
        self,
        argv: Sequence[str],
        cwd: str,
        environment: Mapping[str, str],
        timeout: float,
        keep_open: Sequence[int] = (),
    ) -> Completed:
        with self.docker.lock:
            self.calls.append(list(argv))
            self.environments.append(dict(environment))
            self.directories.append(cwd)
            self.active += 1
            self.most_active = max(self.most_active, self.active)
        if self.seconds:
            time.sleep(self.seconds)
        try:
            with self.docker.lock:
                return self._do(list(argv), cwd)
        finally:
            with self.docker.lock:
                self.active -= 1

    def _do(self, argv: List[str], cwd: str) -> Completed:
        verb = verb_of(argv)
        if verb == "version":
            return self.answers.get(verb, Completed(0, "5.6.1\n", ""))
        name = os.path.basename(cwd)
        answer = self.answers.get("{0} {1}".format(verb, name), self.answers.get(verb))
        if answer is not None:
            return answer
        variables = env_of(os.path.dirname(os.path.dirname(cwd)), name)
        project = variables["COMPOSE_PROJECT_NAME"]
        services = ["db", "api-gw", *[part for part in variables["COMPOSE_PROFILES"].split(",") if part]]
        services += self.extra_services
        if verb == "config":
            return Completed(0, "\n".join(services) + "\n", "")
        rows = [row for row in self.docker.rows if row["Labels"]["com.docker.compose.project"] == project]
        if verb == "up":
            self._up(project, name, services, variables)
        elif verb in ("stop", "restart"):
            # Without every profile, Compose does not see containers of services that are switched off.
            seen = {row["Id"] for row in rows if "*" in argv or _service(row) in services}
            chosen = set(argv[argv.index("restart") + 1 :]) if verb == "restart" else set()
            for row in rows:
                if row["Id"] in seen and row["Id"] not in self.docker.stubborn:
                    if verb == "stop" and row["State"] in ("running", "restarting", "paused"):
                        row.update(State="exited", Status="Exited (0) 1 second ago")
                    elif verb == "restart" and (not chosen or _service(row) in chosen):
                        row.update(Status=self.status.get(_service(row), "Up 1 second (healthy)"), State="running")
        elif verb == "down":
            self.docker.rows = [row for row in self.docker.rows if row not in rows or row["Id"] in self.docker.stubborn]
            self.docker.network_rows = [row for row in self.docker.network_rows if not _of(row, project)]
            if "--volumes" in argv:
                self.docker.volume_rows = [row for row in self.docker.volume_rows if not _of(row, project)]
        else:
            raise AssertionError("unexpected: {0}".format(argv))
        return Completed(0, "", "")

    def _up(self, project: str, name: str, services: Sequence[str], variables: Mapping[str, str]) -> None:
        labels = {"com.docker.compose.project": project, "io.multibase.instance": name}
        if not any(_of(row, project) for row in self.docker.network_rows):
            self.docker.network_rows.append({"Name": project + "_default", "Labels": labels})
            for volume in ("db-config", "deno-cache"):
                if not any(row["Name"] == project + "_" + volume for row in self.docker.volume_rows):
                    self.docker.volume_rows.append({"Name": "{0}_{1}".format(project, volume), "Labels": labels})
        for service in services:
            suffix = service.upper().replace("-", "_")
            own = [
                variables.get("MULTIBASE_{0}_{1}".format(kind, suffix), "") for kind in ("IMAGE", "MEMORY", "CONFIG")
            ]
            config_hash = hashlib.sha256("|".join(own).encode()).hexdigest()
            image_id = "sha256:" + hashlib.sha256(own[0].encode()).hexdigest()
            for row in self.docker.image_rows:
                if own[0] in row["RepoTags"]:
                    image_id = row["Id"]
            try:
                there = self.docker.service(project, service)
            except KeyError:
                there = None
            status = self.status.get(service, "Up 1 second (healthy)")
            if there is not None:
                same = there["Labels"]["com.docker.compose.config-hash"] == config_hash and there["ImageID"] == image_id
                if same:
                    if there["State"] != "running":
                        there.update(State="running", Status=status)
                    continue
                self.docker.rows.remove(there)
            row = self.docker.add(project, service, status=status, instance=name, Image=own[0], ImageID=image_id)
            row["Labels"]["com.docker.compose.config-hash"] = config_hash
            if not status.startswith("Up"):
                row["State"] = "exited"
            if not any(own[0] in image["RepoTags"] for image in self.docker.image_rows):
                self.docker.image_rows.append({"Id": image_id, "RepoTags": [own[0]]})


def _service(row: Mapping[str, Any]) -> str:
    return str(row["Labels"]["com.docker.compose.service"])


def _of(row: Mapping[str, Any], project: str) -> bool:
    return bool((row.get("Labels") or {}).get("com.docker.compose.project") == project)


def verb_of(argv: Sequence[str]) -> str:
    """The Compose verb of an argument list."""
    words = list(argv)
    assert words[:2] == ["docker", "compose"], words
    position = 2
    while words[position].startswith("--"):
        position += 2
    return words[position]


def assert_no_secret(text: str, values: Mapping[str, str], what: str = "text") -> None:
    """Fail, naming the variable and never the value, when one of ``values`` stands in ``text``."""
    found = sorted(name for name, value in values.items() if value and value in text)
    assert not found, "{0} holds the value of {1}".format(what, ", ".join(found))


def one_problem(problems: Sequence[str], *patterns: str) -> str:
    """Return the one problem that matches all ``patterns``; fail when there is none or more than one."""
    matching = [text for text in problems if all(re.search(pattern, text) for pattern in patterns)]
    assert len(matching) == 1, "expected one problem with {0}, found {1} in {2}".format(patterns, matching, problems)
    return matching[0]


def expand_for_role(directory: Path, role: Path, texts: Sequence[str], known: Mapping[str, Any]) -> List[str]:
    """Have Ansible expand templates of a role (names that end in .j2), or expressions, in one run.

    ``known`` are variables over the role's own. Raises LookupError with what Ansible said when it fails.
    """
    variables: Dict[str, Any] = {}
    for kind in ("defaults", "vars"):
        variables.update(yaml.safe_load((role / kind / "main.yml").read_text(encoding="utf-8")) or {})
    tasks: List[Dict[str, Any]] = []
    for number, text in enumerate(texts):
        if text.endswith(".j2"):
            file = role / "templates" / text
        else:
            file = directory / "{0}.j2".format(number)
            file.write_text(text)
        module = {"src": str(file), "dest": str(directory / str(number)), "mode": "0600"}
        tasks.append({"name": "Expand", "ansible.builtin.template": module})
    play = {"hosts": "localhost", "gather_facts": False, "vars": {**variables, **known}, "tasks": tasks}
    (directory / "play.yml").write_text(yaml.safe_dump([play]))
    done = subprocess.run(
        [str(REPOSITORY / ".venv" / "bin" / "ansible-playbook"), "-i", "localhost,", "-c", "local", "play.yml"],
        env={
            **os.environ, "ANSIBLE_CONFIG": str(REPOSITORY / "ansible.cfg"), "ANSIBLE_CALLBACK_PLUGINS": "",
            "ANSIBLE_PYTHON_INTERPRETER": sys.executable,
        },
        cwd=directory, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    if done.returncode:
        raise LookupError(done.stdout + done.stderr)
    return [(directory / str(number)).read_text() for number in range(len(texts))]
