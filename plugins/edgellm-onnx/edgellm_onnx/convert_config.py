"""The JSON files of a model folder: what transformers and onnxruntime-genai read beside the graph."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from edgellm.formats.gguf.decoder import Decoder
from edgellm.formats.tokenizer.tokenizer import FileTokenizer

MODEL = "model.onnx"
_CLASSES = {
    "llama": ("LlamaForCausalLM", "llama"), "qwen2": ("Qwen2ForCausalLM", "qwen2"),
    "qwen3": ("Qwen3ForCausalLM", "qwen3"), "gemma3": ("Gemma3ForCausalLM", "gemma3_text"),
}  # fmt: skip


def write_configs(folder: Path, decoder: Decoder, tokenizer: FileTokenizer, pad_id: int | None) -> None:
    """genai_config.json and config.json."""
    _write(folder / "genai_config.json", _genai(decoder, tokenizer, pad_id))
    _write(folder / "config.json", _transformers(decoder, tokenizer))


def _genai(decoder: Decoder, tokenizer: FileTokenizer, pad_id: int | None) -> dict[str, Any]:
    ends = sorted(tokenizer.eos_ids)
    first_end = tokenizer.eos_id if tokenizer.eos_id is not None else next(iter(ends), 0)
    inputs = {
        "input_ids": "input_ids", "attention_mask": "attention_mask",
        "past_key_names": "past_key_values.%d.key", "past_value_names": "past_key_values.%d.value",
    }  # fmt: skip
    outputs = {"logits": "logits", "present_key_names": "present.%d.key", "present_value_names": "present.%d.value"}
    return {
        "model": {
            "bos_token_id": tokenizer.bos_id if tokenizer.bos_id is not None else first_end,
            "context_length": decoder.ctx,
            "decoder": {
                "session_options": {"log_id": "onnxruntime-genai", "provider_options": []}, "filename": MODEL,
                "head_size": decoder.head_dim, "hidden_size": decoder.hidden, "inputs": inputs, "outputs": outputs,
                "num_attention_heads": decoder.heads, "num_hidden_layers": decoder.n_layer,
                "num_key_value_heads": decoder.kv_heads,
            },
            "eos_token_id": ends or [first_end],
            "pad_token_id": first_end if pad_id is None else pad_id,
            "type": _CLASSES[decoder.arch][1],
            "vocab_size": decoder.vocab,
        },
        "search": {"do_sample": False, "max_length": decoder.ctx, "past_present_share_buffer": True},
    }  # fmt: skip


def _transformers(decoder: Decoder, tokenizer: FileTokenizer) -> dict[str, Any]:
    scaling = decoder.rope_scaling
    config: dict[str, Any] = {
        "architectures": [_CLASSES[decoder.arch][0]], "model_type": _CLASSES[decoder.arch][1],
        "hidden_size": decoder.hidden, "intermediate_size": decoder.ffn, "num_hidden_layers": decoder.n_layer,
        "num_attention_heads": decoder.heads, "num_key_value_heads": decoder.kv_heads, "head_dim": decoder.head_dim,
        "vocab_size": decoder.vocab, "max_position_embeddings": decoder.ctx, "rms_norm_eps": decoder.eps,
        "rope_theta": decoder.rope_base, "tie_word_embeddings": decoder.tied,
        "hidden_act": "gelu_pytorch_tanh" if decoder.gelu else "silu", "bos_token_id": tokenizer.bos_id,
        "eos_token_id": sorted(tokenizer.eos_ids),
    }  # fmt: skip
    if scaling.kind != "none":
        config["rope_scaling"] = {"rope_type": scaling.kind, "factor": scaling.factor}
    if scaling.kind == "yarn":
        config["rope_scaling"] |= {
            "original_max_position_embeddings": scaling.original_ctx, "beta_fast": scaling.beta_fast,
            "beta_slow": scaling.beta_slow,
        }  # fmt: skip
    if decoder.window:
        config |= {"sliding_window": decoder.window, "rope_local_base_freq": decoder.local_base}
        config["layer_types"] = ["sliding_attention" if local else "full_attention" for local in decoder.local]
    return config


def _write(path: Path, value: dict[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=2), "utf-8")
