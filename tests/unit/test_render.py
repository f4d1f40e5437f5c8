# SPDX-License-Identifier: GPL-3.0-or-later
"""Rendering: complete, the same bytes every time, and secrets only where they must be."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from pathlib import Path
from typing import Any, Dict, FrozenSet, List, Mapping, Optional

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ansible_collections.multibase.supabase.plugins.module_utils import _envfile, _secrets, _settings, _spec
from ansible_collections.multibase.supabase.plugins.module_utils._errors import MultibaseError
from ansible_collections.multibase.supabase.plugins.module_utils._registry import Allocation
from ansible_collections.multibase.supabase.plugins.module_utils._release import release_from_bundle
from ansible_collections.multibase.supabase.plugins.module_utils._render import (
    HostFacts,
    HostFiles,
    Rendered,
    render_instance,
)
from ansible_collections.multibase.supabase.plugins.module_utils._spec import Layers
from unit.support import (
    NOW,
    PROPERTY,
    RELEASE_DIRECTORY,
    SECRETS,
    SERVICES,
    assert_no_secret,
    bundle,
    converge,
    env_of,
    item,
    manifest_of,
    registry_of,
    release,
)

VALUES = {
    **_secrets.fill_in({}, NOW, asymmetric=True, opaque=True),
    "SMTP_PASS": 'canary of "mail" $x', "OPENAI_API_KEY": "sk-canary-openai",
    "STORAGE_S3_ACCESS_KEY_ID": "canary of a bucket", "STORAGE_S3_SECRET_ACCESS_KEY": "canary of a bucket's secret",
}  # fmt: skip
ELSEWHERE = {"database": {"host": "db.example.com", "port": 6432, "name": "other", "password": "abcdefgh"}}
S3 = {"storage": {"backend": "s3", "bucket": "files", "s3": {"access_key_id": "x", "secret_access_key": "y"}}}
ALLOCATION = Allocation(21230, "10.213.4.64/26", "multibase-acme")
MAY_HOLD_SECRETS = {".env", "volumes/api/envoy.json"}
OPTIONAL = sorted(set(SERVICES) - {"db", "api-gw"})


def render(
    allocation: Allocation = ALLOCATION,
    facts: Optional[HostFacts] = None,
    found: HostFiles = HostFiles(),  # noqa: B008 - frozen
    secrets: Optional[Mapping[str, Mapping[str, str]]] = None,
    **options: Any,
) -> Rendered:
    """Render ``acme``; ``secrets`` are the user's in environment files, by service."""
    spec, problems = _spec.build({"name": "acme", **options}, Layers({}, {}), release())
    assert problems == []
    return render_instance(
        spec,
        release(),
        allocation,
        {"": VALUES, **(secrets or {})},
        facts or HostFacts("/opt/multibase", 4, False),
        "salt",
        found,
    )


def environment_of(rendered: Rendered, service: str) -> Dict[str, str]:
    """The variables of a service's environment file."""
    content, mode = rendered.files["env/{0}.env".format(service)]
    assert mode == 0o600
    return _envfile.parse(content.decode("utf-8"))


def compose_variables() -> Dict[str, str]:
    """Every ``${NAME...}`` of the compose files -> how it is written."""
    found: Dict[str, str] = {}
    paths = sorted(RELEASE_DIRECTORY.rglob("*.yml"))
    assert len(paths) >= 5
    for path in paths:
        if path.name == "release.yml":
            continue
        lines = [line for line in path.read_text(encoding="utf-8").splitlines() if not line.lstrip().startswith("#")]
        for name, kind in re.findall(r"\$\{([A-Za-z_][A-Za-z0-9_]*)([^}]*)\}", "\n".join(lines).replace("$$", "")):
            found[name] = ":?" if ":?" in (kind, found.get(name)) else kind
    return found


# Completeness


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"services": {service: False for service in OPTIONAL}},
        {"services": {service: True for service in ("analytics", "vector")}, "expose": ["analytics"]},
        {"services": {"pgbouncer": True, "supavisor": False}},
        {"expose": ["postgres", "studio"], "size": "small", "image_set": "sandbox"},
        {"image_registry": "registry.example.com:5000/x", "rest": {"schemas": ["public"]}},
        {"gateway": "kong"}, {"keys": {"asymmetric": True, "opaque": True}}, S3, ELSEWHERE,
        {"database": {"version": 15}}, {"size": {"cpus": 0.3, "memory": "512m"}, "cpu_burst": False},
    ],
)  # fmt: skip
def test_every_variable_of_the_compose_files_is_set(options: Dict[str, Any]) -> None:
    variables = render(**options).variables
    used = compose_variables()
    assert len(used) > 120
    assert set(used) <= set(variables)
    assert [name for name, kind in used.items() if kind == ":?" and not variables[name]] == []


