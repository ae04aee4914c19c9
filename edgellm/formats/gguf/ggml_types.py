"""Tensor types and file types of ggml: ids, names, block sizes.

Ids and sizes are those of llama.cpp b11434 (`ggml.h`, `ggml-common.h`) and gguf-py 0.19.0 (`GGML_QUANT_SIZES`).
Id 36 was llama.cpp's IQ4_NL_4_4, removed in 2024; files in the wild that carry it now are bitnet.cpp's I2_S, so that
is what it means here. Other numbers of that fork clash too: its types 38 and 39 are TL1 and TL2 (39 is MXFP4 here), its
file type 40 is I2_S (Q1_0 in llama.cpp). PrismML's fork has a Q2_0 of 128 weights in 34 bytes under id 42. Such files
are refused where the sizes of their tensors do not come out.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class GgmlType:
    """How one tensor type is stored: whole blocks along a row, then `tail_bytes` once per tensor."""

    id: int
    name: str
    block_elems: int
    block_bytes: int
    tail_bytes: int = 0  # I2_S: one F32 scale, padded to 32 bytes

    def size_bytes(self, n_elements: int) -> int:
        """Bytes of a tensor; `n_elements` is a multiple of `block_elems`."""
        return n_elements // self.block_elems * self.block_bytes + self.tail_bytes


TYPES: dict[int, GgmlType] = {
    row.id: row
    for row in (
        GgmlType(0, "F32", 1, 4),
        GgmlType(1, "F16", 1, 2),
        GgmlType(2, "Q4_0", 32, 18),
        GgmlType(3, "Q4_1", 32, 20),
        GgmlType(6, "Q5_0", 32, 22),
        GgmlType(7, "Q5_1", 32, 24),
        GgmlType(8, "Q8_0", 32, 34),
        GgmlType(9, "Q8_1", 32, 40),
        GgmlType(10, "Q2_K", 256, 84),
        GgmlType(11, "Q3_K", 256, 110),
        GgmlType(12, "Q4_K", 256, 144),
        GgmlType(13, "Q5_K", 256, 176),
        GgmlType(14, "Q6_K", 256, 210),
        GgmlType(15, "Q8_K", 256, 292),
        GgmlType(16, "IQ2_XXS", 256, 66),
        GgmlType(17, "IQ2_XS", 256, 74),
        GgmlType(18, "IQ3_XXS", 256, 98),
        GgmlType(19, "IQ1_S", 256, 50),
        GgmlType(20, "IQ4_NL", 32, 18),
        GgmlType(21, "IQ3_S", 256, 110),
        GgmlType(22, "IQ2_S", 256, 82),
        GgmlType(23, "IQ4_XS", 256, 136),
        GgmlType(24, "I8", 1, 1),
        GgmlType(25, "I16", 1, 2),
        GgmlType(26, "I32", 1, 4),
        GgmlType(27, "I64", 1, 8),
        GgmlType(28, "F64", 1, 8),
        GgmlType(29, "IQ1_M", 256, 56),
        GgmlType(30, "BF16", 1, 2),
        GgmlType(34, "TQ1_0", 256, 54),
        GgmlType(35, "TQ2_0", 256, 66),
        GgmlType(36, "I2_S", 4, 1, tail_bytes=32),
        GgmlType(39, "MXFP4", 32, 17),
        GgmlType(40, "NVFP4", 64, 36),
        GgmlType(41, "Q1_0", 128, 18),
        GgmlType(42, "Q2_0", 64, 18),
    )
}
BY_NAME: dict[str, GgmlType] = {row.name: row for row in TYPES.values()}
# Types that no matrix of a model is stored in: whole numbers, and what activations are rounded to for a product.
NO_WEIGHTS = frozenset({"I8", "I16", "I32", "I64", "F64", "Q8_1", "Q8_K"})

# Types that llama.cpp once wrote and no longer reads.
REMOVED: dict[int, str] = {
    4: "Q4_2", 5: "Q4_3", 31: "Q4_0_4_4", 32: "Q4_0_4_8", 33: "Q4_0_8_8", 37: "IQ4_NL_4_8", 38: "IQ4_NL_8_8",
}  # fmt: skip

# `general.file_type` (enum llama_ftype of llama.h) -> the name that files and people use.
FILE_TYPES: dict[int, str] = {
    0: "F32", 1: "F16", 2: "Q4_0", 3: "Q4_1", 7: "Q8_0", 8: "Q5_0", 9: "Q5_1", 10: "Q2_K", 11: "Q3_K_S",
    12: "Q3_K_M", 13: "Q3_K_L", 14: "Q4_K_S", 15: "Q4_K_M", 16: "Q5_K_S", 17: "Q5_K_M", 18: "Q6_K", 19: "IQ2_XXS",
    20: "IQ2_XS", 21: "Q2_K_S", 22: "IQ3_XS", 23: "IQ3_XXS", 24: "IQ1_S", 25: "IQ4_NL", 26: "IQ3_S", 27: "IQ3_M",
    28: "IQ2_S", 29: "IQ2_M", 30: "IQ4_XS", 31: "IQ1_M", 32: "BF16", 36: "TQ1_0", 37: "TQ2_0", 38: "MXFP4",
    39: "NVFP4", 40: "Q1_0", 41: "Q2_0",
}  # fmt: skip
