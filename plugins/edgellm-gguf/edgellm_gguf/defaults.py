"""The library's default parameters, compared with those of the llama.cpp that the binding was written for.

`pinned.json` has them all, from the binding's own wheel. A field that was added, dropped or moved shows: what lies
behind it reads another field's value. In a probe only.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from typing import Any

import llama_cpp.llama_cpp as binding

from edgellm_gguf.pinned import POINTER, Value
from edgellm_gguf.verdict import Mismatch

STRUCTS = {
    "llama_model_params": "llama_model_default_params",
    "llama_context_params": "llama_context_default_params",
    "llama_model_quantize_params": "llama_model_quantize_default_params",
    "llama_sampler_chain_params": "llama_sampler_chain_default_params",
}


_NUMBERS = (ctypes.c_bool, ctypes.c_int, ctypes.c_uint32, ctypes.c_int32, ctypes.c_size_t, ctypes.c_float)


def of_library() -> dict[str, dict[str, Value]]:
    """Struct -> field -> value."""
    structs = {name: getattr(binding, function)() for name, function in STRUCTS.items()}
    return {
        name: {field: _value(getattr(params, field), kind) for field, kind in params._fields_}
        for name, params in structs.items()
    }


def differences(expected: dict[str, dict[str, Value]]) -> Iterator[Mismatch]:
    """Fields that read otherwise, in their order."""
    for struct, values in of_library().items():
        for field, value in values.items():
            if value != expected[struct].get(field):
                yield Mismatch(f"{struct}.{field}", _words(value), _words(expected[struct].get(field)))


def _value(field: Any, kind: Any) -> Value:
    """A pointer's address says nothing."""
    return field if issubclass(kind, _NUMBERS) else POINTER if field else None


def _words(value: Value) -> str:
    return "no pointer" if value is None else str(value)
