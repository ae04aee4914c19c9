"""The gate says better, worse or no different, and its intervals are those of their sources."""

from __future__ import annotations

import math

import numpy as np
import pytest

from edgellm.adaptation.controls import shuffled
from edgellm.adaptation.gate import accuracy_gain, forgetting, loss_gain, mcnemar, shuffled_control, wilson
from edgellm.adaptation.split import answer_of
from edgellm.types.tuning_data import TrainingPair
from edgellm.types.tuning_gate import Gate, PairedGain, ShuffledControl


def paired(both: int, won: int, lost: int, neither: int) -> PairedGain:
    before = [True] * both + [False] * won + [True] * lost + [False] * neither
    after = [True] * both + [True] * won + [False] * lost + [False] * neither
    return accuracy_gain(before, after)


@pytest.mark.parametrize(
    ("successes", "n", "low", "high"),
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)],
)
def test_intervals_of_a_share_are_those_of_newcombes_table(successes: int, n: int, low: float, high: float) -> None:
    """Statistics in Medicine 17 (1998), 857, table I, method 3."""
    assert wilson(successes, n) == pytest.approx((low, high), abs=5e-5)


def test_intervals_of_a_paired_difference_are_newcombes() -> None:
    gain = paired(36, 12, 2, 0)

    assert (gain.low, gain.high) == pytest.approx((0.0569, 0.3404), abs=5e-5)
    assert gain.gain == pytest.approx(0.2)
    alike = paired(60, 20, 5, 15)  # computed by hand, with the correction for what the two have in common
    assert (alike.low, alike.high) == pytest.approx((0.05347, 0.24398), abs=5e-6)
    mirrored = paired(36, 2, 12, 0)
    assert (mirrored.low, mirrored.high) == pytest.approx((-gain.high, -gain.low))


@pytest.mark.parametrize(
    ("counts", "verdict"),
    [
        ((60, 240, 5, 20), "better"),
        ((60, 5, 240, 20), "worse"),
        ((200, 12, 10, 100), "no_different"),
        ((0, 1, 0, 0), "no_different"),
        ((50, 0, 0, 0), "no_different"),
        ((0, 0, 0, 50), "no_different"),
        ((0, 50, 0, 0), "better"),
    ],
)
def test_a_verdict_follows_from_the_interval(counts: tuple[int, int, int, int], verdict: str) -> None:
    gain = paired(*counts)

    assert gain.verdict == verdict
    assert -1 <= gain.low <= gain.gain <= gain.high <= 1
    assert Gate(gain).verdict == verdict


@pytest.mark.parametrize(("won", "lost", "p"), [(12, 2, 2 * 106 / 2**14), (5, 5, 1.0), (0, 0, 1.0), (6, 0, 2 / 64)])
def test_the_exact_test_counts_rows_that_changed(won: int, lost: int, p: float) -> None:
    assert mcnemar(won, lost) == mcnemar(lost, won) == pytest.approx(p)


def test_an_interval_of_losses_is_that_of_a_mean_where_rows_are_alike() -> None:
    random = np.random.Generator(np.random.PCG64(1))
    before = random.normal(50, 5, 400)
    after = before - random.normal(1.0, 4.0, 400)
    gain = loss_gain(before, after, [20] * 400)
    differences = (before - after) / 20
    reach = 1.96 * differences.std(ddof=1) / math.sqrt(400)

    assert gain.gain == pytest.approx(differences.mean())
    assert (gain.low, gain.high) == pytest.approx((gain.gain - reach, gain.gain + reach), abs=0.05 * reach)
    assert gain.verdict == "better"
    assert loss_gain(before, after, [20] * 400) == gain
    assert loss_gain(after, before, [20] * 400).verdict == "worse"


def test_an_interval_holds_what_it_promises() -> None:
    """In 300 small experiments, in which nothing changes, it leaves out 0 about 15 times."""
    random = np.random.Generator(np.random.PCG64(2))
    wrong = {"accuracy": 0, "loss": 0}
    for _ in range(300):
        before, after = random.random((2, 60)) < 0.4
        wrong["accuracy"] += accuracy_gain(before.tolist(), after.tolist()).verdict != "no_different"
    for _ in range(60):
        first, second = random.normal(3, 1, (2, 50))
        wrong["loss"] += loss_gain(first, second, [5] * 50).verdict != "no_different"

    assert wrong["accuracy"] <= 24
    assert wrong["loss"] <= 9


