"""Memory that llama.cpp would reserve for a model and its settings, as the library itself says. No weights are read.

The model is loaded with `no_alloc` and gets the context that the engine would make, so the numbers are those of the
graph that this build computes. How weights are spread over buffers is not among them: llama.cpp counts it
(`llama_get_memory_breakdown`), but returns it as a C++ map only.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import re
import sys
from collections.abc import Sequence

import msgspec

from edgellm.contract.child import Child
from edgellm.contract.parent import connect
from edgellm.types.plan import Settings
from edgellm.units import MIB

PATIENCE_S = 60.0
# What the library prints of sizes, in MiB with two decimals: 10 kB are the error of each.
_SIZES = {
    "kv": re.compile(r"^llama_(?:kv_cache|memory_recurrent)\w*: size = +([\d.]+) MiB"),
    "compute": re.compile(r" CPU compute buffer size = +([\d.]+) MiB"),
    "output": re.compile(r"output buffer size = +([\d.]+) MiB"),
}


class _Question(msgspec.Struct):
    paths: list[str]
    settings: Settings


def reserved_buffers(paths: Sequence[str], settings: Settings) -> dict[str, int]:
    """Bytes of the buffers "kv", "compute" and "output", from a process of its own: half a second.

    Raises:
        RuntimeError: the library does not open the file, or makes no context; with its own words.
    """
    question = msgspec.json.encode(_Question(list(paths), settings))
    with Child([sys.executable, "-P", __file__], question=question) as child:
        lines = list(child.lines(PATIENCE_S))
    if child.end.returncode:
        raise RuntimeError(child.end.last_words)
    return msgspec.json.decode(lines[-1], type=dict[str, int])


def _measure(paths: list[str], settings: Settings) -> dict[str, int]:
    import llama_cpp
    from edgellm_gguf import ggml
    from edgellm_gguf.params import context_params, model_params

    from edgellm.catalog.identify import identify
    from edgellm.errors import BadArtifact

    lines: list[str] = []
    collect = llama_cpp.llama_log_callback(lambda _level, text, _user: lines.append(text.decode("utf-8", "replace")))
    llama_cpp.llama_log_set(collect, ctypes.c_void_p(0))
    ggml.start()
    shape = None
    with contextlib.suppress(BadArtifact):  # what the library says of it is asked for
        shape = identify(paths[0]).shape
    params = model_params(settings, shape)
    params.no_alloc = True
    # Nothing is mapped: `no_alloc` refuses it.
    params.load_mode = llama_cpp.LLAMA_LOAD_MODE_NONE
    array = (ctypes.c_char_p * len(paths))(*map(os.fsencode, paths))
    model = llama_cpp.llama_model_load_from_splits(array, len(paths), params)
    if model is None:
        raise RuntimeError(f"not opened: {_last(lines)}")
    del lines[:]
    context = llama_cpp.llama_init_from_model(model, context_params(settings))
    if context is None:
        raise RuntimeError(f"no context: {_last(lines)}")
    buffers = {name: _sum(lines, pattern) for name, pattern in _SIZES.items()}
    llama_cpp.llama_free(context)
    llama_cpp.llama_model_free(model)
    return buffers


def _sum(lines: list[str], pattern: re.Pattern[str]) -> int:
    sizes = [match[1] for line in lines if (match := pattern.search(line))]
    return round(sum(map(float, sizes)) * MIB)


def _last(lines: list[str]) -> str:
    return " ".join(line.strip() for line in lines[-3:])


def main() -> None:
    """Answer one question on standard input."""
    line, tell = connect()
    question = msgspec.json.decode(line, type=_Question)
    tell(_measure(question.paths, question.settings))


if __name__ == "__main__":
    main()
