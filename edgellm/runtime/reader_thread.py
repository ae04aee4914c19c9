"""The thread in which long texts become tokens and grammars are compiled, beside the answers at hand."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from edgellm.runtime.client_turns import ClientTurns
from edgellm.runtime.mailbox import Inbox
from edgellm.runtime.prompt_reader import PromptRead, TextRead
from edgellm.runtime.thread_stack import large_stack

if TYPE_CHECKING:
    from concurrent.futures import Future, ThreadPoolExecutor

T = TypeVar("T")


@dataclass(frozen=True, slots=True, eq=False)
class _Work:
    client: str
    size: int
    due: int
    read: Callable[[], object]
    reading: Future[Any]


class ReaderThread:
    """Made for the first text that is long. Clients take turns in it. A text passes longer ones of the same client; no
    more text passes one than it has itself.
    """

    def __init__(self, inbox: Inbox) -> None:
        self._inbox = inbox
        self._executor: ThreadPoolExecutor | None = None
        self._sorting = threading.Lock()  # not held where a future calls back
        self._turns = ClientTurns()
        self._waiting: list[_Work] = []  # the first that came first
        self._n_begun = 0  # characters

    def read(self, told: PromptRead | TextRead, read: Callable[[], T], client: str = "", size: int = 0) -> Future[T]:
        """Call `read` in it, and put `told` into the inbox when that is done or cancelled. `size`: in characters."""
        from concurrent.futures import Future, ThreadPoolExecutor

        if self._executor is None:
            self._executor = ThreadPoolExecutor(1, "edgellm-texts")
        reading: Future[T] = Future()
        with self._sorting:
            self._turns.arrive(client)
            work = _Work(client, size, self._n_begun + size, read, reading)
            self._waiting.append(work)
        reading.add_done_callback(lambda _: self._ended(work, told))
        with large_stack():  # its one thread is started with the first
            self._executor.submit(self._read_next)
        return reading

    def close(self) -> None:
        """Wait for what it is at: the engine is closed next, and its tokenizer with it."""
        if self._executor is not None:
            with self._sorting:
                waiting = list(self._waiting)
            for work in waiting:
                work.reading.cancel()
            self._executor.shutdown(cancel_futures=True)

    def _read_next(self) -> None:
        if (work := self._next()) is None:
            return
        try:
            work.reading.set_result(work.read())
        except BaseException as error:  # raised again where the result is looked at
            work.reading.set_exception(error)

    def _next(self) -> _Work | None:
        """What is to be read now; None where all that came was cancelled."""
        while True:
            with self._sorting:
                if not self._waiting:
                    return None
                work = min(self._waiting, key=lambda work: (self._turns.place(work.client), work.due))
                self._waiting.remove(work)
            if work.reading.set_running_or_notify_cancel():
                break
        with self._sorting:
            self._turns.begin(work.client, [other.client for other in self._waiting])
            self._n_begun += work.size
        return work

    def _ended(self, work: _Work, told: PromptRead | TextRead) -> None:
        with self._sorting:
            if work in self._waiting:  # it was cancelled
                self._waiting.remove(work)
        self._inbox.put(told)
