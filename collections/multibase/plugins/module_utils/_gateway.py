# SPDX-License-Identifier: GPL-3.0-or-later
"""The API gateway of an instance: what it has to know, and the Envoy configuration built from the route table.

``envoy_config(spec)`` returns a complete static Envoy bootstrap as plain data, ``render(spec)`` the same as JSON text.
``_kong.render(spec)`` does the same for Kong. Nothing here reads or writes a file. No value of an instance is ever
pasted into program text: the Lua filter is the constant ``KEY_CHECK_LUA``, and what it has to know (keys, kind of
route) reaches it as route metadata.

How a request is decided
    The API key is the ``apikey`` header, else the ``apikey`` query parameter. ``Authorization: Bearer <key>`` alone is
    not a key: upstream does not take it either, and a client that relied on it would fail elsewhere. More than one
    ``apikey`` header, or query parameters that differ, is refused (401) instead of picking one.

    ========== ====================================================================================================
    open       no key needed; a known key is translated all the same (Storage accepts JWTs only)
    key        a known key, else 401
    service    the service or secret key; 401 without a known key, 403 with the anon or publishable key
    websocket  like ``key``; the JWT goes to ``x-api-key``, and WebSocket upgrades are allowed here and nowhere else
    functions  see ``KEY_CHECK_LUA``: only opaque (``sb_``) keys are judged, the rest is the function's own business
    dashboard  HTTP basic authentication; changes are refused when ``Origin`` names another site
    denied     403
    ========== ====================================================================================================

    A known key becomes its internal JWT: the key itself for the two legacy keys; for an opaque key the asymmetric JWT
    when both opaque keys and both asymmetric JWTs are set, otherwise the legacy JWT of the same role. The JWT replaces
    the ``apikey`` header, and becomes ``Authorization: Bearer`` unless the client sent a real one (anything but empty
    or ``Bearer sb_...``). A known key in the query is taken out of the URL, so that it does not end up in a service's
    log or as a filter in PostgREST; on the websocket route it is replaced by the JWT, because Realtime reads the
    parameter when it knows no ``x-api-key``.

Client headers that services trust
    ``sb-api-key``, ``forwarded``, ``x-envoy-*``, ``x-consumer-*``, ``x-forwarded-*`` and their like are dropped before
    anything looks at the request. X-Forwarded-Proto is set from the public URL, X-Forwarded-Host from the request's
    Host, X-Forwarded-Port from its port (else the public URL's) because Storage rebuilds the signed host of S3
    requests from those two, X-Forwarded-Prefix from the route. X-Forwarded-For names one address: the peer, or with
    ``trusted_hops`` the address which that many proxies in front vouch for. TRACE is refused (405).

Who may ask at all, and how often
    ``allow_from`` (403 for other addresses) and ``requests_per_second`` (429 past it) come before everything else, CORS
    preflights and the dashboard included; such an answer therefore has no CORS headers, and a browser shows it to a
    page as a failed request. Both look at what X-Forwarded-For says above, and are absent when they are not asked for.
    The bucket is one for the whole gateway, whatever the number of its threads and clients.

A service that is switched off
    has no cluster. Its routes answer 404 with the service's name, after the same checks as if it ran.
"""

from __future__ import annotations

import base64
import hashlib
import ipaddress
import json
import re
from dataclasses import dataclass, field
from typing import Any, Dict, FrozenSet, List, Optional, Tuple, Union
from urllib.parse import urlsplit

from ._errors import MultibaseError
from ._routes import (
    CLUSTER_PORTS,
    DASHBOARD,
    DENIED,
    FUNCTIONS,
    ROUTED_SERVICES,
    ROUTES,
    STREAM_IDLE_TIMEOUT,
    WEBSOCKET,
    Route,
    matched_path,
)

__all__ = [
    "KEY_CHECK_LUA",
    "KEY_HELPERS_LUA",
    "LOCAL_ORIGIN_REGEX",
    "GatewayError",
    "GatewaySpec",
    "admitted_networks",
    "allowed_origins",
    "api_keys",
    "envoy_config",
    "issuer_path",
    "json_text",
    "parse_network",
    "public_origin",
    "render",
    "url_origin",
]

Json = Dict[str, Any]

LISTEN_PORT = 8000
ADMIN_PORT = 9901

# Per connection; also bounds what one slow client can make the gateway hold.
BUFFER_LIMIT_BYTES = 32 * 1024
# Upstream allows 30000 for one stack on a host of its own. Here many stacks share a host.
MAX_DOWNSTREAM_CONNECTIONS = 10000
# Node closes idle connections after 5 s; reusing one at that moment would answer 503.
UPSTREAM_IDLE_TIMEOUT = "4s"


class GatewayError(MultibaseError):
    """A GatewaySpec that cannot be turned into a safe configuration; the message lists every reason, no secrets."""


