"""How far predicted speeds of GPUs are from published ones, each device left out of the fit (`make bench-speed-gpu`).

    python benchmarks/speed_gpu.py [--worst 20] [--write]

Two other ways to predict are scored on the same rows: bandwidth over bytes (a roofline), and llmfit's formula. Nothing
is measured here and no GPU is used: `tests/estimate/published_gpu.json` has the rows and their sources. `--write` fits
all rows and writes `edgellm/estimate/gpu_constants.json`.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Callable, Iterator, Sequence
from datetime import date
from pathlib import Path

import msgspec
import numpy as np
from gpu_fit import System
from gpu_priors import BANDS, PRIORS

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests"))

from gpu_bands import ClassBand, class_band, short  # noqa: E402
from support.published_gpu import Row, by_device, rows  # noqa: E402

from edgellm.estimate import gpu_speed, gpu_terms  # noqa: E402
from edgellm.estimate.gpu_constants import GpuConstants, constants  # noqa: E402
from edgellm.estimate.gpu_terms import TimeTerm  # noqa: E402
from edgellm.types.plan import Rate  # noqa: E402

TARGET = ROOT / "edgellm" / "estimate" / "gpu_constants.json"
NO_FLASH = "answer/no-flash"
_UNTRUSTED, _OLD = 0.35, 0.5  # weight of rows that others reported of themselves, and of kernels that were replaced
_BYTES = {"F16": 2.0, "BF16": 2.0, "Q8": 1.05, "Q6": 0.8, "Q5": 0.68, "Q4": 0.58, "MXFP4": 0.58, "Q3": 0.48, "IQ": 0.37}
_MOBILE = ("qualcomm", "arm", "broadcom")
# Libraries whose kernels for prompts were replaced since 2024: rows of older builds are set aside. Metal's rows of 2023
# and of 2026 agree, and of phones there are no others.
_REPLACED = ("cuda", "rocm", "vulkan")


class Task:
    """Decode or prefill: which rows, what their terms are, and what was measured."""

    def __init__(self, name: str, known: GpuConstants) -> None:
        self.name, self.known = name, known
        usable = [row for row in rows() if self._usable(row)]
        self.rows = [row for row in usable if not row.held]
        self.held = [row for row in usable if row.held]

    def _usable(self, row: Row) -> bool:
        cell = self.known.decode_cell if self.name == "decode" else self.known.prefill_cell
        if self.name == "prefill" and row.old and row.api in _REPLACED:
            return False
        return row.whole and self.measured(row) is not None and cell(row.gpu, row.api) is not None

    def devices(self, cell: str | None) -> set[str]:
        """Whose prompts make the constants of `cell`."""
        return {row.gpu.name for row in self.rows if self.known.prefill_cell(row.gpu, row.api) == cell}

    def measured(self, row: Row) -> float | None:
        return row.decode if self.name == "decode" else row.prefill if row.tokens else None

    def superseded(self) -> set[tuple[str, str, str]]:
        """Device, library and build of which another build ran the same file more than twice as fast: others have
        kernels that it has not. Such rows make constants and bands; a line without them is told beside."""
        fastest: dict[object, float] = {}
        same = [((row.gpu.name, row.api, row.model, row.quant, row.depth, row.prompt_depth), row) for row in self.rows]
        for key, row in same:
            if row.trusted:
                fastest[key] = max(fastest.get(key, 0.0), self.measured(row) or 0.0)
        return {
            (row.gpu.name, row.api, row.build)
            for key, row in same
            if row.trusted and fastest[key] > 2 * (self.measured(row) or 0.0)
        }

    def terms(self, row: Row) -> tuple[TimeTerm, ...]:
        if self.name == "decode":
            cell = self.known.decode_cell(row.gpu, row.api) or ""
            terms = gpu_terms.decode(row.gpu, row.api, cell, row.shape, row.weights, depth=row.depth)
        else:
            cell = self.known.prefill_cell(row.gpu, row.api) or ""
            terms = gpu_terms.prefill(
                row.gpu, row.api, cell, row.shape, row.weights,
                tokens=row.tokens or 512, ubatch=row.ubatch, depth=row.prompt_depth,
            )  # fmt: skip
        slower = tuple(self._slower(row))
        return tuple(msgspec.structs.replace(term, times=(*term.times, *slower)) for term in terms)

    def _slower(self, row: Row) -> Iterator[str]:
        """What makes a row slower and does not belong to its GPU; predictions are without it."""
        if not row.trusted:
            yield "answer/whole"  # rates of whole requests count the time to the first token, too
        if row.old and self.name == "prefill":
            yield "answer/old-build"
        if row.flash is False and self.name == "prefill":
            yield NO_FLASH

    def predict(self, row: Row, known: GpuConstants) -> Rate:
        if self.name == "decode":
            rate = gpu_speed.decode(row.gpu, row.api, row.shape, row.weights, depth=row.depth, known=known)
        else:
            rate = gpu_speed.prefill(
                row.gpu, row.api, row.shape, row.weights,
                tokens=row.tokens or 512, ubatch=row.ubatch, depth=row.prompt_depth, known=known,
            )  # fmt: skip
        assert rate is not None
        if row.flash is False and self.name == "prefill":  # a setting of that run, not what is predicted
            slower = known.values.get(NO_FLASH, PRIORS[NO_FLASH].value)
            return msgspec.structs.replace(
                rate, tok_s=rate.tok_s / slower, low=rate.low / slower, high=rate.high / slower
            )
        return rate

    def fit(self, these: Sequence[Row], start: np.ndarray | None = None) -> tuple[System, np.ndarray]:
        wanted = {name for row in self.rows for name in gpu_terms.names(self.terms(row))}
        system = System([self.terms(row) for row in these], {name: PRIORS[name] for name in sorted(wanted)})
        counts = {name: len(group) for name, group in by_device(these).items()}
        weight = [
            counts[row.gpu.name] ** -0.5 * (1 if row.trusted else _UNTRUSTED) * (_OLD if row.old else 1)
            for row in these
        ]
        times = np.array([-math.log(self.measured(row) or 1) for row in these])
        return system, system.fit(times, np.array(weight), start)

    def left_out(self) -> tuple[list[Rate], dict[str, float]]:
        """Predictions without the row's device, in the order of `rows`; and the constants of all rows."""
        system, logs = self.fit(self.rows)
        predicted: dict[int, Rate] = {}
        for device in by_device(self.rows):
            rest = [row for row in self.rows if row.gpu.name != device]
            known = _with(self.known, values=dict(zip(*_values(*self.fit(rest, logs)), strict=True)))
            for place, row in enumerate(self.rows):
                if row.gpu.name == device:
                    predicted[place] = self.predict(row, known)
        return [predicted[place] for place in range(len(self.rows))], system.values(logs)

    def off(self, rates: Sequence[Rate]) -> np.ndarray:
        """Logarithm of measured over predicted."""
        return np.array(
            [math.log((self.measured(row) or 1) / rate.tok_s) for row, rate in zip(self.rows, rates, strict=True)]
        )

    def classes(self, values: dict[str, float], these: Sequence[Row] | None = None) -> list[str]:
        names = []
        for row in self.rows if these is None else these:
            terms = [
                msgspec.structs.replace(term, times=tuple(n for n in term.times if not n.startswith("answer/")))
                for term in self.terms(row)
            ]
            kinds = gpu_speed.by_kind(terms, values)
            launches = kinds["launches"] / sum(kinds.values())
            names.append(
                gpu_speed.band_class(row.gpu, row.shape, launches)
                if self.name == "decode"
                else gpu_speed.prompt_class(
                    row.gpu, row.api, row.shape, launches, len(self.devices(self.known.prefill_cell(row.gpu, row.api)))
                )
            )
        return names


