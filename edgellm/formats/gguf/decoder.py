"""A GGUF header's keys, checked, as one description of a decoder, for plugins that build its layers themselves.

Families and their defaults are llama.cpp's (`src/models/llama.cpp`, `qwen2.cpp`, `qwen3.cpp`, `gemma3.cpp`). What a key
asks for and this description has no word for is refused by the key's name.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NoReturn

from edgellm.errors import BadArtifact, UnsupportedArtifact
from edgellm.formats.gguf import reader
from edgellm.formats.gguf.reader import GgufHeader, GgufModel
from edgellm.formats.rope import RopeScaling, yarn_magnitude
from edgellm.types.model import Shape

FAMILIES = ("llama", "qwen2", "qwen3", "gemma3")
_MAX_CTX = 1 << 20  # rows of the rotation tables
# Not in this description, and not zero where a model has it.
_REFUSED = (
    "expert_count", "attn_logit_softcapping", "final_logit_softcapping", "attention.clamp_kqv", "attention.scale",
    "attention.max_alibi_bias", "logit_scale", "residual_scale", "embedding_scale", "nextn_predict_layers",
    "rope.scaling.yarn_log_multiplier", "attention.causal",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Decoder:
    """A stack of attention and feed-forward layers with norms before them."""

    arch: str
    n_layer: int
    hidden: int
    ffn: int
    heads: int
    kv_heads: int
    head_dim: int
    vocab: int
    ctx: int  # tokens it was trained for
    eps: float
    rope_base: float
    rope_scaling: RopeScaling
    local_base: float  # of the rotations of layers with a window, which are not stretched
    window: int  # tokens; 0 = none
    local: tuple[bool, ...]  # by layer: whether it has the window
    attention_scale: float
    embedding_scale: float  # 1.0 = none
    gelu: bool  # else SiLU
    qk_norm: bool  # norms of each head of q and k
    post_norms: bool  # norms after attention and feed-forward too
    tied: bool  # the head is the embedding table
    interleaved: bool  # rows of q and k are in the order of rotated neighbours


def read_decoder(model: GgufModel) -> Decoder:
    """
    Raises:
        UnsupportedArtifact: a family or a feature that this has no word for. BadArtifact: keys contradict.
    """
    header = model.header
    arch = header.architecture
    if arch not in FAMILIES:
        raise UnsupportedArtifact(
            f"{header.where}: layers of architecture {arch[:40]!r} are not known",
            hint=f"families: {', '.join(FAMILIES)}",
        )
    keys = _Keys(header)
    shape = reader.shape(header, model.tensors)
    _check(keys, shape)
    window, local = _windows(keys, shape) if arch == "gemma3" else (0, (False,) * shape.n_layer)
    base, local_base, scaling = _rotations(keys)
    per_head = shape.n_embd // shape.n_head if arch == "gemma3" and shape.n_layer == 62 else shape.head_dim
    return Decoder(
        arch=arch, n_layer=shape.n_layer, hidden=shape.n_embd, ffn=shape.n_ff, heads=shape.n_head,
        kv_heads=shape.n_head_kv, head_dim=shape.head_dim, vocab=shape.n_vocab, ctx=reader.context_length(header),
        eps=keys.number("attention.layer_norm_rms_epsilon"), rope_base=base, local_base=local_base,
        rope_scaling=scaling, window=window, local=local, attention_scale=1 / math.sqrt(per_head),
        embedding_scale=math.sqrt(shape.n_embd) if arch == "gemma3" else 1.0, gelu=arch == "gemma3",
        qk_norm=arch in ("qwen3", "gemma3"), post_norms=arch == "gemma3", tied=shape.tied_embeddings,
        interleaved=arch == "llama",
    )  # fmt: skip


class _Keys:
    """Numbers and texts of one architecture's keys."""

    def __init__(self, header: GgufHeader) -> None:
        self.header = header
        self.arch = header.architecture

    def number(self, name: str, default: float | None = None) -> float:
        value = self.header.of_architecture(name, default)
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            raise BadArtifact(
                f"{self.header.where}: key {self.arch}.{name} is {str(value)[:40]}, a number is needed",
                hint="the file is not a complete language model",
            )
        return float(value)

    def refuse(self, name: str, why: str) -> NoReturn:
        raise UnsupportedArtifact(
            f"{self.header.where}: key {self.arch}.{name} {why}", hint="run the GGUF file itself; edgellm-gguf opens it"
        )


