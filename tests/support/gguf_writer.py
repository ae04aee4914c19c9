"""Writes GGUF files, true ones and lying ones, for the tests of everything that reads them."""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

UINT8, INT8, UINT16, INT16, UINT32, INT32, FLOAT32, BOOL, STRING, ARRAY, UINT64, INT64, FLOAT64 = range(13)
_CODES = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "B", 10: "Q", 11: "q", 12: "d"}
F32, F16, Q4_0, Q8_0, I2_S = 0, 1, 2, 8, 36


@dataclass
class Tensor:
    name: str | bytes
    dims: tuple[int, ...]
    type: int
    n_bytes: int
    offset: int | None = None  # None = after the one before
    n_dims: int | None = None  # None = the truth


@dataclass
class Gguf:
    """Counts and sizes are computed where they are None; give one to lie about it."""

    keys: list[tuple[str | bytes, int, Any]] = field(default_factory=list)
    tensors: list[Tensor] = field(default_factory=list)
    magic: bytes = b"GGUF"
    version: int = 3
    order: str = "<"
    alignment: int = 32
    n_tensors: int | None = None
    n_keys: int | None = None

    def header(self) -> bytes:
        """Everything before the padding."""
        n_tensors = len(self.tensors) if self.n_tensors is None else self.n_tensors
        n_keys = len(self.keys) if self.n_keys is None else self.n_keys
        out = [self.magic, self.pack("I", self.version), self.pack("Q", n_tensors), self.pack("Q", n_keys)]
        for key, kind, value in self.keys:
            out += [self.text(key), self.pack("I", kind), self.value(kind, value)]
        offset = 0
        for tensor in self.tensors:
            place = offset if tensor.offset is None else tensor.offset
            n_dims = len(tensor.dims) if tensor.n_dims is None else tensor.n_dims
            dims = [self.pack("Q", dim) for dim in tensor.dims]
            out += [self.text(tensor.name), self.pack("I", n_dims), *dims]
            out += [self.pack("I", tensor.type), self.pack("Q", place)]
            offset = -(-(offset + tensor.n_bytes) // self.alignment) * self.alignment
        return b"".join(out)

    def build(self) -> bytes:
        head = self.header()
        head += bytes(-len(head) % self.alignment)
        size = 0
        for tensor in self.tensors:
            size = -(-size // self.alignment) * self.alignment + tensor.n_bytes
        return head + bytes(size)

    def write(self, path: Path) -> Path:
        path.write_bytes(self.build())
        return path

    def pack(self, code: str, value: Any) -> bytes:
        return struct.pack(self.order + code, value)

    def text(self, value: str | bytes) -> bytes:
        raw = value if isinstance(value, bytes) else value.encode()
        return self.pack("Q", len(raw)) + raw

    def value(self, kind: int, value: Any) -> bytes:
        """A value; raw bytes are taken as they are, an array is (element type, values) or (type, values, length)."""
        if kind == ARRAY and not isinstance(value, bytes):
            element, values, *length = value
            count = length[0] if length else len(values)
            return self.pack("I", element) + self.pack("Q", count) + b"".join(self.value(element, v) for v in values)
        if kind == STRING and not isinstance(value, bytes):
            return self.text(value)
        return value if isinstance(value, bytes) else self.pack(_CODES[kind], value)


def model_keys(arch: str = "llama", **changed: Any) -> list[tuple[str, int, Any]]:
    """Keys of a small language model. `changed` replaces or adds architecture keys (dots written as `__`)."""
    values: dict[str, Any] = {
        "block_count": 2, "context_length": 256, "embedding_length": 64, "feed_forward_length": 128,
        "attention__head_count": 4, "attention__head_count_kv": 2, **changed,
    }  # fmt: skip
    keys: list[tuple[str, int, Any]] = [("general.architecture", STRING, arch), ("general.file_type", UINT32, 7)]
    for name, value in values.items():
        key = f"{arch}.{name.replace('__', '.')}"
        if isinstance(value, list):
            keys.append((key, ARRAY, (BOOL if isinstance(value[0], bool) else UINT32, value)))
        elif value is not None:
            keys.append((key, UINT32, value))
    tokens = ["<s>", "</s>", *(f"t{i}" for i in range(14))]
    return [*keys, ("tokenizer.ggml.model", STRING, "gpt2"), ("tokenizer.ggml.tokens", ARRAY, (STRING, tokens))]


def model(arch: str = "llama", **changed: Any) -> Gguf:
    """A small, sound model file: two tensors, a vocabulary of 16."""
    tensors = [
        Tensor("token_embd.weight", (64, 16), Q8_0, 64 * 16 // 32 * 34),
        Tensor("output_norm.weight", (64,), F32, 256),
    ]
    return Gguf(model_keys(arch, **changed), tensors)
