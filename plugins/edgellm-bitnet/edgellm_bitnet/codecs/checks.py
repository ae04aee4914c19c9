"""What every codec refuses, in the same words: a wrong length, code 3, an impossible scale."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from edgellm.errors import BadArtifact, UnsupportedArtifact
from edgellm_bitnet.ternary import Codes, Floats

Raw = bytes | bytearray | memoryview | npt.NDArray[np.uint8]

_DAMAGED = "the file is damaged or not what it claims to be; fetch it again"


def blocks(raw: Raw, rows: int, cols: int, *, block: int, n_bytes: int, where: str) -> Codes:
    """`raw` as uint8 (rows * cols // block, n_bytes), blocks lying along the rows.

    Raises:
        BadArtifact: rows are not whole blocks, or `raw` has another length.
    """
    if rows < 1 or cols < 1 or cols % block:
        raise BadArtifact(f"{where} is {rows} x {cols}; rows have to be whole blocks of {block}", hint=_DAMAGED)
    return sized(raw, rows * cols // block * n_bytes, where).reshape(-1, n_bytes)


def sized(raw: Raw, n_bytes: int, where: str) -> Codes:
    """`raw` as flat uint8 of that length.

    Raises:
        BadArtifact: it has another.
    """
    data = np.frombuffer(raw, np.uint8)
    if data.size != n_bytes:
        raise BadArtifact(f"{where} has {data.size} bytes of data, {n_bytes} are wanted", hint=_DAMAGED)
    return data


def refuse_code_3(packed: Codes, where: str, *, meaning: str = "which means no weight", first_byte: int = 0) -> None:
    """`packed` holds four 2-bit codes a byte and is a view into the data, `first_byte` its first byte there.

    Raises:
        BadArtifact: one of them is 3.
    """
    wrong = (packed & (packed >> 1) & 0x55) != 0
    if not wrong.any():
        return
    at = np.unravel_index(int(wrong.argmax()), packed.shape)
    offset = first_byte + sum(int(i) * step for i, step in zip(at, packed.strides, strict=True))
    raise BadArtifact(f"{where} has code 3, {meaning}, in byte {offset} of its data", hint=_DAMAGED)


def checked_scales(scales: Floats, where: str) -> Floats:
    """Raises: BadArtifact: one is negative, infinite or not a number."""
    wrong = ~(np.isfinite(scales) & (scales >= 0))
    if wrong.any():
        at = int(wrong.argmax())
        raise BadArtifact(f"{where} has scale {scales.flat[at]} (number {at} of {scales.size})", hint=_DAMAGED)
    return scales


def half_scales(column: Codes, rows: int, where: str) -> Floats:
    """Scales from the two bytes of each block, (n, 2) in file order, as (rows, blocks a row)."""
    scales = np.ascontiguousarray(column).view("<f2").astype(np.float32)
    return checked_scales(scales.reshape(rows, -1), where)


def as_halves(scales: Floats, where: str) -> Codes:
    """The two bytes of each scale, (n, 2).

    Raises:
        UnsupportedArtifact: float16 changes a scale by more than its rounding, 2**-11.
    """
    with np.errstate(over="ignore"):
        halves = scales.astype("<f2")
    off = np.abs(halves.astype(np.float64) - scales) > np.abs(scales.astype(np.float64)) * 2.0**-11
    if off.any():
        raise UnsupportedArtifact(
            f"{where} has scale {scales[off][0]:g}, which float16 cannot hold",
            hint="choose i2_s: its scales are float32",
        )
    return np.ascontiguousarray(halves.reshape(-1, 1)).view(np.uint8)
