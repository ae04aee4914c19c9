"""Where other programs keep the processors busy, speeds are said to be uncertain, and the same is chosen."""

from __future__ import annotations

from dataclasses import replace

import pytest
from support.contexts import context

from edgellm import explain
from edgellm.app.context import of_machine
from edgellm.catalog.lookup import catalog
from edgellm.selection.backend_facts import BackendFacts
from edgellm.selection.busy import least_share, with_threads
from edgellm.selection.decide import decide
from edgellm.types.plan import Candidate, Decision
from edgellm.types.reason import ProcessorsBusy, Speed
from edgellm.types.request import KV_TYPES, SelectionRequest, Task

CARDS = [catalog()[name] for name in ("smollm2-135m-instruct", "qwen3-0.6b", "qwen3-4b", "nomic-embed-text-v1.5")]
GGUF = BackendFacts("gguf", frozenset({"gguf"}), kv_types=frozenset(KV_TYPES))


def decided(on, task: Task, load: float | None) -> Decision:
    return decide(replace(context(on, CARDS, [GGUF]), load=load), SelectionRequest(task=task))


def without_low_ends(choice: Candidate | None) -> Candidate:
    assert choice is not None
    return replace(choice, decode=replace(choice.decode, low=0.0), prefill=replace(choice.prefill, low=0.0))


@pytest.mark.parametrize("task", ["chat", "embed"])
def test_the_choice_is_the_same_and_its_speed_may_be_far_lower(machine, task: Task) -> None:
    quiet, busy = (decided(machine(16, cores=2), task, load) for load in (None, 7.5))

    assert without_low_ends(busy.choice) == without_low_ends(quiet.choice)
    assert busy.runners_up == quiet.runners_up
    assert busy.choice is not None
    assert quiet.choice is not None
    assert busy.choice.decode.low < 0.01 * quiet.choice.decode.low
    assert busy.choice.prefill.low < 0.01 * quiet.choice.prefill.low
    (told,) = (reason for reason in busy.reasons if isinstance(reason, ProcessorsBusy))
    (speed,) = (reason for reason in busy.reasons if isinstance(reason, Speed))
    assert (told.load, told.processors, told.threads) == (7.5, 2, 2)
    assert told.least_tok_s == speed.low
    assert "a load of 7.5" in explain.sentence(told)
    assert [r for r in busy.reasons if not isinstance(r, Speed | ProcessorsBusy)] == [
        r for r in quiet.reasons if not isinstance(r, Speed)
    ]


def test_one_thread_has_its_turn() -> None:
    assert least_share(3.0, 2, 1) == 0.25
    assert least_share(3.0, 2, 2) < 0.01


def test_threads_that_are_asked_for_are_what_is_told(machine) -> None:
    reasons = decided(machine(16, cores=2), "chat", 7.0).reasons
    (told,) = (reason for reason in with_threads(reasons, 1) if isinstance(reason, ProcessorsBusy))
    (speed,) = (reason for reason in with_threads(reasons, 1) if isinstance(reason, Speed))

    assert told.threads == 1
    assert told.least_tok_s == speed.low
    assert "threads" not in explain.sentence(told)
    assert with_threads([speed], 1) == (speed,)


def test_nothing_is_said_of_another_machine(machine) -> None:
    assert of_machine(machine(16), CARDS).load is None
