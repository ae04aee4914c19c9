"""What of a model one device computes, and which weights that is."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache

from msgspec import Struct

from edgellm.estimate import architecture
from edgellm.estimate.tensor_types import TYPES
from edgellm.estimate.weights import Weights, ranked
from edgellm.types.model import Shape


class ModelShare(Struct, frozen=True):
    """Shares from 0 to 1."""

    blocks: float = 1.0  # of the layers, with their cache
    table: bool = True  # the output table
    experts: float = 1.0  # of those layers' routed experts


WHOLE = ModelShare()


@lru_cache(maxsize=1024)
def expert_params(shape: Shape) -> int:
    """Weights of the routed experts that one token reads."""
    if not shape.n_expert:
        return 0
    parts = [part for part in architecture.tensors(shape) or () if part.role.endswith("_exps")]
    if parts:
        every = sum(part.elems * len(part.layers) for part in parts)
        return every * shape.n_expert_used // shape.n_expert
    # Three matrices a layer: gate, up and down.
    return 3 * shape.n_layer * shape.n_embd * (shape.n_ff_expert or shape.n_ff) * shape.n_expert_used


def table_params(shape: Shape, weights: Weights) -> tuple[str, int]:
    """Type and number of weights of the output table; ("", 0) where no type has so many.

    Mixes give the table more bits than most tensors. So of the types with that many weights it has the one with most.
    """
    table = shape.n_embd * shape.n_vocab
    fits = [kind for kind, n in weights.streamed_params if n >= table]
    return (max(fits, key=lambda kind: TYPES[kind].bits_per_weight), table) if fits else ("", 0)


def streamed_by(share: ModelShare, shape: Shape, weights: Weights) -> Weights:
    """`weights` with what a token reads of them on one device; the total stays the file's."""
    return weights if share == WHOLE else _streamed_by(share, shape, weights)


@lru_cache(maxsize=4096)  # asked by the device and by those that have the rest
def _streamed_by(share: ModelShare, shape: Shape, weights: Weights) -> Weights:
    counts = dict(weights.streamed_params)
    kind, table = table_params(shape, weights)
    if table:
        counts[kind] -= table
    experts = _experts_by_type(counts, expert_params(shape))
    own = {name: share.blocks * (n - experts.get(name, 0.0) * (1 - share.experts)) for name, n in counts.items()}
    if table and share.table:
        own[kind] += table
    read = _bytes(own) / _bytes(dict(weights.streamed_params)) if weights.streamed_params else 0.0
    by_type = ranked({name: round(n) for name, n in own.items() if round(n)})
    return replace(weights, streamed_bytes=round(weights.streamed_bytes * read), streamed_params=by_type)


def _experts_by_type(counts: dict[str, int], experts: int) -> dict[str, float]:
    """Experts have the type that only they can have, or a share of all types."""
    if experts and counts.get("MXFP4", 0) >= 0.9 * experts:
        return {"MXFP4": min(counts["MXFP4"], experts)}
    n = sum(counts.values())
    return {name: count * min(experts, n) / n for name, count in counts.items()} if n else {}


def _bytes(counts: dict[str, float] | dict[str, int]) -> float:
    return sum(n * TYPES[name].bits_per_weight / 8 for name, n in counts.items())
