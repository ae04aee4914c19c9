"""Draws the next token from a row of logits, over numpy, without sorting the vocabulary.

One random number per token and request, from the request's own generator: a seed gives the same text whatever else
runs beside it.
"""

from __future__ import annotations

import math
from collections import Counter, deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from edgellm.types.sampling import SamplerValues, Sampling

if TYPE_CHECKING:
    from edgellm.text.matcher import Matcher

LogitRow = npt.NDArray[np.float32]
Pick = Callable[[float], int]  # the token that a random number from 0 to 1 falls on

# Below this temperature the runner-up weighs nothing unless it equals the best, and 1 / temperature overflows soon.
COLDEST = 1e-6
BLOCK = 256  # weights summed at a time when one is picked
LOOKED_AT = 256  # of the likeliest tokens, where a grammar allows only some
BINS = 4096  # that keys are counted in
SORTED, NEAR = 1024, 1e-9  # so many keys are sorted in place of it, or those of a range so small
GROUP = 64  # weights of which only the largest is looked at when the k largest are sought
# Typical sampling sorts by surprise, where the least likely tokens come last: those below 1e-13 of the most likely one
# are left out. All of a 262,144-token vocabulary at that bound weighs 2.6e-8.
TYPICAL_CUTOFF = 1e-13


class NoNumbers(ValueError):
    """A row of logits holds NaN, or no finite value: the engine computed nonsense."""


@dataclass
class SameDraw:
    """What answers that differ in their seed alone have in common where they draw from one row."""

    pick: Pick | None = None  # of the first that drew


