"""Random weights for calibration and benchmarks, which are multiplied as fast as trained ones."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

# llama.cpp looks half-precision scales up in a table, and the more different scales there are, the slower that is.
# Scales of trained blocks vary: in SmolLM2 and Gemma 3 the standard deviation of their logarithms is 0.22
# (feed-forward) to 0.44 (tables, attention). One normal distribution gives 0.19, these settings give 0.27. So Q8_0 is
# multiplied at 17 to 19e9 weights per second and Q5_0 at 14, where those models reach 17 to 18 and 13 to 14
# (docs/adr/026).
DEVIATION, BLOCK, SPREAD = 0.02, 32, 0.2


def random_weights(count: int, rng: np.random.Generator) -> npt.NDArray[np.float32]:
    """Shape (count,), a multiple of BLOCK."""
    sizes = DEVIATION * np.exp(SPREAD * rng.standard_normal((count // BLOCK, 1), np.float32))
    weights: npt.NDArray[np.float32] = (rng.standard_normal((count // BLOCK, BLOCK), np.float32) * sizes).reshape(-1)
    return weights
