"""Protocol buffers as they lie in a file, field by field: nothing is copied that is not asked for.

Enough to read a graph's header out of a file of gigabytes in the parent process. It trusts no length.
https://protobuf.dev/programming-guides/encoding
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, NoReturn

from edgellm.errors import BadArtifact

if TYPE_CHECKING:
    import mmap

    Buffer = bytes | mmap.mmap

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5
MAX_FIELDS = 8_000_000  # a graph of 100,000 nodes has some 2 million
MAX_TEXT_BYTES = 64 * 1024
MAX_HELD_BYTES = 256 * 1024**2  # that all texts can take in memory; those of 100,000 nodes take some 180 MiB at most
MAX_NUMBERS = 64  # of one packed field: dimensions of a tensor


class Message:
    """A message within `buffer`, from `start` to `end`. Messages inside it share its budget of fields and of texts."""

    __slots__ = ("_budget", "_buffer", "_where", "end", "start")

    def __init__(self, buffer: Buffer, start: int, end: int, where: str, budget: list[int] | None = None) -> None:
        self._buffer, self.start, self.end, self._where = buffer, start, end, where
        self._budget = [MAX_FIELDS, MAX_HELD_BYTES] if budget is None else budget

    def __iter__(self) -> Iterator[tuple[int, int, int, int]]:
        """(field, wire type, value, length): the value of a varint, or where the bytes of another field start.

        Raises:
            BadArtifact: cut, or no protocol buffer; names the byte.
        """
        at, end, buffer, budget = self.start, self.end, self._buffer, self._budget
        while at < end:
            budget[0] -= 1
            if budget[0] < 0:
                self.fail(at, f"has more than {MAX_FIELDS} fields")
            key = buffer[at]
            at += 1
            if key & 0x80:
                key, at = self._varint(at - 1)
            field, wire = key >> 3, key & 7
            if field == 0:
                self.fail(at - 1, "has a field without a number")
            if wire == VARINT:
                value, at = self._varint(at)
                yield field, wire, value, 0
                continue
            if wire == BYTES:
                length, at = self._varint(at)
            elif wire in (FIXED64, FIXED32):
                length = 8 if wire == FIXED64 else 4
            else:
                self.fail(at, f"has wire type {wire}, which means nothing")
            if length > end - at:
                self.fail(at, f"asks for {length} bytes, {max(0, end - at)} are left")
            yield field, wire, at, length
            at += length

    def once(self, *fields: int) -> Iterator[tuple[int, int, int, int]]:
        """The same. Protocol buffers merge a message that is there twice: what is read apart is not what runs then.

        Raises:
            BadArtifact: one of `fields` is there twice.
        """
        seen = set[int]()
        for field, wire, at, length in self:
            if wire == BYTES and field in fields:
                if field in seen:
                    self.fail(at, f"holds field {field} twice")
                seen.add(field)
            yield field, wire, at, length

    def message(self, start: int, length: int) -> Message:
        return Message(self._buffer, start, start + length, self._where, self._budget)

    def text(self, start: int, length: int) -> str:
        if length > MAX_TEXT_BYTES:
            self.fail(start, f"has a name of {length} bytes")
        self._budget[1] -= 64 + 4 * length
        if self._budget[1] < 0:
            self.fail(start, f"has names that take more than {MAX_HELD_BYTES} bytes")
        return bytes(self._buffer[start : start + length]).decode("utf-8", "replace")

    def varints(self, start: int, length: int) -> list[int]:
        """A packed field of whole numbers, two's complement in 64 bits."""
        numbers: list[int] = []
        part, at = self.message(start, length), start
        while at < part.end:
            value, at = part._varint(at)
            numbers.append(signed(value))
            if len(numbers) > MAX_NUMBERS:
                self.fail(at, f"has more than {MAX_NUMBERS} numbers in one field")
        return numbers

    def fail(self, at: int, why: str) -> NoReturn:
        raise BadArtifact(f"{self._where} at byte {at} {why}: it is damaged, or no ONNX model", hint="fetch it again")

    def _varint(self, at: int) -> tuple[int, int]:
        value = shift = 0
        while True:
            if at >= self.end or shift >= 70:
                self.fail(at, "ends within a number" if at >= self.end else "has a number of more than ten bytes")
            byte = self._buffer[at]
            at += 1
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                return value & 0xFFFFFFFFFFFFFFFF, at
            shift += 7


def signed(value: int) -> int:
    """A varint as int64."""
    return value - (1 << 64) if value >> 63 else value
