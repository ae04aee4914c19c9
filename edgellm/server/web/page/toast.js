// A word on what was done, with a way back.

import { at, element } from "/web/page/dom.js";

const SHOWN_MS = 8_000;
let timer = 0;

export function toast(text, label = "", action = null) {
  clearToast();
  const button = element("button", { type: "button", onclick: () => (clearToast(), action()) }, label);
  at("toast").append(element("p", {}, text), ...(action ? [button] : []));
  timer = setTimeout(clearToast, SHOWN_MS);
}

export function clearToast() {
  clearTimeout(timer);
  at("toast").replaceChildren();
}
