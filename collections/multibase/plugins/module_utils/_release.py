# SPDX-License-Identifier: GPL-3.0-or-later
# This file is private to the multibase.supabase collection; it may change at any time.
"""A release: one directory of ``compose_templates/``, as read on the controller.

The host has no use for YAML: the controller parses ``release.yml`` and hands over its data beside the files' texts.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Dict, FrozenSet, List, Mapping, Optional, Tuple

from ._errors import MultibaseError

DEFINITION_FILE = "release.yml"
COMPOSE_FILE = "docker-compose.yml"
# Every instance has these (but for the database when it is elsewhere); all other services can be switched off.
REQUIRED_SERVICES = frozenset({"api-gw", "db"})


@dataclass(frozen=True)
class Alternative:
    """Another program for a service: its image by image set, and its share of memory where that differs."""

    service: str
    images: Mapping[str, str]
    weight: Optional[int] = None


@dataclass(frozen=True)
class Release:
    """What a release offers.

    ``images`` maps an image set to service -> reference, ``alternatives`` a name (``kong``, ``pg15``) to what takes the
    place of a service's image. ``weights`` says how memory is divided, ``cpu_weights`` how processors are. ``mounted``
    says which files each service has mounted (a change of them recreates it), ``requires`` which services an optional
    one needs and why, ``off`` which services run only when they are asked for. ``environment`` maps a service to the
    variables that its Compose files set. ``files`` are the texts by path relative to the project directory,
    ``seed_files`` those that belong to the user once they exist, ``directories`` maps a directory to its octal mode,
    ``data`` are those that are never made anew.
    """

    name: str
    images: Mapping[str, Mapping[str, str]]
    alternatives: Mapping[str, Alternative]
    weights: Mapping[str, int]
    cpu_weights: Mapping[str, int]
    mounted: Mapping[str, Tuple[str, ...]]
    requires: Mapping[str, Mapping[str, str]]
    off: FrozenSet[str]
    environment: Mapping[str, FrozenSet[str]]
    files: Mapping[str, str]
    seed_files: FrozenSet[str]
    directories: Mapping[str, int]
    data: Tuple[str, ...]

    @property
    def services(self) -> List[str]:
        """All services of the release, sorted."""
        return sorted(self.weights)


def _mode(value: Any) -> int:
    """Accept ``"0755"`` and YAML's octal integer alike."""
    return value if isinstance(value, int) else int(str(value), 8)


def release_from_bundle(name: str, bundle: Mapping[str, Any]) -> Release:
    """Build a Release from ``{"definition": <data of release.yml>, "files": {path: text}, "environment": {...}}``.

    ``environment`` maps a service to the names that its Compose files set. Raises MultibaseError when the definition
    lacks something or contradicts itself.
    """
    try:
        return _release_from_bundle(name, bundle)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise MultibaseError("release {0}: {1} is damaged ({2})".format(name, DEFINITION_FILE, error)) from error


def _release_from_bundle(name: str, bundle: Mapping[str, Any]) -> Release:
    definition: Mapping[str, Any] = bundle.get("definition") or {}
    files: Dict[str, str] = dict(bundle.get("files") or {})
    missing = [key for key in ("image_sets", "weights", "cpu_weights", "directories") if not definition.get(key)]
    if missing or COMPOSE_FILE not in files:
        raise MultibaseError(
            "release {0}: {1} is incomplete (missing: {2})".format(
                name, DEFINITION_FILE, ", ".join(missing or [COMPOSE_FILE])
            )
        )
    weights = {str(service): int(weight) for service, weight in definition["weights"].items()}
    for set_name, images in definition["image_sets"].items():
        if set(images) != set(weights):
            raise MultibaseError(
                "release {0}: image set {1} and weights do not name the same services".format(name, set_name)
            )
    cpu_weights = {str(service): int(weight) for service, weight in definition["cpu_weights"].items()}
    if set(cpu_weights) != set(weights):
        raise MultibaseError("release {0}: weights and cpu_weights do not name the same services".format(name))
    return Release(
        name=name,
        images={str(key): dict(value) for key, value in definition["image_sets"].items()},
        alternatives={
            str(key): Alternative(str(value["service"]), dict(value["images"]), value.get("weight"))
            for key, value in (definition.get("alternatives") or {}).items()
        },
        weights=weights,
        cpu_weights=cpu_weights,
        mounted={str(key): tuple(value) for key, value in (definition.get("mounted") or {}).items()},
        requires={str(key): dict(value) for key, value in (definition.get("requires") or {}).items()},
        off=frozenset(definition.get("off") or ()),
        environment={str(key): frozenset(value) for key, value in (bundle.get("environment") or {}).items()},
        files=files,
        seed_files=frozenset(definition.get("seed_files") or ()),
        data=tuple(definition.get("data") or ()),
        directories={str(key): _mode(value) for key, value in definition["directories"].items()},
    )
