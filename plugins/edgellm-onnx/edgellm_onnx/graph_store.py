"""Initializers of a model: large ones in `model.onnx.data` beside it, small ones inside.

Each tensor gets its place before anything is written. So the graph is complete while tensors are still being made, and
only some rows of one tensor are in memory. Places start at multiples of a page, those of large tensors at multiples of
64 KiB, so that a runtime maps them instead of reading them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt
from onnx import TensorProto, numpy_helper

from edgellm.files import require_room, reserve

DATA = "model.onnx.data"
_PAGE, _LARGE_PAGE, _LARGE = 4096, 65_536, 1 << 20
_BYTES: dict[int, int] = {TensorProto.FLOAT: 4, TensorProto.FLOAT16: 2, TensorProto.UINT8: 1, TensorProto.INT64: 8}


@dataclass
class Place:
    """Where a tensor lies in the data file, and how much of it was written."""

    offset: int
    n_bytes: int
    written: int = 0


@dataclass
class Store:
    """The initializers of a graph, and the place of each in the data file."""

    protos: list[TensorProto] = field(default_factory=list)
    places: dict[str, Place] = field(default_factory=dict)
    n_bytes: int = 0

    def small(self, name: str, values: npt.NDArray[np.generic]) -> str:
        """A tensor inside the graph."""
        self.protos.append(numpy_helper.from_array(values, name))
        return name

    def reserve(self, name: str, kind: int, *shape: int) -> str:
        """A place for a tensor in the data file."""
        n_bytes = math.prod(shape) * _BYTES[kind]
        page = _LARGE_PAGE if n_bytes >= _LARGE else _PAGE
        self.n_bytes = -(-self.n_bytes // page) * page
        self.places[name] = Place(self.n_bytes, n_bytes)
        self.n_bytes += n_bytes
        return self._outside(name, kind, shape, self.places[name])

    def alias(self, name: str, of: str, kind: int, *shape: int) -> str:
        """The bytes of `of` under another name and shape."""
        place = self.places[of]
        if math.prod(shape) * _BYTES[kind] != place.n_bytes:
            raise ValueError(f"{name} of {shape} is not as large as {of}")
        return self._outside(name, kind, shape, place)

    def _outside(self, name: str, kind: int, shape: tuple[int, ...], place: Place) -> str:
        proto = TensorProto(name=name, data_type=kind, dims=shape, data_location=TensorProto.EXTERNAL)
        entries = {"location": DATA, "offset": str(place.offset), "length": str(place.n_bytes)}
        for key, value in entries.items():
            proto.external_data.add(key=key, value=value)
        self.protos.append(proto)
        return name


class DataFile:
    """The data file being written: each tensor's bytes in order, tensors in any order."""

    def __init__(self, folder: Path, store: Store) -> None:
        self._store = store
        self._file = (folder / DATA).open("wb")
        try:
            self._reserve(folder)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        self._file.close()

    def _reserve(self, folder: Path) -> None:
        """A disk that is too full is found before the work is done."""
        hint = "free space, or choose another place with --out"
        require_room(folder, self._store.n_bytes, "the ONNX model", hint=hint)
        self._file.truncate(self._store.n_bytes)
        reserve(self._file, self._store.n_bytes)

    def append(self, name: str, values: npt.NDArray[np.generic]) -> int:
        """The next bytes of tensor `name`; how many."""
        place, data = self._store.places[name], np.ascontiguousarray(values).reshape(-1).view(np.uint8)
        if place.written + data.size > place.n_bytes:
            raise ValueError(f"{name} is given more than its {place.n_bytes} bytes")
        self._file.seek(place.offset + place.written)
        self._file.write(data.data)
        place.written += data.size
        return data.size

    def check(self) -> None:
        """Raises: ValueError: a tensor is not whole, a mistake of the caller."""
        missing = [name for name, place in self._store.places.items() if place.written != place.n_bytes]
        if missing:
            raise ValueError(f"{len(missing)} tensors are not whole, the first is {missing[0]}")
