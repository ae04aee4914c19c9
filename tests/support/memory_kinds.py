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


def experts(width: int, n_experts: int, ffn: int, shared: int) -> Tensors:
    yield from (("ffn_gate_inp.weight", (width, n_experts)), ("ffn_gate_exps.weight", (width, ffn, n_experts)))
    yield from (("ffn_up_exps.weight", (width, ffn, n_experts)), ("ffn_down_exps.weight", (ffn, width, n_experts)))
    yield from (("ffn_gate_shexp.weight", (width, shared)), ("ffn_up_shexp.weight", (width, shared)))
    yield "ffn_down_shexp.weight", (shared, width)


def deepseek2moe(i: int) -> Tensors:
    """DeepSeek V2 and V3, GLM 4.7 Flash: the first block is dense."""
    if not i:
        yield from deepseek2(i)
        return
    yield from (entry for entry in deepseek2(i) if not entry[0].startswith(("ffn_gate", "ffn_up", "ffn_down")))
    yield from (*experts(WIDTH, EXPERTS, EXPERT_FFN, 2 * EXPERT_FFN), ("exp_probs_b.bias", (EXPERTS,)))


def glm4moe(i: int) -> Tensors:
    """GLM 4.5: the first block is dense, the last one only drafts."""
    yield from (*attention(i), ("attn_norm.weight", (WIDTH,)), ("post_attention_norm.weight", (WIDTH,)))
    yield from (("attn_q.bias", (HEADS * DIM,)), ("attn_k.bias", (KV_HEADS * DIM,)), ("attn_v.bias", (KV_HEADS * DIM,)))
    if not i:
        yield from (entry for entry in dense(i) if "norm" not in entry[0])
        return
    yield from (*experts(WIDTH, EXPERTS, EXPERT_FFN, EXPERT_FFN), ("exp_probs_b.bias", (EXPERTS,)))
    if i == LAYERS:
        yield from (("nextn.eh_proj.weight", (2 * WIDTH, WIDTH)), ("nextn.enorm.weight", (WIDTH,)))
        yield "nextn.hnorm.weight", (WIDTH,)


def glm4(i: int) -> Tensors:
    yield from (entry for entry in attention(i) if "norm" not in entry[0])
    yield from (("ffn_up.weight", (WIDTH, 2 * FFN)), ("ffn_down.weight", (FFN, WIDTH)))
    for name in ("attn_norm", "ffn_norm", "post_attention_norm", "post_ffw_norm"):
        yield f"{name}.weight", (WIDTH,)


def granite_mixer(i: int) -> Tensors:
    yield from (("attn_norm.weight", (WIDTH,)), ("ffn_norm.weight", (WIDTH,)))
    if i % 4 == 3:
        yield from (entry for entry in attention(i) if "norm" not in entry[0])
        return
    inner, states, heads = 2 * WIDTH, 2 * 128, WIDTH // 32
    yield from (("ssm_in.weight", (WIDTH, 2 * inner + states + heads)), ("ssm_out.weight", (inner, WIDTH)))
    yield from (("ssm_conv1d.weight", (4, inner + states)), ("ssm_conv1d.bias", (inner + states,)))
    yield from (
        ("ssm_dt.bias", (heads,)),
        ("ssm_a", (1, heads)),
        ("ssm_d", (1, heads)),
        ("ssm_norm.weight", (inner, 1)),
    )


def granitehybrid(i: int) -> Tensors:
    yield from (*granite_mixer(i), *(entry for entry in dense(i) if "norm" not in entry[0]))


def granitehybridmoe(i: int) -> Tensors:
    yield from (*granite_mixer(i), *experts(WIDTH, EXPERTS, EXPERT_FFN, 2 * EXPERT_FFN))