class Sampler:
    """The state of one request's sampling: its random numbers and the tokens that penalties look back on.

    What `sampling` leaves open is neutral.
    """

    def __init__(self, sampling: Sampling, prompt: Iterable[int] = ()) -> None:
        self._sampling = values = SamplerValues.of(sampling)
        self._random = np.random.Generator(np.random.PCG64(values.seed))
        self._repeats = values.repetition_penalty != 1.0
        self._counts = values.frequency_penalty != 0.0 or values.presence_penalty != 0.0
        window = None if values.penalty_last_n == -1 else values.penalty_last_n
        self._recent: deque[int] = deque(prompt if self._repeats else (), maxlen=window)
        self._generated: deque[int] = deque(maxlen=window)
        self._filters = bool(values.top_k or values.top_p < 1.0 or values.min_p > 0.0 or values.typical_p < 1.0)
        self._edits = bool(self._repeats or self._counts or values.logit_bias)
        self._is_cold = values.temperature < COLDEST

    def sample(self, row: LogitRow, matcher: Matcher | None = None, same: SameDraw | None = None) -> int:
        """The next token, of those that `matcher` allows. `row`: float32 (vocab_size,), read only.

        `same`: of all that draw the same, so that what is the same is computed once.

        Raises:
            NoNumbers. GrammarFailed: the matcher cannot tell what is allowed.
        """
        pick = (same and same.pick) or self._pick(row, matcher)
        if same is not None:
            same.pick = pick
        token = pick(0.0 if self._is_cold else self._random.random())
        self.accept(token)
        return token

    def accept(self, token: int) -> None:
        """`token` is the next, drawn or not: penalties look back on it."""
        if self._repeats:
            self._recent.append(token)
        if self._counts:
            self._generated.append(token)

    def repeat(self, token: int) -> None:
        """`token` was drawn elsewhere, by the same seed: what comes next is drawn as behind it."""
        if not self._is_cold:
            self._random.random()
        self.accept(token)

    def _allowed(self, row: LogitRow, matcher: Matcher) -> npt.NDArray[np.intp]:
        """The allowed tokens, or as many of the likeliest of them as can be drawn."""
        if (few := matcher.few()) is not None:
            return few
        k = 1 if self._is_cold else self._sampling.top_k
        if 0 < k <= LOOKED_AT < len(row):
            # Nearly always the likeliest tokens hold k allowed ones: exact, and the vocabulary is not gone through.
            likeliest = largest(row, LOOKED_AT)
            tokens = likeliest[matcher.allows(likeliest)][:k]
            if len(tokens) == k and math.isfinite(row[likeliest[0]]):
                return np.sort(tokens)
        return matcher.allowed()

    def _edited(self, row: LogitRow) -> LogitRow:
        """A copy with bias and penalties.

        Repetition penalty (Keskar et al. 2019, arXiv 1909.05858) over prompt and answer; frequency and presence as
        OpenAI defines them, over the answer.
        """
        sampling = self._sampling
        edited = row.copy()
        vocab = len(row)
        for token, bias in sampling.logit_bias:
            if token < vocab:
                edited[token] += bias
        if self._repeats:
            tokens = np.fromiter(set(self._recent), dtype=np.int64)
            values = edited[tokens]
            penalty = sampling.repetition_penalty
            edited[tokens] = np.where(values > 0, values / penalty, values * penalty)
        for token, count in Counter(self._generated).items():
            edited[token] -= sampling.frequency_penalty * count + sampling.presence_penalty
        return edited

    def _pick(self, row: LogitRow, matcher: Matcher | None) -> Pick:
        if self._edits:
            row = self._edited(row)
        tokens = None
        if matcher is not None:
            tokens = self._allowed(row, matcher)
            row = row[tokens]
        best = int(row.argmax())
        highest = float(row[best])
        if not math.isfinite(highest):
            raise NoNumbers(f"logits are not finite (maximum {highest} at token {best})")
        pick: Pick = (lambda _: best) if self._is_cold else self._pick_in(row, highest)
        return pick if tokens is None else lambda luck: int(tokens[pick(luck)])

    def _pick_in(self, row: LogitRow, best: float) -> Pick:
        sampling = self._sampling
        if not self._filters:
            return partial(_pick, self._weights(row, best))
        tokens, weights, total = self._shortlist(row, best)
        if sampling.typical_p < 1.0:
            keep = _typical(weights / total, sampling.typical_p)
            tokens, weights = tokens[keep], weights[keep]
            total = float(weights.sum())
        keep = np.full(len(tokens), True)
        if sampling.top_p < 1.0:
            keep = until(sampling.top_p * total, weights, -row[tokens].astype(np.float64))
        if sampling.min_p > 0.0:
            keep &= weights >= sampling.min_p * weights.max()
        tokens, bounds = tokens[keep], weights[keep].cumsum()
        return lambda luck: int(tokens[_pick_inside(bounds, luck * bounds[-1])])

    def _weights(self, row: LogitRow, best: float) -> LogitRow:
        """Probabilities up to a factor: the most likely token weighs 1."""
        weights = np.subtract(row, best)
        if self._sampling.temperature != 1.0:
            weights *= np.float32(1.0 / self._sampling.temperature)
        return np.exp(weights, out=weights)

    def _shortlist(self, row: LogitRow, best: float) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.float64], float]:
        """Tokens that the filters after top_k can keep, by number; their weights; the weight of all in play."""
        sampling = self._sampling
        if 0 < sampling.top_k <= len(row):
            tokens = _of_largest(row, sampling.top_k)
            values = np.exp((row[tokens].astype(np.float64) - best) / sampling.temperature)
            possible = values > np.finfo(np.float64).tiny  # one of the k largest may be forbidden
            return tokens[possible], values[possible], float(values.sum())
        weights = self._weights(row, best)
        if sampling.typical_p < 1.0:
            tokens = (weights >= TYPICAL_CUTOFF).nonzero()[0]
        elif sampling.top_p < 1.0:
            tokens = _heaviest(weights, sampling.top_p)
        else:
            tokens = (weights >= sampling.min_p).nonzero()[0]
        return tokens, weights[tokens].astype(np.float64), float(weights.sum(dtype=np.float64))


