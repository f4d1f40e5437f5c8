# SPDX-License-Identifier: GPL-3.0-or-later
"""The gateway as clients and services see it: a real Envoy with the real configuration, and echo servers behind it.

What is expected is written out here from Supabase's self-hosting gateway, not taken from the module under test.
"""

from __future__ import annotations

import contextlib
import json
import socket
import time
from pathlib import Path
from typing import Any, Dict, Iterator, List, Optional, Tuple

import pytest

from ansible_collections.multibase.supabase.plugins.module_utils import _gateway
from integration import gateway_support as support
from integration.gateway_table import (
    ANON,
    ANON_ES256,
    APP_ORIGIN,
    CREDENTIALS,
    DASHBOARD_CHANGES,
    DASHBOARD_LOGIN,
    LEGACY_KEYS,
    METHODS,
    PUBLIC_URL,
    PUBLISHABLE,
    REALTIME_HOST,
    ROWS,
    SAME_ROW,
    SECRET,
    SERVICE,
    SERVICE_ES256,
    SERVICES,
    USER_JWT,
    VARIANTS,
    Headers,
    basic,
    expected,
    make_spec,
    seen_header,
    target_of,
)

FORBIDDEN_RESPONSE_NAMES = ("server", "via", "x-powered-by", "sb-api-key")
FORBIDDEN_RESPONSE_PREFIXES = ("x-envoy-", "x-kong-", "x-upstream-", "x-forwarded-")


@pytest.fixture(scope="module")
def ports() -> Iterator[Dict[str, int]]:
    with support.echo_servers(SERVICES) as servers:
        yield servers


@pytest.fixture(scope="module")
def gateway(ports: Dict[str, int]) -> Iterator[support.Gateway]:
    with support.running_envoy(support.on_loopback(_gateway.envoy_config(make_spec()), ports)) as running:
        yield running


@pytest.fixture(scope="module")
def other(ports: Dict[str, int]) -> Iterator[support.Gateway]:
    """Legacy keys only, any origin, behind one proxy, an odd user name, a plain public URL, and no rest behind it."""
    spec = make_spec(
        cors_origins=("*",),
        trusted_hops=1,
        dashboard_username='a "b" \\ %REQ(apikey)% {{ x }} $HOME \'; end --',
        dashboard_password="pä%ss\n{}",
        public_url="http://203.0.113.7:20000",
        issuer="http://203.0.113.7:20000/auth/v1",
        **LEGACY_KEYS,
    )
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        unreachable = dict(ports, rest=closed.getsockname()[1])
        with support.running_envoy(support.on_loopback(_gateway.envoy_config(spec), unreachable)) as running:
            yield running


def assert_clean(response: support.Response, label: object) -> None:
    """No response tells what made it; what the gateway answers itself is short JSON."""
    for name, _value in response.headers:
        assert name not in FORBIDDEN_RESPONSE_NAMES, (label, name)
        assert not name.startswith(FORBIDDEN_RESPONSE_PREFIXES), (label, name)
    if response.status >= 400 and response.body:
        reply = response.json()
        assert sorted(reply) == ["message", "status"], label
        assert reply["status"] == response.status, label
        assert 5 < len(reply["message"]) < 80, label
        assert response.header("content-type") == "application/json", label


REQUESTS_PER_ROW = len(CREDENTIALS) * len(METHODS) * len(VARIANTS)


@pytest.mark.parametrize("number", ROWS)
def test_the_matrix(gateway: support.Gateway, number: int) -> None:
    """Every row, credential, method and spelling with one another: 21 times 1,872 requests."""
    row = ROWS[number]
    before = gateway.requests
    for name, variant in VARIANTS.items():
        for credential, carried in CREDENTIALS.items():
            sent = variant.place(carried)
            headers = [*sent.headers(variant.key_header), *variant.extra]
            target = target_of(row, variant, sent)
            for method in METHODS:
                label = (number, name, credential, method)
                wanted = expected(row, sent, method, variant.outcome, variant.query)
                response = gateway.request(method, target, headers, b"body" if method == "POST" else b"")
                assert response.status == wanted.status, label
                assert_clean(response, label)
                if response.status != 200 or method == "HEAD":
                    assert response.body or method == "HEAD", label
                    continue
                seen = response.json()
                assert (seen["method"], seen["body"]) == (method, "body" if method == "POST" else ""), label
                assert response.header("x-kept") == "yes", label
                assert {header: seen_header(seen, header) for header in wanted.headers} == wanted.headers, label
                if variant.outcome == "dashboard":
                    assert seen["service"] == "studio", label
                    continue
                assert (seen["service"], seen["path"]) == (row.service, wanted.path), label
                assert seen_header(seen, "x-forwarded-prefix") == row.forwarded_prefix, label
                if name != "absolute" or row.host == REALTIME_HOST:
                    assert seen_header(seen, "host") == row.host, label
                profile = "graphql_public" if row.name == "graphql" else None
                assert seen_header(seen, "content-profile") == profile, label
    assert gateway.requests - before == REQUESTS_PER_ROW == 1872


