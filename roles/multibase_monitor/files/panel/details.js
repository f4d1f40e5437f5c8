// SPDX-License-Identifier: GPL-3.0-or-later
// One instance in full, and the host.

import { chart } from "./charts.js";
import { h, link } from "./dom.js";
import { badge, bar, kindOf, labels, table, tile } from "./parts.js";
import { NOTHING, age, bytes, count, days, milliseconds, moment, percent, rate, span } from "./units.js";

const RANGES = { day: "Day", month: "Month", year: "Year" };

export function alertsTable(alerts, source, withInstance) {
  const heads = ["Alert", ...(withInstance ? ["Instance"] : []), "State", "Severity", "Since", "Note"];
  const rows = alerts.map((alert) => {
    const note = [alert.acknowledged ? `known to ${alert.acknowledged.by}${alert.acknowledged.note ? `: ${alert.acknowledged.note}` : ""}` : "", alert.silenced_until ? `silenced for ${age(alert.silenced_until - source.now())}` : ""].filter(Boolean).join(", ");
    const place = alert.instance ? h("a", { href: `#/instance/${encodeURIComponent(alert.instance)}` }, alert.instance) : h("a", { href: "#/host" }, "host");
    return { key: alert.id, cells: [alert.message, ...(withInstance ? [place] : []), badge(alert.state), badge(alert.severity), h("span", { title: moment(alert.since) }, age(source.now() - alert.since)), note || NOTHING] };
  });
  return table("Alerts", heads, rows, "Nothing is wrong.");
}

function ranges(chosen, path, name) {
  return h("div", { class: "ranges", role: "group", "aria-label": "Range of the charts" }, Object.entries(RANGES).map(([range, words]) => h("a", { class: "chip", key: range, href: `${path}?range=${range}`, "aria-current": range === chosen ? "true" : null }, words)));
}

function charts(source, name, query, path, wanted) {
  const asked = new URLSearchParams(query).get("range");
  const range = asked in RANGES ? asked : "day";
  const document = source.history(name);
  return h("section", { class: "block", key: "charts" }, h("h2", {}, "History"), ranges(range, path, name),
    document ? h("div", { class: "charts" }, wanted.map(({ title, lines, unit }) => chart(`${name} ${title}`, title, document.ranges[range], lines, unit))) : h("p", { class: "none" }, "No history yet."));
}

