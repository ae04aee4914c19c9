"""Embedding models on llama.cpp: the vectors of a small random BERT are the numpy oracle's, alone and over HTTP."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from support.live_server import Servers
from support.tiny_bert import SPECIAL, WORDS, TinyBert, tokenizer

from edgellm.app import launch
from edgellm.contract.manager import plugins
from edgellm.formats.gguf.ggml_types import BY_NAME
from edgellm.formats.gguf.writer import GgufWriter, TensorInfo, Typed
from edgellm.testing import EmbedderContract
from edgellm.types.model import Artifact
from edgellm.types.plan import LaunchPlan, Settings
from edgellm.types.request import SelectionRequest

pytest.importorskip("llama_cpp", reason="compiler: llama-cpp-python is not installed")

CLOSE = 2e-3  # of numbers of unit vectors: llama.cpp's products and GELU are in half precision
POOLING = {"mean": 1, "cls": 2, "last": 3}
TEXTS = ["the quick brown fox", "a", "rain fell on the harbour all night; by morning: rain!", "abc 123 dog " * 9]
NAMES = {
    "embeddings.word_embeddings": "token_embd", "embeddings.position_embeddings": "position_embd",
    "embeddings.token_type_embeddings": "token_types", "embeddings.LayerNorm": "token_embd_norm",
    "attention.self.query": "attn_q", "attention.self.key": "attn_k", "attention.self.value": "attn_v",
    "attention.output.dense": "attn_output", "attention.output.LayerNorm": "attn_output_norm",
    "intermediate.dense": "ffn_up", "output.dense": "ffn_down", "output.LayerNorm": "layer_output_norm",
}  # fmt: skip


def gguf_name(name: str) -> str:
    head, _, part = name.rpartition(".")
    layer = ""
    if head.startswith("encoder.layer."):
        _, _, number, head = head.split(".", 3)
        layer = f"blk.{number}."
    return f"{layer}{NAMES[head]}.{part}"


def write(bert: TinyBert, path: Path, pooling: str) -> Path:
    """As llama.cpp's converter writes a BERT: word beginnings are marked, pieces are not."""
    texts = [
        text[2:] if text.startswith("##") else text if text in SPECIAL else f"\u2581{text}"
        for text in (*SPECIAL, *WORDS)
    ]
    keys = {
        "general.architecture": "bert", "bert.context_length": bert.positions, "bert.embedding_length": bert.width,
        "bert.block_count": bert.layers, "bert.feed_forward_length": bert.n_ff,
        "bert.attention.head_count": bert.heads, "bert.attention.layer_norm_epsilon": 1e-12,
        "bert.attention.causal": False, "bert.pooling_type": POOLING[pooling],
        "tokenizer.ggml.model": "bert", "tokenizer.ggml.tokens": texts, "tokenizer.ggml.token_type_count": 2,
        "tokenizer.ggml.token_type": Typed("i32", [3 if text in SPECIAL else 1 for text in texts]),
        "tokenizer.ggml.bos_token_id": 2, "tokenizer.ggml.cls_token_id": 2, "tokenizer.ggml.eos_token_id": 3,
        "tokenizer.ggml.seperator_token_id": 3, "tokenizer.ggml.unknown_token_id": 1,
        "tokenizer.ggml.padding_token_id": 0,
    }  # fmt: skip
    tensors = {gguf_name(name): data for name, data in bert.weights.items() if not name.startswith("pooler")}
    infos = [TensorInfo(name, data.shape[::-1], BY_NAME["F32"]) for name, data in tensors.items()]
    with GgufWriter(path, keys, infos, replace=True) as file:
        for name, data in tensors.items():
            file.write(name, data.tobytes())
    return path


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
