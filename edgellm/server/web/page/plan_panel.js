// What runs here and why: /edgellm/plan as facts and reasons, beside what is measured.

import { at, element } from "/web/page/dom.js";
import { count, mebibytes, megabytes, rate } from "/web/page/format.js";
import { showMemory } from "/web/page/memory_bar.js";
import { SlotsPlot, SpeedPlot } from "/web/page/plots.js";

const CHOSEN = ["model_named", "best_model", "chosen_quant"];
const SOURCES = ["source_silent", "sources_reached", "model_skipped"];

export class PlanPanel {
  constructor() {
    this.speed = new SpeedPlot();
    this.slots = new SlotsPlot();
    this.plan = null;
  }

  show(plan) {
    this.plan = plan;
    const { decision } = plan;
    at("model").textContent = plan.model;
    at("badges").replaceChildren(
      ...[plan.quant, plan.backend, plan.engine.device].filter(Boolean).map((text) => element("li", {}, text)),
    );
    document.title = `${plan.model} · EdgeLLM`;
    showWish(decision);
    at("facts").replaceChildren(...pairs(factsOf(plan)));
    showReasons(plan);
    const { choice = null, runners_up: runnersUp = [], rejected = [] } = decision ?? {};
    showFolded("runners-up", "Runners-up", runnersUp, ({ showRunnersUp }) => showRunnersUp(choice, runnersUp));
    showFolded("rejected", "Rejected", rejected, ({ showRejected }) => showRejected(rejected));
    const details = Object.entries(plan.engine).filter(([name]) => name !== "device");
    at("engine").hidden = details.length === 0;
    at("engine").querySelector("dl").replaceChildren(...pairs(details));
    at("about").hidden = false;
    showMemory(plan.memory, neededOf(plan), null);
    this.speed.show([], predictedOf(plan));
    showBoxes(plan.boxes);
  }

  measure(activity) {
    if (!this.plan) return;
    this.speed.show(activity.answers, predictedOf(this.plan));
    this.slots.show(activity);
    showMemory(this.plan.memory, neededOf(this.plan), activity.resident_bytes);
    showBoxes(activity.boxes);
  }

  redraw() {
    this.speed.redraw();
    this.slots.redraw();
  }
}

const fact = (plan, kind) => plan.reasons_facts.find((one) => one.kind === kind);
const predictedOf = (plan) => plan.decode ?? fact(plan, "speed") ?? null;
const neededOf = (plan) => fact(plan, "memory_needed") ?? fact(plan, "machine_budget") ?? {};

// What was chosen comes before how many were left at each step, and what does not answer is folded.
function showReasons({ reasons, reasons_facts: facts }) {
  const items = reasons.map((sentence, place) => ({ kind: facts[place]?.kind ?? "", item: reason(sentence) }));
  const rank = ({ kind, item }) => (CHOSEN.includes(kind) ? 0 : item.querySelector("b") ? 1 : 2);
  const [sources, others] = [true, false].map((of) => items.filter(({ kind }) => SOURCES.includes(kind) === of));
  others.sort((one, other) => rank(one) - rank(other));
  at("reasons").replaceChildren(...others.map(({ item }) => item));
  at("sources").hidden = sources.length === 0;
  at("sources").querySelector("ul").replaceChildren(...sources.map(({ item }) => item));
}

// "Slots: 4 at once" has a word in front that names what it is about.
function reason(sentence) {
  const match = /^([A-Z][\p{L} ]{2,20}): (.+)$/su.exec(sentence);
  return match ? element("li", {}, element("b", {}, match[1]), " ", match[2]) : element("li", {}, sentence);
}

function factsOf({ settings, sampling_facts: sampling, file_bytes: bytes, format, thinking, version }) {
  const rows = [
    ["Context", `${count(settings.n_ctx)} tokens`, settings.n_slots > 1 ? "for each conversation" : ""],
    ["At once", settings.n_slots === 1 ? "1 conversation; more wait" : `${settings.n_slots} conversations`],
    ["Threads", count(settings.n_threads)],
  ];
  if (thinking) rows.push(["Thinking", "before it answers"]);
  const parts = sampling?.parts ?? [];
  if (parts.length) rows.push(["Sampling", parts.map(drawnBy).join(", "), parts.map((part) => part.source || part.origin).join("; ")]);
  if (bytes) rows.push(["File", megabytes(bytes), format]);
  rows.push(["EdgeLLM", version]);
  return rows;
}

function drawnBy({ values }) {
  return Object.entries(values).map(([name, value]) => `${name.replaceAll("_", " ")} ${value}`).join(", ");
}

function pairs(rows) {
  return rows.flatMap(([name, value, small]) => [
    element("dt", {}, name),
    element("dd", {}, String(value), small ? element("small", {}, small) : null),
  ]);
}

// Where several machines answer together.
async function showBoxes(boxes) {
  if (boxes) (await import("/web/page/boxes.js")).showBoxes(boxes);
}

const others = () => import("/web/page/runners_up.js");

function showFolded(id, name, candidates, show) {
  const box = at(id);
  box.hidden = candidates.length === 0;
  box.querySelector("summary").textContent = `${name} (${count(candidates.length)})`;
  box.ontoggle = async () => box.open && show(await others());
  box.ontoggle();
}

async function showWish(decision) {
  const wish = decision?.would_choose;
  const shown = wish && (wish.model !== decision.choice?.model || wish.quant !== decision.choice?.quant);
  at("wish").hidden = !shown;
  if (!shown) return;
  const { brief } = await others();
  at("wish").textContent = `With every source reachable, ${wish.model} ${wish.quant} would run here: ${brief(wish)}.`;
}
