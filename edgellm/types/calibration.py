"""How fast a machine computes with a backend's kernels: what a `Calibrator` measures, and speeds are predicted from."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field, fields, replace
from typing import Any

from msgspec import Struct

CALIBRATED_ROW = 2048  # weights in a row of the matrices that `Calibration.decode` is measured with
CALIBRATED_HEAD = 128  # numbers in a head of the caches that `Calibration.attention` is measured with


class Occasion(Struct, frozen=True, omit_defaults=True):
    """When a number of threads was measured, and beside what. Shares are from 0 to 1; None = not known."""

    date: str = ""  # ISO 8601 day
    taken: float | None = None  # of the processors' time: what other programs took
    waited: float | None = None  # of the time in which its first thread was ready to run: what it had no processor
    of_one: float | None = None  # of the rates of one thread: what it reached, so little that it is left out


@dataclass(frozen=True, slots=True)
class Calibration:
    """Rates measured by running the real kernels on this machine, of all threads together. Only what was measured.

    Keys are (tensor type or cache type, threads), e.g. ("Q4_K", 2) and ("q8_0", 2); tables without types have threads.
    """

    # 1e9 weights per second, one token at a time, in rows of CALIBRATED_ROW weights
    decode: dict[tuple[str, int], float] = field(default_factory=dict)
    prefill: dict[tuple[str, int], float] = field(default_factory=dict)  # the same for 512 tokens: weights x tokens
    build: str = ""  # of the kernels, as `Calibrator.build` says it
    # 1e9 products per second: each query head meets a key and a value of head_dim numbers for each cached token.
    # One token, in heads of CALIBRATED_HEAD, several of which read the same keys and values, which lie together.
    attention: dict[tuple[str, int], float] = field(default_factory=dict)
    # The same in heads of other sizes: (cache type, numbers in a head, threads).
    attention_by_head: dict[tuple[str, int, int], float] = field(default_factory=dict)
    # Seconds per key and its value, beside the products, in a cache that interleaves this many heads between one token
    # and the next: (cache type, numbers in a head, key/value heads, threads). Once for all query heads that read them.
    attention_apart_s: dict[tuple[str, int, int, int], float] = field(default_factory=dict)
    attention_prefill: dict[tuple[str, int], float] = field(default_factory=dict)  # 512 tokens
    row_s: dict[tuple[str, int], float] = field(default_factory=dict)  # seconds that a row takes beside its weights
    layer_s: dict[int, float] = field(default_factory=dict)  # seconds per layer and token beside both, one token
    element_s: dict[int, float] = field(default_factory=dict)  # and seconds per activation (estimate/speed.py)
    element_prefill_s: dict[int, float] = field(default_factory=dict)  # seconds per activation, 512 tokens
    # How far below its best a rate was at other times: a share, median over rates; 0 = each was measured once.
    scatter: float = 0.0
    date: str = ""  # ISO 8601 day
    occasions: dict[int, Occasion] = field(default_factory=dict)  # by threads; none where nothing was kept of it

    @property
    def counts(self) -> set[int]:
        """Numbers of threads that were measured, those that are left out among them."""
        return {threads for _, threads in self.decode} | self.occasions.keys()

    def of(self, counts: Collection[int]) -> Calibration:
        """Only what was measured with these numbers of threads."""
        tables: dict[str, Any] = {
            name: {key: of for key, of in table.items() if (key[-1] if isinstance(key, tuple) else key) in counts}
            for name, table in self._tables().items()
        }
        return replace(self, **tables)

    def with_rates(self, other: Calibration) -> Calibration:
        """These and the other's, which are of other numbers of threads."""
        theirs = other._tables()
        tables: dict[str, Any] = {name: table | theirs[name] for name, table in self._tables().items()}
        return replace(self, **tables)

    def _tables(self) -> dict[str, Any]:
        every = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: table for name, table in every.items() if isinstance(table, dict)}


def nearest(counts: Collection[int], threads: int) -> int:
    """The number of threads whose rates stand for `threads`: the same, else the next larger, else the largest."""
    return min((count for count in counts if count >= threads), default=max(counts))
