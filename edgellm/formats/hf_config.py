"""What predictions need of a Hugging Face folder: `config.json` as a shape, and the type of its weights.

Reads headers only. Whether a backend can open the folder is for the backend to say.
"""

from __future__ import annotations

import reprlib
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgellm.errors import BadArtifact, UnsupportedArtifact
from edgellm.formats.json_file import read_object
from edgellm.formats.safetensors import reader
from edgellm.types.model import Shape

CONFIG = "config.json"
MAX_BYTES = 1024**2  # of it; real ones have a few kB
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
    where = Path(path) / CONFIG
    method = object_of(config, "quantization_config", where).get("quant_method")
    return FolderSummary(
        shape=shape_of(config, Path(path)),
        ctx_train=count_of(config, "max_position_embeddings", where, usual=0),
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
    return read_object(folder / CONFIG, most=MAX_BYTES, required=True)


def _type(config: dict[str, Any]) -> str:
    classes = config.get("architectures")
    if isinstance(classes, list) and "BitnetForCausalLM" in classes:
        return "bitnet"
    return worded(config.get("model_type"))


def shape_of(config: dict[str, Any], folder: Path, *, any_type: bool = False) -> Shape:
    """The shape in a config.json. `any_type` accepts layers that are not known here, under their own name.

    Raises:
        BadArtifact: a count is missing or impossible. UnsupportedArtifact: layers not known here.
    """
    kind, where = _type(config), folder / CONFIG
    if kind not in ARCHITECTURES and not any_type:
        raise UnsupportedArtifact(
            f"{folder}: the layers of model_type {kind[:40]!r} are not known here",
            hint=f"known: {', '.join(sorted(ARCHITECTURES))}; a GGUF file of it tells its own shape",
        )
    n_layer, n_embd = count_of(config, "num_hidden_layers", where), count_of(config, "hidden_size", where)
    n_head = count_of(config, "num_attention_heads", where)
    n_head_kv = count_of(config, "num_key_value_heads", where, usual=n_head)
    head_dim = count_of(config, "head_dim", where, usual=max(1, n_embd // n_head))
    return Shape(
        arch=ARCHITECTURES.get(kind, kind[:40]),
        n_layer=n_layer,
        n_embd=n_embd,
        n_ff=count_of(config, "intermediate_size", where),
        n_head=n_head,
        n_head_kv=n_head_kv,
        head_dim=head_dim,
        n_vocab=count_of(config, "vocab_size", where),
        tied_embeddings=config.get("tie_word_embeddings") is True,
        kv_full_bytes=2 * 2 * n_head_kv * head_dim * n_layer,
    )


def count_of(config: Mapping[str, Any], key: str, where: str | Path, *, usual: int | None = None) -> int:
    """The count under `key` of the config.json at `where`; `usual` where it is missing or null.

    Raises:
        BadArtifact: it is no count below 2**31, or missing and has no usual value.
    """
    value = config.get(key)
    if value is None and usual is not None:
        return usual
    if not isinstance(value, int) or isinstance(value, bool) or not 0 < value < _MOST:
        raise BadArtifact(f"{where}: {key} is {reprlib.repr(value)}, no count", hint="is it a language model's folder?")
    return value


def object_of(config: Mapping[str, Any], key: str, where: str | Path) -> dict[str, Any]:
    """The object under `key`; empty where it is missing or null.

    Raises:
        BadArtifact: it is something else.
    """
    value = config.get(key)
    if not isinstance(value, dict | None):
        raise BadArtifact(f"{where}: {key} is {reprlib.repr(value)}, no object", hint="fetch it again")
    return value or {}


def worded(value: object) -> str:
    """The text that a key holds; what is none as Python writes it, in short."""
    return value if isinstance(value, str) else reprlib.repr(value)
