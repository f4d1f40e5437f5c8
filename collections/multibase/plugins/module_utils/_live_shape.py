# SPDX-License-Identifier: GPL-3.0-or-later
# This file is private to the multibase.supabase collection; it may change at any time.
"""The form of a live document, for readers that did not write it: docs/schemas/live.schema.json without a library.

A live document comes from a host. Whoever puts documents of many hosts together must not fail for one that is broken,
nor pass on what is not in the contract: ``conform`` returns a copy that holds what the schema names and nothing else.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Dict, Mapping, Optional, Tuple, cast

from ._errors import StateCorrupt

SCHEMA = 1
# No figure of a host comes near it; what is beyond would not fit where readers put it.
LIMIT = 2**63
STATES = ("healthy", "degraded", "starting", "unhealthy", "stopped", "damaged", "unknown")
WANTED = ("running", "stopped", "")
HEALTHS = ("healthy", "unhealthy", "starting", "running", "stopped", "unknown")
SEVERITIES = ("warning", "critical")
ALERT_STATES = ("pending", "firing", "resolved")


@dataclass(frozen=True)
class _Value:
    """A plain value: of one of the ``kinds`` (text, number, whole, truth, null), or one of ``words``."""

    kinds: Tuple[str, ...] = ()
    words: Tuple[str, ...] = ()


@dataclass(frozen=True)
class _List:
    of: Any
    least: int = 0
    most: Optional[int] = None


@dataclass(frozen=True)
class _Map:
    """A dictionary with any names."""

    of: Any


@dataclass(frozen=True)
class _Record:
    """A dictionary with these names, all of them there but the ``optional``; ``null`` when there may be none."""

    fields: Mapping[str, Any]
    null: bool = False
    optional: Tuple[str, ...] = ()


TEXT, NUMBER, WHOLE, TRUTH = (_Value((kind,)) for kind in ("text", "number", "whole", "truth"))
_NUMBER, _WHOLE = _Value(("number", "null")), _Value(("whole", "null"))
_ANY_VALUE = _Value(("number", "text", "null"))
_SPARKLINES = _Map(_List(_NUMBER, most=60))
_USE = _Record(
    {
        "cpu_percent": _NUMBER, "memory_bytes": _WHOLE, "memory_raw_bytes": _WHOLE, "memory_limit_bytes": _WHOLE,
        "network_received_bytes": _WHOLE, "network_sent_bytes": _WHOLE, "network_received_rate": _NUMBER,
        "network_sent_rate": _NUMBER, "block_read_bytes": _WHOLE, "block_written_bytes": _WHOLE,
        "block_read_rate": _NUMBER, "block_write_rate": _NUMBER, "processes": _WHOLE,
    }
)  # fmt: skip
_DISK = _Record(
    {
        "path": TEXT, "purpose": TEXT, "total_bytes": WHOLE, "used_bytes": WHOLE, "free_bytes": WHOLE,
        "used_percent": NUMBER, "full_in_days": _NUMBER,
    }
)  # fmt: skip
_HOST = _Record(
    {
        "name": TEXT, "labels": _Map(TEXT), "cpus": WHOLE, "cpu_percent": _NUMBER,
        "load": _List(NUMBER, least=3, most=3), "memory_total_bytes": WHOLE, "memory_used_bytes": WHOLE,
        "memory_full_in_days": _NUMBER, "swap_used_bytes": _WHOLE, "disks": _List(_DISK),
        "network_received_rate": _NUMBER, "network_sent_rate": _NUMBER, "uptime_seconds": NUMBER,
        "engine": _Record({"reachable": TRUTH, "version": TEXT, "trouble": TEXT}), "sparklines": _SPARKLINES,
    }
)  # fmt: skip
_SERVICE = _Record(
    {
        "name": TEXT, "container": TEXT, "state": TEXT, "health": _Value(words=HEALTHS), "restarts": _WHOLE,
        "started_at": _NUMBER, "ports": _List(_Record({"address": TEXT, "host": WHOLE, "container": WHOLE})),
        "use": _USE,
    }
)  # fmt: skip
_DATABASE = _Record(
    {
        "size_bytes": _WHOLE, "connections": _Map(WHOLE), "max_connections": _WHOLE, "cache_hit_ratio": _NUMBER,
        "oldest_transaction_seconds": _NUMBER,
        "replication_slots": _List(_Record({"name": TEXT, "active": TRUTH, "held_bytes": _WHOLE})),
        "wal_bytes": _WHOLE, "dead_tuples": _WHOLE,
        "slow_queries": _List(_Record({"query": TEXT, "calls": WHOLE, "mean_ms": NUMBER, "total_ms": NUMBER})),
        "checked_at": _NUMBER,
    },
    null=True,
)  # fmt: skip
_BACKUP = _Record(
    {"backup": TEXT, "finished_at": _NUMBER, "bytes": _WHOLE, "verified": TRUTH, "scope": TEXT}, null=True
)
_INSTANCE = _Record(
    {
        "name": TEXT, "labels": _Map(TEXT), "state": _Value(words=STATES), "wanted": _Value(words=WANTED),
        "problem": TEXT, "release": TEXT, "urls": _Map(TEXT), "ports": _Map(WHOLE), "use": _USE,
        "services": _List(_SERVICE), "database": _DATABASE,
        "disk": _Record(
            {"database_bytes": _WHOLE, "storage_bytes": _WHOLE, "backups_bytes": _WHOLE, "checked_at": _NUMBER}
        ),
        "backups": _Record(
            {
                "count": WHOLE, "newest": _BACKUP, "newest_verified": _BACKUP, "scheduled": TRUTH, "overdue": TRUTH,
                "last_exit_code": _WHOLE, "reason": TEXT,
            }
        ),
        "probes": _List(
            _Record({"name": TEXT, "ok": TRUTH, "latency_ms": _NUMBER, "checked_at": _NUMBER, "detail": TEXT})
        ),
        "uptime": _Record({"day_percent": _NUMBER, "month_percent": _NUMBER, "target_percent": _NUMBER}),
        "runs_url": TEXT, "sparklines": _SPARKLINES,
    },
    optional=("wanted",),
)  # fmt: skip
_ALERT = _Record(
    {
        "id": TEXT, "rule": TEXT, "severity": _Value(words=SEVERITIES), "instance": TEXT, "subject": TEXT,
        "state": _Value(words=ALERT_STATES), "since": _NUMBER, "value": _ANY_VALUE, "threshold": _ANY_VALUE,
        "message": TEXT, "acknowledged": _Record({"by": TEXT, "at": _NUMBER, "note": TEXT}, null=True),
        "silenced_until": _NUMBER,
    }
)  # fmt: skip
_CERTIFICATE = _Record(
    {
        "site": TEXT, "domains": _List(TEXT), "not_after": _NUMBER, "days_left": _NUMBER, "issuer": TEXT, "kind": TEXT,
    }
)  # fmt: skip
LIVE = _Record(
    {
        "schema": WHOLE, "version": TEXT, "sampled_at": _NUMBER, "interval": NUMBER, "host": _HOST,
        "instances": _List(_INSTANCE), "alerts": _List(_ALERT), "certificates": _List(_CERTIFICATE),
    }
)  # fmt: skip


def conform(document: Any) -> Dict[str, Any]:
    """Return a copy of a live document with what the schema names. Raises StateCorrupt, naming the place.

    Text in the copy can be written as UTF-8, and every number is finite and below LIMIT.
    """
    if isinstance(document, Mapping) and document.get("schema", SCHEMA) != SCHEMA:
        raise StateCorrupt("its form is {0!r}, and this version reads form {1}".format(document["schema"], SCHEMA))
    return cast(Dict[str, Any], _conform(document, LIVE, ""))


def _conform(value: Any, shape: Any, place: str) -> Any:
    if isinstance(shape, _Value):
        return _plain(value, shape, place)
    if isinstance(shape, _List):
        if not isinstance(value, (list, tuple)) or len(value) < shape.least:
            raise StateCorrupt("{0}: no list of {1} or more".format(place, shape.least))
        if shape.most is not None and len(value) > shape.most:
            raise StateCorrupt("{0}: a list of more than {1}".format(place, shape.most))
        return [_conform(entry, shape.of, "{0}[{1}]".format(place, index)) for index, entry in enumerate(value)]
    if value is None and isinstance(shape, _Record) and shape.null:
        return None
    if not isinstance(value, Mapping):
        raise StateCorrupt("{0}: no dictionary".format(place or "the document"))
    below = place + "." if place else ""
    if isinstance(shape, _Map):
        return {
            _text(str(key)): _conform(entry, shape.of, below + _text(str(key))[:60]) for key, entry in value.items()
        }
    missing = [key for key in shape.fields if key not in value and key not in shape.optional]
    if missing:
        raise StateCorrupt("{0}: no {1}".format(place or "the document", ", ".join(missing)))
    return {key: _conform(value[key], inner, below + key) for key, inner in shape.fields.items() if key in value}


def _plain(value: Any, shape: _Value, place: str) -> Any:
    """Return a value as one of Python's own types: what comes from Ansible is of types derived from them."""
    if isinstance(value, bool):
        if "truth" in shape.kinds:
            return bool(value)
    elif isinstance(value, (int, float)) and not abs(value) < LIMIT:
        raise StateCorrupt("{0}: a number out of range".format(place))
    elif isinstance(value, int):
        if "whole" in shape.kinds or "number" in shape.kinds:
            return int(value)
    elif isinstance(value, float):
        if "number" in shape.kinds:
            return float(value)
        if "whole" in shape.kinds and value.is_integer():
            return int(value)
    elif isinstance(value, str):
        if value in shape.words or "text" in shape.kinds:
            return _text(value)
    elif value is None and "null" in shape.kinds:
        return None
    expected = ", ".join(shape.words or shape.kinds)
    raise StateCorrupt("{0}: {1} is none of {2}".format(place, _text(repr(value))[:60], expected))


def _text(value: str) -> str:
    """Return text without halves of surrogate pairs, which JSON can hold and no file can."""
    return value.encode("utf-8", "replace").decode("utf-8")
