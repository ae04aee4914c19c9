// What else could run here, beside the choice, and what was rejected by which rule; loaded once it is unfolded.

import { at, element } from "/web/page/dom.js";
import { count, mebibytes, rate } from "/web/page/format.js";

const MOST_SHOWN = 100;

export function showRunnersUp(choice, candidates) {
  const rows = [...(choice ? [row(choice, "choice")] : []), ...candidates.map((one) => row(one))];
  at("runners-up").querySelector("tbody").replaceChildren(...rows);
}

function row(candidate, className = "") {
  const { model, quant, decode, quality } = candidate;
  return element(
    "tr",
    { className },
    element("th", { scope: "row" }, model, element("small", {}, quant)),
    element("td", {}, quality.toFixed(1)),
    element("td", {}, rate(decode.tok_s)),
    element("td", {}, mebibytes(memoryOf(candidate))),
  );
}

export function showRejected(rejections) {
  const rules = new Map();
  for (const one of rejections) {
    if (!rules.has(one.rule)) rules.set(one.rule, []);
    rules.get(one.rule).push(one);
  }
  at("rejected").querySelector("div").replaceChildren(...[...rules].map(([rule, ones]) => rejectedBy(rule, ones)));
}

function rejectedBy(rule, ones) {
  const box = element("details", {}, element("summary", {}, `${rule.replaceAll("_", " ")} (${count(ones.length)})`));
  // There can be hundreds of lines, so they are made only when the box is opened.
  box.addEventListener("toggle", () => box.append(rejectedList(ones)), { once: true });
  return box;
}

function rejectedList(ones) {
  const line = (one) => element("li", {}, `${one.model} ${one.quant}`.trim(), element("small", {}, one.reason));
  const left = ones.length - MOST_SHOWN;
  const more = left > 0 ? [element("li", {}, `and ${count(left)} more, in the plan as JSON`)] : [];
  return element("ul", {}, ...ones.slice(0, MOST_SHOWN).map(line), ...more);
}

export function brief(candidate) {
  return `${rate(candidate.decode.tok_s)} tok/s predicted, ${mebibytes(memoryOf(candidate))}, ${count(candidate.ctx)} tokens`;
}

function memoryOf({ footprint }) {
  const { compute_bytes: reserved, compute_resident_bytes: touched } = footprint;
  const others = ["weights", "repack", "kv", "output", "adapter", "process", "parent", "grammar"];
  const resident = others.reduce((sum, term) => sum + (footprint[`${term}_bytes`] ?? 0), touched ?? reserved);
  // What the system may drop at no cost counts for nothing, as in the budget.
  return resident - (footprint.reclaimable_bytes ?? 0);
}
