"""The tensors that a model of a given architecture and shape consists of.

Sources: llama.cpp b11434 `src/models/*.cpp` (`create_tensor`), the parameter closure of the catalog, published files.
An architecture that is not here or in `mixed_layers.py` has parts that `Shape` does not carry (towers, per-layer
arrays); its size is estimated in `estimate/weights.py` and said to be so. Knows nothing of types or bytes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache

from edgellm.estimate import mixed_layers
from edgellm.estimate.layer_parts import Tensor, attention, experts, ffn, full_layers, norms, other_layers
from edgellm.types.model import Shape


@lru_cache(maxsize=1024)
def tensors(shape: Shape) -> tuple[Tensor, ...] | None:
    """Every tensor of the model, None where the architecture's list is not known here."""
    layer, models = _LAYERS.get(shape.arch), mixed_layers.BY_MODEL.get(shape.arch)
    if layer is None or shape.n_layer < 1 or (shape.n_ff < 1 and models is None):
        return None
    if models is not None and (shape.n_layer, shape.n_embd) not in models:
        return None
    return (*_tables(shape), *layer(shape))


def numbers(part: Tensor, parts: Sequence[Tensor], n_expert: int, *, counted: bool = False) -> Sequence[int]:
    """Of a tensor's layers, the numbers that the quantizer's rules ask about.

    It counts the tensors of a kind, those that hold values together; of a mixture it reads the number in the name.
    `counted`: of a mix that counts what feed-forward networks end with, in a mixture, too.
    """
    if part.role in VALUES:
        return _counted(part, [other for other in parts if other.role in VALUES])
    if counted and part.role in DOWN:
        return _counted(part, [other for other in parts if other.role in DOWN])
    return part.layers if n_expert else _counted(part, [other for other in parts if other.role == part.role])


def _counted(part: Tensor, alike: Sequence[Tensor]) -> Sequence[int]:
    """Of tensors of a kind, which are this part's: in the order of layers, and of names in a layer."""
    if len(alike) == 1:
        return range(len(part.layers))
    order = sorted((layer, other.role) for other in alike for layer in other.layers)
    count = {key: number for number, key in enumerate(order)}
    return tuple(count[layer, part.role] for layer in part.layers)


def _tables(s: Shape) -> Iterator[Tensor]:
    yield Tensor("token_embd", s.n_embd, s.n_vocab)
    yield Tensor("never", s.n_embd, 1)  # output_norm
    if not s.tied_embeddings:
        yield Tensor("output", s.n_embd, s.n_vocab)


def _llama(s: Shape) -> Iterator[Tensor]:
    every = range(s.n_layer)
    yield from (*attention(s, every), *norms(every, s.n_embd, s.n_embd))
    yield from experts(s, every) if s.n_expert else ffn(s, every)


