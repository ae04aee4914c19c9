"""Writes GGUF version 3 files, tensor by tensor: the file appears under its name when it is complete, or not at all.

The layout is described in header.py. Sizes of tensors are known before their data, so the header is written first and
no more than one tensor is held by the caller.
"""

from __future__ import annotations

import contextlib
import math
import struct
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import BinaryIO

from edgellm.errors import UsageError
from edgellm.files import atomic_writer, reserve, writing
from edgellm.formats.gguf.ggml_types import GgmlType

ALIGNMENT = 32
BytesLike = bytes | bytearray | memoryview

_CODES = {"u8": (0, "B"), "i8": (1, "b"), "u16": (2, "H"), "i16": (3, "h"), "u32": (4, "I"), "i32": (5, "i"),
          "f32": (6, "f"), "bool": (7, "?"), "u64": (10, "Q"), "i64": (11, "q"), "f64": (12, "d")}  # fmt: skip
_STRING, _ARRAY = 8, 9
Scalar = int | float | bool | str | bytes


@dataclass(frozen=True, slots=True)
class Typed:
    """A metadata value whose type matters: `kind` is u8 i8 u16 i16 u32 i32 f32 bool u64 i64 f64 or str.

    A list becomes an array. Plain values are written as str, bool, u32 (i64 where it does not fit) and f32.
    """

    kind: str
    value: Scalar | Sequence[Scalar]


@dataclass(frozen=True, slots=True)
class Encoded:
    """A metadata value as another file spells it, its type first (`reader.read_key_bytes`)."""

    data: bytes


Value = Scalar | Typed | Encoded | Sequence[Scalar]


@dataclass(frozen=True, slots=True)
class TensorInfo:
    name: str
    dims: tuple[int, ...]  # fastest first
    type: GgmlType

    @property
    def n_bytes(self) -> int:
        return self.type.size_bytes(math.prod(self.dims))


class GgufWriter:
    """A file being written. It appears when the `with` block ends after the last tensor, and not when an error ends it.

        with GgufWriter(path, {"general.architecture": "llama"}, tensors) as writer:
            for tensor in tensors:
                writer.write(tensor.name, data)

    Raises:
        UsageError: the path cannot be written. DiskFull: not enough room, before the first byte or at any other.
        ValueError: a tensor out of order, of another length, or one not written: a mistake of the caller.
    """

    def __init__(
        self, path: str | Path, metadata: Mapping[str, Value], tensors: Sequence[TensorInfo], *, replace: bool = False
    ) -> None:
        self.path = Path(path)
        self._pending = list(reversed(tensors))
        self._replace = replace
        self._header = _header(metadata, tensors)
        self._file: BinaryIO | None = None
        self._cleanup = contextlib.ExitStack()
        self.size_bytes = len(self._header) + sum(_padded(tensor.n_bytes) for tensor in tensors)

    def __enter__(self) -> GgufWriter:
        if self.path.exists() and not self._replace:
            raise UsageError(f"{self.path} exists already", hint="choose another name")
        with contextlib.ExitStack() as cleanup:
            with self._told():
                self._file = cleanup.enter_context(atomic_writer(self.path, sync=True, replace=self._replace))
                reserve(self._file, self.size_bytes)
            self._put(self._header)
            self._cleanup = cleanup.pop_all()
        return self

    def write(self, name: str, data: BytesLike | Iterable[BytesLike]) -> None:
        """The data of the next tensor, in one or more pieces."""
        tensor = self._pending[-1] if self._pending else None
        if tensor is None or tensor.name != name:
            raise ValueError(f"tensor {name} was given, the next is {tensor.name if tensor else 'none'}")
        n_bytes = 0
        for piece in [data] if isinstance(data, (bytes, bytearray, memoryview)) else data:
            self._put(piece)
            n_bytes += memoryview(piece).nbytes
        if n_bytes != tensor.n_bytes:
            raise ValueError(f"tensor {name} was given {n_bytes} bytes, it has {tensor.n_bytes}")
        self._put(bytes(_padded(n_bytes) - n_bytes))
        self._pending.pop()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None:
            self._cleanup.__exit__(kind, error, trace)
            return
        with self._told(), self._cleanup:
            if self._pending:
                first = self._pending[-1].name
                raise ValueError(f"{len(self._pending)} tensors were not written, the first is {first}")

    def _put(self, data: BytesLike) -> None:
        assert self._file is not None
        with self._told():
            self._file.write(data)

    @contextlib.contextmanager
    def _told(self) -> Iterator[None]:
        with writing(self.path, needs=f" needs {self.size_bytes} bytes"):
            try:
                yield
            except FileExistsError:
                raise UsageError(f"{self.path} exists already", hint="choose another name") from None


def _padded(n_bytes: int) -> int:
    return -(-n_bytes // ALIGNMENT) * ALIGNMENT


def _header(metadata: Mapping[str, Value], tensors: Sequence[TensorInfo]) -> bytes:
    """Everything before the tensor data, padding included."""
    alignment = metadata.get("general.alignment", ALIGNMENT)
    if alignment != ALIGNMENT:
        raise ValueError(f"general.alignment is {alignment}, this writer aligns to {ALIGNMENT}")
    out = [b"GGUF", struct.pack("<IQQ", 3, len(tensors), len(metadata))]
    for key, value in metadata.items():
        out += [_text(key), _value(value)]
    offset = 0
    for tensor in tensors:
        if tensor.dims[0] % tensor.type.block_elems:
            raise ValueError(f"row of {tensor.name} has {tensor.dims[0]} elements, blocks of {tensor.type}")
        out += [_text(tensor.name), struct.pack(f"<I{len(tensor.dims)}Q", len(tensor.dims), *tensor.dims)]
        out.append(struct.pack("<IQ", tensor.type.id, offset))
        offset += _padded(tensor.n_bytes)
    joined = b"".join(out)
    return joined + bytes(_padded(len(joined)) - len(joined))


def _text(value: str | bytes) -> bytes:
    raw = value.encode() if isinstance(value, str) else value
    return struct.pack("<Q", len(raw)) + raw


def _value(value: Value) -> bytes:
    """Type and value, or type array, element type, length and elements."""
    if isinstance(value, Encoded):
        return value.data
    inner = value.value if isinstance(value, Typed) else value
    is_array = isinstance(inner, Sequence) and not isinstance(inner, (str, bytes))
    elements: Sequence[Scalar] = inner if is_array else [inner]  # type: ignore[assignment,list-item]
    kind = value.kind if isinstance(value, Typed) else _kind(elements)
    if kind == "str":
        number, data = _STRING, b"".join(map(_text, elements))  # type: ignore[arg-type]
    else:
        number, code = _CODES[kind]
        data = struct.pack(f"<{len(elements)}{code}", *elements)
    return struct.pack("<IIQ", _ARRAY, number, len(elements)) + data if is_array else struct.pack("<I", number) + data


def _kind(elements: Sequence[Scalar]) -> str:
    kinds = {_plain_kind(element) for element in elements}
    if kinds == {"u32", "i64"}:
        return "i64"
    if len(kinds) != 1:
        raise ValueError(f"an array of {sorted(kinds) or 'nothing'} has no one type; give it as Typed")
    return kinds.pop()


def _plain_kind(value: Scalar) -> str:
    if isinstance(value, (str, bytes)):
        return "str"
    if isinstance(value, bool):
        return "bool"
    if isinstance(value, float):
        return "f32"
    return "u32" if 0 <= value < 2**32 else "i64"
