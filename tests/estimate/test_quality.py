"""Quality: what is published is taken, what is imputed says so and is wide enough, compression never helps."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgellm import explain
from edgellm.catalog.lookup import catalog
from edgellm.errors import UsageError
from edgellm.estimate import quality, quants, small_row_mix
from edgellm.types.basis import Losses, PublishedScore

SCORED = {card.id: card for card in catalog().values() if card.scores}
LADDER = ("Q8_0", "Q6_K", "Q5_K_M", "Q4_K_M", "Q4_0", "Q2_K", "IQ2_XXS")


def test_imputed_scores_are_near_the_published_ones_left_out() -> None:
    """Leave one out: mean error 4.5 points over 27 models, all within the stated interval."""
    errors, covered = [], 0
    for name, card in SCORED.items():
        published = quality.ability(card)
        rest = {other: row for other, row in SCORED.items() if other != name}
        imputed = quality.ability(replace(card, scores={}), rest)
        errors.append(abs(imputed.mid - published.mid))
        covered += imputed.low <= published.mid <= imputed.high

    assert sum(errors) / len(errors) < 6
    assert covered >= 0.9 * len(errors)


def test_a_score_that_was_not_published_says_so() -> None:
    imputed = quality.ability(catalog()["qwen3-4b"], SCORED)
    alone = quality.ability(catalog()["mistral-7b-instruct-v0.3"], SCORED)

    assert "no published score" in explain.basis(imputed.basis)
    assert imputed.high - imputed.low >= 20
    assert alone.high - alone.low > imputed.high - imputed.low


def test_a_thinking_score_is_discounted_for_answers_without_thinking() -> None:
    found = quality.ability(catalog()["qwen3.5-4b"])

    assert found.mid == pytest.approx(79.1 * 0.85)
    assert "with thinking" in explain.basis(found.basis)


def test_a_thinking_score_counts_as_it_is_for_answers_that_think() -> None:
    ability = quality.ability(catalog()["qwen3.5-4b"], thinks=True)

    assert ability.mid == 79.1
    assert isinstance(ability.basis, PublishedScore)
    assert ability.basis.conversion == "none"


def test_models_trained_for_code_count_more_for_code_and_less_for_chat() -> None:
    coder, plain = catalog()["qwen2.5-coder-7b-instruct"], catalog()["qwen2.5-7b-instruct"]

    assert quality.ability(coder, SCORED, "code").mid > quality.ability(plain, SCORED, "code").mid
    assert quality.ability(coder, SCORED, "chat").mid < quality.ability(plain, SCORED, "chat").mid


@settings(deadline=None)
@given(st.integers(10**8, 10**11))
def test_fewer_bits_never_keep_more(params: int) -> None:
    kept = [quality.retention(quant, params).mid for quant in LADDER]

    assert kept == sorted(kept, reverse=True)


@settings(deadline=None)
@given(st.sampled_from(sorted(quants.QUANTS)), st.integers(10**8, 10**11))
def test_the_interval_holds_the_middle(quant: str, params: int) -> None:
    found = quality.retention(quant, params)

    assert 0 < found.low <= found.mid <= found.high <= 1


def test_size_dictates_the_impact() -> None:
    """Golden rule 1; by Qwen2's table int4 keeps 86-90 % (0.5B), 93-96 (1.5B), 96 (7B), 99-100 (72B)."""
    kept = {size: quality.retention("Q4_0", int(size * 1e9)).mid for size in (0.5, 1.5, 7, 72)}

    assert 0.86 <= kept[0.5] <= 0.90
    assert 0.92 <= kept[1.5] <= 0.96
    assert 0.94 <= kept[7] <= 0.97
    assert kept[72] >= 0.985


def test_eight_bits_of_8b_follow_the_measured_mmlu() -> None:
    """Llama-3-8B: Q4_K_M 99.1, Q3_K_M 96.5, IQ2_XXS 66.7 % of MMLU; other families lose more."""
    for quant, measured in (("Q8_0", 1.0), ("Q4_K_M", 0.991), ("Q3_K_M", 0.965)):
        found = quality.retention(quant, 8 * 10**9)
        assert found.mid <= measured + 0.001
        assert found.high >= measured - 0.015


def test_a_native_type_loses_nothing_and_the_same_type_ruins_another_model() -> None:
    assert quality.retention("TQ2_0", 2 * 10**9, native=True).mid == 1.0
    assert quality.retention("TQ2_0", 2 * 10**9).mid < 0.3
    assert quality.retention("BF16", 2 * 10**9).mid == 1.0


