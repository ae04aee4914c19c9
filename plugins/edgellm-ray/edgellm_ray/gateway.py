"""The HTTP server in front of a cluster. Ray's proxy is behind it, and no stream that it began ends without an end.

It speaks to one address, so that a small gateway without Ray could use it for several.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, NamedTuple

import aiohttp

from edgellm.errors import Overloaded, RuntimeFailure, TooManyRequests
from edgellm.server.error_form import form_for
from edgellm.server.errors import HttpError, headers_of
from edgellm.server.intake import Intake
from edgellm.server.sse import unless_gone
from edgellm_ray.affinity import Wish, session_of
from edgellm_ray.events import NDJSON, SSE, EventReader
from edgellm_ray.resume import Diverged, SentStream

if TYPE_CHECKING:
    from starlette.types import Receive, Scope, Send

SESSION_HEADER = "x-session-id"
NODE_HEADER, PLAN_HEADER = "x-edgellm-node", "x-edgellm-plan"
# How long an answer that has not begun is asked for again and again: as a proxy or a replica takes to come back.
PATIENCE_S = 60.0
PAUSE_S = 0.25
# A stream says something at least every 15 s. A box that lost its power says nothing for ever.
SILENT_S = 25.0
MOST_CRASHES = 3  # of the model itself, under one request
_CRASHED = frozenset(
    {"worker_crashed", "closed", "model_hung", "model_failed", "model_closed", "model_loading", "api_error", "error"}
)
_HOP_BY_HOP = frozenset(
    {"connection", "keep-alive", "proxy-authenticate", "proxy-authorization", "te", "trailer", "transfer-encoding",
     "upgrade", "content-length", "content-encoding", "accept-encoding"}
)  # fmt: skip


class StreamLost(RuntimeFailure):
    """The box that wrote a stream is gone, and no other can go on with it."""

    http_status = 503


class _Broken(Exception):
    """The response, or what was left of it, does not come any more."""


class Asked(NamedTuple):
    """A request, whole."""

    scope: Scope
    body: bytes

    @property
    def target(self) -> str:
        query = self.scope["query_string"].decode("latin-1")
        path: str = self.scope["raw_path"].decode("latin-1") if self.scope.get("raw_path") else self.scope["path"]
        return f"{path}?{query}" if query else path

    @property
    def headers(self) -> list[tuple[str, str]]:
        """Those that are passed on."""
        pairs = ((name.decode("latin-1"), value.decode("latin-1")) for name, value in self.scope["headers"])
        return [(name, value) for name, value in pairs if name.lower() not in {*_HOP_BY_HOP, SESSION_HEADER}]

    @property
    def session(self) -> str:
        """The client's own, or else that of the conversation."""
        own = [value for name, value in self.scope["headers"] if name.lower() == SESSION_HEADER.encode()]
        return own[0].decode("latin-1") if own else session_of(self.body) if self.scope["method"] == "POST" else ""

    @property
    def is_repeatable(self) -> bool:
        """Whether the same answer comes again: it is greedy or has a seed, and is one answer without probabilities."""
        try:
            fields = json.loads(self.body)
        except (ValueError, RecursionError):
            return False
        if not isinstance(fields, dict):
            return False
        options = fields.get("options")
        drawn = {**fields, **options} if isinstance(options, dict) else fields
        many = drawn.get("n") not in (None, 1) or bool(drawn.get("logprobs")) or bool(drawn.get("n_probs"))
        seed = drawn.get("seed")
        return not many and (drawn.get("temperature") == 0 or (isinstance(seed, int) and seed >= 0))


