"""Of all placements of one option, those that fit, how fast each is, and the one to plan."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Literal

from edgellm.estimate.footprint import UBATCH
from edgellm.estimate.layer_bytes import layers_of
from edgellm.history.corrections import Correction
from edgellm.selection import placement_speed, placing
from edgellm.selection.corrected import corrected_on_gpus
from edgellm.selection.load import Load
from edgellm.selection.placement import Placement
from edgellm.selection.placement_speed import PlacedRates, Runner
from edgellm.types.layers import Layers
from edgellm.types.plan import Footprint, OtherPlacement, Rate
from edgellm.types.reason import Lost

if TYPE_CHECKING:
    from edgellm.selection.option import Option

OTHERS = 2  # placements that are told beside the one that is planned


class Places:
    """Computed as it is asked for: what an early rule drops costs nothing."""

    def __init__(self, option: Option) -> None:
        self._option = option
        self._held: dict[int, tuple[Placement, ...]] = {}
        self._chosen: dict[int, Placement] = {}
        self._worth: dict[int, float] = {}
        self._decode: dict[object, Rate | None] = {}
        self._rates: dict[object, PlacedRates] = {}
        self._on_cpu: dict[tuple[int, int], Footprint] = {}

    def held(self, ctx: int) -> tuple[Placement, ...]:
        """Those that RAM and GPUs hold with `ctx` tokens per slot; where there is none, the one that needs least RAM.

        Where a number of layers is asked for, only that one.
        """
        if ctx not in self._held:
            self._held[ctx] = self._holding(ctx)
        return self._held[ctx]

    def any_held(self, ctx: int) -> bool:
        """Whether the model can run with `ctx` tokens per slot."""
        option, budget = self._option, self._option.scenario.budget_bytes
        if option.scenario.request.gpu_layers in (None, 0) and ctx not in self._held:
            # Settles most cases.
            if option.counted(self._alone(ctx)) <= budget:
                return True
            if not option.has_gpu:
                return False
        placed = self.held(ctx)[0]
        return option.counted(placed) <= budget and not placed.problem

    def _holding(self, ctx: int) -> tuple[Placement, ...]:
        option, asked = self._option, self._option.scenario.request.gpu_layers
        if not option.has_gpu:
            return (self._alone(ctx),)
        if asked is not None:
            return (placing.asked(self._load(ctx), option.gpus, asked),)
        every = list(placing.possible(self._load(ctx), [gpu for gpu in option.gpus if gpu.is_suited]))
        held = tuple(placed for placed in every if option.counted(placed) <= option.scenario.budget_bytes)
        return held or (min(every, key=option.counted),)

    def _load(self, ctx: int) -> Load:
        option = self._option
        return Load(
            option.shape, self._layers, ctx, option.scenario.slots, lambda ubatch: self._cpu_footprint(ctx, ubatch),
            on_vulkan=all(gpu.api == "vulkan" for gpu in option.gpus),
        )  # fmt: skip

    @cached_property
    def _layers(self) -> Layers:
        option = self._option
        return layers_of(option.shape, option.tensor_bytes, option.quant, option.file.layers)

    def _alone(self, ctx: int) -> Placement:
        return Placement(self._cpu_footprint(ctx, UBATCH), self._option.shape.n_layer)

    def _cpu_footprint(self, ctx: int, ubatch: int) -> Footprint:
        if (ctx, ubatch) not in self._on_cpu:
            self._on_cpu[ctx, ubatch] = self._option.cpu_footprint(ctx, ubatch)
        return self._on_cpu[ctx, ubatch]

    def at(self, ctx: int) -> Placement:
        """Of what fits, where the usual request is done first, by a cautious reckoning.

        Never where answers come slower than the ranking counts on.
        """
        if ctx not in self._chosen:
            held = self.held(ctx)
            self._chosen[ctx] = held[0] if len(held) == 1 else self._fastest(held, ctx)
        return self._chosen[ctx]

    def _fastest(self, held: Sequence[Placement], ctx: int) -> Placement:
        unknown = [placed for placed in held if not self._is_rated(placed)]
        # How fast it is, is not known: what lies in a memory of its own is taken to be faster, and nothing else is.
        if whole := [placed for placed in unknown if placed.is_whole and not placed.is_unified]:
            return whole[0]
        rated = [placed for placed in held if self._is_rated(placed)] or list(held[:1])
        least = self.worth_at(ctx)
        enough = [placed for placed in rated if self._tok_s(placed) >= least] or rated
        return enough[0] if len(enough) == 1 else self._first_done(enough)

    def _first_done(self, placements: Sequence[Placement]) -> Placement:
        """Of several, by the time of the usual request. Prompts are predicted only where they can still decide."""
        if self._reads:
            return min(placements, key=lambda placed: self._seconds(self.rates(placed)))
        answers = [placement_speed.ANSWER / self._cautious(placed) for placed in placements]
        best, least = 0, math.inf
        for index in sorted(range(len(answers)), key=answers.__getitem__):
            if answers[index] > least:
                break
            seconds = self._seconds(self.rates(placements[index]))
            if (seconds, index) < (least, best):
                best, least = index, seconds
        return placements[best]

    def worth_at(self, ctx: int) -> float:
        """Tokens per second that the ranking counts on: of the placements that fit, what the best surely keeps.

        Every larger memory and every faster device leaves it as high, so that none makes a choice worse.
        """
        if not self._option.has_gpu:
            return self._option.rate.tok_s
        if ctx not in self._worth:
            self._worth[ctx] = max(self._cautious(placed) for placed in self.held(ctx))
        return self._worth[ctx]

    def reaches(self, ctx: int, enough: Callable[[float], bool]) -> bool:
        """Whether `worth_at` is enough, of what is the more the better: the first placement that does settles it."""
        if ctx in self._worth or not self._option.has_gpu:
            return enough(self.worth_at(ctx))
        # The last ones are on GPUs, and mostly the fastest.
        return any(enough(self._cautious(placed)) for placed in reversed(self.held(ctx)))

    def _cautious(self, placed: Placement) -> float:
        """Without predicting prompts, which costs as much, where they are not what counts."""
        if self._reads:
            rates = self.rates(placed)
            return rates.cautious(rates.prefill)
        option = self._option
        decode = self._on_gpu(placed, option.usual_depth) if placed.parts else None
        if decode is None:
            return option.cpu_decode(option.usual_depth).tok_s
        return placement_speed.cautious(decode, placement_speed.is_sure(placed))

    @property
    def _reads(self) -> bool:
        return self._option.scenario.request.task == "embed"

    def _tok_s(self, placed: Placement) -> float:
        return self.rates(placed).prefill.tok_s if self._reads else self.decode(placed, self._option.usual_depth).tok_s

    def _seconds(self, rates: PlacedRates) -> float:
        return 1 / rates.cautious(rates.prefill) if self._reads else rates.seconds

    def decode(self, placed: Placement, depth: int) -> Rate:
        """With `depth` tokens cached; the processor's rate where nobody knows that of a GPU."""
        return (self._on_gpu(placed, depth) if placed.parts else None) or self._option.cpu_decode(depth)

    def rates(self, placed: Placement) -> PlacedRates:
        """With the usual depth."""
        key, option = placed.place, self._option
        if key not in self._rates:
            decode = self._on_gpu(placed, option.usual_depth) if placed.parts else None
            prompts = placement_speed.prefill(placed, option.shape, option.weights) if placed.parts else None
            prompts = prompts and self._corrected(prompts, "prefill", placed)
            if decode is None or prompts is None:
                rates = PlacedRates(option.cpu_decode(option.usual_depth), option.cpu_prefill, on_gpu=False)
            else:
                rates = PlacedRates(decode, prompts, on_gpu=True, is_sure=placement_speed.is_sure(placed))
            self._rates[key] = rates
        return self._rates[key]

    def _on_gpu(self, placed: Placement, depth: int) -> Rate | None:
        key, option = (placed.held, depth), self._option
        if key not in self._decode:
            rate = placement_speed.decode(placed, self._runner, option.shape, option.weights, depth)
            self._decode[key] = rate and self._corrected(rate, "decode", placed)
        return self._decode[key]

    def _corrected(self, rate: Rate, name: Literal["decode", "prefill"], placed: Placement) -> Rate | None:
        """By what ran there; None where what was predicted is of any GPU, and nothing ran there."""
        if not self._option.learned.places and not placed.is_strange:
            return rate
        correction = self._learned(placed)
        if correction.basis is None and placed.is_strange:
            return None
        return corrected_on_gpus(rate, name, placed, correction)

    def _learned(self, placed: Placement) -> Correction:
        option = self._option
        return option.learned.on(placed.gpu_place).of(option.backend, option.model, option.quant, option.kv_type)

    def _is_rated(self, placed: Placement) -> bool:
        """Whether it is known how fast it is."""
        if not placed.is_strange:
            return placed.is_rated
        return placed.is_rated and self._learned(placed).basis is not None

    @cached_property
    def _runner(self) -> Runner:
        option = self._option
        facts = option.facts
        return Runner(option.scenario.machine, option.threads, facts.calibration, facts.priors, option.rated_cache)

    def others(self, ctx: int) -> tuple[OtherPlacement, ...]:
        """The next best placements, the best first, each on other devices or with more or less of the model there."""
        option, chosen = self._option, self.at(ctx)
        gpus = [gpu for gpu in option.gpus if gpu.is_suited] or list(option.gpus)
        if not gpus:
            return ()
        load, used = self._load(ctx), [part.device for part in chosen.parts] or gpus[:1]
        every = (*placing.possible(load, gpus), *placing.others(load, used, chosen.experts_away))
        best: dict[object, Placement] = {}
        for placed in sorted(every, key=lambda placed: (not self._is_held(placed), self.request_s(placed))):
            best.setdefault((placed.layers, placed.experts_away, len(placed.parts)), placed)
        best.pop((chosen.layers, chosen.experts_away, len(chosen.parts)), None)
        return tuple(self._other(placed, ctx) for placed in list(best.values())[:OTHERS])

    def _is_held(self, placed: Placement) -> bool:
        return self._option.counted(placed) <= self._option.scenario.budget_bytes

    def request_s(self, placed: Placement) -> float:
        """Seconds of the usual request, cautiously."""
        return self._seconds(self.rates(placed))

    def _other(self, placed: Placement, ctx: int) -> OtherPlacement:
        rates = self.rates(placed) if self._is_rated(placed) else None
        return OtherPlacement(
            placed.on_gpus, placed.gpu_layers, placed.experts_away, placed.ubatch, rates.decode if rates else None,
            rates.prefill if rates else None, self._option.counted(placed), self._lost(placed, ctx),
            self.request_s(placed) if rates else None,
        )  # fmt: skip

    def _lost(self, placed: Placement, ctx: int) -> Lost:
        """Why it is not the one that is planned."""
        if not self._is_held(placed):
            return "memory"
        if self._option.scenario.request.gpu_layers is not None:
            return "asked"
        if not all(part.device.is_suited for part in placed.parts):
            return "unsuited"
        if not self._is_rated(placed):
            return "unknown"
        return "answers" if self._tok_s(placed) < self.worth_at(ctx) else "request"
