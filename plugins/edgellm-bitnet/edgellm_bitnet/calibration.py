"""How fast this processor consumes each type's weights with these kernels, measured by running them. In a worker only.

One matrix larger than the last-level cache for each type, in the memory that models use: decode is one token (bound by
memory or by the kernel, whichever is slower), prefill a batch.
"""

from __future__ import annotations

import ctypes
import statistics

import numpy as np

from edgellm.types.calibration import Calibration
from edgellm_bitnet import native
from edgellm_bitnet.arena import Arena
from edgellm_bitnet.footprint import BATCH
from edgellm_bitnet.layout import GROUPS, HEAD_KINDS
from edgellm_bitnet.matrix import BITS, PANEL, TERNARY, sizes

COLS = 2560
DATA_BYTES = 64 << 20  # more than the last-level cache of most processors
PREFILL_ROWS = 1024
# Valid as codes of every kind, as small positive halves and as floats, wherever it stands.
VALID = (0x15, 0x24)
DECODE_PASSES, PREFILL_PASSES, ROUNDS = 4, 2, 3


def calibrate(threads: tuple[int, ...]) -> Calibration:
    """1e9 weights per second, by (type, threads); medians of ROUNDS rounds."""
    isa = native.isa_index()
    decode, prefill = {}, {}
    kinds = {
        name: (TERNARY, group) for name, group in GROUPS.items() if name not in {*HEAD_KINDS, "PACKED", "I2_S_ARM"}
    }
    for name, (kind, group) in (kinds | {n: HEAD_KINDS[n] for n in ("Q6_K", "Q8_0", "Q4_0", "F16")}).items():
        rows = DATA_BYTES * 8 // BITS[kind] // COLS // PANEL * PANEL
        arena = Arena(sum(sizes(kind, rows, COLS, group)))
        try:
            arena.bytes[0::2], arena.bytes[1::2] = VALID
            matrix, few = _matrix(arena, kind, rows, group), _matrix(arena, kind, PREFILL_ROWS, group)
            for count in threads:
                decode[name, count] = _rate(isa, matrix, 1, count, DECODE_PASSES)
                prefill[name, count] = _rate(isa, few, BATCH, count, PREFILL_PASSES)
        finally:
            arena.close()
    return Calibration(decode, prefill, build=f"{list(native.isas())[isa]}, interface {native.ABI}")


def _matrix(arena: Arena, kind: int, rows: int, group: int) -> native.Matrix:
    data, scales, _ = sizes(kind, rows, COLS, group)
    at = arena.address
    return native.Matrix(kind, rows, COLS, group, at, at + data, at + data + scales)


def _rate(isa: int, matrix: native.Matrix, tokens: int, threads: int, passes: int) -> float:
    x = np.random.default_rng(0).standard_normal((tokens, COLS), np.float32)
    y = np.zeros((tokens, matrix.rows), np.float32)
    seconds = statistics.median(
        native.library().bn_matmul(isa, ctypes.byref(matrix), x.ctypes.data, tokens, 0, y.ctypes.data, threads, passes)
        for _ in range(ROUNDS)
    )
    return float(matrix.rows * COLS * tokens / seconds / 1e9)
