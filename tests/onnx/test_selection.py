"""ONNX files beside GGUF ones: which wins and why, and what their cache takes."""

from __future__ import annotations

import pytest
from edgellm_onnx.priors import EXPORT, PRIORS
from support.contexts import context
from support.refusals import refuses
from support.words import said

from edgellm.catalog.lookup import catalog
from edgellm.errors import NothingFits
from edgellm.selection.backend_facts import BackendFacts
from edgellm.selection.decide import decide
from edgellm.types.machine import Cpu, Machine, Memory
from edgellm.types.plan import Decision
from edgellm.types.request import KV_TYPES, SelectionRequest

GIB = 1024**3
GGUF = BackendFacts("gguf", frozenset({"gguf"}), kv_types=frozenset({"f16", "q8_0", "q4_0"}))
ONNX = BackendFacts("onnx", frozenset({"onnx"}), quants=frozenset(EXPORT.table_types),
                    kv_types=frozenset({"f32"}), priors=PRIORS)  # fmt: skip
MACHINE = Machine("test", "Test", Cpu("x86_64", "test", 8, 8, ("avx", "avx2", "f16c", "fma")),
                  Memory(8 * GIB, None, 0, 40.0, "theoretical"))  # fmt: skip


def decided(name: str, *backends: BackendFacts, **asked: object) -> Decision:
    return decide(context(MACHINE, [catalog()[name]], backends), SelectionRequest(**asked))  # type: ignore[arg-type]


def test_the_choice_says_what_the_model_would_be_on_the_other_backend() -> None:
    decision = decided("qwen3-0.6b", GGUF, ONNX)

    assert decision.choice is not None
    assert decision.choice.backend == "gguf"
    (line,) = [reason for reason in said(decision) if reason.startswith("Backend:")]
    assert line.startswith("Backend: gguf rather than onnx with INT4: ")
    assert line.count(" against ") == 3


@pytest.mark.parametrize("name", ["qwen3-0.6b", "gemma-3-1b-it"])
def test_a_cache_of_an_onnx_graph_takes_f32_for_every_token_of_every_layer(name: str) -> None:
    shape = catalog()[name].shape
    assert shape is not None

    decision = decided(name, ONNX, ctx=8192, slots=2)

    assert decision.choice is not None
    assert (decision.choice.backend, decision.choice.quant, decision.choice.kv_type) == ("onnx", "INT4", "f32")
    per_token = 2 * (shape.kv_full_bytes + shape.kv_swa_bytes)
    assert decision.choice.footprint.kv_bytes == 2 * 8192 * per_token
    assert "Cache: f32: onnx holds it in no smaller type." in said(decision)


@pytest.mark.parametrize("kind", [kind for kind in KV_TYPES if kind != "f32"])
def test_another_type_of_cache_is_refused_with_its_reason(kind: str) -> None:
    with refuses(NothingFits):
        decided("qwen3-0.6b", ONNX, kv_type=kind)


def test_a_backend_that_is_asked_for_is_taken_though_another_is_better() -> None:
    decision = decided("qwen3-0.6b", GGUF, ONNX, backend="onnx")

    assert decision.choice is not None
    assert decision.choice.backend == "onnx"
    assert decision.choice.source == "hf://onnx-community/Qwen3-0.6B-ONNX/onnx/model_q4.onnx"


def test_f16_is_the_usual_cache_where_there_is_one() -> None:
    every = BackendFacts("every", frozenset({"gguf"}), kv_types=frozenset(KV_TYPES))

    assert [facts.usual_cache for facts in (GGUF, ONNX, every)] == ["f16", "f32", "f16"]
