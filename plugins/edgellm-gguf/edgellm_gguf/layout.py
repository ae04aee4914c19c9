"""Where the fields of the binding's structs lie, compared with what the library says of itself. In a probe only.

Our own builds export a table of sizes and offsets that their compiler wrote (native/layout.cpp). A foreign library has
none.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator, Mapping

import llama_cpp.llama_cpp as binding

from edgellm_gguf import ggml
from edgellm_gguf.verdict import Mismatch

Place = tuple[int, int]  # offset and size in bytes; value and 0 of a constant
BUFFER = "ggml_tensor.buffer"
_OWN: dict[str, type[ctypes.Structure]] = {
    "ggml_init_params": ggml.InitParams,
    "gguf_init_params": ggml.GgufParams,
    "ggml_threadpool_params": ggml.ThreadPoolParams,
}


class _Row(ctypes.Structure):
    """struct edgellm_row"""

    _fields_ = (("name", ctypes.c_char_p), ("offset", ctypes.c_uint32), ("size", ctypes.c_uint32))


def of_library(handle: ctypes.CDLL) -> dict[str, Place]:
    """Name ("llama_batch", "llama_batch.token") -> place in this build; empty = it does not tell."""
    try:
        table = handle.edgellm_layout
    except AttributeError:
        return {}
    table.restype = ctypes.POINTER(_Row)
    rows, places, at = table(), {}, 0
    while rows[at].name:
        places[rows[at].name.decode()] = (rows[at].offset, rows[at].size)
        at += 1
    return places


def of_binding(name: str) -> Place | None:
    """The place that Python reads and writes; None = Python has no such struct, field or constant."""
    if name == BUFFER:
        return ggml.BUFFER_OFFSET, ctypes.sizeof(ctypes.c_void_p)
    whole, _, field = name.partition(".")
    here = _OWN.get(whole) or getattr(binding, whole, None)
    if isinstance(here, int):
        return here & 0xFFFFFFFF, 0
    if here is None or not field:
        return None if here is None else (0, ctypes.sizeof(here))
    place = getattr(here, field, None)
    return None if place is None else (place.offset, place.size)


def differences(places: Mapping[str, Place]) -> Iterator[Mismatch]:
    """What lies elsewhere than Python believes, the first of each struct before its size."""
    # Fields first: that a struct is longer says less than which field moved it.
    for name in sorted(places, key=lambda name: "." not in name):
        expected = of_binding(name)
        if places[name] != expected:
            yield Mismatch(name, _words(places[name]), "unknown to it" if expected is None else _words(expected))


def _words(place: Place) -> str:
    offset, size = place
    return f"{size} long at byte {offset}" if size else str(offset)
