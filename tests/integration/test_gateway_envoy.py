# SPDX-License-Identifier: GPL-3.0-or-later
"""The gateway as clients and services see it: a real Envoy with the real configuration, and echo servers behind it.

What is expected is written out here from Supabase's self-hosting gateway, not taken from the module under test.
"""

from __future__ import annotations

import base64
import json
import socket
import time
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List, NamedTuple, Optional, Tuple

import pytest

from ansible_collections.multibase.supabase.plugins.module_utils import _gateway
from integration import gateway_support as support

ANON, SERVICE = "eyJ.anon.legacy", "eyJ.service.legacy"
PUBLISHABLE, SECRET = "sb_publishable_abc", "sb_secret_abc"
ANON_ES256, SERVICE_ES256 = "eyJ.anon.es256", "eyJ.service.es256"
USER_JWT = "eyJ.user.session"
APP_ORIGIN = "https://app.test"
PUBLIC_URL = "https://api.example.test"
REALTIME_HOST = "realtime-dev.supabase-realtime"

Headers = List[Tuple[str, str]]


def basic(username: str, password: str) -> Tuple[str, str]:
    return "Authorization", "Basic " + base64.b64encode((username + ":" + password).encode()).decode()


DASHBOARD_LOGIN = basic("supabase", "pass word:1")


class Row(NamedTuple):
    """One row of the table: a path that it serves, what the service gets, who may."""

    path: str
    access: str
    service: str = ""
    upstream_path: str = ""
    forwarded_prefix: Optional[str] = None
    host: str = "gw.test"


ROWS = {
    1: Row("/auth/v1/verify", "open", "auth", "/verify", "/auth/v1"),
    2: Row("/auth/v1/callback", "open", "auth", "/callback", "/auth/v1"),
    3: Row("/auth/v1/authorize", "open", "auth", "/authorize", "/auth/v1"),
    4: Row("/auth/v1/.well-known/jwks.json", "open", "auth", "/.well-known/jwks.json", "/auth/v1"),
    5: Row(
        "/.well-known/oauth-authorization-server/auth/v1", "open", "auth", "/.well-known/oauth-authorization-server"
    ),
    6: Row("/auth/v1/sso/saml/acs", "open", "auth", "/sso/saml/acs", "/auth/v1"),
    7: Row("/auth/v1/sso/saml/metadata", "open", "auth", "/sso/saml/metadata", "/auth/v1"),
    8: Row("/functions/v1/hello/x", "functions", "functions", "/hello/x", "/functions/v1"),
    9: Row("/storage/v1/object/a", "open", "storage", "/object/a", "/storage/v1"),
    10: Row("/auth/v1/user", "key", "auth", "/user", "/auth/v1"),
    11: Row("/rest/v1/", "service", "rest", "/", "/rest/v1"),
    12: Row("/rest/v1/todos", "key", "rest", "/todos", "/rest/v1"),
    13: Row("/graphql/v1", "key", "rest", "/rpc/graphql", "/graphql/v1"),
    14: Row("/realtime/v1/api/openapi", "denied"),
    15: Row("/realtime/v1/api/tenants/realtime-dev", "denied"),
    16: Row("/realtime/v1/api/broadcast", "key", "realtime", "/api/broadcast", "/realtime/v1", REALTIME_HOST),
    17: Row("/realtime/v1/websocket", "websocket", "realtime", "/socket/websocket", "/realtime/v1", REALTIME_HOST),
    18: Row("/pg/tables", "service", "meta", "/tables", "/pg"),
    19: Row("/api/mcp", "denied"),
    20: Row("/mcp", "denied"),
    21: Row("/project/default", "dashboard", "studio", "/project/default"),
}

CREDENTIALS: Dict[str, Headers] = {
    "none": [],
    "wrong": [("apikey", "wrong")],
    "wrong opaque": [("apikey", "sb_secret_wrong")],
    "anon": [("apikey", ANON)],
    "service": [("APIKEY", SERVICE)],
    "publishable": [("apikey", PUBLISHABLE)],
    "secret": [("apikey", SECRET), ("Authorization", "Bearer " + SECRET)],
    "bearer only": [("Authorization", "Bearer " + ANON)],
    "basic auth": [DASHBOARD_LOGIN],
}
JWT_OF = {"anon": ANON, "service": SERVICE, "publishable": ANON_ES256, "secret": SERVICE_ES256}