class Held:
    """The body of a request, kept until its answer has ended: it may be asked again."""

    def __init__(self, intake: Intake) -> None:
        self._intake = intake
        self._n_bytes = 0

    async def received(self, receive: Receive) -> bytes:
        """
        Raises:
            HttpError: it is too large. Overloaded: all bodies together are.
        """
        parts: list[bytes] = []
        while True:
            message = await receive()
            part = message.get("body", b"")
            if self._n_bytes + len(part) > self._intake.max_body:
                raise self._intake.too_large()
            self._intake.take(len(part))
            self._n_bytes += len(part)
            parts.append(part)
            if message["type"] == "http.disconnect" or not message.get("more_body"):
                return b"".join(parts)

    def release(self) -> None:
        self._intake.give_back(self._n_bytes)


class Gateway:
    """The ASGI app."""

    def __init__(self, upstream: str) -> None:
        """`upstream`: `http://HOST:PORT` of Ray's proxy."""
        self._upstream = upstream
        self._intake = Intake()  # the key is checked behind: strangers must not fill the memory here
        self._client: aiohttp.ClientSession | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        body = Held(self._intake)
        try:
            if not Asked(scope, b"").target.startswith("/"):  # behind our address it would name another host
                raise HttpError(400, "the path of a request begins with /", code="bad_request", closes=True)
            asked = Asked(scope, await body.received(receive))
            await unless_gone(receive, self._answer(asked, send))
        except (HttpError, Overloaded) as error:
            await _refuse(scope, send, error)
        finally:
            body.release()

    async def _answer(self, asked: Asked, send: Send) -> bool:
        try:
            await self._forward(asked, send)
        except (RuntimeFailure, HttpError) as error:
            await _refuse(asked.scope, send, error)
        return True

    async def _forward(self, asked: Asked, send: Send) -> None:
        """Ask until there is an answer, of which nothing was sent before."""
        loop = asyncio.get_running_loop()
        deadline, n_crashes = loop.time() + PATIENCE_S, 0
        wish = Wish(asked.session)
        while True:
            try:
                async with self._asked(asked, wish) as response:
                    media_type = response.headers.get("content-type", "").partition(";")[0]
                    if response.status == 200 and media_type in (SSE, NDJSON):
                        await _begin(send, response)
                        await self._stream(asked, wish, response, media_type, send)
                        return
                    body = await _whole(response)
                    if NODE_HEADER not in response.headers and response.status == 429:
                        raise TooManyRequests("the queue of the cluster is full", hint="try again in a moment")
                    if not _comes_later(response, body):
                        await _begin(send, response, len(body))
                        await send({"type": "http.response.body", "body": body})
                        return
                    n_crashes += NODE_HEADER in response.headers
            except (_Broken, aiohttp.ClientConnectionError, TimeoutError):
                pass  # the proxy, the box or its model is gone, and nothing was sent
            if loop.time() > deadline or n_crashes > MOST_CRASHES:
                raise StreamLost("no box of the cluster answers", hint="try again in a moment")
            await asyncio.sleep(PAUSE_S)

    async def _stream(
        self, asked: Asked, wish: Wish, response: aiohttp.ClientResponse, media_type: str, send: Send
    ) -> None:
        """Send a stream that has begun, to its end or to a typed error."""
        sent, plan, form = SentStream(), response.headers.get(PLAN_HEADER, ""), form_for(asked.scope)
        try:
            try:
                await _send_events(response, media_type, sent, send, holds_errors=asked.is_repeatable)
            except _Broken:
                await self._resume(asked, Wish(wish.session, plan), media_type, sent, send)
        except (StreamLost, Diverged) as error:
            lost = error if isinstance(error, StreamLost) else StreamLost("no other box gives the same answer")
            await _put(send, form.in_stream(lost, response.headers.get("x-request-id", "")))
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _resume(self, asked: Asked, wish: Wish, media_type: str, sent: SentStream, send: Send) -> None:
        """Go on with a stream on a replica with the same plan.

        Raises:
            StreamLost, Diverged: that cannot be done.
        """
        if not asked.is_repeatable:
            raise StreamLost("the box that wrote this answer is gone", hint="with a seed it would have gone on")
        loop = asyncio.get_running_loop()
        deadline, n_crashes = loop.time() + PATIENCE_S, 0
        while loop.time() < deadline and n_crashes <= MOST_CRASHES:
            await asyncio.sleep(PAUSE_S)
            await _put(send, b": resumes\n\n" if media_type == SSE else b"")
            sent.again()
            with contextlib.suppress(_Broken, aiohttp.ClientConnectionError, TimeoutError):
                async with self._asked(asked, wish) as response:
                    if response.status != 200:
                        n_crashes += not _comes_later(response, await _whole(response))
                        continue
                    if response.headers.get(PLAN_HEADER) != wish.plan:
                        raise StreamLost("no other box has the plan that this answer was begun with")
                    n_crashes += 1
                    await _send_events(response, media_type, sent, send, holds_errors=n_crashes <= MOST_CRASHES)
                    return
        raise StreamLost("no box of the cluster answers", hint="try again in a moment")

    @contextlib.asynccontextmanager
    async def _asked(self, asked: Asked, wish: Wish) -> AsyncIterator[aiohttp.ClientResponse]:
        if self._client is None:
            connector = aiohttp.TCPConnector(limit=0)
            self._client = aiohttp.ClientSession(connector=connector, auto_decompress=False)
        session = [(SESSION_HEADER, wish.encoded())] if wish.session or wish.plan else []
        async with self._client.request(
            asked.scope["method"],
            f"{self._upstream}{asked.target}",
            headers=[*asked.headers, *session],
            data=asked.body or None,
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=PAUSE_S * 8),
            allow_redirects=False,
            skip_auto_headers=("User-Agent", "Accept", "Accept-Encoding", "Content-Type"),
        ) as response:
            yield response


