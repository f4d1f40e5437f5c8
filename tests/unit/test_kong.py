# SPDX-License-Identifier: GPL-3.0-or-later
"""Kong's declarative configuration, as far as it can be checked without Kong.

``kong_support`` has the schema and the router, written from Kong's documentation. What the Lua functions do is tried in
``integration/test_gateway_kong.py``.
"""

from __future__ import annotations

import copy
import itertools
import json
import re
from pathlib import Path
from typing import Any, Dict, List, Optional

import jsonschema
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from ansible_collections.multibase.supabase.plugins.module_utils import _gateway, _kong, _routes
from integration.gateway_table import (
    ANON,
    ANON_ES256,
    APP_ORIGIN,
    LEGACY_KEYS,
    PUBLISHABLE,
    ROWS,
    SAME_ROW,
    SECRET,
    SERVICE,
    SERVICE_ES256,
    SERVICES,
    make_spec,
)
from unit import kong_support

OVERLAY = Path(__file__).resolve().parents[2] / "compose_templates" / "0.8.2" / "overlays" / "kong.yml"
VALIDATOR = jsonschema.Draft202012Validator(kong_support.SCHEMA)

SPECS = {
    "all": make_spec(),
    "legacy keys": make_spec(**LEGACY_KEYS),
    "opaque keys without asymmetric ones": make_spec(anon_key_asymmetric="", service_role_key_asymmetric=""),
    "no services": make_spec(services=frozenset()),
    "any origin": make_spec(cors_origins=("*",)),
    "no origin": make_spec(cors_origins=()),
    "one proxy": make_spec(trusted_hops=1),
    "limits": make_spec(requests_per_second=10, burst=50, allow_from=("192.0.2.0/24", "2001:db8::/32", "10.0.0.1")),
    "an issuer without a path": make_spec(issuer="https://api.example.test"),
    "a port in the address": make_spec(public_url="http://[2001:db8::1]:20000", issuer="http://h.test/auth/v1"),
}


def plugins_of(entity: Dict[str, Any]) -> Dict[str, Dict[str, Any]]:
    found = {plugin["name"]: plugin["config"] for plugin in entity.get("plugins", [])}
    assert len(found) == len(entity.get("plugins", []))
    return found


def routes(config: Dict[str, Any]) -> Dict[str, Dict[str, Any]]:
    return {route["name"]: route for route, _service in kong_support.routes_of(config)}


def services(config: Dict[str, Any]) -> Dict[str, Dict[str, Any]]:
    return {service["name"]: service for service in config["services"]}


def consumers(config: Dict[str, Any]) -> Dict[str, Dict[str, Any]]:
    return {consumer["username"]: consumer for consumer in config["consumers"]}


@pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS)
def test_the_file_fits_kongs_schema(spec: _gateway.GatewaySpec) -> None:
    config = json.loads(_kong.render(spec))
    VALIDATOR.validate(config)
    assert config == _kong.kong_config(spec)
    assert config["_format_version"] == "3.0"


def places(value: Any) -> List[List[Any]]:
    """The paths to all objects inside the value that have fields."""
    found: List[List[Any]] = []
    pairs = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, entry in pairs:
        found += [[key, *rest] for rest in places(entry)]
    return [*found, []] if isinstance(value, dict) and value else found


def test_the_schema_finds_a_misspelt_field_wherever_it_is() -> None:
    """The check of the check: every object of a configuration that uses everything, every field of it."""
    config = _kong.kong_config(SPECS["limits"])
    checked = set()
    for place in places(config):
        entity = _at(config, place)
        # One of each kind: which entity, which plugin, which of its objects.
        kind = [key for key in place if isinstance(key, str)]
        plugin = entity.get("name") if "plugins" in kind[-1:] else _at(config, place[:-1] or []).get("name", "")
        for field in entity:
            if (*kind, plugin, field) not in checked:
                broken = copy.deepcopy(config)
                target = _at(broken, place)
                target[field + "_"] = target.pop(field)
                assert not VALIDATOR.is_valid(broken), (place, field)
                checked.add((*kind, plugin, field))
    assert len(checked) > 100


