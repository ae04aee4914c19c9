"""`/v1/rerank` as Jina and as text-embeddings-inference have it, and `/v2/rerank` as Cohere."""

from __future__ import annotations

import math
import uuid
from typing import TypeVar

import msgspec
from starlette.requests import Request
from starlette.types import ASGIApp

from edgellm.server import sse
from edgellm.server.dialects.rerank import answers
from edgellm.server.dialects.rerank.bodies import CohereRerankBody, RerankBody
from edgellm.server.openapi import REFUSALS, Operation
from edgellm.server.responses import JSONResponse, client_closed
from edgellm.server.schemas.response import ReadUsage
from edgellm.server.served_model import ServedModel
from edgellm.types.event import Vectors

TAG = "Rerank"
RerankT = TypeVar("RerankT", RerankBody, CohereRerankBody)


def operations(model: ServedModel) -> list[Operation]:
    """The operations of these dialects."""

    async def rerank(request: Request) -> ASGIApp:
        """Order documents by how well each answers a query. For cross-encoders; no vectors are compared instead."""
        body, vectors = await _scored(model, request, RerankBody)
        if vectors is None:
            return client_closed(request)
        scores = _numbers(vectors)
        return JSONResponse(_texts(body, scores) if body.texts is not None else _ranking(model, body, scores, vectors))

    async def rerank_v2(request: Request) -> ASGIApp:
        """The same for clients of Cohere. Scores are from 0 to 1."""
        body, vectors = await _scored(model, request, CohereRerankBody)
        if vectors is None:
            return client_closed(request)
        scores = _numbers(vectors)
        results = [answers.CohereRanked(index, _sigmoid(scores[index])) for index in _best(scores, body.top_n)]
        return JSONResponse(answers.CohereRanking(str(uuid.uuid4()), results, answers.CohereMeta()))

    jina = [  # an object, or a list where `texts` were sent
        Operation("POST", path, rerank, TAG, None, RerankBody, REFUSALS) for path in ("/v1/rerank", "/v1/reranking")
    ]
    cohere = Operation("POST", "/v2/rerank", rerank_v2, TAG, answers.CohereRanking, CohereRerankBody, REFUSALS)
    return [*jina, cohere]


async def _scored(model: ServedModel, request: Request, body_type: type[RerankT]) -> tuple[RerankT, Vectors | None]:
    """The body and the model's scores; None if the client has gone."""
    body, to_compute = await model.receive(request, body_type, lambda body: body.to_request(model.llm))
    return body, await sse.unless_gone(request.receive, model.vectors(request, to_compute))


def _ranking(model: ServedModel, body: RerankBody, scores: list[float], vectors: Vectors) -> answers.Ranking:
    results = [
        answers.Ranked(index, scores[index], answers.Document(body.sent[index]) if body.repeats else msgspec.UNSET)
        for index in _best(scores, body.top_n)
    ]
    n_tokens = vectors.usage.prompt_tokens
    return answers.Ranking(model.id, "list", results, ReadUsage(n_tokens, n_tokens))


def _texts(body: RerankBody, scores: list[float]) -> list[answers.RankedText]:
    scale = float if body.raw_scores else _sigmoid
    return [
        answers.RankedText(index, scale(scores[index]), body.sent[index] if body.repeats else msgspec.UNSET)
        for index in _best(scores, body.top_n)
    ]


def _best(scores: list[float], top_n: int | None) -> list[int]:
    return sorted(range(len(scores)), key=lambda index: -scores[index])[:top_n]


def _numbers(vectors: Vectors) -> list[float]:
    import numpy as np

    numbers: list[float] = np.frombuffer(vectors.data, "<f4").tolist()
    return numbers


def _sigmoid(score: float) -> float:
    """What cross-encoders are trained by: the probability that the document answers the query."""
    small = math.exp(-abs(score))
    return 1 / (1 + small) if score >= 0 else small / (1 + small)