def test_the_lists_of_variables_of_the_release_are_those_of_its_compose_files() -> None:
    listed = bundle()["definition"]["variables"]
    assert set(listed["with_value"]) == {name for name, kind in compose_variables().items() if kind == ":?"}
    assert set(listed["may_be_empty"]) == {name for name, kind in compose_variables().items() if kind != ":?"}


def test_every_option_with_a_variable_sets_it() -> None:
    rendered = render()
    for setting in _settings.SETTINGS:
        if setting.variable and not setting.service and not setting.secret:
            assert setting.variable in rendered.variables, setting.option
    assert not [path for path in rendered.files if path.startswith("env/")], "what is not given is not written"


def test_nothing_is_set_that_compose_would_take_for_its_own() -> None:
    own = {name for name in render().variables if name.startswith(("COMPOSE_", "DOCKER_"))}
    # The last is the Compose file's own; the docker command knows none of that name.
    assert own == {"COMPOSE_PROJECT_NAME", "COMPOSE_FILE", "COMPOSE_PROFILES", "DOCKER_SOCKET_LOCATION"}


def test_the_env_file_says_what_the_variables_say() -> None:
    rendered = render()
    assert _envfile.parse(rendered.files[".env"][0].decode("utf-8")) == dict(rendered.variables)
    assert rendered.manifest["variables"] == sorted(rendered.variables)


def test_what_is_not_ours_in_the_env_file_is_kept_and_what_was_ours_goes() -> None:
    before = 'OURS_ONCE=1\n# mine\nMINE="kept \\$ # \\"x\\""\nPOSTGRES_DB=other\n'
    rendered = render(found=HostFiles(env=before, ours=frozenset({"OURS_ONCE", "POSTGRES_DB"})))
    text = rendered.files[".env"][0].decode("utf-8")
    assert text.endswith('\n# mine\nMINE="kept \\$ # \\"x\\""\n')
    parsed = _envfile.parse(text)
    assert parsed == {**rendered.variables, "MINE": 'kept $ # "x"'}
    assert "OURS_ONCE" not in parsed and parsed["POSTGRES_DB"] == "postgres"
    assert "MINE" not in rendered.manifest["variables"]
    again = render(found=HostFiles(env=text, ours=frozenset(rendered.variables)))
    assert again.files == rendered.files


def test_a_variable_that_becomes_ours_is_taken_over_from_what_was_added_by_hand() -> None:
    rendered = render(found=HostFiles(env="MY_TAG=by hand\n", ours=frozenset()), env={"MY_TAG": "declared"})
    parsed = _envfile.parse(rendered.files[".env"][0].decode("utf-8"))
    assert parsed["MY_TAG"] == "declared" and "MY_TAG" in rendered.manifest["variables"]


def test_all_static_files_are_there_unchanged() -> None:
    rendered = render()
    for path in RELEASE_DIRECTORY.rglob("*"):
        relative = path.relative_to(RELEASE_DIRECTORY).as_posix()
        if path.is_file() and path.suffix in (".yml", ".sql", ".exs", ".ts", ".json") and relative != "release.yml":
            place = rendered.seeds if relative in release().seed_files else rendered.files
            assert place[relative][0] == path.read_bytes(), relative
    assert "release.yml" not in rendered.files
    assert not set(rendered.seeds) & set(rendered.files)


def test_upstreams_settings() -> None:
    variables = render(public_url="https://acme.example.com/").variables
    assert variables["SUPABASE_PUBLIC_URL"] == "https://acme.example.com"
    assert variables["API_EXTERNAL_URL"] == "https://acme.example.com/auth/v1"
    assert variables["SITE_URL"] == "https://acme.example.com"
    assert variables["POOLER_TENANT_ID"] == "acme"
    assert variables["PGRST_JWT_SECRET"] == variables["JWT_SECRET"] == VALUES["JWT_SECRET"]
    assert variables["JWT_KEYS"] == "[]" and json.loads(variables["JWT_JWKS"]) == {"keys": []}
    assert variables["POSTGRES_DB"] == "postgres"
    assert variables["MULTIBASE_HEALTH_INTERVAL"] == "30s"
    assert variables["MULTIBASE_PROJECT_DIR"] == "/opt/multibase/projects/acme"
    for name in ("ENABLE_PHONE_SIGNUP", "ENABLE_PHONE_AUTOCONFIRM"):
        assert variables[name] == "false"
    assert (variables["POSTGRES_HOST"], variables["POSTGRES_PORT"]) == ("db", "5432")
    assert (variables["GLOBAL_S3_BUCKET"], variables["REGION"], variables["STORAGE_TENANT_ID"]) == ("stub",) * 3
    assert variables["IMGPROXY_MAX_SRC_RESOLUTION"] == "16.8"


def test_a_domain_is_the_public_url_by_https() -> None:
    assert render(domain="acme.example.com").variables["SUPABASE_PUBLIC_URL"] == "https://acme.example.com"
    both = render(domain="acme.example.com", public_url="https://other.example.com:8443")
    assert both.variables["SUPABASE_PUBLIC_URL"] == "https://other.example.com:8443"


