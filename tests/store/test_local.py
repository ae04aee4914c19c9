"""Files of other tools are found, described and used where they lie."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from support import gguf_writer as w
from support.refusals import refuses
from support.store_server import sha256

from edgellm.errors import UsageError
from edgellm.store import local
from edgellm.store.card import card_of
from edgellm.store.library import Library
from edgellm.store.sources import ollama_store


def put_in_ollama(home: Path, data: bytes, name="registry.ollama.ai/library/tiny/1b", **changed) -> Path:
    """A model in Ollama's store; the blob."""
    store = home / "ollama"
    blob = store / "blobs" / f"sha256-{sha256(data)}"
    blob.parent.mkdir(parents=True, exist_ok=True)
    blob.write_bytes(data)
    layer = {"mediaType": ollama_store._MODEL, "digest": f"sha256:{sha256(data)}", "size": len(data), **changed}
    manifest = store / "manifests" / name
    manifest.parent.mkdir(parents=True, exist_ok=True)
    manifest.write_text(json.dumps({"schemaVersion": 2, "layers": [layer]}))
    return blob


def put_in_hub(home: Path, data: bytes, name="m-Q8_0.gguf") -> Path:
    """A file in the hub's cache; the link."""
    repo = home / "hub" / "models--o--Tiny-GGUF"
    blob, link = repo / "blobs" / sha256(data), repo / "snapshots" / ("c" * 40) / name
    for folder in (blob.parent, link.parent):
        folder.mkdir(parents=True, exist_ok=True)
    blob.write_bytes(data)
    link.symlink_to(os.path.relpath(blob, link.parent))
    return link


@pytest.fixture
def folder(tmp_path, monkeypatch):
    place = tmp_path / "my models"
    place.mkdir()
    monkeypatch.setenv("EDGELLM_MODELS_DIR", str(place))
    return place


def test_models_of_ollama_and_the_hub_are_found(own_home, model_bytes):
    blob = put_in_ollama(own_home, model_bytes)
    link = put_in_hub(own_home, w.model().build())

    by_origin = {item.origin: item for item in local.models()}

    assert sorted(by_origin) == ["hub", "ollama"]
    assert (by_origin["ollama"].path, by_origin["hub"].path) == (blob, link)
    assert [(i.card.id, i.card.files[0].sha256) for i in by_origin.values()] == [
        (i.card.id, sha256(i.path.read_bytes())) for i in by_origin.values()
    ]
    assert (by_origin["ollama"].card.id, by_origin["hub"].card.id) == ("tiny-1b", "tiny")
    assert by_origin["ollama"].card.files[0].source == f"file:{blob}"


def test_they_are_used_where_they_lie(own_home, model_bytes):
    blob = put_in_ollama(own_home, model_bytes)

    for uri in ("ollama:tiny:1b", "ollama://registry.ollama.ai/library/tiny:1b"):
        card = card_of(uri)
        assert Library().fetch(card, card.files[0]).path == str(blob)
    assert [path.name for path in (own_home / "data").rglob("*") if path.suffix == ".gguf"] == []


def test_a_store_of_ollamas_is_never_written_or_deleted_in(own_home, model_bytes):
    blob = put_in_ollama(own_home, model_bytes)
    card = card_of("ollama:tiny:1b")
    Library().fetch(card, card.files[0])

    Library().remove(card.id)

    assert blob.read_bytes() == model_bytes


@pytest.mark.parametrize("changed", [{"size": 5}, {"digest": "sha256:../../../etc/passwd"}, {"mediaType": "other"}])
def test_a_model_that_is_not_whole_is_not_found(own_home, model_bytes, changed):
    put_in_ollama(own_home, model_bytes, **changed)

    assert local.models() == []


def test_a_folder_of_the_users_with_its_subfolders(folder, model_bytes):
    (folder / "a").mkdir()
    (folder / "a" / "Some-Model.Q8_0.gguf").write_bytes(model_bytes)
    (folder / "broken.gguf").write_bytes(b"GGUF, no")
    (folder / ".hidden.gguf").write_bytes(model_bytes)
    (folder / "mmproj-x.gguf").write_bytes(model_bytes)
    (folder / "notes.txt").write_text("")
    adapter = w.model()
    adapter.keys.append(("general.type", w.STRING, "adapter"))
    adapter.write(folder / "adapter.gguf")
    (folder / "same.gguf").symlink_to(folder / "a" / "Some-Model.Q8_0.gguf")
    (folder / "loop").symlink_to(folder)

    items = local.models()

    assert [(item.path.name, bool(item.card)) for item in items] == [("broken.gguf", False), ("same.gguf", True)]
    assert "version at byte 4" in items[0].problem
    assert [card.params for card in local.cards()] == [263_232]


def test_a_split_file_is_one_model(folder):
    for no in range(2):
        keys = [("split.no", w.UINT16, no), ("split.count", w.UINT16, 2)]
        made = w.Gguf([*(w.model_keys() if no == 0 else []), *keys], [w.Tensor(f"t{no}", (64,), w.F32, 256)])
        made.write(folder / f"m-{no + 1:05d}-of-00002.gguf")

    (item,) = local.models()

    assert (item.path.name, item.card.files[0].tensor_bytes) == ("m-00001-of-00002.gguf", 512)
    (folder / "m-00002-of-00002.gguf").unlink()
    assert "1 of 2 parts" in local.models()[0].problem


def test_a_header_is_read_once(folder, model_bytes, monkeypatch):
    (folder / "m.gguf").write_bytes(model_bytes)
    first = local.models()
    monkeypatch.setattr("edgellm.formats.gguf.reader.read_model", None)

    assert local.models() == first


def test_a_folder_that_is_none_is_said(monkeypatch, tmp_path):
    monkeypatch.setenv("EDGELLM_MODELS_DIR", str(tmp_path / "none"))
    with refuses(UsageError, param="models-dir"):
        local.models()


def test_a_folder_that_holds_a_disk_is_said(folder, monkeypatch):
    monkeypatch.setattr(local, "MOST_ENTRIES", 3)
    for no in range(5):
        (folder / f"{no}.txt").write_text("")
    with refuses(UsageError, param="models-dir"):
        local.models()
