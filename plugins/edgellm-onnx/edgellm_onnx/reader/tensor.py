"""A constant of an ONNX graph: its type and dimensions, and that so many bytes are where it says. Holds no values."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

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


@dataclass(slots=True)
class _Held:
    """Bytes of a tensor's values within the graph: raw, or numbers of a type of their own."""

    number: int = 0  # of the last field that holds some
    n_bytes: int = 0
    count: int = 0  # of fields
    is_packed: bool = False

    def add(self, number: int, n_bytes: int, *, is_packed: bool) -> None:
        self.number, self.is_packed = number, is_packed
        self.n_bytes += n_bytes
        self.count += 1

    def holds(self, elements: int, bits: int, n_bytes: int) -> bool:
        """Whether so many values can be there. A number of varying length has at least a byte."""
        if self.number == fields.Tensor.RAW_DATA:
            return self.n_bytes == n_bytes
        if self.number == fields.Tensor.STRING_DATA:
            return self.count == elements
        if self.number == fields.Tensor.FLOAT_DATA and self.is_packed:
            return self.n_bytes in (4 * elements, elements)  # packed, or one by one
        return self.n_bytes * max(1, 8 // max(1, bits)) >= elements


def read_tensor(message: Message, where: str) -> Tensor:
    """
    Raises:
        BadArtifact: its bytes are not as many as it claims. UnsupportedArtifact: in segments.
    """
    name, kind, is_external, segment = "", 0, 0, False
    dims: list[int] = []
    held, external = _Held(), dict[str, str]()
    for number, wire, at, size in message:
        if number == fields.Tensor.DIMS:
            dims += [signed(at)] if wire != BYTES else message.varints(at, size)
            if len(dims) > MAX_RANK:
                raise UnsupportedArtifact(f"{where}: the tensor at byte {message.start} has more than {MAX_RANK} axes")
        elif number == fields.Tensor.DATA_TYPE and wire != BYTES:
            kind = at
        elif number == fields.Tensor.NAME and wire == BYTES:
            name = message.text(at, size)
        elif number == fields.Tensor.EXTERNAL_DATA and wire == BYTES:
            external.update(_entry(message.message(at, size)))
        elif number == fields.Tensor.DATA_LOCATION and wire != BYTES:
            is_external = at & 0xFFFFFFFF  # an enum has 32 bits; protocol buffers drop the others
        elif number in fields.VALUES:
            held.add(number, size if wire == BYTES else 1, is_packed=wire == BYTES)
        segment |= number == fields.Tensor.SEGMENT
    where = f"{where}: tensor {name!r}"
    if segment:
        raise UnsupportedArtifact(f"{where} is in segments")
    if kind not in DTYPES or any(dim < 0 for dim in dims):
        raise BadArtifact(f"{where} at byte {message.start} has type {kind} and dimensions {dims}: it is damaged")
    dtype, bits = DTYPES[kind]
    elements = math.prod(dims)
    tensor = Tensor(name, dtype, tuple(dims), -(-elements * bits // 8))
    if is_external == fields.EXTERNAL:
        return _outside(tensor, where, external)
    if elements and not held.holds(elements, bits, tensor.n_bytes):
        raise BadArtifact(
            f"{where} claims {tensor.n_bytes} bytes by its dimensions {dims}; {held.n_bytes} are there",
            hint="the file is damaged; fetch the model again",
        )
    return tensor


def _entry(message: Message) -> Iterator[tuple[str, str]]:
    key = value = ""
    for number, wire, at, size in message:
        if wire == BYTES and number == fields.Entry.KEY:
            key = message.text(at, size)
        elif wire == BYTES and number == fields.Entry.VALUE:
            value = message.text(at, size)
    yield key, value


def _outside(tensor: Tensor, where: str, external: dict[str, str]) -> Tensor:
    """The tensor with its place in another file."""
    location, offset, length = _place(where, external)
    if length is not None and length != tensor.n_bytes:
        raise BadArtifact(
            f"{where} has {tensor.n_bytes} bytes by its dimensions {list(tensor.dims)} and {length} by its place in "
            f"{location}",
            hint="fetch the model again",
        )
    return replace(tensor, location=location, offset=offset)


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
