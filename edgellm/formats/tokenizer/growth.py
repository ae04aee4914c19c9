"""How much longer than a text a tokenizer.json may make it, judged before the library reads the file.

The library normalizes tokens while it loads, and has no limits: four rules that write a thousand letters for one ask
for a terabyte. Rules are told by their keys, as the library reads those without a type, too.
"""

from __future__ import annotations

import base64
import math
import unicodedata
from collections.abc import Iterator
from typing import Any

import msgspec

from edgellm.errors import UsageError
from edgellm.formats.tokenizer.special import MAX_CHARS
from edgellm.types import json_counts

MOST = 1000  # times
# The library takes some hundred bytes for each. 262,144 tokens with their merges have 1.8 million, with 300,000 names;
# 901,629, which have scores and no names, 2.7 million.
MAX_VALUES, MAX_NAMES = 4_000_000, 2**20
MAX_TRIE = 3_000_000  # letters of Unigram's tokens, shared beginnings once: the library takes 340 bytes for each
MAX_ADDED = 2_000_000  # letters of all added tokens, for each of which it takes 75 bytes
MAX_RULES = 256  # of each kind
# Rules that change letters as `_letters` does; with what one letter can become, as Unicode 16 has it. Others may write
# any (Nmt and BertNormalizer make spaces of many signs), and so do those without a type.
_FORMS = {"NFC": 3, "NFD": 4, "NFKC": 18, "NFKD": 18, "Lowercase": 2}
_PLAIN = {*_FORMS, "Replace", "Prepend", "Sequence", "StripAccents"}
_BERT = 4  # spaces around a Chinese letter are 3, letters without accents 4
MAX_PIECES = 64  # around a text, and tokens for each
MAX_AFFIX = 64  # characters that the model puts around each part of a word
MAX_WORD = 1000  # characters: WordPiece takes time by their cube


class Excess(ValueError):
    """`key` of the file is `why`."""

    def __init__(self, key: str, why: str) -> None:
        super().__init__(f"{key} {why}")
        self.key = key
        self.why = why


_NONE = msgspec.Raw(b"null")


class _Model(msgspec.Struct):
    vocab: msgspec.Raw = _NONE
    continuing_subword_prefix: str | None = None
    end_of_word_suffix: str | None = None
    max_input_chars_per_word: int = 0


class _Added(msgspec.Struct):
    content: str


class _File(msgspec.Struct):
    model: _Model
    added_tokens: list[_Added] | None = None
    normalizer: msgspec.Raw = _NONE
    pre_tokenizer: msgspec.Raw = _NONE
    post_processor: msgspec.Raw = _NONE
    decoder: msgspec.Raw = _NONE


def check_growth(file: bytes) -> None:
    """
    Raises:
        Excess: a text could become too long, or take too long; or the file has more tokens than any tokenizer.
        msgspec.MsgspecError: it is not JSON, or not of that shape.
    """
    if (n_values := sum(map(file.count, (b",", b"[", b"{")))) > MAX_VALUES or file.count(b":") > MAX_NAMES:
        why = f"has {n_values} values; {MAX_VALUES} are allowed, and {MAX_NAMES} with a name"
        raise Excess("the file", why)
    whole = msgspec.json.decode(file, type=_File)
    if (n_added := sum(len(token.content.encode()) for token in whole.added_tokens or ())) > MAX_ADDED:
        raise Excess("added_tokens", f"have {n_added} letters, {MAX_ADDED} are allowed")
    if (longest := max((len(token.content) for token in whole.added_tokens or ()), default=0)) > MAX_CHARS:
        raise Excess("added_tokens", f"have one of {longest} characters, {MAX_CHARS} are allowed")
    if bytes(memoryview(whole.model.vocab)[:1]) == b"[":
        _check_trie(whole.model.vocab)
    for key in ("normalizer", "pre_tokenizer", "decoder"):
        times = _growth(list(_rules(key, _decoded(key, getattr(whole, key)))))
        if times > MOST:
            raise Excess(key, f"can make a text {times:.0f} times as long, {MOST} times are allowed")
    for rule in _rules("post_processor", _decoded("post_processor", whole.post_processor)):
        _check_pieces(rule)
    for name in ("continuing_subword_prefix", "end_of_word_suffix"):
        if len(getattr(whole.model, name) or "") > MAX_AFFIX:
            raise Excess(f"model.{name}", f"is longer than {MAX_AFFIX} characters")
    if whole.model.max_input_chars_per_word > MAX_WORD:
        words = f"is {whole.model.max_input_chars_per_word}, {MAX_WORD} are allowed"
        raise Excess("model.max_input_chars_per_word", words)


def _check_trie(vocab: msgspec.Raw) -> None:
    """Of a list of tokens with their scores, which the library makes a trie of, byte by byte."""
    rows = msgspec.json.decode(vocab, type=list[tuple[str, float]])
    size, before = 0, b""
    for token in sorted(text.encode() for text, _ in rows):
        shared = next((at for at, (a, b) in enumerate(zip(before, token, strict=False)) if a != b), len(before))
        size += len(token) - shared
        before = token
    if size > MAX_TRIE:
        raise Excess("model.vocab", f"makes a tree of {size} letters, {MAX_TRIE} are allowed")