# How both gateways read keys.
KEY_HELPERS_LUA = r"""
local function is_opaque(value)
  return string.sub(value, 1, 3) == "sb_"
end

-- The token of "Bearer <token>" (the scheme in any case), "" when the token is missing, nil for any other scheme.
local function bearer_token(authorization)
  local scheme, rest = string.match(authorization, "^%s*(%S+)(.*)$")
  if scheme == nil or string.lower(scheme) ~= "bearer" then
    return nil
  end
  return string.match(rest, "^%s*(.-)%s*$")
end

local function percent_decode(text)
  return (string.gsub(text, "%%(%x%x)", function(hex)
    return string.char(tonumber(hex, 16))
  end))
end

-- Returns the key in the query (nil: none; false: several that differ), the path without its query, and the list of
-- the other parameters.
local function query_key(path)
  local question = string.find(path, "?", 1, true)
  if question == nil then
    return nil, path, {}
  end
  local found, others = nil, {}
  for pair in string.gmatch(string.sub(path, question + 1), "[^&]+") do
    local name, value = string.match(pair, "^([^=]*)=?(.*)$")
    if percent_decode(name) ~= "apikey" then
      others[#others + 1] = pair
    else
      value = percent_decode(value)
      if found ~= nil and found ~= value then
        found = false
      else
        found = value
      end
    end
  end
  return found, string.sub(path, 1, question - 1), others
end
"""

# Runs on every request that has passed the normalisation of its path. It fails closed: Envoy lets a request pass when
# a script breaks, so the decision runs under pcall and an error becomes a 500; a route without metadata is a 404.
KEY_CHECK_LUA = (
    KEY_HELPERS_LUA
    + r"""
local UNAUTHORIZED, FORBIDDEN = "401", "403"
local SAFE = { GET = true, HEAD = true, OPTIONS = true }

local function set(headers, name, value)
  headers:remove(name)
  headers:add(name, value)
end

-- Only opaque keys are judged. An opaque bearer token must be the key itself; a known key is handed on as sb-api-key.
local function functions_route(headers, key, known, opaque_in_use)
  if not opaque_in_use or key == "" then
    return nil
  end
  local token = bearer_token(headers:get("authorization") or "")
  if token ~= nil and is_opaque(token) and token ~= key then
    return UNAUTHORIZED, "The API key and the bearer token differ"
  end
  if is_opaque(key) then
    if known == nil then
      return UNAUTHORIZED, "Invalid API key"
    end
    set(headers, "sb-api-key", known.jwt)
  end
  return nil
end

-- A browser sends the dashboard's password along with a request that another site makes it send.
local function dashboard_route(headers, public_origin)
  local origin = headers:get("origin")
  if origin == nil or SAFE[headers:get(":method")] then
    return nil
  end
  local authority = headers:get(":authority")
  if origin == public_origin or origin == "http://" .. authority or origin == "https://" .. authority then
    return nil
  end
  return FORBIDDEN, "Cross-site request"
end

local function admit(headers, metadata)
  local access, keys = metadata:get("access"), metadata:get("keys")
  if access == "denied" then
    return nil
  end
  if access == nil or keys == nil then
    return "404", "Not found"
  end
  local port = string.match(headers:get(":authority") or "", ":(%d+)$") or metadata:get("public_port")
  set(headers, "x-forwarded-port", port)
  if access == "dashboard" then
    return dashboard_route(headers, metadata:get("public_origin"))
  end

  if headers:getNumValues("apikey") > 1 then
    return UNAUTHORIZED, "More than one API key"
  end
  local key = headers:get("apikey") or ""
  if access == "functions" then
    return functions_route(headers, key, keys[key], metadata:get("opaque_keys"))
  end

  local in_query, path, parameters = query_key(headers:get(":path"))
  if in_query == false then
    return UNAUTHORIZED, "More than one API key"
  end
  if key == "" then
    key = in_query or ""
  end
  local known = keys[key]
  if known == nil then
    if access == "open" then
      return nil
    elseif key == "" then
      return UNAUTHORIZED, "No API key found in request"
    end
    return UNAUTHORIZED, "Invalid API key"
  end
  if access == "service" and known.role ~= "service_role" then
    return FORBIDDEN, "This API key may not use this endpoint"
  end

  set(headers, "apikey", known.jwt)
  if in_query ~= nil and (access ~= "open" or keys[in_query] ~= nil) then
    if access == "websocket" then
      parameters[#parameters + 1] = "apikey=" .. known.jwt
    end
    if #parameters > 0 then
      path = path .. "?" .. table.concat(parameters, "&")
    end
    headers:replace(":path", path)
  end
  if access == "websocket" then
    set(headers, "x-api-key", known.jwt)
    return nil
  end
  local authorization = headers:get("authorization") or ""
  local token = bearer_token(authorization)
  if not string.find(authorization, "%S") or token == "" or (token ~= nil and is_opaque(token)) then
    set(headers, "authorization", "Bearer " .. known.jwt)
  end
  return nil
end

local function decide(handle)
  local metadata = handle:metadata()
  local status, message = admit(handle:headers(), metadata)
  local off = metadata:get("switched_off")
  if status == nil and off ~= nil then
    return "404", "The service " .. off .. " is switched off"
  end
  return status, message
end

function envoy_on_request(handle)
  local fine, status, message = pcall(decide, handle)
  if not fine then
    status, message = "500", "Internal error"
  end
  if status ~= nil then
    handle:respond({ [":status"] = status }, message)
  end
end
"""
)

