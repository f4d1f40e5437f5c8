// SPDX-License-Identifier: GPL-3.0-or-later
// Pieces that several views are made of.

import { h } from "./dom.js";
import { NOTHING } from "./units.js";

/** What a state means for who looks: good, busy, bad, off. */
const KINDS = {
  healthy: "good", running: "good", starting: "busy", degraded: "bad", unhealthy: "bad", damaged: "bad", stopped: "off", unknown: "off",
  absent: "off", firing: "bad", pending: "busy", resolved: "good", critical: "bad", warning: "busy", restarting: "bad", exited: "off", paused: "busy",
};
const SIGNS = { good: "●", busy: "◐", bad: "▲", off: "○" };

/** Whether an instance that does not run should: then it is as bad as a broken one. */
export const kindOf = (entry) => (entry.state === "stopped" && entry.wanted === "running" ? "bad" : KINDS[entry.state] ?? "off");

export function badge(word, kind = KINDS[word] ?? "off") {
  return h("span", { class: `badge ${kind}` }, h("span", { "aria-hidden": "true" }, SIGNS[kind]), ` ${word}`);
}

/** A line of the last hour. Gaps stay gaps. */
export function spark(values, label, most) {
  const known = (values ?? []).filter((value) => value !== null);
  if (known.length < 2) return h("div", { class: "spark empty" });
  const top = most ?? Math.max(...known, 1e-9);
  const runs = [];
  let run = null;
  values.forEach((value, place) => {
    if (value === null) { run = null; return; }
    if (run === null) runs.push(run = []);
    run.push(`${((place / (values.length - 1)) * 120).toFixed(1)} ${(26 - Math.min(1, value / (top || 1)) * 24).toFixed(1)}`);
  });
  return h("svg", { class: "spark", viewBox: "0 0 120 28", preserveAspectRatio: "none", role: "img", "aria-label": label }, runs.map((points) => h("path", { d: `M${points.join("L")}`, fill: "none", "vector-effect": "non-scaling-stroke" })));
}

/** A bar from 0 to 100 percent. */
export function bar(percent, label) {
  const value = Math.max(0, Math.min(100, percent ?? 0));
  const kind = percent >= 90 ? "bad" : percent >= 75 ? "busy" : "good";
  return h("svg", { class: `bar ${kind}`, viewBox: "0 0 100 6", preserveAspectRatio: "none", role: "img", "aria-label": label }, h("rect", { class: "track", x: 0, y: 0, width: 100, height: 6 }), h("rect", { class: "fill", x: 0, y: 0, width: value, height: 6 }));
}

export function tile(title, value, ...more) {
  return h("section", { class: "tile", key: title }, h("h2", {}, title), h("p", { class: "figure" }, value), more);
}

/** A table with a caption; cells are text or nodes, and the first of each row is its heading. */
export function table(caption, heads, rows, none) {
  if (rows.length === 0) return h("p", { class: "none" }, none);
  return h("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": caption }, h("table", {},
    h("caption", {}, caption),
    h("thead", {}, h("tr", {}, heads.map((head) => h("th", { scope: "col" }, head)))),
    h("tbody", {}, rows.map((row) => h("tr", { key: row.key }, row.cells.map((cell, place) => (place === 0 ? h("th", { scope: "row" }, cell) : h("td", {}, cell ?? NOTHING))))))));
}

export function labels(found, choose, chosen = new Set()) {
  return Object.entries(found).map(([name, value]) => {
    const text = `${name}=${value}`;
    return choose ? h("button", { type: "button", class: "chip", key: text, "aria-pressed": String(chosen.has(text)), on: { click: () => choose(text) } }, text) : h("span", { class: "chip", key: text }, text);
  });
}