def _at(value: Any, place: List[Any]) -> Any:
    for key in place:
        value = value[key]
    return value if isinstance(value, dict) else {}


@pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS)
def test_names_and_credentials_are_unique_and_references_lead_somewhere(spec: _gateway.GatewaySpec) -> None:
    config = _kong.kong_config(spec)
    for names in (
        [route["name"] for route, _service in kong_support.routes_of(config)],
        [service["name"] for service in config["services"]],
        [consumer["username"] for consumer in config["consumers"]],
        [entry["key"] for consumer in config["consumers"] for entry in consumer.get("keyauth_credentials", [])],
        [route["priority"] for route, _service in kong_support.routes_of(config)],
    ):
        assert len(set(names)) == len(names)
    groups = {entry["group"] for consumer in config["consumers"] for entry in consumer.get("acls", [])}
    for route in routes(config).values():
        plugins = plugins_of(route)
        for name in ("key-auth", "basic-auth"):
            if name in plugins:
                assert plugins[name]["anonymous"] in consumers(config), route["name"]
        assert set(plugins.get("acl", {}).get("allow", [])) <= groups, route["name"]
    # A plugin on a route replaces a global one of the same name: ours must not meet.
    on_routes = {name for route in routes(config).values() for name in plugins_of(route)}
    on_consumers = {name for consumer in config["consumers"] for name in plugins_of(consumer)}
    assert not set(plugins_of(config)) & (on_routes | on_consumers)


def test_priorities_keep_the_order_of_the_table() -> None:
    ordered = sorted(routes(_kong.kong_config(make_spec())).values(), key=lambda route: -route["priority"])
    assert [route["name"] for route in ordered] == [row.name for row in _routes.ROUTES]
    assert [route["name"] for route in ordered] == [row.name for row in ROWS.values()]


def test_every_plugin_in_use_is_switched_on_and_no_other() -> None:
    config = _kong.kong_config(SPECS["limits"])
    used = set(plugins_of(config))
    for entity in [*routes(config).values(), *config["services"], *config["consumers"]]:
        used |= set(plugins_of(entity))
    environment = yaml.safe_load(OVERLAY.read_text(encoding="utf-8"))["services"]["api-gw"]["environment"]
    assert sorted(environment["KONG_PLUGINS"].split(",")) == sorted(used) == sorted(kong_support.PRIORITIES)


def test_the_overlay_needs_no_secret_and_reads_the_mounted_file() -> None:
    service = yaml.safe_load(OVERLAY.read_text(encoding="utf-8"))["services"]["api-gw"]
    assert service["environment"]["KONG_DECLARATIVE_CONFIG"] == "/etc/multibase/kong.json"
    assert service["environment"]["KONG_ROUTER_FLAVOR"] == "expressions"
    assert service["environment"]["KONG_DATABASE"] == service["environment"]["KONG_HEADERS"] == "off"
    assert service["healthcheck"]["test"] == ["CMD", "kong", "health"]
    # ${...} is Compose's; what nginx must see is written $$.
    text = OVERLAY.read_text(encoding="utf-8")
    assert re.findall(r"(?<!\$)\$\{([A-Z_]+)", text) == ["KONG_HTTPS_PORT", "MULTIBASE_BIND_ADDRESS"]
    assert "$request_uri" not in text
    assert "$args" not in text
    assert "$http_" not in text


# The router


def envoys_row(spec: _gateway.GatewaySpec, path: str) -> Dict[str, Any]:
    """The route of Envoy's configuration for a normalised path: the first prefix or exact path that matches."""
    config = _gateway.envoy_config(spec)
    manager = config["static_resources"]["listeners"][0]["filter_chains"][0]["filters"][0]["typed_config"]
    for route in manager["route_config"]["virtual_hosts"][0]["routes"]:
        match = route["match"]
        if "headers" in match:
            continue
        if path == match.get("path") or ("prefix" in match and path.startswith(match["prefix"])):
            found: Dict[str, Any] = route
            return found
    raise AssertionError("no row takes " + path)


