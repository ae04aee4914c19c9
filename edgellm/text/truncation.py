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
    """The conversation without as many of its oldest pieces as must go, in at most 14 calls of `fits`.

    A piece is what follows from one message of the user, or, of the last one, an answer with calls and their results.
    What the user said last, the last answer and all system messages stay, even where that is too much.
    """
    if fits(messages):
        return list(messages)
    pieces = list(_pieces(messages))

    def without(n: int) -> list[Message]:
        gone = {index for piece in pieces[:n] for index in piece}
        return [message for index, message in enumerate(messages) if index not in gone]

    fewest = bisect.bisect_left(range(1, len(pieces)), True, key=lambda n: fits(without(n))) + 1
    return without(fewest)


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
