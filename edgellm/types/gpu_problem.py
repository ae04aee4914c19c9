"""What keeps a GPU from being used, or from being known, as data. The sentences: `edgellm.explain.gpus`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

GpuProblemKind = Literal[
    # The kernel's side.
    "none",  # no GPU is listed anywhere
    "no_driver",  # the bus lists it, no driver has taken it
    "no_modeset",  # `nomodeset` on the kernel's command line keeps its driver out
    "nouveau",
    "radeon",  # the driver before amdgpu
    "reserved",  # vfio-pci holds it for a virtual machine
    "lost",  # it answers no more: `detail`
    # NVIDIA's library.
    "package_missing",  # nvidia-ml-py
    "library_missing",  # `path`
    "driver_mismatch",  # kernel module `driver`, library `library`
    "driver_silent",  # the library says `detail`
    "mig_empty",  # divided into instances, of which there are none
    "mig_one",  # an instance beside the first, and a CUDA program sees one only
    # Device nodes, `path`; `group` is whose it is.
    "node_missing",
    "node_closed",
    "node_denied",  # open to this user, and the container's rules forbid it
    "no_vulkan_driver",  # the loader's list has none of its vendor
    # WSL.
    "wsl_no_device",  # no /dev/dxg
    "wsl_no_library",  # /dev/dxg, and no library of NVIDIA's beside it: another vendor's GPU, or an old driver
    "wsl_own_driver",  # a driver for Linux stands before the one of Windows
    # What is not told.
    "memory_not_told",
    "memory_from_bar",  # the size is the BAR's
    "free_not_told",  # only to the administrator
    "taken_as_shared",  # no memory of its own is told, and the name is not in the table
    "small_bar",  # the processor reaches only `detail` of its memory at once
    "not_recorded",
    "not_looked",  # on a system of which no reader is here
    # Variables: `path` is the name, `detail` the value.
    "hidden",
    "order_guessed",  # CUDA's numbers follow speed, which it does not tell
    "numbers_of_vulkan",  # which of several it leaves, only the loader knows
]


@dataclass(frozen=True, slots=True)
class GpuProblem:
    """One fact of one GPU, or of all where `device` is empty."""

    kind: GpuProblemKind
    device: str = ""
    path: str = ""
    detail: str = ""
    driver: str = ""
    library: str = ""
    group: int | None = None
    vendor: str = ""  # "nvidia", "amd", "intel"
    container: bool = False  # seen from inside one, where the remedy is the host's
