"""Every quantization name is explained, and its numbers agree with the recipe's."""

from __future__ import annotations

import pytest
from support.refusals import refuses

from edgellm.catalog.lookup import catalog
from edgellm.errors import UsageError
from edgellm.estimate import isa, quants, recipe
from edgellm.estimate.tensor_types import TYPES
from edgellm.estimate.weights import weights


def test_every_name_that_a_recipe_knows_is_explained() -> None:
    assert set(recipe.BASE_TYPE) <= set(quants.QUANTS)
    for quant in quants.QUANTS.values():
        assert quant.meaning, quant.name
        assert quant.best_for, quant.name
        assert quant.base in TYPES, quant.name


@pytest.mark.parametrize(
    "name", [q.name for q in quants.QUANTS.values() if q.kind in ("k-quant", "codebook", "legacy")]
)
def test_nominal_bits_are_those_of_an_8b_llama(name: str) -> None:
    card = catalog()["llama-3.1-8b-instruct"]
    assert card.shape is not None
    found = weights(card.shape, card.params, card.params_active, name, imatrix=name.startswith("IQ"))

    assert found.total_bytes * 8 / card.params == pytest.approx(quants.QUANTS[name].bits, rel=0.03)


def test_a_name_is_found_in_any_case() -> None:
    assert quants.find("q5_k_m").name == "Q5_K_M"
    assert quants.find("q5_k").name == "Q5_K_M", "as llama.cpp's tools understand it"


def test_an_unknown_name_offers_close_ones() -> None:
    with refuses(UsageError):
        quants.find("Q5_K_X")


def test_a_plugin_may_add_a_name_but_not_change_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quants, "QUANTS", dict(quants.QUANTS))
    mine = quants.Quant("Q2_ACME", "legacy", 2.6, "Q2_K", "...", "...")
    quants.register(mine)
    quants.register(mine)

    assert quants.find("q2_acme") is mine
    with refuses(ValueError):
        quants.register(quants.Quant("Q4_K_M", "legacy", 1.0, "Q4_0", "...", "..."))


def test_what_a_processor_does_is_told_by_its_class() -> None:
    assert "looks every block up" in quants.QUANTS["IQ3_M"].on(isa.AVX512)
    assert "powers of three" in quants.QUANTS["TQ1_0"].on(isa.AVX512)
    assert "repacked" in quants.QUANTS["Q4_K_M"].on(isa.AVX2)
    assert "gain no matrix product" in quants.QUANTS["Q4_K_M"].on(isa.ARM_NEON)
