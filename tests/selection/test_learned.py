"""What was measured here is part of the decision: rates, earlier runs, quality checks."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from support.contexts import context
from support.words import said

from edgellm import explain
from edgellm.catalog.lookup import catalog
from edgellm.contract.manager import plugins
from edgellm.estimate import quality
from edgellm.history.corrections import NONE, OTHER_CACHE, REPEATS, Correction, Corrections, Ratio, corrections
from edgellm.selection.backend_facts import BackendFacts, assumed_facts
from edgellm.selection.choices import better_backend, rank_models
from edgellm.selection.corrected import corrected, with_resident
from edgellm.selection.decide import decide
from edgellm.selection.decision_json import to_dict
from edgellm.types.backend_reason import RatesSetAside
from edgellm.types.basis import Measured, OwnRuns
from edgellm.types.calibration import Calibration, Occasion
from edgellm.types.criterion import Stated
from edgellm.types.plan import Decision
from edgellm.types.refusal import OtherBackendPreferred
from edgellm.types.request import KV_TYPES, SelectionRequest

QUANTS = ("Q8_0", "Q5_K_M", "Q4_K_M")
GGUF = BackendFacts("gguf", frozenset({"gguf"}))
RUNS = OwnRuns(3, "qwen3-4b", "Q4_K_M", "f16")


@pytest.fixture
def card():
    found = catalog()["qwen3-4b"]
    return replace(found, files=tuple(file for file in found.files if file.quant in QUANTS))


def test_a_correction_scales_rates_and_memory_and_says_so(card, machine) -> None:
    rows = {("gguf", "qwen3-4b", quant, "f16"): Correction(0.5, 2.0, 1.1, RUNS) for quant in QUANTS}
    plain = decide(context(machine(), [card], [GGUF]), SelectionRequest(ctx=4096))
    learned = decide(context(machine(), [card], [GGUF], corrections=Corrections(rows)), SelectionRequest(ctx=4096))
    same = next(o for o in (learned.choice, *learned.runners_up) if o is not None)
    assert plain.choice is not None

    assert explain.basis(same.decode.basis).startswith("corrected: x0.5, by 3 runs")
    assert "predicted:" in explain.basis(same.decode.basis)
    assert any(f"x1.1, {explain.basis(RUNS)}" in reason for reason in said(learned) if reason.startswith("Memory"))
    assert learned.inputs["corrected"] == 3
    one = next(o for o in (plain.choice,) if o.quant == same.quant) if plain.choice.quant == same.quant else None
    if one is not None:
        assert same.decode.tok_s == pytest.approx(one.decode.tok_s / 2, rel=0.01)
        assert same.footprint.resident_bytes == pytest.approx(one.footprint.resident_bytes * 1.1, rel=0.001)


def test_a_correction_of_one_changes_nothing(option) -> None:
    o = option("qwen3-4b", "Q4_K_M")

    assert corrected(o.decode, 1.0, NONE) is o.decode
    assert with_resident(o.footprint_at(512), 1.0) is o.footprint_at(512)


def test_what_ran_here_itself_is_known_as_well_as_runs_repeat(card, machine) -> None:
    """So an upgrade beyond Q5_K_M needs no such distance from the floor."""
    on = machine(gb_s=60.0)
    floor = 0.95 * next(
        o.decode.tok_s for o in (decide(context(on, [card], [GGUF]), SelectionRequest()).choice,) if o is not None
    )
    own = Correction(1.0, 1.0, 1.0, "corrected by 1 run here", REPEATS)
    ran = Corrections({("gguf", "qwen3-4b", "Q8_0", "f16"): own})
    asked = SelectionRequest(min_tps=floor * (1 - REPEATS))
    before = decide(context(on, [card], [GGUF]), asked).choice
    after = decide(context(on, [card], [GGUF], corrections=ran), asked).choice
    assert before is not None
    assert after is not None

    assert (before.quant, after.quant) == ("Q5_K_M", "Q8_0")
    assert after.decode.low == pytest.approx(after.decode.tok_s * (1 - REPEATS), rel=0.01)


def test_a_smaller_cache_has_the_correction_of_its_own_runs_else_of_the_file_with_others(option) -> None:
    facts = replace(GGUF, kv_types=frozenset(KV_TYPES))
    o = option("qwen3-4b", "Q4_K_M", facts=facts)
    ran = [Ratio("gguf", "qwen3-4b", "Q4_K_M", decode=0.8), Ratio("gguf", "qwen3-4b", "Q4_K_M", 0.5, kv_type="q4_0")]
    known = replace(o, learned=corrections(ran))
    q8_0, q4_0 = known.lower, known.lower and known.lower.lower
    assert q8_0 is not None
    assert q4_0 is not None

    assert (q8_0.kv_type, q4_0.kv_type) == ("q8_0", "q4_0")
    assert q4_0.correction.decode < q8_0.correction.decode < known.correction.decode < 1
    assert (known.correction.within, q8_0.correction.within, q4_0.correction.within) == (REPEATS, OTHER_CACHE, REPEATS)
    assert "with a cache of f16 and q4_0 here" in explain.basis(q8_0.decode.basis)
    assert "1 run of qwen3-4b Q4_K_M with a cache of q4_0 here" in explain.basis(q4_0.decode.basis)


def test_a_quantization_that_runs_slower_than_predicted_loses_its_place(card, machine) -> None:
    on = machine(gb_s=60.0)
    slow = Corrections({("gguf", "qwen3-4b", "Q8_0", "f16"): Correction(0.1, 1.0, 1.0, RUNS)})
    before = decide(context(on, [card], [GGUF]), SelectionRequest()).choice
    after = decide(context(on, [card], [GGUF], corrections=slow), SelectionRequest())
    assert before is not None
    assert after.choice is not None

    assert before.quant == "Q8_0"
    assert after.choice.quant == "Q5_K_M"
    assert any(r.rule == "reaches_floor" and explain.refusal(r.reason).startswith("corrected ") for r in after.rejected)


def test_what_failed_its_quality_check_is_not_chosen(card, machine) -> None:
    why = "KL divergence 0.9 nats to Q8_0, 0.3 are allowed"
    vetoes = {("gguf", "qwen3-4b", quant): why for quant in ("Q8_0", "Q5_K_M")}
    decision = decide(context(machine(), [card], [GGUF], vetoes=vetoes), SelectionRequest())
    assert decision.choice is not None

    assert decision.choice.quant == "Q4_K_M"
    assert {(r.quant, r.reason) for r in decision.rejected if r.rule == "passed_its_check"} == {
        ("Q8_0", Stated(why)), ("Q5_K_M", Stated(why)),
    }  # fmt: skip


def test_a_measured_divergence_takes_the_place_of_the_table(option) -> None:
    o = option("qwen3-4b", "Q5_K_M")
    bad = replace(o, mean_kl=0.5)

    assert bad.kept.mid < 0.7 < o.kept.mid
    assert "measured here" in explain.basis(bad.kept.basis)
    assert replace(o, mean_kl=0.0).kept.mid == 1.0
    assert quality.checked_loss(0.1).mid > quality.checked_loss(0.05).mid


def test_measured_rates_are_used_and_recorded(card, machine) -> None:
    kinds = ("Q8_0", "Q6_K", "Q5_K", "Q4_K")
    rates = Calibration({(k, 8): 0.02 for k in kinds}, {(k, 8): 1.0 for k in kinds}, "test")
    measured = replace(GGUF, calibration=rates)
    fast = decide(context(machine(), [card], [GGUF]), SelectionRequest())
    slow = decide(context(machine(), [card], [measured]), SelectionRequest())
    assert fast.choice is not None
    assert slow.choice is not None

    assert slow.choice.decode.tok_s < fast.choice.decode.tok_s / 10
    assert (fast.inputs["rates"], slow.inputs["rates"]) == ({"gguf": "prior"}, {"gguf": "measured"})
    assert json.dumps(to_dict(slow)) == json.dumps(
        to_dict(decide(context(machine(), [card], [measured]), SelectionRequest()))
    )


@pytest.mark.parametrize("left_out", [False, True], ids=["slow threads", "threads left out"])
def test_rates_that_were_measured_beside_other_programs_choose_nothing(card, machine, left_out: bool) -> None:
    kinds, counts = ("Q8_0", "Q6_K", "Q5_K", "Q4_K"), (1,) if left_out else (1, 8)
    table = {(kind, n): 0.02 for kind in kinds for n in counts}
    beside = Occasion("2026-11-28", 0.63, 0.53, of_one=0.37 if left_out else None)
    occasions = {1: Occasion("2026-11-28", 0.63, 0.53), 8: beside}
    loud = Calibration(table, table, "test", date="2026-11-28", occasions=occasions)

    def decided(measured: dict[str, Calibration]) -> Decision:
        facts = assumed_facts([plugins().backend("gguf")], machine(), measured)
        return decide(context(machine(), [card], facts), SelectionRequest())

    unmeasured, aside = decided({}), decided({"gguf": loud})
    assert aside.choice == unmeasured.choice
    assert aside.inputs == unmeasured.inputs
    told = RatesSetAside("gguf", 8, "2026-11-28", 0.63, 0.53, beside.of_one)
    assert [reason for reason in aside.reasons if reason not in unmeasured.reasons] == [told]
    assert json.dumps(to_dict(aside)) == json.dumps(to_dict(decided({"gguf": loud})))
    quiet = replace(loud, occasions=dict.fromkeys(counts, Occasion("2026-11-28", 0.02, 0.01)))
    counted = decided({"gguf": quiet})
    assert counted.choice is not None
    basis = counted.choice.decode.basis
    assert isinstance(basis, Measured)
    assert (basis.date, basis.taken, basis.waited) == ("2026-11-28", 0.02, 0.01)
    assert not any(isinstance(reason, RatesSetAside) for reason in counted.reasons)


def test_no_more_threads_decode_than_were_measured_to_help(option) -> None:
    def threads(rates: dict[int, float]) -> int:
        table = {(kind, n): rate for kind in ("Q4_K", "Q6_K") for n, rate in rates.items()}
        facts = replace(GGUF, calibration=Calibration(table, table, "test"))
        return option("qwen3-4b", "Q4_K_M", facts=facts).threads

    assert threads({1: 5.0, 4: 19.9, 8: 20.0}) == 4
    assert threads({1: 5.0, 4: 15.0, 8: 20.0}) == 8
    assert option("qwen3-4b", "Q4_K_M").threads == 8


def test_prompts_get_all_threads_and_the_reason_says_why_decoding_does_not(card, machine) -> None:
    table = {(kind, n): min(n, 4) * 5.0 for kind in ("Q8_0", "Q6_K", "Q5_K", "Q4_K") for n in (1, 4, 8)}
    facts = replace(GGUF, calibration=Calibration(table, table, "test"))
    decision = decide(context(machine(), [card], [facts]), SelectionRequest())
    assert decision.choice is not None

    assert (decision.choice.threads, decision.choice.threads_batch) == (4, 8)
    assert "Threads: 4 of 8 to decode, as more were measured to gain under 3%." in said(decision)


def test_the_specialist_runs_what_two_backends_open_and_says_why(machine) -> None:
    bitnet = catalog()["bitnet-b1.58-2b-4t"]
    file = replace(
        bitnet.files[0], quant="TQ2_0", source="hf://a/b:TQ2_0", tensor_bytes=None, sha256=None, format="gguf"
    )
    backends = [
        BackendFacts("bitnet", frozenset({"gguf"}), frozenset({"I2_S", "TQ2_0"})),
        BackendFacts("a-general-one", frozenset({"gguf"})),
    ]
    decision = decide(context(machine(), [replace(bitnet, files=(file,))], backends), SelectionRequest())
    assert decision.choice is not None

    assert decision.choice.backend == "bitnet"
    assert any(reason.startswith("Backend: bitnet rather than a-general-one:") for reason in said(decision))
    assert any("bitnet is preferred to a-general-one" in explain.refusal(r.reason) for r in decision.rejected)


def test_the_faster_backend_wins_by_its_measured_rates(option) -> None:
    rates = [Calibration({(k, 8): r for k in ("TQ2_0", "Q6_K")}, {}, "x") for r in (10.0, 20.0)]
    slow, fast = (
        option("bitnet-b1.58-2b-4t", "TQ2_0", facts=BackendFacts(name, frozenset({"gguf"}), calibration=rate))
        for name, rate in zip(("a", "b"), rates, strict=True)
    )

    assert rank_models([slow, fast])[0] is fast
    assert "tok/s, measured" in explain.problem(OtherBackendPreferred("bitnet", "other", better_backend(fast, slow)))
