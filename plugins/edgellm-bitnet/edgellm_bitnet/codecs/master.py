"""Master weights: the floating-point tensors that a ternary model was trained with, quantized as in training.

`exact` finds a checkpoint whose weights are ternary already, only stored as floats; `quantize` is what BitNet's layers
do on each forward pass: divide by the mean of |w| (at least 1e-5), round half to even, clamp to -1..1 (`WeightQuant` in
transformers' integrations/bitnet.py). The mean is taken in float64.
"""

from __future__ import annotations

import numpy as np

from edgellm.errors import BadArtifact, UnsupportedArtifact
from edgellm_bitnet.codecs import floats
from edgellm_bitnet.codecs.checks import Raw
from edgellm_bitnet.ternary import Floats, Ternary

GROUPS = (256, 128, 64, 32)  # block sizes looked for, the largest first; before them one scale for all, then one a row
LEAST_MEAN = 1e-5


def decode(raw: Raw, rows: int, cols: int, *, dtype: str, trained: bool, where: str = "tensor") -> Ternary:
    """Exact where the weights are ternary already; else quantized, if `trained` says that training did the same.

    Raises:
        BadArtifact: wrong length, or a value that is no finite number.
        UnsupportedArtifact: weights that are not ternary and not `trained`.
    """
    values = checked(raw, rows, cols, dtype=dtype, where=where)
    return exact(values) or quantize(values, trained=trained, where=where)


def checked(raw: Raw, rows: int, cols: int, *, dtype: str, where: str) -> Floats:
    """float32 (rows, cols). Raises: BadArtifact: empty, wrong length, or a value that is no finite number."""
    if rows < 1 or cols < 1:
        raise BadArtifact(f"{where} is {rows} x {cols}, a matrix without weights", hint="fetch the model again")
    values = floats.decode(raw, rows * cols, dtype, where=where).reshape(rows, cols)
    if not np.isfinite(values).all():
        at = int((~np.isfinite(values)).argmax())
        raise BadArtifact(f"{where} has {values.flat[at]} at weight {at}", hint="fetch the model again")
    return values


def exact(values: Floats) -> Ternary | None:
    """The same weights as codes and scales, None where they are not ternary in groups of any known size."""
    cols = values.shape[1]
    for group in (0, cols, *GROUPS):
        if (group and cols % group) or _peaks(values[:1], group) is None:
            continue
        peaks = _peaks(values, group)
        if peaks is not None:
            return Ternary((np.sign(values) + 1).astype(np.uint8), peaks, group)
    return None


def _peaks(values: Floats, group: int) -> Floats | None:
    """Scales, () or (rows, cols // group), where every magnitude is 0 or its group's largest; else None."""
    rows, cols = values.shape
    magnitudes = np.abs(values).reshape((rows, cols // group, group) if group else (1, -1))
    peaks = magnitudes.max(axis=-1)
    if ((magnitudes != peaks[..., None]) & (magnitudes != 0)).any():
        return None
    return np.asarray(peaks if group else peaks[0], np.float32)


def quantize(values: Floats, *, trained: bool, where: str = "tensor") -> Ternary:
    """One scale, the mean of |w|, as BitNet b1.58 trains.

    Raises:
        UnsupportedArtifact: not `trained` that way, so that this would be another model.
    """
    if not trained:
        raise UnsupportedArtifact(
            f"{where} is not ternary, and the checkpoint does not say that it was trained to be",
            hint="only ternary models convert to ternary types; llama.cpp's own tools quantize others",
        )
    mean = np.float32(max(float(np.abs(values).mean(dtype=np.float64)), LEAST_MEAN))
    inverse = np.float32(1) / mean
    codes = (np.clip(np.rint(values * inverse), -1, 1) + 1).astype(np.uint8)
    return Ternary(codes, np.asarray(mean))


def encode(ternary: Ternary, *, dtype: str) -> bytes:
    """The dense weights, rounded to `dtype`."""
    return floats.encode(ternary.dense(), dtype)
