"""From a BERT folder of safetensors to an ONNX folder: a sentence model, or a cross-encoder with one score.

The graph is of onnxruntime's own operators (domain com.microsoft: EmbedLayerNormalization, Attention, BiasGelu,
SkipLayerNormalization), which its optimizer would otherwise have to find in a graph of small ones. All in float32.

    input_ids, attention_mask, token_type_ids int64 (batch, sequence)
    last_hidden_state float32 (batch, sequence, width)    or logits float32 (batch, 1)
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from edgellm.contract.converter import Conversion, Converted
from edgellm.contract.source import Progress
from edgellm.errors import BadArtifact, UnsupportedArtifact, UsageError
from edgellm.formats.safetensors import reader
from edgellm.formats.safetensors.header import SafetensorsTensor
from edgellm.formats.safetensors.reader import SafetensorsModel
from edgellm_onnx.bert_config import Bert, bert_config
from edgellm_onnx.convert_folder import new_folder
from edgellm_onnx.reader.folder import check_place

OPSET, IR_VERSION, MICROSOFT = 17, 8, "com.microsoft"
MAX_TENSOR_BYTES = 2**31 - 2**24  # a graph with its weights in it is one protocol buffer
# What a tokenizer and sentence-transformers need beside the graph.
FILES = (
    "config.json", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "modules.json",
    "sentence_bert_config.json", "config_sentence_transformers.json", "1_Pooling/config.json",
)  # fmt: skip
Floats = npt.NDArray[np.float32]


def graph_of(source: Path) -> bytes:
    """The graph of a folder (or a file in it), for a session that is made at once. Raises as `convert`."""
    return bytes(builder_of(source).build(lambda done: None).SerializeToString())


def builder_of(source: Path) -> Builder:
    """Raises: UnsupportedArtifact, BadArtifact: another model than a BERT, or a damaged one."""
    folder = source if source.is_dir() else source.parent
    bert = bert_config(source)
    weights = reader.read_safetensors(source)
    if weights.tensor_bytes >= MAX_TENSOR_BYTES:
        raise UnsupportedArtifact(f"{folder} has {weights.tensor_bytes} bytes of weights, 2 GiB are the most")
    return Builder(weights, folder, bert)


def convert(conversion: Conversion, progress: Progress) -> Converted:
    """Write the folder `conversion.target`.

    Raises:
        UnsupportedArtifact, BadArtifact: another model than a BERT, or a damaged one. UsageError, DiskFull.
    """
    if conversion.embedding or conversion.i2s_layout or conversion.bits:
        raise UsageError("a BERT becomes ONNX as it is, in 32 bits", hint="leave --bits, --embedding, --i2s-layout out")
    builder = builder_of(Path(conversion.source.path))
    folder, size = builder.where, builder.weights.tensor_bytes
    model = builder.build(lambda done: progress(done, size, f"building {conversion.target.name}"))
    with new_folder(conversion.target, replace=conversion.replace) as part:
        data = model.SerializeToString()
        (part / "model.onnx").write_bytes(data)
        for name in FILES:
            if (folder / name).is_file():
                check_place(folder / name, folder, str(folder))  # the copy is there to be passed on
                (part / name).parent.mkdir(exist_ok=True)
                shutil.copyfile(folder / name, part / name)
        n_bytes = sum(file.stat().st_size for file in part.rglob("*") if file.is_file())
    progress(size, size, f"building {conversion.target.name}")
    return Converted(conversion.target, n_bytes, tuple(builder.notes()))


@dataclass(slots=True)
class Builder:
    """Collects nodes and weights."""

    weights: SafetensorsModel
    where: Path
    bert: Bert
    _nodes: list[NodeProto] = field(default_factory=list)
    _constants: list[TensorProto] = field(default_factory=list)
    _used: set[str] = field(default_factory=set)
    _widened: set[str] = field(default_factory=set)
    _prefix: str = ""

    def build(self, tell: Callable[[int], None]) -> ModelProto:
        """The model; `tell` hears the bytes of weights read so far."""
        bert = self.bert
        self._prefix = "bert." if "bert.embeddings.word_embeddings.weight" in self.weights.tensors else ""
        state, done = self._embed(), 0
        for layer in range(bert.layers):
            tell(done)
            state = self._layer(layer, state)
            done = sum(self.weights.tensors[name].n_bytes for name in self._used)
        output = "logits" if bert.scores else "last_hidden_state"
        dims: list[str | int | None] = ["batch", 1] if bert.scores else ["batch", "sequence", bert.width]
        if bert.scores:
            self._score(state, output)
        else:
            self._node("Identity", [state], output)
        long = TensorProto.INT64
        graph = helper.make_graph(
            self._nodes, "bert",
            [helper.make_tensor_value_info(name, long, ["batch", "sequence"])
             for name in ("input_ids", "attention_mask", "token_type_ids")],
            [helper.make_tensor_value_info(output, TensorProto.FLOAT, dims)], self._constants,
        )  # fmt: skip
        opsets = [helper.make_opsetid("", OPSET), helper.make_opsetid(MICROSOFT, 1)]
        return helper.make_model(graph, ir_version=IR_VERSION, opset_imports=opsets, producer_name="edgellm")

    def notes(self) -> list[str]:
        """What differs from the source."""
        left = sorted(name for name in self.weights.tensors if name not in self._used and "position_ids" not in name)
        lines = [f"{', '.join(sorted(self._widened))} became F32, exactly."] if self._widened else []
        return lines + ([f"Left out, as nothing reads it: {', '.join(left)}."] if left else [])

    def _embed(self) -> str:
        names = ("word_embeddings", "position_embeddings", "token_type_embeddings")
        tables = [self._matrix(f"embeddings.{name}.weight", None, self.bert.width) for name in names]
        for name, source in (("ids", "input_ids"), ("mask", "attention_mask"), ("segments", "token_type_ids")):
            self._node("Cast", [source], name, to=TensorProto.INT32)
        norm = self._norm("embeddings.LayerNorm")
        self._node(
            "EmbedLayerNormalization", ["ids", "segments", *tables, *norm], ["embedded", "unused"],
            domain=MICROSOFT, epsilon=self.bert.eps,
        )  # fmt: skip
        return "embedded"

    def _layer(self, number: int, state: str) -> str:
        bert, name = self.bert, f"encoder.layer.{number}"
        parts = [f"{name}.attention.self.{part}" for part in ("query", "key", "value")]
        qkv = np.concatenate([self._weight(f"{part}.weight", bert.width, bert.width) for part in parts]).T
        bias = np.concatenate([self._weight(f"{part}.bias", bert.width) for part in parts])
        inputs = [state, self._constant(f"{name}.qkv.weight", qkv), self._constant(f"{name}.qkv.bias", bias), "mask"]
        mixed = self._node("Attention", inputs, f"{name}.attended", domain=MICROSOFT, num_heads=bert.heads)
        mixed = self._linear(f"{name}.attention.output.dense", mixed, bert.width, bert.width)
        state = self._add_and_norm(f"{name}.attention.output", mixed, state)
        n_ff = self._rows(f"{name}.intermediate.dense.weight")
        wide = self._linear(f"{name}.intermediate.dense", state, n_ff, bert.width)
        bias_name = self._vector(f"{name}.intermediate.dense.bias", n_ff)
        wide = self._node("BiasGelu", [wide, bias_name], f"{name}.active", domain=MICROSOFT)
        narrow = self._linear(f"{name}.output.dense", wide, bert.width, n_ff)
        return self._add_and_norm(f"{name}.output", narrow, state)

    def _score(self, state: str, output: str) -> None:
        """The first token's state through the pooler (tanh) and the classifier."""
        self._constants.append(numpy_helper.from_array(np.asarray(0, np.int64), "first"))
        cls = self._node("Gather", [state, "first"], "cls", axis=1)
        width = self.bert.width
        pooled = self._linear("pooler.dense", cls, width, width)
        pooled = self._node(
            "Tanh", [self._node("Add", [pooled, self._vector("pooler.dense.bias", width)], "pre")], "pool"
        )
        self._prefix = ""
        if self._rows("classifier.weight") != 1:
            raise UnsupportedArtifact(
                f"{self.where}: a classifier of {self._rows('classifier.weight')} kinds, no reranker"
            )
        scored = self._linear("classifier", pooled, 1, width)
        self._node("Add", [scored, self._vector("classifier.bias", 1)], output)

    def _add_and_norm(self, name: str, added: str, state: str) -> str:
        inputs = [added, state, *self._norm(f"{name}.LayerNorm"), self._vector(f"{name}.dense.bias", self.bert.width)]
        return self._node("SkipLayerNormalization", inputs, f"{name}.done", domain=MICROSOFT, epsilon=self.bert.eps)

    def _linear(self, name: str, value: str, rows: int, cols: int) -> str:
        """Product with a matrix; its bias is added by what follows."""
        matrix = self._constant(f"{name}.weight", self._weight(f"{name}.weight", rows, cols).T)
        return self._node("MatMul", [value, matrix], f"{name}.product")

    def _norm(self, name: str) -> list[str]:
        return [self._vector(f"{name}.{part}", self.bert.width) for part in ("weight", "bias")]

    def _vector(self, name: str, size: int) -> str:
        return self._constant(name, self._weight(name, size))

    def _matrix(self, name: str, rows: int | None, cols: int) -> str:
        return self._constant(name, self._weight(name, self._rows(name) if rows is None else rows, cols))

    def _rows(self, name: str) -> int:
        return self._tensor(name).shape[0] if self._tensor(name).shape else 0

    def _tensor(self, name: str) -> SafetensorsTensor:
        tensor = self.weights.tensors.get(self._prefix + name)
        if tensor is None:
            raise BadArtifact(f"{self.where}: tensor {self._prefix + name} is missing", hint="fetch the whole model")
        return tensor

    def _weight(self, name: str, *shape: int) -> Floats:
        """A tensor as float32; F16 and BF16 are exact in it."""
        tensor = self._tensor(name)
        if tuple(tensor.shape) != shape:
            raise BadArtifact(f"{self.where}: {tensor.name} is {list(tensor.shape)}, {list(shape)} is needed")
        self._used.add(tensor.name)
        raw = self.weights.raw(tensor.name)
        if tensor.dtype == "F32":
            values = np.frombuffer(raw, "<f4")
        elif tensor.dtype == "F16":
            values = np.frombuffer(raw, "<f2").astype(np.float32)
        elif tensor.dtype == "BF16":
            values = (np.frombuffer(raw, "<u2").astype("<u4") << 16).view("<f4")
        else:
            raise UnsupportedArtifact(f"{self.where}: {tensor.name} is {tensor.dtype}; F32, F16 and BF16 are converted")
        if tensor.dtype != "F32":
            self._widened.add(tensor.dtype)
        if not np.isfinite(values).all():
            raise BadArtifact(f"{self.where}: {tensor.name} holds values that are not numbers", hint="fetch it again")
        return values.reshape(shape)

    def _constant(self, name: str, values: Floats) -> str:
        self._constants.append(numpy_helper.from_array(np.ascontiguousarray(values, np.float32), name))
        return name

    def _node(self, kind: str, inputs: list[str], output: str | list[str], domain: str = "", **attributes: Any) -> str:
        outputs = [output] if isinstance(output, str) else output
        self._nodes.append(helper.make_node(kind, inputs, outputs, outputs[0], domain=domain, **attributes))
        return outputs[0]
