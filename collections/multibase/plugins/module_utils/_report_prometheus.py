# SPDX-License-Identifier: GPL-3.0-or-later
# This file is private to the multibase.supabase collection; it may change at any time.
"""A report as Prometheus reads it: the text exposition format, version 0.0.4.

Units are seconds, bytes and ratios (1 is a whole; of CPU use, one CPU). What is not known has no sample. An instance is
the label ``instance_name``, as in the textfile of backups, because Prometheus gives ``instance`` a meaning of its own.
"""

from __future__ import annotations

from typing import Any, Dict, Iterator, List, Mapping, Tuple

from ._live_shape import SEVERITIES, STATES
from ._report import open_alerts, plain_text

Sample = Tuple[str, Dict[str, str], Any]
_DAY = 86400.0
_G, _C = "gauge", "counter"
# (name, type, labels after host, help); the names of _backup_job, which begin with multibase_backup_, are not ours.
FAMILIES: Tuple[Tuple[str, str, Tuple[str, ...], str], ...] = (
    ("multibase_host_info", _G, ("version", "engine_version"), "1, with the versions of Multibase and of the Engine"),
    ("multibase_host_read", _G, (), "1 when the host could be read, else 0 and no other sample of it"),
    ("multibase_host_stale", _G, (), "1 when the figures were older than three intervals"),
    ("multibase_host_sampled_timestamp_seconds", _G, (), "When the figures were taken"),
    ("multibase_host_attention", _G, ("severity",), "What needs attention, by severity"),
    ("multibase_host_engine_up", _G, (), "1 when the Docker Engine answers"),
    ("multibase_host_cpus", _G, (), "Processors of the host"),
    ("multibase_host_cpu_ratio", _G, (), "Use of all processors, 0 to 1"),
    ("multibase_host_load", _G, ("minutes",), "Load, mean over this many minutes"),
    ("multibase_host_memory_bytes", _G, (), "Memory of the host"),
    ("multibase_host_memory_used_bytes", _G, (), "Memory in use"),
    ("multibase_host_memory_full_seconds", _G, (), "Time until memory is full, by its trend"),
    ("multibase_host_swap_used_bytes", _G, (), "Swap in use"),
    ("multibase_host_network_receive_bytes_per_second", _G, (), "Bytes received a second"),
    ("multibase_host_network_transmit_bytes_per_second", _G, (), "Bytes sent a second"),
    ("multibase_host_uptime_seconds", _G, (), "Time since the host was started"),
    ("multibase_disk_size_bytes", _G, ("path", "purpose"), "Size of a filesystem"),
    ("multibase_disk_used_bytes", _G, ("path", "purpose"), "Used of a filesystem"),
    ("multibase_disk_free_bytes", _G, ("path", "purpose"), "Free of a filesystem"),
    ("multibase_disk_full_seconds", _G, ("path", "purpose"), "Time until a filesystem is full, by its trend"),
    ("multibase_instance_info", _G, ("instance_name", "release"), "1, with the release of the stack"),
    ("multibase_instance_state", _G, ("instance_name", "state"), "1 at the state that the instance has, else 0"),
    ("multibase_instance_cpu_ratio", _G, ("instance_name",), "CPU use, 1 is one processor"),
    ("multibase_instance_memory_bytes", _G, ("instance_name",), "Memory in use without page cache"),
    ("multibase_instance_memory_limit_bytes", _G, ("instance_name",), "Memory that it may use"),
    ("multibase_instance_processes", _G, ("instance_name",), "Processes and threads"),
    ("multibase_instance_disk_bytes", _G, ("instance_name", "part"), "Disk use of database, storage and backups"),
    ("multibase_instance_uptime_ratio", _G, ("instance_name", "window"), "Part of a day or a month that it was up"),
    ("multibase_instance_uptime_target_ratio", _G, ("instance_name",), "Part of the time that it is to be up"),
    ("multibase_instance_backups", _G, ("instance_name",), "Backups on the host"),
    ("multibase_instance_backups_scheduled", _G, ("instance_name",), "1 when backups are scheduled"),
    ("multibase_instance_backups_overdue", _G, ("instance_name",), "1 when a scheduled backup is overdue"),
    ("multibase_instance_newest_backup_timestamp_seconds", _G, ("instance_name",), "When the newest backup was done"),
    ("multibase_instance_newest_verified_backup_timestamp_seconds", _G, ("instance_name",),
     "When the newest verified backup was done"),
    ("multibase_service_up", _G, ("instance_name", "service"), "1 when healthy, or running without a health check"),
    ("multibase_service_restarts_total", _C, ("instance_name", "service"), "Restarts of the container by the Engine"),
    ("multibase_service_start_timestamp_seconds", _G, ("instance_name", "service"), "When the container was started"),
    ("multibase_service_cpu_ratio", _G, ("instance_name", "service"), "CPU use, 1 is one processor"),
    ("multibase_service_memory_bytes", _G, ("instance_name", "service"), "Memory in use without page cache"),
    ("multibase_service_memory_limit_bytes", _G, ("instance_name", "service"), "Memory that it may use"),
    ("multibase_service_processes", _G, ("instance_name", "service"), "Processes and threads"),
    ("multibase_service_network_receive_bytes_total", _C, ("instance_name", "service"), "Bytes received"),
    ("multibase_service_network_transmit_bytes_total", _C, ("instance_name", "service"), "Bytes sent"),
    ("multibase_service_block_read_bytes_total", _C, ("instance_name", "service"), "Bytes read from disks"),
    ("multibase_service_block_written_bytes_total", _C, ("instance_name", "service"), "Bytes written to disks"),
    ("multibase_database_size_bytes", _G, ("instance_name",), "Size of the databases"),
    ("multibase_database_connections", _G, ("instance_name", "state"), "Connections by state"),
    ("multibase_database_max_connections", _G, ("instance_name",), "Connections that there may be"),
    ("multibase_database_cache_hit_ratio", _G, ("instance_name",), "Part of the blocks found in the cache"),
    ("multibase_database_oldest_transaction_seconds", _G, ("instance_name",), "Age of the oldest transaction"),
    ("multibase_database_wal_bytes", _G, ("instance_name",), "Size of the write-ahead log on disk"),
    ("multibase_database_dead_tuples", _G, ("instance_name",), "Rows that wait for vacuum"),
    ("multibase_database_slot_active", _G, ("instance_name", "slot"), "1 when somebody reads the replication slot"),
    ("multibase_database_slot_held_bytes", _G, ("instance_name", "slot"), "Write-ahead log that a slot holds back"),
    ("multibase_probe_success", _G, ("instance_name", "probe"), "1 when the probe succeeded"),
    ("multibase_probe_duration_seconds", _G, ("instance_name", "probe"), "How long the answer took"),
    ("multibase_alerts_firing", _G, ("severity",), "Alerts that fire and that nobody acknowledged or silenced"),
    ("multibase_alert_firing", _G, ("instance_name", "rule", "severity", "subject"), "1 for each alert that fires"),
    ("multibase_certificate_not_after_timestamp_seconds", _G, ("site", "domain", "kind"), "When a certificate expires"),
)  # fmt: skip


