// SPDX-License-Identifier: GPL-3.0-or-later
// The panel: which view the address means, and what stands around it.

import { draw } from "./charts.js";
import { host, instance } from "./details.js";
import { h, link, patch } from "./dom.js";
import { overview } from "./overview.js";
import { Source } from "./source.js";
import { age, moment } from "./units.js";

const THEMES = { system: "System", light: "Light", dark: "Dark" };
const remembered = { get: () => { try { return localStorage.getItem("theme"); } catch { return null; } }, set: (value) => { try { localStorage.setItem("theme", value); } catch { /* private windows keep nothing */ } } };
let theme = remembered.get() in THEMES ? remembered.get() : "system";
let shownPath = "";

function setTheme(value) {
  theme = value;
  remembered.set(value);
  document.documentElement.dataset.theme = value;
  render();
}

/** Where we are: path and query of the address behind the #. */
function place() {
  const [path, query = ""] = (location.hash.slice(1) || "/").split("?");
  let parts;
  try { parts = path.split("/").filter(Boolean).map(decodeURIComponent); } catch { parts = []; }
  return { path, query, parts };
}

/** Go to an address; filters replace each other in the history, views do not. */
function go(address) {
  history.replaceState(null, "", address);
  render();
}

function head(source) {
  const live = source.live;
  const here = place().parts[0] ?? "";
  const old = source.age();
  return [
    h("a", { class: "brand", href: "#/" }, h("img", { src: "favicon.svg", alt: "", width: 24, height: 24 }), "Multibase"),
    h("nav", { "aria-label": "Views" }, h("a", { href: "#/", "aria-current": here === "" ? "page" : null }, "Instances"), h("a", { href: "#/host", "aria-current": here === "host" ? "page" : null }, "Host"), source.hosts.filter((one) => one && typeof one.url === "string").map((one) => link(one.url, { key: one.url }, String(one.name)))),
    h("p", { class: "live" }, live ? h("span", { title: moment(live.sampled_at) }, source.problem || source.stale() ? `Last seen ${age(old)} ago` : `Live, ${age(old)} ago`) : "Loading"),
    h("label", { class: "theme" }, "Theme ", h("select", { on: { change: (event) => setTheme(event.target.value) } }, Object.entries(THEMES).map(([value, words]) => h("option", { value, selected: value === theme }, words))))];
}

function notice(source) {
  if (source.problem) return [h("p", { class: "banner bad" }, h("strong", {}, source.live ? "What you see is old. " : "There is nothing to see. "), source.problem)];
  // Said without its age: whoever listens would hear it every second.
  if (source.stale()) return [h("p", { class: "banner bad" }, h("strong", {}, "What you see is old. "), "The sampler of the host has written nothing for a while: systemctl status multibase-monitor")];
  return [];
}

function view(source, { parts, query }) {
  if (parts[0] === "instance" && parts[1]) return instance(source, parts[1], query);
  if (parts[0] === "host") return host(source, query);
  return overview(source, query, go);
}

function title(source, { parts }) {
  const name = source.live?.host.name ?? "Multibase";
  const firing = source.live?.alerts.filter((alert) => alert.state === "firing").length ?? 0;
  const what = parts[0] === "instance" ? `${parts[1]}, ${name}` : name;
  return `${firing ? `(${firing}) ` : ""}${what} – Multibase`;
}

function render() {
  const at = place();
  const main = document.getElementById("main");
  patch(document.getElementById("head"), head(source));
  patch(document.getElementById("notice"), notice(source));
  patch(main, source.live ? view(source, at).filter(Boolean) : [h("p", { class: "none", key: "wait" }, source.problem ? "" : "Loading what the host saw last.")]);
  patch(document.getElementById("foot"), [h("p", {}, source.live ? `Multibase ${source.live.version}. Nothing is loaded from anywhere but this host.` : "")]);
  document.title = title(source, at);
  // Where somebody typed is the truth: an attribute does not change a field that was typed into.
  const search = main.querySelector("input[type=search]");
  if (search && document.activeElement !== search) search.value = new URLSearchParams(at.query).get("q") ?? "";
  draw();
  if (shownPath !== at.path && shownPath !== "") { main.focus({ preventScroll: true }); scrollTo(0, 0); }
  shownPath = at.path;
}

document.documentElement.dataset.theme = theme;
const source = new Source(render);
addEventListener("hashchange", render);
addEventListener("resize", () => draw());
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", render);
setInterval(() => { patch(document.getElementById("head"), head(source)); patch(document.getElementById("notice"), notice(source)); }, 1000);
render();
source.start();
