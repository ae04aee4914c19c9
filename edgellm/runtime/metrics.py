"""Speed of a loaded model's requests, for comparison with what was predicted.

A request costs one call, at its end. One that ran alone in every step measures one slot; the others measure slots
together. The first prompt after loading brings the weights in from the disk, so it says nothing about the next.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median

from edgellm.types.event import Timings, Usage

KEPT = 64  # requests, the latest
# Shorter requests measure the clock and the work around a step more than the model.
MIN_DECODED = 16
MIN_PREFILLED = 32


@dataclass(frozen=True, slots=True)
class Sample:
    """One request that ended well."""

    usage: Usage
    timings: Timings
    width: float  # requests in its steps, on average; 1 = it was alone
    decoded: int  # steps after the one that brought the first token
    is_first: bool = False

    @property
    def prefilled(self) -> int:
        return self.usage.prompt_tokens - self.usage.cached_tokens

    @property
    def measures_decode(self) -> bool:
        return self.decoded >= MIN_DECODED and self.timings.decode_s > 0

    @property
    def measures_prefill(self) -> bool:
        return self.prefilled >= MIN_PREFILLED and self.timings.prefill_s > 0 and not self.is_first


@dataclass(frozen=True, slots=True)
class MeasuredRates:
    """Medians over requests; None = no request measured it. Rates in tokens per second."""

    requests: int = 0  # that measured something
    decode: float | None = None  # one slot alone
    decode_depth: int = 0  # tokens cached in the middle of it
    prefill: float | None = None
    prefill_tokens: int = 0
    prefill_depth: int = 0  # tokens that were cached before it
    longest_prefill: int = 0
    first_token_s: float | None = None  # from the arrival of the requests of `prefill`
    batched: float | None = None  # slots together
    batched_width: float = 0.0


class Meter:
    """Records every request at its end, from any thread.

    `on_sample` is called after each request that measured something, with the number of such requests so far.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._samples: deque[Sample] = deque(maxlen=KEPT)
        self._requests = 0
        self._ended = 0
        self._longest = 0
        self.on_sample: Callable[[int], None] | None = None

    def record(self, usage: Usage, timings: Timings, width: float, decoded: int) -> None:
        with self._lock:
            self._ended += 1
            sample = Sample(usage, timings, width, decoded, is_first=self._ended == 1)
            self._longest = max(self._longest, sample.prefilled)
        if not (sample.measures_decode or sample.measures_prefill):
            return
        with self._lock:
            self._samples.append(sample)
            self._requests += 1
            count = self._requests
        on_sample = self.on_sample  # another thread may take it away at any time
        if on_sample is not None:
            on_sample(count)

    def measured(self) -> MeasuredRates:
        with self._lock:
            samples, requests, longest = list(self._samples), self._requests, self._longest
        alone = [sample for sample in samples if sample.width == 1]
        decodes = [sample for sample in alone if sample.measures_decode]
        prefills = [sample for sample in alone if sample.measures_prefill]
        together = [sample for sample in samples if sample.width > 1 and sample.measures_decode]
        return MeasuredRates(
            requests=requests,
            decode=_middle([s.decoded / s.timings.decode_s for s in decodes]),
            decode_depth=round(_middle([s.usage.prompt_tokens + s.decoded / 2 for s in decodes]) or 0),
            prefill=_middle([s.prefilled / s.timings.prefill_s for s in prefills]),
            prefill_tokens=round(_middle([s.prefilled for s in prefills]) or 0),
            prefill_depth=round(_middle([s.usage.cached_tokens for s in prefills]) or 0),
            longest_prefill=longest,
            first_token_s=_middle([s.timings.queued_s + s.timings.prefill_s for s in prefills]),
            batched=_middle([s.width * s.decoded / s.timings.decode_s for s in together]),
            batched_width=_middle([s.width for s in together]) or 0.0,
        )


def _middle(values: Sequence[float]) -> float | None:
    return float(median(values)) if values else None
