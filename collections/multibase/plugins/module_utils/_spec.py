# SPDX-License-Identifier: GPL-3.0-or-later
# This file is private to the multibase.supabase collection; it may change at any time.
"""From what the user declared to what an instance shall be: merging, defaults, and every check that needs no host."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from typing import Any, Container, Dict, FrozenSet, List, Mapping, Optional, Sequence, Tuple
from urllib.parse import urlsplit

from . import _envfile, _gateway
from ._names import name_problem
from ._ports import base_problem
from ._release import REQUIRED_SERVICES, Release

DEFAULT_RELEASE = "0.8.2"
_DURATION = re.compile(r"[1-9][0-9]{0,4}(?:s|m)\Z")
_IMAGE = re.compile(r"[a-z0-9][A-Za-z0-9._/:@-]{0,254}\Z")
_REGISTRY = re.compile(r"[a-z0-9][a-z0-9.-]*(?::[0-9]{1,5})?(?:/[a-z0-9._/-]+)?\Z")
_USERNAME = re.compile(r"[A-Za-z0-9._@-]{1,64}\Z")
_SCHEMA = re.compile(r"[a-z_][a-z0-9_$]{0,62}\Z")
_EXPOSED_SERVICE = {"postgres": "db", "studio": "studio"}

# What an option is when nobody says otherwise.
DEFAULTS: Dict[str, Any] = {
    "release": DEFAULT_RELEASE,
    "image_set": "upstream",
    "image_registry": "",
    "images": {},
    "services": {},
    "size": "medium",
    "bind_address": "127.0.0.1",
    "expose": [],
    "public_url": "",
    "site_url": "",
    "redirect_urls": [],
    "cors_origins": [],
    "dashboard_username": "supabase",
    "health_interval": "30s",
    "port_base": None,
    "auth": {
        "disable_signup": False,
        "email_signup": True,
        "email_autoconfirm": False,
        "anonymous_users": False,
        "jwt_expiry": 3600,
    },
    "smtp": {"host": "", "port": 587, "user": "", "admin_email": "", "sender_name": ""},
    "studio": {"organization": "", "project": ""},
    "pooler": {"pool_size": 20, "max_clients": 100},
    "rest": {"schemas": ["public", "graphql_public"], "max_rows": 1000},
    "storage": {"file_size_limit": 52428800},
    "functions": {"verify_jwt": False},
}


@dataclass(frozen=True)
class InstanceSpec:
    """What an instance shall be, complete and checked, but for what only the host can say (ports, subnet, secrets).

    ``options`` holds the merged options without secrets, in the shape of ``DEFAULTS``; ``declared`` is what is
    recorded, so that a later run may leave options out. ``smtp_password`` is None when none was given.
    """

    name: str
    options: Mapping[str, Any]
    declared: Mapping[str, Any]
    services: FrozenSet[str]
    images: Mapping[str, str]
    smtp_password: Optional[str]


def without_unset(options: Mapping[str, Any]) -> Dict[str, Any]:
    """Drop what an argument spec fills in as None, at every level."""
    result: Dict[str, Any] = {}
    for key, value in options.items():
        if isinstance(value, Mapping):
            result[key] = without_unset(value)
        elif value is not None:
            result[key] = value
    return result


def merge(*layers: Mapping[str, Any]) -> Dict[str, Any]:
    """Lay options over each other, the last one on top. Dictionaries merge, lists and scalars replace."""
    result: Dict[str, Any] = {}
    for layer in layers:
        for key, value in layer.items():
            below = result.get(key)
            result[key] = merge(below, value) if isinstance(value, Mapping) and isinstance(below, Mapping) else value
    return result


def _boolean(value: Any) -> Optional[bool]:
    """Read a truth value as Ansible's users write it, or return None."""
    if isinstance(value, bool):
        return value
    text = str(value).strip().lower()
    if text in ("true", "yes", "on", "1"):
        return True
    return False if text in ("false", "no", "off", "0") else None


def _shown(value: str) -> str:
    """Return a value as it may be quoted back: what stands before an @ may be a password."""
    return repr(re.sub(r"(^|//)[^/@]*@", r"\1***@", value))


