# SPDX-License-Identifier: GPL-3.0-or-later
# This file is private to the multibase.supabase collection; it may change at any time.
"""From a checked spec to the files of an instance: pure, and the same bytes for the same input."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import Any, Dict, FrozenSet, List, Mapping, Sequence, Tuple
from urllib.parse import urlsplit

from . import _envfile, _gateway, _kong, _secrets
from ._layout import ENV_FILE, OVERRIDE_FILE, Layout, environment_file
from ._ports import PORT_OFFSETS
from ._registry import SCHEMA, Allocation
from ._release import COMPOSE_FILE, Release
from ._services import memory_weights
from ._settings import SETTINGS, as_text, value_at
from ._sizes import Share, shares
from ._spec import InstanceSpec

GATEWAY_FILES = {"envoy": "volumes/api/envoy.json", "kong": "volumes/api/kong.json"}
START_INTERVAL_OVERLAY = "overlays/start-interval.yml"
# The first Engine that knows healthcheck.start_interval; older ones refuse it after containers were created.
START_INTERVAL_ENGINE = (25,)
# Bound to one of these, an instance answers at the loopback address.
_ANYWHERE = ("127.0.0.1", "0.0.0.0")  # noqa: S104 - compared with, never bound to
_EXPOSED = ("postgres", "studio", "analytics")
# A heading that is changed has to stay among those given to hand_written, or the old one is taken for the user's.
_HEADINGS = (
    "Written by Multibase. Change options of the instance instead; see the README.",
    "Settings",
    "Secrets. They were made on this host and are nowhere else.",
)
_ENVIRONMENT_HEADINGS = (
    "Written by Multibase, from options of the instance and its env.",
    "Written by Multibase: secrets of the user.",
)
# By which an environment file of ours is known.
ENVIRONMENT_FIRST_LINES = tuple("# " + heading for heading in _ENVIRONMENT_HEADINGS)
# Its last line. A file without it was cut off, and what it says last may be half a value.
ENVIRONMENT_END = "# End of the file\n"
# In .env above the variables of the option env. It names them, so that a run that was killed before it could record
# them as ours does not leave them behind as the user's.
_ENV_HEADING = "From the option env: "
_WRITTEN_SETTINGS = tuple(
    setting for setting in SETTINGS if setting.variable and not setting.service and not setting.secret
)


@dataclass(frozen=True)
class HostFacts:
    """What rendering needs to know of the host: its processors, and whether its Engine knows ``start_interval``."""

    root: str
    cpus: int
    start_interval: bool


@dataclass(frozen=True)
class Rendered:
    """The files of an instance (relative path -> content and mode) and what is derived on the way.

    ``variables`` are ours in the ``.env``; ``manifest`` is the content of ``instance.json``, which is not among
    ``files``.
    """

    files: Mapping[str, Tuple[bytes, int]]
    seeds: Mapping[str, Tuple[bytes, int]]
    directories: Mapping[str, int]
    variables: Mapping[str, str]
    manifest: Mapping[str, Any]

    def manifest_bytes(self) -> bytes:
        """Return ``instance.json`` as it is written."""
        return (json.dumps(self.manifest, indent=2, sort_keys=True) + "\n").encode("utf-8")


def published_ports(spec: InstanceSpec, allocation: Allocation) -> Dict[str, int]:
    """Return what of the instance is published on the host: purpose -> port."""
    purposes = ["gateway_http"]
    if spec.options["gateway"] == "kong":
        purposes.append("gateway_https")
    if "supavisor" in spec.services:
        purposes.append("pooler_session")
    if "supavisor" in spec.services or "pgbouncer" in spec.services:
        purposes.append("pooler_transaction")
    purposes += [purpose for purpose in _EXPOSED if purpose in spec.options["expose"]]
    return {purpose: allocation.port_base + PORT_OFFSETS[purpose] for purpose in purposes}


def pooler_user(spec: InstanceSpec) -> str:
    """Return the user that logs in at the pooler as ``postgres``: Supavisor finds its tenant in the name."""
    if "supavisor" not in spec.services:
        return "postgres"
    return "postgres.{0}".format(spec.options["pooler"]["tenant_id"] or spec.name)


def public_url(spec: InstanceSpec, allocation: Allocation) -> str:
    """Return the address that clients use, without a slash at the end."""
    given = str(spec.options["public_url"]).rstrip("/")
    if given:
        return given
    if spec.options["domain"]:
        return "https://{0}".format(spec.options["domain"])
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
            result[purpose] = "postgresql://{0}@{1}:{2}/{3}".format(
                pooler_user(spec), host, port, spec.options["database"]["name"]
            )
        elif purpose == "postgres":
            result[purpose] = "postgresql://postgres@{0}:{1}/{2}".format(host, port, spec.options["database"]["name"])
    return result


def _settings(spec: InstanceSpec, allocation: Allocation) -> Dict[str, str]:
    """Return the variables that upstream's ``.env`` has for settings (not secrets)."""
    options = spec.options
    base = public_url(spec, allocation)
    database = options["database"]
    variables = {setting.variable: as_text(value_at(options, setting.path)) for setting in _WRITTEN_SETTINGS}
    variables.update(
        {
            "SUPABASE_PUBLIC_URL": base,
            "API_EXTERNAL_URL": base + "/auth/v1",
            "SITE_URL": str(options["site_url"]).rstrip("/") or base,
            "ADDITIONAL_REDIRECT_URLS": ",".join(options["redirect_urls"]),
            "SMTP_SENDER_NAME": options["smtp"]["sender_name"] or spec.name,
            "STUDIO_DEFAULT_PROJECT": options["studio"]["project"] or spec.name,
            "POOLER_TENANT_ID": options["pooler"]["tenant_id"] or spec.name,
            "ENABLE_IMAGE_TRANSFORMATION": as_text("imgproxy" in spec.services),
            "POSTGRES_HOST": database["host"] or "db",
            "POSTGRES_PORT": str(database["port"] if database["host"] else 5432),
            "POSTGRES_DB": database["name"],
        }
    )
    return variables