def expected_status(access: str, credential: str) -> int:
    if access == "denied":
        return 403
    if access == "dashboard":
        return 200 if credential == "basic auth" else 401
    if access == "open":
        return 200
    if access == "functions":
        return 401 if credential == "wrong opaque" else 200
    if credential not in JWT_OF:
        return 401
    if access == "service" and credential in ("anon", "publishable"):
        return 403
    return 200


# Other spellings of a path. The answer must be the one to the plain spelling, or a refusal.
SAME_ROW: Dict[str, Callable[[str], str]] = {
    "plain": lambda path: path,
    "double slash": lambda path: path.replace("/", "//"),
    "dot segment": lambda path: "/." + path,
    "parent segment": lambda path: "/pg/x/../.." + path,
    "encoded dot": lambda path: "/%2e" + path,
    "encoded parent": lambda path: "/auth/v1/verify/%2E%2e/%2e%2E/.." + path,
    "encoded letter": lambda path: path[0] + "".join("%{0:02x}".format(ord(letter)) for letter in path[1:2]) + path[2:],
    "backslash": lambda path: path[0] + path[1:].replace("/", "\\"),
    "absolute": lambda path: "http://elsewhere.test" + path,
}
REFUSED: Dict[str, Callable[[str], str]] = {
    "encoded slash": lambda path: "/%2f" + path[1:],
    "encoded inner slash": lambda path: path.rpartition("/")[0] + "%2F" + path.rpartition("/")[2],
    "encoded backslash": lambda path: path + "%5c..",
    "null byte": lambda path: path + "%00",
    "fragment": lambda path: path + "#x",
}
METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")

FORBIDDEN_RESPONSE_NAMES = ("server", "via", "x-powered-by", "sb-api-key")
FORBIDDEN_RESPONSE_PREFIXES = ("x-envoy-", "x-kong-", "x-upstream-", "x-forwarded-")


def make_spec(**changes: Any) -> _gateway.GatewaySpec:
    values: Dict[str, Any] = {
        "services": frozenset({"studio", "auth", "rest", "realtime", "storage", "imgproxy", "meta", "functions", "db"}),
        "anon_key": ANON,
        "service_role_key": SERVICE,
        "publishable_key": PUBLISHABLE,
        "secret_key": SECRET,
        "anon_key_asymmetric": ANON_ES256,
        "service_role_key_asymmetric": SERVICE_ES256,
        "dashboard_username": "supabase",
        "dashboard_password": "pass word:1",
        "public_url": PUBLIC_URL,
        "issuer": PUBLIC_URL + "/auth/v1",
        "cors_origins": (APP_ORIGIN, "http://localhost:3000"),
    }
    values.update(changes)
    return _gateway.GatewaySpec(**values)


LEGACY_KEYS = {
    "publishable_key": "",
    "secret_key": "",
    "anon_key_asymmetric": "",
    "service_role_key_asymmetric": "",
}


@pytest.fixture(scope="module")
def ports() -> Iterator[Dict[str, int]]:
    with support.echo_servers(("auth", "functions", "meta", "realtime", "rest", "storage", "studio")) as servers:
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


def seen_header(seen: Dict[str, Any], name: str) -> Optional[str]:
    values = [value for key, value in seen["headers"] if key == name]
    return ", ".join(values) if values else None


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


