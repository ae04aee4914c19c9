"""Rates of a calibration for a number of threads, with what was not measured taken from its nearest neighbour."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from edgellm.backend import CALIBRATED_ROW, Calibration
from edgellm.estimate.isa import IsaClass
from edgellm.estimate.tensor_types import TYPES

Prior = Callable[[str, str], float]
# Where a calibration has no such numbers: what attention and a layer's small operations take on one core of an EPYC
# with AVX-512 (docs/benchmarks.md).
ATTENTION_G_S, ATTENTION_PREFILL_G_S = 14.0, 30.0
ELEMENT_S = 0.6e-9
LAYER_S = 0.02e-3
MOST_OF_A_ROW = 0.5


class Reader:
    """Answers for one number of threads; afterwards `basis` says what was assumed."""

    def __init__(self, rates: Calibration, cls: IsaClass, threads: int, backend: str = "") -> None:
        self._rates, self._cls, self._threads, self._backend = rates, cls, threads, backend
        self._measured_threads = _nearest({count for _, count in (rates.decode or rates.prefill)}, threads)
        # Cores share the memory: more threads than were measured are not taken to be faster, fewer are slower by share.
        self._share = min(1.0, threads / self._measured_threads)
        self._borrowed: dict[str, str] = {}

    @property
    def basis(self) -> str:
        """As it stands in a `Rate`."""
        when = f" {self._rates.date}" if self._rates.date else ""
        build = f" with {self._rates.build}" if self._rates.build else ""
        words = f"measured: calibrated{when}{build}, {self._threads} threads"
        if self._measured_threads != self._threads:
            words += f" from the rates of {self._measured_threads}"
        return words + "".join(f", {kind} scaled as {like}" for kind, like in self._borrowed.items())

    def decode(self, kind: str) -> float:
        """Weights per second, one token at a time."""
        return self._weights(self._rates.decode, kind, self._cls.decode_gw_s)

    def prefill(self, kind: str) -> float:
        """The same for a prompt."""
        return self._weights(self._rates.prefill, kind, self._cls.prefill_gw_s)

    def attention(self, kv_type: str) -> float:
        """Products per second, one token."""
        return self._products(self._rates.attention, kv_type, ATTENTION_G_S)

    def attention_prefill(self, kv_type: str) -> float:
        return self._products(self._rates.attention_prefill, kv_type, ATTENTION_PREFILL_G_S)

    def row_s(self, weights: Sequence[tuple[str, int]]) -> float:
        """Seconds that a row of a matrix takes beside its weights: the mean over `weights` (type, number)."""
        count, total, n_known = self._measured_threads, 0.0, 0
        for kind, n in weights:
            row, rate = self._rates.row_s.get((kind, count)), self._rates.decode.get((kind, count))
            if row is not None and rate is not None:
                # A row of the measured length took so long in all: what is said to be beside its weights may be noise.
                total += n * min(row, MOST_OF_A_ROW * CALIBRATED_ROW / (rate * 1e9))
                n_known += n
        return total / max(1, n_known) / self._share

    @property
    def layer_s(self) -> float:
        return self._rates.layer_s.get(self._measured_threads, LAYER_S)

    @property
    def element_s(self) -> float:
        return self._rates.element_s.get(self._measured_threads, ELEMENT_S / self._threads)

    @property
    def element_prefill_s(self) -> float:
        return self._rates.element_prefill_s.get(self._measured_threads, ELEMENT_S / self._threads)

    def _weights(self, table: Mapping[tuple[str, int], float], kind: str, prior: Prior) -> float:
        own = table.get((kind, self._measured_threads))
        if own is not None:
            return own * 1e9 * self._share
        measured = {name: rate for (name, count), rate in table.items() if count == self._measured_threads}
        like = min(measured, key=lambda name: (_distance(kind, name), name))
        self._borrowed[kind] = like
        return measured[like] * prior(kind, self._backend) / prior(like, self._backend) * 1e9 * self._share

    def _products(self, table: Mapping[tuple[str, int], float], kv_type: str, default: float) -> float:
        rate = table.get((kv_type, self._measured_threads), table.get(("f16", self._measured_threads)))
        return (rate * self._share if rate is not None else default * self._threads) * 1e9


def _nearest(counts: set[int], threads: int) -> int:
    """The same number, else the next larger one, else the largest."""
    return min((count for count in counts if count >= threads), default=max(counts))


def _distance(kind: str, other: str) -> tuple[bool, float]:
    """Types that are unpacked alike first, then those of a like size."""
    a, b = TYPES[kind], TYPES[other]
    return a.cost != b.cost, abs(a.bits_per_weight - b.bits_per_weight)
