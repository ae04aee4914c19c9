"""The release of the binding that this plugin was written for, with the default parameters of its llama.cpp."""

from __future__ import annotations

import functools
from importlib import resources

import msgspec

POINTER = "a pointer"  # wherever to
Value = bool | int | float | str | None  # a number, POINTER, or None = no pointer


class Pinned(msgspec.Struct, frozen=True):
    """What `pinned.json` has."""

    llama_cpp_python: str
    llama: str  # llama.cpp's own version
    commit: str
    defaults: dict[str, dict[str, Value]]

    @property
    def version(self) -> str:
        return f"{self.llama} ({self.commit})"


@functools.cache
def pinned() -> Pinned:
    return msgspec.json.decode(resources.files("edgellm_gguf").joinpath("pinned.json").read_bytes(), type=Pinned)
