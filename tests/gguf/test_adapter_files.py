"""Adapters that we write, in llama.cpp: logits change as those of the model do whose matrices have the sum in them."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from edgellm_gguf import library
from support.random_lora import added, random_lora
from support.refusals import refuses
from support.toy_llama import native_logits, toy_weights, write_toy

from edgellm.adaptation import adapter_file, folds, merge, peft_export, peft_folder
from edgellm.adaptation.lora import Lora
from edgellm.contract.quantizer import Quantization
from edgellm.errors import UnsupportedArtifact
from edgellm.formats.gguf import adapter as gguf_adapter
from edgellm.formats.gguf import reader
from edgellm.formats.gguf.reader import GgufModel
from edgellm.runtime import quantize_worker
from edgellm.types.model import Artifact

pytestmark = pytest.mark.skipif(bool(library.missing()), reason="model: llama-cpp-python is not installed")
RANKS = {"blk.0.attn_k.weight": 2, "blk.1.ffn_up.weight": 7}


def plain(model: GgufModel) -> Lora:
    return random_lora(model, size=0.2, alpha=16.0)


def ranks_of_their_own(model: GgufModel) -> Lora:
    return random_lora(model, size=0.2, alpha=16.0, ranks=RANKS)


def no_alpha(model: GgufModel) -> Lora:
    return dataclasses.replace(ranks_of_their_own(model), alpha=0.0)


def half(model: GgufModel) -> Lora:
    return random_lora(model, size=0.2, alpha=16.0, stored="F16")


def rslora(model: GgufModel) -> Lora:
    return dataclasses.replace(plain(model), alpha=folds.rslora_alpha(16.0, 4))


def delta(model: GgufModel) -> Lora:
    end, start = plain(model), random_lora(model, size=0.2, seed=1)
    factors = {name: folds.delta(pair, start.factors[name], 2.0) for name, pair in end.factors.items()}
    return dataclasses.replace(end, factors=factors, alpha=2 * end.alpha)


def scales_of_their_own(model: GgufModel) -> Lora:
    lora = plain(model)
    scales = {name: 1.0 + i % 3 for i, name in enumerate(lora.factors)}
    alpha, factors, _ = folds.one_alpha(lora.factors, scales)
    return dataclasses.replace(lora, alpha=alpha, factors=factors)


def tables(model: GgufModel) -> Lora:
    return random_lora(model, size=0.2, roles=("token_embd", "output"))


CASES = [plain, ranks_of_their_own, no_alpha, half, rslora, delta, scales_of_their_own, tables]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("adapters")


@pytest.fixture(scope="module")
def answers(folder: Path) -> dict[str, tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Of each case: logits of the base, with the adapter at scale 0.5, and of the dense model."""
    weights = toy_weights()
    base = write_toy(folder / "base.gguf", weights)
    model = reader.read_model(base)
    jobs: list[tuple[Path, list[tuple[Path, float]]]] = [(base, [])]
    for case in CASES:
        lora = case(model)
        adapter_file.write(folder / f"{case.__name__}.gguf", lora)
        dense = {
            name: (values + 0.5 * added(lora, name)).astype(np.float32) if name in lora.factors else values
            for name, values in weights.items()
        }
        jobs += [(base, [(folder / f"{case.__name__}.gguf", 0.5)])]
        jobs += [(write_toy(folder / f"{case.__name__}-dense.gguf", dense), [])]
    untouched, *rows = native_logits(jobs)
    return {case.__name__: (untouched, rows[2 * i], rows[2 * i + 1]) for i, case in enumerate(CASES)}


@pytest.mark.parametrize("name", [case.__name__ for case in CASES])
def test_logits_change_as_those_of_the_dense_model(
    name: str, answers: dict[str, tuple[np.ndarray, np.ndarray, np.ndarray]], folder: Path
) -> None:
    untouched, adapted, dense = answers[name]

    gguf_adapter.check(gguf_adapter.read(folder / f"{name}.gguf"), reader.read_model(folder / "base.gguf"))
    assert np.abs(adapted - untouched).max() > 0.1
    # A product with factors in F16 rounds what it is multiplied by to F16, too.
    assert np.abs(adapted - dense).max() < (1e-2 if name == "half" else 2e-5)


def test_an_adapter_that_went_through_peft_is_the_same_file(
    answers: dict[str, tuple[np.ndarray, np.ndarray, np.ndarray]], folder: Path, tmp_path: Path
) -> None:
    model = reader.read_model(folder / "base.gguf")
    for case in CASES:
        path = folder / f"{case.__name__}.gguf"
        peft_export.write(tmp_path / case.__name__, adapter_file.load(path), model)
        adapter_file.write(tmp_path / path.name, peft_folder.load(tmp_path / case.__name__, model))

        assert path.read_bytes() == (tmp_path / path.name).read_bytes(), case.__name__


def test_an_embedding_that_is_the_output_too_is_refused_as_native_code_ends_there(folder: Path, tmp_path: Path) -> None:
    tied = write_toy(tmp_path / "tied.gguf", toy_weights(tied=True))
    model = reader.read_model(tied)
    adapter_file.write(tmp_path / "x.gguf", random_lora(model, roles=("token_embd",)))

    with refuses(UnsupportedArtifact):
        gguf_adapter.check(gguf_adapter.read(tmp_path / "x.gguf"), model)
    with pytest.raises(AssertionError):
        native_logits([(tied, [(tmp_path / "x.gguf", 1.0)])])


@pytest.mark.slow(30)
def test_a_real_model_that_is_merged_computes_as_with_the_adapter_beside_it(smollm2: str, tmp_path: Path) -> None:
    """SmolLM2-135M of Q4_1, in F32: its own rounding of activations is no part of what is compared."""
    lora = random_lora(reader.read_model(smollm2), rank=16, alpha=32.0, size=0.02)
    adapter_file.write(tmp_path / "x.gguf", lora)
    job = Quantization(Artifact("gguf", (smollm2,), "m"), str(tmp_path / "full.gguf"), "F32", 2, allow_requantize=True)
    quantize_worker.quantize("gguf", job, lambda *_: None)
    (tmp_path / "merged.gguf").write_bytes((tmp_path / "full.gguf").read_bytes())

    merge.add(tmp_path / "merged.gguf", lora)

    jobs = [(tmp_path / "full.gguf", []), (tmp_path / "full.gguf", [(tmp_path / "x.gguf", 1.0)])]
    untouched, beside, merged = native_logits([*jobs, (tmp_path / "merged.gguf", [])])
    assert divergence(beside, merged) < 1e-8 < 1e-2 < divergence(beside, untouched)
    assert np.array_equal(beside.argmax(-1), merged.argmax(-1))


def divergence(one: np.ndarray, other: np.ndarray) -> float:
    """Mean KL of the tokens, in nats."""
    first, second = (rows - rows.max(-1, keepdims=True) for rows in (one, other))
    first, second = (rows - np.log(np.exp(rows).sum(-1, keepdims=True)) for rows in (first, second))
    return float((np.exp(first) * (first - second)).sum(-1).mean())
