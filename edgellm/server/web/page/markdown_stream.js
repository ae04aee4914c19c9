// Markdown that grows. Blocks that are complete are rendered once; only the last is rendered again, as often as leaves
// most of the time to others, and code that is not closed grows by its new text alone.

import { codeBlock } from "/web/page/code.js";
import { blocks, plain, rendered } from "/web/page/markdown.js";

// A block that is longer than this is rendered in parts, and once more as a whole at the end.
const MAX_BLOCK = 4_096;
const PAUSE = 4; // times as long as the last rendering took
// A longer text is never rendered as a whole: a parser's time may grow faster than it.
const MAX_WHOLE = 32_768;
const MOST_MS = 100;
// In a paragraph: signs of emphasis, code and rules, and lines as below a table's head.
const MOST_SIGNS = [[/[*_~]/, 2_000], [/`/, 2_000], [/-\s+-/, 500], [/^[:| ]*-[-:| ]*$/m, 50]];
const OPEN_FENCE = /^ {0,3}(`{3,}|~{3,})[ \t]*([^\s`]*)[^`\n]*\n/;
const MAY_CLOSE = /^ {0,3}[`~]*[ \t]*$/;

export class MarkdownStream {
  constructor(box) {
    this.box = box;
    box.stream = this;
    this.source = ""; // of the last block
    this.last = []; // its nodes
    this.links = {};
    this.fence = null; // {block, closing, inLine} while code is open
    this.cut = false;
    this.waits = false;
    this.tookMs = 0;
  }

  append(text) {
    this.source += text.replaceAll("\r", "");
    if (this.waits) return;
    this.waits = true;
    setTimeout(() => requestAnimationFrame(() => this.#renderNow()), PAUSE * this.tookMs);
  }

  #renderNow() {
    this.waits = false;
    const began = performance.now();
    this.render();
    this.tookMs = performance.now() - began;
  }

  // `whole`: all that was appended.
  finish(whole) {
    this.render({ complete: true });
    if (this.cut && whole.length <= MAX_WHOLE) renderWhole(this.box, whole);
  }

  render({ complete = false } = {}) {
    if (this.fence) this.#extendCode(complete);
    if (this.fence || !this.source) return;
    if (isAllSigns(this.source)) {
      this.#keep(this.source.length, plain(this.source));
      return;
    }
    try {
      this.#renderBlocks(complete);
    } catch {
      // Nested deeper than the parser goes.
      this.#keep(this.source.length, plain(this.source));
    }
  }

  #renderBlocks(complete) {
    const tokens = blocks(this.source, this.links);
    this.links = tokens.links;
    const open = complete ? tokens.length : openBlock(tokens);
    if (open > 0) {
      const done = tokens.slice(0, open);
      this.#keep(done.reduce((length, token) => length + token.raw.length, 0), rendered(done));
    }
    if (complete || this.#openCode(tokens[open])) return;
    if (this.source.length > MAX_BLOCK) {
      const end = this.source.lastIndexOf("\n") + 1 || this.source.length;
      // The rest of a table is one only below its head.
      const [head] = tokens[open].type === "table" ? /^.*\n.*\n/.exec(this.source) : [""];
      this.cut = true;
      this.#keep(end, rendered(blocks(this.source.slice(0, end), this.links)));
      this.source = head + this.source;
    } else {
      this.#replaceLast(rendered(tokens.slice(open), { complete: false }));
    }
  }

  // Whether the last block is code whose end is yet to come.
  #openCode(token) {
    const head = token?.type === "code" ? OPEN_FENCE.exec(this.source) : null;
    if (!head) return false;
    const block = codeBlock("", head[2]);
    this.#keep(head[0].length, block.box);
    const [character] = head[1];
    this.fence = { block, closing: new RegExp(`^ {0,3}${character}{${head[1].length},}[ \\t]*$`), inLine: false };
    this.#extendCode(false);
    return true;
  }

  // `source` holds what is not yet in the code.
  #extendCode(complete) {
    const { block, closing, inLine } = this.fence;
    const lines = this.source.split("\n");
    const closes = (line, number) => closing.test(line) && !(inLine && number === 0);
    const end = lines.findIndex((line, number) => closes(line, number) && (complete || number < lines.length - 1));
    if (end >= 0) {
      block.append(lines.slice(0, end).map((line) => `${line}\n`).join(""));
      this.source = lines.slice(end + 1).join("\n");
    } else {
      const last = lines.at(-1);
      const held = !complete && MAY_CLOSE.test(last) && !(inLine && lines.length === 1) ? last : "";
      block.append(this.source.slice(0, this.source.length - held.length));
      this.fence.inLine = !held && last !== "";
      this.source = held;
    }
    if (end < 0 && !complete) return;
    block.complete();
    this.fence = null;
  }

  #replaceLast(made) {
    const nodes = made instanceof DocumentFragment ? [...made.childNodes] : [made];
    for (const node of this.last) node.remove();
    this.box.append(...nodes);
    this.last = nodes;
  }

  // So much of the source is rendered for good.
  #keep(length, made) {
    this.#replaceLast(made);
    this.source = this.source.slice(length);
    this.last = [];
  }
}

// The place of the last block, which more text may change. The beginning of "2. " looks like a paragraph after a list.
function openBlock(tokens) {
  const filled = tokens.flatMap((token, place) => (token.type === "space" ? [] : [place]));
  const last = filled.at(-1) ?? 0;
  return filled.length > 1 && tokens[last].raw.length < 4 ? filled.at(-2) : last;
}

function isAllSigns(text) {
  const many = (part) => MOST_SIGNS.some(([signs, most]) => part.split(signs).length > most);
  return text.split(/\n\s*\n/).some(many);
}

let spentMs = 0; // since the browser last had the thread

// Gives the thread back where it takes long, and calls `grew`. Ends where the box is gone or taken.
export async function renderWhole(box, text, grew) {
  const stream = new MarkdownStream(box);
  box.ariaBusy = true;
  for (let start = 0; start <= text.length; start += MAX_WHOLE) {
    if (spentMs > MOST_MS) {
      await new Promise((next) => setTimeout(next));
      spentMs = 0;
      if (!box.isConnected || box.stream !== stream) break;
      grew?.();
    }
    const began = performance.now();
    if (!start) box.replaceChildren();
    stream.source += text.slice(start, start + MAX_WHOLE).replaceAll("\r", "");
    stream.render({ complete: start + MAX_WHOLE > text.length });
    spentMs += performance.now() - began;
  }
  box.ariaBusy = null;
}
