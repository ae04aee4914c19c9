"""Values of a model's keys on which native code would abort, or compute nonsense without a word: refused by name.

The header alone is needed; vocabulary.py reads the tokens. The bounds are those of llama.cpp b11434
(`llama_model_base::load_hparams`, ggml's `ops.cpp`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NoReturn

from edgellm.errors import BadArtifact
from edgellm.formats.gguf.cursor import LongArray, short
from edgellm.formats.gguf.header import GgufHeader, GgufTensor

MAX_BLOCKS = 512  # LLAMA_MAX_LAYERS
MAX_EXPERTS = 1024  # LLAMA_MAX_EXPERTS
MAX_BLOCK_TENSORS = 64  # without experts that are apart, which have 3 each; 40 are the most known
MAX_CONTEXT = 2**27  # the longest known is 10 million
MAX_ROPE_BASE = 1e15  # the largest known is 1e11
LEAST_ROPE_FACTOR = 0.01
_EPSILONS = ("attention.layer_norm_epsilon", "attention.layer_norm_rms_epsilon", "attention.group_norm_epsilon")
_ROPE_SCALINGS = ("none", "linear", "yarn", "longrope")
_NO_WEIGHTS = ("I8", "I16", "I32", "I64", "F64")
_WEIGHTS = (".weight", ".bias", ".ssm_a", ".ssm_d")
# Their layers attend linearly but for every n-th (`load_arch_tensors` of qwen35.cpp, qwen35moe.cpp and qwen3next.cpp).
_DELTA_NETS = ("qwen35", "qwen35moe", "qwen3next")
# Their heads are as wide together as the embedding: attn_q, or its part of attn_qkv, and attn_output are square there
# (`load_arch_tensors` of the file of each), and nothing but an assertion compares them with the keys.
_SQUARE_ATTENTION = frozenset((
    "arctic", "baichuan", "bert", "bitnet", "bloom", "chameleon", "codeshell", "cohere2", "command-r", "dbrx",
    "deepseek", "deepseek2-ocr", "dream", "eurobert", "falcon", "gpt2", "gptneox", "grok", "internlm2", "jais",
    "jamba", "jina-bert-v2", "jina-bert-v3", "lfm2", "lfm2moe", "llada-moe", "modern-bert", "mpt", "nemotron",
    "neo-bert", "nomic-bert", "nomic-bert-moe", "olmo", "olmo2", "olmoe", "orion", "phi2", "phi3", "phimoe", "plamo",
    "qwen", "qwen2", "qwen2moe", "qwen2vl", "stablelm", "starcoder", "starcoder2", "xverse",
))  # fmt: skip
_ROTATED_ATTENTION = ("bailingmoe", "gpt-oss")  # n_head * n_rot in bailingmoe.cpp, openai-moe.cpp
# Their heads turn by sections, always or where a file has some (`llama_model_rope_type`).
_SECTIONED = ("qwen2vl", "paddleocr", "qwen3vl", "qwen3vlmoe", "qwen35", "qwen35moe")
_PERHAPS_SECTIONED = ("glm4", "glm4moe", "hunyuan_vl", "bailingmoe3", "dflash")
_HINT = "the file is damaged or was made wrongly: fetch another one"


class _Fields:
    """The keys of the architecture, by their name without it."""

    def __init__(self, header: GgufHeader) -> None:
        self.header = header

    def integer(self, name: str, default: int = 0) -> int:
        """A scalar, or the largest of an array with one value for each layer. Other types are refused by `shape`."""
        value = self.header.of_architecture(name, default)
        values = value if isinstance(value, tuple) else (value,)
        return max((number for number in values if isinstance(number, int)), default=default)

    def least(self, name: str, default: int = 0) -> int:
        """As `integer`, the smallest."""
        value = self.header.of_architecture(name, default)
        values = value if isinstance(value, tuple) else (value,)
        return min((number for number in values if isinstance(number, int)), default=default)

    def require(self, holds: bool, name: str, why: str) -> None:
        if not holds:
            refuse(self.header, f"{self.header.architecture}.{name}", why)


def refuse(header: GgufHeader, key: str, why: str) -> NoReturn:
    value = header.metadata.get(key, "missing")
    shown = f"an array of {value.length}" if isinstance(value, LongArray) else short(value)
    raise BadArtifact(
        f"{header.where}: key {key} is {shown}; {why}",
        hint=_HINT,
    )


def check(parts: Sequence[GgufHeader]) -> None:
    """Of a language model in one file or more. A vocabulary, an adapter and a projector have other keys.

    Raises:
        BadArtifact: names the key, its value, and what is allowed.
    """
    header = parts[0]
    if header.metadata.get("general.type", "model") != "model" or not any(part.tensors for part in parts):
        return
    fields = _Fields(header)
    blocks = fields.integer("block_count", 1)
    fields.require(1 <= blocks <= MAX_BLOCKS, "block_count", f"1 to {MAX_BLOCKS} are allowed")
    experts = fields.integer("expert_count")
    allowed = MAX_BLOCK_TENSORS * (blocks + 8) + 3 * experts * blocks
    n_tensors = sum(len(part.tensors) for part in parts)
    fields.require(
        n_tensors <= allowed, "block_count", f"so many have at most {allowed} tensors, and {n_tensors} are there"
    )
    drafts = fields.integer("nextn_predict_layers")
    fields.require(drafts < blocks, "nextn_predict_layers", f"fewer than block_count ({blocks}) are allowed")
    context = fields.integer("context_length", 1)
    fields.require(1 <= context <= MAX_CONTEXT, "context_length", f"1 to {MAX_CONTEXT} are allowed")
    interval = fields.integer("full_attention_interval", 1)
    fields.require(interval >= 1, "full_attention_interval", "at least 1 is needed")
    _check_floats(header, fields)
    _check_experts(fields)
    _check_rope(header, fields)
    _check_latent_heads(header, fields)
    if header.architecture in _SQUARE_ATTENTION:
        _check_square_heads(fields)
    if header.architecture in _ROTATED_ATTENTION:
        _check_rotated_heads(fields)
    if header.architecture == "phi3":
        _check_phi3(parts, fields)
    if header.architecture in _DELTA_NETS:
        _check_delta_net(parts, fields)
    for part in parts:
        _check_tensors(part)


def _check_tensors(part: GgufHeader) -> None:
    """Weights of a type that nothing multiplies by. Tables of integers (`d2t`, `ffn_gate_tid2eid`) are no weights."""
    for tensor in part.tensors:
        if tensor.type.name in _NO_WEIGHTS and tensor.name.endswith(_WEIGHTS) and "tid2eid" not in tensor.name:
            _refuse_tensor(part, tensor, "weights are of no such type")
        if tensor.name.endswith("norm.weight") and tensor.type.name != "F32":
            _refuse_tensor(part, tensor, "norms are F32")


def _refuse_tensor(part: GgufHeader, tensor: GgufTensor, why: str) -> NoReturn:
    message = f"{part.where}: tensor {tensor.name} is of type {tensor.type.name}; {why}"
    raise BadArtifact(message, hint=_HINT)


def _check_floats(header: GgufHeader, fields: _Fields) -> None:
    for key, value in header.metadata.items():
        numbers = value if isinstance(value, tuple) else (value,)
        if not all(math.isfinite(number) for number in numbers if isinstance(number, float)):
            refuse(header, key, "a finite number is needed")
    for name in _EPSILONS:
        epsilon = header.of_architecture(name, 0.5)
        fields.require(isinstance(epsilon, float) and 0 < epsilon < 1, name, "a number between 0 and 1 is needed")


def _check_experts(fields: _Fields) -> None:
    count, used = fields.integer("expert_count"), fields.integer("expert_used_count")
    groups, groups_used = fields.integer("expert_group_count"), fields.integer("expert_group_used_count")
    fields.require(count <= MAX_EXPERTS, "expert_count", f"at most {MAX_EXPERTS} are allowed")
    bounds = f"1 to expert_count ({count}) are allowed" if count else "there is no expert_count"
    fields.require(min(1, count) <= used <= count, "expert_used_count", bounds)
    is_divided = groups == 0 or (groups < count and count % groups == 0)
    fields.require(is_divided, "expert_group_count", f"it must divide expert_count ({count})")
    if groups > 1:
        bounds = f"1 to {groups - 1} of {groups} groups are allowed"
        fields.require(1 <= groups_used < groups, "expert_group_used_count", bounds)


def _check_rope(header: GgufHeader, fields: _Fields) -> None:
    scaling = header.of_architecture("rope.scaling.type", "none")
    fields.require(scaling in _ROPE_SCALINGS, "rope.scaling.type", f"one of {', '.join(_ROPE_SCALINGS)} is needed")
    factor = header.of_architecture("rope.scaling.factor", 0)
    is_sound = isinstance(factor, int | float) and (factor == 0 or factor >= LEAST_ROPE_FACTOR)
    fields.require(is_sound, "rope.scaling.factor", f"0 (none), or at least {LEAST_ROPE_FACTOR} is needed")
    heads = fields.integer("attention.head_count")
    head_dim = fields.integer("attention.key_length", fields.integer("embedding_length") // heads if heads else 0)
    for suffix, size in (("", head_dim), ("_swa", fields.integer("attention.key_length_swa", head_dim))):
        rotated = fields.integer(f"rope.dimension_count{suffix}")
        bounds = f"an even number up to the size of a head ({size}) is needed"
        fields.require(
            not heads or (rotated % 2 == 0 and 0 <= rotated <= size), f"rope.dimension_count{suffix}", bounds
        )
        base = header.of_architecture(f"rope.freq_base{suffix}", 1.0)
        is_used = fields.integer(f"rope.dimension_count{suffix}", 1) > 0
        is_sound = isinstance(base, int | float) and 1 <= base <= MAX_ROPE_BASE
        bounds = f"a number from 1 to {MAX_ROPE_BASE:g} is needed"
        fields.require(is_sound or not is_used, f"rope.freq_base{suffix}", bounds)
    if heads and header.architecture in _SECTIONED + _PERHAPS_SECTIONED:
        _check_sections(header, fields, head_dim)


def _check_sections(header: GgufHeader, fields: _Fields, head_dim: int) -> None:
    """Of a head that turns by several positions (`ggml_mrope_cache_init`)."""
    name = "rope.dimension_sections"
    value = header.of_architecture(name, (0,))
    sizes = [size for size in (value if isinstance(value, tuple) else (value,) * 4) if isinstance(size, int)]
    is_sound = all(size >= 0 for size in sizes) and sum(sizes) <= head_dim
    fields.require(is_sound, name, f"sizes from 0 on are needed, together at most that of a head ({head_dim})")
    has_some = header.architecture not in _SECTIONED or any(sizes[:3])
    fields.require(has_some, name, "one of the first three has to be above 0")


def _check_latent_heads(header: GgufHeader, fields: _Fields) -> None:
    """Of multi-head latent attention: a part of each head is rotated, the rest is not (deepseek2.cpp)."""
    name = "attention.key_length_mla"
    if header.of_architecture(name) is not None:
        usual = fields.integer("attention.key_length") if header.architecture == "deepseek2" else 0
        rotated = fields.integer("rope.dimension_count", usual)
        bounds = f"more than rope.dimension_count ({rotated}) is needed"
        fields.require(fields.integer(name) > rotated, name, bounds)
        if header.architecture == "deepseek2":
            _check_latent_cache(fields, rotated)


def _check_latent_cache(fields: _Fields, rotated: int) -> None:
    """It holds one head: what the keys are compressed to, and the part that is rotated."""
    heads, latent = "attention.head_count_kv", fields.integer("attention.kv_lora_rank")
    is_one = fields.integer(heads, fields.integer("attention.head_count")) == fields.least(heads, 1) == 1
    fields.require(is_one, heads, "1 is needed")
    usual = fields.integer("embedding_length") // max(1, fields.integer("attention.head_count"))
    bounds = f"attention.kv_lora_rank ({latent}) + rope.dimension_count ({rotated}) is needed"
    fields.require(fields.integer("attention.key_length", usual) == latent + rotated, "attention.key_length", bounds)


def _check_square_heads(fields: _Fields) -> None:
    width, heads = fields.integer("embedding_length"), fields.integer("attention.head_count")
    is_whole = 0 < fields.least("attention.head_count") == heads and width % heads == 0
    fields.require(is_whole, "attention.head_count", f"one number that divides embedding_length ({width}) is needed")
    _check_lengths(fields, width // heads, f"embedding_length ({width}) / attention.head_count ({heads})")


def _check_rotated_heads(fields: _Fields) -> None:
    """Of those whose attn_q, attn_k and attn_v have as many rows to a head as are rotated."""
    usual = fields.integer("embedding_length") // max(1, fields.integer("attention.head_count"))
    rotated = fields.integer("rope.dimension_count", fields.integer("attention.key_length", usual))
    _check_lengths(fields, rotated, f"rope.dimension_count ({rotated})")


def _check_lengths(fields: _Fields, length: int, what: str) -> None:
    """That keys and values of a head have the one length, in layers with a window too."""
    usual = fields.integer("embedding_length") // max(1, fields.integer("attention.head_count"))
    for name in ("attention.key_length", "attention.value_length"):
        fields.require(fields.integer(name, usual) == length, name, f"{what} is needed")
        fields.require(fields.integer(f"{name}_swa", length) == length, f"{name}_swa", f"{what} is needed")


def _check_phi3(parts: Sequence[GgufHeader], fields: _Fields) -> None:
    """The one architecture in which neither the fused tensor nor its parts are asked for."""
    names = {tensor.name for part in parts for tensor in part.tensors}
    for layer in range(fields.integer("block_count")):
        fused, *apart = (f"blk.{layer}.attn_{role}.weight" for role in ("qkv", "q", "k", "v"))
        if fused not in names and not names.issuperset(apart):
            raise BadArtifact(f"{fields.header.where}: tensor {fused} is missing", hint=_HINT)


def _check_delta_net(parts: Sequence[GgufHeader], fields: _Fields) -> None:
    heads, state = fields.integer("ssm.time_step_rank"), fields.integer("ssm.state_size")
    bounds = f"ssm.time_step_rank ({heads}) x ssm.state_size ({state}) is needed"
    fields.require(fields.integer("ssm.inner_size") == heads * state > 0, "ssm.inner_size", bounds)
    names = {tensor.name for part in parts for tensor in part.tensors}
    layers = sorted(name.removesuffix("ssm_out.weight") for name in names if name.endswith(".ssm_out.weight"))
    for needed in (layer + role for layer in layers for role in ("attn_qkv.weight", "attn_gate.weight")):
        # qwen3next's older files have both in one.
        if needed not in names and needed.rpartition("attn_")[0] + "ssm_in.weight" not in names:
            raise BadArtifact(f"{fields.header.where}: tensor {needed} is missing", hint=_HINT)
