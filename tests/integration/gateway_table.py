# SPDX-License-Identifier: GPL-3.0-or-later
"""What the gateway has to do, written out from Supabase's self-hosting gateway and not taken from the code under test.

``ROWS`` is the route table, ``CREDENTIALS`` what clients may carry, ``VARIANTS`` how requests may be spelled, and
``expected`` says what must come of them. Envoy is held against all of it, and so is the stand-in for Kong.
"""

from __future__ import annotations

import base64
from typing import Any, Callable, Dict, List, NamedTuple, Optional, Sequence, Tuple

from ansible_collections.multibase.supabase.plugins.module_utils import _gateway

ANON, SERVICE = "eyJ.anon.legacy", "eyJ.service.legacy"
PUBLISHABLE, SECRET = "sb_publishable_abc", "sb_secret_abc"
ANON_ES256, SERVICE_ES256 = "eyJ.anon.es256", "eyJ.service.es256"
USER_JWT = "eyJ.user.session"
APP_ORIGIN = "https://app.test"
PUBLIC_URL = "https://api.example.test"
REALTIME_HOST = "realtime-dev.supabase-realtime"
SERVICES = ("auth", "functions", "meta", "realtime", "rest", "storage", "studio")

Headers = List[Tuple[str, str]]


def basic(username: str, password: str) -> Tuple[str, str]:
    return "Authorization", "Basic " + base64.b64encode((username + ":" + password).encode()).decode()


DASHBOARD_LOGIN = basic("supabase", "pass word:1")

LEGACY_KEYS = {
    "publishable_key": "",
    "secret_key": "",
    "anon_key_asymmetric": "",
    "service_role_key_asymmetric": "",
}


