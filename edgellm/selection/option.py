"""One thing that could be chosen: a model in a quantization from a source on a backend, with everything predicted.

Predictions are computed when a rule first asks, so that what an early rule drops costs nothing.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cached_property

from edgellm.estimate import footprint, quality, quants, repack, small_row_mix, speed
from edgellm.estimate.tensor_types import TYPES
from edgellm.estimate.weights import Weights
from edgellm.history.corrections import NOTHING_RAN, Correction, Corrections
from edgellm.selection.backend_facts import BackendFacts
from edgellm.selection.corrected import corrected, with_resident
from edgellm.selection.placement import Placement
from edgellm.selection.placement_speed import PlacedRates
from edgellm.selection.places import Places
from edgellm.selection.scenario import CTX_UNKNOWN, SHORTEST_CTX, THINKING_TOKENS, Scenario
from edgellm.selection.source import scheme
from edgellm.selection.speed_worth import speed_worth
from edgellm.selection.usable_gpu import UsableGpu
from edgellm.types.model import ModelCard, ModelFile, Shape
from edgellm.types.plan import Candidate, Footprint, Rate
from edgellm.types.request import KV_TYPES

# Expected quality is charged a part of its downside: between equal middles, the better known one wins.
RISK = 0.25
# Estimated sizes were up to 2.3 % too small (gemma-4-e4b, nemotron-3-nano-4b): a twentieth is kept free for them.
UNSURE = 20
NEARLY_ALL = 0.97  # of the decode rate with all threads


@dataclass(frozen=True)
class Option:
    card: ModelCard
    file: ModelFile
    facts: BackendFacts = field(repr=False)
    shape: Shape
    weights: Weights
    scenario: Scenario = field(repr=False)
    ability: quality.Estimate
    is_local: bool = False
    kv_type: str = "f16"
    learned: Corrections = field(default=NOTHING_RAN, repr=False, compare=False)  # of earlier predictions here
    mean_kl: float | None = None  # to the unquantized model, as measured here
    veto: str = ""  # why a quality check on this machine refused it
    gpus: tuple[UsableGpu, ...] = field(default=(), repr=False, compare=False)  # of its backend
    _rated: dict[tuple[int, int], Rate] = field(default_factory=dict, init=False, repr=False, compare=False)

    @property
    def backend(self) -> str:
        return self.facts.name

    @cached_property
    def correction(self) -> Correction:
        """How far earlier predictions were off here, for it or for what is most like it, on the processor."""
        return self.learned.of(self.backend, self.model, self.quant, self.kv_type)

    @cached_property
    def lower(self) -> Option | None:
        """The same with the next smaller type of cache; None where there is none, or the type was asked for."""
        if self.scenario.request.kv_type is not None or self.kv_bytes_at(footprint.CELL_PAD) == 0:
            return None
        smaller = KV_TYPES[KV_TYPES.index(self.kv_type) + 1 :]
        kind = next((kind for kind in smaller if not self.facts.refuses_cache(kind, self.shape)), None)
        return None if kind is None else replace(self, kv_type=kind)

    def kv_bytes_at(self, ctx: int) -> int:
        """Bytes of the cache that grow with the context."""
        state = self.shape.recurrent_bytes * self.scenario.slots
        return footprint.kv_bytes(self.shape, ctx, self.scenario.slots, self.kv_type) - state

    @property
    def model(self) -> str:
        return self.card.id

    @property
    def quant(self) -> str:
        return self.file.quant

    @property
    def tensor_bytes(self) -> int:
        return self.weights.total_bytes

    @property
    def download_bytes(self) -> int:
        """What fetching it takes: nothing where it is on this disk; its weights where nobody states its size."""
        is_here = self.is_local or scheme(self.file.source) == "file"
        return 0 if is_here else self.file.bytes or self.tensor_bytes

    @property
    def bits(self) -> float:
        """Effective bits per weight, from predicted bytes: a name may hide what short rows fall back to."""
        return self.tensor_bytes * 8 / self.card.params

    @cached_property
    def low_bit_share(self) -> float:
        """Share of the weights that each token reads which are stored in fewer than `LOW_BITS` bits."""
        total = sum(n for _, n in self.weights.streamed_params) or 1
        low = sum(n for kind, n in self.weights.streamed_params if TYPES[kind].bits_per_weight < quants.LOW_BITS)
        return low / total

    @property
    def is_native(self) -> bool:
        """Trained in this type: its bits are no compression."""
        native = self.card.native_quant
        if not native:
            return False
        kinds = [quants.QUANTS[q].kind for q in (native, self.quant) if q in quants.QUANTS]
        return self.quant == native or kinds == ["ternary", "ternary"]

    @cached_property
    def kept(self) -> quality.Estimate:
        """Share of the ability that is left in this quantization with this type of cache."""
        card = self.card
        if self.mean_kl is not None and not self.is_native:
            weights = quality.checked_loss(self.mean_kl)
        else:
            # A hand-made mix is known by its name alone.
            short = None
            if quants.QUANTS[self.quant].predictable:
                own_types, streamed = tuple(self.file.types.items()), self.weights.streamed_params
                short = small_row_mix.stored(self.shape, self.quant, own_types, streamed)
            weights = quality.quant_loss(
                self.quant, card.params, native=self.is_native, family=card.family, short=short
            )
        cache = quality.cache_loss(self.kv_type, card.params, card.family)
        return quality.kept(card.params, *self._lost_before, weights, cache)

    @property
    def _lost_before(self) -> tuple[quality.Loss, ...]:
        """What the quantization lost that this one was made from."""
        before = quants.QUANTS.get(self.file.made_from)
        if before is None:
            return ()
        short = small_row_mix.stored(self.shape, before.name) if before.predictable else None
        return (quality.quant_loss(before.name, self.card.params, family=self.card.family, short=short),)

    @cached_property
    def threads(self) -> int:
        """Threads to decode with: the fewest that were measured to give nearly all of the speed.

        Where memory is the bound more of them gain nothing, and take turns from the rest of the machine. Without a
        measurement with fewer, all that compute. Threads that were asked for are kept.
        """
        most, rates = self.scenario.threads, self.facts.calibration
        if self.scenario.request.threads is not None or rates is None or not self.weights.streamed_params:
            return most
        kind = self.weights.streamed_params[0][0]
        counts = sorted({threads for name, threads in rates.decode if name == kind and threads < most})
        enough = NEARLY_ALL * self._rate(most).tok_s if counts else 0.0
        return next((n for n in counts if self._rate(n).tok_s >= enough), most)

    @cached_property
    def places(self) -> Places:
        """Where it could run."""
        return Places(self)

    @cached_property
    def decode(self) -> Rate:
        return self.decode_at(self.usual_depth)

    def decode_at(self, depth: int, ctx: int | None = None) -> Rate:
        """Tokens per second of one slot that generates with `depth` tokens cached, and room for `ctx`."""
        return self.places.decode(self.placed_at(self.rated_ctx if ctx is None else ctx), depth)

    def cpu_decode(self, depth: int) -> Rate:
        """The same on the processor alone."""
        return corrected(self._rate(self.threads, depth), self.correction.decode, self.correction)

    @cached_property
    def rated_ctx(self) -> int:
        """The context that the model is judged with: what its task needs, or the least where that does not fit."""
        needed = self.needed_ctx
        return needed if not self.has_gpu or self.fits_at(needed) else min(SHORTEST_CTX, needed)

    @property
    def usual_depth(self) -> int:
        return min(speed.REFERENCE_DEPTH, self.card.ctx_train or CTX_UNKNOWN)

    def rates_at(self, ctx: int) -> PlacedRates:
        """Decode with the usual depth, and prompts, where there is room for `ctx` tokens."""
        return self.places.rates(self.placed_at(ctx))

    def _rate(self, threads: int, depth: int = speed.REFERENCE_DEPTH) -> Rate:
        if (threads, depth) not in self._rated:
            self._rated[threads, depth] = self._predicted(threads, depth)
        return self._rated[threads, depth]

    def _predicted(self, threads: int, depth: int) -> Rate:
        machine, rates, own = self.scenario.machine, self.facts.calibration, self.facts.priors.rates
        return speed.decode(
            machine, self.shape, self.weights, threads, depth=depth, kv_type=self.rated_cache, rates=rates, own=own
        )

    @property
    def rated_cache(self) -> str:
        """What the processor's rate goes by: unmeasured, a smaller cache is not taken to be faster."""
        # Fewer bytes are more work: llama.cpp decoded at 0.4 to 0.6 of the rate with a q4_0 cache (docs/adr/027).
        return self.kv_type if self.facts.calibration is not None or self.kv_type == "f32" else "f16"

    @property
    def prefill(self) -> Rate:
        return self.rates_at(self.rated_ctx).prefill

    @cached_property
    def cpu_prefill(self) -> Rate:
        machine, threads, kv_type = self.scenario.machine, self.scenario.threads, self.kv_type
        rates, own = self.facts.calibration, self.facts.priors.rates
        rate = speed.prefill(machine, self.shape, self.weights, threads, kv_type=kv_type, rates=rates, own=own)
        return corrected(rate, self.correction.prefill, self.correction)

    def with_slots(self, n_slots: int) -> Option:
        request = replace(self.scenario.request, slots=n_slots)
        return replace(self, scenario=replace(self.scenario, request=request))

    def busy_tps(self, n_slots: int, depth: int) -> float:
        """Tokens of answer per second of each of `n_slots` that decode together.

        A step reads the weights once. What each further token adds is taken to be what a token of a prompt costs.
        """
        seconds = 1 / self.decode_at(depth, 2 * depth).tok_s + (n_slots - 1) / self.prefill.tok_s
        return 1 / (seconds * self._tokens)

    @property
    def rate(self) -> Rate:
        """What the floor is about: generating, or reading where nothing is generated."""
        return self.prefill if self.scenario.request.task == "embed" else self.decode

    @cached_property
    def useful_tps(self) -> float:
        """Tokens of answer per second: a model that thinks spends most tokens before it answers.

        Of placements that use GPUs at the low end: what the ranking counts on is what its placement at least keeps.
        """
        return self.places.worth_at(self.rated_ctx) / self._tokens

    def answers_at(self, tps: float) -> bool:
        """Whether `useful_tps` is at least that."""
        return self.places.reaches(self.rated_ctx, lambda tok_s: tok_s / self._tokens >= tps)

    @property
    def _tokens(self) -> float:
        """Generated for each one of the answer."""
        return THINKING_TOKENS if self.thinks else 1.0

    @property
    def thinks(self) -> bool:
        return self.card.thinks(self.scenario.request.thinking)

    @cached_property
    def copies(self) -> tuple[int, int]:
        """Bytes of weights that the backend copies while it loads, and of them a table that is read on."""
        if not self.facts.repacking.types:
            return 0, 0
        return repack.repacked_bytes(self.shape, self.quant, self.facts.repacking, tuple(self.file.types.items()))

    @cached_property
    def has_gpu(self) -> bool:
        """Whether some of it may be placed on a GPU: where layers are asked for, or one is worth its while."""
        asked = self.scenario.request.gpu_layers
        return bool(self.gpus) and (any(gpu.is_suited for gpu in self.gpus) if asked is None else asked != 0)

    def cpu_footprint(self, ctx: int, ubatch: int = footprint.UBATCH) -> Footprint:
        """What it takes of RAM where no GPU takes part."""
        copies, table = self.copies
        on_cpu = footprint.footprint(
            self.shape, self.tensor_bytes, ctx, self.scenario.slots, self.kv_type, batch=ubatch,
            repacked_bytes=copies, table_bytes=table,
        )  # fmt: skip
        return with_resident(on_cpu, self.correction.resident)

    def placed_at(self, ctx: int) -> Placement:
        """Where it would run with `ctx` tokens per slot."""
        return self.places.at(ctx)

    @cached_property
    def whole_on_gpu(self) -> Option | None:
        """This, or the same with a smaller cache, where GPUs with a memory of their own compute all of it."""
        placed = self.placed_at(self.rated_ctx)
        if placed.is_whole and not placed.is_unified:
            return self
        smaller = self.lower if self.has_gpu and self.kv_type == "f16" else None
        return None if smaller is None else smaller.whole_on_gpu

    def footprint_at(self, ctx: int) -> Footprint:
        return self.placed_at(ctx).footprint

    def counted(self, placed: Placement) -> int:
        """Bytes of a placement that count against the budget."""
        margin = 0 if self.weights.exact else self.tensor_bytes // UNSURE
        return footprint.counted_bytes(placed.footprint, self.scenario.machine) + margin

    def counted_at(self, ctx: int) -> int:
        """Bytes that count against the budget with `ctx` tokens per slot."""
        return self.counted(self.placed_at(ctx))

    def fits_at(self, ctx: int) -> bool:
        """Whether RAM holds what stays there, and GPUs the layers that were asked for."""
        return self.places.any_held(ctx)

    @property
    def needed_ctx(self) -> int:
        return self.scenario.needed_ctx(self.card.ctx_train)

    @property
    def most_ctx(self) -> int:
        """Tokens per slot that are planned unasked at most."""
        return min(self.card.ctx_train or CTX_UNKNOWN, self.scenario.needs.max_ctx)

    def is_trained_for_less(self, ctx: int) -> bool:
        """False where it is not known what it was trained for."""
        return 0 < self.card.ctx_train < ctx

    @cached_property
    def _quality(self) -> float:
        mid = self.ability.mid * self.kept.mid
        low = self.ability.low * self.kept.low
        return mid - RISK * (mid - low)

    @property
    def most_score(self) -> float:
        """What it would score if it were as fast as anybody wants: known without a rate."""
        return round(self._quality, 4)

    @cached_property
    def score(self) -> float:
        """What the ranking compares: expected quality, less a part of its downside, times the worth of its speed."""
        tps = self.useful_tps
        if self.kv_type != "f16" and self.scenario.request.kv_type is None:
            # A smaller cache is taken for room or for the floor. Its speed counts no further, so that more memory never
            # leads to a worse choice.
            tps = min(tps, replace(self, kv_type="f16").useful_tps)
        return round(self._quality * speed_worth(tps, self.scenario), 4)

    def beside(self) -> Option:
        """This option with the threads that it gets beside other programs: the same where nothing is said of them."""
        threads = self.scenario.threads_beside
        if threads is None:
            return self
        return replace(self, scenario=replace(self.scenario, threads=threads, threads_beside=None))

    def candidate(self, ctx: int) -> Candidate:
        """This option with a context, as the plan that everyone else sees."""
        scenario, placed, rates = self.scenario, self.placed_at(ctx), self.rates_at(ctx)
        mid, low, high = (round(a * k, 2) for a, k in (
            (self.ability.mid, self.kept.mid), (self.ability.low, self.kept.low), (self.ability.high, self.kept.high),
        ))  # fmt: skip
        return Candidate(
            model=self.model, params=self.card.params, quant=self.quant, backend=self.backend, ctx=ctx,
            slots=scenario.slots, tensor_bytes=self.tensor_bytes, footprint=placed.footprint,
            decode=rates.decode, prefill=rates.prefill, quality=mid, quality_low=low, quality_high=high,
            source=self.file.source, license=self.card.license, kv_type=self.kv_type, threads=self.threads,
            threads_batch=scenario.threads, gpu_layers=placed.gpu_layers, parts=placed.on_gpus,
            experts_away=placed.experts_away, ubatch=placed.ubatch, other_placements=self.places.others(ctx),
            counted_bytes=self.counted(placed),
        )  # fmt: skip
