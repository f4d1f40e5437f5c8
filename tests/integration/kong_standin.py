# SPDX-License-Identifier: GPL-3.0-or-later
"""A stand-in for Kong, which cannot be had here: it carries a request through a declarative configuration.

Routes, order of plugins and what each of them does are written from Kong's documentation (``unit.kong_support`` has
the router). Only one thing is real: the code of pre-function and post-function runs in LuaJIT, Kong's Lua as well,
namely in the one inside Envoy, and sees nothing but the functions of Kong's sandbox.
"""

from __future__ import annotations

import base64
import contextlib
import functools
import ipaddress
import json
from typing import Any, Dict, Iterator, List, Mapping, NamedTuple, Optional, Sequence, Tuple

from integration import gateway_support as support
from unit import kong_support

Headers = List[Tuple[str, str]]
Json = Dict[str, Any]

# Kong's limit of headers that get_headers() returns when it is not told another.
MAX_HEADERS = 100

# Gets the state of a request as a Lua table, runs one function with a stand-in for Kong's PDK, and returns the state.
HARNESS_LUA = r"""
local function quote(text)
  return '"' .. string.gsub(text, '[%c"\\\128-\255]', function(letter)
    return string.format("\\u%04x", string.byte(letter))
  end) .. '"'
end

local function encode(value)
  if type(value) == "table" then
    local parts = {}
    if #value > 0 or next(value) == nil then
      for _, entry in ipairs(value) do
        parts[#parts + 1] = encode(entry)
      end
      return "[" .. table.concat(parts, ",") .. "]"
    end
    for key, entry in pairs(value) do
      parts[#parts + 1] = quote(key) .. ":" .. encode(entry)
    end
    return "{" .. table.concat(parts, ",") .. "}"
  elseif type(value) == "string" then
    return quote(value)
  end
  return tostring(value)
end

local function as_table(list, limit)
  local found, count = {}, 0
  for _, pair in ipairs(list) do
    count = count + 1
    if count > limit then
      return found, "truncated"
    end
    local name, value = string.lower(pair[1]), pair[2]
    if found[name] == nil then
      found[name] = value
    elseif type(found[name]) == "table" then
      table.insert(found[name], value)
    else
      found[name] = { found[name], value }
    end
  end
  return found
end

local function without(list, name)
  local kept = {}
  for _, pair in ipairs(list) do
    if string.lower(pair[1]) ~= string.lower(name) then
      kept[#kept + 1] = pair
    end
  end
  return kept
end

local function with(list, name, value)
  assert(type(name) == "string" and type(value) == "string" and not string.find(value, "%c"))
  local changed = without(list, name)
  changed[#changed + 1] = { name, value }
  return changed
end

local function pdk(state)
  local LEFT = {}
  return LEFT, {
    request = {
      get_header = function(name)
        local value = as_table(state.headers, 1000)[string.lower(name)]
        return type(value) == "table" and value[1] or value
      end,
      get_headers = function(limit) return as_table(state.headers, limit or 100) end,
      get_method = function() return state.method end,
      get_raw_path = function() return state.raw_path end,
      get_raw_query = function() return state.query end,
    },
    response = {
      clear_header = function(name) state.response = without(state.response, name) end,
      exit = function(status, body)
        state.exit_status, state.exit_body = status, body
        error(LEFT)
      end,
      get_headers = function(limit) return as_table(state.response, limit or 100) end,
      get_source = function() return state.source end,
      get_status = function() return state.status end,
      set_header = function(name, value) state.response = with(state.response, name, value) end,
    },
    router = { get_route = function() return state.route end },
    service = {
      request = {
        clear_header = function(name) state.headers = without(state.headers, name) end,
        set_header = function(name, value) state.headers = with(state.headers, name, value) end,
        set_raw_query = function(query) assert(type(query) == "string"); state.query = query end,
      },
    },
  }
end

function envoy_on_request(handle)
  local body = handle:body()
  local input = assert(loadstring("return " .. body:getBytes(0, body:length())))()
  local left, kong = pdk(input.state)
  local sandbox = { kong = kong, string = string, table = table }
  sandbox.ipairs, sandbox.pairs, sandbox.tonumber, sandbox.type = ipairs, pairs, tonumber, type
  local chunk = assert(loadstring(input.code))
  setfenv(chunk, sandbox)
  local fine, problem = pcall(chunk())
  if not fine and problem ~= left then
    input.state.failed = tostring(problem)
  end
  handle:respond({ [":status"] = "200" }, encode(input.state))
end
"""


@functools.lru_cache(maxsize=1024)
def _lua_string(text: str) -> str:
    return '"' + "".join("\\{0:03d}".format(byte) for byte in text.encode("utf-8")) + '"'


