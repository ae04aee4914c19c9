"""The layout of the hub's cache is the one that the installed huggingface_hub writes and reads."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from huggingface_hub import constants, hf_hub_download
from support.store_server import sha256

from edgellm.store.sources import hf_cache

NAME = "sub/m-Q8_0.gguf"


@pytest.fixture
def root(models, model_bytes):
    models.files[f"o/r/{NAME}"] = model_bytes
    return Path(constants.HF_HUB_CACHE)


def test_what_huggingface_hub_writes_is_found(models, model_bytes, root):
    path = Path(hf_hub_download("o/r", NAME))

    etag = sha256(model_bytes)
    assert path.resolve() == hf_cache.blob_of(root, "o/r", etag).resolve()
    assert hf_cache.lock_of(root, "o/r", etag).exists()
    assert hf_cache.sha256_of(path) == etag
    assert list(hf_cache.files(root, ".gguf")) == [("r", path)]


def test_what_lies_there_is_not_fetched_again(models, model_bytes, root):
    blob = hf_cache.blob_of(root, "o/r", sha256(model_bytes))
    blob.parent.mkdir(parents=True)
    blob.write_bytes(model_bytes)

    path = Path(hf_hub_download("o/r", NAME))

    assert path.read_bytes() == model_bytes
    assert models.body_bytes() == 0


def test_a_small_file_has_no_sha256_in_its_blobs_name(models, root):
    models.files["o/r/config.json"] = b"{}"
    models.etags["o/r/config.json"] = "0" * 40
    assert hf_cache.sha256_of(Path(hf_hub_download("o/r", "config.json"))) == ""


def test_the_hub_cache_is_where_the_hub_says(monkeypatch):

    code = "from huggingface_hub import constants; print(constants.HF_HUB_CACHE)"
    variables = (
        {"HF_HUB_CACHE": "/x/y"}, {"HF_HOME": "/x"}, {"XDG_CACHE_HOME": "/x"}, {"HF_HOME": "~/z"}, {},
    )  # fmt: skip
    for changed in variables[:3]:
        with monkeypatch.context() as patch:
            for name in ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "HF_HOME", "XDG_CACHE_HOME"):
                patch.delenv(name, raising=False)
            for name, value in changed.items():
                patch.setenv(name, value)
            said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
            assert str(hf_cache.default_root()) == said.strip()
