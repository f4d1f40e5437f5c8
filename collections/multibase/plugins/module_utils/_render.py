# SPDX-License-Identifier: GPL-3.0-or-later
# This file is private to the multibase.supabase collection; it may change at any time.
"""From a checked spec to the files of an instance: pure, and the same bytes for the same input."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import Any, Dict, FrozenSet, List, Mapping, Optional, Tuple
from urllib.parse import urlsplit

from . import _envfile, _gateway, _secrets
from ._layout import ENV_FILE, OVERRIDE_FILE, Layout
from ._ports import PORT_OFFSETS
from ._registry import SCHEMA, Allocation
from ._release import COMPOSE_FILE, Release
from ._sizes import SIZES, cpu_limit, memory_limits
from ._spec import InstanceSpec

GATEWAY_FILE = "volumes/api/envoy.json"
START_INTERVAL_OVERLAY = "overlays/start-interval.yml"
# The first Engine that knows healthcheck.start_interval; older ones refuse it after containers were created.
START_INTERVAL_ENGINE = (25,)
# Bound to one of these, an instance answers at the loopback address.
_ANYWHERE = ("127.0.0.1", "0.0.0.0")  # noqa: S104 - compared with, never bound to


@dataclass(frozen=True)
class HostFacts:
    """What rendering needs to know of the host: its processors, and whether its Engine knows ``start_interval``."""

    root: str
    cpus: int
    start_interval: bool


@dataclass(frozen=True)
class Rendered:
    """The files of an instance (relative path -> content and mode) and what is derived on the way.

    ``variables`` is the content of the ``.env``; ``manifest`` that of ``instance.json``, which is not among ``files``.
    """

    files: Mapping[str, Tuple[bytes, int]]
    seeds: Mapping[str, Tuple[bytes, int]]
    directories: Mapping[str, int]
    variables: Mapping[str, str]
    hand_added: FrozenSet[str]
    manifest: Mapping[str, Any]

    def manifest_bytes(self) -> bytes:
        """Return ``instance.json`` as it is written."""
        return (json.dumps(self.manifest, indent=2, sort_keys=True) + "\n").encode("utf-8")


def published_ports(spec: InstanceSpec, allocation: Allocation) -> Dict[str, int]:
    """Return what of the instance is published on the host: purpose -> port."""
    purposes = ["gateway_http"]
    if "supavisor" in spec.services:
        purposes += ["pooler_session", "pooler_transaction"]
    purposes += [purpose for purpose in ("postgres", "studio") if purpose in spec.options["expose"]]
    return {purpose: allocation.port_base + PORT_OFFSETS[purpose] for purpose in purposes}


def public_url(spec: InstanceSpec, allocation: Allocation) -> str:
    """Return the address that clients use, without a slash at the end."""
    given = str(spec.options["public_url"]).rstrip("/")
    if given:
        return given
    address = spec.options["bind_address"]
    return "http://{0}:{1}".format(
        "127.0.0.1" if address in _ANYWHERE else address, allocation.port_base + PORT_OFFSETS["gateway_http"]
    )


def origin_of(url: str) -> str:
    """Return the origin of a URL as a browser sends it (RFC 6454): scheme and authority, without path."""
    parts = urlsplit(url)
    return "{0}://{1}".format(parts.scheme, parts.netloc)


def urls(spec: InstanceSpec, allocation: Allocation) -> Dict[str, str]:
    """Return where the instance can be reached, without secrets."""
    base = public_url(spec, allocation)
    result = {"api": base}
    if "studio" in spec.services:
        result["studio"] = base + "/"
    address = spec.options["bind_address"]
    host = "127.0.0.1" if address in _ANYWHERE else address
    for purpose, port in published_ports(spec, allocation).items():
        if purpose.startswith("pooler_"):
            result[purpose] = "postgresql://postgres.{0}@{1}:{2}/postgres".format(spec.name, host, port)
        elif purpose == "postgres":
            result[purpose] = "postgresql://postgres@{0}:{1}/postgres".format(host, port)
    return result


def _boolean(value: bool) -> str:
    return "true" if value else "false"


def _settings(spec: InstanceSpec, allocation: Allocation) -> Dict[str, str]:
    """Return the variables that upstream's ``.env`` has for settings (not secrets)."""
    options = spec.options
    auth, smtp, studio, pooler, rest = (options[key] for key in ("auth", "smtp", "studio", "pooler", "rest"))
    base = public_url(spec, allocation)
    return {
        "SUPABASE_PUBLIC_URL": base,
        "API_EXTERNAL_URL": base + "/auth/v1",
        "SITE_URL": str(options["site_url"]).rstrip("/") or base,
        "ADDITIONAL_REDIRECT_URLS": ",".join(options["redirect_urls"]),
        "DASHBOARD_USERNAME": options["dashboard_username"],
        "JWT_EXPIRY": str(auth["jwt_expiry"]),
        "DISABLE_SIGNUP": _boolean(auth["disable_signup"]),
        "ENABLE_EMAIL_SIGNUP": _boolean(auth["email_signup"]),
        "ENABLE_EMAIL_AUTOCONFIRM": _boolean(auth["email_autoconfirm"]),
        "ENABLE_ANONYMOUS_USERS": _boolean(auth["anonymous_users"]),
        # Upstream has both on; without an SMS provider they are of no use and only widen what is open.
        "ENABLE_PHONE_SIGNUP": "false",
        "ENABLE_PHONE_AUTOCONFIRM": "false",
        "MAILER_URLPATHS_CONFIRMATION": "/auth/v1/verify",
        "MAILER_URLPATHS_INVITE": "/auth/v1/verify",
        "MAILER_URLPATHS_RECOVERY": "/auth/v1/verify",
        "MAILER_URLPATHS_EMAIL_CHANGE": "/auth/v1/verify",
        "SMTP_ADMIN_EMAIL": smtp["admin_email"],
        "SMTP_HOST": smtp["host"],
        "SMTP_PORT": str(smtp["port"]),
        "SMTP_USER": smtp["user"],
        "SMTP_SENDER_NAME": smtp["sender_name"] or spec.name,
        "STUDIO_DEFAULT_ORGANIZATION": studio["organization"] or "Multibase",
        "STUDIO_DEFAULT_PROJECT": studio["project"] or spec.name,
        "POSTGRES_DB": "postgres",
        "PGRST_DB_SCHEMAS": ",".join(rest["schemas"]),
        "PGRST_DB_MAX_ROWS": str(rest["max_rows"]),
        "PGRST_DB_EXTRA_SEARCH_PATH": "public",
        # Part of the path of every stored file: changing them later would orphan what is there.
        "GLOBAL_S3_BUCKET": "stub",
        "REGION": "stub",
        "STORAGE_TENANT_ID": "stub",
        "STORAGE_FILE_SIZE_LIMIT": str(options["storage"]["file_size_limit"]),
        "IMGPROXY_AUTO_WEBP": "true",
        "ENABLE_IMAGE_TRANSFORMATION": _boolean("imgproxy" in spec.services),
        "FUNCTIONS_VERIFY_JWT": _boolean(options["functions"]["verify_jwt"]),
        "POOLER_TENANT_ID": spec.name,
        "POOLER_DEFAULT_POOL_SIZE": str(pooler["pool_size"]),
        "POOLER_MAX_CLIENT_CONN": str(pooler["max_clients"]),
        "POOLER_DB_POOL_SIZE": "5",
    }


