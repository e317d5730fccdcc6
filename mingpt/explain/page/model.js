// The view of a model: what it computes for one text, by position, and the choice of the next token.

import { formatCount, h, probabilityItems } from "./dom.js";
import { bar, format, selectable, table } from "./chart.js";
import { attentionReader, decode, drawMap, headMaps, rowInNumbers, visible, weightItems } from "./attention.js";

const GREEDY = 1e-6; // below this temperature only the most probable token is left, as in mingpt.generation.sampling
const percent = (p) => `${(100 * p).toFixed(1)} %`;

export function modelView(model) {
  const { tokens, row, labels, architecture } = model;
  const read = attentionReader(model);
  let { position, layer, head } = row;
  const details = h("div", { class: "columns" });
  const map = h("canvas", { id: "head-map" });
  const caption = h("h3", {});
  const weights = h("ul", { id: "attention-row", class: "cells" });
  const show = () => {
    caption.textContent = `Layer ${layer}, head ${head}: weights of position ${position}, ${visible(tokens[position])}`;
    weights.replaceChildren(...weightItems(tokens, read(layer, head, position)));
    details.replaceChildren(...positionDetails(model, position));
  };
  const [tokenRow, selectToken] = tokenOptions(model, (i) => show((position = i)));
  const heads = headMaps(model, read, (...choice) => {
    [layer, head] = choice;
    drawMap(map, tokens.length, (i) => read(layer, head, i));
    show();
  });
  selectToken(position);
  heads.select(layer, head);
  const settings = Object.entries(architecture).map(([name, value]) => `${name} ${format(value)}`);
  const shade = labels ? "the more the output changes without the token" : "the less probable the token";
  return [
    h("p", {}, `${model.task}: ${formatCount(model.parameters, "parameter")}, ${settings.join(", ")}`),
    ...(labels ? [labelBars(labels)] : []), tokenRow,
    h("small", {}, `The stronger the shade, ${shade}. Arrow keys or the pointer select a token.`), details,
    h("h3", {}, "Attention weights: row i is position i, more color is a larger weight"), heads.element,
    caption, h("div", { class: "columns" }, weights, map),
    h("h3", {}, "One row of attention weights in numbers"), rowInNumbers(tokens, row),
    ...(model.next ? sampler(model.next) : []),
  ];
}

/** The tokens, shaded by nll, or by how much the first label's output changes without each. */
function tokenOptions({ tokens, nll, labels }, choose) {
  const changes = labels?.without.map(([value]) => Math.abs(value - labels.values[0])) ?? [];
  const largest = Math.max(...changes, 1e-9);
  const chips = tokens.map((token, i) => {
    const attributes = { class: "token", role: "option", id: `token-${i}`, "aria-selected": false };
    const chip = h("span", attributes, visible(token));
    chip.style.setProperty("--probability", labels ? 1 - changes[i] / largest : Math.exp(-nll[i]));
    return chip;
  });
  const element = h("div", { id: "tokens", role: "listbox", tabindex: 0, "aria-label": "Tokens" }, ...chips);
  const select = selectable(element, 1, () => chips, (chip) => choose(chips.indexOf(chip)), ["click", "pointerover"]);
  return [element, (i) => select(chips[i])];
}

