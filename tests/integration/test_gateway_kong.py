# SPDX-License-Identifier: GPL-3.0-or-later
"""Kong's configuration and its Lua functions against the same written table as Envoy, with a stand-in for Kong.

It shows that the parts fit together if Kong does what its documentation says; Kong itself was not run.
"""

from __future__ import annotations

from typing import Dict, Iterator, List, Optional, Tuple

import pytest

from ansible_collections.multibase.supabase.plugins.module_utils import _kong
from integration import gateway_support as support
from integration.gateway_table import (
    ANON,
    APP_ORIGIN,
    CREDENTIALS,
    DASHBOARD_CHANGES,
    DASHBOARD_LOGIN,
    REALTIME_HOST,
    ROWS,
    SECRET,
    SERVICE,
    SERVICE_ES256,
    USER_JWT,
    VARIANTS,
    Headers,
    expected,
    make_spec,
    seen_header,
    target_of,
)
from integration.kong_standin import Kong, lua_runner

# Where Kong's own header says something else: the path of the row, because that is what it strips.
FORWARDED_PREFIX = {
    1: "/auth/v1/verify",
    2: "/auth/v1/callback",
    3: "/auth/v1/authorize",
    4: "/auth/v1/.well-known/jwks.json",
    5: "/.well-known/oauth-authorization-server/auth/v1",
    6: "/auth/v1/sso/saml/acs",
    7: "/auth/v1/sso/saml/metadata",
    11: "/rest/v1/",
    16: "/realtime/v1/api",
}


@pytest.fixture(scope="module")
def lua() -> Iterator[support.Gateway]:
    with lua_runner() as running:
        yield running


@pytest.fixture(scope="module")
def kong(lua: support.Gateway) -> Kong:
    return Kong(_kong.kong_config(make_spec()), lua)


@pytest.mark.parametrize("number", ROWS)
def test_the_matrix(kong: Kong, number: int) -> None:
    """Every row, credential and spelling, as with Envoy; GET stands for the methods, which Kong does not tell apart."""
    row = ROWS[number]
    for name, variant in VARIANTS.items():
        # Envoy takes a backslash for a slash, Kong refuses it.
        outcome = "refused" if "\\" in variant.spell(row.path) else variant.outcome
        for credential, carried in CREDENTIALS.items():
            label = (number, name, credential)
            sent = variant.place(carried)
            wanted = expected(row, sent, "GET", outcome, variant.query)
            headers = [*sent.headers(variant.key_header), *variant.extra]
            answer = kong.request("GET", target_of(row, variant, sent), headers)
            assert answer.status == wanted.status, label
            if answer.seen is None:
                continue
            seen = answer.seen
            assert {header: seen_header(seen, header) for header in wanted.headers} == wanted.headers, label
            if outcome == "dashboard":
                assert seen["service"] == "studio", label
                continue
            assert (seen["service"], seen["path"]) == (row.service, wanted.path), label
            host = row.host + (":4000" if row.host == REALTIME_HOST else "")
            assert seen_header(seen, "host") == host, label
            prefix = FORWARDED_PREFIX.get(number, row.forwarded_prefix)
            assert seen_header(seen, "x-forwarded-prefix") == prefix, label
            profile = "graphql_public" if row.name == "graphql" else None
            assert seen_header(seen, "content-profile") == profile, label


def test_refused_methods(kong: Kong) -> None:
    assert kong.request("TRACE", ROWS[1].path, []).status == 405


HOSTILE: Headers = [
    ("sb-api-key", "forged"),
    ("X-Consumer-Username", "forged"),
    ("X-Credential-Identifier", "forged"),
    ("X-Anonymous-Consumer", "forged"),
    ("X-Envoy-Original-Path", "/forged"),
    ("X-Kong-Request-Id", "forged"),
    ("Kong-Debug", "forged"),
    ("X-Multibase-Counted", "forged"),
    ("X-Forwarded-For", "forged"),
    ("X-Forwarded-Host", "forged"),
    ("X-Forwarded-Path", "/forged"),
    ("X-Forwarded-Prefix", "/forged"),
    ("X-Forwarded-Proto", "forged"),
    ("X-Real-Ip", "forged"),
    ("X-Original-Url", "/forged"),
    ("X-Rewrite-Url", "/forged"),
    ("Forwarded", "forged"),
    ("Proxy-Authorization", DASHBOARD_LOGIN[1]),
]


