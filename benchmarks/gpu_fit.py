"""Fits the constants of `edgellm.estimate.gpu_terms` to measured times: least squares on logarithms, with priors.

A time is a sum of amounts times constants, so its logarithm's derivatives are the shares of its terms. The constants
are kept near their priors (research notes on GPUs, sections 1 and 2), so that a class with few rows stays believable,
and rows that are far off count for less (Huber).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from edgellm.estimate.gpu_terms import TimeTerm, names

FAR = 0.1  # of a logarithm: what differs by more counts in proportion, not squared
STEPS = 12


@dataclass(frozen=True, slots=True)
class Prior:
    """Of one constant."""

    value: float
    spread: float  # standard deviation of its logarithm


class System:
    """Many sums of terms at once."""

    def __init__(self, sums: Sequence[Sequence[TimeTerm]], priors: Mapping[str, Prior]) -> None:
        self.names = sorted(set().union(*(names(terms) for terms in sums)) | set(priors))
        index = {name: place for place, name in enumerate(self.names)}
        flat = [(row, term) for row, terms in enumerate(sums) for term in terms if term.amount > 0]
        self.row = np.array([row for row, _ in flat])
        self.log_amount = np.log(np.array([term.amount for _, term in flat]))
        self.powers = np.zeros((len(flat), len(self.names)))
        for place, (_, term) in enumerate(flat):
            for name in term.times:
                self.powers[place, index[name]] += 1
            for name in term.over:
                self.powers[place, index[name]] -= 1
        self.size = len(sums)
        self.prior = np.log(np.array([priors[name].value for name in self.names]))
        self.spread = np.array([priors[name].spread for name in self.names])

    def log_seconds(self, logs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Logarithm of each time, and its derivatives."""
        times = np.exp(self.log_amount + self.powers @ logs)
        total = np.bincount(self.row, times, self.size)
        slopes = np.zeros((self.size, len(logs)))
        np.add.at(slopes, self.row, times[:, None] * self.powers)
        return np.log(total), slopes / total[:, None]

    def fit(self, log_seconds: np.ndarray, weight: np.ndarray, start: np.ndarray | None = None) -> np.ndarray:
        """Logarithms of the constants, in the order of `names`."""
        logs = (self.prior if start is None else start).copy()
        for _ in range(STEPS):
            predicted, slopes = self.log_seconds(logs)
            off = log_seconds - predicted
            counts = weight / np.maximum(1, np.abs(off) / FAR) / FAR**2
            normal = slopes.T @ (slopes * counts[:, None]) + np.diag(1 / self.spread**2)
            step = np.linalg.solve(normal, slopes.T @ (counts * off) - (logs - self.prior) / self.spread**2)
            logs = logs + step * min(1.0, 0.5 / np.abs(step).max())
            if np.abs(step).max() < 1e-4:
                break
        return logs

    def values(self, logs: np.ndarray) -> dict[str, float]:
        return dict(zip(self.names, np.exp(logs).tolist(), strict=True))
