"""Who only wants to know tokens is answered beside the steps of the engine: one may take seconds, a count takes none.

Short texts are read by the thread that receives them, long ones by another and very long ones by a third, so that none
is held up by one that takes much longer.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from edgellm.runtime import wire
from edgellm.runtime.engine_error import engine_error
from edgellm.runtime.long_text import VERY_LONG_TEXT
from edgellm.runtime.mailbox import Inbox
from edgellm.runtime.prompt_reader import READ, PromptReader, length, takes_long
from edgellm.runtime.reader_thread import ReaderThread
from edgellm.runtime.watchdog import BEAT_S
from edgellm.types.request import DetokenizeRequest, TokenizeRequest, TokenRequest


@dataclass(frozen=True, slots=True)
class AnsweredBeside:
    """To the loop: somebody was answered, which is no sign that the loop lives, so it is to give one."""


@dataclass(frozen=True, slots=True)
class Raised:
    """To the loop: what ends a worker was raised beside it, and is to be raised there."""

    error: BaseException


class TokenAnswers:
    """Of one loop. `takes` is for the thread that receives, all else for the loop's."""

    def __init__(self, reader: PromptReader, inbox: Inbox, send: Callable[[list[wire.Up]], None], backend: str) -> None:
        """`send` is called by several threads. `backend`: the name that errors give the engine."""
        self._reader = reader
        self._inbox = inbox
        self._send = send
        self._backend = backend
        self._texts, self._longer_texts = ReaderThread(inbox), ReaderThread(inbox)
        self._long: set[int] = set()  # requests that wait for that thread; who removes one answers it
        self._counted_at = 0.0
        self._taking = threading.Lock()  # while the tokenizer must not be closed
        self._closed = False

    @property
    def reads(self) -> bool:
        """Whether a long text is read, or waits for that."""
        return bool(self._long)

    def takes(self, message: wire.Down) -> bool:
        """Answer what is asked here, or see to it. False where the message is for the loop."""
        with self._taking:
            if self._closed:
                return False
            match message:
                case wire.Submit(request_id, TokenizeRequest() | DetokenizeRequest() as request):
                    if takes_long(request):
                        self._long.add(request_id)
                        self._inbox.put(READ)  # the loop wakes, and beats meanwhile
                        size = length(request)
                        texts = self._texts if size <= VERY_LONG_TEXT else self._longer_texts
                        texts.read(READ, partial(self._answer_long, request_id, request), size=size)
                    else:
                        self._answer(request_id, request)
                case wire.Cancel(request_id) if request_id in self._long:
                    self._long.discard(request_id)
                case _:
                    return False
        return True

    def clear(self) -> list[int]:
        """Drop what waits or is read. Returns the ids."""
        return [request_id for request_id in list(self._long) if self._remove(request_id)]

    def close(self) -> None:
        """Wait for what is read now: the engine is closed next, and its tokenizer with it."""
        with self._taking:
            self._closed = True
        self._texts.close()
        self._longer_texts.close()

    def _answer_long(self, request_id: int, request: TokenRequest) -> None:
        if request_id in self._long:
            self._answer(request_id, request, is_wanted=partial(self._remove, request_id))

    def _answer(self, request_id: int, request: TokenRequest, is_wanted: Callable[[], bool] = lambda: True) -> None:
        try:
            reply = self._reply(request_id, request)
            if is_wanted():
                self._send([reply])
        except BaseException as error:  # a plugin may raise SystemExit
            self._inbox.put(Raised(error))
            return
        if (now := time.perf_counter()) - self._counted_at > BEAT_S:
            self._counted_at = now
            self._inbox.put(AnsweredBeside())

    def _reply(self, request_id: int, request: TokenRequest) -> wire.Aside:
        try:
            return wire.Aside(request_id, self._reader.answer(request))
        except Exception as error:
            return wire.Aside(request_id, wire.Failed.of(engine_error(self._backend, error)))

    def _remove(self, request_id: int) -> bool:
        try:
            self._long.remove(request_id)
        except KeyError:
            return False
        return True
