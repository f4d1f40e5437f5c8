# SPDX-License-Identifier: GPL-3.0-or-later
"""What the gateway is told, and the shape of the Envoy configuration; what Envoy makes of it is an integration test."""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import ipaddress
import json
from typing import Any, Dict, List

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ansible_collections.multibase.supabase.plugins.module_utils import _gateway, _routes

LUA = "envoy.filters.http.lua"
CORS = "envoy.filters.http.cors"
BASIC_AUTH = "envoy.filters.http.basic_auth"
ADDRESSES = "envoy.filters.http.rbac"
LIMIT = "envoy.filters.http.local_ratelimit"
ALL_SERVICES = frozenset({"studio", "auth", "rest", "realtime", "storage", "meta", "functions"})


def spec(**changes: Any) -> _gateway.GatewaySpec:
    values: Dict[str, Any] = {
        "services": ALL_SERVICES,
        "anon_key": "anon.jwt",
        "service_role_key": "service.jwt",
        "dashboard_username": "supabase",
        "dashboard_password": "password",
        "public_url": "https://api.example.test",
        "issuer": "https://api.example.test/auth/v1",
    }
    values.update(changes)
    return _gateway.GatewaySpec(**values)


OPAQUE = {
    "publishable_key": "sb_publishable_x",
    "secret_key": "sb_secret_x",
    "anon_key_asymmetric": "anon.es256",
    "service_role_key_asymmetric": "service.es256",
}


def manager(config: Dict[str, Any]) -> Dict[str, Any]:
    found: Dict[str, Any] = config["static_resources"]["listeners"][0]["filter_chains"][0]["filters"][0]["typed_config"]
    return found


def virtual_host(config: Dict[str, Any]) -> Dict[str, Any]:
    found: Dict[str, Any] = manager(config)["route_config"]["virtual_hosts"][0]
    return found


def routes(config: Dict[str, Any]) -> Dict[str, Dict[str, Any]]:
    return {route["name"]: route for route in virtual_host(config)["routes"]}


def http_filter(config: Dict[str, Any], name: str) -> Dict[str, Any]:
    found: List[Dict[str, Any]] = [entry for entry in manager(config)["http_filters"] if entry["name"] == name]
    assert len(found) == 1
    typed: Dict[str, Any] = found[0]["typed_config"]
    return typed


def test_configured_routes_follow_the_table() -> None:
    configured = virtual_host(_gateway.envoy_config(spec()))["routes"]
    assert configured[0]["match"]["headers"] == [{"name": ":method", "string_match": {"exact": "TRACE"}}]
    assert [route["name"] for route in configured[1:]] == [row.name for row in _routes.ROUTES]


@pytest.mark.parametrize(
    ("name", "timeout", "idle_timeout"),
    [
        ("functions", "410s", "160s"),
        ("storage", "0s", "300s"),
        ("realtime-websocket", "0s", "300s"),
        ("rest", "30s", None),
        ("auth", "30s", None),
        ("studio", "30s", None),
    ],
)
def test_timeouts(name: str, timeout: str, idle_timeout: Any) -> None:
    action = routes(_gateway.envoy_config(spec()))[name]["route"]
    assert (action["timeout"], action.get("idle_timeout")) == (timeout, idle_timeout)


def test_websocket_upgrades_on_one_route_only() -> None:
    config = _gateway.envoy_config(spec())
    assert manager(config)["upgrade_configs"] == [{"upgrade_type": "websocket", "enabled": False}]
    upgrading = [name for name, route in routes(config).items() if "upgrade_configs" in route.get("route", {})]
    assert upgrading == ["realtime-websocket"]


def test_every_route_but_the_dashboard_turns_basic_auth_off_and_says_what_the_key_check_does() -> None:
    for name, route in routes(_gateway.envoy_config(spec())).items():
        disabled = route["typed_per_filter_config"].get(BASIC_AUTH, {}).get("disabled", False)
        assert disabled == (name != "studio"), name
        assert LUA not in route["typed_per_filter_config"], name
        assert route["metadata"]["filter_metadata"][LUA]["access"], name
    assert routes(_gateway.envoy_config(spec()))["studio"]["request_headers_to_remove"] == ["authorization"]


