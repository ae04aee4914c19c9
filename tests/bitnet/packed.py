"""Packed matrices for the tests of the native kernels: random weights, what they mean in numpy, and the calls."""

from __future__ import annotations

import ctypes

import numpy as np
import pytest
from edgellm_bitnet import native
from edgellm_bitnet.matrix import F16, F32, PANEL, Q6, Q8, TERNARY, padded, sizes

MISSING = "bitnet: no native library: `make setup` builds it; EDGELLM_BITNET_LIBRARY names one built elsewhere"


def library():
    try:
        return native.library()
    except OSError as error:
        pytest.skip(f"{MISSING} ({error})")


def usable():
    """Instruction sets to parametrize over; without a library, one case that says so."""
    try:
        return [name for name, can in native.isas().items() if can]
    except OSError as error:
        return [pytest.param("none", marks=pytest.mark.skip(reason=f"{MISSING} ({error})"))]


def fastest():
    """As `usable`, all but the last one slow: for what `test_kernels.py` holds to numpy on each."""
    *others, last = usable()
    return [*(pytest.param(name, marks=pytest.mark.slow(2)) for name in others), last]


def isa_number(name):
    return list(native.isas()).index(name)


def aligned(size):
    """Zeros at a multiple of 64 bytes, as the engine's memory is."""
    room = np.zeros(size + 64, np.uint8)
    start = -room.ctypes.data % 64
    return room[start : start + size]