def test_a_database_elsewhere() -> None:
    rendered = render(**ELSEWHERE)
    variables = rendered.variables
    assert (variables["POSTGRES_HOST"], variables["POSTGRES_PORT"], variables["POSTGRES_DB"]) == (
        "db.example.com", "6432", "other",
    )  # fmt: skip
    assert "overlays/external-postgres.yml" in variables["COMPOSE_FILE"].split(":")
    assert "db" not in rendered.manifest["services"] and "db" not in variables["COMPOSE_PROFILES"].split(",")
    assert rendered.manifest["urls"]["pooler_session"] == "postgresql://postgres.acme@127.0.0.1:21233/other"
    inside = render(database={"port": 7777}).variables
    assert inside["POSTGRES_PORT"] == "5432", "the port of a Postgres elsewhere"


# Environment files


def test_variables_of_services_are_in_their_own_files() -> None:
    rendered = render(
        auth={"mail": {"otp_expiry": 600}, "password_min_length": 12},
        realtime={"max_concurrent_users": 500},
        rest={"pool_size": 7},
        env={"MY_TAG": "v1", "functions": {"FLAGS": 'a $b "c"', "ON": True}, "auth": {"GOTRUE_LOG_LEVEL": "debug"}},
        secrets={"functions": {"STRIPE_KEY": "sk $1 #"}, "storage": {"MY_SECRET": "x\ny"}},
    )
    assert {path for path in rendered.files if path.startswith("env/")} == {
        "env/auth.env", "env/functions.env", "env/realtime.env", "env/rest.env", "env/storage.env",
    }  # fmt: skip
    assert environment_of(rendered, "auth") == {
        "GOTRUE_LOG_LEVEL": "debug", "GOTRUE_MAILER_OTP_EXP": "600", "GOTRUE_PASSWORD_MIN_LENGTH": "12",
    }  # fmt: skip
    assert environment_of(rendered, "functions") == {"FLAGS": 'a $b "c"', "ON": "true", "STRIPE_KEY": "sk $1 #"}
    assert environment_of(rendered, "realtime") == {"TENANT_MAX_CONCURRENT_USERS": "500"}
    assert environment_of(rendered, "rest") == {"PGRST_DB_POOL": "7"}
    assert environment_of(rendered, "storage") == {"MY_SECRET": "x\ny"}
    assert rendered.variables["MY_TAG"] == "v1" and "FLAGS" not in rendered.variables
    manifest = rendered.manifest
    assert manifest["env"] == {"": ["MY_TAG"], "auth": ["GOTRUE_LOG_LEVEL"], "functions": ["FLAGS", "ON"]}
    assert set(manifest["managed"]) >= {path for path in rendered.files if path.startswith("env/")}
    assert ".env" not in manifest["managed"]


def test_a_login_provider_that_is_named_is_on_and_knows_where_to_send_users_back_to() -> None:
    github = {"client_id": "an id", "email_optional": True}
    rendered = render(domain="acme.example.com", auth={"providers": {"github": github}})
    assert environment_of(rendered, "auth") == {
        "GOTRUE_EXTERNAL_GITHUB_CLIENT_ID": "an id",
        "GOTRUE_EXTERNAL_GITHUB_EMAIL_OPTIONAL": "true",
        "GOTRUE_EXTERNAL_GITHUB_ENABLED": "true",
        "GOTRUE_EXTERNAL_GITHUB_REDIRECT_URI": "https://acme.example.com/auth/v1/callback",
    }
    own = render(auth={"providers": {"github": {**github, "redirect_uri": "https://x.example/y", "enabled": False}}})
    assert environment_of(own, "auth")["GOTRUE_EXTERNAL_GITHUB_REDIRECT_URI"] == "https://x.example/y"
    assert environment_of(own, "auth")["GOTRUE_EXTERNAL_GITHUB_ENABLED"] == "false"


def test_a_hook_with_an_address_is_on() -> None:
    uri = "pg-functions://postgres/public/claims"
    rendered = render(auth={"hooks": {"custom_access_token": {"uri": uri}}})
    assert environment_of(rendered, "auth") == {
        "GOTRUE_HOOK_CUSTOM_ACCESS_TOKEN_ENABLED": "true", "GOTRUE_HOOK_CUSTOM_ACCESS_TOKEN_URI": uri,
    }  # fmt: skip


def allowed_origins(rendered: Rendered) -> List[str]:
    """Every text that the gateway compares the Origin header with."""
    found: List[str] = []

    def walk(node: Any) -> None:
        if isinstance(node, dict):
            for match in node.get("allow_origin_string_match", []):
                found.extend(value for value in match.values() if isinstance(value, str))
            for value in node.values():
                walk(value)
        elif isinstance(node, list):
            for value in node:
                walk(value)

    walk(json.loads(rendered.files["volumes/api/envoy.json"][0]))
    return sorted(set(found))


