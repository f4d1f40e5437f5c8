# SPDX-License-Identifier: GPL-3.0-or-later
# This file is private to the multibase.supabase collection; it may change at any time.
"""A report as one HTML file: no script, nothing fetched, readable on a phone, on paper, in the dark and read aloud.

Every text of a host goes through ``_tag``, which escapes it; what is not ``_Markup`` cannot become markup.
"""

from __future__ import annotations

import html
from typing import Any, Callable, List, Mapping, Optional, Sequence, Tuple

from ._report import FULL_IN_DAYS, backup_problem, plain_text
from ._report_csv import moment

# Colours have a contrast of at least 4.5 to their ground, in both schemes; no meaning is in a colour alone.
_STYLE = """
:root { color-scheme: light dark; --ground: #fff; --text: #1b1f24; --soft: #57606a; --line: #d0d7de; --band: #f6f8fa;
  --critical: #b3151c; --warning: #7d4e00; --well: #1a6e31; --link: #0550ae; }
@media (prefers-color-scheme: dark) { :root { --ground: #0d1117; --text: #e6edf3; --soft: #9da7b1; --line: #3d444d;
  --band: #161b22; --critical: #ff8d87; --warning: #e3b341; --well: #56d364; --link: #79b8ff; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 1rem; max-width: 90rem; background: var(--ground); color: var(--text);
  font: 1rem/1.5 system-ui, sans-serif; }
h1 { font-size: 1.5rem; margin: 0; } h2 { font-size: 1.2rem; margin: 2rem 0 .5rem; }
h3 { font-size: 1rem; margin: 1.5rem 0 .5rem; }
p { margin: .25rem 0; } .soft, caption { color: var(--soft); } a { color: var(--link); }
a:focus-visible, .wide:focus-visible { outline: 3px solid var(--link); outline-offset: 2px; }
.totals { display: grid; grid-template-columns: repeat(auto-fill, minmax(11rem, 1fr)); gap: .5rem; margin: 1rem 0;
  padding: 0; }
.totals div { border: 1px solid var(--line); border-radius: .4rem; padding: .5rem .75rem; }
dt { color: var(--soft); font-size: .875rem; } dd { margin: 0; font-weight: 600; overflow-wrap: anywhere; }
.wide { overflow-x: auto; } table { border-collapse: collapse; width: 100%; }
caption { text-align: left; padding: .25rem 0; font-size: .875rem; }
th, td { text-align: left; vertical-align: top; padding: .3rem .6rem; border-bottom: 1px solid var(--line); }
thead th { background: var(--band); white-space: nowrap; } tbody th { font-weight: 600; }
td { overflow-wrap: break-word; max-width: 40rem; }
.n { text-align: right; white-space: nowrap; font-variant-numeric: tabular-nums; }
.critical, .warning, .well { font-weight: 600; } .critical { color: var(--critical); }
.warning { color: var(--warning); } .well { color: var(--well); }
svg { display: block; width: 6rem; height: 1.5rem; stroke: var(--link); fill: none; }
@media print { body { max-width: none; padding: 0; font-size: 9pt; } nav { display: none; } .wide { overflow: visible; }
  thead { display: table-header-group; } tr { break-inside: avoid; } h2, h3 { break-after: avoid; } }
"""
_POLICY = "default-src 'none'; style-src 'unsafe-inline'"
_MARKS = {"critical": "✖ ", "warning": "▲ ", "well": "✔ "}
_STATE_CLASSES = {
    "healthy": "well", "running": "well", "damaged": "critical", "unhealthy": "critical", "degraded": "warning",
    "stopped": "warning", "unknown": "warning",
}  # fmt: skip


class _Markup(str):
    """Text that is markup already."""


# A column of a table: heading, whether it holds numbers, and what is in its cell.
_Column = Tuple[str, bool, Callable[[Any], Any]]


def _tag(name: str, *children: Any, **attributes: Any) -> _Markup:
    """Return an element. Children that are not markup, and all values of attributes, are escaped."""
    written = "".join(
        ' {0}="{1}"'.format(key.rstrip("_").replace("_", "-"), html.escape(_shown(value)))
        for key, value in attributes.items()
        if value is not None
    )
    return _Markup("<{0}{1}>{2}</{0}>".format(name, written, _join(children)))


