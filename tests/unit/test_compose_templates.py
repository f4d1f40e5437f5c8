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
from typing import Any, Dict, List, Mapping, Optional, Sequence, Set, Tuple

import pytest
import yaml

from ansible_collections.multibase.supabase.plugins.module_utils import _gateway
from ansible_collections.multibase.supabase.plugins.module_utils._ports import PORT_OFFSETS
from contract.stack import (
    ALWAYS,
    BASE,
    BASE_FILE,
    DEFINITION,
    OVERLAYS,
    RELEASE,
    SERVICES,
    VARIABLE,
    canary,
    check_compose,
    check_resolved,
    config,
    label,
    load,
    may_meet,
    pairs,
    run_config,
    strings,
    variable,
    variables,
)

COMPOSE_FILES = (BASE_FILE, *OVERLAYS)
# Where each service comes from, and what stands there.
HOME = {name: file for file in COMPOSE_FILES for name, service in load(file)["services"].items() if "image" in service}
DEFINED: Dict[str, Dict[str, Any]] = {name: load(file)["services"][name] for name, file in HOME.items()}

# Which services receive which secret. What stands here ends up in `docker inspect` of that service.
SECRETS: Dict[str, Set[str]] = {
    "POSTGRES_PASSWORD": {
        "analytics", "auth", "db", "functions", "meta", "pgbouncer", "realtime", "rest", "storage", "studio",
        "supavisor",
    },
    "JWT_SECRET": {"auth", "functions", "realtime", "storage", "studio", "supavisor"},
    "PGRST_JWT_SECRET": {"rest"},
    "JWT_KEYS": {"auth"},
    "JWT_JWKS": {"functions", "realtime", "storage"},
    "ANON_KEY": {"functions", "realtime", "storage", "studio"},
    "SERVICE_ROLE_KEY": {"functions", "storage", "studio"},
    "SUPABASE_PUBLISHABLE_KEY": {"functions", "studio"},
    "SUPABASE_SECRET_KEY": {"functions", "studio"},
    "SECRET_KEY_BASE": {"analytics", "realtime", "supavisor"},
    "REALTIME_DB_ENC_KEY": {"realtime"},
    "VAULT_ENC_KEY": {"supavisor"},
    "PG_META_CRYPTO_KEY": {"meta", "studio"},
    "S3_PROTOCOL_ACCESS_KEY_ID": {"storage"},
    "S3_PROTOCOL_ACCESS_KEY_SECRET": {"storage"},
    "STORAGE_S3_ACCESS_KEY_ID": {"storage"},
    "STORAGE_S3_SECRET_ACCESS_KEY": {"storage"},
    "LOGFLARE_PUBLIC_ACCESS_TOKEN": {"analytics", "vector"},
    "LOGFLARE_PRIVATE_ACCESS_TOKEN": {"analytics", "studio"},
    "SMTP_PASS": {"auth"},
    "OPENAI_API_KEY": {"studio"},
}  # fmt: skip

each_service = pytest.mark.parametrize("name", sorted(SERVICES))


# The definition of the release


def test_overlays_are_listed_in_their_order() -> None:
    found = {path.relative_to(RELEASE).as_posix() for path in (RELEASE / "overlays").iterdir()}
    assert found == set(OVERLAYS)
    assert may_meet(OVERLAYS)
    conditions = DEFINITION["overlays"]
    assert all(set(condition) <= {"engine", "needs"} for condition in conditions.values())
    # What older engines refuse is what they do not know, and nothing else depends on the engine.
    needs_engine = {overlay for overlay, condition in conditions.items() if "engine" in condition}
    assert needs_engine == {overlay for overlay in OVERLAYS if "start_interval" in (RELEASE / overlay).read_text()}
    assert {conditions[overlay]["engine"] for overlay in needs_engine} == {"25.0"}


