// The Write view: continues a prompt, shades each token by its probability, and shows the alternatives to it.

import { stream } from "./api.js";
import { byId, formatCount, h, probabilityItems, run } from "./dom.js";
import { page, readSettings } from "./settings.js";

const FINISH_REASONS = { stop: "end of the text", length: "max_tokens reached" };
const prompt = byId("prompt");
const output = byId("output");
const status = byId("write-status");
let selected = null; // the span of the token whose alternatives are shown

async function generate(start, signal) {
  const request = { model: page.model.id, prompt: start, ...readSettings(), logprobs: 5, truncate_prompt: true };
  prompt.value = start;
  for (const element of [output, byId("alternatives")]) element.replaceChildren();
  status.textContent = "Generating";
  const startTime = performance.now();
  let reason = "stopped";
  let count = 0;
  const tokens = []; // of the next span: several, where only together they are characters
  try {
    for await (const { choices } of stream("/v1/completions", request, signal)) {
      const [{ text, logprobs, finish_reason }] = choices;
      if (logprobs) tokens.push(...readTokens(logprobs));
      if (text) output.append(renderTokens(text, tokens.splice(0))); // splice empties it
      count += logprobs?.tokens.length ?? 0;
      reason = FINISH_REASONS[finish_reason] ?? reason;
    }
  } finally {
    const rate = (1000 * count) / (performance.now() - startTime);
    status.textContent = `${formatCount(count, "token")}, ${rate.toFixed(1)} tokens/s: ${reason}`;
  }
}

function readTokens({ tokens, token_logprobs, top_logprobs }) {
  return tokens.map((token, i) => ({ token, logprob: token_logprobs[i], alternatives: top_logprobs[i] }));
}

function renderTokens(text, tokens) {
  const id = `token-${output.childElementCount}`;
  const span = h("span", { class: "token", role: "option", id, "aria-selected": "false" }, text);
  span.style.setProperty("--probability", Math.exp(tokens.reduce((sum, { logprob }) => sum + logprob, 0)));
  span.lists = tokens.map(({ token, logprob, alternatives }) => {
    const logprobs = Object.entries({ ...alternatives, [token]: logprob });
    // quoted as in JSON, so that white space can be seen
    const probabilities = logprobs.map(([name, value]) => [JSON.stringify(name), Math.exp(value)]);
    return h("ul", {}, ...probabilityItems(probabilities, JSON.stringify(token)));
  });
  return span;
}

function select(span) {
  if (!span || span === selected) return;
  selected?.setAttribute("aria-selected", "false");
  selected = span;
  span.setAttribute("aria-selected", "true");
  output.setAttribute("aria-activedescendant", span.id);
  byId("alternatives").replaceChildren(...span.lists);
}

byId("generate").addEventListener("click", () => run((signal) => generate(prompt.value, signal)));
byId("continue").addEventListener("click", () => run((signal) => generate(prompt.value + output.textContent, signal)));
output.addEventListener("pointerover", (event) => select(event.target.closest(".token")));
output.addEventListener("keydown", (event) => {
  const next = output.contains(selected) ? selected.nextElementSibling : output.firstElementChild;
  const targets = { ArrowLeft: selected?.previousElementSibling, ArrowRight: next };
  if (event.key in targets) event.preventDefault(); // would scroll
  select(targets[event.key]);
  selected?.scrollIntoView({ block: "nearest" });
});
