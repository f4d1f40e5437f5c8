# SPDX-License-Identifier: GPL-3.0-or-later
# This file is private to the multibase.supabase collection; it may change at any time.
"""The registry of a host: which instance has which port block and subnet.

The manifests (``instance.json``) are the truth; the registry is an index over them that also reserves blocks. A lost
registry is rebuilt from the manifests, one that is behind is completed.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from typing import Any, Dict, List, Mapping, Optional, Set, Tuple

from ._errors import StateCorrupt
from ._layout import Layout
from ._publish import replace_file

SCHEMA = 1
# What every reader of a manifest relies on.
_FIELDS = {
    "project": str,
    "release": str,
    "gateway": str,
    "port_base": int,
    "subnet": str,
    "bind_address": str,
    "ports": dict,
    "urls": dict,
    "services": list,
    "size": str,
    "salt": str,
    "secrets": dict,
    "managed": list,
    "declared": dict,
}


@dataclass(frozen=True)
class Allocation:
    """What an instance holds on its host: the first port of its block, its subnet, its Compose project."""

    port_base: int
    subnet: str
    project: str

    def as_row(self) -> Dict[str, Any]:
        """Return the row of the registry."""
        return {"port_base": self.port_base, "subnet": self.subnet, "project": self.project}


def read_json(path: str) -> Any:
    """Return the data of a JSON file, None when there is no such file. Raises StateCorrupt when it is no JSON."""
    try:
        with open(path, encoding="utf-8") as stream:
            return json.load(stream)
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise StateCorrupt("{0} is damaged ({1})".format(path, error)) from error


def read_manifest(layout: Layout, name: str) -> Dict[str, Any]:
    """Return an instance's manifest. Raises StateCorrupt when it is missing, damaged or of a newer Multibase."""
    path = layout.manifest(name)
    data = read_json(path)
    if not isinstance(data, dict) or data.get("name") != name:
        raise StateCorrupt("{0} is not the manifest of instance {1}".format(path, name))
    if data.get("schema") != SCHEMA:
        raise StateCorrupt(
            "{0} has schema {1}; this Multibase knows schema {2}. Use the version that wrote it, or a newer one".format(
                path, data.get("schema"), SCHEMA
            )
        )
    wrong = [
        field
        for field, kind in _FIELDS.items()
        if not isinstance(data.get(field), kind)
        or (kind is list and not all(isinstance(entry, str) for entry in data[field]))
    ]
    if wrong:
        raise StateCorrupt("{0} is damaged (missing or of the wrong kind: {1})".format(path, ", ".join(wrong)))
    return data


def allocation_of(manifest: Mapping[str, Any]) -> Allocation:
    """Return the allocation that a manifest records."""
    return Allocation(int(manifest["port_base"]), str(manifest["subnet"]), str(manifest["project"]))


def _rows(layout: Layout) -> Mapping[str, Any]:
    """Return the rows of ``registry.json``; a registry that is lost or damaged has none."""
    try:
        data = read_json(layout.registry)
    except StateCorrupt:
        return {}
    rows = data.get("instances") if isinstance(data, dict) else None
    return rows if isinstance(rows, dict) else {}


def _row_allocation(row: Any) -> Optional[Allocation]:
    """Return the allocation in a row of the registry, or None when the row is damaged."""
    try:
        return allocation_of(row)
    except (KeyError, TypeError, ValueError):
        return None


def load(layout: Layout) -> Dict[str, Allocation]:
    """Return the allocations of all instances on the host, from the manifests.

    Rows without an instance are left out. Where a manifest is damaged, the registry's row keeps the block reserved, so
    that one broken instance does not stop work on the others. Without such a row its directory counts as one that is
    not ours, whose ``.env`` says what it claims.
    """
    allocations: Dict[str, Allocation] = {}
    rows: Optional[Mapping[str, Any]] = None
    for name in layout.instance_names():
        try:
            allocations[name] = allocation_of(read_manifest(layout, name))
        except StateCorrupt:
            rows = _rows(layout) if rows is None else rows
            row = _row_allocation(rows.get(name))
            if row is not None:
                allocations[name] = row
    return allocations


def conflicts(allocations: Mapping[str, Allocation]) -> List[Tuple[Set[str], str]]:
    """Return what two instances claim at once, each with their names and a sentence about it.

    Such a thing is never made by a run; somebody copied a directory, or edited an ``instance.json``.
    """
    claims: Dict[Tuple[str, Any], List[str]] = {}
    for name, allocation in sorted(allocations.items()):
        for field, value in allocation.as_row().items():
            claims.setdefault((field, value), []).append(name)
    return [
        (
            set(names),
            "instances {0} have the same {1} {2} in their instance.json; one is a copy of the other, or was edited. "
            "Put the right file back, or move the copy away".format(" and ".join(names), field, value),
        )
        for (field, value), names in claims.items()
        if len(names) > 1
    ]


def render(allocations: Mapping[str, Allocation]) -> bytes:
    """Return the bytes of ``registry.json``."""
    rows = {name: allocations[name].as_row() for name in sorted(allocations)}
    return (json.dumps({"schema": SCHEMA, "instances": rows}, indent=2) + "\n").encode("utf-8")


def is_current(layout: Layout, allocations: Mapping[str, Allocation]) -> bool:
    """Whether ``registry.json`` says exactly this."""
    try:
        with open(layout.registry, "rb") as stream:
            return stream.read() == render(allocations)
    except FileNotFoundError:
        return False


def save(layout: Layout, allocations: Mapping[str, Allocation]) -> bool:
    """Write ``registry.json`` when it says something else. Returns whether it did."""
    if is_current(layout, allocations):
        return False
    replace_file(layout.registry, render(allocations), 0o600)
    return True


def unpublished(layout: Layout, prefix: str) -> List[str]:
    """Return directories that an interrupted run left below ``projects`` (their names begin with ``prefix``)."""
    try:
        entries = os.listdir(layout.projects)
    except FileNotFoundError:
        return []
    return [os.path.join(layout.projects, entry) for entry in sorted(entries) if entry.startswith(prefix)]
