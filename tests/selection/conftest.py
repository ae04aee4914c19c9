"""Machines and backends to decide for, built in the open so that a test shows what it depends on."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from edgellm.catalog.lookup import catalog
from edgellm.estimate import quality
from edgellm.estimate.weights import weights
from edgellm.hardware import gpu_table
from edgellm.selection.backend_facts import BackendFacts
from edgellm.selection.option import Option
from edgellm.selection.scenario import Scenario
from edgellm.selection.usable_gpu import usable_gpus
from edgellm.types.machine import Cpu, Limits, Machine, Memory
from edgellm.types.model import ModelFile
from edgellm.types.request import SelectionRequest

GIB = 1024**3
AVX2 = ("avx", "avx2", "f16c", "fma", "ssse3")


def make_machine(
    ram_gib: float = 16, *, cores: int = 8, gb_s: float | None = 50.0, isa: tuple[str, ...] = AVX2, arch: str = "x86_64"
) -> Machine:
    cpu = Cpu(arch, "test", cores, cores, isa)
    return Machine("test", "Test machine", cpu, Memory(int(ram_gib * GIB), None, 0, gb_s, "theoretical"))


def make_gguf(**changes: object) -> BackendFacts:
    return BackendFacts(**({"name": "gguf", "formats": frozenset({"gguf"})} | changes))  # type: ignore[arg-type]


@pytest.fixture
def machine() -> Callable[..., Machine]:
    return make_machine


@pytest.fixture
def gguf() -> Callable[..., BackendFacts]:
    return make_gguf


@pytest.fixture
def option() -> Callable[..., Option]:
    """An option of a catalog model in a quantization, on a machine, for a request."""

    def build(
        model: str,
        quant: str,
        on: Machine | None = None,
        *,
        local: bool = False,
        facts: BackendFacts | None = None,
        **request: object,
    ) -> Option:
        card = catalog()[model]
        assert card.shape is not None
        machine = on or make_machine()
        known = tuple(gpu_table.find(gpu, machine.memory.total_bytes) for gpu in machine.accelerators)
        given = Scenario.of(machine, SelectionRequest(**request), known)  # type: ignore[arg-type]
        size = weights(card.shape, card.params, card.params_active, quant)
        scored = {c.id: c for c in catalog().values() if c.scores}
        ability = quality.ability(card, scored, given.request.task)
        file = ModelFile(f"hf://test/{model}:{quant}", quant, trust="convention")
        backend = facts or make_gguf()
        gpus = usable_gpus(backend.offload, given.machine, given.gpus)
        return Option(card, file, backend, card.shape, size, given, ability, local, gpus=gpus)

    return build


@pytest.fixture
def limited() -> Callable[[Machine, int], Machine]:
    def build(on: Machine, memory_bytes: int) -> Machine:
        from dataclasses import replace

        return replace(on, limits=Limits(memory_bytes=memory_bytes, memory_used_bytes=0, source="cgroup v2 /app"))

    return build
