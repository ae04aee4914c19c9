"""Names of the parts of split files."""

from __future__ import annotations

import re

from edgellm.errors import SourceError

_PART = re.compile(r"-([0-9]{5})-of-([0-9]{5})(?=\.gguf$)")
_MAX_PARTS = 1024


def parts_of(name: str) -> list[str]:
    """`x-00002-of-00003.gguf` -> all three names; any other name -> itself.

    Raises:
        SourceError: numbers that cannot be.
    """
    match = _PART.search(name)
    if match is None:
        return [name]
    count = int(match[2])
    if not can_be(name):
        hint = f"a split model has parts 00001 to at most {_MAX_PARTS:05d}; name another file"
        raise SourceError(f"{name!r} cannot be a part of a split file", hint=hint)
    return [f"{name[: match.start()]}-{no:05d}-of-{count:05d}.gguf" for no in range(1, count + 1)]


def first_of(name: str) -> tuple[str, int]:
    """`x-00002-of-00003.gguf` -> the name of the first part, and 3; any other name -> itself, and 1."""
    match = _PART.search(name)
    return (name, 1) if match is None else (f"{name[: match.start()]}-00001-of-{match[2]}.gguf", int(match[2]))


def can_be(name: str) -> bool:
    """Whether `parts_of` takes it."""
    match = _PART.search(name)
    return match is None or 1 <= int(match[1]) <= int(match[2]) <= _MAX_PARTS


def stem_of(name: str) -> str:
    """`name` without the number of a part and without `.gguf`."""
    return _PART.sub("", name).removesuffix(".gguf")
