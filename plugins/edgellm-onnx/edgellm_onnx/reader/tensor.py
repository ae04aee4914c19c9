"""A constant of an ONNX graph: its type and dimensions, and that so many bytes are where it says. Holds no values."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from edgellm.errors import BadArtifact, UnsupportedArtifact
from edgellm_onnx.reader import fields
from edgellm_onnx.reader.protobuf import BYTES, Message, signed

MAX_RANK = 16
# Data types by number: (name, bits).
DTYPES = {
    1: ("float32", 32), 2: ("uint8", 8), 3: ("int8", 8), 4: ("uint16", 16), 5: ("int16", 16), 6: ("int32", 32),
    7: ("int64", 64), 8: ("string", 0), 9: ("bool", 8), 10: ("float16", 16), 11: ("float64", 64), 12: ("uint32", 32),
    13: ("uint64", 64), 14: ("complex64", 64), 15: ("complex128", 128), 16: ("bfloat16", 16), 17: ("float8e4m3fn", 8),
    18: ("float8e4m3fnuz", 8), 19: ("float8e5m2", 8), 20: ("float8e5m2fnuz", 8), 21: ("uint4", 4), 22: ("int4", 4),
    23: ("float4e2m1", 4), 24: ("float8e8m0", 8), 25: ("uint2", 2), 26: ("int2", 2),
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Tensor:
    """A constant. Its bytes are in the graph's file, or in another one beside it (`location`)."""

    name: str
    dtype: str  # see DTYPES
    dims: tuple[int, ...]
    n_bytes: int  # by type and dimensions
    location: str = ""  # path relative to the graph's folder; "" = in the graph
    offset: int = 0


def read_tensor(message: Message, where: str) -> Tensor:
    """
    Raises:
        BadArtifact: its bytes are not as many as it claims. UnsupportedArtifact: in segments.
    """
    name, kind, is_external, segment = "", 0, 0, False
    dims: list[int] = []
    held: _Held | None = None
    external: dict[str, str] = {}
    for number, wire, at, size in message:
        if number == fields.Tensor.DIMS:
            dims += [signed(at)] if wire != BYTES else message.varints(at, size)
        elif number == fields.Tensor.DATA_TYPE and wire != BYTES:
            kind = at
        elif number == fields.Tensor.NAME and wire == BYTES:
            name = message.text(at, size)
        elif number == fields.Tensor.EXTERNAL_DATA and wire == BYTES:
            external.update(_entry(message.message(at, size)))
        elif number == fields.Tensor.DATA_LOCATION and wire != BYTES:
            is_external = at
        elif number in fields.VALUES:
            held = _Held(number, 1 if wire != BYTES else size, held, wire)
        segment |= number == fields.Tensor.SEGMENT
    if len(dims) > MAX_RANK or segment:
        raise UnsupportedArtifact(f"{where}: tensor {name!r} is in segments or has {len(dims)} axes")
    outside = external if is_external == fields.EXTERNAL else None
    return _checked(message, f"{where}: tensor {name!r}", name, kind, dims, held, outside)


def _entry(message: Message) -> Iterator[tuple[str, str]]:
    key = value = ""
    for number, wire, at, size in message:
        if wire == BYTES and number == fields.Entry.KEY:
            key = message.text(at, size)
        elif wire == BYTES and number == fields.Entry.VALUE:
            value = message.text(at, size)
    yield key, value


def _checked(  # noqa: PLR0917
    message: Message,
    where: str,
    name: str,
    kind: int,
    dims: list[int],
    held: _Held | None,
    external: dict[str, str] | None,
) -> Tensor:
    if kind not in DTYPES or any(dim < 0 for dim in dims):
        raise BadArtifact(f"{where} at byte {message.start} has type {kind} and dimensions {dims}: it is damaged")
    dtype, bits = DTYPES[kind]
    elements = math.prod(dims)
    n_bytes = -(-elements * bits // 8)
    if external is not None:
        location, offset, length = _place(where, external)
        if length is not None and length != n_bytes:
            raise BadArtifact(
                f"{where} has {n_bytes} bytes by its dimensions {dims} and {length} by its place in {location}",
                hint="fetch the model again",
            )
        return Tensor(name, dtype, tuple(dims), n_bytes, location, offset)
    if elements and not _holds(held, elements, bits, n_bytes):
        there = held.n_bytes if held else 0
        raise BadArtifact(
            f"{where} claims {n_bytes} bytes by its dimensions {dims}; {there} are there",
            hint="the file is damaged; fetch the model again",
        )
    return Tensor(name, dtype, tuple(dims), n_bytes)


class _Held:
    """Bytes of a tensor's values within the graph: raw, or numbers of a type of their own."""

    def __init__(self, number: int, n_bytes: int, before: _Held | None, wire: int) -> None:
        self.number = number
        self.n_bytes: int = n_bytes + (before.n_bytes if before is not None else 0)
        self.count: int = 1 + (before.count if before is not None else 0)
        self.is_packed = wire == BYTES


def _holds(held: _Held | None, elements: int, bits: int, n_bytes: int) -> bool:
    """Whether so many values can be there. A number of varying length has at least a byte."""
    if held is None:
        return False
    if held.number == fields.Tensor.RAW_DATA:
        return held.n_bytes == n_bytes
    if held.number == fields.Tensor.STRING_DATA:
        return held.count == elements
    if held.number == fields.Tensor.FLOAT_DATA and held.is_packed:
        return held.n_bytes in (4 * elements, elements)  # packed, or one by one
    return held.n_bytes * max(1, 8 // max(1, bits)) >= elements


def _place(where: str, external: dict[str, str]) -> tuple[str, int, int | None]:
    location = external.get("location", "")
    numbers = [external.get(key, usual) for key, usual in (("offset", "0"), ("length", "-1"))]
    if not location or not all(
        text.removeprefix("-").isascii() and text.removeprefix("-").isdigit() for text in numbers
    ):
        raise BadArtifact(f"{where} is said to be in another file, but not where", hint="fetch the model again")
    offset, length = (int(text) if len(text) < 20 else -2 for text in numbers)
    if offset < 0 or length < -1:
        raise BadArtifact(f"{where} starts at byte {numbers[0]} of {location}, of {numbers[1]} bytes: it is damaged")
    return location, offset, None if length == -1 else length
