"""GGUF files that lie. Each entry is the file's bytes and what the refusal must name.

Not a test module: `test_hostile_gguf.py` reads every entry.
"""

from __future__ import annotations

import struct
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from support.gguf_writer import (
    ARRAY,
    BOOL,
    F32,
    FLOAT32,
    FLOAT64,
    I2_S,
    INT32,
    Q8_0,
    STRING,
    UINT8,
    UINT16,
    UINT32,
    Gguf,
    Tensor,
    model,
)  # fmt: skip

HUGE = 2**63
# What 31 minutes of `make fuzz` came to that the files below do not: one input for each line or refusal reached.
_LEARNED = Path(__file__).parent / "learned.zip"
_SOUND = model()


_SWAPPED = replace(_SOUND, order=">").build()


def _keys(*added: tuple[str | bytes, int, object], **changed: object) -> bytes:
    return replace(_SOUND, keys=[*_SOUND.keys, *added], **changed).build()


def _tensors(*tensors: Tensor, **changed: object) -> bytes:
    """The sound file with other tensors, and room for them."""
    return replace(_SOUND, tensors=list(tensors), **changed).build() + bytes(4096)


def _norm(**changed: object) -> Tensor:
    return replace(Tensor("norm", (64,), F32, 256), **changed)


def _patched(offset: int, code: str, value: int, *, order: str = "<") -> bytes:
    data = bytearray(replace(_SOUND, order=order).build())
    struct.pack_into(order + code, data, offset, value)
    return bytes(data)


