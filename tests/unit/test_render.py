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

from ansible_collections.multibase.supabase.plugins.module_utils import _envfile, _secrets, _spec
from ansible_collections.multibase.supabase.plugins.module_utils._errors import MultibaseError
from ansible_collections.multibase.supabase.plugins.module_utils._registry import Allocation
from ansible_collections.multibase.supabase.plugins.module_utils._release import release_from_bundle
from ansible_collections.multibase.supabase.plugins.module_utils._render import HostFacts, Rendered, render_instance
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

VALUES = {**_secrets.fill_in({}, NOW), "SMTP_PASS": 'canary of "mail" $x', "OPENAI_API_KEY": "sk-canary-openai"}
ALLOCATION = Allocation(21230, "10.213.4.64/26", "multibase-acme")
MAY_HOLD_SECRETS = {".env", "volumes/api/envoy.json"}
OPTIONAL = sorted(set(SERVICES) - {"db", "api-gw"})


def render(
    allocation: Allocation = ALLOCATION,
    facts: Optional[HostFacts] = None,
    hand_added: Optional[Mapping[str, str]] = None,
    override: bool = False,
    **options: Any,
) -> Rendered:
    spec, problems = _spec.build({"name": "acme", **options}, {}, release())
    assert problems == []
    return render_instance(
        spec,
        release(),
        allocation,
        VALUES,
        facts or HostFacts("/opt/multibase", 4, False),
        "salt",
        hand_added,
        override,
    )


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
        {"expose": ["postgres", "studio"], "size": "small", "image_set": "sandbox"},
        {"image_registry": "registry.example.com:5000/x", "rest": {"schemas": ["public"]}},
    ],
)
def test_every_variable_of_the_compose_files_is_set(options: Dict[str, Any]) -> None:
    variables = render(**options).variables
    used = compose_variables()
    assert len(used) > 80
    assert set(used) <= set(variables)
    assert [name for name, kind in used.items() if kind == ":?" and not variables[name]] == []


def test_nothing_is_set_that_compose_would_take_for_its_own() -> None:
    own = {name for name in render().variables if name.startswith(("COMPOSE_", "DOCKER_"))}
    assert own == {"COMPOSE_PROJECT_NAME", "COMPOSE_FILE", "COMPOSE_PROFILES"}


def test_the_env_file_says_what_the_variables_say() -> None:
    rendered = render(hand_added={"MINE": 'kept $ # "x"'})
    text = rendered.files[".env"][0].decode("utf-8")
    assert _envfile.parse(text) == dict(rendered.variables)
    assert rendered.variables["MINE"] == 'kept $ # "x"'


def test_all_static_files_are_there_unchanged() -> None:
    rendered = render()
    for path in RELEASE_DIRECTORY.rglob("*"):
        relative = path.relative_to(RELEASE_DIRECTORY).as_posix()
        if path.is_file() and path.suffix in (".yml", ".sql", ".exs", ".ts") and relative != "release.yml":
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


def test_the_loopback_address_unless_asked_otherwise() -> None:
    assert render().variables["MULTIBASE_BIND_ADDRESS"] == "127.0.0.1"
    assert render().variables["SUPABASE_PUBLIC_URL"] == "http://127.0.0.1:21230"
    assert render(bind_address="10.1.2.3").variables["SUPABASE_PUBLIC_URL"] == "http://10.1.2.3:21230"


# Ports


def test_the_block() -> None:
    variables = render().variables
    assert {name: variables[name] for name in variables if name.endswith(("_PORT", "_SESSION", "_TRANSACTION"))} == {
        "API_GW_HTTP_PORT": "21230", "STUDIO_PUBLISHED_PORT": "21232", "POOLER_PROXY_PORT_SESSION": "21233",
        "POOLER_PROXY_PORT_TRANSACTION": "21234", "POSTGRES_PUBLISHED_PORT": "21235", "SMTP_PORT": "587",
    }  # fmt: skip
    assert variables["MULTIBASE_SUBNET"] == "10.213.4.64/26"


def test_only_what_is_published_is_told() -> None:
    everything = {"gateway_http": 21230, "pooler_session": 21233, "pooler_transaction": 21234}
    assert render().manifest["ports"] == everything
    assert render(services={"supavisor": False}).manifest["ports"] == {"gateway_http": 21230}
    exposed = render(expose=["studio", "postgres"]).manifest["ports"]
    assert exposed == {**everything, "studio": 21232, "postgres": 21235}


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


@pytest.mark.parametrize(("cpus", "expected"), [(1, "1.00"), (2, "2.00"), (4, "4.00"), (64, "4.00")])
def test_processors_are_clamped_to_the_hosts(cpus: int, expected: str) -> None:
    variables = render(facts=HostFacts("/r", cpus, False), size="large").variables
    for service in SERVICES:
        assert variables["MULTIBASE_CPUS_" + service.upper().replace("-", "_")] == expected


# Compose files


def test_overlays_are_listed_when_they_are_needed() -> None:
    def listed(**more: Any) -> List[str]:
        return render(**more).variables["COMPOSE_FILE"].split(":")

    assert listed() == ["docker-compose.yml"]
    assert listed(expose=["studio"]) == ["docker-compose.yml", "overlays/expose-studio.yml"]
    assert set(listed(expose=["studio", "postgres"])) == {
        "docker-compose.yml", "overlays/expose-studio.yml", "overlays/expose-postgres.yml",
    }  # fmt: skip
    assert listed(facts=HostFacts("/r", 4, True))[-1] == "overlays/start-interval.yml"
    assert listed(facts=HostFacts("/r", 4, True), override=True)[-1] == "docker-compose.override.yml"
    rendered = render(facts=HostFacts("/r", 4, True), expose=["studio", "postgres"])
    for path in rendered.variables["COMPOSE_FILE"].split(":"):
        assert path in rendered.files


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


def test_modes() -> None:
    rendered = render()
    assert rendered.files[".env"][1] == 0o600
    for path, (_content, mode) in {**rendered.files, **rendered.seeds}.items():
        if path != ".env":
            assert mode == 0o644, path
    assert set(rendered.directories.values()) <= {0o755, 0o700}


def test_the_manifest_has_what_others_read_and_fingerprints_only() -> None:
    manifest = json.loads(render().manifest_bytes())
    assert manifest["name"] == "acme" and manifest["release"] == "0.8.2" and manifest["gateway"] == "envoy"
    assert manifest["project"] == "multibase-acme" and manifest["port_base"] == 21230
    assert set(manifest["secrets"]) >= set(_secrets.GENERATED_NAMES)
    for name, shown in manifest["secrets"].items():
        assert shown == _secrets.fingerprint(VALUES[name], "salt")


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
    rendered = render()
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
    ],
    ids=lambda value: repr(value)[:40],
)  # fmt: skip
def test_a_damaged_release_is_an_error_with_its_name(definition: Any) -> None:
    with pytest.raises(MultibaseError, match=r"0\.9\.9"):
        release_from_bundle("0.9.9", {"definition": definition, "files": bundle()["files"]})


def test_a_release_without_a_compose_file_is_an_error() -> None:
    with pytest.raises(MultibaseError, match=r"docker-compose\.yml"):
        release_from_bundle("0.9.9", {"definition": bundle()["definition"], "files": {}})