@pytest.mark.parametrize(
    ("issuer", "path"),
    [
        ("https://h.test/auth/v1", "/.well-known/oauth-authorization-server/auth/v1"),
        ("https://h.test/auth/v1/", "/.well-known/oauth-authorization-server/auth/v1"),
        ("http://h.test:8000", "/.well-known/oauth-authorization-server"),
    ],
)
def test_oauth_metadata_path_comes_from_the_issuer(issuer: str, path: str) -> None:
    route = routes(_gateway.envoy_config(spec(issuer=issuer)))["auth-oauth-metadata"]
    assert route["match"] == {"path": path}
    assert route["route"]["prefix_rewrite"] == "/.well-known/oauth-authorization-server"


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        ({}, {"anon.jwt": ("anon", "anon.jwt"), "service.jwt": ("service_role", "service.jwt")}),
        (
            OPAQUE,
            {
                "anon.jwt": ("anon", "anon.jwt"),
                "service.jwt": ("service_role", "service.jwt"),
                "sb_publishable_x": ("anon", "anon.es256"),
                "sb_secret_x": ("service_role", "service.es256"),
            },
        ),
        (
            {**OPAQUE, "service_role_key_asymmetric": ""},
            {
                "anon.jwt": ("anon", "anon.jwt"),
                "service.jwt": ("service_role", "service.jwt"),
                "sb_publishable_x": ("anon", "anon.jwt"),
                "sb_secret_x": ("service_role", "service.jwt"),
            },
        ),
        (
            {"publishable_key": "sb_publishable_x"},
            {
                "anon.jwt": ("anon", "anon.jwt"),
                "service.jwt": ("service_role", "service.jwt"),
                "sb_publishable_x": ("anon", "anon.jwt"),
            },
        ),
    ],
    ids=["legacy", "asymmetric", "one-asymmetric-missing", "publishable-only"],
)
def test_key_translation(keys: Dict[str, str], expected: Dict[str, Any]) -> None:
    configured = routes(_gateway.envoy_config(spec(**keys)))["rest"]["metadata"]["filter_metadata"][LUA]["keys"]
    assert {key: (entry["role"], entry["jwt"]) for key, entry in configured.items()} == expected
    assert "" not in configured


@pytest.mark.parametrize("off", sorted(ALL_SERVICES))
def test_switched_off_service_has_no_cluster_and_answers_404(off: str) -> None:
    config = _gateway.envoy_config(spec(services=ALL_SERVICES - {off}))
    assert off not in [cluster["name"] for cluster in config["static_resources"]["clusters"]]
    for row in _routes.ROUTES:
        route = routes(config)[row.name]
        metadata = route["metadata"]["filter_metadata"][LUA]
        assert metadata["access"] == row.access
        assert metadata.get("switched_off") == (off if row.service == off else None)
        if row.service == off:
            assert route["route"]["cluster_not_found_response_code"] == "NOT_FOUND"
    assert manager(config)["route_config"]["validate_clusters"] is False
    assert manager(_gateway.envoy_config(spec()))["route_config"]["validate_clusters"] is True


def test_clusters_are_the_service_names_on_their_ports() -> None:
    config = _gateway.envoy_config(spec(services=ALL_SERVICES | {"db", "supavisor", "imgproxy", "api-gw"}))
    addresses = {}
    for cluster in config["static_resources"]["clusters"]:
        endpoint = cluster["load_assignment"]["endpoints"][0]["lb_endpoints"][0]["endpoint"]["address"]
        addresses[cluster["name"]] = (endpoint["socket_address"]["address"], endpoint["socket_address"]["port_value"])
        assert cluster["cluster_type"]["name"] == "envoy.cluster.dns"
        assert cluster["per_connection_buffer_limit_bytes"] == 32768
    assert addresses == {
        "auth": ("auth", 9999),
        "functions": ("functions", 9000),
        "meta": ("meta", 8080),
        "realtime": ("realtime", 4000),
        "rest": ("rest", 3000),
        "storage": ("storage", 5000),
        "studio": ("studio", 3000),
    }


def test_listener_and_admin() -> None:
    config = _gateway.envoy_config(spec())
    (listener,) = config["static_resources"]["listeners"]
    assert listener["address"]["socket_address"] == {"address": "0.0.0.0", "port_value": 8000}
    assert listener["per_connection_buffer_limit_bytes"] == 32768
    assert config["admin"] == {"address": {"socket_address": {"address": "127.0.0.1", "port_value": 9901}}}


def test_the_matched_route_stays_the_route() -> None:
    """A filter that changes headers must not make Envoy look for another route than the one that was judged."""
    assert http_filter(_gateway.envoy_config(spec()), LUA)["clear_route_cache"] is False


