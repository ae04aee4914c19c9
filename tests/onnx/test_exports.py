"""Bytes of ONNX exports, by the rule of their quantizer, against a published file."""

from __future__ import annotations

from dataclasses import replace

import pytest
from edgellm_onnx.priors import EXPORT

from edgellm.catalog import lookup
from edgellm.estimate import exports
from edgellm.selection.expand import file_weights
from edgellm.types.model import ModelFile

SMOLLM2_1_7B_Q4 = 1_411_969_607  # model_q4.onnx, as an app that fetches it states its size


def test_a_published_file_is_met_but_for_its_graph() -> None:
    card = lookup.find("smollm2-1.7b-instruct")
    assert card.shape is not None

    found = exports.weights(card.shape, card.params, card.params_active, "INT4", EXPORT)

    assert 0 < SMOLLM2_1_7B_Q4 - found.total_bytes < 0.005 * SMOLLM2_1_7B_Q4
    assert not found.exact


def test_a_tied_output_table_is_read_in_floats_and_another_is_quantized() -> None:
    card = lookup.find("qwen3-0.6b")
    assert card.shape is not None
    table = card.shape.n_embd * card.shape.n_vocab
    untied = replace(card.shape, tied_embeddings=False)

    tied = exports.weights(card.shape, card.params, card.params_active, "INT4", EXPORT)
    apart = exports.weights(untied, card.params + table, card.params_active + table, "INT4", EXPORT)

    assert dict(tied.streamed_params) == {"INT4": card.params - table, "F32": table}
    assert dict(apart.streamed_params) == {"INT4": card.params}
    assert tied.total_bytes == tied.streamed_bytes
    assert apart.total_bytes - apart.streamed_bytes == 4 * table


@pytest.mark.parametrize(("quant", "bits"), [("F32", 32), ("F16", 16), ("INT8", 9), ("INT4", 5)])
def test_every_quantization_has_its_bits(quant: str, bits: int) -> None:
    card = lookup.find("qwen3-0.6b")
    assert card.shape is not None
    body = card.params - card.shape.n_embd * card.shape.n_vocab

    found = exports.weights(card.shape, card.params, card.params_active, quant, EXPORT)

    assert dict(found.streamed_params)[quant] >= body
    assert found.total_bytes >= body * bits // 8
    with pytest.raises(KeyError):
        exports.weights(card.shape, card.params, card.params_active, "Q4_K_M", EXPORT)


def test_selection_asks_this_rule_for_onnx_files_alone() -> None:
    card = lookup.find("qwen3-0.6b")
    assert card.shape is not None
    as_onnx = file_weights(card, card.shape, ModelFile("hf://o/r/onnx/model.onnx", "F16", "onnx"), EXPORT)
    as_gguf = file_weights(card, card.shape, ModelFile("hf://o/r:F16", "F16"), None)
    published = file_weights(card, card.shape, ModelFile("hf://o/r/m.onnx", "INT4", "onnx", tensor_bytes=10**9), EXPORT)

    assert as_onnx == exports.weights(card.shape, card.params, card.params_active, "F16", EXPORT)
    assert as_gguf is not None
    assert as_gguf.exact
    assert published is not None
    assert published.total_bytes == 10**9


def test_without_the_rule_only_a_published_size_is_known() -> None:
    card = lookup.find("qwen3-0.6b")
    assert card.shape is not None
    published = file_weights(card, card.shape, ModelFile("hf://o/r/m.onnx", "INT4", "onnx", tensor_bytes=10**9))

    assert file_weights(card, card.shape, ModelFile("hf://o/r/m.onnx", "INT4", "onnx")) is None
    assert file_weights(card, card.shape, ModelFile("hf://o/r/m.onnx", "F16", "onnx")) is None
    assert published is not None
    assert published.total_bytes == 10**9


def test_the_catalog_names_public_onnx_repositories() -> None:
    rows = [(card, file) for card in lookup.catalog().values() for file in card.files if file.format == "onnx"]

    assert len({card.id for card, file in rows if file.source.startswith("hf:")}) >= 8
    hub = [file for _, file in rows if "hf:" in file.source]
    assert all(file.quant in EXPORT.table_types and file.source.endswith(".onnx") for file in hub)
