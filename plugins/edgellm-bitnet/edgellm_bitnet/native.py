"""The native library through ctypes: structures of native/matrix.h and model.h, functions of native/bitnet.h.

Nothing here runs at import: `library()` loads the file when it is first called, in a worker or a test.
"""

from __future__ import annotations

import ctypes
import functools
import os
import sysconfig
from ctypes import POINTER, c_char_p, c_double, c_float, c_int32, c_int64, c_size_t, c_void_p
from pathlib import Path
from typing import Any

ABI = 2
RELU2, SILU, GELU = range(3)
KV_F16, KV_I8, KV_F32 = range(3)
SOURCES = ("codes", "i2_s", "i2_s_arm", "tq2_0", "tq1_0", "q2_0", "q1_0", "packed")


class Matrix(ctypes.Structure):
    """struct matrix: a packed matrix in memory that the caller owns."""

    _fields_ = [
        ("kind", c_int32), ("rows", c_int32), ("cols", c_int32), ("group", c_int32),
        ("data", c_void_p), ("scales", c_void_p), ("sub", c_void_p),
    ]  # fmt: skip


INPUTS = ("q", "k", "v", "output", "gate", "up", "down")
NORMS = (
    "attn_norm", "attn_sub_norm", "post_attn_norm", "ffn_norm", "ffn_sub_norm", "post_ffn_norm", "q_norm", "k_norm",
)  # fmt: skip


class Layer(ctypes.Structure):
    """struct layer. Norms are addresses of float32 arrays; None leaves one out."""

    _fields_ = [
        *[(name, c_void_p) for name in NORMS],
        ("in_norm", c_void_p * len(INPUTS)), ("rope", c_void_p), ("window", c_int32),
        ("qkv", Matrix), ("output", Matrix), ("gate_up", Matrix), ("down", Matrix),
    ]  # fmt: skip


class Model(ctypes.Structure):
    """struct model."""

    _fields_ = [
        *[(name, c_int32) for name in ("layers", "hidden", "ffn", "heads", "kv_heads", "head_dim", "vocab")],
        ("rope_dim", c_int32), ("gate", c_int32), ("act_block", c_int32),
        ("eps", c_float), ("query_scale", c_float), ("embed_scale", c_float),
        ("layer", POINTER(Layer)), ("embed", Matrix), ("head", Matrix), ("output_norm", c_void_p),
    ]  # fmt: skip


class Cache(ctypes.Structure):
    """struct cache."""

    _fields_ = [("type", c_int32), ("slots", c_int32), ("context", c_int32), ("memory", c_void_p)]


_FUNCTIONS: dict[str, tuple[Any, list[Any]]] = {
    "bn_abi": (c_int32, []),
    "bn_isa_count": (c_int32, []),
    "bn_isa_name": (c_char_p, [c_int32]),
    "bn_isa_usable": (c_int32, [c_int32]),
    "bn_isa_tile": (c_int32, [c_int32]),
    "bn_pack_ternary": (
        c_int64, [c_int32, c_void_p, c_int32, c_int32, POINTER(Matrix), c_int32, c_float, c_int32],
    ),
    "bn_one_scale": (c_int32, [c_int32, c_void_p, c_int32, c_int32, POINTER(c_float)]),
    "bn_pack_blocks": (c_int32, [c_void_p, c_int32, c_int32, POINTER(Matrix), c_int32]),
    "bn_pack_real": (c_int32, [c_void_p, c_int32, POINTER(Matrix), c_int32]),
    "bn_row": (None, [POINTER(Matrix), c_int32, c_void_p]),
    "bn_matmul": (c_double, [c_int32, POINTER(Matrix), c_void_p, c_int32, c_int32, c_void_p, c_int32, c_int32]),
    "bn_integer_sums": (c_int32, [c_int32, POINTER(Matrix), c_void_p, c_int32, c_void_p]),
    "bn_memory_new": (c_void_p, [c_size_t]),
    "bn_memory_free": (None, [c_void_p, c_size_t]),
    "bn_cache_bytes": (c_size_t, [POINTER(Model), c_int32, c_int32, c_int32]),
    "bn_scratch_bytes": (c_size_t, [POINTER(Model), c_int32, c_int32, c_int32]),
    "bn_engine_new": (c_void_p, [POINTER(Model), POINTER(Cache), c_int32, c_int32, c_int32]),
    "bn_engine_free": (None, [c_void_p]),
    "bn_step": (c_int32, [c_void_p, c_int32, *[c_void_p] * 4, c_int32, c_void_p]),
    "bn_hidden": (c_int32, [c_void_p, c_int32, *[c_void_p] * 4, c_int32, c_void_p]),
    "bn_fork": (None, [c_void_p, c_int32, c_int32, c_int32]),
    "bn_slot_bytes": (c_size_t, [c_void_p, c_int32]),
    "bn_slot_save": (None, [c_void_p, c_int32, c_int32, c_void_p]),
    "bn_slot_load": (None, [c_void_p, c_int32, c_int32, c_void_p]),
}  # fmt: skip


def path() -> Path:
    """Where the library is: EDGELLM_BITNET_LIBRARY, else beside this file, else (editable) in the environment."""
    if named := os.environ.get("EDGELLM_BITNET_LIBRARY"):
        return Path(named)
    folders = (Path(__file__).parent, Path(sysconfig.get_path("platlib")) / "edgellm_bitnet")
    names = ("libedgellm_bitnet.so", "libedgellm_bitnet.dylib", "edgellm_bitnet.dll", "libedgellm_bitnet.dll")
    candidates = [folder / name for folder in folders for name in names]
    return next((path for path in candidates if path.exists()), candidates[0])


@functools.cache
def library() -> ctypes.CDLL:
    """The loaded library.

    Raises:
        OSError: it is not there or not loadable, or of another version than this file.
    """
    loaded = ctypes.CDLL(str(path()))
    for name, (result, arguments) in _FUNCTIONS.items():
        function = getattr(loaded, name)
        function.restype, function.argtypes = result, arguments
    if loaded.bn_abi() != ABI:
        raise OSError(f"{path()} has interface version {loaded.bn_abi()}, not {ABI}: reinstall edgellm-bitnet")
    return loaded


def isas() -> dict[str, bool]:
    """Instruction sets compiled in, best first -> this processor can run it."""
    lib = library()
    return {lib.bn_isa_name(i).decode(): bool(lib.bn_isa_usable(i)) for i in range(lib.bn_isa_count())}


def isa_index(name: str | None = None) -> int:
    """Number of the named instruction set, or of the best usable one. EDGELLM_BITNET_ISA forces one.

    Raises:
        ValueError: it is not compiled in, or this processor cannot run it.
    """
    name = name or os.environ.get("EDGELLM_BITNET_ISA") or None
    known = isas()
    usable = [isa for isa, can in known.items() if can]
    if name is None:
        return list(known).index(usable[0])
    if not known.get(name):
        raise ValueError(f"this processor cannot run the {name} kernels; it runs {', '.join(usable)}")
    return list(known).index(name)
