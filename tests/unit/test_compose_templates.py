# SPDX-License-Identifier: GPL-3.0-or-later
"""The releases below compose_templates: the rules of their files, read as data and through `docker compose config`.

No Docker Engine is needed, but the docker command with Compose.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import itertools
import json
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Dict, Iterator, List, Mapping, Optional, Sequence, Set, Tuple

import pytest
import yaml

TEMPLATES = Path(__file__).resolve().parents[2] / "compose_templates"
RELEASE = TEMPLATES / "0.8.2"
SERVICES = {
    "api-gw", "auth", "db", "functions", "imgproxy", "meta", "realtime", "rest", "storage", "studio", "supavisor",
}  # fmt: skip
ALWAYS = {"db", "api-gw"}
OVERLAYS = ("overlays/start-interval.yml", "overlays/expose-postgres.yml", "overlays/expose-studio.yml")
VARIABLE = re.compile(r"\$\{([A-Z][A-Z0-9_]*)(:?\?)\}")

# Which services receive which secret. What stands here ends up in `docker inspect` of that service.
SECRETS: Dict[str, Set[str]] = {
    "POSTGRES_PASSWORD": {"auth", "db", "functions", "meta", "realtime", "rest", "storage", "studio", "supavisor"},
    "JWT_SECRET": {"auth", "functions", "realtime", "storage", "studio", "supavisor"},
    "PGRST_JWT_SECRET": {"rest"},
    "JWT_KEYS": {"auth"},
    "JWT_JWKS": {"functions", "realtime", "storage"},
    "ANON_KEY": {"functions", "realtime", "storage", "studio"},
    "SERVICE_ROLE_KEY": {"functions", "storage", "studio"},
    "SUPABASE_PUBLISHABLE_KEY": {"functions", "studio"},
    "SUPABASE_SECRET_KEY": {"functions", "studio"},
    "SECRET_KEY_BASE": {"realtime", "supavisor"},
    "REALTIME_DB_ENC_KEY": {"realtime"},
    "VAULT_ENC_KEY": {"supavisor"},
    "PG_META_CRYPTO_KEY": {"meta", "studio"},
    "S3_PROTOCOL_ACCESS_KEY_ID": {"storage"},
    "S3_PROTOCOL_ACCESS_KEY_SECRET": {"storage"},
    "SMTP_PASS": {"auth"},
    "OPENAI_API_KEY": {"studio"},
}


class Loader(yaml.SafeLoader):
    """A safe loader that reads Compose's !override and !reset as the plain value and refuses duplicate keys."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> Dict[Any, Any]:
        keys = [key.value for key, _value in node.value if key.tag != "tag:yaml.org,2002:merge"]
        doubles = {key for key in keys if keys.count(key) > 1}
        assert not doubles, "line {0}: duplicate {1}".format(node.start_mark.line + 1, doubles)
        return super().construct_mapping(node, deep)


def _plain(loader: Loader, node: yaml.Node) -> Any:
    if isinstance(node, yaml.MappingNode):
        return loader.construct_mapping(node, deep=True)
    if isinstance(node, yaml.SequenceNode):
        return loader.construct_sequence(node, deep=True)
    assert isinstance(node, yaml.ScalarNode)
    return loader.construct_scalar(node)


Loader.add_constructor("!override", _plain)
Loader.add_constructor("!reset", _plain)


def load(relative: str) -> Dict[str, Any]:
    data = yaml.load((RELEASE / relative).read_text(encoding="utf-8"), Loader)
    assert isinstance(data, dict)
    return data


