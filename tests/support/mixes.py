"""Random mixes of requests that arrive, run together and are cancelled at chosen steps, played without a thread.

Time is counted in engine steps, so a mix plays the same on every machine.
"""

from __future__ import annotations

import queue
import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from msgspec import structs

from edgellm.contract.engine import AdapterLoader, Engine, SlotInput
from edgellm.errors import EdgeLLMError
from edgellm.runtime import wire
from edgellm.runtime.loop import Loop
from edgellm.types.adapter import DropAdapter, LoadAdapter
from edgellm.types.event import Adapters, Delta, DeltaKind, Done, Timings, Usage
from edgellm.types.logprob import TokenLogprob
from edgellm.types.request import GenerationRequest
from edgellm.types.sampling import Sampling

if TYPE_CHECKING:
    from edgellm.contract.engine import Logits


@dataclass(frozen=True)
class Planned:
    """A request, the step before which it arrives, and the one before which nobody listens any more."""

    request: GenerationRequest | LoadAdapter | DropAdapter
    arrives: int = 0
    cancelled: int | None = None


@dataclass
class Answer:
    """What was said about one request, until its end. Of several choices it is the first, and `others` has the rest."""

    text: str = ""  # of the answer itself
    parts: list[tuple[DeltaKind, int, str]] = field(default_factory=list)  # kind, call, and text in one piece
    n_tokens: int = 0  # as the text events count them
    logprobs: tuple[TokenLogprob, ...] = ()
    tokens: tuple[int, ...] = ()  # ids, where they are told
    timings: Timings | None = None
    reason: str = ""
    usage: Usage | None = None
    error: EdgeLLMError | None = None
    finished_at: int = -1  # step
    others: dict[int, Answer] = field(default_factory=dict)  # by choice

    @property
    def choices(self) -> list[Answer]:
        return [self, *(self.others[choice] for choice in sorted(self.others))]

    def hear(self, delta: Delta) -> None:
        self.text += delta.text if delta.kind == "text" else ""
        if self.parts and self.parts[-1][:2] == (delta.kind, delta.call):
            self.parts[-1] = (delta.kind, delta.call, self.parts[-1][2] + delta.text)
        elif delta.text:
            self.parts.append((delta.kind, delta.call, delta.text))

    def choice(self, number: int) -> Answer:
        return self.others.setdefault(number, Answer()) if number else self


def random_mix(
    rng: random.Random, requests: Sequence[GenerationRequest], *, most: int = 6, over_steps: int = 20
) -> list[Planned]:
    """Some of `requests`, arriving within `over_steps`; one in five is cancelled on the way."""
    mix = []
    for request in rng.choices(requests, k=rng.randint(2, most)):
        arrives = rng.randint(0, over_steps)
        cancelled = arrives + rng.randint(0, 12) if rng.random() < 0.2 else None
        mix.append(Planned(request, arrives, cancelled))
    return mix


def random_request(
    rng: random.Random, prompts: Sequence[str], *, longest: int, stops: Sequence[str], greedy: bool | None = None
) -> GenerationRequest:
    """Greedy or seeded, with and without filters, penalties, stop strings. `longest`: most tokens of an answer."""
    if rng.random() < 0.5 if greedy is None else greedy:
        sampling = Sampling(temperature=0)
    else:
        sampling = Sampling(
            temperature=rng.choice((0.7, 1.0, 1.5)), top_k=rng.choice((0, 5, 40)), top_p=rng.choice((1.0, 0.9)),
            min_p=rng.choice((0.0, 0.05)), typical_p=rng.choice((1.0, 1.0, 0.9)), seed=rng.randrange(2**32),
        )  # fmt: skip
    if rng.random() < 0.3:
        sampling = structs.replace(sampling, repetition_penalty=1.2, frequency_penalty=0.3, presence_penalty=0.2)
    return GenerationRequest(
        rng.choice(prompts),
        sampling,
        max_tokens=rng.randint(4, longest),
        stop=tuple(rng.sample(stops, rng.randint(1, 2))) if stops and rng.random() < 0.4 else (),
        ignore_eos=rng.random() < 0.3,
    )