def envoys_upstream_path(route: Dict[str, Any], path: str) -> str:
    matched = route["match"].get("prefix", route["match"].get("path"))
    return str(route["route"].get("prefix_rewrite", matched)) + path[len(matched) :]


def kongs_upstream_paths(match: kong_support.Match, path: str) -> List[str]:
    """Whichever of the predicates that held Kong takes for the prefix."""
    return sorted({kong_support.upstream_path(match, path, prefix) for prefix in match.prefixes})


NEIGHBOURS = [
    "/", "/rest/v1", "/rest/v1/", "/rest/v1/x", "/rest/v1/x.", "/pg", "/pg/", "/auth/v1", "/auth/v1/",
    "/auth/v1/verify/", "/auth/v1/verify/x", "/auth/v1/verif", "/auth/v1/.well-known/openid-configuration",
    "/graphql/v1/", "/graphql/v1/x", "/graphql/v2", "/realtime/v1", "/realtime/v1/", "/realtime/v1/api",
    "/realtime/v1/api/", "/realtime/v1/api/openapi.json", "/realtime/v1/api/tenants.", "/realtime/v1/api/tenants/x/y",
    "/realtime/v1/apx", "/storage/v1/s3/b/k", "/storage/v1/", "/.well-known/oauth-authorization-server",
    "/.well-known/oauth-authorization-server/auth/v1/", "/mcp/x", "/mcpx", "/api/mcp/x", "/api/mc", "/API/MCP",
    "/analytics/v1/x", "/functions/v1", "/functions/v1/", "/project/default",
]  # fmt: skip


@pytest.mark.parametrize("path", [*(row.path for row in ROWS.values()), *NEIGHBOURS])
@pytest.mark.parametrize("issuer", ["https://api.example.test/auth/v1", "https://api.example.test"])
def test_a_path_reaches_the_row_that_it_reaches_with_envoy(path: str, issuer: str) -> None:
    spec = make_spec(issuer=issuer)
    match = kong_support.find_route(_kong.kong_config(spec), path)
    envoys = envoys_row(spec, path)
    assert match is not None
    assert match.route["name"] == envoys["name"]
    if "route" in envoys:
        assert kongs_upstream_paths(match, path) == [envoys_upstream_path(envoys, path)]


@pytest.mark.parametrize("number", ROWS)
def test_a_row_sends_what_the_written_table_says(number: int) -> None:
    row = ROWS[number]
    config = _kong.kong_config(make_spec())
    for name, spell in SAME_ROW.items():
        # An absolute address keeps its path only; a backslash is refused by a function before anything else.
        spelled = row.path if name in ("absolute", "backslash") else spell(row.path)
        path = kong_support.normalized(spelled)
        match = kong_support.find_route(config, path)
        assert match is not None, name
        assert match.route["name"] == row.name, name
        assert "access:" + row.access in match.route["tags"], name
        if row.service:
            assert kongs_upstream_paths(match, path) == [row.upstream_path], name
            service = services(config)[row.name]
            assert service["host"] == (row.host if row.service == "realtime" else row.service), name
            assert service["port"] == _routes.CLUSTER_PORTS[row.service], name


SUFFIXES = st.lists(st.sampled_from(["/", "x", "tenants", "openapi", "api", "verify", "v1", "mcp", "."]), max_size=4)


@given(begin=st.sampled_from([row.path for row in _routes.ROUTES]), suffix=SUFFIXES)
def test_kong_is_never_more_open_than_envoy(begin: str, suffix: List[str]) -> None:
    """They differ only where a row ends in the middle of a segment, and there Kong takes a stricter row."""
    path = kong_support.normalized(begin + "".join(suffix))
    match = kong_support.find_route(CONFIG, path)
    envoys = envoys_row(SPEC, path)
    assert match is not None
    if match.route["name"] != envoys["name"]:
        inside = path[len(envoys["match"]["prefix"]) :]
        assert inside, path
        assert not inside.startswith("/"), path
        access = {row.name: row.access for row in _routes.ROUTES}
        assert access[envoys["name"]] in ("open", "key"), path
        assert access[match.route["name"]] in ("key", "websocket", "dashboard"), path
    elif "route" in envoys:
        assert kongs_upstream_paths(match, path) == [envoys_upstream_path(envoys, path)]