def render(report: Mapping[str, Any]) -> str:
    """Return the textfile of a report (as ``_report.build`` returns it)."""
    types = {name: kind for name, kind, _labels, _words in FAMILIES}
    found: Dict[str, Dict[Tuple[Tuple[str, str], ...], str]] = {name: {} for name in types}
    for host in report["hosts"]:
        severities = [one["severity"] for one in report["attention"] if one["host"] == host["host"]]
        for name, labels, value in _of_host(host, severities):
            if value is None or (types[name] == _C and value < 0):
                continue
            # Two of the same name, as two mounts at one path: Prometheus would refuse the whole file.
            found[name].setdefault(tuple({"host": host["host"], **labels}.items()), _number(value))
    lines: List[str] = []
    for name, kind, _labels, words in FAMILIES:
        lines += ["# HELP {0} {1}.".format(name, words), "# TYPE {0} {1}".format(name, kind)]
        lines += ["{0}{{{1}}} {2}".format(name, _label_text(key), text) for key, text in found[name].items()]
    return "\n".join(lines) + "\n"


def _label_text(labels: Tuple[Tuple[str, str], ...]) -> str:
    return ",".join('{0}="{1}"'.format(key, _escape(value)) for key, value in labels)


def _escape(value: str) -> str:
    text = plain_text(value)
    return text.replace("\\", "\\\\").replace("\n", "\\n").replace('"', '\\"')


