"""Rules of a tokenizer.json that make a text very long are refused before the library sees them; real ones are not."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import pytest
from support.refusals import refuses

from edgellm.errors import BadArtifact
from edgellm.formats.tokenizer import growth
from edgellm.formats.tokenizer.folder import TokenizerFolder

pytest.importorskip("tokenizers")
WORDS = {"[UNK]": 0, "a": 1, "b": 2}
MODEL = {"type": "WordLevel", "vocab": WORDS, "unk_token": "[UNK]"}
WORD_PIECE = {"type": "WordPiece", "vocab": WORDS, "unk_token": "[UNK]", "continuing_subword_prefix": "##"}
BYTES = {"type": "ByteLevel"}
LETTERS = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
CLEAN = {"type": "BertNormalizer", "clean_text": True, "handle_chinese_chars": True, "strip_accents": None}
NFKC = {"type": "NFKC"}
SPACES = {"type": "Replace", "pattern": {"Regex": " {2,}"}, "content": "▁"}


ADDED = {"id": 3, "single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}


def replace(old: str, new: str) -> dict[str, Any]:
    return {"type": "Replace", "pattern": {"String": old}, "content": new}


def sequence(*rules: dict[str, Any], name: str = "normalizers") -> dict[str, Any]:
    return {"type": "Sequence", name: list(rules)}


def charsmap(text: str) -> dict[str, Any]:
    trie = b"\0" * 1024
    table = len(trie).to_bytes(4, "little") + trie + text.encode() + b"\0"
    return {"type": "Precompiled", "precompiled_charsmap": base64.b64encode(table).decode()}


def template(*pieces: str) -> dict[str, Any]:
    single = [{"Sequence": {"id": piece, "type_id": 0}} for piece in pieces]
    return {"type": "TemplateProcessing", "single": single, "pair": [*single, B], "special_tokens": {}}


B = {"Sequence": {"id": "B", "type_id": 1}}
ENDLESS = {"type": "Precompiled", "precompiled_charsmap": base64.b64encode(b"\xff\xff\xff\x3f").decode()}  # 1 GiB
MANY_TOKENS = {"[X]": {"id": "[X]", "ids": [1] * 1000, "tokens": ["a"] * 1000}}


def read(path: Path, **changed: Any) -> None:
    whole = {"version": "1.0", "added_tokens": [], "model": MODEL} | changed
    (path / "tokenizer.json").write_text(json.dumps(whole))
    TokenizerFolder(path).pipeline()


@pytest.mark.parametrize(
    "changed",
    [
        pytest.param({"normalizer": sequence(*[replace("q", "q" * 1000)] * 4)}, id="one letter again and again"),
        pytest.param({"normalizer": sequence(replace("q", "w" * 99), replace("w", "z" * 99))}, id="a chain"),
        pytest.param(
            {"normalizer": sequence(replace("q", "W" * 99), {"type": "Lowercase"}, replace("w", "z" * 99))},
            id="a chain through small letters",
        ),
        pytest.param(
            {"normalizer": sequence(replace("q", "①" * 99), {"type": "NFKC"}, replace("1", "z" * 99))},
            id="a chain through compatible forms",
        ),
        pytest.param({"normalizer": sequence(sequence(replace("q", "q" * 99)), replace("q", "qq" * 9))}, id="nested"),
        pytest.param({"normalizer": replace("q", "q" * 1001)}, id="one long rule"),
        pytest.param({"normalizer": sequence(*[SPACES | {"content": "  "}] * 10)}, id="expressions"),
        pytest.param({"normalizer": sequence(*[{"type": "Prepend", "prepend": "▁"}] * 10)}, id="letters in front"),
        pytest.param({"normalizer": sequence(*[BYTES] * 10)}, id="bytes as letters"),
        pytest.param({"normalizer": sequence(*[{"type": "Lowercase"}] * 300)}, id="many rules"),
        pytest.param({"normalizer": charsmap("q" * 1001)}, id="a table"),
        pytest.param(
            {"pre_tokenizer": sequence(*[LETTERS] * 10, name="pretokenizers")}, id="bytes as letters of words"
        ),
        pytest.param({"decoder": sequence(*[replace("q", "q" * 99)] * 2, name="decoders")}, id="decoder"),
        pytest.param({"post_processor": template("A", "A")}, id="the text twice"),
        pytest.param({"post_processor": template("A") | {"special_tokens": MANY_TOKENS}}, id="many tokens for one"),
        pytest.param({"model": WORD_PIECE | {"max_input_chars_per_word": 10**6}}, id="endless words"),
        pytest.param({"model": WORD_PIECE | {"continuing_subword_prefix": "#" * 1000}}, id="a long prefix"),
        pytest.param({"normalizer": ENDLESS}, id="a table that is longer than itself"),
        pytest.param({"normalizer": {"type": "Lowercase", "more": [[]] * 100_000}}, id="a rule of very many parts"),
        pytest.param({"more": [1] * 4_000_001}, id="very many values"),
        pytest.param(
            {"normalizer": sequence(*[replace("q", "q" * 1000) | {"normalizers": []}] * 3)}, id="rules that name others"
        ),
        pytest.param(
            {"normalizer": sequence(*[{**replace("q", "q"), "type": "Prepend", "prepend": "q" * 99}] * 3)},
            id="rules of two kinds",
        ),
        pytest.param({"more": dict.fromkeys(map(str, range(2**20)), 1)}, id="very many names"),
        pytest.param(
            {"normalizer": sequence(replace("q", "\t" * 99), CLEAN | {"lowercase": False}, replace(" ", "\n" * 99))},
            id="a chain through clean text",
        ),
        pytest.param(
            {"normalizer": sequence(replace("q", "\u200c" * 99), {"type": "Nmt"}, replace(" ", "q" * 99))},
            id="a chain through spaces",
        ),
        pytest.param(
            {"normalizer": sequence(replace("q", "\u3392" * 99), NFKC, {"type": "Lowercase"}, replace("m", "q" * 99))},
            id="a chain through compatible forms and small letters",
        ),
        pytest.param({"normalizer": sequence(replace("q", "\ufdfa" * 99), NFKC)}, id="a letter of 18"),
        pytest.param(
            {"normalizer": sequence(*[*map(replace, "i\u0307", "İİ"), {"type": "Lowercase"}] * 10)},
            id="a small letter of 2",
        ),
        pytest.param({"normalizer": sequence(*[CLEAN] * 6)}, id="spaces around letters"),
        pytest.param({"added_tokens": [ADDED | {"content": "a" * 513}]}, id="a long special token"),
        pytest.param({"normalizer": sequence(NFKC, replace("\u0644", "q" * 99))}, id="each of the 18 letters of one"),
    ],
)
def test_rules_that_multiply_are_refused(tmp_path: Path, changed: dict[str, Any]) -> None:
    with refuses(BadArtifact):
        read(tmp_path, **changed)


def test_a_tree_of_tokens_is_counted_before_it_is_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The library takes 340 bytes for each letter of it: 2 MB of tokens took 674 MB."""
    model = {"type": "Unigram", "unk_id": 0, "vocab": [["u", 0.0], ["abc", -1.0], ["abd", -2]]}
    monkeypatch.setattr(growth, "MAX_TRIE", 5)
    read(tmp_path, model=model)
    monkeypatch.setattr(growth, "MAX_TRIE", 4)
    with refuses(BadArtifact):
        read(tmp_path, model=model)


