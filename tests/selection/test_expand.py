"""Files become options whatever their quantization is."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest
from support.contexts import context

from edgellm.catalog.lookup import catalog
from edgellm.estimate import quants
from edgellm.selection.backend_facts import BackendFacts
from edgellm.selection.decide import decide
from edgellm.types.model import ModelFile
from edgellm.types.request import SelectionRequest


@pytest.fixture(autouse=True)
def registered_for_this_test_only() -> Iterator[None]:
    yield
    quants.QUANTS.pop("ACME", None)


@pytest.mark.parametrize(("kind", "base"), [("legacy", "Q2_K"), ("float", "F16"), ("dynamic", "NVFP4")])
def test_a_quantization_of_a_plugin_needs_a_base_and_no_more(machine, kind: str, base: str) -> None:
    quants.register(quants.Quant("ACME", kind, 2.6, base, "...", "..."))
    file = ModelFile("file:/a/acme.bin", "ACME", "acme", tensor_bytes=400_000_000)
    card = replace(catalog()["llama-3.2-1b-instruct"], files=(file,))
    decision = decide(context(machine(), [card], [BackendFacts("acme", frozenset({"acme"}))]), SelectionRequest())

    assert decision.choice is not None
    assert (decision.choice.quant, decision.choice.tensor_bytes) == ("ACME", 400_000_000)


@pytest.mark.parametrize(("of_format", "opens"), [("acme", True), ("gguf", False), ("safetensors", False)])
def test_types_of_stock_llama_cpp_are_asked_of_its_formats_only(of_format: str, opens: bool) -> None:
    quants.register(quants.Quant("ACME", "legacy", 2.6, "Q2_K", "...", "...", mainline=False))
    facts = BackendFacts("acme", frozenset({"acme", "gguf", "safetensors"}))
    refused = facts.refuses(ModelFile("file:/a/acme.bin", "ACME", of_format), "llama")

    assert (refused is None) == opens
