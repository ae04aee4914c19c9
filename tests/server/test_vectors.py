"""`/v1/embeddings` and `/v1/rerank`: as OpenAI's client wants them, and refusing by name what they do not serve."""

from __future__ import annotations

import base64
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import numpy as np
import openai
import pytest
from support.live_server import Live, Servers
from support.refusals import refuses
from support.tiny_bert import TinyBert

from edgellm.app import launch
from edgellm.errors import UnsupportedTask
from edgellm.server.dialects.rerank.beginnings import CLOSE
from edgellm.server.dialects.rerank.bodies import SPECIALS, fitting
from edgellm.types.request import MAX_TOKEN_BYTES, SelectionRequest

PATH = "/v1/embeddings"


def counted(text: str) -> np.ndarray:
    counts = np.bincount(list(text.encode()), minlength=256).astype(np.float64)
    return counts / np.linalg.norm(counts)


def error(live: Live, path: str, body: Any) -> tuple[int, str, str | None, str]:
    answer = live.post(path, body)
    told = answer.json()["error"]
    return answer.status_code, told["code"], told["param"], told["message"]


@pytest.mark.parametrize(
    ("input_", "texts", "tokens"),
    [
        ("hello", ["hello"], 6),
        (["hello", "you"], ["hello", "you"], 10),
        ([104, 105], ["hi"], 2),
        ([[104, 105], [111]], ["hi", "o"], 3),
    ],
)
def test_every_kind_of_input(live: Live, input_: Any, texts: list[str], tokens: int) -> None:
    answer = live.post(PATH, {"input": input_, "user": "me"}).json()
    assert list(answer) == ["object", "data", "model", "usage"]
    assert (answer["object"], answer["model"]) == ("list", "echo")
    assert [one["index"] for one in answer["data"]] == list(range(len(texts)))
    assert {one["object"] for one in answer["data"]} == {"embedding"}
    np.testing.assert_allclose([one["embedding"] for one in answer["data"]], [counted(t) for t in texts], atol=1e-7)
    assert answer["usage"] == {"prompt_tokens": tokens, "total_tokens": tokens}


def test_base64_holds_the_same_numbers(live: Live) -> None:
    plain, packed = (
        live.post(PATH, {"input": ["a", "b"], "encoding_format": kind}).json()["data"] for kind in ("float", "base64")
    )
    for one, other in zip(plain, packed, strict=True):
        row = np.frombuffer(base64.b64decode(other["embedding"]), "<f4")
        assert row.tolist() == one["embedding"]


def test_openai_s_client(live: Live) -> None:
    with openai.OpenAI(base_url=f"{live.url}/v1", api_key="unused", max_retries=0) as client:
        for how in ({}, {"encoding_format": "float"}):
            answer = client.embeddings.create(model="echo", input=["hello", "you"], **how)
            np.testing.assert_allclose(
                [one.embedding for one in answer.data], [counted("hello"), counted("you")], atol=1e-7
            )
            assert answer.usage.total_tokens == 10
        with pytest.raises(openai.BadRequestError) as caught:
            client.embeddings.create(model="echo", input="a", dimensions=3)
        assert caught.value.param == "dimensions"


@pytest.mark.parametrize(
    ("body", "refusal"),
    [
        ({}, (400, "usage_error", "input")),
        ({"input": []}, (400, "usage_error", "input")),
        ({"input": ""}, (400, "usage_error", "input")),
        ({"input": ["a", ""]}, (400, "usage_error", "input")),
        ({"input": [[]]}, (400, "usage_error", "input")),
        ({"input": ["a", 1]}, (400, "usage_error", "input")),
        ({"input": [True]}, (400, "usage_error", "input")),
        ({"input": [-1]}, (400, "usage_error", "input")),
        ({"input": [999]}, (400, "usage_error", "input")),
        ({"input": {"text": "a"}}, (400, "usage_error", "input")),
        ({"input": ["a"] * 2049}, (400, "usage_error", "input")),
        ({"input": "a" * 5000}, (400, "context_length_exceeded", "input")),
        ({"input": "a", "encoding_format": "int8"}, (400, "usage_error", "encoding_format")),
        ({"input": "a", "dimensions": 5}, (400, "usage_error", "dimensions")),
        ({"input": "a", "dimensions": "5"}, (400, "usage_error", "dimensions")),
        ({"input": "a", "model": "another"}, (404, "model_not_found", "model")),
        ([], (400, "usage_error", None)),
    ],
    ids=str,
)
def test_refusals_name_the_field(live: Live, body: Any, refusal: tuple[int, str, str | None]) -> None:
    assert error(live, PATH, body)[:3] == refusal


