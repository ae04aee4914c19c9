"""Only models that can answer with an adapter are chosen, and each other one has its reason."""

from __future__ import annotations

from dataclasses import replace

import pytest
from support.contexts import context
from support.refusals import refuses

from edgellm.catalog.lookup import catalog
from edgellm.errors import NothingFits
from edgellm.hardware import profiles
from edgellm.selection.adapter_fit import RULE, misfit
from edgellm.selection.backend_facts import BackendFacts
from edgellm.selection.decide import decide
from edgellm.types.adapter import AdapterNeed
from edgellm.types.refusal import AdapterMisfit
from edgellm.types.request import SelectionRequest

GGUF = BackendFacts("gguf", frozenset({"gguf"}))
SMALL = catalog()["smollm2-135m-instruct"]
Q4 = next(file for file in SMALL.files if file.quant == "Q4_1")
OF_SMALL = AdapterNeed("mail", (), "llama", 30, (("attn_q", 576, 576), ("ffn_up", 576, 1536)))


@pytest.mark.parametrize(
    ("need", "what"),
    [
        (OF_SMALL, None),
        (AdapterNeed("mail", (("else", "Q4_1", "0" * 64), (SMALL.id, "Q4_1", Q4.sha256 or ""))), None),
        (AdapterNeed("mail", ((SMALL.id, "Q8_0", "0" * 64),)), "file"),
        (AdapterNeed("mail", (), "qwen3", 28), "architecture"),
        (AdapterNeed("mail", (), "llama", 31), "matrix"),
        (AdapterNeed("mail", (), "llama", 30, (("attn_q", 576, 640),)), "matrix"),
        (AdapterNeed("mail", (), "llama", 30, (("attn_unheard_of", 1, 1),)), None),
    ],
)
def test_what_does_not_fit(need: AdapterNeed, what: str | None) -> None:
    why = misfit(need, SMALL, Q4, SMALL.shape)

    assert (why and why.what) == what
    assert misfit(need, SMALL, replace(Q4, format="onnx"), SMALL.shape).what == "format"


def test_the_choice_is_among_those_that_fit() -> None:
    here = context(profiles.load("raspberry-pi-5-8gb"), [SMALL, catalog()["qwen3-0.6b"]], [GGUF])

    assert decide(here, SelectionRequest()).choice.model == "qwen3-0.6b"
    decision = decide(here, SelectionRequest(adapters=(OF_SMALL,), adapter_bytes=2**20))
    assert decision.choice.model == SMALL.id
    reasons = [row.reason for row in decision.rejected if row.rule == RULE]
    assert AdapterMisfit("mail", "architecture", "qwen3", "llama") in reasons
    with refuses(NothingFits):
        decide(here, SelectionRequest(adapters=(AdapterNeed("mail", (), "gemma3", 18),)))
