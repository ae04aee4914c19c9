"""An ONNX model as far as predicting goes: its shape, what its matrices are stored in, and how many bytes it has.

The shape is that of config.json, else of genai_config.json, with the cache as the graph declares it: `kv_full_bytes`
counts the graph's own type, 32 bits in most files, where the same model as GGUF has 16.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from edgellm.errors import ArtifactError
from edgellm.formats.encoder_length import encoder_length
from edgellm.formats.hf_config import shape_of
from edgellm.types.model import ModelFacts, Shape
from edgellm_onnx.reader.folder import OnnxFolder, data_files, open_folder
from edgellm_onnx.reader.graph import Node, OnnxGraph, read_graph
from edgellm_onnx.reader.tensor import DTYPES, Tensor

# Weights of a node that are blocks of codes: which input, and the bits where no attribute says so.
_BLOCKS = {"MatMulNBits": (1, 4), "GatherBlockQuantized": (0, 4)}
_PLAIN = {"float32": "F32", "float16": "F16", "bfloat16": "BF16", "int8": "INT8", "uint8": "INT8", "int4": "INT4",
          "uint4": "INT4"}  # fmt: skip
_BITS = dict(DTYPES.values())
_MATRIX_BYTES = 4096  # less is no weight that counts


def facts_of(path: str | Path) -> ModelFacts:
    """
    Raises:
        UnknownModel, BadArtifact, UnsupportedArtifact: see `folder` and `graph`.
    """
    folder = open_folder(path)
    graphs = [read_graph(file) for file in folder.graphs]
    generates = any("present" in name for name in graphs[-1].outputs)
    return ModelFacts(
        quant=_quant(graphs[-1]),
        file_bytes=sum(graph.file_bytes for graph in graphs) + sum(data_files(*graphs).values()),
        tensor_bytes=graphs[-1].tensor_bytes,
        params=_params(graphs[-1]),
        shape=_shape(folder, graphs[-1]),
        ctx_train=_ctx_train(folder) if generates else encoder_length(folder.path, folder.config)[0],
        generates=generates,
    )


def _quant(graph: OnnxGraph) -> str:
    """What most weights of products are: blocks of codes where there are any, as tables beside them often are not."""
    blocks: Counter[str] = Counter()
    for node, tensor, bits in _blocks(graph):
        if node.op == "MatMulNBits":
            blocks[f"INT{bits}"] += tensor.n_bytes
    plain: Counter[str] = Counter()
    for tensor in graph.tensors:
        if tensor.dtype in _PLAIN and tensor.n_bytes >= _MATRIX_BYTES:
            plain[_PLAIN[tensor.dtype]] += tensor.n_bytes * 8 // _BITS[tensor.dtype]
    most = (blocks or plain).most_common(1)
    return most[0][0] if most else ""


def _params(graph: OnnxGraph) -> int:
    counted: dict[object, int] = {}  # by name, or by place: a table may lie in a data file under two names
    beside: set[str] = set()  # scales and zero points, which are no weights
    for node, tensor, bits in _blocks(graph):
        if len(node.inputs) > 2:
            counted[_place(tensor)] = tensor.n_bytes * 8 // bits
            beside.update(node.inputs[2:4])
    for name, tensor in {tensor.name: tensor for tensor in graph.tensors}.items():
        if tensor.dtype in _PLAIN and tensor.n_bytes >= _MATRIX_BYTES and name not in beside:
            counted.setdefault(_place(tensor), tensor.n_bytes * 8 // _BITS[tensor.dtype])
    return sum(counted.values())


def _blocks(graph: OnnxGraph) -> Iterator[tuple[Node, Tensor, int]]:
    """Nodes that read blocks of codes, the codes, and the bits of one."""
    held = {tensor.name: tensor for tensor in graph.tensors}
    for node in graph.nodes:
        at, usual = _BLOCKS.get(node.op, (0, 0))
        tensor = held.get(node.inputs[at]) if usual and len(node.inputs) > at else None
        if tensor is not None:
            yield node, tensor, node.ints.get("bits", usual)


def _place(tensor: Tensor) -> object:
    return (tensor.location, tensor.offset) if tensor.location else tensor.name


def _shape(folder: OnnxFolder, graph: OnnxGraph) -> Shape | None:
    try:
        shape = shape_of({**_from_genai(folder), **folder.config}, folder.path, any_type=True)
    except ArtifactError:
        return None
    caches = [value for name, value in graph.outputs.items() if "present" in name and len(value.dims) == 4]
    cells = [
        (value.dims[1] if isinstance(value.dims[1], int) else shape.n_head_kv)
        * (value.dims[3] if isinstance(value.dims[3], int) else shape.head_dim)
        * _BITS.get(value.dtype, 32)
        // 8
        for value in caches
    ]
    return replace(shape, kv_full_bytes=sum(cells), kv_swa_bytes=0, sliding_window=0)


def _from_genai(folder: OnnxFolder) -> dict[str, Any]:
    """genai_config.json in the words of config.json."""
    model, decoder = folder.genai_section("model"), folder.genai_section("model", "decoder")
    words = {
        "model_type": model.get("type"), "vocab_size": model.get("vocab_size"),
        "max_position_embeddings": model.get("context_length"), "num_hidden_layers": decoder.get("num_hidden_layers"),
        "hidden_size": decoder.get("hidden_size"), "num_attention_heads": decoder.get("num_attention_heads"),
        "num_key_value_heads": decoder.get("num_key_value_heads"), "head_dim": decoder.get("head_size"),
    }  # fmt: skip
    return {name: value for name, value in words.items() if value is not None}


def _ctx_train(folder: OnnxFolder) -> int:
    value = folder.config.get("max_position_embeddings", folder.genai_section("model").get("context_length"))
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 < value < 2**31 else 0
