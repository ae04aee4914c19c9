"""The runtime around an engine, for tests of what both do together."""

from __future__ import annotations

import contextlib
import queue
import threading
from typing import TYPE_CHECKING, Any

import pytest

from edgellm.errors import EdgeLLMError, WorkerCrashed
from edgellm.runtime import wire
from edgellm.runtime.loop import Loop
from edgellm.runtime.session import Delivery, QueueSink
from edgellm.runtime.supervisor import WorkerSession
from edgellm.testing.limit import Hangs, within
from edgellm.types.event import Delta, Done, GrammarRead
from edgellm.types.request import EmbeddingRequest, GenerationRequest, Request
from edgellm.types.sampling import Sampling

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from edgellm.contract.engine import Engine, Logits, SlotInput
    from edgellm.types.plan import LaunchPlan


class Running:
    """The runtime's loop over an engine, in a thread, for as long as the `with` block lasts."""

    def __init__(self, engine: Engine, limit_s: float) -> None:
        self._limit_s = limit_s
        self._inbox: queue.SimpleQueue[wire.Down] = queue.SimpleQueue()
        self._replies: queue.SimpleQueue[wire.Reply | BaseException] = queue.SimpleQueue()
        self._next = 0
        self._loop = Loop(engine, self._inbox, self._receive)
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Running:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._inbox.put(wire.Stop(drain=False))
        if kind is not None and issubclass(kind, Hangs):
            return
        self._thread.join(self._limit_s)
        if self._thread.is_alive():
            raise Hangs.in_thread("the end of the loop", self._limit_s, self._thread)

    def submit(self, request: Request) -> int:
        self._next += 1
        self._inbox.put(wire.Submit(self._next, request))
        return self._next

    def cancel(self, request_id: int) -> None:
        self._inbox.put(wire.Cancel(request_id))

    def wait_for(self, kind: type[Any] | tuple[type[Any], ...], request_id: int) -> Any:
        """The next event of that kind of that request; others are dropped.

        Raises:
            EdgeLLMError: the request failed. Hangs: nothing came in time. Others: what ended the loop.
        """
        while True:
            reply = self._next_reply(f"an answer to request {request_id}")
            if reply.id == request_id and isinstance(reply.event, wire.Failed):
                raise reply.event.error()
            if reply.id == request_id and isinstance(reply.event, kind):
                return reply.event

    def answer(self, request: GenerationRequest) -> list[Delta]:
        """All of it but its end. Raises as `wait_for` does."""
        request_id, deltas = self.submit(request), []
        while not isinstance(event := self.wait_for((Delta, Done), request_id), Done):
            deltas.append(event)
        return deltas

    def all_of(self, request_ids: Sequence[int]) -> list[list[Delta]]:
        """The same of requests that were submitted together. Raises as `wait_for` does."""
        answers: dict[int, list[Delta]] = {request_id: [] for request_id in request_ids}
        n_open = len(answers)
        while n_open:
            reply = self._next_reply(f"answers to requests {sorted(answers)}")
            if reply.id in answers and isinstance(reply.event, Delta):
                answers[reply.id].append(reply.event)
            n_open -= reply.id in answers and isinstance(reply.event, Done)
        return list(answers.values())

    def choices(self, request: GenerationRequest) -> list[list[Delta]]:
        """Each of its answers, but for the ends. Raises as `wait_for` does."""
        request_id, choices = self.submit(request), [list[Delta]() for _ in range(request.n)]
        while not isinstance(event := self.wait_for((Delta, Done), request_id), Done) or event.n_open:
            if isinstance(event, Delta):
                choices[event.choice].append(event)
        return choices

    def _next_reply(self, what: str) -> wire.Reply:
        try:
            reply = self._replies.get(timeout=self._limit_s)
        except queue.Empty:
            raise Hangs.in_thread(what, self._limit_s, self._thread) from None
        if isinstance(reply, BaseException):
            raise reply
        return reply

    def _run(self) -> None:
        try:
            self._loop.run()
        except BaseException as error:
            self._replies.put(error)

    def _receive(self, messages: list[wire.Up]) -> None:
        for message in messages:
            if isinstance(message, wire.Reply):
                self._replies.put(message)


class Counted:
    """An engine, and how many tokens it computed."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self.info, self.tokenizer = engine.info, engine.tokenizer
        self.truncate, self.fork, self.close = engine.truncate, engine.fork, engine.close
        self.n_tokens = 0

    def step(self, batch: Sequence[SlotInput]) -> list[Logits]:
        self.n_tokens += sum(len(entry.tokens) for entry in batch)
        return self._engine.step(batch)


def try_in_worker(plan: LaunchPlan, limit_s: float) -> None:
    """Fails the test where a worker that opens the plan and answers a short request hangs or dies of it.

    The tests share one engine in pytest's own process, which native code that dies would take with it.
    """
    __tracebackhide__ = True
    with _worker(plan, "opens the plan and answers a request") as session:
        info = within(limit_s, f"a worker that opens {plan.backend}", lambda: session.info)
        ask: Request = EmbeddingRequest(("Hello",))
        if info.generates:
            ask = GenerationRequest("Hello", Sampling(temperature=0), max_tokens=2)
        within(limit_s, "a worker's first answer", lambda: _answered(session, ask))


def try_to_open(plan: LaunchPlan, limit_s: float, what: str) -> None:
    """Fails the test where a worker that opens the plan hangs or dies of it. `what` the plan asks for, in words."""
    __tracebackhide__ = True
    with _worker(plan, f"opens {what}") as session:
        try:
            within(limit_s, f"a worker that opens {what}", lambda: session.info)
        except EdgeLLMError as error:
            if isinstance(error, WorkerCrashed):
                raise


@contextlib.contextmanager
def _worker(plan: LaunchPlan, does: str) -> Iterator[WorkerSession]:
    """Its death is the failure of the test."""
    __tracebackhide__ = True
    death = ""
    with contextlib.closing(WorkerSession(plan)) as session:
        try:
            yield session
        except WorkerCrashed as error:
            death = error.reason
    if death:
        pytest.fail(f"a worker that {does} dies: {death}", pytrace=False)


def _answered(session: WorkerSession, request: Request) -> None:
    sink = QueueSink()
    session.submit(request, sink)
    outcome: Delivery = sink.get()
    while isinstance(outcome, Delta | GrammarRead):
        outcome = sink.get()
    if isinstance(outcome, EdgeLLMError):
        raise outcome
