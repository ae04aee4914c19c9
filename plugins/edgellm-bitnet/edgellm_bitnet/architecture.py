"""What a ternary model is: its dimensions and the few points in which the supported families differ.

Read from a GGUF header (keys as llama.cpp and bitnet.cpp write them) or from a Hugging Face `config.json`.
"""

from __future__ import annotations

import math
import reprlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from edgellm.errors import BadArtifact, UnsupportedArtifact
from edgellm.formats.gguf.fields import MAX_BLOCKS
from edgellm.formats.gguf.reader import GgufHeader, context_length, shape, vocab_size
from edgellm.formats.hf_config import count_of, object_of, worded
from edgellm.formats.rope import RopeScaling, yarn_magnitude


@dataclass(frozen=True, slots=True)
class Family:
    """Fixed by the architecture's name."""

    gate: str  # "relu2", "silu" or "gelu"
    rope_neox: bool  # pairs (i, i + half); else (2i, 2i + 1)
    sub_norms: bool = False  # norms before the output and down products
    head_norms: bool = False  # norms of each query and key head
    post_norms: bool = False  # norms after attention and after the feed-forward part
    scaled_embedding: bool = False  # by sqrt(hidden)


# Sources: llama.cpp b11434 (src/models), microsoft/BitNet's converter and model cards. `bitnet`: 1bitLLM's 0.7B and 3B.
FAMILIES = {
    "bitnet-b1.58": Family("relu2", rope_neox=True, sub_norms=True),
    "bitnet-25": Family("relu2", rope_neox=True, sub_norms=True),
    "bitnet": Family("silu", rope_neox=True, sub_norms=True),
    "llama": Family("silu", rope_neox=False),
    "qwen3": Family("silu", rope_neox=True, head_norms=True),
    "gemma3": Family("gelu", rope_neox=True, head_norms=True, post_norms=True, scaled_embedding=True),
}
# Sums of 8-bit codes stay in 32 bits up to here: 255 * 127 * 65,536 < 2**31. Products of sizes stay far from overflow.
MAX_COLUMNS, MAX_VOCAB = 65_536, 4_000_000
GEMMA_LOCAL_THETA = 10000.0  # gemma3: of its sliding-window layers (llama.cpp, gemma3.cpp)
GEMMA_PERIOD = 6  # every sixth layer sees everything


@dataclass(frozen=True, slots=True)
class Architecture:
    """Dimensions of one model. Sizes count elements."""

    name: str
    family: Family
    layers: int
    hidden: int
    ffn: int
    heads: int
    kv_heads: int
    head_dim: int
    vocab: int
    ctx_train: int
    eps: float
    rope_dim: int
    rope_theta: float
    rope_scaling: RopeScaling = field(default_factory=RopeScaling)
    window: int = 0  # tokens seen by sliding-window layers
    pooling: str = ""  # "last", "mean", "cls": an embedding model

    @property
    def q_cols(self) -> int:
        return self.heads * self.head_dim

    @property
    def kv_cols(self) -> int:
        return self.kv_heads * self.head_dim

    @property
    def query_scale(self) -> float:
        return 1.0 / math.sqrt(self.head_dim)

    @property
    def embed_scale(self) -> float:
        return math.sqrt(self.hidden) if self.family.scaled_embedding else 1.0

    def is_local(self, layer: int) -> bool:
        """Whether the layer sees a sliding window only (gemma3: five of six)."""
        return self.window > 0 and layer % GEMMA_PERIOD < GEMMA_PERIOD - 1

    def problems(self) -> list[str]:
        """What the engine cannot compute with."""
        reasons = []
        if not all((self.hidden, self.ffn, self.heads, self.kv_heads, self.head_dim, self.vocab)):
            sizes = f"{self.hidden}, {self.ffn}, {self.heads}, {self.kv_heads}, {self.head_dim} and {self.vocab}"
            return [
                f"hidden size, feed-forward size, heads, KV heads, head size and vocabulary are {sizes}: none may be 0"
            ]
        if not 0 < self.layers <= MAX_BLOCKS:
            return [f"{self.layers} layers: 1 to {MAX_BLOCKS} are supported"]
        if self.heads % self.kv_heads:
            reasons.append(f"{self.heads} heads are not a multiple of {self.kv_heads} KV heads")
        if self.hidden % 32 or self.ffn % 32 or self.q_cols % 32:
            reasons.append(f"rows of {self.hidden}, {self.ffn} and {self.q_cols} weights: multiples of 32 are needed")
        if max(self.hidden, self.ffn, self.q_cols) > MAX_COLUMNS or self.vocab > MAX_VOCAB:
            reasons.append(
                f"rows of {self.hidden}, {self.ffn} and {self.q_cols} weights, {self.vocab} tokens: too large"
            )
        if self.head_dim > 512 or self.head_dim % 2 or self.rope_dim > self.head_dim or self.rope_dim % 2:
            reasons.append(f"heads of {self.head_dim} components, {self.rope_dim} rotating: at most 512, and even")
        stretch = self.rope_scaling
        if stretch.kind in ("yarn", "llama3") and (stretch.original_ctx < 1 or stretch.beta_fast <= stretch.beta_slow):
            limits = f"{stretch.beta_fast} and {stretch.beta_slow}"
            reasons.append(
                f"rope scaling {stretch.kind} from {stretch.original_ctx} tokens between {limits} means nothing"
            )
        if self.rope_theta <= 1:
            reasons.append(f"a rope base of {self.rope_theta}: more than 1 is needed")
        return reasons


