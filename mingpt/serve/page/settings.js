// The model on the page, and the generation settings, which are kept over a reload.

import { byId, h, load, store } from "./dom.js";

export const page = { model: null }; // as /v1/models describes it
const form = byId("settings-form");
const SETTINGS = [
  { name: "max_tokens", value: 200, min: 1, max: 16384, step: 1, accepts: "whole number, 1 to 16384" },
  { name: "temperature", value: 0.8, min: 0, max: 2, accepts: "0 to 2; 0: greedy decoding" },
  { name: "top_p", value: 1, min: 0.001, max: 1, accepts: "above 0, at most 1; 1: all tokens" },
  { name: "top_k", value: 0, min: 0, step: 1, accepts: "whole number; 0: all tokens" },
  { name: "min_p", value: 0, min: 0, max: 1, accepts: "0 to 1; 0: all tokens" },
  { name: "repetition_penalty", value: 1, min: 0.1, max: 10, accepts: "0.1 to 10; 1: no penalty" },
  { name: "seed", value: "", min: 0, max: 2 ** 31 - 1, step: 1, accepts: "whole number; empty: random" },
];

const saved = load("settings") ?? {};
for (const { name, value, accepts, ...limits } of SETTINGS) {
  const input = h("input", { name, type: "number", step: "any", value: saved[name] ?? value, ...limits });
  input.required = value !== "";
  form.append(h("label", {}, `${name}: `, h("small", {}, accepts), input));
}
form.addEventListener("input", () => store("settings", Object.fromEntries(new FormData(form))));

/** The settings as the server takes them. Throws an Error that says what is accepted. */
export function readSettings() {
  const invalid = form.querySelector("input:invalid");
  if (invalid) byId("settings").open = true;
  if (invalid) throw new Error(invalid.parentElement.textContent);
  const entries = [...new FormData(form)].filter(([, value]) => value !== "");
  return Object.fromEntries(entries.map(([name, value]) => [name, Number(value)]));
}
