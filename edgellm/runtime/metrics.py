"""What a loaded model's requests took, for comparing it with what was predicted.

Costs a request one call, at its end. What ran alone in every step tells of one slot; the rest tells of slots together.
The first prompt after loading brings the weights in from the disk and tells nothing of the next.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median

from edgellm.types.event import Timings, Usage

KEPT = 64  # requests, the latest
# Shorter ones tell more of the clock and of what surrounds a step than of the model.
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
    def tells_decode(self) -> bool:
        return self.decoded >= MIN_DECODED and self.timings.decode_s > 0

    @property
    def tells_prefill(self) -> bool:
        return self.prefilled >= MIN_PREFILLED and self.timings.prefill_s > 0 and not self.is_first


@dataclass(frozen=True, slots=True)
class Measured:
    """Medians over requests; None = no request told. Rates in tokens per second."""

    requests: int = 0  # that told something
    decode: float | None = None  # one slot alone
    decode_depth: int = 0  # tokens cached in the middle of it
    prefill: float | None = None
    prefill_tokens: int = 0
    prefill_depth: int = 0  # tokens that were cached before it
    longest_prefill: int = 0
    first_token_s: float | None = None  # from the arrival of what `prefill` tells of
    batched: float | None = None  # slots together
    batched_width: float = 0.0


class Meter:
    """Hears the end of every request, in any thread; calls `told` with their number after each that told something."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._samples: deque[Sample] = deque(maxlen=KEPT)
        self._requests = 0
        self._ended = 0
        self._longest = 0
        self.told: Callable[[int], None] | None = None

    def heard(self, usage: Usage, timings: Timings, width: float, decoded: int) -> None:
        with self._lock:
            self._ended += 1
            sample = Sample(usage, timings, width, decoded, is_first=self._ended == 1)
            self._longest = max(self._longest, sample.prefilled)
        if not (sample.tells_decode or sample.tells_prefill):
            return
        with self._lock:
            self._samples.append(sample)
            self._requests += 1
            count = self._requests
        if self.told is not None:
            self.told(count)

    def measured(self) -> Measured:
        with self._lock:
            samples, requests, longest = list(self._samples), self._requests, self._longest
        alone = [sample for sample in samples if sample.width == 1]
        decodes = [sample for sample in alone if sample.tells_decode]
        prefills = [sample for sample in alone if sample.tells_prefill]
        together = [sample for sample in samples if sample.width > 1 and sample.tells_decode]
        return Measured(
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
