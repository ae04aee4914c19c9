"""Cohere's client with its second API, unmodified: documents are ordered."""

from __future__ import annotations

import asyncio
import inspect
from typing import Any

import cohere
import pytest

DOCUMENTS = ["The sky is blue.", "Bonn lies on the Rhine.", "Rome was not built in a day."]


def test_rerank(server: Any) -> None:
    client = cohere.ClientV2("none", base_url=server.root)
    answer = client.rerank(
        model=server.model, query="Where is Bonn?", documents=DOCUMENTS, top_n=2, max_tokens_per_doc=50
    )
    scores = [result.relevance_score for result in answer.results]

    assert answer.id
    assert len(scores) == 2
    assert scores == sorted(scores, reverse=True)
    assert all(0 <= score <= 1 for score in scores)


def test_the_async_client(server: Any) -> None:
    client = cohere.AsyncClientV2("none", base_url=server.root)
    answer = asyncio.run(client.rerank(model=server.model, query="Where is Bonn?", documents=DOCUMENTS))

    assert sorted(result.index for result in answer.results) == [0, 1, 2]


def test_errors_are_the_client_s_classes(server: Any) -> None:
    client = cohere.ClientV2("none", base_url=server.root)
    with pytest.raises(cohere.BadRequestError):
        client.rerank(model=server.model, query="Where?", documents=DOCUMENTS, top_n=0)
    with pytest.raises(cohere.NotFoundError):
        client.rerank(model="other", query="Where?", documents=DOCUMENTS)


def test_each_field_of_the_client_is_in_a_list(schemas: dict[str, Any]) -> None:
    names = inspect.signature(cohere.ClientV2.rerank).parameters.keys() - {"self", "request_options"}

    assert names
    assert names - schemas["CohereRerankBody"]["properties"].keys() == set()
