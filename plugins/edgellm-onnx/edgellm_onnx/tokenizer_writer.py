"""A GGUF file's tokenizer as a Hugging Face folder has it: tokenizer.json and the small files beside it.

What is written is read back and has to cut text as the original does (`tokenizer_probe`), or it is refused.
SentencePiece ranks tokens, tokenizer.json ranks pairs: each pair that makes a token gets the token's rank, the shorter
left part first among equals.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from edgellm.errors import UnsupportedArtifact
from edgellm.formats import sampling_keys
from edgellm.formats.gguf.reader import GgufHeader
from edgellm.formats.tokenizer.from_gguf import SPM_ROLES, pre_tokenizer, read_tokenizer
from edgellm.formats.tokenizer.from_json import read_tokenizer_json
from edgellm.formats.tokenizer.keys import Entries, TokenizerKeys
from edgellm.formats.tokenizer.kinds import TokenKind
from edgellm.formats.tokenizer.probe import difference
from edgellm.formats.tokenizer.sentencepiece import SPACE
from edgellm.formats.tokenizer.tokenizer import FileTokenizer

_SHOWN = (TokenKind.CONTROL, TokenKind.UNKNOWN, TokenKind.USER_DEFINED)  # found in text before anything else is done


def write_tokenizer(header: GgufHeader, folder: Path) -> FileTokenizer:
    """The original, after it was written to `folder`. For a worker or a command: it imports a library.

    Raises:
        UnsupportedArtifact: tokenizer.json cannot say what this tokenizer does. BadArtifact: its keys contradict.
        BackendUnavailable: the `tokenizers` library is not installed. OSError: the folder cannot be written.
    """
    original = read_tokenizer(header)
    keys = TokenizerKeys(header)
    if keys.text("model") == "llama":
        whole = _sentence_piece(keys, keys.entries(SPM_ROLES))
    else:
        whole = _byte_level(keys, keys.entries({}))
    added = _added(original)
    whole = {
        "version": "1.0", "truncation": None, "padding": None,
        "added_tokens": [{"id": token, **entry} for token, entry in added.items()], **whole,
        "post_processor": _around(original, whole["post_processor"]),
    }  # fmt: skip
    _write(folder / "tokenizer.json", whole, indent=None)
    special = _special(original, keys)
    _write(folder / "tokenizer_config.json", _config(original, special, keys) | {"added_tokens_decoder": added})
    _write(folder / "special_tokens_map.json", {f"{role}_token": text for role, text in special.items()})
    _write(folder / "generation_config.json", _generation(original, keys, header))
    if original.chat_template is not None:
        (folder / "chat_template.jinja").write_text(original.chat_template, "utf-8")
    _compare(header, folder, original)
    return original


def _byte_level(keys: TokenizerKeys, entries: Entries) -> dict[str, Any]:
    words = pre_tokenizer(keys, entries.ids, None)
    cuts = [
        {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}
        for pattern in words.patterns
    ]
    letters = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
    model = {
        "type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None,
        "end_of_word_suffix": None, "fuse_unk": False, "byte_fallback": False, "ignore_merges": words.ignore_merges,
        "vocab": _used(entries), "merges": keys.merges(),
    }  # fmt: skip
    return {
        "normalizer": None, "pre_tokenizer": {"type": "Sequence", "pretokenizers": [*cuts, letters]},
        "post_processor": letters, "decoder": letters, "model": model,
    }  # fmt: skip


def _sentence_piece(keys: TokenizerKeys, entries: Entries) -> dict[str, Any]:
    prefix = keys.flag("add_space_prefix", default=True)
    spaces = {"type": "Replace", "pattern": {"String": " "}, "content": SPACE}
    back = {"type": "Replace", "pattern": {"String": SPACE}, "content": " "}
    normalizers = [{"type": "Prepend", "prepend": SPACE}, spaces] if prefix else [spaces]
    decoders = [back, {"type": "ByteFallback"}, {"type": "Fuse"}]
    decoders += [{"type": "Strip", "content": " ", "start": 1, "stop": 0}] if prefix else []
    unknown = entries.roles.get("unk")
    model = {
        "type": "BPE", "dropout": None, "unk_token": None if unknown is None else entries.texts[unknown],
        "continuing_subword_prefix": None, "end_of_word_suffix": None, "fuse_unk": True, "byte_fallback": True,
        "ignore_merges": False, "vocab": _used(entries), "merges": _ranked(keys, entries),
    }  # fmt: skip
    return {
        "normalizer": {"type": "Sequence", "normalizers": normalizers}, "pre_tokenizer": None, "post_processor": None,
        "decoder": {"type": "Sequence", "decoders": decoders}, "model": model,
    }  # fmt: skip


def _ranked(keys: TokenizerKeys, entries: Entries) -> list[tuple[str, str]]:
    """Pairs of tokens that make a token, in the order in which SentencePiece would join them."""
    scores = keys.scores()
    hidden = (TokenKind.CONTROL, TokenKind.UNKNOWN, TokenKind.BYTE)
    used = {text: token for text, token in _used(entries).items() if entries.kinds[token] not in hidden}
    ranked: list[tuple[float, int, int, str, str]] = []
    for text, token in used.items():
        for at in range(1, len(text)):
            left, right = text[:at], text[at:]
            if left in used and right in used:
                ranked.append((-scores[token], token, at, left, right))
    ranked.sort()
    return [(left, right) for *_, left, right in ranked]


def _used(entries: Entries) -> dict[str, int]:
    """Tokens but those that only fill up the table: their ids stay free."""
    return {text: token for text, token in entries.ids.items() if entries.kinds[token] != TokenKind.UNUSED}


def _added(original: FileTokenizer) -> dict[int, dict[str, Any]]:
    """Entries of the tokens that are found in text before anything else is done."""
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    vocabulary = original.vocabulary
    return {
        token: {"content": text, **flags, "special": kind != TokenKind.USER_DEFINED}
        for token, (text, kind) in enumerate(zip(vocabulary.texts, vocabulary.kinds, strict=True))
        if text and kind in _SHOWN
    }


def _around(original: FileTokenizer, inner: dict[str, Any] | None) -> dict[str, Any] | None:
    """What puts the begin and end tokens around a text, after `inner`."""
    names = [("bos", original.add_bos, original.bos_id), ("eos", original.add_eos, original.eos_id)]
    used = {role: original.vocabulary.texts[token] for role, on, token in names if on and token is not None}
    if not used:
        return inner

    def template(*places: str) -> list[dict[str, Any]]:
        parts: list[dict[str, Any]] = []
        for number, place in enumerate(places):
            pieces = {"bos": used.get("bos"), "eos": used.get("eos")}
            parts += [{"SpecialToken": {"id": pieces["bos"], "type_id": number}}] if pieces["bos"] else []
            parts += [{"Sequence": {"id": place, "type_id": number}}]
            parts += [{"SpecialToken": {"id": pieces["eos"], "type_id": number}}] if pieces["eos"] else []
        return parts

    ids = {text: original.bos_id if role == "bos" else original.eos_id for role, text in used.items()}
    around = {
        "type": "TemplateProcessing", "single": template("A"), "pair": template("A", "B"),
        "special_tokens": {text: {"id": text, "ids": [token], "tokens": [text]} for text, token in ids.items()},
    }  # fmt: skip
    return {"type": "Sequence", "processors": [inner, around]} if inner else around


def _special(original: FileTokenizer, keys: TokenizerKeys) -> dict[str, str]:
    """Texts of the tokens that have a role."""
    texts = original.vocabulary.texts
    ids = {"bos": original.bos_id, "eos": original.eos_id, "unk": keys.roles(len(texts)).get("unk")}
    ids["pad"] = keys.padding(len(texts))
    return {role: texts[token] for role, token in ids.items() if token is not None and texts[token]}


def _config(original: FileTokenizer, special: dict[str, str], keys: TokenizerKeys) -> dict[str, Any]:
    return {
        "tokenizer_class": "LlamaTokenizer" if keys.text("model") == "llama" else "GPT2Tokenizer",
        "add_bos_token": original.add_bos, "add_eos_token": original.add_eos, "clean_up_tokenization_spaces": False,
        **{f"{role}_token": text for role, text in special.items()},
    }  # fmt: skip


def _generation(original: FileTokenizer, keys: TokenizerKeys, header: GgufHeader) -> dict[str, Any]:
    config: dict[str, Any] = {"bos_token_id": original.bos_id, "eos_token_id": sorted(original.eos_ids)}
    config["pad_token_id"] = keys.padding(len(original.vocabulary.texts))
    config |= sampling_keys.as_folder(sampling_keys.of_gguf(header.metadata).values)
    return {key: value for key, value in config.items() if value is not None}


def _write(path: Path, value: dict[str, Any], indent: int | None = 2) -> None:
    path.write_text(json.dumps(value, ensure_ascii=False, indent=indent), "utf-8")


def _compare(header: GgufHeader, folder: Path, original: FileTokenizer) -> None:
    """Raises: UnsupportedArtifact: the folder does not give the same tokens."""
    read = read_tokenizer_json(folder)
    shown = _texts(original, TokenKind.USER_DEFINED, TokenKind.CONTROL)
    mismatch = difference(read, original, shown, control=True)
    if mismatch is not None:
        raise _refusal(header, mismatch.told("its form there"))
    if read.eos_ids != original.eos_ids:
        raise _refusal(header, f"answers end with {sorted(read.eos_ids)} there, not {sorted(original.eos_ids)}")
    for token in range(original.n_tokens):
        if read.token_bytes(token) != original.token_bytes(token):
            ours, theirs = read.token_bytes(token), original.token_bytes(token)
            raise _refusal(header, f"token {token} is written {ours[:40]!r} there, not {theirs[:40]!r}")


def _texts(original: FileTokenizer, *kinds: TokenKind) -> Sequence[str]:
    vocabulary = original.vocabulary
    return [text for text, kind in zip(vocabulary.texts, vocabulary.kinds, strict=True) if text and kind in kinds]


def _refusal(header: GgufHeader, why: str) -> UnsupportedArtifact:
    return UnsupportedArtifact(
        f"the tokenizer of {header.where} cannot be carried over to tokenizer.json: {why}",
        hint="run the GGUF file itself, or use the tokenizer of its publisher",
    )