def test_dashboard_password_is_stored_as_a_hash_only() -> None:
    text = _gateway.render(spec(dashboard_username="ann", dashboard_password="pä ss:{}$"))
    expected = base64.b64encode(hashlib.sha1("pä ss:{}$".encode()).digest()).decode()
    users = http_filter(json.loads(text), BASIC_AUTH)["users"]["inline_string"]
    assert users == "ann:{SHA}" + expected
    assert "pä ss" not in text
    assert json.dumps("pä ss")[1:-1] not in text


def test_access_log_has_neither_query_nor_headers() -> None:
    (log,) = manager(_gateway.envoy_config(spec()))["access_log"]
    line = log["typed_config"]["log_format"]["json_format"]
    assert line["path"] == "%PATH(NQ:ORIG_OR_PATH)%"
    assert [value for value in line.values() if "REQ" in value] == ["%REQ(:METHOD)%"]


@pytest.mark.parametrize(
    ("origins", "expected"),
    [
        ((), []),
        (("*",), [{"safe_regex": {"regex": ".*"}}]),
        (
            ("https://app.test", "http://localhost:3000"),
            [{"exact": "http://localhost:3000"}, {"exact": "https://app.test"}],
        ),
        (("HTTPS://App.test:443/", "https://app.test"), [{"exact": "https://app.test"}]),
    ],
)
def test_cors_origins(origins: Any, expected: List[Any]) -> None:
    policy = virtual_host(_gateway.envoy_config(spec(cors_origins=origins)))["typed_per_filter_config"][CORS]
    assert policy["allow_origin_string_match"] == expected
    assert "allow_credentials" not in policy


def test_meta_has_its_own_cors_policy_and_the_dashboard_none() -> None:
    config = routes(_gateway.envoy_config(spec(cors_origins=("*",), public_url="http://h.test:8080")))
    own = config["meta"]["typed_per_filter_config"][CORS]["allow_origin_string_match"]
    assert own[0] == {"exact": "http://h.test:8080"}
    assert len(own) == 2
    assert config["studio"]["typed_per_filter_config"][CORS]["disabled"] is True


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"anon_key": ""}, "anon_key"),
        ({"anon_key": "a b"}, "anon_key"),
        ({"service_role_key": "a\nb"}, "service_role_key"),
        ({"service_role_key": "anon.jwt"}, "equal"),
        ({"publishable_key": "pk_x"}, "publishable_key"),
        ({"secret_key": 'sb_"'}, "secret_key"),
        ({"anon_key_asymmetric": "ä"}, "anon_key_asymmetric"),
        ({"dashboard_username": ""}, "dashboard_username"),
        ({"dashboard_username": "a:b"}, "dashboard_username"),
        ({"dashboard_username": "#a"}, "dashboard_username"),
        ({"dashboard_username": "a\nroot"}, "dashboard_username"),
        ({"dashboard_username": "ann\u00e9"}, "dashboard_username"),
        ({"dashboard_password": ""}, "dashboard_password"),
        ({"dashboard_password": "\ud800"}, "dashboard_password"),
        ({"public_url": "api.example.test"}, "public_url"),
        ({"public_url": "https://api.example.test/base"}, "public_url"),
        ({"public_url": "https://user@api.example.test"}, "public_url"),
        ({"public_url": "https://api.example.test:99999"}, "public_url"),
        ({"public_url": "https://api.exa\nmple.test"}, "public_url"),
        ({"issuer": "/auth/v1"}, "issuer"),
        ({"issuer": "https://h.test/a/../b"}, "issuer"),
        ({"issuer": "https://h.test/a%2fb"}, "issuer"),
        ({"issuer": "https://h.test/auth?x=1"}, "issuer"),
        ({"cors_origins": ("null",)}, "'null'"),
        ({"cors_origins": ("*", "https://app.test")}, "'\\*'"),
        ({"cors_origins": ("https://app.test/path",)}, "app.test/path"),
        ({"cors_origins": ("https://*.app.test",)}, "app.test"),
        ({"trusted_hops": -1}, "trusted_hops"),
        ({"requests_per_second": -1}, "requests_per_second"),
        ({"requests_per_second": 1000001}, "requests_per_second"),
        ({"requests_per_second": 1, "burst": -1}, "burst"),
        ({"burst": 5}, "burst needs requests_per_second"),
        ({"requests_per_second": 10, "burst": 9}, "burst is less"),
        ({"allow_from": ("10.0.0.1/8",)}, "10.0.0.1/8"),
        ({"allow_from": ("10.0.0.0/33",)}, "10.0.0.0/33"),
        ({"allow_from": ("10.0.0.0/255.0.0.x",)}, "255.0.0.x"),
        ({"allow_from": ("fe80::1%eth0",)}, "eth0"),
        ({"allow_from": ("2001:db8::/129",)}, "129"),
        ({"allow_from": ("example.test",)}, "example.test"),
        ({"allow_from": ("",)}, "''"),
        ({"allow_from": (167772160,)}, "167772160"),
        ({"subnet": "2001:db8::/64"}, "subnet"),
        ({"subnet": "10.213.0.1/26"}, "subnet"),
    ],
)
def test_refused_specs(changes: Dict[str, Any], message: str) -> None:
    with pytest.raises(_gateway.GatewayError, match=message):
        spec(**changes)


