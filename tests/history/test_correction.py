"""What is made of earlier runs: enough after one, more after many, and never nonsense."""

from __future__ import annotations

import random

import pytest

from edgellm import explain
from edgellm.history.corrections import LARGEST, NONE, SMALLEST, Ratio, corrections, family
from edgellm.types.basis import OwnRuns, SameFamily


def ran(model: str = "m", quant: str = "Q4_K_M", backend: str = "gguf", **ratios: float | None) -> Ratio:
    return Ratio(backend, model, quant, **ratios)


RUNS = {"Q4_K_M": 0.5, "Q5_K_M": 0.5, "Q8_0": 1.0}


def test_nothing_is_known_without_runs() -> None:
    assert corrections([]).of("gguf", "m", "Q4_K_M") is NONE


def test_one_run_takes_most_of_the_error_away() -> None:
    correction = corrections([ran(decode=0.5, prefill=2.0, resident=1.2)]).of("gguf", "m", "Q4_K_M")
    # One run over one and a fifth, and 1 above it: what it ran itself is not above it too.
    assert correction.decode == pytest.approx(0.5 ** (1 / 1.2), rel=1e-3)
    assert 1.7 < correction.prefill < 2.0
    assert 1.1 < correction.resident < 1.2
    assert explain.basis(correction.basis) == "corrected by 1 run of m Q4_K_M here"


def test_more_runs_are_believed_more() -> None:
    factors = [corrections([ran(decode=0.5)] * n).of("gguf", "m", "Q4_K_M").decode for n in (1, 2, 4, 16)]
    assert factors == sorted(factors, reverse=True)
    assert factors[-1] == pytest.approx(0.5, abs=0.01)


def test_one_run_beside_a_busy_program_moves_little() -> None:
    quiet = [ran(decode=0.95)] * 4
    correction = corrections([*quiet, ran(decode=0.3)]).of("gguf", "m", "Q4_K_M")
    assert correction.decode == pytest.approx(0.95, abs=0.02)


def test_runs_beside_other_programs_are_no_basis() -> None:
    """They have no rates (`run_log.ratio`), so that a prediction stays as wide as it was."""
    busy = [ran(resident=1.3)] * 3
    alone, beside_others = (
        corrections([*busy, *rest]).of("gguf", "m", "Q4_K_M") for rest in ([], [ran("n", decode=0.5)])
    )
    assert (alone.decode, alone.basis, alone.within) == (1.0, None, None)
    assert alone.resident > 1.2
    assert (beside_others.basis, beside_others.within) == (SameFamily("k", "gguf", 1), None)
    assert beside_others.decode < 1
    assert corrections([*busy, ran(decode=0.5)]).of("gguf", "m", "Q4_K_M").basis == OwnRuns(1, "m", "Q4_K_M", "f16")
    followed = corrections([*busy, ran("n", decode=0.5)]).of("gguf", "m", "Q4_K_M", "q8_0")
    assert (followed.basis, followed.within) == (SameFamily("k", "gguf", 1), None)
    assert corrections(busy).of("gguf", "new", "Q4_K_M") is NONE


def test_recent_runs_count_more() -> None:
    """A machine that got slower: the middle of all is still the old speed, the weighted one is not."""
    correction = corrections([*[ran(decode=1.0)] * 13, *[ran(decode=0.6)] * 10]).of("gguf", "m", "Q4_K_M")
    assert correction.decode == pytest.approx(0.6, abs=0.03)


def test_what_never_ran_follows_its_family_then_its_backend() -> None:
    learned = corrections(
        [ran(quant="Q4_K_M", decode=0.5), ran(quant="Q5_K_M", decode=0.5), ran(quant="Q8_0", decode=1.0)]
    )
    own, alike, other = (learned.of("gguf", "other", quant).decode for quant in ("Q4_K_M", "Q6_K", "IQ2_XS"))
    assert learned.of("gguf", "m", "Q4_K_M").decode < own == alike < other < 1
    assert explain.basis(learned.of("gguf", "other", "Q6_K").basis) == (
        "corrected by runs of 2 others of the k types on gguf here; never run itself"
    )
    assert (
        explain.basis(learned.of("gguf", "other", "IQ2_XS").basis)
        == "corrected by runs of 3 others on gguf here; never run itself"
    )
    assert learned.of("bitnet", "m", "Q4_K_M") is NONE


