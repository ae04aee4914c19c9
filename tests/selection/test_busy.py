"""Where other programs keep the processors busy, speeds are said to be uncertain, and the same is chosen."""

from __future__ import annotations

from dataclasses import replace

import pytest
from msgspec import structs
from support.contexts import context

from edgellm import explain
from edgellm.app.context import of_machine
from edgellm.catalog.lookup import catalog
from edgellm.errors import NothingFits
from edgellm.hardware import profiles
from edgellm.selection.backend_facts import BackendFacts
from edgellm.selection.busy import as_if_alone, least_share, with_threads
from edgellm.selection.context import SelectionContext
from edgellm.selection.decide import decide
from edgellm.selection.offload import assumed
from edgellm.types.basis import PredictedSplit
from edgellm.types.criterion import SurelyKeepsFloor
from edgellm.types.model_reason import ChosenQuant
from edgellm.types.plan import Candidate, Decision
from edgellm.types.reason import ContextLength, FloorWhenAlone, ProcessorsBusy, SlotCount, Speed
from edgellm.types.request import KV_TYPES, SelectionRequest, Task

CARDS = [catalog()[name] for name in ("smollm2-135m-instruct", "qwen3-0.6b", "qwen3-4b", "nomic-embed-text-v1.5")]
GGUF = BackendFacts("gguf", frozenset({"gguf"}), kv_types=frozenset(KV_TYPES))


def decided(on, task: Task, load: float | None) -> Decision:
    return decide(replace(context(on, CARDS, [GGUF]), load=load), SelectionRequest(task=task))


def without_low_ends(choice: Candidate | None) -> Candidate:
    assert choice is not None
    return replace(
        choice, decode=structs.replace(choice.decode, low=0.0), prefill=structs.replace(choice.prefill, low=0.0)
    )


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
        as_if_alone(r) for r in quiet.reasons if not isinstance(r, Speed)
    ]


@pytest.mark.parametrize(
    "reason",
    [
        ChosenQuant("Q6_K", 6.5, 10**9, SurelyKeepsFloor(5.0)),
        ContextLength(4096, "memory", 9.0),
        SlotCount(2, "most", 4096, 8.0),
        SlotCount(1, "speed", 4096, 8.0, 4.0, 5.0),
    ],
)
def test_what_was_chosen_by_quiet_speeds_says_so(reason: ChosenQuant | ContextLength | SlotCount) -> None:
    """Beside a range whose low end is below the floor."""
    words = " when nothing else runs"
    beside = explain.sentence(as_if_alone(reason))

    assert words in beside
    assert beside.replace(words, "") == explain.sentence(reason)
    of_two = explain.sentence(as_if_alone(reason, 2))
    assert of_two.replace(" with 2 threads", "") == beside != of_two


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


def test_beside_programs_that_stay_one_thread_computes_and_its_speed_is_told(machine) -> None:
    here, card = machine(16, cores=2), [CARDS[1]]
    quiet = replace(context(here, card, [GGUF]))
    busy = replace(quiet, load=7.5, load_lasts=True)
    both, one, beside, asked = (
        decide(quiet, SelectionRequest()),
        decide(quiet, SelectionRequest(threads=1)),
        decide(busy, SelectionRequest()),
        decide(busy, SelectionRequest(threads=2)),
    )
    choices = [decision.choice for decision in (both, one, beside, asked)]
    assert [choice and (choice.threads, choice.threads_batch) for choice in choices] == [(2, 2), (1, 1), (1, 1), (2, 2)]
    assert [choice and choice.decode.tok_s for choice in choices] == [
        choice and choice.decode.tok_s for choice in (choices[0], choices[1], choices[1], choices[0])
    ]
    told, not_told = (
        next(reason for reason in decision.reasons if isinstance(reason, ProcessorsBusy))
        for decision in (beside, asked)
    )
    (speed,) = (reason for reason in beside.reasons if isinstance(reason, Speed))
    assert choices[2] is not None
    assert (speed.tok_s, told.threads, told.instead_of) == (choices[2].decode.tok_s, 1, 2)
    assert "one thread" in explain.sentence(told)
    (length,) = (reason for reason in beside.reasons if isinstance(reason, ContextLength))
    assert length.alone_threads == 2
    assert (not_told.threads, not_told.instead_of) == (2, None)
    assert "one thread" not in explain.sentence(not_told)


