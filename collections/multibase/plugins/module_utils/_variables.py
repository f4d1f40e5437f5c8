# SPDX-License-Identifier: GPL-3.0-or-later
# This file is private to the multibase.supabase collection; it may change at any time.
"""The user's own variables and secrets: where each belongs, and which names are not theirs to set.

A place is ``""`` for ``.env``, or the service whose environment file it is.
"""

from __future__ import annotations

import difflib
import re
from typing import Any, Dict, List, Mapping, Tuple

from . import _envfile, _secrets
from ._release import Release
from ._settings import BY_OPTION, SETTINGS, USER_SECRETS, as_text, leaves, value_at
from ._values import shape_problem

_OURS = re.compile(r"(?:COMPOSE|DOCKER|MULTIBASE)_")
_OPTION_OF: Dict[Tuple[str, str], str] = {
    (setting.service, setting.variable): setting.option for setting in SETTINGS if setting.variable
}
_WRITTEN = frozenset(
    {setting.variable for setting in SETTINGS if setting.variable and not setting.service}
    | _secrets.SECRET_NAMES
    | {
        "ADDITIONAL_REDIRECT_URLS",
        "API_EXTERNAL_URL",
        "API_GW_HTTP_PORT",
        "ANALYTICS_PUBLISHED_PORT",
        "KONG_HTTPS_PORT",
        "ENABLE_IMAGE_TRANSFORMATION",
        "POOLER_PROXY_PORT_SESSION",
        "POOLER_PROXY_PORT_TRANSACTION",
        "POOLER_TENANT_ID",
        "POSTGRES_DB",
        "POSTGRES_HOST",
        "POSTGRES_PORT",
        "POSTGRES_PUBLISHED_PORT",
        "SITE_URL",
        "SMTP_SENDER_NAME",
        "STUDIO_DEFAULT_PROJECT",
        "STUDIO_PUBLISHED_PORT",
        "SUPABASE_PUBLIC_URL",
    }
)


def _by_place(given: Mapping[str, Any], what: str, release: Release) -> Tuple[Dict[str, Dict[str, str]], List[str]]:
    """Sort ``env`` or ``secrets`` (``NAME: value`` and ``service: {NAME: value}``) by place, checking their shape."""
    places: Dict[str, Dict[str, str]] = {}
    problems: List[str] = []
    for key, value in given.items():
        if isinstance(value, Mapping):
            if key not in release.weights:
                problems.append(
                    "{0}: unknown service {1!r}; release {2} has {3}".format(
                        what, key, release.name, ", ".join(release.services)
                    )
                )
                continue
            place, variables = str(key), value
        else:
            place, variables = "", {key: value}
        where = "{0}.{1}".format(what, place) if place else what
        for name, content in variables.items():
            problem = _variable_problem(name, content)
            if problem:
                problems.append("{0}: {1}".format(where, problem))
            else:
                places.setdefault(place, {})[name] = _text(content)
    return places, problems


def _text(value: Any) -> str:
    """Return what the user wrote as YAML, as text; truth values as most programs read them."""
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value)


def _variable_problem(name: Any, content: Any) -> str:
    problem = _envfile.name_problem(name) if isinstance(name, str) else "is no text"
    if problem:
        return "the name {0!r} {1}".format(name, problem)
    if content is None or isinstance(content, (Mapping, list)):
        return "{0} needs a text as its value".format(name)
    problem = _envfile.value_problem(_text(content))
    return "{0} {1}".format(name, problem) if problem else ""


def _taken(place: str, name: str, release: Release) -> str:
    """Say why a variable of the user cannot have this name at this place, or return an empty string."""
    if place:
        if name in release.environment.get(place, frozenset()):
            return "{0} is set by the Compose file of release {1}{2}".format(name, release.name, _hint(place, name))
        return ""
    if _OURS.match(name) or name in _WRITTEN:
        return "{0} is written by Multibase{1}".format(name, _hint(place, name))
    return ""


def _hint(place: str, name: str) -> str:
    option = _OPTION_OF.get((place, name)) or _OPTION_OF.get(("", name))
    return "; use the option {0}".format(option) if option else ""


