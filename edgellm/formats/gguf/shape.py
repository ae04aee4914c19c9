"""What a GGUF header's architecture keys say of the model: layers, heads, caches, recurrent state.

It follows the conventions of llama.cpp b11434 (`src/models/*.cpp`, `load_arch_hparams`) and opens no file. Values are
not trusted until they are checked: each is an integer within `_MAX`. What native code allows of them is in fields.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from edgellm.errors import BadArtifact
from edgellm.formats.gguf.cursor import LongArray, short
from edgellm.formats.gguf.fields import MAX_BLOCKS
from edgellm.formats.gguf.header import GgufHeader, GgufTensor
from edgellm.types.model import Shape

_MAX = 2**31

# Period of the sliding-window pattern where the file does not say it; the last layer of each period is global, or the
# first where the flag is True. Source: the calls of load_swa_pattern in llama.cpp b11434.
_SWA_PERIOD: dict[str, tuple[int, bool]] = {
    "afmoe": (4, False), "cohere2": (4, False), "cohere2moe": (4, True), "exaone-moe": (4, False),
    "exaone4": (4, False), "gemma-embedding": (6, False), "gemma2": (2, False), "gemma3": (6, False),
    "gemma3n": (5, False), "gpt-oss": (2, False), "laguna": (4, True), "llama4": (4, False), "mellum": (4, False),
    "modern-bert": (3, True), "muse-glimmer": (4, False), "olmo2": (4, False), "plamo3": (8, False),
    "smallthinker": (4, True),
}  # fmt: skip
# Window where the file does not say it (same source).
_SWA_WINDOW = {"gemma2": 4096, "llama4": 8192, "smallthinker": 4096, "exaone-moe": 128}
# Every attention layer is local in these where a window is given and no pattern.
_SWA_ALL = frozenset({"lfm2", "lfm2moe", "deepseek4"})
# These carry the key, and llama.cpp runs them without a window (phi3.cpp); other architectures have no window at all.
_SWA_IGNORED = frozenset({"phi3", "phimoe"})
# One layer in four has full attention, the others a linear one, where the file does not say it.
_LINEAR_INTERVAL = {"qwen3next": 4, "qwen35": 4, "qwen35moe": 4}
# Recurrent state and attention in the same layer.
_PARALLEL_SSM = frozenset({"falcon-h1"})
_GEMMA3N = 256  # n_embd_altup in llama-hparams.h


@dataclass(frozen=True, slots=True)
class _Keys:
    """Typed access to the keys of one architecture."""

    header: GgufHeader
    arch: str
    n_layer: int

    def get(self, name: str, default: int | None = None) -> int:
        """A scalar; of an array its largest element.

        Raises:
            BadArtifact: missing without default, no integer, or out of range.
        """
        values = self.layers(name, default)
        return max(values) if values else 0

    def layers(self, name: str, default: int | None = None) -> list[int]:
        """One value for each layer; a scalar holds for all."""
        key = f"{self.arch}.{name}"
        value = self.header.metadata.get(key, default)
        if value is None:
            raise BadArtifact(
                f"{self.header.where}: key {key} is missing", hint="the file is not a complete language model"
            )
        values: Sequence[object] = value if isinstance(value, tuple) else (value,)
        checked = [int(v) for v in values if isinstance(v, int) and 0 <= v < _MAX]
        if len(checked) != len(values) or isinstance(value, LongArray):
            raise BadArtifact(f"{self.header.where}: key {key} is {short(value)}, integers of 0 to 2**31 are allowed")
        if len(checked) == 1:
            return checked * self.n_layer
        if len(checked) < self.n_layer:
            raise BadArtifact(f"{self.header.where}: key {key} has {len(checked)} values for {self.n_layer} layers")
        return checked[: self.n_layer]


def context_length(header: GgufHeader) -> int:
    """Tokens the model was trained for; 0 = not said."""
    value = header.of_architecture("context_length", 0)
    return value if isinstance(value, int) and 0 <= value < _MAX else 0


def vocab_size(header: GgufHeader, tensors: Sequence[GgufTensor] | None = None) -> int:
    """Rows of the embedding table; without one, the length of the token list."""
    for tensor in header.tensors if tensors is None else tensors:
        if tensor.name == "token_embd.weight" and len(tensor.dims) == 2:
            return tensor.dims[1]
    return array_length(header, "tokenizer.ggml.tokens")


def array_length(header: GgufHeader, key: str) -> int:
    """Elements of an array; 0 where there is none of that name."""
    value = header.metadata.get(key)
    if isinstance(value, LongArray):
        return value.length
    return len(value) if isinstance(value, tuple) else 0


def shape(header: GgufHeader, tensors: Sequence[GgufTensor] | None = None) -> Shape:
    """The model's shape. `tensors` are those of all parts where the model is split.

    Raises:
        BadArtifact: a key that every language model has is missing, or a value is impossible.
    """
    tensors = header.tensors if tensors is None else tensors
    arch = header.architecture
    n_layer = _n_layer(header, arch)
    keys = _Keys(header, arch, n_layer)
    n_embd, n_head = keys.get("embedding_length"), keys.layers("attention.head_count", 0)
    recurrent = _recurrent_layers(keys)
    kv_full, kv_swa, attending, window, full = _kv_bytes(keys, n_embd, n_head, recurrent)
    return Shape(
        arch=arch,
        n_layer=n_layer,
        n_embd=n_embd,
        n_ff=keys.get("feed_forward_length", 0),
        n_head=max(n_head),
        n_head_kv=max(keys.layers("attention.head_count_kv", max(n_head))),
        head_dim=_head_dim(keys, n_embd, n_head),
        n_vocab=vocab_size(header, tensors),
        tied_embeddings=all(tensor.name != "output.weight" for tensor in tensors),
        kv_full_bytes=kv_full,
        kv_swa_bytes=kv_swa,
        sliding_window=window,
        recurrent_bytes=_state_bytes(keys, n_embd, max(n_head)) * sum(recurrent),
        n_attn=len(attending) if len(attending) != n_layer else None,
        full_layers=attending if len(attending) != n_layer else full if kv_full and kv_swa else (),
        n_expert=keys.get("expert_count", 0),
        n_expert_used=keys.get("expert_used_count", 0),
        n_ff_expert=keys.get("expert_feed_forward_length", 0),
        shared_kv_layers=_shared_layers(keys),
        per_layer_width=_GEMMA3N if arch == "gemma3n" else keys.get("embedding_length_per_layer_input", 0),
        draft_layers=keys.get("nextn_predict_layers", 0),
    )


def _n_layer(header: GgufHeader, arch: str) -> int:
    """Layers of the model proper: the file's blocks less those that only draft tokens (`nextn_predict_layers`)."""
    if not arch:
        raise BadArtifact(f"{header.where}: key general.architecture is missing")
    keys = _Keys(header, arch, 1)
    n_layer = keys.get("block_count") - keys.get("nextn_predict_layers", 0)
    if not 0 < n_layer <= MAX_BLOCKS:
        raise BadArtifact(f"{header.where}: {arch}.block_count gives {n_layer} layers, 1 to {MAX_BLOCKS} are allowed")
    return n_layer


