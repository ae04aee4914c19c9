"""Writes a safetensors file. The same arrays give the same bytes."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from edgellm.files import atomic_writer

DTYPES = {"float32": "F32", "float16": "F16", "float64": "F64", "int32": "I32", "int64": "I64", "uint8": "U8"}
_ALIGNED = 8  # of the data; readers of other programs map it


def write_safetensors(
    path: Path, arrays: Mapping[str, npt.NDArray[Any]], metadata: Mapping[str, str] = MappingProxyType({})
) -> None:
    """The whole file or none of it, forced to the disk, with tensors in the order of their names.

    Raises:
        OSError: it cannot be written.
    """
    ordered = {name: np.ascontiguousarray(arrays[name]).reshape(arrays[name].shape) for name in sorted(arrays)}
    header: dict[str, Any] = {"__metadata__": dict(metadata)} if metadata else {}
    at = 0
    for name, array in ordered.items():
        offsets = [at, at := at + array.nbytes]
        header[name] = {"dtype": DTYPES[array.dtype.name], "shape": array.shape, "data_offsets": offsets}
    text = msgspec.json.encode(header)
    text += b" " * (-len(text) % _ALIGNED)
    with atomic_writer(path, sync=True) as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for array in ordered.values():
            little = array if sys.byteorder == "little" else array.astype(array.dtype.newbyteorder("<"))
            file.write(little.tobytes())
