# SPDX-License-Identifier: GPL-3.0-or-later
# This file is private to the multibase.supabase collection; it may change at any time.
"""What is known of all hosts in one document, and what of it needs attention first.

The input is what each host answered: its live document, or why there is none. The output follows
docs/schemas/report.schema.json; _report_html, _report_csv and _report_prometheus make files of it.
"""

from __future__ import annotations

from collections import Counter
from typing import Any, Dict, Iterable, Iterator, List, Mapping, Sequence, Set, Tuple

from ._errors import StateCorrupt, UnknownInstance
from ._live_shape import SEVERITIES, STATES, conform

SCHEMA = 1
# Data older than this many of its own intervals is stale.
STALE_INTERVALS = 3
_DAY = 86400.0
# From here on a filesystem, a forecast, the memory or a certificate needs attention: (warning, critical).
DISK_PERCENT = (85.0, 95.0)
MEMORY_PERCENT = (90.0, 97.0)
FULL_IN_DAYS = (14.0, 3.0)
CERTIFICATE_DAYS = (21.0, 7.0)
# What a finding is about, in the order in which findings of one severity are told.
KINDS = (
    "unreadable", "stale", "engine", "alert", "instance", "probe", "backup", "disk", "memory", "certificate",
)  # fmt: skip
# How the names of alert rules begin that tell the same as a finding of our own.
_COVERED_BY: Mapping[str, Tuple[str, ...]] = {
    "engine": ("engine",),
    "instance": ("instance_down", "service_down", "service_unhealthy"),
    "probe": ("probe_failed",),
    "backup": ("backup",),
    "disk": ("disk",),
    "memory": ("host_memory",),
    "certificate": ("certificate",),
}
_STATE_SEVERITIES = {
    "damaged": "critical", "unhealthy": "critical", "degraded": "warning", "stopped": "warning", "unknown": "warning",
}  # fmt: skip


def answer_of(host: str, answer: Any) -> Dict[str, Any]:
    """Return what a host answered from what Ansible registered of the module: {host, live, problem, read_at}.

    A host that cannot be reached, or where the module failed, has no ``live`` and the reason in ``problem``.
    """
    known: Mapping[str, Any] = answer if isinstance(answer, Mapping) else {}
    results = known.get("results")
    if isinstance(results, (list, tuple)) and results and isinstance(results[0], Mapping):
        first = results[0]
        told = {key: first.get(key) for key in ("live", "problem", "read_at")}
        return {**told, "host": host, "live": told["live"] or None}
    # What a program said that came in the way (sudo, python) tells more than Ansible's own words.
    said = str(known.get("module_stderr") or "").strip() or str(known.get("msg") or "").strip() or "no answer"
    if known.get("unreachable"):
        said = "the host cannot be reached: " + said
    return {"host": host, "live": None, "problem": said, "read_at": None}


def build(
    answers: Sequence[Mapping[str, Any]], made_at: float, version: str, only: Sequence[str] = ()
) -> Dict[str, Any]:
    """Return the report of all hosts, in the order of ``answers`` (as ``answer_of`` returns them).

    ``made_at`` is seconds since 1970; it stands in where a host does not say when it was read. A live document that
    does not follow its schema makes its host one that could not be read.

    With names in ``only`` it is about these instances and the hosts that have one, or may have: those that could not be
    read. Raises UnknownInstance for a name that nobody has, unless such a host may have it.
    """
    hosts = [_host(answer, made_at) for answer in answers]
    if only:
        hosts = _only(hosts, set(only))
    findings = [finding for host in hosts for finding in _findings(host)]
    order = {kind: rank for rank, kind in enumerate(KINDS)}
    findings.sort(key=lambda one: (one["severity"] != "critical", order[one["kind"]], one["host"], one["instance"]))
    return {
        "schema": SCHEMA,
        "version": version,
        "made_at": float(made_at),
        "hosts": hosts,
        "totals": _totals(hosts, findings),
        "attention": findings,
        "files": [],
    }


