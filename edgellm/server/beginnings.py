"""When a request begins to be worked on: one in each round of the event loop, and clients take turns.

What is under way goes a step further in each round, so a client that has a thousand requests begun would make each step
of every other client's wait for a thousand of its own.
"""

from __future__ import annotations

import asyncio
from collections import deque


class Beginnings:
    """For one event loop."""

    def __init__(self) -> None:
        self._waiting: dict[str, deque[asyncio.Future[None]]] = {}  # by client; the one whose turn is next comes first
        self._has_begun = False  # one in this round

    async def turn(self, client: str) -> None:
        """Returns when a request of `client` may begin."""
        loop = asyncio.get_running_loop()
        if not self._has_begun:
            self._has_begun = True
            loop.call_soon(self._next_round)
            return
        turn = loop.create_future()
        self._waiting.setdefault(client, deque()).append(turn)
        await turn

    def _next_round(self) -> None:
        while self._waiting:
            client = next(iter(self._waiting))
            own = self._waiting.pop(client)
            turn = own.popleft()
            if own:
                self._waiting[client] = own  # others come before its next one
            if not turn.done():  # a request may have been ended while it waited
                asyncio.get_running_loop().call_soon(self._next_round)
                turn.set_result(None)
                return
        self._has_begun = False
