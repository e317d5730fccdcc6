// What the views share: elements, stored values, bars of probabilities, and tasks that can be stopped.

export const byId = (id) => document.getElementById(id);

/** An element; strings among its children become text, never markup, whatever a model or a file wrote. */
export function h(tag, attributes, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else element.setAttribute(name, value);
  }
  element.append(...children);
  return element;
}

export const load = (key) => JSON.parse(localStorage.getItem(`mingpt.${key}`));
export const store = (key, value) => localStorage.setItem(`mingpt.${key}`, JSON.stringify(value));
export const formatCount = (n, noun) => `${n.toLocaleString("en")} ${noun}${n === 1 ? "" : "s"}`;

/** List items of [name, probability] pairs, each with a bar of that length, the most probable first. */
export function probabilityItems(pairs, chosen) {
  return pairs.toSorted(([, p], [, q]) => q - p).map(([name, p]) => {
    const bar = h("span", { class: "bar" });
    bar.style.width = `${100 * p}%`;
    return h("li", {}, h(name === chosen ? "strong" : "span", {}, name), ` ${(100 * p).toFixed(1)} %`, bar);
  });
}

let controller = null; // of the running task
export const stop = () => controller?.abort();

/** Runs a task, one at a time, with a signal that `stop` aborts, and shows its error. */
export async function run(task) {
  if (controller) return byId("error").replaceChildren("Stop the running task first.");
  setController(new AbortController());
  byId("error").replaceChildren();
  try {
    await task(controller.signal);
  } catch (error) {
    if (error.name !== "AbortError") byId("error").replaceChildren(error.message);
  }
  setController(null);
}

function setController(value) {
  controller = value;
  // not `disabled`, which would take the focus away
  for (const button of document.querySelectorAll(".start")) button.ariaDisabled = value !== null;
  for (const button of document.querySelectorAll(".stop")) button.ariaDisabled = value === null;
}
