"""Packed weights of Hugging Face's BitNet checkpoints: uint8 (rows / 4, cols), one `weight_scale` beside them.

Bits 2i+1..2i of byte [r, c] are the code of row i * rows / 4 + r (`pack_weights` in transformers'
integrations/bitnet.py). What the scale does depends on `quantization_config.linear_class`: the output is multiplied by
it in `autobitlinear` (2B-4T) and divided by it in `bitlinear` (1bitLLM, Falcon).
"""

from __future__ import annotations

from typing import Literal

import numpy as np

from edgellm.errors import BadArtifact, UnsupportedArtifact
from edgellm_bitnet.codecs.checks import Raw, checked_scales, refuse_code_3, sized
from edgellm_bitnet.ternary import Ternary

LinearClass = Literal["autobitlinear", "bitlinear"]


def decode(
    raw: Raw, rows: int, cols: int, *, weight_scale: float, linear_class: LinearClass, where: str = "tensor"
) -> Ternary:
    """`rows` counts weights, four times the rows of the stored tensor.

    Raises:
        BadArtifact: wrong length, code 3, or a scale that is none.
    """
    if rows < 4 or rows % 4 or cols < 1:
        raise BadArtifact(f"{where} is {rows} x {cols}; packed rows come in fours", hint="fetch the model again")
    packed = sized(raw, rows // 4 * cols, where).reshape(rows // 4, cols)
    refuse_code_3(packed, where)
    codes = np.empty((4, rows // 4, cols), np.uint8)
    for lane in range(4):
        np.bitwise_and(packed >> (2 * lane), 3, out=codes[lane])
    scale = np.float32(weight_scale)
    if linear_class == "bitlinear":
        with np.errstate(divide="ignore", over="ignore"):
            scale = np.float32(1) / scale
    checked = checked_scales(np.full(1, scale, np.float32), f"weight_scale of {where}, as {linear_class} means it,")
    return Ternary(codes.reshape(rows, cols), checked.reshape(()))


def encode(ternary: Ternary, *, linear_class: LinearClass, where: str = "tensor") -> tuple[bytes, np.float32]:
    """(codes, weight_scale). Raises: UnsupportedArtifact: several scales, or rows that do not come in fours."""
    scale = ternary.one_scale(where, target="a packed checkpoint")
    if ternary.rows % 4:
        raise UnsupportedArtifact(f"{where} has {ternary.rows} rows, packed ones come in fours", hint="choose i2_s")
    lanes = ternary.codes.reshape(4, ternary.rows // 4, ternary.cols)
    packed = lanes[0] | lanes[1] << 2 | lanes[2] << 4 | lanes[3] << 6
    return packed.tobytes(), scale if linear_class == "autobitlinear" else np.float32(1) / scale
