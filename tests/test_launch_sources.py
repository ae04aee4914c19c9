"""A model that is named by its address goes through the same decision as one of the catalog, before it is fetched."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest
from support import gguf_writer as w
from support.refusals import refuses
from support.store_server import ModelServer, sha256
from support.words import said
from test_launch import MACHINE

from edgellm.app import context, launch
from edgellm.app.quantize.source import find
from edgellm.errors import DiskFull, NothingFits, SourceUnreachable, UsageError
from edgellm.store import http
from edgellm.store.card import card_of
from edgellm.store.library import Library
from edgellm.store.sources.registry import sources
from edgellm.types.model import ModelFile
from edgellm.types.request import SelectionRequest

NAME = "o/Tiny-GGUF/tiny-Q8_0.gguf"
pytestmark = pytest.mark.usefixtures("known_machine")


def a_model(n_rows: int = 1000) -> bytes:
    made = w.model(context_length=8192)
    made.keys.append(("tokenizer.chat_template", w.STRING, "{{ messages }}"))
    made.tensors.append(w.Tensor("blk.0.ffn_up.weight", (64, n_rows), w.Q8_0, n_rows * 68))
    return made.build()


@pytest.fixture
def server(own_home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ModelServer]:
    from huggingface_hub import constants

    made = ModelServer()
    monkeypatch.setenv("NO_PROXY", "127.0.0.1,localhost")
    monkeypatch.setattr(constants, "ENDPOINT", made.url)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", made.url + "/{repo_id}/resolve/{revision}/{filename}")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(own_home / "hub"))
    monkeypatch.setattr(http, "BACKOFF_S", 0.01)
    monkeypatch.setattr(sources()["hf"], "_answers", {})  # another test may have had some
    monkeypatch.setattr("edgellm.hardware.probe.probe", lambda *_, **__: MACHINE)
    yield made
    made.close()


def uri_of(scheme: str, server: ModelServer, data: bytes) -> str:
    server.files[NAME] = data
    server.models["library/tiny/1b"] = [NAME]
    return {
        "hf": "hf://o/Tiny-GGUF:Q8_0",
        "repository": "hf://o/Tiny-GGUF",
        "https": f"{server.url}/files/{NAME}",
        "ollama": f"ollama://{server.url.removeprefix('http://')}/tiny:1b",
    }[scheme]


@pytest.mark.parametrize("scheme", ["hf", "repository", "https", "ollama"])
def test_an_address_is_a_model(server: ModelServer, scheme: str) -> None:
    data = a_model()
    uri = uri_of(scheme, server, data)

    plan = launch.model_plan(uri, SelectionRequest())

    assert Path(plan.artifact.path).read_bytes() == data
    assert (plan.artifact.quant, plan.artifact.sha256, plan.settings.n_ctx) == ("Q8_0", sha256(data), 8192)
    assert uri in said(plan)[0]
    asked = len(server.seen)
    assert launch.model_plan(uri, SelectionRequest()).artifact == plan.artifact
    if scheme != "repository":
        assert len(server.seen) == asked, "what is stored is not asked for again"


@pytest.mark.parametrize("scheme", ["hf", "https", "ollama"])
def test_what_does_not_fit_is_said_with_numbers_before_it_is_fetched(server: ModelServer, scheme: str) -> None:
    """A file of 60 MB whose header says 600 GB: only the header is asked for."""
    data = a_model(200_000)
    made = w.model()
    made.tensors.append(w.Tensor("blk.0.ffn_up.weight", (64, 900_000), w.Q8_0, 900_000 * 68))
    data = made.build()
    uri = uri_of(scheme, server, data)

    with refuses(NothingFits) as caught:
        launch.model_plan(uri, SelectionRequest(max_memory_bytes=80 * 1024**2))

    assert caught.value.hint
    # The window that holds the header, and whether the source answers.
    assert server.body_bytes() <= 1024**2 + 1024
    assert max(seen.sent for seen in server.seen) < len(data) // 20


def test_a_repository_gives_the_best_quantization_that_fits(server: ModelServer) -> None:
    """The listing tells the sizes of all; headers are read of the smallest, and of the one that is fetched."""
    small, large = a_model(20_000), a_model(900_000)
    server.files |= {"o/Tiny-GGUF/tiny-Q4_0.gguf": small, "o/Tiny-GGUF/tiny-F16.gguf": large}

    plan = launch.model_plan("hf://o/Tiny-GGUF", SelectionRequest(max_memory_bytes=150 * 1024**2))

    assert Path(plan.artifact.path).name == "tiny-Q4_0.gguf"
    assert not [seen for seen in server.seen if seen.path.endswith("tiny-F16.gguf") and seen.sent]


def test_a_catalog_row_is_checked_by_the_header_before_it_is_fetched(
    server: ModelServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Names and sizes of files that repositories usually have are a guess."""
    from dataclasses import replace

    from edgellm.catalog import lookup
    from edgellm.types.model import ModelFile

    data = a_model(900_000)
    server.files[NAME] = data
    row = lookup.find("qwen3-0.6b")
    row = replace(row, files=(ModelFile("hf://o/Tiny-GGUF:Q8_0", "Q8_0", trust="convention"),), repos=())
    monkeypatch.setattr("edgellm.catalog.lookup.find", lambda name, rows: row)

    plan = launch.model_plan("qwen3-0.6b", SelectionRequest())

    order = [seen.headers.get("range") for seen in server.seen if seen.sent]
    assert order == ["bytes=0-1048575", None]
    assert plan.artifact.bytes == len(data)