SPEC = make_spec()
CONFIG = _kong.kong_config(SPEC)


@pytest.mark.parametrize(
    ("raw", "path"),
    [
        ("/a//b", "/a/b"), ("/a/./b", "/a/b"), ("/a/b/..", "/a/"), ("/a/../../b", "/b"), ("/%61/%2e%2E/b", "/b"),
        ("/a%2fb", "/a%2Fb"), ("/", "/"), ("/a/.", "/a/"), ("/..", "/"), ("/a%20b", "/a b"),
    ],
)  # fmt: skip
def test_the_support_normalises_as_rfc_3986_says(raw: str, path: str) -> None:
    assert kong_support.normalized(raw) == path


@pytest.mark.parametrize(
    ("expression", "path", "holds"),
    [
        ('http.path == "/a"', "/a", True),
        ('http.path == "/a"', "/a/", False),
        ('http.path ^= "/a" && http.path == "/b"', "/a", False),
        ('(http.path == "/a" || http.path ^= "/a/") && http.path ^= "/a"', "/ab", False),
        ('(http.path == "/a" || http.path ^= "/a/") && http.path ^= "/a"', "/a/b", True),
        ('http.path == "/x" || http.path == "/a" && http.path == "/b"', "/x", True),
    ],
)
def test_the_support_evaluates_expressions(expression: str, path: str, holds: bool) -> None:
    assert kong_support.evaluate(expression, path)[0] is holds


@pytest.mark.parametrize("expression", ['http.path = "/a"', "http.path == /a", '(http.path == "/a"', "", "http.host"])
def test_the_support_takes_no_other_expressions(expression: str) -> None:
    with pytest.raises((ValueError, IndexError)):
        kong_support.evaluate(expression, "/a")


# Who may


GROUPS = {"key": ["anon", "nobody", "service_role"], "websocket": ["anon", "nobody", "service_role"]}
GROUPS["service"] = ["nobody", "service_role"]


@pytest.mark.parametrize("number", ROWS)
def test_a_rows_plugins_follow_from_its_kind(number: int) -> None:
    row = ROWS[number]
    plugins = plugins_of(routes(CONFIG)[row.name])
    wanted = {
        "open": ["cors", "key-auth"],
        "functions": ["cors", "key-auth"],
        "key": ["acl", "cors", "key-auth"],
        "websocket": ["acl", "cors", "key-auth"],
        "service": ["acl", "cors", "key-auth"],
        "dashboard": ["basic-auth"],
        "denied": ["request-termination"],
    }
    assert sorted(plugins) == wanted[row.access]
    if row.access in GROUPS:
        assert sorted(plugins["acl"]["allow"]) == GROUPS[row.access]
    if "key-auth" in plugins:
        anonymous = "guest" if row.access in ("open", "functions") else "nobody"
        assert plugins["key-auth"]["anonymous"] == anonymous
        assert plugins["key-auth"]["key_in_query"] is plugins["key-auth"]["key_in_body"] is False
    if row.access == "dashboard":
        assert plugins["basic-auth"] == {"anonymous": "nobody", "hide_credentials": True}
    if row.access == "denied":
        assert plugins["request-termination"]["status_code"] == 403


def test_nobody_is_turned_away_wherever_it_comes_from() -> None:
    """The plugin of a consumer wins over one of a route, and a guest has none."""
    everyone = consumers(CONFIG)
    assert plugins_of(everyone["nobody"])["request-termination"]["status_code"] == 401
    assert everyone["guest"] == {"username": "guest"}
    assert not {"keyauth_credentials", "basicauth_credentials"} & set(everyone["nobody"])


