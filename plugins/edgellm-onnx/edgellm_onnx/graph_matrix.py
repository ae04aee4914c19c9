"""A matrix of the graph: the GGUF tensors that it is made of, how many bits its weights get, and its node."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from onnx import TensorProto

from edgellm_onnx.convert_blocks import BLOCK, has_zeros
from edgellm_onnx.graph_store import Store


@dataclass(frozen=True, slots=True)
class Part:
    """One GGUF tensor of a matrix."""

    tensor: str
    kind: str  # its type: "Q4_0", "F16", ...
    rows: int
    heads: int = 0  # whose rows are put from rotated neighbours, (2i, 2i + 1), into halves; 0 = as they are

    def order(self) -> npt.NDArray[np.int64]:
        """Which row of the tensor each row is."""
        every = np.arange(self.rows)
        if not self.heads:
            return every
        return every.reshape(self.heads, -1, 2).swapaxes(1, 2).reshape(self.rows)


@dataclass(frozen=True, slots=True)
class Matrix:
    """Rows of several tensors below one another, multiplied as one."""

    name: str
    parts: tuple[Part, ...]
    cols: int
    bits: int  # 4, 8 or 16

    @property
    def rows(self) -> int:
        return sum(part.rows for part in self.parts)

    @property
    def zeros(self) -> bool:
        return any(has_zeros(part.kind, self.bits) for part in self.parts)

    @property
    def weight(self) -> str:
        return f"{self.name}.weight" + ("" if self.bits == 16 else f"_Q{self.bits}")

    @property
    def scales(self) -> str:
        return f"{self.name}.scales"

    @property
    def zero_points(self) -> str:
        return f"{self.name}.zero_points" if self.zeros else ""

    @property
    def n_blocks(self) -> int:
        return self.cols // BLOCK

    def reserve(self, store: Store) -> None:
        """Places for its initializers."""
        if self.bits == 16:
            store.reserve(self.weight, TensorProto.FLOAT16, self.rows, self.cols)
            return
        store.reserve(self.weight, TensorProto.UINT8, self.rows, self.n_blocks, BLOCK * self.bits // 8)
        store.reserve(self.scales, TensorProto.FLOAT, self.rows, self.n_blocks)
        if self.zeros:
            store.reserve(self.zero_points, TensorProto.UINT8, self.rows, math.ceil(self.n_blocks * self.bits / 8))
