"""Bytes of each layer of a model, for what is put on another device layer by layer."""

from __future__ import annotations

from functools import lru_cache

from edgellm.estimate import architecture, quants, recipe
from edgellm.estimate.tensor_types import TYPES, for_row
from edgellm.estimate.weights import traits
from edgellm.types.layers import Layers
from edgellm.types.model import Shape


@lru_cache(maxsize=4096)
def layers_of(shape: Shape, tensor_bytes: int, quant: str, own: Layers | None = None) -> Layers:
    """Bytes of each layer: the file's `own` where its header was read; else by llama.cpp's rules for the mix, scaled to
    the size that is known.

    Where the mix or the parts are not known, blocks are alike and hold everything, and the table has a byte a weight at
    the least: more than it is, so that what is planned fits.
    """
    if own is not None and len(own.blocks) == shape.n_layer:
        return own
    mix = quants.QUANTS.get(quant)
    recipe_name = quant if mix is None or mix.predictable or not mix.like else mix.like[0]
    parts = architecture.tensors(shape)
    n_layer = shape.n_layer
    model_traits = traits(shape)
    if parts is None or recipe_name not in recipe.BASE_TYPE:
        block = tensor_bytes // max(1, n_layer)
        none, alike = (0,) * n_layer, (block,) * n_layer
        # A block has three matrices of its feed-forward network at least.
        largest = (block // 3,) * n_layer
        table = shape.n_vocab * shape.n_embd
        if recipe_name in recipe.BASE_TYPE:
            role = "token_embd" if shape.tied_embeddings else "output"
            kind = recipe.tensor_type(role, 0, 1, recipe_name, model_traits)
            table = max(table, TYPES[for_row(kind, shape.n_embd)].tensor_bytes(table))
        return Layers(table, alike, shape.tied_embeddings, none, largest, none)
    n_values = sum(len(t.layers) for t in parts if t.role in architecture.VALUES)
    blocks, experts, matrices, expert_matrices = ([0] * n_layer for _ in range(4))
    once: dict[str, int] = {}
    for part in parts:
        n_counted = n_values if part.role in architecture.VALUES else n_layer
        for layer, number in zip(part.layers, architecture.numbers(part, parts, shape.n_expert), strict=True):
            wanted = recipe.tensor_type(part.role, number, n_counted, recipe_name, model_traits)
            size = TYPES[for_row(wanted, part.row)].tensor_bytes(part.elems)
            if layer == architecture.NO_BLOCK:
                once[part.role] = once.get(part.role, 0) + size
            else:
                blocks[layer] += size
                routed = part.role.endswith("_exps")
                experts[layer] += size if routed else 0
                most = expert_matrices if routed else matrices
                most[layer] = max(most[layer], size)
    scale = tensor_bytes / max(1, sum(blocks) + sum(once.values()))
    output = once["token_embd" if shape.tied_embeddings else "output"]
    rows = (blocks, experts, matrices, expert_matrices)
    scaled = [tuple(round(size * scale) for size in sizes) for sizes in rows]
    return Layers(round(output * scale), scaled[0], shape.tied_embeddings, *scaled[1:])
