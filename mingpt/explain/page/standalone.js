// The page that `python -m mingpt.explain` writes: a section for each part of its data.

import { byId, h } from "./dom.js";
import { modelView } from "./model.js";
import { runView } from "./run.js";
import { studyView } from "./study.js";

const { title, model, runs, study } = JSON.parse(byId("data").textContent);
const reasonOf = async (number) => study.reasons[number] ?? { note: "Only the newest trials are explained." };

function addSection(name, content) {
  byId("contents").append(h("a", { href: `#section-${name}` }, name), " ");
  byId("views").append(h("section", { id: `section-${name}` }, h("h2", {}, name), ...content));
}

document.title = byId("title").textContent = title;
if (model) addSection("Model", modelView(model));
if (runs.length) addSection("Training", runView(runs));
if (study?.trials.length) addSection("Study", studyView(study, reasonOf));