def _head_dim(keys: _Keys, n_embd: int, n_head: list[int]) -> int:
    heads = max(n_head)
    return keys.get("attention.key_length", n_embd // heads if heads else 0)


def _kv_bytes(
    keys: _Keys, n_embd: int, n_head: list[int], recurrent: list[bool]
) -> tuple[int, int, tuple[int, ...], int, tuple[int, ...]]:
    """(full bytes, windowed bytes, layers with attention, window, layers of the full bytes).

    Bytes are F16, for each cached token over all layers.

    Formula: docs/explain/memory-model.md. A latent cache (MLA) keeps one head of the compressed key per layer.
    """
    head_dim = _head_dim(keys, n_embd, n_head)
    value_dim = keys.get("attention.value_length", head_dim)
    swa_key, swa_value = (
        keys.get("attention.key_length_swa", head_dim),
        keys.get("attention.value_length_swa", value_dim),
    )
    n_head_kv = keys.layers("attention.head_count_kv", max(n_head))
    latent = keys.get("attention.kv_lora_rank", 0) + keys.get("rope.dimension_count", 0)
    is_latent = keys.get("attention.key_length_mla", 0) > 0
    window, local = _window(keys)
    cached = keys.n_layer - _shared_layers(keys)
    full = swa = 0
    attending, full_layers = [], []
    for layer in range(keys.n_layer):
        heads = n_head_kv[layer]
        if heads == 0 or (recurrent[layer] and keys.arch not in _PARALLEL_SSM):
            continue
        attending.append(layer)
        is_local = local[layer] and not is_latent
        if not is_local:
            full_layers.append(layer)
        if layer >= cached:
            continue
        if is_local:
            swa += 2 * heads * (swa_key + swa_value)
            continue
        full += 2 * latent if is_latent else 2 * heads * (head_dim + value_dim)
    return full, swa, tuple(attending), window if swa else 0, tuple(full_layers)


def _window(keys: _Keys) -> tuple[int, list[bool]]:
    """(tokens of the sliding window, whether each layer is local)."""
    everywhere_full = [False] * keys.n_layer
    window = keys.get("attention.sliding_window", _SWA_WINDOW.get(keys.arch, 0))
    if window == 0 or keys.arch in _SWA_IGNORED:
        return 0, everywhere_full
    pattern = keys.header.of_architecture("attention.sliding_window_pattern")
    if isinstance(pattern, tuple):
        return window, [bool(flag) for flag in keys.layers("attention.sliding_window_pattern")]
    if keys.arch in _SWA_ALL:
        return window, [True] * keys.n_layer
    if pattern is None and keys.arch not in _SWA_PERIOD:
        return 0, everywhere_full
    default, dense_first = _SWA_PERIOD.get(keys.arch, (0, False))
    period = keys.get("attention.sliding_window_pattern", default)
    # As set_swa_pattern in llama-hparams.cpp: a period of 0 makes every layer local.
    global_at = 0 if dense_first else period - 1
    return window, [period == 0 or layer % period != global_at for layer in range(keys.n_layer)]


def _shared_layers(keys: _Keys) -> int:
    """Last layers that read an earlier layer's cache and have none of their own."""
    if keys.arch == "gemma3n":
        return max(0, keys.n_layer - 20)  # gemma3n.cpp: n_layer_kv_from_start = 20
    return min(keys.get("attention.shared_kv_layers", 0), keys.n_layer)


def _recurrent_layers(keys: _Keys) -> list[bool]:
    """Whether each layer carries a constant state per sequence."""
    n_layer, arch = keys.n_layer, keys.arch
    if f"{arch}.attention.recurrent_layers" in keys.header.metadata:
        return [bool(flag) for flag in keys.layers("attention.recurrent_layers")]
    if arch in _LINEAR_INTERVAL:
        interval = max(1, keys.get("full_attention_interval", _LINEAR_INTERVAL[arch]))
        return [(layer + 1) % interval != 0 for layer in range(n_layer)]
    if arch in _PARALLEL_SSM:
        return [True] * n_layer
    stateful = any(keys.get(name, 0) for name in ("ssm.inner_size", "shortconv.l_cache", "wkv.head_size"))
    if not stateful:
        return [False] * n_layer
    n_head_kv = keys.layers("attention.head_count_kv", 0)
    if arch.startswith("nemotron_h"):
        # nemotron-h.cpp: a layer with a feed-forward part has neither attention nor state.
        n_ff = keys.layers("feed_forward_length", 0)
        return [kv == 0 and ff == 0 for kv, ff in zip(n_head_kv, n_ff, strict=True)]
    return [kv == 0 for kv in n_head_kv]


def _state_bytes(keys: _Keys, n_embd: int, n_head: int) -> int:
    """F32 bytes of state per sequence and recurrent layer (llama-hparams.cpp, n_embd_r + n_embd_s)."""
    head = keys.get("wkv.head_size", 0)
    if head:
        return 4 * (keys.get("token_shift_count", 2) * n_embd + n_embd * head)
    short = keys.get("shortconv.l_cache", 0)
    if short:
        return 4 * n_embd * (short - 1)
    delta = keys.get("kda.head_dim", 0)
    conv = max(0, keys.get("ssm.conv_kernel", 0) - 1)
    if delta:
        return 4 * (3 * (conv or 3) * n_head * delta + delta * delta * n_head)
    inner, state = keys.get("ssm.inner_size", 0), keys.get("ssm.state_size", 0)
    return 4 * (conv * (inner + 2 * keys.get("ssm.group_count", 0) * state) + state * inner)