def _values(system: System, logs: np.ndarray) -> tuple[list[str], list[float]]:
    return system.names, np.exp(logs).tolist()


def _with(known: GpuConstants, **changes: object) -> GpuConstants:
    return msgspec.structs.replace(known, **changes)


def held_bands(task: Task, known: GpuConstants) -> dict[str, tuple[float, float]]:
    """Bands of the classes that held rows are of, made of their errors, too: those of `known`, which never saw them."""
    vendors = {row.gpu.vendor for row in task.held}
    others = (row for row in task.rows if row.gpu.vendor in vendors and row.trusted and not row.old)
    every = [*task.held, *others]
    names, ends = task.classes(known.values, every), {}
    for name in sorted(set(names)):
        these = [row for row, other in zip(every, names, strict=True) if other == name]
        off = np.array([math.log((task.measured(row) or 1) / task.predict(row, known).tok_s) for row in these])
        made = class_band(task.name, name, these, off)
        ends[name] = made.ends
        _class_line(f"{name}, held rows, too", made)
    return ends


def _class_line(name: str, made: ClassBand) -> None:
    low, high = made.ends
    share = f", {100 * np.mean(made.inside):.0f} % inside" if made.inside else ""
    print(f"  {name:<24} {len(made.inside):>4} rows of {made.devices} devices, {low:g} to {high:g}{share}")


