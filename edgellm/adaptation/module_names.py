"""Names of a model's matrices in Hugging Face's modules, and in its GGUF file.

Only architectures whose matrices llama.cpp's converter (b11434) takes over one by one, some with their rows reordered
(row_order.py): where it splits, joins or sorts them otherwise, an adapter does not go over.
"""

from __future__ import annotations

import re

_LLAMA = {
    "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output", "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}  # fmt: skip
_PHI3 = {
    "self_attn.qkv_proj": "attn_qkv", "self_attn.o_proj": "attn_output", "mlp.gate_up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}  # fmt: skip
_LFM2 = {
    "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v",
    "self_attn.out_proj": "attn_output", "conv.in_proj": "shortconv.in_proj", "conv.out_proj": "shortconv.out_proj",
    "feed_forward.w1": "ffn_gate", "feed_forward.w3": "ffn_up", "feed_forward.w2": "ffn_down",
}  # fmt: skip
_LIKE_LLAMA = (
    "llama", "granite", "mistral3", "smollm3", "qwen2", "qwen3", "gemma", "gemma2", "gemma3", "olmo2", "bitnet",
)  # fmt: skip
MODULES: dict[str, dict[str, str]] = {**dict.fromkeys(_LIKE_LLAMA, _LLAMA), "phi3": _PHI3, "lfm2": _LFM2}
_TABLES = {"embed_tokens": "token_embd.weight", "lm_head": "output.weight"}
# Models with pictures hold the language model in one of some places; their towers have layers and tables of their own.
_PLACE = r"(?:model\.|language_model\.|model\.language_model\.|language_model\.model\.)?"
_LAYER = re.compile(_PLACE + r"layers\.([0-9]{1,4})\.(.+)")
_TABLE = re.compile(_PLACE + "(embed_tokens|lm_head)")


def tensor_name(architecture: str, module: str) -> str | None:
    """The GGUF tensor of a module, as "model.layers.0.self_attn.q_proj"; None where it is not known."""
    if match := _LAYER.fullmatch(module):
        role = MODULES[architecture].get(match[2])
        return role and f"blk.{int(match[1])}.{role}.weight"
    table = _TABLE.fullmatch(module)
    return _TABLES[table[1]] if table else None


def module_name(architecture: str, tensor: str) -> str | None:
    """The other way."""
    for table, name in _TABLES.items():
        if name == tensor:
            return "model.embed_tokens" if table == "embed_tokens" else table
    layer, _, role = tensor.removeprefix("blk.").removesuffix(".weight").partition(".")
    modules = [module for module, other in MODULES[architecture].items() if other == role]
    return f"model.layers.{layer}.{modules[0]}" if modules and tensor.startswith("blk.") else None
