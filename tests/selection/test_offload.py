"""Layers on a GPU: all where they fit, else as many as do, else none, and always with the reason and its numbers."""

from __future__ import annotations

from dataclasses import replace

import pytest
from msgspec import structs
from support.contexts import context
from support.refusals import refuses
from support.words import said

from edgellm import explain, settings
from edgellm.app.context import of
from edgellm.builtin.echo import EchoBackend
from edgellm.catalog.lookup import catalog
from edgellm.contract.backend import Device, Offload
from edgellm.errors import BackendUnavailable, NothingFits, UsageError
from edgellm.estimate.footprint import footprint
from edgellm.estimate.layer_bytes import layers_of
from edgellm.estimate.weights import weights
from edgellm.hardware import gpu_table, profiles
from edgellm.selection import placement_speed
from edgellm.selection.backend_facts import BackendFacts, assumed_facts, backend_facts
from edgellm.selection.decide import decide
from edgellm.selection.decision_json import to_dict
from edgellm.selection.load import Load
from edgellm.selection.offload import assumed, live
from edgellm.selection.placement import Placement
from edgellm.selection.placing import asked as as_asked
from edgellm.selection.placing import possible
from edgellm.selection.usable_gpu import usable_gpus
from edgellm.types.backend_reason import BuildNeeded, GpuLayers, GpuUnused, GpuWouldGive
from edgellm.types.basis import PredictedOnGpu, PredictedStream
from edgellm.types.machine import Accelerator, Machine
from edgellm.types.plan import Candidate, Decision
from edgellm.types.reason import GpuSpeedUnknown
from edgellm.types.request import SelectionRequest, layers_on_gpu

GIB = 1024**3
MIB = 1024**2
REBUILD = 'CMAKE_ARGS="-DGGML_CUDA=ON" make setup (needs the CUDA toolkit)'
RTX_4090 = gpu_table.find(profiles.load("desktop-rtx-4090").accelerators[0])
NO_BUILD = Offload(missing="this libllama has no GPU backend", remedy=REBUILD)


def gpu(gib: float, free_gib: float | None = None, *, unified: bool = False, name: str = "A GPU") -> Device:
    return Device("CUDA0", name, int(gib * GIB), None if free_gib is None else int(free_gib * GIB), unified)


def facts(offload: Offload | None) -> BackendFacts:
    return BackendFacts("gguf", frozenset({"gguf"}), offload=offload)


def chosen(machine: Machine, offload: Offload | None, model: str, **request: object) -> tuple[Candidate, Decision]:
    decision = decide(context(machine, [catalog()[model]], [facts(offload)]), SelectionRequest(**request))  # type: ignore[arg-type]
    assert decision.choice is not None
    return decision.choice, decision


def gpu_reason(decision: Decision) -> str:
    (text,) = [explain.sentence(r) for r in decision.reasons if isinstance(r, GpuLayers | GpuUnused)]
    return text


def placed(model: str, quant: str, *devices: Device, ctx: int = 4096, asked: int | None = None) -> Placement:
    """As asked; unasked the placement that holds most."""
    card = catalog()[model]
    assert card.shape is not None
    shape, size = card.shape, weights(card.shape, card.params, card.params_active, quant).total_bytes
    load = Load(shape, layers_of(shape, size, quant), ctx, 1, lambda ubatch: footprint(shape, size, ctx, batch=ubatch))
    gpus = usable_gpus(Offload(devices), profiles.load("desktop-rtx-4090"), [RTX_4090])
    if asked is not None:
        return as_asked(load, gpus, asked)
    return max(possible(load, gpus), key=lambda placed: placed.layers)


def test_all_layers_where_they_fit() -> None:
    machine = profiles.load("desktop-rtx-4090")
    choice, decision = chosen(machine, live(assumed(machine), machine), "qwen3-4b", slots=1)
    alone, _ = chosen(machine, None, "qwen3-4b", slots=1)

    assert choice.gpu_layers == -1
    assert gpu_reason(decision).startswith("GPU: all 37 layers on RTX 4090: ")
    # What is on the GPU is not in RAM: blocks and cache; the embeddings stay, and the table that is a copy of them.
    assert choice.footprint.kv_bytes == 0
    assert choice.footprint.weights_bytes < alone.footprint.weights_bytes / 3
    assert choice.footprint.device_bytes > choice.tensor_bytes - choice.footprint.weights_bytes
    assert choice.footprint.resident_bytes < alone.footprint.resident_bytes / 2
    told = to_dict(decision)["choice"]
    assert (told["gpu_layers"], told["memory"]["device_bytes"]) == (-1, choice.footprint.device_bytes)


