"""What is changed in a safetensors file that stays well-formed: its header, by name."""

from __future__ import annotations

from typing import Any

Header = dict[str, Any]


def recast(entry: Header, kind: str) -> None:
    """As many bytes, read as another type."""
    n_bytes = entry["data_offsets"][1] - entry["data_offsets"][0]
    size = {"F64": 8, "I64": 8, "F32": 4, "I32": 4, "F16": 2, "BF16": 2}.get(kind, 1)
    entry.update(dtype=kind, shape=[entry["shape"][0], n_bytes // size // entry["shape"][0]])


def rename(tensors: Header, name: str, other: str) -> None:
    tensors[other] = tensors.pop(name)
