"""Master weights: the floating-point tensors that a ternary model was trained with, quantized as in training.

`exact` finds a checkpoint whose weights are ternary already, only stored as floats; `quantize` is what BitNet's layers
do on each forward pass: divide by the mean of |w| (at least 1e-5), round half to even, clamp to -1..1 (`WeightQuant` in
transformers' integrations/bitnet.py). The mean is taken in float64.
"""

from __future__ import annotations

import numpy as np

from edgellm.errors import BadArtifact
from edgellm_bitnet.codecs import floats
from edgellm_bitnet.codecs.checks import Raw
from edgellm_bitnet.ternary import Codes, Floats, Ternary

GROUPS = (256, 128, 64, 32)  # block sizes looked for, the largest first; before them one scale for all, then one a row
LEAST_MEAN = 1e-5


def decode(raw: Raw, rows: int, cols: int, *, dtype: str, trained: bool, where: str = "tensor") -> Ternary:
    """Exact where the weights are ternary already; else quantized, if `trained` says that training did the same.

    Raises:
        BadArtifact: wrong length, a value that is no finite number, or weights that are not ternary and not `trained`.
    """
    values = floats.decode(raw, rows * cols, dtype, where=where).reshape(rows, cols)
    if not np.isfinite(values).all():
        at = int((~np.isfinite(values)).argmax())
        raise BadArtifact(f"{where} has {values.flat[at]} at weight {at}", hint="fetch the model again")
    found = exact(values)
    if found is not None:
        return found
    if not trained:
        raise BadArtifact(
            f"{where} is not ternary, and the checkpoint does not say that it was trained to be",
            hint="only ternary models convert to ternary types; llama.cpp's own tools quantize others",
        )
    return quantize(values)


def exact(values: Floats) -> Ternary | None:
    """The same weights as codes and scales, None where they are not ternary in groups of any known size."""
    rows, cols = values.shape
    peak = np.float32(np.abs(values).max(initial=0))
    if _ternary(values, peak):
        return Ternary(_codes(values), np.asarray(peak))
    for group in (cols, *GROUPS):
        if cols % group == 0:
            parts = values.reshape(rows, cols // group, group)
            peaks = np.abs(parts).max(axis=2)
            if _ternary(parts, peaks[:, :, None]):
                return Ternary(_codes(values), peaks, group)
    return None


def quantize(values: Floats) -> Ternary:
    """One scale, the mean of |w|, as BitNet b1.58 trains."""
    mean = np.float32(max(float(np.abs(values).mean(dtype=np.float64)), LEAST_MEAN))
    inverse = np.float32(1) / mean
    codes = (np.clip(np.rint(values * inverse), -1, 1) + 1).astype(np.uint8)
    return Ternary(codes, np.asarray(mean))


def encode(ternary: Ternary, *, dtype: str) -> bytes:
    """The dense weights, rounded to `dtype`."""
    return floats.encode(ternary.dense(), dtype)


def _ternary(values: Floats, peaks: Floats | np.float32) -> bool:
    magnitudes = np.abs(values)
    return bool(((magnitudes == peaks) | (magnitudes == 0)).all())


def _codes(values: Floats) -> Codes:
    return (np.sign(values) + 1).astype(np.uint8)
