"""`timings_per_token`: the timings of each choice until now, for every chunk."""

from __future__ import annotations

import time

from edgellm.server.schemas.usage import TokenTimings
from edgellm.types.event import Delta, Prefill, Timings, Usage


class RunningTimings:
    """Of one stream. Prompts are measured beside the model, and answers where their chunks are made."""

    def __init__(self) -> None:
        self._prefills: dict[int, Prefill] = {}  # the latest of each prompt, by the first choice that it has
        self._counts: dict[int, int] = {}  # tokens, by choice
        self._begun: dict[int, float] = {}  # when the first token of a choice came

    def read(self, prefill: Prefill) -> TokenTimings:
        """The timings with this part of the prompt."""
        self._prefills[prefill.choice] = prefill
        seconds = prefill.seconds if prefill.processed > prefill.cached else 0.0
        return TokenTimings.of(Timings(0.0, seconds, 0.0), Usage(prefill.processed, 0, prefill.cached))

    def count(self, delta: Delta) -> TokenTimings:
        """The timings with this part of the answer."""
        now = time.perf_counter()
        begun = self._begun.setdefault(delta.choice, now)
        n = self._counts[delta.choice] = self._counts.get(delta.choice, 0) + delta.n_tokens
        first = max((choice for choice in self._prefills if choice <= delta.choice), default=None)
        prefill = Prefill(0, 0, 0, 0.0) if first is None else self._prefills[first]
        return TokenTimings.of(Timings(0.0, prefill.seconds, now - begun), Usage(prefill.total, n, prefill.cached))
