"""What is known of a GPU beyond what its driver reports: what its speed and its overheads follow from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from edgellm.types.machine import SourceTrust

# How well it is known: it is in the table; one of several of that name is (the slowest is taken); only its architecture
# is; only its vendor and its bandwidth are; nothing is, until it ran here.
Known = Literal["device", "variant", "family", "bandwidth", "nothing"]
Api = Literal["cuda", "rocm", "metal", "vulkan", "sycl", "opencl"]  # the library that computes on it
Vendor = Literal["nvidia", "amd", "intel", "apple", "qualcomm", "arm", "broadcom", "unknown"]


@dataclass(frozen=True, slots=True)
class Gpu:
    """Facts of one GPU. Bandwidth in 1e9 bytes/s, arithmetic in 1e12 flop/s."""

    name: str
    group: str  # architectures that behave alike: "ada", "rdna3", "m3", ... of hardware/gpus.json
    vendor: Vendor
    known: Known
    bandwidth_gb_s: float
    fp32_tflops: float  # of the shaders, for code that does not issue two instructions at once
    matrix_tflops: float  # dense FP16
    power: float = 1.0  # watts for each of these flop/s, of the median of its architecture
    vram_bytes: tuple[int, ...] = ()  # sizes that it is sold with; empty = the machine's memory
    unified: bool = False
    overhead_mib: tuple[int, int] = (0, 0)  # what a process's context takes beside its buffers: least and most
    link_gb_s: float | None = None  # to the host, one direction
    bandwidth_range: tuple[float, float] | None = None  # least and most, where only the family is known
    source: str = ""
    trust: SourceTrust = "unverified"
