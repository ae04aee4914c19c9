"""Tensors of a ternary model file, by role, as raw bytes: `blk.3.attn_q.weight`, whatever file they come from.

Roles are GGUF's tensor names. Bytes are views of the mapped file; nothing is copied or decoded here.
"""

from __future__ import annotations

import mmap
import os
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import numpy as np
import numpy.typing as npt

from edgellm.errors import BadArtifact, UnsupportedArtifact
from edgellm.formats.gguf.reader import GgufModel, GgufTensor, read_model
from edgellm_bitnet.architecture import Architecture, from_gguf
from edgellm_bitnet.codecs.i2_s import Layout
from edgellm_bitnet.i2s_layout import KEY, Packed, resolve
from edgellm_bitnet.layout import roles

Bytes = npt.NDArray[np.uint8]

TERNARY_TYPES = ("I2_S", "I2_S_ARM", "TQ2_0", "TQ1_0", "Q2_0", "Q1_0", "PACKED")
REAL_TYPES = ("F32", "F16", "BF16")


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
        """Give back the memory of what was read so far: it is the file's, and read again where it is touched."""
        ...


class GgufWeights:
    """A GGUF file, or all parts of a split one."""

    def __init__(self, path: str, i2s_layout: str = "") -> None:
        self.model: GgufModel = read_model(path)
        self._asked = i2s_layout
        if self.model.header.big_endian:
            raise UnsupportedArtifact(f"{path} is big endian", hint="convert it on the machine that wrote it")
        self.where = path
        self.architecture = from_gguf(self.model.header, self.model.tensors)
        self._maps = [_mapped(part) for part in self.model.paths]
        self._tensors: dict[str, tuple[GgufTensor, Bytes]] = {
            tensor.name: (tensor, np.frombuffer(data, np.uint8))
            for part, data in zip(self.model.parts, self._maps, strict=True)
            for tensor in part.tensors
        }
        if unknown := sorted(self._tensors.keys() - roles(self.architecture)):
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
        if role not in self._tensors:
            return None
        tensor, file = self._tensors[role]
        if len(tensor.dims) != 2:
            raise BadArtifact(f"{self.where}: {role} has dimensions {tensor.dims}, two are needed")
        data = file[tensor.offset : tensor.offset + tensor.n_bytes]
        scale = 1.0
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
        arch, declared = self.architecture, self.model.header.metadata.get(KEY)
        return resolve(self._packed, arch.layers, arch.head_dim, asked=self._asked, declared=declared, where=self.where)

    def _packed(self, name: str) -> Packed | None:
        if name not in self._tensors or self._tensors[name][0].type.name != "I2_S":
            return None
        tensor, file = self._tensors[name]
        return Packed(file[tensor.offset : tensor.offset + tensor.n_bytes], tensor.dims[1], tensor.dims[0])

    def vector(self, role: str, size: int) -> npt.NDArray[np.float32] | None:
        """float32 (size,) of an F32, F16 or BF16 tensor; None where there is none.

        Raises:
            BadArtifact: another size, another type, or a value that is not finite.
        """
        if role not in self._tensors:
            return None
        tensor, file = self._tensors[role]
        data = file[tensor.offset : tensor.offset + tensor.n_bytes]
        return checked_reals(f"{self.where}: {role}", tensor.type.name, data, size, tensor.offset)

    def fingerprint(self) -> list[object]:
        stats = [os.stat(path) for path in self.model.paths]
        files = [(os.path.abspath(p), s.st_size, s.st_mtime_ns) for p, s in zip(self.model.paths, stats, strict=True)]
        return [*files, self._asked]

    def release(self) -> None:
        for mapping in self._maps:
            release(mapping)


def _mapped(path: str) -> mmap.mmap:
    with open(path, "rb") as file:
        return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)


def release(mapping: mmap.mmap) -> None:
    """Drop the pages of a mapped file from this process."""
    if hasattr(mmap, "MADV_DONTNEED"):
        mapping.madvise(mmap.MADV_DONTNEED)


def reals(type_name: str, data: Bytes) -> npt.NDArray[np.float32]:
    """Float32 values of F32, F16 or BF16 bytes."""
    if type_name == "F32":
        return np.array(data.view(np.float32))
    if type_name == "F16":
        return data.view(np.float16).astype(np.float32)
    return (data.view(np.uint16).astype(np.uint32) << 16).view(np.float32)


def checked_reals(name: str, type_name: str, data: Bytes, size: int, offset: int) -> npt.NDArray[np.float32]:
    """float32 (size,) of a small tensor.

    Raises:
        BadArtifact: another size, another type, or a value that is not finite.
    """
    width = {"F32": 4, "F16": 2, "BF16": 2}.get(type_name, 0)
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
        raise BadArtifact(f"{weights.where}: tensor {role} is missing", hint="the file is no complete model")
    if (raw.rows, raw.cols) != (rows, cols):
        raise BadArtifact(
            f"{weights.where}: tensor {role} at byte {raw.offset} is {raw.rows} x {raw.cols}, "
            f"the architecture says {rows} x {cols}"
        )
    return raw