def test_a_body_that_is_no_object_gets_an_example(live: Live) -> None:
    assert 'send {"input": "..."}' in error(live, PATH, [])[3]


def test_a_text_that_is_too_long_is_named(live: Live) -> None:
    message = error(live, PATH, {"input": ["a", "b" * 5000]})[3]
    assert "input[1] has 5,001 tokens, the context holds 4,096" in message


def test_rerank_orders_documents(live: Live) -> None:
    body = {"query": "aab", "documents": ["zz", "b", "aab"]}
    answer = live.post("/v1/rerank", body).json()
    assert [one["index"] for one in answer["results"]] == [2, 1, 0]
    assert not any("document" in one for one in answer["results"])  # null is no document to litellm
    scores = [one["relevance_score"] for one in answer["results"]]
    np.testing.assert_allclose(scores, [1, 1 / np.sqrt(5), 0], atol=1e-6)
    assert answer["usage"]["total_tokens"] == 3 * 4 + 2 + 1 + 3
    best = live.post("/v1/rerank", {**body, "top_n": 1, "return_documents": True, "model": "default"}).json()
    assert [(one["index"], one["document"]) for one in best["results"]] == [(2, {"text": "aab"})]


def test_rerank_as_cohere_has_it(live: Live) -> None:
    answer = live.post("/v2/rerank", {"query": "aab", "documents": ["zz", "b", "aab"], "top_n": 2}).json()

    assert [one["index"] for one in answer["results"]] == [2, 1]
    assert [one["relevance_score"] for one in answer["results"]] == pytest.approx([sigmoid(1), sigmoid(5**-0.5)])
    assert set(answer) == {"id", "results", "meta"}


def test_relevant_spans_are_refused(live: Live) -> None:
    body = {"query": "aab", "documents": ["zz"]}

    assert live.post("/v2/rerank", {**body, "relevant_spans": {"mode": "disabled"}}).status_code == 200
    spans = {"mode": "enabled"}
    assert error(live, "/v2/rerank", {**body, "relevant_spans": spans})[:2] == (400, "unsupported_field")


@pytest.mark.parametrize("path", ["/rerank", "/reranking", "/v1/rerank", "/v1/reranking"])
def test_rerank_as_text_embeddings_inference_has_it(live: Live, path: str) -> None:
    body = {"query": "aab", "texts": ["zz", "aab"], "return_text": True}

    assert live.post(path, body).json() == [
        {"index": 1, "score": pytest.approx(sigmoid(1)), "text": "aab"},
        {"index": 0, "score": pytest.approx(0.5), "text": "zz"},
    ]
    assert live.post(path, {**body, "raw_scores": True}).json()[0]["score"] == pytest.approx(1)


@pytest.mark.parametrize(
    ("path", "fields"),
    [
        ("/v2/rerank", {}),
        ("/v1/rerank", {"truncation": True}),
        ("/v1/rerank", {"truncate": True}),
        ("/v1/rerank", {"max_tokens_per_doc": 3}),
    ],
)
def test_long_documents_are_cut_where_a_client_expects_it(live: Live, path: str, fields: dict[str, Any]) -> None:
    body = {"query": "aab", "documents": ["zz", "aab" + "b" * 5000], **fields}

    assert live.post(path, body).json()["results"][0]["index"] == 1