def test_the_model_is_chosen_as_if_the_others_were_not_there(machine) -> None:
    here = context(machine(16, cores=16), CARDS, [GGUF])
    quiet, beside = (decide(on, SelectionRequest()).choice for on in (here, replace(here, load=20.0, load_lasts=True)))

    assert quiet is not None
    assert beside is not None
    assert (quiet.threads, beside.threads) == (16, 1)
    assert (beside.model, beside.quant, beside.ctx, beside.slots, beside.kv_type) == (
        quiet.model, quiet.quant, quiet.ctx, quiet.slots, quiet.kv_type,
    )  # fmt: skip


def test_a_floor_that_one_thread_beside_others_does_not_reach_is_told(machine) -> None:
    """It was said to be kept, beside a speed below it."""
    quiet = context(machine(16, cores=2), [CARDS[1]], [GGUF])
    busy = replace(quiet, load=7.5, load_lasts=True)
    both, one = (decide(quiet, SelectionRequest(threads=n)).choice for n in (2, 1))
    assert both is not None
    assert one is not None
    floor = round((both.decode.tok_s + one.decode.tok_s) / 2)

    def told(on: SelectionContext, floor: float) -> list[FloorWhenAlone]:
        reasons = decide(on, SelectionRequest(min_tps=floor)).reasons
        return [reason for reason in reasons if isinstance(reason, FloorWhenAlone)]

    (reason,) = told(busy, floor)
    assert (reason.floor_tps, reason.threads, reason.beside_threads) == (floor, 2, 1)
    assert reason.tok_s < floor
    assert "with 2 threads when nothing else runs" in explain.sentence(reason)
    assert told(quiet, floor) == []
    assert told(busy, 1.0) == []


def test_a_floor_that_nothing_reaches_is_judged_on_a_quiet_machine(machine) -> None:
    quiet = context(machine(16, cores=2), CARDS, [GGUF])
    told = []
    for on in (quiet, replace(quiet, load=7.5, load_lasts=True)):
        with pytest.raises(NothingFits) as error:
            decide(on, SelectionRequest(min_tps=1e6))
        told.append(error.value)

    assert told[1].hint == told[0].hint
    assert told[1].message.startswith(told[0].message)
    assert len(told[1].message) > len(told[0].message), "that nothing else runs then is said"


def test_nothing_is_said_of_another_machine(machine) -> None:
    assert of_machine(machine(16), CARDS).load is None


def test_a_model_that_gpus_compute_is_as_fast_beside_other_programs() -> None:
    machine = profiles.load("desktop-rtx-4090")
    on_gpu = context(machine, [CARDS[2]], [replace(GGUF, offload=assumed(machine))], is_here=False)
    for layers, slower in ((-1, False), (20, True)):
        quiet, busy = (decide(replace(on_gpu, load=load), SelectionRequest(gpu_layers=layers)) for load in (None, 20.0))
        assert quiet.choice is not None
        assert busy.choice is not None
        assert quiet.choice.gpu_layers == layers
        assert (busy.choice.decode.low < quiet.choice.decode.low) is slower
        assert any(isinstance(reason, ProcessorsBusy) for reason in busy.reasons) is slower


@pytest.mark.parametrize(("layers", "threads"), [(20, 2), (35, 2), (20, 1)])
def test_of_a_model_that_is_partly_on_a_gpu_only_the_processors_time_grows(layers: int, threads: int) -> None:
    """It was told to be 200 times as slow, however little was left to the processor."""
    machine = profiles.load("desktop-rtx-4090")
    on = context(machine, [CARDS[2]], [replace(GGUF, offload=assumed(machine))], is_here=False)
    request = SelectionRequest(gpu_layers=layers, threads=threads)
    quiet, busy = (decide(replace(on, load=99.0), request) if load else decide(on, request) for load in (0, 1))
    assert quiet.choice is not None
    assert busy.choice is not None
    split = quiet.choice.decode.basis
    assert isinstance(split, PredictedSplit)
    share = least_share(99.0, machine.cpu.threads, threads)
    more_s = split.cpu_ms / 1000 * (1 / share - 1)
    assert 1 / busy.choice.decode.low == pytest.approx(1 / quiet.choice.decode.low + more_s, rel=0.01)
    assert busy.choice.prefill == quiet.choice.prefill, "weights are copied to the GPU, which computes prompts"
    (told,) = (reason for reason in busy.reasons if isinstance(reason, ProcessorsBusy))
    assert told.least_tok_s == busy.choice.decode.low
    other = 3 - threads
    (again,) = (reason for reason in with_threads(busy.reasons, other) if isinstance(reason, ProcessorsBusy))
    more_s = split.cpu_ms / 1000 * (1 / least_share(99.0, machine.cpu.threads, other) - 1)
    assert 1 / again.least_tok_s == pytest.approx(1 / quiet.choice.decode.low + more_s, rel=0.01)