def _url_problem(url: str) -> Optional[str]:
    try:
        parts = urlsplit(url)
        port_valid = parts.port is None or parts.port > 0
    except ValueError as error:
        return str(error)
    if parts.scheme not in ("http", "https") or not parts.hostname or not port_valid:
        return "it must begin with http:// or https:// and name a host"
    if parts.username or parts.password or parts.query or parts.fragment:
        return "it must hold no user, query or fragment"
    if re.search(r"[\s\"'\\<>{}|^`$]", url) or not url.isascii() or not url.isprintable():
        return "it holds characters that no URL has"
    if "?" in url or "#" in url or "@" in parts.netloc or _gateway.url_origin(url) is None:
        return "its host must be a name of letters, digits, dots and hyphens, or an address"
    return None


def enabled_services(choice: Mapping[str, Any], release: Release) -> Tuple[FrozenSet[str], List[str]]:
    """Return the services that shall run, and what is wrong with the user's choice (service -> truth value)."""
    problems: List[str] = []
    enabled = set(release.services)
    for service, value in choice.items():
        wanted = _boolean(value)
        if service not in release.weights:
            problems.append(
                "unknown service {0!r}; release {1} has {2}".format(service, release.name, ", ".join(release.services))
            )
        elif wanted is None:
            problems.append("services.{0}: {1!r} is neither true nor false".format(service, value))
        elif not wanted and service in REQUIRED_SERVICES:
            problems.append("service {0} cannot be switched off".format(service))
        elif not wanted:
            enabled.discard(service)
    for service in sorted(enabled):
        for needed in release.requires.get(service, ()):
            if needed not in enabled:
                problems.append(
                    "service {0} needs {1}, which is switched off; switch off {0} as well, or {1} on".format(
                        service, needed
                    )
                )
    return frozenset(enabled), problems


def _images(options: Mapping[str, Any], release: Release) -> Tuple[Dict[str, str], List[str]]:
    problems: List[str] = []
    images = dict(release.images.get(options["image_set"], {}))
    if not images:
        problems.append(
            "image_set {0!r} is not part of release {1}; it has {2}".format(
                options["image_set"], release.name, ", ".join(sorted(release.images))
            )
        )
    registry = options["image_registry"].rstrip("/")
    if registry and not _REGISTRY.match(registry):
        problems.append("image_registry {0} is not of the form host[:port][/path]".format(_shown(registry)))
    if registry:
        images = {service: "{0}/{1}".format(registry, image) for service, image in images.items()}
    for service, image in options["images"].items():
        if service not in release.weights:
            problems.append(
                "images: unknown service {0!r}; release {1} has {2}".format(
                    service, release.name, ", ".join(release.services)
                )
            )
        elif not _IMAGE.match(str(image)):
            problems.append("images.{0}: {1} is no image reference".format(service, _shown(str(image))))
        else:
            images[service] = str(image)
    return images, problems


def _option_problems(options: Mapping[str, Any], services: FrozenSet[str]) -> List[str]:
    """Check the values of merged options, one sentence per mistake."""
    problems: List[str] = []
    if options["port_base"] is not None:
        problem = base_problem(options["port_base"])
        if problem:
            problems.append(problem)
    try:
        address = ipaddress.ip_address(options["bind_address"])
        if address.version != 4:
            problems.append("bind_address {0}: only IPv4 addresses are supported".format(address))
    except ValueError:
        problems.append("bind_address {0!r} is no IPv4 address".format(options["bind_address"]))
    for key in ("public_url", "site_url"):
        problem = _url_problem(options[key]) if options[key] else None
        if problem is None and key == "public_url" and urlsplit(options[key]).path.strip("/"):
            problem = "the gateway serves whole hosts; a path is not possible"
        if problem:
            problems.append("{0} {1}: {2}".format(key, _shown(options[key]), problem))
    if "*" in options["cors_origins"] and len(options["cors_origins"]) > 1:
        problems.append("cors_origins: '*' allows every origin, so nothing else can stand beside it")
    for origin in options["cors_origins"]:
        problem = None if origin == "*" else _url_problem(origin)
        if problem is None and origin != "*" and urlsplit(origin).path:
            problem = "an origin has no path, not even a slash"
        if problem:
            problems.append("cors_origins {0}: {1}".format(_shown(origin), problem))
    for url in options["redirect_urls"]:
        if not url or re.search(r"[\s,]", url) or _envfile.value_problem(url):
            problems.append("redirect_urls {0}: must be a URL without spaces and commas".format(_shown(url)))
    if not _DURATION.match(options["health_interval"]):
        problems.append("health_interval {0!r} is no duration such as 30s or 2m".format(options["health_interval"]))
    if not _USERNAME.match(options["dashboard_username"]):
        problems.append("dashboard_username: 1 to 64 letters, digits and . _ @ - are allowed")
    for key, value, low, high in (
        ("auth.jwt_expiry", options["auth"]["jwt_expiry"], 60, 604800),
        ("smtp.port", options["smtp"]["port"], 1, 65535),
        ("pooler.pool_size", options["pooler"]["pool_size"], 1, 1000),
        ("pooler.max_clients", options["pooler"]["max_clients"], 1, 100000),
        ("rest.max_rows", options["rest"]["max_rows"], 1, 10000000),
        ("storage.file_size_limit", options["storage"]["file_size_limit"], 1, 5 * 1024**4),
    ):
        if not low <= value <= high:
            problems.append("{0} {1} is outside {2} to {3}".format(key, value, low, high))
    if not options["rest"]["schemas"]:
        problems.append("rest.schemas is empty; at least one schema is needed")
    for schema in options["rest"]["schemas"]:
        if not _SCHEMA.match(schema):
            problems.append("rest.schemas: {0!r} is no name of a schema".format(schema))
    for exposed in options["expose"]:
        if _EXPOSED_SERVICE[exposed] not in services:
            problems.append("expose: {0} is switched off".format(exposed))
    for group in ("smtp", "studio"):
        for key, value in options[group].items():
            problem = _envfile.value_problem(str(value))
            if problem:
                problems.append("{0}.{1} {2}".format(group, key, problem))
    return problems


