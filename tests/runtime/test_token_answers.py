"""Who wants to know tokens does not wait for a step, and is no sign that steps go on."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence

import pytest
from support.sessions import Listener, OpenSession, ask
from support.toy_engine import ToyEngine
from support.waiting import PATIENCE_S, wait_until

from edgellm.contract.engine import SlotInput, Tokenizer
from edgellm.errors import WorkerCrashed
from edgellm.runtime import loop, token_answers, wire
from edgellm.runtime.long_text import LONG_TEXT, VERY_LONG_TEXT
from edgellm.runtime.loop import Loop
from edgellm.runtime.mailbox import Mailbox
from edgellm.runtime.token_answers import TokenAnswers
from edgellm.types.event import Pieces, Tokens
from edgellm.types.request import DetokenizeRequest, GenerationRequest, TokenizeRequest, TokenRequest
from edgellm.types.sampling import Sampling

SHORT, LONG = "a", "a" * (LONG_TEXT + 1)
GREEDY = Sampling(temperature=0)


class Script:
    """A tokenizer that does `first` before it encodes."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self.token_bytes, self.text = tokenizer.token_bytes, tokenizer.text
        self.first: Callable[[str], object] = lambda text: None

    def encode(self, text: str, *, add_special: bool, parse_special: bool) -> list[int]:
        self.first(text)
        return self._tokenizer.encode(text, add_special=add_special, parse_special=parse_special)


class Running:
    """A loop in a thread, of an engine whose steps wait while `go` is not set; what it said, and what raised."""

    def __init__(self) -> None:
        engine = ToyEngine(before_step=self._step)
        self.tokenizer = engine.tokenizer = Script(engine.tokenizer)  # type: ignore[assignment]
        self.go, self.in_step = threading.Event(), threading.Event()
        self.go.set()
        self.inbox: Mailbox[wire.Down] = Mailbox()
        self.ends: list[tuple[int, object]] = []
        self.beats = 0
        self.raised: BaseException | None = None
        self.loop = Loop(engine, self.inbox, self._hear)
        self.answers: TokenAnswers = self.loop.token_answers
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()

    def _run(self) -> None:
        try:
            self.loop.run()
        except BaseException as error:
            self.raised = error

    def _step(self, engine: ToyEngine, batch: Sequence[SlotInput]) -> None:
        self.in_step.set()
        assert self.go.wait(PATIENCE_S)

    def _hear(self, messages: list[wire.Up]) -> None:
        self.beats += not messages
        self.ends += [(message.id, message.event) for message in messages if isinstance(message, wire.Reply)]

    def ask(self, number: int, request: TokenRequest) -> None:
        assert self.answers.takes(wire.Submit(number, request))

    def hold_a_step(self) -> None:
        self.go.clear()
        self.inbox.put(wire.Submit(0, GenerationRequest("Hi", GREEDY, max_tokens=1)))
        assert self.in_step.wait(PATIENCE_S)

    def stop(self, *, drain: bool = False) -> None:
        self.inbox.put(wire.Stop(drain))

    def join(self) -> None:
        self.thread.join(PATIENCE_S)
        assert not self.thread.is_alive()


@pytest.fixture
def running() -> Iterator[Running]:
    one = Running()
    yield one
    one.go.set()
    one.stop()
    one.join()


@pytest.fixture
def held(running: Running) -> Iterator[threading.Event]:
    """Long texts are read on once it is set."""
    go_on, running.begun = threading.Event(), []  # type: ignore[attr-defined]

    def first(text: str) -> None:
        if len(text) > LONG_TEXT:
            running.begun.append(text)  # type: ignore[attr-defined]
            assert go_on.wait(PATIENCE_S)

    running.tokenizer.first = first
    yield go_on
    go_on.set()


@pytest.mark.parametrize(
    ("request_", "answer"),
    [
        (TokenizeRequest("abc"), Tokens((99, 100, 101))),
        (TokenizeRequest("abc", cuts=(1,)), Tokens((99, 100, 101))),
        (TokenizeRequest(LONG), Tokens((99,) * len(LONG))),
        (DetokenizeRequest((2, 3)), Pieces((b"a", b"b"))),
    ],
    ids=["short", "cut", "long", "tokens"],
)
def test_they_are_answered_while_a_step_is_computed(running: Running, request_: TokenRequest, answer: object) -> None:
    if isinstance(answer, Tokens):
        answer = Tokens(tuple(running.loop._tokenizer.encode(request_.text, add_special=False, parse_special=False)))  # type: ignore[union-attr]
    running.hold_a_step()
    running.ask(1, request_)
    wait_until(lambda: running.ends)
    assert running.ends == [(1, answer)]
    assert not running.go.is_set()


def test_short_ones_do_not_wait_for_a_long_one(running: Running, held: threading.Event) -> None:
    running.ask(1, TokenizeRequest(LONG))
    wait_until(lambda: running.begun)  # type: ignore[attr-defined]
    running.ask(2, TokenizeRequest(SHORT))
    assert [number for number, _ in running.ends] == [2]


def test_long_ones_do_not_wait_for_one_that_is_very_long(running: Running) -> None:
    go_on = threading.Event()
    running.tokenizer.first = lambda text: len(text) <= VERY_LONG_TEXT or go_on.wait(PATIENCE_S)
    running.ask(1, TokenizeRequest("a" * (VERY_LONG_TEXT + 1)))
    running.ask(2, TokenizeRequest(LONG))
    wait_until(lambda: running.ends)
    assert [number for number, _ in running.ends] == [2]
    go_on.set()


