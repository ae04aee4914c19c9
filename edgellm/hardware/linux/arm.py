"""Names of Arm cores by the implementer and part numbers of /proc/cpuinfo, or by the chipset.

Source: Arm's MIDR values as in util-linux `lscpu-arm.c` and the Linux kernel's `cputype.h`; Qualcomm's Gold and
Silver, and the cores of chipsets, as in pytorch/cpuinfo (d610881, `src/arm/midr.h` and `src/arm/linux/midr.c`).
"""

from __future__ import annotations

from collections.abc import Mapping

from edgellm.hardware.linux.cpuinfo import CpuInfo

CORES = {
    (0x41, 0xB76): "ARM1176", (0x41, 0xC05): "Cortex-A5", (0x41, 0xC07): "Cortex-A7",
    (0x41, 0xC08): "Cortex-A8", (0x41, 0xC09): "Cortex-A9", (0x41, 0xC0D): "Cortex-A17",
    (0x41, 0xC0E): "Cortex-A17", (0x41, 0xC0F): "Cortex-A15", (0x41, 0xD03): "Cortex-A53",
    (0x41, 0xD04): "Cortex-A35", (0x41, 0xD05): "Cortex-A55", (0x41, 0xD07): "Cortex-A57",
    (0x41, 0xD08): "Cortex-A72", (0x41, 0xD09): "Cortex-A73", (0x41, 0xD0A): "Cortex-A75",
    (0x41, 0xD0B): "Cortex-A76", (0x41, 0xD0C): "Neoverse-N1", (0x41, 0xD0D): "Cortex-A77",
    (0x41, 0xD0E): "Cortex-A76AE", (0x41, 0xD40): "Neoverse-V1", (0x41, 0xD41): "Cortex-A78",
    (0x41, 0xD42): "Cortex-A78AE", (0x41, 0xD44): "Cortex-X1", (0x41, 0xD46): "Cortex-A510",
    (0x41, 0xD47): "Cortex-A710", (0x41, 0xD48): "Cortex-X2", (0x41, 0xD49): "Neoverse-N2",
    (0x41, 0xD4B): "Cortex-A78C", (0x41, 0xD4D): "Cortex-A715", (0x41, 0xD4E): "Cortex-X3",
    (0x41, 0xD4F): "Neoverse-V2", (0x41, 0xD80): "Cortex-A520", (0x41, 0xD81): "Cortex-A720",
    (0x41, 0xD82): "Cortex-X4", (0x41, 0xD83): "Neoverse-V3AE", (0x41, 0xD84): "Neoverse-V3",
    (0x41, 0xD85): "Cortex-X925", (0x41, 0xD87): "Cortex-A725", (0x41, 0xD8E): "Neoverse-N3",
    (0x48, 0xD01): "TaiShan-v110", (0x48, 0xD40): "Cortex-A76", (0x43, 0x0A1): "ThunderX-88XX",
    (0x43, 0x0AF): "ThunderX2", (0x51, 0x06F): "Krait", (0x51, 0x201): "Kryo-Silver",
    (0x51, 0x205): "Kryo-Gold", (0x51, 0x211): "Kryo-Silver", (0x51, 0x800): "Kryo-2xx-Gold",
    (0x51, 0x801): "Kryo-2xx-Silver", (0x51, 0x802): "Kryo-3xx-Gold", (0x51, 0x803): "Kryo-3xx-Silver",
    (0x51, 0x804): "Kryo-4xx-Gold", (0x51, 0x805): "Kryo-4xx-Silver", (0x51, 0x001): "Oryon",
    (0x53, 0x001): "Exynos-M1", (0x53, 0x002): "Exynos-M3", (0x53, 0x003): "Exynos-M4",
    (0x53, 0x004): "Exynos-M5", (0x46, 0x001): "A64FX",
}  # fmt: skip

# The small, in-order designs that Arm licences as the LITTLE half, and Qualcomm's names for them.
LITTLE = frozenset({
    "Cortex-A7", "Cortex-A35", "Cortex-A53", "Cortex-A55", "Cortex-A510", "Cortex-A520",
    "Kryo-2xx-Silver", "Kryo-3xx-Silver", "Kryo-4xx-Silver",
})  # fmt: skip

# The two halves of a Snapdragon 820 are one design; they differ in their clock. Source: cpuinfo_max_freq of a Galaxy S7
# and a Pixel, recorded in pytorch/cpuinfo. Used where the machine does not tell its own.
MAX_MHZ = {"Kryo-Gold": 2150, "Kryo-Silver": 1593}

# Cores by processor number, for chipsets whose kernels give the part of one core for all of them.
CHIPSETS = {
    "MSM8956": ("Cortex-A53",) * 4 + ("Cortex-A72",) * 2,  # Snapdragon 650
    "MSM8976": ("Cortex-A53",) * 4 + ("Cortex-A72",) * 4,  # Snapdragon 652 and 653
    "MSM8992": ("Cortex-A53",) * 4 + ("Cortex-A57",) * 2,  # Snapdragon 808
    "MSM8994": ("Cortex-A53",) * 4 + ("Cortex-A57",) * 4,  # Snapdragon 810
    "Exynos5433": ("Cortex-A53",) * 4 + ("Cortex-A57",) * 4,
    "Exynos7420": ("Cortex-A53",) * 4 + ("Cortex-A57",) * 4,
}


def core_name(fields: Mapping[str, str]) -> str | None:
    """The core of one processor; None where the fields do not say, its numbers where the table has no name."""
    try:
        implementer, part = (int(fields[key], 16) for key in ("CPU implementer", "CPU part"))
    except (KeyError, ValueError):
        return None
    return CORES.get((implementer, part), f"Arm core {implementer:#04x}:{part:#05x}")


def core_names(info: CpuInfo) -> dict[int, str]:
    """Logical processor -> name of its core, for those that are known.

    One part for all processors names them on 32-bit Arm. On 64-bit it is only that of the core which printed the file:
    there the chipset names them, or nothing does.
    """
    names = {cpu: core_name(fields) for cpu, fields in info.processors.items()}
    if not any(names.values()):
        hardware = info.common.get("Hardware", "")
        cores = next((cores for chipset, cores in CHIPSETS.items() if chipset in hardware), ())
        is_64_bit = info.common.get("CPU architecture") in ("8", "AArch64")
        shared = None if is_64_bit and len(names) > 1 else core_name(info.common)
        names = {cpu: cores[cpu] if cpu < len(cores) else shared for cpu in names}
    return {cpu: name for cpu, name in names.items() if name is not None}
