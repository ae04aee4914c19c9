"""A GGUF file's tensors, read some rows at a time: raw blocks, or their values as float32."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from edgellm.errors import BadArtifact, UnsupportedArtifact
from edgellm.formats.gguf import reader
from edgellm.formats.gguf.reader import GgufModel, GgufTensor

Bytes = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]

CHUNK_BYTES = 16 * 1024**2  # of float32 values held at once


class Source:
    """A checked model whose files are mapped. Which tensors were asked for is remembered, see `unused`."""

    def __init__(self, path: str) -> None:
        self.model: GgufModel = reader.read_model(path)
        self.where = self.model.paths[0]
        if any(part.big_endian for part in self.model.parts):
            raise UnsupportedArtifact(f"{self.where} is big-endian", hint="convert it on a machine that is too")
        self._tensors: dict[str, tuple[GgufTensor, np.memmap[tuple[int, ...], np.dtype[np.uint8]]]] = {}
        for place, part in zip(self.model.paths, self.model.parts, strict=True):
            file = np.memmap(place, np.uint8, "r")
            self._tensors |= {tensor.name: (tensor, file) for tensor in part.tensors}
        self._asked: set[str] = set()

    def has(self, name: str) -> bool:
        return name in self._tensors

    def unused(self) -> list[str]:
        """Tensors that nothing was made of."""
        return sorted(self._tensors.keys() - self._asked)

    def tensor(self, name: str, *shape: int) -> GgufTensor:
        """The entry of a tensor of `shape`, rows first.

        Raises:
            BadArtifact: there is none, or it has another shape.
        """
        if name not in self._tensors:
            raise BadArtifact(f"{self.where}: tensor {name} is missing", hint="the file is not a complete model")
        info = self._tensors[name][0]
        if info.dims != shape[::-1]:
            raise BadArtifact.damaged(
                f"{self.where}: tensor {name} is {list(info.dims[::-1])}, the keys say {list(shape)}"
            )
        self._asked.add(name)
        return info

    def vector(self, name: str, size: int) -> Floats:
        """All values of a tensor of one dimension."""
        values: Floats = self.floats(self.tensor(name, size), np.arange(1))[0]
        return values

    def blocks(self, tensor: GgufTensor, rows: npt.NDArray[np.int64]) -> Bytes:
        """uint8 (rows, bytes of a row): the blocks as the file has them."""
        file = self._tensors[tensor.name][1]
        every = math.prod(tensor.dims[1:])
        return np.asarray(file[tensor.offset : tensor.offset + tensor.n_bytes].reshape(every, -1)[rows])

    def floats(self, tensor: GgufTensor, rows: npt.NDArray[np.int64]) -> Floats:
        """float32 (rows, columns).

        Raises:
            BadArtifact: a value is infinite or none. UnsupportedArtifact: a type that cannot be read.
        """
        from gguf import GGMLQuantizationType, quants

        kind = GGMLQuantizationType.__members__.get(tensor.type.name)
        try:
            if kind is None:
                raise NotImplementedError
            with np.errstate(all="ignore"):
                values = np.asarray(quants.dequantize(self.blocks(tensor, rows), kind), np.float32)
        except NotImplementedError:
            raise UnsupportedArtifact(
                f"{self.where}: tensor {tensor.name} is {tensor.type.name}, which is not converted",
                hint="fetch the model in another quantization",
            ) from None
        if not np.isfinite(values).all():
            raise BadArtifact.damaged(f"{self.where}: tensor {tensor.name} has values that are infinite or no numbers")
        return values
