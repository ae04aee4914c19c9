"""What lies on the disk is named for what it is."""

import json
import os

import numpy as np
import pytest
from support import gguf_writer as w
from support import onnx_models
from support.refusals import refuses

from edgellm.catalog import identify as identify_module
from edgellm.catalog.identify import identify
from edgellm.contract.manager import Plugins
from edgellm.errors import BadArtifact, UnknownModel, UnsupportedArtifact
from edgellm.formats.safetensors.writer import write_safetensors


def test_a_gguf_file(tmp_path):
    path = w.model().write(tmp_path / "tiny-q8_0.gguf")

    artifact = identify(str(path))

    assert (artifact.format, artifact.paths, artifact.model_id) == ("gguf", (str(path),), "tiny-q8_0")
    assert (artifact.quant, artifact.ctx_train, artifact.bytes) == ("Q8_0", 256, path.stat().st_size)
    assert artifact.shape.n_layer == 2
    assert identify(str(path), model_id="tiny").model_id == "tiny"


def test_a_folder_with_one_gguf_file(tmp_path):
    path = w.model().write(tmp_path / "tiny.gguf")

    assert identify(str(tmp_path)).path == str(path)


def test_a_folder_with_two_models_asks_which(tmp_path):
    for name in ("a.gguf", "b.gguf"):
        w.model().write(tmp_path / name)
    with refuses(UnknownModel):
        identify(str(tmp_path))


def test_what_lies_beside_safetensors_is_no_part_of_the_model(tmp_path):
    write_safetensors(tmp_path / "model.safetensors", {"weight": np.zeros(4, np.float32)})
    (tmp_path / "beside").touch()
    os.truncate(tmp_path / "beside", 4 * 10**12)

    for path in (tmp_path, tmp_path / "model.safetensors"):
        assert identify(str(path)).bytes == (tmp_path / "model.safetensors").stat().st_size
    os.truncate(tmp_path / "model.safetensors", 4 * 10**12)
    assert identify(str(tmp_path)).bytes == 0, "whoever loads it refuses it"


def test_a_model_folder_of_another_format(tmp_path):
    (tmp_path / "model.safetensors").write_bytes(b"12345678{}")
    (tmp_path / "config.json").write_text(json.dumps({"max_position_embeddings": 4096}))

    artifact = identify(str(tmp_path))

    assert (artifact.format, artifact.path, artifact.ctx_train) == ("safetensors", str(tmp_path), 4096)


def test_a_folder_with_an_onnx_model(tmp_path):
    folder = onnx_models.shared(tmp_path / "tiny", onnx_models.Tiny(bits=4))

    artifact = identify(str(folder))

    assert (artifact.format, artifact.path, artifact.model_id) == ("onnx", str(folder), "tiny")
    assert (artifact.quant, artifact.ctx_train) == ("INT4", 512)
    assert (artifact.shape.n_layer, artifact.bytes) == (2, (folder / "model.onnx").stat().st_size)
    assert identify(str(folder / "model.onnx")).path == str(folder / "model.onnx")


def test_an_onnx_model_without_the_plugin_that_reads_it(tmp_path, monkeypatch):
    folder = onnx_models.shared(tmp_path / "tiny", onnx_models.Tiny(bits=4))
    monkeypatch.setattr(identify_module, "plugins", lambda: Plugins(frozenset()))

    for path in (folder, folder / "model.onnx"):
        with refuses(UnsupportedArtifact):
            identify(str(path))


@pytest.mark.parametrize("config", ["{", "[]", '{"max_position_embeddings": "many"}', "[" * 100_000])
def test_a_folder_with_a_broken_config_is_still_named(tmp_path, config):
    (tmp_path / "model.safetensors").write_bytes(b"12345678{}")
    (tmp_path / "config.json").write_text(config)

    assert identify(str(tmp_path)).ctx_train == 0


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(b"", id="empty"),
        pytest.param(b"<!DOCTYPE html><html>", id="a page"),
        pytest.param(b"version https://git-lfs.github.com/spec/v1\noid", id="a pointer"),
        pytest.param(b"PK\x03\x04rest", id="an archive"),
        pytest.param(b"hello", id="a text"),
        pytest.param(b"GGUF\x03\0\0\0", id="a header that is cut"),
    ],
)
def test_a_file_that_is_no_model_is_called_by_its_name(tmp_path, content):
    (tmp_path / "model.gguf").write_bytes(content)
    with refuses(BadArtifact):
        identify(str(tmp_path / "model.gguf"))


@pytest.mark.parametrize("role", ["adapter", "mmproj"])
def test_a_gguf_file_that_is_no_language_model(tmp_path, role):
    file = w.model()
    file.keys.append(("general.type", w.STRING, role))
    with refuses(UnsupportedArtifact):
        identify(str(file.write(tmp_path / "x.gguf")))


def test_a_vocabulary_alone_is_no_model(tmp_path):
    with refuses(UnsupportedArtifact):
        identify(str(w.Gguf(w.model_keys()).write(tmp_path / "x.gguf")))


def test_nothing_there(tmp_path):
    with refuses(UnknownModel):
        identify(str(tmp_path / "no.gguf"))
    with refuses(UnknownModel):
        identify(str(tmp_path))


def test_a_path_that_cannot_be_looked_at_is_named(tmp_path):
    with refuses(BadArtifact):
        identify(str(tmp_path / f"{'x' * 300}.gguf"))


def test_a_folder_that_is_called_like_a_file_is_none(tmp_path):
    (tmp_path / "x.gguf").mkdir()
    with refuses(UnknownModel):
        identify(str(tmp_path))
    model = w.model().write(tmp_path / "tiny.gguf")
    assert identify(str(tmp_path)).path == str(model)