def test_services_are_the_same_everywhere() -> None:
    assert set(DEFINED) == SERVICES
    assert set(DEFINITION["cpu_weights"]) == SERVICES
    assert set(DEFINITION["image_sets"]) == {"upstream", "sandbox"}
    for images in DEFINITION["image_sets"].values():
        assert set(images) == SERVICES
        for reference in images.values():
            assert re.fullmatch(r"[a-z0-9-]+/[a-z0-9-]+:[\w.-]+", reference), reference


def test_alternatives() -> None:
    assert DEFINITION["alternatives"] == {
        "kong": {"service": "api-gw", "weight": 16, "images": {"upstream": "kong/kong:3.9.3"}},
        "pg15": {"service": "db", "images": {"upstream": "supabase/postgres:15.8.1.085"}},
    }


def test_what_is_off_and_what_needs_what() -> None:
    # The word alone is `false` to YAML.
    assert DEFINITION["off"] == ["analytics", "pgbouncer", "vector"]
    assert {service for service, file in HOME.items() if file != BASE_FILE} == set(DEFINITION["off"])
    needs = {service: set(reasons) for service, reasons in DEFINITION["requires"].items()}
    assert needs == {"imgproxy": {"storage"}, "studio": {"meta"}, "vector": {"analytics"}}
    for reasons in DEFINITION["requires"].values():
        for reason in reasons.values():
            assert len(reason.split()) >= 5 and not reason.endswith("."), reason


def test_weights_fit_the_smallest_size() -> None:
    weights = DEFINITION["weights"]
    assert all(isinstance(weight, int) and weight > 0 for weight in weights.values())
    assert max(weights, key=weights.__getitem__) == "db"
    usual = sum(weight for service, weight in weights.items() if service not in DEFINITION["off"])
    # In an instance of 2 GiB with everything on that is on unless one says otherwise, postgres-meta still has more than
    # it was measured with when idle; with logs on top, Logflare has what it was seen to start with.
    assert 2048 * weights["meta"] // usual >= 170
    assert 2048 * weights["analytics"] // (usual + weights["analytics"] + weights["vector"]) >= 290


def test_processor_weights() -> None:
    weights = DEFINITION["cpu_weights"]
    assert all(isinstance(weight, int) and weight > 0 for weight in weights.values())
    # The database comes first, far before the next; logs come last.
    by_weight = sorted(weights.values())
    assert weights["db"] == by_weight[-1] >= 2 * by_weight[-2]
    assert weights["vector"] == by_weight[0]
    # One of the two is on.
    assert weights["pgbouncer"] == weights["supavisor"]


def test_release_and_minimum_versions() -> None:
    assert DEFINITION["release"] == RELEASE.name
    assert DEFINITION["minimum"] == {"engine": "20.10", "compose": "2.24"}


