"""Which matrices llama.cpp copies into another layout while it loads.

The build that is here says so itself (`library.verdict`). For other machines a stock build is assumed, whose choice
follows from the instruction sets of the processor (ggml-cpu/repack.cpp, ggml-cpu/amx).
"""

from __future__ import annotations

from collections.abc import Iterable

from edgellm.estimate.isa import isa_class
from edgellm.estimate.tensor_types import TYPES
from edgellm.types.machine import Cpu
from edgellm.types.priors import Repacking

ROW_MULTIPLE = 8  # a matrix with another number of rows stays as it is (ggml-cpu/repack.cpp)


def of_types(types: Iterable[str]) -> Repacking:
    return Repacking(frozenset(types), ROW_MULTIPLE)


def of_stock_build(cpu: Cpu, os: str = "linux") -> Repacking:
    """What a build for this processor copies."""
    paths = isa_class(cpu, os).paths
    return of_types(name for name, kind in TYPES.items() if kind.repack & paths)
