"""One thing that could be chosen: a model in a quantization from a source on a backend, with everything predicted.

Predictions are computed when a rule first asks, so that what an early rule drops costs nothing.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from functools import cached_property

from edgellm.backend import Offload
from edgellm.estimate import footprint, quality, quants, speed
from edgellm.estimate.tensor_types import TYPES
from edgellm.estimate.weights import Weights
from edgellm.model import ModelCard, ModelFile, Shape
from edgellm.plan import Candidate, Footprint, Rate
from edgellm.selection.facts import THINKING_TOKENS, Setting
from edgellm.selection.offload import Placement, place

# Expected quality is charged a part of its downside: between equal middles, the better known one wins.
RISK = 0.25
# Estimated sizes were up to 2.3 % too small (gemma-4-e4b, nemotron-3-nano-4b): a twentieth is kept free for them.
UNSURE = 20


def scheme(source: str) -> str:
    """`"hf://owner/repo:Q4_K_M"` -> `"hf"`."""
    return source.split(":", 1)[0].lower()


@dataclass(frozen=True)
class Option:
    card: ModelCard
    file: ModelFile
    backend: str
    shape: Shape
    weights: Weights
    setting: Setting = field(repr=False)
    ability: quality.Estimate
    is_local: bool = False
    offload: Offload | None = field(default=None, repr=False)  # its backend's
    _placed: dict[int, Placement] = field(default_factory=dict, init=False, repr=False, compare=False)

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
        return quality.retention(self.quant, self.card.params, native=self.is_native)

    @cached_property
    def decode(self) -> Rate:
        return speed.decode(self.setting.machine, self.shape, self.weights, self.setting.threads)

    def decode_at(self, depth: int) -> Rate:
        return speed.decode(self.setting.machine, self.shape, self.weights, self.setting.threads, depth=depth)

    @cached_property
    def useful_tps(self) -> float:
        """Tokens of answer per second: a model that always thinks spends most tokens before it answers."""
        return self.decode.tok_s / THINKING_TOKENS if self.card.thinking else self.decode.tok_s

    @property
    def has_gpu(self) -> bool:
        return self.offload is not None and bool(self.offload.devices)

    def placed_at(self, ctx: int) -> Placement:
        """What goes to a GPU with `ctx` tokens per slot, and the memory of the rest."""
        if ctx not in self._placed:
            request = self.setting.request
            whole = footprint.footprint(self.shape, self.tensor_bytes, ctx, request.slots)
            self._placed[ctx] = place(
                whole, self.shape, self.tensor_bytes, self.quant, self.offload, request.gpu_layers
            )
        return self._placed[ctx]

    def footprint_at(self, ctx: int) -> Footprint:
        return self.placed_at(ctx).footprint

    def counted_at(self, ctx: int) -> int:
        """Bytes that count against the budget with `ctx` tokens per slot."""
        margin = 0 if self.weights.exact else self.tensor_bytes // UNSURE
        return footprint.counted_bytes(self.footprint_at(ctx), self.setting.machine) + margin

    def fits_at(self, ctx: int) -> bool:
        """Whether RAM holds what stays there, and GPUs the layers that were asked for."""
        return self.counted_at(ctx) <= self.setting.budget_bytes and not self.placed_at(ctx).problem

    @property
    def needed_ctx(self) -> int:
        return self.setting.needed_ctx(self.card.ctx_train)

    @cached_property
    def score(self) -> float:
        """What the ranking compares: expected quality, less a part of its downside, times the worth of its speed."""
        mid = self.ability.mid * self.kept.mid
        low = self.ability.low * self.kept.low
        return round((mid - RISK * (mid - low)) * speed_worth(self.useful_tps, self.setting), 4)

    def candidate(self, ctx: int) -> Candidate:
        """This option with a context, as the plan that everyone else sees."""
        setting, placed = self.setting, self.placed_at(ctx)
        mid, low, high = (round(a * k, 2) for a, k in (
            (self.ability.mid, self.kept.mid), (self.ability.low, self.kept.low), (self.ability.high, self.kept.high),
        ))  # fmt: skip
        return Candidate(
            model=self.model, params=self.card.params, quant=self.quant, backend=self.backend, ctx=ctx,
            slots=setting.request.slots, tensor_bytes=self.tensor_bytes, footprint=placed.footprint,
            decode=self.decode, prefill=speed.prefill(setting.machine, self.shape, self.weights, setting.threads),
            quality=mid, quality_low=low, quality_high=high, source=self.file.source, license=self.card.license,
            threads=setting.threads, gpu_layers=placed.gpu_layers,
        )  # fmt: skip


def speed_worth(tps: float, setting: Setting) -> float:
    """Worth of a rate, 0..1: 0.8 at the floor, 1 from the comfortable rate on, proportional below the floor."""
    floor = setting.floor_tps
    comfort = max(setting.needs.comfort_tps, floor * 1.001)
    if tps < floor:
        return 0.8 * tps / floor
    return min(1.0, 0.8 + 0.2 * (tps - floor) / (comfort - floor))


def is_reachable(option: Option, schemes: Collection[str] | None, *, offline: bool) -> bool:
    """Whether its file can be had: it is here, it lies on a disk, or its source answers."""
    kinds = {scheme(part) for part in option.file.source.split()}
    if option.is_local or kinds == {"file"}:
        return True
    return not offline and (schemes is None or kinds <= set(schemes))
