# SPDX-License-Identifier: GPL-3.0-or-later
# This file is private to the multibase.supabase collection; it may change at any time.
"""Kong instead of Envoy: the declarative configuration of an instance, built from the same route table.

``kong_config(spec)`` returns it as plain data (format 3.0, for Kong 3.9 with KONG_ROUTER_FLAVOR=expressions),
``render(spec)`` the same as JSON text, ``environment(spec)`` the variables of the container that depend on the
instance; ``overlays/kong.yml`` of the release has the others. The rules are those that ``_gateway`` describes. Kong was
not run here: facts about it are from its documentation and source.

How Kong comes to the same decisions
    Every row is a route whose expression matches the path and whose priority keeps the order of the table. The rows'
    kinds and what else the Lua functions must know travel as tags of the route; the keys are credentials of consumers,
    and the JWT of a key is in its consumer's request-transformer, which hands it over as the header ``sb-api-key``
    (a client's own is gone by then). So no value of an instance is part of a Lua function.

    ======================= ================ =======================================================================
    plugin                  Kong's priority  what for
    ======================= ================ =======================================================================
    pre-function            1000000          drops untrusted headers, refuses odd requests, finds the key in the query
    cors                    2000             per route
    key-auth, basic-auth    1250, 1100       who it is; a request without a good key becomes ``guest`` where a route is
                                             open and ``nobody`` elsewhere, so that the next two come before a 401
    ip-restriction          990              allow_from
    acl                     950              the rows for the service key only
    rate-limiting           910              requests_per_second
    request-transformer     801              the JWT of a known key
    request-termination     2                401 for ``nobody``, 403 for denied rows, 404 for switched off services
    post-function           -1000            sets Authorization and the like, cleans requests and responses
    ======================= ================ =======================================================================

Different from Envoy (``docs/gateway.md`` has the same list for users)
    - CORS preflights are answered before allow_from and the rate limit, and are not counted; neither is a request with
      the anon key to a row for the service key.
    - The rate limit counts in windows: ``burst`` a second (or requests_per_second), 60 times requests_per_second a
      minute.
    - A row that ends without a slash matches whole segments only: Kong would rewrite ``/realtime/v1/apitenants`` to
      ``/api/tenants``. Denied rows match any path that begins with theirs, as with Envoy.
    - X-Forwarded-Prefix is the matched path where a row rewrites one path; X-Forwarded-Port and -Proto are those of
      Kong's own port, unless a trusted proxy says otherwise. X-Forwarded-Path and Via are sent to services.
    - At most one proxy in front can be trusted; the dashboard's password must be free of control characters.
    - A backslash or ``#`` in the path is refused (400), as are more than 100 headers.
    - ``cors_origins: ["*"]`` answers ``*`` instead of repeating the origin.
    - Times are between two reads; there is no limit for a whole response. A service that does not answer is a 502 or
      504, and messages that Kong itself writes differ.
    - A switched off service answers 404 before the functions' keys and the dashboard's Origin are looked at.
    - nginx's error log has the query when a service cannot be reached; the access log never has.
"""

from __future__ import annotations

import json
import re
from typing import Any, Dict, List

from ._gateway import (
    KEY_HELPERS_LUA,
    LOCAL_ORIGIN_REGEX,
    GatewayError,
    GatewaySpec,
    admitted_networks,
    allowed_origins,
    api_keys,
    issuer_path,
    json_text,
    public_origin,
)
from ._routes import (
    CLUSTER_PORTS,
    DASHBOARD,
    DENIED,
    EXACT,
    FUNCTIONS,
    KEY,
    OPEN,
    ROUTES,
    SERVICE,
    WEBSOCKET,
    Route,
    matched_path,
)

__all__ = ["LUA_FUNCTIONS", "environment", "kong_config", "render"]

Json = Dict[str, Any]

# Consumers of requests without a good key: on open rows, and everywhere else.
GUEST, NOBODY = "guest", "nobody"
# Rate limits have no "all clients together"; every request carries this header with the same value, and it is counted.
COUNTED_HEADER = "x-multibase-counted"

# No origin matches. (An empty list would mean any origin.)
_NO_ORIGIN = "^(?!)$"
_PATH_PATTERN = re.compile(r"[A-Za-z0-9._~/-]+")
_TAG_PATTERN = re.compile(r"[A-Za-z0-9._:\[\]-]+")