def test_browsers_may_call_from_where_the_application_is() -> None:
    told = render(
        public_url="https://acme.example.com/", site_url="https://app.example.com/start",
        redirect_urls=["https://staging.example.com/back", "https://*.preview.example.com/**", "myapp://callback"],
    )  # fmt: skip
    assert allowed_origins(told) == [
        "https://acme.example.com", "https://app.example.com", "https://staging.example.com",
    ]  # fmt: skip
    asked = render(site_url="https://app.example.com", cors_origins=["https://only.example.com"])
    assert allowed_origins(asked) == ["http://127.0.0.1:21230", "https://only.example.com"], "its own address always"


# Ports


def test_the_block() -> None:
    variables = render().variables
    assert {name: variables[name] for name in variables if name.endswith(("_PORT", "_SESSION", "_TRANSACTION"))} == {
        "API_GW_HTTP_PORT": "21230", "KONG_HTTPS_PORT": "21231", "STUDIO_PUBLISHED_PORT": "21232",
        "POOLER_PROXY_PORT_SESSION": "21233", "POOLER_PROXY_PORT_TRANSACTION": "21234",
        "POSTGRES_PUBLISHED_PORT": "21235", "ANALYTICS_PUBLISHED_PORT": "21236", "SMTP_PORT": "587",
        "POSTGRES_PORT": "5432",
    }  # fmt: skip
    assert variables["MULTIBASE_SUBNET"] == "10.213.4.64/26"


def test_only_what_is_published_is_told() -> None:
    everything = {"gateway_http": 21230, "pooler_session": 21233, "pooler_transaction": 21234}
    assert render().manifest["ports"] == everything
    assert render(services={"supavisor": False}).manifest["ports"] == {"gateway_http": 21230}
    exposed = render(expose=["studio", "postgres"]).manifest["ports"]
    assert exposed == {**everything, "studio": 21232, "postgres": 21235}
    assert render(gateway="kong").manifest["ports"] == {**everything, "gateway_https": 21231}
    logs = render(services={"analytics": True}, expose=["analytics"]).manifest
    assert logs["ports"] == {**everything, "analytics": 21236}
    pgbouncer = render(services={"pgbouncer": True, "supavisor": False}).manifest
    assert pgbouncer["ports"] == {"gateway_http": 21230, "pooler_transaction": 21234}
    assert pgbouncer["urls"]["pooler_transaction"] == "postgresql://postgres@127.0.0.1:21234/postgres"
    assert render(pooler={"tenant_id": "t"}).manifest["urls"]["pooler_session"].startswith("postgresql://postgres.t@")


def test_the_offsets_of_ports_are_those_of_the_release() -> None:
    # Of two that share an offset one runs.
    variables = render().variables
    for purpose, port in bundle()["definition"]["ports"].items():
        assert variables[port["variable"]] == str(21230 + port["offset"]), purpose


def test_registry_manifest_and_env_agree(tmp_path: Path) -> None:
    converge(tmp_path, *[item("i{0}".format(number), expose=["postgres", "studio"]) for number in range(4)])
    variable = {
        "gateway_http": "API_GW_HTTP_PORT", "studio": "STUDIO_PUBLISHED_PORT", "postgres": "POSTGRES_PUBLISHED_PORT",
        "pooler_session": "POOLER_PROXY_PORT_SESSION", "pooler_transaction": "POOLER_PROXY_PORT_TRANSACTION",
    }  # fmt: skip
    rows = registry_of(tmp_path)
    assert len({row["port_base"] for row in rows.values()}) == len({row["subnet"] for row in rows.values()}) == 4
    for name, row in rows.items():
        variables, manifest = env_of(tmp_path, name), manifest_of(tmp_path, name)
        assert manifest["port_base"] == row["port_base"] and manifest["project"] == row["project"]
        assert variables["MULTIBASE_SUBNET"] == manifest["subnet"] == row["subnet"]
        assert variables["COMPOSE_PROJECT_NAME"] == row["project"] == "multibase-" + name
        assert set(manifest["ports"]) == set(variable)
        for purpose, port in manifest["ports"].items():
            assert variables[variable[purpose]] == str(port)
            assert row["port_base"] <= port < row["port_base"] + 10


# Services and sizes


def test_a_service_that_is_off_has_no_profile() -> None:
    assert render().variables["COMPOSE_PROFILES"].split(",") == OPTIONAL
    rendered = render(services={"studio": False, "realtime": False})
    assert rendered.variables["COMPOSE_PROFILES"].split(",") == [
        service for service in OPTIONAL if service not in ("studio", "realtime")
    ]
    assert rendered.manifest["services"] == sorted(set(SERVICES) - {"studio", "realtime"})
    assert render(services={service: False for service in OPTIONAL}).variables["COMPOSE_PROFILES"] == ""
    assert "studio" not in rendered.manifest["urls"]