@pytest.mark.parametrize(
    ("changes", "wanted"),
    [
        (
            {},
            {
                "anon": (ANON, "anon", ANON),
                "service_role": (SERVICE, "service_role", SERVICE),
                "publishable": (PUBLISHABLE, "anon", ANON_ES256),
                "secret": (SECRET, "service_role", SERVICE_ES256),
            },
        ),
        (
            {"anon_key_asymmetric": "", "service_role_key_asymmetric": ""},
            {
                "anon": (ANON, "anon", ANON),
                "service_role": (SERVICE, "service_role", SERVICE),
                "publishable": (PUBLISHABLE, "anon", ANON),
                "secret": (SECRET, "service_role", SERVICE),
            },
        ),
        (LEGACY_KEYS, {"anon": (ANON, "anon", ANON), "service_role": (SERVICE, "service_role", SERVICE)}),
    ],
)
def test_keys_are_credentials_of_consumers(changes: Dict[str, str], wanted: Dict[str, Any]) -> None:
    found = {}
    for consumer in _kong.kong_config(make_spec(**changes))["consumers"]:
        for credential in consumer.get("keyauth_credentials", []):
            (group,) = consumer["acls"]
            (header,) = plugins_of(consumer)["request-transformer"]["add"]["headers"]
            name, _colon, jwt = header.partition(":")
            assert name == "sb-api-key"
            found[consumer["username"]] = (credential["key"], group["group"], jwt)
    assert found == wanted


def test_the_dashboards_login_is_a_credential_and_nowhere_else() -> None:
    text = _kong.render(make_spec(dashboard_username="ann", dashboard_password="a 'b' \"c\" @1 {{ x }} $HOME"))
    config = json.loads(text)
    login = {"username": "ann", "password": "a 'b' \"c\" @1 {{ x }} $HOME"}
    assert consumers(config)["dashboard"]["basicauth_credentials"] == [login]
    del consumers(config)["dashboard"]["basicauth_credentials"][0]
    assert "$HOME" not in json.dumps(config)


# CORS


def allows(patterns: List[str], origin: str) -> bool:
    """Whether Kong repeats the origin: entries are regular expressions, anchored at both ends."""
    return any(re.fullmatch(pattern.removeprefix("^").removesuffix("$"), origin) for pattern in patterns)


@pytest.mark.parametrize(
    ("origins", "origin", "allowed"),
    [
        ((APP_ORIGIN,), APP_ORIGIN, True),
        ((APP_ORIGIN, "http://localhost:3000"), "http://localhost:3000", True),
        ((APP_ORIGIN,), "https://appxtest", False),
        ((APP_ORIGIN,), "https://app.test.evil.test", False),
        ((APP_ORIGIN,), "https://xapp.test", False),
        ((APP_ORIGIN,), "http://app.test", False),
        ((APP_ORIGIN,), "null", False),
        ((), APP_ORIGIN, False),
        ((), "", False),
        (("HTTPS://App.test:443/",), APP_ORIGIN, True),
    ],
)
def test_cors_origins(origins: Any, origin: str, allowed: bool) -> None:
    for name, route in routes(_kong.kong_config(make_spec(cors_origins=origins))).items():
        cors = plugins_of(route).get("cors")
        assert (cors is None) == (route["tags"][0] in ("access:denied", "access:dashboard")), name
        if cors is not None and name != "meta":
            assert allows(cors["origins"], origin) is allowed, name
            # A plain text would be sent to every other origin too, and no text at all would mean any origin.
            assert all(entry.startswith("^") and entry.endswith("$") for entry in cors["origins"])
            assert cors["credentials"] is cors["preflight_continue"] is False


def test_any_origin_has_to_be_asked_for() -> None:
    config = _kong.kong_config(make_spec(cors_origins=("*",)))
    assert plugins_of(routes(config)["rest"])["cors"]["origins"] == ["*"]


