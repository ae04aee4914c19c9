"""Which replica a conversation belongs to."""

from __future__ import annotations

from collections import Counter

import pytest
from edgellm_ray.affinity import Placement, Wish, order, session_of

BOXES = {"a": 10.0, "b": 10.0, "c": 10.0}


def test_a_conversation_keeps_its_session_at_each_turn_in_every_dialect() -> None:
    first = {"role": "user", "content": "Hello"}
    turns = [first, {"role": "assistant", "content": "Hi"}, {"role": "user", "content": "More"}]
    system = {"role": "system", "content": "Be kind."}

    for head in ([], [system]):
        chat = [session_of({"messages": [*head, *turns[:n]]}) for n in (1, 3)]
        assert chat[0] == chat[1] != ""
    system_apart = {"system": "Be kind.", "messages": turns}
    assert session_of(system_apart) == session_of(system_apart | {"messages": turns[:1]})
    assert session_of({"input": "Hello"}) == session_of({"prompt": "Hello"})
    other = [{"role": "user", "content": "Goodbye"}]
    assert session_of({"messages": other}) != session_of({"messages": turns})


@pytest.mark.parametrize("fields", [{}, {"messages": 5}, {"messages": [5]}, {"messages": ["x" * 5000] * 9}])
def test_what_is_no_conversation_has_no_session_or_one_of_its_own(fields: dict) -> None:
    assert isinstance(session_of(fields), str)


def test_of_64_conversations_at_most_a_lost_replicas_move_and_loads_are_even() -> None:
    placement = Placement()
    keys = [f"conversation {n}" for n in range(64)]
    before = {key: placement.ranked(key, BOXES)[0] for key in keys}
    loads = Counter(before.values())

    after = {key: placement.ranked(key, {"a": 10.0, "b": 10.0})[0] for key in keys}
    moved = [key for key in keys if before[key] != after[key]]

    assert max(loads.values()) <= 1.4 * 64 / 3
    assert all(before[key] == "c" for key in moved)
    assert len(moved) <= 0.4 * 64
    assert max(Counter(after.values()).values()) <= 1.4 * 64 / 2


def test_a_conversation_stays_where_speeds_change() -> None:
    placement = Placement()
    before = {str(n): placement.ranked(str(n), BOXES)[0] for n in range(50)}

    assert {key: placement.ranked(key, {"a": 90.0, "b": 1.0, "c": 5.0})[0] for key in before} == before


def test_faster_boxes_get_more_in_proportion() -> None:
    placement = Placement()
    counts = Counter(placement.ranked(str(n), {"a": 10.0, "b": 20.0, "c": 40.0})[0] for n in range(7000))

    assert [round(counts[name], -3) for name in "abc"] == [1000, 2000, 4000]
    assert sorted(order("x", BOXES)) == ["a", "b", "c"]


def test_an_unknown_speed_counts_as_the_others() -> None:
    placement = Placement()
    counts = Counter(placement.ranked(str(n), {"a": 10.0, "b": 0.0})[0] for n in range(2000))

    assert round(counts["b"], -3) == 1000


def test_the_oldest_conversations_are_forgotten() -> None:
    placement = Placement(most=10)
    for n in range(1000):
        placement.ranked(str(n), BOXES)

    assert len(placement._places) == sum(placement._counts.values()) == 10


def test_a_wish_is_read_as_it_was_written() -> None:
    for wish in (Wish("abc"), Wish("abc", "fp_1")):
        assert Wish.of(wish.encoded()) == wish
