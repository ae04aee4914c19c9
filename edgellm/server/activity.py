"""What the model does now, how fast its last answers were (what the page draws beside what was predicted), and what it
did since the start.
"""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import msgspec

from edgellm.types.event import Done, Event, Timings, Usage, Vectors

MOST_ANSWERS = 60


class AnswerSpeed(msgspec.Struct, frozen=True):
    """One choice of an answer. Rates are in tokens per second, 0 where nothing was measured."""

    ended: float  # in seconds since 1970
    prompt_tokens: int
    cached_tokens: int
    completion_tokens: int
    queued_s: float
    prefill_tok_s: float
    decode_tok_s: float


class ActivityReport(msgspec.Struct, frozen=True):
    """The body of /edgellm/activity."""

    n_slots: int
    n_busy: int  # slots that answer
    n_waiting: int  # answers that no slot has begun
    resident_bytes: int | None  # of the process that runs the model; None = unknown
    answers: tuple[AnswerSpeed, ...]  # the last ones, the oldest first


@dataclass
class Totals:
    """Of all answers that ended, and of all vectors. Choices that share a prompt count it once."""

    prompt_tokens: int = 0  # computed
    cached_tokens: int = 0  # reused from an earlier request
    prompt_s: float = 0.0
    answer_tokens: int = 0
    answer_s: float = 0.0
    n_steps: int = 0  # tokens of answers after the first, which their prompts brought
    longest: int = 0  # tokens of a prompt with its answer

    def add_prompt(self, usage: Usage, timings: Timings) -> None:
        self.prompt_tokens += usage.prompt_tokens - usage.cached_tokens
        self.cached_tokens += usage.cached_tokens
        self.prompt_s += timings.prefill_s
        self.longest = max(self.longest, usage.prompt_tokens)

    def add_answer(self, usage: Usage, timings: Timings) -> None:
        self.answer_tokens += usage.completion_tokens
        self.answer_s += timings.decode_s
        self.n_steps += timings.decoded(usage.completion_tokens)
        self.longest = max(self.longest, usage.prompt_tokens + usage.completion_tokens)

    @property
    def prompt_tok_s(self) -> float:
        return self.prompt_tokens / self.prompt_s if self.prompt_s > 0 else 0.0

    @property
    def answer_tok_s(self) -> float:
        return self.n_steps / self.answer_s if self.answer_s > 0 else 0.0


@dataclass
class RequestTotals:
    """Of all requests that ended, whatever they asked for."""

    by_status: Counter[str] = field(default_factory=Counter)  # "2xx"; "none" where the client hung up before
    by_error: Counter[str] = field(default_factory=Counter)  # by code
    seconds: float = 0.0

    def add(self, status: int, error: str, seconds: float) -> None:
        """`error`: its code, "" = none."""
        self.by_status[f"{status // 100}xx" if status else "none"] += 1
        self.seconds += seconds
        if error:
            self.by_error[error] += 1


class Activity:
    """Counts choices and keeps the speeds of the last. For one event loop.

    Attributes:
        requests, totals: since the start.
    """

    def __init__(self, n_slots: int) -> None:
        self.requests = RequestTotals()
        self.totals = Totals()
        self._n_slots = n_slots
        self._n_open = 0  # choices: given to the model and not ended
        self._answers: deque[AnswerSpeed] = deque(maxlen=MOST_ANSWERS)

    @contextmanager
    def generation(self, n: int) -> Iterator[None]:
        """The model has a request for `n` choices until the block ends."""
        self._n_open += n
        try:
            yield
        finally:
            self._n_open -= n

    def sees(self, events: Sequence[Event]) -> None:
        """A part of an answer."""
        for event in events:
            if isinstance(event, Done) and event.finish_reason != "cancelled":
                self._answers.append(_speed(event))
                if event.choice == 0:
                    self.totals.add_prompt(event.usage, event.timings)
                self.totals.add_answer(event.usage, event.timings)

    def saw(self, vectors: Vectors) -> None:
        """Texts became vectors or scores."""
        self.totals.add_prompt(vectors.usage, vectors.timings)

    def report(self, n_waiting: int, resident_bytes: int | None) -> ActivityReport:
        """`n_waiting`: requests that the model does not have yet."""
        busy = min(self._n_open, self._n_slots)
        queued = n_waiting + self._n_open - busy
        return ActivityReport(self._n_slots, busy, queued, resident_bytes, tuple(self._answers))


def _speed(done: Done) -> AnswerSpeed:
    usage, timings = done.usage, done.timings
    computed = usage.prompt_tokens - usage.cached_tokens
    prefill = computed / timings.prefill_s if timings.prefill_s > 0 else 0.0
    return AnswerSpeed(
        ended=round(time.time(), 3),
        prompt_tokens=usage.prompt_tokens,
        cached_tokens=usage.cached_tokens,
        completion_tokens=usage.completion_tokens,
        queued_s=round(timings.queued_s, 4),
        prefill_tok_s=round(prefill, 2),
        decode_tok_s=round(timings.decode_tok_s(usage.completion_tokens), 2),
    )
