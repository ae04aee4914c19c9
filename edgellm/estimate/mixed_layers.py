"""Tensors of architectures whose layers are not alike, or whose parts `Shape` does not carry.

Sources: llama.cpp b11434 `src/models/*.cpp` (`create_tensor`), the parameters of the catalog, headers of published
files as their logs tell them (tests/estimate/test_mixed_layers.py). What no shape says is here by model.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

from edgellm.estimate.layer_parts import Tensor, attention, experts, ffn, full_layers, norms, other_layers
from edgellm.types.model import Shape

MAMBA2_STATES = 128  # of each group, in every model here
_MAMBA2_CONV = 4


def _mamba2(s: Shape, layers: Sequence[int], inner: int, heads: int, groups: int = 1) -> Iterator[Tensor]:
    states = 2 * groups * MAMBA2_STATES
    yield Tensor("ssm_in", s.n_embd, 2 * inner + states + heads, layers)
    yield Tensor("ssm_out", inner, s.n_embd, layers)
    yield Tensor("never", _MAMBA2_CONV, inner + states, layers)  # ssm_conv1d
    yield from norms(layers, inner + states, heads, heads, heads, inner)  # its bias, ssm_dt, ssm_a, ssm_d, ssm_norm


def granitehybrid(s: Shape) -> Iterator[Tensor]:
    every = range(s.n_layer)
    yield from (*norms(every, s.n_embd, s.n_embd), *attention(s, full_layers(s)))
    yield from _mamba2(s, other_layers(s), 2 * s.n_embd, s.n_embd // 32)
    if s.n_expert:
        yield from (*experts(s, every), *ffn(s, every, 2 * s.n_ff_expert, "_shexp"))
    else:
        yield from ffn(s, every)


def nemotron_h(s: Shape) -> Iterator[Tensor]:
    # Each layer is a Mamba-2 mixer, a feed-forward network (of experts) or attention, and nothing else.
    model = _NEMOTRON_H[s.n_layer, s.n_embd]
    mixers, feeds, attn = (tuple(i for i, kind in enumerate(model.pattern) if kind in of) for of in ("M", "-E", "*"))
    yield from (*norms(range(s.n_layer), s.n_embd), *attention(s, attn))
    yield from _mamba2(s, mixers, model.inner, model.heads, 8)
    if s.n_expert:
        yield Tensor("never", s.n_embd, s.n_expert, feeds)  # router
        yield from norms(feeds, s.n_expert)  # exp_probs_b
        yield Tensor("ffn_up_exps", s.n_embd, s.n_ff_expert * s.n_expert, feeds)
        yield Tensor("ffn_down_exps", s.n_ff_expert, s.n_embd * s.n_expert, feeds)
    kind = "_shexp" if s.n_expert else ""
    yield Tensor(f"ffn_up{kind}", s.n_embd, model.n_ff, feeds)
    yield Tensor(f"ffn_down{kind}", model.n_ff, s.n_embd, feeds)


def gemma3n(s: Shape) -> Iterator[Tensor]:
    # Layers that share a cache keep their unused projections.
    every = range(s.n_layer)
    yield from (*attention(s, every), *norms(every, s.head_dim, s.head_dim), *ffn(s, every))
    yield from norms(every, *[s.n_embd] * 8)  # five of the layer, altup_correct_scale, altup_router_norm, laurel's
    yield Tensor("never", _STATES, _STATES, every)  # altup_correct_coef
    yield Tensor("never", _STATES, _STATES * _STATES, every)  # altup_predict_coef
    yield Tensor("half", s.n_embd, _STATES, every)  # altup_router
    yield Tensor("half", s.n_embd, _LAUREL, every)
    yield Tensor("half", _LAUREL, s.n_embd, every)
    for _ in ("altup_proj", "altup_unembd_proj"):
        yield Tensor("half", s.n_embd, s.n_embd * (_STATES - 1))
    yield from _per_layer_embeddings(s)


def _per_layer_embeddings(s: Shape) -> Iterator[Tensor]:
    width, every = s.per_layer_width, range(s.n_layer)
    yield Tensor("per_layer_token_embd", width * s.n_layer, s.n_vocab)
    yield Tensor("half", s.n_embd, width * s.n_layer, (0,))  # per_layer_model_proj: llama.cpp has it with this layer
    yield Tensor("never", width, 1, (0,))
    yield Tensor("inp_gate", s.n_embd, width, every)
    yield Tensor("proj", width, s.n_embd, every)


def gemma4(s: Shape) -> Iterator[Tensor]:
    # Heads of global layers are twice as wide, and may be fewer of keys: as their caches tell.
    every, wide, window = range(s.n_layer), full_layers(s), other_layers(s)
    n_own = s.n_layer - s.shared_kv_layers
    own = sum(layer < n_own for layer in wide)
    dim = s.kv_swa_bytes // (4 * s.n_head_kv * max(1, n_own - own)) or s.head_dim
    kv_heads = s.kv_full_bytes // (8 * dim * max(1, own))
    # Where layers share caches, all keep their unused projections; elsewhere keys of global layers are their values.
    yield from attention(s, window, dim=dim)
    yield from attention(s, wide, dim=2 * dim, kv_heads=kv_heads, values=bool(s.shared_kv_layers))
    yield from (*norms(window, dim, dim), *norms(wide, 2 * dim, 2 * dim))
    yield from norms(every, *[s.n_embd] * 4, 1)  # 1: layer_output_scale
    yield Tensor("never", dim, 1)  # rope_freqs
    if (s.n_layer, s.n_embd) == _GEMMA4_E2B:
        first = range(n_own)
        yield from (*ffn(s, first, 4 * s.n_embd), *ffn(s, every[len(first) :], 8 * s.n_embd))
    else:
        yield from ffn(s, every)
    if s.n_expert:
        yield Tensor("never", s.n_embd, s.n_expert, every)  # router
        yield from norms(every, *[s.n_embd] * 4, s.n_expert)  # three norms, scales of the router and of experts
        yield Tensor("ffn_gate_exps", s.n_embd, 2 * s.n_ff_expert * s.n_expert, every)  # with up, in one matrix
        yield Tensor("ffn_down_exps", s.n_ff_expert, s.n_embd * s.n_expert, every)
    if s.per_layer_width:
        yield from (*norms(every, s.n_embd), *_per_layer_embeddings(s))


def glm4(s: Shape) -> Iterator[Tensor]:
    every = range(s.n_layer)
    yield from (*attention(s, every), *norms(every, *[s.n_embd] * 4))
    yield Tensor("ffn_up", s.n_embd, 2 * s.n_ff, every)
    yield Tensor("ffn_down", s.n_ff, s.n_embd, every)


def glm4moe(s: Shape) -> Iterator[Tensor]:
    model = _GLM4_MOE[s.n_layer, s.n_embd]
    every, kv = range(s.n_layer), s.n_head_kv * s.head_dim
    yield from (*attention(s, every), *norms(every, s.n_embd, s.n_embd, s.n_head * s.head_dim, kv, kv))  # and biases
    yield from norms(every, s.head_dim, s.head_dim) if model.norms_heads else ()
    yield from _behind_dense(s, model.dense, s.n_ff_expert, biased=True)


def deepseek2(s: Shape) -> Iterator[Tensor]:
    model = _DEEPSEEK2[s.n_layer, s.n_embd]
    every, q = range(s.n_layer), s.n_head * (model.nope + _ROPE)
    if model.q_rank:
        yield Tensor("attn_q_a", s.n_embd, model.q_rank, every)
        yield Tensor("attn_q_b", model.q_rank, q, every)
        yield from norms(every, model.q_rank)
    else:
        yield Tensor("attn_q", s.n_embd, q, every)
    yield Tensor("attn_kv_a_mqa", s.n_embd, _KV_RANK + _ROPE, every)
    yield Tensor("attn_k_b", model.nope, _KV_RANK * s.n_head, every)
    yield Tensor("attn_v_b", _KV_RANK, model.value * s.n_head, every)
    yield Tensor("attn_output", s.n_head * model.value, s.n_embd, every)
    yield from norms(every, s.n_embd, s.n_embd, _KV_RANK)
    yield from _behind_dense(s, model.dense, model.shared * s.n_ff_expert, biased=model.biased)


def _behind_dense(s: Shape, dense: int, shared: int, *, biased: bool) -> Iterator[Tensor]:
    """`dense` layers with an ordinary network, then mixtures with a shared expert of width `shared`."""
    mixed = range(dense, s.n_layer)
    yield from (*ffn(s, range(dense)), *experts(s, mixed), *ffn(s, mixed, shared, "_shexp"))
    yield from norms(mixed, s.n_expert) if biased else ()  # exp_probs_b


@dataclass(frozen=True, slots=True)
class _NemotronH:
    pattern: str  # of layers: M a mixer, - a feed-forward network, E a mixture of experts, * attention
    inner: int
    heads: int  # of the mixer
    n_ff: int  # of the network, or of the shared expert


@dataclass(frozen=True, slots=True)
class _Latent:
    """What compresses queries, keys and values, and how experts are laid out."""

    q_rank: int
    nope: int = 128  # of a head's keys, without rotated values
    value: int = 128
    dense: int = 1
    shared: int = 1  # experts
    biased: bool = True


@dataclass(frozen=True, slots=True)
class _Glm4Moe:
    dense: int
    norms_heads: bool


_STATES, _LAUREL = 4, 64  # altup_num_inputs and laurel_rank of every Gemma 3n
_GEMMA4_E2B = (35, 1536)  # layers that share a cache have networks twice as wide
_KV_RANK, _ROPE = 512, 64  # kv_lora_rank and qk_rope_head_dim of every DeepSeek 2 and 3
# By layers and width; `hybrid_override_pattern` of their config.json.
_NEMOTRON_H = {
    (42, 3136): _NemotronH("M-M-M-MM-M-M*-M-M*-M-M-M*-M-M-MM*-MMM-M-M-", 7680, 96, 12544),  # 3 Nano 4B
    (52, 2688): _NemotronH("MEMEM*EMEMEM*EMEMEM*EMEMEM*EMEMEM*EMEMEMEM*EMEMEMEME", 4096, 64, 3712),  # 3 Nano 30B
}
_DEEPSEEK2 = {
    (27, 2048): _Latent(0, shared=2, biased=False),  # V2 Lite
    (60, 5120): _Latent(1536, shared=2, biased=False),  # V2, V2.5
    (61, 7168): _Latent(1536, dense=3),  # V3, V3.1, R1
    (47, 2048): _Latent(768, nope=192, value=256),  # GLM 4.7 Flash
}
_GLM4_MOE = {(46, 4096): _Glm4Moe(1, norms_heads=False), (92, 5120): _Glm4Moe(3, norms_heads=True)}  # 4.5 Air; 4.5, 4.6
BY_MODEL: dict[str, Collection[tuple[int, int]]] = {
    "nemotron_h": _NEMOTRON_H,
    "nemotron_h_moe": _NEMOTRON_H,
    "deepseek2": _DEEPSEEK2,
    "glm4moe": _GLM4_MOE,
}
