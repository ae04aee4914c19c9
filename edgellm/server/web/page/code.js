// Code with its language, a button that copies it, and colours once it is complete.

import { copied } from "/web/page/clipboard.js";
import { coloured } from "/web/page/colours.js";
import { element } from "/web/page/dom.js";

const LINES_A_PART = 64;

// {box, append(text), complete()}; the box is shown at once, and text may be appended until it is complete.
export function codeBlock(text, language, { complete = false } = {}) {
  const code = element("code");
  const parts = new Parts(code);
  const copy = element("button", { type: "button", className: "quiet copy" }, "Copy");
  copy.onclick = () => copied(code.textContent, copy);
  const name = language.slice(0, 40);
  const box = element(
    "div",
    { className: "code", dir: "ltr" },
    element("div", { className: "code-head" }, element("span", {}, name), copy),
    element("pre", { tabIndex: 0, role: "region", "aria-label": name ? `Code, ${name}` : "Code" }, code),
  );
  const block = {
    box,
    append: (more) => parts.append(more),
    complete() {
      parts.end();
      colour(code, language);
    },
  };
  block.append(text);
  if (complete) block.complete();
  return block;
}

// Text in parts of some lines: what was laid out stays as it is while more comes.
class Parts {
  constructor(code) {
    this.code = code;
    this.lines = 0;
    this.#begin();
  }

  append(text) {
    for (const line of text.split(/(?<=\n)/)) {
      if (this.lines >= LINES_A_PART) this.#begin();
      this.text.appendData(line);
      if (line.endsWith("\n")) this.lines += 1;
    }
  }

  // The line end before the closing fence is none of the code.
  end() {
    if (this.text.data.endsWith("\n")) this.text.deleteData(this.text.length - 1, 1);
  }

  #begin() {
    this.lines = 0;
    this.text = document.createTextNode("");
    this.code.append(element("span", { className: "part" }, this.text));
  }
}

async function colour(code, language) {
  const fragment = await coloured(code.textContent, language);
  if (fragment) code.replaceChildren(fragment);
}
