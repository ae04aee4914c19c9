"""ggml's own quantizers, called in the library that llama-cpp-python brought: the oracle of the codecs."""

from __future__ import annotations

import ctypes
import functools
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

from edgellm.formats.gguf.ggml_types import BY_NAME


class Traits(ctypes.Structure):
    """struct ggml_type_traits of ggml.h."""

    _fields_ = [
        ("type_name", ctypes.c_char_p), ("blck_size", ctypes.c_int64), ("blck_size_interleave", ctypes.c_int64),
        ("type_size", ctypes.c_size_t), ("is_quantized", ctypes.c_bool),
        ("to_float", ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64)),
        ("from_float_ref", ctypes.c_void_p),
    ]  # fmt: skip


@functools.cache
def library():
    found = find_spec("llama_cpp")
    names = ("libggml-base.so", "libggml-base.dylib", "ggml-base.dll")
    folder = Path(found.origin).parent / "lib" if found else Path()
    path = next((folder / name for name in names if (folder / name).exists()), None)
    if path is None:
        pytest.skip("compiler: llama-cpp-python's ggml is not installed")
    loaded = ctypes.CDLL(str(path))
    loaded.ggml_get_type_traits.restype = ctypes.POINTER(Traits)
    loaded.ggml_get_type_traits.argtypes = [ctypes.c_int]
    loaded.ggml_quantize_chunk.restype = ctypes.c_size_t
    loaded.ggml_quantize_chunk.argtypes = [
        ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64, ctypes.c_int64, ctypes.c_void_p,
    ]  # fmt: skip
    return loaded


def dequantize(name, raw, rows, cols):
    """float32 (rows, cols), by ggml's `to_float`."""
    kind = BY_NAME[name]
    traits = library().ggml_get_type_traits(kind.id).contents
    assert (traits.blck_size, traits.type_size) == (kind.block_elems, kind.block_bytes)
    out = np.empty((rows, cols), np.float32)
    buffer = np.frombuffer(raw, np.uint8).copy()
    traits.to_float(buffer.ctypes.data, out.ctypes.data, rows * cols)
    return out


def quantize(name, values):
    """Bytes of float32 (rows, cols), by ggml."""
    rows, cols = values.shape
    values = np.ascontiguousarray(values, np.float32)
    out = np.empty(BY_NAME[name].size_bytes(values.size), np.uint8)
    n = library().ggml_quantize_chunk(BY_NAME[name].id, values.ctypes.data, out.ctypes.data, 0, rows, cols, None)
    assert n == out.size
    return out.tobytes()
