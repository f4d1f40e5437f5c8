# SPDX-License-Identifier: GPL-3.0-or-later
"""Options of an instance as its running containers have them: their environment, limits, ports and health checks.

The options and what must be seen are those of ``unit.option_effects``, as far as they end in the environment of the few
services that run here. Everything is read from the Engine, or by the process itself; the images are the sandbox's.
"""

from __future__ import annotations

import functools
import secrets
import shutil
import sys
from pathlib import Path
from typing import Any, Dict, Iterator, List, Mapping

import docker
import pytest

from ansible_collections.multibase.supabase.plugins.module_utils import _engine
from ansible_collections.multibase.supabase.plugins.module_utils._compose import Compose
from ansible_collections.multibase.supabase.plugins.module_utils._layout import Layout
from ansible_collections.multibase.supabase.plugins.module_utils._ports import parse_port_range
from ansible_collections.multibase.supabase.plugins.module_utils._stacks import Result, Runner, Settings
from ansible_collections.multibase.supabase.plugins.module_utils._subnets import parse_pool
from unit.option_effects import EFFECTS, GROUPS, HARD, LINES, Effect, View, leaves, merged
from unit.support import converge, manifest_of

RUNNING = {"db", "api-gw", "auth", "rest", "functions"}
SMALL: Dict[str, Any] = {
    "image_set": "sandbox",
    "size": {"cpus": 1, "memory": "1g"},
    "health_interval": "2s",
    "services": {name: False for name in ("imgproxy", "meta", "realtime", "storage", "studio", "supavisor")},
    "expose": ["postgres"],
    # Another address of the loopback interface.
    "bind_address": "127.0.0.2",
    "secrets": {"functions": {"STRIPE_KEY": "sk " + HARD, "PUSH_KEY": LINES}},
}
GIGABYTE, MEGABYTE = 1024**3, 1024**2


def in_environments(effect: Effect) -> bool:
    """Whether everything that an option does is seen in the environment of a service that runs here."""
    return effect.group == "together" and all(sight.service in RUNNING for sight in effect.sights)


SEEN = [effect for effect in EFFECTS if in_environments(effect)]


class Instance:
    """One instance on the machine's own Engine."""

    def __init__(self, root: Path, name: str) -> None:
        self.root = root
        self.name = name
        self.client = docker.from_env()

    def bring(self, options: Mapping[str, Any]) -> Result:
        """Write the files and start what they say."""
        engine = _engine.connect()
        converge(
            self.root,
            {"name": self.name, "state": "present", **options},
            engine=engine,
            real_host=True,
            ports=parse_port_range("28000-28490"),
            subnet_pool=parse_pool("10.217.0.0/16"),
        )
        wanted = Settings(state="started", timeout=180.0, pull="never")
        (result,) = Runner(Layout(str(self.root)), engine, Compose(), wanted).run([self.name])
        assert not result.failed, result.msg
        assert result.health == "healthy"
        return result

    def containers(self) -> Dict[str, Any]:
        """The containers by service, as the Engine inspects them."""
        found = self.client.containers.list(all=True, filters={"label": "io.multibase.instance=" + self.name})
        return {container.labels["com.docker.compose.service"]: container for container in found}

    def inspected(self) -> Dict[str, Any]:
        return {service: container.attrs for service, container in self.containers().items()}

    def view(self) -> View:
        """The environments that the containers have, where the table looks for them."""
        services = {
            service: {"environment": dict(line.split("=", 1) for line in attributes["Config"]["Env"])}
            for service, attributes in self.inspected().items()
        }
        directory = self.root / "projects" / self.name
        return View(self.name, directory, {"services": services}, manifest_of(self.root, self.name))

    def clean(self) -> None:
        """Remove everything that the tests made, by label and id."""
        filters = {"label": "io.multibase.instance=" + self.name}
        for container in self.client.containers.list(all=True, filters=filters):
            container.remove(force=True, v=True)
        for volume in self.client.volumes.list(filters=filters):
            volume.remove()
        for network in self.client.networks.list(filters=filters):
            try:
                network.remove()
            except docker.errors.APIError as error:
                # Engine 20.10 sometimes counts an endpoint that is gone; the network is harmless then.
                print("left behind:", network.name, error, file=sys.stderr)


@pytest.fixture(scope="module")
def instance(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Instance]:
    """An instance that runs with every option that ends in the environment of one of its services."""
    root = tmp_path_factory.mktemp("multibase")
    made = Instance(root, "options-" + secrets.token_hex(3))
    options: List[Mapping[str, Any]] = [GROUPS["together"], *(effect.options() for effect in SEEN), SMALL]
    try:
        made.bring(functools.reduce(merged, options))
        yield made
    finally:
        try:
            made.clean()
        finally:
            shutil.rmtree(root)


