"""Tokens, merges and ids of a file's tokenizer, checked before native code takes them: see fields.py.

Every token is read, which takes 0.4 us each: for what opens the file next, not for listing it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from edgellm.formats.gguf.cursor import LongArray
from edgellm.formats.gguf.fields import refuse
from edgellm.formats.gguf.header import GgufHeader
from edgellm.formats.gguf.reader import read_array

NO_ID = 2**32 - 1  # how some converters write that there is no such token
SAMPLE = 256  # merges that are looked at
MOST_KIND = 6  # LLAMA_TOKEN_TYPE_BYTE
# Native code disables the others (padding, mask, ...) where they lie outside of the vocabulary.
_IDS = ("bos", "eos", "eot", "eom", "unknown")
_SCORED = ("llama", "t5")  # kinds of tokenizer that choose by the scores of their tokens
_OF_ARCH = {"rwkv": "rwkv", "plamo2": "plamo"}  # kinds for one family of architectures
_WORD_START = "▁".encode()


def check(header: GgufHeader) -> None:
    """
    Raises:
        BadArtifact: names the key, and what is wrong with it.
    """
    tokens = [_bytes(token) for token in _array(header, "tokens")]
    if not tokens:
        return  # native code refuses that in words of its own
    filled = [token for token in tokens if token]  # empty ones get names of their own
    if len(set(filled)) != len(filled):
        refuse(header, "tokenizer.ggml.tokens", "each token may be there once")
    _check_kind(header, tokens)
    kinds = _array(header, "token_type")
    if any(not 0 <= kind <= MOST_KIND for kind in set(kinds)):
        refuse(header, "tokenizer.ggml.token_type", f"kinds are 0 to {MOST_KIND}")
    for name in _IDS:
        key = f"tokenizer.ggml.{name}_token_id"
        value = header.metadata.get(key, NO_ID)
        if value != NO_ID and not (isinstance(value, int) and 0 <= value < len(tokens)):
            refuse(header, key, f"the vocabulary has {len(tokens)} tokens")


def _check_kind(header: GgufHeader, tokens: Sequence[bytes]) -> None:
    """The tokenizer is of the kind that its tokens are for. One of another kind would cut every text into noise."""
    kind = header.metadata.get("tokenizer.ggml.model")
    if kind in _SCORED and len(_array(header, "scores")) < len(tokens):
        refuse(header, "tokenizer.ggml.scores", f"a tokenizer of kind {kind} needs one for each token")
    if kind == "bert" and not any(token.startswith(_WORD_START) for token in tokens):
        refuse(header, "tokenizer.ggml.model", "no token begins a word as those of this kind do")
    if kind in _OF_ARCH and _OF_ARCH[str(kind)] not in header.architecture:
        refuse(header, "tokenizer.ggml.model", f"it is for other architectures than {header.architecture}")
    if kind == "gpt2":
        _check_merges(header, frozenset(tokens))


def _check_merges(header: GgufHeader, tokens: frozenset[bytes]) -> None:
    """Most of the first merges make a token of two. A list of others would merge nothing."""
    merges = [_bytes(merge) for merge in _array(header, "merges")[:SAMPLE]]
    pairs = [(merge[: merge.find(b" ", 1)], merge[merge.find(b" ", 1) + 1 :]) for merge in merges if b" " in merge[1:]]
    made = sum(first + second in tokens for first, second in pairs)
    if 2 * made < len(merges):
        refuse(header, "tokenizer.ggml.merges", f"of the first {len(merges)}, {made} make a token of the vocabulary")


def _array(header: GgufHeader, name: str) -> Sequence[Any]:
    """The elements of a key of the tokenizer; none where it is no array."""
    key = f"tokenizer.ggml.{name}"
    return read_array(header, key) if isinstance(header.metadata.get(key), tuple | LongArray) else ()


def _bytes(text: str | bytes) -> bytes:
    return text.encode(errors="surrogateescape") if isinstance(text, str) else text
