"""Backends for GPUs that `edgellm gpu setup` built here: libraries that are loaded beside libllama, which stays as is.

    <data folder>/gpu/<commit of llama.cpp>/vulkan/libggml-vulkan.so     the backend
    <data folder>/gpu/<commit of llama.cpp>/vulkan/build.json            how it was built

A backend shares structs with ggml that no version number covers, so one is only loaded into a libllama of its own
commit. It is code, and its record lies beside it: both are believed where nobody else may write. Nothing here imports
`llama_cpp`.
"""

from __future__ import annotations

import hashlib
import os
import stat
import sys
from pathlib import Path

import msgspec

from edgellm import settings
from edgellm.files import DamagedRecord, at_once, read_json_record
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
    """Whether the library is, byte for byte, the one that its record tells of, and nobody else may write either."""
    if written_by_others(api):
        return False
    build = build_of(api)
    try:
        with open(folder() / api / file_name(api), "rb", opener=at_once) as file:
            return build is not None and hashlib.file_digest(file, "sha256").hexdigest() == build.sha256
    except OSError:
        return False


def written_by_others(api: str) -> str:
    """Why another user may have put this library here, and what to do; "" = only this one and root may (POSIX), or it
    is not there."""
    here = folder() / api
    data = settings.current().data_dir
    above = (here, *(path for path in here.parents if path.is_relative_to(data)))
    for path in (here / file_name(api), here / RECORD, *above) if os.name == "posix" else ():
        try:
            state = path.stat()
        except OSError:
            continue
        if state.st_uid not in (0, os.geteuid()):
            return f"{path} belongs to user {state.st_uid}: remove {here}, or `chown` all of it if you trust its maker"
        # A group with the number of its user is that user's own: whose umask is 002 makes all files so.
        if state.st_mode & (stat.S_IWOTH | (stat.S_IWGRP if state.st_gid != state.st_uid else 0)):
            return f"others may write {path}: `chmod go-w {path}` where you made it, or remove {here}"
    return ""


def build_of(api: str) -> Build | None:
    """None where there is no record, or one that cannot be read."""
    try:
        return read_json_record(folder() / api / RECORD, Build, _MAX_BYTES)
    except (OSError, DamagedRecord):
        return None
