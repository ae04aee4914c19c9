"""`EdgeLLM.embed` and `rerank`, from threads and coroutines, with the echo model's exact vectors."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from support.refusals import refuses
from support.waiting import PATIENCE_S

from edgellm.errors import Closed, ContextOverflow, TimedOut, UnsupportedTask, UsageError
from edgellm.sdk.client import EdgeLLM
from edgellm.types.model import Artifact
from edgellm.types.plan import LaunchPlan, Settings
from edgellm.types.request import MAX_INPUTS, MAX_TOKEN_BYTES, EmbeddingRequest, RerankRequest

ECHO = LaunchPlan("echo", Artifact("echo", (), "echo"), Settings(n_ctx=512, n_slots=2))


@pytest.fixture(scope="module", params=["worker", "thread"])
def llm(request: pytest.FixtureRequest) -> Iterator[EdgeLLM]:
    with EdgeLLM(ECHO, isolate=request.param == "worker") as llm:
        yield llm


def counted(text: str) -> np.ndarray:
    counts = np.bincount(list(text.encode()), minlength=256).astype(np.float64)
    return counts / np.linalg.norm(counts)


def test_a_text_is_a_row(llm: EdgeLLM) -> None:
    found = llm.embed("hello")
    assert (found.shape, found.dtype) == ((1, 256), np.float32)
    np.testing.assert_allclose(found[0], counted("hello"), atol=1e-7)
    many = llm.embed(["hello", "é🙂", [104, 105]])
    np.testing.assert_allclose(many, [counted(text) for text in ("hello", "é🙂", "hi")], atol=1e-7)
    none = llm.embed([])
    assert (none.shape, none.dtype) == ((0, 256), np.float32)
    assert np.vstack([none, many]).shape == (3, 256)


def test_more_texts_than_a_request_takes(llm: EdgeLLM) -> None:
    texts = [f"{n} and {'x' * (n % 7)}" for n in range(2 * MAX_INPUTS + 3)]
    found = llm.embed(texts)
    np.testing.assert_allclose(found, [counted(text) for text in texts], atol=1e-7)
    texts[MAX_INPUTS + 1] = "x" * 600
    with refuses(ContextOverflow, n_prompt=601, n_ctx=512, index=MAX_INPUTS + 1):
        llm.embed(texts)


@pytest.mark.parametrize("text", ["", [], [300], "x" * 600, "x" * (MAX_TOKEN_BYTES * 512 + 2**20), [1] * 600])
def test_a_text_that_cannot_be_read_is_named_by_its_number_among_all(llm: EdgeLLM, text: str | list[int]) -> None:
    texts = [*["x"] * (MAX_INPUTS + 1), text]
    with pytest.raises(UsageError) as error:
        llm.embed(texts)
    assert f"texts[{MAX_INPUTS + 1}]" in error.value.message


def test_threads_and_answers_together(llm: EdgeLLM) -> None:
    texts = [f"number {n}" for n in range(60)]
    with ThreadPoolExecutor(8) as pool:
        answers = [pool.submit(llm.chat, text) for text in texts[:20]]
        rows = list(pool.map(lambda text: llm.embed(text)[0], texts))
    np.testing.assert_allclose(rows, [counted(text) for text in texts], atol=1e-7)
    assert [answer.result().text for answer in answers] == texts[:20]


async def test_coroutines(llm: EdgeLLM) -> None:
    found = await asyncio.gather(*(llm.aembed([f"text {n}", "b"]) for n in range(20)))
    for n, rows in enumerate(found):
        np.testing.assert_allclose(rows, [counted(f"text {n}"), counted("b")], atol=1e-7)
    scores = await llm.arerank("abc", ["xyz", "cba"])
    np.testing.assert_allclose(scores, [0, 1], atol=1e-6)
    assert (await llm.aembed([])).shape == (0, 256)
    answer = await llm.avectors(EmbeddingRequest(("abc",)))
    assert (answer.n, answer.usage.prompt_tokens, answer.usage.completion_tokens) == (1, 4, 0)


def test_documents_are_scored_in_order(llm: EdgeLLM) -> None:
    np.testing.assert_allclose(llm.rerank("aab", ["aab", "b", "z"]), [1, 1 / np.sqrt(5), 0], atol=1e-6)


@pytest.mark.parametrize(
    ("ask", "param"),
    [
        pytest.param(lambda llm: llm.embed(["a", ""]), "texts", id="an empty text"),
        pytest.param(lambda llm: llm.embed(["a", []]), "texts", id="no ids"),
        pytest.param(lambda llm: llm.embed([3]), "texts", id="a number"),
        pytest.param(lambda llm: llm.embed(None), "texts", id="nothing"),
        pytest.param(lambda llm: llm.embed([["a"]]), "inputs", id="a text among ids"),
        pytest.param(lambda llm: llm.embed("\ud800"), "", id="half a surrogate"),
        pytest.param(lambda llm: llm.embed("a", dimensions=8), "dimensions", id="fewer dimensions"),
        pytest.param(lambda llm: llm.embed("a", dimensions=0), "dimensions", id="no dimensions"),
        pytest.param(lambda llm: llm.rerank("", ["a"]), "query", id="an empty query"),
        pytest.param(lambda llm: llm.rerank("a", []), "documents", id="no documents"),
        pytest.param(lambda llm: llm.rerank("a", ["b", ""]), "documents", id="an empty document"),
        pytest.param(lambda llm: llm.embed(["a", None]), "texts", id="nothing among texts"),
        pytest.param(lambda llm: llm.embed(b"a"), "texts", id="bytes"),
        pytest.param(lambda llm: llm.embed([b"a"]), "texts", id="bytes among texts"),
        pytest.param(lambda llm: llm.chat("a", max_tokens=2**31), "max_tokens", id="more tokens than are counted"),
    ],
)
def test_what_cannot_be_asked_is_a_usage_error(llm: EdgeLLM, ask, param: str) -> None:
    with refuses(UsageError, param=param):
        ask(llm)


@pytest.mark.parametrize("isolate", [True, False], ids=["worker", "thread"])
async def test_vectors_that_are_late_are_ended(isolate: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Minutes of work at 0.2 s a batch: closing waits for what is still open, and nothing is."""
    monkeypatch.setenv("EDGELLM_ECHO_STEP_S", "0.2")
    texts = [f"number {n}" * 20 for n in range(2 * MAX_INPUTS)]
    with EdgeLLM(ECHO, isolate=isolate) as llm:
        _ = llm.info
        for _ in range(2):
            with refuses(TimedOut, timeout=0.1):
                llm.embed(texts, timeout=0.1)
            with refuses(TimedOut, timeout=0.1):
                await llm.aembed(texts, timeout=0.1)
        with refuses(TimedOut, timeout=0.1):
            llm.rerank("number", texts[:MAX_INPUTS], timeout=0.1)
        with pytest.raises(TimeoutError):  # Python's own, as everybody expects it
            llm.embed(texts, timeout=0.1)
        assert llm.embed("next", timeout=PATIENCE_S).shape == (1, 256)
        llm.close(drain=True)


def test_a_model_that_reads_only_is_not_loaded_to_chat() -> None:
    with refuses(UnsupportedTask):
        EdgeLLM.load("nomic-embed-text-v1.5", task="chat")


def test_a_closed_model_embeds_nothing() -> None:
    llm = EdgeLLM(ECHO, isolate=False)
    llm.close()
    with pytest.raises(Closed):
        llm.embed("a")


def test_a_text_that_is_no_good_is_named_as_the_argument(llm: EdgeLLM) -> None:
    """Also where the model says so, in one of several requests."""
    many = ["a"] * MAX_INPUTS
    for texts, index in ((["a", "b" * 5000], 1), ([*many, "b" * 5000], MAX_INPUTS)):
        with refuses(ContextOverflow, param="texts", index=index):
            llm.embed(texts)
    with refuses(UsageError, param="texts"):
        llm.embed([[1], [2**20]])


def test_requests_hold_what_they_may() -> None:
    with refuses(UsageError, param="input"):
        EmbeddingRequest(("a",) * (MAX_INPUTS + 1))
    with refuses(UsageError, param="documents"):
        RerankRequest("a", ())
