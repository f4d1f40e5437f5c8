# SPDX-License-Identifier: GPL-3.0-or-later
# This file is private to the multibase.supabase collection; it may change at any time.
"""The live document: what is known of a host and its instances now, as docs/schemas/live.schema.json has it. Pure."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Dict, List, Mapping, Optional, Sequence, Tuple

from . import _disk_use, _usage
from ._engine import Container
from ._health import instance_health, service_health

SCHEMA = 1
VERSION = "0.1.0"
NO_SPARKS: Dict[str, List[Optional[float]]] = {}
NO_BACKUPS: Dict[str, Any] = {
    "count": 0, "newest": None, "newest_verified": None, "scheduled": False, "overdue": False, "last_exit_code": None,
    "reason": "",
}  # fmt: skip


@dataclass(frozen=True)
class Running:
    """What only an inspection of a container tells. ``pid`` is 0 when it does not run."""

    pid: int = 0
    restarts: Optional[int] = None
    started_at: Optional[float] = None


@dataclass
class Known:
    """What was found out about one instance. ``manifest`` is None when its file is damaged: ``problem`` says so."""

    name: str
    manifest: Optional[Mapping[str, Any]]
    problem: str = ""
    wanted: Optional[str] = None
    containers: Optional[Sequence[Container]] = None
    running: Mapping[str, Running] = field(default_factory=dict)
    uses: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    database: Optional[Mapping[str, Any]] = None
    disk: Mapping[str, Any] = field(default_factory=lambda: dict(_disk_use.UNKNOWN))
    backups: Mapping[str, Any] = field(default_factory=lambda: dict(NO_BACKUPS))
    uptime: Tuple[Optional[float], Optional[float]] = (None, None)
    sparklines: Mapping[str, Any] = field(default_factory=dict)


def text_labels(labels: Any) -> Dict[str, str]:
    """Return labels as text, whatever a user wrote."""
    return {str(key): str(value) for key, value in labels.items()} if isinstance(labels, Mapping) else {}


def service(name: str, container: Optional[Container], known: Known) -> Dict[str, Any]:
    """Return one service of an instance. Without an Engine its health is unknown; without a container it is absent."""
    if container is None:
        health = "unknown" if known.containers is None else "stopped"
        state = "unknown" if known.containers is None else "absent"
        return {
            "name": name, "container": "", "state": state, "health": health, "restarts": None, "started_at": None,
            "ports": [], "use": dict(_usage.NOTHING),
        }  # fmt: skip
    health = service_health(container)
    if health == "healthy" and container.health == "none":
        health = "running"
    running = known.running.get(container.id, Running())
    return {
        "name": name,
        "container": container.name,
        "state": container.state,
        "health": health,
        "restarts": running.restarts,
        "started_at": running.started_at,
        "ports": [{"address": address, "host": host, "container": inside} for address, host, inside in container.ports],
        "use": dict(known.uses.get(container.id, _usage.NOTHING)),
    }


def state_of(known: Known) -> str:
    """Return the state of an instance: damaged, unknown (no Engine), or how its containers are."""
    if known.manifest is None:
        return "damaged"
    if known.containers is None:
        return "unknown"
    return instance_health(known.containers, list(known.manifest["services"]))


def instance(known: Known, slo_percent: Optional[float], runs_url: str) -> Dict[str, Any]:
    """Return one instance of the live document. Probes are filled in by who makes them."""
    manifest = known.manifest or {}
    containers = known.containers or ()
    first: Dict[str, Container] = {}
    for container in containers:
        first.setdefault(container.service, container)
    expected = list(manifest.get("services") or ())
    services = [service(name, first.get(name), known) for name in [*expected, *sorted(set(first) - set(expected))]]
    day, month = known.uptime
    return {
        "name": known.name,
        "labels": text_labels(manifest.get("labels")),
        "state": state_of(known),
        "wanted": known.wanted or "",
        "problem": known.problem,
        "release": str(manifest.get("release") or ""),
        "urls": text_labels(manifest.get("urls")),
        "ports": {str(key): int(value) for key, value in (manifest.get("ports") or {}).items()},
        "use": _usage.total(entry["use"] for entry in services if entry["state"] == "running"),
        "services": services,
        "database": None if known.database is None else dict(known.database),
        "disk": dict(known.disk),
        "backups": dict(known.backups),
        "probes": [],
        "uptime": {"day_percent": day, "month_percent": month, "target_percent": slo_percent},
        "runs_url": runs_url.replace("{instance}", known.name),
        "sparklines": dict(known.sparklines),
    }


def backups_of(described: Mapping[str, Any], scheduled: bool, finished: Mapping[str, float]) -> Dict[str, Any]:
    """Return the backups part from what ``_backup_state.describe`` tells of an instance, newest first.

    ``finished`` are times in seconds by stem.
    """

    def shown(row: Mapping[str, Any]) -> Dict[str, Any]:
        return {
            "backup": row["stem"],
            "finished_at": finished.get(row["stem"]),
            "bytes": row["size"],
            "verified": bool(row["verified"]),
            "scope": str(row["scope"] or ""),
        }

    rows = [row for row in described["backups"] if not row.get("problem")]
    verified = [row for row in rows if row["verified"]]
    return {
        "count": len(rows),
        "newest": shown(rows[0]) if rows else None,
        "newest_verified": shown(verified[0]) if verified else None,
        "scheduled": scheduled,
        "overdue": bool(described["overdue"]),
        "last_exit_code": described["exit_code"],
        "reason": str(described["reason"] or ""),
    }


def is_up(entry: Mapping[str, Any]) -> Optional[float]:
    """Return 1 when an instance is up, 0 when it is not, None where that does not count: it is meant to be stopped.

    Up is: all of its probes were answered; where there are none, it is healthy.
    """
    if entry["state"] == "unknown" or (entry["state"] == "stopped" and entry["wanted"] != "running"):
        return None
    if entry["state"] in ("stopped", "damaged"):
        return 0.0
    if entry["probes"]:
        return float(all(probe["ok"] for probe in entry["probes"]))
    return float(entry["state"] == "healthy")


def history_row(entry: Mapping[str, Any]) -> Dict[str, Optional[float]]:
    """Return what the history keeps of an instance."""
    use, database, disk = entry["use"], entry["database"], entry["disk"]
    latencies = [probe["latency_ms"] for probe in entry["probes"] if probe["ok"] and probe["latency_ms"] is not None]
    return {
        **{name: use[name] for name in (
            "cpu_percent", "memory_bytes", "network_received_rate", "network_sent_rate", "block_read_rate",
            "block_write_rate", "processes",
        )},
        "database_bytes": disk["database_bytes"],
        "storage_bytes": disk["storage_bytes"],
        "backups_bytes": disk["backups_bytes"],
        "connections": float(sum(database["connections"].values())) if database else None,
        "latency_ms": sum(latencies) / len(latencies) if latencies else None,
        "up": is_up(entry),
    }  # fmt: skip


def host_row(live: Mapping[str, Any]) -> Dict[str, Optional[float]]:
    """Return what the history keeps of the host. Blocks and processes are those of all instances."""
    host = live["host"]
    together = _usage.total(entry["use"] for entry in live["instances"])
    return {
        "cpu_percent": host["cpu_percent"],
        "memory_bytes": host["memory_used_bytes"],
        "network_received_rate": host["network_received_rate"],
        "network_sent_rate": host["network_sent_rate"],
        "block_read_rate": together["block_read_rate"],
        "block_write_rate": together["block_write_rate"],
        "processes": together["processes"],
        "load": host["load"][0],
        "data_used_percent": host["disks"][0]["used_percent"] if host["disks"] else None,
    }
