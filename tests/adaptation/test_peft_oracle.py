"""peft itself as the oracle: folders that it writes say to us what it computes, and it computes what ours say.

The base is a toy of transformers, whose weights are written as llama.cpp's converter would: rows of q and k reordered.
"""

from __future__ import annotations

import contextlib
import warnings
from pathlib import Path

import numpy as np
import pytest
from support.random_lora import added, random_lora
from support.toy_llama import FFN, HEADS, KV_HEADS, LAYERS, TOKENS, VOCAB, WIDTH, write_toy

from edgellm.adaptation import adapter_file, merge, peft_export, peft_folder
from edgellm.adaptation.lora import Lora
from edgellm.adaptation.module_names import module_name
from edgellm.formats.gguf import reader
from edgellm.formats.gguf.reader import GgufModel

with warnings.catch_warnings(), contextlib.suppress(ImportError):
    warnings.simplefilter("ignore")  # of other people's imports
    import peft
    import torch
    import transformers

pytestmark = [pytest.mark.slow(30), pytest.mark.filterwarnings("ignore")]
LINEAR = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


@pytest.fixture(autouse=True, scope="module")
def oracles_are_there() -> None:
    """Not asked at the head of the file, which is read, too, where its tests are left out."""
    for name in ("torch", "transformers", "peft"):
        pytest.importorskip(name, reason=f"torch: {name} is not installed")


def base() -> torch.nn.Module:
    config = transformers.LlamaConfig(
        vocab_size=VOCAB, hidden_size=WIDTH, intermediate_size=FFN, num_hidden_layers=LAYERS,
        num_attention_heads=HEADS, num_key_value_heads=KV_HEADS, tie_word_embeddings=False,
    )  # fmt: skip
    torch.manual_seed(0)
    return transformers.LlamaForCausalLM(config).eval()


