"""The HTTP server in front of a cluster. Ray's proxy is behind it, and no stream that it began ends without an end.

It speaks to one address, whose paths begin with the name of what is asked there; a small gateway without Ray could use
it for several.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import io
from collections.abc import AsyncIterator, Callable, Sequence
from typing import TYPE_CHECKING, Any

import aiohttp
import msgspec
import yarl

from edgellm.errors import EdgeLLMError, RuntimeFailure, TooManyRequests, UnknownModel
from edgellm.server.beginnings import Beginnings
from edgellm.server.error_form import form_for
from edgellm.server.errors import HttpError
from edgellm.server.intake import LARGE_BYTES, Incoming
from edgellm.server.middleware import respond
from edgellm.server.sse import unless_gone
from edgellm_ray.affinity import Wish
from edgellm_ray.asked import HOP_BY_HOP, SESSION_HEADER, Asked, read, received, target
from edgellm_ray.events import NDJSON, SSE, EventReader, error_of
from edgellm_ray.responses import PATH, Responses
from edgellm_ray.resume import Diverged, SentStream

if TYPE_CHECKING:
    from starlette.types import Receive, Scope, Send

    from edgellm.server.access import Access
    from edgellm.server.intake import Intake

NODE_HEADER, PLAN_HEADER = "x-edgellm-node", "x-edgellm-plan"
# How long an answer that has not begun is asked for again and again: as a proxy or a replica takes to come back.
PATIENCE_S = 60.0
PAUSE_S = 0.25
# A stream says something at least every 15 s. A box that lost its power says nothing for ever.
SILENT_S = 25.0
MOST_CRASHES = 3  # of the model itself, under one request
_CRASHED = frozenset(
    {"worker_crashed", "closed", "model_hung", "model_failed", "model_closed", "model_loading", "api_error"}
)
# Of a box that leaves, or comes: no request is to blame, and it may say so often before Ray's proxy passes it over.
_AWAY = frozenset({"closed", "model_closed", "model_loading"})


class StreamLost(RuntimeFailure):
    """The box that wrote a stream is gone, and no other can go on with it."""

    http_status = 503


class _Broken(Exception):
    """The response, or what was left of it, does not come any more."""


class Gateway:
    """The ASGI app."""

    def __init__(self, upstream: str, intake: Intake, access: Access, app: Callable[[str | None], str]) -> None:
        """`upstream`: `http://HOST:PORT` of Ray's proxy. `app`: which application answers to the name of a model; ""
        = that at the root. It may raise UnknownModel."""
        self._upstream = upstream
        self._app = app
        self._intake = intake
        self._access = access
        self._beginnings = Beginnings()
        self._reading_large = asyncio.Lock()
        self._responses = Responses()
        self._client: aiohttp.ClientSession | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        incoming = Incoming(scope, receive, self._intake)
        try:
            await self._beginnings.turn(incoming.counts_as)
            self._access.check(scope)
            if not target(scope).startswith("/"):  # behind our address it would name another host
                raise HttpError(400, "the path of a request begins with /", code="bad_request", closes=True)
            asked = await self._received(scope, incoming)
            if asked is not None:
                await unless_gone(receive, self._forward(asked, incoming, send))
        except asyncio.CancelledError:
            refusal = incoming.refusal()
            if refusal is None:
                raise
            await respond(send, refusal, form_for(scope), "")
        except (HttpError, EdgeLLMError) as error:
            await respond(send, error, form_for(scope), "")
        finally:
            incoming.release()

    async def _received(self, scope: Scope, incoming: Incoming) -> Asked | None:
        """The request, whole; None = the client went away before its end."""
        body = await received(incoming)
        if body is None:
            return None
        if len(body) <= LARGE_BYTES:
            return Asked(scope, body, read(body))
        async with self._reading_large:  # not in the event loop that all streams share
            return Asked(scope, body, await asyncio.to_thread(read, body))

    async def _forward(self, asked: Asked, incoming: Incoming, send: Send) -> None:
        """Ask until there is an answer, of which nothing was sent before."""
        loop = asyncio.get_running_loop()
        deadline, n_crashes = loop.time() + PATIENCE_S, 0
        path = asked.scope["path"]
        wish = Wish(self._responses.session_of(path, asked.previous) or asked.session)
        asked.model = asked.model or self._responses.model_of(path)
        while True:
            try:
                async with self._asked(asked, wish) as response:
                    media_type = response.headers.get("content-type", "").partition(";")[0]
                    if response.status == 200 and media_type in (SSE, NDJSON):
                        if asked.is_repeatable:
                            incoming.answered(asked.let_go)
                        else:
                            asked.let_go()
                            incoming.responds()
                        await _begin(send, response)
                        await self._stream(asked, wish, response, media_type, send)
                        return
                    body = await _whole(response)
                    if NODE_HEADER not in response.headers and response.status == 429:
                        raise TooManyRequests("the queue of the cluster is full", hint="try again in a moment")
                    if not _comes_later(response, body):
                        if path == PATH:
                            self._responses.learn(_data(body), wish.session, asked.model)
                        incoming.responds()
                        await _begin(send, response, len(body))
                        await send({"type": "http.response.body", "body": body})
                        return
                    n_crashes += NODE_HEADER in response.headers and error_of(_data(body)) not in _AWAY
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
                await _send_events(
                    response, media_type, sent, send, holds_errors=functools.partial(_may_go_on, asked, 0)
                )
            except _Broken:
                await self._resume(asked, Wish(wish.session, plan), media_type, sent, send)
        except (StreamLost, Diverged, UnknownModel) as error:  # the last where the model was taken away
            lost = error if isinstance(error, StreamLost) else StreamLost("no other box gives the same answer")
            await _put(send, form.in_stream(lost, response.headers.get("x-request-id", "")))
        if asked.scope["path"] == PATH:
            self._responses.learn(sent.first, wish.session, asked.model)
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _resume(self, asked: Asked, wish: Wish, media_type: str, sent: SentStream, send: Send) -> None:
        """Go on with a stream on a replica with the same plan.

        Raises:
            StreamLost, Diverged: that cannot be done.
        """
        _check_repeatable(asked)
        loop = asyncio.get_running_loop()
        deadline, n_crashes = loop.time() + PATIENCE_S, 0
        while loop.time() < deadline and n_crashes <= MOST_CRASHES:
            await asyncio.sleep(PAUSE_S)
            await _put(send, b": resumes\n\n" if media_type == SSE else b"")
            sent.again()
            _check_repeatable(asked)  # meanwhile it may have given way
            with contextlib.suppress(_Broken, aiohttp.ClientConnectionError, TimeoutError):
                async with self._asked(asked, wish, sent.tokens) as response:
                    if response.status != 200:
                        n_crashes += not _comes_later(response, await _whole(response))
                        continue
                    if response.headers.get(PLAN_HEADER) != wish.plan:
                        raise StreamLost("no other box has the plan that this answer was begun with")
                    n_crashes += 1
                    may_go_on = functools.partial(_may_go_on, asked, n_crashes)
                    await _send_events(response, media_type, sent, send, holds_errors=may_go_on)
                    return
        raise StreamLost("no box of the cluster answers", hint="try again in a moment")

    @contextlib.asynccontextmanager
    async def _asked(
        self, asked: Asked, wish: Wish, tokens: Sequence[int] = ()
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """`tokens`: those that the answer has already."""
        if self._client is None:
            connector = aiohttp.TCPConnector(limit=0)
            self._client = aiohttp.ClientSession(connector=connector, auto_decompress=False)
        session = [(SESSION_HEADER, wish.encoded())] if wish.session or wish.plan else []
        app = self._app(asked.model)
        async with self._client.request(
            asked.scope["method"],
            # As it was sent: with ".." taken away, a path that needs no key could be one of Ray's own.
            yarl.URL(f"{self._upstream}{app and f'/{app}'}{target(asked.scope)}", encoded=True),
            headers=[*asked.headers(tokens), *session],
            data=io.BytesIO(asked.body) if asked.body else None,
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=PAUSE_S * 8),
            allow_redirects=False,
            skip_auto_headers=("User-Agent", "Accept", "Accept-Encoding", "Content-Type"),
        ) as response:
            yield response


def _may_go_on(asked: Asked, n_crashes: int) -> bool:
    """Whether a stream goes on elsewhere where it breaks off now."""
    return asked.is_repeatable and n_crashes <= MOST_CRASHES


def _check_repeatable(asked: Asked) -> None:
    """
    Raises:
        StreamLost: it cannot be asked again.
    """
    if asked.is_repeatable:
        return
    hint = "one answer, without log-probabilities, would have gone on"
    if asked.gave_way:
        hint = "its request was kept until others needed the room; send it again"
    raise StreamLost("the box that wrote this answer is gone", hint=hint)


async def _send_events(
    response: aiohttp.ClientResponse, media_type: str, sent: SentStream, send: Send, *, holds_errors: Callable[[], bool]
) -> None:
    """
    Raises:
        _Broken: the stream ends before its end; Diverged. Where it then `holds_errors`, also where the model died.
    """
    reader = EventReader(media_type)
    try:
        while chunk := await asyncio.wait_for(response.content.readany(), SILENT_S):
            for event in reader.feed(chunk):
                if event.error in _CRASHED and holds_errors():
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
        return response.status in (404, 500, 502, 503, 504)  # 404: of an application that the proxy does not know yet
    return response.status == 503 and error_of(_data(body)) in _CRASHED


def _data(body: bytes) -> dict[str, Any]:
    """Of an answer; empty where it is no object of JSON."""
    try:
        data = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return {}
    return data if isinstance(data, dict) else {}


async def _begin(send: Send, response: aiohttp.ClientResponse, n_bytes: int | None = None) -> None:
    headers = [
        (name.lower(), value)
        for name, value in response.raw_headers
        if name.lower().decode("latin-1") not in HOP_BY_HOP - {"content-encoding"}
    ]
    if n_bytes is not None:
        headers.append((b"content-length", str(n_bytes).encode()))
    await send({"type": "http.response.start", "status": response.status, "headers": headers})


async def _put(send: Send, body: bytes) -> None:
    if body:
        await send({"type": "http.response.body", "body": body, "more_body": True})
