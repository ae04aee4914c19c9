"""What a library says it would reserve on GPUs counts in the decision, before anything is loaded."""

from __future__ import annotations

from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

import pytest
from support.contexts import context
from support.words import said

from edgellm.app.reserved import MOST_TIMES, NEAR_BYTES, Reserved
from edgellm.catalog.lookup import catalog
from edgellm.contract.backend import Device, Offload
from edgellm.errors import BackendUnavailable
from edgellm.selection.backend_facts import BackendFacts
from edgellm.selection.context import SelectionContext
from edgellm.selection.decide import decide
from edgellm.types.backend_reason import ScratchAsked, ScratchNotTold
from edgellm.types.machine import Accelerator, Cpu, Machine, Memory
from edgellm.types.model import Artifact
from edgellm.types.plan import Candidate, Decision, Footprint, LaunchPlan, Settings
from edgellm.types.request import SelectionRequest

GIB, MIB = 1024**3, 1024**2
MODEL = "qwen3-14b"  # more than the GPU holds
CPU = Cpu("x86_64", "a CPU", cores=8, threads=16, isa=("avx2", "f16c", "fma"))
MACHINE = Machine(
    "desk", "Desk", CPU, Memory(64 * GIB, 60 * GIB, bandwidth_gb_s=60.0),
    accelerators=(Accelerator("cuda", "NVIDIA GeForce RTX 3060", 8 * GIB, 8 * GIB),),
)  # fmt: skip
FILE = Artifact("gguf", ("/none/model.gguf",), MODEL, "Q4_K_M")
REQUEST = SelectionRequest(ctx=8192)


class Library:
    """A backend that tells scratch: of layers by a function, or an error."""

    name = "gguf"

    def __init__(self, told: Any) -> None:
        self._told = told
        self.asked: list[Settings] = []

    def scratch(self, artifact: Artifact, settings: Settings) -> Mapping[str, int]:
        self.asked.append(settings)
        if isinstance(self._told, Exception):
            raise self._told
        told: Mapping[str, int] = self._told(settings) if callable(self._told) else self._told
        return told


def here() -> SelectionContext:
    offload = Offload((Device("CUDA0", "NVIDIA GeForce RTX 3060", 8 * GIB),))
    facts = BackendFacts("gguf", frozenset({"gguf"}), offload=offload)
    return context(MACHINE, [catalog()[MODEL]], [facts])


def planned(told: Any, monkeypatch: pytest.MonkeyPatch) -> tuple[Candidate, Decision, Reserved, Library]:
    """As `launch` does it."""
    library = Library(told)
    monkeypatch.setattr("edgellm.app.reserved.plugins", lambda: SimpleNamespace(backend=lambda name: library))
    reserved, now = Reserved(), here()
    while True:
        decision = decide(now, REQUEST)
        assert decision.choice is not None
        if reserved.holds(decision.choice, FILE):
            return decision.choice, decision, reserved, library
        now = reserved.in_room(now)


def scratch_of(choice: Candidate) -> int:
    return sum(part.scratch_bytes for part in choice.parts)


def test_what_is_as_predicted_stands(monkeypatch: pytest.MonkeyPatch) -> None:
    before = decide(here(), REQUEST).choice
    assert before is not None
    assert before.parts
    predicted = scratch_of(before)
    choice, decision, reserved, library = planned({"CUDA0": predicted + NEAR_BYTES}, monkeypatch)
    assert choice == before
    assert len(library.asked) == 1
    (note,) = [why for why in reserved.told(decision).reasons if isinstance(why, ScratchAsked)]
    assert (note.reserved_bytes, note.predicted_bytes) == (predicted + NEAR_BYTES, predicted)
    assert "as gguf's library says before it loads" in " ".join(said(reserved.told(decision)))
    plan = LaunchPlan("gguf", FILE, choice.settings, footprint=choice.footprint)
    held = reserved.planned(plan).footprint
    assert held is not None
    assert held.device_bytes == choice.footprint.device_bytes + NEAR_BYTES


def test_more_than_was_predicted_takes_layers_away(monkeypatch: pytest.MonkeyPatch) -> None:
    before = decide(here(), REQUEST).choice
    assert before is not None
    more = 900 * MIB
    choice, _, _, library = planned({"CUDA0": scratch_of(before) + more}, monkeypatch)
    (part,), (first,) = choice.parts, before.parts
    assert part.layers < first.layers
    # All that it takes has room, as the library has it.
    beyond = scratch_of(before) + more - part.scratch_bytes
    room = first.n_bytes  # at most so much was free for it, less a block
    assert part.n_bytes + beyond <= room + max(first.n_bytes // first.layers, NEAR_BYTES)
    assert len(library.asked) <= MOST_TIMES


def test_a_library_that_always_wants_more_is_not_asked_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def more(settings: Settings) -> Mapping[str, int]:
        asked.append(settings)
        return {"CUDA0": len(asked) * 2 * GIB}

    choice, *_ = planned(more, monkeypatch)
    assert len(asked) <= MOST_TIMES + 1
    assert isinstance(choice.footprint, Footprint)


@pytest.mark.parametrize("told", [BackendUnavailable("no driver answers"), {"CUDA9": 1}, {"CUDA0": "many"}])
def test_where_it_does_not_tell_the_prediction_stands_and_that_is_said(
    told: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edgellm.contract.manager.Plugins.blame", lambda *_: None)
    choice, decision, reserved, _ = planned(told, monkeypatch)
    assert choice == decide(here(), REQUEST).choice
    (note,) = [why for why in reserved.told(decision).reasons if isinstance(why, ScratchNotTold)]
    assert note.why


def test_nothing_is_asked_of_a_plan_for_the_processor(monkeypatch: pytest.MonkeyPatch) -> None:
    library = Library(AssertionError("asked"))
    monkeypatch.setattr("edgellm.app.reserved.plugins", lambda: SimpleNamespace(backend=lambda name: library))
    choice = decide(here(), SelectionRequest(gpu_layers=0)).choice
    assert choice is not None
    assert Reserved().holds(choice, FILE)
