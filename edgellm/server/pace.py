"""When a connection reads on what its client has sent: in turns, and small pieces in a share of the time."""

from __future__ import annotations

import asyncio
import select
import time
from collections import deque
from collections.abc import Iterable
from typing import Protocol

from edgellm.contract.data_limit import lifted

SHARE = 0.1  # of the time of the event loop, for all that comes in small pieces together
REST_S = 0.002  # at least, after each turn of those: meanwhile the system joins what comes, which is read in one go
MOST_SLOW = 32  # of those at a time: each holds up to 256 KiB that it has not looked at
MOST_HELD = 12 * 1024**2  # bytes of bodies that all of those have brought so far: a whole one, and some more


class TurnTaker(Protocol):
    """A connection that has more to read."""

    counts_as: str  # the client, where clients take turns (`clients.one_of`)

    @property
    def held_bytes(self) -> int:
        """Of the body that comes, what is here."""
        ...

    def read_on(self) -> None:
        """A part of it."""
        ...

    def crowded_out(self) -> None:
        """End, as others wait for the same."""
        ...


class Pace:
    """For one event loop."""

    def __init__(self) -> None:
        self._next: deque[TurnTaker] = deque()
        self._slow: dict[str, deque[TurnTaker]] = {}  # by address; the one whose turn is next comes first
        self._goes = False  # whether slow turns follow one another

    def take_turn(self, reader: TurnTaker) -> None:
        """Let it read on later: of all that wait for it, one does in each round of the event loop."""
        with lifted():  # who is not called then never is
            self._next.append(reader)
            if len(self._next) == 1:
                asyncio.get_running_loop().call_soon(self._turn)

    def take_slow_turn(self, reader: TurnTaker) -> None:
        """Let it read on when all such turns together have had no more than their share of the time.

        Addresses take turns, however many connections each has. Where MOST_SLOW wait already, the oldest of the address
        that has most of them ends. Where together they hold more than MOST_HELD, as those do whose clients went away
        long ago, the one ends that holds most, of the address that does.
        """
        self._slow.setdefault(reader.counts_as, deque()).append(reader)
        if sum(map(len, self._slow.values())) > MOST_SLOW:
            largest = max(self._slow, key=lambda address: len(self._slow[address]))
            self._next_of(largest).crowded_out()
        elif sum(map(_held_bytes, self._slow.values())) > MOST_HELD:
            own = max(self._slow.values(), key=_held_bytes)
            own.rotate(-max(range(len(own)), key=lambda at: own[at].held_bytes))
            self._next_of(own[0].counts_as).crowded_out()
        if not self._goes:
            self._goes = True
            self._rest(REST_S)

    def _turn(self) -> None:
        if len(self._next) > 1:
            with lifted():
                asyncio.get_running_loop().call_soon(self._turn)
        self._next.popleft().read_on()

    def _rest(self, seconds: float) -> None:
        with lifted():
            asyncio.get_running_loop().call_later(seconds, self._slow_turn)

    def _slow_turn(self) -> None:
        if not self._slow:
            self._goes = False
            return
        reader = self._next_of(next(iter(self._slow)))
        began = time.perf_counter()
        try:
            reader.read_on()
        finally:  # the others wait for theirs
            self._rest(max(REST_S, (time.perf_counter() - began) * (1 / SHARE - 1)))

    def _next_of(self, address: str) -> TurnTaker:
        """Taken from those that wait; other addresses come before its next one."""
        own = self._slow.pop(address)
        reader = own.popleft()
        if own:
            self._slow[address] = own
        return reader


def _held_bytes(readers: Iterable[TurnTaker]) -> int:
    return sum(reader.held_bytes for reader in readers)


def has_hung_up(descriptor: int) -> bool:
    """Whether a socket's client will send no more than what is here already, which nobody has to read.

    False where the system does not tell (it is Linux that does).
    """
    if not hasattr(select, "POLLRDHUP"):
        return False
    poll = select.poll()
    poll.register(descriptor, select.POLLRDHUP)
    return bool(poll.poll(0))
