"""Which messages are dropped: as few as must go, the oldest first, and never half of an exchange with a tool."""

from __future__ import annotations

import itertools
import random
from collections.abc import Sequence

import pytest

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
    return messages if len(messages) <= most else truncated(messages, lambda some: len(some) <= most)


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


def test_as_few_as_must_go_are_found_in_few_trials_of_little_more() -> None:
    """Against dropping one piece more each time."""
    rng = random.Random(5)
    for _ in range(30):
        letters = "s" * rng.randint(0, 2) + "".join(rng.choice(("ua", "ucra", "ucrcra", "u")) for _ in range(40)) + "u"
        most = rng.randint(0, len(letters) - 1)
        calls: list[int] = []

        def fits(some: Sequence[Message], most: int = most, calls: list[int] = calls) -> bool:
            calls.append(len(some))
            return len(some) <= most

        stays = truncated(talk(letters), fits)
        assert len(calls) <= 13
        assert all(n <= 2 * most + 24 for n in calls)  # three pieces, system messages and the last one
        everything = [shortened(letters, n) for n in range(len(letters) + 1)]
        longest = max((one for one in everything if len(one) <= most), key=len, default=min(everything, key=len))
        assert stays == longest
        assert all(message.calls for message in before_results(stays))


def before_results(messages: Sequence[Message]) -> list[Message]:
    return [before for before, message in itertools.pairwise(messages) if message.role == "tool"]


@pytest.mark.parametrize(
    ("max_tokens", "n_ctx", "free"), [(None, 8192, 256), (None, 512, 64), (100, 512, 100), (32_000, 512, 256)]
)
def test_room_for_the_answer(max_tokens: int | None, n_ctx: int, free: int) -> None:
    assert room(max_tokens, n_ctx) == free
