"""What a plan needs of a build for GPUs: here, what such a build would give; elsewhere, which one is assumed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from edgellm.errors import BackendUnavailable, NothingFits
from edgellm.selection.context import SelectionContext
from edgellm.selection.offload import assumed
from edgellm.types.backend_reason import BuildNeeded, GpuWouldGive
from edgellm.types.plan import Decision
from edgellm.types.request import SelectionRequest

Decide = Callable[[SelectionContext, SelectionRequest], Decision]
SETUP = "edgellm gpu setup"
# As devices of a build are called, and what that build is asked for with; Metal is in the ordinary build.
_FLAGS = {"CUDA": ("CUDA", "--cuda"), "Vulkan": ("Vulkan", "--vulkan"), "ROCm": ("HIP", "--hip")}


def with_builds(decision: Decision, context: SelectionContext, request: SelectionRequest, decide: Decide) -> Decision:
    """The decision, and first of its reasons what a build would give that is not here, or which one it assumes."""
    fact = _would_give(decision, context, request, decide) if context.is_here else _needed(decision)
    return decision if fact is None else replace(decision, reasons=(fact, *decision.reasons))


def _needed(decision: Decision) -> BuildNeeded | None:
    parts = decision.choice.parts if decision.choice is not None else ()
    for part in parts:
        if (build := _FLAGS.get(part.name.rstrip("0123456789"))) is not None:
            names = ", ".join(part.description for part in parts)
            return BuildNeeded(names, build[0], f"{SETUP} {build[1]}")
    return None


def _would_give(
    decision: Decision, context: SelectionContext, request: SelectionRequest, decide: Decide
) -> GpuWouldGive | None:
    """None where every GPU can be used, where none is worth it, and where none is wanted."""
    lacking = {b.name: b.offload for b in context.backends if b.offload and not b.offload.devices and b.offload.remedy}
    if not lacking or request.gpu_layers is not None or not context.machine.accelerators:
        return None
    built = assumed(context.machine)
    backends = tuple(replace(b, offload=built) if b.name in lacking else b for b in context.backends)
    try:
        choice = decide(replace(context, backends=backends, load=None), request).choice
    except (NothingFits, BackendUnavailable):
        return None
    if choice is None or not choice.parts:
        return None
    return GpuWouldGive(
        devices=", ".join(part.description for part in choice.parts),
        vram_bytes=sum(a.vram_bytes or 0 for a in context.machine.accelerators if not a.unified),
        model=choice.model,
        quant=choice.quant,
        tok_s=choice.decode.tok_s,
        low=choice.decode.low,
        high=choice.decode.high,
        instead_tok_s=None if decision.choice is None else decision.choice.decode.tok_s,
        remedy=next(offload.remedy for offload in lacking.values()),
    )