def user_variables(
    options: Mapping[str, Any], given: Mapping[str, Any], release: Release
) -> Tuple[Dict[str, Dict[str, str]], List[str]]:
    """Return the optional variables by place: those of options that are given, and those of ``env``."""
    places: Dict[str, Dict[str, str]] = {}
    for path, value in leaves(given):
        setting = BY_OPTION.get(path)
        if setting is not None and setting.service and not setting.secret and value is not None:
            places.setdefault(setting.service, {})[setting.variable] = as_text(value)
    free, problems = _by_place(options["env"], "env", release)
    for place, variables in free.items():
        for name, value in variables.items():
            where = "env.{0}".format(place) if place else "env"
            taken = _taken(place, name, release)
            option = _OPTION_OF.get((place, name))
            if taken:
                problems.append("{0}: {1}".format(where, taken))
            elif option:
                problems.append("{0}: {1} has an option; use {2}".format(where, name, option))
            elif _envfile.looks_secret(name):
                problems.append(
                    "{0}: {1} looks like a secret; put it under secrets{2}, which is not recorded".format(
                        where, name, "." + place if place else ""
                    )
                )
            else:
                places.setdefault(place, {})[name] = value
    return places, problems


def user_secrets(given: Mapping[str, Any], release: Release) -> Tuple[Dict[str, Dict[str, str]], List[str]]:
    """Return the user's secrets by place: those of options, and those of ``secrets``."""
    problems: List[str] = []
    places: Dict[str, Dict[str, str]] = {}
    for path, value in leaves(given):
        setting = BY_OPTION.get(path)
        if setting is not None and setting.secret and setting.variable and value is not None:
            places.setdefault(setting.service, {})[setting.variable] = str(value)
    for variable, value in [pair for variables in places.values() for pair in variables.items()]:
        problems += _secret_problems(USER_SECRETS[variable].option, variable, value)
    free, found = _by_place(given.get("secrets") or {}, "secrets", release)
    problems += found
    for place, variables in free.items():
        for name, value in variables.items():
            known = USER_SECRETS.get(name)
            where = "secrets.{0}".format(place) if place else "secrets"
            if known is not None and place in ("", known.service):
                problems += _secret_problems("{0}.{1}".format(where, name), name, value)
                before = places.setdefault(known.service, {}).setdefault(name, value)
                if before != value:
                    problems.append(
                        "{0}: {1} is given by {2} too, with another value".format(where, name, known.option)
                    )
                continue
            taken = _taken(place, name, release)
            if taken:
                problems.append("{0}: {1}".format(where, taken))
            elif not place:
                near = difflib.get_close_matches(name, USER_SECRETS, n=3)
                problems.append(
                    "secrets: {0} is no secret that Multibase knows{1}; to hand it to a service, name that, as "
                    "secrets: {{functions: {{{0}: ...}}}}".format(
                        name, " (did you mean {0}?)".format(" or ".join(near)) if near else ""
                    )
                )
            else:
                places.setdefault(place, {})[name] = value
    return places, problems


def _secret_problems(label: str, variable: str, value: str) -> List[str]:
    """Check the shape of a secret that Multibase knows, without quoting it."""
    problem = _envfile.value_problem(value) or shape_problem(USER_SECRETS[variable].shape, value)
    return ["{0}: {1}".format(label, problem)] if problem else []


def needed_secrets(options: Mapping[str, Any]) -> List[Tuple[str, str, str]]:
    """Return the secrets that must be known by the time the instance is written: (place, variable, reason)."""
    needed: List[Tuple[str, str, str]] = []
    for provider, chosen in (value_at(options, ("auth", "providers")) or {}).items():
        if chosen.get("enabled"):
            needed.append(
                (
                    "auth",
                    "GOTRUE_EXTERNAL_{0}_SECRET".format(provider.upper()),
                    "auth.providers.{0} needs its secret".format(provider),
                )
            )
    if value_at(options, ("auth", "saml", "enabled")):
        needed.append(("auth", "GOTRUE_SAML_PRIVATE_KEY", "auth.saml.enabled needs auth.saml.private_key"))
    if value_at(options, ("auth", "captcha", "enabled")):
        needed.append(("auth", "GOTRUE_SECURITY_CAPTCHA_SECRET", "auth.captcha.enabled needs auth.captcha.secret"))
    # At Amazon's the keys may come from the machine (an instance profile).
    if options["storage"]["backend"] == "s3" and options["storage"]["s3"]["endpoint"]:
        for variable, option in (
            ("STORAGE_S3_ACCESS_KEY_ID", "access_key_id"),
            ("STORAGE_S3_SECRET_ACCESS_KEY", "secret_access_key"),
        ):
            needed.append(("", variable, "storage.s3.endpoint needs storage.s3.{0}".format(option)))
    return needed
