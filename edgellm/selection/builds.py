"""What a plan needs of a build for GPUs: here, what such a build would give; elsewhere, which one is assumed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

from edgellm.errors import BackendUnavailable, NothingFits
from edgellm.selection.context import SelectionContext
from edgellm.selection.offload import assumed
from edgellm.types.backend_reason import BuildNeeded, GpuWouldGive
from edgellm.types.build_api import DEVICE_NAMES
from edgellm.types.plan import Decision
from edgellm.types.request import SelectionRequest

Decide = Callable[[SelectionContext, SelectionRequest], Decision]
SETUP = "edgellm gpu setup"


def with_builds(decision: Decision, context: SelectionContext, request: SelectionRequest, decide: Decide) -> Decision:
    """The decision, and first of its reasons what a build would give that is not here, or which ones it assumes."""
    if not context.is_here:
        return replace(decision, reasons=(*_needed(decision), *decision.reasons))
    fact = _would_give(decision, context, request, decide)
    return decision if fact is None else replace(decision, reasons=(fact, *decision.reasons))


def _needed(decision: Decision) -> Iterator[BuildNeeded]:
    """One for each library whose devices the choice is on; Metal is in the ordinary build."""
    parts = decision.choice.parts if decision.choice is not None else ()
    for api, name in DEVICE_NAMES.items():
        devices = [part.description for part in parts if part.name.rstrip("0123456789") == name]
        if devices and api != "metal":
            yield BuildNeeded(", ".join(devices), name, f"{SETUP} --{api}")


def _would_give(
    decision: Decision, context: SelectionContext, request: SelectionRequest, decide: Decide
) -> GpuWouldGive | None:
    """None where every GPU can be used, where none is worth it, and where none is wanted."""
    lacking = {b.name: b.offload for b in context.backends if b.offload and not b.offload.devices and b.offload.remedy}
    if not lacking or request.gpu_layers is not None or not context.machine.accelerators:
        return None
    built = {name: assumed(context.machine, offload.builds) for name, offload in lacking.items()}
    backends = tuple(replace(b, offload=built[b.name]) if b.name in lacking else b for b in context.backends)
    try:
        choice = decide(replace(context, backends=backends, load=None), request).choice
    except (NothingFits, BackendUnavailable):
        return None
    if choice is None or not choice.parts:
        return None
    devices = [device for offload in built.values() for device in offload.devices]
    own = {device.name: device.total_bytes for device in devices if not device.unified}
    return GpuWouldGive(
        devices=", ".join(part.description for part in choice.parts),
        vram_bytes=sum(own.get(part.name, 0) for part in choice.parts),
        model=choice.model,
        quant=choice.quant,
        tok_s=choice.decode.tok_s,
        low=choice.decode.low,
        high=choice.decode.high,
        instead_tok_s=None if decision.choice is None else decision.choice.decode.tok_s,
        remedy=next(offload.remedy for offload in lacking.values()),
    )