def gemma3n(i: int) -> Tensors:
    """Wide states four times over; layers from the 21st on have no cache."""
    yield from dense(i)
    yield from attention(i)
    yield from (("post_attention_norm.weight", (WIDTH,)), ("post_ffw_norm.weight", (WIDTH,)))
    yield from (("inp_gate.weight", (WIDTH, 256)), ("proj.weight", (256, WIDTH)), ("post_norm.weight", (WIDTH,)))
    yield from (("altup_correct_coef.weight", (4, 4)), ("altup_correct_scale.weight", (WIDTH,)))
    yield from (("altup_predict_coef.weight", (4, 16)), ("altup_router.weight", (WIDTH, 4)))
    yield from (("altup_router_norm.weight", (WIDTH,)), ("laurel_l.weight", (WIDTH, 64)))
    yield from (("laurel_r.weight", (64, WIDTH)), ("laurel_post_norm.weight", (WIDTH,)))


def gemma3n_tables(n_layer: int) -> Tensors:
    yield from (("altup_proj.weight", (WIDTH, WIDTH, 3)), ("altup_unembd_proj.weight", (WIDTH, WIDTH, 3)))
    yield from per_layer_tables(n_layer)


def gemma4_tables(n_layer: int) -> Tensors:
    yield from (FREQS, *per_layer_tables(n_layer))


def per_layer_tables(n_layer: int) -> Tensors:
    yield "per_layer_token_embd.weight", (256 * n_layer, VOCAB)
    yield from (("per_layer_model_proj.weight", (WIDTH, 256 * n_layer)), ("per_layer_proj_norm.weight", (256,)))


def gemma4_attention(i: int, kv_heads: int, *, values: bool = True) -> Tensors:
    """Heads of layers that attend to everything are twice as wide. What shares a cache keeps its projections."""
    dim = 2 * DIM if i % 4 == 3 else DIM
    yield from (("attn_q.weight", (WIDTH, HEADS * dim)), ("attn_output.weight", (HEADS * dim, WIDTH)))
    yield "attn_q_norm.weight", (dim,)
    yield from (("attn_k.weight", (WIDTH, kv_heads * dim)), ("attn_k_norm.weight", (dim,)))
    if values:
        yield "attn_v.weight", (WIDTH, kv_heads * dim)
    yield from (("post_attention_norm.weight", (WIDTH,)), ("post_ffw_norm.weight", (WIDTH,)))
    yield "layer_output_scale.weight", (1,)


def gemma4(i: int) -> Tensors:
    yield from (*gemma4_attention(i, KV_HEADS), *dense(i))
    yield from (("inp_gate.weight", (WIDTH, 256)), ("proj.weight", (256, WIDTH)), ("post_norm.weight", (WIDTH,)))


def gemma4moe(i: int) -> Tensors:
    """The network beside routed experts is dense; global layers have fewer heads of keys, which are their values."""
    yield from gemma4_attention(i, 2 if i % 4 == 3 else KV_HEADS, values=i % 4 != 3)
    yield from dense(i)
    for name in ("post_ffw_norm_1", "post_ffw_norm_2", "pre_ffw_norm_2"):
        yield f"{name}.weight", (WIDTH,)
    yield from (("ffn_gate_inp.weight", (WIDTH, EXPERTS)), ("ffn_gate_inp.scale", (WIDTH,)))
    yield "ffn_down_exps.scale", (EXPERTS,)
    yield "ffn_gate_up_exps.weight", (WIDTH, 2 * EXPERT_FFN, EXPERTS)
    yield "ffn_down_exps.weight", (EXPERT_FFN, WIDTH, EXPERTS)