function positionDetails({ tokens, lens, nll, norms, neurons, labels }, i) {
  const depths = norms.stream.map((_, l) => (l ? `layer ${l - 1}` : "embedding"));
  const largest = Math.max(...Object.values(norms).flatMap((rows) => rows.map((values) => values[i])), 1e-9);
  const measure = (values) => (values ? h("span", {}, format(values[i]), bar(values[i] / largest)) : "");
  const normColumns = (l) => [norms.attention[l - 1], norms.mlp[l - 1], norms.stream[l]].map(measure);
  const guess = ([token, p]) =>
    h("span", {}, h(token === tokens[i + 1] ? "strong" : "span", {}, visible(token)), ` ${percent(p)}`);
  const activations = (pairs) => pairs.map(([neuron, value]) => `neuron ${neuron}: ${format(value)}`).join(", ");
  const ranks = ["1st", "2nd", "3rd", "4th", "5th"];
  const guesses = lens.map((level, l) => [depths[l], ...level[i].map(guess)]);
  const lensTable = ["Next token, if the head were applied after", table({ id: "lens" }, ["", ...ranks], guesses)];
  const panel = (title, ...content) => h("div", {}, h("h3", {}, title), ...content);
  return [
    panel(`Position ${i}: ${visible(tokens[i])}`,
      h("p", { id: "nll" }, labels ? effect(labels, i) : likelihood(nll[i])), ...(lens.length ? lensTable : [])),
    panel("Norms of what each layer adds to the stream",
      table({ id: "norms" }, ["", "attention", "MLP", "stream"], depths.map((depth, l) => [depth, ...normColumns(l)]))),
    panel("Largest activations of the MLP's hidden layer",
      table({ id: "neurons" }, [], neurons.map((rows, l) => [depths[l + 1], activations(rows[i])]))),
  ];
}

function likelihood(nll) {
  if (nll === null) return "The model predicts nothing before the first token.";
  return `Negative log-likelihood ${format(nll)} nats: probability ${percent(Math.exp(-nll))}`;
}

function effect({ names, values, without }, i) {
  const change = format(without[i][0] - values[0]);
  return `Without this token, ${names[0]} changes by ${change} to ${format(without[i][0])}.`;
}

function labelBars({ names, values }) {
  const isNumber = names.length === 1; // of regression
  const pairs = names.map((name, i) => [name, values[i]]);
  return h("ul", { id: "labels" }, ...(isNumber ? [`${names[0]}: ${format(values[0])}`] : probabilityItems(pairs)));
}

/** The probabilities of logits, in descending order, that the filters of mingpt.generation.sampling keep. */
function keptProbabilities(logits, temperature, topK, topP) {
  if (temperature < GREEDY) return [1];
  const lowest = topK ? logits[Math.min(topK, logits.length) - 1] : -Infinity;
  const weights = Float64Array.from(logits.filter((x) => x >= lowest), (x) => Math.exp((x - logits[0]) / temperature));
  const threshold = topP < 1 ? topP * weights.reduce((a, b) => a + b) : Infinity;
  let [count, cumulative] = [0, 0];
  while (count < weights.length && cumulative < threshold) cumulative += weights[count++];
  return weights.subarray(0, count).map((weight) => weight / cumulative);
}

function sampler({ logits, names }) {
  const sorted = decode(logits, Float32Array).sort().reverse(); // in the order of `names`
  const bars = h("ul", { id: "distribution" });
  const remaining = h("p", { id: "remaining", role: "status" });
  const ranges = { temperature: [0, 2, 0.01, 1], "top-k": [0, 200, 1, 0], "top-p": [0.01, 1, 0.01, 1] };
  const sliders = Object.entries(ranges).map(([id, [min, max, step, value]]) =>
    h("input", { id, type: "range", min, max, step, value, oninput: () => redraw() }));
  const outputs = sliders.map(({ id }) => h("output", { for: id }));
  function redraw() {
    sliders.forEach(({ value }, i) => (outputs[i].textContent = value));
    const p = keptProbabilities(sorted, ...sliders.map(({ valueAsNumber }) => valueAsNumber));
    const pairs = names.slice(0, Math.min(20, p.length)).map((name, i) => [visible(name), p[i]]);
    remaining.textContent = `${p.length.toLocaleString("en")} of ${formatCount(sorted.length, "token")} remain`;
    bars.replaceChildren(...probabilityItems(pairs));
  }
  redraw();
  const labels = sliders.map((input, i) => h("label", {}, `${input.id} `, outputs[i], input));
  return [h("h3", {}, "The next token"), h("div", { class: "columns" }, ...labels), remaining, bars];
}
