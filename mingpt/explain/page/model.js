// The view of a model: what it computes for one text, by position, and the choice of the next token.

import { formatCount, h, probabilityItems } from "./dom.js";
import { bar, format, selectable, table } from "./chart.js";
import { attentionReader, decode, drawMap, headMaps, rowInNumbers, visible, weightItems } from "./attention.js";

const GREEDY = 1e-6; // below this temperature only the most probable token is left, as in mingpt.generation.sampling
const percent = (p) => (p < 0.0005 ? "< 0.1 %" : `${(100 * p).toFixed(1)} %`);

export function modelView(model) {
  const { tokens, row, labels, architecture } = model;
  const read = attentionReader(model);
  let { position, layer, head } = row;
  const details = h("div", { id: "position", class: "columns" });
  const map = h("canvas", { id: "head-map", role: "img", "aria-label": "Attention weights of the selected head" });
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
    h("h3", {}, "Attention weights of each head"), h("small", {}, "Each row is a token that attends, each column a " +
      "token that is attended to, itself or an earlier one. Opacity: the square root of the weight. Select a head."),
    heads.element,
    caption, h("div", { class: "columns" }, weights, map),
    h("h3", {}, "How one row of attention weights is computed"), rowInNumbers(tokens, row),
    ...(model.next ? sampler(model.next) : []),
  ];
}

/** The index of the predicted class; 0 for a number. */
const predicted = ({ values }) => values.indexOf(Math.max(...values));

/** The tokens, shaded by nll, or by how much the output of the prediction changes without each. */
function tokenOptions({ tokens, nll, labels }, choose) {
  const k = labels && predicted(labels);
  const changes = labels?.without.map((values) => Math.abs(values[k] - labels.values[k])) ?? [];
  const largest = Math.max(...changes, 1e-9);
  const chips = tokens.map((token, i) => {
    const attributes = { class: "token", role: "option", id: `token-${i}`, "aria-selected": false };
    const chip = h("span", attributes, visible(token));
    chip.style.setProperty("--probability", labels ? 1 - (changes[i] ?? 0) / largest : Math.exp(-nll[i]));
    return chip;
  });
  const element = h("div", { id: "tokens", role: "listbox", tabindex: 0, "aria-label": "Tokens" }, ...chips);
  const [steps, events] = [{ ArrowLeft: -1, ArrowRight: 1 }, ["click", "pointerover"]];
  const select = selectable(element, steps, () => chips, (chip) => choose(chips.indexOf(chip)), events);
  return [element, (i) => select(chips[i])];
}

function positionDetails({ tokens, lens, nll, norms, neurons, labels, architecture }, i) {
  const depths = norms.stream.map((_, l) => (l ? `layer ${l - 1}` : "embedding"));
  const largest = Math.max(...Object.values(norms).flatMap((rows) => rows.map((values) => values[i])), 1e-9);
  const measure = (values) => (values ? h("span", {}, format(values[i]), bar(values[i] / largest)) : "");
  const normColumns = (l) => [norms.attention[l - 1], norms.mlp[l - 1], norms.stream[l]].map(measure);
  const guess = ([token, p]) =>
    h("span", {}, h(token === tokens[i + 1] ? "strong" : "span", {}, visible(token)), ` ${percent(p)}`);
  const activations = (pairs) => pairs.map(([neuron, value]) => `neuron ${neuron}: ${format(value)}`).join(", ");
  const guesses = lens.map((level, l) => [depths[l], ...level[i].map(guess)]);
  const next = i + 1 < tokens.length ? `; bold: the token that follows, ${visible(tokens[i + 1])}` : "";
  const lensTitle = "What comes after it? The most probable tokens if the output layer were applied after each layer " +
    `(logit lens); the last row is the model's prediction${next}.`;
  const lensTable = [h("p", {}, lensTitle), table({ id: "lens" }, [], guesses)];
  const panel = (title, ...content) => h("div", {}, h("h3", {}, title), ...content);
  return [
    panel(`Position ${i}: ${visible(tokens[i])}`,
      h("p", { id: "nll" }, labels ? effect(labels, i) : likelihood(nll[i])), ...(lens.length ? lensTable : [])),
    panel("L2 norms: what attention and MLP add, and the residual stream after them",
      table({ id: "norms" }, ["", "attention", "MLP", "stream"], depths.map((depth, l) => [depth, ...normColumns(l)]))),
    panel(`The largest of the ${4 * architecture.n_embd} activations of the MLP's hidden layer`,
      table({ id: "neurons" }, [], neurons.map((rows, l) => [depths[l + 1], activations(rows[i])]))),
  ];
}

function likelihood(nll) {
  if (nll === null) return "The model predicts nothing before the first token.";
  const p = percent(Math.exp(-nll));
  return `Given the tokens before it, this token had probability ${p}: loss ${format(nll)} nats, -ln of that. ` +
    "How it was predicted is shown at the token before.";
}

function effect(labels, i) {
  if (!labels.without.length) return "The text has no other token.";
  const [k, value] = [predicted(labels), labels.without[i][predicted(labels)]];
  return `Without this token, ${labels.names[k]} changes by ${format(value - labels.values[k])} to ${format(value)}.`;
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
    const pairs = names.slice(0, p.length).map((name, i) => [visible(name), p[i]]);
    remaining.textContent = `${p.length.toLocaleString("en")} of ${formatCount(sorted.length, "token")} can be sampled`;
    bars.replaceChildren(...probabilityItems(pairs));
  }
  redraw();
  const labels = sliders.map((input, i) => h("label", {}, `${input.id} `, outputs[i], input));
  const hint = h("small", {}, "top-k 0 and top-p 1 keep all tokens.");
  return [h("h3", {}, "The token after the text"), hint, h("div", { class: "columns" }, ...labels), remaining, bars];
}
