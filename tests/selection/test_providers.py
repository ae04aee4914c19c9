"""A library that computes whole models on one device, beside the processor and llama.cpp's placements.

Figures are onnxruntime's, as the plugin states them; devices are of profiles, as no GPU is at hand.
"""

from __future__ import annotations

from dataclasses import replace

import pytest
from edgellm_onnx.devices import DEVICES
from edgellm_onnx.plugin import OnnxBackend
from edgellm_onnx.priors import EXPORT, PRIORS
from support.contexts import context
from support.refusals import refuses

from edgellm import explain
from edgellm.app import gpu_run
from edgellm.catalog.lookup import catalog
from edgellm.contract.backend import Device, Offload
from edgellm.errors import NothingFits, UsageError
from edgellm.estimate.weights import Weights
from edgellm.hardware import gpu_table, profiles
from edgellm.selection.backend_facts import BackendFacts, assumed_facts
from edgellm.selection.decide import decide
from edgellm.selection.named_devices import only_named
from edgellm.selection.offload import assumed
from edgellm.selection.provider_speed import by_provider, link_gb_s
from edgellm.selection.usable_gpu import UsableGpu
from edgellm.types.backend_reason import GpuLayers, GpuUnused
from edgellm.types.basis import Predicted, PredictedByProvider, PredictedOnGpu
from edgellm.types.machine import Machine
from edgellm.types.model import Artifact
from edgellm.types.plan import Candidate, Decision, LaunchPlan, Rate
from edgellm.types.reason import OtherPlacements
from edgellm.types.request import SelectionRequest

GIB = 1024**3
DESKTOP = profiles.load("desktop-rtx-4090")
MODEL = "qwen3-0.6b"
GGUF = BackendFacts("gguf", frozenset({"gguf"}))


def facts(*devices: Device) -> BackendFacts:
    """The ONNX plugin with a build that sees these devices."""
    return BackendFacts(
        "onnx", frozenset({"onnx"}), quants=frozenset(EXPORT.table_types), kv_types=frozenset({"f32"}),
        priors=PRIORS,
        offload=Offload(devices) if devices else None,
    )  # fmt: skip


def device(stem: str, machine: Machine = DESKTOP, gib: float | None = None) -> Device:
    gpu = machine.accelerators[0]
    total = int(gib * GIB) if gib is not None else gpu.vram_bytes or machine.memory.total_bytes
    return Device(f"{stem}0", f"{gpu.name} ({DEVICES[stem].prior.name})", total, None, gpu.unified)


def decided(*backends: BackendFacts, machine: Machine = DESKTOP, **asked: object) -> Decision:
    return decide(context(machine, [catalog()[MODEL]], backends), SelectionRequest(**asked))  # type: ignore[arg-type]


def choice_of(decision: Decision) -> Candidate:
    assert decision.choice is not None
    return decision.choice


def test_a_provider_is_taken_at_the_low_end_of_what_is_published() -> None:
    decision = decided(facts(device("CUDA")))
    choice, alone = choice_of(decision), choice_of(decided(facts()))

    assert (choice.settings.gpu_layers, choice.settings.devices) == (-1, ("CUDA0",))
    assert choice.decode.low / 1.1 > alone.decode.tok_s
    (others,) = [fact for fact in decision.reasons if isinstance(fact, OtherPlacements)]
    assert others.least_tok_s == pytest.approx(choice.decode.low / 1.1), "the choice of the model counts on that"
    basis = choice.decode.basis
    assert isinstance(basis, PredictedByProvider)
    assert (basis.provider, basis.copied_bytes, basis.of.api) == ("CUDAExecutionProvider", 0, "cuda")
    (told,) = [fact for fact in decision.reasons if isinstance(fact, GpuLayers)]
    assert told.devices == "RTX 4090 (CUDAExecutionProvider)"
    assert isinstance(alone.decode.basis, Predicted)


