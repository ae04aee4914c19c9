"""Of all placements of one option, those that fit, how fast each is, and the one to plan."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from edgellm.estimate.footprint import UBATCH
from edgellm.estimate.layer_bytes import layers_of
from edgellm.selection import placement, placement_speed
from edgellm.selection.placement import Load, Placement
from edgellm.selection.placement_speed import PlacedRates, Runner
from edgellm.types.plan import Footprint, OtherPlacement, Rate

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
            if not option.gpus:
                return False
        placed = self.held(ctx)[0]
        return option.counted(placed) <= budget and not placed.problem

    def _holding(self, ctx: int) -> tuple[Placement, ...]:
        option = self._option
        asked, gpus = option.scenario.request.gpu_layers, option.gpus
        if asked not in (None, 0) and gpus:
            return (placement.asked(self._load(ctx), gpus, asked),)
        suited = [gpu for gpu in gpus if gpu.is_suited]
        if not suited or asked == 0:
            return (self._alone(ctx),)
        every = list(placement.possible(self._load(ctx), suited))
        held = tuple(placed for placed in every if option.counted(placed) <= option.scenario.budget_bytes)
        return held or (min(every, key=option.counted),)

    def _load(self, ctx: int) -> Load:
        option = self._option
        layers = layers_of(option.shape, option.tensor_bytes, option.quant)
        return Load(layers, lambda ubatch: self._cpu_footprint(ctx, ubatch))

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
        unknown = [placed for placed in held if placed.parts and not self.rates(placed).on_gpu]
        # How fast it is, is not known: what lies in a memory of its own is taken to be faster, and nothing else is.
        if whole := [placed for placed in unknown if placed.is_whole and not placed.is_unified]:
            return whole[0]
        rated = [placed for placed in held if placed not in unknown] or list(held[:1])
        least = self.worth_at(ctx)
        enough = [placed for placed in rated if self._tok_s(self.rates(placed)) >= least]
        return min(enough or rated, key=lambda placed: self._seconds(self.rates(placed)))

    def worth_at(self, ctx: int) -> float:
        """Tokens per second that the ranking counts on: of the placements that fit, what the best surely keeps.

        Every larger memory and every faster device leaves it as high, so that none makes a choice worse.
        """
        if not self._option.has_gpu:
            return self._option.rate.tok_s
        if ctx not in self._worth:
            self._worth[ctx] = max(self._cautious(placed) for placed in self.held(ctx))
        return self._worth[ctx]

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

    def _tok_s(self, rates: PlacedRates) -> float:
        return (rates.prefill if self._reads else rates.decode).tok_s

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
            if decode is None or prompts is None:
                rates = PlacedRates(option.cpu_decode(option.usual_depth), option.cpu_prefill, on_gpu=False)
            else:
                rates = PlacedRates(decode, prompts, on_gpu=True, is_sure=placement_speed.is_sure(placed))
            self._rates[key] = rates
        return self._rates[key]

    def _on_gpu(self, placed: Placement, depth: int) -> Rate | None:
        key, option = (placed.place, depth), self._option
        if key not in self._decode:
            facts = option.facts
            runner = Runner(option.scenario.machine, option.threads, facts.calibration, facts.priors)
            self._decode[key] = placement_speed.decode(placed, runner, option.shape, option.weights, depth)
        return self._decode[key]

    def others(self, ctx: int) -> tuple[OtherPlacement, ...]:
        """The next best placements, the best first, each on other devices or with more or less of the model there."""
        option, chosen = self._option, self.at(ctx)
        gpus = [gpu for gpu in option.gpus if gpu.is_suited] or list(option.gpus)
        if not gpus:
            return ()
        load, used = self._load(ctx), [part.device for part in chosen.parts] or gpus[:1]
        every = (*placement.possible(load, gpus), *placement.others(load, used, chosen.experts_away))
        held = [placed for placed in every if option.counted(placed) <= option.scenario.budget_bytes]
        best: dict[object, Placement] = {}
        for placed in sorted(held, key=lambda placed: self._seconds(self.rates(placed))):
            best.setdefault((placed.layers, placed.experts_away, len(placed.parts)), placed)
        best.pop((chosen.layers, chosen.experts_away, len(chosen.parts)), None)
        return tuple(self._other(placed) for placed in list(best.values())[:OTHERS])

    def _other(self, placed: Placement) -> OtherPlacement:
        rates = self.rates(placed)
        known = rates.on_gpu or not placed.parts
        return OtherPlacement(
            placed.on_gpus, placed.gpu_layers, placed.experts_away, placed.ubatch, rates.decode if known else None,
            rates.prefill if known else None, self._option.counted(placed),
        )  # fmt: skip
