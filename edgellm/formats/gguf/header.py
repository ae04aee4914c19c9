"""Reads a GGUF header from a buffer and trusts nothing in it: every length, count and offset is checked before use.

It does not interpret the model: no architecture, no split files, no file system. Layout (llama.cpp `gguf.h`):

    magic "GGUF" · version u32 · tensor count u64 · key count u64
    keys     name, value type u32, value          strings are a u64 length and bytes
    tensors  name, n_dims u32, dims u64[n_dims], type u32, offset u64
    padding to general.alignment, then the tensor data

Version 1 has 32-bit counts and is refused, as llama.cpp does. A big-endian file has its version bytes swapped.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from dataclasses import dataclass

from edgellm.errors import BadArtifact, UnsupportedArtifact
from edgellm.formats.gguf.cursor import Cursor, MetadataValue
from edgellm.formats.gguf.ggml_types import REMOVED, TYPES, GgmlType
from edgellm.formats.mapped import Buffer
from edgellm.formats.slack import check_slack

# Above any real model (2,000 tensors in the largest, as experts of a layer are one), and low enough that a hostile
# header costs under 64 MiB, and native code two seconds: it compares each name with all before it.
MAX_TENSORS = 16_384
MAX_KEYS = 16_384
MAX_KEY_BYTES = 64 * 1024**2  # of all keys: native code holds several times as much; 20 MiB are the most known
MAX_NAME_BYTES = 1024  # of a key
MAX_TENSOR_NAME_BYTES = 63  # GGML_MAX_NAME less the final zero
MAX_DIMS = 4


@dataclass(frozen=True, slots=True)
class GgufTensor:
    name: str
    dims: tuple[int, ...]  # fastest first, as ggml's `ne`
    type: GgmlType
    offset: int  # from the start of the file
    n_bytes: int


@dataclass(frozen=True, slots=True)
class GgufHeader:
    """A checked header. Every tensor lies inside `file_bytes`, none overlaps another, and there is no more."""

    where: str  # path, for messages
    version: int
    big_endian: bool
    alignment: int
    metadata: Mapping[str, MetadataValue]
    tensors: tuple[GgufTensor, ...]
    data_offset: int
    file_bytes: int

    @property
    def tensor_bytes(self) -> int:
        """Sum of tensor sizes without padding: what llama.cpp calls the model's size."""
        return sum(tensor.n_bytes for tensor in self.tensors)

    @property
    def architecture(self) -> str:
        return str(self.metadata.get("general.architecture", ""))

    def of_architecture(self, name: str, default: MetadataValue | None = None) -> MetadataValue | None:
        """A value of the model's own architecture: `block_count` of a llama is under `llama.block_count`."""
        return self.metadata.get(f"{self.architecture}.{name}", default)


