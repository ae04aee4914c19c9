"""The golden rules of tuning choose what learns best of what fits, and say on which numbers."""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np
import pytest
from support.refusals import refuses

from edgellm.adaptation.example import Example
from edgellm.adaptation.rules import TuneQuestion, TunerFormulas, decide
from edgellm.errors import UsageError
from edgellm.explain.tuning import reason as words
from edgellm.types.tune_reason import (
    TuneBusy,
    TuneChoice,
    TuneLengthChosen,
    TuneMemoryChosen,
    TuneMethodChosen,
    TuneRankChosen,
    TuneReason,
    TuneRowsChosen,
    TuneTimeChosen,
)
from edgellm.types.tuning import TuneFootprint, TuneSettings, TuneSize

MB = 10**6
PLENTY = 10**12


def footprint(settings: TuneSettings, size: TuneSize) -> TuneFootprint:
    """Of a model of 100 million weights, of which a rank trains 200,000."""
    trained = 100 * MB if settings.method == "full" else 200_000 * settings.rank
    kept = settings.batch * min(size.longest, settings.length) * 1 * MB
    return TuneFootprint(
        weights_bytes=60 * MB if settings.quantized else 400 * MB,
        unpacked_bytes=4 * MB,
        trained_bytes=4 * trained,
        gradient_bytes=4 * trained,
        optimizer_bytes=8 * trained,
        activation_bytes=kept // 8 if settings.checkpointing else kept,
        logits_bytes=16 * MB,
        data_bytes=13 * size.n_tokens,
        process_bytes=100 * MB,
    )


def rate(settings: TuneSettings) -> float:
    return 100.0 * (0.7 if settings.checkpointing else 1.0) * (0.9 if settings.quantized else 1.0)