TABLES = {"gemma3n": gemma3n_tables, "gemma4": gemma4_tables, "gemma4moe": lambda _: iter([FREQS])}
FREQS = ("rope_freqs.weight", (DIM,))
MIXTURE = {"expert_count": EXPERTS, "expert_used_count": USED, "expert_feed_forward_length": EXPERT_FFN}
LATENT = {
    "attention.head_count_kv": 1, "attention.q_lora_rank": 768, "attention.kv_lora_rank": 512,
    "attention.key_length": 576, "attention.value_length": 512, "attention.key_length_mla": 192,
    "attention.value_length_mla": 128, "rope.dimension_count": 64, "expert_shared_count": 2,
}  # fmt: skip
MIXER = {
    "ssm.conv_kernel": 4, "ssm.inner_size": 2 * WIDTH, "ssm.state_size": 128, "ssm.time_step_rank": WIDTH // 32,
    "ssm.group_count": 1, "attention.head_count_kv": [KV_HEADS * (i % 4 == 3) for i in range(LAYERS)],
}  # fmt: skip
WINDOWS = {
    "attention.sliding_window": 1024, "attention.sliding_window_pattern": [int(i % 4 != 3) for i in range(LAYERS)],
    "attention.key_length": 2 * DIM, "attention.value_length": 2 * DIM, "attention.key_length_swa": DIM,
    "attention.value_length_swa": DIM, "rope.dimension_count": 2 * DIM, "rope.dimension_count_swa": DIM,
}  # fmt: skip
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
        LATENT
        | {"leading_dense_block_count": LAYERS, "expert_feed_forward_length": EXPERT_FFN}
        | {"expert_count": 0, "expert_used_count": 0},
    ),
    "deepseek2moe": (deepseek2moe, LATENT | MIXTURE | {"leading_dense_block_count": 1}),
    "glm4moe": (
        glm4moe,
        MIXTURE
        | {"leading_dense_block_count": 1, "expert_shared_count": 1, "nextn_predict_layers": 1}
        | {"block_count": LAYERS + 1},
    ),
    "glm4": (glm4, {}),
    "granitehybrid": (granitehybrid, MIXER),
    "granitehybridmoe": (
        granitehybridmoe,
        MIXER | MIXTURE | {"feed_forward_length": EXPERT_FFN, "expert_shared_feed_forward_length": 2 * EXPERT_FFN},
    ),
    "gemma3n": (gemma3n, {"attention.sliding_window": 512, "block_count": 24}),
    "gemma4": (gemma4, WINDOWS | {"attention.shared_kv_layers": 4, "embedding_length_per_layer_input": 256}),
    "gemma4moe": (
        gemma4moe,
        WINDOWS
        | MIXTURE
        | {"embedding_length_per_layer_input": 0}
        | {"attention.head_count_kv": [2 if i % 4 == 3 else KV_HEADS for i in range(LAYERS)]},
    ),
}


KEPT = (
    "ssm_a",
    "ssm_d",
    "ssm_norm.weight",
    "ffn_gate_inp.weight",
    "altup_correct_coef.weight",
    "altup_predict_coef.weight",
)


def sparse(arch: str, path: Path) -> Path:
    """A model whose header is whole and whose data takes no disk. `arch`: of `KINDS`; "moe" sets mixtures apart."""
    layer, changed = KINDS[arch]
    tables = TABLES.get(arch)
    arch = arch if arch in ("qwen3moe", "glm4moe") else arch.removesuffix("moe")
    n_layer = (KEYS | changed)["block_count"]
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
    named += tables(n_layer) if tables else []
    named += [(f"blk.{i}.{name}", dims) for i in range(n_layer) for name, dims in layer(i)]
    tensors = []
    for name, dims in named:
        exact = len(dims) == 1 or name.endswith(KEPT) or ("conv" in name and "proj" not in name)
        n_bytes = math.prod(dims) * (4 if exact else 2)
        tensors.append(gw.Tensor(name, dims, gw.F32 if exact else gw.F16, n_bytes))
    header = gw.Gguf(keys=keys, tensors=tensors).header()
    with open(path, "wb") as file:
        file.write(header)
        file.truncate(len(header) + 64 + sum(-(-tensor.n_bytes // 32) * 32 for tensor in tensors))
    return path
