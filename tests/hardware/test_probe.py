from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from support.refusals import refuses

from edgellm.contract import manager
from edgellm.hardware import bandwidth, identity, profiles
from edgellm.hardware.probe import probe, steady
from edgellm.types.machine import Accelerator, Cpu, Limits, Machine, Memory
from edgellm.units import GIB, MIB

TREES = sorted(path.stem for path in (Path(__file__).parents[1] / "data" / "hardware").glob("*.tree"))


@pytest.mark.parametrize("name", TREES)
def test_a_recorded_machine_is_the_same_every_time_and_has_nothing_of_this_one(
    machine_at: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    root = machine_at(name)
    monkeypatch.setattr("os.sched_getaffinity", lambda _: pytest.fail("affinity of this machine"), raising=False)
    monkeypatch.setattr("platform.machine", lambda: pytest.fail("architecture of this machine"))
    monkeypatch.setattr(manager, "plugins", lambda: pytest.fail("plugins of this machine"))
    machine = probe(root=root)

    assert machine == probe(root=root, measure=False)
    assert (machine.disk, machine.memory.bandwidth_gb_s) == (None, None)
    assert profiles.parse(profiles.dump(machine), Path(name)).machine == machine


@pytest.mark.parametrize("more_mib", [0, 100, 319])
def test_a_little_more_or_less_free_memory_changes_nothing(more_mib: int) -> None:
    """Steps of 320 MiB where there are 20 GiB in all, of the machine and of a container's limit."""
    steps = 62 * 320 * MIB
    free = steps + more_mib * MIB
    machine = Machine("m", "M", Cpu("x86_64"), Memory(20 * GIB, free))
    limited = replace(machine, memory=Memory(64 * GIB), limits=Limits(20 * GIB, 20 * GIB - free))

    assert (steady(machine).memory.available_bytes, steady(machine).memory_budget_bytes) == (steps, steps - 2 * GIB)
    assert steady(limited).memory_budget_bytes == steps - 2 * GIB
    assert steady(replace(machine, memory=Memory(20 * GIB))).memory.available_bytes is None


def test_the_live_probe_tells_whole_steps() -> None:
    ram = probe(measure=False).memory
    assert ram.available_bytes is not None
    assert ram.available_bytes % (ram.total_bytes // 64) == 0


@pytest.mark.parametrize("name", ["garbage", None])
def test_what_is_unknown_is_said(machine_at: Callable[..., Path], name: str | None) -> None:
    machine = probe(root=machine_at(name))

    assert (machine.cpu.model, machine.cpu.cores, machine.cpu.isa) == ("unknown", 1, ())
    assert machine.memory_budget_bytes == 0
    assert machine.compute_threads == 1
    for what in ("architecture", "number of processors", "instruction sets", "cache sizes", "memory size", "available"):
        assert any(note.startswith(what) for note in machine.notes), what


def test_a_folder_that_does_not_exist_is_a_machine_of_which_nothing_is_known(tmp_path: Path) -> None:
    assert probe(root=tmp_path / "nowhere").cpu.arch == "unknown"


def test_the_board_names_the_machine(machine_at: Callable[..., Path]) -> None:
    machine = probe(root=machine_at("big-little"))

    assert machine.name == "Orange Pi 5, 7 cores, 7.8 GiB"
    assert machine.id == "orange-pi-5-7-cores-7-8-gib"


@pytest.mark.parametrize(
    ("cpu", "total", "expected"),
    [
        (Cpu("x86_64", "Intel(R) Xeon(R)  CPU", cores=2), 8 * GIB, "intel-xeon-cpu-2-cores-8-0-gib"),
        (Cpu("riscv64"), 0, "unknown-riscv64-1-core-memory-unknown"),
        (Cpu("x", "é" * 300), GIB, "1-core-1-0-gib"),
    ],
)
def test_ids(cpu: Cpu, total: int, expected: str) -> None:
    assert identity.machine_id(identity.machine_name(cpu, Memory(total))) == expected


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bandwidth, "of", lambda *_: pytest.fail("measured"))
    machine = probe(measure=False)

    assert 1 <= machine.compute_threads <= machine.cpu.cores <= machine.cpu.threads
    assert 0 < machine.memory_budget_bytes < machine.memory.total_bytes
    assert machine.disk is not None
    assert "memory bandwidth not measured yet: run `edgellm profile`" in machine.notes
    assert profiles.parse(profiles.dump(machine), Path("this machine")).machine == machine


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_plugins_may_add_accelerators_and_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    added = Accelerator("vulkan", "Stick 2000")
    machines: list[Machine] = []

    class Registry:
        def call(self, hook: str, register: Callable[[object], None], machine: Machine) -> None:
            assert hook == "probe_accelerators"
            machines.append(machine)
            register(added)
            with refuses(TypeError):
                register("a stick")

    monkeypatch.setattr(manager, "plugins", Registry)
    machine = probe(measure=False)

    assert machine.accelerators[-1] == added
    assert machines[0].cpu == machine.cpu
