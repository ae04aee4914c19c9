"""I2_S of bitnet.cpp: four codes a byte, the first in the high bits, then one float32 scale in 32 bytes.

The official converter writes blocks of 128 weights in 32 bytes: bits 7-6 of byte p are the code of weight p, 5-4 of
32 + p, 3-2 of 64 + p, 1-0 of 96 + p. llama-quantize of that project, run on ARM, writes 64 weights in 16 bytes the same
way; nothing in the file says which (see `i2s_layout`).
"""

from __future__ import annotations

from typing import Literal

import numpy as np

from edgellm.errors import UnsupportedArtifact
from edgellm_bitnet.codecs.checks import Raw, blocks, checked_scales, refuse_code_3, sized
from edgellm_bitnet.ternary import Codes, Ternary

Layout = Literal["x86", "arm"]

TAIL_BYTES = 32
STRIDE = {"x86": 32, "arm": 16}  # bytes of a block; it holds four times as many weights


def decode(raw: Raw, rows: int, cols: int, *, layout: Layout = "x86", where: str = "tensor") -> Ternary:
    """Raises: BadArtifact: wrong length, code 3, or a scale that is none."""
    stride = STRIDE[layout]
    # The writer packs the whole tensor as one row, so a row may start inside a block (K = 8640 of 1bitLLM's 3B).
    packed = blocks(raw_codes(raw, rows, cols, where), 1, rows * cols, block=4 * stride, n_bytes=stride, where=where)
    refuse_code_3(packed, where)
    codes = unpack(packed, layout)
    scale = sized(raw, rows * cols // 4 + TAIL_BYTES, where)[-TAIL_BYTES:][:4].copy().view("<f4").astype(np.float32)
    return Ternary(codes.reshape(rows, cols), checked_scales(scale, f"the scale of {where}").reshape(()))


def unpack(packed: Codes, layout: Layout) -> Codes:
    """Codes in order, flat, of any number of whole blocks."""
    whole = packed.reshape(-1, STRIDE[layout])
    codes = np.empty((len(whole), 4, STRIDE[layout]), np.uint8)
    for lane in range(4):
        np.bitwise_and(whole >> (6 - 2 * lane), 3, out=codes[:, lane])
    return codes.reshape(-1)


def raw_codes(raw: Raw, rows: int, cols: int, where: str) -> Codes:
    """The packed codes without the scale. Raises: BadArtifact: wrong length."""
    return sized(raw, rows * cols // 4 + TAIL_BYTES, where)[:-TAIL_BYTES]


def encode(ternary: Ternary, *, layout: Layout = "x86", where: str = "tensor") -> bytes:
    """Raises: UnsupportedArtifact: more than one scale, or rows that are no multiple of the block."""
    stride = STRIDE[layout]
    scale = ternary.one_scale(where, target="I2_S")
    if ternary.cols % (4 * stride):
        raise UnsupportedArtifact(
            f"{where} has rows of {ternary.cols} weights, I2_S needs a multiple of {4 * stride}", hint="choose q2_0"
        )
    lanes = ternary.codes.reshape(-1, 4, stride)
    packed = lanes[:, 0] << 6 | lanes[:, 1] << 4 | lanes[:, 2] << 2 | lanes[:, 3]
    return b"".join((packed.tobytes(), scale.astype("<f4").tobytes(), bytes(TAIL_BYTES - 4)))