def _number(value: Any) -> str:
    return repr(value) if isinstance(value, float) else str(int(value))


def _scaled(value: Any, factor: float) -> Any:
    return None if value is None else value * factor


def _of_host(host: Mapping[str, Any], severities: List[str]) -> Iterator[Sample]:
    machine = host["machine"]
    yield "multibase_host_read", {}, machine is not None
    for severity in SEVERITIES:
        yield "multibase_host_attention", {"severity": severity}, severities.count(severity)
    if machine is None:
        return
    versions = {"version": host["version"], "engine_version": machine["engine"]["version"]}
    yield "multibase_host_info", versions, 1
    yield "multibase_host_stale", {}, host["stale"]
    yield "multibase_host_sampled_timestamp_seconds", {}, host["sampled_at"]
    yield "multibase_host_engine_up", {}, machine["engine"]["reachable"]
    yield "multibase_host_cpus", {}, machine["cpus"]
    yield "multibase_host_cpu_ratio", {}, _scaled(machine["cpu_percent"], 0.01)
    for minutes, load in zip(("1", "5", "15"), machine["load"]):
        yield "multibase_host_load", {"minutes": minutes}, load
    yield "multibase_host_memory_bytes", {}, machine["memory_total_bytes"]
    yield "multibase_host_memory_used_bytes", {}, machine["memory_used_bytes"]
    yield "multibase_host_memory_full_seconds", {}, _scaled(machine["memory_full_in_days"], _DAY)
    yield "multibase_host_swap_used_bytes", {}, machine["swap_used_bytes"]
    yield "multibase_host_network_receive_bytes_per_second", {}, machine["network_received_rate"]
    yield "multibase_host_network_transmit_bytes_per_second", {}, machine["network_sent_rate"]
    yield "multibase_host_uptime_seconds", {}, machine["uptime_seconds"]
    for disk in machine["disks"]:
        labels = {"path": disk["path"], "purpose": disk["purpose"]}
        yield "multibase_disk_size_bytes", labels, disk["total_bytes"]
        yield "multibase_disk_used_bytes", labels, disk["used_bytes"]
        yield "multibase_disk_free_bytes", labels, disk["free_bytes"]
        yield "multibase_disk_full_seconds", labels, _scaled(disk["full_in_days"], _DAY)
    for instance in host["instances"]:
        yield from _of_instance(instance)
    unanswered = open_alerts(host)
    for severity in SEVERITIES:
        count = sum(alert["severity"] == severity for alert in unanswered)
        yield "multibase_alerts_firing", {"severity": severity}, count
    for alert in host["alerts"]:
        if alert["state"] == "firing":
            labels = {"instance_name": alert["instance"]}
            labels.update((key, alert[key]) for key in ("rule", "severity", "subject"))
            yield "multibase_alert_firing", labels, 1
    for certificate in host["certificates"]:
        labels = {"site": certificate["site"], "domain": (certificate["domains"] or [""])[0]}
        labels["kind"] = certificate["kind"]
        yield "multibase_certificate_not_after_timestamp_seconds", labels, certificate["not_after"]