def in_file_order(name: str, values: np.ndarray) -> np.ndarray:
    """As `LlamaModel.permute` of the converter does."""
    heads = {"attn_q": HEADS, "attn_k": KV_HEADS}.get(name.split(".")[-2])
    if heads is None:
        return values
    halves = values.reshape(heads, 2, len(values) // heads // 2, *values.shape[1:])
    return halves.swapaxes(1, 2).reshape(values.shape)


def weights_of(model: torch.nn.Module, names: list[str]) -> dict[str, np.ndarray]:
    """By the names and in the order of the file."""
    state = {name: values.detach().numpy() for name, values in model.state_dict().items()}
    return {name: in_file_order(name, state[f"{module_name('llama', name)}.weight"]) for name in names}


@pytest.fixture(scope="module")
def gguf(tmp_path_factory: pytest.TempPathFactory) -> GgufModel:
    roles = ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down")
    names = [f"blk.{layer}.{role}.weight" for layer in range(LAYERS) for role in roles]
    weights = weights_of(base(), ["token_embd.weight", "output.weight", *names])
    norms = ["output_norm", *(f"blk.{i}.{kind}_norm" for i in range(LAYERS) for kind in ("attn", "ffn"))]
    weights |= {f"{name}.weight": np.ones(WIDTH, np.float32) for name in norms}
    return reader.read_model(write_toy(tmp_path_factory.mktemp("base") / "m.gguf", weights))


def trained(config: peft.PeftConfig, folder: Path) -> torch.nn.Module:
    """A peft model whose every parameter is random, saved in `folder`."""
    model = peft.get_peft_model(base(), config)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, values in model.named_parameters():
            if values.requires_grad and "magnitude" in name:
                values.mul_(torch.rand(values.shape, generator=generator) + 0.5)
            elif values.requires_grad:
                values.copy_(torch.randn(values.shape, generator=generator) * 0.2)
    model.save_pretrained(str(folder), safe_serialization=True)
    return model


def lora_config(**options: object) -> peft.LoraConfig:
    return peft.LoraConfig(**{"r": 4, "lora_alpha": 16, "target_modules": LINEAR, **options})


FACTORS: dict[str, dict[str, object]] = {
    "lora": {},
    "rslora": {"use_rslora": True},
    "ranks": {"rank_pattern": {"q_proj": 8, "model.layers.1.mlp.up_proj": 3}},
    "alphas": {"alpha_pattern": {"k_proj": 3, r"layers\.0\.self_attn\.v_proj": 5}},
    "both": {"rank_pattern": {"down_proj": 2, "q_proj": 6}, "alpha_pattern": {"q_proj": 5}, "use_rslora": True},
    "tables": {"target_modules": ["embed_tokens", "lm_head"]},
    "vera": {"r": 6, "target_modules": ["q_proj", "k_proj", "v_proj", "down_proj", "up_proj"]},
    "some-layers": {"target_modules": ["q_proj"], "layers_to_transform": [1]},
}


@pytest.mark.parametrize("name", FACTORS)
def test_what_peft_saved_adds_what_peft_merges(name: str, gguf: GgufModel, tmp_path: Path) -> None:
    config = peft.VeraConfig(**FACTORS[name]) if name == "vera" else lora_config(**FACTORS[name])
    model = trained(config, tmp_path / "peft")
    adapter_file.write(tmp_path / "x.gguf", peft_folder.load(tmp_path / "peft", gguf))
    lora = adapter_file.load(tmp_path / "x.gguf")

    before, after = weights_of(base(), list(lora.factors)), weights_of(model.merge_and_unload(), list(lora.factors))

    assert lora.factors
    for tensor, values in after.items():
        change = values.astype(np.float64) - before[tensor]
        assert np.abs(change).max() > 1e-3
        assert np.abs(added(lora, tensor) - change).max() <= 1e-6 * max(1.0, np.abs(values).max()), tensor


@pytest.mark.parametrize("name", ["dora", "dora-rslora", "whole"])
def test_what_no_adapter_can_say_is_merged_as_peft_merges_it(name: str, gguf: GgufModel, tmp_path: Path) -> None:
    options: dict[str, object] = {"use_dora": True, "use_rslora": name == "dora-rslora"}
    config = lora_config(**({"modules_to_save": ["lm_head"]} if name == "whole" else options))
    merged = trained(config, tmp_path / "peft").merge_and_unload()
    lora = peft_folder.load(tmp_path / "peft", gguf)
    path = tmp_path / "m.gguf"
    path.write_bytes(Path(gguf.paths[0]).read_bytes())

    merge.add(path, lora)

    file = np.memmap(path, np.float32, "r")
    for tensor in reader.read_model(path).tensors:
        if module_name("llama", tensor.name) is None:
            continue
        begin = tensor.offset // 4
        ours = file[begin : begin + tensor.n_bytes // 4].reshape(tensor.dims[::-1])
        wanted = weights_of(merged, [tensor.name])[tensor.name]
        assert np.abs(ours - wanted).max() <= 1e-6 * max(1.0, np.abs(wanted).max()), tensor.name


@pytest.mark.parametrize("name", ["plain", "ranks", "no-alpha", "some", "tables", "half"])
def test_peft_computes_what_our_folders_say(name: str, gguf: GgufModel, tmp_path: Path) -> None:
    ranks = {"blk.0.attn_k.weight": 2, "blk.1.ffn_up.weight": 7} if name in ("ranks", "no-alpha") else {}
    roles = ("token_embd", "output") if name == "tables" else None
    made = random_lora(gguf, size=0.2, ranks=ranks, alpha=6.5, stored="F16" if name == "half" else "F32",
                       **({"roles": roles} if roles else {}))  # fmt: skip
    factors = {k: v for k, v in made.factors.items() if name != "some" or not k.startswith("blk.0.attn_v")}
    lora = Lora("llama", 0.0 if name == "no-alpha" else made.alpha, factors, made.stored)
    peft_export.write(tmp_path / "peft", lora, gguf)

    adapted = peft.PeftModel.from_pretrained(base(), str(tmp_path / "peft"))
    tokens = torch.tensor([TOKENS])
    with torch.no_grad():
        logits = adapted(tokens).logits
        merged = adapted.merge_and_unload()

    before, after = weights_of(base(), list(factors)), weights_of(merged, list(factors))
    for tensor, values in after.items():
        wanted = before[tensor] + added(lora, tensor)
        assert np.abs(values - wanted).max() <= 1e-6 * max(1.0, np.abs(wanted).max()), tensor
    with torch.no_grad():
        assert float((merged(tokens).logits - logits).abs().max()) < 1e-4
        assert float((base()(tokens).logits - logits).abs().max()) > 1e-2
