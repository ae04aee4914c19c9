"""A Windows machine, by kernel32 and psutil. Written from Microsoft's documentation and not tested on Windows.

Not read: job object limits, hybrid cores (Windows' scheduler places threads itself), caches, and GPUs of AMD
and Intel. Each is said.
"""

from __future__ import annotations

import ctypes
import importlib
import os
import platform
from collections.abc import Callable
from typing import Any

from edgellm.hardware import identity, nvml, visible
from edgellm.types.gpu_problem import GpuProblem
from edgellm.types.machine import Accelerator, Cpu, Limits, Machine, Memory

# IsProcessorFeaturePresent(number) -> name, winnt.h. The call answers for the operating system too, XCR0 included.
_X86 = {13: "sse3", 36: "ssse3", 37: "sse41", 38: "sse42", 39: "avx", 40: "avx2", 41: "avx512f"}
_ARM = {19: "neon", 43: "dotprod", 46: "sve", 47: "sve2", 66: "i8mm", 67: "fp16"}


def read() -> Machine:
    psutil: Any = importlib.import_module("psutil")

    arch = {"AMD64": "x86_64", "ARM64": "aarch64", "x86": "i686"}.get(platform.machine(), platform.machine().lower())
    notes = [
        "caches, hybrid cores and job object limits are not read on Windows",
    ]
    kernel32 = getattr(ctypes, "windll").kernel32  # noqa: B009  (absent from the type stubs of other systems)
    ram, swap = psutil.virtual_memory(), psutil.swap_memory()
    threads = psutil.cpu_count() or 1
    processor = Cpu(
        arch=arch,
        model=platform.processor() or os.environ.get("PROCESSOR_IDENTIFIER", "unknown"),
        cores=psutil.cpu_count(logical=False) or threads,
        threads=threads,
        isa=isa_names(arch, lambda number: bool(kernel32.IsProcessorFeaturePresent(number)), notes),
    )
    memory = Memory(int(ram.total), int(ram.available), int(swap.total))
    allowed = len(psutil.Process().cpu_affinity())
    limits = Limits(cpuset=allowed, source="affinity") if allowed < threads else Limits()
    gpus, problems = _gpus()
    return identity.machine(
        processor,
        memory,
        os="windows",
        limits=limits,
        accelerators=gpus,
        gpu_problems=problems,
        provenance=identity.measured(),
        notes=tuple(notes),
    )


def _gpus() -> tuple[tuple[Accelerator, ...], tuple[GpuProblem, ...]]:
    """NVIDIA's, by the same library as on Linux."""
    problems: list[GpuProblem] = []
    devices = nvml.read(problems)
    # Without NVIDIA's driver there is no library of its, as on any machine without such a GPU.
    problems = [problem for problem in problems if problem.kind != "library_missing"]
    gpus = [named.gpu for named in visible.nvidia(devices or (), os.environ, problems)]
    return tuple(gpus), (*problems, GpuProblem("not_looked", detail="those of AMD and Intel, under Windows"))


def isa_names(arch: str, present: Callable[[int], bool], notes: list[str]) -> tuple[str, ...]:
    """Names from the features that Windows can be asked for."""
    names = {name for number, name in (_ARM if arch == "aarch64" else _X86).items() if present(number)}
    if "avx2" in names:
        # Every processor with AVX2 that Windows 10 runs on has these, from Haswell and Excavator on.
        names |= {"f16c", "fma", "bmi2"}
        notes.append("f16c, fma and bmi2 are taken to come with avx2: Windows cannot be asked for them")
    return tuple(sorted(names))
