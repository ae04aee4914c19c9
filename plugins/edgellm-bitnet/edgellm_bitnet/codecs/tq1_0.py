"""TQ1_0 of llama.cpp: 256 weights in 52 bytes of base-3 digits and a float16 scale.

Bytes 0-31 hold weights 0-159 (digit n of byte m: weight 32 n + m), bytes 32-47 weights 160-239 (160 + 16 n + m), bytes
48-51 weights 240-255 (240 + 4 n + m, four digits). Digit n of byte q is `3 * (q * 3**n mod 256) >> 8`, so a byte is the
base-3 number, first digit highest, times 256 / 243, rounded up (`block_tq1_0` in ggml-common.h).
"""

from __future__ import annotations

import numpy as np

from edgellm_bitnet.codecs.checks import Raw, as_halves, blocks, half_scales
from edgellm_bitnet.ternary import Codes, Ternary

BLOCK, BYTES = 256, 54
_PARTS = ((slice(0, 32), 5), (slice(32, 48), 5), (slice(48, 52), 4))  # (bytes, digits in each)
_POWERS = np.array([1, 3, 9, 27, 81], np.uint8)


def decode(raw: Raw, rows: int, cols: int, *, where: str = "tensor") -> Ternary:
    """Raises: BadArtifact: wrong length, or a scale that is none. Every byte stands for digits: no code is wrong."""
    data = blocks(raw, rows, cols, block=BLOCK, n_bytes=BYTES, where=where)
    codes = np.hstack([_digits(data[:, at], n) for at, n in _PARTS])
    return Ternary(codes.reshape(rows, cols), half_scales(data[:, 52:], rows, where), BLOCK)


def encode(ternary: Ternary, *, where: str = "tensor") -> bytes:
    """Raises: UnsupportedArtifact: rows of no whole blocks, several scales in one, or one that float16 cannot hold."""
    scales = ternary.grouped(BLOCK, where, target="TQ1_0")
    codes = ternary.codes.reshape(-1, BLOCK)
    packed = [_number(codes[:, :160], 5), _number(codes[:, 160:240], 5), _number(codes[:, 240:], 4)]
    return np.hstack([*packed, as_halves(scales, where)]).tobytes()


def _digits(packed: Codes, n: int) -> Codes:
    """(blocks, n * bytes) digits of (blocks, bytes)."""
    shifted = packed[:, None, :] * _POWERS[:n, None]
    return (shifted.astype(np.uint16) * 3 >> 8).astype(np.uint8).reshape(len(packed), -1)


def _number(codes: Codes, n: int) -> Codes:
    """(blocks, bytes) of (blocks, n * bytes) digits."""
    digits = codes.reshape(len(codes), n, -1).astype(np.uint32)
    value = sum(digits[:, i] * 3 ** (4 - i) for i in range(n))
    return np.asarray((value * 256 + 242) // 243, np.uint8)
