"""A quantization that could be made here is proposed where it would be chosen, and only there."""

from __future__ import annotations

from dataclasses import replace

from support.contexts import context
from support.refusals import refuses
from support.words import said

from edgellm.catalog.lookup import catalog
from edgellm.errors import NothingFits
from edgellm.selection.backend_facts import BackendFacts
from edgellm.selection.decide import decide
from edgellm.types.model import ModelFile
from edgellm.types.request import SelectionRequest

GGUF = BackendFacts("gguf", frozenset({"gguf"}))


def card_with(*files: tuple[str, str]):
    return replace(
        catalog()["qwen3-4b"], files=tuple(ModelFile(f"{scheme}a/{quant}.gguf", quant) for scheme, quant in files)
    )


def proposals(decision) -> list[str]:
    return [reason for reason in said(decision) if "edgellm quantize" in reason]


def test_a_lower_quantization_is_proposed_where_only_f16_is_at_hand(machine) -> None:
    card = card_with(("file:/", "F16"), ("hf://", "Q5_K_M"))
    decision = decide(context(machine(), [card], [GGUF]), SelectionRequest(offline=True))
    assert decision.choice is not None
    assert decision.would_choose is not None

    assert (decision.choice.quant, decision.would_choose.quant) == ("F16", "Q5_K_M")
    (line,) = proposals(decision)
    assert "`edgellm quantize /a/F16.gguf --to " in line
    assert "instead of F16" in line


def test_nothing_is_proposed_where_what_would_be_chosen_is_at_hand(machine) -> None:
    card = card_with(("file:/", "F16"), ("file:/", "Q6_K"), ("file:/", "Q5_K_M"), ("file:/", "Q4_K_M"))

    assert proposals(decide(context(machine(), [card], [GGUF]), SelectionRequest())) == []


def test_nothing_is_proposed_from_a_low_quantization(machine) -> None:
    card = card_with(("file:/", "Q4_0"))

    assert proposals(decide(context(machine(), [card], [GGUF]), SelectionRequest())) == []


def test_where_nothing_else_fits_the_error_says_what_to_make(machine) -> None:
    card = card_with(("file:/", "F16"))
    with refuses(NothingFits) as caught:
        decide(context(machine(6), [card], [GGUF]), SelectionRequest())
    assert "`edgellm quantize /a/F16.gguf --to " in caught.value.hint

    with refuses(NothingFits) as caught:
        decide(context(machine(1), [card], [GGUF]), SelectionRequest())
    assert "quantize" not in caught.value.hint
