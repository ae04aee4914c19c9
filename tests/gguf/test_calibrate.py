"""Calibration with llama.cpp's real kernels, of a few types."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
from support.waiting import PATIENCE_S

pytest.importorskip("llama_cpp")

MEASURE = """
import json, sys
from edgellm_gguf import calibrate
calibrate.TYPES = ("Q4_K", "Q3_K", "F16", "IQ2_XS", "MXFP4")
calibrate.ROUNDS, calibrate.MOST_BYTES, calibrate.LEAST_BYTES = 1, 16 << 20, 16 << 20
calibrate.CACHED, calibrate.OTHER_CACHED, calibrate.APART_BYTES = 1024, 256, 4 << 20
found = calibrate.calibrate((1,))
tables = ("decode", "prefill", "attention", "attention_prefill", "row_s")
answer = {name: {key[0]: rate for key, rate in getattr(found, name).items()} for name in tables}
answer["apart"] = {f"{kind} {size} {n}": s for (kind, size, n, _), s in found.attention_apart_s.items()}
answer["heads"] = {f"{kind} {size}": rate for (kind, size, _), rate in found.attention_by_head.items()}
print(json.dumps(answer | {"layer": found.layer_s[1], "element": found.element_s[1], "scatter": found.scatter}))
"""

# Against numpy, on the rows of one matrix, in the buffer that the library chooses.
CHECK = """
import ctypes, json
import llama_cpp, numpy as np
from edgellm.formats.gguf.ggml_types import BY_NAME
from edgellm_gguf import ggml, kernels
ggml.start()
cpu, pages = kernels.Cpu(), kernels.Pages(8 << 20)
lib = kernels.library
tensor_get = llama_cpp.llama_cpp._lib.ggml_backend_tensor_get
tensor_get.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t, ctypes.c_size_t]
off = {}
for name in ("F32", "F16", "Q8_0", "Q4_K"):
    kind, row, rows = BY_NAME[name], 512, 64
    weights = np.random.default_rng(3).standard_normal((rows, row), np.float32)
    packed = weights.view(np.uint8).reshape(-1) if name == "F32" else np.zeros(kind.size_bytes(row * rows), np.uint8)
    if name != "F32":
        lib.ggml_quantize_chunk(kind.id, weights.ctypes.data, packed.ctypes.data, 0, rows, row, None)
    held = kernels.Tensors()
    matrix = lib.ggml_new_tensor_2d(held.ctx, kind.id, row, rows)
    held.allocate(cpu.buffer_type(kind.id, row))
    lib.ggml_backend_tensor_set(matrix, packed.ctypes.data, 0, packed.nbytes)
    inputs = kernels.Tensors()
    x = lib.ggml_new_tensor_2d(inputs.ctx, 0, row, 1)
    y = lib.ggml_mul_mat(inputs.ctx, matrix, x)
    graph = inputs.graph(y)
    inputs.allocate()
    column = np.random.default_rng(4).standard_normal(row, np.float32)
    lib.ggml_backend_tensor_set(x, column.ctypes.data, 0, column.nbytes)
    cpu.use(1)
    cpu.seconds(graph)
    out = np.zeros(rows, np.float32)
    tensor_get(y, out.ctypes.data, 0, out.nbytes)
    off[name] = float(np.abs(out - weights @ column).max() / np.abs(weights @ column).max())
print(json.dumps(off))
"""

# Each block of the held pages against what the quantizer makes of the same numbers.
HOLD = """
import json
import numpy as np
from edgellm.formats.gguf.ggml_types import BY_NAME
from edgellm_gguf import ggml, kernels
ggml.start()
pages = kernels.Pages(3 << 20)
plain = bytes(pages.hold("Q4_K"))
scales = {}
for name in ("Q8_0", "Q4_0", "IQ4_NL"):
    block = BY_NAME[name].block_bytes
    held = pages.hold(name)[: len(pages.bytes) // block * block].reshape(-1, block)
    quantized = kernels.sample(name, kernels.SAMPLE_ROW).reshape(-1, block)
    known = {bytes(one) for one in quantized}
    whole = len(quantized) * (len(held) // len(quantized))
    scales[name] = [len({bytes(one[:2]) for one in held}), all(bytes(one) in known for one in held[:whole:97])]
again = bytes(pages.hold("Q4_K"))
print(json.dumps({"scales": scales, "again": again == plain}))
"""


def run(code: str) -> dict:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=PATIENCE_S)
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout)


SLOWEST = 5e-4  # a hundredth of what a small core does: units are checked here, not speeds


def test_rates_of_real_kernels_are_within_what_a_processor_does() -> None:
    found = run(MEASURE)

    assert set(found["decode"]) == set(found["prefill"]) == {"Q4_K", "Q3_K", "F16", "IQ2_XS", "MXFP4"}
    for table in ("decode", "prefill"):
        assert all(SLOWEST < rate < 5000 for rate in found[table].values()), found[table]
    assert set(found["attention"]) == {"f16", "q8_0", "q4_0"}
    assert all(SLOWEST < rate < 5000 for rate in found["attention"].values())
    assert set(found["heads"]) == {f"{kind} {size}" for kind in found["attention"] for size in (64, 96, 256)}
    assert all(SLOWEST < rate < 5000 for rate in found["heads"].values())
    sizes = ("128 2", "128 4", "64 8", "128 8", "256 8")
    assert set(found["apart"]) == {f"{kind} {size}" for kind in found["attention"] for size in sizes}
    assert all(0 <= seconds < 1e-3 for seconds in (*found["row_s"].values(), *found["apart"].values()))
    assert 0 <= found["layer"] < 1
    assert 0 <= found["element"] < 1e-4


def test_what_is_timed_is_a_product_of_the_matrix_and_the_column() -> None:
    off = run(CHECK)

    assert off["F32"] < 1e-5
    assert off["F16"] < 1e-2
    assert off["Q8_0"] < 0.03
    assert off["Q4_K"] < 0.2


def test_types_with_many_scales_are_multiplied_with_real_ones() -> None:
    """llama.cpp looks scales up in a table of 65,536: random ones miss the cache, those of real weights do not."""
    found = run(HOLD)

    for name, (scales, quantized) in found["scales"].items():
        assert quantized, name
        assert scales > 500, name
    assert found["again"]