def _key_variables(secrets: Mapping[str, str]) -> Dict[str, str]:
    """Return the variables that carry secrets: generated ones, the user's, and those of keys that are not made yet."""
    variables = {name: secrets[name] for name in _secrets.GENERATED_NAMES}
    variables.update({name: secrets.get(name, "") for name in _secrets.USER_NAMES})
    variables["PGRST_JWT_SECRET"] = secrets["JWT_SECRET"]
    variables.update(
        {
            "SUPABASE_PUBLISHABLE_KEY": "",
            "SUPABASE_SECRET_KEY": "",
            "ANON_KEY_ASYMMETRIC": "",
            "SERVICE_ROLE_KEY_ASYMMETRIC": "",
            "JWT_KEYS": "[]",
            "JWT_JWKS": '{"keys":[]}',
        }
    )
    return variables


def _gateway_json(spec: InstanceSpec, settings: Mapping[str, str], secrets: Mapping[str, str]) -> bytes:
    origins = list(spec.options["cors_origins"]) or sorted(
        {origin_of(settings["SUPABASE_PUBLIC_URL"]), origin_of(settings["SITE_URL"])}
    )
    text = _gateway.render(
        _gateway.GatewaySpec(
            services=spec.services,
            anon_key=secrets["ANON_KEY"],
            service_role_key=secrets["SERVICE_ROLE_KEY"],
            dashboard_username=settings["DASHBOARD_USERNAME"],
            dashboard_password=secrets["DASHBOARD_PASSWORD"],
            public_url=settings["SUPABASE_PUBLIC_URL"],
            issuer=settings["API_EXTERNAL_URL"],
            cors_origins=tuple(origins),
        )
    )
    return text.encode("utf-8")


def _variable_name(prefix: str, service: str) -> str:
    return "MULTIBASE_{0}_{1}".format(prefix, service.upper().replace("-", "_"))


def _compose_file_list(spec: InstanceSpec, facts: HostFacts, override: bool) -> List[str]:
    files = [COMPOSE_FILE]
    exposed = [what for what in ("postgres", "studio") if what in spec.options["expose"]]
    files += ["overlays/expose-{0}.yml".format(what) for what in exposed]
    if facts.start_interval:
        files.append(START_INTERVAL_OVERLAY)
    if override:
        files.append(OVERRIDE_FILE)
    return files