def _lua(value: Any) -> str:
    """The value as a Lua literal."""
    if isinstance(value, str):
        return _lua_string(value)
    if isinstance(value, Mapping):
        return "{" + ",".join("[" + _lua(key) + "]=" + _lua(entry) for key, entry in value.items()) + "}"
    if isinstance(value, (list, tuple)):
        return "{" + ",".join(_lua(entry) for entry in value) + "}"
    return "nil" if value is None else str(value)


@contextlib.contextmanager
def lua_runner() -> Iterator[support.Gateway]:
    """An Envoy whose only work is to run Lua."""
    type_prefix = "type.googleapis.com/envoy.extensions.filters."
    lua = {"@type": type_prefix + "http.lua.v3.Lua", "default_source_code": {"inline_string": HARNESS_LUA}}
    router = {"@type": type_prefix + "http.router.v3.Router"}
    manager = {
        "@type": type_prefix + "network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "lua",
        "http_filters": [{"name": "lua", "typed_config": lua}, {"name": "router", "typed_config": router}],
        "route_config": {
            "virtual_hosts": [
                {
                    "name": "lua",
                    "domains": ["*"],
                    "routes": [{"match": {"prefix": "/"}, "direct_response": {"status": 500}}],
                }
            ]
        },
    }
    address = {"socket_address": {"address": "127.0.0.1", "port_value": 0}}
    config = {
        "admin": {"address": address},
        "static_resources": {
            "listeners": [
                {
                    "name": "lua",
                    "address": address,
                    "filter_chains": [{"filters": [{"name": "http", "typed_config": manager}]}],
                }
            ]
        },
    }
    with support.running_envoy(config) as running:
        yield running


class Answer(NamedTuple):
    """What comes of a request. For 200 ``seen`` is what the service got, as the echo servers would say it."""

    status: int
    message: str = ""
    seen: Optional[Json] = None
    headers: Headers = []
    # The plugins that were asked, in order, up to the one that answered.
    asked: Tuple[str, ...] = ()