def test_an_address_with_a_quantization_that_is_not_there(server: ModelServer) -> None:
    uri = uri_of("repository", server, a_model())
    with refuses(UsageError, param="quant"):
        launch.model_plan(uri, SelectionRequest(), quant="Q2_K")


def test_a_dead_server_is_an_error_with_a_hint(server: ModelServer) -> None:
    uri = uri_of("https", server, a_model())
    server.mode = "500"
    with pytest.raises(SourceUnreachable) as caught:
        launch.model_plan(uri, SelectionRequest())
    assert caught.value.hint


def test_a_full_disk_is_said_before_the_download(server: ModelServer, monkeypatch: pytest.MonkeyPatch) -> None:
    import shutil

    uri = uri_of("https", server, a_model(100_000))
    usage = shutil.disk_usage("/")._replace(free=65 * 1024**2)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    with pytest.raises(DiskFull):
        launch.model_plan(uri, SelectionRequest())
    assert max(seen.sent for seen in server.seen) <= 1024**2


@pytest.mark.parametrize("where", ["folder", "ollama", "hub"])
def test_files_of_other_tools_are_chosen_offline(
    own_home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    monkeypatch.setattr("edgellm.hardware.probe.probe", lambda *_, **__: MACHINE)
    data = a_model()
    if where == "folder":
        path = tmp_path / "tiny-Q8_0.gguf"
        monkeypatch.setenv("EDGELLM_MODELS_DIR", str(tmp_path))
    elif where == "hub":
        path = own_home / "hub" / "models--o--Tiny-GGUF" / "snapshots" / ("c" * 40) / "tiny-Q8_0.gguf"
    else:
        path = own_home / "ollama" / "blobs" / f"sha256-{sha256(data)}"
        manifest = own_home / "ollama" / "manifests" / "registry.ollama.ai" / "library" / "tiny" / "1b"
        manifest.parent.mkdir(parents=True)
        layer = {"mediaType": "application/vnd.ollama.image.model", "digest": f"sha256:{sha256(data)}"}
        manifest.write_text(json.dumps({"layers": [layer | {"size": len(data)}]}))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)

    plan, decision = launch.auto_plan(SelectionRequest(offline=True))

    assert plan.artifact.path == str(path)
    assert decision.choice is not None
    assert decision.choice.model in ("tiny", "tiny-1b")


@pytest.mark.parametrize("scheme", ["https", "hf", "repository"])
@pytest.mark.parametrize("is_listed", [True, False])
def test_what_was_fetched_is_found_again_by_its_address_and_its_name(
    server: ModelServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, scheme: str, is_listed: bool
) -> None:
    """One copy under one name, though the hash that is known since is that of a model of the catalog."""
    uri = uri_of(scheme, server, a_model())
    first = launch.model_plan(uri, SelectionRequest()).artifact
    if is_listed:
        file = ModelFile("hf://h/m:Q8_0", "Q8_0", sha256=first.sha256)
        row = replace(card_of(first.path), id="house-model", files=(file,), trust="mine")
        (tmp_path / "rows.jsonl").write_bytes(msgspec.json.encode(row))
        monkeypatch.setenv("EDGELLM_MODELS", str(tmp_path / "rows.jsonl"))
    server.close()
    (stored,) = Library().installed()

    name = stored.model_id
    plans = [launch.model_plan(typed, SelectionRequest(offline=True)) for typed in (uri, name, f"{name.upper()}:Q8_0")]

    for plan in plans:
        assert (plan.artifact.path, plan.artifact.name) == (first.path, name)
        assert plan.artifact.model_id == ("house-model" if is_listed else name)
    assert Library().installed() == [stored]
    assert find(name, context.here()).artifact.path == first.path