_LUA = "envoy.filters.http.lua"
_CORS = "envoy.filters.http.cors"
_HEADERS = "envoy.filters.http.header_mutation"
_BASIC_AUTH = "envoy.filters.http.basic_auth"
_ADDRESSES = "envoy.filters.http.rbac"
_LIMIT = "envoy.filters.http.local_ratelimit"
_TYPE = "type.googleapis.com/"
# Envoy asks for the name of a runtime setting where ours never changes.
_NO_RUNTIME_KEY = "multibase.never_set"

_KEY_PATTERN = re.compile(r"[A-Za-z0-9._~+/=-]{1,4096}")
_HOST_PATTERN = re.compile(r"[a-z0-9]([a-z0-9.-]*[a-z0-9])?|\[[0-9a-f:.]+\]")
_ISSUER_PATH_PATTERN = re.compile(r"(/[A-Za-z0-9._~-]+)*")
LOCAL_ORIGIN_REGEX = r"https?://(localhost|127\.0\.0\.1)(:[0-9]+)?"
_DEFAULT_PORTS = {"http": 80, "https": 443}
_MAX_RATE = 1000000


@dataclass(frozen=True)
class GatewaySpec:
    """What the gateway of one instance has to know. Raises GatewayError (all reasons at once) when it does not hold.

    services: keys of the services that run; keys the gateway does not route to (db, supavisor, ...) are ignored.
    The four optional keys may be empty. public_url and issuer are absolute http(s) URLs. cors_origins: exact origins,
    or ("*",) for any. trusted_hops: proxies in front that append to X-Forwarded-For (0 when clients connect directly).

    requests_per_second: for all clients together; 0 is no limit. burst: how many may come at once after a pause, at
    least requests_per_second; 0 means as many as that. allow_from: addresses and networks (CIDR, IPv4 or IPv6) that may
    use the gateway; empty means everyone. subnet: the instance's own IPv4 network. Its containers are always let in, so
    that Studio and functions reach the APIs; its first address, behind which the engine may hide clients, is not.
    """

    services: FrozenSet[str]
    anon_key: str = field(repr=False)
    service_role_key: str = field(repr=False)
    dashboard_username: str
    dashboard_password: str = field(repr=False)
    public_url: str
    issuer: str
    publishable_key: str = field(default="", repr=False)
    secret_key: str = field(default="", repr=False)
    anon_key_asymmetric: str = field(default="", repr=False)
    service_role_key_asymmetric: str = field(default="", repr=False)
    cors_origins: Tuple[str, ...] = ()
    trusted_hops: int = 0
    requests_per_second: int = 0
    burst: int = 0
    allow_from: Tuple[str, ...] = ()
    subnet: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "services", frozenset(self.services))
        object.__setattr__(self, "cors_origins", tuple(self.cors_origins))
        object.__setattr__(self, "allow_from", tuple(self.allow_from))
        problems = _problems(self)
        if problems:
            raise GatewayError("gateway: " + "; ".join(problems))


