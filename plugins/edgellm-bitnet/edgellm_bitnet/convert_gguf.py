"""From a ternary GGUF file to one of another ternary type. Keys and all other tensors are carried over byte by byte."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np

from edgellm.contract.converter import Conversion, Converted, Progress
from edgellm.errors import UnsupportedArtifact
from edgellm.formats.gguf import reader
from edgellm.formats.gguf.reader import GgufModel, GgufTensor
from edgellm.formats.gguf.writer import Value
from edgellm_bitnet import i2s_layout
from edgellm_bitnet.codecs import floats, i2_s, q1_0, q2_0, tq1_0, tq2_0
from edgellm_bitnet.codecs.i2_s import Layout
from edgellm_bitnet.convert import Draft, Piece, encoded, target, type_keys, write
from edgellm_bitnet.targets import Changes, Table, Target, table_type, write_table, write_ternary
from edgellm_bitnet.ternary import Codes, Ternary

DECODERS: dict[str, Callable[..., Ternary]] = {
    "I2_S": i2_s.decode, "TQ2_0": tq2_0.decode, "TQ1_0": tq1_0.decode, "Q2_0": q2_0.decode, "Q1_0": q1_0.decode,
}  # fmt: skip
TABLES = ("token_embd.weight", "output.weight")
_DROPPED = ("general.alignment",)  # ours is the default


def convert(conversion: Conversion, progress: Progress) -> Converted:
    """See `edgellm.contract.converter.Converter`."""
    source = Source(reader.read_model(conversion.source.path), conversion)
    return write(conversion, Draft(source.keys(), source.pieces(), source.changes, source.notes), progress)


class Source:
    """A checked GGUF model and what becomes of each tensor."""

    def __init__(self, model: GgufModel, conversion: Conversion) -> None:
        self.model = model
        self.where = model.paths[0]
        self.target: Target = target(conversion)
        self.embedding = conversion.embedding
        self.changes = Changes()
        self.notes: list[str] = []
        self._maps = [np.memmap(path, np.uint8, "r") for path in model.paths]
        self._tensors = {
            tensor.name: (tensor, file)
            for part, file in zip(model.parts, self._maps, strict=True)
            for tensor in part.tensors
        }
        if not any(_is_ternary(tensor) for tensor in model.tensors):
            raise UnsupportedArtifact(
                f"{self.where} holds {reader.quant_name(model.header, model.tensors)}, no ternary weights",
                hint="only ternary models convert to ternary types; llama.cpp's own tools quantize others",
            )
        self.layout = self._layout(conversion.i2s_layout)

    def keys(self) -> dict[str, Value]:
        key_bytes = reader.read_key_bytes(self.model.header)
        kept = {key: data for key, data in key_bytes.items() if key not in _DROPPED and not key.startswith("split.")}
        own = type_keys(self.target)
        return {key: value for key, value in (encoded(kept) | own).items() if key != i2s_layout.KEY or key in own}

    def pieces(self) -> list[Piece]:
        return [piece for tensor in self.model.tensors if (piece := self._piece(tensor)) is not None]

    def _layout(self, asked: str) -> Layout:
        """Order of the source's I2_S codes."""
        if not any(tensor.type.name == "I2_S" for tensor in self.model.tensors):
            return "x86"
        model_shape = reader.shape(self.model.header, self.model.tensors)
        declared = self.model.header.metadata.get(i2s_layout.KEY)
        layout = i2s_layout.resolve(
            self._packed, model_shape.n_layer, model_shape.head_dim, asked=asked, declared=declared, where=self.where
        )
        if layout != "x86":
            self.notes.append("The source has its I2_S codes in the order of llama-quantize on Arm.")
        return layout

    def _packed(self, name: str) -> i2s_layout.Packed | None:
        if name not in self._tensors or self._tensors[name][0].type.name != "I2_S":
            return None
        tensor = self._tensors[name][0]
        return i2s_layout.Packed(self._data(tensor), *_shape(tensor))

    def _data(self, tensor: GgufTensor) -> Codes:
        return self._tensors[tensor.name][1][tensor.offset : tensor.offset + tensor.n_bytes]

    def _piece(self, tensor: GgufTensor) -> Piece | None:
        where = f"{self.where}: tensor {tensor.name}"
        rows, cols = _shape(tensor)
        if _is_ternary(tensor):
            self.target.check(rows, cols, where)
            return Piece.of(tensor.name, tensor.dims, self.target.type, lambda: self._ternary(tensor, where))
        weight = self._tensors.get(tensor.name.removesuffix("scale") + "weight")
        if tensor.name.endswith(".scale") and weight is not None and self._folds(weight[0]):
            return None
        stored = tensor.type.name
        if tensor.name not in TABLES:
            return Piece.of(tensor.name, tensor.dims, tensor.type, lambda: self._data(tensor).data)
        kind = table_type(self.embedding, stored, cols, where)
        return Piece.of(
            tensor.name, tensor.dims, kind,
            lambda: write_table(self._table(tensor), kind.name, self.changes, where),
        )  # fmt: skip

    def _table(self, tensor: GgufTensor) -> Table:
        return Table(self._data(tensor).data, *_shape(tensor), tensor.type.name)

    def _ternary(self, tensor: GgufTensor, where: str) -> bytes:
        layout = {"layout": self.layout} if tensor.type.name == "I2_S" else {}
        matrix = DECODERS[tensor.type.name](self._data(tensor), *_shape(tensor), where=where, **layout)
        factor = self._tensors.get(tensor.name.removesuffix("weight") + "scale")
        if factor is not None and self._folds(tensor):
            scale = floats.decode(self._data(factor[0]), 1, factor[0].type.name, where=f"{where}'s scale")
            matrix = replace(matrix, scales=np.asarray(matrix.scales * scale[0], np.float32))
        return write_ternary(self.target, matrix, self.changes, where)

    def _folds(self, tensor: GgufTensor) -> bool:
        """Whether a scale in a tensor of its own goes into the weights: I2_S has one of its own."""
        return _is_ternary(tensor) and "I2_S" in (tensor.type.name, self.target.type.name)


def _is_ternary(tensor: GgufTensor) -> bool:
    """Embeddings in these types are left as they are."""
    return tensor.type.name in DECODERS and tensor.name not in TABLES and len(tensor.dims) > 1


def _shape(tensor: GgufTensor) -> tuple[int, int]:
    return math.prod(tensor.dims[1:]), tensor.dims[0]