def _environment_variables(
    spec: InstanceSpec, settings: Mapping[str, str], gateway: _gateway.GatewaySpec
) -> Dict[str, Dict[str, str]]:
    """Return the optional variables by service, with those that follow from others."""
    places = {place: dict(variables) for place, variables in spec.variables.items() if place}
    if spec.options["gateway"] == "kong" and _kong.environment(gateway):
        places["api-gw"] = {**_kong.environment(gateway), **places.get("api-gw", {})}
    auth = places.get("auth", {})
    if any(name.startswith(("GOTRUE_RATE_LIMIT_", "GOTRUE_SAML_RATE_LIMIT_")) for name in auth):
        # Without it Auth does not tell clients apart and leaves out the limits that are for each of them.
        auth.setdefault("GOTRUE_RATE_LIMIT_HEADER", "X-Forwarded-For")
    if any(auth.get("GOTRUE_MFA_WEB_AUTHN_{0}_ENABLED".format(what)) == "true" for what in ("ENROLL", "VERIFY")):
        auth.setdefault("GOTRUE_WEBAUTHN_RP_ID", urlsplit(settings["SITE_URL"]).hostname or "")
        auth.setdefault("GOTRUE_WEBAUTHN_RP_DISPLAY_NAME", spec.name)
        auth.setdefault("GOTRUE_WEBAUTHN_RP_ORIGINS", origin_of(settings["SITE_URL"]))
    for name in [name for name in auth if name.startswith("GOTRUE_EXTERNAL_") and name.endswith("_ENABLED")]:
        auth.setdefault(name[: -len("ENABLED")] + "REDIRECT_URI", settings["API_EXTERNAL_URL"] + "/callback")
    return places


