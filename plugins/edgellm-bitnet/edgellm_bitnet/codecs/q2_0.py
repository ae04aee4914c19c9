"""Q2_0 of llama.cpp: a float16 scale, then 64 weights in 16 bytes, the first in the low bits (`block_q2_0`).

Its code 3 is the weight +2; a tensor that holds one is not ternary and is refused.
"""

from __future__ import annotations

import numpy as np

from edgellm_bitnet.codecs.checks import Raw, as_halves, blocks, half_scales, refuse_code_3
from edgellm_bitnet.ternary import Ternary

BLOCK, BYTES = 64, 18


def decode(raw: Raw, rows: int, cols: int, *, where: str = "tensor") -> Ternary:
    """Raises: BadArtifact: wrong length, code 3, or a scale that is none."""
    data = blocks(raw, rows, cols, block=BLOCK, n_bytes=BYTES, where=where)
    refuse_code_3(data[:, 2:], where, meaning="the weight +2, which is not ternary", first_byte=2)
    codes = np.empty((len(data), 16, 4), np.uint8)
    for lane in range(4):
        np.bitwise_and(data[:, 2:] >> (2 * lane), 3, out=codes[:, :, lane])
    return Ternary(codes.reshape(rows, cols), half_scales(data[:, :2], rows, where), BLOCK)


def encode(ternary: Ternary, *, where: str = "tensor") -> bytes:
    """Raises: UnsupportedArtifact: rows of no whole blocks, several scales in one, or one that float16 cannot hold."""
    scales = ternary.grouped(BLOCK, where, target="Q2_0")
    lanes = ternary.codes.reshape(-1, 16, 4)
    packed = lanes[:, :, 0] | lanes[:, :, 1] << 2 | lanes[:, :, 2] << 4 | lanes[:, :, 3] << 6
    return np.hstack([as_halves(scales, where), packed]).tobytes()
