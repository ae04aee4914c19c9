"""Tensors of a ternary model file, by role, as raw bytes: `blk.3.attn_q.weight`, whatever file they come from.

Roles are GGUF's tensor names. Bytes are views of the mapped file; nothing is copied or decoded here.
"""

from __future__ import annotations

import math
import mmap
import os
from collections.abc import Sequence, Set
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import numpy as np
import numpy.typing as npt

from edgellm.errors import BadArtifact, UnsupportedArtifact
from edgellm.formats.gguf.reader import GgufModel, GgufTensor, read_model
from edgellm.formats.mapped import map_file
from edgellm_bitnet.architecture import Architecture, from_gguf
from edgellm_bitnet.codecs import floats
from edgellm_bitnet.codecs.i2_s import Layout
from edgellm_bitnet.i2s_layout import KEY, Packed, resolve
from edgellm_bitnet.layout import GROUPS, REAL_TYPES, roles

Bytes = npt.NDArray[np.uint8]

TERNARY_TYPES = GROUPS.keys() - set(REAL_TYPES)


@dataclass(frozen=True, slots=True)
class Raw:
    """One matrix as its file has it: `rows` outputs of `cols` weights."""

    name: str
    type: str  # a ggml type name, or "PACKED": Hugging Face's four output rows in a byte
    data: Bytes
    rows: int
    cols: int
    scale: float = 1.0  # of a type without block scales; y = scale * (codes - 1) x
    offset: int = 0  # of the data in its file, for messages


class Weights(Protocol):
    """Where an engine's weights come from."""

    @property
    def where(self) -> str: ...

    @property
    def architecture(self) -> Architecture: ...

    def matrix(self, role: str) -> Raw | None: ...

    def vector(self, role: str, size: int) -> npt.NDArray[np.float32] | None: ...

    def fingerprint(self) -> list[object]:
        """Changes when the files do."""
        ...

    def release(self) -> None:
        """Drop the file's pages that were read so far from memory. They are read again when they are needed."""
        ...


class GgufTensors:
    """The tensors of a GGUF file, or of all parts of a split one, by name. The files are mapped."""

    def __init__(self, model: GgufModel) -> None:
        self._declared = model.header.metadata.get(KEY)
        self._maps = [map_file(path, ".gguf") for path in model.paths]
        self._tensors: dict[str, tuple[GgufTensor, Bytes]] = {
            tensor.name: (tensor, np.frombuffer(data, np.uint8))
            for part, data in zip(model.parts, self._maps, strict=True)
            for tensor in part.tensors
        }

    @property
    def names(self) -> Set[str]:
        return self._tensors.keys()

    def get(self, name: str) -> GgufTensor | None:
        return self._tensors[name][0] if name in self._tensors else None

    def bytes_of(self, tensor: GgufTensor) -> Bytes:
        return self._tensors[tensor.name][1][tensor.offset : tensor.offset + tensor.n_bytes]

    def i2s_layout(self, n_layer: int, head_dim: int, *, asked: str, where: str) -> Layout:
        """The order of the I2_S codes. Arguments and errors: see `i2s_layout.resolve`."""
        return resolve(self._packed, n_layer, head_dim, asked=asked, declared=self._declared, where=where)

    def _packed(self, name: str) -> Packed | None:
        tensor = self.get(name)
        if tensor is None or tensor.type.name != "I2_S":
            return None
        return Packed(self.bytes_of(tensor), *matrix_shape(tensor))

    def release(self) -> None:
        for mapping in self._maps:
            release(mapping)


def matrix_shape(tensor: GgufTensor) -> tuple[int, int]:
    """(rows, columns)."""
    return math.prod(tensor.dims[1:]), tensor.dims[0]


