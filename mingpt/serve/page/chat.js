// The Chat view: a conversation with each model, which survives a reload.

import { stream } from "./api.js";
import { byId, h, load, run, stop, store } from "./dom.js";
import { page, readSettings } from "./settings.js";

const log = byId("chat-log");
const message = byId("message");
const status = byId("chat-status");
let chat = null; // {model, system, turns: [{role, content}]}
let editedIndex = Infinity; // of the user's turn that the next message replaces
const save = (conversation) => store(`chat.${conversation.model}`, conversation);

export function openChat() {
  const { id } = page.model;
  setChat(load(`chat.${id}`) ?? { model: id, system: "", turns: [] });
  byId("system").value = chat.system;
}

function setChat(conversation) {
  chat = conversation;
  save(chat);
  editedIndex = Infinity;
  message.value = "";
  status.textContent = "";
  render();
}

function render() {
  log.replaceChildren(...chat.turns.map(renderTurn));
  log.scrollTop = log.scrollHeight;
}

function renderTurn({ role, content }, index) {
  const editButton = h("button", { class: "edit", onclick: () => edit(index) }, "Edit");
  const copyButton = h("button", { class: "copy", onclick: () => run(() => copy(content)) }, "Copy");
  const heading = role === "user" ? h("h2", {}, "You ", editButton) : h("h2", {}, "Assistant ", copyButton);
  return h("article", { class: "turn", "data-role": role }, heading, h("p", {}, content));
}

function edit(index) {
  editedIndex = index;
  message.value = chat.turns[index].content;
  message.focus();
  status.textContent = "Send replaces the edited message and what follows it. Escape cancels.";
}

async function copy(text) {
  if (!isSecureContext) throw new Error("The browser allows copying only over https or on localhost.");
  await navigator.clipboard.writeText(text);
  status.textContent = "Copied.";
}

async function send(signal) {
  const content = message.value.trim();
  if (content) await answer([...chat.turns.slice(0, editedIndex), { role: "user", content }], signal);
}

async function regenerate(signal) {
  const last = chat.turns.findLastIndex(({ role }) => role === "user");
  if (last >= 0) await answer(chat.turns.slice(0, last + 1), signal);
}

async function answer(turns, signal, settings = readSettings()) {
  const messages = [{ role: "system", content: chat.system }, ...turns].filter(({ content }) => content);
  const request = { model: chat.model, messages, ...settings, truncate_prompt: true };
  const conversation = { ...chat, turns }; // another one may be on the page before the answer ends
  const turn = { role: "assistant", content: "" };
  const article = renderTurn(turn);
  setChat(conversation);
  log.append(article);
  log.ariaBusy = true; // a screen reader waits for the complete answer
  try {
    for await (const { choices, omitted_messages } of stream("/v1/chat/completions", request, signal)) {
      if (omitted_messages) status.textContent = `The oldest ${omitted_messages} turns exceed the context length and are left out.`;
      const [{ delta, finish_reason }] = choices;
      if (finish_reason === "length") status.append(" Cut off: max_tokens or the context length is reached.");
      if (!delta.content) continue;
      if (!turn.content) turns.push(turn);
      turn.content += delta.content;
      save(conversation);
      article.lastChild.textContent = turn.content;
      log.scrollTop = log.scrollHeight;
    }
  } finally {
    log.ariaBusy = false;
    render();
  }
}

byId("send").addEventListener("click", () => run(send));
byId("regenerate").addEventListener("click", () => run(regenerate));
byId("new-chat").addEventListener("click", () => {
  stop();
  setChat({ ...chat, turns: [] });
});
byId("system").addEventListener("input", ({ target }) => save(Object.assign(chat, { system: target.value })));
message.addEventListener("keydown", (event) => {
  if (event.key === "Escape" && editedIndex < Infinity) setChat(chat);
  if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
  event.preventDefault(); // no line break
  event.stopPropagation(); // Ctrl+Enter would send twice
  run(send);
});
