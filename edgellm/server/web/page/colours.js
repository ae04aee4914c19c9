// Colours of code. highlight.js and each of its languages are loaded when the first code needs them.

import { element } from "/web/page/dom.js";
import { purified } from "/web/page/purify.js";

const FOLDER = "/web/vendor/highlight";
const LANGUAGES = ["bash", "cpp", "diff", "go", "java", "javascript", "json", "python", "rust", "sql", "xml", "yaml"];
const ALIASES = {
  "c++": "cpp", c: "cpp", console: "bash", golang: "go", h: "cpp", html: "xml", js: "javascript", jsonc: "json",
  jsx: "javascript", patch: "diff", py: "python", rs: "rust", sh: "bash", shell: "bash", svg: "xml", ts: "javascript",
  tsx: "javascript", typescript: "javascript", yml: "yaml", zsh: "bash",
};
// A grammar's patterns take their time on long lines, and the code is the model's.
const MOST_COLOURED = 6_000; // characters
let sheet = null;

// A fragment; null where there are no colours for it.
export async function coloured(text, label) {
  const name = label.toLowerCase();
  const language = Object.hasOwn(ALIASES, name) ? ALIASES[name] : name;
  if (!LANGUAGES.includes(language) || text.length > MOST_COLOURED) return null;
  try {
    const { default: hljs } = await import(`${FOLDER}/core.min.js`);
    sheet ??= document.head.appendChild(element("link", { rel: "stylesheet", href: "/web/page/code.css" }));
    if (!hljs.getLanguage(language)) {
      hljs.registerLanguage(language, (await import(`${FOLDER}/${language}.min.js`)).default);
    }
    return purified(hljs.highlight(text, { language, ignoreIllegals: true }).value);
  } catch {
    return null; // the server went away
  }
}
