# SPDX-License-Identifier: GPL-3.0-or-later
# This file is private to the multibase.supabase collection; it may change at any time.
"""Whether the values of options make sense, each for itself and together. No value that may be a secret is quoted."""

from __future__ import annotations

import ipaddress
import re
from typing import Any, FrozenSet, List, Mapping, Optional
from urllib.parse import urlsplit

from . import _envfile, _gateway
from ._ports import base_problem
from ._settings import BY_OPTION, DEFAULTS, leaves, value_at

_DURATION = re.compile(r"(?:[0-9]+(?:\.[0-9]+)?(?:ms|s|m|h))+\Z")
_INTERVAL = re.compile(r"[1-9][0-9]{0,4}(?:s|m)\Z")
_SCHEMA = re.compile(r"[a-z_][a-z0-9_$]{0,62}\Z")
_WORD = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}\Z")
_DOMAIN = re.compile(r"[a-z0-9](?:[a-z0-9-]*[a-z0-9])?(?:\.[a-z0-9](?:[a-z0-9-]*[a-z0-9])?)+\Z")
_HOST = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9.-]*[A-Za-z0-9])?\Z")
# Anywhere in a URL that a login may return to, this lets it return to anybody.
_OPEN_REDIRECT = re.compile(r"(?:\*+|https?://\*+(?:[:/].*)?)\Z")
_EXPOSED_SERVICE = {"postgres": "db", "studio": "studio", "analytics": "analytics"}
DATABASE_VERSIONS = (15, 17)
_THIS_MACHINE = ("localhost", "127.0.0.1", "::1", "host.docker.internal")


def as_boolean(value: Any) -> Optional[bool]:
    """Read a truth value as Ansible's users write it, or return None."""
    if isinstance(value, bool):
        return value
    text = str(value).strip().lower()
    if text in ("true", "t", "yes", "y", "on", "1"):
        return True
    return False if text in ("false", "f", "no", "n", "off", "0") else None


def shown(value: str) -> str:
    """Return a value as it may be quoted back: what stands before an @ may be a password."""
    return repr(re.sub(r"(^|//)[^/@]*@", r"\1***@", value))


def url_problem(url: str) -> Optional[str]:
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


_SHAPES = {
    "bucket": (_WORD, "letters, digits and . _ - are allowed"),
    "domain": (_DOMAIN, "it must be a name such as acme.example.com"),
    "duration": (_DURATION, "it is no duration such as 60s or 24h"),
    "base64": (re.compile(r"[A-Za-z0-9+/]{64,}={0,2}\Z"), "it is no key in base64 on one line"),
    "hook_secrets": (
        re.compile(r"v1a?,whsec_[A-Za-z0-9+/=_-]{16,}(?:\|v1a?,whsec_[A-Za-z0-9+/=_-]{16,})*\Z"),
        "it is nothing such as v1,whsec_BASE64 (several separated by |)",
    ),
    "host": (_HOST, "it is no name of a host"),
    "identifier": (_SCHEMA, "it is no name of a database"),
    "schema": (_SCHEMA, "it is no name of a schema"),
    "interval": (_INTERVAL, "it is no duration such as 30s or 2m"),
    "path": (re.compile(r"/[A-Za-z0-9._~/-]*\Z"), "it is no absolute path"),
    "tenant": (_WORD, "letters, digits and . _ - are allowed"),
    "username": (re.compile(r"[A-Za-z0-9._@-]{1,64}\Z"), "1 to 64 letters, digits and . _ @ - are allowed"),
}


def shape_problem(shape: str, value: str) -> Optional[str]:
    """Say what is wrong with the shape of a text, or return None. An empty text always passes: it is not given."""
    if not value or not shape:
        return None
    if shape == "url":
        return url_problem(value)
    if shape == "link":
        return _link_problem(value)
    if shape == "origin":
        return _origin_problem(value)
    if shape == "hook":
        return _hook_problem(value)
    pattern, what = _SHAPES[shape]
    return None if pattern.match(value) else what


def _origin_problem(value: str) -> Optional[str]:
    return url_problem(value) or ("an origin has no path, not even a slash" if urlsplit(value).path else None)


def _link_problem(value: str) -> Optional[str]:
    """Check an address that may have a query, as the signed ones of a file store do."""
    if re.search(r"[\s\"'\\<>{}|^`]", value) or not value.isascii() or not value.isprintable():
        return "it holds characters that no URL has"
    return url_problem(re.split(r"[?#]", value, maxsplit=1)[0].replace("$", ""))


def _hook_problem(value: str) -> Optional[str]:
    """Check a hook as Auth does when it starts: plain HTTP goes no further than this machine."""
    if re.match(r"pg-functions://[A-Za-z0-9_]+/[A-Za-z0-9_]+/[A-Za-z0-9_]+\Z", value):
        return None
    problem = _link_problem(value)
    if problem:
        return "it is neither pg-functions://postgres/SCHEMA/FUNCTION nor a URL: " + problem
    parts = urlsplit(value)
    if parts.scheme == "http" and parts.hostname not in _THIS_MACHINE:
        return "Auth calls hooks elsewhere by https only"
    return None


