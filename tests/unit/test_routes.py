# SPDX-License-Identifier: GPL-3.0-or-later
"""The route table, against one written out from upstream's gateway, and against the one that users read."""

from __future__ import annotations

from pathlib import Path
from typing import List

import pytest

from ansible_collections.multibase.supabase.plugins.module_utils import _routes
from ansible_collections.multibase.supabase.plugins.module_utils._routes import OAUTH_METADATA_PATH, ROUTES, Route

DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "gateway.md"

# How docs/gateway.md says it.
ACCESS_WORDS = {
    "open": "open",
    "key": "key",
    "service": "service key",
    "websocket": "key, WebSocket",
    "functions": "functions",
    "denied": "denied",
    "dashboard": "dashboard login",
}


def test_table_is_upstreams_in_upstreams_order() -> None:
    assert [(row.match, row.path, row.service, row.rewrite, row.access) for row in ROUTES] == [
        ("prefix", "/auth/v1/verify", "auth", "/verify", "open"),
        ("prefix", "/auth/v1/callback", "auth", "/callback", "open"),
        ("prefix", "/auth/v1/authorize", "auth", "/authorize", "open"),
        ("prefix", "/auth/v1/.well-known/jwks.json", "auth", "/.well-known/jwks.json", "open"),
        ("path", "/.well-known/oauth-authorization-server", "auth", "/.well-known/oauth-authorization-server", "open"),
        ("prefix", "/auth/v1/sso/saml/acs", "auth", "/sso/saml/acs", "open"),
        ("prefix", "/auth/v1/sso/saml/metadata", "auth", "/sso/saml/metadata", "open"),
        ("prefix", "/functions/v1/", "functions", "/", "functions"),
        ("prefix", "/storage/v1/", "storage", "/", "open"),
        ("prefix", "/auth/v1/", "auth", "/", "key"),
        ("path", "/rest/v1/", "rest", "/", "service"),
        ("prefix", "/rest/v1/", "rest", "/", "key"),
        ("prefix", "/graphql/v1", "rest", "/rpc/graphql", "key"),
        ("prefix", "/realtime/v1/api/openapi", "", "", "denied"),
        ("prefix", "/realtime/v1/api/tenants", "", "", "denied"),
        ("prefix", "/realtime/v1/api", "realtime", "/api", "key"),
        ("prefix", "/realtime/v1/", "realtime", "/socket/", "websocket"),
        ("prefix", "/pg/", "meta", "/", "service"),
        ("prefix", "/api/mcp", "", "", "denied"),
        ("prefix", "/mcp", "", "", "denied"),
        ("prefix", "/", "studio", "", "dashboard"),
    ]
    assert len({row.name for row in ROUTES}) == len(ROUTES)


def test_a_row_goes_to_a_known_service_or_is_denied() -> None:
    for row in ROUTES:
        assert (row.service == "") == (row.access == "denied"), row.name
    assert set(_routes.CLUSTER_PORTS) == _routes.ROUTED_SERVICES


def test_the_last_row_takes_what_no_other_takes() -> None:
    assert (ROUTES[-1].match, ROUTES[-1].path) == ("prefix", "/")
    assert [row.name for row in ROUTES if row.path == "/"] == [ROUTES[-1].name]


@pytest.mark.parametrize("issuer_path", ["", "/auth/v1"])
def test_the_issuers_path_ends_the_path_of_its_metadata_and_no_other(issuer_path: str) -> None:
    for row in ROUTES:
        suffix = issuer_path if row.path == OAUTH_METADATA_PATH else ""
        assert _routes.matched_path(row, issuer_path) == row.path + suffix


def documented(row: Route, number: int) -> List[str]:
    path = row.path + ("[/path of the issuer]" if row.path == OAUTH_METADATA_PATH else "")
    match = "`{0}`".format(path) + (" exactly" if row.match == "path" else "")
    target = "`{0}` {1}".format(row.service, "`{0}`".format(row.rewrite or row.path)) if row.service else "-"
    return [str(number), match, target, ACCESS_WORDS[row.access]]


def test_the_documented_table_is_this_table() -> None:
    lines = DOCUMENT.read_text(encoding="utf-8").splitlines()
    start = lines.index("| # | path begins with | goes to | who may |")
    table = []
    for line in lines[start + 2 :]:
        if not line.startswith("|"):
            break
        table.append([cell.strip() for cell in line.strip("|").split("|")])
    assert table == [documented(row, number) for number, row in enumerate(ROUTES, start=1)]