def test_all_problems_are_reported_together_and_no_secret_is_shown() -> None:
    with pytest.raises(_gateway.GatewayError) as caught:
        spec(
            anon_key="secret one",
            dashboard_password="",
            public_url="nowhere",
            cors_origins=("nope",),
            requests_per_second=-5,
            burst=7,
            allow_from=("10.0.0.300", "::1", "everyone"),
        )
    text = str(caught.value)
    words = ("anon_key", "dashboard_password", "public_url", "nope", "requests_per_second", "10.0.0.300", "everyone")
    assert all(word in text for word in words)
    assert "::1" not in text
    assert "secret one" not in text
    assert "anon.jwt" not in repr(spec())
    assert "password=" not in repr(spec())


def filter_names(config: Dict[str, Any]) -> List[str]:
    return [entry["name"] for entry in manager(config)["http_filters"]]


PLAIN_FILTERS = ["envoy.filters.http.header_mutation", CORS, BASIC_AUTH, LUA, "envoy.filters.http.router"]


def test_limits_are_there_only_when_asked_for_and_then_come_first() -> None:
    assert filter_names(_gateway.envoy_config(spec())) == PLAIN_FILTERS
    assert filter_names(_gateway.envoy_config(spec(subnet="10.213.0.0/26"))) == PLAIN_FILTERS
    limited = _gateway.envoy_config(spec(requests_per_second=5, allow_from=("10.0.0.0/8",)))
    assert filter_names(limited) == [PLAIN_FILTERS[0], ADDRESSES, LIMIT, *PLAIN_FILTERS[1:]]


@pytest.mark.parametrize(("rate", "burst", "bucket"), [(5, 0, 5), (5, 5, 5), (5, 80, 80)])
def test_rate_limit(rate: int, burst: int, bucket: int) -> None:
    limit = http_filter(_gateway.envoy_config(spec(requests_per_second=rate, burst=burst)), LIMIT)
    assert limit["token_bucket"] == {"max_tokens": bucket, "tokens_per_fill": rate, "fill_interval": "1s"}
    for name in ("filter_enabled", "filter_enforced"):
        assert limit[name]["default_value"] == {"numerator": 100, "denominator": "HUNDRED"}
    # Envoy's default already, and what makes it one limit for the instance.
    assert "local_rate_limit_per_downstream_connection" not in limit


def test_allow_list() -> None:
    config = _gateway.envoy_config(spec(allow_from=["192.0.2.7", "2001:db8::/32", "10.0.0.0/255.0.0.0"]))
    rules = http_filter(config, ADDRESSES)["rules"]
    assert rules["action"] == "ALLOW"
    (policy,) = rules["policies"].values()
    assert policy["permissions"] == [{"any": True}]
    assert policy["principals"] == [
        {"remote_ip": {"address_prefix": "192.0.2.7", "prefix_len": 32}},
        {"remote_ip": {"address_prefix": "2001:db8::", "prefix_len": 32}},
        {"remote_ip": {"address_prefix": "10.0.0.0", "prefix_len": 8}},
    ]


@pytest.mark.parametrize(
    ("allowed", "subnet", "networks"),
    [
        ((), "10.213.0.0/26", ()),
        (("192.0.2.1", "192.0.2.1/32", "2001:DB8::/32"), "", ("192.0.2.1/32", "2001:db8::/32")),
        (
            ("192.0.2.1",),
            "10.213.0.64/26",
            ("192.0.2.1/32", "10.213.0.66/31", "10.213.0.68/30", "10.213.0.72/29", "10.213.0.80/28", "10.213.0.96/27"),
        ),
        (("192.0.2.1",), "10.213.0.0/31", ("192.0.2.1/32",)),
    ],
)
def test_networks_of_the_allow_list(allowed: Any, subnet: str, networks: Any) -> None:
    assert _gateway.admitted_networks(spec(allow_from=allowed, subnet=subnet)) == networks


