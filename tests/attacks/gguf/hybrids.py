"""Small models of architectures that attend in few of their layers and have experts. All their weights are zeros, which
take no room in a file that ends in a hole.
"""

from __future__ import annotations

from dataclasses import replace

from attacks.gguf.mutations import entry_of
from support.gguf_decoders import byte_level
from support.gguf_writer import FLOAT32, Gguf, Tensor
from support.tiny_models import MODELS, Tiny, tensor_of

N_TOKENS = 288
_QWEN = {"expert_shared_feed_forward_length": 32}
_LFM = {"attention__head_count_kv": [0, 0, 2, 0]}
_SMALL = {"n_layer": 4, "n_embd": 64, "n_expert": 4, "n_ff_expert": 32}


def hybrids() -> dict[str, Gguf]:
    """By architecture."""
    qwen, lfm = MODELS["qwen35moe"], MODELS["lfm2moe"]
    models = [
        replace(qwen, **_SMALL, keys=qwen.keys | _QWEN),
        replace(lfm, **_SMALL, n_ff=96, head_dim=16, keys=lfm.keys | _LFM),
    ]
    return {model.arch: _runnable(model) for model in models}


def size_of(model: Gguf) -> int:
    """Bytes of the whole file, or some more."""
    n_bytes: int = len(model.header()) + model.alignment
    return n_bytes + sum(tensor.n_bytes + model.alignment for tensor in model.tensors)


def _runnable(tiny: Tiny) -> Gguf:
    """With a vocabulary and what llama.cpp looks for when it loads a model."""
    made = tiny.gguf()
    keys = {key: entry for key, *entry in made.keys if not key.startswith("tokenizer.")}
    keys |= {key: list(entry_of(value)) for key, value in byte_level(N_TOKENS).items()}
    keys[f"{tiny.arch}.rope.freq_base"] = [FLOAT32, 10000.0]
    tensors = [_renamed(tiny, tensor) for tensor in made.tensors]
    return replace(made, keys=[(key, *entry) for key, entry in keys.items()], tensors=tensors)


def _renamed(tiny: Tiny, tensor: Tensor) -> Tensor:
    if tensor.name in ("token_embd.weight", "output.weight"):
        return tensor_of(tensor.name, (tensor.dims[0], N_TOKENS))
    if tensor.name == "output_norm.weight" and tiny.arch == "lfm2moe":
        return replace(tensor, name="token_embd_norm.weight")
    return tensor
