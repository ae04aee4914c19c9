"""A ternary embedding model keeps the embedder's contract, and gives the numpy oracle's vectors over HTTP."""

from __future__ import annotations

import numpy as np
import pytest
from bitnet.models import Tiny
from bitnet.packed import library
from bitnet.reference import Reference
from edgellm_bitnet.models import TINY_TERNARY
from edgellm_bitnet.weights import GgufWeights
from support.live_server import Servers

from edgellm.app import launch
from edgellm.formats.gguf import reader
from edgellm.formats.gguf.writer import Encoded
from edgellm.formats.tokenizer.from_gguf import read_tokenizer
from edgellm.testing import EmbedderContract
from edgellm.types.model import Artifact
from edgellm.types.plan import LaunchPlan, Settings
from edgellm.types.request import SelectionRequest

LAST = 3  # llama.cpp's number of the pooling type
CLOSE = 2e-3  # of two unit vectors: a rounding of an activation that falls the other way moves others (test_engine.py)
TEXTS = ["Once upon a time", "there was a little boat", "a", "It rained all night, and the harbour was full. " * 3]


def model_of():
    """A random qwen3-like ternary model with the trained tiny model's vocabulary."""
    keys = reader.read_key_bytes(reader.read_header(TINY_TERNARY.files[0].source.removeprefix("file:")))
    vocabulary = {key: Encoded(data) for key, data in keys.items() if key.startswith("tokenizer.ggml")}
    return Tiny(
        "qwen3", vocab=2048, input_norms=True, vocabulary=vocabulary, keys={"pooling_type": LAST, "vocab_size": 2048}
    )


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    library()
    return model_of().write(tmp_path_factory.mktemp("embed") / "embed.gguf")


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
