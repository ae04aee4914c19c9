"""Many answers to one request: portions, their order, and what happens when one of them fails."""

from __future__ import annotations

import asyncio
from contextlib import aclosing

import pytest

from edgellm.errors import StepFailed
from edgellm.server.answers import EventLists, portions, together
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


async def collected(model: Model, *generations: GenerationRequest) -> list[Event]:
    return [event async for events in together(generations, 2, model.run) for event in events]


async def settle() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


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
    async with aclosing(together([asked("a"), asked("b")], 2, model.run)) as event_lists:
        await anext(event_lists)
        await settle()

    assert model.begun == ["a", "b"]
    assert sorted(model.ended) == ["a", "b"]
