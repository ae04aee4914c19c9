"""Whose request the model gets next. Its own queue is first come, first served, so it is kept short: here, clients
take turns, and one that sends twenty requests delays another by few of them.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from edgellm.errors import TooManyRequests

# Each that waits keeps its request in memory, and the last of so many would be answered long after its client gave up.
MAX_WAITING = 1024


@dataclass(eq=False)
class _Asked:
    """A request that asks for a place, or has one."""

    client: str
    n_answers: int
    single: bool
    place: asyncio.Future[None] | None = None  # None: it never waited
    has_begun: bool = False


@dataclass(frozen=True)
class OwnTurn:
    """The place of one request."""

    _turns: Turns
    _asked: _Asked

    def is_read(self) -> None:
        """The next `single` may have a place."""
        self._turns._let_next_single(self._asked)

    def begins(self) -> None:
        """It is answered now, and gives its place back. Until its turn ends its answers are its client's."""
        self._turns._begin(self._asked)


class Turns:
    """For one event loop."""

    def __init__(self, places: int, *, keeps_room: bool = False) -> None:
        """`places`: requests that the model may have and has not begun to answer.

        `keeps_room`: a client takes another place only while more are free than it has answers, begun or not: of 16 the
        first takes eight at most, the next four. So those that have answers already, and wait for their further ones,
        never hold all places.
        """
        self._free = places
        self._keeps_room = keeps_room
        self._held = Counter[str]()  # answers that have a place or have begun, by client
        self._has_single = False
        # By client; the one whose turn is next comes first.
        self._waiting: dict[str, list[_Asked]] = {}

    @property
    def n_waiting(self) -> int:
        """Requests without a place."""
        return sum(map(len, self._waiting.values()))

    @asynccontextmanager
    async def turn(self, client: str, n_answers: int = 1, *, single: bool = False) -> AsyncIterator[OwnTurn]:
        """Wait until a place is free, and hold it until the request begins to be answered, or the block ends. It is one
        place, however many answers it asks for: they share a prompt, and the model's slots are shared by client.

        `single`: of such requests one at a time has a place, until it is read. Those that wait for that hold none, and
        others pass them by.

        Raises:
            TooManyRequests: MAX_WAITING requests wait already, and this client has most of them, or another came that
                has fewer.
        """
        asked = _Asked(client, n_answers, single)
        if self._may(asked):
            self._take(asked)
        else:
            await self._wait(asked)
        try:
            yield OwnTurn(self, asked)
        finally:
            self._give_back(asked)

    def _may(self, asked: _Asked) -> bool:
        held = self._held[asked.client] if self._keeps_room else 0
        return self._free > held and not (asked.single and self._has_single)

    def _take(self, asked: _Asked) -> None:
        self._free -= 1
        self._held[asked.client] += asked.n_answers
        self._has_single |= asked.single

    def _begin(self, asked: _Asked) -> None:
        self._free_place(asked)
        self._pass_on()

    def _free_place(self, asked: _Asked) -> None:
        if not asked.has_begun:
            asked.has_begun = True
            self._free += 1

    def _give_back(self, asked: _Asked) -> None:
        self._free_place(asked)
        self._held[asked.client] -= asked.n_answers
        if not self._held[asked.client]:
            del self._held[asked.client]
        self._let_next_single(asked)
        self._pass_on()

    def _let_next_single(self, asked: _Asked) -> None:
        if asked.single:
            asked.single = self._has_single = False
            self._pass_on()

    async def _wait(self, asked: _Asked) -> None:
        if self.n_waiting >= MAX_WAITING:
            self._make_room(asked.client)
        place = asked.place = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(asked.client, []).append(asked)
        try:
            await place
        except asyncio.CancelledError:
            if asked in self._waiting.get(asked.client, ()):
                self._remove(asked)
            elif not place.cancelled() and place.exception() is None:  # they were given just before
                self._give_back(asked)
            raise

    def _make_room(self, client: str) -> None:
        """The latest request of the client that has most of them gives way, unless that is the one that asks."""
        overloaded = TooManyRequests(f"{MAX_WAITING} requests are waiting already", hint="try again later")
        largest = max(self._waiting, key=lambda other: len(self._waiting[other]))
        if len(self._waiting[largest]) <= len(self._waiting.get(client, ())) + 1:
            raise overloaded
        latest = self._waiting[largest][-1]
        self._remove(latest)
        if latest.place is not None and not latest.place.done():
            latest.place.set_exception(overloaded)

    def _remove(self, asked: _Asked) -> None:
        self._waiting[asked.client].remove(asked)
        if not self._waiting[asked.client]:
            del self._waiting[asked.client]

    def _pass_on(self) -> None:
        """Give places that are free to the clients whose turn it is."""
        while (asked := self._next()) is not None:
            own = self._waiting.pop(asked.client)
            own.remove(asked)
            if own:
                self._waiting[asked.client] = own
            if asked.place is not None and not asked.place.done():
                self._take(asked)
                asked.place.set_result(None)

    def _next(self) -> _Asked | None:
        """Of the first client that may have one, the first request that may."""
        waiting = (asked for own in self._waiting.values() for asked in own)
        return next(filter(self._may, waiting), None) if self._free > 0 else None