_COMMON_LUA = r"""
-- What stands behind "name:" in the tags of the matched route; nil when there is no such tag.
local function tag(name)
  local route = kong.router.get_route()
  for _, entry in ipairs(route and route.tags or {}) do
    local value = string.match(entry, "^" .. name .. ":(.*)$")
    if value ~= nil then
      return value
    end
  end
  return nil
end

local function refuse(status, message)
  return kong.response.exit(status, { message = message, status = status })
end

local function matches_any(name, patterns)
  for _, pattern in ipairs(patterns) do
    if string.find(name, pattern) then
      return true
    end
  end
  return false
end
"""

# Runs before a route is looked for. Kong's own X-Forwarded headers are made from what is left.
_REWRITE_LUA = r"""
local UNTRUSTED = {
  "^forwarded$", "^proxy%-authorization$", "^sb%-api%-key$", "^x%-anonymous%-consumer$", "^x%-real%-ip$",
  "^kong%-", "^x%-consumer%-", "^x%-credential%-", "^x%-envoy%-", "^x%-forwarded%-", "^x%-kong%-", "^x%-multibase%-",
  "^x%-original%-", "^x%-rewrite%-",
}

return function()
  local headers, incomplete = kong.request.get_headers()
  if incomplete then
    return refuse(400, "Bad request")
  end
  for name, value in pairs(headers) do
    if string.find(name, "_", 1, true) then
      return refuse(400, "Bad request")
    end
    -- Kong heeds the scheme only when it trusts who sent it.
    local scheme = name == "x-forwarded-proto" and (value == "http" or value == "https")
    if matches_any(name, UNTRUSTED) and not scheme then
      kong.service.request.clear_header(name)
    end
  end
  kong.service.request.set_header("x-multibase-counted", "1")
end
"""

_BEFORE_LUA = r"""
local ODD = { "%2f", "%5c", "%00", "\\", "#" }

return function()
  local method = kong.request.get_method()
  if method == "TRACE" or method == "CONNECT" then
    return refuse(405, "Method not allowed")
  end
  local path = string.lower(kong.request.get_raw_path())
  for _, sequence in ipairs(ODD) do
    if string.find(path, sequence, 1, true) then
      return refuse(400, "Bad request")
    end
  end
  local access, headers = tag("access"), kong.request.get_headers()
  if headers["upgrade"] ~= nil and access ~= "websocket" then
    return refuse(403, "Forbidden")
  end
  if access == nil or access == "denied" or access == "dashboard" then
    return
  end
  local key = headers["apikey"]
  if type(key) == "table" then
    return refuse(401, "More than one API key")
  end
  if access == "functions" then
    return
  end
  local in_query = query_key("?" .. kong.request.get_raw_query())
  if in_query == false then
    return refuse(401, "More than one API key")
  end
  -- key-auth reads the header only: its own reading of the query is not ours. Nothing but a key may become a header.
  if (key == nil or key == "") and in_query ~= nil and string.find(in_query, "^[%w%._~+/=-]+$") then
    kong.service.request.set_header("apikey", in_query)
    kong.service.request.set_header("x-multibase-key-from-query", "1")
  end
end
"""

