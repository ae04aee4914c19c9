"""Safetensors files that lie. Each entry is the file's bytes.

Not a test module: `test_hostile_safetensors.py` reads every entry.
"""

from __future__ import annotations

import json
from collections.abc import Callable

from support.safetensors_writer import build, entry, file

A = {"a": entry("U8", (4,), 0)}
SOUND = file({"a": ("U8", (2, 2), b"abcd"), "b": ("F32", (), bytes(4)), "none": ("F16", (0, 3), b"")}, {"format": "pt"})


def _one(**changed: object) -> bytes:
    return build({"a": entry("U8", (4,), 0) | changed}, b"abcd")


def _raw(text: str) -> bytes:
    return build(text.encode(), b"abcd")


UNSUPPORTED = {"dtype-lower-case", "dtype-unknown"}
CORPUS: dict[str, bytes | Callable[[], bytes]] = {
    "empty": b"",
    "one-byte": b"\x08",
    "length-only": bytes(8),
    "gguf": b"GGUF" + bytes(60),
    "html": b"<!DOCTYPE html><html>404",
    "lfs-pointer": b"version https://git-lfs.github.com/spec/v1\noid sha256:0",
    "zip": b"PK\x03\x04" + bytes(60),
    "zeros": bytes(4096),
    "length-0": build(A, b"abcd", length=0),
    "length-1": build(A, b"abcd", length=1),
    "length-one-less": build(b'{"a":1}', length=6),
    "length-one-more": build(A, length=len(json.dumps(A)) + 1),
    "length-huge": build(A, b"abcd", length=2**63),
    "length-max": build(A, b"abcd", length=2**64 - 1),
    "length-beyond-limit": lambda: build(b"{" + b" " * 2**23 + b"}"),
    "list": build(b"[1]", b"abcd"),
    "leading-space": build(b' {"a":1}'),
    "not-json": build(b"{abc}"),
    "not-utf8": build(b'{"\xff":1}'),
    "trailing-text": build(json.dumps(A).encode() + b"x", b"abcd"),
    "entry-number": _raw('{"a": 1}'),
    "entry-null": _raw('{"a": null}'),
    "entry-empty": _raw('{"a": {}}'),
    "no-offsets": _raw('{"a": {"dtype": "U8", "shape": [4]}}'),
    "no-shape": _raw('{"a": {"dtype": "U8", "data_offsets": [0, 4]}}'),
    "dtype-unknown": _one(dtype="Q9"),
    "dtype-lower-case": _one(dtype="u8"),
    "dtype-number": _one(dtype=3),
    "dtype-long": _one(dtype="F" * 10_000),
    "shape-text": _one(shape="4"),
    "shape-negative": _one(shape=[-4]),
    "shape-negative-twice": _one(shape=[-2, -2]),
    "shape-float": _one(shape=[4.5]),
    "shape-bool": _one(shape=[True, 4]),
    "shape-huge": _one(shape=[2**64]),
    "shape-overflows": _one(shape=[2**32, 2**32]),
    "shape-overflows-to-small": _one(shape=[2**62, 2, 2, 4]),
    "shape-long": _one(shape=[1] * 100_000),
    "shape-digits": _raw('{"a":{"dtype":"U8","shape":[' + "9" * 100_000 + '],"data_offsets":[0,4]}}'),
    "shape-too-small": _one(shape=[3]),
    "shape-too-large": _one(shape=[5]),
    "offsets-one": _one(data_offsets=[0]),
    "offsets-three": _one(data_offsets=[0, 4, 8]),
    "offsets-negative": _one(data_offsets=[-4, 0]),
    "offsets-reversed": _one(data_offsets=[4, 0]),
    "offsets-text": _one(data_offsets=["0", "4"]),
    "offsets-max": _one(data_offsets=[2**63 - 5, 2**63 - 1]),
    "offsets-beyond-64-bits": _one(data_offsets=[2**64, 2**64 + 4]),
    "beyond-file": build({"a": entry("U8", (5,), 0)}, b"abcd"),
    "one-byte-missing": SOUND[:-1],
    "gap-first": build({"a": entry("U8", (3,), 1)}, b"abcd"),
    "gap-middle": build({"a": entry("U8", (1,), 0), "b": entry("U8", (2,), 2)}, b"abcd"),
    "gap-last": build({"a": entry("U8", (3,), 0)}, b"abcd"),
    "no-tensors-but-data": build({}, b"abcd"),
    "overlap": build({"a": entry("U8", (3,), 0), "b": entry("U8", (2,), 2)}, b"abcd"),
    "on-each-other": build({"a": entry("U8", (4,), 0), "b": entry("U8", (4,), 0)}, b"abcd"),
    "inside": build({"a": entry("U8", (4,), 0), "b": entry("U8", (1,), 1)}, b"abcd"),
    "nothing-inside": build({"a": entry("U8", (4,), 0), "b": entry("U8", (0,), 2)}, b"abcd"),
    "name-empty": build({"": entry("U8", (4,), 0)}, b"abcd"),
    "name-zero-byte": build({"a\0b": entry("U8", (4,), 0)}, b"abcd"),
    "name-long": build({"a" * 2000: entry("U8", (4,), 0)}, b"abcd"),
    "name-twice":
        _raw('{"a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]},"a":{"dtype":"I8","shape":[4],"data_offsets":[0,4]}}'),
    "name-twice-escaped":
        _raw('{"a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]},"\\u0061":{"dtype":"I8","shape":[4],"data_offsets":[0,4]}}'),
    "key-twice": _raw('{"a":{"dtype":"U8","dtype":"I8","shape":[4],"data_offsets":[0,4]}}'),
    "key-unknown": _one(more=[[]]),
    "metadata-not-utf8": build(b'{"__metadata__":{"a":"\xa1"}}'),
    "shape-key-not-utf8": build(b'{"a":{"\xa1":1}}'),
    "metadata-number": build({"__metadata__": {"a": 1}} | A, b"abcd"),
    "metadata-list": build({"__metadata__": []} | A, b"abcd"),
    "metadata-nested": build({"__metadata__": {"a": {"b": "c"}}} | A, b"abcd"),
    "nested-deep": lambda: _raw('{"a":' + "[" * 1_000_000 + "]" * 1_000_000 + "}"),
    "nested-deep-objects": lambda: _raw('{"a":' + '{"a":' * 20_000 + "1" + "}" * 20_001),
    "tensors-too-many": lambda: build({f"t{i}": entry("U8", (0,), 0) for i in range(33_000)}),
    "keys-too-many": lambda: build(("{" + ",".join(f'"{i}":1' for i in range(200_000)) + "}").encode()),
}  # fmt: skip