def test_images_follow_what_was_chosen_even_where_a_service_is_off() -> None:
    everything = {"services": {"studio": False}, "image_registry": "mirror.example.com/m"}
    variables = render(images={"db": "x/postgres:1"}, **everything).variables
    assert variables["MULTIBASE_IMAGE_DB"] == "x/postgres:1"
    for service in SERVICES:
        name = "MULTIBASE_IMAGE_" + service.upper().replace("-", "_")
        if service != "db":
            assert variables[name] == "mirror.example.com/m/" + release().images["upstream"][service]


@PROPERTY
@given(st.sets(st.sampled_from(OPTIONAL)), st.sampled_from([("small", 2048), ("medium", 4096), ("large", 8192)]))
def test_memory_adds_up_to_the_size_at_most(off: FrozenSet[str], size: Any) -> None:
    services = {service: False for service in off}
    for service, needed in (("studio", "meta"), ("imgproxy", "storage")):
        if needed in off:
            services[service] = False
    rendered = render(size=size[0], services=services)
    memory = {
        service: rendered.variables["MULTIBASE_MEMORY_" + service.upper().replace("-", "_")]
        for service in rendered.manifest["services"]
    }
    assert all(re.fullmatch(r"[1-9][0-9]*m", value) for value in memory.values())
    assert sum(int(value[:-1]) for value in memory.values()) <= size[1]


def resources(rendered: Rendered, kind: str) -> Dict[str, str]:
    """What each service of the release has of MEMORY, CPUS or CPU_SHARES, also one that is off."""
    return {
        service: rendered.variables["MULTIBASE_{0}_{1}".format(kind, service.upper().replace("-", "_"))]
        for service in release().services
    }


@pytest.mark.parametrize(("cpus", "expected"), [(1, "1.00"), (2, "2.00"), (4, "4.00"), (64, "4.00")])
def test_processors_are_clamped_to_the_hosts(cpus: int, expected: str) -> None:
    assert set(resources(render(facts=HostFacts("/r", cpus, False), size="large"), "CPUS").values()) == {expected}


def test_a_size_of_ones_own_is_divided_recorded_and_shown() -> None:
    rendered = render(size={"cpus": 1.5, "memory": "3g"}, cpu_burst=False)
    enabled = rendered.manifest["services"]
    assert sum(int(resources(rendered, "MEMORY")[service][:-1]) for service in enabled) <= 3072
    assert sum(float(resources(rendered, "CPUS")[service]) for service in enabled) <= 1.5
    assert sum(int(resources(rendered, "CPU_SHARES")[service]) for service in enabled) <= 1536
    assert all(int(value) >= 2 for value in resources(rendered, "CPU_SHARES").values())
    assert rendered.manifest["size"] == "1.5 CPU, 3072 MiB"
    recorded = rendered.manifest["resources"]
    assert (recorded["cpus"], recorded["memory"]) == (1.5, 3072) and set(recorded["services"]) == set(enabled)
    for service in enabled:
        share = recorded["services"][service]
        assert resources(rendered, "MEMORY")[service] == "{0}m".format(share["memory"])
        assert resources(rendered, "CPUS")[service] == share["cpus"]
        assert resources(rendered, "CPU_SHARES")[service] == str(share["cpu_shares"])
    assert render(size="small").manifest["size"] == "small"
    assert render(size="small").manifest["resources"]["memory"] == 2048


# Gateways


def test_only_the_chosen_gateways_file_is_there() -> None:
    envoy, kong = render(), render(gateway="kong")
    assert "volumes/api/envoy.json" in envoy.files and "volumes/api/kong.json" not in envoy.files
    assert "volumes/api/kong.json" in kong.files and "volumes/api/envoy.json" not in kong.files
    assert json.loads(kong.files["volumes/api/kong.json"][0]) != json.loads(envoy.files["volumes/api/envoy.json"][0])
    assert (envoy.manifest["gateway"], kong.manifest["gateway"]) == ("envoy", "kong")
    assert envoy.variables["MULTIBASE_IMAGE_API_GW"].startswith("envoyproxy/")
    assert kong.variables["MULTIBASE_IMAGE_API_GW"].startswith("kong/")
    assert envoy.variables["MULTIBASE_CONFIG_API_GW"] != kong.variables["MULTIBASE_CONFIG_API_GW"]


NETWORKS = ["192.0.2.0/24", "192.0.2.7", "2001:db8::/32", "fe80::1%eth0", "192.0.2.7/24", "10.0.0.0/255.0.0.0", "x", ""]


@PROPERTY
@given(
    st.sampled_from(["envoy", "kong"]),
    st.fixed_dictionaries(
        {},
        optional={
            "requests_per_second": st.integers(0, 5),
            "burst": st.integers(0, 5),
            "trusted_proxies": st.integers(0, 3),
            "allow_from": st.lists(st.sampled_from(NETWORKS), max_size=2),
        },
    ),
    st.sampled_from(["supabase", "#x", "a:b", "a@b", "ä"]),
)
def test_what_passes_the_checks_can_be_rendered(gateway: str, limits: Dict[str, Any], username: str) -> None:
    declared = {"name": "acme", "gateway": gateway, "limits": limits, "dashboard_username": username}
    if not _spec.build(declared, Layers({}, {}), release())[1]:
        render(gateway=gateway, limits=limits, dashboard_username=username)


