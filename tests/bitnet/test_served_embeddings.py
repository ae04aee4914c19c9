"""A ternary embedding model keeps the embedder's contract, and gives the numpy oracle's vectors over HTTP."""

from __future__ import annotations

import numpy as np
import pytest
from bitnet.models import embedding_model
from bitnet.packed import library
from bitnet.reference import Reference
from edgellm_bitnet.weights import GgufWeights
from support.live_server import Servers

from edgellm.app import launch
from edgellm.formats.gguf import reader
from edgellm.formats.tokenizer.from_gguf import read_tokenizer
from edgellm.testing import EmbedderContract
from edgellm.types.model import Artifact
from edgellm.types.plan import LaunchPlan, Settings
from edgellm.types.request import SelectionRequest

CLOSE = 2e-3  # of two unit vectors: a rounding of an activation that falls the other way moves others (test_engine.py)
TEXTS = ["Once upon a time", "there was a little boat", "a", "It rained all night, and the harbour was full. " * 3]


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    library()
    return embedding_model().write(tmp_path_factory.mktemp("embed") / "embed.gguf")


class TestTernaryEmbeddings(EmbedderContract):
    tolerance = 0.0
    leak_batches = 60

    @pytest.fixture(scope="class")
    @classmethod
    def launch_plan(cls, path):
        settings = Settings(n_ctx=256, n_slots=1, n_batch=128, options=(("packed", "drop"),))
        return LaunchPlan("bitnet", Artifact("gguf", (str(path),), "embed", "I2_S"), settings)


def test_over_http(path, monkeypatch):
    plan = launch.model_plan(str(path), SelectionRequest(ctx=256))
    assert plan.backend == "bitnet"
    servers = Servers(monkeypatch)
    live = servers(plan)
    try:
        tokenizer = read_tokenizer(reader.read_header(str(path)))
        answer = live.post("/v1/embeddings", {"input": TEXTS}).json()
        reference = Reference(GgufWeights(str(path)))
        tokens = [tokenizer.encode(text, add_special=True, parse_special=False) for text in TEXTS]
        for one, ids in zip(answer["data"], tokens, strict=True):
            wanted = reference.hidden(ids)[-1]
            assert np.linalg.norm(np.asarray(one["embedding"]) - wanted / np.linalg.norm(wanted)) <= CLOSE
        assert answer["usage"]["prompt_tokens"] == sum(map(len, tokens))
        assert live.http.get("/edgellm/plan").json()["can"] == ["generate", "embed"]
    finally:
        servers.close()