export function instance(source, name, query) {
  const live = source.live;
  const entry = live.instances.find((one) => one.name === name);
  const back = h("p", { class: "back", key: "back" }, h("a", { href: "#/" }, `All instances of ${live.host.name}`));
  if (!entry) return [back, h("h1", { key: "h" }, name), h("p", { class: "none", key: "none" }, "There is no such instance on this host.")];
  const now = source.now();
  const { use, database, disk, backups } = entry;
  const alerts = live.alerts.filter((alert) => alert.instance === name);
  return [
    back,
    h("header", { class: "title", key: "h" }, h("h1", {}, name), badge(entry.state, kindOf(entry)), h("div", { class: "chips" }, labels(entry.labels)),
      h("nav", { "aria-label": "Links" }, Object.entries(entry.urls).map(([kind, url]) => link(url, { key: kind, rel: "noreferrer" }, kind === "api" ? "API" : kind === "studio" ? "Studio" : kind)), entry.runs_url ? link(entry.runs_url, { rel: "noreferrer" }, "Runs") : null)),
    entry.problem ? h("p", { class: "problem", key: "problem" }, entry.problem) : null,
    h("div", { class: "tiles", key: "tiles" },
      tile("CPU", percent(use.cpu_percent), h("p", {}, "100 % is one CPU")),
      tile("Memory", bytes(use.memory_bytes), use.memory_limit_bytes ? bar((100 * use.memory_bytes) / use.memory_limit_bytes, "Memory of its limit") : null, h("p", {}, use.memory_limit_bytes ? `of ${bytes(use.memory_limit_bytes)}` : "without a limit")),
      tile("Network", rate(use.network_received_rate), h("p", {}, `in, ${rate(use.network_sent_rate)} out`)),
      tile("Disks", rate(use.block_write_rate), h("p", {}, `written, ${rate(use.block_read_rate)} read`)),
      tile("Stored", bytes(disk.database_bytes), h("p", {}, `database, ${bytes(disk.storage_bytes)} objects, ${bytes(disk.backups_bytes)} backups`)),
      tile("Up", percent(entry.uptime.month_percent, 2), h("p", {}, `in 30 days, ${percent(entry.uptime.day_percent, 2)} today; meant: ${percent(entry.uptime.target_percent, 1)}`))),
    h("section", { class: "block", key: "alerts" }, h("h2", {}, "Alerts"), alertsTable(alerts, source, false)),
    h("section", { class: "block", key: "services" }, h("h2", {}, "Services"), table(`Services of ${name}`, ["Service", "Health", "CPU", "Memory", "Network in, out", "Processes", "Restarts", "Running for", "Ports"],
      entry.services.map((service) => ({ key: service.name, cells: [service.name, badge(service.health), percent(service.use.cpu_percent), h("span", { title: service.use.memory_raw_bytes === null ? "" : `${bytes(service.use.memory_raw_bytes)} with page cache` }, `${bytes(service.use.memory_bytes)}${service.use.memory_limit_bytes ? ` of ${bytes(service.use.memory_limit_bytes)}` : ""}`), `${rate(service.use.network_received_rate)}, ${rate(service.use.network_sent_rate)}`, count(service.use.processes), count(service.restarts), service.started_at ? h("span", { title: moment(service.started_at) }, span(now - service.started_at)) : NOTHING, service.ports.map((port) => `${port.address}:${port.host}`).join(", ") || NOTHING] })), "It has no services.")),
    h("section", { class: "block", key: "probes" }, h("h2", {}, "Probes through the gateway"), table(`Probes of ${name}`, ["Probe", "Result", "Latency", "Last", "Detail"], entry.probes.map((probe) => ({ key: probe.name, cells: [probe.name, probe.ok ? badge("answered", "good") : badge("failed", "bad"), milliseconds(probe.latency_ms), h("span", { title: moment(probe.checked_at) }, `${age(now - probe.checked_at)} ago`), probe.detail || NOTHING] })), "It is not probed.")),
    h("section", { class: "block", key: "database" }, h("h2", {}, "Database"), database ? [
      h("dl", { class: "facts wide", key: "facts" }, [["Size", bytes(database.size_bytes)], ["Connections", `${Object.values(database.connections).reduce((sum, one) => sum + one, 0)} of ${count(database.max_connections)}: ${Object.entries(database.connections).map(([state, number]) => `${number} ${state}`).join(", ") || "none"}`], ["Cache hits", database.cache_hit_ratio === null ? NOTHING : percent(database.cache_hit_ratio * 100, 2)], ["Oldest transaction", span(database.oldest_transaction_seconds)], ["WAL", bytes(database.wal_bytes)], ["Dead rows", count(database.dead_tuples)]].map(([name, value]) => h("div", { key: name }, h("dt", {}, name), h("dd", {}, value)))),
      database.replication_slots.length ? table("Replication slots", ["Slot", "Active", "Holds"], database.replication_slots.map((slot) => ({ key: slot.name, cells: [slot.name, slot.active ? "yes" : "no", bytes(slot.held_bytes)] })), "") : null,
      table("Slowest statements", ["Statement", "Calls", "Mean", "Total"], database.slow_queries.map((query, place) => ({ key: `${place}`, cells: [h("code", {}, query.query), count(query.calls), milliseconds(query.mean_ms), milliseconds(query.total_ms)] })), "No statement is known: the extension pg_stat_statements counts them."),
    ] : h("p", { class: "none" }, "It has not been asked yet.")),
    h("section", { class: "block", key: "backups" }, h("h2", {}, "Backups"), h("dl", { class: "facts wide" }, [["Newest", backups.newest], ["Newest verified", backups.newest_verified]].map(([words, backup]) => h("div", { key: words }, h("dt", {}, words), h("dd", {}, backup ? h("span", { title: moment(backup.finished_at) }, `${age(now - backup.finished_at)} ago, ${bytes(backup.bytes)}, ${backup.scope}, ${backup.verified ? "verified" : "not verified"}`) : "none"))), h("div", { key: "n" }, h("dt", {}, "Kept"), h("dd", {}, String(backups.count))), h("div", { key: "s" }, h("dt", {}, "Schedule"), h("dd", {}, backups.overdue ? h("strong", { class: "bad" }, "overdue") : backups.scheduled ? "on time" : "none"))), backups.last_exit_code ? h("p", { class: "problem" }, `The last one failed: ${backups.reason}`) : null),
    charts(source, name, query, `#/instance/${encodeURIComponent(name)}`, [
      { title: "CPU", lines: { cpu_percent: "CPU" }, unit: percent }, { title: "Memory", lines: { memory_bytes: "Memory" }, unit: bytes },
      { title: "Network", lines: { network_received_rate: "In", network_sent_rate: "Out" }, unit: rate }, { title: "Disks", lines: { block_read_rate: "Read", block_write_rate: "Written" }, unit: rate },
      { title: "Latency", lines: { latency_ms: "Mean of the probes" }, unit: milliseconds }, { title: "Connections", lines: { connections: "Connections" }, unit: (value) => (value === null || value === undefined ? NOTHING : value.toFixed(0)) },
      { title: "Stored", lines: { database_bytes: "Database", storage_bytes: "Objects", backups_bytes: "Backups" }, unit: bytes },
    ]),
  ];
}

