"""How good a model is, and how much of that a quantization keeps: expected values with low and high ends.

The scale is MMLU-Pro without thinking, 0..100. Sources: docs/explain/quality.md (137 perplexity
rows, 33 MMLU-by-quant rows, Qwen2's vendor table, published model scores).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from functools import lru_cache

from msgspec import Struct

from edgellm.estimate import quants
from edgellm.estimate.small_row_mix import StoredMix
from edgellm.types.basis import (
    CacheLoss,
    EstimateBasis,
    Imputed,
    LossBasis,
    Losses,
    MeasuredDivergence,
    NativeType,
    PerplexityIncrease,
    PublishedScore,
    TrainedForCode,
    Unquantized,
)
from edgellm.types.model import THINKING_SCORE, ModelCard


class Estimate(Struct, frozen=True):
    mid: float
    low: float
    high: float
    basis: EstimateBasis


class Loss(Struct, frozen=True):
    """Increases of perplexity, percent."""

    mid: float
    best: float
    worst: float
    basis: LossBasis | None  # None = nothing is lost that was ever measured


# Perplexity increase in percent (middle, low, high over families) at the model sizes below; hand-set from the rows,
# interpolated where a size has none. Values of K-quants under 1B include the extra bits that short rows bring.
_SIZES_B = (0.5, 1.5, 3.5, 8.0, 13.5, 30.0, 70.0)
_PPL: dict[str, tuple[tuple[float, float, float], ...]] = {
    "Q8_0": ((0.3, 0, 0.5), (0.1, 0, 0.2), (0.05, 0, 0.2), (0.05, 0, 0.1), (0.05, 0, 0.1), (0.05, 0, 0.1),
             (0.03, 0, 0.1)),
    "Q6_K": ((0.5, 0.2, 1), (0.4, 0.1, 0.6), (0.3, 0.1, 0.5), (0.2, 0.05, 0.5), (0.15, 0.05, 0.3),
             (0.2, 0.05, 0.5), (0.3, 0.05, 0.5)),
    "Q5_K_M": ((1.9, 1, 3), (1.0, 0.6, 1.2), (0.8, 0.4, 1.2), (0.6, 0.2, 1.0), (0.4, 0.2, 0.8), (0.8, 0.5, 0.9),
             (0.8, 0.3, 1.3)),
    "Q4_K_M": ((2.5, 1.7, 5), (3.1, 2.5, 3.5), (2.3, 1.5, 3.2), (2.0, 0.9, 2.8), (1.5, 0.9, 2.5), (1.9, 1.3, 3.3),
             (2.5, 1.2, 4.8)),
    "Q4_K_S": ((3.2, 2.4, 5.5), (3.7, 3, 4), (2.8, 1.8, 3.7), (2.4, 1.5, 3.5), (1.9, 1.3, 3), (2.3, 1.6, 3.6),
             (3.0, 1.5, 6.2)),
    "IQ4_XS": ((4.6, 3.5, 6), (3.7, 3.3, 4), (2.8, 2.4, 3.8), (2.8, 1.3, 3.7), (2.0, 1.6, 3), (2.3, 1.2, 3),
             (3.3, 1.5, 7.1)),
    "Q4_0": ((9, 6, 13), (6.6, 5, 8), (5.5, 3, 8), (5, 2, 7.6), (3, 2, 5), (3, 2, 4), (4, 2, 8)),
    "Q3_K_M": ((6, 4.4, 12), (11, 9, 13), (8, 5, 12), (6.5, 3.5, 10.6), (6, 3.7, 9), (5.5, 5, 7.7), (8, 3, 19)),
    "IQ3_M": ((10, 7, 14), (12.4, 10, 14), (9, 7, 12), (8, 5, 10.7), (6, 5, 9), (8.6, 7, 9), (10, 5, 20)),
    "IQ3_XXS": ((20, 12, 40), (25, 15, 40), (20, 10, 30), (14, 6, 20), (11, 6, 18), (13, 8, 18), (18, 8, 40)),
    "Q2_K": ((40, 16, 80), (39.5, 30, 60), (30, 25, 45), (20, 14, 45), (20, 11, 27), (20.7, 15, 25), (25, 9, 69)),
    "IQ2_M": ((60, 21, 100), (52.5, 40, 70), (35, 29, 50), (25, 18, 40), (25, 18, 35), (21.9, 18, 30), (25, 15, 50)),
    "IQ2_XXS": ((150, 80, 300), (120, 80, 250), (90, 50, 150), (50, 35, 100), (45, 35, 80), (45.3, 35, 60),
             (50, 30, 136)),
}  # fmt: skip

# Increase that a family shows relative to the table: geometric mean over its models of the rows where the table has 1 %
# or more. llama3 from 8B, 70B, 3.1-8B and 3.2-3B (0.85 to 2.0), qwen2.5 from 0.5B to 32B (0.7 to 1.0), mistral from 7B
# and Nemo-12B (0.55 and 0.74). Gemma 2 contradicts itself (0.5 and 1.6); the others have one model or none.
_FAMILY = {"llama3": 1.3, "qwen2.5": 0.9, "mistral": 0.65}

# Perplexity increase in percent of a quantized cache, K and V alike: middle, least, most. q8_0: SmolLM2-135M 0.03 % (as
# KL, docs/benchmarks/log/regret.md), 8B +0.03 % (llama.cpp pull request 7412), a 35B-A3B +0.09 % at 8k. q4_0:
# SmolLM2-135M 6.4 % (as KL), Qwen3-0.6B +254 and Qwen3-8B +2.2 % (ik_llama.cpp issue 1509), Gemma-3-4B and two others
# keep 98.7 to 99.2 % of a benchmark (llama.cpp pull request 21551). Interpolated between the sizes.
_CACHE_SIZES_B = (0.14, 0.6, 4.0, 8.0)
_CACHE_PPL: dict[str, tuple[tuple[float, float, float], ...]] = {
    "q8_0": ((0.05, 0, 0.5), (0.05, 0, 0.5), (0.05, 0, 0.2), (0.05, 0, 0.1)),
    "q4_0": ((6.5, 3, 60), (6, 3, 254), (2.5, 0.5, 20), (1.5, 0.5, 3)),
}
# Families whose keys have a few large channels, which q4_0 spoils: the most that was seen is what to expect.
_CACHE_WORST = frozenset({"qwen3"})

# Tensor types by themselves, by the name of a mix that is nearly all of one.
_PURE = {"Q4_K": "Q4_K_S", "Q3_K": "Q3_K_S", "Q2_K": "Q2_K_S"}
# Types by themselves, in percent of an 8B model. Llama-3-8B lost 0.89 % in Q5_K_M, 1.66 in Q5_K_S, 1.68 in Q5_1 and
# 2.09 in Q5_0 (llama.cpp's perplexity README), the table's Q5_K_M at 8B is 0.6. Q4_0 and IQ4_NL cost models with short
# rows 1.5 times what the table's 8B column says, beside types of 5 bits: all three that were measured.
_ALONE = {"Q5_K": 1.1, "Q5_1": 1.1, "Q5_0": 1.35, "IQ4_NL": 4.0, "Q4_1": 5.6, "Q4_0": 7.5}
# What such losses are times at other sizes, by the weights of all matrices but tables: geometric means over what was
# measured here of SmolLM2-135M and Gemma 3 270M (4.7 and 5.8; as KL, docs/adr/029), over Qwen2.5-0.5B's rows,
# and over the other columns of the table. Mixes are met within a factor of 1.6 by it: half and twice are the ends.
_SHORT_SIZES_B = (0.103, 0.36, *_SIZES_B[1:])
_SHORT_LOSS = (5.2, 1.5, 1.5, 1.2, 1.0, 0.75, 0.9, 1.2)
_COLUMN_8B = 8 * 10**9
_SHORT_ENDS = (0.5, 2.0)

# Perplexity increase -> share of task ability lost, from Llama-3-8B's MMLU by quant (matt-c1, CC0).
_LOSS = ((0.0, 0.0), (0.2, 0.002), (0.6, 0.005), (2.0, 0.009), (2.8, 0.012), (6.5, 0.035), (8.0, 0.041), (14.0, 0.072),
         (25.0, 0.117), (50.0, 0.333), (150.0, 0.6), (900.0, 0.95))  # fmt: skip
# It costs a small model more: fitted to Qwen2's int4 losses (0.5B 10-14 %, 1.5B 4-7 %, 7B 4 %, 72B 0-1 %).
_SIZE_FACTOR = (2.6, 2.0, 1.6, 1.3, 1.0, 0.8, 0.4)

CHANCE = 10.0  # MMLU-Pro has ten options

# Score without thinking against log2 of billions of parameters, through gemma-3, llama-3.x, phi-4 (published).
_CURVE = ((-3.0, 10.2), (-1.5, 11.5), (-1.0, 13.0), (0.0, 17.0), (0.75, 26.0), (1.6, 39.0), (2.0, 44.0), (3.0, 52.0),
          (3.8, 62.0), (4.8, 67.5), (6.1, 70.0))  # fmt: skip
# What a thinking-mode score is worth without thinking: Qwen3-4B keeps 0.82, 30B-A3B 0.88 (vendor cards, from memory).
_WITHOUT_THINKING = (0.85, 0.7, 0.95)
# Half width of an imputed score: leave-one-out errors of the scored rows, see tests/estimate/test_quality.py.
_SPREAD_FAMILY, _SPREAD_NONE = 14.0, 20.0
_CARRIED_PER_DOUBLING = 0.75


def retention(
    quant: str, params: int, *, native: bool = False, family: str = "", short: StoredMix | None = None
) -> Estimate:
    """Share of the unquantized model's ability that `quant` keeps, 0..1; arguments as of `quant_loss`.

    Raises:
        UsageError: unknown quantization name.
    """
    return kept(params, quant_loss(quant, params, native=native, family=family, short=short))


@lru_cache(maxsize=4096)
def quant_loss(
    quant: str, params: int, *, native: bool = False, family: str = "", short: StoredMix | None = None
) -> Loss:
    """What a quantization loses.

    `native` models were trained in their type and lose nothing to it. A `family` whose losses were measured has them
    in the middle; the interval stays that over all families. `short` is what the weights of a model with short rows
    are stored in, which counts, and not the name.

    Raises:
        UsageError: unknown quantization name.
    """
    if native:
        return Loss(0.0, 0.0, 0.0, NativeType())
    row, factor = quants.find(quant).like
    if not row:
        return Loss(0.0, 0.0, 0.0, Unquantized())
    mid, best, worst = (value * factor for value in _increase(row, params))
    if short:
        mid, best, worst = _of_types(short)
    own = _FAMILY.get(family, 1.0)
    if own == 1.0:
        return Loss(mid, best, worst, PerplexityIncrease(mid, bool(short)))
    mid = min(max(mid * own, best), worst)
    return Loss(mid, best, worst, PerplexityIncrease(mid, bool(short), family, own))


def _increase(row: str, params: int) -> tuple[float, float, float]:
    mid, best, worst = (_at_size(params, _SIZES_B, column) for column in zip(*_PPL[row], strict=True))
    return mid, best, worst


def _of_types(short: StoredMix) -> tuple[float, float, float]:
    """Increase of a mix as the mean of those of its types, by weights: middle, least, most."""
    alone = sum(_alone(kind) * n for kind, n in short.types) / sum(n for _, n in short.types)
    mid = alone * _at_size(short.body, _SHORT_SIZES_B, _SHORT_LOSS)
    return mid, mid * _SHORT_ENDS[0], mid * _SHORT_ENDS[1]


def _alone(kind: str) -> float:
    """Increase of an 8B model with all weights in one type of tensors."""
    mix = quants.QUANTS.get(_PURE.get(kind, kind))
    row, factor = mix.like if mix is not None else ("", 0.0)
    return _ALONE.get(kind) or (_increase(row, _COLUMN_8B)[0] * factor if row else 0.0)


def cache_retention(kv_type: str, params: int, family: str = "") -> Estimate:
    """Share of the ability that is left with a cache in `kv_type`, 0..1."""
    return kept(params, cache_loss(kv_type, params, family))


@lru_cache(maxsize=1024)
def cache_loss(kv_type: str, params: int, family: str = "") -> Loss:
    """What a cache in `kv_type` loses; f32 loses nothing, f16 nothing that was ever measured."""
    if kv_type in ("f32", "f16"):
        return Loss(0.0, 0.0, 0.0, None)
    mid, best, worst = (_at_size(params, _CACHE_SIZES_B, column) for column in zip(*_CACHE_PPL[kv_type], strict=True))
    if kv_type == "q4_0" and family in _CACHE_WORST:
        mid = worst
    return Loss(mid, best, worst, CacheLoss(kv_type, mid))


def checked_loss(mean_kl: float) -> Loss:
    """What a measured KL divergence to the unquantized model says, as a perplexity increase of it."""
    increase = 100 * math.expm1(mean_kl)
    return Loss(increase, increase * 0.7, increase * 1.4, MeasuredDivergence(mean_kl))


def _at_size(params: int, sizes_b: Sequence[float], values: Sequence[float]) -> float:
    """A value at a number of parameters, on lines over the logarithms of `sizes_b`, in billions."""
    points = [(math.log2(size), value) for size, value in zip(sizes_b, values, strict=True)]
    return _interpolate(math.log2(max(params, 1) / 1e9), points)


@lru_cache(maxsize=4096)
def kept(params: int, *losses: Loss) -> Estimate:
    """What is left of the ability of a model of that size after all of `losses`: their divergences add up.

    SmolLM2-135M: weights in Q5_K_M 0.035 nats, a q4_0 cache 0.051, both 0.086 (docs/adr/027).
    """
    scale = _at_size(params, _SIZES_B, _SIZE_FACTOR)
    shares = []
    for ends in zip(*((loss.mid, loss.worst, loss.best) for loss in losses), strict=True):
        increase = 100 * (math.prod(1 + value / 100 for value in ends) - 1)
        shares.append(max(0.02, 1.0 - scale * _interpolate(increase, _LOSS)))
    mid, low, high = shares
    return Estimate(mid, low, high, Losses(tuple(loss.basis for loss in losses if loss.basis is not None)))


def ability(
    card: ModelCard, scored: Mapping[str, ModelCard] | None = None, task: str = "chat", *, thinks: bool = False
) -> Estimate:
    """Expected score of the unquantized model on the MMLU-Pro scale, answering without long thinking.

    With `thinks`, a score that was published with thinking counts as it is; nothing is added to others.
    Published scores are taken, converted where the benchmark is another one; a model without any gets the size curve,
    shifted by its family's scored models (`scored`, by id), and a wide interval. No benchmark of code is in the
    sources, so a model trained for code counts 10 % more for that task and 10 % less for others (an assumption).
    """
    general = _general_ability(card, scored or {}, thinks)
    if "coder" not in card.id:
        return general
    factor = 1.1 if task == "code" else 0.9
    mid, low, high = (min(95.0, value * factor) for value in (general.mid, general.low, general.high))
    assert isinstance(general.basis, PublishedScore | Imputed)
    return Estimate(mid, low, high, TrainedForCode(factor, general.basis))


def _general_ability(card: ModelCard, scored: Mapping[str, ModelCard], thinks: bool) -> Estimate:
    if thinks and (score := card.scores.get(THINKING_SCORE)) is not None:
        return _bounded(score, 3.0, PublishedScore(THINKING_SCORE, score))
    published = _published(card.scores)
    if published is not None:
        return published
    size = _log_size(card)
    base = _interpolate(size, _CURVE)
    sibling = _nearest_sibling(card, scored)
    if sibling is not None:
        other, published_ability = sibling
        shift = _logit(published_ability.mid) - _logit(_interpolate(_log_size(other), _CURVE))
        # What a family gained at one size carries over less, the further the sizes are apart.
        shift *= _CARRIED_PER_DOUBLING ** abs(_log_size(other) - size)
        mid = _unlogit(_logit(base) + shift)
        return _bounded(mid, _SPREAD_FAMILY, Imputed(other.id))
    mid = base * (0.8 if card.native_quant in ("I2_S", "TQ1_0", "TQ2_0") else 1.0)
    return _bounded(mid, _SPREAD_NONE, Imputed())


def _published(scores: Mapping[str, float]) -> Estimate | None:
    if "MMLU-Pro" in scores:
        return _bounded(scores["MMLU-Pro"], 3.0, PublishedScore("MMLU-Pro", scores["MMLU-Pro"]))
    if (score := scores.get(THINKING_SCORE)) is not None:
        mid, low, high = (score * f for f in _WITHOUT_THINKING)
        return Estimate(mid, low, high, PublishedScore("MMLU-Pro", score, "without_thinking", mid))
    if "MMLU" in scores:
        # A line through models with both scores (llama-3.x, phi-4): MMLU-Pro = 1.4 MMLU - 48.6, within 6 points.
        mid = 1.4 * scores["MMLU"] - 48.6
        return _bounded(mid, 7.0, PublishedScore("MMLU", scores["MMLU"], "line", mid))
    if "PrismML 6-task avg" in scores:
        # One anchor, Qwen3-8B: vendor mean 79.3 beside about 60 here.
        score = scores["PrismML 6-task avg"]
        return _bounded(0.75 * score, 12.0, PublishedScore("PrismML 6-task avg", score, "one_anchor", 0.75 * score))
    return None


def _nearest_sibling(card: ModelCard, scored: Mapping[str, ModelCard]) -> tuple[ModelCard, Estimate] | None:
    family = [other for other in scored.values() if other.family == card.family and other.id != card.id]
    siblings = [(other, ability) for other in family if (ability := _published(other.scores)) is not None]
    return min(siblings, key=lambda item: (abs(_log_size(item[0]) - _log_size(card)), item[0].id), default=None)


def _log_size(card: ModelCard) -> float:
    """log2 of billions of parameters; a mixture of experts counts as the geometric mean of all and active."""
    return math.log2(math.sqrt(max(card.params, 1) * max(card.params_active, 1)) / 1e9)


def _bounded(mid: float, half: float, basis: PublishedScore | Imputed) -> Estimate:
    mid = min(max(mid, CHANCE), 95.0)
    return Estimate(mid, max(CHANCE * 0.9, mid - half), min(95.0, mid + half), basis)


def _logit(score: float) -> float:
    share = min(max((score - CHANCE + 1.0) / 85.0, 0.005), 0.99)
    return math.log(share / (1 - share))


def _unlogit(value: float) -> float:
    return 85.0 / (1 + math.exp(-value)) + CHANCE - 1.0


def _interpolate(x: float, points: Sequence[tuple[float, float]]) -> float:
    if x <= points[0][0]:
        return points[0][1]
    for (x0, y0), (x1, y1) in itertools.pairwise(points):
        if x <= x1:
            return y0 + (y1 - y0) * (x - x0) / (x1 - x0)
    return points[-1][1]
