"""Server-sent events. Only the new text is encoded for each token; the rest of a chunk is made once for each request.

Deltas that arrive together are sent in one write, each as a chunk of its own. A client that goes away is noticed
while the next token is awaited, and its request is cancelled.
"""

from __future__ import annotations

import asyncio
import logging
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from contextlib import aclosing
from typing import Any, TypeVar

import msgspec
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from edgellm.errors import Overloaded
from edgellm.server import continued, errors, request_log
from edgellm.server.answers import EventLists
from edgellm.server.beside import beside
from edgellm.server.error_form import OPENAI
from edgellm.server.intake import incoming_of
from edgellm.server.request_log import RequestRecord
from edgellm.server.responses import client_closed
from edgellm.types.event import Delta, Done, Event, Prefill

T = TypeVar("T")

# Proxies and clients give up on a stream that is silent. A comment, which clients skip, comes at least every 15 s:
# while a long prompt is read, and while a request waits for its turn.
KEEP_ALIVE_S = 7.0
COMMENT = b": wait\n\n"
DONE = b"data: [DONE]\n\n"
# Tokens with logprobs, of events that come together. More, as those of a whole prompt, take a while to write.
MANY_LOGPROBS = 64
_HEADERS = [
    (b"cache-control", b"no-cache"),
    (b"x-accel-buffering", b"no"),  # otherwise nginx holds tokens back
]
_encode = msgspec.json.encode
_log = logging.getLogger("edgellm.server")


class Chunks(ABC):
    """The chunks of one dialect, as the bytes of whole events."""

    media_type = b"text/event-stream; charset=utf-8"
    event_end = b"\n\n"
    error_form = OPENAI

    @abstractmethod
    def text(self, delta: Delta) -> bytes: ...

    @abstractmethod
    def last(self, done: Done) -> bytes:
        """The end of a choice, and of the stream where no other is open."""

    def are_long(self, events: Sequence[Event]) -> bool:
        """Whether the chunks of these take a while to write."""
        return sum(len(event.logprobs) for event in events if isinstance(event, Delta)) > MANY_LOGPROBS

    def progress(self, prefill: Prefill) -> bytes:
        """How much of a prompt has been read, where the request asked for it."""
        return b""

    def waiting(self) -> bytes:
        """What is sent while nothing happens, and changes nothing."""
        return COMMENT

    def failed(self, error: Exception, request_id: str) -> bytes:
        """The end of a stream that failed."""
        return self.error_form.in_stream(error, request_id)


async def stream(request: Request, chunks: Chunks, event_lists: EventLists) -> ASGIApp:
    """The response with these events. It waits a while for the first: until then an error still has its status."""
    first = asyncio.ensure_future(_next(event_lists))
    try:
        waited = await unless_gone(request.receive, asyncio.wait((first,), timeout=KEEP_ALIVE_S))
        if waited is not None and first.done():
            first.result()
    except BaseException:
        await _end(first, event_lists)
        raise
    if waited is None:
        await _end(first, event_lists)
        return client_closed(request)
    return EventStream(chunks, first, event_lists)


