"""OpenAI's dialect: `/v1/chat/completions`, `/v1/completions`, `/v1/models`."""

from __future__ import annotations

import time
import uuid
from abc import ABC, abstractmethod
from collections.abc import Sequence
from contextlib import aclosing
from http import HTTPStatus
from typing import Any

import msgspec
from starlette.requests import Request
from starlette.types import ASGIApp

from edgellm.errors import Closed
from edgellm.server import sse
from edgellm.server.openapi import REFUSALS, Operation, status_reply
from edgellm.server.responses import JSONResponse, client_closed
from edgellm.server.schemas import response
from edgellm.server.schemas.request import BodyT, ChatBody, CompletionBody
from edgellm.server.served_model import ServedModel, overflow_names
from edgellm.types.event import Delta, Done, Event
from edgellm.types.logprob import TokenLogprob

TAG = "OpenAI"


def operations(served: ServedModel) -> list[Operation]:
    """The operations of this dialect."""

    async def chat_completions(request: Request) -> ASGIApp:
        """Answer a conversation. With `stream: true`, server-sent events that end with `[DONE]`."""
        return await _answer(served, request, ChatBody, ChatChunks)

    async def completions(request: Request) -> ASGIApp:
        """Continue a text as it stands, without a chat template. `max_tokens` is 16 unless given."""
        return await _answer(served, request, CompletionBody, TextChunks)

    async def models(_: Request) -> ASGIApp:
        """The one model that is served."""
        return JSONResponse(response.ModelList("list", [_described(served)]))

    async def model(request: Request) -> ASGIApp:
        """The model of that name."""
        name = request.path_params["name"]
        if not served.is_named(name):
            raise served.unknown(name)
        return JSONResponse(_described(served))

    not_found = status_reply(response.Error, HTTPStatus.NOT_FOUND)
    return [
        Operation("POST", "/v1/chat/completions", chat_completions, TAG, response.ChatCompletion, ChatBody, REFUSALS),
        Operation("POST", "/v1/completions", completions, TAG, response.TextCompletion, CompletionBody, REFUSALS),
        Operation("GET", "/v1/models", models, TAG, response.ModelList),
        Operation("GET", "/v1/models/{name:path}", model, TAG, response.Model, other_replies=not_found),
    ]


class _Chunks(ABC):
    """The chunks of one request, or its whole response. The text of a chunk is filled into a template made once."""

    prefix = object = ""

    def __init__(self, model: ServedModel, include_usage: bool) -> None:
        self.id = f"{self.prefix}-{uuid.uuid4().hex}"
        self.created = int(time.time())
        self.model = model.id
        self._include_usage = include_usage
        self._template = sse.Template(self._chunk(self.choice("\0", None)), "\0")

    @abstractmethod
    def choice(self, text: str, finish_reason: str | None) -> dict[str, Any]:
        """The one choice of a chunk."""

    @abstractmethod
    def logprobs(self, tokens: Sequence[TokenLogprob]) -> msgspec.Struct:
        """In the dialect's form."""

    @abstractmethod
    def whole(
        self, text: str, done: Done, tokens: Sequence[TokenLogprob]
    ) -> response.ChatCompletion | response.TextCompletion:
        """The response of a request without a stream."""

    def _chunk(self, *choices: dict[str, Any], **more: Any) -> dict[str, Any]:
        chunk = {"id": self.id, "object": self.object, "created": self.created, "model": self.model}
        usage = {"usage": None} if self._include_usage else {}
        return {**chunk, "choices": choices, **usage, **more}

    def first(self) -> bytes:
        return b""

    def text(self, delta: Delta) -> bytes:
        if delta.logprobs:
            choice = {**self.choice(delta.text, None), "logprobs": self.logprobs(delta.logprobs)}
            return sse.event(self._chunk(choice))
        return self._template.fill(delta.text)

    def last(self, done: Done) -> bytes:
        _require_complete(done)
        timings = response.CompletionTimings.of(done.timings, done.usage)
        end = sse.event(self._chunk(self.choice("", done.finish_reason), timings=timings))
        usage = sse.event(self._chunk(usage=response.CompletionUsage.of(done.usage))) if self._include_usage else b""
        return end + usage + sse.DONE


