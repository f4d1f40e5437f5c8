# SPDX-License-Identifier: GPL-3.0-or-later
"""The life cycle of instances on a real Docker Engine, with the oldest and the newest Compose that can be had here.

One test for each trap of Compose that the adapter must know (docs/architecture.md). What a test claims is read from the
Engine, over HTTP or from the files, never from the tool's own word. The images are those of the sandbox.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any, Dict, Iterator, List

import docker
import pytest

from ansible_collections.multibase.supabase.plugins.action.instance import read_release
from ansible_collections.multibase.supabase.plugins.module_utils import _engine
from ansible_collections.multibase.supabase.plugins.module_utils._compose import Compose
from ansible_collections.multibase.supabase.plugins.module_utils._envfile import parse
from ansible_collections.multibase.supabase.plugins.module_utils._instances import Converger, Request
from ansible_collections.multibase.supabase.plugins.module_utils._layout import Layout
from ansible_collections.multibase.supabase.plugins.module_utils._ports import parse_port_range
from ansible_collections.multibase.supabase.plugins.module_utils._process import Completed
from ansible_collections.multibase.supabase.plugins.module_utils._release import release_from_bundle
from ansible_collections.multibase.supabase.plugins.module_utils._sizes import Capacity
from ansible_collections.multibase.supabase.plugins.module_utils._spec import Layers
from ansible_collections.multibase.supabase.plugins.module_utils._stacks import Result, Runner, Settings
from ansible_collections.multibase.supabase.plugins.module_utils._subnets import parse_pool

REPOSITORY = Path(__file__).resolve().parents[2]
RELEASE = release_from_bundle("0.8.2", read_release(str(REPOSITORY / "compose_templates" / "0.8.2")))
# Few services and a short interval: what is tested is the adapter, not the stack.
SMALL = {
    "image_set": "sandbox",
    "size": "small",
    "health_interval": "1s",
    "services": {name: False for name in ("studio", "meta", "realtime", "storage", "imgproxy", "functions")},
}


def compose_binaries() -> Dict[str, str]:
    """Return the Compose plugins to test with, version -> path."""
    command = [sys.executable, "tests/sandbox/sandbox.py", "compose-binaries", ".cache/compose"]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=True)
    return dict(json.loads(done.stdout))


@pytest.fixture(scope="module", params=["oldest", "newest"])
def compose_version(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Make one Compose plugin the one that docker uses."""
    binaries = compose_binaries()
    by_age = sorted(binaries, key=lambda version: [int(part) for part in version.split(".")])
    version = by_age[0 if request.param == "oldest" else -1]
    config = tmp_path_factory.mktemp("docker-config")
    (config / "cli-plugins").mkdir()
    (config / "cli-plugins" / "docker-compose").symlink_to(binaries[version])
    before = os.environ.get("DOCKER_CONFIG")
    os.environ["DOCKER_CONFIG"] = str(config)
    assert Compose().version() == version
    yield version
    if before is None:
        del os.environ["DOCKER_CONFIG"]
    else:
        os.environ["DOCKER_CONFIG"] = before


