"""A llama of two layers with random weights in F32, which llama.cpp loads, and what it computes with an adapter."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from edgellm.formats.gguf.ggml_types import BY_NAME
from edgellm.formats.gguf.writer import GgufWriter, TensorInfo, Value

LAYERS, WIDTH, FFN, VOCAB, HEADS, KV_HEADS = 2, 64, 96, 48, 4, 2
TOKENS = (1, 7, 3, 40, 12, 12, 30, 2)
F32 = BY_NAME["F32"]


def toy_weights(*, tied: bool = False, seed: int = 0) -> dict[str, np.ndarray]:
    """By tensor, slowest dimension first."""
    rng = np.random.default_rng(seed)
    head = WIDTH // HEADS
    shapes: dict[str, tuple[int, ...]] = {"token_embd.weight": (VOCAB, WIDTH), "output_norm.weight": (WIDTH,)}
    shapes |= {} if tied else {"output.weight": (VOCAB, WIDTH)}
    for layer in range(LAYERS):
        block = {
            "attn_norm": (WIDTH,), "attn_q": (WIDTH, WIDTH), "attn_k": (KV_HEADS * head, WIDTH),
            "attn_v": (KV_HEADS * head, WIDTH), "attn_output": (WIDTH, WIDTH), "ffn_norm": (WIDTH,),
            "ffn_gate": (FFN, WIDTH), "ffn_up": (FFN, WIDTH), "ffn_down": (WIDTH, FFN),
        }  # fmt: skip
        shapes |= {f"blk.{layer}.{name}.weight": shape for name, shape in block.items()}
    return {
        name: (np.ones(shape) if "norm" in name else rng.normal(0, shape[-1] ** -0.5, shape)).astype(np.float32)
        for name, shape in shapes.items()
    }


def write_toy(path: Path, weights: Mapping[str, np.ndarray]) -> Path:
    keys: dict[str, Value] = {
        "general.architecture": "llama", "general.file_type": 0, "tokenizer.ggml.model": "no_vocab",
        "llama.block_count": LAYERS, "llama.context_length": 256, "llama.embedding_length": WIDTH,
        "llama.feed_forward_length": FFN, "llama.attention.head_count": HEADS,
        "llama.attention.head_count_kv": KV_HEADS, "llama.vocab_size": VOCAB,
        "llama.rope.dimension_count": WIDTH // HEADS, "llama.attention.layer_norm_rms_epsilon": 1e-5,
    }  # fmt: skip
    tensors = [TensorInfo(name, values.shape[::-1], F32) for name, values in weights.items()]
    with GgufWriter(path, keys, tensors) as writer:
        for name, values in weights.items():
            writer.write(name, np.ascontiguousarray(values).tobytes())
    return path


_NATIVE = """
import json, sys
import numpy as np
import edgellm_gguf.engine, llama_cpp

jobs = json.load(sys.stdin)
answers = []
for model_path, adapters, tokens in jobs:
    model = llama_cpp.llama_model_load_from_file(model_path.encode(), llama_cpp.llama_model_default_params())
    assert model, "not loaded"
    params = llama_cpp.llama_context_default_params()
    params.n_ctx, params.n_threads, params.n_threads_batch = 64, 1, 1
    # In F32 throughout: what rounding of a cache adds is no part of what is compared.
    params.type_k = params.type_v = params.flash_attn_type = 0
    context = llama_cpp.llama_init_from_model(model, params)
    loaded = [llama_cpp.llama_adapter_lora_init(model, path.encode()) for path, _ in adapters]
    if not all(loaded):
        answers.append(None)
        continue
    if loaded:
        kinds = (llama_cpp.llama_adapter_lora_p_ctypes * len(loaded))(*loaded)
        scales = (llama_cpp.ctypes.c_float * len(loaded))(*(scale for _, scale in adapters))
        assert llama_cpp.llama_set_adapters_lora(context, kinds, len(loaded), scales) == 0
    batch = llama_cpp.llama_batch_init(len(tokens), 0, 1)
    batch.n_tokens = len(tokens)
    for i, token in enumerate(tokens):
        batch.token[i], batch.pos[i], batch.n_seq_id[i], batch.seq_id[i][0], batch.logits[i] = token, i, 1, 0, 1
    assert llama_cpp.llama_decode(context, batch) == 0
    n_vocab = llama_cpp.llama_vocab_n_tokens(llama_cpp.llama_model_get_vocab(model))
    rows = [llama_cpp.llama_get_logits_ith(context, i)[:n_vocab] for i in range(len(tokens))]
    answers.append(rows)
print("ANSWERS" + json.dumps(answers))
"""


def native_logits(
    jobs: Sequence[tuple[Path, Sequence[tuple[Path, float]]]], tokens: Sequence[int] = TOKENS
) -> list[np.ndarray | None]:
    """For each (model, [(adapter, scale)]), llama.cpp's logits (tokens, vocabulary) in a process of its own.

    None = the adapter was refused.
    """
    question: list[Any] = [
        (str(model), [(str(path), scale) for path, scale in adapters], list(tokens)) for model, adapters in jobs
    ]
    run = subprocess.run([sys.executable, "-c", _NATIVE], input=json.dumps(question), capture_output=True, text=True)
    assert run.returncode == 0, run.stderr[-2000:]
    answers = json.loads(run.stdout.partition("ANSWERS")[2])
    return [None if rows is None else np.asarray(rows) for rows in answers]
