"""What predictions need of a Hugging Face folder: `config.json` as a shape, and the type of its weights.

Reads headers only. Whether a backend can open the folder is for the backend to say.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgellm.errors import BadArtifact, UnsupportedArtifact
from edgellm.formats.json_file import read_object
from edgellm.formats.safetensors import reader
from edgellm.types.model import Shape

MAX_BYTES = 1024**2  # of a config.json; real ones have a few kB
_MOST = 1 << 31

# `model_type` -> GGUF's `general.architecture`, of models whose layers are all alike.
ARCHITECTURES = {"llama": "llama", "mistral": "llama", "qwen2": "qwen2", "qwen3": "qwen3", "bitnet": "bitnet"}
_FLOATS = {"F32": "F32", "F16": "F16", "BF16": "BF16", "F64": "F32"}


@dataclass(frozen=True, slots=True)
class FolderSummary:
    shape: Shape
    ctx_train: int
    is_ternary: bool  # trained ternary; a backend packs its weights when it loads them
    float_type: str  # that most bytes are in: "BF16", "F16", "F32"; "" = packed
    tensor_bytes: int  # as stored
    file_bytes: int


def summary_of(path: str | Path) -> FolderSummary:
    """
    Raises:
        BadArtifact: no config.json, malformed, or impossible. UnsupportedArtifact: an architecture not known here.
    """
    config = config_of(Path(path))
    model = reader.read_safetensors(path)
    stored: Counter[str] = Counter()
    for tensor in model.tensors.values():
        stored[tensor.dtype] += tensor.n_bytes
    kind = stored.most_common(1)[0][0] if stored else ""
    quantization = config.get("quantization_config") or {}
    if not isinstance(quantization, dict):
        raise BadArtifact(f"{Path(path) / 'config.json'}: quantization_config is not an object", hint="fetch it again")
    method = quantization.get("quant_method")
    return FolderSummary(
        shape=shape_of(config, Path(path)),
        ctx_train=_count(config, "max_position_embeddings", Path(path), usual=0),
        # 1bitLLM's first models are of type llama, and say so by their class.
        is_ternary=method == "bitnet" or _type(config) == "bitnet",
        float_type=_FLOATS.get(kind, ""),
        tensor_bytes=model.tensor_bytes,
        file_bytes=model.file_bytes,
    )


def config_of(folder: Path) -> dict[str, Any]:
    """The content of config.json.

    Raises:
        BadArtifact: it is missing, cannot be read, or is no object.
    """
    return read_object(folder / "config.json", most=MAX_BYTES, required=True)


def _type(config: dict[str, Any]) -> str:
    classes = config.get("architectures")
    if isinstance(classes, list) and "BitnetForCausalLM" in classes:
        return "bitnet"
    return str(config.get("model_type"))


def shape_of(config: dict[str, Any], folder: Path, *, any_type: bool = False) -> Shape:
    """The shape in a config.json. `any_type` accepts layers that are not known here, under their own name.

    Raises:
        BadArtifact: a count is missing or impossible. UnsupportedArtifact: layers not known here.
    """
    kind = _type(config)
    if kind not in ARCHITECTURES and not any_type:
        raise UnsupportedArtifact(
            f"{folder}: the layers of model_type {kind[:40]!r} are not known here",
            hint=f"known: {', '.join(sorted(ARCHITECTURES))}; a GGUF file of it tells its own shape",
        )
    n_layer, n_embd = _count(config, "num_hidden_layers", folder), _count(config, "hidden_size", folder)
    n_head = _count(config, "num_attention_heads", folder)
    n_head_kv = _count(config, "num_key_value_heads", folder, usual=n_head)
    head_dim = _count(config, "head_dim", folder, usual=n_embd // n_head)
    return Shape(
        arch=ARCHITECTURES.get(kind, kind[:40]),
        n_layer=n_layer,
        n_embd=n_embd,
        n_ff=_count(config, "intermediate_size", folder),
        n_head=n_head,
        n_head_kv=n_head_kv,
        head_dim=head_dim,
        n_vocab=_count(config, "vocab_size", folder),
        tied_embeddings=config.get("tie_word_embeddings") is True,
        kv_full_bytes=2 * 2 * n_head_kv * head_dim * n_layer,
    )


def _count(config: dict[str, Any], name: str, folder: Path, *, usual: int | None = None) -> int:
    value = config.get(name)
    if value is None and usual is not None:
        return usual
    if not isinstance(value, int) or isinstance(value, bool) or not 0 < value < _MOST:
        raise BadArtifact(
            f"{folder / 'config.json'}: {name} is {repr(value)[:40]}, no count", hint="is it a language model's folder?"
        )
    return value
