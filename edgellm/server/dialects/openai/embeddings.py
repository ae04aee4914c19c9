"""`/v1/embeddings` as in OpenAI's API."""

from __future__ import annotations

import base64
from collections.abc import Callable
from typing import Any, cast

from starlette.requests import Request
from starlette.types import ASGIApp

from edgellm.server import sse
from edgellm.server.beside import beside
from edgellm.server.json_list import json_list
from edgellm.server.openapi import REFUSALS, Operation
from edgellm.server.responses import JSONResponse, client_closed
from edgellm.server.schemas import response
from edgellm.server.schemas.embeddings import EmbeddingBody
from edgellm.server.served_model import ServedModel, overflow_names
from edgellm.types.event import Vectors

TAG = "OpenAI"


def operations(model: ServedModel) -> list[Operation]:
    """The operations of this dialect."""

    async def embeddings(request: Request) -> ASGIApp:
        """Turn texts into vectors. For models that embed; 2048 texts at most."""
        with overflow_names(EmbeddingBody.text_field):
            body, to_compute = await model.receive(request, EmbeddingBody, lambda body: body.to_request())
            vectors = await sse.unless_gone(request.receive, model.vectors(request, to_compute))
        if vectors is None:
            return client_closed(request)
        # Thousands of numbers take a while to write: not in the event loop that all streams share.
        return await beside(_embedding_list, model, body, vectors)

    return [
        Operation("POST", "/v1/embeddings", embeddings, TAG, response.EmbeddingList, EmbeddingBody, REFUSALS),
    ]


def _embedding_list(model: ServedModel, body: EmbeddingBody, vectors: Vectors) -> JSONResponse:
    size = len(vectors.data) // vectors.n
    rows = [vectors.data[start : start + size] for start in range(0, len(vectors.data), size)]
    write: Callable[[bytes], list[float] | str] = _base64 if body.encoding_format == "base64" else _numbers
    data = json_list((response.Embedding("embedding", index, write(row)) for index, row in enumerate(rows)), 16)
    return JSONResponse(response.EmbeddingList("list", cast(Any, data), model.id, _usage(vectors)))


def _usage(vectors: Vectors) -> response.ReadUsage:
    return response.ReadUsage(vectors.usage.prompt_tokens, vectors.usage.prompt_tokens)


def _base64(row: bytes) -> str:
    return base64.b64encode(row).decode()


def _numbers(data: bytes) -> list[float]:
    import numpy as np

    numbers: list[float] = np.frombuffer(data, "<f4").tolist()
    return numbers
