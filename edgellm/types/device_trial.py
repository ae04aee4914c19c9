"""How fast a GPU ran a small random model: what `edgellm calibrate --device` measures."""

from __future__ import annotations

from msgspec import Struct


class DeviceTrial(Struct, frozen=True):
    """One llama with tied embeddings, whose matrices are all of one type. Rates in tokens per second."""

    type: str  # of its tensors: "Q4_K"
    n_bytes: int  # of them
    layers: int
    width: int
    ffn: int
    n_head: int
    n_head_kv: int
    head_dim: int
    n_vocab: int
    decode_tok_s: float
    depth: int  # tokens cached
    prefill_tok_s: float
    tokens: int  # of the prompt
