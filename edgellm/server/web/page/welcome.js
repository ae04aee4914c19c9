// What is shown where nothing was asked yet: what one can do here, or why nothing yet.

import { at, element } from "/web/page/dom.js";

const PROMPTS = [
  ["Explain", "Explain how a transformer predicts the next word, to someone who knows no mathematics."],
  ["Write code", "Write a Python function that merges two sorted lists, with a short explanation."],
  ["Compare", "Compare SQLite and PostgreSQL in a table: setup, concurrency, size, backups."],
  ["Shorten", "Rewrite in half as many words: The reason why we were late is due to the fact that the train was delayed."],
];
const BEGINNINGS = [
  ["A story", "Once upon a time, at the edge of a quiet forest,"],
  ["A list", "Ten things that everyone should know about the sea:\n1."],
];

export function showWelcome(server, ask) {
  const { title, text, prompts } = welcome(server);
  at("empty-title").textContent = title;
  at("empty-text").textContent = text;
  at("empty").classList.toggle("loading", ["connecting", "loading", "reloading"].includes(server.status));
  at("text").disabled = !server.writes;
  at("text").placeholder = server.writes ? "Message" : "This model writes no text";
  const buttons = prompts.map(([name, prompt]) =>
    element("button", { type: "button", disabled: !server.ready, onclick: () => ask(prompt) }, element("b", {}, name), element("span", {}, prompt)),
  );
  at("prompts").replaceChildren(...buttons);
}

function welcome({ status, reason, writes, chats, locked }) {
  if (status === "unreachable") {
    return { title: "The server does not answer", text: "Start it again with edgellm serve. Your conversations are still here, and this page goes on by itself.", prompts: [] };
  }
  if (status === "loading" || status === "reloading") {
    return { title: "The model is loading", text: "You can write meanwhile; it takes messages as soon as it is ready.", prompts: PROMPTS };
  }
  if (status !== "ok" && status !== "connecting") {
    return { title: "The model is not running", text: reason || status, prompts: [] };
  }
  if (locked) return { title: "A key is needed", text: "This server answers those who have its API key.", prompts: [] };
  if (!writes) {
    return { title: "Nothing to chat with", text: "This model turns texts into vectors or scores. Use /v1/embeddings or /v1/rerank; /docs describes them.", prompts: [] };
  }
  if (!chats) {
    return { title: "Begin a text", text: "This is a base model: it continues what you write, and does not chat.", prompts: BEGINNINGS };
  }
  return { title: "What shall we think about?", text: "What you write stays on this machine.", prompts: PROMPTS };
}