def _of_instance(instance: Mapping[str, Any]) -> Iterator[Sample]:
    own = {"instance_name": instance["name"]}
    yield "multibase_instance_info", {**own, "release": instance["release"]}, 1
    for state in STATES:
        yield "multibase_instance_state", {**own, "state": state}, instance["state"] == state
    use = instance["use"]
    yield "multibase_instance_cpu_ratio", own, _scaled(use["cpu_percent"], 0.01)
    yield "multibase_instance_memory_bytes", own, use["memory_bytes"]
    yield "multibase_instance_memory_limit_bytes", own, use["memory_limit_bytes"]
    yield "multibase_instance_processes", own, use["processes"]
    for part in ("database", "storage", "backups"):
        yield "multibase_instance_disk_bytes", {**own, "part": part}, instance["disk"][part + "_bytes"]
    uptime = instance["uptime"]
    for window in ("day", "month"):
        yield "multibase_instance_uptime_ratio", {**own, "window": window}, _scaled(uptime[window + "_percent"], 0.01)
    yield "multibase_instance_uptime_target_ratio", own, _scaled(uptime["target_percent"], 0.01)
    backups = instance["backups"]
    yield "multibase_instance_backups", own, backups["count"]
    yield "multibase_instance_backups_scheduled", own, backups["scheduled"]
    yield "multibase_instance_backups_overdue", own, backups["overdue"]
    for key in ("newest", "newest_verified"):
        done = (backups[key] or {}).get("finished_at")
        yield "multibase_instance_{0}_backup_timestamp_seconds".format(key), own, done
    for service in instance["services"]:
        yield from _of_service(service, {**own, "service": service["name"]})
    if instance["database"] is not None:
        yield from _of_database(instance["database"], own)
    for probe in instance["probes"]:
        labels = {**own, "probe": probe["name"]}
        yield "multibase_probe_success", labels, probe["ok"]
        yield "multibase_probe_duration_seconds", labels, _scaled(probe["latency_ms"], 0.001)


def _of_service(service: Mapping[str, Any], labels: Dict[str, str]) -> Iterator[Sample]:
    use = service["use"]
    yield "multibase_service_up", labels, service["health"] in ("healthy", "running")
    yield "multibase_service_restarts_total", labels, service["restarts"]
    yield "multibase_service_start_timestamp_seconds", labels, service["started_at"]
    yield "multibase_service_cpu_ratio", labels, _scaled(use["cpu_percent"], 0.01)
    yield "multibase_service_memory_bytes", labels, use["memory_bytes"]
    yield "multibase_service_memory_limit_bytes", labels, use["memory_limit_bytes"]
    yield "multibase_service_processes", labels, use["processes"]
    yield "multibase_service_network_receive_bytes_total", labels, use["network_received_bytes"]
    yield "multibase_service_network_transmit_bytes_total", labels, use["network_sent_bytes"]
    yield "multibase_service_block_read_bytes_total", labels, use["block_read_bytes"]
    yield "multibase_service_block_written_bytes_total", labels, use["block_written_bytes"]


def _of_database(database: Mapping[str, Any], own: Dict[str, str]) -> Iterator[Sample]:
    yield "multibase_database_size_bytes", own, database["size_bytes"]
    for state, count in database["connections"].items():
        yield "multibase_database_connections", {**own, "state": state}, count
    yield "multibase_database_max_connections", own, database["max_connections"]
    yield "multibase_database_cache_hit_ratio", own, database["cache_hit_ratio"]
    yield "multibase_database_oldest_transaction_seconds", own, database["oldest_transaction_seconds"]
    yield "multibase_database_wal_bytes", own, database["wal_bytes"]
    yield "multibase_database_dead_tuples", own, database["dead_tuples"]
    for slot in database["replication_slots"]:
        labels = {**own, "slot": slot["name"]}
        yield "multibase_database_slot_active", labels, slot["active"]
        yield "multibase_database_slot_held_bytes", labels, slot["held_bytes"]
