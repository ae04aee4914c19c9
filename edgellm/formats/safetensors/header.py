"""Reads a safetensors header from a buffer and trusts nothing in it. It does not interpret the model and opens no file.

    header length u64, header (JSON, may end in spaces), tensor data
    header   {"__metadata__": {text: text}, NAME: {"dtype": ..., "shape": [...], "data_offsets": [begin, end]}, ...}

As the format's specification says, tensors cover the data from its first to its last byte, without gaps and overlaps.
"""

from __future__ import annotations

import itertools
import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, NoReturn

import msgspec

from edgellm.errors import BadArtifact, UnsupportedArtifact
from edgellm.formats.mapped import Buffer
from edgellm.formats.sniff import sniff

# Far above any real file (thousands of tensors, under 1 MiB), and low enough that a hostile header costs under 64 MiB.
MAX_HEADER_BYTES = 8 * 1024**2
MAX_TENSORS = 32_768
MAX_NAME_BYTES = 1024
_COLONS = 4 * MAX_TENSORS + 4096  # four keys a tensor, and metadata
_METADATA = "__metadata__"

# Bits of one element.
DTYPES = {
    "BOOL": 8, "U8": 8, "I8": 8, "F8_E4M3": 8, "F8_E5M2": 8, "F8_E8M0": 8, "I16": 16, "U16": 16, "F16": 16,
    "BF16": 16, "I32": 32, "U32": 32, "F32": 32, "F64": 64, "I64": 64, "U64": 64, "C64": 64,
}  # fmt: skip

_Size = Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]


class _Entry(msgspec.Struct, forbid_unknown_fields=True):
    dtype: Annotated[str, msgspec.Meta(max_length=32)]
    shape: Annotated[list[_Size], msgspec.Meta(max_length=8)]
    data_offsets: tuple[_Size, _Size]


@dataclass(frozen=True, slots=True)
class SafetensorsTensor:
    name: str
    dtype: str  # key of DTYPES
    shape: tuple[int, ...]  # slowest first, as numpy's
    offset: int  # from the start of the file
    n_bytes: int


@dataclass(frozen=True, slots=True)
class SafetensorsHeader:
    """A checked header. Tensors are in file order and cover the data exactly."""

    where: str  # path, for messages
    metadata: Mapping[str, str]
    tensors: tuple[SafetensorsTensor, ...]
    data_offset: int
    file_bytes: int


def parse_safetensors(buffer: Buffer, *, file_bytes: int, where: str) -> SafetensorsHeader:
    """Check and read the header at the start of `buffer`, which is a whole file or its beginning.

    Raises:
        BadArtifact: names the tensor and the values.
        UnsupportedArtifact: a data type not known here.
    """
    start = bytes(buffer[:64])
    if len(start) < 9 or start[8:9] != b"{":
        raise BadArtifact(
            f"{where} is not a safetensors file: it is {sniff(start)[1]}", hint="fetch a .safetensors file"
        )
    length = int.from_bytes(start[:8], "little")
    if length > min(MAX_HEADER_BYTES, file_bytes - 8):
        _fail(where, f"its header takes {length} bytes; the file has {file_bytes - 8}, {MAX_HEADER_BYTES} are allowed")
    text = bytes(buffer[8 : 8 + length])
    entries = _entries(text, where)
    data_offset = 8 + length
    metadata = _decoded(entries.pop(_METADATA, msgspec.Raw(b"{}")), dict[str, str] | None, _METADATA, where) or {}
    tensors = [_tensor(name, raw, data_offset, where) for name, raw in entries.items()]
    _refuse_odd_text(text, where)
    return SafetensorsHeader(where, metadata, _placed(tensors, data_offset, file_bytes, where), data_offset, file_bytes)


def _entries(text: bytes, where: str) -> dict[str, msgspec.Raw]:
    if text.count(b":") > _COLONS:
        _fail(where, f"its header has more than {MAX_TENSORS} tensors")
    entries: dict[str, msgspec.Raw] = _decoded(text, dict[str, msgspec.Raw], "its header", where)
    if len(entries) > MAX_TENSORS:
        _fail(where, f"its header has {len(entries)} tensors, {MAX_TENSORS} are allowed")
    return entries


def _decoded(text: bytes | msgspec.Raw, kind: Any, what: str, where: str) -> Any:
    """JSON of that type; nothing else is built on the way."""
    try:
        return msgspec.json.decode(text, type=kind)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        _fail(where, f"{what}: {re.sub(r' - at `[$].*', '', str(error))}")


def _tensor(name: str, raw: msgspec.Raw, data_offset: int, where: str) -> SafetensorsTensor:
    if not name or "\0" in name or len(name.encode("utf-8", "surrogatepass")) > MAX_NAME_BYTES:
        _fail(where, f"tensor name {name[:40]!r} is empty, has a zero byte or over {MAX_NAME_BYTES} bytes")
    what = f"tensor {name!r}"
    entry: _Entry = _decoded(raw, _Entry, what, where)
    bits = DTYPES.get(entry.dtype)
    if bits is None:
        raise UnsupportedArtifact(
            f"{where}: {what} has data type {entry.dtype!r}, which is not known here", hint="update edgellm"
        )
    begin, end = entry.data_offsets
    n_bytes = math.prod(entry.shape) * bits // 8
    if end - begin != n_bytes:
        _fail(where, f"{what} of {entry.dtype} {entry.shape} takes {n_bytes} bytes, its offsets give {end - begin}")
    return SafetensorsTensor(name, entry.dtype, tuple(entry.shape), data_offset + begin, n_bytes)


def _placed(
    tensors: list[SafetensorsTensor], data_offset: int, file_bytes: int, where: str
) -> tuple[SafetensorsTensor, ...]:
    """In file order. Raises: BadArtifact: outside the file, one over another, or bytes that belong to none."""
    for tensor in tensors:
        if tensor.offset + tensor.n_bytes > file_bytes:
            _fail(
                where,
                f"tensor {tensor.name!r} takes bytes {tensor.offset} to {tensor.offset + tensor.n_bytes}, "
                f"the file ends at {file_bytes}",
            )
    ordered = sorted(tensors, key=lambda tensor: (tensor.offset, tensor.n_bytes))
    end, before = data_offset, ""
    for tensor in ordered:
        if tensor.offset < end:
            _fail(where, f"tensor {tensor.name!r} at byte {tensor.offset} overlaps {before!r}, which ends at {end}")
        if tensor.offset > end:
            _fail(where, f"bytes {end} to {tensor.offset}, before tensor {tensor.name!r}, belong to no tensor")
        end, before = end + tensor.n_bytes, tensor.name
    if end != file_bytes:
        _fail(where, f"bytes {end} to {file_bytes}, after the last tensor, belong to no tensor")
    return tuple(ordered)


def _refuse_odd_text(text: bytes, where: str) -> None:
    """Refuses what a lenient decoder accepts: text that is not UTF-8, and names given twice."""

    def look(pairs: list[tuple[str, object]]) -> None:
        names = sorted(name for name, _ in pairs)
        for one, other in itertools.pairwise(names):
            if one == other:
                _fail(where, f"{one[:40]!r} is in its header twice")

    try:
        json.loads(text.decode(), object_pairs_hook=look)
    except (ValueError, RecursionError) as error:
        _fail(where, f"its header: {error}")


def _fail(where: str, why: str) -> NoReturn:
    raise BadArtifact(f"{where}: {why}", hint="the file is damaged or not what it claims to be; fetch it again")