def _problems(spec: GatewaySpec) -> List[str]:
    problems: List[str] = []
    for name in ("anon_key", "service_role_key"):
        if not _KEY_PATTERN.fullmatch(getattr(spec, name)):
            problems.append(name + " must be a JWT")
    for name in ("anon_key_asymmetric", "service_role_key_asymmetric"):
        if getattr(spec, name) and not _KEY_PATTERN.fullmatch(getattr(spec, name)):
            problems.append(name + " must be a JWT or empty")
    for name in ("publishable_key", "secret_key"):
        value = getattr(spec, name)
        if value and not (value.startswith("sb_") and _KEY_PATTERN.fullmatch(value)):
            problems.append(name + " must start with sb_ or be empty")
    keys = [key for key in (spec.anon_key, spec.service_role_key, spec.publishable_key, spec.secret_key) if key]
    if len(set(keys)) != len(keys):
        problems.append("two API keys are equal")

    # The user list of Envoy's basic authentication has one user:hash a line, and "#" starts a comment.
    username = spec.dashboard_username
    if not (username and username.isascii() and username.isprintable()) or ":" in username or username[0] == "#":
        problems.append("dashboard_username must be printable ASCII without a colon, and not start with #")
    if not spec.dashboard_password:
        problems.append("dashboard_password is empty")
    elif not _is_unicode(spec.dashboard_password):
        problems.append("dashboard_password is not valid Unicode")

    if url_origin(spec.public_url) is None or not _is_bare(spec.public_url):
        problems.append("public_url must be http(s)://host[:port]")
    if url_origin(spec.issuer) is None or issuer_path(spec.issuer) is None:
        problems.append("issuer must be an http(s) URL with a plain path")
    if spec.cors_origins != ("*",):
        for origin in spec.cors_origins:
            if url_origin(origin) is None or not _is_bare(origin):
                problems.append("not an origin: {0!r} (http(s)://host[:port], or * alone)".format(origin))
    if spec.trusted_hops < 0:
        problems.append("trusted_hops is negative")

    for name in ("requests_per_second", "burst"):
        if not 0 <= getattr(spec, name) <= _MAX_RATE:
            problems.append("{0} must be between 0 and {1}".format(name, _MAX_RATE))
    if spec.burst and not spec.requests_per_second:
        problems.append("burst needs requests_per_second")
    elif 0 < spec.burst < spec.requests_per_second:
        problems.append("burst is less than requests_per_second")
    for text in spec.allow_from:
        if parse_network(text) is None:
            problems.append("not an address or network: {0!r} (203.0.113.7 or 203.0.113.0/24)".format(text))
    if spec.subnet and not isinstance(parse_network(spec.subnet), ipaddress.IPv4Network):
        problems.append("subnet is not an IPv4 network: {0!r}".format(spec.subnet))
    return problems


def parse_network(text: str) -> Optional[Union[ipaddress.IPv4Network, ipaddress.IPv6Network]]:
    """The network that the text names, an address being a network of one; None for anything else.

    10.0.0.1/8 is none: whoever wrote it meant another address, or another length.
    """
    if not isinstance(text, str) or "%" in text:
        return None
    try:
        return ipaddress.ip_network(text)
    except ValueError:
        return None


def _is_unicode(text: str) -> bool:
    """False for lone surrogates, which UTF-8 (and so Envoy's JSON reader) has no form for."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def url_origin(url: str) -> Optional[Tuple[str, int]]:
    """The (origin, port) of an http(s) URL, the origin as a browser writes it; None when it has none."""
    if not url.isascii() or not url.isprintable() or " " in url:
        return None
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        return None
    scheme = parts.scheme
    host = parts.hostname or ""
    if ":" in host:
        host = "[" + host + "]"
    if scheme not in _DEFAULT_PORTS or "@" in parts.netloc or not _HOST_PATTERN.fullmatch(host):
        return None
    effective = _DEFAULT_PORTS[scheme] if port is None else port
    suffix = "" if effective == _DEFAULT_PORTS[scheme] else ":" + str(effective)
    return scheme + "://" + host + suffix, effective


def _is_bare(url: str) -> bool:
    """True for a URL that is an origin and nothing more (a final slash apart)."""
    parts = urlsplit(url)
    return parts.path in ("", "/") and "?" not in url and "#" not in url


def issuer_path(issuer: str) -> Optional[str]:
    """The path of the issuer without a final slash; None when it is not plain segments (then no route can match it)."""
    path = urlsplit(issuer).path.rstrip("/")
    if "?" in issuer or "#" in issuer:
        return None
    if not _ISSUER_PATH_PATTERN.fullmatch(path) or any(part in (".", "..") for part in path.split("/")):
        return None
    return path


def public_origin(spec: GatewaySpec) -> Tuple[str, int]:
    found = url_origin(spec.public_url)
    if found is None:
        raise GatewayError("gateway: public_url must be http(s)://host[:port]")
    return found


def allowed_origins(spec: GatewaySpec) -> Tuple[str, ...]:
    """The origins as browsers write them, each once and in order; ("*",) for any."""
    if spec.cors_origins == ("*",):
        return spec.cors_origins
    found = [url_origin(entry) for entry in spec.cors_origins]
    return tuple(sorted({entry[0] for entry in found if entry}))


def admitted_networks(spec: GatewaySpec) -> Tuple[str, ...]:
    """The networks (CIDR) that may use the gateway, the instance's own containers included; empty for everyone."""
    if not spec.allow_from:
        return ()
    networks = [str(parse_network(text)) for text in spec.allow_from]
    if spec.subnet:
        own = ipaddress.IPv4Network(spec.subnet)
        if own.num_addresses > 2:
            networks += map(str, ipaddress.summarize_address_range(own.network_address + 2, own.broadcast_address))
    return tuple(dict.fromkeys(networks))


