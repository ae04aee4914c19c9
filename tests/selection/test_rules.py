"""The golden rules one by one: what each drops, what it keeps where nothing else is left, and what it says."""

from __future__ import annotations

from dataclasses import replace

import pytest
from support.refusals import refuses

from edgellm import explain
from edgellm.errors import NothingFits
from edgellm.selection import choices, constraints, rules
from edgellm.selection.option import Option
from edgellm.selection.rule_result import Rule, RuleResult, rejections
from edgellm.selection.speed_worth import speed_worth
from edgellm.types import criterion, refusal
from edgellm.types.model_reason import ChosenQuant
from edgellm.types.refusal import Dominated
from edgellm.units import show_rate


def ids(options: tuple[Option, ...]) -> list[str]:
    return [f"{o.model} {o.quant}" for o in options]


def run(rule: Rule, *options: Option) -> RuleResult:
    result = rule(options, options[0].scenario)
    assert len(result.kept) + len(result.rejected) == len(options)
    assert all(explain.refusal(why) for _, why in result.rejected)
    return result


def test_trained_context_drops_models_that_were_trained_for_less(option) -> None:
    long, short = (option(model, "Q4_K_M", ctx=16384) for model in ("qwen3-0.6b", "smollm2-135m-instruct"))
    result = run(constraints.trained_context, long, short)

    assert result.kept == (long,)
    assert "8,192" in explain.refusal(result.rejected[0][1])


def test_trained_context_says_nothing_where_none_is_asked(option) -> None:
    assert run(constraints.trained_context, option("smollm2-135m-instruct", "Q8_0")).reason is None


def test_more_context_than_any_model_was_trained_for_is_answered_with_the_most_there_is(option) -> None:
    asked = [option(model, "Q4_K_M", ctx=10_000_000) for model in ("qwen3-0.6b", "smollm2-135m-instruct")]
    with refuses(NothingFits):
        run(constraints.trained_context, *asked)
    with refuses(NothingFits):
        run(constraints.trained_context, asked[1])


def test_small_download_keeps_what_is_here_and_what_is_small(option) -> None:
    small, here, large = (
        option(model, "Q4_K_M", max_download_bytes=500_000_000, local=local)
        for model, local in (("qwen3-0.6b", False), ("qwen3-8b", True), ("qwen3-4b", False))
    )
    result = run(constraints.small_download, small, here, large)

    assert result.kept == (small, here)
    assert (small.download_bytes, here.download_bytes) == (small.tensor_bytes, 0)
    assert "500.0 MB are allowed" in explain.refusal(result.rejected[0][1])
    with refuses(NothingFits):
        run(constraints.small_download, large)


def test_small_download_says_nothing_without_a_limit(option) -> None:
    assert run(constraints.small_download, option("qwen3-4b", "Q4_K_M")).reason is None


def test_fits_memory_drops_what_needs_more_and_says_how_much(option, machine) -> None:
    small, big = option("qwen3-4b", "Q4_K_M", machine(8)), option("qwen3-32b", "Q4_K_M", machine(8))
    result = run(constraints.fits_memory, small, big)

    assert result.kept == (small,)
    assert "GiB" in explain.refusal(result.rejected[0][1])
    assert "7.20 GiB may be used" in explain.refusal(result.rejected[0][1])


def test_fits_memory_counts_the_cache_of_the_context_asked_for(option, machine) -> None:
    # Weights of 2.5 GB and a cache of 4.5 GiB at 32k tokens.
    assert run(constraints.fits_memory, option("qwen3-4b", "Q4_K_M", machine(7))).kept
    with refuses(NothingFits):
        run(constraints.fits_memory, option("qwen3-4b", "Q4_K_M", machine(7), ctx=32768))


def test_fits_memory_counts_every_slot(option, machine) -> None:
    assert run(constraints.fits_memory, option("qwen3-4b", "Q4_K_M", machine(8), ctx=8192)).kept
    with refuses(NothingFits):
        run(constraints.fits_memory, option("qwen3-4b", "Q4_K_M", machine(8), ctx=8192, slots=8))


def test_nothing_fits_names_the_closest_and_the_way_out(option, machine) -> None:
    options = [option(m, "Q8_0", machine(16), max_memory_bytes=100 * 2**20) for m in ("qwen3-0.6b", "qwen3-8b")]
    with refuses(NothingFits):
        constraints.fits_memory(options, options[0].scenario)


def test_coherent_bits_prefers_a_smaller_model_at_4_bits_over_a_bigger_one_at_2(option) -> None:
    small, big = option("qwen3-4b", "Q4_K_M"), option("qwen3-8b", "Q2_K")
    result = run(constraints.coherent_bits, small, big)

    assert result.kept == (small,)
    assert "under 4 bits" in explain.refusal(result.rejected[0][1])


