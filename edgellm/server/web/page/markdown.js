// Markdown as elements. The text is the model's and hostile: HTML in it is shown as text, only http(s) links become
// links, images become links, and DOMPurify has the last word, with a list of what may be there.

import { Lexer, Marked } from "/web/vendor/marked.esm.js";
import { codeBlock } from "/web/page/code.js";
import { element } from "/web/page/dom.js";
import { purified } from "/web/page/purify.js";

const marked = new Marked({
  renderer: {
    html: ({ text }) => escape(text),
    link({ href, tokens, text }) {
      return linked(href, this.parser.parseInline(tokens), text);
    },
    image: ({ href, text }) => linked(href, escape(text || "image"), text),
    checkbox: ({ checked }) => (checked ? "☑ " : "☐ "),
  },
});

// The address is shown whole where the text is not it, or has letters that only look so.
function linked(href, inner, text) {
  const address = webAddress(href);
  if (!address) return `${inner} (${escape(href)})`;
  const link = `<a href="${escape(address)}">${inner}</a>`;
  return (text === href && /^[!-~]+$/.test(text)) || text === address ? link : `${link} <span class="address">${escape(address)}</span>`;
}

function webAddress(href) {
  try {
    const url = new URL(href);
    return ["http:", "https:"].includes(url.protocol) ? url.href : null;
  } catch {
    return null;
  }
}

const ESCAPES = { "&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&quot;", "'": "&#39;" };
const escape = (text) => text.replace(/[&<>"']/g, (character) => ESCAPES[character]);

// What becomes a link by itself, and the text before it. marked's rules, also for mail addresses, take time with the
// square of a run without blanks.
const ADDRESS = /^(https?:\/\/|www\.)[a-z\d-](?:[^\s<]*(?:[^\s<?!.,:;*_'"~()&]|(?<=\([^\s<()]*)\))(?!(?<=&[a-z\d]{0,9})[a-z\d]{0,9};))?/i;
const TEXT = /^(`+|~+|[^`~])(?:(?=[`~]| {2,}\n)|[^]*?(?:(?=[\\<!\[`*~_]|https?:\/\/|(?<![^\s*_~(])www\.|$)|[^ ](?= {2,}\n)))/i;

// What is deeper or longer in a list or a quotation is text: the parser's time grows with the square of both.
const MOST_LEVELS = 20;
const MOST_LINES = 500;

class BoundedLexer extends Lexer {
  level = 0;

  blockTokens(source, tokens = [], ...rest) {
    if (this.level > MOST_LEVELS || (this.level > 0 && source.split("\n", MOST_LINES + 1).length > MOST_LINES)) {
      tokens.push({ type: "text", raw: source, text: source });
      return tokens;
    }
    this.level += 1;
    try {
      return super.blockTokens(source, tokens, ...rest);
    } finally {
      this.level -= 1;
    }
  }
}

// The blocks of a text. `links`, as theirs, are reference links, which later blocks may use.
export function blocks(text, links = {}) {
  const lexer = new BoundedLexer(marked.defaults);
  Object.assign(lexer.tokens.links, links);
  const { rules } = lexer.tokenizer;
  rules.inline = { ...rules.inline, url: ADDRESS, text: TEXT, _backpedal: /.+/ };
  return lexer.lex(text);
}

// The elements of some blocks.
export function rendered(tokens, { complete = true } = {}) {
  const fragment = purified(marked.parser(tokens));
  for (const block of fragment.children) block.dir = "auto";
  for (const link of fragment.querySelectorAll("a")) {
    // What has no address after DOMPurify is no link.
    if (link.href) Object.assign(link, { target: "_blank", rel: "noopener noreferrer" });
  }
  for (const table of fragment.querySelectorAll("table")) {
    const scroller = element("div", { className: "table", tabIndex: 0, role: "region", "aria-label": "Table" });
    table.replaceWith(scroller);
    scroller.append(table);
  }
  for (const code of fragment.querySelectorAll("pre > code")) {
    const language = /^language-(.+)$/.exec(code.className)?.[1] ?? "";
    code.parentElement.replaceWith(codeBlock(code.textContent, language, { complete }).box);
  }
  return fragment;
}

// As it stands, where it cannot be read as markdown.
export function plain(text) {
  return element("p", { className: "plain", dir: "auto" }, text);
}