def api_keys(spec: GatewaySpec) -> Dict[str, Dict[str, str]]:
    """API key -> its ``role`` (anon or service_role) and the ``jwt`` that services get for it."""
    translate = bool(
        spec.publishable_key and spec.secret_key and spec.anon_key_asymmetric and spec.service_role_key_asymmetric
    )
    keys = {
        spec.anon_key: {"role": "anon", "jwt": spec.anon_key},
        spec.service_role_key: {"role": "service_role", "jwt": spec.service_role_key},
    }
    if spec.publishable_key:
        jwt = spec.anon_key_asymmetric if translate else spec.anon_key
        keys[spec.publishable_key] = {"role": "anon", "jwt": jwt}
    if spec.secret_key:
        jwt = spec.service_role_key_asymmetric if translate else spec.service_role_key
        keys[spec.secret_key] = {"role": "service_role", "jwt": jwt}
    return keys


def _typed(name: str, type_name: str, **settings: Any) -> Json:
    return {"name": name, "typed_config": {"@type": _TYPE + type_name, **settings}}


def _set_header(name: str, value: str) -> Json:
    return {"header": {"key": name, "value": value}, "append_action": "OVERWRITE_IF_EXISTS_OR_ADD"}


def _cors_policy(origins: List[Json]) -> Json:
    """Credentials are never allowed: the APIs take keys from headers, not from cookies.

    "*" does not cover Authorization in browsers, so it is named beside it.
    """
    return {
        "@type": _TYPE + "envoy.extensions.filters.http.cors.v3.CorsPolicy",
        "allow_origin_string_match": origins,
        "allow_methods": "GET,HEAD,POST,PUT,PATCH,DELETE,OPTIONS",
        "allow_headers": "authorization,*",
        "expose_headers": "*",
        "max_age": "3600",
        "forward_not_matching_preflights": False,
    }


def _refused_method() -> Json:
    """TRACE would show the caller what the gateway adds to a request. (CONNECT has no path and matches no route.)"""
    return {
        "name": "method-trace",
        "match": {"prefix": "/", "headers": [{"name": ":method", "string_match": {"exact": "TRACE"}}]},
        "metadata": {"filter_metadata": {_LUA: {"access": DENIED}}},
        "typed_per_filter_config": {_BASIC_AUTH: _disabled()},
        "direct_response": {"status": 405, "body": {"inline_string": "Method not allowed"}},
    }


def _disabled() -> Json:
    return {"@type": _TYPE + "envoy.config.route.v3.FilterConfig", "disabled": True}


def _route(row: Route, spec: GatewaySpec) -> Json:
    origin, port = public_origin(spec)
    metadata: Json = {"access": row.access}
    filters: Json = {}
    if row.access != DENIED:
        metadata["keys"] = api_keys(spec)
        metadata["public_port"] = str(port)
    if row.access == FUNCTIONS:
        metadata["opaque_keys"] = bool(spec.publishable_key or spec.secret_key)
    if row.access == DASHBOARD:
        metadata["public_origin"] = origin
        filters[_CORS] = _disabled()
        filters[_HEADERS] = _constant_realm()
    else:
        filters[_BASIC_AUTH] = _disabled()
    if row.service == "meta":
        filters[_CORS] = _cors_policy([{"exact": origin}, {"safe_regex": {"regex": LOCAL_ORIGIN_REGEX}}])

    route: Json = {
        "name": row.name,
        "match": {row.match: matched_path(row, issuer_path(spec.issuer) or "")},
        "metadata": {"filter_metadata": {_LUA: metadata}},
        "typed_per_filter_config": filters,
    }
    if row.access == DENIED:
        route["direct_response"] = {"status": 403, "body": {"inline_string": "Forbidden"}}
        return route

    action: Json = {"cluster": row.service, "timeout": _seconds(row.timeout)}
    if row.service not in spec.services:
        # There is no such cluster. The key check answers 404 in its place, so that browsers see it too: the CORS filter
        # leaves direct responses alone.
        metadata["switched_off"] = row.service
        action["cluster_not_found_response_code"] = "NOT_FOUND"
    if row.rewrite:
        action["prefix_rewrite"] = row.rewrite
    if row.idle_timeout:
        action["idle_timeout"] = _seconds(row.idle_timeout)
    if row.host:
        action["host_rewrite_literal"] = row.host
    if row.access == WEBSOCKET:
        action["upgrade_configs"] = [{"upgrade_type": "websocket", "enabled": True}]
    route["route"] = action
    headers = [_set_header(name, value) for name, value in row.headers]
    if row.forwarded_prefix:
        headers.append(_set_header("X-Forwarded-Prefix", row.forwarded_prefix))
    if headers:
        route["request_headers_to_add"] = headers
    if row.access == DASHBOARD:
        route["request_headers_to_remove"] = ["authorization"]
    return route


