"""Adapters of every stored type: what is written is what is read, and equal factors are equal files."""

import numpy as np
import pytest
from gguf import GGMLQuantizationType, quants
from support.gguf_writer import Gguf
from support.random_lora import random_lora, same_bits
from support.refusals import refuses
from support.tiny_models import MODELS

from edgellm.adaptation import adapter_file
from edgellm.adaptation.lora import Lora, LoraFactors
from edgellm.errors import BadArtifact, UnsupportedArtifact, UsageError
from edgellm.formats.gguf import adapter as gguf_adapter
from edgellm.formats.gguf import reader


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return reader.read_model(MODELS["llama-grouped"].sparse(tmp_path_factory.mktemp("base")))


@pytest.mark.parametrize("stored", ["F32", "F16"])
def test_what_is_written_is_read_to_the_bit(stored, model, tmp_path):
    lora = random_lora(model, stored=stored, ranks={"blk.1.attn_v.weight": 2})
    path, again = tmp_path / "x.gguf", tmp_path / "y.gguf"

    adapter_file.write(path, lora)
    read = adapter_file.load(path)
    adapter_file.write(again, read)

    assert same_bits(lora, read)
    assert read.stored == stored
    assert path.read_bytes() == again.read_bytes()
    gguf_adapter.check(gguf_adapter.read(path), model)


def test_bf16_is_rounded_as_gguf_rounds_it(model, tmp_path):
    lora = random_lora(model, roles=("attn_q",))
    adapter_file.write(tmp_path / "x.gguf", lora, stored="BF16")
    read = adapter_file.load(tmp_path / "x.gguf")

    for name, pair in lora.factors.items():
        rounded = quants.dequantize(quants.quantize(pair.a, GGMLQuantizationType.BF16), GGMLQuantizationType.BF16)
        assert np.array_equal(read.factors[name].a, rounded)
    adapter_file.write(tmp_path / "y.gguf", read)
    assert (tmp_path / "x.gguf").read_bytes() == (tmp_path / "y.gguf").read_bytes()


def test_q8_0_is_read(model):
    values = np.random.default_rng(0).normal(0, 1, (4, 64)).astype(np.float32)
    raw = quants.quantize(values, GGMLQuantizationType.Q8_0)

    assert np.array_equal(
        adapter_file.floats_of(raw.ravel(), "Q8_0").reshape(4, 64),
        quants.dequantize(raw, GGMLQuantizationType.Q8_0),
    )


def test_factors_of_the_embedding_are_turned_as_native_code_wants_them(model, tmp_path):
    pair = random_lora(model, roles=("token_embd",)).factors["token_embd.weight"]
    adapter_file.write(tmp_path / "x.gguf", Lora("llama", 8.0, {"token_embd.weight": pair}))

    (read,) = gguf_adapter.read(tmp_path / "x.gguf").pairs
    assert (read.a.dims, read.b.dims) == ((4, 64), (4, 256))  # ranks first, of 64 tokens and 256 values
    assert np.array_equal(adapter_file.load(tmp_path / "x.gguf").factors["token_embd.weight"].b, pair.b)
    gguf_adapter.check(gguf_adapter.read(tmp_path / "x.gguf"), model)


def test_tokens_that_wake_it_and_a_missing_alpha_are_kept(model, tmp_path):
    factors = random_lora(model, roles=("attn_v",)).factors
    adapter_file.write(tmp_path / "x.gguf", Lora("llama", 0.0, factors, invocation_tokens=(5, 6)))

    read = adapter_file.load(tmp_path / "x.gguf")
    assert (read.alpha, read.invocation_tokens) == (0.0, (5, 6))


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_values_that_are_no_numbers_are_refused(value, model, tmp_path):
    lora = random_lora(model, roles=("attn_v",))
    lora.factors["blk.2.attn_v.weight"].b[3, 1] = value
    adapter_file.write(tmp_path / "x.gguf", lora)

    with refuses(BadArtifact):
        adapter_file.load(tmp_path / "x.gguf")


@pytest.mark.parametrize("stored", ["F16", "BF16"])
def test_values_too_large_for_a_type_are_refused(stored, tmp_path):
    pair = LoraFactors(np.full((1, 4), 3.4e38, np.float32), np.ones((4, 1), np.float32))

    with refuses(UnsupportedArtifact):
        adapter_file.write(tmp_path / "x.gguf", Lora("llama", 1.0, {"blk.0.attn_q.weight": pair}), stored=stored)
    assert not list(tmp_path.iterdir())


def test_another_type_is_refused(model, tmp_path):
    with refuses(UsageError, param="type"):
        adapter_file.write(tmp_path / "x.gguf", random_lora(model), stored="Q4_0")


def test_a_file_that_is_there_is_not_replaced_unasked(model, tmp_path):
    path = Gguf().write(tmp_path / "x.gguf")

    with refuses(UsageError):
        adapter_file.write(path, random_lora(model))
    adapter_file.write(path, random_lora(model), replace=True)
    assert adapter_file.load(path).alpha == 8.0


def test_dora_is_no_adapter(model, tmp_path):
    lora = random_lora(model, roles=("attn_v",))
    dora = Lora("llama", 8.0, lora.factors, lengths={"blk.0.attn_v.weight": np.ones(64, np.float32)})

    with refuses(UnsupportedArtifact):
        adapter_file.write(tmp_path / "x.gguf", dora)
