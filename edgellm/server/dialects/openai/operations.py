"""OpenAI's dialect: `/v1/chat/completions`, `/v1/completions`, `/v1/models`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from http import HTTPStatus
from typing import TypeVar

import msgspec
from starlette.requests import Request
from starlette.types import ASGIApp

from edgellm.sdk.answer import whole
from edgellm.server import request_log, sse
from edgellm.server.answers import EventLists
from edgellm.server.beside import beside
from edgellm.server.dialects.anthropic.models import anthropic_model, anthropic_models
from edgellm.server.dialects.openai.chat_chunks import ChatChunks
from edgellm.server.dialects.openai.chunks import OpenAIChunks
from edgellm.server.dialects.openai.text_chunks import TextChunks
from edgellm.server.error_form import lists_for_anthropic
from edgellm.server.json_list import json_list
from edgellm.server.openapi import EVENTS, REFUSALS, Operation, status_reply
from edgellm.server.request_log import RequestRecord
from edgellm.server.responses import JSONResponse, client_closed
from edgellm.server.schemas import response
from edgellm.server.schemas.answer import ChatCompletion, TextCompletion
from edgellm.server.schemas.chat import ChatBody
from edgellm.server.schemas.completion import CompletionBody
from edgellm.server.schemas.usage import CompletionTimings
from edgellm.server.served_model import ServedModel, overflow_names
from edgellm.types.event import Done, Event

BodyT = TypeVar("BodyT", ChatBody, CompletionBody)
TAG = "OpenAI"


def operations(served: ServedModel) -> list[Operation]:
    """The operations of this dialect."""

    async def chat_completions(request: Request) -> ASGIApp:
        """Answer a conversation. With `stream: true`, server-sent events that end with `[DONE]`."""
        return await _answer(served, request, ChatBody, ChatChunks)

    async def completions(request: Request) -> ASGIApp:
        """Continue a text as it stands, without a chat template. `max_tokens` is 16 unless given."""
        return await _answer(served, request, CompletionBody, TextChunks)

    async def models(request: Request) -> ASGIApp:
        """The one model that is served, by each of its names. With `anthropic-version`, as Anthropic's."""
        if lists_for_anthropic(request.scope):
            return JSONResponse(anthropic_models(served))
        return JSONResponse(model_list(served))

    async def model(request: Request) -> ASGIApp:
        """The model of that name. With `anthropic-version`, as Anthropic's."""
        name = request.path_params["name"]
        if not served.is_named(name):
            raise served.unknown(name)
        if lists_for_anthropic(request.scope):
            return JSONResponse(anthropic_model(served, name))
        return JSONResponse(_described(served, name))

    not_found = status_reply(response.Error, HTTPStatus.NOT_FOUND)
    return [
        Operation(
            "POST", "/v1/chat/completions", chat_completions, TAG, ChatCompletion, ChatBody, REFUSALS, streams=EVENTS
        ),
        Operation(
            "POST", "/v1/completions", completions, TAG, TextCompletion, CompletionBody, REFUSALS, streams=EVENTS
        ),
        Operation("GET", "/v1/models", models, TAG, response.ModelList),
        Operation("GET", "/v1/models/{name:path}", model, TAG, response.Model, other_replies=not_found),
    ]


def model_list(served: ServedModel) -> response.ModelList:
    """The body of /v1/models."""
    return response.ModelList("list", [_described(served, name) for name in served.all_names])


async def _answer(
    model: ServedModel,
    request: Request,
    body_type: type[BodyT],
    chunks_type: Callable[[ServedModel, BodyT, RequestRecord, Sequence[str]], OpenAIChunks],
) -> ASGIApp:
    """Read the body, then stream the answers or send them whole."""
    with overflow_names(body_type.text_field):
        body, generations = await model.receive(request, body_type, lambda body: body.to_requests(model.llm))
        chunks = chunks_type(model, body, request_log.of_scope(request.scope), generations[0].notes)
        event_lists = model.events(request, generations)
        return await (sse.stream if body.stream else _whole)(request, chunks, event_lists)


async def _whole(request: Request, chunks: OpenAIChunks, event_lists: EventLists) -> ASGIApp:
    events = await sse.whole(request, event_lists)
    if events is None:
        return client_closed(request)
    # Prompts that come back with their logprobs take a while to write: not in the event loop that all streams share.
    return await beside(_written, chunks, events)


def _written(chunks: OpenAIChunks, events: Sequence[Event]) -> JSONResponse:
    answer = whole([event for event in events if not chunks.takes(event)])
    first = next(event for event in events if isinstance(event, Done) and event.choice == 0)  # it computed the prompt
    told = chunks.whole(answer, CompletionTimings.of(answer.timings, first.usage))
    return JSONResponse(msgspec.structs.replace(told, choices=json_list(told.choices, 1)))


def _described(model: ServedModel, name: str) -> response.Model:
    n_ctx = model.llm.plan.settings.n_ctx
    return response.Model(name, "model", model.created, "edgellm", n_ctx, response.ModelMeta(n_ctx))
