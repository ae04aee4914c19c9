"""A Mac, by `sysctl`, `ioreg` and psutil. Written from Apple's documentation, and only its parsing is tested.

Apple silicon shares its RAM with the GPU. macOS has no cgroups and no affinity, so there are no limits to read.
"""

from __future__ import annotations

import importlib
import platform
import re
import subprocess
from typing import Any

from edgellm.hardware import identity
from edgellm.types.gpu_problem import GpuProblem
from edgellm.types.machine import Accelerator, Cluster, Cpu, Machine, Memory, metal_bytes
from edgellm.units import MIB

_SYSCTL = ("/usr/sbin/sysctl", "hw", "machdep.cpu", "iogpu.wired_limit_mb")
_IOREG = ("/usr/sbin/ioreg", "-r", "-d", "1", "-c", "AGXAccelerator")
# hw.optional key -> name; "Determining Instruction Set Characteristics" in Apple's documentation.
_ARM = {
    "hw.optional.AdvSIMD": "neon",
    "hw.optional.neon": "neon",
    "hw.optional.arm.FEAT_FP16": "fp16",
    "hw.optional.arm.FEAT_DotProd": "dotprod",
    "hw.optional.arm.FEAT_I8MM": "i8mm",
    "hw.optional.arm.FEAT_BF16": "bf16",
    "hw.optional.arm.FEAT_SME": "sme",
    "hw.optional.arm.FEAT_SME2": "sme2",
}
_X86 = {
    "hw.optional.supplementalsse3": "ssse3",
    "hw.optional.sse3": "sse3",
    "hw.optional.sse4_1": "sse41",
    "hw.optional.sse4_2": "sse42",
    "hw.optional.avx1_0": "avx",
    "hw.optional.avx2_0": "avx2",
    "hw.optional.f16c": "f16c",
    "hw.optional.fma": "fma",
    "hw.optional.bmi2": "bmi2",
    "hw.optional.avx512f": "avx512f",
    "hw.optional.avx512bw": "avx512bw",
    "hw.optional.avx512vl": "avx512vl",
}


def read() -> Machine:
    """This Mac. The kernel's answers in hw.optional are what programs may use, XCR0 included."""
    psutil: Any = importlib.import_module("psutil")

    sysctl, notes = _printed(*_SYSCTL)
    gpu, gpu_notes = _printed(*_IOREG)
    ram, swap = psutil.virtual_memory(), psutil.swap_memory()
    memory = Memory(int(ram.total), int(ram.available), int(swap.total))
    return described(sysctl, gpu, memory, platform.machine(), (*notes, *gpu_notes))


def described(sysctl: str, ioreg: str, memory: Memory, machine: str, notes: tuple[str, ...] = ()) -> Machine:
    """The Mac on which the two commands print that. `machine` is "arm64" or "x86_64"."""
    values, arch = parse_sysctl(sysctl), "aarch64" if machine == "arm64" else "x86_64"
    processor = cpu(values, arch)
    if not processor.isa:
        notes += ("instruction sets unknown: sysctl hw.optional names none",)
    gpus: tuple[Accelerator, ...] = ()
    problems: tuple[GpuProblem, ...] = ()
    if arch == "aarch64":
        gpus = (metal(values, memory.total_bytes, processor.model, ioreg),)
    else:
        problems = (GpuProblem("not_looked", detail="Metal on Intel Macs"),)
    return identity.machine(
        processor,
        memory,
        os="darwin",
        accelerators=gpus,
        provenance=identity.measured(),
        notes=notes,
        gpu_problems=problems,
    )


def _printed(*command: str) -> tuple[str, list[str]]:
    try:
        # A key that this macOS lacks makes sysctl fail and still print the others.
        process = subprocess.run(command, capture_output=True, text=True, timeout=5, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        return "", [f"unknown what {command[0]} tells: it failed ({error})"]
    return process.stdout, []


def parse_sysctl(text: str) -> dict[str, str]:
    """`hw.memsize: 17179869184` lines as a dictionary."""
    pairs = (line.partition(":") for line in text.splitlines())
    return {key.strip(): value.strip() for key, colon, value in pairs if colon}


def cpu(values: dict[str, str], arch: str) -> Cpu:
    table = _ARM if arch == "aarch64" else _X86
    cores = _number(values, "hw.physicalcpu") or 1
    fast = _number(values, "hw.perflevel0.physicalcpu")
    slow = _number(values, "hw.perflevel1.physicalcpu")
    clusters = (Cluster("performance", fast), Cluster("efficiency", slow)) if fast and slow else ()
    shared_l2 = _number(values, "hw.perflevel0.l2cachesize") or _number(values, "hw.l2cachesize")
    per_l2 = _number(values, "hw.perflevel0.cpusperl2") or 1
    return Cpu(
        arch=arch,
        model=values.get("machdep.cpu.brand_string", "unknown"),
        cores=cores,
        threads=max(cores, _number(values, "hw.logicalcpu") or cores),
        isa=tuple(sorted({name for key, name in table.items() if values.get(key) == "1"})),
        performance_cores=fast if clusters else None,
        clusters=clusters,
        l1d_bytes=_number(values, "hw.perflevel0.l1dcachesize") or _number(values, "hw.l1dcachesize"),
        l2_bytes=shared_l2 // per_l2 if shared_l2 else None,
        l3_bytes=_number(values, "hw.l3cachesize"),
    )


def metal(values: dict[str, str], total_bytes: int, model: str, ioreg: str = "") -> Accelerator:
    """The GPU may wire what iogpu.wired_limit_mb says; where that is 0, the system's own share.

    The number of its cores, which `ioreg` tells, is part of its name: they tell an M3 Max from another.
    """
    limit = (_number(values, "iogpu.wired_limit_mb") or 0) * MIB
    cores = re.search(r'"gpu-core-count" = (\d{1,4})\b', ioreg)
    name = f"{model} ({cores[1]}c)" if cores else f"{model} GPU"
    return Accelerator("metal", name, min(limit or metal_bytes(total_bytes), total_bytes), unified=True)


def _number(values: dict[str, str], key: str) -> int | None:
    text = values.get(key, "")
    return int(text) if text.isdecimal() and len(text) < 20 and int(text) > 0 else None
