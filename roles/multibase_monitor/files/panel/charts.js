// SPDX-License-Identifier: GPL-3.0-or-later
// Charts of the history, drawn by uPlot into boxes of their own.

import uPlot from "./uplot.js";
import { h } from "./dom.js";

const HEIGHT = 170;
const drawn = new Map();
const described = new Map();

/** A chart of some columns. The last value is said in words too: a picture is nothing to whoever does not see it. */
export function chart(key, title, range, lines, unit) {
  const names = Object.keys(lines).filter((name) => range.columns[name]?.some((value) => value !== null));
  const last = names.map((name) => { const known = range.columns[name].filter((value) => value !== null); return `${lines[name]} ${unit(known[known.length - 1])}`; }).join(", ");
  described.set(key, { range, lines, unit });
  return h("figure", { key, class: "chart" }, h("figcaption", {}, h("strong", {}, title), ` ${last || "nothing known in this time"}`),
    names.length ? h("div", { class: "plot", "data-own": "", "data-chart": key, role: "img", "aria-label": `${title}: ${last}` }) : null);
}

/** A time on the axis: hours within a day, dates beyond. */
function clock(time, step) {
  const date = new Date(time * 1000);
  if (step < 3600) return date.toLocaleTimeString("en-GB", { hour: "2-digit", minute: "2-digit" });
  return date.toLocaleDateString("en-GB", step < 86400 ? { day: "numeric", month: "short" } : { month: "short", year: "2-digit" });
}

/** Draw what the charts in the document are to show; called after every change. */
export function draw() {
  const boxes = new Set();
  for (const box of document.querySelectorAll("[data-chart]")) {
    const key = box.dataset.chart;
    boxes.add(key);
    const { range, lines, unit } = described.get(key);
    const names = Object.keys(lines).filter((name) => range.columns[name]?.some((value) => value !== null));
    const data = [range.time, ...names.map((name) => range.columns[name])];
    const style = getComputedStyle(document.documentElement);
    const theme = style.getPropertyValue("--ink") + style.getPropertyValue("--line");
    const width = Math.max(200, Math.floor(box.clientWidth));
    const known = drawn.get(key);
    const sign = `${theme} ${names.join()} ${range.step}`;
    if (known && known.box === box && known.sign === sign) {
      if (known.width !== width) { known.plot.setSize({ width, height: HEIGHT }); known.width = width; }
      if (known.range !== range) { known.plot.setData(data); known.range = range; }
      continue;
    }
    known?.plot.destroy();
    box.replaceChildren();
    const axis = { stroke: style.getPropertyValue("--muted").trim(), grid: { stroke: style.getPropertyValue("--line").trim(), width: 1 }, ticks: { show: false }, font: "11px system-ui" };
    const colours = ["--one", "--two", "--three"].map((name) => style.getPropertyValue(name).trim());
    const plot = new uPlot({
      width, height: HEIGHT, legend: { show: false }, cursor: { y: false },
      scales: { y: { range: (_plot, _least, most) => [0, (most || 1) * 1.1] } },
      axes: [{ ...axis, values: (_plot, times) => times.map((time) => clock(time, range.step)) }, { ...axis, size: 74, values: (_plot, values) => values.map((value) => unit(value)) }],
      series: [{}, ...names.map((name, place) => ({ label: lines[name], stroke: colours[place], width: 1.5, dash: place ? [6, 3 * place] : undefined, points: { show: range.time.length < 3 }, value: (_plot, value) => unit(value) }))],
    }, data, box);
    drawn.set(key, { plot, box, sign, range, width });
  }
  for (const [key, known] of drawn) if (!boxes.has(key) || !known.box.isConnected) { known.plot.destroy(); drawn.delete(key); }
}
