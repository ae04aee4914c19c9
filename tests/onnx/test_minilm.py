"""A real sentence model, fetched as users fetch it: its vectors are sentence-transformers' own, by every way there is.

minilm_reference.py made what is compared with.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import openai
import pytest
from edgellm_onnx.convert_bert import convert
from support.live_server import Servers
from support.refusals import refuses

from edgellm.app import launch
from edgellm.contract.converter import Conversion
from edgellm.contract.engine import Engine
from edgellm.errors import ContextOverflow, UnsupportedTask
from edgellm.sdk.client import EdgeLLM
from edgellm.testing import EmbedderContract
from edgellm.types.model import Artifact
from edgellm.types.plan import LaunchPlan, Settings
from edgellm.types.request import SelectionRequest

pytestmark = pytest.mark.model

REFERENCE = json.loads((Path(__file__).parent / "minilm_reference.json").read_text("utf-8"))
TEXTS = REFERENCE["texts"]
VECTORS = np.stack([np.frombuffer(base64.b64decode(row), "<f4") for row in REFERENCE["vectors"]])
COSINE = 0.9999


@pytest.fixture(scope="module")
def plan(minilm: str) -> LaunchPlan:
    return launch.model_plan(minilm, SelectionRequest())


@pytest.fixture(scope="module")
def llm(plan: LaunchPlan) -> Iterator[EdgeLLM]:
    with EdgeLLM(plan) as llm:
        yield llm


class TestMiniLm(EmbedderContract):
    leak_batches = 30

    @pytest.fixture(scope="class")
    @classmethod
    def launch_plan(cls, minilm: str) -> LaunchPlan:
        settings = Settings(n_ctx=512, n_threads=2, n_threads_batch=2)
        return LaunchPlan("onnx-bert", Artifact("safetensors", (minilm,), "minilm"), settings)

    @pytest.mark.slow(4)
    def test_embedding_leaves_no_memory_behind(self, embedding_engine: Engine) -> None:
        super().test_embedding_leaves_no_memory_behind(embedding_engine)


def cosines(rows: object) -> np.ndarray:
    found = np.asarray(rows, np.float64)
    return (found * VECTORS).sum(1) / np.linalg.norm(found, axis=1) / np.linalg.norm(VECTORS, axis=1)


def test_the_sdk_gives_the_reference_vectors(llm: EdgeLLM) -> None:
    assert llm.plan.backend == "onnx-bert"
    found = llm.embed(TEXTS)
    assert cosines(found).min() >= COSINE
    assert abs(found - VECTORS).max() < 1e-5
    assert llm.info.n_ctx == 256


def test_a_converted_folder_gives_them_too(minilm: str, tmp_path: Path) -> None:
    made = convert(Conversion(Artifact("safetensors", (minilm,), "minilm"), tmp_path / "m", "onnx"), lambda *_: None)
    plan = launch.model_plan(str(made.path), SelectionRequest())
    assert plan.backend == "onnx"
    with EdgeLLM(plan, isolate=False) as llm:
        assert cosines(llm.embed(TEXTS)).min() >= COSINE


def test_over_http_with_openai_s_client(plan: LaunchPlan, monkeypatch: pytest.MonkeyPatch) -> None:
    servers = Servers(monkeypatch)
    live = servers(plan)
    try:
        with openai.OpenAI(base_url=f"{live.url}/v1", api_key="unused", max_retries=0) as client:
            answer = client.embeddings.create(model="default", input=TEXTS)
            assert cosines([one.embedding for one in answer.data]).min() >= COSINE
            assert answer.usage.prompt_tokens == sum(REFERENCE["tokens"])
            for ask in (
                lambda: client.chat.completions.create(model="default", messages=[{"role": "user", "content": "hi"}]),
                lambda: client.completions.create(model="default", prompt="hi"),
            ):
                with refuses(openai.BadRequestError, code="unsupported_task", status_code=400):
                    ask()
            with refuses(openai.BadRequestError, code="context_length_exceeded", param="input"):
                client.embeddings.create(model="default", input=["a", "word " * 300])
        assert live.post("/v1/rerank", {"query": "a", "documents": ["b"]}).json()["error"]["code"] == "unsupported_task"
        assert live.http.get("/edgellm/plan").json()["can"] == ["embed"]
        assert live.http.get("/").status_code == 200
    finally:
        servers.close()


def test_it_answers_no_chat(llm: EdgeLLM) -> None:
    with refuses(UnsupportedTask):
        llm.chat("hello")
    with refuses(UnsupportedTask):
        llm.rerank("a", ["b"])
    with pytest.raises(ContextOverflow):
        llm.embed("word " * 300)


def test_near_things_are_near(llm: EdgeLLM) -> None:
    question, answer, other = llm.embed([TEXTS[7], TEXTS[8], TEXTS[6]])
    assert question @ answer > 0.7 > 0.2 > question @ other
