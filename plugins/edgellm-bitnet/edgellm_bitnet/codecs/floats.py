"""Plain floating-point tensors: bytes of F32, F16 and BF16 to float32 and back."""

from __future__ import annotations

import numpy as np

from edgellm_bitnet.codecs.checks import Raw, sized
from edgellm_bitnet.ternary import Codes, Floats

BYTES = {"F32": 4, "F16": 2, "BF16": 2}


def decode(raw: Raw, count: int, dtype: str, *, where: str = "tensor") -> Floats:
    """`count` values as float32, flat. Raises: BadArtifact: wrong length."""
    data: Codes = sized(raw, count * BYTES[dtype], where)
    if dtype == "BF16":
        return (data.view("<u2").astype(np.uint32) << 16).view(np.float32)
    return data.view("<f4" if dtype == "F32" else "<f2").astype(np.float32)


def encode(values: Floats, dtype: str) -> bytes:
    """Rounded to the nearest, ties to even; what float16 cannot hold becomes infinite, as a cast does."""
    flat = np.ascontiguousarray(values, np.float32).reshape(-1)
    if dtype == "BF16":
        bits = flat.view(np.uint32)
        rounded = (bits + 0x7FFF + (bits >> 16 & 1)) >> 16
        return np.where(np.isnan(flat), bits >> 16 | 0x40, rounded).astype("<u2").tobytes()
    with np.errstate(over="ignore"):
        return flat.astype("<f4" if dtype == "F32" else "<f2").tobytes()
