// Memory by what takes it, against the budget.

import { at, element } from "/web/page/dom.js";
import { mebibytes } from "/web/page/format.js";

const TERMS = {
  Weights: ["weights", "repack"],
  Context: ["kv"],
  Computing: ["compute", "output", "adapter", "grammar"],
  Programs: ["process", "parent"],
};

// `memory`: of the plan, as computed; then what of it counts against a budget, where that is known; `now`: resident
// bytes of the model's process, or null.
export function showMemory(memory, { needed_bytes: counted, budget_bytes: budget }, now) {
  at("memory").hidden = memory === null;
  if (memory === null) return;
  const parts = Object.entries(TERMS).map(([name, terms]) => [name, terms.reduce((sum, term) => sum + bytesOf(memory, term), 0)]);
  const total = parts.reduce((sum, [, bytes]) => sum + bytes, 0) || 1;
  at("memory-parts").replaceChildren(...parts.map(([, bytes], place) => bar(`part-${place}`, bytes / total)));
  at("memory-key").replaceChildren(
    ...parts.map(([name, bytes], place) => element("li", { className: `part-${place}` }, `${name} `, element("b", {}, mebibytes(bytes)))),
  );
  const needed = memory.resident_bytes - memory.reclaimable_bytes;
  const told = [`${memory.exact ? "computed" : "predicted"} ${mebibytes(memory.resident_bytes)}`];
  if (memory.reclaimable_bytes) told.push(`${mebibytes(needed)} of them must stay`);
  if (counted > needed) told.push(`with a margin ${mebibytes(counted)} are counted`);
  if (budget) told.push(`budget ${mebibytes(budget)}`);
  if (now) told.push(`the model's process has ${mebibytes(now)} now`);
  at("memory-told").textContent = told.join("; ");
  at("budget").hidden = !budget;
  if (budget) at("budget").replaceChildren(bar("needed", needed / budget), ...(now ? [tick(now / budget)] : []));
}

function bytesOf(memory, term) {
  if (term === "compute") return memory.compute_resident_bytes ?? memory.compute_bytes;
  return memory[`${term}_bytes`] ?? 0;
}

function bar(className, share) {
  const made = element("span", { className });
  made.style.width = `${100 * Math.min(1, share)}%`;
  return made;
}

function tick(share) {
  const made = element("i");
  made.style.insetInlineStart = `${100 * Math.min(1, share)}%`;
  return made;
}
