# SPDX-License-Identifier: GPL-3.0-or-later
# This file is private to the multibase.supabase collection; it may change at any time.
"""What a user of an instance needs to connect: addresses, keys and passwords, and how a file of them is written."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, Dict, Iterable, List, Mapping, Sequence, Tuple
from urllib.parse import quote, urlsplit, urlunsplit

from . import _envfile

FORMATS = ("table", "env", "json", "yaml")
# Names of the connection strings; the manifest's names of them, best first.
_DATABASE_URLS = {
    "pooler_session": "POOLER_SESSION_URL",
    "pooler_transaction": "POOLER_TRANSACTION_URL",
    "postgres": "POSTGRES_URL",
}
# What the variables of keys that an instance may have say while it has none.
_EMPTY = ("", "[]", '{"keys":[]}')
_OWN_DATABASE = "db"


@dataclass(frozen=True)
class Credential:
    """One line of what is handed over. A ``secret`` one is shown to nobody but in the file itself."""

    name: str
    value: str
    heading: str
    secret: bool

    def as_row(self) -> List[Any]:
        """Return what travels, sealed, from the host to the controller."""
        return [self.name, self.value, self.heading, self.secret]


def with_password(url: str, password: str) -> str:
    """Return a connection string with the password behind its user, escaped as RFC 3986 has it."""
    parts = urlsplit(url)
    user, _at, address = parts.netloc.rpartition("@")
    netloc = "{0}:{1}@{2}".format(user, quote(password, safe=""), address)
    return urlunsplit(parts._replace(netloc=netloc))


def collect(manifest: Mapping[str, Any], variables: Mapping[str, str]) -> List[Credential]:
    """Return what is handed over of an instance, from its manifest and the variables of its ``.env``.

    Names are those of the ``.env`` where it has one. Keys that only the services themselves need stay on the host.
    """
    base = variables.get("SUPABASE_PUBLIC_URL", "")
    services = set(manifest["services"])
    addresses: Mapping[str, Any] = manifest["urls"]
    found: List[Credential] = []

    def add(heading: str, names: Iterable[str], secret: bool) -> None:
        for name in names:
            value = variables.get(name, "")
            if value not in _EMPTY:
                found.append(Credential(name, value, heading, secret))

    def add_url(heading: str, name: str, value: str, secret: bool = False) -> None:
        found.append(Credential(name, value, heading, secret))

    add("Instance", ("MULTIBASE_INSTANCE", "SUPABASE_PUBLIC_URL"), False)

    heading = "API keys"
    # The first of each pair goes to browsers and apps, but it is a key, and is treated as one.
    add(heading, ("ANON_KEY", "SERVICE_ROLE_KEY", "SUPABASE_PUBLISHABLE_KEY", "SUPABASE_SECRET_KEY"), True)
    add(heading, ("ANON_KEY_ASYMMETRIC", "SERVICE_ROLE_KEY_ASYMMETRIC"), True)
    add("Signing keys", ("JWT_SECRET", "JWT_KEYS", "JWT_JWKS"), True)

    heading = "Dashboard"
    if "studio" in addresses:
        add_url(heading, "STUDIO_URL", str(addresses["studio"]))
    add(heading, ("DASHBOARD_USERNAME",), False)
    add(heading, ("DASHBOARD_PASSWORD",), True)

    heading = "Database"
    add(heading, ("POSTGRES_DB",), False)
    add(heading, ("POSTGRES_PASSWORD",), True)
    for name, url in _database_urls(addresses, variables).items():
        add_url(heading, name, with_password(url, variables.get("POSTGRES_PASSWORD", "")), secret=True)

    heading = "Storage, S3 protocol"
    if "storage" in services:
        add_url(heading, "S3_PROTOCOL_ENDPOINT", base + "/storage/v1/s3")
        add(heading, ("REGION",), False)
        add(heading, ("S3_PROTOCOL_ACCESS_KEY_ID", "S3_PROTOCOL_ACCESS_KEY_SECRET"), True)
    if "analytics" in services:
        add("Analytics", ("LOGFLARE_PUBLIC_ACCESS_TOKEN", "LOGFLARE_PRIVATE_ACCESS_TOKEN"), True)
    return found


def _database_urls(addresses: Mapping[str, Any], variables: Mapping[str, str]) -> Dict[str, str]:
    """Return the connection strings, without passwords, by the name they are handed over with."""
    urls = {name: str(addresses[purpose]) for purpose, name in _DATABASE_URLS.items() if purpose in addresses}
    host = variables.get("POSTGRES_HOST") or _OWN_DATABASE
    direct = "postgresql://postgres@{0}:{1}/{2}".format(
        "[{0}]".format(host) if ":" in host else host,
        variables.get("POSTGRES_PORT") or "5432",
        quote(variables.get("POSTGRES_DB") or "postgres", safe=""),
    )
    if host != _OWN_DATABASE:
        urls.setdefault("POSTGRES_URL", direct)
    else:
        # As containers of the instance's own network see it.
        urls["POSTGRES_INTERNAL_URL"] = direct
    return urls


def from_rows(text: bytes) -> List[Credential]:
    """Return what ``Credential.as_row`` made, from its JSON."""
    return [Credential(str(row[0]), str(row[1]), str(row[2]), bool(row[3])) for row in json.loads(text)]


def _sections(credentials: Sequence[Credential]) -> List[Tuple[str, Dict[str, str]]]:
    sections: Dict[str, Dict[str, str]] = {}
    for credential in credentials:
        sections.setdefault(credential.heading, {})[credential.name] = credential.value
    return list(sections.items())


def as_dictionary(credentials: Sequence[Credential]) -> Dict[str, str]:
    """Return name -> value, in their order."""
    return {credential.name: credential.value for credential in credentials}


def as_env(credentials: Sequence[Credential]) -> str:
    """Return the text of a file like ``.env``. Raises ValueError for a value with control characters."""
    return _envfile.render(_sections(credentials))


def as_json(credentials: Sequence[Credential]) -> str:
    """Return a JSON object."""
    return json.dumps(as_dictionary(credentials), indent=2, ensure_ascii=False) + "\n"


def as_table(credentials: Sequence[Credential]) -> str:
    """Return what a person reads: one line each, below headings. A value that is not printable is quoted as in JSON."""
    width = max((len(credential.name) for credential in credentials), default=0)
    blocks = []
    for heading, values in _sections(credentials):
        lines = [
            "  {0}  {1}".format(name.ljust(width), value if value.isprintable() else json.dumps(value))
            for name, value in values.items()
        ]
        blocks.append("\n".join([heading, *lines]))
    return "\n\n".join(blocks) + "\n"
