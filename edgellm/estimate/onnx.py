"""How many bytes the weights of an ONNX export take, and how many of them each token reads.

As transformers.js and Optimum write them (onnxruntime's MatMulNBits quantizer: blocks of 32, one float scale each):
every matrix in the named type, the embedding table in floats. A tied output table is the embedding table, so it stays
in floats and every token reads it. The published model_q4.onnx of SmolLM2-1.7B-Instruct has 1,411,969,607 bytes with
its graph; by this 1,409 million.
"""

from __future__ import annotations

from dataclasses import replace

from edgellm.estimate.tensor_types import TYPES
from edgellm.estimate.weights import Weights
from edgellm.types.model import Shape

FORMAT = "onnx"
QUANTS = frozenset({"F32", "F16", "INT8", "INT4"})


def weights(shape: Shape, params: int, params_active: int, quant: str) -> Weights:
    """Weights of a model exported in `quant`, one of `QUANTS`; an estimate, as exporters differ.

    Raises:
        KeyError: no quantization of ONNX exports.
    """
    if quant not in QUANTS:
        raise KeyError(quant)
    table = shape.n_embd * shape.n_vocab
    body = max(0, params - table * (1 if shape.tied_embeddings else 2))
    floats = "F16" if quant == "F16" else "F32"
    read = min(body, max(0, params_active - table)) if params_active < params else body
    head = floats if shape.tied_embeddings else quant
    by_type = {quant: read}
    by_type[head] = by_type.get(head, 0) + table
    total = _bytes(quant, body) + _bytes(floats, table) + (0 if shape.tied_embeddings else _bytes(quant, table))
    ranked = tuple(sorted(by_type.items(), key=lambda item: (-item[1], item[0])))
    return Weights(total, sum(_bytes(kind, n) for kind, n in by_type.items()), ranked, exact=False)


def cached(shape: Shape) -> Shape:
    """The shape with a cache as ONNX graphs keep it: every layer holds the whole context, whatever its window."""
    return replace(shape, kv_full_bytes=shape.kv_full_bytes + shape.kv_swa_bytes, kv_swa_bytes=0, sliding_window=0)


def _bytes(kind: str, n: int) -> int:
    block = TYPES[kind].block_elems
    return TYPES[kind].tensor_bytes(-(-n // block) * block)
