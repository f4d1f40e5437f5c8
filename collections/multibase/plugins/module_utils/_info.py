# SPDX-License-Identifier: GPL-3.0-or-later
# This file is private to the multibase.supabase collection; it may change at any time.
"""Everything known about instances, without secrets."""

from __future__ import annotations

import os
from typing import Any, Dict, List, Mapping, Optional, Sequence

from . import _registry
from ._compose import compose_files
from ._engine import Container, Engine
from ._errors import MultibaseError, StateCorrupt
from ._health import instance_health, instance_state, service_health
from ._instances import edited_secrets, read_existing
from ._layout import REMOVAL_PREFIX, Layout


def _service(name: str, containers: Sequence[Container]) -> Dict[str, Any]:
    found = [container for container in containers if container.service == name]
    first = found[0] if found else None
    return {
        "name": name,
        "state": first.state if first else "absent",
        "health": service_health(first) if first else "stopped",
        "status": first.status if first else "",
        "image": first.image if first else "",
        "container": first.name if first else "",
        "ports": [
            {"address": address, "host": host, "container": inside}
            for address, host, inside in (first.ports if first else ())
        ],
    }


def interrupted_deletions(layout: Layout) -> List[str]:
    """Return the names of instances whose deletion was interrupted, sorted. Deleting them again finishes it."""
    paths = _registry.unpublished(layout, REMOVAL_PREFIX)
    return sorted(os.path.basename(path)[len(REMOVAL_PREFIX) :] for path in paths)


def describe_all(
    layout: Layout, names: Sequence[str], engine: Optional[Engine], trouble: str = "", details: bool = False
) -> List[Dict[str, Any]]:
    """Return what is known about the named instances, in their order, with one call to the Engine for all.

    Without an Engine, state and health are ``unknown`` and ``problem`` is ``trouble``. An instance whose manifest is
    damaged has state ``damaged`` and says why in ``problem``. With ``details`` each ``.env`` is read too.
    """
    by_project: Optional[Dict[str, List[Container]]] = None
    if engine is not None:
        by_project = {}
        for container in engine.containers():
            by_project.setdefault(container.project, []).append(container)
    deleting = set(interrupted_deletions(layout)) - set(layout.instance_names())
    return [
        _unreadable(layout, name, "deleting", "its deletion was interrupted; delete it again to finish", details)
        if name in deleting
        else _describe(layout, name, by_project, trouble, details)
        for name in names
    ]


def _unreadable(layout: Layout, name: str, state: str, problem: str, details: bool) -> Dict[str, Any]:
    told: Dict[str, Any] = {
        "name": name,
        "state": state,
        "health": "unknown",
        "problem": problem,
        "environment": "",
        "labels": {},
        "blueprint": "",
        "directory": layout.project(name),
        "project": "",
        "release": "",
        "gateway": "",
        "size": "",
        "resources": {},
        "bind_address": "",
        "ports": {},
        "urls": {},
        "subnet": "",
        "services": [],
    }
    if details:
        told.update(_details({}))
    return told


def _describe(
    layout: Layout, name: str, by_project: Optional[Mapping[str, List[Container]]], trouble: str, details: bool
) -> Dict[str, Any]:
    try:
        manifest = _registry.read_manifest(layout, name)
    except StateCorrupt as error:
        return _unreadable(layout, name, "damaged", str(error), details)
    known = by_project is not None
    containers = (by_project or {}).get(manifest["project"], [])
    expected: List[str] = list(manifest["services"])
    others = sorted({container.service for container in containers} - set(expected))
    resources = _dictionary(manifest, "resources")
    told: Dict[str, Any] = {
        "name": name,
        "state": instance_state(containers, expected) if known else "unknown",
        "health": instance_health(containers, expected) if known else "unknown",
        "problem": "" if known else trouble,
        "environment": str(manifest.get("environment") or ""),
        "labels": _dictionary(manifest, "labels"),
        "blueprint": str(manifest.get("blueprint") or ""),
        "directory": layout.project(name),
        "project": manifest["project"],
        "release": manifest["release"],
        "gateway": manifest["gateway"],
        "size": manifest["size"],
        "resources": {key: resources[key] for key in ("cpus", "memory") if key in resources},
        "bind_address": manifest["bind_address"],
        "ports": manifest["ports"],
        "urls": manifest["urls"],
        "subnet": manifest["subnet"],
        "services": [_service(service, containers) for service in [*expected, *others]],
    }
    if details:
        told.update(_details(manifest))
        _add_env(layout, name, told)
    return told


def _dictionary(manifest: Mapping[str, Any], field: str) -> Dict[str, Any]:
    """Return a field that a manifest of an older Multibase lacks."""
    value = manifest.get(field)
    return dict(value) if isinstance(value, dict) else {}


def _details(manifest: Mapping[str, Any]) -> Dict[str, Any]:
    """Return what the manifest says beyond what a list of instances tells. What only the ``.env`` says is empty."""
    return {
        "resources": _dictionary(manifest, "resources"),
        "declared": _dictionary(manifest, "declared"),
        "env": _dictionary(manifest, "env"),
        "user_secrets": _dictionary(manifest, "user_secrets"),
        "secrets": _dictionary(manifest, "secrets"),
        "edited_secrets": [],
        "added_variables": [],
        "compose_files": list(manifest.get("overlays") or []),
    }


def _add_env(layout: Layout, name: str, told: Dict[str, Any]) -> None:
    """Add what the ``.env`` says, names and no values. One that is damaged is told of as the instance's problem."""
    try:
        existing = read_existing(layout, name)
    except MultibaseError as error:
        told["problem"] = "; ".join(part for part in (told["problem"], str(error)) if part)
        return
    told["edited_secrets"] = edited_secrets(existing)
    ours = existing.manifest.get("variables") or existing.variables
    told["added_variables"] = sorted(set(existing.variables) - set(ours))
    told["compose_files"] = compose_files(existing.variables, layout.project(name))
