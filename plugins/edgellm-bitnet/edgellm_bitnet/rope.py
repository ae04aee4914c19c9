"""Tables of rotations: cosine and sine for each position and pair of components.

Sources: RoPE arXiv:2104.09864; YaRN arXiv:2309.00071, equations 17 to 21; Llama 3.1's stretching as in its
reference code (wavelengths between the trained context over `high` and over `low` are blended).
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from edgellm_bitnet.architecture import RopeScaling


def table(
    n_ctx: int, dim: int, theta: float, scaling: RopeScaling, factors: npt.NDArray[np.float32] | None = None
) -> npt.NDArray[np.float32]:
    """float32 (n_ctx, dim // 2, 2): cosine, sine. `factors` (dim // 2) divide the frequencies, from `rope_freqs`."""
    frequency = theta ** (-np.arange(0, dim, 2, dtype=np.float64) / dim)
    magnitude = 1.0
    if factors is not None:
        frequency = frequency / factors.astype(np.float64)
    if scaling.kind == "linear":
        frequency = frequency / scaling.factor
    elif scaling.kind == "yarn":
        frequency = _yarn(frequency, dim, theta, scaling)
        magnitude = scaling.magnitude
    elif scaling.kind == "llama3":
        frequency = _llama3(frequency, scaling)
    angle = np.arange(n_ctx, dtype=np.float64)[:, None] * frequency[None, :]
    return np.stack([np.cos(angle) * magnitude, np.sin(angle) * magnitude], axis=-1).astype(np.float32)


def _yarn(frequency: npt.NDArray[np.float64], dim: int, theta: float, scaling: RopeScaling) -> npt.NDArray[np.float64]:
    """Fast components keep their frequency, slow ones are stretched, those between are blended."""

    def component(rotations: float) -> float:
        return dim * math.log(scaling.original_ctx / (rotations * 2 * math.pi)) / (2 * math.log(theta))

    low = max(0, math.floor(component(scaling.beta_fast)))
    high = min(dim - 1, math.ceil(component(scaling.beta_slow)))
    stretched = np.clip((np.arange(dim // 2) - low) / max(0.001, high - low), 0.0, 1.0)
    return frequency / scaling.factor * stretched + frequency * (1.0 - stretched)


def _llama3(frequency: npt.NDArray[np.float64], scaling: RopeScaling) -> npt.NDArray[np.float64]:
    high, low = scaling.beta_fast, scaling.beta_slow  # high_freq_factor, low_freq_factor
    turns = scaling.original_ctx * frequency / (2 * math.pi)
    smooth = np.clip((turns - low) / (high - low), 0.0, 1.0)
    return frequency / scaling.factor * (1.0 - smooth) + frequency * smooth