UNSUPPORTED = {"tensor-type-max", "tensor-type-removed", "tensor-type-unknown", "tl1-of-a-fork"}
CORPUS: dict[str, bytes | Callable[[], bytes]] = {
    "empty": b"",
    "one-byte": b"G",
    "magic-only": b"GGUF",
    "bad-magic": replace(_SOUND, magic=b"GGUX").build(),
    "html": b"<!DOCTYPE html><html>404",
    "lfs-pointer": b"version https://git-lfs.github.com/spec/v1\noid sha256:0",
    "zeros": bytes(4096),
    "version-0": replace(_SOUND, version=0).build(),
    "version-1": replace(_SOUND, version=1).build(),
    "version-99": replace(_SOUND, version=99).build(),
    "version-big-endian-99": replace(_SOUND, version=99, order=">").build(),
    "version-1-big-endian": replace(_SOUND, version=1, order=">").build(),
    "version-2-data-missing": replace(_SOUND, version=2).header(),
    "version-2-with-counts-of-version-1":
        struct.pack("<4sIII", b"GGUF", 2, 1, 1) + replace(_SOUND, version=2).build()[24:],
    "big-endian-tensor-count-huge": _patched(8, "Q", HUGE, order=">"),
    "big-endian-key-length-huge": _patched(24, "Q", HUGE, order=">"),
    "big-endian-counts-of-little-endian": _patched(8, "Q", 2, order="<")[:4] + _SWAPPED[4:8] + _SOUND.build()[8:],
    "big-endian-tensor-beyond-file": replace(_SOUND, order=">").build()[:-1],
    "big-endian-array-length-huge": _keys(("x", ARRAY, (UINT8, [1], HUGE)), order=">"),
    "tensor-count-huge": _patched(8, "Q", HUGE),
    "tensor-count-max": _patched(8, "Q", 2**64 - 1),
    "tensor-count-beyond-file": _patched(8, "Q", 60_000),
    "tensor-count-one-more": _patched(8, "Q", 3),
    "key-count-huge": _patched(16, "Q", HUGE),
    "key-count-beyond-file": _patched(16, "Q", 16_000),
    "key-count-one-less": _patched(16, "Q", len(_SOUND.keys) - 1),
    "key-length-huge": _patched(24, "Q", HUGE),
    "key-length-max": _patched(24, "Q", 2**64 - 1),
    "key-length-beyond-limit": _keys((b"k" * 2000, UINT32, 1)),
    "key-empty": _keys((b"", UINT32, 1)),
    "key-with-zero-byte": _keys((b"a\0b", UINT32, 1)),
    "key-not-utf8": _keys((b"\xff\xfe", UINT32, 1)),
    "key-twice": _keys(("x.y", UINT32, 1), ("x.y", UINT32, 2)),
    "value-type-unknown": _keys(("x", 13, b"")),
    "value-type-max": _keys(("x", 2**32 - 1, b"")),
    "string-length-huge": _keys(("x", STRING, struct.pack("<Q", HUGE))),
    "string-length-wraps": _keys(("x", STRING, struct.pack("<Q", 2**64 - 8))),
    "bool-of-2": _keys(("x", BOOL, b"\x02")),
    "nan": _keys(("x", FLOAT32, float("nan"))),
    "nan-double": _keys(("x", FLOAT64, float("nan"))),
    "nan-in-array": _keys(("x", ARRAY, (FLOAT32, [float("nan")]))),
    "array-length-huge": _keys(("x", ARRAY, (UINT8, [1], HUGE))),
    "array-length-times-size-wraps": _keys(("x", ARRAY, (FLOAT64, [1.0], 2**61))),
    "array-of-strings-length-huge": _keys(("x", ARRAY, (STRING, ["a"], HUGE))),
    "array-of-arrays": _keys(("x", ARRAY, (ARRAY, [(UINT8, [1])]))),
    "array-of-unknown": _keys(("x", ARRAY, (77, [], 1))),
    "array-string-leaves-file":
        _keys(("x", ARRAY, struct.pack("<IQ", STRING, 2000) + struct.pack("<Q", 2**62) + bytes(20_000))),
    "array-last-string-leaves-file":
        lambda: Gguf([("x", ARRAY, struct.pack("<IQ", STRING, 1025) + bytes(8192) + struct.pack("<Q", 9))]).header(),
    "array-bool-of-9": _keys(("x", ARRAY, struct.pack("<IQ", BOOL, 1) + b"\x09")),
    "metadata-too-much": lambda: _keys(*((f"s{i}", STRING, "x" * 200_000) for i in range(60))),
    "keys-too-many": lambda: _keys(*((f"k{i}", UINT8, 1) for i in range(17_000))),
    "alignment-0": _keys(("general.alignment", UINT32, 0)),
    "alignment-3": _keys(("general.alignment", UINT32, 3)),
    "alignment-huge": _keys(("general.alignment", UINT32, 2**31)),
    "alignment-text": _keys(("general.alignment", STRING, "32")),
    "alignment-bool": _keys(("general.alignment", BOOL, 1)),
    "tensor-name-empty": _tensors(_norm(name="")),
    "tensor-name-long": _tensors(_norm(name="n" * 64)),
    "tensor-name-zero-byte": _tensors(_norm(name=b"a\0")),
    "tensor-twice": _tensors(_norm(), _norm()),
    "tensor-dims-5": _tensors(_norm(dims=(1, 1, 1, 1, 64))),
    "tensor-dims-huge": _tensors(_norm(n_dims=2**32 - 1)),
    "tensor-dim-0": _tensors(_norm(dims=(64, 0))),
    "tensor-dim-max": _tensors(_norm(dims=(2**64 - 1,))),
    "tensor-dims-overflow": _tensors(_norm(dims=(2**32, 2**32))),
    "tensor-dims-overflow-to-small": _tensors(_norm(dims=(2**33, 2**31 + 1))),
    "tensor-type-unknown": _tensors(_norm(type=200)),
    "tensor-type-removed": _tensors(_norm(type=31)),
    "tensor-type-max": _tensors(_norm(type=2**32 - 1)),
    "tensor-row-no-block": _tensors(_norm(dims=(63,), type=Q8_0)),
    "tensor-scalar-no-block": _tensors(_norm(dims=(), type=Q8_0)),
    "tensor-offset-unaligned": _tensors(_norm(offset=4)),
    "tensor-offset-beyond-file": _tensors(_norm(offset=2**40)),
    "tensor-offset-wraps": _tensors(_norm(offset=2**64 - 32)),
    "tensor-longer-than-file": _tensors(_norm(dims=(2**40,))),
    "tensor-one-byte-too-long": _SOUND.build()[:-1],
    "tensors-overlap": _tensors(_norm(offset=0), _norm(name="other", offset=224)),
    "tensors-on-each-other": _tensors(_norm(offset=0), _norm(name="other", offset=0)),
    "tensor-inside-another": _tensors(_norm(dims=(512,), offset=0), _norm(name="other", offset=512)),
    "i2_s-without-its-scale": _tensors(_norm(dims=(256, 4), type=I2_S, offset=0), _norm(name="other", offset=256)),
    "i2_s-at-the-end-without-its-scale":
        replace(_SOUND, tensors=[_norm(dims=(256, 4), type=I2_S, offset=0)]).header() + bytes(256),
    "i2_s-row-of-6": _tensors(_norm(dims=(6, 4), type=I2_S)),
    "q2_0-of-a-fork": _tensors(_norm(dims=(4096, 1), type=42, offset=0), _norm(name="other", offset=4096 // 128 * 34)),
    "tl1-of-a-fork": _tensors(_norm(dims=(256, 4), type=38)),
    "data-missing": _SOUND.header(),
}  # fmt: skip


def _part(no: int, count: int, total: int, tensors: list[Tensor], *, arch: bool = True) -> bytes:
    """A part of a split set that says it is number `no` of `count`, with `total` tensors in all parts."""
    keys = [("split.no", UINT16, no), ("split.count", UINT16, count), ("split.tensors.count", INT32, total)]
    return Gguf([*(_SOUND.keys if arch else []), *keys], tensors).build()


_A, _B, _C = (_norm(name=name, offset=None) for name in ("a", "b", "c"))
_FIRST = _part(0, 2, 2, [_A])


def learned() -> dict[str, bytes]:
    """Inputs that fuzzing found; most are refused, some are read."""
    with zipfile.ZipFile(_LEARNED) as kept:
        return {name: kept.read(name) for name in kept.namelist()}


# Sets of two files that do not belong together, and what the refusal must name.
SPLITS: dict[str, tuple[bytes, bytes]] = {
    "both-are-the-first": (_FIRST, _part(0, 2, 2, [_B])),
    "another-count": (_FIRST, _part(1, 3, 2, [_B])),
    "no-part-at-all": (_FIRST, _SOUND.build()),
    "negative-number": (_FIRST, Gguf([("split.no", INT32, -1), ("split.count", INT32, 2)], [_B]).build()),
    "number-as-text": (_FIRST, Gguf([("split.no", STRING, "1"), ("split.count", UINT16, 2)], [_B]).build()),
    "a-tensor-twice": (_FIRST, _part(1, 2, 2, [_A])),
    "more-tensors-promised": (_part(0, 2, 3, [_A]), _part(1, 2, 3, [_B])),
    "fewer-tensors-promised": (_part(0, 2, 1, [_A]), _part(1, 2, 1, [_B])),
    "second-truncated": (_FIRST, _part(1, 2, 2, [_B])[:-1]),
    "second-is-html": (_FIRST, b"<!DOCTYPE html>404"),
    "second-empty": (_FIRST, b""),
    "second-overlaps-itself": (_FIRST, _part(1, 2, 3, [replace(_B, offset=0), replace(_C, offset=0)])),
}  # fmt: skip