def parse_gguf(buffer: Buffer, *, file_bytes: int, where: str) -> GgufHeader:
    """Check and read the header at the start of `buffer`, which is a whole file or its beginning.

    Raises:
        Incomplete: the header is longer than the beginning that is here.
        BadArtifact: names the field, the byte offset and the values.
        UnsupportedArtifact: a tensor type that is unknown or was removed, so its extent cannot be checked.
    """
    cursor = Cursor(buffer, where, file_bytes=file_bytes)
    version = cursor.preamble()
    n_tensors, n_keys = cursor.count("tensor count", MAX_TENSORS, 24), cursor.count("key count", MAX_KEYS, 13)
    metadata: dict[str, MetadataValue] = {}
    for _ in range(n_keys):
        start = cursor.pos
        key = cursor.name("key", MAX_NAME_BYTES)
        if key in metadata:
            cursor.fail(f"key {key!r}", start, "appears twice")
        metadata[key] = cursor.value(key)
        if cursor.pos > MAX_KEY_BYTES:
            cursor.fail(f"key {key!r}", start, f"brings the keys to {cursor.pos} bytes, {MAX_KEY_BYTES} are allowed")
    alignment = metadata.get("general.alignment", 32)
    # Real files use 32 or 64. Native code maps tensors where they lie, and aborts below 32; 2**16 is our bound.
    if type(alignment) is not int or not 32 <= alignment <= 65_536 or alignment & (alignment - 1):
        cursor.fail("general.alignment", cursor.pos, f"{alignment!r} is not a power of two from 32 to 65536")
    raw = [_tensor_info(cursor) for _ in range(n_tensors)]
    cursor.require(cursor.pos, "the last array")  # it is skipped, not read
    data_offset = -(-cursor.pos // alignment) * alignment
    tensors = _place(cursor, raw, data_offset, alignment, file_bytes)
    # Native code maps the whole file, and reads all of it.
    check_slack(where, file_bytes, data_offset + sum(tensor.n_bytes for tensor in tensors), len(tensors))
    big = cursor.order == ">"
    return GgufHeader(where, version, big, alignment, metadata, tensors, data_offset, file_bytes)


def key_bytes(buffer: Buffer, *, where: str) -> dict[str, bytes]:
    """Each key's value as the file spells it, its type first: to carry keys over unchanged. For checked headers.

    Raises:
        BadArtifact: as `parse_gguf`.
    """
    cursor = Cursor(buffer, where)
    cursor.preamble()
    cursor.count("tensor count", MAX_TENSORS, 24)
    values: dict[str, bytes] = {}
    for _ in range(cursor.count("key count", MAX_KEYS, 13)):
        key = cursor.name("key", MAX_NAME_BYTES)
        start = cursor.pos
        cursor.value(key)
        values[key] = bytes(buffer[start : cursor.pos])
    return values


def _tensor_info(cursor: Cursor) -> tuple[str, tuple[int, ...], GgmlType, int, int]:
    """(name, dims, type, offset in the data section, where its entry starts)."""
    start = cursor.pos
    name = cursor.name("tensor name", MAX_TENSOR_NAME_BYTES)
    n_dims = cursor.unpack("I", f"dimensions of {name}")
    if n_dims > MAX_DIMS:
        cursor.fail(f"dimensions of {name}", start, f"are {n_dims}, at most {MAX_DIMS} allowed")
    dims = tuple(cursor.unpack("Q", f"dimension of {name}") for _ in range(n_dims))
    elements_total = math.prod(dims)
    if elements_total == 0 or elements_total >= 2**63:
        cursor.fail(f"dimensions of {name}", start, f"{dims} hold {elements_total} elements, 1 to 2**63 - 1 allowed")
    type_id = cursor.unpack("I", f"type of {name}")
    kind = TYPES.get(type_id)
    if kind is None:
        what = f"{REMOVED[type_id]}, which llama.cpp removed" if type_id in REMOVED else "unknown to this version"
        raise UnsupportedArtifact(
            f"{cursor.where}: type {type_id} of tensor {name!r} is {what}",
            hint="fetch the model in a current quantization, or update edgellm",
        )
    row = dims[0] if dims else 1
    if row % kind.block_elems:
        cursor.fail(f"row of {name}", start, f"has {row} elements, {kind.name} needs a multiple of {kind.block_elems}")
    return name, dims, kind, cursor.unpack("Q", f"offset of {name}"), start


def _place(
    cursor: Cursor,
    raw: list[tuple[str, tuple[int, ...], GgmlType, int, int]],
    data_offset: int,
    alignment: int,
    file_bytes: int,
) -> tuple[GgufTensor, ...]:
    """Tensors with their place in the file: aligned, inside it, none over another, no name twice."""
    names: set[str] = set()
    tensors: list[GgufTensor] = []
    for name, dims, kind, offset, start in raw:
        if name in names:
            cursor.fail(f"tensor {name!r}", start, "appears twice")
        names.add(name)
        if offset % alignment:
            cursor.fail(f"offset of {name}", start, f"is {offset}, not a multiple of {alignment}")
        tensor = GgufTensor(name, dims, kind, data_offset + offset, kind.size_bytes(math.prod(dims)))
        if tensor.offset + tensor.n_bytes > file_bytes:
            raise BadArtifact(
                f"{cursor.where}: tensor {name!r} takes bytes {tensor.offset} to {tensor.offset + tensor.n_bytes}, "
                f"the file ends at {file_bytes}",
                hint="the file is truncated or its offsets lie; fetch it again",
            )
        tensors.append(tensor)
    by_offset = sorted(tensors, key=lambda tensor: tensor.offset)
    for before, after in itertools.pairwise(by_offset):
        if before.offset + before.n_bytes > after.offset:
            why = f"overlaps {after.name!r}, which starts at {after.offset}"
            cursor.fail(
                f"tensor {before.name!r} of type {before.type.name} and {before.n_bytes} bytes", before.offset, why
            )
    return tuple(tensors)