export function host(source, query) {
  const { host: it, certificates, alerts } = source.live;
  return [
    h("p", { class: "back", key: "back" }, h("a", { href: "#/" }, `All instances of ${it.name}`)),
    h("header", { class: "title", key: "h" }, h("h1", {}, `Host ${it.name}`), h("div", { class: "chips" }, labels(it.labels))),
    h("dl", { class: "facts wide", key: "facts" }, [["Running for", span(it.uptime_seconds)], ["Docker", it.engine.reachable ? it.engine.version : `not reachable: ${it.engine.trouble}`], ["Load", it.load.map((value) => value.toFixed(2)).join(", ")], ["Swap in use", bytes(it.swap_used_bytes)], ["Network in", rate(it.network_received_rate)], ["Network out", rate(it.network_sent_rate)], ["Memory full in", days(it.memory_full_in_days)], ["Multibase", source.live.version]].map(([name, value]) => h("div", { key: name }, h("dt", {}, name), h("dd", {}, value)))),
    h("section", { class: "block", key: "alerts" }, h("h2", {}, "Alerts"), alertsTable(alerts, source, true)),
    h("section", { class: "block", key: "disks" }, h("h2", {}, "Disks"), table("Disks", ["Path", "For", "Used", "Level", "Free", "Full in"], it.disks.map((disk) => ({ key: disk.path, cells: [disk.path, disk.purpose, percent(disk.used_percent), bar(disk.used_percent, `${disk.path} is full to ${percent(disk.used_percent)}`), bytes(disk.free_bytes), days(disk.full_in_days)] })), "No disk is known.")),
    h("section", { class: "block", key: "certificates" }, h("h2", {}, "Certificates"), table("Certificates", ["Site", "Domains", "Kind", "Days left", "Until", "Issuer"], certificates.map((one) => ({ key: one.site, cells: [one.site, one.domains.join(", "), one.kind.replace("_", " "), one.days_left !== null && one.days_left < 14 ? h("strong", { class: "bad" }, days(one.days_left)) : days(one.days_left), moment(one.not_after), one.issuer || NOTHING] })), "The proxy has no certificates.")),
    charts(source, "_host", query, "#/host", [
      { title: "CPU", lines: { cpu_percent: "CPU" }, unit: percent }, { title: "Memory", lines: { memory_bytes: "Memory" }, unit: bytes },
      { title: "Network", lines: { network_received_rate: "In", network_sent_rate: "Out" }, unit: rate }, { title: "Data disk", lines: { data_used_percent: "Used" }, unit: percent },
      { title: "Load", lines: { load: "Load" }, unit: (value) => (value === null || value === undefined ? NOTHING : value.toFixed(2)) },
    ]),
  ];
}