def strings(value: Any) -> Iterator[str]:
    """All strings in a tree, keys included."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield from strings(key)
            yield from strings(item)
    elif isinstance(value, Sequence):
        for item in value:
            yield from strings(item)


BASE = load("docker-compose.yml")
DEFINITION = load("release.yml")
COMPOSE_FILES = ("docker-compose.yml", *OVERLAYS)

each_service = pytest.mark.parametrize("name", sorted(SERVICES))


# The definition of the release


def test_all_overlays_are_known() -> None:
    found = {path.relative_to(RELEASE).as_posix() for path in (RELEASE / "overlays").iterdir()}
    assert found == set(OVERLAYS)


def test_services_are_the_same_everywhere() -> None:
    assert set(BASE["services"]) == SERVICES
    assert set(DEFINITION["weights"]) == SERVICES
    assert set(DEFINITION["image_sets"]) == {"upstream", "sandbox"}
    for images in DEFINITION["image_sets"].values():
        assert set(images) == SERVICES
        for reference in images.values():
            assert re.fullmatch(r"[a-z0-9-]+/[a-z0-9-]+:[\w.-]+", reference), reference
    for service, needed in DEFINITION["requires"].items():
        assert {service, *needed} <= SERVICES - ALWAYS


def test_weights_fit_the_smallest_size() -> None:
    weights = DEFINITION["weights"]
    assert all(isinstance(weight, int) and weight > 0 for weight in weights.values())
    assert max(weights, key=weights.__getitem__) == "db"
    # In an instance of 2 GiB with everything on, postgres-meta still has more than it was measured with when idle.
    assert 2048 * weights["meta"] // sum(weights.values()) >= 170


def test_release_and_minimum_versions() -> None:
    assert DEFINITION["release"] == RELEASE.name
    assert DEFINITION["minimum"] == {"engine": "20.10", "compose": "2.24"}


def test_ports_agree_with_the_compose_files() -> None:
    offsets = {purpose: port["offset"] for purpose, port in DEFINITION["ports"].items()}
    assert offsets == {
        "gateway_http": 0, "studio": 2, "pooler_session": 3, "pooler_transaction": 4, "postgres": 5,
    }  # fmt: skip
    declared = {
        (port.get("overlay", "docker-compose.yml"), port["service"], port["target"], port["variable"])
        for port in DEFINITION["ports"].values()
    }
    published = {
        (file, service, port["target"], VARIABLE.fullmatch(port["published"]).group(1))
        for file in COMPOSE_FILES
        for service, data in load(file)["services"].items()
        for port in data.get("ports", [])
    }
    assert published == declared


def test_files_exist() -> None:
    own = [*DEFINITION["seed_files"], *itertools.chain(*DEFINITION["mounted"].values()), *DEFINITION["overlays"]]
    for path in set(own) - set(DEFINITION["generated_files"]):
        assert (RELEASE / path).is_file(), path
    for path in DEFINITION["generated_files"]:
        assert not (RELEASE / path).exists(), path


def test_directories() -> None:
    directories = DEFINITION["directories"]
    for path, mode in directories.items():
        assert re.fullmatch(r"0[0-7]{3}", mode), path
        parent = os.path.dirname(path)
        assert not parent or parent in directories, path
    needed = {os.path.dirname(path.relative_to(RELEASE).as_posix()) for path in RELEASE.rglob("*") if path.is_file()}
    needed |= {os.path.dirname(path) for path in DEFINITION["generated_files"]}
    assert needed - {""} <= set(directories)
    # Data of services is in nobody else's reach, and what non-root services read from a mount is open to them.
    assert {path for path, mode in directories.items() if mode != "0755"} == {"volumes/db/data"}


# Variables


def uses(relative: str) -> List[Tuple[str, str]]:
    found = []
    for text in strings(load(relative)):
        rest = VARIABLE.sub("", text.replace("$$", ""))
        assert "$" not in rest, "{0}: only ${{NAME:?}} and ${{NAME?}} are allowed: {1}".format(relative, text)
        found += [(match.group(1), match.group(2)) for match in VARIABLE.finditer(text.replace("$$", ""))]
    return found


def test_variables_are_declared_and_used() -> None:
    used = set(itertools.chain.from_iterable(uses(file) for file in COMPOSE_FILES))
    declared = {(name, ":?") for name in DEFINITION["variables"]["with_value"]}
    declared |= {(name, "?") for name in DEFINITION["variables"]["may_be_empty"]}
    assert used == declared
    for names in DEFINITION["variables"].values():
        assert names == sorted(names)


def test_each_service_has_its_own_variables() -> None:
    used = {name for name, _kind in uses("docker-compose.yml")}
    for kind in ("IMAGE", "MEMORY", "CPUS", "CONFIG"):
        prefix = "MULTIBASE_{0}_".format(kind)
        expected = set(DEFINITION["mounted"]) if kind == "CONFIG" else SERVICES
        assert {name for name in used if name.startswith(prefix)} == {variable(kind, name) for name in expected}


def variable(kind: str, service: str) -> str:
    return "MULTIBASE_{0}_{1}".format(kind, service.upper().replace("-", "_"))


# Rules for services


@each_service
def test_image_and_limits(name: str) -> None:
    service = BASE["services"][name]
    assert service["image"] == "${" + variable("IMAGE", name) + ":?}"
    assert service["mem_limit"] == "${" + variable("MEMORY", name) + ":?}"
    assert service["cpus"] == "${" + variable("CPUS", name) + ":?}"
    assert 128 <= service["pids_limit"] <= 1024


@each_service
def test_restart_logging_and_privileges(name: str) -> None:
    service = BASE["services"][name]
    assert service["restart"] == "unless-stopped"
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert service["logging"] == {"driver": "json-file", "options": {"max-size": "10m", "max-file": "3"}}
    forbidden = {
        "build", "cap_add", "container_name", "devices", "env_file", "extra_hosts", "hostname", "ipc", "network_mode",
        "pid", "privileged", "ulimits", "userns_mode",
    }  # fmt: skip
    assert not forbidden & set(service)


@each_service
def test_labels(name: str) -> None:
    expected = {"io.multibase.instance": "${MULTIBASE_INSTANCE:?}"}
    if name in DEFINITION["mounted"]:
        expected["io.multibase.config"] = "${" + variable("CONFIG", name) + ":?}"
    assert BASE["services"][name]["labels"] == expected


def test_networks_and_volumes_are_labelled() -> None:
    labels = {"io.multibase.instance": "${MULTIBASE_INSTANCE:?}"}
    assert BASE["networks"] == {
        "default": {"labels": labels, "ipam": {"config": [{"subnet": "${MULTIBASE_SUBNET:?}"}]}}
    }
    assert set(BASE["volumes"]) == {"db-config", "deno-cache"}
    for volume in BASE["volumes"].values():
        assert volume["labels"] == labels
        assert not {"name", "external"} & set(volume)
    assert BASE["volumes"]["db-config"]["driver_opts"] == {
        "type": "none", "o": "bind", "device": "${MULTIBASE_PROJECT_DIR:?}/volumes/db/custom",
    }  # fmt: skip


@each_service
def test_profiles(name: str) -> None:
    assert BASE["services"][name].get("profiles", []) == ([] if name in ALWAYS else [name])


@each_service
def test_health_check(name: str) -> None:
    check = BASE["services"][name]["healthcheck"]
    assert check["interval"] == "${MULTIBASE_HEALTH_INTERVAL:?}"
    assert check["timeout"] == ("10s" if name == "studio" else "5s")
    assert check["start_period"] == ("300s" if name == "db" else "60s")
    assert check["retries"] == 3
    assert "start_interval" not in check
    # A probe's arguments are in the host's process list: no secret among them, and none that Compose would fill in.
    assert not VARIABLE.search(" ".join(check["test"]).replace("$$", ""))
    assert load("overlays/start-interval.yml")["services"][name] == {"healthcheck": {"start_interval": "1s"}}


@each_service
def test_dependencies(name: str) -> None:
    needs_database = {"auth", "meta", "realtime", "rest", "storage", "supavisor"}
    dependencies = BASE["services"][name].get("depends_on", {})
    expected: Dict[str, Dict[str, Any]] = {"db": {"condition": "service_healthy"}} if name in needs_database else {}
    if name == "storage":
        for other in ("rest", "imgproxy"):
            expected[other] = {"condition": "service_started", "required": False}
    assert dependencies == expected


def test_published_ports_are_bound() -> None:
    for file in COMPOSE_FILES:
        for name, service in load(file)["services"].items():
            for port in service.get("ports", []):
                assert port["host_ip"] == "${MULTIBASE_BIND_ADDRESS:?}", (file, name)
                assert VARIABLE.fullmatch(port["published"]), (file, name)


@each_service
def test_mounts(name: str) -> None:
    for mount in BASE["services"][name].get("volumes", []):
        if mount["type"] == "volume":
            assert mount["source"] in BASE["volumes"]
            continue
        assert mount["type"] == "bind"
        assert mount["bind"] == {"create_host_path": False}, mount["source"]
        assert mount["source"].startswith("./volumes/"), mount["source"]
        path = mount["source"][2:]
        if (RELEASE / path).is_file():
            # A single file keeps its old content after a rename: only for what is read once in an instance's life.
            assert path.endswith(".sql") and name == "db"
            assert mount["read_only"] is True
        else:
            assert path in DEFINITION["directories"]
    assert "docker.sock" not in json.dumps(BASE["services"][name])


def test_what_services_may_write() -> None:
    writable = {
        (name, mount["source"])
        for name, service in BASE["services"].items()
        for mount in service.get("volumes", [])
        if not mount.get("read_only")
    }
    assert writable == {
        ("db", "./volumes/db/data"), ("db", "db-config"), ("functions", "./volumes/functions"),
        ("functions", "deno-cache"), ("storage", "./volumes/storage"), ("studio", "./volumes/snippets"),
    }  # fmt: skip


def test_secrets_go_where_they_are_needed() -> None:
    for name, service in BASE["services"].items():
        outside = {key: value for key, value in service.items() if key != "environment"}
        for text in strings(outside):
            for match in VARIABLE.finditer(text.replace("$$", "")):
                assert match.group(1) not in SECRETS, (name, text)
    receivers = {
        secret: {
            name
            for name, service in BASE["services"].items()
            if any(
                match.group(1) == secret
                for text in strings(service.get("environment", {}))
                for match in VARIABLE.finditer(text)
            )
        }
        for secret in SECRETS
    }
    assert receivers == SECRETS


def test_signals() -> None:
    services = BASE["services"]
    assert {name for name, service in services.items() if service.get("init")} == {"functions", "meta"}
    assert services["db"]["stop_signal"] == "SIGINT"
    assert services["db"]["stop_grace_period"] == "60s"


# Files for the services


def test_sql_reads_the_environment_and_quotes_it() -> None:
    for path in sorted((RELEASE / "volumes" / "db").glob("*.sql")):
        text = "\n".join(line for line in path.read_text(encoding="utf-8").splitlines() if not line.startswith("--"))
        defined = set(re.findall(r"^\\set (\w+) `printf '%s' \"\$[A-Z_]+\"`$", text, re.MULTILINE))
        defined |= set(re.findall(r" as (\w+) \\gset$", text, re.MULTILINE))
        assert text.count("`") == 2 * text.count("\\set "), path.name
        for match in re.finditer(r"(?<![:\w]):(['\"]?)(\w+)(['\"]?)", text):
            if re.match(r"\\if ", text[text.rfind("\n", 0, match.start()) + 1 :].lstrip()):
                assert match.group(2) in defined
                continue
            assert match.group(2) in defined, (path.name, match.group(0))
            assert match.group(1) and match.group(1) == match.group(3), (path.name, match.group(0))


def test_sql_mounts_follow_the_image() -> None:
    targets = {
        mount["source"]: mount["target"].rpartition("docker-entrypoint-initdb.d/")[2]
        for mount in BASE["services"]["db"]["volumes"]
        if mount["source"].endswith(".sql")
    }
    assert targets == {
        "./volumes/db/webhooks.sql": "init-scripts/98-webhooks.sql",
        "./volumes/db/roles.sql": "init-scripts/99-roles.sql",
        "./volumes/db/jwt.sql": "init-scripts/99-jwt.sql",
        "./volumes/db/_supabase.sql": "migrations/97-_supabase.sql",
        "./volumes/db/logs.sql": "migrations/99-logs.sql",
        "./volumes/db/pooler.sql": "migrations/99-pooler.sql",
        "./volumes/db/realtime.sql": "migrations/99-realtime.sql",
    }
    shipped = {path.name for path in (RELEASE / "volumes" / "db").iterdir()}
    assert shipped == {os.path.basename(source) for source in targets}


@pytest.mark.parametrize("path", ["main", "hello"])
def test_functions_need_no_network(path: str) -> None:
    text = (RELEASE / "volumes" / "functions" / path / "index.ts").read_text(encoding="utf-8")
    assert not re.search(r"^\s*(import|export .* from)\b|\bimport\(|https?://(?!\S*localhost)", text, re.MULTILINE)


def test_no_secret_and_no_default_of_upstream() -> None:
    known = (
        "your-super-secret",
        "supabaserealtime",
        "your-tenant-id",
        "this_password_is_insecure",
        "eyJhbGciOi",
        "sb_secret_",
    )
    for path in RELEASE.rglob("*"):
        if path.is_file():
            text = path.read_text(encoding="utf-8")
            assert not [word for word in known if word in text], path


# Through Compose


def compose_environment() -> Dict[str, str]:
    """Nothing of the caller's environment that Compose would take for a variable."""
    return {name: os.environ[name] for name in ("PATH", "HOME", "DOCKER_CONFIG") if name in os.environ}


