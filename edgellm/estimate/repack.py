"""What a backend copies into another layout while it loads, for weights that are not in a file yet.

For a file that is here, the backend reads the header and knows better.
"""

from __future__ import annotations

from functools import lru_cache

from edgellm.estimate import recipe
from edgellm.estimate.tensor_types import TYPES
from edgellm.estimate.weights import stored_types
from edgellm.types.model import Shape
from edgellm.types.priors import Repacking


@lru_cache(maxsize=4096)
def repacked_bytes(
    shape: Shape, quant: str, repacking: Repacking, own_types: tuple[tuple[str, str], ...] = ()
) -> tuple[int, int]:
    """(Bytes of all copies, of them an embedding table that is the output table too); (0, 0) where no rule is known."""
    if quant not in recipe.BASE_TYPE:
        return 0, 0
    total = table = 0
    for part, kind, layers in stored_types(shape, quant, own_types):
        is_table = part.role == "token_embd"
        if kind not in repacking.types or part.rows % repacking.row_multiple:
            continue
        if is_table and not shape.tied_embeddings:
            continue
        size = TYPES[kind].tensor_bytes(part.elems) * layers
        total += size
        table += size if is_table else 0
    return total, table