def test_a_plan_goes_by_the_speed_of_its_placement() -> None:
    """Three RTX 4090s decode Q4_K_M of 8B at about 150 tok/s in published rows."""
    request = SelectionRequest(gpu_layers=-1)
    narrow = of("desktop-rtx-4090").narrowed([catalog()["qwen3-8b"]])
    choice = decide(narrow, request).choice
    alone = decide(narrow, replace(request, gpu_layers=0)).choice

    assert choice is not None
    assert alone is not None
    assert isinstance(choice.decode.basis, PredictedOnGpu)
    assert choice.decode.basis.gpu == "GeForce RTX 4090"
    assert 60 < choice.decode.tok_s < 200
    assert choice.decode.low < choice.decode.tok_s < choice.decode.high
    assert choice.prefill.tok_s > 10 * alone.prefill.tok_s
    assert alone.decode.tok_s < 30
    assert [other.gpu_layers for other in choice.other_placements] == [18, 0]


def test_a_gpu_of_unknown_speed_is_used_where_it_holds_all_and_no_speed_of_it_is_told() -> None:
    machine = replace(profiles.load("desktop-rtx-4090"), accelerators=(Accelerator("cuda", "A GPU", 24 * GIB),))
    choice, decision = chosen(machine, Offload((gpu(24),)), "qwen3-4b")
    alone, _ = chosen(machine, None, "qwen3-4b")

    assert (choice.gpu_layers, choice.decode) == (-1, alone.decode)
    assert [type(reason) for reason in decision.reasons].count(GpuSpeedUnknown) == 1
    small, decision = chosen(machine, Offload((gpu(3),)), "qwen3-4b")
    assert small.gpu_layers == 0
    assert gpu_reason(decision).startswith("GPU: A GPU stays idle: nothing tells its bandwidth")


def test_as_many_whole_layers_as_fit() -> None:
    few, more = placed("qwen3-8b", "Q4_K_M", gpu(4)), placed("qwen3-8b", "Q4_K_M", gpu(5))

    assert 1 < few.gpu_layers < more.gpu_layers < 37
    assert few.footprint.device_bytes <= 3.5 * GIB
    assert as_one_more(few, 4).problem, "not one layer fewer than fits"
    assert few.footprint.kv_bytes > more.footprint.kv_bytes > 0
    assert few.footprint.weights_bytes > more.footprint.weights_bytes


def as_one_more(few: Placement, gib: float) -> Placement:
    return placed("qwen3-8b", "Q4_K_M", gpu(gib), asked=few.gpu_layers + 1)


def test_every_byte_is_somewhere() -> None:
    """Weights and cache of any number of layers add up, a tied table counted twice once the GPU has its copy."""
    for model, quant in (("qwen3-8b", "Q4_K_M"), ("smollm2-135m-instruct", "Q4_1")):
        whole = placed(model, quant, asked=0, ctx=2048).footprint
        shape = catalog()[model].shape
        assert shape is not None
        table = layers_of(shape, whole.weights_bytes, quant).output if shape.tied_embeddings else 0
        for n in range(1, shape.n_layer + 1):
            part = placed(model, quant, gpu(80), asked=n, ctx=2048).footprint
            beside = part.device_bytes - whole.compute_bytes - RTX_4090.overhead_mib[1] * MIB
            copied = beside + part.weights_bytes + part.kv_bytes - whole.weights_bytes - whole.kv_bytes - table
            # And a matrix of those in RAM, for long prompts.
            assert 0 < copied < whole.weights_bytes / 10 or n > shape.n_layer