def test_an_unknown_quantization_is_refused() -> None:
    with pytest.raises(UsageError):
        quality.retention("Q9_Z", 10**9)


def test_a_family_that_was_measured_has_its_own_middle_within_the_interval_of_all() -> None:
    """Mistral loses 0.65 and Llama 3 1.3 times what the table says; the ends stay."""
    mistral, plain, llama = (quality.retention("Q4_K_M", 7 * 10**9, family=f) for f in ("mistral", "?", "llama3"))

    assert mistral.mid > plain.mid > llama.mid
    assert (mistral.low, mistral.high) == (plain.low, plain.high) == (llama.low, llama.high)
    assert "mistral losing x0.65" in explain.basis(mistral.basis)
    assert "losing" not in explain.basis(plain.basis)


def short(name: str, quant: str) -> quality.Estimate:
    card = catalog()[name]
    assert card.shape is not None
    return quality.retention(quant, card.params, short=small_row_mix.stored(card.shape, quant))


# Perplexity increases in percent: Qwen2.5-0.5B-Instruct as published (quality.json), SmolLM2-135M and Gemma 3 270M as
# KL measured here on weights between levels (docs/benchmarks/log/regret.md).
SHORT = {
    "qwen2.5-0.5b-instruct": {
        "Q5_K_M": 1.96, "Q4_K_M": 1.72, "Q4_K_S": 2.42, "IQ4_XS": 4.59, "Q3_K_M": 4.4, "Q4_0": 12.6, "Q2_K": 16.5,
    },
    "smollm2-135m-instruct": {
        "Q5_K_M": 3.6, "Q5_1": 4.7, "Q5_0": 8.0, "Q4_K_M": 5.4, "Q4_K_S": 11.6, "IQ4_NL": 17.4, "Q3_K_L": 12.4,
        "Q3_K_M": 17.1, "Q4_0": 35.3, "Q2_K": 56.4,
    },
    "gemma-3-270m-it": {
        "Q5_K_M": 5.7, "Q5_0": 7.3, "Q4_K_M": 8.5, "IQ4_NL": 20.7, "Q3_K_M": 23.8, "Q4_0": 41.6,
    },
}  # fmt: skip


@pytest.mark.parametrize(("name", "quant"), [(name, quant) for name, rows in SHORT.items() for quant in rows])
def test_short_rows_are_judged_by_what_they_are_stored_in(name: str, quant: str) -> None:
    found = short(name, quant)
    told = re.search(r"about \+([\d.]+)% perplexity", explain.basis(found.basis))

    assert told is not None
    assert 1 / 1.65 < float(told[1]) / SHORT[name][quant] < 1.65
    assert "by the types that its rows allow" in explain.basis(found.basis)


def test_of_short_rows_a_fifth_in_three_bits_is_worse_than_all_in_four() -> None:
    """SmolLM2's "Q2_K" is Q4_0 with ffn_down in Q3_K."""
    assert short("smollm2-135m-instruct", "Q2_K").mid < short("smollm2-135m-instruct", "Q4_0").mid


def test_losses_of_weights_and_cache_add_up() -> None:
    size = 135 * 10**6
    a, b = quality.checked_loss(0.035), quality.checked_loss(0.051)

    assert quality.kept(size, a, b).mid == pytest.approx(quality.kept(size, quality.checked_loss(0.086)).mid)
    assert quality.kept(size, a, quality.cache_loss("f16", size)) == quality.kept(size, a)


def test_long_rows_are_judged_by_name() -> None:
    card = catalog()["qwen3-8b"]
    assert card.shape is not None

    assert small_row_mix.stored(card.shape, "Q4_K_M") is None
    assert short("qwen3-8b", "Q4_K_M") == quality.retention("Q4_K_M", card.params)


def test_what_a_smaller_cache_costs() -> None:
    """q8_0 nearly nothing; q4_0 1 % at 8B and a disaster at worst for small models, Qwen3 of 0.6B (perplexity x3.5)."""
    assert quality.cache_retention("f16", 10**9) == quality.Estimate(1.0, 1.0, 1.0, Losses(()))
    assert quality.cache_retention("q8_0", 8 * 10**9).mid > 0.999
    assert 0.985 < quality.cache_retention("q4_0", 8 * 10**9).mid < quality.cache_retention("q8_0", 8 * 10**9).mid
    assert quality.cache_retention("q4_0", 600 * 10**6).low < 0.1
    assert quality.cache_retention("q4_0", 600 * 10**6, "qwen3").mid < 0.1
    assert quality.cache_retention("q8_0", 600 * 10**6, "qwen3").mid > 0.99
