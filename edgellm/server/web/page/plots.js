// Small plots: tokens a second, measured and predicted, and the slots and queue of the last minutes.

import { at } from "/web/page/dom.js";
import { plural, rate } from "/web/page/format.js";

const { uPlot } = globalThis;
const HEIGHT = 96;
const SPAN_S = 120; // of the slots

// A canvas takes no variables of a style sheet.
function colour(name) {
  const probe = at("colour-probe");
  probe.style.color = `var(${name})`;
  return getComputedStyle(probe).color;
}

// Pixels that hold the labels beside an axis; uPlot asks before there are any, too.
const widthOf = (_, labels) => Math.max(34, ...(labels ?? []).map((label) => 12 + 6.5 * label.length));

// `series`: as uPlot has them, with the name of a colour for `stroke`.
function plot(box, data, series, { x = {}, y = {}, scales, bands }) {
  const grid = { stroke: colour("--line"), width: 1 };
  const axis = { stroke: colour("--faint"), grid, ticks: { show: false }, font: "11px system-ui, sans-serif" };
  const options = {
    width: box.clientWidth,
    height: HEIGHT,
    padding: [8, 12, 4, 0],
    legend: { show: false },
    cursor: { show: false },
    scales,
    axes: [{ ...axis, grid: { show: false }, size: 18, ...x }, { ...axis, size: widthOf, space: 26, ...y }],
    series: [{}, ...series.map((one) => ({ width: 1.5, points: { show: false }, ...one, stroke: colour(one.stroke) }))],
    bands: bands?.map((band) => ({ series: band, fill: colour("--band") })),
  };
  return new uPlot(options, data, box);
}

class Plot {
  constructor(box, make) {
    Object.assign(this, { box, make, made: null });
    new ResizeObserver(() => this.#fit()).observe(box);
    // Colours are read when a plot is made.
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.redraw());
  }

  #fit() {
    const width = this.box.clientWidth;
    if (this.made && width) this.made.setSize({ width, height: HEIGHT });
    else this.redraw();
  }

  redraw() {
    this.made?.destroy();
    this.made = null;
    if (this.data) this.draw(this.data);
  }

  draw(data) {
    this.data = data;
    if (!this.box.clientWidth) return; // not shown
    if (this.made?.data.length === data.length) this.made.setData(data);
    else {
      this.made?.destroy();
      this.made = this.make(this.box, data);
    }
  }
}

export class SpeedPlot {
  constructor() {
    const stroke = "--accent";
    this.plot = new Plot(at("speed-plot"), (box, data) => {
      const measured = { stroke, width: 2, points: { show: true, size: 5, fill: colour(stroke) } };
      const none = { stroke: "--band", width: 0 };
      const predicted = { stroke: "--second", dash: [5, 4] };
      const scales = { x: { time: false }, y: { range: (_, low, high) => [0, Math.max(1, high) * 1.15] } };
      const bands = data.length > 3 ? [[4, 3]] : [];
      return plot(box, data, [measured, predicted, none, none].slice(0, data.length - 1), { bands, scales, x: { show: false } });
    });
  }

  // `predicted`: {tok_s, low, high}, or null.
  show(answers, predicted) {
    const measured = answers.map((answer) => answer.decode_tok_s).filter((speed) => speed > 0).slice(-40);
    const last = measured.at(-1);
    const expected = predicted ? `predicted ${rate(predicted.tok_s)} (${rate(predicted.low)} to ${rate(predicted.high)})` : "not predicted";
    const told = last ? `last answer ${rate(last)} tok/s, ${expected}` : `no finished answer yet, ${expected}`;
    at("speed-told").textContent = told;
    at("speed-predicted").hidden = !predicted;
    at("speed-plot").setAttribute("aria-label", `Tokens a second of the last ${plural(measured.length, "answer")}: ${told}.`);
    const n = Math.max(measured.length, 8);
    const places = Array.from({ length: n }, (_, place) => place);
    const row = (value) => places.map(() => value);
    const speeds = places.map((place) => measured[place] ?? null);
    const rows = predicted ? [row(predicted.tok_s), row(predicted.low), row(predicted.high)] : [];
    this.plot.draw([places, speeds, ...rows]);
  }

  redraw() {
    this.plot.redraw();
  }
}

export class SlotsPlot {
  constructor() {
    this.samples = [];
    this.slots = 1;
    const paths = uPlot.paths.stepped({ align: 1 });
    this.plot = new Plot(at("slots-plot"), (box, data) =>
      plot(box, data, [{ stroke: "--accent", paths, width: 2 }, { stroke: "--wait", paths, width: 2 }], {
        scales: { x: { time: false, range: [-SPAN_S, 0] }, y: { range: (_, low, high) => [0, Math.max(this.slots, high) * 1.1] } },
        x: { splits: [-SPAN_S, -SPAN_S / 2, 0], values: (_, places) => places.map((s) => (s === 0 ? "now" : `${s} s`)) },
        y: { incrs: [1, 2, 5, 10, 20, 50, 100, 500, 1000] },
      }),
    );
  }

  show({ n_slots: slots, n_busy: busy, n_waiting: waiting }) {
    const now = performance.now() / 1000;
    this.slots = slots;
    this.samples.push([now, busy, waiting]);
    this.samples = this.samples.filter(([time]) => time > now - SPAN_S);
    const told = `${busy} of ${plural(slots, "slot")} busy, ${waiting ? plural(waiting, "request") : "nobody"} waiting`;
    at("slots-told").textContent = told;
    at("slots-plot").setAttribute("aria-label", `Slots and queue: ${told}.`);
    this.plot.draw([this.samples.map(([time]) => time - now), ...[1, 2].map((column) => this.samples.map((one) => one[column]))]);
  }

  redraw() {
    this.plot.redraw();
  }
}
