"""Whose request the model gets next. Its own queue is first come, first served, so it is kept short: here, clients
take turns, and one that sends twenty requests delays another by few of them.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from edgellm.errors import Overloaded

MAX_WAITING = 1024


class Turns:
    """For one event loop."""

    def __init__(self, places: int) -> None:
        """`places`: requests that the model may have and has not begun to answer."""
        self._free = places
        self._waiting: dict[str, deque[asyncio.Future[None]]] = {}  # by client; the one whose turn is next comes first

    @asynccontextmanager
    async def turn(self, client: str) -> AsyncIterator[None]:
        """Wait for a place; it is held until the block ends.

        Raises:
            Overloaded: MAX_WAITING requests wait already.
        """
        if self._free:
            self._free -= 1
        else:
            await self._wait(client)
        try:
            yield
        finally:
            self._pass_on()

    async def _wait(self, client: str) -> None:
        n_waiting = sum(map(len, self._waiting.values()))
        if n_waiting >= MAX_WAITING:
            raise Overloaded(f"{n_waiting} requests are waiting already", hint="try again later")
        place = asyncio.get_running_loop().create_future()
        own = self._waiting.setdefault(client, deque())
        own.append(place)
        try:
            await place
        except asyncio.CancelledError:
            if not place.cancelled():
                self._pass_on()  # it was given just before
            elif place in own:
                own.remove(place)
                if not own:
                    del self._waiting[client]
            raise

    def _pass_on(self) -> None:
        """Give a place that became free to the client whose turn it is."""
        while self._waiting:
            client = next(iter(self._waiting))
            own = self._waiting.pop(client)
            place = own.popleft()
            if own:
                self._waiting[client] = own
            if not place.done():
                place.set_result(None)
                return
        self._free += 1
