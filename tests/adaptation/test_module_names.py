"""Names of modules against gguf-py's own map, which llama.cpp's converter goes by, and which rows it reorders."""

import gguf
import pytest

from edgellm.adaptation.module_names import MODULES, module_name, tensor_name
from edgellm.adaptation.row_order import PERMUTED

ARCHS = {name: arch for arch, name in gguf.MODEL_ARCH_NAMES.items()}


@pytest.mark.parametrize("architecture", MODULES)
def test_every_module_has_the_name_that_the_converter_gives_it(architecture):
    names = gguf.get_tensor_name_map(ARCHS[architecture], 12)

    for module, role in MODULES[architecture].items():
        path = f"model.layers.11.{module}"
        assert names.get_name(path) == f"blk.11.{role}"
        assert tensor_name(architecture, path) == f"blk.11.{role}.weight"
        assert module_name(architecture, f"blk.11.{role}.weight") == path
    assert tensor_name(architecture, "model.embed_tokens") == f"{names.get_name('model.embed_tokens')}.weight"
    assert tensor_name(architecture, "lm_head") == "output.weight"


@pytest.mark.parametrize("place", ["model.language_model.layers", "language_model.model.layers", "layers"])
def test_a_model_with_pictures_has_its_language_model_elsewhere(place):
    assert tensor_name("gemma3", f"{place}.3.mlp.up_proj") == "blk.3.ffn_up.weight"
    assert tensor_name("gemma3", f"{place.removesuffix('layers')}embed_tokens") == "token_embd.weight"


@pytest.mark.parametrize(
    "module",
    ["vision_tower.layers.3.mlp.up_proj", "model.layers.3.mlp.experts.0.up_proj", "model.layers.x.mlp.up_proj",
     "model.layers.3.mlp.up_proj.more", "model.norm", "", "model.layers.99999.mlp.up_proj",
     "vision_tower.embed_tokens", "model.layers.\u0660.mlp.up_proj", "a." * 480 + "lm_head"],
)  # fmt: skip
def test_other_modules_have_no_name(module):
    assert tensor_name("gemma3", module) is None


@pytest.mark.parametrize(
    "tensor", ["blk.0.attn_norm.weight", "rope_freqs.weight", "blk.0.attn_q.bias", "attn_q.weight"]
)
def test_other_tensors_have_no_module(tensor):
    assert module_name("gemma3", tensor) is None


def test_rows_are_reordered_in_architectures_whose_names_are_known():
    assert set(MODULES) >= PERMUTED
