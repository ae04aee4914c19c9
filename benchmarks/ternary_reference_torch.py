"""The torch side of ternary_reference.py, run by a Python that has torch and transformers.

make FOLDER VOCAB LAYERS KIND     a random model, packed as microsoft/bitnet-b1.58-2B-4T
run FOLDER OUT.npz STEPS          greedy tokens and all logits in float32, with a cache and without
dense WEIGHTS.npz OUT.npz STEPS   the same of weights that are no folder
"""

import json
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from transformers import BitNetConfig, BitNetForCausalLM
from transformers.integrations.bitnet import pack_weights, replace_with_bitnet_linear
from transformers.utils.quantization_config import BitNetQuantConfig

SHAPE = {
    "hidden_size": 2560, "intermediate_size": 6912, "num_attention_heads": 20, "num_key_value_heads": 5,
    "max_position_embeddings": 4096, "rms_norm_eps": 1e-5, "hidden_act": "relu2", "tie_word_embeddings": True,
    "rope_parameters": {"rope_type": "default", "rope_theta": 500000.0},
}  # fmt: skip
QUANTIZATION = {"quant_method": "bitnet", "linear_class": "autobitlinear", "quantization_mode": "offline"}
PROMPT_TOKENS = 16
PRODUCTS = {
    "self_attn.q_proj": "attn_q", "self_attn.o_proj": "attn_output", "mlp.gate_proj": "ffn_gate",
    "mlp.down_proj": "ffn_down",
}  # fmt: skip


def make(folder: Path, vocab: int, layers: int, kind: str) -> None:
    """As many -1, 0 and 1, norms around 1, products whose outputs are as large as their inputs.

    "residual": what a layer adds is scaled by 1 / sqrt(2 * 30), as GPT-2 starts a model of 30 layers, to an embedding
    of deviation 1. "unit": nothing is scaled down, and the embedding has a deviation of 0.02.
    """
    torch.manual_seed(1)
    damping, deviation = (60**-0.5, 1.0) if kind == "residual" else (1.0, 0.02)
    config = BitNetConfig(**SHAPE, vocab_size=vocab, num_hidden_layers=layers, bos_token_id=0, eos_token_id=1)
    with torch.device("meta"):
        shapes = {name: tuple(p.shape) for name, p in BitNetForCausalLM(config).named_parameters()}
    tensors = {}
    for name, size in shapes.items():
        if name.endswith("proj.weight"):
            tensors[name] = pack_weights(torch.randint(-1, 2, size).float())
            adds = name.endswith(("o_proj.weight", "down_proj.weight"))
            gain = (0.8 + 0.4 * torch.rand(()).item()) * (damping if adds else 1)
            scale = torch.tensor([(size[1] * 2 / 3) ** -0.5 * gain])
            tensors[name.removesuffix("weight") + "weight_scale"] = scale.bfloat16()
        elif len(size) == 1:
            tensors[name] = (1 + 0.1 * torch.randn(size)).bfloat16()
        else:
            tensors[name] = (deviation * torch.randn(size)).bfloat16()
    folder.mkdir(parents=True)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    said = {**config.to_dict(), "architectures": ["BitNetForCausalLM"], "quantization_config": QUANTIZATION}
    (folder / "config.json").write_text(json.dumps(said))


def from_folder(folder: Path) -> BitNetForCausalLM:
    model = BitNetForCausalLM.from_pretrained(folder, dtype=torch.float32)
    return torch.nn.Module.float(model)  # what a packed checkpoint stores in bfloat16 comes as that


def from_weights(weights: dict[str, np.ndarray]) -> BitNetForCausalLM:
    """`config` is JSON; products are -1, 0 and 1 as float32, with a `weight_scale`."""
    model = BitNetForCausalLM(BitNetConfig(**json.loads(str(weights.pop("config")))))
    replace_with_bitnet_linear(
        model, ["lm_head"], BitNetQuantConfig(**{k: QUANTIZATION[k] for k in list(QUANTIZATION)[1:]})
    )
    state = {name: torch.from_numpy(values) for name, values in weights.items()}
    state["lm_head.weight"] = state["model.embed_tokens.weight"]
    model.load_state_dict(state, strict=True, assign=True)
    return model


@torch.no_grad()
def run(model: BitNetForCausalLM, out: Path, steps: int) -> None:
    vocab = model.config.vocab_size
    tokens = torch.randint(2, vocab, (1, PROMPT_TOKENS), generator=torch.Generator().manual_seed(2))
    rows, cache, step = [], None, tokens
    for _ in range(steps):
        answer = model.eval()(step, past_key_values=cache, use_cache=True)
        rows.append(answer.logits[0].float())
        cache, step = answer.past_key_values, answer.logits[:, -1:].argmax(dim=-1)
        tokens = torch.cat([tokens, step], dim=1)
    again, traced = trace(model, tokens[:, :-1])
    np.savez(out, tokens=tokens[0].numpy(), logits=torch.cat(rows).numpy(), again=again.numpy(), **traced)


@torch.no_grad()
def trace(model: BitNetForCausalLM, tokens: torch.Tensor) -> tuple[torch.Tensor, dict[str, np.ndarray]]:
    """Logits without a cache; `state.N`, what layer N takes, and `q.N.NAME`, the integers its products take."""
    traced: dict[str, np.ndarray] = {}

    def integers(key: str) -> Callable[..., None]:
        def keep(_: torch.nn.Module, inputs: tuple[torch.Tensor]) -> None:
            x = inputs[0][0]
            scale = 127 / x.abs().max(dim=-1, keepdim=True).values.clamp(min=1e-5)  # as transformers' ActQuant
            traced[key] = (x * scale).round().clamp(-128, 127).to(torch.int8).numpy()

        return keep

    def state(key: str) -> Callable[..., None]:
        def keep(_: torch.nn.Module, inputs: tuple[torch.Tensor]) -> None:
            traced[key] = inputs[0][0].numpy()

        return keep

    for number, layer in enumerate(model.model.layers):
        layer.register_forward_pre_hook(state(f"state.{number}"))
        for module, name in PRODUCTS.items():
            layer.get_submodule(module).register_forward_pre_hook(integers(f"q.{number}.{name}"))
    model.model.norm.register_forward_pre_hook(state(f"state.{len(model.model.layers)}"))
    return model(tokens, use_cache=False).logits[0].float(), traced


def main() -> None:
    torch._dynamo.config.disable = True  # transformers compiles its rounding; eager gives the same numbers
    what, source, *rest = sys.argv[1:]
    if what == "make":
        make(Path(source), int(rest[0]), int(rest[1]), rest[2])
    elif what == "run":
        run(from_folder(Path(source)), Path(rest[0]), int(rest[1]))
    else:
        run(from_weights(dict(np.load(source))), Path(rest[0]), int(rest[1]))


if __name__ == "__main__":
    main()
