"""The tensors that a model of a given architecture and shape consists of.

Sources: llama.cpp b11434 `src/models/*.cpp` (`create_tensor`), the parameter closure of the catalog, published files.
An architecture that is not here has parts that `Shape` does not carry (towers, per-layer arrays); its size is estimated
in `estimate/weights.py` and said to be so. Knows nothing of types or bytes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

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


@lru_cache(maxsize=1024)
def tensors(shape: Shape) -> tuple[Tensor, ...] | None:
    """Every tensor of the model, None where the architecture's list is not known here."""
    layer = _LAYERS.get(shape.arch) or _ONE_MODEL.get((shape.arch, shape.n_layer, shape.n_embd))
    if layer is None or shape.n_layer < 1 or (shape.n_ff < 1 and shape.arch in _LAYERS):
        return None
    return (*_tables(shape), *layer(shape))


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


def _other_layers(s: Shape) -> tuple[int, ...]:
    attending = set(full_layers(s))
    return tuple(layer for layer in range(s.n_layer) if layer not in attending)


def numbers(part: Tensor, parts: Sequence[Tensor], n_expert: int) -> Sequence[int]:
    """Of a tensor's layers, the numbers that the quantizer's rules ask about.

    It counts the tensors of a kind, those that hold values together; of a mixture it reads the number in the name.
    """
    if part.role in VALUES:
        alike = [other for other in parts if other.role in VALUES]
        if len(alike) == 1:
            return range(len(part.layers))
        order = sorted(layer for other in alike for layer in other.layers)
        count = {layer: number for number, layer in enumerate(order)}
        return tuple(count[layer] for layer in part.layers)
    return part.layers if n_expert else range(len(part.layers))


def _tables(s: Shape) -> Iterator[Tensor]:
    yield Tensor("token_embd", s.n_embd, s.n_vocab)
    yield Tensor("never", s.n_embd, 1)  # output_norm
    if not s.tied_embeddings:
        yield Tensor("output", s.n_embd, s.n_vocab)


def _attention(s: Shape, layers: Sequence[int], *, fused: bool = False, gated: bool = False) -> Iterator[Tensor]:
    q, kv = s.n_head * s.head_dim, s.n_head_kv * s.head_dim
    if fused:
        yield Tensor("attn_qkv", s.n_embd, q + 2 * kv, layers)
    else:
        yield Tensor("attn_q", s.n_embd, 2 * q if gated else q, layers)
        yield Tensor("attn_k", s.n_embd, kv, layers)
        yield Tensor("attn_v", s.n_embd, kv, layers)
    yield Tensor("attn_output", q, s.n_embd, layers)


def _ffn(s: Shape, layers: Sequence[int], n_ff: int | None = None, kind: str = "") -> Iterator[Tensor]:
    width = s.n_ff if n_ff is None else n_ff
    yield Tensor(f"ffn_gate{kind}", s.n_embd, width, layers)
    yield Tensor(f"ffn_up{kind}", s.n_embd, width, layers)
    yield Tensor(f"ffn_down{kind}", width, s.n_embd, layers)


def _experts(s: Shape, layers: Sequence[int]) -> Iterator[Tensor]:
    width = s.n_ff_expert or s.n_ff  # Mixtral gives its experts' width as the layer's
    yield Tensor("never", s.n_embd, s.n_expert, layers)  # router
    yield Tensor("ffn_gate_exps", s.n_embd, width * s.n_expert, layers)
    yield Tensor("ffn_up_exps", s.n_embd, width * s.n_expert, layers)
    yield Tensor("ffn_down_exps", width, s.n_embd * s.n_expert, layers)


def _norms(layers: Sequence[int], *widths: int) -> Iterator[Tensor]:
    for width in widths:
        yield Tensor("never", width, 1, layers)


def _llama(s: Shape) -> Iterator[Tensor]:
    every = range(s.n_layer)
    yield from (*_attention(s, every), *_norms(every, s.n_embd, s.n_embd))
    yield from _experts(s, every) if s.n_expert else _ffn(s, every)


