"""The native library through ctypes: structures of native/matrix.h and model.h, functions of native/bitnet.h.

Nothing here runs at import: `library()` loads the file when it is first called, in a worker or a test. Sizes, offsets
and constants that stand both here and in the headers are compared then (`bn_layout`).
"""

from __future__ import annotations

import ctypes
import functools
import os
import sysconfig
from collections.abc import Mapping
from ctypes import POINTER, c_char_p, c_double, c_float, c_int32, c_int64, c_size_t, c_void_p
from pathlib import Path
from typing import Any

from edgellm.errors import BackendUnavailable
from edgellm_bitnet import matrix
from edgellm_bitnet.options import ISA, LIBRARY

ABI = 4
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


MAX_SIDES = 16


class Side(ctypes.Structure):
    """struct side: what an adapter adds to one product."""

    _fields_ = [("a", c_void_p), ("b", c_void_p), ("rank", c_int32)]


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


class LayoutEntry(ctypes.Structure):
    """struct layout_entry: what `bn_layout` says of a structure, a field, or a constant."""

    _fields_ = [("name", c_char_p), ("offset", c_int32), ("bytes", c_int32)]


STRUCTURES: dict[str, type[ctypes.Structure]] = {
    "matrix": Matrix,
    "layer": Layer,
    "side": Side,
    "model": Model,
    "cache": Cache,
}
CONSTANTS = {
    **{name: getattr(matrix, name) for name in ("PANEL", "COLUMN_ALIGN", "SUB_COLUMNS", "CHUNK", "CACHE_ALIGN")},
    **{name.upper(): number for number, name in matrix.NAMES.items()},
    "KV_SLICE": matrix.HEAD_ALIGN, "RELU2": RELU2, "SILU": SILU, "GELU": GELU,
    "KV_F16": KV_F16, "KV_I8": KV_I8, "KV_F32": KV_F32, "INPUTS": len(INPUTS), "MAX_SIDES": MAX_SIDES,
    **{f"SRC_{name.upper()}": number for number, name in enumerate(SOURCES)},
}  # fmt: skip


_FUNCTIONS: dict[str, tuple[Any, list[Any]]] = {
    "bn_layout": (POINTER(LayoutEntry), [POINTER(c_int32)]),
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
    "bn_use": (c_int32, [c_void_p, c_int32, POINTER(POINTER(Side)), POINTER(c_float)]),
    "bn_step": (c_int32, [c_void_p, c_int32, *[c_void_p] * 4, c_int32, c_void_p]),
    "bn_hidden": (c_int32, [c_void_p, c_int32, *[c_void_p] * 4, c_int32, c_void_p]),
    "bn_fork": (None, [c_void_p, c_int32, c_int32, c_int32]),
    "bn_slot_bytes": (c_size_t, [c_void_p, c_int32]),
    "bn_slot_save": (None, [c_void_p, c_int32, c_int32, c_void_p]),
    "bn_slot_load": (None, [c_void_p, c_int32, c_int32, c_void_p]),
}  # fmt: skip


def path() -> Path:
    """Where the library is: EDGELLM_BITNET_LIBRARY, else beside this file, else (editable) in the environment."""
    if named := os.environ.get(LIBRARY):
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
        BackendUnavailable: it lays out a structure otherwise than this file, which the error names.
    """
    loaded = ctypes.CDLL(str(path()))
    if loaded.bn_abi() != ABI:
        raise OSError(f"{path()} has interface version {loaded.bn_abi()}, not {ABI}: reinstall edgellm-bitnet")
    for name, (result, arguments) in _FUNCTIONS.items():
        function = getattr(loaded, name)
        function.restype, function.argtypes = result, arguments
    count = c_int32()
    entries = loaded.bn_layout(count)
    check_layout({entries[i].name.decode(): (entries[i].offset, entries[i].bytes) for i in range(count.value)})
    return loaded


def expected_layout() -> dict[str, tuple[int, int]]:
    """What this file takes to be true, as `bn_layout` says it: name -> (offset, bytes); of constants (value, 0)."""
    layout = {name: (value, 0) for name, value in CONSTANTS.items()}
    for name, structure in STRUCTURES.items():
        layout[name] = (0, ctypes.sizeof(structure))
        for field, *_ in structure._fields_:
            descriptor = getattr(structure, field)
            layout[f"{name}.{field}"] = (descriptor.offset, descriptor.size)
    return layout


def check_layout(layout: Mapping[str, tuple[int, int]]) -> None:
    """Compare the library's layout with `expected_layout`.

    Raises:
        BackendUnavailable: they differ; names the first structure, field or constant.
    """
    expected = expected_layout()
    for name in {**layout, **expected}:
        theirs, ours = layout.get(name), expected.get(name)
        if theirs != ours:
            raise BackendUnavailable(
                f"{path()} and edgellm_bitnet/native.py differ in {name}: (offset or value, bytes) is {theirs} in the "
                f"library, {ours} in Python",
                hint="reinstall edgellm-bitnet, so that both are of one version",
            )


def isas() -> dict[str, bool]:
    """Instruction sets compiled in, best first -> this processor can run it."""
    lib = library()
    return {lib.bn_isa_name(i).decode(): bool(lib.bn_isa_usable(i)) for i in range(lib.bn_isa_count())}


def isa_index(name: str | None = None) -> int:
    """Number of the named instruction set, or of the best usable one. EDGELLM_BITNET_ISA forces one.

    Raises:
        BackendUnavailable: it is not compiled in, or this processor cannot run it.
    """
    asked = f"isa={name!r}" if name else f"{ISA}={os.environ.get(ISA)!r}"
    name = name or os.environ.get(ISA) or None
    compiled = isas()
    usable = [isa for isa, can in compiled.items() if can]
    if name is None:
        return list(compiled).index(usable[0])
    if not compiled.get(name):
        hint = f"one of {', '.join(usable)}, or leave it out"
        raise BackendUnavailable(f"{asked}: there are no such kernels for this processor", hint=hint)
    return list(compiled).index(name)