class Kong:
    """Answers requests as Kong would with this configuration, the services being always there.

    Its clock stands still: rate limits count everything as one second's.
    """

    def __init__(self, config: Json, lua: support.Gateway) -> None:
        self.config = config
        self.counted: Dict[str, int] = {}
        self._lua = lua
        self._consumers = {consumer["username"]: consumer for consumer in config["consumers"]}

    def request(
        self, method: str, target: str, headers: Headers, response: Sequence[Tuple[str, str]] = (), source: str = "::1"
    ) -> Answer:
        # nginx keeps the path of an absolute address only.
        path = "/" + target.split("://", 1)[1].partition("/")[2] if "://" in target.partition("?")[0] else target
        raw_path, _question, query = path.partition("?")
        state: Json = {
            "method": method,
            "raw_path": raw_path,
            "query": query,
            "headers": [["Host", "gw.test"], *map(list, headers)],
            "response": [list(pair) for pair in response],
            "source": "service",
            "status": 200,
            "address": source,
        }
        if method in ("TRACE", "CONNECT"):
            return Answer(405)
        everywhere = {plugin["name"]: plugin["config"] for plugin in self.config["plugins"]}
        state = self._function(everywhere, "pre-function", "rewrite", state)
        if "exit_status" in state:
            return self._answer(state, everywhere, [])
        match = kong_support.find_route(self.config, kong_support.normalized(raw_path))
        assert match is not None
        state["route"] = {"name": match.route["name"], "tags": match.route["tags"]}
        asked: List[str] = []
        for name in sorted(kong_support.PRIORITIES, key=lambda name: -kong_support.PRIORITIES[name]):
            config = self._config(name, match.route, state)
            if config is not None:
                asked.append(name)
                state = self._run(name, config, state)
                if "exit_status" in state:
                    return self._answer(state, everywhere, asked)
        assert match.service is not None
        return self._answer(state, everywhere, asked, match)

    def _config(self, name: str, route: Json, state: Json) -> Optional[Json]:
        """The one configuration of a plugin that applies: of the consumer, else of the route, else the global one."""
        consumer = self._consumers.get(state.get("consumer", ""), {})
        for entity in (consumer, route, self.config):
            for plugin in entity.get("plugins", []):
                if plugin["name"] == name:
                    found: Json = plugin["config"]
                    return found
        return None

    def _function(self, plugins: Mapping[str, Json], name: str, phase: str, state: Json) -> Json:
        (code,) = plugins[name][phase]
        reply = self._lua.request("POST", "/", body=_lua({"code": code, "state": state}).encode())
        changed: Json = reply.json()
        assert "failed" not in changed, changed["failed"]
        return changed

    def _run(self, name: str, config: Json, state: Json) -> Json:
        if name in ("pre-function", "post-function"):
            return self._function({name: config}, name, "access", state)
        sent = [(key.lower(), value) for key, value in state["headers"]]
        if name in ("key-auth", "basic-auth"):
            return self._authenticate(name, config, state, sent)
        if name == "acl":
            groups = {entry["group"] for entry in self._consumers[state["consumer"]].get("acls", [])}
            return state if groups & set(config["allow"]) else {**state, "exit_status": 403, "exit_body": {}}
        if name == "request-transformer":
            for entry in config["add"]["headers"]:
                key, _colon, value = entry.partition(":")
                if key.lower() not in dict(sent):
                    state["headers"].append([key, value])
            return state
        if name == "request-termination":
            return {**state, "exit_status": config["status_code"], "exit_body": json.loads(config["body"])}
        if name == "cors":
            found = dict(sent)
            preflight = state["method"] == "OPTIONS" and "origin" in found and "access-control-request-method" in found
            return {**state, "exit_status": 200, "exit_body": {}} if preflight else state
        if name == "ip-restriction":
            address = ipaddress.ip_address(state["address"])
            if any(address in ipaddress.ip_network(network) for network in config["allow"]):
                return state
            return {**state, "exit_status": config["status"], "exit_body": {"message": config["message"]}}
        if name == "rate-limiting":
            # limit_by header: each value has a counter; without the header the address would have one.
            counter = dict(sent)[config["header_name"]]
            self.counted[counter] = self.counted.get(counter, 0) + 1
            if self.counted[counter] <= config["second"]:
                return state
            return {**state, "exit_status": config["error_code"], "exit_body": {"message": config["error_message"]}}
        raise AssertionError("the stand-in does not know " + name)

    def _authenticate(self, name: str, config: Json, state: Json, sent: Headers) -> Json:
        user = None
        if name == "key-auth":
            keys = [value for key, value in sent if key in config["key_names"]]
            for consumer in self.config["consumers"]:
                for credential in consumer.get("keyauth_credentials", []):
                    if keys == [credential["key"]]:
                        user = consumer["username"]
        else:
            for key, value in sent:
                scheme, _space, encoded = value.partition(" ")
                if key != "authorization" or scheme.lower() != "basic":
                    continue
                login = base64.b64decode(encoded).decode().split(":", 1)
                for consumer in self.config["consumers"]:
                    for credential in consumer.get("basicauth_credentials", []):
                        if login == [credential["username"], credential["password"]]:
                            user = consumer["username"]
            if config["hide_credentials"]:
                state["headers"] = [pair for pair in state["headers"] if pair[0].lower() != "authorization"]
        state["consumer"] = user or config["anonymous"]
        state["headers"].append(["X-Consumer-Username", state["consumer"]])
        state["headers"].append(["X-Consumer-ID", "an-id"])
        state["headers"].append(["X-Credential-Identifier", "an-id"] if user else ["X-Anonymous-Consumer", "true"])
        return state

    def _answer(
        self, state: Json, everywhere: Mapping[str, Json], asked: List[str], match: Optional[kong_support.Match] = None
    ) -> Answer:
        status = int(state.get("exit_status", 200))
        state["status"] = status
        if match is None:
            state["source"] = "exit"
            # What Kong itself would say.
            state["response"] = [["Server", "kong/3.9"], ["WWW-Authenticate", 'Key realm="kong"']]
        for name in ("pre-function", "post-function"):
            state = self._function(everywhere, name, "header_filter", state)
        headers = [(key.lower(), value) for key, value in state["response"]]
        body = state.get("exit_body") or {}
        if match is None:
            return Answer(status, body.get("message", ""), None, headers, tuple(asked))
        path = kong_support.normalized(state["raw_path"])
        assert match.service is not None
        prefix = match.prefixes[-1] if match.route["strip_path"] else None
        got = [(key.lower(), value) for key, value in state["headers"] if key.lower() != "host"]
        host = "gw.test" if match.route["preserve_host"] else "{host}:{port}".format(**match.service)
        got.append(("host", host))
        if prefix is not None:
            got.append(("x-forwarded-prefix", prefix))
        seen = {
            "service": kong_support_service(match.service),
            "path": kong_support.upstream_path(match, path, prefix) + ("?" + state["query"] if state["query"] else ""),
            "headers": got,
        }
        return Answer(200, "", seen, headers, tuple(asked))


def kong_support_service(service: Json) -> str:
    """The service behind the address that Kong calls."""
    return "realtime" if service["host"].startswith("realtime-dev.") else str(service["host"])
