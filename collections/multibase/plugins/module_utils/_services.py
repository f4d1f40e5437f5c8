# SPDX-License-Identifier: GPL-3.0-or-later
# This file is private to the multibase.supabase collection; it may change at any time.
"""Which services an instance has, and which images run: what was chosen, and what each service needs of the others."""

from __future__ import annotations

import re
from typing import Any, Container, Dict, FrozenSet, List, Mapping, Tuple

from ._release import REQUIRED_SERVICES, Release
from ._values import as_boolean, shown

_IMAGE = re.compile(r"[a-z0-9][A-Za-z0-9._/:@-]{0,254}\Z")
_REGISTRY = re.compile(r"[a-z0-9][a-z0-9.-]*(?::[0-9]{1,5})?(?:/[a-z0-9._/-]+)?\Z")


def enabled_services(choice: Mapping[str, Any], release: Release, external: bool) -> Tuple[FrozenSet[str], List[str]]:
    """Return the services that shall run, and what is wrong with the user's choice (service -> truth value).

    ``external`` says that the database is elsewhere. Each sentence says what would put it right.
    """
    problems: List[str] = []
    enabled = set(release.services) - release.off
    required = set(REQUIRED_SERVICES)
    if external:
        enabled.discard("db")
        required.discard("db")
    for service, value in choice.items():
        wanted = as_boolean(value)
        if service not in release.weights:
            problems.append(
                "unknown service {0!r}; release {1} has {2}".format(service, release.name, ", ".join(release.services))
            )
        elif wanted is None:
            problems.append("services.{0}: {1!r} is neither true nor false".format(service, value))
        elif not wanted and service in required:
            problems.append("service {0} cannot be switched off".format(service))
        elif wanted and service == "db" and external:
            problems.append("services.db: database.host names another database; leave one of them out")
        elif wanted:
            enabled.add(service)
        else:
            enabled.discard(service)
    for service in sorted(enabled):
        problems += _lacking(service, enabled, release)
    if {"pgbouncer", "supavisor"} <= enabled:
        problems.append("services pgbouncer and supavisor use the same port; switch one of them off")
    return frozenset(enabled), problems


def _lacking(service: str, enabled: Container[str], release: Release) -> List[str]:
    """Say which services ``service`` lacks, why it needs them, and what else would go with it."""
    problems = []
    for needed, reason in sorted(release.requires.get(service, {}).items()):
        if needed in enabled:
            continue
        dependents = sorted(other for other, needs in release.requires.items() if service in needs and other in enabled)
        alone = "{0} off".format(service)
        if dependents:
            alone = "{0} off together with {1}, which {2} it".format(
                service, " and ".join(dependents), "needs" if len(dependents) == 1 else "need"
            )
        problems.append(
            "service {0} needs {1} ({2}), which is switched off; switch {1} on, or {3}".format(
                service, needed, reason, alone
            )
        )
    return problems


def choose_images(options: Mapping[str, Any], release: Release) -> Tuple[Dict[str, str], List[str]]:
    problems: List[str] = []
    image_set = options["image_set"]
    images = dict(release.images.get(image_set, {}))
    if not images:
        problems.append(
            "image_set {0!r} is not part of release {1}; it has {2}".format(
                image_set, release.name, ", ".join(sorted(release.images))
            )
        )
    for option, alternative in _alternatives(options):
        found = release.alternatives.get(alternative)
        if found is None:
            problems.append("{0}: release {1} does not have it".format(option, release.name))
        elif image_set in found.images:
            images[found.service] = found.images[image_set]
        elif found.service not in options["images"]:
            problems.append(
                "{0}: image_set {1!r} of release {2} has no image for it; name one in images.{3}".format(
                    option, image_set, release.name, found.service
                )
            )
    registry = options["image_registry"].rstrip("/")
    if registry and not _REGISTRY.match(registry):
        problems.append("image_registry {0} is not of the form host[:port][/path]".format(shown(registry)))
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
            problems.append("images.{0}: {1} is no image reference".format(service, shown(str(image))))
        else:
            images[service] = str(image)
    return images, problems


def memory_weights(options: Mapping[str, Any], release: Release) -> Dict[str, int]:
    """Return the shares of memory of all services, with those of the alternatives that are asked for."""
    weights = dict(release.weights)
    for _option, name in _alternatives(options):
        found = release.alternatives.get(name)
        if found is not None and found.weight is not None:
            weights[found.service] = found.weight
    return weights


def _alternatives(options: Mapping[str, Any]) -> List[Tuple[str, str]]:
    """Return what of the release's alternatives is asked for, each with the option that asks for it."""
    found = []
    if options["gateway"] == "kong":
        found.append(("gateway kong", "kong"))
    if options["database"]["version"] == 15 and not options["database"]["host"]:
        found.append(("database.version 15", "pg15"))
    return found