_AFTER_LUA = r"""
local KONGS_OWN = { "^x%-anonymous%-consumer$", "^x%-consumer%-", "^x%-credential%-", "^x%-multibase%-" }
local SAFE = { GET = true, HEAD = true, OPTIONS = true }

local function one(value)
  if type(value) == "table" then
    return value[1]
  end
  return value
end

-- Only opaque keys are judged. An opaque bearer token must be the key itself; a known key is handed on as sb-api-key.
local function functions_route(key, authorization, jwt)
  if tag("opaque") == nil or key == "" then
    return
  end
  local token = bearer_token(authorization)
  if token ~= nil and is_opaque(token) and token ~= key then
    return refuse(401, "The API key and the bearer token differ")
  end
  if is_opaque(key) then
    if jwt == nil then
      return refuse(401, "Invalid API key")
    end
    kong.service.request.set_header("sb-api-key", jwt)
  end
end

-- A browser sends the dashboard's password along with a request that another site makes it send.
local function dashboard_route(origin, host)
  if origin == nil or SAFE[kong.request.get_method()] then
    return
  end
  local scheme, authority = string.match(tag("origin") or "", "^(%a+):(.+)$")
  if scheme ~= nil and origin == scheme .. "://" .. authority then
    return
  end
  if host ~= nil and (origin == "http://" .. host or origin == "https://" .. host) then
    return
  end
  return refuse(403, "Cross-site request")
end

local function known_key(access, key, authorization, jwt)
  kong.service.request.set_header("apikey", jwt)
  local in_query, _, parameters = query_key("?" .. kong.request.get_raw_query())
  if in_query ~= nil and (access ~= "open" or in_query == key) then
    if access == "websocket" then
      parameters[#parameters + 1] = "apikey=" .. jwt
    end
    kong.service.request.set_raw_query(table.concat(parameters, "&"))
  end
  if access == "websocket" then
    kong.service.request.set_header("x-api-key", jwt)
    return
  end
  local token = bearer_token(authorization)
  if not string.find(authorization, "%S") or token == "" or (token ~= nil and is_opaque(token)) then
    kong.service.request.set_header("authorization", "Bearer " .. jwt)
  end
end

return function()
  local headers = kong.request.get_headers(1000)
  local access, jwt = tag("access"), one(headers["sb-api-key"])
  local key, authorization = one(headers["apikey"]) or "", one(headers["authorization"]) or ""
  kong.service.request.clear_header("sb-api-key")
  for name in pairs(headers) do
    if matches_any(name, KONGS_OWN) then
      kong.service.request.clear_header(name)
    end
  end
  local name, value = string.match(tag("header") or "", "^([^:]+):(.+)$")
  if name ~= nil then
    kong.service.request.set_header(name, value)
  end
  if access == "dashboard" then
    return dashboard_route(headers["origin"], one(headers["host"]))
  elseif access == "functions" then
    return functions_route(key, authorization, jwt)
  elseif jwt ~= nil then
    return known_key(access, key, authorization, jwt)
  elseif access ~= "open" then
    return refuse(401, "Invalid API key")
  end
  -- A key that nobody knows goes on where it came from.
  if headers["x-multibase-key-from-query"] ~= nil then
    kong.service.request.clear_header("apikey")
  end
end
"""

# What a service says about CORS must not widen what the gateway allows; cors adds its own after this.
_RESPONSE_BEFORE_LUA = r"""
return function()
  if kong.response.get_source() ~= "service" then
    return
  end
  for name in pairs(kong.response.get_headers(1000)) do
    if string.find(name, "^access%-control%-") then
      kong.response.clear_header(name)
    end
  end
end
"""

_RESPONSE_AFTER_LUA = r"""
local HIDDEN = {
  "^server$", "^via$", "^x%-powered%-by$", "^sb%-api%-key$", "^kong%-", "^x%-envoy%-", "^x%-kong%-", "^x%-upstream%-",
}

return function()
  kong.response.clear_header("Server")
  for name in pairs(kong.response.get_headers(1000)) do
    if matches_any(name, HIDDEN) then
      kong.response.clear_header(name)
    end
  end
  if kong.response.get_source() == "service" then
    return
  end
  local status = kong.response.get_status()
  kong.response.clear_header("WWW-Authenticate")
  if status == 401 and tag("access") == "dashboard" then
    kong.response.set_header("WWW-Authenticate", 'Basic realm="Supabase"')
  elseif status == 429 then
    kong.response.set_header("Retry-After", "1")
  end
end
"""

# (plugin, phase) -> the one function that it runs; the same text for every instance.
LUA_FUNCTIONS: Dict[str, Dict[str, str]] = {
    "pre-function": {
        "rewrite": _COMMON_LUA + _REWRITE_LUA,
        "access": KEY_HELPERS_LUA + _COMMON_LUA + _BEFORE_LUA,
        "header_filter": _RESPONSE_BEFORE_LUA,
    },
    "post-function": {
        "access": KEY_HELPERS_LUA + _COMMON_LUA + _AFTER_LUA,
        "header_filter": _COMMON_LUA + _RESPONSE_AFTER_LUA,
    },
}


def _plugin(name: str, **config: Any) -> Json:
    return {"name": name, "config": config}