@pytest.fixture(scope="module")
def compose() -> List[str]:
    command = ["docker", "compose"]
    hint = "run tests/sandbox/sandbox.py engine"
    assert shutil.which("docker"), "no docker command; " + hint
    answer = subprocess.run([*command, "version"], env=compose_environment(), capture_output=True, check=False)
    assert answer.returncode == 0, "no Compose plugin; " + hint
    return command


def fake_env(overrides: Optional[Mapping[str, str]] = None) -> Dict[str, str]:
    values = {name: "canary-{0}".format(name.lower()) for name in DEFINITION["variables"]["with_value"]}
    values.update(dict.fromkeys(DEFINITION["variables"]["may_be_empty"], ""))
    values.update({name: "canary-{0}".format(name.lower()) for name in SECRETS})
    ports = {port["variable"]: str(28000 + port["offset"]) for port in DEFINITION["ports"].values()}
    values.update(ports)
    for service in SERVICES:
        values[variable("IMAGE", service)] = DEFINITION["image_sets"]["upstream"][service]
        values[variable("MEMORY", service)] = "512m"
        values[variable("CPUS", service)] = "1.50"
    values.update(
        COMPOSE_PROJECT_NAME="multibase-acme",
        MULTIBASE_INSTANCE="acme",
        MULTIBASE_PROJECT_DIR="/srv/acme",
        MULTIBASE_BIND_ADDRESS="127.0.0.1",
        MULTIBASE_SUBNET="10.213.0.0/26",
        MULTIBASE_HEALTH_INTERVAL="30s",
        JWT_KEYS="[]",
        JWT_JWKS='{"keys":[]}',
        SUPABASE_PUBLISHABLE_KEY="",
        SUPABASE_SECRET_KEY="",
        COMPOSE_PROFILES=",".join(sorted(SERVICES - ALWAYS)),
    )
    values.update(overrides or {})
    return values


