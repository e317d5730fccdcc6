// The view of a tuning study: its trials, as lines and as a table, and why each was chosen. Low values are good.

import { formatCount, h, probabilityItems } from "./dom.js";
import { COLORS, categories, chart, format, joinPoints, scale, selectable, svg, table, tableRow } from "./chart.js";

const PAGE = 200; // rows that are added to the table at once: 10,000 would take seconds to lay out
const [BLUE, ORANGE, GREEN] = COLORS;
const resultOf = ({ state, value, lowest }) => ({ done: value, stopped: lowest })[state] ?? null;
const scaleOf = ({ kind, low, high, log, values }) => kind === "choice" ? categories(values) : scale([low, high], log);

/**
 * The elements of the view. `reasonOf(number)` promises why a trial was suggested; `selection` has the selected trial
 * and the order of the table, from one view of a study to the next.
 */
export function studyView(study, reasonOf, selection = {}) {
  const results = study.trials.map(resultOf).filter(Number.isFinite).sort((a, b) => a - b);
  // A diverged trial would flatten all others: the highest tenth is drawn on the edge.
  const highest = results[Math.floor(0.9 * (results.length - 1))];
  const clipped = (trial) => (resultOf(trial) === null ? null : Math.min(resultOf(trial), highest));
  const details = h("div", { id: "trial" });
  const [parallel, mark] = parallelCoordinates(study, clipped, choose);
  const trials = trialTable(study, choose, selection);
  function choose(number) {
    const trial = study.trials.find((trial) => trial.number === number) ?? study.trials[0];
    selection.number = trial.number;
    mark(trial);
    details.replaceChildren(...trialDetails(study, trial, reasonOf));
  }
  choose(selection.number ?? study.best ?? 0);
  const importance = h("ul", { id: "importance" }, ...probabilityItems(Object.entries(study.importance)));
  const share = "Importance: the share of each parameter in the variation that the Gaussian process predicts";
  return [
    h("p", { id: "best" }, ...describeBest(study)),
    h("div", { class: "columns" }, history(study, clipped, highest), h("div", {}, share, importance)),
    h("h3", {}, "All trials, a line each"),
    h("small", {}, "The lower the value, the bluer. Thick: the best trial; dashed: the selected one."), parallel,
    h("h3", {}, "Trials"), h("small", {}, "Select a row to see why the trial was chosen. In brackets: the lowest value " +
      "of a trial that was stopped early, since it was not expected to come near the best."), ...trials, details,
  ];
}

/** The best trial, and how it differs from trial 0, which has the defaults. */
function describeBest({ trials, best, value_name }) {
  const [defaults, winner] = [trials[0], trials.find(({ number }) => number === best)];
  if (!winner) return [];
  const names = [...new Set([...Object.keys(defaults.config), ...Object.keys(winner.config)])];
  const changes = names.filter((name) => defaults.config[name] !== winner.config[name])
    .map((name) => `${name} ${format(defaults.config[name]) || "-"} → ${format(winner.config[name]) || "-"}`);
  const text = `Best: trial ${best}, ${value_name} ${format(winner.value)}`;
  if (!changes.length) return [`${text}, the defaults`];
  return [`${text}; trial 0, the defaults: ${format(defaults.value)}; changed: ${changes.join(", ")}`];
}