def _join(parts: Sequence[Any]) -> _Markup:
    return _Markup(
        "".join(part if isinstance(part, _Markup) else html.escape(_shown(part)) for part in parts if part is not None)
    )


def _shown(value: Any) -> str:
    """Return text as it is shown: without marks that turn the direction of what follows, and control characters."""
    return plain_text(value)


def _mark(text: str, kind: str) -> Any:
    return _tag("span", _MARKS[kind] + text, class_=kind) if kind else text


def _state(state: str) -> Any:
    return _mark(state, _STATE_CLASSES.get(state, ""))


def _yes_no(value: bool, bad: bool) -> Any:
    return _mark("yes", "critical") if value and bad else "yes" if value else "no"


def _size(count: Any) -> str:
    """Return a number of bytes in units of 1024; a dash when it is not known."""
    if count is None:
        return "-"
    size = float(count)
    for unit in ("B", "KiB", "MiB", "GiB", "TiB"):
        if abs(size) < 1024 or unit == "TiB":
            break
        size /= 1024
    return "{0:.0f} {1}".format(size, unit) if unit == "B" else "{0:.1f} {1}".format(size, unit)


def _figure(value: Any, form: str = "{0}") -> str:
    return "-" if value is None else form.format(value)


def _percent(value: Any, places: int = 1) -> str:
    return _figure(value, "{{0:.{0}f}} %".format(places))


