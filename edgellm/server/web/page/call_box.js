// A call of a tool as elements, and where its result is typed.

import { codeBlock } from "/web/page/code.js";
import { element, icon } from "/web/page/dom.js";
import { sendsByEnter } from "/web/page/keys.js";

const MOST_LEVELS = 32; // of JSON that is shown in lines
const MOST_GROWTH = 4;

// `actions`: null where the call has its result.
export function callBox(call, actions) {
  const summary = element("summary", {}, icon("tool"), "Calls ", element("code", {}, call.name));
  const box = element("details", { className: "call", open: actions !== null }, summary, codeBlock(indented(call.arguments), "json", { complete: true }).box);
  if (!actions) return box;
  const result = element("textarea", { rows: 2, dir: "auto", placeholder: "What the tool answers", "aria-label": `Result of ${call.name}` });
  const form = element("form", { className: "edit" }, result, element("div", { className: "row" }, element("button", { type: "submit" }, "Send result")));
  form.onsubmit = (event) => {
    event.preventDefault();
    actions.answerCall(call, result.value);
  };
  sendsByEnter(result);
  box.append(form);
  return box;
}

// JSON in lines, where that makes it little longer: blanks grow with the square of the depth.
function indented(text) {
  if (depth(text) > MOST_LEVELS) return text;
  try {
    const lines = JSON.stringify(JSON.parse(text), null, 2);
    return lines.length <= MOST_GROWTH * text.length + 1_000 ? lines : text;
  } catch {
    return text;
  }
}

// Brackets in texts count, too.
function depth(text) {
  let open = 0;
  let deepest = 0;
  for (const [bracket] of text.matchAll(/[[\]{}]/g)) {
    open += bracket === "[" || bracket === "{" ? 1 : -1;
    deepest = Math.max(deepest, open);
  }
  return deepest;
}
