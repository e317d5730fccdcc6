// The view of training runs: their curves, the settings in which they differ, and their samples.

import { h } from "./dom.js";
import { COLORS, bar, chart, format, table } from "./chart.js";

export function runView(runs) {
  const best = runs.map(bestRow);
  const colors = runs.map((_, i) => COLORS[i % COLORS.length]);
  const lines = (keyOf, style, rowsOf = (i) => runs[i].metrics) => runs.map((run, i) =>
    ({ points: rowsOf(i).map((row) => [row.step, row[keyOf(run)]]), stroke: colors[i], ...style }));
  const withBest = (keyOf) => [...lines(keyOf), ...lines(keyOf, { "stroke-width": 8 }, (i) => best[i])];
  const losses = [...lines(() => "train_loss", { "stroke-dasharray": "5 4" }), ...withBest(() => "val_loss")];
  const loss = chart("Loss in nats by step: training dashed, validation solid", losses);
  loss.id = "loss-chart";
  const metrics = [...new Set(runs.map(({ metric }) => metric))].join(", ");
  const legend = runs.map(({ name, metric }, i) => h("li", {}, h("strong", {}, name), ...best[i].map((row) =>
    `: best checkpoint (●) at step ${row.step}, ${metric} ${format(row[metric])}`), bar(1, colors[i])));
  const samples = runs.filter(({ sample }) => sample);
  return [
    h("ul", { id: "legend", class: "columns" }, ...legend),
    h("div", { class: "columns" }, loss, chart(`${metrics} by step`, withBest(({ metric }) => metric)),
      chart("Learning rate by step", lines(() => "learning_rate")),
      chart("Tokens per second by step", lines(() => "tokens_per_second"))),
    ...settingsTable(runs),
    ...samples.flatMap(({ name, sample }) => [h("h3", {}, `Sample of ${name}`), h("p", { class: "text" }, sample)]),
  ];
}

/** The row of the best checkpoint, or none, as an array. */
function bestRow({ metrics, metric, higher_is_better }) {
  const sign = higher_is_better ? -1 : 1;
  const rows = metrics.filter((row) => Number.isFinite(row[metric]));
  return rows.toSorted((a, b) => sign * (a[metric] - b[metric])).slice(0, 1);
}

function settingsTable(runs) {
  const keys = [...new Set(runs.flatMap(({ settings }) => Object.keys(settings)))];
  const rows = keys.map((key) => [key, ...runs.map(({ settings }) => format(settings[key]))]);
  const isShown = ([, ...values]) => runs.length === 1 || new Set(values).size > 1;
  const title = runs.length === 1 ? "Settings" : "Settings that differ";
  const names = runs.map(({ name }) => name);
  return [h("h3", {}, title), table({ id: "settings-diff" }, ["setting", ...names], rows.filter(isShown))];
}