def _decoded(key: str, component: msgspec.Raw) -> Any:
    try:
        json_counts.check_counts(bytes(component), what="it")
    except UsageError:
        why = f"has more than {json_counts.MAX_VALUES} values, or is nested more than {json_counts.MAX_DEPTH} deep"
        raise Excess(key, why) from None
    return msgspec.json.decode(component)


def _rules(key: str, component: Any) -> Iterator[dict[str, Any]]:
    """Those that a component is made of, in their order."""
    pending, n_rules = [component] if component is not None else [], 0
    while pending:
        rule = pending.pop()
        n_rules += 1
        if not isinstance(rule, dict) or n_rules > MAX_RULES:
            raise Excess(key, f"is no rule, or more than {MAX_RULES}")
        inner = [value for value in rule.values() if isinstance(value, list)]
        names = {"normalizers", "pretokenizers", "processors", "decoders"} & rule.keys()
        if names:
            pending.extend(rule for part in inner for rule in reversed(part))
        yield rule  # also what names others: the library goes by its type, and by keys where it has none


def _growth(rules: list[dict[str, Any]]) -> float:
    """Rules that cannot read what earlier ones wrote do not add up: the largest of them counts."""
    together, alone, formed = 1.0, 1.0, 1.0
    written: set[str] = set()
    of_written = dict.fromkeys(_FORMS, 1)  # what the forms make of one letter
    is_opaque = False
    for rule in rules:
        times, reads = _times(rule)
        if (form := str(rule.get("type"))) in _FORMS:
            alone = max(alone, _FORMS[form])
            formed = max(formed, _FORMS[form])
            together *= _FORMS[form] if is_opaque else of_written[form]
        elif reads is None or is_opaque or reads & written:
            together *= times
        else:
            alone = max(alone, formed * times)  # each letter that a form made of one may be one that it reads
        new = _letters(f"{rule.get('content', '')}{rule.get('prepend', '')}{rule.get('replacement', '')}") - written
        written |= new
        for shape in of_written:
            of_written[shape] = max([of_written[shape], *(len(_shaped(shape, letter)) for letter in new)])
        is_opaque = is_opaque or form not in _PLAIN
    return together * alone


def _times(rule: dict[str, Any]) -> tuple[float, set[str] | None]:
    """How many characters one of a text can become, and which it has to be; None = any."""
    times, reads = [2 if _is_byte_level(rule) else _BERT if "clean_text" in rule else 1], set[str]()
    if "pattern" in rule and "content" in rule:
        pattern, length = rule["pattern"], len(str(rule["content"]))
        text = pattern.get("String") if isinstance(pattern, dict) else pattern
        if isinstance(text, str) and text:
            times.append(math.ceil(length / len(text)))
            reads = _letters(text)
        else:
            times.append(1 + length)  # it may match between any two characters
    if "prepend" in rule:
        times.append(1 + len(str(rule["prepend"])))
    if "precompiled_charsmap" in rule:
        times.append(_longest(rule["precompiled_charsmap"]))
    is_known = bool(reads) and not {"prepend", "precompiled_charsmap"} & rule.keys() and not _is_byte_level(rule)
    return max(times), reads if is_known else None


def _is_byte_level(rule: dict[str, Any]) -> bool:
    return rule.get("type") == "ByteLevel" or "trim_offsets" in rule


def _shaped(form: str, letter: str) -> str:
    return letter.lower() if form == "Lowercase" else unicodedata.normalize(form, letter)  # type: ignore[arg-type]


def _letters(text: str) -> set[str]:
    """Also as other rules may make them: without case and accents, compatible forms as one."""
    plain = unicodedata.normalize("NFKD", text.casefold())
    return {*text, *plain, *unicodedata.normalize("NFKD", plain.casefold())}  # of U+3392, "MHz", then "mhz"


def _longest(charsmap: Any) -> int:
    """Of SentencePiece's replacements: behind a trie, whose length comes first, they end with a zero byte each."""
    try:
        table = base64.b64decode(charsmap or "")
    except (TypeError, ValueError):
        raise Excess("normalizer.precompiled_charsmap", "is not base64") from None
    n_trie = int.from_bytes(table[:4], "little")
    if 4 + n_trie > len(table):  # the library asks for twice as much memory
        raise Excess("normalizer.precompiled_charsmap", f"has {len(table)} bytes, and a trie of {n_trie}")
    texts = table[4 + n_trie :]
    return max(1, *map(len, texts.split(b"\0")))


def _check_pieces(rule: dict[str, Any]) -> None:
    for form in ("single", "pair"):
        pieces = rule.get(form) or []
        names = [str(piece) for piece in pieces if isinstance(piece, dict) and "Sequence" in piece]
        if len(pieces) > MAX_PIECES or len(names) > (1 if form == "single" else 2):
            raise Excess(f"post_processor.{form}", "writes the text more than once, or too much around it")
    special = rule.get("special_tokens")
    for token in special.values() if isinstance(special, dict) else ():
        if isinstance(token, dict) and len(token.get("ids") or ()) > MAX_PIECES:
            raise Excess("post_processor.special_tokens", f"has one of more than {MAX_PIECES} tokens")