def _llama3(s: Shape) -> Iterator[Tensor]:
    yield from _llama(s)
    if s.arch == "llama" and s.n_vocab == _LLAMA3_VOCAB:
        yield Tensor("never", s.head_dim // 2, 1)  # rope_freqs


def _qwen2(s: Shape) -> Iterator[Tensor]:
    kv = s.n_head_kv * s.head_dim
    yield from (*_llama(s), *_norms(range(s.n_layer), s.n_head * s.head_dim, kv, kv))  # biases


def _qwen3(s: Shape) -> Iterator[Tensor]:
    yield from (*_llama(s), *_norms(range(s.n_layer), s.head_dim, s.head_dim))


def _qwen3moe(s: Shape) -> Iterator[Tensor]:
    every = range(s.n_layer)
    yield from (*_attention(s, every), *_experts(s, every))
    yield from _norms(every, s.n_embd, s.n_embd, s.head_dim, s.head_dim)


def _gemma3(s: Shape) -> Iterator[Tensor]:
    every = range(s.n_layer)
    yield from (*_llama(s), *_norms(every, s.n_embd, s.n_embd, s.head_dim, s.head_dim))


def _phi3(s: Shape) -> Iterator[Tensor]:
    every = range(s.n_layer)
    yield from _attention(s, every, fused=True)
    yield Tensor("ffn_up", s.n_embd, 2 * s.n_ff, every)
    yield Tensor("ffn_down", s.n_ff, s.n_embd, every)
    yield from _norms(every, s.n_embd, s.n_embd)


def _olmo2(s: Shape) -> Iterator[Tensor]:
    every = range(s.n_layer)
    yield from (*_llama(s), *_norms(every, s.n_head * s.head_dim, s.n_head_kv * s.head_dim))


def _bitnet(s: Shape) -> Iterator[Tensor]:
    yield from (*_llama(s), *_norms(range(s.n_layer), s.n_embd, s.n_ff))


def _gpt_oss(s: Shape) -> Iterator[Tensor]:
    every, kv = range(s.n_layer), s.n_head_kv * s.head_dim
    yield from (*_attention(s, every), *_experts(s, every))
    yield from _norms(every, s.n_embd, s.n_embd, s.n_head)
    yield from _norms(every, s.n_head * s.head_dim, kv, kv, s.n_embd, s.n_expert)  # biases
    yield from _norms(every, s.n_ff_expert * s.n_expert, s.n_ff_expert * s.n_expert, s.n_embd * s.n_expert)


def _lfm2(s: Shape) -> Iterator[Tensor]:
    attn, conv, every = full_layers(s), _other_layers(s), range(s.n_layer)
    yield from (*_attention(s, attn), *_norms(attn, s.head_dim, s.head_dim))
    yield Tensor("never", _LFM2_CONV, s.n_embd, conv)
    yield Tensor("shortconv_in_proj", s.n_embd, 3 * s.n_embd, conv)
    yield Tensor("shortconv_out_proj", s.n_embd, s.n_embd, conv)
    dense = range(_LFM2_DENSE_LAYERS) if s.n_expert else every
    yield from (*_ffn(s, dense), *_norms(every, s.n_embd, s.n_embd))
    if s.n_expert:
        routed = range(len(dense), s.n_layer)
        yield from (*_experts(s, routed), *_norms(routed, s.n_expert))


def _qwen35(s: Shape) -> Iterator[Tensor]:
    attn, linear, every = full_layers(s), _other_layers(s), range(s.n_layer)
    yield from (*_attention(s, attn, gated=True), *_norms(attn, s.head_dim, s.head_dim))
    keys, values = _DELTA_KEY_HEADS * _DELTA_DIM, delta_value_heads(s) * _DELTA_DIM
    mixed = 2 * keys + values
    yield Tensor("attn_qkv", s.n_embd, mixed, linear)
    yield Tensor("attn_gate", s.n_embd, values, linear)
    for role in ("ssm_alpha", "ssm_beta"):
        yield Tensor(role, s.n_embd, delta_value_heads(s), linear)
    yield Tensor("never", _DELTA_CONV, mixed, linear)  # ssm_conv1d
    yield from _norms(linear, delta_value_heads(s), delta_value_heads(s), _DELTA_DIM)  # ssm_a, ssm_dt, ssm_norm
    yield Tensor("ssm_out", values, s.n_embd, linear)
    yield from _norms(every, s.n_embd, s.n_embd)
    if s.n_expert:
        yield from (*_experts(s, every), *_ffn(s, every, s.n_ff_expert, "_shexp"), *_norms(every, s.n_embd))
    else:
        yield from _ffn(s, every)


def _nemotron_nano_4b(s: Shape) -> Iterator[Tensor]:
    # NVIDIA-Nemotron-3-Nano-4B: each layer is a Mamba-2 mixer, a feed-forward network or attention, and nothing else.
    mixers, feeds, attn = (tuple(i for i, kind in enumerate(_NEMOTRON_NANO_4B) if kind == of) for of in "M-*")
    n_ff, inner, states, heads = 12544, 7680, 2 * 8 * 128, 96
    yield from (*_norms(range(s.n_layer), s.n_embd), *_attention(s, attn))
    yield Tensor("ssm_in", s.n_embd, 2 * inner + states + heads, mixers)
    yield Tensor("ssm_out", inner, s.n_embd, mixers)
    yield Tensor("never", 4, inner + states, mixers)  # ssm_conv1d
    yield from _norms(mixers, inner + states, heads, heads, heads, inner)  # its bias, ssm_dt, ssm_a, ssm_d, ssm_norm
    yield Tensor("ffn_up", s.n_embd, n_ff, feeds)
    yield Tensor("ffn_down", n_ff, s.n_embd, feeds)


def _gemma4_e4b(s: Shape) -> Iterator[Tensor]:
    # Heads of global layers are twice as wide; layers that share a cache keep their unused projections.
    wide = range(5, s.n_layer, 6)
    per_layer, every = 256, range(s.n_layer)
    for layers, width in (*((range(first, s.n_layer, 6), s.head_dim) for first in range(5)), (wide, 2 * s.head_dim)):
        yield from _attention(replace(s, head_dim=width), layers)
        yield from _norms(layers, width, width)
    yield from (*_ffn(s, every), *_norms(every, *[s.n_embd] * 5, 1))  # 1: layer_output_scale
    yield Tensor("never", s.head_dim, 1)  # rope_freqs
    yield Tensor("per_layer_token_embd", per_layer * s.n_layer, s.n_vocab)
    yield Tensor("half", s.n_embd, per_layer * s.n_layer)  # per_layer_model_proj
    yield Tensor("never", per_layer, 1)
    yield Tensor("inp_gate", s.n_embd, per_layer, every)
    yield Tensor("proj", per_layer, s.n_embd, every)


VALUES = ("attn_v", "attn_qkv")  # roles that the quantizer's rules count together
FIRST_LAYER_ATTENDS_NOT = frozenset({"lfm2", "lfm2moe", "nemotron_h"})
SHARED_EXPERT = frozenset({"qwen35moe"})
_LLAMA3_VOCAB = 128256
_NEMOTRON_NANO_4B = "M-M-M-MM-M-M*-M-M*-M-M-M*-M-M-MM*-MMM-M-M-"  # hybrid_override_pattern of its config.json
_LFM2_CONV = 3  # shortconv.l_cache
_LFM2_DENSE_LAYERS = 2  # leading dense layers of LFM2-8B-A1B
_DELTA_KEY_HEADS, _DELTA_DIM, _DELTA_CONV = 16, 128, 4  # the same in every Qwen3.5 and 3.6


def delta_width(s: Shape) -> int:
    """Queries, keys and values of a gated delta-net layer, side by side; 0 where there is none."""
    return (2 * _DELTA_KEY_HEADS + delta_value_heads(s)) * _DELTA_DIM if s.arch in ("qwen35", "qwen35moe") else 0


def mixer_width(s: Shape) -> int:
    """Values that a Mamba-2 layer has of a token at once, beside states: what is projected, and convolved, and scanned.

    Granite 4: twice as wide inside as outside, one group of 128 states, heads of 64 (granite-hybrid.cpp).
    """
    inner, states = 2 * s.n_embd, 2 * 128
    return 5 * inner + 3 * states + inner // 64 + s.n_embd if s.arch == "granitehybrid" else 0


def is_latent(s: Shape) -> bool:
    """Whether keys are compressed for all heads at once, and values are read from them: no cache of their own."""
    return s.n_head_kv == 1 and s.kv_full_bytes == 2 * s.n_layer * s.head_dim


def delta_value_heads(s: Shape) -> int:
    """Value heads of a gated delta-net layer, solved from the state it keeps (docs/explain/memory-model.md).

    Per layer and sequence the F32 state is `nv*128*128 + 3*(2*nk*128 + nv*128)` elements.
    """
    linear = s.n_layer - (s.n_attn or s.n_layer)
    if linear < 1:
        return 0
    per_layer = s.recurrent_bytes // 4 // linear
    constant = (_DELTA_CONV - 1) * 2 * _DELTA_KEY_HEADS * _DELTA_DIM
    return (per_layer - constant) // (_DELTA_DIM * _DELTA_DIM + (_DELTA_CONV - 1) * _DELTA_DIM)


_LAYERS: dict[str, Callable[[Shape], Iterator[Tensor]]] = {
    "llama": _llama3, "mistral3": _llama, "granite": _llama, "smollm3": _llama,
    "qwen2": _qwen2, "qwen3": _qwen3, "qwen3moe": _qwen3moe,
    "gemma3": _gemma3, "phi3": _phi3, "olmo2": _olmo2, "bitnet": _bitnet, "gpt-oss": _gpt_oss,
    "lfm2": _lfm2, "lfm2moe": _lfm2, "qwen35": _qwen35, "qwen35moe": _qwen35,
}  # fmt: skip
KNOWN = frozenset(_LAYERS)
# Parts that `Shape` does not carry: one model of the architecture, by its layers and width; checked against its files.
_ONE_MODEL: dict[tuple[str, int, int], Callable[[Shape], Iterator[Tensor]]] = {
    ("nemotron_h", 42, 3136): _nemotron_nano_4b,
    ("gemma4", 42, 2560): _gemma4_e4b,
}
