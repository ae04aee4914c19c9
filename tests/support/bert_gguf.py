"""A small random BERT as a GGUF file, as llama.cpp's converter writes one."""

from __future__ import annotations

from pathlib import Path

from edgellm.formats.gguf.ggml_types import BY_NAME
from edgellm.formats.gguf.writer import GgufWriter, TensorInfo, Typed
from support.tiny_bert import SPECIAL, WORDS, TinyBert

POOLING = {"mean": 1, "cls": 2, "last": 3}
NAMES = {
    "embeddings.word_embeddings": "token_embd", "embeddings.position_embeddings": "position_embd",
    "embeddings.token_type_embeddings": "token_types", "embeddings.LayerNorm": "token_embd_norm",
    "attention.self.query": "attn_q", "attention.self.key": "attn_k", "attention.self.value": "attn_v",
    "attention.output.dense": "attn_output", "attention.output.LayerNorm": "attn_output_norm",
    "intermediate.dense": "ffn_up", "output.dense": "ffn_down", "output.LayerNorm": "layer_output_norm",
}  # fmt: skip


def _gguf_name(name: str) -> str:
    head, _, part = name.rpartition(".")
    layer = ""
    if head.startswith("encoder.layer."):
        _, _, number, head = head.split(".", 3)
        layer = f"blk.{number}."
    return f"{layer}{NAMES[head]}.{part}"


def write(bert: TinyBert, path: Path, pooling: str) -> Path:
    """Word beginnings are marked, pieces are not."""
    texts = [
        text[2:] if text.startswith("##") else text if text in SPECIAL else f"\u2581{text}"
        for text in (*SPECIAL, *WORDS)
    ]
    keys = {
        "general.architecture": "bert", "bert.context_length": bert.positions, "bert.embedding_length": bert.width,
        "bert.block_count": bert.layers, "bert.feed_forward_length": bert.n_ff,
        "bert.attention.head_count": bert.heads, "bert.attention.layer_norm_epsilon": 1e-12,
        "bert.attention.causal": False, "bert.pooling_type": POOLING[pooling],
        "tokenizer.ggml.model": "bert", "tokenizer.ggml.tokens": texts, "tokenizer.ggml.token_type_count": 2,
        "tokenizer.ggml.token_type": Typed("i32", [3 if text in SPECIAL else 1 for text in texts]),
        "tokenizer.ggml.bos_token_id": 2, "tokenizer.ggml.cls_token_id": 2, "tokenizer.ggml.eos_token_id": 3,
        "tokenizer.ggml.seperator_token_id": 3, "tokenizer.ggml.unknown_token_id": 1,
        "tokenizer.ggml.padding_token_id": 0,
    }  # fmt: skip
    tensors = {_gguf_name(name): data for name, data in bert.weights.items() if not name.startswith("pooler")}
    infos = [TensorInfo(name, data.shape[::-1], BY_NAME["F32"]) for name, data in tensors.items()]
    with GgufWriter(path, keys, infos, replace=True) as file:
        for name, data in tensors.items():
            file.write(name, data.tobytes())
    return path