@pytest.fixture
def project(tmp_path: Path) -> Path:
    directory = tmp_path / "project"
    shutil.copytree(RELEASE, directory)
    return directory


def run_config(
    compose: List[str], project: Path, files: Sequence[str], values: Mapping[str, str]
) -> subprocess.CompletedProcess[str]:
    variables = dict(values, COMPOSE_FILE=":".join(files))
    (project / ".env").write_text(
        "".join("{0}='{1}'\n".format(name, value) for name, value in variables.items()), encoding="utf-8"
    )
    return subprocess.run(
        [*compose, "config", "--format", "json"],
        cwd=project, env=compose_environment(), capture_output=True, text=True, check=False,
    )  # fmt: skip


def config(compose: List[str], project: Path, files: Sequence[str], values: Mapping[str, str]) -> Dict[str, Any]:
    answer = run_config(compose, project, files, values)
    assert answer.returncode == 0, answer.stderr
    assert answer.stderr == ""
    data = json.loads(answer.stdout)
    assert isinstance(data, dict)
    return data


BASE_PORTS = {"api-gw": {"28000:8000"}, "supavisor": {"28003:5432", "28004:6543"}}


@pytest.mark.parametrize(
    "overlays", [(), *((overlay,) for overlay in OVERLAYS), OVERLAYS], ids=lambda value: "+".join(value) or "base"
)
def test_config(compose: List[str], project: Path, overlays: Tuple[str, ...]) -> None:
    data = config(compose, project, ("docker-compose.yml", *overlays), fake_env())
    assert data["name"] == "multibase-acme"
    assert set(data["services"]) == SERVICES

    expected = {name: set(ports) for name, ports in BASE_PORTS.items()}
    if "overlays/expose-postgres.yml" in overlays:
        expected["db"] = {"28005:5432"}
    if "overlays/expose-studio.yml" in overlays:
        expected["studio"] = {"28002:3000"}
    ports = {name: service["ports"] for name, service in data["services"].items() if service.get("ports")}
    assert {
        name: {"{0}:{1}".format(port["published"], port["target"]) for port in items} for name, items in ports.items()
    } == expected
    assert {port["host_ip"] for items in ports.values() for port in items} == {"127.0.0.1"}

    for name, service in data["services"].items():
        check = service["healthcheck"]
        assert check["interval"] == "30s", name
        assert ("start_interval" in check) == ("overlays/start-interval.yml" in overlays), name
        assert service["labels"]["io.multibase.instance"] == "acme"
        assert int(service["mem_limit"]) == 512 * 1024 * 1024
        assert float(service["cpus"]) == 1.5
        for mount in service.get("volumes", []):
            # Compose 2 prints {} for false, Compose 5 the value itself.
            assert mount.get("bind", {}).get("create_host_path", False) is False, mount
    assert data["volumes"]["db-config"]["driver_opts"]["device"] == "/srv/acme/volumes/db/custom"
    assert data["volumes"]["db-config"]["name"] == "multibase-acme_db-config"
    assert data["networks"]["default"]["ipam"]["config"] == [{"subnet": "10.213.0.0/26"}]
    assert data["networks"]["default"]["name"] == "multibase-acme_default"
    for kind in ("volumes", "networks"):
        for item in data[kind].values():
            assert item["labels"]["io.multibase.instance"] == "acme"