@pytest.mark.parametrize("gateway", ["envoy", "kong"])
@pytest.mark.parametrize(
    "options",
    [
        {"limits": {"requests_per_second": 5}}, {"limits": {"requests_per_second": 5, "burst": 50}},
        {"limits": {"allow_from": ["192.0.2.0/24"]}}, {"keys": {"opaque": True}},
        {"keys": {"asymmetric": True, "opaque": True}}, {"services": {"storage": False, "imgproxy": False}},
        {"cors_origins": ["https://other.example"]}, {"dashboard_username": "other"},
    ],
    ids=repr,
)  # fmt: skip
def test_options_that_reach_the_gateways_file(gateway: str, options: Dict[str, Any]) -> None:
    path = "volumes/api/{0}.json".format(gateway)
    one, two = render(gateway=gateway), render(gateway=gateway, **options)
    assert one.files[path] != two.files[path]
    assert one.variables["MULTIBASE_CONFIG_API_GW"] != two.variables["MULTIBASE_CONFIG_API_GW"]


def test_both_gateways_believe_the_proxies_in_front() -> None:
    limits = {"trusted_proxies": 1}
    envoy, with_proxy = render().files["volumes/api/envoy.json"], render(limits=limits).files["volumes/api/envoy.json"]
    assert envoy != with_proxy
    # Kong takes that from its environment.
    kong = environment_of(render(gateway="kong", limits=limits), "api-gw")
    assert kong["KONG_REAL_IP_HEADER"] == "X-Forwarded-For"
    assert "env/api-gw.env" not in render(gateway="kong").files


@pytest.mark.parametrize("gateway", ["envoy", "kong"])
def test_the_instances_own_containers_are_let_in_beside_those_who_are_named(gateway: str) -> None:
    def text(subnet: str) -> bytes:
        allocation = Allocation(21230, subnet, "multibase-acme")
        limits = {"allow_from": ["192.0.2.0/24"]}
        rendered = render(allocation=allocation, gateway=gateway, limits=limits)
        return rendered.files["volumes/api/{0}.json".format(gateway)][0]

    assert text("10.213.4.64/26") != text("10.213.4.128/26")


# Compose files


def listed(**more: Any) -> List[str]:
    rendered = render(**more)
    files = rendered.variables["COMPOSE_FILE"].split(":")
    assert rendered.manifest["overlays"] == files
    assert {path for path in files if path != "docker-compose.override.yml"} <= set(rendered.files)
    return files


NEW_ENGINE = HostFacts("/r", 4, True)


@pytest.mark.parametrize(
    ("options", "overlays"),
    [
        ({}, []),
        ({"gateway": "kong"}, ["kong"]),
        ({"services": {"analytics": True}}, ["logs"]),
        ({"services": {"analytics": True, "vector": True}, "expose": ["analytics"]}, ["logs", "expose-analytics"]),
        ({"services": {"pgbouncer": True, "supavisor": False}}, ["pgbouncer"]),
        (S3, ["s3"]),
        (ELSEWHERE, ["external-postgres"]),
        ({"database": {"version": 15}}, []),
        ({"expose": ["studio"]}, ["expose-studio"]),
        ({"expose": ["studio", "postgres"]}, ["expose-postgres", "expose-studio"]),
        ({"facts": NEW_ENGINE}, ["start-interval"]),
        ({"facts": NEW_ENGINE, "services": {"analytics": True}}, ["start-interval", "logs", "start-interval-logs"]),
        (
            {"facts": NEW_ENGINE, "services": {"pgbouncer": True, "supavisor": False}},
            ["start-interval", "pgbouncer", "start-interval-pgbouncer"],
        ),
    ],
    ids=repr,
)
def test_overlays_are_listed_when_they_are_needed(options: Dict[str, Any], overlays: List[str]) -> None:
    files = ["docker-compose.yml", *["overlays/{0}.yml".format(name) for name in overlays]]
    assert listed(**options) == files
    with_override = {**options, "found": HostFiles(override=True)}
    assert listed(**with_override) == [*files, "docker-compose.override.yml"], "the user's own has the last word"


def test_overlays_are_in_the_order_of_the_release() -> None:
    order = list(bundle()["definition"]["overlays"])
    everything = {
        "gateway": "kong", "services": {"analytics": True, "vector": True, "pgbouncer": True, "supavisor": False},
        "expose": ["postgres", "studio", "analytics"], "facts": NEW_ENGINE, **S3,
    }  # fmt: skip
    for options in (everything, {**everything, **ELSEWHERE, "expose": ["studio", "analytics"]}):
        found = listed(**options)[1:]
        assert found == [path for path in order if path in found]
    shown = set(listed(**everything)) | set(listed(**ELSEWHERE))
    assert shown == {"docker-compose.yml", *order}, "there is none that nothing asks for"


