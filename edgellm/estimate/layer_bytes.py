"""Bytes of each layer of a model, for what is put on another device layer by layer."""

from __future__ import annotations

from functools import lru_cache

from edgellm.estimate import architecture, quants, recipe
from edgellm.estimate.layer_parts import NO_BLOCK
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
    recipe_name = quant if mix is None else mix.recipe
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
    blocks, experts, matrices, expert_matrices, widths = ([0] * n_layer for _ in range(5))
    once: dict[str, int] = {}
    counted = recipe_name in recipe.COUNTING
    for part in parts:
        n_counted = n_values if part.role in architecture.VALUES else n_layer
        numbers = architecture.numbers(part, parts, shape.n_expert, counted=counted)
        for layer, number in zip(part.layers, numbers, strict=True):
            wanted = recipe.tensor_type(part.role, number, n_counted, recipe_name, model_traits)
            size = TYPES[for_row(wanted, part.row)].tensor_bytes(part.elems)
            if layer == NO_BLOCK:
                once[part.role] = once.get(part.role, 0) + size
                continue
            blocks[layer] += size
            routed = part.role.endswith("_exps")
            experts[layer] += size if routed else 0
            most = expert_matrices if routed else matrices
            most[layer] = max(most[layer], size)
            if part.role in architecture.DOWN and not routed:
                widths[layer] = max(widths[layer], part.row)
    scale = tensor_bytes / max(1, sum(blocks) + sum(once.values()))
    # Beside the table Gemma 3n's projections of its other states, which no block has.
    output = once["token_embd" if shape.tied_embeddings else "output"] + once.get("half", 0)

    def scaled(sizes: list[int]) -> tuple[int, ...]:
        return tuple(round(size * scale) for size in sizes)

    return Layers(
        round(output * scale), scaled(blocks), shape.tied_embeddings, scaled(experts), scaled(matrices),
        scaled(expert_matrices), tuple(widths),
    )  # fmt: skip
