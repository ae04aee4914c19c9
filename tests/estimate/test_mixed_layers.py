"""Architectures whose layers differ, against published files: what llama.cpp printed of their headers, and sizes."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest

from edgellm.catalog.lookup import catalog
from edgellm.estimate import architecture, recipe
from edgellm.estimate.layer_bytes import layers_of
from edgellm.estimate.weights import stored_types, weights
from edgellm.types.model import Shape

# Tensors by type of files in Q4_K_M, from logs in public threads.
PRINTED = {
    "gemma-4-12b-it": {"F32": 338, "Q4_K": 284, "Q6_K": 45},  # ikawrakow/ik_llama.cpp PR 1921
    "gemma-4-26b-a4b-it": {"F32": 392, "Q5_0": 32, "Q8_0": 28, "Q4_K": 192, "Q6_K": 14},  # scrya-com/rotorquant 9
}
# All tensors, those in F32, and those that stay floats beside them.
COUNTED = {
    "gemma-3n-e4b-it": (847, 422, 108),  # mozilla-ai/llamafile issue 772
    "gemma-4-e2b-it": (601, 283, 1),  # animehacker/llama-turboquant issue 3
    "gemma-4-31b-it": (833, None, 0),  # ggml-org/llama.cpp PR 21760
}
# Billions of weights as stated, without layers that only draft.
STATED = {
    "gemma-3n-e2b-it": 4.46, "gemma-3n-e4b-it": 6.87, "gemma-4-e2b-it": 4.65, "gemma-4-e4b-it": 7.52,
    "gemma-4-12b-it": 11.91, "gemma-4-26b-a4b-it": 25.23, "gemma-4-31b-it": 30.70, "nemotron-3-nano-4b": 3.97,
}  # fmt: skip


def latent(n_layer: int, n_embd: int, n_ff: int, n_head: int, n_vocab: int, experts: tuple[int, int, int]) -> Shape:
    n_expert, used, width = experts
    return Shape(
        "deepseek2", n_layer, n_embd, n_ff, n_head, 1, 576, n_vocab, False, n_expert=n_expert, n_expert_used=used,
        n_ff_expert=width,
    )  # fmt: skip


def glm(arch: str, n_layer: int, n_embd: int, n_ff: int, n_head: int, n_head_kv: int, experts: int = 0) -> Shape:
    width = 1408 if n_embd == 4096 else 1536
    return Shape(
        arch, n_layer, n_embd, n_ff, n_head, n_head_kv, 128, 151552, False, n_expert=experts, n_expert_used=8,
        n_ff_expert=width if experts else 0,
    )  # fmt: skip


OTHERS = {
    "DeepSeek V2 Lite": (15.71, latent(27, 2048, 10944, 16, 102400, (64, 6, 1408))),
    "DeepSeek V2": (235.74, latent(60, 5120, 12288, 128, 102400, (160, 6, 1536))),
    "DeepSeek V3": (671.03, latent(61, 7168, 18432, 128, 129280, (256, 8, 2048))),
    "GLM 4.7 Flash": (29.94, latent(47, 2048, 10240, 20, 154880, (64, 4, 1536))),
    "GLM 4.5 Air": (106.85, glm("glm4moe", 46, 4096, 10944, 96, 8, 128)),
    "GLM 4.5": (352.80, glm("glm4moe", 92, 5120, 12288, 96, 8, 160)),
    "GLM 4 9B": (9.40, glm("glm4", 40, 4096, 13696, 32, 2)),
    "GLM 4 32B": (32.57, glm("glm4", 61, 6144, 23040, 48, 2)),
}


def shape_of(model: str) -> Shape:
    shape = catalog()[model].shape
    assert shape is not None
    return shape


def n_weights(shape: Shape) -> int:
    parts = architecture.tensors(shape)
    assert parts is not None
    return sum(part.elems * len(part.layers) for part in parts)


def types_of(shape: Shape, quant: str) -> Counter[str]:
    parts = architecture.tensors(shape)
    assert parts is not None
    kept = [(recipe.KEPT[part.role], len(part.layers)) for part in parts if part.role in recipe.KEPT]
    counts: Counter[str] = Counter()
    for kind, n in [*kept, *((kind, n) for _, kind, n in stored_types(shape, quant))]:
        counts[kind] += n
    return counts


@pytest.mark.parametrize("model", sorted(PRINTED))
def test_tensors_have_the_types_that_published_files_have(model: str) -> None:
    assert types_of(shape_of(model), "Q4_K_M") == PRINTED[model]


@pytest.mark.parametrize("model", sorted(COUNTED))
def test_there_are_as_many_tensors_as_in_published_files(model: str) -> None:
    types, (every, floats, halves) = types_of(shape_of(model), "Q4_K_M"), COUNTED[model]
    assert types.total() == every
    assert floats in (None, types["F32"])
    assert types["F16"] == halves


def test_the_size_is_that_of_a_published_file() -> None:
    """lmstudio-community's gemma-4-26B-A4B-it in Q4_K_M: llama.cpp says 15.63 GiB."""
    assert weights(shape_of("gemma-4-26b-a4b-it"), 0, 0, "Q4_K_M").total_bytes / 1024**3 == pytest.approx(
        15.63, abs=0.005
    )


@pytest.mark.parametrize("model", sorted(STATED))
def test_weights_add_up_to_what_is_stated(model: str) -> None:
    assert n_weights(shape_of(model)) / 1e9 == pytest.approx(STATED[model], abs=0.0051)


@pytest.mark.parametrize("model", sorted(OTHERS))
def test_models_outside_the_catalog_add_up_too(model: str) -> None:
    billions, shape = OTHERS[model]
    assert n_weights(shape) / 1e9 == pytest.approx(billions, rel=0.001)
    assert sum(layers_of(shape, 10**9, "Q4_K_M").experts) > 0 or not shape.n_expert


def test_another_size_of_an_architecture_that_is_known_by_model_is_estimated() -> None:
    _, shape = OTHERS["DeepSeek V2 Lite"]
    assert architecture.tensors(replace(shape, n_layer=28)) is None
    assert not weights(replace(shape, n_layer=28), 16 * 10**9, 3 * 10**9, "Q8_0").exact
