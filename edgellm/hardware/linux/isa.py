"""Names of instruction sets, and how Linux spells them in /proc/cpuinfo.

A name in `Cpu.isa` means usable by a program, not only present in silicon. On x86 the operating system must
save the wide registers (XCR0 bits 1-2 for AVX, 5-7 for AVX-512, 17-18 for AMX). CPUID alone does not say so, but
/proc/cpuinfo does: the kernel clears a flag whose state it does not enable in XCR0 (arch/x86/kernel/fpu/xstate.c, the
table `xsave_cpuid_features`), as it does for `clearcpuid=` and `noxsave`. On ARM the file shows HWCAP bits, which the
kernel grants likewise; a live process asks for its own (hwcap.py). AMX needs one thing more, see `amx_permitted`.
"""

from __future__ import annotations

import ctypes
from functools import reduce

from edgellm.hardware.linux import hwcap
from edgellm.hardware.linux.cpuinfo import CpuInfo

X86 = {
    "sse2": "sse2", "pni": "sse3", "ssse3": "ssse3", "sse4_1": "sse41", "sse4_2": "sse42", "popcnt": "popcnt",
    "avx": "avx", "f16c": "f16c", "fma": "fma", "bmi2": "bmi2", "avx2": "avx2", "gfni": "gfni",
    "avx_vnni": "avx_vnni", "avx_vnni_int8": "avx_vnni_int8", "avx_ifma": "avx_ifma",
    "avx512f": "avx512f", "avx512bw": "avx512bw", "avx512dq": "avx512dq", "avx512vl": "avx512vl",
    "avx512vbmi": "avx512vbmi", "avx512_vnni": "avx512vnni", "avx512_bf16": "avx512bf16", "avx512_fp16": "avx512fp16",
    "amx_tile": "amx_tile", "amx_int8": "amx_int8", "amx_bf16": "amx_bf16", "amx_fp16": "amx_fp16",
}  # fmt: skip
ARM = {
    "asimd": "neon", "neon": "neon", "vfpv4": "vfpv4", "asimdhp": "fp16", "asimddp": "dotprod", "i8mm": "i8mm",
    "bf16": "bf16", "sve": "sve", "sve2": "sve2", "sme": "sme", "sme2": "sme2",
}  # fmt: skip
OTHER = {"altivec": "altivec", "vsx": "vsx", "lsx": "lsx", "lasx": "lasx"}  # POWER, LoongArch
NAMES = frozenset({*X86.values(), *ARM.values(), *OTHER.values(), "rvv"})


def from_cpuinfo(info: CpuInfo, arch: str) -> tuple[str, ...] | None:
    """Names that every online processor has, sorted; None where the file names no features at all.

    On a hybrid machine a thread may move to any processor, so only what all of them have is usable.
    """
    if arch.startswith("riscv"):
        return _riscv(info)
    table = {**X86} if arch in ("x86_64", "i686") else {**ARM} if arch.startswith(("arm", "aarch")) else {**OTHER}
    flags = [set(text.replace(",", " ").split()) for name in ("flags", "Features", "cpu") for text in info.every(name)]
    if not flags:
        return None
    return tuple(sorted({table[flag] for flag in reduce(set.__and__, flags) if flag in table}))


def from_hwcap() -> tuple[str, ...] | None:
    """Names that the kernel grants this process on 64-bit Arm, sorted; None where it does not tell."""
    words = hwcap.words()
    return None if words is None else tuple(sorted(ARM[word] for word in words))


def _riscv(info: CpuInfo) -> tuple[str, ...] | None:
    """`isa : rv64imafdcv_zba`: single letters up to the first underscore."""
    words = [text.lower().split("_")[0].removeprefix("rv64").removeprefix("rv32") for text in info.every("isa")]
    if not words:
        return None
    return ("rvv",) if all("v" in word for word in words) else ()


def amx_permitted() -> bool:
    """Whether this kernel lets a process ask for the AMX tile registers.

    The flags say that the kernel knows AMX; each process must still be granted its 8 KiB of tile state by
    arch_prctl(ARCH_REQ_XCOMP_PERM, 18), else the first tile instruction dies of SIGILL. This only asks what could be
    granted (ARCH_GET_XCOMP_SUPP); a backend that uses AMX must request it. Source: Documentation/arch/x86/xstate.rst.
    """
    supported = ctypes.c_uint64(0)
    try:
        syscall = ctypes.CDLL(None, use_errno=True).syscall
    except (OSError, AttributeError):
        return False
    status = syscall(ctypes.c_long(158), ctypes.c_long(0x1021), ctypes.byref(supported))
    return status == 0 and bool(supported.value >> 18 & 1)