# The same again


def test_two_renders_give_the_same_bytes() -> None:
    one, two = render(), render()
    assert one.files == two.files and one.seeds == two.seeds
    assert one.manifest_bytes() == two.manifest_bytes()
    assert list(one.variables.items()) == list(two.variables.items())


def test_the_order_of_what_is_declared_does_not_matter() -> None:
    one = render(services={"studio": False, "realtime": False}, images={"db": "a:1", "auth": "b:1"})
    two = render(images={"auth": "b:1", "db": "a:1"}, services={"realtime": False, "studio": False})
    assert one.files == two.files and one.manifest_bytes() == two.manifest_bytes()


def test_the_digest_label_follows_the_mounted_configuration() -> None:
    one = render().variables
    for name, changed in (
        ("MULTIBASE_CONFIG_API_GW", render(cors_origins=["https://other.example"]).variables),
        ("MULTIBASE_CONFIG_API_GW", render(public_url="https://other.example").variables),
        ("MULTIBASE_CONFIG_API_GW", render(dashboard_username="other").variables),
    ):
        assert one[name] != changed[name]
        assert one["MULTIBASE_CONFIG_SUPAVISOR"] == changed["MULTIBASE_CONFIG_SUPAVISOR"]
    unrelated = render(size="large").variables
    assert {name: one[name] for name in one if "_CONFIG_" in name} == {
        name: unrelated[name] for name in unrelated if "_CONFIG_" in name
    }


# Secrets


def test_secrets_are_in_two_files_only() -> None:
    rendered = render(smtp={"host": "mail.example.com"})
    assert {name for name in SECRETS if not rendered.variables[name]} == set()
    values = {name: rendered.variables[name] for name in SECRETS}
    encoded = {name + " in base64": base64.b64encode(value.encode()).decode() for name, value in values.items()}
    hashed = {
        name + " hashed": hashlib.sha1(value.encode(), usedforsecurity=False).hexdigest()
        for name, value in values.items()
    }
    files = {**rendered.files, **rendered.seeds, "instance.json": (rendered.manifest_bytes(), 0o600)}
    for path, (content, _mode) in files.items():
        if path not in MAY_HOLD_SECRETS:
            assert_no_secret(content.decode("utf-8"), {**values, **encoded, **hashed}, path)
    gateway = files["volumes/api/envoy.json"][0].decode("utf-8")
    only = {name: value for name, value in values.items() if name not in ("ANON_KEY", "SERVICE_ROLE_KEY")}
    assert_no_secret(gateway, only, "envoy.json")
    json.loads(gateway)


def test_the_users_secrets_are_in_their_services_file_only() -> None:
    secrets = {"functions": {"STRIPE_KEY": "canary of stripe"}, "auth": {"GOTRUE_EXTERNAL_GITHUB_SECRET": "canary git"}}
    rendered = render(
        auth={"providers": {"github": {"client_id": "x"}}}, env={"functions": {"A": "b"}}, secrets=secrets
    )
    files = {**rendered.files, **rendered.seeds, "instance.json": (rendered.manifest_bytes(), 0o600)}
    holding = {path for path, (content, _mode) in files.items() if b"canary of stripe" in content}
    assert holding == {"env/functions.env"}
    assert {path for path, (content, _mode) in files.items() if b"canary git" in content} == {"env/auth.env"}
    assert rendered.manifest["user_secrets"]["functions"] == ["STRIPE_KEY"]
    assert rendered.manifest["user_secrets"]["auth"] == ["GOTRUE_EXTERNAL_GITHUB_SECRET"]
    assert "STRIPE_KEY" not in json.dumps(rendered.manifest["env"])


@pytest.mark.parametrize("gateway", ["envoy", "kong"])
@pytest.mark.parametrize("keys", [{}, {"opaque": True}, {"asymmetric": True}, {"opaque": True, "asymmetric": True}])
def test_keys_that_are_off_are_kept_under_another_name_and_used_nowhere(gateway: str, keys: Dict[str, bool]) -> None:
    rendered = render(gateway=gateway, keys=keys)
    variables = rendered.variables
    for name in _secrets.OPTIONAL_NAMES:
        on = keys.get("opaque" if name.startswith("SUPABASE_") else "asymmetric", False)
        assert (variables[name] == VALUES[name]) is on, name
        assert (variables.get("MULTIBASE_UNUSED_" + name) == VALUES[name]) is not on, name
        if not on:
            for path, (content, _mode) in rendered.files.items():
                assert path == ".env" or VALUES[name].encode() not in content, (name, path)
        assert (name in rendered.manifest["secrets"]) is on
    asymmetric = keys.get("asymmetric", False)
    assert variables["PGRST_JWT_SECRET"] == VALUES["JWT_JWKS" if asymmetric else "JWT_SECRET"]
    assert variables["JWT_KEYS"] == (VALUES["JWT_KEYS"] if asymmetric else "[]")