class Host:
    """The machine's own Engine as a Multibase host, with a root directory of its own."""

    def __init__(self, root: Path) -> None:
        self.layout = Layout(str(root))
        self.engine = _engine.connect()
        self.client = docker.from_env()
        self.names: List[str] = []

    def converge(self, *items: Dict[str, Any], keep: bool = False) -> List[Dict[str, Any]]:
        """Run the core of the module ``instance``."""
        request = Request(
            layout=self.layout,
            releases={"0.8.2": RELEASE},
            ports=parse_port_range("29000-29990"),
            subnet_pool=parse_pool("10.215.0.0/16"),
            layers=Layers(SMALL, {}),
            keep_unmentioned=keep,
            confirmed=frozenset(self.names),
            lock_timeout=10,
            check_mode=False,
            with_diff=False,
            capacity=Capacity(os.cpu_count() or 1, memory=0, cpu_factor=0, memory_factor=0),
            now=int(time.time()),
        )
        items = tuple({"state": "present", **item} for item in items)
        self.names = sorted({*self.names, *(str(item["name"]) for item in items)})
        return [result.as_dict() for result in Converger(request, lambda: self.engine).run(items)]

    def stack(self, names: List[str], compose: Compose | None = None, **settings: Any) -> List[Result]:
        """Run the core of the module ``stack``."""
        wanted = Settings(**{"state": "started", "timeout": 120.0, "pull": "never", **settings})
        return Runner(self.layout, self.engine, compose or Compose(), wanted).run(names)

    def up(self, name: str) -> Result:
        """Start one instance, which must succeed."""
        (result,) = self.stack([name])
        assert not result.failed, result.msg
        assert result.health == "healthy"
        return result

    def project(self, name: str) -> str:
        return "multibase-" + name

    def containers(self, name: str) -> Dict[str, Any]:
        """Return the instance's containers by service, as the Engine inspects them."""
        label = "com.docker.compose.project=" + self.project(name)
        found = self.client.containers.list(all=True, filters={"label": label})
        return {container.labels["com.docker.compose.service"]: container for container in found}

    def volumes(self, name: str) -> List[str]:
        label = "io.multibase.instance=" + name
        return sorted(volume.name for volume in self.client.volumes.list(filters={"label": label}))

    def directory(self, name: str) -> Path:
        return Path(self.layout.project(name))

    def variables(self, name: str) -> Dict[str, str]:
        return parse((self.directory(name) / ".env").read_text())

    def status(self, name: str, path: str, key: str = "") -> int:
        """Ask the gateway and return the status code."""
        port = self.variables(name)["API_GW_HTTP_PORT"]
        headers = {"apikey": self.variables(name)[key]} if key else {}
        request = urllib.request.Request("http://127.0.0.1:{0}{1}".format(port, path), headers=headers)
        try:
            with urllib.request.urlopen(request, timeout=10) as answer:
                return int(answer.status)
        except urllib.error.HTTPError as error:
            return error.code

    def clean(self) -> None:
        """Remove everything that the tests made, by label and id."""
        for name in self.names:
            for label in ("io.multibase.instance=" + name, "com.docker.compose.project=" + self.project(name)):
                for container in self.client.containers.list(all=True, filters={"label": label}):
                    container.remove(force=True, v=True)
                for volume in self.client.volumes.list(filters={"label": label}):
                    volume.remove()
                for network in self.client.networks.list(filters={"label": label}):
                    try:
                        network.remove()
                    except docker.errors.APIError as error:
                        # Engine 20.10 sometimes counts an endpoint that is gone; the network is harmless then.
                        print("left behind:", network.name, error, file=sys.stderr)


@pytest.fixture(scope="module")
def host(compose_version: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Host]:
    """A host with nothing on it."""
    root = tmp_path_factory.mktemp("multibase")
    made = Host(root)
    yield made
    made.clean()
    shutil.rmtree(root)


@pytest.fixture(scope="module")
def name(host: Host) -> str:
    """An instance that runs."""
    name = "itest-" + secrets.token_hex(3)
    host.converge({"name": name})
    host.up(name)
    return name


class NoCompose(Compose):
    """Fails the test when Compose is called at all."""

    def __init__(self) -> None:
        super().__init__(runner=self._refuse)

    @staticmethod
    def _refuse(argv: Any, *_rest: Any) -> Completed:
        raise AssertionError("Compose was run: {0}".format(argv))


def test_runs_and_answers(host: Host, name: str) -> None:
    assert set(host.containers(name)) == {"api-gw", "auth", "db", "rest", "supavisor"}
    assert host.status(name, "/rest/v1/anything") == 401
    # The gateway looks for a name it does not know yet at least every 1.5 s, so it may learn of a service that late.
    deadline = time.monotonic() + 3
    while host.status(name, "/rest/v1/anything", "ANON_KEY") == 503 and time.monotonic() < deadline:
        time.sleep(0.2)
    assert host.status(name, "/rest/v1/anything", "ANON_KEY") == 200
    assert host.status(name, "/pg/tables", "ANON_KEY") == 403


def test_converged_needs_no_compose(host: Host, name: str) -> None:
    (result,) = host.stack([name], compose=NoCompose())
    assert (result.failed, result.changed, result.health) == (False, False, "healthy"), result.msg


def test_ports_are_bound_to_loopback_as_registered(host: Host, name: str) -> None:
    registry = json.loads(Path(host.layout.registry).read_text())
    base = registry["instances"][name]["port_base"]
    bound = {
        (binding["HostIp"], int(binding["HostPort"]))
        for container in host.containers(name).values()
        for bindings in container.ports.values()
        for binding in bindings or []
    }
    assert bound == {("127.0.0.1", base), ("127.0.0.1", base + 3), ("127.0.0.1", base + 4)}