def test_a_long_document_of_any_script_is_cut(live: Live) -> None:
    """Of a text that is longer than the model reads tokens of, only as many bytes are read as tokens can have."""
    n_ctx = live.llm.info.n_ctx
    long = "😀" * (n_ctx * MAX_TOKEN_BYTES - 1)  # so many characters, and four times as many bytes
    (cut,) = fitting(live.llm, "aab", [long], n_ctx)

    n_tokens = n_ctx - len("aab") - SPECIALS  # a byte each
    least, most = (n_tokens - n_tokens // CLOSE) // 4, n_tokens // 4
    assert cut == "😀" * len(cut)
    assert least <= len(cut) <= most


RAIN = "rain fell on the harbour all night, "
FOX = "the quick brown fox "


@pytest.mark.parametrize(
    ("path", "fields"),
    [("/v2/rerank", {}), ("/v1/rerank", {"truncation": True}), ("/v2/rerank", {"max_tokens_per_doc": 20})],
)
def test_a_document_that_is_cut_is_scored_as_its_beginning(
    serve: Servers, tmp_path: Path, path: str, fields: dict[str, Any]
) -> None:
    """WordPiece reads other words where the blanks between them are lost."""
    live = serve(launch.model_plan(str(TinyBert(scores=1).write(tmp_path / "bert")), SelectionRequest()))
    long = [RAIN * 500, FOX * 500, " " * 1500 + FOX * 100, " " * 500 + "fox"]

    def scores(documents: list[str]) -> dict[int, float]:
        answer = live.post(path, {"query": "rain", "documents": documents, **fields}).json()
        return {one["index"]: one["relevance_score"] for one in answer["results"]}

    most = fields.get("max_tokens_per_doc", live.llm.info.n_ctx - 1 - SPECIALS)
    cut = fitting(live.llm, "rain", long, most)
    assert [one.startswith(beginning) for one, beginning in zip(long, cut, strict=True)] == [True] * 4
    n_tokens = [len(live.llm.tokenize(beginning)) for beginning in cut]
    assert all(most - most // CLOSE <= n <= most for n in n_tokens[:3]), n_tokens
    assert cut[3] == long[3]

    of_long = scores(long)
    assert of_long == pytest.approx(scores(list(cut)), rel=1e-5)
    assert abs(of_long[0] - of_long[1]) > 1e-4


def test_documents_are_not_cut_for_a_model_that_ranks_none(live: Live) -> None:
    llm = Mock(info=replace(live.llm.info, capabilities=frozenset({"embed"})))

    with refuses(UnsupportedTask):
        fitting(llm, "a", ["b" * 5000], 1)
    llm.tokenize.assert_not_called()


def sigmoid(score: float) -> float:
    return float(1 / (1 + np.exp(-score)))


@pytest.mark.parametrize(
    ("body", "refusal"),
    [
        ({"documents": ["a"]}, (400, "usage_error", "query")),
        ({"query": "a", "documents": []}, (400, "usage_error", "documents")),
        ({"query": "a"}, (400, "usage_error", "documents")),
        ({"query": "a", "documents": ["a"], "texts": ["a"]}, (400, "usage_error", "documents")),
        ({"query": "a", "documents": ["a"], "max_tokens_per_doc": 0}, (400, "usage_error", "max_tokens_per_doc")),
        ({"query": "", "documents": ["a"]}, (400, "usage_error", "query")),
        ({"query": "a", "documents": [{"text": "a"}]}, (400, "usage_error", "documents[0]")),
        ({"query": "a", "documents": ["b"], "top_n": 0}, (400, "usage_error", "top_n")),
        ({"query": "a", "documents": ["b"], "rank_fields": ["x"]}, (400, "unsupported_field", "rank_fields")),
        ({"query": "a", "documents": ["b" * 5000]}, (400, "context_length_exceeded", "documents")),
        pytest.param(
            {"query": "a" * 5000, "documents": ["b"]}, (400, "context_length_exceeded", "query"), id="a long query"
        ),
    ],
    ids=str,
)
def test_rerank_refuses_by_name(live: Live, body: Any, refusal: tuple[int, str, str | None]) -> None:
    assert error(live, "/v1/rerank", body)[:3] == refusal


def test_the_plan_and_the_documentation_tell(live: Live) -> None:
    assert live.http.get("/edgellm/plan").json()["can"] == ["generate", "embed", "rerank"]
    schema = live.http.get("/openapi.json").json()
    assert {"/v1/embeddings", "/v1/rerank"} <= set(schema["paths"])
    assert {"EmbeddingBody", "RerankBody"} <= set(schema["components"]["schemas"])