def test_config_keeps_secrets_in_the_environment(compose: List[str], project: Path) -> None:
    data = config(compose, project, COMPOSE_FILES, fake_env({"SUPABASE_SECRET_KEY": "canary-supabase_secret_key"}))
    for name, service in data["services"].items():
        environment = service.pop("environment", {})
        assert not [text for text in strings(service) for secret in SECRETS if "canary-" + secret.lower() == text], name
        secrets = {secret for secret in SECRETS if "canary-{0}".format(secret.lower()) in json.dumps(service)}
        assert not secrets, name
        assert None not in environment.values(), name
    assert "environment" not in data["services"]["api-gw"]


def test_config_values(compose: List[str], project: Path) -> None:
    """What quoting in YAML and interpolation could have spoilt."""
    services = config(compose, project, COMPOSE_FILES, fake_env())["services"]
    functions, realtime = services["functions"]["environment"], services["realtime"]
    assert json.loads(functions["SUPABASE_JWKS"]) == {"keys": []}
    assert json.loads(functions["SUPABASE_PUBLISHABLE_KEYS"]) == {"default": ""}
    assert services["auth"]["environment"]["GOTRUE_JWT_KEYS"] == "[]"
    assert services["auth"]["environment"]["GOTRUE_DB_DATABASE_URL"] == (
        "postgres://supabase_auth_admin:canary-postgres_password@db:5432/canary-postgres_db"
    )
    assert realtime["environment"]["DNS_NODES"] == "''"
    assert realtime["networks"]["default"]["aliases"] == ["realtime-dev.supabase-realtime"]
    kind, script = realtime["healthcheck"]["test"]
    assert kind == "CMD-SHELL"
    # `config` writes a literal dollar doubled, as its output is a Compose file again.
    assert script.replace("$$", "$") == (
        """printf 'header = "Authorization: Bearer %s"\\n' "$ANON_KEY" | curl -sSf --head -o /dev/null -K - """
        "http://localhost:4000/api/tenants/realtime-dev/health"
    )
    assert "$(cat /etc/pooler/pooler.exs)" in services["supavisor"]["command"][2]
    assert services["studio"]["healthcheck"]["test"][:3] == ["CMD", "node", "-e"]


