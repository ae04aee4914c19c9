"""`/api/embed`, and the older `/api/embeddings` with one text."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, TypeVar, cast

import msgspec
from msgspec import UNSET, Meta, UnsetType
from starlette.requests import Request
from starlette.types import ASGIApp

from edgellm.sdk.client import EdgeLLM
from edgellm.sdk.embeddings import rows
from edgellm.server import sse
from edgellm.server.beside import beside
from edgellm.server.dialects.ollama.answers import nanoseconds
from edgellm.server.dialects.ollama.body import OllamaBody
from edgellm.server.dialects.ollama.refusals import REFUSALS, TAG
from edgellm.server.json_list import json_list
from edgellm.server.openapi import Operation
from edgellm.server.responses import JSONResponse, client_closed
from edgellm.server.served_model import ServedModel, overflow_names
from edgellm.types.event import Vectors
from edgellm.types.request import EmbeddingRequest

TextBodyT = TypeVar("TextBodyT", "OllamaEmbedBody", "OllamaEmbeddingsBody")
CUT = "input_cut"  # the note of an answer to texts of which one at least was too long


class OllamaEmbedBody(OllamaBody, kw_only=True):
    """POST /api/embed."""

    text_field = "input"
    example = '{"input": "..."}'

    input: Annotated[
        str | list[str] | None, Meta(description="One text or several; none: see that the model is loaded.")
    ] = None
    truncate: Annotated[
        bool | None, Meta(description="Longer texts than the context are cut, unless this is false.")
    ] = None
    dimensions: Annotated[
        int | None, Meta(description="Fewer numbers in each vector; for models that were trained for it.")
    ] = None

    def to_request(self, llm: EdgeLLM) -> EmbeddingRequest | None:
        """None where there is no text.

        Raises:
            UsageError: one of several texts is empty, or a value out of range.
        """
        self.settled_options(llm)
        if not self.input:
            return None
        texts = [self.input] if isinstance(self.input, str) else self.input
        return EmbeddingRequest(tuple(texts), self.dimensions, truncate=self.truncate is not False)


class OllamaEmbeddingsBody(OllamaBody, kw_only=True):
    """POST /api/embeddings."""

    text_field = "prompt"
    example = '{"prompt": "..."}'

    prompt: str | None = None

    def to_request(self, llm: EdgeLLM) -> EmbeddingRequest | None:
        """None where there is no text. A text that is too long is cut, as Ollama does it."""
        self.settled_options(llm)
        return EmbeddingRequest((self.prompt,), truncate=True) if self.prompt else None


class OllamaVectors(msgspec.Struct, frozen=True):
    """Durations in nanoseconds; `load_duration`: how long the request waited."""

    model: str
    embeddings: list[list[float]]
    total_duration: int
    load_duration: int
    prompt_eval_count: int
    notes: list[str] | UnsetType = UNSET  # extension


class OllamaVector(msgspec.Struct, frozen=True):
    embedding: list[float]


def operations(served: ServedModel) -> list[Operation]:
    """The operations that turn texts into vectors."""

    async def embed(request: Request) -> ASGIApp:
        """Turn texts into vectors, cutting those that are too long unless `truncate` is false."""
        return await _answer(served, request, OllamaEmbedBody, _vectors)

    async def embeddings(request: Request) -> ASGIApp:
        """Turn one text into a vector: Ollama's older way."""
        return await _answer(served, request, OllamaEmbeddingsBody, _vector)

    return [
        Operation("POST", "/api/embed", embed, TAG, OllamaVectors, OllamaEmbedBody, REFUSALS),
        Operation("POST", "/api/embeddings", embeddings, TAG, OllamaVector, OllamaEmbeddingsBody, REFUSALS),
    ]


async def _answer(
    served: ServedModel,
    request: Request,
    body_type: type[TextBodyT],
    answer_of: Callable[[str, Vectors | None], OllamaVectors | OllamaVector],
) -> ASGIApp:
    """`answer_of` takes the name of the model, and None where there was no text."""
    with overflow_names(body_type.text_field):
        body, to_compute = await served.receive(request, body_type, lambda body: body.to_request(served.llm))
        name = body.model or served.id
        if to_compute is None:
            return JSONResponse(answer_of(name, None))
        vectors = await sse.unless_gone(request.receive, served.vectors(request, to_compute))
    # Thousands of numbers take a while to write: not in the event loop that all streams share.
    return client_closed(request) if vectors is None else await beside(_written, answer_of, name, vectors)


def _written(answer_of: Callable[[str, Vectors], OllamaVectors | OllamaVector], name: str, vectors: Vectors) -> ASGIApp:
    return JSONResponse(answer_of(name, vectors))


def _vectors(name: str, vectors: Vectors | None) -> OllamaVectors:
    if vectors is None:
        return OllamaVectors(name, [], 0, 0, 0)
    waited, computed = nanoseconds(vectors.timings.queued_s), nanoseconds(vectors.timings.prefill_s)
    notes = [CUT] if vectors.n_cut else UNSET
    told = (waited + computed, waited, vectors.usage.prompt_tokens)
    embeddings = json_list((row.tolist() for row in rows([vectors])), 16)
    return OllamaVectors(name, cast(Any, embeddings), *told, notes)


def _vector(_: str, vectors: Vectors | None) -> OllamaVector:
    return OllamaVector([] if vectors is None else rows([vectors])[0].tolist())
