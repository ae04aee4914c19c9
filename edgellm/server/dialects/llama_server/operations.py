"""llama-server's own routes: completion, infill, tokens and templates, and what it tells of itself."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import aclosing
from http import HTTPStatus
from pathlib import Path
from typing import Any, TypeVar

import msgspec
from starlette.requests import Request
from starlette.types import ASGIApp

from edgellm import __version__
from edgellm.server import sse
from edgellm.server.answers import EventLists
from edgellm.server.beside import beside
from edgellm.server.dialects.llama_server.bodies import (
    DetokenizeBody,
    InfillBody,
    LlamaCompletionBody,
    TokenizeBody,
    settings_of,
)
from edgellm.server.dialects.llama_server.chunks import LlamaChunks
from edgellm.server.json_list import json_list
from edgellm.server.openapi import EVENTS, REFUSALS, Operation, status_reply
from edgellm.server.responses import NO_STORE, JSONResponse, client_closed
from edgellm.server.schemas import response
from edgellm.server.schemas.chat import ChatBody
from edgellm.server.served_model import ServedModel, overflow_names
from edgellm.types.event import Delta, Done, Event
from edgellm.types.request import GenerationRequest

LlamaT = TypeVar("LlamaT", LlamaCompletionBody, InfillBody)
TAG = "llama-server"
# Tokens, of which there may be a million, that are written at a time: about a millisecond, or less.
PORTION = 4096


def operations(served: ServedModel) -> list[Operation]:
    """The operations of this dialect, all but those that OpenAI's has, too."""

    async def completion(request: Request) -> ASGIApp:
        """Continue a text as it stands. With `stream: true`, server-sent events without a `[DONE]`."""
        return await _answer(served, request, LlamaCompletionBody)

    async def infill(request: Request) -> ASGIApp:
        """Write what comes between two texts. For models that were trained for it."""
        return await _answer(served, request, InfillBody)

    async def tokenize(request: Request) -> ASGIApp:
        """The tokens of a text."""
        body, _ = await served.receive(request, TokenizeBody, lambda body: body)
        with overflow_names(body.text_field):
            answer = await sse.unless_gone(request.receive, _tokens(served, request, body))
        return client_closed(request) if answer is None else answer

    async def detokenize(request: Request) -> ASGIApp:
        """The text of tokens."""
        body, _ = await served.receive(request, DetokenizeBody, lambda body: body)
        answer = await sse.unless_gone(request.receive, _text(served, request, body))
        return client_closed(request) if answer is None else answer

    async def apply_template(request: Request) -> ASGIApp:
        """The prompt that the model's chat template makes of a conversation."""
        _, generations = await served.receive(request, ChatBody, lambda body: body.to_requests(served.llm))
        return JSONResponse({"prompt": generations[0].prompt})

    async def input_tokens(request: Request) -> ASGIApp:
        """The number of tokens of a conversation's prompt."""
        _, generations = await served.receive(request, ChatBody, lambda body: body.to_requests(served.llm))
        n_tokens = await sse.unless_gone(request.receive, served.count_tokens(request, generations[0]))
        if n_tokens is None:
            return client_closed(request)
        return JSONResponse({"object": "response.input_tokens", "input_tokens": n_tokens})

    async def props(_: Request) -> ASGIApp:
        """What is served, and how answers are drawn. Nothing can be changed."""
        return JSONResponse(await beside(_props, served), headers=NO_STORE)

    async def slots(_: Request) -> ASGIApp:
        """Which slots answer now. Prompts are not told."""
        n_slots, n_ctx = served.llm.plan.settings.n_slots, served.llm.plan.settings.n_ctx
        n_busy = served.activity_report().n_busy
        told = [{"id": number, "n_ctx": n_ctx, "is_processing": number < n_busy} for number in range(n_slots)]
        return JSONResponse(told, headers=NO_STORE)

    async def lora_adapters(_: Request) -> ASGIApp:
        """The adapters that are loaded. Which ones answer is a field of each request, and no state of the server."""
        scales = dict(served.llm.plan.answers_with)
        told = [
            {"id": number, "path": Path(file.path).name, "scale": scales.get(file.name, 0.0), "name": file.name}
            for number, file in enumerate(served.llm.adapters)
        ]
        return JSONResponse(told, headers=NO_STORE)

    unavailable = status_reply(response.Error, HTTPStatus.SERVICE_UNAVAILABLE)
    return [
        Operation(
            "POST",
            "/completion",
            completion,
            TAG,
            None,
            LlamaCompletionBody,
            REFUSALS,
            streams=EVENTS,
        ),
        Operation(
            "POST",
            "/infill",
            infill,
            TAG,
            None,
            InfillBody,
            REFUSALS,
            streams=EVENTS,
        ),
        Operation("POST", "/tokenize", tokenize, TAG, None, TokenizeBody, REFUSALS),
        Operation("POST", "/detokenize", detokenize, TAG, None, DetokenizeBody, REFUSALS),
        Operation("POST", "/apply-template", apply_template, TAG, None, ChatBody, REFUSALS),
        Operation("POST", "/v1/chat/completions/input_tokens", input_tokens, TAG, None, ChatBody, REFUSALS),
        Operation("GET", "/props", props, TAG, None, other_replies=unavailable),
        Operation("GET", "/slots", slots, TAG, None),
        Operation("GET", "/lora-adapters", lora_adapters, TAG, None),
    ]


