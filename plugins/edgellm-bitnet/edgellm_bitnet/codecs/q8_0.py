"""Q8_0 of llama.cpp, for embeddings: a float16 scale, then 32 signed bytes (`block_q8_0` in ggml-common.h)."""

from __future__ import annotations

import numpy as np

from edgellm_bitnet.codecs.checks import Raw
from edgellm_bitnet.ternary import Floats

BLOCK, BYTES = 32, 34


def encode(values: Floats) -> bytes:
    """float32 (rows, cols), whole blocks in a row; the scale is absmax / 127, halves round away from zero."""
    parts = values.reshape(-1, BLOCK)
    scale = np.abs(parts).max(axis=1, keepdims=True) / np.float32(127)
    inverse = np.divide(np.float32(1), scale, out=np.zeros_like(scale), where=scale > 0)
    scaled = parts * inverse
    codes = np.trunc(scaled + np.copysign(np.float32(0.5), scaled)).astype(np.int8)
    return np.hstack([scale.astype("<f2").view(np.uint8), codes.view(np.uint8)]).tobytes()


def decode(raw: Raw) -> Floats:
    """float32, flat, of whole blocks."""
    blocks = np.frombuffer(raw, np.uint8).reshape(-1, BYTES)
    scales = np.ascontiguousarray(blocks[:, :2]).view("<f2").astype(np.float32)
    return np.asarray(blocks[:, 2:].view(np.int8) * scales, np.float32).reshape(-1)
