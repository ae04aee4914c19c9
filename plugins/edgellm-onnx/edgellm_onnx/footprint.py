"""Bytes that a decoder takes, from its graph's header: weights mapped and copied, the cache, a batch's scratch.

onnxruntime maps data files. It copies the matrices of MatMulNBits and MatMul into the order that its kernels need, and
does not read their pages in the file any more. A table that is looked up as well stays mapped beside its copy. The
constants were measured with onnxruntime 1.32 on SmolLM2-135M in 4, 8 and 16 bits (tests/onnx/test_footprint.py checks
them).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

from edgellm.contract.engine import SPARE_LOGITS
from edgellm.types.plan import Footprint, Settings
from edgellm_onnx.model import OnnxModel
from edgellm_onnx.options import Options
from edgellm_onnx.reader.graph import Node, OnnxGraph
from edgellm_onnx.reader.tensor import Tensor
from edgellm_onnx.signature import CACHE_TYPES, Signature

MIB = 1 << 20
# Python, numpy, onnxruntime, onnx and tokenizers in a worker; a tokenizer takes about 750 bytes for each of its tokens.
PROCESS_BYTES, TOKEN_BYTES = 67 * MIB, 750
GRAPH_COPIES = 16  # a session's nodes take so many times the bytes of their file (0.17 MB take some 3)
BLOCK_BYTES = 8  # a scale and a sum beside the codes of each block of MatMulNBits, in the kernels' order
# The engine allocates this too (`logits.py`), for rows that nobody asked for. A graph that returns all rows gets
# prompts in pieces.
ROOM_BYTES = 256 * MIB
FLOATS = ("float32", "float16", "bfloat16")


def footprint(model: OnnxModel, settings: Settings, options: Options) -> Footprint | None:
    """None = an encoder, whose engine knows better."""
    signature = model.signature
    if signature is None:
        return None
    kept = copied = nodes = 0
    for graph in model.graphs:
        mapped, packed = weights(graph, prepack=options.prepack == "on")
        kept, copied = kept + mapped, copied + packed
        nodes += GRAPH_COPIES * min(graph.file_bytes, 4 * MIB)
    slots = settings.n_slots + (not signature.shared)
    row = signature.vocab * 4
    room = _room(signature, settings)
    scratch = scratch_bytes(model, settings)
    return Footprint(
        weights_bytes=kept,
        repack_bytes=copied,
        kv_bytes=signature.token_bytes * settings.n_ctx * slots,
        compute_bytes=scratch + room + nodes,
        compute_resident_bytes=scratch + nodes + (0 if signature.num_logits else room),
        output_bytes=(settings.n_slots + 1) * row,
        process_bytes=PROCESS_BYTES + TOKEN_BYTES * signature.vocab,
    )


def weights(graph: OnnxGraph, *, prepack: bool) -> tuple[int, int]:
    """(bytes that stay as they are in the file, bytes of copies)."""
    readers: Counter[str] = Counter(name for node in graph.nodes for name in node.inputs if name)
    # Halves that are widened for a product are widened once, when the session is made.
    wide = {node.outputs[0]: node.inputs[0] for node in graph.nodes if node.op == "Cast"}
    copied, gone = 0, Counter[str]()
    for node in graph.nodes if prepack else ():
        matrix, size = _copy(node, graph, wide)
        if matrix is not None:
            copied += size
            for name in node.inputs[1:4]:
                gone[wide.get(name, name)] += 1
            # Seen with SmolLM2 in 16 bits: a widened table that is looked up as well is held twice.
            if node.inputs[1] in wide and readers[matrix.name] > 1:
                copied += size
    stays = [tensor for name, tensor in graph.initializers.items() if gone[name] < max(1, readers[name])]
    return sum(tensor.n_bytes for tensor in stays), copied


def _copy(node: Node, graph: OnnxGraph, wide: Mapping[str, str]) -> tuple[Tensor | None, int]:
    """The matrix that a node's kernel copies, and the bytes of the copy."""
    name = node.inputs[1] if len(node.inputs) > 1 else ""
    tensor = graph.initializers.get(wide.get(name, name))
    if tensor is None or len(tensor.dims) < 2:
        return None, 0
    if node.op == "MatMulNBits":
        block = max(16, node.ints.get("block_size", 32))
        columns, rows = node.ints.get("K", 0), node.ints.get("N", 0)
        return tensor, tensor.n_bytes + BLOCK_BYTES * rows * -(-columns // block)
    if node.op in ("MatMul", "FusedMatMul", "Gemm") and tensor.dtype in FLOATS:
        elements = tensor.dims[0] * tensor.dims[1]
        return tensor, 4 * elements  # halves are multiplied as floats
    return None, 0


def scratch_bytes(model: OnnxModel, settings: Settings) -> int:
    """Activations of the widest moment of a layer, and the scores of its heads over the whole context."""
    config, decoder = model.folder.config, model.folder.genai_section("model", "decoder")
    hidden = _count(config.get("hidden_size"), decoder.get("hidden_size"))
    wide = _count(config.get("intermediate_size")) or 4 * hidden
    heads = _count(config.get("num_attention_heads"), decoder.get("num_attention_heads"))
    tokens = min(settings.n_batch, settings.n_ctx)
    return tokens * 4 * (3 * wide + 6 * hidden) + heads * tokens * settings.n_ctx * 4


def _room(signature: Signature, settings: Settings) -> int:
    """Rows of logits that a graph gives unasked; without any, room for those that are handed out."""
    size = CACHE_TYPES[signature.logits_type] * signature.vocab
    if signature.num_logits:
        return (settings.n_slots + SPARE_LOGITS) * signature.vocab * 4
    return max(1, min(settings.n_batch, ROOM_BYTES // size)) * size


def _count(*values: object) -> int:
    return next((v for v in values if isinstance(v, int) and not isinstance(v, bool) and 0 < v < 2**24), 0)