@given(number=st.integers(0, 1023))
def test_every_container_is_let_in_and_the_hosts_end_of_the_bridge_is_not(number: int) -> None:
    subnet = list(ipaddress.IPv4Network("10.213.0.0/16").subnets(new_prefix=26))[number]
    admitted = _gateway.admitted_networks(spec(allow_from=("192.0.2.1",), subnet=str(subnet)))
    networks = [ipaddress.ip_network(text) for text in admitted]
    inside = [address for address in subnet if any(address in network for network in networks)]
    assert inside == list(subnet)[2:]


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(st.characters(codec="utf-8")),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=30,
)


@given(value=JSON_VALUES)
def test_json_text_writes_what_the_standard_library_writes(value: Any) -> None:
    assert _gateway.json_text(value) == json.dumps(value, indent=2, sort_keys=True)


def test_render_is_stable_and_says_what_envoy_config_says() -> None:
    first, second = spec(**OPAQUE), spec(services=set(ALL_SERVICES), **OPAQUE)
    assert _gateway.render(first) == _gateway.render(second)
    assert json.loads(_gateway.render(first)) == _gateway.envoy_config(first)
    assert _gateway.render(first) == json.dumps(_gateway.envoy_config(first), indent=2, sort_keys=True) + "\n"


def shape(value: Any) -> Any:
    """The structure without its texts: what must not depend on an instance's values."""
    if isinstance(value, dict):
        return sorted((key, shape(entry)) for key, entry in value.items())
    if isinstance(value, list):
        return [shape(entry) for entry in value]
    return type(value).__name__


HOSTILE_TEXT = st.text(st.characters(codec="utf-8"), min_size=1, max_size=60) | st.sampled_from(
    ['"', "\\", "%REQ(apikey)%", "{{ x }}", "${HOME}", "]]", "'; end --", "\x00", "a\r\nb: c", "\u2028", "</script>"]
)
KEY_TEXT = st.text("ABCXYZabcxyz0189._~+/=-", min_size=1, max_size=80)
USERNAME = st.text(st.characters(min_codepoint=32, max_codepoint=126, exclude_characters=":"), min_size=1, max_size=40)
PLAIN_SHAPE = shape(_gateway.envoy_config(spec()))


@given(password=HOSTILE_TEXT, username=USERNAME.filter(lambda name: name[0] != "#"))
def test_credentials_never_change_the_structure(password: str, username: str) -> None:
    config = _gateway.envoy_config(spec(dashboard_password=password, dashboard_username=username))
    assert shape(config) == PLAIN_SHAPE
    assert json.loads(_gateway.render(spec(dashboard_password=password, dashboard_username=username))) == config
    assert http_filter(config, LUA)["default_source_code"] == {"inline_string": _gateway.KEY_CHECK_LUA}
    assert http_filter(config, BASIC_AUTH)["users"]["inline_string"].splitlines()[0].startswith(username + ":{SHA}")


@given(anon=KEY_TEXT, service=KEY_TEXT)
def test_keys_appear_as_metadata_only(anon: str, service: str) -> None:
    if anon == service:
        return
    config = _gateway.envoy_config(spec(anon_key=anon, service_role_key=service))
    assert json.loads(json.dumps(config)) == config
    assert http_filter(config, LUA)["default_source_code"] == {"inline_string": _gateway.KEY_CHECK_LUA}
    for route in routes(config).values():
        metadata = route["metadata"]["filter_metadata"][LUA]
        if "keys" in metadata:
            assert metadata.pop("keys") == {
                anon: {"role": "anon", "jwt": anon},
                service: {"role": "service_role", "jwt": service},
            }
    plain = _gateway.envoy_config(spec())
    for route in routes(plain).values():
        route["metadata"]["filter_metadata"][LUA].pop("keys", None)
    assert config == plain


@given(text=HOSTILE_TEXT, name=st.sampled_from([field.name for field in dataclasses.fields(_gateway.GatewaySpec)]))
def test_any_text_is_refused_or_harmless(text: str, name: str) -> None:
    if name in ("services", "trusted_hops", "requests_per_second", "burst"):
        return
    value: Any = (text,) if name in ("cors_origins", "allow_from") else text
    try:
        hostile = spec(**{name: value})
    except _gateway.GatewayError:
        return
    config = _gateway.envoy_config(hostile)
    assert json.loads(_gateway.render(hostile)) == config
    assert http_filter(config, LUA)["default_source_code"] == {"inline_string": _gateway.KEY_CHECK_LUA}
    assert [route["name"] for route in virtual_host(config)["routes"][1:]] == [row.name for row in _routes.ROUTES]
