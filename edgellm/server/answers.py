"""All answers to one request over HTTP: to each of its prompts, and `n` to each.

A body may ask for a thousand answers. The model gets them in portions of as many as it has places, and each portion
waits for its client's turn, so that another client waits for few of them.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Iterable, Iterator, Sequence
from typing import NamedTuple

import msgspec

from edgellm.errors import Closed
from edgellm.types.event import Done, Event
from edgellm.types.request import GenerationRequest

EventLists = AsyncGenerator[list[Event], None]
Ask = Callable[[GenerationRequest], EventLists]  # takes its client's turn


class Portion(NamedTuple):
    """A part of the answers, for one request to the model. `first`: the number of the first of them, of all."""

    generation: GenerationRequest
    first: int


def portions(generations: Sequence[GenerationRequest], most: int) -> Iterator[Portion]:
    """The answers in portions of `most`. With a seed each has the text that it would have in one request."""
    first = 0
    for generation in generations:
        for begun in range(0, generation.n, most):
            n, sampling = min(most, generation.n - begun), generation.sampling
            if begun and sampling.seed is not None:
                sampling = msgspec.structs.replace(sampling, seed=(sampling.seed + begun) % 2**63)
            yield Portion(msgspec.structs.replace(generation, n=n, sampling=sampling), first + begun)
        first += generation.n


async def together(generations: Sequence[GenerationRequest], most: int, ask: Ask) -> EventLists:
    """The events of all answers, as if they were the choices of one request.

    A portion is asked for once the one before it has begun to be answered.
    """
    n_open = sum(generation.n for generation in generations)
    heard: asyncio.Queue[list[Event] | Exception] = asyncio.Queue()
    asking = asyncio.create_task(_ask(portions(generations, most), ask, heard))
    try:
        while n_open:
            events = await heard.get()
            if isinstance(events, Exception):
                raise events
            for index, event in enumerate(events):
                if isinstance(event, Done):
                    n_open -= 1
                    events[index] = msgspec.structs.replace(event, n_open=n_open)
            yield events
    finally:
        asking.cancel()
        await asyncio.wait((asking,))


def require_complete(done: Done) -> None:
    """A client must not take the beginning of an answer for all of it.

    Raises:
        Closed: the model was closed before the answer was complete.
    """
    if done.finish_reason == "cancelled":
        raise Closed("the model was closed while it answered", hint="send the request again when it is back")


async def _ask(parts: Iterable[Portion], ask: Ask, heard: asyncio.Queue[list[Event] | Exception]) -> None:
    running: list[asyncio.Task[None]] = []
    try:
        for part in parts:
            begun = asyncio.Event()
            running.append(asyncio.create_task(_hear(part, ask(part.generation), heard, begun.set)))
            await begun.wait()
        await asyncio.gather(*running)
    finally:
        for task in running:
            task.cancel()
        if running:
            await asyncio.wait(running)


async def _hear(
    part: Portion,
    event_lists: EventLists,
    heard: asyncio.Queue[list[Event] | Exception],
    begun: Callable[[], None],
) -> None:
    try:
        async for events in event_lists:
            heard.put_nowait([msgspec.structs.replace(event, choice=part.first + event.choice) for event in events])
            begun()
    except Exception as error:
        heard.put_nowait(error)
    finally:
        begun()
        await event_lists.aclose()
