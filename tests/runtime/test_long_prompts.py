"""A long prompt is turned into tokens beside the answers at hand, and one that nobody waits for not at all."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import numpy as np
import pytest
from support.toy_engine import ToyEngine, answer
from support.waiting import PATIENCE_S, wait_until

from edgellm.builtin.echo import EchoEngine
from edgellm.contract.engine import Tokenizer
from edgellm.runtime import loop, wire
from edgellm.runtime.loop import Loop
from edgellm.runtime.mailbox import Mailbox
from edgellm.runtime.prompt_reader import LONG_TEXT
from edgellm.types.event import Delta, Done, GrammarRead, Vectors
from edgellm.types.grammar import Grammar
from edgellm.types.plan import Settings
from edgellm.types.request import MAX_TOKEN_BYTES, EmbeddingRequest, GenerationRequest
from edgellm.types.sampling import Sampling

N_CTX = 3 * LONG_TEXT
LONG = "a" * (LONG_TEXT + 1)
GREEDY = Sampling(temperature=0)


class Held:
    """Long texts are held up until `release` is set, as a megabyte holds up a real tokenizer."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self.token_bytes, self.pieces = tokenizer.token_bytes, tokenizer.pieces
        self.release = threading.Event()
        self.begun: list[str] = []

    def encode(self, text: str, *, add_special: bool, parse_special: bool) -> list[int]:
        if len(text) > LONG_TEXT:
            self.begun.append(text)
            assert self.release.wait(PATIENCE_S)
        return self._tokenizer.encode(text, add_special=add_special, parse_special=parse_special)


class Running:
    """A loop in a thread, and what it said of each request."""

    def __init__(self, engine: ToyEngine | EchoEngine) -> None:
        self.engine = engine
        self.tokenizer = Held(engine.tokenizer)
        self.engine.tokenizer = self.tokenizer  # type: ignore[assignment]
        self.inbox: Mailbox[wire.Down] = Mailbox()
        self.texts: dict[int, str] = {}
        self.beats = 0
        self.ends: dict[int, Done | Vectors | wire.Failed] = {}
        self.loop = Loop(self.engine, self.inbox, self._hear)
        self._thread = threading.Thread(target=self.loop.run, daemon=True)
        self._thread.start()

    def _hear(self, messages: list[wire.Up]) -> None:
        self.beats += not messages
        for message in messages:
            assert isinstance(message, wire.Reply)
            if isinstance(message.event, GrammarRead):
                continue
            if isinstance(message.event, Delta):
                self.texts[message.id] = self.texts.get(message.id, "") + message.event.text
            else:
                self.ends[message.id] = message.event  # type: ignore[assignment]

    def ask(self, number: int, prompt: str, max_tokens: int = 5) -> GenerationRequest:
        request = GenerationRequest(prompt, GREEDY, max_tokens, ignore_eos=True)
        self.inbox.put(wire.Submit(number, request))
        return request

    def embed(self, number: int, *texts: str) -> None:
        self.inbox.put(wire.Submit(number, EmbeddingRequest(texts)))

    def stop(self, *, drain: bool = False) -> None:
        self.tokenizer.release.set()
        self.inbox.put(wire.Stop(drain))
        self._thread.join(PATIENCE_S)
        assert not self._thread.is_alive()


@pytest.fixture
def running() -> Iterator[Running]:
    one = Running(ToyEngine(n_ctx=N_CTX, n_slots=2))
    yield one
    one.stop()


@pytest.fixture
def echo() -> Iterator[Running]:
    """It embeds, too."""
    one = Running(EchoEngine(Settings(n_ctx=N_CTX, n_slots=2)))
    yield one
    one.stop()


def test_others_are_answered_while_a_long_prompt_is_read(running: Running) -> None:
    long = running.ask(1, LONG)
    wait_until(lambda: running.tokenizer.begun)
    short = running.ask(2, "short")
    wait_until(lambda: 2 in running.ends)
    assert running.texts[2] == answer(short, N_CTX)[0]
    assert 1 not in running.ends
    running.tokenizer.release.set()
    wait_until(lambda: 1 in running.ends)
    assert running.texts[1] == answer(long, N_CTX)[0]


def test_a_grammar_that_is_known_does_not_wait_for_a_long_prompt(echo: Running) -> None:
    pytest.importorskip("llguidance")

    def under(number: int, text: str) -> None:
        request = GenerationRequest("x", GREEDY, grammar=Grammar("choice", f'["{text}"]'))
        echo.inbox.put(wire.Submit(number, request))

    under(1, "yes")
    wait_until(lambda: 1 in echo.ends)
    echo.ask(2, LONG)
    wait_until(lambda: echo.tokenizer.begun)
    under(3, "yes")
    under(4, "no")
    wait_until(lambda: 3 in echo.ends)
    assert echo.texts[3] == "yes"
    assert {2, 4}.isdisjoint(echo.ends)