def cors_origins(spec: InstanceSpec, settings: Mapping[str, str]) -> Tuple[str, ...]:
    """Return the origins that browsers may call the gateway from: what was asked for, else where the application is."""
    if spec.options["cors_origins"]:
        return tuple(spec.options["cors_origins"])
    urls_of = [settings["SUPABASE_PUBLIC_URL"], settings["SITE_URL"]]
    # A pattern (https://*.example.com/**) and the scheme of a mobile application name no origin.
    urls_of += [url for url in spec.options["redirect_urls"] if _gateway.url_origin(url) is not None]
    return tuple(sorted({origin_of(url) for url in urls_of}))


def _gateway_spec(
    spec: InstanceSpec, allocation: Allocation, settings: Mapping[str, str], keys: Mapping[str, str]
) -> _gateway.GatewaySpec:
    limits = spec.options["limits"]
    return _gateway.GatewaySpec(
        services=spec.services,
        anon_key=keys["ANON_KEY"],
        service_role_key=keys["SERVICE_ROLE_KEY"],
        publishable_key=keys["SUPABASE_PUBLISHABLE_KEY"],
        secret_key=keys["SUPABASE_SECRET_KEY"],
        anon_key_asymmetric=keys["ANON_KEY_ASYMMETRIC"],
        service_role_key_asymmetric=keys["SERVICE_ROLE_KEY_ASYMMETRIC"],
        dashboard_username=settings["DASHBOARD_USERNAME"],
        dashboard_password=keys["DASHBOARD_PASSWORD"],
        public_url=settings["SUPABASE_PUBLIC_URL"],
        issuer=settings["API_EXTERNAL_URL"],
        cors_origins=cors_origins(spec, settings),
        trusted_hops=limits["trusted_proxies"],
        requests_per_second=limits["requests_per_second"],
        burst=limits["burst"],
        allow_from=tuple(limits["allow_from"]),
        subnet=allocation.subnet,
    )


def _variable_name(prefix: str, service: str) -> str:
    return "MULTIBASE_{0}_{1}".format(prefix, service.upper().replace("-", "_"))


def _compose_file_list(spec: InstanceSpec, facts: HostFacts, override: bool) -> List[str]:
    """Return the Compose files of an instance in the order in which they lie over each other."""
    logs, pgbouncer = "analytics" in spec.services, "pgbouncer" in spec.services
    conditions = (
        (START_INTERVAL_OVERLAY, facts.start_interval),
        ("overlays/kong.yml", spec.options["gateway"] == "kong"),
        ("overlays/logs.yml", logs),
        ("overlays/start-interval-logs.yml", logs and facts.start_interval),
        ("overlays/pgbouncer.yml", pgbouncer),
        ("overlays/start-interval-pgbouncer.yml", pgbouncer and facts.start_interval),
        ("overlays/s3.yml", spec.options["storage"]["backend"] == "s3"),
        ("overlays/external-postgres.yml", spec.external_database),
        *(("overlays/expose-{0}.yml".format(what), what in spec.options["expose"]) for what in _EXPOSED),
        (OVERRIDE_FILE, override),
    )
    return [COMPOSE_FILE] + [file for file, wanted in conditions if wanted]


def _own_variables(
    spec: InstanceSpec,
    release: Release,
    allocation: Allocation,
    facts: HostFacts,
    compose_files: Sequence[str],
    resources: Mapping[str, Share],
    digests: Mapping[str, str],
) -> Dict[str, str]:
    """Return the variables that upstream does not have. Services that are off keep theirs: Compose reads them all."""
    base = allocation.port_base
    own = {
        "COMPOSE_PROJECT_NAME": allocation.project,
        "COMPOSE_FILE": ":".join(compose_files),
        "COMPOSE_PROFILES": ",".join(sorted(spec.services - {"api-gw", "db"})),
        "MULTIBASE_INSTANCE": spec.name,
        "MULTIBASE_PROJECT_DIR": Layout(facts.root).project(spec.name),
        "MULTIBASE_BIND_ADDRESS": spec.options["bind_address"],
        "MULTIBASE_SUBNET": allocation.subnet,
    }
    own.update({variable: str(base + PORT_OFFSETS[purpose]) for purpose, variable in _PORT_VARIABLES.items()})
    images = release.images[spec.options["image_set"]]
    smallest = min(resources.values(), key=lambda share: (share.memory, share.cpus))
    for service in release.services:
        share = resources.get(service, smallest)
        own[_variable_name("IMAGE", service)] = spec.images.get(service, images[service])
        own[_variable_name("MEMORY", service)] = "{0}m".format(share.memory)
        own[_variable_name("CPUS", service)] = "{0:.2f}".format(share.cpus)
        own[_variable_name("CPU_SHARES", service)] = str(share.cpu_shares)
    for service in sorted(digests):
        own[_variable_name("CONFIG", service)] = digests[service]
    return own


