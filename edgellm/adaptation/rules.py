"""The golden rules of tuning: settings from memory, data and time, with reasons. Pure: it asks the tuner's formulas.

    method    LoRA+ (ratio 4); rsLoRA from rank 32 on, where LoRA's scale makes large ranks learn less
    rank      16, and more only where the data hold more than it can: a trained value holds about 2 bits, a supervised
              token about 1 (Thinking Machines, LoRA Without Regret, 2025)
    length    the shortest that keeps every example whole
    rows      about 8 examples a step: small data want many small steps
    memory    of what fits the fastest; then, one after the other: rank 8, rank 4, shorter rows
    time      at least 100 steps within 3 epochs; a time that is asked for ends it earlier

Rates of learning and the method: docs/adr/055-rules-of-tuning.md.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import msgspec

from edgellm.adaptation.example import Example
from edgellm.adaptation.packing import pack
from edgellm.adaptation.priority import LAST, least_share
from edgellm.adaptation.schedule import SAVED_EVERY_S, count_steps, steps_of_epoch
from edgellm.types.tune_device import CPU, TuneDevice
from edgellm.types.tune_reason import (
    TuneAlternative,
    TuneBusy,
    TuneChoice,
    TuneLengthChosen,
    TuneMemoryChosen,
    TuneMethodChosen,
    TuneRankChosen,
    TuneReason,
    TuneRowsChosen,
    TuneTimeChosen,
    scarce_bytes,
)
from edgellm.types.tuning import METHODS, Method, TuneFootprint, TuneSettings, TuneSize

RANK, RANKS_OF_MORE, RANKS_OF_LESS = 16, (32, 64), (8, 4)
LENGTHS = tuple(sorted(base << power for base in (64, 96) for power in range(13)))  # 64, 96, 128, 192, 256, ...
EXAMPLES_PER_STEP = 8
LEAST_STEPS, MOST_EPOCHS = 100, 3
_BITS_OF_VALUE, _BITS_OF_TOKEN = 2, 1
_USED_TIME = 0.9  # of that which is asked for: loading, looks at held-out rows and saving take the rest
# Of the predicted time on a quiet machine. Measured 0.8 to 1.2 on a Zen 4 (docs/benchmarks/log/tuning.md); rates of
# other processors are by the width of their vectors, and were not measured.
_SPAN = 0.8, 2.0
_SPAN_OF_GPU = 0.3, 4.0  # none was measured
_LOOKS = 5  # at the held-out rows
_PATIENCE = 3
_RATES: dict[Method, float] = {"vera": 1e-3, "full": 1e-5}
_USUAL_RATE = 2e-4
_MEMORY = frozenset({"method", "rank", "length", "batch", "accumulate", "checkpointing", "quantized"})
_RANKLESS: frozenset[Method] = frozenset({"full"})


@dataclass(frozen=True)
class TuneQuestion:
    """What is to be decided. `asked`: fields of `TuneSettings` that the user has set."""

    examples: Sequence[Example]
    budget_bytes: int
    n_ctx: int  # that the base was trained for
    n_threads: int = 1
    seed: int = 0
    seconds: float | None = None
    nice: int = LAST
    load: float | None = None  # of a machine whose processors others want, too
    processors: int = 1
    asked: Mapping[str, Any] = field(default_factory=dict)
    device: TuneDevice | None = None  # a GPU; None = the processor

    def holds(self, footprint: TuneFootprint) -> bool:
        """Whether RAM does, and the GPU's memory."""
        if self.device is None or not self.device.unified:
            held = self.device is None or footprint.device_bytes <= self.device.room_bytes
            return held and footprint.needed_bytes <= self.budget_bytes
        return scarce_bytes(footprint, self.device) <= min(self.budget_bytes, self.device.room_bytes)


@dataclass(frozen=True)
class TunerFormulas:
    """Of one base and machine."""

    footprint: Callable[[TuneSettings, TuneSize], TuneFootprint]
    rate: Callable[[TuneSettings], float]  # tokens per second
    methods: frozenset[Method] = frozenset(METHODS)


@dataclass(frozen=True)
class _Way:
    settings: TuneSettings
    footprint: TuneFootprint
    tok_s: float

    def alternative(self, question: TuneQuestion) -> TuneAlternative:
        names = ("method", "rank", "length", "batch", "checkpointing", "quantized")
        same = {name: getattr(self.settings, name) for name in names}
        needed, fits = scarce_bytes(self.footprint, question.device), question.holds(self.footprint)
        return TuneAlternative(**same, needed_bytes=needed, tok_s=self.tok_s, fits=fits)