def roofline(row: Row) -> float:
    """Bandwidth over the bytes of weights that a token reads."""
    return row.gpu.bandwidth_gb_s * 1e9 / row.weights.streamed_bytes


def llmfit(row: Row) -> float:
    """llmfit 1.1.17: 0.55 of the bandwidth over active parameters times bytes of the quantization; experts 0.8."""
    size = next((size for name, size in _BYTES.items() if row.quant.removeprefix("UD-").startswith(name)), 0.58)
    rate = 0.55 * row.gpu.bandwidth_gb_s / (row.params_active / 1e9 * size)
    return rate * (0.8 if row.shape.n_expert else 1.0)


def _line(name: str, off: np.ndarray, others: Sequence[np.ndarray] = ()) -> None:
    if not len(off):
        return
    far = np.abs(off)
    median, high, worst = (math.exp(number) for number in (np.median(far), np.quantile(far, 0.9), far.max()))
    beside = "".join(f"  {math.exp(np.median(np.abs(other))):8.2f}" for other in others)
    print(f"{name:<34} {len(off):>4}  {median:6.3f} {high:6.2f} {worst:6.2f}{beside}")


def report(task: Task, rates: Sequence[Rate], values: dict[str, float]) -> dict[str, tuple[float, float]]:
    off, classes = task.off(rates), task.classes(values)
    main = [p for p, row in enumerate(task.rows) if row.trusted and row.gpu.vendor not in _MOBILE]
    # Kernels for prompts were replaced since 2024; those for single tokens hardly were.
    now = [p for p in main if task.name == "decode" or not task.rows[p].old]
    every = range(len(task.rows))
    measured = np.log(np.array([task.measured(row) or 1 for row in task.rows]))
    others = [
        measured - np.log(np.array([predict(row) for row in task.rows])) for predict in (roofline, llmfit)
    ] if task.name == "decode" else []  # fmt: skip
    beside = "  roofline    llmfit" if others else ""
    print(f"\n{task.name + ': factor off, left out':<34} rows  median    p90  worst{beside}")
    behind = task.superseded()
    for name, api, build in sorted(behind):
        print(f"  superseded: {name}, {api}, build {build or 'not told'}")
    kinds: list[tuple[str, Sequence[int], Callable[[Row], bool]]] = [
        ("trusted rows", main, lambda row: True),
        ("builds since 2025", now, lambda row: not row.old),
        ("dense", main, lambda row: not row.shape.n_expert),
        ("dense, builds since 2025", now, lambda row: not row.shape.n_expert and not row.old),
        (
            "dense, none superseded",
            main,
            lambda row: not row.shape.n_expert and (row.gpu.name, row.api, row.build) not in behind,
        ),
        ("mixtures of experts", main, lambda row: bool(row.shape.n_expert)),
        ("4096 tokens cached or more", main, lambda row: row.depth >= 4096),
        *(
            (vendor, main, lambda row, vendor=vendor: row.gpu.vendor == vendor)
            for vendor in ("nvidia", "amd", "intel", "apple")
        ),
        ("integrated, not Apple", main, lambda row: row.gpu.unified and row.gpu.vendor in ("amd", "intel")),
        ("below 2B, self-reported ones too", every, lambda row: row.params < 2e9 and row.gpu.vendor not in _MOBILE),
        ("phones and boards", every, lambda row: row.gpu.vendor in _MOBILE),
    ]  # fmt: skip
    for name, among, wanted in kinds:
        which = [place for place in among if wanted(task.rows[place])]
        _line(name, off[which], [other[which] for other in others])
    if others:
        logs = [float(np.median(np.abs(other[main]))) for other in (off, *others)]
        print(f"median log error: {logs[0] / logs[1]:.2f} of the roofline's, {logs[0] / logs[2]:.2f} of llmfit's")
    of_mobile = [p for p, row in enumerate(task.rows) if row.gpu.vendor in _MOBILE]
    seen = [*now, *of_mobile, *(p for p, name in enumerate(classes) if name == "small" and p not in now)]
    every_class = {f"{name}{routed}" for name in BANDS[task.name] for routed in ("", "/experts")}
    made = {}
    for name in sorted(every_class):
        own = [place for place in seen if classes[place] == name]
        made[name] = class_band(task.name, name, [task.rows[p] for p in own], off[own])
    inside = [held for one in made.values() for held in one.inside]
    widths = [width for one in made.values() for width in one.widths]
    print(
        f"bands: {100 * np.mean(inside):.0f} % inside, made without their device; "
        f"high over low {np.median(widths):.2f} in the median"
    )
    for name, one in made.items():
        if one.inside:
            _class_line(name, one)
    ends = {name: one.ends for name, one in made.items()}
    # Of decode they hold 91 % of the held rows as they are.
    held = held_bands(task, _with(task.known, values=task.known.values | values)) if task.name == "prefill" else {}
    return ends | held


