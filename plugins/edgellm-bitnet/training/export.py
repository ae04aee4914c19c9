"""Write a trained model as transformers' BitNetForCausalLM stores one."""

import json
from pathlib import Path

import torch
from model import BitNet, TernaryLinear, ternary
from safetensors.torch import save_file
from tokenizers import Tokenizer

CHAT_TEMPLATE = "{{ bos_token }}{% for message in messages %}{{ message['content'] }}{% endfor %}"


def write(out: Path, model: BitNet, tokenizer: Tokenizer, metrics: dict[str, object]) -> None:
    """Float32 masters, quantized by whoever loads them (`quantization_mode` online)."""
    _write_side_files(out, model, tokenizer, "online")
    _save(out, {name: p.detach().clone() for name, p in model.named_parameters()})
    _replace(out / "metrics.json", json.dumps(metrics, indent=2) + "\n")


def write_packed(out: Path, model: BitNet, tokenizer: Tokenizer) -> None:
    """As microsoft/bitnet-b1.58-2B-4T: four rows' 2-bit codes a byte, `weight_scale`, the rest bfloat16.

    Byte [r, c] holds the codes (w + 1) of rows r, R + r, 2R + r and 3R + r from the low bits up, R = rows / 4.
    """
    _write_side_files(out, model, tokenizer, "offline")
    modules = dict(model.named_modules())
    tensors = {}
    for name, parameter in model.named_parameters():
        owner, _, leaf = name.rpartition(".")
        if leaf == "weight" and isinstance(modules[owner], TernaryLinear):
            codes, scale = ternary(parameter.detach())
            quarters = (codes + 1).to(torch.uint8).chunk(4)
            tensors[name] = quarters[0] | quarters[1] << 2 | quarters[2] << 4 | quarters[3] << 6
            tensors[f"{owner}.weight_scale"] = scale.reshape(1).to(torch.bfloat16)
        else:
            tensors[name] = parameter.detach().to(torch.bfloat16)
    _save(out, tensors)


def _write_side_files(out: Path, model: BitNet, tokenizer: Tokenizer, mode: str) -> None:
    out.mkdir(parents=True, exist_ok=True)
    config = model.config.hugging_face()
    config["quantization_config"] = {
        "quant_method": "bitnet",
        "linear_class": "autobitlinear",
        "quantization_mode": mode,
    }
    if mode == "offline":
        config["dtype"] = "bfloat16"
    tokenizer_config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": "<|begin_of_text|>",
        "eos_token": "<|end_of_text|>",
        "add_bos_token": True,
        "clean_up_tokenization_spaces": False,
        "model_max_length": model.config.max_position_embeddings,
        "chat_template": CHAT_TEMPLATE,
    }
    _replace(out / "config.json", json.dumps(config, indent=2) + "\n")
    _replace(out / "tokenizer_config.json", json.dumps(tokenizer_config, indent=2) + "\n")
    _replace(out / "tokenizer.json", tokenizer.to_str(pretty=False))


def _save(out: Path, tensors: dict[str, torch.Tensor]) -> None:
    partial = out / "model.safetensors.partial"
    save_file({name: t.contiguous() for name, t in tensors.items()}, partial, metadata={"format": "pt"})
    partial.replace(out / "model.safetensors")


def _replace(path: Path, text: str) -> None:
    partial = path.with_name(path.name + ".partial")
    partial.write_text(text, encoding="utf-8")
    partial.replace(path)
