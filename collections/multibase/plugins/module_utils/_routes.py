# SPDX-License-Identifier: GPL-3.0-or-later
# This file is private to the multibase.supabase collection; it may change at any time.
"""The gateway's route table: what is reachable, where it goes, and who may. Envoy and Kong are both built from it.

Nothing here depends on an instance. What the kinds of access mean is written in ``_gateway``; ``docs/gateway.md`` has
the table for readers.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Dict, FrozenSet, Tuple

__all__ = [
    "CLUSTER_PORTS",
    "DASHBOARD",
    "DENIED",
    "EXACT",
    "FUNCTIONS",
    "KEY",
    "OAUTH_METADATA_PATH",
    "OPEN",
    "PREFIX",
    "REALTIME_HOST",
    "ROUTED_SERVICES",
    "ROUTES",
    "SERVICE",
    "WEBSOCKET",
    "Route",
    "matched_path",
]

# Service key -> port inside the instance's network. The host name is the service key.
CLUSTER_PORTS: Dict[str, int] = {
    "auth": 9999,
    "functions": 9000,
    "meta": 8080,
    "realtime": 4000,
    "rest": 3000,
    "storage": 5000,
    "studio": 3000,
}

# Realtime takes its tenant from the first label of Host.
REALTIME_HOST = "realtime-dev.supabase-realtime"

OAUTH_METADATA_PATH = "/.well-known/oauth-authorization-server"

DEFAULT_TIMEOUT = 30
STREAM_IDLE_TIMEOUT = 300

OPEN = "open"
KEY = "key"
SERVICE = "service"
WEBSOCKET = "websocket"
FUNCTIONS = "functions"
DENIED = "denied"
DASHBOARD = "dashboard"

PREFIX = "prefix"
EXACT = "path"


@dataclass(frozen=True)
class Route:
    """One row of the route table.

    match is PREFIX or EXACT (the query string does not count). rewrite replaces the matched part; empty keeps the path.
    Times are in seconds: timeout bounds the time from the end of the request to the end of the response (0: not at
    all), idle_timeout the time without a byte in either direction (0: the gateway's own). headers are set for the
    service, host replaces the client's Host. forwarded_prefix is the part of the path that the service does not see.
    """

    name: str
    match: str
    path: str
    access: str
    service: str = ""
    rewrite: str = ""
    timeout: int = DEFAULT_TIMEOUT
    idle_timeout: int = 0
    headers: Tuple[Tuple[str, str], ...] = ()
    host: str = ""
    forwarded_prefix: str = ""


# The order matters: the first match wins. The path of the OAuth metadata row is completed with the issuer's path.
#
# Storage has no total timeout, because a large download would be cut while it flows; its idle timeout ends dead ones.
# (An upload is not counted in the first place.) Realtime's sockets likewise: clients send a heartbeat every 30 s.
ROUTES: Tuple[Route, ...] = (
    Route("auth-verify", PREFIX, "/auth/v1/verify", OPEN, "auth", "/verify", forwarded_prefix="/auth/v1"),
    Route("auth-callback", PREFIX, "/auth/v1/callback", OPEN, "auth", "/callback", forwarded_prefix="/auth/v1"),
    Route("auth-authorize", PREFIX, "/auth/v1/authorize", OPEN, "auth", "/authorize", forwarded_prefix="/auth/v1"),
    Route(
        "auth-jwks",
        PREFIX,
        "/auth/v1/.well-known/jwks.json",
        OPEN,
        "auth",
        "/.well-known/jwks.json",
        forwarded_prefix="/auth/v1",
    ),
    Route("auth-oauth-metadata", EXACT, OAUTH_METADATA_PATH, OPEN, "auth", OAUTH_METADATA_PATH),
    Route("auth-saml-acs", PREFIX, "/auth/v1/sso/saml/acs", OPEN, "auth", "/sso/saml/acs", forwarded_prefix="/auth/v1"),
    Route(
        "auth-saml-metadata",
        PREFIX,
        "/auth/v1/sso/saml/metadata",
        OPEN,
        "auth",
        "/sso/saml/metadata",
        forwarded_prefix="/auth/v1",
    ),
    Route(
        "functions",
        PREFIX,
        "/functions/v1/",
        FUNCTIONS,
        "functions",
        "/",
        timeout=410,
        idle_timeout=160,
        forwarded_prefix="/functions/v1",
    ),
    Route(
        "storage",
        PREFIX,
        "/storage/v1/",
        OPEN,
        "storage",
        "/",
        timeout=0,
        idle_timeout=STREAM_IDLE_TIMEOUT,
        forwarded_prefix="/storage/v1",
    ),
    Route("auth", PREFIX, "/auth/v1/", KEY, "auth", "/", forwarded_prefix="/auth/v1"),
    Route("rest-openapi", EXACT, "/rest/v1/", SERVICE, "rest", "/", forwarded_prefix="/rest/v1"),
    Route("rest", PREFIX, "/rest/v1/", KEY, "rest", "/", forwarded_prefix="/rest/v1"),
    Route(
        "graphql",
        PREFIX,
        "/graphql/v1",
        KEY,
        "rest",
        "/rpc/graphql",
        headers=(("Content-Profile", "graphql_public"),),
        forwarded_prefix="/graphql/v1",
    ),
    Route("realtime-openapi", PREFIX, "/realtime/v1/api/openapi", DENIED),
    Route("realtime-tenants", PREFIX, "/realtime/v1/api/tenants", DENIED),
    Route(
        "realtime-api",
        PREFIX,
        "/realtime/v1/api",
        KEY,
        "realtime",
        "/api",
        host=REALTIME_HOST,
        forwarded_prefix="/realtime/v1",
    ),
    Route(
        "realtime-websocket",
        PREFIX,
        "/realtime/v1/",
        WEBSOCKET,
        "realtime",
        "/socket/",
        timeout=0,
        idle_timeout=STREAM_IDLE_TIMEOUT,
        host=REALTIME_HOST,
        forwarded_prefix="/realtime/v1",
    ),
    Route("meta", PREFIX, "/pg/", SERVICE, "meta", "/", forwarded_prefix="/pg"),
    Route("studio-api-mcp", PREFIX, "/api/mcp", DENIED),
    Route("studio-mcp", PREFIX, "/mcp", DENIED),
    Route("studio", PREFIX, "/", DASHBOARD, "studio"),
)

ROUTED_SERVICES: FrozenSet[str] = frozenset(row.service for row in ROUTES if row.service)


def matched_path(row: Route, issuer_path: str) -> str:
    """Return the path that the row matches in an instance; issuer_path is the path of the issuer, or empty.

    RFC 8414: the metadata of the issuer https://host/auth/v1 are at /.well-known/oauth-authorization-server/auth/v1.
    """
    return row.path + issuer_path if row.path == OAUTH_METADATA_PATH else row.path
