# SPDX-License-Identifier: GPL-3.0-or-later
# This file is private to the multibase.supabase collection; it may change at any time.
"""From what the user declared to what an instance shall be: merging, defaults, and every check that needs no host."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Container, Dict, FrozenSet, List, Mapping, Optional, Sequence, Tuple

from ._errors import MultibaseError
from ._names import name_problem
from ._release import Release
from ._services import choose_images, enabled_services
from ._settings import BY_OPTION, DEFAULT_RELEASE, DEFAULTS, USER_SECRETS, put_at, value_at
from ._sizes import SIZES, Size, parse_size
from ._values import dependency_problems, option_problems, value_problems, warnings_of
from ._variables import needed_secrets, user_secrets, user_variables

Variables = Mapping[str, str]
# Pasted into connection URLs by every service.
_URL_SAFE = re.compile(r"[A-Za-z0-9._~-]{8,128}\Z")


@dataclass(frozen=True)
class Layers:
    """What lies under an instance's own options: ``defaults``, and over them the blueprint that it names."""

    defaults: Mapping[str, Any]
    blueprints: Mapping[str, Mapping[str, Any]]


@dataclass(frozen=True)
class InstanceSpec:
    """What an instance shall be, complete and checked, but for what only the host can say (ports, subnet, secrets).

    ``options`` holds the merged options without secrets, in the shape of ``DEFAULTS``; ``declared`` is what is
    recorded, so that a later run may leave options out. ``variables`` and ``secrets`` map a place (``""`` for ``.env``,
    or the service whose environment file it is) to the optional variables and the user's secrets there; ``needed`` are
    secrets that must be among them or on the host already, each with the reason.
    """

    name: str
    options: Mapping[str, Any]
    declared: Mapping[str, Any]
    services: FrozenSet[str]
    images: Mapping[str, str]
    size: Size
    variables: Mapping[str, Variables]
    secrets: Mapping[str, Variables]
    needed: Tuple[Tuple[str, str, str], ...]
    database_password: Optional[str]
    warnings: Tuple[str, ...]

    @property
    def external_database(self) -> bool:
        """Whether the database is not one of the instance's own."""
        return bool(self.options["database"]["host"])


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


def without_secrets(options: Mapping[str, Any], below: str = "") -> Dict[str, Any]:
    """Return options without those that hold secrets, for what is recorded and rendered openly."""
    result: Dict[str, Any] = {}
    for key, value in options.items():
        setting = BY_OPTION.get(below + key)
        if setting is not None and setting.secret:
            continue
        if setting is None and isinstance(value, Mapping):
            result[key] = without_secrets(value, below + key + ".")
        else:
            result[key] = value
    return result


def _implied(given: Mapping[str, Any]) -> Dict[str, Any]:
    """Return that a login provider of which anything is given, and a hook with a URI, are enabled."""
    implied: Dict[str, Any] = {"auth": {"providers": {}, "hooks": {}}}
    for name, chosen in (value_at(given, ("auth", "providers")) or {}).items():
        if chosen:
            implied["auth"]["providers"][name] = {"enabled": True}
    for name, chosen in (value_at(given, ("auth", "hooks")) or {}).items():
        if chosen.get("uri"):
            implied["auth"]["hooks"][name] = {"enabled": True}
    return implied


def _with_options(layer: Mapping[str, Any]) -> Dict[str, Any]:
    """Return a layer whose ``secrets`` that have an option stand under that, unless it gives that another value."""
    result = merge(layer)
    secrets = layer.get("secrets")
    if not isinstance(secrets, Mapping):
        return result
    rest: Dict[str, Any] = {}
    for key, value in secrets.items():
        entries = value if isinstance(value, Mapping) else {key: value}
        for name, content in entries.items():
            known = USER_SECRETS.get(name)
            fits = known is not None and isinstance(content, str) and (entries is not value or known.service == key)
            if known is not None and fits and value_at(result, known.path) in (None, content):
                nested: Dict[str, Any] = {}
                put_at(nested, known.path, content)
                result = merge(result, nested)
            elif entries is value:
                rest.setdefault(key, {})[name] = content
            else:
                rest[name] = content
    result["secrets"] = rest
    return result


