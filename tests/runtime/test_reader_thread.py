"""Clients take turns in the thread that reads long texts, and in those of one client what is shorter is not held up."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import Future

import pytest
from support.waiting import PATIENCE_S, wait_until

from edgellm.runtime.mailbox import Mailbox
from edgellm.runtime.prompt_reader import PromptRead
from edgellm.runtime.reader_thread import ReaderThread


class Texts:
    """A thread that is at its first text until `go` is set, and the names of the texts that it was at, in order."""

    def __init__(self) -> None:
        self.inbox: Mailbox[object] = Mailbox()
        self.thread = ReaderThread(self.inbox)  # type: ignore[arg-type]
        self.go = threading.Event()
        self.begun: list[str] = []
        self._number = 0

    def ask(self, name: str, size: int = 1000) -> Future[str]:
        """`name`: begins with the client's letter."""

        def read() -> str:
            self.begun.append(name)
            assert self.go.wait(PATIENCE_S)
            return name

        self._number += 1
        return self.thread.read(PromptRead(self._number), read, name[0], size)

    def rest(self) -> list[str]:
        """What was read behind the first."""
        self.go.set()
        for _ in range(self._number):
            self.inbox.get(timeout=PATIENCE_S)
        return self.begun[1:]


@pytest.fixture
def texts() -> Iterator[Texts]:
    made = Texts()
    made.ask("a0")
    wait_until(lambda: made.begun)
    yield made
    made.go.set()
    made.thread.close()


def test_a_client_waits_for_the_text_at_hand_of_another_that_has_five(texts: Texts) -> None:
    for name in ("a1", "a2", "a3", "a4", "b0", "b1"):
        texts.ask(name)
    assert texts.rest() == ["b0", "a1", "b1", "a2", "a3", "a4"]


def test_one_that_comes_again_and_again_leaves_turns_to_all_others(texts: Texts) -> None:
    for name in ("b0", "c0", "a1", "b1", "c1", "d0", "b2"):
        texts.ask(name)
    assert texts.rest() == ["b0", "c0", "d0", "a1", "b1", "c1", "b2"]


def test_a_short_text_passes_long_ones_of_its_client(texts: Texts) -> None:
    texts.ask("a-long", 1_000_000)
    texts.ask("a-longer", 2_000_000)
    texts.ask("a-short", 10)
    assert texts.rest() == ["a-short", "a-long", "a-longer"]


def test_a_long_text_is_passed_by_as_much_as_it_has_itself() -> None:
    """However many short ones come: each comes when the one before is begun."""
    made = Texts()
    made.go.set()
    n_come = 0

    def read() -> None:
        nonlocal n_come
        made.begun.append("short")
        n_come += 1
        if n_come < 50:
            made.thread.read(PromptRead(2), read, "a", 1000)

    held = threading.Event()
    made.thread.read(PromptRead(0), lambda: held.wait(PATIENCE_S), "a", 0)
    long = made.ask("a-long", 10_000)
    made.thread.read(PromptRead(2), read, "a", 1000)
    held.set()
    long.result(PATIENCE_S)
    assert made.begun.index("a-long") == 9
    wait_until(lambda: n_come == 50)
    made.thread.close()


def test_one_that_was_cancelled_is_told_and_takes_no_turn(texts: Texts) -> None:
    texts.ask("b0").cancel()
    assert texts.inbox.get(timeout=PATIENCE_S) == PromptRead(2)
    assert [work.client for work in texts.thread._waiting] == []
    texts.ask("a1")
    texts.ask("b1")
    texts._number -= 1
    assert texts.rest() == ["b1", "a1"]


def test_closing_ends_those_that_wait(texts: Texts) -> None:
    waiting = [texts.ask("a1"), texts.ask("b0")]
    closing = threading.Thread(target=texts.thread.close)
    closing.start()
    wait_until(lambda: all(one.cancelled() for one in waiting))
    texts.go.set()
    closing.join(PATIENCE_S)
    assert texts.begun == ["a0"]


def test_what_it_raises_is_raised_where_the_result_is_looked_at(texts: Texts) -> None:
    def fail() -> None:
        raise SystemExit(3)

    failed, after = texts.thread.read(PromptRead(9), fail, "b"), texts.ask("a1")
    texts.go.set()
    with pytest.raises(SystemExit):
        failed.result(PATIENCE_S)
    assert after.result(PATIENCE_S) == "a1"