def _check(keys: _Keys, shape: Shape) -> None:
    for name in _REFUSED:
        value = keys.header.of_architecture(name)
        if name == "attention.causal":
            value = value is False
        if value:
            keys.refuse(name, "asks for what only llama.cpp does")
    for name in ("attention.head_count", "attention.head_count_kv", "feed_forward_length"):
        value = keys.header.of_architecture(name)
        if isinstance(value, tuple) and len(set(value)) > 1:
            keys.refuse(name, "differs between layers, one value for all is needed")
    if keys.number("rope.dimension_count", shape.head_dim) != shape.head_dim:
        keys.refuse(
            "rope.dimension_count", f"is not the head's {shape.head_dim}: heads rotate whole or not at all here"
        )
    if keys.number("attention.value_length", shape.head_dim) != shape.head_dim:
        keys.refuse("attention.value_length", f"is not the key's {shape.head_dim}")
    if shape.head_dim % 2 or shape.n_head_kv == 0 or shape.n_head % shape.n_head_kv:
        raise BadArtifact.damaged(
            f"{keys.header.where}: {shape.n_head} heads of {shape.head_dim} with {shape.n_head_kv} of keys"
        )
    ctx = reader.context_length(keys.header)
    if not 0 < ctx <= _MAX_CTX:
        keys.refuse("context_length", f"is {ctx}, 1 to {_MAX_CTX} are known")


def _windows(keys: _Keys, shape: Shape) -> tuple[int, tuple[bool, ...]]:
    """(window, whether each layer has it). Gemma 3: all but every sixth, unless a key names the layers."""
    window = int(keys.number("attention.sliding_window", 0))
    pattern = keys.header.of_architecture("attention.sliding_window_pattern", 6)
    if window == 0:
        return 0, (False,) * shape.n_layer
    if isinstance(pattern, tuple):
        if len(pattern) < shape.n_layer:
            raise BadArtifact.damaged(
                f"{keys.header.where}: {keys.arch}.attention.sliding_window_pattern has {len(pattern)} values for "
                f"{shape.n_layer} layers"
            )
        return window, tuple(bool(flag) for flag in pattern[: shape.n_layer])
    period = int(keys.number("attention.sliding_window_pattern", 6))
    return window, tuple(period == 0 or layer % period != period - 1 for layer in range(shape.n_layer))


def _rotations(keys: _Keys) -> tuple[float, float, RopeScaling]:
    """Bases of layers that see everything and of those with a window, and how the former are stretched."""
    base, local_base = keys.number("rope.freq_base", 10_000.0), keys.number("rope.freq_base_swa", 10_000.0)
    kind = keys.header.of_architecture("rope.scaling.type", "")
    factor = keys.number("rope.scaling.factor", keys.number("rope.scale_linear", 1.0))
    if factor <= 0 or base <= 1 or local_base <= 1:
        raise BadArtifact(f"{keys.header.where}: rope base {base}, factor {factor}", hint="fetch the file again")
    if kind not in ("", "none", "linear", "yarn"):
        keys.refuse("rope.scaling.type", f"is {str(kind)[:40]!r}; none, linear and yarn are known")
    if kind == "none" or factor == 1.0:
        return base, local_base, RopeScaling()
    if kind != "yarn":
        return base, local_base, RopeScaling("linear", factor)
    return base, local_base, RopeScaling(
        "yarn", factor,
        original_ctx=int(keys.number("rope.scaling.original_context_length", reader.context_length(keys.header))),
        beta_fast=keys.number("rope.scaling.yarn_beta_fast", 32.0),
        beta_slow=keys.number("rope.scaling.yarn_beta_slow", 1.0),
        magnitude=keys.number("rope.scaling.attn_factor", 1.0) * yarn_magnitude(factor),
    )  # fmt: skip