function history({ trials, value_name }, clipped, highest) {
  let lowest = null;
  const best = trials.map((trial) => {
    if (trial.state === "done") lowest = Math.min(lowest ?? clipped(trial), clipped(trial));
    return [trial.number, lowest];
  });
  const dots = trials.map((trial) => [trial.number, clipped(trial)]);
  const edge = highest === undefined ? "" : `; above ${format(highest)}: on the upper edge`;
  return chart(`${value_name} by trial; line: the best so far${edge}`,
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
function trialTable({ trials, parameters }, choose, selection) {
  const fields = [(trial) => trial.number, (trial) => trial.state, resultOf, (trial) => trial.seconds,
    ...Object.keys(parameters).map((name) => (trial) => trial.config[name])];
  const names = ["trial", "state", "value", "seconds", ...Object.keys(parameters)];
  const buttons = names.map((name, column) => h("button", { onclick: () => sort(column) }, name));
  const element = table({ id: "trials", role: "grid" }, buttons, []);
  const [headers, body] = [[...element.querySelectorAll("th")], element.tBodies[0]];
  const more = h("button", { id: "more", onclick: () => addRows() }, `Show ${PAGE} more`);
  let order = trials;
  function addRows() {
    const start = body.childElementCount;
    body.append(...order.slice(start, start + PAGE).map((trial) => {
      const cells = fields.map((read) => format(read(trial)));
      if (trial.state === "stopped") cells[2] = `(${cells[2]})`;
      const data = { id: `trial-${trial.number}`, "data-number": trial.number };
      return tableRow("td", cells, { ...data, tabindex: -1, "aria-selected": trial.number === selection.number });
    }));
    more.hidden = start + PAGE >= order.length;
  }
  function sort(column, direction = headers[column].ariaSort === "ascending" ? -1 : 1) {
    for (const header of headers) header.ariaSort = "none";
    headers[column].ariaSort = direction === 1 ? "ascending" : "descending";
    Object.assign(selection, { column, direction });
    const read = fields[column];
    const isMissing = (trial) => (read(trial) ?? null) === null; // last in both directions
    const compare = (a, b) => direction * ((a > b) - (a < b));
    order = trials.toSorted((a, b) => isMissing(a) - isMissing(b) || compare(read(a), read(b)));
    body.replaceChildren();
    addRows();
  }
  sort(selection.column ?? 0, selection.direction ?? 1);
  const steps = { ArrowUp: -1, ArrowDown: 1 }; // the others scroll
  selectable(element, steps, () => [...body.children], (row) => choose(Number(row.dataset.number)));
  return [element, more];
}

function trialDetails(study, trial, reasonOf) {
  const curve = chart(`${study.value_name} by evaluation`, [{ points: trial.curve, stroke: BLUE }]);
  const settings = Object.entries(trial.config).map(([name, value]) => [name, format(value)]);
  const why = h("div", { id: "why" });
  const show = (reason) => why.replaceChildren(...reasonElements(study, trial, reason));
  const ask = () => why.isConnected && reasonOf(trial.number).then(show, ({ message }) => why.replaceChildren(message));
  setTimeout(ask, 100); // unless another trial has been selected since, as by an arrow key that is held down
  return [
    h("h3", {}, `Trial ${trial.number}: ${trial.state}`), h("p", { class: "text" }, trial.error),
    h("div", { class: "columns" }, ...(trial.curve.length ? [curve] : []), table({}, ["setting", "value"], settings)),
    h("h3", {}, "Why this trial"), why,
  ];
}

function reasonElements({ parameters, value_name }, { config }, { note, informed_by, slices }) {
  if (note) return [note];
  const charts = Object.entries(slices).map(([name, { x, median, low, high, acquisition }]) => {
    const along = (values) => x.map((value, i) => [value, values[i]]);
    const { at: share } = scale(acquisition);
    const [bottom, , top] = scale([...low, ...high]).ticks;
    const gains = acquisition.map((gain) => bottom + (top - bottom) * share(gain)); // from the lower edge to the upper
    return chart(name, [
      { points: [...along(low), ...along(high).reverse()], fill: BLUE, "fill-opacity": 0.2 },
      { points: along(median), stroke: BLUE },
      { points: along(gains), stroke: GREEN, "stroke-dasharray": "5 4" },
      { points: [[config[name], bottom], [config[name], top]], stroke: ORANGE },
    ], scaleOf(parameters[name]));
  });
  const legend = `Each chart varies one parameter; the others are those of this trial. Blue: the ${value_name} that ` +
    "earlier trials predict (Gaussian process: median and 95 % interval). Green, on its own scale: how promising it is " +
    "(acquisition: log expected improvement, with a preference for the neighborhood of the best). Orange: this trial.";
  return [h("p", {}, legend), h("div", { class: "columns" }, ...charts), h("details", {},
    h("summary", {}, `Informed by ${formatCount(informed_by.length, "trial")}`), informed_by.join(", "))];
}