def render_instance(
    spec: InstanceSpec,
    release: Release,
    allocation: Allocation,
    secrets: Mapping[str, str],
    facts: HostFacts,
    salt: str,
    hand_added: Optional[Mapping[str, str]] = None,
    override: bool = False,
    hand_lines: Optional[Mapping[str, str]] = None,
) -> Rendered:
    """Render an instance.

    ``secrets`` holds all generated secrets and the user's; ``salt`` is the instance's own, for fingerprints;
    ``hand_added`` are variables of the old ``.env``, of which those are kept that are not ours, in the wording of
    ``hand_lines`` (name -> line); ``override`` says whether the
    user has a ``docker-compose.override.yml``.
    """
    settings = _settings(spec, allocation)
    keys = _key_variables(secrets)
    size = SIZES[spec.options["size"]]
    memory = memory_limits(size.memory, release.weights, spec.services)
    cpus = "{0:.2f}".format(cpu_limit(size.cpus, facts.cpus))
    optional = sorted(spec.services - {"api-gw", "db"})
    base = allocation.port_base

    contents: Dict[str, bytes] = {path: text.encode("utf-8") for path, text in release.files.items()}
    contents[GATEWAY_FILE] = _gateway_json(spec, settings, secrets)
    digests = {
        service: hashlib.sha256(b"\0".join(contents.get(path, b"") for path in paths)).hexdigest()[:16]
        for service, paths in release.mounted.items()
    }

    # Services that are switched off keep their variables: the Compose file names them all.
    own = {
        "COMPOSE_PROJECT_NAME": allocation.project,
        "COMPOSE_FILE": ":".join(_compose_file_list(spec, facts, override)),
        "COMPOSE_PROFILES": ",".join(optional),
        "MULTIBASE_INSTANCE": spec.name,
        "MULTIBASE_PROJECT_DIR": Layout(facts.root).project(spec.name),
        "MULTIBASE_BIND_ADDRESS": spec.options["bind_address"],
        "MULTIBASE_SUBNET": allocation.subnet,
        "MULTIBASE_HEALTH_INTERVAL": spec.options["health_interval"],
        "API_GW_HTTP_PORT": str(base + PORT_OFFSETS["gateway_http"]),
        "STUDIO_PUBLISHED_PORT": str(base + PORT_OFFSETS["studio"]),
        "POOLER_PROXY_PORT_SESSION": str(base + PORT_OFFSETS["pooler_session"]),
        "POOLER_PROXY_PORT_TRANSACTION": str(base + PORT_OFFSETS["pooler_transaction"]),
        "POSTGRES_PUBLISHED_PORT": str(base + PORT_OFFSETS["postgres"]),
    }
    smallest = min(memory.values())
    images = release.images[spec.options["image_set"]]
    for service in release.services:
        own[_variable_name("IMAGE", service)] = spec.images.get(service, images[service])
    for service in release.services:
        own[_variable_name("MEMORY", service)] = "{0}m".format(memory.get(service, smallest))
    for service in release.services:
        own[_variable_name("CPUS", service)] = cpus
    for service in sorted(digests):
        own[_variable_name("CONFIG", service)] = digests[service]

    sections: List[Tuple[str, Mapping[str, str]]] = [
        ("Written by Multibase. Change options of the instance instead; see the README.", own),
        ("Settings", settings),
        ("Secrets. They were made on this host and are nowhere else.", keys),
    ]
    known = {name for _heading, variables in sections for name in variables}
    extra = {name: value for name, value in (hand_added or {}).items() if name not in known}
    lines = [
        (hand_lines or {}).get(name) or "{0}={1}".format(name, _envfile.encode_value(value))
        for name, value in extra.items()
    ]
    variables = {name: value for _heading, part in sections for name, value in part.items()}
    variables.update(extra)

    files: Dict[str, Tuple[bytes, int]] = {
        path: (content, 0o644) for path, content in contents.items() if path not in release.seed_files
    }
    files[ENV_FILE] = (_envfile.render(sections, lines).encode("utf-8"), 0o600)
    manifest: Dict[str, Any] = {
        "schema": SCHEMA,
        "name": spec.name,
        "project": allocation.project,
        "release": release.name,
        "gateway": "envoy",
        "port_base": allocation.port_base,
        "subnet": allocation.subnet,
        "bind_address": spec.options["bind_address"],
        "ports": published_ports(spec, allocation),
        "urls": urls(spec, allocation),
        "services": sorted(spec.services),
        "size": spec.options["size"],
        "declared": spec.declared,
        "start_interval": facts.start_interval,
        "salt": salt,
        "secrets": {
            name: _secrets.fingerprint(value, salt) for name, value in sorted(keys.items())
            if name in _secrets.GENERATED_NAMES
        },
        "managed": sorted(set(files) - {ENV_FILE}),
        # What of the .env is ours; anything else there was added by hand.
        "variables": sorted(known),
    }
    return Rendered(
        files=files,
        seeds={path: (contents[path], 0o644) for path in sorted(release.seed_files)},
        directories=release.directories,
        variables=variables,
        hand_added=frozenset(extra),
        manifest=manifest,
    )
