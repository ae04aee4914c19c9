"""All answers to one request over HTTP: to each of its prompts, and `n` to each.

A body may ask for a thousand answers. The model gets them in portions of as many as it has places, and each portion
waits for its client's turn, so that another client waits for few of them.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Iterable, Iterator, Sequence
from typing import NamedTuple

import msgspec

from edgellm.errors import Closed, Overloaded
from edgellm.server.intake import Intake
from edgellm.server.unsent import Unsent
from edgellm.types.event import Done, Event
from edgellm.types.request import GenerationRequest

EventLists = AsyncGenerator[list[Event], None]
Ask = Callable[[GenerationRequest], EventLists]  # takes its client's turn


class Portion(NamedTuple):
    """A part of the answers, for one request to the model. `first`: the number of the first of them, of all."""

    generation: GenerationRequest
    first: int

    def numbered(self, events: list[Event]) -> list[Event]:
        """Its events as those of the whole request."""
        first = self.first
        return [msgspec.structs.replace(one, choice=first + one.choice) for one in events] if first else events


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


class Answers:
    """All answers to one request. What is not sent of them counts (`server.unsent`)."""

    def __init__(self, client: str, room: Intake, *, are_whole: bool) -> None:
        """`are_whole`: nothing is sent before all have ended."""
        self._are_whole = are_whole
        self._heard: asyncio.Queue[tuple[list[Event], int] | Exception] = asyncio.Queue()  # with bytes
        self._unsent = Unsent(client, room, self._refuse)
        self._asking: asyncio.Task[None] | None = None

    async def together(self, generations: Sequence[GenerationRequest], most: int, ask: Ask) -> EventLists:
        """The events of all answers, as if they were the choices of one request.

        A portion is asked for once the one before it has begun to be answered.

        Raises:
            Overloaded: what is not sent is too much.
        """
        n_open = sum(generation.n for generation in generations)
        self._asking = asyncio.create_task(self._ask(portions(generations, most), ask))
        try:
            while n_open:
                heard = await self._heard.get()
                if isinstance(heard, Exception):
                    try:
                        raise heard
                    finally:
                        del heard  # or it would hold this frame, which holds it, and the request
                events, n_bytes = heard
                for index, event in enumerate(events):
                    if isinstance(event, Done):
                        n_open -= 1
                        events[index] = msgspec.structs.replace(event, n_open=n_open)
                yield events
                if not self._are_whole:
                    self._unsent.take_off(n_bytes)
        finally:
            self._unsent.end()
            asking, self._asking = self._asking, None  # its frames hold the request, and this
            asking.cancel()
            await asyncio.wait((asking,))

    def _refuse(self, refusal: Overloaded) -> None:
        if self._asking is not None:
            self._asking.cancel()
        while not self._heard.empty():
            self._heard.get_nowait()
        self._heard.put_nowait(refusal)

    async def _ask(self, parts: Iterable[Portion], ask: Ask) -> None:
        running: list[asyncio.Task[None]] = []
        try:
            for part in parts:
                begun = asyncio.Event()
                running.append(asyncio.create_task(self._hear(part, ask(part.generation), begun.set)))
                await begun.wait()
            await asyncio.gather(*running)
        except Exception as error:  # for want of memory: nobody else would tell whoever waits
            self._heard.put_nowait(error)
        finally:
            for task in running:
                task.cancel()
            if running:
                await asyncio.wait(running)

    async def _hear(self, part: Portion, event_lists: EventLists, begun: Callable[[], None]) -> None:
        try:
            async for events in event_lists:
                n_bytes = self._unsent.add(events)
                if self._unsent.has_ended:
                    return
                self._heard.put_nowait((part.numbered(events), n_bytes))
                begun()
        except Exception as error:
            self._heard.put_nowait(error)
        finally:
            begun()
            await event_lists.aclose()


def require_complete(done: Done) -> None:
    """A client must not take the beginning of an answer for all of it.

    Raises:
        Closed: the model was closed before the answer was complete.
    """
    if done.finish_reason == "cancelled":
        raise Closed("the model was closed while it answered", hint="send the request again when it is back")