def test_a_quantization_that_never_ran_follows_its_model_before_its_family() -> None:
    """What a model's shape costs is alike in all its types: it told more than the types where it was measured."""
    learned = corrections([ran("m", "Q4_K_M", decode=0.5), ran("m", "Q8_0", decode=0.5), ran("n", "IQ2_S", decode=1.2)])
    correction = learned.of("gguf", "m", "IQ2_XS")
    assert 0.5 < correction.decode < 0.7
    assert explain.basis(correction.basis) == "corrected by runs of m in 2 others here; never run itself"
    assert correction.resident == 1.0
    assert learned.of("gguf", "new", "IQ2_XS").decode > correction.decode


def test_a_model_that_ran_often_does_not_outvote_the_others() -> None:
    often = [ran("often", "Q8_0", decode=0.5)] * 50
    few = [ran("a", "Q8_0", decode=1.0), ran("b", "Q8_0", decode=1.0)]
    assert corrections([*often, *few]).of("gguf", "new", "Q8_0").decode == 1.0


def test_memory_is_corrected_for_what_itself_ran_only() -> None:
    learned = corrections([ran(decode=0.9, resident=1.3)])
    assert learned.of("gguf", "m", "Q4_K_M").resident > 1.2
    assert learned.of("gguf", "much-larger", "Q4_K_M").resident == 1.0


def test_another_type_of_cache_follows_the_file_until_it_ran_itself() -> None:
    """An f16 run says what the weights cost; what a q8_0 cache costs, only a run with one."""
    first = corrections([ran(decode=0.8, resident=1.1)])
    both = corrections([ran(decode=0.8, resident=1.1), ran(decode=0.7, kv_type="q8_0")])
    followed, own = first.of("gguf", "m", "Q4_K_M", "q8_0"), both.of("gguf", "m", "Q4_K_M", "q8_0")

    assert followed.decode == first.of("gguf", "m", "Q4_K_M").decode
    assert followed.resident == own.resident == first.of("gguf", "m", "Q4_K_M").resident
    assert own.decode < 0.74
    # What ran with f16 is hardly moved by the other.
    assert both.of("gguf", "m", "Q4_K_M").decode == pytest.approx(followed.decode, rel=0.06)
    assert explain.basis(followed.basis) == "corrected by runs of m Q4_K_M with a cache of f16 here"


def test_a_number_that_was_not_measured_comes_from_the_level_above() -> None:
    correction = corrections([ran("a", decode=0.5, prefill=0.5), ran("b", decode=0.5)]).of("gguf", "b", "Q4_K_M")
    assert correction.prefill == corrections([ran("a", prefill=0.5)]).of("gguf", "b", "Q4_K_M").prefill < 1


@pytest.mark.parametrize(("ratio", "limit"), [(1e-6, SMALLEST), (1e6, LARGEST)])
def test_nonsense_is_bounded(ratio: float, limit: float) -> None:
    correction = corrections([ran(decode=ratio, resident=ratio)] * 20).of("gguf", "m", "Q4_K_M")
    assert (correction.decode, correction.resident) == (limit, limit)


def test_learning_lowers_the_error_where_runs_repeat_within_a_twentieth() -> None:
    """Predictions off by a fifth, runs by a twentieth: the second prediction of nearly every row is better."""
    draw = random.Random(4)
    before, after = [], []
    for n in range(200):
        true = draw.lognormvariate(0, 0.2)
        first, second = (true * draw.lognormvariate(0, 0.05) for _ in range(2))
        learned = corrections([ran(f"m{n}", decode=first)]).of("gguf", f"m{n}", "Q4_K_M").decode
        before.append(abs(second - 1))
        after.append(abs(second / learned - 1))
    assert sorted(after)[100] < sorted(before)[100] / 2


FAMILIES = {
    "k": ("Q4_K_M", "UD-Q4_K_XL", "IQ4_XS", "Q6_K"),
    "codebook": ("IQ1_S", "IQ2_XXS", "IQ3_M"),
    "plain": ("Q4_0", "IQ4_NL", "MXFP4", "Q8_0"),
    "ternary": ("TQ1_0", "I2_S"),
    "float": ("F16", "BF16"),
}


@pytest.mark.parametrize("name", FAMILIES)
def test_families(name: str) -> None:
    assert {family(quant) for quant in FAMILIES[name]} == {name}
