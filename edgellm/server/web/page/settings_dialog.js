// The dialog with the settings. Each change counts at once, but what is wrong: it is marked, and keeps the dialog open.

import { at } from "/web/page/dom.js";
import { mebibytes } from "/web/page/format.js";
import { NUMBERS } from "/web/page/request.js";
import { applyTheme, keepSettings } from "/web/page/settings.js";

const TEXTS = ["theme", "effort", "schema", "tools"];
const OBJECTS = { schema: "an object", tools: "a list" };

export class SettingsDialog {
  // `changed()` after each change.
  constructor(settings, chat, changed) {
    Object.assign(this, { settings, chat, changed });
    this.dialog = at("settings");
    at("open-settings").onclick = () => this.open();
    at("close-settings").onclick = (event) => this.#close(event);
    this.dialog.addEventListener("cancel", (event) => this.#close(event));
    this.dialog.addEventListener("click", (event) => {
      if (event.target === this.dialog) this.#close(event);
    });
    this.dialog.addEventListener("input", ({ target }) => this.#take(target));
    at("reset-settings").onclick = () => this.#reset();
    at("json").onclick = () => this.#toggleJson();
    this.#showJson();
  }

  async open(field = "system") {
    const { settings } = this;
    at("system").value = this.chat.conversation.system;
    for (const name of NUMBERS) at(name).value = settings[name] ?? "";
    for (const name of TEXTS) at(name).value = settings[name];
    at("json-mode").checked = settings.json;
    at("stop-texts").value = settings.stop.join("\n");
    for (const name of [...NUMBERS, ...Object.keys(OBJECTS)]) check(at(name));
    if (!this.dialog.open) this.dialog.showModal();
    at(field).focus();
    const { usage } = (await navigator.storage?.estimate?.()) ?? {};
    const size = usage ? `: ${mebibytes(usage)}` : "";
    at("storage").textContent = `Conversations and settings stay in this browser${size}.`;
  }

  // The model's own values, which count where nothing is set.
  placeholders(values) {
    for (const name of NUMBERS) if (values[name] !== undefined) at(name).placeholder = values[name];
  }

  #close(event) {
    const wrong = this.dialog.querySelector("[aria-invalid=true]");
    if (!wrong) return this.dialog.close();
    event.preventDefault();
    check(wrong);
    wrong.focus();
  }

  #take(field) {
    const { settings } = this;
    const { id, value, checked } = field;
    if (NUMBERS.includes(id)) settings[id] = check(field) && value.trim() ? Number(value) : null;
    else if (id in OBJECTS) settings[id] = check(field) ? value : settings[id];
    else if (TEXTS.includes(id)) settings[id] = value;
    else if (id === "json-mode") settings.json = checked;
    else if (id === "stop-texts") settings.stop = value.split("\n").filter(Boolean).slice(0, 4);
    else if (id === "system") {
      settings.system = value;
      this.chat.setSystem(value);
    }
    this.#kept();
  }

  #kept() {
    applyTheme(this.settings);
    keepSettings(this.settings);
    this.#showJson();
    this.changed();
  }

  #toggleJson() {
    const { settings } = this;
    settings.json = !settings.json;
    this.#kept();
    if (settings.json && !settings.schema.trim()) this.open("schema");
  }

  #showJson() {
    at("json").setAttribute("aria-pressed", String(this.settings.json));
  }

  #reset() {
    for (const name of NUMBERS) this.settings[name] = name === "max_tokens" ? 2048 : null;
    Object.assign(this.settings, { stop: [], effort: "" });
    this.#kept();
    this.open("temperature");
  }
}

// Says below what is wrong with a field. Returns whether nothing is.
function check(field) {
  const isJson = field.id in OBJECTS;
  const problem = isJson ? problemOfJson(field) : problemOfNumber(field);
  at(isJson ? `${field.id}-problem` : "number-problem").textContent = problem;
  field.setAttribute("aria-invalid", String(problem !== ""));
  return problem === "";
}

function problemOfJson({ id, value }) {
  try {
    const made = value.trim() ? JSON.parse(value) : OBJECTS[id] === "a list" ? [] : {};
    const kind = Array.isArray(made) ? "a list" : typeof made === "object" && made ? "an object" : "";
    return kind === OBJECTS[id] ? "" : `This must be ${OBJECTS[id]}.`;
  } catch (error) {
    return error.message;
  }
}

function problemOfNumber({ validity, min, max, step, labels }) {
  const isWhole = step === "1";
  const { badInput, rangeUnderflow, rangeOverflow, stepMismatch } = validity;
  if (!badInput && !rangeUnderflow && !rangeOverflow && !(isWhole && stepMismatch)) return "";
  const range = max ? `from ${min} to ${max}` : `of at least ${min}`;
  return `${labels[0].textContent.trim()}: a ${isWhole ? "whole " : ""}number ${range}.`;
}
