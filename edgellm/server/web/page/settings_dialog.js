// The dialog with the settings. Each change counts at once.

import { at } from "/web/page/dom.js";
import { mebibytes } from "/web/page/format.js";
import { applyTheme, keepSettings } from "/web/page/settings.js";

const NUMBERS = ["temperature", "top_p", "top_k", "min_p", "repetition_penalty", "presence_penalty", "max_tokens", "seed"];
const TEXTS = ["theme", "effort", "schema", "tools"];
const OBJECTS = { schema: "an object", tools: "a list" };

export class SettingsDialog {
  // `changed()` after each change.
  constructor(settings, chat, changed) {
    Object.assign(this, { settings, chat, changed });
    this.dialog = at("settings");
    at("open-settings").onclick = () => this.open();
    at("close-settings").onclick = () => this.dialog.close();
    this.dialog.addEventListener("click", (event) => {
      if (event.target === this.dialog) this.dialog.close();
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
    for (const name of Object.keys(OBJECTS)) this.#check(name);
    if (!this.dialog.open) this.dialog.showModal();
    at(field).focus();
    const { usage } = (await navigator.storage?.estimate?.()) ?? {};
    at("storage").textContent = usage ? `Conversations and settings stay in this browser: ${mebibytes(usage)}.` : "Conversations and settings stay in this browser.";
  }

  // The model's own values, which count where nothing is set.
  placeholders(values) {
    for (const name of NUMBERS) if (values[name] !== undefined) at(name).placeholder = values[name];
  }

  #take({ id, value, checked }) {
    const { settings } = this;
    if (NUMBERS.includes(id)) settings[id] = value.trim() === "" ? null : Number(value);
    else if (TEXTS.includes(id)) settings[id] = value;
    else if (id === "json-mode") settings.json = checked;
    else if (id === "stop-texts") settings.stop = value.split("\n").filter(Boolean).slice(0, 4);
    else if (id === "system") {
      settings.system = value;
      this.chat.setSystem(value);
    }
    if (id in OBJECTS) this.#check(id);
    this.#kept();
  }

  #kept() {
    applyTheme(this.settings);
    keepSettings(this.settings);
    this.#showJson();
    this.changed();
  }

  // Says under the field what is wrong with its JSON.
  #check(name) {
    const text = this.settings[name].trim();
    let problem = "";
    try {
      const value = text ? JSON.parse(text) : null;
      const fits = name === "tools" ? Array.isArray(value) : typeof value === "object" && !Array.isArray(value);
      if (value !== null && !fits) problem = `This must be ${OBJECTS[name]}.`;
    } catch (error) {
      problem = error.message;
    }
    at(`${name}-problem`).textContent = problem;
    at(name).setAttribute("aria-invalid", String(problem !== ""));
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
