"""A plan for GPUs, held against what the backend's library would reserve there: asked where the file is on this disk.

Of any name scratch is predicted by a formula. What the library takes beyond that is room that the decision did not
have, so it is taken again without it.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from msgspec import structs

from edgellm.contract.answers import answer
from edgellm.contract.backend import Device, Reserver
from edgellm.contract.manager import plugins
from edgellm.errors import EdgeLLMError
from edgellm.selection.backend_facts import BackendFacts
from edgellm.selection.context import SelectionContext
from edgellm.types.backend_reason import GpuLayers, ScratchAsked, ScratchNotTold
from edgellm.types.model import Artifact
from edgellm.types.plan import Candidate, Decision, LaunchPlan
from edgellm.units import MIB

NEAR_BYTES = 32 * MIB  # as near as predictions are to be: what stays free on each device takes it
MOST_TIMES = 4  # that a decision is taken again


@dataclass(slots=True)
class Reserved:
    """What was asked for one launch."""

    _counted: dict[str, int] = field(default_factory=dict)  # by device, bytes that the decision does without
    _missing: dict[str, int] = field(default_factory=dict)  # and those that it has still to do without
    _of: str = ""  # the backend of these devices
    _times: int = 0
    _note: ScratchAsked | ScratchNotTold | None = None
    _beyond: int = 0  # of all devices, what the last choice takes beyond its prediction

    def holds(self, choice: Candidate, artifact: Artifact) -> bool:
        """Whether the choice has room for what the library would reserve; where not, decide again `in_room`."""
        self._note, self._beyond, self._missing = None, 0, {}
        backend = plugins().backend(choice.backend)
        if not choice.parts or not isinstance(backend, Reserver):
            return True
        predicted = {part.name: part.scratch_bytes for part in choice.parts}
        try:
            told = answer(backend, "scratch", artifact, choice.settings)
            reserved = {name: told[name] for name in predicted}
        except EdgeLLMError as error:
            self._note = ScratchNotTold(choice.backend, error.message)
            return True
        except KeyError as error:
            self._note = ScratchNotTold(choice.backend, f"it names no scratch of {error.args[0]}")
            return True
        self._note = ScratchAsked(choice.backend, sum(reserved.values()), sum(predicted.values()))
        beyond = {name: reserved[name] - predicted[name] for name in predicted}
        self._beyond = sum(n for part in choice.parts if part.n_bytes and (n := beyond[part.name]))
        missing = {name: n - self._counted.get(name, 0) for name, n in beyond.items()}
        if self._times == MOST_TIMES or max(missing.values()) <= NEAR_BYTES:
            return True
        self._times, self._of = self._times + 1, choice.backend
        self._missing = {name: n for name, n in missing.items() if n > 0}
        self._counted |= {name: beyond[name] for name in self._missing}
        return False

    def in_room(self, context: SelectionContext) -> SelectionContext:
        """The context with so much less free on the devices."""

        def less(device: Device) -> Device:
            free = device.total_bytes if device.free_bytes is None else device.free_bytes
            return replace(device, free_bytes=max(0, free - self._missing.get(device.name, 0)))

        def with_less(facts: BackendFacts) -> BackendFacts:
            if facts.name != self._of or facts.offload is None:
                return facts
            return replace(facts, offload=replace(facts.offload, devices=tuple(map(less, facts.offload.devices))))

        return replace(context, backends=tuple(map(with_less, context.backends)))

    def told(self, decision: Decision) -> Decision:
        """With what was answered, behind what is said of layers."""
        note = () if self._note is None else (self._note,)
        rows = ((why, *note) if isinstance(why, GpuLayers) else (why,) for why in decision.reasons)
        return replace(decision, reasons=tuple(why for row in rows for why in row))

    def planned(self, plan: LaunchPlan) -> LaunchPlan:
        """With the bytes of devices as they will be."""
        if plan.footprint is None or not self._beyond:
            return plan
        held = plan.footprint.device_bytes + self._beyond
        return replace(plan, footprint=structs.replace(plan.footprint, device_bytes=held))
