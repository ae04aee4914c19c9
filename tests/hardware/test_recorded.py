"""Real machines, as others recorded them: the group "machines" of the run, where their folder is."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from edgellm.hardware import profiles
from edgellm.hardware.probe import probe
from edgellm.types.machine import Machine

TREES = {  # name: (arch, cores, threads, performance cores, processors allowed, cores among them)
    "128arm-2pa2n8cluster4co": ("aarch64", 128, 128, None, None, None),
    "16amd64-4n4c-cgroup-distance-merge": ("x86_64", 16, 16, None, 4, 4),
    "16amd64-8n2c-cpusets": ("x86_64", 15, 15, None, 10, 10),
    "16em64t-4s2c2t-offlines": ("x86_64", 8, 16, None, None, None),
    "20em64t-hybrid-1p6c2t+2ca4co1t": ("x86_64", 14, 20, 6, None, None),
    "2arm-2c": ("armv7l", 2, 2, None, None, None),
    "2i386-2c-nohugepage": ("x86_64", 2, 2, None, None, None),
    "32amd64-4s2n4c-cgroup2": ("x86_64", 32, 32, None, 6, 6),
    "40intel64-4n10c+pci-conflicts": ("x86_64", 40, 40, None, None, None),
    "8em64t-2s2ca2c": ("x86_64", 8, 8, None, None, None),
    "nvidia-dgx-gb10": ("aarch64", 20, 20, 20, None, None),
    "nvidiagpunumanodes": ("ppc64le", 8, 32, None, 16, 4),
    "offline-cpu0-node0": ("x86_64", 17, 17, None, None, None),
}
CPUINFO = {  # name: (arch, logical processors, performance cores, cores of each kind, instruction sets)
    "galaxy-s5-us": ("armv7l", 4, None, "", "neon vfpv4"),
    "galaxy-s8-us": ("aarch64", 8, 4, "4 performance 4 efficiency", "neon"),
    "galaxy-s9-global": ("aarch64", 8, 4, "4 performance 4 efficiency", "fp16 neon"),
    "huawei-mate-10": ("aarch64", 8, 4, "4 performance 4 efficiency", "neon"),
    "huawei-mate-20": ("aarch64", 8, 4, "4 performance 4 efficiency", "fp16 neon"),
    "jetson-tx1": ("aarch64", 4, None, "", "neon"),
    "leagoo-t5c": ("x86_64", 8, None, "", "popcnt sse2 sse3 sse41 sse42 ssse3"),
    "moto-g-gen5": ("armv7l", 8, None, "", "neon vfpv4"),
    "oneplus-5t": ("aarch64", 8, 4, "4 performance 4 efficiency", "neon"),
    "pixel-2-xl": ("aarch64", 8, 4, "4 performance 4 efficiency", "neon"),
    "pixel-c": ("aarch64", 4, None, "", "neon"),
    "raspberrypi-zero": ("armv6l", 1, None, "", ""),
    "raspberrypi2": ("armv7l", 4, None, "", "neon vfpv4"),
    "raspberrypi3": ("armv7l", 4, None, "", "neon vfpv4"),
    "scaleway": ("aarch64", 6, None, "", "neon"),
    "zenfone-2": ("x86_64", 4, None, "", "popcnt sse2 sse3 sse41 sse42 ssse3"),
    "zenfone-2e": ("i686", 4, None, "", "sse2 sse3 ssse3"),
}


def unexplained(machine: Machine) -> list[str]:
    """What is unknown without a note that says so."""
    notes = " ".join(machine.notes)
    unknown = {
        "memory size": machine.memory.total_bytes == 0,
        "available memory": machine.memory.available_bytes is None,
        "cache sizes": machine.cpu.l2_bytes is None and machine.cpu.l3_bytes is None,
        "architecture": machine.cpu.arch == "unknown",
    }
    return [what for what, missing in unknown.items() if missing and what not in notes]


LARGE = ("128arm-2pa2n8cluster4co", "40intel64-4n10c+pci-conflicts")


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow(3)) if name in LARGE else name for name in TREES]
)
def test_recorded_tree(recorded: Callable[[str], Path], name: str) -> None:
    machine = probe(root=recorded(name))
    cpu, limits = machine.cpu, machine.limits

    assert TREES[name] == (
        cpu.arch, cpu.cores, cpu.threads, cpu.performance_cores, limits.cpuset, limits.cpuset_cores,
    )  # fmt: skip
    assert unexplained(machine) == []
    assert profiles.parse(profiles.dump(machine), Path(name)).machine == machine


@pytest.mark.parametrize("name", CPUINFO)
def test_recorded_cpuinfo(recorded: Callable[[str], Path], name: str) -> None:
    machine = probe(root=recorded(name))
    cpu = machine.cpu

    kinds = " ".join(f"{cluster.cores} {cluster.kind}" for cluster in cpu.clusters)
    assert CPUINFO[name] == (cpu.arch, cpu.threads, cpu.performance_cores, kinds, " ".join(cpu.isa))
    assert unexplained(machine) == []


def test_recorded_hybrid_intel(recorded: Callable[[str], Path]) -> None:
    cpu = probe(root=recorded("20em64t-hybrid-1p6c2t+2ca4co1t")).cpu

    assert [(cluster.kind, cluster.cores, cluster.max_mhz) for cluster in cpu.clusters] == [
        ("performance", 6, 5000),
        ("efficiency", 8, 3900),
    ]
    assert (cpu.l1d_bytes, cpu.l2_bytes, cpu.l3_bytes) == (48 * 1024, 1280 * 1024, 24 * 1024**2)
    assert {"avx2", "f16c", "fma", "avx_vnni"} <= set(cpu.isa)
    assert not any(name.startswith("avx512") for name in cpu.isa)


def test_recorded_gb10(recorded: Callable[[str], Path]) -> None:
    cpu = probe(root=recorded("nvidia-dgx-gb10")).cpu

    assert cpu.model == "10x Cortex-A725 + 10x Cortex-X925"
    assert cpu.isa == ("bf16", "dotprod", "fp16", "i8mm", "neon", "sve", "sve2")
    assert [(cluster.kind, cluster.cores, cluster.capacity) for cluster in cpu.clusters] == [
        ("performance", 10, 1024),
        ("middle", 10, 731),
    ]
    assert cpu.l2_bytes == 2 * 1024**2  # of the fast cores


def test_recorded_gpus_of_unknown_memory(recorded: Callable[[str], Path]) -> None:
    machine = probe(root=recorded("nvidiagpunumanodes"))

    assert [(gpu.kind, gpu.vram_bytes) for gpu in machine.accelerators] == [("cuda", None)] * 6
    assert [problem.kind for problem in machine.gpu_problems] == ["not_recorded"]


def test_offline_processors_are_named(recorded: Callable[[str], Path]) -> None:
    assert "offline processors: 7 of 24" in probe(root=recorded("offline-cpu0-node0")).notes
