"""Orders, rates and ends are functions of the settings alone."""

from __future__ import annotations

import pytest

from edgellm.adaptation.schedule import batches_of_step, count_steps, learning_rate, order, steps_of_epoch
from edgellm.adaptation.stopping import best, is_over
from edgellm.types.tuning import TuneEvaluation, TuneSettings


def test_every_epoch_has_every_row_once_in_an_order_of_its_own() -> None:
    settings = TuneSettings(batch=4, accumulate=2, epochs=3, seed=7)
    assert (count_steps(settings, 21), steps_of_epoch(settings, 21)) == (9, 3)

    steps = [batches_of_step(settings, 21, step) for step in range(9)]
    assert [list(map(len, step)) for step in steps[:3]] == [[4, 4], [4, 4], [4, 1]]
    epochs = [[row for step in steps[at : at + 3] for batch in step for row in batch] for at in (0, 3, 6)]
    assert all(sorted(epoch) == list(range(21)) for epoch in epochs)
    assert len(set(map(tuple, epochs))) == 3
    assert count_steps(TuneSettings(batch=4, max_steps=5), 21) == 5


def test_an_order_stays_as_it_is_for_ever() -> None:
    """A checkpoint of an earlier version is gone on from."""
    assert order(8, 0, 0) == (7, 0, 5, 1, 2, 3, 6, 4)
    assert order(8, 1, 2) == (5, 3, 1, 2, 6, 7, 4, 0)


@pytest.mark.parametrize(
    ("schedule", "rates"),
    [
        ("linear", [1 / 3, 2 / 3, 1.0, 0.875, 0.75, 0.625, 0.5, 0.375, 0.25, 0.125]),
        ("constant", [1 / 3, 2 / 3, *[1.0] * 8]),
        ("cosine", [1 / 3, 2 / 3, 1.0, 0.9619, 0.8536, 0.6913, 0.5, 0.3087, 0.1464, 0.0381]),
    ],
)
def test_a_rate_rises_and_falls(schedule: str, rates: list[float]) -> None:
    settings = TuneSettings(schedule=schedule, warmup_share=0.2, learning_rate=1.0)

    assert [learning_rate(settings, step, 10) for step in range(10)] == pytest.approx(rates, abs=5e-5)


def looked(*losses: float) -> list[TuneEvaluation]:
    """Of one batch each."""
    return [TuneEvaluation(10 * at, loss, 5, False, (5 * loss,)) for at, loss in enumerate(losses)]


@pytest.mark.parametrize(
    ("losses", "step"),
    [
        ([(4.0, 4.0, 4.0), (1.0, 2.0, 3.0), (2.0, 1.0, 3.3)], 20),  # 0.1 more on the average, give or take 0.6
        ([(4.0, 4.0, 4.0), (1.0, 2.0, 3.0), (1.1, 2.1, 3.1)], 10),  # in each batch
        ([(4.0, 4.0, 4.0), (1.0, 2.0, 3.0), (2.0, 1.0, 3.3), (9.0, 9.0, 9.0)], 20),
        ([(4.0, 4.0, 4.0), (2.0, 1.0, 3.3), (1.0, 2.0, 3.0)], 20),
        ([(4.0,), (1.0,), (1.1,)], 10),
        ([(1.0, 2.0), (1.0, 2.0)], 10),
    ],
)
def test_the_last_step_that_is_as_good_as_the_lowest_is_kept(losses: list[tuple[float, ...]], step: int) -> None:
    looks = [TuneEvaluation(10 * at, sum(each) / 9, 9, False, each) for at, each in enumerate(losses)]

    assert best(looks).step == step


def test_it_ends_where_held_out_rows_became_no_better() -> None:
    losses = (2.0, 1.5, 1.4, 1.45, 1.4, 1.39)

    assert [is_over(looked(*losses[:n]), 2) for n in range(7)] == [False] * 5 + [True, False]
    assert not is_over(looked(*losses[:5]), 0)
    assert best(looked(*losses[:5])).step == 40
    assert best([]) is None
