"""Runs llama.cpp's real CPU kernels once, in a process that may die of it: `python -m edgellm_gguf.probe`.

Computes a matrix product for one type of each kernel family, at one and at four columns, so that vector and
matrix code paths both run. Prints one JSON object; any signal is the answer that the parent is looking for.
"""

from __future__ import annotations

import ctypes
import json

import llama_cpp
import llama_cpp.llama_cpp as binding

# libllama's handle finds ggml's functions too: the very copies that it will compute with.
library = binding._lib
# ggml type ids (ggml.h): F16, Q4_0, Q8_0, Q4_K, Q6_K, IQ4_NL: floats, legacy, K-quants, codebook.
TYPES = (1, 2, 8, 12, 14, 20)
F32 = 0
ROWS, COLS = 64, 512


class _InitParams(ctypes.Structure):
    _fields_ = (("mem_size", ctypes.c_size_t), ("mem_buffer", ctypes.c_void_p), ("no_alloc", ctypes.c_bool))


def _bind() -> None:
    """Give the functions used here their signatures (ggml.h, ggml-cpu.h)."""
    pointer, i64 = ctypes.c_void_p, ctypes.c_int64
    for name, result, arguments in (
        ("ggml_init", pointer, [_InitParams]),
        ("ggml_free", None, [pointer]),
        ("ggml_new_tensor_2d", pointer, [pointer, ctypes.c_int, i64, i64]),
        ("ggml_get_data", pointer, [pointer]),
        ("ggml_mul_mat", pointer, [pointer, pointer, pointer]),
        ("ggml_new_graph", pointer, [pointer]),
        ("ggml_build_forward_expand", None, [pointer, pointer]),
        ("ggml_quantize_chunk", ctypes.c_size_t, [ctypes.c_int, pointer, pointer, i64, i64, i64, pointer]),
        ("ggml_graph_compute_with_ctx", ctypes.c_int, [pointer, pointer, ctypes.c_int]),
    ):
        function = getattr(library, name)
        function.restype, function.argtypes = result, arguments


def _product(ggml_type: int, columns: int) -> float:
    """First element of a (ROWS, COLS) x (COLS, columns) product of ones, weights in `ggml_type`."""
    ctx = library.ggml_init(_InitParams(16 * 1024**2, None, False))
    ones = (ctypes.c_float * (ROWS * COLS))(*([1.0] * (ROWS * COLS)))
    weights = library.ggml_new_tensor_2d(ctx, ggml_type, COLS, ROWS)
    library.ggml_quantize_chunk(ggml_type, ones, library.ggml_get_data(weights), 0, ROWS, COLS, None)
    inputs = library.ggml_new_tensor_2d(ctx, F32, COLS, columns)
    ctypes.memmove(library.ggml_get_data(inputs), ones, COLS * columns * 4)
    result = library.ggml_mul_mat(ctx, weights, inputs)
    graph = library.ggml_new_graph(ctx)
    library.ggml_build_forward_expand(graph, result)
    status = library.ggml_graph_compute_with_ctx(ctx, graph, 1)
    if status != 0:
        raise SystemExit(f"ggml_graph_compute_with_ctx returned {status}")
    value = ctypes.cast(library.ggml_get_data(result), ctypes.POINTER(ctypes.c_float))[0]
    library.ggml_free(ctx)
    return float(value)


def main() -> None:
    """Compute, check the sums, print the library's own description of its build."""
    llama_cpp.llama_backend_init()
    _bind()
    for ggml_type in TYPES:
        for columns in (1, 4):
            value = _product(ggml_type, columns)
            if abs(value - COLS) > 0.02 * COLS:
                raise SystemExit(f"kernel of ggml type {ggml_type} gave {value} for a sum of {COLS} ones")
    print(json.dumps({"system_info": llama_cpp.llama_print_system_info().decode(errors="replace")}))


if __name__ == "__main__":
    main()
