"""Processor features that the kernel grants this process on 64-bit Arm, from its auxiliary vector.

The kernel tells them to the process itself, so they hold where /proc/cpuinfo is another machine's: older qemu-user
shows programs the file of its host. Source of the bits: arch/arm64/include/uapi/asm/hwcap.h.
"""

from __future__ import annotations

import ctypes

AT_HWCAP, AT_HWCAP2 = 16, 26
# (entry of the vector, bit) -> the word that /proc/cpuinfo has for it; those that isa.py has a name for.
WORDS = {
    (AT_HWCAP, 1): "asimd", (AT_HWCAP, 10): "asimdhp", (AT_HWCAP, 20): "asimddp", (AT_HWCAP, 22): "sve",
    (AT_HWCAP2, 1): "sve2", (AT_HWCAP2, 13): "i8mm", (AT_HWCAP2, 14): "bf16", (AT_HWCAP2, 23): "sme",
    (AT_HWCAP2, 37): "sme2",
}  # fmt: skip


def words() -> frozenset[str] | None:
    """Words as in the Features of /proc/cpuinfo; None where the C library has no getauxval or gives nothing."""
    try:
        getauxval = ctypes.CDLL(None).getauxval
    except (OSError, AttributeError):
        return None
    getauxval.restype, getauxval.argtypes = ctypes.c_ulong, [ctypes.c_ulong]
    values = {entry: getauxval(entry) for entry in (AT_HWCAP, AT_HWCAP2)}
    if not values[AT_HWCAP]:
        return None
    return frozenset(word for (entry, bit), word in WORDS.items() if values[entry] >> bit & 1)
