"""Which tensors of a GGUF file lie together when a model is put on devices layer by layer.

As llama.cpp b11434 has it (`LLM_TENSOR_INFOS` and the numbers in `create_tensor`): what is projected for all layers at
once lies with the first block, what is behind the last block with the output table, and embedding tables on the host.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from edgellm.formats.gguf.header import GgufTensor
from edgellm.types.layers import Layers

_BLOCK = re.compile(r"blk\.([0-9]+)\.")
# What `--n-cpu-moe` keeps on the host.
_ROUTED = re.compile(r"blk\.[0-9]+\.ffn_(up|down|gate|gate_up)_(ch|)exps")
_WITH_FIRST = frozenset({"per_layer_model_proj", "per_layer_proj_norm"})
_WITH_OUTPUT = frozenset({"output", "output_norm", "altup_proj", "altup_unembd_proj"})


def layers_by_block(tensors: Iterable[GgufTensor], n_layer: int) -> Layers:
    """`n_layer`: of the model proper; blocks behind these only draft tokens, and are not loaded."""
    blocks, experts, matrices, expert_matrices, widths = ([0] * n_layer for _ in range(5))
    output = table = own = 0
    for tensor in tensors:
        stem, size = tensor.name.partition(".")[0], tensor.n_bytes
        number = _BLOCK.match(tensor.name)
        if stem in _WITH_OUTPUT:
            output += size
            own += size if tensor.name == "output.weight" else 0
        if tensor.name == "token_embd.weight":
            table = size
        block = int(number[1]) if number else 0 if stem in _WITH_FIRST else n_layer
        if block >= n_layer:
            continue
        blocks[block] += size
        routed = _ROUTED.match(tensor.name) is not None
        experts[block] += size if routed else 0
        largest = expert_matrices if routed else matrices
        largest[block] = max(largest[block], size)
        if not routed and "ffn_down" in tensor.name:
            widths[block] = max(widths[block], tensor.dims[0])
    rows = (experts, matrices, expert_matrices, widths)
    return Layers(output + (0 if own else table), tuple(blocks), not own, *map(tuple, rows))
