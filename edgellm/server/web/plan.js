// What runs here and why: /edgellm/plan as a list of facts, reasons, runners-up and rejections.

const at = (id) => document.getElementById(id);
const MOST_SHOWN = 100;

export function showPlan(plan) {
  const title = at("model");
  title.textContent = plan.model;
  if (plan.quant) title.append(element("span", plan.quant));
  document.title = `${plan.model} · EdgeLLM`;
  showWish(plan.decision);
  at("facts").replaceChildren(...facts(plan).flatMap(([name, value, small]) => [
    element("dt", name),
    element("dd", value, small),
  ]));
  at("reasons").replaceChildren(...plan.reasons.map((reason) => element("li", reason)));
  showRunnersUp(plan.decision?.runners_up ?? []);
  showRejected(plan.decision?.rejected ?? []);
  showEngine(plan.engine);
}

function facts(plan) {
  const { settings, memory, decode } = plan;
  const found = [["Backend", plan.backend, plan.engine.device ? `on ${plan.engine.device}` : ""]];
  found.push(["Context", `${count(settings.n_ctx)} tokens`, settings.n_slots > 1 ? "for each conversation" : ""]);
  found.push(["At once", settings.n_slots === 1 ? "1 conversation; more wait" : `${settings.n_slots} conversations`, ""]);
  found.push(["Threads", count(settings.n_threads), ""]);
  const rows = plan.sampling_facts?.parts ?? [];
  if (rows.length) found.push(["Sampling", rows.map(drawnBy).join(", "), rows.map((row) => row.source || row.origin).join("; ")]);
  if (memory) found.push(["Memory", mebibytes(memory.resident_bytes), memory.exact ? "computed" : "predicted"]);
  if (decode) {
    const range = `${rate(decode.low)} to ${rate(decode.high)}; ${decode.basis}`;
    found.push(["Speed", `${rate(decode.tok_s)} tok/s`, range]);
  }
  if (plan.file_bytes) found.push(["File", `${(plan.file_bytes / 1e6).toFixed(1)} MB`, plan.format]);
  return found;
}

function drawnBy({ values }) {
  return Object.entries(values).map(([name, value]) => `${name.replaceAll("_", " ")} ${value}`).join(", ");
}

function showWish(decision) {
  const wish = decision?.would_choose;
  const shown = wish && (wish.model !== decision.choice?.model || wish.quant !== decision.choice?.quant);
  at("wish").hidden = !shown;
  if (shown) {
    at("wish").textContent = `With every source reachable, ${wish.model} ${wish.quant} would run here: ${brief(wish)}.`;
  }
}

function showRunnersUp(candidates) {
  const box = at("runners-up");
  box.hidden = candidates.length === 0;
  box.querySelector("summary").textContent = `Runners-up (${candidates.length})`;
  box.querySelector("ul").replaceChildren(
    ...candidates.map((candidate) => element("li", `${candidate.model} ${candidate.quant}`, brief(candidate))),
  );
}

function showEngine(engine) {
  const details = Object.entries(engine).filter(([name]) => name !== "device");
  at("engine").hidden = details.length === 0;
  at("engine").querySelector("dl").replaceChildren(
    ...details.flatMap(([name, value]) => [element("dt", name), element("dd", value)]),
  );
}

function showRejected(rejections) {
  const box = at("rejected");
  box.hidden = rejections.length === 0;
  box.querySelector("summary").textContent = `Rejected (${count(rejections.length)})`;
  const rules = Map.groupBy ? Map.groupBy(rejections, (one) => one.rule) : groupBy(rejections);
  box.querySelector("div").replaceChildren(...[...rules].map(([rule, ones]) => rejectedBy(rule, ones)));
}

function rejectedBy(rule, ones) {
  const box = document.createElement("details");
  box.append(element("summary", `${rule.replaceAll("_", " ")} (${count(ones.length)})`));
  // There can be hundreds of lines, so they are made only when the box is opened.
  box.addEventListener("toggle", () => box.append(rejectedList(ones)), { once: true });
  return box;
}

function rejectedList(ones) {
  const list = document.createElement("ul");
  list.append(...ones.slice(0, MOST_SHOWN).map((one) => element("li", `${one.model} ${one.quant}`.trim(), one.reason)));
  const left = ones.length - MOST_SHOWN;
  if (left > 0) list.append(element("li", `and ${count(left)} more, in the plan as JSON`));
  return list;
}

function groupBy(rejections) {
  const rules = new Map();
  for (const one of rejections) rules.set(one.rule, [...(rules.get(one.rule) ?? []), one]);
  return rules;
}

function brief({ decode, footprint, ctx }) {
  const { compute_bytes: reserved, compute_resident_bytes: touched } = footprint;
  const others = ["weights", "repack", "kv", "output", "adapter", "process", "parent"];
  const resident = others.reduce((sum, term) => sum + (footprint[`${term}_bytes`] ?? 0), touched ?? reserved);
  // What the system may drop at no cost counts for nothing, as in the budget.
  const memory = resident - (footprint.reclaimable_bytes ?? 0);
  return `${rate(decode.tok_s)} tok/s predicted, ${mebibytes(memory)}, ${count(ctx)} tokens`;
}

function element(name, text, small = "") {
  const made = document.createElement(name);
  made.textContent = text;
  if (small) made.append(Object.assign(document.createElement("small"), { textContent: small }));
  return made;
}

const count = (n) => n.toLocaleString("en");
const rate = (n) => (n < 10 ? n.toFixed(1) : n.toFixed(0));
const mebibytes = (n) => (n >= 2 ** 30 ? `${(n / 2 ** 30).toFixed(2)} GiB` : `${(n / 2 ** 20).toFixed(0)} MiB`);
