"""Kinds and padding of packed matrices, as native/matrix.h has them. Plain numbers: importing this costs nothing.

`native.library` compares them with the library's own when it is loaded.
"""

from __future__ import annotations

PANEL, COLUMN_ALIGN, SUB_COLUMNS = 32, 64, 16
CHUNK, CACHE_ALIGN, HEAD_ALIGN = 512, 32, 32

TERNARY, Q4, Q6, Q8, F16, BF16, F32 = range(7)
NAMES = {TERNARY: "ternary", Q4: "q4", Q6: "q6", Q8: "q8", F16: "f16", BF16: "bf16", F32: "f32"}
BITS = {TERNARY: 2, Q4: 4, Q6: 6, Q8: 8, F16: 16, BF16: 16, F32: 32}


def padded(n: int, to: int) -> int:
    """The next multiple."""
    return -(-n // to) * to


def sizes(kind: int, rows: int, cols: int, group: int) -> tuple[int, int, int]:
    """Bytes of data, scales and sub-scales of a matrix."""
    if kind in (F16, BF16, F32):
        return rows * cols * BITS[kind] // 8, 0, 0
    cells = padded(rows, PANEL) * padded(cols, COLUMN_ALIGN)
    scales = cells // group * 2 if group else padded(rows, PANEL) * 4
    return cells * BITS[kind] // 8, scales, cells // SUB_COLUMNS if kind == Q6 else 0
