"""What grammars need is made while nobody asks anything, and only where that was asked for."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator

import pytest
from support.toy_engine import ToyEngine
from support.waiting import PATIENCE_S, wait_until

from edgellm.runtime import loop, wire
from edgellm.runtime.loop import Loop
from edgellm.runtime.mailbox import Mailbox
from edgellm.types.event import Done
from edgellm.types.request import GenerationRequest

Start = Callable[[Callable[[], bool] | None], tuple[Loop, Mailbox[wire.Down]]]


@pytest.fixture
def start(monkeypatch: pytest.MonkeyPatch) -> Iterator[Start]:
    """Loops that run until the end of the test; each pause is long enough."""
    pytest.importorskip("llguidance")
    monkeypatch.setattr(loop, "PAUSE_S", 0.001)
    running: list[tuple[Mailbox[wire.Down], threading.Thread]] = []

    def start_one(prepares: Callable[[], bool] | None) -> tuple[Loop, Mailbox[wire.Down]]:
        inbox: Mailbox[wire.Down] = Mailbox()
        one = Loop(ToyEngine(), inbox, heard.extend)
        thread = threading.Thread(target=one.run, kwargs={"prepares": prepares}, daemon=True)
        thread.start()
        running.append((inbox, thread))
        return one, inbox

    heard: list[wire.Up] = []
    start_one.heard = heard  # type: ignore[attr-defined]
    yield start_one
    for inbox, thread in running:
        inbox.put(wire.Stop(drain=True))
        thread.join(PATIENCE_S)
        assert not thread.is_alive()


def test_tables_are_made_in_the_first_pause(start: Start) -> None:
    one, _ = start(lambda: True)
    wait_until(lambda: one._prompts._grammars._tables is not None)


def test_it_is_asked_once_and_no_more_is_made_than_was_wanted(start: Start) -> None:
    asked: list[bool] = []

    def prepares() -> bool:
        asked.append(True)
        return False

    one, inbox = start(prepares)
    wait_until(lambda: asked)
    inbox.put(wire.Submit(1, GenerationRequest("x", max_tokens=3)))
    wait_until(lambda: any(isinstance(message.event, Done) for message in start.heard))  # type: ignore[attr-defined]
    assert asked == [True]
    assert one._prompts._grammars._tables is None


def test_answers_go_on_where_tables_cannot_be_made(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    tried = threading.Event()

    def fails(_: object) -> None:
        tried.set()
        raise MemoryError

    monkeypatch.setattr("edgellm.text.matcher.GrammarCompiler.prepare", fails)
    _, inbox = start(lambda: True)
    assert tried.wait(PATIENCE_S)
    inbox.put(wire.Submit(1, GenerationRequest("x", max_tokens=3)))
    wait_until(lambda: any(isinstance(message.event, Done) for message in start.heard))  # type: ignore[attr-defined]
