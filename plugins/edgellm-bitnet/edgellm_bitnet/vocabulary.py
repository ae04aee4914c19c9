"""A Hugging Face tokenizer as the keys `tokenizer.ggml.*` of a GGUF file.

What GGUF cannot express is refused. The keys are read back by EdgeLLM's own reader and must split a text in many
scripts as the original does: a tokenizer that is nearly right makes a model worse, and nothing reports it.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from edgellm.errors import BadArtifact, UnsupportedArtifact
from edgellm.formats.gguf.reader import GgufHeader
from edgellm.formats.gguf.writer import Typed, Value
from edgellm.formats.tokenizer import from_gguf, from_json
from edgellm.formats.tokenizer.folder import TokenizerFolder
from edgellm.formats.tokenizer.kinds import TokenKind
from edgellm.formats.tokenizer.pretokenizers import PRE_TOKENIZERS
from edgellm.formats.tokenizer.probe import difference
from edgellm.formats.tokenizer.tokenizer import FileTokenizer

# Preferred where several names mean the same.
_USUAL = ("llama-bpe", "qwen2", "gpt-2", "smollm", "glm4", "deepseek-llm", "deepseek-v3", "gpt-4o")
_GPT2 = PRE_TOKENIZERS["gpt-2"].patterns[0]


def vocabulary_keys(folder: Path, n_vocab: int) -> dict[str, Value]:
    """Keys for an embedding table of `n_vocab` rows; rows without a token become unused ones.

    Raises:
        UnsupportedArtifact: GGUF cannot say what this tokenizer does. BadArtifact: its files contradict each other.
        BackendUnavailable: the `tokenizers` library is not installed.
    """
    files = TokenizerFolder(folder)
    original = from_json.read_tokenizer_json(folder)
    whole, config = files.json("tokenizer.json"), files.json("tokenizer_config.json")
    model = whole.get("model", {})
    if model.get("type") != "BPE":
        raise _refusal(folder, f"its model is {model.get('type')!r}, only BPE has a GGUF form here")
    texts, kinds = _tokens(folder, whole, n_vocab)
    keys: dict[str, Value] = {"tokenizer.ggml.tokens": texts, "tokenizer.ggml.token_type": Typed("i32", kinds)}
    merges = [pair if isinstance(pair, str) else " ".join(pair) for pair in model.get("merges", [])]
    if model.get("byte_fallback"):
        keys |= {"tokenizer.ggml.model": "llama", "tokenizer.ggml.pre": "default"}
        keys |= {"tokenizer.ggml.scores": Typed("f32", _scores(texts, merges))}
        keys |= {"tokenizer.ggml.add_space_prefix": _prefixes_space(whole)}
    else:
        keys |= {"tokenizer.ggml.model": "gpt2", "tokenizer.ggml.pre": _pre(folder, whole)}
        keys |= {"tokenizer.ggml.merges": Typed("str", merges)}
    keys |= _special(original, config, texts)
    template = files.chat_template(config)
    if template is not None:
        keys["tokenizer.chat_template"] = template
    _compare(folder, keys, original)
    return keys


def _tokens(folder: Path, whole: Mapping[str, Any], n_vocab: int) -> tuple[list[str], list[int]]:
    model, added = whole["model"], whole.get("added_tokens", [])
    ids: dict[str, int] = dict(model.get("vocab", {})) | {token["content"]: token["id"] for token in added}
    if max(ids.values(), default=-1) >= n_vocab:
        raise BadArtifact(
            f"{folder}: tokenizer.json has token {max(ids.values())}, the embedding table has {n_vocab} rows",
            hint="the folder mixes two models; fetch it again",
        )
    texts = [f"[PAD{token}]" for token in range(n_vocab)]
    kinds = [int(TokenKind.UNUSED)] * n_vocab
    for text, token in ids.items():
        texts[token], kinds[token] = text, int(TokenKind.NORMAL)
    if model.get("byte_fallback"):
        for text in {f"<0x{byte:02X}>" for byte in range(256)} & ids.keys():
            kinds[ids[text]] = int(TokenKind.BYTE)
    for token in added:
        kinds[token["id"]] = int(TokenKind.CONTROL if token["special"] else TokenKind.USER_DEFINED)
    if model.get("byte_fallback") and (unknown := model.get("unk_token")) in ids:
        kinds[ids[unknown]] = int(TokenKind.UNKNOWN)
    return texts, kinds


def _scores(texts: list[str], merges: list[str]) -> list[float]:
    """SentencePiece joins the pair of the highest score; merges are listed in that order."""
    rank: dict[str, int] = {}
    for number, pair in enumerate(merges):
        rank.setdefault(pair.replace(" ", "", 1), number)
    return [-float(rank.get(text, 0 if len(text) > 1 else len(merges))) for text in texts]


def _prefixes_space(whole: Mapping[str, Any]) -> bool:
    parts = [*_parts(whole.get("normalizer")), *_parts(whole.get("pre_tokenizer"))]
    return any(
        part["type"] == "Prepend" or (part["type"] == "Metaspace" and part.get("prepend_scheme") != "never")
        for part in parts
    )


def _pre(folder: Path, whole: Mapping[str, Any]) -> str:
    """Name of the pre-tokenizer that has the same expressions."""
    normal = [part["type"] for part in _parts(whole.get("normalizer")) if part["type"] != "NFC"]
    if normal:
        raise _refusal(folder, f"its normalizer {', '.join(normal)} has no GGUF form")
    patterns: list[str] = []
    for part in _parts(whole.get("pre_tokenizer")):
        patterns += _patterns(folder, part)
    ignore = bool(whole["model"].get("ignore_merges"))
    same = [
        name for name, pre in PRE_TOKENIZERS.items() if (list(pre.patterns), pre.ignore_merges) == (patterns, ignore)
    ]
    if not same:
        raise _refusal(folder, f"GGUF has no name for the way it cuts words: {patterns} with ignore_merges={ignore}")
    return next((name for name in _USUAL if name in same), same[0])


def _patterns(folder: Path, part: Mapping[str, Any]) -> list[str]:
    kind = part["type"]
    if kind == "ByteLevel":
        if part.get("add_prefix_space"):
            raise _refusal(folder, "it puts a space before each text (ByteLevel.add_prefix_space)")
        return [_GPT2] if part.get("use_regex") else []
    if kind == "Digits" and part.get("individual_digits"):
        return [r"\p{N}"]
    if kind == "Split" and part.get("behavior") == "Isolated" and not part.get("invert"):
        pattern = part.get("pattern", {}).get("Regex")
        if isinstance(pattern, str):
            return [pattern]
    raise _refusal(folder, f"its pre-tokenizer {kind} ({part.get('behavior')}) has no GGUF form")


def _parts(component: Any) -> list[dict[str, Any]]:
    """A component, or those of a sequence."""
    if not isinstance(component, dict):
        return []
    if component.get("type") == "Sequence":
        inner = component.get("normalizers") or component.get("pretokenizers") or []
        return [part for each in inner for part in _parts(each)]
    return [component] if isinstance(component.get("type"), str) else []


def _special(original: FileTokenizer, config: Mapping[str, Any], texts: list[str]) -> dict[str, Value]:
    ids = {text: token for token, text in enumerate(texts)}
    keys: dict[str, Value] = {}
    for role, name in (("bos", "bos_token_id"), ("eos", "eos_token_id"), ("unk", "unknown_token_id"),
                       ("pad", "padding_token_id")):  # fmt: skip
        value = config.get(f"{role}_token")
        text = value.get("content") if isinstance(value, dict) else value
        if isinstance(text, str) and text in ids:
            keys[f"tokenizer.ggml.{name}"] = ids[text]
    others = sorted(original.eos_ids - {keys.get("tokenizer.ggml.eos_token_id")})
    if others:
        keys["tokenizer.ggml.eot_token_id"] = others[0]
    return keys | {"tokenizer.ggml.add_bos_token": original.add_bos, "tokenizer.ggml.add_eos_token": original.add_eos}


def _compare(folder: Path, keys: Mapping[str, Value], original: FileTokenizer) -> None:
    """Raises: UnsupportedArtifact: the keys do not give the same tokens."""
    kinds: list[int] = keys["tokenizer.ggml.token_type"].value  # type: ignore[assignment,union-attr]
    plain: dict[str, Any] = {key: value.value if isinstance(value, Typed) else value for key, value in keys.items()}
    metadata = {key: tuple(value) if isinstance(value, list) else value for key, value in plain.items()}
    read = from_gguf.read_tokenizer(GgufHeader(str(folder), 3, False, 32, metadata, (), 0, 0))
    added = [
        text for text, kind in zip(plain["tokenizer.ggml.tokens"], kinds, strict=True) if kind == TokenKind.USER_DEFINED
    ]
    mismatch = difference(read, original, added)
    if mismatch is not None:
        raise _refusal(folder, mismatch.told("GGUF's form of it"))
    if not original.eos_ids <= read.eos_ids:
        lost = sorted(original.eos_ids - read.eos_ids)
        raise _refusal(folder, f"answers end with tokens {lost} too, GGUF names two kinds only")


def _refusal(folder: Path, why: str) -> UnsupportedArtifact:
    return UnsupportedArtifact(
        f"{folder}/tokenizer.json cannot be carried over: {why}",
        hint="EdgeLLM runs the folder as it is; or convert it with the tools of its publisher",
    )
