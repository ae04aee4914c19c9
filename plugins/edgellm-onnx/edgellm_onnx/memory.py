"""Memory of caches, in RAM or on a device.

Arrays in RAM start on a cache line: numpy's own start 16 bytes into a page, and every wide load would cross a line.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime

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


class Block:
    """Zeros in RAM, or in the memory that onnxruntime calls `device` ("cuda")."""

    def __init__(self, shape: tuple[int, ...], dtype: npt.DTypeLike, device: str = "") -> None:
        if not device:
            self._array = zeros(shape, dtype)
            self._value: onnxruntime.OrtValue | None = None
            self.address = int(self._array.ctypes.data)
            return
        self._value = onnxruntime.OrtValue.ortvalue_from_shape_and_type(list(shape), np.dtype(dtype).type, device, 0)
        self._value.update_inplace(np.zeros(shape, dtype))
        self.address = int(self._value.data_ptr())

    @contextlib.contextmanager
    def opened(self, *, change: bool = True) -> Iterator[npt.NDArray[Any]]:
        """Its numbers, to read, and to change. Those of a device come to RAM, all of them, and changed ones go back."""
        if self._value is None:
            yield self._array
            return
        array = np.array(self._value.numpy())
        yield array
        if change:
            self._value.update_inplace(array)
