"""Memory of Intel's discrete GPUs, asked of their driver by an ioctl on the render node.

Layouts and numbers are those of include/uapi/drm/i915_drm.h and xe_drm.h; a test compiles them and compares. No such
GPU was at hand: the calls are tested against the headers only.
"""

from __future__ import annotations

import ctypes
import os
import struct

_DEVICE_MEMORY = 1  # I915_MEMORY_CLASS_DEVICE and DRM_XE_MEM_REGION_CLASS_VRAM
I915_QUERY, I915_MEMORY_REGIONS = 0xC0106479, 4
XE_QUERY, XE_MEMORY_REGIONS = 0xC0286440, 1
I915_QUERY_FORMAT = "=IIQ"  # n_items, flags, items
I915_ITEM_FORMAT = "=QiIQ"  # query, length, flags, data
XE_QUERY_FORMAT = "=QIIQ16x"  # extensions, query, size, data
REGION_FORMAT = "=HHIQQ64x"  # of both: class, instance, -, bytes, and i915: bytes that are free, xe: that are used
I915_HEADER_BYTES, XE_HEADER_BYTES = 16, 8  # before the first region; they begin with the number of regions
_MOST_BYTES = 1024**2


def memory(node: str, driver: str) -> tuple[int, int | None] | None:
    """Bytes in all and free ones, summed over the device's own regions; None where they are not told.

    Both drivers tell what is in use only to who may watch all processes (CAP_PERFMON): free is None to the others.
    """
    ask = {"i915": _i915, "xe": _xe}.get(driver)
    if ask is None:
        return None
    try:
        fd = os.open(node, os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        return ask(fd)
    except OSError:  # a driver from before the query
        return None
    finally:
        os.close(fd)


def _i915(fd: int) -> tuple[int, int | None] | None:
    length, data = 0, ctypes.create_string_buffer(0)
    for _ in range(2):  # how long the answer is, then the answer
        data = ctypes.create_string_buffer(min(max(0, length), _MOST_BYTES))
        address = ctypes.addressof(data) if length else 0
        item = ctypes.create_string_buffer(struct.pack(I915_ITEM_FORMAT, I915_MEMORY_REGIONS, len(data), 0, address))
        _ioctl(fd, I915_QUERY, struct.pack(I915_QUERY_FORMAT, 1, 0, ctypes.addressof(item)))
        length = struct.unpack_from(I915_ITEM_FORMAT, item)[1]
        if length < 0:
            return None
    regions = _regions(data.raw, I915_HEADER_BYTES)
    total, free = (sum(region[which] for region in regions) for which in (0, 1))
    return (total, free if free < total else None) if total else None


def _xe(fd: int) -> tuple[int, int | None] | None:
    size, data = 0, ctypes.create_string_buffer(0)
    for _ in range(2):
        data = ctypes.create_string_buffer(min(size, _MOST_BYTES))
        address = ctypes.addressof(data) if size else 0
        query = _ioctl(fd, XE_QUERY, struct.pack(XE_QUERY_FORMAT, 0, XE_MEMORY_REGIONS, len(data), address))
        size = struct.unpack(XE_QUERY_FORMAT, query)[2]
    regions = _regions(data.raw, XE_HEADER_BYTES)
    total, used = (sum(region[which] for region in regions) for which in (0, 1))
    return (total, total - used if 0 < used <= total else None) if total else None


def _ioctl(fd: int, request: int, argument: bytes) -> bytes:
    import fcntl  # which Windows has not

    return fcntl.ioctl(fd, request, argument)


def _regions(answer: bytes, header_bytes: int) -> list[tuple[int, int]]:
    """The two sizes of each region that is the device's own."""
    if len(answer) < header_bytes:
        return []
    count, size = struct.unpack_from("=I", answer)[0], struct.calcsize(REGION_FORMAT)
    count = min(count, (len(answer) - header_bytes) // size)
    rows = (struct.unpack_from(REGION_FORMAT, answer, header_bytes + at * size) for at in range(count))
    return [(row[3], row[4]) for row in rows if row[0] == _DEVICE_MEMORY]