@pytest.mark.parametrize(
    ("target", "access", "service", "upstream_path"),
    [
        ("/rest/v1/?select=1", "service", "rest", "/?select=1"),
        ("/rest/v1/.", "service", "rest", "/"),
        ("/rest/v1//", "service", "rest", "/"),
        ("/rest/v1/x/..", "service", "rest", "/"),
        ("/rest/v1/x.", "key", "rest", "/x."),
        ("/rest/v1", "dashboard", "studio", "/rest/v1"),
        ("/pg", "dashboard", "studio", "/pg"),
        ("/pg/.", "service", "meta", "/"),
        ("/pg/x.", "service", "meta", "/x."),
        ("/pg/x/../y", "service", "meta", "/y"),
        ("/auth/v1/verify/../admin/users", "key", "auth", "/admin/users"),
        ("/auth/v1/callback/..//admin", "key", "auth", "/admin"),
        ("/storage/v1/../../pg/tables", "service", "meta", "/tables"),
        ("/functions/v1/..;/x", "dashboard", "studio", "/functions/x"),
        ("/realtime/v1/api", "key", "realtime", "/api"),
        ("/realtime/v1/x/../api/tenants", "denied", "", ""),
        ("/realtime/v1/%61pi/%74enants", "denied", "", ""),
        ("/realtime/v1/api/tenants.", "denied", "", ""),
        ("/realtime/v1/api/openapi?x=1", "denied", "", ""),
        ("/.well-known/oauth-authorization-server", "dashboard", "studio", "/.well-known/oauth-authorization-server"),
        ("/.well-known/jwks.json", "dashboard", "studio", "/.well-known/jwks.json"),
        ("/analytics/v1/x", "dashboard", "studio", "/analytics/v1/x"),
        ("/", "dashboard", "studio", "/"),
        ("//elsewhere.test/pg/x", "dashboard", "studio", "/elsewhere.test/pg/x"),
    ],
)
def test_neighbours(gateway: support.Gateway, target: str, access: str, service: str, upstream_path: str) -> None:
    row = ROWS[1]._replace(access=access)
    for credential, sent in CREDENTIALS.items():
        response = gateway.request("GET", target, sent.headers())
        assert response.status == expected(row, sent).status, credential
        if response.status == 200:
            assert (response.json()["service"], response.json()["path"]) == (service, upstream_path), credential


def test_connect_reaches_nothing(gateway: support.Gateway) -> None:
    for sent in CREDENTIALS.values():
        assert gateway.request("CONNECT", "db:5432", sent.headers()).status in (401, 403, 404, 405)


