"""Storage types of GGUF tensors: block sizes, and what a processor does with them.

Knows nothing of models or of quantization names; `estimate/recipe.py` says which tensor gets which type.
Block sizes: ggml `GGML_QUANT_SIZES` (gguf 0.19.0, llama.cpp b11434). I2_S is bitnet.cpp's: 2 bits a weight and one
32-byte scale block per tensor, counted in `tensor_bytes`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Cost = Literal["plain", "k", "codebook", "ternary", "float"]

ALIGNMENT = 32  # GGUF `general.alignment`: every tensor starts on a multiple of it


@dataclass(frozen=True, slots=True)
class TensorType:
    name: str
    block_elems: int  # weights per block
    block_bytes: int
    cost: Cost  # what unpacking a weight costs: `codebook` looks it up in a table, `ternary` divides by powers of 3
    repack: frozenset[str] = (
        frozenset()
    )  # paths that copy the weights into an interleaved layout: "avx2" "avx512" "dotprod" "amx"
    gemm: frozenset[str] = frozenset()  # paths with a tiled matrix product for prompts: "x86"

    @property
    def bits_per_weight(self) -> float:
        return self.block_bytes * 8 / self.block_elems

    def tensor_bytes(self, n_elems: int) -> int:
        """Bytes of one tensor of `n_elems` weights, padded to the alignment."""
        size = n_elems // self.block_elems * self.block_bytes
        if self.name == "I2_S":
            size += 32
        return -(-size // ALIGNMENT) * ALIGNMENT


def _type(name: str, elems: int, size: int, cost: Cost, repack: str = "", gemm: str = "") -> TensorType:
    return TensorType(name, elems, size, cost, frozenset(repack.split()), frozenset(gemm.split()))


_ALL = (
    _type("F32", 1, 4, "float"),
    _type("F16", 1, 2, "float"),
    _type("BF16", 1, 2, "float"),
    _type("Q4_0", 32, 18, "plain", "avx2 dotprod amx"),
    _type("Q4_1", 32, 20, "plain", "amx"),
    _type("Q5_0", 32, 22, "plain"),
    _type("Q5_1", 32, 24, "plain"),
    _type("Q8_0", 32, 34, "plain", "dotprod amx"),
    _type("Q1_0", 128, 18, "plain", "dotprod"),
    _type("Q2_0", 64, 18, "plain"),
    _type("Q2_K", 256, 84, "k", "avx512", "x86"),
    _type("Q3_K", 256, 110, "k", "", "x86"),
    _type("Q4_K", 256, 144, "k", "avx2 dotprod amx", "x86"),
    _type("Q5_K", 256, 176, "k", "dotprod amx", "x86"),
    _type("Q6_K", 256, 210, "k", "dotprod amx", "x86"),
    _type("IQ1_S", 256, 50, "codebook", "", "x86"),
    _type("IQ1_M", 256, 56, "codebook", "", "x86"),
    _type("IQ2_XXS", 256, 66, "codebook", "", "x86"),
    _type("IQ2_XS", 256, 74, "codebook", "", "x86"),
    _type("IQ2_S", 256, 82, "codebook", "", "x86"),
    _type("IQ3_XXS", 256, 98, "codebook", "", "x86"),
    _type("IQ3_S", 256, 110, "codebook", "", "x86"),
    _type("IQ4_NL", 32, 18, "plain", "avx2 dotprod"),
    _type("IQ4_XS", 256, 136, "k", "amx", "x86"),
    _type("MXFP4", 32, 17, "plain", "avx2 dotprod"),
    _type("NVFP4", 64, 36, "plain"),
    _type("TQ1_0", 256, 54, "ternary"),
    _type("TQ2_0", 256, 66, "plain"),
    _type("I2_S", 128, 32, "plain"),
)
TYPES: dict[str, TensorType] = {t.name: t for t in _ALL}

# Where a row is no multiple of the block, llama.cpp's quantizer takes this type instead (llama-quant.cpp,
# `tensor_type_fallback`); where that does not divide the row either, F16.
FALLBACK = {
    **dict.fromkeys(("IQ1_S", "IQ1_M", "IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ3_XXS", "IQ3_S", "IQ4_XS"), "IQ4_NL"),
    **dict.fromkeys(("Q2_0", "Q2_K", "Q3_K", "TQ1_0", "TQ2_0"), "Q4_0"),
    "Q4_K": "Q5_0",
    "Q5_K": "Q5_1",
    "Q6_K": "Q8_0",
}


def for_row(name: str, row_elems: int) -> str:
    """The type a tensor with rows of `row_elems` weights really gets when `name` is asked for."""
    if row_elems % TYPES[name].block_elems == 0:
        return name
    second = FALLBACK.get(name, name)
    return second if row_elems % TYPES[second].block_elems == 0 else "F16"
