"""What every engine asks of a step before it touches its cache, and what its process starts with."""

from __future__ import annotations

import os
from typing import ClassVar

import pytest
from support.refusals import refuses

from edgellm.contract.backend import worker_environment
from edgellm.contract.engine import EngineInfo, SlotInput, check_batch
from edgellm.errors import CacheFull

INFO = EngineInfo(
    n_slots=2, n_ctx=8, max_batch_tokens=6, max_logits=2, vocab_size=10, eos_ids=frozenset()
)  # fmt: skip


def test_a_step_that_fits_is_taken() -> None:
    check_batch([SlotInput(0, 3, (1, 2), 1), SlotInput(1, 0, (9,), 1)], INFO, [3, 0])


@pytest.mark.parametrize(
    "batch",
    [
        pytest.param([SlotInput(0, 2, (1,), 1)], id="another length"),
        pytest.param([SlotInput(0, 3, (), 0)], id="no tokens"),
        pytest.param([SlotInput(1, 0, (10,), 1)], id="a token too large"),
        pytest.param([SlotInput(1, 0, (-1,), 1)], id="a negative token"),
        pytest.param([SlotInput(1, 0, (1,), 0), SlotInput(1, 0, (2,), 0)], id="a slot twice"),
        pytest.param([SlotInput(0, 3, (1, 1, 1), 0), SlotInput(1, 0, (1,) * 4, 0)], id="too many tokens"),
        pytest.param([SlotInput(1, 0, (1, 1, 1), 3)], id="too many rows"),
    ],
)
def test_a_step_that_contradicts_the_cache_or_the_limits_is_refused(batch: list[SlotInput]) -> None:
    with refuses(ValueError):
        check_batch(batch, INFO, [3, 0])


def test_a_full_slot_says_what_is_free() -> None:
    with refuses(CacheFull, needed=6, free=5):
        check_batch([SlotInput(0, 3, (1,) * 6, 1)], INFO, [3, 0])


def test_a_worker_starts_with_what_its_backend_wants_unless_the_user_set_it(monkeypatch: pytest.MonkeyPatch) -> None:
    class Wanting:
        name = "wanting"
        worker_environment: ClassVar[dict[str, str]] = {"LIBRARY_PAGES": "large", "LIBRARY_LOG": "none"}

    monkeypatch.setenv("LIBRARY_LOG", "all")

    wanting = worker_environment(Wanting())

    assert (wanting["LIBRARY_PAGES"], wanting["LIBRARY_LOG"]) == ("large", "all")
    assert worker_environment(object()) == worker_environment(None) == dict(os.environ)
