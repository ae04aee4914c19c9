// Where a message is written: text, attached files, send and stop.

import { at, element, icon, iconButton } from "/web/page/dom.js";
import { count } from "/web/page/format.js";
import { sendsByEnter } from "/web/page/keys.js";

const MOST_FILES = 16;
const MAX_FILE_BYTES = 512 * 1024;

export class Composer {
  // `send(text, files)`; `problem(error)`.
  constructor({ send, stop, problem }) {
    Object.assign(this, { send, problem });
    this.files = [];
    this.busy = false;
    this.ready = false;
    this.wanted = false; // to be sent as soon as the page is ready
    this.text = at("text");
    this.text.addEventListener("input", () => (this.wanted = false));
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
    this.wanted = !this.ready;
    if (this.wanted) return;
    const files = this.files;
    this.text.value = "";
    this.files = [];
    this.#showFiles();
    this.send(text, files);
  }

  async attach(files) {
    for (const file of files) {
      try {
        if (this.files.length >= MOST_FILES) throw new Error(`at most ${MOST_FILES} files go with a message`);
        this.files.push({ name: file.name.slice(0, 200), text: await readText(file) });
      } catch (error) {
        this.problem(new Error(`${file.name.slice(0, 200)} is not attached: ${error.message}.`));
      }
    }
    this.#showFiles();
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

  #showFiles() {
    at("files").replaceChildren(
      ...this.files.map((file) => {
        const remove = iconButton("close", `Remove ${file.name}`, () => {
          this.files = this.files.filter((other) => other !== file);
          this.#showFiles();
          this.text.focus();
        });
        const size = element("small", {}, `${count(file.text.length)} characters`);
        return element("li", {}, icon("file"), element("bdi", {}, file.name), size, remove);
      }),
    );
    at("files").hidden = this.files.length === 0;
  }
}

async function readText(file) {
  if (file.size > MAX_FILE_BYTES) throw new Error(`it has more than ${MAX_FILE_BYTES / 1024} KiB`);
  try {
    const text = new TextDecoder("utf-8", { fatal: true }).decode(await file.arrayBuffer());
    if (!text.includes("\0")) return text;
  } catch {
    // Told below.
  }
  throw new Error("it is not text in UTF-8");
}