@pytest.mark.parametrize(
    ("origin", "allowed"),
    [
        ("https://api.example.test", True),
        ("http://localhost", True),
        ("http://localhost:5173", True),
        ("https://127.0.0.1:1", True),
        (APP_ORIGIN, False),
        ("http://localhost.evil.test", False),
        ("http://localhost:x", False),
        ("https://apixexample.test", False),
    ],
)
def test_meta_has_origins_of_its_own(origin: str, allowed: bool) -> None:
    assert allows(plugins_of(routes(CONFIG)["meta"])["cors"]["origins"], origin) is allowed


# Limits


def test_no_limits_unless_they_are_asked_for() -> None:
    assert sorted(plugins_of(CONFIG)) == ["post-function", "pre-function"]


@pytest.mark.parametrize(
    ("rate", "burst", "limits"),
    [(10, 0, {"second": 10}), (10, 10, {"second": 10}), (10, 50, {"second": 50, "minute": 600})],
)
def test_rate_limit(rate: int, burst: int, limits: Dict[str, int]) -> None:
    limiting = plugins_of(_kong.kong_config(make_spec(requests_per_second=rate, burst=burst)))["rate-limiting"]
    assert {period: limiting[period] for period in ("second", "minute", "hour") if period in limiting} == limits
    assert (limiting["limit_by"], limiting["policy"]) == ("header", "local")
    # The header that all requests carry is set by us, and is no client's.
    assert '"{0}", "1"'.format(limiting["header_name"]) in _kong.LUA_FUNCTIONS["pre-function"]["rewrite"]


def test_a_long_burst_is_never_more_than_a_minute_allows() -> None:
    limiting = plugins_of(_kong.kong_config(make_spec(requests_per_second=1, burst=500)))["rate-limiting"]
    assert (limiting["second"], limiting["minute"]) == (500, 500)


def test_allow_list() -> None:
    spec = make_spec(allow_from=("192.0.2.7", "2001:db8::/32"), subnet="10.213.0.64/26")
    restriction = plugins_of(_kong.kong_config(spec))["ip-restriction"]
    assert restriction["allow"] == list(_gateway.admitted_networks(spec))
    assert restriction["allow"][:2] == ["192.0.2.7/32", "2001:db8::/32"]
    assert restriction["status"] == 403


def test_the_limits_come_before_the_refusals() -> None:
    order = sorted(kong_support.PRIORITIES, key=lambda name: -kong_support.PRIORITIES[name])
    assert order.index("ip-restriction") < order.index("acl") < order.index("rate-limiting")
    assert order.index("rate-limiting") < order.index("request-termination") < order.index("post-function")


@pytest.mark.parametrize("hops", [0, 1])
def test_environment(hops: int) -> None:
    environment = _kong.environment(make_spec(trusted_hops=hops))
    assert environment.get("KONG_REAL_IP_HEADER") == ("X-Forwarded-For" if hops else None)
    # Recursive would go on to the entries that the client wrote.
    assert environment.get("KONG_REAL_IP_RECURSIVE") == ("off" if hops else None)
    overlay = yaml.safe_load(OVERLAY.read_text(encoding="utf-8"))["services"]["api-gw"]["environment"]
    assert not set(environment) & set(overlay)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"trusted_hops": 2}, "trusted_hops"),
        ({"dashboard_password": "a\nb"}, "dashboard_password"),
        ({"dashboard_password": "a\x7f"}, "dashboard_password"),
    ],
)
def test_what_kong_cannot_do(changes: Dict[str, Any], message: str) -> None:
    with pytest.raises(_gateway.GatewayError, match=message):
        _kong.render(make_spec(**changes))


def test_what_kong_cannot_do_is_reported_together_and_shows_no_secret() -> None:
    with pytest.raises(_gateway.GatewayError) as caught:
        _kong.render(make_spec(trusted_hops=2, dashboard_password="hidden\n"))
    assert "trusted_hops" in str(caught.value)
    assert "dashboard_password" in str(caught.value)
    assert "hidden" not in str(caught.value)


# Services