async def _answer(served: ServedModel, request: Request, body_type: type[LlamaT]) -> ASGIApp:
    """Read the body, then stream the answers or send them whole."""
    with overflow_names(body_type.text_field):
        body, generations = await served.receive(request, body_type, lambda body: body.to_requests(served.llm))
        chunks = LlamaChunks(served, body, generations)
        event_lists = served.events(request, generations)
        if body.stream:
            return await sse.stream(request, chunks, event_lists)
        return await _whole(request, chunks, event_lists)


async def _whole(request: Request, chunks: LlamaChunks, event_lists: EventLists) -> ASGIApp:
    async with aclosing(event_lists):
        events = await sse.whole(request, event_lists)
    if events is None:
        return client_closed(request)
    # Probabilities of thousands of tokens take a while to write: not in the event loop that all streams share.
    return await beside(_answers, chunks, events)


def _answers(chunks: LlamaChunks, events: Sequence[Event]) -> JSONResponse:
    ends = sorted((event for event in events if isinstance(event, Done)), key=lambda done: done.choice)
    answers = [chunks.whole(_deltas(events, done.choice), done) for done in ends]
    return JSONResponse(answers[0] if len(answers) == 1 else answers)


def _deltas(events: Sequence[Event], choice: int) -> list[Delta]:
    return [event for event in events if isinstance(event, Delta) and event.choice == choice]


def _props(served: ServedModel) -> dict[str, Any]:
    served.require(None)
    llm, info = served.llm, served.llm.info
    drawn = llm.plan.sampling.values
    return {
        "default_generation_settings": {
            "n_ctx": info.n_ctx,
            "params": settings_of(GenerationRequest(""), drawn, served.id_for(None), info.n_ctx),
        },
        "total_slots": llm.plan.settings.n_slots,
        "model_alias": served.id_for(None),
        "model_path": Path(llm.plan.artifact.path).name,
        "chat_template": info.chat_template or "",
        "modalities": {"vision": False, "audio": False},
        "build_info": f"edgellm {__version__}",
        "is_sleeping": False,
    }


async def _tokens(served: ServedModel, request: Request, body: TokenizeBody) -> JSONResponse:
    async with served.token_turn(request, len(body.content)):
        special = body.parse_special is not False
        tokens = await served.llm.atokenize(body.content, special=special, add_bos=bool(body.add_special))
        if not body.with_pieces:
            return await beside(lambda: JSONResponse({"tokens": json_list(tokens, PORTION)}))
        distinct = await beside(lambda: list(dict.fromkeys(tokens)))
        return await beside(_with_pieces, tokens, distinct, await served.llm.apieces(distinct))


async def _text(served: ServedModel, request: Request, body: DetokenizeBody) -> JSONResponse:
    async with served.token_turn(request, len(body.tokens)):
        with body.naming():
            return JSONResponse({"content": await served.llm.adetokenize(body.tokens)})


def _with_pieces(tokens: Sequence[int], distinct: Sequence[int], pieces: Sequence[bytes]) -> JSONResponse:
    """`pieces`: of the distinct ones among them, each of which is written once. In portions, as `json_list`."""
    told = ({"id": token, "piece": _piece(piece)} for token, piece in zip(distinct, pieces, strict=True))
    written = dict(zip(distinct, map(msgspec.json.encode, told), strict=True))
    portions = (tokens[at : at + PORTION] for at in range(0, len(tokens), PORTION))
    parts = (b",".join(map(written.__getitem__, portion)) for portion in portions)
    return JSONResponse({"tokens": msgspec.Raw(b"[%b]" % b",".join(parts))})


def _piece(piece: bytes) -> str | list[int]:
    """A text, or bytes that are no whole characters."""
    try:
        return piece.decode()
    except UnicodeDecodeError:
        return list(piece)
