"""Settings of a tuner refuse what has no meaning; its memory is the sum of its terms."""

from __future__ import annotations

import msgspec
import pytest
from support.refusals import refuses

from edgellm.errors import UsageError
from edgellm.types.tuning import METHODS, TuneFootprint, TuneSettings


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("method", "dpo"),
        ("rank", 0),
        ("rank", 1.5),
        ("alpha", float("nan")),
        ("learning_rate", 0.0),
        ("length", 0),
        ("batch", 0),
        ("accumulate", 0),
        ("epochs", 0),
        ("max_steps", -1),
        ("warmup_share", 1.0),
        ("schedule", "stairs"),
        ("weight_decay", -0.1),
        ("max_grad_norm", float("inf")),
        ("seed", -1),
        ("n_threads", 0),
        ("checkpoint_every", 0),
    ],
)
def test_settings_without_a_meaning_are_refused(name: str, value: object) -> None:
    with refuses(UsageError, param=name):
        TuneSettings(**{name: value})


def test_settings_survive_a_journey() -> None:
    for method in METHODS:
        settings = TuneSettings(method=method, rank=8, seed=3)
        assert msgspec.json.decode(msgspec.json.encode(settings), type=TuneSettings) == settings


def test_memory_is_the_sum_of_all_terms() -> None:
    footprint = TuneFootprint(*(10**i for i in range(9)))

    assert footprint.needed_bytes == 111_111_111
