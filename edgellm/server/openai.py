"""The OpenAI face: `/v1/chat/completions`, `/v1/completions`, `/v1/models`."""

from __future__ import annotations

import asyncio
import time
import uuid
from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import aclosing
from dataclasses import replace
from typing import Any

import msgspec
from fastapi import APIRouter, Request, Response

from edgellm.errors import Closed, ContextOverflow, UnknownModel
from edgellm.sdk.client import EdgeLLM
from edgellm.server import sse
from edgellm.server.errors import HttpError
from edgellm.server.schemas import response
from edgellm.server.schemas.request import B, ChatBody, CompletionBody, Whole
from edgellm.types.event import Delta, Done, Event
from edgellm.types.request import GenerationRequest

# Names that always mean the model that is served: clients often cannot be told another one.
ALIASES = ("default", "edgellm")
# nginx's "client closed request": nobody reads it, but a log does.
CLIENT_CLOSED = 499
REFUSALS: dict[int | str, dict[str, Any]] = {
    "4XX": {"model": response.Error, "description": "The request is refused; `param` names the field."},
    "503": {"model": response.Error, "description": "The model is loading, crashed or closed; see Retry-After."},
}


class Served:
    """The model behind the faces, and whether it takes requests now."""

    def __init__(self, llm: EdgeLLM) -> None:
        self.llm = llm
        self.created = int(time.time())

    @property
    def id(self) -> str:
        return self.llm.plan.artifact.model_id

    def require(self, name: str | None) -> None:
        """Check that requests for `name` can be answered now.

        After a crash the model is loading again, but it is known to load: requests then wait the moment it takes.

        Raises:
            HttpError: 503, loading or failed; UnknownModel: another model is served.
        """
        state = self.llm.state
        if state == "loading" and not self.llm.was_ready:
            raise HttpError(503, "the model is loading", code="model_loading", hint="try again in a moment")
        if state in ("failed", "closed"):
            raise HttpError(503, f"the model is not running: {self.reason()}", code=f"model_{state}")
        if name is not None and name not in (self.id, *ALIASES):
            raise UnknownModel(
                f"{_cut(name)} is not served here",
                hint=f"served: {self.id} (also as {' or '.join(ALIASES)})",
                param="model",
            )

    def reason(self) -> str:
        """Why the model is not running; "" where it is or will be."""
        if self.llm.state not in ("failed", "closed"):
            return ""
        try:
            _ = self.llm.info
        except Exception as error:
            return str(error) or type(error).__name__
        return "it was closed"


def router(served: Served) -> APIRouter:
    """Routes of this face. Bodies are read by `fields`, so FastAPI is told only how to document them."""
    routes = APIRouter(tags=["OpenAI"])

    @routes.post(
        "/v1/chat/completions",
        responses={200: {"model": response.ChatCompletion}, **REFUSALS},
        openapi_extra=body_schema(ChatBody),
    )
    async def chat_completions(request: Request) -> Response:
        """Answer a conversation. With `stream: true`, server-sent events that end with `[DONE]`."""
        return await _answer(served, request, ChatBody, _chat_request, ChatChunks)

    @routes.post(
        "/v1/completions",
        responses={200: {"model": response.TextCompletion}, **REFUSALS},
        openapi_extra=body_schema(CompletionBody),
    )
    async def completions(request: Request) -> Response:
        """Continue a text as it stands, without a chat template. `max_tokens` is 16 unless given."""
        return await _answer(served, request, CompletionBody, _completion_request, TextChunks)

    @routes.get("/v1/models", responses={200: {"model": response.ModelList}})
    async def models() -> Response:
        """The one model that is served."""
        return _json(response.ModelList("list", [_model(served)]))

    @routes.get("/v1/models/{name:path}", responses={200: {"model": response.Model}, 404: {"model": response.Error}})
    async def model(name: str) -> Response:
        """The model of that name."""
        if name not in (served.id, *ALIASES):
            raise UnknownModel(f"{_cut(name)} is not served here", hint=f"served: {served.id}", param="model")
        return _json(_model(served))

    return routes


class _Envelope(ABC):
    """What all chunks and answers of one request share."""

    prefix = object = ""

    def __init__(self, served: Served, usage: bool) -> None:
        self.id = f"{self.prefix}-{uuid.uuid4().hex}"
        self.created = int(time.time())
        self.model = served.id
        self._usage = usage
        self._text = sse.Template(self._chunk(self.choice("\0", None)), "\0")

    @abstractmethod
    def choice(self, text: str, finish_reason: str | None) -> dict[str, Any]:
        """The one choice of a chunk, as this face writes it."""

    def _chunk(self, *choices: dict[str, Any], **more: Any) -> dict[str, Any]:
        chunk = {"id": self.id, "object": self.object, "created": self.created, "model": self.model}
        usage = {"usage": None} if self._usage else {}
        return {**chunk, "choices": choices, **usage, **more}

    def first(self) -> bytes:
        return b""

    def text(self, delta: Delta) -> bytes:
        return self._text.fill(delta.text)

    def last(self, done: Done) -> bytes:
        _require_whole(done)
        timings = response.Timings.of(done.timings, done.usage)
        end = sse.event(self._chunk(self.choice("", done.finish_reason), timings=timings))
        usage = sse.event(self._chunk(usage=response.Usage.of(done.usage))) if self._usage else b""
        return end + usage + sse.DONE


