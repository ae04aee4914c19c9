"""What a typed name means: an id, the beginning of one, or a name as Ollama writes it; never another without a word."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from support import gguf_writer
from support.random_lora import random_lora
from support.refusals import refuses
from support.tiny_models import MODELS
from support.words import said

from edgellm.adaptation import adapter_file
from edgellm.app import context, launch
from edgellm.app.resolve import refer, resolve
from edgellm.app.tune import jobs
from edgellm.catalog.lookup import catalog
from edgellm.errors import BadArtifact, SourceError, UnknownModel, UnsupportedArtifact, UnsupportedTask, UsageError
from edgellm.formats.gguf.reader import read_model
from edgellm.store.adapters import AdapterOrigin, AdapterStore
from edgellm.store.card import card_of
from edgellm.store.library import Library
from edgellm.types.request import SelectionRequest

ROWS = list(catalog().values())


@pytest.mark.parametrize(
    ("typed", "name", "quant"),
    [
        ("qwen3-4b", "qwen3-4b", None),
        ("qwen3-4b:Q8_0", "qwen3-4b", "Q8_0"),
        ("qwen3-4b:no-such", "qwen3-4b", "no-such"),
        ("qwen3:4b", "qwen3-4b", None),
        ("qwen3:4b-q4_K_M", "qwen3-4b", "Q4_K_M"),
        ("llama3.2:1b-instruct-q8_0", "llama3.2-1b-instruct", "Q8_0"),
        ("smollm2:latest", "smollm2", None),
        ("qwen3-4:q4_k_m", "qwen3-4", "q4_k_m"),
    ],
)
def test_a_name_and_what_stands_behind_its_colon(typed: str, name: str, quant: str | None) -> None:
    reference = refer(typed, ROWS)
    assert (reference.name, reference.quant) == (name, quant)


def test_of_a_name_whose_tuning_was_never_finished_the_way_on_is_told() -> None:
    folder = jobs.root() / "qwen3-4b" / "small.0123"
    folder.mkdir(parents=True)
    here = context.of("raspberry-pi-5-8gb")
    for name, is_told in (("small", True), ("other", False)):
        with refuses(UsageError, param="quant") as caught:
            resolve(f"qwen3-4b:{name}", here)
        assert ("adapters jobs" in caught.value.hint) is is_told


@pytest.mark.parametrize("named", ["qwen3-4b", "./model.gguf"])
def test_a_model_that_writes_makes_no_embeddings(named: str) -> None:
    with refuses(UnsupportedTask):
        launch.as_named(catalog()["qwen3-4b"], SelectionRequest(task="embed"), named=named, to_chat=False)


@pytest.mark.parametrize(
    ("trust", "basis"), [("hub-api", "the catalog; trust hub-api"), ("", "a row that does not say")]
)
def test_where_the_facts_of_a_row_are_from(trust: str, basis: str) -> None:
    card = replace(catalog()["qwen3-4b"], trust=trust)

    assert resolve("qwen3-4b", context.of("raspberry-pi-5-8gb").narrowed([card])).basis.startswith(basis)


@pytest.mark.parametrize(
    ("typed", "model", "taken_for"),
    [
        ("qwen3-4b", "qwen3-4b", ""),
        ("Qwen3-4B:Q8_0", "qwen3-4b", ""),
        ("qwen3:4b", "qwen3-4b", "qwen3:4b"),
        ("llama3.2:1b", "llama-3.2-1b-instruct", "llama3.2:1b"),
        ("gemma-3-1b", "gemma-3-1b-it", "gemma-3-1b"),
    ],
)
def test_what_a_name_was_taken_for_is_known(typed: str, model: str, taken_for: str) -> None:
    resolved = resolve(typed, context.of("raspberry-pi-5-8gb"))
    assert (resolved.card.id, resolved.typed) == (model, taken_for)


@pytest.mark.parametrize(
    "typed", ["https://user:s3cret@127.0.0.1:1/x.gguf", "hf://s3cret@owner/repo", "ollama://u:s3cret@h/x"]
)
def test_an_address_with_a_password_is_not_repeated(typed: str) -> None:
    with refuses(SourceError) as caught:
        refer(typed, ROWS)
    assert "s3cret" not in str(caught.value)


@pytest.mark.parametrize("typed", ["", " ", "s3://bucket/model.gguf"])
def test_an_empty_name_and_an_address_that_no_source_serves_are_refused(typed: str) -> None:
    with refuses(SourceError if typed.strip() else UsageError):
        refer(typed, ROWS)


@pytest.mark.parametrize("typed", ["hf.co/" + "a/" * 10000, "x" * 5000])
def test_a_name_longer_than_any_is_refused_and_not_repeated(typed: str) -> None:
    with refuses(UsageError, param="model") as caught:
        refer(typed, ROWS)
    assert len(str(caught.value)) < 300


def test_a_plan_says_what_a_name_was_taken_for(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    gguf_writer.model(context_length=8192).write(tmp_path / "House-Model.Q8_0.gguf")
    monkeypatch.setenv("EDGELLM_MODELS_DIR", str(tmp_path))

    assert said(launch.model_plan("house", SelectionRequest()))[0] == "Model: house is taken as house-model."
    assert "taken as" not in said(launch.model_plan("house-model", SelectionRequest()))[0]


def test_of_the_only_model_that_its_shape_is_missing_is_told_and_nothing_of_backends() -> None:
    card = replace(ROWS[0], id="acme-1b", shape=None)

    with refuses(UnsupportedArtifact):
        launch.model_plan("acme-1b", SelectionRequest(), context=context.here().narrowed([card]))


@pytest.mark.parametrize("typed", ["llama3", "qwen3", "qwen3:5b"])
def test_a_name_that_may_be_several_is_asked_back(typed: str) -> None:
    with refuses(UnknownModel):
        resolve(typed, context.of("raspberry-pi-5-8gb"))


def test_what_stands_behind_a_colon_and_is_nothing_is_answered_with_what_there_is(tmp_path: Path) -> None:
    lora = random_lora(read_model(MODELS["llama-grouped"].sparse(tmp_path)), roles=("attn_q",))
    origin = AdapterOrigin("mail", "qwen3-4b", "Q8_0", "0" * 64, "/m.gguf")
    AdapterStore().add(origin, lambda path: adapter_file.write(path, lora))
    for typed, near in (("qwen3-4b:Q4KM", "Q4_K_M"), ("qwen3-4b:w2", "mail")):
        with refuses(UsageError, param="quant") as caught:
            resolve(typed, context.of("raspberry-pi-5-8gb"))
        assert near in caught.value.hint


def stored_as(name: str, tmp_path: Path) -> Path:
    """A tiny model, stored under that name; the path of its file."""
    path = tmp_path / f"{name}.Q8_0.gguf"
    gguf_writer.model(context_length=8192).write(path)
    card = card_of(str(path))
    Library().fetch(replace(card, id=name), card.files[0])
    return path


@pytest.mark.parametrize("typed", ["llama3", "LLAMA3"])
def test_what_is_stored_under_exactly_that_name_wins_over_several_that_begin_so(typed: str, tmp_path: Path) -> None:
    stored_as("llama3", tmp_path)
    assert resolve(typed, context.here()).card.id == "llama3"
    assert resolve(typed, context.of("raspberry-pi-5-8gb")).card.id == "llama3"


def test_an_id_of_the_catalog_wins_over_what_is_stored_under_that_name(tmp_path: Path) -> None:
    stored_as("qwen3-4b", tmp_path)
    assert resolve("qwen3-4b", context.here()).card.trust != "header"


def test_what_is_stored_under_a_name_and_damaged_is_told(tmp_path: Path) -> None:
    stored_as("llama3", tmp_path).write_bytes(b"")
    with refuses(BadArtifact):
        resolve("llama3", context.here())
