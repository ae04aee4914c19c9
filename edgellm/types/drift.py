"""A number that came out otherwise than it was predicted, as data. See `edgellm.types.reason`."""

from __future__ import annotations

from typing import Literal

from edgellm.types.basis import Fact


class Drift(Fact, frozen=True):
    """One number of a load: a rate in tokens per second, or memory in bytes."""

    quantity: Literal["decode", "prompts", "memory"]
    model: str
    quant: str
    measured: float
    predicted: float  # with what earlier runs had taught
    waited: float | None = None  # share of the time that other programs had the processors; None = not notable
    gpu_busy: float | None = None  # the same, of its GPUs
