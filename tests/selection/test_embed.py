"""Embedding: models of that kind only, a floor for reading, no cache where a model keeps none."""

from __future__ import annotations

from support.contexts import context
from support.refusals import refuses
from support.words import said

from edgellm.app import launch
from edgellm.catalog.lookup import catalog
from edgellm.errors import NothingFits, UnsupportedTask
from edgellm.selection.backend_facts import BackendFacts
from edgellm.selection.decide import decide
from edgellm.types.request import SelectionRequest
from edgellm.units import show_rate

GGUF = BackendFacts("gguf", frozenset({"gguf"}))


def test_embedding_models_are_chosen_by_how_fast_they_read(machine) -> None:
    decision = decide(context(machine(), catalog().values(), [GGUF]), SelectionRequest(task="embed"))
    assert decision.choice is not None
    card = catalog()[decision.choice.model]

    assert card.kind == "embedding"
    assert decision.choice.prefill.tok_s >= 100
    assert all(catalog()[runner.model].kind == "embedding" for runner in decision.runners_up)
    assert any(r.rule == "is_embedding_model" and r.model == "qwen3-4b" for r in decision.rejected)
    speed = next(reason for reason in said(decision) if reason.startswith("Speed:"))
    assert f"{show_rate(decision.choice.prefill.tok_s)} tok/s" in speed


def test_the_floor_is_of_text_read(machine) -> None:
    asked = SelectionRequest(task="embed", min_tps=1e9)
    with refuses(NothingFits):
        decide(context(machine(), catalog().values(), [GGUF]), asked)


def test_an_encoder_keeps_no_cache(machine) -> None:
    bert = catalog()["bge-large-en-v1.5"]
    decision = decide(context(machine(), [bert], [GGUF]), SelectionRequest(task="embed"))
    assert decision.choice is not None

    assert decision.choice.footprint.kv_bytes == 0
    assert decision.choice.ctx == 512


def test_a_model_that_only_reads_is_refused_for_chat_before_it_is_fetched() -> None:
    with refuses(UnsupportedTask):
        launch.model_plan("bge-large-en-v1.5", SelectionRequest(), to_chat=True)
