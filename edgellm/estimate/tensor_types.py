"""Storage types of GGUF tensors: what they take, and what a processor does with them.

Knows nothing of models or of quantization names; `estimate/recipe.py` says which tensor gets which type. Block sizes
are those of `formats/ggml_types.py`; paths are those of llama.cpp b11434 (`ggml-cpu/repack.cpp`, `ggml-cpu/amx`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from edgellm.formats.gguf.ggml_types import BY_NAME, GgmlType

Cost = Literal["plain", "k", "codebook", "ternary", "float"]

ALIGNMENT = 32  # GGUF `general.alignment`: every tensor starts on a multiple of it


@dataclass(frozen=True, slots=True)
class TensorType:
    """`cost` is what unpacking takes: `codebook` looks blocks up in a table, `ternary` divides by powers of three."""

    name: str
    cost: Cost
    repack: frozenset[str]  # paths that copy the weights into an interleaved layout: "avx2" "avx512" "dotprod" "amx"
    gemm: frozenset[str]  # paths with a tiled matrix product for prompts: "x86"

    layout: GgmlType

    @property
    def block_elems(self) -> int:
        return self.layout.block_elems

    @property
    def bits_per_weight(self) -> float:
        return self.layout.block_bytes * 8 / self.layout.block_elems

    def tensor_bytes(self, n_elems: int) -> int:
        """Bytes of one tensor of `n_elems` weights, without the padding behind it."""
        return self.layout.size_bytes(n_elems)


def _type(name: str, cost: Cost, repack: str = "", gemm: str = "") -> TensorType:
    return TensorType(name, cost, frozenset(repack.split()), frozenset(gemm.split()), BY_NAME[name])


_ALL = (
    _type("F32", "float"),
    _type("F16", "float"),
    _type("BF16", "float"),
    _type("Q4_0", "plain", "avx2 dotprod amx"),
    _type("Q4_1", "plain", "amx"),
    _type("Q5_0", "plain"),
    _type("Q5_1", "plain"),
    _type("Q8_0", "plain", "dotprod amx"),
    _type("Q1_0", "plain", "dotprod"),
    _type("Q2_0", "plain"),
    _type("Q2_K", "k", "avx512", "x86"),
    _type("Q3_K", "k", "", "x86"),
    _type("Q4_K", "k", "avx2 dotprod amx", "x86"),
    _type("Q5_K", "k", "dotprod amx", "x86"),
    _type("Q6_K", "k", "dotprod amx", "x86"),
    _type("IQ1_S", "codebook", "", "x86"),
    _type("IQ1_M", "codebook", "", "x86"),
    _type("IQ2_XXS", "codebook", "", "x86"),
    _type("IQ2_XS", "codebook", "", "x86"),
    _type("IQ2_S", "codebook", "", "x86"),
    _type("IQ3_XXS", "codebook", "", "x86"),
    _type("IQ3_S", "codebook", "", "x86"),
    _type("IQ4_NL", "plain", "avx2 dotprod"),
    _type("IQ4_XS", "k", "amx", "x86"),
    _type("MXFP4", "plain", "avx2 dotprod"),
    _type("NVFP4", "plain"),
    _type("TQ1_0", "ternary"),
    _type("TQ2_0", "plain"),
    _type("I2_S", "plain"),
    # onnxruntime's MatMulNBits: blocks of 32 with a float scale. No GGUF file has them, so they have no number there.
    TensorType("INT4", "plain", frozenset(), frozenset({"x86"}), GgmlType(-1, "INT4", 32, 20)),
    TensorType("INT8", "plain", frozenset(), frozenset({"x86"}), GgmlType(-2, "INT8", 32, 36)),
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


def fits_row(name: str, row_elems: int) -> bool:
    """Whether the quantizer has a type for rows of that length when `name` is asked for; without, it gives up."""
    block = TYPES[name].block_elems
    return row_elems % block == 0 or name in FALLBACK or block <= 32


def for_row(name: str, row_elems: int) -> str:
    """The type a tensor with rows of `row_elems` weights really gets when `name` is asked for."""
    if row_elems % TYPES[name].block_elems == 0:
        return name
    second = FALLBACK.get(name, name)
    return second if row_elems % TYPES[second].block_elems == 0 else "F16"
