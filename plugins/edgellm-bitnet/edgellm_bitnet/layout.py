"""Where everything lies in the engine's one block of memory: a formula over shapes and types, without native code.

The same bytes are the packed file on disk, so a layout is also its format; `VERSION` counts changes of either.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from edgellm_bitnet.architecture import Architecture
from edgellm_bitnet.matrix import BF16, F16, F32, PANEL, Q4, Q6, Q8, TERNARY, padded, sizes

VERSION = 2
ALIGN = 128
INPUT_NORMS = {  # BitNet embedding models: a norm before each product, as microsoft/BitNet's converter names them
    "q": "attn_q_norm_in", "k": "attn_k_norm_in", "v": "attn_v_norm_in", "output": "attn_output_norm_in",
    "gate": "ffn_gate_norm_in", "up": "ffn_up_norm_in", "down": "ffn_down_norm_in",
}  # fmt: skip
REAL_TYPES = ("F32", "F16", "BF16")
GROUPS = {  # type of a product's matrix -> columns that share a scale, 0 = all
    "I2_S": 0, "I2_S_ARM": 0, "PACKED": 0, **dict.fromkeys(REAL_TYPES, 0), "TQ2_0": 256, "TQ1_0": 256, "Q2_0": 64,
    "Q1_0": 128,
}  # fmt: skip
HEAD_KINDS = {
    "F32": (F32, 0), "F16": (F16, 0), "BF16": (BF16, 0), "Q8_0": (Q8, 32), "Q6_K": (Q6, 256), "Q4_0": (Q4, 32),
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Slab:
    """One matrix (or a vector, kind F32 with one row) and the offsets of its parts."""

    key: str
    kind: int
    rows: int
    cols: int
    group: int
    data: int
    scales: int
    sub: int
    end: int


@dataclass(frozen=True, slots=True)
class Layout:
    slabs: dict[str, Slab]
    n_bytes: int


def fused(arch: Architecture) -> dict[str, tuple[tuple[str, int, int], ...]]:
    """Products of a layer -> the tensors they are made of: (name, rows, cols)."""
    hidden = arch.hidden
    return {
        "qkv": (
            ("attn_q", arch.q_cols, hidden), ("attn_k", arch.kv_cols, hidden), ("attn_v", arch.kv_cols, hidden),
        ),
        "output": (("attn_output", hidden, arch.q_cols),),
        "gate_up": (("ffn_gate", arch.ffn, hidden), ("ffn_up", arch.ffn, hidden)),
        "down": (("ffn_down", hidden, arch.ffn),),
    }  # fmt: skip


def roles(arch: Architecture) -> frozenset[str]:
    """Every tensor that a model of this architecture may have."""
    names = {"token_embd.weight", "output.weight", "output_norm.weight", "rope_freqs.weight"}
    products = [name for parts in fused(arch).values() for name, _, _ in parts]
    norms = [name for name, *_ in [*layer_vectors(arch).values(), *input_vectors(arch).values()]]
    for layer in range(arch.layers):
        names |= {f"blk.{layer}.{name}.weight" for name in (*products, *norms)}
        names |= {f"blk.{layer}.{name}.scale" for name in products}
    return frozenset(names)


def layer_vectors(arch: Architecture) -> dict[str, tuple[str, int, bool]]:
    """Norms of a layer, by the field of `native.Layer` -> (tensor, size, the family must have it)."""
    family, hidden = arch.family, arch.hidden
    return {
        "attn_norm": ("attn_norm", hidden, True),
        "attn_sub_norm": ("attn_sub_norm", arch.q_cols, family.sub_norms),
        "post_attn_norm": ("post_attention_norm", hidden, family.post_norms),
        "ffn_norm": ("ffn_norm", hidden, True),
        "ffn_sub_norm": ("ffn_sub_norm", arch.ffn, family.sub_norms),
        "post_ffn_norm": ("post_ffw_norm", hidden, family.post_norms),
        "q_norm": ("attn_q_norm", arch.head_dim, family.head_norms),
        "k_norm": ("attn_k_norm", arch.head_dim, family.head_norms),
    }


def input_vectors(arch: Architecture) -> dict[str, tuple[str, int]]:
    """Norms before single products, by name in `native.INPUTS` -> (tensor, size)."""
    size = {"output": arch.q_cols, "down": arch.ffn}
    return {name: (tensor, size.get(name, arch.hidden)) for name, tensor in INPUT_NORMS.items()}


def layout(
    arch: Architecture,
    has: Callable[[str], bool],
    groups: Mapping[str, int],
    head: tuple[int, int],
    embed: tuple[int, int] | None,
) -> Layout:
    """Place everything.

    Args:
        has: whether the file has a tensor, for optional norms.
        groups: columns that share a scale in each product, by key ("0.qkv"); 0 = one scale.
        head: (kind, group) of the output matrix.
        embed: the same of an embedding that is kept packed beside the head; None = it is the head, or stays mapped.
    """
    slabs: dict[str, Slab] = {}
    at = 0

    def place(key: str, kind: int, rows: int, cols: int, group: int = 0) -> None:
        nonlocal at
        starts = []
        for size in sizes(kind, rows, cols, group):
            starts.append(at)
            at += padded(size, ALIGN)
        slabs[key] = Slab(key, kind, rows, cols, group, starts[0], starts[1], starts[2], at)

    # Products stand in the order of a forward pass: decode reads memory once, forwards.
    for layer in range(arch.layers):
        for key, parts in fused(arch).items():
            rows = sum(padded(n, PANEL) for _, n, _ in parts)
            place(f"{layer}.{key}", TERNARY, rows, parts[0][2], groups[f"{layer}.{key}"])
        for key, (tensor, size, must) in layer_vectors(arch).items():
            if must or has(f"blk.{layer}.{tensor}.weight"):
                place(f"{layer}.{key}", F32, 1, size)
        for key, (tensor, size) in input_vectors(arch).items():
            if has(f"blk.{layer}.{tensor}.weight"):
                place(f"{layer}.in.{key}", F32, 1, size)
    place("output_norm", F32, 1, arch.hidden)
    place("head", head[0], arch.vocab, arch.hidden, head[1])
    if embed is not None:
        place("embed", embed[0], arch.vocab, arch.hidden, embed[1])
    return Layout(slabs, at)