def play(engine: Engine, mix: Sequence[Planned]) -> list[Answer]:
    """Run the mix to its end through the runtime's loop; afterwards nothing is held and nothing is broken.

    Raises:
        AssertionError: the loop would wait for ever, or its scheduler broke an invariant.
    """
    stage = Stage(engine, mix)
    stage.loop.run()
    stage.check()
    return stage.answers


@dataclass
class Stage:
    """The engine as the loop sees it: before each step, what is due arrives."""

    engine: Engine
    mix: Sequence[Planned]
    n_steps: int = 0
    answers: list[Answer] = field(init=False)

    def __post_init__(self) -> None:
        self.info, self.tokenizer = self.engine.info, self.engine.tokenizer
        self.truncate, self.fork = self.engine.truncate, self.engine.fork
        if isinstance(self.engine, AdapterLoader):
            self.load_adapter, self.drop_adapter = self.engine.load_adapter, self.engine.drop_adapter
        self.answers = [Answer() for _ in self.mix]
        self.inbox = _Inbox()
        self.loop = Loop(self, self.inbox, self._hear)
        due: list[tuple[int, int, wire.Down]] = []
        for number, planned in enumerate(self.mix, 1):
            due.append((planned.arrives, number, wire.Submit(number, planned.request)))
            if planned.cancelled is not None:
                due.append((planned.cancelled, number, wire.Cancel(number)))
        self._due = sorted(due, key=lambda entry: entry[0])
        self._open: set[int] = set()
        self._next_messages()

    def step(self, batch: Sequence[SlotInput]) -> list[Logits]:
        self.check()
        rows = self.engine.step(batch)
        self.n_steps += 1
        while self._due and self._due[0][0] <= self.n_steps:
            self._put()
        return rows

    def check(self) -> None:
        """No invariant is broken, and a toy's slots hold what the scheduler believes they hold."""
        scheduler = self.loop._scheduler
        assert scheduler.violations() == []
        held = getattr(self.engine, "slots", None)
        assert held is None or held == [slot.tokens for slot in scheduler.slots]

    def close(self) -> None:
        self.engine.close()

    def _next_messages(self) -> None:
        """Nothing runs: time jumps to what comes next, or the mix is over."""
        while self._due and not self._open:
            self._put()
        if not self._open:
            self.inbox.put(wire.Stop(drain=True))

    def _put(self) -> None:
        _, number, message = self._due.pop(0)
        if isinstance(message, wire.Submit):
            self._open.add(number)
        self.inbox.put(message)

    def _hear(self, messages: list[wire.Up]) -> None:
        for message in messages:
            assert isinstance(message, wire.Reply)
            answer = self.answers[message.id - 1]
            assert message.id in self._open, "an event after the last one"
            match message.event:
                case Delta(_, n_tokens, logprobs) as delta:
                    choice = answer.choice(delta.choice)
                    assert not choice.reason, "a text after its end"
                    choice.hear(delta)
                    choice.logprobs += logprobs
                    choice.n_tokens += n_tokens
                    choice.tokens += delta.tokens
                case Done(reason, usage) as done:
                    choice = answer.choice(done.choice)
                    assert not choice.reason, "a second end"
                    choice.reason, choice.usage, choice.finished_at = reason, usage, self.n_steps
                    choice.timings = done.timings
                    n_ended = sum(bool(choice.reason) for choice in answer.choices)
                    asked = self.mix[message.id - 1].request
                    assert isinstance(asked, GenerationRequest)
                    assert n_ended + done.n_open == asked.n
                    if not done.n_open:
                        self._open.remove(message.id)
                case Adapters(loaded):
                    answer.text, answer.finished_at = ", ".join(file.name for file in loaded), self.n_steps
                    self._open.remove(message.id)
                case wire.Failed() as failed:
                    answer.error, answer.finished_at = failed.error(), self.n_steps
                    self._open.remove(message.id)
        if not self._open:
            self._next_messages()


class _Inbox(queue.SimpleQueue[Any]):
    """Filled by the thread that reads it, so that waiting would be for ever, but for a grammar that is compiled."""

    def get(self, block: bool = True, timeout: float | None = None) -> Any:
        assert not (block and timeout is None and self.empty()), "the loop waits and nothing will come"
        return super().get(block, timeout)
