// Attention: a map for each head, the weights of one position, and how one row of them is computed.
// Notation: L layers, nh heads, T tokens, hs head size; position i attends to the positions 0 to i.

import { h } from "./dom.js";
import { bar, format, selectable, table } from "./chart.js";

const WHITE_SPACE = { " ": "␣", "\n": "↵", "\t": "⇥", "\r": "␍" };

/** A token as a short text in which white space can be seen. */
export const visible = (token) => [...token].slice(0, 32).join("").replace(/[ \n\t\r]/g, (c) => WHITE_SPACE[c]) || "∅";

/** The little-endian numbers of a base64 text, as a typed array. */
export const decode = (base64, Type) => new Type(Uint8Array.from(atob(base64), (c) => c.charCodeAt(0)).buffer);

/** A function (layer, head, i) that returns the weights of position i, each in [0, 1]. */
export function attentionReader({ attention, tokens: { length: T }, architecture: { n_head } }) {
  const weights = decode(attention, Uint16Array); // (L, nh, T (T + 1) / 2)
  return (layer, head, i) => {
    const start = ((layer * n_head + head) * T * (T + 1)) / 2 + (i * (i + 1)) / 2;
    return Array.from(weights.subarray(start, start + i + 1), (weight) => weight / 65535);
  };
}

/** Draws the weights of a head, a row for each position: the opacity is the square root of the weight. */
export function drawMap(canvas, T, rowOf) {
  canvas.width = canvas.height = T;
  const image = new ImageData(T, T);
  for (let i = 0; i < T; i++) {
    rowOf(i).forEach((weight, j) => image.data.set([60, 130, 225, 255 * Math.sqrt(weight)], 4 * (i * T + j)));
  }
  canvas.getContext("2d").putImageData(image, 0, 0);
}

/** The maps of all heads; `choose(layer, head)` is called for the one that is clicked or reached by arrow keys. */
export function headMaps({ tokens, architecture: { n_layer, n_head } }, read, choose) {
  const buttons = Array.from({ length: n_layer * n_head }, (_, i) => {
    const [layer, head] = [Math.floor(i / n_head), i % n_head];
    const map = h("canvas", {});
    drawMap(map, tokens.length, (position) => read(layer, head, position));
    const data = { "data-layer": layer, "data-head": head, id: `head-${layer}-${head}` };
    const content = [map, `layer ${layer}, head ${head}`];
    return h("button", { class: "head", role: "option", tabindex: -1, "aria-selected": false, ...data }, ...content);
  });
  const element = h("div", { id: "heads", class: "scroll cells", role: "listbox", tabindex: 0, "aria-label": "Heads" });
  element.style.gridTemplateColumns = `repeat(${n_head}, minmax(4.25rem, 6rem))`; // a row for each layer
  element.append(...buttons);
  const steps = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -n_head, ArrowDown: n_head };
  const select = selectable(element, steps, () => buttons, ({ dataset }) => choose(+dataset.layer, +dataset.head));
  return { element, select: (layer, head) => select(buttons[layer * n_head + head]) };
}

/** The weights of one position as a bar and a number for each token. */
export const weightItems = (tokens, weights) =>
  weights.map((weight, j) => h("li", {}, visible(tokens[j]), bar(weight), h("small", {}, weight.toFixed(3))));

/** One row of one head in numbers, beside the lines of the model that compute it. */
export function rowInNumbers(tokens, { layer, head, position, q, k, v, scores, weights, output, source }) {
  const vector = (values) => values.map((x) => format(x));
  const rows = (columns, matrix) => matrix.map((values, j) =>
    [`${j} ${visible(tokens[j])}`, ...columns.map((column) => format(column[j])), ...vector(values)]);
  const dimensions = vector([...q.keys()]);
  const scoreRows = [["q", "", "", ...vector(q)], ...rows([scores, weights], k)];
  const outputRows = [...rows([weights], v), ["output", "", ...vector(output)]];
  const top = weights.indexOf(Math.max(...weights));
  const sum = format(scores.reduce((total, score) => total + Math.exp(score), 0));
  const example = `of ${visible(tokens[top])}: score ${format(scores[top])}, weight ` +
    `exp(${format(scores[top])}) / ${sum} = ${format(weights[top])}, where ${sum} is the sum of exp over all scores`;
  return h("div", { id: "row" }, h("pre", { tabindex: 0 }, source),
    h("p", {}, `Layer ${layer}, head ${head}, position ${position}, head size ${q.length} (n_embd / n_head): ` +
      `score = q · k / √${q.length}, weight = softmax(score); ${example}`),
    table({ class: "numbers" }, ["", "score", "weight", ...dimensions.map((d) => `k ${d}`)], scoreRows),
    h("p", {}, "output = sum of weight · v"),
    table({ class: "numbers" }, ["", "weight", ...dimensions.map((d) => `v ${d}`)], outputRows));
}