def assert_upstream(seen: Dict[str, Any], row: Row, credential: str, label: Tuple[object, ...]) -> None:
    """What the service got for this row and this credential."""
    jwt = JWT_OF.get(credential)
    sent = {name.lower(): value for name, value in CREDENTIALS[credential]}
    assert (seen["service"], seen["path"]) == (row.service, row.upstream_path), label
    if label[-1] != "absolute":
        assert seen_header(seen, "host") == row.host, label
    assert seen_header(seen, "x-forwarded-prefix") == row.forwarded_prefix, label
    expected = {"apikey": sent.get("apikey"), "authorization": sent.get("authorization"), "sb-api-key": None}
    expected["x-api-key"] = None
    if row.access == "dashboard":
        expected["authorization"] = None
    elif row.access == "functions":
        if credential in ("publishable", "secret"):
            expected["sb-api-key"] = jwt
    elif jwt is not None:
        expected["apikey"] = jwt
        if row.access == "websocket":
            expected["x-api-key"] = jwt
        else:
            expected["authorization"] = "Bearer " + jwt
    assert {name: seen_header(seen, name) for name in expected} == expected, label
    if row.path == "/graphql/v1":
        assert seen_header(seen, "content-profile") == "graphql_public", label


@pytest.mark.parametrize("number", ROWS)
def test_credentials_and_methods(gateway: support.Gateway, number: int) -> None:
    row = ROWS[number]
    for credential, headers in CREDENTIALS.items():
        for method in METHODS:
            label = (number, credential, method)
            response = gateway.request(method, row.path, headers, b"body" if method == "POST" else b"")
            assert response.status == expected_status(row.access, credential), label
            assert_clean(response, label)
            if response.status == 200 and method != "HEAD":
                seen = response.json()
                assert seen["method"] == method, label
                assert seen["body"] == ("body" if method == "POST" else ""), label
                assert_upstream(seen, row, credential, label)
                assert response.header("x-kept") == "yes", label


@pytest.mark.parametrize("number", ROWS)
def test_spellings(gateway: support.Gateway, number: int) -> None:
    row = ROWS[number]
    for credential, headers in CREDENTIALS.items():
        for spelling, spell in SAME_ROW.items():
            label = (number, credential, spelling)
            response = gateway.request("GET", spell(row.path), headers)
            assert response.status == expected_status(row.access, credential), label
            if response.status == 200:
                assert_upstream(response.json(), row, credential, label)
        for spelling, spell in REFUSED.items():
            response = gateway.request("GET", spell(row.path), headers)
            assert response.status == 400, (number, credential, spelling)
            assert_clean(response, (number, credential, spelling))
        # Paths are case-sensitive: the dashboard's catch-all gets anything else.
        response = gateway.request("GET", row.path.upper() + "X", headers)
        assert response.status == expected_status("dashboard", credential), (number, credential, "upper case")
        response = gateway.request("GET", row.path, [*headers, ("api_key", "x")])
        assert response.status == 400, (number, credential, "underscore in a header")
        assert_clean(response, (number, credential, "underscore in a header"))


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
    for credential, headers in CREDENTIALS.items():
        response = gateway.request("GET", target, headers)
        assert response.status == expected_status(access, credential), credential
        if response.status == 200:
            assert (response.json()["service"], response.json()["path"]) == (service, upstream_path), credential


def test_methods_that_no_route_serves(gateway: support.Gateway) -> None:
    for row in ROWS.values():
        for headers in CREDENTIALS.values():
            assert gateway.request("TRACE", row.path, headers).status == 405
    for headers in CREDENTIALS.values():
        assert gateway.request("CONNECT", "db:5432", headers).status in (401, 403, 404, 405)


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
    credential = "basic auth" if row.access == "dashboard" else "service"
    headers = [*HOSTILE_REQUEST_HEADERS, *CREDENTIALS[credential], ("X-Mine", "kept")]
    response = gateway.request("GET", row.path, headers)
    assert response.status == 200
    seen = response.json()
    assert seen_header(seen, "x-mine") == "kept"
    assert "forged" not in str(seen["headers"])
    assert "192.0.2." not in str(seen["headers"])
    internal = {key: value for key, value in seen["headers"] if key.startswith(("x-forwarded-", "x-envoy-"))}
    expected = {
        "x-forwarded-for": "127.0.0.1",
        "x-forwarded-host": "gw.test",
        "x-forwarded-port": "443",
        "x-forwarded-proto": "https",
    }
    if row.forwarded_prefix is not None:
        expected["x-forwarded-prefix"] = row.forwarded_prefix
    assert internal == expected
    assert len([key for key, _value in seen["headers"] if key == "x-forwarded-for"]) == 1


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