def test_every_container_is_labelled_limited_and_rotates_its_log(host: Host, name: str) -> None:
    for service, container in host.containers(name).items():
        config = container.attrs["HostConfig"]
        assert container.labels["io.multibase.instance"] == name
        assert config["LogConfig"]["Config"].get("max-size"), service
        assert config["Memory"] > 0 and config["NanoCpus"] > 0 and config["PidsLimit"] > 0, service
        assert "no-new-privileges:true" in config["SecurityOpt"], service


def test_shell_variables_do_not_reach_compose(host: Host, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COMPOSE_PROFILES", "studio,meta")
    monkeypatch.setenv("COMPOSE_PROJECT_NAME", "somebody-else")
    monkeypatch.setenv("API_GW_HTTP_PORT", "1")
    Path(host.layout.record(name)).unlink()
    result = host.up(name)
    assert result.actions == [], "Compose saw the shell's variables"
    assert not host.client.containers.list(all=True, filters={"label": "com.docker.compose.project=somebody-else"})


def test_changed_gateway_recreates_only_the_gateway(host: Host, name: str) -> None:
    before = {service: container.id for service, container in host.containers(name).items()}
    host.converge({"name": name, "cors_origins": ["https://app.example.com"]})
    assert host.up(name).actions == ["recreated api-gw"]
    after = {service: container.id for service, container in host.containers(name).items()}
    assert {service for service in after if after[service] != before[service]} == {"api-gw"}
    (result,) = host.stack([name], compose=NoCompose())
    assert not result.changed


def test_service_switched_on_and_off_again(host: Host, name: str) -> None:
    host.converge({"name": name, "services": {"meta": True}})
    assert "created meta" in host.up(name).actions
    assert host.status(name, "/pg/tables", "SERVICE_ROLE_KEY") == 200
    host.converge({"name": name})
    assert "removed meta" in host.up(name).actions
    assert "meta" not in host.containers(name)
    assert host.status(name, "/pg/tables", "SERVICE_ROLE_KEY") == 404


def test_stop_reaches_a_service_that_was_switched_off_meanwhile(host: Host, name: str) -> None:
    host.converge({"name": name, "services": {"meta": True}})
    host.up(name)
    host.converge({"name": name})
    volumes = host.volumes(name)
    (result,) = host.stack([name], state="stopped")
    assert not result.failed and result.changed
    assert {container.status for container in host.containers(name).values()} == {"exited"}
    assert host.volumes(name) == volumes != []
    (again,) = host.stack([name], state="stopped", compose=NoCompose())
    assert not again.changed
    host.up(name)


def test_users_override_file_is_used_while_it_exists(host: Host, name: str) -> None:
    override = host.directory(name) / "docker-compose.override.yml"
    override.write_text("services:\n  rest:\n    labels: {test.multibase.override: 'yes'}\n")
    before = override.read_bytes()
    assert "recreated rest" in host.up(name).actions
    assert host.containers(name)["rest"].labels["test.multibase.override"] == "yes"
    host.converge({"name": name})
    assert override.read_bytes() == before
    host.up(name)
    override.unlink()
    assert "recreated rest" in host.up(name).actions
    host.converge({"name": name})
    host.up(name)


def test_listed_file_that_is_missing_is_an_error_and_is_put_back(host: Host, name: str) -> None:
    host.converge({"name": name, "expose": ["postgres"]})
    overlay = host.directory(name) / "overlays" / "expose-postgres.yml"
    overlay.unlink()
    (result,) = host.stack([name])
    assert result.failed and "expose-postgres.yml" in result.msg
    (converged,) = host.converge({"name": name, "expose": ["postgres"]})
    assert converged["actions"] == ["changed overlays/expose-postgres.yml"]
    host.up(name)
    port = host.variables(name)["POSTGRES_PUBLISHED_PORT"]
    assert host.containers(name)["db"].ports["5432/tcp"] == [{"HostIp": "127.0.0.1", "HostPort": port}]
    host.converge({"name": name})
    host.up(name)


def test_container_that_somebody_stopped_is_started_again(host: Host, name: str) -> None:
    host.containers(name)["auth"].stop(timeout=1)
    assert host.up(name).actions == ["started auth"]


def test_container_that_somebody_removed_is_created_again(host: Host, name: str) -> None:
    host.containers(name)["rest"].remove(force=True)
    result = host.up(name)
    assert [action.split()[-1] for action in result.actions] == ["rest"]


def test_restart_of_one_service(host: Host, name: str) -> None:
    started = {service: box.attrs["State"]["StartedAt"] for service, box in host.containers(name).items()}
    (result,) = host.stack([name], state="restarted", services=("auth",))
    assert not result.failed and result.actions == ["restarted auth"], result.msg
    now = {service: box.attrs["State"]["StartedAt"] for service, box in host.containers(name).items()}
    assert {service for service in now if now[service] != started[service]} == {"auth"}


def test_moved_tag_is_noticed(host: Host, name: str) -> None:
    standin = host.client.images.get("multibase-sandbox/standin:2")
    tag = "multibase-itest-{0}/rest".format(secrets.token_hex(3))
    standin.tag(tag, "1")
    try:
        host.converge({"name": name, "images": {"rest": tag + ":1"}})
        host.up(name)
        changed = host.containers(name)["rest"].commit()
        changed.tag(tag, "1")
        assert host.up(name).actions == ["recreated rest"]
        host.converge({"name": name})
        host.up(name)
    finally:
        host.client.images.remove(tag + ":1", force=True)


def test_service_that_does_not_come_up_is_named_with_its_last_words(host: Host, name: str) -> None:
    override = host.directory(name) / "docker-compose.override.yml"
    override.write_text(
        "services:\n  rest:\n    command: [sh, -c, 'echo refusing because of $$PGRST_JWT_SECRET; exit 3']\n"
        "    entrypoint: []\n"
    )
    (result,) = host.stack([name], timeout=25.0)
    assert result.failed
    assert "service rest is" in result.msg and "refusing because of ***" in result.msg
    assert host.variables(name)["JWT_SECRET"] not in result.msg
    override.unlink()
    host.up(name)


def test_missing_image_is_a_readable_error(host: Host, name: str) -> None:
    host.converge({"name": name, "images": {"rest": "multibase-itest/does-not-exist:1"}})
    (result,) = host.stack([name], timeout=60.0)
    assert result.failed and "does-not-exist" in result.msg
    host.converge({"name": name})
    host.up(name)


def test_more_processors_than_the_host_has(host: Host, name: str) -> None:
    host.converge({"name": name, "size": "large"})
    host.up(name)
    cpus = {box.attrs["HostConfig"]["NanoCpus"] for box in host.containers(name).values()}
    assert cpus == {min(4, os.cpu_count() or 1) * 10**9}
    host.converge({"name": name})
    host.up(name)


def test_several_at_once_and_one_that_fails(host: Host, name: str) -> None:
    others = ["itest-{0}-{1}".format(secrets.token_hex(2), number) for number in (1, 2)]
    host.converge({"name": others[0]}, {"name": others[1], "images": {"db": "multibase-itest/none:1"}})
    results = host.stack([others[1], name, others[0]], timeout=90.0)
    assert [result.name for result in results] == [others[1], name, others[0]]
    assert [result.failed for result in results] == [True, False, False]
    assert host.status(others[0], "/rest/v1/anything") == 401
    removed = host.stack(others, state="absent", purge_volumes=True, confirmed=frozenset(others), parallel=1)
    assert [result.msg for result in removed] == ["", ""]
    assert host.containers(others[0]) == {} and host.volumes(others[0]) == []


def test_vault_root_key_survives_even_a_purge_of_volumes(host: Host, name: str) -> None:
    key = host.directory(name) / "volumes" / "db" / "custom" / "pgsodium_root.key"
    before = key.read_bytes()
    assert before
    (result,) = host.stack([name], state="absent")
    assert not result.failed and host.volumes(name) != [], result.msg
    (result,) = host.stack([name], state="absent", purge_volumes=True, confirmed=frozenset([name]))
    assert not result.failed and host.volumes(name) == [], result.msg
    assert key.read_bytes() == before
    host.up(name)
    assert key.read_bytes() == before


def test_delete_leaves_nothing_and_touches_nothing_else(host: Host, name: str) -> None:
    sibling = name + "2"
    host.converge({"name": sibling})
    host.up(sibling)
    sibling_ids = {box.id for box in host.containers(sibling).values()}
    with pytest.raises(Exception, match="there is still"):
        host.converge({"name": name, "state": "absent"})
    assert host.directory(name).is_dir()
    (result,) = host.stack([name], state="absent", purge_volumes=True, confirmed=frozenset([name]))
    assert not result.failed, result.msg
    (converged,) = host.converge({"name": name, "state": "absent"})
    assert converged["changed"] and not host.directory(name).exists()
    assert host.engine.left_of(host.project(name), name) == {"containers": [], "networks": [], "volumes": []}
    assert {box.id for box in host.containers(sibling).values()} == sibling_ids
    assert host.status(sibling, "/rest/v1/anything") == 401
    (again,) = host.converge({"name": name, "state": "absent"})
    assert not again["changed"]
