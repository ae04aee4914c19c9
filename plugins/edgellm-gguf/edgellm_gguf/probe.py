"""Looks at libllama once, in a process that may die of it: `python -m edgellm_gguf.probe`.

First whether it is the library that the binding was written for: its symbols, its own table of structs, its default
parameters, whether its kernels compute, and what it understands of a context on a tiny model. The first thing that
differs ends the look. Then it lists what it has, and at last it loads backends for GPUs that were built here: a driver
that ends the process leaves what was said before. Prints JSON objects, the last of which counts. A signal is an answer.
"""

from __future__ import annotations

import ctypes
import json
import logging
import re
import tempfile
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgellm_gguf import device_backends, library
from edgellm_gguf.pinned import pinned
from edgellm_gguf.verdict import Mismatch

if TYPE_CHECKING:
    from edgellm_gguf.layout import Place


def main() -> None:
    """Look, and print what was seen."""
    logging.disable(logging.ERROR)  # hundreds of types that it does not open are complained of
    path = library.library_file()
    assert path is not None  # the parent has looked
    handle = ctypes.CDLL(str(path))
    facts: dict[str, Any] = {"version": _version(handle)}
    _say(facts)
    try:
        from edgellm_gguf import layout
    except AttributeError as error:  # the binding asks for all its functions when it is imported
        symbols = re.findall(r"\b(?:llama|ggml)_\w+", str(error))
        _say(facts | {"mismatch": asdict(Mismatch(symbols[-1] if symbols else str(error), "missing"))})
        return
    places = layout.of_library(handle)
    facts["proof"] = "wheel" if library.is_of_wheel() else "layout" if places and _source(handle) else ""
    for mismatch in _mismatches(handle, places, is_of_wheel=facts["proof"] == "wheel"):
        _say(facts | {"mismatch": asdict(mismatch)})
        return
    _say(facts)
    facts |= _inventory()
    _say(facts)
    if names := list(device_backends.libraries()):
        _say(facts | {"loading": names})
        _say(facts | _devices())


def _mismatches(handle: ctypes.CDLL, places: dict[str, Place], *, is_of_wheel: bool) -> Iterator[Mismatch]:
    from edgellm_gguf import defaults, ggml, inventory, layout, readback
    from edgellm_gguf.loading import LOG

    LOG.start()
    release = pinned()
    binding = library.binding_release()
    yield from layout.differences(places)
    if binding == release.llama_cpp_python:
        # A build of ours names its commit, and no other will do: what a function means may change without its structs.
        if (commit := _source(handle)) not in ("", release.commit):
            yield Mismatch("the commit of llama.cpp", commit, release.commit)
        yield from defaults.differences(release.defaults)
    elif not is_of_wheel:
        yield Mismatch("llama-cpp-python", binding, f"{release.llama_cpp_python}, whose structs are known")
    ggml.start()
    yield from (Mismatch(name, "missing") for name in ggml.missing())
    inventory.compute()

    def doing(struct: str) -> None:  # the last word, where the process ends by it
        _say({"version": _version(handle), "mismatch": asdict(Mismatch(struct, "not understood"))})

    with tempfile.TemporaryDirectory(prefix="edgellm-probe-") as folder:
        yield from readback.differences(Path(folder), doing)


def _source(handle: ctypes.CDLL) -> str:
    """The commit of llama.cpp that a build of ours names; "" = it is none, or was made of files without a commit."""
    return _text(handle, "edgellm_source")


def _inventory() -> dict[str, Any]:
    import llama_cpp

    from edgellm_gguf import ggml, inventory

    files, types, backends = library.library_files(), inventory.tensor_types(), ggml.backends()
    scores = inventory.scores(files)
    return {
        "system_info": llama_cpp.llama_print_system_info().decode(errors="replace"),
        "variant": next((name for name in scores if f"ggml-cpu-{name}." in ggml.cpu_library()), ""),
        "variants": scores,
        "unloaded": inventory.unloaded(files, backends),
        "offload": bool(llama_cpp.llama_supports_gpu_offload()),
        "backends": backends,
        "devices": inventory.devices(),
        "architectures": inventory.architectures(),
        "tensor_types": list(types),
        "repacked": inventory.repacked(types),
    }


def _devices() -> dict[str, Any]:
    """What the backends for GPUs that were built here add to the inventory."""
    import llama_cpp

    from edgellm_gguf import ggml, inventory
    from edgellm_gguf.loading import LOG

    LOG.start()
    ggml.start(with_devices=True)
    built = device_backends.libraries()
    strange = {name: why for name in built if (why := device_backends.written_by_others(name))}
    stale = [name for name in built if name not in strange and not device_backends.is_as_built(name)]
    # Why a library does not load is found out by loading it, which runs what is in it.
    files = [path for name, path in built.items() if name not in strange and name not in stale]
    unloaded = inventory.unloaded([*library.library_files(), *files], backends := ggml.backends())
    unloaded |= strange | dict.fromkeys(stale, f"it is not the file that {device_backends.RECORD} beside it tells of")
    if not ggml.is_of_pinned_commit():
        own = f"it was built for llama.cpp {pinned().commit}, and this libllama is another"
        unloaded |= dict.fromkeys(built, own)
        stale = []
    return {
        "stale": stale,
        "unloaded": unloaded,
        "offload": bool(llama_cpp.llama_supports_gpu_offload()),
        "backends": backends,
        "devices": inventory.devices(),
        "complaints": LOG.complaints[-3:],
    }


def _version(handle: ctypes.CDLL) -> str:
    """Of its llama.cpp, with the commit: "0.5.0-dev (0c1e57098)"."""
    commit = _source(handle) or _text(handle, "ggml_commit")
    return f"{_text(handle, 'llama_version') or 'unknown'}" + (f" ({commit})" if commit else "")


def _text(handle: ctypes.CDLL, name: str) -> str:
    """What a function without arguments says; "" where there is none."""
    try:
        function = getattr(handle, name)
    except AttributeError:
        return ""
    function.restype = ctypes.c_char_p
    return (function() or b"").decode(errors="replace")


def _say(facts: dict[str, Any]) -> None:
    print(json.dumps(facts), flush=True)


if __name__ == "__main__":
    main()
