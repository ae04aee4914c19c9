"""The type of the cache: f16 unless a smaller one buys room or the floor; never silently, never where it cannot be."""

from __future__ import annotations

from dataclasses import replace

import pytest
from support.contexts import context
from support.refusals import refuses
from support.words import said

from edgellm import explain
from edgellm.catalog.lookup import catalog
from edgellm.errors import NothingFits, UsageError
from edgellm.hardware import profiles
from edgellm.selection import constraints
from edgellm.selection.backend_facts import BackendFacts
from edgellm.selection.decide import decide
from edgellm.selection.offload import assumed
from edgellm.types.calibration import Calibration
from edgellm.types.refusal import CacheHeadSize
from edgellm.types.request import KV_TYPES, SelectionRequest, cache_type

GGUF = BackendFacts("gguf", frozenset({"gguf"}), kv_types=frozenset(KV_TYPES))
F16_ONLY = BackendFacts("gguf", frozenset({"gguf"}))


def of(model: str, quant: str, on, facts: BackendFacts = GGUF, **request: object):
    card = catalog()[model]
    files = tuple(file for file in card.files if file.quant == quant)[:1]
    return decide(context(on, [replace(card, files=files)], [facts]), SelectionRequest(**request))  # type: ignore[arg-type]


def test_the_cache_is_f16_where_it_fits(machine) -> None:
    decision = of("qwen3-4b", "Q4_K_M", machine(16), ctx=8192)

    assert decision.choice is not None
    assert decision.choice.kv_type == "f16"
    assert not any(reason.startswith("Cache:") for reason in said(decision))


def test_it_is_made_smaller_for_the_context_asked_for_and_says_why_and_what_it_costs(machine) -> None:
    decision = of("qwen3-4b", "Q4_K_M", machine(7.5), ctx=32768)

    assert decision.choice is not None
    assert decision.choice.kv_type == "q8_0"
    why = next(reason for reason in said(decision) if reason.startswith("Cache:"))
    assert why.startswith("Cache: q8_0, f16 would take 7.")
    assert "may be used; it keeps 99." in why
    failed = next(r for r in decision.rejected if r.kv_type == "f16")
    assert (failed.model, failed.quant, failed.rule) == ("qwen3-4b", "Q4_K_M", "fits_memory")
    assert "with 32,768 tokens of context" in explain.refusal(failed.reason)


def test_the_smallest_type_is_the_last_resort(machine) -> None:
    decision = of("qwen3-4b", "Q4_K_M", machine(5), ctx=32768)

    assert decision.choice is not None
    assert decision.choice.kv_type == "q4_0"
    assert [r.kv_type for r in decision.rejected if r.quant == "Q4_K_M"] == ["f16", "q8_0"]


def test_a_backend_that_has_no_other_type_keeps_f16(machine) -> None:
    with refuses(NothingFits):
        of("qwen3-4b", "Q4_K_M", machine(7.5), F16_ONLY, ctx=32768)


def test_what_is_asked_for_is_taken_and_nothing_else_is_tried(machine) -> None:
    decision = of("qwen3-4b", "Q4_K_M", machine(16), ctx=4096, kv_type="q4_0")

    assert decision.choice is not None
    assert decision.choice.kv_type == "q4_0"
    assert any(reason.startswith("Cache: q4_0, as asked; it keeps") for reason in said(decision))
    with pytest.raises(NothingFits):
        of("qwen3-4b", "Q4_K_M", machine(7.5), ctx=32768, kv_type="f16")


def test_a_type_that_the_backend_does_not_have_is_refused_with_those_it_has(machine) -> None:
    with refuses(NothingFits):
        of("qwen3-4b", "Q4_K_M", machine(16), F16_ONLY, kv_type="q8_0")


def test_heads_that_are_no_multiple_of_a_block_keep_f16() -> None:
    shape = catalog()["qwen3-4b"].shape
    assert shape is not None

    refusal = GGUF.refuses_cache("q8_0", replace(shape, head_dim=80))
    assert refusal == CacheHeadSize("q8_0", 32, 80)
    assert explain.refusal(refusal) == "a q8_0 cache needs heads of a multiple of 32, these have 80"
    assert GGUF.refuses_cache("f16", replace(shape, head_dim=80)) is None
    assert GGUF.refuses_cache("q8_0", shape) is None


def measured(f16: float, q8_0: float) -> BackendFacts:
    """Facts with rates at which attention meets caches of both types, 1e9 products a second."""
    kinds = {(kind, 8): 20.0 for kind in ("Q4_K", "Q6_K")}
    attention = {("f16", 8): f16, ("q8_0", 8): q8_0}
    return replace(GGUF, calibration=Calibration(kinds, kinds, "test", attention=attention))


def test_a_smaller_cache_is_not_credited_with_its_speed(option) -> None:
    """Or less memory would give a better choice."""
    full = option("qwen3-30b-a3b", "Q4_K_M", facts=measured(1.0, 10.0))
    assert full.lower is not None

    assert full.lower.kv_type == "q8_0"
    assert full.lower.decode.tok_s > full.decode.tok_s
    assert full.lower.score < full.score


def test_a_smaller_cache_is_taken_to_be_faster_only_where_that_was_measured(option) -> None:
    for facts, faster in ((GGUF, False), (measured(10.0, 5.0), False), (measured(5.0, 10.0), True)):
        full = option("qwen3-0.6b", "Q4_K_M", facts=facts)
        assert full.lower is not None

        assert (full.lower.decode.tok_s > full.decode.tok_s) == faster


def test_a_cache_that_keeps_the_floor_is_taken_for_it(option) -> None:
    facts = measured(1.0, 10.0)
    between = option("qwen3-0.6b", "Q4_K_M", facts=facts)
    assert between.lower is not None
    floor = (between.decode.tok_s + between.lower.decode.tok_s) / 2
    asked = option("qwen3-0.6b", "Q4_K_M", facts=facts, min_tps=floor)
    verdict = constraints.reaches_floor((asked,), asked.scenario)

    assert [o.kv_type for o in verdict.kept] == ["q8_0"]
    assert "the floor is" in explain.refusal(verdict.rejected[0][1])


def test_what_has_no_cache_is_not_tried_with_a_smaller_one(option) -> None:
    plain = option("qwen3-4b", "Q4_K_M", facts=GGUF)
    shape = replace(plain.shape, kv_full_bytes=0, kv_swa_bytes=0)

    assert replace(plain, shape=shape).lower is None


def test_the_flag_is_read_in_any_case_and_refused_where_unknown() -> None:
    assert cache_type("AUTO") is None
    assert cache_type("Q8_0") == "q8_0"
    with refuses(UsageError, param="kv"):
        SelectionRequest(kv_type="q5_0")


def test_what_a_cache_costs_the_processor_counts_beside_a_gpu(option) -> None:
    """As measured here: with half of the layers on the GPU it is slower, too, and on the GPU alone it is not."""
    machine = profiles.load("desktop-rtx-4090")
    facts = replace(measured(10.0, 1.0), offload=assumed(machine))
    rates = {}
    for layers in (20, -1):
        for kind in ("f16", "q8_0"):
            full = option("qwen3-4b", "Q4_K_M", machine, facts=facts, gpu_layers=layers, ctx=8192)
            rates[layers, kind] = replace(full, kv_type=kind).decode_at(4096).tok_s
    assert rates[20, "q8_0"] < rates[20, "f16"]
    assert rates[-1, "q8_0"] == rates[-1, "f16"]
