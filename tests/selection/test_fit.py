"""What a named model is said to take, and that what is said to make it fit does."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from support.contexts import context

from edgellm import explain
from edgellm.catalog.lookup import catalog
from edgellm.errors import NothingFits
from edgellm.hardware import profiles
from edgellm.selection.backend_facts import BackendFacts
from edgellm.selection.decide import decide
from edgellm.selection.fit import FitReport, fit_reports
from edgellm.selection.offload import assumed
from edgellm.selection.scenario import Scenario
from edgellm.types.backend_reason import BackendCannotRun, RatesSetAside
from edgellm.types.calibration import Calibration, Occasion
from edgellm.types.machine import Machine
from edgellm.types.model import ModelCard, ModelFile
from edgellm.types.plan import Rejection
from edgellm.types.refusal import NoBackendRuns, TrainedForLess
from edgellm.types.request import SelectionRequest
from edgellm.units import show_memory

GGUF = BackendFacts("gguf", frozenset({"gguf"}), kv_types=frozenset({"f16", "q8_0", "q4_0"}))
ROWS = list(catalog().values())
MIB = 1024**2


def appraised(
    card: ModelCard, machine: Machine, request: SelectionRequest, backend: BackendFacts = GGUF, **others: Any
) -> tuple[list[FitReport], list[Rejection]]:
    return fit_reports(card, context(machine, ROWS, [backend]), Scenario.of(machine, request), **others)


def look(
    model: str, quant: str = "", on: str = "raspberry-pi-5-8gb", *, adapter_bytes: int = 0, **request: object
) -> list[FitReport]:
    card = catalog()[model]
    chosen = tuple(f for f in card.files if quant in ("", f.quant))
    others = tuple(f for f in card.files if f not in chosen)
    found, refused = appraised(
        replace(card, files=chosen), profiles.load(on), SelectionRequest(**request),  # type: ignore[arg-type]
        adapter_bytes=adapter_bytes, others=others,
    )  # fmt: skip
    assert refused == []
    return found


def test_the_terms_add_up_and_fit() -> None:
    (found,) = look("qwen3-0.6b", "Q8_0", ctx=4096)
    memory = found.candidate.footprint

    assert found.fits
    assert found.is_fast_enough
    assert found.counted_bytes == memory.needed_bytes == sum(t.resident_bytes for t in memory.terms())
    assert memory.kv_bytes == 448 * MIB
    assert found.candidate.tensor_bytes == 633_495_552
    assert explain.verdict(found.verdict) == f"Fits: {show_memory(found.budget_bytes - found.counted_bytes)} stay free."


def test_a_rate_is_told_for_no_more_tokens_than_it_was_trained_for() -> None:
    card = replace(catalog()["qwen3-0.6b"], ctx_train=512)
    short, _ = appraised(card, profiles.load("raspberry-pi-5-8gb"), SelectionRequest())
    whole = look("qwen3-0.6b", "Q8_0")

    depths = [{getattr(found.candidate.decode.basis, "depth", None) for found in reports} for reports in (short, whole)]
    assert depths == [{512}, {1024}]


def test_why_rates_do_not_count_is_told_with_the_speed() -> None:
    table, beside = {("Q8_0", 4): 0.02}, {4: Occasion("2026-11-28", 0.63)}
    card, machine = catalog()["qwen3-0.6b"], profiles.load("raspberry-pi-5-8gb")
    aside = replace(GGUF, set_aside=Calibration(table, table, "test", occasions=beside))
    told, plain = (appraised(card, machine, SelectionRequest(), facts)[0] for facts in (aside, GGUF))

    assert {one.set_aside for one in told} == {RatesSetAside("gguf", 4, "2026-11-28", 0.63)}
    assert [replace(one, set_aside=None) for one in told] == plain


@pytest.mark.parametrize("on", ["raspberry-pi-4-1gb", "raspberry-pi-5-8gb", "intel-n100-16gb", "apple-m2-16gb"])
@pytest.mark.parametrize("model", ["qwen3-0.6b", "llama-3.2-3b-instruct", "gemma-4-26b-a4b-it", "bge-m3"])
def test_it_is_what_selection_would_run(model: str, on: str) -> None:
    card = catalog()[model]
    card = replace(card, files=card.files or (ModelFile("hf://test/x:Q8_0", "Q8_0"),))
    machine, request = profiles.load(on), SelectionRequest(task="embed" if card.kind == "embedding" else "chat")
    found, _ = appraised(card, machine, request)
    try:
        choice = decide(context(machine, [card], [GGUF]), request).choice
    except NothingFits:
        assert not any(a.fits for a in found)
        return
    same = next(a.candidate for a in found if a.candidate.quant == choice.quant)  # type: ignore[union-attr]

    assert same == choice


@pytest.mark.parametrize(
    ("model", "quant", "on", "request_"),
    [
        ("qwen3-4b", "Q8_0", "raspberry-pi-5-4gb", {"ctx": 8192}),
        ("qwen3-8b", "Q8_0", "raspberry-pi-5-8gb", {"ctx": 16384, "slots": 2}),
        ("qwen3-1.7b", "Q8_0", "raspberry-pi-5-2gb", {}),
        ("qwen3-0.6b", "Q8_0", "raspberry-pi-5-8gb", {"max_memory_bytes": 500 * MIB}),
        ("gemma-4-31b-it", "Q8_0", "apple-m4-pro-48gb", {"ctx": 131072, "slots": 4}),
        ("llama-3.1-8b-instruct", "Q5_K_M", "raspberry-pi-5-8gb", {"ctx": 32768, "slots": 3}),
    ],
)
def test_what_is_said_to_make_it_fit_does(model: str, quant: str, on: str, request_: dict[str, object]) -> None:
    (found,) = look(model, quant, on, **request_)
    assert not found.fits
    assert found.remedies
    for remedy in found.remedies:
        flags = dict(flag.removeprefix("--").split(" ") for flag in remedy.flags)
        names = {"ctx": "ctx", "slots": "slots"}
        changed: dict[str, object] = {"ctx": found.candidate.ctx, **request_}
        changed |= {names[k]: int(v) for k, v in flags.items() if k in names}
        changed |= {"kv_type": flags["kv"]} if "kv" in flags else {"kv_type": found.candidate.kv_type}
        if "max-memory" in flags:
            changed["max_memory_bytes"] = int(flags["max-memory"].removesuffix("MiB")) * MIB
        (after,) = look(model, flags.get("quant", quant), on, **changed)

        assert after.fits, remedy
        assert after.counted_bytes == remedy.counted_bytes, remedy


def test_layers_that_a_gpu_does_not_hold_are_a_problem_that_auto_mends() -> None:
    machine = profiles.load("desktop-rtx-3060-12gb")
    facts = replace(GGUF, offload=assumed(machine))
    card = replace(catalog()["gemma-3-27b-it"], files=(ModelFile("hf://test/x:Q4_K_M", "Q4_K_M"),))
    asked = SelectionRequest(gpu_layers=-1, ctx=8192)
    (whole,), _ = appraised(card, machine, asked, facts)
    (auto,), _ = appraised(card, machine, replace(asked, gpu_layers=None), facts)

    assert not whole.fits
    assert "layers need" in explain.problem(whole.problems[0])
    assert next(r for r in whole.remedies if r.flags == ("--gpu-layers auto",)).counted_bytes == auto.counted_bytes
    for found in (whole, auto):
        assert all(t.resident_bytes <= t.allocated_bytes for t in found.candidate.footprint.terms())
    assert auto.fits
    assert 0 < auto.candidate.gpu_layers < 62


def test_nothing_is_offered_where_nothing_helps() -> None:
    (found,) = look("llama-3.3-70b-instruct", "Q8_0", "raspberry-pi-4-1gb")

    assert found.remedies == ()
    assert explain.verdict(found.verdict).startswith("Does not fit: it needs")


def test_an_adapter_counts_byte_for_byte() -> None:
    (plain,), (adapted,) = (look("qwen3-0.6b", "Q8_0", adapter_bytes=n, ctx=4096) for n in (0, 12_345_678))

    assert adapted.counted_bytes - plain.counted_bytes == 12_345_678
    assert adapted.budget_bytes == plain.budget_bytes
    assert [t.allocated_bytes for t in adapted.candidate.footprint.terms() if t.name == "adapters"] == [12_345_678]


def test_an_adapter_may_be_what_does_not_fit() -> None:
    asked = {"ctx": 4096, "kv_type": "f16"}
    (plain,) = look("qwen3-0.6b", "Q8_0", **asked)
    room = plain.budget_bytes - plain.counted_bytes
    (just,), (over,) = (look("qwen3-0.6b", "Q8_0", adapter_bytes=n, **asked) for n in (room, room + 1))

    assert just.fits
    assert not over.fits


def test_more_context_than_it_was_trained_for_is_a_problem() -> None:
    (found,) = look("smollm2-135m-instruct", "Q4_1", ctx=16384)

    assert not found.fits
    assert found.problems == (TrainedForLess(8192, 16384),)
    assert explain.problem(found.problems[0]) == "it was trained for 8,192 tokens, 16,384 are asked for"


def test_what_no_backend_opens_is_appraised_all_the_same() -> None:
    card = catalog()["bitnet-b1.58-2b-4t"]
    found, _ = appraised(card, profiles.load("raspberry-pi-5-8gb"), SelectionRequest())

    assert [a.candidate.backend for a in found] == [""] * len(card.files)
    assert not any(a.fits for a in found)
    assert "I2_S is not a type of stock llama.cpp" in explain.verdict(found[0].verdict)
    assert found[0].candidate.footprint.weights_bytes > 0


def test_a_backend_that_cannot_run_says_why() -> None:
    broken = replace(GGUF, problems=("no libllama",))
    card = replace(catalog()["qwen3-0.6b"], files=catalog()["qwen3-0.6b"].files[:1])
    (found,), _ = appraised(card, profiles.load("raspberry-pi-5-8gb"), SelectionRequest(), broken)

    assert found.problems == (NoBackendRuns((BackendCannotRun("gguf", ("no libllama",)),)),)
    assert explain.problem(found.problems[0]) == "gguf cannot run it here: no libllama"


def test_a_model_that_nobody_knows_gets_the_wide_prior_of_its_family() -> None:
    known = catalog()["qwen3-4b"]
    stranger = ModelCard(
        "house", "house", "chat", "mit", 4096, known.params, known.params_active, known.shape,
        (ModelFile("file:/house.gguf", "Q4_K_M", tensor_bytes=2_500_000_000),),
    )  # fmt: skip
    (found,), _ = appraised(stranger, profiles.load("raspberry-pi-5-8gb"), SelectionRequest())

    assert found.candidate.tensor_bytes == 2_500_000_000
    assert found.candidate.quality_high - found.candidate.quality_low > 30
    assert "no published score" in explain.basis(found.ability)


def test_too_slow_fits_and_says_so() -> None:
    (found,) = look("qwen3-4b", "Q8_0")

    assert found.fits
    assert not found.is_fast_enough
    assert "slow: " in explain.verdict(found.verdict)
