"""One thing that could be chosen: a model in a quantization from a source on a backend, with everything predicted.

Predictions are computed when a rule first asks, so that what an early rule drops costs nothing.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field, replace
from functools import cached_property

from edgellm.contract.backend import Offload
from edgellm.estimate import footprint, quality, quants, repack, small_row_mix, speed
from edgellm.estimate.tensor_types import TYPES
from edgellm.estimate.weights import Weights
from edgellm.history.corrections import Correction, Corrections
from edgellm.selection.backend_facts import BackendFacts
from edgellm.selection.offload import Placement, place
from edgellm.selection.scenario import CTX_UNKNOWN, THINKING_TOKENS, Scenario
from edgellm.types.basis import Corrected
from edgellm.types.model import ModelCard, ModelFile, Shape
from edgellm.types.plan import Candidate, Footprint, Rate
from edgellm.types.request import KV_TYPES

# Expected quality is charged a part of its downside: between equal middles, the better known one wins.
RISK = 0.25
# Estimated sizes were up to 2.3 % too small (gemma-4-e4b, nemotron-3-nano-4b): a twentieth is kept free for them.
UNSURE = 20
NEARLY_ALL = 0.97  # of the decode rate with all threads
NOTHING_RAN = Corrections()


def scheme(source: str) -> str:
    """`"hf://owner/repo:Q4_K_M"` -> `"hf"`."""
    return source.split(":", 1)[0].lower()


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
    _placed: dict[int, Placement] = field(default_factory=dict, init=False, repr=False, compare=False)
    _rated: dict[tuple[int, int], Rate] = field(default_factory=dict, init=False, repr=False, compare=False)

    @property
    def backend(self) -> str:
        return self.facts.name

    @property
    def offload(self) -> Offload | None:
        return self.facts.offload

    @cached_property
    def correction(self) -> Correction:
        """How far earlier predictions were off here, for it or for what is most like it."""
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
        return quality.kept(card.params, weights, quality.cache_loss(self.kv_type, card.params, card.family))

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
    def decode(self) -> Rate:
        return self.decode_at(min(speed.REFERENCE_DEPTH, self.card.ctx_train or CTX_UNKNOWN))

    def decode_at(self, depth: int) -> Rate:
        """Tokens per second of one slot that generates with `depth` tokens cached."""
        return corrected(self._rate(self.threads, depth), self.correction.decode, self.correction)

    def _rate(self, threads: int, depth: int = speed.REFERENCE_DEPTH) -> Rate:
        if (threads, depth) not in self._rated:
            self._rated[threads, depth] = self._predicted(threads, depth)
        return self._rated[threads, depth]

    def _predicted(self, threads: int, depth: int) -> Rate:
        machine, rates = self.scenario.machine, self.facts.calibration
        # Fewer bytes are more work: llama.cpp decoded at 0.4 to 0.6 of the rate with a q4_0 cache (docs/adr/027).
        # Without a measurement a smaller cache is not taken to be faster.
        kv_type = self.kv_type if rates is not None or self.kv_type == "f32" else "f16"
        own = self.facts.priors.rates
        return speed.decode(
            machine, self.shape, self.weights, threads, depth=depth, kv_type=kv_type, rates=rates, own=own
        )

    @cached_property
    def prefill(self) -> Rate:
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
        seconds = 1 / self.decode_at(depth).tok_s + (n_slots - 1) / self.prefill.tok_s
        return 1 / (seconds * (THINKING_TOKENS if self.thinks else 1))

    @property
    def rate(self) -> Rate:
        """What the floor is about: generating, or reading where nothing is generated."""
        return self.prefill if self.scenario.request.task == "embed" else self.decode

    @cached_property
    def useful_tps(self) -> float:
        """Tokens of answer per second: a model that thinks spends most tokens before it answers."""
        return self.rate.tok_s / THINKING_TOKENS if self.thinks else self.rate.tok_s

    @property
    def thinks(self) -> bool:
        return self.card.thinks(self.scenario.request.thinking)

    @cached_property
    def copies(self) -> tuple[int, int]:
        """Bytes of weights that the backend copies while it loads, and of them a table that is read on."""
        if not self.facts.repacking.types:
            return 0, 0
        return repack.repacked_bytes(self.shape, self.quant, self.facts.repacking, tuple(self.file.types.items()))

    @property
    def has_gpu(self) -> bool:
        return self.offload is not None and bool(self.offload.devices)

    def placed_at(self, ctx: int) -> Placement:
        """What goes to a GPU with `ctx` tokens per slot, and the memory of the rest."""
        if ctx not in self._placed:
            request = self.scenario.request
            copies, table = self.copies
            on_cpu = footprint.footprint(
                self.shape,
                self.tensor_bytes,
                ctx,
                self.scenario.slots,
                self.kv_type,
                repacked_bytes=copies,
                table_bytes=table,
            )
            on_cpu = with_resident(on_cpu, self.correction.resident)
            self._placed[ctx] = place(
                on_cpu, self.shape, self.tensor_bytes, self.quant, self.offload, request.gpu_layers
            )
        return self._placed[ctx]

    def footprint_at(self, ctx: int) -> Footprint:
        return self.placed_at(ctx).footprint

    def counted_at(self, ctx: int) -> int:
        """Bytes that count against the budget with `ctx` tokens per slot."""
        margin = 0 if self.weights.exact else self.tensor_bytes // UNSURE
        return footprint.counted_bytes(self.footprint_at(ctx), self.scenario.machine) + margin

    def fits_at(self, ctx: int) -> bool:
        """Whether RAM holds what stays there, and GPUs the layers that were asked for."""
        return self.counted_at(ctx) <= self.scenario.budget_bytes and not self.placed_at(ctx).problem

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
    def score(self) -> float:
        """What the ranking compares: expected quality, less a part of its downside, times the worth of its speed."""
        mid = self.ability.mid * self.kept.mid
        low = self.ability.low * self.kept.low
        tps = self.useful_tps
        if self.kv_type != "f16" and self.scenario.request.kv_type is None:
            # A smaller cache is taken for room or for the floor. Its speed counts no further, so that more memory never
            # leads to a worse choice.
            tps = min(tps, replace(self, kv_type="f16").useful_tps)
        return round((mid - RISK * (mid - low)) * speed_worth(tps, self.scenario), 4)

    def beside(self) -> Option:
        """This option with the threads that it gets beside other programs: the same where nothing is said of them."""
        threads = self.scenario.threads_beside
        if threads is None:
            return self
        return replace(self, scenario=replace(self.scenario, threads=threads, threads_beside=None))

    def candidate(self, ctx: int) -> Candidate:
        """This option with a context, as the plan that everyone else sees."""
        scenario, placed = self.scenario, self.placed_at(ctx)
        mid, low, high = (round(a * k, 2) for a, k in (
            (self.ability.mid, self.kept.mid), (self.ability.low, self.kept.low), (self.ability.high, self.kept.high),
        ))  # fmt: skip
        return Candidate(
            model=self.model, params=self.card.params, quant=self.quant, backend=self.backend, ctx=ctx,
            slots=scenario.slots, tensor_bytes=self.tensor_bytes, footprint=placed.footprint,
            decode=self.decode, prefill=self.prefill, quality=mid, quality_low=low, quality_high=high,
            source=self.file.source, license=self.card.license, kv_type=self.kv_type, threads=self.threads,
            threads_batch=scenario.threads, gpu_layers=placed.gpu_layers,
        )  # fmt: skip


def corrected(rate: Rate, factor: float, correction: Correction) -> Rate:
    """A predicted rate, corrected by earlier runs.

    Where the file itself ran here, the interval is as narrow as runs repeat. Otherwise it stays that of predictions.
    """
    if factor == 1.0 and correction.within is None:
        return rate
    within = correction.within
    ends = (rate.low, rate.high) if within is None else (rate.tok_s * (1 - within), rate.tok_s * (1 + within))
    tok_s, low, high = (float(f"{value * factor:.3g}") for value in (rate.tok_s, *ends))
    assert correction.basis is not None
    assert not isinstance(rate.basis, Corrected)
    return Rate(tok_s, low, high, Corrected(factor, correction.basis, rate.basis))


def with_resident(predicted: Footprint, factor: float) -> Footprint:
    """A footprint with `factor` times the resident bytes. The difference counts as the worker process's own."""
    if factor == 1.0:
        return predicted
    more = round(predicted.resident_bytes * (factor - 1))
    return replace(predicted, process_bytes=max(0, predicted.process_bytes + more))


def speed_worth(tps: float, scenario: Scenario) -> float:
    """Worth of a rate, 0..1: 0.8 at the floor, 1 from the comfortable rate on, proportional below the floor."""
    floor = scenario.floor_tps
    comfort = max(scenario.needs.comfort_tps, floor * 1.001)
    if tps < floor:
        return 0.8 * tps / floor
    return min(1.0, 0.8 + 0.2 * (tps - floor) / (comfort - floor))


def is_reachable(option: Option, schemes: Collection[str] | None, *, offline: bool) -> bool:
    """Whether its file can be had: it is here, it lies on a disk, or its source answers."""
    kinds = {scheme(part) for part in option.file.source.split()}
    if option.is_local or kinds == {"file"}:
        return True
    return not offline and (schemes is None or kinds <= set(schemes))