async def _send_events(
    response: aiohttp.ClientResponse, media_type: str, sent: SentStream, send: Send, *, holds_errors: bool
) -> None:
    """
    Raises:
        _Broken: the stream ends before its end; Diverged. With `holds_errors`, also where the model died.
    """
    reader = EventReader(media_type)
    try:
        while chunk := await asyncio.wait_for(response.content.readany(), SILENT_S):
            for event in reader.feed(chunk):
                if holds_errors and event.error in _CRASHED:
                    raise _Broken
                await _put(send, sent.take(event))
    except (aiohttp.ClientError, ConnectionError, TimeoutError):
        raise _Broken from None


async def _whole(response: aiohttp.ClientResponse) -> bytes:
    """
    Raises:
        _Broken: it does not come to its end.
    """
    try:
        return await response.read()
    except (aiohttp.ClientError, ConnectionError):
        raise _Broken from None


def _comes_later(response: aiohttp.ClientResponse, body: bytes) -> bool:
    """Whether another try may be answered: Ray had no replica, or the model of one is not there now."""
    if NODE_HEADER not in response.headers:
        return response.status in (500, 502, 503, 504)
    if response.status != 503:
        return False
    try:
        error = json.loads(body)["error"]
        return (error.get("code") or error.get("type")) in _CRASHED
    except (ValueError, KeyError, TypeError, AttributeError):
        return False


async def _begin(send: Send, response: aiohttp.ClientResponse, n_bytes: int | None = None) -> None:
    headers = [
        (name.lower(), value)
        for name, value in response.raw_headers
        if name.lower().decode("latin-1") not in _HOP_BY_HOP - {"content-encoding"}
    ]
    if n_bytes is not None:
        headers.append((b"content-length", str(n_bytes).encode()))
    await send({"type": "http.response.start", "status": response.status, "headers": headers})


async def _put(send: Send, body: bytes) -> None:
    if body:
        await send({"type": "http.response.body", "body": body, "more_body": True})


async def _refuse(scope: Scope, send: Send, error: Exception) -> None:
    form = form_for(scope)
    status, body = form.status_of(error), form.encode(error, "")
    headers = [*headers_of(status), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
