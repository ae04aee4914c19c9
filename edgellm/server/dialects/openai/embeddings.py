"""`/v1/embeddings` as in OpenAI's API, and `/v1/rerank` as in Jina's and Cohere's."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Callable
from typing import TypeVar

from starlette.requests import Request
from starlette.types import ASGIApp

from edgellm.server import sse
from edgellm.server.openapi import REFUSALS, Operation
from edgellm.server.responses import JSONResponse, client_closed
from edgellm.server.schemas import response
from edgellm.server.schemas.embeddings import EmbeddingBody, RerankBody
from edgellm.server.served_model import ServedModel, overflow_names
from edgellm.types.event import Vectors

TAG = "OpenAI"
B = TypeVar("B", EmbeddingBody, RerankBody)


def operations(model: ServedModel) -> list[Operation]:
    """The operations of this dialect."""

    async def embeddings(request: Request) -> ASGIApp:
        """Turn texts into vectors. For models that embed; 2048 texts at most."""
        body, vectors = await _vectors(model, request, EmbeddingBody)
        if vectors is None:
            return client_closed(request)
        # Thousands of numbers take a while to write: not in the event loop that all streams share.
        return await asyncio.to_thread(_embedding_list, model, body, vectors)

    async def rerank(request: Request) -> ASGIApp:
        """Order documents by how well each answers a query. For cross-encoders; no vectors are compared instead."""
        body, scores = await _vectors(model, request, RerankBody)
        return client_closed(request) if scores is None else _ranking(model, body, scores)

    return [
        Operation("POST", "/v1/embeddings", embeddings, TAG, response.EmbeddingList, EmbeddingBody, REFUSALS),
        Operation("POST", "/v1/rerank", rerank, TAG, response.Ranking, RerankBody, REFUSALS),
    ]


async def _vectors(model: ServedModel, request: Request, body_type: type[B]) -> tuple[B, Vectors | None]:
    """The body and the model's result; None if the client has gone."""
    with overflow_names(body_type.text_field):
        body, to_compute = await model.receive(request, body_type, lambda body: body.to_request())
        return body, await sse.unless_gone(request.receive, model.vectors(request, to_compute))


def _embedding_list(model: ServedModel, body: EmbeddingBody, vectors: Vectors) -> JSONResponse:
    size = len(vectors.data) // vectors.n
    rows = [vectors.data[start : start + size] for start in range(0, len(vectors.data), size)]
    write: Callable[[bytes], list[float] | str] = _base64 if body.encoding_format == "base64" else _numbers
    data = [response.Embedding("embedding", index, write(row)) for index, row in enumerate(rows)]
    return JSONResponse(response.EmbeddingList("list", data, model.id, _usage(vectors)))


def _ranking(model: ServedModel, body: RerankBody, vectors: Vectors) -> JSONResponse:
    scores = _numbers(vectors.data)
    best_first = sorted(range(vectors.n), key=lambda index: -scores[index])[: body.top_n]
    results = [
        response.Ranked(
            index, scores[index], response.Document(body.documents[index]) if body.return_documents else None
        )
        for index in best_first
    ]
    return JSONResponse(response.Ranking(model.id, "list", results, _usage(vectors)))


def _usage(vectors: Vectors) -> response.ReadUsage:
    return response.ReadUsage(vectors.usage.prompt_tokens, vectors.usage.prompt_tokens)


def _base64(row: bytes) -> str:
    return base64.b64encode(row).decode()


def _numbers(data: bytes) -> list[float]:
    import numpy as np

    numbers: list[float] = np.frombuffer(data, "<f4").tolist()
    return numbers
