"""What a build needs of the system, and the packages that have it."""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from dataclasses import dataclass

MANAGERS = {
    "apt-get": "apt-get install", "dnf": "dnf install", "pacman": "pacman -S", "zypper": "zypper install",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Need:
    """One thing that is missing: in words, and its packages by manager ("" = it has none)."""

    text: str
    apt: str = ""
    dnf: str = ""
    pacman: str = ""
    zypper: str = ""
    other: str = ""  # what gets it where packages do not

    def package(self, manager: str) -> str:
        return {"apt-get": self.apt, "dnf": self.dnf, "pacman": self.pacman, "zypper": self.zypper}[manager]


COMPILER = Need("a C++ compiler (c++, g++ or clang++)", "g++", "gcc-c++", "gcc", "gcc-c++", "xcode-select --install")
VULKAN_HEADERS = Need(
    "the headers of Vulkan (vulkan/vulkan.hpp)", "libvulkan-dev", "vulkan-headers", "vulkan-headers", "vulkan-devel"
)
VULKAN_LOADER = Need(
    "the loader of Vulkan to link with (libvulkan)",
    "libvulkan-dev", "vulkan-loader-devel", "vulkan-icd-loader", "vulkan-devel",
)  # fmt: skip
GLSLC = Need(
    "the shader compiler glslc", "glslc", "glslc", "shaderc", "shaderc",
    "where the system has no glslc (Ubuntu 22.04): LunarG's Vulkan SDK, and its folder in VULKAN_SDK",
)  # fmt: skip
SPIRV_HEADERS = Need(
    "the headers of SPIR-V (SPIRV-HeadersConfig.cmake)",
    "spirv-headers", "spirv-headers-devel", "spirv-headers", "spirv-headers",
)  # fmt: skip
PIP = Need("pip, which fetches the sources", other="python -m ensurepip --upgrade")
HIPCC = Need("the compiler of ROCm (hipcc)", "hipcc libhipblas-dev librocblas-dev", "hipcc hipblas-devel rocblas-devel",
             "rocm-hip-sdk")  # fmt: skip
SYCL = Need("the compiler of oneAPI (icpx)", other="Intel's oneAPI base toolkit, then `source setvars.sh`")
XCODE = Need("Xcode's command line tools (xcrun)", other="xcode-select --install")


def commands(needs: Iterable[Need]) -> tuple[str, ...]:
    """A line for this system's package manager, or for each where none is here; then what packages do not get."""
    needs = list(needs)
    here = [name for name in MANAGERS if shutil.which(name)] or list(MANAGERS)
    lines = []
    for name in here:
        names = dict.fromkeys(package for need in needs if (package := need.package(name)))
        if names:
            lines.append(f"{MANAGERS[name]} {' '.join(names)}")
    return (*lines, *dict.fromkeys(need.other for need in needs if need.other and (not lines or not need.apt)))
