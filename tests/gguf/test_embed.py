"""Embedding models on llama.cpp: the vectors of a small random BERT are the numpy oracle's, alone and over HTTP."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from support.bert_gguf import POOLING, write
from support.live_server import Servers
from support.tiny_bert import TinyBert, tokenizer

from edgellm.app import launch
from edgellm.contract.manager import plugins
from edgellm.testing import EmbedderContract
from edgellm.types.model import Artifact
from edgellm.types.plan import LaunchPlan, Settings
from edgellm.types.request import SelectionRequest

pytest.importorskip("llama_cpp", reason="compiler: llama-cpp-python is not installed")

CLOSE = 2e-3  # of numbers of unit vectors: llama.cpp's products and GELU are in half precision
TEXTS = ["the quick brown fox", "a", "rain fell on the harbour all night; by morning: rain!", "abc 123 dog " * 9]


def plan_of(path: Path) -> LaunchPlan:
    return LaunchPlan("gguf", Artifact("gguf", (str(path),), "tiny"), Settings(n_ctx=128, n_batch=128))


class TestTinyBertOnLlama(EmbedderContract):
    tolerance = 2e-3
    leak_batches = 200

    @pytest.fixture(scope="class")
    @classmethod
    def launch_plan(cls, tmp_path_factory: pytest.TempPathFactory) -> LaunchPlan:
        return plan_of(write(TinyBert(), tmp_path_factory.mktemp("bert") / "bert.gguf", "mean"))


@pytest.mark.parametrize("pooling", POOLING)
def test_vectors_are_the_oracles(tmp_path: Path, pooling: str) -> None:
    bert, pieces = TinyBert(), tokenizer()
    pieces.no_truncation()
    pieces.no_padding()
    engine = plugins().backend("gguf").open(plan_of(write(bert, tmp_path / "bert.gguf", pooling)))
    tokens = [engine.tokenizer.encode(text, add_special=True, parse_special=False) for text in TEXTS]
    assert tokens == [pieces.encode(text).ids for text in TEXTS]
    for row, ids in zip(engine.embed(tokens), tokens, strict=True):
        states = bert.hidden(ids)
        wanted = {"mean": states.mean(0), "cls": states[0], "last": states[-1]}[pooling]
        np.testing.assert_allclose(row, wanted / np.linalg.norm(wanted), atol=CLOSE)
    assert engine.info.embedding is not None
    assert engine.info.embedding.pooling == pooling
    assert engine.info.allocated_bytes
    assert len(engine.embed(tokens * 40)) == 160
    engine.close()


def test_over_http(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bert = TinyBert(positions=512)
    plan = launch.model_plan(str(write(bert, tmp_path / "bert.gguf", "cls")), SelectionRequest())
    assert plan.backend == "gguf"
    servers = Servers(monkeypatch)
    live = servers(plan)
    try:
        answer = live.post("/v1/embeddings", {"input": [[2, 30, 3], [2, 40, 41, 3]]}).json()
        for one, ids in zip(answer["data"], ([2, 30, 3], [2, 40, 41, 3]), strict=True):
            wanted = bert.hidden(ids)[0]
            np.testing.assert_allclose(one["embedding"], wanted / np.linalg.norm(wanted), atol=CLOSE)
        assert live.chat("hi").json()["error"]["code"] == "unsupported_task"
        assert live.http.get("/edgellm/plan").json()["can"] == ["embed"]
    finally:
        servers.close()
