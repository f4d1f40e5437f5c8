# SPDX-License-Identifier: GPL-3.0-or-later
# This file is private to the multibase.supabase collection; it may change at any time.
"""Whether an instance answers as its clients know it: one small request for each of its services, through its gateway.

What counts as an answer is what upstream's services give to that request; an answer of the service itself that refuses
(a function that is not there) is one too, an error of the gateway is none. Keys are sent in headers and never told.
"""

from __future__ import annotations

import base64
import contextlib
import http.client
import os
import socket
import ssl
import time
from dataclasses import dataclass
from typing import Any, Callable, Dict, List, Mapping, Optional, Tuple

from ._errors import MultibaseError
from ._postgres import Connection, Login

# More of an answer is not read.
_LONGEST_BODY = 4096


@dataclass(frozen=True)
class Target:
    """What is needed to probe an instance. ``scheme`` and ``port`` are of its gateway."""

    name: str
    scheme: str
    host: str
    port: int
    services: Tuple[str, ...]
    anon_key: str
    service_key: str
    pooler: Optional[Login] = None

    def __repr__(self) -> str:
        return "Target({0} at {1}:{2})".format(self.name, self.host, self.port)


@dataclass(frozen=True)
class HttpProbe:
    """A request and the statuses that are good. ``key`` is anon, service or empty."""

    name: str
    service: str
    path: str
    key: str
    good: Callable[[int], bool]
    upgrade: bool = False


def _ok(status: int) -> bool:
    return 200 <= status < 300


def _answered(status: int) -> bool:
    """Whether the service itself answered, be it with a refusal."""
    return status < 500


HTTP_PROBES = (
    HttpProbe("auth", "auth", "/auth/v1/health", "anon", _ok),
    HttpProbe("jwks", "auth", "/auth/v1/.well-known/jwks.json", "", _ok),
    HttpProbe("rest", "rest", "/rest/v1/", "service", _ok),
    HttpProbe("storage", "storage", "/storage/v1/status", "anon", _ok),
    HttpProbe("realtime", "realtime", "/realtime/v1/websocket?vsn=1.0.0", "anon", lambda status: status == 101, True),
    # There need not be a function of this name: 404 is the runtime's own word.
    HttpProbe("functions", "functions", "/functions/v1/hello", "anon", _answered),
    HttpProbe("no_key", "rest", "/rest/v1/", "", lambda status: status == 401),
)
NAMES = (*(probe.name for probe in HTTP_PROBES), "pooler")


def run(target: Target, timeout: float, clock: Callable[[], float] = time.time) -> List[Dict[str, Any]]:
    """Make all probes of an instance, one after the other; return them as the live document has them."""
    done = [
        _timed(probe.name, lambda probe=probe: _http(target, probe, timeout), clock)  # type: ignore[misc]
        for probe in HTTP_PROBES
        if probe.service in target.services
    ]
    if target.pooler is not None:
        login = target.pooler
        done.append(_timed("pooler", lambda: _login(login, timeout), clock))
    return done


def _timed(name: str, ask: Callable[[], str], clock: Callable[[], float]) -> Dict[str, Any]:
    """Make one probe. ``ask`` returns what is wrong, empty when nothing is."""
    started = time.monotonic()
    try:
        trouble = ask()
    except (OSError, http.client.HTTPException, MultibaseError, ValueError) as error:
        trouble = _words(error)
    return {
        "name": name,
        "ok": not trouble,
        "latency_ms": round((time.monotonic() - started) * 1000, 1),
        "checked_at": round(clock(), 3),
        "detail": trouble,
    }


def _words(error: BaseException) -> str:
    if isinstance(error, socket.timeout):
        return "no answer in time"
    if isinstance(error, ConnectionRefusedError):
        return "nobody listens"
    if isinstance(error, http.client.HTTPException):
        # It may quote what was sent.
        return "the answer is no HTTP ({0})".format(type(error).__name__)
    return " ".join(str(error).split())[:200] or type(error).__name__


def _http(target: Target, probe: HttpProbe, timeout: float) -> str:
    status = _status(target, probe, timeout)
    return "" if probe.good(status) else "status {0}".format(status)


def _status(target: Target, probe: HttpProbe, timeout: float) -> int:
    connection = http.client.HTTPConnection(target.host, target.port, timeout=timeout)
    if target.scheme == "https":
        # The gateway's own certificate: it is asked on this host, and nobody vouches for it.
        context = ssl.create_default_context()
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        connection = http.client.HTTPSConnection(target.host, target.port, timeout=timeout, context=context)
    with contextlib.closing(connection):
        headers = {"User-Agent": "multibase-probe", "Connection": "close"}
        key = {"anon": target.anon_key, "service": target.service_key}.get(probe.key, "")
        if key:
            headers["apikey"] = key
            # An opaque key is no JWT, and stands in apikey alone.
            if key.count(".") == 2:
                headers["Authorization"] = "Bearer " + key
        path = probe.path
        if probe.upgrade:
            headers.update(
                {
                    "Connection": "Upgrade",
                    "Upgrade": "websocket",
                    "Sec-WebSocket-Version": "13",
                    "Sec-WebSocket-Key": base64.b64encode(os.urandom(16)).decode("ascii"),
                }
            )
        connection.request("GET", path, headers=headers)
        answer = connection.getresponse()
        if answer.status != 101:
            answer.read(_LONGEST_BODY)
        return answer.status


def _login(login: Login, timeout: float) -> str:
    with Connection(login, timeout) as connection:
        return "" if connection.ask("SELECT 1") == [["1"]] else "SELECT 1 was answered with something else"


def target_of(manifest: Mapping[str, Any], variables: Mapping[str, str]) -> Optional[Target]:
    """Return what is needed to probe an instance from its manifest and its ``.env``, None without a gateway's port."""
    ports = manifest.get("ports") or {}
    port, scheme = ports.get("gateway_http"), "http"
    if not port:
        port, scheme = ports.get("gateway_https"), "https"
    if not port:
        return None
    address = str(manifest.get("bind_address") or "127.0.0.1")
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(address, address)  # noqa: S104  # nothing is bound here
    pooler = None
    services = tuple(str(service) for service in manifest["services"])
    if ports.get("pooler_transaction") and variables.get("POSTGRES_PASSWORD"):
        tenant = variables.get("POOLER_TENANT_ID", "")
        user = "postgres." + tenant if "supavisor" in services and tenant else "postgres"
        database = variables.get("POSTGRES_DB") or "postgres"
        pooler = Login(host, int(ports["pooler_transaction"]), user, variables["POSTGRES_PASSWORD"], database)
    return Target(
        name=str(manifest["name"]),
        scheme=scheme,
        host=host,
        port=int(port),
        services=services,
        anon_key=variables.get("ANON_KEY", ""),
        service_key=variables.get("SERVICE_ROLE_KEY", ""),
        pooler=pooler,
    )