@pytest.mark.parametrize(
    ("name", "seconds", "buffered"),
    [("functions", 160, False), ("storage", 300, False), ("realtime-websocket", 300, True), ("rest", 30, True)],
)
def test_times_and_buffers(name: str, seconds: int, buffered: bool) -> None:
    service, route = services(CONFIG)[name], routes(CONFIG)[name]
    assert (service["connect_timeout"], service["read_timeout"]) == (5000, seconds * 1000)
    assert route["request_buffering"] is route["response_buffering"] is buffered


def test_realtime_gets_its_own_host_and_the_others_the_clients() -> None:
    for name, service in services(CONFIG).items():
        realtime = name.startswith("realtime")
        assert routes(CONFIG)[name]["preserve_host"] is not realtime
        assert (service["host"] == "realtime-dev.supabase-realtime") is realtime


@pytest.mark.parametrize("off", SERVICES)
def test_a_service_that_is_switched_off_answers_404(off: str) -> None:
    config = _kong.kong_config(make_spec(services=set(SERVICES) - {off}))
    VALIDATOR.validate(config)
    for row in ROWS.values():
        plugins = plugins_of(routes(config)[row.name])
        if row.service != off:
            assert plugins == plugins_of(routes(CONFIG)[row.name])
            continue
        assert row.name not in services(config)
        termination = plugins.pop("request-termination")
        assert termination["status_code"] == 404
        assert json.loads(termination["body"]) == {"message": "The service " + off + " is switched off", "status": 404}
        # Otherwise as if it ran: who may not ask is not told.
        assert plugins == plugins_of(routes(CONFIG)[row.name])


# Lua


def test_the_functions_use_nothing_that_the_sandbox_lacks() -> None:
    for functions in _kong.LUA_FUNCTIONS.values():
        for code in functions.values():
            text = re.sub(r"--[^\n]*", "", code)
            assert set(re.findall(r"\bkong(?:\.[a-z_]+)+", text)) <= set(kong_support.SANDBOX_KONG)
            assert not re.findall(r"\b(?:ngx|require|load|loadstring|os|io|debug|_G|getfenv|setfenv)\b", text)


@given(
    text=st.text(st.characters(codec="utf-8", min_codepoint=32), min_size=1, max_size=60)
    | st.sampled_from(['"', "\\", "$(os.exit())", "]]", "'; end --", "{vault://env/x}", "a,b/c"]),
    name=st.sampled_from(
        ["dashboard_username", "dashboard_password", "public_url", "issuer", "anon_key", "allow_from"],
    ),
)
def test_no_value_of_an_instance_is_part_of_a_function_or_an_expression(text: str, name: str) -> None:
    value: Any = (text,) if name == "allow_from" else text
    try:
        spec = make_spec(**{name: value})
        config = json.loads(_kong.render(spec))
    except _gateway.GatewayError:
        return
    VALIDATOR.validate(config)
    assert plugins_of(config)["pre-function"] == plugins_of(CONFIG)["pre-function"]
    assert plugins_of(config)["post-function"] == plugins_of(CONFIG)["post-function"]
    for row, ours in itertools.product(routes(config), routes(CONFIG)):
        if row == ours != "auth-oauth-metadata":
            assert routes(config)[row]["expression"] == routes(CONFIG)[ours]["expression"]


def test_render_is_stable() -> None:
    first, second = make_spec(), make_spec(services=set(make_spec().services))
    assert _kong.render(first) == _kong.render(second)
    assert _kong.render(first).endswith("}\n")


def test_nothing_odd_becomes_an_expression_or_a_tag(monkeypatch: pytest.MonkeyPatch) -> None:
    odd: Optional[_routes.Route]
    for odd in (
        _routes.Route("x", "prefix", '/a" || http.path ^= "/', "open", "auth", "/"),
        _routes.Route("x", "prefix", "/a", "open", "auth", "/", headers=(("X", "a,b"),)),
    ):
        monkeypatch.setattr(_kong, "ROUTES", (odd,))
        with pytest.raises(_gateway.GatewayError):
            _kong.kong_config(make_spec())
