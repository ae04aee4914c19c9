"""What an encoder's folder says of its vectors: pooling, length, normalization, and which file says it.

Reads the files of sentence-transformers (modules.json and what it names) where there are any. `notes` says what was
read, and what was assumed where a folder does not say. Reads JSON only.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from edgellm.errors import BadArtifact, UnsupportedArtifact
from edgellm.formats.encoder_length import encoder_length
from edgellm.formats.json_file import read_json, read_object

MAX_CTX = 2**20
# Keys of 1_Pooling/config.json, in the order in which several are put one after another.
MODES = {
    "cls": "pooling_mode_cls_token", "max": "pooling_mode_max_tokens", "mean": "pooling_mode_mean_tokens",
    "mean_sqrt_len": "pooling_mode_mean_sqrt_len_tokens", "weightedmean": "pooling_mode_weightedmean_tokens",
    "last": "pooling_mode_lasttoken",
}  # fmt: skip
SPELLINGS = {"lasttoken": "last", "mean_sqrt_len_tokens": "mean_sqrt_len"}
KNOWN_MODULES = ("Transformer", "Pooling", "Normalize")
IDENTITY, SIGMOID = "Identity", "Sigmoid"


@dataclass(frozen=True, slots=True)
class EncoderFolder:
    """`notes` are for people: what was used, and why."""

    path: Path  # that tokenizer.json and the configuration lie in
    pooling: tuple[str, ...]  # keys of MODES
    normalized: bool
    max_tokens: int  # 0 = the folder does not say
    pad_id: int
    n_vocab: int  # rows of the embedding table; 0 = the folder does not say
    lower: bool  # text is lower-cased before it is cut into tokens
    prompt: str  # stands before every text
    dimensions: tuple[int, ...] | None  # see EmbeddingInfo
    sigmoid: bool  # a cross-encoder's score is the logistic function of what the graph gives
    other_modules: tuple[str, ...] = ()  # that are computed only where the graph itself does
    notes: Mapping[str, str] = field(default_factory=dict)
    assumed: frozenset[str] = frozenset()  # keys of notes that no file says


def read_folder(path: Path) -> EncoderFolder:
    """What lies beside a graph, or above it where `path` is the folder `onnx` of a repository.

    Raises:
        BadArtifact: a file is malformed. UnsupportedArtifact: it asks for what is not computed here.
    """
    if not (path / "tokenizer.json").exists() and path.name == "onnx":
        path = path.parent
    config, notes = read_object(path / "config.json"), {}
    modules = _modules(path)
    pooling, notes["pooling"] = _pooling(path, modules)
    normalized, notes["normalized"] = _normalized(modules)
    max_tokens, notes["longest"] = _longest(path, config)
    assumed = ["pooling"] * (_pooling_folder(path, modules) is None) + ["normalized"] * (not modules)
    own = read_object(path / "sentence_bert_config.json")
    sigmoid, notes["score"] = _activation(config)
    return EncoderFolder(
        path=path, pooling=pooling, normalized=normalized, max_tokens=max_tokens,
        pad_id=_count(config, "pad_token_id", path, usual=0, least=0),
        n_vocab=_count(config, "vocab_size", path, usual=0, least=1), lower=own.get("do_lower_case") is True,
        prompt=_prompt(path), dimensions=_dimensions(config, path), sigmoid=sigmoid,
        other_modules=tuple(kind for kind, _ in modules if kind not in KNOWN_MODULES), notes=notes,
        assumed=frozenset(assumed),
    )  # fmt: skip


def _modules(path: Path) -> list[tuple[str, str]]:
    """(class, folder) of each step of a sentence-transformers model; empty where it is none."""
    place = path / "modules.json"
    modules = read_json(place)
    if modules is None:
        return []
    if not isinstance(modules, list) or not all(isinstance(one, dict) for one in modules):
        raise BadArtifact(f"{place} is not a list of modules", hint="fetch it again")
    return [(str(one.get("type", "")).rpartition(".")[2], str(one.get("path", ""))) for one in modules]


def _pooling_folder(path: Path, modules: list[tuple[str, str]]) -> str | None:
    folder = next((folder for kind, folder in modules if kind == "Pooling"), None)
    if folder is None and (path / "1_Pooling" / "config.json").exists():
        return "1_Pooling"
    return folder


def _pooling(path: Path, modules: list[tuple[str, str]]) -> tuple[tuple[str, ...], str]:
    folder = _pooling_folder(path, modules)
    if folder is None:
        what = "modules.json names none" if modules else "the folder does not say"
        return ("mean",), f"mean, assumed: {what}"
    if folder != Path(folder).name:
        raise BadArtifact(f"{path / 'modules.json'} names the folder {folder[:80]!r}", hint="do not use this model")
    where = f"{folder}/config.json"
    config = read_object(path / where)
    named = config.get("pooling_mode")
    if isinstance(named, str):
        modes = [SPELLINGS.get(one, one) for one in named.split("+")]
    elif isinstance(named, list):
        modes = [SPELLINGS.get(str(one), str(one)) for one in named]
    else:
        modes = [mode for mode, key in MODES.items() if config.get(key) is True]
    if not modes or any(mode not in MODES for mode in modes):
        raise UnsupportedArtifact(
            f"{path / where} asks for pooling {' + '.join(modes) or 'of no kind'}", hint=f"known: {', '.join(MODES)}"
        )
    if config.get("include_prompt") is False and _prompt(path):
        raise UnsupportedArtifact(f"{path / where}: pooling that leaves the prompt out is not computed here")
    return tuple(modes), f"{' + '.join(modes)}, from {where}"


def _normalized(modules: list[tuple[str, str]]) -> tuple[bool, str]:
    if not modules:
        return True, "to unit length, assumed: the folder does not say"
    last = [kind for kind, _ in modules]
    return ("Normalize" in last), ("to unit length" if "Normalize" in last else "not") + ", from modules.json"


def _longest(path: Path, config: dict[str, Any]) -> tuple[int, str]:
    for key in ("max_position_embeddings", "pad_token_id"):
        _count(config, key, path, usual=0, least=0)
    limit, where = encoder_length(path, config)
    return limit, f"{limit} tokens, from {where}" if where else "any, as the folder does not say"


def _prompt(path: Path) -> str:
    config = read_object(path / "config_sentence_transformers.json")
    prompts, name = config.get("prompts"), config.get("default_prompt_name")
    if name is None or not isinstance(prompts, dict):
        return ""
    text = prompts.get(name)
    if not isinstance(text, str):
        raise BadArtifact(
            f"{path / 'config_sentence_transformers.json'}: there is no prompt {str(name)[:40]!r}",
            hint="fetch it again",
        )
    return text


def _dimensions(config: dict[str, Any], path: Path) -> tuple[int, ...] | None:
    """Keys that vLLM reads too, as nothing in sentence-transformers' own files says it."""
    named = config.get("matryoshka_dimensions")
    if named is None:
        return () if config.get("is_matryoshka") is True else None
    is_list = isinstance(named, list) and named
    if not is_list or not all(type(size) is int and 0 < size < MAX_CTX for size in named):
        raise BadArtifact(
            f"{path / 'config.json'}: matryoshka_dimensions is not a list of sizes", hint="fetch it again"
        )
    return tuple(sorted(named))


def _activation(config: dict[str, Any]) -> tuple[bool, str]:
    """Sentence-transformers' rule for cross-encoders of one score: what the configuration names, else a sigmoid."""
    own = config.get("sentence_transformers")
    named = own.get("activation_fn") if isinstance(own, dict) else None
    named = named or config.get("sbert_ce_default_activation_function")
    kind = str(named).rpartition(".")[2] if named else ""
    if kind not in ("", IDENTITY, SIGMOID):
        raise UnsupportedArtifact(f"a score through {kind[:40]} is not computed here", hint="Identity and Sigmoid are")
    if not kind:
        return True, "sigmoid of the logit, as sentence-transformers does where the folder does not say"
    return kind == SIGMOID, f"{'sigmoid of the' if kind == SIGMOID else 'the'} logit, from config.json"


def _count(config: dict[str, Any], key: str, path: Path, *, usual: int, least: int) -> int:
    value = config.get(key)
    if value is None:
        return usual
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value < 2**31:
        raise BadArtifact(f"{path / 'config.json'}: {key} is {repr(value)[:40]}, no count", hint="fetch it again")
    return value
