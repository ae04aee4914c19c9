"""The libraries that a build for GPUs can be made for, and which one a machine's GPUs want."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Literal

BuildApi = Literal["vulkan", "cuda", "hip", "sycl", "metal"]
# What such a build calls its devices, before their number.
DEVICE_NAMES: Mapping[BuildApi, str] = MappingProxyType(
    {"vulkan": "Vulkan", "cuda": "CUDA", "hip": "ROCm", "sycl": "SYCL", "metal": "MTL"}
)
# By kind of accelerator. Vulkan is as fast as HIP on most, and needs no toolkit of its own (research notes on GPUs,
# sections 1 and 4).
WANTED: Mapping[str, BuildApi] = MappingProxyType(
    {"cuda": "cuda", "metal": "metal", "rocm": "vulkan", "xe": "vulkan", "vulkan": "vulkan", "opencl": "vulkan"}
)
_OWN: Mapping[BuildApi, str] = MappingProxyType({"cuda": "cuda", "hip": "rocm", "sycl": "xe", "metal": "metal"})


def sees(api: BuildApi, kind: str) -> bool:
    """Whether a build for `api` computes on accelerators of that kind: Vulkan on all but Apple's, others on one."""
    return kind in WANTED and kind != "metal" if api == "vulkan" else kind == _OWN[api]
