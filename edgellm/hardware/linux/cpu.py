"""The processor of a Linux machine, from /proc and /sys.

What lies where: names of instruction sets in isa.py, cores and caches in topology.py, Arm core names in arm.py.
"""

from __future__ import annotations

import platform
from collections import Counter

from edgellm.hardware.linux import arm, cpuinfo, isa, topology
from edgellm.hardware.linux.cpuinfo import CpuInfo
from edgellm.hardware.linux.sysfs import SysRoot
from edgellm.hardware.linux.topology import Topology
from edgellm.hardware.printable import clean
from edgellm.types.machine import Cpu


def read(tree: SysRoot) -> tuple[Cpu, Topology, list[str]]:
    """The processor, which of its processors are which cores, and what could not be found out."""
    info = cpuinfo.parse(tree.text("/proc/cpuinfo"))
    layout = topology.read(tree, info)
    notes = list(layout.notes)
    arch = architecture(tree, info)
    if arch == "unknown":
        notes.append("architecture unknown: nothing in /proc/cpuinfo tells it")
    names = _isa(tree, info, arch, notes)
    cache = topology.caches(tree, layout)
    if cache.l2 is None and cache.l3 is None:
        notes.append("cache sizes unknown: /sys/devices/system/cpu/cpu*/cache has none")
    cpu = Cpu(
        arch=arch,
        model=_model(info),
        cores=len(layout.cores),
        threads=len(layout.online),
        isa=names,
        performance_cores=len(layout.workers) if layout.clusters else None,
        clusters=layout.clusters,
        l1d_bytes=cache.l1d,
        l2_bytes=cache.l2,
        l3_bytes=cache.l3,
    )
    return cpu, layout, notes


def architecture(tree: SysRoot, info: CpuInfo) -> str:
    """This machine's as the operating system names it; a recorded tree's as the fields of cpuinfo show."""
    if tree.live:
        return _normal_arch(platform.machine())
    if info.field("flags") is not None:
        return "x86_64" if "lm" in (info.field("flags") or "").split() else "i686"
    features = (info.field("Features") or "").split()
    if "asimd" in features or info.field("CPU architecture") == "AArch64":
        return "aarch64"
    if info.field("CPU architecture") is not None:
        return "armv6l" if "v6l" in (info.field("model name", "Processor") or "") else "armv7l"
    if word := info.field("isa"):
        return "riscv32" if word.startswith("rv32") else "riscv64"
    return "ppc64le" if "POWER" in (info.field("cpu") or "") else "unknown"


def _normal_arch(machine: str) -> str:
    lower = machine.lower()
    return {"amd64": "x86_64", "arm64": "aarch64", "i386": "i686", "i586": "i686", "armv8l": "armv7l"}.get(lower, lower)


def _isa(tree: SysRoot, info: CpuInfo, arch: str, notes: list[str]) -> tuple[str, ...]:
    names = isa.from_cpuinfo(info, arch)
    granted = isa.from_hwcap() if tree.live and arch == "aarch64" else None
    if granted is not None:
        if names is not None and names != granted:
            notes.append(
                f"/proc/cpuinfo and the auxiliary vector disagree about {', '.join(sorted({*names} ^ {*granted}))}: "
                "the vector counts, it is the kernel's word to this process; the file may be that of an emulator's host"
            )
        return granted
    if names is None:
        notes.append("instruction sets unknown: /proc/cpuinfo names no features")
        return ()
    if tree.live and any(name.startswith("amx") for name in names) and not isa.amx_permitted():
        notes.append("the processor has AMX, but this kernel does not grant its tile registers: not counted as usable")
        names = tuple(name for name in names if not name.startswith("amx"))
    return names


def _model(info: CpuInfo) -> str:
    """`"4x Cortex-A76"` where Arm parts are named, else the model name, else the vendor's own field."""
    counts = Counter(arm.core_names(info).values())
    if len(info.processors) == sum(counts.values()) and counts:
        hardware = info.field("Hardware")
        cores = " + ".join(f"{counts[name]}x {name}" for name in sorted(counts, key=lambda n: (n in arm.LITTLE, n)))
        return clean(f"{hardware}, {cores}" if hardware else cores)
    return clean(info.field("model name", "Processor", "cpu", "uarch", "Hardware") or "") or "unknown"
