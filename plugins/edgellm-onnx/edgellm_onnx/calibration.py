"""How fast onnxruntime consumes weights here, measured by running its own kernels. In a worker only.

A graph of one product for each kind, with a matrix larger than the last-level cache: decode is one token, prefill 512.
INT4 and INT8 are MatMulNBits of 4 and 8 bits in blocks of 32 with activations rounded to 8 bits (accuracy level 4), F32
is MatMul.
"""

from __future__ import annotations

import statistics
import time

import numpy as np
import numpy.typing as npt
import onnxruntime
from onnx import NodeProto, TensorProto, helper, numpy_helper

from edgellm.types.calibration import CALIBRATED_ROW, Calibration

COLS = CALIBRATED_ROW
DECODE_BYTES = 64 << 20  # more than the last-level cache of most processors
PREFILL_ROWS, PREFILL_TOKENS = 1024, 512
BLOCK, LEVEL = 32, 4
BITS = {"INT4": 4, "INT8": 8, "F32": 32}
PASSES, ROUNDS = 2, 3


def calibrate(threads: tuple[int, ...]) -> Calibration:
    """1e9 weights per second, by (type, threads); medians of ROUNDS rounds."""
    decode, prefill = {}, {}
    for name, bits in BITS.items():
        rows = DECODE_BYTES * 8 // bits // COLS
        large, small = _model(bits, rows), _model(bits, PREFILL_ROWS)
        for count in threads:
            decode[name, count] = _rate(large, rows, 1, count)
            prefill[name, count] = _rate(small, PREFILL_ROWS, PREFILL_TOKENS, count)
    return Calibration(decode, prefill, build=f"onnxruntime {onnxruntime.__version__}")


def _model(bits: int, rows: int) -> bytes:
    """A graph `y = x W` as bytes. Any bits are codes; floats and scales are small."""
    rng = np.random.default_rng(0)
    weights: dict[str, npt.NDArray[np.generic]]
    if bits == 32:
        weights = {"w": rng.standard_normal((COLS, rows), np.float32)}
        node = helper.make_node("MatMul", ["x", "w"], ["y"])
    else:
        weights = {
            "w": rng.integers(0, 256, (rows, COLS // BLOCK, BLOCK * bits // 8), dtype=np.uint8),
            "s": np.full(rows * COLS // BLOCK, 0.01, np.float32),
        }
        node = _blocks(bits, rows)
    graph = helper.make_graph(
        [node], "product", [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["tokens", COLS])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["tokens", rows])],
        [numpy_helper.from_array(value, name) for name, value in weights.items()],
    )  # fmt: skip
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)]
    model: bytes = helper.make_model(graph, opset_imports=opsets, ir_version=8).SerializeToString()
    return model


def _blocks(bits: int, rows: int) -> NodeProto:
    return helper.make_node(
        "MatMulNBits", ["x", "w", "s"], ["y"], domain="com.microsoft", K=COLS, N=rows, bits=bits, block_size=BLOCK,
        accuracy_level=LEVEL,
    )  # fmt: skip


def _rate(model: bytes, rows: int, tokens: int, threads: int) -> float:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = threads, 4
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    x = np.random.default_rng(0).standard_normal((tokens, COLS), np.float32)
    y = np.zeros((tokens, rows), np.float32)
    binding = session.io_binding()
    binding.bind_cpu_input("x", x)
    binding.bind_output("y", "cpu", 0, np.float32, y.shape, y.ctypes.data)
    session.run_with_iobinding(binding)
    rounds = [_seconds(session, binding) for _ in range(ROUNDS)]
    return rows * COLS * tokens / statistics.median(rounds) / 1e9


def _seconds(session: onnxruntime.InferenceSession, binding: onnxruntime.IOBinding) -> float:
    started = time.perf_counter()
    for _ in range(PASSES):
        session.run_with_iobinding(binding)
    return (time.perf_counter() - started) / PASSES
