"""Draws the next token from a row of logits, over numpy, without sorting the vocabulary.

One random number per token and request, from the request's own generator: a seed gives the same text whatever else
runs beside it.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable

import numpy as np
import numpy.typing as npt

from edgellm.request import Sampling

Row = npt.NDArray[np.float32]

# Tokens less likely than e**-30 (1e-13) times the most likely one are left out of the draw: all of a 262,144-token
# vocabulary at that bound weighs 2.5e-8, and what remains is small enough to sort.
CUTOFF_NATS = 30.0


class Sampler:
    """The state of one request's sampling: its random numbers and the tokens that penalties look back on."""

    def __init__(self, sampling: Sampling, prompt: Iterable[int] = ()) -> None:
        self._sampling = sampling
        self._random = np.random.Generator(np.random.PCG64(sampling.seed))
        self._repeats = sampling.repetition_penalty != 1.0
        self._counts = sampling.frequency_penalty != 0.0 or sampling.presence_penalty != 0.0
        window = None if sampling.penalty_last_n == -1 else sampling.penalty_last_n
        self._recent: deque[int] = deque(prompt if self._repeats else (), maxlen=window)
        self._generated: deque[int] = deque(maxlen=window)
        self._edits = bool(self._repeats or self._counts or sampling.logit_bias)

    def sample(self, row: Row) -> int:
        """The next token. `row`: float32 (vocab_size,), read only.

        Raises:
            ValueError: the row holds NaN, or no finite value: the engine computed nonsense.
        """
        if self._edits:
            row = self._edited(row)
        best = int(row.argmax())
        if not np.isfinite(row[best]):
            raise ValueError(f"logits are not finite (maximum {row[best]} at token {best})")
        token = best if self._sampling.temperature == 0 else self._draw(row, float(row[best]))
        if self._repeats:
            self._recent.append(token)
        if self._counts:
            self._generated.append(token)
        return token

    def _edited(self, row: Row) -> Row:
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
            seen = np.fromiter(set(self._recent), dtype=np.int64)
            values = edited[seen]
            penalty = sampling.repetition_penalty
            edited[seen] = np.where(values > 0, values / penalty, values * penalty)
        for token, count in Counter(self._generated).items():
            edited[token] -= sampling.frequency_penalty * count + sampling.presence_penalty
        return edited

    def _draw(self, row: Row, best: float) -> int:
        sampling = self._sampling
        tokens = np.flatnonzero(row >= best - CUTOFF_NATS * sampling.temperature)
        weights = np.exp((row[tokens].astype(np.float64) - best) / sampling.temperature)
        if 0 < sampling.top_k < len(tokens):
            keep = np.sort(np.argpartition(weights, -sampling.top_k)[-sampling.top_k :])
            tokens, weights = tokens[keep], weights[keep]
        if sampling.typical_p < 1.0:
            keep = _typical(weights / weights.sum(), sampling.typical_p)
            tokens, weights = tokens[keep], weights[keep]
        if sampling.top_p < 1.0:
            keep = _nucleus(weights / weights.sum(), sampling.top_p)
            tokens, weights = tokens[keep], weights[keep]
        if sampling.min_p > 0.0:
            keep = np.flatnonzero(weights >= sampling.min_p * weights.max())
            tokens, weights = tokens[keep], weights[keep]
        bounds = np.cumsum(weights)
        at = int(np.searchsorted(bounds, self._random.random() * bounds[-1], side="right"))
        return int(tokens[min(at, len(tokens) - 1)])


def _nucleus(probabilities: npt.NDArray[np.float64], top_p: float) -> npt.NDArray[np.intp]:
    """Indices of the smallest set of most likely tokens that weighs at least `top_p` (Holtzman et al. 2020)."""
    order = np.argsort(-probabilities, kind="stable")
    n = int(np.searchsorted(np.cumsum(probabilities[order]), top_p, side="left")) + 1
    return np.sort(order[:n])


def _typical(probabilities: npt.NDArray[np.float64], typical_p: float) -> npt.NDArray[np.intp]:
    """Indices of the tokens whose surprise is nearest to the entropy, weighing `typical_p` (Meister et al. 2022)."""
    surprise = -np.log(np.maximum(probabilities, np.finfo(np.float64).tiny))
    entropy = float((probabilities * surprise).sum())
    order = np.argsort(np.abs(surprise - entropy), kind="stable")
    n = int(np.searchsorted(np.cumsum(probabilities[order]), typical_p, side="left")) + 1
    return np.sort(order[:n])