class GgufWeights:
    """A GGUF file, or all parts of a split one."""

    def __init__(self, path: str, i2s_layout: str = "") -> None:
        self.model: GgufModel = read_model(path)
        self._asked = i2s_layout
        self.where = path
        self.architecture = from_gguf(self.model.header, self.model.tensors)
        self._tensors = GgufTensors(self.model)
        if unknown := sorted(self._tensors.names - roles(self.architecture)):
            raise UnsupportedArtifact(
                f"{path} has tensors that {self.architecture.name} is not computed with here: {', '.join(unknown[:3])}"
                + (f" and {len(unknown) - 3} more" if len(unknown) > 3 else ""),
                hint="without them its answers would be wrong; other architectures run on the gguf backend",
            )

    def matrix(self, role: str) -> Raw | None:
        """The tensor of that name; None where there is none.

        Raises:
            BadArtifact: it is no matrix, or its scale is no positive number.
        """
        tensor = self._tensors.get(role)
        if tensor is None:
            return None
        if len(tensor.dims) != 2:
            raise BadArtifact(f"{self.where}: {role} has dimensions {tensor.dims}, two are needed")
        data, scale = self._tensors.bytes_of(tensor), 1.0
        if tensor.type.name == "I2_S":
            count = tensor.dims[0] * tensor.dims[1]
            if count % 128:
                raise BadArtifact(
                    f"{self.where}: tensor {role} at byte {tensor.offset} has {count} weights, no blocks of 128",
                    hint="the file was written by a broken converter",
                )
            packed = count // 4
            scale = float(data[packed : packed + 4].view(np.float32)[0])
        if (factor := self.vector(role.removesuffix("weight") + "scale", 1)) is not None:
            scale *= float(factor[0])
        if not 0 < scale < float("inf"):
            raise BadArtifact(
                f"{self.where}: tensor {role} at byte {tensor.offset} has scale {scale}",
                hint="the file is damaged, or was written by a broken converter",
            )
        type_name = tensor.type.name
        if type_name == "I2_S" and self.i2s_layout == "arm":
            type_name = "I2_S_ARM"
        return Raw(role, type_name, data, tensor.dims[1], tensor.dims[0], scale, tensor.offset)

    @cached_property
    def i2s_layout(self) -> Layout:
        """The order of the file's I2_S codes: as asked, as it says, or as its weights show (`i2s_layout`)."""
        arch = self.architecture
        return self._tensors.i2s_layout(arch.layers, arch.head_dim, asked=self._asked, where=self.where)

    def vector(self, role: str, size: int) -> npt.NDArray[np.float32] | None:
        """float32 (size,) of an F32, F16 or BF16 tensor; None where there is none.

        Raises:
            BadArtifact: another size, another type, or a value that is not finite.
        """
        tensor = self._tensors.get(role)
        if tensor is None:
            return None
        data = self._tensors.bytes_of(tensor)
        return checked_reals(f"{self.where}: {role}", tensor.type.name, data, size, tensor.offset)

    def fingerprint(self) -> list[object]:
        return [*stamps(self.model.paths), self._asked]

    def release(self) -> None:
        self._tensors.release()


def stamps(paths: Sequence[str]) -> list[tuple[str, int, int]]:
    """(path, size, time of the last change in ns) of each file."""
    stats = [os.stat(path) for path in paths]
    return [(os.path.abspath(p), s.st_size, s.st_mtime_ns) for p, s in zip(paths, stats, strict=True)]


def release(mapping: mmap.mmap) -> None:
    """Drop the pages of a mapped file from this process."""
    if hasattr(mmap, "MADV_DONTNEED"):
        mapping.madvise(mmap.MADV_DONTNEED)


def reals(type_name: str, data: Bytes) -> npt.NDArray[np.float32]:
    """Float32 values of F32, F16 or BF16 bytes."""
    return floats.decode(data, data.size // floats.BYTES[type_name], type_name)


def checked_reals(name: str, type_name: str, data: Bytes, size: int, offset: int) -> npt.NDArray[np.float32]:
    """float32 (size,) of a small tensor.

    Raises:
        BadArtifact: another size, another type, or a value that is not finite.
    """
    width = floats.BYTES.get(type_name, 0)
    if not width or data.size != size * width:
        raise BadArtifact(
            f"{name} at byte {offset} is {type_name} of {data.size} bytes, {size} real numbers are needed"
        )
    values = reals(type_name, data)
    if not np.isfinite(values).all():
        at = int(np.flatnonzero(~np.isfinite(values))[0])
        raise BadArtifact(f"{name}[{at}] at byte {offset} is {values[at]}", hint="the file is damaged")
    return values


def needed(weights: Weights, role: str, rows: int, cols: int) -> Raw:
    """The matrix, checked against the architecture.

    Raises:
        BadArtifact: missing, or of another shape.
    """
    raw = weights.matrix(role)
    if raw is None:
        raise BadArtifact(f"{weights.where}: tensor {role} is missing", hint="the file is not a complete model")
    if (raw.rows, raw.cols) != (rows, cols):
        raise BadArtifact(
            f"{weights.where}: tensor {role} at byte {raw.offset} is {raw.rows} x {raw.cols}, "
            f"the architecture says {rows} x {cols}"
        )
    return raw