@pytest.mark.parametrize(
    "profiles",
    [
        (),
        ("rest",),
        ("storage",),
        ("imgproxy", "storage"),
        ("studio", "meta"),
        ("auth", "rest", "supavisor"),
        ("functions",),
    ],
    ids=lambda value: "+".join(value) or "none",
)
def test_config_of_a_subset(compose: List[str], project: Path, profiles: Tuple[str, ...]) -> None:
    data = config(compose, project, COMPOSE_FILES, fake_env({"COMPOSE_PROFILES": ",".join(profiles)}))
    assert set(data["services"]) == ALWAYS | set(profiles)


@pytest.mark.parametrize(
    "name", ["COMPOSE_PROJECT_NAME", "MULTIBASE_PROJECT_DIR", "MULTIBASE_SUBNET", "POSTGRES_PASSWORD"]
)
def test_a_variable_without_value_is_an_error(compose: List[str], project: Path, name: str) -> None:
    answer = run_config(compose, project, COMPOSE_FILES, fake_env({name: ""}))
    assert answer.returncode != 0
    assert name in answer.stderr


def test_a_missing_variable_is_an_error(compose: List[str], project: Path) -> None:
    values = fake_env()
    del values["SMTP_PASS"]
    answer = run_config(compose, project, COMPOSE_FILES, values)
    assert answer.returncode != 0
    assert "SMTP_PASS" in answer.stderr


