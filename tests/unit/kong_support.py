# SPDX-License-Identifier: GPL-3.0-or-later
"""What is known about Kong 3.9 without running it: its declarative schema, its router, its order of plugins.

Written from Kong's documentation and the behaviour of its source. Only what our configuration uses is here; anything
else, a misspelt name included, does not pass.
"""

from __future__ import annotations

import re
from typing import Any, Dict, Iterator, List, NamedTuple, Optional, Tuple

Json = Dict[str, Any]


def _record(required: Tuple[str, ...] = (), **properties: Any) -> Json:
    return {"type": "object", "properties": properties, "required": list(required), "additionalProperties": False}


def _list_of(items: Any, **more: Any) -> Json:
    return {"type": "array", "items": items, **more}


TEXT = {"type": "string", "minLength": 1}
FLAG = {"type": "boolean"}
NAME = {"type": "string", "pattern": r"^[A-Za-z0-9._~-]+$"}
# Printable ASCII without comma and slash.
TAGS = _list_of({"type": "string", "pattern": r"^[ !-+.0-~-]+$"}, uniqueItems=True)
MILLISECONDS = {"type": "integer", "minimum": 1, "maximum": 2**31 - 2}
PATH = {"type": "string", "pattern": r"^/(?!.*//)[A-Za-z0-9._~/-]*$"}
HEADER_NAME = {"type": "string", "pattern": r"^[A-Za-z0-9-]+$"}
CIDR = {"type": "string", "pattern": r"^[0-9a-f.:]+(/[0-9]{1,3})?$"}
STATUS = {"type": "integer", "minimum": 100, "maximum": 599}
METHODS = ["HEAD", "GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "CONNECT"]
PROTOCOLS = ["grpc", "grpcs", "http", "https", "tcp", "tls", "tls_passthrough", "udp"]
PHASES = ("certificate", "rewrite", "access", "header_filter", "body_filter", "log")

_TRANSFORM = _record(body=_list_of(TEXT), headers=_list_of(TEXT), querystring=_list_of(TEXT))
_FUNCTIONS = _record(**{phase: _list_of(TEXT, minItems=1) for phase in PHASES})
_LIMIT = {"type": "number", "exclusiveMinimum": 0}

PLUGIN_CONFIGS: Dict[str, Json] = {
    "acl": {
        **_record(
            allow=_list_of(TEXT),
            deny=_list_of(TEXT),
            hide_groups_header=FLAG,
            include_consumer_groups=FLAG,
            always_use_authenticated_groups=FLAG,
        ),
        "oneOf": [{"required": ["allow"]}, {"required": ["deny"]}],
    },
    "basic-auth": _record(anonymous=TEXT, hide_credentials=FLAG, realm=TEXT),
    "cors": _record(
        # An empty list would mean any origin.
        origins=_list_of(TEXT, minItems=1),
        headers=_list_of(TEXT),
        exposed_headers=_list_of(TEXT),
        methods=_list_of({"enum": METHODS}),
        max_age={"type": "number"},
        credentials=FLAG,
        private_network=FLAG,
        preflight_continue=FLAG,
        allow_origin_absent=FLAG,
        required=("origins",),
    ),
    "ip-restriction": {
        **_record(allow=_list_of(CIDR), deny=_list_of(CIDR), status={"type": "number"}, message=TEXT),
        "anyOf": [{"required": ["allow"]}, {"required": ["deny"]}],
    },
    "key-auth": _record(
        key_names=_list_of(HEADER_NAME, minItems=1),
        hide_credentials=FLAG,
        anonymous=TEXT,
        key_in_header=FLAG,
        key_in_query=FLAG,
        key_in_body=FLAG,
        run_on_preflight=FLAG,
        realm=TEXT,
    ),
    "post-function": _FUNCTIONS,
    "pre-function": _FUNCTIONS,
    "rate-limiting": {
        **_record(
            second=_LIMIT,
            minute=_LIMIT,
            hour=_LIMIT,
            day=_LIMIT,
            month=_LIMIT,
            year=_LIMIT,
            limit_by={"enum": ["consumer", "credential", "ip", "service", "header", "path", "consumer-group"]},
            header_name=HEADER_NAME,
            path=PATH,
            policy={"enum": ["local", "cluster", "redis"]},
            fault_tolerant=FLAG,
            hide_client_headers=FLAG,
            error_code={"type": "number", "exclusiveMinimum": 0},
            error_message=TEXT,
            sync_rate={"type": "number"},
        ),
        "anyOf": [{"required": [period]} for period in ("second", "minute", "hour", "day", "month", "year")],
        # limit_by header without the header's name is refused.
        "if": {"properties": {"limit_by": {"const": "header"}}, "required": ["limit_by"]},
        "then": {"required": ["header_name"]},
    },
    "request-termination": {
        **_record(status_code=STATUS, message=TEXT, content_type=TEXT, body=TEXT, echo=FLAG, trigger=HEADER_NAME),
        "dependentRequired": {"content_type": ["body"]},
        "not": {"required": ["message", "body"]},
    },
    "request-transformer": _record(
        http_method=TEXT, remove=_TRANSFORM, rename=_TRANSFORM, replace=_TRANSFORM, add=_TRANSFORM, append=_TRANSFORM
    ),
}

# These refuse to be configured for one consumer.
NOT_FOR_CONSUMERS = ("acl", "basic-auth", "cors", "key-auth", "post-function", "pre-function")

# A plugin runs before those with a smaller number, wherever it is configured.
PRIORITIES: Dict[str, int] = {
    "pre-function": 1000000,
    "cors": 2000,
    "key-auth": 1250,
    "basic-auth": 1100,
    "ip-restriction": 990,
    "acl": 950,
    "rate-limiting": 910,
    "request-transformer": 801,
    "request-termination": 2,
    "post-function": -1000,
}


def _plugins(names: Any) -> Json:
    choices = [
        _record(("name",), name={"const": name}, config=PLUGIN_CONFIGS[name], enabled=FLAG, tags=TAGS)
        for name in sorted(names)
    ]
    return _list_of({"oneOf": choices})


_ROUTE = _record(
    ("name", "expression", "priority", "protocols"),
    name=NAME,
    expression=TEXT,
    priority={"type": "integer", "minimum": 0, "maximum": 2**46 - 1},
    protocols=_list_of({"enum": PROTOCOLS}, minItems=1, uniqueItems=True),
    https_redirect_status_code={"enum": [426, 301, 302, 307, 308]},
    strip_path=FLAG,
    preserve_host=FLAG,
    request_buffering=FLAG,
    response_buffering=FLAG,
    tags=TAGS,
    service=NAME,
    plugins=_plugins(PLUGIN_CONFIGS),
)

_SERVICE = _record(
    ("name", "host"),
    name=NAME,
    protocol={"enum": PROTOCOLS},
    host={"type": "string", "pattern": r"^[a-z0-9]([a-z0-9.-]*[a-z0-9])?$"},
    port={"type": "integer", "minimum": 0, "maximum": 65535},
    path=PATH,
    retries={"type": "integer", "minimum": 0, "maximum": 32767},
    connect_timeout=MILLISECONDS,
    read_timeout=MILLISECONDS,
    write_timeout=MILLISECONDS,
    enabled=FLAG,
    tags=TAGS,
    routes=_list_of(_ROUTE),
    plugins=_plugins(PLUGIN_CONFIGS),
)

_CONSUMER = _record(
    ("username",),
    username=TEXT,
    custom_id=TEXT,
    tags=TAGS,
    acls=_list_of(_record(("group",), group=TEXT, tags=TAGS)),
    keyauth_credentials=_list_of(_record(("key",), key=TEXT, tags=TAGS, ttl={"type": "integer"})),
    basicauth_credentials=_list_of(_record(("username", "password"), username=TEXT, password=TEXT, tags=TAGS)),
    plugins=_plugins(set(PLUGIN_CONFIGS) - set(NOT_FOR_CONSUMERS)),
)

SCHEMA: Json = _record(
    ("_format_version",),
    _format_version={"enum": ["1.1", "2.1", "3.0"]},
    _transform=FLAG,
    services=_list_of(_SERVICE),
    routes=_list_of(_ROUTE),
    consumers=_list_of(_CONSUMER),
    plugins=_plugins(PLUGIN_CONFIGS),
)

# What code of pre-function and post-function may use with KONG_UNTRUSTED_LUA=sandbox.
SANDBOX_KONG = (
    "kong.request.get_header",
    "kong.request.get_headers",
    "kong.request.get_method",
    "kong.request.get_raw_path",
    "kong.request.get_raw_query",
    "kong.response.clear_header",
    "kong.response.exit",
    "kong.response.get_headers",
    "kong.response.get_source",
    "kong.response.get_status",
    "kong.response.set_header",
    "kong.router.get_route",
    "kong.service.request.clear_header",
    "kong.service.request.set_header",
    "kong.service.request.set_raw_query",
)


class Match(NamedTuple):
    """A route and what its expression matched of the path; prefixes holds every candidate, in order."""

    route: Json
    service: Optional[Json]
    prefixes: List[str]


_TOKEN = re.compile(r'\s*(?:(\(|\)|&&|\|\|)|http\.path\s*(\^=|==)\s*"([^"\\]*)")')


def _tokens(expression: str) -> List[Tuple[str, str]]:
    """(operator, value) pairs: parentheses and logic have no value. Raises ValueError for anything else."""
    found, position = [], 0
    while position < len(expression):
        token = _TOKEN.match(expression, position)
        if token is None:
            raise ValueError("cannot be parsed from here: " + expression[position:])
        found.append((token.group(1) or token.group(2), token.group(3) or ""))
        position = token.end()
    return found


def evaluate(expression: str, path: str) -> Tuple[bool, List[str]]:
    """Whether the path matches, and the values of the predicates that held on the way, in order.

    && binds tighter than ||, both stop as soon as the answer is known, as in Kong's router.
    """
    tokens = _tokens(expression)
    held: List[str] = []

    def predicate(skip: bool) -> bool:
        operator, value = tokens.pop(0)
        if operator == "(":
            result = either(skip)
            if tokens.pop(0)[0] != ")":
                raise ValueError("a parenthesis is not closed: " + expression)
            return result
        if operator not in ("^=", "=="):
            raise ValueError("not a predicate: " + operator)
        holds = path.startswith(value) if operator == "^=" else path == value
        if holds and not skip:
            held.append(value)
        return holds

    def both(skip: bool) -> bool:
        result = predicate(skip)
        while tokens and tokens[0][0] == "&&":
            tokens.pop(0)
            result = predicate(skip or not result) and result
        return result

    def either(skip: bool) -> bool:
        result = both(skip)
        while tokens and tokens[0][0] == "||":
            tokens.pop(0)
            result = both(skip or result) or result
        return result

    answer = either(False)
    if tokens:
        raise ValueError("more than an expression: " + expression)
    return answer, held


def routes_of(config: Json) -> Iterator[Tuple[Json, Optional[Json]]]:
    """Every route with its service (None: it has none)."""
    for route in config["routes"]:
        yield route, None
    for service in config["services"]:
        for route in service["routes"]:
            yield route, service


def find_route(config: Json, path: str) -> Optional[Match]:
    """The route that Kong chooses for a normalised path."""
    for route, service in sorted(routes_of(config), key=lambda pair: -pair[0]["priority"]):
        matches, held = evaluate(route["expression"], path)
        if matches:
            return Match(route, service, held)
    return None


def normalized(path: str) -> str:
    """A path as Kong's router sees it: unreserved characters decoded, dot segments and repeated slashes gone."""

    def decode(found: re.Match[str]) -> str:
        letter = chr(int(found.group(1), 16))
        return found.group(0).upper() if letter in "!*'();:@&=+$,/?%#[]" else letter

    decoded = re.sub("%([0-9A-Fa-f]{2})", decode, path)
    segments: List[str] = []
    parts = re.sub("/+", "/", decoded).split("/")[1:]
    for index, part in enumerate(parts):
        last = index == len(parts) - 1
        if part == "..":
            segments = segments[:-1]
        if part not in (".", ".."):
            segments.append(part)
        elif last:
            segments.append("")
    return re.sub("/+", "/", "/" + "/".join(segments))


def upstream_path(match: Match, path: str, prefix: Optional[str]) -> str:
    """The path for the service, by the rules of path_handling v0. prefix is what strip_path takes away."""
    base = (match.service or {}).get("path") or "/"
    if not match.route["strip_path"]:
        return base + path[1:] if base.endswith("/") else base + ("" if path == "/" else path)
    rest = path[len(prefix or "/") :]
    if not rest:
        if base == "/":
            return "/"
        return base.rstrip("/") + ("/" if len(path) > 1 and path.endswith("/") else "")
    return base.rstrip("/") + "/" + rest.lstrip("/")
