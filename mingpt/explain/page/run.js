// The view of training runs: their curves, the settings in which they differ, and their samples.

import { h } from "./dom.js";
import { COLORS, bar, chart, format, table } from "./chart.js";

const SAMPLES = 4; // columns

export function runView(runs) {
  const best = runs.map(bestRow);
  const colors = runs.map((_, i) => COLORS[i % COLORS.length]);
  const lines = (keyOf, style, rowsOf = (i) => runs[i].metrics) => runs.map((run, i) =>
    ({ points: rowsOf(i).map((row) => [row.step, row[keyOf(run)]]), stroke: colors[i], ...style }));
  const withBest = (keyOf) => [...lines(keyOf), ...lines(keyOf, { "stroke-width": 8 }, (i) => best[i])];
  const losses = [...lines(() => "train_loss", { "stroke-dasharray": "5 4" }), ...withBest(() => "val_loss")];
  const loss = chart("Loss by step: training dashed, validation solid", losses);
  loss.id = "loss-chart";
  const metrics = [...new Set(runs.map(({ metric }) => metric))];
  const metricChart = (metric) => chart(`${metric} by step`, withBest((run) => (run.metric === metric ? metric : "")));
  const legend = runs.map(({ name, metric, metrics, higher_is_better }, i) => h("li", {}, h("strong", {}, name),
    ...best[i].map((row) => `: ${higher_is_better ? "highest" : "lowest"} ${metric} ${format(row[metric])} at step ` +
      `${row.step} of ${metrics.at(-1).step} (●); its weights are the model in the folder`), bar(1, colors[i])));
  return [
    h("ul", { id: "legend", class: "columns" }, ...legend),
    h("small", {}, "All metrics are of the validation part, and of an average of the newest weights; the training loss " +
      "is of the weights themselves, with dropout. Where it falls while the validation loss rises, the model overfits."),
    h("div", { class: "columns" }, loss, ...metrics.map(metricChart),
      chart("Learning rate by step", lines(() => "learning_rate")),
      chart("Tokens per second by step", lines(() => "tokens_per_second"))),
    ...runs.flatMap(samples), ...settingsTable(runs),
  ];
}

/** What the model wrote at some evaluations, evenly spaced, side by side. */
function samples({ name, metrics }) {
  const rows = metrics.filter(({ sample }) => sample);
  const count = Math.min(SAMPLES, rows.length);
  const chosen = Array.from({ length: count }, (_, i) => rows[Math.round((i * (rows.length - 1)) / (count - 1 || 1))]);
  const column = ({ step, sample }) => h("div", {}, h("small", {}, `step ${step}`), h("p", { class: "text" }, sample));
  const title = h("h3", {}, `Text that ${name} generates as it learns`);
  return count ? [title, h("div", { class: "columns samples" }, ...chosen.map(column))] : [];
}

/** The row of the best checkpoint, or none, as an array. */
function bestRow({ metrics, metric, higher_is_better }) {
  const sign = higher_is_better ? -1 : 1;
  const rows = metrics.filter((row) => Number.isFinite(row[metric]));
  return rows.toReversed().toSorted((a, b) => sign * (a[metric] - b[metric])).slice(0, 1); // of equal ones the last
}

function settingsTable(runs) {
  const keys = [...new Set(runs.flatMap(({ settings }) => Object.keys(settings)))];
  const rows = keys.map((key) => [key, ...runs.map(({ settings }) => format(settings[key]))]);
  const isShown = ([, ...values]) => runs.length === 1 || new Set(values).size > 1;
  const title = runs.length === 1 ? "Settings" : "Settings that differ";
  const names = runs.map(({ name }) => name);
  return [h("h3", {}, title), table({ id: "settings-diff" }, ["setting", ...names], rows.filter(isShown))];
}