@pytest.mark.parametrize("quant", ["Q3_K_S", "Q3_K_M", "Q3_K_L", "IQ3_M", "IQ3_XXS", "Q2_K", "IQ2_M"])
@pytest.mark.parametrize("model", ["qwen3-8b", "qwen3-30b-a3b", "qwen3.6-35b-a3b", "llama-3.3-70b-instruct"])
def test_coherent_bits_knows_2_and_3_bit_files_whatever_the_architecture(option, model: str, quant: str) -> None:
    four, low = option(model, "IQ4_XS"), option(model, quant)

    assert run(constraints.coherent_bits, four, low).kept == (four,)


def test_coherent_bits_goes_by_what_is_stored_not_by_the_name(option) -> None:
    # Rows of 640 and 576 fall back to Q4_0 and more, so "Q2_K" is none.
    named = option("smollm2-135m-instruct", "Q2_K")

    assert named.bits > 4
    assert run(constraints.coherent_bits, named, option("qwen3-4b", "Q4_K_M")).rejected == ()


def test_coherent_bits_takes_low_bits_where_nothing_else_fits_and_says_so(option) -> None:
    low = option("qwen3-8b", "Q2_K")
    result = run(constraints.coherent_bits, low)

    assert result.kept == (low,)
    assert "less coherent" in explain.sentence(result.reason)


def test_coherent_bits_does_not_mean_models_trained_in_few_bits(option) -> None:
    ternary = option("bitnet-b1.58-2b-4t", "TQ2_0")

    assert ternary.is_native
    assert ternary.kept.mid == 1.0
    assert run(constraints.coherent_bits, ternary, option("qwen3-4b", "Q4_K_M")).rejected == ()


def test_usable_context_drops_what_leaves_no_room_for_a_conversation(option, machine) -> None:
    on = machine(3)
    roomy, tight = option("qwen3-0.6b", "Q4_K_M", on), option("qwen3-4b", "Q4_0", machine(3.6))
    result = constraints.usable_context((roomy, option("qwen3-4b", "Q4_0", on)), roomy.scenario)

    assert ids(result.kept) == ["qwen3-0.6b Q4_K_M"]
    assert run(constraints.usable_context, tight).kept == (tight,)


def test_usable_context_drops_models_that_were_trained_for_too_little(option) -> None:
    short, long = option("tinyllama-1.1b-chat", "Q8_0"), option("qwen3-0.6b", "Q8_0")
    result = run(constraints.usable_context, short, long)

    assert result.kept == (long,)
    assert "2,048" in explain.refusal(result.rejected[0][1])


def test_usable_context_plans_a_shorter_one_where_nothing_holds_it_and_says_so(option) -> None:
    short = option("tinyllama-1.1b-chat", "Q8_0")
    result = run(constraints.usable_context, short)

    assert result.kept == (short,)
    assert "shorter context" in explain.sentence(result.reason)


def test_reaches_floor_drops_the_slow_with_the_rate(option, machine) -> None:
    on = machine(gb_s=20.0)
    fast, slow = option("qwen3-0.6b", "Q4_K_M", on), option("qwen3-8b", "Q8_0", on)
    result = run(constraints.reaches_floor, fast, slow)

    assert result.kept == (fast,)
    assert "tok/s, the floor is 5" in explain.refusal(result.rejected[0][1])


def test_reaches_floor_tells_the_rate_that_it_compared_of_a_model_that_thinks(option, machine) -> None:
    answers, thinks = option("qwen3-0.6b", "Q4_K_M"), option("phi-4-mini-reasoning", "Q4_K_M")
    assert thinks.rate.tok_s > 5
    result = run(constraints.reaches_floor, answers, thinks)

    (why,) = (why for _, why in result.rejected)
    assert isinstance(why, refusal.TooSlow)
    assert why.answer_tok_s == thinks.useful_tps < why.floor_tps
    assert f"{show_rate(thinks.useful_tps)} of them" in explain.refusal(why)


def test_reaches_floor_takes_the_fastest_where_nothing_does_and_labels_it(option, machine) -> None:
    on = machine(0.5, cores=1, gb_s=0.4, isa=("neon",), arch="armv7l")
    small, big = option("smollm2-135m-instruct", "Q4_0", on), option("qwen3-0.6b", "Q4_K_M", on)
    result = run(constraints.reaches_floor, small, big)

    assert result.kept == (small,)
    assert explain.sentence(result.reason).startswith("Slow: nothing reaches 5 tok/s")


def test_a_floor_that_was_asked_for_is_kept_or_refused(option) -> None:
    slow = option("qwen3-8b", "Q8_0", min_tps=1000.0)
    with refuses(NothingFits):
        constraints.reaches_floor((slow,), slow.scenario)