@pytest.mark.parametrize("number", [number for number, row in ROWS.items() if row.service])
def test_forged_headers_never_reach_a_service(kong: Kong, number: int) -> None:
    row = ROWS[number]
    served = 0
    for credential, sent in CREDENTIALS.items():
        answer = kong.request("GET", row.path, [*HOSTILE, *sent.headers(), ("X-Mine", "kept")])
        assert answer.status == expected(row, sent).status, credential
        if answer.seen is None:
            continue
        served += 1
        assert seen_header(answer.seen, "x-mine") == "kept"
        assert "forged" not in str(answer.seen), credential
        names = {name for name, _value in answer.seen["headers"]}
        internal = {name for name in names if name.startswith(("x-consumer", "x-credential", "x-multibase", "x-anon"))}
        assert not internal, credential
    assert served


@pytest.mark.parametrize(("value", "kept"), [("https", "https"), ("http", "http"), ("https, http", None), ("", None)])
def test_a_proxys_scheme_is_kept_for_kong_to_judge(kong: Kong, value: str, kept: Optional[str]) -> None:
    answer = kong.request("GET", ROWS[1].path, [("X-Forwarded-Proto", value)])
    assert answer.seen is not None
    assert seen_header(answer.seen, "x-forwarded-proto") == kept


@pytest.mark.parametrize("number", ROWS)
def test_upgrades_on_the_realtime_row_only(kong: Kong, number: int) -> None:
    row = ROWS[number]
    for credential, sent in CREDENTIALS.items():
        for value in ("websocket", "WebSocket", "h2c"):
            answer = kong.request("GET", row.path, [*sent.headers(), ("Upgrade", value), ("Connection", "Upgrade")])
            wanted = expected(row, sent).status if row.access == "websocket" else 403
            assert answer.status == wanted, (credential, value)


def test_the_limits_are_asked_before_anybody_is_refused(kong: Kong) -> None:
    """Whoever has no good key gets as far as the last plugin but one; ip-restriction and rate-limiting come before."""
    for number in (10, 12, 16, 17, 21):
        for credential in ("none", "wrong"):
            answer = kong.request("GET", ROWS[number].path, CREDENTIALS[credential].headers())
            assert (answer.status, answer.asked[-1]) == (401, "request-termination"), (number, credential)
    assert kong.request("GET", ROWS[18].path, CREDENTIALS["none"].headers()).asked[-1] == "request-termination"
    assert kong.request("GET", ROWS[18].path, CREDENTIALS["anon"].headers()).asked[-1] == "acl"


# Every one is counted: good and bad keys, open rows, the dashboard, denied ones.
COUNTED: List[Tuple[int, Headers]] = [
    (12, [("apikey", ANON)]),
    (12, []),
    (12, [("apikey", "wrong"), ("X-Multibase-Counted", "another")]),
    (1, []),
    (8, [("apikey", "sb_secret_wrong")]),
    (21, []),
    (21, [DASHBOARD_LOGIN]),
    (20, []),
]


def test_the_rate_limit_counts_all_clients_together(lua: support.Gateway) -> None:
    kong = Kong(_kong.kong_config(make_spec(requests_per_second=len(COUNTED))), lua)
    for number, headers in COUNTED:
        assert kong.request("GET", ROWS[number].path, headers).status != 429, number
    assert list(kong.counted.values()) == [len(COUNTED)]
    for number, headers in COUNTED:
        answer = kong.request("GET", ROWS[number].path, headers, source="192.0.2.9")
        assert (answer.status, answer.message) == (429, "Too many requests"), number
        assert answer.headers == [("retry-after", "1")], number


def test_only_listed_addresses_are_let_in(lua: support.Gateway) -> None:
    spec = make_spec(allow_from=("192.0.2.0/24", "2001:db8::/32"), subnet="10.213.0.0/26")
    kong = Kong(_kong.kong_config(spec), lua)
    for number, headers in COUNTED:
        wanted = kong.request("GET", ROWS[number].path, headers, source="192.0.2.9").status
        for source in ("2001:db8::1", "10.213.0.2"):
            assert kong.request("GET", ROWS[number].path, headers, source=source).status == wanted, number
        for source in ("192.0.3.9", "2001:db9::1", "10.213.0.1"):
            answer = kong.request("GET", ROWS[number].path, [*headers, ("X-Forwarded-For", "192.0.2.9")], source=source)
            assert (answer.status, answer.message) == (403, "Forbidden"), number


LEAKS: Headers = [*support.LEAKY_HEADERS, ("X-Kong-Upstream-Latency", "1"), ("Kong-Route-Id", "1")]


@pytest.mark.parametrize("number", ROWS)
def test_no_response_tells_what_made_it(kong: Kong, number: int) -> None:
    for sent in CREDENTIALS.values():
        answer = kong.request("GET", ROWS[number].path, sent.headers(), LEAKS)
        names = {name for name, _value in answer.headers}
        if answer.seen is not None:
            assert names == {"x-kept"}
        elif answer.status == 401 and number == 21:
            assert answer.headers == [("www-authenticate", 'Basic realm="Supabase"')]
        else:
            assert names == set()