def test_a_provider_is_no_faster_than_published_of_what_llama_cpp_is_predicted() -> None:
    rate = choice_of(decided(facts(device("CUDA")), ctx=4096)).decode
    basis, published = rate.basis, DEVICES["CUDA"].rate
    assert isinstance(basis, PredictedByProvider)
    assert published is not None
    assert (basis.low, basis.factor, basis.high) == published.decode
    card = gpu_table.find(DESKTOP.accelerators[0])
    on = UsableGpu("CUDA0", "", 24 * GIB, 0, unified=False, gpu=card, api="cuda", provider=DEVICES["CUDA"].prior)
    theirs = Rate(100.0, 80.0, 110.0, basis.of)
    assert by_provider(theirs, replace(on, provider=None), 0) is theirs
    ours = by_provider(theirs, on, 0)
    assert (ours.tok_s, ours.low, ours.high) == (63.0, 27.2, 110.0)
    assert card is not None
    copied = 10**9  # in each step, at the link's speed
    assert by_provider(theirs, on, copied).tok_s == pytest.approx(
        1 / (1 / 63 + 1 / link_gb_s(card, shared=False)), 0.01
    )


@pytest.mark.parametrize("machine", ["desktop-rtx-4090", "desktop-rtx-3060-12gb"])
def test_llama_cpp_and_a_provider_on_one_device_are_one_decision(machine: str) -> None:
    """By the files' scores at the speeds of their placements; without a build of llama.cpp's the provider's wins."""
    on = profiles.load(machine)
    built = replace(GGUF, offload=assumed(on))
    assert choice_of(decided(built, facts(device("CUDA", on)), machine=on)).backend == "gguf"
    alone = choice_of(decided(GGUF, facts(device("CUDA", on)), machine=on, backend="onnx"))
    assert (alone.backend, alone.settings.devices) == ("onnx", ("CUDA0",))


def test_a_provider_that_copies_the_cache_is_slower_the_longer_the_context() -> None:
    short, long = (choice_of(decided(facts(device("DML")), ctx=ctx, gpu_layers=-1, slots=1)) for ctx in (2048, 32768))

    for choice in (short, long):
        assert isinstance(choice.decode.basis, PredictedByProvider)
        assert choice.decode.basis.copied_bytes == 2 * choice.footprint.kv_bytes > 0, "the cache stays in RAM"
    assert long.decode.tok_s < short.decode.tok_s / 3
    in_place = choice_of(decided(facts(device("CUDA")), ctx=32768, gpu_layers=-1, slots=1))
    assert in_place.footprint.kv_bytes == 0
    assert long.parts[0].n_bytes - in_place.parts[0].n_bytes > long.footprint.kv_bytes / 2, "and is there twice"


def test_a_provider_whose_low_end_is_not_better_stays_idle_and_the_plan_says_so() -> None:
    decision = decided(facts(device("DML")), ctx=16384, slots=1)

    assert choice_of(decision).parts == ()
    (idle,) = [fact for fact in decision.reasons if isinstance(fact, GpuUnused)]
    assert (idle.cause, idle.devices) == ("slower", "RTX 4090 (DmlExecutionProvider)")


@pytest.mark.parametrize("stem", [stem for stem, kind in DEVICES.items() if kind.rate is None])
def test_a_provider_of_which_nothing_is_published_is_taken_only_where_it_is_asked_for(stem: str) -> None:
    decision = decided(facts(device(stem)))

    assert choice_of(decision).parts == ()
    (idle,) = [fact for fact in decision.reasons if isinstance(fact, GpuUnused)]
    assert (idle.cause, idle.backend) == ("unpublished", "onnx")
    assert DEVICES[stem].prior.name in explain.sentence(idle)
    asked = choice_of(decided(facts(device(stem)), gpu_layers=-1))
    assert asked.settings.devices == (f"{stem}0",)


