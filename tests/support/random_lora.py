"""Factors with random values for a GGUF model's matrices, and what they add to them, by numpy in float64."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from edgellm.adaptation.lora import Lora, LoraFactors
from edgellm.formats.gguf.reader import GgufModel

LINEAR = ("attn_q", "attn_k", "attn_v", "attn_qkv", "attn_output", "ffn_gate", "ffn_up", "ffn_down")


def random_lora(
    model: GgufModel,
    *,
    rank: int = 4,
    alpha: float = 8.0,
    ranks: Mapping[str, int] | None = None,
    roles: Sequence[str] = LINEAR,
    size: float = 0.05,
    seed: int = 0,
    stored: str = "F32",
) -> Lora:
    """For each matrix of these roles. `ranks`: of some tensors by name, others have `rank`."""
    rng = np.random.default_rng(seed)
    factors = {}
    for tensor in model.tensors:
        role = tensor.name.removesuffix(".weight").rpartition(".")[2]
        if role in roles and len(tensor.dims) == 2:
            r = (ranks or {}).get(tensor.name, rank)
            a, b = rng.normal(0, size, (r, tensor.dims[0])), rng.normal(0, size, (tensor.dims[1], r))
            kind = np.float16 if stored == "F16" else np.float32
            factors[tensor.name] = LoraFactors(*(values.astype(kind).astype(np.float32) for values in (a, b)))
    return Lora(model.header.architecture, alpha, factors, stored)


def added(lora: Lora, name: str) -> np.ndarray:
    """float64 (out, in): what the factors add to a matrix."""
    pair = lora.factors[name]
    return lora.scale(name) * (pair.b.astype(np.float64) @ pair.a.astype(np.float64))


def same_bits(one: Lora, other: Lora) -> bool:
    """The same factors and scales, to the last bit and in one order."""
    pairs = [(one.factors[name], other.factors.get(name)) for name in one.factors]
    return (one.alpha, list(one.factors), one.invocation_tokens) == (
        other.alpha,
        list(other.factors),
        other.invocation_tokens,
    ) and all(p.a.tobytes() == q.a.tobytes() and p.b.tobytes() == q.b.tobytes() for p, q in pairs if q)
