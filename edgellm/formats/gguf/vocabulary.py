"""Tokens, merges and ids of a file's tokenizer, checked before native code takes them: see fields.py.

Every token is read, which takes 0.1 s where there are 262,144: for what opens the file next, not for listing it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from edgellm.formats.gguf.cursor import SHORT_TEXT_BYTES, LongArray
from edgellm.formats.gguf.fields import refuse
from edgellm.formats.gguf.header import GgufHeader
from edgellm.formats.gguf.reader import array_length, read_array

MAX_TOKENS = 2**20  # the largest known vocabulary has 901,629
MAX_TEXT_BYTES = 32 * 1024**2  # of all tokens, and of all merges; 12 MiB are the most known
MAX_TOKEN_BYTES = 4096  # 1,024 are the most known
MOST_MERGES = 8  # for each token; 2.3 are the most known
NO_ID = 2**32 - 1  # how some converters write that there is no such token
SAMPLE = 256  # merges that are looked at
MOST_KIND = BYTE_KIND = 6  # LLAMA_TOKEN_TYPE_BYTE
_WITHOUT_BYTES = ("bert", "rwkv", "plamo2")  # kinds whose native code ends at a token of a single byte
# Native code disables the others (padding, mask, ...) where they lie outside of the vocabulary.
_IDS = ("bos", "eos", "eot", "eom", "unknown")
_SCORED = ("llama", "t5")  # kinds of tokenizer that choose by the scores of their tokens
_OF_ARCH = {"rwkv": "rwkv", "plamo2": "plamo"}  # kinds for one family of architectures
# What is put around a text unasked, and the ids that native code takes where the file names none.
_ADDED = {"llama": ("bos",), "bert": ("bos", "seperator"), "gemma4": ("bos",)}
_DEFAULT_IDS = {
    ("llama", "bos"): 1, ("llama", "eos"): 2, ("bert", "bos"): 101, ("bert", "seperator"): 102, ("t5", "eos"): 1,
    ("gpt2", "bos"): 11, ("gpt2", "eos"): 11, ("hybriddna", "bos"): 11, ("hybriddna", "eos"): 11,
    ("whitespace", "bos"): 11, ("whitespace", "eos"): 11, ("plamo2", "bos"): 1, ("plamo2", "eos"): 2,
}  # fmt: skip
_NO_TOKENIZER = ("no_vocab", "none", "test")
_WORD_START = "▁".encode()


def token_kinds(header: GgufHeader) -> tuple[int, ...]:
    """Kind of each token (`formats.tokenizer.kinds.TokenKind`), by id; () where the file does not say."""
    check_lengths(header)
    return tuple(_array(header, "token_type")) if array_length(header, "tokenizer.ggml.tokens") else ()


def check_lengths(header: GgufHeader) -> None:
    """What is read of the tokenizer's arrays takes memory by the size of a vocabulary, and not by that of the file.

    Raises:
        BadArtifact: one is longer than any vocabulary, or has not a value for each token.
    """
    n_tokens = array_length(header, "tokenizer.ggml.tokens")
    if not n_tokens:
        return  # nothing else is read then
    for name, most in (("tokens", MAX_TOKENS), ("merges", MOST_MERGES * n_tokens)):
        key = f"tokenizer.ggml.{name}"
        value = header.metadata.get(key)
        if array_length(header, key) > most:
            refuse(header, key, f"at most {most} are allowed")
        if isinstance(value, LongArray) and value.n_bytes > MAX_TEXT_BYTES:
            refuse(header, key, f"it has {value.n_bytes} bytes, {MAX_TEXT_BYTES} are allowed")
    for name in ("token_type", "scores"):
        key = f"tokenizer.ggml.{name}"
        if isinstance(header.metadata.get(key), tuple | LongArray) and array_length(header, key) != n_tokens:
            refuse(header, key, f"one for each of {n_tokens} tokens is needed")


def check(header: GgufHeader) -> None:
    """
    Raises:
        BadArtifact: names the key, and what is wrong with it.
    """
    if header.metadata.get("tokenizer.ggml.model") in _NO_TOKENIZER:
        refuse(header, "tokenizer.ggml.model", "a model without a tokenizer is not run")
    _check_template(header)
    check_lengths(header)
    tokens = _texts(header, "tokens")
    if not tokens:
        return  # native code refuses that in words of its own
    if (longest := max(map(len, tokens))) > MAX_TOKEN_BYTES:
        refuse(header, "tokenizer.ggml.tokens", f"one has {longest} bytes, {MAX_TOKEN_BYTES} are allowed")
    distinct = frozenset(tokens)
    # Empty ones get names of their own.
    if len(distinct) != len(tokens) - max(0, tokens.count(b"") - 1):
        refuse(header, "tokenizer.ggml.tokens", "each token may be there once")
    _check_kind(header, distinct)
    kinds = set(_array(header, "token_type"))
    if not all(isinstance(kind, int) and 0 <= kind <= MOST_KIND for kind in kinds):
        refuse(header, "tokenizer.ggml.token_type", f"kinds are 0 to {MOST_KIND}")
    kind = header.metadata.get("tokenizer.ggml.model")
    if kind in _WITHOUT_BYTES and BYTE_KIND in kinds:
        refuse(header, "tokenizer.ggml.token_type", f"a tokenizer of kind {kind} has no tokens of single bytes")
    for name in _IDS:
        key = f"tokenizer.ggml.{name}_token_id"
        value = header.metadata.get(key, NO_ID)
        if value != NO_ID and not (isinstance(value, int) and 0 <= value < len(tokens)):
            refuse(header, key, f"the vocabulary has {len(tokens)} tokens")
    _check_added(header, len(tokens))


def _check_template(header: GgufHeader) -> None:
    """It is kept, sent to the server, and told to whoever asks."""
    key = "tokenizer.chat_template"
    if isinstance(header.metadata.get(key), LongArray):
        refuse(header, key, f"a template has at most {SHORT_TEXT_BYTES} bytes")


def _check_kind(header: GgufHeader, tokens: frozenset[bytes]) -> None:
    """The tokenizer is of the kind that its tokens are for. One of another kind would cut every text into noise."""
    kind = header.metadata.get("tokenizer.ggml.model")
    if kind in _SCORED and not array_length(header, "tokenizer.ggml.scores"):
        refuse(header, "tokenizer.ggml.scores", f"a tokenizer of kind {kind} needs one for each token")
    if kind == "llama":
        _check_bytes(header, tokens)
    if kind == "bert" and not any(token.startswith(_WORD_START) for token in tokens):
        refuse(header, "tokenizer.ggml.model", "no token begins a word as those of this kind do")
    if kind in _OF_ARCH and _OF_ARCH[str(kind)] not in header.architecture:
        refuse(header, "tokenizer.ggml.model", f"it is for other architectures than {header.architecture}")
    if kind == "gpt2":
        _check_merges(header, tokens)


def _check_bytes(header: GgufHeader, tokens: frozenset[bytes]) -> None:
    """Native code ends at a character that no token spells, not even byte by byte."""
    missing = [byte for byte in range(256) if b"<0x%02X>" % byte not in tokens and bytes([byte]) not in tokens]
    if missing:
        refuse(header, "tokenizer.ggml.tokens", f"a tokenizer of kind llama has none for byte {missing[0]}")


def _check_merges(header: GgufHeader, tokens: frozenset[bytes]) -> None:
    """Most of the first merges make a token of two. A list of others would merge nothing."""
    merges = _texts(header, "merges", SAMPLE)
    pairs = [(merge[: merge.find(b" ", 1)], merge[merge.find(b" ", 1) + 1 :]) for merge in merges if b" " in merge[1:]]
    made = sum(first + second in tokens for first, second in pairs)
    if 2 * made < len(merges):
        refuse(header, "tokenizer.ggml.merges", f"of the first {len(merges)}, {made} make a token of the vocabulary")


def _check_added(header: GgufHeader, n_tokens: int) -> None:
    """What is put around each text is there: native code aborts where it is not."""
    kind = str(header.metadata.get("tokenizer.ggml.model"))
    added = {*_ADDED.get(kind, ()), *(name for name in ("bos", "eos") if _is_asked(header, f"add_{name}_token"))}
    for name in sorted(added):
        key = f"tokenizer.ggml.{name}_token_id"
        value = header.metadata.get(key, NO_ID)
        default = _DEFAULT_IDS.get((kind, name), NO_ID)
        if not any(isinstance(number, int) and number < n_tokens for number in (value, default)):
            refuse(header, key, f"the tokenizer puts it around each text, and the vocabulary has {n_tokens} tokens")


def _is_asked(header: GgufHeader, name: str) -> bool:
    return header.metadata.get(f"tokenizer.ggml.{name}") is True


def _array(header: GgufHeader, name: str, most: int | None = None) -> Sequence[Any]:
    """The first elements of a key of the tokenizer; none where it is no array."""
    key = f"tokenizer.ggml.{name}"
    return read_array(header, key, most) if isinstance(header.metadata.get(key), tuple | LongArray) else ()


def _texts(header: GgufHeader, name: str, most: int | None = None) -> Sequence[bytes]:
    """Strings as native code reads them: each ends at a zero byte. None where they are no strings."""
    texts = _array(header, name, most)
    if not texts or not isinstance(texts[0], str | bytes):
        return ()
    if isinstance(texts[0], str):
        texts = [text.encode(errors="surrogateescape") for text in texts]
    return [text.partition(b"\0")[0] for text in texts] if b"\0" in b"".join(texts) else texts
