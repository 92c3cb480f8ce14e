// The family tree, drawn as SVG: parents left of what was made from them.

import { el } from "./dom.js";
import { bytes } from "./format.js";

const SVG = "http://www.w3.org/2000/svg";
const BOX = { width: 158, height: 34, gapX: 44, gapY: 8 };
const place = document.getElementById("family");
let drawn = "";

/** models: the fleet's. kin: [{parent, child, how}]. Draws anew only where something changed. */
export function showFamily(models, kin) {
  const nodes = toNodes(models, kin);
  const told = JSON.stringify([nodes, kin]);
  if (told === drawn) return;
  drawn = told;
  if (!nodes.length) {
    place.replaceChildren(el("p", { className: "empty", textContent: "No model tells what it was made from." }));
    return;
  }
  arrange(nodes, kin);
  place.replaceChildren(picture(nodes, kin), inWords(kin));
}

function toNodes(models, kin) {
  const known = new Map(models.map((one) => [one.name, one]));
  const names = new Set(kin.flatMap((one) => [one.parent, one.child]));
  for (const one of models) if (one.codec) names.add(one.name);
  return [...names].map((name) => {
    const model = known.get(name);
    const size = model?.stored_bytes ? ` · ${bytes(model.stored_bytes)}` : "";
    return {
      name,
      more: model ? `${model.codec || model.kind}${size}` : "not of this fleet",
      className: ["node", model?.live_on.length && "live", !model && "absent", model?.fault && "fault"]
        .filter(Boolean).join(" "),
    };
  });
}

/** Columns by the longest way from a model without parents; a cycle ends where it is seen. */
function arrange(nodes, kin) {
  const parents = new Map();
  for (const { parent, child } of kin) parents.set(child, [...(parents.get(child) ?? []), parent]);
  const depths = new Map();
  const depth = (name, seen) => {
    if (depths.has(name)) return depths.get(name);
    if (seen.has(name)) return 0;
    const above = (parents.get(name) ?? []).map((one) => depth(one, new Set([...seen, name])));
    const found = above.length ? 1 + Math.max(...above) : 0;
    depths.set(name, found);
    return found;
  };
  const rows = [];
  for (const node of nodes) {
    node.column = depth(node.name, new Set());
    node.row = rows[node.column] ?? 0;
    rows[node.column] = node.row + 1;
  }
  const most = Math.max(...rows.filter(Boolean));
  for (const node of nodes) {
    node.x = node.column * (BOX.width + BOX.gapX) + 1;
    node.y = (node.row + (most - rows[node.column]) / 2) * (BOX.height + BOX.gapY) + 1;
  }
}

function picture(nodes, kin) {
  const width = Math.max(...nodes.map((one) => one.x)) + BOX.width + 1;
  const height = Math.max(...nodes.map((one) => one.y)) + BOX.height + 1;
  const at = new Map(nodes.map((one) => [one.name, one]));
  const drawing = svg("svg", { width, height, viewBox: `0 0 ${width} ${height}`, "aria-hidden": "true" });
  drawing.append(
    ...kin.map((one) => svg("path", { d: curve(at.get(one.parent), at.get(one.child)) })),
    ...nodes.map(box),
  );
  return drawing;
}

function curve(parent, child) {
  const [x1, y1] = [parent.x + BOX.width, parent.y + BOX.height / 2];
  const [x2, y2] = [child.x, child.y + BOX.height / 2];
  const middle = (x1 + x2) / 2;
  return `M${x1} ${y1}C${middle} ${y1} ${middle} ${y2} ${x2} ${y2}`;
}

function box(node) {
  const group = svg("g", { class: node.className, transform: `translate(${node.x} ${node.y})` });
  const title = svg("title", {}, `${node.name}: ${node.more}`);
  group.append(
    title,
    svg("rect", { width: BOX.width, height: BOX.height, rx: 6 }),
    svg("circle", { cx: BOX.width - 12, cy: 12, r: 3.5 }),
    svg("text", { x: 10, y: 15 }, cut(node.name, 21)),
    svg("text", { x: 10, y: 28, class: "more" }, cut(node.more, 25)),
  );
  return group;
}

function svg(tag, attributes, text = "") {
  const made = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.textContent = text;
  return made;
}

const cut = (text, most) => (text.length > most ? `${text.slice(0, most - 1)}…` : text);

function inWords(kin) {
  const lines = kin.map(({ parent, child, how }) =>
    el("li", { textContent: `${child}: made from ${parent}${how ? `, ${how}` : ""}` }));
  return el("ul", { className: "hidden" }, ...lines);
}
