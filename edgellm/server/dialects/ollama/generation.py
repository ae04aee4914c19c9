"""`/api/chat` and `/api/generate`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import aclosing
from typing import TypeVar

from starlette.requests import Request
from starlette.types import ASGIApp

from edgellm.sdk.answer import whole
from edgellm.server import sse
from edgellm.server.answers import EventLists
from edgellm.server.beside import beside
from edgellm.server.dialects.ollama.answers import OllamaChatAnswer, OllamaGenerateAnswer
from edgellm.server.dialects.ollama.chat_body import OllamaChatBody
from edgellm.server.dialects.ollama.chunks import OllamaChatChunks, OllamaChunks, OllamaGenerateChunks
from edgellm.server.dialects.ollama.generate_body import OllamaGenerateBody
from edgellm.server.dialects.ollama.refusals import REFUSALS, TAG
from edgellm.server.openapi import LINES, Operation
from edgellm.server.responses import JSONResponse, client_closed
from edgellm.server.served_model import ServedModel, overflow_names

GenerationBodyT = TypeVar("GenerationBodyT", OllamaChatBody, OllamaGenerateBody)


def operations(served: ServedModel) -> list[Operation]:
    """The operations with which the model answers."""

    async def chat(request: Request) -> ASGIApp:
        """Answer a conversation, in lines of JSON unless `stream` is false."""
        return await _answer(served, request, OllamaChatBody, OllamaChatChunks)

    async def generate(request: Request) -> ASGIApp:
        """Answer a prompt or, with `raw`, continue it; in lines of JSON unless `stream` is false."""
        return await _answer(served, request, OllamaGenerateBody, OllamaGenerateChunks)

    return [
        Operation(
            "POST",
            "/api/chat",
            chat,
            TAG,
            OllamaChatAnswer,
            OllamaChatBody,
            REFUSALS,
            streams=LINES,
        ),
        Operation(
            "POST", "/api/generate", generate, TAG, OllamaGenerateAnswer, OllamaGenerateBody, REFUSALS, streams=LINES
        ),
    ]


async def _answer(
    served: ServedModel,
    request: Request,
    body_type: type[GenerationBodyT],
    chunks_type: Callable[[str, Sequence[str]], OllamaChunks],
) -> ASGIApp:
    """Read the body, then stream the answer or send it whole."""
    with overflow_names(body_type.text_field):
        body, generations = await served.receive(request, body_type, lambda body: body.to_requests(served.llm))
        chunks = chunks_type(body.model or served.id_for(None), body.notes(generations))
        if not generations:
            return JSONResponse(chunks.loaded())
        event_lists = served.events(request, generations)
        return await (_whole if body.stream is False else sse.stream)(request, chunks, event_lists)


async def _whole(request: Request, chunks: OllamaChunks, event_lists: EventLists) -> ASGIApp:
    async with aclosing(event_lists):
        events = await sse.whole(request, event_lists)
    if events is None:
        return client_closed(request)
    # Logprobs of thousands of tokens take a while to write: not in the event loop that all streams share.
    return await beside(lambda: JSONResponse(chunks.whole(whole(events))))