# The main service of the functions, run by Deno

DENO = shutil.which("deno") or shutil.which("deno", path=os.path.dirname(sys.executable))
HARNESS = """
// What the Edge Runtime provides, in a few lines: a worker that answers with what it was given.
let handler;
Deno.serve = (given) => { handler = given; };
Deno.stat = (path) => {
  if (path.endsWith("/hello") || path.endsWith("/broken")) return Promise.resolve({ isDirectory: true });
  return Promise.reject(new Deno.errors.NotFound(path));
};
class InvalidWorkerCreation extends Error {}
globalThis.EdgeRuntime = { userWorkers: { create(options) {
  if (options.servicePath.endsWith("/broken")) throw new InvalidWorkerCreation("details for the log");
  return Promise.resolve({ fetch: async (request) => Response.json({
    path: options.servicePath, variables: options.envVars.map(([name]) => name), headers: [...request.headers.keys()],
    body: await request.text(),
  }) });
} } };
await import(Deno.args[0]);
const answers = [];
for (const { method, path, headers, body } of JSON.parse(Deno.args[1])) {
  const response = await handler(new Request("http://functions:9000" + path, { method, headers, body }));
  answers.push({ status: response.status, code: response.headers.get("sb-error-code"), data: await response.json() });
}
console.log(JSON.stringify(answers));
"""


def b64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


def token(secret: str, claims: Mapping[str, Any], algorithm: str = "HS256") -> str:
    header = b64(json.dumps({"alg": algorithm, "typ": "JWT"}).encode())
    content = "{0}.{1}".format(header, b64(json.dumps(claims).encode()))
    return "{0}.{1}".format(content, b64(hmac.new(secret.encode(), content.encode(), hashlib.sha256).digest()))


