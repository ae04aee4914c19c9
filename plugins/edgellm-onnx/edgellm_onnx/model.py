"""An ONNX model as its files describe it, checked: the folder, its graphs, whether it writes text or embeds it, and why
an onnxruntime cannot run it. Cheap enough for the parent, which asks before it plans."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from pathlib import Path

from edgellm.errors import UnsupportedArtifact
from edgellm_onnx.library import Verdict
from edgellm_onnx.reader.folder import OnnxFolder, data_files, open_folder
from edgellm_onnx.reader.graph import OnnxGraph, read_graph
from edgellm_onnx.signature import Signature, read_signature

EMBEDDINGS = ("last_hidden_state", "sentence_embedding", "token_embeddings")
OLDEST_OPSET = 7  # onnxruntime runs nothing older
KEPT = 4  # models whose headers are kept: a plan asks for the same one several times


@dataclass(frozen=True, slots=True)
class OnnxModel:
    folder: OnnxFolder
    graph: OnnxGraph
    signature: Signature | None  # None = an encoder: no cache, and states or scores of whole texts
    first: OnnxGraph | None = None  # of the step that starts a slot, where that is another graph
    first_signature: Signature | None = None

    @property
    def graphs(self) -> tuple[OnnxGraph, ...]:
        return (self.graph,) if self.first is None else (self.graph, self.first)


def read_model(path: str | Path) -> OnnxModel:
    """
    Raises:
        UnknownModel, BadArtifact, UnsupportedArtifact: see `reader.folder`, `reader.graph` and `signature`.
    """
    folder = open_folder(path)
    stamps = tuple((str(file), file.stat().st_size, file.stat().st_mtime_ns) for file in folder.graphs)
    graphs = [_graph(*stamp) for stamp in stamps]
    data_files(*graphs)  # refuses what is missing, cut, too long, or elsewhere
    signature = None if is_encoder(graphs[-1]) else read_signature(graphs[-1], folder)
    if len(graphs) == 1:
        return OnnxModel(folder, graphs[-1], signature)
    return OnnxModel(folder, graphs[-1], signature, graphs[0], read_signature(graphs[0], folder, starts=True))


@functools.lru_cache(maxsize=KEPT)
def _graph(path: str, _size: int, _time: int) -> OnnxGraph:
    return read_graph(path)


def is_encoder(graph: OnnxGraph) -> bool:
    """Whether it turns whole texts into states or scores: no cache goes in or out."""
    if any("past" in name for name in graph.inputs) or any("present" in name for name in graph.outputs):
        return False
    logits = graph.outputs.get("logits")
    return any(name in graph.outputs for name in EMBEDDINGS) or (logits is not None and len(logits.dims) == 2)


def decoder(model: OnnxModel) -> Signature:
    """
    Raises:
        UnsupportedArtifact: the model is an encoder.
    """
    if model.signature is None:
        raise UnsupportedArtifact(f"{model.graph.where} embeds texts and writes none", hint="use it for embeddings")
    return model.signature


def problems(model: OnnxModel, library: Verdict) -> list[str]:
    """Why this onnxruntime cannot run the graphs; empty = it can, as far as headers tell."""
    return [problem for graph in model.graphs for problem in _graph_problems(graph, library)]


def _graph_problems(graph: OnnxGraph, library: Verdict) -> list[str]:
    opset = graph.opsets.get("", 0)  # 0 = a graph of contrib operators alone
    if library.opset and opset and not OLDEST_OPSET <= opset <= library.opset:
        supported = f"{OLDEST_OPSET} to {library.opset}"
        return [f"{graph.where} uses operator set {opset}; onnxruntime {library.version} has {supported}"]
    if not library.operators:
        return []
    needed = {(node.domain, node.op) for node in graph.nodes} - graph.functions.keys()
    missing = sorted(
        f"{domain}.{op}" if domain else op for domain, op in needed if op not in library.operators.get(domain, ())
    )
    if missing:
        names = ", ".join(missing[:5])
        return [f"{graph.where} needs {names}, which onnxruntime {library.version} does not have"]
    return []
