from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from edgellm.hardware.linux import cpu, cpuinfo, topology
from edgellm.hardware.linux.sysfs import SysRoot
from edgellm.types.machine import Cluster


def test_hybrid_intel(machine_at: Callable[..., Path]) -> None:
    processor, layout, _ = cpu.read(SysRoot(machine_at("hybrid-intel")))

    assert (processor.cores, processor.threads, processor.performance_cores) == (6, 8, 2)
    assert processor.clusters == (Cluster("performance", 2, None, 4400), Cluster("efficiency", 4, None, 3300))
    assert (processor.l1d_bytes, processor.l2_bytes, processor.l3_bytes) == (48 * 1024, 1280 * 1024, 10 * 1024**2)
    assert layout.usable_cores(frozenset({2, 3})) == 1  # two threads of one core
    assert layout.usable_cores(frozenset({2, 4, 5})) == 1  # its efficiency cores would only hold it up
    assert layout.usable_cores(frozenset({4, 5})) == 2  # all it has


def test_big_little_by_capacity(machine_at: Callable[..., Path]) -> None:
    processor, _, notes = cpu.read(SysRoot(machine_at("big-little")))

    assert processor.clusters == (Cluster("performance", 3, 1024, 2400), Cluster("efficiency", 4, 414, None))
    assert (processor.cores, processor.performance_cores) == (7, 3)
    assert processor.isa == ("dotprod", "fp16", "neon")
    assert "offline processors: 1 of 8" in notes


def test_three_kinds_by_part_and_clock(machine_at: Callable[..., Path]) -> None:
    processor, _, _ = cpu.read(SysRoot(machine_at("three-clusters")))

    assert [(cluster.kind, cluster.cores) for cluster in processor.clusters] == [
        ("performance", 1),
        ("middle", 1),
        ("efficiency", 2),
    ]
    assert processor.performance_cores == 2
    assert processor.model == "1x Cortex-A78 + 1x Cortex-X1 + 2x Cortex-A55"


# Fields of /proc/cpuinfo as phones gave them (test/cpuinfo of pytorch/cpuinfo): the parts, then what became of them.
PHONES = {
    # A kernel before 3.19 lists bare processors, then the core that printed the file: a small one or a big one.
    "nexus-6p": ("8 bare", ["41:d03"], "Qualcomm Technologies, Inc MSM8994", "4 performance 4 efficiency", 4),
    "galaxy-s6": ("8 bare", ["41:d03"], "SAMSUNG Exynos7420", "4 performance 4 efficiency", 4),
    "galaxy-c9-pro": ("8 bare", ["41:d08"], "Qualcomm Technologies, Inc MSM8976", "4 performance 4 efficiency", 4),
    "redmi-note-3": ("6 bare", ["41:d03"], "Qualcomm Technologies, Inc MSM8956", "2 performance 4 efficiency", 2),
    "huawei-p9-lite": ("8 bare", ["41:d03"], "hi6250", "", None),
    # Snapdragon 820 and 821: one design at two clocks, three quarters of the fast ones.
    "galaxy-s7": ("each", ["51:211"] * 2 + ["51:205"] * 2, "MSM8996", "2 performance 2 middle", 4),
    "pixel": ("each", ["51:201"] * 2 + ["51:205"] * 2, "MSM8996pro", "2 performance 2 middle", 4),
    "nexus-5x": ("each", ["41:d03"] * 4 + ["41:d07"] * 2, "MSM8992", "2 performance 4 efficiency", 2),
    "moto-g5": ("each", ["41:d03"] * 8, "MSM8937", "", None),
    # Processors that came online while the file was written have no fields.
    "revvl": ("each", ["41:d03", "", ""], "MT6738", "", None),
}


@pytest.mark.parametrize("phone", PHONES)
def test_kinds_of_a_phone_by_part_or_chipset(machine_at: Callable[..., Path], phone: str) -> None:
    layout, parts, hardware, kinds, performance_cores = PHONES[phone]
    blocks = [
        "CPU implementer: 0x{}\nCPU architecture: 8\nCPU part: 0x{}".format(*p.split(":")) if p else "" for p in parts
    ]
    count = len(parts) if layout == "each" else int(layout.split()[0])
    text = "".join(
        f"processor: {number}\n" + (blocks[number] + "\n\n" if layout == "each" else "") for number in range(count)
    )
    text += "" if layout == "each" else blocks[0] + "\n\n"
    root = machine_at(None, **{"/proc/cpuinfo": f"{text}Hardware: {hardware}\n"})
    processor, _, notes = cpu.read(SysRoot(root))

    assert processor.cores == count
    assert " ".join(f"{cluster.cores} {cluster.kind}" for cluster in processor.clusters) == kinds
    assert processor.performance_cores == performance_cores
    unknown = phone in ("huawei-p9-lite", "revvl")
    assert any(note.startswith("kinds of cores unknown") for note in notes) == unknown


def test_favoured_cores_are_no_hybrid(machine_at: Callable[..., Path]) -> None:
    """Equal AMD cores ranked by firmware, and Intel cores of which one boosts higher."""
    ranked = {f"/sys/devices/system/cpu/cpu{n}/acpi_cppc/highest_perf": str(rank) for n, rank in enumerate((231, 166))}
    lists = {f"/sys/devices/system/cpu/cpu{n}/topology/thread_siblings_list": str(n) for n in (0, 1)}
    for vendor in ("AuthenticAMD", "GenuineIntel"):
        root = machine_at(
            None,
            **{"/proc/cpuinfo": f"processor: 0\nvendor_id: {vendor}\n\nprocessor: 1\nvendor_id: {vendor}\n"},
            **(ranked if vendor == "AuthenticAMD" else dict.fromkeys(ranked, "68")),
            **lists,
        )
        processor, _, _ = cpu.read(SysRoot(root))

        assert (processor.cores, processor.clusters, processor.performance_cores) == (2, (), None), vendor
        root.rename(root.with_name(vendor))


def test_cores_from_cpuinfo_where_sys_has_none(tmp_path: Path) -> None:
    block = "processor: {}\nphysical id: 0\ncore id: {}\n"
    info = cpuinfo.parse("\n".join(block.format(number, number % 2) for number in range(4)))
    layout = topology.read(SysRoot(tmp_path), info)

    assert layout.cores == (frozenset({0, 2}), frozenset({1, 3}))
    assert layout.notes == ()


def test_a_cache_that_cores_share_counts_once_a_core(machine_at: Callable[..., Path]) -> None:
    """Core 2 Quad: 4 MiB of level 2 for each pair of cores, as masks of an old kernel."""
    cache = "/sys/devices/system/cpu/cpu0/cache/index2"
    files = {"level": "2", "type": "Unified", "size": "4096K", "shared_cpu_map": "00000003"}
    root = machine_at(
        None,
        **{"/sys/devices/system/cpu/online": "0-3"},
        **{f"/sys/devices/system/cpu/cpu{n}/topology/thread_siblings": f"0000000{1 << n}" for n in range(4)},
        **{f"{cache}/{name}": value for name, value in files.items()},
    )
    processor, _, _ = cpu.read(SysRoot(root))

    assert (processor.cores, processor.l2_bytes, processor.l3_bytes) == (4, 2 * 1024**2, None)
