// The view of a tuning study: its trials, as lines and as a table, and why each was chosen. Low values are good.

import { formatCount, h, probabilityItems } from "./dom.js";
import { COLORS, categories, chart, format, joinPoints, scale, selectable, svg, table, tableRow } from "./chart.js";

const PAGE = 200; // rows that are added to the table at once: 10,000 would take seconds to lay out
const [BLUE, ORANGE, GREEN] = COLORS;
const resultOf = ({ state, value, lowest }) => ({ done: value, stopped: lowest })[state] ?? null;
const scaleOf = ({ kind, low, high, log, values }) => kind === "choice" ? categories(values) : scale([low, high], log);

export function studyView(study) {
  const results = study.trials.map(resultOf).filter(Number.isFinite).sort((a, b) => a - b);
  // A diverged trial would flatten all others: the highest tenth is drawn on the edge.
  const highest = results[Math.floor(0.9 * (results.length - 1))];
  const clipped = (trial) => (resultOf(trial) === null ? null : Math.min(resultOf(trial), highest));
  const details = h("div", { id: "trial" });
  const [parallel, mark] = parallelCoordinates(study, clipped, (number) => show(number));
  const trials = trialTable(study, (number) => show(number));
  function show(number) {
    const trial = study.trials.find((trial) => trial.number === number);
    mark(trial);
    details.replaceChildren(...trialDetails(study, trial));
  }
  show(study.best ?? study.trials[0].number);
  const importance = h("ul", { id: "importance" }, ...probabilityItems(Object.entries(study.importance)));
  return [
    h("div", { class: "columns" }, history(study, clipped), h("div", {}, "Importance of the parameters", importance)),
    h("h3", {}, "All trials: the lower the value, the bluer; thick: the best, dashed: the selected one"), parallel,
    h("h3", {}, "Trials: in brackets the lowest value of a stopped one"), ...trials, details,
  ];
}

function history({ trials, value_name }, clipped) {
  let lowest = null;
  const best = trials.map((trial) => {
    if (trial.state === "done") lowest = Math.min(lowest ?? clipped(trial), clipped(trial));
    return [trial.number, lowest];
  });
  const dots = trials.map((trial) => [trial.number, clipped(trial)]);
  return chart(`${value_name} by trial, the best so far as a line, the highest tenth on the upper edge`,
    [{ points: dots, joiner: "h0M", stroke: BLUE, "stroke-width": 4 }, { points: best, stroke: ORANGE }]);
}

/** An axis for each parameter and one for the value, a line for each trial, and a function that marks one. */
function parallelCoordinates({ parameters, trials, best, value_name }, clipped, choose) {
  const values = scale(trials.map(clipped));
  const axes = Object.entries(parameters).map(([name, range]) => [name, scaleOf(range), (trial) => trial.config[name]]);
  axes.push([value_name, values, clipped]);
  const X = (a) => 120 * a + 60;
  const Y = (position) => 200 - 170 * position;
  const pointsOf = (trial) => joinPoints(axes.map(([, { at }, read], a) => [X(a), Y(at(read(trial)))]));
  const line = (trial, attributes) => svg("polyline", { points: pointsOf(trial), ...attributes });
  const color = (trial) => `color-mix(in oklab, ${ORANGE} ${Math.round(100 * values.at(clipped(trial)))}%, ${BLUE})`;
  const axisOf = ([name, { at, ticks }], a) => [
    svg("line", { x1: X(a), x2: X(a), y1: Y(0), y2: Y(1) }),
    svg("text", { x: X(a), y: 14, "text-anchor": "middle" }, name.slice(0, 20)),
    ...ticks.map((x) => svg("text", { x: X(a) - 4, y: Y(at(x)) + 4, "text-anchor": "end" }, format(x, 3).slice(0, 12))),
  ];
  const finished = trials.filter((trial) => resultOf(trial) !== null);
  const marked = finished.filter(({ number }) => number === best).map((trial) => line(trial, { class: "mark" }));
  const selected = svg("polyline", { class: "mark", "stroke-dasharray": "6 4" });
  const layer = (...children) => svg("svg", { viewBox: `0 0 ${X(axes.length)} 210`, "aria-hidden": true }, ...children);
  const lines = finished.map((trial) => line(trial, { "data-number": trial.number, stroke: color(trial) }));
  const layers = [layer(...lines), layer(...axes.flatMap(axisOf), ...marked, selected)];
  for (const image of layers) image.style.minWidth = `${90 * axes.length}px`;
  const element = h("div", { id: "parallel", class: "scroll", tabindex: 0, "aria-label": "All trials" }, ...layers);
  element.addEventListener("click", ({ target }) => target.dataset.number && choose(Number(target.dataset.number)));
  return [element, (trial) => selected.setAttribute("points", pointsOf(trial))];
}

