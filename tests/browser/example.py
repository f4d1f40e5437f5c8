# SPDX-License-Identifier: GPL-3.0-or-later
"""A host that never was, for looking at the panel: what its sampler would have written, made of a fixed seed."""

from __future__ import annotations

import math
import random
from typing import Any, Dict, List, Optional

SERVICES = (
    "api-gw",
    "auth",
    "db",
    "functions",
    "imgproxy",
    "meta",
    "realtime",
    "rest",
    "storage",
    "studio",
    "supavisor",
)
HOSTILE = "<img src=x onerror=document.title='broken'>" + "w" * 90
COLUMNS = (
    "cpu_percent", "memory_bytes", "network_received_rate", "network_sent_rate", "block_read_rate", "block_write_rate",
    "processes", "database_bytes", "storage_bytes", "backups_bytes", "connections", "latency_ms", "up",
)  # fmt: skip
OF_HOST = (*COLUMNS[:7], "load", "data_used_percent")
LEVELS: Dict[str, float] = {
    "cpu_percent": 12, "memory_bytes": 9e8, "network_received_rate": 4e4, "network_sent_rate": 6e4, "processes": 90,
    "block_read_rate": 2e4, "block_write_rate": 9e4, "database_bytes": 4e8, "storage_bytes": 2e9, "backups_bytes": 3e9,
    "connections": 14, "latency_ms": 24, "load": 0.7, "data_used_percent": 61, "up": 1,
}  # fmt: skip


def wave(chance: random.Random, count: int, level: float) -> List[Optional[float]]:
    """Values around a level, with a day's rhythm and some noise."""
    return [round(level * (1 + 0.35 * math.sin(place / 9) + chance.uniform(-0.12, 0.12)), 3) for place in range(count)]


def use(chance: random.Random, known: bool = True) -> Dict[str, Any]:
    def of(value: float) -> Any:
        return round(value * chance.uniform(0.6, 1.4)) if known else None

    return {
        "cpu_percent": float(of(300)) / 100 if known else None, "memory_bytes": of(9e7), "memory_raw_bytes": of(1.4e8),
        "memory_limit_bytes": 512 << 20 if known else None, "network_received_bytes": of(1e9),
        "network_sent_bytes": of(2e9), "network_received_rate": of(4000), "network_sent_rate": of(6000),
        "block_read_bytes": of(1e8), "block_written_bytes": of(3e8), "block_read_rate": of(900),
        "block_write_rate": of(9000), "processes": of(12),
    }  # fmt: skip


def service(chance: random.Random, name: str, health: str, now: float, port: int) -> Dict[str, Any]:
    runs = health not in ("stopped", "unknown")
    return {
        "name": name, "container": "multibase-x-" + name, "state": "running" if runs else "exited", "health": health,
        "restarts": chance.choice([0, 0, 0, 1]), "started_at": now - 300000 if runs else None,
        "ports": [{"address": "127.0.0.1", "host": port, "container": 8000}] if name == "api-gw" else [],
        "use": use(chance, runs),
    }  # fmt: skip


def instance(chance: random.Random, name: str, state: str, now: float, place: int, **more: Any) -> Dict[str, Any]:
    port = 20000 + 10 * place
    bad = {"degraded": ["functions"], "unhealthy": list(SERVICES)}.get(state, [])
    healths = {one: "stopped" if state == "stopped" else "unhealthy" if one in bad else "healthy" for one in SERVICES}
    services = [service(chance, one, healths[one], now, port) for one in SERVICES]
    runs = state not in ("stopped", "unknown", "damaged")
    together = use(chance, runs)
    if runs:
        together.update(
            memory_bytes=sum(one["use"]["memory_bytes"] or 0 for one in services), memory_limit_bytes=4 << 30
        )
        together["cpu_percent"] = round(sum(one["use"]["cpu_percent"] or 0 for one in services), 1)
    backup = {"backup": "2026-11-26_03-00-00Z", "finished_at": now - 40000 - 5000 * place, "bytes": 410_000_000,
              "verified": True, "scope": "full"}  # fmt: skip
    probes = [
        {"name": one, "ok": one not in bad, "latency_ms": round(chance.uniform(4, 40), 1), "checked_at": now - 12,
         "detail": "" if one not in bad else "status 502"}
        for one in ("auth", "jwks", "rest", "storage", "realtime", "functions", "no_key", "pooler")
    ]  # fmt: skip
    database = {
        "size_bytes": 402_000_000, "connections": {"idle": 11, "active": 2}, "max_connections": 100,
        "cache_hit_ratio": 0.9971, "oldest_transaction_seconds": 3.2,
        "replication_slots": [{"name": "realtime", "active": True, "held_bytes": 1_200_000}], "wal_bytes": 83_886_080,
        "dead_tuples": 1204, "checked_at": now - 20,
        "slow_queries": [{"query": "select * from orders where customer = $1 order by made desc limit $2",
                          "calls": 10412, "mean_ms": 18.204, "total_ms": 189540.0}],
    }  # fmt: skip
    made: Dict[str, Any] = {
        "name": name, "labels": {"team": ["web", "data"][place % 2], "tier": "production" if place % 3 else "test"},
        "state": state, "wanted": "stopped" if state == "stopped" else "running", "problem": "", "release": "0.8.2",
        "urls": {"api": f"https://{name}.example.com", "studio": f"https://{name}.example.com/project/default"},
        "ports": {"gateway_http": port, "postgres": port + 5}, "use": together, "services": services,
        "database": database if runs else None,
        "disk": {"database_bytes": 402_000_000, "storage_bytes": 2_100_000_000, "backups_bytes": 2_900_000_000,
                 "checked_at": now - 300},
        "backups": {"count": 14, "newest": backup, "newest_verified": backup, "scheduled": True, "overdue": False,
                    "last_exit_code": 0, "reason": ""},
        "probes": probes if runs else [],
        "uptime": {"day_percent": 100.0, "month_percent": 99.97, "target_percent": 99.9},
        "runs_url": f"https://ara.example.com/?label=instance:{name}",
        "sparklines": {
            "cpu_percent": wave(chance, 60, 12), "memory_bytes": wave(chance, 60, 9e8),
            "latency_ms": [*wave(chance, 30, 20), None, None, *wave(chance, 28, 24)],
        } if runs else {},
    }  # fmt: skip
    made.update(more)
    return made


