"""Anthropic's dialect: `/v1/messages` and `/v1/messages/count_tokens`."""

from __future__ import annotations

from starlette.requests import Request
from starlette.types import ASGIApp

from edgellm.sdk.answer import whole
from edgellm.server import sse
from edgellm.server.answers import EventLists
from edgellm.server.dialects.anthropic.answer import AnthropicAnswer, AnthropicError, AnthropicTokenCount
from edgellm.server.dialects.anthropic.body import AnthropicCountBody, AnthropicMessagesBody
from edgellm.server.dialects.anthropic.chunks import AnthropicChunks
from edgellm.server.openapi import EVENTS, Operation, ResponseDoc
from edgellm.server.responses import JSONResponse, client_closed
from edgellm.server.served_model import ServedModel, overflow_names
from edgellm.types.event import Done

TAG = "Anthropic"
REFUSALS = {
    "4XX": ResponseDoc(AnthropicError, "The request is refused; the message says why."),
    "503": ResponseDoc(AnthropicError, "The model is loading, crashed or closed; see Retry-After."),
    "529": ResponseDoc(AnthropicError, "There is too much to do; see Retry-After."),
}


def operations(served: ServedModel) -> list[Operation]:
    """The operations of this dialect."""

    async def messages(request: Request) -> ASGIApp:
        """Answer a conversation. With `stream: true`, server-sent events from `message_start` to `message_stop`."""
        with overflow_names(AnthropicMessagesBody.text_field):
            body, generations = await served.receive(
                request, AnthropicMessagesBody, lambda body: body.to_requests(served.llm)
            )
            chunks = AnthropicChunks(served.id_for(body.model), body, generations[0].notes)
            event_lists = served.events(request, generations)
            return await (sse.stream if body.stream else _whole)(request, chunks, event_lists)

    async def count_tokens(request: Request) -> ASGIApp:
        """How many tokens the model would read before it answers."""
        with overflow_names(AnthropicCountBody.text_field):
            _, counted = await served.receive(request, AnthropicCountBody, lambda body: body.to_request(served.llm))
            n_tokens = await sse.unless_gone(request.receive, served.count_tokens(request, counted))
        return client_closed(request) if n_tokens is None else JSONResponse(AnthropicTokenCount(n_tokens))

    return [
        Operation(
            "POST", "/v1/messages", messages, TAG, AnthropicAnswer, AnthropicMessagesBody, REFUSALS, streams=EVENTS
        ),
        Operation(
            "POST",
            "/v1/messages/count_tokens",
            count_tokens,
            TAG,
            AnthropicTokenCount,
            AnthropicCountBody,
            REFUSALS,
        ),
    ]


async def _whole(request: Request, chunks: AnthropicChunks, event_lists: EventLists) -> ASGIApp:
    events = await sse.whole(request, event_lists)
    if events is None:
        return client_closed(request)
    done = events[-1]
    assert isinstance(done, Done)
    return JSONResponse(chunks.whole(whole(events), done))
