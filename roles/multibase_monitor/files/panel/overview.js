// SPDX-License-Identifier: GPL-3.0-or-later
// All instances of the host at a glance, what needs attention, and filters that stand in the address.

import { h, link } from "./dom.js";
import { alertsTable } from "./details.js";
import { badge, bar, kindOf, labels, spark, tile } from "./parts.js";
import { age, bytes, days, milliseconds, moment, percent, span } from "./units.js";

const STATES = ["healthy", "degraded", "starting", "unhealthy", "stopped", "damaged", "unknown"];
const ORDERS = { name: "name", state: "state", cpu: "processor use", memory: "memory", latency: "latency" };

/** Filters as the address has them: text, states, labels, order. */
export function readFilters(query) {
  const words = new URLSearchParams(query);
  return { text: words.get("q") ?? "", states: new Set(words.getAll("state")), labels: new Set(words.getAll("label")), order: words.get("order") in ORDERS ? words.get("order") : "name" };
}

export function writeFilters(filters) {
  const words = new URLSearchParams();
  if (filters.text) words.set("q", filters.text);
  for (const state of filters.states) words.append("state", state);
  for (const label of filters.labels) words.append("label", label);
  if (filters.order !== "name") words.set("order", filters.order);
  const text = words.toString();
  return text ? `#/?${text}` : "#/";
}

const latency = (entry) => { const known = entry.probes.filter((probe) => probe.ok && probe.latency_ms !== null); return known.length ? known.reduce((sum, probe) => sum + probe.latency_ms, 0) / known.length : null; };

export function select(instances, filters) {
  const text = filters.text.trim().toLowerCase();
  const chosen = instances.filter((entry) => {
    if (filters.states.size && !filters.states.has(entry.state)) return false;
    for (const label of filters.labels) if (!Object.entries(entry.labels).some(([name, value]) => `${name}=${value}` === label)) return false;
    const words = [entry.name, entry.state, entry.release, ...Object.entries(entry.labels).flat(), ...Object.values(entry.urls), ...Object.values(entry.ports).map(String)];
    return !text || words.some((word) => word.toLowerCase().includes(text));
  });
  const rank = { bad: 0, busy: 1, off: 2, good: 3 };
  const by = {
    name: () => 0, state: (entry) => rank[kindOf(entry)], cpu: (entry) => -(entry.use.cpu_percent ?? -1),
    memory: (entry) => -(entry.use.memory_bytes ?? -1), latency: (entry) => -(latency(entry) ?? -1),
  }[filters.order];
  return chosen.sort((one, other) => by(one) - by(other) || one.name.localeCompare(other.name));
}

function toggled(set, value) { const next = new Set(set); if (!next.delete(value)) next.add(value); return next; }

function summary(live) {
  const { host, instances } = live;
  const well = instances.filter((entry) => kindOf(entry) === "good").length;
  const off = instances.filter((entry) => kindOf(entry) === "off").length;
  const firing = live.alerts.filter((alert) => alert.state === "firing");
  const critical = firing.filter((alert) => alert.severity === "critical").length;
  const memory = host.memory_total_bytes ? (100 * host.memory_used_bytes) / host.memory_total_bytes : null;
  const disk = [...host.disks].sort((one, other) => other.used_percent - one.used_percent)[0];
  const full = host.disks.map((one) => one.full_in_days).filter((value) => value !== null).sort((one, other) => one - other)[0];
  const unverified = instances.filter((entry) => entry.backups.overdue || (entry.backups.scheduled && !entry.backups.newest_verified)).length;
  const certificate = live.certificates.filter((one) => one.days_left !== null).sort((one, other) => one.days_left - other.days_left)[0];
  return h("div", { class: "tiles", key: "tiles" },
    tile("Instances", `${well} of ${instances.length}`, h("p", {}, `healthy${off ? `, ${off} stopped` : ""}`)),
    tile("Alerts", firing.length ? String(firing.length) : "none", h("p", {}, firing.length ? `firing, ${critical} critical` : "firing")),
    tile("Processors", percent(host.cpu_percent), spark(host.sparklines.cpu_percent, "Processor use of the host in the last hour", 100), h("p", {}, `of ${host.cpus} CPUs, load ${host.load[0].toFixed(2)}`)),
    tile("Memory", percent(memory), spark(host.sparklines.memory_bytes, "Memory of the host in the last hour", host.memory_total_bytes), h("p", {}, `${bytes(host.memory_used_bytes)} of ${bytes(host.memory_total_bytes)}${host.memory_full_in_days === null ? "" : `, full in ${days(host.memory_full_in_days)}`}`)),
    disk ? tile("Fullest disk", percent(disk.used_percent), bar(disk.used_percent, `${disk.path} is full to ${percent(disk.used_percent)}`), h("p", { title: disk.path }, `${bytes(disk.free_bytes)} free for ${disk.purpose}${full === undefined ? "" : `, full in ${days(full)}`}`)) : null,
    tile("Backups", unverified ? `${unverified} to look at` : "in order", h("p", {}, unverified ? "overdue or never verified" : "nothing overdue")),
    certificate ? tile("Next certificate", days(certificate.days_left), h("p", { title: moment(certificate.not_after) }, `left for ${certificate.domains[0] ?? certificate.site}`)) : null);
}