def _pick(weights: LogitRow, luck: float) -> int:
    """The index that `luck` (0 to 1) falls on when weights are laid end to end.

    Sums blocks first: a running sum over a vocabulary is one long chain of additions, 20 times slower.
    """
    bounds = np.add.reduceat(weights, np.arange(0, len(weights), BLOCK)).cumsum(dtype=np.float64)
    target = luck * bounds[-1]
    block = min(int(bounds.searchsorted(target, side="right")), len(bounds) - 1)
    start = block * BLOCK
    inside = weights[start : start + BLOCK].cumsum(dtype=np.float64)
    return start + _pick_inside(inside, target - (float(bounds[block - 1]) if block else 0.0))


def _pick_inside(bounds: npt.NDArray[np.float64], target: float) -> int:
    """The first index whose running sum exceeds `target`; where rounding leaves none, the last that has any weight."""
    return min(int(bounds.searchsorted(target, side="right")), int(bounds.searchsorted(bounds[-1], side="left")))


def largest(row: LogitRow, k: int) -> npt.NDArray[np.intp]:
    """Indices of the `k` largest, at least 1, largest first; among equals the lowest indices."""
    candidates = _candidates(row, k)
    order = (-row[candidates]).argsort(kind="stable")[:k]
    found: npt.NDArray[np.intp] = candidates[order]
    return found


def _of_largest(row: LogitRow, k: int) -> npt.NDArray[np.intp]:
    """The same in ascending order, which needs no sorting."""
    candidates = _candidates(row, k)
    values = row[candidates]
    least = np.partition(values, len(values) - k)[len(values) - k]
    keep = values > least
    keep[(values == least).nonzero()[0][: k - np.count_nonzero(keep)]] = True
    found: npt.NDArray[np.intp] = candidates[keep]
    return found


def _candidates(row: LogitRow, k: int) -> npt.NDArray[np.intp]:
    """Indices of the `k` largest, of their equals, and of few others.

    The k-th largest of the maxima of disjoint groups is a lower bound that few others reach, found in one pass.
    """
    n_groups = len(row) // GROUP
    bounds = row[: n_groups * GROUP].reshape(GROUP, n_groups).max(axis=0) if k <= n_groups else row.copy()
    bounds.partition(len(bounds) - k)
    found: npt.NDArray[np.intp] = (row >= bounds[len(bounds) - k]).nonzero()[0]
    return found


def _heaviest(weights: LogitRow, share: float) -> npt.NDArray[np.intp]:
    """Indices of a set that holds all of the most likely tokens weighing `share` of the total, and few others."""
    target = share * float(weights.sum(dtype=np.float64))
    cut = 1e-2
    while True:
        tokens = np.flatnonzero(weights >= cut)
        if cut < np.finfo(np.float32).tiny or float(weights[tokens].sum(dtype=np.float64)) >= target:
            return tokens
        cut *= 1e-2


def _typical(probabilities: npt.NDArray[np.float64], typical_p: float) -> npt.NDArray[np.bool_]:
    """Whether each token is among those whose surprise is nearest to the entropy, weighing `typical_p` (Meister et al.
    2022)."""
    surprise = -np.log(probabilities)
    entropy = float((probabilities * surprise).sum())
    return until(typical_p, probabilities, np.abs(surprise - entropy))


def until(share: float, weights: npt.NDArray[np.float64], keys: npt.NDArray[np.float64]) -> npt.NDArray[np.bool_]:
    """Whether each is needed where those of the least keys, of equals the first, are to weigh `share` together.

    Only those near the last one are sorted: sums of bins tell which these are, in a tenth of the time of sorting all.
    """
    low, high = keys.min(), keys.max()
    keep: npt.NDArray[np.bool_]
    if len(keys) <= SORTED or high - low < NEAR:
        order = keys.argsort(kind="stable")
        keep = np.full(len(keys), False)
        keep[order[: int(weights[order].cumsum().searchsorted(share)) + 1]] = True
        return keep
    bins = ((keys - low) * ((BINS - 1) / (high - low))).astype(np.intp)
    sums = np.bincount(bins, weights, BINS).cumsum()
    last = min(int(sums.searchsorted(share)), int(bins.max()))
    keep = bins < last
    near = (bins == last).nonzero()[0]
    keep[near] = until(share - (float(sums[last - 1]) if last else 0.0), weights[near], keys[near])
    return keep
