"""The thread in which long texts become tokens and grammars are compiled, beside the answers at hand."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

from edgellm.runtime.mailbox import Inbox
from edgellm.runtime.prompt_reader import PromptRead, TextRead
from edgellm.runtime.thread_stack import large_stack

if TYPE_CHECKING:
    from concurrent.futures import Future, ThreadPoolExecutor

T = TypeVar("T")


class ReaderThread:
    """Made for the first text that is long."""

    def __init__(self, inbox: Inbox) -> None:
        self._inbox = inbox
        self._executor: ThreadPoolExecutor | None = None

    def read(self, told: PromptRead | TextRead, read: Callable[[], T]) -> Future[T]:
        """Call `read` in it, and put `told` into the inbox when that is done or cancelled."""
        if self._executor is None:
            from concurrent.futures import ThreadPoolExecutor

            self._executor = ThreadPoolExecutor(1, "edgellm-texts")
        with large_stack():  # its one thread is started with the first
            reading = self._executor.submit(read)
        reading.add_done_callback(lambda _: self._inbox.put(told))
        return reading

    def close(self) -> None:
        """Wait for what it is at: the engine is closed next, and its tokenizer with it."""
        if self._executor is not None:
            self._executor.shutdown(cancel_futures=True)