def test_all_else_is_for_the_loop(running: Running) -> None:
    for message in (wire.Submit(1, GenerationRequest("Hi")), wire.Cancel(2), wire.Stop(drain=True)):
        assert not running.answers.takes(message)


class TestSignsOfLife:
    def test_the_loop_gives_them_while_a_long_text_is_read(
        self, running: Running, held: threading.Event, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(loop, "BEAT_S", 0.01)
        running.ask(1, TokenizeRequest(LONG))
        wait_until(lambda: running.beats > 2)

    @pytest.mark.parametrize("text", [SHORT, LONG], ids=["short", "long"])
    def test_and_after_each_text_where_it_waits_for_nothing(
        self, running: Running, text: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(token_answers, "BEAT_S", 0.0)
        for number in range(1, 4):
            running.ask(number, TokenizeRequest(text))
            wait_until(lambda: running.beats == number)  # noqa: B023

    def test_but_not_in_a_step(self, running: Running, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(token_answers, "BEAT_S", 0.0)
        running.hold_a_step()
        running.ask(1, TokenizeRequest(SHORT))
        running.ask(2, TokenizeRequest(LONG))
        wait_until(lambda: len(running.ends) == 2)
        assert running.beats == 0

    def test_a_step_that_hangs_is_found_while_texts_are_counted(
        self, open_session: OpenSession, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("EDGELLM_HUNG_AFTER", "2")
        monkeypatch.setenv("EDGELLM_ECHO_STEP_S", "60")
        session = open_session()
        assert session.info
        hanging, counts = ask(session), list[object]()

        def is_found() -> bool:
            counted = Listener()
            try:
                session.submit(TokenizeRequest(SHORT), counted)
            except WorkerCrashed:
                return True
            counts.append(counted.get())
            time.sleep(0.5)  # a worker that computes has longer
            return not hanging._queue.empty()

        wait_until(is_found)
        error = hanging.get()
        assert isinstance(error, WorkerCrashed)
        assert error.reason.startswith("hung")
        assert any(isinstance(count, Tokens) for count in counts)


def test_those_that_are_cancelled_are_never_read(running: Running, held: threading.Event) -> None:
    for number in range(1, 6):
        running.ask(number, TokenizeRequest(LONG + str(number)))
    wait_until(lambda: running.begun)  # type: ignore[attr-defined]
    for number in range(1, 6):
        assert running.answers.takes(wire.Cancel(number))
    held.set()
    running.ask(6, TokenizeRequest(LONG))
    wait_until(lambda: running.ends)
    assert [number for number, _ in running.ends] == [6]
    assert running.begun == [LONG + "1", LONG]  # type: ignore[attr-defined]


def test_draining_answers_what_is_still_read(
    running: Running, held: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "BEAT_S", 0.01)
    running.ask(1, TokenizeRequest(LONG))
    running.stop(drain=True)
    wait_until(lambda: running.loop._stopping)
    running.beats = 0
    wait_until(lambda: running.beats > 2, what="it has looked whether it is done, and goes on")
    held.set()
    running.join()
    ((number, event),) = running.ends
    assert (number, type(event)) == (1, Tokens)


def test_closing_ends_what_is_still_read_once(running: Running, held: threading.Event) -> None:
    for number in (1, 2):
        running.ask(number, TokenizeRequest(LONG))
    wait_until(lambda: running.begun)  # type: ignore[attr-defined]
    running.stop()
    wait_until(lambda: len(running.ends) == 2)
    held.set()
    running.join()
    assert sorted((number, event.code) for number, event in running.ends if isinstance(event, wire.Failed)) == [
        (1, "closed"), (2, "closed"),
    ]  # fmt: skip
    assert not running.answers.takes(wire.Submit(3, TokenizeRequest(SHORT))), "the engine may be closed"


@pytest.mark.parametrize("text", [SHORT, LONG], ids=["short", "long"])
class TestATokenizer:
    @pytest.mark.parametrize(
        ("error", "code"),
        [(RuntimeError("no"), "backend_error"), (MemoryError(), "backend_unavailable")],
        ids=["fails", "memory"],
    )
    def test_that_raises_is_a_typed_error(self, running: Running, text: str, error: Exception, code: str) -> None:
        running.tokenizer.first = lambda text: raises(error)
        running.ask(1, TokenizeRequest(text))
        wait_until(lambda: running.ends)
        ((_, failed),) = running.ends
        assert isinstance(failed, wire.Failed)
        assert failed.code == code

    def test_that_would_end_the_process_ends_the_loop(self, running: Running, text: str) -> None:
        """Whose end the worker tells of."""
        running.tokenizer.first = lambda text: raises(SystemExit(3))
        running.ask(1, TokenizeRequest(text))
        running.join()
        assert isinstance(running.raised, SystemExit)
        assert running.ends == []


def raises(error: BaseException) -> None:
    raise error


def test_frames_of_several_threads_do_not_mix(open_session: OpenSession) -> None:
    """Each is longer than a pipe holds, or comes while such a one waits in it."""
    session = open_session()
    assert session.info
    listeners = [Listener() for _ in range(200)]
    for number, listener in enumerate(listeners):
        session.submit(TokenizeRequest("a" * (400_000 if number % 20 == 0 else 4000)), listener)
    answers = [ask(session, "x" * 500) for _ in range(3)]
    assert all(isinstance(listener.get(), Tokens) for listener in listeners)
    assert [answer.end()[0] for answer in answers] == ["x" * 500] * 3
    assert session.restarts == 0
