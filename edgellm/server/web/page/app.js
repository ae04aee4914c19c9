// The page: puts its parts together. What the model writes is hostile, and so is an imported file: see purify.js.

import { announceBegin, announceEnd } from "/web/page/announcer.js";
import { setKey } from "/web/page/api.js";
import { Chat } from "/web/page/chat.js";
import { Composer } from "/web/page/composer.js";
import { at, element } from "/web/page/dom.js";
import { isEscape } from "/web/page/keys.js";
import { PlanPanel } from "/web/page/plan_panel.js";
import { Server } from "/web/page/server.js";
import { applyTheme, keepSettings, loadSettings } from "/web/page/settings.js";
import { SettingsDialog } from "/web/page/settings_dialog.js";
import { Sidebar } from "/web/page/sidebar.js";
import { ConversationStore } from "/web/page/store.js";
import { clearToast } from "/web/page/toast.js";
import { showWelcome } from "/web/page/welcome.js";

const STATES = {
  ok: "ready",
  connecting: "connecting",
  loading: "the model is loading",
  reloading: "the model is loading again",
  unreachable: "the server does not answer",
};

const settings = loadSettings();
applyTheme(settings);
const server = new Server(settings);
const panel = new PlanPanel();
const store = await ConversationStore.open(() => sidebar.show(true));
const chat = new Chat(store, settings, server);
const sidebar = new Sidebar(store, chat, { problem: showProblem, solved: () => at("retry").hidden && showProblem(null) });
const composer = new Composer({ send: (text, files) => chat.ask(text, files), stop: () => chat.stop(), problem: showProblem });
const dialog = new SettingsDialog(settings, chat, () => panel.redraw());

// `retries`: an answer failed, which can be asked for again.
function showProblem(error, retries = false) {
  if (error) clearToast();
  at("problem").hidden = error === null;
  at("problem-text").textContent = error?.message ?? "";
  at("retry").hidden = !retries;
  if (error?.status === 401) server.refresh();
}

function showState() {
  const { status, reason, ready } = server;
  const text = STATES[status] ?? `the model is not running: ${reason || status}`;
  at("dot").dataset.state = status;
  if (at("state-text").textContent !== text) at("state-text").textContent = text;
  composer.set({ busy: chat.answer !== null, ready });
  showWelcome(server, (prompt) => chat.ask(prompt));
}

// Events.

server.addEventListener("state", showState);
server.addEventListener("plan", () => {
  panel.show(server.plan);
  const parts = server.plan.sampling_facts?.parts ?? [];
  dialog.placeholders(Object.assign({}, ...[...parts].reverse().map(({ values }) => values)));
  showState();
});
server.addEventListener("models", () => {
  at("models").replaceChildren(...server.models.map((model) => element("option", { value: model }, model)));
  at("models").value = server.model;
});
server.addEventListener("activity", () => panel.measure(server.activity));
server.addEventListener("key", ({ detail: locked }) => {
  const before = at("key-form").hidden;
  at("key-form").hidden = !locked;
  if (locked && before) at("key").focus();
  showState();
});

chat.addEventListener("state", ({ detail: message }) => {
  if (message) announceEnd(message);
  else {
    showProblem(null);
    if (chat.answer) announceBegin();
  }
  showState();
});
chat.addEventListener("kept", () => sidebar.show(true));
chat.addEventListener("problem", ({ detail }) => showProblem(detail));
chat.addEventListener("failed", ({ detail }) => showProblem(detail, chat.again !== null));

// What the user does.

at("models").onchange = ({ target }) => {
  settings.model = target.selectedIndex ? target.value : "";
  keepSettings(settings);
  server.refresh();
};
at("retry").onclick = () => chat.retry();
at("dismiss").onclick = () => showProblem(null);
at("key-form").onsubmit = (event) => {
  event.preventDefault();
  setKey(at("key").value);
  at("key").value = "";
  showProblem(null);
  server.refresh().then(() => (server.locked ? showProblem({ message: "Wrong key" }) : at("text").focus()));
};
at("theme").value = settings.theme;
at("switch-theme").onclick = () => {
  const dark = settings.theme ? settings.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  settings.theme = dark ? "light" : "dark";
  applyTheme(settings);
  keepSettings(settings);
  panel.redraw();
};

// On a narrow screen one of list, chat and panel is shown.
function toggle(name, button) {
  const shown = document.body.classList.toggle(name);
  for (const one of ["list", "why"]) {
    if (one !== name) document.body.classList.remove(one);
    at(`${one}-toggle`).setAttribute("aria-expanded", String(document.body.classList.contains(one)));
  }
  if (shown) panel.redraw();
  else button.focus();
}
at("list-toggle").onclick = () => toggle("list", at("list-toggle"));
at("why-toggle").onclick = () => toggle("why", at("why-toggle"));
at("shade").onclick = () => document.body.classList.remove("list", "why");

document.addEventListener("keydown", (event) => {
  if (isEscape(event) && !at("settings").open) {
    if (chat.answer) chat.stop();
    else document.body.classList.remove("list", "why");
  }
  if (event.key.toLowerCase() === "o" && event.ctrlKey && event.shiftKey) {
    event.preventDefault();
    at("new-chat").click();
  }
});
addEventListener("pagehide", () => chat.leave());

showState();
await chat.openLast();
sidebar.show();
server.watch();
