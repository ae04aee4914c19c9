"""Texts that are almost the same, found without comparing every pair.

Resemblance is the weighted Jaccard index of shingles of 8 characters (A. Broder, Compression and Complexity of
Sequences 1997). A shingle weighs the less the more texts have it, so that one instruction for all rows weighs next to
nothing. A pair above the threshold shares one of the heaviest shingles of either, so only pairs that do are compared
(prefix filter: S. Chaudhuri and others, ICDE 2006), and those exactly. Of more than MAX_SHINGLES, those are kept whose
hash has a remainder of 0, which leaves the index what it is on average. Of more than MAX_PAIRS texts that share a
shingle with one, those are compared that share its rarest ones. datasketch, the usual library, estimates, knows
no weights, and brings scipy.
"""

from __future__ import annotations

import math
import unicodedata
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TypeVar

import numpy as np
import numpy.typing as npt

THRESHOLD = 0.8
_WIDTH = 8  # characters
MAX_SHINGLES = 20_000_000  # 8 bytes each, of all texts together
MAX_PAIRS = 20  # to compare, of one text: 43 us for each 1,000 characters, so minutes for the largest file
_BASE = np.uint64(0x9E3779B97F4A7C15)

T = TypeVar("T")
TextsProgress = Callable[[int, int], None]  # what is done, of how much
Shingles = npt.NDArray[np.uint64]


def near_duplicates(
    texts: Sequence[str],
    kept: Sequence[str],
    threshold: float = THRESHOLD,
    progress: TextsProgress = lambda _done, _of: None,
) -> dict[int, int]:
    """Place of each text that resembles one of `kept` -> the place of that.

    `progress`: called with what is done and all there is to do, which each text is twice: read, and compared.
    """
    steps = _Steps(2 * (len(texts) + len(kept)), progress)
    normal = [[_normal(text) for text in some] for some in (texts, kept)]
    modulus = math.ceil(sum(len(text) for some in normal for text in some) / MAX_SHINGLES) or 1
    own, others = ([_shingles(text, modulus) for text in steps.each(some)] for some in normal)
    same = {text: place for place, text in enumerate(normal[1])}
    weigh = _Weights([*own, *others])
    having: defaultdict[int, list[int]] = defaultdict(list)
    for place, shingles in enumerate(steps.each(others)):
        for shingle in _heaviest(shingles, weigh(shingles), threshold):
            having[int(shingle)].append(place)
    near_of: dict[int, int] = {}
    for place, (text, shingles) in enumerate(steps.each(list(zip(normal[0], own, strict=True)))):
        if text in same:
            near_of[place] = same[text]
            continue
        weights = weigh(shingles)
        for other in _candidates(_heaviest(shingles, weights, threshold), having):
            shared = float(weights[np.isin(shingles, others[other], assume_unique=True)].sum())
            union = float(weights.sum() + weigh(others[other]).sum()) - shared
            if union > 0 and shared >= threshold * union:
                near_of[place] = other
                break
    return near_of


class _Steps:
    def __init__(self, n_all: int, progress: TextsProgress) -> None:
        self._n_done, self._n_all, self._progress = 0, n_all, progress

    def each(self, items: Sequence[T]) -> Iterator[T]:
        for item in items:
            yield item
            self._n_done += 1
            self._progress(self._n_done, self._n_all)


def _candidates(shingles: Shingles, having: Mapping[int, Sequence[int]]) -> list[int]:
    """Places of texts that have one of them, ascending."""
    found: set[int] = set()
    for places in sorted((having[shingle] for shingle in shingles.tolist() if shingle in having), key=len):
        found.update(places[: MAX_PAIRS - len(found)])
        if len(found) >= MAX_PAIRS:
            break
    return sorted(found)


def _normal(text: str) -> str:
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())


def _shingles(text: str, modulus: int) -> Shingles:
    """Hashes, each once, ascending."""
    letters = np.frombuffer(text.encode("utf-32-le", "replace"), np.uint32).astype(np.uint64)
    n = max(1, len(letters) - _WIDTH + 1)
    if not len(letters):
        return np.zeros(0, np.uint64)
    hashes = np.zeros(n, np.uint64)
    for at in range(min(_WIDTH, len(letters))):
        hashes = (hashes ^ letters[at : at + n]) * _BASE
        hashes ^= hashes >> np.uint64(29)
    return np.unique(hashes[hashes % np.uint64(modulus) == 0])


class _Weights:
    """Weights of shingles, by how many of all texts have them."""

    def __init__(self, all_shingles: Sequence[Shingles]) -> None:
        joined = np.concatenate(all_shingles) if all_shingles else np.zeros(0, np.uint64)
        self._shingles, counts = np.unique(joined, return_counts=True)
        self._weights = np.minimum(1.0, 1.0 - (counts - 2) / max(1, len(all_shingles)))  # two may share it

    def __call__(self, shingles: Shingles) -> npt.NDArray[np.float64]:
        return self._weights[np.searchsorted(self._shingles, shingles)]


def _heaviest(shingles: Shingles, weights: npt.NDArray[np.float64], threshold: float) -> Shingles:
    """So many that what is left weighs less than a near duplicate has to share."""
    order = np.argsort(-weights, kind="stable")
    left = weights.sum() - np.cumsum(weights[order])
    n = int(np.count_nonzero(left >= threshold * weights.sum())) + 1
    return shingles[order[:n]]
