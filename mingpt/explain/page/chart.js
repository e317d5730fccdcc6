// What the views share: charts as SVG, tables, bars, and the selection of one item among many.

import { h } from "./dom.js";

// Okabe and Ito 2008, "Color Universal Design": distinct for color-blind readers too.
export const COLORS = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9"];

export function svg(tag, attributes, ...children) {
  const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children);
  return element;
}

/** A number, with some digits if it is no integer, a text as it is, nothing for null, any other value as JSON. */
export function format(value, digits = 4) {
  if (typeof value === "number") return String(Number.isInteger(value) ? value : Number(value.toPrecision(digits)));
  return typeof value === "string" ? value : (JSON.stringify(value ?? undefined) ?? "");
}

/** A scale of numbers to [0, 1], logarithmic if `log`, with ticks at the lowest, middle and highest of `values`. */
export function scale(values, log = false) {
  const map = log ? Math.log10 : Number;
  const finite = values.filter(Number.isFinite).map(map);
  const [low, high] = finite.reduce(([a, b], x) => [Math.min(a, x), Math.max(b, x)], [finite[0] ?? 0, finite[0] ?? 1]);
  const at = (x) => (typeof x === "number" ? (map(x) - low) / (high - low || 1) : NaN);
  const round = !log && finite.every(Number.isInteger) ? Math.round : Number;
  return { at, ticks: [low, round((low + high) / 2), high].map((tick) => (log ? 10 ** tick : tick)) };
}

/** A scale of the values of a choice, at equal distances. */
export function categories(values) {
  const positions = new Map(values.map((value, i) => [format(value), i / (values.length - 1 || 1)]));
  return { at: (value) => positions.get(format(value)) ?? NaN, ticks: values };
}

/** The finite ones of some points as text for a polyline, or with a joiner for a path. */
export function joinPoints(points, joiner = " ") {
  const finite = points.filter((point) => point.every(Number.isFinite));
  return finite.map((point) => point.map((x) => x.toFixed(1))).join(joiner);
}

/** A figure of lines, {points, joiner} and attributes of SVG: "L" joins points by a line, "h0M" leaves them dots. */
export function chart(label, lines, xs = scale(lines.flatMap(({ points }) => points.map(([x]) => x)))) {
  const ys = scale(lines.flatMap(({ points }) => points.map(([, y]) => y)));
  const X = (x) => 44 + 264 * xs.at(x);
  const Y = (y) => 152 - 144 * ys.at(y);
  const image = svg("svg", { viewBox: "0 0 320 176", role: "img", "aria-label": label },
    ...xs.ticks.map((x) => svg("text", { x: X(x), y: 170, "text-anchor": "middle" }, format(x, 3).slice(0, 12))),
    ...ys.ticks.map((y) => svg("line", { x1: 44, x2: 308, y1: Y(y), y2: Y(y) })),
    ...ys.ticks.map((y) => svg("text", { x: 40, y: Y(y) + 4, "text-anchor": "end" }, format(y, 3))),
    ...lines.map(({ points, joiner = "L", ...attributes }) => {
      const d = joinPoints(points.map(([x, y]) => [X(x), Y(y)]), joiner);
      return svg("path", { d: d && `M${d}h0`, ...attributes }); // by h0 the last point is drawn even if alone
    }));
  return h("figure", {}, h("figcaption", {}, label), image);
}

export function bar(fraction, color = "var(--accent)") {
  const element = h("span", { class: "bar" });
  Object.assign(element.style, { width: `${100 * fraction}%`, background: color });
  return element;
}

export const tableRow = (tag, cells, attributes = {}) => h("tr", attributes, ...cells.map((cell) => h(tag, {}, cell)));

/** A table that is in the order of focus, so that keys can scroll it. */
export function table(attributes, header, rows) {
  const body = h("tbody", {}, ...rows.map((row) => tableRow("td", row)));
  return h("table", { tabindex: 0, ...attributes }, h("thead", {}, tableRow("th", header)), body);
}

/** Lets events, and keys that step among `items()`, choose one of them; returns a function that does. */
export function selectable(container, steps, items, choose, events = ["click", "focusin"]) {
  const select = (item) => {
    if (!item || item.ariaSelected === "true") return;
    for (const other of items()) other.ariaSelected = other === item;
    container.setAttribute("aria-activedescendant", item.id);
    choose(item);
  };
  for (const type of events) {
    container.addEventListener(type, ({ target }) => select(items().find((item) => item.contains(target))));
  }
  container.addEventListener("keydown", (event) => {
    if (!(event.key in steps) || event.altKey || event.ctrlKey || event.metaKey) return;
    event.preventDefault(); // would scroll
    const item = items()[items().findIndex((item) => item.ariaSelected === "true") + steps[event.key]];
    select(item);
    item?.scrollIntoView({ block: "nearest" });
  });
  return select;
}