def test_the_layers_of_a_real_model_are_what_llama_cpp_puts_there() -> None:
    """SmolLM2 Q4_1 with 10 layers on a device, as libllama's log said: table 28.69 MiB, 47.71 in all, cache 6.75."""
    shape = catalog()["smollm2-135m-instruct"].shape
    assert shape is not None
    parts = layers_of(shape, 96576768, "Q4_1")

    assert parts.output / MIB == pytest.approx(28.69, abs=0.01)
    assert (parts.output + sum(parts.blocks[-9:])) / MIB == pytest.approx(47.71, abs=0.05)
    part = placed("smollm2-135m-instruct", "Q4_1", gpu(8), ctx=1024, asked=10)
    whole = placed("smollm2-135m-instruct", "Q4_1", ctx=1024)
    assert (whole.footprint.kv_bytes - part.footprint.kv_bytes) / MIB == pytest.approx(6.75)


def test_a_mix_that_is_not_known_is_planned_too_large_rather_than_too_small() -> None:
    shape = catalog()["qwen3-8b"].shape
    assert shape is not None
    known, unknown = (layers_of(shape, 5 * GIB, quant) for quant in ("Q4_K_M", "no such mix"))

    assert sum(unknown.blocks) > sum(known.blocks)
    assert unknown.output > known.output * 0.9


def test_nothing_fits_on_a_tiny_gpu() -> None:
    none = placed("qwen3-8b", "Q4_K_M", gpu(0.5))

    assert none.gpu_layers == 0
    assert none.footprint.device_bytes == 0


def test_what_is_free_counts_not_what_is_built_in() -> None:
    assert placed("qwen3-8b", "Q4_K_M", gpu(24)).gpu_layers == -1
    assert 0 < placed("qwen3-8b", "Q4_K_M", gpu(24, free_gib=6)).gpu_layers < 37


def test_two_gpus_hold_what_one_does_not() -> None:
    one = placed("qwen3-8b", "Q4_K_M", gpu(4)).gpu_layers
    two = placed("qwen3-8b", "Q4_K_M", gpu(4), gpu(4, name="Another"))

    assert two.gpu_layers == -1 or two.gpu_layers > 1.7 * one
    assert {part.device.description for part in two.parts} == {"A GPU", "Another"}
    assert [part.table for part in two.parts] == [False, True], "the last one has the output table"


def test_a_gpu_that_shares_the_memory_takes_all_and_frees_none() -> None:
    machine = profiles.load("apple-m2-16gb")
    choice, decision = chosen(machine, assumed(machine), "qwen3-4b", slots=1)
    alone = chosen(machine, None, "qwen3-4b", slots=1)[0].footprint

    assert choice.gpu_layers == -1
    assert choice.footprint == structs.replace(alone, process_bytes=alone.process_bytes + 100 * MIB), "Metal's context"
    assert gpu_reason(decision) == "GPU: all 37 layers on Apple M2 GPU, which shares the machine's memory."


def test_a_build_without_offload_says_first_what_one_would_give_and_how_to_get_it() -> None:
    machine = profiles.load("desktop-rtx-4090")
    choice, decision = chosen(machine, NO_BUILD, "qwen3-4b")

    assert choice.gpu_layers == 0
    assert gpu_reason(decision) == (
        f"GPU: 0 layers: this libllama has no GPU backend; 24.00 GiB of RTX 4090 unused: {REBUILD}."
    )
    first = decision.reasons[0]
    assert isinstance(first, GpuWouldGive)
    assert first.tok_s > 3 * choice.decode.tok_s
    assert first.remedy == REBUILD


def test_a_build_is_predicted_for_the_library_that_it_is_made_for() -> None:
    machine = profiles.load("desktop-rtx-4090")
    given = {
        api: chosen(machine, replace(NO_BUILD, builds=api), "qwen3-4b")[1].reasons[0]  # type: ignore[arg-type]
        for api in (None, "cuda", "vulkan")
    }
    assert all(isinstance(fact, GpuWouldGive) for fact in given.values())
    assert given[None] == given["cuda"]
    assert given["vulkan"].tok_s != given["cuda"].tok_s
    _, hip = chosen(machine, replace(NO_BUILD, builds="hip"), "qwen3-4b")
    assert not isinstance(hip.reasons[0], GpuWouldGive), "such a build sees no GPU of NVIDIA"


