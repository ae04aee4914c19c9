"""Rates of a calibration for a number of threads, with what was not measured taken from its nearest neighbour."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from edgellm.estimate.isa import IsaClass
from edgellm.estimate.tensor_types import TYPES
from edgellm.types.basis import Measured
from edgellm.types.calibration import CALIBRATED_HEAD, CALIBRATED_ROW, Calibration, Occasion, nearest
from edgellm.types.priors import NO_PRIORS, KernelRate

Prior = Callable[[str, Mapping[str, KernelRate]], float]
# Where a calibration has no such numbers: what attention and a layer's small operations take on one core of an EPYC
# with AVX-512 (docs/benchmarks/log/speed-prediction.md).
ATTENTION_G_S, ATTENTION_PREFILL_G_S = 14.0, 30.0
ELEMENT_S = 0.6e-9
LAYER_S = 0.02e-3
MOST_OF_A_ROW = 0.5
REGISTER = 64  # numbers: four of AVX-512, as llama.cpp's loops take them at once; what is left over is slow there


class Reader:
    """Rates for one number of threads. `basis` says which of those that were asked for had to be assumed."""

    def __init__(
        self, rates: Calibration, cls: IsaClass, threads: int, own: Mapping[str, KernelRate] = NO_PRIORS.rates
    ) -> None:
        self._rates, self._cls, self._threads, self._own = rates, cls, threads, own
        self._measured_threads = nearest({count for _, count in (rates.decode or rates.prefill)}, threads)
        # Cores share the memory: more threads than were measured count as no faster, fewer as slower in proportion.
        self._share = min(1.0, threads / self._measured_threads)
        self._borrowed: dict[str, str] = {}

    def basis(self, depth: int | None = None) -> Measured:
        """What was measured, and what of it was assumed to hold for other types and numbers of threads."""
        rates, borrowed = self._rates, tuple(self._borrowed.items())
        when = rates.occasions.get(self._measured_threads, Occasion(rates.date))
        return Measured(
            when.date, rates.build, self._threads, self._measured_threads, borrowed, depth, when.taken, when.waited
        )

    def decode(self, kind: str) -> float:
        """Weights per second, one token at a time."""
        return self._weights(self._rates.decode, kind, self._cls.decode_gw_s)

    def prefill(self, kind: str) -> float:
        """The same for a prompt."""
        return self._weights(self._rates.prefill, kind, self._cls.prefill_gw_s)

    def attention(self, kv_type: str, head_dim: int = CALIBRATED_HEAD, n_head_kv: int = 1, group: float = 1) -> float:
        """Products per second, one token.

        A head takes some time beside its products, and more where its size is no multiple of a register. So its time is
        interpolated between the measured sizes; beyond them it grows with the products. Added to it is the wait for a
        key and its value: in the cache, those of other heads lie between one token's and the next.

        Args:
            head_dim: numbers in a head.
            n_head_kv: heads of keys and values.
            group: query heads to each of them.
        """
        # A type that was not measured is taken as F16.
        kind = kv_type if (kv_type, self._measured_threads) in self._rates.attention else "f16"
        rate = self._products(self._rates.attention, kind, ATTENTION_G_S)
        seconds = {CALIBRATED_HEAD: CALIBRATED_HEAD / rate}
        for (name, size, count), measured in self._rates.attention_by_head.items():
            if (name, count) == (kind, self._measured_threads):
                seconds[size] = size / (measured * self._share * 1e9)
        # Each number of a head meets one of a key and one of a value.
        late = self._late(kind, head_dim, max(1, n_head_kv)) / 2 / max(1, group)
        return head_dim / (_between(seconds, head_dim) + late)

    def _late(self, kind: str, head_dim: int, n_head_kv: int) -> float:
        """Seconds that a key and its value take beside products.

        It depends on the size and the number of heads. The effect of the size is taken from the measurement with most
        heads. The effect of the number is taken from the size that was measured with most numbers of heads.
        Both are interpolated between measurements and stay the same beyond them. One head alone waits for nothing.
        """
        by_heads: dict[int, dict[int, float]] = {1: {}}
        for (name, size, heads, count), seconds in self._rates.attention_apart_s.items():
            if (name, count) == (kind, self._measured_threads):
                by_heads.setdefault(heads, {})[size] = seconds / self._share
        most = by_heads[max(by_heads)]
        if not most:
            return 0.0
        by_size = {size: {heads: sizes[size] for heads, sizes in by_heads.items() if size in sizes} for size in most}
        size = max(by_size, key=lambda size: (len(by_size[size]), -size))
        part = _flat_beyond({1: 0.0} | by_size[size], n_head_kv) / most[size] if most[size] else 1.0
        return part * _flat_beyond(most, head_dim)

    def attention_prefill(self, kv_type: str) -> float:
        return self._products(self._rates.attention_prefill, kv_type, ATTENTION_PREFILL_G_S)

    def row_s(self, weights: Sequence[tuple[str, int]]) -> float:
        """Seconds that a row of a matrix takes beside its weights: the mean over `weights` (type, number)."""
        count, total, n_known = self._measured_threads, 0.0, 0
        for kind, n in weights:
            row, rate = self._rates.row_s.get((kind, count)), self._rates.decode.get((kind, count))
            if row is not None and rate is not None:
                # A part may be noise, so no more is believed than a share of what a whole row of that length took.
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
        of_count = {name: rate for (name, count), rate in table.items() if count == self._measured_threads}
        measured = {name: rate for name, rate in of_count.items() if name in TYPES}
        if not measured:  # of types that are known here
            return prior(kind, self._own) * self._threads * 1e9
        like = min(measured, key=lambda name: (_distance(kind, name), name))
        self._borrowed[kind] = like
        return measured[like] * prior(kind, self._own) / prior(like, self._own) * 1e9 * self._share

    def _products(self, table: Mapping[tuple[str, int], float], kv_type: str, default: float) -> float:
        rate = table.get((kv_type, self._measured_threads), table.get(("f16", self._measured_threads)))
        return (rate * self._share if rate is not None else default * self._threads) * 1e9


def _distance(kind: str, other: str) -> tuple[bool, float]:
    """Types that are unpacked alike first, then those of a like size."""
    one, two = TYPES[kind], TYPES[other]
    return one.cost != two.cost, abs(one.bits_per_weight - two.bits_per_weight)


def _between(seconds: Mapping[int, float], size: int) -> float:
    """Time of a head of `size` numbers from those that were measured, by their sizes."""
    if size in seconds:
        return seconds[size]
    aligned = {length: time for length, time in seconds.items() if length % REGISTER == 0}
    rest = size % REGISTER
    unaligned = [length for length in seconds if length % REGISTER]
    if not rest or not unaligned:
        return _on_line(aligned, size)
    nearest = min(unaligned, key=lambda length: (abs(length - size), length))
    rest_s = max(0.0, seconds[nearest] - _on_line(aligned, nearest))
    return _on_line(aligned, size) + rest_s * rest / (nearest % REGISTER)


def _on_line(seconds: Mapping[int, float], size: int) -> float:
    """Between two neighbours; beyond all of them by the products of the nearest."""
    nearest = min(max(size, min(seconds)), max(seconds))
    return _flat_beyond(seconds, size) * size / nearest


def _flat_beyond(values: Mapping[int, float], at: int) -> float:
    """On a line between two neighbours; the nearest's own beyond all of them."""
    nearest = min(max(at, min(values)), max(values))
    below, above = max(size for size in values if size <= nearest), min(size for size in values if size >= nearest)
    share = (nearest - below) / (above - below) if above > below else 0.0
    return values[below] + share * (values[above] - values[below])