def call(tmp_path: Path, requests: Sequence[Mapping[str, Any]], variables: Mapping[str, str]) -> List[Dict[str, Any]]:
    assert DENO, "no deno; requirements.txt has it"
    harness = tmp_path / "harness.js"
    harness.write_text(HARNESS, encoding="utf-8")
    main = RELEASE / "volumes" / "functions" / "main" / "index.ts"
    complete = [{"method": "GET", "path": "/hello", "headers": {}, "body": None, **request} for request in requests]
    answer = subprocess.run(
        [DENO, "run", "--no-remote", "--allow-env", "--allow-read", str(harness), main.as_uri(), json.dumps(complete)],
        env={"PATH": os.environ["PATH"], "DENO_DIR": str(tmp_path / "deno"), **variables},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert answer.returncode == 0, answer.stderr
    data = json.loads(answer.stdout.splitlines()[-1])
    assert isinstance(data, list)
    return data


def test_functions_router(tmp_path: Path) -> None:
    answers = call(
        tmp_path,
        [
            {"path": "/hello/x?y=1", "method": "POST", "body": "text", "headers": {"sb-api-key": "x", "x-own": "1"}},
            {"path": "/"},
            {"path": "/absent"},
            {"path": "/main"},
            {"path": "/_shared"},
            {"path": "/..%2f..%2fetc"},
            {"path": "/broken"},
        ],
        {"VERIFY_JWT": "false", "OWN_VARIABLE": "1"},
    )
    assert [answer["status"] for answer in answers] == [200, 400, 404, 404, 404, 404, 503]
    first = answers[0]["data"]
    assert first["path"] == "/home/deno/functions/hello"
    assert first["body"] == "text"
    assert "OWN_VARIABLE" in first["variables"]
    assert "x-own" in first["headers"] and "sb-api-key" not in first["headers"]
    assert answers[6]["code"] == "BOOT_ERROR"
    assert "details" not in json.dumps(answers[6])


def test_functions_verify_tokens(tmp_path: Path) -> None:
    secret, now = "s" * 40, int(time.time())
    good = token(secret, {"role": "anon", "exp": now + 60})
    head, claims, signature = good.split(".")
    cases: List[Tuple[Mapping[str, str], int, Optional[str]]] = [
        ({}, 401, "UNAUTHORIZED_NO_AUTH_HEADER"),
        ({"authorization": "Bearer " + good}, 200, None),
        ({"authorization": "bearer " + good}, 200, None),
        ({"authorization": "Basic dTpw"}, 401, "UNAUTHORIZED_INVALID_JWT_FORMAT"),
        ({"authorization": "Bearer not-a-token"}, 401, "UNAUTHORIZED_INVALID_JWT_FORMAT"),
        ({"authorization": "Bearer a.b.c"}, 401, "UNAUTHORIZED_INVALID_JWT_FORMAT"),
        ({"authorization": "Bearer " + token("t" * 40, {"exp": now + 60})}, 401, "UNAUTHORIZED_LEGACY_JWT"),
        ({"authorization": "Bearer " + token(secret, {"exp": now - 1})}, 401, "UNAUTHORIZED_LEGACY_JWT"),
        ({"authorization": "Bearer " + token(secret, {"exp": "soon"})}, 401, "UNAUTHORIZED_LEGACY_JWT"),
        ({"authorization": "Bearer " + token(secret, {"nbf": now + 60})}, 401, "UNAUTHORIZED_LEGACY_JWT"),
        ({"authorization": "Bearer {0}.{1}.".format(head, claims)}, 401, "UNAUTHORIZED_LEGACY_JWT"),
        (
            {"authorization": "Bearer {0}.{1}.{2}".format(b64(b'{"alg":"none"}'), claims, signature)},
            401,
            "UNAUTHORIZED_UNSUPPORTED_TOKEN_ALGORITHM",
        ),
        ({"authorization": "Bearer " + token(secret, {"exp": now + 60}, "ES256")}, 401, "UNAUTHORIZED_ASYMMETRIC_JWT"),
        ({"sb-api-key": good}, 200, None),
        ({"sb-api-key": good, "authorization": "Bearer sb_publishable_x"}, 200, None),
        ({"sb-api-key": good, "authorization": "Bearer x.y.z"}, 401, "UNAUTHORIZED_INVALID_JWT_FORMAT"),
    ]
    answers = call(
        tmp_path,
        [*({"headers": dict(headers)} for headers, _status, _code in cases), {"method": "OPTIONS"}],
        {"VERIFY_JWT": "true", "JWT_SECRET": secret, "SUPABASE_JWKS": '{"keys":[]}'},
    )
    got = [(answer["status"], answer["code"]) for answer in answers]
    assert got == [*((status, code) for _headers, status, code in cases), (200, None)]


@pytest.mark.parametrize("algorithm", ["ES256", "RS256"])
def test_functions_verify_asymmetric_tokens(tmp_path: Path, algorithm: str) -> None:
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
    from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature

    def number(value: int, length: int) -> str:
        return b64(value.to_bytes(length, "big"))

    def make(kid: str) -> Tuple[Dict[str, str], str]:
        """A public JWK and a token signed with its private key."""
        content = "{0}.{1}".format(
            b64(json.dumps({"alg": algorithm, "kid": kid}).encode()),
            b64(json.dumps({"exp": time.time() + 60}).encode()),
        )
        if algorithm == "ES256":
            ec_key = ec.generate_private_key(ec.SECP256R1())
            r, s = decode_dss_signature(ec_key.sign(content.encode(), ec.ECDSA(hashes.SHA256())))
            point = ec_key.public_key().public_numbers()
            jwk = {"kty": "EC", "crv": "P-256", "kid": kid, "x": number(point.x, 32), "y": number(point.y, 32)}
            return jwk, "{0}.{1}".format(content, b64(r.to_bytes(32, "big") + s.to_bytes(32, "big")))
        rsa_key = rsa.generate_private_key(65537, 2048)
        public = rsa_key.public_key().public_numbers()
        jwk = {"kty": "RSA", "kid": kid, "n": number(public.n, 256), "e": number(public.e, 3), "alg": "RS256"}
        return jwk, "{0}.{1}".format(content, b64(rsa_key.sign(content.encode(), padding.PKCS1v15(), hashes.SHA256())))

    known, good = make("known")
    _other, foreign = make("known")
    _absent, unknown = make("unknown")
    symmetric = {"kty": "oct", "alg": "HS256", "k": b64(b"s" * 40)}
    answers = call(
        tmp_path,
        [{"headers": {"authorization": "Bearer " + value}} for value in (good, foreign, unknown)],
        {"VERIFY_JWT": "true", "JWT_SECRET": "s" * 40, "SUPABASE_JWKS": json.dumps({"keys": [symmetric, known]})},
    )
    assert [answer["status"] for answer in answers] == [200, 401, 401]
    assert answers[1]["code"] == "UNAUTHORIZED_ASYMMETRIC_JWT"
