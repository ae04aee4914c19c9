"""The sentence of a reason, whatever its noun."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, get_args

from edgellm.explain import choice, plan, quantizing, sampling
from edgellm.types.backend_reason import BackendReason, GpuReason
from edgellm.types.criterion import Stated
from edgellm.types.model_reason import ModelReason
from edgellm.types.quantize_note import QuantizeNote
from edgellm.types.reason import ContextReason, MemoryReason, PlacementReason, Reason, SelectionReason, SpeedReason
from edgellm.types.sampling_defaults import SamplingDefaults

_SENTENCES: dict[type, Callable[[Any], str]] = {
    kind: say
    for kinds, say in (
        (MemoryReason, plan.memory),
        (ContextReason, plan.context),
        (BackendReason, plan.backend),
        (GpuReason, lambda reason: f"GPU: {plan.gpu(reason)}."),
        (SpeedReason, plan.speed),
        (PlacementReason, plan.placement),
        (ModelReason, choice.model),
        (SelectionReason, choice.selection),
        (SamplingDefaults, sampling.sampling),
        (QuantizeNote, quantizing.note),
        (Stated, lambda reason: reason.text),
    )
    for kind in (get_args(kinds) or (kinds,))
}


def sentence(reason: Reason | QuantizeNote) -> str:
    """One reason of a plan, a decision or a quantization: `"Context: 8,192 tokens per slot, as asked."`."""
    return _SENTENCES[type(reason)](reason)
