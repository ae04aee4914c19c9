// The machines that answer together: what runs on each, why, and how busy it is; loaded where there are several. One that
// has several models has a line for each.

import { at, element } from "/web/page/dom.js";
import { count, mebibytes, rate } from "/web/page/format.js";

document.head.append(element("link", { rel: "stylesheet", href: "/web/page/boxes.css" }));
const list = element("ul");
at("about").append(element("section", { className: "boxes" }, element("h3", {}, "Boxes"), list));

export function showBoxes(boxes) {
  const unfolded = new Set([...list.querySelectorAll("details[open]")].map((one) => one.dataset.of));
  list.replaceChildren(...boxes.map((box) => item(box, unfolded)));
}

function item(box, unfolded) {
  const { node, service, state, model, quant, backend, reasons } = box;
  const name = [model, quant].filter(Boolean).join(" ");
  const served = name ? ` ${name} on ${backend}${service === model ? "" : ` as ${service}`}` : ` ${service}`;
  const line = element("p", {}, element("b", {}, node), served, element("small", {}, loadOf(box)));
  line.dataset.state = state;
  if (reasons.length === 0) return element("li", {}, line);
  const of = `${node} ${service}`;
  const why = element("details", { open: unfolded.has(of) }, element("summary", {}, "Why"), element("ul", {}, ...reasons.map((text) => element("li", {}, text))));
  why.dataset.of = of;
  return element("li", {}, line, why);
}

function loadOf(box) {
  const { state, reason, memory_bytes: memory, n_busy: busy, n_slots: slots, n_waiting: waiting, decode_tok_s: speed, n_answered: answered } = box;
  if (state !== "ready") return [state, reason].filter(Boolean).join(": ");
  const parts = [`${count(busy)} of ${count(slots)} busy`, `${count(waiting)} waiting`];
  if (memory) parts.unshift(mebibytes(memory));
  if (speed) parts.push(`${rate(speed)} tok/s`);
  return [...parts, `${count(answered)} answered`].join(", ");
}
