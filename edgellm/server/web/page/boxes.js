// The machines that answer together: what runs on each, why, and how busy it is; loaded where there are several.

import { at, element } from "/web/page/dom.js";
import { count, rate } from "/web/page/format.js";

document.head.append(element("link", { rel: "stylesheet", href: "/web/page/boxes.css" }));
const list = element("ul");
at("about").append(element("section", { className: "boxes" }, element("h3", {}, "Boxes"), list));

export function showBoxes(boxes) {
  const unfolded = new Set([...list.querySelectorAll("details[open]")].map((one) => one.dataset.node));
  list.replaceChildren(...boxes.map((box) => item(box, unfolded.has(box.node))));
}

function item(box, open) {
  const { node, state, model, quant, backend, reasons } = box;
  const name = [model, quant].filter(Boolean).join(" ");
  const line = element("p", {}, element("b", {}, node), name ? ` ${name} on ${backend}` : null, element("small", {}, loadOf(box)));
  line.dataset.state = state;
  if (reasons.length === 0) return element("li", {}, line);
  const why = element("details", { open }, element("summary", {}, "Why"), element("ul", {}, ...reasons.map((text) => element("li", {}, text))));
  why.dataset.node = node;
  return element("li", {}, line, why);
}

function loadOf({ state, reason, n_busy: busy, n_slots: slots, n_waiting: waiting, decode_tok_s: speed, n_answered: answered }) {
  if (state !== "ready") return [state, reason].filter(Boolean).join(": ");
  const parts = [`${count(busy)} of ${count(slots)} busy`, `${count(waiting)} waiting`];
  if (speed) parts.push(`${rate(speed)} tok/s`);
  return [...parts, `${count(answered)} answered`].join(", ");
}