def test_two_libraries_are_two_builds() -> None:
    card, other = profiles.load("desktop-rtx-4090"), Accelerator("rocm", "Radeon RX 7900 XTX", 24 * GIB)
    machine = replace(card, accelerators=(*card.accelerators, other))
    offload = assumed(machine)
    assert [device.name for device in offload.devices] == ["CUDA0", "Vulkan1"]
    here = context(machine, [catalog()["llama-3.3-70b-instruct"]], [facts(offload)], is_here=False)
    decision = decide(here, SelectionRequest(gpu_layers=-1))
    needed = [reason for reason in decision.reasons if isinstance(reason, BuildNeeded)]
    assert {(fact.devices, fact.api, fact.command) for fact in needed} == {
        ("RTX 4090", "CUDA", "edgellm gpu setup --cuda"),
        ("Radeon RX 7900 XTX", "Vulkan", "edgellm gpu setup --vulkan"),
    }


def test_a_machine_without_gpu_is_told_nothing() -> None:
    _, decision = chosen(profiles.load("container-2cpu-2gb"), NO_BUILD, "qwen3-0.6b")
    assert not [reason for reason in said(decision) if "GPU" in reason]


@pytest.mark.parametrize("asked", [1, 20, 37, 99, -1])
def test_as_asked(asked: int) -> None:
    machine = profiles.load("desktop-rtx-4090")
    choice, decision = chosen(machine, assumed(machine), "qwen3-4b", gpu_layers=asked)

    assert choice.gpu_layers == (asked if 0 <= asked < 37 else -1)
    assert "layers on RTX 4090, as asked: " in gpu_reason(decision)
    assert decision.inputs["gpu_layers"] == asked