def _termination(status: int, message: str) -> Json:
    body = json.dumps({"message": message, "status": status}, separators=(",", ":"))
    return _plugin("request-termination", status_code=status, content_type="application/json", body=body)


def _consumers(spec: GatewaySpec) -> List[Json]:
    names = {
        spec.anon_key: "anon",
        spec.service_role_key: "service_role",
        spec.publishable_key: "publishable",
        spec.secret_key: "secret",
    }
    consumers: List[Json] = [
        {
            "username": names[key],
            "keyauth_credentials": [{"key": key}],
            "acls": [{"group": known["role"]}],
            "plugins": [_plugin("request-transformer", add={"headers": ["sb-api-key:" + known["jwt"]]})],
        }
        for key, known in api_keys(spec).items()
    ]
    login = {"username": spec.dashboard_username, "password": spec.dashboard_password}
    consumers.append({"username": "dashboard", "basicauth_credentials": [login]})
    consumers.append({"username": GUEST})
    consumers.append(
        {"username": NOBODY, "acls": [{"group": NOBODY}], "plugins": [_termination(401, "No valid API key or login")]}
    )
    return consumers


def _expression(row: Route, path: str) -> str:
    """The expression of a row. The last predicate that holds is what Kong strips and sends as X-Forwarded-Prefix.

    Without the slash at its end it leads to the same path for the service, and it is the prefix that Storage expects.
    """
    if not _PATH_PATTERN.fullmatch(path):
        raise GatewayError("gateway: not a plain path: {0!r}".format(path))
    if row.access == DENIED or path == "/":
        return 'http.path ^= "{0}"'.format(path)
    if row.match == EXACT:
        return 'http.path ^= "{0}" && http.path == "{0}"'.format(path)
    if path.endswith("/"):
        return 'http.path ^= "{0}" && http.path ^= "{1}"'.format(path, path.rstrip("/"))
    return '(http.path == "{0}" || http.path ^= "{0}/") && http.path ^= "{0}"'.format(path)


def _tags(row: Route, spec: GatewaySpec) -> List[str]:
    tags = ["access:" + row.access]
    tags += ["header:{0}:{1}".format(name, value) for name, value in row.headers]
    if row.access == FUNCTIONS and (spec.publishable_key or spec.secret_key):
        tags.append("opaque:yes")
    if row.access == DASHBOARD:
        # Tags may not have slashes.
        tags.append("origin:" + public_origin(spec)[0].replace("://", ":"))
    for tag in tags:
        if not _TAG_PATTERN.fullmatch(tag):
            raise GatewayError("gateway: not a tag: {0!r}".format(tag))
    return tags


def _cors(origins: List[str]) -> Json:
    return _plugin(
        "cors",
        # Regular expressions even for one origin: Kong sends a single plain one to every other origin too.
        origins=origins or [_NO_ORIGIN],
        methods=["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"],
        exposed_headers=["*"],
        credentials=False,
        max_age=3600,
        preflight_continue=False,
    )


def _key_auth(anonymous: str) -> Json:
    return _plugin(
        "key-auth",
        key_names=["apikey"],
        key_in_header=True,
        key_in_query=False,
        key_in_body=False,
        hide_credentials=False,
        anonymous=anonymous,
    )


def _route_plugins(row: Route, spec: GatewaySpec) -> List[Json]:
    if row.access == DENIED:
        return [_termination(403, "Forbidden")]
    if row.access == DASHBOARD:
        plugins = [_plugin("basic-auth", hide_credentials=True, anonymous=NOBODY)]
    else:
        allowed = allowed_origins(spec)
        origins = list(allowed) if allowed == ("*",) else ["^" + re.escape(origin) + "$" for origin in allowed]
        if row.service == "meta":
            origins = ["^" + re.escape(public_origin(spec)[0]) + "$", "^" + LOCAL_ORIGIN_REGEX + "$"]
        plugins = [_cors(origins), _key_auth(GUEST if row.access in (OPEN, FUNCTIONS) else NOBODY)]
    groups = {KEY: ["anon", "service_role"], WEBSOCKET: ["anon", "service_role"], SERVICE: ["service_role"]}
    if row.access in groups:
        # nobody passes here to be counted before it is refused.
        plugins.append(_plugin("acl", allow=[*groups[row.access], NOBODY], hide_groups_header=True))
    if row.service not in spec.services:
        plugins.append(_termination(404, "The service {0} is switched off".format(row.service)))
    return plugins