def make_spec(**changes: Any) -> _gateway.GatewaySpec:
    values: Dict[str, Any] = {
        "services": frozenset({*SERVICES, "imgproxy", "db"}),
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


class Row(NamedTuple):
    """One row of the table: a path that it serves, what the service gets, who may."""

    name: str
    path: str
    access: str
    service: str = ""
    upstream_path: str = ""
    forwarded_prefix: Optional[str] = None
    host: str = "gw.test"


ROWS = {
    1: Row("auth-verify", "/auth/v1/verify", "open", "auth", "/verify", "/auth/v1"),
    2: Row("auth-callback", "/auth/v1/callback", "open", "auth", "/callback", "/auth/v1"),
    3: Row("auth-authorize", "/auth/v1/authorize", "open", "auth", "/authorize", "/auth/v1"),
    4: Row("auth-jwks", "/auth/v1/.well-known/jwks.json", "open", "auth", "/.well-known/jwks.json", "/auth/v1"),
    5: Row(
        "auth-oauth-metadata",
        "/.well-known/oauth-authorization-server/auth/v1",
        "open",
        "auth",
        "/.well-known/oauth-authorization-server",
    ),
    6: Row("auth-saml-acs", "/auth/v1/sso/saml/acs", "open", "auth", "/sso/saml/acs", "/auth/v1"),
    7: Row("auth-saml-metadata", "/auth/v1/sso/saml/metadata", "open", "auth", "/sso/saml/metadata", "/auth/v1"),
    8: Row("functions", "/functions/v1/hello/x", "functions", "functions", "/hello/x", "/functions/v1"),
    9: Row("storage", "/storage/v1/object/a", "open", "storage", "/object/a", "/storage/v1"),
    10: Row("auth", "/auth/v1/user", "key", "auth", "/user", "/auth/v1"),
    11: Row("rest-openapi", "/rest/v1/", "service", "rest", "/", "/rest/v1"),
    12: Row("rest", "/rest/v1/todos", "key", "rest", "/todos", "/rest/v1"),
    13: Row("graphql", "/graphql/v1", "key", "rest", "/rpc/graphql", "/graphql/v1"),
    14: Row("realtime-openapi", "/realtime/v1/api/openapi", "denied"),
    15: Row("realtime-tenants", "/realtime/v1/api/tenants/realtime-dev", "denied"),
    16: Row(
        "realtime-api", "/realtime/v1/api/broadcast", "key", "realtime", "/api/broadcast", "/realtime/v1", REALTIME_HOST
    ),
    17: Row(
        "realtime-websocket",
        "/realtime/v1/websocket",
        "websocket",
        "realtime",
        "/socket/websocket",
        "/realtime/v1",
        REALTIME_HOST,
    ),
    18: Row("meta", "/pg/tables", "service", "meta", "/tables", "/pg"),
    19: Row("studio-api-mcp", "/api/mcp", "denied"),
    20: Row("studio-mcp", "/mcp", "denied"),
    21: Row("studio", "/project/default", "dashboard", "studio", "/project/default"),
}


class Sent(NamedTuple):
    """What a client carries: its apikey headers, the apikey parameters of its URL, and its Authorization."""

    keys: Tuple[str, ...] = ()
    query: Tuple[str, ...] = ()
    authorization: Optional[str] = None

    def headers(self, name: str = "apikey") -> Headers:
        return [(name, key) for key in self.keys] + (
            [] if self.authorization is None else [("Authorization", self.authorization)]
        )


CREDENTIALS: Dict[str, Sent] = {
    "none": Sent(),
    "wrong": Sent(("wrong",)),
    "wrong opaque": Sent(("sb_secret_wrong",)),
    "anon": Sent((ANON,)),
    "service": Sent((SERVICE,)),
    "publishable": Sent((PUBLISHABLE,)),
    "secret": Sent((SECRET,), authorization="Bearer " + SECRET),
    "bearer only": Sent(authorization="Bearer " + ANON),
    "basic auth": Sent(authorization=DASHBOARD_LOGIN[1]),
}
ROLE_OF = {ANON: "anon", PUBLISHABLE: "anon", SERVICE: "service", SECRET: "service"}
JWT_OF = {ANON: ANON, SERVICE: SERVICE, PUBLISHABLE: ANON_ES256, SECRET: SERVICE_ES256}

METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE")

Spell = Callable[[str], str]
Place = Callable[[Sent], Sent]


class Variant(NamedTuple):
    """A way to write a request: the path, where the credentials are, further headers; and whose answer it must get."""

    spell: Spell = lambda path: path
    place: Place = lambda sent: sent
    extra: Sequence[Tuple[str, str]] = ()
    key_header: str = "apikey"
    outcome: str = "row"
    query: str = ""


# Other spellings of a path. The answer must be the one to the plain spelling, or a refusal.
SAME_ROW: Dict[str, Spell] = {
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
REFUSED: Dict[str, Spell] = {
    "encoded slash": lambda path: "/%2f" + path[1:],
    "encoded inner slash": lambda path: path.rpartition("/")[0] + "%2F" + path.rpartition("/")[2],
    "encoded backslash": lambda path: path + "%5c..",
    "null byte": lambda path: path + "%00",
    "fragment": lambda path: path + "#x",
}
VARIANTS: Dict[str, Variant] = {
    **{name: Variant(spell) for name, spell in SAME_ROW.items()},
    **{name: Variant(spell, outcome="refused") for name, spell in REFUSED.items()},
    # Paths are case-sensitive: the dashboard's catch-all gets anything else.
    "upper case": Variant(lambda path: path.upper() + "X", outcome="dashboard"),
    "underscore in a header": Variant(extra=[("api_key", SERVICE)], outcome="refused"),
    "underscore in a forwarded header": Variant(extra=[("X_Forwarded_For", "127.0.0.1")], outcome="refused"),
    "query": Variant(query="?a=1&b=%2F"),
    "capitals in the header's name": Variant(key_header="ApiKEY"),
    "key in the query": Variant(place=lambda sent: sent._replace(keys=(), query=sent.keys)),
    "key in header and query": Variant(place=lambda sent: sent._replace(query=sent.keys)),
    "another key in the query": Variant(place=lambda sent: sent._replace(query=("wrong",))),
    "key twice in the query": Variant(place=lambda sent: sent._replace(keys=(), query=sent.keys * 2)),
    "differing keys in the query": Variant(place=lambda sent: sent._replace(keys=(), query=(*sent.keys, "other"))),
    "key twice in headers": Variant(place=lambda sent: sent._replace(keys=sent.keys * 2)),
    "service key in a second header": Variant(place=lambda sent: sent._replace(keys=(*sent.keys, SERVICE))),
}


class Expected(NamedTuple):
    """The status, and for 200 what the service must have got (None: the header is not there)."""

    status: int
    path: str = ""
    headers: Dict[str, Optional[str]] = {}


def _query(parameters: Sequence[str]) -> str:
    return "?" + "&".join(parameters) if parameters else ""


def _decide(row: Row, sent: Sent, query: str) -> Expected:
    apikey = ", ".join(sent.keys) or None
    got = {"apikey": apikey, "authorization": sent.authorization, "sb-api-key": None, "x-api-key": None}
    key_parameters = ["apikey=" + key for key in sent.query]
    other_parameters = query[1:].split("&") if query else []
    unchanged = row.upstream_path + _query([*other_parameters, *key_parameters])
    if row.access == "denied":
        return Expected(403)
    if row.access == "dashboard":
        got["authorization"] = None
        return Expected(200 if sent.authorization == DASHBOARD_LOGIN[1] else 401, unchanged, got)
    if len(sent.keys) > 1:
        return Expected(401)
    if row.access == "functions":
        key = sent.keys[0] if sent.keys else ""
        token = (sent.authorization or "").partition("Bearer ")[2]
        if key and token.startswith("sb_") and token != key:
            return Expected(401)
        if key.startswith("sb_"):
            got["sb-api-key"] = JWT_OF.get(key)
            return Expected(200 if key in JWT_OF else 401, unchanged, got)
        return Expected(200, unchanged, got)
    if len(set(sent.query)) > 1:
        return Expected(401)
    key = (sent.keys or sent.query or ("",))[0]
    if key not in JWT_OF:
        return Expected(200 if row.access == "open" else 401, unchanged, got)
    if row.access == "service" and ROLE_OF[key] != "service":
        return Expected(403)
    jwt = JWT_OF[key]
    got["apikey"] = jwt
    if row.access == "websocket":
        got["x-api-key"] = jwt
        key_parameters = ["apikey=" + jwt] if sent.query else []
    elif row.access != "open" or (sent.query and sent.query[0] in JWT_OF):
        key_parameters = []
    if row.access != "websocket" and (sent.authorization is None or sent.authorization.startswith("Bearer sb_")):
        got["authorization"] = "Bearer " + jwt
    return Expected(200, row.upstream_path + _query([*other_parameters, *key_parameters]), got)


def expected(row: Row, sent: Sent, method: str = "GET", outcome: str = "row", query: str = "") -> Expected:
    """What must come of a request that reaches the row (or of an outcome that is not the row's)."""
    if outcome == "refused":
        return Expected(400)
    if method == "TRACE":
        return Expected(405)
    if outcome == "dashboard":
        row = ROWS[21]._replace(upstream_path="")
    return _decide(row, sent, query)


def target_of(row: Row, variant: Variant, sent: Sent) -> str:
    parameters = variant.query[1:].split("&") if variant.query else []
    return variant.spell(row.path) + _query(parameters + ["apikey=" + key for key in sent.query])


def seen_header(seen: Dict[str, Any], name: str) -> Optional[str]:
    values = [value for key, value in seen["headers"] if key == name]
    return ", ".join(values) if values else None


# A browser that is logged in to the dashboard sends its password along, whichever site makes it send a request:
# method, the site, and the answer.
DASHBOARD_CHANGES = [
    ("POST", None, 200),
    ("POST", "https://gw.test", 200),
    ("POST", PUBLIC_URL, 200),
    ("DELETE", "https://evil.test", 403),
    ("POST", "https://gw.test.evil.test", 403),
    ("POST", APP_ORIGIN, 403),
    ("PATCH", "null", 403),
    ("PUT", "", 403),
    ("GET", "https://evil.test", 200),
]
