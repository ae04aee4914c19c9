"""Many answers to one request: portions, their order, and what happens when one of them fails."""

from __future__ import annotations

import asyncio
from contextlib import aclosing

import pytest
from support.refusals import refuses
from support.waiting import PATIENCE_S

from edgellm.errors import Overloaded, StepFailed
from edgellm.server.answers import Answers, EventLists, portions
from edgellm.server.intake import Intake
from edgellm.server.unsent import Unsent, bytes_of, room_for_unsent
from edgellm.types.event import Delta, Done, Event, Timings, Usage
from edgellm.types.request import GenerationRequest
from edgellm.types.sampling import Sampling


def asked(prompt: str, n: int = 1, seed: int | None = None) -> GenerationRequest:
    return GenerationRequest(prompt, Sampling(seed=seed), n=n)


def test_portions_have_their_first_number_and_the_seed_that_it_would_have() -> None:
    parts = list(portions([asked("a", 5, seed=2**63 - 2), asked("b", 5)], 2))

    assert [(part.generation.prompt, part.generation.n, part.first) for part in parts] == [
        ("a", 2, 0), ("a", 2, 2), ("a", 1, 4), ("b", 2, 5), ("b", 2, 7), ("b", 1, 9),
    ]  # fmt: skip
    assert [part.generation.sampling.seed for part in parts] == [2**63 - 2, 0, 2, None, None, None]


class Model:
    """Answers each choice with its prompt, once it is let."""

    def __init__(self) -> None:
        self.begun: list[str] = []
        self.ended: list[str] = []
        self.may: dict[str, asyncio.Event] = {}
        self.fails = ""

    def let(self, prompt: str) -> None:
        self.may.setdefault(prompt, asyncio.Event()).set()

    async def run(self, generation: GenerationRequest) -> EventLists:
        prompt = str(generation.prompt)
        self.begun.append(prompt)
        try:
            await self.may.setdefault(prompt, asyncio.Event()).wait()
            if prompt == self.fails:
                raise StepFailed("no")
            for choice in range(generation.n):
                yield [Delta(prompt, choice=choice)]
                yield [Done("stop", Usage(1, 1), Timings(0, 0, 0), choice, generation.n - choice - 1)]
        finally:
            self.ended.append(prompt)


def together(
    generations: list[GenerationRequest], model: Model, room: Intake | None = None, *, whole: bool = False
) -> EventLists:
    return Answers("a", room or room_for_unsent(), are_whole=whole).together(generations, 2, model.run)


async def collected(model: Model, *generations: GenerationRequest) -> list[Event]:
    return [event async for events in together([*generations], model) for event in events]


async def settle() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


async def test_what_fails_before_it_asks_is_heard(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(_: GenerationRequest) -> EventLists:
        raise MemoryError

    model = Model()
    monkeypatch.setattr(model, "run", fails)

    with pytest.raises(MemoryError):
        await asyncio.wait_for(collected(model, asked("a")), PATIENCE_S)


async def test_answers_are_numbered_through_and_the_last_end_is_the_end() -> None:
    model = Model()
    for prompt in "abc":
        model.let(prompt)
    events = await collected(model, asked("a", 3), asked("b", 3), asked("c", 3))
    ends = [event for event in events if isinstance(event, Done)]

    assert [event.n_open for event in ends] == list(range(8, -1, -1))
    assert sorted(event.choice for event in ends) == list(range(9))
    assert {event.choice: event.text for event in events if isinstance(event, Delta)} == dict(enumerate("aaabbbccc"))


async def test_one_waits_for_its_turn_at_a_time() -> None:
    """Whoever sends a thousand prompts has one request before the model that is not begun."""
    model = Model()
    answering = asyncio.create_task(collected(model, asked("a"), asked("b"), asked("c")))
    await settle()
    assert model.begun == ["a"]
    model.let("a")
    await settle()
    assert model.begun == ["a", "b"]
    model.let("b")
    model.let("c")
    await answering


async def test_where_one_fails_all_end() -> None:
    model = Model()
    model.fails = "b"
    model.let("b")
    model.let("a")
    with pytest.raises(StepFailed):
        await collected(model, asked("a"), asked("b"), asked("c"))

    assert sorted(model.ended) == sorted(model.begun)


async def test_whoever_goes_away_leaves_nothing_running() -> None:
    model = Model()
    model.let("a")
    async with aclosing(together([asked("a"), asked("b")], model)) as event_lists:
        await anext(event_lists)
        await settle()

    assert model.begun == ["a", "b"]
    assert sorted(model.ended) == ["a", "b"]


ONE = bytes_of(Delta("a"))  # of each of a model's deltas, and of its ends nearly


async def test_what_is_taken_counts_no_more() -> None:
    model, room = Model(), Intake(max_bodies=10 * ONE)
    model.let("a")
    events = [event async for events in together([asked("a", 100)], model, room) for event in events]

    assert len(events) == 200
    assert room.held == 0


async def test_a_stream_of_which_too_much_is_not_taken_ends() -> None:
    model, room = Model(), Intake(max_bodies=10 * ONE)
    model.let("a")
    async with aclosing(together([asked("a", 100)], model, room)) as event_lists:
        await anext(event_lists)
        for _ in range(100):
            await settle()
        assert room.held == 0
        assert model.ended
        with refuses(Overloaded):
            await anext(event_lists)


async def test_whole_answers_count_until_they_have_ended() -> None:
    model, room = Model(), Intake(max_bodies=10 * ONE)
    model.let("a")
    with refuses(Overloaded):
        async with aclosing(together([asked("a", 100)], model, room, whole=True)) as event_lists:
            async for _ in event_lists:
                pass
    assert room.held == 0


def test_the_largest_of_the_client_that_holds_most_gives_way() -> None:
    room, refused = Intake(max_bodies=10 * ONE), list[str]()
    small, large, other = (
        Unsent(name[0], room, lambda _, name=name: refused.append(name))  # type: ignore[misc]
        for name in ("a small", "a large", "b")
    )
    small.add([Delta("a")] * 2)
    large.add([Delta("a")] * 4)
    other.add([Delta("a")] * 4)
    assert refused == []

    other.add([Delta("a")])
    assert (refused, large.held, room.held) == (["a large"], 0, 7 * ONE)
    other.add([Delta("a")] * 9)
    assert refused == ["a large", "b"]
    small.add([Delta("a")])
    small.end()
    assert room.held == 0
