# SPDX-License-Identifier: GPL-3.0-or-later
# This file is private to the multibase.supabase collection; it may change at any time.
"""The rules of alerts as data, and what each finds in a live document. Pure.

A rule looks at numbers: an alert begins at ``threshold``, lasts until ``resolve_threshold`` is passed the other way,
and is told when it has lasted ``for`` seconds. A rule about something that is or is not has the number 1 when it is.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any, Callable, Dict, Iterator, List, Mapping, NamedTuple, Optional

Live = Mapping[str, Any]
SEVERITIES = ("warning", "critical")


class Finding(NamedTuple):
    """What a rule measured. ``instance`` is empty for the host, ``subject`` for the whole."""

    instance: str
    subject: str
    value: float


@dataclass(frozen=True)
class Rule:
    """When an alert begins and ends. Seconds; ``resolve_after`` is how long it has to be well again.

    With ``below`` small numbers are the bad ones.
    """

    severity: str
    threshold: float
    resolve_threshold: float
    wait: float
    resolve_after: float = 60.0
    below: bool = False

    def bad(self, value: float, firing: bool) -> bool:
        """Whether a value keeps an alert going, or begins one."""
        limit = self.resolve_threshold if firing else self.threshold
        return value <= limit if self.below else value >= limit


class About(NamedTuple):
    """A rule, what it measures, and what it says of it; value, threshold and subject are filled in."""

    rule: Rule
    unit: str
    meaning: str
    message: str
    find: Callable[[Live], Iterator[Finding]]


def _yes(severity: str, wait: float, resolve_after: float = 60.0) -> Rule:
    return Rule(severity, 1, 1, wait, resolve_after)


def _host_cpu(live: Live) -> Iterator[Finding]:
    if live["host"]["cpu_percent"] is not None:
        yield Finding("", "", live["host"]["cpu_percent"])


def _host_memory(live: Live) -> Iterator[Finding]:
    host = live["host"]
    if host["memory_total_bytes"]:
        yield Finding("", "", 100.0 * host["memory_used_bytes"] / host["memory_total_bytes"])


def _disk_used(live: Live) -> Iterator[Finding]:
    for disk in live["host"]["disks"]:
        yield Finding("", disk["path"], disk["used_percent"])


def _disk_full_soon(live: Live) -> Iterator[Finding]:
    for disk in live["host"]["disks"]:
        # No forecast is a good one; what was told before ends with it.
        yield Finding("", disk["path"], 9999.0 if disk["full_in_days"] is None else disk["full_in_days"])


def _engine(live: Live) -> Iterator[Finding]:
    yield Finding("", "", float(not live["host"]["engine"]["reachable"]))


def _meant_to_run(live: Live) -> Iterator[Mapping[str, Any]]:
    """Instances of which something can be said: not those that were stopped on purpose, nor any without an Engine."""
    for entry in live["instances"]:
        if entry["state"] != "unknown" and (entry["state"] != "stopped" or entry.get("wanted") == "running"):
            yield entry


def _instance_cpu(live: Live) -> Iterator[Finding]:
    cpus = live["host"]["cpus"] or 1
    for entry in _meant_to_run(live):
        if entry["use"]["cpu_percent"] is not None:
            yield Finding(entry["name"], "", entry["use"]["cpu_percent"] / cpus)


def _service_memory(live: Live) -> Iterator[Finding]:
    for entry in _meant_to_run(live):
        for service in entry["services"]:
            used, limit = service["use"]["memory_bytes"], service["use"]["memory_limit_bytes"]
            if used is not None and limit:
                yield Finding(entry["name"], service["name"], 100.0 * used / limit)


def _instance_down(live: Live) -> Iterator[Finding]:
    for entry in _meant_to_run(live):
        yield Finding(entry["name"], "", float(entry["state"] in ("stopped", "damaged")))


def _service_down(live: Live) -> Iterator[Finding]:
    for entry in _meant_to_run(live):
        # The whole instance is another rule's.
        if entry["state"] not in ("stopped", "damaged"):
            for service in entry["services"]:
                yield Finding(entry["name"], service["name"], float(service["health"] == "stopped"))


def _service_unhealthy(live: Live) -> Iterator[Finding]:
    for entry in _meant_to_run(live):
        for service in entry["services"]:
            yield Finding(entry["name"], service["name"], float(service["health"] == "unhealthy"))


def _service_restarts(live: Live) -> Iterator[Finding]:
    for entry in _meant_to_run(live):
        for service in entry["services"]:
            if service["restarts"] is not None:
                yield Finding(entry["name"], service["name"], float(service["restarts"]))


def _probe_failed(live: Live) -> Iterator[Finding]:
    for entry in _meant_to_run(live):
        for probe in entry["probes"]:
            yield Finding(entry["name"], probe["name"], float(not probe["ok"]))


def _probe_slow(live: Live) -> Iterator[Finding]:
    for entry in _meant_to_run(live):
        for probe in entry["probes"]:
            if probe["ok"] and probe["latency_ms"] is not None:
                yield Finding(entry["name"], probe["name"], probe["latency_ms"])


def _backup_overdue(live: Live) -> Iterator[Finding]:
    for entry in live["instances"]:
        yield Finding(entry["name"], "", float(entry["backups"]["overdue"]))


def _backup_failed(live: Live) -> Iterator[Finding]:
    for entry in live["instances"]:
        yield Finding(entry["name"], "", float(bool(entry["backups"]["last_exit_code"])))


def _backup_unverified(live: Live) -> Iterator[Finding]:
    for entry in live["instances"]:
        newest = entry["backups"]["newest"]
        if newest is not None:
            yield Finding(entry["name"], "", float(not newest["verified"]))


def _certificate(live: Live) -> Iterator[Finding]:
    for row in live["certificates"]:
        if row["days_left"] is not None:
            instance = "" if row["site"].startswith("_") else row["site"]
            yield Finding(instance, row["domains"][0] if row["domains"] else row["site"], row["days_left"])


def _slot(live: Live) -> Iterator[Finding]:
    for entry in _meant_to_run(live):
        for slot in (entry["database"] or {}).get("replication_slots", []):
            if slot["held_bytes"] is not None:
                yield Finding(entry["name"], slot["name"], float(slot["held_bytes"]))


def _connections(live: Live) -> Iterator[Finding]:
    for entry in _meant_to_run(live):
        database = entry["database"]
        if database and database["max_connections"]:
            yield Finding(
                entry["name"], "", 100.0 * sum(database["connections"].values()) / database["max_connections"]
            )


def _transaction(live: Live) -> Iterator[Finding]:
    for entry in _meant_to_run(live):
        database = entry["database"]
        if database:
            yield Finding(entry["name"], "", database["oldest_transaction_seconds"] or 0.0)


GIB = float(1 << 30)
RULES: Dict[str, About] = {
    "host_cpu": About(
        Rule("warning", 90, 80, 600), "%", "processors of the host in use",
        "the host's processors are busy to {value} %", _host_cpu,
    ),
    "host_memory": About(
        Rule("critical", 92, 88, 300), "%", "memory of the host in use, page cache left out",
        "{value} % of the host's memory is in use", _host_memory,
    ),
    "disk_used": About(
        Rule("critical", 90, 85, 60), "%", "use of a disk with data, images or backups",
        "the disk of {subject} is full to {value} %", _disk_used,
    ),
    "disk_full_soon": About(
        Rule("warning", 7, 10, 3600, below=True), "days", "days until a disk is full, by the trend of a week",
        "the disk of {subject} will be full in {value} days", _disk_full_soon,
    ),
    "engine_unreachable": About(
        _yes("critical", 120), "", "Docker does not answer", "Docker does not answer", _engine,
    ),
    "instance_cpu": About(
        Rule("warning", 80, 60, 900), "%", "share of the host's processors that an instance uses",
        "it uses {value} % of the host's processors", _instance_cpu,
    ),
    "service_memory": About(
        Rule("warning", 90, 80, 600), "%", "memory of a service, of its limit",
        "{subject} uses {value} % of the memory that it may", _service_memory,
    ),
    "instance_down": About(
        _yes("critical", 60), "", "an instance that is meant to run does not run at all",
        "it does not run, and nobody stopped it", _instance_down,
    ),
    "service_down": About(
        _yes("critical", 60), "", "a service does not run, in an instance that runs", "{subject} does not run",
        _service_down,
    ),
    "service_unhealthy": About(
        _yes("critical", 120), "", "a service's health check fails", "the health check of {subject} fails",
        _service_unhealthy,
    ),
    "service_restarts": About(
        Rule("warning", 5, 5, 0, 3600), "restarts", "how often the Engine has restarted a service",
        "{subject} was restarted {value} times", _service_restarts,
    ),
    "probe_failed": About(
        _yes("critical", 90), "", "a probe through the gateway fails", "the probe {subject} fails", _probe_failed,
    ),
    "probe_slow": About(
        Rule("warning", 2000, 1500, 300), "ms", "latency of a probe", "the probe {subject} takes {value} ms",
        _probe_slow,
    ),
    "backup_overdue": About(
        _yes("critical", 0), "", "a scheduled backup did not come", "a scheduled backup is overdue", _backup_overdue,
    ),
    "backup_failed": About(
        _yes("critical", 0), "", "the last backup failed", "the last backup failed", _backup_failed,
    ),
    "backup_unverified": About(
        _yes("warning", 21600), "", "the newest backup was not verified", "the newest backup is not verified",
        _backup_unverified,
    ),
    "certificate_expiring": About(
        Rule("warning", 14, 20, 3600, below=True), "days", "days until a certificate expires",
        "the certificate of {subject} expires in {value} days", _certificate,
    ),
    "slot_lag": About(
        Rule("warning", GIB, GIB / 2, 600), "bytes", "WAL that a replication slot holds",
        "the replication slot {subject} holds {value} bytes of WAL", _slot,
    ),
    "connections": About(
        Rule("warning", 85, 70, 300), "%", "connections to a database, of those that it takes",
        "{value} % of the database's connections are taken", _connections,
    ),
    "long_transaction": About(
        Rule("warning", 3600, 3600, 60), "s", "age of the oldest transaction of a client",
        "a transaction has been open for {value} s", _transaction,
    ),
}  # fmt: skip

# Of each field: its name in settings, and what it has to be.
_NUMBERS = {"threshold": "threshold", "resolve_threshold": "resolve_threshold", "for": "wait",
            "resolve_after": "resolve_after"}  # fmt: skip


def _problems_of_one(where: str, name: Any, wanted: Any) -> List[str]:
    if name not in RULES:
        return ["{0}: there is no rule {1!r}; there are {2}".format(where, str(name), ", ".join(sorted(RULES)))]
    if isinstance(wanted, bool):
        return []
    if not isinstance(wanted, Mapping):
        return ["{0}.{1}: must be false, true or a dictionary".format(where, name)]
    problems: List[str] = []
    for field, value in wanted.items():
        path = "{0}.{1}.{2}".format(where, name, field)
        if field == "severity":
            if value not in SEVERITIES:
                problems.append("{0}: must be {1}".format(path, " or ".join(SEVERITIES)))
        elif field == "enabled":
            if not isinstance(value, bool):
                problems.append("{0}: must be true or false".format(path))
        elif field not in _NUMBERS:
            known = ", ".join(["enabled", "severity", *_NUMBERS])
            problems.append("{0}: there is no such field; there are {1}".format(path, known))
        elif isinstance(value, bool) or not isinstance(value, (int, float)) or value < 0:
            problems.append("{0}: must be a number, not below 0".format(path))
    if problems:
        return problems
    rule = effective(RULES[name].rule, wanted)
    if rule is not None:
        wrong = rule.resolve_threshold < rule.threshold if rule.below else rule.resolve_threshold > rule.threshold
        if wrong:
            side = "below" if rule.below else "above"
            problems.append("{0}.{1}: resolve_threshold must not be {2} threshold".format(where, name, side))
    return problems


def problems(rules: Any, instance_rules: Any) -> List[str]:
    """Return everything that is wrong with settings of rules, each named by its path."""
    found: List[str] = []
    if not isinstance(rules, Mapping):
        return ["rules: must be a dictionary of rules"]
    for name, wanted in rules.items():
        found += _problems_of_one("rules", name, wanted)
    if not isinstance(instance_rules, Mapping):
        return [*found, "instance_rules: must be a dictionary of instances"]
    for instance, own in instance_rules.items():
        where = "instance_rules.{0}".format(instance)
        if not isinstance(own, Mapping):
            found.append("{0}: must be a dictionary of rules".format(where))
            continue
        for name, wanted in own.items():
            found += _problems_of_one(where, name, wanted)
    return found


def effective(rule: Rule, wanted: Any) -> Optional[Rule]:
    """Return a rule with what settings change of it, None when they switch it off.

    When only ``threshold`` is given, ``resolve_threshold`` keeps its share of it.
    """
    if wanted is False or (isinstance(wanted, Mapping) and wanted.get("enabled") is False):
        return None
    if not isinstance(wanted, Mapping):
        return rule
    changes: Dict[str, Any] = {own: wanted[name] for name, own in _NUMBERS.items() if name in wanted}
    if "severity" in wanted:
        changes["severity"] = wanted["severity"]
    if "threshold" in changes and "resolve_threshold" not in changes:
        share = rule.resolve_threshold / rule.threshold if rule.threshold else 1.0
        changes["resolve_threshold"] = changes["threshold"] * share
    return replace(rule, **changes)


class Rules:
    """The rules of a host: those of this file, with what its settings change for all and for single instances."""

    def __init__(self, rules: Mapping[str, Any], instance_rules: Mapping[str, Any]) -> None:
        # What is wrong was refused by the role; on a host a damaged part leaves the rule as it is.
        self._for_all = {name: value for name, value in rules.items() if not _problems_of_one("rules", name, value)}
        self._for_one = {
            instance: {name: value for name, value in own.items() if not _problems_of_one("", name, value)}
            for instance, own in instance_rules.items()
            if isinstance(own, Mapping)
        }

    def of(self, name: str, instance: str) -> Optional[Rule]:
        """Return a rule as it is for an instance (empty: the host), None where it is off."""
        rule = effective(RULES[name].rule, self._for_all.get(name))
        own = self._for_one.get(instance, {})
        if name not in own:
            return rule
        # What is on for one instance only starts from the rule as it is here.
        return effective(rule or RULES[name].rule, own[name])


def message(name: str, finding: Finding, rule: Rule) -> str:
    """Return what an alert says."""
    return RULES[name].message.format(
        value=plain(finding.value), threshold=plain(rule.threshold), subject=finding.subject
    )


def plain(number: float) -> str:
    """Return a number as people write it."""
    return "{0:.0f}".format(number) if number >= 100 or number == int(number) else "{0:.1f}".format(number)


def table() -> List[Dict[str, Any]]:
    """Return all rules with their defaults, for the documentation."""
    return [{"name": name, "unit": about.unit, "meaning": about.meaning, **asdict(about.rule)}
            for name, about in RULES.items()]  # fmt: skip