def build(
    declared: Mapping[str, Any], defaults: Mapping[str, Any], release: Release
) -> Tuple[InstanceSpec, List[str]]:
    """Build the spec of one present instance from its own options and the user's ``defaults``, unset ones left out.

    Returns the spec and what is wrong with it, one sentence per mistake without the name of the instance.
    """
    plain = {key: value for key, value in declared.items() if key not in ("name", "state")}
    options = merge(DEFAULTS, defaults, plain)
    services, problems = enabled_services(options["services"], release)
    images, image_problems = _images(options, release)
    problems += image_problems + _option_problems(options, services)
    password = options["smtp"].pop("password", None)
    if password is not None and _envfile.value_problem(password):
        problems.append("smtp.password " + _envfile.value_problem(password))
    recorded = merge(plain)
    if "smtp" in recorded:
        recorded["smtp"] = {key: value for key, value in recorded["smtp"].items() if key != "password"}
    return (
        InstanceSpec(
            name=str(declared.get("name")),
            options=options,
            declared=recorded,
            services=services,
            images={service: images[service] for service in sorted(images)},
            smtp_password=password,
        ),
        problems,
    )


def name_problems(names: Sequence[Any]) -> List[str]:
    """Check the names of all declared instances: each one valid, none twice."""
    problems: List[str] = []
    seen: Dict[Any, int] = {}
    for position, name in enumerate(names, start=1):
        problem = name_problem(name)
        if problem:
            problems.append("instance number {0}: {1}".format(position, problem))
        elif name in seen:
            problems.append("instance {0}: declared twice (numbers {1} and {2})".format(name, seen[name], position))
        else:
            seen[name] = position
    return problems


def declaration_problems(
    items: Sequence[Mapping[str, Any]],
    defaults: Mapping[str, Any],
    releases: Mapping[str, Release],
    confirmed: Container[str],
) -> List[str]:
    """Say everything that is wrong with a declaration, as far as that can be said without the host.

    ``items`` have ``name`` and ``state``; unset options are left out. One sentence per mistake, naming its instance.
    """
    problems = name_problems([item.get("name") for item in items])
    bases: Dict[int, str] = {}
    for item in items:
        name = item.get("name")
        if item.get("state") == "absent":
            if name not in confirmed:
                problems.append(
                    "instance {0}: deleting it deletes its data; name it in 'confirmed' as well".format(name)
                )
            continue
        found = build_from(item, defaults, releases)[1]
        base = item.get("port_base")
        if base is not None and base in bases:
            found.append("port_base {0} is also asked for by {1}".format(base, bases[base]))
        elif base is not None:
            bases[base] = str(name)
        problems += ["instance {0}: {1}".format(name, problem) for problem in found]
    return problems


def build_from(
    declared: Mapping[str, Any], defaults: Mapping[str, Any], releases: Mapping[str, Release]
) -> Tuple[Optional[InstanceSpec], List[str]]:
    """Like ``build``, with the release that the options name; without a spec when there is no such release."""
    name = merge(defaults, declared).get("release", DEFAULT_RELEASE)
    release = releases.get(name)
    if release is None:
        there = ", ".join(sorted(releases)) or "none"
        return None, ["unknown release {0!r}; there are: {1}".format(name, there)]
    return build(declared, defaults, release)