def _virtual_host(spec: GatewaySpec) -> Json:
    origin, _port = public_origin(spec)
    allowed = allowed_origins(spec)
    origins: List[Json] = [{"exact": name} for name in allowed]
    if allowed == ("*",):
        origins = [{"safe_regex": {"regex": ".*"}}]
    return {
        "name": "instance",
        "domains": ["*"],
        "routes": [_refused_method()] + [_route(row, spec) for row in ROUTES],
        "typed_per_filter_config": {_CORS: _cors_policy(origins)},
        "request_headers_to_add": [
            _set_header("X-Forwarded-For", "%DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT%"),
            _set_header("X-Forwarded-Host", "%REQ(:authority)%"),
            _set_header("X-Forwarded-Proto", urlsplit(origin).scheme),
        ],
        "request_headers_to_remove": ["x-envoy-external-address", "x-envoy-internal"],
        # What a service says about CORS must not widen what the gateway allows.
        "response_headers_to_remove": [
            "access-control-allow-credentials",
            "access-control-allow-headers",
            "access-control-allow-methods",
            "access-control-allow-origin",
            "access-control-allow-private-network",
            "access-control-expose-headers",
            "access-control-max-age",
        ],
    }


def _untrusted_request_headers(trusted_hops: int) -> List[Json]:
    """Client headers that are dropped before anything else sees the request."""
    # With a proxy in front X-Forwarded-For is read (its last entries only), so it has to survive this step.
    forwarded: Json = {"prefix": "x-forwarded-"}
    if trusted_hops:
        forwarded = {"safe_regex": {"regex": r"x-forwarded-(|[^f].*|f|f[^o].*|fo|fo[^r].*|for.+)"}}
    matchers: List[Json] = [
        forwarded,
        {"exact": "forwarded"},
        {"exact": "sb-api-key"},
        {"exact": "x-anonymous-consumer"},
        {"exact": "x-real-ip"},
        {"prefix": "x-consumer-"},
        {"prefix": "x-credential-"},
        {"prefix": "x-envoy-"},
        {"prefix": "x-kong-"},
        {"prefix": "x-original-"},
        {"prefix": "x-rewrite-"},
    ]
    return [{"remove_on_match": {"key_matcher": matcher}} for matcher in matchers]


def _response_mutations() -> List[Json]:
    """No response tells what is behind the gateway; caches learn that responses depend on Origin."""
    matchers: List[Json] = [
        {"exact": "server"},
        {"exact": "via"},
        {"exact": "x-powered-by"},
        {"exact": "sb-api-key"},
        {"prefix": "x-envoy-"},
        {"prefix": "x-kong-"},
        {"prefix": "x-upstream-"},
    ]
    mutations: List[Json] = [{"remove_on_match": {"key_matcher": matcher}} for matcher in matchers]
    vary = {"header": {"key": "vary", "value": "Origin"}, "append_action": "APPEND_IF_EXISTS_OR_ADD"}
    mutations.append({"append": vary})
    return mutations


def _constant_realm() -> Json:
    """Envoy names the requested URL as the realm; with one realm a browser asks once."""
    realm: Json = {"header": {"key": "www-authenticate", "value": 'Basic realm="Supabase"'}}
    realm["append_action"] = "OVERWRITE_IF_EXISTS"
    return {
        "@type": _TYPE + "envoy.extensions.filters.http.header_mutation.v3.HeaderMutationPerRoute",
        "mutations": {"response_mutations": [{"append": realm}]},
    }


def _seconds(number: int) -> str:
    return str(number) + "s"


def _address_filter(networks: Tuple[str, ...]) -> Json:
    principals: List[Json] = []
    for network in networks:
        address, _slash, length = network.partition("/")
        principals.append({"remote_ip": {"address_prefix": address, "prefix_len": int(length)}})
    policy = {"permissions": [{"any": True}], "principals": principals}
    rules = {"action": "ALLOW", "policies": {"allow-from": policy}}
    return _typed(_ADDRESSES, "envoy.extensions.filters.http.rbac.v3.RBAC", rules=rules)


def _rate_filter(spec: GatewaySpec) -> Json:
    always = {"default_value": {"numerator": 100, "denominator": "HUNDRED"}, "runtime_key": _NO_RUNTIME_KEY}
    return _typed(
        _LIMIT,
        "envoy.extensions.filters.http.local_ratelimit.v3.LocalRateLimit",
        stat_prefix="gateway",
        token_bucket={
            "max_tokens": spec.burst or spec.requests_per_second,
            "tokens_per_fill": spec.requests_per_second,
            "fill_interval": "1s",
        },
        filter_enabled=always,
        filter_enforced=always,
        response_headers_to_add=[_set_header("Retry-After", "1")],
    )


