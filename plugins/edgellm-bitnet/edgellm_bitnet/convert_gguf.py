"""From a ternary GGUF file to one of another ternary type. Keys and all other tensors are carried over byte by byte."""

from __future__ import annotations

from collections.abc import Callable
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
from edgellm_bitnet.ternary import Ternary
from edgellm_bitnet.weights import GgufTensors, matrix_shape

DECODERS: dict[str, Callable[..., Ternary]] = {
    "I2_S": i2_s.decode, "TQ2_0": tq2_0.decode, "TQ1_0": tq1_0.decode, "Q2_0": q2_0.decode, "Q1_0": q1_0.decode,
}  # fmt: skip
TABLES = ("token_embd.weight", "output.weight")
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

    def _ternary(self, tensor: GgufTensor, where: str) -> bytes:
        layout = {"layout": self.layout} if tensor.type.name == "I2_S" else {}
        raw = self._tensors.bytes_of(tensor)
        matrix = DECODERS[tensor.type.name](raw, *matrix_shape(tensor), where=where, **layout)
        factor = self._tensors.get(tensor.name.removesuffix("weight") + "scale")
        if factor is not None and self._folds(tensor):
            scale = floats.decode(self._tensors.bytes_of(factor), 1, factor.type.name, where=f"{where}'s scale")
            matrix = replace(matrix, scales=np.asarray(matrix.scales * scale[0], np.float32))
        return write_ternary(self.target, matrix, self.changes, where)

    def _folds(self, tensor: GgufTensor) -> bool:
        """Whether a scale in a tensor of its own goes into the weights: I2_S has one of its own."""
        return _is_ternary(tensor) and "I2_S" in (tensor.type.name, self.target.type.name)


def _is_ternary(tensor: GgufTensor) -> bool:
    """Embeddings in these types are left as they are."""
    return tensor.type.name in DECODERS and tensor.name not in TABLES and len(tensor.dims) > 1
