"""A choice of a running request: what the scheduler plans with, and what the loop answers with."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import msgspec

from edgellm.runtime.wire import Steps
from edgellm.text import logprobs
from edgellm.text.detokenize import TextStream
from edgellm.text.sampling import LogitRow, Sampler
from edgellm.types.event import Delta, Timings, Usage
from edgellm.types.logprob import TokenLogprob
from edgellm.types.request import GenerationRequest
from edgellm.types.sampling_defaults import NEUTRAL, SamplingDefaults

if TYPE_CHECKING:
    from edgellm.text.matcher import Matcher


@dataclass(slots=True, eq=False)
class RequestState:
    """One answer to a request on its way through the engine. Times are seconds of `time.perf_counter`.

    Choice 0 reads the prompt. The others get their first token from the same logits, and then a copy of its slot.
    """

    id: int
    generation: GenerationRequest
    prompt: list[int]
    limit: int  # tokens to generate at most
    defaults: SamplingDefaults = NEUTRAL  # for what the request leaves open
    matcher: Matcher | None = None  # of its grammar
    choice: int = 0  # of the answers that the request asked for
    sampler: Sampler = field(init=False)
    text: TextStream = field(init=False)
    # Where it stands in its slot.
    slot: int = -1
    n_cached: int = 0  # of the prompt, reused from the slot
    n_prefilled: int = 0  # of the prompt, in the cache
    next_tokens: tuple[int, ...] = ()  # of the answer, not yet in the cache
    # What it has generated, and what of that has not been sent.
    n_generated: int = 0
    pending_text: str = ""
    n_pending: int = 0
    pending_logprobs: list[TokenLogprob] = field(default_factory=list)
    # For its timings and the metrics.
    arrived: float = field(default_factory=time.perf_counter)
    started: float = 0.0
    first: float = 0.0  # when the first token was there
    waited_s: float = 0.0  # of a further choice: from its first token until it had a slot
    n_steps: int = 0
    n_decoded: int = 0  # steps after the one that brought the first token
    n_beside: int = 0  # other requests in its steps, added up

    def __post_init__(self) -> None:
        sampling = self.generation.sampling.over(self.defaults.values)
        if self.choice and sampling.seed is not None:
            sampling = msgspec.structs.replace(sampling, seed=(sampling.seed + self.choice) % 2**63)
        self.sampler = Sampler(sampling, self.prompt)
        self.text = TextStream(self.generation.stop)

    @property
    def ready(self) -> bool:
        """Whether it can have a slot: a further choice once it has its first token."""
        return not self.choice or bool(self.next_tokens)

    @property
    def decoding(self) -> bool:
        return bool(self.next_tokens) and self.n_prefilled == len(self.prompt)

    @property
    def width(self) -> float:
        """Requests in its steps, on average."""
        return 1.0 + self.n_beside / max(1, self.n_steps)

    @property
    def usage(self) -> Usage:
        return Usage(len(self.prompt), self.n_generated, self.n_cached)

    @property
    def steps(self) -> Steps | None:
        """For the metrics; None where the prompt was read a second time, which is in none of the timings."""
        reread = self.choice > 0 and self.n_cached < len(self.prompt)
        return None if reread else Steps(self.width, self.n_decoded)

    def begin(self, now: float) -> None:
        """It has a slot."""
        if self.first:
            self.waited_s = now - self.first
        else:
            self.started = now

    def follow(self, first: RequestState, now: float) -> None:
        """The first choice has read the prompt."""
        self.started, self.first = first.started, now
        self.n_cached = len(self.prompt)

    def count_step(self, n_beside: int) -> None:
        """A step was computed with `n_beside` other requests in it."""
        self.n_steps += 1
        self.n_decoded += self.first > 0
        self.n_beside += n_beside

    def note_logprob(self, row: LogitRow, token: int, token_bytes: Callable[[int], bytes]) -> None:
        """Where the request asked for them: `token` was drawn from `row`."""
        n_top = self.generation.top_logprobs
        if n_top is not None:
            self.pending_logprobs.append(logprobs.of_token(row, token, n_top, token_bytes))

    def flush(self) -> Delta | None:
        """What has not been sent, which then counts as sent; None where there is nothing."""
        if not self.pending_text and not self.pending_logprobs:
            return None
        delta = Delta(self.pending_text, self.n_pending, tuple(self.pending_logprobs), choice=self.choice)
        self.pending_text, self.n_pending, self.pending_logprobs = "", 0, []
        return delta

    def timings(self, now: float) -> Timings:
        started, first = self.started or now, self.first or now
        waited_s = now - first if self.slot < 0 else self.waited_s
        parts = self.defaults.under(self.generation.sampling)
        return Timings(started - self.arrived + waited_s, first - started, now - first - waited_s, parts)
