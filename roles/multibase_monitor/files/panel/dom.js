// SPDX-License-Identifier: GPL-3.0-or-later
// A page is described as nodes, and the document is changed where it differs: what has the focus keeps it, and nothing flickers.

const SVG = "http://www.w3.org/2000/svg";

/** Describe an element. `on` holds handlers; `key` tells elements of a list apart. Text is text, never markup. */
export function h(tag, attributes, ...children) {
  const { key, on, ...rest } = attributes ?? {};
  return { tag, key, on: on ?? {}, attributes: rest, children: children.flat(Infinity).filter((one) => one !== null && one !== undefined && one !== false) };
}

/** A link, but to nothing that is not the web's: a label of an instance is anybody's words. */
export function link(address, attributes, ...children) {
  let good = false;
  try { good = address.startsWith("#") || ["http:", "https:"].includes(new URL(address, location.href).protocol); } catch { good = false; }
  return good ? h("a", { href: address, ...attributes }, ...children) : h("span", {}, ...children);
}

function create(node, svg) {
  if (typeof node !== "object") return document.createTextNode(String(node));
  const inner = svg || node.tag === "svg";
  const element = inner ? document.createElementNS(SVG, node.tag) : document.createElement(node.tag);
  element.shown = { attributes: {}, on: {} };
  update(element, node, inner);
  return element;
}

function update(element, node, svg) {
  const shown = element.shown;
  for (const name of Object.keys(shown.attributes)) {
    if (!(name in node.attributes)) element.removeAttribute(name);
  }
  for (const [name, value] of Object.entries(node.attributes)) {
    if (shown.attributes[name] === value) continue;
    if (value === null || value === undefined || value === false) element.removeAttribute(name);
    else element.setAttribute(name, value === true ? "" : String(value));
  }
  for (const [name, handler] of Object.entries(node.on)) {
    if (!(name in shown.on)) element.addEventListener(name, (event) => element.shown.on[name]?.(event));
  }
  element.shown = { key: node.key, tag: node.tag, attributes: node.attributes, on: node.on };
  // A box that somebody draws into by himself.
  if (!("data-own" in node.attributes)) patch(element, node.children, svg);
}

/** Make the children of an element what the nodes say. */
export function patch(parent, nodes, svg = false) {
  const keyed = new Map();
  for (const child of parent.childNodes) if (child.shown?.key !== undefined) keyed.set(child.shown.key, child);
  let at = parent.firstChild;
  for (const node of nodes) {
    const plain = typeof node !== "object";
    let found = null;
    if (!plain && node.key !== undefined) found = keyed.get(node.key) ?? null;
    else if (at && at.shown?.key === undefined && (plain ? at.nodeType === 3 : at.shown?.tag === node.tag)) found = at;
    if (found && !plain && found.shown.tag !== node.tag) found = null;
    if (!found) {
      parent.insertBefore(create(node, svg), at);
      continue;
    }
    if (found !== at) parent.insertBefore(found, at);
    else at = at.nextSibling;
    if (plain) { if (found.nodeValue !== String(node)) found.nodeValue = String(node); }
    else update(found, node, svg || node.tag === "svg");
  }
  while (at) { const next = at.nextSibling; at.remove(); at = next; }
}
