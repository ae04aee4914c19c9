"""The model that is tuned: its matrices, as the file's own blocks or as values. The file is mapped, never written."""

from __future__ import annotations

import mmap
import warnings
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from edgellm.errors import BadArtifact
from edgellm.formats.gguf.reader import GgufModel, GgufTensor
from edgellm.formats.mapped import map_file
from edgellm_tune.blocks import unpack

PART_BYTES = 16 * 1024**2  # of float32 values: a table's rows are unpacked so many at a time
CPU = torch.device("cpu")
_AT_ONCE = 256 * 1024  # values; what they come through stays small, and in the processor's caches


@dataclass(slots=True)
class Matrix:
    """(rows, columns) of weights: uint8 blocks of `tensor.type`, or values."""

    name: str
    rows: int
    columns: int
    held: Tensor
    tensor: GgufTensor
    dtype: torch.dtype
    file: mmap.mmap

    def values(self) -> Tensor:
        """All of it. Not a copy where it is held as values."""
        if self.is_unpacked:
            return self.held
        values = torch.empty(self.rows, self.columns, dtype=self.dtype, device=self.held.device)
        return self._unpack(values, self.held)

    def at(self, indices: Tensor) -> Tensor:
        """Rows by number, (numbers, columns)."""
        held = self.held[indices]
        return held if self.is_unpacked else unpack(held, self.tensor.type, self.dtype)

    def parts(self) -> Iterator[tuple[slice, Tensor]]:
        """Some rows after the others, and their values: all at once where it is held as values, and until the next ones
        come where not."""
        if self.is_unpacked:
            yield slice(0, self.rows), self.held
            return
        each = min(self.rows, max(1, PART_BYTES // (4 * self.columns)))
        room = self._room(each * self.columns)
        for start in range(0, self.rows, each):
            part = slice(start, min(start + each, self.rows))
            yield part, self._unpack(room.view(each, -1)[: part.stop - start], self.held[part])

    @property
    def is_unpacked(self) -> bool:
        return self.held.dtype == self.dtype

    def let_go(self) -> None:
        """Its pages of the file, where nothing reads them again soon: they are memory beside its values otherwise."""
        if hasattr(mmap, "MADV_DONTNEED"):
            start = self.tensor.offset // mmap.PAGESIZE * mmap.PAGESIZE
            self.file.madvise(mmap.MADV_DONTNEED, start, self.tensor.offset + self.tensor.n_bytes - start)

    def _room(self, n_values: int) -> Tensor:
        if self.held.device.type != "cpu":
            return torch.empty(n_values, dtype=self.dtype, device=self.held.device)
        # A mapping of its own: between blocks of the heap, holes of this size would stay.
        return torch.frombuffer(mmap.mmap(-1, n_values * self.dtype.itemsize), dtype=self.dtype)

    def _unpack(self, values: Tensor, held: Tensor) -> Tensor:
        each = max(1, _AT_ONCE // self.columns)
        for start in range(0, len(held), each):
            values[start : start + each] = unpack(held[start : start + each], self.tensor.type, self.dtype)
        return values


class Base:
    """A checked model. Which of its tensors were asked for is remembered, see `unused`. On the processor blocks stay in
    the file's pages, on another device they are a copy."""

    def __init__(
        self,
        model: GgufModel,
        *,
        quantized: bool,
        dtype: torch.dtype = torch.float32,
        device: torch.device = CPU,
    ) -> None:
        self.where, self.device = model.paths[0], device
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

    def let_go(self) -> None:
        """The file's pages: those that are read again come back."""
        if hasattr(mmap, "MADV_DONTNEED"):
            for file in self._files.values():
                file.madvise(mmap.MADV_DONTNEED)

    def matrix(self, name: str, rows: int, columns: int) -> Matrix:
        """
        Raises:
            BadArtifact: there is none, or it has another shape.
        """
        tensor, held = self._find(name, (columns, rows))
        held = held.view(rows, -1).to(self.device)
        matrix = Matrix(name, rows, columns, held, tensor, self._dtype, self._files[name])
        if tensor.type.name == "F32" and self._dtype == torch.float32:
            matrix.held = matrix.held.view(torch.float32)
        elif not self._quantized:
            matrix.held = matrix.values()
            matrix.let_go()
        if self.device != CPU:
            matrix.let_go()
        return matrix

    def vector(self, name: str, size: int) -> Tensor:
        """All values of a tensor of one dimension.

        Raises:
            BadArtifact: there is none, or it has another shape.
        """
        tensor, held = self._find(name, (size,))
        return unpack(held.view(1, -1).to(self.device), tensor.type, self._dtype)[0].clone()

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
