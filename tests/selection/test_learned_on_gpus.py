"""What runs on a GPU teach: of that device and that split, and of nothing else."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
from msgspec import structs
from support.contexts import context

from edgellm import explain
from edgellm.catalog.lookup import catalog
from edgellm.contract.backend import Device, Offload
from edgellm.estimate.gpu_constants import shipped_cells
from edgellm.estimate.layer_bytes import layers_of
from edgellm.estimate.stranger import stranger
from edgellm.history.corrections import REPEATS, Ratio, corrections
from edgellm.selection.backend_facts import BackendFacts
from edgellm.selection.decide import decide
from edgellm.selection.option import Option
from edgellm.selection.placed_by import placed_by
from edgellm.selection.usable_gpu import identity
from edgellm.types.basis import Corrected, OwnRuns, PredictedOnGpu
from edgellm.types.gpu import Api
from edgellm.types.gpu_place import GpuPlace
from edgellm.types.machine import Accelerator, Machine
from edgellm.types.plan import Candidate
from edgellm.types.request import SelectionRequest

GIB = 1024**3
CUDA0 = "NVIDIA GeForce RTX 3060"
WHOLE = GpuPlace((f"cuda {CUDA0}",), "whole")
CARD = catalog()["qwen3-4b"]


def chosen(machine: Machine, ratios: list[Ratio], *, name: str = CUDA0, **request: object) -> Candidate:
    device = Device("CUDA0", name, 12 * GIB, 12 * GIB, False)
    on = replace(machine, accelerators=(Accelerator("cuda", name, 12 * GIB, 12 * GIB),))
    facts = BackendFacts("gguf", frozenset({"gguf"}), offload=Offload((device,)))
    narrow = replace(CARD, files=tuple(file for file in CARD.files if file.quant == "Q4_K_M"))
    given = context(on, [narrow], [facts], corrections=corrections(ratios))
    choice = decide(given, SelectionRequest(ctx=4096, **request)).choice  # type: ignore[arg-type]
    assert choice is not None
    return choice


def ran(place: GpuPlace | None, **ratios: object) -> Ratio:
    held = (0, 0) if place is None else (-1, 0) if place.split == "whole" else (10, 0)
    return Ratio("gguf", "qwen3-4b", "Q4_K_M", place=place, **({"held": held} | ratios))  # type: ignore[arg-type]


def test_a_run_on_the_gpu_corrects_the_next_plan_for_it_and_narrows_its_band(machine: Callable[..., Machine]) -> None:
    before, after = (chosen(machine(), runs) for runs in ([], [ran(WHOLE, decode=0.6, prefill=1.5)] * 8))
    assert before.gpu_layers == after.gpu_layers == -1
    assert isinstance(before.decode.basis, PredictedOnGpu)
    assert isinstance(after.decode.basis, Corrected)
    assert (after.decode.basis.runs, after.decode.basis.of) == (
        OwnRuns(8, "qwen3-4b", "Q4_K_M", "f16"), before.decode.basis,
    )  # fmt: skip
    assert after.decode.tok_s == pytest.approx(0.6 * before.decode.tok_s, rel=0.03)
    assert after.prefill.tok_s == pytest.approx(1.5 * before.prefill.tok_s, rel=0.03)
    assert after.decode.low == pytest.approx(after.decode.tok_s * (1 - REPEATS), rel=0.01)
    assert before.decode.high / before.decode.low > 1.4 > after.decode.high / after.decode.low


@pytest.mark.parametrize(
    "place",
    [
        None,
        GpuPlace(("cuda NVIDIA GeForce RTX 3090",), "whole"),
        GpuPlace((f"vulkan {CUDA0}",), "whole"),
        GpuPlace(WHOLE.gpus * 2, "whole"),
        GpuPlace(WHOLE.gpus, "part"),
        GpuPlace(WHOLE.gpus, "experts"),
    ],
    ids=["processor", "other-gpu", "other-library", "two", "part", "experts"],
)
def test_what_ran_elsewhere_teaches_nothing(machine: Callable[..., Machine], place: GpuPlace | None) -> None:
    before, after = (chosen(machine(), runs) for runs in ([], [ran(place, decode=0.6, prefill=0.6)]))
    assert (before.decode, before.prefill) == (after.decode, after.prefill)


def test_the_gpu_teaches_nothing_of_the_processor(machine: Callable[..., Machine]) -> None:
    before, after = (chosen(machine(), runs, gpu_layers=0) for runs in ([], [ran(WHOLE, decode=0.6, prefill=0.6)]))
    assert replace(before, other_placements=()) == replace(after, other_placements=())
    assert before.other_placements[0].decode != after.other_placements[0].decode, "what is told of the GPU is corrected"


def test_with_other_layers_there_than_ran_it_is_as_unsure_as_before(machine: Callable[..., Machine]) -> None:
    part = GpuPlace(WHOLE.gpus, "part")
    runs = [ran(part, decode=0.6, held=(10, 0))] * 4
    plain, same, other = (chosen(machine(), own, gpu_layers=count) for own, count in (([], 20), (runs, 10), (runs, 20)))
    assert other.decode.tok_s < 0.7 * plain.decode.tok_s
    assert same.decode.high / same.decode.low == pytest.approx((1 + REPEATS) / (1 - REPEATS), rel=0.02)
    assert other.decode.high / other.decode.low == pytest.approx(plain.decode.high / plain.decode.low, rel=0.02)


def test_a_slow_gpu_gives_way_to_the_processor_once_that_was_measured(machine: Callable[..., Machine]) -> None:
    """As where a driver falls back to slow kernels."""
    fast = machine(gb_s=200.0)
    assert chosen(fast, []).gpu_layers == -1
    assert chosen(fast, [ran(WHOLE, decode=0.26, prefill=0.26)] * 8).gpu_layers == 0


def test_an_unknown_gpu_is_measured_first_and_the_second_plan_uses_that(machine: Callable[..., Machine]) -> None:
    name = "Strange Compute 9000"
    place = GpuPlace((f"cuda {name}",), "whole", strange=True)
    first = chosen(machine(), [], name=name)
    second = chosen(machine(), [ran(place, decode=7.0)], name=name)
    other = chosen(machine(), [replace(ran(place, decode=7.0), model="qwen3-8b")], name=name)

    assert first.gpu_layers == second.gpu_layers == other.gpu_layers == -1
    assert not isinstance(first.decode.basis, PredictedOnGpu | Corrected), "the processor's, as no other is known"
    assert isinstance(second.decode.basis, Corrected)
    assert second.decode.basis.factor == 7.0, "what any GPU would do is no reason to doubt it"
    assert second.decode.high / second.decode.low < 1.2
    assert "known by its runs only" in explain.basis(second.decode.basis)
    assert other.decode.tok_s == pytest.approx(second.decode.tok_s, rel=0.01)
    assert other.decode.high / other.decode.low > 2
    assert second.prefill.basis.factor == 7.0, "until prompts were measured, answers tell of them"  # type: ignore[union-attr]


def test_of_an_unknown_gpu_only_what_ran_whole_tells_its_speed(machine: Callable[..., Machine]) -> None:
    name = "Strange Compute 9000"
    part = GpuPlace((f"cuda {name}",), "part", strange=True)
    first, second = (chosen(machine(), runs, name=name) for runs in ([], [ran(part, decode=0.5)]))
    assert first == second


@pytest.mark.parametrize("api", ["cuda", "rocm", "metal", "vulkan", "sycl", "opencl"])
def test_a_stranger_is_predicted_with_every_library(api: Api) -> None:
    assert None not in shipped_cells(stranger("?", api, unified=False).group, api)
    assert identity("ROCm12", "A GPU") == "rocm A GPU"


@pytest.mark.parametrize(
    ("model", "quant", "gib"),
    [
        ("qwen3-4b", "Q4_K_M", (12,)),
        ("qwen3-32b", "Q4_K_M", (12,)),
        ("gpt-oss-20b", "MXFP4", (8,)),
        ("qwen3-8b", "Q8_0", (8, 4)),
    ],
    ids=["whole", "part", "experts", "two"],
)
def test_the_settings_of_a_plan_mean_its_placement(
    option: Callable[..., Option], machine: Callable[..., Machine], model: str, quant: str, gib: tuple[int, ...]
) -> None:
    cards = tuple(Accelerator("cuda", f"RTX {3060 + i * 10}", n * GIB) for i, n in enumerate(gib))
    devices = tuple(Device(f"CUDA{i}", gpu.name, gpu.vram_bytes or 0, None, False) for i, gpu in enumerate(cards))
    on = replace(machine(64, gb_s=30.0), accelerators=cards)
    o = option(model, quant, on, facts=BackendFacts("gguf", frozenset({"gguf"}), offload=Offload(devices)), ctx=4096)
    planned = o.placed_at(4096)
    assert planned.parts
    layers = layers_of(o.shape, o.tensor_bytes, quant)
    again = placed_by(o.candidate(4096).settings, o.shape, layers, o.gpus, planned.footprint)
    assert again is not None
    assert (again.gpu_place, again.host_weight_bytes) == (planned.gpu_place, planned.host_weight_bytes)
    assert [structs.replace(part, n_bytes=0, scratch_bytes=0) for part in planned.parts] == list(again.parts)
