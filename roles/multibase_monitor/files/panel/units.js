// SPDX-License-Identifier: GPL-3.0-or-later
// Figures as people read them. What is not known is a dash, never 0.

export const NOTHING = "–";

export function bytes(value) {
  if (value === null || value === undefined) return NOTHING;
  let size = value;
  for (const unit of ["B", "KB", "MB", "GB", "TB"]) {
    if (Math.abs(size) < 1000 || unit === "TB") return `${size.toFixed(unit === "B" || size >= 100 ? 0 : 1)} ${unit}`;
    size /= 1000;
  }
  return NOTHING;
}

export const rate = (value) => (value === null || value === undefined ? NOTHING : `${bytes(value)}/s`);
export const percent = (value, digits = 1) => (value === null || value === undefined ? NOTHING : `${value.toFixed(value >= 100 && digits === 1 ? 0 : digits)} %`);
export const milliseconds = (value) => (value === null || value === undefined ? NOTHING : value >= 1000 ? `${(value / 1000).toFixed(1)} s` : `${value.toFixed(value < 10 ? 1 : 0)} ms`);
export const count = (value) => (value === null || value === undefined ? NOTHING : value.toLocaleString("en"));

/** A length of time in its two largest units. */
export function span(seconds) {
  if (seconds === null || seconds === undefined) return NOTHING;
  const units = [["d", 86400], ["h", 3600], ["min", 60], ["s", 1]];
  let left = Math.max(0, Math.round(seconds));
  const parts = [];
  for (const [name, length] of units) {
    if (left >= length || (name === "s" && parts.length === 0)) parts.push(`${Math.floor(left / length)} ${name}`);
    left %= length;
    if (parts.length === 2) break;
  }
  return parts.join(" ");
}

/** A length of time in its largest unit, as for ages. */
export function age(seconds) {
  if (seconds === null || seconds === undefined) return NOTHING;
  for (const [name, length] of [["d", 86400], ["h", 3600], ["min", 60]]) if (seconds >= 2 * length) return `${Math.floor(seconds / length)} ${name}`;
  return `${Math.max(0, Math.round(seconds))} s`;
}

export const days = (value) => (value === null || value === undefined ? NOTHING : value < 2 ? `${(value * 24).toFixed(0)} h` : `${value.toFixed(0)} days`);
export const moment = (seconds) => (seconds === null || seconds === undefined ? "not known" : new Date(seconds * 1000).toLocaleString("en-GB", { dateStyle: "medium", timeStyle: "medium" }));
