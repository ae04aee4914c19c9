"""TQ2_0 of llama.cpp: 256 weights in 64 bytes of 2-bit codes and a float16 scale.

Bits 2l+1..2l of byte 32 j + m are the code of weight 128 j + 32 l + m (`block_tq2_0` in ggml-common.h).
"""

from __future__ import annotations

import numpy as np

from edgellm_bitnet.codecs.checks import Raw, as_halves, blocks, half_scales, refuse_code_3
from edgellm_bitnet.ternary import Ternary

BLOCK, BYTES = 256, 66


def decode(raw: Raw, rows: int, cols: int, *, where: str = "tensor") -> Ternary:
    """Raises: BadArtifact: wrong length, code 3, or a scale that is none."""
    data = blocks(raw, rows, cols, block=BLOCK, n_bytes=BYTES, where=where)
    refuse_code_3(data[:, :64], where)
    packed = data[:, :64].reshape(-1, 2, 32)
    codes = np.empty((len(data), 2, 4, 32), np.uint8)
    for lane in range(4):
        np.bitwise_and(packed >> (2 * lane), 3, out=codes[:, :, lane])
    return Ternary(codes.reshape(rows, cols), half_scales(data[:, 64:], rows, where), BLOCK)


def encode(ternary: Ternary, *, where: str = "tensor") -> bytes:
    """Raises: UnsupportedArtifact: rows of no whole blocks, several scales in one, or one that float16 cannot hold."""
    scales = ternary.grouped(BLOCK, where, target="TQ2_0")
    lanes = ternary.codes.reshape(-1, 2, 4, 32)
    packed = lanes[:, :, 0] | lanes[:, :, 1] << 2 | lanes[:, :, 2] << 4 | lanes[:, :, 3] << 6
    return np.hstack([packed.reshape(-1, 64), as_halves(scales, where)]).tobytes()
