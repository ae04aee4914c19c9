"""Which messages are dropped: as few as must go, the oldest first, and never half of an exchange with a tool."""

from __future__ import annotations

import bisect
import itertools
import math
import random
from collections.abc import Callable, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgellm.text import truncation
from edgellm.text.truncation import room, truncated
from edgellm.types.message import Message, ToolCall

CALL = (ToolCall("f", "{}", "1"),)


def talk(letters: str) -> list[Message]:
    """s = system, u = user, a = assistant, c = assistant that calls, r = result; numbered in order."""
    roles = {"s": "system", "u": "user", "a": "assistant", "c": "assistant", "r": "tool"}
    return [
        Message(roles[letter], str(number), calls=CALL if letter == "c" else ())
        for number, letter in enumerate(letters)
    ]


def kept(letters: str, most: int) -> str:
    """Numbers of the messages that stay, where so many fit."""
    return "".join(message.content for message in shortened(letters, most))


def shortened(letters: str, most: int) -> list[Message]:
    messages = talk(letters)
    return messages if len(messages) <= most else truncated(messages, len, most, len(messages))


@pytest.mark.parametrize(
    ("letters", "most", "stays"),
    [
        ("suaua", 5, "01234"),
        ("suauau", 5, "0345"),
        ("suauau", 3, "05"),
        ("suauau", 1, "05"),  # the last turn and the system message stay, whatever there is room for
        ("sucrauau", 6, "0567"),  # with the call goes its result
        ("auau", 3, "123"),  # what an assistant said first is a piece
        ("uasua", 3, "234"),  # a system message stays where it is
        ("sucrcrcr", 6, "014567"),  # in the last turn the oldest calls go
        ("sucrcrcr", 2, "0167"),
        ("suuua", 4, "0234"),
        ("aaa", 1, "2"),
        ("s", 0, "0"),
    ],
)  # fmt: skip
def test_the_oldest_pieces_go(letters: str, most: int, stays: str) -> None:
    assert kept(letters, most) == stays


@given(data=st.data())
def test_as_few_as_must_go(data: st.DataObject) -> None:
    """As the search did that was only told what fits; whatever the sizes, and whether that of the whole is known."""
    turns = data.draw(st.lists(st.sampled_from(("ua", "ucra", "ucrcra", "u")), max_size=80))
    messages = talk("s" * data.draw(st.integers(0, 2)) + "".join(turns) + "u")
    size = st.one_of(st.just(0), st.just(7), st.integers(1, 20), st.integers(1000, 100_000))
    sizes = [*data.draw(st.lists(size, min_size=len(messages) - 1, max_size=len(messages) - 1)), 5]
    whole = sum(sizes)
    most = data.draw(st.integers(0, whole - 1))
    counted_to = data.draw(st.one_of(st.just(math.inf), st.integers(most, whole)))
    n_tries = 0

    def count(some: Sequence[Message]) -> float:
        nonlocal n_tries
        n_tries += 1
        n = sum(sizes[int(message.content)] for message in some)
        return n if n <= counted_to else math.inf

    stays = truncated(messages, count, most, count(messages))
    assert stays == by_halves(messages, lambda some: sum(sizes[int(message.content)] for message in some) <= most)
    assert n_tries <= 1 + 12 + math.ceil(math.log2(len(messages) + 1)) + 1
    assert all(message.calls for message in before_results(stays))


@pytest.mark.parametrize("most", [100, 8000, 60_000])
def test_where_messages_are_much_alike_few_parts_of_little_more_are_counted(most: int) -> None:
    rng = random.Random(5)
    messages = talk("ua" * 2000 + "u")
    sizes = [rng.randint(20, 60) for _ in messages]
    counts: list[int] = []

    def count(some: Sequence[Message]) -> float:
        counts.append(sum(sizes[int(message.content)] for message in some))
        return counts[-1]

    truncated(messages, count, most, sum(sizes))
    assert len(counts) <= 6
    assert max(counts) <= 1.2 * most + 300


def by_halves(messages: Sequence[Message], fits: Callable[[Sequence[Message]], bool]) -> list[Message]:
    """The search of old: twice as many pieces each time, the latest first, and then halves."""
    pieces = list(truncation._pieces(messages))

    def without(n: int) -> list[Message]:
        gone = {index for piece in pieces[:n] for index in piece}
        return [message for index, message in enumerate(messages) if index not in gone]

    n_kept = 1
    while n_kept < len(pieces) and fits(without(len(pieces) - n_kept)):
        n_kept *= 2
    least, enough = max(0, len(pieces) - n_kept) + 1, len(pieces) - n_kept // 2
    return without(least + bisect.bisect_left(range(least, enough), True, key=lambda n: fits(without(n))))


def before_results(messages: Sequence[Message]) -> list[Message]:
    return [before for before, message in itertools.pairwise(messages) if message.role == "tool"]


@pytest.mark.parametrize(
    ("max_tokens", "n_ctx", "free"), [(None, 8192, 256), (None, 512, 64), (100, 512, 100), (32_000, 512, 256)]
)
def test_room_for_the_answer(max_tokens: int | None, n_ctx: int, free: int) -> None:
    assert room(max_tokens, n_ctx) == free
