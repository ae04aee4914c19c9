"""Which messages of a conversation go where all of them are too many for the context: the oldest, in whole pieces."""

from __future__ import annotations

import bisect
from collections.abc import Callable, Iterator, Sequence

from edgellm.types.message import Message

ROOM = 256  # tokens that are kept free for an answer whose length nobody bounds
_LEAST_SHARE = 8  # of the context, in a short one


def room(max_tokens: int | None, n_ctx: int) -> int:
    """Tokens that are kept free for the answer: those that it may have, but no more than half of the context."""
    return min(ROOM, n_ctx // _LEAST_SHARE) if max_tokens is None else min(max_tokens, n_ctx // 2)


def truncated(messages: Sequence[Message], fits: Callable[[Sequence[Message]], bool]) -> list[Message]:
    """A conversation that does not fit, without as many of its oldest pieces as must go.

    A piece is what follows from one message of the user, or, of the last one, an answer with calls and their results.
    What the user said last, the last answer and all system messages stay, even where that is too much. Twice as many
    pieces are tried each time, the latest first, until they do not fit: `fits` takes as long as what it is given, and
    is never given much more than what fits.
    """
    pieces = list(_pieces(messages))

    def without(n: int) -> list[Message]:
        gone = {index for piece in pieces[:n] for index in piece}
        return [message for index, message in enumerate(messages) if index not in gone]

    n_kept = 1
    while n_kept < len(pieces) and fits(without(len(pieces) - n_kept)):
        n_kept *= 2
    least, enough = max(0, len(pieces) - n_kept) + 1, len(pieces) - n_kept // 2
    return without(least + bisect.bisect_left(range(least, enough), True, key=lambda n: fits(without(n))))


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