def test_ports_agree_with_the_compose_files() -> None:
    offsets = {purpose: port["offset"] for purpose, port in DEFINITION["ports"].items()}
    assert offsets.pop("pgbouncer") == offsets["pooler_transaction"]
    assert offsets == {
        "gateway_http": 0, "gateway_https": 1, "studio": 2, "pooler_session": 3, "pooler_transaction": 4,
        "postgres": 5, "analytics": 6,
    }  # fmt: skip
    assert offsets == {purpose: offset for purpose, offset in PORT_OFFSETS.items() if purpose in offsets}
    declared = {
        (port.get("overlay", BASE_FILE), port["service"], port["target"], port["variable"])
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
    assert set(DEFINITION["mounted"]["api-gw"]) == set(DEFINITION["generated_files"])


def test_directories() -> None:
    directories = DEFINITION["directories"]
    for path, mode in directories.items():
        assert re.fullmatch(r"0[0-7]{3}", mode), path
        parent = os.path.dirname(path)
        assert not parent or parent in directories, path
    needed = {os.path.dirname(path.relative_to(RELEASE).as_posix()) for path in RELEASE.rglob("*") if path.is_file()}
    needed |= {os.path.dirname(path) for path in DEFINITION["generated_files"]}
    needed |= {os.path.dirname(entry["path"])[2:] for service in DEFINED.values() for entry in service["env_file"]}
    assert needed - {""} <= set(directories)
    # Data and secrets of services are in nobody else's reach, and what non-root services read from a mount is open to
    # them.
    assert {path for path, mode in directories.items() if mode != "0755"} == {"env", "volumes/db/data"}
    assert {directories["env"], directories["volumes/db/data"]} == {"0700"}


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
    used = {name for file in COMPOSE_FILES for name, _kind in uses(file)}
    for kind in ("IMAGE", "MEMORY", "CPUS", "CPU_SHARES", "CONFIG"):
        expected = DEFINITION["mounted"] if kind == "CONFIG" else SERVICES
        found = {name for name in used if re.match(r"MULTIBASE_{0}_(?!SHARES_)".format(kind), name)}
        assert found == {variable(kind, name) for name in expected}


# Rules for services


@each_service
def test_image_and_limits(name: str) -> None:
    service = DEFINED[name]
    assert service["image"] == "${" + variable("IMAGE", name) + ":?}"
    assert service["mem_limit"] == "${" + variable("MEMORY", name) + ":?}"
    assert service["cpus"] == "${" + variable("CPUS", name) + ":?}"
    assert service["cpu_shares"] == "${" + variable("CPU_SHARES", name) + ":?}"
    assert 128 <= service["pids_limit"] <= 1024


@each_service
def test_restart_logging_and_privileges(name: str) -> None:
    service = DEFINED[name]
    assert service["restart"] == "unless-stopped"
    # SELinux keeps Vector from the engine's socket otherwise.
    assert service["security_opt"] == ["no-new-privileges:true", *(["label=disable"] if name == "vector" else [])]
    # What image runs as a user of its own: by its Dockerfile, not by ours of the sandbox.
    unprivileged = name in {"auth", "imgproxy", "pgbouncer", "rest"}
    assert service["cap_drop"] == (["ALL"] if unprivileged else ["NET_RAW", "MKNOD"])
    assert service["logging"] == {"driver": "json-file", "options": {"max-size": "10m", "max-file": "3"}}
    forbidden = {
        "build", "cap_add", "container_name", "devices", "extra_hosts", "hostname", "ipc", "network_mode", "pid",
        "privileged", "ulimits", "userns_mode",
    }  # fmt: skip
    assert not forbidden & set(service)


@each_service
def test_env_file(name: str) -> None:
    assert DEFINED[name]["env_file"] == [{"path": "./env/{0}.env".format(name), "required": False}]


@each_service
def test_labels(name: str) -> None:
    expected = {"io.multibase.instance": "${MULTIBASE_INSTANCE:?}"}
    if name in DEFINITION["mounted"]:
        expected["io.multibase.config"] = "${" + variable("CONFIG", name) + ":?}"
    assert DEFINED[name]["labels"] == expected


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


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_overlays_leave_networks_and_volumes_alone(overlay: str) -> None:
    """What is changed about them after they were made, Compose would delete and make again."""
    data = load(overlay)
    assert {key for key in data if not key.startswith("x-")} == {"services"}
    for service in data["services"].values():
        assert not {mount["source"] for mount in service.get("volumes", []) if mount["type"] == "volume"}


@each_service
def test_profiles(name: str) -> None:
    assert DEFINED[name].get("profiles", []) == ([] if name in ALWAYS else [name])


@each_service
def test_health_check(name: str) -> None:
    check = DEFINED[name]["healthcheck"]
    assert check["interval"] == "${MULTIBASE_HEALTH_INTERVAL:?}"
    assert check["timeout"] == ("10s" if name == "studio" else "5s")
    assert check["start_period"] == ("300s" if name == "db" else "60s")
    assert check["retries"] == 3
    assert "start_interval" not in check
    # A probe's arguments are in the host's process list: no secret among them, and none that Compose would fill in.
    assert not VARIABLE.search(" ".join(check["test"]).replace("$$", ""))
    quick = "overlays/start-interval" + HOME[name].replace(BASE_FILE, ".yml").replace("overlays/", "-")
    assert load(quick)["services"][name] == {"healthcheck": {"start_interval": "1s"}}


@each_service
def test_dependencies(name: str) -> None:
    needs_database = {"auth", "meta", "realtime", "rest", "storage", "supavisor"}
    expected: Dict[str, Dict[str, Any]] = {"db": {"condition": "service_healthy"}} if name in needs_database else {}
    if name == "storage":
        for other in ("rest", "imgproxy"):
            expected[other] = {"condition": "service_started", "required": False}
    if name in ("analytics", "pgbouncer", "vector"):
        other = "analytics" if name == "vector" else "db"
        expected[other] = {"condition": "service_healthy", "required": False}
    assert DEFINED[name].get("depends_on", {}) == expected
    # A database elsewhere is nobody's dependency; those that wait for it in docker-compose.yml must be told.
    resets = load("overlays/external-postgres.yml")["services"]
    assert (resets.get(name) == {"depends_on": {"db": "null"}}) == (name in needs_database)


def test_published_ports_are_bound() -> None:
    for file in COMPOSE_FILES:
        for name, service in load(file)["services"].items():
            for port in service.get("ports", []):
                assert port["host_ip"] == "${MULTIBASE_BIND_ADDRESS:?}", (file, name)
                assert VARIABLE.fullmatch(port["published"]), (file, name)


@each_service
def test_mounts(name: str) -> None:
    for mount in DEFINED[name].get("volumes", []):
        if mount["type"] == "volume":
            assert mount["source"] in BASE["volumes"]
            continue
        assert mount["type"] == "bind"
        assert mount["bind"] == {"create_host_path": False}, mount["source"]
        if mount["source"] == "${DOCKER_SOCKET_LOCATION:?}":
            assert name == "vector" and mount["read_only"] is True
            continue
        assert mount["source"].startswith("./volumes/"), mount["source"]
        path = mount["source"][2:]
        if (RELEASE / path).is_file():
            # A single file keeps its old content after a rename: only for what is read once in an instance's life.
            assert path.endswith(".sql") and name == "db"
            assert mount["read_only"] is True
        else:
            assert path in DEFINITION["directories"]
    assert ("docker.sock" in json.dumps(DEFINED[name])) == (name == "vector")


def test_what_services_may_write() -> None:
    writable = {
        (name, mount["source"])
        for name, service in DEFINED.items()
        for mount in service.get("volumes", [])
        if not mount.get("read_only")
    }
    assert writable == {
        ("db", "./volumes/db/data"), ("db", "db-config"), ("functions", "./volumes/functions"),
        ("functions", "deno-cache"), ("storage", "./volumes/storage"), ("studio", "./volumes/snippets"),
    }  # fmt: skip


def test_secrets_go_where_they_are_needed() -> None:
    receivers: Dict[str, Set[str]] = {secret: set() for secret in SECRETS}
    for file in COMPOSE_FILES:
        for name, service in load(file)["services"].items():
            outside = {key: value for key, value in service.items() if key != "environment"}
            for text in strings(outside):
                for match in VARIABLE.finditer(text.replace("$$", "")):
                    assert match.group(1) not in SECRETS, (name, text)
            for text in strings(service.get("environment", {})):
                for match in VARIABLE.finditer(text):
                    if match.group(1) in SECRETS:
                        receivers[match.group(1)].add(name)
    assert receivers == SECRETS


def test_signals() -> None:
    assert {name for name, service in DEFINED.items() if service.get("init")} == {"functions", "meta"}
    assert DEFINED["db"]["stop_signal"] == "SIGINT"
    assert DEFINED["db"]["stop_grace_period"] == "60s"


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


# Vector's configuration. Vector itself is in no package; its programs were compiled and run by hand.

VECTOR = yaml.safe_load((RELEASE / "volumes/logs/vector.yml").read_text(encoding="utf-8"))


def test_vector_reads_only_this_instance() -> None:
    assert list(VECTOR["sources"]) == ["containers"]
    source = VECTOR["sources"]["containers"]
    assert source["type"] == "docker_logs"
    assert source["include_labels"] == ["io.multibase.instance=${MULTIBASE_INSTANCE}"]
    assert source["exclude_containers"] == ["${COMPOSE_PROJECT_NAME}-vector-"]
    # Nobody outside the container can ask Vector for what it reads.
    assert VECTOR["api"] == {"enabled": True, "address": "127.0.0.1:9001"}


def test_vector_has_the_variables_that_it_asks_for() -> None:
    text = (RELEASE / "volumes/logs/vector.yml").read_text(encoding="utf-8")
    asked = set(re.findall(r"\$\{(\w+)\}", text))
    # Vector takes $NAME for a variable as well, in comments too.
    assert not re.search(r"\$[\w.]", text)
    assert asked == set(DEFINED["vector"]["environment"])


def test_vector_selects_by_service() -> None:
    routes = VECTOR["transforms"]["services"]["route"]
    selected = {
        name: re.fullmatch(r'\.appname == "([a-z-]+)"', condition).group(1) for name, condition in routes.items()
    }
    assert selected == {
        "gateway": "api-gw", "auth": "auth", "rest": "rest", "realtime": "realtime", "storage": "storage",
        "functions": "functions", "db": "db",
    }  # fmt: skip
    assert set(selected.values()) <= SERVICES - {"vector", "analytics"}
    assert '.label."com.docker.compose.service"' in VECTOR["transforms"]["lines"]["source"]
    assert "container_name" not in json.dumps(VECTOR)


def test_vector_sends_each_service_to_its_source() -> None:
    transforms, sinks = VECTOR["transforms"], VECTOR["sinks"]
    routes = transforms["services"]["route"]
    assert set(transforms) == {"lines", "services", *routes}
    for name in routes:
        assert transforms[name]["inputs"] == ["services." + name]
    names = {}
    for sink in sinks.values():
        assert sink["type"] == "http" and sink["method"] == "post" and sink["encoding"] == {"codec": "json"}
        assert sink["request"] == {
            "retry_initial_backoff_secs": 1,
            "retry_max_duration_secs": 30,
            "headers": {"x-api-key": "${LOGFLARE_PUBLIC_ACCESS_TOKEN}"},
        }
        (source,) = sink["inputs"]
        address, _, names[source] = sink["uri"].partition("?source_name=")
        assert address == "http://analytics:4000/api/logs"
    assert names == {
        "gateway": "cloudflare.logs.prod", "auth": "gotrue.logs.prod", "rest": "postgREST.logs.prod",
        "realtime": "realtime.logs.prod", "storage": "storage.logs.prod.2", "functions": "deno-relay-logs",
        "db": "postgres.logs",
    }  # fmt: skip


def formats(value: Any) -> List[Set[str]]:
    """All names of fields in JSON log formats of an Envoy configuration."""
    if isinstance(value, dict):
        own = [set(value["json_format"])] if "json_format" in value else []
        return own + [names for item in value.values() for names in formats(item)]
    return [names for item in value for names in formats(item)] if isinstance(value, list) else []


def test_vector_understands_both_gateways() -> None:
    """What the program takes from an access line is in the lines that Envoy and Kong are told to write."""
    program = VECTOR["transforms"]["gateway"]["source"]
    taken = set(re.findall(r"(?<![.\w])request\.(\w+)", program))
    assert taken == {"time", "client", "method", "path", "status"}
    spec = _gateway.GatewaySpec(
        services=frozenset({"rest"}),
        anon_key="a" * 40,
        service_role_key="s" * 40,
        dashboard_username="admin",
        dashboard_password="p" * 32,
        public_url="http://127.0.0.1:8000",
        issuer="http://127.0.0.1:8000/auth/v1",
        cors_origins=("http://127.0.0.1:8000",),
    )
    assert any(taken <= names for names in formats(json.loads(_gateway.render(spec))))
    kong = load("overlays/kong.yml")["services"]["api-gw"]["environment"]["KONG_NGINX_HTTP_LOG_FORMAT"]
    assert taken <= set(re.findall(r'"(\w+)":', kong))


# Through Compose


@pytest.fixture(scope="module")
def release(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the release that only reading tests use, one after the other."""
    check_compose()
    directory = tmp_path_factory.mktemp("release") / "project"
    shutil.copytree(RELEASE, directory)
    return directory


@pytest.mark.parametrize("overlays", [(), *pairs(), OVERLAYS], ids=label)
def test_config(release: Path, overlays: Tuple[str, ...]) -> None:
    values = variables()
    check_resolved(config(release, overlays, values), overlays, values)


def test_the_env_is_what_the_release_names() -> None:
    """All tests resolve with exactly these. COMPOSE_PROFILES and COMPOSE_FILE are Compose's own."""
    declared = {name for names in DEFINITION["variables"].values() for name in names}
    assert set(variables()) == declared | {"COMPOSE_PROFILES"}


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_what_an_overlay_needs(release: Path, overlay: str) -> None:
    """What release.yml says is needed, is: without it Compose stops before anything is made."""
    answer = run_config(release, [overlay], variables())
    needs = "needs" in DEFINITION["overlays"][overlay]
    assert (answer.returncode != 0) == needs
    assert ("has neither an image nor a build context" in answer.stderr) == needs


def test_config_keeps_secrets_in_the_environment(release: Path) -> None:
    data = config(release, OVERLAYS, variables({name: canary(name) for name in SECRETS}))
    for name, service in data["services"].items():
        environment = service.pop("environment", {})
        assert not {secret for secret in SECRETS if canary(secret) in json.dumps(service)}, name
        assert None not in environment.values(), name
        found = {secret for secret in SECRETS if canary(secret) in json.dumps(environment)}
        assert found == {secret for secret, receivers in SECRETS.items() if name in receivers}, name


def test_envoy_has_no_environment(release: Path) -> None:
    assert "environment" not in config(release, (), variables())["services"]["api-gw"]


def test_config_values(release: Path) -> None:
    """What quoting in YAML and interpolation could have spoilt."""
    values = variables({"JWT_KEYS": "[]", "JWT_JWKS": '{"keys":[]}'})
    services = config(release, ("overlays/logs.yml", "overlays/pgbouncer.yml"), values)["services"]
    functions, realtime = services["functions"]["environment"], services["realtime"]
    assert json.loads(functions["SUPABASE_JWKS"]) == {"keys": []}
    assert json.loads(functions["SUPABASE_PUBLISHABLE_KEYS"]) == {"default": ""}
    assert services["auth"]["environment"]["GOTRUE_JWT_KEYS"] == "[]"
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
    query = services["pgbouncer"]["environment"]["AUTH_QUERY"].replace("$$", "$")
    assert query == "SELECT * FROM pgbouncer.get_auth($1)"


def test_clients_ask_the_database_where_it_is(release: Path) -> None:
    values = variables({"POSTGRES_HOST": "pg.example.org", "POSTGRES_PORT": "6000"})
    services = config(release, ("overlays/logs.yml", "overlays/pgbouncer.yml"), values)["services"]
    own = services.pop("db")["environment"]
    # The directory of the socket and the port in the container: what the image's init scripts connect through.
    assert (own["POSTGRES_HOST"], own["POSTGRES_PORT"], own["PGPORT"]) == ("/var/run/postgresql", "5432", "5432")
    clients = {}
    for name, service in services.items():
        text = json.dumps(service.get("environment", {}))
        assert not re.search(r'"db"|@db[:/]|:5432/', text), name
        clients[name] = "pg.example.org" in text and "6000" in text
    assert {name for name, client in clients.items() if client} == SECRETS["POSTGRES_PASSWORD"] - {"db"}


def test_urls_of_the_database(release: Path) -> None:
    values = variables({"POSTGRES_PASSWORD": "secret", "POSTGRES_HOST": "h", "POSTGRES_PORT": "1", "POSTGRES_DB": "d"})
    services = config(release, ("overlays/logs.yml",), values)["services"]
    assert {
        name: url
        for name, service in services.items()
        for url in service.get("environment", {}).values()
        if re.match(r"\w+://\w+:secret@", url)
    } == {
        "analytics": "postgresql://supabase_admin:secret@h:1/_supabase",
        "auth": "postgres://supabase_auth_admin:secret@h:1/d",
        "functions": "postgresql://postgres:secret@h:1/d",
        "rest": "postgres://authenticator:secret@h:1/d",
        "storage": "postgres://supabase_storage_admin:secret@h:1/d",
        "supavisor": "ecto://supabase_admin:secret@h:1/_supabase",
    }


def test_asymmetric_keys_reach_all_that_verify(release: Path) -> None:
    """Upstream has four lines to uncomment, and PostgREST takes the fifth by itself; here they are always in effect."""
    jwks = json.dumps({"keys": [{"kty": "EC", "kid": "k"}, {"kty": "oct"}]})
    values = variables({"JWT_KEYS": '[{"kty":"EC"}]', "JWT_JWKS": jwks, "PGRST_JWT_SECRET": jwks})
    services = config(release, (), values)["services"]
    assert services["auth"]["environment"]["GOTRUE_JWT_KEYS"] == '[{"kty":"EC"}]'
    for name, key in (
        ("rest", "PGRST_JWT_SECRET"), ("realtime", "API_JWT_JWKS"), ("storage", "JWT_JWKS"),
        ("functions", "SUPABASE_JWKS"),
    ):  # fmt: skip
        assert services[name]["environment"][key] == jwks, name


def test_environment_files(release: Path, tmp_path: Path) -> None:
    """Each service reads the file of its own name, where there is one; what the Compose file says wins."""
    project = tmp_path / "project"
    shutil.copytree(release, project)
    (project / "env").mkdir()
    for name in SERVICES:
        (project / "env" / "{0}.env".format(name)).write_text(
            'OWN={0}\nGOTRUE_SITE_URL=theirs\nQUOTED="a\\$b"\n'.format(name), encoding="utf-8"
        )
    services = config(project, ("overlays/logs.yml", "overlays/pgbouncer.yml"), variables())["services"]
    assert set(services) == SERVICES
    assert {name: service["environment"]["OWN"] for name, service in services.items()} == {
        name: name for name in SERVICES
    }
    assert services["auth"]["environment"]["GOTRUE_SITE_URL"] == canary("SITE_URL")
    assert services["rest"]["environment"]["GOTRUE_SITE_URL"] == "theirs"
    assert services["auth"]["environment"]["QUOTED"].replace("$$", "$") == "a$b"


def test_logs(release: Path) -> None:
    services = config(release, ("overlays/logs.yml",), variables())["services"]
    studio = services["studio"]["environment"]
    assert studio["ENABLED_FEATURES_LOGS_ALL"] == "true"
    assert studio["LOGFLARE_URL"] == "http://analytics:4000"
    assert studio["LOGFLARE_PRIVATE_ACCESS_TOKEN"] == canary("LOGFLARE_PRIVATE_ACCESS_TOKEN")
    # A store of logs that is broken must not keep the dashboard down.
    assert not services["studio"].get("depends_on")
    sockets = {mount["source"]: mount for mount in services["vector"]["volumes"]}
    assert sockets["/run/canary.sock"]["target"] == "/var/run/docker.sock"
    assert config(release, (), variables())["services"]["studio"]["environment"]["ENABLED_FEATURES_LOGS_ALL"] == "false"


def test_s3(release: Path) -> None:
    chosen = {
        "STORAGE_S3_ENDPOINT": "https://s3.example.org", "STORAGE_S3_FORCE_PATH_STYLE": "true",
        "STORAGE_S3_ALLOW_TAGS": "false", "STORAGE_S3_ACCESS_KEY_ID": "id", "STORAGE_S3_SECRET_ACCESS_KEY": "secret",
    }  # fmt: skip
    before = config(release, (), variables(chosen))["services"]["storage"]
    after = config(release, ("overlays/s3.yml",), variables(chosen))["services"]["storage"]
    assert after["environment"] == {
        **before["environment"], "STORAGE_BACKEND": "s3", "GLOBAL_S3_ENDPOINT": "https://s3.example.org",
        "GLOBAL_S3_FORCE_PATH_STYLE": "true", "TUS_ALLOW_S3_TAGS": "false", "AWS_ACCESS_KEY_ID": "id",
        "AWS_SECRET_ACCESS_KEY": "secret",
    }  # fmt: skip
    assert {key: after[key] for key in after if key != "environment"} == {
        key: before[key] for key in before if key != "environment"
    }


def test_external_postgres(release: Path) -> None:
    """The database is off as other services are off, by its profile: a container from before is still found."""
    overlays = ("overlays/logs.yml", "overlays/external-postgres.yml", "overlays/expose-postgres.yml")
    services = config(release, overlays, variables())["services"]
    assert "db" not in services
    waited_for = {other for service in services.values() for other in service.get("depends_on", {})}
    assert waited_for == {"db", "analytics", "rest", "imgproxy"}
    assert {name for name, service in services.items() if "db" in service.get("depends_on", {})} == {"analytics"}
    every = config(release, overlays, variables({"COMPOSE_PROFILES": "*"}))["services"]
    assert set(every) == SERVICES - {"pgbouncer"}
    assert every["db"]["profiles"] == ["db"]


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
        ("auth", "pgbouncer"),
        ("analytics",),
        ("analytics", "vector"),
    ],
    ids=lambda value: "+".join(value) or "none",
)
def test_config_of_a_subset(release: Path, profiles: Tuple[str, ...]) -> None:
    values = variables({"COMPOSE_PROFILES": ",".join(profiles)})
    outside = tuple(overlay for overlay in OVERLAYS if overlay != "overlays/external-postgres.yml")
    assert set(config(release, outside, values)["services"]) == ALWAYS | set(profiles)
    assert set(config(release, OVERLAYS, values)["services"]) == {"api-gw", *profiles}


@pytest.mark.parametrize(
    "name", ["COMPOSE_PROJECT_NAME", "MULTIBASE_PROJECT_DIR", "MULTIBASE_SUBNET", "POSTGRES_PASSWORD", "POSTGRES_HOST"]
)
def test_a_variable_without_value_is_an_error(release: Path, name: str) -> None:
    answer = run_config(release, (), variables({name: ""}))
    assert answer.returncode != 0
    assert name in answer.stderr


@pytest.mark.parametrize("overlay", [None, *OVERLAYS])
def test_a_missing_variable_is_an_error(release: Path, overlay: Optional[str]) -> None:
    """Of every file one variable that no other has, where it has such a one."""
    file = overlay or BASE_FILE
    own = {name for name, _kind in uses(file)}
    own -= {name for other in COMPOSE_FILES if other != file for name, _kind in uses(other)}
    values = variables()
    overlays = [name for name in OVERLAYS if name in (overlay, DEFINITION["overlays"].get(file, {}).get("needs"))]
    for name in sorted(own)[:1]:
        del values[name]
    answer = run_config(release, overlays, values)
    assert (answer.returncode != 0) == bool(own), answer.stderr
    assert not own or sorted(own)[0] in answer.stderr


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
