"""The parsing of `sysctl`; nothing here ran on a Mac."""

from __future__ import annotations

from support.gpu_machine import DATA, parse_tree

from edgellm.hardware import darwin, gpu_table
from edgellm.types.machine import Accelerator, Cluster, Memory
from edgellm.units import GIB

M2 = """\
hw.physicalcpu: 8
hw.logicalcpu: 8
hw.perflevel0.physicalcpu: 4
hw.perflevel1.physicalcpu: 4
hw.perflevel0.l1dcachesize: 131072
hw.perflevel0.l2cachesize: 16777216
hw.perflevel0.cpusperl2: 4
hw.optional.AdvSIMD: 1
hw.optional.arm.FEAT_DotProd: 1
hw.optional.arm.FEAT_I8MM: 1
hw.optional.arm.FEAT_BF16: 1
hw.optional.arm.FEAT_FP16: 1
hw.optional.arm.FEAT_SME: 0
machdep.cpu.brand_string: Apple M2
iogpu.wired_limit_mb: 0
nonsense
"""


def test_apple_silicon() -> None:
    cpu = darwin.cpu(darwin.parse_sysctl(M2), "aarch64")

    assert (cpu.model, cpu.cores, cpu.threads, cpu.performance_cores) == ("Apple M2", 8, 8, 4)
    assert cpu.clusters == (Cluster("performance", 4), Cluster("efficiency", 4))
    assert cpu.isa == ("bf16", "dotprod", "fp16", "i8mm", "neon")
    assert (cpu.l1d_bytes, cpu.l2_bytes, cpu.l3_bytes) == (131072, 4194304, None)


def test_the_gpu_gets_its_part_of_the_memory() -> None:
    values = darwin.parse_sysctl(M2)

    assert darwin.metal(values, 24 * GIB, "Apple M2").vram_bytes == 16 * GIB
    assert darwin.metal(values, 64 * GIB, "Apple M2").vram_bytes == 48 * GIB
    assert darwin.metal(values | {"iogpu.wired_limit_mb": "20480"}, 24 * GIB, "Apple M2").vram_bytes == 20 * GIB


def test_nothing_known_is_one_core() -> None:
    cpu = darwin.cpu({"hw.physicalcpu": "many"}, "x86_64")

    assert (cpu.model, cpu.cores, cpu.isa, cpu.clusters) == ("unknown", 1, (), ())


def test_a_macs_gpu_is_known_by_its_cores() -> None:
    printed = parse_tree((DATA / "apple-m3-max.mac").read_text("utf-8"))

    machine = darwin.described(printed["sysctl"], printed["ioreg"], Memory(36 * GIB, 20 * GIB), "arm64")

    assert machine.accelerators == (Accelerator("metal", "Apple M3 Max (30c)", 24 * GIB, unified=True),)
    facts = gpu_table.find(machine.accelerators[0], machine.memory.total_bytes)
    assert facts is not None
    assert (facts.group, facts.known, facts.bandwidth_gb_s) == ("m3", "device", 300.0)
    assert (machine.gpu_problems, machine.notes) == ((), ())


def test_an_intel_macs_gpu_is_not_looked_for() -> None:
    machine = darwin.described("hw.optional.sse3: 1", "", Memory(16 * GIB), "x86_64")

    assert (machine.accelerators, [problem.kind for problem in machine.gpu_problems]) == ((), ["not_looked"])