def test_gpus_that_are_named_are_refused_where_none_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever names them; the variable is about this machine only."""
    monkeypatch.setenv("EDGELLM_DEVICE", "CUDA0")
    box = profiles.load("container-2cpu-2gb")
    with refuses(BackendUnavailable):
        backend_facts([EchoBackend()], box)
    assert assumed_facts([EchoBackend()], box)
    with settings.override(devices=("CUDA1",)):
        with refuses(BackendUnavailable):
            backend_facts([EchoBackend()], box)
        with refuses(BackendUnavailable):
            assumed_facts([EchoBackend()], box)


def test_none_as_asked() -> None:
    machine = profiles.load("desktop-rtx-4090")
    choice, decision = chosen(machine, assumed(machine), "qwen3-4b", gpu_layers=0)

    assert choice.gpu_layers == choice.footprint.device_bytes == 0
    assert gpu_reason(decision) == "GPU: 0 layers, as asked; 24.00 GiB of RTX 4090 unused."


def test_more_than_fits_is_refused_with_what_does() -> None:
    fitting = placed("qwen3-8b", "Q4_K_M", gpu(4)).gpu_layers
    problem = placed("qwen3-8b", "Q4_K_M", gpu(4), asked=37).problem

    assert explain.problem(problem) == f"all 37 layers need 5.49 GiB on A GPU, 3.50 GiB usable; {fitting} fit"
    assert not placed("qwen3-8b", "Q4_K_M", gpu(4), asked=fitting).problem
    with refuses(NothingFits):
        chosen(profiles.load("desktop-rtx-4090"), Offload((gpu(0.5),)), "qwen3-8b", gpu_layers=-1)


def test_what_is_chosen_for_the_gpu_fits_it() -> None:
    machine = profiles.load("desktop-rtx-4090")
    decision = decide(context(machine, catalog().values(), [facts(assumed(machine))]), SelectionRequest(gpu_layers=-1))

    assert decision.choice is not None
    assert decision.choice.gpu_layers == -1
    assert decision.choice.footprint.device_bytes <= 22.56 * GIB
    assert any(
        r.rule == "fits_memory" and "on RTX 4090, 22.56 GiB usable" in explain.refusal(r.reason)
        for r in decision.rejected
    )


@pytest.mark.parametrize(
    "offload", [pytest.param(NO_BUILD, id="no build for a GPU"), pytest.param(None, id="no layers on a GPU")]
)
def test_what_cannot_be_kept_is_refused(offload: Offload | None) -> None:
    with refuses(BackendUnavailable):
        chosen(profiles.load("desktop-rtx-4090"), offload, "qwen3-4b", gpu_layers=5)


def test_another_backend_takes_the_layers_where_one_cannot() -> None:
    machine = profiles.load("desktop-rtx-4090")
    backends = [BackendFacts("able", frozenset({"gguf"}), offload=assumed(machine)), facts(None)]
    decision = decide(context(machine, [catalog()["qwen3-4b"]], backends), SelectionRequest(gpu_layers=-1))

    assert decision.choice is not None
    assert (decision.choice.backend, decision.choice.gpu_layers) == ("able", -1)


def test_a_model_that_only_the_gpu_can_hold_is_not_dropped() -> None:
    """8 GiB of RAM, 24 of VRAM: the weights need not fit the RAM."""
    machine = profiles.load("desktop-rtx-4090")
    small = replace(machine, memory=replace(machine.memory, total_bytes=8 * GIB))
    request = SelectionRequest(min_tps=0.1, ctx=4096)
    rows = [catalog()["qwen3-14b"]]

    with_gpu = decide(context(small, rows, [facts(assumed(small))]), request).choice
    assert with_gpu is not None
    assert with_gpu.tensor_bytes > small.memory_budget_bytes > with_gpu.footprint.resident_bytes


def test_the_machine_knows_what_is_free_now() -> None:
    machine = profiles.load("desktop-rtx-4090")
    busy = replace(machine, accelerators=(Accelerator("cuda", "NVIDIA RTX 4090", 24 * GIB, 3 * GIB),))
    found = live(Offload((gpu(24, name="NVIDIA RTX 4090"),)), busy)

    assert found.devices[0].free_bytes == 3 * GIB
    igpu = replace(machine, accelerators=(Accelerator("xe", "Intel GPU 46a6", unified=True),))
    assert live(Offload((gpu(8, name="Intel(R) Iris(R) Xe Graphics"),)), igpu).devices[0].unified


def test_devices_that_the_machine_does_not_know_stay_as_the_library_says() -> None:
    two = (gpu(24, name="One"), gpu(12, name="Two"))
    machine = replace(profiles.load("desktop-rtx-4090"), accelerators=(Accelerator("cuda", "Two", 12 * GIB, 2 * GIB),))
    assert [d.free_bytes for d in live(Offload(two), machine).devices] == [None, 2 * GIB]


class _Planner:
    name, formats, quants = "gguf", frozenset({"gguf"}), None

    def offload(self, machine: Machine) -> Offload:
        raise AssertionError("another machine's GPUs are not this library's to know")


def test_for_another_machine_a_build_for_its_gpu_is_assumed() -> None:
    (facts_there,) = assumed_facts([_Planner()], profiles.load("desktop-rtx-3060-12gb"))  # type: ignore[list-item]
    assert facts_there.offload is not None
    assert [device.name for device in facts_there.offload.devices] == ["CUDA0"]


@pytest.mark.parametrize(("text", "layers"), [("all", -1), ("ALL", -1), ("auto", None), ("0", 0), ("12", 12), (7, 7)])
def test_words_for_layers(text: str | int, layers: int | None) -> None:
    assert layers_on_gpu(text) == layers


@pytest.mark.parametrize("text", ["some", "-1", "1.5", "", -3, "10000"])
def test_words_for_no_layers(text: str | int) -> None:
    with refuses(UsageError, param="gpu_layers"):
        SelectionRequest(gpu_layers=layers_on_gpu(text))


def test_devices_of_one_name_are_told_apart_by_their_slots() -> None:
    one = Accelerator("cuda", "RTX 3090", 24 * GIB, 1 * GIB, slot="0000:01:00.0")
    two = replace(one, free_bytes=23 * GIB, slot="0000:0A:00.0", display=True)
    machine = replace(profiles.load("desktop-rtx-4090"), accelerators=(one, two))
    devices = tuple(replace(gpu(24, name="RTX 3090"), slot=slot) for slot in ("0000:0a:00.0", "0000:01:00.0"))
    there = live(Offload(devices), machine)
    assert [device.free_bytes for device in there.devices] == [23 * GIB, 1 * GIB]
    other = replace(devices[0], slot="0000:02:00.0")
    assert live(Offload((other,)), replace(machine, accelerators=(one,))).devices == (other,)


def test_what_a_screen_needs_stays_free() -> None:
    card = Accelerator("cuda", "RTX 3060", 12 * GIB, 12 * GIB)
    rooms = []
    for display in (None, False, True):
        machine = replace(profiles.load("desktop-rtx-4090"), accelerators=(replace(card, display=display),))
        (usable,) = usable_gpus(assumed(machine), machine, [None])
        rooms.append(usable.room_bytes)
    assert rooms[0] == rooms[1] == rooms[2] + GIB - 12 * GIB * 6 // 100


def test_a_gpu_that_no_program_reaches_is_planned_nothing() -> None:
    machine = profiles.load("desktop-rtx-4090")
    barred = replace(machine, accelerators=(replace(machine.accelerators[0], usable=False),))
    assert assumed(barred).devices == ()
    there = live(Offload((gpu(24, name="NVIDIA RTX 4090"),)), barred)
    assert (there.devices, bool(there.missing)) == ((), True)
    choice, decision = chosen(barred, there, "qwen3-4b")
    assert choice.gpu_layers == 0
    (idle,) = [reason for reason in decision.reasons if isinstance(reason, GpuUnused)]
    assert (idle.cause, idle.vram_bytes) == ("unreachable", 0)
    beside = replace(machine, accelerators=(barred.accelerators[0], Accelerator("cuda", "RTX 3060", 12 * GIB)))
    _, decision = chosen(beside, Offload(missing="none"), "qwen3-4b")
    (idle,) = [reason for reason in decision.reasons if isinstance(reason, GpuUnused)]
    assert (idle.cause, idle.devices, idle.vram_bytes) == ("missing", "RTX 3060", 12 * GIB)


@pytest.mark.parametrize("quant", ["Q4_K_M", "Q8_0"])
def test_a_gpu_that_shares_the_memory_holds_no_more_than_it_may_map(quant: str) -> None:
    """As an 890M of 16 GiB, which may map half of them."""
    whole = placed("qwen3-8b", quant, gpu(16, unified=True))
    part = placed("qwen3-8b", quant, gpu(4, unified=True))
    assert (whole.layers, whole.is_unified) == (37, True)
    assert 0 < part.layers < whole.layers
    assert part.on_gpus[0].n_bytes == part.footprint.device_bytes == 0, "all is counted with the machine's memory"
    problem = placed("qwen3-8b", quant, gpu(4, unified=True), asked=37).problem
    assert problem is not None
    assert problem.fitting == part.layers
    assert problem.needed_bytes > problem.usable_bytes == 4 * GIB


def test_prompts_of_a_part_on_a_gpu_that_shares_the_memory_copy_the_rest() -> None:
    machine, shape = profiles.load("ryzen-7-7840hs-32gb"), catalog()["qwen3-8b"].shape
    assert shape is not None
    size = weights(shape, 8.2e9, 8.2e9, "Q4_K_M")
    on = usable_gpus(assumed(machine), machine, [gpu_table.find(machine.accelerators[0], machine.memory.total_bytes)])
    load = Load(
        shape, layers_of(shape, size.total_bytes, "Q4_K_M"), 4096, 1,
        lambda ubatch: footprint(shape, size.total_bytes, 4096, batch=ubatch),
    )  # fmt: skip
    rates = [placement_speed.prefill(as_asked(load, on, count), shape, size) for count in (37, 20)]
    assert rates[0] is not None
    assert rates[1] is not None
    assert rates[1].tok_s < rates[0].tok_s
    assert isinstance(rates[1].basis, PredictedStream)
    assert rates[1].basis.link_gb_s == on[0].gpu.bandwidth_gb_s / 2, "what is copied there is read and written"  # type: ignore[union-attr]


@pytest.mark.parametrize("reverse", [False, True])
def test_layers_that_are_asked_for_lie_on_the_fastest_gpu(reverse: bool) -> None:
    desktop = profiles.load("desktop-rtx-4090")
    cards = [*desktop.accelerators, Accelerator("cuda", "GeForce GTX 1060 6GB", 6 * GIB)]
    machine = replace(desktop, accelerators=tuple(cards[::-1] if reverse else cards))
    choice, _ = chosen(machine, assumed(machine), "qwen3-4b", gpu_layers=11)
    assert [(part.description, part.layers) for part in choice.parts] == [("RTX 4090", 11)]
