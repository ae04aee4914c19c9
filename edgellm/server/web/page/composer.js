// Where a message is written: text, attached files, send and stop.

import { at } from "/web/page/dom.js";
import { sendsByEnter } from "/web/page/keys.js";

const HELD = "It is sent as soon as the model can answer. Change it to hold it back.";

export class Composer {
  // `send(text, files)`; `problem(error)`.
  constructor({ send, stop, problem }) {
    Object.assign(this, { send, problem });
    this.files = [];
    this.busy = false;
    this.ready = false;
    this.wanted = false; // to be sent as soon as the page is ready
    this.text = at("text");
    this.text.addEventListener("input", () => this.#hold(false));
    at("composer").addEventListener("submit", (event) => {
      event.preventDefault();
      this.submit();
    });
    sendsByEnter(this.text);
    at("stop").onclick = () => {
      stop();
      this.text.focus();
    };
    at("attach").onclick = () => at("file").click();
    at("file").onchange = async ({ target }) => {
      await this.attach(target.files);
      target.value = "";
    };
    this.#dropping(at("chat"));
  }

  set({ busy, ready }) {
    Object.assign(this, { busy, ready });
    at("send").hidden = busy;
    at("stop").hidden = !busy;
    at("send").disabled = !ready;
    if (this.wanted && ready) this.submit();
  }

  write(text) {
    this.text.value = text;
    this.text.focus();
  }

  submit() {
    const text = this.text.value;
    if ((!text.trim() && !this.files.length) || this.busy) return;
    this.#hold(!this.ready);
    if (this.wanted) return;
    const files = this.files;
    this.text.value = "";
    this.files = [];
    at("files").replaceChildren();
    at("files").hidden = true;
    this.send(text, files);
  }

  #hold(wanted) {
    this.wanted = wanted;
    at("held").textContent = wanted ? HELD : "";
  }

  async attach(files) {
    try {
      const { readFiles, showFiles } = await import("/web/page/attached.js");
      const read = await readFiles(files, this.files, this.problem);
      this.files.push(...read); // of the message at hand: another may have been sent meanwhile
      showFiles(at("files"), this.files, () => this.text.focus());
    } catch (error) {
      this.problem(error);
    }
    this.text.focus();
  }

  #dropping(zone) {
    const over = (event, inside) => {
      if (!event.dataTransfer?.types.includes("Files")) return;
      event.preventDefault();
      zone.classList.toggle("dropping", inside);
    };
    zone.addEventListener("dragover", (event) => over(event, true));
    zone.addEventListener("dragleave", (event) => over(event, false));
    zone.addEventListener("drop", (event) => {
      over(event, false);
      if (event.dataTransfer?.files.length) this.attach(event.dataTransfer.files);
    });
  }
}
