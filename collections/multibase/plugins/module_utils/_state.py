# SPDX-License-Identifier: GPL-3.0-or-later
# This file is private to the multibase.supabase collection; it may change at any time.
"""What was recorded when an instance last came up, whether it is still so, and whether it is meant to run at all.

With the record, a run that finds nothing to do needs two calls to the Engine for all instances of a host and no Compose
process. ``docker compose config --hash`` would be no substitute: it differs from the label in some cases, depends on
the path, and does not see mounted files (measured).
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from typing import Any, Dict, List, Mapping, Optional, Sequence

from ._compose import compose_files
from ._engine import Container
from ._errors import StateCorrupt
from ._layout import ENV_FILE, ENVIRONMENT_DIRECTORY, MANIFEST_FILE
from ._registry import read_json

SCHEMA = 1
# What an instance is meant to be, as the record says: the last start, or the last stop, that was asked for.
RUNNING, STOPPED = "running", "stopped"
_LARGE_FILE = 1 << 20


def input_digest(directory: str, variables: Mapping[str, str], managed: Sequence[str]) -> str:
    """Return a digest of everything that decides what Compose makes of an instance.

    That is the ``.env``, every Compose file with the user's override, the mounted files that are ours (``managed``,
    relative to ``directory``), and every other file beside them at the top of the directory and among the environment
    files: what an override file refers to (``env_file`` and the like) can be known only by reading YAML, which hosts
    do not. A file that is missing counts as such.
    """
    relatives = {ENV_FILE, *compose_files(variables, directory), *managed}
    for parent in ("", ENVIRONMENT_DIRECTORY):
        with contextlib.suppress(FileNotFoundError), os.scandir(os.path.join(directory, parent)) as entries:
            relatives.update(os.path.join(parent, entry.name) for entry in entries if entry.is_file())
    relatives.discard(MANIFEST_FILE)
    digest = hashlib.sha256()
    for relative in sorted(relatives):
        digest.update(relative.encode("utf-8") + b"\0")
        digest.update(_file_digest(os.path.join(directory, relative)))
    return digest.hexdigest()


def _file_digest(path: str) -> bytes:
    """Return what stands for a file's content: its hash, or size and time of a large one (a dump that lies about)."""
    try:
        with open(path, "rb") as stream:
            status = os.fstat(stream.fileno())
            if status.st_size > _LARGE_FILE:
                return "{0} {1}".format(status.st_size, status.st_mtime_ns).encode("ascii")
            return hashlib.sha256(stream.read()).digest()
    except FileNotFoundError:
        return b"missing"


def make_record(
    digest: str, compose_version: str, services: Sequence[str], containers: Sequence[Container]
) -> Dict[str, Any]:
    """Return what is written to ``state/<name>.json`` after a successful start."""
    return {
        "schema": SCHEMA,
        "wanted": RUNNING,
        "digest": digest,
        "compose": compose_version,
        "services": {
            service: sorted(
                [container.config_hash, container.image, container.image_id]
                for container in containers
                if container.service == service
            )
            for service in sorted(services)
        },
    }


def record_bytes(record: Mapping[str, Any]) -> bytes:
    """Return the bytes of a record."""
    return (json.dumps(record, indent=2, sort_keys=True) + "\n").encode("utf-8")


def _recorded_rows(record: Any) -> Optional[Dict[str, List[List[str]]]]:
    """Return the rows of a record by service, None when it is not one: it was damaged, or never written.

    Nothing is lost with a record; the next start makes it anew.
    """
    if not isinstance(record, dict) or record.get("schema") != SCHEMA or not isinstance(record.get("services"), dict):
        return None
    rows = record["services"]
    for found in rows.values():
        if not isinstance(found, list) or not all(isinstance(row, list) and len(row) == 3 for row in found):
            return None
    return rows or None


def read_record(path: str) -> Any:
    """Return what ``state/<name>.json`` says; None when it is missing or damaged."""
    try:
        return read_json(path)
    except StateCorrupt:
        return None


def wanted(record: Any) -> Optional[str]:
    """Return what an instance is meant to be, ``running`` or ``stopped``; None when it was never started.

    The Engine knows it for single containers only, does not tell, and takes what an interrupted restart or restore
    stopped for something that the user stopped.
    """
    if not isinstance(record, dict) or record.get("schema") != SCHEMA:
        return None
    return STOPPED if record.get("wanted") == STOPPED else RUNNING


def wishing(record: Any, wish: str) -> Dict[str, Any]:
    """Return a record that differs from ``record`` in what is wanted only. It need not be one."""
    rows = _recorded_rows(record)
    kept = dict(record) if rows is not None else {"digest": "", "compose": "", "services": {}}
    return {**kept, "schema": SCHEMA, "wanted": wish}


def differences(
    record: Any,
    digest: str,
    containers: Sequence[Container],
    image_ids: Mapping[str, str],
) -> List[str]:
    """Say why an instance is not as recorded, one reason each; an empty list means that it is.

    ``image_ids`` maps a tag to the image it stands for now. Health is no reason: Compose would not change it.
    """
    recorded = _recorded_rows(record)
    if recorded is None:
        return ["it was not started before"]
    reasons: List[str] = []
    if wanted(record) == STOPPED:
        reasons.append("it was stopped")
    if (record or {}).get("digest") != digest:
        reasons.append("its configuration changed")
    for service in sorted({container.service for container in containers} - set(recorded)):
        reasons.append("service {0} runs although it is not part of it".format(service))
    for service, rows in sorted(recorded.items()):
        found = [container for container in containers if container.service == service]
        if len(found) != len(rows):
            reasons.append("service {0} has {1} containers instead of {2}".format(service, len(found), len(rows)))
        elif any(container.state != "running" for container in found):
            reasons.append("service {0} does not run".format(service))
        elif sorted([container.config_hash, container.image, container.image_id] for container in found) != [
            list(row) for row in rows
        ]:
            reasons.append("service {0} was changed by somebody else".format(service))
        elif any(image_ids.get(row[1], row[2]) != row[2] for row in rows):
            reasons.append("service {0} has a newer image on this host".format(service))
    return reasons
