"""From a vector for each token to one for the text, as sentence-transformers' Pooling does. Padding is left out.

Modes are those of `encoder_folder.MODES`; several are put one after another. States float32 (texts, tokens, width).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]
LEAST = 1e-9  # of a divisor, as there


def pool(states: Floats, lengths: npt.NDArray[np.int64], modes: Sequence[str]) -> Floats:
    """float32 (texts, width * modes). Sequences are at the beginning of their rows."""
    vectors = [_one(states, lengths, mode) for mode in modes]
    return vectors[0] if len(vectors) == 1 else np.concatenate(vectors, axis=1)


def _one(states: Floats, lengths: npt.NDArray[np.int64], mode: str) -> Floats:
    if mode == "cls":
        return np.ascontiguousarray(states[:, 0])
    if mode == "last":
        return states[np.arange(len(states)), lengths - 1]
    mask = np.arange(states.shape[1]) < lengths[:, None]
    if mode == "max":
        return np.asarray(np.where(mask[:, :, None], states, -np.inf).max(axis=1), np.float32)
    weights = mask.astype(np.float32)
    if mode == "weightedmean":
        weights *= np.arange(1, states.shape[1] + 1, dtype=np.float32)
    # A product of matrices: what is padded is multiplied by zero and not read into a copy first.
    total = (weights[:, None, :] @ states)[:, 0]
    divisor = np.maximum(weights.sum(axis=1), LEAST)
    if mode == "mean_sqrt_len":
        divisor = np.sqrt(divisor)
    return np.asarray(total / divisor[:, None], np.float32)