def test_some_layers_are_refused_where_a_device_computes_all_or_none() -> None:
    with refuses(NothingFits):
        decided(facts(device("CUDA")), gpu_layers=5)
    assert choice_of(decided(facts(device("CUDA")), gpu_layers=0)).parts == ()


@pytest.mark.parametrize("gib", [1.0, 2.0])
def test_a_provider_whose_memory_is_too_small_is_refused_where_it_is_asked_for(gib: float) -> None:
    with refuses(NothingFits):
        decided(facts(device("CUDA", gib=gib)), slots=1, ctx=2048, gpu_layers=-1)
    assert choice_of(decided(facts(device("CUDA", gib=gib)), slots=1, ctx=2048)).parts == ()


@pytest.mark.parametrize("gib", [4.0, 24.0])
@pytest.mark.parametrize("stem", ["CUDA", "DML"])
def test_a_provider_holds_weights_and_caches_and_no_more_than_its_memory(stem: str, gib: float) -> None:
    choice = choice_of(decided(facts(device(stem, gib=gib)), slots=1, ctx=2048, gpu_layers=-1))
    (part,) = choice.parts
    caches = choice.footprint.kv_bytes  # those that are there and come back
    assert choice.tensor_bytes + 2 * caches < part.n_bytes < gib * GIB * 0.94


def test_a_device_that_shares_the_memory_takes_it_once() -> None:
    machine = profiles.load("apple-m4-16gb")
    card = device("CUDA", machine)
    choice = choice_of(decided(facts(card), machine=machine, gpu_layers=-1))
    assert (choice.parts[0].unified, choice.parts[0].n_bytes, choice.footprint.device_bytes) == (True, 0, 0)
    assert choice.footprint.kv_bytes > 0


def test_of_another_machine_no_provider_is_assumed() -> None:
    (onnx,) = assumed_facts([OnnxBackend()], DESKTOP)
    assert onnx.offload is None
    assert choice_of(decided(onnx)) == choice_of(decided(replace(onnx, offload=None)))


def test_a_named_device_is_one_that_any_backend_sees() -> None:
    own = Offload((device("DML"),))
    assert only_named(own, ["dml0"], ["CUDA0"]).devices == own.devices
    assert only_named(own, ["CUDA0"], ["CUDA0"]).devices == ()
    assert only_named(own, ["cuda0", "DML0"], ["CUDA0"]).devices == own.devices
    with refuses(UsageError, param="device"):
        only_named(own, ["CUDA1"], ["CUDA0"])


def test_prompts_of_which_nothing_is_published_have_a_wide_band_that_says_so() -> None:
    prompts = choice_of(decided(facts(device("CUDA")))).prefill
    assert isinstance(prompts.basis, PredictedByProvider)
    assert isinstance(prompts.basis.of, PredictedOnGpu)
    assert prompts.basis.source == ""
    assert prompts.high / prompts.low > 4


@pytest.mark.parametrize("stem", ["CUDA", "DML"])
def test_a_run_is_compared_with_what_was_predicted_of_its_provider(stem: str) -> None:
    """Not with llama.cpp on that GPU: what is published would count twice in the next plan."""
    here = facts(device(stem))
    choice = choice_of(decided(here, gpu_layers=-1, slots=2, ctx=4096))
    plan = LaunchPlan(
        "onnx", Artifact("onnx", (), MODEL, choice.quant, shape=catalog()[MODEL].shape), choice.settings,
        footprint=choice.footprint,
    )  # fmt: skip
    held = Weights(choice.tensor_bytes, choice.tensor_bytes, (), exact=False)
    placed = gpu_run.placement_of(plan, DESKTOP, here, held)
    assert placed is not None
    assert placed.parts[0].device.provider == DEVICES[stem].prior
    assert isinstance(choice.decode.basis, PredictedByProvider)
    assert placed.copied_bytes == choice.decode.basis.copied_bytes
