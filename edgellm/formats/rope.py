"""How positions turn the components of a head: what a model says of it, and the tables of cosines and sines.

Computed in float64, in the order of operations of llama.cpp (`ggml_rope_cache_init`). Sources: RoPE arXiv:2104.09864;
YaRN arXiv:2309.00071, equations 17 to 22; Llama 3.1's stretching as in its reference code.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt


@dataclass(frozen=True, slots=True)
class RopeScaling:
    """How rotations are stretched beyond the trained context."""

    kind: str = "none"  # "none", "linear", "yarn", "llama3"
    factor: float = 1.0
    original_ctx: int = 0
    beta_fast: float = 32.0  # "llama3": high_freq_factor
    beta_slow: float = 1.0  # "llama3": low_freq_factor
    magnitude: float = 1.0  # of the rotations; "yarn"


def yarn_magnitude(factor: float) -> float:
    """What cosine and sine are multiplied with (equation 22)."""
    return 0.1 * math.log(factor) + 1.0


def tables(
    n_ctx: int, dim: int, base: float, scaling: RopeScaling, divisors: npt.NDArray[np.float32] | None = None
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """(cosines, sines), float32 (n_ctx, dim / 2). `divisors` of the frequencies come from a file's `rope_freqs`."""
    import numpy as np

    frequency = frequencies(dim, base)
    if divisors is not None:
        frequency = frequency / divisors.astype(np.float64)
    if scaling.kind == "linear":
        frequency = frequency / scaling.factor
    elif scaling.kind in ("yarn", "llama3"):
        kept = _yarn_kept(dim, base, scaling) if scaling.kind == "yarn" else llama3_kept(frequency, scaling)
        frequency = frequency / scaling.factor * (1 - kept) + frequency * kept
    angle = np.arange(n_ctx, dtype=np.float64)[:, None] * frequency[None, :]
    cosines, sines = np.cos(angle) * scaling.magnitude, np.sin(angle) * scaling.magnitude
    return cosines.astype(np.float32), sines.astype(np.float32)


def frequencies(dim: int, base: float) -> npt.NDArray[np.float64]:
    """Radians a position, of each pair of components, before they are stretched."""
    import numpy as np

    return np.asarray(base ** (-np.arange(0, dim, 2, dtype=np.float64) / dim))


def llama3_kept(frequency: npt.NDArray[np.float64], scaling: RopeScaling) -> npt.NDArray[np.float64]:
    """How much of its frequency each component keeps, by the turns that it makes in the trained context."""
    high, low = scaling.beta_fast, scaling.beta_slow
    turns = scaling.original_ctx * frequency / (2 * math.pi)
    return ((turns - low) / (high - low)).clip(0.0, 1.0)


def _yarn_kept(dim: int, base: float, scaling: RopeScaling) -> npt.NDArray[np.float64]:
    """The same of YaRN: fast components keep all, slow ones nothing."""
    import numpy as np

    def component(rotations: float) -> float:
        return dim * math.log(scaling.original_ctx / (rotations * 2 * math.pi)) / (2 * math.log(base))

    low = max(0, math.floor(component(scaling.beta_fast)))
    high = min(dim - 1, math.ceil(component(scaling.beta_slow)))
    return 1 - ((np.arange(dim // 2) - low) / max(0.001, high - low)).clip(0.0, 1.0)
