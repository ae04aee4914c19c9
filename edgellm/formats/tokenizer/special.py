"""Finds special tokens in text, before anything else is done with it."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping

from edgellm.formats.tokenizer.kinds import TokenKind

_PREFIX = 4  # characters: "<|im", "</to"
MAX_CHARS = 512  # of a special token; the longest in use has about 40


class SpecialTokens:
    """Cuts text at special tokens: the leftmost, and of those that begin at one place the longest."""

    def __init__(self, ids: Mapping[str, int]) -> None:
        self._ids = ids
        # How much of a token its lengths are looked up by: as much as the shortest with its first character has.
        self._widths: dict[str, int] = {}
        for text in ids:
            self._widths[text[0]] = min(self._widths.get(text[0], _PREFIX), len(text))
        self._lengths: dict[str, list[int]] = {}  # by prefix, longest first
        for text in sorted(ids, key=len, reverse=True):
            lengths = self._lengths.setdefault(text[: self._widths[text[0]]], [])
            if not lengths or lengths[-1] != len(text):
                lengths.append(len(text))
        starts = "".join(map(re.escape, self._widths))
        self._start = re.compile(f"[{starts}]") if starts else None

    def encode(self, text: str, encode_text: Callable[[str], list[int]]) -> list[int]:
        """Ids of `text`: special tokens as they are, what lies between them by `encode_text`."""
        if self._start is None:
            return encode_text(text)
        out: list[int] = []
        done = at = 0
        while (match := self._start.search(text, at)) is not None:
            at = match.start()
            token = self._token_at(text, at)
            if token is None:
                at += 1
                continue
            if at > done:
                out += encode_text(text[done:at])
            out.append(self._ids[token])
            done = at = at + len(token)
        if done < len(text):
            out += encode_text(text[done:])
        return out

    def places(self, text: str) -> Iterator[int]:
        """Where tokens begin, those inside of others too."""
        if self._start is None:
            return
        for match in self._start.finditer(text):
            if self._token_at(text, match.start()) is not None:
                yield match.start()

    def _token_at(self, text: str, at: int) -> str | None:
        for length in self._lengths.get(text[at : at + self._widths[text[at]]], ()):
            token = text[at : at + length]
            if token in self._ids:
                return token
        return None


def splitter(
    ids: Mapping[str, int], kinds: list[int], encode_text: Callable[[str], list[int]]
) -> Callable[[str, bool], list[int]]:
    """`split` of a `Tokenizer`: control tokens are found only where `parse_special` allows them."""
    special = (TokenKind.USER_DEFINED, TokenKind.CONTROL, TokenKind.UNKNOWN)
    texts = {text: token for text, token in ids.items() if kinds[token] in special}
    visible = {text: token for text, token in texts.items() if kinds[token] == TokenKind.USER_DEFINED}
    parsed, plain = SpecialTokens(texts), SpecialTokens(visible)
    return lambda text, parse_special: (parsed if parse_special else plain).encode(text, encode_text)
