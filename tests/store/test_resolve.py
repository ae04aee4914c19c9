"""From what a person writes to one row of the catalog's form, by headers, without fetching the model."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace

import pytest
from support import gguf_writer as w
from support import safetensors_writer
from support.contexts import context
from support.loras import tiny_with
from support.refusals import refuses
from support.tiny_models import MODELS

from edgellm.app.adapters import adapter_bytes
from edgellm.app.resolve import ResolvedModel, resolve
from edgellm.catalog.lookup import catalog
from edgellm.errors import BadArtifact, SourceError, SourceUnreachable, UnknownModel, UnsupportedArtifact, UsageError
from edgellm.store.sources.registry import sources
from edgellm.types.machine import Cpu, Machine, Memory
from edgellm.types.model import Artifact, ModelCard

ROWS = list(catalog().values())
MIB = 1024**2
MACHINE = Machine("test", "Test", Cpu("x86_64", "a model", cores=4, threads=8), Memory(8 * 1024**3, 6 * 1024**3))


def named(text: str, cards: Sequence[ModelCard] = ROWS, quant: str | None = None) -> ResolvedModel:
    return resolve(text, context(MACHINE, cards, ()), quant=quant, predict=True)


@pytest.fixture(autouse=True)
def asked_anew():
    """Whether a source answers is kept for a minute."""
    sources.cache_clear()


@pytest.fixture
def large():
    """A model of 6 MB whose header is small."""
    made = w.model()
    n = 6 * MIB // 34 * 32 // 64
    made.tensors.append(w.Tensor("blk.0.ffn_up.weight", (64, n), w.Q8_0, 64 * n // 32 * 34))
    return made.build()


def test_an_address_is_told_by_the_first_bytes_of_its_file(models, large):
    models.files["owner/tiny-GGUF/tiny-Q8_0.gguf"] = large
    found = named("hf://owner/tiny-GGUF:Q8_0", ROWS)
    (file,) = found.card.files

    assert found.basis == "the header at hf://owner/tiny-GGUF:Q8_0"
    assert (file.quant, file.bytes) == ("Q8_0", len(large))
    assert file.tensor_bytes is not None
    assert 0 < len(large) - file.tensor_bytes < 10_000
    assert found.card.shape is not None
    assert models.body_bytes() <= MIB


def test_a_repository_is_told_with_all_it_has(models, large):
    for quant in ("Q8_0", "Q4_K_M"):
        models.files[f"owner/tiny-GGUF/tiny-{quant}.gguf"] = large + b"\0" * len(quant)
    found = named("hf://owner/tiny-GGUF", ROWS)
    one = named("hf://owner/tiny-GGUF", ROWS, quant="q4_k_m")

    assert {file.quant for file in found.card.files} == {"Q4_K_M", "Q8_0"}
    assert [file.quant for file in one.card.files] == ["Q4_K_M"]
    assert [file.quant for file in one.others] == ["Q8_0"]


def test_of_several_files_in_one_quantization_the_first_is_meant():
    card = catalog()["qwen3-0.6b"]
    here = replace(card.files[0], source="file:/here.gguf")
    found = named("qwen3-0.6b:q8_0", [replace(card, files=(here, *card.files))])

    assert [file.source for file in found.card.files] == ["file:/here.gguf"]


def test_a_dead_source_leaves_the_catalogs_word(models):
    models.close()
    found = named("hf://unsloth/Qwen3-4B-GGUF:Q5_K_M", ROWS)

    assert found.card.id == "qwen3-4b"
    assert found.basis.startswith("the catalog; trust medium")
    with pytest.raises(SourceUnreachable):
        named("hf://owner/unheard-of:Q8_0", ROWS)


def test_what_a_package_holds_is_told_by_the_catalog_only():
    row = catalog()["smollm2-135m-instruct"]
    found = named(row.files[0].source, ROWS)

    assert (found.card.id, found.card.files) == (row.id, row.files[:1])
    with refuses(SourceError):
        named("pypi:unheard==1/of.gguf#sha256=aa", ROWS)


def test_what_the_source_has_not_is_not_made_up_from_the_catalog(models):
    with pytest.raises(UnknownModel):
        named("hf://unsloth/Qwen3-4B-GGUF:Q5_K_M", ROWS)


def test_a_file_is_told_by_its_header_and_known_by_its_name(tmp_path, model_bytes):
    path = tmp_path / "house.gguf"
    path.write_bytes(model_bytes)
    plain, uri = named(str(path), ROWS), named(f"file:{path}", ROWS)

    assert plain.card == uri.card
    assert plain.card.files[0].bytes == len(model_bytes)
    assert plain.card.id not in catalog()


def test_a_mix_of_unknown_name_is_taken_as_the_nearest_and_says_so(tmp_path):
    made = w.model()
    path = tmp_path / "mix.gguf"
    path.write_bytes(made.build())
    found = named(str(path), ROWS).card.files[0]

    assert found.quant in {"F32", "F16", "Q8_0"} or "taken as" in found.trust


def test_adapters_count_their_tensors(tmp_path):
    model, loras = tiny_with(tmp_path, "one")
    lora, artifact = loras["one"], Artifact("gguf", (str(model),), "tiny")
    shape, other = catalog()["llama-3.2-1b-instruct"].shape, catalog()["gemma-3n-e2b-it"].shape

    assert 0 < adapter_bytes([str(lora)], None) < lora.stat().st_size
    assert adapter_bytes([str(lora)] * 2, shape, artifact) == 2 * adapter_bytes([str(lora)], None)
    assert adapter_bytes([], None) == 0
    with refuses(UnsupportedArtifact):
        adapter_bytes([str(model)], None)
    with refuses(UnsupportedArtifact):
        adapter_bytes([str(lora)], other)
    wider = Artifact("gguf", (str(replace(MODELS["llama"], n_layer=2).gguf().write(tmp_path / "wider.gguf")),), "wider")
    with refuses(UnsupportedArtifact):
        adapter_bytes([str(lora)], shape, wider)
    lora.write_bytes(lora.read_bytes()[:-100])
    with refuses(BadArtifact):
        adapter_bytes([str(lora)], shape)


def test_a_rank_stands_for_an_adapter_that_is_not_made_yet():
    shape = catalog()["llama-3.2-1b-instruct"].shape
    # 16 layers: q, k, v, o of 2048 with 512 for keys and values; gate, up, down of 8192.
    rows = 16 * (2 * (2048 + 2048) + 2 * (2048 + 512) + 3 * (2048 + 8192))

    assert adapter_bytes(["rank=8"], shape) == 8 * 4 * rows
    for wrong in ("rank=", "rank=0", "rank=x", "rank=99999"):
        with refuses(UsageError, param="adapter"):
            adapter_bytes([wrong], shape)
    with refuses(UnsupportedArtifact):
        adapter_bytes(["rank=8"], catalog()["embeddinggemma-300m"].shape)


def test_a_folder_of_ternary_weights_counts_as_it_is_loaded(tmp_path):
    folder = tmp_path / "bitnet-b1.58-2b-4t"
    folder.mkdir()
    config = {
        "model_type": "bitnet", "hidden_size": 2560, "intermediate_size": 6912, "num_hidden_layers": 30,
        "num_attention_heads": 20, "num_key_value_heads": 5, "vocab_size": 128256, "tie_word_embeddings": True,
        "max_position_embeddings": 4096, "quantization_config": {"quant_method": "bitnet"},
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(config))
    safetensors_writer.write(folder / "model.safetensors", {"x": ("U8", (64,), bytes(64))})
    card = named(str(folder), ROWS).card
    (file,) = card.files

    assert card.id == "bitnet-b1.58-2b-4t"  # the catalog's row, by name and shape
    assert card.license == "mit"
    assert (file.quant, file.format, file.tensor_bytes) == ("I2_S", "safetensors", None)
