"""Random weights that are multiplied as fast as trained ones: what a calibration and a benchmark lay out."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

# llama.cpp looks half-precision scales up in a table, and how many different ones there are decides how fast. Trained
# blocks differ in size: logarithms of scales deviate by 0.22 (feed-forward) to 0.44 (tables, attention) in SmolLM2 and
# Gemma 3, by 0.19 in one normal distribution, by 0.27 with this: Q8_0 is multiplied at 17 to 19e9 weights per second,
# Q5_0 at 14 (theirs at 17 to 18 and 13 to 14; docs/adr/026).
DEVIATION, BLOCK, SPREAD = 0.02, 32, 0.2


def random_weights(count: int, rng: np.random.Generator) -> npt.NDArray[np.float32]:
    """Shape (count,), a multiple of BLOCK."""
    sizes = DEVIATION * np.exp(SPREAD * rng.standard_normal((count // BLOCK, 1), np.float32))
    weights: npt.NDArray[np.float32] = (rng.standard_normal((count // BLOCK, BLOCK), np.float32) * sizes).reshape(-1)
    return weights