def _only(hosts: Sequence[Mapping[str, Any]], names: Set[str]) -> List[Dict[str, Any]]:
    """Return the hosts with what is about instances of these names, and about the hosts themselves."""
    known = {instance["name"] for host in hosts for instance in host["instances"]}
    missing = sorted(names - known)
    if missing and all(host["machine"] is not None for host in hosts):
        there = ", ".join(sorted(known)) or "none"
        raise UnknownInstance("there is no instance {0}; there are: {1}".format(", ".join(missing), there))
    kept = []
    for host in hosts:
        instances = [instance for instance in host["instances"] if instance["name"] in names]
        if instances or host["machine"] is None:
            alerts = [alert for alert in host["alerts"] if alert["instance"] in {*names, ""}]
            sites = [one for one in host["certificates"] if one["site"] in names or one["site"].startswith("_")]
            kept.append({**host, "instances": instances, "alerts": alerts, "certificates": sites})
    return kept


def needs(report: Mapping[str, Any], severity: str) -> List[Dict[str, Any]]:
    """Return the findings of at least this severity."""
    least = SEVERITIES.index(severity)
    return [one for one in report["attention"] if SEVERITIES.index(one["severity"]) >= least]


def plain_text(value: Any) -> str:
    """Return text of a stranger that can be shown: one that can be encoded, and without control characters."""
    text = str(value).encode("utf-8", "replace").decode("utf-8")
    return "".join(letter if letter.isprintable() or letter == "\n" else " " for letter in text)


def _host(answer: Mapping[str, Any], made_at: float) -> Dict[str, Any]:
    problem = plain_text(answer.get("problem") or "").strip()
    read_at = _moment(answer.get("read_at"), made_at)
    known: Dict[str, Any] = {
        "host": plain_text(answer["host"]), "sampled_at": None, "interval": None, "age_seconds": None, "stale": False,
        "problem": problem, "version": "", "machine": None, "instances": [], "alerts": [], "certificates": [],
    }  # fmt: skip
    if answer.get("live") is None:
        known["problem"] = problem or "the host told nothing"
        return known
    try:
        live = conform(answer["live"])
    except StateCorrupt as error:
        reason = "its live document cannot be read: {0}".format(error)
        known["problem"] = "; ".join(filter(None, (problem, plain_text(reason))))
        return known
    sampled_at, interval = live["sampled_at"], live["interval"]
    age = None if sampled_at is None else float(read_at - sampled_at)
    known.update(
        sampled_at=sampled_at, interval=interval, age_seconds=age, version=live["version"], machine=live["host"],
        # A clock that was set back makes the future stale as well.
        stale=age is None or abs(age) > STALE_INTERVALS * max(interval, 1.0),
    )  # fmt: skip
    known.update({key: live[key] for key in ("instances", "alerts", "certificates")})
    return known


def _moment(value: Any, otherwise: float) -> float:
    if isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < 1e12:
        return float(value)
    return float(otherwise)


# --- what needs attention --------------------------------------------------------------------------------------------


def open_alerts(host: Mapping[str, Any]) -> List[Dict[str, Any]]:
    """Return the alerts of a host that fire and that nobody acknowledged or silenced."""
    now = host["sampled_at"] or 0
    return [
        alert
        for alert in host["alerts"]
        if alert["state"] == "firing" and alert["acknowledged"] is None and (alert["silenced_until"] or 0) <= now
    ]


def _finding(
    host: Mapping[str, Any], severity: str, kind: str, message: str, instance: str = "", subject: str = ""
) -> Dict[str, Any]:
    return {
        "severity": severity, "kind": kind, "host": host["host"], "instance": instance, "subject": subject,
        "message": message,
    }  # fmt: skip


