"""Scratch of one batch on a GPU, and which block has how much of the cache.

Of a model that is whole on the device, scratch is what one layer computes. Of one that is not, llama.cpp still computes
prompts there, op by op (`op_offload`, from 32 tokens on): what an op reads of the host is copied first, a weight matrix
or the cache of a block. Fitted to what llama.cpp 0.5.0-dev (0c1e57098) reserves for six architectures in 1,584 settings
(docs/benchmarks/log/gpu-memory.md).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate, pairwise

from msgspec import Struct

from edgellm.contract.engine import SPARE_LOGITS
from edgellm.estimate import architecture
from edgellm.estimate.footprint import COMPUTE_MARGIN_BYTES, local_cells, padded
from edgellm.estimate.layer_bytes import Layers
from edgellm.types.model import Shape

_CONVOLVING = frozenset({"lfm2", "lfm2moe"})
LEAST_OFFLOADED = 32  # tokens (GGML_OP_OFFLOAD_MIN_BATCH)


@lru_cache(maxsize=4096)
def block_caches(shape: Shape, cached_bytes: int, ctx: int, batch: int) -> tuple[int, ...]:
    """Of all `cached_bytes`, those of each block.

    Layers of two kinds: beside a sliding window some cache everything, beside recurrent state some cache anything.
    """
    n_layer, at = max(1, shape.n_layer), set(architecture.full_layers(shape))
    full, rest = shape.kv_full_bytes * padded(ctx), shape.kv_swa_bytes * local_cells(shape, ctx, batch)
    if shape.n_attn:
        full, rest = full + rest, shape.recurrent_bytes
    elif len(at) == n_layer:
        full += rest
    share = {True: full / len(at), False: rest / max(1, n_layer - len(at))}
    weights = [share[layer in at] for layer in range(n_layer)]
    scale = cached_bytes / (sum(weights) or 1.0)
    return tuple(round(weight * scale) for weight in weights)


class Scratch:
    """Of one batch of a model, for every way to split it between a device and the host."""

    def __init__(  # noqa: PLR0917
        self, shape: Shape, layers: Layers, caches: tuple[int, ...], ctx: int, slots: int, ubatch: int,
        *, flash_attention: bool = True,
    ) -> None:  # fmt: skip
        """`caches`: of each block, for all slots."""
        self._caches = caches
        self._batch = _batch(shape, ctx, slots, ubatch, flash_attention)
        self._largest, self._pairs = _largest_before(layers), _pairs_before(caches)

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
        attends = not masks.convolves or first - 1 in masks.attends
        away = min(max(first, experts_away), len(expert_matrices) - 1)
        copied = max(matrices[first], expert_matrices[away])
        if copied:
            if not first or masks.convolves:
                kept = masks.held[first] + (batch.states if first < len(self._caches) and first and attends else 0)
            else:  # ops that are computed apart from their neighbours keep two more states
                kept = masks.forwarding[first] + 2 * batch.states
            most = max(most, batch.forward + copied + kept)
        if first:
            if masks.slides and masks.held[first] > masks.forwarding[first]:
                most = max(most, batch.layer + masks.held[first] + 2 * batch.states)
            if attends:
                # Keys and values of one block, and the keys of the next.
                pair = max(self._pairs[first - 1], self._caches[first - 1])
                most = max(most, pair + masks.attending[first] + batch.attending)
        return most + COMPUTE_MARGIN_BYTES


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
    layer: int
    logits: int


@lru_cache(maxsize=4096)
def _batch(shape: Shape, ctx: int, slots: int, ubatch: int, flash_attention: bool) -> _Batch:
    n_tok, cells = min(ctx * slots, ubatch), padded(ctx)
    states = n_tok * shape.n_embd * 4
    expert = shape.n_ff_expert or shape.n_ff if shape.n_expert else 0
    routed = shape.n_expert_used * max(3 * expert, expert + shape.n_embd)
    forward = n_tok * 4 * max(3 * _dense_width(shape), routed) + 2 * states
    layer = max(forward, n_tok * 4 * 3 * architecture.delta_width(shape) + 2 * states)
    cell = n_tok * 2 * (1 if flash_attention else 2)
    scores = 0 if flash_attention else n_tok * shape.n_head * cells * 4
    local = cell * local_cells(shape, ctx, ubatch) if shape.sliding_window else 0
    logits = min(n_tok, slots + SPARE_LOGITS) * shape.n_vocab * 4 + 2 * states
    # Queries of Qwen 3.5 come with gates as wide, and both are copied apart.
    attending = (15 if architecture.delta_width(shape) else 9) * states // 2
    masks = _masks(shape, cell * cells, local)
    return _Batch(n_tok, states, masks, attending + scores, forward + scores, layer + scores, logits)


@lru_cache(maxsize=4096)
def _masks(shape: Shape, full: int, local: int) -> _Masks:
    """`full`, `local`: bytes of the mask of all cells, and of those in a sliding window."""
    every, attends = range(max(1, shape.n_layer)), architecture.full_layers(shape)
    kinds = ((full, attends), (local, [layer for layer in every if layer not in attends] if local else []))
    spans = [(size, layers[0], layers[-1]) for size, layers in kinds if layers]
    forwarding = [sum(size for size, start, end in spans if start <= layer < end) for layer in every]
    attending = [sum(size for size, start, end in spans if start <= layer <= end) for layer in every]
    held = [sum(size for size, _, end in spans if end > first or not first) for first in range(len(every) + 1)]
    forwarding, attending = (list(accumulate(sizes, max, initial=0)) for sizes in (forwarding, attending))
    return _Masks(
        tuple(forwarding), tuple(attending), tuple(held), frozenset(attends), shape.arch in _CONVOLVING, bool(local)
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


def _dense_width(shape: Shape) -> int:
    """Of the widest network that is no routed expert: headers of most mixtures state a width that no tensor has."""
    tensors = architecture.tensors(shape) if shape.n_expert else None
    return shape.n_ff if tensors is None else max((t.rows for t in tensors if t.role == "ffn_up"), default=0)