def build(declared: Mapping[str, Any], layers: Layers, release: Release) -> Tuple[InstanceSpec, List[str]]:
    """Build the spec of one present instance from its own options and what lies under them, unset ones left out.

    Returns the spec and what is wrong with it, one sentence per mistake without the name of the instance.
    """
    plain = {key: value for key, value in declared.items() if key not in ("name", "state")}
    below, problems = _below(declared, layers)
    # A secret that one layer gives by its variable and another by its option is one option, which the upper layer has.
    given = merge(_implied(merge(*below, plain)), *(_with_options(layer) for layer in (*below, plain)))
    options = without_secrets(merge(DEFAULTS, given))
    services, found = enabled_services(options["services"], release, bool(options["database"]["host"]))
    problems += found
    images, found = choose_images(options, release)
    problems += found + value_problems(given) + option_problems(options, services) + dependency_problems(options)
    try:
        size = parse_size(options["size"])
    except MultibaseError as error:
        problems.append(str(error))
        size = SIZES["medium"]
    variables, found = user_variables(options, given, release)
    problems += found
    secrets, found = user_secrets(given, release)
    problems += found
    problems += [
        "{0} stands under env and under secrets; leave one of them out".format(name)
        for place, names in sorted(secrets.items())
        for name in sorted(set(names) & set(variables.get(place, {})))
    ]
    password = value_at(given, ("database", "password"))
    if password is not None and not _URL_SAFE.match(password):
        problems.append(
            "database.password: services paste it into addresses, so only 8 to 128 of A-Z a-z 0-9 . _ ~ - are allowed"
        )
    return (
        InstanceSpec(
            name=str(declared.get("name")),
            options=options,
            declared=without_secrets(plain),
            services=services,
            images={service: images[service] for service in sorted(images)},
            size=size,
            variables=variables,
            secrets=secrets,
            needed=tuple(needed_secrets(options)),
            # An instance's own database keeps the password that was made for it.
            database_password=password if options["database"]["host"] else None,
            warnings=tuple(warnings_of(options)),
        ),
        problems,
    )


def _below(declared: Mapping[str, Any], layers: Layers) -> Tuple[List[Mapping[str, Any]], List[str]]:
    """Return what lies under an instance's own options, and what is wrong with the blueprint that it names."""
    name = declared.get("blueprint", layers.defaults.get("blueprint", ""))
    if not name:
        return [layers.defaults], []
    blueprint = layers.blueprints.get(name)
    if blueprint is None:
        there = ", ".join(sorted(layers.blueprints)) or "none"
        return [layers.defaults], ["unknown blueprint {0!r}; there are: {1}".format(name, there)]
    if blueprint.get("blueprint"):
        return [layers.defaults], ["blueprint {0} names a blueprint itself, which is not possible".format(name)]
    own = {key: value for key, value in blueprint.items() if key != "name"}
    return [layers.defaults, own], []


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
    layers: Layers,
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
        found = build_from(item, layers, releases)[1]
        base = item.get("port_base")
        if base is not None and base in bases:
            found.append("port_base {0} is also asked for by {1}".format(base, bases[base]))
        elif base is not None:
            bases[base] = str(name)
        problems += ["instance {0}: {1}".format(name, problem) for problem in found]
    return problems


def build_from(
    declared: Mapping[str, Any], layers: Layers, releases: Mapping[str, Release]
) -> Tuple[Optional[InstanceSpec], List[str]]:
    """Like ``build``, with the release that the options name; without a spec when there is no such release."""
    name = merge(*_below(declared, layers)[0], declared).get("release", DEFAULT_RELEASE)
    release = releases.get(name)
    if release is None:
        there = ", ".join(sorted(releases)) or "none"
        return None, ["unknown release {0!r}; there are: {1}".format(name, there)]
    return build(declared, layers, release)
