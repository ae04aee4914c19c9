"""From a ternary GGUF file to one of another ternary type. Keys and all other tensors are carried over byte by byte."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np

from edgellm.contract.converter import Conversion, Converted
from edgellm.contract.source import Progress
from edgellm.errors import UnsupportedArtifact
from edgellm.formats.gguf import reader
from edgellm.formats.gguf.reader import GgufModel, GgufTensor
from edgellm.formats.gguf.writer import Encoded, TensorInfo, Value
from edgellm_bitnet import i2s_layout
from edgellm_bitnet.codecs import floats, i2_s, q1_0, q2_0, tq1_0, tq2_0
from edgellm_bitnet.codecs.i2_s import Layout
from edgellm_bitnet.convert import Piece, Source, type_keys, write
from edgellm_bitnet.targets import write_ternary
from edgellm_bitnet.ternary import Ternary, one_scale
from edgellm_bitnet.weights import GgufTensors, matrix_shape

DECODERS: dict[str, Callable[..., Ternary]] = {
    "I2_S": i2_s.decode, "TQ2_0": tq2_0.decode, "TQ1_0": tq1_0.decode, "Q2_0": q2_0.decode, "Q1_0": q1_0.decode,
}  # fmt: skip
TABLES = ("token_embd.weight", "output.weight")
PIECE_WEIGHTS = 2**22  # decoded at once, whatever one tensor of the file claims; 5 to 6 bytes are held for each
_BLOCK_ROWS = 32
_DROPPED = ("general.alignment",)  # ours is the default


def convert(conversion: Conversion, progress: Progress) -> Converted:
    """See `edgellm.contract.converter.Converter`."""
    source = GgufSource(reader.read_model(conversion.source.path), conversion)
    return write(conversion, source, source.keys(), source.pieces(), progress)


class GgufSource(Source):
    """A checked GGUF model and what becomes of each tensor."""

    def __init__(self, model: GgufModel, conversion: Conversion) -> None:
        super().__init__(conversion)
        self.model = model
        self.where = model.paths[0]
        self._tensors = GgufTensors(model)
        if not any(_is_ternary(tensor) for tensor in model.tensors):
            raise UnsupportedArtifact(
                f"{self.where} holds {reader.quant_name(model.header, model.tensors)}, no ternary weights",
                hint="only ternary models convert to ternary types; llama.cpp's own tools quantize others",
            )
        self.layout = self._layout(conversion.i2s_layout)

    def keys(self) -> dict[str, Value]:
        own = type_keys(self.target)
        dropped = {*_DROPPED, i2s_layout.KEY} - own.keys()
        kept: dict[str, Value] = {
            key: Encoded(data)
            for key, data in reader.read_key_bytes(self.model.header).items()
            if key not in dropped and not key.startswith("split.")
        }
        return kept | own

    def pieces(self) -> list[Piece]:
        return [piece for tensor in self.model.tensors if (piece := self._piece(tensor)) is not None]

    def _layout(self, asked: str) -> Layout:
        """Order of the source's I2_S codes."""
        if not any(tensor.type.name == "I2_S" for tensor in self.model.tensors):
            return "x86"
        sizes = reader.shape(self.model.header, self.model.tensors)
        layout = self._tensors.i2s_layout(sizes.n_layer, sizes.head_dim, asked=asked, where=self.where)
        if layout != "x86":
            self.notes.append("The source has its I2_S codes in the order of llama-quantize on Arm.")
        return layout

    def _piece(self, tensor: GgufTensor) -> Piece | None:
        where = f"{self.where}: tensor {tensor.name}"
        if _is_ternary(tensor):
            self.target.check(*matrix_shape(tensor), where)
            return Piece(TensorInfo(tensor.name, tensor.dims, self.target.type), lambda: self._ternary(tensor, where))
        weight = self._tensors.get(tensor.name.removesuffix("scale") + "weight")
        if tensor.name.endswith(".scale") and weight is not None and self._folds(weight):
            return None
        if tensor.name in TABLES:
            return self.table(tensor.name, tensor.dims, self._tensors.bytes_of(tensor).data, tensor.type.name, where)
        return Piece(TensorInfo(tensor.name, tensor.dims, tensor.type), lambda: self._tensors.bytes_of(tensor).data)

    def _ternary(self, tensor: GgufTensor, where: str) -> Iterator[bytes]:
        if self.target.type.name == "I2_S":
            scale = np.asarray(one_scale(self._matrices(tensor, where), where, target="I2_S"))
            for matrix in self._matrices(tensor, where):
                piece = write_ternary(self.target, replace(matrix, scales=scale, group=0), self.changes, where)
                yield piece[: -i2_s.TAIL_BYTES]
            yield piece[-i2_s.TAIL_BYTES :]
            return
        before = self.changes.rounded
        for matrix in self._matrices(tensor, where):
            yield write_ternary(self.target, matrix, self.changes, where)
        self.changes.rounded = min(self.changes.rounded, before + 1)  # it counts tensors

    def _matrices(self, tensor: GgufTensor, where: str) -> Iterator[Ternary]:
        """The tensor, some rows at a time, or parts of a row, in the order of the file."""
        raw, kind = self._tensors.bytes_of(tensor), tensor.type
        is_i2_s = kind.name == "I2_S"
        layout = {"layout": self.layout} if is_i2_s else {}
        factor = self._tensors.get(tensor.name.removesuffix("weight") + "scale")
        scale = np.float32(1)
        if factor is not None and self._folds(tensor):
            scale = floats.decode(self._tensors.bytes_of(factor), 1, factor.type.name, where=f"{where}'s scale")[0]
        done = 0
        for rows, cols in pieces_of(*matrix_shape(tensor)):
            first, last = (at // kind.block_elems * kind.block_bytes for at in (done, done + rows * cols))
            part = np.concatenate((raw[first:last], raw[-i2_s.TAIL_BYTES :])) if is_i2_s else raw[first:last]
            place = f"{where}, from weight {done} on," if done else where
            matrix = DECODERS[kind.name](part, rows, cols, where=place, **layout)
            yield matrix if scale == 1 else replace(matrix, scales=np.asarray(matrix.scales * scale, np.float32))
            done += rows * cols

    def _folds(self, tensor: GgufTensor) -> bool:
        """Whether a scale in a tensor of its own goes into the weights: I2_S has one of its own."""
        return _is_ternary(tensor) and "I2_S" in (tensor.type.name, self.target.type.name)


def pieces_of(rows: int, cols: int) -> Iterator[tuple[int, int]]:
    """Rows and columns of what is decoded at once, one after the other. All hold whole blocks of every type: rows of
    I2_S are multiples of 4, and may begin inside a block of 128."""
    n_rows = PIECE_WEIGHTS // cols // _BLOCK_ROWS * _BLOCK_ROWS
    if n_rows:
        yield from ((min(n_rows, rows - first), cols) for first in range(0, rows, n_rows))
    else:
        for _ in range(rows):
            yield from ((1, min(PIECE_WEIGHTS, cols - first)) for first in range(0, cols, PIECE_WEIGHTS))


def _is_ternary(tensor: GgufTensor) -> bool:
    """Embeddings in these types are left as they are."""
    return tensor.type.name in DECODERS and tensor.name not in TABLES and len(tensor.dims) > 1
