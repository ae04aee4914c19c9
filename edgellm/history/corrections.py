"""Factors by which earlier runs on this machine correct the next predictions. Pure; run_log.py reads the runs.

A factor is the weighted median of measured over predicted, in logarithms. The fewer the runs, the more it is moved
toward the factor one level up. The levels are: this quantization of this model with this type of cache; with other
types of cache; the model in other quantizations, or, where the model never ran, the family of tensor types on this
backend; the backend; 1. Memory is corrected only for a file that itself ran, with whatever cache, because its errors
are bytes, not shares. What ran on GPUs teaches nothing of the processor, nor of other GPUs or another split.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from edgellm.types.basis import OtherCaches, OwnRuns, Runs, SameBackend, SameFamily, SameModel
from edgellm.types.gpu_place import GpuPlace

# How many runs, or rows of other files, weigh as much as the level above: the variance of one measurement over the
# variance of what is measured. A run repeats within about 5 %, predictions are off by 10 to 20 %. Other rows say less.
OWN_PRIOR = 0.2
CACHE_PRIOR = 0.2  # attention alone differs, and is a part of the time
MODEL_PRIOR = 1.0
FAMILY_PRIOR = 1.0
BACKEND_PRIOR = 2.0
HALF_LIFE = 8  # runs after which one counts half: machines change
# A machine that was busy, or a file that lies, must not turn a prediction into nonsense.
SMALLEST, LARGEST = 0.25, 4.0
RATES = ("decode", "prefill")
CorrectionKey = tuple[str, str, str, str]  # backend, model id, quantization, type of cache
RunKey = tuple[str, str, str]  # backend, model id, quantization
REPEATS = 0.05  # a run repeats within so much
OTHER_CACHE = 0.06  # and a rate with another type of cache is met within so much


@dataclass(frozen=True, slots=True)
class Correction:
    """Measured over predicted, as a factor on the middle of a prediction; 1 = nothing is known."""

    decode: float = 1.0
    prefill: float = 1.0
    resident: float = 1.0  # of the bytes that are resident
    basis: Runs | None = None  # the runs that it was learned from; None = not corrected
    # How far from it the next run may be, as a share of a rate; None = as far as predictions are.
    within: float | None = None
    held: tuple[int, int] | None = None  # as in `Ratio`, where all of its own runs had the same


NONE = Correction()


@dataclass(frozen=True, slots=True)
class Ratio:
    """One run: measured over predicted, None where one of the two is not known."""

    backend: str
    model: str
    quant: str
    decode: float | None = None
    prefill: float | None = None
    resident: float | None = None
    kv_type: str = "f16"
    place: GpuPlace | None = None  # None = the processor alone
    held: tuple[int, int] = (0, 0)  # layers on GPUs, and of how many blocks the routed experts are in RAM

    @property
    def has_rate(self) -> bool:
        """Whether a speed can be learned from it: not where other programs ran beside it."""
        return self.decode is not None or self.prefill is not None


@dataclass(frozen=True, slots=True)
class Corrections:
    """Corrections, from the most to the least specific: `of` takes the first that there is.

    `rows` are for a file with a type of cache that ran, `files` for a file that ran with other types of cache. A file
    that never ran is corrected by its model, else by its family of tensor types, else by its backend.

    These are of the processor alone; `on` gives those of GPUs.
    """

    rows: Mapping[CorrectionKey, Correction] = field(default_factory=dict)
    files: Mapping[RunKey, Correction] = field(default_factory=dict)
    models: Mapping[tuple[str, str], Correction] = field(default_factory=dict)
    families: Mapping[tuple[str, str], Correction] = field(default_factory=dict)
    backends: Mapping[str, Correction] = field(default_factory=dict)
    places: Mapping[GpuPlace, Corrections] = field(default_factory=dict)

    @property
    def count(self) -> int:
        """Of files that ran, wherever."""
        return len(self.rows) + sum(len(own.rows) for own in self.places.values())

    def on(self, place: GpuPlace | None) -> Corrections:
        """Those of runs there; None = of the processor alone."""
        return self if place is None else self.places.get(place, NOTHING_RAN)

    def strangers(self, backend: str) -> frozenset[str]:
        """GPUs of which nothing else is known, and that ran something of this backend whole."""
        return frozenset(
            name
            for place, own in self.places.items()
            if place.strange and place.split == "whole" and backend in own.backends
            for name in place.gpus
        )

    def of(self, backend: str, model: str, quant: str, kv_type: str = "f16") -> Correction:
        if not (self.rows or self.files or self.backends):  # asked of every option
            return NONE
        own = self.rows.get((backend, model, quant, kv_type)) or self.files.get((backend, model, quant))
        own = own or self.models.get((backend, model)) or self.families.get((backend, family(quant)))
        return own or self.backends.get(backend, NONE)


NOTHING_RAN = Corrections()


def family(quant: str) -> str:
    """Quantizations whose kernels err alike: "k", "codebook", "ternary", "float" or "plain"."""
    name = quant.upper().removeprefix("UD-")
    if name.startswith(("IQ1", "IQ2", "IQ3")):
        return "codebook"
    if name.startswith(("TQ", "I2_S", "TL")):
        return "ternary"
    if name.startswith(("F16", "F32", "BF16")):
        return "float"
    return "k" if "_K" in name or name == "IQ4_XS" else "plain"


def corrections(ratios: Iterable[Ratio]) -> Corrections:
    """Corrections from runs, oldest first. Only those with a rate count in `basis`, and narrow `within`."""
    by_place: dict[GpuPlace | None, list[Ratio]] = defaultdict(list)
    for ratio in ratios:
        by_place[ratio.place].append(ratio)
    on_cpu = _of_place(by_place.pop(None, []), ())
    places = {
        place: (_of_strangers if place.strange else _of_place)(own, place.gpus)
        for place, own in by_place.items()
        if place is not None
    }
    return replace(on_cpu, places=places)


def _of_strangers(ratios: Sequence[Ratio], gpus: tuple[str, ...]) -> Corrections:
    """Where predictions mean nothing: relative to the middle of all that ran there, which holds for what did not."""
    middle = {name: _median(_logs(ratios, name)) for name in RATES}
    if middle["decode"] is None:
        return NOTHING_RAN
    # The first prompt after a load is not measured (`runtime.metrics`): until there is a second, answers tell of both.
    by = {name: math.exp(middle["decode"] if log is None else log) for name, log in middle.items()}

    def scaled(factor: float | None, scale: float) -> float | None:
        return None if factor is None else factor * scale

    relative = [
        replace(r, decode=scaled(r.decode, 1 / by["decode"]), prefill=scaled(r.prefill, 1 / by["prefill"]))
        for r in ratios
    ]

    def absolute(learned: Mapping[Any, Correction]) -> dict[Any, Correction]:
        return {
            key: replace(
                one,
                decode=float(f"{one.decode * by['decode']:.4g}"),
                prefill=float(f"{one.prefill * by['prefill']:.4g}"),
            )
            for key, one in learned.items()
        }

    own = _of_place(relative, gpus)
    return Corrections(
        absolute(own.rows), absolute(own.files), absolute(own.models), absolute(own.families), absolute(own.backends)
    )


def _of_place(ratios: Sequence[Ratio], gpus: tuple[str, ...]) -> Corrections:
    """Of the processor, or of one split over `gpus`."""
    runs: dict[CorrectionKey, list[Ratio]] = defaultdict(list)
    for ratio in ratios:
        runs[ratio.backend, ratio.model, ratio.quant, ratio.kv_type].append(ratio)
    by_file: dict[RunKey, list[Ratio]] = defaultdict(list)
    for (backend, model, quant, _), group in runs.items():
        by_file[backend, model, quant] += group
    backends: dict[str, Correction] = {}
    families: dict[tuple[str, str], Correction] = {}
    models: dict[tuple[str, str], Correction] = {}
    timed = {key: group for key, group in by_file.items() if any(ratio.has_rate for ratio in group)}
    for backend in sorted({key[0] for key in timed}):
        on_backend = {key: group for key, group in timed.items() if key[0] == backend}
        backends[backend] = _of_others(
            on_backend.values(), NONE, BACKEND_PRIOR, SameBackend(backend, len(on_backend), gpus)
        )
        for name in sorted({family(key[2]) for key in on_backend}):
            alike = {key: group for key, group in on_backend.items() if family(key[2]) == name}
            families[backend, name] = _of_others(
                alike.values(), backends[backend], FAMILY_PRIOR, SameFamily(name, backend, len(alike), gpus)
            )
        for model in sorted({key[1] for key in on_backend}):
            alike = {key: group for key, group in on_backend.items() if key[1] == model}
            models[backend, model] = _of_others(
                alike.values(), backends[backend], MODEL_PRIOR, SameModel(model, len(alike))
            )
    rows: dict[CorrectionKey, Correction] = {}
    files: dict[RunKey, Correction] = {}
    for key in by_file:
        # Its own runs must not count twice, so the level above is made of the others.
        others = {other: theirs for other, theirs in timed.items() if other[0] == key[0] and other != key}
        above = _level_above(others, key[1], family(key[2]), gpus)
        by_cache = {row: theirs for row, theirs in runs.items() if row[:3] == key}
        files[key] = _of_other_caches(by_cache, above)
        for row, own in by_cache.items():
            rest = {other: theirs for other, theirs in by_cache.items() if other != row}
            rows[row] = _own(own, _of_other_caches(rest, above) if rest else above)
    return Corrections(rows, files, models, families, backends)


def _level_above(others: Mapping[RunKey, Sequence[Ratio]], model: str, name: str, gpus: tuple[str, ...]) -> Correction:
    if not others:
        return NONE
    (backend, *_), *_ = others
    on_backend = _of_others(others.values(), NONE, BACKEND_PRIOR, SameBackend(backend, len(others), gpus))
    same_model = {key: group for key, group in others.items() if key[1] == model}
    if same_model:
        return _of_others(same_model.values(), on_backend, MODEL_PRIOR, SameModel(model, len(same_model)))
    alike = {key: group for key, group in others.items() if family(key[2]) == name}
    basis = SameFamily(name, backend, len(alike), gpus) if alike else on_backend.basis
    return _of_others(alike.values(), on_backend, FAMILY_PRIOR, basis)


def _of_other_caches(by_cache: Mapping[CorrectionKey, Sequence[Ratio]], above: Correction) -> Correction:
    """For a type of cache that never ran: from runs of the same file with others."""
    (_, model, quant, _), *_ = by_cache
    timed = {row: runs for row, runs in by_cache.items() if any(ratio.has_rate for ratio in runs)}
    medians = [middle for runs in by_cache.values() if (middle := _median(_logs(runs, "resident"))) is not None]
    resident = _shrunk([(middle, 1.0) for middle in medians], 1.0, OWN_PRIOR)
    if not timed:
        return replace(above, resident=resident)
    rates = _of_others(
        timed.values(), above, CACHE_PRIOR, OtherCaches(model, quant, tuple(sorted(row[3] for row in timed)))
    )
    return replace(rates, resident=resident, within=OTHER_CACHE)


def _of_others(files: Collection[Sequence[Ratio]], above: Correction, prior: float, basis: Runs | None) -> Correction:
    """The correction of a file that never ran, from others: each file counts once, however often it ran."""
    factors = {}
    for name in RATES:
        medians = [middle for runs in files if (middle := _median(_logs(runs, name))) is not None]
        factors[name] = _shrunk([(middle, 1.0) for middle in medians], getattr(above, name), prior)
    return Correction(factors["decode"], factors["prefill"], basis=basis)


def _own(runs: Sequence[Ratio], above: Correction) -> Correction:
    factors = {name: _shrunk(_logs(runs, name), getattr(above, name), OWN_PRIOR) for name in RATES}
    resident = _shrunk(_logs(runs, "resident"), above.resident, OWN_PRIOR)
    timed = sum(ratio.has_rate for ratio in runs)
    if not timed:
        return replace(above, resident=resident)
    last, held = runs[-1], {ratio.held for ratio in runs}
    basis = OwnRuns(timed, last.model, last.quant, last.kv_type)
    same = last.held if len(held) == 1 else None
    return Correction(factors["decode"], factors["prefill"], resident, basis, within=REPEATS, held=same)


def _logs(runs: Sequence[Ratio], name: str) -> list[tuple[float, float]]:
    """(logarithm, weight) of each run that has the number; the latest weighs 1."""
    values = [value for run in runs if (value := getattr(run, name)) is not None]
    ages = range(len(values) - 1, -1, -1)
    return [(math.log(value), 0.5 ** (age / HALF_LIFE)) for value, age in zip(values, ages, strict=True)]


def _shrunk(logs: Sequence[tuple[float, float]], above: float, prior: float) -> float:
    middle = _median(logs)
    if middle is None:
        return above
    weight = sum(weight for _, weight in logs)
    start = math.log(above)
    factor = math.exp(start + (middle - start) * weight / (weight + prior))
    # Four digits, so that a decision is reproducible.
    return float(f"{min(max(factor, SMALLEST), LARGEST):.4g}")


def _median(logs: Sequence[tuple[float, float]]) -> float | None:
    """Weighted; between two of the same weight, their mean. None = no values."""
    if not logs:
        return None
    ordered = sorted(logs)
    half, weight_below = sum(weight for _, weight in ordered) / 2, 0.0
    for index, (value, weight) in enumerate(ordered):
        weight_below += weight
        if math.isclose(weight_below, half):
            return (value + ordered[index + 1][0]) / 2
        if weight_below > half:
            return value
    return ordered[-1][0]
