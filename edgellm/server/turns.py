"""Whose request the model gets next. Its own queue is first come, first served, so it is kept short: here, clients
take turns, and one that sends twenty requests delays another by few of them.
"""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from edgellm.errors import TooManyRequests

# Each that waits keeps its request in memory, and the last of so many would be answered long after its client gave up.
MAX_WAITING = 1024


class Turns:
    """For one event loop."""

    def __init__(self, places: int, *, keeps_room: bool = False) -> None:
        """`places`: requests that the model may have and has not begun to answer.

        `keeps_room`: a client takes another place only while more are free than it has: of 16 the first takes eight at
        most, the next four. Places that are held for minutes are so never all one client's.
        """
        self._free = places  # below 0 where one was free and a request took more
        self._keeps_room = keeps_room
        self._held = Counter[str]()  # places, by client
        # By client, each with its number of places; the one whose turn is next comes first.
        self._waiting: dict[str, deque[tuple[asyncio.Future[None], int]]] = {}

    @property
    def n_waiting(self) -> int:
        """Requests without a place."""
        return sum(map(len, self._waiting.values()))

    @asynccontextmanager
    async def turn(self, client: str, n_places: int = 1) -> AsyncIterator[None]:
        """Wait until a place is free, and hold `n_places` until the block ends.

        Raises:
            TooManyRequests: MAX_WAITING requests wait already, and this client has most of them, or another came that
                has fewer.
        """
        if self._may(client):
            self._take(client, n_places)
        else:
            await self._wait(client, n_places)
        try:
            yield
        finally:
            self._give_back(client, n_places)

    def _may(self, client: str) -> bool:
        return self._free > (self._held[client] if self._keeps_room else 0)

    def _take(self, client: str, n_places: int) -> None:
        self._free -= n_places
        self._held[client] += n_places

    def _give_back(self, client: str, n_places: int) -> None:
        self._free += n_places
        self._held[client] -= n_places
        if not self._held[client]:
            del self._held[client]
        self._pass_on()

    async def _wait(self, client: str, n_places: int) -> None:
        if self.n_waiting >= MAX_WAITING:
            self._make_room(client)
        place = asyncio.get_running_loop().create_future()
        entry = (place, n_places)
        self._waiting.setdefault(client, deque()).append(entry)
        try:
            await place
        except asyncio.CancelledError:
            if entry in self._waiting.get(client, ()):
                self._remove(client, entry)
            elif not place.cancelled() and place.exception() is None:
                self._give_back(client, n_places)  # they were given just before
            raise

    def _make_room(self, client: str) -> None:
        """The latest request of the client that has most of them gives way, unless that is the one that asks."""
        overloaded = TooManyRequests(f"{MAX_WAITING} requests are waiting already", hint="try again later")
        largest = max(self._waiting, key=lambda other: len(self._waiting[other]))
        if len(self._waiting[largest]) <= len(self._waiting.get(client, ())) + 1:
            raise overloaded
        latest = self._waiting[largest][-1]
        self._remove(largest, latest)
        if not latest[0].done():
            latest[0].set_exception(overloaded)

    def _remove(self, client: str, entry: tuple[asyncio.Future[None], int]) -> None:
        self._waiting[client].remove(entry)
        if not self._waiting[client]:
            del self._waiting[client]

    def _pass_on(self) -> None:
        """Give places that are free to the clients whose turn it is."""
        while (client := next(filter(self._may, self._waiting), None)) is not None:
            own = self._waiting.pop(client)
            place, n_places = own.popleft()
            if own:
                self._waiting[client] = own
            if not place.done():
                self._take(client, n_places)
                place.set_result(None)
