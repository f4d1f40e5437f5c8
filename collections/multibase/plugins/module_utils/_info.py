# SPDX-License-Identifier: GPL-3.0-or-later
# This file is private to the multibase.supabase collection; it may change at any time.
"""Everything known about instances, without secrets."""

from __future__ import annotations

import os
from typing import Any, Dict, List, Mapping, Optional, Sequence

from . import _registry
from ._engine import Container, Engine
from ._errors import StateCorrupt
from ._health import instance_health, instance_state, service_health
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
    layout: Layout, names: Sequence[str], engine: Optional[Engine], trouble: str = ""
) -> List[Dict[str, Any]]:
    """Return what is known about the named instances, in their order, with one call to the Engine for all.

    Without an Engine, state and health are ``unknown`` and ``problem`` is ``trouble``. An instance whose manifest is
    damaged has state ``damaged`` and says why in ``problem``.
    """
    by_project: Optional[Dict[str, List[Container]]] = None
    if engine is not None:
        by_project = {}
        for container in engine.containers():
            by_project.setdefault(container.project, []).append(container)
    deleting = set(interrupted_deletions(layout)) - set(layout.instance_names())
    return [
        _unreadable(layout, name, "deleting", "its deletion was interrupted; delete it again to finish")
        if name in deleting
        else _describe(layout, name, by_project, trouble)
        for name in names
    ]


def _unreadable(layout: Layout, name: str, state: str, problem: str) -> Dict[str, Any]:
    return {
        "name": name,
        "state": state,
        "health": "unknown",
        "problem": problem,
        "directory": layout.project(name),
        "project": "",
        "release": "",
        "gateway": "",
        "size": "",
        "bind_address": "",
        "ports": {},
        "urls": {},
        "subnet": "",
        "services": [],
    }


def _describe(
    layout: Layout, name: str, by_project: Optional[Mapping[str, List[Container]]], trouble: str
) -> Dict[str, Any]:
    try:
        manifest = _registry.read_manifest(layout, name)
    except StateCorrupt as error:
        return _unreadable(layout, name, "damaged", str(error))
    known = by_project is not None
    containers = (by_project or {}).get(manifest["project"], [])
    expected: List[str] = list(manifest["services"])
    others = sorted({container.service for container in containers} - set(expected))
    return {
        "name": name,
        "state": instance_state(containers, expected) if known else "unknown",
        "health": instance_health(containers, expected) if known else "unknown",
        "problem": "" if known else trouble,
        "directory": layout.project(name),
        "project": manifest["project"],
        "release": manifest["release"],
        "gateway": manifest["gateway"],
        "size": manifest["size"],
        "bind_address": manifest["bind_address"],
        "ports": manifest["ports"],
        "urls": manifest["urls"],
        "subnet": manifest["subnet"],
        "services": [_service(service, containers) for service in [*expected, *others]],
    }