def _llama3(s: Shape) -> Iterator[Tensor]:
    yield from _llama(s)
    if s.arch == "llama" and s.n_vocab == _LLAMA3_VOCAB:
        yield Tensor("never", s.head_dim // 2, 1)  # rope_freqs


def _qwen2(s: Shape) -> Iterator[Tensor]:
    kv = s.n_head_kv * s.head_dim
    yield from (*_llama(s), *norms(range(s.n_layer), s.n_head * s.head_dim, kv, kv))  # biases


def _qwen3(s: Shape) -> Iterator[Tensor]:
    yield from (*_llama(s), *norms(range(s.n_layer), s.head_dim, s.head_dim))


def _qwen3moe(s: Shape) -> Iterator[Tensor]:
    every = range(s.n_layer)
    yield from (*attention(s, every), *experts(s, every))
    yield from norms(every, s.n_embd, s.n_embd, s.head_dim, s.head_dim)


def _gemma3(s: Shape) -> Iterator[Tensor]:
    every = range(s.n_layer)
    yield from (*_llama(s), *norms(every, s.n_embd, s.n_embd, s.head_dim, s.head_dim))


def _phi3(s: Shape) -> Iterator[Tensor]:
    every = range(s.n_layer)
    yield from attention(s, every, fused=True)
    yield Tensor("ffn_up", s.n_embd, 2 * s.n_ff, every)
    yield Tensor("ffn_down", s.n_ff, s.n_embd, every)
    yield from norms(every, s.n_embd, s.n_embd)


def _olmo2(s: Shape) -> Iterator[Tensor]:
    every = range(s.n_layer)
    yield from (*_llama(s), *norms(every, s.n_head * s.head_dim, s.n_head_kv * s.head_dim))


def _bitnet(s: Shape) -> Iterator[Tensor]:
    yield from (*_llama(s), *norms(range(s.n_layer), s.n_embd, s.n_ff))


def _gpt_oss(s: Shape) -> Iterator[Tensor]:
    every, kv = range(s.n_layer), s.n_head_kv * s.head_dim
    yield from (*attention(s, every), *experts(s, every))
    yield from norms(every, s.n_embd, s.n_embd, s.n_head)
    yield from norms(every, s.n_head * s.head_dim, kv, kv, s.n_embd, s.n_expert)  # biases
    yield from norms(every, s.n_ff_expert * s.n_expert, s.n_ff_expert * s.n_expert, s.n_embd * s.n_expert)


def _lfm2(s: Shape) -> Iterator[Tensor]:
    attn, conv, every = full_layers(s), other_layers(s), range(s.n_layer)
    yield from (*attention(s, attn), *norms(attn, s.head_dim, s.head_dim))
    yield Tensor("never", _LFM2_CONV, s.n_embd, conv)
    yield Tensor("shortconv_in_proj", s.n_embd, 3 * s.n_embd, conv)
    yield Tensor("shortconv_out_proj", s.n_embd, s.n_embd, conv)
    dense = range(_LFM2_DENSE_LAYERS) if s.n_expert else every
    yield from (*ffn(s, dense), *norms(every, s.n_embd, s.n_embd))
    if s.n_expert:
        routed = range(len(dense), s.n_layer)
        yield from (*experts(s, routed), *norms(routed, s.n_expert))


def _qwen35(s: Shape) -> Iterator[Tensor]:
    attn, linear, every = full_layers(s), other_layers(s), range(s.n_layer)
    yield from (*attention(s, attn, gated=True), *norms(attn, s.head_dim, s.head_dim))
    keys, values = _DELTA_KEY_HEADS * _DELTA_DIM, delta_value_heads(s) * _DELTA_DIM
    mixed = 2 * keys + values
    yield Tensor("attn_qkv", s.n_embd, mixed, linear)
    yield Tensor("attn_gate", s.n_embd, values, linear)
    for role in ("ssm_alpha", "ssm_beta"):
        yield Tensor(role, s.n_embd, delta_value_heads(s), linear)
    yield Tensor("never", _DELTA_CONV, mixed, linear)  # ssm_conv1d
    yield from norms(linear, delta_value_heads(s), delta_value_heads(s), _DELTA_DIM)  # ssm_a, ssm_dt, ssm_norm
    yield Tensor("ssm_out", values, s.n_embd, linear)
    yield from norms(every, s.n_embd, s.n_embd)
    if s.n_expert:
        yield from (*experts(s, every), *ffn(s, every, s.n_ff_expert, "_shexp"), *norms(every, s.n_embd))
    else:
        yield from ffn(s, every)


VALUES = ("attn_v", "attn_qkv")  # roles that the quantizer's rules count together
DOWN = ("ffn_down", "ffn_down_exps", "ffn_down_shexp")
FIRST_LAYER_ATTENDS_NOT = frozenset({"lfm2", "lfm2moe", "nemotron_h", "nemotron_h_moe", "granitehybrid"})
_LLAMA3_VOCAB = 128256
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
    "gemma3n": mixed_layers.gemma3n, "gemma4": mixed_layers.gemma4, "granitehybrid": mixed_layers.granitehybrid,
    "nemotron_h": mixed_layers.nemotron_h, "nemotron_h_moe": mixed_layers.nemotron_h,
    "deepseek2": mixed_layers.deepseek2, "glm4": mixed_layers.glm4, "glm4moe": mixed_layers.glm4moe,
}  # fmt: skip
KNOWN = frozenset(_LAYERS) - mixed_layers.BY_MODEL.keys()  # whatever their sizes