def test_the_sample_is_large_enough() -> None:
    assert len(SEEN) > 200
    assert {sight.service for effect in SEEN for sight in effect.sights} == {"auth", "db", "functions", "rest"}


def test_options_in_the_environment(instance: Instance) -> None:
    view = instance.view()
    assert set(view.services) == RUNNING
    wrong = {
        "{0}: {1} is {2!r}".format(effect.option, sight.what, sight.look(view))
        for effect in SEEN
        for sight in effect.sights
        if sight.look(view) != sight.expected
    }
    assert not wrong, "\n".join(sorted(wrong))


def test_processes_have_it_to_the_byte(instance: Instance) -> None:
    """What the Engine says it gave, and what the first process of the container got."""
    expected = {
        "auth": {"GOTRUE_SMTP_PASS": HARD, "GOTRUE_MAILER_SUBJECTS_INVITE": "invite: " + HARD},
        "rest": {"PGRST_SERVER_TRACE_HEADER": HARD, "PGRST_DB_POOL": "14"},
        "functions": {"STRIPE_KEY": "sk " + HARD, "PUSH_KEY": LINES},
    }
    view, containers = instance.view(), instance.containers()
    for service, variables in expected.items():
        code, output = containers[service].exec_run(["cat", "/proc/1/environ"])
        assert code == 0, output
        got = dict(entry.decode("utf-8").split("=", 1) for entry in output.split(b"\0") if entry)
        for variable, text in variables.items():
            assert got[variable] == text, service
            assert view.environment(service)[variable] == text, service


def test_nobody_else_has_the_secrets(instance: Instance) -> None:
    """Not the other services, and nothing of a container but its environment."""
    inspected = instance.inspected()
    for owner, word in (("auth", "sms.vonage.api_secret a $HOME"), ("functions", "sk a $HOME")):
        places = {path[:3] for path, value in leaves(inspected) if word in str(value)}
        assert places == {(owner, "Config", "Env")}


def test_limits(instance: Instance) -> None:
    """All services share the size: memory is divided, and processors are when there are too few."""
    limits = {service: attributes["HostConfig"] for service, attributes in instance.inspected().items()}
    memory = {service: limit["Memory"] for service, limit in limits.items()}
    shares = {service: limit["CpuShares"] for service, limit in limits.items()}
    assert GIGABYTE - len(RUNNING) * MEGABYTE < sum(memory.values()) <= GIGABYTE
    assert {limit["NanoCpus"] for limit in limits.values()} == {10**9}
    assert 1024 - len(RUNNING) < sum(shares.values()) <= 1024
    assert max(memory, key=memory.__getitem__) == max(shares, key=shares.__getitem__) == "db"


def test_ports_and_health_checks(instance: Instance) -> None:
    base = manifest_of(instance.root, instance.name)["port_base"]
    inspected = instance.inspected()
    bound = {
        (service, port, binding["HostIp"], int(binding["HostPort"]) - base)
        for service, attributes in inspected.items()
        for port, bindings in attributes["NetworkSettings"]["Ports"].items()
        for binding in bindings or []
    }
    assert bound == {("api-gw", "8000/tcp", "127.0.0.2", 0), ("db", "5432/tcp", "127.0.0.2", 5)}
    intervals = {attributes["Config"]["Healthcheck"]["Interval"] for attributes in inspected.values()}
    assert intervals == {2 * 10**9}


def test_options_taken_back(instance: Instance) -> None:
    """Without its options the same instance has the defaults again, and a limit for each service of its own."""
    small = {key: value for key, value in SMALL.items() if key not in ("secrets", "expose", "bind_address")}
    instance.bring({**small, "cpu_burst": False})
    view = instance.view()
    still = {
        "{0}: {1}".format(effect.option, sight.what)
        for effect in SEEN
        for sight in effect.sights
        if sight.look(view) == sight.expected
    }
    assert not still, "\n".join(sorted(still))
    assert not {"STRIPE_KEY", "PUSH_KEY"} & set(view.environment("functions"))
    assert not [name for name in view.environment("auth") if name.startswith(("GOTRUE_SMS_VONAGE", "GOTRUE_HOOK"))]
    processors = [attributes["HostConfig"]["NanoCpus"] for attributes in instance.inspected().values()]
    assert 10**9 - len(RUNNING) * 10**7 <= sum(processors) <= 10**9 and 0 < min(processors) < max(processors)
    assert instance.bring({**small, "cpu_burst": False}).actions == []