class EventStream:
    """The ASGI app that answers a request with `stream: true`. It always closes `event_lists`, of which `first` is the
    beginning."""

    def __init__(self, chunks: Chunks, first: asyncio.Future[list[Event]], event_lists: EventLists) -> None:
        self._chunks = chunks
        self._first = first
        self._event_lists = event_lists
        self._silent = True  # since the last time that somebody asked
        self._refusal: Overloaded | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        record, incoming = request_log.of_scope(scope), incoming_of(scope)
        if self._first.done():
            incoming.release()
        else:
            incoming.waits(self._refuse)
            self._first.add_done_callback(lambda _: incoming.release())
        try:
            if await unless_gone(receive, self._write(send, record)) is None:
                request_log.note_closed(scope)
        finally:
            await _end(self._first, self._event_lists)

    async def _write(self, send: Send, record: RequestRecord) -> bool:
        await send({"type": "http.response.start", "status": 200, "headers": self._headers()})
        keeping = asyncio.create_task(self._keep_alive(send))
        try:
            await self._put(send, await self._written(await self._begun()))
            async for events in self._event_lists:
                await self._put(send, await self._written(events))
        except Exception as error:
            # The status has been sent, so the error is sent as an event; OpenAI's clients raise it.
            if errors.status_of(error) == 500:
                _log.exception("a stream failed")
            record.error = errors.code_of(error)
            await self._put(send, self._chunks.failed(error, record.id))
        finally:
            keeping.cancel()
        await send({"type": "http.response.body", "body": b"", "more_body": False})
        return True

    def _refuse(self, refusal: Overloaded) -> None:
        """The answer has not begun, and its request gives way to another one."""
        self._refusal = refusal
        self._first.cancel()

    async def _begun(self) -> list[Event]:
        try:
            return await self._first
        except asyncio.CancelledError:
            if self._refusal is None:
                raise
            raise self._refusal from None

    async def _put(self, send: Send, body: bytes) -> None:
        if body:
            self._silent = False
            await send({"type": "http.response.body", "body": body, "more_body": True})

    async def _keep_alive(self, send: Send) -> None:
        while True:
            await asyncio.sleep(KEEP_ALIVE_S)
            if self._silent:
                await send({"type": "http.response.body", "body": self._chunks.waiting(), "more_body": True})
            self._silent = True

    def _headers(self) -> list[tuple[bytes, bytes]]:
        return [(b"content-type", self._chunks.media_type), *_HEADERS]

    async def _written(self, events: list[Event]) -> bytes:
        if self._chunks.are_long(events):
            return await beside(self._encode, events)  # not in the event loop that all streams share
        return self._encode(events)

    def _encode(self, events: list[Event]) -> bytes:
        return b"".join([self._chunk(event) for event in events])

    def _chunk(self, event: Event) -> bytes:
        if not isinstance(event, Delta):
            return self._chunks.last(event) if isinstance(event, Done) else self._chunks.progress(event)
        text = self._chunks.text(event)
        return continued.line(event.tokens) + self._chunks.event_end + text if event.tokens else text


class Template:
    """A chunk with one hole for a JSON value."""

    def __init__(self, chunk: dict[str, Any], hole: str, before: bytes = b"data: ", behind: bytes = b"\n\n") -> None:
        """`hole` stands in `chunk` where the value goes, and nowhere else. `before` and `behind` frame the chunk."""
        self._head, _, self._tail = (before + _encode(chunk) + behind).partition(_encode(hole))

    def fill(self, value: str) -> bytes:
        return self._head + _encode(value) + self._tail


def event(data: object) -> bytes:
    """One event that holds `data` as JSON."""
    return b"data: " + _encode(data) + b"\n\n"


async def whole(request: Request, event_lists: EventLists) -> list[Event] | None:
    """All events, for an answer in one piece; None if the client goes away first. It closes `event_lists`.

    Raises:
        Overloaded: they are too much to be kept, besides those of others.
    """
    request.state.is_whole = True
    return await unless_gone(request.receive, _gathered(event_lists))


def are_whole(request: Request) -> bool:
    """Whether answers to it are sent in one piece, once they have begun."""
    return getattr(request.state, "is_whole", False)


async def _gathered(event_lists: EventLists) -> list[Event]:
    async with aclosing(event_lists):
        return [event async for events in event_lists for event in events]


async def unless_gone(receive: Receive, work: Coroutine[Any, Any, T]) -> T | None:
    """The result of `work`, or None if the client goes away first: then `work` is cancelled.

    The body of the request must have been received.
    """
    task = asyncio.ensure_future(work)
    gone = asyncio.ensure_future(_gone(receive))
    try:
        await asyncio.wait((task, gone), return_when=asyncio.FIRST_COMPLETED)
        return task.result() if task.done() else None
    finally:
        gone.cancel()
        if not task.done():
            task.cancel()
            # Its clean-up cancels the request, which must have happened before this returns.
            await asyncio.wait((task,))
            if not task.cancelled():
                task.exception()  # nobody waits for it, and what nobody looks at is logged


async def _gone(receive: Callable[[], Awaitable[Message]]) -> None:
    while (await receive())["type"] != "http.disconnect":
        continue


async def _next(event_lists: EventLists) -> list[Event]:
    return await anext(event_lists)


async def _end(first: asyncio.Future[list[Event]], event_lists: EventLists) -> None:
    first.cancel()
    await asyncio.wait((first,))
    await event_lists.aclose()
