"""Server-sent events, lean: only the new text is encoded per token, the rest of a chunk was made once per request.

Written as a raw ASGI response. Deltas that are there at the same time leave in one write, each still a chunk of its
own. A client that goes away is noticed while the next token is waited for, and its request is cancelled.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine
from typing import Any, Protocol, TypeVar

import msgspec
from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

from edgellm.server import errors
from edgellm.types.event import Delta, Done, Event

T = TypeVar("T")
Batches = AsyncGenerator[list[Event], None]

DONE = b"data: [DONE]\n\n"
_HEADERS = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache"),
    (b"x-accel-buffering", b"no"),  # nginx would hold tokens back
]
_encode = msgspec.json.encode
_log = logging.getLogger("edgellm.server")


class Chunks(Protocol):
    """One dialect's chunks, as bytes of whole events."""

    def first(self) -> bytes:
        """Before any text; b"" where the dialect has no such chunk."""
        ...

    def text(self, delta: Delta) -> bytes: ...

    def last(self, done: Done) -> bytes:
        """After all text, [DONE] included."""
        ...


class EventStream(Response):
    """The answer to a request with `stream: true`, from its first batch on. Closes `batches` whatever happens."""

    def __init__(self, chunks: Chunks, first: list[Event], batches: Batches) -> None:
        self._chunks = chunks
        self._first = first
        self._batches = batches
        self.status_code = 200
        self.background = None
        self.raw_headers = list(_HEADERS)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await unless_gone(receive, self._write(send))
        finally:
            await self._batches.aclose()

    async def _write(self, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        try:
            await _put(send, self._chunks.first() + self._encode(self._first))
            async for batch in self._batches:
                await _put(send, self._encode(batch))
        except Exception as error:
            # The status has left already, so the error travels as an event; OpenAI's clients raise it.
            if errors.status_of(error) == 500:
                _log.exception("a stream failed")
            await _put(send, b"data: " + errors.encode(error) + b"\n\n")
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    def _encode(self, batch: list[Event]) -> bytes:
        chunks = self._chunks
        return b"".join([chunks.text(e) if isinstance(e, Delta) else chunks.last(e) for e in batch])


class Template:
    """A chunk with one hole for a JSON value."""

    def __init__(self, chunk: dict[str, Any], hole: str) -> None:
        """`hole` stands in `chunk` where the value goes and nowhere else."""
        self._head, _, self._tail = (b"data: " + _encode(chunk) + b"\n\n").partition(_encode(hole))

    def fill(self, value: str) -> bytes:
        return self._head + _encode(value) + self._tail


def event(data: object) -> bytes:
    """One event that holds `data` as JSON."""
    return b"data: " + _encode(data) + b"\n\n"


async def unless_gone(receive: Receive, work: Coroutine[Any, Any, T]) -> T | None:
    """The result of `work`; where the client goes away first, `work` is cancelled and the result is None.

    The request's body must have been received.
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
            # Its clean-up cancels the request: the slot must be on its way before this returns.
            await asyncio.wait((task,))


async def _gone(receive: Callable[[], Awaitable[Message]]) -> None:
    while (await receive())["type"] != "http.disconnect":
        continue


async def _put(send: Send, body: bytes) -> None:
    if body:
        await send({"type": "http.response.body", "body": body, "more_body": True})
