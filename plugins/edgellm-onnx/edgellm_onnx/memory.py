"""Arrays that start on a cache line: numpy's own start 16 bytes into a page, and every wide load would cross a line."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

LINE = 64


def zeros(shape: tuple[int, ...], dtype: npt.DTypeLike) -> npt.NDArray[Any]:
    """Pages that are never written to take no memory."""
    kind = np.dtype(dtype)
    size = math.prod(shape) * kind.itemsize
    room = np.zeros(size + LINE, np.uint8)
    start = -room.ctypes.data % LINE
    return room[start : start + size].view(kind).reshape(shape)


def aligned(size: int) -> int:
    return -(-size // LINE) * LINE
