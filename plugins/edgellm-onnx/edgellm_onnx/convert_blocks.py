"""Weights in blocks of 32 as MatMulNBits reads them: `(q - zero_point) * scale`, q of 4 or 8 bits.

A row's blocks follow one another, two values in a byte at 4 bits, the first in its lower half. Without zero points they
are 8 and 128. See the operator's description in onnxruntime's ContribOperators.md.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from edgellm_onnx.convert_source import Bytes, Floats

BLOCK = 32
# GGUF types whose blocks are the operator's at that many bits: nothing is rounded.
EXACT = {("Q4_0", 4), ("Q4_0", 8), ("Q5_0", 8), ("Q8_0", 8)}
_SHRINK = (1.0, 0.93, 0.86, 0.79)  # of the range that all values lie in


@dataclass(frozen=True, slots=True)
class Blocks:
    """Rows of a matrix."""

    packed: Bytes  # (rows, columns * bits / 8)
    scales: Floats  # (rows, blocks of a row)
    zeros: Bytes  # (rows, blocks of a row), one in a byte


def has_zeros(kind: str, bits: int) -> bool:
    """Whether blocks made of this GGUF type have zero points of their own."""
    return bits == 4 and (kind, bits) not in EXACT


def carry(raw: Bytes, kind: str, bits: int) -> Blocks:
    """The blocks of a type in `EXACT`, without rounding. `raw`: (rows, bytes of a row)."""
    rows, size = len(raw), {"Q4_0": 18, "Q5_0": 22, "Q8_0": 34}[kind]
    blocks = raw.reshape(rows, -1, size)
    scales = np.ascontiguousarray(blocks[:, :, :2]).view("<f2")[:, :, 0].astype(np.float32)
    data = blocks[:, :, 2:]
    if kind == "Q8_0":
        values = data ^ 0x80  # int8 q as q + 128
    else:
        halves = data[:, :, -16:]  # byte i holds values i and i + 16
        values = np.concatenate([halves & 0x0F, halves >> 4], axis=2)
        if kind == "Q5_0":
            values |= np.unpackbits(data[:, :, :4], axis=2, bitorder="little") << 4
        values = values + {("Q4_0", 4): 0, ("Q4_0", 8): 120, ("Q5_0", 8): 112}[kind, bits]
    return _pack(np.asarray(values, np.uint8), scales, np.full(scales.shape, 1 << (bits - 1), np.uint8), bits)


def quantize(values: Floats, bits: int) -> Blocks:
    """The nearest blocks: at 8 bits symmetric, at 4 bits with the scale and zero point of the least squared error."""
    blocks = values.reshape(len(values), -1, BLOCK)
    if bits == 8:
        scales = np.abs(blocks).max(axis=2) / np.float32(127)
        q = np.rint(blocks / _nonzero(scales)[:, :, None]) + 128
        return _pack(q.astype(np.uint8), scales, np.full(scales.shape, 128, np.uint8), bits)
    q4, scales, zeros = _search(blocks.reshape(-1, BLOCK))
    shape = blocks.shape[:2]
    return _pack(q4.reshape(blocks.shape), scales.reshape(shape), zeros.reshape(shape), bits)


def dequantize(blocks: Blocks, bits: int) -> Floats:
    """float32 (rows, columns)."""
    rows, n_blocks = blocks.scales.shape
    q = blocks.packed
    if bits == 4:
        q = np.stack([q & 0x0F, q >> 4], axis=2)
    signed = q.reshape(rows, n_blocks, BLOCK).astype(np.float32) - blocks.zeros[:, :, None]
    return np.asarray(signed * blocks.scales[:, :, None], np.float32).reshape(rows, -1)


def pack_zeros(zeros: Bytes, bits: int) -> Bytes:
    """Zero points as the operator stores them: (rows, bytes of a row), at 4 bits two in a byte, the last padded."""
    if bits == 8:
        return zeros
    even = np.pad(zeros, ((0, 0), (0, zeros.shape[1] % 2)))
    return np.asarray(even[:, ::2] | even[:, 1::2] << 4, np.uint8)


def _pack(q: Bytes, scales: Floats, zeros: Bytes, bits: int) -> Blocks:
    packed = q if bits == 8 else q[:, :, ::2] | q[:, :, 1::2] << 4
    return Blocks(np.ascontiguousarray(packed).reshape(len(q), -1), scales, zeros)


def _search(blocks: Floats) -> tuple[Bytes, Floats, Bytes]:
    """(q, scale, zero point) of each block: zero points beside the range's own, each with some smaller ranges.

    After rounding, the scale is the one of the least squared error for these q.
    """
    low, high = np.minimum(blocks.min(axis=1), 0), np.maximum(blocks.max(axis=1), 0)
    span = _nonzero(high - low)
    middle = np.rint(-15 * low / span)
    best_q = np.zeros(blocks.shape, np.uint8)
    best_scale, best_zero = np.zeros(len(blocks), np.float32), np.full(len(blocks), 8, np.uint8)
    least = np.full(len(blocks), np.inf, np.float32)
    for step in (-1, 0, 1):
        zero = np.clip(middle + step, 0, 15).astype(np.float32)
        covering = np.maximum(-low / np.maximum(zero, 0.5), high / np.maximum(15 - zero, 0.5))
        for shrink in _SHRINK:
            q = blocks / _nonzero(covering * np.float32(shrink))[:, None]
            q += zero[:, None]
            np.clip(np.rint(q, out=q), 0, 15, out=q)
            signed = q - zero[:, None]
            square = np.einsum("ij,ij->i", signed, signed)
            scale = np.einsum("ij,ij->i", signed, blocks) / _nonzero(square)
            np.multiply(signed, scale[:, None], out=signed)
            np.subtract(blocks, signed, out=signed)
            error = np.einsum("ij,ij->i", signed, signed)
            better = error < least
            least[better], best_scale[better] = error[better], scale[better]
            best_zero[better], best_q[better] = zero[better].astype(np.uint8), q[better].astype(np.uint8)
    return best_q, best_scale, best_zero


def _nonzero(values: npt.NDArray[np.float32]) -> Floats:
    """Zeros become ones, to divide by."""
    return np.where(values == 0, np.float32(1), values)
