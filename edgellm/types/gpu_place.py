"""Which GPUs compute how much of a model: speeds are learned for each of these apart, and apart from the processor."""

from __future__ import annotations

from typing import Literal

from msgspec import Struct

# All of it; all but routed experts, which the processor computes; some of its layers.
GpuSplit = Literal["whole", "experts", "part"]


class GpuPlace(Struct, frozen=True):
    """`gpus`: library and name of each, sorted: "cuda NVIDIA GeForce RTX 4090". Numbers of devices change."""

    gpus: tuple[str, ...]
    split: GpuSplit
    strange: bool = False  # nothing is known of one of them, so its rates are predicted as those of any GPU
