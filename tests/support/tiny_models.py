"""Small models of several architectures, whole as far as llama.cpp's quantizer looks: every tensor, no weights.

Files are sparse: their tensors are zeros that take no room. `write` gives them random weights instead.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from support.gguf_writer import ARRAY, F16, F32, FLOAT32, STRING, UINT32, Gguf, Tensor, model_keys

VOCAB = 64
Parts = Iterator[tuple[str, tuple[int, ...]]]


@dataclass(frozen=True)
class Tiny:
    """One model: its architecture, the keys that its size follows from, and further ones that llama.cpp asks for."""

    arch: str
    n_layer: int = 9
    n_embd: int = 256
    n_ff: int = 512
    n_head: int = 4
    n_head_kv: int = 2
    head_dim: int = 64
    tied: bool = False
    n_expert: int = 0
    n_ff_expert: int = 256
    keys: dict[str, Any] = field(default_factory=dict)

    def gguf(self) -> Gguf:
        q, kv = self.n_head * self.head_dim, self.n_head_kv * self.head_dim
        keys = {
            "block_count": self.n_layer, "embedding_length": self.n_embd, "feed_forward_length": self.n_ff,
            "attention__head_count": self.n_head, "attention__head_count_kv": self.n_head_kv,
            "attention__key_length": self.head_dim, "attention__value_length": self.head_dim,
        }  # fmt: skip
        if self.n_expert:
            keys |= {"expert_count": self.n_expert, "expert_used_count": 2}
            keys["expert_feed_forward_length"] = self.n_ff_expert
        made = Gguf(model_keys(self.arch, **keys | self.keys))
        made.keys[1] = ("general.file_type", UINT32, 1)
        for name in ("attention.layer_norm_rms_epsilon", "attention.layer_norm_epsilon", "logit_scale"):
            made.keys.append((f"{self.arch}.{name}", FLOAT32, 1e-5))
        made.keys.append((f"{self.arch}.rope.dimension_sections", ARRAY, (UINT32, [8, 8, 8, 0])))
        parts = [("token_embd.weight", (self.n_embd, VOCAB)), ("output_norm.weight", (self.n_embd,))]
        parts += [] if self.tied else [("output.weight", (self.n_embd, VOCAB))]
        for layer in range(self.n_layer):
            parts += [(f"blk.{layer}.{name}", dims) for name, dims in ARCHS[self.arch](self, layer, q, kv)]
        made.tensors = [tensor_of(name, dims) for name, dims in parts]
        return made

    def sparse(self, folder: Path) -> Path:
        """The file with weights that are holes."""
        made = self.gguf()
        path = folder / f"{self.arch}.gguf"
        head = made.header()
        with path.open("wb") as file:
            file.write(head)
            file.truncate(len(head) + sum(tensor.n_bytes + 31 for tensor in made.tensors) + 32)
        return path

    def write(self, folder: Path, seed: int = 0) -> Path:
        """The file with random weights."""
        made, rng = self.gguf(), np.random.default_rng(seed)
        path = folder / f"{self.arch}.gguf"
        with path.open("wb") as file:
            head = made.header()
            file.write(head + bytes(-len(head) % 32))
            for tensor in made.tensors:
                kind = np.float16 if tensor.type == F16 else np.float32
                data = rng.normal(0, 0.05, math.prod(tensor.dims)).astype(kind).tobytes()
                file.write(data + bytes(-len(data) % 32))
        return path


def with_weights(made: Gguf, path: Path) -> str:
    """The file with random weights and a vocabulary: llama.cpp computes with it."""
    names = ("tokenizer.ggml.tokens", ARRAY, (STRING, [f"t{i}" for i in range(VOCAB)]))
    made.keys = [names if key[0] == names[0] else key for key in made.keys]
    made.keys.append(("tokenizer.ggml.merges", ARRAY, (STRING, ["t 0"])))
    rng = np.random.default_rng(1)
    with path.open("wb") as file:
        file.write(_padded(made.header()))
        for tensor in made.tensors:
            size = math.prod(tensor.dims)
            weights = np.ones(size) if "norm" in tensor.name else rng.normal(0, tensor.dims[0] ** -0.5, size)
            file.write(_padded(weights.astype(np.float16 if tensor.type == F16 else np.float32).tobytes()))
    return str(path)


def _padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % 32)


def tensor_of(name: str, dims: tuple[int, ...]) -> Tensor:
    """As convert_hf_to_gguf.py writes them: what is never quantized stays F32."""
    kept = len(dims) < 2 or any(part in name for part in ("ffn_gate_inp.", "shortconv.conv.", "conv1d", "norm", "bias"))
    return Tensor(name, dims, F32 if kept else F16, math.prod(dims) * (4 if kept else 2))


def _attention(m: Tiny, q: int, kv: int, *, fused: bool = False) -> Parts:
    if fused:
        yield "attn_qkv.weight", (m.n_embd, q + 2 * kv)
    else:
        yield "attn_q.weight", (m.n_embd, q)
        yield "attn_k.weight", (m.n_embd, kv)
        yield "attn_v.weight", (m.n_embd, kv)
    yield "attn_output.weight", (q, m.n_embd)


def _ffn(m: Tiny, width: int = 0, kind: str = "") -> Parts:
    width = width or m.n_ff
    yield f"ffn_gate{kind}.weight", (m.n_embd, width)
    yield f"ffn_up{kind}.weight", (m.n_embd, width)
    yield f"ffn_down{kind}.weight", (width, m.n_embd)


def _experts(m: Tiny) -> Parts:
    yield "ffn_gate_inp.weight", (m.n_embd, m.n_expert)
    for name, dims in _ffn(m, m.n_ff_expert, "_exps"):
        yield name, (*dims, m.n_expert)


def _norms(m: Tiny, *names: str, width: int = 0) -> Parts:
    for name in names:
        yield name, (width or m.n_embd,)


def _heads(m: Tiny) -> Parts:
    yield from _norms(m, "attn_q_norm.weight", "attn_k_norm.weight", width=m.head_dim)


def _llama(m: Tiny, layer: int, q: int, kv: int) -> Parts:
    yield from (*_attention(m, q, kv), *_norms(m, "attn_norm.weight", "ffn_norm.weight"))
    yield from _experts(m) if m.n_expert else _ffn(m)


def _qwen2(m: Tiny, layer: int, q: int, kv: int) -> Parts:
    yield from (*_llama(m, layer, q, kv), *_norms(m, "attn_q.bias", width=q))
    yield from _norms(m, "attn_k.bias", "attn_v.bias", width=kv)


def _qwen3(m: Tiny, layer: int, q: int, kv: int) -> Parts:
    yield from (*_llama(m, layer, q, kv), *_heads(m))


def _gemma3(m: Tiny, layer: int, q: int, kv: int) -> Parts:
    yield from (*_qwen3(m, layer, q, kv), *_norms(m, "post_attention_norm.weight", "post_ffw_norm.weight"))


def _phi3(m: Tiny, layer: int, q: int, kv: int) -> Parts:
    yield from (*_attention(m, q, kv, fused=True), *_norms(m, "attn_norm.weight", "ffn_norm.weight"))
    yield "ffn_up.weight", (m.n_embd, 2 * m.n_ff)
    yield "ffn_down.weight", (m.n_ff, m.n_embd)


def _olmo2(m: Tiny, layer: int, q: int, kv: int) -> Parts:
    yield from (*_attention(m, q, kv), *_ffn(m), *_norms(m, "post_attention_norm.weight", "post_ffw_norm.weight"))
    yield from (*_norms(m, "attn_q_norm.weight", width=q), *_norms(m, "attn_k_norm.weight", width=kv))


def _bitnet(m: Tiny, layer: int, q: int, kv: int) -> Parts:
    yield from (*_llama(m, layer, q, kv), *_norms(m, "attn_sub_norm.weight"))
    yield from _norms(m, "ffn_sub_norm.weight", width=m.n_ff)


def _gpt_oss(m: Tiny, layer: int, q: int, kv: int) -> Parts:
    yield from (*_attention(m, q, kv), *_experts(m), *_norms(m, "attn_norm.weight", "post_attention_norm.weight"))
    yield from (*_norms(m, "attn_sinks.weight", width=m.n_head), *_norms(m, "attn_q.bias", width=q))
    yield from (*_norms(m, "attn_k.bias", "attn_v.bias", width=kv), *_norms(m, "attn_output.bias"))
    yield "ffn_gate_inp.bias", (m.n_expert,)
    yield "ffn_gate_exps.bias", (m.n_ff_expert, m.n_expert)
    yield "ffn_up_exps.bias", (m.n_ff_expert, m.n_expert)
    yield "ffn_down_exps.bias", (m.n_embd, m.n_expert)


def lfm2_attends(layer: int) -> bool:
    return layer % 3 == 2


def _lfm2(m: Tiny, layer: int, q: int, kv: int) -> Parts:
    if lfm2_attends(layer):
        yield from (*_attention(m, q, kv), *_heads(m))
    else:
        yield "shortconv.conv.weight", (3, m.n_embd)
        yield "shortconv.in_proj.weight", (m.n_embd, 3 * m.n_embd)
        yield "shortconv.out_proj.weight", (m.n_embd, m.n_embd)
    yield from _norms(m, "attn_norm.weight", "ffn_norm.weight")
    if m.n_expert and layer >= 2:
        yield from _experts(m)
        yield "exp_probs_b.bias", (m.n_expert,)
    else:
        yield from _ffn(m)


DELTA_HEADS = 16  # value heads; Qwen3.5's smallest


def _qwen35(m: Tiny, layer: int, q: int, kv: int) -> Parts:
    values = DELTA_HEADS * 128
    if layer % 4 == 3:
        yield from (*_attention(m, q, kv), *_heads(m))
    else:
        yield "attn_qkv.weight", (m.n_embd, 2 * 16 * 128 + values)
        yield "attn_gate.weight", (m.n_embd, values)
        yield "ssm_conv1d.weight", (4, 2 * 16 * 128 + values)
        yield "ssm_alpha.weight", (m.n_embd, DELTA_HEADS)
        yield "ssm_beta.weight", (m.n_embd, DELTA_HEADS)
        yield "ssm_out.weight", (values, m.n_embd)
        yield from (*_norms(m, "ssm_a", "ssm_dt.bias", width=DELTA_HEADS), *_norms(m, "ssm_norm.weight", width=128))
    yield from _norms(m, "attn_norm.weight", "post_attention_norm.weight")
    if m.n_expert:
        yield from (*_experts(m), *_ffn(m, m.n_ff_expert, "_shexp"), *_norms(m, "ffn_gate_inp_shexp.weight"))
    else:
        yield from _ffn(m)


def _qwen35_gated(m: Tiny, layer: int, q: int, kv: int) -> Parts:
    for name, dims in _qwen35(m, layer, q, kv):
        yield name, (m.n_embd, 2 * q) if name == "attn_q.weight" else dims


def _falcon(m: Tiny, layer: int, q: int, kv: int) -> Parts:
    yield from (*_attention(m, q, kv, fused=True), *_norms(m, "attn_norm.weight", "attn_norm.bias"))
    yield "ffn_up.weight", (m.n_embd, m.n_ff)
    yield "ffn_down.weight", (m.n_ff, m.n_embd)


def _deepseek2(m: Tiny, layer: int, q: int, kv: int) -> Parts:
    yield "attn_q.weight", (m.n_embd, q)
    yield "attn_kv_a_mqa.weight", (m.n_embd, 128)
    yield "attn_k_b.weight", (m.head_dim, 128, m.n_head)
    yield "attn_v_b.weight", (128, m.head_dim, m.n_head)
    yield "attn_kv_b.weight", (128, 2 * q)
    yield "attn_output.weight", (q, m.n_embd)
    yield from _norms(m, "attn_norm.weight", "ffn_norm.weight", "attn_kv_a_norm.weight")
    yield from _ffn(m) if layer < 1 else (*_experts(m), *_ffn(m, m.n_ff_expert, "_shexp"))


ARCHS: dict[str, Callable[[Tiny, int, int, int], Parts]] = {
    "llama": _llama, "qwen2": _qwen2, "qwen3": _qwen3, "qwen3moe": _qwen3, "gemma3": _gemma3, "phi3": _phi3,
    "olmo2": _olmo2, "bitnet": _bitnet, "gpt-oss": _gpt_oss, "lfm2": _lfm2, "lfm2moe": _lfm2, "qwen35": _qwen35_gated,
    "qwen35moe": _qwen35_gated, "granite": _llama, "smollm3": _llama, "falcon": _falcon, "deepseek2": _deepseek2,
}  # fmt: skip

_SSM = {
    "ssm__conv_kernel": 4, "ssm__inner_size": DELTA_HEADS * 128, "ssm__state_size": 128,
    "ssm__time_step_rank": DELTA_HEADS, "ssm__group_count": 16, "full_attention_interval": 4,
}  # fmt: skip
# Which layers attend is told by the number of their heads.
_CONV = {"shortconv__l_cache": 3, "attention__head_count_kv": [2 if lfm2_attends(i) else 0 for i in range(9)]}
_DEEPSEEK = {
    "attention__kv_lora_rank": 128, "leading_dense_block_count": 1, "expert_shared_count": 1,
    "attention__q_lora_rank": 0, "attention__key_length_mla": 64, "attention__value_length_mla": 64,
    "rope__dimension_count": 32, "attention__head_count_kv": 1, "attention__key_length": 160,
}  # fmt: skip

MODELS: dict[str, Tiny] = {
    "llama": Tiny("llama"),
    "llama-tied-short-rows": Tiny("llama", n_embd=192, n_head=3, n_head_kv=3, n_ff=512, tied=True, n_layer=30),
    "llama-grouped": Tiny("llama", n_head=8, n_head_kv=2, head_dim=32, n_layer=17),
    "llama-8-experts": Tiny("llama", n_expert=8, n_layer=16),
    "llama-4-experts": Tiny("llama", n_expert=4, n_layer=16),
    "llama-70b": Tiny("llama", n_head=8, n_head_kv=1, head_dim=32, n_layer=80),
    "llama-65b": Tiny("llama", n_head_kv=4, n_layer=80),
    "qwen2-72b": Tiny("qwen2", n_layer=80, n_head_kv=4),
    "qwen2-short-rows": Tiny("qwen2", n_embd=224, n_head=7, n_head_kv=1, head_dim=32, n_ff=608, n_layer=24, tied=True),
    "qwen3": Tiny("qwen3", tied=True, n_layer=28),
    "qwen3moe": Tiny("qwen3moe", n_expert=16, n_layer=48, n_head=8, n_head_kv=1, head_dim=32),
    "gemma3": Tiny("gemma3", n_embd=320, n_head=4, n_head_kv=1, n_ff=1024, n_layer=18, tied=True),
    "phi3": Tiny("phi3", n_layer=32),
    "olmo2": Tiny("olmo2", n_layer=16),
    "bitnet": Tiny("bitnet", n_layer=30, tied=True),
    "gpt-oss": Tiny("gpt-oss", n_embd=320, n_expert=32, n_ff_expert=320, n_layer=24, n_head=8, n_head_kv=1,
                    keys={"attention__sliding_window": 128}),
    "lfm2": Tiny("lfm2", n_head=8, head_dim=32, tied=True, n_layer=9, keys=_CONV),
    "lfm2moe": Tiny("lfm2moe", n_expert=32, tied=True, keys=_CONV | {"leading_dense_block_count": 2,
                    "expert_gating_func": 2}),
    "qwen35": Tiny("qwen35", n_layer=24, tied=True, n_head=8, n_head_kv=2, head_dim=32, keys=_SSM),
    "qwen35moe": Tiny("qwen35moe", n_layer=40, n_expert=16, n_head=8, n_head_kv=1, head_dim=32, keys=_SSM),
    "granite": Tiny("granite", tied=True, n_layer=40),
    "smollm3": Tiny("smollm3", tied=True, n_layer=36),
    "falcon": Tiny("falcon", n_layer=32, n_head_kv=1),
    "deepseek2": Tiny("deepseek2", n_layer=27, n_expert=16, n_head_kv=4, keys=_DEEPSEEK),
    "rows-of-no-block": Tiny("llama", n_embd=200, n_head=2, n_head_kv=2, head_dim=100, n_ff=300, n_layer=3),
}  # fmt: skip