def decide(question: TuneQuestion, formulas: TunerFormulas) -> TuneChoice:
    """The fastest settings that fit, of those that learn best.

    Raises:
        UsageError: a value that was asked for is out of range.
    """
    choice = _Rules(question, formulas).choice()
    free = {name: value for name, value in question.asked.items() if name not in _MEMORY}
    if choice.fits or len(free) == len(question.asked):
        return choice
    other = _Rules(replace(question, asked=free), formulas).choice()
    return msgspec.structs.replace(choice, instead=other.settings if other.fits else None)


def size_of(question: TuneQuestion, length: int) -> TuneSize:
    """In rows of that length."""
    cut = [example.cut(length) for example in question.examples]
    return pack([example for example in cut if example.n_supervised] or cut[:1], length).size


class _Rules:
    def __init__(self, question: TuneQuestion, formulas: TunerFormulas) -> None:
        self._question = question
        self._formulas = formulas
        self._longest = max(map(len, question.examples))
        self._n_supervised = sum(example.n_supervised for example in question.examples)
        self._sizes = functools.cache(functools.partial(size_of, question))

    def choice(self) -> TuneChoice:
        question, levels = self._question, list(self._levels())
        tried: list[_Way] = []
        fitting: list[_Way] = []
        for rank, length in levels:
            settings = list(self._savings(rank, length))
            tried.append(self._way(settings[-1]))  # that needs least
            if question.holds(tried[-1].footprint):
                tried += map(self._way, settings[:-1])
                fitting = [way for way in tried if question.holds(way.footprint)]
                break
        chosen = max(fitting, key=_speed) if fitting else min(tried, key=self._needed)
        others = dict.fromkeys(way.alternative(question) for way in tried if way is not chosen)
        chosen = replace(chosen, settings=self._timed(chosen))
        size = self._sizes(chosen.settings.length)
        n_epochs = count_steps(chosen.settings, size.n_rows) / steps_of_epoch(chosen.settings, size.n_rows)
        wall_s = size.n_tokens * n_epochs / chosen.tok_s
        return TuneChoice(
            fits=bool(fitting),
            settings=chosen.settings,
            footprint=chosen.footprint,
            budget_bytes=question.budget_bytes,
            tok_s=chosen.tok_s,
            wall_s=wall_s,
            reasons=self._reasons(chosen, levels[0], wall_s),
            rejected=tuple(others),
            device=question.device,
        )

    def _needed(self, way: _Way) -> int:
        return scarce_bytes(way.footprint, self._question.device)

    def _levels(self) -> Iterator[tuple[int, int]]:
        """(rank, length), the best first."""
        asked = self._question.asked
        whole = [length for length in LENGTHS if length <= self._question.n_ctx] or [self._question.n_ctx]
        first = next((at for at, length in enumerate(whole) if length >= self._longest), len(whole) - 1)
        lengths = [asked["length"]] if "length" in asked else whole[first::-1]
        rank = asked.get("rank") or self._rank(lengths[0])
        ranks = [rank] if "rank" in asked else [rank, *(less for less in RANKS_OF_LESS if less < rank)]
        yield from ((rank, length) for length in lengths for rank in ranks)

    def _rank(self, length: int) -> int:
        for rank in (RANK, *RANKS_OF_MORE):
            if self._capacity(self._settings(rank, length)) >= self._n_supervised:
                return rank
        return RANKS_OF_MORE[-1]

    def _capacity(self, settings: TuneSettings) -> int:
        """Supervised tokens that what is trained can hold; 0 = as many as one likes."""
        moments = self._formulas.footprint(settings, self._sizes(settings.length)).optimizer_bytes
        return moments // 8 * _BITS_OF_VALUE // _BITS_OF_TOKEN  # two of float32 for each value

    def _settings(self, rank: int, length: int, **fields: Any) -> TuneSettings:
        asked = self._question.asked
        usual_method: Method = "rslora" if rank >= RANKS_OF_MORE[0] else "lora+"
        method: Method = asked.get("method", usual_method if usual_method in self._formulas.methods else "lora")
        usual = {
            "method": method,
            "rank": rank,
            "alpha": 2.0 * rank,
            "length": length,
            "learning_rate": _RATES.get(method, _USUAL_RATE),
            "n_threads": self._question.n_threads,
            "seed": self._question.seed,
            "device": self._question.device.name if self._question.device else CPU,
        }
        return TuneSettings(**{**usual, **fields, **asked})

    def _savings(self, rank: int, length: int) -> Iterator[TuneSettings]:
        """All ways to make the same steps; the last one needs least memory."""
        size, asked = self._sizes(length), self._question.asked
        per_row = len(self._question.examples) / size.n_rows
        rows = 2 ** max(0, min(round(math.log2(EXAMPLES_PER_STEP / per_row)), int(math.log2(size.n_rows))))
        batches = [asked["batch"]] if "batch" in asked else [rows >> power for power in range(rows.bit_length())]
        for quantized in (False,) if asked.get("method") == "full" else (False, True):
            for checkpointing in (False, True):
                for batch in batches:
                    accumulate = max(1, round(rows / max(1, batch)))
                    fields = {"quantized": quantized, "checkpointing": checkpointing}
                    yield self._settings(rank, length, batch=batch, accumulate=accumulate, **fields)

    def _way(self, settings: TuneSettings) -> _Way:
        footprint = self._formulas.footprint(settings, self._sizes(settings.length))
        return _Way(settings, footprint, self._formulas.rate(settings))

    def _timed(self, way: _Way) -> TuneSettings:
        """With epochs, an end, and moments to look and to save."""
        asked, settings = self._question.asked, way.settings
        size = self._sizes(settings.length)
        of_epoch = steps_of_epoch(settings, size.n_rows)
        step_s = size.n_tokens / of_epoch / way.tok_s
        epochs, most = max(1, min(MOST_EPOCHS, math.ceil(LEAST_STEPS / of_epoch))), 0
        epochs, most = asked.get("epochs", epochs), asked.get("max_steps", most)
        if self._question.seconds is not None:
            fitting = max(1, int(self._question.seconds * _USED_TIME / step_s))
            if "epochs" not in asked:
                epochs = max(1, min(epochs, fitting // of_epoch))
            most = fitting if fitting < (most or of_epoch * epochs) else most
        timed = msgspec.structs.replace(settings, epochs=epochs, max_steps=most)
        usual = {
            "eval_every": max(1, count_steps(timed, size.n_rows) // _LOOKS),
            "patience": _PATIENCE,
            "checkpoint_every": max(1, round(SAVED_EVERY_S / step_s)),
        }
        fields = {name: asked.get(name, value) for name, value in usual.items()}
        return msgspec.structs.replace(timed, **fields)

    def _reasons(self, way: _Way, usual: tuple[int, int], wall_s: float) -> tuple[TuneReason, ...]:
        settings, asked = way.settings, self._question.asked
        size = self._sizes(settings.length)
        n_examples = len(self._question.examples)
        whole = sum(len(example) <= settings.length for example in self._question.examples)
        n_steps = count_steps(settings, size.n_rows)
        is_cut = bool(settings.max_steps) and n_steps < settings.epochs * steps_of_epoch(settings, size.n_rows)
        rankless = settings.method in _RANKLESS
        low, high = _SPAN if self._question.device is None else _SPAN_OF_GPU
        rank = TuneRankChosen(
            settings.rank,
            "rank" in asked,
            self._n_supervised,
            0 if rankless else self._capacity(settings),
            saves_memory=settings.rank < usual[0],
        )
        return (
            TuneMethodChosen(settings.method, "method" in asked, settings.learning_rate),
            *([] if rankless else [rank]),
            TuneLengthChosen(
                settings.length,
                "length" in asked,
                self._longest,
                whole / n_examples,
                saves_memory=settings.length < usual[1],
            ),
            TuneRowsChosen(
                settings.batch, settings.accumulate, settings.batch * settings.accumulate * n_examples / size.n_rows
            ),
            TuneMemoryChosen(
                settings.checkpointing,
                settings.quantized,
                way.footprint.needed_bytes,
                self._question.budget_bytes,
                way.tok_s,
            ),
            TuneTimeChosen(
                settings.epochs, n_steps, wall_s, low * wall_s, high * wall_s, self._question.seconds, is_cut
            ),
            *self._busy(wall_s),
        )

    def _busy(self, wall_s: float) -> Iterator[TuneBusy]:
        question = self._question
        if question.load is not None:
            asked, equal = (
                wall_s / least_share(nice, question.load, question.processors) for nice in (question.nice, 0)
            )
            yield TuneBusy(question.load, question.processors, question.nice, asked, equal)


def _speed(way: _Way) -> tuple[float, bool, bool, int]:
    """Of two that are equally fast, the one that computes less again."""
    settings = way.settings
    return way.tok_s, not settings.quantized, not settings.checkpointing, settings.batch