def _age(seconds: Any) -> str:
    if seconds is None:
        return "-"
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * length:
            return "{0:.0f} {1}".format(seconds // length, unit)
    return "{0:.0f} s".format(seconds)


def _days(value: Any) -> Any:
    if value is None:
        return "-"
    kind = "critical" if value <= FULL_IN_DAYS[1] else "warning" if value <= FULL_IN_DAYS[0] else ""
    return _mark("{0:.1f} days".format(value), kind)


def _time(seconds: Any) -> Any:
    text = moment(seconds)
    return _tag("time", text.replace("T", " ").replace("Z", " UTC"), datetime=text) if text else "-"


def _link(address: str, text: str) -> Any:
    """Return a link; only the text where the address is not one of the web."""
    return _tag("a", text, href=address, rel="noreferrer") if address.startswith(("http://", "https://")) else text


def _sparkline(values: Optional[Sequence[Any]], what: str) -> Any:
    """Return the last hour as a line; nothing where fewer than two values are known."""
    known = [value for value in values or [] if value is not None]
    if len(known) < 2:
        return "-"
    low, high = min(known), max(known)
    spread = float(high - low) or 1.0
    step = 100.0 / (len(values or []) - 1)
    points = " ".join(
        "{0:.1f},{1:.1f}".format(index * step, 22 - 20 * ((value - low) / spread))
        for index, value in enumerate(values or [])
        if value is not None
    )
    line = _tag("polyline", points=points, vector_effect="non-scaling-stroke")
    label = "{0} in the last hour, {1:.4g} to {2:.4g}".format(what, float(low), float(high))
    return _tag("svg", line, viewBox="0 0 100 24", preserveAspectRatio="none", role="img", aria_label=label)


def _table(key: str, caption: str, columns: Sequence[_Column], rows: Sequence[Any]) -> _Markup:
    """Return a table whose first column names the row; a sentence when there is no row."""
    if not rows:
        return _tag("p", "None.", class_="soft")
    head = [_tag("th", heading, scope="col", class_="n" if number else None) for heading, number, _look in columns]
    body = []
    for row in rows:
        cells: List[_Markup] = []
        for index, (_heading, number, look) in enumerate(columns):
            more = {"scope": "row"} if index == 0 else {}
            cells.append(_tag("td" if index else "th", look(row), class_="n" if number else None, **more))
        body.append(_tag("tr", *cells))
    table = _tag("table", _tag("caption", caption, id=key), _tag("thead", _tag("tr", *head)), _tag("tbody", *body))
    # What can be scrolled must be reachable with the keyboard.
    return _tag("div", table, class_="wide", role="region", aria_labelledby=key, tabindex="0")


def render(report: Mapping[str, Any]) -> str:
    """Return the page of a report (as ``_report.build`` returns it)."""
    # Each with its host, and a number that makes its place in the page unmistakable.
    instances = [(host, one) for host in report["hosts"] for one in host["instances"]]
    sections = [
        ("attention", "What needs attention", _attention(report)),
        ("hosts", "Hosts", _hosts(report)),
        ("instances", "Instances", _instances(instances)),
        ("backups", "Backups", _backups(instances)),
        ("alerts", "Alerts", _alerts(report)),
        ("certificates", "Certificates", _certificates(report)),
        ("services", "Services", _join([_services(index, *pair) for index, pair in enumerate(instances)])),
    ]
    title = "Multibase report"
    made = _tag("p", "Made ", _time(report["made_at"]), " by Multibase ", report["version"], class_="soft")
    links = [_tag("a", heading, href="#" + key) for key, heading, _content in sections]
    menu = _tag("nav", _tag("p", *[_join([" · " if index else "", link]) for index, link in enumerate(links)]),
                aria_label="Sections")  # fmt: skip
    main = _tag(
        "main",
        *[_tag("section", _tag("h2", heading, id=key), content, aria_labelledby=key)
          for key, heading, content in sections],
    )  # fmt: skip
    head = [
        '<meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        '<meta name="referrer" content="no-referrer">',
        '<meta http-equiv="Content-Security-Policy" content="{0}">'.format(html.escape(_POLICY)),
        _tag("title", title),
        "<style>{0}</style>".format(_STYLE),
    ]
    body = _tag("body", _tag("header", _tag("h1", title), made, _totals(report["totals"])), menu, main)
    return '<!DOCTYPE html>\n<html lang="en">\n<head>\n{0}\n</head>\n{1}\n</html>\n'.format("\n".join(head), body)


def _totals(totals: Mapping[str, Any]) -> _Markup:
    states = [
        "{0} {1}".format(count, state) for state, count in totals["instances_by_state"].items() if count
    ]  # fmt: skip
    attention = totals["attention"]
    worst = "critical" if attention["critical"] else "warning" if attention["warning"] else "well"
    unread, stale = totals["hosts_unreadable"], totals["hosts_stale"]
    lost = ["{0} {1}".format(count, text) for count, text in ((unread, "not read"), (stale, "stale")) if count]
    pairs = [
        ("Needs attention", _mark("{critical} critical, {warning} warnings".format(**attention), worst)),
        ("Hosts", ", ".join([str(totals["hosts"]), *lost])),
        ("Instances", ", ".join(states) or "none"),
        ("Services that are well", "{0} of {1}".format(totals["services_well"], totals["services"])),
        ("Memory in use", "{0} of {1}".format(_size(totals["memory_used_bytes"]), _size(totals["memory_total_bytes"]))),
        ("Databases", _size(totals["database_bytes"])),
        ("Backups", "{0}, {1}".format(totals["backups"], _size(totals["backups_bytes"]))),
        ("Alerts that fire", "{0}, {1} answered".format(totals["alerts_firing"], totals["alerts_answered"])),
    ]
    return _tag("dl", *[_tag("div", _tag("dt", name), _tag("dd", value)) for name, value in pairs], class_="totals")


def _attention(report: Mapping[str, Any]) -> _Markup:
    if not report["attention"]:
        return _tag("p", _mark("Nothing does.", "well"))
    columns: List[_Column] = [
        ("Message", False, lambda one: one["message"]),
        ("Severity", False, lambda one: _mark(one["severity"], one["severity"])),
        ("About", False, lambda one: one["kind"]),
        ("Host", False, lambda one: one["host"]),
        ("Instance", False, lambda one: one["instance"] or "-"),
        ("Subject", False, lambda one: one["subject"] or "-"),
    ]
    return _table("attention-table", "What needs attention, the worst first", columns, report["attention"])


def _hosts(report: Mapping[str, Any]) -> _Markup:
    def fresh(host: Mapping[str, Any]) -> Any:
        if host["machine"] is None:
            return _mark("not read: " + host["problem"], "critical")
        return _join([_mark("stale, ", "warning") if host["stale"] else None, _time(host["sampled_at"])])

    def of_machine(look: Callable[[Mapping[str, Any]], Any]) -> Callable[[Mapping[str, Any]], Any]:
        return lambda host: "-" if host["machine"] is None else look(host["machine"])

    def engine(machine: Mapping[str, Any]) -> Any:
        known = machine["engine"]
        return known["version"] if known["reachable"] else _mark("away: " + known["trouble"], "critical")

    columns: List[_Column] = [
        ("Host", False, lambda host: host["host"]),
        ("Read", False, fresh),
        ("Labels", False, of_machine(lambda machine: _labels(machine["labels"]))),
        ("Engine", False, of_machine(engine)),
        ("CPU", True, of_machine(lambda machine: _percent(machine["cpu_percent"]))),
        ("CPU, last hour", False, of_machine(lambda one: _sparkline(one["sparklines"].get("cpu_percent"), "CPU"))),
        ("CPUs", True, of_machine(lambda machine: machine["cpus"])),
        ("Load", True, of_machine(lambda machine: " ".join("{0:.2f}".format(load) for load in machine["load"]))),
        ("Memory", True, of_machine(
            lambda one: "{0} of {1}".format(_size(one["memory_used_bytes"]), _size(one["memory_total_bytes"])))),
        ("Memory full in", True, of_machine(lambda machine: _days(machine["memory_full_in_days"]))),
        ("Up for", True, of_machine(lambda machine: _age(machine["uptime_seconds"]))),
    ]  # fmt: skip
    disks = [(host, disk) for host in report["hosts"] if host["machine"] for disk in host["machine"]["disks"]]
    of_disks: List[_Column] = [
        ("Path", False, lambda pair: pair[1]["path"]),
        ("Host", False, lambda pair: pair[0]["host"]),
        ("Purpose", False, lambda pair: pair[1]["purpose"]),
        ("Used", True, lambda pair: "{0} of {1}".format(_size(pair[1]["used_bytes"]), _size(pair[1]["total_bytes"]))),
        ("Used", True, lambda pair: _percent(pair[1]["used_percent"])),
        ("Full in", True, lambda pair: _days(pair[1]["full_in_days"])),
    ]
    return _join([
        _table("hosts-table", "Hosts of the run", columns, report["hosts"]),
        _tag("h3", "Disks"), _table("disks-table", "Filesystems of the hosts", of_disks, disks),
    ])  # fmt: skip


def _labels(labels: Mapping[str, str]) -> str:
    return ", ".join("{0}={1}".format(key, value) for key, value in labels.items()) or "-"


def _instances(pairs: Sequence[Tuple[Any, Any]]) -> _Markup:
    def name(row: Tuple[int, Any, Any]) -> Any:
        index, _host, one = row
        return _tag("a", one["name"] or "(no name)", href="#services-{0}".format(index))

    def links(row: Tuple[int, Any, Any]) -> Any:
        found = [_link(address, key) for key, address in row[2]["urls"].items()]
        found += [_link(row[2]["runs_url"], "runs")] if row[2]["runs_url"] else []
        return _join([_join([", " if index else "", link]) for index, link in enumerate(found)]) or "-"

    def probes(row: Tuple[int, Any, Any]) -> Any:
        known = row[2]["probes"]
        bad = [probe["name"] for probe in known if not probe["ok"]]
        return _mark("failing: " + ", ".join(bad), "critical") if bad else str(len(known)) + " ok" if known else "-"

    def memory(row: Tuple[int, Any, Any]) -> str:
        use = row[2]["use"]
        limit = "" if use["memory_limit_bytes"] is None else " of " + _size(use["memory_limit_bytes"])
        return _size(use["memory_bytes"]) + limit

    def line(key: str, what: str) -> Callable[[Tuple[int, Any, Any]], Any]:
        return lambda row: _sparkline(row[2]["sparklines"].get(key), what)

    columns: List[_Column] = [
        ("Instance", False, name),
        ("Host", False, lambda row: row[1]["host"]),
        ("State", False, lambda row: _state(row[2]["state"])),
        ("Problem", False, lambda row: row[2]["problem"] or "-"),
        ("Labels", False, lambda row: _labels(row[2]["labels"])),
        ("Release", False, lambda row: row[2]["release"]),
        ("CPU", True, lambda row: _percent(row[2]["use"]["cpu_percent"])),
        ("CPU, last hour", False, line("cpu_percent", "CPU")),
        ("Memory", True, memory),
        ("Memory, last hour", False, line("memory_bytes", "memory")),
        ("Database", True, lambda row: _size(row[2]["disk"]["database_bytes"])),
        ("Storage", True, lambda row: _size(row[2]["disk"]["storage_bytes"])),
        ("Probes", False, probes),
        ("Up, day", True, lambda row: _percent(row[2]["uptime"]["day_percent"], 2)),
        ("Up, month", True, lambda row: _percent(row[2]["uptime"]["month_percent"], 2)),
        ("Target", True, lambda row: _percent(row[2]["uptime"]["target_percent"], 2)),
        ("Ports", False, lambda row: ", ".join("{0} {1}".format(*pair) for pair in row[2]["ports"].items()) or "-"),
        ("Addresses", False, links),
    ]
    rows = [(index, *pair) for index, pair in enumerate(pairs)]
    return _table("instances-table", "Instances of all hosts; 100 % CPU is one processor", columns, rows)


def _backups(pairs: Sequence[Tuple[Any, Any]]) -> _Markup:
    def age(pair: Tuple[Any, Any], key: str) -> str:
        done = (pair[1]["backups"][key] or {}).get("finished_at")
        sampled = pair[0]["sampled_at"]
        return "none" if done is None or sampled is None else _age(sampled - done)

    columns: List[_Column] = [
        ("Instance", False, lambda pair: pair[1]["name"]),
        ("Host", False, lambda pair: pair[0]["host"]),
        ("Backups", True, lambda pair: pair[1]["backups"]["count"]),
        ("In all", True, lambda pair: _size(pair[1]["disk"]["backups_bytes"])),
        ("Newest", True, lambda pair: age(pair, "newest")),
        ("Size", True, lambda pair: _size((pair[1]["backups"]["newest"] or {}).get("bytes"))),
        ("Newest verified", True, lambda pair: age(pair, "newest_verified")),
        ("Scheduled", False, lambda pair: _yes_no(pair[1]["backups"]["scheduled"], False)),
        ("Overdue", False, lambda pair: _yes_no(pair[1]["backups"]["overdue"], True)),
        ("Problem", False, lambda pair: backup_problem(pair[1]["backups"]) or "-"),
    ]
    return _table("backups-table", "Backups of each instance, by age", columns, pairs)


def _alerts(report: Mapping[str, Any]) -> _Markup:
    def answered(alert: Mapping[str, Any]) -> Any:
        known = alert["acknowledged"]
        by = _join(["acknowledged by {0}: ".format(known["by"]), known["note"]]) if known else None
        until = _join(["silenced until ", _time(alert["silenced_until"])]) if alert["silenced_until"] else None
        return _join([by, " " if by and until else None, until]) or "-"

    columns: List[_Column] = [
        ("Message", False, lambda pair: pair[1]["message"]),
        ("Severity", False, lambda pair: _mark(pair[1]["severity"], pair[1]["severity"])),
        ("State", False, lambda pair: pair[1]["state"]),
        ("Rule", False, lambda pair: pair[1]["rule"]),
        ("Host", False, lambda pair: pair[0]["host"]),
        ("Instance", False, lambda pair: pair[1]["instance"] or "-"),
        ("Subject", False, lambda pair: pair[1]["subject"] or "-"),
        ("Since", False, lambda pair: _time(pair[1]["since"])),
        ("Value", True, lambda pair: _figure(pair[1]["value"])),
        ("Threshold", True, lambda pair: _figure(pair[1]["threshold"])),
        ("Answered", False, lambda pair: answered(pair[1])),
    ]
    rank = {"firing": 0, "pending": 1, "resolved": 2}
    pairs = [(host, alert) for host in report["hosts"] for alert in host["alerts"]]
    pairs.sort(key=lambda pair: (rank[pair[1]["state"]], pair[1]["severity"] != "critical"))
    return _table("alerts-table", "Alerts of all hosts, those that fire first", columns, pairs)


def _certificates(report: Mapping[str, Any]) -> _Markup:
    columns: List[_Column] = [
        ("Domains", False, lambda pair: ", ".join(pair[1]["domains"]) or "-"),
        ("Host", False, lambda pair: pair[0]["host"]),
        ("Site", False, lambda pair: pair[1]["site"]),
        ("Expires", False, lambda pair: _time(pair[1]["not_after"])),
        ("Days left", True, lambda pair: _figure(pair[1]["days_left"], "{0:.1f}")),
        ("Kind", False, lambda pair: pair[1]["kind"]),
        ("Issuer", False, lambda pair: pair[1]["issuer"]),
    ]
    pairs = [(host, one) for host in report["hosts"] for one in host["certificates"]]
    pairs.sort(key=lambda pair: (pair[1]["days_left"] is None, pair[1]["days_left"] or 0))
    return _table("certificates-table", "Certificates of all sites, the first to expire first", columns, pairs)


def _services(index: int, host: Mapping[str, Any], instance: Mapping[str, Any]) -> _Markup:
    def health(service: Mapping[str, Any]) -> Any:
        return _state(service["health"])

    columns: List[_Column] = [
        ("Service", False, lambda one: one["name"]),
        ("State", False, lambda one: one["state"]),
        ("Health", False, health),
        ("Restarts", True, lambda one: _figure(one["restarts"])),
        ("Started", False, lambda one: _time(one["started_at"])),
        ("CPU", True, lambda one: _percent(one["use"]["cpu_percent"])),
        ("Memory", True, lambda one: _size(one["use"]["memory_bytes"])),
        ("Memory limit", True, lambda one: _size(one["use"]["memory_limit_bytes"])),
        ("Received", True, lambda one: _size(one["use"]["network_received_bytes"])),
        ("Sent", True, lambda one: _size(one["use"]["network_sent_bytes"])),
        ("Read", True, lambda one: _size(one["use"]["block_read_bytes"])),
        ("Written", True, lambda one: _size(one["use"]["block_written_bytes"])),
        ("Processes", True, lambda one: _figure(one["use"]["processes"])),
    ]
    key = "services-{0}".format(index)
    named = "{0} on {1}".format(instance["name"], host["host"])
    parts = [
        _tag("h3", named, id=key),
        _table(key + "-table", "Services of " + named, columns, instance["services"]),
        _database(instance["database"]),
        _slow_queries(key, named, instance["database"]),
    ]
    return _join(parts)


def _database(database: Optional[Mapping[str, Any]]) -> Optional[_Markup]:
    if database is None:
        return None
    connections = ", ".join("{0} {1}".format(count, state) for state, count in database["connections"].items())
    ratio = database["cache_hit_ratio"]
    slots = ", ".join(
        "{0} ({1}, holds {2})".format(
            slot["name"], "active" if slot["active"] else "not active", _size(slot["held_bytes"])
        )
        for slot in database["replication_slots"]
    )
    pairs = [
        ("Database", _size(database["size_bytes"])),
        ("Connections", "{0}; at most {1}".format(connections or "none", _figure(database["max_connections"]))),
        ("Cache hits", _percent(None if ratio is None else 100.0 * ratio)),
        ("Oldest transaction", _age(database["oldest_transaction_seconds"])),
        ("Write-ahead log", _size(database["wal_bytes"])),
        ("Dead rows", _figure(database["dead_tuples"])),
        ("Replication slots", slots or "none"),
    ]
    return _tag("dl", *[_tag("div", _tag("dt", name), _tag("dd", value)) for name, value in pairs], class_="totals")


def _slow_queries(key: str, named: str, database: Optional[Mapping[str, Any]]) -> Optional[_Markup]:
    queries = database["slow_queries"] if database else []
    columns: List[_Column] = [
        ("Query", False, lambda one: _tag("code", one["query"])),
        ("Calls", True, lambda one: one["calls"]),
        ("Mean", True, lambda one: "{0:.1f} ms".format(one["mean_ms"])),
        ("In all", True, lambda one: "{0:.1f} s".format(one["total_ms"] / 1000)),
    ]
    return _table(key + "-queries", "Slow queries of " + named, columns, queries) if queries else None
