"""`/v1/embeddings` as OpenAI's API has it, and `/v1/rerank` as Jina's and Cohere's have it."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Callable
from typing import TypeVar

import msgspec
from fastapi import APIRouter, Request, Response

from edgellm.errors import ContextOverflow
from edgellm.server import sse
from edgellm.server.openai import CLIENT_CLOSED, REFUSALS, Served, body_schema
from edgellm.server.schemas import response
from edgellm.server.schemas.embeddings import EmbeddingBody, RerankBody
from edgellm.types.event import Vectors
from edgellm.types.request import EmbeddingRequest, RerankRequest

B = TypeVar("B", EmbeddingBody, RerankBody)


def router(served: Served) -> APIRouter:
    """Routes of this face; bodies are read by `vector_fields`."""
    routes = APIRouter(tags=["OpenAI"])

    @routes.post(
        "/v1/embeddings",
        responses={200: {"model": response.EmbeddingList}, **REFUSALS},
        openapi_extra=body_schema(EmbeddingBody),
    )
    async def embeddings(request: Request) -> Response:
        """Turn texts into vectors. For models that embed; 2048 texts at most."""
        body, found = await _asked(served, request, EmbeddingBody)
        if found is None:
            return Response(status_code=CLIENT_CLOSED)
        # Thousands of numbers take a while to write: not in the event loop that all streams share.
        return await asyncio.to_thread(_embeddings, served, body, found)

    @routes.post(
        "/v1/rerank", responses={200: {"model": response.Ranking}, **REFUSALS}, openapi_extra=body_schema(RerankBody)
    )
    async def rerank(request: Request) -> Response:
        """Order documents by how well each answers a query. For cross-encoders; no vectors are compared instead."""
        body, found = await _asked(served, request, RerankBody)
        return Response(status_code=CLIENT_CLOSED) if found is None else _ranking(served, body, found)

    return routes


async def _asked(served: Served, request: Request, body_type: type[B]) -> tuple[B, Vectors | None]:
    """The body and the model's answer; None where the client went away."""
    raw = await request.body()
    body, asked = await asyncio.to_thread(_read, served, raw, body_type)
    try:
        return body, await sse.unless_gone(request.receive, served.llm.avectors(asked))
    except ContextOverflow as error:
        error.param = body_type.text_field
        raise


def _read(served: Served, raw: bytes, body_type: type[B]) -> tuple[B, EmbeddingRequest | RerankRequest]:
    body = body_type.read(raw)
    served.require(body.model)
    return body, body.noun()


def _embeddings(served: Served, body: EmbeddingBody, found: Vectors) -> Response:
    size = len(found.data) // found.n
    rows = [found.data[at : at + size] for at in range(0, len(found.data), size)]
    write: Callable[[bytes], list[float] | str] = _base64 if body.encoding_format == "base64" else _numbers
    data = [response.Embedding("embedding", index, write(row)) for index, row in enumerate(rows)]
    usage = response.ReadUsage(found.usage.prompt_tokens, found.usage.prompt_tokens)
    return _json(response.EmbeddingList("list", data, served.id, usage))


def _ranking(served: Served, body: RerankBody, found: Vectors) -> Response:
    scores = _numbers(found.data)
    order = sorted(range(found.n), key=lambda index: -scores[index])[: body.top_n]
    results = [
        response.Ranked(
            index, scores[index], response.Document(body.documents[index]) if body.return_documents else None
        )
        for index in order
    ]
    usage = response.ReadUsage(found.usage.prompt_tokens, found.usage.prompt_tokens)
    return _json(response.Ranking(served.id, "list", results, usage))


def _base64(row: bytes) -> str:
    return base64.b64encode(row).decode()


def _numbers(data: bytes) -> list[float]:
    import numpy as np

    found: list[float] = np.frombuffer(data, "<f4").tolist()
    return found


def _json(content: object) -> Response:
    return Response(msgspec.json.encode(content), media_type="application/json")
