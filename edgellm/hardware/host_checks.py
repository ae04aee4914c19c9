"""System settings that slow models down, each with a command that fixes it. Reads /proc and /sys; changes nothing."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from edgellm.hardware.linux.sysfs import SysRoot
from edgellm.types.machine import Machine

# Drivers whose usual governor is called "powersave"; the energy preference decides what they do.
_OWN_POWERSAVE = ("intel_pstate", "amd-pstate-epp")
_POLICY = "/sys/devices/system/cpu/cpu0/cpufreq"
_HUGE_PAGES = "/sys/kernel/mm/transparent_hugepage/enabled"
BUSY_LOAD = 1.0  # times the number of processors; above it, programs share them


@dataclass(frozen=True, slots=True)
class Hindrance:
    text: str
    fix: str


def hindrances(machine: Machine, tree: SysRoot | None = None) -> list[Hindrance]:
    """Empty where nothing is known to slow this machine down."""
    root = tree or SysRoot()
    if machine.os != "linux":
        return []
    return [*_power(root), *_pages(root), *_load(machine, root), *_swap(machine)]


def _power(tree: SysRoot) -> Iterator[Hindrance]:
    driver, governor = tree.line(f"{_POLICY}/scaling_driver") or "", tree.line(f"{_POLICY}/scaling_governor")
    preference = tree.line(f"{_POLICY}/energy_performance_preference")
    if governor == "powersave" and driver not in _OWN_POWERSAVE:
        yield Hindrance(
            "the processor is held at its lowest clock (governor powersave)",
            "sudo cpupower frequency-set -g performance, or choose another power mode in the desktop's settings",
        )
    elif preference == "power":
        yield Hindrance(
            "the processor saves power rather than time (energy_performance_preference power)",
            "powerprofilesctl set balanced, or plug it in",
        )


def _pages(tree: SysRoot) -> Iterator[Hindrance]:
    if "[never]" in (tree.line(_HUGE_PAGES) or ""):
        # 25 instead of 38 GB/s on two threads of a virtual machine (hardware/bandwidth.py).
        yield Hindrance(
            "memory comes in pages of 4 KiB only, which made reading it a third slower where that was measured",
            f"echo madvise | sudo tee {_HUGE_PAGES}",
        )


def busy_load(machine: Machine, tree: SysRoot | None = None, *, minutes: Literal[1, 5] = 1) -> float | None:
    """Processes that compute or wait to, on average over the last minutes; None where each has a processor, or where
    nothing tells."""
    try:
        load = float(((tree or SysRoot()).line("/proc/loadavg") or "").split()[(1, 5).index(minutes)])
    except (IndexError, ValueError):
        return None
    return load if load > BUSY_LOAD * machine.cpu.threads else None


def _load(machine: Machine, tree: SysRoot) -> Iterator[Hindrance]:
    if (load := busy_load(machine, tree)) is not None:
        yield Hindrance(
            f"other programs keep the processors busy: a load of {load:.1f} on {machine.cpu.threads} processors",
            "--threads 1 is often many times faster then; measure and calibrate when they are done",
        )


def _swap(machine: Machine) -> Iterator[Hindrance]:
    if machine.memory.swap_bytes == 0 and machine.limits.memory_bytes is None:
        yield Hindrance("there is no swap: where memory runs out, programs are ended at once", "")
