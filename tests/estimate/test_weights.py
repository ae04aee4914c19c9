"""Predicted weights against published files, byte for byte."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from edgellm.catalog.lookup import catalog
from edgellm.estimate import quants
from edgellm.estimate.repack import repacked_bytes
from edgellm.estimate.tensor_types import TYPES
from edgellm.estimate.weights import Weights, weights
from edgellm.formats.gguf.ggml_types import BY_NAME, NO_WEIGHTS
from edgellm.types.model import ModelCard, ModelFile
from edgellm.types.priors import Repacking

PUBLISHED = [
    (card, file)
    for card in catalog().values()
    for file in card.files
    if file.format == "gguf" and file.tensor_bytes and card.shape and quants.QUANTS[file.quant].predictable
]
# (model, quant) -> bytes that the file has more than the rules give, where its row names its publisher's own types.
OWN = {
    # Q5_K in all of 40 layers, where half get Q6_K and half Q4_K now.
    ("phi-4", "Q4_K_M"): 5120 * 7680 // 256 * (40 * 176 - 20 * 210 - 20 * 144),
    # The small matrices of each layer at F32, the quantizer makes Q8_0 of them.
    ("gemma-4-e4b-it", "Q8_0"): 2 * 42 * 2560 * 256 // 32 * (32 * 4 - 34),
    # 21 tensors ssm_out in Q5_K, the quantizer gives them Q4_K.
    ("nemotron-3-nano-4b", "Q4_K_M"): 21 * 7680 * 3136 // 256 * (176 - 144),
}


def predicted(card: ModelCard, quant: str, types: Mapping[str, str] | None = None, *, imatrix: bool = False) -> Weights:
    assert card.shape is not None
    own = tuple((types or {}).items())
    return weights(card.shape, card.params, card.params_active, quant, own, imatrix=imatrix)


@pytest.mark.parametrize(("card", "file"), PUBLISHED, ids=lambda x: x.id if isinstance(x, ModelCard) else x.quant)
def test_published_files_are_predicted_to_the_byte(card: ModelCard, file: ModelFile) -> None:
    assert file.tensor_bytes is not None
    # Publishers do not say whether they used an importance matrix; it moves a few tensors of some mixes.
    found = [predicted(card, file.quant, file.types, imatrix=i) for i in (False, True)]

    assert file.tensor_bytes in [f.total_bytes for f in found]
    assert all(f.exact for f in found)


def test_rows_name_a_publishers_own_types_only_where_the_rules_alone_are_off() -> None:
    named = {(card.id, file.quant): (card, file) for card, file in PUBLISHED if file.types}

    assert named.keys() == OWN.keys()
    for key, (card, file) in named.items():
        assert file.tensor_bytes - predicted(card, file.quant).total_bytes == OWN[key]
        assert file.types_source


def test_enough_published_files_follow_the_rules_alone() -> None:
    assert len(PUBLISHED) - len(OWN) >= 35


def test_own_types_count_in_what_a_token_reads_and_what_is_copied() -> None:
    card = catalog()["qwen3-8b"]
    assert card.shape is not None
    rules, own = predicted(card, "Q4_K_M"), predicted(card, "Q4_K_M", {"ffn_down": "Q8_0"})
    down = 36 * 4096 * 12288
    copied = Repacking(frozenset({"Q8_0"}), 8)

    assert dict(own.streamed_params)["Q8_0"] == down
    assert sum(n for _, n in own.streamed_params) == sum(n for _, n in rules.streamed_params)
    assert repacked_bytes(card.shape, "Q4_K_M", copied, (("ffn_down", "Q8_0"),)) == (down * 34 // 32, 0)
    assert repacked_bytes(card.shape, "Q4_K_M", copied) == (0, 0)


def test_only_unknown_architectures_are_estimated_and_say_so() -> None:
    estimated = {card.shape.arch for card in catalog().values() if card.shape and not predicted(card, "Q8_0").exact}

    assert estimated == {"bert", "gemma-embedding", "modern-bert", "nomic-bert"}
    assert estimated.isdisjoint({"llama", "qwen2", "qwen3", "qwen3moe", "gemma3", "phi3", "granite", "lfm2", "qwen35"})


def test_an_untied_table_is_not_read_for_a_token_and_a_tied_one_is() -> None:
    untied, tied = catalog()["qwen3-8b"], catalog()["qwen3-0.6b"]
    table = 151936 * 4096 * 34 // 32

    assert predicted(untied, "Q8_0").total_bytes - predicted(untied, "Q8_0").streamed_bytes == table
    assert predicted(tied, "Q8_0").total_bytes == predicted(tied, "Q8_0").streamed_bytes


def test_a_token_reads_its_experts_only() -> None:
    card = catalog()["qwen3-30b-a3b"]
    found = predicted(card, "Q8_0")
    read = sum(n for _, n in found.streamed_params)

    # Active parameters of the card count the embedding table, which a token reads one row of.
    assert read == pytest.approx(card.params_active - 151936 * 2048, rel=0.01)
    assert found.streamed_bytes < found.total_bytes / 8


def test_ternary_shapes_match_what_was_measured() -> None:
    card = catalog()["bitnet-b1.58-2b-4t"]

    # TQ2_0 with a Q6_K head: 808.39 MB measured on the shapes (docs/explain/memory-model.md).
    assert predicted(card, "TQ2_0").total_bytes == pytest.approx(808.39e6, rel=0.002)


def test_a_size_from_the_file_wins_and_scales_what_is_read() -> None:
    found = predicted(catalog()["qwen3-8b"], "Q4_K_M")
    larger = found.with_tensor_bytes(found.total_bytes * 2)

    assert larger.total_bytes == 2 * found.total_bytes
    assert larger.streamed_bytes == 2 * found.streamed_bytes
    assert larger.exact


def test_an_unknown_mix_is_refused() -> None:
    with pytest.raises(KeyError):
        predicted(catalog()["qwen3-8b"], "UD-Q4_K_XL")


def test_short_rows_hide_bits_behind_the_name() -> None:
    card = catalog()["gemma-3-270m"]

    # "Q4_K_M" of Gemma 3 270M is 7.36 bits a weight, as its rows of 640 fall back.
    assert predicted(card, "Q4_K_M").total_bytes * 8 / card.params == pytest.approx(7.36, abs=0.01)


def test_every_type_of_weights_has_its_costs() -> None:
    assert (BY_NAME.keys() - NO_WEIGHTS) | {"INT4", "INT8"} == TYPES.keys()  # those two are ONNX's
