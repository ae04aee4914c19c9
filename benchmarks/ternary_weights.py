"""Weights of a known shape without a file: all matrices are views of one buffer of random bits.

They are packed and computed with like any others, so a model of 17 GB needs no 17 GB on a disk.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from edgellm_bitnet.architecture import FAMILIES, Architecture
from edgellm_bitnet.weights import Bytes, Raw
from ternary_models import HEAD_CHUNK, SHAPES, Shape, random_head, tensor_list

from edgellm.formats.gguf.writer import TensorInfo

HEAD = "q6_k"


class RandomWeights:
    """See `edgellm_bitnet.weights.Weights`."""

    def __init__(self, name: str, seed: int = 1) -> None:
        shape = SHAPES[name]
        self.where = f"{name} with random weights"
        self.architecture = architecture(shape)
        self.tensors: dict[str, TensorInfo] = {t.name: t for t in tensor_list(shape, "i2_s", HEAD)}
        self._name, self._seed = name, seed
        rng = np.random.default_rng(seed)
        largest = max(rows_of(t) * t.dims[0] // 4 for t in self.tensors.values() if t.type.name == "I2_S")
        pairs = np.array([4 * high + low for high in range(3) for low in range(3)], np.uint8)  # no code is 3
        self._codes = pairs[rng.integers(0, 9, largest, np.uint8)] << 4 | pairs[rng.integers(0, 9, largest, np.uint8)]
        self._head = np.resize(
            random_head(rng, HEAD_CHUNK, shape.hidden, HEAD), (shape.vocab, shape.hidden // 256 * 210)
        )

    @property
    def source_bytes(self) -> int:
        """What the buffers take, which no model would."""
        return self._codes.nbytes + self._head.nbytes

    def matrix(self, role: str) -> Raw | None:
        if role not in self.tensors:
            return None
        tensor = self.tensors[role]
        rows, cols = rows_of(tensor), tensor.dims[0]
        if tensor.type.name == "I2_S":
            data: Bytes = self._codes[: rows * cols // 4]
            return Raw(role, "I2_S", data, rows, cols, scale=float((cols * 2 / 3) ** -0.5))
        return Raw(role, tensor.type.name, self._head.reshape(-1), rows, cols)

    def vector(self, role: str, size: int) -> npt.NDArray[np.float32] | None:
        return np.ones(size, np.float32) if role in self.tensors else None

    def release(self) -> None:
        """Every matrix needs the buffers again."""

    def fingerprint(self) -> list[object]:
        return [self._name, self._seed]


def architecture(shape: Shape) -> Architecture:
    return Architecture(
        name=shape.architecture, family=FAMILIES[shape.architecture], layers=shape.layers, hidden=shape.hidden,
        ffn=shape.ffn, heads=shape.heads, kv_heads=shape.kv_heads, head_dim=shape.head_dim, vocab=shape.vocab,
        ctx_train=4096, eps=1e-5, rope_dim=shape.head_dim, rope_theta=shape.theta,
    )  # fmt: skip


def rows_of(tensor: TensorInfo) -> int:
    return tensor.dims[1] if len(tensor.dims) > 1 else 1