class ChatChunks(_Chunks):
    """Of /v1/chat/completions."""

    prefix, object = "chatcmpl", "chat.completion.chunk"

    def choice(self, text: str, finish_reason: str | None) -> dict[str, Any]:
        delta = {} if finish_reason else {"content": text}
        return {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish_reason}

    def first(self) -> bytes:
        choice = {"index": 0, "delta": {"role": "assistant", "content": ""}, "logprobs": None, "finish_reason": None}
        return sse.event(self._chunk(choice))

    def logprobs(self, tokens: Sequence[TokenLogprob]) -> response.ChatLogprobs:
        return response.ChatLogprobs.of(tokens)

    def whole(self, text: str, done: Done, tokens: Sequence[TokenLogprob]) -> response.ChatCompletion:
        message = response.AnswerMessage("assistant", text)
        choice = response.ChatChoice(0, message, done.finish_reason, self.logprobs(tokens) if tokens else None)
        usage = response.CompletionUsage.of(done.usage)
        timings = response.CompletionTimings.of(done.timings, done.usage)
        return response.ChatCompletion(self.id, "chat.completion", self.created, self.model, [choice], usage, timings)


class TextChunks(_Chunks):
    """Of /v1/completions."""

    prefix, object = "cmpl", "text_completion"
    _offset = 0  # characters of the tokens that have been told

    def choice(self, text: str, finish_reason: str | None) -> dict[str, Any]:
        return {"index": 0, "text": text, "logprobs": None, "finish_reason": finish_reason}

    def logprobs(self, tokens: Sequence[TokenLogprob]) -> response.TextLogprobs:
        made = response.TextLogprobs.of(tokens, self._offset)
        self._offset += sum(map(len, made.tokens))
        return made

    def whole(self, text: str, done: Done, tokens: Sequence[TokenLogprob]) -> response.TextCompletion:
        choice = response.TextChoice(0, text, done.finish_reason, self.logprobs(tokens) if tokens else None)
        usage = response.CompletionUsage.of(done.usage)
        timings = response.CompletionTimings.of(done.timings, done.usage)
        return response.TextCompletion(self.id, self.object, self.created, self.model, [choice], usage, timings)


async def _answer(
    model: ServedModel, request: Request, body_type: type[BodyT], chunks_type: type[ChatChunks | TextChunks]
) -> ASGIApp:
    """Read the body, then stream the answer or send it whole."""
    with overflow_names(body_type.text_field):
        body, generation = await model.receive(request, body_type, lambda body: body.to_request(model.llm))
        chunks, event_lists = chunks_type(model, body.include_usage), model.events(request, generation)
        return await (_stream if body.stream else _whole)(request, chunks, event_lists)


async def _whole(request: Request, chunks: ChatChunks | TextChunks, event_lists: sse.EventLists) -> ASGIApp:
    async with aclosing(event_lists):
        events = await sse.unless_gone(request.receive, _all(event_lists))
    if events is None:
        return client_closed(request)
    done = events[-1]
    assert isinstance(done, Done)
    _require_complete(done)
    deltas = [event for event in events if isinstance(event, Delta)]
    tokens = [token for delta in deltas for token in delta.logprobs]
    return JSONResponse(chunks.whole("".join(delta.text for delta in deltas), done, tokens))


async def _stream(request: Request, chunks: ChatChunks | TextChunks, event_lists: sse.EventLists) -> ASGIApp:
    """Wait for the first tokens: until then an error still has its status."""
    try:
        first = await sse.unless_gone(request.receive, anext(event_lists))
    except BaseException:
        await event_lists.aclose()
        raise
    if first is None:
        await event_lists.aclose()
        return client_closed(request)
    return sse.EventStream(chunks, first, event_lists)


def _require_complete(done: Done) -> None:
    """A client must not take the beginning of an answer for all of it.

    Raises:
        Closed: the model was closed before the answer was complete.
    """
    if done.finish_reason == "cancelled":
        raise Closed("the model was closed while it answered", hint="send the request again when it is back")


async def _all(event_lists: sse.EventLists) -> list[Event]:
    return [event async for events in event_lists for event in events]


def _described(model: ServedModel) -> response.Model:
    return response.Model(model.id, "model", model.created, "edgellm")
