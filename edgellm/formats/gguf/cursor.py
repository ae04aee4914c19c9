"""A cursor over the bytes of a GGUF header: it reads strings, scalars and arrays, and never trusts a length.

What keys and tensors mean is left to header.py.
"""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass
from typing import Any, NoReturn

from edgellm.errors import BadArtifact
from edgellm.formats.mapped import Buffer
from edgellm.formats.sniff import sniff

# Far above any real model (0.9M strings in the largest), and low enough that the header of a hostile file costs under
# 64 MiB and a second.
MAX_STRINGS = 4_000_000  # over all arrays
MAX_NUMBERS = 4_000_000  # as many: native code writes each as text (`gguf_kv_to_str`) before it looks at the key
MAX_KEPT_BYTES = 16 * 1024**2  # Python objects built for metadata
SHORT_ARRAY = 1024  # longer ones stay in the file
SHORT_TEXT_BYTES = 256 * 1024  # longer ones stay in the file

_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_BOOL, _STRING, _ARRAY = 7, 8, 9
_TYPE_NAMES = {
    0: "uint8", 1: "int8", 2: "uint16", 3: "int16", 4: "uint32", 5: "int32", 6: "float32", 7: "bool", 8: "string",
    9: "array", 10: "uint64", 11: "int64", 12: "float64",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class LongArray:
    """An array (or a text of over 256 KiB, as uint8) that was checked and left in the file; see `reader.read_array`."""

    type: str  # of one element: "string", "float32", ...
    length: int  # elements
    offset: int  # of the first element, in the file
    n_bytes: int


MetadataValue = int | float | bool | str | tuple[Any, ...] | LongArray


class Incomplete(BadArtifact):
    """The buffer is the beginning of a file and ends inside its header. Attribute: needed, bytes that must be there."""

    def __init__(self, message: str, *, hint: str = "", needed: int = 0) -> None:
        super().__init__(message, hint=hint)
        self.needed = needed


class Cursor:
    """A position in a buffer. Reading past the end, or a length that points there, is a `BadArtifact`.

    A buffer may be the beginning of a file of `file_bytes`: lengths are checked against the file, and what lies in the
    part that is not here is `Incomplete`.
    """

    def __init__(self, buffer: Buffer, where: str, *, order: str = "<", pos: int = 0, file_bytes: int = 0) -> None:
        self.buffer = buffer
        self.have = len(buffer)
        self.end = max(self.have, file_bytes)
        self.where = where
        self.order = order
        self.pos = pos
        self._kept_bytes = 0
        self._n_strings = 0
        self._n_numbers = 0

    def fail(self, field: str, offset: int, why: str) -> NoReturn:
        raise BadArtifact(
            f"{self.where}: {field} at byte {offset}: {why}",
            hint="the file is damaged or not what it claims to be; fetch it again",
        )

    def require(self, upto: int, field: str) -> None:
        """Bytes before position `upto`, which lies in the file, must be here."""
        if upto > self.have:
            message = f"{self.where}: {field} reaches byte {upto}, only the first {self.have} of {self.end} are here"
            raise Incomplete(message, hint="fetch the whole file", needed=upto)

    def unpack(self, code: str, field: str) -> Any:
        size = struct.calcsize("<" + code)
        if self.pos + size > self.end:
            self.fail(field, self.pos, f"needs {size} bytes, the file has {max(0, self.end - self.pos)} left")
        self.require(self.pos + size, field)
        (value,) = struct.unpack_from(self.order + code, self.buffer, self.pos)
        self.pos += size
        return value

    def preamble(self) -> int:
        """Magic and version; sets the byte order.

        Raises:
            BadArtifact: not a GGUF file (says what it is instead), or a version other than 2 and 3.
        """
        start = bytes(self.buffer[:64])
        if start[:4] != b"GGUF":
            raise BadArtifact(f"{self.where} is not a GGUF file: it is {sniff(start)[1]}", hint="fetch a .gguf file")
        self.pos = 4
        version: int = self.unpack("I", "version")
        if version and version & 0xFFFF == 0:
            self.order, self.pos = ">", 4
            version = self.unpack("I", "version")
        if version not in (2, 3):
            self.fail("version", 4, f"is {version}, this reader knows 2 and 3")
        return version

    def count(self, field: str, limit: int, least_bytes: int) -> int:
        """A u64 count of things that take at least `least_bytes` each."""
        start = self.pos
        n: int = self.unpack("Q", field)
        if n > limit:
            self.fail(field, start, f"is {n}, more than the {limit} allowed")
        if n * least_bytes > self.end - start:
            self.fail(field, start, f"is {n}, at least {n * least_bytes} bytes; the file has {self.end - start} left")
        return n

    def raw_text(self, field: str, limit: int) -> bytes:
        start = self.pos
        n: int = self.unpack("Q", f"length of {field}")
        if n > self.end - self.pos:
            self.fail(f"length of {field}", start, f"is {n}, the file has {self.end - self.pos} bytes left")
        if n > limit:
            self.fail(f"length of {field}", start, f"is {n}, more than the {limit} allowed")
        self._keep(64 + 4 * n, field)
        self.require(self.pos + n, field)
        self.pos += n
        return bytes(self.buffer[self.pos - n : self.pos])

    def name(self, field: str, limit: int) -> str:
        """A key or tensor name: not empty, UTF-8, no zero byte (native code would cut it there)."""
        start = self.pos
        raw = self.raw_text(field, limit)
        try:
            text = raw.decode()
        except UnicodeDecodeError:
            self.fail(field, start, f"is not UTF-8: {raw[:40]!r}")
        if not text or "\0" in text:
            self.fail(field, start, f"is empty or holds a zero byte: {raw[:40]!r}")
        return text

    def value(self, key: str) -> MetadataValue:
        start = self.pos
        kind: int = self.unpack("I", f"type of {key}")
        if kind == _ARRAY:
            return self._array(key)
        if kind == _STRING:
            return self._text(key)
        if kind not in _SCALARS:
            self.fail(f"type of {key}", start, f"is {kind}, known are 0 to 12")
        self._keep(64, key)
        return self._scalar(kind, key)

    def _scalar(self, kind: int, key: str) -> int | float | bool:
        start = self.pos
        if kind == _BOOL:
            # Any byte but 0 and 1 is undefined behaviour in the C++ that reads it next.
            byte = self.unpack("B", key)
            if byte > 1:
                self.fail(key, start, f"is a bool of value {byte}")
            return bool(byte)
        value: int | float = self.unpack(_SCALARS[kind], key)
        if isinstance(value, float) and math.isnan(value):
            self.fail(key, start, "is not a number (NaN)")
        return value

    def _text(self, key: str) -> MetadataValue:
        start = self.pos
        (n,) = struct.unpack_from(self.order + "Q", self.buffer, start) if start + 8 <= self.have else (0,)
        if SHORT_TEXT_BYTES < n <= self.end - start - 8:
            self.pos = start + 8 + n
            return LongArray("uint8", n, start + 8, n)
        return self.raw_text(key, SHORT_TEXT_BYTES).decode(errors="replace")

    def _array(self, key: str) -> MetadataValue:
        start = self.pos
        kind: int = self.unpack("I", f"element type of {key}")
        n: int = self.unpack("Q", f"length of {key}")
        if kind == _ARRAY:
            self.fail(f"element type of {key}", start, "is an array; nested arrays are not allowed")
        if kind != _STRING and kind not in _SCALARS:
            self.fail(f"element type of {key}", start, f"is {kind}, known are 0 to 12")
        least = 8 if kind == _STRING else struct.calcsize("<" + _SCALARS[kind])
        if n * least > self.end - self.pos:
            n_left = self.end - self.pos
            self.fail(f"length of {key}", start + 4, f"is {n}, at least {n * least} bytes; the file has {n_left} left")
        if n <= SHORT_ARRAY:
            self._keep(64 * n, key)
            if kind == _STRING:
                return tuple(self._text(key) for _ in range(n))
            return tuple(self._scalar(kind, key) for _ in range(n))
        if kind != _STRING:
            self._n_numbers += n
            if self._n_numbers > MAX_NUMBERS:
                why = f"brings the numbers to {self._n_numbers}, {MAX_NUMBERS} allowed"
                self.fail(f"length of {key}", start + 4, why)
        begin = self.pos
        self.pos = self._skip_strings(key, n) if kind == _STRING else begin + n * least
        return LongArray(_TYPE_NAMES[kind], n, begin, self.pos - begin)

    def _skip_strings(self, key: str, n: int) -> int:
        """Position after `n` strings. 65 ns each: no objects are kept, and the bounds are checked by unpacking.

        Lengths are unsigned, so the position only grows: a length that leaves the file makes the next read fail, and
        the last one is compared with the end.
        """
        self._n_strings += n
        if self._n_strings > MAX_STRINGS:
            self.fail(f"length of {key}", self.pos, f"brings the strings to {self._n_strings}, {MAX_STRINGS} allowed")
        length_at = struct.Struct(self.order + "Q").unpack_from
        buffer, pos = self.buffer, self.pos
        try:
            for _ in range(n):
                pos += 8 + length_at(buffer, pos)[0]
        except (struct.error, OverflowError):
            if pos + 8 <= self.end:
                self.require(pos + 8, f"a string of {key}")
            self.fail(f"a string of {key}", min(pos, self.end), f"reaches byte {pos}, the file ends at {self.end}")
        if pos > self.end:
            self.fail(f"the last string of {key}", self.end, f"reaches byte {pos}, the file ends at {self.end}")
        return pos

    def _keep(self, n_bytes: int, field: str) -> None:
        self._kept_bytes += n_bytes
        if self._kept_bytes > MAX_KEPT_BYTES:
            self.fail(field, self.pos, f"brings the metadata to more than {MAX_KEPT_BYTES} bytes")


def elements(buffer: Buffer, array: LongArray, *, big_endian: bool) -> tuple[Any, ...]:
    """Every element of a long array, built now; strings as bytes, because a vocabulary is not always UTF-8."""
    order = ">" if big_endian else "<"
    if array.type != "string":
        kind = next(k for k, name in _TYPE_NAMES.items() if name == array.type)
        return struct.unpack_from(f"{order}{array.length}{_SCALARS[kind]}", buffer, array.offset)
    length_at = struct.Struct(order + "Q").unpack_from
    strings = bytes(buffer[array.offset : array.offset + array.n_bytes])  # slices of a map take twice as long
    pos, out = 0, []
    for _ in range(array.length):
        end = pos + 8 + length_at(strings, pos)[0]
        out.append(strings[pos + 8 : end])
        pos = end
    return tuple(out)


def short(value: object) -> str:
    """A value of metadata for a message."""
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."
