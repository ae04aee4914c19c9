"""Names of what ONNX weights are stored in, for the core's table of quantizations."""

from __future__ import annotations

from edgellm.estimate.quants import Quant

QUANTS = (
    Quant(
        "INT4", "legacy", 5.0, "Q4_0", "4-bit blocks of 32 with one scale (ONNX MatMulNBits)",
        "ONNX models on processors: smallest and fastest", ("Q4_0", 1.0), mainline=False,
    ),
    Quant(
        "INT8", "legacy", 9.0, "Q8_0", "8-bit blocks of 32 with one scale (ONNX MatMulNBits)",
        "ONNX models with memory to spare: virtually no loss", ("Q8_0", 1.0), mainline=False,
    ),
)  # fmt: skip