def _http_filters(spec: GatewaySpec) -> List[Json]:
    # Envoy knows {SHA} only. The password is long and random, and the file stays in a directory that only root enters.
    digest = hashlib.sha1(spec.dashboard_password.encode("utf-8"), usedforsecurity=False).digest()
    user = spec.dashboard_username + ":{SHA}" + base64.b64encode(digest).decode("ascii")
    extension = "envoy.extensions.filters.http."
    networks = admitted_networks(spec)
    return [
        # Responses pass the filters from the last to the first: the clean-up comes last.
        _typed(
            _HEADERS,
            extension + "header_mutation.v3.HeaderMutation",
            mutations={"response_mutations": _response_mutations()},
        ),
        *([_address_filter(networks)] if networks else []),
        *([_rate_filter(spec)] if spec.requests_per_second else []),
        _typed(_CORS, extension + "cors.v3.Cors"),
        _typed(_BASIC_AUTH, extension + "basic_auth.v3.BasicAuth", users={"inline_string": user}),
        # The decision belongs to the route that was matched: changed headers must not lead to another route.
        _typed(
            _LUA,
            extension + "lua.v3.Lua",
            default_source_code={"inline_string": KEY_CHECK_LUA},
            clear_route_cache=False,
        ),
        _typed("envoy.filters.http.router", extension + "router.v3.Router", suppress_envoy_headers=True),
    ]


def _access_log() -> Json:
    """One JSON line a request on stdout. Never the query string (it may hold a key or a token), never a header."""
    return _typed(
        "envoy.access_loggers.stdout",
        "envoy.extensions.access_loggers.stream.v3.StdoutAccessLog",
        log_format={
            "json_format": {
                "time": "%START_TIME%",
                "client": "%DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT%",
                "method": "%REQ(:METHOD)%",
                "path": "%PATH(NQ:ORIG_OR_PATH)%",
                "route": "%ROUTE_NAME%",
                "status": "%RESPONSE_CODE%",
                "flags": "%RESPONSE_FLAGS%",
                "received": "%BYTES_RECEIVED%",
                "sent": "%BYTES_SENT%",
                "milliseconds": "%DURATION%",
            }
        },
    )


def _status_is(status: int) -> Json:
    value = {"default_value": status, "runtime_key": _NO_RUNTIME_KEY}
    return {"status_code_filter": {"comparison": {"op": "EQ", "value": value}}}


def _local_reply() -> Json:
    """Replies that the gateway itself makes: {"message": ..., "status": ...}; Envoy's own wording does not get out."""
    replies = (
        (["UH", "UF", "UO", "UC", "UR", "URX", "LR", "NC", "UPE", "DF"], "Service unavailable"),
        (["UT", "SI", "UMSDR"], "Timeout"),
        (["DPE", "IH"], "Bad request"),
        (["NR"], "Not found"),
        (["OM"], "Too many connections"),
    )
    mappers: List[Json] = [
        {"filter": {"response_flag_filter": {"flags": flags}}, "body": {"inline_string": message}}
        for flags, message in replies
    ]
    # Refusals of the connection manager come without a text: odd paths, and upgrades where none is allowed. Those of
    # the filters before the key check have Envoy's own, and set no flag; the key check is known by the header it sets.
    mappers.append({"filter": _status_is(400), "body": {"inline_string": "Bad request"}})
    mappers.append({"filter": _status_is(429), "body": {"inline_string": "Too many requests"}})
    unjudged = {"header_filter": {"header": {"name": "x-forwarded-port", "present_match": True, "invert_match": True}}}
    mappers.append(
        {"filter": {"and_filter": {"filters": [_status_is(403), unjudged]}}, "body": {"inline_string": "Forbidden"}}
    )
    return {
        "mappers": mappers,
        "body_format": {"json_format": {"message": "%LOCAL_REPLY_BODY%", "status": "%RESPONSE_CODE%"}},
    }


def _listener(spec: GatewaySpec) -> Json:
    manager = _typed(
        "envoy.filters.network.http_connection_manager",
        "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
        stat_prefix="gateway",
        codec_type="HTTP1",
        server_header_transformation="PASS_THROUGH",
        normalize_path=True,
        merge_slashes=True,
        path_with_escaped_slashes_action="REJECT_REQUEST",
        use_remote_address=True,
        xff_num_trusted_hops=spec.trusted_hops,
        upgrade_configs=[{"upgrade_type": "websocket", "enabled": False}],
        common_http_protocol_options={
            "headers_with_underscores_action": "REJECT_REQUEST",
            "idle_timeout": _seconds(STREAM_IDLE_TIMEOUT),
        },
        request_headers_timeout="30s",
        stream_idle_timeout=_seconds(STREAM_IDLE_TIMEOUT),
        early_header_mutation_extensions=[
            _typed(
                "envoy.http.early_header_mutation.header_mutation",
                "envoy.extensions.http.early_header_mutation.header_mutation.v3.HeaderMutation",
                mutations=_untrusted_request_headers(spec.trusted_hops),
            )
        ],
        http_filters=_http_filters(spec),
        route_config={
            "name": "instance",
            "validate_clusters": spec.services >= ROUTED_SERVICES,
            "virtual_hosts": [_virtual_host(spec)],
        },
        access_log=[_access_log()],
        local_reply_config=_local_reply(),
    )
    return {
        "name": "gateway",
        # Inside the container; what is reachable from outside is decided by the published port.
        "address": {"socket_address": {"address": "0.0.0.0", "port_value": LISTEN_PORT}},  # noqa: S104 - in its container
        "per_connection_buffer_limit_bytes": BUFFER_LIMIT_BYTES,
        "filter_chains": [{"filters": [manager]}],
    }


