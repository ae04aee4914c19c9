"""Sums in a file's own matrices, against numpy in float64."""

import dataclasses

import numpy as np
import pytest
from support.random_lora import added, random_lora
from support.refusals import refuses
from support.tiny_models import MODELS
from support.toy_llama import toy_weights, write_toy

from edgellm.adaptation import adapter_file, merge
from edgellm.adaptation.lora import Lora, LoraFactors
from edgellm.errors import UnsupportedArtifact, UsageError
from edgellm.formats.gguf import reader

Q = "blk.0.attn_q.weight"


@pytest.fixture
def base(tmp_path):
    weights = toy_weights()
    path = write_toy(tmp_path / "m.gguf", weights)
    return path, weights, reader.read_model(path)


def read(path):
    """Every tensor of a file that is not quantized, as float32."""
    file = np.memmap(path, np.uint8, "r")
    return {
        t.name: adapter_file.floats_of(np.asarray(file[t.offset : t.offset + t.n_bytes]), t.type.name).reshape(
            t.dims[::-1]
        )
        for t in reader.read_model(path).tensors
    }


@pytest.mark.parametrize("scale", [1.0, 0.25, -2.0])
@pytest.mark.parametrize("chunk", [merge.CHUNK_BYTES, 1000])
def test_every_matrix_is_the_sum_and_nothing_else_changes(scale, chunk, base, monkeypatch):
    path, weights, model = base
    monkeypatch.setattr(merge, "CHUNK_BYTES", chunk)
    lora = random_lora(model, size=0.2, ranks={Q: 3})
    told = []

    merge.add(path, lora, scale, lambda *step: told.append(step))

    for name, values in read(path).items():
        wanted = weights[name] + scale * added(lora, name) if name in lora.factors else weights[name]
        assert np.abs(values - wanted).max() <= 1e-6 * max(1.0, np.abs(wanted).max()), name
    assert [step[:2] for step in told] == [(i, len(lora.factors)) for i in range(len(lora.factors))]


def test_dora_scales_rows_of_the_sum(base):
    path, weights, model = base
    lora = random_lora(model, size=0.2, roles=("attn_q",))
    lengths = {name: np.linspace(0.5, 2, 64).astype(np.float32) for name in lora.factors}

    merge.add(path, dataclasses.replace(lora, lengths=lengths))

    for name, length in lengths.items():
        total = weights[name] + added(lora, name)
        wanted = length[:, None].astype(np.float64) * total / np.linalg.norm(total, axis=1, keepdims=True)
        assert np.abs(read(path)[name] - wanted).max() < 1e-6


def test_whole_matrices_take_the_place_of_the_models(base):
    path, _, _ = base
    head = np.random.default_rng(1).normal(0, 1, (48, 64)).astype(np.float32)

    merge.add(path, Lora("llama", 0.0, {}, replaced={"output.weight": head}))

    assert np.array_equal(read(path)["output.weight"], head)


def test_a_table_that_was_learned_as_embedding_and_output_and_a_norm_are_replaced(tmp_path):
    path = write_toy(tmp_path / "m.gguf", toy_weights(tied=True))
    table, norm = np.full((48, 64), 2, np.float32), np.full(64, 3, np.float32)
    whole = {"token_embd.weight": table, "output_norm.weight": norm}

    merge.add(path, Lora("llama", 0.0, {}, replaced=whole, shares_table=True))

    assert all(np.array_equal(read(path)[name], values) for name, values in whole.items())


def test_matrices_of_experts_get_factors_of_their_own(tmp_path):
    path = dataclasses.replace(MODELS["llama-4-experts"], n_layer=1, n_expert=2, n_ff_expert=32).write(tmp_path)
    name = "blk.0.ffn_down_exps.weight"  # F16
    rng, before = np.random.default_rng(0), read(path)[name]
    pair = LoraFactors(*(rng.normal(0, 0.3, shape).astype(np.float32) for shape in ((2, 3, 32), (2, 256, 3))))

    merge.add(path, Lora("llama", 6.0, {name: pair}))

    for expert in range(2):
        wanted = before[expert] + 2.0 * (pair.b[expert].astype(np.float64) @ pair.a[expert])
        assert np.abs(read(path)[name][expert] - wanted).max() < 1e-3  # half precision


@pytest.mark.parametrize(
    "change",
    [
        {"architecture": "qwen2"},
        {"factors": {"blk.9.attn_q.weight": LoraFactors(np.ones((2, 64), np.float32), np.ones((64, 2), np.float32))}},
        {"factors": {Q: LoraFactors(np.ones((2, 32), np.float32), np.ones((64, 2), np.float32))}},
        {"replaced": {"output.weight": np.ones((47, 64), np.float32)}},
    ],
    ids=["architecture", "layer", "width", "whole"],
)
def test_an_adapter_of_another_model_changes_nothing(change, base):
    path, _, model = base
    before = path.read_bytes()

    with refuses(UnsupportedArtifact):
        merge.add(path, dataclasses.replace(random_lora(model), **change))
    assert path.read_bytes() == before


def test_an_embedding_that_is_the_output_too_is_not_changed(tmp_path):
    path = write_toy(tmp_path / "m.gguf", toy_weights(tied=True))

    with refuses(UnsupportedArtifact):
        merge.add(path, random_lora(reader.read_model(path), roles=("token_embd",)))


def test_more_than_factors_is_merged_as_it_is(base):
    path, _, model = base
    lora = random_lora(model, roles=("attn_q",))

    with refuses(UsageError, param="scale"):
        merge.add(path, dataclasses.replace(lora, lengths={Q: np.ones(64, np.float32)}), 0.5)


def test_values_too_large_for_the_file_are_refused(tmp_path):
    path = dataclasses.replace(MODELS["llama"], n_layer=1).write(tmp_path)  # F16
    model = reader.read_model(path)

    with refuses(UnsupportedArtifact):
        merge.add(path, random_lora(model, size=1e4, roles=("attn_v",)))