def value_problems(given: Mapping[str, Any]) -> List[str]:
    """Check every option that is given by what the table of settings says of it. Secrets are never quoted."""
    problems: List[str] = []
    for path, value in leaves(given):
        setting = BY_OPTION.get(path)
        if setting is None or value is None or setting.secret:
            continue
        if setting.variable and not setting.service and setting.default and value in ("", []):
            # The Compose files demand a value, and without it not even a stop would work.
            problems.append("{0} is empty".format(path))
            continue
        if setting.kind in ("int", "number") and setting.low is not None and setting.high is not None:
            if not setting.low <= value <= setting.high:
                problems.append("{0} {1} is outside {2} to {3}".format(path, value, setting.low, setting.high))
        elif setting.kind == "str" and setting.choices and value not in setting.choices:
            problems.append("{0} {1!r}: there are {2}".format(path, value, ", ".join(setting.choices)))
        elif setting.kind == "str":
            problem = _envfile.value_problem(str(value))
            if problem:
                problems.append("{0} {1}".format(path, problem))
            elif setting.shape:
                problem = shape_problem(setting.shape, str(value)) or ""
                if problem:
                    problems.append("{0} {1}: {2}".format(path, shown(str(value)), problem))
        elif setting.kind == "list" and setting.shape:
            for item in value:
                problem = shape_problem(setting.shape, str(item)) or ""
                if problem or not item or "," in str(item):
                    problems.append("{0} {1}: {2}".format(path, shown(str(item)), problem or "it is empty, or a list"))
    return problems


def option_problems(options: Mapping[str, Any], services: FrozenSet[str]) -> List[str]:
    """Check what merged options mean together, one sentence per mistake."""
    problems: List[str] = []
    if options.get("port_base") is not None:
        problem = base_problem(options["port_base"])
        if problem:
            problems.append(problem)
    try:
        address = ipaddress.ip_address(options["bind_address"])
        if address.version != 4:
            problems.append("bind_address {0}: only IPv4 addresses are supported".format(address))
    except ValueError:
        problems.append("bind_address {0!r} is no IPv4 address".format(options["bind_address"]))
    problems += _address_problems(options)
    for exposed in options["expose"]:
        if _EXPOSED_SERVICE[exposed] not in services:
            problems.append("expose: {0} is switched off".format(exposed))
    limits = options["limits"]
    if limits["burst"] and not limits["requests_per_second"]:
        problems.append("limits.burst means nothing without limits.requests_per_second")
    elif limits["burst"] and limits["burst"] < limits["requests_per_second"]:
        problems.append("limits.burst {0} is less than limits.requests_per_second".format(limits["burst"]))
    problems += [
        "limits.allow_from {0}: it must be a network such as 192.0.2.0/24 or 2001:db8::/32, or an address".format(
            shown(str(network))
        )
        for network in limits["allow_from"]
        if _gateway.parse_network(network) is None
    ]
    if options["gateway"] == "kong" and limits["trusted_proxies"] > 1:
        problems.append("limits.trusted_proxies {0}: Kong can trust one".format(limits["trusted_proxies"]))
    if not options["database"]["name"]:
        problems.append("database.name is empty")
    elif not options["database"]["host"] and options["database"]["name"] != DEFAULTS["database"]["name"]:
        problems.append(
            "database.name: the database of an instance of its own is always {0}".format(DEFAULTS["database"]["name"])
        )
    if options["database"]["version"] not in DATABASE_VERSIONS:
        problems.append(
            "database.version {0}: there are {1}".format(
                options["database"]["version"], " and ".join(str(version) for version in DATABASE_VERSIONS)
            )
        )
    for key, value in options["labels"].items():
        if isinstance(value, (Mapping, list)) or not _WORD.match(str(key)):
            problems.append("labels: {0!r} is no name with one value".format(key))
    return problems


def _address_problems(options: Mapping[str, Any]) -> List[str]:
    problems: List[str] = []
    for key in ("public_url", "site_url"):
        problem = url_problem(options[key]) if options[key] else None
        if problem is None and key == "public_url" and urlsplit(options[key]).path.strip("/"):
            problem = "the gateway serves whole hosts; a path is not possible"
        if problem:
            problems.append("{0} {1}: {2}".format(key, shown(options[key]), problem))
    if "*" in options["cors_origins"] and len(options["cors_origins"]) > 1:
        problems.append("cors_origins: '*' allows every origin, so nothing else can stand beside it")
    for origin in options["cors_origins"]:
        problem = None if origin == "*" else _origin_problem(origin)
        if problem:
            problems.append("cors_origins {0}: {1}".format(shown(origin), problem))
    for url in options["redirect_urls"]:
        if not url or re.search(r"[\s,]", url) or _envfile.value_problem(url):
            problems.append("redirect_urls {0}: must be a URL without spaces and commas".format(shown(url)))
    return problems


def dependency_problems(options: Mapping[str, Any]) -> List[str]:
    """Check that what is switched on has what it needs to work."""
    problems: List[str] = []
    for provider, chosen in (value_at(options, ("auth", "providers")) or {}).items():
        if chosen.get("enabled") and not chosen.get("client_id"):
            problems.append("auth.providers.{0} needs a client_id".format(provider))
    for hook, chosen in (value_at(options, ("auth", "hooks")) or {}).items():
        if chosen.get("enabled") and not chosen.get("uri"):
            problems.append("auth.hooks.{0} needs a uri".format(hook))
    if options["storage"]["backend"] == "s3" and options["storage"]["bucket"] == DEFAULTS["storage"]["bucket"]:
        problems.append("storage.backend s3 needs storage.bucket, the name of the bucket")
    sends_messages = value_at(options, ("auth", "sms", "provider")) or value_at(
        options, ("auth", "hooks", "send_sms", "enabled")
    )
    if options["auth"]["phone_signup"] and not sends_messages:
        problems.append("auth.phone_signup needs auth.sms.provider, or the hook send_sms")
    return problems


def warnings_of(options: Mapping[str, Any]) -> List[str]:
    found = [
        "redirect_urls {0} lets a login return to any host; whoever runs that host gets the user's token".format(url)
        for url in options["redirect_urls"]
        if _OPEN_REDIRECT.match(url)
    ]
    if "*" in options["cors_origins"]:
        found.append("cors_origins '*' lets every web site call the gateway from its visitors' browsers")
    return found