def _findings(host: Mapping[str, Any]) -> Iterator[Dict[str, Any]]:
    """Yield what needs attention on a host. What an alert tells already, or was told and answered, is left out."""
    if host["machine"] is None:
        yield _finding(host, "critical", "unreadable", host["problem"])
        return
    if host["stale"]:
        told = host["problem"] or "the sampler has stopped"
        yield _finding(host, "critical", "stale", "nothing was written {0}: {1}".format(_since(host), told))
    elif host["problem"]:
        yield _finding(host, "warning", "stale", host["problem"])
    for alert in open_alerts(host):
        yield _finding(host, alert["severity"], "alert", alert["message"], alert["instance"], alert["subject"])
    firing = [alert for alert in host["alerts"] if alert["state"] == "firing"]
    for finding in _own_findings(host):
        if not any(_tells(alert, finding) for alert in firing):
            yield finding


def _since(host: Mapping[str, Any]) -> str:
    age = host["age_seconds"]
    return "yet" if age is None else "for {0:.0f} s".format(age) if age >= 0 else "but in the future"


def _tells(alert: Mapping[str, Any], finding: Mapping[str, Any]) -> bool:
    """Whether an alert is about the same thing as a finding, and no less severe."""
    same = alert["instance"] == finding["instance"] and alert["rule"].startswith(_COVERED_BY[finding["kind"]])
    worse = SEVERITIES.index(finding["severity"]) > SEVERITIES.index(alert["severity"])
    return (
        same
        and not worse
        and (not alert["subject"] or not finding["subject"] or alert["subject"] == finding["subject"])
    )


def _own_findings(host: Mapping[str, Any]) -> Iterator[Dict[str, Any]]:
    machine = host["machine"]
    if not machine["engine"]["reachable"]:
        trouble = machine["engine"]["trouble"] or "it does not answer"
        yield _finding(host, "critical", "engine", "the Docker Engine cannot be reached: {0}".format(trouble))
    for instance in host["instances"]:
        yield from _of_instance(host, instance)
    for disk in machine["disks"]:
        full = disk["full_in_days"]
        severity = _worse(_over(disk["used_percent"], DISK_PERCENT), _under(full, FULL_IN_DAYS))
        if severity:
            text = "{0} is {1:.0f} % full".format(disk["path"], disk["used_percent"])
            text += "" if full is None else ", and full in {0:.1f} days".format(full)
            yield _finding(host, severity, "disk", text, subject=disk["path"])
    total = machine["memory_total_bytes"]
    percent = 100.0 * machine["memory_used_bytes"] / total if total > 0 else None
    full = machine["memory_full_in_days"]
    severity = _worse(_over(percent, MEMORY_PERCENT), _under(full, FULL_IN_DAYS))
    if severity:
        text = "memory is {0:.0f} % in use".format(percent or 0)
        yield _finding(
            host, severity, "memory", text + ("" if full is None else ", and full in {0:.1f} days".format(full))
        )
    for certificate in host["certificates"]:
        left = certificate["days_left"]
        severity = _under(left, CERTIFICATE_DAYS)
        if severity:
            named = ", ".join(certificate["domains"]) or certificate["site"]
            text = "has expired" if left <= 0 else "expires in {0:.1f} days".format(left)
            instance = "" if certificate["site"].startswith("_") else certificate["site"]
            subject = (certificate["domains"] or [certificate["site"]])[0]
            yield _finding(
                host, severity, "certificate", "the certificate of {0} {1}".format(named, text), instance, subject
            )


def _of_instance(host: Mapping[str, Any], instance: Mapping[str, Any]) -> Iterator[Dict[str, Any]]:
    name = instance["name"]
    severity = _STATE_SEVERITIES.get(instance["state"], "")
    if instance["state"] == "stopped" and "wanted" in instance:
        severity = "critical" if instance["wanted"] == "running" else ""
    if severity:
        bad = [one["name"] for one in instance["services"] if one["health"] in ("unhealthy", "stopped", "unknown")]
        parts = ["it is " + instance["state"], instance["problem"]]
        parts += [", ".join(bad)] if bad and instance["state"] != "stopped" else []
        yield _finding(host, severity, "instance", ": ".join(filter(None, parts)), name)
    elif instance["problem"]:
        yield _finding(host, "warning", "instance", instance["problem"], name)
    # Of one that is stopped nothing answers.
    for probe in instance["probes"] if instance["state"] != "stopped" else []:
        if not probe["ok"]:
            told = "the probe {0} fails: {1}".format(probe["name"], probe["detail"] or "no answer")
            yield _finding(host, "warning", "probe", told, name, probe["name"])
    problem = backup_problem(instance["backups"])
    if problem:
        yield _finding(host, "critical" if instance["backups"]["overdue"] else "warning", "backup", problem, name)


