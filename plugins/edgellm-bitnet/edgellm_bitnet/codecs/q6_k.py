"""Q6_K of llama.cpp, for embeddings: 256 weights of 6 bits, a signed byte of scale for 16 of them, a float16 for all.

Value q - 32 of weight 128 j + 32 l + m: its low four bits are in byte 64 j + 32 (l % 2) + m (the low half for l < 2),
its high two in bits 2l+1..2l of byte 128 + 32 j + m; then 16 scales and the float16 (`block_q6_K` in ggml-common.h).
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from edgellm_bitnet.codecs.checks import Raw
from edgellm_bitnet.ternary import Codes, Floats

BLOCK, BYTES, SUB = 256, 210, 16
TRIED = np.float32(0.1) * np.arange(-9, 10, dtype=np.float32)  # around the scale that spends all 32 steps on the peak


def encode(values: Floats) -> bytes:
    """float32 (rows, cols), whole blocks in a row. Of 19 scales, 16 weights take the one with the least error,
    in which a weight counts with its square."""
    parts = values.reshape(-1, BLOCK // SUB, SUB)
    scales = _best_scales(parts)
    largest = np.take_along_axis(scales, np.abs(scales).argmax(axis=1)[:, None], axis=1)
    whole = (largest / np.float32(-128)).astype("<f2")
    unit = whole.astype(np.float32)
    steps = np.divide(scales, unit, out=np.zeros_like(scales), where=unit != 0)
    sub = np.clip(np.rint(steps), -128, 127).astype(np.int8)
    codes = _codes(parts, (unit * sub)[:, :, None]).reshape(-1, 2, 4, 32)
    return np.hstack([_low(codes), _high(codes), sub.view(np.uint8), whole.view(np.uint8)]).tobytes()


def decode(raw: Raw) -> Floats:
    """float32, flat, of whole blocks."""
    data = np.frombuffer(raw, np.uint8).reshape(-1, BYTES)
    low, high = data[:, :128].reshape(-1, 2, 2, 32), data[:, 128:192].reshape(-1, 2, 32)
    codes = np.empty((len(data), 2, 4, 32), np.uint8)
    for lane in range(4):
        codes[:, :, lane] = (low[:, :, lane % 2] >> 4 * (lane // 2) & 15) | (high >> 2 * lane & 3) << 4
    whole = np.ascontiguousarray(data[:, 208:]).view("<f2").astype(np.float32)
    scales = whole * data[:, 192:208].view(np.int8)
    parts = (codes.astype(np.float32) - np.float32(32)).reshape(-1, BLOCK // SUB, SUB)
    return np.asarray(parts * scales[:, :, None], np.float32).reshape(-1)


def _codes(parts: Floats, scales: Floats) -> Codes:
    """0 to 63."""
    scaled = np.divide(parts, scales, out=np.zeros_like(parts), where=scales != 0)
    return np.asarray(np.clip(np.rint(scaled), -32, 31) + 32, np.uint8)


def _best_scales(parts: Floats) -> Floats:
    """(blocks, 16) scales of (blocks, 16, 16) weights, by weighted least squares over the rounded values."""
    peak = np.take_along_axis(parts, np.abs(parts).argmax(axis=2)[:, :, None], axis=2)
    weight = parts * parts
    best, factors = np.full(parts.shape[:2], -1, np.float32), np.zeros(parts.shape[:2], np.float32)
    for shift in TRIED:
        inverse = np.divide(np.float32(-32) + shift, peak, out=np.zeros_like(peak), where=peak != 0)
        steps = np.clip(np.rint(parts * inverse), -32, 31)
        dot, norm = (weight * parts * steps).sum(axis=2), (weight * steps * steps).sum(axis=2)
        gain = np.divide(dot * dot, norm, out=np.zeros_like(dot), where=norm > 0)
        better: npt.NDArray[np.bool_] = gain > best
        best = np.where(better, gain, best)
        factors = np.where(better, np.divide(dot, norm, out=np.zeros_like(dot), where=norm > 0), factors)
    return factors


def _low(codes: Codes) -> Codes:
    nibbles = codes & 15
    return np.asarray(nibbles[:, :, :2] | nibbles[:, :, 2:] << 4).reshape(-1, 128)


def _high(codes: Codes) -> Codes:
    pairs = codes >> 4
    return np.asarray(pairs[:, :, 0] | pairs[:, :, 1] << 2 | pairs[:, :, 2] << 4 | pairs[:, :, 3] << 6).reshape(-1, 64)