def report_held(task: Task) -> None:
    """The shipped constants against rows that took no part in them."""
    pairs = [(row, task.predict(row, task.known)) for row in task.held]
    off = np.array([math.log((task.measured(row) or 1) / rate.tok_s) for row, rate in pairs])
    inside = np.mean([rate.low <= (task.measured(row) or 1) <= rate.high for row, rate in pairs])
    print(f"{task.name} of held rows, shipped constants: {100 * inside:.0f} % inside their bands")
    kinds: dict[str, Callable[[Row], bool]] = {
        "held rows": lambda row: True,
        "dense": lambda row: not row.shape.n_expert,
        "mixtures of experts": lambda row: bool(row.shape.n_expert),
        "Vulkan": lambda row: row.api == "vulkan",
        "SYCL": lambda row: row.api == "sycl",
        "integrated": lambda row: row.gpu.unified,
    }
    for name, wanted in kinds.items():
        which = off[[place for place, row in enumerate(task.held) if wanted(row)]]
        _line(f"{name} (x{math.exp(np.median(which)):.2f})", which)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--worst", type=int, default=0, help="list as many rows")
    parser.add_argument("--write", action="store_true", help="write the constants of all rows")
    options = parser.parse_args()
    known = constants()
    shipped = {name: prior.value for name, prior in PRIORS.items() if not name.startswith("answer")}
    ends = {}
    for name in ("decode", "prefill"):
        task = Task(name, known)
        rates, values = task.left_out()
        ends[name] = report(task, rates, values)
        report_held(task)
        shipped |= {key: value for key, value in values.items() if not key.startswith("answer")}
        off = task.off(rates)
        for place in np.argsort(-np.abs(off))[: options.worst]:
            row = task.rows[place]
            what = f"{row.gpu.name}, {row.api}, {row.model} {row.quant}, {row.build}, {row.trust}"
            print(f"  {math.exp(off[place]):5.2f} {what}: {task.measured(row)} tok/s")
    if options.write:
        about = f"Fitted {date.today()} by `make bench-speed-gpu ARGS=--write`; what each is: gpu_terms.py"
        new = _with(
            known, about=about, values={key: short(shipped[key]) for key in sorted(shipped)},
            decode_bands=ends["decode"], prefill_bands=ends["prefill"],
            prefill_cells={
                cell: msgspec.structs.replace(one, devices=len(task.devices(cell)))
                for cell, one in known.prefill_cells.items()
            },
        )  # fmt: skip
        TARGET.write_text(_pretty(new))


def _pretty(known: GpuConstants) -> str:
    """One line for each constant."""
    lines = msgspec.json.format(msgspec.json.encode(known), indent=1).decode()
    return lines + "\n"


if __name__ == "__main__":
    main()
