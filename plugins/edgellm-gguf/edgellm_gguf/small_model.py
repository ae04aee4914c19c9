"""Small random llamas without a vocabulary, made here: to measure a layer, and to ask a library what it understood."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from edgellm.formats.gguf.ggml_types import BY_NAME
from edgellm.formats.gguf.writer import GgufWriter, TensorInfo, Value
from edgellm_gguf import kernels
from edgellm_gguf.kernels import Heads

TYPE = "Q3_K"  # of the matrices: limited by arithmetic, not by memory
VOCAB = 256


@dataclass(frozen=True, slots=True)
class Small:
    """Its sizes; `width`, `ffn` and the heads' are multiples of 256."""

    layers: int
    width: int
    ffn: int
    heads: Heads

    @property
    def weights(self) -> int:
        """Of a layer."""
        h = self.heads
        return self.width * h.head_dim * 2 * (h.n_head + h.n_head_kv) + 3 * self.width * self.ffn

    @property
    def rows(self) -> int:
        """Of all matrices of a layer."""
        h = self.heads
        return h.head_dim * (h.n_head + 2 * h.n_head_kv) + 2 * self.width + 2 * self.ffn

    @property
    def activations(self) -> int:
        """As `edgellm.estimate.speed.activations` counts them."""
        return 6 * self.width + 3 * self.ffn + 3 * self.heads.head_dim * (self.heads.n_head + 2 * self.heads.n_head_kv)


def write(path: Path, model: Small, matrices: str = TYPE) -> None:
    """`matrices`: their type."""
    width, ffn, heads = model.width, model.ffn, model.heads
    q, kv = heads.n_head * heads.head_dim, heads.n_head_kv * heads.head_dim
    shapes = {"token_embd": (width, VOCAB), "output_norm": (width,)}
    layer = {
        "attn_norm": (width,), "ffn_norm": (width,), "attn_q": (width, q), "attn_k": (width, kv), "attn_v": (width, kv),
        "attn_output": (q, width), "ffn_gate": (width, ffn), "ffn_up": (width, ffn), "ffn_down": (ffn, width),
    }  # fmt: skip
    shapes |= {f"blk.{i}.{name}": dims for i in range(model.layers) for name, dims in layer.items()}
    kind, f32 = BY_NAME[matrices], BY_NAME["F32"]
    tensors = [TensorInfo(f"{name}.weight", dims, kind if len(dims) > 1 else f32) for name, dims in shapes.items()]
    metadata: dict[str, Value] = {
        "general.architecture": "llama",
        "llama.context_length": 2048,
        "llama.block_count": model.layers,
        "llama.embedding_length": width,
        "llama.feed_forward_length": ffn,
        "llama.attention.head_count": heads.n_head,
        "llama.attention.head_count_kv": heads.n_head_kv,
        "llama.attention.layer_norm_rms_epsilon": 1e-6,
        "llama.vocab_size": VOCAB,
        "tokenizer.ggml.model": "no_vocab",
    }
    data = kernels.sample(matrices, width)
    with GgufWriter(path, metadata, tensors) as writer:
        for tensor in tensors:
            vector = np.ones(tensor.dims, np.float32).view(np.uint8)
            content = vector if len(tensor.dims) == 1 else np.resize(data, tensor.n_bytes)
            writer.write(tensor.name, content.tobytes())
