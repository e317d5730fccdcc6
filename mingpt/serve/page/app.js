// The page's entry: shows the model and the view that the address names, so that a reload and Back keep them.

import { requestJson } from "./api.js";
import { openChat } from "./chat.js";
import { byId, formatCount, h, run, stop } from "./dom.js";
import { page } from "./settings.js";
import "./label.js";
import "./write.js";

const VIEWS = { text: ["write"], chat: ["chat", "write"], classify: ["label"], regress: ["label"] }; // by task
const tabs = byId("tabs");
const open = (model, view) => location.assign(`#${new URLSearchParams({ model, view })}`);

function describe({ task, parameters, n_layer, n_embd, context_length, training }) {
  const count = new Intl.NumberFormat("en", { notation: "compact", maximumSignificantDigits: 3 }).format(parameters);
  const size = `${count} parameters, ${n_layer} layers x ${n_embd}`;
  const { data, metric, value } = training ?? {};
  const result = training ? `, data ${data}, ${metric.replaceAll("_", " ")} ${Number(value.toPrecision(4))}` : "";
  return `task ${task}, ${size}, context ${formatCount(context_length, "token")}${result}`;
}

function route(models) {
  const address = new URLSearchParams(location.hash.slice(1));
  const model = models.find(({ id }) => id === address.get("model")) ?? models[0];
  const views = VIEWS[model.task];
  const shown = views.includes(address.get("view")) ? address.get("view") : views[0];
  for (const tab of tabs.children) {
    const isShown = tab.value === shown;
    tab.hidden = !views.includes(tab.value);
    tab.ariaSelected = isShown;
    tab.tabIndex = isShown ? 0 : -1;
    byId(`panel-${tab.value}`).hidden = !isShown;
  }
  byId("settings").hidden = shown === "label";
  if (model === page.model) return;
  stop();
  page.model = model;
  byId("model").value = model.id;
  byId("explain").search = new URLSearchParams({ model: model.id });
  byId("about").textContent = describe(model);
  for (const id of ["output", "alternatives", "value", "bars"]) byId(id).replaceChildren();
  if (model.task === "chat") openChat();
}

byId("model").addEventListener("change", ({ target }) => open(target.value, ""));
tabs.addEventListener("click", ({ target }) => open(page.model.id, target.value));
tabs.addEventListener("keydown", ({ key }) => {
  const other = tabs.querySelector("[aria-selected=false]:not([hidden])"); // of two at most
  if (key.startsWith("Arrow")) other?.focus();
  if (key.startsWith("Arrow")) other?.click();
});
for (const button of document.querySelectorAll(".stop")) button.addEventListener("click", stop);
document.addEventListener("keydown", ({ key, ctrlKey, metaKey }) => {
  if (key === "Escape") stop();
  if (key === "Enter" && (ctrlKey || metaKey)) document.querySelector("section:not([hidden]) .primary")?.click();
});

run(async () => {
  const { data } = await requestJson("/v1/models");
  if (!data.length) return location.replace("/explain"); // runs or studies only
  byId("model").append(...data.map(({ id }) => h("option", {}, id)));
  route(data);
  window.addEventListener("hashchange", () => route(data));
});
