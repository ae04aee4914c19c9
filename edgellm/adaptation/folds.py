"""Other methods as plain LoRA, exactly: what an adapter's file can say is one alpha, and a rank of each pair.

Sources: rsLoRA 2312.03732, VeRA 2310.11454, Delta-LoRA 2309.02411, whose updates of the base telescope:
the sum over steps K..T-1 of l s (B' A' - B A) is l s (B_T A_T - B_K A_K), so it is a product of twice the rank.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping

import numpy as np

from edgellm.adaptation.lora import Floats, LoraFactors


def rslora_alpha(alpha: float, rank: int) -> float:
    """alpha / sqrt(rank) is what this is over rank."""
    return alpha * math.sqrt(rank)


def vera(shared_a: Floats, shared_b: Floats, d: Floats, b: Floats, n_in: int) -> LoraFactors:
    """diag(b) B diag(d) A, scale 1. `shared_a` (rank, most in), `shared_b` (most out, rank), d (rank,), b (out,).

    A stays a part of `shared_a`, so only half of the factors take memory.
    """
    folded = b[:, None] * shared_b[: len(b)]
    folded *= d
    return LoraFactors(shared_a[:, :n_in], folded)


def delta(end: LoraFactors, start: LoraFactors, share: float) -> LoraFactors:
    """(1 + share) B A - share B' A', where the pair marked is that of the step at which the base began to move.

    Its rank is twice theirs, so alpha must be, too.
    """
    b = np.concatenate([(1 + share) * end.b, -share * start.b], axis=-1, dtype=np.float32)
    return LoraFactors(np.concatenate([end.a, start.a], axis=-2), b)


def one_alpha(
    factors: Mapping[str, LoraFactors], scales: Mapping[str, float]
) -> tuple[float, dict[str, LoraFactors], bool]:
    """(alpha, factors, whether any was changed): the same products where each pair has a scale of its own.

    Nothing is changed where one alpha, or none, gives all scales; else B of the fewest pairs is.
    """
    alphas = {name: float(np.float32(scales[name] * pair.rank)) for name, pair in factors.items()}
    if len(set(alphas.values())) > 1 and all(scale == 1.0 for scale in scales.values()):
        return 0.0, dict(factors), False
    (alpha, _), *_ = Counter(value for value in alphas.values() if value).most_common(1) or [(1.0, 0)]
    changed = {name: value / alpha for name, value in alphas.items() if value != alpha}
    scaled = {
        name: LoraFactors(pair.a, np.asarray(pair.b * changed[name], np.float32)) if name in changed else pair
        for name, pair in factors.items()
    }
    return alpha, scaled, bool(changed)