def _route(row: Route, priority: int, spec: GatewaySpec) -> Json:
    path = matched_path(row, issuer_path(spec.issuer) or "")
    # Long answers flow instead of being collected; a WebSocket does in any case.
    streams = row.idle_timeout > 0 and row.access != WEBSOCKET
    return {
        "name": row.name,
        "expression": _expression(row, path),
        "priority": priority,
        "protocols": ["http", "https"],
        "strip_path": bool(row.rewrite),
        # Realtime finds its tenant in Host; the others see the client's.
        "preserve_host": not row.host,
        "request_buffering": not streams,
        "response_buffering": not streams,
        "tags": _tags(row, spec),
        "plugins": _route_plugins(row, spec),
    }


def _service(row: Route, route: Json) -> Json:
    milliseconds = (row.idle_timeout or row.timeout) * 1000
    return {
        "name": row.name,
        "protocol": "http",
        "host": row.host or row.service,
        "port": CLUSTER_PORTS[row.service],
        "path": row.rewrite.rstrip("/") or "/",
        "connect_timeout": 5000,
        "read_timeout": milliseconds,
        "write_timeout": milliseconds,
        "retries": 0,
        "routes": [route],
    }


def _global_plugins(spec: GatewaySpec) -> List[Json]:
    plugins = [
        _plugin(name, **{phase: [code] for phase, code in functions.items()})
        for name, functions in LUA_FUNCTIONS.items()
    ]
    networks = admitted_networks(spec)
    if networks:
        plugins.append(_plugin("ip-restriction", allow=list(networks), status=403, message="Forbidden"))
    if spec.requests_per_second:
        limits = {"second": max(spec.burst, spec.requests_per_second)}
        if spec.burst > spec.requests_per_second:
            limits["minute"] = max(60 * spec.requests_per_second, spec.burst)
        plugins.append(
            _plugin(
                "rate-limiting",
                **limits,
                limit_by="header",
                header_name=COUNTED_HEADER,
                policy="local",
                fault_tolerant=True,
                hide_client_headers=True,
                error_code=429,
                error_message="Too many requests",
            )
        )
    return plugins


def _check(spec: GatewaySpec) -> None:
    problems = []
    if spec.trusted_hops > 1:
        problems.append("Kong can trust one proxy in front at most; use Envoy for more (trusted_hops)")
    if any(ord(letter) < 32 or ord(letter) == 127 for letter in spec.dashboard_password):
        problems.append("Kong cannot compare a dashboard_password that has control characters")
    if problems:
        raise GatewayError("gateway: " + "; ".join(problems))


def kong_config(spec: GatewaySpec) -> Json:
    """The whole declarative configuration as plain data. Raises GatewayError for what Kong cannot do."""
    _check(spec)
    services: List[Json] = []
    routes: List[Json] = []
    for index, row in enumerate(ROUTES):
        route = _route(row, len(ROUTES) - index, spec)
        if row.service and row.service in spec.services:
            services.append(_service(row, route))
        else:
            routes.append(route)
    return {
        "_format_version": "3.0",
        "_transform": True,
        "consumers": _consumers(spec),
        "plugins": _global_plugins(spec),
        "routes": routes,
        "services": services,
    }


def render(spec: GatewaySpec) -> str:
    """The configuration as JSON text; equal specs give equal text. Raises GatewayError for what Kong cannot do."""
    return json_text(kong_config(spec)) + "\n"


def environment(spec: GatewaySpec) -> Dict[str, str]:
    """Return the variables of Kong's container that depend on the instance; none of them is a secret.

    With a proxy in front the client is who the last entry of X-Forwarded-For names, whoever the proxy is: where clients
    can reach the port past the proxy, they can name anybody. The same holds for Envoy.
    """
    if not spec.trusted_hops:
        return {}
    return {
        "KONG_REAL_IP_HEADER": "X-Forwarded-For",
        "KONG_REAL_IP_RECURSIVE": "off",
        "KONG_TRUSTED_IPS": "0.0.0.0/0,::/0",
    }