class Packed:
    """A matrix of native/matrix.h, and its meaning: `integers` times `scales` of `span` columns each."""

    def __init__(self, kind, rows, cols, group=0):
        self.rows, self.cols, self.group, self.kind = rows, cols, group, kind
        self.parts = [aligned(size) for size in sizes(kind, rows, cols, group)]
        data, scales, sub = (part.ctypes.data if part.size else None for part in self.parts)
        self.struct = native.Matrix(kind, rows, cols, group, data, scales, sub)
        self.integers = self.scales = self.real = None
        self.span = cols

    def row(self, number):
        values = np.empty(self.cols, np.float32)
        library().bn_row(self.struct, number, values.ctypes.data)
        return values

    def dense(self):
        """Float32 weights, multiplied as bn_row multiplies: scale by integer."""
        if self.real is not None:
            return self.real
        return np.repeat(self.scales, self.span, axis=1)[:, : self.cols] * self.integers.astype(np.float32)

    def integer_sums(self, isa, q):
        q = np.ascontiguousarray(q)
        sums = np.full((len(q), padded(self.rows, PANEL)), -77, np.int32)
        assert library().bn_integer_sums(isa_number(isa), self.struct, q.ctypes.data, len(q), sums.ctypes.data) == 0
        return sums[:, : self.rows]

    def product(self, isa, x, *, block=0, threads=1):
        x = np.ascontiguousarray(x)
        y = np.full((len(x), padded(self.rows, PANEL)), np.nan, np.float32)
        seconds = library().bn_matmul(
            isa_number(isa), self.struct, x.ctypes.data, len(x), block, y.ctypes.data, threads, 0
        )
        assert seconds >= 0
        return y[:, : self.rows]

    def wanted(self, x, block=0):
        """(product in float64 from exact integer sums, bound of its terms), each (tokens, rows)."""
        if self.real is not None:
            return x.astype(np.float64) @ self.real.T.astype(np.float64), np.abs(x) @ np.abs(self.real).T
        span = min(self.span, block or self.cols)
        q, inverse = quantized(x, block)
        sums = bounds = 0
        for start in range(0, self.cols, span):
            part = slice(start, start + span)
            scale = inverse[:, start // (block or self.cols), None].astype(np.float64)
            scale = scale * self.scales[:, start // self.span]
            term = (q[:, part].astype(np.int64) @ self.integers[:, part].T.astype(np.int64)) * scale
            sums, bounds = sums + term, bounds + np.abs(term)
        return sums, bounds


def quantized(x, block=0):
    """Activations as in training: int8, and what 1 is worth; by token, or by block of columns."""
    parts = x.reshape(len(x), -1, block or x.shape[1])
    peak = np.abs(parts).max(axis=2)
    peak = peak if block else np.maximum(peak, np.float32(1e-5))
    scale = np.divide(127.0, peak, dtype=np.float64, where=peak > 0, out=np.zeros(peak.shape)).astype(np.float32)
    q = np.rint(parts * scale[..., None]).clip(-128, 127).astype(np.int8)
    return q.reshape(x.shape), np.divide(1, scale, where=scale > 0, out=np.zeros_like(scale))


def adversarial(rng, rows, cols):
    """Random codes; the first rows hurt: all of one sign, alternating, almost nothing, one lane or step alone."""
    codes = rng.integers(0, 3, (rows, cols), np.uint8)
    codes[:9] = 1
    codes[0], codes[1], codes[3, ::2], codes[3, 1::2] = 2, 0, 2, 0
    codes[4, -1], codes[5, 0], codes[6, 3::4], codes[7, 5::16], codes[8, ::64] = 2, 0, 2, 0, 2
    return codes


def ternary(rng, rows, cols, group=0, *, scale=None):
    packed = Packed(TERNARY, rows, cols, group)
    codes = adversarial(rng, rows, cols)
    packed.integers = codes.astype(np.int8) - np.int8(1)
    if group == 0:
        scale = np.float32(rng.uniform(0.01, 2) if scale is None else scale)
        assert library().bn_pack_ternary(0, codes.ctypes.data, rows, cols, packed.struct, 0, scale, 1) == 0
        packed.scales = np.full((rows, 1), scale)
        return packed
    # Q2_0 blocks (a half, then 64 codes) carry a scale for every 64 columns; a longer group takes its first block's.
    packed.span = group
    packed.scales = np.float16(rng.uniform(0.01, 2, (rows, cols // group))).astype(np.float32)
    blocks = np.zeros((rows, cols // 64, 18), np.uint8)
    halves = np.repeat(packed.scales, group // 64, axis=1).astype(np.float16)
    blocks[..., :2] = halves[..., None].view(np.uint8)
    fours = codes.reshape(rows, cols // 64, 16, 4)
    blocks[..., 2:] = fours[..., 0] | fours[..., 1] << 2 | fours[..., 2] << 4 | fours[..., 3] << 6
    source = native.SOURCES.index("q2_0")
    assert library().bn_pack_ternary(source, blocks.ctypes.data, rows, cols, packed.struct, 0, 1.0, 2) == 0
    return packed


def blocks_of(kind, rng, rows, cols):
    """Q4_0, Q8_0 or Q6_K as ggml lays them out, every code and sign of scale in use."""
    packed = Packed(kind, rows, cols, 256 if kind == Q6 else 32)
    halves = np.float16(rng.uniform(-0.1, 0.1, (rows, cols // packed.group)))
    if kind == Q6:
        blocks = rng.integers(0, 256, (rows, cols // 256, 210), np.uint8)
        blocks[..., 208:] = halves[..., None].view(np.uint8)
        low, high = blocks[..., :128].reshape(rows, -1, 2, 64), blocks[..., 128:192].reshape(rows, -1, 2, 32)
        # quarter k of 128 weights: nibble k // 2 of low bytes 32 (k % 2) and on, bits 2 k of the high bytes
        quarters = [
            (low[..., 32 * (k % 2) :][..., :32] >> 4 * (k // 2) & 15) | (high >> 2 * k & 3) << 4 for k in range(4)
        ]
        packed.integers = np.stack(quarters, axis=-2).reshape(rows, cols).astype(np.int8) - np.int8(32)
        sub = blocks[..., 192:208].view(np.int8).reshape(rows, -1).astype(np.float32)
        packed.scales, packed.span = np.repeat(halves.astype(np.float32), 16, axis=1) * sub, 16
    else:
        blocks = rng.integers(0, 256, (rows, cols // 32, 34 if kind == Q8 else 18), np.uint8)
        blocks[..., :2] = halves[..., None].view(np.uint8)
        if kind == Q8:
            packed.integers = blocks[..., 2:].reshape(rows, cols).view(np.int8)
        else:
            nibbles = np.concatenate([blocks[..., 2:] & 15, blocks[..., 2:] >> 4], axis=-1)
            packed.integers = nibbles.reshape(rows, cols).astype(np.int8) - np.int8(8)
        packed.scales, packed.span = halves.astype(np.float32), 32
    assert library().bn_pack_blocks(blocks.ctypes.data, rows, cols, packed.struct, 2) == 0
    return packed


def requantized(kind, group, rng, rows, cols):
    """Float rows made Q8 (a scale a row: absmax / 127) or Q4 (32 columns: the largest / -8)."""
    packed = Packed(kind, rows, cols, group)
    values = rng.normal(size=(rows, cols)).astype(np.float32)
    half = rows // 2  # in two calls, as a large head is
    for first, part in ((0, values[:half]), (half, values[half:])):
        assert library().bn_pack_real(part.ctypes.data, len(part), packed.struct, first) == 0
    groups = values.reshape(rows, -1, group or cols)
    peak = np.take_along_axis(groups, np.abs(groups).argmax(axis=2)[..., None], axis=2)[..., 0]
    scale = np.abs(peak) / np.float32(127) if kind == Q8 else peak / np.float32(-8)
    codes = np.rint(groups * (np.float32(1) / scale)[..., None]).clip(*((-128, 127) if kind == Q8 else (-8, 7)))
    packed.integers, packed.span = codes.reshape(rows, cols).astype(np.int8), group or cols
    packed.scales = np.float16(scale).astype(np.float32) if group else scale
    return packed


def real(kind, rng, rows, cols):
    packed = Packed(kind, rows, cols)
    values = rng.normal(size=(rows, cols)).astype(np.float32)
    if kind == F16:
        stored = values.astype(np.float16)
        packed.real = stored.astype(np.float32)
    elif kind == F32:
        stored = packed.real = values
    else:
        stored = (values.view(np.uint32) >> 16).astype(np.uint16)
        packed.real = (stored.astype(np.uint32) << 16).view(np.float32)
    assert library().bn_pack_blocks(stored.ctypes.data, rows, cols, packed.struct, 1) == 0
    return packed


def one_scale(source, raw, rows, cols):
    scale = ctypes.c_float()
    same = library().bn_one_scale(native.SOURCES.index(source), raw.ctypes.data, rows, cols, scale)
    return np.float32(scale.value) if same else None
