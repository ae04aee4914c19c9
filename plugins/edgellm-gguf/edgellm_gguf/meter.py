"""Memory that llama.cpp would reserve for a model and its settings, as the library itself says. No weights are read.

`python -m edgellm_gguf.meter` reads one JSON object {"paths": [...], "settings": {...}} and prints another, bytes by
buffer. It loads the model with `no_alloc` and makes the context that the engine would make, so the numbers are those of
the graph that this build computes. What the C API does not tell is how weights are spread over buffers: there it
counts what it would allocate (`llama_get_memory_breakdown`), but hands it out as a C++ map only.
"""

from __future__ import annotations

import ctypes
import os
import re

import llama_cpp
import msgspec

from edgellm.contract.child import connect
from edgellm.types.plan import Settings
from edgellm_gguf.params import context_params

MIB = 1024 * 1024
# What the library prints of sizes, in MiB with two decimals: 10 kB are the error of each.
_SIZES = {
    "kv_bytes": re.compile(r"^llama_(?:kv_cache|memory_recurrent)\w*: size = +([\d.]+) MiB"),
    "compute_bytes": re.compile(r" CPU compute buffer size = +([\d.]+) MiB"),
    "device_bytes": re.compile(r"(?<! CPU) compute buffer size = +([\d.]+) MiB"),
    "output_bytes": re.compile(r"output buffer size = +([\d.]+) MiB"),
}


def measure(paths: list[str], settings: Settings) -> dict[str, int]:
    """Bytes by buffer. The last word on each is the library's: it reserves more than once.

    Raises:
        RuntimeError: it does not open the file, or makes no context; with its own words.
    """
    lines: list[str] = []
    collect = llama_cpp.llama_log_callback(lambda _level, text, _user: lines.append(text.decode("utf-8", "replace")))
    llama_cpp.llama_log_set(collect, ctypes.c_void_p(0))
    llama_cpp.llama_backend_init()
    params = llama_cpp.llama_model_default_params()
    params.no_alloc = True
    # Nothing is mapped: `no_alloc` refuses it.
    params.load_mode = llama_cpp.LLAMA_LOAD_MODE_NONE
    params.n_gpu_layers = settings.gpu_layers
    nowhere = (ctypes.c_void_p * 1)(None)
    if settings.gpu_layers == 0:
        params.devices = ctypes.addressof(nowhere)
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


class _Question(msgspec.Struct):
    paths: list[str]
    settings: Settings


def main() -> None:
    """Answer one question on standard input."""
    line, tell = connect()
    question = msgspec.json.decode(line, type=_Question)
    tell(measure(question.paths, question.settings))


if __name__ == "__main__":
    main()
