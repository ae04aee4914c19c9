"""The loop in a thread of this process: every request gets exactly one end, whatever the engine does."""

from __future__ import annotations

import queue
import threading
from collections.abc import Sequence

import pytest
from support.waiting import PATIENCE_S

from edgellm.builtin.echo import EchoBackend
from edgellm.contract.engine import Engine, Logits, SlotInput
from edgellm.errors import BackendError, Closed, EdgeLLMError
from edgellm.runtime import thread
from edgellm.runtime.session import Delivery
from edgellm.runtime.thread import ThreadSession
from edgellm.types.event import Delta, Done
from edgellm.types.model import Artifact
from edgellm.types.plan import LaunchPlan, Settings
from edgellm.types.request import GenerationRequest
from edgellm.types.sampling import Sampling

ECHO = LaunchPlan("echo", Artifact("echo", (), "echo"), Settings(n_ctx=4096, n_slots=2))


class Sink:
    """Keeps what comes; `first` is called once, in the loop's own thread."""

    def __init__(self, first: object = None) -> None:
        self.outcomes: queue.SimpleQueue[Delivery] = queue.SimpleQueue()
        self._first = first

    def put(self, outcome: Delivery) -> None:
        self.outcomes.put(outcome)
        first, self._first = self._first, None
        if callable(first):
            first()

    def end(self) -> tuple[str, Done | EdgeLLMError]:
        text = ""
        while isinstance(outcome := self.outcomes.get(timeout=PATIENCE_S), Delta):
            text += outcome.text
        return text, outcome


class Quits(EchoBackend):
    """Raises at the first step what no plugin should."""

    def __init__(self, error: BaseException) -> None:
        self._error = error

    def open(self, plan: LaunchPlan) -> Engine:
        engine = super().open(plan)

        def step(batch: object) -> None:
            raise self._error

        engine.step = step  # type: ignore[method-assign, assignment]
        return engine


class Hangs(EchoBackend):
    """Its first step lasts until `end` is set."""

    def __init__(self) -> None:
        self.begun, self.end = threading.Event(), threading.Event()

    def open(self, plan: LaunchPlan) -> Engine:
        engine = super().open(plan)
        step = engine.step

        def hang(batch: Sequence[SlotInput]) -> Sequence[Logits]:
            self.begun.set()
            self.end.wait(PATIENCE_S)
            return step(batch)

        engine.step = hang  # type: ignore[method-assign]
        return engine


def greedy(prompt: str) -> GenerationRequest:
    return GenerationRequest(prompt, Sampling(temperature=0))


@pytest.mark.parametrize("error", [SystemExit(3), KeyboardInterrupt()], ids=["SystemExit", "KeyboardInterrupt"])
def test_an_engine_that_leaves_ends_the_requests(error: BaseException) -> None:
    session = ThreadSession(ECHO, Quits(error))
    sink = Sink()
    session.submit(greedy("hello"), sink)
    text, end = sink.end()

    assert text == ""
    assert isinstance(end, BackendError)
    assert session.state == "failed"
    session.close()


def test_closing_ends_what_runs_once() -> None:
    session = ThreadSession(ECHO, EchoBackend())
    sinks = [Sink() for _ in range(4)]
    for sink in sinks:
        session.submit(greedy("x" * 1500), sink)
    session.close()

    for sink in sinks:
        end = sink.end()[1]
        assert isinstance(end, Done)
        assert end.finish_reason == "cancelled"
        assert sink.outcomes.empty()
    with pytest.raises(Closed):
        session.submit(greedy("late"), Sink())


def test_closing_does_not_wait_for_a_model_that_hangs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(thread, "CLOSE_TIMEOUT_S", 0.1)
    backend, sink = Hangs(), Sink()
    session = ThreadSession(ECHO, backend)
    session.submit(greedy("hello"), sink)
    assert backend.begun.wait(PATIENCE_S)
    session.close()
    try:
        assert session._thread.is_alive()
        assert isinstance(sink.end()[1], Closed)
    finally:
        backend.end.set()
        session._thread.join(PATIENCE_S)
    assert sink.outcomes.empty()


def test_closing_tells_those_who_wait_before_it_gives_up_a_step(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(thread, "CLOSE_TIMEOUT_S", 3600.0)
    monkeypatch.setattr(thread, "TOLD_AFTER_S", 0.1)
    backend, sink = Hangs(), Sink()
    session = ThreadSession(ECHO, backend)
    session.submit(greedy("hello"), sink)
    assert backend.begun.wait(PATIENCE_S)
    closing = threading.Thread(target=session.close)
    closing.start()
    try:
        assert isinstance(sink.end()[1], Closed)
        assert closing.is_alive()
    finally:
        backend.end.set()
        closing.join(PATIENCE_S)
    assert not closing.is_alive()
    assert sink.outcomes.empty()


def test_draining_from_a_listener_lets_the_others_finish() -> None:
    """It is called in the loop's own thread, which cannot wait for itself."""
    session = ThreadSession(ECHO, EchoBackend())
    other = Sink()
    asked = threading.Event()

    def drain() -> None:
        asked.wait(PATIENCE_S)
        session.close(drain=True)

    first = Sink(drain)
    session.submit(greedy("a" * 50), first)
    session.submit(greedy("b" * 50), other)
    asked.set()

    for sink, letter in ((first, "a"), (other, "b")):
        text, end = sink.end()
        assert isinstance(end, Done)
        assert (text, end.finish_reason) == (letter * 50, "stop")
    session.close()
    assert session.state == "closed"
