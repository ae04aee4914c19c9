"""What follows from a machine: the memory and the threads that a model may have."""

from __future__ import annotations

import pytest

from edgellm.types.machine import Accelerator, Cpu, Limits, Machine, Memory
from edgellm.units import GIB, MIB


def machine(limits: Limits, memory: Memory | None = None, **cpu: int) -> Machine:
    return Machine("x", "X", Cpu("x86_64", **cpu), memory or Memory(16 * GIB), limits=limits)


@pytest.mark.parametrize(
    ("memory", "limits", "budget_mib"),
    [
        (Memory(16 * GIB), Limits(), 16 * 1024 * 0.9),  # a profile: as if nothing else ran
        (Memory(16 * GIB, 10 * GIB), Limits(), 10 * 1024 - 1638.4),
        (Memory(4 * GIB, 4 * GIB), Limits(), 4096 - 512),  # 512 MiB are more than a tenth
        (Memory(GIB, GIB), Limits(), 1024 - 256),  # and more than a quarter
        (Memory(16 * GIB, 12 * GIB), Limits(700 * MIB, 20 * MIB), 700 - 20 - 175),
        (Memory(16 * GIB, 300 * MIB), Limits(8 * GIB, 0), 0),  # a machine with no room is none, whatever the limit
        (Memory(16 * GIB, 12 * GIB), Limits(8 * GIB, 7 * GIB), 1024 - 819.2),
        (Memory(16 * GIB, 12 * GIB), Limits(2 * GIB, 3 * GIB), 0),
        (Memory(16 * GIB, 12 * GIB), Limits(64 * GIB, 60 * GIB), 4096 - 1638.4),  # room above the RAM is no room
        (Memory(0, None), Limits(), 0),
    ],
)
def test_memory_budget(memory: Memory, limits: Limits, budget_mib: float) -> None:
    assert machine(memory=memory, limits=limits).memory_budget_bytes == pytest.approx(budget_mib * MIB, abs=2)


@pytest.mark.parametrize(
    ("os", "kind", "unified", "memory", "budget_bytes"),
    [
        ("android", None, False, Memory(8 * GIB), 4 * GIB),
        ("ios", None, False, Memory(8 * GIB, 3 * GIB), 3 * GIB - 8 * GIB // 10),  # less is free than it might get
        ("darwin", "metal", True, Memory(36 * GIB), 24 * GIB),
        ("darwin", "metal", True, Memory(48 * GIB), 36 * GIB),
        ("linux", "cuda", True, Memory(8 * GIB), 8 * GIB - 2_800_000_000),
        ("linux", "cuda", True, Memory(64 * GIB), 64 * GIB - 64 * GIB // 10),  # a tenth is more than they keep
        ("linux", "cuda", True, Memory(2 * GIB), 0),
        ("linux", "cuda", False, Memory(8 * GIB), 8 * GIB - 8 * GIB // 10),  # its memory is its own
        ("linux", "xe", True, Memory(8 * GIB), 8 * GIB - 8 * GIB // 10),
    ],
)
def test_memory_that_a_gpu_or_a_phone_shares(
    os: str, kind: str | None, unified: bool, memory: Memory, budget_bytes: int
) -> None:
    gpus = (Accelerator(kind, "A GPU", unified=unified),) if kind else ()
    machine = Machine("x", "X", Cpu("aarch64"), memory, os=os, accelerators=gpus)

    assert machine.memory_budget_bytes == budget_bytes


def test_a_limit_of_metal_that_is_set_is_respected() -> None:
    gpu = Accelerator("metal", "M1 GPU", 14 * GIB, unified=True)
    machine = Machine("x", "X", Cpu("arm64"), Memory(16 * GIB, 16 * GIB), os="darwin", accelerators=(gpu,))

    assert machine.memory_budget_bytes == 14 * GIB
    assert machine.memory_cap == (14 * GIB, "Metal leaves a program no more of the memory")


@pytest.mark.parametrize(
    ("cpu", "limits", "threads"),
    [
        ({"cores": 8, "threads": 16}, Limits(), 8),
        ({"cores": 14, "threads": 20, "performance_cores": 6}, Limits(), 6),
        ({"cores": 64, "threads": 128}, Limits(cpus=1.5), 2),
        ({"cores": 64, "threads": 128}, Limits(cpus=1.4), 1),
        ({"cores": 8, "threads": 8}, Limits(cpus=4.0), 4),
        ({"cores": 8, "threads": 8}, Limits(cpus=0.1), 1),
        ({"cores": 4, "threads": 4}, Limits(cpus=64.0), 4),
        ({"cores": 8, "threads": 16}, Limits(cpuset=4), 4),
        ({"cores": 8, "threads": 16}, Limits(cpuset=4, cpuset_cores=2), 2),  # both threads of two cores
        ({"cores": 8, "threads": 8, "performance_cores": 4}, Limits(cpuset=3, cpuset_cores=3, cpus=2.0), 2),
    ],
)
def test_compute_threads(cpu: dict[str, int], limits: Limits, threads: int) -> None:
    assert machine(limits=limits, **cpu).compute_threads == threads
