"""The model that is tuned: its matrices, as the file's own blocks or as values. The file is mapped, never written."""

from __future__ import annotations

import mmap
import warnings
from dataclasses import dataclass

import torch
from torch import Tensor

from edgellm.errors import BadArtifact
from edgellm.formats.gguf.reader import GgufModel, GgufTensor
from edgellm.formats.mapped import map_file
from edgellm_tune.blocks import unpack

PART_BYTES = 16 * 1024**2  # of float32 values: a table's rows are unpacked so many at a time


@dataclass(slots=True)
class Matrix:
    """(rows, columns) of weights: uint8 blocks of `tensor.type`, or values."""

    name: str
    rows: int
    columns: int
    held: Tensor
    tensor: GgufTensor
    dtype: torch.dtype

    def values(self) -> Tensor:
        """All of it. Not a copy where it is held as values."""
        return self.part(0, self.rows)

    def part(self, start: int, stop: int) -> Tensor:
        """Rows `start` to `stop`."""
        return self._unpacked(self.held[start:stop])

    def at(self, indices: Tensor) -> Tensor:
        """Rows by number, (numbers, columns)."""
        return self._unpacked(self.held[indices])

    def parts(self) -> list[tuple[int, int]]:
        """Rows that are unpacked together: all where they are held as values."""
        each = self.rows if self.is_unpacked else max(1, PART_BYTES // (4 * self.columns))
        return [(start, min(start + each, self.rows)) for start in range(0, self.rows, each)]

    @property
    def is_unpacked(self) -> bool:
        return self.held.dtype == self.dtype

    def _unpacked(self, held: Tensor) -> Tensor:
        return held if self.is_unpacked else unpack(held, self.tensor.type, self.dtype)


class Base:
    """A checked model. Which of its tensors were asked for is remembered, see `unused`."""

    def __init__(self, model: GgufModel, *, quantized: bool, dtype: torch.dtype = torch.float32) -> None:
        self.where = model.paths[0]
        self._quantized, self._dtype = quantized, dtype
        self._tensors: dict[str, tuple[GgufTensor, Tensor]] = {}
        self._files: dict[str, mmap.mmap] = {}  # by tensor
        self._asked: set[str] = set()
        for path, part in zip(model.paths, model.parts, strict=True):
            file = map_file(path, ".gguf")
            whole = _mapped(file)
            for tensor in part.tensors:
                self._files[tensor.name] = file
                self._tensors[tensor.name] = tensor, whole[tensor.offset : tensor.offset + tensor.n_bytes]

    def has(self, name: str) -> bool:
        return name in self._tensors

    def unused(self) -> list[str]:
        """Tensors that nothing was made of."""
        return sorted(self._tensors.keys() - self._asked)

    def matrix(self, name: str, rows: int, columns: int) -> Matrix:
        """
        Raises:
            BadArtifact: there is none, or it has another shape.
        """
        tensor, held = self._find(name, (columns, rows))
        matrix = Matrix(name, rows, columns, held.view(rows, -1), tensor, self._dtype)
        if tensor.type.name == "F32" and self._dtype == torch.float32:
            matrix.held = matrix.held.view(torch.float32)
        elif not self._quantized:
            values = torch.empty(rows, columns, dtype=self._dtype)
            for start, stop in matrix.parts():
                values[start:stop] = matrix.part(start, stop)
            matrix.held = values
            self._let_go(tensor)
        return matrix

    def vector(self, name: str, size: int) -> Tensor:
        """All values of a tensor of one dimension.

        Raises:
            BadArtifact: there is none, or it has another shape.
        """
        tensor, held = self._find(name, (size,))
        return unpack(held.view(1, -1), tensor.type, self._dtype)[0].clone()

    def _let_go(self, tensor: GgufTensor) -> None:
        """Its pages, which nothing reads again, are memory beside its values otherwise."""
        if hasattr(mmap, "MADV_DONTNEED"):
            start = tensor.offset // mmap.PAGESIZE * mmap.PAGESIZE
            self._files[tensor.name].madvise(mmap.MADV_DONTNEED, start, tensor.offset + tensor.n_bytes - start)

    def _find(self, name: str, dims: tuple[int, ...]) -> tuple[GgufTensor, Tensor]:
        if name not in self._tensors:
            raise BadArtifact(f"{self.where}: tensor {name} is missing", hint="the file is not a complete model")
        tensor, held = self._tensors[name]
        if tensor.dims != dims:
            raise BadArtifact.damaged(
                f"{self.where}: tensor {name} is {list(tensor.dims[::-1])}, the keys say {list(dims[::-1])}"
            )
        self._asked.add(name)
        return tensor, held


def _mapped(file: mmap.mmap) -> Tensor:
    """uint8, over the whole file."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # that it cannot be written, which nothing here does
        return torch.frombuffer(file, dtype=torch.uint8)