class ChatChunks(_Envelope):
    """Chunks of /v1/chat/completions, and the whole answer where it is not streamed."""

    prefix, object = "chatcmpl", "chat.completion.chunk"

    def choice(self, text: str, finish_reason: str | None) -> dict[str, Any]:
        delta = {} if finish_reason else {"content": text}
        return {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish_reason}

    def first(self) -> bytes:
        choice = {"index": 0, "delta": {"role": "assistant", "content": ""}, "logprobs": None, "finish_reason": None}
        return sse.event(self._chunk(choice))

    def whole(self, text: str, done: Done) -> response.ChatCompletion:
        choice = response.ChatChoice(0, response.AnswerMessage("assistant", text), done.finish_reason)
        usage, timings = response.Usage.of(done.usage), response.Timings.of(done.timings, done.usage)
        return response.ChatCompletion(self.id, "chat.completion", self.created, self.model, [choice], usage, timings)


class TextChunks(_Envelope):
    """Chunks of /v1/completions, and the whole answer where it is not streamed."""

    prefix, object = "cmpl", "text_completion"

    def choice(self, text: str, finish_reason: str | None) -> dict[str, Any]:
        return {"index": 0, "text": text, "logprobs": None, "finish_reason": finish_reason}

    def whole(self, text: str, done: Done) -> response.TextCompletion:
        choice = response.TextChoice(0, text, done.finish_reason)
        usage, timings = response.Usage.of(done.usage), response.Timings.of(done.timings, done.usage)
        return response.TextCompletion(self.id, self.object, self.created, self.model, [choice], usage, timings)


async def _answer(
    served: Served,
    request: Request,
    body_type: type[B],
    prepare: Callable[[EdgeLLM, B], GenerationRequest],
    envelope: type[ChatChunks] | type[TextChunks],
) -> Response:
    """As `_respond`; a prompt that is too long is named as the body calls it."""
    try:
        return await _respond(served, request, body_type, prepare, envelope)
    except ContextOverflow as error:
        error.param = body_type.text_field
        raise


async def _respond(
    served: Served,
    request: Request,
    body_type: type[B],
    prepare: Callable[[EdgeLLM, B], GenerationRequest],
    envelope: type[ChatChunks] | type[TextChunks],
) -> Response:
    """Read, wait for the first tokens (until then an error still has its status), then stream or collect."""
    raw = await request.body()
    # A long body and a model's own template take time: not in the event loop that all streams share.
    body, generation = await asyncio.to_thread(_read, served, raw, body_type, prepare)
    chunks = envelope(served, body.wants_usage())
    batches = served.llm.abatches(generation)
    if not body.stream:
        async with aclosing(batches):
            events = await sse.unless_gone(request.receive, _all(batches))
        if events is None:
            return Response(status_code=CLIENT_CLOSED)
        done = events[-1]
        assert isinstance(done, Done)
        _require_whole(done)
        return _json(chunks.whole("".join(e.text for e in events if isinstance(e, Delta)), done))
    try:
        first = await sse.unless_gone(request.receive, anext(batches))
    except BaseException:
        await batches.aclose()
        raise
    if first is None:
        await batches.aclose()
        return Response(status_code=CLIENT_CLOSED)
    return sse.EventStream(chunks, first, batches)


def _read(
    served: Served, raw: bytes, body_type: type[B], prepare: Callable[[EdgeLLM, B], GenerationRequest]
) -> tuple[B, GenerationRequest]:
    body = body_type.read(raw)
    served.require(body.model)
    body.wants_usage()
    return body, replace(prepare(served.llm, body), ignore_eos=bool(body.ignore_eos))


def _chat_request(llm: EdgeLLM, body: ChatBody) -> GenerationRequest:
    messages = [message.noun() for message in body.messages]
    return llm.request(messages, max_tokens=body.limit(), stop=body.stops(), sampling=body.sampling())


def _completion_request(llm: EdgeLLM, body: CompletionBody) -> GenerationRequest:
    return GenerationRequest(body.text(), body.sampling(), body.limit(), body.stops())


def _require_whole(done: Done) -> None:
    """Nobody may take the beginning of an answer for all of it.

    Raises:
        Closed: the model was closed in the middle.
    """
    if done.finish_reason == "cancelled":
        raise Closed("the model was closed while it answered", hint="send the request again when it is back")


async def _all(batches: sse.Batches) -> list[Event]:
    return [event async for batch in batches for event in batch]


def _model(served: Served) -> response.Model:
    return response.Model(served.id, "model", served.created, "edgellm")


def _json(content: object) -> Response:
    return Response(msgspec.json.encode(content), media_type="application/json")


def body_schema(body_type: type[Whole]) -> dict[str, Any]:
    """How /docs shows a body that FastAPI does not read."""
    reference = {"$ref": f"#/components/schemas/{body_type.__name__}"}
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": reference}}}}


def _cut(name: str) -> str:
    return repr(name if len(name) <= 80 else f"{name[:77]}...")