def test_letters_of_added_tokens_are_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized", "special"), False)
    added = [{"id": 3, "content": "<abc>"} | flags]
    monkeypatch.setattr(growth, "MAX_ADDED", 5)
    read(tmp_path, added_tokens=added)
    monkeypatch.setattr(growth, "MAX_ADDED", 4)
    with refuses(BadArtifact):
        read(tmp_path, added_tokens=added)


REAL = {
    "bert": {
        "normalizer": CLEAN | {"lowercase": True},
        "pre_tokenizer": {"type": "BertPreTokenizer"},
        "post_processor": {"type": "BertProcessing", "sep": ["b", 2], "cls": ["a", 1]},
        "model": WORD_PIECE | {"max_input_chars_per_word": 100},
    },
    "xlm-roberta": {
        "normalizer": sequence(charsmap("صلى الله عليه وسلم"), SPACES),
        "pre_tokenizer": {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": True},
        "decoder": {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": True},
    },
    "albert": {
        "normalizer": sequence(
            replace("``", '"'), replace("''", '"'), {"type": "NFKD"}, {"type": "StripAccents"}, {"type": "Lowercase"},
            charsmap("صلى الله عليه وسلم"),
        ),
    },
    "clip": {
        "normalizer": sequence(
            {"type": "NFC"}, {"type": "Replace", "pattern": {"Regex": "\\s+"}, "content": " "}, {"type": "Lowercase"}
        ),
    },
    "llama 2": {
        "normalizer": sequence({"type": "Prepend", "prepend": "▁"}, replace(" ", "▁")),
        "decoder": sequence(
            replace("▁", " "), {"type": "ByteFallback"}, {"type": "Fuse"},
            {"type": "Strip", "content": " ", "start": 1, "stop": 0}, name="decoders",
        ),
        "post_processor": template("A"),
    },
    "ligatures": {"normalizer": sequence(*[replace(chr(0xFB00 + i), "xyz"[: 1 + i % 3]) for i in range(200)])},
}  # fmt: skip


@pytest.mark.parametrize("name", REAL)
def test_rules_of_real_models_are_read(tmp_path: Path, name: str) -> None:
    read(tmp_path, **REAL[name])