function card(entry, source, choose, filters) {
  const newest = entry.backups.newest;
  const slow = latency(entry);
  const failed = entry.probes.filter((probe) => !probe.ok);
  const now = source.now();
  return h("article", { class: `card ${kindOf(entry)}`, key: entry.name, "aria-labelledby": `name-${entry.name}` },
    h("header", {}, h("h3", { id: `name-${entry.name}` }, h("a", { href: `#/instance/${encodeURIComponent(entry.name)}` }, entry.name)), badge(entry.state, kindOf(entry))),
    entry.problem ? h("p", { class: "problem" }, entry.problem) : null,
    h("div", { class: "chips" }, labels(entry.labels, choose, filters.labels)),
    h("dl", { class: "sparks" },
      h("div", {}, h("dt", {}, "CPU"), h("dd", {}, percent(entry.use.cpu_percent), spark(entry.sparklines.cpu_percent, `Processor use of ${entry.name} in the last hour`))),
      h("div", {}, h("dt", {}, "Memory"), h("dd", {}, bytes(entry.use.memory_bytes), spark(entry.sparklines.memory_bytes, `Memory of ${entry.name} in the last hour`, entry.use.memory_limit_bytes ?? undefined))),
      h("div", {}, h("dt", {}, "Answers in"), h("dd", {}, failed.length ? `${failed.length} of ${entry.probes.length} fail` : milliseconds(slow), spark(entry.sparklines.latency_ms, `Latency of ${entry.name} in the last hour`)))),
    h("ul", { class: "services", "aria-label": `Services of ${entry.name}` }, entry.services.map((service) => h("li", { key: service.name }, badge(service.name, { healthy: "good", running: "good", starting: "busy", unhealthy: "bad", stopped: entry.state === "stopped" && entry.wanted !== "running" ? "off" : "bad", unknown: "off" }[service.health])))),
    h("dl", { class: "facts" },
      h("div", {}, h("dt", {}, "Backup"), h("dd", {}, newest ? h("span", { title: moment(newest.finished_at) }, `${age(now - newest.finished_at)} ago, `, newest.verified ? "verified" : "not verified") : "none", entry.backups.overdue ? h("strong", { class: "bad" }, " overdue") : null)),
      h("div", {}, h("dt", {}, "Up"), h("dd", {}, `${percent(entry.uptime.month_percent, 2)}`, entry.uptime.target_percent === null ? null : h("span", { class: entry.uptime.month_percent !== null && entry.uptime.month_percent < entry.uptime.target_percent ? "bad" : "" }, ` of ${percent(entry.uptime.target_percent, 1)}`))),
      h("div", {}, h("dt", {}, "Gateway"), h("dd", {}, entry.ports.gateway_http ? `port ${entry.ports.gateway_http}` : entry.ports.gateway_https ? `port ${entry.ports.gateway_https}` : "–"))),
    h("nav", { "aria-label": `Links of ${entry.name}` },
      entry.urls.api ? link(entry.urls.api, { rel: "noreferrer", "aria-label": `API of ${entry.name}` }, "API") : null,
      entry.urls.studio ? link(entry.urls.studio, { rel: "noreferrer", "aria-label": `Studio of ${entry.name}` }, "Studio") : null,
      entry.runs_url ? link(entry.runs_url, { rel: "noreferrer", "aria-label": `Runs of ${entry.name}` }, "Runs") : null,
      h("a", { href: `#/instance/${encodeURIComponent(entry.name)}`, "aria-label": `Details of ${entry.name}` }, "Details")));
}

export function overview(source, query, go) {
  const live = source.live;
  const filters = readFilters(query);
  const change = (part) => go(writeFilters({ ...filters, ...part }));
  const shown = select(live.instances, filters);
  const open = live.alerts.filter((alert) => alert.state !== "resolved");
  const counts = Object.fromEntries(STATES.map((state) => [state, live.instances.filter((entry) => entry.state === state).length]));
  const choose = (label) => change({ labels: toggled(filters.labels, label) });
  const filtered = filters.text || filters.states.size || filters.labels.size;
  return [
    h("h1", { key: "h" }, live.host.name),
    summary(live),
    open.length ? h("section", { key: "alerts", class: "block" }, h("h2", {}, "Needs attention"), alertsTable(open, source, true)) : null,
    h("section", { key: "instances", class: "block", "aria-labelledby": "instances" },
      h("h2", { id: "instances" }, "Instances"),
      h("form", { class: "filters", role: "search", on: { submit: (event) => event.preventDefault() } },
        h("label", {}, "Search ", h("input", { type: "search", autocomplete: "off", placeholder: "name, label, port", value: filters.text, on: { input: (event) => change({ text: event.target.value }) } })),
        h("fieldset", {}, h("legend", {}, "State"), STATES.filter((state) => counts[state] || filters.states.has(state)).map((state) => h("button", { type: "button", class: "chip", key: state, "aria-pressed": String(filters.states.has(state)), on: { click: () => change({ states: toggled(filters.states, state) }) } }, `${state} ${counts[state]}`))),
        h("label", {}, "Order by ", h("select", { on: { change: (event) => change({ order: event.target.value }) } }, Object.entries(ORDERS).map(([value, words]) => h("option", { value, selected: value === filters.order }, words)))),
        filters.labels.size ? h("fieldset", {}, h("legend", {}, "Labels"), [...filters.labels].map((label) => h("button", { type: "button", class: "chip", key: label, "aria-pressed": "true", on: { click: () => choose(label) } }, `${label} ✕`))) : null,
        filtered ? h("button", { type: "button", class: "plain", on: { click: () => go("#/") } }, "Show all") : null),
      h("p", { class: "count", role: "status" }, filtered ? `${shown.length} of ${live.instances.length} instances` : `${live.instances.length} ${live.instances.length === 1 ? "instance" : "instances"}`),
      h("div", { class: "cards" }, shown.map((entry) => card(entry, source, choose, filters))),
      shown.length ? null : h("p", { class: "none" }, live.instances.length ? "No instance is like that." : "There are no instances on this host yet."))];
}