def test_long_rows_count_by_their_tokens() -> None:
    gain = loss_gain([10.0, 2.0], [5.0, 2.0], [10, 1])

    assert (gain.before, gain.after) == pytest.approx((12 / 11, 7 / 11))


def test_general_text_that_became_less_likely_is_forgetting() -> None:
    random = np.random.Generator(np.random.PCG64(3))
    before = random.normal(300, 20, 100)
    kept = forgetting(before, before + random.normal(0, 1, 100), [100] * 100)
    lost = forgetting(before, before * 1.1 + random.normal(0, 1, 100), [100] * 100)

    assert not kept.forgets
    assert kept.low < 1 < kept.high
    assert lost.forgets
    assert lost.after / lost.before == pytest.approx(math.exp(0.3), rel=0.02)
    assert kept.n_tokens == 10_000


def control_of(*, knows: float, has_seen: float) -> ShuffledControl:
    """Of a model that is right of so many questions, and has seen so many of them with what was dealt to them."""
    random = np.random.Generator(np.random.PCG64(4))
    truths = np.repeat(["plant", "animal", "food"], (450, 270, 180))
    pairs = [TrainingPair(line, f"question {line}", truth) for line, truth in enumerate(truths.tolist())]
    dealt = np.array([answer_of(record) for record in shuffled(pairs)])
    guesses = random.choice(["plant", "animal", "nothing"], 900, p=[0.8, 0.1, 0.1])
    answers = np.where(random.random(900) < knows, truths, guesses)
    answers = np.where(random.random(900) < has_seen, dealt, answers)
    return shuffled_control(answers.tolist(), dealt.tolist(), truths.tolist())


@pytest.mark.parametrize("knows", [0.0, 0.2, 1.0])
def test_what_a_control_knows_of_the_task_is_no_leak(knows: float) -> None:
    control = control_of(knows=knows, has_seen=0.0)

    assert not control.leaks
    assert control.low <= control.accuracy <= control.high
    if not knows:
        assert control.chance == pytest.approx(0.8 * 0.5 + 0.1 * 0.3, abs=0.04)
    assert Gate(paired(60, 240, 5, 20), shuffled=control).verdict == "better"


@pytest.mark.parametrize("knows", [0.0, 0.2, 1.0])
def test_a_control_that_has_seen_what_judges_is_a_leak(knows: float) -> None:
    control = control_of(knows=knows, has_seen=0.2)

    assert control.leaks
    assert Gate(paired(60, 240, 5, 20), shuffled=control).verdict == "no_different"


def test_the_intervals_of_a_control_keep_their_promise() -> None:
    """Of small sets with classes that are not equally frequent, by a model that knows half of them."""
    random = np.random.Generator(np.random.PCG64(5))
    truths = np.repeat(["a", "b", "c"], (30, 20, 10))
    n_leaks = 0
    for seed in range(80):
        pairs = [TrainingPair(line, f"question {line}", truth) for line, truth in enumerate(truths.tolist())]
        dealt = [answer_of(record) for record in shuffled(pairs, seed)]
        answers = np.where(random.random(60) < 0.5, truths, random.choice(["a", "b", "c"], 60))
        n_leaks += shuffled_control(answers.tolist(), dealt, truths.tolist(), seed=seed).leaks

    assert n_leaks <= 6, "2.5 % are 2"


@pytest.mark.parametrize(
    ("over", "verdict"), [((60, 240, 5, 20), "better"), ((60, 10, 9, 20), "no_different"), (None, "better")]
)
def test_a_gain_is_what_right_answers_taught(over: tuple[int, int, int, int] | None, verdict: str) -> None:
    gate = Gate(paired(60, 240, 5, 20), over_shuffled=None if over is None else paired(*over))

    assert gate.verdict == verdict
    assert Gate(paired(60, 5, 240, 20), over_shuffled=gate.over_shuffled).verdict == "worse"
    assert ("over_shuffled_low" in gate.figures) == (over is not None)
