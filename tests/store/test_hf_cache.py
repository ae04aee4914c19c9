"""The layout of the hub's cache is the one that the installed huggingface_hub writes and reads."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from huggingface_hub import constants, hf_hub_download
from support.refusals import refuses
from support.store_server import sha256

from edgellm.errors import SourceError
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


COMMIT = "c" * 40


def linked(root, model_bytes, name=NAME, revision="main"):
    etag = sha256(model_bytes)
    blob = hf_cache.blob_of(root, "o/r", etag)
    blob.parent.mkdir(parents=True, exist_ok=True)
    blob.write_bytes(model_bytes)
    return hf_cache.link(root, "o/r", etag, commit=COMMIT, name=name, revision=revision)


@pytest.mark.parametrize("revision", ["main", COMMIT])
def test_a_link_is_what_huggingface_hub_takes_without_asking(models, model_bytes, root, revision):
    path = linked(root, model_bytes, revision=revision)

    assert hf_hub_download("o/r", NAME, revision=revision, local_files_only=True) == str(path)
    assert path.is_symlink()
    assert path.read_bytes() == model_bytes
    assert hf_cache.sha256_of(path) == sha256(model_bytes)
    assert linked(root, model_bytes, revision=revision) == path


def test_without_links_the_file_itself_lies_there(models, model_bytes, root, monkeypatch):
    def refused(*_):
        raise OSError("no links")

    monkeypatch.setattr(Path, "symlink_to", refused)

    path = linked(root, model_bytes)

    assert hf_hub_download("o/r", NAME, local_files_only=True) == str(path)
    assert not path.is_symlink()
    assert path.read_bytes() == model_bytes


@pytest.mark.parametrize("name", ["../m.gguf", "/m.gguf", "a//m.gguf", "a/./m.gguf", ""])
def test_a_name_that_leads_elsewhere_is_refused(model_bytes, root, name):
    with refuses(SourceError):
        linked(root, model_bytes, name=name)


def test_of_a_snapshot_only_its_link_and_its_own_blob_are_removed(model_bytes, root, tmp_path):
    path = linked(root, model_bytes)
    foreign = tmp_path / "foreign"
    foreign.write_text("mine")
    astray = path.with_name("astray.gguf")
    astray.symlink_to(foreign)

    hf_cache.remove(root, astray)
    hf_cache.remove(root, path)

    assert foreign.exists()
    assert not path.is_symlink()
    assert not astray.is_symlink()
    assert not hf_cache.blob_of(root, "o/r", sha256(model_bytes)).exists()


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
