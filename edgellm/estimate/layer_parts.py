"""Tensors that layers of many architectures have: what `architecture.py` and `mixed_layers.py` are made of."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from edgellm.types.model import Shape

NO_BLOCK = -1  # the layer of what is there once


@dataclass(frozen=True, slots=True)
class Tensor:
    """One tensor per layer of `layers`, each `rows` rows of `row` weights."""

    # As in estimate/recipe.py; "never" = stays F32, "half" = stays F16; "*_exps" = all experts of the layer in one. A
    # role that the rules do not name gets the type of the mix.
    role: str
    row: int  # weights in a row: what must be a multiple of the block
    rows: int
    layers: Sequence[int] = (NO_BLOCK,)  # where they lie

    @property
    def elems(self) -> int:
        return self.row * self.rows


def full_layers(s: Shape) -> tuple[int, ...]:
    """Layers that attend, where others keep a state; that cache every token, where others cache a window; else all.

    Where the shape does not say which, the last of each group of equal size, as in Gemma 2 and 3, gpt-oss and Qwen 3.5.
    """
    n_layer = max(1, s.n_layer)
    if s.full_layers:
        return s.full_layers
    if s.n_attn:
        n_full = s.n_attn
    elif s.kv_full_bytes and s.kv_swa_bytes:
        n_full = round(n_layer * s.kv_full_bytes / (s.kv_full_bytes + s.kv_swa_bytes))
    else:
        return tuple(range(n_layer))
    n_full = min(max(n_full, 1), n_layer)
    group = n_layer // n_full
    return tuple(range(group - 1, group * n_full, group))


def other_layers(s: Shape) -> tuple[int, ...]:
    attending = set(full_layers(s))
    return tuple(layer for layer in range(s.n_layer) if layer not in attending)


def attention(
    s: Shape, layers: Sequence[int], *, dim: int = 0, kv_heads: int = 0, fused: bool = False, gated: bool = False,
    values: bool = True,
) -> Iterator[Tensor]:  # fmt: skip
    """`dim` and `kv_heads`: where these layers have other ones than the model; `values`: or the keys are the values."""
    q, kv = s.n_head * (dim or s.head_dim), (kv_heads or s.n_head_kv) * (dim or s.head_dim)
    if fused:
        yield Tensor("attn_qkv", s.n_embd, q + 2 * kv, layers)
    else:
        yield Tensor("attn_q", s.n_embd, 2 * q if gated else q, layers)
        yield Tensor("attn_k", s.n_embd, kv, layers)
        if values:
            yield Tensor("attn_v", s.n_embd, kv, layers)
    yield Tensor("attn_output", q, s.n_embd, layers)


def ffn(s: Shape, layers: Sequence[int], n_ff: int | None = None, kind: str = "") -> Iterator[Tensor]:
    width = s.n_ff if n_ff is None else n_ff
    yield Tensor(f"ffn_gate{kind}", s.n_embd, width, layers)
    yield Tensor(f"ffn_up{kind}", s.n_embd, width, layers)
    yield Tensor(f"ffn_down{kind}", width, s.n_embd, layers)


def experts(s: Shape, layers: Sequence[int]) -> Iterator[Tensor]:
    width = s.n_ff_expert or s.n_ff  # Mixtral gives its experts' width as the layer's
    yield Tensor("never", s.n_embd, s.n_expert, layers)  # router
    yield Tensor("ffn_gate_exps", s.n_embd, width * s.n_expert, layers)
    yield Tensor("ffn_up_exps", s.n_embd, width * s.n_expert, layers)
    yield Tensor("ffn_down_exps", width, s.n_embd * s.n_expert, layers)


def norms(layers: Sequence[int], *widths: int) -> Iterator[Tensor]:
    for width in widths:
        yield Tensor("never", width, 1, layers)
