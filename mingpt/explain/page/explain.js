// The page of `python -m mingpt.explain`: a section for each part of the data that it has.

import { byId, h } from "./dom.js";
import { modelView } from "./model.js";
import { runView } from "./run.js";
import { studyView } from "./study.js";

const { title, model, runs, study } = JSON.parse(byId("data").textContent);

function addSection(name, content) {
  byId("contents").append(h("a", { href: `#section-${name}` }, name), " ");
  byId("views").append(h("section", { id: `section-${name}` }, h("h2", {}, name), ...content));
}

document.title = byId("title").textContent = title;
if (model) addSection("Model", modelView(model));
if (runs.length) addSection("Training", runView(runs));
if (study?.trials.length) addSection("Study", studyView(study));
