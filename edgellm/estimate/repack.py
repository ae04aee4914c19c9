"""What a build of llama.cpp copies into another layout while it loads, of weights that lie in no file yet.

Of a file at hand its backend knows better, from the header. Which types are copied is asked of the build where there is
one, and follows from the processor otherwise (`TensorType.repack`).
"""

from __future__ import annotations

from functools import lru_cache

from edgellm.estimate import recipe
from edgellm.estimate.isa import isa_class
from edgellm.estimate.tensor_types import TYPES
from edgellm.estimate.weights import stored_types
from edgellm.types.machine import Cpu
from edgellm.types.model import Shape

ROWS = 8  # a matrix of another number of rows is left as it is (ggml-cpu/repack.cpp)


def types(cpu: Cpu, os: str = "linux") -> frozenset[str]:
    """Tensor types that a build for this processor copies."""
    paths = isa_class(cpu, os).paths
    return frozenset(name for name, kind in TYPES.items() if kind.repack & paths)


@lru_cache(maxsize=1024)
def repacked_bytes(
    shape: Shape, quant: str, copied: frozenset[str], own_types: tuple[tuple[str, str], ...] = ()
) -> tuple[int, int]:
    """(Bytes of all copies, of them an embedding table that is the output table too); (0, 0) where no rule is known."""
    if quant not in recipe.BASE_TYPE:
        return 0, 0
    total = table = 0
    for part, kind, layers in stored_types(shape, quant, own_types):
        is_table = part.role == "token_embd"
        if kind not in copied or part.rows % ROWS or (is_table and not shape.tied_embeddings):
            continue
        size = TYPES[kind].tensor_bytes(part.elems) * layers
        total += size
        table += size if is_table else 0
    return total, table
