"""Names of Arm cores by the implementer and part numbers of /proc/cpuinfo.

Source: Arm's MIDR values as in util-linux `lscpu-arm.c` and the Linux kernel's `cputype.h`.
"""

from __future__ import annotations

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
    (0x43, 0x0AF): "ThunderX2", (0x51, 0x06F): "Krait", (0x51, 0x800): "Kryo-2xx-Gold",
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


def core_name(fields: dict[str, str], common: dict[str, str]) -> str | None:
    """The core of one processor; None where the file does not say, a number where the table does not know it."""
    try:
        implementer, part = (int(fields.get(key) or common[key], 16) for key in ("CPU implementer", "CPU part"))
    except (KeyError, ValueError):
        return None
    return CORES.get((implementer, part), f"Arm core {implementer:#04x}:{part:#05x}")


def core_names(info: CpuInfo) -> dict[int, str]:
    """Logical processor -> name of its core, for those that are known."""
    named = {cpu: core_name(fields, info.common) for cpu, fields in info.processors.items()}
    return {cpu: name for cpu, name in named.items() if name is not None}
