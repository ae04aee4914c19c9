"""A file is a row of the catalog by its hash, its repository, or shape and name together; a fine-tune is none."""

from __future__ import annotations

from dataclasses import replace

import pytest

from edgellm.catalog import lookup
from edgellm.catalog.recognize import joined, recognize
from edgellm.types.model import ModelCard, ModelFile

ROWS = list(lookup.catalog().values())
QWEN = lookup.find("qwen3-0.6b")


def card(model_id="a", kind="chat", shape=QWEN.shape, **file):
    model_file = ModelFile(**{"source": "file:/a.gguf", "quant": "Q5_0", "tensor_bytes": 1000, **file})
    return ModelCard(model_id, "qwen3", kind, "unknown", 1234, 5, 5, shape, (model_file,), trust="header")


@pytest.mark.parametrize(
    ("given", "found"),
    [
        (card("x", sha256=QWEN.files[0].sha256), "qwen3-0.6b"),
        (card("x", shape=None, sha256=QWEN.files[0].sha256), "qwen3-0.6b"),
        (card("x", source="hf://unsloth/Qwen3-0.6B-GGUF:Q5_0"), "qwen3-0.6b"),
        (card("x", source="hf://Qwen/Qwen3-0.6B/x.gguf"), "qwen3-0.6b"),
        (card("Qwen3-0.6B"), "qwen3-0.6b"),
        (card("qwen3_0.6b-instruct"), "qwen3-0.6b"),
        (card("qwen3-0.6b-pirate"), None),
        (card("x"), None),
        (card("qwen3-0.6b", shape=replace(QWEN.shape, n_layer=29)), None),
        (card("x", source="hf://unsloth/Qwen3-0.6B-GGUF:Q5_0", shape=replace(QWEN.shape, n_embd=1)), None),
        (card("x", source="hf://someone/else:Q5_0"), None),
    ],
)
def test_recognize(given, found):
    recognized = recognize(given, ROWS)

    assert recognized.id == (found or given.id)
    assert recognized.files == given.files
    assert (recognized.shape, recognized.ctx_train) == (given.shape, 1234)
    assert bool(recognized.scores) == bool(found)


def test_a_length_that_the_header_does_not_tell_is_the_catalogs():
    silent = replace(card("Qwen3-0.6B"), ctx_train=0)

    assert recognize(silent, ROWS).ctx_train == QWEN.ctx_train
    assert lookup.check(silent_of_nobody := replace(silent, id="nobody")) == []
    assert lookup.check(replace(silent_of_nobody, trust="")) == ["ctx_train 0 is not a length"]


def test_a_base_model_keeps_its_row_and_a_template_makes_it_chat():
    smol = next(row for row in ROWS if row.kind == "base" and row.shape is not None)
    assert recognize(card(smol.id, kind="base", shape=smol.shape), ROWS).kind == "base"
    assert recognize(card(smol.id, kind="chat", shape=smol.shape), [smol]).kind == "chat"


def test_found_files_join_their_row_or_are_rows_of_their_own():
    rows = joined(ROWS, [card("qwen3-0.6b"), card("mine", source="file:/b.gguf"), card("mine", source="file:/c.gguf")])

    by_id = {row.id: row for row in rows}
    assert by_id["qwen3-0.6b"].files == (card().files[0], *QWEN.files)
    assert by_id["qwen3-0.6b"].scores == QWEN.scores
    assert [file.source for file in by_id["mine"].files] == ["file:/c.gguf", "file:/b.gguf"]
    assert len(rows) == len(ROWS) + 1
    assert joined(rows, [card("qwen3-0.6b")]) == rows
