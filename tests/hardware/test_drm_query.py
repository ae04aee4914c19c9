"""Intel's query of memory: its numbers against the kernel's headers, its reading against a driver written here."""

from __future__ import annotations

import ctypes
import shutil
import struct
import subprocess
import sys
from pathlib import Path

import pytest

from edgellm.hardware.linux import drm_query
from edgellm.units import GIB

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="an ioctl of Linux")

COMPILER = shutil.which("cc") or shutil.which("gcc")
HEADERS = Path("/usr/include/drm")
EXPRESSIONS = {
    "DRM_IOCTL_I915_QUERY": drm_query.I915_QUERY,
    "DRM_I915_QUERY_MEMORY_REGIONS": drm_query.I915_MEMORY_REGIONS,
    "sizeof(struct drm_i915_query)": struct.calcsize(drm_query.I915_QUERY_FORMAT),
    "offsetof(struct drm_i915_query, items_ptr)": struct.calcsize(drm_query.I915_QUERY_FORMAT[:-1]),
    "sizeof(struct drm_i915_query_item)": struct.calcsize(drm_query.I915_ITEM_FORMAT),
    "offsetof(struct drm_i915_query_item, length)": struct.calcsize(drm_query.I915_ITEM_FORMAT[:2]),
    "offsetof(struct drm_i915_query_item, data_ptr)": struct.calcsize(drm_query.I915_ITEM_FORMAT[:-1]),
    "sizeof(struct drm_i915_memory_region_info)": struct.calcsize(drm_query.REGION_FORMAT),
    "offsetof(struct drm_i915_memory_region_info, probed_size)": 8,
    "offsetof(struct drm_i915_memory_region_info, unallocated_size)": 16,
    "offsetof(struct drm_i915_query_memory_regions, regions)": drm_query.I915_HEADER_BYTES,
    "I915_MEMORY_CLASS_DEVICE": 1,
    "DRM_IOCTL_XE_DEVICE_QUERY": drm_query.XE_QUERY,
    "DRM_XE_DEVICE_QUERY_MEM_REGIONS": drm_query.XE_MEMORY_REGIONS,
    "sizeof(struct drm_xe_device_query)": struct.calcsize(drm_query.XE_QUERY_FORMAT),
    "offsetof(struct drm_xe_device_query, size)": struct.calcsize(drm_query.XE_QUERY_FORMAT[:3]),
    "offsetof(struct drm_xe_device_query, data)": struct.calcsize(drm_query.XE_QUERY_FORMAT[:4]),
    "sizeof(struct drm_xe_mem_region)": struct.calcsize(drm_query.REGION_FORMAT),
    "offsetof(struct drm_xe_mem_region, total_size)": 8,
    "offsetof(struct drm_xe_mem_region, used)": 16,
    "offsetof(struct drm_xe_query_mem_regions, mem_regions)": drm_query.XE_HEADER_BYTES,
    "DRM_XE_MEM_REGION_CLASS_VRAM": 1,
}


@pytest.mark.skipif(COMPILER is None, reason="no C compiler")
@pytest.mark.skipif(not (HEADERS / "xe_drm.h").exists(), reason="no headers of i915 and xe (linux-libc-dev)")
def test_numbers_and_layouts_are_those_of_the_kernels_headers(tmp_path: Path) -> None:
    printing = "".join(f'printf("%llu\\n", (unsigned long long)({text}));' for text in EXPRESSIONS)
    source = tmp_path / "layout.c"
    includes = "".join(f"#include <{name}>\n" for name in ("stddef.h", "stdio.h", "drm/i915_drm.h", "drm/xe_drm.h"))
    source.write_text(f"{includes}int main(void) {{ {printing} }}")
    subprocess.run([COMPILER or "cc", "-o", tmp_path / "layout", source], check=True)

    printed = subprocess.run([tmp_path / "layout"], check=True, stdout=subprocess.PIPE, text=True).stdout

    assert dict(zip(EXPRESSIONS, map(int, printed.split()), strict=True)) == EXPRESSIONS


def _answer(header_bytes: int, *regions: tuple[int, int, int]) -> bytes:
    """`regions`: class, bytes, and free (i915) or used (xe) ones."""
    rows = (struct.pack(drm_query.REGION_FORMAT, kind, 0, 0, total, other) for kind, total, other in regions)
    return struct.pack("=I", len(regions)).ljust(header_bytes, b"\0") + b"".join(rows)


class Driver:
    """Tells the length of its answer where none is given, else writes the answer, as both drivers do."""

    def __init__(self, answer: bytes) -> None:
        self.answer = answer

    def ioctl(self, fd: int, request: int, argument: bytes) -> bytes:
        if request == drm_query.XE_QUERY:
            extensions, query, size, data = struct.unpack(drm_query.XE_QUERY_FORMAT, argument)
            assert size in (0, len(self.answer))
            if size:
                ctypes.memmove(data, self.answer, size)
            return struct.pack(drm_query.XE_QUERY_FORMAT, extensions, query, len(self.answer), data)
        items = struct.unpack(drm_query.I915_QUERY_FORMAT, argument)[2]
        query, length, flags, data = struct.unpack(drm_query.I915_ITEM_FORMAT, ctypes.string_at(items, 24))
        if length:
            ctypes.memmove(data, self.answer, length)
        ctypes.memmove(items, struct.pack(drm_query.I915_ITEM_FORMAT, query, len(self.answer), flags, data), 24)
        return argument


@pytest.mark.parametrize(
    ("driver", "answer", "memory"),
    [
        ("i915", _answer(16, (0, 64 * GIB, 60 * GIB), (1, 16 * GIB, 15 * GIB)), (16 * GIB, 15 * GIB)),
        ("i915", _answer(16, (0, 64 * GIB, 64 * GIB), (1, 16 * GIB, 16 * GIB)), (16 * GIB, None)),  # not root
        ("xe", _answer(8, (0, 64 * GIB, GIB), (1, 12 * GIB, 2 * GIB)), (12 * GIB, 10 * GIB)),
        ("xe", _answer(8, (0, 64 * GIB, 0), (1, 8 * GIB, 0), (1, 8 * GIB, 0)), (16 * GIB, None)),
        ("xe", _answer(8, (0, 64 * GIB, 0)), None),
        ("xe", struct.pack("=I", 2**32 - 1), None),  # fewer regions than it says
        ("i915", b"", None),
        ("amdgpu", b"", None),
    ],
)
def test_the_devices_own_memory_is_summed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, driver: str, answer: bytes, memory: tuple[int, int | None] | None
) -> None:
    node = tmp_path / "renderD128"
    node.touch()
    monkeypatch.setattr("fcntl.ioctl", Driver(answer).ioctl)

    assert drm_query.memory(str(node), driver) == memory


@pytest.mark.parametrize("name", ["plain", "absent"])
def test_what_is_no_such_device_tells_nothing(tmp_path: Path, name: str) -> None:
    (tmp_path / "plain").touch()

    assert [drm_query.memory(str(tmp_path / name), driver) for driver in ("i915", "xe")] == [None, None]