def _cluster(service: str) -> Json:
    """Names are looked up again every 5 s, so a recreated container is found.

    While a stack starts, the gateway may be there before a service. Docker passes a name that it does not know yet on
    to the host's name servers; a lookup is therefore given up after a second and soon made again, so that the name is
    known by the time the service is healthy.

    No active health checks: a connection error answers 503 at once, and probes of many instances cost CPU.
    """
    endpoint = {"address": {"socket_address": {"address": service, "port_value": CLUSTER_PORTS[service]}}}
    # Envoy's own limit of 1024 would count every open socket of Realtime.
    limits = dict.fromkeys(("max_connections", "max_pending_requests", "max_requests"), MAX_DOWNSTREAM_CONNECTIONS)
    http_options = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"
    return {
        "name": service,
        "cluster_type": _typed(
            "envoy.cluster.dns",
            "envoy.extensions.clusters.dns.v3.DnsCluster",
            dns_lookup_family="V4_ONLY",
            dns_refresh_rate="5s",
            dns_failure_refresh_rate={"base_interval": "0.25s", "max_interval": "0.5s"},
            typed_dns_resolver_config=_typed(
                "envoy.network.dns_resolver.cares",
                "envoy.extensions.network.dns_resolver.cares.v3.CaresDnsResolverConfig",
                dns_resolver_options={"no_default_search_domain": True},
                query_timeout_seconds=1,
                query_tries=1,
            ),
        ),
        "connect_timeout": "5s",
        "per_connection_buffer_limit_bytes": BUFFER_LIMIT_BYTES,
        "circuit_breakers": {"thresholds": [limits]},
        "load_assignment": {"cluster_name": service, "endpoints": [{"lb_endpoints": [{"endpoint": endpoint}]}]},
        "typed_extension_protocol_options": {
            http_options: {
                "@type": _TYPE + http_options,
                "common_http_protocol_options": {"idle_timeout": UPSTREAM_IDLE_TIMEOUT},
                "explicit_http_config": {"http_protocol_options": {}},
            }
        },
    }


def envoy_config(spec: GatewaySpec) -> Json:
    """The whole Envoy bootstrap (API v3, tried with 1.39 and 1.40) as plain data for a JSON writer."""
    return {
        # Its /config_dump shows every key: it listens inside the container only.
        "admin": {"address": {"socket_address": {"address": "127.0.0.1", "port_value": ADMIN_PORT}}},
        "overload_manager": {
            "resource_monitors": [
                _typed(
                    "envoy.resource_monitors.global_downstream_max_connections",
                    "envoy.extensions.resource_monitors.downstream_connections.v3.DownstreamConnectionsConfig",
                    max_active_downstream_connections=MAX_DOWNSTREAM_CONNECTIONS,
                )
            ]
        },
        "static_resources": {
            "listeners": [_listener(spec)],
            "clusters": [_cluster(service) for service in sorted(ROUTED_SERVICES & spec.services)],
        },
    }


def json_text(value: Any, newline: str = "\n") -> str:
    """What ``json.dumps(value, indent=2, sort_keys=True)`` returns, in a third of the time.

    Its indenting encoder is not the one in C, and passes every piece through as many generators as the piece is deep.
    """
    encode = json.encoder.encode_basestring_ascii
    if isinstance(value, str):
        return encode(value)
    if value is True or value is False:
        return "true" if value else "false"
    inner = newline + "  "
    if isinstance(value, dict) and value:
        pairs = [encode(key) + ": " + json_text(value[key], inner) for key in sorted(value)]
        return "{" + inner + ("," + inner).join(pairs) + newline + "}"
    if isinstance(value, (list, tuple)) and value:
        return "[" + inner + ("," + inner).join([json_text(entry, inner) for entry in value]) + newline + "]"
    return json.dumps(value)


def render(spec: GatewaySpec) -> str:
    """The configuration as JSON text; equal specs give equal text."""
    return json_text(envoy_config(spec)) + "\n"
