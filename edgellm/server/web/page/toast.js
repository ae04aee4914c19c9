// A word on what was done, with a way back.

import { at, element } from "/web/page/dom.js";

const SHOWN_MS = 8_000;
let timer = 0;

export function toast(text, label = "", action = null) {
  clearTimeout(timer);
  const close = () => at("toast").replaceChildren();
  const button = element("button", { type: "button", onclick: () => (close(), action()) }, label);
  at("toast").replaceChildren(element("p", {}, text), ...(action ? [button] : []));
  timer = setTimeout(close, SHOWN_MS);
}
