"""Finds special tokens in text, before anything else is done with it."""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Callable, Iterator, Mapping

from edgellm.formats.tokenizer.kinds import TokenKind

MAX_CHARS = 512  # of a special token; the longest in use has about 40


class SpecialTokens:
    """Cuts text at special tokens: the leftmost, and of those that begin at one place the longest.

    A hostile file may have thousands that differ only behind a long beginning that they share, so none is looked up by
    its length: in sorted order, every token that begins what follows in the text begins the one right before that, too.
    """

    def __init__(self, ids: Mapping[str, int]) -> None:
        self._ids = ids
        self._texts = sorted(ids)
        self._longest = max(map(len, ids), default=0)
        self._inside: list[int] = []  # for each, the longest other that it begins with; -1 = none
        self._shortest: list[str] = []  # for each, the shortest that it begins with, perhaps itself
        around: list[int] = []
        for text in self._texts:
            while around and not text.startswith(self._texts[around[-1]]):
                around.pop()
            self._inside.append(around[-1] if around else -1)
            self._shortest.append(self._texts[around[0]] if around else text)
            around.append(len(self._inside) - 1)
        starts = "".join(map(re.escape, dict.fromkeys(text[0] for text in ids)))
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
            at = match.start()
            if (index := self._before(text, at)) >= 0 and text.startswith(self._shortest[index], at):
                yield at

    def within(self, text: str) -> set[str]:
        """Those that stand in `text`."""
        seen: set[int] = set()
        for at in self.places(text):
            index = self._index_at(text, at)
            while index >= 0 and index not in seen:
                seen.add(index)
                index = self._inside[index]
        return {self._texts[index] for index in seen}

    def _before(self, text: str, at: int) -> int:
        """The last token, in sorted order, that does not come after what follows there; -1 = none."""
        return bisect_right(self._texts, text[at : at + self._longest]) - 1

    def _token_at(self, text: str, at: int) -> str | None:
        index = self._index_at(text, at)
        return self._texts[index] if index >= 0 else None

    def _index_at(self, text: str, at: int) -> int:
        """Of the longest token that begins there; -1 = none."""
        index = self._before(text, at)
        if index < 0 or not text.startswith(self._shortest[index], at):
            return -1
        while not text.startswith(self._texts[index], at):
            index = self._inside[index]
        return index


def splitter(
    ids: Mapping[str, int], kinds: list[int], encode_text: Callable[[str], list[int]]
) -> Callable[[str, bool], list[int]]:
    """`split` of a `Tokenizer`: control tokens are found only where `parse_special` allows them."""
    special = (TokenKind.USER_DEFINED, TokenKind.CONTROL, TokenKind.UNKNOWN)
    texts = {text: token for text, token in ids.items() if kinds[token] in special}
    visible = {text: token for text, token in texts.items() if kinds[token] == TokenKind.USER_DEFINED}
    parsed, plain = SpecialTokens(texts), SpecialTokens(visible)
    return lambda text, parse_special: (parsed if parse_special else plain).encode(text, encode_text)