def backup_problem(backups: Mapping[str, Any]) -> str:
    """Return what is wrong with the backups of an instance; empty when nothing is."""
    newest, verified = backups["newest"], backups["newest_verified"]
    parts = []
    if backups["overdue"]:
        parts.append("a scheduled backup is overdue")
    if backups["last_exit_code"]:
        reason = ": {0}".format(backups["reason"]) if backups["reason"] else ""
        parts.append("the last backup ended with {0}{1}".format(backups["last_exit_code"], reason))
    if newest is None:
        # Before the first is due there is none.
        parts += [] if backups["scheduled"] else ["there is no backup, and none is scheduled"]
    elif verified is None:
        parts.append("no backup is verified")
    elif not newest["verified"]:
        parts.append("the newest backup is not verified")
    return "; ".join(parts)


def _over(value: Any, limits: Tuple[float, float]) -> str:
    return "" if value is None or value < limits[0] else "critical" if value >= limits[1] else "warning"


def _under(value: Any, limits: Tuple[float, float]) -> str:
    return "" if value is None or value > limits[0] else "critical" if value <= limits[1] else "warning"


def _worse(*severities: str) -> str:
    return max(severities, key=("", *SEVERITIES).index)


# --- totals ----------------------------------------------------------------------------------------------------------


def _sum(values: Iterable[Any]) -> Any:
    """Return the sum of what is known; None when nothing is."""
    known = [value for value in values if value is not None]
    return sum(known) if known else None


def _totals(hosts: Sequence[Mapping[str, Any]], findings: Sequence[Mapping[str, Any]]) -> Dict[str, Any]:
    machines = [host["machine"] for host in hosts if host["machine"] is not None]
    instances = [instance for host in hosts for instance in host["instances"]]
    services = [service for instance in instances for service in instance["services"]]
    states = Counter(instance["state"] for instance in instances)
    severities = Counter(finding["severity"] for finding in findings)
    firing = [alert for host in hosts for alert in host["alerts"] if alert["state"] == "firing"]
    unanswered = [alert for host in hosts for alert in open_alerts(host)]
    backups = [instance["backups"] for instance in instances]
    return {
        "hosts": len(hosts),
        "hosts_unreadable": len(hosts) - len(machines),
        "hosts_stale": sum(host["stale"] for host in hosts),
        "instances": len(instances),
        "instances_by_state": {state: states[state] for state in STATES},
        "services": len(services),
        "services_well": sum(service["health"] in ("healthy", "running") for service in services),
        "cpus": sum(machine["cpus"] for machine in machines),
        "memory_total_bytes": sum(machine["memory_total_bytes"] for machine in machines),
        "memory_used_bytes": sum(machine["memory_used_bytes"] for machine in machines),
        "database_bytes": _sum(instance["disk"]["database_bytes"] for instance in instances),
        "storage_bytes": _sum(instance["disk"]["storage_bytes"] for instance in instances),
        "backups_bytes": _sum(instance["disk"]["backups_bytes"] for instance in instances),
        "backups": sum(one["count"] for one in backups),
        "backups_overdue": sum(one["overdue"] for one in backups),
        "alerts_firing": len(firing),
        "alerts_answered": len(firing) - len(unanswered),
        "attention": {severity: severities[severity] for severity in reversed(SEVERITIES)},
    }