_PORT_VARIABLES = {
    "gateway_http": "API_GW_HTTP_PORT",
    "gateway_https": "KONG_HTTPS_PORT",
    "studio": "STUDIO_PUBLISHED_PORT",
    "pooler_session": "POOLER_PROXY_PORT_SESSION",
    "pooler_transaction": "POOLER_PROXY_PORT_TRANSACTION",
    "postgres": "POSTGRES_PUBLISHED_PORT",
    "analytics": "ANALYTICS_PUBLISHED_PORT",
}


@dataclass(frozen=True)
class HostFiles:
    """What of an existing instance's directory decides how it is rendered again.

    ``env`` is the text of its ``.env``, ``ours`` the names of the variables there that Multibase wrote; everything else
    in it is the user's. ``override`` says whether the user has a ``docker-compose.override.yml``;
    ``secrets_by_hand`` are those of the user's secrets in it that no option gave.
    """

    env: str = ""
    ours: FrozenSet[str] = frozenset()
    override: bool = False
    secrets_by_hand: FrozenSet[str] = frozenset()


def render_instance(
    spec: InstanceSpec,
    release: Release,
    allocation: Allocation,
    secrets: Mapping[str, Mapping[str, str]],
    facts: HostFacts,
    salt: str,
    found: HostFiles = HostFiles(),
) -> Rendered:
    """Render an instance.

    ``secrets`` maps a place to secrets: ``""`` to all generated ones and the user's in ``.env``, a service to the
    user's in its environment file; ``salt`` is the instance's own, for fingerprints.
    """
    settings = _settings(spec, allocation)
    keys = _secrets.variables(secrets[""], **spec.options["keys"])
    resources = shares(
        spec.size,
        memory_weights(spec.options, release),
        release.cpu_weights,
        spec.services,
        spec.options["cpu_burst"],
        facts.cpus,
    )
    compose_files = _compose_file_list(spec, facts, found.override)

    contents: Dict[str, bytes] = {path: text.encode("utf-8") for path, text in release.files.items()}
    gateway = _gateway_spec(spec, allocation, settings, keys)
    text_of = _kong.render if spec.options["gateway"] == "kong" else _gateway.render
    contents[GATEWAY_FILES[spec.options["gateway"]]] = text_of(gateway).encode("utf-8")
    digests = {
        service: hashlib.sha256(b"\0".join(contents.get(path, b"") for path in paths)).hexdigest()[:16]
        for service, paths in release.mounted.items()
    }
    own = _own_variables(spec, release, allocation, facts, compose_files, resources, digests)
    sections: List[Tuple[str, Mapping[str, str]]] = list(zip(_HEADINGS, (own, settings, keys)))
    if spec.variables.get(""):
        sections.insert(2, (_ENV_HEADING + ", ".join(spec.variables[""]), spec.variables[""]))
    variables = {name: value for _heading, part in sections for name, value in part.items()}
    hand_written: List[str] = []
    if found.env:
        headings = [*_HEADINGS, *(_ENV_HEADING + names for names in _env_lists(found.env))]
        hand_written = _envfile.hand_written(found.env, found.ours | set(variables) | _secrets.SECRET_NAMES, headings)

    files: Dict[str, Tuple[bytes, int]] = {
        path: (content, 0o644) for path, content in contents.items() if path not in release.seed_files
    }
    files[ENV_FILE] = (_envfile.render(sections, hand_written).encode("utf-8"), 0o600)
    optional = _environment_variables(spec, settings, gateway)
    for service in sorted(set(optional) | (set(secrets) - {""})):
        theirs = secrets.get(service, {})
        # What follows from other options gives way to what the user set.
        open_ones = {name: value for name, value in optional.get(service, {}).items() if name not in theirs}
        parts = (dict(sorted(open_ones.items())), dict(sorted(theirs.items())))
        text = _envfile.render(list(zip(_ENVIRONMENT_HEADINGS, parts))) + ENVIRONMENT_END
        files[environment_file(service)] = (text.encode("utf-8"), 0o600)
    user_secrets = _user_secret_names(secrets, found.secrets_by_hand)
    manifest: Dict[str, Any] = {
        "schema": SCHEMA,
        "name": spec.name,
        "project": allocation.project,
        "release": release.name,
        "gateway": spec.options["gateway"],
        "port_base": allocation.port_base,
        "subnet": allocation.subnet,
        "bind_address": spec.options["bind_address"],
        "ports": published_ports(spec, allocation),
        "urls": urls(spec, allocation),
        "services": sorted(spec.services),
        "size": size_name(spec),
        "resources": {
            "cpus": spec.size.cpus,
            "memory": spec.size.memory,
            "services": {service: share.as_dict() for service, share in resources.items()},
        },
        "environment": spec.options["environment"],
        "labels": {name: as_text(value) for name, value in spec.options["labels"].items()},
        "blueprint": spec.options["blueprint"],
        "overlays": compose_files,
        "declared": spec.declared,
        "start_interval": facts.start_interval,
        "salt": salt,
        "secrets": {name: _secrets.fingerprint(value, salt) for name, value in sorted(_secrets.in_use(keys).items())},
        # Those that are not used at the moment, and must not be lost all the same.
        "put_aside": {
            name: _secrets.fingerprint(value, salt) for name, value in sorted(_secrets.put_aside(keys).items())
        },
        # What the user set beyond the options, and which secrets are the user's: names by place, never values.
        "env": {place: sorted(names) for place, names in sorted(_free_names(spec).items()) if names},
        "user_secrets": user_secrets,
        "user_fingerprints": {
            place: {name: _secrets.fingerprint(secrets[place][name], salt) for name in names}
            for place, names in user_secrets.items()
        },
        "managed": sorted(set(files) - {ENV_FILE}),
        # What of the .env is ours; anything else there was added by hand.
        "variables": sorted(variables),
    }
    return Rendered(
        files=files,
        seeds={path: (contents[path], 0o644) for path in sorted(release.seed_files)},
        directories=release.directories,
        variables=variables,
        manifest=manifest,
    )