@pytest.mark.parametrize(
    ("method", "origin", "status"),
    [
        ("POST", None, 200),
        ("POST", "https://gw.test", 200),
        ("POST", PUBLIC_URL, 200),
        ("DELETE", "https://evil.test", 403),
        ("POST", "https://gw.test.evil.test", 403),
        ("POST", APP_ORIGIN, 403),
        ("PATCH", "null", 403),
        ("PUT", "", 403),
        ("GET", "https://evil.test", 200),
    ],
)
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
        response = preflight(gateway, row.path, origin)
        assert response.status == 200, origin
        assert response.body == b"", origin
        assert response.header("access-control-allow-origin") == origin
        assert "POST" in (response.header("access-control-allow-methods") or "")
        assert {"authorization", "*"} <= set(allowed_list(response, "access-control-allow-headers"))
        assert_clean(response, origin)
        for headers in (CREDENTIALS["service"], CREDENTIALS["none"], CREDENTIALS["anon"]):
            response = gateway.request("GET", row.path, [*headers, ("Origin", origin)])
            assert response.header("access-control-allow-origin") == origin
            assert response.header("access-control-expose-headers") == "*"
            assert "origin" in allowed_list(response, "vary")
            assert response.header("access-control-allow-credentials") is None
    for origin in foreign:
        response = preflight(gateway, row.path, origin)
        assert response.status == 200, origin
        assert response.body == b"", origin
        assert response.header("access-control-allow-origin") is None, origin
        response = gateway.request("GET", row.path, [*CREDENTIALS["service"], ("Origin", origin)])
        assert response.status == 200, origin
        assert not [name for name, _value in response.headers if name.startswith("access-control-")], origin
        assert "origin" in allowed_list(response, "vary"), origin


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
    for credential, headers in CREDENTIALS.items():
        answer, connection = gateway.upgrade(row.path, headers)
        with connection:
            if row.access != "websocket":
                assert answer.status == 403, credential
            elif credential not in JWT_OF:
                assert answer.status == 401, credential
            else:
                assert answer.status == 101, credential
                with connection.makefile("rwb") as stream:
                    assert b'"/socket/websocket"' in stream.readline()
                    stream.write(b"hello over the socket\n")
                    stream.flush()
                    assert stream.readline() == b"hello over the socket\n"
            assert_clean(answer, (number, credential))


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
            for credential, headers in CREDENTIALS.items():
                status = expected_status(row.access, credential)
                if row.service == off and status == 200:
                    status = 404
                response = running.request("GET", row.path, headers)
                assert response.status == status, (number, credential)
                assert_clean(response, (number, credential))
                if status == 404:
                    assert off in response.json()["message"]
            if row.service == off and row.access not in ("dashboard", "denied"):
                origin = PUBLIC_URL if off == "meta" else APP_ORIGIN
                response = running.request("GET", row.path, [*CREDENTIALS["service"], ("Origin", origin)])
                assert response.status == 404, number
                assert response.header("access-control-allow-origin") == origin, number
                assert preflight(running, row.path, origin).header("access-control-allow-origin") == origin, number
                answer, connection = running.upgrade(row.path, CREDENTIALS["service"])
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


@pytest.mark.parametrize(
    "changes",
    [{}, LEGACY_KEYS, {"services": frozenset()}, {"cors_origins": ("*",)}, {"trusted_hops": 2}],
    ids=["all", "legacy-keys", "no-services", "any-origin", "two-proxies"],
)
def test_envoy_accepts_what_is_rendered(changes: Dict[str, Any], tmp_path: Path) -> None:
    result = support.validate(_gateway.render(make_spec(**changes)), tmp_path)
    assert result.returncode == 0, result.stdout
    assert "eprecated" not in result.stdout, result.stdout
    assert "warning" not in result.stdout, result.stdout
