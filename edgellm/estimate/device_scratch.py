"""Scratch of one batch on a GPU, and which block has how much of the cache.

Of a model that is whole on the device, scratch is what one layer computes. Of one that is not, llama.cpp still computes
prompts there, op by op (`op_offload`, from 32 tokens on): what an op reads of the host is copied first, a weight matrix
or the cache of a block. Fitted to what llama.cpp 0.5.0-dev (0c1e57098) reserves for fourteen kinds of models in 2,376
settings (docs/benchmarks/log/gpu-memory.md).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate, pairwise

from msgspec import Struct

from edgellm.contract.engine import SPARE_LOGITS
from edgellm.estimate import architecture
from edgellm.estimate.footprint import COMPUTE_MARGIN_BYTES, local_cells, padded
from edgellm.estimate.layer_parts import full_layers
from edgellm.types.layers import Layers
from edgellm.types.model import Shape

_CONVOLVING = frozenset({"lfm2", "lfm2moe", "granitehybrid"})
_FUSED = frozenset({"phi3", "glm4"})  # gate and up of the feed-forward network are one matrix
LEAST_OFFLOADED = 32  # tokens (GGML_OP_OFFLOAD_MIN_BATCH)


@lru_cache(maxsize=4096)
def block_caches(shape: Shape, cached_bytes: int, ctx: int, batch: int) -> tuple[int, ...]:
    """Of all `cached_bytes`, those of each block.

    Layers of two kinds: beside a sliding window some cache everything, beside recurrent state some cache anything. The
    last ones may share the cache of others.
    """
    n_layer = max(1, shape.n_layer)
    n_own = n_layer - shape.shared_kv_layers
    at = {layer for layer in full_layers(shape) if layer < n_own}
    full, rest = shape.kv_full_bytes * padded(ctx), shape.kv_swa_bytes * local_cells(shape, ctx, batch)
    if shape.n_attn:
        full, rest = full + rest, shape.recurrent_bytes
    elif len(at) == n_own:
        full += rest
    share = {True: full / max(1, len(at)), False: rest / max(1, n_own - len(at))}
    weights = [share[layer in at] for layer in range(n_own)] + [0.0] * shape.shared_kv_layers
    scale = cached_bytes / (sum(weights) or 1.0)
    return tuple(round(weight * scale) for weight in weights)


class Scratch:
    """Of one batch of a model, for every way to split it between a device and the host."""

    def __init__(  # noqa: PLR0917
        self, shape: Shape, layers: Layers, caches: tuple[int, ...], ctx: int, slots: int, ubatch: int,
        *, flash_attention: bool = True, on_vulkan: bool = False,
    ) -> None:  # fmt: skip
        """`caches`: of each block, for all slots."""
        self._shape, self._hybrid, self._fused = shape, shape.arch == "granitehybrid", shape.arch in _FUSED
        self._blocks, self._caches = len(caches), _copied_caches(shape, caches)
        self._batch = _batch(shape, layers.widths, ctx, slots, ubatch, flash_attention)
        self._largest, self._pairs = _largest_before(layers), _pairs_before(self._caches)
        self._own = tuple(accumulate(self._caches, max)) if shape.n_expert else ()
        # Vulkan multiplies no values of several slots by the one matrix that unpacks them, so the processor attends.
        self._attends = not (on_vulkan and slots > 1 and architecture.is_latent(shape))

    def reserved_bytes(self, first: int, experts_away: int) -> int:
        """On a device that holds the output table and all blocks from `first` on.

        Args:
            experts_away: of how many of the first blocks the routed experts are on the host.
        """
        batch, (matrices, expert_matrices) = self._batch, self._largest
        masks = batch.masks
        most = max(batch.layer + masks.held[first], batch.logits)
        if batch.n_tok < LEAST_OFFLOADED:
            return most + COMPUTE_MARGIN_BYTES
        # Of a model with convolutions only the last block in RAM attends on the device, if it attends.
        attends = self._attends and (not masks.convolves or first - 1 in masks.attends)
        away = min(max(first, experts_away), len(expert_matrices) - 1)
        matrix, routed = matrices[first], self._routed(first, expert_matrices[away])
        copied = max(
            batch.forward + matrix if matrix and not self._fused else 0,
            # Gate and up in one matrix: with it, and with the next one, half as large, when both are multiplied.
            max(batch.forward + matrix // 2, batch.forward * 2 // 3 + matrix) if matrix and self._fused else 0,
            batch.routed + routed if routed else 0,
        )
        if copied:
            if not first or masks.convolves:
                kept = masks.held[first] + (batch.states if first < self._blocks and first and attends else 0)
            else:  # ops that are computed apart from their neighbours keep two more states
                kept = (masks.forwarding[first] if attends or first < self._blocks else 0) + 2 * batch.states
            most = max(most, copied + kept)
        if first:
            if masks.slides and masks.held[first] > masks.forwarding[first]:
                most = max(most, batch.layer + masks.held[first] + 2 * batch.states)
            if attends:
                # Keys and values of one block, and the keys of the next.
                pair = max(self._pairs[first - 1], self._caches[first - 1]) + self._lent(first)
                most = max(most, pair + masks.attending[first] + batch.attending)
                if routed:  # beside keys and values, where these are no larger
                    beside = min(self._own[first - 1], expert_matrices[away])
                    most = max(most, beside + expert_matrices[away] + masks.attending[first] + 2 * batch.states)
        return most + COMPUTE_MARGIN_BYTES

    def _routed(self, first: int, matrix: int) -> int:
        """Of routed experts, what is copied at once: now and then the next matrix lies beside the last."""
        apart = self._hybrid or (self._shape.arch == "gemma4" and not first)
        return matrix + matrix // 2 if apart else matrix

    def _lent(self, first: int) -> int:
        """Keys that blocks on the device read of a layer in RAM, beside what is copied for those there."""
        n_own = self._blocks - self._shape.shared_kv_layers
        return max(self._caches[n_own:]) // 2 if n_own <= first < self._blocks else 0


class _Masks(Struct, frozen=True):
    """Bytes of the masks that the device keeps at a moment, by how many blocks are in RAM.

    A mask is copied there before the first op that reads it, and kept until the last one has. The blocks on the device
    are one graph, so theirs are copied before its first block.
    """

    forwarding: tuple[int, ...]  # at most, while it computes a feed-forward network of a block in RAM
    attending: tuple[int, ...]  # or the attention of one
    held: tuple[int, ...]  # while it computes its own
    attends: frozenset[int]  # blocks that cache every token
    convolves: bool
    slides: bool


@dataclass(frozen=True, slots=True)
class _Batch:
    """Bytes of the moments of a batch, without masks."""

    n_tok: int
    states: int  # of one layer
    masks: _Masks
    attending: int  # beside keys, values and masks
    forward: int  # the feed-forward network
    routed: int  # the routed experts
    layer: int
    logits: int


@lru_cache(maxsize=4096)
def _batch(  # noqa: PLR0917
    shape: Shape, widths: tuple[int, ...], ctx: int, slots: int, ubatch: int, flash_attention: bool
) -> _Batch:
    n_tok, cells = min(ctx * slots, ubatch), padded(ctx)
    states = n_tok * shape.n_embd * 4
    beside, network = 2 * states, 3
    if shape.per_layer_width:
        beside += 2 * states + n_tok * shape.per_layer_width * shape.n_layer * 4
    if shape.arch == "gemma3n":  # four states instead of one, and a copy of the gate whose small values are dropped
        beside, network = beside + 2 * states, 4
    dense = n_tok * 4 * network * _dense_width(shape, widths) + beside
    expert = shape.n_ff_expert or shape.n_ff if shape.n_expert else 0
    routed = n_tok * 4 * shape.n_expert_used * max(3 * expert, expert + shape.n_embd) + beside
    if shape.arch == "gemma4" and shape.n_expert:  # a dense network beside what all experts answered
        dense += n_tok * 4 * shape.n_expert_used * shape.n_embd + states
    mixer = n_tok * 4 * max(3 * architecture.delta_width(shape), architecture.mixer_width(shape)) + beside
    layer = max(dense, routed, mixer)
    cell = n_tok * 2 * (1 if flash_attention else 2)
    scores = 0 if flash_attention else n_tok * shape.n_head * cells * 4
    local = cell * local_cells(shape, ctx, ubatch) if shape.sliding_window else 0
    logits = min(n_tok, slots + SPARE_LOGITS) * shape.n_vocab * 4 + 2 * states
    # Queries of Qwen 3.5 come with gates as wide, and both are copied apart.
    attending = (15 if architecture.delta_width(shape) else 9) * states // 2
    masks = _masks(shape, cell * cells, local)
    return _Batch(n_tok, states, masks, attending + scores, dense + scores, routed + scores, layer + scores, logits)


@lru_cache(maxsize=4096)
def _masks(shape: Shape, full: int, local: int) -> _Masks:
    """`full`, `local`: bytes of the mask of all cells, and of those in a sliding window."""
    every, attends = range(max(1, shape.n_layer)), full_layers(shape)
    kinds = ((full, attends), (local, [layer for layer in every if layer not in attends] if local else []))
    spans = [(size, layers[0], layers[-1]) for size, layers in kinds if layers]
    forwarding = [sum(size for size, start, end in spans if start <= layer < end) for layer in every]
    attending = [sum(size for size, start, end in spans if start <= layer <= end) for layer in every]
    held = [sum(size for size, _, end in spans if end > first or not first) for first in range(len(every) + 1)]
    forwarding, attending = (list(accumulate(sizes, max, initial=0)) for sizes in (forwarding, attending))
    return _Masks(
        tuple(forwarding),
        tuple(attending),
        tuple(held),
        frozenset(attends),
        shape.arch in _CONVOLVING and (shape.arch != "granitehybrid" or not shape.n_expert),
        bool(local),
    )


@lru_cache(maxsize=4096)
def _largest_before(layers: Layers) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Of the blocks before each, the largest matrix, and the largest of routed experts."""
    unknown = (0,) * len(layers.blocks)
    matrices = accumulate(layers.matrices or unknown, max, initial=0)
    return tuple(matrices), tuple(accumulate(layers.expert_matrices or unknown, max, initial=0))


@lru_cache(maxsize=4096)
def _pairs_before(caches: tuple[int, ...]) -> tuple[int, ...]:
    """Of the blocks before each, the most that the cache of one takes with half of the next one's."""
    pairs = (own + following // 2 for own, following in pairwise(caches))
    return tuple(accumulate(pairs, max, initial=0))


def _copied_caches(shape: Shape, caches: tuple[int, ...]) -> tuple[int, ...]:
    """Of each block in RAM, what is copied to attend: layers without a cache read that of the last of their kind.

    Latent values lie within the keys, and are copied apart.
    """
    if architecture.is_latent(shape):
        return tuple(2 * size for size in caches)
    if not shape.shared_kv_layers:
        return caches
    n_own, full = len(caches) - shape.shared_kv_layers, set(full_layers(shape))
    last = {layer in full: caches[layer] for layer in range(n_own)}
    return caches[:n_own] + tuple(last.get(layer in full, 0) for layer in range(n_own, len(caches)))


def _dense_width(shape: Shape, widths: tuple[int, ...]) -> int:
    """Of the widest network that is no routed expert: headers of most mixtures state a width that no tensor has."""
    return max(widths, default=shape.n_ff)
