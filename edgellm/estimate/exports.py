"""How many bytes the weights of an exported model take, and how many of them each token reads.

For files that an exporter writes by one rule (`ExportRule`, which the backend of the format states). A tied output
table is the embedding table, so it keeps that table's type and every token reads it.
"""

from __future__ import annotations

from dataclasses import replace

from edgellm.estimate.tensor_types import TYPES
from edgellm.estimate.weights import Weights, ranked
from edgellm.types.model import Shape
from edgellm.types.priors import ExportRule


def weights(shape: Shape, params: int, params_active: int, quant: str, rule: ExportRule) -> Weights:
    """Weights of a model exported in `quant`; an estimate, as exporters differ.

    Raises:
        KeyError: the rule has no such quantization.
    """
    table_type = rule.table_types[quant]
    table = shape.n_embd * shape.n_vocab
    body = max(0, params - table * (1 if shape.tied_embeddings else 2))
    read = min(body, max(0, params_active - table)) if params_active < params else body
    head = table_type if shape.tied_embeddings else quant
    by_type = {quant: read}
    by_type[head] = by_type.get(head, 0) + table
    total = _bytes(quant, body) + _bytes(table_type, table) + (0 if shape.tied_embeddings else _bytes(quant, table))
    return Weights(total, sum(_bytes(kind, n) for kind, n in by_type.items()), ranked(by_type), exact=False)


def cached(shape: Shape, rule: ExportRule) -> Shape:
    """The shape with its cache as files of the format keep it."""
    if not rule.full_cache:
        return shape
    return replace(shape, kv_full_bytes=shape.kv_full_bytes + shape.kv_swa_bytes, kv_swa_bytes=0, sliding_window=0)


def _bytes(kind: str, n: int) -> int:
    block = TYPES[kind].block_elems
    return TYPES[kind].tensor_bytes(-(-n // block) * block)
