"""What the files say against running a model here: cheap enough for the parent, which asks before it plans."""

from __future__ import annotations

from edgellm_onnx.library import Verdict
from edgellm_onnx.model import OnnxModel
from edgellm_onnx.reader.graph import OnnxGraph

OLDEST_OPSET = 7  # onnxruntime runs nothing older


def reasons(model: OnnxModel, library: Verdict) -> list[str]:
    """Why this onnxruntime cannot run the graphs; empty = it can, as far as headers tell."""
    return [reason for graph in model.graphs for reason in _graph_reasons(graph, library)]


def _graph_reasons(graph: OnnxGraph, library: Verdict) -> list[str]:
    own = graph.opsets.get("", 0)
    # A graph of contrib operators only needs no operator set of ONNX's own.
    if library.opset and own and not OLDEST_OPSET <= own <= library.opset:
        range_ = f"{OLDEST_OPSET} to {library.opset}"
        return [f"{graph.where} uses operator set {own}; onnxruntime {library.version} has {range_}"]
    if not library.operators:
        return []
    needed = {(node.domain, node.op) for node in graph.nodes} - graph.functions
    missing = sorted(
        f"{domain}.{op}" if domain else op for domain, op in needed if op not in library.operators.get(domain, ())
    )
    if missing:
        names = ", ".join(missing[:5])
        return [f"{graph.where} needs {names}, which onnxruntime {library.version} does not have"]
    return []