def from_gguf(header: GgufHeader, tensors: tuple[Any, ...]) -> Architecture:
    """The architecture of a GGUF file.

    Raises:
        UnsupportedArtifact: a family or a rotation that is not known here, or another byte order.
        BadArtifact: a key is missing or impossible.
    """
    if header.big_endian:
        raise UnsupportedArtifact(f"{header.where} is big endian", hint="convert it on the machine that wrote it")
    name = header.architecture
    family = _family(name)
    dims = shape(header, tensors)
    if header.of_architecture("attention.causal") is False:
        raise UnsupportedArtifact(f"{header.where}: attention that sees later tokens is not computed here")
    if not any(tensor.name == "token_embd.weight" for tensor in tensors):
        raise BadArtifact(
            f"{header.where}: tensor token_embd.weight is missing", hint="the file is not a complete model"
        )
    head_dim = _integer(header, "attention.key_length", dims.n_embd // max(1, dims.n_head))
    pooling = {1: "mean", 2: "cls", 3: "last"}.get(_integer(header, "pooling_type", 0), "")
    architecture = Architecture(
        name=name, family=family, layers=dims.n_layer, hidden=dims.n_embd, ffn=dims.n_ff, heads=dims.n_head,
        kv_heads=dims.n_head_kv, head_dim=head_dim, vocab=vocab_size(header, tensors),
        ctx_train=context_length(header),
        eps=_real(header, "attention.layer_norm_rms_epsilon", 1e-5),
        rope_dim=_integer(header, "rope.dimension_count", head_dim),
        rope_theta=_real(header, "rope.freq_base", 10000.0), rope_scaling=_gguf_scaling(header),
        window=_integer(header, "attention.sliding_window", 512) if name == "gemma3" else 0, pooling=pooling,
    )  # fmt: skip
    return _checked(architecture, header.where)


def is_first_bitnet(config: Mapping[str, Any]) -> bool:
    """1bitLLM's models: of model_type llama, and no llamas, since they have norms inside the layers."""
    classes = config.get("architectures")
    return isinstance(classes, list) and "BitnetForCausalLM" in classes


def from_config(config: Mapping[str, Any], where: str) -> Architecture:
    """The architecture that a Hugging Face folder's config.json describes. `where`: that file, for errors.

    Raises:
        UnsupportedArtifact, BadArtifact: as `from_gguf`.
    """
    kind, gate = worded(config.get("model_type")), config.get("hidden_act", "silu")
    if is_first_bitnet(config):
        kind = "bitnet"
    name = {"bitnet": "bitnet-b1.58" if gate == "relu2" else "bitnet", "gemma3_text": "gemma3"}.get(kind, kind)
    # Rows are not permuted in these folders, so every family rotates halves.
    family = replace(_family(name), rope_neox=True)

    def count(key: str, usual: int | None = None) -> int:
        return count_of(config, key, where, usual=usual)

    def number(key: str, usual: float) -> float:
        return float(_positive(usual if config.get(key) is None else config[key], f"{where}: {key}"))

    heads, hidden = count("num_attention_heads"), count("hidden_size")
    head_dim = count("head_dim", max(1, hidden // heads))
    ctx_train = count("max_position_embeddings", 2048)
    rope = object_of(config, "rope_parameters", where)
    theta = rope.get("rope_theta")
    architecture = Architecture(
        name=name, family=family, layers=count("num_hidden_layers"), hidden=hidden, ffn=count("intermediate_size"),
        heads=heads, kv_heads=count("num_key_value_heads", heads), head_dim=head_dim, vocab=count("vocab_size"),
        ctx_train=ctx_train, eps=number("rms_norm_eps", 1e-5), rope_dim=head_dim,
        rope_theta=number("rope_theta", 10000.0) if theta is None else float(_positive(theta, f"{where}: rope_theta")),
        rope_scaling=_config_scaling(object_of(config, "rope_scaling", where) or rope, ctx_train, where),
        window=count("sliding_window", 512) if name == "gemma3" else 0,
    )  # fmt: skip
    return _checked(architecture, where)


def _family(name: str) -> Family:
    if name not in FAMILIES:
        raise UnsupportedArtifact(
            f"architecture {name[:40]!r} is not one of the ternary families {', '.join(FAMILIES)}",
            hint="models of other families run on the gguf backend",
        )
    return FAMILIES[name]


def _checked(architecture: Architecture, where: str) -> Architecture:
    if problems := architecture.problems():
        raise UnsupportedArtifact(f"{where}: {problems[0]}")
    return architecture


def _integer(header: GgufHeader, name: str, default: int) -> int:
    value = header.of_architecture(name, default)
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < 2**31:
        shown = reprlib.repr(value)
        raise BadArtifact(f"{header.where}: key {header.architecture}.{name} is {shown}, an integer is needed")
    return value


def _real(header: GgufHeader, name: str, default: float) -> float:
    key = f"{header.architecture}.{name}"
    return float(_positive(header.metadata.get(key, default), f"{header.where}: key {key}"))


def _positive(value: object, what: str) -> float:
    """Raises: BadArtifact: it is no number between 0 and 10**12."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < 1e12:
        raise BadArtifact(f"{what} is {reprlib.repr(value)}, a positive number is needed")
    return value


def _gguf_scaling(header: GgufHeader) -> RopeScaling:
    kind = header.of_architecture("rope.scaling.type", "none")
    factor = _real(header, "rope.scaling.factor", 1.0)
    if kind in ("none", "linear"):
        return RopeScaling("linear" if kind == "linear" and factor != 1 else "none", factor)
    if kind == "yarn":
        original = _integer(header, "rope.scaling.original_context_length", 0) or context_length(header)
        magnitude = yarn_magnitude(factor) * _real(header, "rope.scaling.attn_factor", 1.0)
        fast = _real(header, "rope.scaling.yarn_beta_fast", 32.0)
        slow = _real(header, "rope.scaling.yarn_beta_slow", 1.0)
        return RopeScaling("yarn", factor, original, fast, slow, magnitude)
    raise UnsupportedArtifact(f"{header.where}: rope scaling {reprlib.repr(kind)} is not supported")


def _config_scaling(scaling: Mapping[str, Any], ctx_train: int, where: str) -> RopeScaling:
    kind = scaling.get("rope_type") or scaling.get("type") or "default"
    if kind == "default":
        return RopeScaling()

    def real(key: str, default: float) -> float:
        value = default if scaling.get(key) is None else scaling[key]
        return float(_positive(value, f"{where}: {key} of the rope scaling"))

    factor, original = real("factor", 1.0), int(real("original_max_position_embeddings", ctx_train))
    if kind == "linear":
        return RopeScaling("linear", factor)
    if kind == "yarn":
        magnitude = real("attention_factor", yarn_magnitude(factor))
        return RopeScaling("yarn", factor, original, real("beta_fast", 32.0), real("beta_slow", 1.0), magnitude)
    if kind == "llama3":
        return RopeScaling("llama3", factor, original, real("high_freq_factor", 4.0), real("low_freq_factor", 1.0))
    raise UnsupportedArtifact(f"{where}: rope scaling {reprlib.repr(kind)} is not supported")