@pytest.mark.parametrize(("task", "floor"), [("chat", 5), ("code", 8), ("agent", 15)])
def test_each_task_has_its_own_floor(option, task: str, floor: int) -> None:
    assert option("qwen3-0.6b", "Q4_K_M", task=task).scenario.floor_tps == floor


def test_a_model_that_always_thinks_is_charged_for_it(option) -> None:
    thinks, answers = option("qwen3-4b-thinking-2507", "Q4_K_M"), option("qwen3-4b-instruct-2507", "Q4_K_M")

    assert thinks.decode == answers.decode
    assert thinks.useful_tps < answers.useful_tps / 5


def test_a_model_that_can_think_is_charged_for_it_where_that_is_asked(option) -> None:
    answers, thinks = option("qwen3-4b", "Q4_K_M"), option("qwen3-4b", "Q4_K_M", thinking=True)

    assert thinks.useful_tps == answers.useful_tps / 8
    assert thinks.busy_tps(2, 0) == pytest.approx(answers.busy_tps(2, 0) / 8)


def test_a_model_that_cannot_think_is_not_charged_for_it(option) -> None:
    answers, asked = option("llama-3.2-3b-instruct", "Q4_K_M"), option("llama-3.2-3b-instruct", "Q4_K_M", thinking=True)

    assert asked.useful_tps == answers.useful_tps


def test_worth_its_bytes_drops_what_another_beats_in_everything(option) -> None:
    better, beaten = option("qwen3-8b", "IQ4_XS"), option("qwen3-8b", "Q4_0")
    result = run(constraints.worth_its_bytes, better, beaten)

    assert result.kept == (better,)
    assert result.rejected == ((beaten, Dominated("IQ4_XS")),)


def test_worth_its_bytes_keeps_trade_offs_and_equals(option) -> None:
    q4, q5, again = (option("qwen3-8b", quant) for quant in ("Q4_K_M", "Q5_K_M", "Q4_K_M"))

    assert run(constraints.worth_its_bytes, q4, q5, again).rejected == ()


def test_worth_its_bytes_compares_within_a_model_only(option) -> None:
    assert run(constraints.worth_its_bytes, option("qwen3-4b", "Q4_0"), option("qwen3.5-4b", "IQ4_XS")).rejected == ()


def test_best_model_goes_by_what_is_left_after_compression(option) -> None:
    good, worse = option("qwen3.5-4b", "Q4_K_M"), option("llama-3.2-3b-instruct", "Q8_0")
    result = run(choices.best_model, worse, good)

    assert result.kept == (good,)
    assert "scores" in explain.refusal(result.rejected[0][1])
    assert "qwen3.5-4b" in explain.sentence(result.reason)


def test_best_model_prefers_what_is_here_already_among_equals(option) -> None:
    fetched, here = option("qwen3-4b", "Q4_K_M"), option("qwen3-4b", "Q4_K_M", local=True)

    assert choices.rank_models([fetched, here])[0] is here


@pytest.mark.parametrize("model", ["qwen3-0.6b", "qwen3-4b", "qwen3-8b"])
def test_a_small_model_takes_q5_k_m_or_higher_where_it_can(option, model: str, machine) -> None:
    on = machine(gb_s=80.0)
    options = [option(model, quant, on) for quant in ("Q4_K_M", "Q5_K_M", "Q6_K", "Q8_0")]
    result = run(choices.quant_for_size, *options)

    assert result.kept[0].quant in ("Q5_K_M", "Q6_K", "Q8_0")
    assert result.kept[0].decode.tok_s >= 5


def test_an_upgrade_beyond_q5_k_m_must_be_safe(option, machine) -> None:
    # Q8_0 is predicted at 5 to 6 tok/s here, but its low end is under the floor.
    on = machine(gb_s=76.0)
    options = [option("qwen3-8b", quant, on) for quant in ("Q5_K_M", "Q6_K", "Q8_0")]
    q8 = options[2]
    chosen = run(choices.quant_for_size, *options).kept[0]

    assert q8.decode.tok_s >= 5 > q8.decode.low
    assert chosen.quant == "Q5_K_M"


def test_a_small_model_takes_4_bits_where_no_more_is_left(option) -> None:
    assert (
        run(choices.quant_for_size, option("qwen3-4b", "Q4_K_M"), option("qwen3-4b", "IQ4_XS")).kept[0].quant
        == "Q4_K_M"
    )


def test_of_one_file_that_is_left_it_is_not_said_that_it_is_the_highest(option) -> None:
    result = run(choices.quant_for_size, option("qwen3-4b", "Q4_K_M"))
    assert isinstance(result.reason, ChosenQuant)
    assert result.reason.why == criterion.OnlyQuantLeft()
    assert "the only file of this model that is left" in explain.sentence(result.reason)