def alert(now: float, name: str, rule: str, subject: str, message: str, **more: Any) -> Dict[str, Any]:
    made: Dict[str, Any] = {
        "id": f"{abs(hash((name, rule, subject))) % (1 << 48):012x}", "rule": rule, "severity": "critical",
        "instance": name, "subject": subject, "state": "firing", "since": now - 840, "value": 1, "threshold": 1,
        "message": message, "acknowledged": None, "silenced_until": None,
    }  # fmt: skip
    made.update(more)
    return made


def live(now: float, names: int = 6, hostile: bool = False) -> Dict[str, Any]:
    """The live document of a host with some instances, of which one is ill and one is stopped."""
    chance = random.Random(7)  # figures for a picture
    words = ["acme", "beta", "carousel", "delta-shop", "ecole", "fjord"]
    states = ["healthy", "healthy", "degraded", "healthy", "stopped", "starting"]
    kinds = list(zip(words, states))
    instances = [
        instance(chance, *(kinds[place] if place < 6 else (f"tenant-{place:03}", "healthy")), now, place)
        for place in range(names)
    ]  # fmt: skip
    disks = [
        {"path": "/opt/multibase", "purpose": "data", "total_bytes": 500_000_000_000, "used_bytes": 305_000_000_000,
         "free_bytes": 195_000_000_000, "used_percent": 61.0, "full_in_days": 48.0},
        {"path": "/var/lib/docker", "purpose": "docker", "total_bytes": 100_000_000_000,
         "used_bytes": 82_000_000_000, "free_bytes": 18_000_000_000, "used_percent": 82.0, "full_in_days": None},
    ]  # fmt: skip
    alerts = [
        alert(now, "carousel", "service_unhealthy", "functions", "the health check of functions fails"),
        alert(now, "", "disk_used", "/var/lib/docker", "the disk of /var/lib/docker is full to 82 %",
              severity="warning", acknowledged={"by": "alice", "at": now - 600, "note": "cleaning up tonight"}),
        alert(now, "beta", "probe_slow", "rest", "the probe rest takes 2100 ms", state="resolved", severity="warning"),
    ]  # fmt: skip
    certificates = [
        {"site": site, "domains": [domain], "not_after": now + left * 86400, "days_left": left,
         "issuer": "CN=R11,O=Let's Encrypt", "kind": "acme"}
        for site, domain, left in (("acme", "acme.example.com", 61.3), ("_panel", "panel.example.com", 12.5))
    ]  # fmt: skip
    if hostile and instances:
        instances[0].update(problem=HOSTILE, labels={HOSTILE: "שלום " + HOSTILE}, runs_url="javascript:alert(1)")
        instances[0]["urls"] = {"api": "javascript:alert(1)", "studio": "https://" + "h" * 200 + ".example.com/"}
        instances[0]["database"]["slow_queries"][0]["query"] = HOSTILE
        alerts[0]["message"] = HOSTILE
    return {
        "schema": 1, "version": "0.1.0", "sampled_at": now, "interval": 5,
        "host": {
            "name": "sup1.example.net", "labels": {"zone": "eu-1"}, "cpus": 8, "cpu_percent": 23.4,
            "load": [1.82, 1.61, 1.4], "memory_total_bytes": 34_359_738_368, "memory_used_bytes": 14_900_000_000,
            "memory_full_in_days": None, "swap_used_bytes": 0, "disks": disks, "network_received_rate": 231_000.0,
            "network_sent_rate": 890_000.0, "uptime_seconds": 1_912_345.0,
            "engine": {"reachable": True, "version": "28.1.1", "trouble": ""},
            "sparklines": {"cpu_percent": wave(chance, 60, 22), "memory_bytes": wave(chance, 60, 1.4e10)},
        },
        "instances": instances, "alerts": alerts, "certificates": certificates,
    }  # fmt: skip


def history(name: str, now: float) -> Dict[str, Any]:
    """The history of an instance, or of ``_host``."""
    chance = random.Random(name)
    ranges = {}
    for range_name, step, count in (("day", 300, 288), ("month", 3600, 720), ("year", 86400, 365)):
        start = int(now) // step * step - (count - 1) * step
        columns = {column: wave(chance, count, LEVELS[column]) for column in (OF_HOST if name == "_host" else COLUMNS)}
        ranges[range_name] = {
            "step": step,
            "time": [start + step * place for place in range(count)],
            "columns": columns,
        }
    return {"schema": 1, "name": name, "written_at": now, "ranges": ranges}
