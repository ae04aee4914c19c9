"""Whose work is done next, where clients wait for one thread that does a piece of work at a time."""

from __future__ import annotations

from collections.abc import Iterable


class ClientTurns:
    """The next turn is of the client that had one longest ago. One that comes anew is before the client that is served
    now, and behind all others that wait.
    """

    def __init__(self) -> None:
        self._number = 0  # of the last turn
        self._last: dict[str, int] = {}  # the last turn of each client

    def arrive(self, client: str) -> None:
        """Something of it waits from now on."""
        self._last.setdefault(client, self._number - 1)

    def begin(self, client: str, waiting: Iterable[str]) -> None:
        """It has its turn. `waiting`: the clients that wait for theirs; of others nothing is kept."""
        self._number += 1
        self._last = {other: self._last[other] for other in waiting}
        self._last[client] = self._number

    def place(self, client: str) -> int:
        """The lowest comes next. Of a client that arrived."""
        return self._last[client]
