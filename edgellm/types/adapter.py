"""LoRA adapters: files that are kept beside a model, requests to load and drop one, and which ones an answer uses."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Mapping, Sequence

import msgspec

from edgellm.errors import UsageError
from edgellm.types.checks import CANNOT_BE_SENT, check_range, check_types

MAX_ADAPTERS = 16  # of one answer
MAX_SCALE = 1000.0
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
# Ollama's clients put it behind every name without a tag, so `base:latest` is the base.
_RESERVED = frozenset({"latest"})

AdapterSet = tuple[tuple[str, float], ...]  # (name, scale)
AskedFile = str | os.PathLike[str]  # FILE or NAME=FILE
AskedFiles = AskedFile | Sequence[AskedFile] | Mapping[str, AskedFile]  # by name
AskedAdapters = str | Sequence[str | tuple[str, float]] | Mapping[str, float]


class AdapterFile(msgspec.Struct, frozen=True):
    """An adapter that is kept beside a model, under a name that is its own."""

    name: str
    path: str
    bytes: int = 0  # of its tensors, in memory
    sha256: str = ""  # of the file when it was looked at; "" = it was not

    def __post_init__(self) -> None:
        check_types(self, CANNOT_BE_SENT)
        check_adapter_name(self.name)
        try:
            self.path.encode()
        except UnicodeEncodeError:
            raise UsageError(
                f"{self.path!r} is not UTF-8, so no worker can be told of it", hint="rename the file or its folder"
            ) from None


class LoadAdapter(msgspec.Struct, frozen=True, tag=True):
    """To a running model: keep this beside the weights."""

    file: AdapterFile


class DropAdapter(msgspec.Struct, frozen=True, tag=True):
    """To a running model: forget the adapter of this name, once no answer uses it. New answers cannot use it."""

    name: str


def check_adapter_name(name: str) -> None:
    """
    Raises:
        UsageError: no adapter is called so.
    """
    if _NAME.fullmatch(name) is None or name in _RESERVED:
        raise UsageError(
            f"{name[:80]!r} is no name for an adapter",
            hint="1 to 64 letters, digits, dots, dashes and underlines, beginning with a letter or digit; not 'latest'",
            param="adapters",
        )


def check_adapters(adapters: AdapterSet) -> None:
    """
    Raises:
        UsageError: more than MAX_ADAPTERS, one twice, or a scale that is out of range.
    """
    check_range(len(adapters) <= MAX_ADAPTERS, "adapters", f"at most {MAX_ADAPTERS}")
    for name, scale in adapters:
        check_adapter_name(name)
        check_range(
            math.isfinite(scale) and abs(scale) <= MAX_SCALE, f"adapters={scale}", f"scales of up to {MAX_SCALE:g}"
        )
    names = [name for name, _ in adapters]
    if twice := next((name for name in names if names.count(name) > 1), ""):
        raise UsageError(f"the adapter {twice} is named twice", hint="name it once", param="adapters")


def adapters_of(asked: AskedAdapters | None) -> AdapterSet | None:
    """What a caller writes: a name, several names, pairs of name and scale, or scales by name. None stays None.

    Raises:
        UsageError: it is something else.
    """
    if asked is None:
        return None
    try:
        if isinstance(asked, str):
            return ((asked, 1.0),)
        pairs = asked.items() if isinstance(asked, Mapping) else asked
        return tuple((pair, 1.0) if isinstance(pair, str) else _pair(*pair) for pair in pairs)
    except (TypeError, ValueError, OverflowError):  # the last: of a whole number that no float holds
        what = f"adapters={asked!r:.60} names no adapters"
        raise UsageError(what, hint='as in adapters="mail" or adapters={"mail": 0.5}', param="adapters") from None


def adapter_files(asked: AskedFiles | None) -> tuple[str, ...]:
    """What a caller writes, as NAME, FILE or NAME=FILE texts.

    Raises:
        UsageError: it is something else.
    """
    if asked is None:
        return ()
    try:
        if isinstance(asked, Mapping):
            return tuple(f"{_text(name)}={os.fspath(path)}" for name, path in asked.items())
        return tuple(map(_file, [asked] if isinstance(asked, str | os.PathLike) else asked))
    except TypeError:
        what = f"adapters={asked!r:.60} names no files"
        raise UsageError(what, hint='as in adapters={"mail": "mail.gguf"}', param="adapters") from None


def adapter_set(adapters: AdapterSet) -> AdapterSet:
    """The same set in one order, without those that add nothing: equal where the same is computed."""
    return tuple(sorted((name, float(scale)) for name, scale in adapters if scale))


def _text(name: object) -> str:
    if not isinstance(name, str):
        raise TypeError
    return name


def _file(file: AskedFile) -> str:
    """A bare word is a stored adapter's name, and no path is one."""
    path = os.fspath(file)
    return path if isinstance(file, str) or os.path.dirname(path) else os.path.join(os.curdir, path)


def _pair(name: str, scale: float) -> tuple[str, float]:
    if isinstance(scale, bool | str | bytes):
        raise TypeError
    return _text(name), float(scale)


class AdapterNeed(msgspec.Struct, frozen=True):
    """What a model must be that answers with an adapter. Of a stored one the very file that it was made for, of which
    several may be stored under one name; of any other file the architecture and the matrices.
    """

    name: str
    bases: tuple[tuple[str, str, str], ...] = ()  # (model, quantization, sha256) of stored ones
    architecture: str = ""
    n_layer: int = 0  # at least
    matrices: tuple[tuple[str, int, int], ...] = ()  # ("attn_q", values in, values out), each once
