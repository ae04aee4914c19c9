"""The published number of parameters follows from each row's shape, or the row is listed here as an exception."""

from __future__ import annotations

from dataclasses import replace

import pytest

from edgellm.catalog import lookup
from edgellm.estimate import architecture
from edgellm.types.model import Shape

# What may be counted or not beside the weights: position ids, rotary frequencies, biases of LFM2's routers.
TOLERANCE = 704

# Published rounded: compared in tests/estimate/test_mixed_layers.py.
NOT_CLOSED = {
    "gemma-3n-e2b-it", "gemma-3n-e4b-it",
    "gemma-4-e2b-it", "gemma-4-e4b-it", "gemma-4-12b-it", "gemma-4-26b-a4b-it", "gemma-4-31b-it",
    "nemotron-3-nano-4b",
}  # fmt: skip
NO_SHAPE = {"falcon-e-1b-instruct", "falcon-e-3b-instruct", "ternary-bonsai-27b"}


def bert(s: Shape, positions: int, types: int) -> int:
    """Devlin et al. 2018, as transformers' BertModel and XLMRobertaModel hold it: biases, two norms a layer, pooler."""
    attention = 4 * (s.n_embd**2 + s.n_embd)
    feed_forward = 2 * s.n_embd * s.n_ff + s.n_ff + s.n_embd
    tables = (s.n_vocab + positions + types) * s.n_embd + 2 * s.n_embd
    return tables + s.n_layer * (attention + feed_forward + 4 * s.n_embd) + s.n_embd**2 + s.n_embd


def gated_encoder(s: Shape) -> int:
    """ModernBERT's and nomic-bert's matrices: no biases, three matrices of the feed-forward network."""
    return s.n_vocab * s.n_embd + s.n_layer * (4 * s.n_embd**2 + 3 * s.n_embd * s.n_ff)


def closures(s: Shape) -> list[int]:
    """What the shape may add up to."""
    if s.arch == "bert":
        pooler = s.n_embd**2 + s.n_embd  # snowflake's checkpoints leave it out
        return [bert(s, 512, 2), bert(s, 512, 2) - pooler, bert(s, 514, 1), bert(s, 8194, 1)]
    if s.arch == "modern-bert":
        return [gated_encoder(s) + (2 * s.n_layer + 1) * s.n_embd]
    if s.arch == "nomic-bert":
        return [gated_encoder(s) + 2 * s.n_embd + (2 * s.n_layer + 1) * 2 * s.n_embd]
    shape = replace(s, arch="gemma3") if s.arch == "gemma-embedding" else s
    parts = architecture.tensors(shape)
    if parts is None:
        return []
    # A buffer in some checkpoints, and no parameter.
    router_biases = sum(t.elems * len(t.layers) for t in parts if s.n_expert and (t.row, t.rows) == (s.n_expert, 1))
    every = sum(t.elems * len(t.layers) for t in parts)
    return [every, every - router_biases]


ROWS = list(lookup.catalog().values())


def test_there_are_more_than_120_models_of_every_kind() -> None:
    kinds = [row.kind for row in ROWS]

    assert len(ROWS) >= 140
    assert kinds.count("chat") >= 120
    assert kinds.count("embedding") >= 15
    assert {row.native_quant for row in ROWS} >= {"I2_S", "TQ2_0", "Q2_0", "Q1_0", "MXFP4", ""}
    assert sum(file.sha256 is not None for row in ROWS for file in row.files) >= 110


def test_the_rows_that_do_not_close_are_the_ones_that_are_known() -> None:
    assert {row.id for row in ROWS if row.shape is None} == NO_SHAPE
    assert {row.id for row in ROWS if row.shape is not None and not _closes(row.params, row.shape)} == NOT_CLOSED


@pytest.mark.parametrize("field", ["n_layer", "n_embd", "n_ff", "n_vocab", "tied_embeddings"])
def test_a_wrong_shape_does_not_close(field: str) -> None:
    row = lookup.find("qwen3-0.6b")
    assert row.shape is not None
    value = getattr(row.shape, field)
    wrong = replace(row.shape, **{field: not value if field == "tied_embeddings" else value + 1})

    assert _closes(row.params, row.shape)
    assert not _closes(row.params, wrong)


def test_what_does_not_close_says_so_in_its_trust() -> None:
    for row in ROWS:
        if row.id in NOT_CLOSED | NO_SHAPE:
            assert not row.trust.startswith("high"), row.id


def _closes(params: int, shape: Shape) -> bool:
    return any(abs(total - params) <= TOLERANCE for total in closures(shape))