def _env_lists(text: str) -> List[str]:
    """Return what stands behind our heading of the option env in the text of a ``.env``, as it stands there."""
    prefix = "# " + _ENV_HEADING
    return [line[len(prefix) :].rstrip() for line in text.split("\n") if line.startswith(prefix)]


def env_names(text: str) -> FrozenSet[str]:
    """Return the names of the variables that the option env gave to the text of a ``.env``."""
    return frozenset(name for names in _env_lists(text) for name in names.split(", "))


def size_name(spec: InstanceSpec) -> str:
    """Return how the size is shown: its name, or what it amounts to."""
    size = spec.options["size"]
    return size if isinstance(size, str) else "{0:g} CPU, {1} MiB".format(spec.size.cpus, spec.size.memory)


def _free_names(spec: InstanceSpec) -> Dict[str, List[str]]:
    places: Dict[str, List[str]] = {}
    for key, value in spec.options["env"].items():
        if isinstance(value, Mapping):
            places.setdefault(key, []).extend(value)
        else:
            places.setdefault("", []).append(key)
    return places


def _user_secret_names(secrets: Mapping[str, Mapping[str, str]], by_hand: FrozenSet[str]) -> Dict[str, List[str]]:
    """Return the names of the user's secrets by place. In ``.env`` those of options are always set, if only empty."""
    names = {place: sorted(values) for place, values in secrets.items() if place and values}
    names[""] = [name for name in _secrets.USER_NAMES if secrets[""].get(name) and name not in by_hand]
    return names
