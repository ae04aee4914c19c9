"""Models of every kind with whole headers, and weights that are holes in the file: what they take is known."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

from support import gguf_writer as gw

LAYERS, WIDTH, FFN, VOCAB = 8, 2048, 6144, 32000
HEADS, KV_HEADS, DIM = 16, 4, 128
EXPERTS, USED, EXPERT_FFN = 16, 4, 1024
Tensors = Iterator[tuple[str, tuple[int, ...]]]
KEYS = {
    "block_count": LAYERS, "context_length": 65536, "embedding_length": WIDTH, "feed_forward_length": FFN,
    "attention.head_count": HEADS, "attention.head_count_kv": KV_HEADS, "attention.key_length": DIM,
    "attention.value_length": DIM, "vocab_size": VOCAB,
}  # fmt: skip


def attention(i: int, gated: int = 1) -> Tensors:
    yield "attn_q.weight", (WIDTH, HEADS * DIM * gated)
    yield "attn_k.weight", (WIDTH, KV_HEADS * DIM)
    yield "attn_v.weight", (WIDTH, KV_HEADS * DIM)
    yield "attn_output.weight", (HEADS * DIM, WIDTH)
    yield from (("attn_q_norm.weight", (DIM,)), ("attn_k_norm.weight", (DIM,)))


def dense(i: int) -> Tensors:
    yield from (("ffn_gate.weight", (WIDTH, FFN)), ("ffn_up.weight", (WIDTH, FFN)), ("ffn_down.weight", (FFN, WIDTH)))
    yield from (("attn_norm.weight", (WIDTH,)), ("ffn_norm.weight", (WIDTH,)))


def qwen3(i: int) -> Tensors:
    yield from (*attention(i), *dense(i))


def gemma3(i: int) -> Tensors:
    yield from (*qwen3(i), ("post_attention_norm.weight", (WIDTH,)), ("post_ffw_norm.weight", (WIDTH,)))


def qwen3moe(i: int) -> Tensors:
    yield from (*attention(i), ("attn_norm.weight", (WIDTH,)), ("ffn_norm.weight", (WIDTH,)))
    yield "ffn_gate_inp.weight", (WIDTH, EXPERTS)
    yield "ffn_gate_exps.weight", (WIDTH, EXPERT_FFN, EXPERTS)
    yield "ffn_up_exps.weight", (WIDTH, EXPERT_FFN, EXPERTS)
    yield "ffn_down_exps.weight", (EXPERT_FFN, WIDTH, EXPERTS)


def lfm2(i: int) -> Tensors:
    yield from dense(i)
    if i % 2:
        yield from attention(i)
    else:
        yield "shortconv.conv.weight", (3, WIDTH)
        yield from (("shortconv.in_proj.weight", (WIDTH, 3 * WIDTH)), ("shortconv.out_proj.weight", (WIDTH, WIDTH)))


def qwen35(i: int) -> Tensors:
    yield from (entry for entry in dense(i) if entry[0] != "ffn_norm.weight")
    yield "post_attention_norm.weight", (WIDTH,)
    if i % 4 == 3:
        yield from attention(i, gated=2)
        return
    keys, values, heads = 16 * 128, 32 * 128, 32
    yield from (("attn_qkv.weight", (WIDTH, 2 * keys + values)), ("attn_gate.weight", (WIDTH, values)))
    yield from (("ssm_beta.weight", (WIDTH, heads)), ("ssm_alpha.weight", (WIDTH, heads)))
    yield from (("ssm_conv1d.weight", (4, 2 * keys + values)), ("ssm_dt.bias", (heads,)), ("ssm_a", (heads,)))
    yield from (("ssm_norm.weight", (128,)), ("ssm_out.weight", (values, WIDTH)))


def deepseek2(i: int) -> Tensors:
    yield from dense(i)
    yield from (("attn_q_a.weight", (WIDTH, 768)), ("attn_q_a_norm.weight", (768,)))
    yield from (("attn_q_b.weight", (768, HEADS * 192)), ("attn_output.weight", (HEADS * 128, WIDTH)))
    yield from (("attn_kv_a_mqa.weight", (WIDTH, 576)), ("attn_kv_a_norm.weight", (512,)))
    yield from (("attn_k_b.weight", (128, 512, HEADS)), ("attn_v_b.weight", (512, 128, HEADS)))


KINDS = {
    "qwen3": (qwen3, {}),
    "gemma3": (gemma3, {"attention.sliding_window": 1024}),
    "qwen3moe": (
        qwen3moe,
        {"expert_count": EXPERTS, "expert_used_count": USED, "expert_feed_forward_length": EXPERT_FFN},
    ),
    "lfm2": (lfm2, {"shortconv.l_cache": 3, "attention.head_count_kv": [KV_HEADS * (i % 2) for i in range(LAYERS)]}),
    "qwen35": (
        qwen35,
        {"ssm.conv_kernel": 4, "ssm.inner_size": 4096, "ssm.state_size": 128, "ssm.time_step_rank": 32}
        | {"ssm.group_count": 16, "rope.dimension_sections": [11, 11, 10, 0], "rope.dimension_count": 64},
    ),
    "deepseek2": (
        deepseek2,
        {"attention.head_count_kv": 1, "attention.q_lora_rank": 768, "attention.kv_lora_rank": 512}
        | {"attention.key_length": 576, "attention.value_length": 512, "attention.key_length_mla": 192}
        | {"attention.value_length_mla": 128, "rope.dimension_count": 64, "leading_dense_block_count": LAYERS}
        | {"expert_count": 0, "expert_used_count": 0, "expert_feed_forward_length": EXPERT_FFN}
        | {"expert_shared_count": 2},
    ),
}


def sparse(arch: str, path: Path) -> Path:
    """A model whose header is whole and whose data takes no disk."""
    layer, changed = KINDS[arch]
    keys: list[tuple[str | bytes, int, object]] = [
        ("general.architecture", gw.STRING, arch),
        ("tokenizer.ggml.model", gw.STRING, "no_vocab"),
        (f"{arch}.attention.layer_norm_rms_epsilon", gw.FLOAT32, 1e-6),
    ]
    for name, value in (KEYS | changed).items():
        kind, told = (gw.ARRAY, (gw.INT32, value)) if isinstance(value, list) else (gw.UINT32, value)
        keys.append((f"{arch}.{name}", kind, told))
    named = [("token_embd.weight", (WIDTH, VOCAB))]
    named.append(("token_embd_norm.weight" if arch == "lfm2" else "output_norm.weight", (WIDTH,)))
    named += [(f"blk.{i}.{name}", dims) for i in range(LAYERS) for name, dims in layer(i)]
    tensors = []
    for name, dims in named:
        exact = len(dims) == 1 or ("conv" in name and "proj" not in name)
        n_bytes = math.prod(dims) * (4 if exact else 2)
        tensors.append(gw.Tensor(name, dims, gw.F32 if exact else gw.F16, n_bytes))
    header = gw.Gguf(keys=keys, tensors=tensors).header()
    with open(path, "wb") as file:
        file.write(header)
        file.truncate(len(header) + 64 + sum(-(-tensor.n_bytes // 32) * 32 for tensor in tensors))
    return path