def test_modes() -> None:
    rendered = render()
    assert rendered.files[".env"][1] == 0o600
    for path, (_content, mode) in {**rendered.files, **rendered.seeds}.items():
        if path != ".env":
            assert mode == 0o644, path
    assert set(rendered.directories.values()) <= {0o755, 0o700}
    assert rendered.directories["env"] == 0o700, "nobody but root and Compose reads them"


def test_the_manifest_has_what_others_read_and_fingerprints_only() -> None:
    manifest = json.loads(render().manifest_bytes())
    assert manifest["name"] == "acme" and manifest["release"] == "0.8.2" and manifest["gateway"] == "envoy"
    assert manifest["project"] == "multibase-acme" and manifest["port_base"] == 21230
    assert set(manifest["secrets"]) == set(_secrets.GENERATED_NAMES)
    for name, shown in manifest["secrets"].items():
        assert shown == _secrets.fingerprint(VALUES[name], "salt")
    more = render(environment="production", labels={"team": "a", "n": 5}).manifest
    assert (more["environment"], more["labels"], more["blueprint"]) == ("production", {"team": "a", "n": "5"}, "")


def test_urls_carry_no_password() -> None:
    urls = render(expose=["postgres"], bind_address="0.0.0.0").manifest["urls"]
    assert urls["api"] == "http://127.0.0.1:21230"
    assert "21235" in urls["postgres"] and "21233" in urls["pooler_session"] and "21234" in urls["pooler_transaction"]
    assert_no_secret(json.dumps(urls), VALUES, "urls")


@pytest.mark.parametrize(
    "value",
    [
        "your-super-secret", "supabaserealtime", "your-tenant-id", "secret1234", "625729a0", "supabase-demo",
        "this_password_is_insecure", "super-secret-jwt-token", "your-encryption-key", "changeme",
    ],
)  # fmt: skip
def test_no_value_of_upstreams_example_is_left(value: str) -> None:
    rendered = render(services={"analytics": True, "vector": True})
    for path, (content, _mode) in {**rendered.files, **rendered.seeds}.items():
        lines = [
            line
            for line in content.decode("utf-8").lower().splitlines()
            if not line.lstrip().startswith(("#", "//", "--"))
        ]
        assert value not in "\n".join(lines), path


HOSTILE = "{{ lookup('pipe','id') }}|x: y\nprivileged: true|a # b|*anchor|{a: b}|${HOME}|$(id)|`id`|it's|\"|\\|é😀"


@pytest.mark.parametrize("value", [*HOSTILE.split("|"), HOSTILE, "x" * 100_000], ids=lambda value: ascii(value[:12]))
def test_hostile_text_is_only_a_value(value: str) -> None:
    plain = render(studio={"organization": "x"}, smtp={"sender_name": "y"})
    rendered = render(studio={"organization": value}, smtp={"sender_name": value})
    parsed = _envfile.parse(rendered.files[".env"][0].decode("utf-8"))
    assert parsed["STUDIO_DEFAULT_ORGANIZATION"] == parsed["SMTP_SENDER_NAME"] == value
    assert set(parsed) == set(plain.variables)
    others = {path: content for path, content in rendered.files.items() if path != ".env"}
    assert others == {path: content for path, content in plain.files.items() if path != ".env"}


# Releases


@pytest.mark.parametrize(
    "definition",
    [
        None, {}, [], "text", {"weights": {"db": 1}}, {**bundle()["definition"], "weights": {"db": 1}},
        {**bundle()["definition"], "weights": {}}, {**bundle()["definition"], "weights": ["db"]},
        {**bundle()["definition"], "image_sets": []}, {**bundle()["definition"], "directories": {"volumes": "rwx"}},
        {**bundle()["definition"], "weights": {service: "much" for service in SERVICES}},
        {**bundle()["definition"], "cpu_weights": {"db": 1}}, {**bundle()["definition"], "cpu_weights": {}},
        {**bundle()["definition"], "alternatives": {"kong": {"images": {}}}},
        {**bundle()["definition"], "requires": {"studio": "meta"}},
    ],
    ids=lambda value: repr(value)[:40],
)  # fmt: skip
def test_a_damaged_release_is_an_error_with_its_name(definition: Any) -> None:
    with pytest.raises(MultibaseError, match=r"0\.9\.9"):
        release_from_bundle("0.9.9", {"definition": definition, "files": bundle()["files"]})


def test_a_release_without_a_compose_file_is_an_error() -> None:
    with pytest.raises(MultibaseError, match=r"docker-compose\.yml"):
        release_from_bundle("0.9.9", {"definition": bundle()["definition"], "files": {}})