def test_the_file_that_a_model_is_scored_by_need_not_be_the_one_that_runs(option) -> None:
    told = explain.sentence(run(choices.best_model, option("qwen3-4b", "Q4_K_M")).reason)
    assert "its best-scoring file, Q4_K_M, keeps" in told


def test_a_large_model_is_content_with_4_bits_on_a_slow_machine_and_takes_more_on_a_fast_one(option, machine) -> None:
    quants = ("IQ4_XS", "Q4_K_M", "Q5_K_M", "Q6_K", "Q8_0")
    slow = [option("qwen3-14b", quant, machine(64, gb_s=120.0)) for quant in quants]
    fast = [option("qwen3-14b", quant, machine(64, cores=32, gb_s=600.0)) for quant in quants]

    assert run(choices.quant_for_size, *slow).kept[0].quant == "Q4_K_M"
    assert run(choices.quant_for_size, *fast).kept[0].quant == "Q8_0"


def test_a_file_on_this_disk_that_is_as_good_is_not_replaced_by_a_download(option, machine) -> None:
    """More free memory than at the last start would allow Q4_K_M."""
    on = machine(64, gb_s=120.0)
    fetched, here = option("qwen3-14b", "Q4_K_M", on), option("qwen3-14b", "IQ4_NL", on, local=True)
    result = run(choices.quant_for_size, fetched, here)

    assert result.kept == (here,)
    assert isinstance(result.reason, ChosenQuant)
    assert result.reason.why == criterion.OnThisDisk("Q4_K_M", fetched.kept.mid, here.kept.mid)
    assert "Q4_K_M" in explain.sentence(result.reason)
    dominating = replace(here, is_local=False, file=replace(here.file, quant="Q4_K_S"), ability=fetched.ability)
    assert here in run(constraints.worth_its_bytes, dominating, here).kept


@pytest.mark.parametrize(("model", "worse"), [("qwen3-4b", "Q4_K_M"), ("qwen3-14b", "Q3_K_M"), ("qwen3-14b", "Q8_0")])
def test_a_file_on_this_disk_that_is_worse_or_slower_is(option, machine, model: str, worse: str) -> None:
    on = machine(64, gb_s=80.0)
    best = option(model, "Q5_K_M" if model == "qwen3-4b" else "Q4_K_M", on)
    result = run(choices.quant_for_size, option(model, worse, on, local=True), best)

    assert result.kept == (best,)


def test_a_model_trained_in_a_type_is_run_in_it(option) -> None:
    native, other, smaller = (option("gpt-oss-20b", quant) for quant in ("MXFP4", "Q8_0", "Q4_K_M"))

    assert run(choices.quant_for_size, smaller, other, native).kept == (native,)


def test_unquantized_files_are_the_last_resort(option) -> None:
    full, packed = option("qwen3-0.6b", "F16"), option("qwen3-0.6b", "Q8_0")

    assert run(choices.quant_for_size, full, packed).kept == (packed,)
    assert run(choices.quant_for_size, full).kept == (full,)


def test_speed_is_worth_most_at_the_floor_and_saturates(option) -> None:
    given = option("qwen3-0.6b", "Q4_K_M").scenario

    assert speed_worth(5, given) == pytest.approx(0.8 / 1.125)
    assert speed_worth(15, given) == pytest.approx(1 / 1.125)
    assert speed_worth(100, given) == speed_worth(1000, given) == 1.0
    assert speed_worth(2.5, given) == pytest.approx(0.4 / 1.125)
    assert speed_worth(10, given) == pytest.approx(0.9 / 1.125)
    doubled = [speed_worth(tps, given) for tps in (20, 40, 80)]
    assert doubled[1] - doubled[0] == pytest.approx(doubled[2] - doubled[1])


def test_rejections_are_told_once_per_model_where_the_rule_dropped_all_of_it(option, machine) -> None:
    on = machine(8)
    options = [option("qwen3-32b", q, on) for q in ("Q8_0", "Q4_K_M")] + [option("qwen3-4b", "Q4_K_M", on)]
    rows = rejections(constraints.fits_memory(options, options[0].scenario), "fits_memory")

    assert [(r.model, r.quant) for r in rows] == [("qwen3-32b", "")]
    assert explain.refusal(rows[0].reason).startswith("even Q4_K_M: needs")


def test_the_order_of_the_rules_is_the_documented_one() -> None:
    names = [rule.__name__ for rule in (*rules.CONSTRAINTS, *rules.CHOICES)]
    assert rules.__doc__ is not None
    documented = [line.split()[0] for line in rules.__doc__.splitlines() if line.startswith("    ")]

    assert documented == names
