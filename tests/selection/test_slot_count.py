"""Conversations at once: as asked, else as many as memory and the floor allow; they change nothing but their number."""

from __future__ import annotations

from dataclasses import replace

import pytest
from support.contexts import context

from edgellm import explain
from edgellm.catalog.lookup import catalog
from edgellm.contract.backend import Device, Offload
from edgellm.errors import NothingFits
from edgellm.hardware import profiles
from edgellm.selection.backend_facts import BackendFacts
from edgellm.selection.decide import decide
from edgellm.selection.offload import assumed
from edgellm.selection.slot_count import choose_slots
from edgellm.types.plan import Candidate, Decision, Footprint
from edgellm.types.reason import SlotCount
from edgellm.types.request import KV_TYPES, TASKS, SelectionRequest, Task

GIB = 1024**3
CARDS = [catalog()[name] for name in ("smollm2-135m-instruct", "qwen3-0.6b", "qwen3-4b", "nomic-embed-text-v1.5")]
GGUF = BackendFacts("gguf", frozenset({"gguf"}), kv_types=frozenset(KV_TYPES))


def decided(on, request: SelectionRequest) -> Decision:
    return decide(context(on, CARDS, [GGUF]), request)


def slot_count(decision: Decision) -> SlotCount:
    (count,) = (reason for reason in decision.reasons if isinstance(reason, SlotCount))
    return count


def test_no_reason_is_given_for_a_number_that_was_asked_for(option) -> None:
    assert choose_slots(option("qwen3-0.6b", "Q4_K_M", slots=3), 4096) is None


def test_up_to_four_where_there_is_room(option, machine) -> None:
    count = choose_slots(option("smollm2-135m-instruct", "Q8_0", machine(64, gb_s=200.0), slots=None), 8192)

    assert count is not None
    assert (count.n_slots, count.bound) == (4, "most")
    assert "4 conversations at once" in explain.sentence(count)
    assert "slots asks for more" in explain.sentence(count)


def test_memory_bounds_them(option, machine) -> None:
    chosen = option("qwen3-0.6b", "Q4_K_M", machine(10, gb_s=200.0), slots=None)
    count = choose_slots(chosen, 32768)

    assert count is not None
    assert count.bound == "memory"
    assert chosen.with_slots(count.n_slots).fits_at(32768)
    assert not chosen.with_slots(count.n_slots + 1).fits_at(32768)
    assert "holds no further one of 32,768 tokens" in explain.sentence(count)


def test_the_floor_bounds_them(option, machine) -> None:
    chosen = option("qwen3-4b", "Q4_K_M", machine(64, gb_s=60.0, cores=2), slots=None, ctx=4096)
    count = choose_slots(chosen, 4096)

    assert count is not None
    assert count.bound == "speed"
    assert chosen.busy_tps(count.n_slots + 1, 2048) < chosen.scenario.floor_tps
    assert count.n_slots == 1 or chosen.busy_tps(count.n_slots, 2048) >= chosen.scenario.floor_tps
    assert "with one more each would decode at" in explain.sentence(count)


def test_alone_it_is_as_fast_as_predicted(option) -> None:
    chosen = option("qwen3-0.6b", "Q4_K_M")

    assert chosen.busy_tps(1, 1024) == pytest.approx(chosen.decode.tok_s)
    assert 4 * chosen.busy_tps(4, 1024) > chosen.decode.tok_s > chosen.busy_tps(4, 1024)


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("ram_gib", [1, 2, 4, 16, 64])
def test_their_number_changes_nothing_else(task: Task, ram_gib: float, machine) -> None:
    on, request = machine(ram_gib), SelectionRequest(task=task)
    try:
        one = decided(on, request)
    except NothingFits:
        return
    many = decided(on, replace(request, slots=None))

    assert many.choice is not None
    assert one.choice is not None
    assert alone(many.choice) == alone(one.choice)
    assert [alone(candidate) for candidate in many.runners_up] == [alone(candidate) for candidate in one.runners_up]
    assert [r for r in many.reasons if r not in one.reasons][:1] == [slot_count(many)]
    assert many.choice.slots == slot_count(many).n_slots
    assert many.choice.footprint.needed_bytes <= many.budget_bytes
    assert many.inputs["slots"] is None


def alone(candidate: Candidate) -> Candidate:
    return replace(candidate, slots=1, footprint=Footprint(0, 0, 0, 0), counted_bytes=0)


def test_their_caches_push_no_layers_off_a_gpu(option, machine) -> None:
    devices = Offload((Device("CUDA0", "A GPU", 8 * GIB),))
    chosen = option("qwen3-4b", "Q4_K_M", machine(64), facts=replace(GGUF, offload=devices), slots=None)
    count = choose_slots(chosen, 16384)

    assert count is not None
    assert chosen.placed_at(16384).gpu_layers == chosen.with_slots(count.n_slots).placed_at(16384).gpu_layers == -1
    assert count.bound == "gpu"
    assert chosen.with_slots(count.n_slots + 1).fits_at(16384)


def test_their_caches_may_move_layers_from_one_gpu_to_another() -> None:
    on, card = profiles.load("desktop-2x-rtx-3090-64gb"), catalog()["gemma-3-27b-it"]
    card = replace(card, files=tuple(file for file in card.files if file.quant == "Q8_0")[:1])
    here = context(on, [card], [replace(GGUF, offload=assumed(on))])
    one, many = (decide(here, SelectionRequest(slots=slots)).choice for slots in (1, None))

    assert one is not None
    assert many is not None
    assert (one.slots, many.slots) == (1, 4)
    assert one.gpu_layers == many.gpu_layers == -1
    assert [part.layers for part in one.parts] != [part.layers for part in many.parts]


def test_a_model_that_only_reads_takes_turns(machine) -> None:
    decision = decided(machine(), SelectionRequest(task="embed", slots=None))

    assert decision.choice is not None
    assert decision.choice.slots == 1
    assert slot_count(decision).bound == "reads"
