"""Tables of rotations, as llama.cpp computes them (`ggml_rope_cache_init`).

YaRN: arXiv:2309.00071, equations 17 to 21.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from edgellm_onnx.convert_source import Floats


@dataclass(frozen=True, slots=True)
class Rope:
    """How positions turn the components of a head."""

    base: float
    kind: str = "none"  # "none", "linear" or "yarn"
    factor: float = 1.0
    original_ctx: int = 0
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    magnitude: float = 1.0  # `rope.scaling.attn_factor`


def tables(rope: Rope, n_ctx: int, dim: int, divisors: Floats | None) -> tuple[Floats, Floats]:
    """(cosines, sines), float32 (n_ctx, dim / 2). `divisors` of the frequencies come from `rope_freqs.weight`."""
    frequency = rope.base ** (-np.arange(0, dim, 2, dtype=np.float64) / dim)
    if divisors is not None:
        frequency = frequency / divisors.astype(np.float64)
    magnitude = rope.magnitude
    if rope.kind == "linear":
        frequency = frequency / rope.factor
    elif rope.kind == "yarn":
        kept = _kept(rope, dim)
        frequency = frequency / rope.factor * (1 - kept) + frequency * kept
        magnitude *= 1 + 0.1 * math.log(rope.factor)
    angle = np.arange(n_ctx, dtype=np.float64)[:, None] * frequency[None, :]
    return (np.cos(angle) * magnitude).astype(np.float32), (np.sin(angle) * magnitude).astype(np.float32)


def _kept(rope: Rope, dim: int) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    """How much of its frequency each component keeps: fast ones all, slow ones nothing."""

    def component(rotations: float) -> float:
        return dim * math.log(rope.original_ctx / (rotations * 2 * math.pi)) / (2 * math.log(rope.base))

    low = max(0.0, math.floor(component(rope.beta_fast)))
    high = min(dim - 1.0, math.ceil(component(rope.beta_slow)))
    ramp = (np.arange(dim // 2, dtype=np.float64) - low) / max(0.001, high - low)
    return 1 - np.clip(ramp, 0.0, 1.0)