@pytest.mark.parametrize(
    ("sent", "received"),
    [
        (None, "Bearer " + SERVICE_ES256),
        ("", "Bearer " + SERVICE_ES256),
        ("Bearer", "Bearer " + SERVICE_ES256),
        ("bEARER   " + SECRET, "Bearer " + SERVICE_ES256),
        ("Bearer sb_anything", "Bearer " + SERVICE_ES256),
        ("Bearer " + USER_JWT, "Bearer " + USER_JWT),
        ("Basic Y2xpZW50OnNlY3JldA==", "Basic Y2xpZW50OnNlY3JldA=="),
        ("AWS4-HMAC-SHA256 Credential=x", "AWS4-HMAC-SHA256 Credential=x"),
    ],
)
def test_authorization_with_a_valid_key(kong: Kong, sent: Optional[str], received: str) -> None:
    headers = [("apikey", SECRET)] + ([] if sent is None else [("Authorization", sent)])
    for number in (9, 10, 12, 13, 16, 18):
        answer = kong.request("GET", ROWS[number].path, headers)
        assert answer.seen is not None
        assert seen_header(answer.seen, "authorization") == received, number


@pytest.mark.parametrize(
    ("headers", "status", "internal"),
    [
        ([("apikey", SECRET), ("Authorization", "Bearer " + USER_JWT)], 200, SERVICE_ES256),
        ([("apikey", ANON), ("Authorization", "Bearer " + SECRET)], 401, None),
        ([("apikey", "not-ours")], 200, None),
        ([("Authorization", "Bearer " + SECRET)], 200, None),
        ([("sb-api-key", SERVICE)], 200, None),
    ],
)
def test_functions(kong: Kong, headers: Headers, status: int, internal: Optional[str]) -> None:
    answer = kong.request("POST", "/functions/v1/hello?apikey=" + SERVICE, headers)
    assert answer.status == status
    if answer.seen is not None:
        assert answer.seen["path"] == "/hello?apikey=" + SERVICE
        assert seen_header(answer.seen, "sb-api-key") == internal


def test_functions_judge_nothing_without_opaque_keys(lua: support.Gateway) -> None:
    legacy: Dict[str, str] = dict.fromkeys(
        ("publishable_key", "secret_key", "anon_key_asymmetric", "service_role_key_asymmetric"), ""
    )
    kong = Kong(_kong.kong_config(make_spec(**legacy)), lua)
    headers = [("apikey", "sb_secret_x"), ("Authorization", "Bearer sb_secret_y"), ("sb-api-key", SERVICE)]
    answer = kong.request("GET", "/functions/v1/hello", headers)
    assert answer.seen is not None
    assert seen_header(answer.seen, "sb-api-key") is None


@pytest.mark.parametrize(("method", "origin", "status"), DASHBOARD_CHANGES)
def test_dashboard_refuses_changes_from_other_sites(
    kong: Kong, method: str, origin: Optional[str], status: int
) -> None:
    headers = [DASHBOARD_LOGIN] + ([] if origin is None else [("Origin", origin)])
    assert kong.request(method, "/api/platform/pg-meta/default/query", headers).status == status


@pytest.mark.parametrize(
    ("query", "status"),
    [
        ("apikey=" + SECRET.replace("_", "%5f"), 200),
        ("%61pikey=" + SERVICE, 200),
        ("APIKEY=" + SERVICE, 401),
        ("apikey=" + ANON, 403),
        ("apikey=" + SERVICE + "%0d%0aX-Forged:1", 401),
        ("apikey", 401),
        ("apikey=", 401),
    ],
)
def test_key_in_the_query(kong: Kong, query: str, status: int) -> None:
    for number in (11, 18):
        answer = kong.request("GET", ROWS[number].path + "?" + query, [])
        assert answer.status == status, number
        if answer.seen is not None:
            assert answer.seen["path"] == ROWS[number].upstream_path


def test_too_many_headers_are_refused(kong: Kong) -> None:
    """Kong looks at the first hundred only; what comes after would not be looked at."""
    many: List[Tuple[str, str]] = [("X-{0}".format(number), "x") for number in range(98)]
    assert kong.request("GET", ROWS[1].path, many).status == 200
    assert kong.request("GET", ROWS[1].path, [*many, ("a", "1"), ("sb-api-key", "forged")]).status == 400


def test_a_preflight_needs_no_key(kong: Kong) -> None:
    headers = [("Origin", APP_ORIGIN), ("Access-Control-Request-Method", "POST")]
    for row in ROWS.values():
        answer = kong.request("OPTIONS", row.path, headers)
        wanted = {"denied": 403, "dashboard": 401}.get(row.access, 200)
        assert (answer.status, answer.seen) == (wanted, None), row.name
