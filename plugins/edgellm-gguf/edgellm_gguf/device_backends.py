"""Backends for GPUs that `edgellm gpu setup` built here: libraries that are loaded beside libllama, which stays as is.

    <data folder>/gpu/<commit of llama.cpp>/vulkan/libggml-vulkan.so     the backend
    <data folder>/gpu/<commit of llama.cpp>/vulkan/build.json            how it was built

A backend shares structs with ggml that no version number covers, so one is only loaded into a libllama of its own
commit. Nothing here imports `llama_cpp`.
"""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path

import msgspec

from edgellm import settings
from edgellm.files import at_once, read_regular
from edgellm_gguf.pinned import pinned

RECORD = "build.json"
_MAX_BYTES = 64 * 1024


class Build(msgspec.Struct, frozen=True):
    """How a backend was built."""

    api: str  # "vulkan", "cuda", "hip"
    commit: str  # of llama.cpp
    sha256: str  # of the library
    settings: tuple[str, ...]  # of CMake
    tools: dict[str, str]  # compilers -> first line of --version
    seconds: float = 0.0


def folder() -> Path:
    """Where the backends of the pinned llama.cpp are kept."""
    return settings.current().data_dir / "gpu" / pinned().commit


def file_name(api: str) -> str:
    """As ggml names the library; on macOS, too, a module ends in .so."""
    return f"ggml-{api}.dll" if sys.platform == "win32" else f"libggml-{api}.so"


def registered(api: str) -> str:
    """What ggml calls the backend of a library, in small letters: "rocm" of "hip"."""
    return {"hip": "rocm", "metal": "mtl"}.get(api, api)


def libraries() -> dict[str, Path]:
    """Backends that were built here, by name as in the library's file; empty = none."""
    here = folder()
    names = sorted(path.name for path in here.iterdir() if path.is_dir()) if here.is_dir() else []
    paths = {name: here / name / file_name(name) for name in names}
    return {name: path for name, path in paths.items() if path.is_file()}


def is_as_built(api: str) -> bool:
    """Whether the library is, byte for byte, the one that its record tells of."""
    build = build_of(api)
    try:
        with open(folder() / api / file_name(api), "rb", opener=at_once) as file:
            return build is not None and hashlib.file_digest(file, "sha256").hexdigest() == build.sha256
    except OSError:
        return False


def build_of(api: str) -> Build | None:
    """None where there is no record, or one that cannot be read."""
    try:
        return msgspec.json.decode(read_regular(folder() / api / RECORD, _MAX_BYTES), type=Build)
    except (OSError, ValueError):
        return None
