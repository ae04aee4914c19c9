"""What quantization makes of models whose rows are no multiple of 256: the types that are stored, and how they count.

K-quants and codebook types of such models fall back to types of blocks of 32, so the name of a mix says little of what
it loses.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

from edgellm.estimate.weights import matrices_of, stored_types
from edgellm.types.model import Shape

SUPERBLOCK = 256  # weights in a block of the K-quants and codebook types
MOSTLY = 0.3  # of the weights in short rows, for the names of mixes to mean little
# What the same noise costs in a matrix, the others being 1: fitted together with quality's losses of types alone on
# SmolLM2-135M, Gemma 3 270M and Qwen2.5-0.5B; two of them predict the third as well (docs/adr/029). The mixes of
# llama.cpp give the same three more bits. Tables stay in 8 bits in all mixes of such models and lose nothing.
SENSITIVE = {"ffn_down": 4.0, "attn_v": 4.0, "attn_output": 2.0, "token_embd": 0.0, "output": 0.0}


@dataclass(frozen=True, slots=True)
class StoredMix:
    types: tuple[tuple[str, float], ...]  # type -> weights, as they count
    body: int  # weights of all matrices that are no tables


@lru_cache(maxsize=4096)
def stored(
    shape: Shape,
    quant: str,
    own_types: tuple[tuple[str, str], ...] = (),
    streamed: tuple[tuple[str, int], ...] = (),
) -> StoredMix | None:
    """What a mix of a model with short rows is stored in; None where rows are long.

    Of an architecture whose matrices are not known `streamed` counts, as `Weights.streamed_params` estimates it.

    Raises:
        KeyError: no recipe of that name.
    """
    if not _has_short_rows(shape):
        return None
    by_type: dict[str, float] = {}
    body = 0
    for part, kind, layers in stored_types(shape, quant, own_types):
        n, counts = part.elems * layers, SENSITIVE.get(part.role, 1.0)
        body += n if counts else 0
        by_type[kind] = by_type.get(kind, 0.0) + n * counts
    if not body:
        return StoredMix(streamed, sum(n for _, n in streamed)) if streamed else None
    return StoredMix(tuple(sorted(by_type.items())), body)


@lru_cache(maxsize=1024)
def _has_short_rows(shape: Shape) -> bool:
    matrices, _ = matrices_of(shape)
    if not matrices:
        return bool(shape.n_embd % SUPERBLOCK)
    sizes = [(part.row, part.elems * len(part.layers)) for part in matrices]
    return sum(n for row, n in sizes if row % SUPERBLOCK) > MOSTLY * sum(n for _, n in sizes)
