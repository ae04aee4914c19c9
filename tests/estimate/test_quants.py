"""Every quantization name is explained, and its numbers agree with the recipe's."""

from __future__ import annotations

import pytest
from support.refusals import refuses

from edgellm.catalog.lookup import catalog
from edgellm.errors import UsageError
from edgellm.estimate import isa, quality, quants, recipe
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

    assert quants.find("q2_acme").meaning == "..."
    for taken in ("Q4_K_M", "q4_k_m", "Q4_K", "q2_acme"):
        with refuses(ValueError):
            quants.register(quants.Quant(taken, "legacy", 1.0, "Q4_0", "...", "..."))


@pytest.mark.parametrize(
    ("base", "bits", "like", "recipe_name"),
    [
        ("Q2_K", 2.6, ("Q2_K", 1.3), "Q2_K"),  # as Q2_K_S
        ("Q4_K", 4.9, ("Q4_K_M", 1.0), "Q4_K_M"),
        ("F16", 16.0, ("", 1.0), "F16"),
        ("INT8", 9.0, ("Q8_0", 1.0), "Q8_0"),  # has no name whose size is told by a rule: nearest by bits
        ("NVFP4", 4.5, ("IQ4_XS", 1.0), "IQ4_XS"),
    ],
)
def test_one_that_says_nothing_of_its_loss_is_as_the_nearest_of_its_base(
    monkeypatch: pytest.MonkeyPatch, base: str, bits: float, like: tuple[str, float], recipe_name: str
) -> None:
    monkeypatch.setattr(quants, "QUANTS", dict(quants.QUANTS))
    quants.register(quants.Quant("ACME", "legacy", bits, base, "...", "..."))

    assert quants.find("ACME").like == like
    assert quants.find("ACME").recipe == recipe_name
    assert recipe_name in recipe.BASE_TYPE


def test_a_loss_that_is_stated_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quants, "QUANTS", dict(quants.QUANTS))
    quants.register(quants.Quant("ACME", "legacy", 2.6, "Q2_K", "...", "...", ("IQ2_M", 1.1)))

    assert quants.find("ACME").like == ("IQ2_M", 1.1)


def test_a_loss_is_like_that_of_a_row_of_the_table_and_each_row_has_a_recipe() -> None:
    assert set(quality._PPL) == quants.LOSS_ROWS
    assert set(recipe.BASE_TYPE) >= quants.LOSS_ROWS


@pytest.mark.parametrize(
    "wrong",
    [
        {"name": "q x"},
        {"name": ""},
        {"name": 7},
        {"kind": "nokind"},
        {"bits": -1},
        {"bits": 0},
        {"bits": float("nan")},
        {"bits": "2.6"},
        {"base": "NOPE"},
        {"like": ("NOPE", 1.0)},
        {"like": ("Q2_K", -1.0)},
        {"like": "Q2_K"},
        {"meaning": None},
        {"best_for": "two\nlines"},
    ],
    ids=str,
)
def test_one_that_cannot_be_is_refused_when_it_is_registered(
    monkeypatch: pytest.MonkeyPatch, wrong: dict[str, object]
) -> None:
    monkeypatch.setattr(quants, "QUANTS", dict(quants.QUANTS))
    fields = {"name": "ACME", "kind": "legacy", "bits": 2.6, "base": "Q2_K", "meaning": "...", "best_for": "..."}
    with refuses(ValueError):
        quants.register(quants.Quant(**(fields | wrong)))

    assert "ACME" not in quants.QUANTS


def test_what_a_processor_does_is_told_by_its_class() -> None:
    assert "looks every block up" in quants.QUANTS["IQ3_M"].on(isa.AVX512)
    assert "powers of three" in quants.QUANTS["TQ1_0"].on(isa.AVX512)
    assert "repacked" in quants.QUANTS["Q4_K_M"].on(isa.AVX2)
    assert "gain no matrix product" in quants.QUANTS["Q4_K_M"].on(isa.ARM_NEON)
