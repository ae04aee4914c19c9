"""What quantization makes of models whose rows are no multiple of 256: the types that are stored, and how they count.

K-quants and codebook types of such models fall back to types of blocks of 32, so the name of a mix says little of what
it loses.
"""

from __future__ import annotations

from functools import lru_cache

from edgellm.estimate.weights import stored_types
from edgellm.model import Shape

SUPERBLOCK = 256  # weights in a block of the K-quants and codebook types
MOSTLY = 0.3  # of the weights in short rows, for the names of mixes to mean little
# What the same noise costs in a matrix, the others being 1: the mixes of llama.cpp give these more bits, and what
# SmolLM2-135M loses is met best with 3 to 4; Qwen2.5-0.5B's published rows do not tell (docs/decisions.md).
SENSITIVE = {"ffn_down": 3.0}


@lru_cache(maxsize=4096)
def stored(
    shape: Shape,
    quant: str,
    own_types: tuple[tuple[str, str], ...] = (),
    streamed: tuple[tuple[str, int], ...] = (),
) -> tuple[tuple[str, float], ...]:
    """(Type, weights that count) of a mix of a model with short rows; nothing where rows are long.

    Of an architecture whose matrices are not known `streamed` counts, as `Weights.streamed_params` estimates it.

    Raises:
        KeyError: no recipe of that name.
    """
    by_type: dict[str, float] = {}
    short = total = 0
    for part, kind, layers in stored_types(shape, quant, own_types):
        n = part.elems * layers
        total += n
        short += n if part.row % SUPERBLOCK else 0
        by_type[kind] = by_type.get(kind, 0.0) + n * SENSITIVE.get(part.role, 1.0)
    if not total:
        return streamed if shape.n_embd % SUPERBLOCK else ()
    return tuple(sorted(by_type.items())) if short > MOSTLY * total else ()
