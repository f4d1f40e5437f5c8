# SPDX-License-Identifier: GPL-3.0-or-later
# This file is private to the multibase.supabase collection; it may change at any time.
"""A release: one directory of ``compose_templates/``, as read on the controller.

The host has no use for YAML: the controller parses ``release.yml`` and hands over its data beside the files' texts.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Dict, FrozenSet, List, Mapping, Tuple

from ._errors import MultibaseError

DEFINITION_FILE = "release.yml"
COMPOSE_FILE = "docker-compose.yml"
# Every instance has these; all other services can be switched off.
REQUIRED_SERVICES = frozenset({"api-gw", "db"})


@dataclass(frozen=True)
class Release:
    """What a release offers.

    ``images`` maps an image set to service -> reference, ``weights`` says how memory is divided, ``mounted`` which
    files each service has mounted (a change of them recreates it), ``requires`` which services an optional one needs,
    ``files`` are the texts by path relative to the project directory, ``seed_files`` those that belong to the user
    once they exist, ``directories`` maps a directory to its octal mode, ``data`` are those that are never made anew.
    """

    name: str
    images: Mapping[str, Mapping[str, str]]
    weights: Mapping[str, int]
    mounted: Mapping[str, Tuple[str, ...]]
    requires: Mapping[str, Tuple[str, ...]]
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
    """Build a Release from ``{"definition": <data of release.yml>, "files": {path: text}}``.

    Raises MultibaseError when the definition lacks something or contradicts itself.
    """
    try:
        return _release_from_bundle(name, bundle)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise MultibaseError("release {0}: {1} is damaged ({2})".format(name, DEFINITION_FILE, error)) from error


def _release_from_bundle(name: str, bundle: Mapping[str, Any]) -> Release:
    definition: Mapping[str, Any] = bundle.get("definition") or {}
    files: Dict[str, str] = dict(bundle.get("files") or {})
    missing = [key for key in ("image_sets", "weights", "directories") if not definition.get(key)]
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
    return Release(
        name=name,
        images={str(key): dict(value) for key, value in definition["image_sets"].items()},
        weights=weights,
        mounted={str(key): tuple(value) for key, value in (definition.get("mounted") or {}).items()},
        requires={str(key): tuple(value) for key, value in (definition.get("requires") or {}).items()},
        files=files,
        seed_files=frozenset(definition.get("seed_files") or ()),
        data=tuple(definition.get("data") or ()),
        directories={str(key): _mode(value) for key, value in definition["directories"].items()},
    )
