// The page /explain of the server: a model's computation on request; runs and a study, followed while they change.

import { requestJson } from "./api.js";
import { byId, h, run, stop } from "./dom.js";
import { modelView } from "./model.js";
import { runView } from "./run.js";
import { studyView } from "./study.js";

const POLL = 2000; // milliseconds
const linked = new URLSearchParams(location.search).get("model");
const read = (...path) => requestJson(["/v1/explain", ...path.map(encodeURIComponent)].join("/"));
const selections = new Map(); // study -> what is selected in it
const shown = { run: "", study: "" }; // the names and times of what is on the page
let studyOnPage = "";

function explain() {
  const text = byId("text").value;
  const body = { model: byId("model-name").value, text: text || null };
  for (const name of ["layer", "head"]) body[name] = byId(name).valueAsNumber;
  run(async (signal) => {
    const model = await requestJson("/v1/explain", body, signal);
    if (byId("text").value === text) byId("text").value = model.text;
    byId("model-view").replaceChildren(...modelView(model));
  });
}

/** Gives a select the names of folders, the latest first; at first the linked one, or the latest, is selected. */
function setOptions(select, folders) {
  const names = folders.map(({ id }) => id);
  const known = [...select.options].map(({ value }) => value);
  for (const option of [...select.options]) if (!names.includes(option.value)) option.remove();
  select.append(...names.filter((name) => !known.includes(name)).map((name) => h("option", {}, name)));
  if (!known.length) select.value = names.includes(linked) ? linked : names[0];
  select.closest("section").hidden = !select.length;
}

/** Shows the selected runs, or the selected study, anew where they have changed. */
async function show(part, folders, view) {
  const names = [...byId(`${part}-name`).selectedOptions].map(({ value }) => value);
  const state = names.map((name) => name + folders.find(({ id }) => id === name).changed).join();
  if (state === shown[part]) return;
  const contents = await Promise.all(names.map((name) => read(name)));
  const elements = view(contents.map((content) => content[part]), names);
  if (elements) byId(`${part}-view`).replaceChildren(...elements);
  shown[part] = state;
}

/** A study is drawn anew when a trial has begun or ended, not at each of its evaluations. */
function viewStudy([study], [name]) {
  if (!selections.has(name)) selections.set(name, {});
  const selection = selections.get(name);
  const states = study?.trials.map(({ state }) => state).join();
  if (states === selection.states && name === studyOnPage) return null;
  selection.states = states;
  studyOnPage = name;
  return states ? studyView(study, (number) => read(name, number), selection) : ["No trial has begun."];
}

async function update() {
  const { data } = await requestJson("/v1/explain");
  const folders = data.toSorted((a, b) => Number(BigInt(b.changed) - BigInt(a.changed)));
  for (const part of ["model", "run", "study"]) setOptions(byId(`${part}-name`), folders.filter((f) => f[part]));
  byId("home").hidden = !byId("model-name").length;
  const results = await Promise.allSettled([
    show("run", folders, (runs) => (runs.length ? runView(runs) : [])), show("study", folders, viewStudy),
  ]);
  for (const { reason } of results) if (reason) throw reason; // one is shown where the other cannot be read
}

let latest = Promise.resolve();
/** Updates the page after the updates before. */
function refresh() {
  const report = (message) => byId("problem").textContent !== message && byId("problem").replaceChildren(message);
  latest = latest.then(update).then(() => report(""), ({ message }) => report(message));
  return latest;
}

async function follow() {
  await refresh();
  const next = () => (document.hidden ? setTimeout(next, POLL) : follow());
  setTimeout(next, POLL);
}

byId("model-form").addEventListener("submit", (event) => {
  event.preventDefault();
  explain();
});
byId("model-name").addEventListener("change", () => {
  byId("text").value = ""; // the other model may not know its characters
  stop();
  setTimeout(explain); // after what was stopped has ended
});
byId("stop").addEventListener("click", stop);
for (const part of ["run", "study"]) byId(`${part}-name`).addEventListener("change", refresh);
await follow();
if (byId("model-name").value) explain();
