"""The recipe against the quantizer of the installed llama.cpp, which is asked what it would do with every tensor."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.memory_kinds import sparse
from support.quantizer_oracle import FTYPES, Quantizer
from support.tiny_models import MODELS

from edgellm.estimate import architecture, file_recipe, recipe
from edgellm.estimate.weights import weights
from edgellm.formats.gguf import reader

QUANTS = sorted(set(FTYPES) & set(recipe.BASE_TYPE))
# An importance matrix is a matter of the mix, not of the architecture.
WITH_IMATRIX = ("llama", "llama-8-experts", "llama-tied-short-rows")
# What has a rule of its own for deep models and experts; the rest is seen on the shallow ones.
DEEP = ("Q2_K", "Q3_K_S", "Q3_K_M", "Q4_K_S", "Q4_K_M", "IQ2_M", "IQ3_XS", "IQ4_XS", "MXFP4")


@pytest.fixture(scope="module")
def quantizer() -> Quantizer:
    return Quantizer()


def differences(
    quantizer: Quantizer, model: reader.GgufModel, quant: str, *, imatrix: bool = False
) -> dict[str, tuple[str, str]]:
    """Tensor -> (predicted, what the library would write), where the two are not the same."""
    path = Path(model.paths[0])
    planned = file_recipe.plan(model, quant, imatrix=imatrix)
    if planned.impossible:
        # The words of llama.cpp, over many files in one test.
        with pytest.raises(RuntimeError, match=f"{planned.impossible[0].tensor.name} .*not divisible"):
            quantizer.types(path, quant, imatrix=imatrix)
        return {}
    found = quantizer.types(path, quant, imatrix=imatrix)
    assert [p.tensor.name for p in planned.tensors] == list(found), "another order, or other tensors"
    return {p.tensor.name: (p.type, found[p.tensor.name]) for p in planned.tensors if p.type != found[p.tensor.name]}


def test_every_mix_that_the_library_makes_has_rules_but_one() -> None:
    # The quantizer has no rules for NVFP4 itself, and I2_S is another engine's.
    assert set(FTYPES) - set(recipe.BASE_TYPE) == {"NVFP4"}
    assert set(recipe.BASE_TYPE) - set(FTYPES) == {"I2_S"}


# Of other architectures, what the library made is on record in estimate/test_recipe.py.
@pytest.mark.parametrize(
    "name", [name if at % 4 == 0 else pytest.param(name, marks=pytest.mark.slow(8)) for at, name in enumerate(MODELS)]
)
def test_every_tensor_gets_the_type_that_the_library_gives_it(name: str, quantizer: Quantizer, tmp_path: Path) -> None:
    model = reader.read_model(MODELS[name].sparse(tmp_path))
    for quant in QUANTS if MODELS[name].n_layer < 40 else DEEP:
        for imatrix in (False, True)[: 1 + (name in WITH_IMATRIX)]:
            assert differences(quantizer, model, quant, imatrix=imatrix) == {}, (quant, imatrix)


@pytest.mark.parametrize("name", [name for name, tiny in MODELS.items() if tiny.arch in architecture.KNOWN])
def test_the_closed_form_knows_every_tensor_of_the_file(name: str, tmp_path: Path) -> None:
    model = reader.read_model(MODELS[name].sparse(tmp_path))
    shape = reader.shape(model.header)
    for quant in QUANTS if MODELS[name].n_layer < 40 else DEEP:
        for imatrix in (False, True)[: 1 + (name in WITH_IMATRIX)]:
            planned = file_recipe.plan(model, quant, imatrix=imatrix)

            assert weights(shape, 0, 0, quant, imatrix=imatrix).total_bytes == planned.tensor_bytes, (quant, imatrix)


@pytest.mark.model
@pytest.mark.parametrize("quant", ["Q4_K_M", "IQ3_XS"])
def test_real_models_get_the_types_that_the_library_gives_them(
    smollm2: str, gemma3: str, quant: str, quantizer: Quantizer
) -> None:
    """All types: `make bench-bytes`."""
    for path in (smollm2, gemma3):
        assert differences(quantizer, reader.read_model(path), quant) == {}, path


# Layers that differ, with rows that are long; some parts stay floats.
KINDS = ("gemma3n", "gemma4", "gemma4moe", "granitehybrid", "granitehybridmoe", "glm4")


@pytest.mark.parametrize(
    "kind", [pytest.param(kind, marks=pytest.mark.slow(5)) if kind != "gemma4moe" else kind for kind in KINDS]
)
def test_mixed_layers_get_the_types_that_the_library_gives_them(
    kind: str, quantizer: Quantizer, tmp_path: Path
) -> None:
    """And the list of their tensors, which knows a name only, has all of them."""
    model = reader.read_model(str(sparse(kind, tmp_path / f"{kind}.gguf")))
    shape = reader.shape(model.header, model.tensors)
    for quant in QUANTS:
        assert differences(quantizer, model, quant) == {}, quant
        planned = file_recipe.plan(model, quant)
        if not planned.impossible:
            assert weights(shape, 0, 0, quant).total_bytes == planned.tensor_bytes, quant
