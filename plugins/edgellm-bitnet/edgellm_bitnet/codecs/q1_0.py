"""Q1_0 of llama.cpp: a float16 scale, then 128 signs in 16 bytes, the first in the low bit, 1 for + (`block_q1_0`)."""

from __future__ import annotations

import numpy as np

from edgellm.errors import UnsupportedArtifact
from edgellm_bitnet.codecs.checks import Raw, as_halves, blocks, half_scales
from edgellm_bitnet.ternary import Ternary

BLOCK, BYTES = 128, 18


def decode(raw: Raw, rows: int, cols: int, *, where: str = "tensor") -> Ternary:
    """Codes are 0 and 2 only. Raises: BadArtifact: wrong length, or a scale that is none."""
    data = blocks(raw, rows, cols, block=BLOCK, n_bytes=BYTES, where=where)
    signs = np.unpackbits(data[:, 2:], axis=1, bitorder="little")
    return Ternary((signs * np.uint8(2)).reshape(rows, cols), half_scales(data[:, :2], rows, where), BLOCK)


def encode(ternary: Ternary, *, where: str = "tensor") -> bytes:
    """Raises: UnsupportedArtifact: a weight is 0, several scales in a block, or as the other types."""
    scales = ternary.grouped(BLOCK, where, target="Q1_0")
    zeros = int((ternary.codes == 1).sum())
    if zeros:
        raise UnsupportedArtifact(
            f"{where} has {zeros} weights that are 0, Q1_0 holds -1 and +1 only", hint="choose q2_0, tq2_0 or i2_s"
        )
    packed = np.packbits(ternary.codes.reshape(-1, BLOCK) >> 1, axis=1, bitorder="little")
    return np.hstack([as_halves(scales, where), packed]).tobytes()