/** A table that sorts by any column; clicking or focusing a row, or arrow keys, choose its trial. */
function trialTable({ trials, parameters }, choose) {
  const fields = [(trial) => trial.number, (trial) => trial.state, resultOf, (trial) => trial.seconds,
    ...Object.keys(parameters).map((name) => (trial) => trial.config[name])];
  const names = ["trial", "state", "value", "seconds", ...Object.keys(parameters)];
  const buttons = names.map((name, column) => h("button", { onclick: () => sort(column) }, name));
  const element = table({ id: "trials" }, buttons, []);
  const [headers, body] = [[...element.querySelectorAll("th")], element.tBodies[0]];
  const more = h("button", { id: "more", onclick: () => addRows() }, `Show ${PAGE} more`);
  let order = trials;
  function addRows() {
    const start = body.childElementCount;
    body.append(...order.slice(start, start + PAGE).map((trial) => {
      const cells = fields.map((read) => format(read(trial)));
      if (trial.state === "stopped") cells[2] = `(${cells[2]})`;
      const data = { id: `trial-${trial.number}`, "data-number": trial.number };
      return tableRow("td", cells, { ...data, tabindex: -1, "aria-selected": false });
    }));
    more.hidden = start + PAGE >= order.length;
  }
  function sort(column) {
    const direction = headers[column].ariaSort === "ascending" ? -1 : 1;
    for (const header of headers) header.ariaSort = "none";
    headers[column].ariaSort = direction === 1 ? "ascending" : "descending";
    const read = fields[column];
    const isMissing = (trial) => (read(trial) ?? null) === null; // last in both directions
    const compare = (a, b) => direction * ((a > b) - (a < b));
    order = trials.toSorted((a, b) => isMissing(a) - isMissing(b) || compare(read(a), read(b)));
    body.replaceChildren();
    addRows();
  }
  sort(0);
  selectable(element, 1, () => [...body.children], (row) => choose(Number(row.dataset.number)));
  return [element, more];
}

function trialDetails(study, trial) {
  const curve = chart(`${study.value_name} by step`, [{ points: trial.curve, stroke: BLUE }]);
  const settings = Object.entries(trial.config).map(([name, value]) => [name, format(value)]);
  return [
    h("h3", {}, `Trial ${trial.number}: ${trial.state}`), h("p", { class: "text" }, trial.error),
    h("div", { class: "columns" }, ...(trial.curve.length ? [curve] : []), table({}, ["setting", "value"], settings)),
    h("h3", {}, "Why this trial"), h("div", { id: "why" }, ...reasons(study, trial)),
  ];
}

function reasons({ why, first, parameters, value_name }, { number, config }) {
  if (!why[number]) return [number < first ? "given, not suggested" : "not recomputed"];
  const { informed_by, slices } = why[number];
  const charts = Object.entries(slices).map(([name, { x, mean, low, high, acquisition }]) => {
    const along = (values) => x.map((value, i) => [value, values[i]]);
    const [bottom, top, share] = [Math.min(...low), Math.max(...high), scale(acquisition).at];
    const gains = acquisition.map((gain) => bottom + (top - bottom) * share(gain)); // from the lower edge to the upper
    return chart(name, [
      { points: [...along(low), ...along(high).reverse()], fill: BLUE, "fill-opacity": 0.2 },
      { points: along(mean), stroke: BLUE },
      { points: along(gains), stroke: GREEN, "stroke-dasharray": "5 4" },
      { points: [[config[name], bottom], [config[name], top]], stroke: ORANGE },
    ], scaleOf(parameters[name]));
  });
  const legend = `Expected ${value_name} with uncertainty (blue), acquisition (green, own scale), this trial (orange)`;
  return [h("p", {}, legend), h("div", { class: "columns" }, ...charts), h("details", {},
    h("summary", {}, `Informed by ${formatCount(informed_by.length, "trial")}`), informed_by.join(", "))];
}
