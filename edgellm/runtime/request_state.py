"""A choice of a running request: what the scheduler plans with, and what the loop answers with."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import msgspec

from edgellm.runtime.wire import Steps
from edgellm.text import logprobs
from edgellm.text.part_stream import PartStream
from edgellm.text.readers import AnswerReader, Part, reader_of
from edgellm.text.sampling import LogitRow, Sampler
from edgellm.types.adapter import AdapterSet, adapter_set
from edgellm.types.event import Delta, DeltaKind, Prefill, Timings, Usage
from edgellm.types.logprob import TokenLogprob
from edgellm.types.request import GenerationRequest
from edgellm.types.sampling_defaults import NEUTRAL, SamplingDefaults

if TYPE_CHECKING:
    from edgellm.contract.engine import Logits
    from edgellm.text.matcher import Matcher

CONTINUED_CHUNK = 32  # llama.cpp computes attention of 64 rows and more in tiles


@dataclass(slots=True)
class Said:
    """A piece of an answer, all of one kind, and the tokens that said it."""

    text: str
    kind: DeltaKind
    call: int = 0
    n_tokens: int = 0
    logprobs: list[TokenLogprob] = field(default_factory=list)
    tokens: list[int] = field(default_factory=list)  # their ids, where they are told


@dataclass(slots=True, eq=False)
class RequestState:
    """One answer to a request on its way through the engine. Times are seconds of `time.perf_counter`.

    Choice 0 reads the prompt. The others get their first token from the same logits, and then a copy of its slot.
    """

    id: int
    generation: GenerationRequest
    prompt: list[int]  # what is read before anything is drawn
    limit: int  # tokens to generate at most
    defaults: SamplingDefaults = NEUTRAL  # for what the request leaves open
    matcher: Matcher | None = None  # of its grammar
    choice: int = 0  # of the answers that the request asked for
    served_with: AdapterSet = ()  # adapters, where the request leaves them open
    sampler: Sampler = field(init=False)
    text: PartStream = field(init=False)
    adapters: AdapterSet = field(init=False)  # whose cache it reads and writes
    reads: bool = field(init=False)  # thoughts and calls are told from text
    # Where it stands in its slot.
    slot: int = -1
    n_cached: int = 0  # of the prompt, reused from the slot
    n_told_cached: int = 0  # of these, as its client is told: what another's prompt left there tells what that said
    n_prefilled: int = 0  # of the prompt, in the cache
    n_noted: int = 0  # of the prompt, tokens whose rows were told
    n_told: int = -1  # of these, as the last `Prefill` has it
    n_begun: int = 0  # tokens behind what was asked that the answer begins with (`Continuation`)
    paused: bool = False  # it lost its slot once at least
    n_again: int = 0  # and behind these, tokens of the answer that are read again for that
    n_lost: int = 0  # tokens that it had read when it lost its slot before all were, added up
    n_before: int = 0  # of what it has generated, tokens that were there when it got its slot
    next_tokens: tuple[int, ...] = ()  # of the answer, not yet in the cache
    # What it has generated.
    n_generated: int = 0
    n_reasoning: int = 0  # of these in thoughts, the markers around them too
    calls_tools: bool = False
    cut_short: bool = False  # its thought has used up its budget, and is being ended
    due: deque[int] = field(default_factory=deque)  # that come next whatever is likely
    said: list[Said] = field(default_factory=list)  # what has not been sent
    n_unsaid: int = 0  # tokens that have said nothing yet, and their logprobs
    unsaid_logprobs: list[TokenLogprob] = field(default_factory=list)
    unsaid: list[int] = field(default_factory=list)  # ids of these tokens, where they are told
    # For its timings and the metrics.
    arrived: float = field(default_factory=time.perf_counter)
    started: float = 0.0
    first: float = 0.0  # when the first token was there
    waited_s: float = 0.0  # for a slot, after the first token
    waits_since: float = 0.0  # of one that had a slot, or a first token, and has no slot
    n_steps: int = 0
    n_decoded: int = 0  # steps after the one that brought the first token
    n_beside: int = 0  # other requests in its steps, added up

    def __post_init__(self) -> None:
        sampling = self.generation.sampling.over(self.defaults.values)
        if self.choice and sampling.seed is not None:
            sampling = msgspec.structs.replace(sampling, seed=(sampling.seed + self.choice) % 2**63)
        if sampling.seed is None and self.generation.continuation is not None:
            sampling = msgspec.structs.replace(sampling, seed=self.generation.continuation.seed)
        self.sampler = Sampler(sampling, self.prompt)
        asked = self.generation.adapters
        self.adapters = adapter_set(self.served_with if asked is None else asked)
        self.reads = self.generation.reading is not None
        self.text = PartStream(self.generation.stop, _reader(self.generation))

    @property
    def ready(self) -> bool:
        """Whether it can have a slot: a further choice once it has its first token."""
        return not self.choice or bool(self.next_tokens)

    @property
    def decoding(self) -> bool:
        return bool(self.next_tokens) and self.n_prefilled == len(self.prompt)

    @property
    def tells_prompt(self) -> bool:
        """Whether each token of its prompt needs logits."""
        asks = self.generation.echo and self.generation.top_logprobs is not None
        return asks and not self.choice and not self.next_tokens

    @property
    def computes_prompt(self) -> bool:
        """Whether all of its prompt is computed, whatever a slot holds of it."""
        return self.tells_prompt or not (self.generation.reuse or self.choice)

    @property
    def gate(self) -> Matcher | None:
        """What the next token has to keep to: a grammar is for what is answered, and not for what is thought."""
        return None if self.matcher is None or self.text.thinking else self.matcher

    @property
    def width(self) -> float:
        """Requests in its steps, on average."""
        return 1.0 + self.n_beside / max(1, self.n_steps)

    @property
    def usage(self) -> Usage:
        return Usage(self.n_prompt, self.n_generated, min(self.n_told_cached, self.n_prompt), self.n_reasoning)

    @property
    def n_prompt(self) -> int:
        """Tokens of what was asked."""
        return len(self.prompt) - self.n_begun - self.n_again

    @property
    def steps(self) -> Steps | None:
        """For the metrics; None where the prompt was read a second time, with logits for all of it, with more, or in
        less than is told."""
        reread = (self.choice > 0 and self.n_cached < len(self.prompt)) or self.n_told_cached != self.n_cached
        return None if reread or self.tells_prompt or self.n_begun or self.paused else Steps(self.width, self.n_decoded)

    @property
    def n_left(self) -> int:
        """Tokens of its prompt that have to be read."""
        return len(self.prompt) - self.n_prefilled

    def begin(self, now: float) -> None:
        """It has a slot."""
        if self.first:
            self.waited_s += now - self.waits_since
        else:  # what it waited since it gave way is no reading
            self.started = self.started + now - self.waits_since if self.started else now

    def progress(self, now: float) -> list[Prefill]:
        """What was read of the prompt since it was last told, where the request wants to know."""
        if not self.generation.progress or self.choice or self.first or self.n_told >= self.n_prefilled:
            return []
        self.n_told = self.n_prefilled
        cached, told, read = (min(n, self.n_prompt) for n in (self.n_cached, self.n_told_cached, self.n_prefilled))
        if told < cached:
            read = self.n_prompt - (self.n_prompt - read) * (self.n_prompt - told) // max(1, self.n_prompt - cached)
        return [Prefill(self.n_prompt, told, read, now - self.started)]

    @property
    def next_chunk(self) -> int:
        """Tokens of the prompt that may be read in one step: the prompt as where the answer began, and few at a time of
        those that it begins with, as kernels for many rows round otherwise than those that computed them one by one."""
        left = self.n_prompt - self.n_prefilled
        return left if left > 0 else CONTINUED_CHUNK

    def goes_on_behind(self, tokens: list[int]) -> None:
        """The answer begins with these, which were taken: they are read with the prompt."""
        self.prompt, self.n_begun = [*self.prompt, *tokens], len(tokens)

    def pause(self, tokens: list[int], now: float) -> None:
        """It loses its slot, which held `tokens`. Those of an answer are its prompt when it has one again."""
        self.paused = True
        if self.n_left:
            self.n_lost += self.n_prefilled
        else:
            self.n_again += len(tokens) - len(self.prompt)
            self.prompt = list(tokens)
        self.n_prefilled, self.slot = 0, -1
        self.waits_since = now

    def follow(self, first: RequestState, now: float) -> None:
        """The first choice has read the prompt."""
        self.arrived, self.started, self.first = first.arrived, first.started, now
        self.waits_since = now
        self.n_cached = self.n_told_cached = len(self.prompt)

    def count_step(self, n_beside: int) -> None:
        """A step was computed with `n_beside` other requests in it."""
        self.n_steps += 1
        self.n_decoded += self.first > 0
        self.n_beside += n_beside

    def note_logprob(self, row: LogitRow, token: int, token_bytes: Callable[[int], bytes]) -> None:
        """Where the request asked for them: `token` was drawn from `row`."""
        n_top = self.generation.top_logprobs
        if n_top is not None:
            self.unsaid_logprobs.append(logprobs.of_token(row, token, n_top, token_bytes))

    def note_prompt(self, rows: Logits, token_bytes: Callable[[int], bytes]) -> None:
        """`rows` are the logits of the latest tokens of the prompt that were computed."""
        n_top, start = self.generation.top_logprobs or 0, self.n_prefilled - len(rows)
        told = [] if self.n_noted else [logprobs.of_first(self.prompt[0], token_bytes)]
        n_again = max(0, self.n_noted - start)  # it gave way, and is read again
        start, rows = start + n_again, rows[n_again:]
        self.n_noted = max(self.n_noted, self.n_prefilled)
        following = self.prompt[start + 1 : self.n_prefilled + 1]
        told += [logprobs.of_token(row, token, n_top, token_bytes) for row, token in zip(rows, following, strict=False)]
        if told:
            self.say([Part("prompt", "")])
            self.said[-1].logprobs += told

    def take(self, token: int, piece: bytes) -> None:
        """A token came, which adds these bytes."""
        self.n_generated += 1
        self.n_unsaid += 1
        if self.generation.continuation is not None:
            self.unsaid.append(token)
        thought = self.reads and self.text.thinking
        parts = self.text.push(piece)
        if self.reads and (thought or self.text.thinking):
            self.n_reasoning += 1
            if self.matcher is not None:
                # What the last token of a thought says beyond it is not by the grammar, which begins behind it.
                parts = [part for part in parts if part.kind == "reasoning"]
        self.say(parts)

    def say(self, parts: Sequence[Part]) -> None:
        """Add to what is to be sent. Tokens count where they say something, or else where the next ones do."""
        for part in parts:
            last = self.said[-1] if self.said else None
            if last is not None and (last.kind, last.call) == (part.kind, part.call):
                last.text += part.text
            else:
                self.said.append(Said(part.text, part.kind, part.call))
                self.calls_tools = self.calls_tools or part.kind == "call_name"
        if self.said:
            self.said[-1].n_tokens += self.n_unsaid
            self.said[-1].logprobs += self.unsaid_logprobs
            self.said[-1].tokens += self.unsaid
            self.n_unsaid, self.unsaid_logprobs, self.unsaid = 0, [], []

    def flush(self) -> list[Delta]:
        """What has not been sent, in order, which then counts as sent."""
        if not self.said and self.unsaid_logprobs:
            self.say([Part("reasoning" if self.text.thinking else "text", "")])
        said, self.said = self.said, []
        return [
            Delta(one.text, one.n_tokens, tuple(one.logprobs), one.kind, one.call, self.choice, tuple(one.tokens))
            for one in said
        ]

    def timings(self, now: float) -> Timings:
        started, first = self.started or now, self.first or now
        waits_s = now - self.waits_since if self.started and self.slot < 0 else 0.0
        waited_s = self.waited_s + waits_s
        if not self.first:
            started, waited_s = started + waits_s, 0.0
        parts = self.defaults.under(self.generation.sampling)
        return Timings(started - self.arrived + waited_s, first - started, now - first - waited_s, parts, self.n_begun)


def _reader(generation: GenerationRequest) -> AnswerReader | None:
    reading = generation.reading
    if reading is None:
        return None
    reasoning = reading.markup.reasoning
    if reasoning is not None and reasoning.ended_by_call and generation.grammar is not None:
        # The grammar begins where the thought ends, and a call has begun by then.
        markup = msgspec.structs.replace(
            reading.markup, reasoning=msgspec.structs.replace(reasoning, ended_by_call=False)
        )
        reading = msgspec.structs.replace(reading, markup=markup)
    return reader_of(reading)