def test_clients_take_turns_with_long_prompts(running: Running) -> None:
    for number, client in enumerate("aaab", 1):
        request = GenerationRequest(LONG + str(number), GREEDY, max_tokens=1, client=client)
        running.inbox.put(wire.Submit(number, request))
        wait_until(lambda: running.tokenizer.begun)
    wait_until(lambda: len(running.loop._reading) == 4)
    running.tokenizer.release.set()
    wait_until(lambda: len(running.ends) == 4)
    assert [text[-1] for text in running.tokenizer.begun] == ["1", "4", "2", "3"]


def test_a_long_prompt_that_was_cancelled_is_never_read(running: Running) -> None:
    for number in range(1, 11):
        running.ask(number, LONG + str(number))
    wait_until(lambda: running.tokenizer.begun)
    for number in range(1, 11):
        running.inbox.put(wire.Cancel(number))
    running.ask(11, "short")
    wait_until(lambda: 11 in running.ends)
    running.tokenizer.release.set()
    running.ask(12, LONG)
    wait_until(lambda: 12 in running.ends)
    assert running.tokenizer.begun == [LONG + "1", LONG]
    assert running.ends.keys() == {11, 12}


def test_one_that_is_too_long_is_refused_as_a_short_one_is(running: Running) -> None:
    running.tokenizer.release.set()
    running.ask(1, "a" * (N_CTX + 1))
    wait_until(lambda: 1 in running.ends)
    end = running.ends[1]
    assert isinstance(end, wire.Failed)
    assert end.code == "context_overflow"


def test_what_no_context_holds_is_refused_unread(running: Running) -> None:
    running.ask(1, "a" * (N_CTX * MAX_TOKEN_BYTES + 1))
    wait_until(lambda: 1 in running.ends)
    end = running.ends[1]
    assert isinstance(end, wire.Failed)
    assert end.code == "context_overflow"
    assert running.tokenizer.begun == []


def test_draining_answers_what_is_still_read(running: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "BEAT_S", 0.01)
    running.ask(1, LONG)
    wait_until(lambda: running.tokenizer.begun)
    running.inbox.put(wire.Stop(drain=True))
    wait_until(lambda: running.loop._stopping)
    running.beats = 0
    wait_until(lambda: running.beats > 2, what="it has looked whether it is done, and goes on")
    running.stop(drain=True)
    assert isinstance(running.ends[1], Done)


def test_closing_ends_what_is_still_read(running: Running) -> None:
    running.ask(1, LONG)
    running.ask(2, LONG)
    wait_until(lambda: running.tokenizer.begun)
    running.inbox.put(wire.Stop(drain=False))
    wait_until(lambda: len(running.ends) == 2)
    assert {end.code for end in running.ends.values() if isinstance(end, wire.Failed)} == {"closed"}


def test_others_are_answered_while_a_long_text_to_embed_is_read(echo: Running) -> None:
    echo.embed(1, "b", LONG, LONG + "b")
    wait_until(lambda: echo.tokenizer.begun)
    echo.embed(2, "a", "b")
    echo.ask(3, "short")
    wait_until(lambda: echo.ends.keys() == {2, 3})
    echo.tokenizer.release.set()
    wait_until(lambda: 1 in echo.ends)
    vectors = echo.ends[1]
    assert isinstance(vectors, Vectors)
    rows = np.frombuffer(vectors.data, "<f4").reshape(3, -1)
    b, a = ord("b"), ord("a")
    assert (rows[0, b], rows[1, a]) == (1.0, 1.0)
    assert rows[2, b] > 0.0


def test_a_long_text_to_embed_that_was_cancelled_is_never_read(echo: Running) -> None:
    for number in range(1, 6):
        echo.embed(number, LONG + str(number))
    wait_until(lambda: echo.tokenizer.begun)
    for number in range(1, 6):
        echo.inbox.put(wire.Cancel(number))
    echo.embed(6, "short")
    wait_until(lambda: 6 in echo.ends)
    echo.tokenizer.release.set()
    echo.embed(7, LONG)
    wait_until(lambda: 7 in echo.ends)
    assert echo.tokenizer.begun == [LONG + "1", LONG]


def test_closing_ends_a_text_to_embed_that_is_still_read(echo: Running) -> None:
    echo.embed(1, LONG)
    wait_until(lambda: echo.tokenizer.begun)
    echo.inbox.put(wire.Stop(drain=False))
    wait_until(lambda: 1 in echo.ends)
    assert isinstance(echo.ends[1], wire.Failed)


def test_draining_answers_a_text_to_embed_that_is_still_read(echo: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "BEAT_S", 0.01)
    echo.embed(1, LONG)
    wait_until(lambda: echo.tokenizer.begun)
    echo.inbox.put(wire.Stop(drain=True))
    wait_until(lambda: echo.loop._stopping)
    echo.beats = 0
    wait_until(lambda: echo.beats > 2, what="it has looked whether it is done, and goes on")
    echo.stop(drain=True)
    assert isinstance(echo.ends[1], Vectors)