def test_old_and_foreign_protocols_are_refused(gateway: support.Gateway) -> None:
    for data in (
        b"GET /auth/v1/verify HTTP/1.0\r\nHost: gw.test\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00",
        b"GET /auth/v1/verify HTTP/1.1\r\n\r\n",
        b"POST /auth/v1/verify HTTP/1.1\r\nHost: g\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    ):
        with gateway.connect() as connection:
            connection.sendall(data)
            answer = connection.recv(4096).decode("latin-1")
        assert answer == "" or answer.split()[1] in ("400", "426"), data
        assert "envoy" not in answer.lower(), data


HOSTILE_REQUEST_HEADERS = [
    ("sb-api-key", "forged"),
    ("Sb-Api-Key", "forged"),
    ("X-Consumer-Username", "forged"),
    ("X-Consumer-Groups", "forged"),
    ("X-Credential-Identifier", "forged"),
    ("X-Envoy-Original-Path", "/forged"),
    ("X-Envoy-Upstream-Rq-Timeout-Ms", "1"),
    ("X-Envoy-Max-Retries", "9"),
    ("X-Envoy-Unheard-Of", "forged"),
    ("X-Envoy-Internal", "true"),
    ("X-Envoy-External-Address", "192.0.2.66"),
    ("X-Kong-Request-Id", "forged"),
    ("X-Kong-Proxy-Latency", "forged"),
    ("X-Anonymous-Consumer", "forged"),
    ("X-Forwarded-For", "192.0.2.66, 192.0.2.67"),
    ("X-Forwarded-For", "192.0.2.68"),
    ("X-Forwarded-Host", "forged.test"),
    ("X-Forwarded-Port", "666"),
    ("X-Forwarded-Proto", "http"),
    ("X-Forwarded-Prefix", "/forged"),
    ("X-Forwarded-Server", "forged"),
    ("X-Forwarded-Client-Cert", "By=forged"),
    ("X-Real-Ip", "192.0.2.66"),
    ("X-Original-Url", "/forged"),
    ("X-Rewrite-Url", "/forged"),
    ("Forwarded", "for=192.0.2.66;host=forged.test"),
    ("X-Request-Id", "forged"),
]


@pytest.mark.parametrize("number", [number for number, row in ROWS.items() if row.service])
def test_forged_headers_never_reach_a_service(gateway: support.Gateway, number: int) -> None:
    row = ROWS[number]
    wanted = {
        "x-forwarded-for": "127.0.0.1",
        "x-forwarded-host": "gw.test",
        "x-forwarded-port": "443",
        "x-forwarded-proto": "https",
    }
    if row.forwarded_prefix is not None:
        wanted["x-forwarded-prefix"] = row.forwarded_prefix
    served = 0
    for credential, sent in CREDENTIALS.items():
        response = gateway.request("GET", row.path, [*HOSTILE_REQUEST_HEADERS, *sent.headers(), ("X-Mine", "kept")])
        assert response.status == expected(row, sent).status, credential
        assert_clean(response, credential)
        if response.status != 200:
            continue
        served += 1
        seen = response.json()
        assert seen_header(seen, "x-mine") == "kept", credential
        assert "forged" not in str(seen["headers"]), credential
        assert "192.0.2." not in str(seen["headers"]), credential
        internal = {key: value for key, value in seen["headers"] if key.startswith(("x-forwarded-", "x-envoy-"))}
        assert internal == wanted, credential
        assert len([key for key, _value in seen["headers"] if key == "x-forwarded-for"]) == 1, credential
    assert served


@pytest.mark.parametrize(
    ("forwarded", "address"),
    [
        ([], "127.0.0.1"),
        ([("X-Forwarded-For", "192.0.2.1")], "192.0.2.1"),
        ([("X-Forwarded-For", "192.0.2.66, 192.0.2.1")], "192.0.2.1"),
        ([("X-Forwarded-For", "192.0.2.66"), ("X-Forwarded-For", "2001:db8::1")], "2001:db8::1"),
        ([("X-Forwarded-Fo", "forged"), ("X-Forwarded-Form", "forged"), ("X-Forwarded-", "forged")], "127.0.0.1"),
    ],
)
def test_one_proxy_in_front_vouches_for_one_address(other: support.Gateway, forwarded: Headers, address: str) -> None:
    seen = other.request("GET", "/auth/v1/verify", [*forwarded, ("X-Forwarded-Proto", "https")]).json()
    assert seen_header(seen, "x-forwarded-for") == address
    assert seen_header(seen, "x-forwarded-proto") == "http"
    assert "forged" not in str(seen)


@pytest.mark.parametrize(
    ("host", "port"),
    [("203.0.113.7:20000", "20000"), ("api-gw:8000", "8000"), ("[2001:db8::1]:81", "81"), ("gw.test", "20000")],
)
def test_storage_can_rebuild_the_signed_host(other: support.Gateway, host: str, port: str) -> None:
    seen = other.request("GET", "/storage/v1/s3/bucket", host=host).json()
    assert seen_header(seen, "x-forwarded-host") == host
    assert seen_header(seen, "x-forwarded-port") == port
    assert seen_header(seen, "x-forwarded-prefix") == "/storage/v1"


@pytest.mark.parametrize(
    ("sent", "received"),
    [
        (None, "Bearer " + ANON_ES256),
        ("", "Bearer " + ANON_ES256),
        ("Bearer", "Bearer " + ANON_ES256),
        ("Bearer " + PUBLISHABLE, "Bearer " + ANON_ES256),
        ("bEARER   " + SECRET, "Bearer " + ANON_ES256),
        ("Bearer sb_anything", "Bearer " + ANON_ES256),
        ("Bearer " + USER_JWT, "Bearer " + USER_JWT),
        ("bearer " + USER_JWT, "bearer " + USER_JWT),
        ("Bearer " + SERVICE, "Bearer " + SERVICE),
        ("Basic Y2xpZW50OnNlY3JldA==", "Basic Y2xpZW50OnNlY3JldA=="),
        ("AWS4-HMAC-SHA256 Credential=x", "AWS4-HMAC-SHA256 Credential=x"),
    ],
)
def test_authorization_with_a_valid_key(gateway: support.Gateway, sent: Optional[str], received: str) -> None:
    headers = [("apikey", PUBLISHABLE)] + ([] if sent is None else [("Authorization", sent)])
    for number in (9, 10, 12, 13, 16):
        seen = gateway.request("GET", ROWS[number].path, headers).json()
        assert seen_header(seen, "authorization") == received, number


def test_open_routes_leave_requests_without_a_known_key_alone(gateway: support.Gateway) -> None:
    headers = [("apikey", "other"), ("Authorization", "AWS4-HMAC-SHA256 Credential=x")]
    seen = gateway.request("GET", "/storage/v1/s3/b?X-Amz-Signature=1&apikey=other&&x=%2F", headers).json()
    assert seen["path"] == "/s3/b?X-Amz-Signature=1&apikey=other&&x=%2F"
    assert seen_header(seen, "apikey") == "other"
    assert seen_header(seen, "authorization") == "AWS4-HMAC-SHA256 Credential=x"


@pytest.mark.parametrize(
    "headers",
    [
        [("apikey", ANON), ("apikey", SERVICE)],
        [("apikey", SERVICE), ("apikey", SERVICE)],
        [("apikey", "wrong"), ("apikey", SERVICE)],
        [("apikey", SERVICE), ("ApiKey", "")],
    ],
)
def test_several_key_headers_are_refused(gateway: support.Gateway, headers: Headers) -> None:
    for number, row in ROWS.items():
        if row.access not in ("denied", "dashboard"):
            response = gateway.request("GET", row.path, headers)
            assert response.status == 401, number
            assert_clean(response, number)


@pytest.mark.parametrize(
    "key",
    [ANON + "," + SERVICE, SERVICE + "x", SERVICE[:-1], SERVICE.upper(), '"' + SERVICE + '"', "Bearer " + SERVICE],
)
def test_keys_are_compared_whole(gateway: support.Gateway, key: str) -> None:
    for number in (10, 11, 12, 13, 16, 17, 18):
        assert gateway.request("GET", ROWS[number].path, [("apikey", key)]).status == 401, number


@pytest.mark.parametrize(
    ("query", "status", "upstream_query"),
    [
        ("apikey=" + SERVICE, 200, ""),
        ("a=1&apikey=" + SERVICE + "&b=%2F", 200, "?a=1&b=%2F"),
        ("apikey=" + SECRET.replace("_", "%5f"), 200, ""),
        ("%61pikey=" + SERVICE, 200, ""),
        ("apikey=" + SERVICE + "&apikey=" + SERVICE, 200, ""),
        ("apikey=" + SERVICE + "&apikey=" + ANON, 401, None),
        ("apikey=" + SERVICE + "&apikey=" + ANON + "&apikey=" + SERVICE, 401, None),
        ("apikey=", 401, None),
        ("apikey", 401, None),
        ("APIKEY=" + SERVICE, 401, None),
        ("xapikey=" + SERVICE, 401, None),
        ("apikey=" + ANON, 403, None),
        ("apikey=wrong", 401, None),
    ],
)
def test_key_in_the_query(gateway: support.Gateway, query: str, status: int, upstream_query: Optional[str]) -> None:
    for number in (11, 18):
        row = ROWS[number]
        response = gateway.request("GET", row.path + "?" + query)
        assert response.status == status, number
        if upstream_query is not None:
            assert response.json()["path"] == row.upstream_path + upstream_query, number


def test_the_key_header_wins_over_the_query(gateway: support.Gateway) -> None:
    for query in ("select=a&apikey=" + SERVICE, "select=a&apikey=wrong", "apikey=&select=a"):
        seen = gateway.request("GET", "/rest/v1/t?" + query, [("apikey", ANON)]).json()
        assert seen["path"] == "/t?select=a"
        assert seen_header(seen, "authorization") == "Bearer " + ANON
    assert gateway.request("GET", "/rest/v1/t?apikey=" + SERVICE, [("apikey", "wrong")]).status == 401


def test_a_known_key_in_the_query_of_an_open_route_is_taken_out(gateway: support.Gateway) -> None:
    seen = gateway.request("GET", "/storage/v1/object/a?apikey=" + PUBLISHABLE + "&x=1").json()
    assert seen["path"] == "/object/a?x=1"
    assert seen_header(seen, "authorization") == "Bearer " + ANON_ES256


@pytest.mark.parametrize(
    ("headers", "status", "internal"),
    [
        ([("apikey", PUBLISHABLE)], 200, ANON_ES256),
        ([("apikey", SECRET)], 200, SERVICE_ES256),
        ([("apikey", SECRET), ("Authorization", "Bearer " + SECRET)], 200, SERVICE_ES256),
        ([("apikey", SECRET), ("Authorization", "Bearer " + USER_JWT)], 200, SERVICE_ES256),
        ([("apikey", SECRET), ("Authorization", "Bearer " + PUBLISHABLE)], 401, None),
        ([("apikey", ANON), ("Authorization", "Bearer " + SECRET)], 401, None),
        ([("apikey", "sb_secret_wrong")], 401, None),
        ([("apikey", "not-ours")], 200, None),
        ([("apikey", ANON)], 200, None),
        ([("Authorization", "Bearer " + SECRET)], 200, None),
        ([("apikey", PUBLISHABLE), ("sb-api-key", SERVICE)], 200, ANON_ES256),
        ([("sb-api-key", SERVICE)], 200, None),
    ],
)
def test_functions(gateway: support.Gateway, headers: Headers, status: int, internal: Optional[str]) -> None:
    response = gateway.request("POST", "/functions/v1/hello?apikey=" + SERVICE, headers)
    assert response.status == status
    if status == 200:
        seen = response.json()
        assert seen["path"] == "/hello?apikey=" + SERVICE
        assert seen_header(seen, "sb-api-key") == internal
        sent = {name.lower(): value for name, value in headers}
        assert seen_header(seen, "authorization") == sent.get("authorization")
        assert seen_header(seen, "apikey") == sent.get("apikey")


def test_functions_judge_nothing_without_opaque_keys(other: support.Gateway) -> None:
    headers = [("apikey", "sb_secret_x"), ("Authorization", "Bearer sb_secret_y"), ("sb-api-key", SERVICE)]
    seen = other.request("GET", "/functions/v1/hello", headers).json()
    assert seen_header(seen, "apikey") == "sb_secret_x"
    assert seen_header(seen, "authorization") == "Bearer sb_secret_y"
    assert seen_header(seen, "sb-api-key") is None


def test_legacy_keys_alone(other: support.Gateway) -> None:
    for key in (ANON, SERVICE):
        seen = other.request("GET", "/auth/v1/user", [("apikey", key)]).json()
        assert seen_header(seen, "authorization") == "Bearer " + key
    for key in (PUBLISHABLE, SECRET, ANON_ES256, SERVICE_ES256):
        assert other.request("GET", "/auth/v1/user", [("apikey", key)]).status == 401


def test_opaque_keys_without_asymmetric_jwts_become_the_legacy_jwts(ports: Dict[str, int]) -> None:
    spec = make_spec(anon_key_asymmetric="", service_role_key_asymmetric="")
    with support.running_envoy(support.on_loopback(_gateway.envoy_config(spec), ports)) as running:
        for key, jwt in ((PUBLISHABLE, ANON), (SECRET, SERVICE)):
            seen = running.request("GET", "/rest/v1/todos", [("apikey", key)]).json()
            assert seen_header(seen, "authorization") == "Bearer " + jwt


@pytest.mark.parametrize(
    ("login", "status"),
    [
        (DASHBOARD_LOGIN, 200),
        (basic("supabase", "pass word:2"), 401),
        (basic("supabase", ""), 401),
        (basic("Supabase", "pass word:1"), 401),
        (("Authorization", "Bearer " + SERVICE), 401),
        (("Authorization", "Basic !"), 401),
        (("Authorization", "Basic"), 401),
    ],
)
def test_dashboard_login(gateway: support.Gateway, login: Tuple[str, str], status: int) -> None:
    for path in ("/", "/project/default", "/api/platform/profile", "/_next/static/x.js", "/pg", "/API/MCP"):
        response = gateway.request("GET", path, [login, ("apikey", SERVICE)])
        assert response.status == status, path
        if status == 401:
            assert response.header("www-authenticate") == 'Basic realm="Supabase"', path
        else:
            assert seen_header(response.json(), "authorization") is None, path


def test_odd_dashboard_credentials(other: support.Gateway) -> None:
    name = 'a "b" \\ %REQ(apikey)% {{ x }} $HOME \'; end --'
    assert other.request("GET", "/", [basic(name, "pä%ss\n{}")]).status == 200
    assert other.request("GET", "/", [basic(name, "pä%ss")]).status == 401
    assert other.request("GET", "/", [basic("supabase", "pass word:1")]).status == 401


@pytest.mark.parametrize(("method", "origin", "status"), DASHBOARD_CHANGES)
def test_dashboard_refuses_changes_from_other_sites(
    gateway: support.Gateway, method: str, origin: Optional[str], status: int
) -> None:
    headers = [DASHBOARD_LOGIN] + ([] if origin is None else [("Origin", origin)])
    assert gateway.request(method, "/api/platform/pg-meta/default/query", headers).status == status


FOREIGN_ORIGINS = (
    "https://evil.test",
    "null",
    "http://app.test",
    "https://app.test.evil.test",
    "https://xapp.test",
    "https://app.test:444",
    "https://APP.test",
    "*",
)


def preflight(gateway: support.Gateway, path: str, origin: str) -> support.Response:
    headers = [("Origin", origin), ("Access-Control-Request-Method", "POST")]
    headers.append(("Access-Control-Request-Headers", "apikey,authorization,x-any"))
    return gateway.request("OPTIONS", path, headers)


def allowed_list(response: support.Response, name: str) -> List[str]:
    return [entry.strip().lower() for entry in (response.header(name) or "").split(",")]


@pytest.mark.parametrize("number", [number for number in ROWS if number not in (14, 15, 19, 20, 21)])
def test_cors(gateway: support.Gateway, number: int) -> None:
    row = ROWS[number]
    allowed = {18: (PUBLIC_URL, "http://localhost:5173", "https://127.0.0.1")}.get(number, (APP_ORIGIN,))
    foreign = list(FOREIGN_ORIGINS)
    if number == 18:
        foreign += [APP_ORIGIN, "http://localhost.evil.test", "http://localhost:x"]
    for origin in allowed:
        for spelling, spell in SAME_ROW.items():
            response = preflight(gateway, spell(row.path), origin)
            assert response.status == 200, (origin, spelling)
            assert response.body == b"", (origin, spelling)
            assert response.header("access-control-allow-origin") == origin, spelling
            assert "POST" in (response.header("access-control-allow-methods") or ""), spelling
            assert {"authorization", "*"} <= set(allowed_list(response, "access-control-allow-headers")), spelling
            assert_clean(response, (origin, spelling))
        for sent in CREDENTIALS.values():
            response = gateway.request("GET", row.path, [*sent.headers(), ("Origin", origin)])
            assert response.header("access-control-allow-origin") == origin
            assert response.header("access-control-expose-headers") == "*"
            assert "origin" in allowed_list(response, "vary")
            assert response.header("access-control-allow-credentials") is None
    for origin in foreign:
        response = preflight(gateway, row.path, origin)
        assert response.status == 200, origin
        assert response.body == b"", origin
        assert response.header("access-control-allow-origin") is None, origin
        response = gateway.request("GET", row.path, [*CREDENTIALS["service"].headers(), ("Origin", origin)])
        assert response.status == 200, origin
        assert not [name for name, _value in response.headers if name.startswith("access-control-")], origin
        assert "origin" in allowed_list(response, "vary"), origin


@pytest.mark.parametrize("number", [14, 15, 19, 20])
def test_denied_rows_answer_no_preflight(gateway: support.Gateway, number: int) -> None:
    for spell in SAME_ROW.values():
        response = preflight(gateway, spell(ROWS[number].path), APP_ORIGIN)
        assert response.status == 403
        assert not [name for name, _value in response.headers if name.startswith("access-control-")]


def test_the_dashboard_takes_no_part_in_cors(gateway: support.Gateway) -> None:
    response = preflight(gateway, "/api/platform/profile", APP_ORIGIN)
    assert response.status == 401
    assert not [name for name, _value in response.headers if name.startswith("access-control-")]
    response = gateway.request("GET", "/", [DASHBOARD_LOGIN, ("Origin", APP_ORIGIN)])
    assert response.status == 200
    assert not [name for name, _value in response.headers if name.startswith("access-control-")]


def test_any_origin_means_any_but_without_credentials(other: support.Gateway) -> None:
    for origin in (APP_ORIGIN, "https://evil.test", "null"):
        for response in (
            preflight(other, "/auth/v1/user", origin),
            other.request("GET", "/auth/v1/user", [("apikey", ANON), ("Origin", origin)]),
        ):
            assert response.status == 200
            assert response.header("access-control-allow-origin") == origin
            assert response.header("access-control-allow-credentials") is None


@pytest.mark.parametrize("number", ROWS)
def test_websocket_upgrades_on_the_realtime_route_only(gateway: support.Gateway, number: int) -> None:
    row = ROWS[number]
    for spelling, spell in SAME_ROW.items():
        for credential, sent in CREDENTIALS.items():
            label = (number, spelling, credential)
            answer, connection = gateway.upgrade(spell(row.path), sent.headers())
            with connection:
                assert_clean(answer, label)
                if row.access != "websocket":
                    assert answer.status == 403, label
                    continue
                assert answer.status == (101 if expected(row, sent).status == 200 else 401), label
                if answer.status == 101:
                    with connection.makefile("rwb") as stream:
                        assert b'"/socket/websocket"' in stream.readline(), label
                        stream.write(b"hello over the socket\n")
                        stream.flush()
                        assert stream.readline() == b"hello over the socket\n", label


@pytest.mark.parametrize(("key", "jwt"), [(ANON, ANON), (PUBLISHABLE, ANON_ES256), (SECRET, SERVICE_ES256)])
def test_websocket_with_the_key_in_the_query(gateway: support.Gateway, key: str, jwt: str) -> None:
    answer, connection = gateway.upgrade("/realtime/v1/websocket?apikey=" + key + "&vsn=1.0.0")
    with connection, connection.makefile("rb") as stream:
        assert answer.status == 101
        seen = json.loads(stream.readline())
    assert seen["path"] == "/socket/websocket?vsn=1.0.0&apikey=" + jwt
    assert seen_header(seen, "x-api-key") == jwt
    assert seen_header(seen, "host") == REALTIME_HOST


def test_a_client_cannot_choose_the_key_that_realtime_sees(gateway: support.Gateway) -> None:
    target = "/realtime/v1/websocket?apikey=forged"
    seen = gateway.request("GET", target, [("apikey", ANON), ("x-api-key", "forged"), ("X-Api-Key", "forged")]).json()
    assert seen["path"] == "/socket/websocket?apikey=" + ANON
    assert seen_header(seen, "x-api-key") == ANON


@pytest.mark.parametrize("off", ["auth", "functions", "meta", "realtime", "rest", "storage", "studio"])
def test_switched_off_service(ports: Dict[str, int], off: str) -> None:
    services = make_spec().services - {off}
    config = support.on_loopback(_gateway.envoy_config(make_spec(services=services)), ports)
    assert off not in [cluster["name"] for cluster in config["static_resources"]["clusters"]]
    with support.running_envoy(config) as running:
        for number, row in ROWS.items():
            for credential, sent in CREDENTIALS.items():
                status = expected(row, sent).status
                if row.service == off and status == 200:
                    status = 404
                response = running.request("GET", row.path, sent.headers())
                assert response.status == status, (number, credential)
                assert_clean(response, (number, credential))
                if status == 404:
                    assert off in response.json()["message"]
            if row.service == off and row.access not in ("dashboard", "denied"):
                origin = PUBLIC_URL if off == "meta" else APP_ORIGIN
                response = running.request("GET", row.path, [*CREDENTIALS["service"].headers(), ("Origin", origin)])
                assert response.status == 404, number
                assert response.header("access-control-allow-origin") == origin, number
                assert preflight(running, row.path, origin).header("access-control-allow-origin") == origin, number
                answer, connection = running.upgrade(row.path, CREDENTIALS["service"].headers())
                connection.close()
                assert answer.status == (404 if row.access == "websocket" else 403), number


def test_a_service_that_does_not_answer_is_a_short_503(other: support.Gateway) -> None:
    response = other.request("GET", "/rest/v1/todos", [("apikey", ANON)])
    assert response.status == 503
    assert response.json() == {"message": "Service unavailable", "status": 503}
    assert_clean(response, "unreachable")


def test_large_bodies_pass_in_both_directions(gateway: support.Gateway) -> None:
    body = b"0123456789abcdef" * 65536
    response = gateway.request("POST", "/storage/v1/object/large", [("apikey", ANON)], body)
    assert response.status == 200
    assert response.json()["body"] == body.decode()


def test_the_key_check_fails_closed(ports: Dict[str, int]) -> None:
    config = support.on_loopback(_gateway.envoy_config(make_spec()), ports)
    manager = config["static_resources"]["listeners"][0]["filter_chains"][0]["filters"][0]["typed_config"]
    routes = {route["name"]: route for route in manager["route_config"]["virtual_hosts"][0]["routes"]}
    # A known key without a JWT makes the script break; a route without metadata is not one of ours.
    del routes["rest"]["metadata"]["filter_metadata"]["envoy.filters.http.lua"]["keys"][ANON]["jwt"]
    del routes["storage"]["metadata"]
    with support.running_envoy(config) as running:
        assert running.request("GET", "/rest/v1/todos", [("apikey", ANON)]).status == 500
        assert running.request("GET", "/rest/v1/todos", [("apikey", SERVICE)]).status == 200
        assert running.request("GET", "/storage/v1/object", [("apikey", SERVICE)]).status == 404
        assert ANON not in running.log_text()


def test_the_log_has_no_keys_and_no_query(ports: Dict[str, int]) -> None:
    config = support.on_loopback(_gateway.envoy_config(make_spec()), ports)
    with support.running_envoy(config, log_level="info") as running:
        for target in (
            "/rest/v1/todos?apikey=" + ANON,
            "/rest/v1/todos?apikey=wrong-but-secret",
            "/auth/v1/verify?token=one-time-token",
            "/realtime/v1/websocket?apikey=" + SECRET,
            "/?token=one-time-token",
            "/pg/%2f?token=one-time-token",
        ):
            running.request("GET", target, [("Authorization", "Bearer " + USER_JWT), ("sb-api-key", SERVICE)])
        running.request("GET", "/last-line", [DASHBOARD_LOGIN, ("Referer", "https://app.test/?token=one-time-token")])
        deadline = time.monotonic() + 10
        while "/last-line" not in running.log_text() and time.monotonic() < deadline:
            time.sleep(0.02)
        text = running.log_text()
    assert '"path":"/last-line"' in text
    assert '"status":200' in text
    for secret in (ANON, SERVICE, SECRET, PUBLISHABLE, ANON_ES256, SERVICE_ES256, USER_JWT, "wrong-but", "one-time"):
        assert secret not in text, secret
    assert "?" not in text
    assert DASHBOARD_LOGIN[1].split()[1] not in text


# One of each kind: what the limits must come before.
KINDS_OF_REQUESTS: List[Tuple[str, str, Headers]] = [
    ("GET", ROWS[12].path, [("apikey", ANON)]),
    ("GET", ROWS[12].path, []),
    ("POST", ROWS[10].path, [("apikey", "wrong")]),
    ("GET", ROWS[1].path, []),
    ("GET", ROWS[8].path, [("apikey", "sb_secret_wrong")]),
    ("GET", ROWS[18].path, [("apikey", ANON)]),
    ("GET", ROWS[20].path, []),
    ("GET", ROWS[21].path, []),
    ("GET", ROWS[21].path, [DASHBOARD_LOGIN]),
    ("TRACE", ROWS[9].path, []),
    ("OPTIONS", ROWS[12].path, [("Origin", APP_ORIGIN), ("Access-Control-Request-Method", "POST")]),
    ("OPTIONS", ROWS[21].path, [("Origin", APP_ORIGIN), ("Access-Control-Request-Method", "POST")]),
]


def test_the_rate_limit_counts_everything_in_one_bucket(ports: Dict[str, int]) -> None:
    """Two threads as in production, sixteen connections, every kind of request; the bucket is one."""
    burst = len(KINDS_OF_REQUESTS)
    config = support.on_loopback(_gateway.envoy_config(make_spec(requests_per_second=1, burst=burst)), ports)
    with support.running_envoy(config, concurrency=2) as running, contextlib.ExitStack() as stack:
        clients = [stack.enter_context(running.another_client()) for _number in range(16)]
        time.sleep(0.1)
        started = time.monotonic()
        first = [clients[index].request(*kind).status for index, kind in enumerate(KINDS_OF_REQUESTS)]
        later = [clients[-1 - index].request(*kind) for index, kind in enumerate(KINDS_OF_REQUESTS)]
        seconds = time.monotonic() - started
        assert 429 not in first
        assert sum(response.status != 429 for response in later) <= seconds
        for response in later:
            if response.status == 429:
                assert response.json() == {"message": "Too many requests", "status": 429}
                assert response.header("retry-after") == "1"
                assert_clean(response, "429")
        # What cannot be read as a request is refused by itself, and takes nothing from the bucket.
        assert clients[0].request("GET", "/mcp%2f").status == 400
        answer, connection = clients[0].upgrade(ROWS[17].path, [("apikey", ANON)])
        connection.close()
        assert answer.status == 429
        time.sleep(2.5)
        assert [client.request("GET", ROWS[1].path).status for client in clients[:2]] == [200, 200]


def test_the_rate_limit_lets_through_what_it_says(ports: Dict[str, int]) -> None:
    config = support.on_loopback(_gateway.envoy_config(make_spec(requests_per_second=20)), ports)
    with support.running_envoy(config, concurrency=2) as running:
        started, passed = time.monotonic(), 0
        while time.monotonic() - started < 2:
            passed += running.request("GET", ROWS[1].path).status == 200
            time.sleep(0.005)
        seconds = time.monotonic() - started
    # Without a burst of its own the bucket holds one second's worth, and fills while it is used.
    assert 25 <= passed <= 20 + 20 * seconds + 1


@pytest.mark.parametrize(
    ("hops", "source", "forwarded", "admitted"),
    [
        (0, "127.0.0.1", [], False),
        (0, "127.0.0.9", [], True),
        (0, "127.0.0.9", ["198.51.100.1"], True),
        (0, "127.0.0.12", [], False),
        (0, "127.0.0.1", ["192.0.2.1"], False),
        (0, "127.0.0.1", ["2001:db8::1"], False),
        (1, "127.0.0.1", [], False),
        (1, "127.0.0.9", [], True),
        (1, "127.0.0.1", ["192.0.2.1"], True),
        (1, "127.0.0.1", ["192.0.3.1"], False),
        (1, "127.0.0.1", ["2001:db8::1"], True),
        (1, "127.0.0.1", ["2001:db9::1"], False),
        (1, "127.0.0.1", ["192.0.2.1, 198.51.100.1"], False),
        (1, "127.0.0.1", ["192.0.2.1", "198.51.100.1"], False),
        (1, "127.0.0.1", ["198.51.100.1, 192.0.2.1"], True),
        (1, "127.0.0.1", ["not an address"], False),
        (1, "127.0.0.9", ["198.51.100.1"], False),
        (2, "127.0.0.1", ["192.0.2.1, 198.51.100.1"], True),
        (2, "127.0.0.1", ["198.51.100.1, 192.0.2.1"], False),
        (2, "127.0.0.1", ["192.0.2.1"], False),
    ],
)
def test_only_listed_addresses_are_let_in(
    ports: Dict[str, int], hops: int, source: str, forwarded: List[str], admitted: bool
) -> None:
    spec = make_spec(allow_from=("127.0.0.8/30", "192.0.2.0/24", "2001:db8::/32"), trusted_hops=hops)
    headers = [("X-Forwarded-For", value) for value in forwarded]
    config = support.on_loopback(_gateway.envoy_config(spec), ports)
    with support.running_envoy(config) as running, running.another_client(source) as client:
        for method, path, others in KINDS_OF_REQUESTS:
            response = client.request(method, path, [*headers, *others])
            assert_clean(response, (method, path))
            if not admitted:
                assert response.status == 403, (method, path)
                assert response.json() == {"message": "Forbidden", "status": 403}
            elif path == ROWS[12].path and method == "GET":
                assert response.status == (200 if others else 401)
        answer, connection = client.upgrade(ROWS[17].path, [*headers, ("apikey", ANON)])
        connection.close()
        assert answer.status == (101 if admitted else 403)


def test_the_containers_of_the_instance_are_let_in_but_not_what_the_engine_hides(ports: Dict[str, int]) -> None:
    """Containers have the addresses after the first; through the first come clients whose own the engine replaced."""
    spec = make_spec(allow_from=("192.0.2.1",), subnet="127.0.0.64/26")
    with support.running_envoy(support.on_loopback(_gateway.envoy_config(spec), ports)) as running:
        for source, status in (("127.0.0.65", 403), ("127.0.0.66", 200), ("127.0.0.126", 200), ("127.0.0.128", 403)):
            with running.another_client(source) as client:
                assert client.request("GET", ROWS[1].path).status == status, source


@pytest.mark.parametrize(
    "changes",
    [
        {},
        LEGACY_KEYS,
        {"services": frozenset()},
        {"cors_origins": ("*",)},
        {"trusted_hops": 2},
        {"requests_per_second": 1, "burst": 1000000, "allow_from": ("::/0", "10.0.0.1"), "subnet": "10.213.0.0/26"},
    ],
    ids=["all", "legacy-keys", "no-services", "any-origin", "two-proxies", "limits"],
)
def test_envoy_accepts_what_is_rendered(changes: Dict[str, Any], tmp_path: Path) -> None:
    result = support.validate(_gateway.render(make_spec(**changes)), tmp_path)
    assert result.returncode == 0, result.stdout
    assert "eprecated" not in result.stdout, result.stdout
    assert "warning" not in result.stdout, result.stdout
