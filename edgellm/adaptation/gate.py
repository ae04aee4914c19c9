"""Statistics of the gate: pure functions of scores, with intervals that keep their promise on small samples.

Sources: E. B. Wilson, JASA 22 (1927), 209; R. G. Newcombe, Statistics in Medicine 17 (1998), 2635, method 10 (paired
differences of proportions); Q. McNemar, Psychometrika 12 (1947), 153, with the exact binomial distribution;
B. Efron and R. Tibshirani, An Introduction to the Bootstrap (1993), ch. 13 (percentiles, pairs drawn together).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import NormalDist

import numpy as np
import numpy.typing as npt

from edgellm.types.tuning_gate import Forgetting, PairedGain, ShuffledControl

LEVEL = 0.95
FORGETS_ABOVE = 1.02  # perplexity of general text, in those before
_DRAWS = 10_000
_DRAWN_AT_ONCE = 4_000_000  # numbers

Scores = npt.NDArray[np.float64]


def accuracy_gain(before: Sequence[bool], after: Sequence[bool], *, level: float = LEVEL) -> PairedGain:
    """`before`, `after`: whether each row was answered rightly. At least one row."""
    pairs = list(zip(before, after, strict=True))
    both, lost, won = (sum(pair == kind for pair in pairs) for kind in ((True, True), (True, False), (False, True)))
    n = len(pairs)
    low, high = _newcombe(both, won, lost, n - both - won - lost, level)
    return PairedGain(
        measure="accuracy",
        n_rows=n,
        before=(both + lost) / n,
        after=(both + won) / n,
        gain=(won - lost) / n,
        low=low,
        high=high,
        level=level,
        p=mcnemar(won, lost),
    )


def mcnemar(won: int, lost: int) -> float:
    """Two-sided: how likely so uneven a split of the rows that changed is where neither way is likelier."""
    n, less = won + lost, min(won, lost)
    return min(1.0, 2 * sum(math.comb(n, k) for k in range(less + 1)) / (1 << n))


def wilson(successes: int, n: int, level: float = LEVEL) -> tuple[float, float]:
    """Interval of a share."""
    z, share = _z(level), successes / n
    middle = share + z * z / (2 * n)
    reach = z * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    scale = 1 + z * z / n
    return max(0.0, (middle - reach) / scale), min(1.0, (middle + reach) / scale)


def _newcombe(both: int, won: int, lost: int, neither: int, level: float) -> tuple[float, float]:
    """Interval of the share after less the share before."""
    n = both + won + lost + neither
    after, before = (both + won) / n, (both + lost) / n
    (after_low, after_high), (before_low, before_high) = (wilson(both + k, n, level) for k in (won, lost))
    product = (both + won) * (lost + neither) * (both + lost) * (won + neither)
    uneven = both * neither - won * lost
    phi = (max(uneven - n / 2, 0) if uneven > 0 else uneven) / math.sqrt(product) if product else 0.0

    def reach(a: float, b: float) -> float:
        return math.sqrt(max(0.0, a * a - 2 * phi * a * b + b * b))

    gain = after - before
    low = gain - reach(after - after_low, before_high - before)
    return low, gain + reach(after_high - after, before - before_low)


def loss_gain(
    before: Sequence[float], after: Sequence[float], n_tokens: Sequence[int], *, seed: int = 0, level: float = LEVEL
) -> PairedGain:
    """`before`, `after`: nats of each row, all its supervised tokens together; `n_tokens`: how many these are."""
    first, second, counts = (np.asarray(values, np.float64) for values in (before, after, n_tokens))
    low, high = _bootstrap(first - second, counts, seed, level)
    total = counts.sum()
    return PairedGain(
        measure="loss",
        n_rows=len(counts),
        before=float(first.sum() / total),
        after=float(second.sum() / total),
        gain=float((first - second).sum() / total),
        low=low,
        high=high,
        level=level,
    )


def forgetting(
    before: Sequence[float], after: Sequence[float], n_tokens: Sequence[int], *, seed: int = 0, level: float = LEVEL
) -> Forgetting:
    """As `loss_gain`, for pieces of text that have nothing to do with the task."""
    loss = loss_gain(before, after, n_tokens, seed=seed, level=level)
    return Forgetting(
        n_tokens=sum(n_tokens),
        before=_exp(loss.before),
        after=_exp(loss.after),
        low=_exp(-loss.high),
        high=_exp(-loss.low),
        allowed=FORGETS_ABOVE,
    )


def _exp(value: float) -> float:
    """JSON has no infinity."""
    return math.exp(min(value, 700.0))


def _bootstrap(differences: Scores, counts: Scores, seed: int, level: float) -> tuple[float, float]:
    """Percentiles of the sum of differences over the sum of counts, where rows are drawn with replacement."""
    random, n = np.random.Generator(np.random.PCG64(seed)), len(counts)
    at_once = max(1, _DRAWN_AT_ONCE // n)
    ratios: list[Scores] = []
    for begin in range(0, _DRAWS, at_once):
        rows = random.integers(n, size=(min(at_once, _DRAWS - begin), n))
        ratios.append(differences[rows].sum(axis=1) / counts[rows].sum(axis=1))
    low, high = np.quantile(np.concatenate(ratios), [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def shuffled_control(
    answers: Sequence[str],
    dealt: Sequence[str],
    classes: Sequence[str] | None = None,
    *,
    seed: int = 0,
    level: float = LEVEL,
) -> ShuffledControl:
    """A permutation test: how often would the same answers be those that were dealt, had these been dealt otherwise?

    Args:
        answers: of a model that learned shuffled answers, to questions that it did not learn.
        dealt: what was dealt to these questions. Who has not seen them with it cannot tell it.
        classes: of the questions, each of which got even shares of all answers; None = they were dealt among all.
    """
    labels = (answers, dealt, classes or [""] * len(dealt))
    said, wanted, strata = np.unique(labels, return_inverse=True)[1].reshape(3, -1)
    random = np.random.Generator(np.random.PCG64(seed))
    by_class = np.argsort(strata, kind="stable")
    said, wanted, strata = said[by_class], wanted[by_class], strata[by_class]

    def dealt_otherwise() -> float:
        return float((said == wanted[np.lexsort((random.random(len(wanted)), strata))]).mean())

    shares = [dealt_otherwise() for _ in range(_DRAWS // 5)]
    low, high = np.quantile(shares, [(1 - level) / 2, (1 + level) / 2])
    return ShuffledControl(
        n_rows=len(wanted),
        accuracy=float((said == wanted).mean()),
        chance=float(np.mean(shares)),
        low=float(low),
        high=float(high),
    )


def _z(level: float) -> float:
    return NormalDist().inv_cdf((1 + level) / 2)
