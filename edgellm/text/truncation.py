"""Which messages of a conversation go where all of them are too many for the context: the oldest, in whole pieces."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence

from edgellm.types.message import Message

ROOM = 256  # tokens that are kept free for an answer whose length nobody bounds
_LEAST_SHARE = 8  # of the context, in a short one
_LINES = 12  # tries, before halves are tried


def room(max_tokens: int | None, n_ctx: int) -> int:
    """Tokens that are kept free for the answer: those that it may have, but no more than half of the context."""
    return min(ROOM, n_ctx // _LEAST_SHARE) if max_tokens is None else min(max_tokens, n_ctx // 2)


def truncated(
    messages: Sequence[Message], count: Callable[[Sequence[Message]], float], most: int, n_whole: float = math.inf
) -> list[Message]:
    """A conversation of more than `most` tokens, without as many of its oldest pieces as must go.

    A piece is what follows from one message of the user, or, of the last one, an answer with calls and their results.
    What the user said last, the last answer and all system messages stay, even where that is too much.

    Args:
        count: tokens of a part of it, math.inf = more than are counted. It may be told too high, but not beyond `most`
            where that is not so. It takes as long as what it is given.
        n_whole: tokens of all of it.
    """
    pieces = list(_pieces(messages))

    def without(n: int) -> list[Message]:
        gone = {index for piece in pieces[:n] for index in piece}
        return [message for index, message in enumerate(messages) if index not in gone]

    search = FitSearch(len(pieces), most, n_whole)
    while search.goes_on:
        search.note(count(without(len(pieces) - search.kept)))
    return without(len(pieces) - search.most_kept)


class FitSearch:
    """For how many pieces, or letters of a text, fit, by counts of tokens: where a line through the two nearest says.

    Where one of these stays for long, its weight is halved (the Illinois rule), and at last the middle is taken.

    Attributes:
        kept: so many are to be counted next.
        most_kept: that fit, as far as is known; none are taken to fit.
        n_tries: so many were counted.
    """

    def __init__(self, n: int, most: int, n_whole: float) -> None:
        self.most_kept, self._too_many = 0, n
        self._most = most
        self._room, self._excess = float(most), n_whole - most  # of tokens, at these two
        self.n_tries = 0
        self._fitted: bool | None = None  # what was counted last
        self.kept = self._next()

    @property
    def goes_on(self) -> bool:
        return self._too_many - self.most_kept > 1

    def note(self, n_tokens: float) -> None:
        """What `kept` pieces have."""
        fits, self.n_tries = n_tokens <= self._most, self.n_tries + 1
        if fits:
            self.most_kept, self._room = self.kept, self._most - n_tokens
            self._excess /= 1 + (self._fitted is True)
        else:
            self._too_many, self._excess = self.kept, n_tokens - self._most
            self._room /= 1 + (self._fitted is False)
        self._fitted = fits
        self.kept = self._next()

    def _next(self) -> int:
        low, high = self.most_kept, self._too_many
        if self._excess == math.inf and 2 * low < high:
            return max(2 * low, 1)
        if self._excess == math.inf or self.n_tries > _LINES:
            return (low + high) // 2
        at = low + int((high - low) * self._room / (self._room + self._excess))
        return min(max(at, low + 1), high - 1)


def _pieces(messages: Sequence[Message]) -> Iterator[list[int]]:
    """Indices of the messages of each, the oldest first."""
    said = [index for index, message in enumerate(messages) if message.role != "system"]
    last = max((index for index in said if messages[index].role == "user"), default=-1)
    yield from _split(messages, [index for index in said if index < last], "user")
    yield from list(_split(messages, [index for index in said if index > last], "assistant"))[:-1]


def _split(messages: Sequence[Message], indices: Sequence[int], role: str) -> Iterator[list[int]]:
    """Runs of them, each of which begins with a message of that role, but for the first."""
    piece: list[int] = []
    for index in indices:
        if piece and messages[index].role == role:
            yield piece
            piece = []
        piece.append(index)
    if piece:
        yield piece