def examples(n: int, n_tokens: int = 60) -> list[Example]:
    return [
        Example(np.zeros(n_tokens, np.int32), np.arange(n_tokens) >= n_tokens // 2, line) for line in range(1, n + 1)
    ]


def decided(n: int = 800, n_tokens: int = 60, *, budget: int = PLENTY, n_ctx: int = 8192, **fields: Any) -> TuneChoice:
    question = TuneQuestion(examples(n, n_tokens), budget, n_ctx, **fields)
    return decide(question, TunerFormulas(footprint, rate))


def reason(verdict: TuneChoice, kind: type[TuneReason]) -> Any:
    return next(reason for reason in verdict.reasons if isinstance(reason, kind))


def test_where_all_fits_the_usual_is_chosen_and_each_choice_has_its_numbers() -> None:
    verdict = decided(n_threads=2, seed=5)
    settings = verdict.settings

    assert verdict.fits
    assert (settings.method, settings.rank, settings.alpha, settings.learning_rate) == ("lora+", 16, 32.0, 2e-4)
    assert (settings.length, settings.batch, settings.accumulate) == (64, 8, 1)
    assert (settings.checkpointing, settings.quantized) == (False, False)
    assert (settings.epochs, settings.n_threads, settings.seed) == (1, 2, 5)
    assert verdict.reasons == (
        TuneMethodChosen("lora+", False, 2e-4),
        TuneRankChosen(16, False, 24_000, 6_400_000),
        TuneLengthChosen(64, False, 60, 1.0),
        TuneRowsChosen(8, 1, 8.0),
        TuneMemoryChosen(False, False, verdict.footprint.needed_bytes, PLENTY, 100.0),
        TuneTimeChosen(1, 100, 480.0, 384.0, 960.0),
    )
    assert (verdict.wall_s, verdict.tok_s, verdict.budget_bytes) == (480.0, 100.0, PLENTY)
    assert all(way.fits and way.tok_s <= 100.0 for way in verdict.rejected)
    assert msgspec.json.decode(msgspec.json.encode(verdict), type=TuneChoice) == verdict


def test_of_what_fits_the_fastest_is_chosen() -> None:
    """The model itself does not fit; in its blocks it does, with the rows of a step one after another."""
    verdict = decided(budget=350 * MB)
    memory = reason(verdict, TuneMemoryChosen)

    assert (memory.quantized, memory.checkpointing, verdict.settings.rank) == (True, False, 16)
    assert verdict.settings.batch * verdict.settings.accumulate == 8
    assert memory.needed_bytes == verdict.footprint.needed_bytes <= 350 * MB
    assert memory.tok_s == 90.0
    for way in verdict.rejected:
        assert not way.fits or way.tok_s <= memory.tok_s
        assert way.fits == (way.needed_bytes <= verdict.budget_bytes)
    assert any(not way.fits and way.tok_s > memory.tok_s for way in verdict.rejected)


@pytest.mark.parametrize(
    ("budget", "n_tokens", "rank", "length", "saves"),
    [
        (350 * MB, 600, 16, 768, (False, False)),
        (300 * MB, 600, 8, 768, (True, False)),
        (280 * MB, 600, 4, 768, (True, False)),
        (250 * MB, 600, 4, 384, (True, True)),
    ],
)
def test_with_less_memory_first_the_rank_and_then_the_rows_become_smaller(
    budget: int, n_tokens: int, rank: int, length: int, saves: tuple[bool, bool]
) -> None:
    verdict = decided(n_tokens=n_tokens, budget=budget)
    chosen = reason(verdict, TuneRankChosen), reason(verdict, TuneLengthChosen)

    assert verdict.fits
    assert (verdict.settings.rank, verdict.settings.length) == (rank, length)
    assert tuple(one.saves_memory for one in chosen) == saves
    assert chosen[1].share_whole == (1.0 if length >= n_tokens else 0.0)
    assert verdict.footprint.needed_bytes <= budget


def test_what_cannot_fit_is_told_with_what_needs_least() -> None:
    verdict = decided(budget=150 * MB)

    assert not verdict.fits
    settings = verdict.settings
    assert (settings.rank, settings.batch, settings.checkpointing, settings.quantized) == (4, 1, True, True)
    assert verdict.footprint.needed_bytes == min(
        [verdict.footprint.needed_bytes, *(way.needed_bytes for way in verdict.rejected)]
    )
    assert verdict.footprint.needed_bytes > 150 * MB
    assert verdict.instead is None


def test_where_what_was_asked_does_not_fit_what_would_is_told() -> None:
    verdict = decided(budget=600 * MB, asked={"method": "full", "epochs": 2})

    assert not verdict.fits
    assert verdict.settings.method == "full"
    assert verdict.instead is not None
    assert (verdict.instead.method, verdict.instead.epochs) == ("lora+", 2)
    assert footprint(verdict.instead, TuneSize(800, 48_000, 24_000, 30, 60)).needed_bytes <= 600 * MB


@pytest.mark.parametrize(
    "asked",
    [
        {"rank": 5},
        {"method": "vera", "rank": 256},
        {"method": "full"},
        {"length": 32},
        {"batch": 3},
        {"batch": 2, "accumulate": 3},
        {"checkpointing": True},
        {"quantized": True},
        {"epochs": 7},
        {"max_steps": 9},
        {"learning_rate": 0.01, "alpha": 5.0, "eval_every": 3, "patience": 0, "checkpoint_every": 2},
    ],
)
def test_what_was_asked_for_is_done(asked: dict[str, Any]) -> None:
    verdict = decided(asked=asked)

    assert {name: getattr(verdict.settings, name) for name in asked} == asked
    assert verdict.fits
    assert reason(verdict, TuneMethodChosen).asked == ("method" in asked)
    assert reason(verdict, TuneLengthChosen).asked == ("length" in asked)


def test_each_method_learns_at_its_own_rate() -> None:
    rates = {m: decided(asked={"method": m}).settings.learning_rate for m in ("lora", "dora", "vera", "full")}

    assert rates == {"lora": 2e-4, "dora": 2e-4, "vera": 1e-3, "full": 1e-5}
    assert not any(isinstance(one, TuneRankChosen) for one in decided(asked={"method": "full"}).reasons)


def test_data_that_a_rank_cannot_hold_get_a_larger_one() -> None:
    verdict = decided(n=200, n_tokens=80_000, n_ctx=131_072)
    rank = reason(verdict, TuneRankChosen)

    assert (verdict.settings.method, verdict.settings.rank) == ("rslora", 32)
    assert rank.n_supervised == 8_000_000 <= rank.capacity
    only = decide(
        TuneQuestion(examples(200, 80_000), PLENTY, 131_072), TunerFormulas(footprint, rate, frozenset({"lora"}))
    )
    assert (only.settings.method, only.settings.rank) == ("lora", 32)


def test_few_examples_make_small_steps_and_more_epochs() -> None:
    verdict = decided(n=100)

    assert verdict.settings.epochs == 3
    assert reason(verdict, TuneTimeChosen).n_steps == 39
    assert decided(n=3).settings.batch * decided(n=3).settings.accumulate <= 3


@pytest.mark.parametrize(
    ("seconds", "epochs", "max_steps", "cut"),
    [(10_000, 3, 0, False), (150, 2, 28, False), (45, 1, 8, True), (0.1, 1, 1, True)],
)
def test_a_time_that_is_asked_for_ends_it(seconds: float, epochs: int, max_steps: int, cut: bool) -> None:
    """100 examples of 60 tokens are 13 steps of 4.6 s; a tenth of the time is for other things."""
    verdict = decided(n=100, seconds=seconds)
    time = reason(verdict, TuneTimeChosen)

    assert verdict.settings.epochs == epochs
    assert time.asked_s == seconds
    assert verdict.wall_s == time.wall_s <= max(0.9 * seconds, 4.7)
    assert time.cut is cut
    assert bool(verdict.settings.max_steps) == cut


@pytest.mark.parametrize(("nice", "times"), [(0, 6.0), (10, 47.57), (19, 347.9)])
def test_a_busy_machine_changes_no_choice_and_is_told(nice: int, times: float) -> None:
    quiet = decided(nice=nice, processors=2)
    busy = decided(nice=nice, processors=2, load=10.0)
    told = reason(busy, TuneBusy)

    assert busy.settings == quiet.settings
    assert busy.reasons[:-1] == quiet.reasons
    assert (told.load, told.processors, told.nice) == (10.0, 2, nice)
    assert told.wall_s == pytest.approx(times * busy.wall_s, rel=1e-3)
    assert told.equal_s == pytest.approx(6.0 * busy.wall_s)
    assert "the steps alone" in words(told), "what else a tuning does is not in it"


def test_rows_are_no_longer_than_the_model_reads() -> None:
    verdict = decided(n_tokens=600, n_ctx=500)

    assert verdict.settings.length == 384
    assert reason(verdict, TuneLengthChosen).share_whole == 0.0
    assert decided(n_tokens=60, n_ctx=32).settings.length == 32


def test_what_is_out_of_range_is_refused() -> None:
    with refuses(UsageError, param="rank"):
        decided(asked={"rank": -1})
