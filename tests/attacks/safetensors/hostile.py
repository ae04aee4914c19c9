"""Safetensors files that lie. Each entry is the file's bytes and what the refusal must name.

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


CORPUS: dict[str, tuple[bytes | Callable[[], bytes], str]] = {
    "empty": (b"", "empty"),
    "one-byte": (b"\x08", "no safetensors file"),
    "length-only": (bytes(8), "no safetensors file"),
    "gguf": (b"GGUF" + bytes(60), "a GGUF file"),
    "html": (b"<!DOCTYPE html><html>404", "HTML page"),
    "lfs-pointer": (b"version https://git-lfs.github.com/spec/v1\noid sha256:0", "git-lfs pointer"),
    "zip": (b"PK\x03\x04" + bytes(60), "zip archive"),
    "zeros": (bytes(4096), "all zero bytes"),
    "length-0": (build(A, b"abcd", length=0), "its header"),
    "length-1": (build(A, b"abcd", length=1), "its header"),
    "length-one-less": (build(b'{"a":1}', length=6), "its header"),
    "length-one-more": (build(A, length=len(json.dumps(A)) + 1), "takes 61 bytes; the file has 60"),
    "length-huge": (build(A, b"abcd", length=2**63), "takes 9223372036854775808 bytes"),
    "length-max": (build(A, b"abcd", length=2**64 - 1), "takes 18446744073709551615 bytes"),
    "length-beyond-limit": (lambda: build(b"{" + b" " * 2**23 + b"}"), "8388608 are allowed"),
    "list": (build(b"[1]", b"abcd"), "no safetensors file"),
    "leading-space": (build(b' {"a":1}'), "no safetensors file"),
    "not-json": (build(b"{abc}"), "its header: "),
    "not-utf8": (build(b'{"\xff":1}'), "its header: "),
    "trailing-text": (build(json.dumps(A).encode() + b"x", b"abcd"), "its header: .*trailing"),
    "entry-number": (_raw('{"a": 1}'), "tensor 'a': .*object"),
    "entry-null": (_raw('{"a": null}'), "tensor 'a': .*object"),
    "entry-empty": (_raw('{"a": {}}'), "tensor 'a': .*dtype"),
    "no-offsets": (_raw('{"a": {"dtype": "U8", "shape": [4]}}'), "tensor 'a': .*data_offsets"),
    "no-shape": (_raw('{"a": {"dtype": "U8", "data_offsets": [0, 4]}}'), "tensor 'a': .*shape"),
    "dtype-unknown": (_one(dtype="Q9"), "tensor 'a' has data type 'Q9'"),
    "dtype-lower-case": (_one(dtype="u8"), "data type 'u8'"),
    "dtype-number": (_one(dtype=3), "tensor 'a': .*str"),
    "dtype-long": (_one(dtype="F" * 10_000), "tensor 'a': .*length"),
    "shape-text": (_one(shape="4"), "tensor 'a': .*array"),
    "shape-negative": (_one(shape=[-4]), "tensor 'a': .*>= 0"),
    "shape-negative-twice": (_one(shape=[-2, -2]), "tensor 'a': .*>= 0"),
    "shape-float": (_one(shape=[4.5]), "tensor 'a': .*int"),
    "shape-bool": (_one(shape=[True, 4]), "tensor 'a': .*int"),
    "shape-huge": (_one(shape=[2**64]), "tensor 'a': "),
    "shape-overflows": (_one(shape=[2**32, 2**32]), "takes 18446744073709551616 bytes, its offsets give 4"),
    "shape-overflows-to-small": (_one(shape=[2**62, 2, 2, 4]), "its offsets give 4"),
    "shape-long": (_one(shape=[1] * 100_000), "tensor 'a': .*length"),
    "shape-digits": (_raw('{"a":{"dtype":"U8","shape":[' + "9" * 100_000 + '],"data_offsets":[0,4]}}'), "'a': "),
    "shape-too-small": (_one(shape=[3]), "of U8 \\[3\\] takes 3 bytes, its offsets give 4"),
    "shape-too-large": (_one(shape=[5]), "of U8 \\[5\\] takes 5 bytes, its offsets give 4"),
    "offsets-one": (_one(data_offsets=[0]), "tensor 'a': .*length 2"),
    "offsets-three": (_one(data_offsets=[0, 4, 8]), "tensor 'a': .*length 2"),
    "offsets-negative": (_one(data_offsets=[-4, 0]), "tensor 'a': .*>= 0"),
    "offsets-reversed": (_one(data_offsets=[4, 0]), "its offsets give -4"),
    "offsets-text": (_one(data_offsets=["0", "4"]), "tensor 'a': .*int"),
    "offsets-max": (_one(data_offsets=[2**63 - 5, 2**63 - 1]), "the file ends at"),
    "offsets-beyond-64-bits": (_one(data_offsets=[2**64, 2**64 + 4]), "tensor 'a': "),
    "beyond-file": (build({"a": entry("U8", (5,), 0)}, b"abcd"), "the file ends at"),
    "one-byte-missing": (SOUND[:-1], "the file ends at"),
    "gap-first": (build({"a": entry("U8", (3,), 1)}, b"abcd"), "before tensor 'a', belong to no tensor"),
    "gap-middle": (
        build({"a": entry("U8", (1,), 0), "b": entry("U8", (2,), 2)}, b"abcd"),
        "before tensor 'b', belong to no tensor",
    ),
    "gap-last": (build({"a": entry("U8", (3,), 0)}, b"abcd"), "after the last tensor, belong to no tensor"),
    "no-tensors-but-data": (build({}, b"abcd"), "after the last tensor, belong to no tensor"),
    "overlap": (build({"a": entry("U8", (3,), 0), "b": entry("U8", (2,), 2)}, b"abcd"), "'b' at byte .* overlaps 'a'"),
    "on-each-other": (build({"a": entry("U8", (4,), 0), "b": entry("U8", (4,), 0)}, b"abcd"), "overlaps"),
    "inside": (build({"a": entry("U8", (4,), 0), "b": entry("U8", (1,), 1)}, b"abcd"), "'b' at byte .* overlaps 'a'"),
    "nothing-inside": (build({"a": entry("U8", (4,), 0), "b": entry("U8", (0,), 2)}, b"abcd"), "'b' at .* overlaps"),
    "name-empty": (build({"": entry("U8", (4,), 0)}, b"abcd"), "tensor name ''"),
    "name-zero-byte": (build({"a\0b": entry("U8", (4,), 0)}, b"abcd"), "zero byte"),
    "name-long": (build({"a" * 2000: entry("U8", (4,), 0)}, b"abcd"), "over 1024 bytes"),
    "name-twice": (
        _raw('{"a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]},"a":{"dtype":"I8","shape":[4],"data_offsets":[0,4]}}'),
        "'a' is in its header twice",
    ),
    "name-twice-escaped": (
        _raw('{"a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]},"\\u0061":{"dtype":"I8","shape":[4],"data_offsets":[0,4]}}'),
        "'a' is in its header twice",
    ),
    "key-twice": (
        _raw('{"a":{"dtype":"U8","dtype":"I8","shape":[4],"data_offsets":[0,4]}}'), "'dtype' is in its header twice",
    ),
    "key-unknown": (_one(more=[[]]), "tensor 'a': .*unknown field"),
    "metadata-not-utf8": (build(b'{"__metadata__":{"a":"\xa1"}}'), "__metadata__: "),
    "shape-key-not-utf8": (build(b'{"a":{"\xa1":1}}'), "'a': "),
    "metadata-number": (build({"__metadata__": {"a": 1}} | A, b"abcd"), "__metadata__: .*str"),
    "metadata-list": (build({"__metadata__": []} | A, b"abcd"), "__metadata__: "),
    "metadata-nested": (build({"__metadata__": {"a": {"b": "c"}}} | A, b"abcd"), "__metadata__: "),
    "nested-deep": (lambda: _raw('{"a":' + "[" * 1_000_000 + "]" * 1_000_000 + "}"), "its header: |'a': "),
    "nested-deep-objects": (lambda: _raw('{"a":' + '{"a":' * 20_000 + "1" + "}" * 20_001), "'a': |its header"),
    "tensors-too-many": (
        lambda: build({f"t{i}": entry("U8", (0,), 0) for i in range(33_000)}), "33000 tensors, 32768 are allowed",
    ),
    "keys-too-many": (lambda: build(("{" + ",".join(f'"{i}":1' for i in range(200_000)) + "}").encode()), "32768"),
}  # fmt: skip
