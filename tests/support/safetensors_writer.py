"""Writes safetensors files, true ones and lying ones, for the tests of everything that reads them."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

SIZES = {"BOOL": 1, "U8": 1, "I8": 1, "F16": 2, "BF16": 2, "I32": 4, "F32": 4, "I64": 8, "F64": 8}


def entry(dtype: str, shape: tuple[int, ...], begin: int, n_bytes: int | None = None) -> dict[str, Any]:
    size = math.prod(shape) * SIZES[dtype] if n_bytes is None else n_bytes
    return {"dtype": dtype, "shape": list(shape), "data_offsets": [begin, begin + size]}


def build(header: dict[str, Any] | bytes, data: bytes = b"", *, length: int | None = None) -> bytes:
    """`length` lies about the header's."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return (len(text) if length is None else length).to_bytes(8, "little") + text + data


def file(tensors: dict[str, tuple[str, tuple[int, ...], bytes]], metadata: dict[str, str] | None = None) -> bytes:
    """A sound file of (dtype, shape, data)."""
    header: dict[str, Any] = {"__metadata__": metadata} if metadata else {}
    data = b""
    for name, (dtype, shape, raw) in tensors.items():
        header[name] = entry(dtype, shape, len(data), len(raw))
        data += raw
    return build(header, data)


def write(path: Path, tensors: dict[str, tuple[str, tuple[int, ...], bytes]]) -> Path:
    path.write_bytes(file(tensors, {"format": "pt"}))
    return path
